//! Progress of a pull: one bar per layer on a terminal, plain lines elsewhere.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::api::image::pull::PullEvent;
use crate::table;

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

/// What is known of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Exists,
    Queued,
    Downloading { current: u64, total: u64 },
    Downloaded,
    Complete,
}

impl State {
    fn is_final(&self) -> bool {
        matches!(self, State::Exists | State::Complete)
    }
}

/// Turns events into text for a terminal or a pipe.
#[derive(Debug)]
pub struct Progress {
    style: Style,
    layers: Vec<(String, State)>,
    drawn: usize,
    last: Option<Instant>,
}

impl Progress {
    /// Progress of one pull.
    pub fn new(style: Style) -> Progress {
        Progress {
            style,
            layers: Vec::new(),
            drawn: 0,
            last: None,
        }
    }

    /// The text that an event gives at `now`; often none.
    pub fn event(&mut self, event: &PullEvent, now: Instant) -> String {
        let (id, state) = match event {
            PullEvent::LayerExists { id } => (id, State::Exists),
            PullEvent::LayerQueued { id, .. } => (id, State::Queued),
            PullEvent::LayerProgress {
                id,
                downloaded,
                total,
            } => {
                let (current, total) = (*downloaded, *total);
                (id, State::Downloading { current, total })
            }
            PullEvent::LayerDownloaded { id } => (id, State::Downloaded),
            PullEvent::LayerExtracted { id } => (id, State::Complete),
            _ => return String::new(),
        };
        let id = table::short_id(&id.to_string()).to_owned();
        let step = !matches!(state, State::Downloading { .. });
        let text = match (self.style, plain(&state)) {
            (Style::Plain, Some(word)) => format!("{id}: {word}\n"),
            _ => String::new(),
        };
        match self.layers.iter_mut().find(|(other, _)| *other == id) {
            Some((_, old)) => *old = state,
            None => self.layers.push((id, state)),
        }
        let Style::Bars { rows, columns } = self.style else {
            return text;
        };
        // Steps are shown at once; bytes only as often as an eye can follow.
        let due = self
            .last
            .is_none_or(|last| now.duration_since(last) >= FRAME);
        if !due && !step {
            return String::new();
        }
        self.last = Some(now);
        self.draw(usize::from(rows), usize::from(columns), false)
    }

    /// The text that ends the pull: all layers as they are at the end.
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
        let mut shown: Vec<&(String, State)> = self.layers.iter().collect();
        let mut rest = 0;
        if !last && shown.len() > room {
            shown.sort_by_key(|(_, state)| state.is_final());
            rest = shown.len() - (room - 1);
            shown.truncate(room - 1);
        }
        for (id, state) in &shown {
            let line = bar(id, state, columns);
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

fn plain(state: &State) -> Option<&'static str> {
    match state {
        State::Exists => Some("Already exists"),
        State::Queued => Some("Pulling fs layer"),
        State::Downloading { .. } => None,
        State::Downloaded => Some("Download complete"),
        State::Complete => Some("Pull complete"),
    }
}

fn bar(id: &str, state: &State, columns: usize) -> String {
    let State::Downloading { current, total } = state else {
        return format!("{id}: {}", plain(state).unwrap_or_default());
    };
    let numbers = format!(
        "{:>7}/{}",
        table::decimal_size(*current, 4),
        table::decimal_size(*total, 4)
    );
    // 19 characters stand around the id, the bar and the numbers, and the last column stays
    // free: some terminals wrap as soon as it is written.
    let width = BAR.min(columns.saturating_sub(id.len() + numbers.len() + 20));
    if width < 5 || *total == 0 {
        return format!("{id}: Downloading {numbers}");
    }
    let share = (u128::from((*current).min(*total)) * width as u128 / u128::from(*total)) as usize;
    let arrow = if share < width { ">" } else { "" };
    let filled = format!("{}{arrow}", "=".repeat(share));
    format!("{id}: Downloading  [{filled:<width$}]  {numbers}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::image::digest::Digest;

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
            let state = State::Downloading {
                current: u64::MAX,
                total: 7,
            };
            let line = bar("010101010101", &state, columns);
            assert!(line.len() <= columns.max(60), "{columns}: {line}");
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
}
