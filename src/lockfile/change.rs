//! What makes one lock file of another.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Lock, Name, Pin};

/// What became of one source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is new.
    Added(Name, Pin),
    /// It stands for something else.
    Renewed {
        /// Which.
        name: Name,
        /// What it stood for.
        before: Pin,
        /// What it stands for.
        now: Pin,
    },
    /// No Dockerfile uses it any more.
    Removed(Name, Pin),
}

/// What happens to sources that a Dockerfile was recorded to use, and does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unused {
    /// They stay: another platform or build argument may need them.
    Kept,
    /// They go, unless another Dockerfile uses them.
    Dropped,
}

impl Lock {
    /// The lock after `dockerfile` was found to use `found`.
    pub fn updated(&self, dockerfile: &str, found: &BTreeMap<Name, Pin>, unused: Unused) -> Lock {
        let mut entries = self.entries.clone();
        if unused == Unused::Dropped {
            for entry in entries.values_mut() {
                entry.used_by.remove(dockerfile);
            }
        }
        for (name, pin) in found {
            let used_by = BTreeSet::new();
            let entry = entries.entry(name.clone()).or_insert(Entry {
                pin: pin.clone(),
                used_by,
            });
            entry.pin = pin.clone();
            entry.used_by.insert(dockerfile.to_owned());
        }
        entries.retain(|_, entry| !entry.used_by.is_empty());
        Lock { entries }
    }

    /// What is otherwise in `new`.
    pub fn changes(&self, new: &Lock) -> Vec<Change> {
        let mut names: BTreeSet<&Name> = self.entries.keys().collect();
        names.extend(new.entries.keys());
        let change = |name: &Name| match (self.get(name), new.get(name)) {
            (None, Some(now)) => Some(Change::Added(name.clone(), now.clone())),
            (Some(before), None) => Some(Change::Removed(name.clone(), before.clone())),
            (Some(before), Some(now)) if before != now => Some(Change::Renewed {
                name: name.clone(),
                before: before.clone(),
                now: now.clone(),
            }),
            _ => None,
        };
        names.into_iter().filter_map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn image(name: &str) -> Name {
        Name::Image(format!("docker.io/library/{name}:latest"))
    }

    fn pin(content: &str) -> Pin {
        Pin::Digest(Digest::of(content.as_bytes()))
    }

    fn found<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<Name, Pin> {
        pairs.map(|(name, content)| (image(name), pin(content))).into()
    }

    #[test]
    fn dockerfiles_share_a_file_and_keep_what_is_theirs() {
        let one = Lock::default().updated("Dockerfile", &found([("a", "1"), ("b", "1")]), Unused::Dropped);
        let two = one.updated("test.Dockerfile", &found([("b", "2"), ("c", "1")]), Unused::Dropped);
        let renewed = Change::Renewed {
            name: image("b"),
            before: pin("1"),
            now: pin("2"),
        };
        assert_eq!(one.changes(&two), [renewed, Change::Added(image("c"), pin("1"))]);
        let three = two.updated("Dockerfile", &found([("a", "1")]), Unused::Dropped);
        assert!(two.changes(&three).is_empty(), "b is the other's still");
        let four = three.updated("test.Dockerfile", &found([("c", "1")]), Unused::Dropped);
        assert_eq!(three.changes(&four), [Change::Removed(image("b"), pin("2"))]);
        let kept = two.updated("Dockerfile", &found([]), Unused::Kept);
        assert!(two.changes(&kept).is_empty());
    }
}
