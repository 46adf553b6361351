//! One record of comma-separated values, with double quotes as RFC 4180 has them.

use super::ParseError;

/// Fields of one record.
///
/// # Errors
/// [`ParseError::Empty`] and [`ParseError::Quotes`].
pub fn record(text: &str) -> Result<Vec<String>, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Empty);
    }
    let quotes = || ParseError::Quotes(text.to_owned());
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let (before, after) = quoted.split_once('"').ok_or_else(quotes)?;
                field.push_str(before);
                match after.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        quoted = after;
                    }
                    None => {
                        quoted = after;
                        break;
                    }
                }
            }
            fields.push(field);
            if quoted.is_empty() {
                return Ok(fields);
            }
            rest = quoted.strip_prefix(',').ok_or_else(quotes)?;
        } else {
            let (field, tail) = match rest.split_once(',') {
                Some((field, tail)) => (field, Some(tail)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(quotes());
            }
            fields.push(field.to_owned());
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(fields),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let cases: [(&str, &[&str]); 6] = [
            ("a", &["a"]),
            ("a,b", &["a", "b"]),
            ("a,", &["a", ""]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("type=bind,\"source=/a,b\"", &["type=bind", "source=/a,b"]),
        ];
        for (text, expected) in cases {
            assert_eq!(record(text).unwrap(), expected, "{text}");
        }
        for text in ["\"a", "a\"b", "\"a\"b", "\"a\"\""] {
            assert_eq!(
                record(text),
                Err(ParseError::Quotes(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(record(""), Err(ParseError::Empty));
    }
}
