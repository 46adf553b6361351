//! The log: what runc writes with `--log` and `--log-format`, which containerd and Podman
//! read back to learn why a command failed.

use std::cell::OnceCell;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::time;

/// Form of the entries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// `time="…" level=… msg="…"`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where entries go. The file is opened with the first one.
#[derive(Debug, Default)]
pub struct Log {
    /// The file; without one, standard error.
    pub path: Option<PathBuf>,
    /// Form of the entries.
    pub format: Format,
    /// Whether entries of level `debug` are written.
    pub debug: bool,
    file: OnceCell<Option<File>>,
}

impl Log {
    /// Writes an entry for those who look for the cause of a fault.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            self.entry("debug", &message());
        }
    }

    /// Writes what was asked for and could not be had.
    pub fn warning(&self, message: &str) {
        self.entry("warning", message);
    }

    /// Writes why the command failed, to the log and to standard error.
    pub fn error(&self, message: &str) {
        let to_terminal = self.entry("error", message);
        if !to_terminal {
            eprintln!("gantry-runtime: {message}");
        }
    }

    /// Returns whether the entry went to standard error.
    fn entry(&self, level: &str, message: &str) -> bool {
        let file = self.file.get_or_init(|| {
            let path = self.path.as_ref()?;
            let opened = File::options()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path);
            match opened {
                Ok(file) => Some(file),
                Err(error) => {
                    eprintln!(
                        "gantry-runtime: cannot open the log {}: {error}",
                        path.display()
                    );
                    None
                }
            }
        });
        match file {
            Some(file) => {
                // In one write, so that entries of several commands do not mix.
                let line = line(self.format, &time::now_in_seconds(), level, message);
                let _ = (&*file).write_all(line.as_bytes());
                false
            }
            None if self.format == Format::Json => {
                let line = line(self.format, &time::now_in_seconds(), level, message);
                let _ = std::io::stderr().write_all(line.as_bytes());
                true
            }
            None => {
                let prefix = if level == "error" { "" } else { level };
                let separator = if prefix.is_empty() { "" } else { ": " };
                eprintln!("gantry-runtime: {prefix}{separator}{message}");
                true
            }
        }
    }
}

fn line(format: Format, time: &str, level: &str, message: &str) -> String {
    match format {
        Format::Json => {
            let entry = serde_json::json!({"level": level, "msg": message, "time": time});
            format!("{entry}\n")
        }
        // A quoted string of Go and one of Rust differ in escapes that no message has.
        Format::Text => format!("time={time:?} level={level} msg={message:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_form_that_clients_read() {
        let at = "2026-01-02T03:04:05Z";
        assert_eq!(
            line(Format::Text, at, "error", "no \"x\"\nhere"),
            "time=\"2026-01-02T03:04:05Z\" level=error msg=\"no \\\"x\\\"\\nhere\"\n"
        );
        let entry: serde_json::Value =
            serde_json::from_str(&line(Format::Json, at, "error", "no \"x\"\nhere")).unwrap();
        assert_eq!(
            entry,
            serde_json::json!({"level": "error", "msg": "no \"x\"\nhere", "time": at})
        );
    }
}
