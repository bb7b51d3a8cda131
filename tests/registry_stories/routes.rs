//! The ways to a registry: proxies, sockets, certificates of both sides, and none at all.

use builder::cancel::Cancel;
use builder::registry::{Client, Credentials, Proxies, RegistryConfig, RegistryError, Security};

use super::registry::image::{Image, Layer};
use super::registry::{Lie, LyingRegistry, tls};
use super::{client_with, patience, reference, shown};

fn image() -> Image {
    Image::of(&[Layer::gzip(&[("a", b"1")])])
}

/// `localhost:<port>`: the name in the certificate.
fn name(registry: &LyingRegistry) -> String {
    registry.host().replace("127.0.0.1", "localhost")
}

fn configured(toml: &str, change: impl FnOnce(&mut RegistryConfig)) -> Client {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        registry: RegistryConfig,
    }
    let mut config = toml::from_str::<File>(toml).unwrap().registry;
    change(&mut config);
    Client::with_patience(config, Credentials::default(), Cancel::new().unwrap(), patience())
}

fn through(proxy: &str, toml: &str) -> Client {
    configured(toml, |config| {
        config.proxies = Proxies::new(Some(proxy), Some(proxy), "").unwrap();
    })
}

#[test]
fn a_proxy_stands_between_and_is_told_who_asks() {
    let proxy = LyingRegistry::start_proxy();
    let image = image();
    image.put(&proxy, "a", "1");
    let toml = "[registry.\"plain.invalid\"]\nhttp = true\n[registry.\"secure.invalid\"]\ninsecure = true";
    let client = through(&format!("http://me:pass-word@{}", proxy.host()), toml);
    // Plain, and in a tunnel: neither name resolves here.
    for server in ["plain.invalid", "secure.invalid"] {
        let name = reference(format!("{server}/a:1"));
        assert_eq!(client.manifest(&name).unwrap().0.bytes(), image.manifest.bytes());
        client
            .blob(&name, &image.layers[0].descriptor())
            .unwrap()
            .read_all()
            .unwrap();
    }
    let log = proxy.log();
    let plain: Vec<_> = log
        .iter()
        .filter(|request| request.header("asked-for") == Some("plain.invalid"))
        .collect();
    let tunnels: Vec<_> = log.iter().filter(|request| request.method == "CONNECT").collect();
    assert!(
        plain.len() == 2 && !tunnels.is_empty() && tunnels[0].target == "secure.invalid:443",
        "{log:?}"
    );
    // me:pass-word
    let shown = Some("Basic bWU6cGFzcy13b3Jk");
    assert!(
        plain
            .iter()
            .chain(&tunnels)
            .all(|request| request.header("proxy-authorization") == shown)
    );
    // The registry behind the tunnel learns nothing of that.
    let inside = log
        .iter()
        .filter(|request| request.method == "GET" && request.header("asked-for").is_none());
    assert!(inside.clone().count() > 0);
    assert!(
        inside
            .clone()
            .all(|request| request.header("proxy-authorization").is_none())
    );
}

#[test]
fn a_proxy_that_fails_is_named_without_its_password() {
    let proxy = LyingRegistry::start_proxy();
    proxy.lie("CONNECT", "refused.invalid", 99, Lie::status(407));
    let url = format!("http://me:pass-word@{}", proxy.host());
    let client = through(&url, "");
    let error = client.manifest(&reference("refused.invalid/a:1")).unwrap_err();
    let text = format!("{} {error:?} {:?}", shown(&error), error.hint());
    assert!(
        text.contains(&format!("through the proxy http://{}", proxy.host())),
        "{text}"
    );
    assert!(!text.contains("pass-word") && !text.contains("cGFzcy13b3Jk"), "{text}");
    // A port where nobody listens.
    let client = through("http://me:pass-word@127.0.0.1:1", "");
    let text = shown(&client.manifest(&reference("down.invalid/a:1")).unwrap_err());
    assert!(
        text.contains("through the proxy http://127.0.0.1:1") && !text.contains("pass-word"),
        "{text}"
    );
}

#[test]
fn this_machine_is_reached_without_a_proxy() {
    let registry = LyingRegistry::start();
    image().put(&registry, "a", "1");
    let client = through("http://127.0.0.1:1", "");
    client.manifest(&reference(registry.host() + "/a:1")).unwrap();
}

#[test]
fn a_registry_may_listen_on_a_socket() {
    let registry = LyingRegistry::start();
    let image = image();
    image.put(&registry, "a", "1");
    image.put(&registry, "library/a", "1");
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("registry.sock");
    registry.listen_at(&socket);
    let path = socket.display();
    // As a mirror, and as the registry itself, credentials included.
    let toml = format!(
        "[registry.\"docker.io\"]\nmirrors = [\"unix://{path}\"]\n[registry.\"here.invalid\"]\nsocket = \"{path}\""
    );
    let client = client_with(&toml, Vec::new());
    for name in ["a:1", "here.invalid/a:1"] {
        let name = reference(name);
        client.manifest(&name).unwrap();
        client
            .blob(&name, &image.layers[0].descriptor())
            .unwrap()
            .read_all()
            .unwrap();
    }
    let open = || Ok(Box::new(&b"content"[..]) as Box<dyn std::io::Read + Send>);
    let descriptor = builder::oci::Descriptor::of("x", b"content");
    client
        .upload_blob(&reference("here.invalid/b:1"), &descriptor, None, &open)
        .unwrap();
    assert!(registry.blob("b", descriptor.digest).is_some());
    let gone = "[registry.\"here.invalid\"]\nsocket = \"/nowhere/registry.sock\"";
    let text = shown(
        &client_with(gone, Vec::new())
            .manifest(&reference("here.invalid/a:1"))
            .unwrap_err(),
    );
    assert!(text.contains("through the socket /nowhere/registry.sock"), "{text}");
}

