//! `test`: everything that CI runs, closed by one line `N passed, N failed`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};

use crate::arguments::Arguments;
use crate::debian;
use crate::error::{Error, Result};
use crate::fixtures;
use crate::process;
use crate::vm::suite::{self, Tally};
use crate::workspace::{Workspace, cargo};

/// Installs what is missing, builds, runs the unit and end-to-end tests and
/// then those in the VM. With filters, only the tests whose names contain one
/// of them; `vm` selects all tests in the VM.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let long = arguments.flag("--long");
    let filters = arguments.rest()?;
    if !process::is_root() {
        eprintln!("warning: most tests make namespaces, mounts and links, and need root");
    }
    debian::ensure(debian::FOR_TESTS)?;
    let workspace = Workspace::locate()?;
    workspace.build_release()?;
    fixtures::busybox(&workspace)?;
    fixtures::debian_rootfs(&workspace)?;

    let native = if process::succeeds(cargo().args(["nextest", "--version"])) {
        nextest(&workspace, &filters, long)?
    } else {
        eprintln!("cargo-nextest is not installed; cargo test runs the tests instead");
        cargo_test(&workspace, &filters, long)?
    };
    let vm = suite::run(&workspace, &filters)?;
    let total = Tally {
        passed: native.passed + vm.passed,
        failed: native.failed + vm.failed,
    };
    println!("{total}");
    Ok(match total {
        Tally {
            passed: 0,
            failed: 0,
        } => {
            eprintln!("no test was run");
            ExitCode::FAILURE
        }
        Tally { failed: 0, .. } => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// What the tests are told about this checkout.
fn environment(command: &mut Command, workspace: &Workspace, long: bool) {
    command
        .current_dir(&workspace.root)
        .env("GANTRY_BIN_DIR", &workspace.release)
        .env("GANTRY_FIXTURES_DIR", fixtures::directory(workspace));
    if long {
        command.env("GANTRY_TEST_LONG", "1");
    }
}

fn nextest(workspace: &Workspace, filters: &[String], long: bool) -> Result<Tally> {
    // Set in .config/nextest.toml; nextest's store stays with the workspace
    // even where CARGO_TARGET_DIR says otherwise.
    let report = workspace.root.join("target/nextest/default/junit.xml");
    match fs::remove_file(&report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::at("remove", &report)(error));
        }
        _ => {}
    }
    let mut command = cargo();
    environment(&mut command, workspace, long);
    command
        .args(["nextest", "run", "--workspace", "--locked"])
        .args(["--no-fail-fast", "--no-tests", "pass"])
        .args(filters);
    let succeeded = match process::run(&mut command) {
        Ok(()) => true,
        Err(Error::Command { .. }) => false,
        Err(error) => return Err(error),
    };
    // Without tests there is no report; without a build neither.
    let text = fs::read_to_string(&report).unwrap_or_default();
    Ok(judged(junit(&text), succeeded))
}

/// A runner that failed and counted no failure could not even build.
fn judged(tally: Tally, succeeded: bool) -> Tally {
    Tally {
        failed: tally.failed.max(u32::from(!succeeded)),
        ..tally
    }
}

/// Reads the totals on the root element of a JUnit report.
fn junit(report: &str) -> Tally {
    let root = report
        .split_once("<testsuites ")
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or("", |(attributes, _)| attributes);
    let number = |name: &str| -> u32 {
        root.split_once(&format!("{name}=\""))
            .and_then(|(_, rest)| rest.split_once('"'))
            .and_then(|(value, _)| value.parse().ok())
            .unwrap_or(0)
    };
    let failed = number("failures") + number("errors");
    Tally {
        passed: number("tests").saturating_sub(failed),
        failed,
    }
}

fn cargo_test(workspace: &Workspace, filters: &[String], long: bool) -> Result<Tally> {
    let mut total = Tally::default();
    let mut succeeded = true;
    // cargo test takes one filter, so each has a run of its own.
    let none = [String::new()];
    for filter in if filters.is_empty() { &none } else { filters } {
        let mut command = cargo();
        environment(&mut command, workspace, long);
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        if !filter.is_empty() {
            command.arg(filter);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Io {
                what: format!("cannot run `{}`", process::describe(&command)),
                source,
            })?;
        let stdout = child.stdout.take();
        for line in stdout
            .into_iter()
            .flat_map(|out| BufReader::new(out).lines())
        {
            let line = line.map_err(|source| Error::Io {
                what: "cannot read the output of cargo test".to_owned(),
                source,
            })?;
            println!("{line}");
            if let Some(tally) = closing_line(&line) {
                total.passed += tally.passed;
                total.failed += tally.failed;
            }
        }
        let status = child.wait().map_err(|source| Error::Io {
            what: "cannot wait for cargo test".to_owned(),
            source,
        })?;
        succeeded &= status.success();
    }
    Ok(judged(total, succeeded))
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn closing_line(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |name: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(name)?.trim().parse().ok())
    };
    Some(Tally {
        passed: number(" passed")?,
        failed: number(" failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_from_both_runners() {
        let report = "<?xml version=\"1.0\"?>\n<testsuites name=\"nextest-run\" tests=\"7\" \
                      skipped=\"1\" failures=\"2\" errors=\"1\" time=\"0.1\">\n\
                      <testsuite name=\"x\" tests=\"7\" failures=\"2\">";
        assert_eq!(
            junit(report),
            Tally {
                passed: 4,
                failed: 3
            }
        );
        assert_eq!(junit(""), Tally::default());
        let cases = [
            (
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; finished in 0.00s",
                Some(Tally {
                    passed: 3,
                    failed: 2,
                }),
            ),
            (
                "test result: ok. 12 passed; 0 failed; 1 ignored",
                Some(Tally {
                    passed: 12,
                    failed: 0,
                }),
            ),
            ("running 3 tests", None),
        ];
        for (line, expected) in cases {
            assert_eq!(closing_line(line), expected, "{line}");
        }
    }

    #[test]
    fn a_runner_that_fails_without_counting_is_a_failure() {
        assert_eq!(judged(Tally::default(), false).failed, 1);
        assert_eq!(
            judged(
                Tally {
                    passed: 1,
                    failed: 2
                },
                false
            )
            .failed,
            2
        );
        assert_eq!(
            judged(
                Tally {
                    passed: 1,
                    failed: 0
                },
                true
            )
            .failed,
            0
        );
    }
}
