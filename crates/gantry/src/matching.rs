//! Patterns of filters: shell patterns for image names, small regular expressions for the
//! names of containers.

/// Whether `text` matches a shell pattern of which `*` and `?` do not cross a slash.
pub fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut position) = (0, 0);
    // Where to go on when the latest star has to take one more character.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, position));
            at += 1;
            continue;
        }
        if at == pattern.len() && position == text.len() {
            return true;
        }
        let step = text
            .get(position)
            .and_then(|character| one(&pattern[at..], *character));
        if let Some(length) = step {
            at += length;
            position += 1;
            continue;
        }
        match star {
            Some((next, taken)) if text.get(taken).is_some_and(|taken| *taken != '/') => {
                star = Some((next, taken + 1));
                at = next;
                position = taken + 1;
            }
            _ => return false,
        }
    }
}

/// Length of the element at the front of `pattern` if it matches `character`.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern.first()? {
        '?' => (character != '/').then_some(1),
        '[' => set(pattern, character).and_then(|(matches, length)| matches.then_some(length)),
        '\\' if pattern.len() > 1 => (pattern[1] == character).then_some(2),
        literal => (*literal == character).then_some(1),
    }
}

/// Whether a bracketed set at the front of `pattern` holds `character`, and its length.
fn set(pattern: &[char], character: char) -> Option<(bool, usize)> {
    let mut index = 1;
    let negated = matches!(pattern.get(1), Some('^' | '!'));
    index += usize::from(negated);
    let first = index;
    let mut found = false;
    loop {
        let low = *pattern.get(index)?;
        if low == ']' && index > first {
            return Some((found != negated, index + 1));
        }
        match (pattern.get(index + 1), pattern.get(index + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                found |= (low..=*high).contains(&character);
                index += 3;
            }
            _ => {
                found |= low == character;
                index += 1;
            }
        }
    }
}

/// Whether `text` contains a match of a small regular expression: literals, `.`, sets,
/// `^`, `$`, `*`, `+`, `?`, `\` and `|` between whole alternatives. There are no groups.
pub fn regex(expression: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    expression.split('|').any(|alternative| {
        let pattern: Vec<char> = alternative.chars().collect();
        match pattern.split_first() {
            Some(('^', rest)) => here(rest, &text),
            _ => (0..=text.len()).any(|start| here(&pattern, &text[start..])),
        }
    })
}

/// Whether `pattern` matches at the front of `text`.
fn here(pattern: &[char], text: &[char]) -> bool {
    if pattern.is_empty() {
        return true;
    }
    if pattern == ['$'] {
        return text.is_empty();
    }
    let length = element(pattern);
    let (least, most) = match pattern.get(length) {
        Some('*') => (0, usize::MAX),
        Some('+') => (1, usize::MAX),
        Some('?') => (0, 1),
        _ => return matches_one(pattern, text.first()) && here(&pattern[length..], &text[1..]),
    };
    let rest = &pattern[length + 1..];
    let mut taken = 0;
    loop {
        if taken >= least && here(rest, &text[taken..]) {
            return true;
        }
        if taken == most || !matches_one(pattern, text.get(taken)) {
            return false;
        }
        taken += 1;
    }
}

/// Length of the element at the front of `pattern`.
fn element(pattern: &[char]) -> usize {
    match pattern {
        ['\\', _, ..] => 2,
        ['[', ..] => set(pattern, '\0').map_or(1, |(_, length)| length),
        _ => 1,
    }
}

fn matches_one(pattern: &[char], character: Option<&char>) -> bool {
    let Some(character) = character else {
        return false;
    };
    match pattern {
        ['\\', literal, ..] => literal == character,
        ['[', ..] => set(pattern, *character).map_or(*character == '[', |(found, _)| found),
        ['.', ..] => true,
        [literal, ..] => literal == character,
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("alpine", "alpine", true),
            ("alpine", "alpine:3", false),
            ("alp*", "alpine", true),
            ("*", "me/app", false),
            ("*/*", "me/app", true),
            ("me/*:1.?", "me/app:1.2", true),
            ("a[l-m]pine", "alpine", true),
            ("a[^l]pine", "alpine", false),
            ("*p*ne", "alpine", true),
            ("*b*", "alpine", false),
            ("a\\*", "a*", true),
            ("a[", "a[", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn regexes() {
        for (expression, text, expected) in [
            ("web", "myweb1", true),
            ("^web", "myweb", false),
            ("^web$", "web", true),
            ("web$", "web1", false),
            ("w.b", "wxb", true),
            ("^w.*1$", "web-01", true),
            ("^we+b?$", "weee", true),
            ("^[a-c]+$", "abcabc", true),
            ("^[^a]$", "a", false),
            ("db|web", "my-web", true),
            ("a\\.b", "axb", false),
            ("", "anything", true),
            ("^/web$", "/web", true),
        ] {
            assert_eq!(regex(expression, text), expected, "{expression} {text}");
        }
    }

    #[test]
    fn no_pattern_is_exponential() {
        let text = "a".repeat(200);
        assert!(!glob(&"*a".repeat(20).replace('a', "a*b"), &text));
        assert!(!regex("^a*b$", &text));
    }
}
