//! What a sandbox is told without anybody else being asked, and by whom it is told.

use super::*;

#[test]
fn local_names_over_both_transports() {
    let mut sandbox = Sandbox::new();
    let networks = vec![sandbox.network(&[("web", "10.0.0.2 fd00::2", &["www"])])];
    let mut settings = forwarding(networks, &[]);
    settings.names.push(OwnName {
        name: "host.docker.internal".to_owned(),
        meaning: Meaning::Addresses(vec!["172.17.0.1".parse().unwrap()]),
    });
    sandbox.serve(&settings);
    for (name, kind, expected) in [
        ("web", kind::A, &["10.0.0.2"][..]),
        ("WwW.Net", kind::AAAA, &["fd00::2"]),
        ("host.docker.internal", kind::A, &["172.17.0.1"]),
        ("web", 15, &[]),
    ] {
        let query = question(name, kind);
        for answer in [sandbox.ask(&query).unwrap(), sandbox.ask_tcp(&query)] {
            assert_eq!((code(&answer), &answer[..2]), (0, &query[..2]), "{name}");
            assert_eq!(answer[HEADER..query.len()], query[HEADER..], "{name}");
            assert_eq!(texts(&answer), expected, "{name}");
        }
    }
    let reverse = sandbox.ask(&question("2.0.0.10.in-addr.arpa", kind::PTR));
    assert!(reverse.unwrap().ends_with(b"\x03web\x03net\0"));
    // No server is configured: a failure, and at once.
    let start = Instant::now();
    let answer = sandbox.ask(&question("example.com", kind::A)).unwrap();
    assert_eq!(code(&answer), 2);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn port_53_stays_the_containers_own() {
    let mut sandbox = Sandbox::new();
    let networks = vec![sandbox.network(&[("web", "10.0.0.2", &[])])];
    sandbox.serve(&forwarding(networks, &[]));
    let (udp, tcp) = sandbox.inside.run(|| {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        (udp, TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap())
    });
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(b"container", peer);
        }
    });
    sandbox.inside.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 512];
        for address in ["127.0.0.1:53", "127.0.0.12:53"] {
            socket.send_to(b"?", address).unwrap();
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"container", "{address}");
        }
        TcpStream::connect("127.0.0.1:53").unwrap();
        tcp.accept().unwrap();
        // An answer must come from where the question was sent to.
        socket.send_to(&question("web", kind::A), SERVER).unwrap();
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, SocketAddr::from(SERVER));
        assert_eq!(texts(&buffer[..length]), ["10.0.0.2"]);
    });
    assert_eq!(
        texts(&sandbox.ask_tcp(&question("web", kind::A))),
        ["10.0.0.2"]
    );
    // Other sockets in place of the first ones, as after the loss of both.
    sandbox.inside.run(|| {
        let others = redirect::make_sockets().unwrap();
        redirect::install(others.udp_port, others.tcp_port).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.send_to(b"new", SERVER).unwrap();
        let taken = UdpSocket::from(others.udp);
        taken.set_nonblocking(false).unwrap();
        taken.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(taken.recv(&mut [0; 9]).unwrap(), 3);
        assert!(redirect::remove().unwrap());
        assert!(!redirect::remove().unwrap());
    });
}

#[test]
fn sockets_are_made_before_the_loopback_link_is_up() {
    let namespace = Namespace::new();
    namespace.run(|| {
        redirect::make_sockets().unwrap();
    });
}

#[test]
fn cve_2025_8283_stopped_names_are_never_sent_upstream() {
    let mut sandbox = Sandbox::new();
    let other = Other::plain(&sandbox.outside, 1);
    let networks = vec![sandbox.network(&[("db", "", &["database"])])];
    let mut settings = forwarding(networks, &[other.address]);
    settings.search.push("corp.example".to_owned());
    sandbox.serve(&settings);
    for name in ["db", "DATABASE", "db.net", "db.corp.example"] {
        for kind in [kind::A, kind::AAAA, 65] {
            let answer = sandbox.ask(&question(name, kind)).unwrap();
            assert_eq!(code(&answer), 3, "{name}");
        }
    }
    assert_eq!(other.count(), 0);
    // Single labels that nobody here knows are asked elsewhere, as in Docker.
    assert_eq!(
        texts(&sandbox.ask(&question("intranet", kind::A)).unwrap()),
        ["192.0.2.1"]
    );
    assert_eq!(other.count(), 1);
}

