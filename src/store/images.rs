//! Images and their names. An image is known by the digest of its configuration, as Docker knows it.

use rusqlite::{Connection, OptionalExtension, Row};

use super::Store;
use super::error::{Result, StoreError};
use super::index::{Kind, mark_volatile};
use crate::oci::{Descriptor, Digest, ImageConfig, LARGEST_MANIFEST, Raw, Reference};

/// An image of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageRecord {
    /// The digest of its configuration document, which is a blob of the store.
    pub id: Digest,
    /// Its manifest as it was pulled or loaded, a blob of the store too; `None` for one that was built here and has
    /// not been compressed yet.
    pub manifest: Option<Descriptor>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The size of its layers, uncompressed where that is known, in bytes.
    pub size: u64,
}

const COLUMNS: &str = "id, manifest, created, size";

/// A row before its texts are parsed.
type ImageRow = ([u8; 32], Option<String>, i64, i64);

fn image_row(row: &Row) -> rusqlite::Result<ImageRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn image_record((id, manifest, created, size): ImageRow) -> Result<ImageRecord> {
    let manifest = manifest.map(|json| serde_json::from_str(&json)).transpose();
    Ok(ImageRecord {
        id: Digest::from_bytes(id),
        manifest: manifest.map_err(|_| StoreError::MalformedRow { what: "descriptor" })?,
        created,
        size: size.cast_unsigned(),
    })
}

fn parse_name(name: &str) -> Result<Reference> {
    name.parse().map_err(|_| StoreError::MalformedRow { what: "name" })
}

