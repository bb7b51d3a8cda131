//! "Did you mean": the known word that a mistyped one is nearest to.

/// The longest word that is compared; what is longer is no slip of the fingers.
const MAX_WORD_BYTES: usize = 64;

/// The known word nearest to `word`, if one is near enough: a third of its letters may differ, at least one.
/// Case does not count, but where two are equally near.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.is_empty() || word.len() > MAX_WORD_BYTES {
        return None;
    }
    let letters = |word: &str| word.chars().collect::<Vec<_>>();
    let (lower, exact) = (letters(&word.to_lowercase()), letters(word));
    let allowed = (lower.len() + 1).div_euclid(3).max(1);
    let (distance, _, nearest) = known
        .into_iter()
        .map(|candidate| {
            let distance_in_lower = distance(&lower, &letters(&candidate.to_lowercase()));
            (distance_in_lower, distance(&exact, &letters(candidate)), candidate)
        })
        .min_by_key(|(distance, exact, _)| (*distance, *exact))?;
    (distance <= allowed).then_some(nearest)
}

/// How many letters must be inserted, removed, replaced, or swapped with their neighbour.
///
/// Source: the optimal string alignment distance.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before_last = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut current = vec![0; to.len() + 1];
    for i in 1..=from.len() {
        current[0] = i;
        for j in 1..=to.len() {
            let replaced = last[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            current[j] = replaced.min(last[j] + 1).min(current[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                current[j] = current[j].min(before_last[j - 2] + 1);
            }
        }
        std::mem::swap(&mut before_last, &mut last);
        std::mem::swap(&mut last, &mut current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        assert_eq!(nearest("RNU", ["RUN", "USER"]), Some("RUN"));
        assert_eq!(nearest("copyy", ["COPY", "CMD"]), Some("COPY"));
        assert_eq!(nearest("entypoint", ["ENV", "ENTRYPOINT"]), Some("ENTRYPOINT"));
        assert_eq!(nearest("banana", ["COPY", "CMD"]), None);
        assert_eq!(nearest("A1b", ["a_b", "A1"]), Some("A1"));
        assert_eq!(nearest("unset", ["set"]), Some("set"));
        assert_eq!(nearest("", ["COPY"]), None);
    }
}
