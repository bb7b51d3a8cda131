//! `builder explain`.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::history::build_and_step;
use crate::cli::explanation;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::pipeline::{self, ExplainError};

/// Say why steps ran: what is otherwise than in the nearest result that was known.
///
/// A build that found everything in the cache leaves no record: what is explained is the latest one that ran something.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The build: an id or the beginning of one (4 digits at least), `^1` for the one before the latest. By default the
    /// latest. `BUILD/STEP` names both.
    #[arg(value_name = "BUILD")]
    build: Option<String>,
    /// The step: its number, or a part of its name. By default all that ran. Alone it is one of the latest build's.
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// How it is told.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let store = &session.store;
    let (build, step) = build_and_step(store, arguments.build.as_deref(), arguments.step.as_deref())?;
    let number = step.map(|step| step.number.to_string());
    let explanations = pipeline::explain(store, &build, number.as_deref())?;
    match arguments.format {
        Format::Json => output::line(format_args!("{:#}", json!(explanations))),
        Format::Text => {
            let now = time::OffsetDateTime::now_utc().unix_timestamp();
            let lines = explanations
                .iter()
                .flat_map(|explanation| explanation::lines(explanation, now));
            lines.into_iter().try_for_each(output::line)
        }
    }
}

impl From<ExplainError> for Failure {
    fn from(error: ExplainError) -> Self {
        match error {
            ExplainError::History(error) => error.into(),
            ExplainError::Store(error) => error.into(),
        }
    }
}
