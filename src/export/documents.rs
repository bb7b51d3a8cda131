//! The documents under which an image leaves the store: its manifest, or an index and the manifests that it lists.

use std::collections::BTreeSet;

use super::annotations::{Annotation, AnnotationTarget};
use super::attestations;
use super::compress::CompressionOptions;
use super::error::{ExportError, Result};
use super::form::{Dialect, Form};
use super::image::{layers_in_form, manifest};
use crate::oci::{Descriptor, DiffId, Digest, ImageIndex, ImageManifest, LARGEST_MANIFEST, Raw, media_type};
use crate::snapshot::Snapshotter;
use crate::store::{Attestation, ImageRecord, IndexRecord, Store, StoredImage};

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
/// that it names is here, unless another form is asked for.
///
/// # Errors
/// [`ExportError::NoImage`]; those of [`manifest`].
pub fn documents(store: &Store, snapshotter: &Snapshotter, id: &Digest, form: &Form) -> Result<Documents> {
    match store.stored(id)?.ok_or(ExportError::NoImage(*id))? {
        StoredImage::Image(image) => image_documents(store, snapshotter, &image, form),
        StoredImage::Index(index) => index_documents(store, snapshotter, &index, form),
    }
}

/// One image: its manifest, or an index of that and of what is stated about it.
fn image_documents(store: &Store, snapshotter: &Snapshotter, image: &ImageRecord, form: &Form) -> Result<Documents> {
    let (manifest, mut descriptor) = manifest(store, snapshotter, &image.id, form)?;
    let stated = attestations::manifests(store, &image.attestations, &descriptor, form.attestations)?;
    let own = form.annotations(AnnotationTarget::ManifestDescriptor, descriptor.platform.as_ref());
    descriptor.annotations.extend(own);
    if stated.is_empty() {
        return Ok(Documents::Image((manifest, descriptor)));
    }
    form.check_attested()?;
    let manifests: Vec<_> = [(manifest, descriptor)].into_iter().chain(stated).collect();
    let came = image.attestations.iter().find_map(|attestation| match attestation {
        Attestation::Listed(index) if form.annotations.is_empty() => Some(index),
        _ => None,
    });
    let came = match came {
        Some(index) => as_it_came(store, index, &manifests, form)?,
        None => None,
    };
    let index = came.unwrap_or_else(|| Raw::new(ImageIndex::new(listed(&manifests))));
    let kind = index.value().media_type.clone();
    let descriptor = index.descriptor(kind.as_deref().unwrap_or(media_type::INDEX));
    Ok(Documents::Index((index, descriptor), manifests))
}

/// The layers that [`documents`] makes sure of, those of all platforms, and how they are compressed.
///
/// # Errors
/// As there.
pub fn layers_to_make(store: &Store, id: &Digest, form: &Form) -> Result<Vec<(DiffId, CompressionOptions)>> {
    match store.stored(id)?.ok_or(ExportError::NoImage(*id))? {
        StoredImage::Image(image) => layers_in_form(store, &image.id, form),
        StoredImage::Index(index) => {
            let members = index.members.iter();
            let layers: Result<Vec<_>> = members
                .map(|member| layers_in_form(store, &member.image, form))
                .collect();
            Ok(layers?.concat())
        }
    }
}

fn listed(manifests: &[Document<ImageManifest>]) -> Vec<Descriptor> {
    manifests.iter().map(|(_, descriptor)| descriptor.clone()).collect()
}

fn index_documents(store: &Store, snapshotter: &Snapshotter, record: &IndexRecord, form: &Form) -> Result<Documents> {
    let mut manifests = Vec::with_capacity(record.members.len());
    let mut stated = Vec::new();
    for member in &record.members {
        let (manifest, mut descriptor) = manifest(store, snapshotter, &member.image, form)?;
        if let Some(image) = store.image(&member.image)? {
            stated.extend(attestations::manifests(
                store,
                &image.attestations,
                &descriptor,
                form.attestations,
            )?);
        }
        descriptor.platform = Some(member.platform.clone());
        descriptor.annotations.clone_from(&member.annotations);
        let more = form.annotations(AnnotationTarget::ManifestDescriptor, Some(&member.platform));
        descriptor.annotations.extend(more);
        manifests.push((manifest, descriptor));
    }
    if !stated.is_empty() {
        form.check_attested()?;
    }
    // After all images, as BuildKit lists them.
    manifests.extend(stated);
    let own = match &record.manifest {
        Some(own) => as_it_came(store, own, &manifests, form)?,
        None => None,
    };
    let mut wanted = match &own {
        Some(own) => own.value().clone(),
        None => {
            let mut index = ImageIndex::new(listed(&manifests));
            index.media_type = Some(form.dialect.unwrap_or(Dialect::Oci).index().into());
            index.annotations.clone_from(&record.annotations);
            index
        }
    };
    wanted
        .annotations
        .extend(form.annotations(AnnotationTarget::Index, None));
    if let Some(dialect) = form.dialect {
        wanted.media_type = Some(dialect.index().into());
        dialect.check(&wanted.annotations)?;
    }
    let index = match own {
        Some(own) if *own.value() == wanted => own,
        _ => Raw::new(wanted),
    };
    let kind = index.value().media_type.clone();
    let mut descriptor = index.descriptor(kind.as_deref().unwrap_or(media_type::INDEX));
    descriptor.annotations = form.annotations(AnnotationTarget::IndexDescriptor, None);
    Ok(Documents::Index((index, descriptor), manifests))
}

/// The index as it was pulled or loaded, when it lists these manifests and nothing else.
fn as_it_came(
    store: &Store,
    own: &Descriptor,
    manifests: &[Document<ImageManifest>],
    form: &Form,
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
    let more = |annotation: &Annotation| annotation.target == AnnotationTarget::ManifestDescriptor;
    let same = same && !form.annotations.iter().any(more);
    Ok(same.then_some(index))
}
