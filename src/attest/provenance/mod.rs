//! SLSA provenance: from what, and how, an image was built.
//!
//! SLSA 1.1, "Build: Provenance"; the parameters are those of BuildKit's build type ("SLSA definitions"), whose readers
//! understand them. Users and passwords of URLs are taken out of every text, whatever it is.

mod steps;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::purl::image_purl;
use crate::graph::{Graph, ImageSource, MountKind, NetworkMode, Source, VertexId, without_secrets};
use crate::oci::attestation::{PROVENANCE_1, PROVENANCE_02};
use crate::oci::{Descriptor, Digest, Platform, Timestamp};

use steps::Steps;

/// What the parameters mean: BuildKit's description of them.
const BUILD_TYPE_1: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// What the image was built from, and when. No build arguments, nothing of the Dockerfile.
    #[default]
    Min,
    /// Arguments, labels, names of secrets, the Dockerfile and each step too.
    Max,
}

/// Which form of provenance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ProvenanceVersion {
    /// SLSA 1.
    #[default]
    V1,
    /// SLSA 0.2.
    V02,
}

impl ProvenanceVersion {
    /// The predicate's type.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::V1 => PROVENANCE_1,
            Self::V02 => PROVENANCE_02,
        }
    }
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProvenanceOptions {
    /// How much is told.
    pub mode: Mode,
    /// In which form.
    pub version: ProvenanceVersion,
    /// Who builds, a URI; empty where nobody says so.
    pub builder_id: String,
    /// Whether the result is said to be reproducible: then nothing is told that differs from build to build.
    pub reproducible: bool,
}

/// Where the Dockerfile was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigSource {
    /// The address of a context that was fetched.
    pub uri: Option<String>,
    /// What was found there: the algorithm, and the digest in hexadecimal digits.
    pub digest: Option<(&'static str, String)>,
    /// The Dockerfile's path.
    pub path: Option<String>,
}

/// A file that steps come from.
#[derive(Clone, Copy, Debug)]
pub struct SourceFile<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its content.
    pub content: &'a [u8],
}

/// What is known of a build.
pub struct BuildFacts<'a> {
    /// The operations.
    pub graph: &'a Graph,
    /// The vertex whose result is the image's file system; `None` for one without layers.
    pub result: Option<VertexId>,
    /// Where the Dockerfile was.
    pub config: ConfigSource,
    /// What the user asked for, in the words of BuildKit's frontend: `build-arg:NAME`, `label:NAME`, `target`…
    pub args: BTreeMap<String, String>,
    /// The Dockerfile.
    pub dockerfile: SourceFile<'a>,
    /// The vertex of a generator of SBOMs: its image came from outside, too.
    pub generated: Option<VertexId>,
    /// The image's layers, uncompressed, lowest first.
    pub layers: Vec<Descriptor>,
    /// The revision that a context directory is of: `source`, `revision`.
    pub vcs: BTreeMap<String, String>,
    /// The manifest by which a base image was found; `None` where it has none.
    pub manifest_of: &'a dyn Fn(&ImageSource) -> Option<Digest>,
    /// A text that no other build has.
    pub invocation: String,
    /// When it began and ended.
    pub times: (Timestamp, Timestamp),
    /// `SOURCE_DATE_EPOCH`: the time that is told, and nothing that differs from build to build.
    pub epoch: Option<i64>,
}

/// The predicate. The same facts and options give the same bytes.
pub fn provenance(facts: &BuildFacts<'_>, options: &ProvenanceOptions) -> Vec<u8> {
    let steps = Steps::of(facts);
    let mut predicate = match options.version {
        ProvenanceVersion::V1 => version_1(facts, options, &steps),
        ProvenanceVersion::V02 => version_02(facts, options, &steps),
    };
    redact(&mut predicate);
    predicate.to_string().into_bytes()
}

