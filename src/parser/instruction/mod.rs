//! One joined line → one instruction, or FROM. One file for each family of instructions.

mod healthcheck;
mod pairs;
mod run;
mod stage;
mod transfer;

pub use pairs::is_secret_name;

use std::ops::Range;

use super::ast::{Command, Heredoc, InstructionKind, Span, Stage, Word};
use super::check::CheckOptions;
use super::diagnostic::{Diagnostic, Fix};
use super::flag::{Flags, KnownFlags};
use super::json::{JsonForm, json_form};
use super::rule::Rule;
use super::source::{Fragment, LogicalLine, without_continuation};
use super::split::{Statement, split_blanks, split_statement};
use super::suggest::nearest;

/// The instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

const KEYWORDS: [(&str, Keyword); 18] = [
    ("ADD", Keyword::Add),
    ("ARG", Keyword::Arg),
    ("CMD", Keyword::Cmd),
    ("COPY", Keyword::Copy),
    ("ENTRYPOINT", Keyword::Entrypoint),
    ("ENV", Keyword::Env),
    ("EXPOSE", Keyword::Expose),
    ("FROM", Keyword::From),
    ("HEALTHCHECK", Keyword::Healthcheck),
    ("LABEL", Keyword::Label),
    ("MAINTAINER", Keyword::Maintainer),
    ("ONBUILD", Keyword::Onbuild),
    ("RUN", Keyword::Run),
    ("SHELL", Keyword::Shell),
    ("STOPSIGNAL", Keyword::Stopsignal),
    ("USER", Keyword::User),
    ("VOLUME", Keyword::Volume),
    ("WORKDIR", Keyword::Workdir),
];

impl Keyword {
    /// The keyword that a word is, in any case.
    pub fn parse(word: &str) -> Option<Keyword> {
        KEYWORDS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, keyword)| *keyword)
    }

    /// The keyword in upper case.
    pub fn name(self) -> &'static str {
        KEYWORDS
            .iter()
            .find(|(_, keyword)| *keyword == self)
            .map_or("", |(name, _)| name)
    }

    fn takes_heredocs(self) -> bool {
        matches!(self, Keyword::Add | Keyword::Copy | Keyword::Run)
    }

    /// Whether a JSON array is one of the forms of the arguments.
    fn takes_json(self) -> bool {
        use Keyword::{Add, Cmd, Copy, Entrypoint, Run, Shell, Volume};
        matches!(self, Add | Cmd | Copy | Entrypoint | Run | Shell | Volume)
    }
}

/// A line that was cut into its parts, its arguments not yet read.
pub(super) struct Input<'l> {
    /// The joined line.
    pub line: &'l LogicalLine<'l>,
    /// What the line is.
    pub keyword: Keyword,
    statement: Statement<'l>,
    escape: char,
    form: JsonForm,
    /// The heredocs whose bodies follow.
    pub heredocs: Vec<Heredoc>,
    /// The bodies with their delimiters as they stand in the file, for ONBUILD.
    pub verbatim_heredocs: String,
}

/// What a line says.
pub(super) enum Statements {
    /// A stage begins.
    Stage(Stage),
    /// Something else.
    Instruction(InstructionKind),
}

