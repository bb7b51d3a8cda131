//! What a process sees and can do in a sandbox: as root, and, by running this program again, as ordinary users and with
//! OCI runtimes.
//!
//! Where a runtime does something else, the test says so at that place, with the reason ([`with`]). The root is a directory with a static busybox. Without the right to make namespaces there is nothing to test.

#![allow(clippy::unwrap_used)]

#[cfg(target_arch = "x86_64")]
#[path = "sandbox_support/filter.rs"]
mod filter;
#[cfg(target_arch = "x86_64")]
#[path = "sandbox_support/programs.rs"]
mod programs;

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as ProcessStdio};
use std::time::{Duration, Instant};

use builder::cancel::Cancel;
use builder::executor::sandbox::{
    self, Access, Bytes, Capabilities, Confinement, Exit, Identity, Limit, LimitedResource, Network, NewPrivileges,
    Runtime, SandboxError, SandboxSpec, SetupFailure, Stage, Stdio, TerminalSize, Timing, rootless,
};
use builder::progress::Stream;
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

/// Set for the program when it runs itself as an ordinary user.
const ORDINARY_USER: &str = "SANDBOX_TEST_ORDINARY_USER";
/// Set for the program when it is to start one sandbox in this root and be killed.
const VICTIM: &str = "SANDBOX_TEST_VICTIM";

/// Set for the program when its sandboxes are to be run by this OCI runtime.
const RUNTIME: &str = "SANDBOX_TEST_RUNTIME";

/// The OCI runtime with which this process's tests run; `None` for the program's own sandbox.
fn runtime() -> Option<Runtime> {
    let name = std::env::var(RUNTIME).ok()?;
    let program = find_program(&name).unwrap_or_else(|| panic!("{name} is not installed"));
    Some(Runtime { name, program })
}

/// Whether this process's tests run with the runtime `name`, of which `difference` is known.
fn with(name: &str, difference: &str) -> bool {
    let is_so = runtime().is_some_and(|runtime| runtime.name == name);
    if is_so {
        println!("{name}: {difference}");
    }
    is_so
}

fn find_program(name: &str) -> Option<PathBuf> {
    let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    let mut programs = directories.iter().map(|directory| Path::new(directory).join(name));
    programs.find(|program| program.is_file())
}

extern "C" fn before_main() {
    sandbox::run_if_sandbox();
    if let Some(expected) = std::env::var_os(ORDINARY_USER) {
        let identities = rootless::enter_user_namespace().expect("a user namespace");
        let single = matches!(identities, rootless::Identities::Single { .. });
        assert_eq!(expected == "single", single, "{identities:?}");
    }
    if let Some(root) = std::env::var_os(VICTIM) {
        let spec = World::at(Path::new(&root)).spec("echo begun; busybox sleep 987654");
        let say = |_: Stream, line: &[u8]| println!("{}", String::from_utf8_lossy(line));
        let _ = sandbox::run(spec, &say, &Cancel::new().expect("a descriptor"));
        std::process::exit(0);
    }
}

/// The harness owns `main`; a sandbox must begin before it.
#[used]
// SAFETY: the C runtime calls each entry of this section once, before `main`, with one thread.
#[unsafe(link_section = ".init_array")]
static HOOK: extern "C" fn() = before_main;

/// A root file system in a directory.
struct World {
    /// Removes it in the end.
    _directory: Option<tempfile::TempDir>,
    root: std::path::PathBuf,
}

struct Ran {
    exit: Result<Exit, SandboxError>,
    stdout: String,
    stderr: String,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        Self {
            _directory: Some(directory),
            root,
        }
    }

    fn at(root: &Path) -> Self {
        Self {
            _directory: None,
            root: root.to_owned(),
        }
    }

    fn tree(&self) -> OwnedFd {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, &self.root, flags).unwrap()
    }

    /// A sandbox in which a shell runs `script`; commands are busybox's.
    fn spec(&self, script: &str) -> SandboxSpec {
        let script = format!(
            "alias {}; {script}",
            ALIASES.map(|name| format!("{name}='busybox {name}'")).join(" ")
        );
        // Aliases are expanded when a line is read, hence the second line.
        let words = ["sh", "-c", &script.replacen("; ", "\n", 1)].map(|word| word.as_bytes().to_vec());
        let mut spec = SandboxSpec::new(self.tree(), words.into());
        spec.runtime = runtime();
        spec
    }

    fn run(&self, script: &str) -> Ran {
        Ran::of(self.spec(script))
    }

    fn exit_codes_of_ten(&self) -> Vec<Exit> {
        (0..10).map(|_| self.run("true").exit.unwrap()).collect()
    }

    /// Every path with mode and modification time.
    fn listing(&self) -> Vec<String> {
        fn walk(directory: &Path, list: &mut Vec<String>) {
            let mut entries: Vec<_> = fs::read_dir(directory)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            entries.sort();
            for path in entries.iter().map(|path| path.as_path()).chain([directory]) {
                let metadata = path.symlink_metadata().unwrap();
                let (mode, time) = (metadata.mode(), (metadata.mtime(), metadata.mtime_nsec()));
                list.push(format!("{path:?} {mode:o} {time:?}"));
            }
            for path in entries.iter().filter(|path| path.is_dir() && !path.is_symlink()) {
                walk(path, list);
            }
        }
        let mut list = Vec::new();
        walk(&self.root, &mut list);
        list
    }
}

