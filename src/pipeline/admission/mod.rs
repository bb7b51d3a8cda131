//! The one door by which sources come into a build: source policies first, then the lock file, then whoever fetches.
//!
//! Everything that a Dockerfile, a named context or an ONBUILD trigger names passes here before anybody is asked for it.
//! Owns what policies and lock files mean for a build; what they say is `policy`'s and `lockfile`'s.

mod identifier;
mod pins;
mod signed;

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Mutex, MutexGuard};

pub(in crate::pipeline) use pins::name_of;
pub use pins::{Pins, Strictness};
pub use signed::SignedImages;

use super::bases::all_at_once;
use crate::graph::{Graph, Op, Remote, Source};
use crate::lockfile::{Name, Pin};
use crate::oci::Reference;
use crate::planner::{ImageName, ImageRequest, ImageResolver, ResolveError, ResolvedBase};
use crate::policy::{Candidate, Policies, PolicyError, RuleName, Verdict};
use crate::progress::{Event, Progress};
use crate::pull::Puller;
use crate::source::pinned_commit;
use identifier::Mismatch;

/// What sources must pass.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// What may be used, and what is used instead.
    pub policies: Policies,
    /// Which images must be signed.
    pub signed: Vec<SignedImages>,
}

/// Why a source is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// A policy does not want it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A policy makes something of it that cannot be had here.
    #[error("rule {} of the source policy {} makes `{made}` of `{identifier}`, {mismatch}", rule.number, rule.document)]
    Conversion {
        /// The source.
        identifier: String,
        /// What it became.
        made: String,
        /// The rule that changed it last.
        rule: Box<RuleName>,
        /// What is wrong with that.
        mismatch: Mismatch,
    },
    /// It is not pinned, and must be.
    #[error("`{name}` is not pinned in {lock}")]
    NotLocked {
        /// The source.
        name: Box<Name>,
        /// The lock file.
        lock: String,
        /// The command that pins it.
        command: String,
    },
    /// The command line names it without a digest, and must not.
    #[error("`{0}` is not pinned")]
    NotPinned(Box<Reference>),
    /// It is not signed as it must be.
    #[error("`{image}` must be signed, as the configuration has it")]
    Signature {
        /// The image.
        image: Box<Reference>,
        /// Why it is not.
        #[source]
        source: ResolveError,
    },
    /// It is not to be had as it is pinned.
    #[error("`{name}` cannot be had as {lock} pins it, {pin}")]
    Pinned {
        /// The source.
        name: Box<Name>,
        /// What it stands for.
        pin: Box<Pin>,
        /// The lock file.
        lock: String,
        /// The command that pins it anew.
        command: String,
        /// Why.
        #[source]
        source: ResolveError,
    },
}

impl AdmissionError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            AdmissionError::NotLocked { command, .. } => {
                Some(format!("`{command}` looks it up and pins it; commit the file"))
            }
            AdmissionError::NotPinned(image) => Some(format!(
                "lock files pin what Dockerfiles name; name this one with its digest: `{image}@sha256:…`"
            )),
            AdmissionError::Pinned { command, .. } => {
                Some(format!("where it is gone for good, `{command}` pins what there is now"))
            }
            AdmissionError::Signature { .. } => Some(
                "`builder verify --key FILE IMAGE` says what is wrong; `[[policy.signed]]` names the keys".to_owned(),
            ),
            AdmissionError::Policy(_) | AdmissionError::Conversion { .. } => None,
        }
    }
}

impl Admission {
    /// The image that policies let a build use where it names `name`.
    ///
    /// # Errors
    /// One that is denied, or becomes something that is no image.
    pub fn image(&self, name: &ImageName) -> Result<ImageName, AdmissionError> {
        self.judge(identifier::of_image(name), name, identifier::image)
    }

    /// The image that policies let a user pull or run who names `reference`.
    ///
    /// # Errors
    /// One that is denied, or becomes something that no registry has; one that must be signed and is not.
    pub fn reference(&self, reference: &Reference, puller: &Puller) -> Result<Reference, AdmissionError> {
        let before = identifier::of_image(&ImageName::Reference(reference.clone()));
        let admitted = self.judge(before, reference, |candidate, before| {
            match identifier::image(candidate, before)? {
                ImageName::Reference(reference) => Ok(reference),
                ImageName::Layout(_) => Err(Mismatch::Kind),
            }
        })?;
        self.check_signed(admitted, puller)
    }

