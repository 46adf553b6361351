//! Containers' places on networks: at the start, and changed while they run.

use crate::helpers::{
    address, await_links, bridge_of, endpoint, idle, inner_addresses, interfaces, network, pings,
    subnet,
};
use crate::support::Installation;

#[test]
fn addresses_that_are_asked_for() {
    let installation = Installation::with_busybox();
    let net = subnet(0);
    installation.ok(&[
        "network",
        "create",
        "--subnet",
        &net.text(),
        "--aux-address",
        &format!("printer={}", net.host(12)),
        "net",
    ]);
    installation.ok(&["network", "create", "chosen"]);
    let wanted = net.host(7);
    idle(&installation, "box", &["--network", "net", "--ip", &wanted]);
    assert_eq!(address(&installation, "box", "net"), wanted);
    assert_eq!(
        inner_addresses(&installation, "box"),
        [format!("eth0 {wanted}")]
    );
    let run = |network: &str, ip: &str| {
        let flags = [
            "run",
            "--rm",
            "--network",
            network,
            "--ip",
            ip,
            "busybox",
            "true",
        ];
        installation.fails(125, &flags)
    };
    let (gateway, printer) = (net.host(1), net.host(12));
    for (network, ip, expected) in [
        ("net", &*wanted, "already in use"),
        ("net", &printer, &*printer),
        ("net", &gateway, "gateway"),
        ("net", "192.0.2.1", "192.0.2.1"),
        ("net", "::1", "not an IPv4 address"),
        ("chosen", "172.20.0.9", "--subnet"),
        (
            "bridge",
            "172.17.0.9",
            "supported on user defined networks only",
        ),
        (
            "host",
            "172.17.0.9",
            "supported on user defined networks only",
        ),
    ] {
        let stderr = run(network, ip);
        assert!(stderr.contains(expected), "{network} {ip}: {stderr}");
    }
    // It is the same one after a restart, although somebody was first.
    installation.ok(&["stop", "box"]);
    idle(&installation, "other", &["--network", "net"]);
    assert_ne!(address(&installation, "other", "net"), wanted);
    installation.ok(&["start", "box"]);
    assert_eq!(
        inner_addresses(&installation, "box"),
        [format!("eth0 {wanted}")]
    );
    let long = format!("name=net,ip={},mac-address=02:42:0A:00:00:99", net.host(13));
    idle(&installation, "long", &["--network", &long]);
    assert_eq!(address(&installation, "long", "net"), net.host(13));
    assert_eq!(
        installation.ok(&["exec", "long", "cat", "/sys/class/net/eth0/address"]),
        "02:42:0a:00:00:99"
    );
    assert!(pings(&installation, "box", &net.host(13)));
    installation.ok(&["rm", "-f", "box", "other", "long"]);
    installation.assert_clean();
}

#[test]
fn a_full_network_says_so() {
    let installation = Installation::with_busybox();
    let net = subnet(0);
    let small = format!("{}/30", net.host(0));
    installation.ok(&["network", "create", "--subnet", &small, "net"]);
    idle(&installation, "one", &["--network", "net"]);
    assert_eq!(address(&installation, "one", "net"), net.host(2));
    let full = installation.fails(125, &["run", "--rm", "--network", "net", "busybox", "true"]);
    assert!(
        full.contains("network net has no free address left"),
        "{full}"
    );
    installation.ok(&["rm", "-f", "one"]);
    installation.ok(&["run", "--rm", "--network", "net", "busybox", "true"]);
    installation.assert_clean();
}

