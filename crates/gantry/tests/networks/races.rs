//! Many at the same time, some of them killed: what is written down is what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use crate::helpers::{
    await_links, bridge_of, idle, inner_addresses, link_exists, links_of, network,
};
use crate::support::{Installation, text};

const PROCESSES: u64 = 8;
const TURNS: u64 = 13;
const BOXES: [&str; 3] = ["box0", "box1", "box2"];
const NETWORKS: [&str; 3] = ["net0", "net1", "net2"];

/// The next number of a small generator (the constants of Numerical Recipes).
fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn connects_and_disconnects_with_kills() {
    let installation = Installation::with_busybox();
    let bridges: Vec<String> = NETWORKS
        .map(|name| bridge_of(&installation.ok(&["network", "create", name])))
        .into();
    for name in BOXES {
        idle(&installation, name, &[]);
    }
    std::thread::scope(|scope| {
        for process in 0..PROCESSES {
            let installation = &installation;
            scope.spawn(move || {
                let mut state = process + 1;
                for _ in 0..TURNS {
                    let verb = ["connect", "disconnect"][(next(&mut state) % 2) as usize];
                    let name = BOXES[(next(&mut state) % 3) as usize];
                    let net = NETWORKS[(next(&mut state) % 3) as usize];
                    let mut child = installation
                        .command(&["network", verb, net, name])
                        .stderr(std::process::Stdio::null())
                        .spawn()
                        .unwrap();
                    if next(&mut state).is_multiple_of(4) {
                        std::thread::sleep(Duration::from_micros(next(&mut state) % 60_000));
                        let _ = child.kill();
                    }
                    child.wait().unwrap();
                }
            });
        }
    });
    // Whoever comes next finishes or undoes what the dead have begun.
    installation.ok(&["ps"]);
    for name in BOXES {
        installation.ok(&["exec", name, "true"]);
    }
    let mut recorded: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut all = Vec::new();
    for (net, bridge) in NETWORKS.iter().zip(&bridges) {
        let members = network(&installation, net)["Containers"].take();
        let members = members.as_object().unwrap();
        for member in members.values() {
            let name = BOXES
                .into_iter()
                .find(|name| member["Name"] == *name)
                .expect("a member of the network is one of the test's containers");
            let address = member["IPv4Address"].as_str().unwrap();
            let address = address.split('/').next().unwrap().to_owned();
            all.push(address.clone());
            recorded.entry(name).or_default().insert(address);
        }
        assert_eq!(links_of(bridge).len(), members.len(), "links of {net}");
    }
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!(
        distinct.len(),
        all.len(),
        "an address was leased twice: {all:?}"
    );
    for name in BOXES {
        let default = crate::helpers::address(&installation, name, "bridge");
        let inside: BTreeSet<String> = inner_addresses(&installation, name)
            .iter()
            .map(|line| line.split(' ').nth(1).unwrap().to_owned())
            .filter(|address| *address != default)
            .collect();
        let recorded = recorded.remove(name).unwrap_or_default();
        assert_eq!(inside, recorded, "addresses of {name}");
        // And everything still works: off all of them, and on one again.
        for net in NETWORKS {
            installation.ok(&["network", "disconnect", "-f", net, name]);
        }
        installation.ok(&["network", "connect", "net0", name]);
        assert_eq!(inner_addresses(&installation, name).len(), 2, "{name}");
    }
    let remove: Vec<&str> = ["rm", "-f"].into_iter().chain(BOXES).collect();
    installation.ok(&remove);
    for bridge in &bridges {
        await_links(bridge, 0);
    }
    let remove: Vec<&str> = ["network", "rm"].into_iter().chain(NETWORKS).collect();
    installation.ok(&remove);
    installation.assert_clean();
}

#[test]
fn made_and_removed_by_many() {
    let installation = Installation::with_busybox();
    installation.ok(&["network", "ls"]);
    let made = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for process in 0..PROCESSES {
            let (installation, made) = (&installation, &made);
            scope.spawn(move || {
                for turn in 0..3 {
                    let own = format!("net-{process}-{turn}");
                    let id = installation.ok(&["network", "create", &own]);
                    made.lock().unwrap().push(id);
                    // All of them want this name, and one gets it.
                    let shared = installation.gantry(&["network", "create", "shared"]);
                    if shared.status.success() {
                        made.lock().unwrap().push(text(&shared.stdout));
                    }
                    installation.gantry(&["network", "rm", "shared"]);
                    if turn > 0 {
                        installation.ok(&["network", "rm", &own]);
                    }
                }
            });
        }
    });
    // Every bridge that was made for one of them has a network, or is gone.
    let kept = installation.ok(&["network", "ls", "-q", "-f", "type=custom"]);
    let made = made.into_inner().unwrap();
    for id in &made {
        let known = kept.lines().any(|short| id.starts_with(short));
        assert_eq!(link_exists(&bridge_of(id)), known, "the bridge of {id}");
    }
    let names = installation.ok(&["network", "ls", "-f", "name=net-", "--format", "{{.Name}}"]);
    let names: Vec<&str> = names.lines().collect();
    assert_eq!(names.len(), PROCESSES as usize);
    let subnets: BTreeSet<String> = names
        .iter()
        .map(|name| network(&installation, name)["IPAM"]["Config"][0]["Subnet"].to_string())
        .collect();
    assert_eq!(subnets.len(), names.len(), "{subnets:?}");
}
