//! The whole server in real network namespaces: a sandbox that asks, and another namespace in place
//! of the host's with other servers in it.

use super::message::{HEADER, kind, records};
use super::testing::{Directory, Numbers, answer_to, question, record, with_edns};
use super::{
    Endpoint, Meaning, NetworkNames, OwnName, Server, Settings, Table, Upstream, redirect,
};
use crate::testing::Namespace;
use rustix::fd::{AsFd, OwnedFd};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

mod forwarding;
mod local;

const SERVER: (Ipv4Addr, u16) = (redirect::ADDRESS, 53);
/// How long an answer may take before it counts as absent.
const PATIENCE: Duration = Duration::from_secs(8);

/// A sandbox with its name server.
struct Sandbox {
    inside: Namespace,
    outside: Arc<Namespace>,
    directory: Directory,
    stop: Option<OwnedFd>,
    server: Option<JoinHandle<()>>,
}

impl Sandbox {
    fn new() -> Self {
        let (inside, outside) = (Namespace::new(), Arc::new(Namespace::new()));
        for namespace in [&inside, &outside] {
            namespace.output("ip", &["link", "set", "lo", "up"]);
        }
        Sandbox {
            inside,
            outside,
            directory: Directory::new(),
            stop: None,
            server: None,
        }
    }

    fn configure(&self, settings: &Settings) {
        settings.write(self.directory.fd(), "dns").unwrap();
    }

    fn serve(&mut self, settings: &Settings) {
        self.configure(settings);
        let sockets = self.inside.run(|| {
            let sockets = redirect::make_sockets().unwrap();
            redirect::install(sockets.udp_port, sockets.tcp_port).unwrap();
            sockets
        });
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let outside = Arc::clone(&self.outside);
        let path = self.directory.path().join("dns");
        self.stop = Some(writer);
        self.server = Some(thread::spawn(move || {
            move_into_link_name_space(outside.fd(), Some(LinkNameSpaceType::Network)).unwrap();
            Server::new(vec![sockets.udp], vec![sockets.tcp], path)
                .unwrap()
                .run_until(reader.as_fd())
                .unwrap();
        }));
    }

    fn network(&self, endpoints: &[(&str, &str, &[&str])]) -> NetworkNames {
        network(&self.directory, "net", endpoints)
    }

    fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.inside.run(|| ask_udp(query))
    }

    fn ask_tcp(&self, query: &[u8]) -> Vec<u8> {
        self.inside.run(|| {
            let mut stream = connect();
            send_framed(&mut stream, query);
            receive_framed(&mut stream)
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(server) = self.server.take() {
            let ended = server.join();
            if !thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

fn network(directory: &Directory, name: &str, endpoints: &[(&str, &str, &[&str])]) -> NetworkNames {
    let table = Table {
        network: name.to_owned(),
        generation: 1,
        endpoints: endpoints
            .iter()
            .map(|(name, addresses, aliases)| Endpoint {
                name: (*name).to_owned(),
                addresses: addresses
                    .split_whitespace()
                    .map(|word| word.parse().unwrap())
                    .collect(),
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            })
            .collect(),
    };
    table.write(directory.fd(), name).unwrap();
    NetworkNames {
        table: directory.path().join(name),
        internal: false,
    }
}

fn forwarding(networks: Vec<NetworkNames>, servers: &[SocketAddr]) -> Settings {
    Settings {
        networks,
        forward: true,
        upstream: Upstream::Servers(servers.to_vec()),
        ..Settings::default()
    }
}

fn ask_udp(query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect(SERVER).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(query).unwrap();
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect(SERVER).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn send_framed(stream: &mut impl Write, message: &[u8]) {
    let length = (message.len() as u16).to_be_bytes();
    stream.write_all(&[&length[..], message].concat()).unwrap();
}

fn receive_framed(stream: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn code(message: &[u8]) -> u8 {
    message[3] & 0xf
}

fn is_truncated(message: &[u8]) -> bool {
    message[2] & 2 != 0
}

/// The times to live and the addresses in an answer.
fn answers(message: &[u8]) -> Vec<(u32, IpAddr)> {
    let end = HEADER + super::testing::question_length(message);
    records(message, end)
        .map(|entry| entry.unwrap().1)
        .filter_map(|record| {
            let data = &message[record.data..record.end];
            let address = match record.kind {
                kind::A => IpAddr::from(<[u8; 4]>::try_from(data).unwrap()),
                kind::AAAA => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()),
                _ => return None,
            };
            Some((record.ttl, address))
        })
        .collect()
}

fn texts(message: &[u8]) -> Vec<String> {
    answers(message)
        .iter()
        .map(|(_, address)| address.to_string())
        .collect()
}

/// A query, and whether it came over TCP.
type Asked = (bool, Vec<u8>);

/// Another name server, which remembers what it was asked.
struct Other {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Other {
    /// `answer` is given each query and whether it came over TCP; each of its messages is sent
    /// back, over UDP at least.
    fn start(
        namespace: &Namespace,
        answer: impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Other {
        let (udp, tcp) = namespace.run(|| {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            (UdpSocket::bind(tcp.local_addr().unwrap()).unwrap(), tcp)
        });
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let (log, reply) = (Arc::clone(&asked), Arc::clone(&answer));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                let query = &buffer[..length];
                log.lock().unwrap().push((false, query.to_vec()));
                for message in reply(query, false) {
                    let _ = udp.send_to(&message, peer);
                }
            }
        });
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let query = receive_framed(&mut stream);
                log.lock().unwrap().push((true, query.clone()));
                for message in answer(&query, true) {
                    send_framed(&mut stream, &message);
                }
            }
        });
        Other { address, asked }
    }

    /// Says that every name has the address 192.0.2.`last`.
    fn plain(namespace: &Namespace, last: u8) -> Other {
        Other::start(namespace, move |query, _| vec![good(query, last)])
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn good(query: &[u8], last: u8) -> Vec<u8> {
    answer_to(query, 0, &[record(kind::A, 60, &[192, 0, 2, last])], &[])
}
