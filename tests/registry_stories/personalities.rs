//! Registries that are not like the others: the client lives with the ways of each of them.

use std::io::Read;

use builder::oci::{Descriptor, Digest, media_type};
use builder::registry::{Client, RegistryError, Uploaded};

use super::registry::image::{Image, Layer};
use super::registry::personality::Personality::{
    self, Acr, Artifactory, DockerHub, Ecr, Gar, Ghcr, GitLab, Harbor, Quay, Zot,
};
use super::registry::{Guard, Lie, LyingRegistry};
use super::{client_with, reference};

/// What is expected of one of them.
struct Expected {
    personality: Personality,
    guard: Guard,
    /// Its entry in `auths`, but for the name.
    entry: serde_json::Value,
    /// What comes of a mount.
    mount: Uploaded,
    /// Whether it lists referrers.
    lists: bool,
}

fn auth(text: &str) -> serde_json::Value {
    use base64::Engine as _;
    serde_json::json!({ "auth": base64::engine::general_purpose::STANDARD.encode(text) })
}

fn all() -> Vec<Expected> {
    let of = |personality, guard, entry, mount, lists| Expected {
        personality,
        guard,
        entry,
        mount,
        lists,
    };
    let bearer = |wanted| Guard::Bearer(Some(wanted));
    let token = "00000000-0000-0000-0000-000000000000:refresh-me";
    vec![
        of(
            DockerHub,
            bearer("me:dckr_pat_x"),
            auth("me:dckr_pat_x"),
            Uploaded::Mounted,
            false,
        ),
        of(Ghcr, bearer("me:ghp_x"), auth("me:ghp_x"), Uploaded::Sent, false),
        of(Ecr, Guard::Basic("AWS:x"), auth("AWS:x"), Uploaded::Sent, true),
        of(
            Gar,
            bearer("oauth2accesstoken:ya29.x"),
            auth("oauth2accesstoken:ya29.x"),
            Uploaded::Mounted,
            true,
        ),
        of(
            Acr,
            bearer("token:refresh-me"),
            serde_json::json!({"auth": auth(token)["auth"], "identitytoken": "refresh-me"}),
            Uploaded::Mounted,
            true,
        ),
        of(Acr, bearer(token), auth(token), Uploaded::Mounted, true),
        of(Quay, bearer("me+robot:x"), auth("me+robot:x"), Uploaded::Mounted, false),
        of(
            Harbor,
            bearer("robot$me:x"),
            auth("robot$me:x"),
            Uploaded::Mounted,
            true,
        ),
        of(Zot, Guard::Basic("me:x"), auth("me:x"), Uploaded::Mounted, true),
        of(Artifactory, bearer("me:x"), auth("me:x"), Uploaded::Sent, false),
        of(
            GitLab,
            bearer("gitlab-ci-token:x"),
            auth("gitlab-ci-token:x"),
            Uploaded::Mounted,
            false,
        ),
    ]
}

struct Place {
    registry: LyingRegistry,
    storage: LyingRegistry,
    client: Client,
    _directory: tempfile::TempDir,
}

