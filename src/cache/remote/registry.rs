//! A cache in a registry, `type=registry`: each record is a manifest under a tag of its own, and lists the blobs that it
//! needs, so that the registry keeps them as long as the record. Looked up in one request, and written without asking
//! what others write.
//!
//! Records that the image behind the reference carries itself (`type=inline`) count too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::inline;
use super::timed::Timed;
use super::{LARGEST_RECORD, RemoteCache, RemoteError};
use crate::cache::CacheKey;
use crate::oci::{
    Descriptor, Digest, ImageConfig, ImageManifest, LARGEST_MANIFEST, ManifestOrIndex, Raw, Reference, media_type,
};
use crate::registry::{Client, Patience};
use crate::store::Store;

/// What a record's manifest says that it is.
const ARTIFACT: &str = "application/vnd.builder.cache.record.v1+json";
/// The annotation that holds the record: with it in the manifest itself, a look-up is one request.
const RECORD: &str = "builder.cache.record.v1";
/// What stands where there is no configuration. Image specification, "Guidance for an Empty Descriptor".
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Characters that a reference's tag may have: a key and a hyphen follow it, and registries take 128.
pub const LONGEST_TAG: usize = 63;
/// Images of an index that are asked for the records that they carry.
const MOST_IMAGES: usize = 16;
/// Bytes that an image's configuration may have to be looked at.
const LARGEST_CONFIG: u64 = 8 << 20;

/// How long a registry is waited for that is only a cache: one that does not answer costs no more than ten seconds.
pub const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    idle: Duration::from_secs(10),
    finish: Duration::from_secs(120),
    exchange: Duration::from_secs(10),
    attempts: 3,
    first_pause: Duration::from_millis(250),
    longest_pause: Duration::from_secs(5),
};

/// `type=registry`.
pub struct RegistryCache {
    client: Client,
    /// Of a cache that is written to: knows which other repositories have the blobs that it is given.
    store: Option<Store>,
    reference: Reference,
    name: String,
    /// Whether the repository has the empty configuration.
    has_empty: Mutex<bool>,
    /// What the image behind the reference carries, when it was asked for that.
    carried: Mutex<Option<BTreeMap<CacheKey, Vec<u8>>>>,
}

impl RegistryCache {
    /// The cache in the repository of `reference`, whose tag sets its records apart from those of other tags. `client`
    /// should have [`PATIENCE`]. With a `store` it is one to write to, and what an image carries does not count.
    pub fn new(client: Client, store: Option<Store>, reference: Reference) -> Self {
        let name = format!("type=registry ({})", reference.familiar());
        Self {
            client,
            store,
            reference,
            name,
            has_empty: Mutex::new(false),
            carried: Mutex::new(None),
        }
    }

    /// The reference of a record.
    fn record(&self, key: CacheKey) -> Result<Reference, RemoteError> {
        let tag = format!("{}-{key}", self.reference.manifest_reference());
        let record = self.reference.with_tag(&tag);
        record.ok_or_else(|| RemoteError::LongTag {
            reference: self.reference.to_string(),
        })
    }

