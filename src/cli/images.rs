//! What commands about images share: which of them are meant, and what is known of their layers.

use std::str::FromStr;

use super::disk::duration;
use super::failure::Failure;
use super::session::Session;
use crate::context::Glob;
use crate::oci::{DiffId, Digest, ImageConfig, Reference};
use crate::store::{Store, StoredImage};

/// One `--filter` of `images` and `image prune`; the fields are docker's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ImageFilter {
    /// Whether it has no name.
    Dangling(bool),
    /// Has a label, with this value or any.
    Label(String, Option<String>),
    /// Has no such label.
    NotLabel(String, Option<String>),
    /// Made before this image.
    Before(String),
    /// Made after this image.
    Since(String),
    /// Made before this moment, in seconds since 1970.
    Until(i64),
    /// A name that this wildcard matches.
    Reference(String),
    /// An id that begins so.
    Id(String),
}

impl FromStr for ImageFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is no FIELD=VALUE"))?;
        let label = |text: &str| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        let value = value.trim();
        Ok(match field.trim() {
            "dangling" => match value {
                "true" | "1" => Self::Dangling(true),
                "false" | "0" => Self::Dangling(false),
                _ => return Err(format!("`dangling` is true or false, not `{value}`")),
            },
            "label" => {
                let (key, value) = label(value);
                Self::Label(key, value)
            }
            "label!" => {
                let (key, value) = label(value);
                Self::NotLabel(key, value)
            }
            "before" => Self::Before(value.to_owned()),
            "since" | "after" => Self::Since(value.to_owned()),
            "until" => Self::Until(moment(value)?),
            "reference" => {
                Glob::new(value).map_err(|error| format!("`{value}`: {error}"))?;
                Self::Reference(value.to_owned())
            }
            "id" => Self::Id(value.trim_start_matches("sha256:").to_owned()),
            other => {
                let known = "dangling, label, label!, before, since, until, reference and id are";
                return Err(format!("`{other}` is nothing to filter images by: {known}"));
            }
        })
    }
}

/// A moment: an RFC 3339 time, seconds since 1970, or how long ago, as in `24h`.
fn moment(text: &str) -> Result<i64, String> {
    use time::format_description::well_known::Rfc3339;

    if let Ok(moment) = time::OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(moment.unix_timestamp());
    }
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let ago = duration(text).ok_or_else(|| format!("`{text}` is no time: 24h, 7d or 2030-01-31T00:00:00Z is"))?;
    Ok(time::OffsetDateTime::now_utc().unix_timestamp().saturating_sub(ago))
}

impl ImageFilter {
    /// Whether the image is meant that has these names.
    pub fn matches(&self, session: &Session, image: &StoredImage, names: &[Reference]) -> Result<bool, Failure> {
        Ok(match self {
            Self::Dangling(dangling) => names.is_empty() == *dangling,
            Self::Label(key, value) => has_label(&session.store, image, key, value.as_deref()),
            Self::NotLabel(key, value) => !has_label(&session.store, image, key, value.as_deref()),
            Self::Before(other) => image.created() < session.image(other)?.created(),
            Self::Since(other) => image.created() > session.image(other)?.created(),
            Self::Until(moment) => image.created() < *moment,
            Self::Reference(pattern) => names.iter().any(|name| is_called(name, pattern)),
            Self::Id(start) => image.id().hex().starts_with(start),
        })
    }
}

fn has_label(store: &Store, image: &StoredImage, key: &str, value: Option<&str>) -> bool {
    configurations(store, image).any(|config| {
        let found = config.config.labels.get(key);
        found.is_some_and(|found| value.is_none_or(|value| value == found))
    })
}

/// The configurations of an image, or of those of an index, that are there.
fn configurations(store: &Store, image: &StoredImage) -> impl Iterator<Item = ImageConfig> {
    let parts: Vec<Digest> = match image {
        StoredImage::Image(image) => vec![image.config],
        StoredImage::Index(index) => {
            let image = |id: &Digest| store.image(id).ok().flatten();
            let members = index.members.iter().filter_map(|member| image(&member.image));
            members.map(|image| image.config).collect()
        }
    };
    parts
        .into_iter()
        .filter_map(|config| Some(store.image_config(&config).ok()?.into_value()))
}

/// Whether a pattern is a name as people write it, with its tag or without, as docker's `reference=` has it.
pub(super) fn is_called(name: &Reference, pattern: &str) -> bool {
    let matches = |text: &str| Glob::new(pattern).is_ok_and(|glob| glob.matches(text.as_bytes()));
    matches(&name.familiar()) || matches(&name.familiar_name())
}

/// The bytes of a layer as a tar, or, where it was never unpacked here, of its compressed form; `None` where neither is
/// known.
pub(super) fn layer_size(store: &Store, layer: DiffId) -> Result<Option<u64>, Failure> {
    for (snapshot, epoch) in store.snapshots_of_layer(layer)? {
        if let Some((_, size)) = store.diff_of(snapshot, epoch)? {
            return Ok(Some(size));
        }
    }
    Ok(store.layer_blobs(layer)?.first().map(|blob| blob.size))
}

/// An instruction as its Dockerfile has it, out of what builders write into histories.
pub(super) fn instruction(created_by: &str) -> String {
    let text = created_by.strip_suffix(" # buildkit").unwrap_or(created_by);
    let text = match text.strip_prefix("/bin/sh -c #(nop)") {
        Some(rest) => rest.trim_start().to_owned(),
        None => match text.strip_prefix("/bin/sh -c ") {
            Some(command) => format!("RUN {command}"),
            None => text.replacen("RUN /bin/sh -c ", "RUN ", 1),
        },
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers() {
        for (text, expected) in [
            ("dangling=true", ImageFilter::Dangling(true)),
            ("label=a", ImageFilter::Label("a".into(), None)),
            ("label=a=b=c", ImageFilter::Label("a".into(), Some("b=c".into()))),
            ("label!=a=b", ImageFilter::NotLabel("a".into(), Some("b".into()))),
            ("since=app:1", ImageFilter::Since("app:1".into())),
            ("until=1700000000", ImageFilter::Until(1_700_000_000)),
            ("until=2023-11-14T22:13:20Z", ImageFilter::Until(1_700_000_000)),
            ("reference=app*", ImageFilter::Reference("app*".into())),
            ("id=sha256:3f", ImageFilter::Id("3f".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, refusal) in [
            ("dangling", "no FIELD=VALUE"),
            ("dangling=maybe", "true or false"),
            ("size=3", "`size` is nothing to filter images by"),
            ("until=soon", "no time"),
            ("reference=[", "`[`"),
        ] {
            let error = text.parse::<ImageFilter>().unwrap_err();
            assert!(error.contains(refusal), "{text}: {error}");
        }
    }

    #[test]
    fn instructions_are_as_they_were_written() {
        for (created_by, expected) in [
            ("/bin/sh -c #(nop)  CMD [\"sh\"]", "CMD [\"sh\"]"),
            ("/bin/sh -c apt-get update", "RUN apt-get update"),
            ("RUN /bin/sh -c make\tall # buildkit", "RUN make all"),
            ("COPY . /app # buildkit", "COPY . /app"),
        ] {
            assert_eq!(instruction(created_by), expected);
        }
    }
}
