//! `builder build --on-error=shell` and `builder debug`: a failed step, entered as its process left it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Ids, Outcome, Project};

/// Runs `builder` with `arguments`, and types `lines` into it.
fn typing(project: &Project, arguments: &str, lines: &str) -> Outcome {
    let path = project.home().join("typed");
    fs::write(&path, lines).unwrap();
    project.builder(arguments).stdin(fs::File::open(path).unwrap()).run()
}

/// A step that leaves all kinds of traces, and fails.
const LEAVING: &str = "FROM busybox AS lib\nRUN mkdir /lib && echo of the stage > /lib/f\nFROM busybox\n\
    RUN echo me:x:70:70::/w:/bin/sh >> /etc/passwd && mkdir /w && chown 70 /w\nENV A=a\nARG B=b\nWORKDIR /w\nUSER me\n\
    RUN --mount=type=bind,target=/ctx,source=sub --mount=type=bind,from=lib,source=/lib,target=/lib2,rw \
    --mount=type=cache,target=/cache,uid=70 --mount=type=tmpfs,target=/tmp/t --mount=type=secret,id=s,uid=70 \
    --mount=type=secret,id=s,env=S --network=none \
    echo half > made; echo changed > /lib2/f 2>/dev/null; echo kept > /cache/c; rm -f nothing; exit 7\n";

const LOOK: &str = "id -u; pwd; echo $A$B; cat made; cat /ctx/file; ls /lib2; cat /cache/c; \
    cat /run/secrets/s; echo; echo $S; mount | grep -c ' /tmp/t type tmpfs'; ls /sys/class/net; echo $0; echo mine > made; cat made\n";

/// What `LOOK` shows in the step that `LEAVING` left.
const SEEN: &str = "70\n/w\nab\nhalf\nin the context\nf\nkept\ns3cr3t\ns3cr3t\n1\nlo\n/bin/sh\nmine\n";

fn leaving(project: &Project) -> String {
    project
        .write("Dockerfile", LEAVING)
        .write("sub/file", "in the context\n");
    fs::write(project.home().join("secret"), "s3cr3t").unwrap();
    format!("--secret id=s,src={}", project.home().join("secret").display())
}

#[test]
fn a_shell_sees_what_the_step_saw() {
    let project = Project::new();
    let secret = leaving(&project);
    let failed = project
        .build(&format!("{secret} ."))
        .exits(1)
        .says("exit code: 7")
        .says("`builder debug ");
    assert!(!failed.stderr.contains("type=secret,id=s3cr3t"));
    // The context changes; what was mounted stays.
    project.write("sub/file", "another\n");
    for _ in 0..2 {
        let debug = typing(&project, &format!("debug {secret}"), LOOK).succeeds();
        assert_eq!(debug.stdout, SEEN, "{}", debug.stderr);
    }
    // Without the secret it says which flag gives it.
    typing(&project, "debug", LOOK)
        .succeeds()
        .says("what is not given here: --secret id=s,src=FILE");
    let command = format!("debug {secret} -- sh -c");
    let exit = project.builder(&command).arg("cat made; exit 9").run().exits(9);
    assert_eq!(exit.stdout, "half\n");
    project.builder(&format!("debug {secret} -- /nothing")).run().exits(127);
    let user = project
        .builder(&format!("debug {secret} -u root -- id -u"))
        .run()
        .succeeds();
    assert_eq!(user.stdout, "0\n");
    let network = project
        .builder(&format!("debug {secret} --network host -- ls /sys/class/net"))
        .run();
    assert!(network.succeeds().stdout.len() >= "lo\n".len());
}

