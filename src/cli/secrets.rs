//! `--secret`: where each comes from. A secret is read when a step asks for it, and shown nowhere.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use super::failure::Failure;
use crate::executor::{SecretError, SecretSource};

/// Bytes that a secret may have: as many as BuildKit takes.
const LARGEST: u64 = 500 * 1024;

/// One `--secret`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SecretArgument {
    id: String,
    place: Place,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    File(PathBuf),
    Variable(String),
}

impl FromStr for SecretArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` has no value"))?;
            match key {
                "id" => id = Some(value.to_owned()),
                "src" | "source" => file = Some(value.to_owned()),
                "env" => variable = Some(value.to_owned()),
                "type" => kind = Some(value.to_owned()),
                other => return Err(format!("`{other}` is not one of id, src, env and type")),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or("a secret needs an id")?;
        let place = match (kind.as_deref(), file, variable) {
            (None | Some("file"), Some(file), None) => Place::File(file.into()),
            (None | Some("env"), None, Some(variable)) => Place::Variable(variable),
            (Some("env"), Some(variable), None) => Place::Variable(variable),
            (Some("file"), None, None) => Place::File(id.clone().into()),
            // As buildx has it: a variable of that name where there is one, else a file.
            (None, None, None) if std::env::var_os(&id).is_some() => Place::Variable(id.clone()),
            (None, None, None) => Place::File(id.clone().into()),
            (Some("env"), None, None) => Place::Variable(id.clone()),
            _ => return Err("give one of src=FILE and env=VARIABLE, and type=file or type=env".into()),
        };
        Ok(Self { id, place })
    }
}

/// The secrets of a build.
pub(super) struct Secrets {
    places: BTreeMap<String, Place>,
}

impl Secrets {
    /// The secrets that `arguments` name; a file that is not there is an error now, not in the middle of the build.
    pub fn new(arguments: &[SecretArgument]) -> Result<Self, Failure> {
        for argument in arguments {
            if let Place::File(path) = &argument.place
                && !path.is_file()
            {
                return Err(Failure::usage(format!(
                    "--secret id={}: there is no file {}",
                    argument.id,
                    path.display()
                )));
            }
        }
        let places = arguments
            .iter()
            .map(|argument| (argument.id.clone(), argument.place.clone()));
        Ok(Self {
            places: places.collect(),
        })
    }
}

impl SecretSource for Secrets {
    fn read(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        use std::os::unix::ffi::OsStringExt;
        let failed = |source| SecretError {
            id: id.to_owned(),
            source,
        };
        match self.places.get(id) {
            None => Ok(None),
            Some(Place::Variable(name)) => Ok(std::env::var_os(name).map(OsStringExt::into_vec)),
            Some(Place::File(path)) => {
                let mut content = Vec::new();
                let file = std::fs::File::open(path).map_err(failed)?;
                file.take(LARGEST + 1).read_to_end(&mut content).map_err(failed)?;
                if content.len() as u64 > LARGEST {
                    return Err(failed(std::io::Error::other(format!(
                        "it has more than {LARGEST} bytes"
                    ))));
                }
                Ok(Some(content))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_files_or_variables() {
        let file = |id: &str, path: &str| SecretArgument {
            id: id.into(),
            place: Place::File(path.into()),
        };
        let variable = |id: &str, name: &str| SecretArgument {
            id: id.into(),
            place: Place::Variable(name.into()),
        };
        for (text, expected) in [
            ("id=a,src=f", file("a", "f")),
            ("type=file,id=a,source=f", file("a", "f")),
            ("id=a,env=V", variable("a", "V")),
            ("type=env,id=a", variable("a", "a")),
            ("id=no-such-variable", file("no-such-variable", "no-such-variable")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "src=f", "id=", "id=a,src=f,env=V", "id=a,mode=1", "type=disk,id=a"] {
            assert!(text.parse::<SecretArgument>().is_err(), "{text}");
        }
    }
}
