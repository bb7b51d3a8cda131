//! SBOMs: which packages are in an image, stated beside it.

use serde_json::Value;

use super::state_provenance::Layout;
use crate::support::{Project, registry};

const SPDX: &str = "https://spdx.dev/Document";

/// The document of an image that was written to `out`.
fn document(project: &Project) -> Value {
    let directory = project.directory().join("out");
    let statement = Layout::of(&directory).statement(SPDX).expect("there is an SBOM");
    let document = statement["predicate"].clone();
    assert_is_spdx(&document);
    document
}

/// What SPDX 2.3 asks of every document, and what the parts of this one refer to.
fn assert_is_spdx(document: &Value) {
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["SPDXID"], "SPDXRef-DOCUMENT");
    assert_eq!(document["dataLicense"], "CC0-1.0");
    assert!(document["documentNamespace"].as_str().unwrap().starts_with("https://"));
    assert!(document["creationInfo"]["created"].as_str().unwrap().ends_with('Z'));
    let id = |value: &Value| value["SPDXID"].as_str().unwrap().to_owned();
    let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
    let mut known: Vec<String> = list("packages").iter().chain(&list("files")).map(id).collect();
    known.push("SPDXRef-DOCUMENT".into());
    let number = known.len();
    known.sort();
    known.dedup();
    assert_eq!(known.len(), number, "an identifier stands for two things");
    for name in &known {
        let rest = name.strip_prefix("SPDXRef-").unwrap();
        assert!(
            rest.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)),
            "{name}"
        );
    }
    for relation in list("relationships") {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            let name = relation[end].as_str().unwrap().to_owned();
            assert!(known.binary_search(&name).is_ok(), "{name} is nothing of the document");
        }
    }
    for package in list("packages") {
        for key in [
            "name",
            "downloadLocation",
            "licenseConcluded",
            "licenseDeclared",
            "copyrightText",
        ] {
            assert!(package[key].is_string(), "{package}");
        }
        assert_eq!(
            package["filesAnalyzed"] == true,
            package.get("packageVerificationCode").is_some()
        );
    }
    for file in list("files") {
        assert_eq!(file["checksums"][0]["checksumValue"].as_str().unwrap().len(), 40);
        assert!(file["fileName"].as_str().unwrap().starts_with("./"));
    }
}

fn purls(document: &Value) -> Vec<String> {
    let purl = |package: &Value| Some(package["externalRefs"][0]["referenceLocator"].as_str()?.to_owned());
    document["packages"]
        .as_array()
        .unwrap()
        .iter()
        .skip(1)
        .filter_map(purl)
        .collect()
}

fn package<'a>(document: &'a Value, name: &str) -> &'a Value {
    let packages = document["packages"].as_array().unwrap();
    let found = packages.iter().find(|package| package["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not among {:?}", purls(document)))
}

/// Packages of several ecosystems, in two layers.
fn project() -> Project {
    let project = Project::new();
    project
        .write(
            "Dockerfile",
            "FROM busybox AS base\nCOPY first /\nFROM base\nCOPY second /\nRUN ln -s /etc/shadow /lock && mkdir -p /deep && ln -s / /deep/root\n",
        )
        .write(".dockerignore", "out*\n")
        .write("first/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n")
        .write(
            "first/var/lib/dpkg/status",
            "Package: libold\nStatus: install ok installed\nVersion: 1:2.0-1\nArchitecture: amd64\nMaintainer: M N <m@n.example>\n",
        )
        .write("first/var/lib/dpkg/info/libold.list", "/.\n/usr\n/usr/lib\n/usr/lib/libold.so\n/usr/lib/not-there\n")
        .write("first/usr/lib/libold.so", "library")
        .write(
            "second/var/lib/dpkg/status",
            "Package: libold\nStatus: install ok installed\nVersion: 1:2.0-1\nArchitecture: amd64\n\n\
             Package: libnew\nStatus: install ok installed\nVersion: 3\nArchitecture: all\n\n\
             Package: removed\nStatus: deinstall ok config-files\nVersion: 3\n",
        )
        .write("second/lib/apk/db/installed", "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\n")
        .write(
            "second/usr/lib/python3/site-packages/Some_Package-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: Some_Package\nVersion: 1.0\nLicense: Own (see file)\n\nText: x\n",
        )
        .write(
            "second/app/node_modules/@scope/thing/package.json",
            "{\"name\":\"@scope/thing\",\"version\":\"4.5.6\",\"license\":\"MIT\"}",
        )
        .write(
            "second/app/package-lock.json",
            "{\"lockfileVersion\":3,\"packages\":{\"\":{\"name\":\"app\"},\"node_modules/@scope/thing\":{\"version\":\"4.5.6\"},\
             \"node_modules/a/node_modules/left-pad\":{\"version\":\"1.3.0\",\"integrity\":\
             \"sha512-XI5MPzVNApjAyhQzphX8BkmKsKUxD4LdyK24iZeQGinBN9yTQT3bFlCBy/aVx2HrNcqQGsdot8ghrjyrvMCoEA==\"}}}",
        )
        .write(
            "second/app/Cargo.lock",
            format!("version = 3\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\nchecksum = \"{}\"\n", "a".repeat(64)),
        );
    project
}

