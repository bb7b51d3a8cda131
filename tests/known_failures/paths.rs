//! Links, races and `..` in mounts: nothing of the host is seen, made or removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::attack::{Victim, build, holding, listing};
use crate::support::{Outcome, Project};

/// How long a race is run.
const RACE: Duration = Duration::from_millis(2500);

/// Builds while another builder's step exchanges, in the cache `race`, the directory `sub` for a link to `target` and
/// back, as fast as it can.
fn race(project: &Project, target: &str, mut attempt: impl FnMut() -> Outcome) -> (usize, usize) {
    // Not to be confused with the builds of the attempts, whose context is the project.
    let swapper = project.home().join("swapper");
    fs::create_dir(&swapper).unwrap();
    let dockerfile = format!(
        "FROM debian:bookworm-slim\nRUN --mount=type=cache,id=race,target=/c <<EOF\nmkdir -p /c/sub/d && echo inside > /c/sub/y\nln -sfn {target} /c/link\n\
         echo swapping\nexec perl -e 'my ($n, $a, $b) = (316, \"/c/sub\", \"/c/link\"); \
         while (!-e \"/c/stop\") {{ syscall($n, -100, $a, -100, $b, 2) == 0 or die $! }}'\nEOF\n"
    );
    fs::write(swapper.join("Dockerfile"), dockerfile).unwrap();
    let swapping = project
        .builder("build --progress plain --no-cache")
        .arg(swapper.to_str().unwrap())
        .start();
    let store = project.store();
    let caches = || fs::read_dir(store.join("cache-mounts")).into_iter().flatten();
    let begun = Instant::now();
    while caches().count() == 0 || holding(&store.join("cache-mounts"), "inside").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is swapped");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (mut succeeded, mut tried, begun) = (0, 0, Instant::now());
    while begun.elapsed() < RACE {
        succeeded += usize::from(attempt().code == Some(0));
        tried += 1;
    }
    for cache in caches() {
        fs::write(cache.unwrap().path().join("data/stop"), "").unwrap();
    }
    let ended = swapping.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    (succeeded, tried)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn cve_2024_23651_a_cache_that_changes_while_a_part_of_it_is_mounted() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let steps = |name: &str| {
        let step = "RUN --mount=type=cache,id=race,source=sub,target=/m cat /m/y; ls -la /m/\n";
        format!("FROM busybox AS {name}\n{}", step.repeat(4))
    };
    let dockerfile = format!(
        "{}{}FROM busybox\nCOPY --from=a / /a\nCOPY --from=b / /b\n",
        steps("a"),
        steps("b")
    );
    project.write("Dockerfile", dockerfile);
    let mut seen = 0;
    let (_, tried) = race(&project, victim.path(), || {
        let outcome = project.build("--no-cache .").never_says(&victim.word);
        seen += outcome.stderr.matches(" inside").count();
        outcome
    });
    assert!(seen > 0, "in {tried} builds the directory was never mounted");
    victim.is_untouched();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn cve_2021_30465_a_mount_point_that_changes_while_something_is_mounted_on_it() {
    let project = Project::new();
    let victim = Victim::of(&project);
    // What a mount point lacks is made, and removed in the end: neither may happen on the host.
    project.write(
        "Dockerfile",
        "FROM busybox AS a\nRUN --mount=type=cache,id=race,target=/c --mount=type=tmpfs,target=/c/sub/d --mount=type=tmpfs,target=/c/sub/new echo ran\n\
         FROM busybox AS b\nRUN --mount=type=cache,id=race,target=/c --mount=type=secret,id=s,target=/c/sub/y --mount=type=secret,id=s,target=/c/sub/s echo ran\n\
         FROM busybox\nCOPY --from=a / /a\nCOPY --from=b / /b\n",
    );
    project.write("secret", "x");
    let mut ran = 0;
    race(&project, victim.path(), || {
        let outcome = project.build("--no-cache --secret id=s,src=secret .");
        ran += outcome.stderr.matches(" ran\n").count();
        outcome
    });
    assert!(ran > 0, "nothing was ever mounted");
    victim.is_untouched();
}

/// The same with the user's own directory, which another process changes.
#[test]
fn cve_2024_11218_a_context_that_changes_while_a_part_of_it_is_mounted_or_copied() {
    let project = Project::new();
    let victim = Victim::of(&project);
    project.write("sub/y", "inside");
    let (sub, link) = (project.directory().join("sub"), project.directory().join("link"));
    symlink(&victim.directory, &link).unwrap();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=source=sub,target=/m cat /m/y\nCOPY sub /c\nCOPY sub/y /f\nRUN cat /c/y /f\n",
    );
    project.write(".dockerignore", "link\n");
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                renameat_with(CWD, &sub, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                // From one exchange within a look-up to moments in which a build can succeed.
                std::thread::sleep(Duration::from_micros(100 << (round / 2 % 10)));
            }
        });
        let (mut seen, begun) = (0, Instant::now());
        while begun.elapsed() < RACE {
            let outcome = project.build("--no-cache .");
            let told = !outcome.stderr.contains(&victim.word);
            seen += outcome.stderr.matches(" inside").count();
            if !told {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(told, "{}", outcome.stderr);
        }
        stop.store(true, Ordering::Relaxed);
        seen
    });
    assert!(seen > 0, "the directory was never found");
    assert!(holding(&project.store(), &victim.word).is_empty());
    victim.is_untouched();
}

