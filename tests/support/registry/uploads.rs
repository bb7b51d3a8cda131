//! Uploads to the registry: sessions that grow, are asked after, ended and given up.

use builder::oci::Digest;

use super::{Answer, Request, State};

/// Answers whatever is asked of `blobs/uploads/`.
pub(super) fn answer(state: &mut State, request: &Request, repository: &str, upload: &str) -> Answer {
    if request.method == "POST" {
        return begin(state, request, repository);
    }
    assert!(
        !upload.is_empty() && request.query("_state").as_deref() == Some("x"),
        "the location was altered"
    );
    let Some(received) = state.uploads.get(upload).map(Vec::len) else {
        return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    match request.method.as_str() {
        "GET" => progress(204, repository, upload, received),
        "DELETE" => {
            state.uploads.remove(upload);
            Answer::new(204)
        }
        // The place of an earlier answer is not the place any more.
        _ if request.query("at") != Some(received.to_string()) => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
        "PATCH" => match is_next(request, received) {
            true => {
                let content = state.uploads.get_mut(upload).unwrap();
                content.extend_from_slice(&request.body);
                let received = content.len();
                progress(202, repository, upload, received)
            }
            false => progress(416, repository, upload, received),
        },
        _ => finish(state, request, repository, upload),
    }
}

fn begin(state: &mut State, request: &Request, repository: &str) -> Answer {
    if let (Some(digest), Some(from)) = (request.query("mount"), request.query("from"))
        && state.mounts
        && let Some(bytes) = state.blobs.get(&(from, digest.clone())).cloned()
    {
        state.blobs.insert((repository.into(), digest.clone()), bytes);
        return Answer::new(201).with("Docker-Content-Digest", digest);
    }
    if let Some(wanted) = request.query("digest")
        && state.single_posts
    {
        return keep(state, repository, &wanted, request.body.clone());
    }
    let upload = state.log.len().to_string();
    state.uploads.insert(upload.clone(), Vec::new());
    let answer = progress(202, repository, &upload, 0);
    match state.least_part {
        Some(least) => answer.with("OCI-Chunk-Min-Length", least),
        None => answer,
    }
}

fn finish(state: &mut State, request: &Request, repository: &str, upload: &str) -> Answer {
    let mut content = state.uploads.remove(upload).unwrap();
    content.extend_from_slice(&request.body);
    keep(state, repository, &request.query("digest").unwrap(), content)
}

fn keep(state: &mut State, repository: &str, wanted: &str, content: Vec<u8>) -> Answer {
    let actual = Digest::of(&content).to_string();
    if wanted != actual {
        return Answer::error(400, "DIGEST_INVALID");
    }
    state.blobs.insert((repository.into(), actual.clone()), content);
    Answer::new(201).with("Docker-Content-Digest", actual)
}

/// Whether the request's part, if it says which it is, begins where the upload stands and is as long as it says.
fn is_next(request: &Request, received: usize) -> bool {
    let Some(range) = request.header("content-range") else {
        return true;
    };
    let (start, last) = range.split_once('-').unwrap();
    let (start, last): (usize, usize) = (start.parse().unwrap(), last.parse().unwrap());
    start == received && last + 1 - start == request.body.len()
}

/// Where an upload stands, and where it goes on: relative, with a query of its own, as the specification allows.
fn progress(status: u16, repository: &str, upload: &str, received: usize) -> Answer {
    Answer::new(status)
        .with(
            "Location",
            format!("/v2/{repository}/blobs/uploads/{upload}?_state=x&at={received}"),
        )
        .with("Range", format!("0-{}", received.saturating_sub(1)))
}
