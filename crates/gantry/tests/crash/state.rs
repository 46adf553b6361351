//! What is there after a death, and whether it may be.

use std::process::Command;
use std::time::{Duration, Instant};

use super::support::{Installation, text};

/// A container as `ps -a` shows it.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub state: String,
}

/// Runs exactly one command, which also tells what containers there are.
pub fn next_command(installation: &Installation) -> Result<Vec<Row>, String> {
    let output = installation.gantry(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}"]);
    if !output.status.success() {
        return Err(format!("the next command failed: {}", text(&output.stderr)));
    }
    let listing = text(&output.stdout);
    let row = |line: &str| {
        let (id, state) = line.split_once(' ').unwrap();
        Row {
            id: id.into(),
            state: state.into(),
        }
    };
    Ok(listing.lines().map(row).collect())
}

/// What is there and belongs to none of the containers, in view of their states.
pub fn leaks(installation: &Installation, rows: &[Row]) -> Vec<String> {
    let mut found = installation.remains();
    found.extend(leases(installation));
    found.retain(|found| !rows.iter().any(|row| is_legitimate(found, row)));
    found
}

fn is_legitimate(found: &str, row: &Row) -> bool {
    let (kind, what) = found.split_once(' ').unwrap_or((found, ""));
    let running = row.state == "running";
    match kind {
        "data" => what.ends_with(&row.id),
        "supervisor" => {
            let line = std::fs::read_to_string(format!("/proc/{what}/cmdline")).unwrap_or_default();
            running && line.contains(&row.id)
        }
        "link" => running && what.contains(&row.id[..12]),
        "published" => running,
        "cgroup" | "run" | "name" | "sandbox" | "lease" => running && what.contains(&row.id),
        _ => false,
    }
}

/// Addresses that are leased. The product has no command for it; where there is no
/// sqlite3 the question stays open.
fn leases(installation: &Installation) -> Vec<String> {
    let output = Command::new("sqlite3")
        .arg("-readonly")
        .arg(installation.data.join("state.db"))
        .arg("SELECT sandbox FROM leases")
        .output();
    let listing = output
        .map(|output| text(&output.stdout))
        .unwrap_or_default();
    listing
        .lines()
        .map(|sandbox| format!("lease {sandbox}"))
        .collect()
}

/// The leaks that stay: a supervisor that has said its last word may need a moment.
pub fn lasting_leaks(installation: &Installation, rows: &[Row]) -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let found = leaks(installation, rows);
        if found.is_empty() || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether something is there that no process has and no container needs: a mark that
/// nobody holds, or what lies around beside no record. Counted before the next command,
/// for the report only.
pub fn leaves_something(installation: &Installation) -> bool {
    let remains = installation.remains();
    let records = remains.iter().filter(|found| found.starts_with("run "));
    let alive = records.count() > 0 && !installation.supervisors().is_empty();
    remains.iter().any(|found| found.starts_with("mark "))
        || (!alive && remains.iter().any(|found| !found.starts_with("data ")))
}
