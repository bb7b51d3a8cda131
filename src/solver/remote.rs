//! What remote caches know: records of steps that missed here, and the layers of those that are needed.
//!
//! All remotes are asked at the same time, and the first that has a record wins: one that is slow holds nobody up who has
//! another. A remote that fails is told of once and not asked again: a build never fails for it, and never waits for it
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::CacheKey;
use crate::cache::remote::{Origin, RemoteCache, RemoteRecord};
use crate::graph::{Graph, Op, VertexId};
use crate::oci::{ChainId, Descriptor, DiffId};
use crate::progress::Event;
use crate::pull::{FoundBlob, LayerSource, LayerStack, PullError, Puller};
use crate::store::SnapshotId;

use super::keys::Keys;
use super::{Services, StepError, schedule};

/// Records that a remote is asked for at the same time.
const PARALLEL: usize = 16;
/// How long remotes may take to say which records they have. One that is not through by then is done without: it would take
/// as long for each layer.
const LONGEST_ROUND: Duration = Duration::from_secs(15);
/// How often is looked whether the build was stopped, while remotes are waited for.
const GLANCE: Duration = Duration::from_millis(200);

/// The remote caches of one solve, and what they were found to have.
pub(super) struct Remote<'a> {
    services: Services<'a>,
    places: Vec<Arc<Place>>,
    found: Mutex<BTreeMap<VertexId, Found>>,
    /// What was asked for, and which remotes said that they have none.
    asked: Mutex<BTreeMap<VertexId, BTreeSet<usize>>>,
    /// What some remote has, but not so that it could be used.
    spoilt: Mutex<BTreeSet<VertexId>>,
}

/// A remote cache, and how it fares.
struct Place {
    cache: Arc<dyn RemoteCache>,
    /// Why it is not asked any more.
    failure: OnceLock<String>,
    /// Whether the user knows.
    told: AtomicBool,
}

/// A record, and the remote that has it.
#[derive(Clone)]
pub(super) struct Found {
    record: RemoteRecord,
    place: usize,
}

/// Keys that are asked for at the same time.
struct Round {
    keys: Vec<CacheKey>,
    /// Nobody waits for answers any more.
    over: AtomicBool,
}

/// What a remote said: the number of the remote, and that of the key.
enum Answer {
    Has(usize, usize, RemoteRecord),
    HasNot(usize, usize),
    /// It has something, which is not used.
    Unusable(usize, usize, String),
    /// It failed, and is not asked further.
    Failed(usize),
}

impl<'a> Remote<'a> {
    pub fn new(services: Services<'a>) -> Self {
        let place = |origin: &Origin| {
            Arc::new(Place {
                cache: origin.cache.clone(),
                failure: OnceLock::new(),
                told: AtomicBool::new(false),
            })
        };
        Self {
            services,
            places: services.remotes.from.iter().map(place).collect(),
            found: Mutex::default(),
            asked: Mutex::default(),
            spoilt: Mutex::default(),
        }
    }

    /// Asks for the records of `wanted`, all at once, but for those that were asked for before. Nothing is asked where
    /// there is no remote.
    pub fn look_for(&self, keys: &Keys, wanted: impl IntoIterator<Item = VertexId>) {
        if self.places.is_empty() {
            return;
        }
        let mut asked = lock(&self.asked);
        let keyed = wanted.into_iter().filter_map(|id| Some((id, keys.settled(id)?)));
        let (ids, keys): (Vec<VertexId>, Vec<CacheKey>) = keyed.filter(|(id, _)| !asked.contains_key(id)).unzip();
        asked.extend(ids.iter().map(|id| (*id, BTreeSet::new())));
        drop(asked);
        if ids.is_empty() {
            return;
        }
        let over = AtomicBool::new(false);
        let round = Arc::new(Round { keys, over });
        let (sender, answers) = channel();
        let open: BTreeSet<usize> = (0..self.places.len()).filter(|place| self.is_open(*place)).collect();
        for place in &open {
            self.send_askers(*place, &round, &sender);
        }
        drop(sender);
        self.collect(&ids, open, &answers);
        round.over.store(true, Ordering::Relaxed);
        self.tell_failures();
    }

    /// Threads that ask one remote. They are not waited for: one that hangs holds up nobody.
    fn send_askers(&self, place: usize, round: &Arc<Round>, sender: &Sender<Answer>) {
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..PARALLEL.min(round.keys.len()) {
            let (round, sender, next) = (round.clone(), sender.clone(), next.clone());
            let remote = self.places[place].clone();
            // Where no more threads can be had, fewer ask, and what was not asked for was not found.
            let asker = std::thread::Builder::new().name("asker".to_owned());
            let _ = asker.spawn(move || ask(place, &remote, &round, &next, &sender));
        }
    }