fn version_1(facts: &BuildFacts<'_>, options: &ProvenanceOptions, steps: &Steps<'_>) -> Value {
    let mut internal = json!({ "builderPlatform": host() });
    if options.mode == Mode::Max {
        internal["buildConfig"] = steps.definition();
    }
    let complete = Completeness::of(options, steps);
    let mut metadata = times(facts, options, ["startedOn", "finishedOn", "invocationId"]);
    metadata.insert("buildkit_metadata".into(), extras(facts, options, steps));
    metadata.insert(
        "buildkit_completeness".into(),
        json!({ "request": complete.request, "resolvedDependencies": complete.dependencies }),
    );
    insert_if(&mut metadata, "buildkit_hermetic", complete.hermetic);
    insert_if(&mut metadata, "buildkit_reproducible", options.reproducible);
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE_1,
            "externalParameters": {
                "configSource": config_source(&facts.config, "path"),
                "request": request(facts, options, steps),
            },
            "internalParameters": internal,
            "resolvedDependencies": dependencies(facts, steps),
        },
        "runDetails": {
            "builder": { "id": options.builder_id, "version": { "builder": env!("CARGO_PKG_VERSION") } },
            "metadata": metadata,
        },
    })
}

fn version_02(facts: &BuildFacts<'_>, options: &ProvenanceOptions, steps: &Steps<'_>) -> Value {
    let complete = Completeness::of(options, steps);
    let mut metadata = times(
        facts,
        options,
        ["buildStartedOn", "buildFinishedOn", "buildInvocationID"],
    );
    metadata.insert(
        "https://mobyproject.org/buildkit@v1#metadata".into(),
        extras(facts, options, steps),
    );
    metadata.insert("reproducible".into(), options.reproducible.into());
    metadata.insert(
        "completeness".into(),
        json!({ "parameters": complete.request, "environment": true, "materials": complete.dependencies }),
    );
    insert_if(
        &mut metadata,
        "https://mobyproject.org/buildkit@v1#hermetic",
        complete.hermetic,
    );
    let mut predicate = json!({
        "builder": { "id": options.builder_id },
        "buildType": BUILD_TYPE_02,
        "invocation": {
            "configSource": config_source(&facts.config, "entryPoint"),
            "parameters": request(facts, options, steps),
            "environment": { "platform": host() },
        },
        "materials": dependencies(facts, steps),
        "metadata": metadata,
    });
    if options.mode == Mode::Max {
        predicate["buildConfig"] = steps.definition();
    }
    predicate
}

/// What the builder runs on.
fn host() -> String {
    Platform::host().normalized().to_string()
}

fn insert_if(map: &mut Map<String, Value>, key: &str, holds: bool) {
    if holds {
        map.insert(key.into(), true.into());
    }
}

/// When it was built, and as which build: only where that may differ from build to build.
fn times(facts: &BuildFacts<'_>, options: &ProvenanceOptions, names: [&str; 3]) -> Map<String, Value> {
    let [started, finished, invocation] = names.map(str::to_owned);
    match facts.epoch {
        Some(epoch) => {
            let moment = json!(Timestamp::from_unix(epoch));
            Map::from_iter([(started, moment.clone()), (finished, moment)])
        }
        None if options.reproducible => Map::new(),
        None => Map::from_iter([
            (started, json!(facts.times.0)),
            (finished, json!(facts.times.1)),
            (invocation, json!(facts.invocation)),
        ]),
    }
}

fn config_source(config: &ConfigSource, path: &str) -> Value {
    let mut source = Map::new();
    if let Some(uri) = &config.uri {
        source.insert("uri".into(), json!(uri));
    }
    if let Some((algorithm, digest)) = &config.digest {
        source.insert("digest".into(), json!({ *algorithm: digest }));
    }
    if let Some(own) = &config.path {
        source.insert(path.into(), json!(own));
    }
    Value::Object(source)
}

