//! `.dockerignore`, and `--exclude` of COPY and ADD: which paths are left out.
//!
//! The language is that of moby's `patternmatcher`: the last rule that matches a path, or a directory above it, decides;
//! `!` takes a path back in; patterns are anchored at the root. Two accidents of its translation to regular expressions
//! are not followed: `\d` is the letter `d`, not a digit, and `^` outside a class is itself; and `**` matches names
//! with a line feed in them too.

use std::path::{Path, PathBuf};

use super::metadata::parent_of;
use super::pattern::{Pattern, PatternError, Token};

/// The rules of one ignore file, in its order.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
}

/// A line of an ignore file.
#[derive(Clone, Debug)]
pub struct Rule {
    line: usize,
    text: String,
    effect: Effect,
    shape: Shape,
    pattern: Pattern,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Exclude,
    Include,
}

/// How a rule is matched: most rules need no pattern matching.
#[derive(Clone, Debug)]
enum Shape {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    /// `**` and this: the path ends with it; or is it, without the `/` that it begins with.
    Suffix(Vec<u8>),
    General,
}

/// An ignore file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: `{pattern}`: {source}", file.display())]
pub struct IgnoreError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What stands there.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub source: PatternError,
}

/// Which rules match a directory or one above it: what matching below it starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryMatches(Vec<bool>);

impl IgnoreRules {
    /// Reads an ignore file; `file` is how errors name it. Invalid UTF-8 is replaced.
    ///
    /// # Errors
    /// The first line whose pattern is malformed.
    pub fn parse(content: &[u8], file: &Path) -> Result<Self, IgnoreError> {
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let content = String::from_utf8_lossy(content);
        let mut rules = Vec::new();
        for (index, line) in content.split('\n').enumerate() {
            if line.starts_with('#') {
                continue;
            }
            rules.extend(Rule::parse(line, index + 1).map_err(|source| IgnoreError {
                file: file.to_owned(),
                line: index + 1,
                pattern: line.trim().to_owned(),
                source,
            })?);
        }
        Ok(Self { rules })
    }

    /// Rules from the values of a repeated flag: each is a pattern, none a comment.
    ///
    /// # Errors
    /// The first malformed pattern, with it.
    pub fn from_patterns<S: AsRef<str>>(patterns: &[S]) -> Result<Self, (String, PatternError)> {
        let mut rules = Vec::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let pattern = pattern.as_ref();
            rules.extend(Rule::parse(pattern, index + 1).map_err(|error| (pattern.to_owned(), error))?);
        }
        Ok(Self { rules })
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule takes something back in: then a path may be wanted although a directory above it is not.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.effect == Effect::Include)
    }

    /// Whether `path` (relative, clean, `/` between its components) is left out.
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.excluding_rule(path).is_some()
    }

    /// The rule that leaves `path` out, where one does.
    pub fn excluding_rule(&self, path: &[u8]) -> Option<&Rule> {
        let parent = self.enter_all(parent_of(path));
        self.deciding_rule(&parent, path)
            .filter(|rule| rule.effect == Effect::Exclude)
    }

    /// Whether the directory `path` is left out with everything below it.
    pub fn may_skip_directory(&self, path: &[u8]) -> bool {
        self.may_skip(&self.enter_all(path), path)
    }

    /// What matching at the root starts from.
    pub fn at_root(&self) -> DirectoryMatches {
        DirectoryMatches(vec![false; self.rules.len()])
    }

    /// What matching below the directory `path` starts from, given the same for the directory that holds it.
    pub fn enter(&self, parent: &DirectoryMatches, path: &[u8]) -> DirectoryMatches {
        let matched = self.rules.iter().zip(&parent.0);
        DirectoryMatches(matched.map(|(rule, &above)| above || rule.matches(path)).collect())
    }

    /// [`Self::enter`], from the root down to `path`; the empty path is the root.
    pub fn enter_all(&self, path: &[u8]) -> DirectoryMatches {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = ends.map(|(at, _)| at).chain((!path.is_empty()).then_some(path.len()));
        ends.fold(self.at_root(), |above, end| self.enter(&above, &path[..end]))
    }

    /// [`Self::excludes`], given what holds for the directory that holds `path`.
    pub fn excludes_below(&self, parent: &DirectoryMatches, path: &[u8]) -> bool {
        self.deciding_rule(parent, path)
            .is_some_and(|rule| rule.effect == Effect::Exclude)
    }

    /// Whether the directory `path`, whose own matches these are, is left out with everything below it.
    pub fn may_skip(&self, matches: &DirectoryMatches, path: &[u8]) -> bool {
        let Some(deciding) = matches.0.iter().rposition(|matched| *matched) else {
            return false;
        };
        // What the deciding rule matches, it matches for everything below; only later rules can still speak.
        self.rules[deciding].effect == Effect::Exclude
            && !self.rules[deciding + 1..]
                .iter()
                .any(|rule| rule.effect == Effect::Include && rule.pattern.can_match_below(path))
    }

    /// Whether a rule can match something below the directory `path`.
    pub(super) fn can_match_below(&self, path: &[u8]) -> bool {
        self.rules.iter().any(|rule| rule.pattern.can_match_below(path))
    }

    fn deciding_rule(&self, parent: &DirectoryMatches, path: &[u8]) -> Option<&Rule> {
        // The root is what is asked for: only what is in it can be left out.
        if path.is_empty() {
            return None;
        }
        let rules = self.rules.iter().zip(&parent.0).rev();
        let mut deciding = rules.filter(|(rule, above)| **above || rule.matches(path));
        deciding.next().map(|(rule, _)| rule)
    }
}

