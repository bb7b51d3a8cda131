//! Which packages are in an image: what package databases, installed packages and lock files in it say.
//!
//! `find` walks the files, the ecosystems' own files read what was found, `layers` says which layer brought it, `files`
//! looks at what packages own, `spdx` writes it down; `generated` reads what others wrote down, `known` what
//! was found before. Everything read is an image's: bounded, and never executed.

mod apk;
mod cargo;
mod dpkg;
mod elf;
mod files;
mod find;
mod generated;
mod go;
mod known;
mod layers;
mod license;
mod node;
mod package;
mod python;
mod rpm;
mod spdx;
mod subjects;

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::oci::DiffId;
use crate::snapshot::{ContainerPath, Rootfs, RootfsError};

use find::Found;
pub use generated::{Generated, GeneratedDocument, GeneratedError, generated};
pub use known::{Findings, KnownDocument};
pub use layers::LayerFiles;
use package::{Kind, Package};
pub use spdx::{Subject, document};
pub use subjects::file_subjects;

/// Packages of one image, at most.
const MOST_PACKAGES: usize = 100_000;
/// Bytes of a package database or lock file.
const LARGEST_DATABASE: u64 = 256 << 20;
/// Bytes of what describes one package.
const LARGEST_DESCRIPTION: u64 = 4 << 20;
/// Bytes of `os-release`.
const LARGEST_RELEASE: u64 = 64 << 10;

/// What was found in an image.
#[derive(Debug, Default)]
pub struct Inventory {
    packages: Vec<Package>,
    files: files::Owned,
    /// What could not be read, or was left out.
    pub warnings: Vec<String>,
}

impl Inventory {
    /// How many packages there are.
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }
}

/// Which distribution the image is of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Release {
    /// `debian`, `alpine`…; empty where nothing says so.
    id: String,
    /// `debian-12`; empty where nothing says so.
    distro: String,
}

/// Looks for packages in the file system `view`, whose layers are `layers`, lowest first.
pub fn scan(view: &Rootfs, layers: &[LayerFiles]) -> Inventory {
    let release = release(view);
    let (found, mut warnings) = find::walk(view);
    let mut scanned = databases(view, layers, &release);
    let others: Vec<Scanned> = found.par_iter().map(|found| read(view, layers, found)).collect();
    scanned.extend(others);
    let mut packages = BTreeMap::new();
    for Scanned { packages: own, warning } in scanned {
        warnings.extend(warning);
        for mut package in own {
            if package.layer.is_none() {
                package.layer = layers::layer_of(layers, &package.places[0]);
            }
            merge(&mut packages, package);
        }
    }
    let mut packages: Vec<Package> = packages.into_values().collect();
    if packages.len() > MOST_PACKAGES {
        warnings.push(format!(
            "there are {} packages; {MOST_PACKAGES} of them are listed",
            packages.len()
        ));
        packages.truncate(MOST_PACKAGES);
    }
    let (files, left_out) = files::owned(view, layers, &mut packages);
    warnings.extend(left_out);
    Inventory {
        packages,
        files,
        warnings,
    }
}

/// One package that several places tell of is one package.
fn merge(packages: &mut BTreeMap<(Kind, String), Package>, package: Package) {
    match packages.entry((package.kind, package.purl.clone())) {
        std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(package)),
        std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().also(package),
    }
}

/// What one place gave.
#[derive(Default)]
struct Scanned {
    packages: Vec<Package>,
    /// Why it gave less than it may have.
    warning: Option<String>,
}

impl Scanned {
    /// What `path` gave, or that it is broken.
    fn of(path: &ContainerPath, result: Result<Vec<Package>, Broken>) -> Self {
        match result {
            Ok(packages) => Self {
                packages,
                warning: None,
            },
            Err(Broken::NotThere) => Self::default(),
            Err(broken) => Self {
                packages: Vec::new(),
                warning: Some(format!("{path} is left out: {broken}")),
            },
        }
    }
}

/// Why a place tells nothing.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// It is not there.
    #[error("it is not there")]
    NotThere,
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(RootfsError),
    /// It is not what its name says.
    #[error("it is malformed ({0})")]
    Malformed(&'static str),
}

