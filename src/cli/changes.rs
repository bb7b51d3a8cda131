//! How files that are otherwise are told of.

use super::format::bytes;
use super::progress::printable;
use crate::export::{Aspect, Change, Difference};
use crate::snapshot::{EntryKind, Owner, Time};

/// docker's and podman's sign for a change.
pub(super) fn letter(change: &Change) -> char {
    match change {
        Change::Added { .. } => 'A',
        Change::Changed(_) => 'C',
        Change::Removed => 'D',
    }
}

/// A path that is otherwise, in one line.
pub(super) fn line_of(difference: &Difference) -> String {
    let path = printable(&difference.path, false);
    let details = details(&difference.change).join(", ");
    let mark = letter(&difference.change);
    format!("{mark} /{path}  {details}").trim_end().to_owned()
}

/// In which way, thing by thing.
pub(super) fn details(change: &Change) -> Vec<String> {
    match change {
        Change::Removed => Vec::new(),
        Change::Added {
            kind: EntryKind::Regular,
            size,
        } => vec![bytes(*size)],
        Change::Added { kind, .. } => vec![kind_of(kind)],
        Change::Changed(aspects) => aspects.iter().map(aspect).collect(),
    }
}

fn aspect(aspect: &Aspect) -> String {
    match aspect {
        Aspect::Kind(left, right) => format!("{} → {}", kind_of(left), kind_of(right)),
        Aspect::Mode(left, right) => format!("mode {left:04o} → {right:04o}"),
        Aspect::Owner(left, right) => format!("owner {} → {}", owner(left), owner(right)),
        Aspect::Size(left, right) => format!("{left} → {right} bytes"),
        Aspect::Content => "content".to_owned(),
        Aspect::Modified(left, right) => format!("modified {} → {}", time(left), time(right)),
        Aspect::Attribute(name) => format!("attribute {}", printable(name, false)),
    }
}

fn owner(owner: &Owner) -> String {
    format!("{}:{}", owner.uid, owner.gid)
}

fn kind_of(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Regular => "file".to_owned(),
        EntryKind::HardLink(target) => format!("hard link to /{}", printable(target, false)),
        EntryKind::Symlink(target) => format!("link to {}", printable(target, false)),
        EntryKind::Directory => "directory".to_owned(),
        EntryKind::CharDevice { major, minor } => format!("character device {major}:{minor}"),
        EntryKind::BlockDevice { major, minor } => format!("block device {major}:{minor}"),
        EntryKind::Fifo => "named pipe".to_owned(),
    }
}

fn time(time: &Time) -> String {
    use ::time::format_description::well_known::Rfc3339;

    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let moment = ::time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok();
    let text = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{}s", time.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_fits_into_a_line() {
        let line = |change| {
            line_of(&Difference {
                path: b"etc/\x1b[2Jx".to_vec(),
                change,
            })
        };
        assert_eq!(line(Change::Removed), "D /etc/\\x1b[2Jx");
        let added = Change::Added {
            kind: EntryKind::Symlink(b"../y".to_vec()),
            size: 0,
        };
        assert_eq!(line(added), "A /etc/\\x1b[2Jx  link to ../y");
        let moment = |nanoseconds| Time {
            seconds: 1,
            nanoseconds,
        };
        let changed = vec![
            Aspect::Mode(0o644, 0o4755),
            Aspect::Size(1, 2),
            Aspect::Content,
            Aspect::Modified(moment(0), moment(5)),
        ];
        assert_eq!(
            line(Change::Changed(changed)),
            "C /etc/\\x1b[2Jx  mode 0644 → 4755, 1 → 2 bytes, content, modified 1970-01-01T00:00:01Z → 1970-01-01T00:00:01.000000005Z"
        );
    }
}
