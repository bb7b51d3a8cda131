//! Debian packages: `/var/lib/dpkg/status`, or one file for each package in `status.d`, as images without dpkg have it.
//!
//! dpkg(1), "FILES"; deb-control(5).

use super::package::{Kind, Package, field, headers, text};
use super::{Broken, LARGEST_DATABASE, LARGEST_DESCRIPTION, LayerFiles, Release, Scanned, fixed, with_layers};
use crate::snapshot::{ContainerPath, Rootfs};

const STATUS: &str = "/var/lib/dpkg/status";
const PARTS: &str = "/var/lib/dpkg/status.d";
const INFO: &str = "/var/lib/dpkg/info";
/// Files in `status.d` that are read.
const MOST_PARTS: usize = 10_000;

/// The packages of the database.
pub(super) fn scan(view: &Rootfs, layers: &[LayerFiles], release: &Release) -> Scanned {
    let path = fixed(STATUS);
    let read = |root: &Rootfs| -> Result<Vec<Package>, Broken> {
        Ok(parse(&root.read_file(&path, LARGEST_DATABASE)?, &path, release))
    };
    let packages = read(view).map(|packages| {
        let mut packages = with_layers(layers, &path, packages, |root| read(root).ok());
        for package in &mut packages {
            package.files = listed(view, package);
        }
        packages
    });
    Scanned::of(&path, packages)
}

/// The packages of the database in parts.
pub(super) fn scan_parts(view: &Rootfs, layers: &[LayerFiles], release: &Release) -> Scanned {
    let directory = fixed(PARTS);
    let names = match view.read_dir(&directory) {
        Ok(names) => names,
        Err(error) => return Scanned::of(&directory, Err(error.into())),
    };
    let mut packages = Vec::new();
    for entry in names.iter().take(MOST_PARTS) {
        let Ok(name) = entry.name.to_str() else { continue };
        let Ok(path) = directory.join(name) else { continue };
        if name.ends_with(".md5sums") {
            continue;
        }
        let Ok(bytes) = view.read_file(&path, LARGEST_DESCRIPTION) else {
            continue;
        };
        let sums = directory.join(format!("{name}.md5sums")).ok();
        for mut package in parse(&bytes, &path, release) {
            package.files = sums.iter().flat_map(|sums| summed(view, sums)).collect();
            package.layer = super::layers::layer_of(layers, &path);
            packages.push(package);
        }
    }
    Scanned {
        packages,
        warning: None,
    }
}

/// The paragraphs that stand for what is installed.
fn parse(bytes: &[u8], place: &ContainerPath, release: &Release) -> Vec<Package> {
    let mut packages = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\n\n");
        let (paragraph, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 2..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        packages.extend(package(&headers(paragraph), place, release));
    }
    packages
}

fn package(fields: &[(String, String)], place: &ContainerPath, release: &Release) -> Option<Package> {
    let name = field(fields, "Package")?;
    // Without a status it is a part of `status.d`, which holds nothing else.
    let status = field(fields, "Status").unwrap_or("install ok installed");
    if !status.ends_with(" installed") {
        return None;
    }
    let version = field(fields, "Version").unwrap_or_default();
    let architecture = field(fields, "Architecture").unwrap_or_default();
    let upstream = field(fields, "Source")
        .unwrap_or_default()
        .replace([' ', '(', ')'], "@");
    let upstream = upstream.trim_end_matches('@').replace("@@", "@");
    let namespace = if release.id.is_empty() {
        "debian"
    } else {
        release.id.as_str()
    };
    let qualifiers = [
        ("arch", architecture),
        ("distro", release.distro.as_str()),
        ("upstream", upstream.as_str()),
    ];
    let mut package = Package::new(Kind::Deb, namespace, name, version, &qualifiers, place)?;
    package.supplier = field(fields, "Maintainer").and_then(text);
    package.homepage = field(fields, "Homepage").and_then(text);
    Some(package)
}

/// The files that the database lists for a package.
fn listed(view: &Rootfs, package: &Package) -> Vec<String> {
    let architecture = package.purl.split_once("arch=").map_or("", |(_, rest)| rest);
    let architecture = architecture.split('&').next().unwrap_or_default();
    let candidates = [
        format!("{INFO}/{}.list", package.name),
        format!("{INFO}/{}:{architecture}.list", package.name),
    ];
    for path in candidates {
        let Ok(path) = ContainerPath::new(path) else { continue };
        if let Ok(bytes) = view.read_file(&path, LARGEST_DESCRIPTION) {
            return String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
        }
    }
    Vec::new()
}

/// The files of a list of checksums: `<digits>  usr/bin/x`.
fn summed(view: &Rootfs, path: &ContainerPath) -> Vec<String> {
    let bytes = view.read_file(path, LARGEST_DESCRIPTION).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let names = text.lines().filter_map(|line| line.split_once("  "));
    names.map(|(_, name)| format!("/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_listed() {
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-9)\n\
                      Version: 2.36-9+deb12u4\nMaintainer: GNU Libc <a@b>\nDescription: x\n y: z\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nno field\n\nPackage:\n";
        let release = Release {
            id: "debian".into(),
            distro: "debian-12".into(),
        };
        let packages = parse(status.as_bytes(), &fixed(STATUS), &release);
        let purls: Vec<&str> = packages.iter().map(|package| package.purl.as_str()).collect();
        assert_eq!(
            purls,
            ["pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12&upstream=glibc%402.36-9"]
        );
        assert_eq!(packages[0].supplier.as_deref(), Some("GNU Libc <a@b>"));
        assert!(parse(b"\n\n\n\xff\xfe", &fixed(STATUS), &release).is_empty());
    }
}
