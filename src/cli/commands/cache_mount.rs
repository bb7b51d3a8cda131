//! `builder cache-mount`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::format::{age, bytes, table};
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::session::{GlobalOptions, Session};
use crate::cli::template;
use crate::store::{CacheMountRemoval, Store, StoredCacheMount, User};

/// Digits of a name that are shown, and that tell one at least.
const SHORT: usize = 12;
const SHORTEST: usize = 4;

/// Look at what `RUN --mount=type=cache` keeps, and remove it.
///
/// A cache mount is known by its id as the Dockerfile has it, which is the mount's target where it gives none; with the
/// build argument BUILDKIT_CACHE_MOUNT_NS it is that, a `/`, and the id. Mounts of one id for several owners, modes or
/// beginnings are several mounts, and so are the copies of a `private` one that were used at the same time: the name tells
/// them apart.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ListArguments),
    Inspect(InspectArguments),
    Rm(RemoveArguments),
}

/// List cache mounts, with what they take on disk and who uses them.
#[derive(Debug, Args)]
#[command(visible_alias = "list")]
struct ListArguments {
    /// Only those with this id (`id=…`). May be given several times: then those of all.
    #[arg(long = "filter", value_name = "FILTER", value_parser = filter)]
    ids: Vec<String>,
    /// Print names only.
    #[arg(short, long)]
    quiet: bool,
    /// Print `json`, or a template such as `{{.ID}} {{.Size}}`, for each mount.
    #[arg(long, value_name = "FORMAT", conflicts_with = "quiet")]
    format: Option<String>,
}

/// Show all that is known of cache mounts.
#[derive(Debug, Args)]
struct InspectArguments {
    /// The mounts: ids, names, or beginnings of names (4 digits at least).
    #[arg(required = true, value_name = "MOUNT")]
    mounts: Vec<String>,
    /// Print `json`, or a template such as `{{.UsedAt}}`, for each mount.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Remove cache mounts, with all that is in them.
///
/// One that a step uses, or waits for, is not removed, and the command ends with an error after the others are gone.
#[derive(Debug, Args)]
struct RemoveArguments {
    /// The mounts: ids, names, or beginnings of names (4 digits at least).
    #[arg(value_name = "MOUNT", required_unless_present = "all")]
    mounts: Vec<String>,
    /// All of them.
    #[arg(short, long, conflicts_with = "mounts")]
    all: bool,
    /// A mount that is not there is no error.
    #[arg(short, long)]
    force: bool,
}

/// The id that a filter asks for.
fn filter(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("id", id)) => Ok(id.to_owned()),
        _ => Err(format!("`{text}` is no filter that is known here: id=ID")),
    }
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let store = &session.store;
    match &arguments.command {
        Command::Ls(arguments) => list(arguments, store),
        Command::Inspect(arguments) => inspect(arguments, store),
        Command::Rm(arguments) => remove(arguments, store),
    }
}

