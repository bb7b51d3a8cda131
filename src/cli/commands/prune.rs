//! `builder prune`.

use clap::Args;

use crate::cli::disk::{FilterArguments, HEADER, facts, row};
use crate::cli::failure::Failure;
use crate::cli::format::{bytes, table};
use crate::cli::interrupt::watch_signals;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::disk::{Choice, Entry, Limits, Space, prune};

/// Remove what can be made again: layers that no image needs, cache mounts, compressed layers, what is known of contexts.
///
/// What was used last longest ago goes first. Named images and what they need stay, and so does whatever a running build
/// or container uses; neither waits for this command.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Remove images without a name too, failed steps that were kept, and what servers said of files.
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    filters: FilterArguments,
    /// Keep this much in any case: a size such as `10GB`, or a part of the disk such as `10%`.
    #[arg(long, value_name = "SIZE", alias = "keep-storage")]
    reserved_space: Option<Space>,
    /// Remove only as much as is beyond this.
    #[arg(long, value_name = "SIZE")]
    max_used_space: Option<Space>,
    /// Remove only as much as it takes for this much of the disk to be free.
    #[arg(long, value_name = "SIZE")]
    min_free_space: Option<Space>,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
    /// Print all that is known of each record.
    #[arg(long)]
    verbose: bool,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let wanted = arguments.filters.wanted()?;
    let choice = Choice {
        all: arguments.all,
        filters: wanted.filters,
        unused_for: wanted.unused_for,
        limits: Limits {
            reserved: arguments.reserved_space,
            most_used: arguments.max_used_space,
            least_free: arguments.min_free_space,
        },
    };
    let session = Session::open(global)?;
    if !arguments.force {
        let what = match arguments.all {
            true => "all of the cache that nothing uses, images without a name, and failed steps",
            false => "all of the cache that nothing uses",
        };
        output::agree(format_args!("This removes {what}, as far as the options say."))?;
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let signals = watch_signals()?;
    session.store.use_reserve();
    let pruned = prune(&session.store, &choice, now, &signals.cancel)?;
    session.store.make_reserve();
    show(&pruned.entries, arguments.verbose, now)?;
    output::line(format_args!("{:<14}{}", "Total:", bytes(pruned.bytes)))
}

fn show(removed: &[Entry], verbose: bool, now: i64) -> Result<(), Failure> {
    match removed {
        [] => Ok(()),
        removed if verbose => removed.iter().try_for_each(|entry| output::text(facts(entry, now))),
        removed => {
            let rows: Vec<_> = removed.iter().map(|entry| row(entry, now)).collect();
            output::text(table(&HEADER, &rows))
        }
    }
}
