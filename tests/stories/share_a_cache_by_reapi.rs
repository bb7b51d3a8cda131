//! Machines that share a cache behind the Remote Execution API.

use std::fs;
use std::path::PathBuf;

use super::cache_services::{self as services, Cache, Service, word};

fn cache(service: &Service) -> Cache {
    Cache {
        fields: format!("type=reapi,endpoint={}", service.address),
        variables: Vec::new(),
        word: word(),
    }
}

fn shared() -> Cache {
    cache(&Service::shared("reapi"))
}

/// What a service keeps.
fn objects(service: &Service) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![service.directory.join("data")]);
    while let Some(path) = pending.pop() {
        match path.is_dir() {
            true => pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn a_machine_with_an_empty_store_runs_nothing_and_fetches_the_final_layers_alone() {
    services::two_machines_share(&shared());
}

#[test]
fn other_stages_are_shared_with_mode_max_alone() {
    services::other_stages_are_shared_with_mode_max_alone([("max", &shared()), ("min", &shared())]);
}

#[test]
fn cache_mounts_travel() {
    services::cache_mounts_travel(&shared());
}

#[test]
fn many_builders_fill_one_cache_at_the_same_time() {
    services::many_builders_fill_one_cache_at_the_same_time(&shared());
}

/// The server finds out what is gone by itself, and says that there is no record.
#[test]
fn what_is_damaged_costs_a_warning_and_what_is_gone_nothing() {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let service = Service::start("reapi");
    let cache = cache(&service);
    cache.build(&cache.machine(), &cache.to("max"));
    let is = |blob: &PathBuf, begins: &[u8]| fs::read(blob).unwrap().starts_with(begins);
    let kept = |begins: &[u8]| -> Vec<(PathBuf, Vec<u8>)> {
        let found = objects(&service).into_iter().filter(|blob| is(blob, begins));
        found.map(|blob| (blob.clone(), fs::read(blob).unwrap())).collect()
    };
    let (blobs, records) = (kept(&ZSTD), kept(b"{\"version\""));
    assert!(blobs.len() >= 4 && records.len() >= 4);
    let restore = || {
        for (path, content) in blobs.iter().chain(&records) {
            fs::write(path, content).unwrap();
        }
    };
    for (path, content) in &blobs {
        let mut content = content.clone();
        let middle = content.len() / 2;
        content[middle] ^= 0x40;
        fs::write(path, content).unwrap();
    }
    services::damage_costs_a_warning(&cache, "blobs with other bytes");
    restore();
    for (path, content) in &blobs {
        fs::write(path, &content[..content.len() - 1]).unwrap();
    }
    services::damage_costs_a_warning(&cache, "blobs that are cut");
    restore();
    for (path, content) in &records {
        let text = String::from_utf8(content.clone()).unwrap();
        fs::write(path, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    }
    services::damage_costs_a_warning(&cache, "records with other bytes");
    restore();
    let last = cache.machine();
    cache.build(&last, &cache.from()).ran_nothing().never_says("warning");
    for (path, _) in &blobs {
        fs::remove_file(path).unwrap();
    }
    let last = cache.machine();
    cache
        .build(&last, &format!("{} {}", cache.from(), cache.to("max")))
        .never_says("warning");
    let last = cache.machine();
    cache.build(&last, &cache.from()).ran_nothing();
}

#[test]
fn a_service_that_is_not_there_costs_a_warning() {
    let mut cache = shared();
    cache.fields = "type=reapi,endpoint=grpc://127.0.0.1:9".into();
    services::a_cache_that_cannot_be_used_costs_a_warning(&cache, "Connection refused");
}

#[test]
fn a_service_that_is_killed_costs_warnings() {
    let service = Service::start("reapi");
    services::a_service_that_is_killed_costs_warnings(&service, &cache(&service));
}

#[test]
fn a_service_that_keeps_no_records_is_only_read() {
    let mut cache = shared();
    cache.fields += ",instance=frozen";
    let machine = cache.machine();
    let built = cache.build(&machine, &format!("{} {}", cache.to("max"), cache.from()));
    assert_eq!(built.stderr.matches("warning").count(), 1, "{}", built.stderr);
    built.says("it takes no records from here");
}

#[test]
fn tls_is_spoken_with_whom_the_user_trusts() {
    let service = Service::start("reapis");
    let mut cache = cache(&service);
    services::a_cache_that_cannot_be_used_costs_a_warning(&cache, "UnknownIssuer");
    cache.word = word();
    cache.fields += &format!(",cacert={}", service.directory.join("ca.pem").display());
    services::two_machines_share(&cache);
}

#[test]
fn tokens_are_shown_nowhere() {
    const SECRET: &str = "word-that-nobody-may-see";
    let mut cache = shared();
    cache.variables = vec![("TOKEN", SECRET.into())];
    cache.fields += &format!(",instance=nowhere,token_env=TOKEN,header=x-key:{SECRET}");
    services::a_cache_that_cannot_be_used_costs_a_warning(&cache, "InvalidArgument").never_says(SECRET);
    let machine = cache.machine();
    let explained = cache.build(&machine, &format!("--explain {} {}", cache.to("max"), cache.from()));
    explained.never_says(SECRET);
    for command in ["explain", "history ls", "history inspect", "history logs"] {
        machine.builder(command).run().never_says(SECRET);
    }
    services::assert_nowhere(&machine, SECRET);
    let arguments = format!("build --cache-to {},mode .", cache.fields);
    machine
        .builder(&arguments)
        .env("TOKEN", SECRET)
        .run()
        .exits(2)
        .never_says(SECRET);
}
