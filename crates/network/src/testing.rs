//! Private network namespaces for tests. Each lives as long as a descriptor of it, so nothing is
//! left behind however a test ends.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// A network namespace of its own.
pub(crate) struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let fd = thread::spawn(|| {
            const CLONE_NEWNET: i32 = 0x4000_0000;
            gantry_sys::process::unshare(CLONE_NEWNET).expect("tests need root");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        })
        .join()
        .unwrap();
        Namespace { fd }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs `body` on a thread of its own inside the namespace.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network)).unwrap();
                body()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a program inside the namespace and returns its output.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> String {
        self.run(|| {
            let output = Command::new(program).args(arguments).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {error}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    pub(crate) fn set(&self, setting: &str, value: &str) {
        let path = format!("/proc/sys/net/{setting}");
        self.run(|| std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    /// Answers every TCP connection to `port` of any address with `name` and the client's address.
    pub(crate) fn serve_tcp(&self, name: &'static str, address: Ipv4Addr, port: u16) {
        let listener = self.run(|| TcpListener::bind((address, port)).unwrap());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else {
                    return;
                };
                let Ok(peer) = connection.peer_addr() else {
                    continue;
                };
                let _ = write!(connection, "{name} {}", peer.ip());
            }
        });
    }

    /// Answers every datagram to `port` with `name` and the client's address.
    pub(crate) fn serve_udp(&self, name: &'static str, port: u16) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// Connects from inside the namespace; `None` if there is no answer.
    pub(crate) fn ask_tcp(&self, target: &str) -> Option<String> {
        let target: SocketAddr = target.parse().unwrap();
        self.run(|| {
            let mut connection = TcpStream::connect_timeout(&target, PATIENCE).ok()?;
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// Sends a datagram from inside the namespace; `None` if there is no answer.
    pub(crate) fn ask_udp(&self, target: &str) -> Option<String> {
        self.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            ask_again(&socket, target)
        })
    }
}

/// Sends a datagram from a socket and waits for the answer.
pub(crate) fn ask_again(socket: &UdpSocket, target: &str) -> Option<String> {
    let target: SocketAddr = target.parse().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"?", target).ok()?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// How long an answer may take before it counts as absent.
const PATIENCE: Duration = Duration::from_millis(700);

/// An installation id that no other test of this process uses.
pub(crate) fn unique_instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{:x}{:04x}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
