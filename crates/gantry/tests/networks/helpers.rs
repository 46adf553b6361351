//! What the tests of networks share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use serde_json::Value;

use crate::support::{Installation, wait_until};

/// A subnet of 16 addresses that no other test and no other process of tests has.
pub struct Subnet {
    base: [u8; 4],
}

/// The `number`-th one of this test, below 16. Each test is a process of its own, or has numbers
/// of its own.
pub fn subnet(number: u8) -> Subnet {
    let pid = std::process::id();
    let second = 200 + u8::try_from(pid % 50).unwrap();
    let third = u8::try_from((pid / 50) % 256).unwrap();
    Subnet {
        base: [10, second, third, number * 16],
    }
}

impl Subnet {
    /// One of its addresses.
    pub fn host(&self, number: u8) -> String {
        let [first, second, third, fourth] = self.base;
        format!("{first}.{second}.{third}.{}", fourth + number)
    }

    /// Itself, as `ADDRESS/28`.
    pub fn text(&self) -> String {
        format!("{}/28", self.host(0))
    }
}

/// Starts a container that does nothing.
pub fn idle(installation: &Installation, name: &str, flags: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name, "--stop-timeout", "0"];
    arguments.extend(flags);
    arguments.extend(["busybox", "sleep", "10000"]);
    installation.ok(&arguments);
}

/// Starts a container that serves its `/etc` on port 80, and waits until it listens.
pub fn web(installation: &Installation, name: &str, flags: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name, "--stop-timeout", "0"];
    arguments.extend(flags);
    arguments.extend(["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"]);
    installation.ok(&arguments);
    wait_until("the server listens", || {
        let fetch = [
            "exec",
            name,
            "wget",
            "-q",
            "-O",
            "-",
            "http://127.0.0.1/passwd",
        ];
        installation.gantry(&fetch).status.success()
    });
}

/// What `network inspect` says of one network.
pub fn network(installation: &Installation, name: &str) -> Value {
    let mut list: Value =
        serde_json::from_str(&installation.ok(&["network", "inspect", name])).unwrap();
    list[0].take()
}

/// A container's settings on a network, as `inspect` has them.
pub fn endpoint(installation: &Installation, container: &str, network: &str) -> Value {
    let mut described = installation.inspect(container);
    described["NetworkSettings"]["Networks"][network].take()
}

/// A container's address on a network; empty if it has none.
pub fn address(installation: &Installation, container: &str, network: &str) -> String {
    let endpoint = endpoint(installation, container, network);
    endpoint["IPAddress"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The interfaces of a running container but for the loopback, sorted.
pub fn interfaces(installation: &Installation, container: &str) -> Vec<String> {
    let listed = installation.ok(&["exec", container, "ls", "/sys/class/net"]);
    let mut names: Vec<String> = listed
        .split_whitespace()
        .filter(|name| *name != "lo")
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// The addresses inside a running container but for the loopback's, sorted, with interface:
/// `eth0 10.1.2.3`.
pub fn inner_addresses(installation: &Installation, container: &str) -> Vec<String> {
    let listed = installation.ok(&["exec", container, "ip", "-4", "-o", "address"]);
    let mut found: Vec<String> = listed
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let interface = words.nth(1)?.split('@').next()?;
            let address = words.nth(1)?.split('/').next()?;
            (interface != "lo").then(|| format!("{interface} {address}"))
        })
        .collect();
    found.sort();
    found
}

/// Whether a container gets an answer from an address.
pub fn pings(installation: &Installation, container: &str, address: &str) -> bool {
    let ping = ["exec", container, "ping", "-c", "1", "-W", "2", address];
    installation.gantry(&ping).status.success()
}

/// Whether a container gets something from port 80 of an address.
pub fn fetches(installation: &Installation, container: &str, address: &str) -> bool {
    let url = format!("http://{address}/passwd");
    let fetch = [
        "exec", container, "timeout", "3", "wget", "-q", "-O", "-", &url,
    ];
    installation.gantry(&fetch).status.success()
}

/// Waits until so many links hang on a network's bridge: the kernel takes a namespace and its
/// links down some time after the last process in it.
pub fn await_links(bridge: &str, count: usize) {
    wait_until(&format!("{bridge} has {count} links"), || {
        links_of(bridge).len() == count
    });
}

/// Links that hang on a network's bridge.
pub fn links_of(bridge: &str) -> Vec<String> {
    let ports = std::fs::read_dir(format!("/sys/class/net/{bridge}/brif"));
    ports
        .into_iter()
        .flatten()
        .flatten()
        .map(|port| port.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Whether there is such a link on the host.
pub fn link_exists(name: &str) -> bool {
    std::fs::exists(format!("/sys/class/net/{name}")).unwrap()
}

/// Name of the bridge of a network with this id.
pub fn bridge_of(id: &str) -> String {
    format!("br-{}", &id[..12])
}
