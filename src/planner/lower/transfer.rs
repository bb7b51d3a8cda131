//! COPY and ADD.

use crate::graph::{
    CopyAction, FileAction, FileOp, Label, Merge, ModeChange, ModeError, Op, Owner, Unpack, VertexId, without_secrets,
};
use crate::parser::{Heredoc, Rule, Span, Transfer, TransferSource, Word};

use super::super::error::{At, PlanError, Problem};
use super::super::history::Layer;
use super::super::path;
use super::super::report::Violation;
use super::super::steps::Step;
use super::remote::{Place, copy_remote};
use super::{Lowering, MAIN_CONTEXT, StageState, shown};

/// The permission bits of a heredoc's file.
const FILE_MODE: u32 = 0o644;

/// Which of the two instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Add,
    Copy,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Copy => "COPY",
        }
    }
}

/// What all sources of one instruction share.
pub(super) struct Settings {
    pub(super) destination: String,
    pub(super) owner: Option<Owner>,
    pub(super) mode: Option<ModeChange>,
}

impl Settings {
    /// Whether the copy comes out the same on any base. A name is looked up in the base; with `--chmod`, BuildKit makes
    /// no layer of its own, which shows where the destination is a link.
    fn need_no_base(&self) -> bool {
        let is_known = |name: &String| name == "root" || name.bytes().all(|byte| byte.is_ascii_digit());
        let mut names = self
            .owner
            .iter()
            .flat_map(|owner| [Some(&owner.user), owner.group.as_ref()]);
        self.mode.is_none() && names.all(|name| name.is_none_or(is_known))
    }

    /// For a copy to where no name is known.
    fn with_numbers(mut self) -> Self {
        let names = self
            .owner
            .iter_mut()
            .flat_map(|owner| [Some(&mut owner.user), owner.group.as_mut()]);
        for name in names.flatten().filter(|name| *name == "root") {
            "0".clone_into(name);
        }
        self
    }
}

/// The sources, variables replaced.
#[derive(Default)]
struct Sources {
    paths: Vec<Place>,
    files: Vec<InlineFile>,
}

/// A heredoc.
struct InlineFile {
    delimiter: String,
    name: String,
    content: String,
}

/// Where a flag's value stands.
fn place(flag: &Option<Word>, step: &Step<'_>) -> Span {
    flag.as_ref().map_or(step.span(), |word| word.span)
}

impl Lowering<'_, '_> {
    pub(super) fn transfer(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        transfer: &Transfer,
        verb: Verb,
    ) -> Result<(), PlanError> {
        let chown = self.optional(state, step, transfer.chown.as_ref())?;
        let chmod = self.optional(state, step, transfer.chmod.as_ref())?;
        let destination = self.value(state, step, &transfer.destination)?;
        let settings = Settings {
            destination: path::destination(state.working_dir(), &destination),
            owner: owner(&chown).at(place(&transfer.chown, step))?,
            mode: if chmod.is_empty() {
                None
            } else {
                let parsed = chmod.parse().map_err(|ModeError(text)| Problem::Mode { text });
                Some(parsed.at(place(&transfer.chmod, step))?)
            },
        };
        let sources = self.sources(state, step, transfer, verb)?;
        let text = history_text(transfer, verb, &chown, &chmod, &sources, &destination);
        let linked_to = state.file_system.filter(|_| transfer.link && settings.need_no_base());
        let settings = match linked_to {
            Some(_) => settings.with_numbers(),
            None => settings,
        };
        let mut inputs: Vec<VertexId> = state.file_system.filter(|_| linked_to.is_none()).into_iter().collect();
        let base = (!inputs.is_empty()).then_some(0);
        let mut actions = Vec::new();
        for places in sources.paths.chunk_by(|one, next| one.is_local() && next.is_local()) {
            let Some(input) = self.input_of(step, &places[0])? else {
                return Ok(());
            };
            inputs.push(input);
            actions.push(match &places[0] {
                Place::Local(_) => copy(transfer, verb, &settings, places, inputs.len() - 1),
                Place::Remote { remote, .. } => copy_remote(transfer, &settings, remote, inputs.len() - 1),
            });
        }
        actions.extend(sources.files.into_iter().map(|file| {
            FileAction::MakeFile {
                name: file.name,
                destination: settings.destination.clone(),
                content: file.content.into_bytes(),
                mode: settings
                    .mode
                    .as_ref()
                    .map_or(FILE_MODE, |mode| mode.apply(FILE_MODE, false)),
                owner: settings.owner.clone(),
            }
        }));
        let label = state.label(step, &shown(step));
        self.add(state, step, Op::File(FileOp { base, actions }), inputs, label)?;
        if let (Some(base), Some(layer)) = (linked_to, state.file_system) {
            let merge = Merge {
                base: 0,
                layer: 1,
                destination: settings.destination,
            };
            // It is no step of its own to whoever wrote the instruction.
            let label = Label {
                lines: Some(step.lines()),
                ..Label::default()
            };
            self.add(state, step, Op::Merge(merge), vec![base, layer], label)?;
        }
        self.record(state, step, text, Layer::One)
    }

