//! Where this machine's cgroups are, and where in them groups may be made.
//!
//! Owns the reading of `/proc/self/mountinfo` and `/proc/self/cgroup`, and the rule of version 2 that processes live in
//! leaves only.

use std::fs;
use std::path::{Path, PathBuf};

/// Which interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    One,
    Two,
}

/// One mounted tree of groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hierarchy {
    pub version: Version,
    /// Version 1: what it controls. Version 2 says so in a file of each group.
    controllers: Vec<String>,
    /// Its top, as far as this process sees it.
    top: PathBuf,
    /// The group that this process is in.
    own: PathBuf,
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Those that this process sees.
    pub fn of_this_process() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn parse(mounts: &str, groups: &str) -> Self {
        let hierarchies = mounts.lines().filter_map(|line| Hierarchy::parse(line, groups));
        Self(hierarchies.collect())
    }

    /// The one with a controller: of version 1 where there is one, because then version 2 has it not.
    pub fn of(&self, controller: &str) -> Option<&Hierarchy> {
        let one = self.0.iter().find(|hierarchy| {
            hierarchy.version == Version::One && hierarchy.controllers.iter().any(|own| own == controller)
        });
        one.or_else(|| self.0.iter().find(|hierarchy| hierarchy.version == Version::Two))
    }
}

impl Hierarchy {
    /// One line of mountinfo (proc(5)), and this process's lines of all hierarchies (cgroups(7)).
    fn parse(line: &str, groups: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, top) = (unescape(mount.next()?), PathBuf::from(unescape(mount.next()?)));
        let mut kind = kind.split(' ');
        let (version, options) = match kind.next()? {
            "cgroup" => (Version::One, kind.nth(1)?),
            "cgroup2" => (Version::Two, ""),
            _ => return None,
        };
        let controllers: Vec<String> = options.split(',').map(str::to_owned).collect();
        let is_ours = |names: &str| match version {
            Version::Two => names.is_empty(),
            Version::One => names
                .split(',')
                .any(|name| !name.is_empty() && controllers.iter().any(|own| own == name)),
        };
        let own = groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            is_ours(names).then_some(path)
        })?;
        // What is mounted may itself be a group: paths are seen from the top of all.
        let below = Path::new(own).strip_prefix(&root).unwrap_or(Path::new(""));
        let own = top.join(below.strip_prefix("/").unwrap_or(below));
        Some(Self {
            version,
            controllers,
            top,
            own,
        })
    }

    /// The group below which one with `controller` can be made; `None` where there is none.
    pub fn parent_for(&self, controller: &str) -> Option<PathBuf> {
        match self.version {
            Version::One => Some(self.own.clone()),
            Version::Two => [&self.own, &self.top]
                .into_iter()
                .find(|group| passes_on(group, controller))
                .cloned(),
        }
    }
}

/// Whether groups below `group` have a controller, which is switched on where that is possible: where no process lives in
/// the group (at the very top it does not matter), or this one alone, which moves to a leaf.
fn passes_on(group: &Path, controller: &str) -> bool {
    let has = |file: &str| {
        let listed = fs::read_to_string(group.join(file)).unwrap_or_default();
        listed.split_whitespace().any(|name| name == controller)
    };
    let switch_on = || fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")).is_ok();
    if !has("cgroup.controllers") {
        return false;
    }
    has("cgroup.subtree_control") || switch_on() || (move_to_leaf(group) && switch_on())
}

/// Moves this process, if it is the only one of its group, out of the way.
fn move_to_leaf(group: &Path) -> bool {
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = std::process::id().to_string();
    if processes.trim() != own {
        return false;
    }
    let leaf = group.join("builder");
    (fs::create_dir(&leaf).is_ok() || leaf.is_dir()) && fs::write(leaf.join("cgroup.procs"), own).is_ok()
}

/// The kernel writes blanks and backslashes of paths as octal numbers.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const OWN: &str = "4:memory:/docker/x/y\n1:cpuacct,cpu:/a\n0::/user.slice\n";

    #[test]
    fn a_controller_is_where_it_is_mounted() {
        let hierarchies = Hierarchies::parse(HYBRID, OWN);
        let own = |controller: &str| hierarchies.of(controller).unwrap().own.display().to_string();
        assert_eq!(own("cpu"), "/sys/fs/cgroup/cpu,cpuacct/a");
        assert_eq!(own("memory"), "/sys/fs/cgroup/memory/y", "the mount is a group itself");
        assert_eq!(own("pids"), "/sys/fs/cgroup/unified/user.slice");
        assert_eq!(Hierarchies::parse("", "").of("cpu"), None);
    }

    /// Version 2 with a directory in the place of the kernel's file system, which takes the same writes.
    #[test]
    fn a_controller_is_switched_on_for_the_groups_below() {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path();
        assert!(!passes_on(group, "memory"));
        fs::write(group.join("cgroup.controllers"), "cpu memory").unwrap();
        assert!(passes_on(group, "memory") && !passes_on(group, "pids"));
        assert_eq!(fs::read(group.join("cgroup.subtree_control")).unwrap(), b"+memory");
    }

    #[test]
    fn paths_are_read_as_they_were_meant() {
        assert_eq!(unescape("/a\\040b\\134"), "/a b\\");
        assert_eq!(unescape("/a\\x"), "/a\\x");
    }
}