#[test]
fn cve_2024_29018_nothing_leaves_an_internal_network() {
    let mut sandbox = Sandbox::new();
    let other = Other::plain(&sandbox.outside, 1);
    let mut networks = vec![sandbox.network(&[("web", "10.0.0.2", &[])])];
    networks[0].internal = true;
    let mut settings = forwarding(networks, &[other.address]);
    sandbox.serve(&settings);
    let external = question("example.com", kind::A);
    for name in ["example.com", "unknown", "1.2.0.192.in-addr.arpa"] {
        let query = question(name, kind::A);
        assert_eq!(code(&sandbox.ask(&query).unwrap()), 2, "{name}");
        assert_eq!(code(&sandbox.ask_tcp(&query)), 2, "{name}");
    }
    assert_eq!(
        texts(&sandbox.ask(&question("web", kind::A)).unwrap()),
        ["10.0.0.2"]
    );
    assert_eq!(other.count(), 0);
    // Connected to another network, and disconnected from it: what was learned meanwhile is not
    // told any more.
    settings
        .networks
        .push(network(&sandbox.directory, "out", &[]));
    sandbox.configure(&settings);
    assert_eq!(texts(&sandbox.ask(&external).unwrap()), ["192.0.2.1"]);
    settings.networks.pop();
    sandbox.configure(&settings);
    assert_eq!(code(&sandbox.ask(&external).unwrap()), 2);
    assert_eq!(other.count(), 1);
}

#[test]
fn cve_2024_8418_idle_connections_keep_nobody_waiting() {
    let mut sandbox = Sandbox::new();
    let networks = vec![sandbox.network(&[("web", "10.0.0.2", &[])])];
    sandbox.serve(&forwarding(networks, &[]));
    let query = question("web", kind::A);
    sandbox.inside.run(|| {
        let mut idle = Vec::new();
        for number in 0..1000 {
            let mut stream = connect();
            // Half of a message for every other one.
            if number % 2 == 0 {
                let _ = stream.write_all(&[0, 40, 1]);
            }
            idle.push(stream);
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let start = Instant::now();
            let mut stream = connect();
            send_framed(&mut stream, &query);
            assert_eq!(texts(&receive_framed(&mut stream)), ["10.0.0.2"]);
            assert_eq!(texts(&ask_udp(&query).unwrap()), ["10.0.0.2"]);
            slowest = slowest.max(start.elapsed());
        }
        assert!(slowest < Duration::from_millis(200), "{slowest:?}");
    });
}