    /// What one source is copied from; `None` where that is in error, which is reported already.
    fn input_of(&mut self, step: &Step<'_>, place: &Place) -> Result<Option<VertexId>, PlanError> {
        match place {
            Place::Local(_) => Ok(self.transfer_input(step)),
            Place::Remote { remote, span, .. } => self.remote(remote, Some(step.lines())).at(*span),
        }
    }

    /// What is copied from; `None` where that is in error, which is reported already.
    fn transfer_input(&mut self, step: &Step<'_>) -> Option<VertexId> {
        match step.origins.first() {
            // Its `--from` is in error, so that it has no origin at all; ADD has none to be in error.
            None if from_is_given(step) => None,
            None | Some(None) => Some(self.context(MAIN_CONTEXT)),
            Some(Some(origin)) => self.origin(origin),
        }
    }

    /// The values of the sources.
    fn sources(
        &mut self,
        state: &StageState,
        step: &Step<'_>,
        transfer: &Transfer,
        verb: Verb,
    ) -> Result<Sources, PlanError> {
        let checksum = self.optional(state, step, transfer.checksum.as_ref())?;
        let mut sources = Sources::default();
        for source in &transfer.sources {
            match source {
                TransferSource::Path(word) => {
                    let path = self.value(state, step, word)?;
                    let place = Place::of(path, word, transfer, verb, &checksum)?;
                    if let Place::Local(path) = &place {
                        self.check_ignored(step, path, verb);
                    }
                    sources.paths.push(place);
                }
                TransferSource::Heredoc(heredoc) => sources.files.push(self.inline(state, step, heredoc)?),
            }
        }
        if !checksum.is_empty() && !matches!(sources.paths.as_slice(), [Place::Remote { .. }]) {
            return Err(Problem::Checksum.at(step.span()));
        }
        Ok(sources)
    }

    /// The rule about sources that the main context's ignore file leaves out.
    fn check_ignored(&mut self, step: &Step<'_>, source: &str, verb: Verb) {
        let from_context = step.origins.first().is_none_or(Option::is_none) && !from_is_given(step);
        let clean = path::clean(source);
        let inside = match clean.trim_start_matches('/') {
            "" => ".",
            inside => inside,
        };
        if from_context && self.options.ignored.contains(inside) {
            let verb = match verb {
                Verb::Add => "Add",
                Verb::Copy => "Copy",
            };
            let shown = if source.starts_with('/') {
                clean.as_str()
            } else {
                inside
            };
            let message = format!("Attempting to {verb} file {shown:?} that is excluded by .dockerignore");
            self.report
                .violation(Violation::of_step(step, Rule::CopyIgnoredFile, message));
        }
    }

    fn inline(&mut self, state: &StageState, step: &Step<'_>, heredoc: &Heredoc) -> Result<InlineFile, PlanError> {
        let content = self.body(state, step, heredoc)?;
        let delimiter = heredoc.name.clone();
        match file_name(&delimiter).map(str::to_owned) {
            Some(name) => Ok(InlineFile {
                delimiter,
                name,
                content,
            }),
            None => Err(Problem::HeredocName(delimiter).at(heredoc.span)),
        }
    }
}

/// The name of a heredoc's file: that of a file in a root where there is nothing else, so that `..` leads nowhere.
fn file_name(delimiter: &str) -> Option<&str> {
    let mut held = Vec::new();
    for component in delimiter.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(held.pop()),
            name => held.push(name),
        }
    }
    match held.as_slice() {
        [name] => Some(name),
        _ => None,
    }
}

