//! How known registries differ from the specification and from each other: recorded, so that the client can be held
//! against each of them where none of them can be reached.
//!
//! What is written here is publicly known of them: their documentation, and issues of programs that push there.

use std::net::SocketAddr;

use super::{Answer, Request, State};

/// Whose ways the registry has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Personality {
    /// Nobody's.
    #[default]
    Plain,
    DockerHub,
    Ghcr,
    Ecr,
    Gar,
    Acr,
    Quay,
    Harbor,
    Zot,
    Artifactory,
    GitLab,
}

use Personality::{Acr, Artifactory, DockerHub, Ecr, Gar, Ghcr, GitLab, Harbor, Quay, Zot};

/// Answers as the personality does: instead of the plain registry, or after it.
pub(super) fn answer(state: &mut State, request: &Request, address: SocketAddr) -> Answer {
    let mut request = request.clone();
    match instead(state, &mut request) {
        Some(answer) => answer,
        None => {
            let answer = super::honest::plain(state, &request, address);
            afterwards(state, &request, answer, address)
        }
    }
}

fn instead(state: &State, request: &mut Request) -> Option<Answer> {
    let is_form = request.method == "POST" && request.path() == "/token";
    let is_mount = request.method == "POST" && request.query("mount").is_some();
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let is_password = is_form && text.contains("grant_type=password");
    match state.personality {
        // Token servers that do not know forms say so in many ways.
        Ghcr if is_form => Some(Answer::error(405, "UNSUPPORTED")),
        Gar if is_form => Some(Answer::error(404, "NOT_FOUND")),
        Harbor if is_form => Some(Answer::error(403, "FORBIDDEN")),
        Artifactory | Quay | GitLab if is_form => Some(Answer::error(401, "UNAUTHORIZED")),
        // This one knows its own tokens, and no passwords.
        Acr if is_password => Some(Answer::error(400, "UNSUPPORTED")),
        // Not everybody mounts, and one forgets that it is a question.
        Ghcr | Ecr if is_mount => {
            request.target = request.path().to_owned();
            None
        }
        Artifactory if is_mount => Some(Answer::error(405, "UNSUPPORTED")),
        Ecr if is_begun(request)
            && !state
                .repositories
                .iter()
                .any(|own| request.target.contains(own.as_str())) =>
        {
            Some(Answer::error(404, "NAME_UNKNOWN"))
        }
        // Whoever asks is sent to a site for people, which knows nothing and soon has enough.
        Ghcr if request.path().contains("/referrers/") => {
            Some(Answer::new(303).with("Location", format!("{}/packages", state.storage)))
        }
        Zot if request.method == "PUT" && is_of_docker(request) => Some(Answer::error(415, "MANIFEST_INVALID")),
        // A tag that looks like a digest is taken for it.
        GitLab if request.method == "GET" && request.path().contains("/manifests/sha256-") => {
            request.target = request.target.replace("/manifests/sha256-", "/manifests/sha256:");
            None
        }
        Gar => {
            request.target = request.target.replace("/artifacts-uploads/v2/", "/v2/");
            None
        }
        _ => None,
    }
}

fn afterwards(state: &State, request: &Request, answer: Answer, address: SocketAddr) -> Answer {
    let is_token = request.path() == "/token" && answer.status == 200;
    let is_blob = request.path().contains("/blobs/sha256:") && request.method == "GET" && answer.status == 200;
    match state.personality {
        Ghcr | Quay if is_token => token_with(&answer, "token"),
        Acr if is_token => token_with(&answer, "access_token"),
        // Blobs lie elsewhere, where nobody wants to see a token, and a signature in the query is the key.
        DockerHub | Ghcr | Ecr | Acr | Quay | Gar if is_blob => {
            let digest = request.path().rsplit('/').next().unwrap();
            let place = format!("{}/v2/store/blobs/{digest}?signature=for-you-alone", state.storage);
            Answer::new(307).with("Location", place)
        }
        Quay if request.method == "PUT" && request.path().contains("/manifests/") && answer.status == 201 => {
            Answer { status: 202, ..answer }
        }
        // An absolute place, and a range of nothing that is none.
        Quay if is_begun(request) && answer.status == 202 => {
            let place = format!("http://{address}{}", answer.headers["Location"]);
            answer.with("Location", place).with("Range", "bytes=0--1")
        }
        Gar if answer.headers.contains_key("Location") => {
            let place = answer.headers["Location"].replace("/v2/", "/artifacts-uploads/v2/");
            answer.with("Location", place)
        }
        DockerHub => answer
            .with("ratelimit-limit", "100;w=21600")
            .with("ratelimit-remaining", "99;w=21600")
            .with("docker-ratelimit-source", "192.0.2.1"),
        _ => answer,
    }
}

fn is_begun(request: &Request) -> bool {
    request.method == "POST" && request.path().ends_with("/blobs/uploads/")
}

fn is_of_docker(request: &Request) -> bool {
    request
        .header("content-type")
        .is_some_and(|kind| kind.contains("vnd.docker"))
}

/// The token alone, under one name, and no word of how long it lasts.
fn token_with(answer: &Answer, name: &str) -> Answer {
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let token = document.get("token").unwrap_or(&document["access_token"]);
    Answer {
        body: serde_json::json!({ name: token }).to_string().into_bytes(),
        ..Answer::new(200)
    }
}
