//! The running steps as a tree with times, redrawn in place; what is finished scrolls away above it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::name::{last_state, printable};
use crate::progress::{Event, Outcome, Progress, StepId};

/// Output lines shown below a running step, at most.
const OUTPUT_LINES: usize = 6;
/// Redraws in a second, at most.
const REDRAWS: u8 = 12;

/// Draws running steps with spinners, times and their last lines of output.
pub struct Tree {
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: HashMap<StepId, Running>,
    transfers: HashMap<Arc<str>, ProgressBar>,
}

struct Running {
    bar: ProgressBar,
    name: String,
    output: VecDeque<String>,
}

impl Tree {
    /// A tree without branches yet.
    pub fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS));
        Self {
            bars,
            state: Mutex::default(),
        }
    }

    fn begin(&self, name: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner:.cyan} {elapsed:>5.dim} {msg}"));
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    fn line(&self, text: &str) {
        // Standard error may be closed; a build does not end for that.
        let _ = self.bars.println(text);
    }

    fn finish(&self, state: &mut State, step: StepId, name: &str, outcome: &Outcome, duration: Duration) {
        let name = printable(name.as_bytes(), false);
        let output = state.steps.remove(&step).map(|running| {
            running.bar.finish_and_clear();
            running.output
        });
        let seconds = duration.as_secs_f64();
        let name = console_width_cut(&name);
        match outcome {
            Outcome::Done => self.line(&format!("\x1b[32m✔\x1b[0m \x1b[2m{seconds:>4.1}s\x1b[0m {name}")),
            Outcome::Cached => self.line(&format!("\x1b[34m✔ CACHED\x1b[0m {name}")),
            Outcome::Cancelled => self.line(&format!("\x1b[2m- CANCELED {name}\x1b[0m")),
            Outcome::Failed { message, .. } => {
                self.line(&format!("\x1b[31m✘\x1b[0m \x1b[2m{seconds:>4.1}s\x1b[0m {name}"));
                for line in output.into_iter().flatten() {
                    self.line(&format!("  \x1b[2m│\x1b[0m {line}"));
                }
                self.line(&format!("  \x1b[31m└\x1b[0m {}", printable(message.as_bytes(), false)));
            }
        }
    }

    fn transfer(&self, state: &mut State, label: Arc<str>, done: u64, total: Option<u64>) {
        if total == Some(done) {
            if let Some(bar) = state.transfers.remove(&label) {
                bar.finish_and_clear();
                self.line(&format!("\x1b[32m✔\x1b[0m {label} \x1b[2m{}\x1b[0m", HumanBytes(done)));
            }
            return;
        }
        let bar = state.transfers.entry(label.clone()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(total.unwrap_or(0)));
            bar.set_style(style(
                "{spinner:.cyan} {msg} {bar:20.cyan/dim} {bytes}/{total_bytes} {bytes_per_sec}",
            ));
            bar.set_message(label.to_string());
            bar
        });
        bar.set_position(done);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A name that fits into one line with its time; an escape sequence is never cut, for names have none.
fn console_width_cut(name: &str) -> String {
    let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col).max(40));
    let room = width.saturating_sub(12);
    match name.char_indices().nth(room) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

impl Running {
    fn show(&self) {
        let mut message = self.name.clone();
        for line in &self.output {
            message.push_str("\n  \x1b[2m│ ");
            message.push_str(&console_width_cut(line));
            message.push_str("\x1b[0m");
        }
        self.bar.set_message(message);
    }
}

impl super::Display for Tree {
    fn put_away(&self) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (_, running) in state.steps.drain() {
            running.bar.finish_and_clear();
        }
        for (_, bar) in state.transfers.drain() {
            bar.finish_and_clear();
        }
        // Without a terminal nothing was drawn.
        let _ = self.bars.clear();
    }
}

impl Progress for Tree {
    fn report(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::StepStarted { step, name, .. } => {
                let name = console_width_cut(&printable(name.as_bytes(), false));
                let bar = self.begin(&name);
                state.steps.insert(
                    step,
                    Running {
                        bar,
                        name,
                        output: VecDeque::new(),
                    },
                );
            }
            Event::StepWaiting { step } => {
                if let Some(running) = state.steps.get_mut(&step) {
                    running
                        .output
                        .push_back("waiting for another build that runs the same step".into());
                    running.show();
                }
            }
            Event::StepOutput { step, line, .. } => {
                if let Some(running) = state.steps.get_mut(&step) {
                    if running.output.len() == OUTPUT_LINES {
                        running.output.pop_front();
                    }
                    running.output.push_back(printable(last_state(&line), false));
                    running.show();
                }
            }
            Event::StepFinished {
                step,
                name,
                outcome,
                duration,
                ..
            } => self.finish(&mut state, step, &name, &outcome, duration),
            Event::Transfer { label, done, total } => self.transfer(&mut state, label, done, total),
            Event::Warning { message } => self.line(&format!(
                "\x1b[33mwarning:\x1b[0m {}",
                printable(message.as_bytes(), false)
            )),
        }
    }
}
