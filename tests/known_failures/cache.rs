//! Wrong hits and lost results: what a cached build gives is what a fresh one would.

use std::fs;
use std::time::{Duration, Instant};

use crate::attack::build;
use crate::support::Project;

/// Numbers that are the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What can stand in a Dockerfile whose base is busybox and whose context has `a` and `d/`.
const INSTRUCTIONS: [&str; 16] = [
    "RUN echo one > /one",
    "RUN [\"sh\", \"-c\", \"echo two > /two\"]",
    "RUN <<EOF\necho three > /three\nEOF",
    "RUN --mount=type=cache,target=/c echo four > /c/four",
    "RUN --mount=type=bind,target=/m cat /m/a > /five",
    "RUN --mount=type=bind,from=tools,target=/m,rw touch /m/six",
    "RUN --mount=type=tmpfs,target=/t --network=none touch /t/seven",
    "COPY a /eight/",
    "COPY --chown=1:2 --chmod=0600 a d /nine/",
    "COPY --link d /ten/",
    "COPY --from=tools --exclude=*.no /made /eleven",
    "COPY --parents d/./* /twelve/",
    "COPY <<EOF /thirteen\nthirteen\nEOF",
    "ADD a /fourteen",
    "WORKDIR /fifteen/$NAME",
    "ENV NAME=sixteen",
];

#[test]
fn ka_899_what_is_written_under_a_key_is_found_under_it() {
    let project = Project::new();
    project.write("a", "a").write("d/b", "b").write("d/c/e", "e");
    let mut numbers = Numbers(899);
    for _ in 0..20 {
        let mut dockerfile =
            String::from("FROM busybox AS tools\nRUN mkdir /made && touch /made/yes /made/x.no\nFROM busybox\n");
        for _ in 0..2 + numbers.below(8) {
            dockerfile += numbers.pick(&INSTRUCTIONS);
            dockerfile.push('\n');
        }
        let first = build(&project, &dockerfile, "-q").succeeds().stdout;
        build(&project, &dockerfile, "").succeeds().ran_nothing();
        assert_eq!(
            build(&project, &dockerfile, "-q").succeeds().stdout,
            first,
            "{dockerfile}"
        );
    }
}

#[test]
fn oss_kaniko_655_what_a_stage_made_otherwise_is_copied_again() {
    let project = Project::new();
    let dockerfile = "FROM busybox AS made\nRUN cat /proc/sys/kernel/random/uuid > /id\nFROM busybox\nCOPY --from=made /id /id\nRUN cp /id /copy\nCMD cat /id /copy\n";
    build(&project, dockerfile, "").succeeds();
    let first = project.run("app").succeeds().stdout;
    build(&project, dockerfile, "--no-cache-filter made")
        .succeeds()
        .ran(["COPY --from=made /id /id", "RUN cp /id /copy"]);
    let second = project.run("app").succeeds().stdout;
    assert_ne!(first, second);
    let (id, copy) = second.split_at(second.len() / 2);
    assert_eq!(id, copy);
}

#[test]
fn oss_kaniko_896_an_argument_that_chooses_the_base_chooses_the_steps() {
    let project = Project::new();
    let dockerfile = "ARG BASE=one\nFROM busybox AS one\nRUN echo one > /which\nFROM busybox AS two\nRUN echo two > /which\nFROM $BASE\nRUN cat /which > /seen\nCMD cat /seen\n";
    for base in ["one", "two", "one"] {
        build(&project, dockerfile, &format!("--build-arg BASE={base}")).succeeds();
        assert_eq!(project.run("app").succeeds().stdout, format!("{base}\n"));
    }
}

/// Each pair would be the same if its parts were joined with spaces, commas, `=` or `-`.
#[test]
fn oss_kaniko_872_the_parts_of_a_key_do_not_run_together() {
    let pairs = [
        ("RUN [\"echo\", \"a b\"]", "RUN [\"echo\", \"a\", \"b\"]"),
        ("ENV A=\"1 B=2\"\nRUN echo", "ENV A=1 B=2\nRUN echo"),
        ("ENV A=3-B=4\nRUN echo", "ENV A=3\nENV B=4\nRUN echo"),
        ("USER 1:2\nWORKDIR /3\nRUN echo", "USER 1\nWORKDIR /2:3\nRUN echo"),
        ("COPY x-y z/", "COPY x y-z/"),
        ("COPY --chown=1 --chmod=0600 x z", "COPY --chown=10 --chmod=600 x z"),
        ("COPY [\"x\", \"y\", \"z/\"]", "COPY [\"x y\", \"z/\"]"),
    ];
    let project = Project::new();
    for name in ["x", "x-y", "y", "x y"] {
        project.write(name, "the same");
    }
    for (first, second) in pairs {
        build(&project, &format!("FROM busybox\n{first}\n"), "").succeeds();
        let ran = build(&project, &format!("FROM busybox\n{second}\n"), "").succeeds();
        let step = second.rsplit('\n').next().unwrap();
        ran.ran([step]);
    }
}

#[test]
fn bu_4375_mounts_of_stages_that_begin_alike_show_what_each_holds() {
    let project = Project::new();
    project.write("a", "a").write("b", "b");
    let dockerfile = "FROM busybox AS left\nRUN mkdir /d\nCOPY a /d/file\nFROM busybox AS right\nRUN mkdir /d\nCOPY b /d/file\nFROM busybox\nRUN --mount=from=left,source=/d,target=/l --mount=from=right,source=/d,target=/r cat /l/file /r/file > /seen\nCMD cat /seen\n";
    for (content, seen) in [("b", "ab"), ("c", "ac"), ("a", "aa"), ("b", "ab")] {
        project.write("b", content);
        build(&project, dockerfile, "").succeeds();
        assert_eq!(project.run("app").succeeds().stdout, seen);
    }
}

