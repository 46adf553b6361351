//! Ways into containers and into the host that the network must not offer, seen from a
//! second machine: a network namespace that is connected to the host by a link. Each test
//! names the advisory whose flaw it would show.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of a test fail as the test does"
)]

mod escapes;
mod support;

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use escapes::run;
use support::{Installation, text, wait_until};

/// A machine beside the host.
struct Outside {
    name: String,
    /// Address of the host on the link between them.
    host: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn ip(arguments: &str) -> String {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

impl Outside {
    /// Makes one; its addresses are of the block for benchmarks, told apart by process.
    fn new() -> Outside {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gtx{}n{number}", std::process::id());
        let place = (std::process::id() * 4 + number * 4) % 0x1_fffc / 4 * 4;
        let address = |offset: u32| {
            let value = 0xc612_0000u32 + place + offset;
            std::net::Ipv4Addr::from(value).to_string()
        };
        let outside = Outside {
            host: address(1),
            name,
        };
        let Outside { name, host } = &outside;
        let own = address(2);
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {name} type veth peer name eth0 netns {name}"
        ));
        ip(&format!("addr add {host}/30 dev {name}"));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {own}/30 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} route add default via {host}"));
        outside
    }

    /// Runs a program of busybox there.
    fn busybox(&self, arguments: &[&str]) -> Output {
        let mut words = vec!["netns", "exec", &self.name, "/bin/busybox"];
        words.extend(arguments);
        Command::new("ip")
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a web server answers, if it does.
    fn get(&self, address: &str) -> Option<String> {
        let url = format!("http://{address}/");
        let output = self.busybox(&["timeout", "2", "wget", "-q", "-O", "-", &url]);
        output.status.success().then(|| text(&output.stdout))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "delete", &self.name])
            .output();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .output();
    }
}

/// Starts a web server in a container that answers with its own name, and one on port 81
/// that nobody publishes.
fn serve(installation: &Installation, name: &str, flags: &[&str]) -> String {
    let script = format!(
        "mkdir /www; echo {name} > /www/index.html; httpd -p 81 -h /www; exec httpd -f -p 80 -h /www"
    );
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(flags);
    arguments.extend(["busybox", "sh", "-c", &script]);
    installation.ok(&arguments);
    let address = installation.ok(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", name]);
    wait_until("the web server", || {
        from_host(&format!("{address}:81")).as_deref() == Some(name)
    });
    address
}

fn from_host(address: &str) -> Option<String> {
    let url = format!("http://{address}/");
    let output = Command::new("/bin/busybox")
        .args(["timeout", "2", "wget", "-q", "-O", "-", &url])
        .output()
        .unwrap();
    output.status.success().then(|| text(&output.stdout))
}

/// The port of the host behind which port 80 of a container is.
fn published(installation: &Installation, name: &str) -> u16 {
    let format = "{{range $port, $bindings := .NetworkSettings.Ports}}{{range $bindings}}{{.HostPort}} {{end}}{{end}}";
    let said = installation.ok(&["inspect", "-f", format, name]);
    said.split_whitespace().next().unwrap().parse().unwrap()
}

// N05, the hardening of Docker 28: what is not published is not reachable, by whatever route;
// and what is published on the loopback address is only for the host.
#[test]
fn n05_only_published_ports_are_reachable_from_outside() {
    let installation = Installation::with_busybox();
    let outside = Outside::new();
    let open = serve(&installation, "open", &["-p", "0:80"]);
    let closed = serve(&installation, "closed", &[]);
    let local = serve(&installation, "local", &["-p", "127.0.0.1::80"]);
    let port = published(&installation, "open");
    let local_port = published(&installation, "local");
    let host = &outside.host;
    // What has to work, so that what follows means something.
    assert_eq!(
        outside.get(&format!("{host}:{port}")).as_deref(),
        Some("open")
    );
    assert_eq!(
        from_host(&format!("127.0.0.1:{port}")).as_deref(),
        Some("open")
    );
    assert_eq!(
        from_host(&format!("127.0.0.1:{local_port}")).as_deref(),
        Some("local")
    );
    assert_eq!(
        from_host(&format!("{closed}:80")).as_deref(),
        Some("closed")
    );
    // The host forwards whatever the other machine sends to a container's address.
    let forbidden = [
        format!("{closed}:80"),
        format!("{closed}:81"),
        format!("{open}:81"),
        format!("{local}:80"),
        format!("{local}:81"),
        format!("{host}:{local_port}"),
        format!("{host}:80"),
        format!("{host}:81"),
    ];
    std::thread::scope(|scope| {
        for address in &forbidden {
            let outside = &outside;
            scope.spawn(move || assert_eq!(outside.get(address), None, "{address} from outside"));
        }
    });
    assert_eq!(
        outside.get(&format!("{host}:{port}")).as_deref(),
        Some("open"),
        "still"
    );
}

// N06, CVE-2020-8558: route_localnet lets a neighbour reach what is bound to 127.0.0.1.
#[test]
fn n06_the_loopback_address_is_not_for_neighbours() {
    let installation = Installation::with_busybox();
    let outside = Outside::new();
    serve(&installation, "local", &["-p", "127.0.0.1::80"]);
    let local_port = published(&installation, "local");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    // A machine that sends packets for 127.0.0.1 over its link.
    let gateway = "ip addr del 127.0.0.1/8 dev lo 2>/dev/null; ip link set lo down; \
        echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet";
    let neighbour = format!(
        "{gateway}; ip route add 127.0.0.0/8 via {} dev eth0 src $(ip -4 addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p')",
        outside.host
    );
    let sent = outside.busybox(&["sh", "-c", &neighbour]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let container = format!(
        "{gateway}; ip route add 127.0.0.0/8 via $(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p') dev eth0 src $(hostname -i) && echo routed"
    );
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "attacker",
        "--privileged",
        "busybox",
        "sleep",
        "1000",
    ]);
    assert_eq!(
        installation.ok(&["exec", "--privileged", "attacker", "sh", "-c", &container]),
        "routed"
    );
    for port in [service, local_port] {
        for address in ["127.0.0.1", "127.0.0.2"] {
            let port = port.to_string();
            let connect = ["timeout", "1", "nc", "-z", "-w", "1", address, &port];
            assert!(
                !outside.busybox(&connect).status.success(),
                "{address}:{port} from outside"
            );
            let mut arguments = vec!["exec", "attacker"];
            arguments.extend(connect);
            assert!(
                !installation.gantry(&arguments).status.success(),
                "{address}:{port} from a container"
            );
        }
    }
    assert!(listener.accept().is_err(), "a connection came through");
    // The host itself goes on reaching both.
    assert!(TcpStream::connect(("127.0.0.1", service)).is_ok());
    assert_eq!(
        from_host(&format!("127.0.0.1:{local_port}")).as_deref(),
        Some("local")
    );
}

