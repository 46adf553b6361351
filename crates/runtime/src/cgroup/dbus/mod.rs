//! A client of D-Bus (D-Bus Specification 0.43), as little of it as systemd needs: calls,
//! their replies, and the signals that come in between, one at a time.
//!
//! The peer is a bus, or systemd itself on its private socket, which is a connection
//! without a bus between: no `Hello`, no match rules, all signals come.

mod wire;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

pub(super) use wire::{Kind, Message, Value};

/// How long a peer is waited for; systemd's own clients wait as long.
const PATIENCE: Duration = Duration::from_secs(25);

/// The longest message, as the specification has it (128 MiB), is no answer that systemd
/// gives to us.
const MAX_MESSAGE: usize = 1 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum DbusError {
    /// The socket could not be connected to.
    #[error("cannot connect to {path}")]
    Connect {
        /// Path of the socket.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The peer did not let us in.
    #[error("the peer refused the authentication: {answer:?}")]
    Authentication {
        /// What it said.
        answer: String,
    },
    /// The connection broke.
    #[error("cannot {operation} the bus")]
    Io {
        /// What was attempted: "read from" or "write to".
        operation: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The peer sent something that is no message.
    #[error("malformed message: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The peer answered a call with an error.
    #[error("{name}: {message}")]
    Refused {
        /// Name of the error, such as `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// Its text.
        message: String,
    },
}

/// A connection that calls can be made on.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    serial: u32,
    /// Read from the socket and not taken yet.
    buffer: Vec<u8>,
    /// Signals that came while a reply was waited for.
    signals: Vec<Message>,
    has_bus: bool,
}

impl Connection {
    /// Connects to a socket and authenticates as the caller's user, as `SASL EXTERNAL`
    /// does: the peer believes the kernel.
    pub(super) fn open(path: &Path, has_bus: bool) -> Result<Connection, DbusError> {
        let socket = open_socket(path).map_err(|error| DbusError::Connect {
            path: path.display().to_string(),
            source: error.into(),
        })?;
        let mut connection = Connection {
            socket,
            serial: 0,
            buffer: Vec::new(),
            signals: Vec::new(),
            has_bus,
        };
        connection.authenticate()?;
        if has_bus {
            let hello = Message::call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "Hello",
                vec![],
            );
            connection.call(hello)?;
        }
        Ok(connection)
    }

    /// Whether a bus is between us and the peer.
    pub(super) fn has_bus(&self) -> bool {
        self.has_bus
    }

    fn authenticate(&mut self) -> Result<(), DbusError> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        // The zero byte is where credentials once travelled. BEGIN goes along, as systemd's
        // own clients send it: sent after the answer it could reach systemd together with
        // the first call, which systemd 252 then leaves in its buffer until more comes.
        self.send(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        let line = loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                break String::from_utf8_lossy(&line[..end]).into_owned();
            }
            if self.buffer.len() > 4096 {
                return Err(DbusError::Malformed {
                    reason: "the answer to the authentication does not end",
                });
            }
            self.receive(deadline)?;
        };
        if !line.starts_with("OK ") {
            return Err(DbusError::Authentication { answer: line });
        }
        Ok(())
    }

    /// Makes a call and waits for its reply.
    pub(super) fn call(&mut self, mut message: Message) -> Result<Vec<Value>, DbusError> {
        self.serial += 1;
        message.serial = self.serial;
        // A bus knows who is meant by the destination; systemd itself needs none.
        if !self.has_bus {
            message.destination = None;
        }
        self.send(&message.encode())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.next(deadline)?;
            match message.kind {
                Kind::Signal => self.signals.push(message),
                Kind::Return if message.reply_serial == Some(self.serial) => {
                    return Ok(message.body);
                }
                Kind::Error if message.reply_serial == Some(self.serial) => {
                    let text = match message.body.first() {
                        Some(Value::String(text)) => text.clone(),
                        _ => String::new(),
                    };
                    return Err(DbusError::Refused {
                        name: message.error_name.unwrap_or_default(),
                        message: text,
                    });
                }
                _ => {}
            }
        }
    }

    /// Waits for a signal that `wanted` takes. Others are dropped.
    pub(super) fn wait_for_signal<T>(
        &mut self,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> Result<T, DbusError> {
        for message in std::mem::take(&mut self.signals) {
            if let Some(found) = wanted(&message) {
                return Ok(found);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.next(deadline)?;
            if message.kind == Kind::Signal
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<Message, DbusError> {
        loop {
            if let Some(length) = wire::message_length(&self.buffer)? {
                if length > MAX_MESSAGE {
                    return Err(DbusError::Malformed {
                        reason: "it is too long",
                    });
                }
                if self.buffer.len() >= length {
                    let message = Message::decode(&self.buffer[..length]);
                    self.buffer.drain(..length);
                    return message;
                }
            }
            self.receive(deadline)?;
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), DbusError> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(DbusError::Io {
                        operation: "write to",
                        source: error.into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds what has come to the buffer.
    fn receive(&mut self, deadline: Instant) -> Result<(), DbusError> {
        let failed = |source: io::Error| DbusError::Io {
            operation: "read from",
            source,
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            let wait = rustix::time::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut files = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
            match poll(&mut files, Some(&wait)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed(error.into())),
            }
            let mut chunk = [0_u8; 4096];
            match recv(&self.socket, &mut chunk[..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok((count, _)) => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

fn open_socket(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