    /// The reference, pinned to what its signatures are of, where it must be signed.
    ///
    /// # Errors
    /// One that must be and is not.
    pub(super) fn check_signed(&self, reference: Reference, puller: &Puller) -> Result<Reference, AdmissionError> {
        signed::check(&self.signed, reference, puller)
    }

    /// The file or repository that policies let a build use where it names `remote`.
    ///
    /// # Errors
    /// One that is denied, or becomes something of another kind.
    pub fn remote(&self, remote: &Remote) -> Result<Remote, AdmissionError> {
        self.judge(identifier::of_remote(remote), remote, |candidate, before| {
            identifier::remote(candidate, before, remote)
        })
    }

    /// Whether policies let a build read the directory that it knows by `name`.
    ///
    /// # Errors
    /// One that is denied, or converted.
    pub fn directory(&self, name: &str) -> Result<(), AdmissionError> {
        self.judge(identifier::of_directory(name), &(), |_, _| Err(Mismatch::Kind))
    }

    fn judge<T: Clone>(
        &self,
        before: Candidate,
        name: &T,
        read: impl FnOnce(&Candidate, &Candidate) -> Result<T, Mismatch>,
    ) -> Result<T, AdmissionError> {
        if self.policies.is_empty() {
            return Ok(name.clone());
        }
        let mut candidate = before.clone();
        match self.policies.judge(&mut candidate)? {
            Verdict::Unchanged => Ok(name.clone()),
            Verdict::Converted(rule) => read(&candidate, &before).map_err(|mismatch| AdmissionError::Conversion {
                identifier: before.identifier,
                made: candidate.identifier,
                rule: Box::new(rule),
                mismatch,
            }),
        }
    }

    /// The directories of a plan: they are read without being asked for.
    ///
    /// # Errors
    /// The first that is denied, with the lines of a step that reads it.
    pub(super) fn directories(&self, graph: &Graph) -> Result<(), (Option<(usize, usize)>, AdmissionError)> {
        if self.policies.is_empty() {
            return Ok(());
        }
        for (id, vertex) in graph.iter() {
            let Op::Source(Source::Local(local)) = &vertex.op else {
                continue;
            };
            if let Err(error) = self.directory(&local.name) {
                let lines = graph.dependents(id).filter_map(|reader| graph[reader].label.lines);
                return Err((lines.min(), error));
            }
        }
        Ok(())
    }
}

/// Whoever finds sources, behind the door.
pub(super) struct Door<'a> {
    pub(super) inner: &'a (dyn ImageResolver + Sync),
    pub(super) admission: &'a Admission,
    pub(super) pins: &'a Pins,
    pub(super) progress: Option<&'a dyn Progress>,
    /// Finds signatures; `None` where nothing of an image is used but its configuration.
    pub(super) puller: Option<&'a Puller>,
    /// Sources that are not pinned, each told of once.
    told: Mutex<BTreeSet<Name>>,
}

impl<'a> Door<'a> {
    pub(super) fn new(
        inner: &'a (dyn ImageResolver + Sync),
        admission: &'a Admission,
        pins: &'a Pins,
        progress: Option<&'a dyn Progress>,
    ) -> Self {
        Self {
            inner,
            admission,
            pins,
            progress,
            puller: None,
            told: Mutex::default(),
        }
    }

    /// The same, where images are used: those that must be signed are checked.
    pub(super) fn checking_signatures(self, puller: &'a Puller) -> Self {
        let puller = Some(puller);
        Self { puller, ..self }
    }

    /// What is asked for in the end, and by what it is pinned.
    fn admit_image(&self, request: &ImageRequest) -> Result<(ImageRequest, Option<(Name, Pin)>), AdmissionError> {
        let mut name = self.admission.image(&request.name)?;
        let pinned = match &mut name {
            ImageName::Reference(reference) if reference.digest().is_none() && request.span.is_none() => {
                if self.pins.strictness == Strictness::Locked {
                    return Err(AdmissionError::NotPinned(Box::new(reference.clone())));
                }
                None
            }
            ImageName::Reference(reference) if reference.digest().is_none() => {
                let found = self.pin(Name::Image(reference.to_string()))?;
                if let Some((_, Pin::Digest(digest))) = &found {
                    *reference = reference.pinned(*digest);
                }
                found
            }
            ImageName::Reference(_) | ImageName::Layout(_) => None,
        };
        if let (Some(puller), ImageName::Reference(reference)) = (self.puller, &mut name) {
            *reference = self.admission.check_signed(reference.clone(), puller)?;
        }
        let request = ImageRequest {
            name,
            ..request.clone()
        };
        Ok((request, pinned))
    }

