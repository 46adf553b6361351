//! Links, addresses and routes against the real kernel.

use super::*;
use crate::ipam::Subnet;
use crate::link::LinkInfo;
use crate::sysctl;
use crate::testing::Namespace;
use rustix::fd::AsFd;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const BRIDGE: BridgeLink<'static> = BridgeLink {
    name: "gantry0",
    address: Some((GATEWAY, 16)),
    mtu: None,
    alias: Some("ours"),
};

fn socket() -> Socket {
    Socket::open(Family::Route).unwrap()
}

fn host_link(bridge: u32) -> HostLink<'static> {
    HostLink {
        name: "veth-host",
        bridge,
        peer_name: "eth0",
        peer_mac: Mac::from_ipv4(ADDRESS),
        mtu: Some(1400),
        port: PortOptions {
            isolated: true,
            hairpin: true,
        },
        alias: Some("gantry cafe 0123"),
    }
}

fn container_link(ipv6: Option<Ipv6Endpoint>) -> ContainerLink<'static> {
    ContainerLink {
        name: "eth0",
        address: ADDRESS,
        prefix_length: 16,
        gateway: Some(GATEWAY),
        mtu: None,
        ipv6,
    }
}

fn find(name: &str) -> Option<LinkInfo> {
    link::find(&mut socket(), name).unwrap()
}

#[test]
fn a_bridge_is_made_once() {
    let host = Namespace::new();
    host.run(|| {
        let index = ensure_bridge(&mut socket(), &BRIDGE).unwrap();
        assert_eq!(ensure_bridge(&mut socket(), &BRIDGE).unwrap(), index);
        let bridge = find("gantry0").unwrap();
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        assert_eq!(bridge.alias.as_deref(), Some("ours"));
        assert_eq!(bridge.mac, Some(Mac::from_ipv4(GATEWAY)));
        assert!(bridge.up);
        let addresses: Vec<_> = address::list(&mut socket())
            .unwrap()
            .into_iter()
            .filter(|found| found.index == index)
            .map(|found| (found.address, found.prefix_length))
            .collect();
        assert_eq!(
            addresses,
            [(IpAddr::V4(GATEWAY), 16)],
            "and no link-local address"
        );

        assert!(link::delete(&mut socket(), "gantry0").unwrap());
        assert!(!link::delete(&mut socket(), "gantry0").unwrap());
        assert_eq!(find("gantry0"), None);
    });
}

#[test]
fn a_link_of_another_kind_is_not_taken_for_a_bridge() {
    let host = Namespace::new();
    host.output(
        "ip",
        &[
            "link", "add", "gantry0", "type", "veth", "peer", "name", "other",
        ],
    );
    let error = host.run(|| ensure_bridge(&mut socket(), &BRIDGE).unwrap_err());
    assert_eq!(error.errno, Errno::EXIST);
    assert_eq!(error.to_string(), "cannot create bridge gantry0");
    host.run(|| assert!(!find("gantry0").unwrap().up, "left as it was"));
}

#[test]
fn a_container_gets_its_link() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let bridge = host.run(|| {
        let bridge = ensure_bridge(&mut socket(), &BRIDGE).unwrap();
        attach_host(&mut socket(), &host_link(bridge), container.fd()).unwrap();
        let port = find("veth-host").unwrap();
        assert_eq!((port.master, port.mtu, port.up), (Some(bridge), 1400, true));
        assert_eq!(port.alias.as_deref(), Some("gantry cafe 0123"));
        assert_eq!(find("eth0"), None, "the peer was never here");
        let listed = link::list(&mut socket()).unwrap();
        assert!(listed.contains(&port));
        bridge
    });
    let details = host.output("ip", &["-d", "link", "show", "veth-host"]);
    for option in ["isolated on", "hairpin on", "addrgenmode none"] {
        assert!(details.contains(option), "{option}: {details}");
    }
    container.run(|| {
        sysctl::disable_ipv6(sysctl::open().unwrap().as_fd()).unwrap();
        configure_container(&[container_link(None)]).unwrap();
        let eth0 = find("eth0").unwrap();
        assert_eq!(
            (eth0.mac, eth0.mtu, eth0.up),
            (Some(Mac::from_ipv4(ADDRESS)), 1400, true)
        );
        let mut addresses: Vec<_> = address::list(&mut socket())
            .unwrap()
            .into_iter()
            .map(|found| (found.index, found.address, found.prefix_length))
            .collect();
        addresses.sort();
        let mut expected = [
            (link::LOOPBACK_INDEX, IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
            (eth0.index, IpAddr::V4(ADDRESS), 16),
        ];
        expected.sort();
        assert_eq!(addresses, expected);
        let routes = route::list(&mut socket()).unwrap();
        let default = routes
            .iter()
            .find(|route| route.destination.prefix_length() == 0)
            .unwrap();
        assert_eq!(default.gateway, Some(GATEWAY.into()));
        assert_eq!(default.link, Some(eth0.index));
        // Repeating it is no error.
        configure_container(&[container_link(None)]).unwrap();
    });
    // The host's end goes with the namespace.
    drop(container);
    let gone = Instant::now() + Duration::from_secs(10);
    while host.run(|| find("veth-host").is_some()) {
        assert!(Instant::now() < gone, "the link outlives its namespace");
        thread::sleep(Duration::from_millis(5));
    }
    host.run(|| assert_eq!(find("gantry0").unwrap().index, bridge));
}

