//! Sending a file while it is still being fetched.

use std::fs::File;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::body::read_piece;

/// How far a fetch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Bytes in the file.
    Written(u64),
    /// All of it is there and has the digest it should have.
    Verified,
    /// It will not come.
    Failed,
}

/// A part of a file that is being written, as it grows. The last byte is held back until all is
/// verified: a client never gets wrong content that looks complete.
pub(crate) struct Follower {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    size: u64,
    offset: u64,
    left: u64,
    waiting: Option<Waiting>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

type Waiting = Pin<Box<dyn Future<Output = Progress> + Send>>;

impl Follower {
    /// Follows a fetch of `size` bytes for the part from `first` on.
    pub(crate) fn new(
        file: Arc<File>,
        progress: watch::Receiver<Progress>,
        size: u64,
        first: u64,
        length: u64,
    ) -> Self {
        Self {
            file,
            progress,
            size,
            offset: first,
            left: length,
            waiting: None,
            reading: None,
        }
    }

    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            if let Some(reading) = &mut self.reading {
                let piece = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                match piece.map_err(io::Error::other).flatten() {
                    Ok(piece) => {
                        self.offset += piece.len() as u64;
                        self.left -= piece.len() as u64;
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                    Err(error) => return self.give_up(error),
                }
            }
            let (size, offset) = (self.size, self.offset);
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(beyond(self.progress.clone(), size, offset)));
            let progress = ready!(waiting.as_mut().poll(context));
            self.waiting = None;
            let readable = match progress {
                Progress::Verified => size,
                Progress::Written(written) => written.min(size.saturating_sub(1)),
                Progress::Failed => {
                    return self.give_up(io::Error::other("the upstream's content cannot be used"));
                }
            };
            let ready_bytes = self.left.min(readable - offset);
            self.reading = Some(read_piece(&self.file, offset, ready_bytes));
        }
    }

    fn give_up(&mut self, error: io::Error) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.left = 0;
        Poll::Ready(Some(Err(error)))
    }
}

/// Waits until something beyond `offset` may be sent, or the fetch has ended.
async fn beyond(mut progress: watch::Receiver<Progress>, size: u64, offset: u64) -> Progress {
    let reached = |progress: &Progress| match progress {
        Progress::Written(written) => (*written).min(size.saturating_sub(1)) > offset,
        Progress::Verified | Progress::Failed => true,
    };
    match progress.wait_for(reached).await {
        Ok(progress) => progress.clone(),
        // Whoever fetched it is gone without a word.
        Err(_) => Progress::Failed,
    }
}
