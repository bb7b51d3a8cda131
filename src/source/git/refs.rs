//! From a reference to a commit: what `git ls-remote` lists, and which line of it is meant.

use super::SourceError;

/// What a reference stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tip {
    /// The commit.
    pub commit: String,
    /// What stands behind the reference: the commit, or a tag that leads to it.
    pub object: String,
    /// The reference's full name; `None` for a commit that was named by its id.
    pub reference: Option<String>,
}

impl Tip {
    /// A commit that is named by its id.
    pub fn of_commit(id: &str) -> Self {
        Self {
            commit: id.to_owned(),
            object: id.to_owned(),
            reference: None,
        }
    }

    /// A commit that is taken at its word: the reference is only a name for it.
    pub fn pinned(reference: Option<&str>, checksum: Option<&str>) -> Result<Self, SourceError> {
        let id = checksum.filter(|id| is_commit_id(id));
        let id = id.ok_or_else(|| SourceError::CommitForm {
            text: checksum.unwrap_or_default().to_owned(),
        })?;
        let full = |name: &str| match name.starts_with("refs/") {
            true => name.to_owned(),
            false => format!("refs/heads/{name}"),
        };
        Ok(Self {
            reference: reference.map(full),
            ..Self::of_commit(id)
        })
    }

    /// Whether `checksum` is the beginning of its id, or of its tag's.
    pub fn is(&self, checksum: &str) -> bool {
        self.commit.starts_with(checksum) || self.object.starts_with(checksum)
    }
}

/// A full id: 40 hexadecimal digits, or 64 in a repository of SHA-256 objects.
pub(super) fn is_commit_id(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    matches!(text.len(), 40 | 64) && text.bytes().all(digit)
}

/// What `reference` means in a listing; without one, the default branch. A name in full comes before a branch, and a
/// branch before a tag, as `git checkout` has it.
pub(super) fn find(listing: &str, reference: Option<&str>) -> Option<Tip> {
    let lines = || listing.lines().filter_map(|line| line.split_once('\t'));
    let id_of = |name: &str| {
        let found = lines().find(|(_, listed)| *listed == name).map(|(id, _)| id);
        found.filter(|id| is_commit_id(id)).map(str::to_owned)
    };
    let Some(reference) = reference else {
        let branch = lines().find_map(|(target, name)| target.strip_prefix("ref: ").filter(|_| name == "HEAD"));
        let id = lines().find(|(id, name)| *name == "HEAD" && is_commit_id(id))?.0;
        return Some(Tip {
            reference: branch.filter(|name| name.starts_with("refs/heads/")).map(str::to_owned),
            ..Tip::of_commit(id)
        });
    };
    let within = |prefix: &str| format!("{prefix}{}", reference.strip_prefix(prefix).unwrap_or(reference));
    for name in [within("refs/"), within("refs/heads/"), within("refs/tags/")] {
        if let Some(object) = id_of(&name) {
            let peeled = id_of(&format!("{name}^{{}}"));
            return Some(Tip {
                commit: peeled.unwrap_or_else(|| object.clone()),
                object,
                reference: Some(name),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const C: &str = "cccccccccccccccccccccccccccccccccccccccc";

    fn found(listing: &str, reference: Option<&str>) -> Option<(String, String, Option<String>)> {
        find(listing, reference).map(|tip| (tip.commit, tip.object, tip.reference))
    }

    #[test]
    fn branches_come_before_tags_and_tags_lead_to_commits() {
        let listing = format!("{A}\trefs/heads/v1\n{B}\trefs/tags/v1\n{C}\trefs/tags/v1^{{}}\n");
        let branch = Some((A.into(), A.into(), Some("refs/heads/v1".into())));
        assert_eq!(found(&listing, Some("v1")), branch);
        assert_eq!(found(&listing, Some("heads/v1")), branch);
        assert_eq!(found(&listing, Some("refs/heads/v1")), branch);
        let tag = Some((C.into(), B.into(), Some("refs/tags/v1".into())));
        assert_eq!(found(&listing, Some("refs/tags/v1")), tag);
        assert_eq!(found(&listing, Some("tags/v1")), tag);
        assert_eq!(found(&listing, Some("v2")), None);
    }

    #[test]
    fn without_a_reference_it_is_the_default_branch() {
        let listing = format!("ref: refs/heads/main\tHEAD\n{A}\tHEAD\n{B}\trefs/remotes/origin/HEAD\n");
        let main = Some((A.into(), A.into(), Some("refs/heads/main".into())));
        assert_eq!(found(&listing, None), main);
        assert_eq!(found(&format!("{A}\tHEAD\n"), None), Some((A.into(), A.into(), None)));
        assert_eq!(found("", None), None);
    }

    #[test]
    fn what_a_server_says_is_not_believed() {
        assert_eq!(found("--upload-pack=x\trefs/heads/a\n", Some("a")), None);
        assert_eq!(found(&format!("{A}\trefs/heads/x/a\n"), Some("a")), None);
        assert_eq!(found("ref: --x\tHEAD\nnope\tHEAD\n", None), None);
    }

    #[test]
    fn a_pinned_commit_is_taken_at_its_word() {
        assert_eq!(
            Tip::pinned(Some("main"), Some(A)).unwrap().reference.as_deref(),
            Some("refs/heads/main")
        );
        assert!(Tip::pinned(Some("main"), Some("aaaa")).is_err());
        assert!(Tip::pinned(None, None).is_err());
    }
}
