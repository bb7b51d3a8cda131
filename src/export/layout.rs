//! Images of the store as files for other tools: OCI image layout (directory or archive) and docker archive.
//!
//! Sources: image specification, "Image Layout Specification"; moby's image specification 1.2, "Combined Image JSON +
//! Filesystem Changeset Format". Every entry has the same time and owner, and blobs come in the order of first use: the
//! same images give the same bytes.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::documents::documents;
use super::error::{ExportError, Result};
use super::form::Form;
use super::image::name_annotations;
use super::layer::LayerTar;
use super::new_file::NewFile;
use crate::oci::{Descriptor, DiffId, Digest, ImageIndex, Raw, Reference};
use crate::snapshot::{ArchiveWriter, Entry, EntryKind, Owner, Snapshotter, Time};
use crate::store::{Annotations, Store, StoredImage};

/// An image to write, and what it is called there.
#[derive(Clone, Debug)]
pub struct NamedImage {
    /// Its id.
    pub id: Digest,
    /// Its names; perhaps none.
    pub names: Vec<Reference>,
    /// What the descriptor that the layout lists it with says besides.
    pub annotations: Annotations,
}

impl NamedImage {
    /// An image with these names.
    pub fn new(id: Digest, names: Vec<Reference>) -> Self {
        Self {
            id,
            names,
            annotations: Annotations::new(),
        }
    }
}

/// Image specification, "oci-layout file".
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes an OCI layout as one tar, in the form that is asked for. `epoch` is the time of the archive's entries, in seconds since 1970.
///
/// # Errors
/// An image that is not whole in the store; errors of the stream.
pub fn oci_archive(
    store: &Store,
    snapshotter: &Snapshotter,
    images: &[NamedImage],
    form: &Form,
    epoch: Option<i64>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut target = Archive::new(out, epoch);
    target.directories(&["blobs/", "blobs/sha256/"])?;
    oci_layout(store, snapshotter, images, form, &mut target)?;
    target.finish()
}

/// Writes an OCI layout into the directory `destination`, made when it is not there. Blobs of a layout that is there
/// stay; its index is replaced last.
///
/// # Errors
/// An image that is not whole in the store; errors of the destination.
pub fn oci_directory(
    store: &Store,
    snapshotter: &Snapshotter,
    images: &[NamedImage],
    form: &Form,
    destination: &Path,
) -> Result<()> {
    let blobs = destination.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(|source| ExportError::Destination {
        action: "create",
        path: blobs,
        source,
    })?;
    let root = destination.to_owned();
    oci_layout(store, snapshotter, images, form, &mut Directory { root })
}

/// Where the files of a layout go.
pub(super) trait Target {
    fn file(&mut self, name: &str, content: &mut dyn Read, size: u64) -> Result<()>;

    fn document(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.file(name, &mut &*content, content.len() as u64)
    }
}

