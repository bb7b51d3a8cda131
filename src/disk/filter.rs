//! `--filter`: which entries are meant. The fields and signs are buildx's.

use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use super::entry::{Entry, Kind};

/// What a compiled pattern may take, in bytes: patterns come from command lines and configurations.
const LARGEST_PATTERN: usize = 1 << 20;

/// A condition on entries: `type=regular`, `id~=3fa`, `description~=npm`, `shared`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    field: Field,
    condition: Condition,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    Id,
    Parents,
    Description,
    Type,
    InUse,
    Shared,
    Private,
    Mutable,
    Immutable,
}

const FIELDS: [(&str, Field); 11] = [
    ("id", Field::Id),
    ("parents", Field::Parents),
    ("parent", Field::Parents),
    ("description", Field::Description),
    ("type", Field::Type),
    ("inuse", Field::InUse),
    ("in-use", Field::InUse),
    ("shared", Field::Shared),
    ("private", Field::Private),
    ("mutable", Field::Mutable),
    ("immutable", Field::Immutable),
];

#[derive(Clone, PartialEq, Eq, Debug)]
enum Condition {
    Present,
    Equal(String),
    Unequal(String),
    Begins(String),
    Like(Pattern),
}

/// A regular expression.
#[derive(Clone, Debug)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Why a text is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A field that entries do not have.
    #[error(
        "`{0}` is nothing to filter by: id, type, description, parents, inuse, shared, private, mutable, immutable and until are"
    )]
    Field(String),
    /// A type that entries do not have.
    #[error("there are no records of type `{0}`: there are {list}", list = kinds())]
    Kind(String),
    /// A field that is true or false was given another value.
    #[error("`{field}` is true or false, not `{value}`")]
    Truth {
        /// Which.
        field: String,
        /// What was given.
        value: String,
    },
    /// No regular expression.
    #[error("`{pattern}` is no regular expression")]
    Pattern {
        /// What was given.
        pattern: String,
        /// Why it is none.
        #[source]
        source: regex::Error,
    },
}

fn kinds() -> String {
    Kind::ALL.map(|kind| kind.to_string()).join(", ")
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (name, sign, value) = take_apart(text);
        let found = FIELDS.iter().find(|(known, _)| *known == name);
        let (_, field) = found.ok_or_else(|| FilterError::Field(name.to_owned()))?;
        let condition = match sign {
            "" => Condition::Present,
            // The beginning of an id is what people have at hand.
            "=" if *field == Field::Id => Condition::Begins(value.to_owned()),
            "=" | "==" => Condition::Equal(value.to_owned()),
            "!=" => Condition::Unequal(value.to_owned()),
            _ => Condition::Like(pattern(value)?),
        };
        let filter = Self {
            field: *field,
            condition,
        };
        filter.check(name)?;
        Ok(filter)
    }
}

/// The field's name, the sign and the value.
fn take_apart(text: &str) -> (&str, &str, &str) {
    let signs = ["~=", "!=", "==", "="];
    let places = signs.iter().filter_map(|sign| Some((text.find(sign)?, *sign)));
    // The first sign counts, and of those at one place the longest.
    match places.min_by_key(|(place, sign)| (*place, 2 - sign.len())) {
        Some((place, sign)) => (text[..place].trim(), sign, text[place + sign.len()..].trim()),
        None => (text.trim(), "", ""),
    }
}

fn pattern(text: &str) -> Result<Pattern, FilterError> {
    let compiled = RegexBuilder::new(text).size_limit(LARGEST_PATTERN).build();
    compiled.map(Pattern).map_err(|source| FilterError::Pattern {
        pattern: text.to_owned(),
        source,
    })
}

impl Filter {
    /// `type=…`.
    pub(super) fn of_kind(kind: Kind) -> Self {
        Self {
            field: Field::Type,
            condition: Condition::Equal(kind.to_string()),
        }
    }

