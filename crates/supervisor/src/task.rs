//! Tasks: the containers of the sandbox and the execs in them, and how the other process
//! of the supervisor learns of them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use gantry_runtime::birth::Birth;
use gantry_sys::process::WaitStatus;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::foreign::Foreign;
use crate::log::Log;
use crate::order::{BirthOrder, ExecOrder, LogOrder, PublishedPort};
use crate::protocol::{self, Stream};
use crate::stream::Output;

/// Most descriptors of one task that the other process holds too.
///
/// The kernel passes 253 at once; beyond that reserved ports of very large ranges are
/// held by the worker alone.
const MAX_PORT_FDS: usize = 200;

/// What is known of a task, besides its descriptors.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct TaskRecord {
    /// Id of the container or the exec.
    pub id: String,
    /// Id of the container that an exec is in; empty for a container.
    pub inside: String,
    /// Id of the first process.
    pub pid: i32,
    /// Its start, in clock ticks since boot.
    pub start_ticks: u64,
    /// Its start, in nanoseconds since 1970.
    pub started_at: i64,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether standard input ends with the client that feeds it.
    pub stdin_once: bool,
    /// Path of the control group.
    pub cgroup: String,
    /// Directory of its records.
    pub run_dir: PathBuf,
    /// File that asks for settling.
    pub settle_marker: PathBuf,
    /// What settles.
    pub settle_command: Vec<String>,
    /// Log.
    pub log: Option<LogOrder>,
    /// Installation whose tables hold the published ports.
    pub instance: String,
    /// Settings of the sandbox's name server, if it has one.
    #[serde(default)]
    pub dns: Option<PathBuf>,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
    /// What `ps` and its like show.
    pub summary: serde_json::Value,
    /// How it ended, as wait(2) encodes it.
    pub status: Option<i32>,
    /// What there is besides, if another runtime has started it.
    pub foreign: Option<Box<Foreign>>,
    /// Which descriptors come with the record.
    pub layout: FdLayout,
}

/// Descriptors of a record, in this order.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct FdLayout {
    stdin: bool,
    master: bool,
    network: bool,
    /// Whether the birth goes on; its channel is the last descriptor.
    birth: bool,
    /// Per output: stream, slot, and whether the source is still open.
    outputs: Vec<(u8, u32, bool)>,
    ports: usize,
}

/// A task.
#[derive(Debug)]
pub struct Task {
    /// What is known of it.
    pub record: TaskRecord,
    /// Handle of its first process.
    pub pidfd: OwnedFd,
    /// Writing end of its standard input.
    pub stdin: Option<OwnedFd>,
    /// Its terminal.
    pub master: Option<OwnedFd>,
    /// Its network namespace.
    pub network: Option<OwnedFd>,
    /// Its output.
    pub outputs: Vec<Output>,
    /// Sockets that hold its published ports.
    pub ports: Vec<OwnedFd>,
    /// Its log; of the worker only.
    pub log: Option<Log>,
    /// Its birth, while that goes on. The watcher has the channel too once all is
    /// prepared, so that the child outlives the worker and a successor gives the word.
    pub birth: Option<Birth>,
    /// Who answers for its filter; of the worker only, and until the program runs.
    pub agent: Option<Agent>,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
    /// Parts of the container's outside that were made; undone at its end.
    pub bridge_port: bool,
}

impl TaskRecord {
    /// The record of a container about to be born.
    #[must_use]
    pub fn of_container(order: &BirthOrder) -> TaskRecord {
        TaskRecord {
            id: order.container.clone(),
            terminal: order
                .spec
                .process
                .as_ref()
                .is_some_and(|process| process.terminal),
            stdin_once: order.stdin_once,
            cgroup: order.cgroup.clone(),
            run_dir: order.run_dir.clone(),
            settle_marker: order.settle_marker.clone(),
            settle_command: order.settle_command.clone(),
            log: order.log.clone(),
            summary: order.summary.clone(),
            ..TaskRecord::default()
        }
    }

    /// The record of an exec.
    #[must_use]
    pub fn of_exec(order: &ExecOrder) -> TaskRecord {
        TaskRecord {
            id: order.id.clone(),
            inside: order.container.clone(),
            terminal: order.process.terminal,
            stdin_once: true,
            ..TaskRecord::default()
        }
    }

