//! Git repositories, by way of the `git` program.
//!
//! A name is made a commit by asking the remote what it has (`ls-remote`); a full commit id asks nobody. The commit
//! comes, alone where the server allows it, into a bare repository below `git/`, one for each remote, so that the next
//! fetch brings only what is new. From there it is checked out.

mod address;
mod checkout;
mod kept;
mod program;
mod refs;
mod submodules;

use std::path::{Path, PathBuf};

use super::error::host;
use super::known::name_of;
use super::{Fetcher, SourceError};
use crate::graph::{GitDir, GitRequest, GitSource, KeptRepository, without_secrets};
use crate::store::{KeyLock, Store, StoreError};

use address::Authorized;
use program::Git;
use refs::{Tip, is_commit_id};

/// A repository of this module's, which nobody else uses for as long as this value lives.
struct Mirror {
    path: PathBuf,
    _lock: KeyLock,
}

impl Fetcher<'_> {
    /// Finds out which commit a reference stands for. Nothing of the commit is fetched.
    ///
    /// # Errors
    /// A remote that does not answer, or has no such reference; a checksum that is another commit's.
    pub fn git(&self, request: &GitRequest) -> Result<GitSource, SourceError> {
        let checksum = request.checksum.as_deref();
        if let Some(text) = checksum
            && (text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(SourceError::CommitForm { text: text.to_owned() });
        }
        let tip = match request.reference.as_deref() {
            Some(id) if is_commit_id(id) => Tip::of_commit(id),
            reference if request.by_commit => Tip::pinned(reference, checksum)?,
            reference => self.tip(&request.remote, reference)?,
        };
        check_commit(request, &tip)?;
        Ok(source_of(request, tip))
    }

    fn tip(&self, remote: &str, reference: Option<&str>) -> Result<Tip, SourceError> {
        let authorized = self.authorized(remote)?;
        let git = Git::new(self, &authorized);
        let name = reference.unwrap_or("HEAD");
        let peeled = format!("{name}^{{}}");
        let listed = git.run(
            "ls-remote",
            &["ls-remote", "--symref", "--", &authorized.url, name, &peeled],
        )?;
        refs::find(&String::from_utf8_lossy(&listed), reference).ok_or_else(|| SourceError::NoReference {
            remote: without_secrets(remote),
            reference: name.to_owned(),
        })
    }

    /// When a commit was made, in seconds since 1970.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn commit_time(&self, source: &GitSource) -> Result<i64, SourceError> {
        let authorized = self.authorized(&source.remote)?;
        let mirror = self.mirror(&authorized, &source.commit, source.reference.as_deref())?;
        let git = Git::new(self, &authorized).in_repository(&mirror.path);
        let commit = format!("{}^{{commit}}", source.commit);
        let text = git.run("show", &["show", "-s", "--format=%ct", &commit, "--"])?;
        let text = String::from_utf8_lossy(&text);
        text.trim().parse().map_err(|_| SourceError::Git {
            command: "show",
            remote: authorized.shown,
            said: "it gave no time of the commit".to_owned(),
        })
    }

    /// The mirror of a remote, with `object` in it.
    fn mirror(&self, authorized: &Authorized, object: &str, reference: Option<&str>) -> Result<Mirror, SourceError> {
        let name = name_of(&authorized.url);
        let lock = self.store.lock(&format!("git {name}"), self.cancel)?;
        let path = self.directory("git")?.join(&name);
        let git = Git::new(self, authorized);
        if !path.join("HEAD").is_file() {
            let format = if object.len() == 64 { "sha256" } else { "sha1" };
            let format = format!("--object-format={format}");
            let arguments = ["init", "-q", "--bare", "--template=", &format, "--", text(&path)?];
            git.run("init", &arguments)?;
        }
        // Left by a process that was killed; whoever holds the lock is alone.
        for left in ["shallow.lock", "packed-refs.lock", "config.lock"] {
            let _ = std::fs::remove_file(path.join(left));
        }
        let git = git.in_repository(&path);
        fetch(&git, authorized, object, reference)?;
        Ok(Mirror { path, _lock: lock })
    }
}

