//! What a step or a container tries in order to leave its sandbox.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::attack::{Entry, Victim, build, layout, shell, tar};
use crate::support::{Ids, Project, fixture};

/// Descriptors that a program might have forgotten to close.
const DESCRIPTORS: u32 = 64;

/// Calls `attempt` for each descriptor's number, two at a time.
fn for_each_descriptor(attempt: impl Fn(u32) + Sync) {
    std::thread::scope(|scope| {
        for half in 0..2 {
            let attempt = &attempt;
            scope.spawn(move || (half..=DESCRIPTORS).step_by(2).for_each(attempt));
        }
    });
}

#[test]
fn cve_2024_21626_no_working_directory_of_a_step_is_a_descriptor() {
    let project = Project::new();
    let victim = Victim::of(&project);
    project.write("Dockerfile", "FROM busybox\n");
    project.build(".").succeeds();
    for_each_descriptor(|number| {
        let directory = project.home().join(format!("of-{number}"));
        fs::create_dir(&directory).unwrap();
        let dockerfile = format!(
            "FROM busybox\nWORKDIR /proc/self/fd/{number}\nRUN cat ../../../../..{}/y ..{}/y; ls\n",
            victim.path(),
            victim.path()
        );
        fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
        let build = format!("build --progress plain {}", directory.display());
        let outcome = project.builder(&build).run().exits(1).never_says(&victim.word);
        outcome.says("working directory");
    });
}

#[test]
fn cve_2024_21626_no_working_directory_of_a_container_is_a_descriptor() {
    let project = Project::new();
    let victim = Victim::of(&project);
    project.run("busybox true").succeeds();
    for_each_descriptor(|number| {
        let up = format!("../../../../..{}/y", victim.path());
        let outcome = project.run(&format!("-w /proc/self/fd/{number} busybox cat {up}"));
        assert_ne!(outcome.code, Some(0), "{number}");
        outcome.never_says(&victim.word).says("working directory");
    });
    // Nor by a link of the image's.
    let dockerfile = "FROM busybox\nRUN ln -s /proc/self/fd/3 /a && ln -s /proc/1/cwd /b && ln -s /proc/1/root /c && ln -s /proc/thread-self/cwd /d\n";
    build(&project, dockerfile, "").succeeds();
    for link in ["/a", "/b", "/c", "/d"] {
        project
            .run(&format!("-w {link} app pwd"))
            .exits(125)
            .says("working directory");
    }
}

/// The program is started by a path of the image's own, so that a process of the image's holds it.
#[test]
fn cve_2019_5736_the_program_cannot_be_written_from_inside() {
    let project = Project::new();
    let program = project.home().join("builder");
    fs::copy(env!("CARGO_BIN_EXE_builder"), &program).unwrap();
    let before = (fs::read(&program).unwrap(), fs::metadata(&program).unwrap().mtime());
    // The dynamic loader and libraries are the image's; so is what is loaded before them.
    let dockerfile = "FROM debian:bookworm-slim\n\
        RUN perl -e 'open(my $f, \">>\", \"/proc/1/exe\") and die \"opened\"'; perl -e 'open(my $f, \"+<\", \"/proc/1/exe\") and die \"opened\"'; true\n\
        COPY <<'EOF' /attack\n\
        #!/bin/sh\n\
        for round in $(seq 40); do for process in /proc/[0-9]*; do\n\
          [ \"$(readlink $process/exe)\" = /proc/self/exe ] && echo seen\n\
          case \"$(readlink $process/exe)\" in */perl*|*/dash|*/sleep|*/readlink|*/seq) continue;; esac\n\
          perl -e 'for (\">>\", \"+<\", \">\") { open(my $f, $_, \"$ARGV[0]/exe\") and print \"opened $ARGV[0]\\n\" }' $process\n\
        done; done\n\
        EOF\n\
        RUN sh /attack & /proc/self/exe --version; /proc/1/exe --version; wait\n\
        RUN [\"/proc/self/exe\", \"--version\"]\n";
    project.write("Dockerfile", dockerfile);
    let run = |arguments: &str| {
        let mut command = Command::new(&program);
        command.args(arguments.split(' ')).current_dir(project.directory());
        command
            .env("BUILDER_ROOT", project.store())
            .env("BUILDER_CONFIG", project.config());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let said = run("build --progress plain -t app .");
    assert!(said.contains("built ") && !said.contains(" opened"), "{said}");
    run("run --rm --entrypoint /proc/self/exe app --version");
    let said = run("run --rm app perl -e open(F,'+<','/proc/1/exe')and(print'opened')");
    assert!(!said.contains("opened"), "{said}");
    assert!(before == (fs::read(&program).unwrap(), fs::metadata(&program).unwrap().mtime()));
}

#[test]
fn cve_2021_3602_the_environment_of_the_host_is_in_no_process() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN for p in /proc/[0-9]*; do cat $p/environ $p/cmdline $p/task/*/environ; done 2>/dev/null | tr '\\0' '\\n' > /seen; env >> /seen; true\nCMD cat /seen\n",
    );
    let mut build = project.builder("build --progress plain -t app --secret id=unused,env=ALSO_SECRET .");
    build.env("SENTINEL", "of-the-host").env("ALSO_SECRET", "given-in-vain");
    build.run().succeeds();
    let seen = project.run("app").succeeds().stdout;
    assert!(seen.contains("PATH="), "{seen}");
    for word in ["SENTINEL", "of-the-host", "given-in-vain", "BUILDER_ROOT"] {
        assert!(!seen.contains(word), "{word}: {seen}");
    }
    let mut run = project.builder("run --rm busybox");
    run.arg("sh")
        .arg("-c")
        .arg("cat /proc/[0-9]*/environ; env; true")
        .env("SENTINEL", "of-the-host");
    run.run().succeeds().never_says("of-the-host");
}

