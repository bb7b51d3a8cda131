//! Machines that share a cache in a bucket.

use std::process::Command;

use super::cache_services::{self as services, Cache, Service, word};

/// Copies what is below one prefix to below another one, and damages it on the way; prints the names.
const COPY: &str = r#"
import sys, boto3
address, id, key, source, target, what = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id=id, aws_secret_access_key=key)
def contents(below):
    for found in s3.list_objects_v2(Bucket="cache", Prefix=source + below).get("Contents", []):
        print(found["Key"])
        yield found["Key"][len(source):], s3.get_object(Bucket="cache", Key=found["Key"])["Body"].read()
def flip(content): return content[:len(content) // 2] + bytes([content[len(content) // 2] ^ 0x40]) + content[len(content) // 2 + 1:]
blobs, records = dict(contents("blobs/")), dict(contents("manifests/"))
assert blobs and records
if what == "blobs that are gone": blobs = {}
if what == "blobs that are cut": blobs = {name: content[:-1] for name, content in blobs.items()}
if what == "blobs with other bytes": blobs = {name: flip(content) for name, content in blobs.items()}
if what == "records that are none": records = {name: b'{"version":1' for name in records}
if what == "records that are too large": records = {name: b'{"version":1' + b" " * (5 << 20) for name in records}
if what == "the records of other keys":
    others = list(records.values())
    records = dict(zip(records, others[1:] + others[:1]))
for name, content in (blobs | records).items(): s3.put_object(Bucket="cache", Key=target + name, Body=content)
"#;

/// The keys that the service knows.
fn keys(service: &Service) -> [String; 2] {
    let keys = std::fs::read_to_string(service.directory.join("keys")).unwrap();
    let mut lines = keys.lines().map(str::to_owned);
    [lines.next().unwrap(), lines.next().unwrap()]
}

fn cache(service: &Service) -> Cache {
    let [id, key] = keys(service);
    let word = word();
    Cache {
        fields: format!("type=s3,bucket=cache,prefix={word}/,endpoint_url={}", service.address),
        variables: vec![("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", key)],
        word,
    }
}

fn shared() -> Cache {
    cache(&Service::shared("s3"))
}

/// Runs a script with a client of the service; what it prints.
fn python(script: &str, arguments: &[&str]) -> String {
    let service = Service::shared("s3");
    let home = std::env::var("BUILDER_TEST_CACHE_SERVERS").expect("scripts/test sets it");
    let output = Command::new(format!("{home}/venv/bin/python"))
        .args(["-c", script, &service.address])
        .args(keys(&service))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The names of all objects below `prefix`.
fn names(prefix: &str) -> Vec<String> {
    const LIST: &str = "import sys, boto3
address, id, key, prefix = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=address, region_name='us-east-1', aws_access_key_id=id, aws_secret_access_key=key)
for found in s3.list_objects_v2(Bucket='cache', Prefix=prefix)['Contents']: print(found['Key'])";
    python(LIST, &[prefix]).lines().map(str::to_owned).collect()
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
fn objects_are_where_the_keys_say_and_large_ones_come_in_parts() {
    let mut cache = shared();
    cache.fields += ",blobs_prefix=layers/,manifests_prefix=records/,name=app,use_path_style=true,upload_parallelism=2";
    let (first, second) = (cache.machine(), cache.machine());
    for machine in [&first, &second] {
        let dockerfile = format!(
            "FROM busybox\nRUN dd if=/dev/urandom of=/large bs=64k count=300; echo {}\n",
            cache.word
        );
        machine.write("Dockerfile", dockerfile);
    }
    cache.build(&first, &cache.to("min")).never_says("warning");
    cache.build(&second, &cache.from()).ran_nothing().never_says("warning");
    let names = names(&format!("{}/", cache.word));
    let below = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(below(&format!("{}/layers/sha256:", cache.word)), 1, "{names:?}");
    assert_eq!(below(&format!("{}/records/app/", cache.word)), 1, "{names:?}");
    assert_eq!(names.len(), 2);
}

#[test]
fn what_is_damaged_costs_a_warning_and_is_given_anew() {
    let filled = shared();
    filled.build(&filled.machine(), &filled.to("max"));
    for what in [
        "blobs that are gone",
        "blobs that are cut",
        "blobs with other bytes",
        "records that are none",
        "records that are too large",
        "the records of other keys",
    ] {
        let mut copy = shared();
        let prefix = std::mem::replace(&mut copy.word, filled.word.clone());
        python(COPY, &[&format!("{}/", filled.word), &format!("{prefix}/"), what]);
        services::damage_is_mended(&copy, what);
    }
}

#[test]
fn cache_mounts_travel() {
    services::cache_mounts_travel(&shared());
}

#[test]
fn many_builders_fill_one_cache_at_the_same_time() {
    services::many_builders_fill_one_cache_at_the_same_time(&shared());
}

#[test]
fn a_service_that_is_not_there_costs_a_warning() {
    let mut cache = shared();
    cache.fields = "type=s3,bucket=cache,endpoint_url=http://127.0.0.1:9".into();
    services::a_cache_that_cannot_be_used_costs_a_warning(&cache, "Connection refused");
}

#[test]
fn services_that_never_answer_cost_a_warning_each() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, cache) = (silent.local_addr().unwrap(), shared());
    let arguments = format!(
        "--cache-from type=s3,bucket=cache,endpoint_url=http://{address} --cache-to type=reapi,endpoint=grpc://{address}"
    );
    let built = cache.build(&cache.machine(), &arguments);
    assert_eq!(
        built.stderr.matches("it did not answer within").count(),
        2,
        "{}",
        built.stderr
    );
}

