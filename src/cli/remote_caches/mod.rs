//! `--cache-from` and `--cache-to`: which caches a build shares with other machines, in buildx's grammar.
//!
//! A type of cache is a variant of [`Place`]: what its keys are ([`Place::read`]), and how it is opened.

mod fields;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use self::fields::Fields;
use super::failure::Failure;
use crate::cache::remote::{Destination, Directory, ExportMode, OnFailure, RemoteCache, Remotes};

/// The types that are there.
const KINDS: &str = "local";
/// Types of buildx that are not.
const MISSING: [&str; 3] = ["gha", "azblob", "gcs"];

/// One `--cache-from`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CacheSource {
    place: Place,
}

/// One `--cache-to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CacheDestination {
    place: Place,
    mode: ExportMode,
    on_failure: OnFailure,
}

/// Which way results go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    From,
    To,
}

/// Where a cache is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// In a directory.
    Local(PathBuf),
}

impl Place {
    /// Takes the type out of `fields`, and the keys that only this type has.
    fn read(fields: &mut Fields, direction: Direction) -> Result<Self, String> {
        let kind = fields
            .take("type")
            .ok_or_else(|| format!("a cache needs a type: {KINDS}"))?;
        let place = match kind.as_str() {
            "local" => Self::local(fields, direction),
            missing if MISSING.contains(&missing) => {
                return Err(format!("type={missing} is not there; these are: {KINDS}"));
            }
            other => {
                return Err(format!("`{other}` is no type of cache that is known here: {KINDS}"));
            }
        };
        place.map_err(|reason| format!("type={kind}: {reason}"))
    }

    fn local(fields: &mut Fields, direction: Direction) -> Result<Self, String> {
        let key = match direction {
            Direction::From => "src",
            Direction::To => "dest",
        };
        fields.need(key, "DIRECTORY").map(|path| Self::Local(path.into()))
    }

    fn open(&self) -> Result<Arc<dyn RemoteCache>, Failure> {
        Ok(match self {
            Self::Local(path) => Arc::new(Directory::new(path.clone())),
        })
    }
}

impl FromStr for CacheSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = Fields::read(text)?;
        let place = Place::read(&mut fields, Direction::From)?;
        fields.finish()?;
        Ok(Self { place })
    }
}

impl FromStr for CacheDestination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = Fields::read(text)?;
        let place = Place::read(&mut fields, Direction::To)?;
        let mode = match fields.take("mode").as_deref() {
            None | Some("min") => ExportMode::Min,
            Some("max") => ExportMode::Max,
            Some(other) => return Err(format!("mode={other}: it is min or max")),
        };
        let on_failure = match fields.take_bool("ignore-error")? {
            None | Some(true) => OnFailure::Warn,
            Some(false) => OnFailure::Fail,
        };
        fields.finish()?;
        Ok(Self {
            place,
            mode,
            on_failure,
        })
    }
}

/// The caches of a build.
pub(super) fn open(from: &[CacheSource], to: &[CacheDestination]) -> Result<Remotes, Failure> {
    let destination = |destination: &CacheDestination| {
        Ok(Destination {
            cache: destination.place.open()?,
            mode: destination.mode,
            on_failure: destination.on_failure,
        })
    };
    Ok(Remotes {
        from: from
            .iter()
            .map(|source| source.place.open())
            .collect::<Result<_, Failure>>()?,
        to: to.iter().map(destination).collect::<Result<_, Failure>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_as_with_buildx() {
        let place = Place::Local("/c".into());
        assert_eq!("type=local,src=/c".parse(), Ok(CacheSource { place: place.clone() }));
        let destination = |mode, on_failure| {
            let place = place.clone();
            Ok(CacheDestination {
                place,
                mode,
                on_failure,
            })
        };
        for (text, expected) in [
            ("type=local,dest=/c", destination(ExportMode::Min, OnFailure::Warn)),
            (
                "type=local,dest=/c,mode=max,ignore-error=true",
                destination(ExportMode::Max, OnFailure::Warn),
            ),
            (
                "type=local,\"dest=/c\",ignore-error=false",
                destination(ExportMode::Min, OnFailure::Fail),
            ),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, reason) in [
            ("", "has no value"),
            ("type=local", "type=local: it needs src=DIRECTORY"),
            ("src=/c", "a cache needs a type"),
            ("type=local,src=", "it needs src=DIRECTORY"),
            ("type=moon,src=/c", "`moon` is no type of cache"),
            ("type=gha", "type=gha is not there"),
            ("type=local,src=/c,dest=/c", "`dest` is not one of type, src"),
        ] {
            let error = text.parse::<CacheSource>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        for (text, reason) in [
            ("type=local", "it needs dest=DIRECTORY"),
            ("type=local,dest=/c,mode=most", "mode=most: it is min or max"),
            ("type=local,dest=/c,ignore-error=perhaps", "it is true or false"),
            ("type=local,src=/c", "it needs dest=DIRECTORY"),
            (
                "type=local,dest=/c,x=1",
                "`x` is not one of type, dest, mode, ignore-error",
            ),
        ] {
            let error = text.parse::<CacheDestination>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
