//! `builder images`.

use std::cmp::Reverse;
use std::collections::HashSet;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::format::{age, bytes, moment, table};
use crate::cli::images::{ImageFilter, is_called};
use crate::cli::listing;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::{Digest, Reference};
use crate::store::StoredImage;

/// List the images of the local store.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids.
    #[arg(long)]
    no_trunc: bool,
    /// Print the digest of each image's manifest, where it has one.
    #[arg(long)]
    digests: bool,
    /// Print below each image what it consists of, platform by platform.
    #[arg(long, conflicts_with_all = ["quiet", "format"])]
    tree: bool,
    /// Print for each image `json` or a template such as `{{.Repository}}:{{.Tag}}`; or `table` and a template, whose columns
    /// stand between tabs.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only images that this is true of: `dangling=true`, `label=KEY[=VALUE]`, `before=IMAGE`, `since=IMAGE`,
    /// `until=24h`, `reference=PATTERN`, `id=3fa`. Several for one field: any of them, and for `label` all.
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<ImageFilter>,
    /// Print the images that others consist of, too.
    #[arg(short, long)]
    all: bool,
    /// Print no line of headings.
    #[arg(short, long)]
    noheading: bool,
    /// What decides the order.
    #[arg(long, value_name = "FIELD", default_value = "created")]
    sort: Sort,
    /// Only images with this name, whatever their tag, or with this name and tag; `*` and `?` stand for any text and any
    /// character.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// What a list is sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Sort {
    /// The newest first.
    Created,
    /// By id.
    Id,
    /// By name.
    #[value(alias = "tag")]
    Repository,
    /// The largest first.
    Size,
}

/// The fields of templates, and what stands above them in a table.
const HEADINGS: [(&str, &str); 8] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Platforms", "PLATFORMS"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
];

struct Row {
    repository: String,
    tag: String,
    image: StoredImage,
    /// What an index consists of, or the image itself.
    platforms: Vec<Listed>,
}

/// One platform's image.
#[derive(Clone)]
struct Listed {
    platform: String,
    id: Digest,
    size: u64,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let mut rows = Vec::new();
    let images = session.store.images()?;
    let members: HashSet<Digest> = images.iter().flat_map(|(image, _)| members(image)).collect();
    for (image, names) in images {
        // What has no name and is part of an index is shown as such a part.
        let is_part = names.is_empty() && members.contains(&image.id()) && !arguments.all;
        if is_part || !matches(&arguments.filters, &session, &image, &names)? {
            continue;
        }
        let platforms = platforms(&session, &image)?;
        let row = |name: Option<&Reference>| Row {
            repository: name.map_or("<none>".into(), Reference::familiar_name),
            tag: name.and_then(Reference::tag).unwrap_or("<none>").to_owned(),
            image: image.clone(),
            platforms: platforms.clone(),
        };
        let wanted: Vec<&Reference> = names.iter().filter(|name| is_wanted(name, arguments)).collect();
        match wanted.as_slice() {
            [] if names.is_empty() && arguments.name.is_none() => rows.push(row(None)),
            wanted => rows.extend(wanted.iter().map(|name| row(Some(name)))),
        }
    }
    sort(&mut rows, arguments.sort);
    print(arguments, &rows)
}

fn sort(rows: &mut [Row], by: Sort) {
    let name = |row: &Row| (row.repository.clone(), row.tag.clone());
    rows.sort_by_cached_key(name);
    match by {
        Sort::Created => rows.sort_by_key(|row| Reverse(row.image.created())),
        Sort::Id => rows.sort_by_key(|row| row.image.id()),
        Sort::Repository => {}
        Sort::Size => rows.sort_by_key(|row| Reverse(row.image.size())),
    }
}