    /// The same for what lies elsewhere; a commit that is pinned is an answer at once.
    fn admit_remote(&self, remote: &Remote) -> Result<Admitted, ResolveError> {
        let mut remote = self.admission.remote(remote)?;
        let Some(name) = name_of(&remote) else {
            return Ok(Admitted::Ask(remote));
        };
        match (&mut remote, self.pin(name)?) {
            (Remote::Http(file), Some((_, Pin::Digest(digest)))) => file.checksum = Some(digest),
            (Remote::Git(git), Some((name, Pin::Commit(commit)))) => {
                let found = pinned_commit(git, &commit.id, commit.reference.as_deref(), commit.tag.as_deref());
                let found = found.map_err(|source| self.pinned(name, Pin::Commit(commit), source.into()))?;
                return Ok(Admitted::Known(Source::Git(found)));
            }
            _ => {}
        }
        Ok(Admitted::Ask(remote))
    }

    /// What the lock file says of a source that the Dockerfile does not pin itself.
    fn pin(&self, name: Name) -> Result<Option<(Name, Pin)>, AdmissionError> {
        let Some(lock) = &self.pins.lock else {
            return Ok(None);
        };
        if let Some(pin) = lock.get(&name) {
            return Ok(Some((name, pin.clone())));
        }
        let (file, command) = (self.pins.file.clone(), self.pins.command.clone());
        if self.pins.strictness == Strictness::Locked {
            return Err(AdmissionError::NotLocked {
                name: Box::new(name),
                lock: file,
                command,
            });
        }
        let is_new = self.told().insert(name.clone());
        if let Some(progress) = self.progress.filter(|_| is_new) {
            let message = format!("{name} is not pinned in {file}: `{command}` pins it");
            progress.report(Event::Warning { message });
        }
        Ok(None)
    }

    fn pinned(&self, name: Name, pin: Pin, source: ResolveError) -> AdmissionError {
        AdmissionError::Pinned {
            name: Box::new(name),
            pin: Box::new(pin),
            lock: self.pins.file.clone(),
            command: self.pins.command.clone(),
            source,
        }
    }

    fn told(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What became of a request for something that lies elsewhere.
enum Admitted {
    Ask(Remote),
    Known(Source),
}

impl ImageResolver for Door<'_> {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        let admitted = match self.admission.signed.is_empty() {
            true => requests.iter().map(|request| self.admit_image(request)).collect(),
            // Registries are asked for signatures.
            false => all_at_once(requests, |request| self.admit_image(request)),
        };
        let asked: Vec<ImageRequest> = admitted.iter().flatten().map(|(request, _)| request.clone()).collect();
        let mut answers = self.inner.resolve(&asked).into_iter();
        let answer = |admitted: Result<_, AdmissionError>| {
            let (_, pinned) = admitted?;
            let answer = answers.next().unwrap_or_else(|| Err("nobody answered".into()));
            answer.map_err(|source| match pinned {
                Some((name, pin)) => self.pinned(name, pin, source).into(),
                None => source,
            })
        };
        admitted.into_iter().map(answer).collect()
    }

    fn resolve_sources(&self, requests: &[Remote]) -> Vec<Result<Source, ResolveError>> {
        let admitted: Vec<_> = requests.iter().map(|request| self.admit_remote(request)).collect();
        let to_ask = |admitted: &Admitted| match admitted {
            Admitted::Ask(remote) => Some(remote.clone()),
            Admitted::Known(_) => None,
        };
        let asked: Vec<Remote> = admitted.iter().flatten().filter_map(to_ask).collect();
        let mut answers = match asked.is_empty() {
            true => Vec::new(),
            false => self.inner.resolve_sources(&asked),
        }
        .into_iter();
        let answer = |admitted: Result<Admitted, ResolveError>| match admitted? {
            Admitted::Known(source) => Ok(source),
            Admitted::Ask(_) => answers.next().unwrap_or_else(|| Err("nobody answered".into())),
        };
        admitted.into_iter().map(answer).collect()
    }

    fn moment(&self, source: &Source) -> Result<Option<i64>, ResolveError> {
        self.inner.moment(source)
    }
}

/// The first of an error and its causes that is a `T`.
pub fn cause_of<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
}
