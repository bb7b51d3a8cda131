//! HTTPS: whom to trust, and what may not leave it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use builder::registry::RegistryError;

use super::registry::image::{Image, Layer};
use super::registry::{Lie, LyingRegistry, tls};
use super::{client_with, reference, shown};

/// `localhost:<port>`: the name in the certificate.
fn name(registry: &LyingRegistry) -> String {
    registry.host().replace("127.0.0.1", "localhost")
}

fn table(host: &str, ca: &str) -> String {
    format!("[registry.\"{host}\"]\nhttp = false\nca = {ca:?}\n")
}

#[test]
fn a_private_authority_is_trusted_for_its_host_alone() {
    let (registry, other) = (LyingRegistry::start_tls(), LyingRegistry::start_tls());
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    image.put(&registry, "a", "1");
    image.put(&other, "a", "1");
    let toml = table(&name(&registry), tls::AUTHORITY) + &format!("[registry.\"{}\"]\nhttp = false", name(&other));
    let client = client_with(&toml, Vec::new());
    let found = client.manifest(&reference(name(&registry) + "/a:1")).unwrap().0;
    assert_eq!(found.bytes(), image.manifest.bytes());
    let begun = Instant::now();
    let error = client.manifest(&reference(name(&other) + "/a:1")).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert!(shown(&error).contains("certificate"), "{}", shown(&error));
    // Another try would meet the same certificate.
    assert!(begun.elapsed() < Duration::from_secs(2) && other.log().is_empty());
    // Nor does a redirect carry the trust along.
    let layer = image.layers[0].descriptor();
    let away = format!("https://{}/v2/a/blobs/{}", name(&other), layer.digest);
    registry.lie("GET", "/blobs/", 1, Lie::redirect(307, away));
    let error = client.blob(&reference(name(&registry) + "/a:1"), &layer).err().unwrap();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_redirect_out_of_encryption_is_not_followed() {
    let (registry, plain) = (LyingRegistry::start_tls(), LyingRegistry::start());
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    image.put(&registry, "a", "1");
    image.put(&plain, "a", "1");
    let client = client_with(&table(&name(&registry), tls::AUTHORITY), Vec::new());
    registry.lie("GET", "/blobs/", 1, Lie::redirect(307, plain.url("/v2/a/blobs/x")));
    let error = client
        .blob(&reference(name(&registry) + "/a:1"), &image.layers[0].descriptor())
        .err()
        .unwrap();
    assert!(error.to_string().contains("is not encrypted"), "{error}");
    assert!(plain.log().is_empty());
}

#[test]
fn the_wrong_protocol_is_an_error_with_advice() {
    let registry = LyingRegistry::start();
    let client = client_with(&table(&registry.host(), tls::AUTHORITY), Vec::new());
    let error = client.manifest(&reference(registry.host() + "/a")).unwrap_err();
    assert!(error.hint().unwrap().contains("http = true"), "{error:?}");
    assert!(registry.log().is_empty());
}

#[test]
fn a_file_that_holds_no_authority_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let empty: PathBuf = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate here").unwrap();
    for path in [empty, directory.path().join("absent.pem")] {
        let path = path.to_str().unwrap();
        let client = client_with(&table("localhost:1", path), Vec::new());
        let error = client.manifest(&reference("localhost:1/a")).unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
}
