use super::*;
use crate::dns::message::{HEADER, records};
use crate::dns::testing::{Directory, Numbers, question, with_edns};
use crate::dns::{Endpoint, NetworkNames, OwnName, Table};

fn addresses(words: &str) -> Vec<IpAddr> {
    words
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

fn endpoint(name: &str, list: &str, aliases: &[&str]) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        addresses: addresses(list),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
    }
}

fn write(directory: &Directory, network: &str, endpoints: Vec<Endpoint>) -> NetworkNames {
    let table = Table {
        network: network.to_owned(),
        generation: 1,
        endpoints,
    };
    table.write(directory.fd(), network).unwrap();
    NetworkNames {
        table: directory.path().join(network),
        internal: false,
    }
}

fn settings(directory: &Directory) -> Settings {
    let front = vec![
        endpoint("web", "10.0.0.2 fd00::2", &["www", "shop"]),
        endpoint("web2", "10.0.0.3", &["shop"]),
        endpoint("old", "", &["both"]),
    ];
    let back = vec![
        endpoint("db", "10.1.0.2", &["both", "web"]),
        endpoint("under_score.dotted", "10.1.0.3", &[]),
    ];
    Settings {
        networks: vec![
            write(directory, "front", front),
            write(directory, "back.net", back),
        ],
        names: vec![
            OwnName {
                name: "host.docker.internal".to_owned(),
                meaning: Meaning::Addresses(addresses("172.17.0.1 fd17::1")),
            },
            OwnName {
                name: "database".to_owned(),
                meaning: Meaning::SameAs("db".to_owned()),
            },
            OwnName {
                name: "gone".to_owned(),
                meaning: Meaning::SameAs("nosuch".to_owned()),
            },
            OwnName {
                name: "dead".to_owned(),
                meaning: Meaning::SameAs("old".to_owned()),
            },
        ],
        search: vec!["corp.example".to_owned()],
        forward: true,
        upstream: Upstream::Servers(
            addresses("192.0.2.1")
                .into_iter()
                .map(|address| (address, 53).into())
                .collect(),
        ),
    }
}

fn open(directory: &Directory, settings: &Settings) -> Zone {
    settings.write(directory.fd(), "dns").unwrap();
    Zone::open(directory.path().join("dns")).unwrap()
}

/// The answer in short: its code and its data in order, or `forward`.
fn ask(zone: &mut Zone, name: &str, kind: u16) -> String {
    let asked = question(name, kind);
    let query = Query::parse(&asked).unwrap();
    let mut message = Vec::new();
    zone.refresh();
    if zone.answer(&query, 512, &mut message) == Outcome::Forward {
        return "forward".to_owned();
    }
    let mut words = vec![(message[3] & 0xf).to_string()];
    for entry in records(&message, HEADER + query.question.len()) {
        let (_, record) = entry.unwrap();
        assert_eq!(record.ttl, TTL);
        let data = &message[record.data..record.end];
        words.push(match record.kind {
            kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
            kind::AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            kind::PTR => text(data, &mut [0; 255]).unwrap().to_owned(),
            other => panic!("a record of type {other}"),
        });
    }
    words.join(" ")
}

const MX: u16 = 15;
const HTTPS: u16 = 65;

