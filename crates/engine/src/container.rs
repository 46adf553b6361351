//! Finding containers, and what changes their life: stop, kill, wait, remove.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use gantry_supervisor::client::{Client, Event};
use gantry_supervisor::order::{RunState, RunStatus};
use gantry_supervisor::record;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::Engine;
use crate::config::ContainerConfig;
use crate::error::Error;
use crate::operation::Operation;
use crate::store::ContainerRow;

/// How long the kernel has for a kill, and the supervisor to note an end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of a container, from the state store or, without it, from the run root.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) config: ContainerConfig,
}

impl Engine {
    /// A container's row, by name, id, or the beginning of an id.
    pub(crate) fn find(&self, name: &str) -> Result<ContainerRow, Error> {
        let mut found = self.store()?.find_containers(name)?;
        if found.len() > 1 {
            return Err(Error::Ambiguous {
                prefix: name.into(),
            });
        }
        found
            .pop()
            .ok_or_else(|| Error::NoSuchContainer { name: name.into() })
    }

    /// The configuration of a row.
    pub(crate) fn config_of(&self, row: &ContainerRow) -> Result<ContainerConfig, Error> {
        serde_json::from_str(&row.config).map_err(|source| Error::Record {
            id: row.id.clone(),
            source,
        })
    }

    /// Volumes of a container in the order of its mounts. Anonymous ones have no name in
    /// the configuration; they are told apart by being used by this container only.
    pub(crate) fn volumes_of(
        &self,
        row: &ContainerRow,
        config: &ContainerConfig,
    ) -> Result<Vec<String>, Error> {
        let mut anonymous = self.store()?.anonymous_volumes(&row.id)?.into_iter();
        let mut volumes = Vec::new();
        for mount in &config.mounts {
            if let crate::config::MountSource::Volume { name, .. } = &mount.source {
                volumes.push(match name {
                    Some(name) => name.clone(),
                    None => anonymous.next().unwrap_or_default(),
                });
            }
        }
        Ok(volumes)
    }

    /// A container, whether the state store can be read or not.
    pub(crate) fn known(&self, name: &str) -> Result<Known, Error> {
        if self.has_store() {
            let row = self.find(name)?;
            let config = self.config_of(&row)?;
            return Ok(Known {
                id: row.id,
                name: row.name,
                config,
            });
        }
        let mut found = Vec::new();
        for state in self.run_states() {
            let known = known_from_run_root(&state);
            if known.name == name || known.id == name {
                return Ok(known);
            }
            if !name.is_empty() && known.id.starts_with(name) {
                found.push(known);
            }
        }
        if found.len() > 1 {
            return Err(Error::Ambiguous {
                prefix: name.into(),
            });
        }
        found
            .pop()
            .ok_or_else(|| Error::NoSuchContainer { name: name.into() })
    }

    /// Every record in the run root.
    pub(crate) fn run_states(&self) -> Vec<RunState> {
        let Ok(entries) = std::fs::read_dir(self.roots.run.join("containers")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| record::read_state(&entry.path()).ok().flatten())
            .collect()
    }

    /// The record of a container in the run root.
    pub(crate) fn run_state(&self, id: &str) -> Option<RunState> {
        record::read_state(&self.roots.container_run(id))
            .ok()
            .flatten()
    }

    /// Whether a container runs: the kernel says.
    pub(crate) fn is_running(&self, id: &str) -> bool {
        self.run_state(id)
            .is_some_and(|state| state.status == RunStatus::Running && record::is_alive(&state))
    }