fn list(arguments: &ListArguments, store: &Store) -> Result<(), Failure> {
    let mut mounts = store.cache_mounts()?;
    mounts.retain(|mount| arguments.ids.is_empty() || arguments.ids.iter().any(|id| Some(id.as_str()) == id_of(mount)));
    if arguments.quiet {
        return mounts.iter().try_for_each(|mount| output::line(mount.name));
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let mut rows = Vec::new();
    for mount in &mounts {
        let size = store.cache_mount_size(mount.name)?;
        match &arguments.format {
            Some(format) => formatted(format, &described(mount, size))?,
            None => rows.push(row(mount, size, now)),
        }
    }
    if arguments.format.is_some() {
        return Ok(());
    }
    let header = [
        "ID",
        "NAME",
        "OWNER",
        "SHARING",
        "SIZE",
        "CREATED",
        "LAST USED",
        "USERS",
    ];
    output::text(table(&header, &rows))
}

fn id_of(mount: &StoredCacheMount) -> Option<&str> {
    mount.identity.as_ref().map(|identity| identity.shown())
}

fn row(mount: &StoredCacheMount, size: u64, now: i64) -> Vec<String> {
    let owner = mount.identity.as_ref().map(|identity| match &identity.seed {
        None => format!("{}:{}", identity.uid, identity.gid),
        Some(_) => "as it began".to_owned(),
    });
    vec![
        printable(id_of(mount).unwrap_or("<unknown>").as_bytes(), false),
        short_name(mount),
        owner.unwrap_or_default(),
        mount.sharing.first().cloned().unwrap_or_default(),
        bytes(size),
        age(mount.created, now),
        age(mount.used, now),
        mount.users.len().to_string(),
    ]
}

fn short_name(mount: &StoredCacheMount) -> String {
    let mut name = mount.name.to_string();
    name.truncate(SHORT);
    match mount.name.copy() {
        0 => name,
        copy => format!("{name}-{copy}"),
    }
}

/// In buildx's words where it has them.
fn described(mount: &StoredCacheMount, size: u64) -> Value {
    let identity = mount.identity.as_ref();
    let user = |user: &User| {
        json!({
            "Process": user.process, "Step": user.what, "Hold": user.hold, "Since": user.since, "Waits": user.waits,
        })
    };
    json!({
        "ID": id_of(mount),
        "Name": mount.name.to_string(),
        "Copy": mount.name.copy(),
        "UID": identity.map(|identity| identity.uid),
        "GID": identity.map(|identity| identity.gid),
        "Mode": identity.map(|identity| format!("{:04o}", identity.mode)),
        "Source": identity.and_then(|identity| identity.seed.as_ref()).map(|seed| &seed.source),
        "Sharing": mount.sharing,
        "Size": size,
        "CreatedAt": mount.created,
        "UsedAt": mount.used,
        "InUse": !mount.users.is_empty(),
        "Users": mount.users.iter().map(user).collect::<Vec<_>>(),
    })
}

fn formatted(format: &str, value: &Value) -> Result<(), Failure> {
    match format {
        "json" => output::line(value),
        format => output::line(template::fill(format, value)?),
    }
}

fn inspect(arguments: &InspectArguments, store: &Store) -> Result<(), Failure> {
    let all = store.cache_mounts()?;
    for text in &arguments.mounts {
        for mount in named(text, &all)? {
            let described = described(mount, store.cache_mount_size(mount.name)?);
            match &arguments.format {
                Some(format) => formatted(format, &described)?,
                None => output::line(format_args!("{described:#}"))?,
            }
        }
    }
    Ok(())
}

/// The mounts of an id, or the one whose name begins so.
fn named<'a>(text: &str, all: &'a [StoredCacheMount]) -> Result<Vec<&'a StoredCacheMount>, Failure> {
    let by_id: Vec<_> = all.iter().filter(|mount| id_of(mount) == Some(text)).collect();
    if !by_id.is_empty() {
        return Ok(by_id);
    }
    let begins = |mount: &&StoredCacheMount| {
        text.len() >= SHORTEST && (mount.name.to_string().starts_with(text) || short_name(mount) == text)
    };
    let by_name: Vec<_> = all.iter().filter(begins).collect();
    match by_name.as_slice() {
        [] => Err(Failure::usage(format!("there is no cache mount `{text}`"))
            .hint("`builder cache-mount ls` lists those that are")),
        [first, others @ ..]
            if others
                .iter()
                .any(|other| short_name(other)[..SHORT] != short_name(first)[..SHORT]) =>
        {
            Err(Failure::usage(format!(
                "`{text}` is the beginning of {} cache mounts' names",
                by_name.len()
            ))
            .hint("give more digits"))
        }
        _ => Ok(by_name),
    }
}

fn remove(arguments: &RemoveArguments, store: &Store) -> Result<(), Failure> {
    let all = store.cache_mounts()?;
    let mut wanted: Vec<&StoredCacheMount> = Vec::new();
    for text in &arguments.mounts {
        match named(text, &all) {
            Err(_) if arguments.force => {}
            found => wanted.extend(found?),
        }
    }
    if arguments.all {
        wanted.extend(&all);
    }
    wanted.dedup_by_key(|mount| mount.name);
    let (mut freed, mut in_use) = (0, None);
    for mount in wanted {
        match store.remove_cache_mount(mount.name)? {
            CacheMountRemoval::Removed(size) => {
                freed += size;
                output::line(format_args!("Removed: {} {}", shown(mount), short_name(mount)))?;
            }
            CacheMountRemoval::Absent => {}
            CacheMountRemoval::InUse(users) => in_use = in_use.or(Some((mount, users))),
        }
    }
    output::line(format_args!("Freed: {}", bytes(freed)))?;
    match in_use {
        None => Ok(()),
        Some((mount, users)) => {
            let user = users.first().map_or_else(String::new, |user| {
                let what = printable(user.what.as_bytes(), false);
                format!(" by {what} (process {})", user.process)
            });
            let message = format!("cache mount `{}` is in use{user}", shown(mount));
            Err(Failure::usage(message).hint("try again when the step has ended"))
        }
    }
}

fn shown(mount: &StoredCacheMount) -> String {
    printable(id_of(mount).unwrap_or("<unknown>").as_bytes(), false)
}
