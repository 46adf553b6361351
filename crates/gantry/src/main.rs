//! The command line of Gantry: parse, call the engine, render.
//!
//! Start reading at [`cli`]: it holds the tree of commands. [`session`] is the loop of an
//! attached container; [`parse`] holds the grammars of values; [`listing`], [`table`],
//! [`template`] and [`progress`] make what is shown. No logic lives here that another front
//! end would need.

mod calendar;
mod cli;
mod error;
mod listing;
mod matching;
mod output;
mod parse;
mod progress;
mod session;
mod table;
mod template;
mod terminal;
mod zone;

use std::process::ExitCode;

use gantry_engine as api;

fn main() -> ExitCode {
    // Paths that are no UTF-8 cannot be named on the command line: the engine's records are
    // JSON.
    let arguments = std::env::args_os().map(|argument| {
        argument
            .into_string()
            .unwrap_or_else(|raw| raw.to_string_lossy().into_owned())
    });
    ExitCode::from(cli::main(arguments.collect()))
}
