//! Package URLs: one text for what a package is and where it comes from.
//!
//! Package URL specification, "Rules for each purl component".

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::oci::{Platform, Reference};

/// What stays as it is within a component: letters, digits and `.-_~`, and the colon.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

/// The parts of a package URL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Purl<'a> {
    /// `deb`, `npm`…
    pub(super) kind: &'a str,
    /// The name's prefix, its parts separated by slashes; empty for none.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Empty for none.
    pub(super) version: &'a str,
    /// In the order of their keys; those without a value are left out.
    pub(super) qualifiers: &'a [(&'a str, &'a str)],
}

impl std::fmt::Display for Purl<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pkg:{}/", self.kind)?;
        for part in self.namespace.split('/').filter(|part| !part.is_empty()) {
            write!(f, "{}/", utf8_percent_encode(part, COMPONENT))?;
        }
        write!(f, "{}", utf8_percent_encode(self.name, COMPONENT))?;
        if !self.version.is_empty() {
            write!(f, "@{}", utf8_percent_encode(self.version, COMPONENT))?;
        }
        let given = self.qualifiers.iter().filter(|(_, value)| !value.is_empty());
        for (place, (key, value)) in given.enumerate() {
            let separator = if place == 0 { '?' } else { '&' };
            write!(f, "{separator}{key}={}", utf8_percent_encode(value, COMPONENT))?;
        }
        Ok(())
    }
}

/// The package URL of an image, as BuildKit writes it: `pkg:docker/busybox@latest?platform=linux%2Famd64`.
pub fn image_purl(reference: &Reference, platform: &Platform) -> String {
    let name = reference.familiar_name();
    let (namespace, name) = name.rsplit_once('/').unwrap_or(("", &name));
    let digest = reference.digest().map(|digest| digest.to_string()).unwrap_or_default();
    let platform = platform.clone().bare().normalized().to_string();
    Purl {
        kind: "docker",
        namespace,
        name,
        version: reference.tag().unwrap_or_default(),
        qualifiers: &[("digest", &digest), ("platform", &platform)],
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_as_buildkit_names_it() {
        let platform = "linux/arm64".parse().unwrap();
        for (reference, expected) in [
            ("busybox", "pkg:docker/busybox@latest?platform=linux%2Farm64"),
            (
                "example.com:5000/team/app:1.0",
                "pkg:docker/example.com:5000/team/app@1.0?platform=linux%2Farm64",
            ),
        ] {
            assert_eq!(image_purl(&reference.parse().unwrap(), &platform), expected);
        }
        let pinned = format!("busybox@sha256:{}", "a".repeat(64));
        let expected = format!(
            "pkg:docker/busybox?digest=sha256:{}&platform=linux%2Farm64",
            "a".repeat(64)
        );
        assert_eq!(image_purl(&pinned.parse().unwrap(), &platform), expected);
    }

    #[test]
    fn components_are_encoded() {
        let purl = Purl {
            kind: "npm",
            namespace: "@scope",
            name: "a b",
            version: "1.0+x",
            qualifiers: &[("empty", ""), ("arch", "a/b")],
        };
        assert_eq!(purl.to_string(), "pkg:npm/%40scope/a%20b@1.0%2Bx?arch=a%2Fb");
    }
}
