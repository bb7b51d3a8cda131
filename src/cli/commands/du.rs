//! `builder du`.

use clap::Args;

use crate::cli::disk::{FilterArguments, HEADER, facts, row, sums, value};
use crate::cli::failure::Failure;
use crate::cli::format::table;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::cli::template;
use crate::disk::{entries, totals};

/// Show what takes space in the store: layers, cache mounts, compressed layers, and what the builder keeps for itself.
///
/// Sizes are those on disk. What a named image needs too is marked with a star and counts as shared, as do files that
/// several records have; each counts once. Reclaimable is what `builder prune --all` would remove.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    filters: FilterArguments,
    /// Print all that is known of each record.
    #[arg(long, conflicts_with = "format")]
    verbose: bool,
    /// Print `json`, or a template such as `{{.ID}} {{.Size}}`, for each record.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let wanted = arguments.filters.wanted()?;
    let session = Session::open(global)?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let mut entries = entries(&session.store)?;
    entries.retain(|entry| {
        let unused_for = now.saturating_sub(entry.last());
        wanted.unused_for.is_none_or(|least| unused_for >= least)
            && wanted.filters.iter().all(|filter| filter.matches(entry))
    });
    if let Some(format) = &arguments.format {
        for entry in &entries {
            let value = value(entry, now);
            match format.as_str() {
                "json" => output::line(value)?,
                format => output::line(template::fill(format, &value)?)?,
            }
        }
        return Ok(());
    }
    // The latest first.
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.last()));
    if arguments.verbose {
        entries.iter().try_for_each(|entry| output::text(facts(entry, now)))?;
    } else {
        let rows: Vec<_> = entries.iter().map(|entry| row(entry, now)).collect();
        output::text(table(&HEADER, &rows))?;
    }
    output::text(sums(totals(&entries)))
}
