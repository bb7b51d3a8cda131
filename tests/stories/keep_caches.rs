//! `RUN --mount=type=cache`: what is kept, for whom, whose turn it is, and `builder cache-mount`.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::support::{Ids, Outcome, Project};

fn build(project: &Project, dockerfile: &str, arguments: &str) -> Outcome {
    project.write("Dockerfile", dockerfile);
    project.build(&format!("{arguments} -t app .")).succeeds()
}

fn seen(project: &Project) -> String {
    project.run("app").succeeds().stdout
}

fn mounts(project: &Project, arguments: &str) -> Outcome {
    project.builder(&format!("cache-mount {arguments}")).run()
}

#[test]
fn mounts_are_known_by_their_ids() {
    let project = Project::new();
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=cache,id=../wheels,sharing=locked head -c 100000 /dev/zero > /../wheels/zeros || true\n\
        RUN --mount=type=cache,target=/root/.m2 --mount=type=cache,id=pip,target=/p head -c 300000 /dev/zero > /p/zeros\n\
        RUN --mount=type=cache,id=pip,target=/p,uid=7 touch /p/other\n";
    let dockerfile = dockerfile
        .replace("sharing=locked head", "sharing=locked,target=/w head")
        .replace("/../wheels/", "/w/");
    build(&project, &dockerfile, "");
    let listed = mounts(&project, "ls")
        .succeeds()
        .prints("/root/.m2")
        .prints("../wheels")
        .stdout;
    assert_eq!(listed.lines().count(), 5, "{listed}");
    let pips = mounts(
        &project,
        "ls --filter id=pip --format {{.ID}},{{.UID}},{{.Sharing}},{{.InUse}}",
    )
    .succeeds();
    let mut pips: Vec<&str> = pips.stdout.lines().collect();
    pips.sort_unstable();
    assert_eq!(pips, ["pip,0,[shared],false", "pip,7,[shared],false"]);
    let size: u64 = mounts(&project, "inspect ../wheels --format {{.Size}}")
        .succeeds()
        .stdout
        .trim()
        .parse()
        .unwrap();
    assert!((100_000..200_000).contains(&size) && size.is_multiple_of(512), "{size}");
    mounts(&project, "inspect pip")
        .succeeds()
        .prints("\"Mode\": \"0755\"")
        .prints("\"CreatedAt\": 1");

    mounts(&project, "rm pip nothing")
        .exits(2)
        .says("no cache mount `nothing`");
    mounts(&project, "rm -f pip nothing")
        .succeeds()
        .prints("Removed: pip")
        .prints("Freed: 3");
    let left = mounts(&project, "ls -q").succeeds().stdout;
    assert_eq!(left.lines().count(), 2, "{left}");
    let name = left.lines().next().unwrap();
    mounts(&project, &format!("rm {}", &name[..10]))
        .succeeds()
        .prints("Removed: ");
    mounts(&project, "rm --all").succeeds().prints("Removed: ");
    assert_eq!(mounts(&project, "ls -q").succeeds().stdout, "");
    mounts(&project, "rm --all").succeeds();
    mounts(&project, "ls --filter size=3").exits(2).says("id=ID");
}

#[test]
fn a_new_mount_belongs_to_the_steps_user_unless_an_owner_is_stated() {
    let project = Project::new();
    let dockerfile = "FROM busybox\n\
        RUN echo app:x:1000:1001::/home/app:/bin/sh >> /etc/passwd && mkdir -m 777 /out\n\
        RUN --mount=type=cache,id=c,target=/c touch /c/roots && stat -c '%u:%g %a' /c >> /out/seen\n\
        USER app\n\
        RUN --mount=type=cache,id=c,target=/c touch /c/apps && stat -c '%u:%g %a' /c > /out/app && ls /c >> /out/app\n\
        RUN --mount=type=cache,id=c,target=/c,uid=0,gid=0 stat -c '%u:%g %a' /c >> /out/app && ls /c >> /out/app\n\
        RUN --mount=type=cache,id=c,target=/c,gid=7,mode=0770 stat -c '%u:%g %a' /c >> /out/app\n\
        RUN --mount=type=cache,id=c,target=/c ls /c >> /out/app\n\
        CMD cat /out/seen /out/app\n";
    build(&project, dockerfile, "");
    assert_eq!(
        seen(&project),
        "0:0 755\n1000:1001 755\napps\n0:0 755\nroots\n0:7 770\napps\n"
    );
}

