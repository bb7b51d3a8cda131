//! Machines that share a cache in a registry: each project has a store of its own.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lying::{Guard, Lie, LyingRegistry};
use crate::share_a_cache::{SEEN, build, id, machine, with_files};
use crate::support::{Ids, Project, registry};

/// Steps that make a result: one in the stage of tools, three in the last one.
const RECORDS: usize = 4;

/// `REGISTRY/REPOSITORY`, which nobody else uses.
fn repository(host: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{host}/caches/{}-{number}", std::process::id())
}

fn to(repository: &str, mode: &str) -> String {
    format!("--cache-to type=registry,ref={repository},mode={mode}")
}

fn from(repository: &str) -> String {
    format!("--cache-from type=registry,ref={repository}")
}

fn pulled(stderr: &str) -> usize {
    stderr.lines().filter(|line| line.starts_with("pulling ")).count()
}

#[test]
fn a_machine_with_an_empty_store_fetches_the_final_layers_alone() {
    let (cache, first, second) = (repository(&registry()), machine(), machine());
    build(&first, &to(&cache, "max")).never_says("warning");
    let built = build(&second, &from(&cache)).ran_nothing().never_says("warning");
    // The base's layer, and the three of the last stage; not the one of the tools.
    assert_eq!(pulled(&built.stderr), 4, "{}", built.stderr);
    assert_eq!(id(&second), id(&first));
    assert_eq!(second.run("app").succeeds().stdout, SEEN);
    build(&second, "").ran_nothing();
}

#[test]
fn root_and_an_ordinary_user_share_a_repository() {
    let (cache, root, user) = (repository(&registry()), machine(), Project::rootless(Ids::Full));
    with_files(&user);
    build(&root, &format!("{} --network host", to(&cache, "max")));
    build(&user, &format!("{} --network host", from(&cache))).ran_nothing();
    assert_eq!(id(&user), id(&root));
    assert_eq!(user.run("--network host app").succeeds().stdout, SEEN);
}

#[test]
fn many_builders_fill_one_repository_at_the_same_time() {
    let (cache, machines) = (repository(&registry()), [(); 4].map(|()| machine()));
    let arguments = format!("build -q -t app {} {} .", to(&cache, "max"), from(&cache));
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
    build(&machine(), &from(&cache)).ran_nothing().never_says("warning");
}

/// What `docs/caching.md` says that a record costs.
#[test]
fn a_look_up_is_one_request_and_a_record_one_manifest() {
    let (server, first, second) = (LyingRegistry::start(), machine(), machine());
    let cache = repository(&server.host());
    build(&first, &to(&cache, "max"));
    // The image that might stand behind the reference is not asked for by those who write.
    assert_eq!(server.count("GET", "/manifests/"), RECORDS);
    assert_eq!(server.count("PUT", "/manifests/latest-"), RECORDS);
    // One blob for each of them, and the empty configuration.
    for method in ["HEAD", "POST", "PUT"] {
        assert_eq!(server.count(method, "/blobs/"), RECORDS + 1, "{method}");
    }
    let before = server.log().len();
    build(&second, &from(&cache)).ran_nothing();
    let asked: Vec<String> = server.log()[before..]
        .iter()
        .map(|request| format!("{} {}", request.method, request.target))
        .collect();
    let of = |what: &str| asked.iter().filter(|request| request.contains(what)).count();
    assert_eq!((asked.len(), of("GET ")), (4, 4), "{asked:#?}");
    assert_eq!((of("/manifests/latest-"), of("/blobs/")), (1, 3), "{asked:#?}");
    // Who finds all records there writes nothing.
    let before = server.log().len();
    build(&first, &to(&cache, "max")).ran_nothing();
    let written = server.log()[before..]
        .iter()
        .filter(|request| request.method != "GET")
        .count();
    assert_eq!((server.log().len() - before, written), (RECORDS, 0));
}

#[test]
fn tags_of_one_repository_are_caches_of_their_own() {
    let (server, first) = (LyingRegistry::start(), machine());
    let cache = repository(&server.host());
    build(&first, &to(&format!("{cache}:main"), "min"));
    build(&machine(), &from(&format!("{cache}:main"))).ran_nothing();
    let other = build(&machine(), &from(&format!("{cache}:other")));
    other
        .ran(["COPY src/ /src/", "RUN cat /src/* > /all"])
        .never_says("warning");
}

