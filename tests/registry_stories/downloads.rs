//! Manifests and blobs from registries that fail, stall, cut and lie.

use std::io::Read;
use std::time::{Duration, Instant};

use builder::cancel::Cancel;
use builder::oci::{Descriptor, Digest, ManifestOrIndex, media_type};
use builder::registry::{Client, Credentials, Patience, RegistryConfig, RegistryError};

use super::registry::image::{Image, Layer};
use super::registry::{Lie, LyingRegistry};
use super::{client, client_with, inside, patience, reference, shown};

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

/// A registry with one blob of 300,000 bytes in `a`, and the blob's descriptor.
fn with_blob() -> (LyingRegistry, Vec<u8>, Descriptor) {
    let registry = LyingRegistry::start();
    let bytes = content(300_000);
    registry.put_blob("a", &bytes);
    let descriptor = Descriptor::of(media_type::LAYER, &bytes);
    (registry, bytes, descriptor)
}

fn read(registry: &LyingRegistry, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let mut blob = client().blob(&reference(registry.host() + "/a"), descriptor)?;
    blob.read_to_end(&mut bytes).map_err(inside)?;
    Ok(bytes)
}

#[test]
fn a_manifest_keeps_its_bytes_and_an_unknown_one_is_not_found() {
    let registry = LyingRegistry::start();
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    let descriptor = image.put(&registry, "team/app", "1");
    let host = registry.host();
    let (document, found) = client().manifest(&reference(format!("{host}/team/app:1"))).unwrap();
    assert_eq!(
        (document.bytes(), found.digest),
        (image.manifest.bytes(), descriptor.digest)
    );
    assert_eq!(
        (found.media_type.as_str(), found.size),
        (media_type::MANIFEST, descriptor.size)
    );
    let error = client().manifest(&reference(format!("{host}/team/app:2"))).unwrap_err();
    assert!(error.is_not_found() && error.hint().is_some());
    assert!(
        error.to_string().contains("MANIFEST_UNKNOWN: manifest_unknown"),
        "{error}"
    );
}

#[test]
fn a_refusal_that_passes_is_waited_for() {
    let (registry, bytes, descriptor) = with_blob();
    let headers = vec![("Retry-After", "0".to_owned())];
    registry.lie("GET", "/blobs/", 1, Lie::Answer(429, headers, Vec::new()));
    registry.lie("GET", "/blobs/", 1, Lie::status(503));
    registry.lie("GET", "/blobs/", 1, Lie::Slam);
    assert_eq!(read(&registry, &descriptor).unwrap(), bytes);
    assert_eq!(registry.count("GET", "/blobs/"), 4);
}

#[test]
fn retry_after_is_obeyed_within_bounds() {
    let (registry, bytes, descriptor) = with_blob();
    registry.lie(
        "GET",
        "/blobs/",
        1,
        Lie::Answer(429, vec![("Retry-After", "86400".into())], Vec::new()),
    );
    let begun = Instant::now();
    assert_eq!(read(&registry, &descriptor).unwrap(), bytes);
    // The patience of these tests ends at 200 ms.
    assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&begun.elapsed()));
}

#[test]
fn a_refusal_that_stays_is_told() {
    for (status, expected) in [(500, "500"), (429, "too many requests"), (403, "denied"), (418, "418")] {
        let (registry, _, descriptor) = with_blob();
        registry.lie("GET", "/blobs/", 99, Lie::status(status));
        let error = read(&registry, &descriptor).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let asked = registry.count("GET", "/blobs/");
        assert_eq!(asked, if matches!(status, 500 | 429) { 4 } else { 1 }, "{status}");
    }
}

#[test]
fn a_cut_connection_is_resumed_where_it_broke() {
    let (registry, bytes, descriptor) = with_blob();
    registry.lie("GET", "/blobs/", 1, Lie::Cut(100_000));
    registry.lie("GET", "/blobs/", 1, Lie::Cut(50_000));
    assert_eq!(read(&registry, &descriptor).unwrap(), bytes);
    let ranges: Vec<_> = registry
        .log()
        .iter()
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=100000-".into()), Some("bytes=150000-".into())]
    );
}

