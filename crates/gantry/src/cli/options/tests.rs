use clap::Command;

use super::*;
use crate::api::config::{ContainerPort, EndpointConfig, MountSource, NetworkMode, Protocol};

fn read_words(words: &[&str]) -> Result<RunOptions, CliError> {
    let command = super::super::run::run_arguments(
        Command::new("run")
            .args_override_self(true)
            .disable_help_flag(true),
    );
    let matches = command
        .try_get_matches_from(std::iter::once(&"run").chain(words))
        .unwrap();
    let surroundings = Surroundings {
        variable: &|name| (name == "HOME").then(|| "/root".to_owned()),
        read: &|path| match path {
            "env" => Ok(b"# c\nA=file\nB=two words\nHOME\n".to_vec()),
            "labels" => Ok(b"x=1\ny\n".to_vec()),
            "bad" => Ok(b"a b=c\n".to_vec()),
            "profile" => Ok(b"{\"defaultAction\":\"SCMP_ACT_ALLOW\"}".to_vec()),
            "broken" => Ok(b"{".to_vec()),
            _ => Err(io::Error::from_raw_os_error(2)),
        },
        directory: "/home/me",
    };
    read(&matches, true, &surroundings)
}

fn config(words: &[&str]) -> ContainerConfig {
    read_words(words).unwrap().config
}

fn message(words: &[&str]) -> String {
    read_words(words).unwrap_err().line()
}

#[test]
fn nothing_but_an_image() {
    let options = read_words(&["alpine"]).unwrap();
    assert_eq!(
        options.config,
        ContainerConfig {
            image: "alpine".to_owned(),
            shm_size: 64 << 20,
            ..ContainerConfig::default()
        }
    );
    assert_eq!(
        options.attach,
        Streams {
            stdin: false,
            stdout: true,
            stderr: true
        }
    );
    assert!(options.signal_proxy && !options.detach && !options.entrypoint_set && !options.quiet);
    assert_eq!(options.pull, PullPolicy::Missing);
    assert_eq!(options.detach_keys, [16, 17]);
}

#[test]
fn processes() {
    let options = read_words(&[
        "-it",
        "--rm",
        "--name",
        "web",
        "-w",
        "/srv",
        "-u",
        "1:2",
        "--entrypoint",
        "/bin/sh",
        "-h",
        "host",
        "--stop-signal",
        "SIGINT",
        "--stop-timeout",
        "3",
        "--init",
        "alpine",
        "-c",
        "ls",
    ])
    .unwrap();
    let config = &options.config;
    assert_eq!(options.name.as_deref(), Some("web"));
    assert!(
        config.tty && config.open_stdin && config.stdin_once && config.auto_remove && config.init
    );
    assert!(options.attach.stdin && options.entrypoint_set);
    assert_eq!(config.entrypoint, ["/bin/sh"]);
    assert_eq!(config.cmd, ["-c", "ls"]);
    assert_eq!(
        (config.working_dir.as_str(), config.user.as_str()),
        ("/srv", "1:2")
    );
    assert_eq!(
        (config.hostname.as_str(), config.stop_signal.as_str()),
        ("host", "SIGINT")
    );
    assert_eq!(config.stop_timeout, Some(3));
    let options = read_words(&["--entrypoint=", "alpine"]).unwrap();
    assert!(options.entrypoint_set && options.config.entrypoint.is_empty());
}

#[test]
fn environment_and_labels() {
    assert_eq!(
        config(&[
            "-e",
            "A=flag",
            "--env-file",
            "env",
            "-e",
            "HOME",
            "-e",
            "GONE",
            "x"
        ])
        .env,
        ["A=flag", "B=two words", "HOME=/root", "GONE"]
    );
    let labels = config(&["-l", "x=2", "-l", "z", "--label-file", "labels", "i"]).labels;
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(labels, ["x=2", "y=", "z="]);
    assert_eq!(
        message(&["--env-file", "none", "x"]),
        "cannot read none: No such file or directory"
    );
    assert_eq!(
        message(&["--env-file", "bad", "x"]),
        "invalid line in bad: name 'a b' contains white space"
    );
}

