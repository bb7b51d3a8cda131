//! What refers to an image: listed by registries, or under a tag where they have no such list; and lists in pages.

use builder::oci::{Descriptor, Digest, ImageIndex, Reference, media_type};
use builder::registry::{Client, RegistryError};

use super::registry::debian::DebianRegistry;
use super::registry::image::{Image, Layer};
use super::registry::{Guard, Lie, LyingRegistry};
use super::{client, client_with, reference};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Pushes an artifact of type `kind` that refers to `subject`; its digest.
fn attach(client: &Client, name: &Reference, subject: &Descriptor, kind: &str) -> Digest {
    let empty = Descriptor::of(EMPTY, b"{}");
    let open = || Ok(Box::new(&b"{}"[..]) as Box<dyn std::io::Read + Send>);
    client.upload_blob(name, &empty, None, &open).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": kind, "config": empty, "layers": [empty],
        "subject": subject, "annotations": {"says": kind},
    });
    let bytes = manifest.to_string().into_bytes();
    let pinned = name.with_digest(Digest::of(&bytes));
    client.put_manifest(&pinned, media_type::MANIFEST, &bytes).unwrap()
}

/// An image at `host`, and its descriptor without platform.
fn image(client: &Client, host: &str) -> (Reference, Descriptor) {
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    let name = reference(format!("{host}/a:1"));
    for (descriptor, bytes) in [
        (image.layers[0].descriptor(), image.layers[0].blob.clone()),
        (
            image.config.descriptor(media_type::CONFIG),
            image.config.bytes().to_vec(),
        ),
    ] {
        let open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn std::io::Read + Send>);
        client.upload_blob(&name, &descriptor, None, &open).unwrap();
    }
    client
        .put_manifest(&name, media_type::MANIFEST, image.manifest.bytes())
        .unwrap();
    (name, image.manifest.descriptor(media_type::MANIFEST))
}

/// Attaches three, and reads them back in every way.
fn attach_and_list(host: &str) {
    let client = client();
    let (name, subject) = image(&client, host);
    assert!(client.referrers(&name, subject.digest, None).unwrap().is_empty());
    let made = ["x/a", "x/b", "x/a"].map(|kind| attach(&client, &name, &subject, kind));
    // The first and the third say the same, byte by byte.
    assert_eq!(made[0], made[2]);
    let listed = client.referrers(&name, subject.digest, None).unwrap();
    let mut digests: Vec<Digest> = listed.iter().map(|entry| entry.digest).collect();
    digests.sort();
    let mut expected = made[..2].to_vec();
    expected.sort();
    assert_eq!(digests, expected);
    let wanted = client.referrers(&name, subject.digest, Some("x/b")).unwrap();
    assert_eq!(wanted.len(), 1);
    assert_eq!(
        (wanted[0].digest, &wanted[0].other["artifactType"]),
        (made[1], &"x/b".into())
    );
    assert_eq!(wanted[0].annotations["says"], "x/b");
    assert!(client.referrers(&name, subject.digest, Some("x/c")).unwrap().is_empty());
    assert!(client.referrers(&name, made[1], None).unwrap().is_empty());
}

#[test]
fn a_registry_lists_what_refers_to_an_image() {
    let registry = LyingRegistry::start();
    registry.list_referrers();
    attach_and_list(&registry.host());
    // Nobody needs a tag then.
    assert_eq!(registry.count("PUT", "/manifests/sha256-"), 0);
    assert_eq!(registry.count("GET", "/manifests/sha256-"), 0);
}

#[test]
fn a_tag_stands_in_where_a_registry_has_no_such_list() {
    let registry = LyingRegistry::start();
    attach_and_list(&registry.host());
    assert_eq!(registry.count("PUT", "/manifests/sha256-"), 2);
}

#[test]
fn the_tag_stands_in_at_debian_s_registry() {
    let registry = DebianRegistry::start();
    attach_and_list(&registry.host());
}

