//! How fast a Dockerfile is read, that time and memory grow with its length, and how long other parsers in Rust take for
//! the same file. `cargo bench --bench parser`

use builder::parser::{format, parse};
use divan::{AllocProfiler, Bencher, black_box, counter::BytesCount, counter::ItemsCount};

/// Counts what is allocated: `max alloc` is the peak.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Lines; BuildKit and this parser both refuse a file of 4 MiB or more.
const LINES: [usize; 3] = [1_000, 10_000, 100_000];

fn dockerfile(lines: usize) -> String {
    const PATTERN: [&str; 8] = [
        "RUN apt-get update && \\\n",
        "    apt-get install -y python3 && \\\n",
        "    rm -rf /var/lib/apt/lists/*\n",
        "ENV A=b C=\"d e\"\n",
        "# a comment\n",
        "COPY --link a b /c/\n",
        "\n",
        "WORKDIR /app\n",
    ];
    let mut source = String::from("FROM busybox\n");
    (0..lines - 1).for_each(|line| source.push_str(PATTERN[line % PATTERN.len()]));
    source
}

/// What a build, a check and an editor wait for.
#[divan::bench(args = LINES)]
fn reading(bencher: Bencher, lines: usize) {
    let source = dockerfile(lines);
    bencher
        .counter(BytesCount::new(source.len()))
        .counter(ItemsCount::new(lines))
        .bench(|| parse(black_box(source.as_bytes())).is_ok());
}

/// The crate `dockerfile-parser`: instructions with spans, no variables in flags, no heredocs.
#[divan::bench(args = LINES)]
fn reading_by_dockerfile_parser(bencher: Bencher, lines: usize) {
    let source = dockerfile(lines);
    bencher
        .counter(BytesCount::new(source.len()))
        .counter(ItemsCount::new(lines))
        .bench(|| dockerfile_parser::Dockerfile::parse(black_box(&source)).is_ok());
}

/// The crate `parse-dockerfile`: instructions with spans and heredocs, words left as they are.
#[divan::bench(args = LINES)]
fn reading_by_parse_dockerfile(bencher: Bencher, lines: usize) {
    let source = dockerfile(lines);
    bencher
        .counter(BytesCount::new(source.len()))
        .counter(ItemsCount::new(lines))
        .bench(|| parse_dockerfile::parse(black_box(&source)).is_ok());
}

/// What `builder fmt` waits for: reading twice and writing.
#[divan::bench(args = LINES)]
fn formatting(bencher: Bencher, lines: usize) {
    let source = dockerfile(lines);
    bencher
        .counter(BytesCount::new(source.len()))
        .counter(ItemsCount::new(lines))
        .bench(|| format(black_box(source.as_bytes())).is_ok());
}