const ALIASES: [&str; 32] = [
    "cat", "ls", "id", "sleep", "mount", "umount", "mkdir", "touch", "readlink", "hostname", "ps", "dd", "head", "tr",
    "grep", "stat", "pwd", "env", "setsid", "unshare", "chroot", "tty", "stty", "ifconfig", "ping", "chown", "mknod",
    "rm", "mv", "ln", "wc", "nc",
];

impl Ran {
    fn of(spec: SandboxSpec) -> Self {
        let (stdout, stderr) = (RefCell::new(String::new()), RefCell::new(String::new()));
        let take = |stream: Stream, line: &[u8]| {
            let mut text = match stream {
                Stream::Stdout => stdout.borrow_mut(),
                Stream::Stderr => stderr.borrow_mut(),
            };
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        };
        let exit = sandbox::run(spec, &take, &Cancel::new().unwrap());
        Self {
            exit: exit.map(|ended| ended.exit),
            stdout: stdout.into_inner(),
            stderr: stderr.into_inner(),
        }
    }

    #[track_caller]
    fn succeeds(self) -> String {
        let exit = self
            .exit
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        assert_eq!(exit, Exit::Code(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    fn fails_to_start(self) -> SetupFailure {
        match self.exit {
            Err(SandboxError::Setup(failure)) => failure,
            other => panic!("{other:?}: {}{}", self.stdout, self.stderr),
        }
    }
}

/// Users that are not root of the machine cannot read some of its files anyhow, and have no other ids.
fn has_single_id() -> bool {
    rootless::has_single_id()
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let world = World::new();
    assert_eq!(world.run("exit 42").exit.unwrap(), Exit::Code(42));
    assert_eq!(world.run("kill -9 $$").exit.unwrap(), Exit::Signal(9));
    assert_eq!(world.run("kill -TERM $$").exit.unwrap(), Exit::Signal(15));
    assert_eq!(world.run("true").exit.unwrap(), Exit::Code(0));
}

#[test]
fn output_comes_by_line_and_stream() {
    let ran = World::new().run("echo one; echo two >&2; printf three; printf four >&2");
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("one\nthree\n", "two\nfour\n")
    );
}

#[test]
fn the_environment_is_what_was_given_and_nothing_else() {
    let world = World::new();
    let mut spec = world.spec("env");
    // CVE-2026-57231: an entry without a value inherits nothing.
    let entries = ["A=1 2", "HOME", "CARGO_MANIFEST_DIR", "PATH=/bin"].map(|entry| entry.as_bytes().to_vec());
    spec.env = entries.into_iter().map(Bytes).collect();
    let stdout = Ran::of(spec).succeeds();
    let mut lines: Vec<&str> = stdout
        .lines()
        .filter(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="))
        .collect();
    lines.sort_unstable();
    if runtime().is_some() {
        // Runtimes add HOME where there is none. A step's environment has it always.
        lines.retain(|line| *line != "HOME=/");
    }
    assert_eq!(lines, ["A=1 2", "PATH=/bin"]);
}

#[test]
fn every_namespace_is_its_own() {
    let world = World::new();
    let mut spec =
        world.spec("for kind in mnt pid ipc uts cgroup net; do readlink /proc/self/ns/$kind; done; hostname");
    spec.network = Network::None;
    spec.hostname = "inside".into();
    let stdout = Ran::of(spec).succeeds();
    let mut lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.pop(), Some("inside"));
    for (inside, kind) in lines.iter().zip(["mnt", "pid", "ipc", "uts", "cgroup", "net"]) {
        let outside = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(Path::new(inside), outside);
    }
    let network = world.run("readlink /proc/self/ns/net").succeeds();
    assert_eq!(Path::new(network.trim()), fs::read_link("/proc/self/ns/net").unwrap());
}

#[test]
fn without_a_network_the_loopback_device_works() {
    let world = World::new();
    let mut spec =
        world.spec("ifconfig -a | grep -c Link; (echo hello | nc -l -p 4321 &) ; sleep 0.3; nc 127.0.0.1 4321");
    spec.network = Network::None;
    let stdout = Ran::of(spec).succeeds();
    assert_eq!(stdout, "1\nhello\n");
}

#[test]
fn privileges_are_those_of_docker() {
    let status = World::new().run("cat /proc/self/status").succeeds();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // CVE-2022-27651, CVE-2022-29162.
    assert_eq!((field("CapInh:"), field("CapAmb:")), ("0".repeat(16), "0".repeat(16)));
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(set), "00000000a80425fb", "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("0".into(), "2".into()));
}

#[test]
fn new_privileges_can_be_denied_and_insecure_keeps_them_all() {
    let world = World::new();
    let mut spec = world.spec("grep -E 'NoNewPrivs|CapBnd' /proc/self/status");
    spec.new_privileges = NewPrivileges::Deny;
    assert!(Ran::of(spec).succeeds().contains("NoNewPrivs:\t1"));
    let mut spec = world.spec("grep CapBnd /proc/self/status; mkdir /m && mount -t tmpfs none /m && echo mounted");
    spec.confinement = Confinement::Insecure;
    let stdout = Ran::of(spec).succeeds();
    assert!(
        !stdout.contains("a80425fb") && stdout.ends_with("mounted\n"),
        "{stdout}"
    );
}

#[test]
fn capabilities_can_be_added_and_taken_away() {
    let world = World::new();
    let bounds = |added: &str, dropped: &str| {
        let script = "while read name value; do case $name in CapBnd:|CapEff:) echo $value;; esac; done";
        let mut spec = world.spec(&format!("{script} < /proc/self/status"));
        spec.capabilities = Some(Capabilities::changed(&[added.into()], &[dropped.into()]).unwrap());
        Ran::of(spec).succeeds()
    };
    assert_eq!(bounds("NET_ADMIN", "ALL"), "0000000000001000\n".repeat(2));
    assert_eq!(bounds("KILL", "MKNOD"), "00000000a00425fb\n".repeat(2));
}

#[test]
fn an_insecure_process_does_not_see_the_host_through_the_first_one() {
    let world = World::new();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let path = outside.path().display();
    let mut spec = world.spec(&format!("ls /proc/*/root{path} 2>/dev/null; :"));
    spec.confinement = Confinement::Insecure;
    assert_eq!(Ran::of(spec).succeeds(), "");
}

#[test]
fn calls_that_make_namespaces_or_mounts_are_refused() {
    let ran = World::new().run("unshare -U true; unshare -m true; mkdir /m; mount -t tmpfs none /m; umount /proc; :");
    assert_eq!(
        ran.stderr.matches("Operation not permitted").count() + ran.stderr.matches("ermission denied").count(),
        4,
        "{}",
        ran.stderr
    );
}

#[test]
fn the_first_process_cannot_be_looked_into() {
    let world = World::new();
    for path in ["environ", "exe", "fd/0", "root", "cwd", "mem", "maps"] {
        let ran = world.run(&format!("cat /proc/1/{path} || readlink /proc/1/{path}"));
        assert_ne!(ran.exit.unwrap(), Exit::Code(0), "{path}: {}", ran.stdout);
    }
    let listed = world.run("ps -o pid,comm; ls /proc | grep -c '^[0-9]*$'").succeeds();
    assert!(listed.contains("init") && !listed.contains("cargo"), "{listed}");
}

#[test]
fn no_descriptor_is_inherited() {
    let leak = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let stdout = World::new().run("echo /proc/$$/fd/*").succeeds();
    let numbers: Vec<&str> = stdout
        .split_whitespace()
        .map(|path| path.rsplit('/').next().unwrap())
        .collect();
    // The last is the shell's own, of the directory that it lists.
    assert!(numbers[..3] == ["0", "1", "2"] && numbers.len() <= 4, "{stdout}");
}

#[test]
fn kernel_files_are_masked_or_read_only() {
    let world = World::new();
    assert_eq!(
        world
            .run("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null; ls /sys/firmware")
            .succeeds(),
        ""
    );
    for script in [
        "echo x > /proc/sys/kernel/hostname",
        "echo h > /proc/sysrq-trigger",
        "touch /sys/x",
        "mkdir /sys/fs/cgroup/x",
        "rm /proc/keys",
    ] {
        assert_ne!(world.run(script).exit.unwrap(), Exit::Code(0), "{script}");
    }
    // What is on top cannot be taken away.
    assert_ne!(world.run("umount /proc/kcore").exit.unwrap(), Exit::Code(0));
}

#[test]
fn devices_are_few_and_work() {
    let world = World::new();
    let list = world.run("ls /dev").succeeds();
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let mut names: Vec<&str> = list.split_whitespace().collect();
    if with("crun", "it links /dev/core to /proc/kcore, which is masked") {
        names.retain(|name| *name != "core");
    }
    assert_eq!(names.join(" "), expected);
    let script = "echo gone > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo out > /dev/stdout; \
                  touch /dev/shm/x; stat -c %a /dev/shm /dev/ptmx /dev/null; stat -f -c %T /dev/shm";
    let stdout = world.run(script).succeeds();
    assert_eq!(stdout, "3\n3\nout\n1777\n777\n666\ntmpfs\n");
    let ran = world.run("echo x > /dev/full");
    assert_ne!(ran.exit.unwrap(), Exit::Code(0));
}

#[test]
fn the_user_and_its_groups_are_taken() {
    if has_single_id() {
        return;
    }
    let world = World::new();
    let mut spec = world.spec("id -u; id -g; id -G; grep -E 'CapEff|CapPrm' /proc/self/status; echo hi > /dev/stdout");
    spec.identity = Identity {
        uid: 1000,
        gid: 100,
        groups: vec![7],
    };
    let stdout = Ran::of(spec).succeeds();
    // CVE-2023-25173: the primary group is among the supplementary ones.
    assert!(stdout.starts_with("1000\n100\n100 7\n"), "{stdout}");
    assert_eq!(stdout.matches("0000000000000000").count(), 2, "{stdout}");
    assert!(stdout.ends_with("hi\n"));
}

#[test]
fn with_a_single_id_owners_are_squashed_and_users_are_that_id() {
    if !has_single_id() {
        return;
    }
    let world = World::new();
    let mut spec = world.spec("id -u; touch /f && chown 33:33 /f && stat -c %u /f");
    spec.identity = Identity {
        uid: 1000,
        gid: 1000,
        groups: vec![],
    };
    assert_eq!(Ran::of(spec).succeeds(), "0\n0\n");
}

#[test]
fn an_id_that_the_namespace_lacks_is_an_error() {
    if has_single_id() || std::env::var_os(ORDINARY_USER).is_none() {
        return;
    }
    let world = World::new();
    let mut spec = world.spec("id");
    spec.identity.uid = 4_000_000_000;
    assert!(matches!(
        Ran::of(spec).fails_to_start(),
        SetupFailure::Identity { uid: 4_000_000_000, .. }
    ));
}

#[test]
fn modes_and_limits_do_not_come_from_the_caller() {
    let stdout = World::new().run("umask; ulimit -Sn; ulimit -Hn").succeeds();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[..2], ["0022", "1024"]);
    assert!(lines[2].parse::<u64>().unwrap() <= 524_288, "{stdout}");
}

#[test]
fn what_was_left_running_dies_at_once() {
    let began = Instant::now();
    let ran = World::new().run(
        "(busybox sleep 1000 &); busybox setsid busybox sh -c 'trap \"\" TERM HUP; busybox sleep 1000' & echo end",
    );
    assert_eq!(ran.succeeds(), "end\n");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn orphans_are_reaped() {
    let script = "for i in 1 2 3 4 5; do (busybox sleep 0.1 &); done; sleep 0.5; ps -o stat | grep -c Z; :";
    assert_eq!(World::new().run(script).succeeds(), "0\n");
}

#[test]
fn the_stages_of_a_sandbox_are_told_to_those_who_ask() {
    if runtime().is_some() {
        // They are those of the program's own sandbox.
        return;
    }
    let world = World::new();
    let run = |timing| {
        let mut spec = world.spec("sleep 0.2");
        spec.timing = timing;
        sandbox::run(spec, &|_, _| (), &Cancel::new().unwrap()).unwrap().stages
    };
    assert!(run(Timing::Off).is_empty());
    let stages = run(Timing::On);
    assert!(stages.is_sorted_by_key(|moment| moment.at));
    let at = |stage| stages.iter().find(|moment| moment.stage == stage).unwrap().at;
    let chain = [
        Stage::Begun,
        Stage::NamespacesMade,
        Stage::ProcMounted,
        Stage::RootEntered,
        Stage::Filtered,
    ];
    assert!(chain.map(at).is_sorted() && at(Stage::Filtered) < at(Stage::Ready));
    assert!(at(Stage::Ended) - at(Stage::Ready) >= Duration::from_millis(200));
    assert!(at(Stage::Ended) < at(Stage::Gone));
}

#[test]
fn a_gigabyte_of_output_streams() {
    let world = World::new();
    let spec = world.spec("head -c 1073741824 /dev/zero");
    let (bytes, pieces) = (RefCell::new(0u64), RefCell::new(0u64));
    let count = |_: Stream, line: &[u8]| {
        *bytes.borrow_mut() += line.len() as u64;
        *pieces.borrow_mut() += 1;
    };
    assert_eq!(
        sandbox::run(spec, &count, &Cancel::new().unwrap()).unwrap().exit,
        Exit::Code(0)
    );
    assert_eq!(bytes.into_inner(), 1 << 30);
    assert!(pieces.into_inner() >= (1 << 30) / 65536);
}

#[test]
fn cancelling_ends_everything_promptly() {
    let cancel = Cancel::new().unwrap();
    let world = World::new();
    let spec = world.spec("trap '' TERM INT; echo begun; (busybox sleep 1000 &) ; while :; do busybox sleep 100; done");
    let began = Instant::now();
    let stop = |_: Stream, _: &[u8]| cancel.cancel();
    assert!(matches!(
        sandbox::run(spec, &stop, &cancel),
        Err(SandboxError::Cancelled)
    ));
    assert!(began.elapsed() < Duration::from_secs(5));
    let unused = world.spec("true");
    assert!(matches!(
        sandbox::run(unused, &stop, &cancel),
        Err(SandboxError::Cancelled)
    ));
}

#[test]
fn the_death_of_the_caller_ends_everything() {
    let world = World::new();
    let mut victim = Command::new("/proc/self/exe")
        .env(VICTIM, &world.root)
        .env_remove(ORDINARY_USER)
        .stdout(ProcessStdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(victim.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "begun\n");
    let inside = || inside(&world.root).count();
    assert!(inside() >= 1);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let began = Instant::now();
    while inside() > 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "a process survived");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.root.to_str().unwrap()), "a mount survived");
}