impl From<RootfsError> for Broken {
    fn from(error: RootfsError) -> Self {
        match error.is_not_found() {
            true => Self::NotThere,
            false => Self::Unreadable(error),
        }
    }
}

/// The databases that lie where they always lie.
fn databases(view: &Rootfs, layers: &[LayerFiles], release: &Release) -> Vec<Scanned> {
    let mut scanned = vec![
        dpkg::scan(view, layers, release),
        dpkg::scan_parts(view, layers, release),
    ];
    scanned.extend(apk::DATABASES.map(|path| apk::scan(view, layers, release, path)));
    scanned.extend(rpm::DATABASES.map(|(path, format)| rpm::scan(view, layers, release, path, format)));
    scanned
}

/// Reads what lies anywhere.
fn read(view: &Rootfs, layers: &[LayerFiles], found: &Found) -> Scanned {
    let path = found.path();
    if let Found::Executable(path) = found {
        return program(view, layers, path);
    }
    Scanned::of(
        path,
        match found {
            Found::Python(path) => python::read(view, path),
            Found::NodePackage(path) => node::read_package(view, path),
            Found::NodeLock(path) => node::read_lock(view, path),
            Found::CargoLock(path) => cargo::read_lock(view, path),
            Found::Executable(path) => elf::read(view, path),
        },
    )
}

/// Most programs tell nothing, which is remembered.
fn program(view: &Rootfs, layers: &[LayerFiles], path: &ContainerPath) -> Scanned {
    let layer = layers::place_of(layers, path);
    if layer.is_some_and(|layer| layer.known.is_mute(path)) {
        return Scanned::default();
    }
    let read = elf::read(view, path);
    if let (Some(layer), Ok([])) = (layer, read.as_deref()) {
        layer.known.learn_mute(path);
    }
    Scanned::of(path, read)
}

/// The packages of one database, each with the layer that brought it: the lowest one from which on it is in every
/// version of the database, as it is now.
fn with_layers(
    layers: &[LayerFiles],
    path: &ContainerPath,
    mut packages: Vec<Package>,
    parse: impl Fn(&Rootfs) -> Option<Vec<Package>>,
) -> Vec<Package> {
    let mut versions = layers.iter().rev().filter_map(|layer| {
        let own = layer.roots().find(|root| root.lstat(path).is_ok())?;
        Some((layer.layer, own))
    });
    let Some((newest, _)) = versions.next() else {
        return packages;
    };
    let mut layer_of: Vec<Option<DiffId>> = vec![newest; packages.len()];
    let mut settled = vec![false; packages.len()];
    for (layer, root) in versions.take(layers::MOST_VERSIONS) {
        let Some(before) = parse(root) else { break };
        let before: std::collections::HashSet<&str> = before.iter().map(|package| package.purl.as_str()).collect();
        for (place, package) in packages.iter().enumerate() {
            match before.contains(package.purl.as_str()) {
                true if !settled[place] => layer_of[place] = layer,
                true => {}
                false => settled[place] = true,
            }
        }
    }
    for (package, layer) in packages.iter_mut().zip(layer_of) {
        package.layer = layer;
    }
    packages
}

/// A path that is written here.
fn fixed(path: &str) -> ContainerPath {
    ContainerPath::new(path).expect("no NUL byte")
}

/// os-release(5).
fn release(view: &Rootfs) -> Release {
    let read = |path| view.read_file(&fixed(path), LARGEST_RELEASE).ok();
    let Some(text) = read("/etc/os-release").or_else(|| read("/usr/lib/os-release")) else {
        return Release::default();
    };
    let text = String::from_utf8_lossy(&text);
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches(['"', '\'']).chars().take(64).collect::<String>())
    };
    let id = value("ID").unwrap_or_default();
    let distro = match value("VERSION_ID").filter(|version| !version.is_empty()) {
        Some(version) if !id.is_empty() => format!("{id}-{version}"),
        _ => id.clone(),
    };
    Release { id, distro }
}
