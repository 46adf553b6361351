//! What packets really do. Each test plays a host with two bridges in a private namespace, beside
//! a second host on the same Ethernet that has routes to the containers and to 127.0.0.0/8.

use super::*;
use crate::Protocol;
use crate::attach::{
    BridgeLink, ContainerLink, HostLink, attach_host, configure_container, ensure_bridge,
    wait_until_connected,
};
use crate::link::{Mac, PortOptions};
use crate::netlink::Batch;
use crate::testing::{Namespace, ask_again, unique_instance};
use crate::{address, conntrack, link, sysctl};
use rustix::fd::AsFd;
use std::net::UdpSocket;
use std::time::Duration;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FIRST: BridgeSpec<'static> = bridge("first0", 17);
const SECOND: BridgeSpec<'static> = bridge("second0", 18);

const fn bridge(name: &'static str, second: u8) -> BridgeSpec<'static> {
    let gateway = Ipv4Addr::new(172, second, 0, 1);
    let Some(subnet) = Subnet::new(gateway, 16) else {
        unreachable!()
    };
    BridgeSpec {
        name,
        subnet,
        gateway,
        icc: true,
        masquerade: true,
        internal: false,
    }
}

struct World {
    instance: String,
    outside: Namespace,
    host: Namespace,
    /// 172.17.0.2
    web: Namespace,
    /// 172.17.0.3, on the same bridge
    neighbour: Namespace,
    /// 172.18.0.2, on the other bridge
    stranger: Namespace,
}

fn route_socket() -> Socket {
    Socket::open(Family::Route).unwrap()
}

impl World {
    fn new(first: BridgeSpec<'static>, bridge_netfilter: bool) -> World {
        let world = World {
            instance: unique_instance(),
            outside: Namespace::new(),
            host: Namespace::new(),
            web: Namespace::new(),
            neighbour: Namespace::new(),
            stranger: Namespace::new(),
        };
        world.connect_outside();
        world.host.run(|| {
            let net = sysctl::open().unwrap();
            // A new namespace begins with the setting of the first one.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            assert!(sysctl::enable_forwarding(net.as_fd()).unwrap());
            assert!(!sysctl::enable_forwarding(net.as_fd()).unwrap());
            for bridge in [first, SECOND] {
                ensure(&world.instance, &bridge).unwrap();
                let link = BridgeLink {
                    name: bridge.name,
                    address: Some((bridge.gateway, bridge.subnet.prefix_length())),
                    mtu: None,
                    alias: Some("gantry test"),
                };
                ensure_bridge(&mut route_socket(), &link).unwrap();
                sysctl::route_localnet(net.as_fd(), bridge.name).unwrap();
            }
        });
        let calls = if bridge_netfilter { "1" } else { "0" };
        world.host.set("bridge/bridge-nf-call-iptables", calls);
        for (namespace, bridge, last) in [
            (&world.web, first, 2),
            (&world.neighbour, first, 3),
            (&world.stranger, SECOND, 2),
        ] {
            world.start(namespace, &bridge, last);
        }
        world
    }

    /// Two hosts on one Ethernet. The outside one knows every route that an attacker would set.
    fn connect_outside(&self) {
        self.host.run(|| {
            let mut batch = Batch::new();
            let pair = link::VethPair {
                name: "uplink",
                master: None,
                peer_name: "uplink",
                peer_mac: Mac::random().unwrap(),
                mtu: None,
            };
            link::create_veth(&mut batch, &pair, self.outside.fd());
            link::set_up(&mut batch, link::Target::Index(link::LOOPBACK_INDEX), "lo");
            let mut socket = route_socket();
            socket.execute(&mut batch).unwrap();
            let index = link::find(&mut socket, "uplink").unwrap().unwrap().index;
            let mut batch = Batch::new();
            address::add(&mut batch, index, "uplink", HOST.into(), 24);
            link::set_up(&mut batch, link::Target::Index(index), "uplink");
            socket.execute(&mut batch).unwrap();
        });
        // Without lo there is no 127.0.0.0/8 of its own.
        self.outside.run(|| {
            let mut socket = route_socket();
            let index = link::find(&mut socket, "uplink").unwrap().unwrap().index;
            let mut batch = Batch::new();
            address::add(&mut batch, index, "uplink", OUTSIDE.into(), 24);
            link::set_up(&mut batch, link::Target::Index(index), "uplink");
            socket.execute(&mut batch).unwrap();
        });
        self.wait_for("uplink", "uplink");
        for network in ["172.17.0.0/16", "172.18.0.0/16", "127.0.0.0/8"] {
            self.outside
                .output("ip", &["route", "add", network, "via", "192.0.2.2"]);
        }
        self.outside.set("ipv4/conf/uplink/route_localnet", "1");
    }

    fn start(&self, container: &Namespace, bridge: &BridgeSpec<'_>, last: u8) {
        let [a, b, c, _] = bridge.gateway.octets();
        let address = Ipv4Addr::new(a, b, c, last);
        let name = format!("{}.{last}", bridge.name);
        self.host.run(|| {
            let mut socket = route_socket();
            let host_link = HostLink {
                name: &name,
                bridge: link::find(&mut socket, bridge.name).unwrap().unwrap().index,
                peer_name: "eth0",
                peer_mac: Mac::from_ipv4(address),
                mtu: Some(1400),
                port: PortOptions {
                    isolated: !bridge.icc,
                    hairpin: sysctl::bridge_netfilter(sysctl::open().unwrap().as_fd()).unwrap(),
                },
                alias: Some("gantry test container"),
            };
            attach_host(&mut socket, &host_link, container.fd()).unwrap();
        });
        container.run(|| {
            sysctl::disable_ipv6(sysctl::open().unwrap().as_fd()).unwrap();
            let link = ContainerLink {
                name: "eth0",
                address,
                prefix_length: 16,
                gateway: Some(bridge.gateway),
                mtu: None,
                ipv6: None,
            };
            configure_container(&[link]).unwrap();
        });
        self.wait_for(&name, bridge.name);
    }

    fn wait_for(&self, name: &str, bridge: &str) {
        self.host.run(|| {
            let mut socket = route_socket();
            let index = link::find(&mut socket, bridge).unwrap().unwrap().index;
            let patience = Duration::from_secs(5);
            assert!(wait_until_connected(&mut socket, name, index, patience).unwrap());
        });
    }

    /// Serves and publishes what most tests need: 8080 everywhere, 8082 on 127.0.0.1, 9000 to 9002
    /// as a range; 81 is not published.
    fn serve_and_publish(&self) {
        for port in [80, 81, 82, 9000, 9001, 9002] {
            self.web.serve_tcp("web", Ipv4Addr::UNSPECIFIED, port);
        }
        self.web.serve_udp("web", 53);
        let mappings = [
            mapping(None, 8080, 80, 1, Protocol::Tcp),
            mapping(Some(Ipv4Addr::LOCALHOST), 8082, 82, 1, Protocol::Tcp),
            mapping(None, 9000, 9000, 3, Protocol::Tcp),
            mapping(None, 5353, 53, 1, Protocol::Udp),
        ];
        self.host
            .run(|| publish(&self.instance, "web", &mappings))
            .unwrap();
    }

    fn check(&self, cases: &[(&Namespace, &str, &str, Option<&str>)]) {
        // Most refusals are seen by waiting, so all cases wait at the same time.
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = cases
                .iter()
                .map(|(from, _, target, _)| scope.spawn(|| from.ask_tcp(target)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let mut wrong = String::new();
        for ((_, name, target, expected), answer) in cases.iter().zip(answers) {
            if answer.as_deref() != *expected {
                wrong += &format!("{name} to {target}: {answer:?}, not {expected:?}\n");
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }
}

fn mapping(
    host_address: Option<Ipv4Addr>,
    host_port: u16,
    container_port: u16,
    count: u16,
    protocol: Protocol,
) -> PortMapping {
    let container_address = Ipv4Addr::new(172, 17, 0, 2);
    PortMapping {
        host_address,
        host_port,
        container_address,
        container_port,
        count,
        protocol,
    }
}

/// N05 (the hardening of Docker 28), with and without br_netfilter: {published, unpublished,
/// published on loopback} by {the container's address, the host's, another bridge}. No other
/// table exists, so the FORWARD policy is to accept.
#[test]
fn who_reaches_what() {
    for bridge_netfilter in [false, true] {
        let world = World::new(FIRST, bridge_netfilter);
        world.serve_and_publish();
        let World {
            outside,
            host,
            web,
            neighbour,
            stranger,
            ..
        } = &world;
        world.check(&[
            // From outside: published ports only, and they see the client's own address.
            (outside, "outside", "192.0.2.2:8080", Some("web 192.0.2.1")),
            (outside, "outside", "192.0.2.2:9000", Some("web 192.0.2.1")),
            (outside, "outside", "192.0.2.2:9002", Some("web 192.0.2.1")),
            (outside, "outside", "192.0.2.2:9003", None),
            (outside, "outside", "172.17.0.1:8080", Some("web 192.0.2.1")),
            (outside, "outside", "192.0.2.2:81", None),
            (outside, "outside", "192.0.2.2:8082", None),
            (outside, "outside", "172.17.0.1:8082", None),
            (outside, "outside", "127.0.0.1:8080", None),
            (outside, "outside", "127.0.0.1:8082", None),
            (outside, "outside", "172.17.0.2:80", None),
            (outside, "outside", "172.17.0.2:81", None),
            (outside, "outside", "172.17.0.2:82", None),
            (outside, "outside", "172.17.0.2:9001", None),
            // From another bridge: as from outside.
            (
                stranger,
                "stranger",
                "192.0.2.2:8080",
                Some("web 172.18.0.2"),
            ),
            (
                stranger,
                "stranger",
                "172.18.0.1:8080",
                Some("web 172.18.0.2"),
            ),
            (
                stranger,
                "stranger",
                "172.17.0.1:9001",
                Some("web 172.18.0.2"),
            ),
            (stranger, "stranger", "192.0.2.2:8082", None),
            (stranger, "stranger", "172.17.0.1:8082", None),
            (stranger, "stranger", "172.17.0.2:80", None),
            (stranger, "stranger", "172.17.0.2:81", None),
            (stranger, "stranger", "172.17.0.2:82", None),
            // From the same bridge: everything directly, published ports through the host too.
            (
                neighbour,
                "neighbour",
                "172.17.0.2:80",
                Some("web 172.17.0.3"),
            ),
            (
                neighbour,
                "neighbour",
                "172.17.0.2:81",
                Some("web 172.17.0.3"),
            ),
            (
                neighbour,
                "neighbour",
                "172.17.0.2:82",
                Some("web 172.17.0.3"),
            ),
            (
                neighbour,
                "neighbour",
                "192.0.2.2:8080",
                Some("web 172.17.0.1"),
            ),
            (
                neighbour,
                "neighbour",
                "172.17.0.1:9002",
                Some("web 172.17.0.1"),
            ),
            (neighbour, "neighbour", "192.0.2.2:8082", None),
            // From itself.
            (web, "web", "192.0.2.2:8080", Some("web 172.17.0.1")),
            (web, "web", "172.17.0.1:9000", Some("web 172.17.0.1")),
            (web, "web", "127.0.0.1:81", Some("web 127.0.0.1")),
            // From the host.
            (host, "host", "127.0.0.1:8080", Some("web 172.17.0.1")),
            (host, "host", "127.0.0.1:8082", Some("web 172.17.0.1")),
            (host, "host", "127.0.0.1:9001", Some("web 172.17.0.1")),
            (host, "host", "127.0.0.2:8080", Some("web 172.17.0.1")),
            (host, "host", "127.0.0.2:8082", None),
            (host, "host", "192.0.2.2:8080", Some("web 192.0.2.2")),
            (host, "host", "172.17.0.1:8080", Some("web 172.17.0.1")),
            (host, "host", "192.0.2.2:8082", None),
            (host, "host", "172.17.0.2:81", Some("web 172.17.0.1")),
        ]);
        for (from, expected) in [
            (outside, "web 192.0.2.1"),
            (stranger, "web 172.18.0.2"),
            (web, "web 172.17.0.1"),
        ] {
            assert_eq!(from.ask_udp("192.0.2.2:5353").as_deref(), Some(expected));
        }
    }
}

/// N06, CVE-2020-8558: route_localnet must not open the host's 127.0.0.1 to containers or the
/// neighbourhood.
#[test]
fn cve_2020_8558_loopback_stays_the_hosts_own() {
    let world = World::new(FIRST, false);
    world.host.serve_tcp("secret", Ipv4Addr::LOCALHOST, 631);
    for container in [&world.web, &world.stranger] {
        container.output(
            "ip",
            &["route", "del", "local", "127.0.0.0/8", "table", "local"],
        );
        container.output("ip", &["addr", "flush", "dev", "lo"]);
        container.output("ip", &["route", "replace", "127.0.0.0/8", "dev", "eth0"]);
        container.set("ipv4/conf/eth0/route_localnet", "1");
    }
    // Directly to the bridge's address, as a packet for 127.0.0.1 must be to arrive.
    for (container, mac) in [
        (&world.web, "02:42:ac:11:00:01"),
        (&world.stranger, "02:42:ac:12:00:01"),
    ] {
        container.output(
            "ip",
            &[
                "neigh",
                "replace",
                "127.0.0.1",
                "lladdr",
                mac,
                "dev",
                "eth0",
            ],
        );
    }
    let World {
        outside,
        host,
        web,
        stranger,
        ..
    } = &world;
    world.check(&[
        (outside, "outside", "127.0.0.1:631", None),
        (web, "web", "127.0.0.1:631", None),
        (stranger, "stranger", "127.0.0.1:631", None),
        (host, "host", "127.0.0.1:631", Some("secret 127.0.0.1")),
    ]);
    // The packets do arrive: without the guard they are answered.
    let table = format!("gantry-{}", world.instance);
    host.output("nft", &["flush", "chain", "inet", &table, "guard"]);
    world.check(&[(web, "web", "127.0.0.1:631", Some("secret 172.17.0.2"))]);
}

/// N08, CVE-2025-67499: a connection to another host's port of the same number is left alone.
#[test]
fn cve_2025_67499_other_hosts_ports_are_not_redirected() {
    let world = World::new(FIRST, false);
    world.serve_and_publish();
    world
        .outside
        .serve_tcp("outside", Ipv4Addr::UNSPECIFIED, 8080);
    let World {
        host,
        web,
        stranger,
        ..
    } = &world;
    world.check(&[
        (host, "host", "192.0.2.1:8080", Some("outside 192.0.2.2")),
        // Containers carry the host's address outside.
        (web, "web", "192.0.2.1:8080", Some("outside 192.0.2.2")),
        (
            stranger,
            "stranger",
            "192.0.2.1:8080",
            Some("outside 192.0.2.2"),
        ),
    ]);
}

/// N02, CVE-2024-32473 and CVE-2020-13401: no IPv6 address of any scope on an IPv4 network.
#[test]
fn cve_2024_32473_no_ipv6_address_on_an_ipv4_network() {
    let world = World::new(FIRST, false);
    for container in [&world.web, &world.stranger] {
        let addresses =
            container.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
        assert_eq!(addresses, "");
        let read = |path: &str| container.run(|| std::fs::read_to_string(path).unwrap());
        for link in ["all", "default", "eth0", "lo"] {
            let path = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
            assert_eq!(read(&path), "1\n", "{path}");
        }
    }
    let on_our_links = world.host.run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        text.lines()
            .filter(|line| line.contains("first0") || line.contains("second0"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    assert_eq!(on_our_links, Vec::<String>::new());
}

#[test]
fn without_icc_only_published_ports_are_reached() {
    for bridge_netfilter in [false, true] {
        let world = World::new(
            BridgeSpec {
                icc: false,
                ..FIRST
            },
            bridge_netfilter,
        );
        world.serve_and_publish();
        let World {
            outside,
            host,
            neighbour,
            ..
        } = &world;
        // br_netfilter passes a translated frame straight to the other port, which is isolated.
        let through_host = (!bridge_netfilter).then_some("web 172.17.0.1");
        world.check(&[
            (neighbour, "neighbour", "172.17.0.2:80", None),
            (neighbour, "neighbour", "172.17.0.2:81", None),
            (neighbour, "neighbour", "192.0.2.2:8080", through_host),
            (outside, "outside", "192.0.2.2:8080", Some("web 192.0.2.1")),
            (host, "host", "172.17.0.2:81", Some("web 172.17.0.1")),
        ]);
    }
}

#[test]
fn an_internal_network_has_no_way_out() {
    let world = World::new(
        BridgeSpec {
            internal: true,
            masquerade: false,
            ..FIRST
        },
        false,
    );
    world
        .outside
        .serve_tcp("outside", Ipv4Addr::UNSPECIFIED, 7000);
    world.outside.output(
        "ip",
        &["route", "replace", "172.17.0.0/16", "via", "192.0.2.2"],
    );
    for port in [80, 82] {
        world.web.serve_tcp("web", Ipv4Addr::UNSPECIFIED, port);
    }
    let World {
        outside,
        host,
        web,
        neighbour,
        stranger,
        ..
    } = &world;
    world.check(&[
        (web, "web", "192.0.2.1:7000", None),
        (web, "web", "172.18.0.2:7000", None),
        (
            stranger,
            "stranger",
            "192.0.2.1:7000",
            Some("outside 192.0.2.2"),
        ),
        (
            neighbour,
            "neighbour",
            "172.17.0.2:80",
            Some("web 172.17.0.3"),
        ),
        (host, "host", "172.17.0.2:80", Some("web 172.17.0.1")),
        (outside, "outside", "172.17.0.2:80", None),
    ]);
}

#[test]
fn an_unpublished_port_is_closed_and_its_flows_are_forgotten() {
    let world = World::new(FIRST, false);
    world.serve_and_publish();
    let World {
        outside,
        host,
        instance,
        ..
    } = &world;
    let udp = mapping(None, 5353, 53, 1, Protocol::Udp);
    let client = outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    assert_eq!(
        ask_again(&client, "192.0.2.2:5353").as_deref(),
        Some("web 192.0.2.1")
    );

    host.run(|| unpublish(instance, &[udp])).unwrap();
    // The flow is known, and would be translated for as long as the client goes on.
    assert!(ask_again(&client, "192.0.2.2:5353").is_some());
    let forgotten = host
        .run(|| conntrack::flush_address(Ipv4Addr::new(172, 17, 0, 2)))
        .unwrap();
    assert!(forgotten > 0);
    assert_eq!(ask_again(&client, "192.0.2.2:5353"), None);

    // Now it is known as a flow to the host, which publishing does not change.
    host.run(|| publish(instance, "web", &[udp])).unwrap();
    assert_eq!(ask_again(&client, "192.0.2.2:5353"), None);
    assert!(
        host.run(|| conntrack::flush_port(Protocol::Udp, 5353))
            .unwrap()
            > 0
    );
    assert_eq!(
        ask_again(&client, "192.0.2.2:5353").as_deref(),
        Some("web 192.0.2.1")
    );

    let unrelated = host
        .run(|| conntrack::flush_address(Ipv4Addr::new(172, 17, 9, 9)))
        .unwrap();
    assert_eq!(unrelated, 0);
    assert_eq!(
        host.run(|| conntrack::flush_port(Protocol::Tcp, 5353))
            .unwrap(),
        0
    );
}

/// A reserved port is bound on the host and still reaches the container.
#[test]
fn a_reserved_port_is_translated_all_the_same() {
    use crate::ports::{HostPort, PortRequest, reserve};
    let world = World::new(FIRST, false);
    world.serve_and_publish();
    let request = |address: Option<Ipv4Addr>, port, protocol| PortRequest {
        host_address: address.map(Into::into),
        port: HostPort::Exactly(port),
        protocol,
    };
    let reservations = world.host.run(|| {
        [
            reserve(&request(None, 8080, Protocol::Tcp)).unwrap(),
            reserve(&request(Some(Ipv4Addr::LOCALHOST), 8082, Protocol::Tcp)).unwrap(),
            reserve(&request(None, 5353, Protocol::Udp)).unwrap(),
        ]
    });
    let World { outside, host, .. } = &world;
    world.check(&[
        (host, "host", "127.0.0.1:8080", Some("web 172.17.0.1")),
        (host, "host", "127.0.0.1:8082", Some("web 172.17.0.1")),
        (host, "host", "192.0.2.2:8080", Some("web 192.0.2.2")),
        (outside, "outside", "192.0.2.2:8080", Some("web 192.0.2.1")),
    ]);
    assert_eq!(
        outside.ask_udp("192.0.2.2:5353").as_deref(),
        Some("web 192.0.2.1")
    );
    drop(reservations);
}
