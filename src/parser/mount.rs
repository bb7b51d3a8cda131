//! The value of `RUN --mount`: comma-separated `key=value` fields, checked and typed.

use super::ast::{Span, Word};
use super::check::parse_bool;
use super::expand::{ExpandError, Lookup};
use super::suggest::nearest;

/// Where a mount's files come from: a stage, a named context or an image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountSource {
    /// `from`; the build context, or for a cache nothing, where it is not given.
    pub from: Option<String>,
    /// `source`; the root where it is not given.
    pub path: Option<String>,
}

/// The owner and the permissions of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MountOwner {
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
}

/// Whether the step may write to a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountAccess {
    /// It may not.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// How builds share a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheSharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// A mount. A target that is not absolute is below the working directory, and an empty one is the working directory.
///
/// Source: the Dockerfile reference, `RUN --mount`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountOptions {
    /// Files of a stage, a context or an image.
    Bind {
        /// What is mounted.
        source: MountSource,
        /// Where.
        target: String,
        /// Read-only where nothing is said; what is written is dropped.
        access: MountAccess,
    },
    /// A directory that outlives the build.
    Cache {
        /// `id`; the target where it is not given.
        id: Option<String>,
        /// What the cache holds at first.
        source: MountSource,
        /// Where.
        target: String,
        /// Read-write where nothing is said.
        access: MountAccess,
        /// How builds share it.
        sharing: CacheSharing,
        /// The owner and the permissions of the directory.
        owner: MountOwner,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where.
        target: String,
        /// `size`, in bytes; unbounded where it is not given.
        size: Option<u64>,
        /// Read-write where nothing is said.
        access: MountAccess,
    },
    /// A secret, as a file, a variable or both.
    Secret {
        /// Which: `id`, `source`, or the last part of the target.
        id: String,
        /// The file; none where only a variable is wanted.
        target: Option<String>,
        /// The variable.
        env: Option<String>,
        /// Whether the step fails where the secret is not given.
        required: bool,
        /// The owner and the permissions of the file.
        owner: MountOwner,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Which; `default` where it is not given.
        id: Option<String>,
        /// Where; chosen by the builder where it is not given.
        target: Option<String>,
        /// Whether the step fails where there is no agent.
        required: bool,
        /// The owner and the permissions of the socket.
        owner: MountOwner,
    },
}

/// What is wrong with a mount.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MountError {
    /// The quotes of the fields do not match.
    #[error("`{0}` is no list of comma-separated fields: a quote is misplaced")]
    Fields(String),
    /// Nothing between two commas, or nothing at all.
    #[error("a field of --mount is empty")]
    EmptyField,
    /// A key that needs a value has none.
    #[error("`{0}` in --mount has no value")]
    WithoutValue(String),
    /// A key that no mount has.
    #[error("`{0}` is no option of --mount")]
    UnknownKey(String),
    /// A key that this type of mount does not have.
    #[error("a mount of type {kind} has no `{key}`")]
    UnexpectedKey {
        /// The key.
        key: String,
        /// The type.
        kind: &'static str,
    },
    /// A type that is none.
    #[error("`{0}` is no type of mount")]
    UnknownType(String),
    /// A `sharing` that is none.
    #[error("`{0}` is no way to share a cache")]
    UnknownSharing(String),
    /// A value that its key does not take.
    #[error("`{value}` cannot be the {key} of a mount")]
    InvalidValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A secret with neither name nor target.
    #[error("a secret needs an `id` or a `target`")]
    NamelessSecret,
    /// A secret with two names.
    #[error("a secret has an `id` or a `source`, not both")]
    TwoNames,
    /// A value whose variables cannot be replaced.
    #[error(transparent)]
    Expand(#[from] ExpandError),
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

impl MountError {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        let did_you_mean = |word: &str, known: &[&str]| match nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of {}", known.join(", ")),
        };
        match self {
            MountError::UnknownKey(key) => Some(did_you_mean(key, &KEYS)),
            MountError::UnknownType(kind) => Some(did_you_mean(kind, &TYPES)),
            MountError::UnknownSharing(sharing) => Some(did_you_mean(sharing, &SHARING)),
            MountError::UnexpectedKey { key, .. } => Some(format!("leave out `{key}`, or is another `type` meant?")),
            MountError::InvalidValue { key, .. } => expected_value(key).map(|expected| format!("give {expected}")),
            MountError::NamelessSecret => Some("write `--mount=type=secret,id=…`".to_owned()),
            MountError::EmptyField => Some("write `--mount=type=…,target=…`".to_owned()),
            MountError::WithoutValue(key) => Some(format!("write `{key}=…`")),
            _ => None,
        }
    }

    /// Where it is in `value`: the field that it is about, where the source has the value letter by letter.
    pub fn span(&self, value: &Word) -> Span {
        let wanted: &[&str] = match self {
            MountError::WithoutValue(key) | MountError::UnknownKey(key) => &[key],
            MountError::UnexpectedKey { key, .. } if key == "source" => &["source", "src"],
            MountError::UnexpectedKey { key, .. } | MountError::InvalidValue { key, .. } => &[key],
            MountError::UnknownType(_) => &["type"],
            MountError::UnknownSharing(_) => &["sharing"],
            MountError::TwoNames => &["source", "src"],
            MountError::Expand(error) => return error.span,
            MountError::Fields(_) | MountError::EmptyField | MountError::NamelessSecret => &[],
        };
        if value.span.end - value.span.start != value.raw.len() {
            return value.span;
        }
        let mut start = value.span.start;
        for field in value.raw.split(',') {
            let key = field.split('=').next().unwrap_or_default().trim_start_matches('"');
            let end = start + field.len();
            if wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(key)) {
                return Span { start, end };
            }
            start = end + 1;
        }
        value.span
    }
}

