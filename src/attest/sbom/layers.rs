//! Which layer of an image a file came with.

use super::known::Findings;
use crate::oci::DiffId;
use crate::snapshot::{ContainerPath, Rootfs};

/// Earlier versions of a package database that are read to find out with which layer packages came.
pub(super) const MOST_VERSIONS: usize = 32;

/// What one layer changed.
#[derive(Debug)]
pub struct LayerFiles {
    /// The layer, where it is known as one.
    pub layer: Option<DiffId>,
    /// Its files, in the form of an overlayfs upper directory: several where several snapshots are one layer, lowest first.
    pub directories: Vec<Rootfs>,
    /// What was found in them.
    pub known: Findings,
}

impl LayerFiles {
    /// The directories, topmost first.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Rootfs> {
        self.directories.iter().rev()
    }

    fn has(&self, path: &ContainerPath) -> bool {
        self.roots().any(|root| root.lstat(path).is_ok())
    }
}

/// The layer that a file of the image came with: the topmost one that has it. `path` leads through no links.
pub(super) fn layer_of(layers: &[LayerFiles], path: &ContainerPath) -> Option<DiffId> {
    place_of(layers, path)?.layer
}

/// The same, with what is known of the layer.
pub(super) fn place_of<'a>(layers: &'a [LayerFiles], path: &ContainerPath) -> Option<&'a LayerFiles> {
    layers.iter().rev().find(|layer| layer.has(path))
}
