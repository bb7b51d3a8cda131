//! In a container that may neither mount nor make namespaces, as Kubernetes pods are.

use std::process::Command;

use crate::support::pod::{in_pod, pod};
use crate::support::{Outcome, Project};

#[test]
fn what_is_missing_is_told_one_by_one_and_nothing_weaker_is_chosen() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    for command in ["builder build .", "builder run busybox true"] {
        let outcome = in_pod(&project, command);
        assert!(matches!(outcome.code, Some(3 | 125)), "{}", outcome.stderr);
        outcome
            .says("user 0 may neither mount nor make a user namespace here")
            .says("a system call filter (seccomp) is active")
            .says("CAP_SYS_ADMIN")
            .says("hint: --isolation=chroot")
            .says("weaker");
    }
}

/// Everything that a Dockerfile commonly does.
const DOCKERFILE: &str = "FROM busybox AS base
WORKDIR /app
COPY --chmod=640 --chown=5:6 f sub/
RUN id > id && cat /app/sub/f >> id && mkdir -p new/dir && echo 1 > new/dir/file && ln new/dir/file linked && ln -s file new/dir/link
RUN rm -rf /app/sub && mkdir /app/sub && echo again > /app/sub/g && chmod 711 /app && rm /etc/hostname; mkfifo /fifo; mknod /disk b 7 99
RUN --mount=type=secret,id=s,mode=0444 grep -q hunter2 /run/secrets/s
RUN --mount=type=cache,target=/var/cache/c echo x >> /var/cache/c/n && cp /var/cache/c/n /first
RUN --mount=type=cache,target=/var/cache/c echo x >> /var/cache/c/n && cp /var/cache/c/n /second
RUN --mount=type=bind,source=f,target=/in/f --mount=type=tmpfs,target=/tmp/t cp /in/f /copied && touch /tmp/t/gone
FROM base AS two
RUN --mount=type=bind,from=base,source=/app,target=/base,rw echo thrown > /base/away && ls /base > /seen
RUN echo worker:x:1234:1234::/app:/bin/sh >> /etc/passwd && chown worker /app
USER worker
RUN touch /app/mine && id > /app/who && umask >> /app/who && ulimit -n >> /app/who
FROM busybox
COPY --from=two /app /app
COPY --from=two /copied /first /second /seen /kept/
COPY --link f /linked/
RUN cat /kept/first && touch -d 2001-02-03 /etc/passwd
CMD [\"cat\", \"/app/who\"]
";

#[test]
fn the_image_is_the_same_byte_for_byte() {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE);
    project.write("f", "words\n").write("secret", "hunter2\n");
    let build = "build --progress plain --secret id=s,src=secret -t app --iidfile";
    let script = format!(
        "SOURCE_DATE_EPOCH=1700000000 builder {build} inside --isolation=chroot . && builder run --rm --isolation=chroot app && builder save app -o app.tar && ls -A /var/lib/builder/tmp"
    );
    let outcome = in_pod(&project, &script)
        .succeeds()
        .says("--isolation=chroot is weaker");
    assert_eq!(
        outcome.stdout.lines().next(),
        Some("uid=1234(worker) gid=1234 groups=1234"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.ends_with("0022\n1024\n"),
        "nothing is left in tmp: {}",
        outcome.stdout
    );
    project
        .builder(&format!("{build} outside ."))
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .run()
        .succeeds();
    let id = |name: &str| std::fs::read_to_string(project.directory().join(name)).unwrap();
    assert_eq!(id("inside"), id("outside"));
    // What left the container is an image like any other.
    project.builder("load -i app.tar").run().succeeds();
    project.run("app").succeeds().prints("uid=1234(worker)");
}

#[test]
fn a_secret_is_in_no_layer_and_no_file_is_left_of_it() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=s mv /run/secrets/s /moved; ln /moved /again; true\nRUN --mount=type=secret,id=s,env=S test \"$(printf %s \"$S\" | wc -c)\" = 21\n");
    project.write("secret", "correct-horse-battery");
    in_pod(&project, "builder build --progress plain --isolation=chroot --secret id=s,src=secret -t app . && ! grep -r correct-horse-battery /var/lib/builder && builder run --rm --isolation=chroot app wc -c /moved /again")
        .succeeds()
        .never_says("correct-horse-battery")
        .prints("0 /moved");
}

