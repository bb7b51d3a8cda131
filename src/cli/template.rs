//! The part of Go's templates that people use with `--format`: `{{.Config.Env}}`, `{{json .Config}}`, and text between.

use serde_json::Value;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum TemplateError {
    /// `{{` without `}}`.
    #[error("the template has `{{{{` without `}}}}`")]
    Unclosed,
    /// Something else than a field, or `json` and a field.
    #[error("`{{{{{0}}}}}` is not understood: a field such as {{{{.Config.Env}}}} or {{{{json .Config}}}} is")]
    Unknown(String),
    /// A field that is not there.
    #[error("there is no field `{0}`")]
    NoField(String),
}

/// Fills `template` from `value`.
pub(super) fn fill(template: &str, value: &Value) -> Result<String, TemplateError> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        filled.push_str(&unescape(text));
        let (action, after) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
        filled.push_str(&evaluate(action.trim(), value)?);
        rest = after;
    }
    filled.push_str(&unescape(rest));
    Ok(filled)
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

fn evaluate(action: &str, value: &Value) -> Result<String, TemplateError> {
    let (as_json, path) = match action.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, action),
    };
    let fields = path
        .strip_prefix('.')
        .ok_or_else(|| TemplateError::Unknown(action.to_owned()))?;
    let mut found = value;
    for field in fields.split('.').filter(|field| !field.is_empty()) {
        found = found
            .get(field)
            .ok_or_else(|| TemplateError::NoField(path.to_owned()))?;
    }
    Ok(if as_json { found.to_string() } else { plain(found) })
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
    fn fields_are_printed_as_go_prints_them() {
        let value = json!({"Id": "x", "Config": {"Env": ["A=1", "B=2"], "Labels": {"k": "v"}}});
        for (template, expected) in [
            ("{{.Id}}", "x"),
            ("id={{ .Id }}\\n{{.Config.Env}}", "id=x\n[A=1 B=2]"),
            ("{{.Config.Labels}}", "map[k:v]"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
        ] {
            assert_eq!(fill(template, &value).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let value = json!({});
        assert_eq!(fill("{{.No}}", &value), Err(TemplateError::NoField(".No".into())));
        assert_eq!(
            fill("{{range .}}", &value),
            Err(TemplateError::Unknown("range .".into()))
        );
        assert_eq!(fill("{{.Id", &value), Err(TemplateError::Unclosed));
    }
}
