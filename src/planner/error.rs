//! What can be wrong with a Dockerfile that is well-formed.

use std::fmt;

use crate::oci::{DigestError, PlatformError, ReferenceError};
use crate::parser::{CheckError, Diagnostic, ExpandError, MountError, Span};

use super::address::AddressError;
use super::images::{ImageName, ResolveError};
use super::report::Warning;

/// All that is wrong; at least one thing.
#[derive(Debug)]
pub struct PlanErrors {
    errors: Vec<PlanError>,
    warnings: Vec<Warning>,
}

impl PlanErrors {
    /// `None` where there is no error.
    pub(super) fn new(errors: Vec<PlanError>, warnings: Vec<Warning>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self { errors, warnings })
    }

    /// The errors, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &PlanError> {
        self.errors.iter()
    }

    /// What is allowed but likely a mistake, as far as it was found.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

impl IntoIterator for PlanErrors {
    type Item = PlanError;
    type IntoIter = std::vec::IntoIter<PlanError>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.into_iter()
    }
}

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanErrors {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.errors.first().and_then(std::error::Error::source)
    }
}

/// One problem and where it stands.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct PlanError {
    /// What is wrong.
    #[source]
    pub problem: Problem,
    /// Where in the Dockerfile; `None` for what comes from the command line.
    pub span: Option<Span>,
}

