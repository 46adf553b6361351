//! Bodies: what the server sends, and how it takes in what clients send, both with bounded
//! memory and without a thread that waits for a slow peer.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::follow::Follower;

/// Bytes of a file that are read at once: two such pieces are in memory for each download.
const PIECE: usize = 128 << 10;
/// Bytes of an upload that are hashed and written at once: two such batches are in memory.
pub(crate) const BATCH: usize = 256 << 10;
/// A client sends at least this many bytes in each [`Patience::idle`], or is given up.
const LEAST_PROGRESS: usize = 64 << 10;
/// A body that is kept in memory has to be there after this many times [`Patience::idle`].
const WHOLE: u32 = 4;

/// The body of a response.
pub(crate) enum ServerBody {
    /// Bytes in memory.
    Full(Option<Bytes>),
    /// A part of a file.
    File(FileBody),
    /// A file that is still being fetched.
    Follow(Box<Follower>),
}

impl ServerBody {
    pub(crate) fn empty() -> Self {
        Self::Full(None)
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }

    pub(crate) fn file(file: File, first: u64, length: u64) -> Self {
        Self::File(FileBody {
            file: Arc::new(file),
            offset: first,
            left: length,
            reading: None,
        })
    }
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File(file) => file.poll(context),
            Self::Follow(follower) => follower.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::File(file) => file.left == 0,
            Self::Follow(follower) => follower.left() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Full(bytes) => bytes.as_ref().map_or(0, Bytes::len) as u64,
            Self::File(file) => file.left,
            Self::Follow(follower) => follower.left(),
        })
    }
}

/// A part of a file, read ahead by one piece.
pub(crate) struct FileBody {
    file: Arc<File>,
    offset: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let reading = match &mut self.reading {
            Some(reading) => reading,
            empty => empty.insert(read_piece(&self.file, self.offset, self.left)),
        };
        let piece = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let piece = match piece.map_err(io::Error::other).flatten() {
            Ok(piece) => piece,
            Err(error) => {
                self.left = 0;
                return Poll::Ready(Some(Err(error)));
            }
        };
        self.offset += piece.len() as u64;
        self.left -= piece.len() as u64;
        if self.left > 0 {
            self.reading = Some(read_piece(&self.file, self.offset, self.left));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// Reads up to a piece at `offset` on a thread that may block.
pub(crate) fn read_piece(
    file: &Arc<File>,
    offset: u64,
    left: u64,
) -> JoinHandle<io::Result<Bytes>> {
    let file = Arc::clone(file);
    let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
    tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; length];
        file.read_exact_at(&mut piece, offset)?;
        Ok(Bytes::from(piece))
    })
}

/// How long the server waits for a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For 64 KiB of a body, or its end.
    pub(crate) idle: Duration,
}

/// A request's body on its way in.
pub(crate) struct Reception {
    body: Incoming,
    patience: Patience,
    window_ends: Instant,
    in_window: usize,
}

impl Reception {
    pub(crate) fn new(body: Incoming, patience: Patience) -> Self {
        Self {
            body,
            patience,
            window_ends: Instant::now() + patience.idle,
            in_window: 0,
        }
    }

    /// The announced length in bytes, if it was.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; `None` at the end. A client that sends next to nothing for a while is
    /// told so, however regularly it does.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let frame = tokio::time::timeout_at(self.window_ends, self.body.frame())
                .await
                .map_err(|_| Fault::timed_out())?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|_| Fault::body_broke_off())?;
            // Trailers are of no interest.
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            self.in_window += bytes.len();
            if self.in_window >= LEAST_PROGRESS {
                self.in_window = 0;
                self.window_ends = Instant::now() + self.patience.idle;
            }
            return Ok(Some(bytes));
        }
    }

    /// Up to a batch of bytes; empty at the end. When the body breaks off, what came before is
    /// returned first, and the error with the next call.
    pub(crate) async fn batch(&mut self) -> (Bytes, Option<Fault>) {
        // Copied together: each of the client's chunks takes a hundred bytes and more by itself,
        // and keeps all of the buffer that it was received into.
        let mut batch = BytesMut::new();
        // The time that our own disk took is not the client's.
        self.window_ends = Instant::now() + self.patience.idle;
        while batch.len() < BATCH {
            match self.next().await {
                Ok(Some(bytes)) => batch.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(fault) => return (batch.freeze(), Some(fault)),
            }
        }
        (batch.freeze(), None)
    }

    /// The whole body, which may have `limit` bytes.
    pub(crate) async fn whole(self, limit: u64) -> Result<Vec<u8>, Fault> {
        let patience = self.patience.idle * WHOLE;
        tokio::time::timeout(patience, self.collected(limit))
            .await
            .map_err(|_| Fault::timed_out())?
    }

    async fn collected(mut self, limit: u64) -> Result<Vec<u8>, Fault> {
        if self.announced().is_some_and(|length| length > limit) {
            return Err(Fault::manifest_too_large(limit));
        }
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            whole.extend_from_slice(&bytes);
            if whole.len() as u64 > limit {
                return Err(Fault::manifest_too_large(limit));
            }
        }
        Ok(whole)
    }
}
