//! Records in the run root, replaced as a whole.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::order::RunState;

/// Name of the state record in a container's directory.
pub const STATE_FILE: &str = "state.json";

/// Largest record that is read, in bytes.
const MAX_RECORD: u64 = 16 * 1024 * 1024;

/// Writes `state.json`, atomically: a reader sees the old one or the new one.
///
/// # Errors
/// The kernel's.
pub fn write_state(directory: &Path, state: &RunState) -> io::Result<()> {
    let bytes = serde_json::to_vec(state)?;
    replace(directory, STATE_FILE, &bytes)
}

/// Reads `state.json`; `None` where there is none.
///
/// # Errors
/// The kernel's, or `InvalidData` for what is no record.
pub fn read_state(directory: &Path) -> io::Result<Option<RunState>> {
    let file = match fs::File::open(directory.join(STATE_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Replaces a file by a new one.
///
/// # Errors
/// The kernel's.
pub fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    // The mode does not depend on the umask of whoever starts a container.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, directory.join(name))
}

/// Start of a process in clock ticks since boot, from `/proc/PID/stat`.
///
/// # Errors
/// The kernel's; `NotFound` where there is no such process.
pub fn start_ticks(pid: i32) -> io::Result<u64> {
    stat_field(pid, 19)
}

/// How a process ended that nobody has reaped, by the last field of its `stat`.
///
/// # Errors
/// The kernel's; `NotFound` where there is no such process or it lives.
pub fn zombie_status(pid: i32) -> io::Result<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    if fields(&text).next() != Some("Z") {
        return Err(io::ErrorKind::NotFound.into());
    }
    stat_field(pid, 49).map(|status| status as i32)
}

/// Field `index` after the parenthesis; 0 is the state.
fn stat_field(pid: i32, index: usize) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let field = fields(&text)
        .nth(index)
        .and_then(|field| field.parse().ok());
    field.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The name of a process may hold anything, so fields count from the last parenthesis.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_ascii_whitespace()
}

/// Whether the process that a record names still lives.
#[must_use]
pub fn is_alive(state: &RunState) -> bool {
    if state.pid <= 0 {
        return false;
    }
    let Ok(text) = fs::read_to_string(format!("/proc/{}/stat", state.pid)) else {
        return false;
    };
    let mut fields = fields(&text);
    let lives = !matches!(fields.next(), Some("Z" | "X") | None);
    lives && fields.nth(18).and_then(|field| field.parse().ok()) == Some(state.start_ticks)
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_another_with_its_id_is_not() {
        let pid = std::process::id() as i32;
        let ticks = start_ticks(pid).unwrap();
        let mut state = RunState {
            pid,
            start_ticks: ticks,
            ..RunState::default()
        };
        assert!(is_alive(&state));
        state.start_ticks += 1;
        assert!(!is_alive(&state));
        assert!(zombie_status(pid).is_err());
    }

    #[test]
    fn a_zombie_tells_its_status() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exit 3"])
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let status = loop {
            if let Ok(status) = zombie_status(pid) {
                break status;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        assert_eq!(
            gantry_sys::process::WaitStatus::from_raw(status).shell_code(),
            3
        );
        child.wait().unwrap();
    }

    #[test]
    fn unknown_fields_and_missing_ones_are_no_error() {
        let state: RunState = serde_json::from_str(r#"{"pid":7,"from_the_future":[1]}"#).unwrap();
        assert_eq!((state.pid, state.protocol), (7, 0));
    }
}
