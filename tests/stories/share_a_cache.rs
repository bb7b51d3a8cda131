//! Machines that share a cache: each project has a store of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Ids, Outcome, Project};

const DOCKERFILE: &str = "FROM busybox AS tools
ARG VERSION=argument-of-the-tools
RUN echo $VERSION > /tool && dd if=/dev/urandom of=/large bs=64k count=4
FROM busybox
COPY src/ /src/
RUN cat /src/* > /all
COPY --from=tools /tool /tool
CMD [\"cat\", \"/all\", \"/tool\"]
";

/// A directory that all machines see.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self(directory)
    }

    fn to(&self, mode: &str) -> String {
        format!("--cache-to type=local,dest={},mode={mode}", self.0.path().display())
    }

    fn from(&self) -> String {
        format!("--cache-from type=local,src={}", self.0.path().display())
    }

    fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.0.path().join(below), &mut found);
        found.sort();
        found
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, found),
            false => found.push(path),
        }
    }
}

pub(crate) fn machine() -> Project {
    let project = Project::new();
    with_files(&project);
    project
}

pub(crate) fn with_files(project: &Project) {
    project
        .write("Dockerfile", DOCKERFILE)
        .write("src/one", "1\n")
        .write("src/two", "2\n");
}

pub(crate) fn build(project: &Project, arguments: &str) -> Outcome {
    project.build(&format!("-t app {arguments} .")).succeeds()
}

pub(crate) fn id(project: &Project) -> String {
    project.builder("inspect --format {{.Id}} app").run().succeeds().stdout
}

pub(crate) const SEEN: &str = "1\n2\nargument-of-the-tools\n";

#[test]
fn a_machine_with_an_empty_store_runs_nothing_and_fetches_the_final_layers_alone() {
    let (shared, first, second) = (Shared::new(), machine(), machine());
    build(&first, &shared.to("max"));
    let built = build(&second, &shared.from()).ran_nothing();
    // The base's layer, and the three of the last stage; not the one of the tools.
    let pulled = built.stderr.lines().filter(|line| line.starts_with("pulling ")).count();
    assert_eq!(pulled, 4, "{}", built.stderr);
    assert_eq!(id(&second), id(&first));
    assert_eq!(second.run("app").succeeds().stdout, SEEN);
    build(&second, "").ran_nothing();
}

#[test]
fn other_stages_are_shared_with_mode_max_alone() {
    for (mode, is_shared) in [("max", true), ("min", false)] {
        let (shared, first, second) = (Shared::new(), machine(), machine());
        build(&first, &shared.to(mode));
        second.write("src/two", "changed\n");
        let built = build(&second, &shared.from()).ran(["COPY src/ /src/", "RUN cat /src/* > /all"]);
        let tool = "RUN echo $VERSION > /tool && dd if=/dev/urandom of=/large bs=64k count=4";
        match is_shared {
            true => built.cached([tool]),
            false => built.ran([tool]),
        };
        second.run("app").succeeds().prints("changed");
    }
}

/// Something that happens to a cache.
type Damage = fn(&Shared);

const DAMAGES: [(&str, Damage); 6] = [
    ("a blob that is gone", |shared| {
        shared
            .files("blobs")
            .iter()
            .for_each(|file| fs::remove_file(file).unwrap());
    }),
    ("a blob that is cut", |shared| {
        for file in shared.files("blobs") {
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
    }),
    ("a blob with other bytes", |shared| {
        for file in shared.files("blobs") {
            let mut bytes = fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            fs::write(file, bytes).unwrap();
        }
    }),
    ("a record that is none", |shared| {
        shared
            .files("records")
            .iter()
            .for_each(|file| fs::write(file, "{\"version\":1").unwrap());
    }),
    ("the record of another key", |shared| {
        let files = shared.files("records");
        let contents: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        for (index, file) in files.iter().enumerate() {
            fs::write(file, &contents[(index + 1) % contents.len()]).unwrap();
        }
    }),
    ("a pipe", |shared| {
        for file in shared.files("records") {
            fs::remove_file(&file).unwrap();
            let made = std::process::Command::new("mkfifo").arg(file).status();
            assert!(made.unwrap().success());
        }
    }),
];

impl Shared {
    /// A copy that something happened to.
    fn damaged(&self, damage: Damage) -> Self {
        let copy = Self::new();
        let copied = std::process::Command::new("cp")
            .arg("-rT")
            .arg(self.0.path())
            .arg(copy.0.path())
            .status();
        assert!(copied.unwrap().success());
        damage(&copy);
        copy
    }
}

/// Whatever is wrong with the cache costs a warning and the work, never the image.
#[test]
fn a_cache_that_is_damaged_costs_a_warning() {
    let (shared, first) = (Shared::new(), machine());
    build(&first, &shared.to("max"));
    for (what, damage) in DAMAGES {
        let (copy, second) = (shared.damaged(damage), machine());
        let built = build(&second, &copy.from());
        assert!(built.stderr.contains("warning: "), "{what}: {}", built.stderr);
        assert_eq!(second.run("app").succeeds().stdout, SEEN, "{what}");
    }
}

#[test]
fn who_meets_damage_and_may_write_mends_it() {
    let (shared, first) = (Shared::new(), machine());
    build(&first, &shared.to("max"));
    // Of a cache in which a record cannot even be opened, nothing is believed.
    for (what, damage) in DAMAGES.into_iter().filter(|(what, _)| *what != "a pipe") {
        let (copy, second) = (shared.damaged(damage), machine());
        build(&second, &format!("{} {}", copy.from(), copy.to("max")));
        let third = machine();
        let built = build(&third, &copy.from()).ran_nothing();
        assert!(!built.stderr.contains("warning: "), "{what}: {}", built.stderr);
        assert_eq!(third.run("app").succeeds().stdout, SEEN, "{what}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_costs_one_warning() {
    let project = machine();
    project.write("file", "in the way");
    let built = build(&project, "--cache-to type=local,dest=file/cache,mode=max");
    let warnings = built.stderr.matches("gets nothing more of this build").count();
    assert_eq!(warnings, 1, "{}", built.stderr);
    assert_eq!(project.run("app").succeeds().stdout, SEEN);
    // Who wants to know it by the exit code is told so; there is an image all the same.
    project.write("src/two", "changed\n");
    let arguments = "-t app --cache-to type=local,dest=file/cache,ignore-error=false .";
    let failed = project.build(arguments).exits(3);
    assert!(
        failed.stderr.contains("the image is made, but type=local"),
        "{}",
        failed.stderr
    );
    project.run("app").succeeds().prints("changed");
    // One that is not there is an empty one.
    build(&machine(), "--cache-from type=local,src=nowhere").never_says("warning");
}

#[test]
fn arguments_and_secrets_are_in_no_record() {
    let (shared, project) = (Shared::new(), machine());
    project.write("secret", "word-of-the-secret").write(
        "Dockerfile",
        "FROM busybox AS tools\nARG NAME\nRUN --mount=type=secret,id=s test -n \"$NAME\" && test -s /run/secrets/s && touch /done\nFROM busybox\nCOPY --from=tools /done /\n",
    );
    build(
        &project,
        &format!(
            "{} --secret id=s,src=secret --build-arg NAME=word-of-the-argument",
            shared.to("max")
        ),
    );
    let records = shared.files("records");
    assert!(records.len() >= 2);
    for file in records.into_iter().chain(shared.files("blobs")) {
        let mut bytes = fs::read(&file).unwrap();
        if let Ok(plain) = zstd::decode_all(bytes.as_slice()) {
            bytes.extend(plain);
        }
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("word-of-the-"), "{}", file.display());
    }
}

#[test]
fn root_and_an_ordinary_user_share_a_cache() {
    let machines = || {
        let user = Project::rootless(Ids::Full);
        with_files(&user);
        (machine(), user)
    };
    let share = |first: &Project, second: &Project| {
        let shared = Shared::new();
        build(first, &format!("{} --network host", shared.to("max")));
        build(second, &format!("{} --network host", shared.from())).ran_nothing();
        assert_eq!(id(second), id(first));
        assert_eq!(second.run("--network host app").succeeds().stdout, SEEN);
    };
    let (root, user) = machines();
    share(&root, &user);
    let (root, user) = machines();
    share(&user, &root);
}

#[test]
fn many_builders_fill_one_cache_at_the_same_time() {
    let (shared, machines) = (Shared::new(), [(); 4].map(|()| machine()));
    let arguments = format!("build -q -t app {} {} .", shared.to("max"), shared.from());
    let mut builds: Vec<_> = machines
        .iter()
        .map(|machine| machine.builder(&arguments).start())
        .collect();
    for build in &mut builds {
        assert!(build.wait().unwrap().success());
    }
    for machine in &machines {
        assert_eq!(machine.run("app").succeeds().stdout, SEEN);
    }
    let last = machine();
    build(&last, &shared.from()).ran_nothing().never_says("warning");
    assert!(shared.files("tmp").is_empty());
}

#[test]
fn under_an_epoch_it_is_the_same_image_on_all_machines() {
    let (shared, first, second, third) = (Shared::new(), machine(), machine(), machine());
    let epoch = "--build-arg SOURCE_DATE_EPOCH=1000000";
    let dockerfile = DOCKERFILE.replace(" && dd if=/dev/urandom of=/large bs=64k count=4", "");
    for machine in [&first, &second, &third] {
        machine.write("Dockerfile", &dockerfile);
    }
    build(&first, &format!("{epoch} {}", shared.to("max")));
    build(&second, &format!("{epoch} {}", shared.from())).ran_nothing();
    build(&third, epoch);
    assert_eq!(id(&second), id(&first));
    assert_eq!(id(&third), id(&first));
}
