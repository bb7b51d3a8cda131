//! How registries are reached, and with whose credentials: the configuration, the environment, and podman's flags.
//!
//! Owns the names of the variables and of the places where docker, podman and buildah keep credentials and certificates.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::command_line::hide;
use super::config::Config;
use super::failure::Failure;
use crate::cancel::Cancel;
use crate::oci::Reference;
use crate::registry::{Client, Credential, Credentials, Patience, Proxies, RegistryConfig, Secret, Security};

/// The `[proxies]` table, with the keys of Docker's daemon.json.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct ProxyConfig {
    /// For plain HTTP.
    pub http_proxy: Option<String>,
    /// For HTTPS.
    pub https_proxy: Option<String>,
    /// What goes straight.
    pub no_proxy: Option<String>,
}

/// Where help lists these flags: what is flattened after them keeps its own heading.
const HEADING: &str = "Registry options";

/// Flags of commands that speak with registries.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct RegistryArguments {
    /// The file with the credentials, instead of all others [env: REGISTRY_AUTH_FILE names one that is read first].
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub authfile: Option<PathBuf>,
    /// A directory with certificates for the registries that are asked: *.crt is trusted, *.cert with *.key is shown.
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    pub cert_dir: Option<PathBuf>,
    /// With `false`, registries need neither a certificate nor TLS.
    #[arg(long, help_heading = HEADING, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tls_verify: Option<bool>,
}

/// Credentials on the command line.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct CredentialArguments {
    /// Name and password for the registry, instead of those that `builder login` keeps. Others may see them while the
    /// command starts.
    #[arg(long, value_name = "USER[:PASSWORD]", help_heading = HEADING)]
    creds: Option<GivenCredential>,
}

/// `USER[:PASSWORD]`.
#[derive(Clone, Debug)]
struct GivenCredential {
    username: String,
    password: Secret,
}

impl std::str::FromStr for GivenCredential {
    // What is wrong with it is said later: an error of parsing shows the whole value.
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (username, password) = text.split_once(':').unwrap_or((text, ""));
        hide(password);
        Ok(Self {
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
        })
    }
}

/// All that a client of registries is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Registries {
    config: RegistryConfig,
    files: Vec<PathBuf>,
    text: Option<Secret>,
    given: Option<(String, Credential)>,
}

impl Registries {
    /// What `config`, the environment and `arguments` say.
    pub fn new(config: &Config, arguments: &RegistryArguments) -> Result<Self, Failure> {
        let mut registries = Self {
            config: config.registry.clone(),
            files: credential_files(),
            text: variable("DOCKER_AUTH_CONFIG").map(Secret::new),
            given: None,
        };
        registries.config.proxies = proxies(&config.proxies)?;
        registries.config.certificates = certificate_directories();
        registries.adopt(arguments)?;
        Ok(registries)
    }

    /// The same, with what `arguments` say besides: credentials, of which a file is named, are there.
    pub fn reach(&mut self, arguments: &RegistryArguments) -> Result<(), Failure> {
        if let Some(file) = arguments.authfile.as_ref().filter(|file| !file.exists()) {
            let message = format!("--authfile: there is no file {}", file.display());
            return Err(Failure::usage(message).hint("`builder login --authfile` makes one"));
        }
        self.adopt(arguments)
    }

    fn adopt(&mut self, arguments: &RegistryArguments) -> Result<(), Failure> {
        if let Some(file) = &arguments.authfile {
            (self.files, self.text) = (vec![file.clone()], None);
        }
        if let Some(directory) = &arguments.cert_dir {
            if !directory.is_dir() {
                let message = format!("--cert-dir: {} is not a directory", directory.display());
                return Err(Failure::usage(message));
            }
            self.config.own_certificates = Some(directory.clone());
        }
        match arguments.tls_verify {
            Some(false) => self.config.security = Security::Waived,
            Some(true) => self.config.security = Security::Required,
            None => {}
        }
        Ok(())
    }

    /// The same, and nothing is asked of the registries of `images` but that they answer; of others as before.
    pub fn insecure(&self, images: &[Reference]) -> Self {
        let mut waived = self.clone();
        for image in images {
            waived.config.waive(image.registry());
        }
        waived
    }