#[test]
fn ipv6_addresses_are_usable_at_once() {
    let (host, container) = (Namespace::new(), Namespace::new());
    host.run(|| {
        let bridge = ensure_bridge(&mut socket(), &BRIDGE).unwrap();
        attach_host(&mut socket(), &host_link(bridge), container.fd()).unwrap();
    });
    let endpoint = Ipv6Endpoint {
        address: "fd00:1::2".parse().unwrap(),
        prefix_length: 64,
        gateway: Some("fd00:1::1".parse().unwrap()),
    };
    container.run(|| {
        configure_container(&[container_link(Some(endpoint))]).unwrap();
        std::net::UdpSocket::bind((endpoint.address, 0)).expect("not tentative");
    });
    let routes = container.output("ip", &["-6", "route"]);
    assert!(
        routes.contains("default via fd00:1::1 dev eth0"),
        "{routes}"
    );
}

#[test]
fn without_links_there_is_loopback() {
    let container = Namespace::new();
    container.run(|| {
        configure_container(&[]).unwrap();
        assert!(find("lo").unwrap().up);
        std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    });
}

#[test]
fn a_failed_attachment_leaves_nothing_and_changes_nobody_elses_link() {
    let (host, container) = (Namespace::new(), Namespace::new());
    host.run(|| {
        let bridge = ensure_bridge(&mut socket(), &BRIDGE).unwrap();
        let refused = attach_host(&mut socket(), &host_link(bridge + 1000), container.fd());
        assert_eq!(
            refused.unwrap_err().to_string(),
            "cannot create veth pair veth-host"
        );
        assert_eq!(find("veth-host"), None);

        attach_host(&mut socket(), &host_link(bridge), container.fd()).unwrap();
        let second = HostLink {
            alias: Some("thief"),
            peer_name: "eth1",
            ..host_link(bridge)
        };
        let refused = attach_host(&mut socket(), &second, container.fd()).unwrap_err();
        assert_eq!(refused.errno, Errno::EXIST);
        let alias = find("veth-host").unwrap().alias;
        assert_eq!(alias.as_deref(), Some("gantry cafe 0123"));
    });
    container.run(|| {
        let missing = ContainerLink {
            name: "eth9",
            ..container_link(None)
        };
        let refused = configure_container(&[missing]).unwrap_err();
        assert_eq!((refused.operation, &*refused.object), ("find link", "eth9"));
        assert_eq!(refused.errno, Errno::NODEV);
    });
}

