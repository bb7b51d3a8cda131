//! Small images, made by hand.

use std::io::Write;

use builder::oci::{Descriptor, DiffId, Digest, ImageConfig, ImageManifest, Platform, Raw, media_type};

use super::LyingRegistry;

/// A layer: its tar, and the form in which a registry has it.
#[derive(Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
    pub media_type: String,
}

impl Layer {
    pub fn diff(&self) -> DiffId {
        DiffId(Digest::of(&self.tar))
    }

    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(&self.media_type, &self.blob)
    }

    /// One with the files `files`, gzip.
    pub fn gzip(files: &[(&str, &[u8])]) -> Self {
        let tar = tar(files);
        Self {
            blob: gzip(&tar),
            tar,
            media_type: media_type::LAYER_GZIP.into(),
        }
    }

    /// The same, zstd.
    pub fn zstd(files: &[(&str, &[u8])]) -> Self {
        let tar = tar(files);
        let blob = zstd::encode_all(tar.as_slice(), 3).unwrap();
        Self {
            tar,
            blob,
            media_type: media_type::LAYER_ZSTD.into(),
        }
    }

    /// The same, not compressed.
    pub fn plain(files: &[(&str, &[u8])]) -> Self {
        let tar = tar(files);
        Self {
            blob: tar.clone(),
            tar,
            media_type: media_type::LAYER.into(),
        }
    }
}

pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image: what a registry holds of it.
pub struct Image {
    pub config: Raw<ImageConfig>,
    pub manifest: Raw<ImageManifest>,
    pub layers: Vec<Layer>,
}

impl Image {
    /// An image for this machine.
    pub fn of(layers: &[Layer]) -> Self {
        Self::for_platform(&Platform::host(), layers)
    }

    pub fn for_platform(platform: &Platform, layers: &[Layer]) -> Self {
        let mut config = ImageConfig::scratch(platform.clone());
        config.rootfs.diff_ids = layers.iter().map(Layer::diff).collect();
        let config = Raw::new(config);
        let descriptors = layers.iter().map(Layer::descriptor).collect();
        let manifest = ImageManifest::new(config.descriptor(media_type::CONFIG), descriptors);
        Self {
            config,
            manifest: Raw::new(manifest),
            layers: layers.to_vec(),
        }
    }

    /// Puts it into `registry`; gives the manifest's descriptor.
    pub fn put(&self, registry: &LyingRegistry, repository: &str, tag: &str) -> Descriptor {
        for layer in &self.layers {
            registry.put_blob(repository, &layer.blob);
        }
        registry.put_blob(repository, self.config.bytes());
        registry.put_manifest(repository, tag, media_type::MANIFEST, self.manifest.bytes());
        Descriptor {
            platform: Some(self.config.value().platform.clone()),
            ..self.manifest.descriptor(media_type::MANIFEST)
        }
    }
}