/// A step that has the mount `id` alone until the file `go` is in it.
fn holder(id: &str, sharing: &str, mark: &str) -> String {
    format!(
        "FROM busybox\nRUN --mount=type=cache,id={id},sharing={sharing},target=/c echo {mark} >> /c/order && touch /c/{mark} && \
         while test ! -e /c/go-{mark}; do sleep 0.05; done\n"
    )
}

struct Building {
    child: Child,
    log: std::path::PathBuf,
}

impl Building {
    fn start(project: &Project, name: &str, dockerfile: &str) -> Self {
        project.write(&format!("{name}.Dockerfile"), dockerfile);
        let log = project.directory().join(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        let arguments = format!("build --progress plain -f {name}.Dockerfile .");
        let child = project.builder(&arguments).start_into(file);
        Self { child, log }
    }

    #[track_caller]
    fn says(&self, text: &str) {
        let log = || fs::read_to_string(&self.log).unwrap();
        wait_for(text, || log().contains(text));
    }

    #[track_caller]
    fn succeeds(&mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&self.log).unwrap());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
    }
}

#[track_caller]
fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The directory of the only mount.
fn data(project: &Project) -> std::path::PathBuf {
    let parent = project.store().join("cache-mounts");
    let mut found = fs::read_dir(parent).into_iter().flatten();
    found
        .next()
        .map_or_else(Default::default, |entry| entry.unwrap().path().join("data"))
}

#[test]
fn whoever_waits_first_is_served_first_and_the_dead_hold_nobody_up() {
    let project = Project::new();
    let mut first = Building::start(&project, "first", &holder("c", "locked", "first"));
    wait_for("the first step", || data(&project).join("first").exists());
    let mut killed = Building::start(&project, "killed", &holder("c", "locked", "killed"));
    killed.says("waiting for cache mount `c`, which is in use by [2/2] RUN --mount=type=cache,id=c,sharing=locked");
    let mut second = Building::start(&project, "second", &holder("c", "locked", "second"));
    second.says("1 more before this step");
    // It could have gone in beside other readers, and would have overtaken the second.
    let mut third = Building::start(&project, "third", &holder("c", "shared", "third"));
    third.says("2 more before this step");
    let users = mounts(&project, "inspect c --format {{.Users}}").succeeds().stdout;
    assert_eq!(users.matches("Waits:true").count(), 3, "{users}");
    mounts(&project, "rm c").exits(2).says("is in use by [2/2] RUN");

    killed.kill();
    first.kill();
    wait_for("the second step", || data(&project).join("second").exists());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!data(&project).join("third").exists());
    fs::write(data(&project).join("go-second"), "").unwrap();
    second.succeeds();
    wait_for("the third step", || data(&project).join("third").exists());
    fs::write(data(&project).join("go-third"), "").unwrap();
    third.succeeds();
    assert_eq!(
        fs::read_to_string(data(&project).join("order")).unwrap(),
        "first\nsecond\nthird\n"
    );
    mounts(&project, "rm c").succeeds().prints("Removed: c");
}

#[test]
fn builds_that_want_the_same_two_mounts_in_another_order_do_not_wait_for_each_other() {
    let project = Project::new();
    let dockerfile = |first: &str, second: &str, number: usize| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,id={first},sharing=locked,target=/1 --mount=type=cache,id={second},sharing=locked,target=/2 \
             test ! -e /1/busy && touch /1/busy /2/busy && sleep 0.1 && rm /1/busy && rm -f /2/busy && : {number}\n"
        )
    };
    let start = |number: usize| {
        let (first, second) = if number.is_multiple_of(2) {
            ("left", "right")
        } else {
            ("right", "left")
        };
        Building::start(&project, &format!("build{number}"), &dockerfile(first, second, number))
    };
    let mut builds: Vec<Building> = (0..6).map(start).collect();
    builds.iter_mut().for_each(Building::succeeds);
}

#[test]
fn an_ordinary_user_has_mounts_as_root_has_them() {
    for ids in [Ids::Full, Ids::Single] {
        let project = Project::rootless(ids);
        let dockerfile = "FROM busybox\nRUN --mount=type=cache,id=mine,target=/c echo kept > /c/file\n\
            RUN --mount=type=cache,id=mine,target=/c cat /c/file > /out\nCMD cat /out\n";
        build(&project, dockerfile, "--network host");
        assert_eq!(project.run("--network host app").succeeds().stdout, "kept\n");
        mounts(&project, "ls").succeeds().prints("mine");
        mounts(&project, "rm mine").succeeds().prints("Removed: mine");
    }
}