#[test]
fn programs_that_cannot_be_run_say_why() {
    let world = World::new();
    let start = |program: &str| {
        let mut spec = world.spec("");
        spec.args = vec![Bytes(program.into())];
        spec.env = vec![Bytes(b"PATH=/usr/bin:/bin".to_vec())];
        Ran::of(spec).fails_to_start()
    };
    fs::write(world.root.join("bin/plain"), "text").unwrap();
    fs::write(world.root.join("bin/odd"), "text").unwrap();
    fs::write(world.root.join("bin/lost"), "#!/no/such/thing\n").unwrap();
    for name in ["odd", "lost"] {
        fs::set_permissions(world.root.join("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(
        matches!(start("nothing"), SetupFailure::NotFound { program, searched } if program == "nothing" && searched == "/usr/bin:/bin")
    );
    assert!(matches!(start("/bin/nothing"), SetupFailure::NotFound { searched, .. } if searched.is_empty()));
    assert!(matches!(start(""), SetupFailure::NotFound { .. }));
    for name in ["plain", "/bin/plain", "/bin", "odd"] {
        assert!(matches!(start(name), SetupFailure::NotExecutable { .. }), "{name}");
    }
    let lost = start("lost");
    assert!(
        matches!(&lost, SetupFailure::NotExecutable { reason, .. } if reason.contains("interpreter")),
        "{lost}"
    );
}

#[test]
fn a_working_directory_is_made_but_never_lies_outside() {
    let world = World::new();
    let at = |path: &str| {
        let mut spec = world.spec("pwd");
        spec.working_dir = path.into();
        Ran::of(spec)
    };
    assert_eq!(at("/new/deep").succeeds(), "/new/deep\n");
    assert!(world.root.join("new/deep").is_dir());
    assert_eq!(at("/../../new").succeeds(), "/new\n");
    // CVE-2024-21626.
    for number in 0..64 {
        let failure = at(&format!("/proc/self/fd/{number}")).fails_to_start();
        assert!(matches!(failure, SetupFailure::WorkingDirectory { .. }), "{failure}");
    }
    std::os::unix::fs::symlink("/proc/1/cwd", world.root.join("link")).unwrap();
    assert!(matches!(
        at("/link").fails_to_start(),
        SetupFailure::WorkingDirectory { .. }
    ));
    assert!(matches!(
        at("/bin/busybox").fails_to_start(),
        SetupFailure::WorkingDirectory { .. }
    ));
}

#[test]
fn mounts_are_there_for_the_process_and_leave_no_trace() {
    let world = World::new();
    // These stay where a root lacks them, which is another test's.
    for name in ["dev", "proc", "sys"] {
        fs::create_dir(world.root.join(name)).unwrap();
    }
    // So that the root's own time does not depend on the moment of its making.
    let before = world.listing();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "bound\n").unwrap();
    let script = "cat /run/secrets/key /etc/hosts /mnt/data/file; stat -c '%a %s' /run/secrets/key; stat -f -c %T /scratch; \
                  echo x > /run/secrets/key; echo x > /mnt/data/file; echo x > /scratch/f && echo written; ls /dev | grep -c file";
    let mut spec = world.spec(&format!("({script}) 2>/dev/null; :"));
    spec.file(
        "/run/secrets/key",
        b"hunter2\n".to_vec(),
        0o400,
        (0, 0),
        Access::ReadOnly,
    );
    spec.file(
        "/etc/hosts",
        b"127.0.0.1 localhost\n".to_vec(),
        0o644,
        (0, 0),
        Access::ReadOnly,
    );
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    spec.bind(
        "/mnt/data",
        open_tree(CWD, tree.path(), flags).unwrap(),
        Access::ReadOnly,
    );
    spec.tmpfs("/scratch", Some(1 << 20), Access::ReadWrite);
    let stdout = Ran::of(spec).succeeds();
    assert_eq!(
        stdout,
        "hunter2\n127.0.0.1 localhost\nbound\n400 8\ntmpfs\nwritten\n0\n"
    );
    assert_eq!(world.listing(), before);
    assert_eq!(fs::read_to_string(tree.path().join("file")).unwrap(), "bound\n");
}

#[test]
fn the_kernels_directories_stay_where_a_root_lacks_them() {
    let world = World::new();
    let mut spec = world.spec("ls /dev/pipes");
    spec.file("/dev/pipes/script", Vec::new(), 0o755, (0, 0), Access::ReadOnly);
    assert_eq!(Ran::of(spec).succeeds(), "script\n");
    let is_there = |name: &str| world.root.join(name).exists();
    assert!(is_there("proc") && is_there("sys") && !is_there("dev"));
    assert_eq!(Ran::of(world.spec("echo x")).succeeds(), "x\n");
    assert!(is_there("dev"));
}

#[test]
fn a_writable_bind_is_written_through_and_files_with_a_shebang_can_be_run() {
    let world = World::new();
    let tree = tempfile::tempdir().unwrap();
    let mut spec = world.spec("echo new > /data/new; /script");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    spec.bind("/data", open_tree(CWD, tree.path(), flags).unwrap(), Access::ReadWrite);
    spec.file(
        "/script",
        b"#!/bin/sh\necho ran\n".to_vec(),
        0o755,
        (0, 0),
        Access::ReadOnly,
    );
    assert_eq!(Ran::of(spec).succeeds(), "ran\n");
    assert_eq!(fs::read_to_string(tree.path().join("new")).unwrap(), "new\n");
}

#[test]
fn cve_2024_23652_what_replaced_a_mount_point_is_not_followed() {
    let world = World::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("y"), "sentinel").unwrap();
    let mut spec = world.spec(&format!("mv /x /moved && ln -s {} /x", outside.path().display()));
    spec.file("/x/y", b"content".to_vec(), 0o644, (0, 0), Access::ReadOnly);
    Ran::of(spec).succeeds();
    assert_eq!(fs::read_to_string(outside.path().join("y")).unwrap(), "sentinel");
    assert!(!world.root.join("moved/y").exists());
}

