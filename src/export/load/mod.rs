//! Images from archives and layouts of other programs into the store.
//!
//! All of it is read and verified before any of it is published: digests of blobs, digests of uncompressed layers, the
//! number of layers, names.

mod bundle;
mod directory;
mod find;
mod layout;

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;

use super::compress::Compression;
use super::error::{ExportError, Result};
use crate::oci::{Descriptor, DiffId, Digest, DigestWriter, ImageConfig, Platform, Raw, Reference};
use crate::snapshot::Limits;
use crate::store::{ImageRecord, Member, StagedBlob, Store};

use bundle::{Bundle, refused};
use find::{Content, Entry, Found};
pub use layout::{Layout, LayoutImage};

/// An image that was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names it has been given.
    pub names: Vec<Reference>,
}

/// The most layers of an image that are read: as many as a manifest may list.
const MOST_LAYERS: usize = 4096;

/// Loads every image of an OCI archive or docker archive, compressed or not. Of an image for several platforms all that
/// are there are taken, or the one for `platform`.
///
/// # Errors
/// What makes the archive unacceptable; then the store is as it was.
pub fn load(store: &Store, platform: Option<&Platform>, archive: impl Read + Send) -> Result<Vec<Loaded>> {
    let _in_use = store.in_use()?;
    load_bundle(store, platform, Bundle::read_archive(store, archive)?)
}

/// Loads every image of an OCI layout in a directory. Otherwise as [`load`].
///
/// # Errors
/// What makes the layout unacceptable; then the store is as it was.
pub fn load_directory(store: &Store, platform: Option<&Platform>, directory: &Path) -> Result<Vec<Loaded>> {
    let _in_use = store.in_use()?;
    load_bundle(store, platform, Bundle::open_directory(store, directory)?)
}

/// An image whose parts fit together.
struct Verified {
    found: Found,
    config: ImageConfig,
    /// For each layer its uncompressed size and its compression.
    layers: Vec<(u64, Compression)>,
}

fn load_bundle(store: &Store, platform: Option<&Platform>, mut bundle: Bundle<'_>) -> Result<Vec<Loaded>> {
    let Content { images, entries } = find::find(&mut bundle, platform)?;
    let verified: Result<Vec<_>> = images.into_iter().map(|image| verify(&mut bundle, image)).collect();
    let mut published = Vec::new();
    for image in verified? {
        published.push(publish(store, &mut bundle, image)?);
    }
    let name = |entry| name(store, &mut bundle, &published, entry);
    entries.into_iter().map(name).collect()
}

/// Names what is in the store by now: an image, or an index of several.
fn name(store: &Store, bundle: &mut Bundle<'_>, published: &[(Digest, Platform)], entry: Entry) -> Result<Loaded> {
    let id = match (entry.index, entry.listed.as_slice()) {
        (None, [only]) => published[only.image].0,
        (index, listed) => {
            let index = index.unwrap_or_default();
            if let Some(document) = &index.document {
                bundle.blob(&document.digest)?.publish()?;
            }
            let members = listed.iter().map(|listed| {
                let (image, platform) = &published[listed.image];
                Member {
                    platform: listed.platform.clone().unwrap_or_else(|| platform.clone()),
                    image: *image,
                    annotations: listed.annotations.clone(),
                }
            });
            store
                .put_index(members.collect(), index.annotations, index.document)?
                .id
        }
    };
    for name in &entry.names {
        store.tag(name, id)?;
    }
    Ok(Loaded { id, names: entry.names })
}

fn verify(bundle: &mut Bundle<'_>, found: Found) -> Result<Verified> {
    let config: Raw<ImageConfig> = Raw::parse(bundle.read(&found.config)?).map_err(|source| ExportError::Document {
        document: found.config.to_string(),
        source,
    })?;
    let config = config.into_value();
    let expected = &config.rootfs.diff_ids;
    if expected.len() != found.layers.len() || expected.len() > MOST_LAYERS {
        let subject = found.config.to_string();
        return Err(refused(
            subject.as_bytes(),
            "has another number of layers than its configuration says",
        ));
    }
    for layer in &found.layers {
        bundle.blob(layer)?;
    }
    let blobs: Result<Vec<&StagedBlob>> = found.layers.iter().map(|layer| bundle.staged(layer)).collect();
    let layers: Result<Vec<_>> = blobs?
        .par_iter()
        .zip(expected)
        .enumerate()
        .map(|(place, (blob, expected))| verify_layer(place + 1, blob, *expected))
        .collect();
    Ok(Verified {
        layers: layers?,
        found,
        config,
    })
}

fn verify_layer(number: usize, blob: &StagedBlob, expected: DiffId) -> Result<(u64, Compression)> {
    let mut file = blob.open()?;
    let mut start = Vec::new();
    (&mut file).take(6).read_to_end(&mut start).map_err(ExportError::Read)?;
    let compression = Compression::of_content(&start);
    let limit = unpacked_limit(blob.size());
    let whole = io::Cursor::new(start).chain(file);
    let tar = compression.reader(whole).map_err(ExportError::Read)?;
    let mut hash = DigestWriter::new(io::sink());
    io::copy(&mut tar.take(limit), &mut hash).map_err(ExportError::Read)?;
    let (_, actual, size) = hash.finish();
    if size == limit {
        let subject = blob.digest().to_string();
        return Err(refused(subject.as_bytes(), "unpacks to far more than it could hold"));
    }
    match DiffId(actual) == expected {
        true => Ok((size, compression)),
        false => Err(ExportError::WrongLayer {
            number,
            expected,
            actual: DiffId(actual),
        }),
    }
}

/// What a layer of `size` bytes may unpack to: real ones stay below a hundred times as much.
fn unpacked_limit(size: u64) -> u64 {
    size.saturating_mul(500).clamp(4 << 30, Limits::default().bytes)
}

/// Puts an image into the store, without a name. Its id, and what it is for.
fn publish(store: &Store, bundle: &mut Bundle<'_>, image: Verified) -> Result<(Digest, Platform)> {
    let Verified { found, config, layers } = image;
    let manifest = found.manifest.iter().map(|manifest| manifest.digest);
    let parts: HashSet<Digest> = found
        .layers
        .iter()
        .copied()
        .chain([found.config])
        .chain(manifest)
        .collect();
    for part in &parts {
        bundle.blob(part)?.publish()?;
    }
    for ((layer, blob), (_, compression)) in config.rootfs.diff_ids.iter().zip(&found.layers).zip(&layers) {
        let size = bundle.blob(blob)?.size();
        store.record_layer_blob(*layer, &Descriptor::new(compression.media_type(), *blob, size))?;
    }
    let created = config.created.and_then(|created| created.unix_seconds()).unwrap_or(0);
    let size = layers.iter().map(|(size, _)| size).sum();
    let record = ImageRecord::new(found.config, created, size).with_manifest(found.manifest);
    store.put_image(&record)?;
    Ok((record.id, config.platform.bare().normalized()))
}