fn place(expected: &Expected) -> Place {
    let (registry, storage) = (LyingRegistry::start(), LyingRegistry::start());
    registry.guard(expected.guard.clone());
    registry.behave(expected.personality, &storage.url(""));
    for repository in ["/a/", "/b/"] {
        registry.make_repository(repository);
    }
    if expected.lists {
        registry.list_referrers();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    std::fs::write(
        &file,
        serde_json::json!({"auths": {registry.host(): expected.entry}}).to_string(),
    )
    .unwrap();
    Place {
        client: client_with("", vec![file]),
        registry,
        storage,
        _directory: directory,
    }
}

/// Logs in, pushes, mounts, pulls, attaches and lists.
fn live_with(expected: &Expected) {
    let name = expected.personality;
    let Place {
        registry,
        storage,
        client,
        ..
    } = &place(expected);
    client
        .login(&registry.host())
        .unwrap_or_else(|error| panic!("{name:?}: {error}"));
    let layer = Layer::gzip(&[("a", b"1")]);
    let image = Image::of(std::slice::from_ref(&layer));
    let blobs = [
        (layer.descriptor(), layer.blob.clone()),
        (
            image.config.descriptor(media_type::CONFIG),
            image.config.bytes().to_vec(),
        ),
        (
            Descriptor::of("application/vnd.oci.empty.v1+json", b"{}"),
            b"{}".to_vec(),
        ),
    ];
    let first = reference(registry.host() + "/a:1");
    let second = reference(registry.host() + "/b:1");
    for (to, from, outcome) in [(&first, None, Uploaded::Sent), (&second, Some(&first), expected.mount)] {
        for (descriptor, bytes) in &blobs {
            let open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
            let done = client.upload_blob(to, descriptor, from, &open);
            assert_eq!(
                done.unwrap_or_else(|error| panic!("{name:?}: {error}")),
                outcome,
                "{name:?}"
            );
            storage.put_blob("store", bytes);
        }
        let put = client.put_manifest(to, media_type::MANIFEST, image.manifest.bytes());
        assert_eq!(
            put.unwrap_or_else(|error| panic!("{name:?}: {error}")),
            image.manifest.digest()
        );
    }
    let found = client.manifest(&second).unwrap().0;
    assert_eq!(found.bytes(), image.manifest.bytes(), "{name:?}");
    let read = client.blob(&second, &layer.descriptor()).unwrap().read_all().unwrap();
    assert_eq!(read, layer.blob, "{name:?}");
    // Wherever the blobs lie: whoever keeps them is shown the signature in the URL alone.
    let asked = storage.log();
    assert!(
        asked.iter().all(|request| request.header("authorization").is_none()),
        "{name:?}"
    );
    assert!(
        asked
            .iter()
            .all(|request| request.target.contains("signature=for-you-alone")),
        "{name:?}"
    );
    let subject = image.manifest.descriptor(media_type::MANIFEST);
    let artifact = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": "x/signature",
        "config": blobs[2].0, "layers": [blobs[2].0], "subject": subject,
    });
    let bytes = artifact.to_string().into_bytes();
    let pinned = second.with_digest(Digest::of(&bytes));
    let attached = client.put_manifest(&pinned, media_type::MANIFEST, &bytes);
    if name == GitLab {
        // It cannot be had there, which is told.
        assert!(attached.unwrap_err().to_string().contains("does not keep"), "{name:?}");
        return;
    }
    attached.unwrap_or_else(|error| panic!("{name:?}: {error}"));
    let listed = client.referrers(&second, subject.digest, Some("x/signature")).unwrap();
    assert_eq!(listed.len(), 1, "{name:?}");
    assert_eq!(listed[0].digest, Digest::of(&bytes), "{name:?}");
    assert_eq!(
        registry.count("PUT", "/manifests/sha256-") == 0,
        expected.lists,
        "{name:?}"
    );
}

#[test]
fn the_client_lives_with_all_of_them() {
    for expected in all() {
        live_with(&expected);
    }
}

fn only(personality: Personality) -> Expected {
    all()
        .into_iter()
        .find(|expected| expected.personality == personality)
        .unwrap()
}

#[test]
fn docker_hub_tells_what_its_limit_is() {
    let place = place(&only(DockerHub));
    let headers = vec![
        ("ratelimit-limit", "100;w=21600".to_owned()),
        ("docker-ratelimit-source", "192.0.2.1".to_owned()),
    ];
    let body = br#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}"#;
    place
        .registry
        .lie("GET", "/manifests/", 99, Lie::Answer(429, headers, body.to_vec()));
    let error = place
        .client
        .manifest(&reference(place.registry.host() + "/a:1"))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("pull rate limit") && text.contains("the limit is 100 in 6 hours for 192.0.2.1"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("log in"), "{error:?}");
}

#[test]
fn a_registry_that_makes_no_repositories_says_so() {
    let place = place(&only(Ecr));
    let descriptor = Descriptor::of(media_type::LAYER, b"content");
    let open = || Ok(Box::new(&b"content"[..]) as Box<dyn Read + Send>);
    let name = reference(place.registry.host() + "/never/made:1");
    let error = place.client.upload_blob(&name, &descriptor, None, &open).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("create"), "{error:?}");
}

#[test]
fn a_registry_that_takes_no_manifests_of_docker_s_says_so() {
    let place = place(&only(Zot));
    let image = Image::of(&[]);
    let name = reference(place.registry.host() + "/a:1");
    let error = place
        .client
        .put_manifest(&name, media_type::DOCKER_MANIFEST, image.manifest.bytes())
        .unwrap_err();
    assert!(error.to_string().contains("MANIFEST_INVALID"), "{error}");
    assert!(error.hint().unwrap().contains("OCI"), "{error:?}");
}
