//! A build's result becomes an image of the store: its layers' digests, its configuration, its names.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::annotations::AnnotationTarget;
use super::compress::CompressionOptions;
use super::error::{ExportError, Result};
use super::form::{Dialect, Form};
use super::layer::diff_id;
use crate::oci::{
    ChainId, Descriptor, DiffId, Digest, History, ImageConfig, ImageManifest, LARGEST_MANIFEST, Raw, Reference,
    Timestamp, media_type,
};
use crate::snapshot::Snapshotter;
use crate::store::{Annotations, Attestation, ImageRecord, SnapshotId, SnapshotRecord, Store};

/// What an image is made from.
#[derive(Clone, Debug)]
pub struct ImageRequest<'a> {
    /// The layers of the base image, lowest first; they keep their digests.
    pub base: &'a [DiffId],
    /// The snapshot on top; `None` when no step made one and the base is not unpacked.
    pub result: Option<SnapshotId>,
    /// The configuration, complete but for its layers and times.
    pub config: ImageConfig,
    /// `SOURCE_DATE_EPOCH`: replaces every time in the new layers.
    pub epoch: Option<i64>,
    /// When the image was made, in seconds since 1970.
    pub created: i64,
    /// What its manifest is to say besides.
    pub annotations: Annotations,
    /// What it is to be called.
    pub names: &'a [Reference],
}

/// An image that was made.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// By what the store knows it: the digest of its configuration, unless it has annotations or something is stated about it.
    pub id: Digest,
    /// The digest of its configuration.
    pub config_digest: Digest,
    /// Its configuration.
    pub config: Raw<ImageConfig>,
    /// The size of its layers, uncompressed where that is known, in bytes.
    pub size: u64,
}

/// An image whose configuration is complete, and that is not recorded yet.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The configuration, a blob of the store.
    pub config: Raw<ImageConfig>,
    /// The size of its layers, uncompressed where that is known, in bytes.
    pub size: u64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    annotations: Annotations,
}

impl Composed {
    /// Records the image, with what is stated about it.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn record(self, store: &Store, attestations: Vec<Attestation>) -> Result<BuiltImage> {
        let config_digest = self.config.digest();
        let record = ImageRecord::new(config_digest, self.created, self.size)
            .annotated(self.annotations)
            .attested(attestations);
        store.put_image(&record)?;
        Ok(BuiltImage {
            id: record.id,
            config_digest,
            config: self.config,
            size: self.size,
        })
    }
}

/// Makes an image of the store and names it. Nothing is compressed.
///
/// # Errors
/// A history that does not match the layers, a snapshot that is gone, errors of the store.
pub fn image(store: &Store, snapshotter: &Snapshotter, request: ImageRequest<'_>) -> Result<BuiltImage> {
    let names = request.names;
    let built = compose(store, snapshotter, request)?.record(store, Vec::new())?;
    for name in names {
        store.tag(name, built.id)?;
    }
    Ok(built)
}

/// Makes an image's layers known and its configuration complete, for [`Composed::record`]. Names are left to the caller.
///
/// # Errors
/// A history that does not match the layers, a snapshot that is gone, errors of the store.
pub fn compose(store: &Store, snapshotter: &Snapshotter, request: ImageRequest<'_>) -> Result<Composed> {
    let snapshots = match request.result {
        Some(result) => store.layers(result)?,
        None => Vec::new(),
    };
    let layers = layers(store, snapshotter, &request, &snapshots)?;
    record_chains(store, request.base.len(), &layers, &snapshots)?;
    let size = layers.iter().map(|(_, size)| size).sum();
    let created = Timestamp::from_unix(request.created);
    let mut config = request.config;
    complete_history(&mut config.history, request.base.len(), layers.len(), &created)?;
    config.created = Some(created);
    config.rootfs.diff_ids = layers.into_iter().map(|(layer, _)| layer).collect();
    let config = Raw::new(config);
    store.write_blob(config.bytes())?;
    Ok(Composed {
        config,
        size,
        created: request.created,
        annotations: request.annotations,
    })
}

