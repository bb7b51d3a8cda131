//! Uploads that break at every stage, of blobs that are known before and of blobs that are made while they are sent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use builder::cancel::Cancel;
use builder::oci::{Descriptor, Digest, media_type};
use builder::registry::{Client, Credentials, Offer, RegistryConfig, RegistryError, StreamError, Streamed, Uploaded};

use super::registry::debian::DebianRegistry;
use super::registry::{Guard, Lie, LyingRegistry};
use super::{client, patience, reference, shown};

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as u8)
        .collect()
}

fn upload_known(registry: &LyingRegistry, content: &[u8]) -> Result<Uploaded, RegistryError> {
    let descriptor = Descriptor::of(media_type::LAYER, content);
    let open = || Ok(Box::new(content) as Box<dyn Read + Send>);
    client().upload_blob(&reference(registry.host() + "/a"), &descriptor, None, &open)
}

/// Sends `content` in writes of changing lengths.
fn stream(client: &Client, host: &str, content: &[u8]) -> Result<Streamed, StreamError> {
    let mut make = |out: &mut dyn Write| {
        let (mut rest, mut length) = (content, 1000);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(length));
            out.write_all(piece)?;
            (rest, length) = (after, length * 7 % 300_007 + 1);
        }
        Ok(())
    };
    client.upload_stream(&reference(format!("{host}/a")), None, &mut make)
}

/// Streams to a registry, and looks at what came of it.
fn streamed(registry: &LyingRegistry, content: &[u8]) {
    let sent = stream(&client(), &registry.host(), content).unwrap();
    let expected = (Digest::of(content), content.len() as u64, Uploaded::Sent);
    assert_eq!((sent.digest, sent.size, sent.how), expected);
    assert!(registry.blob("a", sent.digest).unwrap() == content);
    assert_eq!(registry.open_uploads(), 0);
}

#[test]
fn a_known_blob_goes_on_where_it_broke_off() {
    let content = content(3_000_000);
    for (lie, times, posts) in [
        (Lie::CutRequest(1_000_000), 1, 1),
        (Lie::CutRequest(0), 2, 1),
        (Lie::Slam, 3, 1),
        (Lie::status(503), 2, 1),
        (Lie::Lost, 1, 1),
    ] {
        let registry = LyingRegistry::start();
        registry.lie("PUT", "/uploads/", times, lie.clone());
        let how = upload_known(&registry, &content).unwrap();
        assert!(registry.blob("a", Digest::of(&content)).unwrap() == content, "{lie:?}");
        assert_eq!(
            (registry.count("POST", ""), registry.open_uploads()),
            (posts, 0),
            "{lie:?}"
        );
        match lie {
            Lie::CutRequest(1_000_000) => {
                let rest = registry
                    .log()
                    .into_iter()
                    .find(|request| request.method == "PATCH")
                    .unwrap();
                assert_eq!(rest.header("content-range"), Some("1000000-2999999"));
                assert_eq!(rest.body.len(), 2_000_000);
            }
            // It had arrived, and only the answer not.
            Lie::Lost => assert_eq!(how, Uploaded::AlreadyThere),
            _ => assert_eq!(how, Uploaded::Sent),
        }
    }
}

#[test]
fn a_known_blob_begins_anew_where_the_registry_forgot_it() {
    let content = content(2_000_000);
    let registry = LyingRegistry::start();
    registry.lie("PUT", "/uploads/", 1, Lie::CutRequest(500_000));
    registry.lie("GET", "/uploads/", 1, Lie::status(404));
    assert_eq!(upload_known(&registry, &content).unwrap(), Uploaded::Sent);
    assert_eq!(registry.count("POST", ""), 2);
    assert!(registry.blob("a", Digest::of(&content)).unwrap() == content);
}

