//! `builder diff`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::container::find_image;
use crate::cli::changes::{details, letter, line_of};
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, printable, renderer};
use crate::cli::report::counted;
use crate::cli::session::{GlobalOptions, Session};
use crate::export::{self, Aspect, Change, Difference, Extent, Side};
use crate::oci::{ImageConfig, Platform};
use crate::pull::{PullPolicy, ResolvedImage};

/// Show what is otherwise in another image: files, and configuration.
///
/// Files that were added are marked with `A`, changed ones with `C`, and those that are gone with `D`. An image that is not
/// in the local store is fetched.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Say, too, when files were modified.
    #[arg(long)]
    times: bool,
    /// End with 1 where the images differ.
    #[arg(long)]
    exit_code: bool,
    /// Print `json`, podman's with details.
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    format: Option<String>,
    /// The images for this platform, where there are several; by default this machine's.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The image that is compared with: a name, an id, or the beginning of an id.
    #[arg(value_name = "IMAGE")]
    left: String,
    /// The image whose differences are shown.
    #[arg(value_name = "OTHER")]
    right: String,
}

/// A field of a configuration that is otherwise: `None` where it is not there.
type Fields = BTreeMap<String, (Option<Value>, Option<Value>)>;

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let _in_use = session.store.in_use()?;
    let puller = session.puller(&cancel);
    let progress = renderer(Style::Quiet);
    let find = |text: &str| -> Result<(ResolvedImage, Side), Failure> {
        let image = find_image(
            text,
            arguments.platform.as_ref(),
            PullPolicy::Missing,
            &session,
            &puller,
        )?;
        let snapshot = puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
        Ok((image, Side { snapshot, epoch: None }))
    };
    let (left, right) = (find(&arguments.left)?, find(&arguments.right)?);
    let fields = fields(left.0.config.value(), right.0.config.value());
    let mut files = match left.1.snapshot == right.1.snapshot {
        true => Vec::new(),
        false => export::compare(&session.snapshotter, left.1, right.1, Extent::Tree)?,
    };
    if !arguments.times {
        files.retain_mut(is_more_than_times);
    }
    match arguments.format {
        Some(_) => output::line(as_json(&fields, &files))?,
        None => print(&fields, &files)?,
    }
    let differ = !fields.is_empty() || !files.is_empty();
    Ok(ExitCode::from(u8::from(arguments.exit_code && differ)))
}

/// Leaves out when files were modified.
fn is_more_than_times(difference: &mut Difference) -> bool {
    let Change::Changed(aspects) = &mut difference.change else {
        return true;
    };
    aspects.retain(|aspect| !matches!(aspect, Aspect::Modified(..)));
    !aspects.is_empty()
}

/// What is otherwise in a configuration, but for its layers and history, which the files tell of.
fn fields(left: &ImageConfig, right: &ImageConfig) -> Fields {
    let flat = |config: &ImageConfig| {
        let mut value = json!(config);
        let known = value.as_object_mut();
        let parts = known.map(|fields| {
            for left_out in ["rootfs", "history", "created"] {
                fields.remove(left_out);
            }
            std::mem::take(fields)
        });
        let mut flat = BTreeMap::new();
        flatten("", Value::Object(parts.unwrap_or_default()), &mut flat);
        flat
    };
    let (left, mut right) = (flat(left), flat(right));
    let mut fields = Fields::new();
    for (name, value) in left {
        match right.remove(&name) {
            Some(other) if other == value => {}
            other => _ = fields.insert(name, (Some(value), other)),
        }
    }
    fields.extend(right.into_iter().map(|(name, value)| (name, (None, Some(value)))));
    fields
}

/// One entry for each value that is no object; variables have one each, too.
fn flatten(name: &str, value: Value, flat: &mut BTreeMap<String, Value>) {
    let below = |part: &str| match name {
        "" => part.to_owned(),
        name => format!("{name}.{part}"),
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let fields: Map<String, Value> = fields;
            for (part, value) in fields {
                flatten(&below(&part), value, flat);
            }
        }
        Value::Array(variables) if name == "config.Env" => {
            for variable in variables {
                let text = variable.as_str().unwrap_or_default();
                let (part, value) = text.split_once('=').unwrap_or((text, ""));
                flat.insert(below(part), value.into());
            }
        }
        value => _ = flat.insert(name.to_owned(), value),
    }
}

fn print(fields: &Fields, files: &[Difference]) -> Result<(), Failure> {
    for (name, (left, right)) in fields {
        let shown = |value: &Option<Value>| match value {
            Some(value) => printable(value.to_string().as_bytes(), false),
            None => "(none)".to_owned(),
        };
        let name = printable(name.as_bytes(), false);
        output::line(format_args!("{name}: {} → {}", shown(left), shown(right)))?;
    }
    for difference in files {
        output::line(line_of(difference))?;
    }
    let count = |wanted: char| files.iter().filter(|file| letter(&file.change) == wanted).count();
    output::remark(format_args!(
        "{} of the configuration, {} added, {} changed, {} gone",
        counted(fields.len(), "field"),
        counted(count('A'), "file"),
        count('C'),
        count('D')
    ));
    Ok(())
}

fn as_json(fields: &Fields, files: &[Difference]) -> Value {
    let path = |difference: &Difference| format!("/{}", String::from_utf8_lossy(&difference.path));
    let paths = |wanted: char| -> Vec<String> {
        let found = files.iter().filter(|file| letter(&file.change) == wanted);
        found.map(path).collect()
    };
    let detailed: Map<String, Value> = files
        .iter()
        .map(|file| (path(file), details(&file.change).into()))
        .collect();
    let config: Map<String, Value> = fields
        .iter()
        .map(|(name, (left, right))| (name.clone(), json!({ "before": left, "after": right })))
        .collect();
    json!({
        "added": paths('A'), "changed": paths('C'), "deleted": paths('D'), "details": detailed, "config": config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_compared_one_by_one() {
        let config = |text: &str| -> ImageConfig { serde_json::from_str(text).unwrap() };
        let left = config(
            r#"{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z","config":{"Env":["A=1","B=2"],"Cmd":["sh"],"Labels":{"x.y":"z"}}}"#,
        );
        let right = config(
            r#"{"architecture":"amd64","os":"linux","created":"2021-01-01T00:00:00Z","config":{"Env":["B=3","A=1"],"Labels":{"x.y":"z","new":""}}}"#,
        );
        let expected = [
            ("config.Cmd", (Some(json!(["sh"])), None)),
            ("config.Env.B", (Some(json!("2")), Some(json!("3")))),
            ("config.Labels.new", (None, Some(json!("")))),
        ];
        let expected: Fields = expected.map(|(name, values)| (name.to_owned(), values)).into();
        assert_eq!(fields(&left, &right), expected);
        assert!(fields(&left, &left).is_empty());
    }
}
