//! The build checks that need to know what variables and images are. Those that need the text alone are the parser's.

use std::collections::BTreeSet;

use crate::oci::{Platform, Reference};
use crate::parser::{Dockerfile, Fix, InstructionKind, Rule, Span, Stage, Word, nearest};

use super::environment::Environment;
use super::expand::{self, Expanded};
use super::globals::{self, Globals};
use super::options::PlanOptions;
use super::report::{Report, Violation};
use super::stages::MOST_CANDIDATES;

/// Build arguments that have a meaning of their own, so that no ARG need declare them.
const SPECIAL_ARGUMENTS: [&str; 11] = [
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "BUILDKIT_SYNTAX",
    globals::EPOCH,
];
const PROXY_ARGUMENTS: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// `FROM $BASE` should name an image even when no build argument is given.
pub(super) fn default_base_names(dockerfile: &Dockerfile, options: &PlanOptions, report: &mut Report) {
    let Some(defaults) = globals::defaults(dockerfile, options, report.escape) else {
        return; // The same error ends the build elsewhere.
    };
    for stage in &dockerfile.stages {
        let Ok(base) = expand::word(&stage.image, report.escape, &defaults) else {
            return;
        };
        if base.value.parse::<Reference>().is_err() && !is_stage_name(dockerfile, &base.value) {
            let image = &stage.image.raw;
            let message = format!("Default value for ARG {image} results in empty or invalid base image name");
            report.violation(Violation::of_stage(stage, Rule::InvalidDefaultArgInFrom, message));
        }
    }
}

fn is_stage_name(dockerfile: &Dockerfile, name: &str) -> bool {
    let mut names = dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
    names.any(|stage| stage.value.eq_ignore_ascii_case(name))
}

/// `FROM --platform` should be neither what it would be anyway nor a constant.
pub(super) fn platform_of_from(
    stage: &Stage,
    word: &Word,
    expanded: &Expanded<String>,
    scope: &Environment,
    report: &mut Report,
) {
    const TARGET: &str = "TARGETPLATFORM";
    let value = expanded.value.as_str();
    let only_target = expanded.undefined.is_empty() && expanded.used.iter().eq([TARGET]);
    if only_target && scope.get(TARGET) == Some(value) {
        let message = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            word.raw
        );
        let violation = Violation::of_stage(stage, Rule::RedundantTargetPlatform, message);
        report.violation(violation.with_fix(without_platform(stage, word)));
    }
    let constant = expanded.undefined.is_empty() && expanded.used.is_empty();
    if let (true, Ok(platform)) = (constant, value.parse::<Platform>()) {
        let name = stage.name.as_ref().map_or("", |name| name.value.as_str());
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value {value:?}");
            report.violation(Violation::of_stage(
                stage,
                Rule::FromPlatformFlagConstDisallowed,
                message,
            ));
        }
    }
}

/// FROM without its `--platform`, where it is written plainly.
fn without_platform(stage: &Stage, word: &Word) -> Option<Fix> {
    const FLAG: &str = "--platform=";
    if stage.span.end - stage.span.start != stage.text.len() {
        return None; // It is continued: its text is not letter by letter that of the source.
    }
    let at = word.span.start.checked_sub(stage.span.start)?;
    stage.text.get(..at)?.strip_suffix(FLAG)?;
    let after = stage.text.get(word.span.end - stage.span.start..)?;
    let blanks = after.len() - after.trim_start().len();
    let span = Span {
        start: word.span.start - FLAG.len(),
        end: word.span.end + blanks,
    };
    (blanks > 0).then(|| Fix::replace(span, ""))
}

/// The base image should be of the platform that was asked for.
pub(super) fn base_platform(stage: &Stage, wanted: &Platform, found: &Platform, report: &mut Report) {
    if (&wanted.os, &wanted.architecture) != (&found.os, &found.architecture) {
        let image = &stage.image.raw;
        let (found, wanted) = (found.to_string(), wanted.to_string());
        let message =
            format!("Base image {image} was pulled with platform {found:?}, expected {wanted:?} for current build");
        report.violation(Violation::of_stage(stage, Rule::InvalidBaseImagePlatform, message));
    }
}

/// A build argument that no ARG declares has no effect, which is seldom what was meant.
pub(super) fn unused_build_args(
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    globals: &Globals,
    report: &mut Report,
) {
    let mut declared: BTreeSet<&str> = globals.declared.iter().map(String::as_str).collect();
    declared.extend(globals.automatic.iter().map(String::as_str));
    for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
        if let InstructionKind::Arg(definitions) = &instruction.kind {
            declared.extend(definitions.iter().map(|definition| definition.name.raw.as_str()));
        }
    }
    let is_unused = |name: &&String| {
        let special = SPECIAL_ARGUMENTS.contains(&name.as_str());
        let proxy = PROXY_ARGUMENTS.iter().any(|proxy| proxy.eq_ignore_ascii_case(name));
        !declared.contains(name.as_str()) && !special && !proxy
    };
    let mut unused = Vec::new();
    for name in options.build_args.keys().filter(is_unused) {
        let quoted = format!("`{name}`");
        match nearest(name, declared.iter().copied().take(MOST_CANDIDATES)) {
            Some(similar) => {
                let hint = format!("did you mean `{similar}`?");
                report.warn(not_consumed(&[quoted]), None, Some(hint));
            }
            None => unused.push(quoted),
        }
    }
    if !unused.is_empty() {
        report.warn(not_consumed(&unused), None, None);
    }
}

/// Docker's words for it.
fn not_consumed(names: &[String]) -> String {
    match names {
        [name] => format!("build-arg {name} was not consumed: no ARG declares it"),
        _ => format!(
            "build-args {} were not consumed: no ARG declares them",
            names.join(", ")
        ),
    }
}
