use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::TestDirectory;

/// A response to `query` with `flags` and records of (owner or pointer, type, data).
fn response(query: &[u8], flags: [u8; 2], records: &[(Vec<u8>, u16, Vec<u8>)]) -> Vec<u8> {
    let mut packet = query.to_vec();
    packet[2] = 0x81 | flags[0];
    packet[3] = 0x80 | flags[1];
    packet[7] = records.len() as u8;
    for (owner, kind, data) in records {
        packet.extend(owner);
        packet.extend(kind.to_be_bytes());
        packet.extend([0, 1, 0, 0, 0, 60]);
        packet.extend((data.len() as u16).to_be_bytes());
        packet.extend(data);
    }
    packet
}

fn asked(query: &[u8]) -> (String, u16) {
    let (name, after) = read_name(query, 12).unwrap();
    let mut text = String::new();
    let mut rest = name.as_slice();
    while rest[0] > 0 {
        let length = usize::from(rest[0]);
        text.push_str(std::str::from_utf8(&rest[1..=length]).unwrap());
        text.push('.');
        rest = &rest[length + 1..];
    }
    (text, u16::from_be_bytes([query[after], query[after + 1]]))
}

const POINTER: [u8; 2] = [0xc0, 12];

/// A name server on one port for both protocols. It ends with the test process: its threads block
/// on sockets that nothing outside of the test knows.
fn server(hits: Arc<AtomicUsize>) -> SocketAddr {
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut packet) {
            hits.fetch_add(1, Ordering::Relaxed);
            let query = &packet[..length];
            let (name, kind) = asked(query);
            let a = |owner: &[u8], address: [u8; 4]| (owner.to_vec(), TYPE_A, address.to_vec());
            let answer = match (name.as_str(), kind) {
                ("silent.test.", _) => continue,
                ("broken.test.", _) => response(query, [0, 2], &[]),
                ("plain.test." | "host.search.test.", TYPE_A) => {
                    response(query, [0, 0], &[a(&POINTER, [10, 0, 0, 1])])
                }
                ("plain.test.", TYPE_AAAA) => {
                    let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets().to_vec();
                    response(query, [0, 0], &[(POINTER.to_vec(), TYPE_AAAA, address)])
                }
                ("alias.test.", TYPE_A) => {
                    let target = encode_name("real.test").unwrap();
                    let other = encode_name("other.test").unwrap();
                    let alias = (POINTER.to_vec(), TYPE_CNAME, target.clone());
                    response(
                        query,
                        [0, 0],
                        &[alias, a(&other, [6, 6, 6, 6]), a(&target, [10, 0, 0, 2])],
                    )
                }
                ("long.test.", TYPE_A) => response(query, [2, 0], &[]),
                ("forged.test.", TYPE_A) => {
                    let mut forged = response(query, [0, 0], &[a(&POINTER, [6, 6, 6, 6])]);
                    forged[0] ^= 0xff;
                    udp.send_to(&forged, client).unwrap();
                    udp.send_to(&[0; 3], client).unwrap();
                    response(query, [0, 0], &[a(&POINTER, [10, 0, 0, 3])])
                }
                (
                    "plain.test." | "alias.test." | "long.test." | "forged.test."
                    | "host.search.test.",
                    _,
                ) => response(query, [0, 0], &[]),
                _ => response(query, [0, 3], &[]),
            };
            udp.send_to(&answer, client).unwrap();
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let records: Vec<_> = (0..20)
                .map(|i| (POINTER.to_vec(), TYPE_A, vec![10, 1, 0, i]))
                .collect();
            let answer = response(&query, [0, 0], &records);
            stream
                .write_all(&(answer.len() as u16).to_be_bytes())
                .unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    address
}

struct Setup {
    _directory: TestDirectory,
    files: ResolverFiles,
    hits: Arc<AtomicUsize>,
}

fn setup(hosts: &str, options: &str) -> Setup {
    let directory = TestDirectory::new();
    let files = ResolverFiles {
        hosts: directory.path().join("hosts"),
        resolv_conf: directory.path().join("resolv.conf"),
    };
    let hits = Arc::new(AtomicUsize::new(0));
    let address = server(hits.clone());
    std::fs::write(&files.hosts, hosts).unwrap();
    std::fs::write(
        &files.resolv_conf,
        format!("nameserver {address}\n{options}\n"),
    )
    .unwrap();
    Setup {
        _directory: directory,
        files,
        hits,
    }
}

