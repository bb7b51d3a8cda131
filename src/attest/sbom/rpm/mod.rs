//! RPM packages: the database in SQLite (since rpm 4.16), in rpm's own format (`ndb`, SUSE's), or in Berkeley DB (before).

mod berkeley;
mod header;
mod ndb;
mod sqlite;

use super::package::{Kind, Package, text};
use super::{Broken, LayerFiles, Release, Scanned, fixed, with_layers};
use crate::snapshot::{ContainerPath, Rootfs};

use header::Header;

/// How a database is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Sqlite,
    Ndb,
    BerkeleyDb,
}

/// Where databases are, and in which format.
pub(super) const DATABASES: [(&str, Format); 6] = [
    ("/var/lib/rpm/rpmdb.sqlite", Format::Sqlite),
    ("/usr/lib/sysimage/rpm/rpmdb.sqlite", Format::Sqlite),
    ("/var/lib/rpm/Packages.db", Format::Ndb),
    ("/usr/lib/sysimage/rpm/Packages.db", Format::Ndb),
    ("/var/lib/rpm/Packages", Format::BerkeleyDb),
    ("/usr/lib/sysimage/rpm/Packages", Format::BerkeleyDb),
];
/// Bytes of a database that is read as a whole.
const LARGEST: u64 = 512 << 20;
/// Keys that signatures are checked with are kept as if they were packages.
const KEY: &str = "gpg-pubkey";

/// The packages of a database.
pub(super) fn scan(view: &Rootfs, layers: &[LayerFiles], release: &Release, path: &str, format: Format) -> Scanned {
    let path = fixed(path);
    let read = |root: &Rootfs| read(root, &path, format, release);
    let packages = read(view).map(|packages| with_layers(layers, &path, packages, |root| read(root).ok()));
    Scanned::of(&path, packages)
}

fn read(root: &Rootfs, path: &ContainerPath, format: Format, release: &Release) -> Result<Vec<Package>, Broken> {
    let mut packages = Vec::new();
    let mut add = |blob: &[u8]| {
        packages.extend(Header::parse(blob).and_then(|header| package(&header, path, release)));
    };
    match format {
        Format::Sqlite => sqlite::each(root.open_regular(path)?, &mut add)?,
        Format::Ndb => ndb::each(&root.read_file(path, LARGEST)?, &mut add)?,
        Format::BerkeleyDb => berkeley::each(&root.read_file(path, LARGEST)?, &mut add)?,
    }
    Ok(packages)
}

fn package(header: &Header<'_>, place: &ContainerPath, release: &Release) -> Option<Package> {
    let name = header.text(header::NAME).filter(|name| name != KEY)?;
    let version = header.text(header::VERSION)?;
    let version = match header.text(header::RELEASE) {
        Some(number) => format!("{version}-{number}"),
        None => version,
    };
    let epoch = header
        .number(header::EPOCH)
        .map(|epoch| epoch.to_string())
        .unwrap_or_default();
    let architecture = header.text(header::ARCHITECTURE).unwrap_or_default();
    let upstream = header.text(header::SOURCE).unwrap_or_default();
    let qualifiers = [
        ("arch", architecture.as_str()),
        ("distro", release.distro.as_str()),
        ("epoch", epoch.as_str()),
        ("upstream", upstream.as_str()),
    ];
    let mut package = Package::new(Kind::Rpm, &release.id, &name, &version, &qualifiers, place)?;
    package.license = header.text(header::LICENSE).as_deref().and_then(text);
    package.supplier = header.text(header::VENDOR).as_deref().and_then(text);
    package.homepage = header.text(header::URL).as_deref().and_then(text);
    package.files = header.files();
    Some(package)
}
