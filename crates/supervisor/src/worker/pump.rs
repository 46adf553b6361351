//! Output: from the programs to the log and to the clients.

use crate::protocol::Stream;
use crate::stream::{Held, Output};

use super::Worker;
use super::connection::Connection;

/// Most that goes to a client in one message, in bytes.
const LARGEST_MESSAGE: usize = 32 * 1024;

/// Whether the holding pipe takes nothing more, so that it is of no use to look at the
/// program's pipe.
pub(super) fn is_stuck(output: &Output) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&output.hold_writer, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready == 0)
}

impl Worker {
    /// Moves all output as far as it can go now.
    pub(super) fn pump(&mut self) {
        let waiting = self.ghosts_until.is_some();
        for (id, task) in &mut self.shared.tasks {
            let ended = task.record.status.is_some();
            for output in &mut task.outputs {
                loop {
                    let moved = output.fill();
                    let Ok(held) = output.look(&self.sandbox.page, &self.scratch) else {
                        break;
                    };
                    let limit = deliver(&mut self.connections, id, output.stream, &held);
                    let ghost = waiting
                        && self.shared.watchers.iter().any(|(client, (watched, _))| {
                            watched == id && !is_present(&self.connections, client)
                        });
                    let ripe = output.ripe(&held);
                    let blocked =
                        ghost || limit.is_some_and(|limit| limit < held.offset + ripe as u64);
                    if !blocked {
                        output.commit(&self.sandbox.page, &held, ripe, task.log.as_mut());
                    }
                    if !moved || blocked {
                        break;
                    }
                }
                // Somebody outside of the task may hold its pipe open for ever; what the
                // task itself has written is there once it has ended.
                if ended && output.source.is_some() && !is_stuck(output) && !is_readable(output) {
                    output.source = None;
                    if let Ok(held) = output.look(&self.sandbox.page, &self.scratch) {
                        let limit = deliver(&mut self.connections, id, output.stream, &held);
                        if !waiting && limit.is_none_or(|limit| limit >= held.end()) {
                            output.commit(
                                &self.sandbox.page,
                                &held,
                                held.bytes.len(),
                                task.log.as_mut(),
                            );
                        }
                    }
                }
            }
        }
    }
}

fn is_present(connections: &[Connection], client: &str) -> bool {
    connections.iter().any(|connection| {
        connection
            .watch
            .as_ref()
            .is_some_and(|watch| watch.attach.client == client)
    })
}

fn is_readable(output: &Output) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Some(source) = &output.source else {
        return false;
    };
    let mut fds = [PollFd::new(source, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|_| fds[0].revents().contains(PollFlags::IN))
}

/// Sends held bytes to every client that has not had them; the place that all have reached.
fn deliver(connections: &mut [Connection], task: &str, stream: Stream, held: &Held) -> Option<u64> {
    let mut reached: Option<u64> = None;
    for connection in connections.iter_mut() {
        if connection.gone || !connection.watches(task, stream) {
            continue;
        }
        while let Some(watch) = &connection.watch {
            let from = watch.sent[stream as usize].max(held.offset);
            if !watch.started || connection.is_blocked() || from >= held.end() {
                break;
            }
            let start = (from - held.offset) as usize;
            let end = held.bytes.len().min(start + LARGEST_MESSAGE);
            connection.output(stream, from, &held.bytes[start..end]);
        }
        if let (Some(watch), false) = (&connection.watch, connection.gone) {
            let place = watch.sent[stream as usize];
            reached = Some(reached.map_or(place, |other| other.min(place)));
        }
    }
    reached
}
