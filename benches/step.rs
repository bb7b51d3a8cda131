//! Where the time of one RUN step goes: every stage between a build's decision to run it and its record, beside the
//! cheapest things that the kernel could be asked for.
//!
//! `cargo bench --bench step`, on a quiet machine; as an ordinary user it measures the rootless way. All ways take turns,
//! and the table is in milliseconds, medians; `docs/benchmarks.md` states what was found.

#![expect(clippy::unwrap_used, reason = "a measurement that fails says where")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use builder::cache::{Cache, Preimage};
use builder::cancel::Cancel;
use builder::cgroup::Limits;
use builder::executor::sandbox::rootless::{enter_user_namespace, has_single_id};
use builder::executor::sandbox::{self, Access, Exit, Moment, SandboxSpec, Stage, Timing};
use builder::export::diff_id;
use builder::network::{Lease, NetworkOnDemand};
use builder::snapshot::{IdMode, Rootfs, Snapshotter};
use builder::store::{SnapshotId, Store};

const ROUNDS: usize = 200;
/// Layers below a step, as in the middle of a build of thirty.
const DEPTH: usize = 15;
const PROGRAM: &str = "/bin/busybox";

/// The stages in the order of doing, with the name of what lies between each and the one before.
const STAGES: [(Stage, &str); 23] = [
    (Stage::GroupMade, "limits: control group"),
    (Stage::Asked, "keeper: asked"),
    (Stage::SupervisorStarted, "keeper: fork the supervisor"),
    (Stage::Received, "specification"),
    (Stage::NamespacesMade, "namespaces"),
    (Stage::NetworkEntered, "network"),
    (Stage::InitStarted, "fork init"),
    (Stage::RootAttached, "mounts: private, root"),
    (Stage::ProcMounted, "mounts: /proc"),
    (Stage::SysMounted, "mounts: /sys"),
    (Stage::DevMounted, "mounts: /dev"),
    (Stage::RestMounted, "mounts: the step's"),
    (Stage::RootEntered, "pivot"),
    (Stage::ProgramStarted, "fork program"),
    (Stage::Prepared, "streams, limits, capabilities"),
    (Stage::Filtered, "seccomp"),
    (Stage::Ready, "identity"),
    (Stage::Ended, "exec, run, exit, reap"),
    (Stage::Removed, "mount points removed"),
    (Stage::InitGone, "end of init and mounts"),
    (Stage::Gone, "end of supervisor"),
    (Stage::Sent, ""),
    (Stage::Heard, ""),
];

/// What a step is lent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Network {
    Own,
    None,
    Host,
}

struct Bench {
    store: Store,
    snapshotter: Snapshotter,
    cache: Cache,
    network: NetworkOnDemand,
    cancel: Cancel,
    base: SnapshotId,
}