/// What a key takes.
fn expected_value(key: &str) -> Option<&'static str> {
    match key {
        "mode" => Some("an octal number, such as 0755"),
        "uid" | "gid" => Some("a number"),
        "size" => Some("a number of bytes, or one with a unit, such as 64m"),
        _ => Some("true or false"),
    }
}

/// Reads the value of `--mount`. Each field's value is expanded by itself, so that a comma or a quote in a variable
/// changes nothing else.
pub fn parse_mount(value: &Word, escape: char, lookup: Lookup<'_>) -> Result<MountOptions, MountError> {
    let mut fields = Fields::default();
    for field in csv_fields(&value.raw)? {
        let (key, value) = match field.split_once('=') {
            Some((key, text)) => {
                let word = Word {
                    raw: text.to_owned(),
                    span: value.span,
                };
                (key, Some(word.expand(escape, lookup)?))
            }
            None => (field.as_str(), None),
        };
        fields.set(key, value)?;
    }
    fields.into_options()
}

/// The `from` of a mount as it is written: it is needed before the values of the other fields are known.
pub fn mount_from(value: &Word) -> Result<Option<String>, MountError> {
    let mut from = None;
    for field in csv_fields(&value.raw)? {
        if let Some((key, text)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            from = Some(text.to_owned()).filter(|from| !from.is_empty());
        }
    }
    Ok(from)
}

/// Checks what holds in stages that are not built, too: that the value is a list of fields.
pub(super) fn check_fields(value: &str) -> Result<(), MountError> {
    csv_fields(value).map(drop)
}

/// The fields of one record.
///
/// Source: RFC 4180; quotes inside an unquoted field are an error, as in Go's `encoding/csv`.
fn csv_fields(text: &str) -> Result<Vec<String>, MountError> {
    let misplaced = || MountError::Fields(text.to_owned());
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted).ok_or_else(misplaced)?,
            None => {
                let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    return Err(misplaced());
                }
                (field.to_owned(), after)
            }
        };
        if field.is_empty() {
            return Err(MountError::EmptyField);
        }
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(misplaced()),
        }
    }
}

/// The field up to its closing quote, two quotes standing for one, and what follows.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, after)),
        }
    }
}

