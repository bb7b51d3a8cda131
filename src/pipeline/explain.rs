//! Why the steps of a recorded build ran, in terms of what was known before it.
//!
//! Reads what others keep: the build's record, the records of the cache, and the listings of what steps selected.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cache::{self, Cache, CacheKey, Difference, InputIdentity, Preimage, Role};
use crate::context::{FileChange, Listing};
use crate::history::{self, Build, BuildId, HistoryError, Step, StepState, Why};
use crate::solver;
use crate::store::{Store, StoreError};

/// Why a step ran.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// Its number.
    pub step: usize,
    /// Its name.
    pub name: String,
    /// Its lines in the Dockerfile, from 1.
    pub lines: Option<(usize, usize)>,
    /// Why.
    pub reason: Reason,
    /// Remote caches that were asked for its result and had none, by name.
    pub missing_in: Vec<String>,
}

/// What kept an earlier result from serving.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// The user: `--no-cache`.
    NoCache,
    /// It stands on steps that `--no-cache` made anew, and that gave something else.
    AfterNoCache,
    /// Nothing like it was run before.
    New,
    /// It ran in that build, and failed: only results are kept.
    FailedBefore {
        /// The build.
        build: BuildId,
    },
    /// It ran in that build, which was stopped before the step's end.
    StoppedBefore {
        /// The build.
        build: BuildId,
    },
    /// That build made its result, which was removed since.
    Removed {
        /// The build.
        build: BuildId,
    },
    /// The nearest result is that of something else.
    Changed {
        /// When that was made, in seconds since 1970.
        nearest: i64,
        /// What differs.
        changes: Vec<Change>,
    },
    /// What its key was made of is not remembered.
    Forgotten,
}

/// One thing that is otherwise than in the nearest result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// A part of the operation.
    Definition {
        /// Which: see [`Difference::Definition`].
        part: String,
        /// What it was.
        before: Option<String>,
        /// What it is.
        after: Option<String>,
    },
    /// A variable that the process sees, from ENV or ARG.
    Variable {
        /// Its name.
        name: String,
        /// Its value; `None` where it was not set.
        before: Option<String>,
        /// Its value now.
        after: Option<String>,
    },
    /// Files of a build context.
    Files {
        /// What for.
        role: Option<Role>,
        /// Which, by path below the context; `None` where that is not remembered.
        files: Option<BTreeMap<String, FileChange>>,
    },
    /// Something that was made by another step, or an image.
    Input {
        /// What for.
        role: Option<Role>,
        /// What it was.
        before: Option<String>,
        /// What it is.
        after: Option<String>,
        /// The step of this build that made it.
        step: Option<usize>,
    },
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The record.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Explains the steps of `build` that ran, or `step` alone.
///
/// # Errors
/// A step that the build does not have; records that cannot be read.
pub fn explain(store: &Store, build: &Build, step: Option<&str>) -> Result<Vec<Explanation>, ExplainError> {
    let chosen: Vec<&Step> = match step {
        Some(text) => vec![build.step(text)?],
        None => build.steps.iter().collect(),
    };
    let explainer = Explainer::new(store, build)?;
    let mut explanations = Vec::new();
    for step in chosen.into_iter().filter(|step| step.state != StepState::Cached) {
        let Some(cause) = &step.cause else { continue };
        explanations.push(Explanation {
            step: step.number,
            name: step.name.clone(),
            lines: step.lines,
            reason: explainer.reason(&step.name, &cause.key, cause.why)?,
            missing_in: cause.missing_in.clone(),
        });
    }
    Ok(explanations)
}

/// Whether two builds are of the same Dockerfile and stage.
fn is_same(one: &Build, other: &Build) -> bool {
    let of = |build: &Build| {
        let subject = &build.subject;
        (
            subject.context.clone(),
            subject.dockerfile.clone(),
            subject.target.clone(),
        )
    };
    of(one) == of(other)
}

struct Explainer<'a> {
    store: &'a Store,
    cache: Cache,
    build: &'a Build,
    /// The steps that this build began, by their keys.
    own: BTreeMap<CacheKey, usize>,
    /// What became of keys in earlier builds, the last time.
    earlier: BTreeMap<String, (BuildId, StepState)>,
    /// The keys that stood at the same places when the same was built before, the last time.
    predecessors: BTreeMap<String, CacheKey>,
}

