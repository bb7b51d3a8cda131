//! What a lock file is to one build.

use crate::graph::{Remote, without_secrets};
use crate::lockfile::{Lock, Name};

/// What pins the sources of a build.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    /// The lock file; `None` where there is none.
    pub lock: Option<Lock>,
    /// How messages call it.
    pub file: String,
    /// What becomes of sources that it does not pin.
    pub strictness: Strictness,
    /// The command that writes it.
    pub command: String,
}

/// What becomes of sources that nothing pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strictness {
    /// They are looked up.
    #[default]
    Open,
    /// They are errors.
    Locked,
}

/// By what a lock file knows `remote`; `None` for what the Dockerfile pins itself.
pub(in crate::pipeline) fn name_of(remote: &Remote) -> Option<Name> {
    match remote {
        Remote::Http(file) => {
            let name = Name::File(without_secrets(&file.url));
            file.checksum.is_none().then_some(name)
        }
        Remote::Git(git) => {
            let is_pinned = git.by_commit || [&git.reference, &git.checksum].into_iter().any(is_commit_id);
            let name = Name::Repository {
                url: without_secrets(&git.remote),
                reference: git.reference.clone(),
            };
            (!is_pinned).then_some(name)
        }
    }
}

fn is_commit_id(text: &Option<String>) -> bool {
    let whole = |text: &String| matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.as_ref().is_some_and(whole)
}
