//! Images for several platforms under one name: what becomes an image index when it is sent somewhere.
//!
//! An index is known by the digest of what it consists of, its images' ids and its annotations. It is a row of the table
//! of images, so that names, removal and durability are the same for both; its images are rows of their own.

use rusqlite::{Connection, Transaction};

use super::Store;
use super::error::{Result, StoreError};
use super::images::{Annotations, NewRow, annotations_column, identity, parse_annotations};
use crate::oci::{Descriptor, Digest, Platform};

/// Images for several platforms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexRecord {
    /// By what it is known.
    pub id: Digest,
    /// The images, in the order in which the index lists them; at least one.
    pub members: Vec<Member>,
    /// What the index will say besides.
    pub annotations: Annotations,
    /// The index as it was pulled or loaded, a blob of the store; `None` where it was made here, or lists what is not
    /// here.
    pub manifest: Option<Descriptor>,
    /// When the newest of the images was made, in seconds since 1970.
    pub created: i64,
    /// The size of all images' layers, in bytes.
    pub size: u64,
}

/// One image of an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// What it is for.
    pub platform: Platform,
    /// Its id.
    pub image: Digest,
    /// What its descriptor in the index will say besides.
    pub annotations: Annotations,
}

impl IndexRecord {
    /// The image for `wanted`; of several the one that serves it best.
    pub fn select(&self, wanted: &Platform) -> Option<&Member> {
        let fits = self.members.iter().filter(|member| member.platform.satisfies(wanted));
        fits.min_by_key(|member| member.platform.rank(wanted))
    }

    /// What its images are for.
    pub fn platforms(&self) -> impl Iterator<Item = &Platform> {
        self.members.iter().map(|member| &member.platform)
    }
}

/// A member's row before its texts are parsed.
pub(super) struct MemberRow {
    image: [u8; 32],
    platform: String,
    annotations: Option<String>,
}

impl MemberRow {
    pub(super) fn parse(self) -> Result<Member> {
        let platform = serde_json::from_str(&self.platform);
        Ok(Member {
            platform: platform.map_err(|_| StoreError::MalformedRow { what: "platform" })?,
            image: Digest::from_bytes(self.image),
            annotations: parse_annotations(self.annotations)?,
        })
    }
}

/// The members of the row `id`; none where it is an image.
pub(super) fn member_rows(connection: &Connection, id: &[u8; 32]) -> rusqlite::Result<Vec<MemberRow>> {
    connection
        .prepare_cached("SELECT image, platform, annotations FROM members WHERE list = ?1 ORDER BY position")?
        .query_map([id], |row| {
            Ok(MemberRow {
                image: row.get(0)?,
                platform: row.get(1)?,
                annotations: row.get(2)?,
            })
        })?
        .collect()
}

impl Store {
    /// Records an index of images that are recorded already; `manifest` is the index as it came, a blob of the store.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] when one of the images is not here, [`StoreError::NoBlob`] when the document is not;
    /// errors of the index.
    pub fn put_index(
        &self,
        members: Vec<Member>,
        annotations: Annotations,
        manifest: Option<Descriptor>,
    ) -> Result<IndexRecord> {
        let parts: Vec<_> = members
            .iter()
            .map(|own| (own.image, &own.platform, &own.annotations))
            .collect();
        let id = identity(&("index", parts, &annotations));
        let (mut created, mut size) = (i64::MIN, 0);
        for member in &members {
            let image = self.image(&member.image)?.ok_or(StoreError::NoImage(member.image))?;
            created = created.max(image.created);
            size += image.size;
        }
        if members.is_empty() {
            return Err(StoreError::NoImage(id));
        }
        if let Some(document) = &manifest
            && !self.has_blob(&document.digest)?
        {
            return Err(StoreError::NoBlob(document.digest));
        }
        let index = IndexRecord {
            id,
            members,
            annotations,
            manifest,
            created,
            size,
        };
        if self.stored(&id)? != Some(super::StoredImage::Index(index.clone())) {
            self.index().write(|transaction| write(transaction, &index))?;
        }
        Ok(index)
    }

    /// Forgets an image or index and its names, and with an index those of its images that have no names and no other
    /// index. What was forgotten; nothing, where there was none or an index still consists of it.
    /// [`Store::collect`] removes the content.
    ///
    /// # Errors
    /// Those of the index.
    pub fn remove_image(&self, id: &Digest) -> Result<Vec<Digest>> {
        self.index().write(|transaction| {
            let members = member_rows(transaction, id.as_bytes())?;
            let mut removed = Vec::new();
            for candidate in std::iter::once(*id).chain(members.iter().map(|member| Digest::from_bytes(member.image))) {
                let query = match candidate == *id {
                    true => "DELETE FROM images WHERE id = ?1 AND id NOT IN (SELECT image FROM members)",
                    false => {
                        "DELETE FROM images WHERE id = ?1 AND id NOT IN (SELECT image FROM members)
                         AND id NOT IN (SELECT image FROM names)"
                    }
                };
                if transaction.execute(query, [candidate.as_bytes()])? > 0 {
                    removed.push(candidate);
                }
            }
            Ok(removed)
        })
    }

    /// The indexes that the image `id` is part of.
    ///
    /// # Errors
    /// Those of the index.
    pub fn indexes_of(&self, id: &Digest) -> Result<Vec<Digest>> {
        self.index().read(|connection| {
            connection
                .prepare_cached("SELECT DISTINCT list FROM members WHERE image = ?1 ORDER BY list")?
                .query_map([id.as_bytes()], |row| row.get(0).map(Digest::from_bytes))?
                .collect()
        })
    }
}

fn write(transaction: &Transaction, index: &IndexRecord) -> rusqlite::Result<()> {
    let row = NewRow {
        id: index.id,
        config: None,
        annotations: &index.annotations,
        attestations: &[],
        manifest: index.manifest.as_ref(),
        created: index.created,
        size: index.size,
    };
    row.write(transaction)?;
    transaction.execute("DELETE FROM members WHERE list = ?1", [index.id.as_bytes()])?;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO members (list, position, image, platform, annotations) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (position, member) in index.members.iter().enumerate() {
        insert.execute((
            index.id.as_bytes(),
            position as i64,
            member.image.as_bytes(),
            serde_json::to_string(&member.platform).expect("platforms have string keys"),
            annotations_column(&member.annotations),
        ))?;
    }
    Ok(())
}