    /// Takes answers until each key was found, or all remotes that are `open` said that they have it not.
    fn collect(&self, ids: &[VertexId], mut open: BTreeSet<usize>, answers: &Receiver<Answer>) {
        let mut undecided: BTreeMap<usize, BTreeSet<usize>> =
            (0..ids.len()).map(|number| (number, BTreeSet::new())).collect();
        let until = Instant::now() + LONGEST_ROUND;
        while !undecided.is_empty() && !self.services.cancel.is_cancelled() {
            if Instant::now() > until {
                return self.give_up_slow(&open, &undecided);
            }
            let answer = match answers.recv_timeout(GLANCE) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match answer {
                Answer::Has(place, number, record) if undecided.remove(&number).is_some() => {
                    self.found().insert(ids[number], Found { record, place });
                }
                Answer::Has(..) => {}
                Answer::HasNot(place, number) => {
                    lock(&self.asked).entry(ids[number]).or_default().insert(place);
                    undecided.entry(number).and_modify(|without| _ = without.insert(place));
                }
                Answer::Unusable(place, number, message) => {
                    self.warn(message);
                    undecided.entry(number).and_modify(|without| _ = without.insert(place));
                }
                Answer::Failed(place) => {
                    self.tell_failures();
                    open.remove(&place);
                }
            }
            undecided.retain(|_, without| !open.is_subset(without));
        }
    }

    /// Does without those of the remotes that are `open` which owe an answer to a question that is `undecided`.
    fn give_up_slow(&self, open: &BTreeSet<usize>, undecided: &BTreeMap<usize, BTreeSet<usize>>) {
        for place in open {
            let owed = undecided.values().filter(|without| !without.contains(place)).count();
            if owed > 0 {
                let seconds = LONGEST_ROUND.as_secs();
                let failure =
                    format!("after {seconds} seconds it had not answered for {owed} of the results asked for");
                let _ = self.places[*place].failure.set(failure);
            }
        }
    }

    /// Whether a remote has the result of a vertex.
    pub fn has(&self, id: VertexId) -> bool {
        self.found().contains_key(&id)
    }

    /// The remotes that were asked for the result of a vertex and did not have it, by name.
    pub fn without(&self, id: VertexId) -> Vec<String> {
        let asked = lock(&self.asked);
        let places = asked.get(&id).into_iter().flatten();
        places
            .map(|place| self.places[*place].cache.name().to_owned())
            .collect()
    }

    /// Whether a remote has something of a vertex that could not be used.
    pub fn is_spoilt(&self, id: VertexId) -> bool {
        lock(&self.spoilt).contains(&id)
    }

