//! What an honest registry answers: the distribution specification, and the token server beside it.

use std::collections::HashMap;
use std::net::SocketAddr;

use builder::oci::Digest;

use super::{Answer, Guard, Request, State, lists, uploads};

/// What a registry without ways of its own answers.
pub(super) fn plain(state: &mut State, request: &Request, address: SocketAddr) -> Answer {
    if request.path() == "/token" {
        return token(state, request);
    }
    if !is_admitted(state, request) {
        let challenge = match state.guard {
            Guard::Basic(_) => "Basic realm=\"here\"".to_owned(),
            _ => format!("Bearer realm=\"http://{address}/token\",service=\"here\""),
        };
        return Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge);
    }
    let Some(rest) = request.path().strip_prefix("/v2/") else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    if rest.is_empty() {
        return Answer::new(200);
    }
    if let Some((repository, name)) = rest.split_once("/manifests/") {
        return manifest(state, request, repository, name);
    }
    if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
        return uploads::answer(state, request, repository, upload);
    }
    if let Some((repository, digest)) = rest.split_once("/referrers/") {
        return lists::referrers(state, request, repository, digest);
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return lists::tags(state, request, repository);
    }
    match rest.split_once("/blobs/") {
        Some((repository, digest)) => blob(state, request, repository, digest),
        None => Answer::error(404, "NAME_UNKNOWN"),
    }
}

fn basic(credentials: &str) -> String {
    use base64::Engine as _;
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(credentials)
    )
}

fn is_admitted(state: &State, request: &Request) -> bool {
    let shown = request.header("authorization");
    match state.guard {
        Guard::Open => true,
        Guard::Basic(wanted) => shown == Some(&basic(wanted)),
        Guard::Bearer(_) => shown
            .and_then(|shown| shown.strip_prefix("Bearer "))
            .is_some_and(|token| state.tokens.iter().any(|own| own == token)),
    }
}

fn token(state: &mut State, request: &Request) -> Answer {
    let form: HashMap<String, String> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let said = |name: &str| form.get(name).map(String::as_str);
    if request.method == "POST" && said("grant_type") == Some("password") && !state.oauth {
        return Answer::error(405, "UNSUPPORTED");
    }
    let good = match state.guard {
        Guard::Bearer(Some(wanted)) => match (wanted.strip_prefix("token:"), said("grant_type")) {
            (Some(identity), _) => request.method == "POST" && said("refresh_token") == Some(identity),
            (None, Some("password")) => {
                let (username, password) = wanted.split_once(':').unwrap();
                said("username") == Some(username) && said("password") == Some(password)
            }
            (None, Some("refresh_token")) => said("refresh_token") == Some("come-back"),
            _ => request.header("authorization") == Some(&basic(wanted)),
        },
        _ => true,
    };
    if !good {
        return Answer::error(401, "UNAUTHORIZED");
    }
    state.issued += 1;
    let token = format!("token-{}", state.issued);
    state.tokens.push(token.clone());
    let mut body = serde_json::json!({"access_token": token, "expires_in": 300});
    if state.oauth && said("access_type") == Some("offline") {
        body["refresh_token"] = "come-back".into();
    }
    if !state.oauth {
        body = serde_json::json!({"token": token, "expires_in": 300});
    }
    Answer {
        body: body.to_string().into_bytes(),
        ..Answer::new(200)
    }
}

fn manifest(state: &mut State, request: &Request, repository: &str, name: &str) -> Answer {
    let key = (repository.to_owned(), name.to_owned());
    if request.method == "PUT" {
        let kind = request.header("content-type").unwrap().to_owned();
        let digest = Digest::of(&request.body).to_string();
        for name in [name, &digest] {
            state
                .manifests
                .insert((repository.into(), name.into()), (kind.clone(), request.body.clone()));
        }
        let answer = Answer::new(201).with("Docker-Content-Digest", digest);
        let document: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        return match document["subject"]["digest"].as_str() {
            Some(subject) if state.referrers => answer.with("OCI-Subject", subject),
            _ => answer,
        };
    }
    match state.manifests.get(&key) {
        Some((kind, bytes)) => Answer {
            body: bytes.clone(),
            ..Answer::new(200)
                .with("Content-Type", kind)
                .with("Docker-Content-Digest", Digest::of(bytes))
        },
        None => Answer::error(404, "MANIFEST_UNKNOWN"),
    }
}

fn blob(state: &State, request: &Request, repository: &str, digest: &str) -> Answer {
    let Some(bytes) = state.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
        return Answer::error(404, "BLOB_UNKNOWN");
    };
    let range = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, last)) = range else {
        return Answer {
            body: bytes.clone(),
            ..Answer::new(200)
        };
    };
    let start = start.parse::<usize>().unwrap();
    let end = last
        .parse()
        .map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
    Answer {
        body: bytes[start..end].to_vec(),
        ..Answer::new(206).with("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))
    }
}
