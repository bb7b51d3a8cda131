//! How fast bytes become digests: the floor under every layer and every blob. `cargo bench --bench digest`
//!
//! Measures `builder::oci` alone; what a user waits for is measured by `benches/workloads.py`.

use std::io::{self, Write};

use builder::oci::{Digest, DigestWriter};
use divan::{Bencher, black_box, counter::BytesCount};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [4 << 10, 1 << 20, 16 << 20];

/// A blob that is in memory: a manifest, a configuration, a small file.
#[divan::bench(args = SIZES)]
fn of_bytes(bencher: Bencher, length: usize) {
    let bytes = vec![7; length];
    bencher
        .counter(BytesCount::new(length))
        .bench(|| Digest::of(black_box(&bytes)));
}

/// A layer that is hashed while it is written, in pieces as `io::copy` hands them on.
#[divan::bench(args = SIZES)]
fn while_writing(bencher: Bencher, length: usize) {
    let bytes = vec![7; length];
    bencher.counter(BytesCount::new(length)).bench(|| {
        let mut writer = DigestWriter::new(io::sink());
        for piece in black_box(&bytes).chunks(8 << 10) {
            writer.write_all(piece).expect("a sink takes everything");
        }
        writer.finish()
    });
}
