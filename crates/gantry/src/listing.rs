//! Listings: tables, templates and JSON lines over rows of named fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{TemplateError, Value, ValueFunc};

use crate::error::CliError;
use crate::template::{Template, unescape};
use crate::{table, terminal};

/// One object of a listing.
#[derive(Debug, Default)]
pub struct Row {
    /// Fields by the names that templates use.
    pub fields: BTreeMap<&'static str, String>,
    /// Labels, for `.Label "key"`.
    pub labels: BTreeMap<String, String>,
}

/// What a kind of object offers to `--format`.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// Field names and the heads of their columns.
    pub headers: &'a [(&'static str, &'static str)],
    /// Columns of the table that is shown when nothing else is asked for.
    pub columns: &'a [&'static str],
}

/// Renders `rows` as `format` says: nothing or `table` for the table, `table TEMPLATE`,
/// `json` for one object per line, or a template.
///
/// # Errors
/// [`CliError::Template`].
pub fn render(
    layout: Layout<'_>,
    format: Option<&str>,
    rows: &[Row],
    on_terminal: bool,
) -> Result<String, CliError> {
    let format = format.unwrap_or("table").trim();
    match format {
        "" | "table" => Ok(render_columns(layout, rows, on_terminal)),
        "json" => render_lines("{{json .}}", rows, on_terminal),
        _ => match format.strip_prefix("table ") {
            Some(source) => render_table(layout, &unescape(source.trim()), rows, on_terminal),
            None => render_lines(&unescape(format), rows, on_terminal),
        },
    }
}

/// The plain table, made without a template: `ps` must be quick with 1,000 containers.
fn render_columns(layout: Layout<'_>, rows: &[Row], on_terminal: bool) -> String {
    let header = |name: &&str| {
        let found = layout.headers.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, header)| *header)
    };
    let mut lines = Vec::with_capacity(rows.len() + 1);
    lines.push(
        layout
            .columns
            .iter()
            .map(header)
            .collect::<Vec<_>>()
            .join("\t"),
    );
    for row in rows {
        let mut line = String::new();
        for (index, name) in layout.columns.iter().enumerate() {
            if index > 0 {
                line.push('\t');
            }
            let field = row.fields.get(name).map_or("", String::as_str);
            line.push_str(&terminal::shown(field, on_terminal));
        }
        lines.push(line);
    }
    table::align(&lines)
}

fn render_lines(source: &str, rows: &[Row], on_terminal: bool) -> Result<String, CliError> {
    let template = Template::parse(source, on_terminal)?;
    let mut output = String::new();
    for row in rows {
        output.push_str(&template.render(&value(row, on_terminal))?);
        output.push('\n');
    }
    Ok(output)
}

