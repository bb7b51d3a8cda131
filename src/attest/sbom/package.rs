//! A package, whatever ecosystem it is of.

use crate::attest::purl::Purl;
use crate::oci::DiffId;
use crate::snapshot::ContainerPath;

/// Places that are remembered of a package that many tell of.
const MOST_PLACES: usize = 8;
/// Characters of any text of a package that are kept.
const LONGEST_TEXT: usize = 2048;

/// Who knows packages of this kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Deb,
    Apk,
    Rpm,
    Pypi,
    Npm,
    Cargo,
    Golang,
}

impl Kind {
    /// The type of its package URLs.
    pub(super) fn purl_type(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Apk => "apk",
            Self::Rpm => "rpm",
            Self::Pypi => "pypi",
            Self::Npm => "npm",
            Self::Cargo => "cargo",
            Self::Golang => "golang",
        }
    }

    /// Where what is known of it was read.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Deb => "dpkg database",
            Self::Apk => "apk database",
            Self::Rpm => "rpm database",
            Self::Pypi => "installed Python package",
            Self::Npm => "npm package or lock file",
            Self::Cargo => "Cargo lock file or auditable program",
            Self::Golang => "Go program",
        }
    }
}

/// A checksum of a package: the algorithm in SPDX's words, and hexadecimal digits.
pub(super) type Checksum = (&'static str, String);

/// One package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Package {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) purl: String,
    /// Who keeps it: `Name <address>`, or a name.
    pub(super) supplier: Option<String>,
    pub(super) homepage: Option<String>,
    /// As the package says it, whatever that is.
    pub(super) license: Option<String>,
    pub(super) checksums: Vec<Checksum>,
    /// Where in the image it is told of; at least one.
    pub(super) places: Vec<ContainerPath>,
    /// The files that it owns, as its database names them.
    pub(super) files: Vec<String>,
    /// The layer that brought it.
    pub(super) layer: Option<DiffId>,
}

impl Package {
    /// A package of which no more is known; `None` where it has no name that could be one.
    pub(super) fn new(
        kind: Kind,
        namespace: &str,
        name: &str,
        version: &str,
        qualifiers: &[(&str, &str)],
        place: &ContainerPath,
    ) -> Option<Self> {
        let (name, version) = (text(name)?, text(version).unwrap_or_default());
        let purl = Purl {
            kind: kind.purl_type(),
            namespace,
            name: &name,
            version: &version,
            qualifiers,
        };
        let purl = purl.to_string();
        Some(Self {
            kind,
            name,
            version,
            purl,
            supplier: None,
            homepage: None,
            license: None,
            checksums: Vec::new(),
            places: vec![place.clone()],
            files: Vec::new(),
            layer: None,
        })
    }

    /// Takes in what another place says of the same package.
    pub(super) fn also(&mut self, other: Self) {
        for place in other.places {
            if self.places.len() < MOST_PLACES && !self.places.contains(&place) {
                self.places.push(place);
            }
        }
        self.supplier = self.supplier.take().or(other.supplier);
        self.homepage = self.homepage.take().or(other.homepage);
        self.license = self.license.take().or(other.license);
        if self.checksums.is_empty() {
            self.checksums = other.checksums;
        }
        self.files.extend(other.files);
    }
}

/// A text of an image, as far as it can be one: without control characters, and of a bearable length. `None` for an
/// empty one.
pub(super) fn text(given: &str) -> Option<String> {
    let kept = given.trim().chars().filter(|letter| !letter.is_control());
    let kept: String = kept.take(LONGEST_TEXT).collect();
    (!kept.is_empty() && kept != "UNKNOWN").then_some(kept)
}

/// The fields of a description in the form of mail headers, up to its first empty line, and what is behind that.
pub(super) fn headers(bytes: &[u8]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let line = String::from_utf8_lossy(line);
        match (line.starts_with([' ', '\t']), fields.last_mut(), line.split_once(':')) {
            // Descriptions go on; nothing that is wanted does.
            (true, _, _) => {}
            (false, _, Some((key, value))) => fields.push((key.trim().to_owned(), value.trim().to_owned())),
            (false, _, None) => {}
        }
    }
    fields
}

/// The first value of a field, whatever the case of its name.
pub(super) fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}
