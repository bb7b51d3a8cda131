//! Steps that do not end, do not listen, or take all there is: nothing of them stays, and the next build works.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::attack::{build, processes};
use crate::support::Project;

/// How long the end of a build may take, however its steps behave.
const PROMPTLY: Duration = Duration::from_secs(10);

/// A build that was seen to say `begun`. Ends with the test.
struct Running(Child);

impl Running {
    fn start(project: &Project, arguments: &str) -> Self {
        let mut child = project
            .builder(&format!("build --progress plain {arguments} ."))
            .start();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.ends_with(" begun") => break,
                Some(line) => seen.push(line.unwrap()),
                None => panic!("the build ended before it began: {seen:#?}"),
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    /// Sends a signal; how it ended, soon.
    fn end_with(&mut self, signal: &str) -> Option<i32> {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PROMPTLY, "{signal} does not end the build");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn none_left(command: &str) {
    let begun = Instant::now();
    while processes(command) > 0 {
        assert!(begun.elapsed() < PROMPTLY, "`{command}` outlived its build");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// No mount, no group of processes, no scratch directory; and the next build works.
#[track_caller]
fn nothing_is_left(project: &Project) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(project.store().to_str().unwrap()),
        "a mount is left: {mounts}"
    );
    build(project, "FROM busybox\nRUN echo works > /f\nCMD cat /f\n", "--no-cache").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "works\n");
    let scratch = fs::read_dir(project.store().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(scratch, 0, "scratch directories are left");
}

/// Groups of the kernel's that a build made are gone with it.
fn groups() -> Vec<std::path::PathBuf> {
    let output = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", "builder*"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(Into::into)
        .collect()
}

#[test]
fn lifecycle_a_step_that_forks_without_end_is_ended() {
    for signal in ["-INT", "-TERM", "-KILL"] {
        let project = Project::new();
        // Each leaves two behind, in sessions of their own.
        project.write(
            "Dockerfile",
            "FROM busybox\nCOPY bomb /bomb\nRUN echo begun; sh /bomb 70301; sleep 70301\n",
        );
        project.write(
            "bomb",
            "(setsid sh /bomb $1 &) 2>/dev/null; (sh /bomb $1 &) 2>/dev/null; exec sleep $1\n",
        );
        let mut running = Running::start(&project, "--pids-limit 60");
        std::thread::sleep(Duration::from_millis(700));
        let seen = processes("sleep 70301");
        assert!((1..=60).contains(&seen), "{seen} processes: the limit does not hold");
        assert_ne!(running.end_with(signal), Some(0));
        none_left("sleep 70301");
        none_left("sh /bomb 70301");
        nothing_is_left(&project);
    }
    // What a killed builder left, the next one removed.
    let begun = Instant::now();
    while !groups().is_empty() && begun.elapsed() < PROMPTLY {
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn lifecycle_a_step_that_ignores_signals_is_ended() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let project = Project::new();
        project.write(
            "Dockerfile",
            "FROM busybox\nRUN trap '' INT TERM HUP QUIT PIPE ALRM USR1 USR2 TSTP; (trap '' TERM INT; setsid sleep 70302 &); echo begun; while :; do sleep 70302; done\n",
        );
        let mut running = Running::start(&project, "");
        assert_ne!(running.end_with(signal), Some(0), "{signal}");
        none_left("sleep 70302");
        nothing_is_left(&project);
    }
}

#[test]
fn lifecycle_a_step_that_stops_itself_is_ended() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo begun; sleep 70303 & kill -STOP $!; kill -STOP $$\n",
    );
    let mut running = Running::start(&project, "");
    std::thread::sleep(Duration::from_millis(200));
    assert_ne!(running.end_with("-INT"), Some(0));
    none_left("sleep 70303");
    nothing_is_left(&project);
}

