//! What goes to standard output and standard error.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::error::CliError;
use crate::terminal;

/// Exit code of a process that wrote to a pipe nobody reads: 128 and the number of SIGPIPE.
pub const BROKEN_PIPE: u8 = 141;

/// Writes all of `bytes` to `fd`.
///
/// # Errors
/// The kernel's.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Whoever gave us the descriptor may have made it non-blocking.
            Err(Errno::AGAIN) => {
                let mut polled = [rustix::event::PollFd::from_borrowed_fd(
                    fd,
                    rustix::event::PollFlags::OUT,
                )];
                rustix::event::poll(&mut polled, None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes `bytes` to standard output. A reader that went away (`gantry ps | head`) ends the
/// command without a word.
///
/// # Errors
/// [`CliError::Exit`] on a broken pipe, [`CliError::System`] otherwise.
pub fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    write_all(rustix::stdio::stdout(), bytes).map_err(|error| match error {
        Errno::PIPE => CliError::Exit(BROKEN_PIPE),
        error => CliError::System {
            action: "cannot write to standard output",
            source: error.into(),
        },
    })
}

/// Writes `text` to standard output.
///
/// # Errors
/// As [`bytes`].
pub fn text(text: &str) -> Result<(), CliError> {
    bytes(text.as_bytes())
}

/// Writes a line to standard output.
///
/// # Errors
/// As [`bytes`].
pub fn line(line: &str) -> Result<(), CliError> {
    text(&format!("{line}\n"))
}

/// Writes a line to standard error, made safe when that is a terminal. Nobody can be told
/// when it fails.
pub fn note(line: &str) {
    let stderr = rustix::stdio::stderr();
    let shown: Vec<_> = line
        .lines()
        .map(|line| terminal::shown(line, terminal::is_terminal(stderr)))
        .collect();
    let _ = write_all(stderr, format!("{}\n", shown.join("\n")).as_bytes());
}

/// Whether standard output is a terminal.
pub fn to_terminal() -> bool {
    terminal::is_terminal(rustix::stdio::stdout())
}
