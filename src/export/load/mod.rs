//! Images from archives and layouts of other programs into the store.
//!
//! All of it is read and verified before any of it is published: digests of blobs, digests of uncompressed layers, the
//! number of layers, names.

mod bundle;

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;
use serde::Deserialize;

use super::compress::Compression;
use super::error::{ExportError, Result};
use super::{CONTAINERD_NAME, REF_NAME};
use crate::oci::{
    Descriptor, DiffId, Digest, DigestWriter, ImageConfig, ImageManifest, ManifestOrIndex, Platform, Raw, Reference,
    media_type,
};
use crate::snapshot::Limits;
use crate::store::{ImageRecord, StagedBlob, Store};

use bundle::{Bundle, refused};

/// An image that was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names it has been given.
    pub names: Vec<Reference>,
}

/// The most images of one archive that are read.
const MOST_IMAGES: usize = 1000;
/// The most layers of an image that are read: as many as a manifest may list.
const MOST_LAYERS: usize = 4096;
/// An index may list indexes, as `docker save` writes them; not these again.
const DEEPEST_INDEX: usize = 2;
/// The annotation by which BuildKit marks what describes another manifest and is no image.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// Loads every image of an OCI archive or docker archive, compressed or not. Of an image for several platforms the one
/// for `platform` is taken.
///
/// # Errors
/// What makes the archive unacceptable; then the store is as it was.
pub fn load(store: &Store, platform: &Platform, archive: impl Read + Send) -> Result<Vec<Loaded>> {
    let _in_use = store.in_use()?;
    load_bundle(store, platform, Bundle::read_archive(store, archive)?)
}

/// Loads every image of an OCI layout in a directory. Otherwise as [`load`].
///
/// # Errors
/// What makes the layout unacceptable; then the store is as it was.
pub fn load_directory(store: &Store, platform: &Platform, directory: &Path) -> Result<Vec<Loaded>> {
    let _in_use = store.in_use()?;
    load_bundle(store, platform, Bundle::open_directory(store, directory)?)
}

/// An image whose parts are known and not verified yet.
struct Found {
    config: Digest,
    /// Lowest first.
    layers: Vec<Digest>,
    manifest: Option<Descriptor>,
    names: Vec<Reference>,
}

/// An image whose parts fit together.
struct Verified {
    found: Found,
    config: ImageConfig,
    /// For each layer its uncompressed size and its compression.
    layers: Vec<(u64, Compression)>,
}

fn load_bundle(store: &Store, platform: &Platform, mut bundle: Bundle<'_>) -> Result<Vec<Loaded>> {
    let found = match bundle.document("index.json")? {
        Some(index) => find_in_index(&mut bundle, platform, index)?,
        None => match bundle.document("manifest.json")? {
            Some(manifest) => find_in_docker_manifest(&bundle, &manifest)?,
            None => return Err(ExportError::NoImageArchive),
        },
    };
    let verified: Result<Vec<_>> = found.into_iter().map(|image| verify(&mut bundle, image)).collect();
    verified?
        .into_iter()
        .map(|image| publish(store, &mut bundle, image))
        .collect()
}

fn find_in_index(bundle: &mut Bundle<'_>, platform: &Platform, index: Vec<u8>) -> Result<Vec<Found>> {
    let digest = Digest::of(&index);
    let parsed = ManifestOrIndex::parse(index, Some(media_type::INDEX));
    let ManifestOrIndex::Index(index) = parsed.map_err(|source| ExportError::Manifest { digest, source })? else {
        return Err(refused(b"index.json", "is no index"));
    };
    let images = &index.value().manifests;
    if images.len() > MOST_IMAGES {
        return Err(refused(b"index.json", "lists too many images"));
    }
    let mut found: Vec<Found> = Vec::new();
    for descriptor in images
        .iter()
        .filter(|image| !image.annotations.contains_key(ATTESTATION))
    {
        let (chosen, manifest) = resolve(bundle, platform, descriptor, 0)?;
        let names = names_of(descriptor)?;
        match found
            .iter_mut()
            .find(|image| image.manifest.as_ref().is_some_and(|own| own.digest == chosen.digest))
        {
            Some(image) => image.names.extend(names),
            None => found.push(Found {
                config: manifest.config.digest,
                layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
                manifest: Some(chosen),
                names,
            }),
        }
    }
    Ok(found)
}