/// What the user asked for.
fn request(facts: &BuildFacts<'_>, options: &ProvenanceOptions, steps: &Steps<'_>) -> Value {
    let mut locals: Vec<Value> = steps.locals().map(|name| json!({ "name": name })).collect();
    if facts.config.uri.is_none() {
        locals.push(json!({ "name": "dockerfile" }));
    }
    let mut request = json!({ "frontend": "dockerfile.v0", "locals": locals });
    if options.mode == Mode::Min {
        return request;
    }
    if !facts.args.is_empty() {
        request["args"] = json!(facts.args);
    }
    let (mut secrets, mut agents) = (BTreeMap::new(), BTreeMap::new());
    for mount in steps.execs().flat_map(|exec| &exec.mounts) {
        // Whether it is required is said of an id once: any step may.
        let (all, id, required) = match &mount.kind {
            MountKind::Secret(secret) => (&mut secrets, &secret.id, secret.required),
            MountKind::Ssh(agent) => (&mut agents, &agent.id, agent.required),
            _ => continue,
        };
        *all.entry(id.as_str()).or_insert(false) |= required;
    }
    for (name, all) in [("secrets", secrets), ("ssh", agents)] {
        let listed = all.into_iter().map(|(id, required)| match required {
            true => json!({ "id": id }),
            false => json!({ "id": id, "optional": true }),
        });
        let listed: Vec<Value> = listed.collect();
        if !listed.is_empty() {
            request[name] = Value::Array(listed);
        }
    }
    request
}

/// What came from outside, by its content.
fn dependencies(facts: &BuildFacts<'_>, steps: &Steps<'_>) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for source in steps.sources().chain(steps.sources_besides()) {
        let dependency = match source {
            Source::Local(_) => continue,
            Source::Image(image) => image_dependency(image, (facts.manifest_of)(image)),
            Source::Http(file) => json!({ "uri": file.url, "digest": { "sha256": file.digest.hex() } }),
            Source::Git(commit) => {
                let algorithm = if commit.commit.len() == 64 { "sha256" } else { "sha1" };
                json!({ "uri": commit.remote, "digest": { algorithm: commit.commit } })
            }
            Source::Archive(archive) => {
                let digest = json!({ "sha256": archive.digest.hex() });
                match &facts.config.uri {
                    Some(uri) => json!({ "uri": uri, "digest": digest }),
                    None => json!({ "name": "context", "digest": digest }),
                }
            }
        };
        if !found.contains(&dependency) {
            found.push(dependency);
        }
    }
    found
}

/// An image that has no manifest, since it was built here, is known by its configuration.
fn image_dependency(image: &ImageSource, manifest: Option<Digest>) -> Value {
    let uri = image_purl(&image.reference, &image.platform);
    match manifest {
        Some(manifest) => json!({ "uri": uri, "digest": { "sha256": manifest.hex() } }),
        None => json!({
            "uri": uri, "digest": { "sha256": image.config.hex() }, "mediaType": crate::oci::media_type::CONFIG,
        }),
    }
}

/// What can be said of the provenance itself.
struct Completeness {
    /// All that the user asked for is told.
    request: bool,
    /// All that came from outside is told.
    dependencies: bool,
    /// No step could reach a network.
    hermetic: bool,
}

impl Completeness {
    fn of(options: &ProvenanceOptions, steps: &Steps<'_>) -> Self {
        // A directory of the user's is not known by any digest that others could look up.
        let dependencies = steps.locals().next().is_none();
        let offline = steps.execs().all(|exec| exec.network == NetworkMode::None);
        Self {
            request: options.mode == Mode::Max,
            dependencies,
            hermetic: dependencies && offline,
        }
    }
}

/// BuildKit's additions.
fn extras(facts: &BuildFacts<'_>, options: &ProvenanceOptions, steps: &Steps<'_>) -> Value {
    let mut extras = Map::new();
    if !facts.vcs.is_empty() {
        extras.insert("vcs".into(), json!(facts.vcs));
    }
    if options.mode == Mode::Max {
        let content = match std::str::from_utf8(facts.dockerfile.content) {
            Ok(text) => STANDARD.encode(without_secrets(text)),
            Err(_) => STANDARD.encode(facts.dockerfile.content),
        };
        let file = json!({ "filename": facts.dockerfile.name, "language": "Dockerfile", "data": content });
        extras.insert(
            "source".into(),
            json!({ "infos": [file], "locations": steps.locations() }),
        );
        if let Some(step) = steps.result().filter(|_| !facts.layers.is_empty()) {
            extras.insert("layers".into(), json!({ format!("{step}:0"): [facts.layers] }));
        }
    }
    Value::Object(extras)
}

/// Takes users and passwords out of every URL, wherever it stands.
fn redact(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("://") => *text = without_secrets(text),
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Object(fields) => fields.values_mut().for_each(redact),
        _ => {}
    }
}
