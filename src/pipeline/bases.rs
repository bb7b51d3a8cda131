//! Finds base images for the planner: in the local store, in registries, in layouts on disk.

use super::{layouts, sources};
use crate::graph::{ImageSource, Remote, Source};
use crate::oci::ChainId;
use crate::planner::{ImageName, ImageRequest, ImageResolver, ResolveError, ResolvedBase};
use crate::pull::{PullError, PullPolicy, Puller};
use crate::source::Fetcher;

/// What becomes of the layers of images in layouts on disk, which no puller fetches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layouts {
    /// They are brought into the store as soon as the image is found.
    Brought,
    /// Nothing is run: they stay where they are.
    LookedAt,
}

/// Finds base images in the local store, in layouts and in registries, all at the same time.
pub(super) struct Bases<'a> {
    pub(super) puller: &'a Puller,
    pub(super) pull: PullPolicy,
    pub(super) fetcher: &'a Fetcher<'a>,
    /// What becomes of the layers of images in layouts.
    pub(super) layouts: Layouts,
    /// Nobody asked for a platform: an image that the local store alone has serves whatever it is for.
    pub(super) any_local: bool,
}

impl Bases<'_> {
    fn find(&self, request: &ImageRequest) -> Result<ResolvedBase, ResolveError> {
        let reference = match &request.name {
            ImageName::Reference(reference) => reference,
            ImageName::Layout(address) => {
                let found = layouts::find(address, &request.platform)?;
                if self.layouts == Layouts::Brought {
                    found.bring(self.fetcher)?;
                }
                return Ok(found.base);
            }
        };
        let image = match self.puller.resolve(reference, &request.platform, self.pull) {
            Err(error @ PullError::NoPlatform { .. }) if self.any_local => {
                let local = self.puller.resolve_any_local(reference)?;
                local.ok_or(error)?
            }
            image => image?,
        };
        let config = image.config.into_value();
        let source = ImageSource {
            chain: ChainId::of(&config.rootfs.diff_ids),
            reference: reference.clone(),
            config: image.id,
            platform: request.platform.clone(),
        };
        Ok(ResolvedBase { source, config })
    }
}

impl ImageResolver for Bases<'_> {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        all_at_once(requests, |request| self.find(request))
    }

    fn resolve_sources(&self, requests: &[Remote]) -> Vec<Result<Source, ResolveError>> {
        sources::find(self.fetcher, requests)
    }

    fn moment(&self, source: &Source) -> Result<Option<i64>, ResolveError> {
        Ok(self.fetcher.moment(source)?)
    }
}

/// What `find` answers to each request; most of the time is spent waiting for registries.
pub(super) fn all_at_once<A: Send>(requests: &[ImageRequest], find: impl Fn(&ImageRequest) -> A + Sync) -> Vec<A> {
    let find = &find;
    std::thread::scope(|scope| {
        let lookups: Vec<_> = requests
            .iter()
            .map(|request| scope.spawn(move || find(request)))
            .collect();
        lookups
            .into_iter()
            .map(|lookup| lookup.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