    /// Refuses values that no entry can have.
    fn check(&self, name: &str) -> Result<(), FilterError> {
        let (Condition::Equal(value) | Condition::Unequal(value)) = &self.condition else {
            return Ok(());
        };
        match self.field {
            Field::Type if Kind::ALL.iter().all(|kind| kind.name() != value) => Err(FilterError::Kind(value.clone())),
            Field::InUse | Field::Shared | Field::Private | Field::Mutable | Field::Immutable
                if !matches!(value.as_str(), "true" | "false") =>
            {
                Err(FilterError::Truth {
                    field: name.to_owned(),
                    value: value.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Whether the entry is meant.
    pub fn matches(&self, entry: &Entry) -> bool {
        let values = self.values(entry);
        match &self.condition {
            Condition::Present => values.iter().any(|value| !value.is_empty() && value != "false"),
            Condition::Equal(wanted) => values.contains(wanted),
            Condition::Unequal(unwanted) => !values.contains(unwanted),
            Condition::Begins(start) => values.iter().any(|value| value.starts_with(start)),
            Condition::Like(Pattern(pattern)) => values.iter().any(|value| pattern.is_match(value)),
        }
    }

    /// Whether all of them mean the entry; of several for one field and with one value each, any, as with buildkitd's.
    pub(super) fn all_match(filters: &[Self], entry: &Entry) -> bool {
        let equal = |filter: &Self| matches!(filter.condition, Condition::Equal(_));
        filters.iter().all(|filter| {
            let others = filters
                .iter()
                .filter(|other| other.field == filter.field && equal(other));
            match equal(filter) {
                true => others.clone().any(|other| other.matches(entry)),
                false => filter.matches(entry),
            }
        })
    }

    fn values(&self, entry: &Entry) -> Vec<String> {
        let truth = |truth: bool| vec![truth.to_string()];
        match self.field {
            // A digest is also known by its digits.
            Field::Id => match entry.id.split_once(':') {
                Some((_, digits)) => vec![entry.id.clone(), digits.to_owned()],
                None => vec![entry.id.clone()],
            },
            Field::Parents => entry.parents.clone(),
            Field::Description => vec![entry.description.clone()],
            Field::Type => vec![entry.kind.to_string()],
            Field::InUse => truth(entry.in_use),
            Field::Shared => truth(entry.is_shared()),
            Field::Private => truth(!entry.is_shared()),
            Field::Mutable => truth(entry.kind.is_mutable()),
            Field::Immutable => truth(!entry.kind.is_mutable()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    #[test]
    fn filters_are_what_buildx_knows() {
        let mut entry = entry("3fa1", Kind::Regular);
        entry.description = "RUN npm ci".into();
        entry.parents = vec!["77".into()];
        for (text, expected) in [
            ("id=3f", true),
            ("id==3f", false),
            ("id==3fa1", true),
            ("id~=a1$", true),
            ("id=.", false),
            ("type=regular", true),
            ("type!=regular", false),
            ("type=exec.cachemount", false),
            ("description~=npm", true),
            ("description~=^npm", false),
            (r"description~=^RUN (npm|yarn)\s+ci$", true),
            ("description==RUN npm ci", true),
            ("parents", true),
            ("parent=77", true),
            ("parents=78", false),
            ("inuse", false),
            ("inuse=false", true),
            ("shared", false),
            ("private", true),
            ("immutable=true", true),
            ("mutable", false),
        ] {
            assert_eq!(text.parse::<Filter>().unwrap().matches(&entry), expected, "{text}");
        }
        for (text, refusal) in [
            ("size=3", "`size` is nothing to filter by"),
            ("type=layer", "no records of type `layer`"),
            ("inuse=maybe", "`inuse` is true or false, not `maybe`"),
            ("id~=(a", "`(a` is no regular expression"),
            (&format!("id~={}", "(a{1000}){1000}"), "is no regular expression"),
        ] {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(refusal), "{text}: {error}");
        }
    }
}