/// The fields as given, values already expanded.
#[derive(Default)]
struct Fields {
    kind: Option<&'static str>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    access: Option<MountAccess>,
    required: Option<bool>,
    size: Option<u64>,
    sharing: Option<CacheSharing>,
    owner: MountOwner,
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<String>) -> Result<(), MountError> {
        let key = key.to_lowercase();
        let switch = matches!(key.as_str(), "readonly" | "ro" | "readwrite" | "rw" | "required");
        let value = match value {
            Some(value) => value,
            None if switch => "true".to_owned(),
            None if KEYS.contains(&key.as_str()) => return Err(MountError::WithoutValue(key)),
            None => return Err(MountError::UnknownKey(key)),
        };
        let invalid = || MountError::InvalidValue {
            key: key.clone(),
            value: value.clone(),
        };
        let given = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
        let number = |radix| {
            u32::from_str_radix(&value, radix)
                .ok()
                .filter(|_| !value.starts_with('+'))
        };
        match key.as_str() {
            "type" => {
                let lower = value.to_lowercase();
                let kind = TYPES.iter().find(|kind| **kind == lower);
                self.kind = Some(kind.ok_or_else(|| MountError::UnknownType(value.clone()))?);
            }
            "from" => self.from = given(&value),
            "source" | "src" => self.source = given(&value),
            "target" | "dst" | "destination" => self.target = given(&value),
            "id" => self.id = given(&value),
            "env" => self.env = Some(value),
            "readonly" | "ro" => self.access = Some(access(parse_bool(&value).ok_or_else(invalid)?)),
            "readwrite" | "rw" => self.access = Some(access(!parse_bool(&value).ok_or_else(invalid)?)),
            "required" => self.required = Some(parse_bool(&value).ok_or_else(invalid)?),
            "size" => self.size = Some(parse_size(&value).ok_or_else(invalid)?),
            "sharing" => self.sharing = Some(parse_sharing(&value)?),
            "mode" => self.owner.mode = Some(number(8).ok_or_else(invalid)?),
            "uid" => self.owner.uid = Some(number(10).ok_or_else(invalid)?),
            "gid" => self.owner.gid = Some(number(10).ok_or_else(invalid)?),
            _ => return Err(MountError::UnknownKey(key)),
        }
        Ok(())
    }

    fn into_options(self) -> Result<MountOptions, MountError> {
        let kind = self.kind.unwrap_or("bind");
        self.check_keys(kind)?;
        let source = MountSource {
            from: self.from,
            path: self.source,
        };
        let target = self.target.clone().unwrap_or_default();
        let (id, owner) = (self.id, self.owner);
        let required = self.required.unwrap_or_default();
        Ok(match kind {
            "bind" => MountOptions::Bind {
                source,
                target,
                access: self.access.unwrap_or(MountAccess::ReadOnly),
            },
            "cache" => {
                let access = self.access.unwrap_or(MountAccess::ReadWrite);
                MountOptions::Cache {
                    id,
                    source,
                    target,
                    access,
                    sharing: self.sharing.unwrap_or_default(),
                    owner,
                }
            }
            "tmpfs" => {
                let access = self.access.unwrap_or(MountAccess::ReadWrite);
                MountOptions::Tmpfs {
                    target,
                    size: self.size.filter(|size| *size > 0),
                    access,
                }
            }
            "ssh" => MountOptions::Ssh {
                id,
                target: self.target,
                required,
                owner,
            },
            _ => {
                if source.path.is_some() && id.is_some() {
                    return Err(MountError::TwoNames);
                }
                let named = source.path.or(id).or_else(|| self.target.as_deref().map(last_part));
                let id = named.ok_or(MountError::NamelessSecret)?;
                let file = || format!("/run/secrets/{}", last_part(&id));
                let target = self.target.or_else(|| self.env.is_none().then(file));
                MountOptions::Secret {
                    id,
                    target,
                    env: self.env,
                    required,
                    owner,
                }
            }
        })
    }

    /// Refuses the keys that belong to other types.
    fn check_keys(&self, kind: &'static str) -> Result<(), MountError> {
        let MountOwner { mode, uid, gid } = self.owner;
        let credential = matches!(kind, "secret" | "ssh");
        let owned = credential || kind == "cache";
        let refused = [
            ("mode", mode.is_some() && !owned),
            ("uid", uid.is_some() && !owned),
            ("gid", gid.is_some() && !owned),
            ("required", self.required.is_some() && !credential),
            ("size", self.size.is_some() && kind != "tmpfs"),
            ("sharing", self.sharing.is_some() && kind != "cache"),
            ("from", self.from.is_some() && kind == "secret"),
            ("source", self.source.is_some() && kind == "ssh"),
        ];
        match refused.into_iter().find(|(_, refused)| *refused) {
            Some((key, _)) => Err(MountError::UnexpectedKey {
                key: key.to_owned(),
                kind,
            }),
            None => Ok(()),
        }
    }
}

fn access(read_only: bool) -> MountAccess {
    if read_only {
        MountAccess::ReadOnly
    } else {
        MountAccess::ReadWrite
    }
}

fn parse_sharing(value: &str) -> Result<CacheSharing, MountError> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(CacheSharing::Shared),
        "private" => Ok(CacheSharing::Private),
        "locked" => Ok(CacheSharing::Locked),
        _ => Err(MountError::UnknownSharing(value.to_owned())),
    }
}

