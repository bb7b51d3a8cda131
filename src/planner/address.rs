//! Addresses of files and git repositories, as ADD and contexts take them.
//!
//! The grammar is that of BuildKit's Dockerfile frontend: what has no form of a repository is a URL, and what has no form
//! of a URL is a path. Nothing is asked for here.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use url::{Url, form_urlencoded};

use super::path;
use crate::graph::{GitDir, GitRequest, GitTimes, HttpRequest, Submodules};
use crate::oci::Digest;

/// What a file behind a URL without a name is called.
const UNNAMED: &str = "__unnamed__";

/// Whether `github.com/owner/repository`, which could be a directory, is a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BareForm {
    /// It is: where contexts are named.
    Repository,
    /// It is a path: in ADD.
    Path,
}

/// An address of a git repository that cannot be what is meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{address}` is no usable address of a git repository: {what}")]
pub struct AddressError {
    /// The address, without secrets.
    pub address: String,
    /// What is wrong with it.
    pub what: String,
}

/// The git repository that `text` names; `None` where it has not the form of one.
///
/// # Errors
/// A repository whose query or fragment is malformed or contradicts itself.
pub fn git_address(text: &str, bare: BareForm) -> Result<Option<GitRequest>, AddressError> {
    let Some(parts) = Parts::of(text, bare) else {
        return Ok(None);
    };
    parts.request().map(Some).map_err(|what| AddressError {
        address: crate::graph::without_secrets(text),
        what,
    })
}

/// Whether `text` is the URL of a file; repositories are to be looked for first.
pub fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The file that a URL names: it is called as the last part of the URL's path.
pub fn file_address(url: &str, checksum: Option<Digest>) -> HttpRequest {
    let path = Url::parse(url).map_or_else(|_| String::new(), |url| url.path().to_owned());
    let decoded = percent_decode_str(&path).decode_utf8_lossy();
    let name = decoded.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    HttpRequest {
        url: url.to_owned(),
        name: safe_name(name),
        checksum,
    }
}

/// A name that a file can have, whatever a URL says.
fn safe_name(name: &str) -> String {
    match name.trim() {
        "" | "." | ".." => UNNAMED.to_owned(),
        name if name.chars().any(char::is_control) => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

/// An address taken apart.
struct Parts<'a> {
    remote: String,
    query: Option<&'a str>,
    fragment: Option<String>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str, bare: BareForm) -> Option<Self> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        let (address, fragment) = cut(text, '#');
        let (address, query) = cut(address, '?');
        if address.starts_with("github.com/") {
            let decoded = fragment.map(decode);
            return (bare == BareForm::Repository).then(|| Self {
                remote: format!("https://{address}"),
                query,
                fragment: decoded,
            });
        }
        match address.split_once("://") {
            Some((scheme, rest)) => {
                let scheme = scheme.to_ascii_lowercase();
                let is_git = match scheme.as_str() {
                    "git" | "ssh" => true,
                    "http" | "https" => rest.contains('/') && decode(rest).ends_with(".git"),
                    _ => false,
                };
                let remote = format!("{scheme}://{rest}");
                (is_git && Url::parse(&remote).is_ok_and(|url| url.has_host())).then(|| Self {
                    remote,
                    query,
                    fragment: fragment.map(decode),
                })
            }
            None => is_scp(address).then(|| Self {
                remote: address.to_owned(),
                query,
                fragment: fragment.map(str::to_owned),
            }),
        }
    }

    fn request(self) -> Result<GitRequest, String> {
        let fragment = self.fragment.as_deref().unwrap_or_default();
        let (reference, subdir) = cut(fragment, ':');
        let mut request = GitRequest {
            remote: self.remote,
            reference: filled(reference),
            checksum: None,
            subdir: below(subdir.unwrap_or_default()),
            git_dir: None,
            submodules: Submodules::Recursive,
            times: GitTimes::Checkout,
            by_commit: false,
        };
        let query = self.query.unwrap_or_default();
        apply_query(&mut request, &pairs(query)?)?;
        if let Some(reference) = &request.reference {
            check_reference(reference)?;
        }
        Ok(request)
    }
}

/// The keys of a query, each once.
fn pairs(query: &str) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if pairs.insert(key.clone().into_owned(), value.into_owned()).is_some() {
            return Err(format!("`{key}` is given twice"));
        }
    }
    Ok(pairs)
}

