//! Messages on the supervisor's socket.
//!
//! A frame is a little-endian length (4 bytes, of what follows), a kind (1 byte) and a
//! payload. Descriptors travel with the first byte of the frame that speaks of them.
//! Requests may be sent again after a connection broke: births and execs are known by
//! their ids, and output carries its place in the stream.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::order::{BirthOrder, ExecOrder};

/// Longest frame, in bytes. An order with a large environment fits; nothing endless does.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// What a client asks.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Start a container.
    Birth {
        /// The container.
        order: Box<BirthOrder>,
        /// Stay attached to it.
        attach: Option<Attach>,
    },
    /// Start a further process in a container.
    Exec {
        /// The process.
        order: Box<ExecOrder>,
        /// Stay attached to it.
        attach: Option<Attach>,
    },
    /// Attach to a container or an exec.
    Attach {
        /// Its id.
        task: String,
        /// How.
        attach: Attach,
    },
    /// End a task's standard input.
    CloseStdin {
        /// Its id.
        task: String,
    },
    /// Tell when a container or an exec has ended.
    Wait {
        /// Its id.
        task: String,
    },
    /// Send a signal to an exec.
    Signal {
        /// Its id.
        task: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Have names looked up for a container that runs, by the settings in a file.
    Names {
        /// Its id.
        task: String,
        /// The file.
        settings: PathBuf,
    },
}

/// How a client attaches.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Attach {
    /// The client's own id, by which it is known again after its connection broke.
    pub client: String,
    /// Whether it wants the writing end of standard input.
    pub stdin: bool,
    /// Whether it wants standard output.
    pub stdout: bool,
    /// Whether it wants standard error.
    pub stderr: bool,
    /// Places in standard output and error from which it goes on, if it goes on.
    pub resume: Option<[u64; 2]>,
    /// Whether it settles the container's end itself.
    pub settles: bool,
}

/// What the supervisor answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// What was asked has been done.
    Done,
    /// The task runs, or the client is attached. The descriptor of standard input comes along.
    Started {
        /// Id of the first process, on the host.
        pid: i32,
        /// Whether there is a terminal.
        terminal: bool,
        /// Places in the streams at which output begins.
        offsets: [u64; 2],
        /// What was asked for and is not possible here.
        warnings: Vec<String>,
    },
    /// The task could not be started.
    Failed {
        /// Exit code by Docker's convention.
        code: i32,
        /// Why.
        message: String,
    },
    /// The task has ended, and all output before it was sent.
    Exited {
        /// Exit code by the shell's convention.
        code: i32,
    },
    /// The request makes no sense here.
    Refused {
        /// Why.
        message: String,
    },
}

/// One of the two output streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

/// A frame as it was read.
#[derive(Debug)]
pub enum Frame {
    /// A request.
    Request(Request),
    /// An answer.
    Reply(Reply),
    /// Output.
    Output {
        /// Which stream.
        stream: Stream,
        /// Place of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

const REQUEST: u8 = 0;
const REPLY: u8 = 1;
const OUTPUT: u8 = 2;

/// Encodes a request.
///
/// # Errors
/// `InvalidData` for what JSON cannot hold.
pub fn encode_request(request: &Request) -> io::Result<Vec<u8>> {
    encode(REQUEST, &serde_json::to_vec(request)?)
}

/// Encodes an answer.
///
/// # Errors
/// `InvalidData` for what JSON cannot hold.
pub fn encode_reply(reply: &Reply) -> io::Result<Vec<u8>> {
    encode(REPLY, &serde_json::to_vec(reply)?)
}

/// Encodes output.
#[must_use]
pub fn encode_output(stream: Stream, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes.len() + 14);
    frame.extend_from_slice(&(bytes.len() as u32 + 10).to_le_bytes());
    frame.push(OUTPUT);
    frame.push(stream as u8);
    frame.extend_from_slice(&offset.to_le_bytes());
    frame.extend_from_slice(bytes);
    frame
}

fn encode(kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    if payload.len() >= MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message is too long",
        ));
    }
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.extend_from_slice(&(payload.len() as u32 + 1).to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// Takes the first whole frame off `buffer`; `None` where more bytes are needed.
///
/// # Errors
/// `InvalidData` for what is no frame.
pub fn decode(buffer: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "malformed message");
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(invalid());
    }
    let Some(body) = buffer.get(4..4 + length) else {
        return Ok(None);
    };
    let (kind, payload) = body.split_first().ok_or_else(invalid)?;
    let frame = match *kind {
        REQUEST => Frame::Request(serde_json::from_slice(payload)?),
        REPLY => Frame::Reply(serde_json::from_slice(payload)?),
        OUTPUT => {
            let (head, bytes) = payload.split_first_chunk::<9>().ok_or_else(invalid)?;
            let stream = match head[0] {
                0 => Stream::Stdout,
                1 => Stream::Stderr,
                _ => return Err(invalid()),
            };
            let mut offset = [0u8; 8];
            offset.copy_from_slice(&head[1..]);
            Frame::Output {
                stream,
                offset: u64::from_le_bytes(offset),
                bytes: bytes.to_vec(),
            }
        }
        _ => return Err(invalid()),
    };
    buffer.drain(..4 + length);
    Ok(Some(frame))
}

/// Sends bytes with descriptors; returns how many bytes went.
///
/// # Errors
/// The kernel's.
pub fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    loop {
        match rustix::net::sendmsg(
            socket,
            &[io::IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Receives bytes and descriptors; 0 bytes mean the end.
///
/// # Errors
/// The kernel's.
pub fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let received = loop {
        match rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(received.bytes)
}

/// Sends a whole frame on a blocking socket.
///
/// # Errors
/// The kernel's.
pub fn send_all(socket: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = send_with(socket.as_fd(), bytes, fds)?;
    while sent < bytes.len() {
        sent += send_with(socket.as_fd(), &bytes[sent..], &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let mut bytes = encode_output(Stream::Stderr, 1 << 40, b"text");
        bytes.extend(encode_request(&Request::Wait { task: "abc".into() }).unwrap());
        let rest = bytes.split_off(bytes.len() - 3);
        let Some(Frame::Output {
            stream,
            offset,
            bytes: text,
        }) = decode(&mut bytes).unwrap()
        else {
            panic!("no output");
        };
        assert_eq!(
            (stream, offset, &text[..]),
            (Stream::Stderr, 1 << 40, &b"text"[..])
        );
        assert!(decode(&mut bytes).unwrap().is_none());
        bytes.extend(rest);
        assert!(matches!(
            decode(&mut bytes).unwrap(),
            Some(Frame::Request(Request::Wait { .. }))
        ));
    }

    #[test]
    fn malformed_frames_are_refused() {
        for bytes in [
            &[0u8, 0, 0, 0][..],
            &[1, 0, 0, 0, 9],
            &[3, 0, 0, 0, 2, 7, 7],
            &[255, 255, 255, 255],
            &[2, 0, 0, 0, 0, b'{'],
        ] {
            assert!(decode(&mut bytes.to_vec()).is_err(), "{bytes:?}");
        }
    }
}
