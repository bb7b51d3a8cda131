//! Images from archives and layouts of other programs into the store.
//!
//! All of it is read and verified before any of it is published: digests of blobs, digests of uncompressed layers, the
//! number of layers, names.

mod bundle;
mod directory;
mod find;
mod layout;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;

use super::compress::Compression;
use super::error::{ExportError, Result};
use crate::oci::{Descriptor, DiffId, Digest, DigestWriter, ImageConfig, Platform, Raw, Reference};
use crate::snapshot::Limits;
use crate::store::{Attestation, ImageRecord, Member, StagedBlob, Store};

use bundle::{Bundle, refused};
use find::{Content, Entry, Found, OTHER_SIZE, Part};
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
    let mut known = HashMap::new();
    let mut verify = |image| verify(&mut bundle, &mut known, image);
    let verified: Result<Vec<_>> = images.into_iter().map(&mut verify).collect();
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

/// What layers' blobs unpack to, by their digests: those of several images are unpacked once.
type Known = HashMap<Digest, Unpacked>;

fn verify(bundle: &mut Bundle<'_>, known: &mut Known, found: Found) -> Result<Verified> {
    let Part { digest, size } = found.config;
    let config: Raw<ImageConfig> = Raw::parse(bundle.read(&digest)?).map_err(|source| ExportError::Document {
        document: digest.to_string(),
        source,
    })?;
    check_size(digest, size, config.bytes().len() as u64)?;
    let config = config.into_value();
    let expected = &config.rootfs.diff_ids;
    if expected.len() != found.layers.len() || expected.len() > MOST_LAYERS {
        let subject = digest.to_string();
        return Err(refused(
            subject.as_bytes(),
            "has another number of layers than its configuration says",
        ));
    }
    let mut unknown = BTreeSet::new();
    for layer in &found.layers {
        check_size(layer.digest, layer.size, bundle.blob(&layer.digest)?.size())?;
        if !known.contains_key(&layer.digest) {
            unknown.insert(layer.digest);
        }
    }
    let blobs: Result<Vec<&StagedBlob>> = unknown.iter().map(|layer| bundle.staged(layer)).collect();
    let unpacked: Result<Vec<_>> = blobs?
        .par_iter()
        .map(|blob| Ok((blob.digest(), unpack(blob)?)))
        .collect();
    known.extend(unpacked?);
    let mut layers = Vec::with_capacity(found.layers.len());
    for (place, (layer, expected)) in found.layers.iter().zip(expected).enumerate() {
        layers.push(known[&layer.digest].check(place + 1, *expected)?);
    }
    Ok(Verified { layers, found, config })
}

fn check_size(digest: Digest, said: Option<u64>, actual: u64) -> Result<()> {
    match said {
        Some(said) if said != actual => Err(refused(digest.to_string().as_bytes(), OTHER_SIZE)),
        _ => Ok(()),
    }
}

/// What a layer's blob holds.
#[derive(Clone, Copy)]
struct Unpacked {
    diff: DiffId,
    size: u64,
    compression: Compression,
}

impl Unpacked {
    /// Its uncompressed size and its compression, where it is the layer that the configuration expects.
    fn check(self, number: usize, expected: DiffId) -> Result<(u64, Compression)> {
        match self.diff == expected {
            true => Ok((self.size, self.compression)),
            false => Err(ExportError::WrongLayer {
                number,
                expected,
                actual: self.diff,
            }),
        }
    }
}

fn unpack(blob: &StagedBlob) -> Result<Unpacked> {
    let mut file = blob.open()?;
    let mut start = Vec::new();
    (&mut file).take(6).read_to_end(&mut start).map_err(ExportError::Read)?;
    let compression = Compression::of_content(&start);
    let limit = unpacked_limit(blob.size());
    let whole = io::Cursor::new(start).chain(file);
    let tar = compression.reader(whole).map_err(ExportError::Read)?;
    let mut hash = DigestWriter::new(io::sink());
    io::copy(&mut tar.take(limit), &mut hash).map_err(ExportError::Read)?;
    let (_, diff, size) = hash.finish();
    if size == limit {
        let subject = blob.digest().to_string();
        return Err(refused(subject.as_bytes(), "unpacks to far more than it could hold"));
    }
    Ok(Unpacked {
        diff: DiffId(diff),
        size,
        compression,
    })
}

/// What a layer of `size` bytes may unpack to: real ones stay below a hundred times as much.
fn unpacked_limit(size: u64) -> u64 {
    size.saturating_mul(500).clamp(4 << 30, Limits::default().bytes)
}

/// Puts an image into the store, without a name. Its id, and what it is for.
fn publish(store: &Store, bundle: &mut Bundle<'_>, image: Verified) -> Result<(Digest, Platform)> {
    let Verified { found, config, layers } = image;
    let manifest = found.manifest.iter().map(|manifest| manifest.digest);
    let parts = found.layers.iter().chain([&found.config]).map(|part| part.digest);
    let parts: HashSet<Digest> = parts.chain(manifest).collect();
    for part in &parts {
        bundle.blob(part)?.publish()?;
    }
    for ((layer, blob), (_, compression)) in config.rootfs.diff_ids.iter().zip(&found.layers).zip(&layers) {
        let size = bundle.blob(&blob.digest)?.size();
        store.record_layer_blob(*layer, &Descriptor::new(compression.media_type(), blob.digest, size))?;
    }
    let created = config.created.and_then(|created| created.unix_seconds()).unwrap_or(0);
    let size = layers.iter().map(|(size, _)| size).sum();
    let record = ImageRecord::new(found.config.digest, created, size).with_manifest(found.manifest);
    let mut attestations = Vec::new();
    for (manifest, parts) in found.statements {
        for part in parts.iter().chain([&manifest.digest]) {
            bundle.blob(part)?.publish()?;
        }
        attestations.push(Attestation::Received(manifest));
    }
    if let Some(index) = found.index {
        bundle.blob(&index.digest)?.publish()?;
        attestations.push(Attestation::Listed(index));
    }
    let record = record.attested(attestations);
    store.put_image(&record)?;
    Ok((record.id, config.platform.bare().normalized()))
}
