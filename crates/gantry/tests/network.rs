//! Containers on the default bridge and beside it: addresses, published ports from every
//! side, and what is left of them.
//!
//! Clients and servers inside containers and namespaces are this program itself, started
//! again with [`ROLE`] set: what a client sees is what the server saw of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Installation, text, wait_until};

/// `serve`, or `tcp ADDRESS` and `udp ADDRESS` to ask a server who it is spoken to by.
const ROLE: &str = "GANTRY_TEST_ROLE";
const PROBE: [&str; 5] = ["/probe", "--exact", "probe", "--ignored", "--nocapture"];

/// Not a test: what this program does inside.
#[test]
#[ignore = "started by the other tests in containers"]
fn probe() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    if role == "serve" {
        let udp = UdpSocket::bind("0.0.0.0:80").unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        });
        for mut client in TcpListener::bind("0.0.0.0:80")
            .unwrap()
            .incoming()
            .flatten()
        {
            let peer = client.peer_addr().unwrap().ip();
            let _ = client.write_all(peer.to_string().as_bytes());
        }
    }
    let (protocol, address) = role.split_once(' ').unwrap();
    let protocol = if protocol == "tcp" {
        Protocol::Tcp
    } else {
        Protocol::Udp
    };
    match ask(protocol, address.parse().unwrap()) {
        Ok(peer) => println!("\nanswer {peer}"),
        Err(error) => println!("\nfailed {error}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// Asks a server whom it sees.
fn ask(protocol: Protocol, server: SocketAddr) -> Result<IpAddr, String> {
    let failed = |error: std::io::Error| format!("{protocol} {server}: {error}");
    let patience = Duration::from_secs(3);
    let mut answer = String::new();
    match protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&server, patience).map_err(failed)?;
            stream.set_read_timeout(Some(patience)).unwrap();
            stream.read_to_string(&mut answer).map_err(failed)?;
        }
        Protocol::Udp => {
            let any: IpAddr = match server {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).map_err(failed)?;
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect(server).map_err(failed)?;
            socket.send(b"?").map_err(failed)?;
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).map_err(failed)?;
            answer = text(&buffer[..length]);
        }
    }
    answer
        .parse()
        .map_err(|_| format!("{protocol} {server}: answered {answer:?}"))
}

/// What a probe that was started elsewhere printed.
fn read_answer(output: &[u8]) -> Result<IpAddr, String> {
    let output = text(output);
    let answer = output
        .lines()
        .find_map(|line| line.strip_prefix("answer "))
        .ok_or_else(|| output.clone())?;
    answer.parse().map_err(|_| output)
}

fn probe_mount() -> String {
    let program = std::env::current_exe().unwrap();
    format!("{}:/probe:ro", program.display())
}

/// Starts a server with these flags and waits until it answers; returns its address.
fn serve(installation: &Installation, name: &str, flags: &[&str]) -> Ipv4Addr {
    let (mount, role) = (probe_mount(), format!("{ROLE}=serve"));
    let mut arguments = vec!["run", "-d", "--name", name, "-v", &mount, "-e", &role];
    arguments.extend(flags);
    arguments.push("busybox");
    arguments.extend(PROBE);
    installation.ok(&arguments);
    let address = address_of(installation, name);
    wait_until_served(address);
    address
}

fn wait_until_served(address: Ipv4Addr) {
    wait_until("the server listens", || {
        TcpStream::connect_timeout(&(address, 80).into(), Duration::from_millis(500)).is_ok()
    });
}

/// Asks from a new container.
fn ask_inside(
    installation: &Installation,
    flags: &[&str],
    protocol: Protocol,
    server: SocketAddr,
) -> Result<IpAddr, String> {
    let (mount, role) = (probe_mount(), format!("{ROLE}={protocol} {server}"));
    let mut arguments = vec!["run", "--rm", "-v", &mount, "-e", &role];
    arguments.extend(flags);
    arguments.push("busybox");
    arguments.extend(PROBE);
    read_answer(&installation.gantry(&arguments).stdout)
}