#[test]
fn cve_2024_23652_the_cleaner_of_mount_points_follows_no_link() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let path = victim.path();
    for (mount, name) in [("type=tmpfs", "d"), ("type=cache,id=k", "d"), ("type=secret,id=s", "y")] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount={mount},target=/x/{name} mv /x /moved && ln -s {path} /x\nRUN --mount={mount},target=/a/b/{name} mv /a/b /b && ln -s / /a/b && ls -R /moved /b > /left\nCMD cat /left\n"
        );
        project.write("secret", "x");
        build(&project, &dockerfile, "--secret id=s,src=secret").succeeds();
        victim.is_untouched();
        // Nor is what was only there to be mounted upon a part of the image.
        let left = project.run("app").succeeds().stdout;
        assert!(!left.contains("\nd\n/") && !left.contains("\ny\n/"), "{left}");
    }
}

#[test]
fn cve_2024_1753_the_source_of_a_bind_mount_is_found_inside_its_image() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let path = victim.path();
    let dockerfile = format!(
        "FROM busybox AS evil\nRUN ln -s / /root-link && ln -s {path} /victim && ln -s ../../../../../../../.. /up && ln -s /proc/1/root /magic && echo image > /mark\n\
         FROM busybox\n\
         RUN --mount=type=bind,from=evil,source=/root-link,target=/m,rw cat /m/mark && touch /m/y && ls /m >> /seen\n\
         RUN --mount=type=bind,from=evil,source=/up,target=/m,rw cat /m/mark && touch /m/written-by-the-step && ls /m >> /seen\n\
         RUN --mount=type=bind,from=evil,source=../../..,target=/m,rw cat /m/mark && ls /m >> /seen\nCMD cat /seen\n"
    );
    build(&project, &dockerfile, "").succeeds();
    project.run("app").succeeds().prints("mark").never_says("vmlinuz");
    for source in ["/victim", "/magic", "/up/proc/self/root"] {
        let dockerfile = format!(
            "FROM busybox AS evil\nRUN ln -s {path} /victim && ln -s /proc/1/root /magic\nFROM busybox\nRUN --mount=from=evil,source={source},target=/m,rw cat /m/y\n"
        );
        build(&project, &dockerfile, "").exits(1).never_says(&victim.word);
    }
    assert!(!std::path::Path::new("/written-by-the-step").exists());
    victim.is_untouched();
}

#[test]
fn cve_2024_9675_the_id_and_source_of_a_cache_stay_in_the_cache() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let before = listing(&project.home());
    let mut dockerfile = "FROM busybox\n".to_owned();
    let up = "../".repeat(12);
    for id in [
        "../../../escaped".to_owned(),
        format!("{up}{}", victim.path()),
        victim.path().to_owned(),
        "..".into(),
        ".".into(),
        "a/b".into(),
        "a\\\\b".into(),
    ] {
        dockerfile += &format!("RUN --mount=type=cache,id={id},target=/c echo written > /c/y\n");
    }
    build(&project, &dockerfile, "").succeeds();
    for source in [format!("{up}{}", victim.path()), "../../..".into(), "/../..".into()] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,id=k,target=/c,source={source} cat /c/y; ls -a /c; echo written > /c/y\n"
        );
        build(&project, &dockerfile, "").never_says(&victim.word);
    }
    assert_eq!(listing(&project.home()), before);
    victim.is_untouched();
    for cache in fs::read_dir(project.store().join("cache-mounts")).unwrap() {
        let name = cache.unwrap().file_name().into_string().unwrap();
        let plain = |letter: char| letter.is_ascii_hexdigit() || letter == '-';
        assert!(name.len() > 60 && name.chars().all(plain), "{name}");
    }
    // Nor does anything lie beside the store.
    let beside: Vec<_> = fs::read_dir(project.store().parent().unwrap()).unwrap().collect();
    assert_eq!(beside.len(), 4, "{beside:?}");
}

