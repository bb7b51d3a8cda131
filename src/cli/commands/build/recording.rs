//! What a build's record says of it, and where a failed build's messages point.

use super::{Arguments, Asked};
use crate::cli::{explanation, output};
use crate::executor::TAIL;
use crate::graph::without_secrets;
use crate::history::{self, Finish, Recorder, Subject};
use crate::oci::Reference;
use crate::pipeline::{self, BuildError, ExplainError};
use crate::solver::SolveError;
use crate::store::Store;

/// What is built, as the user named it, but for passwords.
pub(super) fn subject(arguments: &Arguments, asked: &Asked) -> Subject {
    let dockerfile = match (&arguments.file, &asked.dockerfile) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(found)) => found.name.clone(),
        (None, None) => super::dockerfile::NAMES[0].to_owned(),
    };
    Subject {
        context: without_secrets(&arguments.context.to_string_lossy()),
        dockerfile: without_secrets(&dockerfile),
        target: arguments.target.clone(),
        names: arguments.tags.iter().map(Reference::familiar).collect(),
    }
}

pub(super) fn finish_of(error: &BuildError) -> Finish {
    match error {
        BuildError::Solve(SolveError::Cancelled) => Finish::Canceled,
        error => Finish::Failed(error.to_string()),
    }
}

/// Says why the steps of the build that just ended ran. What cannot be explained does not change how it ended.
pub(super) fn explain(recorder: &Recorder<'_>, store: &Store) {
    let Some(id) = recorder.build() else {
        return explanation::say(&[]);
    };
    let build = history::find(store, Some(id.as_str())).map_err(ExplainError::from);
    match build.and_then(|build| pipeline::explain(store, &build, None)) {
        Ok(explanations) => explanation::say(&explanations),
        Err(error) => output::remark(format_args!("the steps that ran cannot be explained: {error}")),
    }
}

/// Where all of the failed step's output is, when its error shows the end of it only.
pub(super) fn where_the_rest_is(recorder: &Recorder<'_>) -> Option<String> {
    let failed = recorder.failed_step()?;
    (failed.lines > TAIL as u64).then(|| {
        format!(
            "`builder history logs {} {}` prints all that the step wrote",
            failed.build, failed.number
        )
    })
}
