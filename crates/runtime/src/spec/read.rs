//! Reading a `config.json`, with errors that tell the line and the field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::BirthError;

/// Nesting that serde_json follows; its default, and more than any real document has.
const MAX_DEPTH: usize = 128;

/// Reads a document such as `config.json`, of which `what` is the name in errors. Unknown
/// fields are ignored. A `null` counts as a field that is not there, as it does for every
/// runtime that is written in Go.
///
/// # Errors
/// [`BirthError::Invalid`] with the field, the line and the column.
pub fn read<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, BirthError> {
    let error = match serde_json::from_slice(text) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    if error.is_data()
        && let Ok(mut value) = serde_json::from_slice(text)
        && remove_nulls(&mut value)
        && let Ok(read) = serde_json::from_value(value)
    {
        return Ok(read);
    }
    let field = match error.is_data() {
        true => field_at(text, error.line(), error.column()),
        false => String::new(),
    };
    let separator = if field.is_empty() { "" } else { ": " };
    Err(BirthError::Invalid(format!(
        "{what}: {field}{separator}{error}"
    )))
}

/// Takes out what is `null`, and says whether there was any.
fn remove_nulls(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => {
            let before = fields.len();
            fields.retain(|_, value| !value.is_null());
            let mut removed = fields.len() < before;
            for value in fields.values_mut() {
                removed |= remove_nulls(value);
            }
            removed
        }
        Value::Array(values) => values
            .iter_mut()
            .fold(false, |removed, value| removed | remove_nulls(value)),
        _ => false,
    }
}

/// One level of the document on the way to a place in it.
enum Level {
    Object { field: String },
    Array { index: usize },
}

/// The path of the field at a place of a document that is well-formed up to there, such as
/// `mounts[2].options`.
fn field_at(text: &[u8], line: usize, column: usize) -> String {
    let end = text
        .split_inclusive(|&byte| byte == b'\n')
        .take(line.saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>()
        .saturating_add(column.saturating_sub(1))
        .min(text.len());
    let mut levels: Vec<Level> = Vec::new();
    let mut word: Option<String> = None;
    let mut position = 0;
    while position < end {
        match text[position] {
            b'"' => {
                let (read, length) = string_at(&text[position..]);
                word = Some(read);
                position += length;
                continue;
            }
            b':' => {
                if let (Some(Level::Object { field }), Some(name)) =
                    (levels.last_mut(), word.take())
                {
                    *field = name;
                }
            }
            b'{' if levels.len() < MAX_DEPTH => levels.push(Level::Object {
                field: String::new(),
            }),
            b'[' if levels.len() < MAX_DEPTH => levels.push(Level::Array { index: 0 }),
            // The closing of a level can be the place itself: what is missing is in there.
            b'}' | b']' if position + 1 < end => {
                levels.pop();
            }
            b',' => {
                if let Some(Level::Array { index }) = levels.last_mut() {
                    *index += 1;
                }
            }
            _ => {}
        }
        position += 1;
    }
    let mut path = String::new();
    for level in &levels {
        match level {
            Level::Object { field } if field.is_empty() => {}
            Level::Object { field } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(field);
            }
            Level::Array { index } => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// The string at the start of `text`, without regard to what is escaped in it, and its length
/// with the quotes.
fn string_at(text: &[u8]) -> (String, usize) {
    let mut end = 1;
    while end < text.len() && text[end] != b'"' {
        end += if text[end] == b'\\' { 2 } else { 1 };
    }
    let end = end.min(text.len());
    let read = String::from_utf8_lossy(&text[1..end]).into_owned();
    (read, (end + 1).min(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    fn error(text: &str) -> String {
        read::<Spec>("config.json", text.as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn wrong_types_are_told_with_line_and_field() {
        for (text, field, line) in [
            ("{\"hostname\": 5}", "hostname", 1),
            (
                "{\n\"process\": {\n  \"user\": {\"uid\": \"0\"}}}",
                "process.user.uid",
                3,
            ),
            (
                "{\"mounts\": [{\"destination\": \"/a\"},\n {\"options\": [\"a\", {}]}]}",
                "mounts[1].options[1]",
                2,
            ),
            (
                "{\"linux\": {\"namespaces\": [{\"type\": \"x\"}]}}",
                "linux.namespaces[0].type",
                1,
            ),
            (
                "{\"linux\": {\"devices\": [{\"major\": -1}]}}",
                "linux.devices[0].major",
                1,
            ),
            (
                "{\"process\": {\"terminal\": \"yes\"}}",
                "process.terminal",
                1,
            ),
            (
                "{\"process\": {\"scheduler\": {\"policy\": \"SCHED_X\"}}}",
                "process.scheduler.policy",
                1,
            ),
            (
                "{\"linux\": {\"personality\": {\"flags\": []}}}",
                "linux.personality",
                1,
            ),
        ] {
            let error = error(text);
            assert!(
                error.starts_with(&format!("config.json: {field}")),
                "{text}: {error}"
            );
            assert!(error.contains(&format!("at line {line} column")), "{error}");
        }
        // What is no JSON at all has a place only.
        assert!(error("{\"a\": }").contains("at line 1 column 7"));
    }

    #[test]
    fn unknown_fields_and_nulls_do_not_matter() {
        let text = b"{\"ociVersion\": \"1.0.2\", \"unknown\": [1], \"mounts\": null,
            \"process\": {\"args\": [\"a\"], \"env\": null, \"user\": {\"username\": \"x\"}},
            \"windows\": {}, \"vm\": {\"kernel\": 1}}";
        let spec: Spec = read("config.json", text).unwrap();
        assert_eq!(spec.process.unwrap().args, ["a"]);
        assert!(spec.mounts.is_empty());
    }

    // A13: a document cannot exhaust the stack, nor a broken one the reader of places.
    #[test]
    fn deep_and_broken_documents_are_errors() {
        let deep = format!("{{\"a\": {}", "[".repeat(100_000));
        error(&deep);
        for text in ["", "{", "\"", "{\"a", "{\"a\\", "[[[", "{\"mounts\": \"\\"] {
            let _ = error(text);
            for column in 0..20 {
                let _ = field_at(text.as_bytes(), 1, column);
            }
        }
    }
}
