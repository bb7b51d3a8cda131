//! The instructions that change the image's configuration, and WORKDIR.

use crate::graph::{FileAction, FileOp, Op};
use crate::oci::{Empty, Healthcheck};
use crate::parser::{Command, Fix, HealthcheckInstruction, Rule, Span, Word};

use super::super::error::{At, PlanError, Problem};
use super::super::history::{self, Layer};
use super::super::report::Violation;
use super::super::steps::Step;
use super::super::{path, ports, signal};
use super::transfer::owner;
use super::{Base, Lowering, StageState, shown};

/// The shell of images that name none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
const DIRECTORY_MODE: u32 = 0o755;

impl Lowering<'_, '_> {
    pub(super) fn cmd(&mut self, state: &mut StageState, step: &Step<'_>, command: &Command) -> Result<(), PlanError> {
        let words = self.command(state, step, command, "CMD");
        let text = format!("CMD {}", history::quoted(&words));
        state.config.config.cmd = (!words.is_empty()).then_some(words);
        state.config.config.args_escaped = true;
        state.cmd_set = true;
        self.record(state, step, text, Layer::None)
    }

    /// ENTRYPOINT: an inherited CMD was meant for another one, and goes.
    pub(super) fn entrypoint(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        command: &Command,
    ) -> Result<(), PlanError> {
        let words = self.command(state, step, command, "ENTRYPOINT");
        let text = format!("ENTRYPOINT {}", history::quoted(&words));
        state.config.config.entrypoint = (!words.is_empty()).then_some(words);
        if !state.cmd_set {
            state.config.config.cmd = None;
        }
        self.record(state, step, text, Layer::None)
    }