    /// Whether it is an exec.
    #[must_use]
    pub fn is_exec(&self) -> bool {
        !self.inside.is_empty()
    }

    /// Whether its process is a helper so far, which the runtime's will take the place of.
    #[must_use]
    pub fn is_helper(&self) -> bool {
        self.foreign.is_some() && self.started_at == 0
    }

    /// Whether a process is one of those that this task lives by.
    #[must_use]
    pub fn has_process(&self, pid: i32) -> bool {
        let helper = self.foreign.as_ref().map(|foreign| foreign.helper);
        self.pid == pid || helper == Some(pid)
    }

    /// How it ended.
    #[must_use]
    pub fn wait_status(&self) -> Option<WaitStatus> {
        self.status.map(WaitStatus::from_raw)
    }
}

impl Task {
    /// A task of which nothing but the process exists.
    #[must_use]
    pub fn new(record: TaskRecord, pidfd: OwnedFd) -> Task {
        Task {
            record,
            pidfd,
            stdin: None,
            master: None,
            network: None,
            outputs: Vec::new(),
            ports: Vec::new(),
            log: None,
            birth: None,
            agent: None,
            warnings: Vec::new(),
            bridge_port: false,
        }
    }

    /// The descriptor that a client feeds: the terminal or the pipe.
    #[must_use]
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.master
            .as_ref()
            .or(self.stdin.as_ref())
            .map(AsFd::as_fd)
    }

    /// Opens the log, if the task has one. A log that cannot be opened is done without:
    /// the container matters more.
    pub fn open_log(&mut self) {
        self.log = self
            .record
            .log
            .as_ref()
            .and_then(|order| Log::open(order).ok());
    }

    /// Whether the other process was told of it, so that a birth can be taken up there. Of
    /// a helper it is told before that does anything.
    #[must_use]
    pub fn is_known_to_both(&self) -> bool {
        self.record.started_at > 0 || self.record.foreign.is_some()
    }

    /// Whether all output has been read, logged and sent.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.outputs.iter().all(|output| {
            output.source.is_none()
                && rustix::io::ioctl_fionread(&output.hold_reader).unwrap_or(0) == 0
        })
    }
}

/// What one process of the supervisor tells the other.
#[derive(Debug, Deserialize, Serialize)]
pub enum Mirror {
    /// A task is new or has changed; its descriptors come along.
    Task(Box<TaskRecord>),
    /// A task has ended, with a status as wait(2) encodes it.
    Ended {
        /// Its id.
        id: String,
        /// The status.
        status: i32,
    },
    /// Standard input of a task was closed.
    StdinClosed {
        /// Its id.
        id: String,
    },
    /// A task is gone; its exit code is kept for clients that ask again.
    Gone {
        /// Its id.
        id: String,
        /// Exit code.
        code: i32,
    },
    /// A client watches a task and must not miss any of its output.
    Attached {
        /// The task.
        task: String,
        /// The client's id.
        client: String,
        /// Whether it settles the task's end.
        settles: bool,
    },
    /// A client does so no longer.
    Detached {
        /// The client's id.
        client: String,
    },
    /// The sandbox has ended.
    Bye,
}

/// Sends one message; a task with its descriptors.
///
/// # Errors
/// The kernel's: the other process is gone.
pub fn send(socket: BorrowedFd<'_>, message: &Mirror, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let payload = serde_json::to_vec(message)?;
    let mut frame = Vec::with_capacity(payload.len() + 4);
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&payload);
    protocol::send_all(&socket, &frame, fds)
}

/// Sends the whole of a task.
///
/// # Errors
/// As [`send`].
pub fn send_task(socket: BorrowedFd<'_>, task: &mut Task) -> io::Result<()> {
    task.record.layout = FdLayout {
        stdin: task.stdin.is_some(),
        master: task.master.is_some(),
        network: task.network.is_some(),
        birth: task.birth.is_some(),
        outputs: task
            .outputs
            .iter()
            .map(|output| (output.stream as u8, output.slot, output.source.is_some()))
            .collect(),
        ports: task.ports.len().min(MAX_PORT_FDS),
    };
    let message = Mirror::Task(Box::new(task.record.clone()));
    let mut fds = vec![task.pidfd.as_fd()];
    fds.extend(
        task.stdin
            .iter()
            .chain(&task.master)
            .chain(&task.network)
            .map(AsFd::as_fd),
    );
    for output in &task.outputs {
        fds.extend([output.hold_reader.as_fd(), output.hold_writer.as_fd()]);
        fds.extend(output.source.iter().map(AsFd::as_fd));
    }
    fds.extend(task.ports.iter().take(MAX_PORT_FDS).map(AsFd::as_fd));
    fds.extend(task.birth.iter().map(Birth::as_fd));
    send(socket, &message, &fds)
}