#[test]
fn lifecycle_a_step_that_closes_its_descriptors_goes_on() {
    let project = Project::new();
    build(
        &project,
        "FROM busybox\nRUN exec 0<&- 1>&- 2>&-; sleep 0.3; touch /done; exit 0\nRUN exec 1>&- 2>&-; for i in 3 4 5 6 7 8 9; do eval \"exec $i>&-\"; done; (sleep 70304 &); test -e /done\nCMD ls /done\n",
        "",
    )
    .succeeds();
    none_left("sleep 70304");
    assert_eq!(project.run("app").succeeds().stdout, "/done\n");
    // Its failure is still its failure.
    build(
        &project,
        "FROM busybox\nRUN exec 0<&- 1>&- 2>&-; sleep 0.1; exit 9\n",
        "",
    )
    .exits(1)
    .says("exit code: 9");
    // And a descriptor that is closed does not keep a build from being stopped.
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo begun; exec 0<&- 1>&- 2>&-; while :; do sleep 70305; done\n",
    );
    let mut running = Running::start(&project, "");
    assert_ne!(running.end_with("-INT"), Some(0));
    none_left("sleep 70305");
    nothing_is_left(&project);
}

#[test]
fn lifecycle_daemons_of_a_step_end_with_it() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nRUN setsid sh -c 'setsid sleep 70306 & nohup sleep 70306 >/dev/null 2>&1 </dev/null & exit 0'; (trap '' HUP TERM; sleep 70306) & sleep 0.2; touch /done\nRUN ps | grep -c 'sleep 7030[6]' > /seen; true\nCMD cat /seen\n";
    build(&project, dockerfile, "").succeeds();
    none_left("sleep 70306");
    assert_eq!(project.run("app").succeeds().stdout, "0\n");
    // One that holds the step's output open does not hold up the build.
    let begun = Instant::now();
    build(&project, "FROM busybox\nRUN sleep 70307 & echo done\n", "").succeeds();
    assert!(begun.elapsed() < Duration::from_secs(30));
    none_left("sleep 70307");
    project.run("busybox sh -c :").succeeds();
    let mut run = project.builder("run --rm busybox sh -c");
    run.arg("setsid sleep 70308 & sleep 70308 & sleep 0.1").run().succeeds();
    none_left("sleep 70308");
    nothing_is_left(&project);
}

/// The most that a process ever held in memory, in MiB.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}

#[test]
fn lifecycle_much_output_is_shown_and_not_held() {
    // In lines, and as one line that never ends.
    for step in [
        "yes 'sixty-three letters are what a line of this output has, and one' | head -c 60000000",
        "head -c 100000000 /dev/zero | tr '\\0' x",
    ] {
        let project = Project::new();
        project.write("Dockerfile", format!("FROM busybox\nRUN {step}; echo the end\n"));
        let mut child = project.builder("build --progress plain .").start();
        let (mut stderr, mut bytes, mut most, mut tail) = (child.stderr.take().unwrap(), 0, 0, Vec::new());
        let mut buffer = vec![0; 1 << 20];
        let mut reads = 0u64;
        loop {
            let length = stderr.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            bytes += length;
            tail.extend_from_slice(&buffer[..length]);
            let surplus = tail.len().saturating_sub(1000);
            tail.drain(..surplus);
            reads += 1;
            if reads.is_multiple_of(100) {
                most = most.max(peak(child.id()));
            }
        }
        assert!(child.wait().unwrap().success());
        let end = String::from_utf8_lossy(&tail);
        assert!(end.contains("the end"), "{end}");
        // Nothing is left out.
        let sent = if step.starts_with("yes") {
            60_000_000
        } else {
            100_000_000
        };
        assert!(bytes >= sent, "{bytes} bytes");
        assert!(most > 0 && most < 200, "{most} MiB");
    }
}

/// A small file system in place of the store.
struct Small<'a>(&'a Project);

impl<'a> Small<'a> {
    fn mounted(project: &'a Project, options: &str) -> Self {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(project.store())
            .status();
        assert!(status.unwrap().success(), "mounting needs root");
        Self(project)
    }

