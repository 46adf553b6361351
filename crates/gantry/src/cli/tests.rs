use clap::ArgMatches;
use clap::error::ErrorKind;

use super::refusal::{explain, tidy};
use super::tree::{SHARED, TOP, find};
use super::*;

fn tree(program: &'static str) -> clap::Command {
    tree::build(program, None)
}

fn parse(arguments: &[&str]) -> Result<ArgMatches, clap::Error> {
    // As the program itself does: with the branch alone that the first word names.
    tree::build("gantry", arguments.first().copied())
        .try_get_matches_from(std::iter::once(&"gantry").chain(arguments))
}

/// The refusal of a command line: message and exit code.
fn refusal(arguments: &[&str]) -> (String, String, u8) {
    let mut words = vec!["gantry".to_owned()];
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    let error = tree("gantry").try_get_matches_from(&words).unwrap_err();
    match explain("gantry", &error, &words) {
        Err(CliError::Usage {
            message,
            command,
            code,
        }) => (message, command, code),
        other => panic!("{other:?}"),
    }
}

fn leaf_help(arguments: &[&str]) -> String {
    let error = parse(arguments).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DisplayHelp);
    tidy(&error.to_string())
}

#[test]
fn the_tree_is_sound() {
    tree("gantry").debug_assert();
}

#[test]
fn spellings() {
    for (words, path) in [
        (&["ps"][..], "ps"),
        (&["container", "ls"], "container ls"),
        (&["container", "ps"], "container ls"),
        (&["container", "list"], "container ls"),
        (&["container", "run", "x"], "container run"),
        (&["container", "rm", "x"], "container rm"),
        (&["container", "remove", "x"], "container rm"),
        (&["container", "inspect", "x"], "container inspect"),
        (&["image", "ls"], "image ls"),
        (&["image", "list"], "image ls"),
        (&["image", "rm", "x"], "image rm"),
        (&["image", "inspect", "x"], "image inspect"),
        (&["image", "pull", "x"], "image pull"),
        (&["image", "import", "-"], "image import"),
        (&["images"], "images"),
        (&["rmi", "x"], "rmi"),
        (&["pull", "x"], "pull"),
        (&["system", "reset", "--force"], "system reset"),
        (&["network", "list"], "network ls"),
        (&["network", "remove", "x"], "network rm"),
        (&["network", "connect", "n", "c"], "network connect"),
        (&["__settle", "x"], "__settle"),
        (
            &["--data-root", "/x", "--run-root=/y", "-D", "version"],
            "version",
        ),
    ] {
        let matches = parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        assert_eq!(find(&matches).unwrap().0, path, "{words:?}");
    }
}

#[test]
fn flags_end_at_the_image() {
    for words in [
        &["run", "-d", "alpine", "ls", "-l", "--rm", "--", "-x"][..],
        &["run", "-d", "--", "alpine", "ls", "-l", "--rm", "--", "-x"],
        &["create", "alpine", "ls", "-l", "--rm", "--", "-x"],
        &["exec", "-i", "alpine", "ls", "-l", "--rm", "--", "-x"],
    ] {
        let matches = parse(words).unwrap();
        let (_, _, inner) = find(&matches).unwrap();
        assert_eq!(
            flags::owned(inner, "command"),
            ["alpine", "ls", "-l", "--rm", "--", "-x"],
            "{words:?}"
        );
    }
    // The command's own flags may look like ours from the first word on.
    let matches = parse(&["run", "alpine", "--rm", "-p"]).unwrap();
    let (_, _, inner) = find(&matches).unwrap();
    assert_eq!(flags::owned(inner, "command"), ["alpine", "--rm", "-p"]);
    assert!(!flags::is_on(inner, "rm").unwrap());
}

#[test]
fn switches() {
    for (words, on) in [
        (&["run", "--rm", "x"][..], true),
        (&["run", "--rm=true", "x"], true),
        (&["run", "--rm=false", "x"], false),
        (&["run", "--rm=0", "x"], false),
        (&["run", "--rm", "--rm=false", "x"], false),
        (&["run", "x"], false),
    ] {
        let matches = parse(words).unwrap();
        let (_, _, inner) = find(&matches).unwrap();
        assert_eq!(flags::is_on(inner, "rm").unwrap(), on, "{words:?}");
    }
    let matches = parse(&["run", "-itdp80:80", "-e=A=b", "-eC=d", "x"]).unwrap();
    let (_, _, inner) = find(&matches).unwrap();
    for name in ["interactive", "tty", "detach"] {
        assert!(flags::is_on(inner, name).unwrap(), "{name}");
    }
    assert_eq!(flags::text(inner, "publish"), Some("80:80"));
    assert_eq!(flags::owned(inner, "env"), ["A=b", "C=d"]);
    let matches = parse(&["run", "--name", "a", "--name=b", "--memory-swap", "-1", "x"]).unwrap();
    let (_, _, inner) = find(&matches).unwrap();
    assert_eq!(flags::text(inner, "name"), Some("b"));
    assert_eq!(flags::text(inner, "memory-swap"), Some("-1"));
}