fn apply_query(request: &mut GitRequest, pairs: &BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in pairs {
        let switch = || switch(key, value);
        if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit") {
            return Err(format!("`{key}` has no value"));
        }
        match key.as_str() {
            "ref" => agree(&mut request.reference, value, "references")?,
            "tag" => agree(&mut request.reference, &prefixed("refs/tags/", value), "references")?,
            "branch" if pairs.contains_key("tag") => return Err("it names a branch and a tag".to_owned()),
            "branch" => {}
            "subdir" => {
                let mut subdir = filled(&request.subdir);
                agree(&mut subdir, &below(value), "directories")?;
                request.subdir = subdir.unwrap_or_default();
            }
            "checksum" | "commit" => agree(&mut request.checksum, value, "commits")?,
            "keep-git-dir" => {
                request.git_dir = Some(match switch()? {
                    true => GitDir::Kept,
                    false => GitDir::Left,
                })
            }
            "submodules" => {
                request.submodules = match switch()? {
                    true => Submodules::Recursive,
                    false => Submodules::Skipped,
                }
            }
            "mtime" => {
                request.times = match value.as_str() {
                    "checkout" => GitTimes::Checkout,
                    "commit" => GitTimes::Commit,
                    _ => return Err(format!("`mtime` is `{value}`, and can be `checkout` or `commit`")),
                }
            }
            "fetch-by-commit" => request.by_commit = switch()?,
            _ => {
                return Err(format!(
                    "`{key}` is not one of ref, tag, branch, subdir, checksum, commit, keep-git-dir, submodules, mtime \
                     and fetch-by-commit"
                ));
            }
        }
    }
    // After `ref`, which may name the same branch in full.
    if let Some(branch) = pairs.get("branch") {
        agree(&mut request.reference, &prefixed("refs/heads/", branch), "references")?;
    }
    Ok(())
}

/// Sets what is not set; what is set must say the same.
fn agree(slot: &mut Option<String>, value: &str, what: &str) -> Result<(), String> {
    match slot {
        Some(other) if other != value => Err(format!("it names two {what}, `{other}` and `{value}`")),
        _ => {
            *slot = Some(value.to_owned());
            Ok(())
        }
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("`{key}` is `{value}`, and can be `true` or `false`")),
    }
}

fn prefixed(prefix: &str, name: &str) -> String {
    match name.starts_with(prefix) {
        true => name.to_owned(),
        false => format!("{prefix}{name}"),
    }
}

/// git-check-ref-format(1): what no reference can be, and what git would take for an option.
fn check_reference(reference: &str) -> Result<(), String> {
    let forbidden = |letter: char| letter.is_control() || " ~^:?*[\\".contains(letter);
    let usable = !reference.starts_with(['-', '/'])
        && !reference.ends_with(['/', '.'])
        && !reference.contains(forbidden)
        && !["..", "//", "@{"].iter().any(|part| reference.contains(part))
        && reference.len() <= 1_000;
    match usable {
        true => Ok(()),
        false => Err("no branch or tag can be called so".to_owned()),
    }
}

