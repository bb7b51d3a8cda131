//! Cache mounts that travel: `--cache-to …,mounts=true`, `--cache-from …,mounts=true`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ids, Outcome, Project, registry};

/// A directory that all machines see.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self(directory)
    }

    fn to(&self) -> String {
        format!("--cache-to type=local,dest={},mounts=true", self.0.path().display())
    }

    fn from(&self) -> String {
        format!("--cache-from type=local,src={},mounts=true", self.0.path().display())
    }

    fn files(&self, below: &str) -> Vec<PathBuf> {
        let found = Command::new("find")
            .arg(self.0.path().join(below))
            .args(["-type", "f"])
            .output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        let mut files: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
        files.sort();
        files
    }

    fn bytes(&self) -> u64 {
        self.files("blobs")
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum()
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        let copied = Command::new("cp")
            .arg("-rT")
            .arg(self.0.path())
            .arg(copy.0.path())
            .status();
        assert!(copied.unwrap().success());
        copy
    }

    /// The documents of cache mounts.
    fn mounts(&self) -> Vec<PathBuf> {
        let is_mount = |file: &PathBuf| fs::read_to_string(file).unwrap().contains("cacheMountVersion");
        self.files("records").into_iter().filter(is_mount).collect()
    }
}

/// A project whose step fills a cache as package managers do, and says what it found there.
fn machine(script: &str) -> Project {
    let project = Project::new();
    with(&project, script);
    project
}

fn with(project: &Project, script: &str) {
    project.write("source", "1").write(
        "Dockerfile",
        format!(
            "FROM busybox\nCOPY source /source\nRUN --mount=type=cache,id=wheels,target=/c {script}\nCMD [\"cat\", \"/out\"]\n"
        ),
    );
}

fn build(project: &Project, arguments: &str) -> Outcome {
    project.build(&format!("-t app {arguments} .")).succeeds()
}

fn seen(project: &Project) -> String {
    project.run("app").succeeds().stdout
}

/// As many files as a small cache has, 12 MB of them in all, that no compression makes smaller.
const FILL: &str = "ls /c > /out; if test ! -e /c/0; then for i in 0 1 2 3 4 5 6 7 8 9 10 11; do mkdir /c/$i; \
    for j in 1 2 3 4; do head -c 250000 /dev/urandom > /c/$i/$j; done; done; fi; cat /source >> /out";

#[test]
fn a_runner_that_was_born_a_minute_ago_finds_the_caches_of_the_last_one() {
    let shared = Shared::new();
    let first = machine(FILL);
    build(&first, &shared.to());
    assert_eq!(seen(&first), "1");
    let second = machine(FILL);
    second.write("source", "2");
    build(&second, &shared.from())
        .says("cache mount `wheels` comes from type=local")
        .never_says("warning");
    assert_eq!(seen(&second).lines().next(), Some("0"));
    // Whoever has something is not given other things.
    second.write("source", "3");
    build(&second, &shared.from()).never_says("comes from");
    // Without the flag, nothing comes.
    let third = machine(FILL);
    third.write("source", "4");
    build(&third, &shared.from().replace(",mounts=true", ""));
    assert_eq!(seen(&third), "4");
}

#[test]
fn what_changed_is_all_that_is_given_again() {
    let shared = Shared::new();
    let first = machine(FILL);
    build(&first, &shared.to());
    let (bytes, files) = (shared.bytes(), shared.files("blobs").len());
    assert!(bytes > 12_000_000);
    // Nothing changed, and nothing is given.
    first.write("source", "2");
    build(&first, &shared.to()).never_says("giving cache mount");
    let small = shared.bytes() - bytes;
    assert!(small < 100_000, "{small}");

    // Another machine, which has it from there, gives only what it changed.
    let second = machine(&format!("{FILL}; echo more > /c/7/more"));
    build(&second, &format!("{} {}", shared.from(), shared.to()))
        .says("comes from")
        .says("giving cache mount `wheels`");
    let more = shared.bytes() - bytes - small;
    assert!(more < bytes * 2 / 3, "{more} of {bytes}");
    assert!(shared.files("blobs").len() - files < 8);

    let third = machine("cat /c/7/more > /out; ls /c | wc -l >> /out");
    build(&third, &shared.from());
    assert_eq!(seen(&third), "more\n12\n");
}

