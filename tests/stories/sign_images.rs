//! Signatures of images, in cosign's formats: made, kept beside the image, checked, and asked for before an image is used.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use builder::oci::{Descriptor, Digest, media_type};
use serde_json::{Value, json};

use crate::lying::image::{Image, Layer};
use crate::lying::{Lie, LyingRegistry};
use crate::support::{Outcome, Project};

const PASSWORD: &str = "pass word";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn serve(registry: &LyingRegistry, repository: &str, content: &str) -> Digest {
    let image = Image::of(&[Layer::gzip(&[("file", content.as_bytes())])]);
    image.put(registry, repository, "1").digest
}

fn with_password(project: &Project, arguments: &str) -> Outcome {
    let mut program = project.builder(arguments);
    program.env("COSIGN_PASSWORD", PASSWORD).run()
}

/// A project with the pair `NAME.key` and `NAME.pub`.
fn with_pair(project: &Project, name: &str) {
    with_password(project, &format!("generate-key-pair --output-key-prefix {name}")).succeeds();
}

fn sign(project: &Project, arguments: &str) -> Outcome {
    with_password(project, &format!("sign {arguments}"))
}

fn verify(project: &Project, arguments: &str) -> Outcome {
    project.builder(&format!("verify {arguments}")).run()
}

fn signature_tag(digest: Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

#[test]
fn what_one_key_signs_its_other_half_checks() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let (host, digest) = (registry.host(), serve(&registry, "app", "x"));
    with_pair(&project, "own");
    with_pair(&project, "other");
    let mode = fs::metadata(project.directory().join("own.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    with_password(&project, "generate-key-pair --output-key-prefix own")
        .exits(2)
        .says("own.key is there already");

    verify(&project, &format!("--key own.pub {host}/app:1"))
        .exits(1)
        .says("is not signed");
    sign(&project, &format!("--key own.key -a stage=release {host}/app:1"))
        .succeeds()
        .prints(&format!("{host}/app@{digest}\n"));
    let shown = verify(&project, &format!("--key own.pub -a stage=release {host}/app:1")).succeeds();
    let claims: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        claims,
        json!([{
            "critical": {
                "identity": { "docker-reference": format!("{host}/app") },
                "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": { "stage": "release" },
        }])
    );
    verify(&project, &format!("--key other.pub {host}/app:1"))
        .exits(1)
        .says("none was made with the private half of a key that was given");
    verify(&project, &format!("--key other.pub --key own.pub {host}/app@{digest}")).succeeds();
    verify(&project, &format!("--key own.pub -a stage=test {host}/app:1"))
        .exits(1)
        .says("annotation `stage`");

    sign(&project, &format!("--key own.key -a stage=release {host}/app@{digest}"))
        .succeeds()
        .says("has this signature already");
    sign(&project, &format!("--key other.key {host}/app@{digest}")).succeeds();
    let stored: Value = serde_json::from_slice(&registry.manifest("app", &signature_tag(digest)).unwrap()).unwrap();
    assert_eq!(stored["layers"].as_array().unwrap().len(), 2);
    assert_eq!(
        stored["layers"][0]["mediaType"],
        "application/vnd.dev.cosign.simplesigning.v1+json"
    );
    for key in ["own", "other"] {
        verify(&project, &format!("--key {key}.pub {host}/app:1")).succeeds();
    }
    // The name leads elsewhere now, and what is there nobody signed.
    serve(&registry, "app", "y");
    verify(&project, &format!("--key own.pub {host}/app:1"))
        .exits(1)
        .says("is not signed");
}

#[test]
fn passwords_and_keys_stay_unseen() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve(&registry, "app", "x");
    with_pair(&project, "own");
    let key = fs::read_to_string(project.directory().join("own.key")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
    let secret = key.lines().nth(1).unwrap().to_owned();
    let mut wrong = project.builder(&format!("sign --key own.key {host}/app:1"));
    wrong
        .env("COSIGN_PASSWORD", "wr0ng")
        .run()
        .exits(2)
        .says("the private key own.key: the password is wrong")
        .never_says("wr0ng")
        .never_says(&secret);
    project
        .builder(&format!("sign --key own.key {host}/app:1"))
        .run()
        .exits(2)
        .says("there is no terminal to ask for it on")
        .says("COSIGN_PASSWORD");
    sign(&project, &format!("--key own.key {host}/app:1"))
        .succeeds()
        .never_says(PASSWORD)
        .never_says(&secret);
    project.write("no.key", key.replace("ENCRYPTED SIGSTORE", "SOME"));
    sign(&project, &format!("--key no.key {host}/app:1"))
        .exits(2)
        .says("it holds no private key");
    verify(&project, &format!("--key own.key {host}/app:1"))
        .exits(2)
        .says("it holds no public key");
    for request in registry.log() {
        let sent = String::from_utf8_lossy(&request.body).into_owned();
        assert!(!sent.contains(&secret) && !sent.contains(PASSWORD));
    }
}

#[test]
fn keys_of_other_programs_sign() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve(&registry, "app", "x");
    for (name, commands) in [
        ("sec1", "openssl ecparam -name prime256v1 -genkey -noout -out sec1.key"),
        (
            "pkcs8",
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out pkcs8.key",
        ),
        ("ed25519", "openssl genpkey -algorithm ed25519 -out ed25519.key"),
        (
            "rsa",
            "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key",
        ),
    ] {
        let script = format!("{commands} && openssl pkey -in {name}.key -pubout -out {name}.pub");
        let made = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(project.directory())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        project
            .builder(&format!("sign --key {name}.key {host}/app:1"))
            .run()
            .succeeds();
        verify(&project, &format!("--key {name}.pub {host}/app:1")).succeeds();
    }
}

#[test]
fn signatures_that_lie_are_worth_nothing() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let (host, digest) = (registry.host(), serve(&registry, "app", "x"));
    let victim = serve(&registry, "victim", "y");
    with_pair(&project, "own");
    sign(&project, &format!("--key own.key {host}/app:1")).succeeds();
    let good = registry.manifest("app", &signature_tag(digest)).unwrap();
    let check = || verify(&project, &format!("--key own.pub {host}/victim:1"));

    // A good signature of another image.
    let layer = serde_json::from_slice::<Value>(&good).unwrap()["layers"][0].clone();
    let payload: Descriptor = serde_json::from_value(layer).unwrap();
    registry.put_blob("victim", &registry.blob("app", payload.digest).unwrap());
    registry.put_manifest("victim", &signature_tag(victim), media_type::MANIFEST, &good);
    check().exits(1).says(&format!("the signature is of {digest}"));

    // The statement was changed to be of this one.
    let text = String::from_utf8(registry.blob("app", payload.digest).unwrap()).unwrap();
    let forged = text
        .replace(&digest.to_string(), &victim.to_string())
        .replace("/app\"", "/victim\"");
    let put = |content: &[u8], size: u64| {
        registry.put_blob("victim", content);
        let mut manifest: Value = serde_json::from_slice(&good).unwrap();
        manifest["layers"][0]["digest"] = json!(Digest::of(content));
        manifest["layers"][0]["size"] = json!(size);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        registry.put_manifest("victim", &signature_tag(victim), media_type::MANIFEST, &bytes);
    };
    put(forged.as_bytes(), forged.len() as u64);
    check().exits(1).says("none was made with the private half");
    put(b"{}", 2 << 20);
    check().exits(3).says("at most 1048576 are read");

    // Nothing but signatures lies there.
    registry.put_manifest("victim", &signature_tag(victim), media_type::INDEX, &{
        let mut index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": []});
        index["annotations"] = json!({});
        serde_json::to_vec(&index).unwrap()
    });
    check().exits(3).says("it is an index");
    registry.lie("GET", signature_tag(victim), 9, Lie::status(404));
    check().exits(1).says("is not signed");
}