#[test]
fn a_shell_opens_when_the_step_fails() {
    let project = Project::new();
    let secret = leaving(&project);
    let build = typing(
        &project,
        &format!("build --progress plain --on-error=shell {secret} ."),
        LOOK,
    )
    .exits(1);
    assert_eq!(build.stdout, SEEN, "{}", build.stderr);
    assert!(build.stderr.trim_end().ends_with("exit code: 7"), "{}", build.stderr);
    let shown = build.stderr.find("Dockerfile:9").unwrap();
    assert!(
        shown < build.stderr.find("as it failed").unwrap(),
        "the error comes before the shell"
    );
    // It can be entered again, and nothing of what was done there is in it.
    let again = project.builder(&format!("debug {secret} -- cat made")).run().succeeds();
    assert_eq!(again.stdout, "half\n");
}

/// An ordinary user with many ids, and with one.
#[test]
fn ordinary_users_enter_failed_steps() {
    for ids in [Ids::Full, Ids::Single] {
        let project = Project::rootless(ids);
        project.write("sub/file", "in the context\n");
        project.write(
            "Dockerfile",
            "FROM busybox\nWORKDIR /w\nENV A=a\nRUN --network=none --mount=type=bind,target=/ctx,source=sub echo half > made; cat /ctx/file; exit 7\n",
        );
        let look = "pwd; echo $A; cat made /ctx/file; echo mine > made; cat made; id -u\n";
        let seen = "/w\na\nhalf\nin the context\nmine\n0\n";
        let build = typing(&project, "build --progress plain --on-error=shell .", look).exits(1);
        assert_eq!(build.stdout, seen, "{}", build.stderr);
        let debug = typing(&project, "debug", look).succeeds();
        assert_eq!(debug.stdout, seen, "{}", debug.stderr);
    }
}

#[test]
fn steps_are_found_by_number_name_and_build() {
    let project = Project::new();
    project.builder("debug").run().exits(125).says("no failed step is kept");
    project.write("Dockerfile", "FROM busybox\nRUN true\nRUN echo one > /f; false\n");
    project.build(".").exits(1);
    let first = project.builder("history ls -q").run().succeeds().stdout;
    let first = first.trim();
    project.write("Dockerfile", "FROM busybox\nRUN echo two > /f; false\n");
    project.build(".").exits(1);
    // What succeeded since then is in nobody's way.
    project.write("Dockerfile", "FROM busybox\nRUN echo three > /f\n");
    project.build(".").succeeds();
    let f = |step: &str| {
        project
            .builder(&format!("debug {step} -- cat /f"))
            .run()
            .succeeds()
            .stdout
    };
    assert_eq!(f(""), "two\n");
    assert_eq!(f("two"), "two\n");
    assert_eq!(f("2/2"), "two\n");
    assert_eq!(f(first), "one\n");
    assert_eq!(f(&format!("{}/one", &first[..5])), "one\n");
    assert_eq!(f("^2"), "one\n");
    project
        .builder("debug three")
        .run()
        .exits(125)
        .says("no failed RUN step whose state is kept");
    project
        .builder(&format!("debug {first}/true"))
        .run()
        .exits(125)
        .says("these are: ");
    project
        .builder("debug nothing")
        .run()
        .exits(125)
        .says("has no step `nothing`");
    // The record and what is kept go together.
    project.builder(&format!("history rm {first}")).run().succeeds();
    project.builder(&format!("debug {first}")).run().exits(125);
    assert_eq!(f(""), "two\n");
    project.builder("history rm --all").run().succeeds();
    project.builder("debug").run().exits(125).says("no failed step is kept");
}

fn snapshots(project: &Project) -> usize {
    fs::read_dir(project.store().join("snapshots")).unwrap().count()
}

