//! `builder login` and `builder logout`: credentials are tried before they are kept.

use std::path::PathBuf;

use clap::Args;

use crate::cancel::Cancel;
use crate::cli::command_line::hide;
use crate::cli::config::Config;
use crate::cli::failure::{Failure, Fault};
use crate::cli::registries::{Registries, RegistryArguments, login_file};
use crate::cli::{output, prompt};
use crate::oci::Reference;
use crate::registry::{Credential, CredentialError, CredentialFile, Kept, Presented, RegistryError, Secret};

const DOCKER_HUB: &str = "docker.io";

/// Log in to a registry. The credentials are tried first, and kept where docker and podman keep theirs: with the helper
/// that Docker's config.json names (`credsStore`, `credHelpers`), or in that file.
#[derive(Debug, Args)]
pub(in crate::cli) struct LoginArguments {
    /// The name at the registry.
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// The password or access token. Others may see it while the command starts: better --password-stdin.
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Show the name that is logged in, and do nothing else.
    #[arg(long, conflicts_with_all = ["username", "password", "password_stdin"])]
    get_login: bool,
    #[command(flatten)]
    registries: RegistryArguments,
    /// The registry, such as ghcr.io or localhost:5000, perhaps with a namespace: quay.io/team.
    #[arg(default_value = DOCKER_HUB)]
    server: String,
}

/// Log out of a registry: forget its credentials.
#[derive(Debug, Args)]
pub(in crate::cli) struct LogoutArguments {
    /// The file with the credentials.
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Forget those of all registries.
    #[arg(short, long, conflicts_with = "server")]
    all: bool,
    /// The registry; docker.io where none is named.
    server: Option<String>,
}

/// A registry, or a namespace there.
struct Server {
    /// As in references.
    registry: String,
    /// What its credentials are kept under: the registry, perhaps with a namespace.
    key: String,
    /// A repository that the credentials are for.
    repository: String,
}

impl Server {
    /// Reads a registry's name as docker and podman take it: Docker Hub has several, and URLs were common once.
    fn parse(text: &str) -> Result<Self, Failure> {
        let (had_scheme, rest) = match text.split_once("://") {
            Some(("http" | "https", rest)) => (true, rest),
            _ => (false, text),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
            host => host,
        };
        let path = path.trim_matches('/');
        let namespace = if had_scheme || matches!(path, "v1" | "v2") {
            ""
        } else {
            path
        };
        let repository = format!("{namespace}/x").trim_start_matches('/').to_owned();
        let named = format!("{host}/{repository}").parse::<Reference>();
        match named {
            Ok(reference) if reference.registry() == host && reference.digest().is_none() => Ok(Self {
                registry: host.to_owned(),
                key: format!("{host}/{namespace}").trim_end_matches('/').to_owned(),
                repository,
            }),
            _ => Err(Failure::usage(format!("`{}` is not a registry's name", ascii(text)))
                .hint("expected a host with a dot or a port, or localhost: ghcr.io, registry.example:5000")),
        }
    }
}

fn ascii(text: &str) -> String {
    // Somebody may have taken the password's place for the registry's.
    text.chars().filter(char::is_ascii_graphic).take(60).collect()
}

pub(super) fn login(arguments: &LoginArguments) -> Result<(), Failure> {
    if let Some(password) = &arguments.password {
        hide(password);
    }
    let server = Server::parse(&arguments.server)?;
    let registries = Registries::new(&Config::load()?, &arguments.registries)?;
    let existing = || registries.credentials().find(&server.registry, &server.repository);
    if arguments.get_login {
        return match existing().map_err(|error| unkept(&error))? {
            Some(known) => output::line(username_of(&known)),
            None => Err(Failure::new(Fault::Build, format!("not logged in to {}", server.key))),
        };
    }
    let is_bare = arguments.username.is_none() && arguments.password.is_none();
    // What cannot be read is as good as nothing: it is about to be replaced.
    let known = existing().ok().flatten().filter(|_| is_bare);
    let mut suggested = None;
    if let Some(known) = known {
        let name = username_of(&known).to_owned();
        match try_out(&registries, &server, known) {
            Ok(_) => return output::line(format_args!("Already logged in to {} as {name}", server.key)),
            Err(RegistryError::Unauthorized { .. }) => {
                output::remark(format_args!("the credentials for {} are no longer good", server.key));
                suggested = Some(name);
            }
            Err(error) => return Err(refused(&error)),
        }
    }
    let credential = gather(arguments, suggested)?;
    let identity = try_out(&registries, &server, credential.clone()).map_err(|error| refused(&error))?;
    let kept_instead = identity.map(Credential::IdentityToken);
    let file = match &arguments.registries.authfile {
        Some(file) => file.clone(),
        None => login_file()?,
    };
    let kept = CredentialFile::new(file).store(&server.key, kept_instead.as_ref().unwrap_or(&credential));
    if let Kept::InFile(path) = kept.map_err(|error| unkept(&error))? {
        output::remark(format_args!(
            "warning: the credentials are stored unencrypted in {}; a credential helper (`credsStore` there) keeps them safer",
            path.display()
        ));
    }
    output::line("Login Succeeded")
}

