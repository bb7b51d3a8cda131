//! Images for several platforms: built at once, kept under one name, sent and saved as an index. Programs of the other
//! architecture run through QEMU, which `scripts/emulation` registers.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Ids, Outcome, Project, registry};

const BOTH: &str = "--platform linux/amd64,linux/arm64";

/// A build stage that runs here, and one for each platform that runs there.
const CROSS: &str = "FROM --platform=$BUILDPLATFORM busybox AS build\n\
    RUN uname -m > /built-on\n\
    ARG TARGETARCH\n\
    RUN echo $TARGETARCH > /built-for\n\
    FROM busybox\n\
    COPY --from=build /built-on /built-for /\n\
    RUN uname -m > /runs-on\n\
    CMD cat /built-for /runs-on\n";

fn cross() -> Project {
    let project = Project::new();
    project.write("Dockerfile", CROSS);
    project
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let bytes = fs::read(layout.join("blobs/sha256").join(digest)).unwrap();
    assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap(), "{descriptor}");
    bytes
}

/// The index that a layout leads to, and its manifests with their configurations by platform. What the image
/// specification demands of each document is checked on the way.
fn read_layout(layout: &Path) -> (Value, Value, Vec<(String, Value, Value)>) {
    let own = json(&fs::read(layout.join("index.json")).unwrap());
    let top = own["manifests"][0].clone();
    assert_eq!(top["mediaType"], "application/vnd.oci.image.index.v1+json");
    let index = json(&blob(layout, &top));
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["mediaType"], top["mediaType"]);
    let mut images = Vec::new();
    for listed in index["manifests"].as_array().unwrap() {
        assert_eq!(listed["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        let platform = &listed["platform"];
        for name in platform.as_object().unwrap().keys() {
            assert!(
                ["architecture", "os", "variant", "os.version", "os.features"].contains(&name.as_str()),
                "{name}"
            );
        }
        let manifest = json(&blob(layout, listed));
        assert_eq!(manifest["mediaType"], listed["mediaType"]);
        assert_eq!(
            manifest["config"]["mediaType"],
            "application/vnd.oci.image.config.v1+json"
        );
        let config = json(&blob(layout, &manifest["config"]));
        assert_eq!(config["architecture"], platform["architecture"]);
        assert_eq!(config["os"], platform["os"]);
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), config["rootfs"]["diff_ids"].as_array().unwrap().len());
        for layer in layers {
            assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
            blob(layout, layer);
        }
        let name = format!(
            "{}/{}",
            platform["os"].as_str().unwrap(),
            platform["architecture"].as_str().unwrap()
        );
        images.push((name, manifest, config));
    }
    (top, index, images)
}

/// How often a step of this name was run.
fn runs(outcome: &Outcome, name: &str) -> usize {
    let ends = |line: &&str| line.starts_with('#') && line.ends_with(name);
    outcome.stderr.lines().filter(ends).count()
}

