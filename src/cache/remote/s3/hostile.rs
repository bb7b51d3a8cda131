//! Services that say too much, too little, or something else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::*;
use crate::cancel::Cancel;
use crate::oci::media_type;

const ENDLESS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\nETag: \"x\"\r\nLast-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";

/// A service that answers everything with `head`, and then with zeros until nobody takes them any more.
fn cache(head: &'static str, zeros: usize) -> S3 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            std::thread::spawn(move || answer(connection.unwrap(), head, zeros));
        }
    });
    let options = S3Options {
        bucket: "b".into(),
        region: None,
        endpoint: Some(endpoint.parse().unwrap()),
        style: S3Style::Path,
        prefix: String::new(),
        blobs_prefix: String::new(),
        manifests_prefix: String::new(),
        name: "n".into(),
        upload_parallelism: NonZeroUsize::MIN,
        authorities: None,
        credentials: S3Credentials::Keys {
            id: Secret::new("an-id".into()),
            key: Secret::new("a-key".into()),
            token: Some(Secret::new("a-token".into())),
        },
    };
    let network = Network::new(Cancel::new().unwrap());
    S3::new(options, Arc::new(network)).unwrap()
}

fn answer(mut connection: TcpStream, head: &str, zeros: usize) {
    let mut request = [0; 16 << 10];
    let _ = connection.read(&mut request);
    let mut went = connection.write_all(head.as_bytes());
    let mut left = zeros;
    while left > 0 && went.is_ok() {
        let length = left.min(1 << 20);
        went = connection.write_all(&vec![b' '; length]);
        left -= length;
    }
}

fn blob(size: u64) -> Descriptor {
    Descriptor::new(media_type::LAYER_ZSTD, Digest::of(b"blob"), size)
}

fn said(error: &RemoteError) -> String {
    match error {
        RemoteError::Service { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

#[test]
fn a_record_has_an_end() {
    let error = cache(ENDLESS, 16 << 20).read_record(CacheKey([0; 32])).unwrap_err();
    assert!(said(&error).contains("where 4194304 were expected"), "{error:?}");
    assert!(error.is_of_one_thing());
}

#[test]
fn a_blob_is_as_long_as_it_should_be() {
    let outcome = cache(ENDLESS, 16 << 20).open_blob(&blob(7));
    assert!(matches!(outcome.err().unwrap(), RemoteError::Size { expected: 7, .. }));
}

#[test]
fn an_error_has_an_end_and_repeats_no_secret() {
    const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 99999999999\r\n\r\n";
    let error = cache(FORBIDDEN, 8 << 20).read_record(CacheKey([0; 32])).unwrap_err();
    assert!(said(&error).contains("its answer has no end"), "{error:?}");
    const TOLD: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 76\r\nConnection: close\r\n\r\n<Error><Code>Denied</Code><Message>a-key a-token an-id</Message></Error>    ";
    let error = cache(TOLD, 0).read_record(CacheKey([0; 32])).unwrap_err();
    assert_eq!(said(&error), "403 Forbidden: Denied");
}

#[test]
fn what_is_not_http_is_an_error() {
    for head in [
        "",
        "no",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
    ] {
        let cache = cache(head, 0);
        assert!(cache.read_record(CacheKey([0; 32])).is_err(), "{head:?}");
        assert!(cache.open_blob(&blob(7)).is_err(), "{head:?}");
    }
}
