//! The end of containers, and their removal.

use std::fs;
use std::time::{Duration, Instant};

use gantry_runtime::cgroup::{self, Group, Layout};
use gantry_supervisor::order::{RunState, RunStatus};
use gantry_supervisor::{record, socket};
use rustix::fs::FlockOperation;

use crate::container::known_from_run_root;
use crate::error::Error;
use crate::operation::{Operation, end_mark, frozen_mark};
use crate::store::{Durability, LastRun, Phase};
use crate::{Engine, ImageError, paths};

/// How long a supervisor that has nothing left to do may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Puts the end of a container on record, or removes the container if that was asked
    /// for. Nothing happens if it runs.
    ///
    /// # Errors
    /// What the installation's files say.
    pub fn settle(&self, id: &str) -> Result<(), Error> {
        let operation = Operation::begin(&self.roots, id)?;
        self.settle_locked(id)?;
        operation.finish();
        Ok(())
    }

    /// [`Engine::settle`] by the holder of the container's operation.
    pub(crate) fn settle_locked(&self, id: &str) -> Result<(), Error> {
        self.thaw_abandoned(id)?;
        self.await_record(id);
        if self.is_running(id) {
            return self.finish_network_change(id);
        }
        self.settle_ended(id)?;
        self.forget_end(id);
        Ok(())
    }

    /// Lets a container go on that was frozen by an operation whose process is dead. The caller
    /// holds the container's operation.
    fn thaw_abandoned(&self, id: &str) -> Result<(), Error> {
        let mark = frozen_mark(&self.roots, id);
        if !mark.exists() {
            return Ok(());
        }
        // Without a control group there is nothing frozen.
        if let Ok(layout) = Layout::detect()
            && let Ok(group) = Group::open(&layout, &self.roots.cgroup(id))
        {
            group.thaw().map_err(|source| ImageError::Pause {
                action: "resume",
                container: id.into(),
                source,
            })?;
        }
        fs::remove_file(&mark).map_err(|source| Error::Path {
            action: "remove",
            path: mark,
            source,
        })
    }

    /// Nothing of an end is left to be settled.
    fn forget_end(&self, id: &str) {
        // There is none where nothing has run.
        let _ = fs::remove_file(end_mark(&self.roots, id));
        let _ = fs::remove_file(frozen_mark(&self.roots, id));
    }

    fn settle_ended(&self, id: &str) -> Result<(), Error> {
        let row = self.store()?.container(id)?;
        let Some(row) = row else {
            // Of a creation that was undone, or a removal that was all but finished.
            self.remove_outside(id);
            return self.remove_remains(id);
        };
        if row.phase == Phase::Removing || row.auto_remove {
            return self.remove_now(id, row.auto_remove);
        }
        let state = self.run_state(id);
        let never_ran = state.is_none() && !self.roots.container_run(id).exists();
        if never_ran {
            // At most a supervisor was waiting for it.
            if self.roots.sandbox(id).exists() {
                self.leave_sandbox(id)?;
            }
            return Ok(());
        }
        match &state {
            Some(state) if state.started_at > 0 => {
                self.store()?.set_last_run(id, &last_run(state))?;
            }
            _ => {}
        }
        if state.is_none_or(|state| state.status != RunStatus::Exited) {
            self.remove_outside(id);
        }
        self.leave_sandbox(id)?;
        self.forget_name(id, Some(&row.name));
        paths::remove_directory(&self.roots.container_run(id))
    }

    /// Waits for what a living supervisor is about to put on record: a start whose client
    /// died goes on there (one that never began is told apart by the supervisor's lock), and
    /// between an end and the record of its exit code anybody may come by.
    pub(crate) fn await_record(&self, id: &str) {
        let until = Instant::now() + PATIENCE;
        let pending = || match self.run_state(id) {
            None => self.roots.container_run(id).exists(),
            Some(state) => state.status == RunStatus::Running && !record::is_alive(&state),
        };
        while pending() && self.has_supervisor(id) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes a container and everything of it. The caller holds its operation, and it
    /// does not run.
    pub(crate) fn remove_now(&self, id: &str, volumes: bool) -> Result<(), Error> {
        let state = self.run_state(id);
        let ended_well = state
            .as_ref()
            .is_some_and(|state| state.status == RunStatus::Exited);
        if !ended_well && self.roots.container_run(id).exists() {
            self.remove_outside(id);
        }
        // The supervisor ends in the meantime.
        paths::remove_directory(&self.roots.container_data(id))?;
        self.leave_sandbox(id)?;
        paths::remove_directory(&self.roots.container_run(id))?;
        let name = state.map(|state| known_from_run_root(&state).name);
        self.forget_name(id, name.as_deref());
        let networks = self.store()?.endpoints(id)?;
        let orphans = self
            .store()?
            .delete_container(id, volumes, Durability::Normal)?;
        for orphan in orphans {
            paths::remove_directory(&self.roots.volume(&orphan))?;
        }
        let networks: Vec<String> = networks.into_iter().map(|(network, _)| network).collect();
        self.publish_names_of(&networks)?;
        self.forget_end(id);
        Ok(())
    }

    fn remove_remains(&self, id: &str) -> Result<(), Error> {
        self.leave_sandbox(id)?;
        paths::remove_directory(&self.roots.container_run(id))?;
        self.forget_name(id, None);
        paths::remove_directory(&self.roots.container_data(id))
    }

    /// Lets go of the sandbox; the last one to leave takes its address along.
    fn leave_sandbox(&self, id: &str) -> Result<(), Error> {
        let sandbox = self.sandbox_of(id);
        if self.remove_sandbox_if_dead(&sandbox) {
            return self.release_addresses(&sandbox);
        }
        if self.supervisor_patience(&sandbox).is_zero() {
            return Ok(());
        }
        // The mark must stay, or nobody would look after directory and address again.
        Err(Error::Supervisor {
            id: sandbox,
            source: std::io::ErrorKind::TimedOut.into(),
        })
    }

    /// Removes a sandbox's directory once its supervisor is gone; whether it is.
    pub(crate) fn remove_sandbox_if_dead(&self, sandbox: &str) -> bool {
        let until = Instant::now() + self.supervisor_patience(sandbox);
        while self.is_sandbox_alive(sandbox) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        paths::remove_directory(&self.roots.sandbox(sandbox)).is_ok()
    }

    /// A supervisor that has other containers is not waited for.
    fn supervisor_patience(&self, sandbox: &str) -> Duration {
        let shared = self.run_states().iter().any(|state| {
            state.status == RunStatus::Running
                && state
                    .summary
                    .get("sandbox")
                    .and_then(serde_json::Value::as_str)
                    == Some(sandbox)
                && record::is_alive(state)
        });
        if shared { Duration::ZERO } else { PATIENCE }
    }

    /// Whether the supervisor of a container lives.
    pub(crate) fn has_supervisor(&self, id: &str) -> bool {
        self.is_sandbox_alive(&self.sandbox_of(id))
    }

    /// Whether the supervisor of a sandbox lives: either of its processes holds the lock.
    fn is_sandbox_alive(&self, sandbox: &str) -> bool {
        let Ok(lock) = fs::File::open(self.roots.sandbox(sandbox).join(socket::LOCK)) else {
            return false;
        };
        matches!(
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }

    /// Removes what lies outside of a container that died without its supervisor.
    pub(crate) fn remove_outside(&self, id: &str) {
        let instance = self.roots.instance();
        if gantry_network::firewall::exists(&instance).unwrap_or(false) {
            let _ = gantry_network::firewall::unpublish_owner(&instance, id);
        }
        let Ok(layout) = Layout::detect() else { return };
        let path = self.roots.cgroup(id);
        if let Ok(group) = Group::open(&layout, &path) {
            let _ = group.kill();
            let _ = group.remove();
        }
        let _ = cgroup::remove_by_path(&layout, &path);
    }
}

fn last_run(state: &RunState) -> LastRun {
    // Both processes of the supervisor were killed: nobody saw the end.
    let unseen = state.status != RunStatus::Exited;
    LastRun {
        exit_code: if unseen { 255 } else { state.exit_code },
        started_at: state.started_at,
        finished_at: if unseen {
            record::now()
        } else {
            state.finished_at
        },
        oom_killed: state.oom_killed,
        error: if unseen {
            "the supervisor was killed; how the container ended is not known".into()
        } else {
            state.error.clone()
        },
    }
}