#[test]
fn connected_and_disconnected_while_running() {
    let installation = Installation::with_busybox();
    let net = subnet(0);
    let id = installation.ok(&["network", "create", "--subnet", &net.text(), "net"]);
    let bridge = bridge_of(&id);
    idle(&installation, "box", &[]);
    idle(&installation, "peer", &["--network", "net"]);
    let before = inner_addresses(&installation, "box");
    assert_eq!(interfaces(&installation, "box"), ["eth0"]);
    assert!(!pings(
        &installation,
        "box",
        &address(&installation, "peer", "net")
    ));
    installation.ok(&["network", "connect", "--ip", &net.host(9), "net", "box"]);
    assert_eq!(interfaces(&installation, "box"), ["eth0", "eth1"]);
    await_links(&bridge, 2);
    assert_eq!(address(&installation, "box", "net"), net.host(9));
    assert!(pings(
        &installation,
        "box",
        &address(&installation, "peer", "net")
    ));
    assert!(pings(&installation, "peer", &net.host(9)));
    let members = network(&installation, "net")["Containers"].take();
    assert_eq!(members.as_object().unwrap().len(), 2);
    let again = installation.fails(1, &["network", "connect", "net", "box"]);
    assert!(again.contains("already exists in network net"), "{again}");
    // Both are there again after a restart.
    installation.ok(&["stop", "box"]);
    await_links(&bridge, 1);
    installation.ok(&["start", "box"]);
    assert_eq!(interfaces(&installation, "box"), ["eth0", "eth1"]);
    assert_eq!(address(&installation, "box", "net"), net.host(9));
    // Off the default one: the default route moves.
    installation.ok(&["network", "disconnect", "bridge", "box"]);
    assert_eq!(interfaces(&installation, "box"), ["eth1"]);
    let route = installation.ok(&["exec", "box", "ip", "route", "show", "default"]);
    assert!(
        route.contains(&format!("via {} dev", net.host(1))),
        "{route}"
    );
    installation.ok(&["network", "disconnect", "net", "box"]);
    assert_eq!(interfaces(&installation, "box"), [""; 0]);
    await_links(&bridge, 1);
    let absent = installation.fails(1, &["network", "disconnect", "net", "box"]);
    assert!(
        absent.contains("is not connected to network net"),
        "{absent}"
    );
    installation.ok(&["network", "disconnect", "-f", "net", "box"]);
    installation.ok(&["network", "connect", "bridge", "box"]);
    assert_eq!(interfaces(&installation, "box").len(), 1);
    assert_eq!(inner_addresses(&installation, "box").len(), before.len());
    let gateway =
        installation.inspect("box")["NetworkSettings"]["Networks"]["bridge"]["Gateway"].take();
    assert!(pings(&installation, "box", gateway.as_str().unwrap()));
    installation.ok(&["rm", "-f", "box", "peer"]);
    await_links(&bridge, 0);
    installation.assert_clean();
}

#[test]
fn connected_and_disconnected_while_stopped() {
    let installation = Installation::with_busybox();
    for name in ["one", "two"] {
        installation.ok(&["network", "create", name]);
    }
    installation.ok(&[
        "create",
        "--name",
        "box",
        "--network",
        "one",
        "--stop-timeout",
        "0",
        "busybox",
        "sleep",
        "10000",
    ]);
    installation.ok(&["network", "connect", "two", "box"]);
    assert!(endpoint(&installation, "box", "two").is_object());
    assert_eq!(address(&installation, "box", "two"), "");
    installation.ok(&["start", "box"]);
    assert_eq!(interfaces(&installation, "box"), ["eth0", "eth1"]);
    installation.ok(&["stop", "box"]);
    installation.ok(&["network", "disconnect", "one", "box"]);
    installation.ok(&["start", "box"]);
    let inside = inner_addresses(&installation, "box");
    assert_eq!(
        inside,
        [format!("eth0 {}", address(&installation, "box", "two"))]
    );
    assert_eq!(installation.ok(&["ps", "--format", "{{.Networks}}"]), "two");
    installation.ok(&["rm", "-f", "box"]);
    installation.assert_clean();
}

#[test]
fn refused_connections() {
    let installation = Installation::with_busybox();
    let net = subnet(0);
    installation.ok(&["network", "create", "--subnet", &net.text(), "net"]);
    idle(&installation, "box", &["--network", "net"]);
    idle(&installation, "host", &["--network", "host"]);
    idle(&installation, "none", &["--network", "none"]);
    idle(&installation, "shared", &["--network", "container:box"]);
    let used = address(&installation, "box", "net");
    idle(&installation, "plain", &[]);
    for (words, expected) in [
        (&["missing", "box"][..], "network missing not found"),
        (&["net", "missing"], "missing"),
        (&["net", "host"], "host"),
        (&["net", "none"], "none"),
        (&["net", "shared"], "box"),
        (&["host", "box"], "host"),
        (&["none", "box"], "none"),
        (&["--ip", &used, "net", "plain"], "already in use"),
        (&["--ip", "192.0.2.1", "net", "plain"], "192.0.2.1"),
        (&["--ip", "192.0.2.1", "bridge", "box"], "192.0.2.1"),
        (&["--alias", "a", "bridge", "box"], "alias"),
    ] {
        let arguments: Vec<&str> = ["network", "connect"]
            .iter()
            .chain(words)
            .copied()
            .collect();
        let stderr = installation.fails(1, &arguments);
        assert!(stderr.contains(expected), "{words:?}: {stderr}");
    }
    assert_eq!(interfaces(&installation, "plain"), ["eth0"]);
    assert_eq!(interfaces(&installation, "box"), ["eth0"]);
    assert_eq!(
        network(&installation, "net")["Containers"]
            .as_object()
            .unwrap()
            .len(),
        1
    );
    // Nothing is kept of what was refused.
    installation.ok(&["network", "connect", "net", "plain"]);
    installation.ok(&["rm", "-f", "shared", "box", "host", "none", "plain"]);
    installation.assert_clean();
}