// N02, CVE-2024-32473, CVE-2020-13401, N03, CVE-2020-10749: addresses of IPv6 on a network
// that has none, and routers that anybody announces.
#[test]
fn n02_a_network_without_ipv6_has_none() {
    let installation = Installation::with_busybox();
    installation.ok(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    let script = "grep -v ' lo$' /proc/net/if_inet6; cd /proc/sys/net/ipv6/conf; \
        for l in all default eth0; do [ -e $l ] && echo $(cat $l/disable_ipv6); done; cat eth0/accept_ra";
    let said = installation.ok(&["exec", "one", "sh", "-c", script]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["1", "1", "1"], "{said}");
    assert_eq!(lines[3..], ["0"], "accept_ra of eth0");
    // Nor can it be turned on from inside.
    let turn = "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
    assert!(
        !installation
            .gantry(&["exec", "one", "sh", "-c", turn])
            .status
            .success()
    );
    // The host's ends take nothing from containers either.
    let bridge = format!("gt{}", installation.instance());
    let id = installation.ok(&["inspect", "-f", "{{.Id}}", "one"]);
    for link in [bridge, format!("gv{}", &id[..12])] {
        let shown = ip(&format!("-6 addr show dev {link}"));
        assert_eq!(shown, "", "{link} has an address of IPv6");
    }
    // Frames at a bridge's port are the bridge's, so its settings are what counts.
    let read = |name: &str| {
        let path = format!(
            "/proc/sys/net/ipv6/conf/gt{}/{name}",
            installation.instance()
        );
        text(&std::fs::read(path).unwrap())
    };
    assert_eq!(
        (read("accept_ra"), read("disable_ipv6")),
        ("0".into(), "1".into())
    );
}

// N17: a port of the loopback address that is held or served on all addresses.
#[test]
fn n17_a_loopback_port_is_bound_on_loopback_only() {
    let installation = Installation::with_busybox();
    let outside = Outside::new();
    serve(&installation, "local", &["-p", "127.0.0.1::80"]);
    let port = published(&installation, "local");
    let hexadecimal = format!(":{port:04X} ");
    for (table, allowed) in [
        ("tcp", &["0100007F"][..]),
        (
            "tcp6",
            &[
                "00000000000000000000000001000000",
                "0000000000000000FFFF00000100007F",
            ],
        ),
    ] {
        let sockets = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap();
        for line in sockets.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Sockets that listen, or are bound only.
            if words[3] == "0A" && format!("{} ", words[1]).ends_with(&hexadecimal) {
                let address = words[1].split(':').next().unwrap();
                assert!(allowed.contains(&address), "{table}: {line}");
            }
        }
    }
    let elsewhere = format!("{}:{port}", outside.host);
    assert_eq!(from_host(&elsewhere), None, "{elsewhere} from the host");
    assert_eq!(outside.get(&elsewhere), None, "{elsewhere} from outside");
    assert_eq!(
        from_host(&format!("127.0.0.1:{port}")).as_deref(),
        Some("local")
    );
    // The same port is free on another address of the host: it is not held there.
    TcpListener::bind(&elsewhere).expect("the port of another address is free");
    // A second container cannot take it, and says so.
    let taken = format!("127.0.0.1:{port}:80");
    let said = installation.fails(125, &["run", "--rm", "-p", &taken, "busybox", "true"]);
    assert!(said.contains(&port.to_string()), "{said}");
}