#[test]
fn hosts_and_literals_need_no_server() {
    let setup = setup(
        "# 1.1.1.1 a.test\n10.9.8.7 a.test A2.test # x\nfd00::7 a.test\nbad b.test\n",
        "",
    );
    let resolved = |name: &str| resolve(name, &setup.files).unwrap();
    assert_eq!(
        resolved("A.test"),
        [
            "10.9.8.7".parse::<IpAddr>().unwrap(),
            "fd00::7".parse().unwrap()
        ]
    );
    assert_eq!(
        resolved("a2.test."),
        ["10.9.8.7".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        resolved("192.0.2.1"),
        ["192.0.2.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(resolved("::1"), ["::1".parse::<IpAddr>().unwrap()]);
    assert_eq!(resolved("localhost")[0], IpAddr::from(Ipv4Addr::LOCALHOST));
    assert_eq!(
        resolved("x.localhost")[0],
        IpAddr::from(Ipv4Addr::LOCALHOST)
    );
    for name in [
        "",
        ".",
        "a..b",
        "a b",
        "ä",
        &"a".repeat(64),
        &"a.".repeat(140),
        "a/b",
    ] {
        assert!(
            matches!(
                resolve(name, &setup.files),
                Err(ResolveError::Malformed { .. })
            ),
            "{name:?}"
        );
    }
    assert_eq!(setup.hits.load(Ordering::Relaxed), 0);
}

#[test]
fn asks_servers() {
    let setup = setup(
        "",
        "search other.test search.test\noptions timeout:1 attempts:1",
    );
    let resolved = |name: &str| {
        resolve(name, &setup.files).map(|a| a.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        resolved("plain.test").unwrap(),
        ["10.0.0.1", "fd00::1"],
        "IPv4 first"
    );
    assert_eq!(
        resolved("ALIAS.test").unwrap(),
        ["10.0.0.2"],
        "only the alias's own target"
    );
    assert_eq!(
        resolved("host").unwrap(),
        ["10.0.0.1"],
        "second search domain"
    );
    assert_eq!(
        resolved("forged.test").unwrap(),
        ["10.0.0.3"],
        "answers to other questions are dropped"
    );
    assert_eq!(
        resolved("long.test").unwrap().len(),
        16,
        "by TCP, and bounded"
    );
    let missing = resolved("missing.test");
    assert!(
        matches!(missing, Err(ResolveError::NotFound { .. })),
        "{missing:?}"
    );
    assert!(
        matches!(resolved("host."), Err(ResolveError::NotFound { .. })),
        "absolute names are not searched"
    );
    let started = Instant::now();
    let silent = resolve("silent.test.", &setup.files);
    assert!(
        matches!(silent, Err(ResolveError::NoAnswer { .. })),
        "{silent:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
    let broken = resolve("broken.test.", &setup.files);
    assert!(
        matches!(broken, Err(ResolveError::NoAnswer { .. })),
        "{broken:?}"
    );
}

#[test]
fn reads_resolv_conf() {
    let configuration = Configuration::parse(
        "# c\nnameserver 192.0.2.1\nnameserver 2001:db8::1 ; c\nnameserver x\nsearch a.test b.test.\n\
         options ndots:2 timeout:30 attempts:9 rotate\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n",
    );
    assert_eq!(configuration.servers.len(), 3);
    assert_eq!(configuration.wait, LONGEST_WAIT);
    assert_eq!(configuration.attempts, 5);
    assert_eq!(
        configuration.candidates("x.y", false),
        ["x.y.a.test", "x.y.b.test", "x.y"]
    );
    assert_eq!(
        configuration.candidates("x.y.z", false),
        ["x.y.z", "x.y.z.a.test", "x.y.z.b.test"]
    );
    assert_eq!(configuration.candidates("x", true), ["x"]);
    assert_eq!(
        Configuration::parse("").servers,
        ["127.0.0.1:53".parse().unwrap()]
    );
}

#[test]
fn parser_is_bounded() {
    let name = encode_name("plain.test").unwrap();
    let query = query(7, &name, TYPE_A);
    let good = response(
        &query,
        [0, 0],
        &[(POINTER.to_vec(), TYPE_A, vec![1, 2, 3, 4])],
    );
    assert!(answers(&good, 7, &name, TYPE_A));
    for length in 0..good.len() {
        assert!(
            parse_answer(&good[..length], &name, TYPE_A).is_none() || length < 8,
            "{length}"
        );
    }
    let own = (query.len() as u16 | 0xc000).to_be_bytes().to_vec();
    let looping = response(&query, [0, 0], &[(own, TYPE_A, vec![1, 2, 3, 4])]);
    assert!(parse_answer(&looping, &name, TYPE_A).is_none());
    let circle = encode_name("b.test").unwrap();
    let records = [
        (POINTER.to_vec(), TYPE_CNAME, circle.clone()),
        (circle, TYPE_CNAME, name.clone()),
    ];
    let circular = response(&query, [0, 0], &records);
    assert!(matches!(
        parse_answer(&circular, &name, TYPE_A),
        Some(Parsed::Answer(Answer::Nothing))
    ));
    let mut state = 1_u32;
    for _ in 0..50_000 {
        let mut packet = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % packet.len();
            packet[at] = state as u8;
        }
        let _ = parse_answer(&packet, &name, TYPE_A);
    }
}
