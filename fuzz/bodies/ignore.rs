//! What holds for any bytes as an ignore file and any path: no panic, an error that names a line that is there, a
//! skipped directory that holds nothing wanted, and the same answer step by step as all at once.

use std::path::Path;

use builder::context::IgnoreRules;

/// Checks all of it; panics where something does not hold. The last line is the path, those before it the ignore file.
pub fn check(data: &[u8]) {
    let split = data.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let (content, path) = data.split_at(split);
    let path: Vec<&[u8]> = path
        .split(|byte| matches!(byte, b'/' | b'\n' | 0))
        .filter(|component| !matches!(*component, b"" | b"." | b".."))
        .collect();
    let rules = match IgnoreRules::parse(content, Path::new("ignore")) {
        Ok(rules) => rules,
        Err(error) => {
            assert!(
                (1..=content.split(|byte| *byte == b'\n').count()).contains(&error.line),
                "{error}"
            );
            return;
        }
    };
    let mut matches = rules.at_root();
    let mut skipped = false;
    for depth in 1..=path.len() {
        let here = path[..depth].join(&b'/');
        let excluded = rules.excludes(&here);
        assert_eq!(excluded, rules.excludes_below(&matches, &here));
        assert!(
            excluded || !skipped,
            "{:?} lies below a skipped directory",
            here.escape_ascii().to_string()
        );
        matches = rules.enter(&matches, &here);
        assert_eq!(rules.may_skip(&matches, &here), rules.may_skip_directory(&here));
        skipped |= rules.may_skip(&matches, &here);
        assert!(excluded || !rules.may_skip(&matches, &here));
    }
}
