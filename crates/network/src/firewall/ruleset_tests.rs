//! The table as `nft` reads it, changes of it, and what changes cost.

use super::*;
use crate::Protocol;
use crate::testing::{Namespace, unique_instance};
use std::time::{Duration, Instant};

const SPEC: BridgeSpec<'static> = BridgeSpec {
    name: "gantry0",
    subnet: match Subnet::new(Ipv4Addr::new(172, 17, 0, 0), 16) {
        Some(subnet) => subnet,
        None => unreachable!(),
    },
    gateway: Ipv4Addr::new(172, 17, 0, 1),
    icc: true,
    masquerade: true,
    internal: false,
};

fn listing(host: &Namespace, instance: &str) -> String {
    let table = format!("gantry-{instance}");
    host.output("nft", &["list", "table", "inet", &table])
        .replace(instance, "INSTANCE")
}

fn single(port: u16) -> PortMapping {
    PortMapping {
        host_address: None,
        host_port: port,
        container_address: Ipv4Addr::new(172, 17, 0, 2),
        container_port: 80,
        count: 1,
        protocol: Protocol::Tcp,
    }
}

/// A range that keeps its numbers.
fn range(first: u16, count: u16) -> PortMapping {
    PortMapping {
        container_port: first,
        count,
        ..single(first)
    }
}

#[test]
fn the_ruleset_reads_as_intended() {
    let host = Namespace::new();
    let instance = unique_instance();
    host.run(|| {
        ensure(&instance, &SPEC).unwrap();
        publish(
            &instance,
            "0123abcd",
            &[
                single(8080),
                PortMapping {
                    host_address: Some(Ipv4Addr::LOCALHOST),
                    ..single(8081)
                },
                PortMapping {
                    container_port: 9000,
                    count: 100,
                    ..single(9000)
                },
            ],
        )
        .unwrap();
    });
    assert_eq!(listing(&host, &instance), include_str!("ruleset.golden"));
}

#[test]
fn ensure_changes_nothing_twice_and_follows_the_specification() {
    let host = Namespace::new();
    let instance = unique_instance();
    let listing = || listing(&host, &instance);
    host.run(|| {
        assert!(!exists(&instance).unwrap());
        assert!(!remove_all(&instance).unwrap());
        ensure(&instance, &SPEC).unwrap();
        assert!(exists(&instance).unwrap());
    });
    let first = listing();
    let generation = || host.output("nft", &["-j", "list", "ruleset"]);
    let before = generation();
    host.run(|| ensure(&instance, &SPEC).unwrap());
    assert_eq!(
        generation(),
        before,
        "rule handles show that nothing was replaced"
    );

    let changed = BridgeSpec {
        icc: false,
        internal: true,
        ..SPEC
    };
    host.run(|| ensure(&instance, &changed).unwrap());
    let listed = listing();
    assert!(!listed.contains("\"gantry0\" . \"gantry0\""), "{listed}");
    assert!(
        listed.contains("172.17.0.0/16 172.17.0.1 masquerade internal"),
        "{listed}"
    );
    host.run(|| ensure(&instance, &SPEC).unwrap());
    assert_eq!(listing(), first);

    let other = BridgeSpec {
        name: "gantry1",
        subnet: "10.1.0.0/24".parse().unwrap(),
        ..SPEC
    };
    host.run(|| {
        ensure(&instance, &other).unwrap();
        let mut names = list_bridges(&instance).unwrap();
        names.sort();
        assert_eq!(names, ["gantry0", "gantry1"]);
        assert!(remove_bridge(&instance, "gantry1").unwrap());
        assert!(!remove_bridge(&instance, "gantry1").unwrap());
    });
    assert_eq!(listing(), first);
}

#[test]
fn an_older_ruleset_is_replaced_and_keeps_its_elements() {
    let host = Namespace::new();
    let instance = unique_instance();
    host.run(|| {
        ensure(&instance, &SPEC).unwrap();
        publish(&instance, "one", &[single(80)]).unwrap();
    });
    let expected = listing(&host, &instance);
    let table = format!("gantry-{instance}");
    host.output("nft", &["flush", "set", "inet", &table, "version"]);
    host.output("nft", &["flush", "chain", "inet", &table, "forward"]);
    host.run(|| {
        assert!(!exists(&instance).unwrap());
        ensure(&instance, &SPEC).unwrap();
    });
    assert_eq!(listing(&host, &instance), expected);
}

