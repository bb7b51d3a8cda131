//! The part of Go's templates that people use with `--format`: fields (`{{.Config.Env}}`), the functions `json`, `index`,
//! `join`, `len`, `lower`, `upper` and `println`, brackets, and the blocks `range`, `if` and `with`.
//!
//! Source: Go's text/template, and the functions that docker adds. There is no maintained library of it.

use std::iter::Peekable;

use serde_json::Value;

use super::failure::Failure;
use super::output;

/// Blocks within blocks, at most.
const DEEPEST: usize = 32;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum TemplateError {
    /// `{{` without `}}`.
    #[error("the template has `{{{{` without `}}}}`")]
    Unclosed,
    /// `range` or `if` without `end`, or the other way round.
    #[error("the template's `{{{{{0}}}}}` stands alone: each range, if and with has its end")]
    Unpaired(String),
    /// Something that is no field and no known function.
    #[error(
        "`{{{{{0}}}}}` is not understood: a field such as {{{{.Config.Env}}}} is, and json, index, join, len, lower, upper, \
         println, range, if, with, else and end are"
    )]
    Unknown(String),
    /// A field that is not there.
    #[error("there is no field `{0}`")]
    NoField(String),
    /// A function of something that it cannot be done with.
    #[error("`{{{{{0}}}}}`: {1}")]
    Unfit(String, &'static str),
}

type Result<T> = std::result::Result<T, TemplateError>;

/// Prints `value` as `--format` says: `json`, or a template.
///
/// # Errors
/// A template that cannot be used; output that cannot be kept.
pub(super) fn print(format: &str, value: &Value) -> std::result::Result<(), Failure> {
    match format {
        "json" => output::line(value),
        template => output::line(fill(template, value)?),
    }
}

/// Fills `template` from `value`.
pub(super) fn fill(template: &str, value: &Value) -> Result<String> {
    let parts = parts(template)?;
    let mut rest = parts.into_iter().peekable();
    let (nodes, end) = block(&mut rest, 0)?;
    if let Some(end) = end {
        return Err(TemplateError::Unpaired(end));
    }
    let mut filled = String::new();
    render(&nodes, value, &mut filled)?;
    Ok(filled)
}

/// Text, or what stands between `{{` and `}}`.
#[derive(Debug)]
enum Part {
    Text(String),
    Action(String),
}

fn parts(template: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = template;
    let mut trim = false;
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
        let mut text = unescape(text);
        if std::mem::take(&mut trim) {
            text = text.trim_start().to_owned();
        }
        let mut action = action;
        // `{{-` and `-}}` take the blanks beside them away.
        if let Some(inner) = action.strip_prefix("- ") {
            (action, text) = (inner, text.trim_end().to_owned());
        }
        if let Some(inner) = action.strip_suffix(" -") {
            (action, trim) = (inner, true);
        }
        parts.push(Part::Text(text));
        parts.push(Part::Action(action.trim().to_owned()));
        rest = after;
    }
    let rest = unescape(rest);
    parts.push(Part::Text(if trim { rest.trim_start().to_owned() } else { rest }));
    Ok(parts)
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