#[test]
fn streams_and_detaching() {
    let all = Streams {
        stdin: true,
        stdout: true,
        stderr: true,
    };
    for (words, expected, once) in [
        (&["-i", "x"][..], all, true),
        (
            &["-i", "-a", "stdout", "x"],
            Streams {
                stdout: true,
                ..Streams::default()
            },
            false,
        ),
        (
            &["-a", "STDIN", "-a", "stderr", "-i", "x"],
            Streams {
                stdout: false,
                ..all
            },
            true,
        ),
        (&["-d", "-i", "x"], Streams::default(), false),
    ] {
        let options = read_words(words).unwrap();
        assert_eq!(options.attach, expected, "{words:?}");
        assert_eq!(options.config.stdin_once, once, "{words:?}");
    }
    assert_eq!(
        message(&["-d", "-a", "stdout", "x"]),
        "conflicting options: cannot specify both --attach and --detach"
    );
    assert!(message(&["-a", "foo", "x"]).starts_with("invalid value 'foo' for --attach"));
    let options = read_words(&["--detach-keys", "ctrl-x,y", "--sig-proxy=false", "x"]).unwrap();
    assert_eq!(options.detach_keys, [24, b'y']);
    assert!(!options.signal_proxy);
}

#[test]
fn networks() {
    for (given, expected) in [
        ("bridge", NetworkMode::Bridge),
        ("default", NetworkMode::Bridge),
        ("host", NetworkMode::Host),
        ("none", NetworkMode::None),
        ("name=host", NetworkMode::Host),
        ("container:web", NetworkMode::Container("web".to_owned())),
    ] {
        let config = config(&["--network", given, "x"]);
        assert_eq!(config.network, expected);
        assert!(config.endpoints.is_empty(), "{given}");
        assert_eq!(
            self::config(&[&format!("--net={given}"), "x"]).network,
            expected
        );
    }
    for given in ["", "container:", "name="] {
        assert!(read_words(&["--network", given, "x"]).is_err(), "{given}");
    }
    for flags in [
        ["-p", "80"],
        ["-h", "a"],
        ["--dns", "1.1.1.1"],
        ["--add-host", "a:1.2.3.4"],
        ["--expose", "80"],
        ["--domainname", "a"],
        ["--mac-address", "02:42:ac:11:00:02"],
        ["--link", "a"],
    ] {
        let words = ["--network", "container:web", flags[0], flags[1], "x"];
        assert!(
            message(&words).starts_with("conflicting options: "),
            "{flags:?}"
        );
    }
    let config = config(&[
        "-p",
        "8080:80",
        "-p",
        "53:53/udp",
        "--expose",
        "80",
        "--expose",
        "90-91",
        "-P",
        "--dns",
        "1.1.1.1",
        "--dns-search",
        "a.b",
        "--dns-opt",
        "ndots:2",
        "--add-host",
        "h:host-gateway",
        "x",
    ]);
    let exposed: Vec<_> = config.exposed_ports.iter().map(|port| port.port).collect();
    assert_eq!(exposed, [53, 80, 90, 91]);
    assert_eq!(
        config.exposed_ports[0],
        ContainerPort {
            port: 53,
            protocol: Protocol::Udp
        }
    );
    assert_eq!(config.ports.len(), 2);
    assert!(config.publish_all);
    assert_eq!(config.dns, ["1.1.1.1"]);
    assert_eq!(config.dns_search, ["a.b"]);
    assert_eq!(config.dns_options, ["ndots:2"]);
    assert_eq!(
        config.extra_hosts,
        [("h".to_owned(), "host-gateway".to_owned())]
    );
}

#[test]
fn networks_of_users() {
    let given = config(&["--network", "mine", "x"]);
    assert_eq!(given.network, NetworkMode::Network("mine".to_owned()));
    assert_eq!(given.endpoints.len(), 1);
    assert_eq!(given.endpoints[0].network, "mine");
    assert_eq!(given.endpoints[0].endpoint, EndpointConfig::default());
    let given = config(&[
        "--network",
        "one",
        "--network=name=two,alias=c,gw-priority=2",
        "--network-alias",
        "a",
        "--net-alias=b",
        "--ip",
        "10.1.2.3",
        "--mac-address",
        "02:42:AC:11:00:02",
        "--link",
        "db:store",
        "--domainname",
        "example.org",
        "x",
    ]);
    assert_eq!(given.network, NetworkMode::Network("one".to_owned()));
    let names: Vec<_> = given
        .endpoints
        .iter()
        .map(|request| request.network.as_str())
        .collect();
    assert_eq!(names, ["one", "two"]);
    let first = &given.endpoints[0].endpoint;
    assert_eq!(first.aliases, ["a", "b"]);
    assert_eq!(first.ipv4, Some([10, 1, 2, 3].into()));
    assert_eq!(first.mac.as_deref(), Some("02:42:ac:11:00:02"));
    assert_eq!(first.links, ["db:store"]);
    let second = &given.endpoints[1].endpoint;
    assert_eq!(second.aliases, ["c"]);
    assert_eq!((second.gw_priority, second.ipv4), (2, None));
    assert_eq!(given.domainname, "example.org");
}

