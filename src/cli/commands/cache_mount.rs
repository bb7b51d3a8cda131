//! `builder cache-mount`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{to_file, to_stdout};
use crate::cancel::Cancel;
use crate::cli::failure::Failure;
use crate::cli::format::{age, bytes, table};
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::session::{GlobalOptions, Session};
use crate::cli::template;
use crate::export::{self, CacheMountAccess};
use crate::snapshot::Limits;
use crate::store::{CacheMountIdentity, CacheMountRemoval, Store, StoredCacheMount, User};

/// Digits of a name that are shown, and that tell one at least.
const SHORT: usize = 12;
const SHORTEST: usize = 4;

/// Look at what `RUN --mount=type=cache` keeps; remove it, write it into archives, and read it from them.
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
    Export(ExportArguments),
    Import(ImportArguments),
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

/// Write what a cache mount has into an archive: a tar, compressed with zstd.
///
/// It is written when nobody changes it: a mount that a step has for itself is waited for. Times, modes, owners, links and
/// attributes are part of it; sockets, pipes and devices are not.
#[derive(Debug, Args)]
struct ExportArguments {
    /// The mount: an id, a name, or the beginning of a name (4 digits at least).
    #[arg(value_name = "MOUNT")]
    mount: String,
    /// The file; by default standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Make a cache mount what an archive has: a tar, compressed or not.
///
/// All of the archive is read and unpacked before anything changes; then what the mount had goes at once, as soon as no
/// step uses it. A mount that is not there is made.
#[derive(Debug, Args)]
struct ImportArguments {
    /// The mount's id, or, of several with that id, a name or the beginning of one.
    #[arg(value_name = "MOUNT")]
    mount: String,
    /// The archive; by default, and for `-`, standard input.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The owner of a mount that is not there yet: the user of the steps that use it, or the one that they state.
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// The group of a mount that is not there yet.
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,
    /// The permission bits of a mount that is not there yet, in octal digits.
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("`{text}` is no mode such as 0755"))
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
        Command::Export(arguments) => write(arguments, &session),
        Command::Import(arguments) => read(arguments, &session),
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
            Some(format) => template::print(format, &described(mount, size))?,
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

fn inspect(arguments: &InspectArguments, store: &Store) -> Result<(), Failure> {
    let all = store.cache_mounts()?;
    for text in &arguments.mounts {
        for mount in named(text, &all)? {
            let described = described(mount, store.cache_mount_size(mount.name)?);
            match &arguments.format {
                Some(format) => template::print(format, &described)?,
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
            let user = users.first().map(by).unwrap_or_default();
            let message = format!("cache mount `{}` is in use{user}", shown(mount));
            Err(Failure::usage(message).hint("try again when the step has ended"))
        }
    }
}

/// With what a mount is read and written.
fn access<'a>(session: &'a Session, cancel: &'a Cancel) -> CacheMountAccess<'a> {
    let limits = session.config.cache_mounts.limits();
    CacheMountAccess {
        store: &session.store,
        snapshotter: &session.snapshotter,
        limits: Limits {
            entries: limits.entries,
            bytes: limits.bytes,
        },
        cancel,
        waiting: &|users| {
            let user = users.iter().find(|user| !user.waits).map(by).unwrap_or_default();
            output::remark(format_args!("waiting for the cache mount, which is in use{user}"));
        },
    }
}

fn by(user: &User) -> String {
    let what = printable(user.what.as_bytes(), false);
    format!(" by {what} (process {})", user.process)
}

/// The one mount that is meant, but for copies of the moment.
fn only<'a>(
    text: &str,
    found: Vec<&'a StoredCacheMount>,
) -> Result<(&'a StoredCacheMount, &'a CacheMountIdentity), Failure> {
    let first: Vec<_> = found.into_iter().filter(|mount| mount.name.copy() == 0).collect();
    let [mount] = first.as_slice() else {
        let names: Vec<String> = first.iter().map(|mount| short_name(mount)).collect();
        let message = format!("there are {} cache mounts `{text}`", first.len());
        return Err(Failure::usage(message).hint(format!("name one of them: {}", names.join(", "))));
    };
    let identity = mount.identity.as_ref().ok_or_else(|| {
        Failure::usage(format!(
            "what the cache mount `{text}` is was not noted when it was made"
        ))
        .hint("it is noted when a step uses it again")
    })?;
    Ok((mount, identity))
}

fn write(arguments: &ExportArguments, session: &Session) -> Result<(), Failure> {
    let all = session.store.cache_mounts()?;
    let (mount, identity) = only(&arguments.mount, named(&arguments.mount, &all)?)?;
    let sharing = mount.sharing.first().map_or("locked", String::as_str);
    let cancel = cancel_on_signals()?;
    let mut written = None;
    let archive = |out: &mut dyn Write| {
        written = Some(export::write_cache_mount(
            access(session, &cancel),
            identity,
            sharing,
            out,
        )?);
        Ok(())
    };
    match &arguments.output {
        Some(path) if path.as_os_str() != "-" => to_file(path, archive)?,
        _ => to_stdout(archive)?,
    }
    if let Some(written) = written.filter(|written| written.left_out > 0) {
        output::remark(format_args!(
            "warning: {} files were left out, because they changed all the time",
            written.left_out
        ));
    }
    Ok(())
}

fn read(arguments: &ImportArguments, session: &Session) -> Result<(), Failure> {
    let all = session.store.cache_mounts()?;
    let identity = target(arguments, &all)?;
    let cancel = cancel_on_signals()?;
    let access = access(session, &cancel);
    let (name, read) = match &arguments.file {
        Some(path) if path.as_os_str() != "-" => {
            let unreadable = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
            let file = File::open(path).map_err(unreadable)?;
            let read = export::read_cache_mount(access, &identity, "locked", file);
            (path.display().to_string(), read)
        }
        _ => {
            let read = export::read_cache_mount(access, &identity, "locked", std::io::stdin().lock());
            ("standard input".to_owned(), read)
        }
    };
    read.map_err(|error| Failure::from(error).before(format_args!("cannot import {name}: ")))?;
    let name = identity.name(0);
    let size = bytes(session.store.cache_mount_size(name)?);
    let id = printable(identity.shown().as_bytes(), false);
    output::line(format_args!("Imported: {id} {} {size}", &name.to_string()[..SHORT]))
}

/// The mount that is there, or the one that is to be made.
fn target(arguments: &ImportArguments, all: &[StoredCacheMount]) -> Result<CacheMountIdentity, Failure> {
    const USUAL: u32 = 0o755;
    let stated = arguments.uid.is_some() || arguments.gid.is_some() || arguments.mode.is_some();
    let found = named(&arguments.mount, all);
    if let (Ok(found), false) = (&found, stated) {
        return only(&arguments.mount, found.clone()).map(|(_, identity)| identity.clone());
    }
    let known = found.ok().and_then(|found| found.first()?.identity.clone());
    Ok(CacheMountIdentity {
        // Without a namespace there is nothing before the slash.
        id: known.map_or_else(|| format!("/{}", arguments.mount), |known| known.id),
        uid: arguments.uid.unwrap_or(0),
        gid: arguments.gid.unwrap_or(0),
        mode: arguments.mode.unwrap_or(USUAL),
        seed: None,
    })
}

fn shown(mount: &StoredCacheMount) -> String {
    printable(id_of(mount).unwrap_or("<unknown>").as_bytes(), false)
}
