//! One image of an OCI layout on disk, to build on: chosen, verified, and brought into the store without a name.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::bundle::refused;
use super::directory::Directory;
use super::find::{DEEPEST_INDEX, MOST_IMAGES};
use super::{MOST_LAYERS, verify_layer};
use crate::export::error::{ExportError, Result};
use crate::export::{CONTAINERD_NAME, REF_NAME};
use crate::oci::{
    ChainId, Descriptor, DiffId, Digest, ImageConfig, ImageIndex, ImageManifest, ManifestOrIndex, Platform, Raw,
    Reference, media_type,
};
use crate::store::Store;

/// The tag that is meant where none is given.
const DEFAULT_TAG: &str = "latest";
/// Tags that an error shows, at most.
const MOST_SHOWN: usize = 10;

/// An OCI layout in a directory.
pub struct Layout(Directory);

/// An image of a layout. Its manifest and configuration are verified, its layers are not looked at yet.
#[derive(Clone, PartialEq, Debug)]
pub struct LayoutImage {
    /// Its manifest's digest.
    pub manifest: Digest,
    /// Its configuration.
    pub config: Raw<ImageConfig>,
    /// Its layers' blobs, lowest first: as many as the configuration says.
    layers: Vec<Digest>,
}

impl LayoutImage {
    /// The image's id.
    pub fn id(&self) -> Digest {
        Digest::of(self.config.bytes())
    }

    fn diffs(&self) -> &[DiffId] {
        &self.config.value().rootfs.diff_ids
    }
}

