//! Addresses of images in OCI layouts on disk, as `--build-context` takes them: `oci-layout://directory[:tag][@digest]`.
//!
//! Nothing is opened here.

use std::fmt;
use std::path::PathBuf;

use crate::oci::{Digest, Reference};

/// What such an address begins with.
const SCHEME: &str = "oci-layout://";

/// An image, or an index of images, in a directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LayoutAddress {
    /// The layout's directory.
    pub directory: PathBuf,
    /// By what tag the layout's index lists the image.
    pub tag: Option<String>,
    /// The digest of the manifest or index, which counts more than the tag.
    pub digest: Option<Digest>,
}

/// What is wrong with an address that is one of a layout.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{address}` names no image of a layout: {what}")]
pub struct LayoutAddressError {
    /// The address.
    pub address: String,
    /// What is wrong with it.
    pub what: &'static str,
}

/// The image of a layout that `text` names; `None` where it has not the form of one.
///
/// # Errors
/// An address without a directory, or with a malformed digest.
pub fn layout_address(text: &str) -> Result<Option<LayoutAddress>, LayoutAddressError> {
    let Some(rest) = text.strip_prefix(SCHEME) else {
        return Ok(None);
    };
    let wrong = |what| LayoutAddressError {
        address: text.to_owned(),
        what,
    };
    // A directory may have `@` and `:` in its name; behind its last `/` they are what is chosen.
    let (rest, digest) = match rest.rsplit_once('@') {
        Some((rest, digest)) if !digest.contains('/') => {
            let digest: Digest = digest.parse().map_err(|_| wrong("behind `@` there is no digest"))?;
            (rest, Some(digest))
        }
        _ => (rest, None),
    };
    let (directory, tag) = match rest.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => {
            // What is a tag is the grammar of references.
            let reference = format!("layout:{tag}").parse::<Reference>();
            reference.map_err(|_| wrong("behind `:` there is no tag"))?;
            (directory, Some(tag.to_owned()))
        }
        _ => (rest, None),
    };
    match directory.is_empty() || directory.contains('\0') {
        true => Err(wrong("there is no directory")),
        false => Ok(Some(LayoutAddress {
            directory: PathBuf::from(directory),
            tag,
            digest,
        })),
    }
}

impl fmt::Display for LayoutAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.directory.display())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_tag_and_digest_are_told_apart() {
        let digest = Digest::of(b"");
        let pinned = format!("oci-layout://./a@{digest}");
        let both = format!("oci-layout://../a:b/c:1.0@{digest}");
        for (text, directory, tag, has_digest) in [
            ("oci-layout:///srv/image", "/srv/image", None, false),
            ("oci-layout://image:latest", "image", Some("latest"), false),
            ("oci-layout:///a:b/c", "/a:b/c", None, false),
            ("oci-layout:///a@b/c:d", "/a@b/c", Some("d"), false),
            (pinned.as_str(), "./a", None, true),
            (both.as_str(), "../a:b/c", Some("1.0"), true),
        ] {
            let address = layout_address(text).unwrap().unwrap();
            assert_eq!(address.directory, PathBuf::from(directory), "{text}");
            assert_eq!(address.tag.as_deref(), tag, "{text}");
            assert_eq!(address.digest.is_some(), has_digest, "{text}");
            assert_eq!(address.to_string(), text);
        }
        for text in ["docker-image://a", "./oci-layout", "https://host/a"] {
            assert_eq!(layout_address(text), Ok(None), "{text}");
        }
        for text in [
            "oci-layout://",
            "oci-layout://:tag",
            "oci-layout://a:b c",
            "oci-layout://a:",
            "oci-layout://a@",
            "oci-layout://a@sha256:12",
            "oci-layout://a\0b",
        ] {
            assert!(layout_address(text).is_err(), "{text:?}");
        }
    }
}