#[test]
fn cve_2026_57231_an_entry_without_a_value_inherits_nothing() {
    let project = Project::new();
    layout(
        &project.directory().join("evil"),
        &[shell()],
        serde_json::json!({ "Env": ["AWS_SECRET", "PATH=/bin", "=x", "", "HOME"] }),
    );
    project.write(
        "Dockerfile",
        "FROM base\nRUN env\nRUN [\"/bin/env\"]\nENV A=$AWS_SECRET\n",
    );
    let mut build =
        project.builder("build --progress plain --no-cache -t app --build-context base=oci-layout://evil .");
    build
        .env("AWS_SECRET", "of-the-host")
        .run()
        .succeeds()
        .never_says("of-the-host");
    let mut run = project.builder("run --rm app env");
    run.env("AWS_SECRET", "of-the-host")
        .run()
        .succeeds()
        .never_says("of-the-host");
    project
        .builder("inspect app")
        .env("AWS_SECRET", "of-the-host")
        .run()
        .succeeds()
        .never_says("of-the-host");
}

/// Device names and kernel files of the image's own do not stand in for the real ones.
#[test]
fn cve_2025_31133_links_in_place_of_devices_and_kernel_files_change_nothing() {
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let project = Project::new();
    let dockerfile = "FROM busybox\nRUN true\nFROM scratch\nCOPY --from=0 / /\nCOPY --from=evil / /\n\
        RUN echo x > /proc/sys/kernel/core_pattern; echo x > /proc/sysrq-trigger; cat /proc/kcore | head -c 10; cat /proc/keys /proc/timer_list; ls /sys/firmware; stat -c %t:%T /dev/null /dev/zero; test -d /proc/self && echo mounted\n";
    let links = tar(&[
        Entry::Link("dev/null", "/proc/sys/kernel/core_pattern"),
        Entry::Link("dev/zero", "/proc/sysrq-trigger"),
        Entry::Link("dev/pts", "/proc/1/root"),
        Entry::Link("dev/console", "/proc/sys/kernel/core_pattern"),
        Entry::Link("dev/ptmx", "/proc/sys/kernel/core_pattern"),
    ]);
    layout(&project.directory().join("evil"), &[links], serde_json::json!({}));
    let with = "--build-context evil=oci-layout://evil";
    let outcome = build(&project, dockerfile, with).succeeds();
    assert_eq!(outcome.stderr.matches(" 1:3\n").count(), 1, "{}", outcome.stderr);
    outcome.says(" 1:5\n").says(" mounted\n").says("Read-only file system");
    // A whole directory of the kernel's is a link: then the sandbox is not made, rather than made elsewhere.
    for name in ["proc", "sys", "dev"] {
        let link = tar(&[
            Entry::Link(name, "/tmp/elsewhere"),
            Entry::File("tmp/elsewhere/self/attr/exec", b""),
        ]);
        let directory = format!("evil-{name}");
        layout(
            &project.directory().join(&directory),
            &[shell(), link],
            serde_json::json!({}),
        );
        let dockerfile = "FROM evil\nRUN [\"/bin/sh\", \"-c\", \"cat /proc/kcore; echo x > /proc/sys/kernel/core_pattern; ls /dev\"]\n";
        let with = format!("--build-context evil=oci-layout://{directory}");
        build(&project, dockerfile, &with);
    }
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    assert!(!Path::new("/tmp/elsewhere").exists());
}

