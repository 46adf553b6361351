//! Connections of clients.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::protocol::{self, Attach, Frame, Reply, Stream};

/// What a connection watches.
#[derive(Debug)]
pub struct Watch {
    /// The task.
    pub task: String,
    /// How.
    pub attach: Attach,
    /// Places in the streams up to which everything was handed to the kernel.
    pub sent: [u64; 2],
    /// Whether the start was answered, so that output may follow.
    pub started: bool,
}

/// Bytes on their way to a client.
#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    /// Descriptor that goes with the first byte.
    fd: Option<OwnedFd>,
    /// Place that is reached once the bytes have gone.
    reaches: Option<(usize, u64)>,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    output: VecDeque<Chunk>,
    /// What it watches.
    pub watch: Option<Watch>,
    /// Tasks whose end it waits for.
    pub waits: Vec<String>,
    /// Whether the client is gone.
    pub gone: bool,
    /// Whether nothing follows what is queued.
    pub finished: bool,
}

impl Connection {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(socket: OwnedFd) -> io::Result<Connection> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Connection {
            socket,
            input: Vec::new(),
            output: VecDeque::new(),
            watch: None,
            waits: Vec::new(),
            gone: false,
            finished: false,
        })
    }

    /// The socket.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether bytes wait for room in the socket.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether it can be closed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.gone || (self.finished && !self.is_blocked())
    }

    /// Reads what has arrived and returns the whole requests in it.
    pub fn read(&mut self) -> Vec<protocol::Request> {
        let mut requests = Vec::new();
        let mut buffer = [0u8; 16 * 1024];
        let mut fds = Vec::new();
        loop {
            match protocol::receive_with(self.socket.as_fd(), &mut buffer, &mut fds) {
                Ok(0) => {
                    self.gone = true;
                    break;
                }
                Ok(read) => self.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        loop {
            match protocol::decode(&mut self.input) {
                Ok(Some(Frame::Request(request))) => requests.push(request),
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        requests
    }

    /// Queues an answer.
    pub fn reply(&mut self, reply: &Reply, fd: Option<OwnedFd>) {
        match protocol::encode_reply(reply) {
            Ok(bytes) => self.queue(Chunk {
                bytes,
                sent: 0,
                fd,
                reaches: None,
            }),
            Err(_) => self.gone = true,
        }
    }

    /// Queues output, if none is on its way.
    pub fn output(&mut self, stream: Stream, offset: u64, bytes: &[u8]) {
        let reaches = Some((stream as usize, offset + bytes.len() as u64));
        let bytes = protocol::encode_output(stream, offset, bytes);
        self.queue(Chunk {
            bytes,
            sent: 0,
            fd: None,
            reaches,
        });
    }

    fn queue(&mut self, chunk: Chunk) {
        self.output.push_back(chunk);
        self.flush();
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) {
        while let Some(chunk) = self.output.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = chunk.fd.iter().map(AsFd::as_fd).collect();
            match protocol::send_with(self.socket.as_fd(), &chunk.bytes[chunk.sent..], &fds) {
                Ok(sent) => {
                    chunk.sent += sent;
                    chunk.fd = None;
                    if chunk.sent < chunk.bytes.len() {
                        continue;
                    }
                    if let (Some((stream, place)), Some(watch)) = (chunk.reaches, &mut self.watch) {
                        watch.sent[stream] = place;
                    }
                    self.output.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    /// Whether it watches this stream of this task.
    #[must_use]
    pub fn watches(&self, task: &str, stream: Stream) -> bool {
        self.watch.as_ref().is_some_and(|watch| {
            watch.task == task
                && match stream {
                    Stream::Stdout => watch.attach.stdout,
                    Stream::Stderr => watch.attach.stderr,
                }
        })
    }
}