    /// What is behind `reference`, if anything is.
    fn document(&self, reference: &Reference) -> Result<Option<ManifestOrIndex>, RemoteError> {
        match self.client.manifest(reference) {
            Ok((document, _)) => Ok(Some(document)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A record that the image behind the reference carries. The image is asked for once.
    fn carried(&self, key: CacheKey) -> Result<Option<Vec<u8>>, RemoteError> {
        let mut carried = lock(&self.carried);
        if carried.is_none() {
            // Where that fails, those who wait for it need not fail too.
            *carried = Some(BTreeMap::new());
            *carried = Some(self.carried_by_all()?);
        }
        Ok(carried.as_ref().and_then(|records| records.get(&key).cloned()))
    }

    fn carried_by_all(&self) -> Result<BTreeMap<CacheKey, Vec<u8>>, RemoteError> {
        let mut records = BTreeMap::new();
        match self.document(&self.reference)? {
            None => {}
            Some(ManifestOrIndex::Manifest(manifest)) => self.carried_by(manifest.value(), &mut records)?,
            Some(ManifestOrIndex::Index(index)) => {
                for image in index.value().images().take(MOST_IMAGES) {
                    let image = self.document(&self.reference.with_digest(image.digest))?;
                    if let Some(ManifestOrIndex::Manifest(manifest)) = image {
                        self.carried_by(manifest.value(), &mut records)?;
                    }
                }
            }
        }
        Ok(records)
    }

    fn carried_by(
        &self,
        manifest: &ImageManifest,
        records: &mut BTreeMap<CacheKey, Vec<u8>>,
    ) -> Result<(), RemoteError> {
        let config = &manifest.config;
        let is_image = matches!(
            config.media_type.as_str(),
            media_type::CONFIG | media_type::DOCKER_CONFIG
        );
        if !is_image || config.size > LARGEST_CONFIG {
            return Ok(());
        }
        let bytes = self.client.blob(&self.reference, config)?.read_all()?;
        if let Ok(config) = Raw::<ImageConfig>::parse(bytes) {
            let found = inline::records(config.value(), manifest);
            records.extend(found.into_iter().map(|(key, record)| (key, record.encode())));
        }
        Ok(())
    }

    /// Sees to it that the repository has the empty configuration, which each record's manifest refers to.
    fn keep_empty(&self) -> Result<Descriptor, RemoteError> {
        let empty = Descriptor::of(EMPTY_TYPE, EMPTY);
        let mut has_empty = lock(&self.has_empty);
        if !*has_empty {
            let open = || Ok(Box::new(EMPTY) as Box<dyn Read + Send>);
            self.client.upload_blob(&self.reference, &empty, None, &open)?;
            *has_empty = true;
        }
        Ok(empty)
    }

    /// A repository of the same registry that has a blob.
    fn neighbour(&self, blob: Digest) -> Option<Reference> {
        // Where that cannot be found out, the blob is uploaded.
        let origins = self.store.as_ref().and_then(|store| store.origins(blob).ok());
        origins.unwrap_or_default().into_iter().find(|origin| {
            origin.registry() == self.reference.registry() && origin.repository() != self.reference.repository()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The manifest of a record.
fn manifest(record: &[u8], config: Descriptor, blobs: &[Descriptor]) -> Raw<ImageManifest> {
    let layers = match blobs {
        // A manifest has layers: some registries take none that has not.
        [] => vec![config.clone()],
        blobs => blobs.to_vec(),
    };
    let mut manifest = ImageManifest::new(config, layers);
    manifest.other.insert("artifactType".to_owned(), Value::from(ARTIFACT));
    let text = String::from_utf8_lossy(record).into_owned();
    manifest.annotations.insert(RECORD.to_owned(), text);
    Raw::new(manifest)
}

impl RemoteCache for RegistryCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_record(&self, key: CacheKey) -> Result<Option<Vec<u8>>, RemoteError> {
        let reference = self.record(key)?;
        let no_record = || RemoteError::NoRecord {
            reference: reference.to_string(),
        };
        let record = match self.document(&reference)? {
            None if self.store.is_some() => return Ok(None),
            None => return self.carried(key),
            Some(ManifestOrIndex::Index(_)) => return Err(no_record()),
            Some(ManifestOrIndex::Manifest(manifest)) => manifest.into_value().annotations.remove(RECORD),
        };
        let record = record.ok_or_else(no_record)?.into_bytes();
        match record.len() as u64 > LARGEST_RECORD {
            true => Err(RemoteError::LargeRecord { key }),
            false => Ok(Some(record)),
        }
    }

    fn write_record(&self, key: CacheKey, record: &[u8], blobs: &[Descriptor]) -> Result<(), RemoteError> {
        let reference = self.record(key)?;
        let manifest = manifest(record, self.keep_empty()?, blobs);
        if manifest.bytes().len() > LARGEST_MANIFEST {
            return Err(RemoteError::LargeRecord { key });
        }
        self.client
            .put_manifest(&reference, media_type::MANIFEST, manifest.bytes())?;
        Ok(())
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, RemoteError> {
        Ok(self.client.has_blob(&self.reference, blob.digest)?)
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Option<Box<dyn Read + Send>>, RemoteError> {
        match self.client.blob(&self.reference, blob) {
            Ok(reader) => Ok(Some(Box::new(Timed::new(reader, blob.size)))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write_blob(&self, blob: &Descriptor, content: File) -> Result<(), RemoteError> {
        let open = || -> io::Result<Box<dyn Read + Send>> {
            let mut content = content.try_clone()?;
            content.rewind()?;
            Ok(Box::new(Timed::new(content, blob.size)))
        };
        let neighbour = self.neighbour(blob.digest);
        self.client
            .upload_missing_blob(&self.reference, blob, neighbour.as_ref(), &open)?;
        // An image that is pushed to the same registry can take the layer from here.
        if let Some(store) = &self.store {
            let _ = store.record_origin(blob.digest, &self.reference);
        }
        Ok(())
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::registry::{Credentials, RegistryConfig};

    fn cache(reference: &str) -> RegistryCache {
        let client = Client::new(
            RegistryConfig::default(),
            Credentials::default(),
            Cancel::new().unwrap(),
        );
        RegistryCache::new(client, None, reference.parse().unwrap())
    }

    #[test]
    fn caches_with_different_tags_have_different_records() {
        let key = CacheKey([0xab; 32]);
        let tag = |reference: &str| cache(reference).record(key).unwrap().tag().map(str::to_owned).unwrap();
        let hex = "ab".repeat(32);
        assert_eq!(tag("registry.example/team/cache"), format!("latest-{hex}"));
        assert_eq!(tag("registry.example/team/cache:main"), format!("main-{hex}"));
        let longest = "t".repeat(LONGEST_TAG);
        assert_eq!(
            tag(&format!("registry.example/c:{longest}")),
            format!("{longest}-{hex}")
        );
        assert!(cache(&format!("registry.example/c:{longest}t")).record(key).is_err());
    }

    #[test]
    fn a_records_manifest_refers_to_the_blobs_that_it_needs() {
        let config = Descriptor::of(EMPTY_TYPE, EMPTY);
        let blob = Descriptor::new(media_type::LAYER_ZSTD, Digest::of(b"layer"), 5);
        let with = manifest(b"{}", config.clone(), std::slice::from_ref(&blob));
        let read = ManifestOrIndex::parse(with.bytes().to_vec(), None).unwrap();
        let ManifestOrIndex::Manifest(read) = read else {
            panic!("{read:?}")
        };
        assert_eq!(read.value().layers, [blob]);
        assert_eq!(read.value().annotations[RECORD], "{}");
        assert_eq!(manifest(b"{}", config.clone(), &[]).value().layers, [config]);
    }
}