#[test]
fn packages_of_every_kind_are_listed_with_their_layers() {
    let project = project();
    project
        .build("--sbom -t company/app:1 -o type=oci,dest=out,tar=false .")
        .succeeds()
        .never_says("not whole");
    let document = document(&project);
    let mut found = purls(&document);
    found.sort();
    assert_eq!(
        found,
        [
            "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
            "pkg:cargo/serde@1.0.1",
            "pkg:deb/debian/libnew@3?arch=all&distro=debian-12",
            "pkg:deb/debian/libold@1:2.0-1?arch=amd64&distro=debian-12",
            "pkg:npm/%40scope/thing@4.5.6",
            "pkg:npm/left-pad@1.3.0",
            "pkg:pypi/some-package@1.0",
        ]
    );
    let inspected = project.builder("inspect company/app:1").run().succeeds().stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let layers = inspected[0]["RootFS"]["Layers"].as_array().unwrap();
    let layer = |place: usize| format!("layerID: {}", layers[place].as_str().unwrap());
    assert_eq!(package(&document, "libold")["comment"], layer(1));
    assert_eq!(package(&document, "libnew")["comment"], layer(2));
    assert_eq!(package(&document, "some-package")["comment"], layer(2));
    // What a database lists and is there; its digest is that of its content.
    let files = document["files"].as_array().unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0]["fileName"], "./usr/lib/libold.so");
    assert_eq!(
        files[0]["checksums"][0]["checksumValue"],
        "00299a408dc3498a3cd7bae6db588f3324654d76"
    );
    assert_eq!(files[0]["comment"], layer(1));
    // A licence that SPDX knows, and one that it does not.
    assert_eq!(package(&document, "musl")["licenseDeclared"], "MIT");
    let own = package(&document, "some-package")["licenseDeclared"].as_str().unwrap();
    assert_eq!(document["hasExtractedLicensingInfos"][0]["licenseId"], own);
    assert_eq!(
        document["hasExtractedLicensingInfos"][0]["extractedText"],
        "Own (see file)"
    );
}

#[test]
fn the_same_image_has_the_same_document() {
    let build = || {
        let project = project();
        let mut build = project.builder("build --sbom=true -t app -o type=oci,dest=out.tar .");
        build.env("SOURCE_DATE_EPOCH", "1700000000").run().succeeds();
        std::fs::read(project.directory().join("out.tar")).unwrap()
    };
    assert!(build() == build());
}