#[test]
fn everybody_may_ensure_at_the_same_time() {
    let host = Namespace::new();
    let instance = unique_instance();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| host.run(|| ensure(&instance, &SPEC).unwrap()));
        }
    });
    let concurrent = listing(&host, &instance);
    host.run(|| {
        remove_all(&instance).unwrap();
        ensure(&instance, &SPEC).unwrap();
    });
    assert_eq!(concurrent, listing(&host, &instance));
}

#[test]
fn installations_and_other_tables_are_left_alone() {
    let host = Namespace::new();
    let (one, two) = (unique_instance(), unique_instance());
    host.output("nft", &["add", "table", "inet", "firewalld"]);
    host.run(|| {
        ensure(&one, &SPEC).unwrap();
        ensure(&two, &SPEC).unwrap();
        publish(&one, "owner", &[single(80)]).unwrap();
        assert_eq!(list_published(&two).unwrap(), []);
        assert!(remove_all(&one).unwrap());
        assert!(exists(&two).unwrap());
    });
    assert!(
        host.output("nft", &["list", "tables"])
            .contains("inet firewalld")
    );
}

#[test]
fn what_is_published_is_listed_and_removed_by_owner() {
    let host = Namespace::new();
    let instance = unique_instance();
    let range = PortMapping {
        container_port: 9000,
        count: 50,
        ..single(9000)
    };
    let shifted = PortMapping {
        container_port: 200,
        count: 3,
        ..single(100)
    };
    let local = PortMapping {
        host_address: Some(Ipv4Addr::LOCALHOST),
        protocol: Protocol::Udp,
        ..single(8080)
    };
    host.run(|| {
        ensure(&instance, &SPEC).unwrap();
        publish(&instance, "one", &[single(8080), range]).unwrap();
        publish(&instance, "two", &[local, shifted]).unwrap();
        let published = |owner: &str| {
            let mut mappings: Vec<_> = list_published(&instance).unwrap();
            mappings.retain(|entry| entry.owner == owner);
            mappings
                .into_iter()
                .map(|entry| entry.mapping)
                .collect::<Vec<_>>()
        };
        assert_eq!(published("one"), [single(8080), range]);
        assert_eq!(published("two").len(), 4);
        assert!(published("two").contains(&local));

        // Absent ones are passed over, present ones are removed all the same.
        unpublish(&instance, &[single(1), single(8080)]).unwrap();
        assert_eq!(published("one"), [range]);
        assert_eq!(unpublish_owner(&instance, "two").unwrap(), 4);
        assert_eq!(unpublish_owner(&instance, "two").unwrap(), 0);
        assert_eq!(published("one"), [range]);
        unpublish(&instance, &[range]).unwrap();
        assert_eq!(list_published(&instance).unwrap(), []);

        remove_all(&instance).unwrap();
        let refused = publish(&instance, "one", &[single(80)]);
        assert!(
            matches!(refused, Err(FirewallError::Missing { .. })),
            "{refused:?}"
        );
        unpublish(&instance, &[single(80)]).unwrap();
    });
}