fn from_is_given(step: &Step<'_>) -> bool {
    matches!(&step.instruction.kind, crate::parser::InstructionKind::Copy(transfer) if transfer.from.is_some())
}

fn copy(transfer: &Transfer, verb: Verb, settings: &Settings, places: &[Place], input: usize) -> FileAction {
    let unpack = match (verb, transfer.unpack) {
        (Verb::Add, None | Some(true)) => Unpack::Archives,
        (Verb::Copy, _) | (Verb::Add, Some(false)) => Unpack::Never,
    };
    FileAction::Copy(CopyAction {
        input,
        sources: places
            .iter()
            .map(|place| source(place.text(), transfer.parents))
            .collect(),
        destination: settings.destination.clone(),
        owner: settings.owner.clone(),
        mode: settings.mode.clone(),
        exclude: transfer.exclude.iter().map(|word| word.raw.clone()).collect(),
        parents: transfer.parents,
        unpack,
    })
}

/// A source as the operation names it: from the root, `..` and a trailing `/` gone. Where parents are kept, the `/./`
/// that divides those that are left out from those that are kept stays.
fn source(text: &str, parents: bool) -> String {
    match text.split_once("/./") {
        Some((left_out, kept)) if parents => match path::clean(left_out).as_str() {
            "/" => format!("/.{}", path::clean(kept)),
            left_out => format!("{left_out}/.{}", path::clean(kept)),
        },
        _ => path::clean(text),
    }
}

/// `user[:group]`; `None` for an empty text.
pub(super) fn owner(text: &str) -> Result<Option<Owner>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    if group.is_some_and(|group| group.contains(':')) || text.contains(['\0', '\n']) {
        return Err(Problem::Owner { text: text.to_owned() });
    }
    let user = if user.is_empty() { "0" } else { user };
    Ok(Some(Owner {
        user: user.to_owned(),
        group: group.filter(|group| !group.is_empty()).map(str::to_owned),
    }))
}

/// `COPY --chown=1000 a b /c/ # buildkit`: `--from` is not in it.
fn history_text(
    transfer: &Transfer,
    verb: Verb,
    chown: &str,
    chmod: &str,
    sources: &Sources,
    destination: &str,
) -> String {
    let mut words = vec![verb.name().to_owned()];
    if transfer.parents {
        words.push("--parents".into());
    }
    for (flag, value) in [("--chown", chown), ("--chmod", chmod)] {
        if !value.is_empty() {
            words.push(format!("{flag}={value}"));
        }
    }
    words.extend(sources.paths.iter().map(|place| without_secrets(place.text())));
    words.extend(sources.files.iter().map(|file| format!("<<{}", file.delimiter)));
    words.extend([destination.to_owned(), "# buildkit".into()]);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_seen_from_the_root() {
        for (given, parents, expected) in [
            ("app.py", false, "/app.py"),
            ("../../etc/passwd", false, "/etc/passwd"),
            ("./src/", false, "/src"),
            (".", false, "/"),
            ("a/./b/*.txt", false, "/a/b/*.txt"),
            ("a/./b/*.txt", true, "/a/./b/*.txt"),
            ("/./b", true, "/./b"),
        ] {
            assert_eq!(source(given, parents), expected, "{given}");
        }
    }

    #[test]
    fn a_heredoc_names_one_file() {
        for (delimiter, expected) in [
            ("EOF", Some("EOF")),
            ("../x", Some("x")),
            ("/a/../b/.", Some("b")),
            ("a/b", None),
            ("..", None),
            ("/", None),
        ] {
            assert_eq!(file_name(delimiter), expected, "{delimiter}");
        }
    }

    #[test]
    fn owners_are_a_user_and_perhaps_a_group() {
        let of = |user: &str, group: Option<&str>| Owner {
            user: user.into(),
            group: group.map(str::to_owned),
        };
        assert_eq!(owner("").unwrap(), None);
        assert_eq!(owner("app").unwrap(), Some(of("app", None)));
        assert_eq!(owner("1:2").unwrap(), Some(of("1", Some("2"))));
        assert_eq!(owner(":2").unwrap(), Some(of("0", Some("2"))));
        assert!(owner("a:b:c").is_err());
    }
}
