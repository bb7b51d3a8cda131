//! The files that packages own, as far as they are in the image: with their digests, which SPDX asks for.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use rayon::prelude::*;
use sha1::{Digest as _, Sha1};

use super::layers::{LayerFiles, place_of};
use super::package::Package;
use crate::oci::DiffId;
use crate::snapshot::{ContainerPath, Kind, Rootfs};

/// Files that are listed, at most: beyond, none is.
const MOST_FILES: usize = 100_000;
/// Links that are followed on the way to a file.
const MOST_LINKS: usize = 40;
/// Bytes that are digested at a time.
const PIECE: usize = 256 << 10;

/// Files by their paths, and to each package the places of its own, in the order of the packages.
#[derive(Debug, Default)]
pub(super) struct Owned {
    pub(super) files: Vec<OwnedFile>,
    pub(super) by_package: Vec<Vec<usize>>,
}

/// A file of the image that a package owns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OwnedFile {
    /// Where it is, without links on the way.
    pub(super) path: ContainerPath,
    /// Hexadecimal digits.
    pub(super) sha1: String,
    pub(super) layer: Option<DiffId>,
}

/// Looks at what packages own. Their lists of names go.
pub(super) fn owned(view: &Rootfs, layers: &[LayerFiles], packages: &mut [Package]) -> (Owned, Option<String>) {
    let listed: usize = packages.iter().map(|package| package.files.len()).sum();
    let names: Vec<Vec<String>> = packages
        .iter_mut()
        .map(|package| std::mem::take(&mut package.files))
        .collect();
    if listed > MOST_FILES {
        let warning = format!("packages own {listed} files, and none is listed: at most {MOST_FILES} are");
        return (Owned::default(), Some(warning));
    }
    let mut directories = Directories::new(view);
    let mut files: BTreeMap<ContainerPath, Vec<usize>> = BTreeMap::new();
    for (package, names) in names.iter().enumerate() {
        for name in names {
            if let Some(path) = directories.canonical(name) {
                let owners = files.entry(path).or_default();
                if owners.last() != Some(&package) {
                    owners.push(package);
                }
            }
        }
    }
    let digested: Vec<Option<(OwnedFile, Vec<usize>)>> = files
        .into_par_iter()
        .map(|(path, owners)| {
            // The layer has it still where the image does not any more.
            is_regular(view, &path).then_some(())?;
            let place = place_of(layers, &path);
            let sha1 = match place.and_then(|place| place.known.sha1(&path)) {
                Some(known) => known,
                None => {
                    let sha1 = digest(view, &path)?;
                    if let Some(place) = place {
                        place.known.learn_sha1(&path, &sha1);
                    }
                    sha1
                }
            };
            let layer = place.and_then(|place| place.layer);
            Some((OwnedFile { path, sha1, layer }, owners))
        })
        .collect();
    let mut found = Owned {
        files: Vec::new(),
        by_package: vec![Vec::new(); packages.len()],
    };
    for (file, owners) in digested.into_iter().flatten() {
        for owner in owners {
            found.by_package[owner].push(found.files.len());
        }
        found.files.push(file);
    }
    (found, None)
}

fn is_regular(view: &Rootfs, path: &ContainerPath) -> bool {
    let found = view.lstat(path).ok();
    found.is_some_and(|found| Kind::of_mode(found.st_mode) == Some(Kind::Regular))
}

/// The digest of a regular file.
fn digest(view: &Rootfs, path: &ContainerPath) -> Option<String> {
    let mut file = view.open_regular(path).ok()?;
    let (mut hash, mut buffer) = (Sha1::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Some(hex(&hash.finalize()))
}

/// The digest over the digests of a package's files: SPDX 2.3, 7.9.
pub(super) fn verification_code<'a>(digests: impl Iterator<Item = &'a str>) -> String {
    let mut digests: Vec<&str> = digests.collect();
    digests.sort_unstable();
    hex(&Sha1::digest(digests.concat().as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Directories as databases name them, and where they really are: `/bin` is `/usr/bin` in many images.
struct Directories<'a> {
    view: &'a Rootfs,
    known: HashMap<ContainerPath, Option<ContainerPath>>,
}

impl<'a> Directories<'a> {
    fn new(view: &'a Rootfs) -> Self {
        let known = HashMap::new();
        Self { view, known }
    }

    /// Where a file is whose directory may be named through links.
    fn canonical(&mut self, name: &str) -> Option<ContainerPath> {
        let named = ContainerPath::new(name).ok()?;
        let (directory, own) = (named.parent()?, named.file_name()?.to_owned());
        let real = match self.known.get(&directory) {
            Some(known) => known.clone()?,
            None => {
                let real = self.resolve(&directory);
                self.known.insert(directory, real.clone());
                real?
            }
        };
        real.join(own).ok()
    }

    fn resolve(&self, directory: &ContainerPath) -> Option<ContainerPath> {
        let mut pending: Vec<Vec<u8>> = directory.components().rev().map(<[u8]>::to_vec).collect();
        let (mut real, mut links) = (ContainerPath::root(), 0);
        while let Some(component) = pending.pop() {
            if component == b".." {
                real = real.parent().unwrap_or_default();
                continue;
            }
            let next = real.join(OsStr::from_bytes(&component)).ok()?;
            match self.view.read_link(&next) {
                Ok(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    if target.as_bytes().starts_with(b"/") {
                        real = ContainerPath::root();
                    }
                    let target = ContainerPath::new(OsStr::from_bytes(target.as_bytes())).ok()?;
                    pending.extend(target.components().rev().map(<[u8]>::to_vec));
                }
                Err(error) if error.is_not_found() && self.view.lstat(&next).is_err() => return None,
                Err(_) => real = next,
            }
        }
        Some(real)
    }
}