#[test]
fn cve_2021_30465_mount_targets_stay_inside_whatever_links_say() {
    let world = World::new();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), world.root.join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../../../etc/shadow", world.root.join("up")).unwrap();
    let mut spec = world.spec("cat /out/a /up");
    spec.file("/out/a", b"a\n".to_vec(), 0o644, (0, 0), Access::ReadOnly);
    spec.file("/up", b"b\n".to_vec(), 0o644, (0, 0), Access::ReadOnly);
    assert_eq!(Ran::of(spec).succeeds(), "a\nb\n");
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    let mut spec = world.spec("true");
    spec.tmpfs("/proc/self/attr", None, Access::ReadWrite);
    assert!(matches!(Ran::of(spec).fails_to_start(), SetupFailure::Mount { .. }));
}

#[test]
fn a_terminal_is_a_real_one() {
    let world = World::new();
    let spec = world.spec("tty; stty size; stat -c %t:%T /dev/console; exit 3");
    let mut running = sandbox::start(spec, Stdio::Terminal(TerminalSize { rows: 33, columns: 99 })).unwrap();
    let sandbox::Heard::Terminal(terminal) = running.hear().unwrap() else {
        panic!("no terminal");
    };
    let mut text = String::new();
    let mut buffer = [0; 1024];
    // The end of a terminal's last process is told as EIO.
    while let Ok(length @ 1..) = rustix::io::read(&terminal, &mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert_eq!(text, "/dev/pts/0\r\n33 99\r\n88:0\r\n");
    assert_eq!(running.finish().unwrap().exit, Exit::Code(3));
}

#[test]
fn signals_reach_the_process() {
    let world = World::new();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let null = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let stdio = Stdio::Descriptors {
        stdin: null(),
        stdout: writer,
        stderr: null(),
    };
    let running = sandbox::start(
        world.spec("trap 'exit 7' TERM; echo ready; while :; do busybox sleep 0.05; done"),
        stdio,
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(fs::File::from(reader)).read_line(&mut line).unwrap();
    running.signal(15).unwrap();
    assert_eq!(running.finish().unwrap().exit, Exit::Code(7));
}

#[test]
fn it_works_under_many_allocating_threads() {
    let end = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                while !end.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box(vec![0u8; 4096]);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| World::new().exit_codes_of_ten()))
            .collect();
        let codes: Vec<_> = runs.into_iter().map(|run| run.join()).collect();
        end.store(true, std::sync::atomic::Ordering::Relaxed);
        let fine = codes
            .into_iter()
            .flat_map(|codes| codes.unwrap())
            .all(|exit| exit == Exit::Code(0));
        assert!(fine);
    });
}