fn oci_layout(
    store: &Store,
    snapshotter: &Snapshotter,
    images: &[NamedImage],
    form: &Form,
    target: &mut dyn Target,
) -> Result<()> {
    target.document("oci-layout", OCI_LAYOUT)?;
    let mut written = HashSet::new();
    let mut index = Vec::new();
    for image in images {
        let documents = documents(store, snapshotter, &image.id, form)?;
        for (manifest, descriptor) in documents.manifests() {
            let parts = [&manifest.value().config].into_iter().chain(&manifest.value().layers);
            for blob in parts.filter(|blob| written.insert(blob.digest)) {
                let mut content = store.open_verified(&blob.digest)?;
                target.file(&blob_name(&blob.digest), &mut content, blob.size)?;
            }
            if written.insert(descriptor.digest) {
                target.document(&blob_name(&descriptor.digest), manifest.bytes())?;
            }
        }
        let (top, bytes) = documents.top();
        let mut top = top.clone();
        if written.insert(top.digest) {
            target.document(&blob_name(&top.digest), bytes)?;
        }
        top.annotations.extend(image.annotations.clone());
        index.extend(named(top, &image.names));
    }
    target.document("index.json", Raw::new(ImageIndex::new(index)).bytes())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The descriptor once for each name.
fn named(descriptor: Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    let with_name = |name| {
        let mut descriptor = descriptor.clone();
        descriptor.annotations.extend(name_annotations(name));
        descriptor
    };
    match names {
        [] => vec![descriptor],
        names => names.iter().map(with_name).collect(),
    }
}

/// One image in a docker archive's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Writes a docker archive, as `docker load` reads it: layers uncompressed. `epoch` is the time of its entries, in
/// seconds since 1970.
///
/// # Errors
/// An image that is not whole in the store; errors of the stream.
pub fn docker_archive(
    store: &Store,
    snapshotter: &Snapshotter,
    images: &[NamedImage],
    epoch: Option<i64>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut target = Archive::new(out, epoch);
    let mut written = HashSet::new();
    let mut documents = Vec::new();
    for image in images {
        let record = match store.stored(&image.id)?.ok_or(ExportError::NoImage(image.id))? {
            StoredImage::Image(record) => record,
            StoredImage::Index(_) => return Err(ExportError::SeveralPlatforms(image.id)),
        };
        let config = store.image_config(&record.config)?;
        let layers = &config.value().rootfs.diff_ids;
        for layer in layers.iter().filter(|layer| written.insert(layer.0)) {
            target.layer(store, snapshotter, *layer)?;
        }
        let name = format!("{}.json", record.config.hex());
        if written.insert(record.config) {
            target.document(&name, config.bytes())?;
        }
        documents.push(DockerImage {
            config: name,
            repo_tags: image.names.iter().filter_map(repo_tag).collect(),
            layers: layers.iter().map(layer_name).collect(),
        });
    }
    let documents = serde_json::to_vec(&documents).map_err(|source| ExportError::Document {
        document: "manifest.json".into(),
        source,
    })?;
    target.document("manifest.json", &documents)?;
    target.finish()
}

/// Docker spells names there as people do; one without a tag has no place.
fn repo_tag(name: &Reference) -> Option<String> {
    name.tag().map(|tag| format!("{}:{tag}", name.familiar_name()))
}

fn layer_name(layer: &DiffId) -> String {
    format!("{}.tar", layer.0.hex())
}

/// One tar.
struct Archive<'a> {
    tar: ArchiveWriter<'a>,
    mtime: Time,
}

impl<'a> Archive<'a> {
    fn new(out: &'a mut dyn Write, epoch: Option<i64>) -> Self {
        let mtime = Time {
            seconds: epoch.unwrap_or(0),
            nanoseconds: 0,
        };
        let tar = ArchiveWriter::new(out);
        Self { tar, mtime }
    }

    fn entry(&mut self, name: &str, kind: EntryKind, mode: u32, size: u64) -> Result<()> {
        let entry = Entry {
            path: name.into(),
            kind,
            mode,
            owner: Owner::default(),
            mtime: self.mtime,
            xattrs: Vec::new(),
            size,
            segments: None,
        };
        self.tar.entry(&entry).map_err(ExportError::Write)
    }

    fn directories(&mut self, names: &[&str]) -> Result<()> {
        let mut make = |name: &&str| self.entry(name, EntryKind::Directory, 0o755, 0);
        names.iter().try_for_each(&mut make)
    }

    /// A layer's tar inside the archive, streamed from wherever it can be had.
    fn layer(&mut self, store: &Store, snapshotter: &Snapshotter, layer: DiffId) -> Result<()> {
        let tar = LayerTar::find(store, snapshotter, layer)?;
        let (mut content, mut out) = io::pipe().map_err(ExportError::Write)?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let written = tar.write(store, snapshotter, &mut out);
                drop(out);
                written
            });
            let copied = self.file(&layer_name(&tar.layer()), &mut content, tar.size());
            drop(content);
            let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // A layer that ends early says why on the writing side; a full disk on this one.
            match copied {
                Err(ExportError::Write(error)) if error.kind() == io::ErrorKind::UnexpectedEof => written,
                copied => copied,
            }
        })
    }

    fn finish(self) -> Result<()> {
        self.tar.finish().map_err(ExportError::Write)
    }
}

impl Target for Archive<'_> {
    fn file(&mut self, name: &str, content: &mut dyn Read, size: u64) -> Result<()> {
        self.entry(name, EntryKind::Regular, 0o644, size)?;
        self.tar.content(content, size).map_err(ExportError::Write)
    }
}

/// A directory of the user's.
pub(super) struct Directory {
    pub(super) root: PathBuf,
}

impl Target for Directory {
    fn file(&mut self, name: &str, content: &mut dyn Read, size: u64) -> Result<()> {
        let path = self.root.join(name);
        let written = write_file(&path, content, size);
        written.map_err(|source| ExportError::Destination {
            action: "write",
            path,
            source,
        })
    }
}

/// Whoever reads the layout meanwhile never sees a part of a file.
fn write_file(path: &Path, content: &mut dyn Read, size: u64) -> io::Result<()> {
    let mut file = NewFile::begin(path)?;
    match io::copy(&mut content.take(size), &mut file)? == size {
        true => file.publish(),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
