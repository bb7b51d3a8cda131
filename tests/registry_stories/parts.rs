//! Large blobs in parts: from servers that give parts, several at a time, and from those that do not.

use std::io::Read;
use std::sync::LazyLock;
use std::time::Duration;

use builder::oci::{Descriptor, media_type};
use builder::registry::RegistryError;

use super::registry::{Lie, LyingRegistry};
use super::{client, inside, reference};

/// As the program divides blobs, and the least that it does divide.
const PART: usize = 8 << 20;
const LARGE: usize = 32 << 20;

/// A registry with one large blob in `a`, five parts of which the last is short.
fn with_large_blob() -> (LyingRegistry, &'static [u8], Descriptor) {
    static BLOB: LazyLock<(Vec<u8>, Descriptor)> = LazyLock::new(|| {
        let mut bytes: Vec<u8> = (0..65_521u32).map(|at| (at ^ (at >> 5)) as u8).collect();
        bytes = bytes.repeat(LARGE / bytes.len() + 1);
        bytes.resize(LARGE + 77, 7);
        let descriptor = Descriptor::of(media_type::LAYER, &bytes);
        (bytes, descriptor)
    });
    let (bytes, descriptor) = &*BLOB;
    let registry = LyingRegistry::start();
    registry.put_blob("a", bytes);
    (registry, bytes, descriptor.clone())
}

fn read(registry: &LyingRegistry, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let mut blob = client().blob(&reference(registry.host() + "/a"), descriptor)?;
    blob.read_to_end(&mut bytes).map_err(inside)?;
    Ok(bytes)
}

/// What was asked for, in the order of the bytes.
fn ranges(registry: &LyingRegistry) -> Vec<String> {
    let log = registry.log();
    let mut ranges: Vec<(usize, String)> = log
        .iter()
        .map(|request| {
            let range = request.header("range").unwrap_or("bytes=whole").replace("bytes=", "");
            let start = range.split('-').next().unwrap().parse().unwrap_or(usize::MAX);
            (start, range)
        })
        .collect();
    ranges.sort();
    ranges.into_iter().map(|(_, range)| range).collect()
}

fn part(number: usize) -> String {
    format!("{}-{}", number * PART, (number + 1) * PART - 1)
}

fn last_part() -> String {
    format!("{LARGE}-")
}

#[test]
fn a_large_blob_comes_in_parts_and_each_once() {
    let (registry, bytes, descriptor) = with_large_blob();
    assert!(read(&registry, &descriptor).unwrap() == bytes);
    assert_eq!(ranges(&registry), [part(0), part(1), part(2), part(3), last_part()]);
}

#[test]
fn a_blob_that_is_not_large_comes_whole() {
    let (registry, bytes, _) = with_large_blob();
    let small = &bytes[..LARGE - 1];
    registry.put_blob("a", small);
    let descriptor = Descriptor::of(media_type::LAYER, small);
    assert!(read(&registry, &descriptor).unwrap() == small);
    assert_eq!(ranges(&registry), ["whole"]);
}

#[test]
fn slow_connections_are_several_and_bounded() {
    let (registry, bytes, descriptor) = with_large_blob();
    registry.lie("GET", "/blobs/", 99, Lie::Slow(1 << 20, Duration::from_millis(30)));
    assert!(read(&registry, &descriptor).unwrap() == bytes);
    assert!(
        (2..=4).contains(&registry.most_at_once()),
        "{}",
        registry.most_at_once()
    );
}

#[test]
fn a_slow_reader_has_one_part_come_and_the_next() {
    let (registry, bytes, descriptor) = with_large_blob();
    registry.lie("GET", "/blobs/", 99, Lie::Slow(PART, Duration::ZERO));
    let mut blob = client().blob(&reference(registry.host() + "/a"), &descriptor).unwrap();
    let (mut read, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        let length = blob.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        read.extend_from_slice(&buffer[..length]);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(read == bytes);
    assert!(registry.most_at_once() <= 2, "{}", registry.most_at_once());
}

#[test]
fn a_server_without_parts_is_asked_once() {
    let (registry, bytes, descriptor) = with_large_blob();
    registry.lie("GET", "/blobs/", 99, Lie::WholeInstead);
    assert!(read(&registry, &descriptor).unwrap() == bytes);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[test]
fn a_server_that_refuses_parts_gives_the_whole() {
    for status in [400, 416, 501] {
        let (registry, bytes, descriptor) = with_large_blob();
        registry.lie("GET", "/blobs/", 1, Lie::status(status));
        assert!(read(&registry, &descriptor).unwrap() == bytes);
        assert_eq!(ranges(&registry), [part(0), "whole".to_owned()], "{status}");
    }
}

#[test]
fn a_server_that_stops_giving_parts_gives_the_rest_in_one_piece() {
    let (registry, bytes, descriptor) = with_large_blob();
    registry.lie_later("GET", "/blobs/", 2, 99, Lie::WholeInstead);
    assert!(read(&registry, &descriptor).unwrap() == bytes);
    let log = ranges(&registry);
    // Which part met the change first is a matter of luck: from there on, or from a part before, all is one piece.
    let rest = |range: &&String| {
        range
            .strip_suffix('-')
            .is_some_and(|start| start.parse::<usize>().unwrap() < LARGE)
    };
    assert_eq!(log.iter().filter(rest).count(), 1, "{log:?}");
}

#[test]
fn a_part_that_was_cut_goes_on_where_it_broke() {
    let (registry, bytes, descriptor) = with_large_blob();
    registry.lie_later("GET", "/blobs/", 1, 1, Lie::Cut(100_000));
    registry.lie("GET", "/blobs/", 1, Lie::status(503));
    assert!(read(&registry, &descriptor).unwrap() == bytes);
    let log = ranges(&registry);
    assert_eq!(log.len(), 7, "{log:?}");
    assert!(
        log.iter()
            .any(|range| range.split('-').next().unwrap().parse::<usize>().unwrap() % PART == 100_000),
        "{log:?}"
    );
}

#[test]
fn parts_that_are_others_or_of_another_blob_are_refused() {
    let lies = [
        (1, "bytes 0-8388607/33554509", "another part"),
        (0, "bytes 0-8388607/99999999", "99999999 bytes"),
    ];
    for (skip, range, expected) in lies {
        let (registry, _, descriptor) = with_large_blob();
        let lie = Lie::Header("Content-Range", Some(range.into()));
        registry.lie_later("GET", "/blobs/", skip, 99, lie);
        let error = read(&registry, &descriptor).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_part_with_other_bytes_is_found_out() {
    let (registry, bytes, descriptor) = with_large_blob();
    registry.lie("GET", "/blobs/", 1, Lie::Body(bytes[1..=PART].to_vec()));
    let error = read(&registry, &descriptor).unwrap_err();
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error}");
}

#[test]
fn a_download_that_nobody_reads_asks_for_nothing_more() {
    let (registry, _, descriptor) = with_large_blob();
    let client = client();
    let mut blob = client.blob(&reference(registry.host() + "/a"), &descriptor).unwrap();
    blob.read_exact(&mut vec![0; 1000]).unwrap();
    drop(blob);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}
