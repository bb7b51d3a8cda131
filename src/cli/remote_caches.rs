//! `--cache-from` and `--cache-to`: which caches a build shares with other machines.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::cache::remote::{Destination, Directory, ExportMode, RemoteCache, Remotes};

/// One `--cache-from`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CacheSource(Place);

/// One `--cache-to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CacheDestination {
    place: Place,
    mode: ExportMode,
}

/// Where a cache is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// In a directory.
    Local(PathBuf),
}

impl Place {
    fn open(&self) -> Arc<dyn RemoteCache> {
        match self {
            Place::Local(path) => Arc::new(Directory::new(path.clone())),
        }
    }

    /// The place that a type and `path`, the value of `key`, are.
    fn of(kind: Option<&str>, key: &str, path: Option<&str>) -> Result<Self, String> {
        match kind {
            Some(_) => match path {
                Some(path) if !path.is_empty() => Ok(Place::Local(path.into())),
                _ => Err(format!("type=local needs {key}=DIRECTORY")),
            },
            None => Err(format!("a cache needs a type: type=local,{key}=DIRECTORY")),
        }
    }
}

/// `key=value` pairs, separated by commas.
fn fields(text: &str) -> Result<Vec<(&str, &str)>, String> {
    text.split(',')
        .map(|field| field.split_once('=').ok_or_else(|| format!("`{field}` has no value")))
        .collect()
}

/// The value of `type`, if it is one that is known: what else may stand there depends on it.
fn kind_in(text: &str) -> Result<Option<&str>, String> {
    let kind = fields(text)?
        .into_iter()
        .rfind(|(key, _)| *key == "type")
        .map(|(_, kind)| kind);
    match kind {
        None | Some("local") => Ok(kind),
        Some(other) => Err(format!("`{other}` is no type of cache that is known here: local")),
    }
}

impl FromStr for CacheSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, mut path) = (kind_in(text)?, None);
        for (key, value) in fields(text)? {
            match key {
                "type" => {}
                "src" => path = Some(value),
                other => return Err(format!("`{other}` is not one of type and src")),
            }
        }
        Place::of(kind, "src", path).map(Self)
    }
}

impl FromStr for CacheDestination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, mut path, mut mode) = (kind_in(text)?, None, ExportMode::default());
        for (key, value) in fields(text)? {
            match (key, value) {
                ("type", _) => {}
                ("dest", _) => path = Some(value),
                ("mode", "min") => mode = ExportMode::Min,
                ("mode", "max") => mode = ExportMode::Max,
                ("mode", _) => return Err(format!("mode={value}: it is min or max")),
                // A cache that fails never fails a build.
                ("ignore-error", "true") => {}
                ("ignore-error", _) => return Err(format!("ignore-error={value}: a cache that fails is warned of")),
                (other, _) => return Err(format!("`{other}` is not one of type, dest, mode and ignore-error")),
            }
        }
        let place = Place::of(kind, "dest", path)?;
        Ok(Self { place, mode })
    }
}

/// The caches of a build.
pub(super) fn open(from: &[CacheSource], to: &[CacheDestination]) -> Remotes {
    let destination = |destination: &CacheDestination| Destination {
        cache: destination.place.open(),
        mode: destination.mode,
    };
    Remotes {
        from: from.iter().map(|source| source.0.open()).collect(),
        to: to.iter().map(destination).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_as_with_buildx() {
        let place = Place::Local("/c".into());
        assert_eq!("type=local,src=/c".parse(), Ok(CacheSource(place.clone())));
        let mode = ExportMode::Max;
        assert_eq!(
            "type=local,dest=/c,mode=max,ignore-error=true".parse(),
            Ok(CacheDestination { place, mode })
        );
        for wrong in [
            "",
            "type=local",
            "src=/c",
            "type=local,src=",
            "type=moon,src=/c",
            "type=local,dest=/c",
            "local",
        ] {
            assert!(wrong.parse::<CacheSource>().is_err(), "{wrong}");
        }
        let unknown = "type=registry,ref=x".parse::<CacheSource>().unwrap_err();
        assert!(unknown.contains("`registry` is no type of cache"), "{unknown}");
        for wrong in ["type=local", "type=local,dest=/c,mode=most", "type=local,src=/c"] {
            assert!(wrong.parse::<CacheDestination>().is_err(), "{wrong}");
        }
    }
}
