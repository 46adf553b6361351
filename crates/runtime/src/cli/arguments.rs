//! The words of a command line, by the rules of runc's parser: flags with one dash or two,
//! values in the next word or after `=`, and no flags after the first plain word.

use std::ffi::OsString;

use super::error::CliError;

/// What is still to be read.
#[derive(Debug)]
pub struct Arguments {
    words: std::iter::Peekable<std::vec::IntoIter<String>>,
}

/// A flag without its dashes, and the value after `=` if there is one.
#[derive(Debug)]
pub struct Flag {
    name: String,
    inline: Option<String>,
}

impl Flag {
    /// The name without dashes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The refusal of a flag that the command does not have.
    pub fn unknown(&self) -> CliError {
        CliError::Usage(format!("unknown flag --{}", self.name))
    }

    /// The value of a flag that is on or off.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a value that is neither.
    pub fn switch(self) -> Result<bool, CliError> {
        match self.inline.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(CliError::Usage(format!(
                "flag --{} takes true or false, not {other:?}",
                self.name
            ))),
        }
    }
}

impl Arguments {
    /// Takes the words after the program's name.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a word that is not UTF-8.
    pub fn new(words: impl Iterator<Item = OsString>) -> Result<Arguments, CliError> {
        let words: Result<Vec<String>, OsString> = words.map(OsString::into_string).collect();
        let words = words
            .map_err(|word| CliError::Usage(format!("argument {word:?} is not valid UTF-8")))?;
        Ok(Arguments {
            words: words.into_iter().peekable(),
        })
    }

    /// The next flag, if a flag is next; `--` ends the flags.
    pub fn flag(&mut self) -> Option<Flag> {
        let word = self
            .words
            .next_if(|word| word.len() > 1 && word.starts_with('-'))?;
        let body = word.strip_prefix("--").unwrap_or(&word[1..]);
        if body.is_empty() {
            return None;
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (body.to_owned(), None),
        };
        Some(Flag { name, inline })
    }

    /// The value of a flag.
    ///
    /// # Errors
    /// [`CliError::Usage`] where there is none.
    pub fn value(&mut self, flag: Flag) -> Result<String, CliError> {
        match flag.inline {
            Some(value) => Ok(value),
            None => self
                .words
                .next()
                .ok_or_else(|| CliError::Usage(format!("flag --{} needs a value", flag.name))),
        }
    }

    /// The value of a flag that is a number.
    ///
    /// # Errors
    /// [`CliError::Usage`] where there is none, or another one than a number in range.
    pub fn number<N: std::str::FromStr>(&mut self, flag: Flag) -> Result<N, CliError> {
        let name = flag.name.clone();
        let value = self.value(flag)?;
        value
            .parse()
            .map_err(|_| CliError::Usage(format!("flag --{name} takes a number, not {value:?}")))
    }

    /// Whether the next word asks for help.
    pub fn wants_help(&mut self) -> bool {
        let next = self.words.peek().map(String::as_str);
        matches!(next, Some("--help" | "-help" | "-h"))
    }

    /// The next plain word.
    pub fn word(&mut self) -> Option<String> {
        self.words.next()
    }

    /// All words that are left.
    pub fn rest(&mut self) -> Vec<String> {
        self.words.by_ref().collect()
    }

    /// The container's id, which has to be the next word.
    ///
    /// # Errors
    /// [`CliError::Usage`] where it is missing.
    pub fn id(&mut self) -> Result<String, CliError> {
        self.words
            .next()
            .ok_or_else(|| CliError::Usage("a container id is needed".into()))
    }

    /// Refuses words that the command has no use for.
    ///
    /// # Errors
    /// [`CliError::Usage`] naming the first one.
    pub fn end(&mut self) -> Result<(), CliError> {
        match self.words.next() {
            None => Ok(()),
            Some(word) => Err(CliError::Usage(format!("unexpected argument {word:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::new(words.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn flags_are_read_as_runc_reads_them() {
        let mut read = arguments(&["--bundle", "/b", "-pid-file=/p", "--detach", "id", "-x"]);
        let flag = read.flag().unwrap();
        assert_eq!(flag.name(), "bundle");
        assert_eq!(read.value(flag).unwrap(), "/b");
        let flag = arguments(&["-pid-file=/p"]).flag().unwrap();
        assert_eq!(flag.name(), "pid-file");
        let flag = read.flag().unwrap();
        assert_eq!(read.value(flag).unwrap(), "/p");
        assert!(read.flag().unwrap().switch().unwrap());
        assert!(read.flag().is_none());
        assert_eq!(read.id().unwrap(), "id");
        // What comes after the first plain word belongs to the program.
        assert_eq!(read.rest(), ["-x"]);
    }

    #[test]
    fn dashes_end_the_flags() {
        let mut read = arguments(&["--", "--force"]);
        assert!(read.flag().is_none());
        assert_eq!(read.rest(), ["--force"]);
        assert!(arguments(&["-"]).flag().is_none());
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let mut read = arguments(&["--bundle"]);
        let flag = read.flag().unwrap();
        assert_eq!(
            read.value(flag).unwrap_err().to_string(),
            "flag --bundle needs a value"
        );
        assert!(read.id().is_err());
        let mut read = arguments(&["--preserve-fds=-1", "--force=maybe"]);
        let flag = read.flag().unwrap();
        assert!(read.number::<u32>(flag).is_err());
        assert!(read.flag().unwrap().switch().is_err());
    }
}