/// Shows `credential` to the registry; what it gives to be shown from now on.
fn try_out(registries: &Registries, server: &Server, credential: Credential) -> Result<Option<Secret>, RegistryError> {
    // An interrupt ends the program at once: nothing is half done.
    let cancel = Cancel::new().map_err(RegistryError::Setup)?;
    let client = registries.client_of(&server.registry, credential, &cancel);
    let login = client.login(&server.registry)?;
    if login.presented == Presented::Nothing {
        output::remark(format_args!(
            "warning: {} did not ask for credentials; they are kept untried",
            server.registry
        ));
    }
    Ok(login.identity)
}

/// Name and password, from the command line, standard input, or a person.
fn gather(arguments: &LoginArguments, suggested: Option<String>) -> Result<Credential, Failure> {
    let need_terminal = |what: &str| {
        Failure::usage(format!("no {what} was given, and there is no terminal to ask for it"))
            .hint("--username NAME --password-stdin reads the password from standard input")
    };
    let asked = |what| {
        if prompt::is_possible() {
            Ok(())
        } else {
            Err(need_terminal(what))
        }
    };
    let username = match (&arguments.username, &arguments.password) {
        (Some(name), _) => name.clone(),
        (None, _) => {
            asked("name")?;
            let shown = suggested.as_ref().map_or(String::new(), |name| format!(" ({name})"));
            let answer = prompt::ask(&format!("Username{shown}: "))?;
            if answer.is_empty() {
                suggested.unwrap_or_default()
            } else {
                answer
            }
        }
    };
    let password = match &arguments.password {
        Some(password) => {
            output::remark(
                "warning: others may see a password on a command line; --password-stdin reads it from standard input",
            );
            password.clone()
        }
        None if arguments.password_stdin => prompt::secret_from_input()?,
        None => {
            asked("password")?;
            prompt::ask_for_secret("Password: ")?
        }
    };
    if username.is_empty() || password.is_empty() {
        let what = if username.is_empty() { "name" } else { "password" };
        return Err(Failure::usage(format!("the {what} is empty")));
    }
    if username.contains(':') {
        return Err(Failure::usage("a name at a registry cannot have a colon"));
    }
    Ok(Credential::Password {
        username,
        password: Secret::new(password),
    })
}

fn username_of(credential: &Credential) -> &str {
    match credential {
        Credential::Password { username, .. } => username,
        Credential::IdentityToken(_) | Credential::AccessToken(_) => "<token>",
    }
}

fn refused(error: &RegistryError) -> Failure {
    match error {
        RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => Failure::of(Fault::Build, error)
            .hint("check the name and the password; many registries want an access token instead of the password"),
        RegistryError::NotFound { .. } => {
            Failure::of(Fault::Build, error).hint("that server is no registry; check the name")
        }
        error => Failure::of(Fault::Environment, error).hinted(error.hint()),
    }
}

fn unkept(error: &CredentialError) -> Failure {
    Failure::of(Fault::Environment, error).hinted(error.hint())
}

pub(super) fn logout(arguments: &LogoutArguments) -> Result<(), Failure> {
    let path = match &arguments.authfile {
        Some(file) => file.clone(),
        None => login_file()?,
    };
    let file = CredentialFile::new(path);
    if arguments.all {
        for server in file.servers().map_err(|error| unkept(&error))? {
            forget(&file, &server)?;
        }
        return Ok(());
    }
    let server = Server::parse(arguments.server.as_deref().unwrap_or(DOCKER_HUB))?;
    forget(&file, &server.key)?;
    let flags = RegistryArguments {
        authfile: arguments.authfile.clone(),
        ..RegistryArguments::default()
    };
    let registries = Registries::new(&Config::load()?, &flags)?;
    let others = registries.credentials().find(&server.registry, &server.repository);
    if matches!(others, Ok(Some(_))) {
        let places: Vec<String> = registries
            .files()
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        output::remark(format_args!(
            "note: there are other credentials for {} in one of {}",
            server.key,
            places.join(", ")
        ));
    }
    Ok(())
}

fn forget(file: &CredentialFile, server: &str) -> Result<(), Failure> {
    match file.erase(server).map_err(|error| unkept(&error))? {
        true => output::line(format_args!("Removed login credentials for {server}")),
        false => output::line(format_args!("Not logged in to {server}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_as_people_name_them() {
        for (text, registry, key) in [
            ("docker.io", "docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io", "docker.io"),
            ("index.docker.io", "docker.io", "docker.io"),
            ("https://registry.example/", "registry.example", "registry.example"),
            (
                "https://registry.example/some/where",
                "registry.example",
                "registry.example",
            ),
            (
                "registry.example:5000",
                "registry.example:5000",
                "registry.example:5000",
            ),
            ("quay.io/team/part", "quay.io", "quay.io/team/part"),
            ("localhost", "localhost", "localhost"),
            ("[::1]:5000", "[::1]:5000", "[::1]:5000"),
            ("registry.example/v2/", "registry.example", "registry.example"),
        ] {
            let server = Server::parse(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(
                (server.registry.as_str(), server.key.as_str()),
                (registry, key),
                "{text}"
            );
        }
        for text in [
            "",
            "registry",
            "a b",
            "ftp://x.y",
            "x.y/UPPER",
            "../x",
            "x.y:port",
            "x.y/a@b",
        ] {
            assert!(Server::parse(text).is_err(), "{text}");
        }
    }
}
