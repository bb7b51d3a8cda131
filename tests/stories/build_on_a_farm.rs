//! A farm: eight builders with a store each build one monorepo at once, edit it as they go, and share one remote cache.
//!
//! With each kind of remote: every image is right, a step runs a second time only where two builders began it before either
//! had given it away, builders and the remote are killed and nothing is lost but time. What was shared is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::cache_services::{Service, word};
use crate::support::Project;

const BUILDERS: usize = 8;
const SERVICES: usize = 10;
/// Services that a builder builds in a round.
const BUILT: usize = 2;
/// Rounds that nobody disturbs. In the next one builders and the remote are killed.
const QUIET: usize = 2;

/// Where the farm's results are shared.
enum Remote {
    Local(tempfile::TempDir),
    Registry(tempfile::TempDir),
    Service(Service),
}

impl Remote {
    fn registry() -> Self {
        let directory = tempfile::tempdir().unwrap();
        registry("start", directory.path());
        Self::Registry(directory)
    }

    /// What `--cache-from` and `--cache-to` are given, and what the environment has.
    fn fields(&self) -> (String, Vec<(&'static str, String)>) {
        match self {
            Self::Local(directory) => {
                let path = directory.path().join("cache");
                (format!("type=local,src={0},dest={0}", path.display()), Vec::new())
            }
            Self::Registry(directory) => {
                let address = fs::read_to_string(directory.path().join("address")).unwrap();
                (format!("type=registry,ref={}/farm/cache", address.trim()), Vec::new())
            }
            Self::Service(service) if service.address.starts_with("grpc") => {
                (format!("type=reapi,endpoint={}", service.address), Vec::new())
            }
            Self::Service(service) => {
                let keys = fs::read_to_string(service.directory.join("keys")).unwrap();
                let mut keys = keys.lines().map(str::to_owned);
                let mut key = |name| (name, keys.next().unwrap());
                let variables = vec![key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY")];
                let place = format!("endpoint_url={}", service.address);
                (format!("type=s3,bucket=cache,prefix=farm/,{place}"), variables)
            }
        }
    }

    /// Ends it at once, or takes it away.
    fn kill(&self) {
        match self {
            Self::Local(directory) => {
                fs::rename(directory.path().join("cache"), directory.path().join("away")).unwrap();
                fs::write(directory.path().join("cache"), "not a directory").unwrap();
            }
            Self::Registry(directory) => kill(directory.path()),
            Self::Service(service) => kill(&service.directory),
        }
    }

    fn revive(&mut self) {
        match self {
            Self::Local(directory) => {
                fs::remove_file(directory.path().join("cache")).unwrap();
                fs::rename(directory.path().join("away"), directory.path().join("cache")).unwrap();
            }
            Self::Registry(directory) => registry("start", directory.path()),
            Self::Service(service) => service.revive(),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Self::Registry(directory) = self {
            registry("stop", directory.path());
        }
    }
}

fn registry(deed: &str, directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/registry");
    let output = Command::new(script).arg(deed).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn kill(directory: &Path) {
    let pid = fs::read_to_string(directory.join("pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// The sources as one builder has them: a number stands for what a part holds.
#[derive(Clone, Debug, Default)]
struct Sources {
    shared: [usize; 2],
    services: [usize; SERVICES],
}

/// A step by what it works on: it stays the same wherever it runs.
type StepName = String;

impl Sources {
    fn write(&self, project: &Project, word: &str) {
        for (name, content) in ["a", "b"].iter().zip(self.shared) {
            project.write(
                &format!("shared/{name}/lib"),
                format!("shared {name} {content} {word}\n"),
            );
        }
        for (number, content) in self.services.iter().enumerate() {
            project.write(
                &format!("services/{number}/main"),
                format!("service {number} {content}\n"),
            );
            let dockerfile = format!(
                "FROM busybox AS base
COPY shared/{0} /shared
RUN cat /shared/* > /base
FROM base
COPY services/{number} /service
RUN cat /base /service/* > /out
CMD [\"cat\", \"/out\"]
",
                base_of(number)
            );
            project.write(&format!("Dockerfile.{number}"), dockerfile);
        }
    }

    /// What the image of a service says.
    fn output(&self, number: usize, word: &str) -> String {
        let shared = self.shared[number % 2];
        let content = self.services[number];
        format!(
            "shared {} {shared} {word}\nservice {number} {content}\n",
            base_of(number)
        )
    }

    /// The step of a service's Dockerfile that is called `name`.
    fn step(&self, number: usize, name: &str) -> StepName {
        let base = format!("on {} {}", base_of(number), self.shared[number % 2]);
        match name.contains("service") {
            true => format!("{name} {base} {number} {}", self.services[number]),
            false => format!("{name} {base}"),
        }
    }

    fn edit(&mut self, numbers: &mut Numbers) {
        // Few contents: builders are to meet each other's results.
        self.services[numbers.below(SERVICES)] = numbers.below(3);
        if numbers.below(6) == 0 {
            self.shared[numbers.below(2)] = numbers.below(2);
        }
    }
}

fn base_of(number: usize) -> &'static str {
    ["a", "b"][number % 2]
}

const STEPS: usize = 4;

/// One build that came to its end.
struct Built {
    begun: Instant,
    ended: Instant,
    /// All its steps, and those that it ran itself.
    steps: BTreeSet<StepName>,
    ran: Vec<StepName>,
}

struct Builder {
    project: Project,
    sources: Sources,
    numbers: Numbers,
}

/// The farm's own account.
struct Farm {
    kind: &'static str,
    word: String,
    builders: Vec<Mutex<Builder>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Killed {
    Nobody,
    /// One build of four.
    Some,
}

impl Farm {
    fn new(kind: &'static str) -> Self {
        let builder = |number| {
            Mutex::new(Builder {
                project: Project::new(),
                sources: Sources::default(),
                numbers: Numbers(number),
            })
        };
        Self {
            kind,
            word: word(),
            builders: (0..BUILDERS as u64).map(builder).collect(),
        }
    }

    /// All builders at once: each edits, and builds some services.
    fn round(&self, remote: &Remote, killed: Killed) -> Vec<Built> {
        let (fields, variables) = remote.fields();
        let arguments = cache_arguments(&fields);
        std::thread::scope(|scope| {
            let working: Vec<_> = self
                .builders
                .iter()
                .map(|builder| scope.spawn(|| self.work(&mut builder.lock().unwrap(), &arguments, &variables, killed)))
                .collect();
            working
                .into_iter()
                .flat_map(|builder| builder.join().unwrap())
                .collect()
        })
    }

    fn work(
        &self,
        builder: &mut Builder,
        arguments: &str,
        variables: &[(&'static str, String)],
        killed: Killed,
    ) -> Vec<Built> {
        let Builder {
            project,
            sources,
            numbers,
        } = builder;
        sources.edit(numbers);
        sources.write(project, &self.word);
        let mut built = Vec::new();
        for _ in 0..BUILT {
            let number = numbers.below(SERVICES);
            let mut program = project.builder(&format!(
                "build --progress plain -t service{number} -f Dockerfile.{number} {arguments} ."
            ));
            for (name, value) in variables {
                program.env(name, value);
            }
            if killed == Killed::Some && numbers.below(4) == 0 {
                let mut build = program.start();
                std::thread::sleep(Duration::from_millis(numbers.below(400) as u64));
                // It may have ended.
                let _ = build.kill();
                build.wait().unwrap();
                continue;
            }
            let begun = Instant::now();
            let outcome = program.run().succeeds();
            let ended = Instant::now();
            if killed == Killed::Nobody {
                assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
            }
            let said = project.run(&format!("service{number}")).succeeds().stdout;
            assert_eq!(said, sources.output(number, &self.word), "{}", outcome.stderr);
            let own = |name: &String| name.starts_with("COPY") || name.starts_with("RUN");
            let named = |word: &str| -> Vec<StepName> {
                let names = outcome.steps(word).into_iter().filter(own);
                names.map(|name| sources.step(number, &name)).collect()
            };
            let (ran, cached) = (named("DONE"), named("CACHED"));
            let steps: BTreeSet<_> = ran.iter().chain(&cached).cloned().collect();
            assert_eq!(steps.len(), STEPS, "{}", outcome.stderr);
            built.push(Built {
                begun,
                ended,
                steps,
                ran,
            });
        }
        built
    }

    /// A step that somebody had given away before a build began is not run by that build.
    fn count(&self, built: &[Built]) {
        let mut runs: BTreeMap<&StepName, usize> = BTreeMap::new();
        for build in built {
            for step in &build.ran {
                let earlier = built
                    .iter()
                    .find(|other| other.ended < build.begun && other.steps.contains(step));
                assert!(
                    earlier.is_none(),
                    "{}: `{step}` ran though its result was there",
                    self.kind
                );
                *runs.entry(step).or_default() += 1;
            }
        }
        let asked: usize = built.iter().map(|build| build.steps.len()).sum();
        let ran: usize = runs.values().sum();
        let races: usize = runs.values().map(|runs| runs - 1).sum();
        // Not for the test alone: it is to be read when the test succeeds, too.
        let _ = writeln!(
            std::io::stderr(),
            "farm, {}: {} builds by {BUILDERS} builders asked for {asked} steps; {} distinct ones ran, {races} more in races; hit rate {:.0} %",
            self.kind,
            built.len(),
            runs.len(),
            100.0 * (asked - ran) as f64 / asked as f64,
        );
        assert!(ran < asked, "{}: nothing was shared", self.kind);
    }

    /// A builder that was born a minute ago finds all of what the last builder made, unharmed.
    fn newcomer(&self, remote: &Remote) {
        let last = self.builders[0].lock().unwrap();
        let (fields, variables) = remote.fields();
        let build = |project: &Project, number: usize| {
            let arguments = cache_arguments(&fields);
            let mut program = project.builder(&format!(
                "build --progress plain -t service{number} -f Dockerfile.{number} {arguments} ."
            ));
            for (name, value) in &variables {
                program.env(name, value);
            }
            program.run().succeeds().never_says("warning")
        };
        let newcomer = Project::new();
        last.sources.write(&newcomer, &self.word);
        for number in 0..SERVICES {
            build(&last.project, number);
            build(&newcomer, number).ran_nothing();
            let said = newcomer.run(&format!("service{number}")).succeeds().stdout;
            assert_eq!(said, last.sources.output(number, &self.word));
        }
    }
}

/// Both ways. A directory is called otherwise in each.
fn cache_arguments(fields: &str) -> String {
    let without = |key: &str| {
        let kept = fields.split(',').filter(|field| !field.starts_with(key));
        kept.collect::<Vec<_>>().join(",")
    };
    format!(
        "--cache-from {} --cache-to {},mode=max",
        without("dest="),
        without("src=")
    )
}

fn a_farm_shares(kind: &'static str, mut remote: Remote) {
    let farm = Farm::new(kind);
    let quiet: Vec<Built> = (0..QUIET).flat_map(|_| farm.round(&remote, Killed::Nobody)).collect();
    farm.count(&quiet);
    std::thread::scope(|scope| {
        let round = scope.spawn(|| farm.round(&remote, Killed::Some));
        std::thread::sleep(Duration::from_millis(700));
        remote.kill();
        round.join().unwrap();
    });
    remote.revive();
    farm.round(&remote, Killed::Nobody);
    farm.newcomer(&remote);
}

/// One farm at a time is enough for a machine.
#[test]
fn eight_builders_share_each_kind_of_remote() {
    a_farm_shares("type=local", Remote::Local(tempfile::tempdir().unwrap()));
    a_farm_shares("type=registry", Remote::registry());
    a_farm_shares("type=s3", Remote::Service(Service::start("s3")));
    a_farm_shares("type=reapi", Remote::Service(Service::start("reapi")));
}