    /// Has the credentials of the command line for the one registry of `images`.
    pub fn present(&mut self, arguments: &CredentialArguments, images: &[&Reference]) -> Result<(), Failure> {
        let (Some(given), Some(first)) = (&arguments.creds, images.first()) else {
            return Ok(());
        };
        if images.iter().any(|image| image.registry() != first.registry()) {
            return Err(
                Failure::usage("--creds is for one registry, and the images are of several")
                    .hint("`builder login` keeps credentials for each"),
            );
        }
        if given.username.is_empty() {
            return Err(Failure::usage("--creds: expected USER:PASSWORD, and the user is empty"));
        }
        let credential = Credential::Password {
            username: given.username.clone(),
            password: given.password.clone(),
        };
        self.given = Some((first.registry().to_owned(), credential));
        Ok(())
    }

    /// The credentials that there are.
    pub fn credentials(&self) -> Credentials {
        let mut credentials = Credentials::in_files(self.files.clone());
        if let Some(text) = &self.text {
            credentials = credentials.with_text("DOCKER_AUTH_CONFIG", text.clone());
        }
        if let Some((name, credential)) = &self.given {
            credentials = credentials.with_given(name, credential.clone());
        }
        credentials
    }

    /// The files that are looked in, in this order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A client. It does nothing until it is asked something; setting `cancel` stops it.
    pub fn client(&self, cancel: &Cancel) -> Client {
        Client::new(self.config.clone(), self.credentials(), cancel.clone())
    }

    /// The same with other time-outs and retries.
    pub fn client_with(&self, cancel: &Cancel, patience: Patience) -> Client {
        Client::with_patience(self.config.clone(), self.credentials(), cancel.clone(), patience)
    }

    /// A client that has `credential` for the registry `name`, and nothing else.
    pub fn client_of(&self, name: &str, credential: Credential, cancel: &Cancel) -> Client {
        let credentials = Credentials::default().with_given(name, credential);
        Client::new(self.config.clone(), credentials, cancel.clone())
    }
}

/// Where `builder login` keeps credentials: in podman's file where `REGISTRY_AUTH_FILE` names one, else in Docker's.
pub(super) fn login_file() -> Result<PathBuf, Failure> {
    let named = path_variable("REGISTRY_AUTH_FILE").or_else(docker_file);
    named.ok_or_else(|| Failure::usage("neither --authfile, DOCKER_CONFIG nor HOME says where credentials are kept"))
}

fn docker_file() -> Option<PathBuf> {
    let directory = path_variable("DOCKER_CONFIG").or_else(|| home(".docker"));
    Some(directory?.join("config.json"))
}

/// Where docker, podman and buildah keep credentials, in the order in which they are asked.
fn credential_files() -> Vec<PathBuf> {
    let podman = path_variable("XDG_RUNTIME_DIR").map(|run| run.join("containers/auth.json"));
    // Root's, who has no such directory.
    let root = rustix::process::getuid()
        .is_root()
        .then(|| "/run/containers/0/auth.json".into());
    let personal = home(".config/containers/auth.json");
    let files = [
        path_variable("REGISTRY_AUTH_FILE"),
        docker_file(),
        podman.or(root),
        personal,
    ];
    files.into_iter().flatten().collect()
}

/// Where docker and podman keep certificates, the person's own first.
fn certificate_directories() -> Vec<PathBuf> {
    let own = [home(".config/containers/certs.d"), home(".config/docker/certs.d")];
    let all = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(|path| Some(Path::new(path).to_owned()));
    own.into_iter().chain(all).flatten().collect()
}

/// What curl, docker and podman read, and what the configuration says where they are silent.
fn proxies(config: &ProxyConfig) -> Result<Proxies, Failure> {
    let either = |upper: &str| variable(upper).or_else(|| variable(&upper.to_ascii_lowercase()));
    let all = either("ALL_PROXY");
    let or_all = |own: Option<String>, configured: &Option<String>| own.or(all.clone()).or(configured.clone());
    let http = or_all(either("HTTP_PROXY"), &config.http_proxy);
    let https = or_all(either("HTTPS_PROXY"), &config.https_proxy);
    let exceptions = either("NO_PROXY").or(config.no_proxy.clone()).unwrap_or_default();
    Proxies::new(http.as_deref(), https.as_deref(), &exceptions).map_err(|error| {
        Failure::usage(error.to_string())
            .hint("HTTP_PROXY, HTTPS_PROXY and ALL_PROXY name proxies, and so does `[proxies]` in the configuration")
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn path_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn home(rest: &str) -> Option<PathBuf> {
    Some(path_variable("HOME")?.join(rest))
}
