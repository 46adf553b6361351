//! `bench memory`: what an idle container costs beyond its own program.
//!
//! First N programs sleep in namespaces and a root made with unshare, then N
//! containers sleep the same sleep. All processes count that descend from this
//! one or sit in a cgroup that was not there before, the sleeps included; the
//! difference of the two trees is ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Settings;
use super::families::{self, Id};
use super::stage::{IMAGE, Stage};
use crate::error::{Error, Result};
use crate::process;

/// The budget for private memory and page tables, in kB for each container.
const PRIVATE_BUDGET: f64 = 200.0;

/// The budget for the fall of MemAvailable, in kB for each container.
const AVAILABLE_BUDGET: f64 = 400.0;

/// What a set of processes takes, in kB.
#[derive(Clone, Copy, Debug, Default)]
struct Footprint {
    processes: u64,
    private: u64,
    page_tables: u64,
    available_fall: i64,
}

/// Measures and prints.
pub fn run(stage: &Stage, settings: &Settings) -> Result<()> {
    let count = settings.containers;
    println!(
        "bench memory: {}, {count} idle containers, Linux {}",
        settings.view.name(),
        rustix::system::uname().release().to_string_lossy(),
    );
    stage.import()?;
    // The first container makes what all share: caches, tables, directories.
    process::quietly(
        stage
            .gantry()
            .args(["run", "--rm", "--network", "none", IMAGE, "true"]),
    )?;
    families::settle(&BTreeSet::new())?;
    let mut stage = stage.clone();
    stage.remember();

    let tree = measured(&stage, |stage| {
        for _ in 0..count {
            sleep_in_namespaces(stage)?;
        }
        Ok(())
    })?;
    families::end_all();
    let containers = measured(&stage, |stage| {
        for number in 0..count {
            stage.detach(idle(stage, number))?;
        }
        Ok(())
    })?;
    let names: Vec<String> = (0..count).map(|number| format!("idle-{number}")).collect();
    process::quietly(stage.gantry().args(["rm", "-f"]).args(&names))?;
    families::settle(&BTreeSet::new())?;
    report(count, tree, containers);
    let left = stage.new_cgroups();
    match left.first() {
        None => Ok(()),
        Some(first) => Err(Error::Failed(format!(
            "{} cgroups are left, {} first",
            left.len(),
            first.display()
        ))),
    }
}

fn idle(stage: &Stage, number: u32) -> Command {
    let mut command = stage.gantry();
    command
        .args(["run", "-d", "--network", "none", "--name"])
        .arg(format!("idle-{number}"))
        .args([IMAGE, "sleep", "1000"]);
    command
}

/// Starts a sleep in all namespaces and ends the unshare that made them: it
/// becomes our child, and nothing but the sleep is left to count.
fn sleep_in_namespaces(stage: &Stage) -> Result<()> {
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork",
        ])
        .arg(format!("--root={}", stage.path("rootfs").display()))
        .args(["/bin/sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let known = families::children();
    let mut parent = command.spawn().map_err(|source| Error::Io {
        what: "cannot run `unshare`".to_owned(),
        source,
    })?;
    let own = Id::try_from(parent.id()).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(5);
    let asleep = || {
        let below = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let child = below.ok()?.split_whitespace().next()?.to_owned();
        let words = fs::read(format!("/proc/{child}/cmdline")).ok()?;
        words.starts_with(b"/bin/sleep").then_some(())
    };
    while asleep().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    // Ending it is the point; that it ended by a signal is no failure.
    let ended = parent.kill().and_then(|()| parent.wait());
    ended.map_err(|source| Error::Io {
        what: "cannot end `unshare`".to_owned(),
        source,
    })?;
    if families::children() == known {
        return Err(Error::Failed("unshare started no sleep".to_owned()));
    }
    Ok(())
}

fn measured(stage: &Stage, start: impl FnOnce(&Stage) -> Result<()>) -> Result<Footprint> {
    let before = available()?;
    start(stage)?;
    // Whoever is still starting up is not idle yet.
    std::thread::sleep(Duration::from_secs(2));
    let after = available()?;
    let mut footprint = Footprint {
        available_fall: before - after,
        ..Footprint::default()
    };
    for id in ours(stage) {
        // One that ended between the listing and here costs nothing.
        if let Some((private, page_tables)) = memory_of(id) {
            footprint.processes += 1;
            footprint.private += private;
            footprint.page_tables += page_tables;
        }
    }
    Ok(footprint)
}

/// Descendants of this process, and members of new cgroups.
fn ours(stage: &Stage) -> BTreeSet<Id> {
    let mut found = families::descendants();
    let mut pending = stage.new_cgroups();
    while let Some(group) = pending.pop() {
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().filter_map(|line| line.parse::<Id>().ok()));
        for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    found.remove(&0);
    found
}

/// Private memory and page tables of a process, in kB.
fn memory_of(id: Id) -> Option<(u64, u64)> {
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let private = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(kilobytes)
        .sum();
    let page_tables = families::status_field(id, "VmPTE")?;
    Some((private, kilobytes(&page_tables)?))
}

/// The number before `kB` in a line of /proc.
fn kilobytes(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace().rev();
    (words.next()? == "kB").then_some(())?;
    words.next()?.parse().ok()
}

/// MemAvailable in kB, with the reclaimable caches dropped: otherwise their
/// growth is most of what is seen.
fn available() -> Result<i64> {
    rustix::fs::sync();
    let caches = Path::new("/proc/sys/vm/drop_caches");
    fs::write(caches, "3").map_err(Error::at("write", caches))?;
    std::thread::sleep(Duration::from_millis(300));
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).map_err(Error::at("read", path))?;
    text.lines()
        .find(|line| line.starts_with("MemAvailable:"))
        .and_then(|line| i64::try_from(kilobytes(line)?).ok())
        .ok_or_else(|| Error::Malformed("meminfo has no MemAvailable".to_owned()))
}

fn report(count: u32, tree: Footprint, containers: Footprint) {
    let each = |total: f64| total / f64::from(count);
    println!(
        "\n{:<28} {:>10} {:>12} {:>12} {:>20}",
        "per container, in kB", "processes", "private", "page tables", "MemAvailable fell by"
    );
    for (name, found) in [
        ("unshare and sleep", tree),
        ("gantry run -d, sleep", containers),
    ] {
        println!(
            "{name:<28} {:>10.2} {:>12.1} {:>12.1} {:>20.1}",
            each(found.processes as f64),
            each(found.private as f64),
            each(found.page_tables as f64),
            each(found.available_fall as f64),
        );
    }
    let ours = |found: Footprint| (found.private + found.page_tables) as f64;
    println!(
        "\nours, private and page tables: {:.1} kB (budget {PRIVATE_BUDGET:.0})",
        each(ours(containers) - ours(tree))
    );
    println!(
        "ours, fall of MemAvailable:    {:.1} kB (budget {AVAILABLE_BUDGET:.0})",
        each((containers.available_fall - tree.available_fall) as f64)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let (private, page_tables) = memory_of(own).unwrap();
        assert!(private > 0 && page_tables > 0);
        assert_eq!(kilobytes("VmPTE:\t      44 kB"), Some(44));
        assert_eq!(kilobytes("Rss: 44"), None);
    }
}
