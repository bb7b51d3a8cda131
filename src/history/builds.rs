//! Records, read: which builds there are, what became of their steps, where their logs lie.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{HistoryError, failed};
use super::journal::{BuildId, BuildOutcome, Entry, StepCause, StepOutcome, Subject, read};
use super::keeping;
use crate::oci::Digest;
use crate::store::Store;

/// The fewest digits that stand for an id: what is shorter is a step's number.
const FEWEST_DIGITS: usize = 4;
/// Names that an error lists, at most.
const LISTED: usize = 5;

/// A build that was recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// What was built.
    #[serde(flatten)]
    pub subject: Subject,
    /// When it began, in milliseconds since 1970.
    pub started: i64,
    /// How far it came.
    pub state: BuildState,
    /// How long it took, in milliseconds; `None` where it did not come to its end.
    pub duration: Option<u64>,
    /// The image that it made, or the index.
    pub image: Option<Digest>,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether something that a step wrote, or how it ended, could not be kept.
    pub incomplete: bool,
    /// Its steps, in the order in which they were heard of.
    pub steps: Vec<Step>,
    /// Where it is recorded.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// How far a build came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildState {
    /// It runs.
    Running,
    /// It gave an image.
    Done,
    /// It failed.
    Failed,
    /// It was stopped.
    Canceled,
    /// Its process ended without a word.
    Killed,
}

/// A step of a build.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// Its number, from 1; `--progress plain` shows it by the same one.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Its lines in the Dockerfile, from 1; `None` where they are not known.
    pub lines: Option<(usize, usize)>,
    /// Why it was begun; `None` where it was not, and where that only fetched something.
    pub cause: Option<StepCause>,
    /// How far it came.
    pub state: StepState,
    /// Why it failed.
    pub error: Option<String>,
    /// The code that its process ended with, where that failed.
    pub exit_code: Option<i32>,
    /// How long it took, in milliseconds.
    pub duration: Option<u64>,
    /// The file that holds what it wrote, both streams as they came; `None` where it wrote nothing.
    pub log: Option<PathBuf>,
}

/// How far a step came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// It runs.
    Running,
    /// It ran, and succeeded.
    Done,
    /// An earlier result served.
    Cached,
    /// It failed.
    Failed,
    /// It was stopped, because the build was.
    Canceled,
    /// The build's process ended while it ran.
    Killed,
}

/// The name of a step's log in its build's directory.
pub(super) fn log_name(number: usize) -> String {
    format!("{number}.log")
}

/// All recorded builds, newest first.
///
/// # Errors
/// When the directory of records cannot be read. A record without a beginning is passed over.
pub fn list(store: &Store) -> Result<Vec<Build>, HistoryError> {
    let records = keeping::records(store)?;
    Ok(records
        .iter()
        .rev()
        .filter_map(|(directory, _)| load(directory))
        .collect())
}

/// The build that `text` names: its id, or the beginning of it; `^1` is the one before the newest, `^0` and nothing at
/// all the newest.
///
/// # Errors
/// No such build, several, or a record that cannot be read.
pub fn find(store: &Store, text: Option<&str>) -> Result<Build, HistoryError> {
    let mut records = keeping::records(store)?;
    records.reverse();
    let unknown = || match text {
        Some(text) => HistoryError::NoBuild(text.to_owned()),
        None => HistoryError::Empty,
    };
    let place = match text {
        None => Some(0),
        Some(text) => text
            .strip_prefix('^')
            .map(|number| number.parse().map_err(|_| unknown()))
            .transpose()?,
    };
    if let Some(place) = place {
        // A record that was just begun may have no line yet.
        let loaded = records.iter().filter_map(|(directory, _)| load(directory)).nth(place);
        return loaded.ok_or_else(unknown);
    }
    let text = text.unwrap_or_default();
    let begins = |(_, id): &&(PathBuf, BuildId)| text.len() >= FEWEST_DIGITS && id.as_str().starts_with(text);
    let found: Vec<_> = records.iter().filter(begins).collect();
    match found.as_slice() {
        [] => Err(unknown()),
        [(directory, _)] => load(directory).ok_or_else(unknown),
        _ => Err(HistoryError::AmbiguousBuild(text.to_owned())),
    }
}