#[test]
fn cve_2024_9407_options_of_a_mount_are_those_that_are_known() {
    let project = Project::new();
    for option in [
        "bind-propagation=shared",
        "propagation=rshared",
        "options=suid",
        "Z",
        "relabel=shared",
        "o=dev",
    ] {
        build(
            &project,
            &format!("FROM busybox\nRUN --mount=type=bind,target=/m,{option} true\n"),
            "",
        )
        .exits(1)
        .says("Dockerfile:2");
    }
    // What would be an option of a mount, were it ever part of a text of options.
    let dockerfile =
        "FROM busybox\nRUN mkdir '/a,suid,dev'\nFROM busybox\nRUN --mount=\"from=0,source=/a\\,suid,target=/m\" true\n";
    build(&project, dockerfile, "").exits(1);
    let dockerfile = "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=1m,mode=7 true\n";
    build(&project, dockerfile, "").exits(1);
    let dockerfile = "FROM busybox\nRUN --mount=type=tmpfs,target=/t grep ' /t ' /proc/self/mountinfo > /seen; grep -c 'shared:\\|master:' /proc/self/mountinfo >> /seen; true\nCMD cat /seen\n";
    build(&project, dockerfile, "").succeeds();
    let seen = project.run("app").succeeds().stdout;
    assert!(seen.contains("nosuid") && seen.contains("nodev"), "{seen}");
    assert!(seen.ends_with("\n0\n"), "nothing is propagated: {seen}");
}

/// The root of a build is no directory of the builder's: what an image brings replaces nothing of the host's.
#[test]
fn kaniko_586_copying_a_whole_image_replaces_nothing_of_the_hosts() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let program = fs::read(env!("CARGO_BIN_EXE_builder")).unwrap().len();
    let (config, path) = (project.config(), victim.path());
    let dockerfile = format!(
        "FROM busybox AS evil\nRUN mkdir -p {path} {} && echo evil > {path}/y && echo evil > {}\n\
         FROM scratch AS plain\nCOPY --from=evil / /\n\
         FROM busybox AS base\nONBUILD COPY --from=evil / /\nONBUILD RUN rm -rf {path} && rm -f {}\nFROM base\nCOPY --from=plain / /\n",
        config.parent().unwrap().display(),
        config.display(),
        env!("CARGO_BIN_EXE_builder"),
    );
    let configured = fs::read(&config).unwrap();
    build(&project, &dockerfile, "").succeeds();
    victim.is_untouched();
    assert_eq!(fs::read(&config).unwrap(), configured);
    assert_eq!(fs::read(env!("CARGO_BIN_EXE_builder")).unwrap().len(), program);
}

/// A directory that an earlier build wrote is not believed by the next.
#[test]
fn go_containerregistry_2227_what_is_written_to_a_directory_stays_in_it() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let path = victim.path();
    project.write(
        "Dockerfile",
        format!("FROM busybox AS made\nRUN mkdir /o && ln -s {path} /o/d && ln -s {path}/y /o/f && ln -s ../../home/victim /o/r\nFROM scratch\nCOPY --from=made /o /\n"),
    );
    project.build("-o out .").succeeds();
    project.write("Dockerfile", "FROM busybox AS made\nRUN mkdir -p /o/d /o/r && echo evil | tee /o/d/y /o/r/y /o/d/new > /o/f\nFROM scratch\nCOPY --from=made /o /\n");
    project.build("-o out .").succeeds();
    victim.is_untouched();
    assert_eq!(fs::read(project.directory().join("out/f")).unwrap(), b"evil\n");
    // Archives name nothing outside of them.
    for kind in ["tar", "docker", "oci"] {
        project.build(&format!("-o type={kind},dest=out.{kind} .")).succeeds();
        let listed = Command::new("tar")
            .arg("tf")
            .arg(project.directory().join(format!("out.{kind}")))
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(
            !listed.is_empty() && !listed.lines().any(|name| name.starts_with('/') || name.contains("..")),
            "{listed}"
        );
    }
}
