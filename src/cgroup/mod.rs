//! Limits of memory, processor time and processes: cgroups of version 1, version 2, or both at once (cgroups(7)).
//!
//! Owns groups: makes them, sets their limits, removes them, and those of builders that were killed. Asks for nothing that
//! was not asked for: without limits there is no group. What the machine cannot limit is told, never taken for done.

mod hierarchy;
mod settings;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hierarchy::{Hierarchies, Hierarchy, Version};
pub use settings::{Limit, Limits};
use settings::{Setting, settings};

/// What the names of our groups begin with; a process's id and start follow, which tell whether it lives.
const PREFIX: &str = "builder-";
/// How often, and after how long, a group is removed that its last process has just left.
const REMOVALS: usize = 200;
const INTERVAL: Duration = Duration::from_millis(5);

/// A limit that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine offers a group, and refuses the value.
    #[error("{limit} cannot be set to `{value}`")]
    Refused {
        /// Which.
        limit: Limit,
        /// The value as the kernel was given it.
        value: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A process could not be put into its group.
    #[error("the process could not be put under its limits")]
    Enter(#[source] io::Error),
}

/// A group of processes with limits. Dropped, it is removed: its processes must have ended.
#[derive(Debug)]
pub struct Group {
    directories: Vec<Directory>,
    /// The limits that this machine cannot set.
    pub missing: Vec<Limit>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    version: Version,
}

impl Group {
    /// Makes a group with `limits`, as far as the machine has the controllers; `missing` tells what it has not.
    ///
    /// # Errors
    /// A value that the kernel refuses.
    pub fn create(limits: &Limits) -> Result<Self, CgroupError> {
        Self::create_in(&Hierarchies::of_this_process(), limits, &unique_name())
    }

    fn create_in(hierarchies: &Hierarchies, limits: &Limits, name: &str) -> Result<Self, CgroupError> {
        let mut group = Self {
            directories: Vec::new(),
            missing: Vec::new(),
        };
        for limit in limits.asked() {
            let own = hierarchies
                .of(limit.controller())
                .and_then(|hierarchy| group.directory(hierarchy, limit, name));
            let Some((path, version)) = own else {
                group.missing.push(limit);
                continue;
            };
            for setting in settings(limits, limit, version) {
                group.set(limit, &path, &setting)?;
            }
        }
        Ok(group)
    }

    /// The group's directory in a hierarchy, made when it is the first limit there; `None` where that is refused.
    fn directory(&mut self, hierarchy: &Hierarchy, limit: Limit, name: &str) -> Option<(PathBuf, Version)> {
        let parent = hierarchy.parent_for(limit.controller())?;
        let path = parent.join(name);
        if !self.directories.iter().any(|directory| directory.path == path) {
            sweep(&parent);
            fs::create_dir(&path).ok()?;
            self.directories.push(Directory {
                path: path.clone(),
                version: hierarchy.version,
            });
            prepare_cpuset(&parent, &path, hierarchy);
        }
        Some((path, hierarchy.version))
    }

    fn set(&mut self, limit: Limit, directory: &Path, setting: &Setting) -> Result<(), CgroupError> {
        match fs::write(directory.join(setting.file), &setting.value) {
            // Swap is often not accounted for, which the kernel shows by leaving out the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !self.missing.contains(&setting.limit.unwrap_or(limit)) {
                    self.missing.push(setting.limit.unwrap_or(limit));
                }
                Ok(())
            }
            Err(source) => Err(CgroupError::Refused {
                limit: setting.limit.unwrap_or(limit),
                value: setting.value.clone(),
                source,
            }),
            Ok(()) => Ok(()),
        }
    }

    /// The files through which a process with one thread puts itself into the group, and all that it starts from then
    /// on: it writes `0` to each.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn entrances(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |directory: &Directory| {
            let file = match directory.version {
                // A thread that moves itself waits for nobody. To move another process the kernel holds up all forks
                // of the machine, which takes milliseconds (Linux, cgroup_procs_write_start).
                Version::One => "tasks",
                Version::Two => "cgroup.procs",
            };
            let file = File::options().write(true).open(directory.path.join(file));
            file.map(OwnedFd::from).map_err(CgroupError::Enter)
        };
        self.directories.iter().map(open).collect()
    }

    /// How many of the group's processes the kernel ended because the group was out of memory.
    pub fn out_of_memory(&self) -> u64 {
        let count = |directory: &Directory| {
            let file = match directory.version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            let text = fs::read_to_string(directory.path.join(file)).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse::<u64>().ok()
        };
        self.directories.iter().filter_map(count).max().unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in &self.directories {
            remove(&directory.path, REMOVALS);
        }
    }
}

/// Removes a group; the kernel may take a moment to see that it is empty.
fn remove(path: &Path, attempts: usize) {
    for _ in 0..attempts {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(INTERVAL),
            _ => return,
        }
    }
}

/// Version 1 lets no process into a cpuset that names no processors or no memory: both start as the parent's.
fn prepare_cpuset(parent: &Path, own: &Path, hierarchy: &Hierarchy) {
    if hierarchy.version == Version::One {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(parent.join(file)) {
                // What cannot be set here is refused when it is needed.
                let _ = fs::write(own.join(file), value);
            }
        }
    }
}

/// `builder-<process>-<its start>-<number>`.
fn unique_name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let process = std::process::id();
    let start = start_of(process).unwrap_or_default();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{process}-{start}-{number}")
}

/// When a process started, in ticks since the machine did: its number alone is used again (proc(5), `stat`).
fn start_of(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Removes the groups of builders that are gone: those that were killed could not do it.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(owner_is_gone) {
            remove(&entry.path(), 1);
        }
    }
}

fn owner_is_gone(name: &str) -> bool {
    let parts = || {
        let mut parts = name.strip_prefix(PREFIX)?.split('-');
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u64>().ok()?))
    };
    parts().is_some_and(|(process, start)| start_of(process) != Some(start))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn groups_of_the_living_are_left_alone() {
        assert!(!owner_is_gone(&unique_name()));
        assert!(owner_is_gone("builder-4294967295-1-0"));
        assert!(!owner_is_gone("builder-x-1-0") && !owner_is_gone("docker-1-1"));
    }

    /// On a machine with cgroups of either version that lets us make groups; it says aloud where there are none.
    #[test]
    fn a_limit_of_memory_ends_what_takes_more() {
        let limits = Limits {
            memory: Some(16 << 20),
            memory_swap: Some(16 << 20),
            processes: Some(64),
            ..Limits::default()
        };
        let group = Group::create(&limits).unwrap();
        if group.missing.contains(&Limit::Memory) {
            eprintln!("skipped: this machine lets nobody limit memory");
            return;
        }
        let paths: Vec<PathBuf> = group
            .directories
            .iter()
            .map(|directory| directory.path.clone())
            .collect();
        assert!(paths.iter().all(|path| path.exists()));
        let entrances = group.entrances().unwrap();
        let paths_of_entrances = entrances
            .iter()
            .map(|file| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        // The shell puts itself into the group before it takes 64 MiB.
        let script = "for file; do echo 0 >$file; done; head -c 67108864 /dev/zero | tail -c 67108864 >/dev/null";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(paths_of_entrances)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdin.take());
        let status = child.wait().unwrap();
        assert!(!status.success());
        assert!(group.out_of_memory() > 0);
        drop(group);
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    }
}
