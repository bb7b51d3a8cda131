//! What a user is told when something fails: one clear message, its causes, what to do, and the exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;

use super::progress::printable;
use crate::cli::output;
use crate::context::{ContextError, SelectionError};
use crate::executor::networking::NetworkingError;
use crate::executor::sandbox::rootless::RootlessError;
use crate::executor::{ExecError, FileError};
use crate::export::ExportError;
use crate::graph::without_credentials;
use crate::pipeline::AdmissionError;
use crate::pull::PullError;
use crate::push::PushError;
use crate::snapshot::SnapshotError;
use crate::source::SourceError;
use crate::store::StoreError;

/// Whose fault it is, which is what the exit code says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The build's own: a failing step, a missing file. Exit code 1.
    Build,
    /// The command line's or the configuration's. Exit code 2.
    Usage,
    /// The registry's, the kernel's, the disk's. Exit code 3.
    Environment,
    /// A container that did not come to run, with docker's code for it.
    Container(u8),
}

/// Something that ends the program.
#[derive(Debug)]
pub(super) struct Failure {
    fault: Fault,
    message: String,
    hint: Option<String>,
    /// Whole and rendered already: nothing is put before it.
    rendered: bool,
}

impl Failure {
    /// A failure of `fault`'s, said in one line.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            fault,
            message: message.into(),
            hint: None,
            rendered: false,
        }
    }

    /// A mistake on the command line or in the configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Fault::Usage, message)
    }

    /// The environment's fault.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Fault::Environment, message)
    }

    /// A message that is drawn already, source line and all.
    pub fn rendered(fault: Fault, message: String) -> Self {
        Self {
            fault,
            message,
            hint: None,
            rendered: true,
        }
    }

    /// An error and its causes.
    pub fn of(fault: Fault, error: &(dyn Error + 'static)) -> Self {
        Self::new(fault, with_causes(error))
    }

    /// What to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What to do about it, where that is known.
    pub fn hinted(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// The same, with what was tried put before it.
    pub fn before(mut self, tried: impl std::fmt::Display) -> Self {
        self.message.insert_str(0, &tried.to_string());
        self
    }

    /// The same as `docker run` ends with it: 125, unless the container has a code of its own.
    pub fn of_container(mut self) -> Self {
        if !matches!(self.fault, Fault::Container(_)) {
            self.fault = Fault::Container(125);
        }
        self
    }

    /// What is said of it, without what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same fault in other words, for who was told the whole of it already.
    pub fn again(&self, message: String) -> Self {
        Self::new(self.fault, message)
    }

    /// Says it on standard error.
    pub fn print(&self) {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (red, cyan, plain) = if colour {
            ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        if self.rendered {
            output::remark(&self.message);
        } else {
            let message = without_credentials(&self.message);
            output::remark(format_args!("{red}error:{plain} {}", printable_lines(&message)));
        }
        let room = || tells_of_full_disk(&self.message).then_some(ROOM);
        if let Some(hint) = self.hint.as_deref().or_else(room) {
            output::remark(format_args!(
                "{cyan}hint:{plain} {}",
                printable_lines(&without_credentials(hint))
            ));
        }
    }

    /// The code that the program ends with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.fault {
            Fault::Build => 1,
            Fault::Usage => 2,
            Fault::Environment => 3,
            Fault::Container(code) => code,
        })
    }
}

/// Said of a full disk where nothing better is known.
const ROOM: &str = "if that is the disk of the store, `builder prune` makes room there";

/// Whether a disk was full, by what the system or SQLite said of it.
pub(super) fn tells_of_full_disk(message: &str) -> bool {
    [
        "No space left on device",
        "Disk quota exceeded",
        "database or disk is full",
    ]
    .iter()
    .any(|said| message.contains(said))
}

fn printable_lines(text: &str) -> String {
    text.lines()
        .map(|line| printable(line.as_bytes(), false))
        .collect::<Vec<_>>()
        .join("\n")
}

/// An error and its causes in one text; a cause that the error's own text names already is not said twice.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let fault = match &error {
            StoreError::AmbiguousId { .. } | StoreError::NoImage(_) => Fault::Usage,
            _ => Fault::Environment,
        };
        Failure::of(fault, &error).hinted(error.advice())
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        Failure::of(Fault::Environment, &error).hinted(error.advice())
    }
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        Failure::of(Fault::Usage, &error).hinted(error.advice())
    }
}

impl From<AdmissionError> for Failure {
    fn from(error: AdmissionError) -> Self {
        Failure::of(Fault::Build, &error).hinted(error.hint())
    }
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Failure::of(fault_of_pull(&error), &error).hinted(error.hint())
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        Failure::of(Fault::Environment, &error).hinted(error.hint())
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        Failure::of(Fault::Environment, &error).hinted(error.advice())
    }
}

impl From<RootlessError> for Failure {
    fn from(error: RootlessError) -> Self {
        Failure::of(Fault::Environment, &error).hint(super::isolation::way_out())
    }
}

impl From<super::template::TemplateError> for Failure {
    fn from(error: super::template::TemplateError) -> Self {
        Failure::of(Fault::Usage, &error)
    }
}

/// An image that is not there is the build's fault; a registry that does not answer the environment's.
pub(super) fn fault_of_pull(error: &PullError) -> Fault {
    if error.is_not_found() {
        Fault::Build
    } else {
        Fault::Environment
    }
}

/// What is asked for and not there is the build's fault; a network or a store that fails the environment's.
pub(super) fn fault_of_source(error: &SourceError) -> Fault {
    match error.is_about_request() {
        true => Fault::Build,
        false => Fault::Environment,
    }
}

/// A step's fault is the build's, unless store, kernel or registry failed under it.
pub(super) fn fault_of_step(error: &crate::solver::StepError) -> Fault {
    use crate::solver::StepError;
    match error {
        StepError::Exec(
            ExecError::Store(_) | ExecError::Snapshot(_) | ExecError::Network(NetworkingError::Network(_)),
        ) => Fault::Environment,
        StepError::File(FileError::Snapshot(_)) => Fault::Environment,
        error if is_for_want_of_room(error) => Fault::Environment,
        StepError::Exec(_) | StepError::File(_) | StepError::UnknownContext(_) => Fault::Build,
        StepError::Selection(SelectionError::Changed { .. }) => Fault::Environment,
        StepError::Selection(_) => Fault::Build,
        StepError::Pull(error) => fault_of_pull(error),
        StepError::Source(error) => fault_of_source(error),
        StepError::Snapshot(_) | StepError::Store(_) => Fault::Environment,
        StepError::Cancelled => Fault::Build,
    }
}

/// Whether a disk or a quota is full, whatever was being done.
fn is_for_want_of_room(error: &(dyn Error + 'static)) -> bool {
    let is_full = |code: i32| [libc::ENOSPC, libc::EDQUOT].contains(&code);
    std::iter::successors(Some(error), |error| (**error).source()).any(|cause| {
        let of_system = cause.downcast_ref::<std::io::Error>();
        let of_kernel = cause.downcast_ref::<rustix::io::Errno>();
        of_system.and_then(std::io::Error::raw_os_error).is_some_and(is_full)
            || of_kernel.is_some_and(|errno| is_full(errno.raw_os_error()))
    })
}
