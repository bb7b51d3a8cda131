//! `--cache-from` and `--cache-to`: which caches a build shares with other machines, in buildx's grammar.
//!
//! A type of cache is a variant of [`Place`]: what its keys are ([`Place::read`]), and how it is opened.

mod discreet;
#[cfg(feature = "reapi")]
mod reapi;
#[cfg(feature = "s3")]
mod s3;

use std::cell::OnceCell;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::failure::Failure;
use super::session::Session;
#[cfg(any(feature = "s3", feature = "reapi"))]
use crate::cache::remote::Network;
use crate::cache::remote::{
    BlobCompression, Destination, Directory, ExportMode, OnFailure, Origin, RegistryCache, RemoteCache, Remotes,
    registry,
};
#[cfg(feature = "reapi")]
use crate::cache::remote::{Reapi, ReapiOptions};
#[cfg(feature = "s3")]
use crate::cache::remote::{S3, S3Options};
use crate::cancel::Cancel;
use crate::cli::fields::Fields;
use crate::oci::Reference;
use crate::registry::Client;

/// The types that are there.
const KINDS: &str = "registry, inline, s3, reapi and local";
/// Types of buildx that are not.
const MISSING: [&str; 3] = ["gha", "azblob", "gcs"];
/// The build argument by which docker asks for `type=inline`.
const INLINE_ARGUMENT: &str = "BUILDKIT_INLINE_CACHE";

/// One `--cache-from`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CacheSource {
    place: Place,
    mounts: bool,
}

/// One `--cache-to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum CacheDestination {
    /// The image itself.
    Inline,
    /// A place.
    Place {
        place: Place,
        mode: ExportMode,
        compression: BlobCompression,
        on_failure: OnFailure,
        mounts: bool,
    },
}

/// Which way results go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    From,
    To,
}

/// Where a cache is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In a directory.
    Local(PathBuf),
    /// In a repository of a registry.
    Registry(Reference),
    /// In a bucket.
    #[cfg(feature = "s3")]
    S3(Box<S3Options>),
    /// Behind the Remote Execution API.
    #[cfg(feature = "reapi")]
    Reapi(Box<ReapiOptions>),
}

impl Place {
    /// Takes the keys out of `fields` that only the type `kind` has.
    fn read(kind: &str, fields: &mut Fields, direction: Direction) -> Result<Self, String> {
        let place = match kind {
            "local" => Self::local(fields, direction),
            "registry" => Self::registry(fields, direction),
            #[cfg(feature = "s3")]
            "s3" => s3::read(fields, &variable).map(|options| Self::S3(options.into())),
            #[cfg(feature = "reapi")]
            "reapi" => reapi::read(fields, &variable, &|path| std::fs::read_to_string(path))
                .map(|options| Self::Reapi(options.into())),
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

    fn registry(fields: &mut Fields, direction: Direction) -> Result<Self, String> {
        let reference = fields.need("ref", "REPOSITORY[:TAG]")?;
        let reference: Reference = reference.parse().map_err(|error| format!("{error}"))?;
        if reference.digest().is_some() {
            return Err("ref= names a repository and perhaps a tag, and no digest".into());
        }
        let tag = reference.tag().unwrap_or_default();
        if tag.len() > registry::LONGEST_TAG {
            let longest = registry::LONGEST_TAG;
            return Err(format!(
                "the tag `{tag}` has more than {longest} characters: keys follow it"
            ));
        }
        if direction == Direction::To {
            for key in ["oci-mediatypes", "image-manifest"] {
                if fields.take_bool(key)? == Some(false) {
                    return Err(format!("{key}=false: records are OCI manifests"));
                }
            }
        }
        Ok(Self::Registry(reference))
    }

    fn open(&self, direction: Direction, opener: &Opener<'_>) -> Result<Arc<dyn RemoteCache>, Failure> {
        Ok(match self {
            Self::Local(path) => Arc::new(Directory::new(path.clone())),
            Self::Registry(reference) => Arc::new(RegistryCache::new(
                opener.client(),
                (direction == Direction::To).then(|| opener.session.store.clone()),
                reference.clone(),
            )),
            #[cfg(feature = "s3")]
            Self::S3(options) => Arc::new(S3::new((**options).clone(), opener.network()).map_err(unusable)?),
            #[cfg(feature = "reapi")]
            Self::Reapi(options) => Arc::new(Reapi::new((**options).clone(), opener.network()).map_err(unusable)?),
        })
    }
}

/// What caches are opened with.
struct Opener<'a> {
    session: &'a Session,
    cancel: &'a Cancel,
    client: OnceCell<Client>,
    #[cfg(any(feature = "s3", feature = "reapi"))]
    network: OnceCell<Arc<Network>>,
}

impl Opener<'_> {
    /// The client of all caches in registries: they share its connections and tokens.
    fn client(&self) -> Client {
        let client = || self.session.client_with(self.cancel, registry::PATIENCE);
        self.client.get_or_init(client).clone()
    }

