//! Looks up what the sources of a Dockerfile stand for at this moment: what a lock file is written from.
//!
//! Plans every stage that can be built, since what is named may depend on images (ONBUILD, ENV) and arguments. Nothing
//! is run, and no layer moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use super::admission::{Admission, name_of};
use super::bases::{self, Layouts};
use super::{BuildError, BuildRequest, Workshop, dockerfile, sources};
use crate::graph::{Remote, Source};
use crate::lockfile::{Commit, Lock, Name, Pin};
use crate::oci::Reference;
use crate::parser::Dockerfile;
use crate::planner::{self, ImageName, ImageRequest, ImageResolver, PlanOptions, ResolveError, ResolvedBase};
use crate::pull::{PullError, PullPolicy, Puller};
use crate::source::pinned_commit;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Pinned {
    /// What the sources stand for, of those that the Dockerfile does not pin itself.
    pub found: BTreeMap<Name, Pin>,
    /// Images that the local store alone has: on another machine the name means something else, or nothing.
    pub local: BTreeSet<Name>,
}

/// Looks up the sources of all stages, or of the target and what it needs. `request.pins` says what those stand for that
/// `renew` answers no for.
///
/// # Errors
/// What would keep a build of one of these stages from beginning.
pub fn pin(
    request: &BuildRequest,
    workshop: Workshop<'_>,
    renew: &(dyn Fn(&Name) -> bool + Sync),
) -> Result<Pinned, BuildError> {
    let _in_use = workshop.store.in_use()?;
    let dockerfile = dockerfile::read::<BuildError>(&request.dockerfile, &request.plan)?;
    let secret = sources::secrets(workshop.secrets);
    let fetcher = sources::fetcher(workshop, &secret, &request.variables);
    let bases = bases::Bases {
        puller: workshop.puller,
        pull: PullPolicy::Missing,
        fetcher: &fetcher,
        layouts: Layouts::LookedAt,
        any_local: request.platforms.is_empty(),
    };
    let pinner = Pinner {
        inner: &bases,
        admission: workshop.admission,
        known: request.pins.lock.as_ref(),
        renew,
        puller: workshop.puller,
        pinned: Mutex::default(),
    };
    for options in plans(request, &dockerfile) {
        planner::plan(&dockerfile, &options, &pinner)?;
    }
    Ok(pinner
        .pinned
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// What each plan is told: each stage that can be named, on each platform.
fn plans(request: &BuildRequest, dockerfile: &Dockerfile) -> Vec<PlanOptions> {
    let named = dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
    let targets: Vec<Option<String>> = match &request.plan.target {
        Some(target) => vec![Some(target.clone())],
        None => std::iter::once(None)
            .chain(named.map(|name| Some(name.value.clone())))
            .collect(),
    };
    let platforms = match request.platforms.as_slice() {
        [] => vec![None],
        platforms => platforms.iter().cloned().map(Some).collect(),
    };
    let options = |target: &Option<String>| {
        let target = target.clone();
        let of = |platform: &Option<_>| PlanOptions {
            target: target.clone(),
            platform: platform.clone(),
            ..request.plan.clone()
        };
        platforms.iter().map(of).collect::<Vec<_>>()
    };
    targets.iter().flat_map(options).collect()
}

/// Finds sources, and remembers what they were found to be. Nothing is looked up twice.
struct Pinner<'a> {
    inner: &'a (dyn ImageResolver + Sync),
    admission: &'a Admission,
    known: Option<&'a Lock>,
    renew: &'a (dyn Fn(&Name) -> bool + Sync),
    puller: &'a Puller,
    pinned: Mutex<Pinned>,
}

impl Pinner<'_> {
    fn pinned(&self) -> MutexGuard<'_, Pinned> {
        self.pinned.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is known of a source and need not be looked up.
    fn known(&self, name: &Name) -> Option<Pin> {
        if let Some(pin) = self.pinned().found.get(name) {
            return Some(pin.clone());
        }
        let pin = self.known.and_then(|lock| lock.get(name));
        let pin = pin.filter(|_| !(self.renew)(name))?.clone();
        self.pinned().found.insert(name.clone(), pin.clone());
        Some(pin)
    }

    fn image(&self, request: &ImageRequest) -> Result<ResolvedBase, ResolveError> {
        let mut request = ImageRequest {
            name: self.admission.image(&request.name)?,
            ..request.clone()
        };
        if let ImageName::Reference(reference) = &mut request.name
            && reference.digest().is_none()
        {
            let name = Name::Image(reference.to_string());
            let pin = match self.known(&name) {
                Some(pin) => Some(pin),
                None => self.look_up(reference, &name)?,
            };
            if let Some(Pin::Digest(digest)) = pin {
                *reference = reference.pinned(digest);
            }
        }
        if let ImageName::Reference(reference) = &mut request.name {
            *reference = self.admission.check_signed(reference.clone(), self.puller)?;
        }
        let answer = self.inner.resolve(&[request]).into_iter().next();
        answer.unwrap_or_else(|| Err("nobody answered".into()))
    }

    /// What an image's name leads to; `None` where the local store alone has one.
    fn look_up(&self, reference: &Reference, name: &Name) -> Result<Option<Pin>, PullError> {
        let local = |error: PullError| match self.puller.resolve_any_local(reference) {
            Ok(Some(_)) if error.is_hidden() => Ok(()),
            _ => Err(error),
        };
        match self.puller.digest_of(reference) {
            Ok(digest) => {
                let pin = Pin::Digest(digest);
                self.pinned().found.insert(name.clone(), pin.clone());
                Ok(Some(pin))
            }
            Err(error) => {
                local(error)?;
                self.pinned().local.insert(name.clone());
                Ok(None)
            }
        }
    }

    fn remote(&self, remote: &Remote) -> Result<Source, ResolveError> {
        let mut remote = self.admission.remote(remote)?;
        let name = name_of(&remote);
        match (&mut remote, name.as_ref().and_then(|name| self.known(name))) {
            (Remote::Http(file), Some(Pin::Digest(digest))) => file.checksum = Some(digest),
            (Remote::Git(git), Some(Pin::Commit(commit))) => {
                let found = pinned_commit(git, &commit.id, commit.reference.as_deref(), commit.tag.as_deref())?;
                return Ok(Source::Git(found));
            }
            _ => {}
        }
        let answer = self.inner.resolve_sources(&[remote]).into_iter().next();
        let source = answer.unwrap_or_else(|| Err("nobody answered".into()))?;
        if let Some((name, pin)) = name.zip(pin_of(&source)) {
            self.pinned().found.insert(name, pin);
        }
        Ok(source)
    }
}

fn pin_of(source: &Source) -> Option<Pin> {
    match source {
        Source::Http(file) => Some(Pin::Digest(file.digest)),
        Source::Git(git) => Some(Pin::Commit(Commit {
            id: git.commit.clone(),
            reference: git.reference.clone(),
            tag: git
                .kept
                .as_ref()
                .map(|kept| kept.object.clone())
                .filter(|object| *object != git.commit),
        })),
        Source::Image(_) | Source::Local(_) | Source::Archive(_) => None,
    }
}

impl ImageResolver for Pinner<'_> {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        bases::all_at_once(requests, |request| self.image(request))
    }

    fn resolve_sources(&self, requests: &[Remote]) -> Vec<Result<Source, ResolveError>> {
        requests.iter().map(|remote| self.remote(remote)).collect()
    }

    fn moment(&self, source: &Source) -> Result<Option<i64>, ResolveError> {
        self.inner.moment(source)
    }
}