#[test]
fn a_registry_without_ranges_sends_the_blob_anew() {
    let (registry, bytes, descriptor) = with_blob();
    registry.lie("GET", "/blobs/", 1, Lie::Cut(100_000));
    registry.lie("GET", "/blobs/", 1, Lie::WholeInstead);
    assert_eq!(read(&registry, &descriptor).unwrap(), bytes);
}

#[test]
fn a_registry_that_always_cuts_is_given_up() {
    let (registry, _, descriptor) = with_blob();
    registry.lie("GET", "/blobs/", 99, Lie::Cut(10));
    let error = read(&registry, &descriptor).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert_eq!(registry.count("GET", "/blobs/"), 4);
}

#[test]
fn another_part_than_was_asked_for_is_refused() {
    let (registry, _, descriptor) = with_blob();
    registry.lie("GET", "/blobs/", 1, Lie::Cut(100_000));
    registry.lie(
        "GET",
        "/blobs/",
        1,
        Lie::Header("Content-Range", Some("bytes 0-199999/300000".into())),
    );
    let error = read(&registry, &descriptor).unwrap_err();
    assert!(error.to_string().contains("another part"), "{error}");
}

#[test]
fn altered_content_is_refused() {
    let (registry, bytes, descriptor) = with_blob();
    let mut altered = bytes.clone();
    altered[299_999] ^= 1;
    registry.lie("GET", "/blobs/", 1, Lie::Body(altered.clone()));
    let error = read(&registry, &descriptor).unwrap_err();
    let actual = Digest::of(&altered);
    assert!(
        matches!(error, RegistryError::WrongDigest { actual: found, .. } if found == actual),
        "{error:?}"
    );
    for length in [299_999, 300_001] {
        let mut other = bytes.clone();
        other.resize(length, 0);
        registry.lie("GET", "/blobs/", 1, Lie::Body(other));
        let error = read(&registry, &descriptor).unwrap_err();
        assert!(
            matches!(error, RegistryError::WrongSize { actual, .. } if actual == length as u64),
            "{error:?}"
        );
    }
}

#[test]
fn content_without_a_length_is_bounded_by_its_descriptor() {
    let (registry, bytes, descriptor) = with_blob();
    for (length, expected) in [(300_000, None), (299_999, Some(299_999)), (400_000, Some(300_001))] {
        let mut other = bytes.clone();
        other.resize(length, 0);
        let chunked = format!("{length:x}\r\n").into_bytes();
        let body = [chunked, other, b"\r\n0\r\n\r\n".to_vec()].concat();
        let headers = vec![
            ("Transfer-Encoding", "chunked".to_owned()),
            ("Content-Length", String::new()),
        ];
        let _ = &headers;
        registry.lie(
            "GET",
            "/blobs/",
            1,
            Lie::Answer(200, vec![("Transfer-Encoding", "chunked".into())], body),
        );
        match (read(&registry, &descriptor), expected) {
            (Ok(read), None) => assert_eq!(read, bytes),
            (Err(RegistryError::WrongSize { actual, .. }), Some(least)) => assert!(actual >= least),
            (outcome, _) => panic!("{length}: {outcome:?}"),
        }
    }
}

#[test]
fn a_manifest_that_is_not_what_it_should_be_is_refused() {
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    let honest = image.manifest.bytes().to_vec();
    let other = Digest::of(b"other").to_string();
    let both = String::from_utf8(honest.clone())
        .unwrap()
        .replacen('{', "{\"manifests\":[],", 1);
    let large = vec![b' '; (4 << 20) + 1];
    let whole = |body: &[u8]| Lie::Answer(200, vec![("Content-Type", media_type::MANIFEST.into())], body.to_vec());
    let cases: [(Lie, &str); 8] = [
        (Lie::Header("Docker-Content-Digest", Some(other)), "has the digest"),
        (
            Lie::Header("Docker-Content-Digest", Some("sha256:../../etc".into())),
            "announced a digest that is none",
        ),
        (
            Lie::Header("Content-Type", Some(media_type::INDEX.into())),
            "not clearly one of",
        ),
        (whole(both.as_bytes()), "not clearly one of"),
        (whole(b"{\"schemaVersion\":1}"), "schema 1"),
        (whole(b"<html>welcome to our network</html>"), "malformed"),
        (whole(&large), "at most"),
        (
            Lie::Header("Content-Encoding", Some("gzip".into())),
            "compressed its answer",
        ),
    ];
    for (lie, expected) in cases {
        let registry = LyingRegistry::start();
        image.put(&registry, "a", "1");
        registry.lie("GET", "/manifests/", 1, lie);
        let error = client().manifest(&reference(registry.host() + "/a:1")).unwrap_err();
        assert!(shown(&error).contains(expected), "{expected}: {}", shown(&error));
    }
}