impl Rule {
    /// The line in the file, or the place among the flags; from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The rule as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn parse(line: &str, number: usize) -> Result<Option<Self>, PatternError> {
        let text = line.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let (effect, pattern) = match text.strip_prefix('!') {
            Some(pattern) => (Effect::Include, pattern.trim()),
            None => (Effect::Exclude, text),
        };
        if pattern.is_empty() {
            return Err(PatternError::NothingToNegate);
        }
        let cleaned = clean(pattern);
        let (shape, pattern) = compile(&cleaned)?;
        Ok(Some(Self {
            line: number,
            text: text.to_owned(),
            effect,
            shape,
            pattern,
        }))
    }

    fn matches(&self, path: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact(text) => path == text,
            Shape::Prefix(text) => path.starts_with(text),
            Shape::Suffix(text) => path.ends_with(text) || text.strip_prefix(b"/") == Some(path),
            Shape::General => self.pattern.matches(path),
        }
    }
}

/// Go's `filepath.Clean`, without a leading `/`.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => drop(kept.pop()),
            // What lies above the root is the root; relative to the context it lies outside and matches nothing.
            ".." if path.starts_with('/') => {}
            other => kept.push(other),
        }
    }
    if kept.is_empty() {
        ".".to_owned()
    } else {
        kept.join("/")
    }
}

/// As moby's `Pattern.compile`: `**` swallows a `/` after it; elsewhere than at the end it stands for whole directories.
fn compile(pattern: &str) -> Result<(Shape, Pattern), PatternError> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        let following = &rest[character.len_utf8()..];
        let (token, after) = match following.strip_prefix('*') {
            Some(after) if character == '*' => {
                let after = after.strip_prefix('/').unwrap_or(after);
                let token = if after.is_empty() {
                    Token::Anything
                } else {
                    Token::Directories
                };
                (token, after)
            }
            _ => Token::parse(character, following)?,
        };
        tokens.push(token);
        rest = after;
    }
    let compiled = Pattern::new(tokens);
    Ok(match compiled.tokens() {
        [Token::Literal(text)] => (Shape::Exact(text.clone()), compiled),
        [Token::Anything] => (Shape::Prefix(Vec::new()), compiled),
        [Token::Literal(text), Token::Anything] => (Shape::Prefix(text.clone()), compiled),
        [Token::Directories, Token::Literal(text)] if !pattern.contains('\\') => suffix(pattern, text),
        _ => (Shape::General, compiled),
    })
}

/// `**/name` and `**name`: only where nothing else is special does moby let the second match within a component.
fn suffix(pattern: &str, literal: &[u8]) -> (Shape, Pattern) {
    let text = &pattern.as_bytes()[2..];
    let tokens = if text.starts_with(b"/") {
        [Token::Directories, Token::Literal(literal.to_vec())]
    } else {
        [Token::Anything, Token::Literal(literal.to_vec())]
    };
    (Shape::Suffix(text.to_vec()), Pattern::new(tokens))
}
