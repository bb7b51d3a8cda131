//! One line for each thing that happens: for logs, pipes and CI.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

use super::name::{last_state, printable};
use crate::progress::{Event, Outcome, Progress, StepId};

/// Writes lines like BuildKit's plain mode: `#3 [2/4] RUN make`, `#3 0.124 gcc …`, `#3 DONE 1.2s`.
pub struct Plain {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Steps in the order in which they were first heard of, which gives them their numbers.
    steps: HashMap<StepId, Step>,
}

struct Step {
    number: usize,
    begun: Instant,
}

impl Plain {
    /// A renderer that has heard of nothing yet.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
        }
    }
}

impl State {
    fn step(&mut self, id: StepId) -> &Step {
        let number = self.steps.len() + 1;
        self.steps.entry(id).or_insert_with(|| Step {
            number,
            begun: Instant::now(),
        })
    }

    fn lines(&mut self, event: Event) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to memory cannot fail.
        let _ = self.write(&mut out, event);
        out
    }

    fn write(&mut self, out: &mut Vec<u8>, event: Event) -> std::io::Result<()> {
        match event {
            Event::StepStarted { step, name, .. } => {
                let number = self.step(step).number;
                writeln!(out, "#{number} {}", printable(name.as_bytes(), false))
            }
            Event::StepWaiting { step } => {
                let number = self.step(step).number;
                writeln!(out, "#{number} waiting for another build that runs the same step")
            }
            Event::StepOutput { step, line, .. } => {
                let step = self.step(step);
                let seconds = step.begun.elapsed().as_secs_f64();
                writeln!(
                    out,
                    "#{} {seconds:.3} {}",
                    step.number,
                    printable(last_state(&line), true)
                )
            }
            Event::StepFinished {
                step,
                name,
                outcome,
                duration,
                ..
            } => {
                let known = self.steps.contains_key(&step);
                let number = self.step(step).number;
                if !known {
                    writeln!(out, "#{number} {}", printable(name.as_bytes(), false))?;
                }
                match outcome {
                    Outcome::Done => writeln!(out, "#{number} DONE {:.1}s", duration.as_secs_f64()),
                    Outcome::Cached => writeln!(out, "#{number} CACHED"),
                    Outcome::Cancelled => writeln!(out, "#{number} CANCELED"),
                    Outcome::Failed { message, .. } => {
                        writeln!(out, "#{number} ERROR {}", printable(message.as_bytes(), false))
                    }
                }
            }
            Event::Transfer { label, done, total } => match total {
                Some(total) if total == done => writeln!(out, "{label} {} done", super::super::format::bytes(total)),
                _ => Ok(()),
            },
            Event::Warning { message } => writeln!(out, "warning: {}", printable(message.as_bytes(), false)),
        }
    }
}

impl Progress for Plain {
    fn report(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lines = state.lines(event);
        // Standard error may be closed; a build does not end for that.
        let _ = std::io::stderr().lock().write_all(&lines);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::progress::Stream;

    #[test]
    fn a_step_keeps_its_number() {
        let mut state = State::default();
        let mut say = |event| String::from_utf8(state.lines(event)).unwrap();
        let name: std::sync::Arc<str> = "[2/3] RUN make".into();
        assert_eq!(
            say(Event::StepStarted {
                step: StepId(7),
                name: name.clone(),
                cause: crate::progress::Cause::Fetch,
                missing_in: Vec::new(),
            }),
            "#1 [2/3] RUN make\n"
        );
        let output = say(Event::StepOutput {
            step: StepId(7),
            stream: Stream::Stdout,
            line: b"cc".to_vec(),
        });
        assert!(output.starts_with("#1 0.") && output.ends_with(" cc\n"), "{output}");
        let duration = Duration::from_millis(1234);
        assert_eq!(
            say(Event::StepFinished {
                step: StepId(7),
                name,
                lines: None,
                outcome: Outcome::Done,
                duration
            }),
            "#1 DONE 1.2s\n"
        );
    }

    #[test]
    fn a_cached_step_is_named_and_called_cached() {
        let mut state = State::default();
        let event = Event::StepFinished {
            step: StepId(1),
            name: "[1/2] FROM x".into(),
            lines: None,
            outcome: Outcome::Cached,
            duration: Duration::ZERO,
        };
        assert_eq!(state.lines(event), b"#1 [1/2] FROM x\n#1 CACHED\n");
    }
}
