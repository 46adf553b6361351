//! Progress of a transfer: one bar per layer on a terminal, plain lines elsewhere.

use std::fmt::Write as _;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::api::ImportEvent;
use crate::api::image::archive::LoadEvent;
use crate::api::image::copy::{Arrival, CopyEvent};
use crate::api::image::digest::Digest;
use crate::api::image::pull::PullEvent;
use crate::api::image::push::PushEvent;
use crate::{output, table, terminal};

/// Least time between two drawings.
const FRAME: Duration = Duration::from_millis(100);
/// Width of a bar when there is room for it.
const BAR: usize = 50;

/// Where and how progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Quiet,
    /// A line for every step of a layer.
    Plain,
    /// Bars, drawn again and again on a terminal of this many rows and columns.
    Bars {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
}

/// What is known of one object of a transfer, often a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// In words.
    Said {
        /// The words.
        text: String,
        /// Whether nothing more happens to it.
        is_final: bool,
    },
    /// Bytes go somewhere.
    Moving {
        /// What happens to them, such as `Downloading`.
        verb: &'static str,
        /// Bytes so far.
        current: u64,
        /// Bytes in all; zero if that is not known.
        total: u64,
    },
}

impl Step {
    fn going(text: &str) -> Step {
        Step::Said {
            text: text.to_owned(),
            is_final: false,
        }
    }

    fn ended(text: impl Into<String>) -> Step {
        Step::Said {
            text: text.into(),
            is_final: true,
        }
    }

    fn is_final(&self) -> bool {
        matches!(self, Step::Said { is_final: true, .. })
    }
}

/// An event of an operation, as far as progress is concerned.
pub trait Event {
    /// The object that it is about, and what is known of that now.
    fn step(&self) -> Option<(String, Step)>;
}

fn short(id: &Digest) -> String {
    table::short_id(&id.to_string()).to_owned()
}

impl Event for PullEvent {
    fn step(&self) -> Option<(String, Step)> {
        let (id, step) = match self {
            PullEvent::LayerExists { id } => (id, Step::ended("Already exists")),
            PullEvent::LayerQueued { id, .. } => (id, Step::going("Pulling fs layer")),
            PullEvent::LayerWaiting { id } => (id, Step::going("Waiting")),
            PullEvent::LayerProgress {
                id,
                downloaded,
                total,
            } => (
                id,
                Step::Moving {
                    verb: "Downloading",
                    current: *downloaded,
                    total: *total,
                },
            ),
            PullEvent::LayerDownloaded { id } => (id, Step::going("Download complete")),
            PullEvent::LayerExtracted { id } => (id, Step::ended("Pull complete")),
            _ => return None,
        };
        Some((short(id), step))
    }
}

impl Event for PushEvent {
    fn step(&self) -> Option<(String, Step)> {
        let (id, step) = match self {
            PushEvent::Preparing { id, .. } => (id, Step::going("Preparing")),
            PushEvent::Mounted { id, from } => (id, Step::ended(format!("Mounted from {from}"))),
            PushEvent::Exists { id } => (id, Step::ended("Layer already exists")),
            PushEvent::Progress {
                id,
                uploaded,
                total,
            } => (
                id,
                Step::Moving {
                    verb: "Pushing",
                    current: *uploaded,
                    total: *total,
                },
            ),
            PushEvent::Pushed { id } => (id, Step::ended("Pushed")),
            _ => return None,
        };
        Some((short(id), step))
    }
}

impl Event for CopyEvent {
    fn step(&self) -> Option<(String, Step)> {
        let (id, step) = match self {
            CopyEvent::Preparing { id, .. } => (id, Step::going("Copying")),
            CopyEvent::Progress { id, copied, total } => (
                id,
                Step::Moving {
                    verb: "Copying",
                    current: *copied,
                    total: *total,
                },
            ),
            CopyEvent::Copied { id, arrival } => (
                id,
                Step::ended(match arrival {
                    Arrival::Existed => "Already exists",
                    Arrival::Mounted => "Mounted",
                    Arrival::Sent => "Copied",
                }),
            ),
            CopyEvent::Done { .. } => return None,
        };
        Some((short(id), step))
    }
}

/// A load, and the length of its archive if that is known.
#[derive(Debug)]
pub struct Loading(pub LoadEvent, pub Option<u64>);

