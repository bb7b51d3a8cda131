//! The build checks: their names, what each asks for, and where it is described. What violates them is found elsewhere.

use std::fmt;

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

/// Where the rules are described, each on a page of its own.
const PAGES: &str = "https://docs.docker.com/go/dockerfile/rule/";

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 22] = [
        Rule::StageNameCasing,
        Rule::FromAsCasing,
        Rule::NoEmptyContinuation,
        Rule::ConsistentInstructionCasing,
        Rule::DuplicateStageName,
        Rule::ReservedStageName,
        Rule::JsonArgsRecommended,
        Rule::MaintainerDeprecated,
        Rule::UndefinedArgInFrom,
        Rule::WorkdirRelativePath,
        Rule::UndefinedVar,
        Rule::MultipleInstructionsDisallowed,
        Rule::LegacyKeyValueFormat,
        Rule::InvalidBaseImagePlatform,
        Rule::RedundantTargetPlatform,
        Rule::SecretsUsedInArgOrEnv,
        Rule::InvalidDefaultArgInFrom,
        Rule::FromPlatformFlagConstDisallowed,
        Rule::CopyIgnoredFile,
        Rule::InvalidDefinitionDescription,
        Rule::ExposeProtoCasing,
        Rule::ExposeInvalidFormat,
    ];

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

    /// The page that describes the rule; `None` for the one that has none.
    pub fn url(self) -> Option<String> {
        let page = match self {
            Rule::InvalidBaseImagePlatform => return None,
            Rule::StageNameCasing => "stage-name-casing",
            Rule::FromAsCasing => "from-as-casing",
            Rule::NoEmptyContinuation => "no-empty-continuation",
            Rule::ConsistentInstructionCasing => "consistent-instruction-casing",
            Rule::DuplicateStageName => "duplicate-stage-name",
            Rule::ReservedStageName => "reserved-stage-name",
            Rule::JsonArgsRecommended => "json-args-recommended",
            Rule::MaintainerDeprecated => "maintainer-deprecated",
            Rule::UndefinedArgInFrom => "undefined-arg-in-from",
            Rule::WorkdirRelativePath => "workdir-relative-path",
            Rule::UndefinedVar => "undefined-var",
            Rule::MultipleInstructionsDisallowed => "multiple-instructions-disallowed",
            Rule::LegacyKeyValueFormat => "legacy-key-value-format",
            Rule::RedundantTargetPlatform => "redundant-target-platform",
            Rule::SecretsUsedInArgOrEnv => "secrets-used-in-arg-or-env",
            Rule::InvalidDefaultArgInFrom => "invalid-default-arg-in-from",
            Rule::FromPlatformFlagConstDisallowed => "from-platform-flag-const-disallowed",
            Rule::CopyIgnoredFile => "copy-ignored-file",
            Rule::InvalidDefinitionDescription => "invalid-definition-description",
            Rule::ExposeProtoCasing => "expose-proto-casing",
            Rule::ExposeInvalidFormat => "expose-invalid-format",
        };
        Some(format!("{PAGES}{page}/"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_called_as_its_rule() {
        for rule in Rule::ALL {
            let Some(url) = rule.url() else { continue };
            let page = url.strip_prefix(PAGES).and_then(|page| page.strip_suffix('/')).unwrap();
            assert_eq!(page.replace('-', ""), rule.name().to_lowercase());
        }
    }
}
