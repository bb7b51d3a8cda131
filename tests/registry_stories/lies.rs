//! What a registry may say that is not so, as a table: each lie ends in an error that says what is wrong, and soon.

use std::time::{Duration, Instant};

use builder::oci::{Descriptor, media_type};
use builder::registry::RegistryError;

use super::registry::image::{Image, Layer};
use super::registry::{Lie, LyingRegistry};
use super::{client, inside, reference, shown};

fn answer(headers: &[(&'static str, &str)], body: impl Into<Vec<u8>>) -> Lie {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Lie::Answer(200, headers.collect(), body.into())
}

/// Asks for an image whose manifest, or whose layer, is a lie. What the user is told.
fn told(path: &str, lie: &Lie) -> String {
    let registry = LyingRegistry::start();
    let layer = Layer::gzip(&[("a", b"1")]);
    let image = Image::of(std::slice::from_ref(&layer));
    image.put(&registry, "a", "1");
    registry.lie("GET", path, 999, lie.clone());
    let (client, name) = (client(), reference(registry.host() + "/a:1"));
    let begun = Instant::now();
    let error = match client.manifest(&name) {
        Err(error) => error,
        Ok(_) => match client.blob(&name, &layer.descriptor()) {
            Err(error) => error,
            Ok(mut blob) => inside(std::io::copy(&mut blob, &mut std::io::sink()).unwrap_err()),
        },
    };
    assert!(begun.elapsed() < Duration::from_secs(10), "{path} {lie:?}");
    shown(&error)
}

#[test]
fn manifests_that_lie() {
    let config = Descriptor::of(media_type::CONFIG, b"{}");
    let sized = |size: &str| {
        let text = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        text.replace("\"size\":2", &format!("\"size\":{size}"))
    };
    let of = |body: &str| answer(&[("Content-Type", media_type::MANIFEST)], body);
    let nested = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let wrong = format!("sha256:{}", "0".repeat(64));
    for (expected, lie) in [
        ("malformed", of("{")),
        ("malformed", of(&nested)),
        (
            "malformed",
            of(&format!("{{\"schemaVersion\": 2, \"layers\": {nested}}}")),
        ),
        ("malformed", of("\u{feff}{}")),
        (
            "malformed",
            of(r#"{"schemaVersion": 2, "layers": [], "layers": [], "config": {}}"#),
        ),
        ("malformed", of(&sized("-1"))),
        ("malformed", of(&sized("18446744073709551616"))),
        ("malformed", of(&sized("1e400"))),
        ("malformed", of(&sized("\"2\""))),
        ("malformed", of(&sized("2").replace("sha256:", "md5:"))),
        ("malformed", of(&sized("2").replace("sha256:", "sha256:../../"))),
        ("neither layers nor manifests", of("{}")),
        ("schema 1", of(r#"{"schemaVersion": 1}"#)),
        (
            "both layers and manifests",
            of(r#"{"schemaVersion": 2, "layers": [], "manifests": []}"#),
        ),
        (
            "fields say otherwise",
            answer(&[("Content-Type", media_type::INDEX)], sized("2")),
        ),
        (
            "at most",
            answer(&[("Content-Type", media_type::MANIFEST)], vec![b' '; (4 << 20) + 1]),
        ),
        (
            "has the digest",
            answer(&[("Docker-Content-Digest", wrong.as_str())], sized("2")),
        ),
        (
            "announced a digest that is none",
            answer(&[("Docker-Content-Digest", "sha256:x")], sized("2")),
        ),
        (
            "compressed its answer",
            answer(&[("Content-Encoding", "gzip")], sized("2")),
        ),
        ("answered 204", Lie::status(204)),
        ("answered 206", Lie::status(206)),
        ("answered 418", Lie::status(418)),
        ("without a usable `Location`", Lie::status(302)),
        ("without a usable `Location`", Lie::redirect(302, "http://[::")),
        ("is not HTTP", Lie::redirect(302, "file:///etc/passwd")),
        ("is not HTTP", Lie::redirect(302, "unix:///run/docker.sock")),
        ("one redirect too many", Lie::redirect(302, "")),
    ] {
        let text = told("/manifests/", &lie);
        // The document that was sent may be long, and what is said of it is not.
        assert!(text.contains(expected) && text.len() < 2000, "{expected}: {text}");
    }
}

#[test]
fn blobs_that_lie() {
    for (expected, lie) in [
        (
            "has the digest",
            Lie::Answer(200, Vec::new(), vec![0; Layer::gzip(&[("a", b"1")]).blob.len()]),
        ),
        ("where its descriptor says", answer(&[], vec![0; 1 << 20])),
        (
            "no answer",
            answer(&[("Content-Length", "18446744073709551615")], b"x".to_vec()),
        ),
        ("where its descriptor says", answer(&[], Vec::new())),
        ("no answer", answer(&[("Content-Length", "-1")], b"x".to_vec())),
        (
            "compressed its answer",
            answer(&[("Content-Encoding", "br")], b"x".to_vec()),
        ),
        (
            "answered 206",
            Lie::Answer(206, vec![("Content-Range", "bytes 0-1/2".into())], b"xx".to_vec()),
        ),
        ("answered 416", Lie::status(416)),
        ("is not HTTP", Lie::redirect(307, "data:,x")),
    ] {
        let text = told("/blobs/", &lie);
        assert!(text.contains(expected) && text.len() < 2000, "{expected}: {text}");
    }
}

#[test]
fn headers_without_an_end() {
    let long = "x".repeat(2 << 20);
    for header in [
        "Docker-Content-Digest",
        "WWW-Authenticate",
        "Location",
        "Link",
        "Retry-After",
    ] {
        let text = told("/manifests/", &answer(&[(header, long.as_str())], "{}"));
        assert!(text.len() < 2000, "{header}: {}", text.len());
    }
    // As long as is taken: a thousand challenges, and none that could be answered.
    let many = "Bearer realm=\"ftp://x\", ".repeat(300);
    let lie = Lie::Answer(401, vec![("WWW-Authenticate", many)], Vec::new());
    let text = told("/manifests/", &lie);
    assert!(text.contains("no HTTP URL"), "{text}");
}

#[test]
fn uploads_that_are_sent_astray() {
    for (expected, location) in [
        ("without a usable `Location`", None),
        ("without a usable `Location`", Some("http://[::")),
        ("is not HTTP", Some("file:///etc/passwd")),
        ("is not HTTP", Some("ftp://127.0.0.1/")),
    ] {
        let registry = LyingRegistry::start();
        let headers = location.map(|location| ("Location", location.to_owned()));
        registry.lie(
            "POST",
            "/uploads/",
            999,
            Lie::Answer(202, headers.into_iter().collect(), Vec::new()),
        );
        let descriptor = Descriptor::of(media_type::LAYER, b"content");
        let open = || Ok(Box::new(&b"content"[..]) as Box<dyn std::io::Read + Send>);
        let error = client()
            .upload_blob(&reference(registry.host() + "/b"), &descriptor, None, &open)
            .unwrap_err();
        assert!(shown(&error).contains(expected), "{expected}: {}", shown(&error));
        assert!(!matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    }
}