    /// What all caches in services share.
    #[cfg(any(feature = "s3", feature = "reapi"))]
    fn network(&self) -> Arc<Network> {
        let network = || Arc::new(Network::new(self.cancel.clone()));
        self.network.get_or_init(network).clone()
    }
}

/// The fields of a cache; an image's name alone is that of a registry's.
fn fields(text: &str) -> Result<Fields, String> {
    match text.contains('=') || text.is_empty() {
        true => Fields::read(text),
        false => Fields::read(&format!("type=registry,\"ref={text}\"")),
    }
}

fn kind(fields: &mut Fields) -> Result<String, String> {
    fields
        .take("type")
        .ok_or_else(|| format!("a cache needs a type: {KINDS}"))
}

/// A cache that can be nowhere.
#[cfg(any(feature = "s3", feature = "reapi"))]
fn unusable(error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("a remote cache cannot be used: {error}"))
}

/// A variable of the environment that says something.
#[cfg(any(feature = "s3", feature = "reapi"))]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl FromStr for CacheSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = fields(text)?;
        let kind = kind(&mut fields)?;
        if kind == "inline" {
            return Err("name the image that carries its cache: type=registry,ref=IMAGE".into());
        }
        let place = Place::read(&kind, &mut fields, Direction::From)?;
        let mounts = fields.take_bool("mounts")?.unwrap_or(false);
        fields.finish()?;
        Ok(Self { place, mounts })
    }
}

impl FromStr for CacheDestination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = fields(text)?;
        let kind = kind(&mut fields)?;
        if kind == "inline" {
            return Self::inline(fields);
        }
        let place = Place::read(&kind, &mut fields, Direction::To)?;
        let mode = match fields.take("mode").as_deref() {
            None | Some("min") => ExportMode::Min,
            Some("max") => ExportMode::Max,
            Some(other) => return Err(format!("mode={other}: it is min or max")),
        };
        let compression = match fields.take("compression").as_deref() {
            None | Some("zstd") => BlobCompression::Zstd,
            Some("gzip") => BlobCompression::Gzip,
            Some("uncompressed") => BlobCompression::None,
            Some(other) => return Err(format!("compression={other}: it is zstd, gzip or uncompressed")),
        };
        let on_failure = on_failure(&mut fields)?;
        let mounts = fields.take_bool("mounts")?.unwrap_or(false);
        fields.finish()?;
        Ok(Self::Place {
            place,
            mode,
            compression,
            on_failure,
            mounts,
        })
    }
}

impl CacheDestination {
    fn inline(mut fields: Fields) -> Result<Self, String> {
        match fields.take("mode").as_deref() {
            None | Some("min") => {}
            Some(_) => return Err("type=inline: an image carries no layers but its own: mode is min".into()),
        }
        if fields.take_bool("mounts")? == Some(true) {
            return Err("type=inline: an image carries no cache mounts: give them to another cache too".into());
        }
        // There is nothing that could fail.
        on_failure(&mut fields)?;
        fields.finish()?;
        Ok(Self::Inline)
    }
}

fn on_failure(fields: &mut Fields) -> Result<OnFailure, String> {
    Ok(match fields.take_bool("ignore-error")? {
        None | Some(true) => OnFailure::Warn,
        Some(false) => OnFailure::Fail,
    })
}

