//! Who descends from this process. It is made a child subreaper, so whatever
//! loses its parent becomes its child, and nothing that a benchmark started
//! can hide.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

use crate::error::{Error, Result};

/// A process id.
pub type Id = i32;

/// From now on orphans of this process's family become its children.
pub fn adopt_orphans() -> Result<()> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).map_err(|errno| Error::Io {
        what: "cannot become a child subreaper".to_owned(),
        source: errno.into(),
    })
}

/// The children of this process right now. Needs to be called on the main
/// thread, which is the only one of a benchmark.
pub fn children() -> BTreeSet<Id> {
    fs::read_to_string("/proc/thread-self/children")
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Reaps until no child is left but those of `known`, and returns how long
/// that took. What is still there after ten seconds is an error.
pub fn settle(known: &BTreeSet<Id>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let strangers: Vec<Id> = children().difference(known).copied().collect();
        if strangers.is_empty() {
            return Ok(start.elapsed());
        }
        for id in &strangers {
            if let Some(pid) = Pid::from_raw(*id) {
                // Not yet dead, or reaped already: both show in `children`.
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        if start.elapsed() > Duration::from_secs(10) {
            let names: Vec<String> = strangers.iter().map(|id| describe(*id)).collect();
            return Err(Error::Failed(format!(
                "still there 10 s after the command: {}",
                names.join(", ")
            )));
        }
        // Short enough to cost no accuracy; see `stage::enter` on the slack.
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// All descendants of this process.
pub fn descendants() -> BTreeSet<Id> {
    let mut by_parent: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    for id in everybody() {
        if let Some(parent) = parent(id) {
            by_parent.entry(parent).or_default().push(id);
        }
    }
    let mut found = BTreeSet::new();
    let mut pending = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(id) = pending.pop() {
        for child in by_parent.get(&id).into_iter().flatten() {
            if found.insert(*child) {
                pending.push(*child);
            }
        }
    }
    found
}

/// Ends all descendants, and what they start meanwhile, and reaps them.
pub fn end_all() {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let family = descendants();
        if family.is_empty() || Instant::now() > deadline {
            return;
        }
        for id in family {
            if let Some(pid) = Pid::from_raw(id) {
                // A supervisor's other half may be faster; the loop decides.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every process of the machine.
pub fn everybody() -> Vec<Id> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// A field of /proc/ID/status.
pub fn status_field(id: Id, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    text.lines().find_map(|line| {
        Some(
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .to_owned(),
        )
    })
}

fn parent(id: Id) -> Option<Id> {
    status_field(id, "PPid")?.parse().ok()
}

/// A process for a message.
pub fn describe(id: Id) -> String {
    let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&words).replace('\0', " ");
    format!("{id} ({})", text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_grandchild_descends_from_us_and_ends_with_us() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut grandchild = None;
        while grandchild.is_none() && Instant::now() < deadline {
            grandchild = descendants()
                .into_iter()
                .find(|found| parent(*found) == Some(id));
        }
        let grandchild = grandchild.expect("the shell starts its sleep within seconds");
        assert!(describe(grandchild).contains("sleep 60"));
        rustix::process::kill_process(Pid::from_raw(grandchild).unwrap(), Signal::KILL).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
