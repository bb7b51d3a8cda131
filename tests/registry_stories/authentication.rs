//! Who is told what: challenges, tokens, credentials, and who never learns them.

use std::path::PathBuf;

use builder::oci::{Descriptor, Reference, media_type};
use builder::registry::{Client, Presented, RegistryError, Secret, Uploaded};

use super::registry::image::{Image, Layer};
use super::registry::{Guard, Lie, LyingRegistry};
use super::{client, client_with, reference, shown};

/// A client whose configuration file holds `entry` for `host`.
fn client_for(host: &str, entry: serde_json::Value) -> (Client, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("config.json");
    std::fs::write(&file, serde_json::json!({ "auths": { host: entry } }).to_string()).unwrap();
    (client_with("", vec![file]), directory)
}

fn auth(credentials: &str) -> serde_json::Value {
    use base64::Engine as _;
    serde_json::json!({ "auth": base64::engine::general_purpose::STANDARD.encode(credentials) })
}

fn guarded(guard: Guard) -> (LyingRegistry, Image) {
    let registry = LyingRegistry::start();
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    image.put(&registry, "a", "1");
    registry.guard(guard);
    (registry, image)
}

#[test]
fn a_public_image_needs_a_token_and_nobody_s_name() {
    let (registry, image) = guarded(Guard::Bearer(None));
    let client = client();
    let name = reference(registry.host() + "/a:1");
    client.manifest(&name).unwrap();
    client
        .blob(&name, &image.layers[0].descriptor())
        .unwrap()
        .read_all()
        .unwrap();
    // One token serves both.
    assert_eq!(registry.count("GET", "/token"), 1);
    let asked = registry
        .log()
        .into_iter()
        .find(|request| request.target.starts_with("/token"))
        .unwrap();
    assert!(
        asked.target.contains("scope=repository%3Aa%3Apull&") || asked.target.ends_with("scope=repository%3Aa%3Apull")
    );
    assert!(asked.target.contains("service=here") && asked.header("authorization").is_none());
}

#[test]
fn name_and_password_are_shown_where_they_are_asked_for() {
    for guard in [Guard::Basic("me:secret"), Guard::Bearer(Some("me:secret"))] {
        let (registry, _) = guarded(guard);
        let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
        client.manifest(&reference(registry.host() + "/a:1")).unwrap();
        // Not before.
        assert!(registry.log()[0].header("authorization").is_none());
    }
}

#[test]
fn an_identity_token_is_exchanged() {
    let (registry, _) = guarded(Guard::Bearer(Some("token:refresh-me")));
    let (client, _directory) = client_for(&registry.host(), serde_json::json!({ "identitytoken": "refresh-me" }));
    client.manifest(&reference(registry.host() + "/a:1")).unwrap();
    let asked = registry
        .log()
        .into_iter()
        .find(|request| request.target == "/token")
        .unwrap();
    let body = String::from_utf8(asked.body).unwrap();
    assert!(body.starts_with(
        "grant_type=refresh_token&refresh_token=refresh-me&client_id=builder&service=here&scope=repository%3Aa%3Apull"
    ));
}

/// Fetches a manifest, and its layer when every token has run out.
fn fetch_with_a_pause(client: &Client, registry: &LyingRegistry, name: &Reference, image: &Image) {
    client.manifest(name).unwrap();
    registry.forget_tokens();
    let layer = client.blob(name, &image.layers[0].descriptor()).unwrap();
    layer.read_all().unwrap();
}

#[test]
fn a_token_that_ran_out_is_renewed_once() {
    let (registry, image) = guarded(Guard::Bearer(None));
    let client = client();
    let name = reference(registry.host() + "/a:1");
    fetch_with_a_pause(&client, &registry, &name, &image);
    assert_eq!(registry.count("GET", "/token"), 2);
    // A registry that accepts none is not asked for ever.
    registry.lie(
        "GET",
        "/manifests/",
        99,
        Lie::Answer(401, vec![("WWW-Authenticate", challenge(&registry))], Vec::new()),
    );
    let error = client.manifest(&name).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
    assert_eq!(registry.count("GET", "/manifests/"), 2 + 2);
}

fn challenge(registry: &LyingRegistry) -> String {
    format!("Bearer realm=\"{}\"", registry.url("/token"))
}