#[test]
fn a_pinned_reference_gets_its_own_manifest_or_none() {
    let registry = LyingRegistry::start();
    let image = Image::of(&[]);
    let digest = image.put(&registry, "a", "1").digest;
    let pinned = reference(format!("{}/a:1@{digest}", registry.host()));
    assert_eq!(client().manifest(&pinned).unwrap().1.digest, digest);
    let other = Image::of(&[Layer::gzip(&[])]).manifest;
    let body = other.bytes().to_vec();
    registry.lie("GET", "/manifests/", 1, Lie::Answer(200, Vec::new(), body));
    let error = client().manifest(&pinned).unwrap_err();
    assert!(
        matches!(error, RegistryError::WrongDigest { expected, .. } if expected == digest),
        "{error:?}"
    );
}

#[test]
fn a_content_type_that_says_nothing_does_not_matter() {
    let registry = LyingRegistry::start();
    Image::of(&[]).put(&registry, "a", "1");
    for lie in [
        None,
        Some("text/plain".to_owned()),
        Some(format!("{}; charset=utf-8", media_type::MANIFEST)),
    ] {
        registry.lie("GET", "/manifests/", 1, Lie::Header("Content-Type", lie));
        let (document, descriptor) = client().manifest(&reference(registry.host() + "/a:1")).unwrap();
        assert!(matches!(document, ManifestOrIndex::Manifest(_)));
        assert_eq!(descriptor.media_type, media_type::MANIFEST);
    }
}

#[test]
fn redirects_are_followed_within_reason() {
    let (registry, bytes, descriptor) = with_blob();
    let elsewhere = LyingRegistry::start();
    elsewhere.put_blob("store", &bytes);
    let place = elsewhere.url(&format!("/v2/store/blobs/{}?X-Signature=secret", descriptor.digest));
    registry.lie("GET", "/blobs/", 1, Lie::redirect(307, &place));
    assert_eq!(read(&registry, &descriptor).unwrap(), bytes);
    // A cut behind the redirect is resumed from the registry, which may sign another URL.
    registry.lie("GET", "/blobs/", 2, Lie::redirect(307, &place));
    elsewhere.lie("GET", "/blobs/", 1, Lie::Cut(7));
    assert_eq!(read(&registry, &descriptor).unwrap(), bytes);
    assert_eq!(elsewhere.log().last().unwrap().header("range"), Some("bytes=7-"));
    // The signature is nobody's business.
    registry.lie("GET", "/blobs/", 1, Lie::redirect(307, &place));
    elsewhere.lie("GET", "/blobs/", 1, Lie::status(404));
    let error = read(&registry, &descriptor).unwrap_err();
    assert!(error.is_not_found() && !shown(&error).contains("secret"), "{error}");
    // In circles, to nowhere, to files.
    let own = format!("/v2/a/blobs/{}", descriptor.digest);
    for (location, expected) in [
        (own.as_str(), "too many"),
        ("file:///etc/passwd", "is not HTTP"),
        ("http://[", "`Location`"),
    ] {
        let (registry, _, descriptor) = with_blob();
        registry.lie("GET", "/blobs/", 99, Lie::redirect(302, location));
        let error = read(&registry, &descriptor).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_registry_that_is_down_is_said_to_be() {
    let host = LyingRegistry::start().host();
    let begun = Instant::now();
    let error = client().manifest(&reference(format!("{host}/a"))).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }) && !error.is_not_found());
    assert!(error.hint().unwrap().contains("is the registry up"));
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_stalled_registry_is_given_up() {
    let (registry, _, descriptor) = with_blob();
    registry.lie("GET", "/blobs/", 99, Lie::Drip(Duration::from_secs(1)));
    let patience = Patience {
        idle: Duration::from_millis(100),
        attempts: 2,
        ..patience()
    };
    let cancel = Cancel::new().unwrap();
    let client = Client::with_patience(RegistryConfig::default(), Credentials::default(), cancel, patience);
    let mut blob = client.blob(&reference(registry.host() + "/a"), &descriptor).unwrap();
    let error = inside(blob.read_to_end(&mut Vec::new()).unwrap_err());
    assert!(matches!(error, RegistryError::TimedOut { .. }), "{error:?}");
}