/// The manifest that a descriptor leads to, perhaps by way of an index.
fn resolve(
    bundle: &mut Bundle<'_>,
    platform: &Platform,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<(Descriptor, ImageManifest)> {
    let digest = descriptor.digest;
    let parsed = ManifestOrIndex::parse(bundle.read(&digest)?, Some(&descriptor.media_type));
    let subject = digest.to_string();
    match parsed.map_err(|source| ExportError::Manifest { digest, source })? {
        ManifestOrIndex::Manifest(manifest) => {
            let size = manifest.bytes().len() as u64;
            let kind = manifest.value().media_type.clone();
            let kind = kind.unwrap_or_else(|| descriptor.media_type.clone());
            Ok((Descriptor::new(&kind, digest, size), manifest.into_value()))
        }
        ManifestOrIndex::Index(_) if depth == DEEPEST_INDEX => {
            Err(refused(subject.as_bytes(), "is an index in an index in an index"))
        }
        ManifestOrIndex::Index(index) => {
            let selected = index.value().select(platform);
            let selected = selected.ok_or_else(|| refused(subject.as_bytes(), "has no image for this platform"))?;
            resolve(bundle, platform, selected, depth + 1)
        }
    }
}

/// The names that a layout's annotations give. A tag alone names nothing.
fn names_of(descriptor: &Descriptor) -> Result<Vec<Reference>> {
    let whole = descriptor.annotations.get(CONTAINERD_NAME);
    let reference = descriptor
        .annotations
        .get(REF_NAME)
        .filter(|name| name.contains(['/', ':']));
    let Some(name) = whole.or(reference) else {
        return Ok(Vec::new());
    };
    Ok(vec![name.parse().map_err(ExportError::Name)?])
}

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

fn find_in_docker_manifest(bundle: &Bundle<'_>, manifest: &[u8]) -> Result<Vec<Found>> {
    let images: Vec<DockerImage> = serde_json::from_slice(manifest).map_err(|source| ExportError::Document {
        document: "manifest.json".into(),
        source,
    })?;
    if images.len() > MOST_IMAGES {
        return Err(refused(b"manifest.json", "lists too many images"));
    }
    let file = |name: &String| {
        let found = bundle.digest_of(name);
        found.ok_or_else(|| refused(name.as_bytes(), "is referred to and is not there"))
    };
    let find = |image: DockerImage| {
        let names = image.repo_tags.unwrap_or_default();
        let names: std::result::Result<_, _> = names.iter().map(|name| name.parse()).collect();
        Ok(Found {
            config: file(&image.config)?,
            layers: image
                .layers
                .unwrap_or_default()
                .iter()
                .map(file)
                .collect::<Result<_>>()?,
            manifest: None,
            names: names.map_err(ExportError::Name)?,
        })
    };
    images.into_iter().map(find).collect()
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
    let limit = Limits::default().bytes;
    let whole = io::Cursor::new(start).chain(file);
    let tar = compression.reader(whole).map_err(ExportError::Read)?;
    let mut hash = DigestWriter::new(io::sink());
    io::copy(&mut tar.take(limit), &mut hash).map_err(ExportError::Read)?;
    let (_, actual, size) = hash.finish();
    match DiffId(actual) == expected {
        true => Ok((size, compression)),
        false => Err(ExportError::WrongLayer {
            number,
            expected,
            actual: DiffId(actual),
        }),
    }
}

fn publish(store: &Store, bundle: &mut Bundle<'_>, image: Verified) -> Result<Loaded> {
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
    store.put_image(&ImageRecord {
        id: found.config,
        manifest: found.manifest,
        created: config.created.and_then(|created| created.unix_seconds()).unwrap_or(0),
        size: layers.iter().map(|(size, _)| size).sum(),
    })?;
    for name in &found.names {
        store.tag(name, found.config)?;
    }
    Ok(Loaded {
        id: found.config,
        names: found.names,
    })
}
