//! The end of tasks.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use gantry_runtime::cgroup::{Group, Layout};

use crate::network;
use crate::order::RunStatus;
use crate::protocol::Reply;
use crate::record;
use crate::stream::free_slot;
use crate::task::{self, Mirror, Task};

use super::Worker;
use super::begin::running_state;

impl Worker {
    /// Ends every task whose process has ended and whose output has gone where it goes.
    pub(super) fn finish_ended(&mut self) {
        let ended: Vec<String> = self
            .shared
            .tasks
            .iter()
            .filter(|(_, task)| {
                task.birth.is_none() && task.record.status.is_some() && task.is_drained()
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            self.finish(&id);
        }
    }

    fn finish(&mut self, id: &str) {
        let Some(task) = self.shared.tasks.remove(id) else {
            return;
        };
        let code = task
            .record
            .wait_status()
            .map_or(255, |status| status.shell_code());
        // Not only this task's child: a predecessor's children may have come here too.
        super::reap(task.pidfd.as_fd());
        for output in &task.outputs {
            free_slot(&self.sandbox.page, output.slot);
        }
        let settled_by_client = self.connections.iter().any(|connection| {
            !connection.gone
                && connection
                    .watch
                    .as_ref()
                    .is_some_and(|watch| watch.task == id && watch.attach.settles)
        });
        if !task.record.is_exec() {
            let oom_killed = self.undo_outside(&task);
            self.forget_foreign(&task);
            record_end(&task, code, oom_killed);
        } else {
            self.forget_foreign(&task);
        }
        let _ = task::send(
            self.partner.as_fd(),
            &Mirror::Gone {
                id: id.into(),
                code,
            },
            &[],
        );
        // Before the answer: a successor must not wait for clients that have had theirs.
        self.forget_watchers(id);
        for connection in &mut self.connections {
            let watching = connection
                .watch
                .as_ref()
                .is_some_and(|watch| watch.task == id);
            if watching || connection.waits.iter().any(|task| task == id) {
                connection.reply(&Reply::Exited { code }, None);
                connection.waits.retain(|task| task != id);
                // Its client waits for that, also where the sandbox lives on with others.
                connection.finished |= watching;
            }
        }
        self.shared.finish(id, code);
        if !task.record.is_exec() && !settled_by_client {
            settle(&task);
        }
    }

    /// Nobody watches a task that is gone; the other process must not keep their names.
    fn forget_watchers(&mut self, id: &str) {
        let watchers = self.shared.watchers.iter();
        let watchers = watchers.filter(|(_, (task, _))| task == id);
        let clients: Vec<String> = watchers.map(|(client, _)| client.clone()).collect();
        for client in clients {
            self.shared.watchers.remove(&client);
            let _ = task::send(self.partner.as_fd(), &Mirror::Detached { client }, &[]);
        }
    }

    /// Removes what of a container lies outside of it; whether it ran out of memory.
    pub(super) fn undo_outside(&mut self, task: &Task) -> bool {
        if task.record.is_exec() {
            return false;
        }
        self.proxies.remove(&task.record.ports);
        if !task.record.instance.is_empty() {
            network::unpublish_ports(
                &mut self.firewall,
                &task.record.instance,
                &task.record.id,
                &task.record.ports,
            );
        }
        let Ok(layout) = self.layout.clone().map_or_else(Layout::detect, Ok) else {
            return false;
        };
        let Ok(group) = Group::open(&layout, &task.record.cgroup) else {
            return false;
        };
        let oom_killed = group
            .oom_kill_count()
            .is_ok_and(|count| count.is_some_and(|count| count > 0));
        let _ = group.kill();
        let _ = group.remove();
        oom_killed
    }
}

/// Leaves the end on record: first the request to settle it, so that no death in between
/// leaves an end that nobody knows of.
fn record_end(task: &Task, code: i32, oom_killed: bool) {
    let _ = fs::write(&task.record.settle_marker, b"");
    let mut state = running_state(&task.record);
    state.status = RunStatus::Exited;
    state.finished_at = record::now();
    state.exit_code = code;
    state.oom_killed = oom_killed;
    let _ = record::write_state(&task.record.run_dir, &state);
}

/// Has the end settled by a short-lived process: the state store is nothing that a
/// supervisor carries.
fn settle(task: &Task) {
    let Some((program, arguments)) = task.record.settle_command.split_first() else {
        return;
    };
    let started: io::Result<_> = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // If it cannot be started the marker is there, and the next command settles.
    drop(started);
}
