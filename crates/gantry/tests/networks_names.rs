//! Names of containers on networks that users make.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "networks/helpers.rs"]
mod helpers;

use std::time::Duration;

use helpers::{address, fetches, idle, pings, web};
use support::{Installation, wait_until};

/// What a name means to a container, or the whole answer where there is none.
fn look_up(
    installation: &Installation,
    container: &str,
    name: &str,
) -> Result<Vec<String>, String> {
    let output = installation.gantry(&["exec", container, "nslookup", name]);
    let answer = support::text(&output.stdout);
    // The server's own address comes before the first empty line.
    let body = answer.split_once("\n\n").map_or("", |(_, body)| body);
    let mut found: Vec<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("Address: "))
        .map(|address| address.trim().to_owned())
        .collect();
    found.sort();
    if found.is_empty() {
        Err(answer + &support::text(&output.stderr))
    } else {
        Ok(found)
    }
}

#[test]
fn containers_find_each_other() {
    let installation = Installation::with_busybox();
    installation.ok(&["network", "create", "net"]);
    web(
        &installation,
        "web",
        &[
            "--network",
            "net",
            "--network-alias",
            "www",
            "--network-alias",
            "app",
            "-h",
            "machine",
        ],
    );
    idle(&installation, "client", &["--network", "net"]);
    let web = address(&installation, "web", "net");
    let id = installation.inspect("web")["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    for name in ["web", "WWW", "app", &id[..12], "machine"] {
        assert_eq!(
            look_up(&installation, "client", name).as_deref(),
            Ok(&[web.clone()][..]),
            "{name}"
        );
        assert!(pings(&installation, "client", name), "{name}");
    }
    assert!(fetches(&installation, "client", "web"));
    // Both ways, and itself.
    assert!(pings(&installation, "web", "client") && pings(&installation, "web", "web"));
    let reverse = installation.gantry(&["exec", "client", "nslookup", &web]);
    let reverse = support::text(&reverse.stdout);
    assert!(reverse.contains("name = web"), "{reverse}");
    // A container that is stopped has no address, and no name.
    installation.ok(&["stop", "web"]);
    wait_until("the name is gone", || {
        look_up(&installation, "client", "web").is_err()
    });
    let gone = look_up(&installation, "client", "web").unwrap_err();
    assert!(gone.contains("NXDOMAIN"), "{gone}");
    installation.ok(&["start", "web"]);
    wait_until("the name is back", || {
        look_up(&installation, "client", "web").is_ok()
    });
    installation.ok(&["rm", "-f", "web", "client"]);
    installation.assert_clean();
}

#[test]
fn names_follow_connect_and_disconnect() {
    let installation = Installation::with_busybox();
    for name in ["one", "two"] {
        installation.ok(&["network", "create", name]);
    }
    idle(&installation, "box-a", &["--network", "one"]);
    idle(&installation, "box-b", &["--network", "two"]);
    // On the default network there are no names.
    idle(&installation, "box-c", &[]);
    assert!(look_up(&installation, "box-a", "box-b").is_err());
    assert!(look_up(&installation, "box-a", "box-c").is_err());
    installation.ok(&["network", "connect", "--alias", "bee", "one", "box-b"]);
    let b = address(&installation, "box-b", "one");
    for name in ["box-b", "bee"] {
        assert_eq!(
            look_up(&installation, "box-a", name).as_deref(),
            Ok(&[b.clone()][..]),
            "{name}"
        );
    }
    assert!(pings(&installation, "box-b", "box-a"));
    // From the default network to one with names, while it runs.
    installation.ok(&["network", "connect", "one", "box-c"]);
    assert!(pings(&installation, "box-c", "box-a") && pings(&installation, "box-a", "box-c"));
    installation.ok(&["network", "disconnect", "one", "box-b"]);
    assert!(look_up(&installation, "box-a", "bee").is_err());
    assert!(look_up(&installation, "box-b", "box-a").is_err());
    installation.ok(&["rm", "-f", "box-a", "box-b", "box-c"]);
    installation.assert_clean();
}

#[test]
fn one_name_of_several() {
    let installation = Installation::with_busybox();
    installation.ok(&["network", "create", "net"]);
    let names = ["one", "two", "three"];
    for name in names {
        idle(
            &installation,
            name,
            &["--network", "name=net,alias=service"],
        );
    }
    let mut expected: Vec<String> = names
        .iter()
        .map(|name| address(&installation, name, "net"))
        .collect();
    expected.sort();
    assert_eq!(look_up(&installation, "one", "service"), Ok(expected));
    installation.ok(&["rm", "-f", "two"]);
    assert_eq!(
        look_up(&installation, "one", "service").map(|found| found.len()),
        Ok(2)
    );
    installation.ok(&["rm", "-f", "one", "three"]);
    installation.assert_clean();
}