/// `stage-1 3` of `[stage-1 3/5] RUN make`: a step's place in its Dockerfile, as far as that is the same when steps are
/// added behind it.
fn place(name: &str) -> &str {
    name.split_once('/').map_or("", |(place, _)| place)
}

impl<'a> Explainer<'a> {
    fn new(store: &'a Store, build: &'a Build) -> Result<Self, ExplainError> {
        let own = build.steps.iter().filter_map(|step| {
            let key = CacheKey::parse(&step.cause.as_ref()?.key)?;
            Some((key, step.number))
        });
        let (mut earlier, mut predecessors) = (BTreeMap::new(), BTreeMap::new());
        // The newest first: it is the one that counts.
        for other in history::list(store)?
            .into_iter()
            .filter(|other| other.started < build.started)
        {
            let is_predecessor = is_same(&other, build);
            for step in other.steps {
                if let Some(cause) = step.cause {
                    if let Some(key) = CacheKey::parse(&cause.key).filter(|_| is_predecessor) {
                        predecessors.entry(place(&step.name).to_owned()).or_insert(key);
                    }
                    earlier.entry(cause.key).or_insert((other.id.clone(), step.state));
                }
            }
        }
        Ok(Self {
            store,
            cache: Cache::new(store.clone()),
            build,
            own: own.collect(),
            earlier,
            predecessors,
        })
    }

    fn reason(&self, name: &str, key: &str, why: Why) -> Result<Reason, StoreError> {
        if why == Why::Asked {
            return Ok(Reason::NoCache);
        }
        if let (Why::Unknown, Some((build, state))) = (why, self.earlier.get(key)) {
            let build = build.clone();
            return Ok(match state {
                StepState::Failed => Reason::FailedBefore { build },
                StepState::Canceled | StepState::Killed | StepState::Running => Reason::StoppedBefore { build },
                StepState::Done | StepState::Cached => Reason::Removed { build },
            });
        }
        let preimage = match CacheKey::parse(key) {
            Some(key) => self.cache.preimage(key)?,
            None => None,
        };
        let Some(preimage) = preimage else {
            return Ok(Reason::Forgotten);
        };
        if why == Why::OnAsked {
            return Ok(Reason::AfterNoCache);
        }
        let begun = self.build.started.div_euclid(1000);
        let predecessor = self.predecessors.get(place(name));
        // What does something else and stood elsewhere is no predecessor, however little it differs.
        let counts = |key: CacheKey, old: &Preimage| {
            !self.own.contains_key(&key) && (predecessor == Some(&key) || cache::is_same_deed(old, &preimage))
        };
        let Some(nearest) = self.cache.nearest(&preimage, begun, counts)? else {
            return Ok(Reason::New);
        };
        Ok(Reason::Changed {
            nearest: nearest.created,
            changes: self.changes(&nearest.preimage, &preimage)?,
        })
    }

    fn changes(&self, before: &Preimage, after: &Preimage) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        for difference in cache::differences(before, after).unwrap_or_default() {
            changes.push(match difference {
                Difference::Input {
                    index,
                    before,
                    after: now,
                } => self.input(cache::role(after, index), before, now)?,
                Difference::Definition { part, before, after } => Change::Definition { part, before, after },
                Difference::Variable { name, before, after } => Change::Variable { name, before, after },
            });
        }
        Ok(changes)
    }

    fn input(
        &self,
        role: Option<Role>,
        before: Option<InputIdentity>,
        after: Option<InputIdentity>,
    ) -> Result<Change, StoreError> {
        if let (Some(InputIdentity::Content(old)), Some(InputIdentity::Content(new))) = (before, after) {
            let directory = solver::listings(self.store);
            let (old, new) = (Listing::load(&directory, &old), Listing::load(&directory, &new));
            let files = old.zip(new).map(|(old, new)| old.changes(&new).into_iter().collect());
            return Ok(Change::Files { role, files });
        }
        let step = match after {
            Some(InputIdentity::Key(key)) => self.own.get(&key).copied(),
            _ => None,
        };
        let (before, after) = (self.summary(before)?, self.summary(after)?);
        Ok(Change::Input {
            role,
            before,
            after,
            step,
        })
    }

    /// What an input is, where that is remembered.
    fn summary(&self, identity: Option<InputIdentity>) -> Result<Option<String>, StoreError> {
        match identity {
            Some(InputIdentity::Key(key)) => Ok(self.cache.preimage(key)?.as_ref().map(cache::summary)),
            Some(InputIdentity::Content(_)) | None => Ok(None),
        }
    }
}
