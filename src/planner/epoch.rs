//! `SOURCE_DATE_EPOCH` by name: the moment of the main context, of a named one, or of what a stage fetches.
//!
//! A commit has the time at which it was made, a file behind a URL the one that its server says, an archive that of its
//! newest file. What has none (a directory, an image) takes the moment away.

use crate::graph::{Remote, Source};
use crate::parser::{Dockerfile, InstructionKind, Span, Stage, Transfer, TransferSource, Word};

use super::error::{At, PlanError, Problem};
use super::expand;
use super::globals::{EPOCH, Globals};
use super::images::ImageResolver;
use super::lower::remote_source;
use super::options::{MainContext, NamedContext, PlanOptions};
use super::report::Report;

/// The name of the main context.
const MAIN_CONTEXT: &str = "context";

/// Finds the moment that `SOURCE_DATE_EPOCH` names, where it is not a number.
pub(super) fn settle(
    globals: &mut Globals,
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    resolver: &dyn ImageResolver,
    report: &mut Report,
) {
    let Some((name, span)) = globals.epoch_name.take() else {
        return;
    };
    let found = match source(&name, span, globals, dockerfile, options, report.escape) {
        Ok(Place::Known(source)) => resolver.moment(&source),
        Ok(Place::Remote(remote)) => {
            let answer = resolver.resolve_sources(&[remote]).into_iter().next();
            let source = answer.unwrap_or_else(|| Err("nobody answered".into()));
            source.and_then(|source| resolver.moment(&source))
        }
        Ok(Place::Nowhere) => Ok(None),
        Err(error) => {
            report.error(error);
            return;
        }
    };
    match found {
        Ok(seconds) => globals.set_epoch(seconds),
        Err(source) => report.error(PlanError {
            problem: Problem::EpochSource { name, source },
            span,
        }),
    }
}

/// Where a moment comes from.
enum Place {
    Known(Source),
    Remote(Remote),
    Nowhere,
}

fn source(
    name: &str,
    span: Option<Span>,
    globals: &Globals,
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    escape: char,
) -> Result<Place, PlanError> {
    if name == MAIN_CONTEXT {
        return Ok(match &options.main_context {
            MainContext::Source(source) => Place::Known((**source).clone()),
            MainContext::Directory | MainContext::Empty => Place::Nowhere,
        });
    }
    if let Some(context) = options.named_contexts.get(&name.to_ascii_lowercase()) {
        return Ok(match context {
            NamedContext::Remote(remote) => Place::Remote(remote.clone()),
            NamedContext::Image(_) | NamedContext::Scratch | NamedContext::Directory => Place::Nowhere,
        });
    }
    let is_called = |stage: &&Stage| {
        let own = stage.name.as_ref();
        own.is_some_and(|own| own.value.eq_ignore_ascii_case(name))
    };
    match dockerfile.stages.iter().find(is_called) {
        Some(stage) => fetched_by(stage, globals, escape).map(Place::Remote),
        None => Err(PlanError {
            problem: Problem::Epoch { value: name.to_owned() },
            span,
        }),
    }
}

/// What a stage fetches that does nothing else: `FROM scratch`, ARG, and one ADD of one thing that lies elsewhere.
fn fetched_by(stage: &Stage, globals: &Globals, escape: char) -> Result<Remote, PlanError> {
    let wrong = |what| Problem::EpochStage { what };
    let mut scope = globals.scope.clone();
    scope.set(EPOCH, "").at(stage.span)?;
    if expand::word(&stage.image, escape, &scope)?.value != "scratch" {
        return Err(wrong("does not begin with FROM scratch").at(stage.image.span));
    }
    let mut found = None;
    for instruction in &stage.instructions {
        let span = instruction.span;
        match &instruction.kind {
            InstructionKind::Arg(definitions) => {
                for definition in definitions {
                    let name = &definition.name.raw;
                    let value = match (globals.build_args.get(name), &definition.default) {
                        (Some(given), _) => given.clone(),
                        (None, Some(default)) => expand::word(default, escape, &scope)?.value,
                        (None, None) => continue,
                    };
                    scope.set(name, &value).at(span)?;
                }
            }
            InstructionKind::Add(transfer) if found.is_none() => {
                let checksum = match &transfer.checksum {
                    Some(word) => expand::word(word, escape, &scope)?.value,
                    None => String::new(),
                };
                let remote = match only_source(transfer) {
                    Some(word) => remote_source(&expand::word(word, escape, &scope)?.value, transfer, &checksum),
                    None => Ok(None),
                };
                let remote = remote.at(span)?;
                found = Some(remote.ok_or_else(|| wrong("adds something other than one URL or repository").at(span))?);
            }
            InstructionKind::Add(_) => return Err(wrong("has more than one ADD").at(span)),
            _ => return Err(wrong("does more than to fetch one thing: it may have ARG and one ADD").at(span)),
        }
    }
    found.ok_or_else(|| wrong("adds nothing").at(stage.span))
}

fn only_source(transfer: &Transfer) -> Option<&Word> {
    match transfer.sources.as_slice() {
        [TransferSource::Path(word)] => Some(word),
        _ => None,
    }
}
