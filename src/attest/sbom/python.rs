//! Installed Python packages: `*.dist-info/METADATA`, `*.egg-info/PKG-INFO`, `*.egg-info`.
//!
//! Core metadata specifications; "Recording installed projects".

use super::package::{Kind, Package, field, headers, text};
use super::{Broken, LARGEST_DESCRIPTION};
use crate::snapshot::{ContainerPath, Rootfs};

/// The package that a description tells of.
pub(super) fn read(view: &Rootfs, path: &ContainerPath) -> Result<Vec<Package>, Broken> {
    let fields = headers(&view.read_file(path, LARGEST_DESCRIPTION)?);
    let name = field(&fields, "Name").ok_or(Broken::Malformed("it names no package"))?;
    let version = field(&fields, "Version").unwrap_or_default();
    let Some(mut package) = Package::new(Kind::Pypi, "", &normal(name), version, &[], path) else {
        return Err(Broken::Malformed("it names no package"));
    };
    package.license = field(&fields, "License-Expression")
        .or(field(&fields, "License"))
        .and_then(text);
    package.supplier = field(&fields, "Author")
        .or(field(&fields, "Author-email"))
        .and_then(text);
    package.homepage = field(&fields, "Home-page").and_then(text);
    package.files = recorded(view, path);
    Ok(vec![package])
}

/// Names that mean the same are written in one way: package URL specification, `pypi`.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// The files that were installed, from `RECORD` beside the description; their names are seen from two directories up.
fn recorded(view: &Rootfs, path: &ContainerPath) -> Vec<String> {
    let Some(own) = path.parent() else { return Vec::new() };
    let (Ok(record), Some(root)) = (own.join("RECORD"), own.parent()) else {
        return Vec::new();
    };
    let Ok(bytes) = view.read_file(&record, LARGEST_DESCRIPTION) else {
        return Vec::new();
    };
    let base = String::from_utf8_lossy(root.relative_bytes()).into_owned();
    let text = String::from_utf8_lossy(&bytes);
    let names = text.lines().filter_map(|line| {
        let name = match line.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?.0,
            None => line.split(',').next()?,
        };
        Some(match name.starts_with('/') {
            true => name.to_owned(),
            false => format!("/{base}/{name}"),
        })
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(normal("Foo_Bar.baz"), "foo-bar-baz");
    }
}
