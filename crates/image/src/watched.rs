//! A reader that says now and then how much it has read.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Least time between two reports about one object.
pub(crate) const PROGRESS_STEP: Duration = Duration::from_millis(100);

/// Passes on what `inner` yields and reports the bytes so far, at most every 100 ms and at the
/// end.
pub struct Watched<R, F> {
    inner: R,
    report: F,
    read: u64,
    reported: Instant,
    is_over: bool,
}

impl<R: Read, F: FnMut(u64)> Watched<R, F> {
    /// Watches `inner`; `report` gets the bytes that were read so far.
    pub fn new(inner: R, report: F) -> Self {
        Self {
            inner,
            report,
            read: 0,
            reported: Instant::now(),
            is_over: false,
        }
    }
}

impl<R: Read, F: FnMut(u64)> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        let ends = count == 0 && !buffer.is_empty() && !self.is_over;
        if ends || (count > 0 && self.reported.elapsed() >= PROGRESS_STEP) {
            self.is_over |= ends;
            self.reported = Instant::now();
            (self.report)(self.read);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_end_once_and_nothing_too_often() {
        let mut reports = Vec::new();
        let mut watched = Watched::new(&[7; 100_000][..], |read| reports.push(read));
        let mut total = 0;
        let mut buffer = [0; 10];
        assert_eq!(watched.read(&mut []).unwrap(), 0);
        loop {
            match watched.read(&mut buffer).unwrap() {
                0 => break,
                count => total += count,
            }
        }
        assert_eq!(watched.read(&mut buffer).unwrap(), 0);
        assert_eq!(total, 100_000);
        assert_eq!(reports.last(), Some(&100_000));
        // 10,000 reads take far less than a second.
        assert!(reports.len() < 20, "{reports:?}");
        let ends = reports.iter().filter(|read| **read == 100_000).count();
        assert_eq!(ends, 1, "{reports:?}");
    }
}