#[test]
fn two_platforms_are_built_at_once_and_share_what_they_can() {
    let project = cross();
    let built = project
        .build(&format!("{BOTH} -t app -o type=oci,dest=layout,tar=false ."))
        .succeeds();
    assert_eq!(
        runs(&built, "RUN uname -m > /built-on"),
        1,
        "one stage for both: {}",
        built.stderr
    );
    let built = built
        .says("[linux/amd64 build 2/3] RUN uname")
        .says("RUN echo $TARGETARCH")
        .says("[linux/arm64 stage-1 3/3] RUN uname")
        .says("for linux/amd64, linux/arm64 as app");
    assert_eq!(runs(&built, "RUN uname -m > /runs-on"), 2);
    let (top, _, images) = read_layout(&project.directory().join("layout"));
    let platforms: Vec<&str> = images.iter().map(|(platform, ..)| platform.as_str()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    assert_eq!(
        top["annotations"]["io.containerd.image.name"],
        "docker.io/library/app:latest"
    );
    // Each runs as what it is.
    assert_eq!(project.run("app").succeeds().stdout, "amd64\nx86_64\n");
    assert_eq!(
        project.run("--platform linux/amd64 app").succeeds().stdout,
        "amd64\nx86_64\n"
    );
    assert_eq!(
        project.run("--platform linux/arm64 app").succeeds().stdout,
        "arm64\naarch64\n"
    );
    project
        .run("--pull never --platform linux/s390x app")
        .exits(125)
        .says("has no image for linux/s390x; it has linux/amd64, linux/arm64");
    // Built again, all of it is known.
    project.build(&format!("{BOTH} -t app .")).succeeds().ran_nothing();
}

#[test]
fn a_platform_alone_is_an_image_and_a_build_argument_makes_it_an_index() {
    let project = Project::new();
    project.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    project
        .build("--platform linux/arm64/v8 -o type=oci,dest=one,tar=false .")
        .succeeds()
        .says("[1/1] COPY");
    let one = json(&fs::read(project.directory().join("one/index.json")).unwrap());
    assert_eq!(
        one["manifests"][0]["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(one["manifests"][0]["platform"]["architecture"], "arm64");
    assert!(one["manifests"][0]["platform"]["variant"].is_null());
    let forced = "--build-arg BUILDKIT_MULTI_PLATFORM=1 --platform aarch64 -o type=oci,dest=forced,tar=false .";
    project.build(forced).succeeds().says("[linux/arm64 1/1] COPY");
    let (.., images) = read_layout(&project.directory().join("forced"));
    assert_eq!(images.len(), 1);
    project
        .build("--build-arg BUILDKIT_MULTI_PLATFORM=0 --platform local,linux/s390x .")
        .exits(2)
        .says("forbids several platforms");
    project
        .build("--platform linux/nosuch/v1/x .")
        .exits(2)
        .says("is not a platform");
}

#[test]
fn annotations_go_where_they_are_asked_for() {
    let project = Project::new();
    project.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let flags = "--annotation a=all --annotation manifest[linux/arm64]:a=arm --annotation index:i=1 \
                 --annotation manifest-descriptor[linux/amd64],index-descriptor:d=2 --label l=3";
    project
        .build(&format!("{BOTH} {flags} -t app -o type=oci,dest=layout,tar=false ."))
        .succeeds();
    let check = |layout: &str| {
        let (top, index, images) = read_layout(&project.directory().join(layout));
        assert_eq!(index["annotations"]["i"], "1");
        assert_eq!(index["manifests"][0]["annotations"]["d"], "2");
        assert!(index["manifests"][1]["annotations"].is_null());
        assert_eq!(images[0].1["annotations"]["a"], "all");
        assert_eq!(images[1].1["annotations"]["a"], "arm");
        assert!(images.iter().all(|(.., config)| config["config"]["Labels"]["l"] == "3"));
        top
    };
    assert_eq!(check("layout")["annotations"]["d"], "2");
    // The store remembers all but what a layout says of the index.
    project.builder("save --format oci-dir -o saved app").run().succeeds();
    assert!(check("saved")["annotations"]["d"].is_null());
    // An image for one platform has no index to annotate.
    project
        .build("--annotation index:a=b .")
        .exits(2)
        .says("is for an index")
        .says("BUILDKIT_MULTI_PLATFORM=1");
    project
        .build("--annotation nosuch:a=b .")
        .exits(2)
        .says("`nosuch` is not one of manifest");
    project
        .build("--annotation manifest[linux/s390x]:a=b .")
        .exits(2)
        .says("linux/s390x, which is not built");
    // With its own annotations it is another image, and they stay with its name.
    project.build("--annotation a=1 -t one .").succeeds();
    project.build("--annotation a=2 -t two .").succeeds();
    for (name, expected) in [("one", "1"), ("two", "2")] {
        project
            .builder(&format!("save --format oci-dir -o {name} {name}"))
            .run()
            .succeeds();
        let layout = project.directory().join(name);
        let own = json(&fs::read(layout.join("index.json")).unwrap());
        assert_eq!(json(&blob(&layout, &own["manifests"][0]))["annotations"]["a"], expected);
    }
}

#[test]
fn an_index_is_listed_tagged_inspected_and_removed_as_one() {
    let project = cross();
    project.build(&format!("{BOTH} -t app .")).succeeds();
    let lines = |arguments: &str| -> Vec<String> {
        let listed = project.builder(arguments).run().succeeds().stdout;
        listed
            .lines()
            .filter(|line| line.contains("app") || line.contains('─'))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(lines("images").len(), 1);
    let tree = lines("images --tree");
    assert!(
        tree.len() >= 3 && tree[1].contains("├─ linux/amd64") && tree[2].contains("└─ linux/arm64"),
        "{tree:?}"
    );
    let format = project
        .builder("images --format {{.Repository}}={{.Platforms}} app")
        .run()
        .succeeds();
    assert_eq!(format.stdout, "app=linux/amd64,linux/arm64\n");
    project.builder("tag app other:1").run().succeeds();
    let inspected = json(project.builder("inspect other:1").run().succeeds().stdout.as_bytes());
    assert_eq!(inspected[0]["Architecture"], "amd64");
    assert_eq!(inspected[0]["Manifests"].as_array().unwrap().len(), 2);
    let arm = project
        .builder("inspect --platform linux/arm64 -f {{.Architecture}} app")
        .run()
        .succeeds();
    assert_eq!(arm.stdout, "arm64\n");
    project
        .builder("inspect --platform linux/s390x app")
        .run()
        .exits(2)
        .says("it is for linux/amd64, linux/arm64");
    // An image of it goes with it, and not before.
    let part = inspected[0]["Manifests"][1]["Id"].as_str().unwrap();
    project
        .builder(&format!("rmi {part}"))
        .run()
        .exits(2)
        .says("is part of the index");
    project
        .builder("rmi app")
        .run()
        .succeeds()
        .prints("Untagged: app:latest");
    project
        .builder("rmi other:1")
        .run()
        .succeeds()
        .prints("Deleted: sha256:");
    assert!(lines("images -q --no-trunc").iter().all(|line| !line.contains(part)));
    project.builder(&format!("inspect {part}")).run().exits(2);
}

#[test]
fn an_index_goes_through_a_registry_whole_or_in_part() {
    let project = cross();
    let (name, arm) = (
        format!("{}/story/platforms:1", registry()),
        format!("{}/story/platforms:arm", registry()),
    );
    let metadata = project.directory().join("metadata.json");
    project
        .build(&format!(
            "{BOTH} -t {name} --push --iidfile id --metadata-file {} .",
            metadata.display()
        ))
        .succeeds();
    let raw = |name: &str| {
        let inspect = ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")];
        let output = Command::new("skopeo").args(inspect).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let index = raw(&name);
    assert_eq!(json(&index)["manifests"].as_array().unwrap().len(), 2);
    let metadata = json(&fs::read(metadata).unwrap());
    let descriptor = &metadata["containerimage.descriptor"];
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(descriptor["size"].as_u64().unwrap(), index.len() as u64);
    assert_eq!(metadata["containerimage.digest"], descriptor["digest"]);
    assert_eq!(metadata["image.name"], name.as_str());
    let id = fs::read_to_string(project.directory().join("id")).unwrap();
    assert_eq!(
        project
            .builder(&format!("inspect -f {{{{.Id}}}} {id}"))
            .run()
            .succeeds()
            .stdout
            .trim(),
        id
    );
    // One platform alone is an image.
    project
        .builder(&format!("push --platform linux/arm64 {name} {arm}"))
        .run()
        .succeeds();
    assert_eq!(
        json(&raw(&arm))["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    // Elsewhere one platform comes, or both; the second joins the first under the name.
    let other = Project::new();
    other.builder(&format!("pull {name}")).run().succeeds();
    let platforms = |wanted: &str| {
        let listed = other.builder("images --format {{.Platforms}}").run().succeeds().stdout;
        assert_eq!(listed.trim(), wanted);
    };
    platforms("linux/amd64");
    other
        .builder(&format!("pull --platform linux/arm64 {name}"))
        .run()
        .succeeds();
    platforms("linux/amd64,linux/arm64");
    assert_eq!(
        other.run(&format!("--platform linux/arm64 {name}")).succeeds().stdout,
        "arm64\naarch64\n"
    );
    assert_eq!(other.run(&name).succeeds().stdout, "amd64\nx86_64\n");
    // All of it is there: it is sent on as it came.
    let copy = format!("{}/story/platforms:copy", registry());
    other.builder(&format!("push {name} {copy}")).run().succeeds();
    assert_eq!(raw(&copy), index);
    other
        .builder(&format!("pull --platform linux/s390x {name}"))
        .run()
        .exits(1)
        .says("it has linux/amd64, linux/arm64");
    other
        .builder(&format!("pull --platform linux/amd64 {arm}"))
        .run()
        .says("is an image for linux/arm64, not for linux/amd64");
}

#[test]
fn archives_hold_all_platforms_or_one() {
    let project = cross();
    project.build(&format!("{BOTH} -t app .")).succeeds();
    let other = Project::new();
    let archive = |name: &str| project.directory().join(name).display().to_string();
    let (oci, docker, arm) = (archive("oci.tar"), archive("docker.tar"), archive("arm.tar"));
    project
        .builder(&format!("save --format oci-archive -o {oci} app"))
        .run()
        .succeeds();
    other
        .builder(&format!("load -i {oci}"))
        .run()
        .succeeds()
        .prints("Loaded image: app:latest");
    assert_eq!(other.run("app").succeeds().stdout, "amd64\nx86_64\n");
    assert_eq!(
        other.run("--platform linux/arm64 app").succeeds().stdout,
        "arm64\naarch64\n"
    );
    // A docker archive has room for one.
    project.builder(&format!("save -o {docker} app")).run().succeeds();
    project
        .builder(&format!("save --platform linux/arm64 -o {arm} app"))
        .run()
        .succeeds();
    for (archive, expected) in [(docker, "amd64\nx86_64\n"), (arm, "arm64\naarch64\n")] {
        other.builder("rmi -f app").run().succeeds();
        other.builder(&format!("load -i {archive}")).run().succeeds();
        assert_eq!(other.run("app").succeeds().stdout, expected);
    }
    // Of an archive of both, one can be taken.
    other.builder("rmi -f app").run().succeeds();
    other
        .builder(&format!("load --platform linux/arm64 -i {oci}"))
        .run()
        .succeeds();
    let listed = other.builder("images --format {{.Platforms}} app").run().succeeds();
    assert_eq!(listed.stdout, "linux/arm64\n");
}

#[test]
fn files_of_several_platforms_lie_in_directories_of_their_own() {
    let project = cross();
    project
        .build(&format!("{BOTH} -o type=local,dest=out -o type=tar,dest=out.tar ."))
        .succeeds();
    for (directory, expected) in [("linux_amd64", "amd64\n"), ("linux_arm64", "arm64\n")] {
        let file = project.directory().join("out").join(directory).join("built-for");
        assert_eq!(fs::read_to_string(file).unwrap(), expected);
        let member = format!("{directory}/built-for");
        let tar = Command::new("tar")
            .args(["-xOf", "out.tar", &member])
            .current_dir(project.directory())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&tar.stdout), expected);
    }
    project
        .build("-o type=local,dest=split,platform-split=true .")
        .succeeds();
    assert!(project.directory().join("split/linux_amd64/built-for").is_file());
    project.build("-o type=local,dest=flat .").succeeds();
    assert!(project.directory().join("flat/built-for").is_file());
}

#[test]
fn a_local_index_serves_as_a_base() {
    let project = Project::new();
    project.write(
        "base/Dockerfile",
        "FROM busybox\nARG TARGETARCH\nENV BASE=$TARGETARCH\n",
    );
    project.build(&format!("{BOTH} -t base base")).succeeds();
    project.write(
        "Dockerfile",
        "FROM base\nRUN echo $BASE $(uname -m) > /said\nCMD cat /said\n",
    );
    project.build(&format!("{BOTH} -t app .")).succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "amd64 x86_64\n");
    assert_eq!(
        project.run("--platform linux/arm64 app").succeeds().stdout,
        "arm64 aarch64\n"
    );
    project
        .build("--platform linux/s390x .")
        .says("has no image for linux/s390x; it has linux/amd64, linux/arm64")
        .says("Dockerfile:1");
    // A base for one platform decides where nobody asked, with a warning.
    project.build("--platform linux/arm64 -t only-arm base").succeeds();
    project.write("Dockerfile", "FROM only-arm\nRUN uname -m > /said\nCMD cat /said\n");
    project.build("-t app .").succeeds().says("InvalidBaseImagePlatform");
    assert_eq!(
        project.run("app").succeeds().says("is for linux/arm64").stdout,
        "aarch64\n"
    );
    project
        .build("--platform linux/amd64 .")
        .says("has no image for linux/amd64; it has linux/arm64");
}

#[test]
fn ordinary_users_build_for_others_too() {
    let project = Project::rootless(Ids::Full);
    project.write("Dockerfile", CROSS);
    project.build(&format!("{BOTH} -t app .")).succeeds();
    assert_eq!(
        project.run("--platform linux/arm64 app").succeeds().stdout,
        "arm64\naarch64\n"
    );
}

#[test]
fn a_program_that_no_emulator_runs_is_named_with_what_to_install() {
    let project = Project::new();
    // The first bytes of a program for Itanium, which nobody emulates; and a script that is for it.
    let program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x32\0";
    fs::write(project.directory().join("program"), program).unwrap();
    project.write("script", "#!/program\n");
    let dockerfile = |run: &str| format!("FROM busybox\nCOPY --chmod=755 program script /\n{run}\n");
    for name in ["/program", "/script"] {
        project.write("Dockerfile", dockerfile(&format!("RUN [\"{name}\"]")));
        project
            .build(".")
            .exits(1)
            .says("Dockerfile:3")
            .says(&format!("\"{name}\" is for another processor (ELF machine 50)"))
            .says("no emulator is registered with the kernel")
            .says("qemu-user-static");
    }
    project.write("Dockerfile", dockerfile("CMD [\"/program\"]"));
    project.build("-t app .").succeeds();
    project.run("app").exits(126).says("qemu-user-static");
}

#[test]
fn what_runs_nothing_needs_no_emulator() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM --platform=$BUILDPLATFORM busybox AS build\n\
         ARG TARGETOS TARGETARCH TARGETVARIANT TARGETPLATFORM BUILDARCH\n\
         RUN echo $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETVARIANT > /built-for\n\
         FROM scratch\nCOPY --from=build /built-for /\nCOPY Dockerfile /\n",
    );
    let platforms = "linux/s390x,linux/arm/v6,linux/ppc64le";
    let built = project
        .build(&format!("--platform {platforms} -o type=local,dest=out ."))
        .succeeds();
    assert!(!built.stderr.contains("emulator"), "{}", built.stderr);
    for (directory, expected) in [
        ("linux_s390x", "linux/s390x linux s390x\n"),
        ("linux_arm_v6", "linux/arm/v6 linux arm v6\n"),
        ("linux_ppc64le", "linux/ppc64le linux ppc64le\n"),
    ] {
        let file = project.directory().join("out").join(directory).join("built-for");
        assert_eq!(fs::read_to_string(file).unwrap(), expected);
    }
}