/// A layer that an image of the same registry has is not sent again, and the other way round.
#[test]
fn layers_are_taken_from_other_repositories_of_the_same_registry() {
    let (server, project) = (LyingRegistry::start(), machine());
    let (cache, image) = (repository(&server.host()), repository(&server.host()));
    let push = format!("build -q --push -t {image} --cache-to type=registry,ref={cache},compression=gzip .");
    project.builder(&push).run().succeeds();
    let mounted =
        |log: &[crate::lying::Request]| log.iter().filter(|request| request.target.contains("mount=")).count();
    let sent = server.count("PUT", "/blobs/uploads/");
    // Three layers for the cache, and its empty configuration; for the image its configuration and the base's layer.
    assert_eq!((mounted(&server.log()), sent), (3, 6));
}

#[test]
fn caches_that_are_dead_slow_or_wrong_cost_one_warning_each() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = silent.local_addr().unwrap();
    let (liar, honest) = (LyingRegistry::start(), LyingRegistry::start());
    liar.lie(
        "GET",
        "/manifests/",
        usize::MAX,
        Lie::Answer(200, Vec::new(), b"<html>".to_vec()),
    );
    let broken = LyingRegistry::start();
    broken.lie("GET", "/manifests/", usize::MAX, Lie::status(500));
    let bad = [dead.to_string(), slow.to_string(), broken.host()];
    let caches: String = bad.iter().map(|host| from(&format!("{host}/c")) + " ").collect();
    let project = machine();
    let begun = Instant::now();
    let built = build(&project, &caches).ran(["COPY src/ /src/"]);
    for host in &bad {
        let warnings = built
            .stderr
            .matches(&format!("type=registry ({host}/c:latest) is not used"))
            .count();
        assert_eq!(warnings, 1, "{host}: {}", built.stderr);
    }
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    assert_eq!(project.run("app").succeeds().stdout, SEEN);
    // A record that is none is told of, and the step runs.
    let project = machine();
    let built = build(&project, &from(&format!("{}/c", liar.host()))).ran(["COPY src/ /src/"]);
    assert!(built.stderr.contains("is not used"), "{}", built.stderr);
    assert_eq!(project.run("app").succeeds().stdout, SEEN);
    // And one that is slow holds nobody up who finds what is needed elsewhere.
    let good = repository(&honest.host());
    build(&project, &to(&good, "max"));
    let begun = Instant::now();
    build(&machine(), &format!("{caches} {}", from(&good))).ran_nothing();
    assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
}

/// One that answers, but each time only just in time.
#[test]
fn a_cache_that_trickles_is_done_without() {
    let (server, project) = (LyingRegistry::start(), machine());
    server.lie("GET", "/manifests/", usize::MAX, Lie::Drip(Duration::from_millis(100)));
    let steps: String = (0..60).map(|number| format!("COPY src/one /{number}\n")).collect();
    project.write("Dockerfile", format!("FROM busybox\n{steps}"));
    let begun = Instant::now();
    let built = build(&project, &from(&format!("{}/c", server.host())));
    assert!(begun.elapsed().as_secs() < 35, "{:?}", begun.elapsed());
    assert_eq!(
        built.stderr.matches("after 15 seconds it had not answered").count(),
        1,
        "{}",
        built.stderr
    );
}

#[test]
fn blobs_that_are_wrong_cost_a_warning_and_the_work() {
    let lies = [
        ("other bytes", Lie::Body(b"something else".to_vec())),
        ("none", Lie::status(404)),
        ("half of it", Lie::Cut(20)),
        ("nothing", Lie::Slam),
    ];
    for (what, lie) in lies {
        let (server, first, second) = (LyingRegistry::start(), machine(), machine());
        let cache = repository(&server.host());
        build(&first, &to(&cache, "max"));
        server.lie("GET", "/blobs/sha256:", usize::MAX, lie);
        let built = build(&second, &from(&cache));
        assert!(built.stderr.contains("warning: "), "{what}: {}", built.stderr);
        assert_eq!(second.run("app").succeeds().stdout, SEEN, "{what}");
    }
}