#[test]
fn the_rest_of_a_known_blob_may_break_too() {
    let content = content(3_000_000);
    let registry = LyingRegistry::start();
    registry.lie("PUT", "/uploads/", 1, Lie::CutRequest(1_000_000));
    registry.lie("PATCH", "/uploads/", 1, Lie::CutRequest(700_000));
    registry.lie("PATCH", "/uploads/", 1, Lie::Lost);
    registry.lie_later("PUT", "/uploads/", 0, 1, Lie::status(500));
    assert_eq!(upload_known(&registry, &content).unwrap(), Uploaded::Sent);
    assert_eq!((registry.count("POST", ""), registry.open_uploads()), (1, 0));
    assert!(registry.blob("a", Digest::of(&content)).unwrap() == content);
}

#[test]
fn a_short_blob_is_one_request_where_that_is_understood() {
    for understood in [true, false] {
        let registry = LyingRegistry::start();
        if understood {
            registry.take_single_posts();
        }
        assert_eq!(upload_known(&registry, b"short").unwrap(), Uploaded::Sent);
        let puts = usize::from(!understood);
        assert_eq!((registry.count("POST", ""), registry.count("PUT", "")), (1, puts));
        assert_eq!(registry.blob("a", Digest::of(b"short")).unwrap(), b"short");
    }
    let registry = LyingRegistry::start();
    registry.lie("POST", "digest=", 1, Lie::status(405));
    assert_eq!(upload_known(&registry, b"short").unwrap(), Uploaded::Sent);
}

#[test]
fn an_upload_that_is_given_up_is_taken_back() {
    let content = content(2_000_000);
    let registry = LyingRegistry::start();
    registry.lie("PUT", "/uploads/", 1, Lie::status(403));
    assert!(matches!(
        upload_known(&registry, &content).unwrap_err(),
        RegistryError::Denied { .. }
    ));
    assert_eq!((registry.open_uploads(), registry.count("DELETE", "/uploads/")), (0, 1));
}

#[test]
fn a_stream_becomes_a_blob() {
    for length in [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000, 20_000_000] {
        streamed(&LyingRegistry::start(), &content(length));
    }
}

#[test]
fn a_short_stream_that_is_there_is_not_sent() {
    let registry = LyingRegistry::start();
    let content = content(500_000);
    registry.put_blob("a", &content);
    let sent = stream(&client(), &registry.host(), &content).unwrap();
    assert_eq!(sent.how, Uploaded::AlreadyThere);
    assert_eq!(registry.count("POST", ""), 0);
}

#[test]
fn a_stream_goes_on_where_it_broke_off() {
    let content = content(10_000_000);
    for (method, lie, times) in [
        ("PATCH", Lie::Slam, 2),
        ("PATCH", Lie::CutRequest(2), 1),
        ("PATCH", Lie::CutRequest(9_000_001), 3),
        ("PATCH", Lie::Lost, 1),
        ("PATCH", Lie::status(502), 1),
        // Everything came, and the registry says less.
        ("PATCH", Lie::Header("Range", Some("0-99".into())), 1),
        ("PUT", Lie::status(503), 2),
        ("PUT", Lie::Slam, 1),
        ("PUT", Lie::Lost, 1),
        ("GET", Lie::status(500), 1),
    ] {
        let registry = LyingRegistry::start();
        if method == "GET" {
            registry.lie("PATCH", "/uploads/", 1, Lie::CutRequest(5_000_000));
        }
        registry.lie(method, "/uploads/", times, lie.clone());
        streamed(&registry, &content);
        assert_eq!(registry.count("POST", ""), 1, "{method} {lie:?} {times}");
    }
}

/// More breaks than there are tries, each of which brings it forward.
#[test]
fn a_stream_that_gets_on_is_not_given_up() {
    let content = content(12_000_000);
    let registry = LyingRegistry::start();
    let breaks = patience().attempts as usize + 3;
    registry.lie("PATCH", "/uploads/", breaks, Lie::CutRequest(1_000_000));
    streamed(&registry, &content);
    assert_eq!(
        (registry.count("POST", ""), registry.count("PATCH", "")),
        (1, breaks + 1)
    );
}

#[test]
fn a_stream_is_made_again_where_the_rest_is_not_known_any_more() {
    let content = content(30_000_000);
    let registry = LyingRegistry::start();
    registry.lie("PATCH", "/uploads/", 1, Lie::CutRequest(25_000_000));
    // Further back than what is kept.
    registry.lie("GET", "/uploads/", 1, Lie::Header("Range", Some("0-1000000".into())));
    streamed(&registry, &content);
    assert_eq!(registry.count("POST", ""), 2);
}

