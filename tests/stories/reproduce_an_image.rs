//! The same sources and `SOURCE_DATE_EPOCH` give the same image, wherever and however it is built.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::forge::Forge;
use crate::support::{Ids, Program, Project};

/// A Dockerfile, and the files of its context.
struct Fixture {
    name: &'static str,
    dockerfile: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// Whether steps give files away, which nobody can who has one id.
    gives_away: bool,
}

const FIXTURES: [Fixture; 5] = [
    Fixture {
        name: "stages",
        gives_away: false,
        dockerfile: "FROM busybox AS one\nRUN echo 1 > /one && mkdir -p /deep/er && touch /deep/er/file\nFROM busybox AS two\nCOPY src /src\n\
            RUN cat /src/* > /two && ln -s two /link\nFROM busybox\nWORKDIR /app\nCOPY --from=one /one /deep /from-one/\n\
            COPY --from=two /two /link /from-two/\nRUN rm /bin/vi && ls -R /from-one > listing\nCOPY --chown=5:6 src/a .\nCMD cat listing\n",
        files: &[("src/a", "a"), ("src/b", "b")],
    },
    Fixture {
        name: "python",
        gives_away: true,
        dockerfile: "FROM python:3.11-slim\nARG SOURCE_DATE_EPOCH\nWORKDIR /app\nCOPY *.py ./\nRUN python -m compileall -q . && python app.py > out\n\
            RUN useradd -m worker || adduser -D worker || echo worker:x:1000:1000::/home/worker:/bin/sh >> /etc/passwd\nUSER 1000\nCMD [\"python\", \"app.py\"]\n",
        files: &[
            ("app.py", "import words\nprint(words.TEXT)\n"),
            ("words.py", "TEXT = 'hello'\n"),
        ],
    },
    Fixture {
        name: "links and owners",
        gives_away: true,
        dockerfile: "FROM busybox\nCOPY --chmod=4750 --chown=7:8 tool /bin/tool\nRUN mkdir /d && echo x > /d/a && ln /d/a /d/b && ln -s a /d/c && mkfifo /d/f \\\n  \
            && chown 3:4 /d/a && chmod 1777 /d && dd if=/dev/zero of=/d/holes bs=1 count=1 seek=1000000 2>/dev/null\nRUN touch /d/y && ln /d/y /d/z\nVOLUME /d\n",
        files: &[("tool", "#!/bin/sh\n")],
    },
    Fixture {
        name: "here-documents and archives",
        gives_away: false,
        dockerfile: "FROM busybox\nCOPY <<one <<two /etc/conf/\nfirst $HOME\none\nsecond\ntwo\nADD things.tar /things/\nCOPY --link src /linked/\n\
            RUN <<EOF\nset -e\ndate > /dev/null\nseq 1000 | gzip -n > /numbers.gz\nEOF\nHEALTHCHECK CMD true\n",
        files: &[("src/a", "a"), ("src/sub/b", "b")],
    },
    Fixture {
        name: "what is removed",
        gives_away: false,
        dockerfile: "FROM busybox\nWORKDIR /a/b/c\nCOPY . .\nRUN rm -rf sub && mkdir sub && echo new > sub/other && mv keep kept && rm -rf /var/spool\n\
            RUN rm -rf /a/b && mkdir -p /a/b && touch /a/b/again\nCOPY sub /a/b/\nLABEL x=1\n",
        files: &[
            ("sub/one", "1"),
            ("sub/two", "2"),
            ("keep", "k"),
            ("left-out", "no"),
            (".dockerignore", "left-out\nDockerfile\n*.tar\n"),
        ],
    },
];

