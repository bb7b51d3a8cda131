//! Where contexts come from: a directory, standard input, a git repository, a URL; and what `--build-context` names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Arguments;
use super::dockerfile::{self, DockerfileText};
use super::options::EPOCH;
use crate::cli::failure::{Failure, Fault, fault_of_source};
use crate::graph::{GitDir, GitTimes, Remote};
use crate::lockfile;
use crate::parser::MAX_DOCKERFILE_BYTES;
use crate::pipeline::{ContextAddress, FetchError, FetchedContext, Workshop, fetch_context};
use crate::planner::{
    BareForm, ImageName, MainContext, NamedContext, PlanOptions, file_address, git_address, is_url, layout_address,
};
use crate::snapshot::{Limits, compressed};
use crate::source::SourceError;
use crate::store::Store;

/// The argument that keeps `.git` of a context.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Variables that `git` and its helpers work with: where programs lie, proxies, the user's agent.
const VARIABLES: [&str; 10] = [
    "PATH",
    "SSH_AUTH_SOCK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// Those of them that are set.
pub(super) fn variables() -> Vec<(OsString, OsString)> {
    let set = |name: &str| std::env::var_os(name).map(|value| (OsString::from(name), value));
    VARIABLES.iter().filter_map(|name| set(name)).collect()
}

/// The main context's kind.
enum Place {
    Directory,
    StandardInput,
    Elsewhere(ContextAddress),
}

fn place(context: &Path) -> Result<Place, Failure> {
    let Some(text) = context.to_str() else {
        return Ok(Place::Directory);
    };
    if text == "-" {
        return Ok(Place::StandardInput);
    }
    // A directory of that name comes first, as in docker.
    if context.is_dir() {
        return Ok(Place::Directory);
    }
    let git = git_address(text, BareForm::Repository);
    if let Some(git) = git.map_err(|error| Failure::usage(error.to_string()))? {
        return Ok(Place::Elsewhere(ContextAddress::Git(git)));
    }
    Ok(match is_url(text) {
        true => Place::Elsewhere(ContextAddress::Url(text.to_owned())),
        false => Place::Directory,
    })
}

/// The main context, where it is a directory, as the first of all directories.
pub(super) fn main_directory(arguments: &Arguments) -> BTreeMap<String, PathBuf> {
    match place(&arguments.context) {
        Ok(Place::StandardInput | Place::Elsewhere(_)) => BTreeMap::new(),
        Ok(Place::Directory) | Err(_) => BTreeMap::from([(MAIN.to_owned(), arguments.context.clone())]),
    }
}

/// The main context's name.
pub(super) const MAIN: &str = "context";

/// Whether the main context is a git repository that is fetched.
pub(super) fn is_repository(arguments: &Arguments) -> Result<bool, Failure> {
    Ok(matches!(
        place(&arguments.context)?,
        Place::Elsewhere(ContextAddress::Git(_))
    ))
}

/// Whether the main context is a directory of the user's.
pub(super) fn is_directory(arguments: &Arguments) -> Result<bool, Failure> {
    Ok(matches!(place(&arguments.context)?, Place::Directory))
}

/// What `--build-context` names; directories are added to `directories`.
pub(super) fn named(
    values: &BTreeMap<String, String>,
    directories: &mut BTreeMap<String, PathBuf>,
) -> Result<BTreeMap<String, NamedContext>, Failure> {
    let mut named = BTreeMap::new();
    for (name, value) in values {
        let name = name.to_ascii_lowercase();
        let wrong = |what: String| Failure::usage(format!("--build-context {name}: {what}"));
        let git = git_address(value, BareForm::Path).map_err(|error| wrong(error.to_string()))?;
        let layout = layout_address(value).map_err(|error| wrong(error.to_string()))?;
        let context = match (git, layout, value.split_once("://")) {
            (Some(git), ..) => NamedContext::Remote(Remote::Git(git)),
            (None, Some(layout), _) => NamedContext::Image(ImageName::Layout(layout)),
            (None, None, Some(("docker-image", "scratch"))) => NamedContext::Scratch,
            (None, None, Some(("docker-image", reference))) => {
                let reference = reference.parse().map_err(|error| wrong(format!("{error}")))?;
                NamedContext::Image(ImageName::Reference(reference))
            }
            (None, None, Some(("http" | "https", _))) => {
                // As BuildKit has it: the file as it is, under this name.
                let mut file = file_address(value, None);
                file.name = "context".to_owned();
                NamedContext::Remote(Remote::Http(file))
            }
            (None, None, Some((scheme, _))) => {
                let hint = "use a directory, docker-image://, oci-layout://, http://, https://, or the address of a \
                            git repository";
                return Err(wrong(format!("there are no contexts of the kind {scheme}://")).hint(hint));
            }
            (None, None, None) => {
                directories.insert(name.clone(), PathBuf::from(value));
                NamedContext::Directory
            }
        };
        named.insert(name, context);
    }
    Ok(named)
}

/// Fetches a main context that is no directory, tells the plan of it, and finds the Dockerfile.
pub(super) fn fetch(
    arguments: &Arguments,
    plan: &mut PlanOptions,
    workshop: Workshop<'_>,
) -> Result<DockerfileText, Failure> {
    let address = match place(&arguments.context)? {
        Place::Directory => return dockerfile::read(arguments),
        Place::StandardInput => match read_standard_input(arguments, workshop.store)? {
            Input::Archive(address) => address,
            Input::Dockerfile(text) => {
                plan.main_context = MainContext::Empty;
                return Ok(text);
            }
        },
        Place::Elsewhere(mut address) => {
            if let ContextAddress::Git(git) = &mut address {
                if plan.build_args.get(KEEP_GIT_DIR).is_some_and(|value| is_true(value)) {
                    git.git_dir = Some(GitDir::Kept);
                }
                if plan.build_args.get(EPOCH).is_some_and(|value| !value.is_empty()) {
                    git.times = GitTimes::Commit;
                }
            }
            address
        }
    };
    let context = fetch_context(&address, workshop, &variables())?;
    let text = find_dockerfile(arguments, &context)?;
    plan.main_context = MainContext::Source(Box::new(context.source));
    Ok(text)
}

/// Go's `strconv.ParseBool`.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

enum Input {
    Archive(ContextAddress),
    Dockerfile(DockerfileText),
}

/// An archive, or else a Dockerfile.
fn read_standard_input(arguments: &Arguments, store: &Store) -> Result<Input, Failure> {
    if dockerfile::is_on_standard_input(arguments) {
        let message = "both the context and the Dockerfile are to come from standard input";
        return Err(Failure::usage(message).hint("give one of them as a path"));
    }
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read standard input: {error}"));
    let mut blob = store.blob_writer()?;
    let limit = Limits::default().bytes;
    let read = std::io::copy(&mut std::io::stdin().lock().take(limit + 1), &mut blob).map_err(unreadable)?;
    if read > limit {
        return Err(Failure::new(
            Fault::Build,
            format!("standard input has more than {limit} bytes"),
        ));
    }
    let staged = blob.stage(None)?;
    if compressed::detect(&mut staged.open()?).map_err(unreadable)?.is_some() {
        staged.publish()?;
        return Ok(Input::Archive(ContextAddress::Archive(staged.digest())));
    }
    if arguments.file.is_some() {
        let message = "standard input holds a Dockerfile, and -f names another";
        return Err(Failure::usage(message).hint("give a tar on standard input, or leave out -f"));
    }
    let what = "the Dockerfile on standard input";
    Ok(Input::Dockerfile(DockerfileText {
        name: "-".into(),
        path: None,
        lock: None,
        bytes: dockerfile::read_bounded(staged.open()?, what)?,
    }))
}

/// The Dockerfile of a context that was fetched; with an absolute path behind `-f` the user's own.
fn find_dockerfile(arguments: &Arguments, context: &FetchedContext) -> Result<DockerfileText, Failure> {
    let file = arguments.file.as_deref();
    if dockerfile::is_on_standard_input(arguments) || file.is_some_and(Path::is_absolute) {
        let mut text = dockerfile::read(arguments)?;
        // No ignore file applies to what was fetched.
        text.path = None;
        text.lock = None;
        return Ok(text);
    }
    let names: Vec<String> = match (context.only_file(), file) {
        (Some(name), _) => vec![name.to_owned()],
        (None, None) => dockerfile::NAMES.map(str::to_owned).into(),
        (None, Some(file)) => {
            let own = file
                .to_str()
                .ok_or_else(|| Failure::usage(format!("the Dockerfile's name {} is not UTF-8", file.display())))?;
            let lower = file.file_name().is_some_and(|name| name == "Dockerfile");
            let lower = lower.then(|| file.with_file_name("dockerfile").display().to_string());
            [own.to_owned()].into_iter().chain(lower).collect()
        }
    };
    for name in &names {
        if let Some(bytes) = context.read(name)? {
            return Ok(DockerfileText {
                name: name.clone(),
                path: None,
                lock: lock_beside(name, context)?,
                bytes,
            });
        }
    }
    let message = format!("there is no {} in the build context", names[0]);
    Err(Failure::usage(message).hint("name the Dockerfile with -f, seen from the context's root"))
}

/// The lock file beside a Dockerfile of a context that was fetched.
fn lock_beside(dockerfile: &str, context: &FetchedContext) -> Result<Option<Vec<u8>>, FetchError> {
    let path = Path::new(dockerfile).with_file_name(lockfile::NAME);
    match (context.only_file(), path.to_str()) {
        (None, Some(path)) => context.read(path),
        _ => Ok(None),
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Source {
                source: SourceError::Cancelled,
                ..
            } => Failure::new(Fault::Build, "the build was cancelled"),
            FetchError::Source { ref source, .. } => {
                let (fault, hint) = (fault_of_source(source), source.hint());
                Failure::of(fault, &error).hinted(hint)
            }
            FetchError::Admission(ref error) => Failure::of(Fault::Build, error).hinted(error.hint()),
            FetchError::Snapshot(error) => error.into(),
            FetchError::Store(error) => error.into(),
            FetchError::Read(_) | FetchError::Name(_) => Failure::of(Fault::Build, &error).hint(format!(
                "a Dockerfile is a regular file of at most {MAX_DOCKERFILE_BYTES} bytes"
            )),
        }
    }
}