#[test]
fn a_mount_is_written_into_an_archive_and_read_from_it() {
    let project = Project::new();
    let fill = "FROM busybox\nRUN --mount=type=cache,id=pip,target=/c echo kept > /c/file && ln /c/file /c/link && touch -t 200102030405 /c/file && \
        mkdir -m 700 /c/d && head -c 3000000 /dev/urandom > /c/d/large && sha256sum /c/d/large > /c/sum\n";
    build(&project, fill, "");
    mounts(&project, "export pip -o pip.tar.zst").succeeds();
    let directory = project.directory();
    let listed = std::process::Command::new("tar")
        .args(["--zstd", "-tvf", "pip.tar.zst"])
        .current_dir(&directory)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("d/large") && listed.contains("link to file"),
        "{listed}"
    );

    // Another store, through pipes.
    let other = Project::new();
    let archive = project.builder("cache-mount export pip").stdout_of();
    fs::write(other.directory().join("piped"), archive).unwrap();
    let piped = fs::File::open(other.directory().join("piped")).unwrap();
    other
        .builder("cache-mount import pip -")
        .stdin(piped)
        .run()
        .succeeds()
        .prints("Imported: pip ");
    let look = "FROM busybox\nRUN --mount=type=cache,id=pip,target=/c sha256sum -c /c/sum > /out && stat -c '%a %h %Y' /c/file /c/d >> /out\nCMD [\"cat\", \"/out\"]\n";
    build(&other, look, "");
    assert!(
        seen(&other).starts_with("/c/d/large: OK\n644 2 981173100\n700 "),
        "{}",
        seen(&other)
    );

    // What is there goes when all that comes is there.
    let bytes = fs::read(directory.join("pip.tar.zst")).unwrap();
    fs::write(other.directory().join("cut"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(other.directory().join("none"), "").unwrap();
    fs::write(other.directory().join("text"), "x".repeat(2000)).unwrap();
    for wrong in ["cut", "none", "text"] {
        mounts(&other, &format!("import pip {wrong}")).exits(3).says(wrong);
    }
    let small = "FROM busybox\nRUN --mount=type=cache,id=pip,target=/c cat /c/file > /out\nCMD [\"cat\", \"/out\"]\n";
    build(&other, small, "");
    assert_eq!(seen(&other), "kept\n");
    std::process::Command::new("tar")
        .args(["-czf", "new.tgz", "Dockerfile"])
        .current_dir(other.directory())
        .status()
        .unwrap();
    mounts(&other, "import pip new.tgz").succeeds();
    let look = "FROM busybox\nRUN --mount=type=cache,id=pip,target=/c ls /c > /out\nCMD [\"cat\", \"/out\"]\n";
    build(&other, look, "");
    assert_eq!(seen(&other), "Dockerfile\n");
    mounts(&other, "import for-app new.tgz --uid 7 --gid 8 --mode 0700").succeeds();
    mounts(&other, "ls --filter id=for-app --format {{.UID}}:{{.GID}}:{{.Mode}}")
        .succeeds()
        .prints("7:8:0700");
    mounts(&other, "export nothing")
        .exits(2)
        .says("no cache mount `nothing`");
    let scratch = fs::read_dir(other.store().join("tmp")).unwrap().count();
    assert_eq!(scratch, 0, "nothing is left behind");
}

#[test]
fn an_archive_that_leads_out_of_the_mount_changes_nothing() {
    let project = Project::new();
    build(
        &project,
        "FROM busybox\nRUN --mount=type=cache,id=c,target=/c touch /c/old\n",
        "",
    );
    let victim = project.directory().join("victim");
    let archive = fs::File::create(project.directory().join("hostile.tar")).unwrap();
    let mut builder = tar::Builder::new(archive);
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.as_gnu_mut().unwrap().name[..12].copy_from_slice(b"../../victim");
    header.set_cksum();
    builder.append(&header, &b"bad"[..]).unwrap();
    builder.finish().unwrap();
    mounts(&project, "import c hostile.tar").exits(3).says("victim");
    assert!(!victim.exists());
    assert!(data(&project).join("old").exists());
}