impl Event for Loading {
    fn step(&self) -> Option<(String, Step)> {
        let (id, step) = match &self.0 {
            LoadEvent::Reading { read } => {
                let step = Step::Moving {
                    verb: "Reading",
                    current: *read,
                    total: self.1.unwrap_or_default(),
                };
                return Some(("Archive".to_owned(), step));
            }
            LoadEvent::LayerExists { id } => (id, Step::ended("Already exists")),
            LoadEvent::LayerProgress { id, done, total } => (
                id,
                Step::Moving {
                    verb: "Loading layer",
                    current: *done,
                    total: *total,
                },
            ),
            LoadEvent::LayerLoaded { id } => (id, Step::ended("Loaded")),
        };
        Some((short(id), step))
    }
}

impl Event for ImportEvent {
    fn step(&self) -> Option<(String, Step)> {
        match self {
            ImportEvent::Downloading { .. } => None,
            ImportEvent::Reading { read, total } => Some((
                "Archive".to_owned(),
                Step::Moving {
                    verb: "Importing",
                    current: *read,
                    total: total.unwrap_or_default(),
                },
            )),
        }
    }
}

/// Turns events into text for a terminal or a pipe.
#[derive(Debug)]
pub struct Progress {
    style: Style,
    objects: Vec<(String, Step)>,
    drawn: usize,
    last: Option<Instant>,
}

impl Progress {
    /// Progress of one operation.
    pub fn new(style: Style) -> Progress {
        Progress {
            style,
            objects: Vec::new(),
            drawn: 0,
            last: None,
        }
    }

    /// The text that an event gives at `now`; often none.
    pub fn event(&mut self, event: &impl Event, now: Instant) -> String {
        let Some((id, step)) = event.step() else {
            return String::new();
        };
        let words = match &step {
            Step::Said { text, .. } => Some(format!("{id}: {text}\n")),
            Step::Moving { .. } => None,
        };
        let is_new = match self.objects.iter_mut().find(|(other, _)| *other == id) {
            // Whoever reports it once more, it is said once.
            Some((_, old)) if *old == step => false,
            Some((_, old)) => {
                *old = step;
                true
            }
            None => {
                self.objects.push((id, step));
                true
            }
        };
        let (rows, columns) = match self.style {
            Style::Bars { rows, columns } => (rows, columns),
            Style::Plain if is_new => return words.unwrap_or_default(),
            Style::Plain | Style::Quiet => return String::new(),
        };
        // Steps are shown at once; bytes only as often as an eye can follow.
        let due = self
            .last
            .is_none_or(|last| now.duration_since(last) >= FRAME);
        if !due && words.is_none() {
            return String::new();
        }
        self.last = Some(now);
        self.draw(usize::from(rows), usize::from(columns), false)
    }

    /// The text that ends the operation: everything as it is at the end.
    pub fn finish(&mut self) -> String {
        match self.style {
            Style::Bars { columns, .. } => self.draw(usize::MAX, usize::from(columns), true),
            _ => String::new(),
        }
    }

    /// Draws the layers over those drawn before.
    ///
    /// A terminal cannot be written to above its first row, so that of more layers than rows
    /// the unfinished ones are shown and the rest is counted.
    fn draw(&mut self, rows: usize, columns: usize, last: bool) -> String {
        let mut output = String::new();
        if self.drawn > 0 {
            // Writing into a string cannot fail.
            let _ = write!(output, "\x1b[{}A\r", self.drawn);
        }
        let room = rows.saturating_sub(1).max(2);
        let mut shown: Vec<&(String, Step)> = self.objects.iter().collect();
        let mut rest = 0;
        if !last && shown.len() > room {
            shown.sort_by_key(|(_, step)| step.is_final());
            rest = shown.len() - (room - 1);
            shown.truncate(room - 1);
        }
        for (id, step) in &shown {
            let line = bar(id, step, columns);
            let _ = writeln!(
                output,
                "{}\x1b[K",
                table::ellipsis(&line, columns.max(20) - 1)
            );
        }
        if rest > 0 {
            let _ = writeln!(output, "and {rest} more layers\x1b[K");
        }
        let lines = shown.len() + usize::from(rest > 0);
        // Fewer lines than before leave old ones below.
        if lines < self.drawn {
            output.push_str("\x1b[J");
        }
        self.drawn = lines;
        output
    }
}

