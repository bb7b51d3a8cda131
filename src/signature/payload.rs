//! What is signed: a small document that names an image by its digest ("simple signing", containers-signature(5)).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Expectation;
use super::error::Reason;
use crate::oci::{Digest, Reference};

/// How the document calls itself.
const TYPE: &str = "cosign container image signature";
/// How cosign calls Docker Hub.
const DOCKER_HUB: &str = "index.docker.io";

/// What a signature says besides.
pub type Annotations = BTreeMap<String, String>;

/// What a good signature says, as it was signed.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(transparent)]
pub struct Claim(pub Value);

/// The document about `digest` in `reference`'s repository.
pub(super) fn write(reference: &Reference, digest: Digest, annotations: &Annotations) -> Vec<u8> {
    let registry = match reference.registry() {
        "docker.io" => DOCKER_HUB,
        registry => registry,
    };
    let optional = match annotations.is_empty() {
        true => Value::Null,
        false => json!(annotations),
    };
    let document = json!({
        "critical": {
            "identity": { "docker-reference": format!("{registry}/{}", reference.repository()) },
            "image": { "docker-manifest-digest": digest },
            "type": TYPE,
        },
        "optional": optional,
    });
    document.to_string().into_bytes()
}

/// What a document says whose signature is good, where it is of `digest` and as expected.
pub(super) fn read(payload: &[u8], digest: Digest, expected: &Expectation<'_>) -> Result<Claim, Reason> {
    let document: Map<String, Value> = serde_json::from_slice(payload).map_err(|_| Reason::Payload)?;
    let document = Value::Object(document);
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let said = text("/critical/image/docker-manifest-digest").ok_or(Reason::Payload)?;
    let named = text("/critical/identity/docker-reference").ok_or(Reason::Payload)?;
    if text("/critical/type") != Some(TYPE) {
        return Err(Reason::Payload);
    }
    if said != digest.to_string() {
        return Err(Reason::Image(shortened(said)));
    }
    let repository = named.parse::<Reference>().map(|reference| reference.name()).ok();
    if expected.repository.is_some() && expected.repository != repository {
        return Err(Reason::Repository(shortened(named)));
    }
    for (name, value) in expected.annotations {
        let said = document.get("optional").and_then(|optional| optional.get(name));
        if said.and_then(Value::as_str) != Some(value) {
            return Err(Reason::Annotation(name.clone()));
        }
    }
    Ok(Claim(document))
}

/// What a stranger wrote, for a message.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(LONGEST)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_checked_piece_by_piece() {
        let (digest, other) = (Digest::of(b"image"), Digest::of(b"other"));
        let reference: Reference = "alpine:3".parse().unwrap();
        let annotations = Annotations::from([("stage".to_owned(), "release".to_owned())]);
        let payload = write(&reference, digest, &annotations);
        assert_eq!(
            String::from_utf8(payload.clone()).unwrap(),
            format!(
                "{{\"critical\":{{\"identity\":{{\"docker-reference\":\"index.docker.io/library/alpine\"}},\
                 \"image\":{{\"docker-manifest-digest\":\"{digest}\"}},\"type\":\"cosign container image signature\"}},\
                 \"optional\":{{\"stage\":\"release\"}}}}"
            )
        );
        let check = |payload: &[u8], digest, repository: &str, annotations: &Annotations| {
            let expected = Expectation {
                keys: &[],
                repository: Some(repository.to_owned()),
                annotations,
            };
            read(payload, digest, &expected)
        };
        let none = Annotations::new();
        let name = reference.name();
        assert!(check(&payload, digest, &name, &annotations).is_ok());
        assert_eq!(
            check(&payload, other, &name, &none),
            Err(Reason::Image(digest.to_string()))
        );
        assert!(matches!(
            check(&payload, digest, "host/alpine", &none),
            Err(Reason::Repository(_))
        ));
        let more = Annotations::from([("stage".to_owned(), "test".to_owned())]);
        assert_eq!(
            check(&payload, digest, &name, &more),
            Err(Reason::Annotation("stage".into()))
        );
        for wrong in ["", "[]", "{}", "{\"critical\":{}}", &"[".repeat(10_000)] {
            assert_eq!(
                check(wrong.as_bytes(), digest, &name, &none),
                Err(Reason::Payload),
                "{wrong:.20}"
            );
        }
    }
}