/// A mount that may be written counts as a whole, and what was written there is in no result.
#[test]
fn selector_rule_a_mount_that_may_be_written_counts_as_a_whole() {
    let project = Project::new();
    let dockerfile = |beside: &str| {
        format!(
            "FROM busybox AS made\nRUN mkdir /d && echo 1 > /d/file && echo {beside} > /beside\nFROM busybox\nRUN --mount=from=made,source=/d,target=/m,rw cat /m/file > /seen && echo 2 > /m/file\nRUN --mount=from=made,source=/d,target=/m,rw cat /m/file >> /seen\nCMD cat /seen\n"
        )
    };
    for beside in ["x", "y"] {
        build(&project, &dockerfile(beside), "")
            .succeeds()
            .ran(["RUN --mount=from=made,source=/d,target=/m,rw cat /m/file >> /seen"]);
        assert_eq!(project.run("app").succeeds().stdout, "1\n1\n");
    }
}

#[test]
fn bk_6521_removal_in_a_loop_breaks_no_build() {
    let project = Project::new();
    build(&project, "FROM busybox\nCMD true\n", "").succeeds();
    let mut builds = Vec::new();
    for worker in 0..2 {
        project.write(&format!("{worker}/a"), "a");
        builds.push(
            (0..50)
                .map(|number| {
                    let directory = format!("{worker}/{number}");
                    let dockerfile = format!(
                        "FROM busybox\nRUN echo {worker} > /worker\nRUN echo {number} > /number\nCMD cat /worker /number\n"
                    );
                    project.write(&format!("{directory}/Dockerfile"), dockerfile);
                    (format!("app{worker}-{number}"), directory)
                })
                .collect::<Vec<_>>(),
        );
    }
    let project = &project;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                project.builder("tag busybox passing").run();
                project.builder("rmi -f passing").run();
                removed += 1;
            }
            removed
        });
        let workers: Vec<_> = builds
            .iter()
            .map(|list| {
                scope.spawn(move || {
                    for (name, directory) in list {
                        project.build(&format!("-q -t {name} {directory}")).succeeds();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(remover.join().unwrap() > 0);
    });
    for (worker, list) in builds.iter().enumerate() {
        for (number, (name, _)) in list.iter().enumerate() {
            let seen = project.run(name).succeeds().stdout;
            assert_eq!(seen, format!("{worker}\n{number}\n"));
        }
    }
}

/// Whatever is taken away from the store by hand is made again.
#[test]
fn buildkit_80c88a1c9_what_is_lost_is_made_again() {
    let project = Project::new();
    project.write("a", "a");
    let dockerfile = "FROM busybox\nRUN echo one > /one\nCOPY a /two\nRUN cat /one /two > /three\nCMD cat /three\n";
    let mut numbers = Numbers(80);
    for _ in 0..12 {
        build(&project, dockerfile, "").succeeds();
        assert_eq!(project.run("app").succeeds().stdout, "one\na");
        let snapshots = fs::read_dir(project.store().join("snapshots")).unwrap();
        let mut lost: Vec<_> = snapshots.map(|entry| entry.unwrap().path()).collect();
        lost.sort();
        let lost = &lost[numbers.below(lost.len() as u64) as usize];
        fs::remove_dir_all(lost).unwrap();
    }
}

/// Builds on one store that are killed at any moment: what they left is either whole or not there.
#[test]
fn sigkill_durability_a_thousand_kills_leave_nothing_half_done() {
    const WORKERS: u64 = 4;
    let project = Project::new();
    build(&project, "FROM busybox\nCMD true\n", "").succeeds();
    let killed: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let project = &project;
                scope.spawn(move || kill_builds(project, worker, 1000 / WORKERS))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(
        killed > 500,
        "only {killed} of 1000 builds were killed before their end"
    );
    build(&project, "FROM busybox\nCMD true\n", "").succeeds();
    let scratch = fs::read_dir(project.store().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(scratch, 0, "scratch directories outlived the last build");
}

/// Kills that many builds, and looks at a whole one now and then; how many were killed before their end.
fn kill_builds(project: &Project, worker: u64, builds: u64) -> u64 {
    let name = format!("app{worker}");
    project.write(&format!("{name}/a"), "a\n");
    let mut numbers = Numbers(9 + worker);
    // As long as a whole build may take, so that kills hit each part of one.
    let mut longest = 100_000;
    let mut killed = 0;
    for round in 1..=builds {
        // Some rounds meet what the one before left.
        let content = round / 3;
        let dockerfile = format!(
            "FROM busybox\nRUN echo {worker}-{content} > /one\nCOPY a /two\nRUN cat /one /two > /three; seq 2000 > /many\nCMD cat /three; wc -l < /many\n"
        );
        project.write(&format!("{name}/Dockerfile"), dockerfile);
        let mut child = project.builder(&format!("build -q -t {name} {name}")).start();
        std::thread::sleep(Duration::from_micros(numbers.below(longest)));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
        if round % 25 == 0 {
            let begun = Instant::now();
            project.build(&format!("-t {name} {name}")).succeeds();
            longest = (begun.elapsed().as_micros() as u64).clamp(50_000, 200_000);
            let seen = project.run(&name).succeeds().stdout;
            assert_eq!(seen, format!("{worker}-{content}\na\n2000\n"), "round {round}");
        }
    }
    killed
}
