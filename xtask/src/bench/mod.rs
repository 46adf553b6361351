//! `bench`: figures as ratios to peers, measured in the same run.
//!
//! The measuring happens in a child of ours with mount, network and cgroup
//! namespaces of its own, where one cgroup view is all there is ([`stage`]):
//! the peers meet the same machine as we do, no link, table or mount reaches
//! the host, and nobody else's cgroup is taken for one of the run's. What the
//! run leaves (processes, cgroups, files) the outer process removes, also
//! after a failure.

mod families;
mod memory;
mod peers;
mod pull;
mod stage;
mod start;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::debian;
use crate::error::{Error, Result};
use crate::fixtures;
use crate::process;
use crate::workspace::Workspace;
use stage::View;

/// What a benchmark is told on the command line.
pub struct Settings {
    /// The cgroup view that everybody gets.
    pub view: View,
    /// How many times each command is timed.
    pub rounds: u32,
    /// How many containers stand idle.
    pub containers: u32,
    /// Whether the slow peers take part.
    pub all_peers: bool,
}

/// Tells the child the directory of this run.
const DIRECTORY: &str = "GANTRY_XTASK_BENCH";

/// Runs `bench start`, `bench memory` or `bench pull`.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let which = arguments.first();
    let pulls = which.as_deref() == Some("pull");
    let settings = Settings {
        view: match arguments.option("--cgroup")?.as_deref() {
            None => View::default_here(),
            Some("v1") => View::V1,
            Some("v2") => View::V2,
            Some(other) => {
                return Err(Error::Usage(format!("--cgroup is v1 or v2, not '{other}'")));
            }
        },
        // A start takes milliseconds, a pull seconds.
        rounds: arguments.number("--rounds", if pulls { 5 } else { 60 })?,
        containers: arguments.number("--containers", 100)?,
        all_peers: match arguments.option("--peers")?.as_deref() {
            None => false,
            Some("all") => true,
            Some(other) => {
                return Err(Error::Usage(format!("--peers takes 'all', not '{other}'")));
            }
        },
    };
    let no_build = arguments.flag("--no-build");
    arguments.finish()?;
    let measure = match which.as_deref() {
        Some("start") => start::run,
        Some("memory") => memory::run,
        Some("pull") => pull::run,
        _ => {
            let needs = "bench needs 'start', 'memory' or 'pull'";
            return Err(Error::Usage(needs.to_owned()));
        }
    };
    match std::env::var_os(DIRECTORY) {
        Some(directory) => {
            let stage = stage::enter(PathBuf::from(directory), settings.view)?;
            measure(&stage, &settings)?;
            Ok(ExitCode::SUCCESS)
        }
        None => outside(&words, &settings, no_build),
    }
}

/// Prepares what needs the whole machine, runs the child and tidies up.
fn outside(words: &[String], settings: &Settings, no_build: bool) -> Result<ExitCode> {
    if !process::is_root() {
        return Err(Error::Failed("bench needs root".to_owned()));
    }
    debian::ensure(debian::FOR_BENCHMARKS)?;
    let workspace = Workspace::locate()?;
    if !no_build {
        workspace.build_release()?;
    }
    let rootfs = fixtures::busybox(&workspace)?;
    let run = stage::Outside::make(&workspace, &rootfs, settings.view)?;
    let own = std::env::current_exe().map_err(|source| Error::Io {
        what: "cannot find this program".to_owned(),
        source,
    })?;
    let status = run
        .inside(&own)
        .args(words)
        .env(DIRECTORY, &run.directory)
        .status()
        .map_err(|source| Error::Io {
            what: "cannot run the measuring process".to_owned(),
            source,
        });
    run.tidy()?;
    Ok(match status?.code() {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
