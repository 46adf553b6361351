//! The flags of `run` and `create`, as clap is told of them.

use clap::{Arg, Command};

use crate::cli::flags::{command_line, list, switch, value, with_long_help};

/// Flags that Docker has and Gantry does not have yet, and whether they take a value.
pub const UNSUPPORTED: &[(&str, bool)] = &[
    ("annotation", true),
    ("blkio-weight", true),
    ("blkio-weight-device", true),
    ("cgroup-parent", true),
    ("cpu-period", true),
    ("cpu-quota", true),
    ("cpu-rt-period", true),
    ("cpu-rt-runtime", true),
    ("device", true),
    ("device-cgroup-rule", true),
    ("device-read-bps", true),
    ("device-read-iops", true),
    ("device-write-bps", true),
    ("device-write-iops", true),
    ("gpus", true),
    ("group-add", true),
    ("health-cmd", true),
    ("health-interval", true),
    ("health-retries", true),
    ("health-start-interval", true),
    ("health-start-period", true),
    ("health-timeout", true),
    ("memory-swappiness", true),
    ("oom-kill-disable", false),
    ("oom-score-adj", true),
    ("pid", true),
    ("storage-opt", true),
    ("use-api-socket", false),
    ("userns", true),
    ("uts", true),
    ("volume-driver", true),
    ("volumes-from", true),
];

/// Flags with the one value that asks for what happens anyway.
pub const ONLY_DEFAULT: &[(&str, &[&str])] = &[
    ("restart", &["no", ""]),
    ("cgroupns", &["private", ""]),
    ("ipc", &["private", ""]),
];

/// Declares the flags that `run` and `create` share.
pub fn arguments(command: Command) -> Command {
    let mut command = with_long_help(command)
        .args(process_flags())
        .args(network_flags())
        .args(storage_flags())
        .args(resource_flags())
        .args(security_flags())
        .args(client_flags())
        .arg(command_line("command", 1));
    for (name, takes_value) in UNSUPPORTED {
        let flag = if *takes_value {
            list(name, "string", "")
        } else {
            switch(name, "")
        };
        command = command.arg(flag.hide(true));
    }
    for (name, _) in ONLY_DEFAULT {
        command = command.arg(value(name, "string", "").hide(true));
    }
    command
        .arg(switch("no-healthcheck", "").hide(true))
        .arg(switch("disable-content-trust", "").hide(true))
}

fn process_flags() -> [Arg; 16] {
    [
        value("name", "string", "Assign a name to the container"),
        switch("interactive", "Keep STDIN open even if not attached").short('i'),
        switch("tty", "Allocate a pseudo-TTY").short('t'),
        switch(
            "rm",
            "Automatically remove the container and its anonymous volumes when it exits",
        ),
        list("env", "list", "Set environment variables").short('e'),
        list(
            "env-file",
            "list",
            "Read in a file of environment variables",
        ),
        value(
            "workdir",
            "string",
            "Working directory inside the container",
        )
        .short('w'),
        value(
            "user",
            "string",
            "Username or UID (format: <name|uid>[:<group|gid>])",
        )
        .short('u'),
        value(
            "entrypoint",
            "string",
            "Overwrite the default ENTRYPOINT of the image",
        ),
        value("hostname", "string", "Container host name").short('h'),
        list("label", "list", "Set meta data on a container").short('l'),
        list(
            "label-file",
            "list",
            "Read in a line delimited file of labels",
        ),
        switch(
            "init",
            "Run an init inside the container that forwards signals and reaps processes",
        ),
        value(
            "runtime",
            "string",
            "Runtime to use for this container: a name or an absolute path",
        ),
        value("stop-signal", "string", "Signal to stop the container"),
        value(
            "stop-timeout",
            "int",
            "Timeout (in seconds) to stop a container",
        ),
    ]
}

