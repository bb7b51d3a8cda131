//! Why steps ran, in words.

use super::format::age;
use super::output;
use super::progress::printable;
use crate::cache::Role;
use crate::context::FileChange;
use crate::pipeline::{Change, Explanation, Reason};

/// Files that are named, of those that changed.
const MOST_FILES: usize = 10;
/// Characters of a value that are shown.
const MOST_CHARACTERS: usize = 200;

/// The lines that explain one step: its name, and under it each reason.
pub(super) fn lines(explanation: &Explanation, now: i64) -> Vec<String> {
    let name = printable(explanation.name.as_bytes(), false);
    let place = explanation.lines.map(|(line, _)| format!(" (line {line})"));
    let mut lines = vec![format!("#{} {name}{}", explanation.step, place.unwrap_or_default())];
    let missing = explanation.missing_in.iter();
    let missing = missing.map(|cache| format!("there is no record of it in {}", printable(cache.as_bytes(), false)));
    let reasons = reasons(&explanation.reason, now).into_iter().chain(missing);
    lines.extend(reasons.map(|line| format!("   {line}")));
    lines
}

/// Says on standard error why the steps of a build ran.
pub(super) fn say(explanations: &[Explanation]) {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    if explanations.is_empty() {
        output::remark("no step ran");
    }
    for line in explanations.iter().flat_map(|explanation| lines(explanation, now)) {
        output::remark(line);
    }
}

fn reasons(reason: &Reason, now: i64) -> Vec<String> {
    let one = |text: String| vec![text];
    match reason {
        Reason::NoCache => one("the cache was not asked: --no-cache".into()),
        Reason::AfterNoCache => {
            one("a step that it stands on ran because of --no-cache, and gave something else".into())
        }
        Reason::New => one("nothing like it was run here before".into()),
        Reason::FailedBefore { build } => one(format!("it failed in build {build}, and failures are not kept")),
        Reason::StoppedBefore { build } => one(format!("build {build} was stopped before its end")),
        Reason::Removed { build } => one(format!("the result that build {build} made has been removed")),
        Reason::Forgotten => one("what its result depends on is not remembered".into()),
        Reason::Changed { nearest, changes } => {
            let mut lines = vec![format!("unlike the nearest result, made {}:", age(*nearest, now))];
            lines.extend(changes.iter().flat_map(change).map(|line| format!("- {line}")));
            lines
        }
    }
}

fn change(change: &Change) -> Vec<String> {
    match change {
        Change::Variable { name, before, after } => {
            let what = format!("the variable or build argument {name}");
            vec![became(&what, before.as_deref(), after.as_deref())]
        }
        Change::Definition { part, before, after } => vec![definition(part, before.as_deref(), after.as_deref())],
        Change::Files { role, files: None } => vec![format!(
            "files of the context{} changed; which ones is not remembered",
            purpose(role.as_ref())
        )],
        Change::Files { files: Some(files), .. } => {
            let named = files.iter().take(MOST_FILES);
            let mut lines: Vec<String> = named
                .map(|(path, change)| format!("{}: {}", printable(path.as_bytes(), false), file_change(*change)))
                .collect();
            if files.len() > MOST_FILES {
                lines.push(format!("and {} files more", files.len() - MOST_FILES));
            }
            if files.is_empty() {
                lines.push("the files of the context, in an attribute or an order".into());
            }
            lines
        }
        Change::Input {
            role,
            before,
            after,
            step,
        } => vec![input(role.as_ref(), before.as_deref(), after.as_deref(), *step)],
    }
}

fn file_change(change: FileChange) -> &'static str {
    match change {
        FileChange::Added => "added",
        FileChange::Removed => "removed",
        FileChange::Content => "changed",
        FileChange::Mode => "other permissions",
        FileChange::Kind => "became something else",
    }
}

fn definition(part: &str, before: Option<&str>, after: Option<&str>) -> String {
    const SHELL: &str = "/bin/sh -c ";
    match (
        part,
        before.and_then(|text| text.strip_prefix(SHELL)),
        after.and_then(|text| text.strip_prefix(SHELL)),
    ) {
        ("args", Some(before), Some(after)) => became("the command", Some(before), Some(after)),
        _ => became(&part_in_words(part), before, after),
    }
}