#[test]
fn cve_2025_52565_a_terminal_is_mounted_on_no_link_of_the_images() {
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let project = Project::new();
    let links = tar(&[
        Entry::Link("dev/console", "/proc/sys/kernel/core_pattern"),
        Entry::Link("dev/pts/0", "/proc/sys/kernel/core_pattern"),
    ]);
    layout(
        &project.directory().join("evil"),
        &[shell(), links],
        serde_json::json!({}),
    );
    build(&project, "FROM evil\n", "--build-context evil=oci-layout://evil").succeeds();
    let command = format!(
        "BUILDER_ROOT={} BUILDER_CONFIG={} {} run --rm -it app /bin/sh -c 'echo x > /dev/console; echo x > /proc/sys/kernel/core_pattern; echo ran'",
        project.store().display(),
        project.config().display(),
        env!("CARGO_BIN_EXE_builder")
    );
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("ran") && shown.contains("ead-only"), "{shown}");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

/// What the builder writes below `/proc` for a process must be the kernel's.
#[test]
fn cve_2025_52881_nothing_is_mounted_over_the_kernels_files() {
    let project = Project::new();
    project.write("fake/self/oom_score_adj", "-1");
    for target in [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/sys",
        "/proc/1/../self/oom_score_adj",
        "/x/../proc",
    ] {
        for mount in ["type=tmpfs", "type=cache,id=k", "source=fake,rw"] {
            build(
                &project,
                &format!("FROM busybox\nRUN --mount={mount},target={target} true\n"),
                "",
            )
            .exits(1)
            .says("nothing can be mounted at");
        }
    }
    // Through a link of the image's as well.
    build(
        &project,
        "FROM busybox\nRUN ln -s /proc /p\nRUN --mount=type=tmpfs,target=/p/self/attr true\n",
        "",
    )
    .exits(1);
    let volume = project.directory().join("fake");
    project
        .run(&format!("-v {}:/proc busybox true", volume.display()))
        .exits(125);
    project
        .run(&format!("-v {}:/proc/self/attr busybox true", volume.display()))
        .exits(125);
}

#[test]
fn cve_2022_27651_no_capability_is_inheritable() {
    for project in [Project::new(), Project::rootless(Ids::Full)] {
        let read = "grep -E 'Cap(Inh|Amb)' /proc/self/status";
        let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
        let dockerfile = format!(
            "FROM busybox\nRUN {read} > /root-has\nUSER 1234\nRUN {read} > /tmp/user-has; grep CapEff /proc/self/status >> /tmp/user-has\nCMD cat /root-has /tmp/user-has; {read}\n"
        );
        build(&project, &dockerfile, "").succeeds();
        let eff = "CapEff:\t0000000000000000\n";
        assert_eq!(project.run("app").succeeds().stdout, format!("{none}{none}{eff}{none}"));
        let mut run = project.builder("run --rm -u 0 busybox sh -c");
        assert_eq!(run.arg(read).run().succeeds().stdout, none);
    }
}

#[test]
fn cve_2023_25173_groups_are_those_of_the_user() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nRUN echo u:x:1234:1234::/:/bin/sh >> /etc/passwd && printf 'u:x:1234:\\nextra:x:77:u\\nother:x:88:\\n' >> /etc/group\n\
        USER u\nRUN id -G > /tmp/u\nUSER u:other\nRUN id -G > /tmp/u-other\nUSER 4321\nRUN id -G > /tmp/number\nCMD cat /tmp/u /tmp/u-other /tmp/number\n";
    build(&project, dockerfile, "").succeeds();
    assert_eq!(project.run("-u u app").succeeds().stdout, "1234 77\n88\n0\n");
    assert_eq!(project.run("-u u app id -G").succeeds().stdout, "1234 77\n");
    assert_eq!(project.run("-u u:other app id -G").succeeds().stdout, "88\n");
}