#[test]
fn a_registry_that_trickles_is_given_up() {
    let registry = LyingRegistry::start();
    registry.lie("GET", "/manifests/", 99, Lie::Drip(Duration::from_millis(50)));
    let patience = Patience {
        exchange: Duration::from_millis(300),
        ..patience()
    };
    let cancel = Cancel::new().unwrap();
    let client = Client::with_patience(RegistryConfig::default(), Credentials::default(), cancel, patience);
    let begun = Instant::now();
    let error = client.manifest(&reference(registry.host() + "/a")).unwrap_err();
    assert!(matches!(error, RegistryError::Slow { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn cancelling_ends_a_download_at_once() {
    let (registry, _, descriptor) = with_blob();
    registry.lie("GET", "/blobs/", 99, Lie::Drip(Duration::from_secs(1)));
    let cancel = Cancel::new().unwrap();
    let client = Client::with_patience(
        RegistryConfig::default(),
        Credentials::default(),
        cancel.clone(),
        patience(),
    );
    let mut blob = client.blob(&reference(registry.host() + "/a"), &descriptor).unwrap();
    let begun = Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        });
        inside(blob.read_to_end(&mut Vec::new()).unwrap_err())
    });
    assert!(matches!(error, RegistryError::Cancelled), "{error:?}");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    let again = client.manifest(&reference(registry.host() + "/a")).unwrap_err();
    assert!(matches!(again, RegistryError::Cancelled), "{again:?}");
}

#[test]
fn mirrors_are_asked_in_their_order_and_the_registry_last() {
    let (first, second, origin) = (LyingRegistry::start(), LyingRegistry::start(), LyingRegistry::start());
    let layer = Layer::gzip(&[("a", &content(200_000))]);
    let image = Image::of(std::slice::from_ref(&layer));
    image.put(&second, "proxy/a", "1");
    image.put(&origin, "a", "1");
    let toml = format!(
        "[registry.\"{}\"]\nmirrors = [\"{}\", \"{}/proxy\"]",
        origin.host(),
        first.url(""),
        second.url("")
    );
    let client = client_with(&toml, Vec::new());
    let name = reference(origin.host() + "/a:1");
    assert_eq!(client.manifest(&name).unwrap().0.bytes(), image.manifest.bytes());
    assert_eq!((first.count("GET", "/v2/a/"), origin.log().len()), (1, 0));
    // A mirror that dies in the middle of a blob: the next one goes on where it stopped.
    first.put_blob("a", &layer.blob);
    first.lie("GET", "/blobs/", 1, Lie::Cut(60));
    first.lie("GET", "/blobs/", 99, Lie::Slam);
    let mut bytes = Vec::new();
    client
        .blob(&name, &layer.descriptor())
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, layer.blob);
    assert_eq!(second.log().last().unwrap().header("range"), Some("bytes=60-"));
    // A mirror that lies about a manifest is passed over.
    second.lie(
        "GET",
        "/manifests/",
        1,
        Lie::Header("Docker-Content-Digest", Some(Digest::of(b"").to_string())),
    );
    assert_eq!(client.manifest(&name).unwrap().0.bytes(), image.manifest.bytes());
    assert_eq!(origin.count("GET", "/manifests/"), 1);
    // Nobody has it: all are named.
    let error = client.manifest(&reference(origin.host() + "/a:none")).unwrap_err();
    let text = shown(&error);
    assert!(
        error.is_not_found() && [&first, &second, &origin].iter().all(|one| text.contains(&one.host())),
        "{text}"
    );
}
