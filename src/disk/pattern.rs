//! Patterns of filters: letters that stand for themselves, `.` for any one, `*` after either for any number of it, `^` and
//! `$` for the ends, and `\` before what is to stand for itself.

/// What one place of a pattern accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum One {
    Any,
    This(char),
}

/// A pattern that is looked for anywhere in a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    parts: Vec<(One, bool)>,
    from_start: bool,
    to_end: bool,
}

/// A sign that means something in other patterns, and nothing here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownSign(pub char);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, UnknownSign> {
        let (from_start, text) = match text.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut parts: Vec<(One, bool)> = Vec::new();
        let mut to_end = false;
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '$' if letters.peek().is_none() => to_end = true,
                '*' => match parts.last_mut() {
                    Some((_, repeated)) if !*repeated => *repeated = true,
                    _ => return Err(UnknownSign('*')),
                },
                '.' => parts.push((One::Any, false)),
                '\\' => match letters.next() {
                    Some(escaped) => parts.push((One::This(escaped), false)),
                    None => return Err(UnknownSign('\\')),
                },
                '[' | ']' | '(' | ')' | '{' | '}' | '+' | '?' | '|' => return Err(UnknownSign(letter)),
                letter => parts.push((One::This(letter), false)),
            }
        }
        Ok(Self {
            parts,
            from_start,
            to_end,
        })
    }

    /// Whether it is found in `text`. The work is bounded by the product of their lengths.
    pub(super) fn is_in(&self, text: &str) -> bool {
        let count = self.parts.len();
        let mut here = vec![false; count + 1];
        here[0] = true;
        self.skip(&mut here);
        for letter in text.chars() {
            if here[count] && !self.to_end {
                return true;
            }
            let mut next = vec![false; count + 1];
            next[0] = !self.from_start;
            for (place, (one, repeated)) in self.parts.iter().enumerate() {
                if here[place] && (*one == One::Any || *one == One::This(letter)) {
                    next[if *repeated { place } else { place + 1 }] = true;
                }
            }
            self.skip(&mut next);
            here = next;
        }
        here[count]
    }

    /// What is repeated may be there no time at all.
    fn skip(&self, places: &mut [bool]) {
        for (place, (_, repeated)) in self.parts.iter().enumerate() {
            if places[place] && *repeated {
                places[place + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_where_it_is() {
        for (pattern, text, found) in [
            ("npm", "RUN npm ci", true),
            ("npm", "RUN yarn", false),
            ("^RUN", "RUN npm", true),
            ("^npm", "RUN npm", false),
            ("ci$", "RUN npm ci", true),
            ("npm$", "RUN npm ci", false),
            ("^RUN .*ci$", "RUN npm ci", true),
            ("n.m", "RUN npm ci", true),
            ("ab*c", "ac", true),
            ("ab*c", "abbbc", true),
            ("ab*c", "adc", false),
            ("^$", "", true),
            ("^$", "x", false),
            ("", "x", true),
            (r"a\.b", "axb", false),
            (r"a\.b", "a.b", true),
            ("^a.*b.*c$", "a1b2b3c", true),
        ] {
            assert_eq!(
                Pattern::parse(pattern).unwrap().is_in(text),
                found,
                "{pattern} in {text}"
            );
        }
        for (pattern, sign) in [
            ("*", '*'),
            ("a**", '*'),
            ("(a|b)", '('),
            ("a+", '+'),
            ("[a]", '['),
            ("\\", '\\'),
        ] {
            assert_eq!(Pattern::parse(pattern), Err(UnknownSign(sign)), "{pattern}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer() {
        let pattern = Pattern::parse(&("a*".repeat(200) + "b")).unwrap();
        let begin = std::time::Instant::now();
        assert!(!pattern.is_in(&"a".repeat(2000)));
        assert!(begin.elapsed().as_secs() < 5);
    }
}
