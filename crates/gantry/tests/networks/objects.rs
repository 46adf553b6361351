//! Networks as objects: made, listed, described, removed.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

use crate::helpers::{bridge_of, endpoint, idle, link_exists, network, subnet};
use crate::support::Installation;

#[test]
fn made_listed_and_removed() {
    let installation = Installation::new();
    let net = subnet(0);
    let id = installation.ok(&[
        "network",
        "create",
        "--subnet",
        &net.text(),
        "--label",
        "tier=front",
        "my-net",
    ]);
    assert!(
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
    assert!(link_exists(&bridge_of(&id)));
    let short = &id[..12];
    let listed = installation.ok(&["network", "ls"]);
    let lines: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
    let shown: Vec<&[&str]> = lines[1..].iter().map(|line| &line[1..]).collect();
    let expected: [&[&str]; 4] = [
        &["bridge", "bridge", "local"],
        &["host", "host", "local"],
        &["my-net", "bridge", "local"],
        &["none", "null", "local"],
    ];
    assert_eq!(shown, expected);
    assert_eq!(lines[3][0], short);
    for (flags, expected) in [
        (&["-q", "-f", "type=custom"][..], short),
        (&["-q", "--no-trunc", "-f", "name=my"], &*id),
        (
            &["--format", "{{.ID}} {{.Labels}}", "-f", "label=tier"],
            &format!("{short} tier=front"),
        ),
        (&["--format", "{{.Name}}", "-f", "dangling=true"], "my-net"),
        (&["--format", "{{.Name}}", "-f", "driver=null"], "none"),
        (&["-q", "-f", "name=nothing"], ""),
    ] {
        let arguments: Vec<&str> = ["network", "ls"].iter().chain(flags).copied().collect();
        assert_eq!(installation.ok(&arguments), expected, "{flags:?}");
    }
    for name in ["my-net", &id, short] {
        assert_eq!(network(&installation, name)["Name"], "my-net");
    }
    let taken = installation.fails(1, &["network", "create", "my-net"]);
    assert!(
        taken.contains("network with name my-net already exists"),
        "{taken}"
    );
    // One error does not keep the others from being removed.
    installation.ok(&["network", "create", "other"]);
    let output = installation.gantry(&["network", "rm", "my-net", "missing", "other"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "my-net\nother\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("network missing not found"));
    assert!(!link_exists(&bridge_of(&id)));
    assert_eq!(installation.ok(&["network", "rm", "-f", "missing"]), "");
    let gone = installation.gantry(&["network", "inspect", "my-net"]);
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&gone.stdout), "[]\n");
    assert!(String::from_utf8_lossy(&gone.stderr).contains("network my-net not found"));
}

#[test]
fn described_as_docker_does() {
    let installation = Installation::with_busybox();
    let net = subnet(0);
    let id = installation.ok(&[
        "network",
        "create",
        "--driver=bridge",
        "--subnet",
        &net.text(),
        "--gateway",
        &net.host(9),
        "--ip-range",
        &format!("{}/29", net.host(8)),
        "--aux-address",
        &format!("printer={}", net.host(10)),
        "-o",
        "com.docker.network.driver.mtu=1400",
        "--label",
        "a=b",
        "--attachable",
        "--internal",
        "net",
    ]);
    idle(&installation, "box", &["--network", "net"]);
    let described = network(&installation, "net");
    let container = installation.inspect("box")["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (key, expected) in [
        ("Name", Value::from("net")),
        ("Id", Value::from(id)),
        ("Scope", Value::from("local")),
        ("Driver", Value::from("bridge")),
        ("EnableIPv4", Value::from(true)),
        ("EnableIPv6", Value::from(false)),
        ("Internal", Value::from(true)),
        ("Attachable", Value::from(true)),
        ("Ingress", Value::from(false)),
        ("ConfigOnly", Value::from(false)),
        ("Labels", serde_json::json!({ "a": "b" })),
        (
            "Options",
            serde_json::json!({ "com.docker.network.driver.mtu": "1400" }),
        ),
        (
            "IPAM",
            serde_json::json!({
                "Driver": "default",
                "Options": {},
                "Config": [{
                    "Subnet": net.text(),
                    "IPRange": format!("{}/29", net.host(8)),
                    "Gateway": net.host(9),
                    "AuxiliaryAddresses": { "printer": net.host(10) },
                }],
            }),
        ),
    ] {
        assert_eq!(described[key], expected, "{key}");
    }
    let place = &described["Containers"][&container];
    assert_eq!(place["Name"], "box");
    // Out of the range, without the gateway and the printer: 8 comes first.
    assert_eq!(place["IPv4Address"], format!("{}/28", net.host(8)));
    let endpoint = endpoint(&installation, "box", "net");
    for (key, expected) in [
        ("IPAddress", Value::from(net.host(8))),
        ("Gateway", Value::from("")),
        ("IPPrefixLen", Value::from(28)),
        ("NetworkID", described["Id"].clone()),
        ("MacAddress", place["MacAddress"].clone()),
        ("EndpointID", place["EndpointID"].clone()),
    ] {
        // A network without a way out has no gateway in Docker; ours may name the bridge.
        if key != "Gateway" {
            assert_eq!(endpoint[key], expected, "{key}");
        }
    }
    let mac = installation.ok(&["exec", "box", "cat", "/sys/class/net/eth0/address"]);
    assert_eq!(place["MacAddress"], mac);
    assert_eq!(
        installation.ok(&["exec", "box", "cat", "/sys/class/net/eth0/mtu"]),
        "1400"
    );
    assert_eq!(
        installation.ok(&["inspect", "--type", "network", "-f", "{{.Name}}", "net"]),
        "net"
    );
    let mode = installation.inspect("box")["HostConfig"]["NetworkMode"].take();
    assert_eq!(mode, "net");
    // Lists know the network by its name and its id.
    for filter in [
        "network=net",
        &format!("network={}", described["Id"].as_str().unwrap()),
    ] {
        let listed = installation.ok(&["ps", "-f", filter, "--format", "{{.Names}} {{.Networks}}"]);
        assert_eq!(listed, "box net", "{filter}");
    }
    assert_eq!(installation.ok(&["ps", "-q", "-f", "network=bridge"]), "");
    installation.ok(&["rm", "-f", "box"]);
    installation.assert_clean();
}

#[test]
fn predefined_networks() {
    let installation = Installation::new();
    for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
        let described = network(&installation, name);
        assert_eq!(described["Driver"], driver, "{name}");
        let id = described["Id"].as_str().unwrap().to_owned();
        assert_eq!(network(&installation, &id)["Name"], name);
        let removed = installation.fails(1, &["network", "rm", name]);
        assert!(
            removed.contains(&format!(
                "{name} is a pre-defined network and cannot be removed"
            )),
            "{removed}"
        );
        let made = installation.fails(1, &["network", "create", name]);
        assert!(made.contains("pre-defined"), "{made}");
    }
}

