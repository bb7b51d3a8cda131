//! Ends all that a process has started, without a pid namespace that would.
//!
//! Owns finding them: whoever loses its parent becomes this process's child (prctl(2), `PR_SET_CHILD_SUBREAPER`), so that
//! all of them hang below it, those in other sessions included. Source: proc_pid_stat(5).

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// A process as one look at it tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    parent: i32,
    /// In ticks since the machine started: tells a process from a later one with the same number.
    started: u64,
}

/// Makes this process the parent of all orphans that come from it.
pub(super) fn adopt() -> rustix::io::Result<()> {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
}

/// Ends all descendants, and returns when none is left.
pub(super) fn end_all() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    loop {
        for (pid, seen) in descendants(own, &look()) {
            end(pid, seen);
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Ends processes whose root is gone from `work`, the directory in which each builder has its own: of a supervisor that was
/// killed nobody was left to end them.
pub fn end_leftovers(work: &Path) {
    for (pid, seen) in look() {
        // What belongs to others cannot be looked into.
        let Ok(root) = fs::read_link(format!("/proc/{pid}/root")) else {
            continue;
        };
        let builder = root.strip_prefix(work).ok().and_then(|below| below.components().next());
        if builder.is_some_and(|builder| !work.join(builder).exists()) {
            end(pid, seen);
        }
    }
}

/// Ends a process, if the number is still its own.
fn end(pid: i32, seen: Seen) {
    let Some(number) = Pid::from_raw(pid) else { return };
    // Held by descriptor first: from then on the signal meets this process or none.
    let Ok(process) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else {
        return;
    };
    if examine(pid).is_some_and(|now| now.started == seen.started) {
        let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
    }
}

fn look() -> HashMap<i32, Seen> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(|pid| Some((pid, examine(pid)?))).collect()
}

fn examine(pid: i32) -> Option<Seen> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The line begins with number and name; the name is in parentheses and may hold anything.
fn parse(stat: &str) -> Option<Seen> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Seen { parent, started })
}

/// Those below `ancestor`.
fn descendants(ancestor: i32, all: &HashMap<i32, Seen>) -> Vec<(i32, Seen)> {
    let is_below = |pid: i32| {
        let mut at = pid;
        // No chain is longer than there are processes; a look that was overtaken by events may even hold a circle.
        for _ in 0..=all.len() {
            match all.get(&at) {
                Some(seen) if seen.parent == ancestor => return true,
                Some(seen) => at = seen.parent,
                None => return false,
            }
        }
        false
    };
    all.iter()
        .filter(|(pid, _)| is_below(**pid))
        .map(|(pid, seen)| (*pid, *seen))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 123456 1000 1 18446744073709551615 0";
        assert_eq!(
            parse(line),
            Some(Seen {
                parent: 7,
                started: 123_456
            })
        );
        assert_eq!(parse("42 (x"), None);
        let own = examine(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert_eq!(
            Some(own.parent),
            rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get())
        );
    }

    #[test]
    fn descendants_are_found_through_their_parents_and_circles_end() {
        let seen = |parent| Seen { parent, started: 0 };
        let all = HashMap::from([
            (1, seen(0)),
            (5, seen(1)),
            (6, seen(5)),
            (7, seen(6)),
            (8, seen(1)),
            (10, seen(11)),
            (11, seen(10)),
        ]);
        let mut found: Vec<i32> = descendants(5, &all).into_iter().map(|(pid, _)| pid).collect();
        found.sort_unstable();
        assert_eq!(found, [6, 7]);
    }
}