/// One step's spans, by name, in their order.
type Spans = Vec<(&'static str, Duration)>;

impl Bench {
    fn new(root: &Path) -> Self {
        let store = Store::open(root).unwrap();
        let ids = match has_single_id() {
            true => IdMode::Single,
            false => IdMode::Full,
        };
        let snapshotter = Snapshotter::new(store.clone(), ids).unwrap();
        let mut base = None;
        for layer in 0..DEPTH {
            let active = snapshotter.prepare(base).unwrap();
            let upper = active.overlay().upper;
            match layer {
                0 => base_image(&upper),
                _ => std::fs::write(upper.join(format!("f_{layer}")), "").unwrap(),
            }
            base = Some(active.commit().unwrap());
        }
        Self {
            cache: Cache::new(store.clone()),
            store,
            snapshotter,
            network: NetworkOnDemand::default(),
            cancel: Cancel::new().unwrap(),
            base: base.unwrap(),
        }
    }

    fn spec(&self, root: &Rootfs, network: Network, limits: &Limits) -> (SandboxSpec, Option<Lease<'_>>) {
        let tree = root.as_fd().try_clone_to_owned().unwrap();
        let mut spec = SandboxSpec::new(tree, vec![PROGRAM.into(), b"true".to_vec()]);
        let lease = (network == Network::Own).then(|| self.network.lease().unwrap());
        match (network, &lease) {
            (Network::Own, Some(lease)) => spec.connect(lease.namespace().unwrap()),
            (Network::None, _) => spec.network = sandbox::Network::None,
            _ => spec.network = sandbox::Network::Host,
        }
        for file in ["/etc/hosts", "/etc/resolv.conf"] {
            spec.file(file, b"127.0.0.1 localhost\n".to_vec(), 0o644, (0, 0), Access::ReadOnly);
        }
        spec.group = limits.clone();
        spec.timing = Timing::On;
        (spec, lease)
    }

    /// A step as the solver and the executor run it.
    fn step(&self, network: Network, limits: &Limits, number: u64) -> Spans {
        let mut watch = Watch::new();
        let active = self.snapshotter.prepare(Some(self.base)).unwrap();
        watch.lap("prepare the snapshot");
        let root = active.mount().unwrap();
        watch.lap("overlay");
        let (spec, lease) = self.spec(&root, network, limits);
        watch.lap("lease, specification");
        let ended = sandbox::run(spec, &|_, _| (), &self.cancel).unwrap();
        assert_eq!(ended.exit, Exit::Code(0));
        watch.laps(&ended.stages);
        drop((root, lease));
        watch.lap("overlay unmounted");
        let snapshot = active.commit().unwrap();
        watch.lap("commit");
        for domain in [0, 1] {
            let definition = [number.to_le_bytes(), [domain; 8]].concat();
            let inputs = Vec::new();
            self.cache.save(&Preimage { definition, inputs }, snapshot, 0).unwrap();
        }
        watch.lap("records");
        let total = watch.total();
        diff_id(&self.store, &self.snapshotter, snapshot, None).unwrap();
        watch.lap("digest of the layer (aside)");
        watch.spans.push(("a step, without the digest", total));
        watch.spans
    }
}

/// A root with one program and the places that are mounted upon.
fn base_image(root: &Path) {
    for directory in ["bin", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    std::fs::copy(PROGRAM, root.join("bin/busybox")).unwrap();
    for file in ["etc/hosts", "etc/resolv.conf"] {
        std::fs::write(root.join(file), "").unwrap();
    }
}

/// Cuts time into spans.
struct Watch {
    began: Instant,
    last: Instant,
    spans: Spans,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            spans: Vec::new(),
        }
    }

    fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.spans.push((name, now - self.last));
        self.last = now;
    }

    fn total(&self) -> Duration {
        self.last - self.began
    }

    /// The sandbox's own, by the clock that all processes share. What lies before its beginning and after its end is its
    /// caller's: pipes, polling.
    fn laps(&mut self, moments: &[Moment]) {
        let at = |stage| {
            moments
                .iter()
                .find(|moment| moment.stage == stage)
                .map(|moment| moment.at)
        };
        let (began, gone) = (at(Stage::Begun).unwrap(), at(Stage::Gone).unwrap());
        let mut before = began;
        for (stage, name) in STAGES.iter().filter(|(_, name)| !name.is_empty()) {
            let reached = at(*stage).unwrap();
            self.spans.push((name, reached.saturating_sub(before)));
            before = reached;
        }
        let now = Instant::now();
        self.spans
            .push(("pipes, polling", (now - self.last).saturating_sub(gone - began)));
        self.last = now;
    }
}

/// `clone3` with `flags` and `execve`, and the wait for its end; between the two `prepare` runs in the child.
fn bare(flags: i32, prepare: impl Fn()) {
    let mut arguments = [0u64; 11];
    arguments[0] = flags as u64;
    arguments[4] = libc::SIGCHLD as u64;
    let (path, word) = (CString::new(PROGRAM).unwrap(), c"true");
    let words = [path.as_ptr(), word.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: this process has one thread, so its copy may do whatever it may; the arguments outlive the call, and all
    // strings end with zero, the arrays with null.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        prepare();
        // SAFETY: as above.
        unsafe {
            libc::execve(path.as_ptr(), words.as_ptr(), environment.as_ptr());
            libc::_exit(127);
        }
    }
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let ended = unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) };
    assert_eq!(i64::from(ended), pid);
    assert_eq!(status, 0);
}

const NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

fn enter_root(tree: &OwnedFd) {
    use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", rustix::fs::CWD, "/proc", flags).unwrap();
    // SAFETY: fchdir(2) and chroot(2) touch no memory but the constant.
    unsafe { assert_eq!((libc::fchdir(tree.as_raw_fd()), libc::chroot(c".".as_ptr())), (0, 0)) };
}

/// The cheapest things that could be asked for, by name.
fn floors(bench: &Bench) -> Spans {
    let mut watch = Watch::new();
    bare(0, || ());
    watch.lap("clone3 + execve");
    let spawned = Command::new(PROGRAM).arg("true").stdin(Stdio::null()).status();
    assert!(spawned.unwrap().success());
    watch.lap("vfork + execve (posix_spawn)");
    bare(NAMESPACES, || ());
    watch.lap("clone3 with five namespaces + execve");
    let active = bench.snapshotter.prepare(Some(bench.base)).unwrap();
    watch.last = Instant::now();
    let root = active.mount().unwrap();
    let tree = root.as_fd().try_clone_to_owned().unwrap();
    bare(NAMESPACES, || enter_root(&tree));
    drop((root, tree));
    watch.lap("the same, with one overlay as root");
    let unshare = Command::new("unshare").args(["-mpf", PROGRAM, "true"]).status();
    assert!(unshare.unwrap().success());
    watch.lap("unshare -mpf");
    watch.spans
}

/// Medians by name, in the order of first appearance.
fn medians(rounds: &[Spans]) -> Vec<(&'static str, f64)> {
    let names = rounds[0].iter().map(|(name, _)| *name);
    let median = |name| {
        let of_name = |spans: &Spans| spans.iter().find(|(other, _)| *other == name).unwrap().1;
        let mut times: Vec<Duration> = rounds.iter().map(of_name).collect();
        times.sort_unstable();
        (name, times[times.len() / 2].as_secs_f64() * 1e3)
    };
    names.map(median).collect()
}

fn main() {
    // The sandboxes are this program, started anew.
    sandbox::run_if_sandbox();
    let identities = enter_user_namespace().unwrap();
    let directory = std::env::var_os("STEP_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let scratch = tempfile::tempdir_in(directory).unwrap();
    let bench = Bench::new(&scratch.path().join("store"));
    let none = Limits::default();
    let limited = Limits {
        memory: Some(512 << 20),
        processes: Some(100),
        ..Limits::default()
    };
    let ways = [
        ("own network", Network::Own, &none),
        ("none", Network::None, &none),
        ("host's", Network::Host, &none),
        ("own, limits", Network::Own, &limited),
    ];
    let mut steps = ways.map(|_| Vec::with_capacity(ROUNDS));
    let mut cheapest = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        for (index, ((_, network, limits), steps)) in ways.iter().zip(&mut steps).enumerate() {
            let number = (round * ways.len() + index) as u64;
            steps.push(bench.step(*network, limits, number));
        }
        cheapest.push(floors(&bench));
    }
    println!("{identities:?}; {DEPTH} layers; milliseconds, medians of {ROUNDS}\n");
    println!("| | {} |", ways.map(|(name, ..)| name).join(" | "));
    println!("|---{}|", "|---".repeat(ways.len()));
    let columns = steps.map(|rounds| medians(&rounds));
    for (row, (name, _)) in columns[0].iter().enumerate() {
        let cells = columns.each_ref().map(|column| format!("{:.3}", column[row].1));
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!("\n| the floor | |\n|---|---|");
    for (name, milliseconds) in medians(&cheapest) {
        println!("| {name} | {milliseconds:.3} |");
    }
}
