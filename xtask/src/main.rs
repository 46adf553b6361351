//! Developer tasks: `cargo xtask TASK`. Nothing of the product depends on it.

mod arguments;
mod bench;
mod debian;
mod error;
mod fixtures;
mod install;
mod layers;
mod process;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use arguments::Arguments;
use error::{Error, Result};

const USAGE: &str = "\
usage: cargo xtask TASK

  test [--long] [FILTER…]      build, then run every test; with filters, those
                               whose names contain one of them
  vm [--cpus N] [--memory MB] [--time-limit SECONDS] [--no-build] -- COMMAND…
                               run a command on Debian's kernel, with cgroup v2
  vm [--no-build] --suite [FILTER…]
                               run only the tests in the VM
  fixtures                     make the root file systems that tests use
  bench start [--rounds N] [--cgroup v1|v2] [--peers all]
  bench memory [--containers N] [--cgroup v1|v2]
  bench pull [--rounds N] [--peers all]
                               measure, against peers in the same run
  layers                       check the rules between the crates
  install [--prefix DIR]       build and install (default prefix /usr/local)";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", error::render(&error));
            if matches!(error, Error::Usage(_)) {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let mut arguments = Arguments::new(std::env::args().skip(1));
    match arguments.first().as_deref() {
        Some("test") => test::run(arguments),
        Some("vm") => vm::run(arguments),
        Some("fixtures") => fixtures::run(arguments),
        Some("bench") => bench::run(arguments),
        Some("layers") => layers::run(arguments),
        Some("install") => install::run(arguments),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => Err(Error::Usage(format!("no task is called '{other}'"))),
        None => Err(Error::Usage("a task is needed".to_owned())),
    }
}
