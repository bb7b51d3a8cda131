//! What a sandbox costs over the cheapest thing that could be called one: `unshare -mpf`.
//!
//! `cargo bench --bench sandbox`, on a quiet machine. All ways take turns; `docs/sandbox.md` states the ratios.

#![expect(clippy::unwrap_used, reason = "a measurement that fails says where")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use builder::cancel::Cancel;
use builder::executor::sandbox::{self, Confinement, Exit, Network, SandboxSpec};
use rustix::mount::{OpenTreeFlags, open_tree};

const ROUNDS: usize = 200;

fn in_sandbox(root: &Path, change: impl Fn(&mut SandboxSpec)) {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, root, flags).unwrap();
    let mut spec = SandboxSpec::new(tree, vec![b"/bin/busybox".to_vec(), b"true".to_vec()]);
    change(&mut spec);
    assert_eq!(
        sandbox::run(spec, &|_, _| (), &Cancel::new().unwrap()).unwrap().exit,
        Exit::Code(0)
    );
}

fn command(words: &[&str]) {
    let mut command = Command::new(words[0]);
    let status = command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn main() {
    // The sandboxes are this program, started anew.
    sandbox::run_if_sandbox();
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    for directory in ["bin", "proc", "sys", "dev"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let ways: [(&str, &dyn Fn()); 5] = [
        ("spawn busybox true", &|| command(&["/bin/busybox", "true"])),
        ("unshare -mpf busybox true", &|| {
            command(&["unshare", "-mpf", "/bin/busybox", "true"])
        }),
        ("sandbox", &|| in_sandbox(root, |_| ())),
        ("sandbox, unconfined", &|| {
            in_sandbox(root, |spec| spec.confinement = Confinement::Insecure)
        }),
        ("sandbox, no network", &|| {
            in_sandbox(root, |spec| spec.network = Network::None)
        }),
    ];
    let mut times = ways.map(|_| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for ((_, work), times) in ways.iter().zip(&mut times) {
            times.push(timed(work));
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let milliseconds = |index: usize| times.each_ref().map(|times| times[index].as_secs_f64() * 1e3);
    // What the work takes when nothing else wants the processor, and what it usually took.
    let (least, median) = (milliseconds(0), milliseconds(ROUNDS / 2));
    for (index, (name, _)) in ways.iter().enumerate() {
        let (least_ratio, median_ratio) = (least[index] / least[1], median[index] / median[1]);
        println!(
            "least {:6.2} ms {least_ratio:5.2} ×   median {:6.2} ms {median_ratio:5.2} ×   {name}",
            least[index], median[index]
        );
    }
}
