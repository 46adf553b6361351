//! The tree of commands.
//!
//! Arguments of a command are declared only once that command is known (`defer`), and
//! commands that the command line does not name are left out: both keep every start short.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{
    Context, containers, exec, flags, images, inspect, logs, ps, pull, run, start, system,
};
use crate::error::Outcome;

/// One command.
pub struct Verb {
    /// Name.
    pub name: &'static str,
    /// Further names.
    pub aliases: &'static [&'static str],
    /// What it does, in one line.
    pub about: &'static str,
    /// What follows the command's name in its usage line.
    pub usage: &'static str,
    /// Declares its arguments.
    pub arguments: fn(Command) -> Command,
    /// Does it.
    pub execute: fn(&Context, &ArgMatches) -> Outcome,
    /// Left out of the help.
    pub hidden: bool,
}

macro_rules! verb {
    ($name:literal $(| $alias:literal)*, $about:literal, $usage:literal, $arguments:path, $execute:path) => {
        Verb {
            name: $name,
            aliases: &[$($alias),*],
            about: $about,
            usage: $usage,
            arguments: $arguments,
            execute: $execute,
            hidden: false,
        }
    };
}

/// Stands in the group `system` as well.
const INFO: Verb = verb!(
    "info",
    "Display system-wide information",
    "[OPTIONS]",
    system::info_arguments,
    system::info
);

/// Commands without a group; those of containers stand in [`CONTAINER`] as well.
pub const TOP: &[Verb] = &[
    verb!(
        "ps",
        "List containers",
        "[OPTIONS]",
        ps::arguments,
        ps::execute
    ),
    verb!(
        "images",
        "List images",
        "[OPTIONS] [REPOSITORY[:TAG]]",
        images::list_arguments,
        images::list
    ),
    verb!(
        "rmi",
        "Remove one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        images::remove_arguments,
        images::remove
    ),
    verb!(
        "inspect",
        "Return low-level information on containers and images",
        "[OPTIONS] NAME|ID [NAME|ID...]",
        inspect::arguments,
        inspect::any
    ),
    verb!(
        "pull",
        "Download an image from a registry",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        pull::arguments,
        pull::execute
    ),
    verb!(
        "import",
        "Import the contents from a tarball to create a filesystem image",
        "[OPTIONS] FILE|- [REPOSITORY[:TAG]]",
        images::import_arguments,
        images::import
    ),
    INFO,
    verb!(
        "version",
        "Show the version information",
        "[OPTIONS]",
        system::version_arguments,
        system::version
    ),
    Verb {
        hidden: true,
        ..verb!(
            "__settle",
            "Clean up behind a container (internal)",
            "ID",
            system::settle_arguments,
            system::settle
        )
    },
];

/// Commands on containers, with and without the word `container`.
pub const SHARED: &[Verb] = &[
    verb!(
        "run",
        "Create and run a new container from an image",
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        run::run_arguments,
        run::run
    ),
    verb!(
        "create",
        "Create a new container",
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        run::create_arguments,
        run::create
    ),
    verb!(
        "exec",
        "Execute a command in a running container",
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        exec::arguments,
        exec::execute
    ),
    verb!(
        "start",
        "Start one or more stopped containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        start::start_arguments,
        start::start
    ),
    verb!(
        "stop",
        "Stop one or more running containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        containers::stop_arguments,
        containers::stop
    ),
    verb!(
        "kill",
        "Kill one or more running containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        containers::kill_arguments,
        containers::kill
    ),
    verb!(
        "rm" | "remove",
        "Remove one or more containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        containers::remove_arguments,
        containers::remove
    ),
    verb!(
        "logs",
        "Fetch the logs of a container",
        "[OPTIONS] CONTAINER",
        logs::arguments,
        logs::execute
    ),
    verb!(
        "attach",
        "Attach local standard input, output, and error streams to a running container",
        "[OPTIONS] CONTAINER",
        start::attach_arguments,
        start::attach
    ),
    verb!(
        "wait",
        "Block until one or more containers stop, then print their exit codes",
        "CONTAINER [CONTAINER...]",
        containers::wait_arguments,
        containers::wait
    ),
];

/// Commands that stand in the group `container` only.
const CONTAINER: &[Verb] = &[
    verb!(
        "ls" | "ps" | "list",
        "List containers",
        "[OPTIONS]",
        ps::arguments,
        ps::execute
    ),
    verb!(
        "inspect",
        "Display detailed information on one or more containers",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        inspect::arguments,
        inspect::containers
    ),
];

