//! Provenance: how an image was built, stated beside it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::forge::Forge;
use crate::support::{Project, registry};

/// The documents of an OCI layout in a directory.
pub struct Layout<'a>(&'a Path);

impl<'a> Layout<'a> {
    pub fn of(directory: &'a Path) -> Self {
        Self(directory)
    }

    pub fn blob(&self, digest: &Value) -> Value {
        let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        serde_json::from_slice(&std::fs::read(self.0.join("blobs/sha256").join(digest)).unwrap()).unwrap()
    }

    /// What the layout's own index lists first: a manifest, or an index.
    pub fn top(&self) -> Value {
        let index: Value = serde_json::from_slice(&std::fs::read(self.0.join("index.json")).unwrap()).unwrap();
        self.blob(&index["manifests"][0]["digest"])
    }

    /// What is stated of the first image, by predicate type; each statement is checked to be about it.
    pub fn statement(&self, kind: &str) -> Option<Value> {
        self.statements(kind).into_iter().next()
    }

    /// All that is stated of the first image, by predicate type.
    pub fn statements(&self, kind: &str) -> Vec<Value> {
        let index = self.top();
        let image = index["manifests"][0]["digest"].clone();
        let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
        let is_about = |listed: &&Value| listed["annotations"]["vnd.docker.reference.digest"] == image;
        let Some(about) = manifests.iter().find(is_about) else {
            return Vec::new();
        };
        assert_eq!(
            about["annotations"]["vnd.docker.reference.type"],
            "attestation-manifest"
        );
        assert_eq!(about["platform"]["os"], "unknown");
        let manifest = self.blob(&about["digest"]);
        assert_eq!(manifest["subject"]["digest"], image);
        let layers = manifest["layers"].as_array().unwrap().iter();
        let layers = layers.filter(|layer| layer["annotations"]["in-toto.io/predicate-type"] == kind);
        let statement = |layer: &Value| {
            assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
            let statement = self.blob(&layer["digest"]);
            assert_eq!(statement["predicateType"], kind);
            assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
            let own = image.as_str().unwrap().strip_prefix("sha256:").unwrap();
            assert_eq!(statement["subject"][0]["digest"]["sha256"], own);
            statement
        };
        layers.map(statement).collect()
    }
}

const V1: &str = "https://slsa.dev/provenance/v1";

fn provenance(project: &Project) -> Value {
    let directory = project.directory().join("out");
    let statement = Layout::of(&directory).statement(V1).expect("there is provenance");
    statement["predicate"].clone()
}

fn project() -> Project {
    let project = Project::new();
    project
        .write(
            "Dockerfile",
            "FROM busybox AS made\nARG VERSION=1\nRUN --mount=type=secret,id=token echo $VERSION > /version\n\
             FROM busybox\nCOPY --from=made /version /\nCOPY file /\n",
        )
        .write("file", "x")
        .write(".dockerignore", "out*\n");
    project
}

#[test]
fn nothing_is_stated_unless_somebody_asks() {
    let project = project();
    for flags in ["", "--provenance=false", "--attest type=provenance,disabled=true"] {
        project
            .build(&format!("{flags} -t app -o type=oci,dest=out,tar=false ."))
            .succeeds();
        let directory = project.directory().join("out");
        assert_eq!(
            Layout::of(&directory).top()["mediaType"],
            "application/vnd.oci.image.manifest.v1+json",
            "{flags}"
        );
        std::fs::remove_dir_all(directory).unwrap();
    }
}