/// All layers with their sizes in bytes (0 where it is not known), lowest first; new ones are hashed at once.
fn layers(
    store: &Store,
    snapshotter: &Snapshotter,
    request: &ImageRequest<'_>,
    snapshots: &[SnapshotRecord],
) -> Result<Vec<(DiffId, u64)>> {
    let (base, new) = match request.result {
        None => (&[][..], &[][..]),
        Some(_) => snapshots
            .split_at_checked(request.base.len())
            .ok_or(ExportError::Base {
                snapshots: snapshots.len(),
                base: request.base.len(),
            })?,
    };
    let mut layers = Vec::new();
    for (number, layer) in request.base.iter().enumerate() {
        let unpacked = base
            .get(number)
            .map(|snapshot| store.diff_of(snapshot.id, None))
            .transpose()?;
        let size = unpacked.flatten().map_or(0, |(_, size)| size);
        layers.push((*layer, size));
    }
    let hashed: Result<Vec<_>> = new
        .par_iter()
        .map(|snapshot| diff_id(store, snapshotter, snapshot.id, request.epoch))
        .collect();
    layers.extend(hashed?);
    Ok(layers)
}

/// Lets the new stacks be found by their layers: what stands on this image need not unpack it.
fn record_chains(store: &Store, base: usize, layers: &[(DiffId, u64)], snapshots: &[SnapshotRecord]) -> Result<()> {
    let mut chain = None;
    for (number, (layer, _)) in layers.iter().enumerate() {
        let extended = ChainId::extend(chain, *layer);
        if number >= base
            && let Some(snapshot) = snapshots.get(number)
        {
            store.record_chain(extended, snapshot.id)?;
        }
        chain = Some(extended);
    }
    Ok(())
}

/// Dates the new entries, and gives entries to a base that has none.
fn complete_history(history: &mut Vec<History>, base: usize, layers: usize, created: &Timestamp) -> Result<()> {
    for entry in history.iter_mut().filter(|entry| entry.created.is_none()) {
        entry.created = Some(created.clone());
    }
    let told = history.iter().filter(|entry| !entry.empty_layer).count();
    if told == layers {
        return Ok(());
    }
    if told + base != layers {
        return Err(ExportError::History { history: told, layers });
    }
    // Some tools write images without any history; the specification allows it.
    history.splice(0..0, std::iter::repeat_n(History::default(), base));
    Ok(())
}

/// The manifest of an image, with all its layers as blobs of the store. An image that came with a manifest whose blobs
/// are all here keeps it, unless another form is asked for.
///
/// # Errors
/// [`ExportError::NoLayer`] when a layer's content is not here; [`ExportError::NotInDocker`]; errors of the store.
pub fn manifest(
    store: &Store,
    snapshotter: &Snapshotter,
    id: &Digest,
    form: &Form,
) -> Result<(Raw<ImageManifest>, Descriptor)> {
    let record = store.image(id)?.ok_or(ExportError::NoImage(*id))?;
    let config = store.image_config(&record.config)?;
    let platform = config.value().platform.clone().bare().normalized();
    let own = match &record.manifest {
        Some(own) => whole_manifest(store, own)?.map(|manifest| (manifest, own)),
        None => None,
    };
    let mut wanted = match &own {
        Some((own, _)) if form.compression.is_none() => own.value().clone(),
        _ => {
            let diffs = config.value().rootfs.diff_ids.iter();
            let layers: Result<Vec<_>> = diffs.map(|diff| form.layer(store, snapshotter, *diff)).collect();
            let (layers, diffs) = layers?.into_iter().map(|blob| (blob.descriptor, blob.layer)).unzip();
            let mut manifest = match &own {
                Some((own, _)) => own.value().clone(),
                None => ImageManifest::new(config.descriptor(media_type::CONFIG), Vec::new()),
            };
            manifest.layers = kept_descriptors(layers, own.as_ref().map(|(own, _)| own.value()));
            name_layers(store, &mut manifest, &config, diffs)?;
            manifest
        }
    };
    if own.is_none() || form.dialect.is_some() {
        speak(&mut wanted, form.dialect.unwrap_or(Dialect::Oci))?;
    }
    if own.is_none() {
        wanted.annotations = record.annotations;
    }
    wanted
        .annotations
        .extend(form.annotations(AnnotationTarget::Manifest, Some(&platform)));
    if let Some(dialect) = form.dialect {
        dialect.check(&wanted.annotations)?;
    }
    let (manifest, kind) = match own {
        Some((own, descriptor)) if *own.value() == wanted => (own, descriptor.media_type.clone()),
        _ => {
            let kind = wanted.media_type.clone().unwrap_or_else(|| media_type::MANIFEST.into());
            (Raw::new(wanted), kind)
        }
    };
    let descriptor = Descriptor {
        platform: Some(platform),
        ..manifest.descriptor(&kind)
    };
    Ok((manifest, descriptor))
}