/// A bundle as cosign 3 makes it, of a statement about `subject`, and what leads to it.
fn attach_bundle(
    registry: &LyingRegistry,
    project: &Project,
    key: &str,
    repository: &str,
    subject: Digest,
    kind: &str,
) {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": kind, "predicate": {},
        "subject": [{"digest": {"sha256": subject.hex()}, "annotations": {"stage": "release"}}],
    })
    .to_string();
    let payload_type = "application/vnd.in-toto+json";
    let signed = format!(
        "DSSEv1 {} {payload_type} {} {statement}",
        payload_type.len(),
        statement.len()
    );
    project.write("signed", signed);
    let signature = std::process::Command::new("sh")
        .args(["-c", &format!("openssl dgst -sha256 -sign {key} signed | base64 -w0")])
        .current_dir(project.directory())
        .output()
        .unwrap();
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}},
        "dsseEnvelope": {
            "payload": BASE64.encode(&statement), "payloadType": payload_type,
            "signatures": [{"sig": String::from_utf8(signature.stdout).unwrap()}],
        },
    })
    .to_string();
    let empty = Descriptor::of("application/vnd.oci.empty.v1+json", b"{}");
    for blob in [bundle.as_bytes(), b"{}"] {
        registry.put_blob(repository, blob);
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": BUNDLE, "config": empty,
        "layers": [Descriptor::of(BUNDLE, bundle.as_bytes())],
        "subject": Descriptor::new(media_type::MANIFEST, subject, 1),
    })
    .to_string();
    let mut listed = Descriptor::of(media_type::MANIFEST, manifest.as_bytes());
    listed.other.insert("artifactType".into(), BUNDLE.into());
    registry.put_manifest(
        repository,
        &listed.digest.to_string(),
        media_type::MANIFEST,
        manifest.as_bytes(),
    );
    let index = builder::oci::Raw::new(builder::oci::ImageIndex::new(vec![listed]));
    let place = subject.to_string().replace(':', "-");
    registry.put_manifest(repository, &place, media_type::INDEX, index.bytes());
}

