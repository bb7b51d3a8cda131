//! Sources as policies call them, in BuildKit's words, and back.

use std::collections::BTreeMap;
use std::fmt;

use crate::graph::{GitDir, GitRequest, GitTimes, HttpRequest, Remote, Submodules, without_secrets};
use crate::planner::{BareForm, ImageName, git_address, is_url, layout_address};
use crate::policy::Candidate;

const IMAGE: &str = "docker-image://";
const GIT: &str = "git://";
const CHECKSUM: &str = "http.checksum";
const FILE_NAME: &str = "http.filename";
const FULL_URL: &str = "git.fullurl";
const GIT_CHECKSUM: &str = "git.checksum";
const KEEP_GIT_DIR: &str = "git.keepgitdir";
const SKIP_SUBMODULES: &str = "git.skipsubmodules";
const TIMES: &str = "git.mtime";
const BY_COMMIT: &str = "git.fetchbycommit";

/// Why what a policy made of a source cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mismatch {
    /// It is of another kind, or of none.
    Kind,
    /// It has an attribute that nobody here would heed.
    Attribute(String),
    /// It has an attribute with a value that means nothing.
    Value(&'static str),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Kind => {
                f.write_str("which cannot take its place: it must stay an image, a file, or a repository")
            }
            Mismatch::Attribute(name) => write!(f, "and sets `{name}`, which is not supported here"),
            Mismatch::Value(name) => write!(f, "and sets `{name}` to what it cannot be"),
        }
    }
}

/// An image, as policies see it.
pub(super) fn of_image(name: &ImageName) -> Candidate {
    let identifier = match name {
        ImageName::Reference(reference) => format!("{IMAGE}{reference}"),
        ImageName::Layout(layout) => layout.to_string(),
    };
    let attributes = BTreeMap::new();
    Candidate { identifier, attributes }
}

/// The image that a policy made of one.
pub(super) fn image(candidate: &Candidate, _: &Candidate) -> Result<ImageName, Mismatch> {
    if let Some(name) = candidate.attributes.keys().next() {
        return Err(Mismatch::Attribute(name.clone()));
    }
    if let Some(reference) = candidate.identifier.strip_prefix(IMAGE) {
        return reference.parse().map(ImageName::Reference).map_err(|_| Mismatch::Kind);
    }
    match layout_address(&candidate.identifier) {
        Ok(Some(layout)) => Ok(ImageName::Layout(layout)),
        Ok(None) | Err(_) => Err(Mismatch::Kind),
    }
}

/// A directory of the user's, as policies see it.
pub(super) fn of_directory(name: &str) -> Candidate {
    Candidate {
        identifier: format!("local://{name}"),
        attributes: BTreeMap::new(),
    }
}

/// Something that lies elsewhere, as policies see it: without secrets.
pub(super) fn of_remote(remote: &Remote) -> Candidate {
    match remote {
        Remote::Http(file) => of_file(file),
        Remote::Git(git) => of_repository(git),
    }
}

fn of_file(file: &HttpRequest) -> Candidate {
    let mut attributes = BTreeMap::from([(FILE_NAME.to_owned(), file.name.clone())]);
    if let Some(checksum) = &file.checksum {
        attributes.insert(CHECKSUM.to_owned(), checksum.to_string());
    }
    Candidate {
        identifier: without_secrets(&file.url),
        attributes,
    }
}

fn of_repository(git: &GitRequest) -> Candidate {
    let shown = without_secrets(&git.remote);
    let mut identifier = format!("{GIT}{}", place_of(&git.remote));
    if git.reference.is_some() || !git.subdir.is_empty() {
        identifier.push('#');
        identifier.push_str(git.reference.as_deref().unwrap_or_default());
    }
    if !git.subdir.is_empty() {
        identifier.push(':');
        identifier.push_str(&git.subdir);
    }
    let set = |holds: bool, name: &str| holds.then(|| (name.to_owned(), "true".to_owned()));
    let mut attributes = BTreeMap::from([(FULL_URL.to_owned(), shown)]);
    attributes.extend(git.checksum.clone().map(|checksum| (GIT_CHECKSUM.to_owned(), checksum)));
    attributes.extend(set(git.git_dir == Some(GitDir::Kept), KEEP_GIT_DIR));
    attributes.extend(set(git.submodules == Submodules::Skipped, SKIP_SUBMODULES));
    attributes.extend(set(git.by_commit, BY_COMMIT));
    if git.times == GitTimes::Commit {
        attributes.insert(TIMES.to_owned(), "commit".to_owned());
    }
    Candidate { identifier, attributes }
}

