//! Services that remote caches are kept in, and what is true of a cache in any of them.
//!
//! `scripts/cache-server` starts the services; `scripts/test` has one of each for all stories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Outcome, Project};

/// A service on loopback.
pub struct Service {
    /// `http://127.0.0.1:5000`
    pub address: String,
    /// Where it keeps what it keeps on disk.
    pub directory: PathBuf,
    kind: &'static str,
    /// It is stopped in the end, where it is one story's own.
    own: Option<tempfile::TempDir>,
}

impl Service {
    /// The one that all stories share: `s3` or `reapi`.
    pub fn shared(kind: &'static str) -> Self {
        let variable = format!("BUILDER_TEST_{}", kind.to_uppercase());
        let directory = std::env::var(&variable).unwrap_or_else(|_| {
            panic!("{variable} is not set: run the tests with `scripts/test`, which starts the services on loopback")
        });
        let directory = PathBuf::from(directory);
        Self {
            address: fs::read_to_string(directory.join("address")).unwrap().trim().to_owned(),
            directory,
            kind,
            own: None,
        }
    }

    /// One more.
    pub fn start(kind: &'static str) -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut service = Self {
            address: String::new(),
            directory: own.path().to_owned(),
            kind,
            own: Some(own),
        };
        service.revive();
        service
    }

    /// Starts it again, after it was killed.
    pub fn revive(&mut self) {
        let output = script()
            .args(["start", self.kind])
            .arg(&self.directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.address = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }

    /// Ends it, at once.
    pub fn kill(&self) {
        let pid = fs::read_to_string(self.directory.join("pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            let _ = script().arg("stop").arg(own.path()).status();
        }
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cache-server"))
}

/// A word that nobody else has.
pub fn word() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A cache in a service.
pub struct Cache {
    /// What `--cache-from` and `--cache-to` are given.
    pub fields: String,
    /// What the program finds in its environment.
    pub variables: Vec<(&'static str, String)>,
    /// What no other story builds, so that stories do not share.
    pub word: String,
}

impl Cache {
    /// A machine with an empty store, and the project.
    pub fn machine(&self) -> Project {
        let project = Project::new();
        let dockerfile = "FROM busybox AS tools
ARG VERSION=WORD
RUN echo $VERSION > /tool && dd if=/dev/urandom of=/large bs=64k count=4
FROM busybox
COPY src/ /src/
RUN cat /src/* > /all && dd if=/dev/urandom of=/random bs=64k count=72
COPY --from=tools /tool /tool
CMD [\"cat\", \"/all\", \"/tool\"]
";
        project
            .write("Dockerfile", dockerfile.replace("WORD", &self.word))
            .write("src/one", format!("1 {}\n", self.word))
            .write("src/two", "2\n");
        project
    }

    /// What the image says.
    pub fn seen(&self) -> String {
        format!("1 {0}\n2\n{0}\n", self.word)
    }

    pub fn to(&self, mode: &str) -> String {
        format!("--cache-to {},mode={mode}", self.fields)
    }

    pub fn from(&self) -> String {
        format!("--cache-from {}", self.fields)
    }

    pub fn build(&self, project: &Project, arguments: &str) -> Outcome {
        self.command(project, arguments).run().succeeds()
    }

    pub fn command(&self, project: &Project, arguments: &str) -> crate::support::Program {
        let mut program = project.builder(&format!("build --progress plain -t app {arguments} ."));
        for (name, value) in &self.variables {
            program.env(name, value);
        }
        program
    }

    fn is_right(&self, project: &Project) {
        assert_eq!(project.run("app").succeeds().stdout, self.seen());
    }
}

fn id(project: &Project) -> String {
    project.builder("inspect --format {{.Id}} app").run().succeeds().stdout
}

/// A second machine runs nothing, fetches the final layers alone, and has the same image.
pub fn two_machines_share(cache: &Cache) {
    let (first, second) = (cache.machine(), cache.machine());
    cache.build(&first, &cache.to("max")).never_says("warning");
    let built = cache.build(&second, &cache.from()).ran_nothing().never_says("warning");
    let pulled = built.stderr.lines().filter(|line| line.starts_with("pulling ")).count();
    assert_eq!(pulled, 4, "{}", built.stderr);
    assert_eq!(id(&second), id(&first));
    cache.is_right(&second);
    // What is there is not given again, and what is here is not asked for.
    cache
        .build(&second, &format!("{} {}", cache.to("max"), cache.from()))
        .ran_nothing()
        .never_says("warning");
}

/// `min` gives the image's own layers away, `max` those of all stages.
pub fn other_stages_are_shared_with_mode_max_alone(caches: [(&str, &Cache); 2]) {
    for (mode, cache) in caches {
        let (first, second) = (cache.machine(), cache.machine());
        cache.build(&first, &cache.to(mode));
        second.write("src/two", "changed\n");
        let built = cache.build(&second, &cache.from());
        let tool = "RUN echo $VERSION > /tool && dd if=/dev/urandom of=/large bs=64k count=4";
        match mode {
            "max" => built.cached([tool]),
            _ => built.ran([tool]),
        };
        second.run("app").succeeds().prints("changed");
    }
}

/// Whoever does not answer, or does not let anybody in, costs one warning each way.
pub fn a_cache_that_cannot_be_used_costs_a_warning(cache: &Cache, reason: &str) -> Outcome {
    let machine = cache.machine();
    let begun = Instant::now();
    let built = cache.build(&machine, &format!("{} {}", cache.from(), cache.to("max")));
    let warnings = |what: &str| built.stderr.matches(what).count();
    assert_eq!(warnings(" is not used: "), 1, "{}", built.stderr);
    assert_eq!(warnings(" gets nothing more of this build: "), 1, "{}", built.stderr);
    assert!(begun.elapsed() < Duration::from_secs(60));
    cache.is_right(&machine);
    built.says(reason)
}

/// A service that ends while a build uses it.
pub fn a_service_that_is_killed_costs_warnings(service: &Service, cache: &Cache) {
    let machine = cache.machine();
    let waiting = "FROM busybox
COPY src/ /src/
RUN cat /src/* > /all && touch /begun && sleep 3
RUN --network=none echo WORD > /tool
CMD [\"cat\", \"/all\", \"/tool\"]
";
    machine.write("Dockerfile", waiting.replace("WORD", &cache.word));
    let log = machine.directory().join("log");
    let arguments = format!("{} {}", cache.from(), cache.to("max"));
    let mut build = cache
        .command(&machine, &arguments)
        .start_into(fs::File::create(&log).unwrap());
    let said = || fs::read_to_string(&log).unwrap();
    let begun = Instant::now();
    while !said().contains("RUN cat") && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    service.kill();
    assert!(build.wait().unwrap().success(), "{}", said());
    assert!(said().contains("gets nothing more of this build"), "{}", said());
    cache.is_right(&machine);
}

/// Builders that fill one cache at the same time undo nothing of each other's.
pub fn many_builders_fill_one_cache_at_the_same_time(cache: &Cache) {
    let machines = [(); 4].map(|()| cache.machine());
    let arguments = format!("{} {}", cache.to("max"), cache.from());
    let logs = tempfile::tempdir().unwrap();
    let log = |number: usize| logs.path().join(number.to_string());
    let start = |(number, machine)| {
        let log = fs::File::create(log(number)).unwrap();
        cache.command(machine, &arguments).start_into(log)
    };
    let mut builds: Vec<_> = machines.iter().enumerate().map(start).collect();
    for (number, build) in builds.iter_mut().enumerate() {
        assert!(build.wait().unwrap().success());
        let said = fs::read_to_string(log(number)).unwrap();
        assert!(!said.contains("warning"), "{said}");
    }
    machines.iter().for_each(|machine| cache.is_right(machine));
    let last = cache.machine();
    cache.build(&last, &cache.from()).ran_nothing().never_says("warning");
}

/// What package managers keep goes along, and its latest state comes.
pub fn cache_mounts_travel(cache: &Cache) {
    let machine = |script: &str| {
        let project = cache.machine();
        let step = format!("RUN --mount=type=cache,id={},target=/c {script}", cache.word);
        project.write("Dockerfile", format!("FROM busybox\n{step}\nCMD [\"cat\", \"/out\"]\n"));
        project
    };
    let [to, from] = [cache.to("min"), cache.from()].map(|arguments| format!("{arguments},mounts=true"));
    cache.build(&machine("echo 1 > /c/one"), &to).never_says("warning");
    let second = machine("echo 2 >> /c/one; cat /c/one > /out");
    cache.build(&second, &format!("{from} {to}")).never_says("warning");
    assert_eq!(second.run("app").succeeds().stdout, "1\n2\n");
    let third = machine("cat /c/one > /out");
    cache.build(&third, &from).never_says("warning");
    assert_eq!(third.run("app").succeeds().stdout, "1\n2\n");
}

/// Damage costs a warning and the work, never the image.
pub fn damage_costs_a_warning(cache: &Cache, what: &str) {
    damage_is_told_of(cache, what, &cache.from());
}

/// The same, once: what cannot be used is given anew.
pub fn damage_is_mended(cache: &Cache, what: &str) {
    damage_is_told_of(cache, what, &format!("{} {}", cache.from(), cache.to("max")));
    let third = cache.machine();
    let built = cache.build(&third, &cache.from());
    assert!(!built.stderr.contains("warning: "), "{what}: {}", built.stderr);
    built.ran_nothing();
}

fn damage_is_told_of(cache: &Cache, what: &str, arguments: &str) {
    let second = cache.machine();
    let built = cache.build(&second, arguments);
    assert!(built.stderr.contains("warning: "), "{what}: {}", built.stderr);
    cache.is_right(&second);
}

/// Nothing below a machine's directories says `secret`.
pub fn assert_nowhere(project: &Project, secret: &str) {
    for directory in [project.store(), project.directory()] {
        let found = Command::new("grep")
            .args(["-rlaF", secret])
            .arg(&directory)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{}", directory.display());
    }
}
