//! `builder spec`: a container of an image as OCI runtimes take it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Ids, Project};

#[test]
fn the_configuration_says_what_a_container_would_be() {
    let project = Project::new();
    let spec = "spec -t -e A=1 -w /tmp -u 1000:7 --memory 64m --pids-limit 9 --ulimit nofile=5:6 --shm-size 1m \
        -v /srv:/data:ro busybox id -u";
    let printed = project.builder(spec).run().succeeds().stdout;
    assert_eq!(
        printed,
        project.builder(spec).run().succeeds().stdout,
        "the same each time"
    );
    let config: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let at = |pointer: &str| {
        config
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{pointer}: {printed}"))
            .to_string()
    };
    for (pointer, expected) in [
        ("/process/args", r#"["id","-u"]"#),
        ("/process/terminal", "true"),
        ("/process/cwd", r#""/tmp""#),
        (
            "/process/user",
            r#"{"additionalGids":[7],"gid":7,"uid":1000,"umask":18}"#,
        ),
        ("/process/capabilities/effective", "[]"),
        ("/process/capabilities/inheritable", "[]"),
        ("/process/noNewPrivileges", "false"),
        ("/root", r#"{"path":"rootfs","readonly":false}"#),
        ("/linux/resources/memory", r#"{"limit":67108864,"swap":134217728}"#),
        ("/linux/resources/pids/limit", "9"),
        ("/linux/seccomp/defaultErrnoRet", "38"),
    ] {
        assert_eq!(at(pointer), expected, "{pointer}");
    }
    assert_eq!(
        config["process"]["capabilities"]["bounding"].as_array().unwrap().len(),
        14
    );
    let kinds: Vec<&str> = config["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["type"].as_str())
        .collect();
    assert_eq!(kinds, ["mount", "ipc", "uts", "cgroup", "pid", "network"]);
    for part in [
        "\"A=1\"",
        "size=1048576",
        "RLIMIT_NOFILE",
        "\"/data\"",
        "/proc/kcore",
        "io_uring_setup",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    project.builder("spec --network bridge busybox").run().exits(2);
    project
        .builder("spec -u nobody-knows busybox true")
        .run()
        .exits(3)
        .says("nobody-knows");
}

#[test]
fn a_bundle_is_run_by_plain_runc() {
    let project = Project::new();
    let directory = project.directory();
    let bundle = directory.join("bundle");
    let spec = format!("spec --bundle {} --hostname inside busybox sh -c", bundle.display());
    let script = "hostname; grep -E 'CapBnd|Seccomp:' /proc/self/status; touch /new; umask; exit 5";
    project.builder(&spec).arg(script).run().succeeds();
    let ran = Command::new("runc")
        .arg("--root")
        .arg(directory.join("state"))
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg("story-of-bundles")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(
        said,
        "inside\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n0022\n",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(ran.status.code(), Some(5));
    assert!(bundle.join("rootfs/new").exists());
    project.builder(&spec).arg("true").run().exits(2).says("is not empty");
}

#[test]
fn an_ordinary_users_bundle_is_run_by_that_users_runc() {
    for ids in [Ids::Full, Ids::Single] {
        let project = Project::rootless(ids);
        let bundle = project.directory().join("bundle");
        let script = "id -u; ls /sys/class/net > /dev/null && echo seen; exit 6";
        let spec = format!("spec --network host --bundle {} busybox sh -c", bundle.display());
        project.builder(&spec).arg(script).run().succeeds();
        let user = project.uid().to_string();
        let ran = Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &user, "--init-groups", "runc", "--root"])
            .arg(project.home().join("state"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg("story")
            .env("XDG_RUNTIME_DIR", project.home())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert_eq!(
            (said.as_ref(), ran.status.code()),
            ("0\nseen\n", Some(6)),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        assert!(
            Path::new(&bundle).join("config.json").exists()
                && fs::read_dir(bundle.join("rootfs")).unwrap().next().is_some()
        );
    }
}