/// Gives the manifest a configuration with the layers that it has: those of an eStargz are others with the same files.
fn name_layers(
    store: &Store,
    manifest: &mut ImageManifest,
    config: &Raw<ImageConfig>,
    layers: Vec<DiffId>,
) -> Result<()> {
    if config.value().rootfs.diff_ids == layers {
        return Ok(());
    }
    let mut config = config.value().clone();
    config.rootfs.diff_ids = layers;
    let config = Raw::new(config);
    store.write_blob(config.bytes())?;
    manifest.config = config.descriptor(&manifest.config.media_type);
    Ok(())
}

/// The layers that [`manifest`] makes sure of, and how they are compressed.
///
/// # Errors
/// An image that is not there; errors of the store.
pub fn layers_in_form(store: &Store, id: &Digest, form: &Form) -> Result<Vec<(DiffId, CompressionOptions)>> {
    let record = store.image(id)?.ok_or(ExportError::NoImage(*id))?;
    if form.compression.is_none()
        && let Some(own) = &record.manifest
        && whole_manifest(store, own)?.is_some()
    {
        return Ok(Vec::new());
    }
    let config = store.image_config(&record.config)?;
    let diffs = config.value().rootfs.diff_ids.iter();
    diffs.map(|diff| Ok((*diff, form.options(store, *diff)?))).collect()
}

/// The layers, each as the image's own manifest describes it where that is the same blob: it may say more.
fn kept_descriptors(layers: Vec<Descriptor>, own: Option<&ImageManifest>) -> Vec<Descriptor> {
    let same = |layer: &Descriptor| own.and_then(|own| own.layers.iter().find(|own| own.digest == layer.digest));
    layers
        .into_iter()
        .map(|layer| same(&layer).cloned().unwrap_or(layer))
        .collect()
}

/// Gives the manifest and what it lists the media types of `dialect`.
fn speak(manifest: &mut ImageManifest, dialect: Dialect) -> Result<()> {
    // A manifest whose configuration is none of an image is something else, and stays that.
    if [media_type::CONFIG, media_type::DOCKER_CONFIG].contains(&manifest.config.media_type.as_str()) {
        manifest.config.media_type = dialect.config().into();
    }
    manifest.media_type = Some(dialect.manifest().into());
    for layer in &mut manifest.layers {
        layer.media_type = dialect.layer(&layer.media_type)?;
        if dialect == Dialect::Docker {
            layer.annotations.clear();
        }
    }
    Ok(())
}

/// The manifest that an image came with, when all that it names is here.
fn whole_manifest(store: &Store, descriptor: &Descriptor) -> Result<Option<Raw<ImageManifest>>> {
    if !store.has_blob(&descriptor.digest)? {
        return Ok(None);
    }
    let bytes = store.read_blob(&descriptor.digest, LARGEST_MANIFEST as u64)?;
    let manifest: Raw<ImageManifest> = Raw::parse(bytes).map_err(|source| ExportError::Document {
        document: descriptor.digest.to_string(),
        source,
    })?;
    for layer in &manifest.value().layers {
        if !store.has_blob(&layer.digest)? {
            return Ok(None);
        }
    }
    Ok(Some(manifest))
}

/// The annotations by which readers find an image in a layout: the tag (image specification, "Pre-Defined Annotation
/// Keys") and the whole name, as containerd and BuildKit write it.
pub(super) fn name_annotations(name: &Reference) -> BTreeMap<String, String> {
    let tag = name.tag().map(|tag| (super::REF_NAME.to_owned(), tag.to_owned()));
    let whole = (super::CONTAINERD_NAME.to_owned(), name.to_string());
    tag.into_iter().chain([whole]).collect()
}
