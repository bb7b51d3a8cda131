//! `--call` and `--check`: what can be asked of a Dockerfile without building it. The answers have the form of BuildKit's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Arguments;
use super::dockerfile::DockerfileText;
use super::pins;
use crate::cli::config::Config;
use crate::cli::diagnostic::SourceFile;
use crate::cli::failure::{Failure, with_causes};
use crate::cli::format::table;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::report::{call_failure, counted, drawn_warning};
use crate::cli::session::{GlobalOptions, Session};
use crate::parser::{displayable, line_of};
use crate::pipeline::{self, CallError, CallRequest, Checked, Target};
use crate::planner::{Outline, OutlinedMount, PlanOptions, Warning};

/// `--call METHOD[,format=text|json][,ignorestatus]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    method: Method,
    format: Format,
    /// End with 0 whatever is found.
    ignore_status: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Build,
    Check,
    Outline,
    Targets,
    Describe,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Text,
    Json,
}

/// The methods, as they are named and described.
const METHODS: [(&str, Method, &str); 5] = [
    ("build", Method::Build, "Build the target"),
    ("check", Method::Check, "Hold the Dockerfile against the build checks"),
    ("outline", Method::Outline, "List what a build of the target takes"),
    ("targets", Method::Targets, "List the targets"),
    ("subrequests.describe", Method::Describe, "List the methods"),
];

/// The version of the form of the answers.
const VERSION: &str = "1.0.0";

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut call = Call {
            method: Method::Build,
            format: Format::Text,
            ignore_status: false,
        };
        for part in text.split(',') {
            match part.split_once('=') {
                None if part == "ignorestatus" => call.ignore_status = true,
                None => call.method = method(part)?,
                Some(("format", "json")) => call.format = Format::Json,
                Some(("format", "text")) => call.format = Format::Text,
                Some(("ignorestatus", value)) => {
                    let value = value.parse();
                    call.ignore_status = value.map_err(|_| format!("`{part}`: expected true or false"))?;
                }
                Some(("format", _)) => return Err(format!("`{part}`: expected format=text or format=json")),
                Some(_) => return Err(format!("`{part}` is no option of --call: use format= or ignorestatus=")),
            }
        }
        Ok(call)
    }
}

fn method(name: &str) -> Result<Method, String> {
    // As the command line of docker takes them as well.
    let name = name.strip_prefix("frontend.").unwrap_or(name);
    let name = if name == "lint" { "check" } else { name };
    let found = METHODS.iter().find(|(known, ..)| *known == name);
    found.map(|(_, method, _)| *method).ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
        format!("`{name}` is no method: use one of {}", names.join(", "))
    })
}

/// The call that was asked for; `None` for an ordinary build.
pub(super) fn wanted(arguments: &Arguments) -> Option<Call> {
    let call = match arguments.check {
        true => Call {
            method: Method::Check,
            ..arguments.call
        },
        false => arguments.call,
    };
    (call.method != Method::Build).then_some(call)
}