#[test]
fn several_networks_at_the_start() {
    let installation = Installation::with_busybox();
    let nets = [subnet(0), subnet(1)];
    for (name, net) in ["aaa", "bbb"].iter().zip(&nets) {
        installation.ok(&["network", "create", "--subnet", &net.text(), name]);
    }
    let route =
        |container: &str| installation.ok(&["exec", container, "ip", "route", "show", "default"]);
    idle(
        &installation,
        "both",
        &["--network", "bbb", "--network", "aaa"],
    );
    assert_eq!(
        inner_addresses(&installation, "both"),
        [
            format!("eth0 {}", address(&installation, "both", "bbb")),
            format!("eth1 {}", address(&installation, "both", "aaa")),
        ]
    );
    // Of equal priorities the first by name, as in Docker.
    assert!(
        route("both").contains(&format!("via {} dev", nets[0].host(1))),
        "{}",
        route("both")
    );
    idle(
        &installation,
        "prior",
        &["--network", "aaa", "--network", "name=bbb,gw-priority=1"],
    );
    assert!(
        route("prior").contains(&format!("via {} dev", nets[1].host(1))),
        "{}",
        route("prior")
    );
    idle(
        &installation,
        "three",
        &[
            "--network",
            "bridge",
            "--network",
            "aaa",
            "--network",
            "bbb",
        ],
    );
    assert_eq!(interfaces(&installation, "three"), ["eth0", "eth1", "eth2"]);
    let shown = installation.ok(&["ps", "-f", "name=three", "--format", "{{.Networks}}"]);
    let mut shown: Vec<&str> = shown.split(',').collect();
    shown.sort_unstable();
    assert_eq!(shown, ["aaa", "bbb", "bridge"]);
    assert!(pings(
        &installation,
        "both",
        &address(&installation, "prior", "aaa")
    ));
    assert!(pings(
        &installation,
        "both",
        &address(&installation, "prior", "bbb")
    ));
    // One that is not there, and one twice: nothing is left of the attempt.
    let missing = installation.fails(
        125,
        &[
            "run",
            "--network",
            "aaa",
            "--network",
            "missing",
            "busybox",
            "true",
        ],
    );
    assert!(missing.contains("network missing not found"), "{missing}");
    let id = network(&installation, "aaa")["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    let twice = installation.fails(
        125,
        &[
            "run",
            "--network",
            "aaa",
            "--network",
            &id,
            "busybox",
            "true",
        ],
    );
    assert!(
        twice.contains("twice") || twice.contains("multiple times"),
        "{twice}"
    );
    let names = installation.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    assert_eq!(names.lines().count(), 3, "{names}");
    installation.ok(&["rm", "-f", "both", "prior", "three"]);
    installation.assert_clean();
}

#[test]
fn the_domain_of_a_container() {
    let installation = Installation::with_busybox();
    let flags = [
        "run",
        "--rm",
        "--hostname",
        "web",
        "--domainname",
        "example.org",
        "busybox",
    ];
    let read = ["cat", "/proc/sys/kernel/domainname"];
    assert_eq!(
        installation.ok(&[&flags[..], &read].concat()),
        "example.org"
    );
    let hosts = installation.ok(&[&flags[..], &["cat", "/etc/hosts"]].concat());
    assert!(hosts.contains("web.example.org"), "{hosts}");
    installation.assert_clean();
}