#[test]
fn a_token_that_runs_out_during_an_upload_is_renewed() {
    let (registry, _) = guarded(Guard::Bearer(None));
    let headers = vec![("WWW-Authenticate", challenge(&registry))];
    registry.lie("PUT", "/uploads/", 1, Lie::Answer(401, headers, Vec::new()));
    let descriptor = Descriptor::of(media_type::LAYER, b"content");
    let open = || Ok(Box::new(&b"content"[..]) as Box<dyn std::io::Read + Send>);
    let outcome = client()
        .upload_blob(&reference(registry.host() + "/b"), &descriptor, None, &open)
        .unwrap();
    assert_eq!((outcome, registry.count("PUT", "/uploads/")), (Uploaded::Sent, 2));
    assert_eq!(registry.blob("b", descriptor.digest).unwrap(), b"content");
}

#[test]
fn what_is_refused_is_told_with_advice_and_without_secrets() {
    for guard in [Guard::Basic("me:right"), Guard::Bearer(Some("me:right"))] {
        let (registry, _) = guarded(guard);
        let name = reference(registry.host() + "/a:1");
        let (wrong, _directory) = client_for(&registry.host(), auth("me:wrong-secret"));
        let error = wrong.manifest(&name).unwrap_err();
        let text = format!("{} {error:?} {:?}", shown(&error), error.hint());
        assert!(
            text.contains("did not accept the credentials") && !text.contains("wrong-secret"),
            "{text}"
        );
        let error = client().manifest(&name).unwrap_err();
        assert!(error.hint().unwrap().contains("builder login"), "{error:?}");
    }
}

#[test]
fn credentials_never_follow_a_redirect_to_another_origin() {
    let (registry, image) = guarded(Guard::Basic("me:secret"));
    let elsewhere = LyingRegistry::start();
    let layer = &image.layers[0];
    elsewhere.put_blob("a", &layer.blob);
    // There, then away; and away, then back: whoever is in between has chosen where "back" is.
    let away = elsewhere.url(&format!("/v2/a/blobs/{}", layer.descriptor().digest));
    registry.lie_later("GET", "/blobs/", 1, 1, Lie::redirect(307, &away));
    let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
    let name = reference(registry.host() + "/a:1");
    client.manifest(&name).unwrap();
    client.blob(&name, &layer.descriptor()).unwrap().read_all().unwrap();
    client.blob(&name, &layer.descriptor()).unwrap().read_all().unwrap();
    assert_eq!(elsewhere.log().len(), 1);
    assert!(elsewhere.log()[0].header("authorization").is_none());
    assert!(registry.log().last().unwrap().header("authorization").is_some());
}