/// Whether all filters mean the image; of several for one field, other than labels, any.
fn matches(
    filters: &[ImageFilter],
    session: &Session,
    image: &StoredImage,
    names: &[Reference],
) -> Result<bool, Failure> {
    let alternatives = |filter: &ImageFilter| matches!(filter, ImageFilter::Reference(_) | ImageFilter::Id(_));
    for filter in filters {
        let same = |other: &&ImageFilter| std::mem::discriminant(*other) == std::mem::discriminant(filter);
        let mut found = filter.matches(session, image, names)?;
        for other in filters.iter().filter(same).filter(|_| alternatives(filter)) {
            found |= other.matches(session, image, names)?;
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a name is among those that are asked for.
fn is_wanted(name: &Reference, arguments: &Arguments) -> bool {
    let references = arguments.filters.iter().filter_map(|filter| match filter {
        ImageFilter::Reference(pattern) => Some(pattern),
        _ => None,
    });
    let mut references = references.peekable();
    let by_filter = references.peek().is_none() || references.any(|pattern| is_called(name, pattern));
    let by_name = arguments
        .name
        .as_ref()
        .is_none_or(|wanted| match wanted.parse::<Reference>() {
            Ok(reference) if wanted.rsplit('/').next().is_some_and(|last| last.contains(':')) => reference == *name,
            Ok(reference) => reference.name() == name.name(),
            Err(_) => is_called(name, wanted),
        });
    by_filter && by_name
}

fn members(image: &StoredImage) -> Vec<Digest> {
    match image {
        StoredImage::Image(_) => Vec::new(),
        StoredImage::Index(index) => index.members.iter().map(|member| member.image).collect(),
    }
}

fn platforms(session: &Session, image: &StoredImage) -> Result<Vec<Listed>, Failure> {
    let store = &session.store;
    match image {
        StoredImage::Index(index) => index
            .members
            .iter()
            .map(|member| {
                Ok(Listed {
                    platform: member.platform.to_string(),
                    id: member.image,
                    size: store.image(&member.image)?.map_or(0, |image| image.size),
                })
            })
            .collect(),
        StoredImage::Image(image) => {
            // A configuration that is gone is no reason not to list the others.
            let config = store.image_config(&image.config).ok();
            let platform = config.map(|config| config.into_value().platform.bare().normalized());
            Ok(vec![Listed {
                platform: platform.map_or("<unknown>".into(), |platform| platform.to_string()),
                id: image.id,
                size: image.size,
            }])
        }
    }
}

fn print(arguments: &Arguments, rows: &[Row]) -> Result<(), Failure> {
    let shown = |id: Digest| match arguments.no_trunc {
        true => id.to_string(),
        false => id.short(),
    };
    let id = |row: &Row| shown(row.image.id());
    if arguments.quiet {
        let mut ids: Vec<String> = rows.iter().map(id).collect();
        ids.dedup();
        return ids.iter().try_for_each(output::line);
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let digest = |row: &Row| {
        row.image
            .manifest()
            .map_or("<none>".into(), |manifest| manifest.digest.to_string())
    };
    if let Some(format) = arguments.format.as_deref().filter(|format| *format != "table") {
        let value = |row: &Row| {
            let platforms: Vec<&str> = row.platforms.iter().map(|listed| listed.platform.as_str()).collect();
            json!({
                "Platforms": platforms.join(","),
                "Repository": row.repository, "Tag": row.tag, "ID": id(row), "Digest": digest(row),
                "CreatedSince": age(row.image.created(), now), "CreatedAt": moment(row.image.created()),
                "Size": bytes(row.image.size()),
            })
        };
        return listing::print(format, &rows.iter().map(value).collect::<Vec<_>>(), &HEADINGS);
    }
    let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if arguments.digests {
        header.insert(2, "DIGEST");
    }
    let cells = |row: &Row| {
        let mut cells = vec![
            row.repository.clone(),
            row.tag.clone(),
            id(row),
            age(row.image.created(), now),
            bytes(row.image.size()),
        ];
        if arguments.digests {
            cells.insert(2, digest(row));
        }
        cells
    };
    let parts = |row: &Row| -> Vec<Vec<String>> {
        let part = |(place, listed): (usize, &Listed)| {
            let branch = if place + 1 == row.platforms.len() {
                "└─"
            } else {
                "├─"
            };
            let mut cells = vec![String::new(); header.len()];
            cells[0] = format!("{branch} {}", listed.platform);
            cells[header.len() - 3] = shown(listed.id);
            cells[header.len() - 1] = bytes(listed.size);
            cells
        };
        match arguments.tree {
            true => row.platforms.iter().enumerate().map(part).collect(),
            false => Vec::new(),
        }
    };
    let lines = rows
        .iter()
        .flat_map(|row| std::iter::once(cells(row)).chain(parts(row)));
    let table = table(&header, &lines.collect::<Vec<_>>());
    match (arguments.noheading, table.split_once('\n')) {
        (true, Some((_, lines))) => output::text(lines),
        _ => output::text(table),
    }
}