#[test]
fn parts_are_as_long_as_the_registry_wants_them() {
    let content = content(21_000_000);
    for (least, longest) in [(1, 8 << 20), (10_000_000, 10_000_000), (1 << 40, 21_000_000)] {
        let registry = LyingRegistry::start();
        registry.want_parts(least);
        streamed(&registry, &content);
        let parts: Vec<_> = registry
            .log()
            .into_iter()
            .filter(|request| request.method == "PATCH")
            .collect();
        assert_eq!(parts.iter().map(|part| part.body.len()).max(), Some(longest), "{least}");
        assert_eq!(parts[0].header("content-range").is_some(), least < 1 << 40);
        assert!(parts.iter().rev().skip(1).all(|part| part.body.len() == longest));
    }
}

#[test]
fn parts_that_break_go_on() {
    let content = content(20_000_000);
    for lie in [
        Lie::Slam,
        Lie::CutRequest(5_000_000),
        Lie::Lost,
        Lie::status(500),
        Lie::status(416),
    ] {
        let registry = LyingRegistry::start();
        registry.want_parts(1);
        registry.lie_later("PATCH", "/uploads/", 1, 1, lie.clone());
        streamed(&registry, &content);
        assert_eq!(registry.count("POST", ""), 1, "{lie:?}");
    }
}

#[test]
fn a_stream_whose_upload_is_forgotten_begins_anew() {
    let content = content(5_000_000);
    for method in ["PATCH", "PUT"] {
        let registry = LyingRegistry::start();
        registry.lie(method, "/uploads/", 1, Lie::status(404));
        registry.lie("GET", "/uploads/", 1, Lie::status(404));
        streamed(&registry, &content);
    }
}

#[test]
fn a_stream_that_fails_leaves_no_upload_open() {
    let registry = LyingRegistry::start();
    let mut make = |out: &mut dyn Write| {
        out.write_all(&content(3_000_000))?;
        Err(io::Error::other("the rest is damaged"))
    };
    let target = reference(registry.host() + "/a");
    let error = client().upload_stream(&target, None, &mut make).unwrap_err();
    assert!(
        matches!(&error, StreamError::Make(source) if source.to_string() == "the rest is damaged"),
        "{error:?}"
    );
    assert_eq!((registry.open_uploads(), registry.count("POST", "")), (0, 1));
    for (method, status) in [("PATCH", 403), ("PUT", 400)] {
        let registry = LyingRegistry::start();
        registry.lie(method, "/uploads/", 99, Lie::status(status));
        let error = stream(&client(), &registry.host(), &content(3_000_000)).unwrap_err();
        assert!(
            shown(&error).contains(&status.to_string()) || shown(&error).contains("denied"),
            "{}",
            shown(&error)
        );
        assert_eq!(registry.open_uploads(), 0, "{method}");
    }
}

#[test]
fn a_stream_that_is_cancelled_leaves_no_upload_open() {
    let registry = LyingRegistry::start();
    let cancel = Cancel::new().unwrap();
    let client = Client::with_patience(
        RegistryConfig::default(),
        Credentials::in_files(Vec::new()),
        cancel.clone(),
        patience(),
    );
    let mut make = |out: &mut dyn Write| {
        out.write_all(&content(3_000_000))?;
        cancel.cancel();
        out.write_all(&content(30_000_000))
    };
    let target = reference(registry.host() + "/a");
    let error = client.upload_stream(&target, None, &mut make).unwrap_err();
    assert!(
        matches!(error, StreamError::Registry(RegistryError::Cancelled)),
        "{error:?}"
    );
    assert_eq!(registry.open_uploads(), 0);
}

#[test]
fn a_token_that_runs_out_in_the_middle_is_renewed() {
    let registry = LyingRegistry::start();
    registry.guard(Guard::Bearer(None));
    let content = content(5_000_000);
    let mut first = true;
    let mut make = |out: &mut dyn Write| {
        out.write_all(&content[..2_000_000])?;
        if std::mem::take(&mut first) {
            registry.forget_tokens();
        }
        out.write_all(&content[2_000_000..])
    };
    let sent = client()
        .upload_stream(&reference(registry.host() + "/a"), None, &mut make)
        .unwrap();
    assert_eq!(sent.digest, Digest::of(&content));
    assert_eq!(registry.open_uploads(), 0);
}

