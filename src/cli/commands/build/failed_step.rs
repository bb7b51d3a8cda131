//! What becomes of a step that failed: its state is kept, and perhaps a shell is opened in it.

use std::sync::{Mutex, PoisonError};

use super::Desk;
use crate::cli::commands::debug;
use crate::cli::failure::Failure;
use crate::cli::interrupt::forward_signals;
use crate::cli::output;
use crate::executor::{FailedState, FailedSteps};
use crate::history::Recorder;
use crate::progress::{Event, Progress, StepId};
use crate::run::{Visit, enter};
use crate::store::{Store, StoredFailure};

/// A step whose state was kept.
#[derive(Clone)]
pub(super) struct KeptStep {
    /// `BUILD/NUMBER`.
    name: String,
    state: FailedState,
}

/// Keeps the states of failed steps in the store, under their places in the build's record.
pub(super) struct KeptSteps<'a> {
    store: &'a Store,
    recorder: &'a Recorder<'a>,
    progress: &'a dyn Progress,
    first: Mutex<Option<KeptStep>>,
}

impl<'a> KeptSteps<'a> {
    pub(super) fn new(store: &'a Store, recorder: &'a Recorder<'a>, progress: &'a dyn Progress) -> Self {
        let first = Mutex::new(None);
        Self {
            store,
            recorder,
            progress,
            first,
        }
    }

    /// The step that failed first, if its state was kept.
    pub(super) fn first(&self) -> Option<KeptStep> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FailedSteps for KeptSteps<'_> {
    fn has_room(&self) -> bool {
        let has_room = self.store.has_room_for_failure();
        if !has_room {
            self.progress.report(Event::Warning {
                message: "the state of the failed step is not kept, since the disk is nearly full: `builder prune` makes room".into(),
            });
        }
        has_room
    }

    fn keep(&self, step: StepId, state: FailedState) {
        let Some((build, number)) = self.recorder.place_of(step) else {
            return; // The build is not recorded, which was told.
        };
        let name = format!("{build}/{number}");
        let failure = StoredFailure {
            name: name.clone(),
            state: serde_json::to_vec(&state).expect("states have string keys"),
            own: state.own.iter().copied().collect(),
            needed: state.inputs.iter().flatten().copied().collect(),
        };
        match self.store.put_failure(&failure) {
            Ok(()) => {
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(KeptStep { name, state });
            }
            Err(error) => self.progress.report(Event::Warning {
                message: format!("the state of the failed step cannot be kept: {error}"),
            }),
        }
    }
}

/// One hint of all of them.
pub(super) fn joined(hints: impl Iterator<Item = String>) -> Option<String> {
    let hints: Vec<String> = hints.collect();
    (!hints.is_empty()).then(|| hints.join("\n"))
}

/// `hint`, and how the failed step is entered.
pub(super) fn hints(hint: Option<String>, kept: Option<&KeptStep>) -> Option<String> {
    let debug = kept.map(|step| format!("`builder debug {}` opens a shell in the step as it failed", step.name));
    joined(hint.into_iter().chain(debug))
}

/// Opens a shell in the step, on the terminal or on the standard streams. When it has ended, so has the build: what is
/// left to be told of `failure`, which is shown before.
pub(super) fn open_shell(step: &KeptStep, desk: Desk<'_>, failure: &Failure, in_one_line: &str) -> Failure {
    desk.display.put_away();
    failure.print();
    if let Err(trouble) = visit(step, desk) {
        trouble.print();
        output::remark(format_args!("`builder debug {}` enters the step later", step.name));
    }
    failure.again(format!("the build failed: {in_one_line}"))
}

fn visit(step: &KeptStep, desk: Desk<'_>) -> Result<(), Failure> {
    let workshop = desk.workshop;
    // Nobody removes what the shell stands on.
    let _held = workshop.store.failure(&step.name)?;
    // The build's token is set, since it failed.
    let (signals, cancel) = forward_signals()?;
    desk.signals.let_go();
    debug::announce(&step.name, &step.state);
    let (streams, env) = debug::streams()?;
    let visit = Visit {
        state: &step.state,
        command: &[],
        user: None,
        network_mode: None,
        env: &env,
        store: workshop.store,
        snapshotter: workshop.snapshotter,
        secrets: workshop.secrets,
        agents: workshop.agents,
        resources: workshop.resources,
        network: workshop.network,
        progress: desk.display,
        cancel: &cancel,
    };
    enter(visit, streams, &signals)?;
    Ok(())
}