fn became(what: &str, before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{what}: {} → {}", quoted(before), quoted(after)),
        (None, Some(after)) => format!("{what}: {}, new", quoted(after)),
        (Some(before), None) => format!("{what}: {}, no longer", quoted(before)),
        (None, None) => what.to_owned(),
    }
}

fn quoted(value: &str) -> String {
    let value = printable(value.as_bytes(), false);
    match value.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("`{}…`", &value[..end]),
        None => format!("`{value}`"),
    }
}

/// `mounts.0.target` is for those who read JSON.
fn part_in_words(part: &str) -> String {
    let fields: Vec<&str> = part.split('.').collect();
    match fields.as_slice() {
        ["args"] => "the command".into(),
        ["env"] => "the order of the variables".into(),
        ["working_dir"] => "the working directory".into(),
        ["user"] => "the user".into(),
        ["hostname"] => "the host's name".into(),
        ["network"] => "the network".into(),
        ["security"] => "the confinement".into(),
        ["platform", ..] => "the platform".into(),
        ["extra_hosts", ..] => "an added host".into(),
        ["mounts", number] => format!("mount {}", from_one(number)),
        ["mounts", number, rest @ ..] => format!("mount {}, {}", from_one(number), last(rest)),
        ["actions", _, _, "sources"] => "the sources".into(),
        ["actions", _, _, "destination" | "path"] => "the destination".into(),
        ["actions", _, _, "content"] => "the text in the Dockerfile".into(),
        ["actions", _, _, "exclude"] => "what is left out".into(),
        ["actions", _, _, "owner", ..] => "the owner".into(),
        ["actions", _, _, "mode", ..] => "the mode".into(),
        _ => last(&fields).replace('_', " "),
    }
}

fn from_one(number: &str) -> String {
    number
        .parse::<usize>()
        .map_or_else(|_| number.to_owned(), |number| (number + 1).to_string())
}

fn last(fields: &[&str]) -> String {
    (*fields.last().unwrap_or(&"")).to_owned()
}

fn purpose(role: Option<&Role>) -> String {
    match role {
        Some(Role::MountedAt(target)) => format!(" that it mounts at {}", printable(target.as_bytes(), false)),
        Some(Role::Copied) => " that it copies".into(),
        Some(Role::Base | Role::Layer) | None => String::new(),
    }
}

fn input(role: Option<&Role>, before: Option<&str>, after: Option<&str>, step: Option<usize>) -> String {
    let what = match role {
        Some(Role::Base) | None => "what it stands on".to_owned(),
        Some(Role::Copied) => "what it copies from".to_owned(),
        Some(Role::Layer) => "the layer that it puts there".to_owned(),
        Some(Role::MountedAt(target)) => format!("what it mounts at {}", printable(target.as_bytes(), false)),
    };
    match (before, after, step) {
        (_, Some(after), Some(step)) => format!("{what} was made anew: {} (#{step})", quoted(after)),
        (Some(before), Some(after), None) if before == after => {
            format!("{what} is another result of {}", quoted(after))
        }
        (before, after, _) => became(&what, before, after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_a_line() {
        let variable = Change::Variable {
            name: "VERSION".into(),
            before: Some("1.0".into()),
            after: Some("1.1".into()),
        };
        assert_eq!(
            change(&variable),
            ["the variable or build argument VERSION: `1.0` → `1.1`"]
        );
        for (part, before, after, expected) in [
            (
                "args",
                Some("/bin/sh -c a"),
                Some("/bin/sh -c b"),
                "the command: `a` → `b`",
            ),
            (
                "args",
                Some("a"),
                Some("/bin/sh -c b"),
                "the command: `a` → `/bin/sh -c b`",
            ),
            (
                "mounts.1.target",
                Some("/a"),
                Some("/b"),
                "mount 2, target: `/a` → `/b`",
            ),
            ("hostname", None, Some("h"), "the host's name: `h`, new"),
            (
                "actions.0.Copy.unpack",
                Some("Never"),
                None,
                "unpack: `Never`, no longer",
            ),
        ] {
            assert_eq!(definition(part, before, after), expected);
        }
        let long = "x".repeat(500);
        assert_eq!(quoted(&long).chars().count(), MOST_CHARACTERS + 3);
        assert_eq!(
            input(Some(&Role::Base), Some("RUN a"), Some("RUN b"), Some(4)),
            "what it stands on was made anew: `RUN b` (#4)"
        );
    }
}