    /// A handle of a running container's first process.
    fn process(&self, id: &str) -> Result<(OwnedFd, RunState), Error> {
        let not_running = || Error::NotRunning { id: id.into() };
        let state = self.run_state(id).ok_or_else(not_running)?;
        let pid = Pid::from_raw(state.pid).ok_or_else(not_running)?;
        let handle =
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| not_running())?;
        // Only now: the handle is of the process that had this id when it was opened.
        if state.status != RunStatus::Running || !record::is_alive(&state) {
            return Err(not_running());
        }
        Ok((handle, state))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotRunning`], [`Error::Invalid`].
    pub fn kill(&self, name: &str, signal: &str) -> Result<(), Error> {
        let signal_number = parse_signal(signal)?;
        let known = self.known(name)?;
        let (process, _) = self.process(&known.id)?;
        send(&process, signal_number, &known.id)?;
        if signal_number == 9 {
            self.wait_for_end(&known.id, &process, PATIENCE);
        }
        Ok(())
    }

    /// Stops a container: a signal, and after a time the kill. Absent `timeout` means the
    /// container's own, or 10 s; -1 means for ever.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::DoesNotEnd`]. A container that is not running
    /// is no error.
    pub fn stop(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let known = self.known(name)?;
        let own = &known.config.stop_signal;
        let signal = parse_signal(signal.unwrap_or(if own.is_empty() { "SIGTERM" } else { own }))?;
        let Ok((process, _)) = self.process(&known.id) else {
            self.settle_if_possible(&known.id);
            return Ok(());
        };
        let seconds = timeout.or(known.config.stop_timeout).unwrap_or(10);
        send(&process, signal, &known.id)?;
        if !has_ended(
            &process,
            if seconds < 0 {
                None
            } else {
                Some(Duration::from_secs(seconds as u64))
            },
        ) {
            send(&process, 9, &known.id)?;
            if !has_ended(&process, Some(PATIENCE)) {
                return Err(Error::DoesNotEnd { id: known.id });
            }
        }
        self.wait_for_end(&known.id, &process, PATIENCE);
        self.settle_if_possible(&known.id);
        Ok(())
    }

    /// Waits until the end of a container is on record.
    fn wait_for_end(&self, id: &str, process: &OwnedFd, patience: Duration) {
        let until = Instant::now() + patience;
        if !has_ended(process, Some(patience)) {
            return;
        }
        while Instant::now() < until {
            match self.run_state(id) {
                Some(state) if state.status == RunStatus::Running && self.has_supervisor(id) => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return,
            }
        }
    }

    /// Settles an end, if the state store allows it; otherwise a later command does.
    fn settle_if_possible(&self, id: &str) {
        if self.has_store() {
            // A state store that can be read and not written (a full or read-only file
            // system) is no failure of a stop: the mark has the end settled later.
            let _ = self.settle(id);
        }
    }

    /// Waits for the end of a container and returns its exit code.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Supervisor`].
    pub fn wait(&self, name: &str) -> Result<i32, Error> {
        let known = self.known(name)?;
        let id = known.id;
        if self.is_running(&id) {
            let directory = self.roots.sandbox(&self.sandbox_of(&id));
            if let Ok(mut client) = Client::wait(&directory, &id) {
                loop {
                    match client.next_event() {
                        Ok(Event::Exited { code } | Event::Failed { code, .. }) => return Ok(code),
                        Ok(Event::Lost) => break,
                        Ok(_) => {}
                        Err(source) => return Err(Error::Supervisor { id, source }),
                    }
                }
            }
        }
        // It may have ended just now, with its code not on record yet.
        self.await_record(&id);
        if let Some(state) = self
            .run_state(&id)
            .filter(|state| state.status == RunStatus::Exited)
        {
            return Ok(state.exit_code);
        }
        match self.store()?.container(&id)? {
            Some(row) => Ok(row.last_run.map_or(0, |run| run.exit_code)),
            None => Err(Error::NoSuchContainer { name: name.into() }),
        }
    }

    /// Removes a container.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::StillRunning`], [`Error::DoesNotEnd`].
    pub fn remove(&self, name: &str, force: bool, volumes: bool) -> Result<(), Error> {
        let row = self.find(name)?;
        let operation = Operation::begin(&self.roots, &row.id)?;
        let removed = self.remove_under(&row, force, volumes);
        // On an error the mark stays only if the removal has begun: then it is to be finished.
        if removed.is_ok() || self.is_running(&row.id) {
            operation.finish();
        }
        removed
    }

    fn remove_under(&self, row: &ContainerRow, force: bool, volumes: bool) -> Result<(), Error> {
        if let Ok((process, _)) = self.process(&row.id) {
            if !force {
                return Err(Error::StillRunning {
                    name: row.name.clone(),
                });
            }
            send(&process, 9, &row.id)?;
            if !has_ended(&process, Some(PATIENCE)) {
                return Err(Error::DoesNotEnd { id: row.id.clone() });
            }
            self.wait_for_end(&row.id, &process, PATIENCE);
        }
        if self.store()?.container(&row.id)?.is_none() {
            return Ok(());
        }
        self.store()?.begin_removal(&row.id)?;
        self.remove_now(&row.id, volumes || row.auto_remove)
    }
}

/// What the record of a container says.
pub(crate) fn known_from_run_root(state: &RunState) -> Known {
    let text = |key: &str| {
        state
            .summary
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let take = |key: &str| state.summary.get(key).cloned().unwrap_or_default();
    let config = ContainerConfig {
        image: text("image"),
        entrypoint: serde_json::from_value(take("entrypoint")).unwrap_or_default(),
        cmd: serde_json::from_value(take("cmd")).unwrap_or_default(),
        labels: serde_json::from_value(take("labels")).unwrap_or_default(),
        env: serde_json::from_value(take("env")).unwrap_or_default(),
        security: serde_json::from_value(take("security")).unwrap_or_default(),
        stop_timeout: serde_json::from_value(take("stop_timeout")).unwrap_or_default(),
        stop_signal: text("stop_signal"),
        user: text("user"),
        working_dir: text("working_dir"),
        hostname: text("hostname"),
        ..ContainerConfig::default()
    };
    Known {
        id: state.container.clone(),
        name: text("name"),
        config,
    }
}

fn send(process: &OwnedFd, number: i32, id: &str) -> Result<(), Error> {
    let fail = |source| Error::Signal {
        signal: number.to_string(),
        id: id.into(),
        source,
    };
    let signal = Signal::from_named_raw(number)
        .ok_or_else(|| fail(std::io::ErrorKind::InvalidInput.into()))?;
    match rustix::process::pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(fail(errno.into())),
    }
}

/// Waits for the end of a process; absent `patience` means for ever.
fn has_ended(process: &OwnedFd, patience: Option<Duration>) -> bool {
    let until = patience.map(|patience| Instant::now() + patience);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) => {}
        }
    }
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of a signal, by name with or without `SIG`, or by number.
///
/// # Errors
/// [`Error::Invalid`].
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    let invalid = || Error::Invalid {
        option: format!("signal {text:?}"),
        reason: "no such signal".into(),
    };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=31).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS
        .iter()
        .position(|&known| known == name)
        .map(|index| index as i32 + 1)
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGKILL", 9),
            ("usr1", 10),
            ("WINCH", 28),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "-1", "65", "SIGFOO", "SIG"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