/// Commands of the group `image`.
const IMAGE: &[Verb] = &[
    verb!(
        "ls" | "list",
        "List images",
        "[OPTIONS] [REPOSITORY[:TAG]]",
        images::list_arguments,
        images::list
    ),
    verb!(
        "rm" | "remove",
        "Remove one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        images::remove_arguments,
        images::remove
    ),
    verb!(
        "inspect",
        "Display detailed information on one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        inspect::arguments,
        inspect::images
    ),
    verb!(
        "pull",
        "Download an image from a registry",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        pull::arguments,
        pull::execute
    ),
    verb!(
        "import",
        "Import the contents from a tarball to create a filesystem image",
        "[OPTIONS] FILE|- [REPOSITORY[:TAG]]",
        images::import_arguments,
        images::import
    ),
];

/// Commands of the group `system`.
const SYSTEM: &[Verb] = &[
    INFO,
    verb!(
        "reset",
        "Remove every container, network and rule of this installation",
        "--force",
        system::reset_arguments,
        system::reset
    ),
];

/// Groups and their commands.
pub const GROUPS: &[(&str, &str, &[&[Verb]])] = &[
    ("container", "Manage containers", &[SHARED, CONTAINER]),
    ("image", "Manage images", &[IMAGE]),
    ("system", "Manage this installation", &[SYSTEM]),
];

const LEAF_HELP: &str = "Usage:  {usage}\n\n{about}\n\nOptions:\n{options}";
const GROUP_HELP: &str = "Usage:  {usage}\n\n{about}\n\nCommands:\n{subcommands}";
const ROOT_HELP: &str =
    "Usage:  {usage}\n\n{about}\n\nCommands:\n{subcommands}\n\nGlobal Options:\n{options}";

/// The tree, or only the branch that begins with the word `first` if there is one.
pub fn build(program: &'static str, first: Option<&str>) -> Command {
    let known = first.is_some_and(|word| {
        GROUPS.iter().any(|(name, _, _)| *name == word)
            || SHARED
                .iter()
                .chain(TOP)
                .any(|verb| verb.name == word || verb.aliases.contains(&word))
    });
    let wanted = |name: &str, aliases: &[&str]| {
        !known || first.is_some_and(|word| word == name || aliases.contains(&word))
    };
    let mut root = Command::new(program)
        .about("A daemonless container platform")
        .override_usage(format!("{program} [OPTIONS] COMMAND"))
        .help_template(ROOT_HELP)
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .arg(flags::value(
            "data-root",
            "string",
            "Directory of images and volumes (GANTRY_DATA_ROOT)",
        ))
        .arg(flags::value(
            "run-root",
            "string",
            "Directory of running state (GANTRY_RUN_ROOT)",
        ))
        .arg(flags::switch("debug", "Enable debug mode").short('D'))
        .arg(
            Arg::new("version")
                .long("version")
                .short('v')
                .action(ArgAction::SetTrue)
                .help("Print version information and quit"),
        )
        .arg(flags::help().short('h'));
    for verb in SHARED.iter().chain(TOP) {
        if wanted(verb.name, verb.aliases) {
            root = root.subcommand(leaf(program, "", verb));
        }
    }
    for (name, about, tables) in GROUPS {
        if !wanted(name, &[]) {
            continue;
        }
        let mut group = Command::new(*name)
            .about(*about)
            .override_usage(format!("{program} {name} COMMAND"))
            .help_template(GROUP_HELP)
            .disable_help_flag(true)
            .disable_help_subcommand(true)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .arg(flags::help().short('h'));
        for verb in tables.iter().copied().flatten() {
            group = group.subcommand(leaf(program, name, verb));
        }
        root = root.subcommand(group);
    }
    root
}

fn leaf(program: &str, group: &str, verb: &Verb) -> Command {
    let space = if group.is_empty() { "" } else { " " };
    Command::new(verb.name)
        .about(verb.about)
        .aliases(verb.aliases)
        .hide(verb.hidden)
        .override_usage(format!(
            "{program} {group}{space}{} {}",
            verb.name, verb.usage
        ))
        .help_template(LEAF_HELP)
        .disable_help_flag(true)
        .args_override_self(true)
        .defer(verb.arguments)
}

/// Finds the code of the command that was parsed, and its own arguments.
pub fn find(matches: &ArgMatches) -> Option<(String, &'static Verb, &ArgMatches)> {
    let (name, inner) = matches.subcommand()?;
    if let Some((_, _, tables)) = GROUPS.iter().find(|(group, _, _)| *group == name) {
        let (verb_name, inner) = inner.subcommand()?;
        let verb = tables
            .iter()
            .copied()
            .flatten()
            .find(|verb| verb.name == verb_name)?;
        return Some((format!("{name} {verb_name}"), verb, inner));
    }
    let verb = SHARED.iter().chain(TOP).find(|verb| verb.name == name)?;
    Some((name.to_owned(), verb, inner))
}