#[test]
fn links() {
    let installation = Installation::with_busybox();
    installation.ok(&["network", "create", "net"]);
    idle(&installation, "db", &["--network", "net"]);
    idle(
        &installation,
        "web",
        &["--network", "net", "--link", "db:store"],
    );
    idle(&installation, "other", &["--network", "net"]);
    let db = address(&installation, "db", "net");
    assert_eq!(
        look_up(&installation, "web", "store").as_deref(),
        Ok(&[db][..])
    );
    assert!(look_up(&installation, "other", "store").is_err());
    let missing = installation.fails(
        125,
        &[
            "run",
            "--rm",
            "--network",
            "net",
            "--link",
            "missing",
            "busybox",
            "true",
        ],
    );
    assert!(missing.contains("missing"), "{missing}");
    installation.ok(&["rm", "-f", "db", "web", "other"]);
    installation.assert_clean();
}

#[test]
fn the_host_has_names() {
    let installation = Installation::with_busybox();
    installation.ok(&["network", "create", "net"]);
    idle(&installation, "box", &["--network", "net"]);
    let gateway = helpers::endpoint(&installation, "box", "net")["Gateway"].take();
    let gateway = gateway.as_str().unwrap().to_owned();
    for name in ["host.docker.internal", "gateway.docker.internal"] {
        assert_eq!(
            look_up(&installation, "box", name).as_deref(),
            Ok(&[gateway.clone()][..]),
            "{name}"
        );
    }
    installation.ok(&["rm", "-f", "box"]);
    installation.assert_clean();
}

/// N01, CVE-2024-29018: what a container of an internal network asks for never leaves it.
#[test]
fn an_internal_network_asks_nobody() {
    let installation = Installation::with_busybox();
    // A server of the host's that takes questions, at an address of this test's own.
    let pid = std::process::id();
    let address = format!("127.1.{}.{}", (pid >> 8) & 0xff, pid & 0xff);
    let server = std::net::UdpSocket::bind((address.as_str(), 53)).unwrap();
    server
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut question = [0; 512];
    installation.ok(&["network", "create", "--internal", "closed"]);
    installation.ok(&["network", "create", "open"]);
    idle(
        &installation,
        "box-a",
        &["--network", "closed", "--dns", &address],
    );
    idle(&installation, "box-b", &["--network", "closed"]);
    idle(
        &installation,
        "box-c",
        &["--network", "open", "--dns", &address],
    );
    let peer = helpers::address(&installation, "box-b", "closed");
    assert_eq!(
        look_up(&installation, "box-a", "box-b").as_deref(),
        Ok(&[peer][..])
    );
    let outside = look_up(&installation, "box-a", "example.org").unwrap_err();
    assert!(!outside.contains("timed out"), "{outside}");
    assert!(server.recv(&mut question).is_err(), "a question has left");
    // The very same server is asked for an open network.
    let asked = ["exec", "box-c", "timeout", "2", "nslookup", "example.org"];
    installation.gantry(&asked);
    assert!(server.recv(&mut question).is_ok(), "no question came");
    installation.ok(&["rm", "-f", "box-a", "box-b", "box-c"]);
    installation.assert_clean();
}

/// Processes of a container's supervisor whose command line begins with `program`.
fn processes(installation: &Installation, container: &str, program: &str) -> Vec<i32> {
    let id = installation.ok(&["inspect", "-f", "{{.Id}}", container]);
    let is_one = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.starts_with(program) && line.contains(id.trim())
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_one)
        .collect()
}

#[test]
fn the_name_server_may_do_nothing_and_outlives_every_death() {
    let installation = Installation::with_busybox();
    installation.ok(&["network", "create", "net"]);
    idle(&installation, "one", &["--network", "net"]);
    idle(&installation, "two", &["--network", "net"]);
    let expected = vec![address(&installation, "one", "net")];
    let server = processes(&installation, "two", "gantry-names");
    let [pid] = server.as_slice() else {
        panic!("name servers: {server:?}");
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    for program in ["gantry-names", "gantry-supervisor", "gantry-supervisor"] {
        // The youngest: of the supervisor's processes the one that works.
        let pid = processes(&installation, "two", program)
            .into_iter()
            .max()
            .unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        wait_until("names are looked up again", || {
            look_up(&installation, "two", "one").as_ref() == Ok(&expected)
        });
    }
    wait_until("one name server is left", || {
        processes(&installation, "two", "gantry-names").len() == 1
    });
}