/// A step sees no process but its own, so it can end or trace no other.
#[test]
fn no_process_sandbox_a_step_cannot_reach_the_builders_processes() {
    let project = Project::new();
    let mut outside = Command::new("sleep").arg("70101").spawn().unwrap();
    let dockerfile = "FROM busybox AS other\nRUN for i in $(seq 20); do echo alive; sleep 0.1; done; touch /lived\n\
        FROM busybox\nRUN trap '' TERM HUP INT; for s in TERM HUP INT KILL; do kill -$s -1; done; for p in $(seq 1 4000); do [ $p = 1 -o $p = $$ ] || kill -9 $p; done 2>/dev/null; kill -9 1; ls /proc | grep -c '^[0-9]' > /seen\n\
        COPY --from=other /lived /\nCMD cat /seen\n";
    build(&project, dockerfile, "").succeeds();
    let seen: u32 = project.run("app").succeeds().stdout.trim().parse().unwrap();
    assert!(seen < 8, "{seen}");
    assert!(
        outside.try_wait().unwrap().is_none(),
        "a process of the host's was ended"
    );
    outside.kill().unwrap();
    outside.wait().unwrap();
}

/// There is nobody to ask for more than a step is given: while one runs, no process of the builder's listens.
#[test]
fn no_daemon_nothing_listens_while_a_step_runs() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo begun; sleep 3\n");
    let mut building = project.builder("build --network none --progress plain .").start();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(building.stderr.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().ends_with(" begun")));
    let sockets = sockets_of(building.id());
    let listening = listening_sockets();
    let open: Vec<_> = sockets.iter().filter(|inode| listening.contains(inode)).collect();
    building.kill().unwrap();
    building.wait().unwrap();
    assert!(open.is_empty(), "{open:?}");
}

fn sockets_of(process: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let number =
        |link: std::path::PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(number).collect()
}

/// Their inodes: `proc_pid_net(5)`.
fn listening_sockets() -> Vec<String> {
    let column = |file: &str, number: usize, listens: &dyn Fn(&[&str]) -> bool| -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
        let rows = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| listens(row))
            .map(|row| row[number].to_owned())
            .collect()
    };
    let tcp = |row: &[&str]| row[3] == "0A";
    let mut all = column("tcp", 9, &tcp);
    all.extend(column("tcp6", 9, &tcp));
    all.extend(column("unix", 6, &|row| row[3] == "00010000"));
    all
}

/// No mode but the two that are known, and only the known word, asked for and allowed, leaves the sandbox.
#[test]
fn ghsa_7236_3392_c5c6_an_unknown_mode_is_an_error_and_never_less_sandbox() {
    let project = Project::new();
    for mode in [
        "Insecure",
        "2",
        "-1",
        "none",
        "unconfined",
        "insecure,sandbox",
        "${X}",
        "\"\"",
    ] {
        let dockerfile = format!("FROM busybox\nARG X=privileged\nRUN --security={mode} true\n");
        build(&project, &dockerfile, "--allow security.insecure")
            .exits(1)
            .says("Dockerfile:3");
    }
    for mode in ["Host", "bridge0", "container:1", "3", "ns:/proc/1/ns/net"] {
        build(
            &project,
            &format!("FROM busybox\nRUN --network={mode} true\n"),
            "--allow network.host",
        )
        .exits(1)
        .says("Dockerfile:2");
    }
    for entitlement in ["security", "all", "*", "insecure", "security.insecure,x"] {
        build(&project, "FROM busybox\n", &format!("--allow {entitlement}")).exits(2);
    }
    let filter = "grep -E '^(Seccomp|CapEff):' /proc/self/status > /seen";
    let dockerfile = format!(
        "FROM busybox\nRUN {filter}\nRUN --security=sandbox cat /seen > /one && {filter} && cat /seen >> /one\nCMD cat /one\n"
    );
    build(&project, &dockerfile, "--allow security.insecure").succeeds();
    let confined = "Seccomp:\t2\nCapEff:\t00000000a80425fb\n";
    let sorted = "CapEff:\t00000000a80425fb\nSeccomp:\t2\n";
    let seen = project.run("app").succeeds().stdout;
    assert!(seen == confined.repeat(2) || seen == sorted.repeat(2), "{seen}");
}