#[test]
fn the_default_bridge_and_others() {
    let given = config(&["--network", "default", "--network", "mine", "x"]);
    assert_eq!(given.network, NetworkMode::Bridge);
    let names: Vec<_> = given
        .endpoints
        .iter()
        .map(|request| request.network.as_str())
        .collect();
    assert_eq!(names, ["bridge", "mine"]);
    let given = config(&["--network", "mine", "--network", "bridge", "x"]);
    assert_eq!(given.network, NetworkMode::Network("mine".to_owned()));
    assert_eq!(given.endpoints.len(), 2);
    let given = config(&["--mac-address", "02:42:ac:11:00:02", "x"]);
    assert_eq!(given.network, NetworkMode::Bridge);
    assert_eq!(given.endpoints.len(), 1);
}

#[test]
fn networks_that_do_not_go_together() {
    let both = "conflicting options: cannot attach both user-defined and non-user-defined";
    for (words, expected) in [
        (
            &["--network=a", "--network=a"][..],
            "specified multiple times",
        ),
        (
            &["--network=default", "--network=bridge"],
            "specified multiple times",
        ),
        (&["--network=a", "--network=host"], both),
        (&["--network=none", "--network=a"], both),
        (&["--network=host", "--network=none"], both),
        (&["--network=container:x", "--network=a"], both),
        (
            &["--network=name=a,alias=b", "--network-alias=c"],
            "per-network alias",
        ),
        (
            &["--network=name=a,ip=10.0.0.2", "--ip=10.0.0.3"],
            "per-network IPv4 address",
        ),
        (
            &[
                "--network=name=a,mac-address=02:42:ac:11:00:02",
                "--mac-address=02:42:ac:11:00:02",
            ],
            "per-network MAC address",
        ),
        (
            &["--ip=10.0.0.2"],
            "supported on user defined networks only",
        ),
        (
            &["--network=host", "--ip=10.0.0.2"],
            "supported on user defined networks only",
        ),
        (
            &["--network=a", "--network=name=bridge,ip=10.0.0.2"],
            "supported on user defined networks only",
        ),
        (
            &["--network-alias=a"],
            "only supported for user-defined networks",
        ),
        (&["--link=a"], "not supported on the default bridge"),
        (
            &["--network=host", "--link=a"],
            "host type networking can't be used with links",
        ),
        (
            &["--network=none", "--mac-address=02:42:ac:11:00:02"],
            "mac-address and the network mode",
        ),
        (
            &["--network=name=host,gw-priority=1"],
            "has no endpoint of its own",
        ),
        (&["--network=a", "--ip6=::1"], "--ip6 is not supported yet"),
        (
            &["--network=a", "--link-local-ip=169.254.1.1"],
            "--link-local-ip is not supported yet",
        ),
        (&["--network=a", "--ip=::1"], "'::1' is not an IPv4 address"),
        (&["--network=a", "--ip=x"], "'x' is not an IP address"),
        (
            &["--network=a", "--mac-address=x"],
            "'x' is not a MAC address",
        ),
        (
            &["--network=a", "--link=x:"],
            "'x:' is not CONTAINER or CONTAINER:ALIAS",
        ),
        (&["--network=alias=a"], "network name/id is not specified"),
    ] {
        let words: Vec<_> = words.iter().chain(&["x"]).copied().collect();
        let message = message(&words);
        assert!(message.contains(expected), "{words:?}: {message}");
    }
}

#[test]
fn storage_options() {
    let config = config(&[
        "-v",
        "./a:/a:ro",
        "-v",
        "data:/b",
        "--mount",
        "type=tmpfs,target=/c",
        "--tmpfs",
        "/d:size=1m",
        "--shm-size",
        "1m",
        "--read-only",
        "--log-opt",
        "max-size=1m",
        "--log-driver",
        "local",
        "x",
    ]);
    let targets: Vec<_> = config
        .mounts
        .iter()
        .map(|mount| mount.target.as_str())
        .collect();
    assert_eq!(targets, ["/a", "/b", "/c", "/d"]);
    assert_eq!(
        config.mounts[0].source,
        MountSource::Bind {
            path: "/home/me/a".to_owned(),
            create: true
        }
    );
    assert_eq!(config.shm_size, 1 << 20);
    assert!(config.security.read_only);
    assert_eq!(config.log_options["max-size"], "1m");
    assert_eq!(
        message(&["-v", "/a", "--tmpfs", "/a", "x"]),
        "duplicate mount point: /a"
    );
    assert!(message(&["--log-driver", "syslog", "x"]).contains("json-file"));
}

