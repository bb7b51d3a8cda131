//! The documents under which an image leaves the store: its manifest, or an index and the manifests that it lists.

use std::collections::BTreeSet;

use super::attestations;
use super::compress::CompressionOptions;
use super::error::{ExportError, Result};
use super::image::manifest;
use crate::oci::attestation::AttestationForm;
use crate::oci::{Descriptor, Digest, ImageIndex, ImageManifest, LARGEST_MANIFEST, Raw, media_type};
use crate::snapshot::Snapshotter;
use crate::store::{ImageRecord, IndexRecord, Store, StoredImage};

/// What a name leads to somewhere else. All layers are blobs of the store.
#[derive(Clone, Debug)]
pub enum Documents {
    /// An image for one platform.
    Image(Document<ImageManifest>),
    /// An index, and the images that it lists, and after them what is stated about these.
    Index(Document<ImageIndex>, Vec<Document<ImageManifest>>),
}

/// A document and the descriptor that leads to it.
pub type Document<T> = (Raw<T>, Descriptor);

impl Documents {
    /// The manifests, one for each platform, and those of what is stated about the images.
    pub fn manifests(&self) -> &[Document<ImageManifest>] {
        match self {
            Self::Image(image) => std::slice::from_ref(image),
            Self::Index(_, images) => images,
        }
    }

    /// What a name leads to: the descriptor and its bytes.
    pub fn top(&self) -> (&Descriptor, &[u8]) {
        match self {
            Self::Image((manifest, descriptor)) => (descriptor, manifest.bytes()),
            Self::Index((index, descriptor), _) => (descriptor, index.bytes()),
        }
    }
}

/// The documents of whatever the store knows as `id`. What came with a manifest or an index keeps it, as long as all
/// that it names is here, unless another compression is asked for.
///
/// # Errors
/// [`ExportError::NoImage`]; those of [`manifest`].
pub fn documents(
    store: &Store,
    snapshotter: &Snapshotter,
    id: &Digest,
    compression: Option<CompressionOptions>,
) -> Result<Documents> {
    match store.stored(id)?.ok_or(ExportError::NoImage(*id))? {
        StoredImage::Image(image) => image_documents(store, snapshotter, &image, compression),
        StoredImage::Index(index) => index_documents(store, snapshotter, &index, compression),
    }
}

/// One image: its manifest, or an index of that and of what is stated about it.
fn image_documents(
    store: &Store,
    snapshotter: &Snapshotter,
    image: &ImageRecord,
    compression: Option<CompressionOptions>,
) -> Result<Documents> {
    let own = manifest(store, snapshotter, &image.id, compression)?;
    let stated = attestations::manifests(store, &image.attestations, &own.1, AttestationForm::default())?;
    if stated.is_empty() {
        return Ok(Documents::Image(own));
    }
    let manifests: Vec<_> = [own].into_iter().chain(stated).collect();
    let index = Raw::new(ImageIndex::new(listed(&manifests)));
    let descriptor = index.descriptor(media_type::INDEX);
    Ok(Documents::Index((index, descriptor), manifests))
}

fn listed(manifests: &[Document<ImageManifest>]) -> Vec<Descriptor> {
    manifests.iter().map(|(_, descriptor)| descriptor.clone()).collect()
}

fn index_documents(
    store: &Store,
    snapshotter: &Snapshotter,
    record: &IndexRecord,
    compression: Option<CompressionOptions>,
) -> Result<Documents> {
    let mut manifests = Vec::with_capacity(record.members.len());
    let mut stated = Vec::new();
    for member in &record.members {
        let (manifest, mut descriptor) = manifest(store, snapshotter, &member.image, compression)?;
        if let Some(image) = store.image(&member.image)? {
            let form = AttestationForm::default();
            stated.extend(attestations::manifests(store, &image.attestations, &descriptor, form)?);
        }
        descriptor.platform = Some(member.platform.clone());
        descriptor.annotations.clone_from(&member.annotations);
        manifests.push((manifest, descriptor));
    }
    // After all images, as BuildKit lists them.
    manifests.extend(stated);
    if let Some(own) = &record.manifest
        && let Some(index) = as_it_came(store, own, &manifests)?
    {
        let descriptor = Descriptor::new(&own.media_type, own.digest, own.size);
        return Ok(Documents::Index((index, descriptor), manifests));
    }
    let mut index = ImageIndex::new(listed(&manifests));
    index.annotations.clone_from(&record.annotations);
    let index = Raw::new(index);
    let descriptor = index.descriptor(media_type::INDEX);
    Ok(Documents::Index((index, descriptor), manifests))
}

/// The index as it was pulled or loaded, when it lists these manifests and nothing else.
fn as_it_came(
    store: &Store,
    own: &Descriptor,
    manifests: &[(Raw<ImageManifest>, Descriptor)],
) -> Result<Option<Raw<ImageIndex>>> {
    if !store.has_blob(&own.digest)? {
        return Ok(None);
    }
    let bytes = store.read_blob(&own.digest, LARGEST_MANIFEST as u64)?;
    let index: Raw<ImageIndex> = Raw::parse(bytes).map_err(|source| ExportError::Document {
        document: own.digest.to_string(),
        source,
    })?;
    let listed: BTreeSet<Digest> = index.value().manifests.iter().map(|listed| listed.digest).collect();
    let same = listed == manifests.iter().map(|(_, descriptor)| descriptor.digest).collect();
    Ok(same.then_some(index))
}