impl<'l> Input<'l> {
    /// Cuts a line. An unknown keyword is an error.
    pub fn new(line: &'l LogicalLine<'l>, escape: char) -> Result<Input<'l>, Diagnostic> {
        let statement = split_statement(&line.text, escape);
        let keyword = Keyword::parse(statement.keyword.text).ok_or_else(|| unknown_instruction(&statement, line))?;
        let form = if keyword.takes_json() {
            json_form(statement.arguments.text)
        } else {
            JsonForm::NotJson
        };
        Ok(Input {
            line,
            keyword,
            statement,
            escape,
            form,
            heredocs: Vec::new(),
            verbatim_heredocs: String::new(),
        })
    }

    /// Whether `<<` in the line may open heredocs.
    pub fn may_open_heredocs(&self) -> bool {
        if self.keyword != Keyword::Onbuild {
            return self.keyword.takes_heredocs() && matches!(self.form, JsonForm::NotJson);
        }
        let inner = split_statement(self.statement.arguments.text, self.escape);
        Keyword::parse(inner.keyword.text).is_some_and(Keyword::takes_heredocs)
            && matches!(json_form(inner.arguments.text), JsonForm::NotJson)
    }

    /// Reads the instruction.
    pub fn read(&mut self, warnings: &mut Vec<Diagnostic>) -> Result<Statements, Diagnostic> {
        if let JsonForm::NotStrings(range) = &self.form {
            let span = self.span_in_arguments(range.clone());
            return Err(Diagnostic::error(span, "the JSON array may hold strings only").with_hint("put it in quotes"));
        }
        let kind = match self.keyword {
            Keyword::From => return Ok(Statements::Stage(stage::from(self, warnings)?)),
            Keyword::Add | Keyword::Copy => transfer::transfer(self)?,
            Keyword::Arg => pairs::arg(self, warnings)?,
            Keyword::Env => InstructionKind::Env(pairs::pairs(self, warnings)?),
            Keyword::Label => InstructionKind::Label(pairs::pairs(self, warnings)?),
            Keyword::Cmd => InstructionKind::Cmd(self.command_without_flags()?),
            Keyword::Entrypoint => InstructionKind::Entrypoint(self.command_without_flags()?),
            Keyword::Run => run::run(self)?,
            Keyword::Healthcheck => healthcheck::healthcheck(self)?,
            Keyword::Onbuild => self.onbuild()?,
            Keyword::Expose => InstructionKind::Expose(self.expose()?),
            Keyword::Volume => InstructionKind::Volume(self.volume()?),
            Keyword::Shell => InstructionKind::Shell(self.shell()?),
            Keyword::Maintainer => {
                let author = self.single_word()?.raw;
                warnings.push(self.maintainer_is_deprecated(&author));
                InstructionKind::Maintainer(author)
            }
            Keyword::Stopsignal => InstructionKind::Stopsignal(self.argument_word()?),
            Keyword::User => InstructionKind::User(self.single_word()?),
            Keyword::Workdir => InstructionKind::Workdir(self.single_word()?),
        };
        Ok(Statements::Instruction(kind))
    }

    /// The options of the checks for this instruction alone.
    pub fn check(&self) -> CheckOptions {
        super::directive::check_in_comments(&self.line.comments)
    }

    /// The keyword as written.
    pub fn keyword_text(&self) -> &str {
        self.statement.keyword.text
    }

    /// Where the keyword stands.
    pub fn keyword_span(&self) -> Span {
        self.line.span(self.statement.keyword.range())
    }

    /// The line as it is shown.
    pub fn text(&self) -> String {
        let mut text = self.line.text.trim();
        // As the trigger itself is cut: what is shown and what fires stay one text.
        while self.keyword == Keyword::Onbuild
            && let Some(before) = without_continuation(text, self.escape)
        {
            text = before.trim_end();
        }
        text.to_owned()
    }

    /// Whether the arguments are a JSON array.
    pub fn form(&self) -> &JsonForm {
        &self.form
    }

    /// What follows the keyword and its flags.
    pub fn arguments(&self) -> Fragment<'l> {
        self.statement.arguments
    }

    fn span_in_arguments(&self, range: Range<usize>) -> Span {
        let start = self.arguments().start;
        self.line.span(start + range.start..start + range.end)
    }

    fn span_of(&self, fragment: Fragment<'_>) -> Span {
        self.line.span(fragment.range())
    }

    fn word(&self, fragment: Fragment<'_>) -> Word {
        Word {
            raw: fragment.text.to_owned(),
            span: self.span_of(fragment),
        }
    }

    /// An error at the arguments, or at the keyword where there are none.
    fn error(&self, message: impl Into<String>) -> Diagnostic {
        let arguments = self.arguments();
        let span = if arguments.text.is_empty() {
            self.keyword_span()
        } else {
            self.span_of(arguments)
        };
        Diagnostic::error(span, message)
    }

    fn warning(&self, rule: Rule, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(rule, self.line.whole_span(), message)
    }

    fn flags(&self, known: &KnownFlags) -> Result<Flags, Diagnostic> {
        Flags::check(&self.statement.flags, known, self.line)
    }

    /// What the comment above says of a definition: `# <name> <description>`.
    fn description(&self, name: &str) -> Option<String> {
        let after = |comment: &&str| comment.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        self.line.comments.iter().filter(|_| !name.is_empty()).find_map(after)
    }

    /// The rule about comments above definitions.
    fn check_description(&self, names: &[&str], warnings: &mut Vec<Diagnostic>) {
        let Some(comment) = self.line.comments.last().filter(|_| !names.is_empty()) else {
            return;
        };
        let described = comment.split(' ').next().unwrap_or_default();
        if !names.contains(&described) {
            let example = if names.len() == 1 { names[0] } else { "<arg_key>" };
            let message = format!(
                "Comment for {} should follow the format: `# {example} <description>`",
                self.keyword.name()
            );
            warnings.push(self.warning(Rule::InvalidDefinitionDescription, message));
        }
    }

    fn maintainer_is_deprecated(&self, author: &str) -> Diagnostic {
        let message = "Maintainer instruction is deprecated in favor of using label";
        let warning = self.warning(Rule::MaintainerDeprecated, message);
        if author.contains(['"', '\\', '`', '$']) {
            return warning.with_hint("use `LABEL org.opencontainers.image.authors=…`");
        }
        let label = format!("LABEL org.opencontainers.image.authors=\"{author}\"");
        warning.with_fix(Fix::replace(self.line.whole_span(), label))
    }

    fn needs_an_argument(&self) -> Diagnostic {
        self.error(format!("{} needs at least one argument", self.keyword.name()))
    }

    /// The arguments as one word.
    fn argument_word(&self) -> Result<Word, Diagnostic> {
        if self.arguments().text.is_empty() {
            return Err(self.error(format!("{} needs exactly one argument", self.keyword.name())));
        }
        Ok(self.word(self.arguments()))
    }

    /// The same, of an instruction without flags. (STOPSIGNAL and ARG do not look at theirs, as in BuildKit.)
    fn single_word(&self) -> Result<Word, Diagnostic> {
        self.flags(&[])?;
        self.argument_word()
    }

    fn command_without_flags(&mut self) -> Result<Command, Diagnostic> {
        self.flags(&[])?;
        Ok(self.command())
    }

    /// The arguments as a command; no arguments are an empty line for the shell.
    fn command(&mut self) -> Command {
        match self.take_strings() {
            Some(strings) => Command::Exec(strings.into_iter().map(|(value, _)| value).collect()),
            None => Command::Shell(self.arguments().text.to_owned()),
        }
    }

    fn take_strings(&mut self) -> Option<Vec<(String, Range<usize>)>> {
        match &mut self.form {
            JsonForm::Strings(strings) => Some(std::mem::take(strings)),
            _ => None,
        }
    }

    /// The arguments as words: a JSON array's strings, or what blanks divide.
    fn list(&mut self) -> Vec<Word> {
        match self.take_strings() {
            Some(strings) => strings
                .into_iter()
                .map(|(raw, range)| Word {
                    raw,
                    span: self.span_in_arguments(range),
                })
                .collect(),
            None => split_blanks(self.arguments())
                .into_iter()
                .map(|word| self.word(word))
                .collect(),
        }
    }

    fn expose(&mut self) -> Result<Vec<Word>, Diagnostic> {
        self.flags(&[])?;
        let ports = self.list();
        if ports.is_empty() {
            Err(self.needs_an_argument())
        } else {
            Ok(ports)
        }
    }

    fn volume(&mut self) -> Result<Vec<Word>, Diagnostic> {
        self.flags(&[])?;
        let mut volumes = self.list();
        if volumes.is_empty() {
            return Err(self.needs_an_argument());
        }
        for volume in &mut volumes {
            if volume.raw.trim().is_empty() {
                return Err(Diagnostic::error(volume.span, "the path of a volume cannot be empty"));
            }
            if volume.raw.trim().len() != volume.raw.len() {
                volume.raw = volume.raw.trim().to_owned();
            }
        }
        Ok(volumes)
    }

    fn shell(&mut self) -> Result<Vec<String>, Diagnostic> {
        self.flags(&[])?;
        match self.command() {
            Command::Exec(shell) if !shell.is_empty() => Ok(shell),
            Command::Shell(line) if !line.is_empty() => Err(self
                .error("SHELL takes a JSON array")
                .with_hint(r#"for example `SHELL ["/bin/bash", "-c"]`"#)),
            _ => Err(self.needs_an_argument()),
        }
    }

    fn onbuild(&mut self) -> Result<InstructionKind, Diagnostic> {
        self.flags(&[])?;
        let trigger = split_statement(self.arguments().text, self.escape);
        match Keyword::parse(trigger.keyword.text) {
            _ if trigger.keyword.text.is_empty() => return Err(self.needs_an_argument()),
            Some(keyword @ (Keyword::Onbuild | Keyword::From | Keyword::Maintainer)) => {
                return Err(self.error(format!("{} cannot be a trigger of ONBUILD", keyword.name())));
            }
            Some(keyword @ (Keyword::Env | Keyword::Label)) if !pairs::are_pairs(trigger.arguments, self.escape) => {
                let message = format!("the trigger holds what {} does not take", keyword.name());
                return Err(self
                    .error(message)
                    .with_hint("write `name=value`, values that hold spaces in quotes"));
            }
            Some(keyword) if keyword.takes_json() => {
                if let JsonForm::NotStrings(_) = json_form(trigger.arguments.text) {
                    let message = "the JSON array of the trigger may hold strings only";
                    return Err(self.error(message).with_hint("put it in quotes"));
                }
            }
            _ => {}
        }
        let whole = &self.line.text[self.statement.keyword.range().end..];
        let mut line = whole.trim_start().trim_end_matches('\r');
        // At the end of the file an escape character is left that would continue the trigger, with nothing to follow.
        while let Some(before) = without_continuation(line, self.escape) {
            line = before.trim_end_matches('\r');
        }
        Ok(InstructionKind::Onbuild(format!("{line}{}", self.verbatim_heredocs)))
    }
}

fn unknown_instruction(statement: &Statement<'_>, line: &LogicalLine<'_>) -> Diagnostic {
    let word = statement.keyword.text;
    if word.is_empty() {
        return Diagnostic::error(line.whole_span(), "a continuation that continues nothing");
    }
    let shown: String = word.chars().take(40).collect();
    let error = Diagnostic::error(
        line.span(statement.keyword.range()),
        format!("unknown instruction `{shown}`"),
    );
    match nearest(word, KEYWORDS.iter().map(|(name, _)| *name)) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error.with_hint("if the line belongs to the one above, end that one with the escape character"),
    }
}
