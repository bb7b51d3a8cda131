//! Everything that lies in a store, one entry for each thing that can go by itself.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;

use super::DiskError;
use crate::cache::{self, Preimage};
use crate::oci::{Digest, Reference};
use crate::store::{
    CacheMountName, Extent, FileId, ListedSnapshot, NeededBy, SnapshotId, Store, StoredCacheMount, Use,
};

/// What an entry is. The names are BuildKit's, where it has such things.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A layer: what a step made, or an image brought.
    Regular,
    /// What `RUN --mount=type=cache` keeps.
    CacheMount,
    /// What is known of the files of a build context.
    Local,
    /// A repository that was fetched from.
    Git,
    /// A document of an image, or a compressed form of a layer.
    Blob,
    /// A step as it was left when it failed.
    Failed,
    /// What the builder keeps for itself: its index, logs of builds, what servers said of files.
    Internal,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Regular,
        Self::CacheMount,
        Self::Local,
        Self::Git,
        Self::Blob,
        Self::Failed,
        Self::Internal,
    ];

    /// How it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::CacheMount => "exec.cachemount",
            Self::Local => "source.local",
            Self::Git => "source.git.checkout",
            Self::Blob => "blob",
            Self::Failed => "failed",
            Self::Internal => "internal",
        }
    }

    /// Whether it changes while it is there.
    pub fn is_mutable(self) -> bool {
        !matches!(self, Self::Regular | Self::Blob | Self::Failed)
    }

    /// Whether it is worth more than the space it takes, as long as nobody asks for all to go.
    pub(super) fn is_kept_by_default(self) -> bool {
        matches!(self, Self::Failed | Self::Internal)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A thing in a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// By what it is known.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// What made it, in a few words.
    pub description: String,
    /// The ids of what it stands on.
    pub parents: Vec<String>,
    /// What it takes on disk.
    pub extent: Extent,
    /// When it was made here, in seconds since 1970.
    pub created: i64,
    /// When it was used last; `None` where it was not, since it was made.
    pub last_used: Option<i64>,
    /// How many builds used it.
    pub count: u64,
    /// Whether a running process relies on it.
    pub in_use: bool,
    /// Which images need it.
    pub needed: NeededBy,
    pub(super) thing: Thing,
}

/// What is to be removed when an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Thing {
    Snapshot(SnapshotId),
    Blob(Digest),
    /// A file that anybody may remove.
    File(PathBuf),
    CacheMount(CacheMountName),
    /// A bare repository, by its name below `git/`.
    Repository(String),
    /// A failed step, by name.
    Failure(String),
    /// Never removed by itself.
    Fixture,
}

impl Entry {
    /// Something that stands on nothing, that no image needs and no process relies on.
    fn new(id: String, kind: Kind, description: String, (extent, created): (Extent, i64), thing: Thing) -> Self {
        Self {
            id,
            kind,
            description,
            parents: Vec::new(),
            extent,
            created,
            last_used: None,
            count: 0,
            in_use: false,
            needed: NeededBy::Nobody,
            thing,
        }
    }

    /// Whether an image has it too.
    pub fn is_shared(&self) -> bool {
        self.needed == NeededBy::NamedImage
    }

    /// Whether it would go if all were to go that may.
    pub fn is_reclaimable(&self) -> bool {
        !self.in_use && !self.is_shared() && self.thing != Thing::Fixture
    }

    /// When it was used, or else made, in seconds since 1970.
    pub fn last(&self) -> i64 {
        self.last_used.unwrap_or(self.created).max(self.created)
    }
}

/// What entries take together, in bytes; files that several of them have count once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// What images have too, and files that several entries have.
    pub shared: u64,
    /// What one entry alone has.
    pub private: u64,
    /// What would be free if all went that may.
    pub reclaimable: u64,
    /// All.
    pub total: u64,
}

/// Adds up entries.
pub fn totals(entries: &[Entry]) -> Totals {
    let mut totals = Totals::default();
    // For each file that has several names: its bytes, how many entries have it, and how many of these would go.
    let mut files: HashMap<FileId, (u64, usize, usize)> = HashMap::new();
    for entry in entries {
        totals.total += entry.extent.own;
        match entry.is_shared() {
            true => totals.shared += entry.extent.own,
            false => totals.private += entry.extent.own,
        }
        if entry.is_reclaimable() {
            totals.reclaimable += entry.extent.own;
        }
        for (file, bytes) in &entry.extent.linked {
            let (_, all, going) = files.entry(*file).or_insert((*bytes, 0, 0));
            *all += 1;
            *going += usize::from(entry.is_reclaimable());
        }
    }
    for (bytes, all, going) in files.into_values() {
        totals.total += bytes;
        totals.shared += bytes;
        if all == going {
            totals.reclaimable += bytes;
        }
    }
    totals
}