/// `alive N`: whether some process is `sleep N`.
const ALIVE: &str = r#"alive() { for p in /proc/[0-9]*; do [ "$(tr '\0' ' ' < $p/cmdline 2>/dev/null)" = "sleep $1 " ] && return 0; done; return 1; }
"#;

#[test]
fn a_step_may_do_little_and_what_it_leaves_running_ends() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN chroot / true && exit 1; mount -t tmpfs none /tmp && exit 1; unshare -m true && exit 1; true\nRUN (sleep 4242 &); (setsid sleep 4243 >/dev/null 2>&1 </dev/null &); (trap '' TERM HUP INT; setsid sh -c 'sleep 4244; sleep 4244' &); true\n");
    let build = "builder build --progress plain --isolation=chroot .";
    let script = format!("{ALIVE} {build}; for n in 4242 4243 4244; do if alive $n; then echo $n; fi; done");
    assert_eq!(in_pod(&project, &script).succeeds().stdout, "");
}

#[test]
fn nothing_of_a_build_that_is_killed_is_left() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/c (setsid sleep 4245 &); echo kept > /c/f; sleep 4246\n",
    );
    project.write(
        "Dockerfile.after",
        "FROM busybox\nRUN --mount=type=cache,target=/c cat /c/f\n",
    );
    // The cache that was lent comes back, although nobody was told to bring it.
    let script = "builder build --progress plain --isolation=chroot . & B=$!
        while ! alive 4246; do sleep 0.05; done; kill -9 $B; wait $B || true
        for i in $(seq 100); do alive 4245 || alive 4246 || break; sleep 0.05; done; sleep 0.2
        if alive 4245 || alive 4246; then echo alive; fi
        builder build --progress plain --isolation=chroot -f Dockerfile.after . && ls -A /var/lib/builder/tmp";
    let outcome = in_pod(&project, &format!("{ALIVE} {script}")).succeeds().says("kept");
    assert_eq!(outcome.stdout, "", "neither a process nor a file is left");
}

#[test]
fn what_nobody_was_left_to_end_is_ended_by_the_next_build() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN (setsid sleep 4248 &); sleep 4249\n");
    project.write("Dockerfile.after", "FROM busybox\nRUN true\n");
    // The builder, the process from which it starts others, and the step's supervisor.
    let script = r#"builder build --isolation=chroot . & B=$!
        while ! alive 4249; do sleep 0.05; done
        for p in /proc/[0-9]*; do case "$(tr '\0' ' ' < $p/cmdline)" in builder\ *) kill -9 ${p#/proc/};; esac; done
        wait $B || true; for i in $(seq 100); do alive 4249 || break; sleep 0.05; done
        alive 4248 && echo left; builder build --isolation=chroot -f Dockerfile.after .
        for i in $(seq 100); do alive 4248 || break; sleep 0.05; done
        if alive 4248; then echo alive; fi; ls -A /var/lib/builder/tmp"#;
    let outcome = in_pod(&project, &format!("{ALIVE} {script}")).succeeds();
    // A supervisor that saw its caller die first had time to clean up.
    assert!(matches!(outcome.stdout.as_str(), "left\n" | ""), "{}", outcome.stdout);
}

#[test]
fn an_interrupt_ends_a_step() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN trap '' TERM INT; sleep 4247; sleep 4247; sleep 4247\n",
    );
    let script = "builder build --progress plain --isolation=chroot . & B=$!
        while ! alive 4247; do sleep 0.05; done
        kill -TERM $B; wait $B || true; if alive 4247; then echo alive; fi";
    let outcome = in_pod(&project, &format!("{ALIVE} {script}")).succeeds();
    assert_eq!(outcome.stdout, "");
}

#[test]
fn what_cannot_be_had_is_an_error() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN --network=none true\n");
    in_pod(&project, "builder build --isolation=chroot .")
        .exits(1)
        .says("make a network namespace");
    in_pod(&project, "builder run --isolation=chroot -v /project:/p busybox true")
        .exits(125)
        .says("--isolation=chroot mounts nothing");
    project.write(
        "Dockerfile.twice",
        "FROM busybox\nRUN --mount=type=cache,id=c,target=/a --mount=type=cache,id=c,target=/b true\n",
    );
    in_pod(&project, "builder build --isolation=chroot -f Dockerfile.twice .")
        .exits(1)
        .says("cannot be at two places at once");
    project.write("Dockerfile.proc", "FROM busybox\nRUN readlink /proc/self/exe\n");
    in_pod(
        &project,
        "builder build --progress plain --isolation=chroot -f Dockerfile.proc .",
    )
    .exits(1)
    .says("this step had no /proc");
    // An ordinary user of a container has nothing to work with.
    in_pod(&project, "cp /usr/local/bin/builder /tmp/b; setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/tmp /tmp/b build --isolation=chroot .")
        .exits(3)
        .says("CAP_SYS_CHROOT");
}

