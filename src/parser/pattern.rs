//! The patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/text}`: `*`, `?`, and `\` before either.
//!
//! Time is bounded by the pattern's length times the value's: states are followed side by side, nothing backtracks.

use std::ops::Range;

/// How many steps one expansion may spend on matching.
const MAX_STEPS: usize = 10_000_000;

/// One part of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// `*`: any characters of one line.
    Any,
    /// `?`: one character that is no newline.
    One,
    /// The character itself.
    Char(char),
}

impl Part {
    fn takes(self, ch: char) -> bool {
        match self {
            Part::Any | Part::One => ch != '\n',
            Part::Char(own) => own == ch,
        }
    }
}

/// Which of several matches is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// The one that ends first.
    Shortest,
    /// The one that ends last.
    Longest,
}

/// Why a pattern cannot be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PatternProblem {
    /// A `\` before a character that needs none, or at the end.
    Escape,
    /// Matching would take too long.
    TooCostly,
}

/// A pattern, parsed.
pub(super) struct Pattern {
    parts: Vec<Part>,
    steps: usize,
}

impl Pattern {
    /// Reads a pattern. `\` stands before `*`, `?`, `\`, and before `}` and `/`, which end patterns in `${…}`.
    pub fn parse(text: &str) -> Result<Pattern, PatternProblem> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(ch) = chars.next() {
            parts.push(match ch {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Part::Char(escaped),
                    _ => return Err(PatternProblem::Escape),
                },
                ch => Part::Char(ch),
            });
        }
        parts.dedup_by(|part, before| *part == Part::Any && *before == Part::Any);
        Ok(Pattern { parts, steps: 0 })
    }

    /// `value` without what the pattern matches at its head.
    pub fn without_prefix(&mut self, value: &str, reach: Reach) -> Result<String, PatternProblem> {
        let chars: Vec<char> = value.chars().collect();
        let end = self
            .find(&chars, 0, reach, Start::Anchored)?
            .map_or(0, |found| found.end);
        Ok(chars[end..].iter().collect())
    }

    /// `value` without what the pattern matches at its tail.
    pub fn without_suffix(&mut self, value: &str, reach: Reach) -> Result<String, PatternProblem> {
        let reversed: Vec<char> = value.chars().rev().collect();
        self.parts.reverse();
        let found = self.find(&reversed, 0, reach, Start::Anchored);
        self.parts.reverse();
        let end = found?.map_or(0, |found| found.end);
        Ok(reversed[end..].iter().rev().collect())
    }

    /// `value` with the first match replaced.
    pub fn replace_first(&mut self, value: &str, by: &str) -> Result<String, PatternProblem> {
        let chars: Vec<char> = value.chars().collect();
        let Some(found) = self.find(&chars, 0, Reach::Longest, Start::Anywhere)? else {
            return Ok(value.to_owned());
        };
        let mut replaced: String = chars[..found.start].iter().collect();
        replaced.push_str(by);
        replaced.extend(&chars[found.end..]);
        Ok(replaced)
    }

    /// `value` with every match replaced, or nothing if that grows beyond `limit` bytes. An empty match right behind
    /// another match does not count.
    pub fn replace_all(&mut self, value: &str, by: &str, limit: usize) -> Result<Option<String>, PatternProblem> {
        let chars: Vec<char> = value.chars().collect();
        let mut replaced = String::new();
        let (mut copied, mut at) = (0, 0);
        while at <= chars.len() && replaced.len() <= limit {
            let Some(found) = self.find(&chars, at, Reach::Longest, Start::Anywhere)? else {
                break;
            };
            replaced.extend(&chars[copied..found.start]);
            if found.end > copied || found.start == 0 {
                replaced.push_str(by);
            }
            copied = found.end;
            at = found.end.max(at + 1);
        }
        replaced.extend(&chars[copied..]);
        Ok((replaced.len() <= limit).then_some(replaced))
    }

    /// The leftmost match at or after `from`.
    ///
    /// Each state, which is a place between two parts, knows the earliest start among the matches that reached it.
    fn find(
        &mut self,
        value: &[char],
        from: usize,
        reach: Reach,
        start: Start,
    ) -> Result<Option<Range<usize>>, PatternProblem> {
        let last = self.parts.len();
        let mut states: Vec<Option<usize>> = vec![None; last + 1];
        let mut best: Option<Range<usize>> = None;
        for at in from..=value.len() {
            self.steps += last + 1;
            if self.steps > MAX_STEPS {
                return Err(PatternProblem::TooCostly);
            }
            if best.is_none() && (at == from || start == Start::Anywhere) {
                states[0] = Some(states[0].map_or(at, |earlier| earlier.min(at)));
            }
            self.skip_any(&mut states);
            if let Some(begin) = states[last]
                && best.as_ref().is_none_or(|best| begin <= best.start)
            {
                best = Some(begin..at);
                if reach == Reach::Shortest {
                    break;
                }
            }
            let Some(ch) = value.get(at) else { break };
            self.step(&mut states, *ch);
            if let Some(best) = &best {
                states
                    .iter_mut()
                    .for_each(|state| *state = state.filter(|begin| *begin <= best.start));
            }
            let alive = states.iter().any(Option::is_some);
            if !alive && (best.is_some() || start == Start::Anchored) {
                break;
            }
        }
        Ok(best)
    }

    /// `*` may match nothing.
    fn skip_any(&self, states: &mut [Option<usize>]) {
        for (index, part) in self.parts.iter().enumerate() {
            if *part == Part::Any {
                states[index + 1] = earliest(states[index + 1], states[index]);
            }
        }
    }

    fn step(&self, states: &mut [Option<usize>], ch: char) {
        states[self.parts.len()] = None;
        for (index, part) in self.parts.iter().enumerate().rev() {
            let begin = states[index].take().filter(|_| part.takes(ch));
            let next = if *part == Part::Any { index } else { index + 1 };
            states[next] = earliest(states[next], begin);
        }
    }
}