/// Whoever wrote the step, the permission is the user's: for what a base image brings, too.
#[test]
fn cve_2024_23653_what_a_base_image_asks_for_needs_the_same_permission() {
    let project = Project::new();
    for (asks, needs) in [
        ("--security=insecure", "security.insecure"),
        ("--network=host", "network.host"),
    ] {
        let dockerfile = format!("FROM busybox AS base\nONBUILD RUN {asks} touch /escaped\nFROM base\nRUN true\n");
        build(&project, &dockerfile, "").exits(1).says(needs);
        layout(
            &project.directory().join("evil"),
            &[shell()],
            serde_json::json!({ "Env": ["PATH=/bin"], "OnBuild": [format!("RUN {asks} true")] }),
        );
        build(&project, "FROM evil\n", "--build-context evil=oci-layout://evil")
            .exits(1)
            .says(needs);
    }
    // A health check or a command of an image runs nothing while it is built.
    let dockerfile = format!(
        "FROM busybox\nHEALTHCHECK CMD touch {0}\nCMD touch {0}\nENTRYPOINT [\"touch\", \"{0}\"]\n",
        "/tmp/builder-ran-this"
    );
    build(&project, &dockerfile, "").succeeds();
    assert!(!Path::new("/tmp/builder-ran-this").exists());
}

/// The one gate: only these files of the library start anything in a sandbox.
#[test]
fn cve_2024_23653_there_is_one_way_to_execute_something() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut callers = Vec::new();
    for path in crate::attack::listing(&root) {
        if path.starts_with("executor/sandbox") || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(root.join(&path)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        if code.contains("SandboxSpec::new(") {
            callers.push(path);
        }
    }
    let expected = ["executor/exec.rs", "run/process.rs"].map(std::path::PathBuf::from);
    assert_eq!(callers, expected);
    assert!(fixture("").exists());
}

#[test]
fn buildkit_9cdf64294_what_is_no_file_is_not_read_to_its_end() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nCOPY . /x\n");
    let made = |name: &str, kind: &str| {
        let path = project.directory().join(name);
        let _ = fs::remove_file(&path);
        let arguments: &[&str] = match kind {
            "zero" => &["c", "1", "5"],
            _ => &["p"],
        };
        assert!(
            Command::new("mknod")
                .arg(&path)
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
        path
    };
    let begun = Instant::now();
    for kind in ["zero", "pipe"] {
        for name in [".dockerignore", "Dockerfile.dockerignore"] {
            let path = made(name, kind);
            project.build(".").exits(2).says("not a regular file");
            fs::remove_file(path).unwrap();
        }
        let path = made("odd", kind);
        // It is copied as what it is, or refused; it is not read.
        let outcome = project.build("--no-cache .");
        assert!(matches!(outcome.code, Some(0 | 1)), "{}", outcome.stderr);
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(project.directory().join("Dockerfile")).unwrap();
    made("Dockerfile", "zero");
    let outcome = project.build(".");
    assert_ne!(outcome.code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

/// The program's own rights are an ordinary user's then, but what is theirs is worth as much to them.
#[test]
fn without_root_the_same_attacks_fail() {
    for ids in [Ids::Full, Ids::Single] {
        let project = Project::rootless(ids);
        let victim = Victim::of(&project);
        let path = victim.path();
        let dockerfile = format!(
            "FROM busybox AS evil\nRUN ln -s {path} /v && ln -s / /root-link && echo image > /mark\nFROM busybox\n\
             RUN --mount=from=evil,source=/root-link,target=/m,rw cat /m/mark; cat /m{path}/y; echo evil > /m{path}/y; true\n\
             RUN --mount=type=cache,id=../../../home/victim,target=/c echo evil > /c/y\n\
             RUN cat /proc/[0-9]*/environ | tr '\\0' '\\n'; echo x >> /proc/1/exe; cat /proc/1/root{path}/y; true\n\
             RUN --mount=type=tmpfs,target=/x/d mv /x /moved && ln -s {path} /x\n\
             RUN kill -9 -1; true\nRUN rm /etc/passwd; mkfifo /etc/passwd\nRUN true\n"
        );
        project.write("Dockerfile", &dockerfile);
        let mut build = project.builder("build --progress plain -t app .");
        let outcome = build.env("SENTINEL", "of-the-user").run();
        outcome
            .succeeds()
            .says(" image")
            .never_says(&victim.word)
            .never_says("of-the-user");
        victim.is_untouched();
        for number in 0..12 {
            let run = project.run(&format!("-w /proc/self/fd/{number} app cat ../../../../..{path}/y"));
            run.exits(125).never_says(&victim.word);
        }
        build_of_nobody(&project);
    }
}

fn build_of_nobody(project: &Project) {
    project.write("Dockerfile", "FROM app\nUSER ghost-of-nobody\nRUN true\n");
    project.build("--pull=false .").exits(1).says("/etc/passwd");
}
