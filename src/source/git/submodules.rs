//! Submodules: commits of other repositories at places of a tree. gitmodules(5).
//!
//! They are fetched and checked out as any repository is, not by `git submodule`: a repository's word about its
//! submodules is hostile, and here it is two texts, a path and an address, each of which is checked before it is used.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::super::error::host;
use super::super::{Fetcher, SourceError};
use super::address::{is_remote, join};
use super::checkout::{Checkout, open_plain};
use super::program::Git;
use super::refs::is_commit_id;
use crate::graph::without_secrets;
use crate::snapshot::Rootfs;

/// Repositories within repositories.
const DEEPEST: usize = 10;
/// Submodules of one repository.
const MOST: usize = 1_000;
/// The mode of a submodule's entry in a tree.
const GITLINK: &[u8] = b"160000 ";

/// A submodule as its parent describes it.
pub(super) struct Module {
    /// Where it lies in the tree.
    path: String,
    /// Its commit.
    commit: String,
    /// Its repository's address, perhaps relative; `None` where `.gitmodules` has none.
    url: Option<String>,
    /// Whether it is left out: `update = none`.
    skipped: bool,
}

/// The submodules of a commit.
pub(super) fn list(git: &Git<'_>, commit: &str) -> Result<Vec<Module>, SourceError> {
    let mut links = Vec::new();
    let tree = format!("{commit}^{{tree}}");
    git.stream(
        "ls-tree",
        &["ls-tree", "-r", "-z", "--full-tree", &tree],
        &mut |output| read_links(output, &mut links),
    )?;
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let blob = format!("--blob={commit}:.gitmodules");
    let keys = r"^submodule\..*\.(path|url|update)$";
    // Fails where there is no such file, or nothing of the kind in it.
    let described = git.run("config", &["config", "-z", &blob, "--get-regexp", keys]);
    let described = described.unwrap_or_default();
    let sections = sections(&String::from_utf8_lossy(&described));
    let module = |(path, commit): (String, String)| {
        let section = sections.values().find(|section| section.get("path") == Some(&path));
        let value = |key: &str| section.and_then(|section| section.get(key)).cloned();
        Module {
            url: value("url"),
            skipped: value("update").as_deref() == Some("none"),
            path,
            commit,
        }
    };
    Ok(links.into_iter().map(module).collect())
}

/// Reads `<mode> <type> <id>\t<path>\0` and keeps the submodules.
fn read_links(output: &mut dyn Read, links: &mut Vec<(String, String)>) -> io::Result<()> {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        if output.read_until(0, &mut line)? == 0 {
            return Ok(());
        }
        if !line.starts_with(GITLINK) {
            continue;
        }
        let text = String::from_utf8_lossy(line.strip_suffix(b"\0").unwrap_or(&line)).into_owned();
        let Some((head, path)) = text.split_once('\t') else {
            continue;
        };
        let Some(commit) = head.split(' ').next_back().filter(|id| is_commit_id(id)) else {
            continue;
        };
        if links.len() == MOST {
            return Err(io::Error::other(format!(
                "the repository has more than {MOST} submodules"
            )));
        }
        links.push((path.to_owned(), commit.to_owned()));
    }
}

/// `submodule.<name>.<key>\n<value>\0` by name and key.
fn sections(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for entry in text.split('\0') {
        let Some((key, value)) = entry.split_once('\n') else {
            continue;
        };
        let Some((name, key)) = key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.')) else {
            continue;
        };
        sections
            .entry(name.to_owned())
            .or_default()
            .insert(key.to_ascii_lowercase(), value.to_owned());
    }
    sections
}

impl Fetcher<'_> {
    /// Checks out the submodules of a tree that is there.
    pub(super) fn check_out_modules(
        &self,
        parent: &Checkout<'_>,
        modules: Vec<Module>,
        tree: &Path,
    ) -> Result<(), SourceError> {
        for module in modules.iter().filter(|module| !module.skipped) {
            let refused = |what| SourceError::Submodule {
                path: module.path.clone(),
                what,
            };
            if parent.depth == DEEPEST {
                return Err(refused(
                    "lies too deep: repositories within repositories are followed ten times",
                ));
            }
            let url = module.url.as_deref();
            let url = url.ok_or_else(|| refused("has no address in .gitmodules"))?;
            let url = match url.starts_with("./") || url.starts_with("../") {
                true => join(&parent.authorized.url, url),
                false => Some(url.to_owned()).filter(|url| is_remote(url)),
            };
            let url = url.ok_or_else(|| refused("has an address that is not one of http, https, ssh and git"))?;
            let root = Rootfs::open_host_directory(tree).map_err(host("open", tree))?;
            // Its place is a directory that was made for it, or somebody put something else in the way.
            open_plain(&root, &module.path).map_err(|_| refused("lies behind something that is no directory"))?;
            let authorized = self.authorized_below(parent.authorized, &url)?;
            let checkout = Checkout {
                authorized: &authorized,
                commit: &module.commit,
                reference: None,
                submodules: parent.submodules,
                depth: parent.depth + 1,
            };
            self.check_out(&checkout, &tree.join(&module.path))
                .map_err(|source| SourceError::InSubmodule {
                    path: module.path.clone(),
                    remote: without_secrets(&url),
                    source: Box::new(source),
                })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_submodules_are_kept_of_a_tree() {
        let id = "a".repeat(40);
        let listing = format!("100644 blob {id}\tf\0160000 commit {id}\tvendor/a b\0160000 commit xyz\tbad\0");
        let mut links = Vec::new();
        read_links(&mut listing.as_bytes(), &mut links).unwrap();
        assert_eq!(links, [("vendor/a b".to_owned(), id)]);
    }

    #[test]
    fn sections_are_told_apart_by_their_names() {
        let found =
            sections("submodule.a.b.path\nvendor/a\0submodule.a.b.url\n../x\ny\0submodule.c.path\nc\0other\n1\0");
        assert_eq!(found["a.b"]["url"], "../x\ny");
        assert_eq!(found["c"]["path"], "c");
        assert_eq!(found.len(), 2);
    }
}