/// Removes the record of the build that `text` names; its id.
///
/// # Errors
/// As [`find`]; a build that runs.
pub fn remove(store: &Store, text: &str) -> Result<BuildId, HistoryError> {
    let build = find(store, Some(text))?;
    match keeping::remove(store, &build.directory)? {
        true => Ok(build.id),
        false => Err(HistoryError::StillRunning(build.id.to_string())),
    }
}

/// Removes all records but those of builds that run; their ids.
///
/// # Errors
/// When a record cannot be removed.
pub fn remove_all(store: &Store) -> Result<Vec<BuildId>, HistoryError> {
    let mut removed = Vec::new();
    for (directory, id) in keeping::records(store)? {
        if keeping::remove(store, &directory)? {
            removed.push(id);
        }
    }
    // What somebody looked at when its build's record went has no record any more.
    store.remove_failures("")?;
    Ok(removed)
}

impl Build {
    /// The step that `text` names: its number, with or without `#`, or a part of its name that no other step's has.
    ///
    /// # Errors
    /// No such step, or several.
    pub fn step(&self, text: &str) -> Result<&Step, HistoryError> {
        let number = text.strip_prefix('#').unwrap_or(text).parse::<usize>();
        if let Ok(number) = number {
            let step = self.steps.iter().find(|step| step.number == number);
            return step.ok_or_else(|| self.no_step(text));
        }
        let named: Vec<&Step> = self.steps.iter().filter(|step| step.name.contains(text)).collect();
        match named.as_slice() {
            [] => Err(self.no_step(text)),
            [only] => Ok(only),
            several => Err(HistoryError::AmbiguousStep {
                step: text.to_owned(),
                names: several
                    .iter()
                    .take(LISTED)
                    .map(|step| format!("{} {}", step.number, step.name))
                    .collect(),
            }),
        }
    }

    fn no_step(&self, text: &str) -> HistoryError {
        HistoryError::NoStep {
            build: self.id.to_string(),
            step: text.to_owned(),
        }
    }
}

/// The record in `directory`; `None` where it has no beginning.
fn load(directory: &Path) -> Option<Build> {
    // Looked at first: a build that ends meanwhile is one that ended, not one that was killed.
    let running = keeping::is_running(directory);
    let mut entries = read(directory).ok()?.into_iter();
    let Some(Entry::Begun { id, at, subject }) = entries.next() else {
        return None;
    };
    let mut build = Build {
        id,
        subject,
        started: at,
        state: if running {
            BuildState::Running
        } else {
            BuildState::Killed
        },
        duration: None,
        image: None,
        error: None,
        incomplete: !running,
        steps: Vec::new(),
        directory: directory.to_owned(),
    };
    let unfinished = if running { StepState::Running } else { StepState::Killed };
    entries.for_each(|entry| build.learn(entry, unfinished));
    for step in &mut build.steps {
        let path = directory.join(log_name(step.number));
        step.log = path.exists().then_some(path);
    }
    Some(build)
}