/// A remote's host and path: the same for all protocols.
fn place_of(remote: &str) -> String {
    let place = match remote.split_once("://") {
        Some((_, rest)) => rest.to_owned(),
        // `user@host:path`, as scp has it.
        None => remote.replacen(':', "/", 1),
    };
    let (host, path) = place.split_once('/').unwrap_or((&place, ""));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{host}/{path}")
}

/// What a policy made of something that lies elsewhere.
pub(super) fn remote(candidate: &Candidate, before: &Candidate, remote: &Remote) -> Result<Remote, Mismatch> {
    match remote {
        Remote::Http(file) => made_file(candidate, before, file).map(Remote::Http),
        Remote::Git(git) => repository(candidate, before, git).map(Remote::Git),
    }
}

fn made_file(candidate: &Candidate, before: &Candidate, file: &HttpRequest) -> Result<HttpRequest, Mismatch> {
    let mut made = file.clone();
    if candidate.identifier != before.identifier {
        if !is_url(&candidate.identifier) {
            return Err(Mismatch::Kind);
        }
        made.url.clone_from(&candidate.identifier);
    }
    for (name, value) in &candidate.attributes {
        match name.as_str() {
            CHECKSUM => made.checksum = Some(value.parse().map_err(|_| Mismatch::Value(CHECKSUM))?),
            FILE_NAME if *value == file.name => {}
            FILE_NAME if value.is_empty() || value.contains('/') || value == "." || value == ".." => {
                return Err(Mismatch::Value(FILE_NAME));
            }
            FILE_NAME => made.name.clone_from(value),
            _ => return Err(Mismatch::Attribute(name.clone())),
        }
    }
    Ok(made)
}

fn repository(candidate: &Candidate, before: &Candidate, git: &GitRequest) -> Result<GitRequest, Mismatch> {
    let mut made = git.clone();
    if candidate.identifier != before.identifier {
        let address = candidate.identifier.strip_prefix(GIT).ok_or(Mismatch::Kind)?;
        let parsed = git_address(&format!("{GIT}{address}"), BareForm::Path);
        let parsed = parsed.ok().flatten().ok_or(Mismatch::Kind)?;
        (made.reference, made.subdir) = (parsed.reference, parsed.subdir);
        if place_of(&parsed.remote) != place_of(&git.remote) {
            made.remote = format!("https://{}", place_of(&parsed.remote));
        }
    }
    for (name, value) in &candidate.attributes {
        let is_set = value == "true";
        match name.as_str() {
            FULL_URL if before.attributes.get(FULL_URL) == Some(value) => {}
            FULL_URL => made.remote = remote_of(value)?,
            GIT_CHECKSUM => made.checksum = Some(value.clone()),
            KEEP_GIT_DIR => made.git_dir = Some(if is_set { GitDir::Kept } else { GitDir::Left }),
            SKIP_SUBMODULES if is_set => made.submodules = Submodules::Skipped,
            SKIP_SUBMODULES => made.submodules = Submodules::Recursive,
            BY_COMMIT => made.by_commit = is_set,
            TIMES => {
                made.times = match value.as_str() {
                    "commit" => GitTimes::Commit,
                    "checkout" | "" => GitTimes::Checkout,
                    _ => return Err(Mismatch::Value(TIMES)),
                }
            }
            _ => return Err(Mismatch::Attribute(name.clone())),
        }
    }
    Ok(made)
}