#[test]
fn signatures_in_bundles_are_read() {
    const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let (host, digest) = (registry.host(), serve(&registry, "app", "x"));
    let script = "for name in own other; do openssl ecparam -name prime256v1 -genkey -noout -out $name.key && \
                  openssl pkey -in $name.key -pubout -out $name.pub || exit 1; done";
    let made = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(project.directory())
        .status();
    assert!(made.unwrap().success());
    let check = |arguments: &str| verify(&project, &format!("{arguments} {host}/app:1"));
    check("--key own.pub").exits(1).says("is not signed");
    // An SBOM that the key signed is no signature of the image.
    attach_bundle(
        &registry,
        &project,
        "own.key",
        "app",
        digest,
        "https://spdx.dev/Document",
    );
    check("--key own.pub").exits(1).says("no statement about an image");
    attach_bundle(&registry, &project, "own.key", "app", Digest::of(b"another"), SIGNED);
    let misplaced = registry
        .manifest("app", &Digest::of(b"another").to_string().replace(':', "-"))
        .unwrap();
    registry.put_manifest(
        "app",
        &digest.to_string().replace(':', "-"),
        media_type::INDEX,
        &misplaced,
    );
    check("--key own.pub").exits(1).says("the signature is of sha256:");
    attach_bundle(&registry, &project, "own.key", "app", digest, SIGNED);
    check("--key other.pub")
        .exits(1)
        .says("none was made with the private half");
    check("--key own.pub -a stage=test").exits(1).says("annotation `stage`");
    let shown = check("--key own.pub -a stage=release").succeeds();
    let claims: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        claims[0]["critical"]["image"]["docker-manifest-digest"],
        digest.to_string()
    );
    assert_eq!(claims[0]["critical"]["type"], SIGNED);
    // Both forms beside each other.
    project
        .builder(&format!("sign --key other.key {host}/app:1"))
        .run()
        .succeeds();
    check("--key other.pub").succeeds();
    check("--key own.pub").succeeds();
    verify(&project, &format!("--key none.pub {host}/app:1"))
        .exits(2)
        .says("none.pub")
        .says("`builder generate-key-pair` makes");
}

