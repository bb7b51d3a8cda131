//! `RUN --mount`, `--ssh`, `--allow`, and limits: what a step is lent, and that nothing of it stays.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::support::{Ids, Outcome, Project};

fn build(project: &Project, dockerfile: &str, arguments: &str) -> Outcome {
    project.write("Dockerfile", dockerfile);
    project.build(&format!("{arguments} -t app ."))
}

#[test]
fn caches_start_from_a_stage_and_outlive_the_build() {
    let project = Project::new();
    let dockerfile = |step: &str| {
        format!(
            "FROM busybox AS seed\nRUN mkdir -p /s/in && echo seed > /s/in/f && chmod 711 /s && chown 5:6 /s\nFROM busybox\n\
             RUN --mount=type=cache,target=/c,id=k,from=seed,source=/s {step} > /out; cat /c/in/f >> /out; stat -c '%a' /c >> /out; echo changed > /c/in/f\nCMD cat /out\n"
        )
    };
    build(&project, &dockerfile("echo 1"), "").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "1\nseed\n711\n");
    build(&project, &dockerfile("echo 2"), "").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "2\nchanged\n711\n");
}

#[test]
fn one_cache_twice_in_a_step_is_one_however_it_is_shared() {
    let project = Project::new();
    for sharing in ["shared", "locked", "private"] {
        let mount = |target: &str| format!("--mount=type=cache,id=twice,sharing={sharing},target={target}");
        let dockerfile = format!(
            "FROM busybox\nRUN {} {} touch /a/{sharing} && ls /b > /out && rm /b/{sharing}\nRUN ls -d /a /b || echo gone >> /out\nCMD cat /out\n",
            mount("/a"),
            mount("/b"),
        );
        build(&project, &dockerfile, "").succeeds();
        let seen = project.run("app").succeeds().stdout;
        assert_eq!(seen, format!("{sharing}\ngone\n"));
    }
}

#[test]
fn locked_caches_are_used_one_after_the_other_and_two_of_them_do_not_deadlock() {
    let project = Project::new();
    let stage = |name: &str, first: &str, second: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,id={first},sharing=locked,target=/1 --mount=type=cache,id={second},sharing=locked,target=/2 \
             test ! -e /1/busy && touch /1/busy /2/busy && sleep 0.3 && rm /1/busy /2/busy && touch /done\n"
        )
    };
    let dockerfile = format!(
        "{}{}FROM busybox\nCOPY --from=x /done /x\nCOPY --from=y /done /y\n",
        stage("x", "left", "right"),
        stage("y", "right", "left")
    );
    build(&project, &dockerfile, "").succeeds();
}

#[test]
fn memory_has_a_size_and_may_be_read_only() {
    let project = Project::new();
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=tmpfs,target=/t,size=1m if dd if=/dev/zero of=/t/x bs=1k count=2000; then echo too large; exit 1; fi; du -k /t/x | cut -f1 > /out\n\
        RUN --mount=type=tmpfs,target=/t,ro touch /t/x || echo refused >> /out\n\
        RUN ls -d /t || echo gone >> /out\nCMD cat /out\n";
    build(&project, dockerfile, "").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "1024\nrefused\ngone\n");
}

#[test]
fn a_context_is_mounted_without_what_it_ignores_and_without_a_way_back() {
    let project = Project::new();
    project
        .write("src/f", "mine")
        .write("src/no", "")
        .write(".dockerignore", "**/no");
    let dockerfile = "FROM busybox\nWORKDIR /w\n\
        RUN --mount=source=src,target=m,rw ls m > /out && cat m/f >> /out && echo theirs > m/f && touch m/new\n\
        RUN --mount=source=src/f,target=/etc/deep/f cat /etc/deep/f >> /out && ls /etc/deep >> /out\n\
        RUN ls /etc/deep m || echo gone >> /out\nCMD cat /out\n";
    build(&project, dockerfile, "").succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "f\nminemine".to_owned() + "f\ngone\n"
    );
    assert_eq!(std::fs::read(project.directory().join("src/f")).unwrap(), b"mine");
    assert!(!project.directory().join("src/new").exists());
}

#[test]
fn a_secret_that_is_missing_is_an_empty_variable_or_an_error() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=t,env=TOKEN echo \"[$TOKEN]\" > /out\nCMD cat /out\n";
    build(&project, dockerfile, "").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "[]\n");
    build(
        &project,
        "FROM busybox\nRUN --mount=type=secret,id=t,required true\n",
        "",
    )
    .exits(1)
    .says("secret `t`")
    .says("--secret id=t");
}

#[test]
fn the_hosts_network_and_all_privileges_are_asked_for_by_name() {
    let project = Project::new();
    build(&project, "FROM busybox\nRUN --network=host true\n", "")
        .exits(1)
        .says("Dockerfile:2:15")
        .says("--allow network.host");
    build(
        &project,
        "FROM busybox\nRUN --network=host true\n",
        "--allow network.host",
    )
    .succeeds();
    build(&project, "FROM busybox\nRUN --network=host echo\n", "--network host").succeeds();
    build(&project, "FROM busybox\nRUN --security=insecure true\n", "")
        .exits(1)
        .says("Dockerfile:2:16")
        .says("--allow security.insecure");
    let privileged =
        "FROM busybox\nRUN --security=insecure mkdir /m && mount -t tmpfs none /m && umount /m && rmdir /m\n";
    build(&project, privileged, "--allow security.insecure").succeeds();
}