#[test]
fn servers_that_know_no_such_list_say_so_in_several_ways() {
    let page = || {
        Lie::Answer(
            200,
            vec![("Content-Type", "text/html; charset=utf-8".into())],
            b"<html>".to_vec(),
        )
    };
    for lie in [400, 404, 405, 406, 501].map(Lie::status).into_iter().chain([page()]) {
        let registry = LyingRegistry::start();
        let client = client();
        let (name, subject) = image(&client, &registry.host());
        let made = attach(&client, &name, &subject, "x/a");
        registry.lie("GET", "/referrers/", 1, lie.clone());
        let listed = client.referrers(&name, subject.digest, None).unwrap();
        assert_eq!(
            listed.iter().map(|entry| entry.digest).collect::<Vec<_>>(),
            [made],
            "{lie:?}"
        );
    }
    // One sends whoever asks to a site for people, which is not asked.
    let (registry, elsewhere) = (LyingRegistry::start(), LyingRegistry::start());
    registry.lie("GET", "/referrers/", 1, Lie::redirect(303, elsewhere.url("/packages")));
    let name = reference(registry.host() + "/a:1");
    assert!(client().referrers(&name, Digest::of(b""), None).unwrap().is_empty() && elsewhere.log().is_empty());
    // Another takes the tag for the digest that it is made of: what it gives is the image itself.
    let client = client();
    let (name, subject) = image(&client, &registry.host());
    let index = ImageIndex::new(vec![subject.clone()]);
    let bytes = builder::oci::Raw::new(index).bytes().to_vec();
    let digest = Digest::of(&bytes);
    let tag = digest.to_string().replace(':', "-");
    registry.put_manifest("a", &tag, media_type::INDEX, &bytes);
    assert!(client.referrers(&name, digest, None).unwrap().is_empty());
    let registry = LyingRegistry::start();
    registry.lie("GET", "/referrers/", 99, Lie::status(403));
    let name = reference(registry.host() + "/a:1");
    let error = client.referrers(&name, Digest::of(b""), None).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
}

#[test]
fn what_is_written_at_the_same_time_is_not_lost() {
    let registry = LyingRegistry::start();
    let one = client();
    let (name, subject) = image(&one, &registry.host());
    attach(&one, &name, &subject, "x/first");
    // Somebody who read the list before puts one without the entry, right after ours.
    let tag = format!("sha256-{}", subject.digest.to_string().replace("sha256:", ""));
    let stale = registry.manifest("a", &tag).unwrap();
    registry.lie_later(
        "GET",
        format!("/manifests/{tag}"),
        1,
        1,
        Lie::Answer(200, vec![("Content-Type", media_type::INDEX.into())], stale),
    );
    let made = attach(&one, &name, &subject, "x/second");
    let listed = one.referrers(&name, subject.digest, None).unwrap();
    assert!(
        listed.iter().any(|entry| entry.digest == made) && listed.len() == 2,
        "{listed:?}"
    );
    // One that keeps nothing is not asked for ever.
    registry.lie("PUT", format!("/manifests/{tag}"), 99, Lie::status(201));
    let manifest =
        serde_json::json!({"schemaVersion": 2, "config": subject, "layers": [], "subject": subject}).to_string();
    let pinned = name.with_digest(Digest::of(manifest.as_bytes()));
    let error = one
        .put_manifest(&pinned, media_type::MANIFEST, manifest.as_bytes())
        .unwrap_err();
    assert!(error.to_string().contains("does not keep"), "{error}");
}

