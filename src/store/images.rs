//! Images and their names. An image is known by the digest of its configuration, as Docker knows it; one that carries
//! annotations of its own by the digest of both. Images for several platforms are in `indexes`.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;

use super::Store;
use super::attestations::{Attestation, attestations_column, made, parse_attestations};
use super::error::{Result, StoreError};
use super::index::{Kind, mark_volatile};
use super::indexes::{IndexRecord, member_rows};
use crate::oci::{Descriptor, Digest, ImageConfig, LARGEST_MANIFEST, Raw, Reference};

/// Free annotations of a document, by name.
pub type Annotations = BTreeMap<String, String>;

/// An image of the store, for one platform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageRecord {
    /// By what it is known: the digest of its configuration, or, where it has annotations or something was stated about it
    /// here, of all that.
    pub id: Digest,
    /// The digest of its configuration document, which is a blob of the store.
    pub config: Digest,
    /// What its manifest will say besides.
    pub annotations: Annotations,
    /// What is stated about it.
    pub attestations: Vec<Attestation>,
    /// Its manifest as it was pulled or loaded, a blob of the store too; `None` for one that was built here and has
    /// not been compressed yet.
    pub manifest: Option<Descriptor>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The size of its layers, uncompressed where that is known, in bytes.
    pub size: u64,
}

impl ImageRecord {
    /// An image that was made at `created` (seconds since 1970) and whose layers have `size` bytes.
    pub fn new(config: Digest, created: i64, size: u64) -> Self {
        Self {
            id: config,
            config,
            annotations: Annotations::new(),
            attestations: Vec::new(),
            manifest: None,
            created,
            size,
        }
    }

    /// The same with the manifest that it came with.
    #[must_use]
    pub fn with_manifest(self, manifest: Option<Descriptor>) -> Self {
        Self { manifest, ..self }
    }

    /// The same with annotations for its manifest: another image.
    #[must_use]
    pub fn annotated(self, annotations: Annotations) -> Self {
        Self { annotations, ..self }.identified()
    }

    /// The same with statements about it: another image, where these were made here.
    #[must_use]
    pub fn attested(self, attestations: Vec<Attestation>) -> Self {
        Self { attestations, ..self }.identified()
    }

    fn identified(self) -> Self {
        let made = made(&self.attestations);
        let id = match (self.annotations.is_empty(), made.is_empty()) {
            (true, true) => self.config,
            (false, true) => identity(&("image", self.config, &self.annotations)),
            (_, false) => identity(&("image", self.config, &self.annotations, made)),
        };
        Self { id, ..self }
    }
}

/// The digest that stands for what no document of the specification describes.
pub(super) fn identity(parts: &impl Serialize) -> Digest {
    Digest::of(&serde_json::to_vec(parts).expect("digests and texts have no failing serialisers"))
}

/// What a name or an id stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoredImage {
    /// An image for one platform.
    Image(ImageRecord),
    /// Images for several.
    Index(IndexRecord),
}

impl StoredImage {
    /// By what it is known.
    pub fn id(&self) -> Digest {
        match self {
            Self::Image(image) => image.id,
            Self::Index(index) => index.id,
        }
    }

    /// Its manifest or index as it was pulled or loaded.
    pub fn manifest(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(image) => image.manifest.as_ref(),
            Self::Index(index) => index.manifest.as_ref(),
        }
    }

    /// When it was made, in seconds since 1970.
    pub fn created(&self) -> i64 {
        match self {
            Self::Image(image) => image.created,
            Self::Index(index) => index.created,
        }
    }

    /// The size of its layers in bytes, over all platforms.
    pub fn size(&self) -> u64 {
        match self {
            Self::Image(image) => image.size,
            Self::Index(index) => index.size,
        }
    }
}

const COLUMNS: &str = "id, manifest, created, size, config, annotations, attestations";

/// A row before its texts are parsed.
pub(super) struct ImageRow {
    id: [u8; 32],
    manifest: Option<String>,
    created: i64,
    size: i64,
    /// `None` where it is the id.
    config: Option<[u8; 32]>,
    annotations: Option<String>,
    attestations: Option<String>,
    members: Vec<super::indexes::MemberRow>,
}