/// A world whose program `name` has these bytes.
#[cfg(target_arch = "x86_64")]
fn world_with(name: &str, program: &[u8]) -> World {
    let world = World::new();
    let path = world.root.join("bin").join(name);
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    world
}

#[test]
#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits_work() {
    let world = world_with("small", &programs::say_32("thirty-two\n"));
    assert_eq!(world.run("/bin/small").succeeds(), "thirty-two\n");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_get_the_answer_of_dockers_profile() {
    let errno = |program: Vec<u8>| match world_with("call", &program).run("/bin/call; exit $?").exit {
        Ok(Exit::Code(code)) => code,
        other => panic!("{other:?}"),
    };
    let (new_namespace, vsock) = (libc::CLONE_NEWUSER.cast_unsigned(), libc::AF_VSOCK.cast_unsigned());
    for (what, program, expected) in [
        ("io_uring_setup", programs::call_64(425, 0), libc::EPERM),
        ("io_uring_setup of 32 bits", programs::call_32(425, 0), libc::EPERM),
        ("an unknown call", programs::call_64(9999, 0), libc::ENOSYS),
        ("an unknown call of 32 bits", programs::call_32(9999, 0), libc::ENOSYS),
        ("clone3", programs::call_64(435, 0), libc::ENOSYS),
        (
            "clone with a namespace",
            programs::call_64(56, new_namespace),
            libc::EPERM,
        ),
        ("clone of 32 bits", programs::call_32(120, new_namespace), libc::EPERM),
        ("a socket to the hypervisor", programs::call_64(41, vsock), libc::EPERM),
        ("unshare", programs::call_64(272, 0), libc::EPERM),
        ("mount of 32 bits", programs::call_32(21, 0), libc::EPERM),
        ("keyctl", programs::call_64(250, 0), libc::EPERM),
        ("bpf", programs::call_64(321, 0), libc::EPERM),
        ("umask", programs::call_64(95, 0), -0o22 & 0xff),
    ] {
        assert_eq!(errno(program), expected, "{what}");
    }
}

