//! Pulls that are killed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::layout::{architectures, layout};
use crate::support::{Installation, wait_until};
use crate::{assert_no_image, ingests, look, looks, start_registry};

/// Passes on what a registry says until a number of bytes have gone by, and then nothing
/// more; the connections stay open.
fn stalling_proxy(registry: u16, budget: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let passed = Arc::new(AtomicUsize::new(0));
    let count = passed.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, registry)) else {
                return;
            };
            let pass = |mut from: TcpStream, mut to: TcpStream, count: Option<Arc<AtomicUsize>>| {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        let before = count
                            .as_ref()
                            .map_or(0, |count| count.fetch_add(read, Ordering::SeqCst));
                        if before >= budget {
                            // The pull that waits for the rest is killed.
                            loop {
                                std::thread::park();
                            }
                        }
                        if to.write_all(&buffer[..read]).is_err() {
                            return;
                        }
                    }
                });
            };
            let (client_too, server_too) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            pass(client, server, None);
            pass(server_too, client_too, Some(count.clone()));
        }
    });
    (port, passed)
}

#[test]
fn a_killed_pull_is_forgotten_by_the_next_one() {
    let installation = Installation::new();
    let registry = start_registry(&installation);
    let layout = layout(&installation);
    registry.push(
        &layout.directory,
        "app",
        &["--all", "--preserve-digests"],
        "app:1",
    );
    // Before the first layer, in its middle, and towards the end.
    for budget in [6_000, 300_000, 900_000] {
        let (port, passed) = stalling_proxy(registry.port, budget);
        let mut pull = installation
            .command(&["pull", &format!("127.0.0.1:{port}/app:1")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the pull has come to a stop", || {
            passed.load(Ordering::SeqCst) >= budget
        });
        if budget > 6_000 {
            wait_until("something is being written", || ingests(&installation) == 1);
        }
        pull.kill().unwrap();
        pull.wait().unwrap();
        let reference = registry.name("app:1");
        installation.ok(&["pull", &reference]);
        assert_eq!(ingests(&installation), 0, "the remains of the killed pull");
        assert_eq!(look(&installation, &reference), looks(architectures().0));
        installation.ok(&["rmi", &reference]);
        assert_no_image(&installation);
    }
    installation.assert_clean();
}