#[test]
fn failed_states_are_few_and_serve_as_nothing_else() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo base > /base\nRUN echo half > /f\n",
    );
    project.build("-t app .").succeeds();
    let before = snapshots(&project);
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo base > /base\nRUN echo $RANDOM > /f; exit 1\n",
    );
    project
        .build("--on-error=discard .")
        .exits(1)
        .never_says("builder debug");
    assert_eq!(snapshots(&project), before);
    for _ in 0..13 {
        project.build(".").exits(1).says("builder debug");
    }
    let kept = snapshots(&project) - before;
    assert!((1..=10).contains(&kept), "{kept} states");
    // A failed step is not cached: it runs again.
    project.build(".").exits(1).says("exit code: 1");
    // The collector leaves what they need, whatever images go.
    project.builder("rmi app").run().succeeds();
    assert_eq!(project.builder("debug -- cat /base").run().succeeds().stdout, "base\n");
    project.builder("history rm --all").run().succeeds();
    assert_eq!(snapshots(&project), before);
}

/// A state that somebody looks at stays, whatever else fails meanwhile.
#[test]
fn a_state_that_is_looked_at_is_not_removed() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo first > /f; exit 1\n");
    project.build(".").exits(1);
    let mut looking = project
        .builder("debug -- sh -c")
        .arg("echo in; read x; cat /f")
        .stdin(std::process::Stdio::piped())
        .start();
    let mut said = [0; 3];
    std::io::Read::read_exact(looking.stdout.as_mut().unwrap(), &mut said).unwrap();
    project.write("Dockerfile", "FROM busybox\nRUN echo other > /f; exit 1\n");
    for _ in 0..11 {
        project.build(".").exits(1);
    }
    project.builder("history rm --all").run().succeeds();
    looking.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = looking.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "first\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    project.build(".").exits(1);
    project.builder("history rm --all").run().succeeds();
    project.builder("debug").run().exits(125);
}

#[test]
fn what_was_allowed_has_to_be_allowed_again() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status; exit 1\n",
    );
    project.build("--allow security.insecure .").exits(1);
    project
        .builder("debug -- true")
        .run()
        .exits(125)
        .says("--allow security.insecure");
    let debug = project
        .builder("debug --allow security.insecure -- grep CapEff /proc/self/status")
        .run();
    let mine = fs::read_to_string("/proc/self/status").unwrap();
    let mine = mine.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(debug.succeeds().stdout.trim(), mine);
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --network=host ls /sys/class/net; exit 1\n",
    );
    project.build("--allow network.host .").exits(1);
    project
        .builder("debug -- true")
        .run()
        .exits(125)
        .says("--allow network.host");
    project.builder("debug --allow network.host -- true").run().succeeds();
    project.builder("debug --network none -- true").run().succeeds();
    // What nobody allowed is as confined as the step was.
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --network=none grep -E 'CapEff|Seccomp:' /proc/self/status > /step; exit 1\n",
    );
    project.build(".").exits(1);
    let mut debug = project.builder("debug -- sh -c");
    let debug = debug
        .arg("cat /step; grep -E 'CapEff|Seccomp:' /proc/self/status")
        .run()
        .succeeds()
        .stdout;
    let lines: Vec<&str> = debug.lines().collect();
    assert!(lines.len() == 4 && lines[..2] == lines[2..], "{debug}");
    assert!(debug.contains("Seccomp:\t2"), "{debug}");
}

#[test]
fn a_root_without_a_shell_is_told() {
    let project = Project::new();
    let busybox = project.directory().join("busybox");
    project.write("get", "FROM busybox\nCMD cat /bin/busybox\n");
    project.build("-q -f get -t get .").succeeds();
    let id = project
        .builder("run --rm get")
        .run_into(fs::File::create(&busybox).unwrap());
    id.succeeds();
    project.write(
        "Dockerfile",
        "FROM scratch\nCOPY --chmod=755 busybox /busybox\nRUN [\"/busybox\", \"false\"]\n",
    );
    project.build("--network none .").exits(1).says("builder debug");
    project
        .builder("debug")
        .run()
        .exits(125)
        .says("has no shell")
        .says("`builder debug -- /program");
    assert_eq!(
        project.builder("debug -- /busybox echo here").run().succeeds().stdout,
        "here\n"
    );
    let build = project.build("--network none --on-error=shell .").exits(1);
    build.says("has no shell").says("exit code: 1");
    // A shell that is named and missing leaves /bin/sh.
    project.write("Dockerfile", "FROM busybox\nSHELL [\"/bin/bash\", \"-c\"]\nRUN true\n");
    project.build("--network none .").exits(1).says("builder debug");
    assert_eq!(typing(&project, "debug", "echo $0\n").succeeds().stdout, "/bin/sh\n");
}