/// Answers a call.
pub(super) fn run(
    call: Call,
    arguments: &Arguments,
    global: &GlobalOptions,
    dockerfile: DockerfileText,
    plan: PlanOptions,
    contexts: &BTreeMap<String, PathBuf>,
) -> Result<ExitCode, Failure> {
    let pins = pins::pins(arguments, &dockerfile)?;
    let request = CallRequest {
        dockerfile_path: dockerfile.path,
        dockerfile: dockerfile.bytes,
        context: contexts.get("context").cloned(),
        plan,
        admission: arguments.sources.admission(&Config::load()?.policy)?,
        pins,
    };
    let text = displayable(&request.dockerfile);
    let answer = Answer {
        source: SourceFile {
            name: &dockerfile.name,
            text: &text,
        },
        bytes: &request.dockerfile,
    };
    let looker = || Session::looker(global, arguments.pull.into(), &cancel_on_signals()?);
    match call.method {
        Method::Build => {}
        Method::Check => {
            let checked = pipeline::check(&request, &looker()?)?;
            let code = answer.check(call, checked)?;
            return Ok(if call.ignore_status { ExitCode::SUCCESS } else { code });
        }
        Method::Outline => {
            let outlined = pipeline::outline(&request, &looker()?);
            let (outline, _) = outlined.map_err(|error| call_failure(&answer.source, error))?;
            match call.format {
                Format::Json => print_json(&answer.outline(&outline))?,
                Format::Text => output::text(outline_text(&outline))?,
            }
        }
        Method::Targets => {
            let targets = pipeline::targets(&request);
            let targets = targets.map_err(|error| call_failure(&answer.source, error))?;
            match call.format {
                Format::Json => print_json(&answer.targets(&targets))?,
                Format::Text => output::text(targets_text(&targets))?,
            }
        }
        Method::Describe => describe(call.format)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What an answer is about.
struct Answer<'a> {
    source: SourceFile<'a>,
    bytes: &'a [u8],
}

impl Answer<'_> {
    fn check(&self, call: Call, checked: Checked) -> Result<ExitCode, Failure> {
        let is_violation = |warning: &&Warning| warning.rule.is_some();
        let violations: Vec<&Warning> = checked.warnings.iter().filter(is_violation).collect();
        for note in checked.warnings.iter().filter(|warning| warning.rule.is_none()) {
            output::remark(format_args!(
                "{}\n",
                drawn_warning(&std::io::stderr(), &self.source, note)
            ));
        }
        if call.format == Format::Json {
            print_json(&self.violations(&violations, checked.errors.as_ref()))?;
            let clean = violations.is_empty() && checked.errors.is_none();
            return Ok(ExitCode::from(if clean { 0 } else { 1 }));
        }
        for violation in &violations {
            output::line(format_args!(
                "{}\n",
                drawn_warning(&std::io::stdout(), &self.source, violation)
            ))?;
        }
        if let Some(error) = checked.errors {
            return Err(call_failure(&self.source, error));
        }
        match violations.len() {
            0 => output::remark(format_args!("check complete: no warnings")),
            count => output::remark(format_args!("check complete: {} found", counted(count, "warning"))),
        }
        Ok(ExitCode::from(if violations.is_empty() { 0 } else { 1 }))
    }

    fn violations(&self, violations: &[&Warning], error: Option<&CallError>) -> Value {
        let violation = |warning: &&Warning| {
            let rule = warning.rule?;
            let mut shown = json!({ "ruleName": rule.name(), "description": rule.description() });
            if let Some(url) = rule.url() {
                shown["url"] = url.into();
            }
            shown["detail"] = warning.message.as_str().into();
            shown["location"] = location(warning.lines);
            Some(shown)
        };
        let warnings: Vec<Value> = violations.iter().filter_map(violation).collect();
        let source = json!({
            "filename": self.source.name,
            "data": STANDARD.encode(self.bytes),
            "language": "Dockerfile",
        });
        let mut answer = json!({ "warnings": warnings, "sources": [source] });
        if let Some(error) = error {
            answer["buildError"] = self.build_error(error);
        }
        answer
    }

    /// All that is wrong in one message, and all lines where something is.
    fn build_error(&self, error: &CallError) -> Value {
        let line = |start: usize| line_of(self.bytes, start);
        let (messages, lines): (Vec<String>, Vec<usize>) = match error {
            CallError::Parse(diagnostics) => diagnostics
                .iter()
                .map(|diagnostic| (diagnostic.message.clone(), line(diagnostic.span.start)))
                .unzip(),
            CallError::Plan(errors) => {
                let lines = errors
                    .iter()
                    .filter_map(|error| error.span)
                    .map(|span| line(span.start));
                let messages = errors.iter().map(|error| with_causes(&error.problem));
                (messages.collect(), lines.collect())
            }
            CallError::Context(error) => (vec![with_causes(error)], Vec::new()),
        };
        let mut location = json!({});
        if !lines.is_empty() {
            location["ranges"] = lines.into_iter().map(range).collect();
        }
        json!({ "message": messages.join("\n"), "location": location })
    }

    fn outline(&self, outline: &Outline) -> Value {
        let mut answer = json!({});
        if let Some(name) = &outline.name {
            answer["name"] = name.as_str().into();
        }
        if let Some(description) = &outline.description {
            answer["description"] = description.as_str().into();
        }
        let args: Vec<Value> = outline
            .args
            .iter()
            .map(|arg| {
                let mut shown = json!({ "name": arg.name });
                for (key, value) in [("description", &arg.description), ("value", &arg.value)] {
                    if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                        shown[key] = value.into();
                    }
                }
                shown["location"] = location(Some(arg.lines));
                shown
            })
            .collect();
        let mounts = |mounts: &[OutlinedMount], key: &str| -> Vec<Value> {
            let shown = |mount: &OutlinedMount| {
                let mut shown = json!({ key: mount.id, "location": location(Some(mount.lines)) });
                if mount.required {
                    shown["required"] = true.into();
                }
                shown
            };
            mounts.iter().map(shown).collect()
        };
        for (key, list) in [
            ("args", args),
            ("secrets", mounts(&outline.secrets, "name")),
            ("ssh", mounts(&outline.ssh, "name")),
            ("cache", mounts(&outline.caches, "ID")),
        ] {
            if !list.is_empty() {
                answer[key] = list.into();
            }
        }
        answer["sources"] = json!([STANDARD.encode(self.bytes)]);
        answer
    }

    fn targets(&self, targets: &[Target]) -> Value {
        let shown = |target: &Target| {
            let mut shown = json!({});
            for (key, value) in [
                ("name", target.name.as_deref()),
                ("description", target.description.as_deref()),
                ("base", Some(target.base.as_str())),
                ("platform", target.platform.as_deref()),
            ] {
                if let Some(value) = value {
                    shown[key] = value.into();
                }
            }
            if target.is_default {
                shown["default"] = true.into();
            }
            shown["location"] = location(Some(target.lines));
            shown
        };
        let targets: Vec<Value> = targets.iter().map(shown).collect();
        json!({ "targets": targets, "sources": [STANDARD.encode(self.bytes)] })
    }
}

