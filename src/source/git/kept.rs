//! A checkout that keeps its repository: `.git` with the one commit, and what leads to it.

use std::path::Path;

use super::super::error::host;
use super::super::{Fetcher, SourceError};
use super::address::Authorized;
use super::program::Git;
use super::text;
use crate::graph::{GitSource, KeptRepository, Submodules};

impl Fetcher<'_> {
    pub(super) fn check_out_kept(
        &self,
        source: &GitSource,
        kept: &KeptRepository,
        authorized: &Authorized,
        tree: &Path,
    ) -> Result<(), SourceError> {
        let own = tree.join(".git");
        let here = || Git::new(self, authorized).in_repository(&own).with_work_tree(tree);
        {
            let mirror = self.mirror(authorized, &kept.object, source.reference.as_deref())?;
            let format = if kept.object.len() == 64 { "sha256" } else { "sha1" };
            here().run("init", &["init", "-q", &format!("--object-format={format}")])?;
            here().run("remote", &["remote", "add", "--", "origin", &kept.origin])?;
            // A name that only this fetch knows: the mirror is asked for what it has, not for what it is called.
            let wanted = format!("refs/builder/{}", kept.object);
            let repository = Git::new(self, authorized).in_repository(&mirror.path);
            repository.run("update-ref", &["update-ref", &wanted, &kept.object])?;
            let specification = match &kept.reference {
                Some(reference) => format!("{wanted}:{reference}"),
                None => wanted,
            };
            let mirror = format!("file://{}", text(&mirror.path)?);
            let arguments = [
                "fetch",
                "-q",
                "-u",
                "--no-tags",
                "--depth=1",
                "--",
                &mirror,
                &specification,
            ];
            here().only_from_here().run("fetch", &arguments)?;
        }
        here().run("checkout", &["checkout", "-q", "--detach", "FETCH_HEAD", "--"])?;
        if source.submodules == Submodules::Recursive {
            let arguments = ["submodule", "-q", "update", "--init", "--recursive", "--depth=1"];
            here().run("submodule", &arguments)?;
        }
        here().run("reflog", &["reflog", "expire", "--all", "--expire=now"])?;
        let head = own.join("FETCH_HEAD");
        match std::fs::remove_file(&head) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(host("remove", &head)(error)),
            _ => Ok(()),
        }
    }
}
