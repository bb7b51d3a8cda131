//! Listens to a build's events, writes down what is to be kept of them, and hands them on.
//!
//! A build that runs nothing and fails at nothing leaves no record, and no file is touched for it. What cannot be written
//! is told once, and ends no build.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::builds::log_name;
use super::error::{HistoryError, failed};
use super::journal::{BuildId, BuildOutcome, Entry, Journal, StepCause, Subject, milliseconds};
use super::keeping;
use crate::graph::without_credentials;
use crate::oci::Digest;
use crate::progress::{Event, LONGEST_PIECE, Outcome, Progress, StepId};
use crate::store::Store;

/// Bytes of output that are kept of one build, at most.
const MOST_OUTPUT: u64 = 4 << 30;

/// How a build ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finish {
    /// With this image, or index.
    Done(Digest),
    /// With an error; the text is cut after its first line.
    Failed(String),
    /// It was stopped.
    Canceled,
}

/// The step that ended a build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedStep {
    /// The build.
    pub build: BuildId,
    /// The step's number in it.
    pub number: usize,
    /// How many lines it wrote.
    pub lines: u64,
}

/// Records one build.
pub struct Recorder<'a> {
    store: &'a Store,
    inner: &'a dyn Progress,
    state: Mutex<State>,
}

struct State {
    subject: Subject,
    begun: Instant,
    /// Milliseconds since 1970.
    at: i64,
    steps: HashMap<StepId, Heard>,
    record: Record,
    failed: Option<FailedStep>,
    line: Vec<u8>,
}

/// What was heard of a step.
struct Heard {
    number: usize,
    lines: u64,
    log: Option<File>,
}

enum Record {
    /// Nothing was run yet; these entries would come first.
    NotYet(Vec<Entry>),
    Written(Written),
    /// It could not be begun.
    Impossible,
}

struct Written {
    id: BuildId,
    directory: PathBuf,
    journal: Journal,
    /// Of output.
    bytes: u64,
    incomplete: bool,
}

impl<'a> Recorder<'a> {
    /// Records the build of `subject` in `store`, and hands its events on to `inner`.
    pub fn new(store: &'a Store, subject: Subject, inner: &'a dyn Progress) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at = since.map_or(0, |duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        let state = State {
            subject,
            begun: Instant::now(),
            at,
            steps: HashMap::new(),
            record: Record::NotYet(Vec::new()),
            failed: None,
            line: Vec::new(),
        };
        Self {
            store,
            inner,
            state: Mutex::new(state),
        }
    }

    /// The build has ended.
    pub fn finish(&self, finish: &Finish) {
        let mut state = self.state();
        let trouble = state.finish(self.store, finish).err();
        drop(state);
        self.tell(trouble);
    }

    /// The step that failed, where one did and the build is recorded.
    pub fn failed_step(&self) -> Option<FailedStep> {
        self.state().failed.clone()
    }

    /// The build's id, once it is recorded.
    pub fn build(&self) -> Option<BuildId> {
        match &self.state().record {
            Record::Written(written) => Some(written.id.clone()),
            Record::NotYet(_) | Record::Impossible => None,
        }
    }

    /// By which build and number a step is found in the record.
    pub fn place_of(&self, step: StepId) -> Option<(BuildId, usize)> {
        let state = self.state();
        match (&state.record, state.steps.get(&step)) {
            (Record::Written(written), Some(heard)) => Some((written.id.clone(), heard.number)),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, trouble: Option<Trouble>) {
        if let Some(Trouble(message)) = trouble {
            self.inner.report(Event::Warning { message });
        }
    }
}

impl Progress for Recorder<'_> {
    /// The lock is held until the event was handed on: both sides hear of steps in one order, and number them alike.
    fn report(&self, event: Event) {
        let mut state = self.state();
        let trouble = state.hear(self.store, &event).err();
        self.inner.report(event);
        drop(state);
        self.tell(trouble);
    }
}

/// Why a record is not whole; the text is told, once.
struct Trouble(String);

impl Trouble {
    fn of(error: &io::Error) -> Self {
        Self(format!("the log of this build is not kept whole: {error}"))
    }
}

