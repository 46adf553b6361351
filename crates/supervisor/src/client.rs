//! The client's side of the socket. It hides the death of a supervisor process: it
//! connects again and goes on where it was.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::order::{BirthOrder, ExecOrder};
use crate::protocol::{self, Attach, Frame, Reply, Request, Stream};
use crate::socket;

/// How long a client looks for the successor of a supervisor process.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a supervisor has to say.
#[derive(Debug)]
pub enum Event {
    /// The task runs, or the client is attached.
    Started {
        /// Id of its first process.
        pid: i32,
        /// Whether it has a terminal.
        terminal: bool,
        /// What could not be done as asked.
        warnings: Vec<String>,
        /// Where its input goes, if that was asked for.
        stdin: Option<OwnedFd>,
    },
    /// It could not be started.
    Failed {
        /// Exit code by Docker's convention.
        code: i32,
        /// Why.
        message: String,
    },
    /// Output.
    Output {
        /// Which stream.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// It has ended.
    Exited {
        /// Exit code by the shell's convention.
        code: i32,
    },
    /// The connection was made anew, on another descriptor. Nothing is there to be read
    /// yet: whoever feeds the task's input must not wait for its output.
    Resumed,
    /// The supervisor is gone, or knows nothing of the task: what became of it is in the
    /// records.
    Lost,
}

/// What the client is there for.
#[derive(Debug)]
enum Purpose {
    Start(Vec<u8>),
    Watch,
    Wait,
}

/// Gives a running container a name server with the settings in a file.
///
/// # Errors
/// The kernel's, where no supervisor lives; in its own words where it refuses.
pub fn give_names(directory: &Path, task: &str, settings: &Path) -> io::Result<()> {
    let request = protocol::encode_request(&Request::Names {
        task: task.to_owned(),
        settings: settings.to_owned(),
    })?;
    let until = Instant::now() + PATIENCE;
    loop {
        match ask_once(directory, &request) {
            Ok(Reply::Done) => return Ok(()),
            Ok(Reply::Refused { message }) => return Err(io::Error::other(message)),
            // The process at the other end has died: its successor is asked.
            Ok(_) | Err(_) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) => return Err(error),
        }
    }
}

fn ask_once(directory: &Path, request: &[u8]) -> io::Result<Reply> {
    let socket = socket::connect(directory)?;
    protocol::send_all(&socket, request, &[])?;
    let mut input = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        match protocol::decode(&mut input)? {
            Some(Frame::Reply(reply)) => return Ok(reply),
            Some(_) => {}
            None => match protocol::receive_with(socket.as_fd(), &mut buffer, &mut Vec::new())? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => input.extend_from_slice(&buffer[..read]),
            },
        }
    }
}