fn image_row(connection: &Connection, row: &Row) -> rusqlite::Result<ImageRow> {
    let id = row.get(0)?;
    Ok(ImageRow {
        id,
        manifest: row.get(1)?,
        created: row.get(2)?,
        size: row.get(3)?,
        config: row.get(4)?,
        annotations: row.get(5)?,
        attestations: row.get(6)?,
        members: member_rows(connection, &id)?,
    })
}

fn stored_image(row: ImageRow) -> Result<StoredImage> {
    let manifest = row.manifest.map(|json| serde_json::from_str(&json)).transpose();
    let manifest = manifest.map_err(|_| StoreError::MalformedRow { what: "descriptor" })?;
    let annotations = parse_annotations(row.annotations)?;
    let (id, created, size) = (Digest::from_bytes(row.id), row.created, row.size.cast_unsigned());
    if row.members.is_empty() {
        return Ok(StoredImage::Image(ImageRecord {
            id,
            config: row.config.map_or(id, Digest::from_bytes),
            annotations,
            attestations: parse_attestations(row.attestations)?,
            manifest,
            created,
            size,
        }));
    }
    let members = row.members.into_iter().map(|member| member.parse());
    Ok(StoredImage::Index(IndexRecord {
        id,
        members: members.collect::<Result<_>>()?,
        annotations,
        manifest,
        created,
        size,
    }))
}

/// Annotations as a column holds them: JSON, or nothing.
pub(super) fn parse_annotations(json: Option<String>) -> Result<Annotations> {
    let parsed = json.map(|json| serde_json::from_str(&json)).transpose();
    let parsed = parsed.map_err(|_| StoreError::MalformedRow { what: "annotations" })?;
    Ok(parsed.unwrap_or_default())
}

