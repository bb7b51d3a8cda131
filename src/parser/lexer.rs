//! The word lexer itself: one pass over the text, operands of `${…}` by recursion, everything that is made counted.

use super::ast::Span;
use super::expand::{ExpandError, ExpandProblem, Lookup, MAX_EXPANSION_DEPTH};
use super::pattern::{Pattern, PatternProblem, Reach};

/// What becomes of quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Quotes {
    /// They are resolved and go.
    Remove,
    /// They are resolved and stay.
    Keep,
    /// They are characters like others.
    Plain,
}

/// What becomes of variables that are not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unset {
    /// They become nothing.
    Empty,
    /// They stay as they are written.
    Keep,
}

/// What becomes of escape characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Escapes {
    /// They go, and what follows is literal.
    Resolve,
    /// They stay, and what follows is literal.
    Keep,
}

/// How a text is read.
#[derive(Clone, Copy)]
pub(super) struct Mode {
    pub escape: char,
    pub quotes: Quotes,
    pub escapes: Escapes,
    pub unset: Unset,
}

impl Mode {
    /// The body of a heredoc that expands.
    pub const HEREDOC: Mode = Mode {
        escape: '\\',
        quotes: Quotes::Plain,
        escapes: Escapes::Resolve,
        unset: Unset::Empty,
    };

    /// A word of an instruction.
    pub fn word(escape: char) -> Mode {
        Mode {
            escape,
            quotes: Quotes::Remove,
            escapes: Escapes::Resolve,
            unset: Unset::Empty,
        }
    }
}

/// A problem and where in the text it is.
pub(super) struct Located {
    problem: ExpandProblem,
    at: usize,
    end: usize,
}

impl Located {
    /// The same, in the source.
    pub fn within(self, raw: &str, span: Span) -> ExpandError {
        let letter_by_letter = span.end - span.start == raw.len();
        let span = if letter_by_letter {
            Span {
                start: span.start + self.at,
                end: span.start + self.end.max(self.at),
            }
        } else {
            span
        };
        ExpandError {
            problem: self.problem,
            span,
        }
    }
}

/// The text, expanded.
pub(super) fn expand(text: &str, mode: Mode, lookup: Lookup<'_>, limit: usize) -> Result<String, Located> {
    let mut lexer = Lexer::new(text, mode, lookup, limit);
    let mut output = Output::text();
    lexer.read_until(None, &mut output)?;
    Ok(output.text)
}

/// The words of a text.
pub(super) fn split_words(text: &str, mode: Mode, lookup: Lookup<'_>, limit: usize) -> Result<Vec<String>, Located> {
    let mut lexer = Lexer::new(text, mode, lookup, limit);
    let mut output = Output {
        text: String::new(),
        words: Some(Vec::new()),
    };
    lexer.read_until(None, &mut output)?;
    output.end_word();
    Ok(output.words.unwrap_or_default())
}

/// What has been read so far; in words, `text` is the one that is being read.
struct Output {
    text: String,
    words: Option<Vec<String>>,
}

impl Output {
    fn text() -> Output {
        Output {
            text: String::new(),
            words: None,
        }
    }

    fn end_word(&mut self) {
        if let Some(words) = &mut self.words
            && !self.text.is_empty()
        {
            words.push(std::mem::take(&mut self.text));
        }
    }