#[test]
fn a_refused_mount_s_upload_is_the_one_that_is_streamed_to() {
    let registry = LyingRegistry::start();
    registry.refuse_mounts();
    let content = content(4_000_000);
    let target = reference(registry.host() + "/a");
    let neighbour = reference(registry.host() + "/base");
    let offer = client()
        .offer_blob(&target, Digest::of(&content), Some(&neighbour))
        .unwrap();
    let Offer::Wanted(place) = offer else {
        panic!("{offer:?}")
    };
    assert!(place.is_some());
    let mut make = |out: &mut dyn Write| out.write_all(&content);
    let sent = client().upload_stream(&target, place, &mut make).unwrap();
    assert_eq!(sent.how, Uploaded::Sent);
    assert_eq!((registry.count("POST", ""), registry.open_uploads()), (1, 0));
}

/// A relay on loopback that breaks its first connections off after so many bytes from the client. Each has a thread of its
/// own: a client may keep one open and begin another.
fn breaking_relay(to: String, broken: usize, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let left = Arc::new(AtomicUsize::new(broken));
    std::thread::spawn(move || {
        for inward in listener.incoming() {
            let (to, left) = (to.clone(), left.clone());
            std::thread::spawn(move || relay(inward.unwrap(), &to, &left, after));
        }
    });
    address
}

fn relay(mut inward: TcpStream, to: &str, left: &AtomicUsize, after: usize) {
    let mut outward = TcpStream::connect(to).unwrap();
    let (mut back_from, mut back_to) = (outward.try_clone().unwrap(), inward.try_clone().unwrap());
    std::thread::spawn(move || io::copy(&mut back_from, &mut back_to));
    let mut buffer = vec![0; 64 << 10];
    let mut passed = 0;
    let one_less = |left: usize| left.checked_sub(1);
    while let Ok(length @ 1..) = inward.read(&mut buffer) {
        passed += length;
        if passed > after && left.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
            _ = inward.shutdown(Shutdown::Both);
            break;
        }
        if outward.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // What came before is to arrive.
    _ = outward.shutdown(Shutdown::Write);
}

/// What the repository `a` of a registry holds under a descriptor.
fn read_back(host: &str, descriptor: &Descriptor) -> Vec<u8> {
    let mut back = Vec::new();
    let name = reference(format!("{host}/a"));
    let mut blob = client().blob(&name, descriptor).unwrap();
    blob.read_to_end(&mut back).unwrap();
    back
}

#[test]
fn debian_s_registry_takes_streams_and_short_blobs() {
    let registry = DebianRegistry::start();
    for length in [10, 700_000, 3_000_000, 20_000_000] {
        let content = content(length);
        let sent = stream(&client(), &registry.host(), &content).unwrap();
        assert_eq!((sent.digest, sent.size), (Digest::of(&content), length as u64));
        let descriptor = Descriptor::new(media_type::LAYER, sent.digest, sent.size);
        assert!(read_back(&registry.host(), &descriptor) == content);
    }
}

#[test]
fn debian_s_registry_lets_a_broken_stream_go_on() {
    let registry = DebianRegistry::start();
    let relay = breaking_relay(registry.host(), 3, 4_000_000);
    let content = content(20_000_000);
    let sent = stream(&client(), &relay, &content).unwrap();
    assert_eq!(sent.digest, Digest::of(&content));
    // And a known blob.
    let relay = breaking_relay(registry.host(), 3, 4_000_000);
    let other: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
    let descriptor = Descriptor::of(media_type::LAYER, &other);
    let open = || Ok(Box::new(other.as_slice()) as Box<dyn Read + Send>);
    let name = reference(relay + "/a");
    client().upload_blob(&name, &descriptor, None, &open).unwrap();
    assert!(read_back(&registry.host(), &descriptor) == other);
}
