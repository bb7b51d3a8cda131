//! Base images that lie in OCI layouts on disk.

use crate::export::{ExportError, Layout, LayoutImage};
use crate::graph::ImageSource;
use crate::oci::{ChainId, Platform, Reference};
use crate::planner::{LayoutAddress, ResolveError, ResolvedBase};
use crate::source::Fetcher;

/// How the program calls such an image where only references are known: no registry can have this name (RFC 6761, 6.4).
const NOWHERE: &str = "oci-layout.invalid/image";

/// An image of a layout.
pub(super) struct Found {
    layout: Layout,
    image: LayoutImage,
    /// What the planner is told of it.
    pub(super) base: ResolvedBase,
}

/// The image that `address` names, for `platform`.
pub(super) fn find(address: &LayoutAddress, platform: &Platform) -> Result<Found, ResolveError> {
    let layout = Layout::open(&address.directory)?;
    let image = layout.image(address.tag.as_deref(), address.digest, platform)?;
    let config = image.config.value().clone();
    let source = ImageSource {
        chain: ChainId::of(&config.rootfs.diff_ids),
        reference: NOWHERE.parse::<Reference>()?.with_digest(image.manifest),
        config: image.id(),
        platform: platform.clone(),
    };
    let base = ResolvedBase { source, config };
    Ok(Found { layout, image, base })
}

impl Found {
    /// Brings the layers that the store lacks into it.
    pub(super) fn bring(&self, fetcher: &Fetcher<'_>) -> Result<(), ExportError> {
        let Fetcher {
            store,
            progress,
            cancel,
            ..
        } = fetcher;
        self.layout.bring(&self.image, store, *progress, cancel)
    }
}
