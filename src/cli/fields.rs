//! `key=value` pairs, separated by commas, as buildx takes them: a line of CSV, so that a value with a comma in it can be
//! had by quoting its whole field. Knows nothing of what keys mean.

/// The pairs of one argument. Each is taken out by who knows its key; what is left over is a mistake.
#[derive(Debug)]
pub(super) struct Fields {
    pairs: Vec<(String, String)>,
    /// The keys that were asked for.
    known: Vec<&'static str>,
}

impl Fields {
    /// Reads an argument. Keys count without regard to case.
    pub fn read(text: &str) -> Result<Self, String> {
        let pair = |(index, field): (usize, String)| match field.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
            None => Err(format!("field {} has no value: write key=value", index + 1)),
        };
        Ok(Self {
            pairs: split(text)?
                .into_iter()
                .enumerate()
                .map(pair)
                .collect::<Result<_, _>>()?,
            known: Vec::new(),
        })
    }

    /// The value of `key`; the last one, where there are several.
    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.take_all(key).pop()
    }

    /// All values of `key`.
    pub fn take_all(&mut self, key: &'static str) -> Vec<String> {
        self.known.push(key);
        let pairs = std::mem::take(&mut self.pairs).into_iter();
        let (taken, rest): (Vec<_>, Vec<_>) = pairs.partition(|(own, _)| own.eq_ignore_ascii_case(key));
        self.pairs = rest;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// All pairs whose key begins with `prefix`, in their order; what follows it is as it was written.
    pub fn take_prefixed(&mut self, prefix: &'static str) -> Vec<(String, String)> {
        self.known.push(prefix);
        let begins = |key: &str| {
            key.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let pairs = std::mem::take(&mut self.pairs).into_iter();
        let (taken, rest): (Vec<_>, Vec<_>) = pairs.partition(|(own, _)| begins(own));
        self.pairs = rest;
        taken
            .into_iter()
            .map(|(key, value)| (key[prefix.len()..].to_owned(), value))
            .collect()
    }

    /// The value of `key`, which must be there and say something; `example` shows what.
    pub fn need(&mut self, key: &'static str, example: &str) -> Result<String, String> {
        let value = self.take(key).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("it needs {key}={example}"))
    }

    /// The value of `key` as a yes or no.
    pub fn take_bool(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(format!("{key}={other}: it is true or false")),
        }
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<(), String> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("`{key}` is not one of {}", self.known.join(", "))),
        }
    }
}

/// The fields of a line of CSV. RFC 4180; quotes inside an unquoted field are an error.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or("a quote is not closed")?,
            None => match rest.split_once(',') {
                Some((field, _)) => (field.to_owned(), &rest[field.len()..]),
                None => (rest.to_owned(), ""),
            },
        };
        if !rest.starts_with('"') && field.contains('"') {
            return Err(format!(
                "field {}: quote the whole field: \"key=value\"",
                fields.len() + 1
            ));
        }
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Ok(fields),
            None => {
                return Err(format!(
                    "something stands behind field {}, which is quoted",
                    fields.len()
                ));
            }
        }
    }
}

/// A field up to its closing quote, and what is behind it. Two quotes stand for one.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let (mut field, mut rest) = (String::new(), quoted);
    loop {
        let (part, behind) = rest.split_once('"')?;
        field += part;
        match behind.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_as_a_line_of_csv() {
        let split = |text| split(text).unwrap();
        assert_eq!(split("a=b,c=d"), ["a=b", "c=d"]);
        assert_eq!(split("\"a=b,c\",d="), ["a=b,c", "d="]);
        assert_eq!(split("\"a=\"\"b\"\"\""), ["a=\"b\""]);
        assert_eq!(split(""), [""]);
        for wrong in ["\"a=b", "\"a=b\"c", "a=\"b\"", "\"a\"\""] {
            assert!(super::split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_left_over_is_told_with_what_could_stand_there() {
        let mut fields = Fields::read("type=x,Mode=a,mode=b,other=1").unwrap();
        assert_eq!(fields.take("type").as_deref(), Some("x"));
        assert_eq!(fields.take("mode").as_deref(), Some("b"));
        assert_eq!(fields.take_bool("ignore-error"), Ok(None));
        assert_eq!(
            fields.finish().unwrap_err(),
            "`other` is not one of type, mode, ignore-error"
        );
    }
}