/// Lines as BuildKit writes them: a range for each.
fn location(lines: Option<(usize, usize)>) -> Value {
    match lines {
        Some((first, last)) => json!({ "ranges": (first..=last).map(range).collect::<Vec<_>>() }),
        None => json!({}),
    }
}

fn range(line: usize) -> Value {
    json!({ "start": { "line": line }, "end": { "line": line } })
}

fn print_json(value: &Value) -> Result<(), Failure> {
    output::line(format_args!("{value:#}"))
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let width = if outline.description.is_some() { 12 } else { 7 };
        text.push_str(&format!("{:<width$} {name}\n", "TARGET:"));
        if let Some(description) = &outline.description {
            let description = printable(description.as_bytes(), false);
            text.push_str(&format!("DESCRIPTION: {description}\n"));
        }
        text.push('\n');
    }
    let cell = |value: &Option<String>| printable(value.as_deref().unwrap_or_default().as_bytes(), false);
    let args = outline
        .args
        .iter()
        .map(|arg| vec![arg.name.clone(), cell(&arg.value), cell(&arg.description)]);
    let mounts = |mounts: &[OutlinedMount]| -> Vec<Vec<String>> {
        let required = |mount: &OutlinedMount| {
            if mount.required {
                "true".to_owned()
            } else {
                String::new()
            }
        };
        mounts
            .iter()
            .map(|mount| vec![mount.id.clone(), required(mount)])
            .collect()
    };
    let caches = outline.caches.iter().map(|mount| vec![mount.id.clone()]);
    for (heads, rows) in [
        (&["BUILD ARG", "VALUE", "DESCRIPTION"][..], args.collect()),
        (&["SECRET", "REQUIRED"], mounts(&outline.secrets)),
        (&["SSH", "REQUIRED"], mounts(&outline.ssh)),
        (&["CACHE"], caches.collect::<Vec<_>>()),
    ] {
        if !rows.is_empty() {
            text.push_str(&table(heads, &rows));
            text.push('\n');
        }
    }
    text
}

fn targets_text(targets: &[Target]) -> String {
    let row = |target: &Target| {
        let name = match (target.name.as_deref(), target.is_default) {
            (None, true) => "(default)".to_owned(),
            (Some(name), true) => format!("{name} (default)"),
            (name, false) => name.unwrap_or_default().to_owned(),
        };
        vec![name, target.description.clone().unwrap_or_default()]
    };
    table(&["TARGET", "DESCRIPTION"], &targets.iter().map(row).collect::<Vec<_>>())
}

fn describe(format: Format) -> Result<(), Failure> {
    let described = METHODS.iter().filter(|(_, method, _)| *method != Method::Build);
    match format {
        Format::Json => {
            let shown = |(name, _, description): &(&str, Method, &str)| {
                let name = if *name == "check" { "lint" } else { name };
                json!({
                    "name": format!("frontend.{name}"),
                    "version": VERSION,
                    "type": "rpc",
                    "description": description,
                    "opts": [],
                    "inputs": null,
                    "metadata": [
                        { "name": "result.json", "description": "" },
                        { "name": "result.txt", "description": "" },
                    ],
                    "refs": null,
                })
            };
            print_json(&described.map(shown).collect())
        }
        Format::Text => {
            let row = |(name, _, description): &(&str, Method, &str)| {
                vec![(*name).to_owned(), VERSION.to_owned(), (*description).to_owned()]
            };
            let rows: Vec<Vec<String>> = described.map(row).collect();
            output::text(table(&["NAME", "VERSION", "DESCRIPTION"], &rows))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_they_are_written() {
        let call = |text: &str| text.parse::<Call>();
        assert_eq!(call("check").unwrap().method, Method::Check);
        assert_eq!(call("frontend.lint").unwrap().method, Method::Check);
        assert_eq!(call("outline,format=json").unwrap().format, Format::Json);
        assert!(call("check,ignorestatus=true").unwrap().ignore_status);
        for wrong in [
            "chek",
            "check,format=xml",
            "check,colour=red",
            "check,ignorestatus=maybe",
        ] {
            assert!(call(wrong).is_err(), "{wrong}");
        }
    }
}