#[test]
fn a_registry_that_takes_no_more_costs_one_warning() {
    for status in [403, 413, 429, 507] {
        let (server, project) = (LyingRegistry::start(), machine());
        let cache = repository(&server.host());
        let refusal = Lie::Answer(status, vec![("Retry-After", "3600".into())], b"{}".to_vec());
        server.lie("POST", "/blobs/uploads/", usize::MAX, refusal.clone());
        server.lie("PUT", "/manifests/", usize::MAX, refusal);
        let built = build(&project, &to(&cache, "max"));
        let warnings = built.stderr.matches("gets nothing more of this build").count();
        assert_eq!(warnings, 1, "{status}: {}", built.stderr);
        assert_eq!(project.run("app").succeeds().stdout, SEEN);
        if status == 413 {
            let failed = project.build(&format!("-t app {},ignore-error=false .", to(&cache, "max")));
            failed.exits(3).says("the image is made, but type=registry");
        }
    }
}

#[test]
fn a_token_serves_all_requests_of_its_kind() {
    let (server, first, second) = (LyingRegistry::start(), machine(), machine());
    server.guard(Guard::Bearer(None));
    let cache = repository(&server.host());
    build(&first, &to(&cache, "max")).never_says("warning");
    // One to read, one to write.
    assert_eq!(server.count("GET", "/token"), 2);
    build(&second, &from(&cache)).ran_nothing();
    assert_eq!(server.count("GET", "/token"), 3);
}

/// Debian's registry, with data of its own. Ends when dropped.
struct OwnRegistry(tempfile::TempDir);