impl Store {
    /// Records an image whose configuration, and manifest where it has one, are blobs of the store already.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when one of them is not; errors of the index.
    pub fn put_image(&self, image: &ImageRecord) -> Result<()> {
        for digest in [Some(image.id), image.manifest.as_ref().map(|manifest| manifest.digest)]
            .iter()
            .flatten()
        {
            if !self.has_blob(digest)? {
                return Err(StoreError::NoBlob(*digest));
            }
        }
        // A build that changes nothing writes nothing, and has nothing to sync.
        if self.image(&image.id)?.as_ref() == Some(image) {
            return Ok(());
        }
        let json = image.manifest.as_ref().map(serde_json::to_string).transpose();
        let json = json.map_err(|_| StoreError::MalformedRow { what: "descriptor" })?;
        let digest = image.manifest.as_ref().map(|manifest| *manifest.digest.as_bytes());
        let row = (
            image.id.as_bytes(),
            digest,
            json,
            image.created,
            image.size.cast_signed(),
        );
        self.index().write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT INTO images (id, manifest_digest, manifest, created, size) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (id) DO UPDATE SET created = excluded.created, size = excluded.size,
                         manifest_digest = coalesce(excluded.manifest_digest, manifest_digest),
                         manifest = coalesce(excluded.manifest, manifest)",
                )?
                .execute(row)?;
            mark_volatile(transaction, Kind::Image, image.id.as_bytes())
        })
    }

    /// Lets `name` mean the image `id`, whatever it meant before.
    ///
    /// # Errors
    /// [`StoreError::NoImage`]; errors of the index.
    pub fn tag(&self, name: &Reference, id: Digest) -> Result<()> {
        if self.names_of(&id)?.contains(name) {
            return Ok(());
        }
        let tagged = self.index().write(|transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO names (name, image) SELECT ?1, id FROM images WHERE id = ?2")?
                .execute((name.to_string(), id.as_bytes()))
        })?;
        match tagged {
            0 => Err(StoreError::NoImage(id)),
            _ => Ok(()),
        }
    }

    /// Takes a name away; the image that it meant.
    ///
    /// # Errors
    /// Those of the index.
    pub fn untag(&self, name: &Reference) -> Result<Option<Digest>> {
        self.index().write(|transaction| {
            transaction
                .prepare_cached("DELETE FROM names WHERE name = ?1 RETURNING image")?
                .query_row([name.to_string()], |row| row.get(0).map(Digest::from_bytes))
                .optional()
        })
    }

    /// The image that `name` means. A name with a digest means the image with that manifest, wherever it came from.
    ///
    /// # Errors
    /// Those of the index.
    pub fn image_by_name(&self, name: &Reference) -> Result<Option<ImageRecord>> {
        let found = self.index().read(|connection| match name.digest() {
            Some(digest) => connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE manifest_digest = ?1"))?
                .query_row([digest.as_bytes()], image_row)
                .optional(),
            None => connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM images JOIN names ON names.image = images.id WHERE name = ?1"
                ))?
                .query_row([name.to_string()], image_row)
                .optional(),
        })?;
        found.map(image_record).transpose()
    }

    /// The image with this id.
    ///
    /// # Errors
    /// Those of the index.
    pub fn image(&self, id: &Digest) -> Result<Option<ImageRecord>> {
        let found = self.index().read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE id = ?1"))?
                .query_row([id.as_bytes()], image_row)
                .optional()
        })?;
        found.map(image_record).transpose()
    }

    /// Finds an image by what a person typed: a whole id (`sha256:…` or 64 digits), a name, or the first digits of an id,
    /// in this order.
    ///
    /// # Errors
    /// [`StoreError::AmbiguousId`]; errors of the index.
    pub fn find_image(&self, text: &str) -> Result<Option<ImageRecord>> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(id) = format!("sha256:{digits}").parse()
            && let Some(image) = self.image(&id)?
        {
            return Ok(Some(image));
        }
        if let Ok(name) = text.parse::<Reference>()
            && let Some(image) = self.image_by_name(&name)?
        {
            return Ok(Some(image));
        }
        self.image_by_prefix(digits)
    }

    fn image_by_prefix(&self, digits: &str) -> Result<Option<ImageRecord>> {
        let is_prefix = (1..64).contains(&digits.len())
            && digits
                .bytes()
                .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
        if !is_prefix {
            return Ok(None);
        }
        let mut rows: Vec<ImageRow> = self.index().read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM images WHERE substr(lower(hex(id)), 1, ?2) = ?1"
                ))?
                .query_map((digits, digits.len() as i64), image_row)?
                .collect()
        })?;
        match rows.len() {
            0 | 1 => rows.pop().map(image_record).transpose(),
            matches => Err(StoreError::AmbiguousId {
                prefix: digits.into(),
                matches,
            }),
        }
    }

    /// All images, newest first, each with its names.
    ///
    /// # Errors
    /// Those of the index.
    pub fn images(&self) -> Result<Vec<(ImageRecord, Vec<Reference>)>> {
        let rows: Vec<(ImageRow, Vec<String>)> = self.index().read(|connection| {
            let images: Vec<ImageRow> = connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM images ORDER BY created DESC, id"))?
                .query_map((), image_row)?
                .collect::<rusqlite::Result<_>>()?;
            images
                .into_iter()
                .map(|image| Ok((image_names(connection, &image.0)?, image)))
                .map(|pair: rusqlite::Result<_>| pair.map(|(names, image)| (image, names)))
                .collect()
        })?;
        rows.into_iter()
            .map(|(image, names)| {
                let names = names.iter().map(|name| parse_name(name)).collect::<Result<_>>()?;
                Ok((image_record(image)?, names))
            })
            .collect()
    }

    /// The names of one image, in alphabetical order.
    ///
    /// # Errors
    /// Those of the index.
    pub fn names_of(&self, id: &Digest) -> Result<Vec<Reference>> {
        let names = self.index().read(|connection| image_names(connection, id.as_bytes()))?;
        names.iter().map(|name| parse_name(name)).collect()
    }

    /// Forgets an image and its names; whether there was one. [`Store::collect`] removes its content.
    ///
    /// # Errors
    /// Those of the index.
    pub fn remove_image(&self, id: &Digest) -> Result<bool> {
        self.index()
            .write(|transaction| transaction.execute("DELETE FROM images WHERE id = ?1", [id.as_bytes()]))
            .map(|removed| removed > 0)
    }

    /// Reads and verifies an image's configuration.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::WrongDigest`], [`StoreError::NoConfig`].
    pub fn image_config(&self, id: &Digest) -> Result<Raw<ImageConfig>> {
        let bytes = self.read_blob(id, LARGEST_MANIFEST as u64)?;
        Raw::parse(bytes).map_err(|source| StoreError::NoConfig { digest: *id, source })
    }
}

fn image_names(connection: &Connection, id: &[u8; 32]) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached("SELECT name FROM names WHERE image = ?1 ORDER BY name")?
        .query_map([id], |row| row.get(0))?
        .collect()
}