#[test]
fn the_least_has_sources_and_no_arguments() {
    let project = project();
    project
        .build("--provenance=min --build-arg VERSION=from-outside -t app -o type=oci,dest=out,tar=false .")
        .succeeds();
    let stated = provenance(&project);
    let text = stated.to_string();
    // BuildKit d53233341: nothing of the arguments, wherever it stands.
    assert!(!text.contains("from-outside") && !text.contains("token"), "{text}");
    assert!(
        stated["buildDefinition"]["externalParameters"]["request"]
            .get("args")
            .is_none()
    );
    let base = &stated["buildDefinition"]["resolvedDependencies"][0];
    assert!(
        base["uri"]
            .as_str()
            .unwrap()
            .starts_with("pkg:docker/busybox@latest?platform=linux%2F")
    );
    assert_eq!(base["digest"]["sha256"].as_str().unwrap().len(), 64);
    let metadata = &stated["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["request"], false);
    assert_eq!(metadata["buildkit_completeness"]["resolvedDependencies"], false);
    assert!(metadata.get("buildkit_hermetic").is_none());
    assert!(metadata["startedOn"].is_string() && metadata["invocationId"].is_string());
    assert_eq!(
        stated["buildDefinition"]["externalParameters"]["configSource"]["path"],
        "Dockerfile"
    );
}

#[test]
fn all_of_it_has_the_steps_and_the_dockerfile() {
    let project = project();
    project
        .build(
            "--provenance=mode=max,builder-id=https://ci.example/1 --build-arg VERSION=2 --label a=b -t company/app:3 \
                -o type=oci,dest=out,tar=false .",
        )
        .succeeds();
    let stated = provenance(&project);
    let definition = &stated["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:VERSION"], "2");
    assert_eq!(request["args"]["label:a"], "b");
    assert_eq!(request["secrets"][0]["id"], "token");
    let steps = definition["internalParameters"]["buildConfig"]["llbDefinition"]
        .as_array()
        .unwrap();
    let run = steps
        .iter()
        .find(|step| step["op"]["Op"].get("exec").is_some())
        .unwrap();
    assert!(run["op"]["Op"]["exec"]["meta"]["args"].to_string().contains("/version"));
    assert_eq!(stated["runDetails"]["builder"]["id"], "https://ci.example/1");
    let extra = &stated["runDetails"]["metadata"]["buildkit_metadata"];
    let place = &extra["source"]["locations"][run["id"].as_str().unwrap()]["locations"][0]["ranges"][0];
    assert_eq!(place["start"]["line"], 3);
    assert!(extra["source"]["infos"][0]["data"].is_string());
    let layers = extra["layers"].as_object().unwrap().values().next().unwrap()[0]
        .as_array()
        .unwrap();
    assert_eq!(layers.len(), 3);
    let directory = project.directory().join("out");
    let statement = Layout::of(&directory).statement(V1).unwrap();
    let name = statement["subject"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("pkg:docker/company/app@3?platform="), "{name}");
}