impl Fixture {
    /// Writes it, in an order of its own, with other times each time.
    fn write(&self, project: &Project, age: u64) {
        project.write("Dockerfile", self.dockerfile);
        for (path, content) in self.files {
            project.write(path, content);
        }
        let archive = std::fs::File::create(project.directory().join("things.tar")).unwrap();
        let mut archive = tar::Builder::new(archive);
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_size(5);
        header.set_mtime(1_500_000_000);
        archive.append_data(&mut header, "in/it", &b"thing"[..]).unwrap();
        archive.into_inner().unwrap();
        for path in self.files.iter().map(|(path, _)| *path).chain(["things.tar"]) {
            let file = std::fs::File::options()
                .write(true)
                .open(project.directory().join(path))
                .unwrap();
            file.set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
    }

    /// The bytes of the image's archive, manifests and compressed layers included.
    fn archive(&self, project: &Project, arguments: &str) -> Vec<u8> {
        let build = format!("build --progress none --reproducible -t app -o type=oci {arguments} .");
        project.builder(&build).stdout_of()
    }
}

/// All ways to build: as who, in which order, with what in the cache, by which means.
fn built_all_ways(fixture: &Fixture) {
    let first = Project::new();
    fixture.write(&first, 0);
    let expected = fixture.archive(&first, "");
    let is_expected = |project: &Project, arguments: &str, way: &str| {
        let same = fixture.archive(project, arguments) == expected;
        assert!(same, "{}: {way} gives another image", fixture.name);
    };
    is_expected(&first, "", "the cache");
    is_expected(&first, "--no-cache", "building anew");
    let ways = [
        (Project::new(), "--jobs 1", "one step at a time"),
        (Project::new(), "--jobs 32 --isolation=chroot", "a chroot"),
        (Project::rootless(Ids::Full), "", "an ordinary user"),
    ];
    let alone = (!fixture.gives_away).then(|| (Project::rootless(Ids::Single), "", "an ordinary user with one id"));
    for (age, (project, arguments, way)) in (1..).zip(ways.into_iter().chain(alone)) {
        fixture.write(&project, age * 86_400);
        is_expected(&project, arguments, way);
    }
}

#[test]
fn stages_give_the_same_image_however_they_are_built() {
    built_all_ways(&FIXTURES[0]);
}

#[test]
fn a_python_program_gives_the_same_image_however_it_is_built() {
    built_all_ways(&FIXTURES[1]);
}

#[test]
fn links_and_owners_give_the_same_image_however_they_are_built() {
    built_all_ways(&FIXTURES[2]);
}

#[test]
fn here_documents_and_archives_give_the_same_image_however_they_are_built() {
    built_all_ways(&FIXTURES[3]);
}

#[test]
fn removals_give_the_same_image_however_they_are_built() {
    built_all_ways(&FIXTURES[4]);
}

/// Every time in an image: of its configuration, its history, and of the files in its new layers, in seconds since 1970.
fn times(archive: &[u8], base_layers: usize) -> Vec<String> {
    let script = "import json,sys,tarfile,io,gzip\n\
        t=tarfile.open(sys.argv[1]); read=lambda d: t.extractfile('blobs/'+d.replace(':','/')).read()\n\
        m=json.loads(read(json.load(t.extractfile('index.json'))['manifests'][0]['digest']))\n\
        c=json.loads(read(m['config']['digest'])); n=int(sys.argv[2])\n\
        print(c['created']); [print(h['created']) for h in c['history'][n:]]\n\
        [print(int(e.mtime)) for l in m['layers'][n:] for e in tarfile.open(fileobj=io.BytesIO(gzip.decompress(read(l['digest']))))]\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    let layers = base_layers.to_string();
    let printed = Command::new("python3")
        .arg("-c")
        .arg(script)
        .arg(file.path())
        .arg(layers)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let mut times: Vec<String> = String::from_utf8(printed.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    times.sort();
    times.dedup();
    times
}

#[test]
fn reproducible_covers_every_time() {
    let project = Project::new();
    FIXTURES[0].write(&project, 0);
    let archive = FIXTURES[0].archive(&project, "");
    assert_eq!(times(&archive, 1), ["0", "1970-01-01T00:00:00Z"]);
    let archive = FIXTURES[0].archive(&project, "--build-arg SOURCE_DATE_EPOCH=1700000000");
    assert_eq!(times(&archive, 1), ["1700000000", "2023-11-14T22:13:20Z"]);
}

#[test]
fn reproducible_takes_the_time_of_the_commit() {
    let project = Project::new();
    let forge = Forge::start();
    // Its commits are of 2001-02-03T04:05:06Z.
    forge.script(
        "app",
        "printf 'FROM busybox\\nCOPY f /\\nRUN date > /now && rm /now\\n' > Dockerfile; echo x > f; commit one",
    );
    let build = format!("build --progress none --reproducible -o type=oci {}", forge.url("app"));
    let archive = project.builder(&build).stdout_of();
    assert_eq!(times(&archive, 1), ["2001-02-03T04:05:06Z", "981173106"]);
}

fn verify(project: &Project, dockerfile: &str, arguments: &str) -> Program {
    project.write("Dockerfile", dockerfile).write("data", "data");
    project.builder(&format!("build --verify -t app {arguments} ."))
}

#[test]
fn verify_passes_what_comes_out_the_same() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nCOPY data /\nRUN echo fixed > /fixed\n";
    let verified = verify(&project, dockerfile, "--reproducible").run().succeeds();
    verified.says("verified: two builds gave sha256:");
    project.builder("images app").run().succeeds().prints("app");
    assert_eq!(project.run("app cat /fixed").succeeds().stdout, "fixed\n");
}

#[test]
fn verify_shows_step_file_and_bytes() {
    let project = Project::new();
    let dockerfile = "FROM busybox AS made\nRUN echo same > /same && echo id=$(cat /proc/sys/kernel/random/uuid) > /id && mkdir /dir && \\\n  \
        touch /dir/$(cat /proc/sys/kernel/random/uuid)\nFROM busybox\nCOPY data /\nCOPY --from=made /id /id\n";
    let shown = verify(&project, dockerfile, "--reproducible").run().exits(1);
    let shown = shown
        .says("Dockerfile:2: ")
        .says("C /id  content")
        .says("from byte 3: \"")
        .says("A /dir/");
    shown
        .says("Dockerfile:6: ")
        .says("two builds gave different images")
        .says("2 steps left something else")
        .never_says("Dockerfile:5: ");
    project.builder("images -q app").run().succeeds().never_says("sha256");
    assert_eq!(
        project.builder("images -q app").run().succeeds().stdout,
        "",
        "it has no name"
    );
}

#[test]
fn verify_tells_when_times_alone_differ() {
    let project = Project::new();
    let slow = "FROM busybox\nRUN sleep 1.1 && echo fixed > /fixed\n";
    let shown = verify(&project, slow, "").run().exits(1);
    shown
        .says("C /fixed  modified")
        .says("only times differ: with --reproducible");
}
