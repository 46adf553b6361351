//! Columns of text, laid out as Docker's listings are, and the values that stand in them.

/// Least width of a column, its padding included.
const LEAST_WIDTH: usize = 10;
/// Spaces between columns.
const PADDING: usize = 3;

/// Lays out lines whose cells are separated by tabs.
///
/// Every cell but a line's last is padded to the widest of its column plus three spaces;
/// the last is left as it is.
pub fn align(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![LEAST_WIDTH; columns.saturating_sub(1)];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(&row[..row.len() - 1]) {
            *width = (*width).max(cell.chars().count() + PADDING);
        }
    }
    let mut output = String::new();
    for row in &rows {
        for (index, cell) in row.iter().enumerate() {
            output.push_str(cell);
            if index + 1 < row.len() {
                let padding = widths[index].saturating_sub(cell.chars().count());
                output.extend(std::iter::repeat_n(' ', padding));
            }
        }
        output.push('\n');
    }
    output
}

/// The first 12 characters of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// `text` cut to `width` characters, the last one an ellipsis when something is missing.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// Bytes in decimal units with `digits` significant digits: `13.3kB`.
pub fn decimal_size(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), UNITS[unit])
}

/// A number with at most `digits` significant digits and no trailing zeros, as C's `%g`.
fn significant(number: f64, digits: usize) -> String {
    let whole = format!("{:.0}", number.trunc()).len();
    let fixed = format!("{number:.*}", digits.saturating_sub(whole));
    // %g falls back to an exponent once the whole part needs more digits than there are.
    if fixed.split('.').next().map_or(0, str::len) > digits {
        let exponent = format!("{number:.*e}", digits.saturating_sub(1));
        if let Some((mantissa, power)) = exponent.split_once('e') {
            let mantissa = if mantissa.contains('.') {
                mantissa.trim_end_matches('0').trim_end_matches('.')
            } else {
                mantissa
            };
            return format!("{mantissa}e+{power:0>2}");
        }
    }
    if fixed.contains('.') {
        fixed.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        fixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let lines = ["A\tBBBBBBBBBBBB\tC", "aé\tb\tlong last cell"].map(str::to_owned);
        assert_eq!(
            align(&lines),
            "A         BBBBBBBBBBBB   C\naé        b              long last cell\n"
        );
        assert_eq!(align(&["one".to_owned()]), "one\n");
        assert_eq!(align(&[]), "");
        assert_eq!(
            align(&["a\tb".to_owned(), String::new()]),
            "a         b\n\n"
        );
    }

    #[test]
    fn sizes() {
        for (bytes, digits, expected) in [
            (0, 3, "0B"),
            (999, 3, "999B"),
            (1000, 3, "1kB"),
            (13_300, 3, "13.3kB"),
            (13_256, 3, "13.3kB"),
            (7_800_000, 3, "7.8MB"),
            (187_654_321, 3, "188MB"),
            (1_234_567_890, 3, "1.23GB"),
            (999_999, 3, "1e+03kB"),
            (u64::MAX, 3, "18.4EB"),
            (2_747, 4, "2.747kB"),
        ] {
            assert_eq!(decimal_size(bytes, digits), expected, "{bytes}");
        }
    }

    #[test]
    fn cut() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
        assert_eq!(ellipsis("short", 20), "short");
        assert_eq!(ellipsis("exactly twenty chars", 20), "exactly twenty chars");
        assert_eq!(
            ellipsis("more than twenty chars", 20),
            "more than twenty ch…"
        );
        assert_eq!(ellipsis("éééé", 3), "éé…");
    }
}
