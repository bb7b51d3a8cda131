//! Which container engine images are given to: `DOCKER_HOST`, `CONTAINER_HOST`, docker's contexts, the usual sockets.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::failure::{Failure, Fault};
use crate::cancel::Cancel;
use crate::oci::Digest;
use crate::registry::{Engine, EngineAddress, EngineCertificates, EngineError};

/// Docker's own context, which is no context.
const DEFAULT_CONTEXT: &str = "default";
/// A configuration file that is read has no more, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// An engine that was looked for.
pub(super) enum Found {
    /// It answers.
    Running(Box<Engine>),
    /// Nobody named one, and none of the usual ones is there.
    None,
}

/// The engine that `context` names, or the environment, or docker's configuration, or the first of the usual ones that is
/// there.
///
/// # Errors
/// An address that cannot be used; one that was named and does not answer.
pub(super) fn find(context: Option<&str>, cancel: &Cancel) -> Result<Found, Failure> {
    if let Some(address) = named(context)? {
        return Ok(Found::Running(Box::new(Engine::connect(address, cancel)?)));
    }
    for socket in usual_sockets().into_iter().filter(|socket| socket.exists()) {
        match Engine::connect(EngineAddress::Socket(socket), cancel) {
            Ok(engine) => return Ok(Found::Running(Box::new(engine))),
            // A socket that somebody left behind.
            Err(EngineError::Unreachable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Found::None)
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let hint = match &error {
            EngineError::Unreachable { .. } | EngineError::Silent { .. } => {
                Some("is it running, and may you use it? DOCKER_HOST and CONTAINER_HOST say where it is")
            }
            EngineError::Refused { .. } | EngineError::Setup(_) => None,
        };
        Failure::of(Fault::Environment, &error).hinted(hint)
    }
}

/// The engine that somebody named.
fn named(context: Option<&str>) -> Result<Option<EngineAddress>, Failure> {
    if let Some(context) = context {
        return of_context(context);
    }
    for name in ["DOCKER_HOST", "CONTAINER_HOST"] {
        if let Some(text) = variable(name) {
            return parse(&text, certificates()).map(Some).map_err(|failure| {
                let message = format!("{name}: {}", failure.message());
                failure.again(message)
            });
        }
    }
    match variable("DOCKER_CONTEXT").or_else(current_context) {
        Some(context) => of_context(&context),
        None => Ok(None),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The certificates that docker's variables ask for.
fn certificates() -> Option<EngineCertificates> {
    variable("DOCKER_TLS_VERIFY")?;
    let directory = variable("DOCKER_CERT_PATH")
        .map(PathBuf::from)
        .or_else(docker_directory)?;
    Some(in_directory(&directory))
}

fn in_directory(directory: &Path) -> EngineCertificates {
    EngineCertificates {
        authority: directory.join("ca.pem"),
        certificate: directory.join("cert.pem"),
        key: directory.join("key.pem"),
    }
}

/// `unix:///path`, `tcp://host:port`, `http://…`, `https://…`.
fn parse(text: &str, certificates: Option<EngineCertificates>) -> Result<EngineAddress, Failure> {
    let unusable = |reason: &str| Failure::usage(format!("`{text}` {reason}"));
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| unusable("is not the address of a container engine: write unix:///path or tcp://host:port"))?;
    match (scheme, certificates) {
        ("unix", _) if rest.starts_with('/') => Ok(EngineAddress::Socket(rest.into())),
        ("unix", _) => Err(unusable("has no absolute path")),
        (_, _) if rest.is_empty() => Err(unusable("has no host")),
        ("tcp" | "https", Some(files)) => Ok(EngineAddress::Https(format!("https://{rest}"), files)),
        ("tcp" | "http", _) => Ok(EngineAddress::Http(format!("http://{rest}"))),
        ("https", None) => Err(unusable(
            "needs certificates: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH",
        )),
        ("ssh", _) => Err(unusable(
            "goes by way of ssh, which is not done here: pipe `builder save IMAGE` into `ssh HOST docker load`, or forward the socket",
        )),
        _ => Err(unusable("is not unix://, tcp://, http:// or https://")),
    }
}

fn docker_directory() -> Option<PathBuf> {
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".docker"));
    variable("DOCKER_CONFIG").map(PathBuf::from).or_else(home)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(LARGEST_FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What `docker context use` chose.
fn current_context() -> Option<String> {
    #[derive(Deserialize)]
    struct Configuration {
        #[serde(rename = "currentContext")]
        current: Option<String>,
    }
    let bytes = read(&docker_directory()?.join("config.json"))?;
    let configuration: Configuration = serde_json::from_slice(&bytes).ok()?;
    configuration.current.filter(|name| !name.is_empty())
}

/// The engine of one of docker's contexts, which lie in directories that are named by their names' digests.
fn of_context(name: &str) -> Result<Option<EngineAddress>, Failure> {
    if name == DEFAULT_CONTEXT {
        return Ok(None);
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(rename = "Endpoints")]
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Endpoint,
    }
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(rename = "Host")]
        host: String,
    }
    let unknown = || {
        Failure::usage(format!("there is no docker context `{name}`"))
            .hint("`docker context ls` lists them; `default` is the usual socket")
    };
    let digest = Digest::of(name.as_bytes()).hex().to_string();
    let contexts = docker_directory().ok_or_else(unknown)?.join("contexts");
    let bytes = read(&contexts.join("meta").join(&digest).join("meta.json")).ok_or_else(unknown)?;
    let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|_| unknown())?;
    let files = contexts.join("tls").join(&digest).join("docker");
    let files = files.is_dir().then(|| in_directory(&files));
    parse(&metadata.endpoints.docker.host, files).map(Some)
}

/// Where engines listen that nobody moved.
fn usual_sockets() -> Vec<PathBuf> {
    let run = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = run
        .iter()
        .flat_map(|run| [run.join("docker.sock"), run.join("podman/podman.sock")]);
    ["/var/run/docker.sock".into()]
        .into_iter()
        .chain(own)
        .chain(["/run/podman/podman.sock".into()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_docker() {
        let parsed = |text: &str| parse(text, None).map(|address| address.to_string());
        assert_eq!(parsed("unix:///run/a.sock").unwrap(), "unix:///run/a.sock");
        assert_eq!(parsed("tcp://host:2375").unwrap(), "http://host:2375");
        for wrong in [
            "/run/a.sock",
            "unix://a",
            "ssh://host",
            "https://host:2376",
            "tcp://",
            "npipe:////./pipe/x",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        let files = in_directory(Path::new("/certificates"));
        let secure = parse("tcp://host:2376", Some(files)).unwrap();
        assert_eq!(secure.to_string(), "https://host:2376");
    }
}