#[test]
fn publishing_is_all_or_nothing_and_replaces_leftovers() {
    let host = Namespace::new();
    let instance = unique_instance();
    host.run(|| {
        ensure(&instance, &SPEC).unwrap();
        let refused = publish(&instance, "bad", &[single(80), single(0)]);
        assert!(matches!(
            refused,
            Err(FirewallError::Ports { first: 0, .. })
        ));
        assert_eq!(list_published(&instance).unwrap(), []);

        publish(
            &instance,
            "dead",
            &[single(80), single(81), range(9000, 10)],
        )
        .unwrap();
        let elsewhere = PortMapping {
            container_port: 8000,
            ..single(80)
        };
        publish(
            &instance,
            "alive",
            &[elsewhere, range(9005, 10), single(90)],
        )
        .unwrap();
        let owners: Vec<_> = list_published(&instance)
            .unwrap()
            .into_iter()
            .map(|entry| {
                (
                    entry.mapping.host_port,
                    entry.mapping.container_port,
                    entry.owner,
                )
            })
            .collect();
        let alive = |host, container| (host, container, "alive".to_owned());
        assert_eq!(
            owners,
            [
                alive(80, 8000),
                (81, 80, "dead".to_owned()),
                alive(90, 80),
                alive(9005, 9005)
            ]
        );
        // Somebody who only repeats itself is served too.
        publish(&instance, "alive", &[single(90)]).unwrap();
    });
}

#[test]
fn thousands_of_ports_are_one_transaction() {
    let host = Namespace::new();
    let instance = unique_instance();
    let mappings: Vec<_> = (1..=10_000).map(single).collect();
    host.run(|| {
        ensure(&instance, &SPEC).unwrap();
        publish(&instance, &"f".repeat(64), &mappings).unwrap();
        assert_eq!(list_published(&instance).unwrap().len(), mappings.len());
        unpublish(&instance, &mappings).unwrap();
        assert_eq!(list_published(&instance).unwrap(), []);
    });
}

#[test]
fn names_are_checked() {
    for instance in ["", "UPPER", "a b", "a/b", "g", &"a".repeat(33)] {
        assert!(
            matches!(exists(instance), Err(FirewallError::Instance(_))),
            "{instance}"
        );
    }
    for name in ["", "a/b", "sixteen-bytes-12"] {
        let refused = ensure("a", &BridgeSpec { name, ..SPEC });
        assert!(matches!(refused, Err(FirewallError::Bridge(_))), "{name}");
    }
}

/// A port more costs the same with 2,000 in place as with 10, and a range next to nothing: the
/// kernel looks at its neighbours in the tree (0.03 ms among 10, 0.12 ms among 2,000; a map of
/// concatenated ranges took 27 ms). The two are measured in turns, so that a busy machine slows
/// both.
#[test]
fn a_port_costs_the_same_among_many() {
    fn singles(number: u16) -> Vec<PortMapping> {
        (1..=number).map(single).collect()
    }
    fn ranges(number: u16) -> Vec<PortMapping> {
        (1..=number).map(|index| range(index * 3, 2)).collect()
    }
    let cases = [
        (
            "port",
            singles as fn(u16) -> Vec<PortMapping>,
            single(30_000),
            Duration::ZERO,
        ),
        (
            "range",
            ranges,
            range(30_000, 1_000),
            Duration::from_millis(1),
        ),
    ];
    for (what, present, new, more) in cases {
        let (few, many) = (Namespace::new(), Namespace::new());
        let instance = unique_instance();
        for (host, number) in [(&few, 10), (&many, 2_000)] {
            let present = present(number);
            host.run(|| {
                ensure(&instance, &SPEC).unwrap();
                publish(&instance, "present", &present).unwrap();
            });
        }
        let round = |host: &Namespace| {
            host.run(|| {
                let mut socket = Socket::open(Family::Netfilter).unwrap();
                let mut times: Vec<_> = (0..20)
                    .map(|_| {
                        let start = Instant::now();
                        publish_with(&mut socket, &instance, "new", &[new]).unwrap();
                        unpublish_with(&mut socket, &instance, &[new]).unwrap();
                        start.elapsed()
                    })
                    .collect();
                median(&mut times)
            })
        };
        let times = (0..25).map(|_| (round(&few), round(&many)));
        let (few, many): (Vec<_>, Vec<_>) = times.unzip();
        // The quietest round says what it costs, the others what else the machine did.
        let quietest = |times: Vec<Duration>| times.into_iter().min().unwrap();
        let (few, many) = (quietest(few), quietest(many));
        println!("a {what} in and out among 10: {few:?}, among 2,000: {many:?}");
        assert!(
            many < few * 3 / 2 + more,
            "{what}: {few:?} among 10, {many:?} among 2,000"
        );
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