#[test]
fn a_bucket_that_is_not_there_costs_a_warning() {
    let mut cache = shared();
    cache.fields = cache.fields.replace("bucket=cache", "bucket=nowhere");
    services::a_cache_that_cannot_be_used_costs_a_warning(&cache, "NoSuchBucket");
}

#[test]
fn a_service_that_is_killed_costs_warnings() {
    let service = Service::start("s3");
    services::a_service_that_is_killed_costs_warnings(&service, &cache(&service));
}

#[test]
fn keys_are_shown_nowhere() {
    const TELL: &str = "import sys, boto3
address, id, key, prefix = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=address, region_name='us-east-1', aws_access_key_id=id, aws_secret_access_key=key)
for found in s3.list_objects_v2(Bucket='cache', Prefix=prefix)['Contents']:
    print(found['Key'], s3.get_object(Bucket='cache', Key=found['Key'])['Body'].read())";
    const SECRET: &str = "word-that-nobody-may-see";
    let mut cache = shared();
    let [_, key] = keys(&Service::shared("s3"));
    // Right ones, by the environment.
    let machine = cache.machine();
    cache.build(&machine, &cache.to("max")).never_says(&key);
    services::assert_nowhere(&machine, &key);
    let told = python(TELL, &[&format!("{}/", cache.word)]);
    assert!(told.contains("keyVersion") && !told.contains(&key), "{told}");
    // Wrong ones, as options, and a token.
    cache.fields += &format!(",access_key_id={SECRET},secret_access_key={SECRET},session_token={SECRET}");
    services::a_cache_that_cannot_be_used_costs_a_warning(&cache, "403 Forbidden").never_says(SECRET);
    let machine = cache.machine();
    cache
        .build(&machine, &format!("--explain {} {}", cache.to("max"), cache.from()))
        .never_says(SECRET);
    for command in ["explain", "history ls", "history inspect", "history logs"] {
        machine.builder(command).run().never_says(SECRET);
    }
    services::assert_nowhere(&machine, SECRET);
    // What is wrong with an argument is told without repeating it.
    for wrong in [",mode", ",bogus=1", ",mode=most", ",\"x"] {
        let arguments = format!("build --cache-to {}{wrong} .", cache.fields);
        machine.builder(&arguments).run().exits(2).never_says(SECRET);
    }
}