fn bar(id: &str, step: &Step, columns: usize) -> String {
    let (verb, current, total) = match step {
        Step::Said { text, .. } => return format!("{id}: {text}"),
        Step::Moving {
            verb,
            current,
            total,
        } => (verb, *current, *total),
    };
    if total == 0 {
        return format!("{id}: {verb} {}", table::decimal_size(current, 4));
    }
    let numbers = format!(
        "{:>7}/{}",
        table::decimal_size(current, 4),
        table::decimal_size(total, 4)
    );
    // Eight characters stand around the id, the verb, the bar and the numbers, and the last
    // column stays free: some terminals wrap as soon as it is written.
    let width = BAR.min(columns.saturating_sub(id.len() + verb.len() + numbers.len() + 9));
    if width < 5 {
        return format!("{id}: {verb} {numbers}");
    }
    let share = (u128::from(current.min(total)) * width as u128 / u128::from(total)) as usize;
    let arrow = if share < width { ">" } else { "" };
    let filled = format!("{}{arrow}", "=".repeat(share));
    format!("{id}: {verb}  [{filled:<width$}]  {numbers}")
}

/// Progress on a screen; events may come from several threads.
#[derive(Debug)]
pub struct Screen {
    fd: BorrowedFd<'static>,
    progress: Mutex<Progress>,
}

impl Screen {
    /// A screen on `fd`: bars if it is a terminal, otherwise lines.
    pub fn new(fd: BorrowedFd<'static>, is_quiet: bool) -> Screen {
        let style = match (is_quiet, terminal::size(fd)) {
            (true, _) => Style::Quiet,
            (false, Some((rows, columns))) => Style::Bars { rows, columns },
            (false, None) => Style::Plain,
        };
        Screen {
            fd,
            progress: Mutex::new(Progress::new(style)),
        }
    }

    /// A screen for bars alone: standard output or else standard error, whichever is a terminal,
    /// or none. For commands whose output is for programs.
    pub fn for_bars(is_quiet: bool) -> Screen {
        let (stdout, stderr) = (rustix::stdio::stdout(), rustix::stdio::stderr());
        let fd = match (terminal::is_terminal(stdout), terminal::is_terminal(stderr)) {
            (true, _) => stdout,
            (false, true) => stderr,
            (false, false) => return Screen::new(stderr, true),
        };
        Screen::new(fd, is_quiet)
    }