/// An address that git may be given: of a protocol that a Dockerfile may name.
fn remote_of(text: &str) -> Result<String, Mismatch> {
    match git_address(text, BareForm::Path) {
        Ok(Some(git)) if git.reference.is_none() && git.subdir.is_empty() => Ok(git.remote),
        Ok(None) if is_url(text) && url::Url::parse(text).is_ok_and(|url| url.has_host()) => Ok(text.to_owned()),
        _ => Err(Mismatch::Value(FULL_URL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(text: &str) -> GitRequest {
        git_address(text, BareForm::Repository).unwrap().unwrap()
    }

    #[test]
    fn repositories_have_one_name_for_all_protocols_and_no_secrets() {
        for (address, expected) in [
            (
                "https://me:token@host:8443/me/app.git#main:sub",
                "git://host:8443/me/app.git#main:sub",
            ),
            ("git@host:me/app.git", "git://host/me/app.git"),
            ("ssh://git@host/me/app.git#:sub", "git://host/me/app.git#:sub"),
            ("git://host/me/app#v1", "git://host/me/app#v1"),
        ] {
            let candidate = of_repository(&git(address));
            assert_eq!(candidate.identifier, expected);
            assert!(!format!("{candidate:?}").contains("token"));
        }
    }

    #[test]
    fn what_a_policy_makes_of_a_repository_is_checked() {
        let asked = git("https://me:token@host/me/app.git#main");
        let before = of_repository(&asked);
        let made = |identifier: Option<&str>, attributes: &[(&str, &str)]| {
            let mut candidate = before.clone();
            candidate.identifier = identifier.unwrap_or(&before.identifier).to_owned();
            let attributes = attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            candidate.attributes.extend(attributes);
            repository(&candidate, &before, &asked)
        };
        let pinned = made(None, &[(GIT_CHECKSUM, "abc")]).unwrap();
        assert_eq!(
            (pinned.remote.as_str(), pinned.checksum.as_deref()),
            (asked.remote.as_str(), Some("abc"))
        );
        let moved = made(Some("git://mirror/me/app.git#main"), &[]).unwrap();
        assert_eq!(
            moved.remote, "https://mirror/me/app.git",
            "and the secret stays at home"
        );
        let other = made(None, &[(FULL_URL, "ssh://git@mirror/app.git")]).unwrap();
        assert_eq!(other.remote, "ssh://git@mirror/app.git");
        let branch = made(Some("git://host/me/app.git#next"), &[]).unwrap();
        assert_eq!(
            (branch.remote, branch.reference.as_deref()),
            (asked.remote.clone(), Some("next"))
        );
        for (identifier, attributes) in [
            (Some("docker-image://alpine"), &[][..]),
            (Some("git://host/me/app.git#--upload-pack=x"), &[]),
            (None, &[(FULL_URL, "ext::sh -c x")]),
            (None, &[(FULL_URL, "file:///etc")]),
            (None, &[("git.sig.pubkey", "x")]),
        ] {
            assert!(made(identifier, attributes).is_err(), "{identifier:?} {attributes:?}");
        }
    }

    #[test]
    fn images_stay_images() {
        let name: ImageName = ImageName::Reference("alpine".parse().unwrap());
        let before = of_image(&name);
        assert_eq!(before.identifier, "docker-image://docker.io/library/alpine:latest");
        let made = |identifier: &str| {
            let candidate = Candidate {
                identifier: identifier.to_owned(),
                attributes: BTreeMap::new(),
            };
            image(&candidate, &before)
        };
        assert!(matches!(
            made("docker-image://mirror.example/alpine"),
            Ok(ImageName::Reference(_))
        ));
        assert!(matches!(made("oci-layout:///srv/alpine:1"), Ok(ImageName::Layout(_))));
        for wrong in [
            "docker-image://A B",
            "https://host/x",
            "local://context",
            "oci-layout://",
            "",
        ] {
            assert_eq!(made(wrong), Err(Mismatch::Kind), "{wrong}");
        }
    }
}
