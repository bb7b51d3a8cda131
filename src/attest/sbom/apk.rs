//! Alpine packages: `lib/apk/db/installed`.
//!
//! apk-tools, "Apk spec", the installed database: one letter, a colon, a value; `F:` begins a directory, `R:` a file of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::package::{Kind, Package, text};
use super::{Broken, LARGEST_DATABASE, LayerFiles, Release, Scanned, fixed, with_layers};
use crate::snapshot::{ContainerPath, Rootfs};

/// Where the database is, or was in older versions.
pub(super) const DATABASES: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];

/// The packages of a database.
pub(super) fn scan(view: &Rootfs, layers: &[LayerFiles], release: &Release, path: &str) -> Scanned {
    let path = fixed(path);
    let read = |root: &Rootfs| -> Result<Vec<Package>, Broken> {
        Ok(parse(&root.read_file(&path, LARGEST_DATABASE)?, &path, release))
    };
    let packages = read(view).map(|packages| with_layers(layers, &path, packages, |root| read(root).ok()));
    Scanned::of(&path, packages)
}

/// One package's lines so far.
#[derive(Default)]
struct Entry {
    name: String,
    version: String,
    architecture: String,
    origin: String,
    license: Option<String>,
    supplier: Option<String>,
    homepage: Option<String>,
    checksum: Option<String>,
    directory: String,
    files: Vec<String>,
}

fn parse(bytes: &[u8], place: &ContainerPath, release: &Release) -> Vec<Package> {
    let mut packages = Vec::new();
    let mut entry = Entry::default();
    for line in bytes.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        let line = String::from_utf8_lossy(line);
        let Some((key, value)) = line.split_once(':') else {
            packages.extend(std::mem::take(&mut entry).package(place, release));
            continue;
        };
        let value = value.to_owned();
        match key {
            "P" => entry.name = value,
            "V" => entry.version = value,
            "A" => entry.architecture = value,
            "o" => entry.origin = value,
            "L" => entry.license = text(&value),
            "m" => entry.supplier = text(&value),
            "U" => entry.homepage = text(&value),
            "C" => entry.checksum = sha1(&value),
            "F" => entry.directory = value,
            "R" => entry.files.push(format!("/{}/{value}", entry.directory)),
            _ => {}
        }
    }
    packages
}

impl Entry {
    fn package(self, place: &ContainerPath, release: &Release) -> Option<Package> {
        let namespace = if release.id.is_empty() {
            "alpine"
        } else {
            release.id.as_str()
        };
        let qualifiers = [
            ("arch", self.architecture.as_str()),
            ("distro", release.distro.as_str()),
            ("upstream", self.origin.as_str()),
        ];
        let mut package = Package::new(Kind::Apk, namespace, &self.name, &self.version, &qualifiers, place)?;
        package.license = self.license;
        package.supplier = self.supplier;
        package.homepage = self.homepage;
        package.checksums = self.checksum.map(|digits| ("SHA1", digits)).into_iter().collect();
        package.files = self.files;
        Some(package)
    }
}

/// `Q1` and base64: a SHA-1 of the package's control part.
fn sha1(value: &str) -> Option<String> {
    let bytes = STANDARD.decode(value.strip_prefix("Q1")?).ok()?;
    (bytes.len() == 20).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_read() {
        let database = "C:Q1p78yvTLG094tHE1+dToJGbmYzQE=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nU:https://musl.libc.org/\n\
                        m:A B <a@b>\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\nZ:Q1x=\n\nV:1\n\nP:busybox\nV:1.36\n";
        let packages = parse(database.as_bytes(), &fixed(DATABASES[0]), &Release::default());
        assert_eq!(packages.len(), 2);
        assert_eq!(
            packages[0].purl,
            "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&upstream=musl"
        );
        assert_eq!(packages[0].files, ["/lib/ld-musl-x86_64.so.1"]);
        assert_eq!(packages[0].checksums[0].1.len(), 40);
        assert_eq!(packages[0].license.as_deref(), Some("MIT"));
        assert_eq!(packages[1].name, "busybox");
    }
}
