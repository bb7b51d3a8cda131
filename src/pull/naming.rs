//! The name of a pulled image. One index pulled for several platforms, at once or one after the other, is one name for
//! all of them; an image of another index takes the name away.

use super::{PullError, Puller, ResolvedImage};
use crate::cancel::Cancel;
use crate::oci::{Digest, Platform, media_type};
use crate::store::{Annotations, ImageRecord, IndexRecord, Member, Store, StoredImage};

/// Names the image in the store, if it came from a registry through this puller.
pub(super) fn name(puller: &Puller, image: &ResolvedImage, cancel: &Cancel) -> Result<(), PullError> {
    if !puller.found().contains_key(&image.id) {
        return Ok(());
    }
    let store = &puller.store;
    if is_named(store, image)? {
        return Ok(());
    }
    let record = ImageRecord::new(image.id, created(image), size(store, image)?).with_manifest(image.manifest.clone());
    store.put_image(&record)?;
    // Two platforms of one index may be named at the same time, by threads or processes.
    let _lock = store.lock(&format!("name {}", image.reference), cancel)?;
    let before = store.image_by_name(&image.reference)?;
    let id = match &before {
        Some(before) => joined(store, before, image)?.map_or(image.id, |index| index.id),
        None => image.id,
    };
    store.tag(&image.reference, id)?;
    if let Some(StoredImage::Index(old)) = before
        && old.id != id
        && store.names_of(&old.id)?.is_empty()
    {
        // What it consisted of is part of the new one, or has no name any more.
        store.remove_image(&old.id)?;
    }
    Ok(())
}

fn is_named(store: &Store, image: &ResolvedImage) -> Result<bool, PullError> {
    let named = match store.image_by_name(&image.reference)? {
        Some(StoredImage::Image(named)) => Some(named),
        Some(StoredImage::Index(index)) if index.members.iter().any(|member| member.image == image.id) => {
            store.image(&image.id)?
        }
        Some(StoredImage::Index(_)) | None => None,
    };
    Ok(named.is_some_and(|named| named.id == image.id && named.manifest == image.manifest))
}

/// The image together with what has its name already, if both are of one index; `None` where it takes the name alone.
fn joined(store: &Store, before: &StoredImage, image: &ResolvedImage) -> Result<Option<IndexRecord>, PullError> {
    let Some(index) = &image.index else {
        return Ok(None);
    };
    let platform = image.platform().clone().bare().normalized();
    let mut members = match before {
        StoredImage::Index(index) => index.members.clone(),
        StoredImage::Image(other) => vec![member(config_platform(store, other)?, other.id)],
    };
    members.retain(|member| member.platform != platform);
    if members.is_empty() {
        return Ok(None);
    }
    members.push(member(platform, image.id));
    let mut placed = Vec::new();
    for member in members {
        let manifest = store.image(&member.image)?.and_then(|image| image.manifest);
        let own = manifest.map(|manifest| manifest.digest);
        match index
            .value()
            .manifests
            .iter()
            .position(|listed| Some(listed.digest) == own)
        {
            Some(place) => placed.push((place, member)),
            None => return Ok(None),
        }
    }
    placed.sort_by_key(|(place, _)| *place);
    for (place, member) in &mut placed {
        member
            .annotations
            .clone_from(&index.value().manifests[*place].annotations);
    }
    // An index of which all is here can be sent on as it came, what is stated of the images among it.
    let whole = placed.len() == index.value().images().count();
    let document = match whole {
        true => {
            store.write_blob(index.bytes())?;
            let kind = index.value().media_type.as_deref().unwrap_or(media_type::INDEX);
            Some(index.descriptor(kind))
        }
        false => None,
    };
    let members = placed.into_iter().map(|(_, member)| member).collect();
    Ok(Some(store.put_index(
        members,
        index.value().annotations.clone(),
        document,
    )?))
}

fn member(platform: Platform, image: Digest) -> Member {
    Member {
        platform,
        image,
        annotations: Annotations::new(),
    }
}

fn config_platform(store: &Store, image: &ImageRecord) -> Result<Platform, PullError> {
    Ok(store
        .image_config(&image.config)?
        .into_value()
        .platform
        .bare()
        .normalized())
}

/// When the image was made, in seconds since 1970.
fn created(image: &ResolvedImage) -> i64 {
    let created = image.config.value().created.as_ref();
    created.and_then(|created| created.unix_seconds()).unwrap_or(0)
}

/// The size of its layers, uncompressed, in bytes.
fn size(store: &Store, image: &ResolvedImage) -> Result<u64, PullError> {
    let mut size = 0;
    for diff in &image.config.value().rootfs.diff_ids {
        for (snapshot, epoch) in store.snapshots_of_layer(*diff)?.into_iter().take(1) {
            size += store.diff_of(snapshot, epoch)?.map_or(0, |(_, size)| size);
        }
    }
    Ok(size)
}
