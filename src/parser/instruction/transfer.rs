//! ADD and COPY.

use super::{Input, Keyword};
use crate::parser::ast::{Heredoc, InstructionKind, Transfer, TransferSource, Word};
use crate::parser::diagnostic::Diagnostic;
use crate::parser::flag::{FlagKind, KnownFlags};
use crate::parser::heredoc::opening;
use crate::parser::json::JsonForm;

const COPY_FLAGS: &KnownFlags = &[
    ("from", FlagKind::Value),
    ("chown", FlagKind::Value),
    ("chmod", FlagKind::Value),
    ("link", FlagKind::Switch),
    ("parents", FlagKind::Switch),
    ("exclude", FlagKind::List),
];

const ADD_FLAGS: &KnownFlags = &[
    ("chown", FlagKind::Value),
    ("chmod", FlagKind::Value),
    ("link", FlagKind::Switch),
    ("keep-git-dir", FlagKind::Switch),
    ("checksum", FlagKind::Value),
    ("unpack", FlagKind::Switch),
    ("exclude", FlagKind::List),
];

/// `COPY [flags] source… destination`, or the same as a JSON array.
pub(super) fn transfer(input: &mut Input<'_>) -> Result<InstructionKind, Diagnostic> {
    let keyword = input.keyword;
    let is_json = !matches!(input.form, JsonForm::NotJson);
    let mut words = input.list();
    let destination = words.pop().filter(|_| !words.is_empty()).ok_or_else(|| {
        let message = format!(
            "{} needs at least two arguments: sources and a destination",
            keyword.name()
        );
        input.error(message)
    })?;
    let known = if keyword == Keyword::Copy {
        COPY_FLAGS
    } else {
        ADD_FLAGS
    };
    let mut flags = input.flags(known)?;
    if !is_json && opening(&destination.raw).is_some() {
        let message = format!("the destination of {} cannot be a heredoc", keyword.name());
        return Err(Diagnostic::error(destination.span, message));
    }
    let heredocs = std::mem::take(&mut input.heredocs);
    let transfer = Transfer {
        from: flags.word("from"),
        chown: flags.word("chown"),
        chmod: flags.word("chmod"),
        link: flags.switch("link").unwrap_or_default(),
        parents: flags.switch("parents").unwrap_or_default(),
        exclude: flags.words("exclude"),
        checksum: flags.word("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
        sources: sources(words, heredocs)?,
        destination,
    };
    Ok(if keyword == Keyword::Copy {
        InstructionKind::Copy(transfer)
    } else {
        InstructionKind::Add(transfer)
    })
}

/// The sources, each heredoc in the place of the word that opens it.
fn sources(words: Vec<Word>, heredocs: Vec<Heredoc>) -> Result<Vec<TransferSource>, Diagnostic> {
    let mut sources = Vec::with_capacity(words.len());
    let mut heredocs = heredocs.into_iter().peekable();
    let last = words.last().map(|word| word.span).unwrap_or_default();
    for word in words {
        match heredocs.next_if(|heredoc| opening(&word.raw).is_some_and(|opening| opening.name == heredoc.name)) {
            Some(heredoc) => sources.push(TransferSource::Heredoc(heredoc)),
            None => sources.push(TransferSource::Path(word)),
        }
    }
    match heredocs.next() {
        None => Ok(sources),
        Some(heredoc) => {
            let message = format!("the heredoc `{}` is no source", heredoc.name);
            Err(Diagnostic::error(last, message).with_hint("write `<<` and the name as one word"))
        }
    }
}
