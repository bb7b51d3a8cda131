//! eStargz: layers of which single files can be fetched, by readers that know how, and which all others read as gzip.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lying::LyingRegistry;
use crate::support::{Project, registry};

/// Files of all sizes that matter, one of them in three chunks.
const DOCKERFILE: &str = "FROM busybox
RUN mkdir /d && echo words > /d/file && ln /d/file /d/hard && ln -s file /d/soft && : > /d/empty && seq 1500000 > /d/large
RUN rm /bin/vi && echo more > /d/more
CMD [\"cat\", \"/d/file\"]
";
const TABLE: &str = "containerd.io/snapshot/stargz/toc.digest";

fn project() -> Project {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE);
    project
}

/// What a reader of single files finds in a layout: of each image, of each layer, the names of its files, where it has a
/// table of these. Everything else that it finds wrong ends it.
fn files(layout: &Path) -> Vec<Vec<Option<Vec<String>>>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/read_estargz.py");
    let output = Command::new("/usr/bin/python3")
        .arg(script)
        .arg(layout)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same of an image in a registry. skopeo verifies each blob.
fn files_in_registry(project: &Project, name: &str) -> Vec<Vec<Option<Vec<String>>>> {
    let layout = project.directory().join("fetched");
    let _ = fs::remove_dir_all(&layout);
    let output = Command::new("skopeo")
        .args([
            "copy",
            "-q",
            "--all",
            "--src-tls-verify=false",
            &format!("docker://{name}"),
        ])
        .arg(format!("oci:{}:1", layout.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    files(&layout)
}

fn digest_of(build: &crate::support::Outcome) -> String {
    build
        .stdout
        .lines()
        .last()
        .unwrap()
        .rsplit('@')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn every_file_of_new_layers_is_found_by_itself() {
    let project = project();
    let output = "type=oci,tar=false,compression=estargz";
    project.build(&format!("-q -o {output},dest=new .")).succeeds();
    let images = files(&project.directory().join("new"));
    let [base, first, second] = images[0].as_slice() else {
        panic!("{images:?}")
    };
    assert_eq!(*base, None, "layers of the base stay as they came");
    let first = first.as_ref().unwrap();
    for name in ["d", "d/file", "d/hard", "d/soft", "d/empty", "d/large"] {
        assert!(first.iter().any(|own| own == name), "{name}: {first:?}");
    }
    assert!(
        second.as_ref().unwrap().contains(&"bin/.wh.vi".to_owned()),
        "{second:?}"
    );
    let all = format!("-q --provenance=max -o {output},force-compression=true,compression-level=1,dest=all .");
    project.build(&all).succeeds();
    let images = files(&project.directory().join("all"));
    assert!(images.len() == 1 && images[0].iter().all(Option::is_some), "{images:?}");
    // The same whenever it is written.
    project.build(&format!("-q -o {output},dest=again .")).succeeds();
    let index = |name: &str| fs::read(project.directory().join(name).join("index.json")).unwrap();
    assert_eq!(index("new"), index("again"));
}

#[test]
fn it_is_another_image_with_the_same_files() {
    let (host, project) = (registry(), project());
    let name = format!("{host}/estargz/{}", std::process::id());
    project.build("-q -t app .").succeeds();
    let output = format!("type=registry,name={name}:files,compression=estargz");
    let build = project
        .build(&format!("-o {output} --metadata-file data.json ."))
        .succeeds();
    assert!(files_in_registry(&project, &format!("{name}:files"))[0][2].is_some());
    let data: Value = serde_json::from_slice(&fs::read(project.directory().join("data.json")).unwrap()).unwrap();
    assert_eq!(data["containerimage.digest"], digest_of(&build));
    let other = Project::new();
    let pulled = other.builder(&format!("pull -q {name}:files")).run().succeeds().stdout;
    let inspect = |format: &str| {
        other
            .builder("inspect --format")
            .arg(format)
            .arg(&format!("{name}:files"))
            .run()
            .succeeds()
            .stdout
    };
    assert!(!pulled.is_empty());
    assert_eq!(inspect("{{.Id}}").trim(), data["containerimage.config.digest"]);
    other.run(&format!("{name}:files")).succeeds().prints("words");
    // Nothing is different but the files that are its own.
    let listing = |project: &Project, name: &str| {
        let find = "find / -xdev ! -path '/etc/*' | sort; md5sum /d/*";
        let mut run = project.builder(&format!("run {name} sh -c"));
        run.arg(find).run().succeeds().stdout
    };
    let there = listing(&other, &format!("{name}:files"));
    let own: Vec<&str> = there
        .lines()
        .filter(|line| !line.contains("stargz.index.json") && !line.contains(".landmark"))
        .collect();
    let here = listing(&project, "app");
    assert_eq!(own, here.lines().collect::<Vec<_>>());
    assert_eq!(there.lines().count(), own.len() + 2);
}

#[test]
fn pushed_while_it_is_built_or_afterwards_it_is_the_same_and_is_not_made_twice() {
    let (server, project) = (LyingRegistry::start(), project());
    let name = format!("{}/app", server.host());
    let output = format!("type=registry,name={name},compression=estargz");
    let built = project.build(&format!("-t app -o {output} .")).succeeds();
    let sent = server.count("PATCH", "/blobs/") + server.count("PUT", "/blobs/");
    let pushed = project
        .builder(&format!("push --compression estargz app {name}:again"))
        .run()
        .succeeds();
    assert_eq!(digest_of(&built), digest_of(&pushed));
    assert_eq!(
        server.count("PATCH", "/blobs/") + server.count("PUT", "/blobs/"),
        sent,
        "nothing is sent twice"
    );
    // Another store, and so nothing that is known.
    let other = self::project();
    let again = other.build(&format!(
        "--no-cache -o type=registry,name={name}:third,compression=estargz --push -t {name}:fourth ."
    ));
    again.succeeds();
    let manifest: Value = serde_json::from_slice(&server.manifest("app", "again").unwrap()).unwrap();
    assert!(manifest["layers"][1]["annotations"][TABLE].is_string(), "{manifest}");
    assert!(manifest["layers"][0]["annotations"].is_null(), "{manifest}");
    // What is built on it keeps what its layers are.
    let on_it = Project::new();
    on_it.write("Dockerfile", format!("FROM {name}:again\nRUN echo on top > /top\n"));
    on_it.build(&format!("--push -t {name}:on .")).succeeds();
    let on: Value = serde_json::from_slice(&server.manifest("app", "on").unwrap()).unwrap();
    assert_eq!(on["layers"][1], manifest["layers"][1]);
    assert!(on["layers"][3]["annotations"].is_null(), "{on}");
    on_it
        .run(&format!("{name}:on cat /top /d/file"))
        .succeeds()
        .prints("on top\nwords");
}

#[test]
fn all_platforms_and_squashed_layers_too() {
    let (host, project) = (registry(), Project::new());
    project.write(
        "Dockerfile",
        "FROM busybox\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\nCOPY Dockerfile /second\n",
    );
    let name = format!("{host}/estargz/{}:platforms", std::process::id());
    let build = format!(
        "-q --platform linux/amd64,linux/arm64 --squash --provenance=min -o type=registry,name={name},compression=estargz ."
    );
    project.build(&build).succeeds();
    let images = files_in_registry(&project, &name);
    assert_eq!(images.len(), 2);
    for (image, own) in images.iter().zip(["amd64", "arm64"]) {
        let [None, Some(files)] = image.as_slice() else {
            panic!("{image:?}")
        };
        let expected = [".no.prefetch.landmark", own, "second"];
        assert_eq!(files.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn what_has_no_place_for_it_says_so() {
    let project = project();
    for (output, says) in [
        (
            "type=oci,dest=x,compression=estargz,oci-mediatypes=false",
            "annotations",
        ),
        ("type=oci,dest=x,compression=estargz,compression-level=10", "0 to 9"),
        (
            "type=oci,dest=x,compression=stargz",
            "gzip, zstd, estargz and uncompressed",
        ),
    ] {
        project.build(&format!("-o {output} .")).exits(2).says(says);
    }
    // Its table is JSON.
    project.write("Dockerfile", "FROM busybox\nRUN touch $(printf 'odd\\377')\n");
    project
        .build("-o type=oci,dest=x,compression=estargz .")
        .exits(3)
        .says("UTF-8")
        .says("gzip or zstd");
    project.build("-q -o type=oci,dest=x,compression=gzip .").succeeds();
}
