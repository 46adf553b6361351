//! Environment variables and labels, from flags and from files.

use super::ParseError;

/// White space that ends a name or is skipped before one.
const WHITE_SPACE: [char; 6] = [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];

/// Longest line of a file, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// One `-e`: `NAME=value`, or `NAME` for the caller's own value.
///
/// A name that the caller has not set stays bare, which takes the image's value away.
///
/// # Errors
/// [`ParseError::NoName`].
pub fn variable(text: &str, own: &dyn Fn(&str) -> Option<String>) -> Result<String, ParseError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(ParseError::NoName(text.to_owned()));
    }
    Ok(match value {
        Some(_) => text.to_owned(),
        None => match own(name) {
            Some(value) => format!("{name}={value}"),
            None => name.to_owned(),
        },
    })
}

/// Lines of an `--env-file` or a `--label-file`.
///
/// Values are taken as they stand: no quotes, no escapes, white space kept. Lines that are
/// empty or begin with `#` are skipped. `bare` says what a line without `=` becomes.
///
/// # Errors
/// [`ParseError::NoName`], [`ParseError::WhiteSpace`] and [`ParseError::NotUtf8`].
pub fn file(
    bytes: &[u8],
    bare: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, ParseError> {
    // Editors on Windows write a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut entries = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.len() > LONGEST_LINE {
            return Err(ParseError::NotUtf8(index + 1));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| ParseError::NotUtf8(index + 1))?;
        let line = line.trim_start_matches(WHITE_SPACE);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.contains(WHITE_SPACE) {
            return Err(ParseError::WhiteSpace(name.to_owned()));
        }
        if name.is_empty() {
            return Err(ParseError::NoName(line.to_owned()));
        }
        match value {
            Some(_) => entries.push(line.to_owned()),
            None => entries.extend(bare(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(entries)
}

/// Keeps the last of several settings of one variable, at the place of the first.
///
/// A program would read the first one and miss the override otherwise.
pub fn last_wins(entries: Vec<String>) -> Vec<String> {
    fn name(entry: &str) -> &str {
        entry.split_once('=').map_or(entry, |(name, _)| name)
    }
    let mut kept: Vec<String> = Vec::with_capacity(entries.len());
    for entry in entries {
        match kept.iter_mut().find(|other| name(other) == name(&entry)) {
            Some(other) => *other = entry,
            None => kept.push(entry),
        }
    }
    kept
}

/// One `-l`: `key=value` or `key`.
///
/// # Errors
/// [`ParseError::NoName`].
pub fn label(text: &str) -> Result<(String, String), ParseError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(ParseError::NoName(text.to_owned()));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    #[test]
    fn variables() {
        for (text, expected) in [
            ("A=b", "A=b"),
            ("A=", "A="),
            ("A=b=c", "A=b=c"),
            ("A= 'x' ", "A= 'x' "),
            ("HOME", "HOME=/root"),
            ("UNSET", "UNSET"),
        ] {
            assert_eq!(variable(text, &own).unwrap(), expected);
        }
        for text in ["", "=x"] {
            assert_eq!(
                variable(text, &own),
                Err(ParseError::NoName(text.to_owned()))
            );
        }
    }

    #[test]
    fn files() {
        let text = b"\xef\xbb\xbf# comment\n\n  A=1\r\nB=\"quoted # not a comment\" \nHOME\nUNSET\nC=\n\t# indented\n";
        assert_eq!(
            file(text, &own).unwrap(),
            ["A=1", "B=\"quoted # not a comment\" ", "HOME=/root", "C="]
        );
        assert_eq!(
            file(b"A B=1", &own),
            Err(ParseError::WhiteSpace("A B".to_owned()))
        );
        assert_eq!(file(b"=1", &own), Err(ParseError::NoName("=1".to_owned())));
        assert_eq!(file(b"A=1\nB=\xff", &own), Err(ParseError::NotUtf8(2)));
        assert_eq!(file(b"", &own).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn overrides() {
        let entries = ["A=1", "B=2", "A=3", "B"].map(str::to_owned).to_vec();
        assert_eq!(last_wins(entries), ["A=3", "B"]);
    }

    #[test]
    fn labels() {
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
        assert!(label("=b").is_err());
    }
}
