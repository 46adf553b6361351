//! What clap refuses, in the words and with the exit codes that Docker's users know.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::tree::{GROUPS, SHARED, TOP, Verb};
use crate::error::{CliError, ENGINE_FAILED, Outcome};
use crate::output;

/// Turns clap's refusal into ours, or prints the help that was asked for.
pub fn explain(program: &'static str, error: &clap::Error, arguments: &[String]) -> Outcome {
    let command = command_of(program, arguments);
    let usage = |message: String, code: u8| {
        Err(CliError::Usage {
            message,
            command: command.clone(),
            code,
        })
    };
    let word = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::text(&tidy(&error.to_string()))?;
            Ok(0)
        }
        ErrorKind::InvalidSubcommand => usage(
            format!(
                "unknown command: {command} {}",
                word(ContextKind::InvalidSubcommand)
            ),
            1,
        ),
        ErrorKind::UnknownArgument => {
            let given = word(ContextKind::InvalidArg);
            match given.strip_prefix('-') {
                None if command == program => {
                    usage(format!("unknown command: {program} {given}"), 1)
                }
                None => usage(format!("'{command}' {}", arity(program, &command)), 1),
                Some(long) if long.starts_with('-') => {
                    let name = given.split('=').next().unwrap_or_default();
                    usage(format!("unknown flag: {name}"), ENGINE_FAILED)
                }
                Some(short) => usage(
                    format!("unknown shorthand flag: '{short}' in {given}"),
                    ENGINE_FAILED,
                ),
            }
        }
        ErrorKind::MissingRequiredArgument
        | ErrorKind::TooFewValues
        | ErrorKind::TooManyValues
        | ErrorKind::WrongNumberOfValues => {
            usage(format!("'{command}' {}", arity(program, &command)), 1)
        }
        ErrorKind::InvalidValue if word(ContextKind::InvalidValue).is_empty() => {
            let flag = word(ContextKind::InvalidArg);
            let name = flag
                .split([' ', '=', '['])
                .next()
                .unwrap_or_default()
                .to_owned();
            if name.starts_with('-') {
                usage(format!("flag needs an argument: {name}"), ENGINE_FAILED)
            } else {
                usage(format!("'{command}' {}", arity(program, &command)), 1)
            }
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            usage(line.trim_start_matches("error: ").to_owned(), ENGINE_FAILED)
        }
    }
}

/// How many arguments a command takes, in words, as its usage line has them.
fn arity(program: &str, command: &str) -> String {
    let path = command.strip_prefix(program).unwrap_or(command).trim();
    let (group, name) = path.split_once(' ').unwrap_or(("", path));
    let tables = GROUPS.iter().find(|(other, _, _)| *other == group);
    let verbs: &[&[Verb]] = tables.map_or(&[SHARED, TOP], |(_, _, tables)| tables);
    let verb = verbs
        .iter()
        .copied()
        .flatten()
        .find(|verb| verb.name == name || verb.aliases.contains(&name));
    let words: Vec<&str> = verb
        .map_or("", |verb| verb.usage)
        .split(' ')
        .filter(|word| *word != "[OPTIONS]" && !word.starts_with("--") && !word.is_empty())
        .collect();
    let least = words.iter().filter(|word| !word.starts_with('[')).count();
    let plural = if least == 1 { "" } else { "s" };
    match (least, words.len() > least) {
        (0, false) => "accepts no arguments".to_owned(),
        (0, true) => "accepts at most 1 argument".to_owned(),
        (least, false) => format!("requires {least} argument{plural}"),
        (least, true) if words.iter().any(|word| word.contains("...")) => {
            format!("requires at least {least} argument{plural}")
        }
        (least, true) => format!("requires {least} or {} arguments", words.len()),
    }
}

/// Help without the notes that a switch may be given a value, which nobody needs.
pub fn tidy(help: &str) -> String {
    // As many spaces, so that the columns stay where they are.
    help.replace("[=<bool>]", "         ")
}

/// The command that a refused command line meant, as far as it can be told.
fn command_of(program: &str, arguments: &[String]) -> String {
    let known = |word: &&String| {
        SHARED.iter().chain(TOP).any(|verb| verb.name == **word)
            || GROUPS.iter().any(|(group, _, _)| group == *word)
    };
    let Some(at) = arguments.iter().skip(1).position(|word| known(&word)) else {
        return program.to_owned();
    };
    let name = &arguments[at + 1];
    let group = GROUPS.iter().find(|(group, _, _)| group == name);
    match (group, arguments.get(at + 2)) {
        (Some((_, _, tables)), Some(inner))
            if tables
                .iter()
                .copied()
                .flatten()
                .any(|verb| verb.name == inner || verb.aliases.contains(&inner.as_str())) =>
        {
            format!("{program} {name} {inner}")
        }
        _ => format!("{program} {name}"),
    }
}