/// The whole list, both architectures: what the kernel was given by a runtime, and what it was given without.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_runtimes_filter_answers_as_the_programs_own() {
    const ARCHITECTURES: [(u32, [u32; 3]); 2] = [(0xc000_003e, [56, 41, 135]), (0x4000_0003, [120, 359, 136])];
    /// Of these libseccomp learnt in version 2.6.
    const NEW: std::ops::Range<u32> = 451..467;
    let Some(runtime) = runtime() else { return };
    if !can_look_into_others() {
        return;
    }
    let world = World::new();
    let filter = |runtime| {
        let mut spec = world.spec("echo begun; exec busybox sleep 1000");
        spec.runtime = runtime;
        let cancel = Cancel::new().unwrap();
        let found = RefCell::new(None);
        let begun = |_: Stream, _: &[u8]| {
            // Not the sandbox's first process, which has none.
            let is_filtered = |pid: &i32| {
                fs::read_to_string(format!("/proc/{pid}/status"))
                    .unwrap()
                    .contains("Seccomp:\t2")
            };
            let pid = inside(&world.root).find(is_filtered).unwrap();
            found.replace(Some(filter::of_process(pid).unwrap()));
            cancel.cancel();
        };
        drop(sandbox::run(spec, &begun, &cancel));
        found.into_inner().unwrap()
    };
    let (own, theirs) = (filter(None), filter(Some(runtime)));
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let mut differences = Vec::new();
    for (architecture, by_argument) in ARCHITECTURES {
        for number in 0..1024 {
            let arguments: &[u64] = match by_argument.contains(&number) {
                true => &[
                    0,
                    1,
                    2,
                    8,
                    17,
                    38,
                    39,
                    40,
                    41,
                    0x2_0000,
                    0x2_0008,
                    0x0200_0000,
                    0x1000_0000,
                    0x7e02_0000,
                    0xffff_ffff,
                ],
                false => &[0, u64::MAX],
            };
            for argument in arguments {
                let own = filter::ask(&own, architecture, number, *argument);
                let theirs = filter::ask(&theirs, architecture, number, *argument);
                // What no architecture has is answered the same by the kernel itself.
                let is_a_gap = own == libc::SECCOMP_RET_ALLOW && theirs == unknown && !is_a_call(architecture, number);
                // The profile's format has no words for the rest of an argument's values.
                let is_a_persona = number == by_argument[2] && theirs == unknown;
                let is_new = NEW.contains(&number) && theirs == unknown;
                if own != theirs && !(is_a_gap || is_a_persona || is_new) {
                    differences.push(format!("{architecture:x} {number} {argument:x}: {own:x}, {theirs:x}"));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
    // x32 is an architecture to libseccomp, and one that the profile does not list.
    let x32 = |filter| filter::ask(filter, ARCHITECTURES[0].0, 0x4000_0000, 0);
    assert_eq!(x32(&own), unknown);
    assert!([libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_KILL_THREAD, unknown].contains(&x32(&theirs)));
}

/// Whether the architecture has a call of this number: from 336 to 423, x86-64 has none.
#[cfg(target_arch = "x86_64")]
fn is_a_call(architecture: u32, number: u32) -> bool {
    match architecture {
        0xc000_003e => !(335..424).contains(&number),
        // setup, the x86 calls that were taken back, and those that never came.
        _ => ![0, 222, 223, 251, 285].contains(&number) && !(387..393).contains(&number) && number != 415,
    }
}

/// The processes whose root directory is `root`.
fn inside(root: &Path) -> impl Iterator<Item = i32> {
    let root = fs::metadata(root).unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(move |process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let other = fs::metadata(process.path().join("root")).ok()?;
        ((other.dev(), other.ino()) == (root.dev(), root.ino())).then_some(pid)
    })
}

/// Reading a filter takes CAP_SYS_ADMIN on the machine.
#[cfg(target_arch = "x86_64")]
fn can_look_into_others() -> bool {
    std::env::var_os(ORDINARY_USER).is_none()
}

#[test]
fn a_program_cannot_be_written_to_through_proc() {
    let world = World::new();
    // CVE-2019-5736: neither the running program nor what started it. The first is busybox, whose own file is busy.
    let script = "for exe in /proc/self/exe /proc/1/exe /proc/$$/exe; do (echo x >> $exe) 2>/dev/null && echo $exe; done; \
                  for pid in 1 2 3 4 5 6 7 8 9 10 11 12; do (echo x >> /proc/$pid/exe) 2>/dev/null && echo $pid; done; :";
    assert_eq!(world.run(script).succeeds(), "");
}

#[test]
fn nothing_of_a_runtime_is_left_behind() {
    let Some(runtime) = runtime() else { return };
    let records = |name: &str| fs::read_dir(Path::new("/run").join(name)).map_or(0, Iterator::count);
    let groups = || {
        let mut found = Vec::new();
        let mut look_in = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(directory) = look_in.pop() {
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            look_in.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
            found.push(directory);
        }
        found.retain(|path| path.file_name().is_some_and(|name| name == "sandbox"));
        found
    };
    let before = records(&runtime.name);
    let world = World::new();
    assert_eq!(world.run("echo x").succeeds(), "x\n");
    assert_ne!(world.run("exit 3").exit.unwrap(), Exit::Code(0));
    assert_eq!(records(&runtime.name), before);
    assert_eq!(groups(), Vec::<PathBuf>::new());
}

#[test]
fn what_a_runtime_says_becomes_the_error_and_is_no_output() {
    let Some(runtime) = runtime() else { return };
    let world = World::new();
    let mut spec = world.spec("echo never");
    // Every runtime refuses a limit whose soft value is above the hard one, as the kernel does.
    spec.limits.push(Limit {
        resource: LimitedResource::Nofile,
        soft: 1000,
        hard: 10,
    });
    let ran = Ran::of(spec);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    match ran.fails_to_start() {
        SetupFailure::Runtime { runtime: name, reason } => {
            assert_eq!(name, runtime.name);
            assert!(reason.to_lowercase().contains("rlimit"), "{reason}");
        }
        other => panic!("{other}"),
    }
    let mut spec = world.spec("true");
    spec.runtime = Some(Runtime {
        name: "false".into(),
        program: "/bin/false".into(),
    });
    let failure = Ran::of(spec).fails_to_start();
    assert_eq!(
        failure.to_string(),
        "the OCI runtime `false` could not run the process: exit code 1"
    );
    let mut spec = world.spec("true");
    spec.env.push(Bytes(b"A=\xff".to_vec()));
    assert!(Ran::of(spec).fails_to_start().to_string().contains("UTF-8"));
}

#[test]
fn a_program_that_the_kernel_refuses_is_told_from_one_that_failed() {
    let world = World::new();
    // An ELF file whose dynamic loader does not exist: only `execve` finds that out.
    let mut busybox = fs::read("/bin/true").unwrap();
    let loader = busybox.windows(7).position(|bytes| bytes == b"/lib64/").unwrap();
    busybox[loader..loader + 7].copy_from_slice(b"/nolib/");
    fs::write(world.root.join("bin/lost"), busybox).unwrap();
    fs::set_permissions(world.root.join("bin/lost"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = world.spec("");
    spec.args = vec![Bytes(b"/bin/lost".to_vec())];
    let failure = Ran::of(spec).fails_to_start();
    assert!(
        matches!(&failure, SetupFailure::NotExecutable { reason, .. } if reason.contains("loader")),
        "{failure}"
    );
}

/// A user of the machine, for one test.
struct OrdinaryUser(String);

impl OrdinaryUser {
    fn add(name: &str) -> Self {
        let name = format!("{name}{}", std::process::id());
        assert!(
            Command::new("useradd")
                .args(["--no-create-home", &name])
                .status()
                .unwrap()
                .success()
        );
        Self(name)
    }

    /// Runs all other tests of this program as that user.
    fn runs_the_tests(&self, expected: &str, runtime: Option<&str>) {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = place.path().join("tests");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid", &self.0, "--regid", &self.0, "--init-groups"])
            .arg(&program)
            .args(["--skip", "all_is_the_same"])
            .args(runtime.map_or([].as_slice(), |_| SLOW))
            .envs(runtime.map(|name| (RUNTIME, name)))
            .env(ORDINARY_USER, expected)
            .current_dir("/")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("0 failed"), "{text}");
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.0).status();
    }
}

/// What does not depend on who runs the process, and takes long.
const SLOW: &[&str] = &["--skip", "a_gigabyte", "--skip", "many_allocating_threads"];

/// Whether this is the process that starts the others.
fn is_the_first() -> bool {
    std::env::var_os(ORDINARY_USER).is_none() && std::env::var_os(RUNTIME).is_none()
}

fn can_add_users() -> bool {
    is_the_first() && rustix::process::getuid().is_root()
}

/// The program's own sandbox, and the runtimes that are installed.
fn ways() -> Vec<Option<&'static str>> {
    let installed = ["runc", "crun"].into_iter().filter(|name| find_program(name).is_some());
    [None].into_iter().chain(installed.map(Some)).collect()
}

fn all_is_the_same_with(name: &str) {
    if !is_the_first() || find_program(name).is_none() {
        return;
    }
    let output = Command::new("/proc/self/exe")
        .args(["--skip", "all_is_the_same"])
        .args(SLOW)
        .env(RUNTIME, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("0 failed"), "{text}");
}

#[test]
fn all_is_the_same_with_runc() {
    all_is_the_same_with("runc");
}

#[test]
fn all_is_the_same_with_crun() {
    all_is_the_same_with("crun");
}

#[test]
fn all_is_the_same_for_an_ordinary_user_with_a_range_of_ids() {
    if can_add_users() {
        let user = OrdinaryUser::add("ranged");
        let own = |file: &str| fs::read_to_string(file).unwrap().contains(&user.0);
        if !own("/etc/subuid") {
            let add = [
                "--add-subuids",
                "700000-765535",
                "--add-subgids",
                "700000-765535",
                &user.0,
            ];
            assert!(Command::new("usermod").args(add).status().unwrap().success());
        }
        ways()
            .into_iter()
            .for_each(|runtime| user.runs_the_tests("range", runtime));
    }
}

#[test]
fn all_is_the_same_for_an_ordinary_user_with_one_id() {
    if can_add_users() {
        let user = OrdinaryUser::add("single");
        if fs::read_to_string("/etc/subuid").is_ok_and(|text| text.contains(&user.0)) {
            let ranges = fs::read_to_string("/etc/subuid").unwrap();
            let range = ranges
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{}:", user.0)))
                .unwrap();
            let (first, length) = range.split_once(':').unwrap();
            let last = first.parse::<u64>().unwrap() + length.parse::<u64>().unwrap() - 1;
            let range = format!("{first}-{last}");
            let delete = ["--del-subuids", &range, "--del-subgids", &range, &user.0];
            assert!(Command::new("usermod").args(delete).status().unwrap().success());
        }
        ways()
            .into_iter()
            .for_each(|runtime| user.runs_the_tests("single", runtime));
    }
}
