//! Matching of path patterns in time linear in pattern and path.
//!
//! Owns the compiled form that `glob` (Go's `filepath.Match`) and `ignore` (`.dockerignore`) share: a sequence of
//! tokens, and the set of places in a path that the tokens read so far can reach. There is no backtracking, so no
//! pattern however hostile takes longer than its length times the path's. Works on bytes: names need not be UTF-8.

/// A piece of a pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// These bytes.
    Literal(Vec<u8>),
    /// `?`: one character, not `/`.
    One,
    /// `[a-z]`: one character of a set.
    Class(Class),
    /// `*`: any run without `/`.
    Run,
    /// `**/`: nothing, or any run that ends with `/`.
    Directories,
    /// `**` at an end: anything.
    Anything,
}

/// A set of characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

/// Why a pattern cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// `[abc`
    #[error("a `[` is never closed")]
    UnclosedClass,
    /// `[]`, `[a-]`, `[-z]`
    #[error("a `[…]` has an empty set or half a range; write `\\-` or `\\]` for the character itself")]
    MalformedClass,
    /// `abc\`
    #[error("a `\\` at the end escapes nothing")]
    TrailingBackslash,
    /// `!`
    #[error("a `!` stands before no pattern")]
    NothingToNegate,
}

impl Class {
    /// Reads a class whose `[` has been read; gives it and what follows its `]`. As Go's `filepath.Match`.
    pub(super) fn parse(mut rest: &str) -> Result<(Self, &str), PatternError> {
        let negated = rest.starts_with('^');
        if negated {
            rest = &rest[1..];
        }
        let mut ranges = Vec::new();
        loop {
            if let (Some(after), false) = (rest.strip_prefix(']'), ranges.is_empty()) {
                return Ok((Self { negated, ranges }, after));
            }
            let (low, after) = Self::bound(rest)?;
            let (high, after) = match after.strip_prefix('-') {
                Some(after) => Self::bound(after)?,
                None => (low, after),
            };
            ranges.push((low, high));
            rest = after;
        }
    }

    fn bound(rest: &str) -> Result<(char, &str), PatternError> {
        let mut characters = rest.chars();
        let character = match characters.next().ok_or(PatternError::UnclosedClass)? {
            '-' | ']' => return Err(PatternError::MalformedClass),
            '\\' => characters.next().ok_or(PatternError::TrailingBackslash)?,
            character => character,
        };
        Ok((character, characters.as_str()))
    }

    fn contains(&self, character: char) -> bool {
        self.ranges
            .iter()
            .any(|&(low, high)| low <= character && character <= high)
            != self.negated
    }
}

/// A compiled pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Joins neighbouring literals, so that they are compared at once.
    pub(super) fn new(tokens: impl IntoIterator<Item = Token>) -> Self {
        let mut joined: Vec<Token> = Vec::new();
        for token in tokens {
            match (joined.last_mut(), token) {
                (Some(Token::Literal(text)), Token::Literal(more)) => text.extend(more),
                (_, token) => joined.push(token),
            }
        }
        Self { tokens: joined }
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether the pattern matches the whole of `path`.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        if !self.ends_fit(path) {
            return false;
        }
        with_places(path.len(), |places| {
            for token in &self.tokens {
                token.advance(path, places);
            }
            places[path.len()]
        })
    }

    /// Whether the pattern can match some path below the directory `directory`.
    pub(super) fn can_match_below(&self, directory: &[u8]) -> bool {
        if directory.is_empty() {
            return true;
        }
        let mut prefix = Vec::with_capacity(directory.len() + 1);
        prefix.extend_from_slice(directory);
        prefix.push(b'/');
        with_places(prefix.len(), |places| {
            for token in &self.tokens {
                if token.can_pass(&prefix, places) {
                    return true;
                }
                token.advance(&prefix, places);
            }
            false
        })
    }

    /// A cheap look at the literals at both ends, which settles most paths.
    fn ends_fit(&self, path: &[u8]) -> bool {
        let head = match self.tokens.first() {
            Some(Token::Literal(text)) => path.starts_with(text),
            _ => true,
        };
        head && match self.tokens.last() {
            Some(Token::Literal(text)) => path.ends_with(text),
            _ => true,
        }
    }
}

