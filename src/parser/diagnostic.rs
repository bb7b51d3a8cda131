//! What is wrong with a Dockerfile, where, and what to do about it. Owns no rendering: the command line renders.

use std::borrow::Cow;
use std::fmt;

use super::ast::Span;

/// A build check, named as in BuildKit's linter.
///
/// Source: BuildKit `frontend/dockerfile/docs/rules`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[expect(missing_docs, reason = "each is described by `Rule::description`")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JsonArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// The name, as `# check=skip=` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Rule::StageNameCasing => "StageNameCasing",
            Rule::FromAsCasing => "FromAsCasing",
            Rule::NoEmptyContinuation => "NoEmptyContinuation",
            Rule::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Rule::DuplicateStageName => "DuplicateStageName",
            Rule::ReservedStageName => "ReservedStageName",
            Rule::JsonArgsRecommended => "JSONArgsRecommended",
            Rule::MaintainerDeprecated => "MaintainerDeprecated",
            Rule::UndefinedArgInFrom => "UndefinedArgInFrom",
            Rule::WorkdirRelativePath => "WorkdirRelativePath",
            Rule::UndefinedVar => "UndefinedVar",
            Rule::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Rule::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Rule::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Rule::RedundantTargetPlatform => "RedundantTargetPlatform",
            Rule::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Rule::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Rule::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Rule::CopyIgnoredFile => "CopyIgnoredFile",
            Rule::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Rule::ExposeProtoCasing => "ExposeProtoCasing",
            Rule::ExposeInvalidFormat => "ExposeInvalidFormat",
        }
    }

    /// What the rule asks for.
    pub fn description(self) -> &'static str {
        match self {
            Rule::StageNameCasing => "names of stages are lower-case",
            Rule::FromAsCasing => "AS is written in the case of its FROM",
            Rule::NoEmptyContinuation => "no empty line stands between continued lines",
            Rule::ConsistentInstructionCasing => "all instructions are written in one case",
            Rule::DuplicateStageName => "no two stages have one name",
            Rule::ReservedStageName => "no stage takes a reserved name",
            Rule::JsonArgsRecommended => "CMD and ENTRYPOINT are JSON arrays, so that signals reach the program",
            Rule::MaintainerDeprecated => "an author is given by a label, not by MAINTAINER",
            Rule::UndefinedArgInFrom => "FROM uses declared arguments",
            Rule::WorkdirRelativePath => "a relative WORKDIR follows an absolute one",
            Rule::UndefinedVar => "variables are defined before they are used",
            Rule::MultipleInstructionsDisallowed => "an instruction whose last occurrence wins occurs once in a stage",
            Rule::LegacyKeyValueFormat => "ENV and LABEL are written key=value",
            Rule::InvalidBaseImagePlatform => "the base image is of the platform that is built",
            Rule::RedundantTargetPlatform => "FROM does not name $TARGETPLATFORM, which is the default",
            Rule::SecretsUsedInArgOrEnv => "ARG and ENV hold no secrets",
            Rule::InvalidDefaultArgInFrom => "the defaults of global arguments make a valid image name",
            Rule::FromPlatformFlagConstDisallowed => "FROM --platform is not a constant",
            Rule::CopyIgnoredFile => "nothing is copied that .dockerignore excludes",
            Rule::InvalidDefinitionDescription => "a comment above a definition is its name and description",
            Rule::ExposeProtoCasing => "protocols in EXPOSE are lower-case",
            Rule::ExposeInvalidFormat => "EXPOSE names ports of the container alone",
        }
    }

    /// Whether the rule is off until `# check=experimental=` asks for it.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a diagnostic ends the build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// It does.
    Error,
    /// It is the violation of a build check, which ends the build only where `# check=error=true` says so.
    Warning(Rule),
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error without a hint.
    pub fn error(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            span,
            hint: None,
        }
    }

    /// The violation of a rule, without a hint.
    pub fn warning(rule: Rule, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning(rule),
            message: message.into(),
            span,
            hint: None,
        }
    }

    /// The same with a hint.
    pub fn with_hint(self, hint: impl Into<String>) -> Diagnostic {
        Diagnostic {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The rule that is violated; none for an error.
    pub fn rule(&self) -> Option<Rule> {
        match self.severity {
            Severity::Error => None,
            Severity::Warning(rule) => Some(rule),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rule) = self.rule() {
            write!(f, "{rule}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// The line of the source, from 1, in which a byte stands.
pub fn line_of(source: &[u8], offset: usize) -> usize {
    let before = &source[..offset.min(source.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The source as text with every byte in its place, so that spans fit: bytes that are not UTF-8 become `?`.
pub fn displayable(source: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(source) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(source.len());
    for chunk in source.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    Cow::Owned(text)
}