#[test]
fn a_copy_is_of_the_repository_that_it_names() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let (host, digest) = (registry.host(), serve(&registry, "staging/app", "x"));
    with_pair(&project, "own");
    sign(&project, &format!("--key own.key {host}/staging/app:1")).succeeds();
    serve(&registry, "app", "x");
    let manifest = registry.manifest("staging/app", &signature_tag(digest)).unwrap();
    let document: Value = serde_json::from_slice(&manifest).unwrap();
    let payload: Descriptor = serde_json::from_value(document["layers"][0].clone()).unwrap();
    registry.put_blob("app", &registry.blob("staging/app", payload.digest).unwrap());
    registry.put_manifest("app", &signature_tag(digest), media_type::MANIFEST, &manifest);
    verify(&project, &format!("--key own.pub {host}/app:1"))
        .exits(1)
        .says(&format!("of an image of `{host}/staging/app`"))
        .says("--repository");
    verify(
        &project,
        &format!("--key own.pub --repository {host}/staging/app {host}/app:1"),
    )
    .succeeds();
}

#[test]
fn base_images_must_be_signed_where_the_configuration_says_so() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    let signed = serve(&registry, "team/base", "signed");
    serve(&registry, "team/other", "x");
    serve(&registry, "free", "x");
    with_pair(&project, "own");
    sign(&project, &format!("--key own.key {host}/team/base:1")).succeeds();
    fs::copy(
        project.directory().join("own.pub"),
        project.config().with_file_name("own.pub"),
    )
    .unwrap();
    let mut config = fs::read_to_string(project.config()).unwrap();
    config.push_str(&format!(
        "[[policy.signed]]\nimage = \"{host}/team/*\"\nkeys = [\"own.pub\"]\n"
    ));
    fs::write(project.config(), config).unwrap();

    project.write(
        "Dockerfile",
        format!("FROM {host}/team/base:1\nCOPY --from={host}/free:1 /file /free\n"),
    );
    project.build(".").succeeds();
    project.write(
        "Dockerfile",
        format!("FROM scratch\nCOPY --from={host}/team/other:1 /file /\n"),
    );
    project
        .build(".")
        .exits(1)
        .says("Dockerfile:2:13")
        .says(&format!("`{host}/team/other:1` must be signed"))
        .says("is not signed");
    assert_eq!(
        registry.count("GET", "/v2/team/other/blobs/"),
        0,
        "nothing of it was fetched"
    );
    project
        .builder(&format!("pull {host}/team/other:1"))
        .run()
        .exits(1)
        .says("must be signed");
    project
        .run(&format!("{host}/team/other:1"))
        .exits(125)
        .says("must be signed");

    // Nothing is pinned that no build could use.
    project
        .builder("update")
        .run()
        .exits(1)
        .says(&format!("image `{host}/team/other:1` cannot be used"))
        .says("must be signed");
    assert!(!project.directory().join("builder.lock").exists());

    // What is used is what was checked, whatever the name leads to a moment later.
    project.builder(&format!("pull {host}/team/base:1")).run().succeeds();
    serve(&registry, "team/base", "unsigned");
    project.write("Dockerfile", format!("FROM {host}/team/base:1\n"));
    project.build("--pull .").exits(1).says("is not signed");
    project.write("Dockerfile", format!("FROM {host}/team/base:1@{signed}\n"));
    project.build(".").succeeds();
}