impl PlanError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        self.problem.hint()
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is for another frontend than the Dockerfile's.
    #[error("{asker} asks for the frontend `{frontend}`, and builder has none but that of docker/dockerfile")]
    ForeignFrontend {
        /// The file, or the build argument.
        asker: &'static str,
        /// The frontend.
        frontend: String,
        /// A name of the Dockerfile's frontend that is like it.
        similar: Option<String>,
    },
    /// `--target` names no stage.
    #[error("there is no stage `{name}` to build")]
    UnknownTarget {
        /// The name that was asked for.
        name: String,
        /// A stage with a similar name.
        similar: Option<String>,
        /// The names that there are.
        known: Vec<String>,
    },
    /// `--from=<number>` counts past the last stage.
    #[error("there is no stage with the index {index}: the Dockerfile has {count}, counted from 0")]
    UnknownStageIndex {
        /// The number.
        index: String,
        /// How many stages there are.
        count: usize,
    },
    /// A stage is used before it is defined.
    #[error("stage `{name}` is used before it is defined")]
    StageNotYetDefined {
        /// The stage.
        name: String,
    },
    /// A stage copies from itself.
    #[error("stage `{name}` uses files of itself")]
    StageOfItself {
        /// The stage.
        name: String,
    },
    /// FROM, or `--platform`, is empty after its variables were replaced.
    #[error("{subject} is empty: `{text}` has no value here")]
    EmptyInFrom {
        /// `the base image` or `the platform`.
        subject: &'static str,
        /// What stands in the Dockerfile.
        text: String,
        /// A declared argument with a similar name.
        similar: Option<String>,
        /// Whether the argument itself is declared, and has no value.
        declared: bool,
    },
    /// A base image's name is not a reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Neither an image nor a stage: a name that looks like one of the stages.
    #[error("`{name}` is neither a stage nor the name of an image")]
    UnknownSource {
        /// The name.
        name: String,
        /// A stage with a similar name.
        similar: Option<String>,
        /// Why it is no image.
        #[source]
        source: ReferenceError,
    },
    /// A problem with the value of something that a variable is in which has none.
    #[error("{problem}")]
    UndefinedIn {
        /// The variable.
        name: String,
        /// A declared argument with a similar name.
        similar: Option<String>,
        /// What is wrong with the value.
        problem: Box<Problem>,
    },
    /// `--platform` is not a platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A base image could not be found or read.
    #[error("image `{}` cannot be used", name.familiar())]
    BaseImage {
        /// The image.
        name: Box<ImageName>,
        /// A stage with a similar name.
        similar: Option<String>,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// The image that looks for packages could not be found or read.
    #[error("the generator of SBOMs `{}` cannot be used", name.familiar())]
    Generator {
        /// The image.
        name: Box<ImageName>,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// The image that looks for packages starts nothing.
    #[error("the image `{image}` generates no SBOM: it has neither ENTRYPOINT nor CMD")]
    GeneratorCommand {
        /// The image.
        image: String,
    },
    /// What to copy from is empty after its variables were replaced.
    #[error("{place} is empty: `{text}` has no value here")]
    EmptySource {
        /// `--from`, for example.
        place: &'static str,
        /// What stands there.
        text: String,
        /// A variable with a similar name.
        similar: Option<String>,
    },
    /// Variables of a word cannot be replaced.
    #[error(transparent)]
    Expansion(#[from] ExpandError),
    /// ENV and ARG hold more than any process can be given.
    #[error("the variables of this stage take more than {limit} bytes")]
    EnvironmentTooLarge {
        /// Bytes at most.
        limit: usize,
    },
    /// The build is larger than any that is meant.
    #[error("the build has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many at most.
        limit: usize,
    },
    /// A heredoc that becomes a file, whose delimiter is no name of one.
    #[error("the heredoc's delimiter `{0}` names its file, and is no name of one")]
    HeredocName(String),
    /// ENV or LABEL with a name that no process can have in its environment, or no image among its labels.
    #[error("`{name}` is not a name that {instruction} can set")]
    Name {
        /// ENV or LABEL.
        instruction: &'static str,
        /// The name.
        name: String,
    },
    /// COPY of a URL or repository.
    #[error("COPY takes no {kind}: `{source_text}`")]
    RemoteCopy {
        /// `URL` or `git repository`.
        kind: &'static str,
        /// The source.
        source_text: String,
    },
    /// A URL or repository that cannot be had.
    #[error("cannot fetch it")]
    Remote {
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// An address of a repository that is malformed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// `--keep-git-dir`, or `--checksum`, against what the address says.
    #[error("{flag} is not what the address says")]
    Contradiction {
        /// The flag.
        flag: &'static str,
    },
    /// `--checksum` of a URL.
    #[error("`{text}` is not a checksum")]
    ChecksumForm {
        /// The text.
        text: String,
        /// What is wrong.
        #[source]
        source: DigestError,
    },
    /// `--checksum` for what is neither a URL nor a repository, or for several sources.
    #[error("--checksum is for one URL or git repository")]
    Checksum,
    /// `--chmod`.
    #[error("`{text}` is not a mode")]
    Mode {
        /// The text.
        text: String,
    },
    /// `--chown`, or USER.
    #[error("`{text}` is not a user, or a user and a group")]
    Owner {
        /// The text.
        text: String,
    },
    /// EXPOSE.
    #[error("`{text}` is not a port: {reason}")]
    Port {
        /// The text.
        text: String,
        /// Why.
        reason: &'static str,
    },
    /// STOPSIGNAL.
    #[error("`{text}` is not a signal")]
    Signal {
        /// The text.
        text: String,
    },
    /// VOLUME.
    #[error("a volume's path is empty")]
    EmptyVolume,
    /// `--mount`.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// `--mount` over the root.
    #[error("`{target}` cannot be the target of a mount: it is the root")]
    MountTarget {
        /// The target.
        target: String,
    },
    /// RUN `--network` or `--security` with an unknown value.
    #[error("`{value}` is not a value of {flag}: it takes {expected}")]
    FlagValue {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Something that the user must allow.
    #[error("{feature} is not allowed")]
    NotAllowed {
        /// What.
        feature: &'static str,
        /// How to allow it.
        allow: &'static str,
    },
    /// An ONBUILD trigger is not one instruction.
    #[error("the ONBUILD trigger `{trigger}` of the base cannot be used")]
    Trigger {
        /// The trigger.
        trigger: String,
        /// Why.
        #[source]
        source: Box<Diagnostic>,
    },
    /// SOURCE_DATE_EPOCH is not a number of seconds, nor a name.
    #[error("SOURCE_DATE_EPOCH is `{value}`, which is not a number of seconds since 1970, nor a context, nor a stage")]
    Epoch {
        /// The value.
        value: String,
    },
    /// SOURCE_DATE_EPOCH names what cannot be fetched.
    #[error("SOURCE_DATE_EPOCH is to be taken from `{name}`")]
    EpochSource {
        /// The context or stage.
        name: String,
        /// Why it cannot be fetched.
        #[source]
        source: ResolveError,
    },
    /// SOURCE_DATE_EPOCH names a stage that has no moment.
    #[error("the stage that SOURCE_DATE_EPOCH names {what}")]
    EpochStage {
        /// What is wrong, as the rest of a sentence.
        what: &'static str,
    },
    /// BUILDKIT_DOCKERFILE_CHECK.
    #[error(transparent)]
    CheckOptions(#[from] CheckError),
    /// Build checks are errors here, and some are violated.
    #[error("build checks are violated: {rules}")]
    Checks {
        /// The checks' names.
        rules: String,
    },
    /// What the builder cannot do yet.
    #[error("{feature} is not supported yet")]
    Unsupported {
        /// What.
        feature: String,
    },
}

impl Problem {
    /// The problem, standing at `span`.
    pub(super) fn at(self, span: Span) -> PlanError {
        PlanError {
            problem: self,
            span: Some(span),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let did_you_mean = |similar: &Option<String>| similar.as_ref().map(|name| format!("did you mean `{name}`?"));
        match self {
            Problem::ForeignFrontend { similar, .. } => did_you_mean(similar).or_else(|| {
                let hint = "if the file is in the language of Dockerfiles, say so with --build-arg BUILDKIT_SYNTAX=docker/dockerfile:1; \
                            a language of its own needs BuildKit, which runs its frontend";
                Some(hint.into())
            }),
            Problem::UnknownTarget { similar, known, .. } => did_you_mean(similar).or_else(|| stages_hint(known)),
            Problem::EmptyInFrom { declared: true, .. } => {
                Some("give it a default, `ARG NAME=value`, or a value with --build-arg".into())
            }
            Problem::EmptyInFrom { similar, .. } => did_you_mean(similar).or_else(|| {
                Some("declare it with ARG before the first FROM, with a default, or give it with --build-arg".into())
            }),
            // As in BuildKit, a name that is a stage's further down is an image's here.
            Problem::BaseImage {
                name,
                similar: Some(stage),
                ..
            } if matches!(&**name, ImageName::Reference(name) if name.familiar_name() == *stage) => {
                Some(format!("if the stage `{stage}` is meant, move its FROM above this one"))
            }
            Problem::UndefinedIn {
                name,
                similar: Some(similar),
                ..
            } => Some(format!("`${name}` has no value here: did you mean `${similar}`?")),
            Problem::UndefinedIn { name, .. } => Some(format!(
                "`${name}` has no value here: FROM sees only ARGs above the first FROM, and needs a default there or a --build-arg"
            )),
            Problem::UnknownSource { similar, .. } | Problem::BaseImage { similar, .. } => did_you_mean(similar),
            Problem::StageNotYetDefined { .. } => Some("move its FROM above this one".into()),
            Problem::EmptySource { similar, .. } => did_you_mean(similar).or_else(|| {
                Some("declare it above with ARG or ENV: what the base image sets does not count here".into())
            }),
            Problem::Mount(error) => error.hint(),
            Problem::Trigger { source, .. } => source.hint.clone(),
            Problem::RemoteCopy { .. } => Some("use ADD".into()),
            Problem::ChecksumForm { .. } => Some("write sha256: and 64 hexadecimal digits".into()),
            Problem::Mode { .. } => Some("give an octal number from 0 to 07777, or clauses such as u=rwX,go=rX".into()),
            Problem::NotAllowed { allow, .. } => Some(format!("allow it with {allow}")),
            _ => None,
        }
    }
}

fn stages_hint(known: &[String]) -> Option<String> {
    const SHOWN: usize = 10;
    if known.is_empty() {
        return Some("no stage has a name: give one with `FROM … AS name`, or leave out --target".into());
    }
    Some(format!("the stages are {}", known[..known.len().min(SHOWN)].join(", ")))
}

/// Puts a place to a problem.
pub(super) trait At<T> {
    /// The same result, the problem standing at `span`.
    fn at(self, span: Span) -> Result<T, PlanError>;
}

impl<T, P: Into<Problem>> At<T> for Result<T, P> {
    fn at(self, span: Span) -> Result<T, PlanError> {
        self.map_err(|problem| problem.into().at(span))
    }
}
