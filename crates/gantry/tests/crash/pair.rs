//! The two processes of a supervisor, and their deaths.

use std::fs;

use super::support::{Installation, wait_until};

/// Which process of the supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    Outer,
    Inner,
}

/// The processes of the only supervisor of an installation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pair {
    pub outer: i32,
    pub inner: i32,
}

impl Pair {
    pub fn part(self, part: Part) -> i32 {
        match part {
            Part::Outer => self.outer,
            Part::Inner => self.inner,
        }
    }
}

/// The parent of a process, 0 where there is no such process.
pub fn parent(pid: i32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let parent = fields.split_ascii_whitespace().nth(1);
    parent.and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// The pair, where both are there and nothing is being born.
pub fn pair(installation: &Installation) -> Option<Pair> {
    let [first, second] = installation.supervisors()[..] else {
        return None;
    };
    [(first, second), (second, first)]
        .into_iter()
        .find(|&(outer, inner)| parent(inner) == outer)
        .map(|(outer, inner)| Pair { outer, inner })
}

/// Waits for the pair.
pub fn await_pair(installation: &Installation) -> Pair {
    let mut found = None;
    wait_until("both processes of the supervisor", || {
        found = pair(installation);
        found.is_some()
    });
    found.unwrap()
}

/// Sends SIGKILL to one process.
pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // It may be dead already.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Kills one process of the supervisor and waits until it has been replaced.
pub fn strike(installation: &Installation, part: Part) {
    let old = await_pair(installation);
    let victim = old.part(part);
    kill(victim);
    wait_until("a replacement for a killed supervisor process", || {
        pair(installation).is_some_and(|new| new.outer != victim && new.inner != victim)
    });
}
