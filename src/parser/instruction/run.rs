//! RUN.

use super::Input;
use crate::parser::ast::{InstructionKind, Run, Spanned, Word};
use crate::parser::diagnostic::Diagnostic;
use crate::parser::flag::{FlagKind, KnownFlags};
use crate::parser::mount;
use crate::parser::suggest::nearest;

const FLAGS: &KnownFlags = &[
    ("mount", FlagKind::List),
    ("network", FlagKind::Value),
    ("security", FlagKind::Value),
    ("device", FlagKind::List),
];

/// `RUN [flags] line` or `RUN [flags] ["word", …]`.
pub(super) fn run(input: &mut Input<'_>) -> Result<InstructionKind, Diagnostic> {
    let mut flags = input.flags(FLAGS)?;
    let mounts = flags.words("mount");
    for mount in &mounts {
        mount::check_fields(&mount.raw).map_err(|error| {
            let diagnostic = Diagnostic::error(error.span(mount), error.to_string());
            Diagnostic {
                hint: error.hint(),
                ..diagnostic
            }
        })?;
    }
    let network = flags.words("network").pop();
    let security = flags.words("security").pop();
    Ok(InstructionKind::Run(Run {
        mounts,
        network: one_of(network, "network", &["default", "none", "host"])?,
        security: one_of(security, "security", &["sandbox", "insecure"])?,
        devices: flags.words("device"),
        command: input.command(),
        heredocs: std::mem::take(&mut input.heredocs),
    }))
}

fn one_of(word: Option<Word>, flag: &str, known: &[&str]) -> Result<Option<Spanned<String>>, Diagnostic> {
    let Some(Word { raw: value, span }) = word else {
        return Ok(None);
    };
    if known.contains(&value.as_str()) {
        return Ok(Some(Spanned { value, span }));
    }
    let error = Diagnostic::error(span, format!("`--{flag}={value}` is not supported"));
    Err(match nearest(&value, known.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error.with_hint(format!("use one of {}", known.join(", "))),
    })
}