#[test]
fn questions_and_answers() {
    let directory = Directory::new();
    let mut zone = open(&directory, &settings(&directory));
    for (name, kind, expected) in [
        ("web", kind::A, "0 10.0.0.2"),
        ("WEB", kind::AAAA, "0 fd00::2"),
        ("web", MX, "0"),
        ("web", HTTPS, "0"),
        ("web2", kind::AAAA, "0"),
        ("www.FRONT", kind::A, "0 10.0.0.2"),
        ("db", kind::A, "0 10.1.0.2"),
        ("db.back.net", kind::A, "0 10.1.0.2"),
        ("db.front", kind::A, "forward"),
        ("under_score.dotted", kind::A, "0 10.1.0.3"),
        ("under_score.dotted.back.net", kind::A, "0 10.1.0.3"),
        // The first network has it stopped, the second running.
        ("both", kind::A, "0 10.1.0.2"),
        ("both.front", kind::A, "3"),
        ("web.back.net", kind::A, "0 10.1.0.2"),
        ("old", kind::A, "3"),
        ("old", MX, "3"),
        ("old.front", kind::AAAA, "3"),
        ("host.docker.internal", kind::A, "0 172.17.0.1"),
        ("Host.Docker.Internal", kind::AAAA, "0 fd17::1"),
        ("database", kind::A, "0 10.1.0.2"),
        ("gone", kind::A, "3"),
        ("dead", kind::A, "3"),
        ("unknown", kind::A, "forward"),
        ("front", kind::A, "forward"),
        ("example.com", kind::A, "forward"),
        ("", kind::A, "forward"),
        ("web", kind::AXFR, "5"),
        ("example.com", kind::IXFR, "5"),
        ("2.0.0.10.in-addr.arpa", kind::PTR, "0 web.front"),
        ("2.0.1.10.IN-ADDR.ARPA", kind::PTR, "0 db.back.net"),
        ("2.0.0.10.in-addr.arpa", kind::A, "0"),
        ("9.0.0.10.in-addr.arpa", kind::PTR, "forward"),
        ("02.0.0.10.in-addr.arpa", kind::PTR, "forward"),
        ("0.0.10.in-addr.arpa", kind::PTR, "forward"),
        ("1.2.0.0.10.in-addr.arpa", kind::PTR, "forward"),
    ] {
        assert_eq!(ask(&mut zone, name, kind), expected, "{name} {kind}");
    }
    let reverse = format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(&mut zone, &reverse, kind::PTR), "0 web.front");
    assert_eq!(ask(&mut zone, &reverse[2..], kind::PTR), "forward");
    assert!(ask(&mut zone, "web", kind::ANY).contains("10.0.0.2"));
    assert!(ask(&mut zone, "web", kind::ANY).contains("fd00::2"));
}

#[test]
fn addresses_take_turns() {
    let directory = Directory::new();
    let mut zone = open(&directory, &settings(&directory));
    let mut seen: Vec<_> = (0..4).map(|_| ask(&mut zone, "shop", kind::A)).collect();
    assert_eq!(seen[0], seen[2]);
    assert_eq!(seen[1], seen[3]);
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["0 10.0.0.2 10.0.0.3", "0 10.0.0.3 10.0.0.2"]);
}

#[test]
fn cve_2025_8283_a_stopped_name_is_not_looked_for_in_search_domains() {
    let directory = Directory::new();
    let mut zone = open(&directory, &settings(&directory));
    for (name, expected) in [
        ("old.corp.example", "3"),
        ("OLD.Corp.Example", "3"),
        ("old.front.corp.example", "3"),
        ("web.corp.example", "forward"),
        ("unknown.corp.example", "forward"),
        ("corp.example", "forward"),
        (".corp.example", "forward"),
        ("oldcorp.example", "forward"),
        ("\u{e9}orp.example", "forward"),
        ("a\u{e9}corp.example", "forward"),
    ] {
        assert_eq!(ask(&mut zone, name, kind::A), expected, "{name}");
    }
}

#[test]
fn cve_2024_29018_internal_networks_alone_answer_what_they_know() {
    let directory = Directory::new();
    let mut settings = settings(&directory);
    for network in &mut settings.networks {
        network.internal = true;
    }
    let mut zone = open(&directory, &settings);
    for (name, expected) in [
        ("web", "0 10.0.0.2"),
        ("old", "3"),
        ("example.com", "2"),
        ("unknown", "2"),
        ("9.9.9.9.in-addr.arpa", "2"),
    ] {
        assert_eq!(ask(&mut zone, name, kind::A), expected, "{name}");
    }
    // As soon as there is a network with a way out, and no longer than that.
    settings.networks[1].internal = false;
    settings.write(directory.fd(), "dns").unwrap();
    assert_eq!(ask(&mut zone, "example.com", kind::A), "forward");
    settings.networks[1].internal = true;
    settings.write(directory.fd(), "dns").unwrap();
    assert_eq!(ask(&mut zone, "example.com", kind::A), "2");
}