/// A template, taken apart.
#[derive(Debug)]
enum Node {
    Text(String),
    /// What is printed.
    Value(String),
    /// `range`, `if` or `with`: of what, what then, and what else.
    Block(Kind, String, Vec<Node>, Vec<Node>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Range,
    If,
    With,
}

/// Nodes to the `else` or `end` of this block, which comes back, or to the end of the template.
fn block(rest: &mut Peekable<impl Iterator<Item = Part>>, depth: usize) -> Result<(Vec<Node>, Option<String>)> {
    let mut nodes = Vec::new();
    while let Some(part) = rest.next() {
        let action = match part {
            Part::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Part::Action(action) => action,
        };
        let (word, operand) = action.split_once(' ').unwrap_or((&action, ""));
        let kind = match word {
            "range" => Kind::Range,
            "if" => Kind::If,
            "with" => Kind::With,
            "else" | "end" => return Ok((nodes, Some(action))),
            _ => {
                nodes.push(Node::Value(action));
                continue;
            }
        };
        if depth == DEEPEST {
            return Err(TemplateError::Unknown(action));
        }
        let (then, mut closed) = block(rest, depth + 1)?;
        let mut otherwise = Vec::new();
        if closed.as_deref() == Some("else") {
            (otherwise, closed) = block(rest, depth + 1)?;
        }
        match closed.as_deref() {
            Some("end") => nodes.push(Node::Block(kind, operand.trim().to_owned(), then, otherwise)),
            Some(other) => return Err(TemplateError::Unknown(other.to_owned())),
            None => return Err(TemplateError::Unpaired(action)),
        }
    }
    Ok((nodes, None))
}

fn render(nodes: &[Node], value: &Value, filled: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => filled.push_str(text),
            Node::Value(action) => filled.push_str(&plain(&evaluate(action, value)?)),
            Node::Block(kind, operand, then, otherwise) => {
                let found = evaluate(operand, value)?;
                match kind {
                    _ if !is_true(&found) => render(otherwise, value, filled)?,
                    Kind::If => render(then, value, filled)?,
                    Kind::With => render(then, &found, filled)?,
                    Kind::Range => {
                        for item in items(&found, operand)? {
                            render(then, item, filled)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn items<'a>(value: &'a Value, action: &str) -> Result<Vec<&'a Value>> {
    match value {
        Value::Array(values) => Ok(values.iter().collect()),
        Value::Object(fields) => Ok(fields.values().collect()),
        _ => Err(TemplateError::Unfit(action.to_owned(), "range takes a list")),
    }
}

/// As Go has it: nothing, nought and what is empty is false.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A field, a text in quotes, a number, or a function of such.
fn evaluate(action: &str, value: &Value) -> Result<Value> {
    let words = words(action).ok_or_else(|| TemplateError::Unknown(action.to_owned()))?;
    let Some((first, operands)) = words.split_first() else {
        return Err(TemplateError::Unknown(action.to_owned()));
    };
    if operands.is_empty() && first != "println" {
        return operand(first, value, action);
    }
    let operands: Vec<Value> = operands
        .iter()
        .map(|word| operand(word, value, action))
        .collect::<Result<_>>()?;
    let unfit = |what| TemplateError::Unfit(action.to_owned(), what);
    match (first.as_str(), operands.as_slice()) {
        ("json", [value]) => Ok(value.to_string().into()),
        ("len", [value]) => match value {
            Value::String(text) => Ok(text.len().into()),
            Value::Array(values) => Ok(values.len().into()),
            Value::Object(fields) => Ok(fields.len().into()),
            Value::Null => Ok(0.into()),
            _ => Err(unfit("len takes a list or a text")),
        },
        ("index", [value, keys @ ..]) => keys
            .iter()
            .try_fold(value, |value, key| member(value, key))
            .cloned()
            .ok_or_else(|| unfit("there is nothing at this place")),
        ("join", [values, Value::String(between)]) => {
            let texts: Vec<String> = items(values, action)?.into_iter().map(plain).collect();
            Ok(texts.join(&unescape(between)).into())
        }
        ("lower", [value]) => Ok(plain(value).to_lowercase().into()),
        ("upper", [value]) => Ok(plain(value).to_uppercase().into()),
        ("println", values) => {
            let texts: Vec<String> = values.iter().map(plain).collect();
            Ok(format!("{}\n", texts.join(" ")).into())
        }
        _ => Err(TemplateError::Unknown(action.to_owned())),
    }
}

/// What a list has at a number, or a table at a name; a name that is not there has an empty text, as in Go.
fn member<'a>(value: &'a Value, key: &Value) -> Option<&'a Value> {
    static NOTHING: Value = Value::String(String::new());
    match (value, key) {
        (Value::Array(values), Value::Number(number)) => values.get(usize::try_from(number.as_u64()?).ok()?),
        (Value::Object(fields), Value::String(name)) => Some(fields.get(name).unwrap_or(&NOTHING)),
        (Value::Null, Value::String(_)) => Some(&NOTHING),
        _ => None,
    }
}

/// Words; those in quotes keep their blanks and begin with the quote. `None` for an open quote.
fn words(action: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '`' => {
                let end = rest[1..].find(first)? + 1;
                (format!("\"{}", &rest[1..end]), &rest[end + 1..])
            }
            _ => {
                let group = if first == '(' { closing(rest)? } else { 0 };
                let end = rest[group..]
                    .find(char::is_whitespace)
                    .map_or(rest.len(), |end| group + end);
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    Some(words)
}

/// Where the bracket is closed that `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let (mut open, mut quote) = (0, None);
    for (place, character) in text.char_indices() {
        match (quote, character) {
            (Some(opened), _) => quote = (opened != character).then_some(opened),
            (None, '"' | '`') => quote = Some(character),
            (None, '(') if open == DEEPEST => return None,
            (None, '(') => open += 1,
            (None, ')') if open == 1 => return Some(place),
            (None, ')') => open -= 1,
            (None, _) => {}
        }
    }
    None
}

fn operand(word: &str, value: &Value, action: &str) -> Result<Value> {
    if word.starts_with('(') {
        let unknown = || TemplateError::Unknown(action.to_owned());
        let end = closing(word).ok_or_else(unknown)?;
        let inner = evaluate(&word[1..end], value)?;
        return match &word[end + 1..] {
            "" => Ok(inner),
            fields if fields.starts_with('.') => operand(fields, &inner, action),
            _ => Err(unknown()),
        };
    }
    if let Some(text) = word.strip_prefix('"') {
        return Ok(text.into());
    }
    if let Ok(number) = word.parse::<u64>() {
        return Ok(number.into());
    }
    let fields = word
        .strip_prefix('.')
        .ok_or_else(|| TemplateError::Unknown(action.to_owned()))?;
    let mut found = value;
    for field in fields.split('.').filter(|field| !field.is_empty()) {
        found = named(found, field).ok_or_else(|| TemplateError::NoField(word.to_owned()))?;
    }
    Ok(found.clone())
}

/// The field of a table. Go's programs name fields otherwise than their JSON does: `MediaType` is `mediaType` there.
fn named<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    let alike = || fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
    fields.get(field).or_else(|| alike().map(|(_, value)| value))
}

/// A value as Go prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", plain(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_filled_as_go_fills_them() {
        let value = json!({
            "Id": "x", "None": null, "Empty": [],
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"k.l": "v"}, "Volumes": {"a": {}}},
        });
        for (template, expected) in [
            ("{{.Id}}", "x"),
            ("id={{ .Id }}\\n{{.Config.Env}}", "id=x\n[A=1 B=2]"),
            ("{{.Config.Labels}}", "map[k.l:v]"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{json .}}", &value.to_string()),
            ("{{index .Config.Labels \"k.l\"}}", "v"),
            ("{{index .Config.Labels `none`}}", ""),
            ("{{index .Config.Env 1}}", "B=2"),
            ("{{json (index .Config.Labels \"k.l\")}}", "\"v\""),
            ("{{(index (index .Config \"Labels\") `k.l`)}}", "v"),
            ("{{len (index .Config `Volumes`).a}}", "0"),
            ("{{.config.env}}", "[A=1 B=2]"),
            ("{{len .Config.Env}} {{len .None}}", "2 0"),
            ("{{join .Config.Env \", \"}}", "A=1, B=2"),
            ("{{upper .Id}}{{lower \"ABC\"}}", "Xabc"),
            ("{{range .Config.Env}}<{{.}}>{{end}}", "<A=1><B=2>"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .None}}a{{else}}b{{end}}c", "bc"),
            ("{{if .Id}}{{if .Empty}}1{{else}}2{{end}}{{end}}", "2"),
            ("{{with .Config}}{{.Labels}}{{end}}", "map[k.l:v]"),
            ("a  {{- .Id -}}  b", "axb"),
        ] {
            assert_eq!(fill(template, &value).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let value = json!({"Text": "x"});
        let unknown = |action: &str| TemplateError::Unknown(action.into());
        for (template, error) in [
            ("{{.No}}", TemplateError::NoField(".No".into())),
            ("{{.Id", TemplateError::Unclosed),
            ("{{range .}}", TemplateError::Unpaired("range .".into())),
            ("{{end}}", TemplateError::Unpaired("end".into())),
            ("{{template \"x\"}}", unknown("template \"x\"")),
            ("{{json .Text .Text}}", unknown("json .Text .Text")),
            ("{{json (.Text}}", unknown("json (.Text")),
            ("{{(.Text)x}}", unknown("(.Text)x")),
            ("{{}}", unknown("")),
            ("{{join .Text \"}}", unknown("join .Text \"")),
            (
                "{{index .Text 1}}",
                TemplateError::Unfit("index .Text 1".into(), "there is nothing at this place"),
            ),
        ] {
            assert_eq!(fill(template, &value), Err(error), "{template}");
        }
        let deep = "{{if .Text}}".repeat(1000);
        assert!(fill(&deep, &value).is_err());
    }
}
