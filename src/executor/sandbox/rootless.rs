//! Becomes root of a user namespace, for builds by an ordinary user.
//!
//! Owns the mapping of ids: the ranges of `/etc/subuid` and `/etc/subgid` through `newuidmap` and `newgidmap` where
//! there are any, otherwise the caller's own id alone. Source: user_namespaces(7), newuidmap(1), subuid(5).

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::OnceLock;

use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::UnshareFlags;

use super::obstacles;

/// Which ids the process has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identities {
    /// It is root already, and no namespace was needed.
    Root,
    /// Its own, as root, and a range of others.
    Range,
    /// Its own alone, as root.
    Single {
        /// Why there is no range, in one line.
        because: String,
    },
}

/// Why there is no user namespace to be had.
#[derive(Debug, thiserror::Error)]
pub enum RootlessError {
    /// The kernel refuses.
    #[error("user {uid} may neither mount nor make a user namespace here ({source}), and steps are isolated by both{}", listed(.missing))]
    Refused {
        /// The caller.
        uid: u32,
        /// What was seen to be in the way.
        missing: Vec<String>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The namespace was made, and the ids could not be mapped.
    #[error("the ids of the user namespace could not be set ({source}){}", listed(.missing))]
    Map {
        /// What was seen to be in the way.
        missing: Vec<String>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Only a process with one thread can change its user namespace.
    #[error("a user namespace can only be entered before threads are started")]
    Threads,
}

fn listed(missing: &[String]) -> String {
    missing.iter().map(|reason| format!("\n  {reason}")).collect()
}

/// Whether one id is all that this process's user namespace has. The answer is that of the first call.
pub fn has_single_id() -> bool {
    static SINGLE: OnceLock<bool> = OnceLock::new();
    *SINGLE.get_or_init(|| fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_one(&map)))
}

/// Whether this process's user namespace has the user and the group.
pub(super) fn has_identity(uid: u32, gid: u32) -> bool {
    let has = |file: &str, id| fs::read_to_string(file).is_ok_and(|map| maps(&map, id));
    has("/proc/self/uid_map", uid) && has("/proc/self/gid_map", gid)
}

/// The lines of `uid_map` or `gid_map`: first id inside, first id outside, how many.
pub(super) fn mapped_ids(file: &str) -> Vec<(u32, u32, u32)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn maps(map: &str, id: u32) -> bool {
    let mut ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        Some((numbers.next()?.ok()?, numbers.nth(1)?.ok()?))
    });
    ranges.any(|(first, length)| (first..first + length).contains(&u64::from(id)))
}

fn maps_one(map: &str) -> bool {
    let lengths: Vec<&str> = map.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    lengths == ["1"]
}

/// Makes this process root of a new user namespace and mount namespace, unless it is root with the right to mount. To
/// be called before threads are started.
///
/// # Errors
/// See [`RootlessError`].
pub fn enter_user_namespace() -> Result<Identities, RootlessError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 && may_mount() {
        return Ok(Identities::Root);
    }
    let ranges = Ranges::of(uid);
    let unmapped = |source| RootlessError::Map {
        missing: obstacles::account(),
        source,
    };
    let helper = match &ranges {
        Ok(ranges) => Some(Mapper::start(ranges, uid, gid).map_err(unmapped)?),
        Err(_) => None,
    };
    // SAFETY: neither flag separates descriptors between threads; the kernel refuses a process with several.
    match unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) } {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL) => return Err(RootlessError::Threads),
        Err(errno) => {
            return Err(RootlessError::Refused {
                uid,
                missing: obstacles::account(),
                source: errno.into(),
            });
        }
    }
    let because = match (helper, ranges) {
        (Some(helper), _) => match helper.finish() {
            Ok(()) => return Ok(Identities::Range),
            Err(because) => because,
        },
        (None, ranges) => ranges.err().unwrap_or_default(),
    };
    map_one(uid, gid).map_err(unmapped)?;
    Ok(Identities::Single { because })
}

fn may_mount() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// The caller's own id as root. A process that could drop groups could reach what its groups are denied, hence `deny`.
fn map_one(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// First id and length of the caller's ranges.
struct Ranges {
    users: Vec<(u32, u32)>,
    groups: Vec<(u32, u32)>,
}

impl Ranges {
    /// Those of user `uid`, or why there are none.
    fn of(uid: u32) -> Result<Self, String> {
        let name = user_name(uid);
        let read = |file: &str| match fs::read_to_string(file) {
            Ok(text) => match parse_ranges(&text, uid, name.as_deref()) {
                ranges if ranges.is_empty() => Err(format!("{file} has no range for user {uid}")),
                ranges => Ok(ranges),
            },
            Err(error) => Err(format!("{file} cannot be read: {error}")),
        };
        Ok(Self {
            users: read("/etc/subuid")?,
            groups: read("/etc/subgid")?,
        })
    }
}

fn user_name(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let entry = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(uid))?;
    entry.first().map(|name| (*name).to_owned())
}

