//! `builder ps` and `builder rm`.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::format::{age, table};
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::run;

/// List containers.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListArguments {
    /// Those that have ended, too.
    #[arg(short, long)]
    all: bool,
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
}

/// Remove containers that have ended.
#[derive(Debug, Args)]
pub(in crate::cli) struct RemoveArguments {
    /// The containers: names, ids, or beginnings of ids.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) fn list(arguments: &ListArguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let mut containers = run::list(&session.store)?;
    containers.retain(|container| arguments.all || container.is_running());
    if arguments.quiet {
        let mut ids = containers.iter().map(run::Container::short_id);
        return ids.try_for_each(output::line);
    }
    let row = |container: &run::Container| {
        vec![
            container.short_id(),
            container.image.clone(),
            container.command(),
            age(container.created, now),
            container.status(),
            container.name.clone(),
        ]
    };
    let header = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"];
    output::text(table(&header, &containers.iter().map(row).collect::<Vec<_>>()))?;
    Ok(())
}

pub(super) fn remove(arguments: &RemoveArguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    for container in &arguments.containers {
        run::remove(&session.store, container)?;
        output::line(container)?;
    }
    Ok(())
}