#[test]
fn changes_are_seen_with_the_next_question() {
    let directory = Directory::new();
    let settings = settings(&directory);
    let mut zone = open(&directory, &settings);
    for round in 0..200 {
        let address = format!("10.0.{}.{}", round % 7, round % 11);
        let endpoints = vec![endpoint("web", &address, &[])];
        write(&directory, "front", endpoints);
        assert_eq!(ask(&mut zone, "web", kind::A), format!("0 {address}"));
    }
    // Cut or foreign: what was known stays.
    let path = directory.path().join("front");
    let known = ask(&mut zone, "web", kind::A);
    for text in [
        "",
        "gantry-names 2\nend\n",
        "gantry-names 1\nnetwork front\n",
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(ask(&mut zone, "web", kind::A), known, "{text:?}");
    }
    std::fs::write(&path, [0xff; 8]).unwrap();
    assert_eq!(ask(&mut zone, "web", kind::A), known);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ask(&mut zone, "web2", kind::A), "forward");
    write(&directory, "front", vec![endpoint("web2", "10.0.0.9", &[])]);
    assert_eq!(ask(&mut zone, "web2", kind::A), "0 10.0.0.9");
}

#[test]
fn a_resolv_conf_is_followed() {
    let directory = Directory::new();
    let file = directory.path().join("resolv.conf");
    let link = directory.path().join("link");
    std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut zone = open(
        &directory,
        &Settings {
            forward: true,
            upstream: Upstream::Follow(link.clone()),
            ..Settings::default()
        },
    );
    let servers = |zone: &Zone| {
        let servers: Vec<_> = zone
            .servers()
            .iter()
            .map(|server| server.ip().to_string())
            .collect();
        servers.join(" ")
    };
    assert_eq!(servers(&zone), "192.0.2.1");
    assert!(!zone.refresh());
    std::fs::write(&file, "nameserver 192.0.2.22\nnameserver ::1\n").unwrap();
    assert!(zone.refresh());
    assert_eq!(servers(&zone), "192.0.2.22 ::1");
    // Gone for a moment.
    std::fs::remove_file(&file).unwrap();
    assert!(!zone.refresh());
    assert_eq!(servers(&zone), "192.0.2.22 ::1");
    std::fs::write(&file, "nameserver 192.0.2.3\n").unwrap();
    assert!(zone.refresh());
    assert_eq!(servers(&zone), "192.0.2.3");
}

#[test]
fn clients_of_a_later_edns_are_told() {
    let directory = Directory::new();
    let mut zone = open(&directory, &settings(&directory));
    let asked = with_edns(question("web", kind::A), 1232, 1, false);
    let query = Query::parse(&asked).unwrap();
    let mut message = Vec::new();
    assert_eq!(zone.answer(&query, 512, &mut message), Outcome::Answered);
    assert_eq!(message[7], 0, "no answer");
    assert_eq!(message[HEADER + query.question.len() + 5], 1, "BADVERS");
}

#[test]
fn fuzzed_questions() {
    let directory = Directory::new();
    let mut zone = open(&directory, &settings(&directory));
    let mut numbers = Numbers::new(7);
    let pieces: [&[u8]; 12] = [
        b"web",
        b"old",
        b"front",
        b"back",
        b"net",
        b"corp",
        b"example",
        b"in-addr",
        b"arpa",
        b"ip6",
        b"a.b",
        b"\xc3\xa9",
    ];
    let (mut answer, mut answered) = (Vec::new(), 0);
    for _ in 0..20_000 {
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for _ in 0..numbers.below(40) {
            match numbers.below(4) {
                0 => {
                    let length = numbers.below(64);
                    message.push(length as u8);
                    message.extend((0..length).map(|_| numbers.below(256) as u8));
                }
                1 => message.extend([1, b'0' + numbers.below(10) as u8]),
                _ => {
                    let piece = pieces[numbers.below(pieces.len())];
                    message.push(piece.len() as u8);
                    message.extend(piece);
                }
            }
        }
        message.extend([0, 0, numbers.below(256) as u8, 0, 1]);
        if let Ok(query) = Query::parse(&message) {
            answered += 1;
            zone.answer(&query, 512, &mut answer);
            assert!(answer.len() <= 512);
        }
    }
    assert!(answered > 1000);
}
