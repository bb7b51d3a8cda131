//! Records that an image carries itself: `type=inline`.
//!
//! The image's configuration names the keys of the steps that made its layers, in a field of its own. Together with the
//! layers that configuration and manifest list, that is a record for each of those steps. The field says nothing that
//! depends on which build made the image, or on what was known before: images stay reproducible.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::{RemoteLayer, RemoteRecord};
use crate::cache::{CacheKey, KEY_VERSION};
use crate::oci::{ImageConfig, ImageManifest, Timestamp};

/// The member of an image's configuration that holds the keys.
pub const FIELD: &str = "builder.cache.v1";
/// What BuildKit calls its own, which says nothing of an image that is built on the one that has it.
const FOREIGN_FIELD: &str = "moby.buildkit.cache.v0";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    key_version: u32,
    /// The keys of the results that end with the image's last layers, the lowest first: the last is that of the image.
    keys: Vec<String>,
}

/// Lets `config` carry `keys`: of the steps that made its last layers, one for each, the lowest first. None: nothing, and
/// nothing that a base image carried.
pub fn embed(config: &mut ImageConfig, keys: &[CacheKey]) {
    let members = &mut config.platform.other;
    members.remove(FIELD);
    members.remove(FOREIGN_FIELD);
    if keys.is_empty() {
        return;
    }
    let document = Document {
        key_version: KEY_VERSION,
        keys: keys.iter().map(CacheKey::to_string).collect(),
    };
    let value = serde_json::to_value(document).expect("its members are texts and numbers");
    members.insert(FIELD.to_owned(), value);
}

/// The records that an image carries; none where it carries none, or none that can be used.
pub(super) fn records(config: &ImageConfig, manifest: &ImageManifest) -> BTreeMap<CacheKey, RemoteRecord> {
    let keys = config.platform.other.get(FIELD).and_then(keys).unwrap_or_default();
    let (diffs, blobs) = (&config.rootfs.diff_ids, &manifest.layers);
    let Some(base) = diffs.len().checked_sub(keys.len()) else {
        return BTreeMap::new();
    };
    if diffs.len() != blobs.len() {
        return BTreeMap::new();
    }
    let layer = |(diff_id, blob): (&_, &crate::oci::Descriptor)| RemoteLayer {
        diff_id: *diff_id,
        blob: blob.clone(),
        origins: Vec::new(),
    };
    let layers: Vec<RemoteLayer> = diffs.iter().zip(blobs).map(layer).collect();
    let created = config
        .created
        .as_ref()
        .and_then(Timestamp::unix_seconds)
        .unwrap_or_default();
    let record = |(number, key): (usize, CacheKey)| {
        let layers = layers[..base + number + 1].to_vec();
        (key, RemoteRecord { key, created, layers })
    };
    keys.into_iter().enumerate().map(record).collect()
}

fn keys(value: &Value) -> Option<Vec<CacheKey>> {
    let document = Document::deserialize(value).ok()?;
    let keys = document.keys.iter().map(|key| CacheKey::parse(key));
    keys.collect::<Option<Vec<_>>>()
        .filter(|_| document.key_version == KEY_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, DiffId, Digest, Platform, Raw, media_type};

    fn image(layers: u8, keys: &[CacheKey]) -> (ImageConfig, ImageManifest) {
        let mut config = ImageConfig::scratch(Platform::host());
        config.rootfs.diff_ids = (0..layers).map(|number| DiffId(Digest::of(&[number]))).collect();
        embed(&mut config, keys);
        let blob = |number| Descriptor::new(media_type::LAYER_GZIP, Digest::of(&[number, 0]), 5);
        let config_blob = Raw::new(config.clone()).descriptor(media_type::CONFIG);
        (config, ImageManifest::new(config_blob, (0..layers).map(blob).collect()))
    }

    #[test]
    fn each_key_stands_for_the_layers_up_to_its_own() {
        let keys = [CacheKey([1; 32]), CacheKey([2; 32])];
        let (config, manifest) = image(3, &keys);
        let read = Raw::<ImageConfig>::parse(Raw::new(config).bytes().to_vec()).unwrap();
        let found = records(read.value(), &manifest);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), keys);
        assert_eq!(found[&keys[0]].layers.len(), 2);
        assert_eq!(found[&keys[1]].layers.len(), 3);
        assert_eq!(found[&keys[1]].layers[2].diff_id, DiffId(Digest::of(&[2])));
        assert_eq!(found[&keys[1]].layers[2].blob, manifest.layers[2]);
    }

    #[test]
    fn what_does_not_match_the_layers_is_no_record() {
        let keys = [CacheKey([1; 32]), CacheKey([2; 32])];
        let (config, manifest) = image(1, &keys);
        assert!(records(&config, &manifest).is_empty());
        let (config, mut manifest) = image(3, &keys);
        manifest.layers.pop();
        assert!(records(&config, &manifest).is_empty());
        let (mut config, manifest) = image(3, &keys);
        for forged in [
            serde_json::json!({"keyVersion": KEY_VERSION + 1, "keys": [keys[0].to_string()]}),
            serde_json::json!({"keyVersion": KEY_VERSION, "keys": ["../x"]}),
            serde_json::json!({"keyVersion": KEY_VERSION, "keys": "x"}),
            serde_json::json!(7),
        ] {
            config.platform.other.insert(FIELD.to_owned(), forged);
            assert!(records(&config, &manifest).is_empty());
        }
    }

    #[test]
    fn what_a_base_image_carried_is_not_carried_on() {
        let (mut config, manifest) = image(2, &[CacheKey([1; 32])]);
        config
            .platform
            .other
            .insert(FOREIGN_FIELD.to_owned(), serde_json::json!("x"));
        embed(&mut config, &[]);
        assert!(config.platform.other.is_empty());
        assert!(records(&config, &manifest).is_empty());
    }
}
