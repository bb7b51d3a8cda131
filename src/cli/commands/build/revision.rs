//! The revision that a context directory is of, as buildx tells it: asked of git, without secrets, and only a hint.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::graph::without_secrets;

/// `false` for not to ask git.
const GIT_INFO: &str = "BUILDX_GIT_INFO";
/// `true` for `-dirty` behind the revision where files are otherwise than in it.
const CHECK_DIRTY: &str = "BUILDX_GIT_CHECK_DIRTY";
/// The remotes that are asked for, in this order.
const REMOTES: [&str; 2] = ["origin", "upstream"];

/// `source` and `revision` of the directory; nothing where it is in no repository, or there is no git.
pub(super) fn of(context: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if switch(GIT_INFO) == Some(false) {
        return found;
    }
    let Some(mut revision) = git(context, &["rev-parse", "--verify", "HEAD"]) else {
        return found;
    };
    if switch(CHECK_DIRTY) == Some(true)
        && git(context, &["status", "--porcelain", "--untracked-files=normal"]).is_some_and(|files| !files.is_empty())
    {
        revision.push_str("-dirty");
    }
    found.insert("revision".into(), revision);
    let source = REMOTES
        .iter()
        .find_map(|remote| git(context, &["remote", "get-url", remote]));
    if let Some(source) = source.filter(|source| !source.is_empty()) {
        found.insert("source".into(), without_secrets(&source));
    }
    found
}

fn switch(name: &str) -> Option<bool> {
    match std::env::var(name).ok()?.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What git answers; `None` where it refuses. Nothing of the repository is executed.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"])
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().to_owned())
}