    /// Adds a character that may divide words.
    fn push(&mut self, ch: char) {
        if self.words.is_some() && ch.is_whitespace() {
            self.end_word();
        } else {
            self.text.push(ch);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    mode: Mode,
    lookup: Lookup<'t>,
    depth: usize,
    limit: usize,
    made: usize,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str, mode: Mode, lookup: Lookup<'t>, limit: usize) -> Lexer<'t> {
        Lexer {
            text,
            at: 0,
            mode,
            lookup,
            depth: 0,
            limit,
            made: 0,
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let ch = self.peek()?;
        self.at += ch.len_utf8();
        Some(ch)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn problem(&self, problem: ExpandProblem, from: usize) -> Located {
        Located {
            problem,
            at: from,
            end: self.at.max(from + 1).min(self.text.len()),
        }
    }

    /// Counts what is made against the limit.
    fn make(&mut self, bytes: usize) -> Result<(), Located> {
        self.made = self.made.saturating_add(bytes);
        if self.made > self.limit {
            return Err(self.problem(ExpandProblem::TooLong(self.limit), self.at));
        }
        Ok(())
    }

    /// Reads up to `stop`, which is taken, or up to the end. Answers whether `stop` was found.
    fn read_until(&mut self, stop: Option<char>, output: &mut Output) -> Result<bool, Located> {
        while let Some(ch) = self.peek() {
            if Some(ch) == stop {
                self.at += ch.len_utf8();
                return Ok(true);
            }
            self.make(ch.len_utf8())?;
            match ch {
                '$' => self.variable()?.chars().for_each(|ch| output.push(ch)),
                '<' if output.words.is_some() => self.redirection(output),
                '\'' if self.mode.quotes != Quotes::Plain => self.single_quoted(output)?,
                '"' if self.mode.quotes != Quotes::Plain => self.double_quoted(output)?,
                _ if ch == self.mode.escape => self.escaped(output),
                _ => {
                    self.at += ch.len_utf8();
                    output.push(ch);
                }
            }
        }
        Ok(false)
    }

    /// `<<` keeps the blanks behind it, so that a heredoc's delimiter may stand apart.
    fn redirection(&mut self, output: &mut Output) {
        let start = self.at;
        self.at += 1;
        if self.take('<') {
            while self.peek().is_some_and(|ch| matches!(ch, '\t' | '\r' | ' ')) {
                self.at += 1;
            }
        }
        output.text.push_str(&self.text[start..self.at]);
    }

    /// An escape character at the very end goes.
    fn escaped(&mut self, output: &mut Output) {
        self.at += self.mode.escape.len_utf8();
        if self.mode.escapes == Escapes::Keep {
            output.text.push(self.mode.escape);
        }
        output.text.extend(self.next());
    }

    fn single_quoted(&mut self, output: &mut Output) -> Result<(), Located> {
        let start = self.at;
        let inside = start + 1;
        let Some(length) = self.text[inside..].find('\'') else {
            return Err(self.problem(ExpandProblem::UnclosedQuote('\''), start));
        };
        self.at = inside + length + 1;
        self.make(length)?;
        let kept = if self.mode.quotes == Quotes::Keep {
            start..self.at
        } else {
            inside..inside + length
        };
        output.text.push_str(&self.text[kept]);
        Ok(())
    }

    /// Inside, the escape character is special before `"`, `$` and itself alone.
    fn double_quoted(&mut self, output: &mut Output) -> Result<(), Located> {
        let start = self.at;
        let keep = self.mode.quotes == Quotes::Keep;
        self.at += 1;
        output.text.extend(keep.then_some('"'));
        while let Some(ch) = self.peek() {
            self.make(ch.len_utf8())?;
            if ch == '$' {
                let value = self.variable()?;
                output.text.push_str(&value);
                continue;
            }
            self.at += ch.len_utf8();
            if ch == '"' {
                output.text.extend(keep.then_some('"'));
                return Ok(());
            }
            if ch != self.mode.escape {
                output.text.push(ch);
                continue;
            }
            match self.peek() {
                None => {}
                Some(special) if special == '"' || special == '$' || special == self.mode.escape => {
                    output.text.extend((self.mode.escapes == Escapes::Keep).then_some(ch));
                    output.text.extend(self.next());
                }
                Some(_) => output.text.push(ch),
            }
        }
        Err(self.problem(ExpandProblem::UnclosedQuote('"'), start))
    }

    /// `$name` or `${…}`, from its `$` on. What it makes is counted.
    fn variable(&mut self) -> Result<String, Located> {
        let start = self.at;
        self.at += 1;
        let value = if self.take('{') {
            self.depth += 1;
            if self.depth > MAX_EXPANSION_DEPTH {
                return Err(self.problem(ExpandProblem::TooDeep, start));
            }
            let value = self.braced(start)?;
            self.depth -= 1;
            value
        } else {
            match self.name() {
                "" => "$".to_owned(),
                name => match (self.lookup)(name) {
                    None if self.mode.unset == Unset::Keep => format!("${name}"),
                    value => value.unwrap_or_default(),
                },
            }
        };
        self.make(value.len())?;
        Ok(value)
    }

    /// A name: letters, digits and `_`; or digits alone; or one of the shell's special parameters.
    fn name(&mut self) -> &'t str {
        let text = self.text;
        let rest = &text[self.at..];
        let length = match rest.chars().next() {
            Some(first) if first.is_numeric() => rest.find(|ch: char| !ch.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest
                .find(|ch: char| !ch.is_alphanumeric() && ch != '_')
                .unwrap_or(rest.len()),
        };
        self.at += length;
        &rest[..length]
    }

    /// What stands between `${` and `}`, both of which are taken.
    fn braced(&mut self, start: usize) -> Result<String, Located> {
        match self.peek() {
            None => return Err(self.problem(ExpandProblem::UnclosedBrace, start)),
            Some('{' | '}' | ':') => {
                self.at += 1;
                return Err(self.problem(ExpandProblem::BadSubstitution, start));
            }
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        let mut modifier = self
            .next()
            .ok_or_else(|| self.problem(ExpandProblem::UnclosedBrace, start))?;
        if modifier == '}' {
            return Ok(match (self.lookup)(name) {
                None if self.mode.unset == Unset::Keep => self.text[start..self.at].to_owned(),
                value => value.unwrap_or_default(),
            });
        }
        let empty_is_unset = modifier == ':';
        if empty_is_unset {
            modifier = self
                .next()
                .ok_or_else(|| self.problem(ExpandProblem::UnclosedBrace, start))?;
        }
        let variable = Variable {
            start,
            name,
            value: (self.lookup)(name),
            empty_is_unset,
        };
        match (modifier, empty_is_unset) {
            ('-' | '+' | '?', _) => self.conditional(variable, modifier),
            ('#' | '%', false) => self.trimmed(variable, modifier),
            ('/', false) => self.replaced(variable),
            _ => {
                let modifier = self.text[modifier_at..self.at].escape_debug().to_string();
                Err(self.problem(ExpandProblem::UnsupportedModifier(modifier), start))
            }
        }
    }

    /// An operand of `${…}` up to `stop`, which is taken.
    fn operand(&mut self, stop: char, escapes: Escapes, missing: (ExpandProblem, usize)) -> Result<String, Located> {
        let outer = std::mem::replace(&mut self.mode.escapes, escapes);
        let mut output = Output::text();
        let found = self.read_until(Some(stop), &mut output)?;
        self.mode.escapes = outer;
        if !found {
            return Err(self.problem(missing.0, missing.1));
        }
        Ok(output.text)
    }

    fn conditional(&mut self, variable: Variable<'_>, modifier: char) -> Result<String, Located> {
        let missing = (ExpandProblem::UnclosedBrace, variable.start);
        let operand = self.operand('}', Escapes::Resolve, missing)?;
        if let Some(kept) = self.kept(&variable) {
            return Ok(kept);
        }
        let empty_is_unset = variable.empty_is_unset;
        let set = variable.value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (modifier, set) {
            ('-', None) | ('+', Some(_)) => Ok(operand),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let kind = if empty_is_unset {
                    "must be set and not empty"
                } else {
                    "must be set"
                };
                let message = if operand.is_empty() { kind.to_owned() } else { operand };
                let problem = ExpandProblem::Required {
                    name: variable.name.to_owned(),
                    message,
                };
                Err(self.problem(problem, variable.start))
            }
        }
    }

    fn trimmed(&mut self, variable: Variable<'_>, modifier: char) -> Result<String, Located> {
        let missing = (ExpandProblem::UnclosedBrace, variable.start);
        let operand = self.operand('}', Escapes::Keep, missing)?;
        if let Some(kept) = self.kept(&variable) {
            return Ok(kept);
        }
        let (text, reach) = match operand.strip_prefix(modifier) {
            Some(text) => (text, Reach::Longest),
            None => (operand.as_str(), Reach::Shortest),
        };
        let value = variable.value.unwrap_or_default();
        let trimmed = Pattern::parse(text).and_then(|mut pattern| match modifier {
            '%' => pattern.without_suffix(&value, reach),
            _ => pattern.without_prefix(&value, reach),
        });
        trimmed.map_err(|problem| self.pattern_problem(problem, text, variable.start))
    }

    fn replaced(&mut self, variable: Variable<'_>) -> Result<String, Located> {
        let all = self.take('/');
        let missing = (ExpandProblem::MissingReplacement, variable.start);
        let text = self.operand('/', Escapes::Keep, missing)?;
        let missing = (ExpandProblem::UnclosedBrace, variable.start);
        let replacement = self.operand('}', Escapes::Keep, missing)?;
        if let Some(kept) = self.kept(&variable) {
            return Ok(kept);
        }
        let value = variable.value.unwrap_or_default();
        let replaced = Pattern::parse(&text).and_then(|mut pattern| match all {
            true => pattern.replace_all(&value, &replacement, self.limit),
            false => pattern.replace_first(&value, &replacement).map(Some),
        });
        match replaced {
            Ok(Some(replaced)) => Ok(replaced),
            Ok(None) => Err(self.problem(ExpandProblem::TooLong(self.limit), variable.start)),
            Err(problem) => Err(self.pattern_problem(problem, &text, variable.start)),
        }
    }

    /// What was written, where unset variables are kept and this one is not set.
    fn kept(&self, variable: &Variable<'_>) -> Option<String> {
        let keep = self.mode.unset == Unset::Keep && variable.value.is_none();
        keep.then(|| self.text[variable.start..self.at].to_owned())
    }

    fn pattern_problem(&self, problem: PatternProblem, pattern: &str, start: usize) -> Located {
        let problem = match problem {
            PatternProblem::Escape => ExpandProblem::InvalidPattern(pattern.to_owned()),
            PatternProblem::TooCostly => ExpandProblem::CostlyPattern(pattern.to_owned()),
        };
        self.problem(problem, start)
    }
}

/// A variable in braces.
struct Variable<'t> {
    /// Where its `$` stands.
    start: usize,
    name: &'t str,
    value: Option<String>,
    /// Whether `:` stands before the modifier.
    empty_is_unset: bool,
}