#[test]
fn refusals() {
    for (words, message, command, code) in [
        (
            &["run", "--foo", "x"][..],
            "unknown flag: --foo",
            "gantry run",
            125,
        ),
        (
            &["run", "--foo=1", "x"],
            "unknown flag: --foo",
            "gantry run",
            125,
        ),
        (
            &["ps", "-x"],
            "unknown shorthand flag: 'x' in -x",
            "gantry ps",
            125,
        ),
        (
            &["run", "--name"],
            "flag needs an argument: --name",
            "gantry run",
            125,
        ),
        (
            &["run", "-p"],
            "flag needs an argument: --publish",
            "gantry run",
            125,
        ),
        (
            &["run"],
            "'gantry run' requires at least 1 argument",
            "gantry run",
            1,
        ),
        (
            &["run", "-it"],
            "'gantry run' requires at least 1 argument",
            "gantry run",
            1,
        ),
        (
            &["exec"],
            "'gantry exec' requires at least 2 arguments",
            "gantry exec",
            1,
        ),
        (
            &["exec", "x"],
            "'gantry exec' requires at least 2 arguments",
            "gantry exec",
            1,
        ),
        (
            &["logs"],
            "'gantry logs' requires 1 argument",
            "gantry logs",
            1,
        ),
        (
            &["logs", "a", "b"],
            "'gantry logs' requires 1 argument",
            "gantry logs",
            1,
        ),
        (
            &["container", "rm"],
            "'gantry container rm' requires at least 1 argument",
            "gantry container rm",
            1,
        ),
        (
            &["ps", "x"],
            "'gantry ps' accepts no arguments",
            "gantry ps",
            1,
        ),
        (
            &["images", "a", "b"],
            "'gantry images' accepts at most 1 argument",
            "gantry images",
            1,
        ),
        (
            &["import"],
            "'gantry import' requires 1 or 2 arguments",
            "gantry import",
            1,
        ),
        (
            &["network", "create"],
            "'gantry network create' requires 1 argument",
            "gantry network create",
            1,
        ),
        (
            &["network", "create", "a", "b"],
            "'gantry network create' requires 1 argument",
            "gantry network create",
            1,
        ),
        (
            &["network", "connect", "a"],
            "'gantry network connect' requires 2 arguments",
            "gantry network connect",
            1,
        ),
        (
            &["network", "rm"],
            "'gantry network rm' requires at least 1 argument",
            "gantry network rm",
            1,
        ),
        (&["foo"], "unknown command: gantry foo", "gantry", 1),
        (
            &["container", "foo"],
            "unknown command: gantry container foo",
            "gantry container",
            1,
        ),
        (&["-x"], "unknown shorthand flag: 'x' in -x", "gantry", 125),
    ] {
        assert_eq!(
            refusal(words),
            (message.to_owned(), command.to_owned(), code),
            "{words:?}"
        );
    }
}

#[test]
fn the_name_of_the_program() {
    for (argument, name) in [
        (Some("/usr/bin/docker"), "docker"),
        (Some("docker"), "docker"),
        (Some("/usr/bin/gantry"), "gantry"),
        (Some("docker-x"), "gantry"),
        (None, "gantry"),
    ] {
        assert_eq!(program_name(argument), name);
    }
}

#[test]
fn help_of_run() {
    let help = leaf_help(&["run", "--help"]);
    assert!(help.starts_with(
        "Usage:  gantry run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nCreate and run a new container from an image\n\nOptions:\n"
    ), "{help}");
    for flag in [
        "add-host",
        "attach",
        "cap-add",
        "cap-drop",
        "cidfile",
        "cpu-shares",
        "cpus",
        "cpuset-cpus",
        "cpuset-mems",
        "detach",
        "detach-keys",
        "dns",
        "dns-option",
        "dns-search",
        "domainname",
        "entrypoint",
        "env",
        "env-file",
        "expose",
        "hostname",
        "init",
        "interactive",
        "ip",
        "label",
        "label-file",
        "link",
        "log-driver",
        "log-opt",
        "mac-address",
        "memory",
        "memory-reservation",
        "memory-swap",
        "mount",
        "name",
        "network",
        "network-alias",
        "pids-limit",
        "platform",
        "privileged",
        "publish",
        "publish-all",
        "pull",
        "quiet",
        "read-only",
        "rm",
        "security-opt",
        "shm-size",
        "sig-proxy",
        "stop-signal",
        "stop-timeout",
        "sysctl",
        "tmpfs",
        "tty",
        "ulimit",
        "user",
        "volume",
        "workdir",
    ] {
        let found = help.lines().any(|line| {
            let line = line.trim_start();
            let line = match line.as_bytes() {
                [b'-', _, b',', b' ', ..] => &line[4..],
                _ => line,
            };
            line.strip_prefix("--")
                .and_then(|line| line.strip_prefix(flag))
                .is_some_and(|rest| rest.starts_with([' ', '[']))
        });
        assert!(found, "--{flag} is missing in {help}");
    }
    for short in [
        "-a", "-c", "-d", "-e", "-h", "-i", "-l", "-m", "-p", "-P", "-q", "-t", "-u", "-v", "-w",
    ] {
        assert!(help.contains(&format!("  {short}, --")), "{short}");
    }
    assert!(!help.contains("[=") && !help.contains("--device"));
}

#[test]
fn every_command_has_help() {
    for verb in SHARED.iter().chain(TOP) {
        let help = leaf_help(&[verb.name, "--help"]);
        assert!(
            help.starts_with(format!("Usage:  gantry {} {}", verb.name, verb.usage).trim_end()),
            "{help}"
        );
    }
    assert!(
        leaf_help(&["container", "ls", "-h"])
            .starts_with("Usage:  gantry container ls [OPTIONS]\n")
    );
    let help = leaf_help(&["--help"]);
    assert!(
        help.contains("\n  run ") && !help.contains("__settle"),
        "{help}"
    );
}
