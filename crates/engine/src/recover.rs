//! What every command does first: finish or undo what dead processes have left.

use std::os::unix::fs::MetadataExt;

use gantry_supervisor::record;

use crate::error::Error;
use crate::operation::{self, Operation};
use crate::{Engine, paths};

/// File of the run root that holds the start of the machine which was noticed last.
const BOOT: &str = "boot";

impl Engine {
    /// Deals with every mark that nobody holds.
    ///
    /// # Errors
    /// [`Error::Path`] where the run root cannot be read. What cannot be finished now is
    /// left for the next command.
    pub(crate) fn recover(&self) -> Result<(), Error> {
        let boot = self.boot()?;
        let noticed = self.roots.run.join(BOOT);
        if std::fs::read_to_string(&noticed).is_ok_and(|known| known == boot) {
            // The state store is opened only if it is needed.
            let marked = operation::marked(&self.roots)?;
            return self.settle_marked(&marked);
        }
        if !self.has_store() {
            return Ok(());
        }
        self.notice_restart(&boot)?;
        // Without it the next command looks into the state store again.
        let _ = record::replace(&self.roots.run, BOOT, boot.as_bytes());
        self.settle_marked(&operation::marked(&self.roots)?)
    }

    fn settle_marked(&self, marked: &[String]) -> Result<(), Error> {
        if marked.is_empty() || !self.has_store() {
            return Ok(());
        }
        for id in marked {
            let Ok(Some(operation)) = Operation::take_over(&self.roots, id) else {
                continue;
            };
            // What has not run yet is not at its end because somebody who read it has died.
            let is_unchanged = operation.was_read() && !self.roots.container_run(id).exists();
            if is_unchanged || self.settle_locked(id).is_ok() {
                operation.finish();
            }
        }
        Ok(())
    }

    /// After a restart of the machine nothing runs, no address is in use, and what was to
    /// be removed at its end has ended.
    fn notice_restart(&self, boot: &str) -> Result<(), Error> {
        let known = self.store()?.meta("boot")?;
        if known.as_deref() == Some(boot) {
            return Ok(());
        }
        if known.is_some() {
            let rows = self.store()?.containers()?;
            for row in rows {
                let finished = row.auto_remove || row.phase == crate::store::Phase::Removing;
                if finished && !self.is_running(&row.id) {
                    self.settle(&row.id)?;
                }
            }
            let holders = self.store()?.lease_holders()?;
            for holder in holders {
                if !self.is_running(&holder) {
                    self.release_addresses(&holder)?;
                }
            }
        }
        self.store()?.set_meta("boot", boot)
    }

    /// What tells this start of the machine, and this run root, from others.
    fn boot(&self) -> Result<String, Error> {
        let path = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(path).map_err(|source| Error::Path {
            action: "read",
            path: path.into(),
            source,
        })?;
        // The data root too: its disk may have been mounted since.
        let place = std::fs::metadata(&self.roots.data)
            .map(|found| format!("{}:{}", found.dev(), found.ino()))
            .unwrap_or_default();
        Ok(format!(
            "{} {} {} {place}",
            boot.trim(),
            self.roots.run.display(),
            self.roots.data.display(),
        ))
    }

    /// Removes every container and everything that the installation has in tables that
    /// all share. Images and volumes stay.
    ///
    /// # Errors
    /// The first one; the rest is removed all the same.
    pub fn reset(&self) -> Result<(), Error> {
        let mut first = Ok(());
        let mut note = |result: Result<(), Error>| {
            if let (Err(error), true) = (result, first.is_ok()) {
                first = Err(error);
            }
        };
        let rows = self.store()?.containers()?;
        for row in rows {
            note(self.remove(&row.id, true, true));
        }
        note(self.remove_networks());
        if let Ok(layout) = gantry_runtime::cgroup::Layout::detect() {
            let parent = self.roots.cgroup_parent();
            for path in gantry_runtime::cgroup::list(&layout, &parent) {
                let _ = gantry_runtime::cgroup::remove_by_path(&layout, &path);
            }
            let _ = gantry_runtime::cgroup::remove_by_path(&layout, &parent);
        }
        for name in ["containers", "sandboxes", "names", "networks", "ops"] {
            let directory = self.roots.run.join(name);
            note(paths::remove_directory(&directory));
            note(paths::private_directory(&directory));
        }
        first
    }
}
