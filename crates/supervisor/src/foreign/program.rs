//! One call of a runtime's program, and what it says when it fails.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gantry_sys::exec::{Strings, execve};
use gantry_sys::process::{
    Child, Fork, WaitStatus, close_range_on_exec, exit_now, fork, install_fd,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::{Failure, Foreign, SEARCH_PATH, leave};
use crate::worker::raw_status;

/// Longest log of a runtime that is looked through, in bytes.
const MAX_LOG: u64 = 1 << 20;

/// Exit code of a child that could not execute the runtime, as a shell has it.
const NOT_EXECUTED: i32 = 127;

fn log_file(foreign: &Foreign) -> PathBuf {
    foreign.directory.join("log.json")
}

/// What the runtime prints, where its streams are not the container's.
pub(super) fn said_file(foreign: &Foreign) -> PathBuf {
    foreign.directory.join("said")
}

/// The words of a call: the global options that runc, crun, youki and runsc share, and the
/// command's own.
pub(super) fn arguments(foreign: &Foreign, words: &[&str]) -> Vec<String> {
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut all = vec![
        "--root".into(),
        path(foreign.bundle.join("state")),
        "--log".into(),
        path(log_file(foreign)),
        "--log-format".into(),
        "json".into(),
    ];
    all.extend(words.iter().map(|&word| word.to_owned()));
    all
}

/// Executes the runtime and waits for its end. `program` is the container's own, by which
/// an error about that is known. When `channel` has no other end any more, nobody is left
/// to do this for: the process ends.
pub(super) fn call(
    foreign: &Foreign,
    words: &[&str],
    stdio: [BorrowedFd<'_>; 3],
    channel: BorrowedFd<'_>,
    program: &str,
) -> Result<(), Failure> {
    let name = &foreign.runtime.name;
    let failed = |error: io::Error| Failure::own(format!("cannot execute {name}: {error}"));
    for old in [log_file(foreign), said_file(foreign)] {
        let _ = fs::remove_file(old);
    }
    let path = text(foreign.runtime.program.as_os_str().as_bytes()).map_err(failed)?;
    let mut line = vec![path.clone()];
    for word in arguments(foreign, words) {
        line.push(text(word.as_bytes()).map_err(failed)?);
    }
    let line = Strings::new(line);
    let environment = Strings::new(vec![text(SEARCH_PATH.as_bytes()).map_err(failed)?]);
    match fork().map_err(failed)? {
        Fork::Parent(child) => judge(foreign, wait(&child, channel), program),
        Fork::Child => {
            // A half-made container is undone by whoever is told of the helper's death.
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            let ready = rustix::process::chdir(&foreign.directory)
                .map_err(io::Error::from)
                .and_then(|()| {
                    for (number, fd) in (0..).zip(stdio) {
                        install_fd(fd, number)?;
                    }
                    close_range_on_exec(3)
                });
            if ready.is_ok() {
                gantry_sys::signal::reset_all();
                let _ = execve(&path, &line, &environment);
            }
            exit_now(NOT_EXECUTED)
        }
    }
}

fn text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::from)
}

fn wait(child: &Child, channel: BorrowedFd<'_>) -> WaitStatus {
    loop {
        // Nothing is asked about the channel: its end is told in any case.
        let mut fds = [
            PollFd::new(&child.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(channel, PollFlags::empty()),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if fds[0].revents().is_empty() {
            // Dies with this process.
            leave(1);
        }
        let id = WaitId::PidFd(child.pidfd.as_fd());
        if let Ok(Some(status)) = rustix::process::waitid(id, WaitIdOptions::EXITED) {
            return WaitStatus::from_raw(raw_status(&status));
        }
    }
}

fn judge(foreign: &Foreign, status: WaitStatus, program: &str) -> Result<(), Failure> {
    if status == WaitStatus::Exited(0) {
        return Ok(());
    }
    let log = bounded(&log_file(foreign));
    let said = bounded(&said_file(foreign));
    let said = || {
        said.lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
    };
    let reason = match last_error(&log).or_else(|| said().map(str::to_owned)) {
        Some(reason) => reason,
        None => match status {
            WaitStatus::Exited(code) => format!("it ended with exit code {code} and said nothing"),
            WaitStatus::Signaled(signal) => format!("it was killed by signal {signal}"),
        },
    };
    let name = &foreign.runtime.name;
    Err(Failure {
        code: exit_code(&reason, program),
        message: if reason.starts_with(name) {
            reason
        } else {
            format!("{name}: {reason}")
        },
    })
}

fn bounded(path: &Path) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(MAX_LOG).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last error of a log in JSON lines, in one line.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = entry.get("level")?.as_str()?;
        let message = entry.get("msg")?.as_str()?;
        let is_error = ["error", "fatal", "panic"].contains(&&*level.to_ascii_lowercase());
        let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
        (is_error && !line.is_empty()).then_some(line)
    })
}

/// Exit code by Docker's convention: 127 for a program that is not there, 126 for one that
/// cannot be executed, and 125 for everything that is not the program's fault.
fn exit_code(reason: &str, program: &str) -> i32 {
    let reason = reason.to_lowercase();
    let program = program.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let is_quoted = |quote: char| reason.contains(&format!("{quote}{program}{quote}"));
    let named = (program.contains('/') && reason.contains(&program))
        || ['"', '`', '\''].into_iter().any(is_quoted);
    // crun's word for what is there and no file, without its name.
    if reason.starts_with("open executable") {
        126
    } else if program.is_empty() || !named {
        125
    } else if has(&["not found in $path", "no such file or directory"]) {
        127
    } else if has(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        for (log, expected) in [
            ("", None),
            ("no json\n{\"level\":\"error\"}", None),
            (r#"{"level":"warning","msg":"w","time":"t"}"#, None),
            (
                "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"the\\n last\"}\n{\"level\":\"debug\",\"msg\":\"d\"}",
                Some("the last"),
            ),
            (r#"{ "msg" : "crun's", "level" : "error" }"#, Some("crun's")),
        ] {
            assert_eq!(last_error(log).as_deref(), expected, "{log}");
        }
    }

    #[test]
    fn exit_codes_follow_what_runtimes_say() {
        for (reason, program, code) in [
            (
                r#"runc create failed: unable to start container process: exec: "nosuch": executable file not found in $PATH"#,
                "nosuch",
                127,
            ),
            (
                r#"unable to start container process: exec: "/bin/x": stat /bin/x: no such file or directory"#,
                "/bin/x",
                127,
            ),
            (
                "executable file `nosuch` not found in $PATH: No such file or directory",
                "nosuch",
                127,
            ),
            (
                r#"unable to start container process: exec: "/etc/passwd": permission denied"#,
                "/etc/passwd",
                126,
            ),
            ("open executable: Operation not permitted", "/etc", 126),
            // Something else is missing, not the program.
            ("mount /usr/share: no such file or directory", "sh", 125),
            ("container with given ID already exists", "", 125),
        ] {
            assert_eq!(exit_code(reason, program), code, "{reason}");
        }
    }

    #[test]
    fn a_call_names_state_and_log() {
        let foreign = Foreign {
            bundle: "/b".into(),
            directory: "/b/exec-1".into(),
            ..Foreign::default()
        };
        let line = arguments(&foreign, &["start", "abc"]).join(" ");
        assert_eq!(
            line,
            "--root /b/state --log /b/exec-1/log.json --log-format json start abc"
        );
    }
}