/// `name:first:length` lines, by name or number.
fn parse_ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let (owner, range) = line.trim().split_once(':')?;
            let (first, length) = range.split_once(':')?;
            let own = Some(owner) == name || owner.parse() == Ok(uid);
            let (first, length): (u32, u32) = (first.parse().ok()?, length.parse().ok()?);
            (own && length > 0 && first.checked_add(length).is_some()).then_some((first, length))
        })
        .collect()
}

/// The words after the process id: `0` is the caller, from `1` on come the ranges.
fn mapping(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut words = vec![[0, own, 1]];
    let mut next = 1u32;
    for (first, length) in ranges {
        let length = (*length).min(u32::MAX - 1 - next);
        words.push([next, *first, length]);
        next += length;
    }
    words.iter().flatten().map(u32::to_string).collect()
}

/// A process that stays outside the namespace and maps its ids: the programs that may do so are setuid, which means
/// nothing inside.
struct Mapper {
    pid: Pid,
    go: OwnedFd,
    answer: OwnedFd,
}

impl Mapper {
    fn start(ranges: &Ranges, uid: u32, gid: u32) -> io::Result<Self> {
        let process = rustix::process::getpid().as_raw_nonzero().to_string();
        let commands = [
            ("newuidmap", mapping(uid, &ranges.users)),
            ("newgidmap", mapping(gid, &ranges.groups)),
        ];
        let (wait, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (answer, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the caller has one thread, as `enter_user_namespace` demands; with more, unshare(2) fails afterwards,
        // and this child, which then only reads the end of its pipe, leaves.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop((go, answer));
                map_from_outside(wait, tell, &process, &commands)
            }
            pid => Ok(Self {
                pid: Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?,
                go,
                answer,
            }),
        }
    }

    /// Lets it map, now that the namespace is there. The error is one line.
    fn finish(self) -> Result<(), String> {
        let _ = fs::File::from(self.go).write_all(b"g");
        let mut problem = String::new();
        let read = fs::File::from(self.answer).read_to_string(&mut problem);
        let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()));
        match read {
            Ok(_) if problem == "done" => Ok(()),
            Ok(_) if problem.is_empty() => Err("the process that maps ids ended early".into()),
            Ok(_) => Err(problem.trim().replace('\n', "; ")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The other process. Never returns.
fn map_from_outside(wait: OwnedFd, tell: OwnedFd, process: &str, commands: &[(&str, Vec<String>)]) -> ! {
    let mut byte = [0];
    let mut tell = fs::File::from(tell);
    if fs::File::from(wait).read_exact(&mut byte).is_err() {
        std::process::exit(0);
    }
    for (program, words) in commands {
        let problem = match Command::new(program).arg(process).args(words).output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => format!("{program}: {error} (Debian and Ubuntu: package uidmap)"),
        };
        let _ = tell.write_all(problem.as_bytes());
        std::process::exit(0);
    }
    let _ = tell.write_all(b"done");
    std::process::exit(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number_and_malformed_lines_are_none() {
        let text = "ann:100000:65536\n1000:300000:10\nbob:1:1\nann:x:1\nann:5\nann:4294967295:2\nann:7:0\n";
        assert_eq!(parse_ranges(text, 1000, Some("ann")), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(parse_ranges(text, 1000, None), [(300_000, 10)]);
    }

    #[test]
    fn the_caller_is_root_and_the_ranges_follow_without_a_gap() {
        let words = mapping(1000, &[(100_000, 65536), (300_000, 10)]).join(" ");
        assert_eq!(words, "0 1000 1 1 100000 65536 65537 300000 10");
    }

    #[test]
    fn ids_outside_of_all_ranges_are_none() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert!(maps(map, 0) && maps(map, 65536) && !maps(map, 65537) && !maps("", 0));
        assert!(maps("0 0 4294967295", 4_000_000_000));
    }

    #[test]
    fn one_id_is_told_from_many() {
        assert!(maps_one("         0       1000          1\n"));
        assert!(!maps_one("0 1000 1\n1 100000 65536\n") && !maps_one("0 0 4294967295\n"));
    }
}
