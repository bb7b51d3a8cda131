//! Two texts as a unified diff.

use std::fmt::Write as _;

/// Lines that are shown around each change.
const CONTEXT: usize = 3;
/// Insertions and deletions that are looked for; texts that differ more are shown as one change.
const MOST_EDITS: usize = 2_000;

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Kept,
    Removed,
    Added,
}

/// The changes that make `after` of `before`, in the form of `diff -u`; empty where there are none.
pub(super) fn unified(name: &str, before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let script = script(&old, &new);
    let mut text = format!("--- {name}\n+++ {name}\n");
    let changed: Vec<usize> = (0..script.len()).filter(|at| script[*at].0 != Change::Kept).collect();
    let mut next = 0;
    while let Some(&first) = changed.get(next) {
        let start = first.saturating_sub(CONTEXT);
        let mut last = first;
        while let Some(&following) = changed
            .get(next + 1)
            .filter(|following| **following <= last + 2 * CONTEXT)
        {
            last = following;
            next += 1;
        }
        next += 1;
        hunk(&mut text, &script, start..(last + CONTEXT + 1).min(script.len()));
    }
    text
}

fn hunk(text: &mut String, script: &[(Change, &str)], range: std::ops::Range<usize>) {
    let count = |range: std::ops::Range<usize>, other: Change| {
        script[range].iter().filter(|(change, _)| *change != other).count()
    };
    let (old, new) = (
        count(0..range.start, Change::Added),
        count(0..range.start, Change::Removed),
    );
    let (olds, news) = (
        count(range.clone(), Change::Added),
        count(range.clone(), Change::Removed),
    );
    // Writing to a String cannot fail.
    let _ = writeln!(text, "@@ -{},{olds} +{},{news} @@", old + 1, new + 1);
    for (change, line) in &script[range] {
        let mark = match change {
            Change::Kept => ' ',
            Change::Removed => '-',
            Change::Added => '+',
        };
        let _ = writeln!(text, "{mark}{line}");
    }
}

/// Every line of both, in order. What both begin and end with is not searched.
fn script<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(Change, &'t str)> {
    let head = old.iter().zip(new).take_while(|(one, other)| one == other).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(|(one, other)| one == other)
        .count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let kept = |lines: &[&'t str]| lines.iter().map(|line| (Change::Kept, *line)).collect::<Vec<_>>();
    let mut script = kept(&old[..head]);
    script.extend(shortest(old_middle, new_middle));
    script.extend(kept(&old_rest[old_rest.len() - tail..]));
    script
}

/// The shortest way from one to the other.
///
/// Source: E. W. Myers, "An O(ND) Difference Algorithm and Its Variations".
fn shortest<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(Change, &'t str)> {
    let most = (old.len() + new.len()).min(MOST_EDITS);
    let offset = most as isize + 1;
    let at = |diagonal: isize| (diagonal + offset) as usize;
    let mut reached = vec![0usize; 2 * most + 3];
    let mut rounds = Vec::new();
    for edits in 0..=most as isize {
        rounds.push(reached.clone());
        for diagonal in (-edits..=edits).step_by(2) {
            let down =
                diagonal == -edits || (diagonal != edits && reached[at(diagonal - 1)] < reached[at(diagonal + 1)]);
            let mut x = if down {
                reached[at(diagonal + 1)]
            } else {
                reached[at(diagonal - 1)] + 1
            };
            let mut y = (x as isize - diagonal) as usize;
            while x < old.len() && y < new.len() && old[x] == new[y] {
                (x, y) = (x + 1, y + 1);
            }
            reached[at(diagonal)] = x;
            if x >= old.len() && y >= new.len() {
                return walked_back(old, new, &rounds, offset);
            }
        }
    }
    let removed = old.iter().map(|line| (Change::Removed, *line));
    removed.chain(new.iter().map(|line| (Change::Added, *line))).collect()
}

fn walked_back<'t>(old: &[&'t str], new: &[&'t str], rounds: &[Vec<usize>], offset: isize) -> Vec<(Change, &'t str)> {
    let (mut x, mut y) = (old.len(), new.len());
    let mut script = Vec::new();
    for (edits, reached) in rounds.iter().enumerate().rev() {
        let (edits, diagonal) = (edits as isize, x as isize - y as isize);
        let at = |diagonal: isize| reached[(diagonal + offset) as usize];
        let down = diagonal == -edits || (diagonal != edits && at(diagonal - 1) < at(diagonal + 1));
        let before = if down { diagonal + 1 } else { diagonal - 1 };
        let (from_x, from_y) = match edits {
            0 => (0, 0),
            _ => (at(before), (at(before) as isize - before) as usize),
        };
        while x > from_x && y > from_y {
            (x, y) = (x - 1, y - 1);
            script.push((Change::Kept, old[x]));
        }
        if edits > 0 && down {
            y -= 1;
            script.push((Change::Added, new[y]));
        } else if edits > 0 {
            x -= 1;
            script.push((Change::Removed, old[x]));
        }
    }
    script.reverse();
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_stands_among_the_lines_around_it() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let after = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n";
        let expected = "--- f\n+++ f\n@@ -2,8 +2,9 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n+10\n";
        assert_eq!(unified("f", before, after), expected);
        assert_eq!(unified("f", before, before), "");
    }

    #[test]
    fn a_script_leads_from_one_to_the_other() {
        let texts = [
            "",
            "a",
            "a b c",
            "c b a",
            "a a b b",
            "x a y b z",
            "b c d e f g",
            "g f e d c b a",
        ];
        for one in texts {
            for other in texts {
                let lines = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
                let (old, new) = (lines(one), lines(other));
                let script = script(&old, &new);
                let side = |left_out: Change| -> Vec<&str> {
                    let kept = script.iter().filter(|(change, _)| *change != left_out);
                    kept.map(|(_, line)| *line).collect()
                };
                assert_eq!(side(Change::Added), old, "{one} → {other}");
                assert_eq!(side(Change::Removed), new, "{one} → {other}");
            }
        }
    }

    #[test]
    fn texts_that_differ_in_all_are_shown_as_one_change() {
        let long = |letter: &str| format!("{letter}\n").repeat(3_000);
        assert_eq!(unified("f", &long("a"), &long("b")).lines().count(), 6_003);
    }
}