/// Everything in the store.
///
/// # Errors
/// Those of the store; directories that cannot be read.
pub fn entries(store: &Store) -> Result<Vec<Entry>, DiskError> {
    let mut entries = snapshots(store)?;
    entries.extend(blobs(store)?);
    entries.extend(files(
        store,
        "stat-cache",
        Kind::Local,
        "digests of files of a build context",
    )?);
    entries.extend(files(
        store,
        "selections",
        Kind::Local,
        "what a step selected from a build context",
    )?);
    entries.extend(files(
        store,
        "downloads",
        Kind::Internal,
        "what a server said of a file",
    )?);
    entries.extend(repositories(store)?);
    entries.extend(cache_mounts(store)?);
    entries.extend(fixtures(store)?);
    Ok(entries)
}

fn snapshots(store: &Store) -> Result<Vec<Entry>, DiskError> {
    let listed = store.list_snapshots()?;
    let uses = store.uses()?;
    let ids: Vec<SnapshotId> = listed.iter().map(|snapshot| snapshot.id).collect();
    let extents = store.extents(&ids)?;
    let in_use = with_what_they_stand_on(&listed);
    let entry = |(snapshot, extent): (ListedSnapshot, Extent)| {
        let used = uses.get(&snapshot.id).copied().unwrap_or_default();
        let Use { last, count } = used;
        Entry {
            id: snapshot.id.to_string(),
            kind: if snapshot.failure.is_some() {
                Kind::Failed
            } else {
                Kind::Regular
            },
            description: describe(&snapshot),
            parents: snapshot.parent.iter().map(SnapshotId::to_string).collect(),
            extent,
            created: snapshot.created,
            last_used: (count > 0).then_some(last),
            count,
            in_use: in_use.contains(&snapshot.id),
            needed: snapshot.needed,
            thing: match snapshot.failure {
                Some(name) => Thing::Failure(name),
                None => Thing::Snapshot(snapshot.id),
            },
        }
    };
    Ok(listed.into_iter().zip(extents).map(entry).collect())
}

/// The snapshots that processes hold, and all below them. `listed` has each after what it stands on.
fn with_what_they_stand_on(listed: &[ListedSnapshot]) -> HashSet<SnapshotId> {
    let mut held = HashSet::new();
    for snapshot in listed.iter().rev() {
        if snapshot.held || held.contains(&snapshot.id) {
            held.insert(snapshot.id);
            held.extend(snapshot.parent);
        }
    }
    held
}

fn describe(snapshot: &ListedSnapshot) -> String {
    if let Some(name) = &snapshot.failure {
        return format!("as {name} left it when it failed");
    }
    let preimage = snapshot.preimage.as_ref();
    if let Some(preimage) = preimage.and_then(|bytes| Preimage::decode(bytes).ok()) {
        return cache::summary(&preimage);
    }
    match (snapshot.names.first(), snapshot.layer) {
        (Some(name), _) => format!("a layer of {}", name.familiar()),
        (None, Some(layer)) => format!("the layer {}", layer.short()),
        (None, None) => "a layer that nothing leads to".to_owned(),
    }
}

fn blobs(store: &Store) -> Result<Vec<Entry>, DiskError> {
    let listed = store.list_blobs()?;
    let documents = documents(store)?;
    let entry = |blob: &crate::store::ListedBlob| {
        let description = match (blob.layer, documents.get(&blob.digest)) {
            (_, Some(what)) => what.clone(),
            (Some(layer), None) => format!("the layer {}, compressed", layer.short()),
            (None, None) => "a file or document".to_owned(),
        };
        let (id, thing) = (blob.digest.to_string(), Thing::Blob(blob.digest));
        Ok(Entry {
            in_use: blob.held,
            needed: blob.needed,
            ..Entry::new(id, Kind::Blob, description, measured(&blob.path)?, thing)
        })
    };
    listed.par_iter().map(entry).collect()
}

/// What the documents of images are.
fn documents(store: &Store) -> Result<HashMap<Digest, String>, DiskError> {
    let mut documents = HashMap::new();
    for (image, names) in store.images()? {
        let name = names.first().map_or_else(|| image.id().short(), Reference::familiar);
        if let Some(manifest) = image.manifest() {
            documents.insert(manifest.digest, format!("the manifest of {name}"));
        }
        if let crate::store::StoredImage::Image(image) = image {
            documents.insert(image.config, format!("the configuration of {name}"));
        }
    }
    Ok(documents)
}

