//! Running a credential helper: a program that is asked on standard input and answers on
//! standard output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::ANSWER_LIMIT;

/// What a helper left behind. Neither stream is longer than [`ANSWER_LIMIT`] and one byte.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// Finds `program` in `search`. Relative directories are passed over: whoever owns the current
/// directory must not be able to put a helper there.
pub(super) fn locate(program: &str, search: &[PathBuf]) -> Option<PathBuf> {
    use rustix::fs::{Access, access};
    search
        .iter()
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
}

/// Asks the helper at `path` for `server`; `None` if it is not done within `patience`.
pub(super) fn get(path: &Path, server: &str, patience: Duration) -> io::Result<Option<Output>> {
    run(path, "get", server, patience)
}

/// Has the helper at `path` do `verb` with `input`; `None` if it is not done within `patience`.
pub(super) fn run(
    path: &Path,
    verb: &str,
    input: &str,
    patience: Duration,
) -> io::Result<Option<Output>> {
    let mut child = Command::new(path)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let result = converse(&mut child, input, patience);
    if !matches!(result, Ok(Some(_))) {
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok(result?.map(|[stdout, stderr]| Output {
        status,
        stdout,
        stderr,
    }))
}

/// Reads both streams until the helper ends, and not until they do: something that it started
/// in the background may hold them for ever.
fn converse(
    child: &mut Child,
    server: &str,
    patience: Duration,
) -> io::Result<Option<[Vec<u8>; 2]>> {
    let end = Instant::now() + patience;
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    if let Some(mut stdin) = child.stdin.take() {
        // Less than a pipe holds, so it does not block. A helper need not read it.
        let _ = stdin.write_all(server.as_bytes());
    }
    let mut streams = [
        child
            .stdout
            .take()
            .map(|stream| File::from(OwnedFd::from(stream))),
        child
            .stderr
            .take()
            .map(|stream| File::from(OwnedFd::from(stream))),
    ];
    let mut collected = [Vec::new(), Vec::new()];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let (mut polled, mut which) = (vec![PollFd::new(&process, PollFlags::IN)], Vec::new());
        for (number, stream) in streams.iter().enumerate() {
            if let Some(stream) = stream {
                polled.push(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN));
                which.push(number);
            }
        }
        match poll(&mut polled, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled
            .iter()
            .map(|polled| !polled.revents().is_empty())
            .collect();
        let mut read_any = false;
        for (number, _) in which
            .into_iter()
            .zip(&ready[1..])
            .filter(|(_, ready)| **ready)
        {
            read_any = true;
            let (stream, bytes) = (&mut streams[number], &mut collected[number]);
            let mut buffer = [0; 4096];
            match stream.as_mut().map(|stream| stream.read(&mut buffer)) {
                None | Some(Ok(0)) => *stream = None,
                Some(Ok(count)) => {
                    // What is too long is read on and dropped: the helper ends as it would.
                    let room = (ANSWER_LIMIT + 1).saturating_sub(bytes.len());
                    bytes.extend(&buffer[..count.min(room)]);
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) => return Err(error),
            }
        }
        if ready[0] && !read_any {
            return Ok(Some(collected));
        }
    }
}
