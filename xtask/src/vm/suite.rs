//! The part of the test suite that runs in the VM: every xtask/vm-tests/*.sh,
//! one after the other in one boot, by guest-suite.sh.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::image::{Base, Payload};
use super::{Machine, PACKAGES, boot};
use crate::debian;
use crate::error::{Error, Result};
use crate::fixtures;
use crate::workspace::Workspace;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed, a missing one included.
    pub failed: u32,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs the tests whose name contains one of `filters`, or all. The binaries
/// must have been built.
pub fn run(workspace: &Workspace, filters: &[String]) -> Result<Tally> {
    let tests = select(workspace, filters)?;
    if tests.is_empty() {
        return Ok(Tally::default());
    }
    debian::ensure(PACKAGES)?;
    let base = Base::ensure(workspace)?;
    let mut report = String::new();
    let mut left = tests.clone();
    for boot in 1..=BOOTS {
        if boot > 1 {
            eprintln!(
                "warning: {} test(s) did not run; another VM does",
                left.len()
            );
        }
        report += &boot_with(workspace, &base, &left)?;
        left.retain(|name| !is_reported(&report, name));
        if left.is_empty() {
            break;
        }
    }
    Ok(tally(&report, tests.len()))
}

/// Emulated machines hang, rarely: what one did not come to is run by a second.
const BOOTS: u32 = 2;

/// A test has 120 s and its clean-up 40 (lib/suite); this is more.
const SILENCE_LIMIT: Duration = Duration::from_secs(240);

/// Runs these tests in one machine and returns what it reported.
fn boot_with(workspace: &Workspace, base: &Base, tests: &[String]) -> Result<String> {
    let mut payload = Payload::for_script(workspace, "exec bash /payload/suite".to_owned());
    let scripts = directory(workspace);
    payload.add(scripts.join("lib/suite"), "suite".to_owned());
    payload.add(scripts.join("lib/prelude"), "prelude".to_owned());
    let rootfs = fs::canonicalize(fixtures::busybox(workspace)?)
        .map_err(Error::at("find", &fixtures::directory(workspace)))?;
    payload.add(rootfs, "fixtures/busybox.tar".to_owned());
    for name in tests {
        payload.add(
            scripts.join(format!("{name}.sh")),
            format!("tests/{name}.sh"),
        );
    }
    let machine = Machine {
        memory: 1536,
        time_limit: Duration::from_secs(120 + 60 * tests.len() as u64),
        silence_limit: Some(SILENCE_LIMIT),
        ..Machine::default()
    };
    eprintln!("starting the VM with {} test(s)", tests.len());
    let mut report = Vec::new();
    let booted = boot::boot(workspace, base, &payload, &machine, &mut |bytes| {
        report.extend_from_slice(bytes);
        std::io::stderr().write_all(bytes)
    });
    if let Err(error) = booted {
        eprintln!("{}", crate::error::render(&error));
    }
    Ok(String::from_utf8_lossy(&report).into_owned())
}

fn is_reported(report: &str, name: &str) -> bool {
    report.lines().any(|line| {
        line.strip_prefix("vm: ok ")
            .or_else(|| line.strip_prefix("vm: FAILED "))
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(' '))
    })
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.root.join("xtask/vm-tests")
}

fn select(workspace: &Workspace, filters: &[String]) -> Result<Vec<String>> {
    let directory = directory(workspace);
    let entries = fs::read_dir(&directory).map_err(Error::at("read", &directory))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::at("read", &directory))?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".sh")) else {
            continue;
        };
        let full = format!("vm {name}");
        if filters.is_empty() || filters.iter().any(|filter| full.contains(filter.as_str())) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Reads the report of the suite. A test that the report does not mention,
/// because the machine ended first, has failed.
fn tally(report: &str, expected: usize) -> Tally {
    let count = |result: &str| {
        let prefix = format!("vm: {result} ");
        let lines = report.lines().filter(|line| line.starts_with(&prefix));
        u32::try_from(lines.count()).unwrap_or(u32::MAX)
    };
    let passed = count("ok");
    let expected = u32::try_from(expected).unwrap_or(u32::MAX);
    Tally {
        passed,
        failed: count("FAILED").max(expected.saturating_sub(passed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reported_is_not_run_again() {
        let report = "vm: ok checkpoint-memory (1 s)\nvm: FAILED memory (2 s), status 1\n";
        for (name, reported) in [
            ("checkpoint-memory", true),
            ("memory", true),
            ("checkpoint", false),
            ("cpus", false),
        ] {
            assert_eq!(is_reported(report, name), reported, "{name}");
        }
    }

    #[test]
    fn a_test_that_is_not_reported_has_failed() {
        let cases = [
            ("vm: ok a (1 s)\nvm: ok b (1 s)\n", 2, (2, 0)),
            (
                "vm: ok a (1 s)\nvm: FAILED b (1 s)\n  vm: ok c\n",
                2,
                (1, 1),
            ),
            ("vm: ok a (1 s)\n", 3, (1, 2)),
            ("", 1, (0, 1)),
        ];
        for (report, expected, (passed, failed)) in cases {
            assert_eq!(
                tally(report, expected),
                Tally { passed, failed },
                "{report}"
            );
        }
    }
}
