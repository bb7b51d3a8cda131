//! What holds for any text as a trigger: no panic, and what ONBUILD stores is one instruction when it fires.

use builder::parser::{InstructionKind, parse, parse_onbuild};

/// Checks all of it; panics where something does not hold.
pub fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(instruction) = parse_onbuild(text) {
        assert!(instruction.span.start <= instruction.span.end && instruction.span.end <= text.len());
        assert!(!matches!(
            instruction.kind,
            InstructionKind::Onbuild(_) | InstructionKind::Maintainer(_)
        ));
    }
    let Ok(dockerfile) = parse(format!("FROM x\nONBUILD {text}").as_bytes()) else {
        return;
    };
    let stored = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    for instruction in stored {
        if let InstructionKind::Onbuild(trigger) = &instruction.kind {
            // A trigger is read as a file of its own: a byte order mark is none of its text.
            let trigger = trigger.trim_start_matches('\u{feff}');
            let keyword = trigger.split_whitespace().next().unwrap_or_default();
            match parse_onbuild(trigger) {
                Ok(fired) => assert!(
                    fired.text.to_lowercase().starts_with(&keyword.to_lowercase()),
                    "{trigger:?}: {fired:?}"
                ),
                // An instruction that the file's own parser would have refused, or that another escape character ends.
                Err(errors) => assert!(!errors.is_empty(), "{trigger:?}"),
            }
        }
    }
}