fn network_flags() -> [Arg; 15] {
    [
        list(
            "publish",
            "list",
            "Publish a container's port(s) to the host",
        )
        .short('p'),
        switch("publish-all", "Publish all exposed ports to random ports").short('P'),
        list("expose", "list", "Expose a port or a range of ports"),
        list(
            "network",
            "network",
            "Connect a container to a network: its name, bridge, host, none, container:NAME, or name=NAME,alias=..,ip=..",
        )
        .alias("net"),
        list(
            "network-alias",
            "list",
            "Add network-scoped alias for the container",
        )
        .alias("net-alias"),
        value("ip", "string", "IPv4 address (e.g., 172.30.100.104)"),
        value("ip6", "string", "").hide(true),
        list("link-local-ip", "list", "").hide(true),
        value(
            "mac-address",
            "string",
            "Container MAC address (e.g., 92:d0:c6:0a:29:33)",
        ),
        list("link", "list", "Add link to another container"),
        value("domainname", "string", "Container NIS domain name"),
        list(
            "add-host",
            "list",
            "Add a custom host-to-IP mapping (host:ip)",
        ),
        list("dns", "list", "Set custom DNS servers"),
        list("dns-search", "list", "Set custom DNS search domains"),
        list("dns-option", "list", "Set DNS options").alias("dns-opt"),
    ]
}

fn storage_flags() -> [Arg; 7] {
    [
        list("volume", "list", "Bind mount a volume").short('v'),
        list(
            "mount",
            "mount",
            "Attach a filesystem mount to the container",
        ),
        list("tmpfs", "list", "Mount a tmpfs directory"),
        switch(
            "read-only",
            "Mount the container's root filesystem as read only",
        ),
        value("shm-size", "bytes", "Size of /dev/shm"),
        value(
            "log-driver",
            "string",
            "Logging driver for the container: json-file or local",
        ),
        list("log-opt", "list", "Log driver options: max-size, max-file"),
    ]
}

fn resource_flags() -> [Arg; 10] {
    [
        value("memory", "bytes", "Memory limit").short('m'),
        value(
            "memory-swap",
            "bytes",
            "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
        ),
        value("memory-reservation", "bytes", "Memory soft limit"),
        value("cpus", "decimal", "Number of CPUs"),
        value("cpu-shares", "int", "CPU shares (relative weight)").short('c'),
        value(
            "cpuset-cpus",
            "string",
            "CPUs in which to allow execution (0-3, 0,1)",
        ),
        value(
            "cpuset-mems",
            "string",
            "MEMs in which to allow execution (0-3, 0,1)",
        ),
        value(
            "pids-limit",
            "int",
            "Tune container pids limit (set -1 for unlimited)",
        ),
        list("ulimit", "ulimit", "Ulimit options"),
        list("sysctl", "map", "Sysctl options"),
    ]
}

fn security_flags() -> [Arg; 4] {
    [
        list("cap-add", "list", "Add Linux capabilities"),
        list("cap-drop", "list", "Drop Linux capabilities"),
        list(
            "security-opt",
            "list",
            "Security options: seccomp=FILE|unconfined|builtin, no-new-privileges",
        ),
        switch("privileged", "Give extended privileges to this container"),
    ]
}

fn client_flags() -> [Arg; 5] {
    [
        list("attach", "list", "Attach to STDIN, STDOUT or STDERR").short('a'),
        value("cidfile", "string", "Write the container ID to the file"),
        value(
            "pull",
            "string",
            "Pull image before running (\"always\", \"missing\", \"never\")",
        ),
        value("platform", "string", "Set platform: os[/arch[/variant]]"),
        switch("quiet", "Suppress the pull output").short('q'),
    ]
}

/// Declares the flags that only `run` has.
pub fn run_only(command: Command) -> Command {
    command.args([
        switch(
            "detach",
            "Run container in background and print container ID",
        )
        .short('d'),
        value(
            "detach-keys",
            "string",
            "Override the key sequence for detaching a container",
        ),
        switch(
            "sig-proxy",
            "Proxy received signals to the process (default true)",
        ),
    ])
}