#[test]
fn a_registry_may_want_to_see_a_certificate() {
    let registry = LyingRegistry::start_for_clients();
    image().put(&registry, "a", "1");
    let host = name(&registry);
    let table = format!("[registry.\"{host}\"]\nhttp = false\nca = {:?}\n", tls::AUTHORITY);
    let wanted = reference(format!("{host}/a:1"));
    let (certificate, key) = tls::CLIENT;
    let with = client_with(&format!("{table}cert = {certificate:?}\nkey = {key:?}"), Vec::new());
    with.manifest(&wanted).unwrap();
    let without = client_with(&table, Vec::new());
    assert!(matches!(
        without.manifest(&wanted),
        Err(RegistryError::Unreachable { .. })
    ));
    let half = client_with(&format!("{table}cert = {certificate:?}"), Vec::new());
    assert!(half.manifest(&wanted).unwrap_err().to_string().contains("needs both"));
    let swapped = client_with(&format!("{table}cert = {key:?}\nkey = {certificate:?}"), Vec::new());
    assert!(matches!(
        swapped.manifest(&wanted),
        Err(RegistryError::CertificateFile { .. })
    ));
}

#[test]
fn certificates_lie_where_docker_and_podman_keep_them() {
    let registry = LyingRegistry::start_for_clients();
    image().put(&registry, "a", "1");
    let host = name(&registry);
    let wanted = reference(format!("{host}/a:1"));
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("certs.d").join(&host);
    std::fs::create_dir_all(&own).unwrap();
    let put = |file: &str, source: &str| std::fs::copy(source, own.join(file)).unwrap();
    put("private.crt", tls::AUTHORITY);
    put("me.cert", tls::CLIENT.0);
    put("me.key", tls::CLIENT.1);
    std::fs::write(own.join("README"), "not a certificate").unwrap();
    let plain = format!("[registry.\"{host}\"]\nhttp = false");
    let absent = root.path().join("absent");
    let listed = configured(&plain, |config| {
        config.certificates = vec![absent.clone(), root.path().join("certs.d")]
    });
    listed.manifest(&wanted).unwrap();
    let named = configured(&plain, |config| config.own_certificates = Some(own.clone()));
    named.manifest(&wanted).unwrap();
    // Another host's directory is not read, whatever is wrong there.
    let other = root.path().join("certs.d/other.invalid");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("broken.crt"), "no certificate").unwrap();
    listed.manifest(&wanted).unwrap();
    std::fs::remove_file(own.join("me.key")).unwrap();
    let broken = configured(&plain, |config| config.own_certificates = Some(own.clone()));
    let error = broken.manifest(&wanted).unwrap_err();
    assert!(error.to_string().contains("me.key"), "{error}");
}

#[test]
fn a_certificate_of_nobody_s_is_taken_only_where_that_is_said() {
    let (registry, other) = (LyingRegistry::start_tls(), LyingRegistry::start_tls());
    let image = image();
    image.put(&registry, "a", "1");
    image.put(&other, "a", "1");
    // Not even the name has to fit.
    let host = registry.host();
    let client = client_with(
        &format!("[registry.\"{host}\"]\nhttp = false\ninsecure = true"),
        Vec::new(),
    );
    client.manifest(&reference(format!("{host}/a:1"))).unwrap();
    // It does not follow redirects.
    let layer = image.layers[0].descriptor();
    let away = format!("https://{}/v2/a/blobs/{}", other.host(), layer.digest);
    registry.lie("GET", "/blobs/", 1, Lie::redirect(307, away));
    let error = client.blob(&reference(format!("{host}/a:1")), &layer).err().unwrap();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }) && other.log().is_empty(),
        "{error:?}"
    );
}

#[test]
fn without_security_a_registry_is_asked_as_it_can_be() {
    let (secure, plain) = (LyingRegistry::start_tls(), LyingRegistry::start());
    let client = configured("", |config| config.security = Security::Waived);
    for registry in [&secure, &plain] {
        image().put(registry, "a", "1");
        let name = reference(registry.host() + "/a:1");
        client.manifest(&name).unwrap();
        client.manifest(&name).unwrap();
    }
    // The question which protocol it speaks is asked once.
    assert_eq!(
        (secure.count("GET", "/v2/"), plain.count("GET", "/v2/")),
        (1 + 2, 1 + 2)
    );
    let nobody = configured("", |config| config.security = Security::Waived);
    let error = nobody.manifest(&reference("127.0.0.1:1/a:1")).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
}
