//! The command line: from the words of a person to the code of a command and back.

pub mod containers;
pub mod exec;
pub mod flags;
pub mod image;
pub mod inspect;
pub mod logs;
pub mod network;
pub mod options;
pub mod ps;
pub mod pull;
mod refusal;
pub mod registry;
pub mod run;
pub mod start;
pub mod system;
mod tree;

use std::cell::OnceCell;
use std::path::PathBuf;

use clap::ArgMatches;

use crate::api::{Engine, Roots};
use crate::error::{CliError, ENGINE_FAILED, Outcome};
use crate::output;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// Name the program was called by: `gantry` or `docker`.
    pub program: &'static str,
    /// Command with its groups, such as `gantry container run`.
    pub command: String,
    /// Data root.
    pub data_root: PathBuf,
    /// Run root.
    pub run_root: PathBuf,
    /// Opened by the first who needs it.
    engine: OnceCell<Engine>,
}

impl Context {
    /// Opens the installation.
    ///
    /// # Errors
    /// The engine's.
    pub fn engine(&self) -> Result<&Engine, CliError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::open(self.roots())?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// Where the installation is.
    pub fn roots(&self) -> Roots {
        Roots {
            data: self.data_root.clone(),
            run: self.run_root.clone(),
        }
    }
}

/// Whether the program answers as `docker`: a symlink of that name points at it.
fn program_name(argument: Option<&str>) -> &'static str {
    let name = argument.and_then(|argument| argument.rsplit('/').next());
    if name == Some("docker") {
        "docker"
    } else {
        "gantry"
    }
}

/// Runs a command line and returns the exit code.
pub fn main(mut arguments: Vec<String>) -> u8 {
    let program = program_name(arguments.first().map(String::as_str));
    // `gantry help run` is `gantry run --help`.
    if arguments.get(1).is_some_and(|word| word == "help") {
        arguments.remove(1);
        arguments.push("--help".to_owned());
    }
    let tree = tree::build(program, arguments.get(1).map(String::as_str));
    let matches = match tree.try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let outcome = refusal::explain(program, &error, &arguments);
            return outcome.unwrap_or_else(|error| report(program, &error));
        }
    };
    let Some((path, verb, inner)) = tree::find(&matches) else {
        let outcome = without_command(program, &matches);
        return outcome.unwrap_or_else(|error| report(program, &error));
    };
    let root = |flag: &str, variable: &str, default: &str| {
        flags::text(&matches, flag)
            .map(PathBuf::from)
            .or_else(|| {
                std::env::var_os(variable)
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from)
            })
            .unwrap_or_else(|| PathBuf::from(default))
    };
    let context = Context {
        program,
        command: format!("{program} {path}"),
        data_root: root("data-root", "GANTRY_DATA_ROOT", "/var/lib/gantry"),
        run_root: root("run-root", "GANTRY_RUN_ROOT", "/run/gantry"),
        engine: OnceCell::new(),
    };
    let code = (verb.execute)(&context, inner)
        .map_err(|error| as_usage(&context, error))
        .unwrap_or_else(|error| report(program, &error));
    if let Some(engine) = context.engine.get() {
        engine.tidy();
    }
    code
}

/// What `gantry` alone and `gantry --version` do.
fn without_command(program: &'static str, matches: &ArgMatches) -> Outcome {
    if matches.get_flag("version") {
        system::print_version(program)?;
    } else {
        output::text(&refusal::tidy(
            &tree::build(program, None).render_help().to_string(),
        ))?;
    }
    Ok(0)
}

/// A refused value is an error of the command line, which names the way to the help.
fn as_usage(context: &Context, error: CliError) -> CliError {
    match error {
        error @ (CliError::Flag { .. } | CliError::Conflict(_)) => CliError::Usage {
            message: error.line(),
            command: context.command.clone(),
            code: ENGINE_FAILED,
        },
        error => error,
    }
}

/// Says what went wrong and returns the exit code.
fn report(program: &str, error: &CliError) -> u8 {
    match error {
        CliError::Exit(code) => return *code,
        CliError::NotATerminal => output::note(&error.to_string()),
        CliError::Usage {
            message, command, ..
        } => {
            output::note(&format!(
                "{program}: {message}\n\nRun '{command} --help' for more information"
            ));
        }
        _ => output::note(&format!("{program}: {}", error.line())),
    }
    if let Some(hint) = error.hint() {
        output::note(&format!("hint: {hint}"));
    }
    match error {
        CliError::Usage { code, .. } | CliError::Coded { code, .. } => *code,
        _ => 1,
    }
}

/// Reports an error of one of several objects, and goes on.
pub fn complain(context: &Context, error: impl Into<CliError>) {
    report(context.program, &error.into());
}

#[cfg(test)]
mod tests;
