//! Rust packages: `Cargo.lock`, and what `cargo auditable` leaves in programs.
//!
//! The Cargo Book, "Cargo.toml vs Cargo.lock"; cargo-auditable, "PARSING.md".

use std::io::Read;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::Broken;
use super::package::{Kind, Package};
use crate::snapshot::{ContainerPath, Rootfs};

/// Bytes of a lock file.
const LARGEST_LOCK: u64 = 16 << 20;
/// Bytes that the list in a program may have, unpacked.
const LARGEST_LIST: u64 = 8 << 20;

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// What a lock file names.
pub(super) fn read_lock(view: &Rootfs, path: &ContainerPath) -> Result<Vec<Package>, Broken> {
    let bytes = view.read_file(path, LARGEST_LOCK)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Broken::Malformed("it is no text"))?;
    let lock: Lock = toml::from_str(text).map_err(|_| Broken::Malformed("it is no lock file"))?;
    let package = |locked: Locked| {
        let mut package = Package::new(Kind::Cargo, "", &locked.name, &locked.version, &[], path)?;
        let digits = |digits: &String| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        package.checksums = locked
            .checksum
            .filter(digits)
            .map(|digits| ("SHA256", digits))
            .into_iter()
            .collect();
        Some(package)
    };
    Ok(lock.package.into_iter().filter_map(package).collect())
}

#[derive(Deserialize)]
struct Audit {
    #[serde(default)]
    packages: Vec<Audited>,
}

#[derive(Deserialize)]
struct Audited {
    name: String,
    version: String,
    /// `runtime`, or `build`: that is in no program.
    kind: Option<String>,
}

/// What the section `.dep-v0` of a program names.
pub(super) fn audited(section: &[u8], path: &ContainerPath) -> Result<Vec<Package>, Broken> {
    let mut list = Vec::new();
    let unpacked = ZlibDecoder::new(section).take(LARGEST_LIST).read_to_end(&mut list);
    unpacked.map_err(|_| Broken::Malformed("its list of crates is not compressed"))?;
    let audit: Audit =
        serde_json::from_slice(&list).map_err(|_| Broken::Malformed("its list of crates cannot be read"))?;
    let in_program = audit.packages.iter().filter(|own| own.kind.as_deref() != Some("build"));
    let package = |own: &Audited| Package::new(Kind::Cargo, "", &own.name, &own.version, &[], path);
    Ok(in_program.filter_map(package).collect())
}
