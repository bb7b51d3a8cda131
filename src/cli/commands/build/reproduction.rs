//! `--reproducible` and `--verify`: the same image each time, and the proof of it.

use clap::Args;

use super::Arguments;
use super::options::EPOCH;
use crate::cli::changes::line_of;
use crate::cli::failure::{Failure, Fault};
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::report::counted;
use crate::oci::ImageConfig;
use crate::pipeline::{Built, DivergentFile, DivergentStep, Verification};

/// Files of a step that are shown.
const MOST_FILES: usize = 20;

#[derive(Debug, Args)]
pub(super) struct ReproductionArguments {
    /// Make the same image from the same sources, wherever and whenever: sets SOURCE_DATE_EPOCH, where it is not set, to the
    /// time of the commit that is built, and to 0 where the context is no git repository's address.
    #[arg(long)]
    pub(super) reproducible: bool,
    /// Build twice without the cache, and end with 1 where the images differ: which step, which file, which bytes. An image
    /// that was built alike twice gets its names, and is written and pushed where that is asked for.
    #[arg(long)]
    pub(super) verify: bool,
}

/// Says in what two builds differ, where they do.
pub(super) fn judge(
    arguments: &Arguments,
    dockerfile: &str,
    first: &Built,
    verification: &Verification,
) -> Result<(), Failure> {
    let again = &verification.again;
    if verification.holds(first) {
        output::remark(format_args!("verified: two builds gave {}", first.id));
        return Ok(());
    }
    for step in &verification.steps {
        show_step(dockerfile, step);
    }
    for (platform, left, right) in &verification.configurations {
        for (field, before, after) in differing_fields(left, right) {
            output::remark(format_args!("configuration for {platform}: {field} {before} → {after}"));
        }
    }
    let message = format!(
        "two builds gave different images, {} and {}: {} left something else",
        first.id.short(),
        again.id.short(),
        counted(verification.steps.len(), "step")
    );
    let failure = Failure::new(Fault::Build, message);
    let sets_times = first.images.iter().all(|image| image.epoch.is_some());
    Err(if !sets_times && verification.differs_in_times_alone() {
        failure.hint(format!(
            "only times differ: with --reproducible, or {EPOCH} set, they are the same each time"
        ))
    } else if !sets_times {
        failure.hint("with --reproducible times are the same each time, and only what else differs is shown")
    } else if arguments.no_cache_filter.is_empty() {
        failure.hint("the first of these steps is where to begin: those that build on it differ because of it")
    } else {
        failure
    })
}

fn show_step(dockerfile: &str, step: &DivergentStep) {
    let place = step
        .lines
        .map_or_else(String::new, |(line, _)| format!("{dockerfile}:{line}: "));
    let name = printable(step.name.as_bytes(), false);
    output::remark(format_args!("{place}{name}"));
    for file in step.files.iter().take(MOST_FILES) {
        show_file(file);
    }
    if let Some(more) = step.files.len().checked_sub(MOST_FILES).filter(|more| *more > 0) {
        output::remark(format_args!("  and {} more", counted(more, "file")));
    }
}

fn show_file(file: &DivergentFile) {
    output::remark(format_args!("  {}", line_of(&file.difference)));
    if let Some(place) = &file.place {
        output::remark(format_args!(
            "      from byte {}: \"{}\" → \"{}\"",
            place.offset,
            place.left.escape_ascii(),
            place.right.escape_ascii()
        ));
    }
}

/// The fields of two configurations that differ, but for the layers, of which the steps tell.
fn differing_fields(left: &ImageConfig, right: &ImageConfig) -> Vec<(String, String, String)> {
    let (left, right) = (serde_json::json!(left), serde_json::json!(right));
    let fields = left.as_object().into_iter().flatten();
    let own = fields.filter(|(name, _)| !["rootfs", "history"].contains(&name.as_str()));
    own.filter(|(name, value)| right.get(name) != Some(value))
        .map(|(name, value)| {
            let other = right.get(name).map_or_else(|| "(none)".to_owned(), ToString::to_string);
            (name.clone(), value.to_string(), other)
        })
        .collect()
}
