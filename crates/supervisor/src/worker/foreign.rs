//! Tasks of other runtimes: where they part from those that are born here.

use std::os::fd::{AsFd, OwnedFd};

use gantry_runtime::birth::{Birth, Stdio};
use rustix::process::{Pid, WaitOptions};

use crate::foreign::{self, Failure, Foreign, Work};
use crate::network;
use crate::order::{BirthOrder, ExecOrder};
use crate::record;
use crate::task::{self, Task, TaskRecord};

use super::Worker;
use super::begin::{Streams, make_streams, tolerate_death};

impl Worker {
    /// Forks the helper that has another runtime make a container. Limits are the
    /// runtime's to set.
    pub(super) fn fork_helper(
        &self,
        order: &BirthOrder,
        foreign: &mut Foreign,
        joined: Option<OwnedFd>,
        host: Option<&mut network::HostSide>,
    ) -> Result<(Birth, Streams, Vec<String>), Failure> {
        let process = order.spec.process.as_ref();
        let terminal = process.is_some_and(|process| process.terminal);
        let mut streams = make_streams(terminal, order.open_stdin)?;
        let given = std::mem::replace(&mut streams.given, Stdio::Terminal);
        let work = Work::Container {
            order,
            joined,
            host,
        };
        let birth = foreign.fork(work, given)?;
        Ok((birth, streams, Vec::new()))
    }

    /// Starts an exec in a container of another runtime.
    pub(super) fn start_foreign_exec(
        &mut self,
        order: &ExecOrder,
        mut foreign: Foreign,
        init: i32,
        cgroup: String,
    ) -> Result<(), Failure> {
        let mut streams = make_streams(order.process.terminal, order.open_stdin)?;
        let given = std::mem::replace(&mut streams.given, Stdio::Terminal);
        let birth = foreign.fork(Work::Exec { order, init }, given)?;
        let mut record = TaskRecord::of_exec(order);
        record.pid = birth.pid;
        record.cgroup = cgroup;
        record.foreign = Some(Box::new(foreign));
        let mut task = self.new_task(record, &birth, streams)?;
        task.birth = Some(birth);
        self.shared.tasks.insert(order.id.clone(), task);
        self.let_begin(&order.id)
    }

    /// Tells the other process of a helper and lets it begin: from here on its work is
    /// done once, whoever of the two dies.
    pub(super) fn let_begin(&mut self, id: &str) -> Result<(), Failure> {
        let Some(task) = self.shared.tasks.get_mut(id) else {
            return Ok(());
        };
        let told = task::send_task(self.partner.as_fd(), task);
        let begun = match (told.or_else(tolerate_death), &task.birth) {
            (Err(error), _) => Err(format!("cannot tell the other process: {error}")),
            (Ok(()), Some(birth)) => foreign::begin(birth),
            (Ok(()), None) => Ok(()),
        };
        begun.map_err(|message| {
            self.abandon(id);
            message.into()
        })
    }

    /// Puts the runtime's process in the place of the helper.
    pub(super) fn take_born(&mut self, id: &str) -> Result<(), String> {
        let Some(task) = self.shared.tasks.get_mut(id) else {
            return Ok(());
        };
        let Some(foreign) = &task.record.foreign else {
            return Ok(());
        };
        let (pid, pidfd) = foreign.born()?;
        task.pidfd = pidfd;
        task.record.pid = pid;
        task.record.start_ticks = record::start_ticks(pid).unwrap_or(0);
        Ok(())
    }

    /// What the end of a helper without a word means.
    pub(super) fn judge_helper(&self, id: &str) -> Result<(), Failure> {
        let Some(task) = self.shared.tasks.get(id) else {
            return Ok(());
        };
        // What has ended had been started, and its mark may be gone already.
        let running = task.record.status.is_none();
        let Some(foreign) = task.record.foreign.as_ref().filter(|_| running) else {
            return Ok(());
        };
        let mut tasks = self.shared.tasks.values();
        // An id that was given out again is another task's by now.
        if !tasks.any(|task| task.record.pid == foreign.helper) {
            foreign.reap_helper();
        }
        foreign.outcome()
    }

    /// Ends what a start by another runtime has made so far.
    pub(super) fn end_foreign(&self, task: &Task) {
        if let Some(foreign) = &task.record.foreign {
            foreign.kill(&task.record.cgroup);
        }
    }

    /// Has the runtime forget a task that is over, and reaps what it has left behind.
    pub(super) fn forget_foreign(&self, task: &Task) {
        let Some(foreign) = &task.record.foreign else {
            return;
        };
        if task.record.is_exec() {
            foreign.remove_directory();
        } else {
            foreign.delete(&task.record.id);
        }
        self.reap_strangers();
    }

    /// Reaps children that belong to no task: a runtime may leave some.
    fn reap_strangers(&self) {
        while let Ok(Some(pid)) = gantry_sys::process::ended_child() {
            let mut tasks = self.shared.tasks.values();
            let is_awaited = tasks.any(|task| task.record.pid == pid);
            let Some(id) = Pid::from_raw(pid).filter(|_| !is_awaited) else {
                return;
            };
            let _ = rustix::process::waitpid(Some(id), WaitOptions::NOHANG);
        }
    }
}
