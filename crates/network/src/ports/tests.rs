//! Reservations against the real kernel, in a private namespace.

use super::*;
use crate::attach::configure_container;
use crate::testing::Namespace;
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};

fn host() -> Namespace {
    let host = Namespace::new();
    host.run(|| configure_container(&[]).unwrap());
    host
}

fn request(address: &str, port: HostPort, protocol: Protocol) -> PortRequest {
    let host_address = (address != "*").then(|| address.parse().unwrap());
    PortRequest {
        host_address,
        port,
        protocol,
    }
}

fn addresses_of(reservation: &Reservation) -> Vec<String> {
    reservation
        .sockets
        .iter()
        .map(|socket| socket.address.ip().to_string())
        .collect()
}

/// What a server does: std sets `SO_REUSEADDR` on TCP listeners.
fn serve(address: &str, port: u16, protocol: Protocol) -> bool {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    match protocol {
        Protocol::Udp => UdpSocket::bind(address).is_ok(),
        _ => TcpListener::bind(address).is_ok(),
    }
}

#[test]
fn a_reserved_port_is_nobody_elses() {
    let host = host();
    host.run(|| {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (address, blocked, free) in [
                ("*", &["0.0.0.0", "127.0.0.1", "::", "::1"][..], &[][..]),
                (
                    "127.0.0.1",
                    &["0.0.0.0", "127.0.0.1"],
                    &["127.0.0.2", "::1"],
                ),
                (
                    "127.0.0.2",
                    &["0.0.0.0", "127.0.0.2"],
                    &["127.0.0.1", "::1"],
                ),
                ("::1", &["::", "::1"], &["127.0.0.1", "0.0.0.0"]),
            ] {
                let wanted = request(address, HostPort::Any, protocol);
                let reservation = reserve(&wanted).unwrap();
                let port = reservation.port;
                for other in blocked {
                    assert!(
                        !serve(other, port, protocol),
                        "{address} {other} {protocol}"
                    );
                }
                for other in free {
                    assert!(serve(other, port, protocol), "{address} {other} {protocol}");
                }
                let again = PortRequest {
                    port: HostPort::Exactly(port),
                    ..wanted
                };
                assert!(matches!(reserve(&again), Err(PortError::InUse { .. })));
                drop(reservation);
                drop(reserve(&again).unwrap());
            }
        }
    });
}

/// N17: a port on 127.0.0.1 is bound there only, with no second address and no second family.
#[test]
fn n17_a_loopback_port_is_on_loopback_only() {
    let host = host();
    host.run(|| {
        let any = HostPort::Any;
        let v4 = reserve(&request("127.0.0.1", any, Protocol::Tcp)).unwrap();
        assert_eq!(addresses_of(&v4), ["127.0.0.1"]);
        let v6 = reserve(&request("::1", any, Protocol::Tcp)).unwrap();
        assert_eq!(addresses_of(&v6), ["::1"]);
        let all = reserve(&request("*", any, Protocol::Tcp)).unwrap();
        assert_eq!(addresses_of(&all), ["0.0.0.0", "::"]);
        assert!(
            all.sockets
                .iter()
                .all(|socket| socket.address.port() == all.port)
        );
    });
}

#[test]
fn only_ipv6_tcp_listens() {
    let host = host();
    host.run(|| {
        let all = reserve(&request("*", HostPort::Any, Protocol::Tcp)).unwrap();
        let listening: Vec<_> = all.sockets.iter().map(|socket| socket.listening).collect();
        assert_eq!(listening, [false, true]);
        let refused = TcpStream::connect(("127.0.0.1", all.port)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        TcpStream::connect(("::1", all.port)).unwrap();
    });
}

#[test]
fn both_families_get_the_same_port_even_if_the_first_choice_is_taken() {
    let host = host();
    // So few ports that the choices collide.
    host.set("ipv4/ip_local_port_range", "40000 40019");
    host.run(|| {
        let _taken: Vec<_> = (40000..40019)
            .map(|port| reserve(&request("::1", HostPort::Exactly(port), Protocol::Tcp)).unwrap())
            .collect();
        let all = reserve(&request("*", HostPort::Any, Protocol::Tcp)).unwrap();
        assert_eq!(all.port, 40019);
    });
}

#[test]
fn the_first_free_port_of_a_range() {
    let host = host();
    host.run(|| {
        let range = request("127.0.0.1", HostPort::Between(8000, 8002), Protocol::Tcp);
        let _server = TcpListener::bind("0.0.0.0:8000").unwrap();
        let first = reserve(&range).unwrap();
        let second = reserve(&range).unwrap();
        assert_eq!((first.port, second.port), (8001, 8002));
        let error = reserve(&range).unwrap_err();
        assert_eq!(
            error.to_string(),
            "all tcp ports from 8000 to 8002 of 127.0.0.1 are in use"
        );
        for (first, last) in [(0, 5), (9, 8)] {
            let empty = request("*", HostPort::Between(first, last), Protocol::Tcp);
            assert!(matches!(reserve(&empty), Err(PortError::EmptyRange { .. })));
        }
    });
}

#[test]
fn errors_name_the_process() {
    let host = host();
    host.run(|| {
        for (server, wanted) in [
            (TcpListener::bind("127.0.0.1:8080").unwrap(), "*"),
            (TcpListener::bind("[::1]:8081").unwrap(), "*"),
            (TcpListener::bind("0.0.0.0:8082").unwrap(), "127.0.0.1"),
        ] {
            let port = server.local_addr().unwrap().port();
            let exactly = HostPort::Exactly(port);
            let error = reserve(&request(wanted, exactly, Protocol::Tcp)).unwrap_err();
            let text = error.to_string();
            let PortError::InUse {
                address,
                holder: Some(holder),
                ..
            } = error
            else {
                panic!("{text}");
            };
            assert_eq!((address.port(), holder.pid), (port, std::process::id()));
            let expected = format!("port {address}/tcp is in use by {holder}");
            assert_eq!(text, expected);
        }
        let absent = request("203.0.113.7", HostPort::Exactly(80), Protocol::Udp);
        let error = reserve(&absent).unwrap_err();
        assert!(matches!(error, PortError::NoSuchAddress(_)), "{error}");
    });
}

/// A server that was stopped leaves its last connections in TIME_WAIT for a minute.
#[test]
fn connections_that_ended_do_not_hold_a_port() {
    let host = host();
    host.run(|| {
        for address in ["127.0.0.1", "::1"] {
            let server = TcpListener::bind((address, 0)).unwrap();
            let port = server.local_addr().unwrap().port();
            let mut client = TcpStream::connect((address, port)).unwrap();
            // The side that closes first is the one that waits.
            drop(server.accept().unwrap());
            client.read_to_end(&mut Vec::new()).unwrap();
            drop((client, server));

            let exactly = HostPort::Exactly(port);
            let reservation = reserve(&request(address, exactly, Protocol::Tcp)).unwrap();
            assert!(!serve(address, port, Protocol::Tcp), "{address}");
            assert_eq!(
                TcpStream::connect((address, port)).is_ok(),
                address == "::1"
            );
            drop(reservation);
        }
    });
}

#[test]
fn a_host_without_ipv6_publishes_on_ipv4() {
    let host = host();
    host.set("ipv6/conf/all/disable_ipv6", "1");
    host.run(|| {
        let all = reserve(&request("*", HostPort::Any, Protocol::Tcp)).unwrap();
        assert!(addresses_of(&all).contains(&"0.0.0.0".to_owned()));
    });
}