/// Steps that failed hold neither secrets nor proxies.
#[test]
fn what_is_kept_holds_no_secret() {
    let project = Project::new();
    fs::write(project.home().join("secret"), "s3cr3t-sentinel").unwrap();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=TOKEN --mount=type=secret,id=s,target=/w/s test -n \"$http_proxy$TOKEN\"; cat /w/s > /dev/null; exit 1\n",
    );
    let secret = format!("--secret id=s,src={}", project.home().join("secret").display());
    let proxy = "--build-arg http_proxy=http://me:pr0xy-s3cr3t@127.0.0.1:1";
    project.build(&format!("{secret} {proxy} .")).exits(1);
    for word in ["s3cr3t-sentinel", "pr0xy-s3cr3t"] {
        let found = Command::new("grep")
            .args(["-r", "-a", word])
            .arg(project.store())
            .output()
            .unwrap();
        assert!(
            found.stdout.is_empty(),
            "{word}: {}",
            String::from_utf8_lossy(&found.stdout)
        );
    }
    let ls = project.builder(&format!("debug {secret} -- ls -A /w")).run().succeeds();
    assert_eq!(ls.stdout, "s\n");
    // The mount's place was made for it and went with it.
    let state: Vec<PathBuf> = newest_snapshots(&project);
    assert!(!state.iter().any(|snapshot| snapshot.join("fs/w").exists()));
}

fn newest_snapshots(project: &Project) -> Vec<PathBuf> {
    let entries = fs::read_dir(project.store().join("snapshots")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// On a terminal: the shell's, with its size and its signals; and the caller's is as it was before.
#[test]
fn a_shell_has_the_user_s_terminal() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --network=none echo half > /f; exit 7\n",
    );
    let script = project.home().join("typed");
    fs::write(&script, "tty; stty size; cat /f; exit 3\n").unwrap();
    let on_terminal = |arguments: &str| {
        let command = format!(
            "stty rows 33 cols 99; {} {arguments}; echo ended $?; stty -a | grep -c ' icanon'",
            env!("CARGO_BIN_EXE_builder")
        );
        let output = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .current_dir(project.directory())
            .env("BUILDER_ROOT", project.store())
            .env("BUILDER_CONFIG", project.config())
            .env("TERM", "xterm")
            .stdin(fs::File::open(&script).unwrap())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).replace('\r', "")
    };
    let build = on_terminal("build --on-error=shell .");
    for seen in ["/dev/pts/0\n", "33 99\n", "half\n", "ended 1\n1\n"] {
        assert!(build.contains(seen), "{seen}: {build}");
    }
    let debug = on_terminal("debug");
    for seen in ["/dev/pts/0\n", "33 99\n", "half\n", "ended 3\n1\n"] {
        assert!(debug.contains(seen), "{seen}: {debug}");
    }
}

/// Other steps have ended when the shell opens.
#[test]
fn the_shell_is_alone() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS slow\nRUN sleep 70701\nFROM busybox AS failing\nRUN sleep 0.5; exit 9\nFROM busybox\nCOPY --from=slow / /a\nCOPY --from=failing / /b\n",
    );
    project.write("typed", "echo begun; sleep 1; echo done\n");
    let mut build = project
        .builder("build --progress plain --on-error=shell .")
        .stdin(fs::File::open(project.directory().join("typed")).unwrap())
        .start();
    let mut said = [0; 6];
    std::io::Read::read_exact(build.stdout.as_mut().unwrap(), &mut said).unwrap();
    let sleepers = Command::new("pgrep").args(["-fx", "sleep 70701"]).output().unwrap();
    let output = build.wait_with_output().unwrap();
    assert!(sleepers.stdout.is_empty(), "another step runs beside the shell");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
}

