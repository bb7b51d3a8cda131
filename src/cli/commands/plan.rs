//! `builder plan`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::build;
use crate::cli::failure::Failure;
use crate::cli::format::table;
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::report::{counted, warning_lines};
use crate::cli::session::GlobalOptions;
use crate::graph::{Graph, Op, Source, Vertex, VertexId};
use crate::pipeline::Forecast;
use crate::solver::Prospect;

/// Show what a build would do: which steps, in which order, and which of them are cached.
///
/// Nothing is run and no layer is fetched. The flags are those of `builder build`; those about the image that a build
/// makes have no effect. Steps that can run at the same time have no line between them.
#[derive(Debug, Args)]
#[group(skip)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    build: build::Arguments,
    /// How the plan is shown.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// A table.
    Text,
    /// For programs.
    Json,
    /// For Graphviz.
    Dot,
    /// For pages of Markdown.
    Mermaid,
}

pub(super) fn run(arguments: Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    let format = arguments.format;
    build::foresee(arguments.build, global, |source, forecast| {
        for line in warning_lines(source, &forecast.warnings) {
            output::remark(format_args!("warning: {line}"));
        }
        match format {
            Format::Text => output::text(text(forecast)),
            Format::Json => output::line(format_args!("{:#}", document(forecast))),
            Format::Dot => output::text(dot(forecast)),
            Format::Mermaid => output::text(mermaid(forecast)),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What a step does in the plan, in one word.
fn verb(vertex: &Vertex, prospect: Prospect) -> &'static str {
    match (prospect, &vertex.op) {
        (Prospect::Cached, _) => "cached",
        (Prospect::Context, _) => "read",
        (Prospect::Runs, Op::Source(_)) => "fetch",
        (Prospect::Runs, Op::Exec(_) | Op::File(_) | Op::Merge(_)) => "run",
    }
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::Source(Source::Image(_)) => "image",
        Op::Source(Source::Local(_)) => "context",
        Op::Source(Source::Http(_)) => "http",
        Op::Source(Source::Git(_)) => "git",
        Op::Source(Source::Archive(_)) => "archive",
        Op::Exec(_) => "exec",
        Op::File(_) => "file",
        Op::Merge(_) => "merge",
    }
}

/// The steps, inputs first, each with its number from 1.
fn steps(forecast: &Forecast) -> impl Iterator<Item = (usize, &Vertex, Prospect)> {
    let Forecast { graph, prospects, .. } = forecast;
    prospects
        .iter()
        .map(|(id, prospect)| (number(*id), &graph[*id], *prospect))
}

fn number(id: VertexId) -> usize {
    id.index() + 1
}

fn name(vertex: &Vertex) -> String {
    // A build does not show it: it is a part of another step.
    if matches!(vertex.op, Op::Merge(_)) {
        return "[internal] put the layer on its base".to_owned();
    }
    printable(vertex.label.name.as_bytes(), false)
}

fn lines(vertex: &Vertex) -> String {
    match vertex.label.lines {
        None => String::new(),
        Some((first, last)) if first == last => first.to_string(),
        Some((first, last)) => format!("{first}–{last}"),
    }
}

fn text(forecast: &Forecast) -> String {
    let row = |(number, vertex, prospect): (usize, &Vertex, Prospect)| {
        let inputs: Vec<String> = vertex
            .inputs
            .iter()
            .map(|input| format!("#{}", self::number(*input)))
            .collect();
        vec![
            format!("#{number}"),
            verb(vertex, prospect).to_owned(),
            lines(vertex),
            inputs.join(" "),
            name(vertex),
        ]
    };
    let rows: Vec<Vec<String>> = steps(forecast).map(row).collect();
    let mut text = table(&["STEP", "DOES", "LINE", "AFTER", "NAME"], &rows);
    let count = |wanted: &str| {
        let same = steps(forecast).filter(|(_, vertex, prospect)| verb(vertex, *prospect) == wanted);
        same.count()
    };
    let parts = [("cached", "cached"), ("fetch", "to fetch"), ("run", "to run")];
    let parts: Vec<String> = parts
        .map(|(wanted, shown)| format!("{} {shown}", count(wanted)))
        .to_vec();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}: {}",
        counted(forecast.prospects.len(), "step"),
        parts.join(", ")
    );
    text
}

fn document(forecast: &Forecast) -> Value {
    let step = |(number, vertex, prospect): (usize, &Vertex, Prospect)| {
        let inputs: Vec<usize> = vertex.inputs.iter().map(|input| self::number(*input)).collect();
        let mut step = json!({
            "id": number,
            "name": name(vertex),
            "kind": kind(&vertex.op),
            "does": verb(vertex, prospect),
            "after": inputs,
        });
        if let Some((first, last)) = vertex.label.lines {
            step["lines"] = json!([first, last]);
        }
        step
    };
    let steps: Vec<Value> = steps(forecast).map(step).collect();
    let results: Vec<usize> = forecast.results.iter().copied().map(number).collect();
    json!({ "results": results, "steps": steps })
}

/// The edges between the steps that are shown.
fn edges(graph: &Graph, forecast: &Forecast) -> Vec<(usize, usize)> {
    let inputs = |id: &VertexId| {
        let mut inputs = graph[*id].inputs.clone();
        inputs.sort_unstable();
        inputs.dedup();
        let to = number(*id);
        inputs.into_iter().map(move |input| (number(input), to))
    };
    forecast.prospects.keys().flat_map(inputs).collect()
}

fn dot(forecast: &Forecast) -> String {
    let mut text = "digraph plan {\n  rankdir=LR;\n  node [shape=box, style=filled, fontname=monospace];\n".to_owned();
    for (number, vertex, prospect) in steps(forecast) {
        let colour = match verb(vertex, prospect) {
            "cached" => "palegreen",
            "read" => "lightgrey",
            "fetch" => "lightblue",
            _ => "khaki",
        };
        let label = name(vertex).replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(text, "  s{number} [label=\"{label}\", fillcolor={colour}];");
    }
    for (from, to) in edges(&forecast.graph, forecast) {
        let _ = writeln!(text, "  s{from} -> s{to};");
    }
    text + "}\n"
}

fn mermaid(forecast: &Forecast) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for (number, vertex, prospect) in steps(forecast) {
        // Mermaid reads entities, whose `#` and `;` are its own.
        let escape = |ch: char| match ch {
            '"' => "#quot;".to_owned(),
            '#' => "#35;".to_owned(),
            '<' => "#lt;".to_owned(),
            '>' => "#gt;".to_owned(),
            '`' => "#96;".to_owned(),
            ch => ch.to_string(),
        };
        let label: String = name(vertex).chars().map(escape).collect();
        let _ = writeln!(text, "  s{number}[\"{label}\"]:::{}", verb(vertex, prospect));
    }
    for (from, to) in edges(&forecast.graph, forecast) {
        let _ = writeln!(text, "  s{from} --> s{to}");
    }
    text.push_str("  classDef cached fill:#cfc\n  classDef read fill:#ddd\n");
    text + "  classDef fetch fill:#cdf\n  classDef run fill:#fec\n"
}