/// Asks from a container that runs.
fn ask_from(
    installation: &Installation,
    container: &str,
    protocol: Protocol,
    server: SocketAddr,
) -> Result<IpAddr, String> {
    let role = format!("{ROLE}={protocol} {server}");
    let mut arguments = vec!["exec", "-e", &role, container];
    arguments.extend(PROBE);
    read_answer(&installation.gantry(&arguments).stdout)
}

fn inspect(installation: &Installation, container: &str) -> Value {
    let described = installation.ok(&["inspect", container]);
    serde_json::from_str::<Value>(&described).unwrap()[0].take()
}

fn address_of(installation: &Installation, container: &str) -> Ipv4Addr {
    let settings = inspect(installation, container)["NetworkSettings"].take();
    settings["IPAddress"].as_str().unwrap().parse().unwrap()
}

fn gateway_of(installation: &Installation, container: &str) -> Ipv4Addr {
    let settings = inspect(installation, container)["NetworkSettings"].take();
    settings["Gateway"].as_str().unwrap().parse().unwrap()
}

/// Host addresses and ports that a port of a container is published on.
fn bindings(installation: &Installation, container: &str, port: &str) -> Vec<(IpAddr, u16)> {
    let described = inspect(installation, container);
    let bindings = described["NetworkSettings"]["Ports"][port].as_array();
    let part = |binding: &Value, key: &str| binding[key].as_str().unwrap().to_owned();
    bindings
        .into_iter()
        .flatten()
        .map(|binding| {
            (
                part(binding, "HostIp").parse().unwrap(),
                part(binding, "HostPort").parse().unwrap(),
            )
        })
        .collect()
}

fn published(installation: &Installation, container: &str, port: &str) -> u16 {
    let bindings = bindings(installation, container, port);
    bindings.first().expect("the port is published").1
}

/// A port that was free a moment ago, in both families and both protocols.
fn free_port() -> u16 {
    free_ports(1)
}

/// The first of some consecutive ones, below those that the kernel hands out.
fn free_ports(count: u16) -> u16 {
    let is_free = |port: u16| {
        TcpListener::bind(("::", port)).is_ok() && UdpSocket::bind(("::", port)).is_ok()
    };
    let start = 10_000 + (std::process::id() % 2000) as u16 * 10;
    (start..32_000)
        .step_by(10)
        .find(|&first| (first..first + count).all(is_free))
        .expect("some port is free")
}

/// A machine next to this one: a network namespace behind a link of its own. It goes away
/// with the process in it, which ends with this one.
struct Outside {
    keeper: Child,
    /// This host's address on the link.
    host: Ipv4Addr,
    /// The other machine's.
    client: Ipv4Addr,
}

