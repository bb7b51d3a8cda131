//! What a Dockerfile says, before any variable has a value.

use std::ops::Range;

use super::check::CheckOptions;
use super::diagnostic::Diagnostic;

/// A range of bytes in the source text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The span as a range, to slice the source with.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

/// A piece of text that may hold variables, quotes and escapes. It reaches an operation only through `Word::expand`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// The text, continuations joined, quotes and variables as they were written.
    pub raw: String,
    /// Where it stands.
    pub span: Span,
}

/// A whole Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dockerfile {
    /// The parser directives at its head.
    pub directives: Directives,
    /// The ARG instructions before the first FROM.
    pub global_args: Vec<Instruction>,
    /// The stages, in order; at least one.
    pub stages: Vec<Stage>,
    /// Violations of the rules that need nothing but the text, in order of place, those left out that a
    /// `# check=skip=…` above their instruction skips. The file's own `# check=` is left to the caller, because
    /// `BUILDKIT_DOCKERFILE_CHECK` replaces it: see [`CheckOptions::wants`].
    pub warnings: Vec<Diagnostic>,
}

/// The parser directives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directives {
    /// `# syntax=`: the whole value.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`: `\` or `` ` ``.
    pub escape: char,
    /// `# check=`.
    pub check: Option<Spanned<CheckOptions>>,
}

/// A FROM and what follows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// The FROM instruction's span, from its first word to the end of its last line.
    pub span: Span,
    /// FROM's lines in the source, from 1, first and last.
    pub lines: (usize, usize),
    /// FROM as it is shown in progress and history: continuations joined.
    pub text: String,
    /// `--platform`.
    pub platform: Option<Word>,
    /// The image, or an earlier stage.
    pub image: Word,
    /// The name after AS, lower-cased.
    pub name: Option<Spanned<String>>,
    /// A comment `# <name> <description>` directly above, for `--call=targets`.
    pub description: Option<String>,
    /// A comment `# check=…` directly above, for this instruction alone.
    pub check: CheckOptions,
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// From its first word to the end of its last line, heredoc bodies left out.
    pub span: Span,
    /// Its lines in the source, from 1, first and last, heredoc bodies included.
    pub lines: (usize, usize),
    /// The instruction as it is shown in progress: keyword as written, continuations joined.
    pub text: String,
    /// A comment `# check=…` directly above, for this instruction alone.
    pub check: CheckOptions,
    /// What it says.
    pub kind: InstructionKind,
}

/// What an instruction says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InstructionKind {
    /// ADD.
    Add(Transfer),
    /// ARG.
    Arg(Vec<ArgDefinition>),
    /// CMD.
    Cmd(Command),
    /// COPY.
    Copy(Transfer),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// ENV.
    Env(Vec<(Word, Word)>),
    /// EXPOSE, in the order of the source; each word may expand to several ports: `Word::expand_words`.
    Expose(Vec<Word>),
    /// HEALTHCHECK.
    Healthcheck(HealthcheckInstruction),
    /// LABEL.
    Label(Vec<(Word, Word)>),
    /// MAINTAINER.
    Maintainer(String),
    /// ONBUILD: the instruction's text, heredoc bodies included, to be parsed when it fires.
    Onbuild(String),
    /// RUN.
    Run(Run),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    Stopsignal(Word),
    /// USER.
    User(Word),
    /// VOLUME.
    Volume(Vec<Word>),
    /// WORKDIR.
    Workdir(Word),
}

/// A command in one of its two forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A line for the shell.
    Shell(String),
    /// The words themselves, from a JSON array.
    Exec(Vec<String>),
}

/// RUN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// `--mount`, in order, each the unparsed value: for `mount::parse_mount`, which expands field by field, so that
    /// a comma in a variable does not divide.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Option<Spanned<String>>,
    /// `--security`.
    pub security: Option<Spanned<String>>,
    /// `--device`, in order.
    pub devices: Vec<Word>,
    /// The command; in shell form without its heredocs' bodies.
    pub command: Command,
    /// The heredocs its line opens, in order.
    pub heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heredoc {
    /// The delimiter, quotes removed: the file's name in COPY and ADD.
    pub name: String,
    /// The file descriptor before `<<`, 0 where none is given.
    pub descriptor: u32,
    /// The body as it stands in the file.
    pub body: String,
    /// Whether variables in the body are expanded: the delimiter has no quotes.
    pub expand: bool,
    /// `<<-`: leading tabs are no part of what it holds.
    pub strip_tabs: bool,
    /// Where the body stands.
    pub span: Span,
}

/// ADD or COPY.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// `--from` (COPY).
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Word>,
    /// `--checksum` (ADD).
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD).
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD).
    pub unpack: Option<bool>,
    /// What is copied, in order; at least one.
    pub sources: Vec<TransferSource>,
    /// Where to.
    pub destination: Word,
}

/// One source of ADD or COPY.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransferSource {
    /// A path, a pattern, a URL or a repository.
    Path(Word),
    /// The body of a heredoc.
    Heredoc(Heredoc),
}

/// One `name[=default]` of ARG.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArgDefinition {
    /// The name.
    pub name: Word,
    /// The default value.
    pub default: Option<Word>,
    /// A comment `# <name> <description>` directly above, for `--call=outline`.
    pub description: Option<String>,
}

/// HEALTHCHECK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HealthcheckInstruction {
    /// `NONE`.
    None,
    /// `[options] CMD …`; durations are nanoseconds, 0 where the option is not given.
    Command {
        /// `--interval`, nanoseconds.
        interval: i64,
        /// `--timeout`, nanoseconds.
        timeout: i64,
        /// `--start-period`, nanoseconds.
        start_period: i64,
        /// `--start-interval`, nanoseconds.
        start_interval: i64,
        /// `--retries`.
        retries: i64,
        /// The check.
        command: Command,
    },
}
