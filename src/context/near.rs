//! Names that a missing one may have been meant for.

/// Names suggested at most.
const MOST: usize = 3;

/// Those of `names` that are closest to `missing`, closest first: the same but for case, or a few letters off.
pub(super) fn near<'a>(missing: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let bound = (missing.chars().count() / 3).clamp(1, 3);
    let lower = missing.to_lowercase();
    let mut close: Vec<(usize, &str)> = names
        .into_iter()
        .filter(|name| name.len().abs_diff(missing.len()) <= 4 * bound)
        .map(|name| (distance(&lower, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= bound)
        .collect();
    close.sort_unstable();
    close.into_iter().take(MOST).map(|(_, name)| name.to_owned()).collect()
}

/// Levenshtein's: letters added, dropped or replaced.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (at, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_near_and_other_names_are_not() {
        let names = ["app.py", "Makefile", "requirements.txt", "src"];
        assert_eq!(near("ap.py", names), ["app.py"]);
        assert_eq!(near("makefile", names), ["Makefile"]);
        assert_eq!(near("requirement.txt", names), ["requirements.txt"]);
        assert!(near("main.go", names).is_empty());
        assert_eq!(
            (distance("", "abc"), distance("kitten", "sitting"), distance("a", "a")),
            (3, 3, 0)
        );
    }
}