impl Outside {
    fn new() -> Outside {
        let keeper = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = keeper.id();
        // RFC 2544 gives 198.18.0.0/15 to tests; a process has four addresses of it.
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (pid & 0x7fff) * 4;
        let outside = Outside {
            keeper,
            host: Ipv4Addr::from(base + 1),
            client: Ipv4Addr::from(base + 2),
        };
        let namespace = |path: &str| std::fs::read_link(format!("/proc/{path}/ns/net")).unwrap();
        wait_until("the namespace is made", || {
            namespace(&pid.to_string()) != namespace("self")
        });
        let link = format!("gto{pid}");
        let (host, client) = (
            format!("{}/30", outside.host),
            format!("{}/30", outside.client),
        );
        let pid_text = pid.to_string();
        ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid_text,
        ]);
        ip(&["address", "add", &host, "dev", &link]);
        ip(&["link", "set", &link, "up"]);
        outside.run(&["ip", "address", "add", &client, "dev", "eth0"]);
        outside.run(&["ip", "link", "set", "eth0", "up"]);
        outside.run(&[
            "ip",
            "route",
            "add",
            "default",
            "via",
            &outside.host.to_string(),
        ]);
        outside
    }

    fn enter(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.keeper.id()))
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) {
        assert!(
            self.enter(arguments).status().unwrap().success(),
            "{arguments:?}"
        );
    }

    fn ask(&self, protocol: Protocol, server: SocketAddr) -> Result<IpAddr, String> {
        let program = std::env::current_exe().unwrap();
        let output = self
            .enter(&[program.to_str().unwrap()])
            .args(&PROBE[1..])
            .env(ROLE, format!("{protocol} {server}"))
            .output()
            .unwrap();
        read_answer(&output.stdout)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

#[test]
fn a_container_has_the_address_that_inspect_shows() {
    let installation = Installation::with_busybox();
    installation.ok(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    installation.ok(&["run", "-d", "--name", "two", "busybox", "sleep", "1000"]);
    let one = address_of(&installation, "one");
    let two = address_of(&installation, "two");
    let gateway = gateway_of(&installation, "one").to_string();
    assert_ne!(one, two);
    let inside = installation.ok(&["exec", "one", "ip", "-4", "-o", "address", "show", "eth0"]);
    assert!(inside.contains(&format!("inet {one}/")), "{inside}");
    let hosts = installation.ok(&["exec", "one", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&one.to_string()), "{hosts}");
    // The very first packet of a program already gets through: an answer within less than
    // the second after which a lost request for the neighbour's address is repeated.
    for _ in 0..5 {
        let ping = ["ping", "-c", "1", "-W", "1", &gateway];
        installation.ok(&[&["run", "--rm", "busybox"][..], &ping].concat());
    }
    installation.ok(&[
        "exec",
        "one",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        &two.to_string(),
    ]);
    installation.ok(&[
        "exec",
        "two",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        &one.to_string(),
    ]);
    installation.ok(&["rm", "-f", "one", "two"]);
    installation.assert_clean();
}

/// CVE-2020-13401 and CVE-2024-32473 (N02): no address that a neighbour could have a part in.
#[test]
fn a_container_has_no_ipv6() {
    let installation = Installation::with_busybox();
    let flags = ["run", "--rm", "busybox", "sh", "-c"];
    let script = "cat /proc/net/if_inet6 2>/dev/null; cat /proc/sys/net/ipv6/conf/*/disable_ipv6 \
                  2>/dev/null | grep -v 1; ip -6 address; ip -6 route; true";
    assert_eq!(installation.ok(&[&flags[..], &[script]].concat()), "");
    installation.assert_clean();
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let installation = Installation::with_busybox();
    let outside = Outside::new();
    let port = free_port();
    let (tcp, udp) = (format!("{port}:80"), format!("{port}:80/udp"));
    let server = serve(&installation, "server", &["-p", &tcp, "-p", &udp]);
    let gateway = gateway_of(&installation, "server");
    let host = outside.host;
    let at = |address: IpAddr| SocketAddr::new(address, port);
    let mut failures = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        // (client, answer, what the server must have seen)
        let answers = [
            (
                "the host by 127.0.0.1",
                ask(protocol, at(Ipv4Addr::LOCALHOST.into())),
                None,
            ),
            (
                "the host by [::1]",
                ask(protocol, at(Ipv6Addr::LOCALHOST.into())),
                None,
            ),
            (
                "the host by its address",
                ask(protocol, at(host.into())),
                None,
            ),
            (
                "outside",
                outside.ask(protocol, at(host.into())),
                Some(outside.client),
            ),
            (
                "a container by the gateway",
                ask_inside(&installation, &[], protocol, at(gateway.into())),
                None,
            ),
            (
                "a container by the host's address",
                ask_inside(&installation, &[], protocol, at(host.into())),
                None,
            ),
            (
                "itself by the gateway",
                ask_from(&installation, "server", protocol, at(gateway.into())),
                None,
            ),
            (
                "itself by the host's address",
                ask_from(&installation, "server", protocol, at(host.into())),
                None,
            ),
        ];
        for (client, answer, wanted) in answers {
            match (answer, wanted) {
                (Ok(seen), Some(wanted)) if seen != IpAddr::from(wanted) => {
                    failures.push(format!("{protocol} from {client}: seen as {seen}"));
                }
                (Ok(_), _) => {}
                (Err(error), _) => failures.push(format!("{protocol} from {client}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    // Without the port in between, containers see each other's own addresses.
    let flags = ["--name", "client"];
    installation.ok(&["run", "-d", "--name", "other", "busybox", "sleep", "1000"]);
    let other = address_of(&installation, "other");
    let seen = ask_inside(&installation, &flags, Protocol::Tcp, (server, 80).into()).unwrap();
    assert!(
        ![gateway, server, other].contains(&seen.to_string().parse().unwrap()),
        "{seen}"
    );
    installation.ok(&["rm", "-f", "server", "other"]);
    for address in [
        IpAddr::from(host),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        assert!(
            ask(Protocol::Tcp, at(address)).is_err(),
            "{address} still answers"
        );
    }
    installation.assert_clean();
}

#[test]
fn a_port_on_loopback_is_reached_from_there_only() {
    let installation = Installation::with_busybox();
    let outside = Outside::new();
    serve(
        &installation,
        "server",
        &["-p", "127.0.0.1::80", "-p", "127.0.0.1::80/udp"],
    );
    let gateway = gateway_of(&installation, "server");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let shown = bindings(&installation, "server", &format!("80/{protocol}"));
        let [(address, port)] = shown[..] else {
            panic!("{shown:?}");
        };
        assert_eq!(address, IpAddr::from(Ipv4Addr::LOCALHOST));
        ask(protocol, (Ipv4Addr::LOCALHOST, port).into()).unwrap();
        let elsewhere = [
            ask(protocol, (outside.host, port).into()),
            ask(protocol, (Ipv6Addr::LOCALHOST, port).into()),
            outside.ask(protocol, (outside.host, port).into()),
            ask_from(&installation, "server", protocol, (gateway, port).into()),
        ];
        assert!(
            elsewhere.iter().all(Result::is_err),
            "{protocol}: {elsewhere:?}"
        );
    }
    installation.ok(&["rm", "-f", "server"]);
    installation.assert_clean();
}

#[test]
fn ports_without_a_number_are_chosen_and_shown() {
    let installation = Installation::with_busybox();
    let tar = support::busybox_tar();
    let changes = ["-c", "EXPOSE 80", "-c", "EXPOSE 81/udp"];
    let source = [tar.to_str().unwrap(), "exposing"];
    installation.ok(&[&["import"][..], &changes, &source].concat());
    let sleep = ["sleep", "1000"];
    let run = |flags: &[&str], image: &str| {
        installation.ok(&[&["run", "-d"][..], flags, &[image], &sleep].concat());
    };
    run(&["--name", "one", "-p", "80"], "busybox");
    run(&["--name", "two", "-p", "0:80", "-p", ":81/udp"], "busybox");
    run(&["--name", "all", "-P"], "exposing");
    run(&["--name", "quiet"], "exposing");
    let ports = [
        ("one", "80/tcp"),
        ("two", "80/tcp"),
        ("two", "81/udp"),
        ("all", "80/tcp"),
        ("all", "81/udp"),
    ];
    let listed = installation.ok(&["ps", "--format", "{{.Names}}|{{.Ports}}"]);
    let mut seen = std::collections::BTreeSet::new();
    for (name, port) in ports {
        let number = published(&installation, name, port);
        assert!(
            number > 0 && seen.insert((number, &port[3..])),
            "{name} {port}: {number}"
        );
        let line = listed.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(
            line.contains(&format!("0.0.0.0:{number}->{port}")),
            "{line}"
        );
        assert!(line.contains(&format!("[::]:{number}->{port}")), "{line}");
    }
    assert!(bindings(&installation, "quiet", "80/tcp").is_empty());
    let line = listed
        .lines()
        .find(|line| line.starts_with("quiet"))
        .unwrap();
    assert!(!line.contains("->"), "{line}");
    installation.ok(&["rm", "-f", "one", "two", "all", "quiet"]);
    installation.assert_clean();
}

#[test]
fn ranges_pair_up_and_a_range_before_one_port_means_a_free_one() {
    let installation = Installation::with_busybox();
    let first = free_ports(6);
    let (pairs, choice) = (
        format!("{first}-{}:79-81", first + 2),
        format!("{}-{}:80", first + 3, first + 5),
    );
    serve(&installation, "pairs", &["-p", &pairs]);
    for (offset, port) in ["79/tcp", "80/tcp", "81/tcp"].into_iter().enumerate() {
        assert_eq!(
            published(&installation, "pairs", port),
            first + offset as u16
        );
    }
    ask(Protocol::Tcp, (Ipv4Addr::LOCALHOST, first + 1).into()).unwrap();
    ask(Protocol::Tcp, (Ipv6Addr::LOCALHOST, first + 1).into()).unwrap();
    for (name, port) in [
        ("first", first + 3),
        ("second", first + 4),
        ("third", first + 5),
    ] {
        serve(&installation, name, &["-p", &choice]);
        assert_eq!(published(&installation, name, "80/tcp"), port);
        ask(Protocol::Tcp, (Ipv4Addr::LOCALHOST, port).into()).unwrap();
    }
    let error = installation.fails(125, &["run", "--rm", "-p", &choice, "busybox", "true"]);
    assert!(
        error.contains(&format!("from {} to {}", first + 3, first + 5)),
        "{error}"
    );
    installation.ok(&["rm", "-f", "pairs", "first", "second", "third"]);
    installation.assert_clean();
}

#[test]
fn a_port_that_is_taken_is_named_with_its_holder() {
    let installation = Installation::with_busybox();
    // Somebody else's.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    let holder = std::process::id().to_string();
    let port = format!("{taken}:80");
    // A second port that was free must not stay reserved.
    let free = free_port();
    let flags = [
        "run",
        "--rm",
        "-p",
        &format!("{free}:81"),
        "-p",
        &port,
        "busybox",
        "true",
    ];
    let error = installation.fails(125, &flags);
    assert_eq!(
        error.lines().count(),
        2,
        "a line, and one with a hint: {error}"
    );
    assert!(
        error.contains(&format!(":{taken}/tcp")) && error.contains(&holder),
        "{error}"
    );
    installation.assert_clean();
    drop(TcpListener::bind(("0.0.0.0", free)).unwrap());

    // A container's own: still running afterwards, and the other one is as it was.
    serve(&installation, "first", &["-p", "80"]);
    let number = published(&installation, "first", "80/tcp");
    let port = format!("{number}:80");
    let error = installation.fails(125, &["run", "-d", "-p", &port, "--rm", "busybox", "true"]);
    assert!(error.contains(&format!(":{number}/tcp")), "{error}");
    ask(Protocol::Tcp, (Ipv4Addr::LOCALHOST, number).into()).unwrap();
    // Another protocol is another port.
    installation.ok(&[
        "run",
        "--rm",
        "-p",
        &format!("{port}/udp"),
        "busybox",
        "true",
    ]);
    installation.ok(&["rm", "-f", "first"]);
    installation.assert_clean();
    // And then it is free.
    installation.ok(&["run", "--rm", "-p", &port, "busybox", "true"]);
    installation.assert_clean();
}

#[test]
fn other_networks_than_the_bridge() {
    let installation = Installation::with_busybox();
    let run = |network: &str, script: &str| {
        installation.ok(&[
            "run",
            "--rm",
            "--network",
            network,
            "busybox",
            "sh",
            "-c",
            script,
        ])
    };
    let links = "ls /sys/class/net | tr '\\n' ' '; ip -4 -o address | grep -c inet";
    let none = run("none", "ip -o link | wc -l; ip -o link; ip route");
    assert!(
        none.starts_with("1\n") && none.contains("lo") && none.contains("UP"),
        "{none}"
    );
    assert_eq!(
        run("none", "ping -c 1 -W 1 127.0.0.1 >/dev/null && echo yes"),
        "yes"
    );

    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(
        run("host", "readlink /proc/self/ns/net"),
        own.to_str().unwrap()
    );

    let address = serve(&installation, "server", &[]);
    let joined = run(
        "container:server",
        &format!("ip -4 -o address show eth0; {links}"),
    );
    assert!(joined.contains(&format!("inet {address}/")), "{joined}");
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let flags = ["--network", "container:server"];
    ask_inside(&installation, &flags, Protocol::Tcp, loopback).unwrap();
    let error = installation.fails(
        125,
        &[
            "run",
            "--rm",
            "--network",
            "container:nobody",
            "busybox",
            "true",
        ],
    );
    assert!(error.contains("nobody"), "{error}");
    installation.ok(&["rm", "-f", "server"]);
    installation.assert_clean();
}

#[test]
fn a_stopped_container_comes_back_with_its_port() {
    let installation = Installation::with_busybox();
    let port = free_port();
    serve(&installation, "server", &["-p", &format!("{port}:80")]);
    for _ in 0..2 {
        // Connections that have just ended must not keep the port from being had again.
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            ask(Protocol::Tcp, (address, port).into()).unwrap();
        }
        installation.ok(&["stop", "-t", "0", "server"]);
        assert!(ask(Protocol::Tcp, (Ipv4Addr::LOCALHOST, port).into()).is_err());
        assert!(bindings(&installation, "server", "80/tcp").is_empty());
        installation.ok(&["start", "server"]);
        wait_until_served(address_of(&installation, "server"));
    }
    ask(Protocol::Tcp, (Ipv4Addr::LOCALHOST, port).into()).unwrap();
    installation.ok(&["rm", "-f", "server"]);
    installation.assert_clean();
}

/// What still knows a container by its address must not meet another one there.
#[test]
fn addresses_are_not_given_again_at_once() {
    let installation = Installation::with_busybox();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let script = ["ip", "-4", "-o", "address", "show", "eth0"];
        let shown = installation.ok(&[&["run", "--rm", "busybox"][..], &script].concat());
        assert!(seen.insert(shown.clone()), "again: {shown}");
    }
    installation.assert_clean();
}

#[test]
fn a_port_outlives_either_process_of_the_supervisor() {
    let installation = Installation::with_busybox();
    serve(&installation, "server", &["-p", "80", "-p", "80/udp"]);
    let tcp = published(&installation, "server", "80/tcp");
    let udp = published(&installation, "server", "80/udp");
    for which in [0, 1, 0, 1] {
        let mut before = installation.supervisors();
        before.sort_unstable();
        assert_eq!(before.len(), 2);
        let killed = before[which];
        let pid = rustix::process::Pid::from_raw(killed).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // Rules serve the IPv4 clients, whoever lives; others wait in the socket's queue.
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            ask(Protocol::Tcp, (address, tcp).into()).unwrap();
        }
        ask(Protocol::Udp, (Ipv4Addr::LOCALHOST, udp).into()).unwrap();
        ask(Protocol::Udp, (Ipv6Addr::LOCALHOST, udp).into()).unwrap();
        wait_until("there are two again", || {
            let now = installation.supervisors();
            now.len() == 2 && !now.contains(&killed)
        });
        // Still nobody else's.
        assert!(TcpListener::bind(("0.0.0.0", tcp)).is_err());
        assert!(UdpSocket::bind(("0.0.0.0", udp)).is_err());
    }
    installation.ok(&["rm", "-f", "server"]);
    installation.assert_clean();
    assert!(TcpListener::bind(("0.0.0.0", tcp)).is_ok());
}

/// Somebody empties the firewall: the next start puts our rules back.
#[test]
fn rules_that_somebody_removed_come_back() {
    let installation = Installation::with_busybox();
    installation.ok(&["run", "--rm", "-p", "80", "busybox", "true"]);
    let table = format!("gantry-{}", installation.instance());
    let nft = |arguments: &[&str]| Command::new("nft").args(arguments).status().unwrap();
    assert!(nft(&["delete", "table", "inet", &table]).success());
    serve(&installation, "server", &["-p", "80"]);
    let port = published(&installation, "server", "80/tcp");
    ask(Protocol::Tcp, (Ipv4Addr::LOCALHOST, port).into()).unwrap();
    installation.ok(&["rm", "-f", "server"]);
    installation.assert_clean();
}

/// Installations live side by side: each chooses a subnet that no other one has, also when
/// they do so at the same moment, and chooses again when its own was taken meanwhile.
#[test]
fn installations_do_not_share_a_subnet() {
    let installations: Vec<Installation> = (0..4).map(|_| Installation::with_busybox()).collect();
    let run = ["run", "--rm", "busybox", "ip", "route"];
    let subnets = |installations: &[Installation]| {
        let running: Vec<Child> = installations
            .iter()
            .map(|installation| {
                let mut command = installation.command(&run);
                command.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let routes = running
            .into_iter()
            .map(|child| text(&child.wait_with_output().unwrap().stdout));
        let network = |routes: String| routes.lines().last().unwrap().to_owned();
        let subnet = |line: String| line.split(' ').next().unwrap().to_owned();
        routes.map(network).map(subnet).collect::<Vec<_>>()
    };
    let distinct = |subnets: &[String]| {
        let set: std::collections::BTreeSet<_> = subnets.iter().collect();
        assert_eq!(set.len(), subnets.len(), "{subnets:?}");
        assert!(
            subnets.iter().all(|subnet| subnet.contains('/')),
            "{subnets:?}"
        );
    };
    let before = subnets(&installations);
    distinct(&before);
    // Gives its subnet up, remembers it, and finds somebody else there.
    let outside = Outside::new();
    let link = format!("gto{}", outside.keeper.id());
    // Less good than its own, which is still there: so nobody else gets between.
    ip(&["route", "add", &before[0], "dev", &link, "metric", "5000"]);
    installations[0].ok(&["system", "reset", "--force"]);
    distinct(&[subnets(&installations), vec![before[0].clone()]].concat());
    installations.iter().for_each(Installation::assert_clean);
}

#[test]
fn heavy_thirty_containers_with_ports_at_once() {
    let installation = Installation::with_busybox();
    let script = "hostname > /tmp/name; exec httpd -f -p 80 -h /tmp";
    let starting: Vec<_> = (0..30)
        .map(|number| {
            let name = format!("web{number}");
            let flags = ["run", "-d", "--name", &name, "-h", &name, "-p", "80"];
            installation
                .command(&[&flags[..], &["busybox", "sh", "-c", script]].concat())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in starting {
        assert!(child.wait().unwrap().success());
    }
    let mut addresses = std::collections::BTreeSet::new();
    let mut ports = std::collections::BTreeSet::new();
    let mut names = Vec::new();
    for number in 0..30 {
        let name = format!("web{number}");
        assert!(
            addresses.insert(address_of(&installation, &name)),
            "an address twice"
        );
        let port = published(&installation, &name, "80/tcp");
        assert!(ports.insert(port), "a port twice");
        wait_until("the server answers", || {
            fetch(port, "/name").contains(&format!("\n{name}\n"))
        });
        names.push(name);
    }
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    installation.ok(&remove);
    installation.assert_clean();
}

fn fetch(port: u16, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        let _ = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}