fn render_table(
    layout: Layout<'_>,
    source: &str,
    rows: &[Row],
    on_terminal: bool,
) -> Result<String, CliError> {
    let mut lines = vec![Template::parse_header(source)?.render(&header_value(layout))?];
    let template = Template::parse(source, on_terminal)?;
    for row in rows {
        lines.push(template.render(&value(row, on_terminal))?);
    }
    Ok(table::align(&lines))
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn value(row: &Row, on_terminal: bool) -> Value {
    let mut fields: BTreeMap<Arc<str>, Value> = row
        .fields
        .iter()
        .map(|(name, field)| (Arc::from(*name), text(&terminal::shown(field, on_terminal))))
        .collect();
    let labels = row.labels.clone();
    let label: ValueFunc = Arc::new(move |values| {
        let found = labels.get(argument(values)?).map_or("", String::as_str);
        Ok(text(&terminal::shown(found, on_terminal)))
    });
    fields.insert(Arc::from("Label"), Value::Function(label));
    Value::Map(Arc::new(fields))
}

fn header_value(layout: Layout<'_>) -> Value {
    let mut fields: BTreeMap<Arc<str>, Value> = layout
        .headers
        .iter()
        .map(|(name, header)| (Arc::from(*name), text(header)))
        .collect();
    // The head of a label's column is the last part of its key.
    let label: ValueFunc = Arc::new(|values| {
        let last = argument(values)?.rsplit('.').next().unwrap_or_default();
        Ok(text(&last.replace(['-', '_'], " ")))
    });
    fields.insert(Arc::from("Label"), Value::Function(label));
    Value::Map(Arc::new(fields))
}

fn argument(values: &[Value]) -> gotmpl::Result<&str> {
    values
        .first()
        .and_then(Value::as_str)
        .ok_or(TemplateError::TypeMismatch {
            expected: "string",
            got: values.first().map_or("nothing", Value::type_name),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout<'_> = Layout {
        headers: &[
            ("ID", "CONTAINER ID"),
            ("Names", "NAMES"),
            ("Image", "IMAGE"),
        ],
        columns: &["ID", "Image", "Names"],
    };

    fn rows() -> Vec<Row> {
        [
            ("0123456789ab", "alpine", "one"),
            ("ba9876543210", "a/very/long:image", "two\u{1b}[1m"),
        ]
        .map(|(id, image, names)| Row {
            fields: BTreeMap::from([
                ("ID", id.to_owned()),
                ("Image", image.to_owned()),
                ("Names", names.to_owned()),
            ]),
            labels: BTreeMap::from([("com.example.some-key".to_owned(), names.to_owned())]),
        })
        .into()
    }

    fn check(format: Option<&str>, on_terminal: bool, expected: &str) {
        assert_eq!(
            render(LAYOUT, format, &rows(), on_terminal).unwrap(),
            expected,
            "{format:?}"
        );
    }

    #[test]
    fn formats() {
        let table = "CONTAINER ID   IMAGE               NAMES\n\
                     0123456789ab   alpine              one\n\
                     ba9876543210   a/very/long:image   two\u{1b}[1m\n";
        check(None, false, table);
        check(Some("table"), false, table);
        check(
            Some("{{.ID}} {{.Names}}"),
            false,
            "0123456789ab one\nba9876543210 two\u{1b}[1m\n",
        );
        check(
            Some("{{.ID}}\\t{{upper .Image}}"),
            false,
            "0123456789ab\tALPINE\nba9876543210\tA/VERY/LONG:IMAGE\n",
        );
        check(
            Some("table {{.Image}}\\t{{upper .Names}}\\t{{.Label \"com.example.some-key\"}}"),
            true,
            "IMAGE               NAMES        some key\n\
             alpine              ONE          one\n\
             a/very/long:image   TWO\\X1B[1M   two\\x1b[1m\n",
        );
        check(
            Some("json"),
            false,
            "{\"ID\":\"0123456789ab\",\"Image\":\"alpine\",\"Names\":\"one\"}\n\
             {\"ID\":\"ba9876543210\",\"Image\":\"a/very/long:image\",\"Names\":\"two\\u001b[1m\"}\n",
        );
    }

    #[test]
    fn an_empty_table_has_its_head() {
        assert_eq!(
            render(LAYOUT, None, &[], true).unwrap(),
            "CONTAINER ID   IMAGE     NAMES\n"
        );
        assert_eq!(
            render(LAYOUT, Some("table {{.Names}}"), &[], true).unwrap(),
            "NAMES\n"
        );
        assert_eq!(render(LAYOUT, Some("{{.Names}}"), &[], true).unwrap(), "");
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(render(LAYOUT, Some("{{.Foo}}"), &rows(), false).is_err());
        assert!(render(LAYOUT, Some("table {{.Foo}}"), &[], false).is_err());
    }

    #[test]
    fn a_terminal_gets_no_control_characters_cve_2021_25743() {
        let shown = render(LAYOUT, None, &rows(), true).unwrap();
        assert!(shown.contains("two\\x1b[1m") && !shown.contains('\u{1b}'));
    }
}
