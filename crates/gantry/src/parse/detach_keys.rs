//! The key sequence that ends an attached session, and the filter that finds it.

use super::ParseError;

/// Sequence used when none is given: ctrl-p, ctrl-q.
pub const DEFAULT: [u8; 2] = [16, 17];

/// Bytes of a sequence such as `ctrl-p,ctrl-q` or `a,b`.
///
/// # Errors
/// [`ParseError::DetachKey`].
pub fn sequence(text: &str) -> Result<Vec<u8>, ParseError> {
    text.split(',').map(key).collect()
}

fn key(text: &str) -> Result<u8, ParseError> {
    let invalid = || ParseError::DetachKey(text.to_owned());
    if let Some(letter) = text.strip_prefix("ctrl-") {
        return match letter.as_bytes() {
            &[letter @ (b'a'..=b'z' | b'@' | b'['..=b'_')] => Ok(letter & 0x1f),
            _ => Err(invalid()),
        };
    }
    match text.as_bytes() {
        &[byte] if byte.is_ascii() => Ok(byte),
        b"DEL" => Ok(127),
        _ => Err(invalid()),
    }
}

/// Takes the sequence out of what is typed.
#[derive(Debug)]
pub struct DetachFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachFilter {
    /// A filter for `keys`; without keys nothing ever matches.
    pub fn new(keys: Vec<u8>) -> DetachFilter {
        DetachFilter { keys, matched: 0 }
    }

    /// Appends to `output` what of `input` may be passed on, and says whether the sequence
    /// was completed. Keys that may begin the sequence are held back until it is clear.
    pub fn filter(&mut self, input: &[u8], output: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            output.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            // On a mismatch the longest tail that can still begin the sequence is kept: with
            // the keys a,a,b the input a,a,a,b must match.
            while self.matched > 0 && self.keys[self.matched] != byte {
                let held = &self.keys[..self.matched];
                let keep = (0..self.matched)
                    .rev()
                    .find(|&length| held[..length] == held[self.matched - length..])
                    .unwrap_or(0);
                output.extend_from_slice(&held[..self.matched - keep]);
                self.matched = keep;
            }
            if self.keys[self.matched] == byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return true;
                }
            } else {
                output.push(byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        for (text, expected) in [
            ("ctrl-p,ctrl-q", vec![16, 17]),
            ("ctrl-x,y", vec![24, b'y']),
            ("a", vec![b'a']),
            (
                "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_",
                vec![0, 27, 28, 29, 30, 31],
            ),
            ("DEL", vec![127]),
        ] {
            assert_eq!(sequence(text).unwrap(), expected, "{text}");
        }
        for text in [
            "", "ctrl-", "ctrl-1", "ctrl-P", "abc", "a,,b", "é", "ctrl-pp",
        ] {
            assert!(sequence(text).is_err(), "{text}");
        }
    }

    #[test]
    fn filtering() {
        // Keys, pieces of input, what comes out, whether it detached.
        let cases: [(&str, &[&str], &str, bool); 10] = [
            ("a,b", &["ab"], "", true),
            ("a,b", &["xab"], "x", true),
            ("a,b", &["a", "b"], "", true),
            ("a,b", &["a", "c"], "ac", false),
            ("a,b", &["aab"], "a", true),
            ("a,a,b", &["aaab"], "a", true),
            ("a,b,a,c", &["ababac"], "ab", true),
            ("a,b", &["a"], "", false),
            ("q", &["hello"], "hello", false),
            ("a,b", &["abrest"], "", true),
        ];
        for (keys, pieces, expected, detached) in cases {
            let mut filter = DetachFilter::new(sequence(keys).unwrap());
            let mut output = Vec::new();
            let mut found = false;
            for piece in pieces {
                found |= filter.filter(piece.as_bytes(), &mut output);
            }
            assert_eq!(
                (String::from_utf8(output).unwrap().as_str(), found),
                (expected, detached),
                "{keys} {pieces:?}"
            );
        }
        let mut output = Vec::new();
        assert!(!DetachFilter::new(Vec::new()).filter(b"ab", &mut output));
        assert_eq!(output, b"ab");
    }
}
