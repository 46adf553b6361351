//! What other servers are asked, and what is made of their answers.

use super::*;

#[test]
fn silent_and_dead_servers_are_passed_over() {
    let sandbox = Sandbox::new();
    let silent = Other::start(&sandbox.outside, |_, _| Vec::new());
    let failing = Other::start(&sandbox.outside, |query, _| {
        vec![answer_to(query, 2, &[], &[])]
    });
    let fine = Other::plain(&sandbox.outside, 7);
    // Nobody listens on what was just given up.
    let dead = sandbox.outside.run(|| {
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    });
    let mut sandbox = sandbox;
    sandbox.serve(&forwarding(vec![], &[]));
    let milliseconds = Duration::from_millis;
    for (name, servers, fastest, slowest) in [
        ("silent", vec![silent.address, fine.address], 140, 1000),
        ("failing", vec![failing.address, fine.address], 0, 140),
        ("dead", vec![dead, fine.address], 0, 140),
        (
            "all",
            vec![dead, failing.address, silent.address, fine.address],
            140,
            1000,
        ),
    ] {
        sandbox.configure(&forwarding(vec![], &servers));
        let start = Instant::now();
        let answer = sandbox.ask(&question("example.com", kind::A)).unwrap();
        let taken = start.elapsed();
        assert_eq!(texts(&answer), ["192.0.2.7"], "{name}");
        assert!(
            milliseconds(fastest) <= taken && taken < milliseconds(slowest),
            "{name}: {taken:?}"
        );
    }
    // Nobody who answers well: what was said is passed on, at once.
    sandbox.configure(&forwarding(vec![], &[dead, failing.address]));
    let start = Instant::now();
    let answer = sandbox.ask(&question("example.com", kind::A)).unwrap();
    assert_eq!(code(&answer), 2);
    assert!(start.elapsed() < milliseconds(1000));
}

#[test]
fn a_lost_datagram_is_sent_again() {
    let mut sandbox = Sandbox::new();
    let lost = Mutex::new(Vec::new());
    let other = Other::start(&sandbox.outside, move |query, _| {
        let mut lost = lost.lock().unwrap();
        lost.push(query[..2].to_vec());
        if lost.len() == 1 {
            return Vec::new();
        }
        vec![good(query, 1)]
    });
    sandbox.serve(&forwarding(vec![], &[other.address]));
    let answer = sandbox.ask(&question("example.com", kind::A)).unwrap();
    assert_eq!(texts(&answer), ["192.0.2.1"]);
    let asked = other.asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].1[..2], asked[1].1[..2], "each try has its own id");
}

/// What does not answer the question exactly is passed over, and does not end the try
/// (RUSTSEC-2026-0119: cache poisoning).
#[test]
fn forged_answers_are_passed_over() {
    let mut sandbox = Sandbox::new();
    let other = Other::start(&sandbox.outside, |query, _| {
        let forged = |at: usize, change: u8| {
            let mut message = good(query, 66);
            message[at] ^= change;
            message
        };
        let mut all: Vec<_> = (0..8).map(|bit| forged(1, 1 << bit)).collect();
        // The case of a letter, the name, the type, a query, and nothing.
        all.extend([forged(13, 0x20), forged(13, 1), forged(HEADER + 14, 28)]);
        all.extend([forged(2, 0x80), Vec::new()]);
        // More than asked for: other names in the answer and the additional section.
        let mut message = good(query, 1);
        message[11] = 1;
        message.extend_from_slice(
            b"\x04bank\x07example\0\0\x01\0\x01\0\0\x10\0\0\x04\x06\x06\x06\x06",
        );
        all.push(message);
        all
    });
    sandbox.serve(&forwarding(vec![], &[other.address]));
    let answer = sandbox.ask(&question("eXample.com", kind::A)).unwrap();
    assert_eq!(texts(&answer)[0], "192.0.2.1");
    assert_eq!(other.count(), 1);
    // The other name was not learned from it.
    let _ = sandbox.ask(&question("bank.example", kind::A));
    assert_eq!(other.count(), 2);
}

#[test]
fn answers_are_remembered_and_age() {
    let mut sandbox = Sandbox::new();
    let other = Other::start(&sandbox.outside, |query, _| {
        let soa = record(
            kind::SOA,
            60,
            &[&[0, 0][..], &[0, 0, 0, 60].repeat(5)].concat(),
        );
        let name = &query[HEADER + 1..];
        vec![if name.starts_with(b"none") || name.starts_with(b"NONE") {
            answer_to(query, 3, &[], &[soa])
        } else {
            good(query, 1)
        }]
    });
    sandbox.serve(&forwarding(vec![], &[other.address]));
    let first = sandbox.ask(&question("example.com", kind::A)).unwrap();
    assert_eq!(answers(&first)[0].0, 60);
    thread::sleep(Duration::from_millis(1100));
    let query = question("EXAMPLE.com", kind::A);
    for again in [sandbox.ask(&query).unwrap(), sandbox.ask_tcp(&query)] {
        assert!((50..60).contains(&answers(&again)[0].0));
        assert_eq!(again[HEADER..query.len()], query[HEADER..]);
    }
    assert_eq!(other.count(), 1);
    for name in ["none.example", "NONE.example"] {
        assert_eq!(code(&sandbox.ask(&question(name, kind::A)).unwrap()), 3);
    }
    assert_eq!(other.count(), 2);
    // Another server is asked anew.
    let second = Other::plain(&sandbox.outside, 2);
    sandbox.configure(&forwarding(vec![], &[second.address]));
    assert_eq!(texts(&sandbox.ask(&query).unwrap()), ["192.0.2.2"]);
}

