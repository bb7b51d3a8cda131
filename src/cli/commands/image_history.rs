//! `builder history IMAGE`: how an image came to be, as docker shows it.

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::format::{age, bytes, table};
use crate::cli::images::layer_size;
use crate::cli::listing;
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::{Digest, History, ImageConfig, Platform};
use crate::store::Store;

/// Characters of an instruction in a table, as docker has them.
const LONGEST: usize = 45;
/// What docker prints where an entry has no image of its own.
const MISSING: &str = "<missing>";

/// The fields of templates, and what stands above them in a table.
const HEADINGS: [(&str, &str); 7] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
    ("EmptyLayer", "EMPTY LAYER"),
];

/// Show how an image came to be: its instructions, newest first, with the sizes of their layers.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The image: a name, an id, or the beginning of an id.
    image: String,
    #[command(flatten)]
    shown: ImageHistory,
}

/// How an image is to be shown.
#[derive(Debug, Args)]
pub(super) struct ImageHistory {
    /// Print ids only.
    #[arg(short, long, requires = "image")]
    quiet: bool,
    /// Print instructions and ids whole.
    #[arg(long, requires = "image")]
    no_trunc: bool,
    /// Print sizes and times for people; with `false` in bytes, and as times.
    #[arg(
        short = 'H',
        long,
        requires = "image",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        value_name = "BOOL"
    )]
    human: bool,
    /// Print for each entry `json` or a template such as `{{.CreatedBy}}`; or `table` and a template, whose columns stand
    /// between tabs.
    #[arg(long, value_name = "FORMAT", requires = "image", conflicts_with = "quiet")]
    format: Option<String>,
    /// The image for this platform, where there are several; by default this machine's.
    #[arg(long, value_name = "OS/ARCH", requires = "image")]
    platform: Option<Platform>,
}

/// An entry, and the size of its layer in bytes.
struct Row {
    id: Option<Digest>,
    entry: History,
    size: Option<u64>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    show(&arguments.image, &arguments.shown, &Session::open(global)?)
}

/// Shows the image that `text` names.
pub(super) fn show(text: &str, arguments: &ImageHistory, session: &Session) -> Result<(), Failure> {
    let wanted = arguments.platform.clone().unwrap_or_else(Platform::host);
    let image = session.image_for(text, &wanted)?;
    let config = session.store.image_config(&image.config)?.into_value();
    let rows = rows(&session.store, image.id, config)?;
    let id = |row: &Row| match row.id {
        Some(id) if arguments.no_trunc => id.to_string(),
        Some(id) => id.short(),
        None => MISSING.to_owned(),
    };
    if arguments.quiet {
        return rows.iter().try_for_each(|row| output::line(id(row)));
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    if let Some(format) = arguments.format.as_deref().filter(|format| *format != "table") {
        let value = |row: &Row| {
            json!({
                "ID": id(row), "CreatedAt": row.entry.created, "CreatedSince": since(row, now),
                "CreatedBy": row.entry.created_by, "Size": size(row, arguments.human),
                "Comment": row.entry.comment, "EmptyLayer": row.entry.empty_layer,
            })
        };
        return listing::print(format, &rows.iter().map(value).collect::<Vec<_>>(), &HEADINGS);
    }
    let cells = |row: &Row| {
        let created = match (&row.entry.created, arguments.human) {
            (Some(created), false) => created.to_string(),
            _ => since(row, now),
        };
        let by = printable(row.entry.created_by.as_bytes(), false);
        let by = if arguments.no_trunc { by } else { shortened(by) };
        let comment = printable(row.entry.comment.as_bytes(), false);
        vec![id(row), created, by, size(row, arguments.human), comment]
    };
    let header = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"];
    output::text(table(&header, &rows.iter().map(cells).collect::<Vec<_>>()))
}

/// Newest first. An image without a history has an entry for each layer.
fn rows(store: &Store, id: Digest, config: ImageConfig) -> Result<Vec<Row>, Failure> {
    let mut layers = config.rootfs.diff_ids.into_iter();
    let mut rows = Vec::new();
    for entry in config.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        let size = match layer {
            Some(layer) => layer_size(store, layer)?,
            None => Some(0),
        };
        rows.push(Row { id: None, entry, size });
    }
    for layer in layers {
        let (entry, size) = (History::default(), layer_size(store, layer)?);
        rows.push(Row { id: None, entry, size });
    }
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        newest.id = Some(id);
    }
    Ok(rows)
}

fn since(row: &Row, now: i64) -> String {
    let created = row.entry.created.as_ref().and_then(|created| created.unix_seconds());
    created.map_or_else(|| "N/A".to_owned(), |created| age(created, now))
}

fn size(row: &Row, human: bool) -> String {
    match row.size {
        Some(size) if human => bytes(size),
        Some(size) => size.to_string(),
        None => "N/A".to_owned(),
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(LONGEST) {
        Some(_) => text.chars().take(LONGEST - 1).chain(['…']).collect(),
        None => text,
    }
}
