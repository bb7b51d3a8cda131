//! Go programs: the modules that the linker writes into them.
//!
//! Go, `debug/buildinfo`: a magic text, then either two texts with their lengths, or, before Go 1.18, the addresses of
//! two texts in memory.

use super::elf::Elf;
use super::package::{Kind, Package};
use crate::snapshot::ContainerPath;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where what follows the magic begins.
const HEADER: usize = 32;
/// Bytes of the list of modules.
const LARGEST_LIST: usize = 8 << 20;
/// Marks before and behind the list.
const SENTINEL: usize = 16;

/// The modules of a program; none where it does not tell.
pub(super) fn packages(elf: &Elf, section: &[u8], path: &ContainerPath) -> Vec<Package> {
    let Some(start) = section.windows(MAGIC.len()).position(|own| own == MAGIC) else {
        return Vec::new();
    };
    let texts = texts(elf, &section[start..]);
    let Some((version, list)) = texts else {
        return Vec::new();
    };
    let mut packages = Vec::new();
    let version = String::from_utf8_lossy(&version);
    if let Some(version) = version.split_whitespace().next().and_then(|own| own.strip_prefix("go")) {
        packages.extend(Package::new(Kind::Golang, "", "stdlib", version, &[], path));
    }
    packages.extend(modules(&String::from_utf8_lossy(&list), path));
    packages
}

/// The compiler's version, and the list.
fn texts(elf: &Elf, info: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (width, flags) = (usize::from(*info.get(14)?), *info.get(15)?);
    let (version, list) = match flags & 2 {
        0 => {
            if width != elf.width() {
                return None;
            }
            let text = |from: usize| {
                let header = elf.at(elf.number(info.get(from..from + width)?), 2 * width as u64)?;
                let (address, size) = (header.get(..width)?, header.get(width..2 * width)?);
                elf.at(elf.number(address), elf.number(size).min(LARGEST_LIST as u64))
            };
            (text(16)?, text(16 + width)?)
        }
        _ => {
            let (version, rest) = counted(info.get(HEADER..)?)?;
            let (list, _) = counted(rest)?;
            (version.to_vec(), list.to_vec())
        }
    };
    let bare = match list.len() > 2 * SENTINEL && list[list.len() - SENTINEL - 1] == b'\n' {
        true => list[SENTINEL..list.len() - SENTINEL].to_vec(),
        false => Vec::new(),
    };
    Some((version, bare))
}

/// A text behind its length, and what comes after it.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift, mut place) = (0_u64, 0, 0);
    loop {
        let byte = *bytes.get(place)?;
        place += 1;
        length |= u64::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
        if shift > 56 {
            return None;
        }
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST_LIST)?;
    let rest = bytes.get(place..)?;
    Some((rest.get(..length)?, rest.get(length..)?))
}

/// `mod` and `dep` lines; `=>` says what took the place of the one before.
fn modules(list: &str, place: &ContainerPath) -> Vec<Package> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for line in list.lines() {
        let mut words = line.split('\t');
        let (Some(kind), Some(path)) = (words.next(), words.next()) else {
            continue;
        };
        let version = words.next().unwrap_or_default();
        match kind {
            "mod" | "dep" => found.push((path, version)),
            "=>" => {
                if let Some(last) = found.last_mut() {
                    *last = (path, version);
                }
            }
            _ => {}
        }
    }
    let package = |(path, version): &(&str, &str)| {
        // What was built from a directory has no version.
        let version = if *version == "(devel)" { "" } else { version };
        let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut package = Package::new(Kind::Golang, namespace, name, version, &[], place)?;
        package.name = super::package::text(path)?;
        Some(package)
    };
    found.iter().filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_those_of_the_list() {
        let place = crate::attest::sbom::fixed("/bin/x");
        let list = "path\texample.com/me\nmod\texample.com/me\t(devel)\t\ndep\tgolang.org/x/sys\tv0.1.0\th1:x\n\
                    dep\tgithub.com/old/mod\tv1.0.0\n=>\tgithub.com/new/mod\tv1.2.0\th1:y\nbuild\t-compiler=gc\n";
        let purls: Vec<String> = modules(list, &place).into_iter().map(|package| package.purl).collect();
        assert_eq!(
            purls,
            [
                "pkg:golang/example.com/me",
                "pkg:golang/golang.org/x/sys@v0.1.0",
                "pkg:golang/github.com/new/mod@v1.2.0"
            ]
        );
    }

    #[test]
    fn lengths_are_not_believed() {
        assert_eq!(counted(b"\x02abc"), Some((&b"ab"[..], &b"c"[..])));
        assert_eq!(counted(b"\x05abc"), None);
        assert_eq!(counted(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), None);
        assert_eq!(counted(b""), None);
    }
}
