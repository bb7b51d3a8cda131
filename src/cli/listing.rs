//! What lists print with `--format`: a line for each row, or a table whose columns a template names, as docker has it.

use serde_json::{Map, Value};

use super::failure::Failure;
use super::format::table;
use super::output;
use super::template::{self, TemplateError};

/// Prints `rows` as `--format` says: `json`, a template for each, or `table` and a template, whose columns stand between
/// tabs (`\t`), under headings. `headings` has one for each field.
///
/// # Errors
/// A template that cannot be used; output that cannot be kept.
pub(super) fn print(format: &str, rows: &[Value], headings: &[(&str, &str)]) -> Result<(), Failure> {
    match format
        .strip_prefix("table")
        .filter(|rest| rest.starts_with([' ', '\t', '{']))
    {
        Some(columns) => output::text(filled_table(columns.trim_start(), rows, headings)?),
        None => rows.iter().try_for_each(|row| template::print(format, row)),
    }
}

fn filled_table(columns: &str, rows: &[Value], headings: &[(&str, &str)]) -> Result<String, TemplateError> {
    let headings: Map<String, Value> = headings
        .iter()
        .map(|(field, heading)| ((*field).to_owned(), (*heading).into()))
        .collect();
    let cells = |row: &Value| -> Result<Vec<String>, TemplateError> {
        Ok(template::fill(columns, row)?.split('\t').map(str::to_owned).collect())
    };
    let header = cells(&Value::Object(headings))?;
    let rows = rows.iter().map(cells).collect::<Result<Vec<_>, _>>()?;
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    Ok(table(&header, &rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_the_columns_that_are_named() {
        let headings = [("ID", "IMAGE ID"), ("Size", "SIZE")];
        let rows = [
            json!({"ID": "a", "Size": "1MB"}),
            json!({"ID": "longer than that", "Size": ""}),
        ];
        assert_eq!(
            filled_table("{{.ID}}\\t{{.Size}}", &rows, &headings).unwrap(),
            "IMAGE ID           SIZE\na                  1MB\nlonger than that\n"
        );
        assert_eq!(filled_table("{{.Size}}", &[], &headings).unwrap(), "SIZE\n");
        assert!(filled_table("{{.Other}}", &rows, &headings).is_err());
    }
}
