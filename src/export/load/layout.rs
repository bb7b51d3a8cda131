//! One image of an OCI layout on disk, to build on: chosen, verified, and brought into the store without a name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::bundle::refused;
use super::directory::Directory;
use super::find::{DEEPEST_INDEX, MOST_IMAGES};
use super::{MOST_LAYERS, check_size, unpack};
use crate::cancel::Cancel;
use crate::export::error::{ExportError, Result};
use crate::export::{CONTAINERD_NAME, REF_NAME, estargz};
use crate::oci::{
    ChainId, Descriptor, DiffId, Digest, ImageConfig, ImageIndex, ImageManifest, ManifestOrIndex, Platform, Raw,
    Reference, media_type,
};
use crate::progress::{Event, Progress};
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
    layers: Vec<Descriptor>,
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
        let unusable = |source| ExportError::Unusable { digest, source };
        manifest.check_usable().map_err(unusable)?;
        let config = manifest.config.digest;
        let config = Raw::parse(self.0.read(&config)?).map_err(|source| ExportError::Document {
            document: config.to_string(),
            source,
        })?;
        let image = LayoutImage {
            manifest: digest,
            layers: manifest.layers.clone(),
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
    /// [`ExportError::Cancelled`] when the token was set.
    pub fn bring(&self, image: &LayoutImage, store: &Store, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        store.write_blob(image.config.bytes())?;
        if let Some(chain) = ChainId::of(image.diffs())
            && store.snapshot_of_chain(chain)?.is_some()
        {
            return Ok(());
        }
        // A layer may occur several times.
        let lacking: BTreeMap<Digest, (usize, &Descriptor, DiffId)> = image
            .layers
            .iter()
            .zip(image.diffs())
            .enumerate()
            .map(|(place, (blob, diff))| (blob.digest, (place + 1, blob, *diff)))
            .collect();
        let staged: Result<Vec<_>> = lacking
            .par_iter()
            .map(|(digest, (number, blob, diff))| {
                let known = store.layer_blobs(*diff)?.iter().any(|known| known.digest == *digest);
                if known && store.has_blob(digest)? {
                    return Ok(None);
                }
                let label: Arc<str> = format!("reading {}", digest.short()).into();
                let staged = self.0.stage(digest, store, |done| {
                    let (label, total) = (label.clone(), Some(blob.size));
                    progress.report(Event::Transfer { label, done, total });
                    match cancel.is_cancelled() {
                        true => Err(ExportError::Cancelled),
                        false => Ok(()),
                    }
                })?;
                check_size(*digest, Some(blob.size), staged.size())?;
                let (_, compression) = unpack(&staged)?.check(*number, *diff)?;
                let kind = compression.media_type();
                let mut own = Descriptor::new(kind, staged.digest(), staged.size());
                estargz::copy_annotations(blob, &mut own);
                Ok(Some((*diff, staged, own)))
            })
            .collect();
        for (diff, blob, descriptor) in staged?.into_iter().flatten() {
            blob.publish()?;
            store.record_layer_blob(diff, &descriptor)?;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::progress::Silent;

    /// A layout with one image of one empty layer.
    fn layout(directory: &Path) -> Layout {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let write = |bytes: &[u8], kind: &str| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
        };
        let document = |value: &serde_json::Value, kind: &str| write(value.to_string().as_bytes(), kind);
        let layer = write(&[0; 1024], media_type::LAYER);
        let rootfs = json!({ "type": "layers", "diff_ids": [layer["digest"]] });
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs });
        let config = document(&config, media_type::CONFIG);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let manifest = document(&manifest, media_type::MANIFEST);
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
        Layout::open(directory).unwrap()
    }

    #[test]
    fn layers_are_brought_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory.path().join("layout"));
        let image = layout.image(None, None, &Platform::host()).unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let (cancel, layer) = (Cancel::new().unwrap(), image.layers[0].digest);
        cancel.cancel();
        let cancelled = layout.bring(&image, &store, &Silent, &cancel);
        assert!(matches!(cancelled, Err(ExportError::Cancelled)), "{cancelled:?}");
        assert!(!store.has_blob(&layer).unwrap());
        let go_on = Cancel::new().unwrap();
        let mut wrong = image.clone();
        wrong.layers[0].size += 1;
        assert!(layout.bring(&wrong, &store, &Silent, &go_on).is_err());
        assert!(!store.has_blob(&layer).unwrap());
        layout.bring(&image, &store, &Silent, &go_on).unwrap();
        assert!(store.has_blob(&layer).unwrap());
        assert_eq!(store.layer_blobs(DiffId(layer)).unwrap().len(), 1);
    }
}