impl Layout {
    /// Opens the layout in `directory`.
    ///
    /// # Errors
    /// A directory that is not there or cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        Directory::open(directory).map(Self)
    }

    /// The image with the digest, or else with the tag; without either the one that is `latest`, or the only one. Of an
    /// index the image for `platform`.
    ///
    /// # Errors
    /// When there is none, or when a document on the way to it is missing, damaged or malformed.
    pub fn image(&self, tag: Option<&str>, digest: Option<Digest>, platform: &Platform) -> Result<LayoutImage> {
        let (mut wanted, mut kind) = match digest {
            Some(digest) => (digest, None),
            None => {
                let listed = self.listed(tag)?;
                (listed.digest, Some(listed.media_type))
            }
        };
        for _ in 0..=DEEPEST_INDEX {
            let document = ManifestOrIndex::parse(self.0.read(&wanted)?, kind.as_deref());
            let document = document.map_err(|source| ExportError::Manifest { digest: wanted, source })?;
            let index = match document {
                ManifestOrIndex::Manifest(manifest) => return self.image_of(wanted, manifest.value()),
                ManifestOrIndex::Index(index) => index,
            };
            let chosen = choose(index.value(), platform)?;
            (wanted, kind) = (chosen.digest, Some(chosen.media_type.clone()));
        }
        let subject = wanted.to_string();
        Err(refused(subject.as_bytes(), "is an index in an index in an index"))
    }

    /// What the layout's own index lists under the tag.
    fn listed(&self, tag: Option<&str>) -> Result<Descriptor> {
        let index = self.0.document("index.json")?.ok_or(ExportError::NoLayout)?;
        let digest = Digest::of(&index);
        let parsed = ManifestOrIndex::parse(index, Some(media_type::INDEX));
        let ManifestOrIndex::Index(index) = parsed.map_err(|source| ExportError::Manifest { digest, source })? else {
            return Err(refused(b"index.json", "is no index"));
        };
        if index.value().manifests.len() > MOST_IMAGES {
            return Err(refused(b"index.json", "lists too many images"));
        }
        let wanted = tag.unwrap_or(DEFAULT_TAG);
        let tagged = index
            .value()
            .images()
            .find(|listed| tags_of(listed).any(|own| own == wanted));
        if let Some(found) = tagged {
            return Ok(found.clone());
        }
        // One image under several tags is listed several times.
        let distinct: BTreeMap<Digest, &Descriptor> =
            index.value().images().map(|listed| (listed.digest, listed)).collect();
        let tags: Vec<String> = index.value().images().flat_map(tags_of).map(str::to_owned).collect();
        match distinct.first_key_value() {
            Some((_, only)) if distinct.len() == 1 && (tag.is_none() || tags.is_empty()) => Ok((*only).clone()),
            _ => Err(ExportError::NoTag {
                tag: wanted.to_owned(),
                images: distinct.len(),
                known: tags
                    .iter()
                    .take(MOST_SHOWN)
                    .map(|tag| tag.chars().take(128).collect())
                    .collect(),
            }),
        }
    }

    fn image_of(&self, digest: Digest, manifest: &ImageManifest) -> Result<LayoutImage> {
        let config = manifest.config.digest;
        let config = Raw::parse(self.0.read(&config)?).map_err(|source| ExportError::Document {
            document: config.to_string(),
            source,
        })?;
        let image = LayoutImage {
            manifest: digest,
            layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
            config,
        };
        if image.diffs().len() != image.layers.len() || image.layers.len() > MOST_LAYERS {
            let (subject, what) = (
                digest.to_string(),
                "has another number of layers than its configuration says",
            );
            return Err(refused(subject.as_bytes(), what));
        }
        Ok(image)
    }

    /// Brings what the store lacks of the image into it: all of it is verified before any of it is published. Nothing is
    /// copied where the image's file system is there already. To be called while the store is in use.
    ///
    /// # Errors
    /// A layer that is missing, or not what manifest and configuration say; then the store is as it was.
    pub fn bring(&self, image: &LayoutImage, store: &Store) -> Result<()> {
        store.write_blob(image.config.bytes())?;
        if let Some(chain) = ChainId::of(image.diffs())
            && store.snapshot_of_chain(chain)?.is_some()
        {
            return Ok(());
        }
        // A layer may occur several times.
        let lacking: BTreeMap<Digest, (usize, DiffId)> = image
            .layers
            .iter()
            .zip(image.diffs())
            .enumerate()
            .map(|(place, (blob, diff))| (*blob, (place + 1, *diff)))
            .collect();
        let staged: Result<Vec<_>> = lacking
            .par_iter()
            .map(|(blob, (number, diff))| {
                let known = store.layer_blobs(*diff)?.iter().any(|known| known.digest == *blob);
                if known && store.has_blob(blob)? {
                    return Ok(None);
                }
                let staged = self.0.stage(blob, store)?;
                let (_, compression) = verify_layer(*number, &staged, *diff)?;
                Ok(Some((*diff, staged, compression.media_type())))
            })
            .collect();
        for (diff, blob, kind) in staged?.into_iter().flatten() {
            blob.publish()?;
            store.record_layer_blob(diff, &Descriptor::new(kind, blob.digest(), blob.size()))?;
        }
        Ok(())
    }
}

fn choose<'a>(index: &'a ImageIndex, wanted: &Platform) -> Result<&'a Descriptor> {
    index.select(wanted).ok_or_else(|| {
        let available = index
            .images()
            .filter_map(|image| image.platform.clone())
            .take(MOST_SHOWN);
        ExportError::NoPlatform {
            wanted: Box::new(wanted.clone()),
            available: available.collect(),
        }
    })
}

/// The tags that a layout's annotations give: alone, or as part of a name.
fn tags_of(listed: &Descriptor) -> impl Iterator<Item = &str> {
    let names = [REF_NAME, CONTAINERD_NAME].map(|name| listed.annotations.get(name));
    names.into_iter().flatten().filter_map(|name| {
        if name.contains(['/', ':']) {
            let named = name.parse::<Reference>().ok()?;
            return named
                .tag()
                .and_then(|tag| name.ends_with(tag).then(|| &name[name.len() - tag.len()..]));
        }
        Some(name.as_str())
    })
}