#[test]
fn limits_and_shared_memory_are_as_asked() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nRUN ulimit -n > /out; ulimit -Hn >> /out; df -k /dev/shm | tail -1 | awk '{print $2}' >> /out; grep gw /etc/hosts >> /out\nCMD cat /out\n";
    build(
        &project,
        dockerfile,
        "--ulimit nofile=500:600 --shm-size 128m --add-host gw:host-gateway --add-host=gw6=[::1]",
    )
    .succeeds();
    let seen = project.run("app").succeeds().stdout;
    assert!(
        seen.starts_with("500\n600\n131072\n10.213.") && seen.ends_with(".1\tgw\n::1\tgw6\n"),
        "{seen}"
    );
    build(&project, dockerfile, "--ulimit files=1").exits(2).says("nofile");
}

/// An `ssh-agent` of the user's with one key.
struct Agent {
    process: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start(uid: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .current_dir(path)
                .env("SSH_AUTH_SOCK", path.join("a"))
                .stdin(Stdio::null());
            command
        };
        let keygen = run(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-C", "the key", "-f", "key"],
        )
        .status();
        assert!(keygen.unwrap().success());
        for name in [path.to_owned(), path.join("key"), path.join("key.pub")] {
            std::os::unix::fs::chown(name, Some(uid), Some(uid)).unwrap();
        }
        let process = run("ssh-agent", &["-D", "-a", "a"])
            .stdout(Stdio::null())
            .uid(uid)
            .spawn()
            .unwrap();
        while !path.join("a").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(run("ssh-add", &["-q", "key"]).uid(uid).status().unwrap().success());
        Self { process, directory }
    }

    fn socket(&self) -> String {
        self.directory.path().join("a").to_str().unwrap().to_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks the agent which keys there are, and to forget them; both answers, as hexadecimal digits.
const ASK: &str = r#"FROM debian:bookworm-slim
COPY <<'EOF' /ask
use IO::Socket::UNIX;
for ([list => 11], [remove => 19]) {
    my $agent = IO::Socket::UNIX->new($ENV{SSH_AUTH_SOCK}) or die "$!";
    print $agent pack("NC", 1, $$_[1]);
    $agent->flush;
    read $agent, my $length, 4;
    read $agent, my $answer, unpack("N", $length);
    print "$$_[0] ", unpack("H*", $answer), "\n";
}
EOF
"#;

fn ask_agent(project: &Project, agent: &Agent, flag: &str) -> String {
    let dockerfile = format!(
        "{ASK}RUN --mount=type=ssh,mode=0666,required perl /ask > /out && stat -c '%a %u' $SSH_AUTH_SOCK >> /out\nRUN ls /run/buildkit || echo gone >> /out\nCMD cat /out\n"
    );
    project.write("Dockerfile", dockerfile);
    let mut builder = project.builder("build -t app .");
    builder
        .arg("--ssh")
        .arg(flag)
        .env("SSH_AUTH_SOCK", agent.socket())
        .run()
        .succeeds();
    project.run("app").succeeds().stdout
}

#[test]
fn an_ssh_agent_tells_its_keys_and_keeps_them() {
    let (project, agent) = (Project::new(), Agent::start(0));
    let seen = ask_agent(&project, &agent, "default");
    let key: String = b"the key".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(seen.contains(&key), "the key is listed: {seen}");
    assert!(
        seen.contains("remove 05\n666 0\ngone\n"),
        "nothing else is done: {seen}"
    );
    let key_file = format!("default={}", agent.directory.path().join("key").display());
    project.builder("rmi app").run();
    let mut other = project.builder("build --no-cache -t app .");
    other.arg("--ssh").arg(&key_file).run().succeeds();
    assert!(project.run("app").succeeds().stdout.contains("remove 05"));
}

#[test]
fn an_ssh_agent_answers_without_root() {
    let project = Project::rootless(Ids::Full);
    let agent = Agent::start(project.uid());
    assert!(ask_agent(&project, &agent, "default").contains("remove 05\n666 0\ngone\n"));
}

#[test]
fn an_agent_that_is_not_there_is_told_of() {
    let project = Project::new();
    build(
        &project,
        "FROM busybox\nRUN --mount=type=ssh,id=git,required true\n",
        "",
    )
    .exits(1)
    .says("ssh agent `git`")
    .says("--ssh git");
    build(
        &project,
        "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK || touch /none\n",
        "",
    )
    .succeeds();
    build(&project, "FROM busybox\n", "--ssh default")
        .exits(2)
        .says("SSH_AUTH_SOCK");
    project.write("no-key", "no key\n");
    build(&project, "FROM busybox\n", "--ssh default=no-key")
        .exits(2)
        .says("no-key");
}

#[test]
fn a_step_that_fails_without_its_optional_secret_is_told_so() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token --mount=type=ssh test -s /run/secrets/token\n";
    build(&project, dockerfile, "")
        .exits(1)
        .says("was not given: --secret id=token,src=FILE, --ssh default");
    project.write("token", "t");
    build(&project, dockerfile, "--secret id=token,src=token").succeeds();
}