#[test]
fn refused_requests_leave_nothing() {
    let installation = Installation::new();
    let (one, two) = (subnet(0), subnet(1));
    installation.ok(&["network", "create", "--subnet", &one.text(), "one"]);
    let links = || {
        let mut names: Vec<_> = std::fs::read_dir("/sys/class/net")
            .unwrap()
            .flatten()
            .map(|link| link.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("br-"))
            .collect();
        names.sort();
        names
    };
    let own = bridge_of(network(&installation, "one")["Id"].as_str().unwrap());
    let text = two.text();
    let wide = format!("{}/24", one.host(0));
    for (flags, expected) in [
        (vec!["--subnet", &wide, "x"], "overlaps network one"),
        (vec!["--subnet", "127.0.0.0/8", "x"], "127.0.0.0/8"),
        (vec!["--subnet", "10.0.0.0", "x"], "10.0.0.0"),
        (
            vec!["--subnet", &text, "--gateway", "192.0.2.1", "x"],
            "192.0.2.1",
        ),
        (
            vec!["--subnet", &text, "--ip-range", "192.0.2.0/28", "x"],
            "192.0.2.0/28",
        ),
        (
            vec!["--subnet", &text, "--aux-address=a=192.0.2.1", "x"],
            "192.0.2.1",
        ),
        (
            vec!["--gateway", "192.0.2.1", "x"],
            "must have a corresponding subnet",
        ),
        (vec!["-d", "weave", "x"], "weave"),
        (vec!["--ipv6", "x"], "ipv6"),
        (vec!["-o", "com.docker.network.driver.mtu=1", "x"], "mtu"),
        (vec!["-o", "com.docker.network.bridge.name=lo", "x"], "lo"),
        (vec!["-o", "com.docker.network.bridge.name=a/b", "x"], "a/b"),
        (vec!["--", "-x"], "-x"),
        (vec!["a b"], "a b"),
        (vec![""], "name"),
        (vec!["../x"], "../x"),
    ] {
        let arguments: Vec<&str> = ["network", "create"].into_iter().chain(flags).collect();
        let output = installation.gantry(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            matches!(output.status.code(), Some(1 | 125)),
            "{arguments:?}: {:?} {stderr}",
            output.status.code()
        );
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    let names = installation.ok(&[
        "network",
        "ls",
        "--format",
        "{{.Name}}",
        "-f",
        "type=custom",
    ]);
    assert_eq!(names, "one");
    assert!(links().contains(&own));
    installation.ok(&["network", "rm", "one"]);
    // The subnet is free again at once.
    installation.ok(&["network", "create", "--subnet", &wide, "two"]);
}

#[test]
fn a_network_in_use_stays() {
    let installation = Installation::with_busybox();
    installation.ok(&["network", "create", "net"]);
    idle(&installation, "box", &["--network", "net"]);
    let refused = installation.fails(1, &["network", "rm", "net"]);
    assert!(
        refused.contains("network net has active endpoints") && refused.contains("box"),
        "{refused}"
    );
    installation.ok(&["exec", "box", "true"]);
    installation.ok(&["stop", "box"]);
    installation.ok(&["network", "rm", "net"]);
    // The container is on a network that is gone: its start says so, and leaves nothing.
    let start = installation.fails(1, &["start", "box"]);
    assert!(start.contains("network net not found"), "{start}");
    let state = installation.inspect("box")["State"]["Status"].take();
    assert_ne!(state, "running");
    // One of the same name is another network, but the name is what was asked for.
    installation.ok(&["network", "create", "net"]);
    installation.ok(&["start", "box"]);
    installation.ok(&["rm", "-f", "box"]);
    installation.assert_clean();
}

#[test]
fn prune_takes_what_nobody_needs() {
    let installation = Installation::with_busybox();
    for (name, label) in [
        ("keep", "keep=1"),
        ("used", "a=1"),
        ("stopped", "a=1"),
        ("left", "a=1"),
    ] {
        installation.ok(&["network", "create", "--label", label, name]);
    }
    idle(&installation, "box", &["--network", "used"]);
    installation.ok(&["create", "--network", "stopped", "busybox"]);
    let names = || {
        installation
            .ok(&[
                "network",
                "ls",
                "--format",
                "{{.Name}}",
                "-f",
                "type=custom",
            ])
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for answer in [&b"n\n"[..], b""] {
        let asked = installation.feed(&["network", "prune"], answer);
        assert_eq!(
            String::from_utf8_lossy(&asked.stdout),
            "WARNING! This will remove all custom networks not used by at least one container.\n\
             Are you sure you want to continue? [y/N] "
        );
        assert_eq!(names().len(), 4);
    }
    assert_eq!(
        installation.ok(&["network", "prune", "-f", "--filter", "until=1h"]),
        ""
    );
    let pruned = installation.gantry(&["network", "prune", "-f", "--filter", "label!=keep"]);
    assert_eq!(
        String::from_utf8_lossy(&pruned.stdout),
        "Deleted Networks:\nleft\n\n"
    );
    // As in Docker, a container that does not run holds no network; ours keep theirs.
    assert_eq!(names(), ["keep", "stopped", "used"]);
    let pruned = installation.feed(&["network", "prune"], b"y\n");
    assert!(String::from_utf8_lossy(&pruned.stdout).ends_with("Deleted Networks:\nkeep\n\n"));
    installation.ok(&["rm", "-f", "box"]);
}

#[test]
fn reset_leaves_no_bridge() {
    let installation = Installation::with_busybox();
    let bridges: Vec<String> = ["one", "two"]
        .map(|name| bridge_of(&installation.ok(&["network", "create", name])))
        .into();
    idle(
        &installation,
        "box",
        &["--network", "one", "--network", "two"],
    );
    installation.ok(&["system", "reset", "--force"]);
    for bridge in bridges {
        assert!(!link_exists(&bridge), "{bridge} is left");
    }
    let left = installation.remains();
    assert!(left.is_empty(), "{left:#?}");
    let names = installation.ok(&["network", "ls", "-q", "-f", "type=custom"]);
    assert_eq!(names, "");
}

/// A bridge that is gone, as after a restart of the host, is made again by whoever needs it.
#[test]
fn a_bridge_comes_back() {
    let installation = Installation::with_busybox();
    let net = subnet(0);
    let id = installation.ok(&["network", "create", "--subnet", &net.text(), "net"]);
    let bridge = bridge_of(&id);
    let deleted = std::process::Command::new("ip")
        .args(["link", "delete", &bridge])
        .status();
    assert!(deleted.unwrap().success());
    let seen = installation.ok(&[
        "run",
        "--rm",
        "--network",
        "net",
        "busybox",
        "ip",
        "-4",
        "route",
    ]);
    assert!(
        seen.contains(&format!("default via {}", net.host(1))),
        "{seen}"
    );
    installation.ok(&["network", "rm", "net"]);
    assert!(!link_exists(&bridge));
}

#[test]
fn sixty_networks() {
    let installation = Installation::with_busybox();
    let count = 60;
    let start = Instant::now();
    let bridges: Vec<String> = (0..count)
        .map(|number| bridge_of(&installation.ok(&["network", "create", &format!("net{number}")])))
        .collect();
    let made = start.elapsed();
    let names: Vec<String> = (0..count).map(|number| format!("net{number}")).collect();
    let mut inspect = vec![
        "network",
        "inspect",
        "-f",
        "{{range .IPAM.Config}}{{.Subnet}}{{end}}",
    ];
    inspect.extend(names.iter().map(String::as_str));
    let subnets: BTreeSet<String> = installation
        .ok(&inspect)
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(subnets.len(), count, "{subnets:?}");
    // The last one works as the first one does.
    for name in [&names[0], &names[count - 1]] {
        let gateway = network(&installation, name)["IPAM"]["Config"][0]["Gateway"].take();
        let ping = ["ping", "-c", "1", "-W", "5", gateway.as_str().unwrap()];
        let run = ["run", "--rm", "--network", name, "busybox"];
        installation.ok(&[&run[..], &ping].concat());
    }
    let start = Instant::now();
    let mut remove = vec!["network", "rm"];
    remove.extend(names.iter().map(String::as_str));
    installation.ok(&remove);
    println!(
        "{count} networks: made in {made:?}, removed in {:?}",
        start.elapsed()
    );
    assert!(bridges.iter().all(|bridge| !link_exists(bridge)));
}