/// What is typed into runs as long as the builder does, whatever ends that.
#[test]
fn nothing_of_a_shell_outlives_the_builder() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN --network=none exit 1\n");
    project.write(
        "typed",
        "echo begun; (sleep 70702 &); trap '' TERM INT HUP; sleep 70702\n",
    );
    let sleepers = || {
        Command::new("pgrep")
            .args(["-fx", "sleep 70702"])
            .output()
            .unwrap()
            .stdout
    };
    for command in ["build -q --on-error=shell .", "debug"] {
        let typed = fs::File::open(project.directory().join("typed")).unwrap();
        let mut shell = project.builder(command).stdin(typed).start();
        let mut said = [0; 6];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut said).unwrap();
        shell.kill().unwrap();
        shell.wait().unwrap();
        let begun = std::time::Instant::now();
        while !sleepers().is_empty() {
            assert!(
                begun.elapsed().as_secs() < 10,
                "{command}: a process outlived the builder"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    // Signals are the shell's.
    let typed = fs::File::open(project.directory().join("typed")).unwrap();
    fs::write(
        project.directory().join("typed"),
        "trap 'echo got it; exit 4' INT; echo begun; while :; do sleep 0.1; done\n",
    )
    .unwrap();
    let mut shell = project.builder("debug").stdin(typed).start();
    let mut said = [0; 6];
    std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut said).unwrap();
    let sent = Command::new("kill")
        .args(["-INT", &shell.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let output = shell.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(4), b"got it\n".as_slice())
    );
}

/// The user's agent answers in the step that was lent it, again.
#[test]
fn agents_are_lent_again() {
    let project = Project::new();
    let socket = project.home().join("agent");
    let mut agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --network=none --mount=type=ssh test -S $SSH_AUTH_SOCK; exit 1\n",
    );
    let look = "test -S $SSH_AUTH_SOCK && echo there";
    let typed = project.home().join("typed");
    fs::write(&typed, look).unwrap();
    let with_agent = |arguments: &str| {
        let mut program = project.builder(arguments);
        program
            .env("SSH_AUTH_SOCK", &socket)
            .stdin(fs::File::open(&typed).unwrap())
            .run()
    };
    let build = with_agent("build -q --on-error=shell --ssh default .");
    let debug = with_agent("debug --ssh default");
    let without = with_agent("debug");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(build.exits(1).stdout, "there\n");
    assert_eq!(debug.succeeds().stdout, "there\n");
    assert_eq!(without.exits(1).says("--ssh default").stdout, "");
}

/// SIGKILL at any moment of a failing build leaves a store that works, and no state that does not.
#[test]
fn sigkill_while_a_step_fails_leaves_nothing_half() {
    let project = Project::new();
    for round in 0..25u64 {
        project.write(
            "Dockerfile",
            format!("FROM busybox\nRUN --network=none echo {round} > /a; cp /a /b; exit 1\n"),
        );
        let mut child = project.builder("build -q .").start();
        std::thread::sleep(std::time::Duration::from_millis(5 + round * 3));
        let _ = child.kill();
        child.wait().unwrap();
        if project.builder("debug -- true").run().code == Some(0) {
            let debug = project.builder("debug -- cat /a /b").run().succeeds().stdout;
            let lines: Vec<&str> = debug.lines().collect();
            assert!(lines.len() == 2 && lines[0] == lines[1], "{debug}");
        }
    }
    project.build(".").exits(1);
    assert_eq!(project.builder("debug -- cat /b").run().succeeds().stdout, "24\n");
}