#[test]
fn mirrors_are_asked_first_and_the_registry_when_they_know_of_none() {
    let (registry, mirror) = (LyingRegistry::start(), LyingRegistry::start());
    let plain = client();
    let (name, subject) = image(&plain, &registry.host());
    let made = attach(&plain, &name, &subject, "x/a");
    let config = format!(
        "[registry.\"{}\"]\nmirrors = [\"http://{}\"]",
        registry.host(),
        mirror.host()
    );
    let mirrored = client_with(&config, Vec::new());
    assert_eq!(mirrored.referrers(&name, subject.digest, None).unwrap()[0].digest, made);
    assert!(mirror.count("GET", "/referrers/") > 0);
    let (there, _) = image(&plain, &mirror.host());
    attach(&plain, &there, &subject, "x/mirrored");
    let asked = registry.log().len();
    assert_eq!(
        mirrored
            .referrers(&name, subject.digest, Some("x/mirrored"))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(registry.log().len(), asked);
}

#[test]
fn lists_come_in_pages_and_end() {
    let registry = LyingRegistry::start();
    registry.list_referrers();
    registry.page(2);
    let client = client();
    let (name, subject) = image(&client, &registry.host());
    for kind in ["x/a", "x/b", "x/c", "x/d", "x/e"] {
        attach(&client, &name, &subject, kind);
        registry.put_manifest("a", &kind.replace('/', "-"), media_type::INDEX, b"{}");
    }
    assert_eq!(client.referrers(&name, subject.digest, None).unwrap().len(), 5);
    assert_eq!(client.tags(&name).unwrap(), ["1", "x-a", "x-b", "x-c", "x-d", "x-e"]);
    // Three pages each.
    assert_eq!(
        (
            registry.count("GET", "/referrers/"),
            registry.count("GET", "/tags/list")
        ),
        (3, 3)
    );
    // A list that leads back to its beginning.
    let link = Lie::Header("Link", Some("</v2/a/tags/list>; rel=\"next\"".into()));
    registry.lie("GET", "/tags/list", usize::MAX, link);
    let error = client.tags(&name).unwrap_err();
    assert!(error.to_string().contains("more than anybody would read"), "{error}");
}

#[test]
fn a_list_that_leads_elsewhere_stays_where_it_began() {
    let (registry, elsewhere) = (LyingRegistry::start(), LyingRegistry::start());
    registry.put_manifest("a", "1", media_type::INDEX, b"{}");
    registry.guard(Guard::Basic("me:secret"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    std::fs::write(
        &file,
        serde_json::json!({"auths": {registry.host(): {"auth": "bWU6c2VjcmV0"}}}).to_string(),
    )
    .unwrap();
    let link = Lie::Header(
        "Link",
        Some(format!("<{}>; rel=\"next\"", elsewhere.url("/v2/a/tags/list?last=1"))),
    );
    // The first answer is the challenge.
    registry.lie_later("GET", "/tags/list", 1, 1, link);
    let client = client_with("", vec![file]);
    assert_eq!(client.tags(&reference(registry.host() + "/a:1")).unwrap(), ["1"]);
    assert!(elsewhere.log().is_empty());
    assert_eq!(registry.count("GET", "last=1"), 1);
}

#[test]
fn lists_that_are_none_are_refused() {
    let name = |registry: &LyingRegistry| reference(registry.host() + "/a:1");
    for body in [&b"["[..], b"{\"tags\": 1}", b"[]", &[b' '; (4 << 20) + 1]] {
        let registry = LyingRegistry::start();
        registry.lie("GET", "/tags/list", 1, Lie::Answer(200, Vec::new(), body.to_vec()));
        let error = client().tags(&name(&registry)).unwrap_err();
        assert!(error.to_string().contains("no list of tags"), "{error}");
        registry.lie("GET", "/referrers/", 1, Lie::Answer(200, Vec::new(), body.to_vec()));
        let error = client().referrers(&name(&registry), Digest::of(b""), None).unwrap_err();
        assert!(matches!(error, RegistryError::Manifest { .. }), "{error:?}");
    }
    // Tags that are none are passed over; nothing at all is nothing.
    let registry = LyingRegistry::start();
    let body = br#"{"tags": ["ok", "../x", "\u001b[2J", ""]}"#.to_vec();
    registry.lie("GET", "/tags/list", 1, Lie::Answer(200, Vec::new(), body));
    assert_eq!(client().tags(&name(&registry)).unwrap(), ["ok"]);
    registry.lie(
        "GET",
        "/tags/list",
        1,
        Lie::Answer(200, Vec::new(), b"{\"tags\": null}".to_vec()),
    );
    assert!(client().tags(&name(&registry)).unwrap().is_empty());
    // A manifest where the index of referrers should be.
    let image = Image::of(&[]);
    let tag = format!("sha256-{}", "0".repeat(64));
    registry.put_manifest("a", &tag, media_type::MANIFEST, image.manifest.bytes());
    let zeros = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = client().referrers(&name(&registry), zeros, None).unwrap_err();
    assert!(error.to_string().contains("and is a manifest"), "{error}");
    // An index that is too long for anybody.
    let many = ImageIndex::new(vec![Descriptor::of("x", b""); 5000]);
    let bytes = builder::oci::Raw::new(many).bytes().to_vec();
    registry.lie("GET", "/referrers/", 1, Lie::Answer(200, Vec::new(), bytes));
    assert!(client().referrers(&name(&registry), zeros, None).is_err());
}