/// Files of a directory of the store, each an entry of its own.
fn files(store: &Store, directory: &'static str, kind: Kind, what: &str) -> Result<Vec<Entry>, DiskError> {
    let names = names_in(&store.root().join(directory))?;
    let entry = |name: &String| {
        let path = store.root().join(directory).join(name);
        let measured = measured(&path)?;
        let id = format!("{directory}/{name}");
        Ok(Entry::new(id, kind, what.to_owned(), measured, Thing::File(path)))
    };
    names.par_iter().filter(|name| *name != "lock").map(entry).collect()
}

fn repositories(store: &Store) -> Result<Vec<Entry>, DiskError> {
    let names = names_in(&store.root().join("git"))?;
    let entry = |name: &String| {
        let measured = measured(&store.root().join("git").join(name))?;
        let (id, description) = (format!("git/{name}"), "a repository that was fetched from".to_owned());
        let thing = Thing::Repository(name.clone());
        Ok(Entry::new(id, Kind::Git, description, measured, thing))
    };
    names.par_iter().map(entry).collect()
}

fn cache_mounts(store: &Store) -> Result<Vec<Entry>, DiskError> {
    let mounts = store.cache_mounts()?;
    let entry = |mount: &StoredCacheMount| {
        let directory = store.root().join("cache-mounts").join(mount.name.to_string());
        let (extent, _) = measured(&directory)?;
        // Whatever links lead into it from outside are no names of another entry's.
        let extent = Extent {
            own: extent.bytes(),
            linked: HashMap::new(),
        };
        let description = match &mount.identity {
            Some(identity) => format!("the cache mount {}", identity.shown()),
            None => "a cache mount".to_owned(),
        };
        let (id, thing) = (mount.name.to_string(), Thing::CacheMount(mount.name));
        Ok(Entry {
            last_used: Some(mount.used),
            in_use: !mount.users.is_empty(),
            ..Entry::new(id, Kind::CacheMount, description, (extent, mount.created), thing)
        })
    };
    mounts.par_iter().map(entry).collect()
}

/// What goes by other commands, or with the store.
fn fixtures(store: &Store) -> Result<Vec<Entry>, DiskError> {
    const FIXTURES: [(&str, &[&str], &str); 5] = [
        (
            "index",
            &["index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "used"],
            "what refers to what",
        ),
        (
            "reserve",
            &["reserve"],
            "room for removing things when the disk is full",
        ),
        (
            "builds",
            &["builds"],
            "logs of builds (`builder history rm` removes them)",
        ),
        ("containers", &["containers"], "containers (`builder rm` removes them)"),
        ("tmp", &["tmp"], "work in the making"),
    ];
    let mut entries = Vec::new();
    for (id, paths, what) in FIXTURES {
        let mut extent = Extent::default();
        let mut created = 0;
        for path in paths {
            let (found, changed) = measured(&store.root().join(path))?;
            extent.own += found.own;
            // Trees in the making may share files with snapshots: those count there.
            created = created.max(changed);
        }
        let (id, what) = (id.to_owned(), what.to_owned());
        entries.push(Entry {
            in_use: true,
            ..Entry::new(id, Kind::Internal, what, (extent, created), Thing::Fixture)
        });
    }
    entries.retain(|entry| entry.extent.own > 0);
    Ok(entries)
}

/// What a path takes, and when it was changed last in seconds since 1970.
fn measured(path: &Path) -> Result<(Extent, i64), DiskError> {
    let failed = |source| DiskError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let changed = match fs::symlink_metadata(path).and_then(|metadata| metadata.modified()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Extent::default(), 0)),
        found => found.map_err(failed)?,
    };
    let seconds = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let extent = Extent::of(path).map_err(failed)?;
    Ok((extent, i64::try_from(seconds).unwrap_or(i64::MAX)))
}

/// The names in a directory, if it is there.
fn names_in(directory: &Path) -> Result<Vec<String>, DiskError> {
    let failed = |source| DiskError::Io {
        action: "read",
        path: directory.to_owned(),
        source,
    };
    let listing = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in listing {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An entry that nobody needs.
    pub fn entry(id: &str, kind: Kind) -> Entry {
        let extent = Extent {
            own: 100,
            linked: HashMap::new(),
        };
        let thing = Thing::File(id.into());
        Entry::new(id.to_owned(), kind, String::new(), (extent, 0), thing)
    }

    #[test]
    fn a_file_that_several_have_counts_once() {
        let with = |id, files: &[u64], needed| {
            let mut entry = entry(id, Kind::Regular);
            entry.extent.linked = files.iter().map(|file| ((1, *file), 1000)).collect();
            entry.needed = needed;
            entry
        };
        let entries = [
            with("a", &[1, 2], NeededBy::Nobody),
            with("b", &[1], NeededBy::Nobody),
            with("c", &[2], NeededBy::NamedImage),
        ];
        let expected = Totals {
            shared: 2100,
            private: 200,
            reclaimable: 1200,
            total: 2300,
        };
        assert_eq!(totals(&entries), expected);
    }
}