#[test]
fn what_is_broken_costs_a_warning_and_not_the_rest() {
    let project = Project::new();
    project
        .write(
            "Dockerfile",
            "FROM busybox\nCOPY files /\nRUN mkdir -p /var/lib/dpkg /a.dist-info /app && ln -s / /up && mkfifo /app/package-lock.json \
             && ln -s /proc/self/environ /a.dist-info/METADATA && ln -s ../../../../../../../etc/passwd /var/lib/dpkg/status\n",
        )
        .write(".dockerignore", "out*\n")
        .write("files/var/lib/rpm/rpmdb.sqlite", "no database at all")
        .write("files/var/lib/rpm/Packages", "Berkeley")
        .write("files/var/lib/rpm/Packages.db", b"RpmP\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        .write("files/x/Cargo.lock", "[[package")
        .write("files/x/package-lock.json", "[".repeat(100_000))
        .write("files/y/Cargo.lock", "[[package]]\nname = \"good\"\nversion = \"1.0.0\"\n")
        .write("files/bin/elf", [b"\x7fELF\x02\x01\x01".to_vec(), vec![0xff; 8192]].concat());
    project
        .build("--sbom -o type=oci,dest=out,tar=false .")
        .succeeds()
        .says("/var/lib/rpm/rpmdb.sqlite is left out")
        .says("Berkeley DB")
        .says("/x/Cargo.lock is left out")
        .says("/x/package-lock.json is left out");
    let document = document(&project);
    assert_eq!(purls(&document), ["pkg:cargo/good@1.0.0"]);
    assert!(
        document["comment"].as_str().unwrap().contains("Berkeley DB"),
        "the document says so, too"
    );
}

#[test]
fn an_image_that_adds_nothing_to_its_base_has_a_document() {
    let project = Project::new();
    project
        .write("Dockerfile", "FROM busybox\nLABEL a=b\n")
        .write(".dockerignore", "out*\n");
    project
        .build("--sbom --provenance=min -o type=oci,dest=out,tar=false .")
        .succeeds();
    document(&project);
    let directory = project.directory().join("out");
    assert!(
        Layout::of(&directory)
            .statement("https://slsa.dev/provenance/v1")
            .is_some()
    );
}

#[test]
fn an_sbom_is_shown_stated_or_made() {
    let project = project();
    let name = format!("{}/story/packages:1", registry());
    project.build("-t plain .").succeeds();
    project
        .build(&format!("--sbom --provenance=min -t {name} --push ."))
        .succeeds();
    let listed = |project: &Project, image: &str| project.builder(&format!("sbom {image}")).run().succeeds().stdout;
    let stated = listed(&project, &name);
    assert!(
        stated.starts_with("NAME") && stated.contains("left-pad") && stated.contains("npm"),
        "{stated}"
    );
    assert_eq!(listed(&project, "plain"), stated, "one that is made now");
    // Asked of the registry; nothing is pulled.
    let other = Project::new();
    assert_eq!(listed(&other, &name), stated);
    assert!(other.builder("images -q").run().succeeds().stdout.is_empty());
    let format = |project: &Project, field: &str| {
        let mut inspect = project.builder("inspect --format");
        let shown = inspect
            .arg(&format!("{{{{json .{field}}}}}"))
            .arg(&name)
            .run()
            .succeeds()
            .stdout;
        serde_json::from_str::<Value>(&shown).unwrap()
    };
    for project in [&project, &other] {
        assert_is_spdx(&format(project, "SBOM")["SPDX"]);
        let provenance = format(project, "Provenance");
        assert!(provenance["SLSA"]["buildDefinition"].is_object(), "{provenance}");
    }
    // What is pulled has it too, and takes it along.
    other.builder(&format!("pull {name}")).run().succeeds();
    assert_is_spdx(&format(&other, "SBOM")["SPDX"]);
    let again = format!("{}/story/packages-again:1", registry());
    other.builder(&format!("push {name} {again}")).run().succeeds();
    let third = Project::new();
    assert_eq!(listed(&third, &again), stated);
    assert_eq!(
        third
            .builder(&format!("sbom --format spdx-json {again}"))
            .run()
            .succeeds()
            .stdout
            .len(),
        {
            project
                .builder(&format!("sbom --format spdx-json {name}"))
                .run()
                .succeeds()
                .stdout
                .len()
        }
    );
    third
        .builder(&format!("sbom {}/story/nothing:1", registry()))
        .run()
        .exits(1);
}

#[test]
fn exported_files_have_statements_beside_them() {
    let project = project();
    let flags = "--sbom --provenance=mode=max";
    project.build(&format!("{flags} -o out .")).succeeds();
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(project.directory().join(path)).unwrap()).unwrap()
    };
    for (file, kind) in [
        ("sbom.spdx.json", SPDX),
        ("provenance.json", "https://slsa.dev/provenance/v1"),
    ] {
        let statement = read(&format!("out/{file}"));
        assert_eq!(statement["predicateType"], kind);
        let subjects = statement["subject"].as_array().unwrap();
        let library = subjects
            .iter()
            .find(|subject| subject["name"] == "usr/lib/libold.so")
            .unwrap();
        let digest = library["digest"]["sha256"].as_str().unwrap();
        assert_eq!(
            digest,
            "b718f1354f7247312eca086d9a024afe5fa717ddea5adeddd6f12bcf945b2e8c"
        );
    }
    project.build(&format!("{flags} -o type=tar,dest=out.tar .")).succeeds();
    let listed = std::process::Command::new("tar")
        .arg("-tf")
        .arg(project.directory().join("out.tar"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("sbom.spdx.json") && listed.contains("provenance.json"),
        "{listed}"
    );
    project
        .build("--provenance=inline-only=true --attest type=sbom,filename=bill.json -o out-2 .")
        .succeeds();
    assert!(project.directory().join("out-2/bill.json").exists());
    assert!(!project.directory().join("out-2/provenance.json").exists());
    // A link of the image's does not lead the file elsewhere.
    project.write(
        "links/Dockerfile",
        "FROM busybox\nRUN ln -s /tmp/elsewhere-of-story /provenance.json\n",
    );
    project.build("--provenance=min -o out-3 links").succeeds();
    let file = project.directory().join("out-3/provenance.json");
    assert!(std::fs::symlink_metadata(file).unwrap().is_file());
}

/// The files beside snapshots that say what was found in them.
fn findings(project: &Project) -> Vec<std::path::PathBuf> {
    let snapshots = std::fs::read_dir(project.store().join("snapshots")).unwrap();
    let places = snapshots.map(|entry| entry.unwrap().path().join("findings"));
    places.filter(|place| place.exists()).collect()
}

#[test]
fn what_was_found_in_a_layer_is_known_for_the_next_image() {
    let listed = "/usr/lib/kept\n/usr/lib/changed\n/usr/lib/gone\n/usr/share/all/one\n/usr/share/new/one\n";
    let write = |project: &Project, last: &str| {
        project
            .write(
                "first/var/lib/dpkg/status",
                "Package: lib\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n",
            )
            .write("first/var/lib/dpkg/info/lib.list", listed)
            .write("Dockerfile", format!("FROM busybox\nCOPY first /\n{last}\n"))
            .write(".dockerignore", "out*\n");
        for file in listed.lines() {
            project.write(&format!("first{file}"), file);
        }
    };
    let built = |project: &Project, last: &str| {
        write(project, last);
        let mut build = project.builder("build --sbom -t app -o type=oci,dest=out,tar=false .");
        build.env("SOURCE_DATE_EPOCH", "1700000000").run().succeeds();
        let document = document(project);
        std::fs::remove_dir_all(project.directory().join("out")).unwrap();
        document
    };
    let project = Project::new();
    let first = built(&project, "RUN touch /more");
    assert_eq!(first["files"].as_array().unwrap().len(), 5);
    let known = findings(&project);
    assert!(!known.is_empty());
    for last in [
        "RUN touch /more /again",
        "RUN rm -r /usr/share/all /usr/lib/gone && echo other > /usr/lib/changed",
        "RUN rm -r /usr/share/all && mkdir -p /usr/share/all && rm -r /usr/share/new && mkdir /usr/share/new && echo x > /usr/share/new/one",
        "RUN mv /usr/lib /usr/moved && ln -s moved /usr/lib",
    ] {
        assert_eq!(built(&project, last), built(&Project::new(), last), "{last}");
    }
    // It is used: what is said of a file there is said of it in the next image.
    let digest = first["files"][0]["checksums"][0]["checksumValue"].as_str().unwrap();
    let lie = "0".repeat(40);
    for place in known {
        let content = std::fs::read_to_string(&place).unwrap();
        std::fs::write(&place, content.replace(digest, &lie)).unwrap();
    }
    let next = built(&project, "RUN touch /something /else");
    assert!(next.to_string().contains(&lie));
    // Nothing is understood of it: all is looked at again.
    for place in findings(&project) {
        std::fs::write(&place, "{").unwrap();
    }
    let next = built(&project, "RUN touch /something /else");
    assert!(!next.to_string().contains(&lie) && next.to_string().contains(digest));
    // The document itself, where nothing changed.
    assert_eq!(built(&project, "RUN touch /something /else"), next);
}