#[test]
fn truncated_answers_are_fetched_over_tcp() {
    let mut sandbox = Sandbox::new();
    let other = Other::start(&sandbox.outside, |query, stream| {
        let records: Vec<_> = (0..200)
            .map(|last| record(kind::A, 60, &[10, 9, 9, last]))
            .collect();
        let mut message = answer_to(query, 0, if stream { &records } else { &[] }, &[]);
        message[2] |= if stream { 0 } else { 2 };
        vec![message]
    });
    sandbox.serve(&forwarding(vec![], &[other.address]));
    let query = question("large.example", kind::A);
    let short = sandbox.ask(&query).unwrap();
    assert!(is_truncated(&short) && short.len() <= 512);
    let transports = || -> Vec<bool> {
        let asked = other.asked.lock().unwrap();
        asked.iter().map(|(stream, _)| *stream).collect()
    };
    assert_eq!(transports(), [false, true]);
    let whole = sandbox.ask_tcp(&query);
    assert!(!is_truncated(&whole));
    assert_eq!(texts(&whole).len(), 200);
    assert_eq!(transports(), [false, true], "remembered");
    // Who asks over TCP is asked for over TCP.
    let whole = sandbox.ask_tcp(&question("other.example", kind::A));
    assert_eq!(texts(&whole).len(), 200);
    assert_eq!(transports(), [false, true, true]);
}

#[test]
fn servers_from_before_edns_are_asked_without() {
    let mut sandbox = Sandbox::new();
    let other = Other::start(&sandbox.outside, |query, _| {
        if query[11] == 0 {
            return vec![good(query, 1)];
        }
        // Only a header.
        vec![[&query[..2], &[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]].concat()]
    });
    sandbox.serve(&forwarding(vec![], &[other.address]));
    let query = with_edns(question("example.com", kind::A), 1232, 0, true);
    let answer = sandbox.ask(&query).unwrap();
    assert_eq!(texts(&answer), ["192.0.2.1"]);
    assert_eq!(answer[11], 1, "the client's EDNS is answered by ours");
    assert_eq!(other.count(), 2);
}

#[test]
fn equal_questions_share_one_and_too_many_fail_at_once() {
    let mut sandbox = Sandbox::new();
    let silent = Other::start(&sandbox.outside, |_, _| Vec::new());
    let networks = vec![sandbox.network(&[("web", "10.0.0.2", &[])])];
    sandbox.serve(&forwarding(networks, &[silent.address]));
    sandbox.inside.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect(SERVER).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let start = Instant::now();
        for number in 0..40u8 {
            let mut query = question("same.example", kind::A);
            query[0] = number;
            socket.send(&query).unwrap();
        }
        for number in 0..300 {
            let query = question(&format!("n{number}.example"), kind::A);
            socket.send(&query).unwrap();
        }
        // Those above the limit of questions under way; others are not kept waiting by the rest.
        let mut buffer = [0; 512];
        for _ in 0..300 - 127 {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(code(&buffer[..length]), 2);
        }
        let local = ask_udp(&question("web", kind::A)).unwrap();
        assert_eq!(texts(&local), ["10.0.0.2"]);
        assert!(start.elapsed() < Duration::from_secs(2));
        // The rest when its time is over.
        for _ in 0..127 + 40 {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(code(&buffer[..length]), 2);
        }
        let taken = start.elapsed().as_millis();
        assert!((4900..7000).contains(&taken), "{taken} ms");
    });
    let asked = silent.asked.lock().unwrap();
    let same = asked
        .iter()
        .filter(|(_, query)| query[HEADER..].starts_with(b"\x04same"))
        .count();
    // Begun at 0, 2 and 4 seconds.
    assert_eq!(same, 3);
}

#[test]
fn the_hosts_resolv_conf_is_followed() {
    let mut sandbox = Sandbox::new();
    let path = sandbox.directory.path().join("resolv.conf");
    // On port 53 of loopback addresses, as systemd-resolved.
    let serve = |address: &'static str, last: u8| {
        let socket = sandbox
            .outside
            .run(|| UdpSocket::bind((address, 53)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&good(&buffer[..length], last), peer);
            }
        });
    };
    serve("127.0.0.53", 53);
    serve("127.0.0.54", 54);
    std::fs::write(&path, "nameserver 127.0.0.53\n").unwrap();
    sandbox.serve(&Settings {
        forward: true,
        upstream: Upstream::Follow(path.clone()),
        ..Settings::default()
    });
    let query = question("example.com", kind::A);
    assert_eq!(texts(&sandbox.ask(&query).unwrap()), ["192.0.2.53"]);
    std::fs::write(&path, "# moved\nnameserver 127.0.0.54\n").unwrap();
    assert_eq!(texts(&sandbox.ask(&query).unwrap()), ["192.0.2.54"]);
}

/// A network that is left while a question is under way: it is not asked again (CVE-2024-29018).
#[test]
fn nothing_is_sent_again_after_the_way_out_is_gone() {
    let mut sandbox = Sandbox::new();
    let silent = Other::start(&sandbox.outside, |_, _| Vec::new());
    let mut networks = vec![sandbox.network(&[])];
    sandbox.serve(&forwarding(networks.clone(), &[silent.address]));
    thread::scope(|scope| {
        let start = Instant::now();
        let waiting = scope.spawn(|| sandbox.ask(&question("example.com", kind::A)));
        while silent.count() == 0 {
            assert!(start.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(5));
        }
        networks[0].internal = true;
        sandbox.configure(&forwarding(networks.clone(), &[silent.address]));
        assert_eq!(code(&waiting.join().unwrap().unwrap()), 2);
        assert!(start.elapsed() < Duration::from_secs(4));
    });
    assert_eq!(silent.count(), 1);
}