    /// Tells of remotes that failed since this was done last.
    pub fn tell_failures(&self) {
        for place in &self.places {
            if let Some(failure) = place.failure.get()
                && !place.told.swap(true, Ordering::Relaxed)
                && !self.services.cancel.is_cancelled()
            {
                self.warn(format!("{} is not used: {failure}", place.cache.name()));
            }
        }
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<VertexId, Found>> {
        lock(&self.found)
    }

    /// A remote failed, by its place, and is not asked further. The user is told once.
    pub fn give_up(&self, place: usize, failure: String) {
        let _ = self.places[place].failure.set(failure);
        self.tell_failures();
    }

    /// Whether a remote did not fail.
    pub fn is_open(&self, place: usize) -> bool {
        self.places[place].failure.get().is_none()
    }

    fn warn(&self, message: String) {
        self.services.progress.report(Event::Warning { message });
    }

    /// Gets the result of a vertex, with all layers that are not here; `None` where it cannot be had, of which the user
    /// is told.
    ///
    /// # Errors
    /// A store that cannot keep it; the build's end.
    pub fn fetch(&self, graph: &Graph, keys: &Keys, id: VertexId) -> Result<Option<(SnapshotId, i64)>, StepError> {
        let (Some(found), Some(keyed)) = (self.found().remove(&id), keys.of(id)) else {
            return Ok(None);
        };
        let Services {
            puller,
            snapshotter,
            progress,
            cancel,
            ..
        } = self.services;
        if !self.is_open(found.place) {
            return Ok(None);
        }
        let layers = &found.record.layers;
        let diffs: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        if !is_of(graph, id, &diffs) {
            let (cache, key) = (self.places[found.place].cache.name(), keyed.key);
            self.warn(format!(
                "{cache}: record {key} is not used: it has other layers than such a result"
            ));
            return Ok(None);
        }
        let descriptors: Vec<Descriptor> = layers.iter().map(|layer| layer.blob.clone()).collect();
        let place = &*self.places[found.place];
        let source = Layers {
            record: &found.record,
            place,
            puller,
        };
        let stack = LayerStack {
            diffs: &diffs,
            descriptors: &descriptors,
            source: &source,
        };
        match puller.ensure_stack(snapshotter, stack, progress, cancel) {
            Ok(Some(snapshot)) => {
                let created = found.record.created;
                self.services.cache.save(&keyed.preimage, snapshot, created)?;
                Ok(Some((snapshot, created)))
            }
            Ok(None) => Ok(None),
            Err(error) if error.is_cancelled() || cancel.is_cancelled() => Err(StepError::Cancelled),
            Err(PullError::Store(error)) => Err(error.into()),
            Err(error) => {
                self.tell_failures();
                if self.is_open(found.place) {
                    lock(&self.spoilt).insert(id);
                    let (cache, name) = (place.cache.name(), &graph[id].label.name);
                    self.warn(format!("{cache}: {name} is made here: {}", chain(&error)));
                }
                Ok(None)
            }
        }
    }
}

/// Whether layers can be the result of a vertex: those of the image that it stands on, and one for each step above it.
fn is_of(graph: &Graph, id: VertexId, layers: &[DiffId]) -> bool {
    let (steps, base) = schedule::chain(graph, id);
    let Some(below) = layers.len().checked_sub(steps.len()) else {
        return false;
    };
    let chain = layers[..below]
        .iter()
        .fold(None, |parent, layer| Some(ChainId::extend(parent, *layer)));
    matches!(graph[id].op, Op::Source(_)) || chain == base
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a remote for the keys of a round, one after the other, until there are no more, it fails, or the round is over.
fn ask(place: usize, remote: &Place, round: &Round, next: &AtomicUsize, answers: &Sender<Answer>) {
    while !round.over.load(Ordering::Relaxed) && remote.failure.get().is_none() {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(key) = round.keys.get(number).copied() else {
            return;
        };
        let answer = match remote.cache.read_record(key) {
            Ok(None) => Answer::HasNot(place, number),
            Ok(Some(bytes)) => match RemoteRecord::decode(&bytes, key) {
                Ok(record) => Answer::Has(place, number, record),
                Err(error) => Answer::Unusable(place, number, unusable(remote, key, &error)),
            },
            Err(error) if error.is_of_one_thing() => Answer::Unusable(place, number, unusable(remote, key, &error)),
            Err(error) => {
                let _ = remote.failure.set(chain(&error));
                Answer::Failed(place)
            }
        };
        // Who asked may have found what it needs elsewhere.
        let _ = answers.send(answer);
    }
}

fn unusable(remote: &Place, key: CacheKey, error: &(dyn std::error::Error + 'static)) -> String {
    format!("{}: record {key} is not used: {}", remote.cache.name(), chain(error))
}

/// An error and its causes, in one line.
pub(in crate::solver) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// The blobs of a record: in the remote, or where its base image comes from.
struct Layers<'a> {
    record: &'a RemoteRecord,
    place: &'a Place,
    puller: &'a Puller,
}

impl LayerSource for Layers<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<FoundBlob<'_>, PullError> {
        let elsewhere = |source: Box<dyn std::error::Error + Send + Sync>| PullError::Elsewhere {
            layer: descriptor.digest,
            source,
        };
        let layers = &self.record.layers;
        let layer = layers.iter().find(|layer| layer.blob.digest == descriptor.digest);
        let origins = layer.map_or(&[][..], |layer| layer.origins.as_slice());
        let mut failure = None;
        for origin in origins {
            match self.puller.client().blob(origin, descriptor) {
                Ok(blob) => {
                    return Ok(FoundBlob {
                        reader: Box::new(blob),
                        origin: Some(origin.clone()),
                    });
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let cache = &self.place.cache;
        if self.place.failure.get().is_some() {
            return Err(elsewhere("the cache failed".into()));
        }
        match cache.open_blob(descriptor) {
            Ok(Some(reader)) => Ok(FoundBlob {
                reader,
                origin: cache.repository().cloned(),
            }),
            Ok(None) => Err(failure.map_or_else(|| elsewhere("it is not in the cache".into()), PullError::Registry)),
            Err(error) => {
                if !error.is_of_one_thing() {
                    let _ = self.place.failure.set(chain(&error));
                }
                Err(elsewhere(Box::new(error)))
            }
        }
    }
}