    /// Shows an event.
    pub fn show(&self, event: &impl Event) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let text = progress.event(event, Instant::now());
        // Within the lock: two drawings must not change places. Whoever stopped reading does
        // not stop the work.
        if !text.is_empty() {
            let _ = output::write_all(self.fd, text.as_bytes());
        }
    }

    /// Says a line before the first object.
    pub fn say(&self, line: &str) {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.style != Style::Quiet {
            let _ = output::write_all(self.fd, format!("{line}\n").as_bytes());
        }
    }

    /// Shows everything as it is at the end.
    pub fn finish(&self) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let text = progress.finish();
        if !text.is_empty() {
            let _ = output::write_all(self.fd, text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> Digest {
        format!("sha256:{}", format!("{number:02x}").repeat(32))
            .parse()
            .unwrap()
    }

    fn queued(number: u8) -> PullEvent {
        PullEvent::LayerQueued {
            id: id(number),
            total: 100,
        }
    }

    fn progress(downloaded: u64) -> PullEvent {
        PullEvent::LayerProgress {
            id: id(1),
            downloaded,
            total: 100,
        }
    }

    #[test]
    fn plain_lines() {
        let mut shown = Progress::new(Style::Plain);
        let now = Instant::now();
        let text: String = [
            queued(1),
            PullEvent::LayerExists { id: id(2) },
            progress(10),
            PullEvent::LayerDownloaded { id: id(1) },
            PullEvent::LayerExtracted { id: id(1) },
            PullEvent::LayerExtracted { id: id(1) },
        ]
        .iter()
        .map(|event| shown.event(event, now))
        .collect();
        assert_eq!(
            text,
            "010101010101: Pulling fs layer\n020202020202: Already exists\n\
             010101010101: Download complete\n010101010101: Pull complete\n"
        );
        assert_eq!(shown.finish(), "");
        assert_eq!(Progress::new(Style::Quiet).event(&queued(1), now), "");
    }

    #[test]
    fn bars() {
        let mut shown = Progress::new(Style::Bars {
            rows: 24,
            columns: 60,
        });
        let now = Instant::now();
        assert_eq!(
            shown.event(&queued(1), now),
            "010101010101: Pulling fs layer\x1b[K\n"
        );
        // Too soon for another frame.
        assert_eq!(shown.event(&progress(10), now), "");
        assert_eq!(
            shown.event(&progress(50), now + FRAME),
            "\x1b[1A\r010101010101: Downloading  [========>       ]      50B/100B\x1b[K\n"
        );
        assert_eq!(
            shown.event(&PullEvent::LayerExists { id: id(2) }, now + FRAME),
            "\x1b[1A\r010101010101: Downloading  [========>       ]      50B/100B\x1b[K\n\
             020202020202: Already exists\x1b[K\n"
        );
        assert_eq!(
            shown.finish(),
            "\x1b[2A\r010101010101: Downloading  [========>       ]      50B/100B\x1b[K\n\
             020202020202: Already exists\x1b[K\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in [0, 1, 20, 40, 80, 200] {
            for verb in ["Pushing", "Downloading", "Loading layer"] {
                let step = Step::Moving {
                    verb,
                    current: u64::MAX,
                    total: 7,
                };
                let line = bar("010101010101", &step, columns);
                assert!(line.len() <= columns.max(60), "{columns}: {line}");
            }
        }
    }

    #[test]
    fn more_layers_than_rows() {
        let mut shown = Progress::new(Style::Bars {
            rows: 4,
            columns: 80,
        });
        let now = Instant::now();
        shown.event(&PullEvent::LayerExists { id: id(9) }, now);
        for number in 1..5 {
            shown.event(&queued(number), now + FRAME * u32::from(number));
        }
        assert_eq!(
            shown.event(&queued(5), now + FRAME * 6),
            "\x1b[3A\r010101010101: Pulling fs layer\x1b[K\n\
             020202020202: Pulling fs layer\x1b[K\nand 4 more layers\x1b[K\n"
        );
        assert_eq!(shown.finish().lines().count(), 6);
    }

    /// Every event of every operation as a pipe and as a terminal shows it.
    #[test]
    fn steps_of_every_operation() {
        fn both(event: &impl Event) -> (String, String) {
            let now = Instant::now();
            let bars = Style::Bars {
                rows: 24,
                columns: 60,
            };
            let plain = Progress::new(Style::Plain).event(event, now);
            let drawn = Progress::new(bars).event(event, now);
            (plain, drawn.replace("\x1b[K", ""))
        }
        let id = id(1);
        let half = |verb: &str, width: usize| {
            let filled = format!("{}>", "=".repeat(width / 2));
            format!("010101010101: {verb}  [{filled:<width$}]      50B/100B\n")
        };
        let said = |text: &str| format!("010101010101: {text}\n");
        for (event, text) in [
            (PullEvent::LayerWaiting { id }, "Waiting"),
            (PullEvent::LayerDownloaded { id }, "Download complete"),
        ] {
            assert_eq!(both(&event), (said(text), said(text)), "{event:?}");
        }
        let from = "a/b".to_owned();
        for (event, text) in [
            (PushEvent::Preparing { id, total: 1 }, "Preparing"),
            (PushEvent::Mounted { id, from }, "Mounted from a/b"),
            (PushEvent::Exists { id }, "Layer already exists"),
            (PushEvent::Pushed { id }, "Pushed"),
        ] {
            assert_eq!(both(&event), (said(text), said(text)), "{event:?}");
        }
        for (event, text) in [
            (CopyEvent::Preparing { id, total: 1 }, "Copying"),
            (
                CopyEvent::Copied {
                    id,
                    arrival: Arrival::Mounted,
                },
                "Mounted",
            ),
        ] {
            assert_eq!(both(&event), (said(text), said(text)), "{event:?}");
        }
        for (event, text) in [
            (LoadEvent::LayerExists { id }, "Already exists"),
            (LoadEvent::LayerLoaded { id }, "Loaded"),
        ] {
            let shown = both(&Loading(event, None));
            assert_eq!(shown, (said(text), said(text)));
        }
        let (done, total) = (50, 100);
        let pushing = PushEvent::Progress {
            id,
            uploaded: done,
            total,
        };
        assert_eq!(both(&pushing), (String::new(), half("Pushing", 20)));
        let loading = Loading(LoadEvent::LayerProgress { id, done, total }, None);
        assert_eq!(both(&loading), (String::new(), half("Loading layer", 14)));
        let reading = |total| Loading(LoadEvent::Reading { read: 50 }, total).step();
        let importing = |total| ImportEvent::Reading { read: 50, total }.step();
        for (step, line) in [
            (reading(None), "Archive: Reading 50B"),
            (importing(None), "Archive: Importing 50B"),
            (
                importing(Some(50)),
                "Archive: Importing  [==========]      50B/50B",
            ),
        ] {
            let (name, step) = step.unwrap();
            assert_eq!(bar(&name, &step, 46), line);
        }
    }
}