#[test]
fn files_come_as_they_went() {
    let shared = Shared::new();
    let first = machine(
        "mkdir -p /c/d/e && echo x > /c/d/e/f && ln /c/d/e/f /c/a-link && ln -s d/e /c/symbolic && chown 5:6 /c/d/e/f && \
         chmod 4751 /c/d/e/f && chmod 2770 /c/d && mkfifo /c/pipe && touch -t 200102030405.06 /c/d/e/f /c/d && : > /c/empty && \
         touch \"/c/$(printf 'new\\nline')\" && mkdir /c/none",
    );
    build(&first, &shared.to());
    let look = "cd /c && find . -exec stat -c '%N %A %u:%g %Y %h %s' {} \\; | grep -v pipe | sort > /out; cat d/e/f a-link >> /out";
    let (second, again) = (machine(look), first);
    build(&second, &shared.from());
    with(&again, look);
    build(&again, "");
    // The directory itself is made where it is needed.
    let without_root = |text: String| {
        text.lines()
            .filter(|line| !line.starts_with(". "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (here, there) = (seen(&second), seen(&again));
    assert!(here.contains("-rwsr-x--x 5:6 981173106 2 2"), "{here}");
    assert_eq!(without_root(here), without_root(there));
    let data = data(&second, "/c").unwrap();
    assert_eq!(data.join("d").metadata().unwrap().mtime(), 981_173_100 + 6);
    assert_eq!(data.join("d").metadata().unwrap().mode() & 0o7777, 0o2770);
}

/// Where a mount's files are.
fn data(project: &Project, _target: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(project.store().join("cache-mounts")).unwrap();
    entries.next().map(|entry| entry.unwrap().path().join("data"))
}

/// Whatever is wrong with the cache costs a warning and an empty mount, never a part of one.
#[test]
fn what_is_damaged_is_an_empty_mount_and_a_warning() {
    type Damage = fn(&Shared);
    let damages: [(&str, Damage); 5] = [
        ("a pack that is gone", |shared| {
            let packs = packs(shared);
            fs::remove_file(packs.last().unwrap()).unwrap();
        }),
        ("a pack that is cut", |shared| {
            let packs = packs(shared);
            let file = fs::File::options().write(true).open(packs.last().unwrap()).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("a pack with other bytes", |shared| {
            for file in packs(shared) {
                let mut bytes = fs::read(&file).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
                fs::write(file, bytes).unwrap();
            }
        }),
        ("a record that is none", |shared| {
            for file in shared.mounts() {
                fs::write(file, "{\"cacheMountVersion\":1").unwrap();
            }
        }),
        ("a record of more than anybody has room for", |shared| {
            for file in shared.mounts() {
                let text = fs::read_to_string(&file).unwrap();
                let (before, after) = text.split_once("\"bytes\":").unwrap();
                fs::write(file, format!("{before}\"bytes\":99999999999{after}")).unwrap();
            }
        }),
    ];
    let shared = Shared::new();
    build(&machine(FILL), &shared.to());
    for (what, damage) in damages {
        let (copy, second) = (shared.copy(), machine(FILL));
        second.write("source", "2");
        damage(&copy);
        let built = build(&second, &copy.from());
        assert_eq!(built.stderr.matches("warning: ").count(), 1, "{what}: {}", built.stderr);
        built.says("cache mount `wheels` is not taken");
        assert_eq!(seen(&second), "2", "{what}");
    }
}

/// The blobs of mounts, in their order.
fn packs(shared: &Shared) -> Vec<PathBuf> {
    let [record] = &shared.mounts()[..] else {
        panic!("one mount")
    };
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    let digests = record["packs"].as_array().unwrap().iter().map(|pack| {
        let digest = pack["blob"]["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        shared.0.path().join("blobs/sha256").join(&digest[..2]).join(digest)
    });
    digests.collect()
}

/// A cache that somebody made to break out of a mount.
#[test]
fn a_hostile_pack_leaves_the_mount_empty_and_makes_no_device() {
    let shared = Shared::new();
    build(&machine("echo x > /c/f"), &shared.to());
    let forge = |copy: &Shared, archive: &Path| {
        let [file] = &copy.mounts()[..] else {
            panic!("one mount")
        };
        let compressed = zstd::encode_all(fs::File::open(archive).unwrap(), 3).unwrap();
        let digest = blake(&compressed);
        let place = copy.0.path().join("blobs/sha256").join(&digest[..2]);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(&digest), &compressed).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        record["packs"][0]["blob"]["digest"] = format!("sha256:{digest}").into();
        record["packs"][0]["blob"]["size"] = compressed.len().into();
        fs::write(file, record.to_string()).unwrap();
    };
    let scratch = tempfile::tempdir().unwrap();
    let (victim, archive) = (scratch.path().join("victim"), scratch.path().join("a.tar"));
    let entries = |add: &dyn Fn(&mut tar::Builder<fs::File>)| {
        let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
        add(&mut builder);
        builder.finish().unwrap();
    };
    let outcome = |script: &str| {
        let (copy, second) = (shared.copy(), machine(script));
        forge(&copy, &archive);
        let built = build(&second, &copy.from());
        (built.stderr, seen(&second))
    };

    let link = victim.clone();
    entries(&move |builder| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "out", link.parent().unwrap()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        builder.append_data(&mut header, "out/victim", &b"bad"[..]).unwrap();
    });
    let (said, _) = outcome("ls -A /c > /out");
    assert!(!victim.exists(), "{said}");

    entries(&|builder| {
        for (name, kind) in [
            ("disk", tar::EntryType::Block),
            ("zero", tar::EntryType::Char),
            ("pipe", tar::EntryType::Fifo),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_device_major(1).unwrap();
            header.set_device_minor(5).unwrap();
            builder.append_data(&mut header, name, &b""[..]).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        builder.append_data(&mut header, "file", &b"ok"[..]).unwrap();
    });
    let (said, seen) = outcome("ls -A /c > /out");
    assert_eq!(seen, "file\n", "{said}");
}

fn blake(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut sum = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

#[test]
fn a_mount_that_is_too_large_stays_here() {
    let shared = Shared::new();
    let project = machine("head -c 2000000 /dev/zero > /c/zeros");
    let config = fs::read_to_string(project.config()).unwrap();
    let limit = |limits: &str| fs::write(project.config(), format!("{config}\n[cache-mounts]\n{limits}\n")).unwrap();
    limit("max-size = \"1m\"");
    build(&project, &shared.to())
        .says("cache mount `wheels` is not given to any remote cache: it has more than 1048576 bytes");
    assert!(shared.mounts().is_empty());
    limit(
        "max-size = \"3m\"
max-entries = 5",
    );
    // It need not be used again for that.
    build(&project, &shared.to()).ran_nothing().never_says("warning");
    assert_eq!(shared.mounts().len(), 1);
}

#[test]
fn machines_that_give_the_same_mount_at_once_never_mix_it() {
    let shared = Shared::new();
    let script = |name: &str| {
        format!(
            "echo {name} > /c/name; for i in 0 1 2 3 4 5 6 7; do head -c 700000 /dev/urandom > /c/$i; sha256sum /c/$i; done > /c/sums; echo {name} >> /c/sums"
        )
    };
    let machines: Vec<Project> = ["one", "two", "three"]
        .iter()
        .map(|name| machine(&script(name)))
        .collect();
    let arguments = format!("build -q -t app {} .", shared.to());
    let mut builds: Vec<_> = machines
        .iter()
        .map(|machine| machine.builder(&arguments).start())
        .collect();
    for build in &mut builds {
        assert!(build.wait().unwrap().success());
    }
    assert_eq!(shared.mounts().len(), 1);
    let last =
        machine("head -n 8 /c/sums | sha256sum -c > /out && tail -n 1 /c/sums | cmp - /c/name && echo whole >> /out");
    build(&last, &shared.from());
    assert!(seen(&last).ends_with("whole\n"));
}

#[test]
fn root_and_an_ordinary_user_share_mounts() {
    let shared = Shared::new();
    let first = machine("echo roots > /c/file && chown 7:8 /c/file");
    build(&first, &format!("{} --network host", shared.to()));
    // Who may write to it is its owner's affair.
    let opened = Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(shared.0.path())
        .status();
    assert!(opened.unwrap().success());
    let user = Project::rootless(Ids::Full);
    with(
        &user,
        "cat /c/file > /out && stat -c %u:%g /c/file >> /out && echo mine > /c/mine",
    );
    build(&user, &format!("{} {} --network host", shared.from(), shared.to()));
    assert_eq!(user.run("--network host app").succeeds().stdout, "roots\n7:8\n");
    let last = machine("cat /c/mine > /out");
    build(&last, &shared.from());
    assert_eq!(seen(&last), "mine\n");
}

#[test]
fn no_cache_keeps_mounts_unless_it_says_mounts() {
    let shared = Shared::new();
    let project = machine("ls /c > /out; touch /c/kept");
    let with_another = "FROM busybox\nRUN --mount=type=cache,id=wheels,target=/c ls /c > /out; touch /c/kept\n\
        RUN --mount=type=cache,id=wheels,target=/c ls /c >> /out; touch /c/again\nCMD [\"cat\", \"/out\"]\n";
    project.write("Dockerfile", with_another);
    build(&project, "");
    assert_eq!(seen(&project), "kept\n");
    build(&project, &format!("--no-cache {}", shared.to()));
    assert_eq!(seen(&project), "again\nkept\nagain\nkept\n");
    build(&project, &format!("--no-cache=mounts {}", shared.from())).never_says("comes from");
    assert_eq!(seen(&project), "kept\n");
    build(&project, "--no-cache=false").ran_nothing();
    project.build("--no-cache=some .").exits(2).says("mounts");
}

#[test]
fn what_a_mount_begins_from_is_part_of_it_on_all_machines() {
    let shared = Shared::new();
    let dockerfile = |seed: &str, mark: &str| {
        format!(
            "FROM busybox AS seed\nRUN mkdir /s && echo {seed} > /s/seed\nFROM busybox\n\
             RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/* > /out; echo {mark} > /c/used\nCMD [\"cat\", \"/out\"]\n"
        )
    };
    let first = machine("true");
    first.write("Dockerfile", dockerfile("one", "a"));
    build(&first, &shared.to());
    assert_eq!(seen(&first), "one\n");
    let second = machine("true");
    second.write("Dockerfile", dockerfile("one", "b"));
    build(&second, &shared.from());
    assert_eq!(seen(&second), "one\na\n");
    let third = machine("true");
    third.write("Dockerfile", dockerfile("two", "b"));
    build(&third, &shared.from());
    assert_eq!(seen(&third), "two\n");
}

#[test]
fn a_registry_carries_mounts_too() {
    let repository = format!("{}/caches/mounts-{}", registry(), std::process::id());
    let (to, from) = (
        format!("--cache-to type=registry,ref={repository},mounts=true"),
        format!("--cache-from type=registry,ref={repository},mounts=true"),
    );
    let first = machine(FILL);
    build(&first, &to).never_says("warning");
    let second = machine(&format!("{FILL}; echo more > /c/7/more"));
    build(&second, &format!("{from} {to}"))
        .says("comes from type=registry")
        .never_says("warning");
    let third = machine("cat /c/7/more > /out; ls /c | wc -l >> /out");
    build(&third, &from);
    assert_eq!(seen(&third), "more\n12\n");
    first
        .build("--cache-to type=inline,mounts=true .")
        .exits(2)
        .says("an image carries no cache mounts");
}
