//! The command line of runc, one file a command.
//!
//! `run` is measured, so nothing is read or made that the command at hand does not need.

mod arguments;
mod attend;
mod checkpoint;
mod create;
mod criu;
mod delete;
mod error;
mod events;
mod exec;
mod features;
mod help;
mod kill;
mod list;
mod log;
mod loopback;
mod notify;
mod options;
mod ps;
mod restore;
mod run;
mod signals;
mod socket;
mod spec;
mod start;
mod state;
mod time;
mod update;

use std::process::ExitCode;

use gantry_runtime::sealed;
use gantry_runtime::spec::OCI_VERSION;

use arguments::Arguments;
use error::{CliError, Context as _};
use options::{Global, Request};

/// Exit code of a failed `exec`, as runc has it: not to be taken for the program's.
const EXEC_FAILED: u8 = 255;

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    let parsed = Arguments::new(std::env::args_os().skip(1)).and_then(|mut words| {
        let (global, request) = Global::parse(&mut words)?;
        Ok((words, global, request))
    });
    let (mut words, global, request) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("gantry-runtime: {error}; see gantry-runtime --help");
            return ExitCode::FAILURE;
        }
    };
    let command = words.word();
    let name = command.as_deref().unwrap_or_default();
    if request == Request::Version {
        println!(
            "gantry-runtime version {}\nspec: {OCI_VERSION}",
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::SUCCESS;
    }
    if request == Request::Help || matches!(name, "help" | "h" | "") {
        println!("{}", help::PROGRAM);
        return if request == Request::Help || !name.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    if words.wants_help()
        && let Some(text) = help::of(name)
    {
        println!("{text}");
        return ExitCode::SUCCESS;
    }
    match dispatch(name, &global, &mut words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let mut message = error.chain();
            if matches!(error, CliError::Usage(_)) && help::of(name).is_some() {
                message.push_str(&format!("; see gantry-runtime {name} --help"));
            }
            global.log.error(&message);
            if name == "exec" {
                ExitCode::from(EXEC_FAILED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(name: &str, global: &Global, words: &mut Arguments) -> Result<u8, CliError> {
    let sealed = || sealed::ensure().step("cannot run from a copy that is safe from containers");
    let done = |result: Result<(), CliError>| result.map(|()| 0);
    match name {
        "run" => sealed().and_then(|()| run::command(global, words)),
        "exec" => sealed().and_then(|()| exec::command(global, words)),
        "create" => sealed().and_then(|()| done(create::command(global, words))),
        "restore" => restore::command(global, words),
        "start" => done(start::command(global, words)),
        "state" => done(list::state(global, words)),
        "list" => done(list::list(global, words)),
        "ps" => done(ps::command(global, words)),
        "kill" => done(kill::command(global, words)),
        "delete" => done(delete::command(global, words)),
        "pause" => done(kill::pause(global, words)),
        "resume" => done(kill::resume(global, words)),
        "update" => done(update::command(global, words)),
        "events" => done(events::command(global, words)),
        "checkpoint" => done(checkpoint::command(global, words)),
        "spec" => done(spec::command(words)),
        "features" => done(features::command(words)),
        _ => Err(CliError::Usage(format!(
            "unknown command {name:?}; see gantry-runtime --help"
        ))),
    }
}
