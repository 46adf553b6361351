//! Who reaches whom.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::helpers::{address, endpoint, fetches, idle, pings, web};
use crate::support::{Installation, wait_until};

/// A machine next to this one: a network namespace behind a link of its own. It goes away
/// with the process in it, which ends with this one.
struct Outside {
    keeper: Child,
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
        // Of RFC 2544's 198.18.0.0/15 the half that tests/network.rs leaves.
        let base = u32::from(Ipv4Addr::new(198, 19, 0, 0)) + (pid & 0x3fff) * 4;
        let (host, client) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        let outside = Outside { keeper, client };
        let namespace = |path: &str| std::fs::read_link(format!("/proc/{path}/ns/net")).unwrap();
        wait_until("the namespace is made", || {
            namespace(&pid.to_string()) != namespace("self")
        });
        let script = format!(
            "ip link add gto{pid} type veth peer name eth0 netns {pid} && \
             ip address add {host}/30 dev gto{pid} && ip link set gto{pid} up && \
             nsenter --net=/proc/{pid}/ns/net sh -c 'ip address add {client}/30 dev eth0 && \
             ip link set eth0 up && ip route add default via {host}'"
        );
        let made = Command::new("sh").args(["-c", &script]).status();
        assert!(made.unwrap().success());
        outside
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// N05: networks do not see each other, whatever is asked for.
#[test]
fn networks_are_apart() {
    let installation = Installation::with_busybox();
    for name in ["one", "two"] {
        installation.ok(&["network", "create", name]);
    }
    web(&installation, "box-a", &["--network", "one"]);
    web(&installation, "box-b", &["--network", "one"]);
    web(&installation, "box-c", &["--network", "two"]);
    web(&installation, "box-d", &[]);
    let networks = [
        ("box-a", "one"),
        ("box-b", "one"),
        ("box-c", "two"),
        ("box-d", "bridge"),
    ];
    // At once: what is dropped is waited for in vain.
    std::thread::scope(|scope| {
        for (from, own) in networks {
            for (to, other) in networks {
                let installation = &installation;
                scope.spawn(move || {
                    let address = address(installation, to, other);
                    let together = own == other;
                    let label = format!("{from} to {to} at {address}");
                    assert_eq!(pings(installation, from, &address), together, "{label}");
                    assert_eq!(fetches(installation, from, &address), together, "{label}");
                });
            }
        }
    });
    for (from, own) in networks {
        let gateway = endpoint(&installation, from, own)["Gateway"].take();
        assert!(
            pings(&installation, from, gateway.as_str().unwrap()),
            "{from}"
        );
    }
    // Who is on both reaches both, and is no way through.
    installation.ok(&["network", "connect", "two", "box-a"]);
    let far = address(&installation, "box-c", "two");
    assert!(fetches(&installation, "box-a", &far) && !fetches(&installation, "box-b", &far));
    // Nobody without the right to change routes can make it one.
    let through = address(&installation, "box-a", "one");
    let route = ["exec", "box-b", "ip", "route", "add", &far, "via", &through];
    assert!(!installation.gantry(&route).status.success());
    installation.ok(&["rm", "-f", "box-a", "box-b", "box-c", "box-d"]);
    installation.assert_clean();
}

#[test]
fn the_way_out_of_a_network() {
    let installation = Installation::with_busybox();
    let outside = Outside::new();
    let client = outside.client.to_string();
    installation.ok(&["network", "create", "open"]);
    installation.ok(&["network", "create", "--internal", "closed"]);
    idle(&installation, "box-a", &["--network", "open"]);
    idle(&installation, "box-b", &["--network", "closed"]);
    web(&installation, "box-c", &["--network", "closed"]);
    assert!(pings(&installation, "box-a", &client));
    assert!(!pings(&installation, "box-b", &client));
    assert!(fetches(
        &installation,
        "box-b",
        &address(&installation, "box-c", "closed")
    ));
    let routes = installation.ok(&["exec", "box-b", "ip", "route"]);
    assert!(!routes.contains("default"), "{routes}");
    // N01: even with a route of its own making.
    let gateway =
        crate::helpers::network(&installation, "closed")["IPAM"]["Config"][0]["Gateway"].take();
    let script = format!(
        "ip route add default via {} && ip route",
        gateway.as_str().unwrap()
    );
    installation.ok(&["exec", "--privileged", "box-b", "sh", "-c", &script]);
    assert!(!pings(&installation, "box-b", &client));
    // On both, the way out is the open one.
    installation.ok(&["network", "connect", "open", "box-c"]);
    assert!(pings(&installation, "box-c", &client));
    installation.ok(&["network", "disconnect", "open", "box-c"]);
    assert!(!pings(&installation, "box-c", &client));
    installation.ok(&["rm", "-f", "box-a", "box-b", "box-c"]);
    installation.assert_clean();
}

#[test]
fn a_network_without_traffic_inside() {
    let installation = Installation::with_busybox();
    installation.ok(&[
        "network",
        "create",
        "-o",
        "com.docker.network.bridge.enable_icc=false",
        "net",
    ]);
    web(&installation, "box-a", &["--network", "net"]);
    web(&installation, "box-b", &["--network", "net"]);
    let (a, b) = (
        address(&installation, "box-a", "net"),
        address(&installation, "box-b", "net"),
    );
    assert!(!pings(&installation, "box-a", &b) && !pings(&installation, "box-b", &a));
    assert!(!fetches(&installation, "box-a", &b) && !fetches(&installation, "box-b", &a));
    let gateway = endpoint(&installation, "box-a", "net")["Gateway"].take();
    assert!(pings(&installation, "box-a", gateway.as_str().unwrap()));
    // One that comes later is kept apart as well.
    idle(&installation, "box-c", &[]);
    installation.ok(&["network", "connect", "net", "box-c"]);
    assert!(!fetches(&installation, "box-c", &a));
    installation.ok(&["rm", "-f", "box-a", "box-b", "box-c"]);
    installation.assert_clean();
}

/// What a page of a container's server says, asked from the host.
fn fetch(host: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(
        &format!("{host}:{port}").parse().unwrap(),
        Duration::from_secs(3),
    )
    .ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().last().map(str::to_owned)
}

fn published(installation: &Installation, container: &str) -> (String, u16) {
    let mut described = installation.inspect(container);
    let bindings = described["NetworkSettings"]["Ports"]["80/tcp"].take();
    let binding = &bindings[0];
    (
        binding["HostIp"].as_str().unwrap().to_owned(),
        binding["HostPort"].as_str().unwrap().parse().unwrap(),
    )
}

#[test]
fn published_ports() {
    let installation = Installation::with_busybox();
    for name in ["one", "two"] {
        installation.ok(&["network", "create", name]);
    }
    installation.ok(&[
        "network",
        "create",
        "-o",
        "com.docker.network.bridge.host_binding_ipv4=127.0.0.1",
        "local",
    ]);
    web(
        &installation,
        "web",
        &["-p", "80", "-h", "web", "--network", "one"],
    );
    let (_, port) = published(&installation, "web");
    assert_eq!(fetch("127.0.0.1", port).as_deref(), Some("web"));
    idle(&installation, "peer", &["--network", "two"]);
    // From another network only by the host's address.
    let gateway = endpoint(&installation, "peer", "two")["Gateway"].take();
    let host = format!("{}:{port}", gateway.as_str().unwrap());
    assert!(fetches(&installation, "peer", &host));
    // A further network does not take the port away, nor does leaving it.
    installation.ok(&["network", "connect", "two", "web"]);
    assert_eq!(fetch("127.0.0.1", port).as_deref(), Some("web"));
    installation.ok(&["network", "disconnect", "two", "web"]);
    assert_eq!(fetch("127.0.0.1", port).as_deref(), Some("web"));
    web(
        &installation,
        "local",
        &["-p", "80", "-h", "local", "--network", "local"],
    );
    let (ip, port) = published(&installation, "local");
    assert_eq!(ip, "127.0.0.1");
    assert_eq!(fetch("127.0.0.1", port).as_deref(), Some("local"));
    installation.ok(&["rm", "-f", "web", "peer", "local"]);
    installation.assert_clean();
}