/// `user@host:path`, as scp has it.
fn is_scp(address: &str) -> bool {
    let Some((user, rest)) = address.split_once('@') else {
        return false;
    };
    let Some((host, _)) = rest.split_once(':') else {
        return false;
    };
    let made_of = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    // A name that begins so would be an option of ssh.
    made_of(user, b"-_") && made_of(host, b"-.") && !user.starts_with('-') && !host.starts_with('-')
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at)
        .map_or((text, None), |(before, after)| (before, Some(after)))
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A path below the repository's root, without `/` at its ends; what leads out stays at the root.
fn below(subdir: &str) -> String {
    path::clean(subdir).trim_start_matches('/').to_owned()
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(text: &str) -> Option<(String, Option<String>, String)> {
        let found = git_address(text, BareForm::Repository).unwrap();
        found.map(|git| (git.remote, git.reference, git.subdir))
    }

    fn refused(text: &str) -> String {
        git_address(text, BareForm::Repository).unwrap_err().what
    }

    #[test]
    fn repositories_are_known_by_their_form() {
        for (text, remote) in [
            ("https://host/me/app.git", "https://host/me/app.git"),
            ("HTTPS://host/me/app.git#main", "https://host/me/app.git"),
            ("http://host:80/app.git?ref=x", "http://host:80/app.git"),
            ("git://host/app", "git://host/app"),
            ("ssh://git@host/app", "ssh://git@host/app"),
            ("git@host:me/app.git#main:sub", "git@host:me/app.git"),
            ("me@host:app", "me@host:app"),
            ("github.com/me/app", "https://github.com/me/app"),
        ] {
            assert_eq!(git(text).unwrap().0, remote, "{text}");
        }
        for text in [
            "https://host/app.tar",
            "https://host/app.git/",
            "https://host.git",
            "http://host/app.git:x",
            "ftp://host/app.git",
            "./app.git",
            "../git@host:x",
            "dir/git@host:x",
            "a@b",
            "a:b",
            "app.git",
            "-u@host:x",
            "u@-host:x",
        ] {
            assert_eq!(git(text), None, "{text}");
        }
        assert_eq!(git_address("github.com/me/app", BareForm::Path), Ok(None));
    }

    #[test]
    fn a_fragment_is_a_reference_and_a_directory() {
        for (fragment, reference, subdir) in [
            ("", None, ""),
            ("#", None, ""),
            ("#main", Some("main"), ""),
            ("#a/b:c/d", Some("a/b"), "c/d"),
            ("#:sub/", None, "sub"),
            ("#v1:../../etc", Some("v1"), "etc"),
            ("#a%2Fb", Some("a/b"), ""),
        ] {
            let (_, found, below) = git(&format!("https://h/x.git{fragment}")).unwrap();
            assert_eq!((found.as_deref(), below.as_str()), (reference, subdir), "{fragment}");
        }
    }

    #[test]
    fn a_query_says_the_same_in_more_words() {
        let parse = |query: &str| {
            git_address(&format!("https://h/x.git{query}"), BareForm::Path)
                .unwrap()
                .unwrap()
        };
        let all = parse("?tag=v1&subdir=/a&commit=abc&keep-git-dir&submodules=0&mtime=commit&fetch-by-commit=true#:a");
        assert_eq!(all.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!((all.subdir.as_str(), all.checksum.as_deref()), ("a", Some("abc")));
        assert_eq!((all.git_dir, all.submodules), (Some(GitDir::Kept), Submodules::Skipped));
        assert_eq!((all.times, all.by_commit), (GitTimes::Commit, true));
        assert_eq!(parse("?branch=b").reference.as_deref(), Some("refs/heads/b"));
        assert_eq!(
            parse("?branch=b&ref=refs/heads/b").reference.as_deref(),
            Some("refs/heads/b")
        );
        assert_eq!(parse("?tag=refs/tags/v1").reference.as_deref(), Some("refs/tags/v1"));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (address, expected) in [
            ("https://h/x.git?ref=a#b", "two references"),
            ("https://h/x.git?ref=a&tag=b", "two references"),
            ("https://h/x.git?tag=a&branch=a", "a branch and a tag"),
            ("https://h/x.git?subdir=a#:b", "two directories"),
            ("https://h/x.git?commit=a&checksum=b", "two commits"),
            ("https://h/x.git?ref=a&ref=a", "twice"),
            ("https://h/x.git?ref=", "no value"),
            ("https://h/x.git?depth=1", "not one of"),
            ("https://h/x.git?submodules=maybe", "true"),
            ("https://h/x.git?mtime=now", "checkout"),
            ("https://h/x.git#--upload-pack=touch", "called so"),
            ("https://h/x.git#a..b", "called so"),
            ("https://h/x.git?ref=a%20b", "called so"),
            ("git@host:x.git#-c", "called so"),
        ] {
            let what = refused(address);
            assert!(what.contains(expected), "{address}: {what}");
        }
        let secret = git_address("https://me:token@h/x.git?a=1", BareForm::Path).unwrap_err();
        assert!(!secret.to_string().contains("token"));
    }

    #[test]
    fn files_are_called_as_the_url_ends() {
        for (url, name) in [
            ("https://host/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("https://host/a/", "a"),
            ("https://host", "__unnamed__"),
            ("https://host/", "__unnamed__"),
            ("http://host/..%2f..%2fx", "x"),
            ("http://host/a%2f..", "__unnamed__"),
            ("http://host/a%20b%5b1%5d", "a b[1]"),
            ("http://host/a%00b", "__unnamed__"),
        ] {
            assert_eq!(file_address(url, None).name, name, "{url}");
        }
    }
}
