//! The person's terminal: whether there is one, its size, raw mode, and text that is safe
//! to show on it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{self, OptionalActions, Termios};

/// Rows and columns of the terminal behind `fd`; `None` when it is no terminal or its size
/// is unknown.
pub fn size(fd: impl AsFd) -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(fd).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    termios::isatty(fd)
}

/// Raw mode of a terminal; dropping it gives back the mode found.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Puts the terminal behind `fd` in raw mode.
    ///
    /// # Errors
    /// The kernel's, such as `ENOTTY`.
    pub fn enter(fd: impl AsFd) -> Result<RawMode, rustix::io::Errno> {
        let terminal = rustix::io::dup(&fd)?;
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone (a closed window): nobody is left to tell.
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Whether a character may act on a terminal or mislead its reader: C0, DEL, C1, and the
/// marks that reorder text.
pub fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// `text` with hostile characters spelled out (`\x1b`, `\u{202e}`): names and labels come
/// from others, and a terminal obeys them (CVE-2021-25743).
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\t' => escaped.push_str("\\t"),
            '\r' => escaped.push_str("\\r"),
            character if is_hostile(character) => {
                let code = u32::from(character);
                // Writing into a string cannot fail.
                let _ = match code {
                    ..0x100 => write!(escaped, "\\x{code:02x}"),
                    _ => write!(escaped, "\\u{{{code:x}}}"),
                };
            }
            character => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// As [`escape`] when `on_terminal`, else the text itself: a pipe gets what is there.
pub fn shown(text: &str, on_terminal: bool) -> Cow<'_, str> {
    if on_terminal {
        escape(text)
    } else {
        Cow::Borrowed(text)
    }
}

/// JSON text with the characters escaped that JSON lets stand and a terminal obeys.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    let hostile = |character: char| is_hostile(character) && !matches!(character, '\n');
    if !json.contains(hostile) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if hostile(character) {
            // All of them are below U+10000.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_escaped_cve_2021_25743() {
        for (text, expected) in [
            ("plain é 漢", "plain é 漢"),
            ("a\x1b[31mb", "a\\x1b[31mb"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{9b}31m", "\\x9b31m"),
            ("\x7f\x07\0", "\\x7f\\x07\\x00"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!(escape(text), expected);
            assert_eq!(shown(text, true), expected);
            assert_eq!(shown(text, false), text);
        }
        assert!(matches!(escape("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_meaning_cve_2021_25743() {
        let value = serde_json::json!({ "a": "\u{9b}x\u{7f}\u{202e}\x1b" });
        let text = serde_json::to_string(&value).unwrap();
        let escaped = escape_json(&text);
        assert!(!escaped.contains(is_hostile));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
            value
        );
    }

    #[test]
    fn raw_mode_is_undone() {
        let master =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
                .unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let before = termios::tcgetattr(&master).unwrap();
        {
            let _raw = RawMode::enter(&master).unwrap();
            let raw = termios::tcgetattr(&master).unwrap();
            assert!(!raw.local_modes.contains(termios::LocalModes::ECHO));
        }
        let after = termios::tcgetattr(&master).unwrap();
        assert_eq!(before.local_modes, after.local_modes);
        assert!(after.local_modes.contains(termios::LocalModes::ECHO));
        assert!(RawMode::enter(std::fs::File::open("/dev/null").unwrap()).is_err());
        assert!(!is_terminal(std::fs::File::open("/dev/null").unwrap()));
    }
}
