//! `--chmod`: what becomes of a file's permission bits.
//!
//! Symbolic changes are those of chmod(1), with no umask: `u=rwX,go=rX`, `+x`, `g=u`, `u+s`.

use crate::graph::ModeChange;

/// A clause of a symbolic change that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a change of mode such as `u+x` or `go=rX`")]
pub struct ModeError(String);

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// The bits of a file that had `mode`, after `change`.
pub(super) fn change_mode(change: Option<&ModeChange>, mode: u32, is_directory: bool) -> Result<u32, ModeError> {
    match change {
        None => Ok(mode),
        Some(ModeChange::Octal(bits)) => Ok(bits & 0o7777),
        Some(ModeChange::Symbolic(clauses)) => clauses
            .split(',')
            .try_fold(mode, |mode, clause| apply_clause(clause, mode, is_directory)),
    }
}

/// The bits that directories get which the copy has to make first: symbolic changes say nothing of those.
pub(super) fn mode_of_made_directories(change: Option<&ModeChange>) -> u32 {
    match change {
        Some(ModeChange::Octal(bits)) => bits & 0o7777,
        Some(ModeChange::Symbolic(_)) | None => 0o755,
    }
}

/// One clause: who, then any number of operators, each with permissions or the class they are taken from.
fn apply_clause(clause: &str, mut mode: u32, is_directory: bool) -> Result<u32, ModeError> {
    let malformed = || ModeError(clause.to_owned());
    let operators = clause.find(['+', '-', '=']).ok_or_else(malformed)?;
    let (who, mut rest) = clause.split_at(operators);
    let mask = classes(who).ok_or_else(malformed)?;
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let bits = permissions(&rest[1..end], mode, is_directory).ok_or_else(malformed)? & mask;
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // Setting takes setuid and setgid away only from files, as chmod(1) does.
            _ if is_directory => mode & !(mask & !(SETUID | SETGID)) | bits,
            _ => mode & !mask | bits,
        };
        rest = &rest[end..];
    }
    Ok(mode)
}

/// The bits that a class may change; none named is all of them.
fn classes(who: &str) -> Option<u32> {
    if who.is_empty() {
        return Some(0o7777);
    }
    who.chars().try_fold(0, |mask, class| {
        Some(
            mask | match class {
                'u' => 0o700 | SETUID,
                'g' => 0o070 | SETGID,
                'o' => 0o007 | STICKY,
                'a' => 0o7777,
                _ => return None,
            },
        )
    })
}

/// The bits that permissions name, for all classes at once.
fn permissions(letters: &str, mode: u32, is_directory: bool) -> Option<u32> {
    let spread = |bits: u32| bits << 6 | bits << 3 | bits;
    match letters {
        "u" => return Some(spread(mode >> 6 & 7)),
        "g" => return Some(spread(mode >> 3 & 7)),
        "o" => return Some(spread(mode & 7)),
        _ => {}
    }
    letters.chars().try_fold(0, |bits, letter| {
        Some(
            bits | match letter {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if is_directory || mode & 0o111 != 0 => 0o111,
                'X' => 0,
                's' => SETUID | SETGID,
                't' => STICKY,
                _ => return None,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(clauses: &str, mode: u32, is_directory: bool) -> u32 {
        change_mode(Some(&ModeChange::Symbolic(clauses.to_owned())), mode, is_directory).unwrap()
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
            assert_eq!(changed(clauses, before, false), after, "{clauses} on {before:o}");
        }
        assert_eq!(changed("u=rwX,go=rX", 0o600, true), 0o755);
        assert_eq!(changed("u=rwx", 0o4644, true), 0o4744);
        assert_eq!(changed("+X", 0o600, true), 0o711);
    }

    #[test]
    fn octal_bits_stand_for_themselves() {
        assert_eq!(change_mode(Some(&ModeChange::Octal(0o4711)), 0o644, false), Ok(0o4711));
        assert_eq!(change_mode(None, 0o2755, true), Ok(0o2755));
        assert_eq!(mode_of_made_directories(Some(&ModeChange::Octal(0o700))), 0o700);
        assert_eq!(
            mode_of_made_directories(Some(&ModeChange::Symbolic("a=".into()))),
            0o755
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        for clauses in ["", "x", "u", "u+q", "z+x", "u+x,", "u+x,,g+x"] {
            let change = ModeChange::Symbolic(clauses.to_owned());
            assert!(change_mode(Some(&change), 0o644, false).is_err(), "{clauses:?}");
        }
    }
}
