//! npm packages: `package.json` of what is installed in `node_modules`, and `package-lock.json`.
//!
//! npm documentation, "package.json" and "package-lock.json" (lock file versions 1 to 3).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::package::{Checksum, Kind, Package, text};
use super::{Broken, LARGEST_DESCRIPTION};
use crate::snapshot::{ContainerPath, Rootfs};

/// Bytes of a lock file.
const LARGEST_LOCK: u64 = 64 << 20;
/// How deep lock files of version 1 may be nested.
const DEEPEST: usize = 64;
const DIRECTORY: &str = "node_modules/";

/// What is installed.
pub(super) fn read_package(view: &Rootfs, path: &ContainerPath) -> Result<Vec<Package>, Broken> {
    let described = parse(&view.read_file(path, LARGEST_DESCRIPTION)?)?;
    // Directories within a package have such files too, which say nothing but how modules are read.
    let Some(name) = described.get("name").and_then(Value::as_str) else {
        return Ok(Vec::new());
    };
    let version = described.get("version").and_then(Value::as_str).unwrap_or_default();
    let Some(mut found) = package(name, version, path) else {
        return Ok(Vec::new());
    };
    found.license = license(described.get("license"));
    found.supplier = person(described.get("author"));
    found.homepage = described.get("homepage").and_then(Value::as_str).and_then(text);
    Ok(vec![found])
}

/// What a lock file names.
pub(super) fn read_lock(view: &Rootfs, path: &ContainerPath) -> Result<Vec<Package>, Broken> {
    let lock = parse(&view.read_file(path, LARGEST_LOCK)?)?;
    let mut packages = Vec::new();
    if let Some(Value::Object(listed)) = lock.get("packages") {
        for (place, described) in listed {
            // What lies elsewhere is the project's own.
            let Some(start) = place.rfind(DIRECTORY) else { continue };
            let name = described.get("name").and_then(Value::as_str);
            add(
                &mut packages,
                name.unwrap_or(&place[start + DIRECTORY.len()..]),
                described,
                path,
            );
        }
    } else if let Some(Value::Object(listed)) = lock.get("dependencies") {
        nested(&mut packages, listed, path, 0);
    }
    Ok(packages)
}

fn nested(packages: &mut Vec<Package>, listed: &Map<String, Value>, path: &ContainerPath, depth: usize) {
    for (name, described) in listed {
        add(packages, name, described, path);
        if let Some(Value::Object(below)) = described.get("dependencies")
            && depth < DEEPEST
        {
            nested(packages, below, path, depth + 1);
        }
    }
}

fn add(packages: &mut Vec<Package>, name: &str, described: &Value, path: &ContainerPath) {
    let Some(version) = described.get("version").and_then(Value::as_str) else {
        return;
    };
    if let Some(mut found) = package(name, version, path) {
        found.license = license(described.get("license"));
        found.checksums = integrity(described.get("integrity")).into_iter().collect();
        packages.push(found);
    }
}

/// `@scope/name` has its scope as a namespace.
fn package(name: &str, version: &str, path: &ContainerPath) -> Option<Package> {
    let (scope, bare) = match name.split_once('/') {
        Some((scope, bare)) if scope.starts_with('@') => (scope, bare),
        _ => ("", name),
    };
    let mut package = Package::new(Kind::Npm, scope, bare, version, &[], path)?;
    package.name = text(name)?;
    Some(package)
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Broken> {
    // The parser itself bounds how deep documents are nested.
    serde_json::from_slice(bytes).map_err(|_| Broken::Malformed("it is no JSON object"))
}

/// An expression, or an object of old.
fn license(value: Option<&Value>) -> Option<String> {
    let value = value?;
    let kind = value.get("type").unwrap_or(value);
    kind.as_str().and_then(text)
}

/// `Name <address> (page)`, or an object.
fn person(value: Option<&Value>) -> Option<String> {
    let value = value?;
    let name = value.get("name").unwrap_or(value).as_str()?;
    text(name.split('(').next().unwrap_or(name))
}

/// Subresource integrity: `sha512-` and base64.
fn integrity(value: Option<&Value>) -> Option<Checksum> {
    let (algorithm, digest) = value?.as_str()?.split_whitespace().next()?.split_once('-')?;
    let (algorithm, length) = match algorithm {
        "sha1" => ("SHA1", 20),
        "sha256" => ("SHA256", 32),
        "sha384" => ("SHA384", 48),
        "sha512" => ("SHA512", 64),
        _ => return None,
    };
    let bytes = STANDARD.decode(digest).ok().filter(|bytes| bytes.len() == length)?;
    Some((algorithm, bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}
