//! `--chmod`: what it may say, and what becomes of a file's permission bits.
//!
//! Owns the grammar, so that the planner, which refuses what is malformed, and the executor, which changes files, read
//! the same. Symbolic changes are those of chmod(1) with no umask: `u=rwX,go=rX`, `+x`, `g=u`, `u+s`.

use serde::{Serialize, Serializer};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const ALL: u32 = 0o7777;

/// `--chmod`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum ModeChange {
    /// Bits, 0 to 0o7777.
    Octal(u32),
    /// Clauses of chmod(1).
    Symbolic(ModeClauses),
}

/// A list of clauses, well-formed since it was parsed. Written as it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct ModeClauses {
    text: String,
    clauses: Vec<Clause>,
}

impl std::fmt::Debug for ModeClauses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.text, f)
    }
}

impl Serialize for ModeClauses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// A text that is no change of mode.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a change of mode such as `755`, `u+x` or `go=rX`")]
pub struct ModeError(pub String);

/// Who, and what is done to their bits, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Clause {
    mask: u32,
    changes: Vec<(Operator, Permissions)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Permissions {
    /// Those that another class has: by how many bits that stands from the right.
    OfClass(u32),
    /// These, and with `X` execution for directories and for files that somebody may execute.
    These { bits: u32, execute_some: bool },
}

impl std::str::FromStr for ModeChange {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let error = || ModeError(text.to_owned());
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let octal = text.bytes().all(|byte| byte.is_ascii_digit());
            let bits = u32::from_str_radix(text, 8).ok();
            let bits = bits.filter(|bits| octal && *bits <= ALL);
            return bits.map(ModeChange::Octal).ok_or_else(error);
        }
        let clauses = text.split(',').map(clause).collect::<Option<_>>().ok_or_else(error)?;
        let text = text.to_owned();
        Ok(ModeChange::Symbolic(ModeClauses { text, clauses }))
    }
}

impl ModeChange {
    /// The bits of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            ModeChange::Octal(bits) => *bits,
            ModeChange::Symbolic(symbolic) => symbolic
                .clauses
                .iter()
                .fold(mode, |mode, clause| clause.apply(mode, is_directory)),
        }
    }

    /// The bits that directories get which a copy has to make first: symbolic changes say nothing of those, and setuid,
    /// setgid and sticky are for what was asked for by name.
    pub fn of_made_directories(change: Option<&Self>) -> u32 {
        match change {
            Some(ModeChange::Octal(bits)) => bits & 0o777,
            Some(ModeChange::Symbolic(_)) | None => 0o755,
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        self.changes.iter().fold(mode, |mode, (operator, permissions)| {
            let bits = permissions.bits(mode, is_directory) & self.mask;
            match operator {
                Operator::Add => mode | bits,
                Operator::Remove => mode & !bits,
                // Setting takes setuid and setgid away only from files, as chmod(1) does.
                Operator::Set if is_directory => mode & !(self.mask & !(SETUID | SETGID)) | bits,
                Operator::Set => mode & !self.mask | bits,
            }
        })
    }
}

impl Permissions {
    /// For all classes at once.
    fn bits(self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Permissions::OfClass(shift) => (mode >> shift & 7) * 0o111,
            Permissions::These { bits, execute_some } if execute_some && (is_directory || mode & 0o111 != 0) => {
                bits | 0o111
            }
            Permissions::These { bits, .. } => bits,
        }
    }
}

/// One clause, `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`; `None` where it is none.
fn clause(text: &str) -> Option<Clause> {
    let operators = text.find(['+', '-', '='])?;
    let (who, mut rest) = text.split_at(operators);
    let mask = who.chars().try_fold(0, |mask, letter| Some(mask | class(letter)?))?;
    let mut changes = Vec::new();
    while let Some(first) = rest.chars().next() {
        let operator = match first {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Set,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        changes.push((operator, permissions(&rest[1..end])?));
        rest = &rest[end..];
    }
    // No letter before the operator means all.
    let mask = if who.is_empty() { ALL } else { mask };
    Some(Clause { mask, changes })
}

/// The bits that a letter before the operator speaks of.
fn class(letter: char) -> Option<u32> {
    match letter {
        'u' => Some(0o700 | SETUID),
        'g' => Some(0o070 | SETGID),
        'o' => Some(0o007 | STICKY),
        'a' => Some(ALL),
        _ => None,
    }
}

/// What the letters behind an operator stand for.
fn permissions(letters: &str) -> Option<Permissions> {
    match letters {
        "u" => return Some(Permissions::OfClass(6)),
        "g" => return Some(Permissions::OfClass(3)),
        "o" => return Some(Permissions::OfClass(0)),
        _ => {}
    }
    let (mut bits, mut execute_some) = (0, false);
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' => execute_some = true,
            's' => bits |= SETUID | SETGID,
            't' => bits |= STICKY,
            _ => return None,
        }
    }
    Some(Permissions::These { bits, execute_some })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ModeChange, ModeError> {
        text.parse()
    }

    /// Each right-hand side is what chmod(1) with umask 0 makes of it.
    #[test]
    fn symbolic_changes_are_those_of_chmod() {
        for (clauses, before, after) in [
            ("u=rwX,go=rX", 0o600, 0o644),
            ("u=rwX,go=rX", 0o700, 0o755),
            ("+x", 0o644, 0o755),
            ("a+x", 0o644, 0o755),
            ("g=u", 0o740, 0o770),
            ("o=", 0o777, 0o770),
            ("-w", 0o666, 0o444),
            ("go-rwx", 0o777, 0o700),
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("+t", 0o755, 0o1755),
            ("u-s", 0o4755, 0o755),
            ("u=rwx", 0o4644, 0o744),
            ("a=r", 0o7777, 0o444),
            ("u+x-w", 0o644, 0o544),
            ("o=g", 0o750, 0o755),
            ("+X", 0o644, 0o644),
        ] {
            assert_eq!(
                parse(clauses).unwrap().apply(before, false),
                after,
                "{clauses} on {before:o}"
            );
        }
        let of_directory = |clauses: &str, before| parse(clauses).unwrap().apply(before, true);
        assert_eq!(of_directory("u=rwX,go=rX", 0o600), 0o755);
        assert_eq!(of_directory("u=rwx", 0o4644), 0o4744);
        assert_eq!(of_directory("+X", 0o600), 0o711);
    }

    #[test]
    fn octal_bits_stand_for_themselves() {
        assert_eq!(parse("0755"), Ok(ModeChange::Octal(0o755)));
        assert_eq!(ModeChange::Octal(0o4711).apply(0o644, false), 0o4711);
        assert_eq!(ModeChange::of_made_directories(Some(&ModeChange::Octal(0o7700))), 0o700);
        assert_eq!(ModeChange::of_made_directories(parse("a=").ok().as_ref()), 0o755);
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for bad in [
            "", "x", "u", "u+q", "z+x", "u+x,", "u+x,,g+x", "10000", "888", "0o644", "-1", "u=ug", "7a",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_definition_holds_what_was_written() {
        let json = serde_json::to_string(&parse("u=rwX,go=rX").unwrap()).unwrap();
        assert_eq!(json, r#"{"Symbolic":"u=rwX,go=rX"}"#);
    }
}