#[test]
fn many_questions_on_one_connection() {
    let mut sandbox = Sandbox::new();
    let other = Other::plain(&sandbox.outside, 1);
    let networks = vec![sandbox.network(&[("web", "10.0.0.2", &[])])];
    sandbox.serve(&forwarding(networks, &[other.address]));
    sandbox.inside.run(|| {
        let mut stream = connect();
        let mut all = Vec::new();
        for number in 0..200u16 {
            let local = number.is_multiple_of(3);
            let name = if local {
                "web".to_owned()
            } else {
                format!("n{number}.example")
            };
            let mut query = question(&name, kind::A);
            query[..2].copy_from_slice(&number.to_be_bytes());
            send_framed(&mut all, &query);
        }
        stream.write_all(&all).unwrap();
        // What was asked is answered although nothing more comes.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut seen = Vec::new();
        for _ in 0..200 {
            let answer = receive_framed(&mut stream);
            let number = u16::from_be_bytes([answer[0], answer[1]]);
            let expected = if number.is_multiple_of(3) {
                "10.0.0.2"
            } else {
                "192.0.2.1"
            };
            assert_eq!(texts(&answer), [expected]);
            seen.push(number);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed at the end");
        // A message longer than any query ends the connection.
        let mut stream = connect();
        stream.write_all(&[0xff; 600]).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    });
}

#[test]
fn a_table_is_swapped_under_load() {
    let mut sandbox = Sandbox::new();
    let networks = vec![sandbox.network(&[("web", "10.0.0.0", &[]), ("fixed", "10.1.1.1", &[])])];
    sandbox.serve(&forwarding(networks, &[]));
    let swaps = 300;
    sandbox.inside.run(|| {
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                let (end, mut asked) = (Instant::now() + Duration::from_secs(1), 0);
                while Instant::now() < end {
                    let answer = ask_udp(&question("fixed", kind::A)).unwrap();
                    assert_eq!(texts(&answer), ["10.1.1.1"]);
                    asked += 1;
                }
                asked
            });
            for number in 0..swaps {
                let address = format!("10.0.{}.{}", number / 100, number % 100);
                sandbox.network(&[("web", &address, &[]), ("fixed", "10.1.1.1", &[])]);
                let answer = ask_udp(&question("web", kind::A)).unwrap();
                assert_eq!(texts(&answer), [address]);
            }
            assert!(load.join().unwrap() > 0);
        });
    });
}

#[test]
fn rubbish_does_no_harm() {
    let mut sandbox = Sandbox::new();
    let networks = vec![sandbox.network(&[("web", "10.0.0.2", &[])])];
    sandbox.serve(&forwarding(networks, &[]));
    let query = question("web", kind::A);
    sandbox.inside.run(|| {
        let mut numbers = Numbers::new(3);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect(SERVER).unwrap();
        for round in 0..300 {
            let mut message = query.clone();
            for _ in 0..numbers.below(6) {
                let at = numbers.below(message.len());
                message[at] = numbers.below(256) as u8;
            }
            message.extend((0..numbers.below(5000)).map(|_| numbers.below(256) as u8));
            let _ = socket.send(&message);
            if round % 10 == 0 {
                let mut stream = connect();
                let _ = stream.write_all(&message);
            }
        }
        assert_eq!(texts(&ask_udp(&query).unwrap()), ["10.0.0.2"]);
    });
    assert_eq!(texts(&sandbox.ask_tcp(&query)), ["10.0.0.2"]);
}

/// Prints how fast local names are answered. Not a measurement to go by: the program is not
/// optimised and client and server share the machine with other tests.
#[test]
fn heavy_local_answers_per_second() {
    const WINDOW: usize = 32;
    let mut sandbox = Sandbox::new();
    let names: Vec<String> = (0..1000).map(|number| format!("web{number}")).collect();
    let endpoints: Vec<(&str, &str, &[&str])> = names
        .iter()
        .map(|name| (name.as_str(), "10.0.0.2 fd00::2", &["www"][..]))
        .collect();
    let networks = vec![sandbox.network(&endpoints)];
    sandbox.serve(&forwarding(networks, &[]));
    let (answered, taken, mut times) = sandbox.inside.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect(SERVER).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 512];
        let (start, mut answered) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(1) {
            for number in 0..WINDOW {
                let query = question(&names[(answered + number) % 1000], kind::A);
                socket.send(&query).unwrap();
            }
            for _ in 0..WINDOW {
                socket.recv(&mut buffer).unwrap();
            }
            answered += WINDOW;
        }
        let taken = start.elapsed();
        let times: Vec<_> = (0..2000)
            .map(|number| {
                let query = question(&names[number % 1000], kind::A);
                let start = Instant::now();
                socket.send(&query).unwrap();
                socket.recv(&mut buffer).unwrap();
                start.elapsed()
            })
            .collect();
        (answered, taken, times)
    });
    times.sort();
    println!(
        "{:.0} answers a second; one at a time: median {:?}, 99 of 100 within {:?}",
        answered as f64 / taken.as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    assert!(answered > 0);
}