/// Receives one message; `None` where the other process is gone.
///
/// # Errors
/// The kernel's, or `InvalidData`.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Mirror, Vec<OwnedFd>)>> {
    let mut fds = Vec::new();
    let mut head = [0u8; 4];
    if !read_exactly(socket, &mut head, &mut fds)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > protocol::MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0u8; length];
    // The other process may have died in the middle of a message, which then never was.
    if !read_exactly(socket, &mut payload, &mut fds)? {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&payload)?, fds)))
}

fn read_exactly(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<bool> {
    let mut have = 0;
    while have < buffer.len() {
        match protocol::receive_with(socket, &mut buffer[have..], fds) {
            Ok(0) => return Ok(false),
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Puts a task together from its record and the descriptors that came with it.
#[must_use]
pub fn assemble(record: TaskRecord, fds: Vec<OwnedFd>) -> Option<Task> {
    let mut fds = fds.into_iter();
    let layout = record.layout.clone();
    let mut task = Task::new(record, fds.next()?);
    if layout.stdin {
        task.stdin = Some(fds.next()?);
    }
    if layout.master {
        task.master = Some(fds.next()?);
    }
    if layout.network {
        task.network = Some(fds.next()?);
    }
    for (stream, slot, open) in layout.outputs {
        let stream = if stream == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        let (hold_reader, hold_writer) = (fds.next()?, fds.next()?);
        let source = if open { Some(fds.next()?) } else { None };
        task.outputs.push(Output {
            stream,
            source,
            hold_reader,
            hold_writer,
            slot,
        });
    }
    task.ports = fds.by_ref().take(layout.ports).collect();
    if layout.birth {
        let pidfd = task.pidfd.try_clone().ok()?;
        task.birth = Some(Birth::new(task.record.pid, pidfd, fds.next()?));
    }
    Some(task)
}

/// What both processes know: enough for either to go on alone.
#[derive(Debug, Default)]
pub struct Shared {
    /// Tasks, by id.
    pub tasks: BTreeMap<String, Task>,
    /// Exit codes of tasks that are gone, the oldest first.
    pub finished: Vec<(String, i32)>,
    /// Clients that watch: id, task, and whether they settle its end.
    pub watchers: BTreeMap<String, (String, bool)>,
}

/// Exit codes that are kept.
const MAX_FINISHED: usize = 64;

impl Shared {
    /// Notes what the other process has told.
    pub fn apply(&mut self, message: Mirror, fds: Vec<OwnedFd>) {
        match message {
            Mirror::Task(record) => {
                if let Some(task) = assemble(*record, fds) {
                    self.tasks.insert(task.record.id.clone(), task);
                }
            }
            Mirror::Ended { id, status } => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.record.status = Some(status);
                }
            }
            Mirror::StdinClosed { id } => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.stdin = None;
                }
            }
            Mirror::Gone { id, code } => self.finish(&id, code),
            Mirror::Attached {
                task,
                client,
                settles,
            } => {
                self.watchers.insert(client, (task, settles));
            }
            Mirror::Detached { client } => {
                self.watchers.remove(&client);
            }
            Mirror::Bye => {}
        }
    }

    /// Forgets a task but for its exit code.
    pub fn finish(&mut self, id: &str, code: i32) {
        self.tasks.remove(id);
        if self.finished.len() == MAX_FINISHED {
            self.finished.remove(0);
        }
        self.finished.push((id.into(), code));
    }

    /// Exit code of a task that is gone.
    #[must_use]
    pub fn exit_code(&self, id: &str) -> Option<i32> {
        self.finished
            .iter()
            .rev()
            .find(|(known, _)| known == id)
            .map(|(_, code)| *code)
    }
}
