//! `--chmod`: an octal number, or the clauses of chmod(1).

use crate::graph::ModeChange;

use super::error::Problem;

const HIGHEST: u32 = 0o7777;

/// Reads the value of `--chmod`, variables replaced.
pub(super) fn parse(text: &str) -> Result<ModeChange, Problem> {
    let error = || Problem::Mode { text: text.to_owned() };
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let octal = text.bytes().all(|byte| byte.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8)
            .ok()
            .filter(|bits| octal && *bits <= HIGHEST);
        return bits.map(ModeChange::Octal).ok_or_else(error);
    }
    match apply(text, 0) {
        Some(_) => Ok(ModeChange::Symbolic(text.to_owned())),
        None => Err(error()),
    }
}

/// The permission bits of a file that is new, and would have `bits` without `--chmod`.
pub(super) fn of_file(change: Option<&ModeChange>, bits: u32) -> u32 {
    match change {
        None => bits,
        Some(ModeChange::Octal(octal)) => *octal,
        Some(ModeChange::Symbolic(clauses)) => apply(clauses, bits).unwrap_or(bits),
    }
}

/// A file's bits after the clauses `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`, separated by commas; `None` where they are none.
/// There is no umask: no letter before the operator means all.
fn apply(clauses: &str, bits: u32) -> Option<u32> {
    clauses.split(',').try_fold(bits, apply_clause)
}

fn apply_clause(bits: u32, clause: &str) -> Option<u32> {
    let operators = clause.find(['-', '+', '='])?;
    let who = clause[..operators]
        .chars()
        .try_fold(0, |mask, letter| Some(mask | class(letter)?))?;
    let who = if who == 0 { HIGHEST } else { who };
    let mut bits = bits;
    let mut rest = &clause[operators..];
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..].find(['-', '+', '=']).map_or(rest.len(), |next| next + 1);
        let change = permissions(&rest[1..end], bits)? & who;
        bits = match operator {
            '+' => bits | change,
            '-' => bits & !change,
            _ => bits & !who | change,
        };
        rest = &rest[end..];
    }
    Some(bits)
}

/// All bits that a letter before the operator speaks of.
fn class(letter: char) -> Option<u32> {
    match letter {
        'u' => Some(0o4700),
        'g' => Some(0o2070),
        'o' => Some(0o1007),
        'a' => Some(HIGHEST),
        _ => None,
    }
}

/// The bits that the letters behind an operator stand for, in all three classes.
fn permissions(letters: &str, bits: u32) -> Option<u32> {
    match letters {
        "u" => return Some((bits >> 6 & 7) * 0o111),
        "g" => return Some((bits >> 3 & 7) * 0o111),
        "o" => return Some((bits & 7) * 0o111),
        _ => {}
    }
    letters.chars().try_fold(0, |mask, letter| {
        Some(match letter {
            'r' => mask | 0o444,
            'w' => mask | 0o222,
            'x' => mask | 0o111,
            'X' if bits & 0o111 != 0 => mask | 0o111,
            'X' => mask,
            's' => mask | 0o6000,
            't' => mask | 0o1000,
            _ => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_change_bits_as_chmod_does() {
        for (clauses, before, after) in [
            ("+x", 0o644, 0o755),
            ("u=rwX,go=rX", 0o644, 0o644),
            ("u=rwX,go=rX", 0o744, 0o755),
            ("g=u", 0o640, 0o660),
            ("go-rwx", 0o777, 0o700),
            ("u+s", 0o755, 0o4755),
            ("a=", 0o4777, 0),
            ("u=r", 0o4755, 0o455),
            ("+t", 0o777, 0o1777),
            ("u+x-w", 0o644, 0o544),
        ] {
            assert_eq!(apply(clauses, before), Some(after), "{clauses} on {before:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for bad in ["", "u", "z+x", "u+q", "10000", "888", "0o644", "u+rw,", "-1", "u=ug"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("0755").unwrap(), ModeChange::Octal(0o755));
        assert_eq!(parse("u+x").unwrap(), ModeChange::Symbolic("u+x".into()));
    }
}
