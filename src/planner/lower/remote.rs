//! Sources of ADD that lie elsewhere: files behind URLs, git repositories.

use crate::graph::{
    CopyAction, FileAction, GitDir, GitRequest, Label, Op, Remote, Source, Unpack, VertexId, without_secrets,
};
use crate::oci::Digest;
use crate::parser::{Span, Transfer, Word};

use super::super::address::{BareForm, file_address, git_address, is_url};
use super::super::error::{At, PlanError, Problem};
use super::super::sources::Found;
use super::Lowering;
use super::transfer::{Settings, Verb};

/// Where one source of COPY or ADD lies.
pub(super) enum Place {
    /// In the context, or in what `--from` names.
    Local(String),
    /// Elsewhere.
    Remote {
        /// What it is.
        remote: Remote,
        /// How it is written.
        text: String,
        /// Where.
        span: Span,
    },
}

impl Place {
    /// Tells by its form what `text` is.
    pub(super) fn of(
        text: String,
        word: &Word,
        transfer: &Transfer,
        verb: Verb,
        checksum: &str,
    ) -> Result<Self, PlanError> {
        let span = word.span;
        let Some(remote) = remote_source(&text, transfer, checksum).at(span)? else {
            return Ok(Place::Local(text));
        };
        if verb == Verb::Copy {
            let kind = match remote {
                Remote::Git(_) => "git repository",
                Remote::Http(_) => "URL",
            };
            let source_text = without_secrets(&text);
            return Err(Problem::RemoteCopy { kind, source_text }.at(span));
        }
        Ok(Place::Remote { remote, text, span })
    }

    /// How it is written.
    pub(super) fn text(&self) -> &str {
        match self {
            Place::Local(text) | Place::Remote { text, .. } => text,
        }
    }

    pub(super) fn is_local(&self) -> bool {
        matches!(self, Place::Local(_))
    }
}

/// What the source `text` of ADD is, if it lies elsewhere.
pub(in super::super) fn remote_source(
    text: &str,
    transfer: &Transfer,
    checksum: &str,
) -> Result<Option<Remote>, Problem> {
    if let Some(git) = git_address(text, BareForm::Path)? {
        return repository(git, transfer, checksum).map(|git| Some(Remote::Git(git)));
    }
    if !is_url(text) {
        return Ok(None);
    }
    let checksum = file_checksum(checksum)?;
    Ok(Some(Remote::Http(file_address(text, checksum))))
}

/// The flags of ADD say what an address may say as well.
fn repository(mut git: GitRequest, transfer: &Transfer, checksum: &str) -> Result<GitRequest, Problem> {
    let flag = transfer.keep_git_dir.map(|keep| match keep {
        true => GitDir::Kept,
        false => GitDir::Left,
    });
    if flag.is_some() && git.git_dir.is_some() && flag != git.git_dir {
        return Err(Problem::Contradiction { flag: "--keep-git-dir" });
    }
    git.git_dir = git.git_dir.or(flag);
    match git.checksum.as_deref() {
        Some(other) if !checksum.is_empty() && other != checksum => {
            return Err(Problem::Contradiction { flag: "--checksum" });
        }
        None if !checksum.is_empty() => git.checksum = Some(checksum.to_owned()),
        _ => {}
    }
    Ok(git)
}

fn file_checksum(text: &str) -> Result<Option<Digest>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|source| Problem::ChecksumForm {
        text: text.to_owned(),
        source,
    })
}

/// Copies what was fetched: all of a repository, or the one file.
pub(super) fn copy_remote(transfer: &Transfer, settings: &Settings, remote: &Remote, input: usize) -> FileAction {
    let (source, unpack) = match remote {
        Remote::Git(_) => ("/".to_owned(), Unpack::Never),
        Remote::Http(file) => match transfer.unpack {
            Some(true) => (literal(&file.name), Unpack::Archives),
            None | Some(false) => (literal(&file.name), Unpack::Never),
        },
    };
    FileAction::Copy(CopyAction {
        input,
        sources: vec![source],
        destination: settings.destination.clone(),
        owner: settings.owner.clone(),
        mode: settings.mode.clone(),
        exclude: transfer.exclude.iter().map(|word| word.raw.clone()).collect(),
        parents: false,
        unpack,
    })
}

/// A file in the root as a source that is no pattern.
fn literal(name: &str) -> String {
    let mut source = String::from("/");
    for letter in name.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            source.push('\\');
        }
        source.push(letter);
    }
    source
}

impl Lowering<'_, '_> {
    /// The vertex of something that lies elsewhere; `None` where it is in error, which is reported already.
    pub(super) fn remote(
        &mut self,
        remote: &Remote,
        lines: Option<(usize, usize)>,
    ) -> Result<Option<VertexId>, Problem> {
        self.needed.budget.vertex()?;
        let source = match self.sources.get(remote)? {
            Found::Source(source) => source.clone(),
            Found::NotYet => return Ok(Some(self.empty())),
            Found::Failed => return Ok(None),
        };
        Ok(Some(self.source(source, lines)))
    }

    /// The vertex of a source that is known.
    pub(super) fn source(&mut self, source: Source, lines: Option<(usize, usize)>) -> VertexId {
        let name = match &source {
            Source::Http(file) => format!("load {}", without_secrets(&file.url)),
            Source::Git(git) => format!("load {}", without_secrets(&git.remote)),
            Source::Archive(_) => "[internal] load build context".to_owned(),
            Source::Image(_) | Source::Local(_) => String::new(),
        };
        let label = Label {
            name: name.into(),
            lines,
            ignore_cache: false,
        };
        self.graph.add(Op::Source(source), Vec::new(), label)
    }
}