#[test]
fn host_routes_are_seen() {
    let host = Namespace::new();
    host.run(|| {
        ensure_bridge(&mut socket(), &BRIDGE).unwrap();
    });
    for route in [
        &["route", "add", "10.8.0.0/24", "via", "172.17.0.9"][..],
        &["route", "add", "default", "via", "172.17.0.9"],
        &[
            "route",
            "add",
            "172.19.0.0/16",
            "via",
            "172.17.0.9",
            "table",
            "77",
        ],
        &["route", "add", "blackhole", "10.9.0.0/24"],
    ] {
        host.output("ip", route);
    }
    let subnets = host.run(|| route::host_subnets(&mut socket()).unwrap());
    let expected: Vec<Subnet> = ["10.8.0.0/24", "172.17.0.0/16", "172.19.0.0/16"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    assert_eq!(subnets, expected);
}

#[test]
fn settings_are_those_of_the_thread_s_namespace() {
    let (one, two) = (Namespace::new(), Namespace::new());
    for host in [&one, &two] {
        host.run(|| {
            // A new namespace begins with the setting of the first one.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            ensure_bridge(&mut socket(), &BRIDGE).unwrap();
        });
    }
    let read = |host: &Namespace, path: &str| {
        host.run(|| std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap())
    };
    one.run(|| {
        let net = sysctl::open().unwrap();
        sysctl::route_localnet(net.as_fd(), "gantry0").unwrap();
        sysctl::disable_ipv6_on(net.as_fd(), "gantry0").unwrap();
        assert!(sysctl::enable_forwarding(net.as_fd()).unwrap());
        let refused = sysctl::route_localnet(net.as_fd(), "../all");
        assert!(matches!(refused, Err(sysctl::SysctlError::LinkName(_))));
        let refused = sysctl::route_localnet(net.as_fd(), "missing0").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cannot write \"1\" to /proc/sys/net/ipv4/conf/missing0/route_localnet"
        );
    });
    for (path, here) in [
        ("ipv4/conf/gantry0/route_localnet", "1\n"),
        ("ipv4/conf/all/route_localnet", "0\n"),
        ("ipv4/ip_forward", "1\n"),
        ("ipv6/conf/gantry0/disable_ipv6", "1\n"),
    ] {
        assert_eq!(read(&one, path), here, "{path}");
        assert_eq!(read(&two, path), "0\n", "{path}");
    }
}

/// Without the wait some of the first packets are lost while other links come and go.
#[test]
fn the_first_packet_passes() {
    let host = Namespace::new();
    let bridge = host.run(|| ensure_bridge(&mut socket(), &BRIDGE).unwrap());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(Namespace::new());
                }
            });
        }
        let outcome = std::panic::catch_unwind(|| {
            for round in 0..20 {
                let container = Namespace::new();
                let name = format!("v{round}");
                let link = HostLink {
                    name: &name,
                    ..host_link(bridge)
                };
                host.run(|| attach_host(&mut socket(), &link, container.fd()).unwrap());
                container.run(|| configure_container(&[container_link(None)]).unwrap());
                let patience = Duration::from_secs(5);
                let connected =
                    host.run(|| wait_until_connected(&mut socket(), &name, bridge, patience));
                assert!(connected.unwrap());
                // Nobody listens, and it is the host that says so.
                let target = (GATEWAY, 9).into();
                let error = container.run(|| {
                    TcpStream::connect_timeout(&target, Duration::from_millis(900)).unwrap_err()
                });
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "round {round}");
            }
        });
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What a container's network costs, for whoever looks at the output.
#[test]
fn attaching_is_a_matter_of_a_millisecond() {
    let host = Namespace::new();
    let bridge = host.run(|| ensure_bridge(&mut socket(), &BRIDGE).unwrap());
    let mut times = Vec::new();
    for _ in 0..10 {
        let container = Namespace::new();
        let attached = host.run(|| {
            let start = Instant::now();
            let name = format!("v{}", times.len());
            let link = HostLink {
                name: &name,
                ..host_link(bridge)
            };
            attach_host(&mut socket(), &link, container.fd()).unwrap();
            start.elapsed()
        });
        let configured = container.run(|| {
            let start = Instant::now();
            configure_container(&[container_link(None)]).unwrap();
            start.elapsed()
        });
        let connected = host.run(|| {
            let (start, name) = (Instant::now(), format!("v{}", times.len()));
            let patience = Duration::from_secs(5);
            assert!(wait_until_connected(&mut socket(), &name, bridge, patience).unwrap());
            start.elapsed()
        });
        times.push((attached, configured, connected));
    }
    times.sort_unstable();
    let (attached, configured, connected) = times[times.len() / 2];
    println!("attach {attached:?}, configure {configured:?}, wait {connected:?}");
    assert!(attached + configured + connected < Duration::from_millis(50));
}