/// A connection to a supervisor about one task.
#[derive(Debug)]
pub struct Client {
    directory: PathBuf,
    socket: OwnedFd,
    task: String,
    attach: Attach,
    purpose: Purpose,
    started: bool,
    stdin_closed: bool,
    offsets: [u64; 2],
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Client {
    /// Orders a container over a socket that is connected already.
    ///
    /// # Errors
    /// `InvalidData` for an order that is too large.
    pub fn birth(
        directory: &Path,
        socket: OwnedFd,
        order: BirthOrder,
        attach: Attach,
    ) -> io::Result<Client> {
        let task = order.container.clone();
        let request = Request::Birth {
            order: Box::new(order),
            attach: Some(attach.clone()),
        };
        let bytes = protocol::encode_request(&request)?;
        let mut client = Client::new(directory, socket, task, attach, Purpose::Start(bytes));
        client.ask();
        Ok(client)
    }

    /// Orders an exec.
    ///
    /// # Errors
    /// The kernel's, where no supervisor lives; `InvalidData` for an order that is too large.
    pub fn exec(directory: &Path, order: ExecOrder, attach: Attach) -> io::Result<Client> {
        let socket = socket::connect(directory)?;
        let task = order.id.clone();
        let request = Request::Exec {
            order: Box::new(order),
            attach: Some(attach.clone()),
        };
        let bytes = protocol::encode_request(&request)?;
        let mut client = Client::new(directory, socket, task, attach, Purpose::Start(bytes));
        client.ask();
        Ok(client)
    }

    /// Attaches to a task that runs.
    ///
    /// # Errors
    /// The kernel's, where no supervisor lives.
    pub fn attach(directory: &Path, task: &str, attach: Attach) -> io::Result<Client> {
        let socket = socket::connect(directory)?;
        let mut client = Client::new(directory, socket, task.into(), attach, Purpose::Watch);
        client.ask();
        Ok(client)
    }

    /// Waits for the end of a task.
    ///
    /// # Errors
    /// The kernel's, where no supervisor lives.
    pub fn wait(directory: &Path, task: &str) -> io::Result<Client> {
        let socket = socket::connect(directory)?;
        let mut client = Client::new(
            directory,
            socket,
            task.into(),
            Attach::default(),
            Purpose::Wait,
        );
        client.ask();
        Ok(client)
    }

    fn new(
        directory: &Path,
        socket: OwnedFd,
        task: String,
        attach: Attach,
        purpose: Purpose,
    ) -> Client {
        Client {
            directory: directory.into(),
            socket,
            task,
            attach,
            purpose,
            started: false,
            stdin_closed: false,
            offsets: [0, 0],
            input: Vec::new(),
            fds: VecDeque::new(),
        }
    }

    /// Readable when [`Client::next_event`] would not block.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether an event is there already, whatever the descriptor says.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        let Some(head) = self.input.first_chunk::<4>() else {
            return false;
        };
        self.input.len() >= 4 + u32::from_le_bytes(*head) as usize
    }

    /// Sends what this client is there for. That the connection is broken shows when
    /// the answer is read.
    fn ask(&mut self) {
        let bytes = match &self.purpose {
            Purpose::Start(bytes) if !self.started => Ok(bytes.clone()),
            Purpose::Wait => protocol::encode_request(&Request::Wait {
                task: self.task.clone(),
            }),
            Purpose::Start(_) | Purpose::Watch => {
                let mut attach = self.attach.clone();
                if self.started {
                    attach.resume = Some(self.offsets);
                    attach.stdin = false;
                }
                protocol::encode_request(&Request::Attach {
                    task: self.task.clone(),
                    attach,
                })
            }
        };
        if let Ok(bytes) = bytes {
            let _ = protocol::send_all(&self.socket, &bytes, &[]);
        }
        if self.stdin_closed {
            // The process that was told may have died before it did anything about it.
            let request = Request::CloseStdin {
                task: self.task.clone(),
            };
            if let Ok(bytes) = protocol::encode_request(&request) {
                let _ = protocol::send_all(&self.socket, &bytes, &[]);
            }
        }
    }

    /// Ends the task's standard input.
    pub fn close_stdin(&mut self) {
        self.stdin_closed = true;
        self.send(&Request::CloseStdin {
            task: self.task.clone(),
        });
    }

    /// Sends a signal to the task's first process.
    pub fn signal(&mut self, signal: i32) {
        self.send(&Request::Signal {
            task: self.task.clone(),
            signal,
        });
    }

    fn send(&mut self, request: &Request) {
        let Ok(bytes) = protocol::encode_request(request) else {
            return;
        };
        if protocol::send_all(&self.socket, &bytes, &[]).is_err() && self.reconnect() {
            let _ = protocol::send_all(&self.socket, &bytes, &[]);
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` for what is no message.
    pub fn next_event(&mut self) -> io::Result<Event> {
        loop {
            if let Some(frame) = protocol::decode(&mut self.input)? {
                if let Some(event) = self.interpret(frame) {
                    return Ok(event);
                }
                continue;
            }
            let mut buffer = [0u8; 16 * 1024];
            let mut fds = Vec::new();
            let read = protocol::receive_with(self.socket.as_fd(), &mut buffer, &mut fds);
            self.fds.extend(fds);
            match read {
                Ok(read) if read > 0 => self.input.extend_from_slice(&buffer[..read]),
                Ok(_) | Err(_) => {
                    if !self.reconnect() {
                        return Ok(Event::Lost);
                    }
                    if self.started {
                        return Ok(Event::Resumed);
                    }
                }
            }
        }
    }

    fn interpret(&mut self, frame: Frame) -> Option<Event> {
        match frame {
            Frame::Output {
                stream,
                offset,
                bytes,
            } => {
                // What a successor sends again is left out.
                let place = &mut self.offsets[stream as usize];
                let known = place.saturating_sub(offset) as usize;
                let fresh = bytes
                    .get(known..)
                    .filter(|fresh| !fresh.is_empty())?
                    .to_vec();
                *place = offset + bytes.len() as u64;
                Some(Event::Output {
                    stream,
                    bytes: fresh,
                })
            }
            Frame::Reply(Reply::Started {
                pid,
                terminal,
                offsets,
                warnings,
            }) => {
                if self.started {
                    return Some(Event::Resumed);
                }
                self.started = true;
                self.offsets = offsets;
                let stdin = if self.attach.stdin {
                    self.fds.pop_front()
                } else {
                    None
                };
                Some(Event::Started {
                    pid,
                    terminal,
                    warnings,
                    stdin,
                })
            }
            Frame::Reply(Reply::Failed { code, message }) => Some(Event::Failed { code, message }),
            Frame::Reply(Reply::Exited { code }) => Some(Event::Exited { code }),
            Frame::Reply(Reply::Refused { .. } | Reply::Done) => Some(Event::Lost),
            Frame::Request(_) => None,
        }
    }

    /// Finds the successor of the process that was at the other end, and asks again.
    fn reconnect(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        self.input.clear();
        self.fds.clear();
        loop {
            match socket::connect(&self.directory) {
                Ok(socket) => {
                    self.socket = socket;
                    self.ask();
                    return true;
                }
                // Nobody listens: both processes are gone.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                    ) =>
                {
                    return false;
                }
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return false,
            }
        }
    }

    /// Waits until the supervisor has let go of the connection.
    pub fn wait_for_hangup(self) {
        let mut buffer = [0u8; 4096];
        let mut fds = Vec::new();
        while protocol::receive_with(self.socket.as_fd(), &mut buffer, &mut fds)
            .is_ok_and(|read| read > 0)
        {}
    }
}
