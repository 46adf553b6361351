//! The few words of command line that the tasks need, taken apart by hand so
//! that xtask compiles in a second.

use crate::error::{Error, Result};

/// The arguments of one task that have not been taken yet.
pub struct Arguments(Vec<String>);

impl Arguments {
    /// Takes over the words after the task's name.
    pub fn new(words: impl IntoIterator<Item = String>) -> Self {
        Self(words.into_iter().collect())
    }

    /// Takes the first word, such as the name of a subtask.
    pub fn first(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Takes a flag; true when it was there.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() != before
    }

    /// Takes an option with a value, as `--name value` or `--name=value`.
    pub fn option(&mut self, name: &str) -> Result<Option<String>> {
        for index in 0..self.0.len() {
            if self.0[index] == name {
                if index + 1 == self.0.len() {
                    return Err(Error::Usage(format!("{name} needs a value")));
                }
                self.0.remove(index);
                return Ok(Some(self.0.remove(index)));
            }
            let value = self.0[index]
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('='));
            if let Some(value) = value {
                let value = value.to_owned();
                self.0.remove(index);
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Takes an option whose value is a positive number.
    pub fn number(&mut self, name: &str, default: u32) -> Result<u32> {
        match self.option(name)? {
            None => Ok(default),
            Some(text) => match text.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(Error::Usage(format!(
                    "{name} needs a positive number, not '{text}'"
                ))),
            },
        }
    }

    /// Takes everything after `--`, a command for somebody else to run.
    pub fn after_dashes(&mut self) -> Vec<String> {
        match self.0.iter().position(|word| word == "--") {
            None => Vec::new(),
            Some(position) => {
                let rest = self.0.split_off(position + 1);
                self.0.truncate(position);
                rest
            }
        }
    }

    /// Takes the words that are left; an unknown option among them is an error.
    pub fn rest(self) -> Result<Vec<String>> {
        match self.0.iter().find(|word| word.starts_with('-')) {
            Some(word) => Err(Error::Usage(format!("unknown option '{word}'"))),
            None => Ok(self.0),
        }
    }

    /// Demands that nothing is left.
    pub fn finish(self) -> Result<()> {
        match self.0.first() {
            Some(word) => Err(Error::Usage(format!("unexpected argument '{word}'"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::new(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn options_in_both_spellings_flags_and_the_rest() {
        let mut taken = arguments(&["--cpus", "3", "a", "--long", "--name=x=y", "b"]);
        assert_eq!(taken.number("--cpus", 1).unwrap(), 3);
        assert!(taken.flag("--long"));
        assert!(!taken.flag("--long"));
        assert_eq!(taken.option("--name").unwrap().as_deref(), Some("x=y"));
        assert_eq!(taken.rest().unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_command_after_dashes_keeps_its_own_options() {
        let mut taken = arguments(&["--cpus", "2", "--", "sh", "--", "--cpus"]);
        assert_eq!(taken.after_dashes(), ["sh", "--", "--cpus"]);
        assert_eq!(taken.number("--cpus", 1).unwrap(), 2);
        taken.finish().unwrap();
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for words in [&["--cpus"][..], &["--cpus", "0"], &["--cpus", "two"]] {
            assert!(arguments(words).number("--cpus", 1).is_err(), "{words:?}");
        }
        assert!(arguments(&["--unknown"]).rest().is_err());
        assert!(arguments(&["left"]).finish().is_err());
    }
}