fn earliest(one: Option<usize>, other: Option<usize>) -> Option<usize> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

/// Where a match may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    /// At the first place that is looked at.
    Anchored,
    /// Anywhere behind it.
    Anywhere,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(pattern: &str, value: &str, reach: Reach) -> String {
        Pattern::parse(pattern).unwrap().without_prefix(value, reach).unwrap()
    }

    fn suffix(pattern: &str, value: &str, reach: Reach) -> String {
        Pattern::parse(pattern).unwrap().without_suffix(value, reach).unwrap()
    }

    fn all(pattern: &str, value: &str, by: &str) -> String {
        Pattern::parse(pattern)
            .unwrap()
            .replace_all(value, by, 1000)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn heads_and_tails() {
        assert_eq!(prefix("*/", "a/b/c", Reach::Shortest), "b/c");
        assert_eq!(prefix("*/", "a/b/c", Reach::Longest), "c");
        assert_eq!(suffix(".*", "a.tar.gz", Reach::Shortest), "a.tar");
        assert_eq!(suffix(".*", "a.tar.gz", Reach::Longest), "a");
        assert_eq!(prefix("b", "abc", Reach::Longest), "abc");
        assert_eq!(prefix("??", "abc", Reach::Longest), "c");
        assert_eq!(suffix(r"\*", "ab*", Reach::Longest), "ab");
        assert_eq!(prefix("*", "a\nb", Reach::Longest), "\nb");
        assert_eq!(suffix("é*", "aéb", Reach::Shortest), "a");
    }

    #[test]
    fn replacing() {
        assert_eq!(Pattern::parse("b*").unwrap().replace_first("abcb", "X").unwrap(), "aX");
        assert_eq!(Pattern::parse("z").unwrap().replace_first("abc", "X").unwrap(), "abc");
        assert_eq!(all("b", "abcb", "X"), "aXcX");
        assert_eq!(all("", "abc", "-"), "-a-b-c-");
        assert_eq!(all("*", "abc", "X"), "X");
        assert_eq!(all("?", "abc", "xy"), "xyxyxy");
        assert_eq!(all("ab", "aab", "X"), "aX");
        assert_eq!(
            Pattern::parse("a").unwrap().replace_all("aaaa", "12345", 10).unwrap(),
            None
        );
    }

    #[test]
    fn escapes() {
        assert_eq!(Pattern::parse(r"\a").err(), Some(PatternProblem::Escape));
        assert_eq!(Pattern::parse("a\\").err(), Some(PatternProblem::Escape));
        assert_eq!(all(r"\/", "a/b", r"."), "a.b");
        assert_eq!(all(r"\}", "a}b", "."), "a.b");
    }

    #[test]
    fn a_costly_pattern_ends() {
        let pattern = "*a".repeat(2000);
        let value = "a".repeat(20_000);
        assert_eq!(
            Pattern::parse(&pattern).unwrap().replace_first(&value, ""),
            Err(PatternProblem::TooCostly)
        );
        let quick = Pattern::parse("*a*a*a*b").unwrap().replace_first(&value, "");
        assert_eq!(quick.unwrap(), value);
    }
}