#[test]
fn the_older_form_says_the_same() {
    let project = project();
    project
        .build("--attest type=provenance,version=v0.2,mode=max -o type=oci,dest=out,tar=false .")
        .succeeds();
    let directory = project.directory().join("out");
    let statement = Layout::of(&directory)
        .statement("https://slsa.dev/provenance/v0.2")
        .unwrap();
    let stated = &statement["predicate"];
    assert_eq!(stated["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    assert_eq!(stated["metadata"]["completeness"]["parameters"], true);
    assert!(stated["buildConfig"]["llbDefinition"].is_array());
    assert_eq!(stated["materials"].as_array().unwrap().len(), 1);
    assert_eq!(statement["subject"][0]["name"], "_", "an image without a name");
}

#[test]
fn what_does_not_change_gives_the_same_bytes() {
    let build = |flags: &str, epoch: Option<&str>| {
        let project = project();
        let mut build = project.builder(&format!("build {flags} -t app -o type=oci,dest=out.tar ."));
        if let Some(epoch) = epoch {
            build.env("SOURCE_DATE_EPOCH", epoch);
        }
        build.run().succeeds();
        std::fs::read(project.directory().join("out.tar")).unwrap()
    };
    let first = build("--provenance=max", Some("1700000000"));
    assert!(first == build("--provenance=max --no-cache=false", Some("1700000000")));
    assert!(first != build("--provenance=min", Some("1700000000")));
}

#[test]
fn passwords_of_addresses_are_nowhere() {
    let forge = Forge::guarded(Some("Basic bWU6aHVudGVyMg=="));
    forge.script("it", "echo words > file; commit 1");
    let address = forge.url("it").replace("http://", "http://me:hunter2@");
    let project = Project::new();
    project.write(
        "Dockerfile",
        format!("FROM busybox\nADD {address} /it\nRUN --network=none echo {address} > /dev/null\n"),
    );
    project
        .build(&format!(
            "--provenance=max --build-arg MIRROR={address} --label where={address} -t app -o type=oci,dest=out,tar=false ."
        ))
        .succeeds();
    let stated = provenance(&project);
    let git = &stated["buildDefinition"]["resolvedDependencies"];
    let git = git
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["digest"].get("sha1").is_some())
        .unwrap();
    assert!(!git["uri"].as_str().unwrap().contains("hunter2"), "{git}");
    assert!(!stated.to_string().contains("hunter2"));
    let source = &stated["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"][0]["data"];
    let decoded = Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut decoded = decoded.unwrap();
    std::io::Write::write_all(&mut decoded.stdin.take().unwrap(), source.as_str().unwrap().as_bytes()).unwrap();
    let text = String::from_utf8(decoded.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        text.contains("ADD http://xxxxx:xxxxx@") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_revision_is_told_without_secrets() {
    let project = project();
    let git = |arguments: &[&str]| {
        let status = Command::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=e"])
            .args(arguments)
            .current_dir(project.directory())
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        String::from_utf8(status.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    git(&["remote", "add", "origin", "https://me:hunter2@host.example/it.git"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    let head = git(&["rev-parse", "HEAD"]);
    let vcs = || {
        let stated = provenance(&project);
        stated["runDetails"]["metadata"]["buildkit_metadata"]["vcs"].clone()
    };
    let build = |name: &str, value: &str| {
        let mut build = project.builder("build --provenance=min -o type=oci,dest=out,tar=false .");
        build.env(name, value).run().succeeds();
    };
    build("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
    assert_eq!(vcs()["revision"], head);
    assert_eq!(vcs()["source"], "https://xxxxx:xxxxx@host.example/it.git");
    project.write("file", "changed");
    build("BUILDX_GIT_CHECK_DIRTY", "true");
    assert_eq!(vcs()["revision"], format!("{head}-dirty"));
    std::fs::remove_dir_all(project.directory().join("out")).unwrap();
    build("BUILDX_GIT_INFO", "false");
    assert!(vcs().is_null());
}

#[test]
fn it_goes_with_the_image_and_disturbs_nobody() {
    let project = project();
    let name = format!("{}/story/provenance:1", registry());
    project
        .build(&format!("--provenance=max -t {name} --push ."))
        .succeeds();
    project.builder(&format!("tag {name} app")).run().succeeds();
    // Who runs it, builds on it or lists it sees one image.
    assert_eq!(project.run("app cat /version").succeeds().stdout, "1\n");
    project.builder("images").run().succeeds().never_says("unknown");
    project.write("next/Dockerfile", "FROM app\nRUN cat /version\n");
    project.build("-t next next").succeeds();
    // The registry has an index, and another store takes the image out of it.
    let other = Project::new();
    other.builder(&format!("pull {name}")).run().succeeds();
    assert_eq!(other.run(&format!("{name} cat /version")).succeeds().stdout, "1\n");
    other.write("Dockerfile", format!("FROM {name}\nRUN cat /version\n"));
    other.build(".").succeeds();
    // Gone with the image.
    let kept = |project: &Project| {
        let mut found = false;
        for entry in std::fs::read_dir(project.store().join("blobs/sha256")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            found |= bytes.starts_with(b"{\"buildDefinition\"");
        }
        found
    };
    assert!(kept(&project));
    project.builder(&format!("rmi -f app {name} next")).run();
    project.builder("prune -a -f").run().succeeds();
    assert!(!kept(&project));
}