impl Token {
    /// The token that begins with `character`, and what comes after it in `rest`: everything but `**`, of which the two
    /// kinds of pattern think differently.
    pub(super) fn parse(character: char, rest: &str) -> Result<(Self, &str), PatternError> {
        Ok(match character {
            '*' => (Token::Run, rest),
            '?' => (Token::One, rest),
            '[' => {
                let (class, after) = Class::parse(rest)?;
                (Token::Class(class), after)
            }
            '\\' => {
                let escaped = rest.chars().next().ok_or(PatternError::TrailingBackslash)?;
                (
                    Token::Literal(escaped.to_string().into_bytes()),
                    &rest[escaped.len_utf8()..],
                )
            }
            other => (Token::Literal(other.to_string().into_bytes()), rest),
        })
    }

    /// Moves the reachable places over the token.
    fn advance(&self, path: &[u8], places: &mut [bool]) {
        match self {
            Token::Literal(text) => step(path, places, |rest| rest.starts_with(text).then_some(text.len())),
            Token::One => step(path, places, |rest| {
                let (_, length) = first_character(rest)?;
                (rest[0] != b'/').then_some(length)
            }),
            Token::Class(class) => step(path, places, |rest| {
                let (character, length) = first_character(rest)?;
                class.contains(character).then_some(length)
            }),
            Token::Run => {
                for place in 0..path.len() {
                    places[place + 1] |= places[place] && path[place] != b'/';
                }
            }
            Token::Directories => {
                let mut reached = false;
                for place in 0..path.len() {
                    reached |= places[place];
                    places[place + 1] |= reached && path[place] == b'/';
                }
            }
            Token::Anything => {
                let mut reached = false;
                for place in places.iter_mut() {
                    reached |= *place;
                    *place = reached;
                }
            }
        }
    }

    /// Whether the token can begin at or before the end of `prefix` and go on past it.
    fn can_pass(&self, prefix: &[u8], places: &[bool]) -> bool {
        if places[prefix.len()] {
            return true;
        }
        match self {
            Token::Anything | Token::Directories => places.contains(&true),
            Token::Literal(text) => (0..prefix.len())
                .any(|at| places[at] && text.len() > prefix.len() - at && text.starts_with(&prefix[at..])),
            Token::One | Token::Class(_) | Token::Run => false,
        }
    }
}

/// Replaces each reachable place by the one that `length` says lies after it.
fn step(path: &[u8], places: &mut [bool], length: impl Fn(&[u8]) -> Option<usize>) {
    // From the right: a place is read before anything to its left can be moved onto it.
    for place in (0..=path.len()).rev() {
        if std::mem::take(&mut places[place])
            && let Some(length) = length(&path[place..])
        {
            places[place + length] = true;
        }
    }
}

/// The first character and its length; bytes that are no UTF-8 count as U+FFFD, one each, as in Go.
fn first_character(bytes: &[u8]) -> Option<(char, usize)> {
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(character) => Some((character, character.len_utf8())),
        None => (!bytes.is_empty()).then_some((char::REPLACEMENT_CHARACTER, 1)),
    }
}

/// Calls `run` with the places of a path of `length` bytes, of which only the first is reachable.
fn with_places<T>(length: usize, run: impl FnOnce(&mut [bool]) -> T) -> T {
    const ON_STACK: usize = 256;
    if length < ON_STACK {
        let mut places = [false; ON_STACK];
        places[0] = true;
        run(&mut places[..=length])
    } else {
        let mut places = vec![false; length + 1];
        places[0] = true;
        run(&mut places)
    }
}