    fn command(&mut self, state: &StageState, step: &Step<'_>, command: &Command, name: &str) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => {
                let default_shell = state.config.config.shell.as_ref().is_none_or(Vec::is_empty);
                if default_shell && state.base == Base::Known {
                    // As it is written, in capitals or not.
                    let keyword = step.instruction.text.split_whitespace().next().unwrap_or(name);
                    let message = format!(
                        "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
                    );
                    let violation = Violation::of_step(step, Rule::JsonArgsRecommended, message);
                    self.report.violation(violation.with_fix(as_json(step, line)));
                }
                state.in_shell(line)
            }
        }
    }

    pub(super) fn healthcheck(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        check: &HealthcheckInstruction,
    ) -> Result<(), PlanError> {
        let check = match check {
            HealthcheckInstruction::None => Healthcheck {
                test: vec!["NONE".into()],
                ..Healthcheck::default()
            },
            HealthcheckInstruction::Command {
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
                command,
            } => {
                let test = match command {
                    Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
                    Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
                };
                Healthcheck {
                    test,
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                }
            }
        };
        let text = history::healthcheck(&check);
        state.config.config.healthcheck = Some(check);
        self.record(state, step, text, Layer::None)
    }

    /// EXPOSE. The arguments are sorted as they were written.
    pub(super) fn expose(&mut self, state: &mut StageState, step: &Step<'_>, words: &[Word]) -> Result<(), PlanError> {
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by(|one, other| one.raw.cmp(&other.raw));
        let mut all = Vec::new();
        for word in words {
            for text in self.values(state, step, word)? {
                let exposed = ports::parse(&text).at(word.span)?;
                self.check_port(step, word, &text, &exposed);
                all.extend(exposed.ports);
            }
        }
        let text = format!("EXPOSE {}", history::plain(&all));
        let ports = &mut state.config.config.exposed_ports;
        ports.extend(all.into_iter().map(|port| (port, Empty {})));
        self.record(state, step, text, Layer::None)
    }

    fn check_port(&mut self, step: &Step<'_>, word: &Word, text: &str, exposed: &ports::Exposed) {
        if exposed.odd_case {
            let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
            let violation = Violation::of_step(step, Rule::ExposeProtoCasing, message);
            let fix =
                (step.trigger.is_none() && word.raw == text).then(|| Fix::replace(word.span, text.to_lowercase()));
            self.report.violation(violation.with_fix(fix));
        }
        if exposed.mapping {
            let message =
                format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
            self.report
                .violation(Violation::of_step(step, Rule::ExposeInvalidFormat, message));
        }
    }

    pub(super) fn maintainer(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        author: &str,
    ) -> Result<(), PlanError> {
        state.config.author = Some(author.to_owned());
        self.record(state, step, format!("MAINTAINER {author}"), Layer::None)
    }

    pub(super) fn shell(&mut self, state: &mut StageState, step: &Step<'_>, words: &[String]) -> Result<(), PlanError> {
        state.config.config.shell = Some(words.to_vec());
        self.record(state, step, format!("SHELL {}", history::plain(words)), Layer::None)
    }

    pub(super) fn stopsignal(&mut self, state: &mut StageState, step: &Step<'_>, word: &Word) -> Result<(), PlanError> {
        let text = self.value(state, step, word)?;
        if !signal::is_signal(&text) {
            return Err(Problem::Signal { text }.at(word.span));
        }
        state.config.config.stop_signal = Some(text.clone());
        self.record(state, step, format!("STOPSIGNAL {text}"), Layer::None)
    }

    pub(super) fn user(&mut self, state: &mut StageState, step: &Step<'_>, word: &Word) -> Result<(), PlanError> {
        let user = self.value(state, step, word)?;
        state.config.config.user = user.clone();
        self.record(state, step, format!("USER {user}"), Layer::None)
    }

    pub(super) fn volume(&mut self, state: &mut StageState, step: &Step<'_>, words: &[Word]) -> Result<(), PlanError> {
        let mut volumes = Vec::with_capacity(words.len());
        for word in words {
            let volume = self.value(state, step, word)?;
            if volume.is_empty() {
                return Err(Problem::EmptyVolume.at(word.span));
            }
            volumes.push(volume);
        }
        let text = format!("VOLUME {}", history::plain(&volumes));
        let known = &mut state.config.config.volumes;
        known.extend(volumes.into_iter().map(|volume| (volume, Empty {})));
        self.record(state, step, text, Layer::None)
    }

    /// WORKDIR makes the directory, the current user's; `/` is there already.
    pub(super) fn workdir(&mut self, state: &mut StageState, step: &Step<'_>, word: &Word) -> Result<(), PlanError> {
        let given = self.value(state, step, word)?;
        if !state.workdir_set && !given.starts_with('/') {
            let message = format!("Relative workdir {given:?} can have unexpected results if the base image changes");
            self.report
                .violation(Violation::of_step(step, Rule::WorkdirRelativePath, message));
        }
        state.workdir_set = true;
        // An absolute one is kept as it was written, which only its name in the configuration and the history shows.
        let directory = match given.starts_with('/') {
            true => given,
            false => path::join(state.working_dir(), &given),
        };
        state.config.config.working_dir = directory.clone();
        let text = format!("WORKDIR {directory}");
        if directory == "/" {
            return self.record(state, step, text, Layer::None);
        }
        let make = FileAction::MakeDirectory {
            path: path::clean(&directory),
            mode: DIRECTORY_MODE,
            owner: owner(&state.config.config.user).at(word.span)?,
        };
        let base = state.file_system;
        let op = Op::File(FileOp {
            base: base.map(|_| 0),
            actions: vec![make],
        });
        let mut label = state.label(step, &shown(step));
        label.ignore_cache = false; // It runs nothing and reads nothing: its result cannot have aged.
        self.add(state, step, op, base.into_iter().collect(), label)?;
        self.record(state, step, text, Layer::One)
    }
}

/// A command of plain words as a JSON array. Where the shell has work of its own to do, a person must decide.
fn as_json(step: &Step<'_>, line: &str) -> Option<Fix> {
    const BUILTINS: [&str; 12] = [
        ".", ":", "cd", "eval", "exec", "exit", "export", "set", "source", "ulimit", "umask", "wait",
    ];
    let plain = |ch: char| ch.is_ascii_alphanumeric() || " _./:=@%+,-".contains(ch);
    let first = line.split(' ').next().unwrap_or_default();
    let span = step.instruction.span;
    let written_plainly = span.end - span.start == step.instruction.text.len();
    if step.trigger.is_some() || !written_plainly || !line.chars().all(plain) {
        return None;
    }
    if first.is_empty() || first.contains('=') || BUILTINS.contains(&first) {
        return None;
    }
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let span = Span {
        start: span.end - line.len(),
        end: span.end,
    };
    Some(Fix::replace(span, format!("[\"{}\"]", words.join("\", \""))))
}

impl StageState {
    /// A line as a command of the stage's shell.
    pub(super) fn in_shell(&self, line: &str) -> Vec<String> {
        let shell = self.config.config.shell.clone().filter(|words| !words.is_empty());
        let mut words = shell.unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec());
        words.push(line.to_owned());
        words
    }
}