impl State {
    fn hear(&mut self, store: &Store, event: &Event) -> Result<(), Trouble> {
        match event {
            Event::StepStarted {
                step,
                name,
                cause,
                missing_in,
            } => {
                let number = self.heard(*step).number;
                let begun = self.begin(store);
                let name = String::from(&**name);
                begun.and(self.add(Entry::StepStarted {
                    number,
                    name,
                    cause: StepCause::of(*cause, missing_in),
                }))
            }
            Event::StepOutput { step, line, .. } => self.log(*step, line),
            Event::StepFinished {
                step,
                name,
                lines,
                outcome,
                duration,
            } => {
                let heard = self.heard(*step);
                heard.log = None;
                let (number, written) = (heard.number, heard.lines);
                if let (Outcome::Failed { .. }, Record::Written(record)) = (outcome, &self.record)
                    && self.failed.is_none()
                {
                    self.failed = Some(FailedStep {
                        build: record.id.clone(),
                        number,
                        lines: written,
                    });
                }
                self.add(Entry::step_finished(number, name, *lines, outcome, *duration))
            }
            Event::StepWaiting { .. } | Event::Transfer { .. } | Event::Warning { .. } => Ok(()),
        }
    }

    /// Steps are numbered in the order in which they are heard of, from 1.
    fn heard(&mut self, step: StepId) -> &mut Heard {
        let number = self.steps.len() + 1;
        self.steps.entry(step).or_insert(Heard {
            number,
            lines: 0,
            log: None,
        })
    }

    /// Makes the record, unless there is one.
    fn begin(&mut self, store: &Store) -> Result<(), Trouble> {
        let Record::NotYet(earlier) = &mut self.record else {
            return Ok(());
        };
        let earlier = std::mem::take(earlier);
        self.record = Record::Impossible;
        let (id, directory, journal) = create(store, self.at)
            .map_err(|error| Trouble(format!("this build is not recorded: {}", with_cause(&error))))?;
        let (at, subject) = (self.at, self.subject.clone());
        let begun = Entry::Begun {
            id: id.clone(),
            at,
            subject,
        };
        self.record = Record::Written(Written {
            id,
            directory,
            journal,
            bytes: 0,
            incomplete: false,
        });
        let entries: Vec<Entry> = std::iter::once(begun).chain(earlier).collect();
        self.add_all(&entries)
    }

    fn add(&mut self, entry: Entry) -> Result<(), Trouble> {
        match &mut self.record {
            Record::NotYet(entries) => {
                entries.push(entry);
                Ok(())
            }
            _ => self.add_all(&[entry]),
        }
    }

    fn add_all(&mut self, entries: &[Entry]) -> Result<(), Trouble> {
        match &mut self.record {
            Record::Written(written) => {
                let added = written.journal.add(entries);
                added.or_else(|error| written.lose(&error))
            }
            Record::NotYet(_) | Record::Impossible => Ok(()),
        }
    }

    /// Keeps a line that a step wrote, or a piece of one.
    fn log(&mut self, step: StepId, line: &[u8]) -> Result<(), Trouble> {
        self.heard(step).lines += 1;
        let (Record::Written(written), Some(heard)) = (&mut self.record, self.steps.get_mut(&step)) else {
            return Ok(());
        };
        if written.bytes >= MOST_OUTPUT {
            return written.cut();
        }
        self.line.clear();
        self.line.extend_from_slice(line);
        if line.len() < LONGEST_PIECE {
            self.line.push(b'\n');
        }
        match written.write(heard, &self.line) {
            Ok(()) => Ok(()),
            Err(error) => written.lose(&error),
        }
    }