pub(super) fn annotations_column(annotations: &Annotations) -> Option<String> {
    let json = || serde_json::to_string(annotations).expect("texts have no failing serialisers");
    (!annotations.is_empty()).then(json)
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
        let manifest = image.manifest.as_ref().map(|manifest| manifest.digest);
        let stated = image.attestations.iter().map(Attestation::content);
        for digest in [Some(image.config), manifest].into_iter().flatten().chain(stated) {
            if !self.has_blob(&digest)? {
                return Err(StoreError::NoBlob(digest));
            }
        }
        // A build that changes nothing writes nothing, and has nothing to sync.
        if self.image(&image.id)?.as_ref() == Some(image) {
            return Ok(());
        }
        let row = NewRow {
            id: image.id,
            config: Some(image.config),
            annotations: &image.annotations,
            attestations: &image.attestations,
            manifest: image.manifest.as_ref(),
            created: image.created,
            size: image.size,
        };
        self.index().write(|transaction| row.write(transaction))
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
    pub fn image_by_name(&self, name: &Reference) -> Result<Option<StoredImage>> {
        let found = self.index().read(|connection| match name.digest() {
            Some(digest) => connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE manifest_digest = ?1"))?
                .query_row([digest.as_bytes()], |row| image_row(connection, row))
                .optional(),
            None => connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM images JOIN names ON names.image = images.id WHERE name = ?1"
                ))?
                .query_row([name.to_string()], |row| image_row(connection, row))
                .optional(),
        })?;
        found.map(stored_image).transpose()
    }

    /// The image with this id; `None` for an index.
    ///
    /// # Errors
    /// Those of the index.
    pub fn image(&self, id: &Digest) -> Result<Option<ImageRecord>> {
        Ok(match self.stored(id)? {
            Some(StoredImage::Image(image)) => Some(image),
            Some(StoredImage::Index(_)) | None => None,
        })
    }

    /// Whatever has this id.
    ///
    /// # Errors
    /// Those of the index.
    pub fn stored(&self, id: &Digest) -> Result<Option<StoredImage>> {
        let found = self.index().read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE id = ?1"))?
                .query_row([id.as_bytes()], |row| image_row(connection, row))
                .optional()
        })?;
        found.map(stored_image).transpose()
    }

    /// Finds an image by what a person typed: a whole id (`sha256:…` or 64 digits), a name, or the first digits of an id,
    /// in this order.
    ///
    /// # Errors
    /// [`StoreError::AmbiguousId`]; errors of the index.
    pub fn find_image(&self, text: &str) -> Result<Option<StoredImage>> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(id) = format!("sha256:{digits}").parse()
            && let Some(image) = self.stored(&id)?
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

    fn image_by_prefix(&self, digits: &str) -> Result<Option<StoredImage>> {
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
                .query_map((digits, digits.len() as i64), |row| image_row(connection, row))?
                .collect()
        })?;
        match rows.len() {
            0 | 1 => rows.pop().map(stored_image).transpose(),
            matches => Err(StoreError::AmbiguousId {
                prefix: digits.into(),
                matches,
            }),
        }
    }

    /// All images, newest first, each with its names; those of which an index consists are among them.
    ///
    /// # Errors
    /// Those of the index.
    pub fn images(&self) -> Result<Vec<(StoredImage, Vec<Reference>)>> {
        let rows: Vec<(ImageRow, Vec<String>)> = self.index().read(|connection| {
            let images: Vec<ImageRow> = connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM images ORDER BY created DESC, id"))?
                .query_map((), |row| image_row(connection, row))?
                .collect::<rusqlite::Result<_>>()?;
            images
                .into_iter()
                .map(|image| Ok((image_names(connection, &image.id)?, image)))
                .map(|pair: rusqlite::Result<_>| pair.map(|(names, image)| (image, names)))
                .collect()
        })?;
        rows.into_iter()
            .map(|(image, names)| {
                let names = names.iter().map(|name| parse_name(name)).collect::<Result<_>>()?;
                Ok((stored_image(image)?, names))
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

    /// Reads and verifies the configuration with this digest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::WrongDigest`], [`StoreError::NoConfig`].
    pub fn image_config(&self, config: &Digest) -> Result<Raw<ImageConfig>> {
        let bytes = self.read_blob(config, LARGEST_MANIFEST as u64)?;
        Raw::parse(bytes).map_err(|source| StoreError::NoConfig {
            digest: *config,
            source,
        })
    }
}

fn image_names(connection: &Connection, id: &[u8; 32]) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached("SELECT name FROM names WHERE image = ?1 ORDER BY name")?
        .query_map([id], |row| row.get(0))?
        .collect()
}

/// A row of an image or index, about to be written.
pub(super) struct NewRow<'a> {
    pub(super) id: Digest,
    pub(super) config: Option<Digest>,
    pub(super) annotations: &'a Annotations,
    pub(super) attestations: &'a [Attestation],
    pub(super) manifest: Option<&'a Descriptor>,
    pub(super) created: i64,
    pub(super) size: u64,
}

impl NewRow<'_> {
    /// What is known of the same image's manifest stays.
    pub(super) fn write(&self, transaction: &rusqlite::Transaction) -> rusqlite::Result<()> {
        let json = |manifest| serde_json::to_string(manifest).expect("descriptors have string keys");
        transaction
            .prepare_cached(
                "INSERT INTO images (id, manifest_digest, manifest, created, size, config, annotations, attestations)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (id) DO UPDATE SET created = excluded.created, size = excluded.size,
                     attestations = coalesce(excluded.attestations, attestations),
                     manifest_digest = coalesce(excluded.manifest_digest, manifest_digest),
                     manifest = coalesce(excluded.manifest, manifest)",
            )?
            .execute((
                self.id.as_bytes(),
                self.manifest.map(|manifest| *manifest.digest.as_bytes()),
                self.manifest.map(json),
                self.created,
                self.size.cast_signed(),
                self.config.map(|config| *config.as_bytes()),
                annotations_column(self.annotations),
                attestations_column(self.attestations),
            ))?;
        mark_volatile(transaction, Kind::Image, self.id.as_bytes())
    }
}
