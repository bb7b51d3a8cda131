//! `builder images`.

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::format::{age, bytes, table};
use crate::cli::session::{GlobalOptions, Session};
use crate::cli::template;
use crate::oci::Reference;
use crate::store::ImageRecord;

/// List the images of the local store.
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
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
    /// Print `json`, or a template such as `{{.Repository}}:{{.Tag}}`, for each image.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only images with this name, whatever their tag, or with this name and tag.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

struct Row {
    repository: String,
    tag: String,
    image: ImageRecord,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let mut rows = Vec::new();
    for (image, names) in session.store.images()? {
        let row = |name: Option<&Reference>| Row {
            repository: name.map_or("<none>".into(), Reference::familiar_name),
            tag: name.and_then(Reference::tag).unwrap_or("<none>").to_owned(),
            image: image.clone(),
        };
        match names.as_slice() {
            [] => rows.push(row(None)),
            names => rows.extend(names.iter().map(|name| row(Some(name)))),
        }
    }
    if let Some(wanted) = &arguments.name {
        let reference: Reference = wanted.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        let with_tag = wanted.rsplit('/').next().is_some_and(|last| last.contains(':'));
        rows.retain(|row| {
            row.repository == reference.familiar_name() && (!with_tag || Some(row.tag.as_str()) == reference.tag())
        });
    }
    rows.sort_by(|a, b| {
        b.image
            .created
            .cmp(&a.image.created)
            .then_with(|| a.repository.cmp(&b.repository))
    });
    print(arguments, &rows)
}

fn print(arguments: &Arguments, rows: &[Row]) -> Result<(), Failure> {
    let id = |row: &Row| {
        if arguments.no_trunc {
            row.image.id.to_string()
        } else {
            row.image.id.short()
        }
    };
    if arguments.quiet {
        let mut ids: Vec<String> = rows.iter().map(id).collect();
        ids.dedup();
        ids.iter().for_each(|id| println!("{id}"));
        return Ok(());
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let digest = |row: &Row| {
        row.image
            .manifest
            .as_ref()
            .map_or("<none>".into(), |manifest| manifest.digest.to_string())
    };
    if let Some(format) = &arguments.format {
        for row in rows {
            let value = json!({
                "Repository": row.repository, "Tag": row.tag, "ID": id(row), "Digest": digest(row),
                "CreatedSince": age(row.image.created, now), "CreatedAt": row.image.created, "Size": bytes(row.image.size),
            });
            match format.as_str() {
                "json" => println!("{value}"),
                format => println!("{}", template::fill(format, &value)?),
            }
        }
        return Ok(());
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
            age(row.image.created, now),
            bytes(row.image.size),
        ];
        if arguments.digests {
            cells.insert(2, digest(row));
        }
        cells
    };
    print!("{}", table(&header, &rows.iter().map(cells).collect::<Vec<_>>()));
    Ok(())
}