impl Build {
    fn learn(&mut self, entry: Entry, unfinished: StepState) {
        match entry {
            Entry::Begun { .. } => {}
            Entry::StepStarted { number, name, cause } => {
                let step = self.step_of(number, name);
                (step.state, step.cause) = (unfinished, cause);
            }
            Entry::StepFinished {
                number,
                name,
                lines,
                outcome,
                message,
                exit_code,
                milliseconds,
            } => {
                let step = self.step_of(number, name);
                step.lines = lines;
                step.state = match outcome {
                    StepOutcome::Done => StepState::Done,
                    StepOutcome::Cached => StepState::Cached,
                    StepOutcome::Failed => StepState::Failed,
                    StepOutcome::Canceled => StepState::Canceled,
                };
                (step.error, step.exit_code, step.duration) = (message, exit_code, Some(milliseconds));
            }
            Entry::Finished {
                outcome,
                image,
                message,
                milliseconds,
                incomplete,
            } => {
                self.state = match outcome {
                    BuildOutcome::Done => BuildState::Done,
                    BuildOutcome::Failed => BuildState::Failed,
                    BuildOutcome::Canceled => BuildState::Canceled,
                };
                (self.image, self.error, self.duration) = (image, message, Some(milliseconds));
                self.incomplete = incomplete;
            }
        }
    }

    fn step_of(&mut self, number: usize, name: String) -> &mut Step {
        let place = match self.steps.iter().position(|step| step.number == number) {
            Some(place) => place,
            None => {
                self.steps.push(Step {
                    number,
                    name,
                    lines: None,
                    cause: None,
                    state: StepState::Running,
                    error: None,
                    exit_code: None,
                    duration: None,
                    log: None,
                });
                self.steps.len() - 1
            }
        };
        &mut self.steps[place]
    }
}

/// A step's log, to be read from its beginning.
///
/// # Errors
/// When it cannot be opened.
pub fn open_log(log: &Path) -> Result<std::fs::File, HistoryError> {
    std::fs::File::open(log).map_err(failed("open", log))
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{Finish, Recorder};
    use super::*;
    use crate::progress::{Event, Progress, Silent, StepId};

    fn build(store: &Store, names: &[&str]) -> BuildId {
        let recorder = Recorder::new(store, Subject::default(), &Silent);
        for (index, name) in names.iter().enumerate() {
            let (step, name) = (StepId(index * 10), (*name).into());
            recorder.report(Event::StepStarted {
                step,
                name,
                cause: crate::progress::Cause::Fetch,
                missing_in: Vec::new(),
            });
        }
        recorder.finish(&Finish::Done(Digest::of(b"image")));
        // Names sort by milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(2));
        find(store, None).unwrap().id
    }

    #[test]
    fn builds_are_found_by_id_and_by_age() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        assert!(matches!(find(&store, None), Err(HistoryError::Empty)));
        let ids: Vec<BuildId> = (0..3).map(|_| build(&store, &["x"])).collect();
        let found = |text: &str| find(&store, Some(text)).map(|build| build.id);
        assert_eq!(found("^0").unwrap(), ids[2]);
        assert_eq!(found("^2").unwrap(), ids[0]);
        assert_eq!(found(&ids[1].as_str()[..8]).unwrap(), ids[1]);
        for text in ["", "^3", "^x", "zzzz", "../..", &ids[0].as_str()[..3]] {
            assert!(matches!(found(text), Err(HistoryError::NoBuild(_))), "{text}");
        }
        assert_eq!(remove(&store, ids[1].as_str()).unwrap(), ids[1]);
        assert_eq!(remove_all(&store).unwrap(), [ids[0].clone(), ids[2].clone()]);
        assert!(list(&store).unwrap().is_empty());
    }

    #[test]
    fn steps_are_found_by_number_and_by_a_part_of_their_name() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        build(&store, &["[1/3] FROM x", "[2/3] RUN make", "[3/3] RUN make install"]);
        let build = find(&store, None).unwrap();
        let number = |text: &str| build.step(text).map(|step| step.number);
        assert_eq!(number("2").unwrap(), 2);
        assert_eq!(number("#3").unwrap(), 3);
        assert_eq!(number("2/3").unwrap(), 2);
        assert_eq!(number("install").unwrap(), 3);
        assert!(matches!(number("make"), Err(HistoryError::AmbiguousStep { names, .. }) if names.len() == 2));
        assert!(matches!(number("4"), Err(HistoryError::NoStep { .. })));
        assert!(matches!(number("test"), Err(HistoryError::NoStep { .. })));
    }
}
