//! `builder image tree`.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::format::bytes;
use crate::cli::images::{instruction, layer_size};
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::{DiffId, Digest, ImageConfig, Platform, Reference};
use crate::store::{ImageRecord, Store, StoredImage};

/// Show an image's layers, from the lowest, with their sizes and the instruction that made each.
///
/// Behind `top of` are other images of the store that end with the layer: those that this one stands on.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Print digests and instructions whole.
    #[arg(long)]
    no_trunc: bool,
    /// The image for this platform alone, where there are several.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The image: a name, an id, or the beginning of an id.
    image: String,
}

/// Characters of an instruction.
const LONGEST: usize = 80;

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let tops = tops(&session.store)?;
    match session.part(&arguments.image, arguments.platform.as_ref())? {
        StoredImage::Image(image) => show(&image, &tops, arguments, &session.store),
        StoredImage::Index(index) => {
            for member in &index.members {
                output::line(member.platform.to_string())?;
                match session.store.image(&member.image)? {
                    Some(image) => show(&image, &tops, arguments, &session.store)?,
                    None => output::line(format_args!("image {} is not here", member.image.short()))?,
                }
            }
            Ok(())
        }
    }
}

/// The layers of each image that has a name, and the name.
fn tops(store: &Store) -> Result<Vec<(Vec<DiffId>, Reference)>, Failure> {
    let mut tops = Vec::new();
    for (image, names) in store.images()? {
        if let (StoredImage::Image(image), Some(name)) = (image, names.into_iter().next())
            && let Ok(config) = store.image_config(&image.config)
        {
            tops.push((config.into_value().rootfs.diff_ids, name));
        }
    }
    Ok(tops)
}

fn show(
    image: &ImageRecord,
    tops: &[(Vec<DiffId>, Reference)],
    arguments: &Arguments,
    store: &Store,
) -> Result<(), Failure> {
    let config = store.image_config(&image.config)?.into_value();
    output::line(format_args!("{}  {}", shown(image.id, arguments), bytes(image.size)))?;
    let made_by = made_by(&config);
    let layers = &config.rootfs.diff_ids;
    for (number, layer) in layers.iter().enumerate() {
        let is_last = number + 1 == layers.len();
        let size = layer_size(store, *layer)?.map_or_else(|| "N/A".to_owned(), bytes);
        let text = printable(
            instruction(made_by.get(number).copied().unwrap_or_default()).as_bytes(),
            false,
        );
        let text = match text.char_indices().nth(LONGEST) {
            Some((end, _)) if !arguments.no_trunc => format!("{}…", &text[..end]),
            _ => text,
        };
        let others = tops.iter().filter(|(top, _)| !is_last && *top == layers[..=number]);
        let others: Vec<String> = others.map(|(_, name)| name.familiar()).collect();
        let others = match others.as_slice() {
            [] => String::new(),
            others => format!("  (top of {})", others.join(", ")),
        };
        let branch = if is_last { "└─" } else { "├─" };
        let layer = shown(layer.0, arguments);
        output::line(format!("{branch} {layer}  {size:>7}  {text}{others}").trim_end())?;
    }
    Ok(())
}

fn shown(digest: Digest, arguments: &Arguments) -> String {
    match arguments.no_trunc {
        true => digest.to_string(),
        false => digest.short(),
    }
}

/// What made each layer, lowest first.
fn made_by(config: &ImageConfig) -> Vec<&str> {
    let entries = config.history.iter().filter(|entry| !entry.empty_layer);
    entries.map(|entry| entry.created_by.as_str()).collect()
}