    fn finish(&mut self, store: &Store, finish: &Finish) -> Result<(), Trouble> {
        let (outcome, image, message) = match finish {
            Finish::Done(image) => (BuildOutcome::Done, Some(*image), None),
            Finish::Failed(message) => (
                BuildOutcome::Failed,
                None,
                message.lines().next().map(without_credentials),
            ),
            Finish::Canceled => (BuildOutcome::Canceled, None, None),
        };
        // A build that failed before it ran anything is recorded, too.
        let begun = match outcome {
            BuildOutcome::Failed => self.begin(store),
            BuildOutcome::Done | BuildOutcome::Canceled => Ok(()),
        };
        let Record::Written(written) = &self.record else {
            return begun;
        };
        let (bytes, incomplete) = (written.bytes, written.incomplete);
        let milliseconds = milliseconds(self.begun.elapsed());
        let finished = begun.and(self.add(Entry::Finished {
            outcome,
            image,
            message,
            milliseconds,
            incomplete,
        }));
        keeping::after_build(store, bytes);
        finished
    }
}

impl Written {
    fn write(&mut self, heard: &mut Heard, bytes: &[u8]) -> io::Result<()> {
        let log = match &mut heard.log {
            Some(log) => log,
            none => {
                let path = self.directory.join(log_name(heard.number));
                none.insert(File::options().append(true).create(true).open(path)?)
            }
        };
        log.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Tells the first loss; the others are the same.
    fn lose(&mut self, error: &io::Error) -> Result<(), Trouble> {
        match std::mem::replace(&mut self.incomplete, true) {
            true => Ok(()),
            false => Err(Trouble::of(error)),
        }
    }

    fn cut(&mut self) -> Result<(), Trouble> {
        match std::mem::replace(&mut self.incomplete, true) {
            true => Ok(()),
            false => Err(Trouble(format!(
                "the log of this build is cut here: {} GiB of output are kept",
                MOST_OUTPUT >> 30
            ))),
        }
    }
}

/// Makes a build's directory and journal; the names of directories sort by time.
fn create(store: &Store, at: i64) -> Result<(BuildId, PathBuf, Journal), HistoryError> {
    let parent = keeping::directory(store);
    let make = |path: &PathBuf| DirBuilder::new().mode(0o700).recursive(true).create(path);
    loop {
        let id = BuildId::random()?;
        let directory = parent.join(keeping::name(at, &id));
        make(&directory).map_err(failed("create", &directory))?;
        let journal = Journal::create(&directory);
        match journal {
            Ok(journal) if journal.is_in(&directory) => {
                keeping::before_build(store);
                return Ok((id, directory, journal));
            }
            // Another process took it for a dead build's before it was locked.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("create the journal in", &directory)(error)),
        }
    }
}

fn with_cause(error: &HistoryError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::builds::{BuildState, StepState, find, list};
    use super::*;
    use crate::progress::{Cause, Silent, Stream};

    fn subject() -> Subject {
        Subject {
            context: ".".into(),
            dockerfile: "Dockerfile".into(),
            target: None,
            names: vec!["app".into()],
        }
    }

    fn started(step: usize) -> Event {
        Event::StepStarted {
            step: StepId(step),
            name: format!("[{step}/9] RUN {step}").into(),
            cause: Cause::Unknown([7; 32]),
            missing_in: Vec::new(),
        }
    }

    fn wrote(step: usize, line: &[u8]) -> Event {
        Event::StepOutput {
            step: StepId(step),
            stream: Stream::Stdout,
            line: line.into(),
        }
    }

    fn finished(step: usize, outcome: Outcome) -> Event {
        Event::StepFinished {
            step: StepId(step),
            name: format!("[{step}/9] RUN {step}").into(),
            lines: Some((step, step)),
            outcome,
            duration: Duration::from_millis(5),
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        (root, store)
    }

    #[test]
    fn a_build_that_runs_nothing_touches_nothing() {
        let (_root, store) = store();
        let recorder = Recorder::new(&store, subject(), &Silent);
        recorder.report(finished(1, Outcome::Cached));
        recorder.finish(&Finish::Done(Digest::of(b"image")));
        assert!(!keeping::directory(&store).exists());
        assert!(list(&store).unwrap().is_empty());
    }

    #[test]
    fn all_that_a_step_wrote_is_there_while_it_runs() {
        let (_root, store) = store();
        let recorder = Recorder::new(&store, subject(), &Silent);
        recorder.report(finished(1, Outcome::Cached));
        recorder.report(started(4));
        recorder.report(wrote(4, b"one \xff\x1b[31m"));
        recorder.report(wrote(4, &[b'x'; LONGEST_PIECE]));
        recorder.report(wrote(4, b"y"));
        recorder.report(wrote(4, b""));
        let build = find(&store, None).unwrap();
        assert_eq!(build.state, BuildState::Running);
        assert_eq!(build.steps.len(), 2);
        assert_eq!((build.steps[0].number, build.steps[0].state), (1, StepState::Cached));
        let running = &build.steps[1];
        assert_eq!((running.number, running.state), (2, StepState::Running));
        let log = std::fs::read(running.log.as_ref().unwrap()).unwrap();
        let expected = [b"one \xff\x1b[31m\n".as_slice(), &[b'x'; LONGEST_PIECE], b"y\n\n"].concat();
        assert_eq!(log, expected);
        drop(recorder);
        let build = find(&store, None).unwrap();
        assert_eq!(
            (build.state, build.steps[1].state),
            (BuildState::Killed, StepState::Killed)
        );
    }

    #[test]
    fn how_builds_ended_is_recorded() {
        let (_root, store) = store();
        let recorder = Recorder::new(&store, subject(), &Silent);
        recorder.report(started(7));
        recorder.report(wrote(7, b"no"));
        let message = "exit code: 3".to_owned();
        recorder.report(finished(
            7,
            Outcome::Failed {
                message,
                exit_code: Some(3),
            },
        ));
        let failed = recorder.failed_step().unwrap();
        assert_eq!((failed.number, failed.lines), (1, 1));
        recorder.finish(&Finish::Failed("[7/9] RUN 7: exit code: 3\nand more".into()));
        let build = find(&store, None).unwrap();
        assert_eq!(build.id, failed.build);
        assert_eq!(build.state, BuildState::Failed);
        assert_eq!(build.error.as_deref(), Some("[7/9] RUN 7: exit code: 3"));
        assert_eq!(build.subject, subject());
        assert_eq!(
            (build.steps[0].state, build.steps[0].exit_code),
            (StepState::Failed, Some(3))
        );
        assert_eq!(build.steps[0].lines, Some((7, 7)));
        // One that fails before anything runs, too.
        let recorder = Recorder::new(&store, subject(), &Silent);
        recorder.finish(&Finish::Failed("the Dockerfile has 1 error(s)".into()));
        assert_eq!(list(&store).unwrap().len(), 2);
    }

    /// Takes what it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<Event>>);

    impl Progress for Told {
        fn report(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_handed_on() {
        let (_root, store) = store();
        let told = Told::default();
        let recorder = Recorder::new(&store, subject(), &told);
        recorder.report(started(1));
        // In the place of the log is something that cannot be written to.
        let build = find(&store, None).unwrap();
        std::fs::create_dir(build.directory.join(log_name(1))).unwrap();
        recorder.report(wrote(1, b"a"));
        recorder.report(wrote(1, b"b"));
        recorder.report(finished(1, Outcome::Done));
        recorder.finish(&Finish::Done(Digest::of(b"image")));
        let told = told.0.into_inner().unwrap();
        let is_warning = |event: &&Event| matches!(event, Event::Warning { .. });
        assert_eq!(told.iter().filter(is_warning).count(), 1, "{told:?}");
        assert_eq!(told.len(), 5);
        let build = find(&store, None).unwrap();
        assert_eq!((build.state, build.incomplete), (BuildState::Done, true));
    }

    #[test]
    fn a_record_that_cannot_be_begun_is_told_once() {
        let (_root, store) = store();
        std::fs::write(keeping::directory(&store), "").unwrap();
        let told = Told::default();
        let recorder = Recorder::new(&store, subject(), &told);
        recorder.report(started(1));
        recorder.report(wrote(1, b"a"));
        recorder.report(started(2));
        recorder.finish(&Finish::Failed("x".into()));
        assert_eq!(told.0.into_inner().unwrap().len(), 4);
    }
}
