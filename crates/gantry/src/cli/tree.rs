//! The tree of commands.
//!
//! Arguments of a command are declared only once that command is known (`defer`), and
//! commands that the command line does not name are left out: both keep every start short.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::image::{
    archive, copy, history, list, login, manifest, push, remove, search, tag, usage,
};
use super::{
    Context, containers, exec, flags, inspect, logs, network, ps, pull, registry, run, start,
    system,
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

/// Commands on images that stand in the group `image` as well.
const PULL: Verb = verb!(
    "pull",
    "Download an image from a registry",
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    pull::arguments,
    pull::execute
);
const PUSH: Verb = verb!(
    "push",
    "Upload an image to a registry",
    "[OPTIONS] NAME[:TAG]",
    push::arguments,
    push::execute
);
const IMPORT: Verb = verb!(
    "import",
    "Import the contents from a tarball to create a filesystem image",
    "[OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]",
    archive::import_arguments,
    archive::import
);
const SAVE: Verb = verb!(
    "save",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    "[OPTIONS] IMAGE [IMAGE...]",
    archive::save_arguments,
    archive::save
);
const LOAD: Verb = verb!(
    "load",
    "Load an image from a tar archive or STDIN",
    "[OPTIONS]",
    archive::load_arguments,
    archive::load
);
const TAG: Verb = verb!(
    "tag",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    tag::arguments,
    tag::execute
);
const HISTORY: Verb = verb!(
    "history",
    "Show the history of an image",
    "[OPTIONS] IMAGE",
    history::arguments,
    history::execute
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
        list::list_arguments,
        list::list
    ),
    verb!(
        "rmi",
        "Remove one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        remove::arguments,
        remove::remove
    ),
    verb!(
        "inspect",
        "Return low-level information on containers and images",
        "[OPTIONS] NAME|ID [NAME|ID...]",
        inspect::arguments,
        inspect::any
    ),
    PULL,
    PUSH,
    IMPORT,
    SAVE,
    LOAD,
    TAG,
    HISTORY,
    verb!(
        "login",
        "Authenticate to a registry",
        "[OPTIONS] [SERVER]",
        login::login_arguments,
        login::login
    ),
    verb!(
        "logout",
        "Log out from a registry",
        "[SERVER]",
        login::logout_arguments,
        login::logout
    ),
    verb!(
        "search",
        "Search Docker Hub for images",
        "[OPTIONS] TERM",
        search::arguments,
        search::execute
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
    Verb {
        hidden: true,
        ..verb!(
            "__sync-layers",
            "Bring unpacked layers to the disk (internal)",
            "",
            system::sync_layers_arguments,
            system::sync_layers
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
        "commit",
        "Create a new image from a container's changes",
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        archive::commit_arguments,
        archive::commit
    ),
    verb!(
        "export",
        "Export a container's filesystem as a tar archive",
        "[OPTIONS] CONTAINER",
        archive::export_arguments,
        archive::export
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
        list::list_arguments,
        list::list
    ),
    verb!(
        "rm" | "remove",
        "Remove one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        remove::arguments,
        remove::remove
    ),
    verb!(
        "inspect",
        "Display detailed information on one or more images",
        "[OPTIONS] IMAGE [IMAGE...]",
        inspect::image_arguments,
        inspect::images
    ),
    PULL,
    PUSH,
    IMPORT,
    SAVE,
    LOAD,
    TAG,
    HISTORY,
    verb!(
        "prune",
        "Remove unused images",
        "[OPTIONS]",
        remove::prune_arguments,
        remove::prune
    ),
    verb!(
        "verify",
        "Check that images are on the disk as they came",
        "[OPTIONS] [IMAGE...]",
        usage::verify_arguments,
        usage::verify
    ),
    verb!(
        "cp",
        "Copy an image between registries, OCI layouts and archives",
        "[OPTIONS] SOURCE DESTINATION",
        copy::arguments,
        copy::execute
    ),
    verb!(
        "drop-blobs",
        "Free the compressed layers of images that a registry still has",
        "IMAGE [IMAGE...]",
        usage::drop_arguments,
        usage::drop_blobs
    ),
];

/// Commands of the group `manifest`.
const MANIFEST: &[Verb] = &[
    verb!(
        "annotate",
        "Add additional information to a local image manifest",
        "[OPTIONS] MANIFEST_LIST MANIFEST",
        manifest::annotate_arguments,
        manifest::annotate
    ),
    verb!(
        "create",
        "Create a local manifest list for annotating and pushing to a registry",
        "MANIFEST_LIST MANIFEST [MANIFEST...]",
        manifest::create_arguments,
        manifest::create
    ),
    verb!(
        "inspect",
        "Display an image manifest, or manifest list",
        "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        manifest::inspect_arguments,
        manifest::inspect
    ),
    verb!(
        "push",
        "Push a manifest list to a repository",
        "[OPTIONS] MANIFEST_LIST",
        manifest::push_arguments,
        manifest::push
    ),
    verb!(
        "rm",
        "Delete one or more manifest lists from local storage",
        "MANIFEST_LIST [MANIFEST_LIST...]",
        manifest::remove_arguments,
        manifest::remove
    ),
];

/// Commands of the group `system`.
const SYSTEM: &[Verb] = &[
    INFO,
    verb!(
        "df",
        "Show disk usage",
        "[OPTIONS]",
        usage::df_arguments,
        usage::df
    ),
    verb!(
        "reset",
        "Remove every container, network and rule of this installation",
        "--force",
        system::reset_arguments,
        system::reset
    ),
];

/// Commands of the group `network`.
const NETWORK: &[Verb] = &[
    verb!(
        "connect",
        "Connect a container to a network",
        "[OPTIONS] NETWORK CONTAINER",
        network::endpoint::connect_arguments,
        network::endpoint::connect
    ),
    verb!(
        "create",
        "Create a network",
        "[OPTIONS] NETWORK",
        network::create::arguments,
        network::create::create
    ),
    verb!(
        "disconnect",
        "Disconnect a container from a network",
        "[OPTIONS] NETWORK CONTAINER",
        network::endpoint::disconnect_arguments,
        network::endpoint::disconnect
    ),
    verb!(
        "inspect",
        "Display detailed information on one or more networks",
        "[OPTIONS] NETWORK [NETWORK...]",
        inspect::network_arguments,
        inspect::networks
    ),
    verb!(
        "ls" | "list",
        "List networks",
        "[OPTIONS]",
        network::list::arguments,
        network::list::list
    ),
    verb!(
        "prune",
        "Remove all unused networks",
        "[OPTIONS]",
        network::remove::prune_arguments,
        network::remove::prune
    ),
    verb!(
        "rm" | "remove",
        "Remove one or more networks",
        "NETWORK [NETWORK...]",
        network::remove::arguments,
        network::remove::remove
    ),
];

/// Commands of the group `registry`.
const REGISTRY: &[Verb] = &[
    verb!(
        "serve",
        "Serve images to other hosts and programs",
        "[OPTIONS]",
        registry::serve_arguments,
        registry::serve
    ),
    verb!(
        "gc",
        "Remove what no manifest of the registry refers to",
        "[OPTIONS]",
        registry::collect_arguments,
        registry::collect
    ),
];

/// Groups and their commands.
pub const GROUPS: &[(&str, &str, &[&[Verb]])] = &[
    ("container", "Manage containers", &[SHARED, CONTAINER]),
    ("image", "Manage images", &[IMAGE]),
    ("network", "Manage networks", &[NETWORK]),
    ("registry", "Run a registry", &[REGISTRY]),
    (
        "manifest",
        "Manage image manifests and manifest lists",
        &[MANIFEST],
    ),
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
