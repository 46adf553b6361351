//! `start`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::arguments::Arguments;
use super::create::hook_state;
use super::error::{CliError, Context as _};
use super::notify::Listener;
use super::options::Global;
use super::state::{self, Place, Record, Status};

/// The most that is read of why the program could not be started.
const MAX_REPORT: usize = 8192;

/// How long a process that has said why it failed is given to end.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// `start`.
///
/// # Errors
/// [`CliError`].
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    if let Some(flag) = words.flag() {
        return Err(flag.unknown());
    }
    let id = words.id()?;
    words.end()?;
    start(global, &id).map_err(|error| error.during(format!("cannot start container {id}")))
}

fn start(global: &Global, id: &str) -> Result<(), CliError> {
    let mut place = Place::open(&global.root, id)?;
    place.lock()?;
    let record = place.record()?;
    let status = place.status(&record);
    let wrong_state = |hint| CliError::WrongState {
        action: "start",
        id: id.to_owned(),
        status: status.name(),
        hint,
    };
    match status {
        Status::Created => {}
        Status::Stopped => {
            return Err(wrong_state(
                ": cannot start a container that has stopped; delete it and create it anew",
            ));
        }
        _ => return Err(wrong_state(": it is started already")),
    }
    let process =
        state::process(&record).ok_or_else(|| CliError::NotRunning { id: id.to_owned() })?;
    let listener = Listener::bind(&place)?;
    let fifo = place.open_fifo()?.ok_or_else(|| wrong_state(""))?;
    // Right behind the opening, by which the process goes on: from then on the container
    // counts as started.
    place.remove_fifo()?;
    let report = read_report(&fifo, &process, record.pid)?;
    if !report.is_empty() {
        // Clients delete the container next, and refuse to while its process still ends.
        let patience = Timespec::try_from(LAST_BREATH).ok();
        let mut events = [PollFd::new(&process, PollFlags::IN)];
        let _ = poll(&mut events, patience.as_ref());
        return Err(CliError::Invalid(report));
    }
    run_poststart(global, &place, &record);
    if let Some(listener) = listener {
        place.unlock();
        listener.wait(std::os::fd::AsFd::as_fd(&process), record.pid)?;
    }
    Ok(())
}

/// Reads why the program does not run; nothing if it does.
///
/// The process writes a byte when it has come through, and then keeps its end open until
/// its exec. While it has not opened it there is no end of the FIFO to be read.
fn read_report(fifo: &OwnedFd, process: &OwnedFd, pid: i32) -> Result<String, CliError> {
    let mut report = Vec::new();
    let mut has_passed = false;
    let mut buffer = [0u8; 4096];
    loop {
        let mut events = [
            PollFd::new(fifo, PollFlags::IN),
            PollFd::new(process, PollFlags::IN),
        ];
        let interval = Timespec::try_from(LAST_BREATH).ok();
        match poll(&mut events, interval.as_ref()) {
            // A `start` was killed after it had let the process go and before it had noted
            // that: nobody will open the FIFO any more.
            Ok(0) if !has_passed && !is_ours(pid) => return Ok(String::new()),
            Ok(0) | Err(Errno::INTR) => continue,
            other => other.step("cannot wait for the container's process")?,
        };
        let has_ended = !events[1].revents().is_empty();
        match rustix::io::read(fifo, &mut buffer[..]) {
            Ok(0) if has_passed => break,
            // The program may be a short one: it has ended, but it was started.
            Ok(0) if has_ended => {
                return Ok("the container's process ended before its start".into());
            }
            Ok(0) => {}
            Ok(length) => {
                has_passed = true;
                report.extend_from_slice(&buffer[..length]);
                if report.len() > MAX_REPORT {
                    break;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno).step("cannot hear from the container's process"),
        }
    }
    let text = report.strip_prefix(b"0").unwrap_or(&report);
    Ok(String::from_utf8_lossy(text).trim().to_owned())
}

/// Whether a process still runs this program and not the container's.
fn is_ours(pid: i32) -> bool {
    let identity = |path: &str| {
        let found = rustix::fs::stat(path).ok()?;
        Some((found.st_dev, found.st_ino))
    };
    // A copy in sealed memory is another file in each process.
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    identity(&format!("/proc/{pid}/exe")) == identity("/proc/self/exe")
        || program
            .to_string_lossy()
            .starts_with("/memfd:gantry-runtime")
}

/// Runs the hooks that follow the start; a failure is told, and changes nothing.
pub fn run_poststart(global: &Global, place: &Place, record: &Record) {
    if !record.has_poststart {
        return;
    }
    let Ok(Some(hooks)) = place.config().map(|spec| spec.hooks) else {
        return;
    };
    let told = hook_state(record).json("running", Some(record.pid));
    let result = told.and_then(|state| gantry_runtime::hooks::run(&hooks.poststart, &state));
    if let Err(error) = result {
        global.log.warning(&format!("poststart: {}", error.chain()));
    }
}