#[test]
fn another_origin_s_challenge_is_not_answered() {
    let (registry, image) = guarded(Guard::Open);
    let elsewhere = LyingRegistry::start();
    elsewhere.guard(Guard::Basic("me:secret"));
    registry.lie("GET", "/blobs/", 9, Lie::redirect(307, elsewhere.url("/v2/a/blobs/x")));
    let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
    let name = reference(registry.host() + "/a:1");
    let error = client.blob(&name, &image.layers[0].descriptor()).err().unwrap();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
    assert!(
        elsewhere
            .log()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[test]
fn an_upload_to_another_origin_carries_no_credentials() {
    let (registry, _) = guarded(Guard::Basic("me:secret"));
    let elsewhere = LyingRegistry::start();
    elsewhere.lie("PUT", "/put", 1, Lie::status(201));
    let headers = vec![("Location", elsewhere.url("/put?sig=x"))];
    registry.lie_later("POST", "/uploads/", 0, 1, Lie::Answer(202, headers, Vec::new()));
    let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
    let descriptor = Descriptor::of(media_type::LAYER, b"content");
    let open = || Ok(Box::new(&b"content"[..]) as Box<dyn std::io::Read + Send>);
    client
        .upload_blob(&reference(registry.host() + "/b"), &descriptor, None, &open)
        .unwrap();
    let put = &elsewhere.log()[0];
    assert!(
        put.header("authorization").is_none() && put.target.starts_with("/put?sig=x&digest=sha256"),
        "{put:?}"
    );
}

#[test]
fn a_token_server_in_the_clear_gets_no_credentials() {
    let (registry, _) = guarded(Guard::Open);
    let headers = vec![("WWW-Authenticate", "Bearer realm=\"http://tokens.invalid/\"".to_owned())];
    registry.lie("GET", "/manifests/", 9, Lie::Answer(401, headers, Vec::new()));
    let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
    let error = client.manifest(&reference(registry.host() + "/a:1")).unwrap_err();
    assert!(matches!(error, RegistryError::Insecure { .. }), "{error:?}");
}

#[test]
fn a_token_server_that_answers_nonsense_is_told() {
    let cases: [(&str, &[u8]); 4] = [
        ("without a usable token", b"{}"),
        ("without a usable token", b"{\"token\": \"a\\nb\"}"),
        ("without a usable token", b"\xff"),
        ("without a usable token", &[b' '; (1 << 20) + 1]),
    ];
    for (expected, body) in cases {
        let (registry, _) = guarded(Guard::Bearer(None));
        registry.lie("GET", "/token", 9, Lie::Answer(200, Vec::new(), body.to_vec()));
        let error = client().manifest(&reference(registry.host() + "/a:1")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let (registry, _) = guarded(Guard::Open);
    for realm in ["file:///etc/passwd", "x", ""] {
        let headers = vec![("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))];
        registry.lie("GET", "/manifests/", 1, Lie::Answer(401, headers, Vec::new()));
        assert!(
            client().manifest(&reference(registry.host() + "/a:1")).is_err(),
            "{realm}"
        );
    }
}

#[test]
fn names_and_passwords_go_in_forms_to_servers_that_take_them_and_otherwise_as_before() {
    for (oauth, forms, queries) in [(true, 2, 0), (false, 1, 2)] {
        let (registry, image) = guarded(Guard::Bearer(Some("me:secret")));
        if oauth {
            registry.speak_oauth();
        }
        let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
        let name = reference(registry.host() + "/a:1");
        fetch_with_a_pause(&client, &registry, &name, &image);
        // A server that does not know forms is asked that way once.
        assert_eq!(
            (registry.count("POST", "/token"), registry.count("GET", "/token")),
            (forms, queries)
        );
        assert!(registry.log().iter().all(|request| !request.target.contains("secret")));
    }
}

#[test]
fn a_wrong_password_is_wrong_in_every_way() {
    let (registry, _) = guarded(Guard::Bearer(Some("me:right")));
    registry.speak_oauth();
    let (client, _directory) = client_for(&registry.host(), auth("me:wrong"));
    let error = client.manifest(&reference(registry.host() + "/a:1")).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
    assert_eq!(
        (registry.count("POST", "/token"), registry.count("GET", "/token")),
        (1, 1)
    );
}

#[test]
fn a_token_server_that_is_busy_is_asked_again_when_it_says() {
    let (registry, _) = guarded(Guard::Bearer(None));
    let wait = vec![("Retry-After", "1".to_owned())];
    registry.lie("GET", "/token", 1, Lie::Answer(429, wait, Vec::new()));
    registry.lie("GET", "/token", 1, Lie::status(503));
    // The longest pause of these tests is shorter than the second that it asks for.
    client().manifest(&reference(registry.host() + "/a:1")).unwrap();
    assert_eq!(registry.count("GET", "/token"), 3);
}

#[test]
fn a_registry_token_is_shown_as_it_is() {
    let (registry, _) = guarded(Guard::Bearer(None));
    let entry = serde_json::json!({ "registrytoken": "not-one-of-its-own" });
    let (client, _directory) = client_for(&registry.host(), entry);
    let error = client.manifest(&reference(registry.host() + "/a:1")).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
    assert_eq!(registry.count("GET", "/token"), 0);
    assert!(!format!("{error:?}").contains("not-one-of-its-own"));
    let shown = registry
        .log()
        .last()
        .unwrap()
        .header("authorization")
        .map(str::to_owned);
    assert_eq!(shown.as_deref(), Some("Bearer not-one-of-its-own"));
}

#[test]
fn a_login_shows_the_credentials_once_and_brings_what_the_server_gives() {
    let (registry, _) = guarded(Guard::Bearer(Some("me:secret")));
    let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
    let login = client.login(&registry.host()).unwrap();
    assert_eq!((login.presented, login.identity), (Presented::Credentials, None));
    registry.speak_oauth();
    let (client, _directory) = client_for(&registry.host(), auth("me:secret"));
    assert_eq!(
        client.login(&registry.host()).unwrap().identity,
        Some(Secret::new("come-back".into()))
    );
    let (client, _directory) = client_for(&registry.host(), auth("me:wrong"));
    assert!(matches!(
        client.login(&registry.host()),
        Err(RegistryError::Unauthorized { .. })
    ));
    registry.guard(Guard::Open);
    assert_eq!(client.login(&registry.host()).unwrap().presented, Presented::Nothing);
    registry.lie("GET", "/v2/", 1, Lie::status(404));
    assert!(matches!(
        client.login(&registry.host()),
        Err(RegistryError::NotFound { .. })
    ));
}