    /// Nothing holds it.
    fn unmount(self) {
        let project = self.0;
        std::mem::forget(self);
        let status = Command::new("umount").arg(project.store()).status();
        assert!(status.unwrap().success(), "something of a build still holds the store");
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.store()).status();
    }
}

#[test]
fn lifecycle_a_step_that_fills_the_disk_is_told_and_leaves_room() {
    let project = Project::new();
    let small = Small::mounted(&project, "size=48m");
    for (step, code) in [
        ("dd if=/dev/zero of=/big bs=1M count=200", 1),
        (
            "cat /dev/zero > /a 2>/dev/null & cat /dev/zero > /b 2>/dev/null; exit 5",
            1,
        ),
        (
            "i=0; while echo x > /many-$i; do i=$((i+1)); head -c 100000 /dev/zero >> /many-$i || exit 3; done; exit 3",
            1,
        ),
    ] {
        build(&project, &format!("FROM busybox\nRUN {step}\n"), "")
            .exits(code)
            .says("Dockerfile:2");
        // What was written is given back before the next.
        build(
            &project,
            "FROM busybox\nRUN head -c 20000000 /dev/zero > /f && rm /f\n",
            "--no-cache",
        )
        .succeeds();
    }
    project.write("big", vec![7; 60_000_000]);
    build(&project, "FROM busybox\nCOPY big /\n", "")
        .exits(3)
        .says("No space left on device");
    fs::remove_file(project.directory().join("big")).unwrap();
    nothing_is_left_but_its_store(&project);
    small.unmount();
}

#[test]
fn lifecycle_a_step_that_takes_all_inodes_is_told() {
    let project = Project::new();
    let small = Small::mounted(&project, "size=200m,nr_inodes=3000");
    build(
        &project,
        "FROM busybox\nRUN mkdir /d; i=0; while : > /d/$i; do i=$((i+1)); done 2>&1; exit 7\n",
        "",
    )
    .exits(1)
    .says("No space left on device")
    .says("is not kept, since the disk is nearly full");
    nothing_is_left_but_its_store(&project);
    small.unmount();
}

/// The store is a mount of the test's own here.
#[track_caller]
fn nothing_is_left_but_its_store(project: &Project) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_store = mounts
        .lines()
        .filter(|line| line.contains(project.store().to_str().unwrap()));
    assert_eq!(of_store.count(), 1, "{mounts}");
    build(project, "FROM busybox\nRUN echo works > /f\nCMD cat /f\n", "--no-cache").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "works\n");
}

/// A tree as deep as a path can be, and deeper: the layer of the one is written, the other is refused, and neither leaves
/// a store that cannot be used.
#[test]
fn a_step_that_digs_deep_does_not_break_the_store() {
    let project = Project::new();
    let dig = |levels: usize, then: &str| {
        format!(
            "FROM busybox\nRUN i=0; while [ $i -lt {levels} ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; {then}\n"
        )
    };
    project.write("deep", dig(900, "echo bottom > f"));
    project.build("-f deep -t deep .").succeeds();
    let find = project
        .builder("run --rm deep sh -c")
        .arg("find /d -name f | wc -c")
        .run();
    find.succeeds().prints("1803\n");
    // No shell changes to a directory without a path; but what is deep can be moved into what is deep.
    project.write("deeper", dig(900, "cd /; mkdir -p e; i=0; cd e; while [ $i -lt 1500 ]; do mkdir e && cd e || exit 1; i=$((i+1)); done; mv /d ."));
    project.build("-f deeper .").exits(3).says("longer than 4096 bytes");
    project.write("after", "FROM busybox\nRUN true\n");
    project.build("-f after .").succeeds();
    project
        .build("--isolation=chroot --no-cache -f deep .")
        .exits(3)
        .says("more than 512 directories");
    project.build("--isolation=chroot -f after .").succeeds();
    let left = std::fs::read_dir(project.store().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "nothing is left in tmp");
}