/// The commit `id` of the repository that is asked for, where that is known: nobody is asked. `reference` is the full
/// name by which it was found, `tag` the id of the tag object that the name stands for, where it stands for one.
///
/// # Errors
/// A commit that is not the one that the request wants.
pub fn pinned_commit(
    request: &GitRequest,
    id: &str,
    reference: Option<&str>,
    tag: Option<&str>,
) -> Result<GitSource, SourceError> {
    let tip = Tip {
        commit: id.to_owned(),
        object: tag.unwrap_or(id).to_owned(),
        reference: reference.map(str::to_owned),
    };
    check_commit(request, &tip)?;
    Ok(source_of(request, tip))
}

fn check_commit(request: &GitRequest, tip: &Tip) -> Result<(), SourceError> {
    match request.checksum.as_deref() {
        Some(expected) if !tip.is(expected) => Err(SourceError::WrongCommit {
            remote: without_secrets(&request.remote),
            expected: expected.to_owned(),
            actual: tip.commit.clone(),
        }),
        _ => Ok(()),
    }
}

fn source_of(request: &GitRequest, tip: Tip) -> GitSource {
    let kept = (request.git_dir == Some(GitDir::Kept)).then(|| KeptRepository {
        reference: tip.reference.clone(),
        object: tip.object.clone(),
        origin: without_secrets(&request.remote),
    });
    GitSource {
        commit: tip.commit,
        subdir: request.subdir.clone(),
        kept,
        submodules: request.submodules,
        times: request.times,
        remote: request.remote.clone(),
        reference: tip.reference,
    }
}

/// Removes a repository that was fetched from, by its name below `git/`, unless somebody uses it. Whether it went.
///
/// # Errors
/// Those of the store.
pub fn remove_repository(store: &Store, name: &str) -> Result<bool, StoreError> {
    let Some(_alone) = store.try_lock(&format!("git {name}"))? else {
        return Ok(false);
    };
    let trash = store.temp_dir()?;
    // Not there: somebody else was faster.
    Ok(std::fs::rename(store.root().join("git").join(name), trash.path().join("git")).is_ok())
}

/// Sees to it that a repository has `object` and all that a checkout of it needs.
fn fetch(git: &Git<'_>, authorized: &Authorized, object: &str, reference: Option<&str>) -> Result<(), SourceError> {
    let commit = format!("{object}^{{commit}}");
    let is_there = || git.run("cat-file", &["cat-file", "-e", &commit]).is_ok();
    if is_there() {
        return Ok(());
    }
    let begin = [
        "fetch",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--force",
        "-q",
    ];
    let own = format!("refs/builder/{object}");
    let alone = format!("{object}:{own}");
    let by_name = reference.map(|reference| format!("{reference}:{own}"));
    let all = ["refs/heads/*:refs/remotes/*", "refs/tags/*:refs/tags/*"];
    // The commit alone; where the server gives no commits by id, the branch or tag that it was found by; where it does
    // not know how to leave out what came before, everything.
    let shallow = std::iter::once(&alone).chain(&by_name);
    for specification in shallow {
        let arguments = [&begin[..], &["--depth=1", "--", &authorized.url, specification]].concat();
        if git.run("fetch", &arguments).is_ok() && is_there() {
            return Ok(());
        }
        git.check_cancelled()?;
    }
    let deepen: &[&str] = match git.has_file("shallow") {
        true => &["--unshallow"],
        false => &[],
    };
    let arguments = [&begin[..], deepen, &["--", &authorized.url], &all].concat();
    git.run("fetch", &arguments)?;
    match is_there() {
        true => Ok(()),
        false => Err(SourceError::NoCommit {
            remote: authorized.shown.clone(),
            commit: object.to_owned(),
        }),
    }
}

/// A path as an argument of git's.
fn text(path: &Path) -> Result<&str, SourceError> {
    path.to_str().ok_or_else(|| {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not UTF-8");
        host("use", path)(error)
    })
}