#[test]
fn the_environment_and_the_configuration_can_ask_for_it() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo built > /f\nCMD cat /f\n");
    in_pod(&project, "BUILDER_ISOLATION=chroot builder build -q . && printf 'isolation = \"chroot\"\\n' > /tmp/c && cat $BUILDER_CONFIG >> /tmp/c && BUILDER_CONFIG=/tmp/c builder build -t app . && BUILDER_CONFIG=/tmp/c builder run --rm app && builder images")
        .succeeds()
        .prints("built\n")
        .prints("app");
}

/// The same with runc, as whose containers Kubernetes' pods commonly run.
#[test]
fn in_a_container_of_runcs() {
    let project = Project::new();
    project
        .write(
            "Dockerfile",
            "FROM busybox\nCOPY f /f\nRUN cat /f > /g; rm /f\nCMD cat /g\n",
        )
        .write("f", "words\n");
    project.write(
        "outer/Dockerfile",
        "FROM debian:bookworm-slim\nCOPY builder config.toml /\n",
    );
    std::fs::copy(env!("CARGO_BIN_EXE_builder"), project.directory().join("outer/builder")).unwrap();
    std::fs::copy(project.config(), project.directory().join("outer/config.toml")).unwrap();
    project.build("outer -o bundle/rootfs").succeeds();
    let outcome = runc(
        &project,
        "/builder build --progress plain --isolation=chroot -t app /project && /builder run --rm --isolation=chroot app",
    );
    outcome.succeeds().prints("words\n");
    let outcome = runc(&project, "/builder build /project");
    outcome.exits(3).says("CAP_SYS_ADMIN").says("--isolation=chroot");
}

fn runc(project: &Project, script: &str) -> Outcome {
    const CAPABILITIES: [&str; 14] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ];
    let bundle = project.directory().join("bundle");
    if !bundle.join("config.json").exists() {
        let status = Command::new("runc").arg("spec").current_dir(&bundle).status();
        assert!(status.unwrap().success());
    }
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    let names: Vec<String> = CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = names.clone().into();
    }
    spec["process"]["terminal"] = false.into();
    spec["process"]["noNewPrivileges"] = false.into();
    spec["process"]["args"] = vec!["sh", "-ec", script].into();
    spec["process"]["env"] = vec![
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "BUILDER_CONFIG=/config.toml",
        "HOME=/root",
    ]
    .into();
    spec["root"]["readonly"] = false.into();
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| !matches!(namespace["type"].as_str(), Some("network" | "cgroup")));
    spec["mounts"].as_array_mut().unwrap().push(serde_json::json!({
        "destination": "/project", "source": project.directory(), "type": "none", "options": ["rbind"]
    }));
    // The part of Docker's profile that matters here.
    spec["linux"]["seccomp"] = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["unshare", "setns", "mount", "fsopen", "open_tree", "move_mount"], "action": "SCMP_ACT_ERRNO" }]
    });
    std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let name = format!("builder-story-{}", std::process::id());
    let state = project.directory().join("runc");
    let output = Command::new("runc")
        .arg("--root")
        .arg(&state)
        .args(["run", &name])
        .current_dir(&bundle)
        .output()
        .unwrap();
    Outcome::of("runc run", &bundle, output)
}

#[test]
fn a_store_of_a_pod_serves_other_pods_and_says_so_elsewhere() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo cached > /f; rm /etc/passwd\n");
    std::fs::create_dir(project.directory().join("kept")).unwrap();
    let build = "builder --root /project/kept build --progress plain --isolation=chroot -t app .";
    in_pod(&project, build)
        .succeeds()
        .ran(["RUN echo cached > /f; rm /etc/passwd"]);
    in_pod(&project, build).succeeds().ran_nothing();
    // Its directory was no overlay's, so overlayfs can use it, too.
    project
        .builder("--root kept build --progress plain .")
        .run()
        .succeeds()
        .ran_nothing();
    let script = "builder build -q --isolation=chroot . && cp -a /var/lib/builder /project/own";
    pod(&project, script).run().succeeds();
    project
        .builder("--root own build .")
        .run()
        .exits(3)
        .says("where nothing can be mounted")
        .says("--root");
}