/// The last part of a path.
fn last_part(path: &str) -> String {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// A size in bytes: a number, perhaps with a fraction, and a unit of 1024: `64m`, `1.5GiB`.
fn parse_size(text: &str) -> Option<u64> {
    let unit_at = text
        .find(|ch: char| !ch.is_ascii_digit() && ch != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = unit.trim_start_matches(' ').to_ascii_lowercase();
    let power = match unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * 1024_f64.powi(power);
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<MountOptions, MountError> {
        let word = Word {
            raw: value.to_owned(),
            span: Span::default(),
        };
        let checked = check_fields(value);
        let parsed = parse_mount(&word, '\\', &|name| (name == "X").then(|| "a,\"b".to_owned()));
        if let Err(error) = checked {
            assert_eq!(parsed, Err(error), "{value}");
        }
        parsed
    }

    #[test]
    fn each_type_with_its_defaults() {
        let bind = parse("target=/t,source=s,from=base").unwrap();
        let source = MountSource {
            from: Some("base".into()),
            path: Some("s".into()),
        };
        assert_eq!(
            bind,
            MountOptions::Bind {
                source,
                target: "/t".into(),
                access: MountAccess::ReadOnly
            }
        );
        let cache = parse("type=cache,dst=/c,sharing=LOCKED,mode=0700,uid=1,gid=2,id=x").unwrap();
        let MountOptions::Cache {
            id,
            access,
            sharing,
            owner,
            ..
        } = cache
        else {
            panic!("{cache:?}")
        };
        assert_eq!(
            (id.as_deref(), access, sharing),
            (Some("x"), MountAccess::ReadWrite, CacheSharing::Locked)
        );
        assert_eq!(
            owner,
            MountOwner {
                mode: Some(0o700),
                uid: Some(1),
                gid: Some(2)
            }
        );
        let tmpfs = parse("Type=Tmpfs,target=/t,size=64m").unwrap();
        assert_eq!(
            tmpfs,
            MountOptions::Tmpfs {
                target: "/t".into(),
                size: Some(64 << 20),
                access: MountAccess::ReadWrite
            }
        );
        let ssh = parse("type=ssh,required").unwrap();
        assert_eq!(
            ssh,
            MountOptions::Ssh {
                id: None,
                target: None,
                required: true,
                owner: MountOwner::default()
            }
        );
    }

    #[test]
    fn names_and_files_of_secrets() {
        let secret = |value| match parse(value).unwrap() {
            MountOptions::Secret { id, target, env, .. } => (id, target, env),
            other => panic!("{other:?}"),
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            secret("type=secret,id=a/b"),
            ("a/b".into(), text("/run/secrets/b"), None)
        );
        assert_eq!(secret("type=secret,target=/x/y"), ("y".into(), text("/x/y"), None));
        assert_eq!(secret("type=secret,source=s,env=E"), ("s".into(), None, text("E")));
        assert_eq!(
            secret("type=secret,id=i,env=E,target=/t"),
            ("i".into(), text("/t"), text("E"))
        );
        assert_eq!(parse("type=secret"), Err(MountError::NamelessSecret));
        assert_eq!(parse("type=secret,id=a,source=b"), Err(MountError::TwoNames));
    }

    #[test]
    fn values_are_expanded_field_by_field() {
        let MountOptions::Cache { id, target, .. } = parse("type=cache,id=$X,target=/t$UNSET").unwrap() else {
            panic!()
        };
        assert_eq!((id.as_deref(), target.as_str()), (Some("a,\"b"), "/t"));
        assert_eq!(
            parse("\"target=/a,b\",ro=false").unwrap(),
            parse("rw,\"target=/a,b\"").unwrap()
        );
    }

    #[test]
    fn the_origin_is_read_apart() {
        let from = |value: &str| {
            mount_from(&Word {
                raw: value.to_owned(),
                span: Span::default(),
            })
        };
        assert_eq!(from("mode=$X,From=base,target=/t"), Ok(Some("base".into())));
        assert_eq!(from("target=/t"), Ok(None));
        assert_eq!(from("from=$X"), Ok(Some("$X".into())));
    }

    #[test]
    fn errors_say_what_was_meant() {
        let hint = |value| parse(value).unwrap_err().hint().unwrap_or_default();
        assert_eq!(hint("type=cahce,target=/x"), "did you mean `cache`?");
        assert_eq!(hint("tpye=cache"), "did you mean `type`?");
        assert_eq!(hint("type=cache,target=/x,sharing=loked"), "did you mean `locked`?");
        for value in [
            "target=/t,uid=1",
            "type=tmpfs,required",
            "type=cache,size=1",
            "sharing=shared",
            "type=ssh,src=a",
        ] {
            assert!(matches!(parse(value), Err(MountError::UnexpectedKey { .. })), "{value}");
        }
        for value in [
            "type=cache,mode=9",
            "type=cache,uid=-1",
            "type=tmpfs,size=x",
            "ro=maybe",
            "type=cache,gid=+1",
        ] {
            assert!(matches!(parse(value), Err(MountError::InvalidValue { .. })), "{value}");
        }
        assert_eq!(parse("target"), Err(MountError::WithoutValue("target".into())));
        for value in ["", "target=/x,", ",target=/x", "\"\""] {
            assert_eq!(parse(value), Err(MountError::EmptyField), "{value}");
        }
        for value in ["a\"b", "\"a", "\"a\"b"] {
            assert_eq!(parse(value), Err(MountError::Fields(value.into())));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("10", 10),
            ("1k", 1024),
            ("1.5 KB", 1536),
            ("2GiB", 2 << 30),
            ("1b", 1),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "x", "1x", "-1", "1ib", "99999999p"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