impl OwnRegistry {
    fn run(&self, action: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/registry");
        let output = Command::new(script).arg(action).arg(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for OwnRegistry {
    fn drop(&mut self) {
        self.run("stop");
    }
}

/// The registry's own garbage collection, which keeps what tags lead to.
#[test]
fn what_a_record_needs_outlives_the_registrys_garbage_collection() {
    let own = OwnRegistry(tempfile::tempdir().unwrap());
    let host = own.run("start");
    let cache = repository(&host);
    build(&machine(), &to(&cache, "max"));
    let collected = Command::new("docker-registry")
        .args(["garbage-collect", "--delete-untagged"])
        .arg(own.0.path().join("config.yml"))
        .output()
        .unwrap();
    assert!(
        collected.status.success(),
        "{}",
        String::from_utf8_lossy(&collected.stderr)
    );
    let second = machine();
    build(&second, &from(&cache)).ran_nothing().never_says("warning");
    assert_eq!(second.run("app").succeeds().stdout, SEEN);
}

/// Whenever it ends, its records lead to blobs that are there.
#[test]
fn a_registry_that_dies_in_the_middle_has_no_half_records() {
    for answers in 0..5 {
        let (server, first, second) = (LyingRegistry::start(), machine(), machine());
        let cache = repository(&server.host());
        server.lie_later("PUT", "/blobs/uploads/", answers, usize::MAX, Lie::Slam);
        let built = build(&first, &to(&cache, "max"));
        let warnings = built.stderr.matches("gets nothing more of this build").count();
        assert_eq!(
            warnings,
            usize::from(answers < RECORDS + 1),
            "{answers}: {}",
            built.stderr
        );
        let name = cache.split_once('/').unwrap().1;
        for record in server
            .log()
            .iter()
            .filter(|request| request.target.contains("/manifests/latest-"))
        {
            let tag = record.target.rsplit('/').next().unwrap();
            let Some(manifest) = server.manifest(name, tag) else {
                continue;
            };
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            for blob in manifest["layers"].as_array().unwrap() {
                let digest = blob["digest"].as_str().unwrap().parse().unwrap();
                assert!(server.blob(name, digest).is_some(), "{answers}: {manifest}");
            }
        }
        build(&second, &from(&cache)).never_says("warning");
        assert_eq!(second.run("app").succeeds().stdout, SEEN, "{answers}");
    }
}

fn grep(word: &str, directory: &Path) -> String {
    let found = Command::new("grep")
        .args(["-raF", word])
        .arg(directory)
        .output()
        .unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

#[test]
fn a_password_is_in_no_name_record_log_or_history() {
    use base64::Engine as _;
    const CREDENTIALS: &str = "robot:word-of-the-robot";
    let encoded = base64::engine::general_purpose::STANDARD.encode(CREDENTIALS);
    let server = LyingRegistry::start();
    server.guard(Guard::Basic(CREDENTIALS));
    let cache = repository(&server.host());
    let log_in = |project: &Project| {
        let auths = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{encoded}\"}}}}}}", server.host());
        let directory = project.home().join(".docker");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.json"), auths).unwrap();
    };
    let (first, second, stranger) = (machine(), machine(), machine());
    let told = |project: &Project, arguments: &str| {
        let built = build(project, &format!("--explain {arguments}"));
        let mut text = format!("{}{}", built.stdout, built.stderr);
        for command in ["explain --format json", "history ls", "history inspect", "history logs"] {
            let outcome = project.builder(command).run();
            text += &format!("{}{}", outcome.stdout, outcome.stderr);
        }
        text
    };
    log_in(&first);
    log_in(&second);
    let mut all = told(&first, &to(&cache, "max"));
    all += &told(&second, &from(&cache));
    // Who may not write and who may not read is told so, in words that give nothing away.
    all += &told(&stranger, &format!("{} {}", to(&cache, "max"), from(&cache)));
    server.lie("PUT", "/manifests/", usize::MAX, Lie::status(403));
    fs::write(first.directory().join("src/two"), "changed\n").unwrap();
    all += &told(&first, &to(&cache, "max"));
    assert!(
        all.contains("gets nothing more of this build") && all.contains("is not used"),
        "{all}"
    );
    for secret in ["word-of-the-robot", encoded.as_str()] {
        assert!(!all.contains(secret), "{all}");
        for project in [&first, &second, &stranger] {
            assert_eq!(grep(secret, &project.store()), "");
        }
        for request in server.log() {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            assert!(
                !body.contains(secret) && !request.target.contains(secret),
                "{request:?}"
            );
        }
    }
    assert_eq!(second.run("app").succeeds().stdout, SEEN);
}

#[test]
fn what_no_cache_had_is_part_of_the_explanation() {
    let (cache, project) = (repository(&registry()), machine());
    let built = build(&project, &format!("--explain {}", from(&cache)));
    let missing = format!("   there is no record of it in type=registry ({cache}:latest)\n");
    assert!(built.stderr.contains(&missing), "{}", built.stderr);
    let json = project.builder("explain --format json").run().succeeds().stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let name = format!("type=registry ({cache}:latest)");
    assert!(
        json.as_array()
            .unwrap()
            .iter()
            .any(|step| step["missing_in"][0] == *name),
        "{json}"
    );
    // Where none was asked, none is named.
    let alone = machine();
    build(&alone, "--explain").never_says("there is no record of it");
}

fn build_and_push(project: &Project, image: &str, arguments: &str) {
    build(project, arguments);
    project.builder(&format!("tag app {image}")).run().succeeds();
    project.builder(&format!("push {image}")).run().succeeds();
}

/// The configuration of an image in a registry.
fn config_of(server: &LyingRegistry, image: &str) -> Value {
    let name = image.split_once('/').unwrap().1;
    let manifest: Value = serde_json::from_slice(&server.manifest(name, "latest").unwrap()).unwrap();
    let digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    serde_json::from_slice(&server.blob(name, digest).unwrap()).unwrap()
}

#[test]
fn an_image_carries_the_records_of_its_own_steps() {
    let (server, first, second, third) = (LyingRegistry::start(), machine(), machine(), machine());
    let image = repository(&server.host());
    build_and_push(&first, &image, "--cache-to type=inline");
    let config = config_of(&server, &image);
    assert_eq!(
        config["builder.cache.v1"]["keys"].as_array().unwrap().len(),
        3,
        "{config}"
    );
    assert!(!config.to_string().contains("argument-of-the-tools"), "{config}");
    let before = server.log().len();
    build(&second, &format!("--cache-from {image} --cache-to type=inline")).ran_nothing();
    assert_eq!(id(&second), id(&first));
    assert_eq!(second.run("app").succeeds().stdout, SEEN);
    // The record that is not there; manifest and configuration of the image; its layers, but for the base's.
    let asked = server.log().len() - before;
    assert!(asked <= 7, "{asked}: {:#?}", &server.log()[before..]);
    // The steps below the one that changed are found too.
    third.write(
        "Dockerfile",
        "FROM busybox\nCOPY src/ /src/\nRUN cat /src/* > /all\nRUN echo more\nCMD [\"cat\", \"/all\"]\n",
    );
    let built = build(&third, &format!("--cache-from type=registry,ref={image}"));
    built.cached(["RUN cat /src/* > /all"]).ran(["RUN echo more"]);
    assert_eq!(third.run("app").succeeds().stdout, "1\n2\n");
}

#[test]
fn what_an_image_carries_does_not_depend_on_what_was_cached() {
    let dockerfile = "FROM busybox\nARG SOURCE_DATE_EPOCH\nARG NAME\nCOPY src/ /src/\nRUN cat /src/* > /all\n";
    let machines = [machine(), machine()];
    let arguments = "--build-arg SOURCE_DATE_EPOCH=1000000 --build-arg NAME=x";
    for machine in &machines {
        machine.write("Dockerfile", dockerfile);
        build(machine, &format!("{arguments} --cache-to type=inline"));
    }
    assert_eq!(id(&machines[0]), id(&machines[1]));
    let [first, second] = &machines;
    let inline = id(first);
    build(first, &format!("{arguments} --cache-to type=inline")).ran_nothing();
    assert_eq!(id(first), inline);
    build(first, &format!("{arguments} --cache-to type=inline --no-cache"));
    assert_eq!(id(first), inline);
    // Docker's way to ask for it; and an image that was not asked to carry anything.
    build(second, &format!("{arguments} --build-arg BUILDKIT_INLINE_CACHE=1"));
    assert_eq!(id(second), inline);
    build(second, arguments);
    assert_ne!(id(second), inline);
    // An image that stands on one that carries its records carries only its own, or none.
    first.builder("tag app localhost/base").run().succeeds();
    first.write("Dockerfile", "FROM localhost/base\nCOPY src/one /one\n");
    build(first, "");
    let told = first.builder("inspect app").run().succeeds().stdout;
    assert!(!told.contains("builder.cache"), "{told}");
}

#[test]
fn each_image_of_an_index_carries_its_own_records() {
    let (server, first, second) = (LyingRegistry::start(), machine(), machine());
    let image = repository(&server.host());
    for machine in [&first, &second] {
        machine.write(
            "Dockerfile",
            "FROM scratch\nARG TARGETARCH\nCOPY src/one /one-$TARGETARCH\nCOPY src/two /\n",
        );
    }
    let platforms = "--platform linux/amd64,linux/arm64";
    build_and_push(&first, &image, &format!("{platforms} --cache-to type=inline"));
    build(&second, &format!("{platforms} --cache-from {image}"))
        .ran_nothing()
        .never_says("warning");
}

/// What an image says that it carries is not believed where it cannot be.
#[test]
fn records_with_other_layers_than_the_steps_are_not_used() {
    let (server, first, second) = (LyingRegistry::start(), machine(), machine());
    let image = repository(&server.host());
    build_and_push(&first, &image, "--cache-to type=inline");
    let name = image.split_once('/').unwrap().1;
    let mut config = config_of(&server, &image);
    // The target's key alone, on an image with a layer less.
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    let mut manifest: Value = serde_json::from_slice(&server.manifest(name, "latest").unwrap()).unwrap();
    manifest["layers"].as_array_mut().unwrap().pop();
    let config = serde_json::to_vec(&config).unwrap();
    manifest["config"]["digest"] = server.put_blob(name, &config).to_string().into();
    manifest["config"]["size"] = config.len().into();
    let kind = manifest["mediaType"].as_str().unwrap().to_owned();
    server.put_manifest(name, "latest", &kind, &serde_json::to_vec(&manifest).unwrap());
    let built = build(&second, &format!("--cache-from {image}")).says("it has other layers than such a result");
    built.ran(["COPY --from=tools /tool /tool"]);
    assert_eq!(second.run("app").succeeds().stdout, SEEN);
}