/// The caches of a build with these build arguments (`NAME=value`).
pub(super) fn open(
    from: &[CacheSource],
    to: &[CacheDestination],
    build_args: &[String],
    session: &Session,
    cancel: &Cancel,
) -> Result<Remotes, Failure> {
    let opener = Opener {
        session,
        cancel,
        client: OnceCell::new(),
        #[cfg(any(feature = "s3", feature = "reapi"))]
        network: OnceCell::new(),
    };
    let destination = |destination: &CacheDestination| match destination {
        CacheDestination::Inline => None,
        CacheDestination::Place {
            place,
            mode,
            compression,
            on_failure,
            mounts,
        } => Some(place.open(Direction::To, &opener).map(|cache| Destination {
            cache,
            mode: *mode,
            compression: *compression,
            on_failure: *on_failure,
            mounts: *mounts,
        })),
    };
    let origin = |source: &CacheSource| {
        Ok::<_, Failure>(Origin {
            cache: source.place.open(Direction::From, &opener)?,
            mounts: source.mounts,
        })
    };
    Ok(Remotes {
        from: from.iter().map(origin).collect::<Result<_, _>>()?,
        to: to.iter().filter_map(destination).collect::<Result<_, _>>()?,
        inline: to.contains(&CacheDestination::Inline) || build_args.iter().any(|argument| asks_for_inline(argument)),
        mount_limits: session.config.cache_mounts.limits(),
    })
}

/// Whether a build argument is docker's way to say `--cache-to type=inline`.
fn asks_for_inline(argument: &str) -> bool {
    argument
        .split_once('=')
        .is_some_and(|(name, value)| name == INLINE_ARGUMENT && matches!(value, "1" | "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_as_with_buildx() {
        let place = Place::Local("/c".into());
        let source = |mounts| {
            let place = place.clone();
            Ok(CacheSource { place, mounts })
        };
        assert_eq!("type=local,src=/c".parse(), source(false));
        assert_eq!("type=local,src=/c,mounts=true".parse(), source(true));
        let destination = |mode, on_failure| {
            Ok(CacheDestination::Place {
                place: place.clone(),
                mode,
                compression: BlobCompression::Zstd,
                on_failure,
                mounts: on_failure == OnFailure::Fail,
            })
        };
        for (text, expected) in [
            ("type=local,dest=/c", destination(ExportMode::Min, OnFailure::Warn)),
            (
                "type=local,dest=/c,mode=max,ignore-error=true",
                destination(ExportMode::Max, OnFailure::Warn),
            ),
            (
                "type=local,\"dest=/c\",ignore-error=false,mounts=true",
                destination(ExportMode::Min, OnFailure::Fail),
            ),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn an_images_name_alone_is_that_of_a_registrys() {
        let place = Place::Registry("team/app:main".parse().unwrap());
        let source = CacheSource {
            place: place.clone(),
            mounts: false,
        };
        for text in [
            "team/app:main",
            "type=registry,ref=team/app:main",
            "ref=team/app:main,type=registry",
        ] {
            assert_eq!(text.parse::<CacheSource>().as_ref(), Ok(&source), "{text}");
        }
        let to = "type=registry,ref=team/app:main,mode=max,compression=gzip,image-manifest=true,oci-mediatypes=true";
        let destination = CacheDestination::Place {
            place,
            mode: ExportMode::Max,
            compression: BlobCompression::Gzip,
            on_failure: OnFailure::Warn,
            mounts: false,
        };
        assert_eq!(to.parse(), Ok(destination));
        assert_eq!("type=inline".parse(), Ok(CacheDestination::Inline));
        assert!(asks_for_inline("BUILDKIT_INLINE_CACHE=1") && !asks_for_inline("BUILDKIT_INLINE_CACHE=0"));
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
            ("type=local,src=/c,dest=/c", "`dest` is not one of type, src, mounts"),
            ("type=registry", "type=registry: it needs ref=REPOSITORY[:TAG]"),
            ("type=registry,ref=UPPER", "is not an image reference"),
            ("type=inline", "type=registry,ref=IMAGE"),
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
                "`x` is not one of type, dest, mode, compression, ignore-error, mounts",
            ),
        ] {
            let error = text.parse::<CacheDestination>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