#[test]
fn limits_and_security() {
    let config = config(&[
        "-m",
        "512m",
        "--memory-swap",
        "-1",
        "--memory-reservation",
        "1g",
        "--cpus",
        "1.5",
        "-c",
        "512",
        "--cpuset-cpus",
        "0-1",
        "--cpuset-mems",
        "0",
        "--pids-limit",
        "-1",
        "--ulimit",
        "nofile=1:2",
        "--sysctl",
        "a.b=c",
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop",
        "ALL",
        "--privileged",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=profile",
        "x",
    ]);
    assert_eq!(
        config.resources,
        Resources {
            memory: 512 << 20,
            memory_swap: -1,
            memory_reservation: 1 << 30,
            nano_cpus: 1_500_000_000,
            cpu_shares: 512,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            pids_limit: -1,
        }
    );
    assert_eq!(config.ulimits.len(), 1);
    assert_eq!(config.sysctls["a.b"], "c");
    let security = &config.security;
    assert!(security.privileged && security.no_new_privileges);
    assert_eq!(
        (&security.cap_add[..], &security.cap_drop[..]),
        (&["NET_ADMIN".to_owned()][..], &["ALL".to_owned()][..])
    );
    assert!(matches!(&security.seccomp, SeccompChoice::Profile(text) if text.starts_with('{')));
}

#[test]
fn security_options() {
    for (given, no_new_privileges, seccomp) in [
        ("no-new-privileges", true, SeccompChoice::Default),
        ("no-new-privileges:true", true, SeccompChoice::Default),
        ("no-new-privileges=false", false, SeccompChoice::Default),
        ("seccomp=unconfined", false, SeccompChoice::Unconfined),
        ("seccomp:unconfined", false, SeccompChoice::Unconfined),
        ("seccomp=builtin", false, SeccompChoice::Default),
    ] {
        let security = config(&["--security-opt", given, "x"]).security;
        assert_eq!(
            (security.no_new_privileges, security.seccomp),
            (no_new_privileges, seccomp),
            "{given}"
        );
    }
    for given in [
        "foo",
        "no-new-privileges:maybe",
        "seccomp=",
        "seccomp",
        "apparmor=x",
        "seccomp=none",
        "seccomp=broken",
    ] {
        assert!(
            read_words(&["--security-opt", given, "x"]).is_err(),
            "{given}"
        );
    }
}

#[test]
fn what_is_not_there_yet_is_refused() {
    for (name, takes_value) in UNSUPPORTED {
        let flag = if *takes_value {
            format!("--{name}=x")
        } else {
            format!("--{name}")
        };
        assert_eq!(
            message(&[&flag, "i"]),
            format!("--{name} is not supported yet")
        );
    }
    assert!(
        read_words(&[
            "--restart",
            "no",
            "--cgroupns=private",
            "--ipc",
            "private",
            "i"
        ])
        .is_ok()
    );
    assert!(message(&["--restart", "always", "i"]).contains("--restart 'always'"));
}

#[test]
fn other_values() {
    assert_eq!(
        read_words(&["--pull", "never", "x"]).unwrap().pull,
        PullPolicy::Never
    );
    assert_eq!(
        read_words(&["--pull=always", "x"]).unwrap().pull,
        PullPolicy::Always
    );
    assert!(read_words(&["--pull", "foo", "x"]).is_err());
    assert_eq!(
        read_words(&["--platform", "linux/arm64/v8", "x"])
            .unwrap()
            .platform
            .as_deref(),
        Some("linux/arm64/v8")
    );
    for platform in ["a/b/c/d", "linux/", "lin ux"] {
        assert!(
            read_words(&["--platform", platform, "x"]).is_err(),
            "{platform}"
        );
    }
    assert!(read_words(&["--stop-timeout", "x", "i"]).is_err());
    assert!(read_words(&["--pids-limit", "x", "i"]).is_err());
    assert!(read_words(&[""]).is_err());
}
