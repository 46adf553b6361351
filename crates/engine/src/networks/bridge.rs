//! Bridges and the subnets that they have.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use gantry_network::attach::{BridgeLink, ensure_bridge};
use gantry_network::firewall::{self, BridgeSpec};
use gantry_network::ipam::{DEFAULT_POOLS, FALLBACK_POOL, Subnet, USER_POOLS, pick_subnet};
use gantry_network::link;
use gantry_network::netlink::{Batch, Family, Socket};
use gantry_network::{route, sysctl};
use gantry_supervisor::order::Attachment;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{DEFAULT, Net};
use crate::Engine;
use crate::error::{Error, chain};

impl Engine {
    /// Sees to it that the subnet is nobody else's before the bridge is made. The result keeps
    /// other installations from choosing meanwhile; there is none where the bridge is made
    /// already.
    pub(super) fn settle_subnet(&self) -> Result<Option<OwnedFd>, Error> {
        let bridge = self.roots.bridge();
        let net = sysctl::open().map_err(|error| failed(DEFAULT, &chain(&error)))?;
        let is_made = || {
            sysctl::routes_localnet(net.as_fd(), &bridge)
                .map_err(|error| failed(DEFAULT, &chain(&error)))
        };
        if is_made()? {
            return Ok(None);
        }
        let lock = lock_namespace(DEFAULT)?;
        let mut socket =
            Socket::open(Family::Route).map_err(|error| failed(DEFAULT, &chain(&error)))?;
        let half_made = link::find(&mut socket, &bridge)
            .map_err(|error| failed(DEFAULT, &chain(&error)))?
            .is_some();
        if is_made()? || half_made {
            return Ok(Some(lock));
        }
        // After a reboot or a reset somebody else may have what the record says.
        let (_, subnet, _) = self.default_network()?;
        let routes =
            route::host_subnets(&mut socket).map_err(|error| failed(DEFAULT, &chain(&error)))?;
        let taken = |route: &Subnet| route.prefix_length() > 0 && route.overlaps(subnet);
        if routes.iter().any(taken) {
            let subnet = free_default_subnet()?;
            let (gateway, _) = subnet.hosts();
            self.store()?
                .renumber(DEFAULT, &subnet.to_string(), &gateway.to_string())?;
        }
        Ok(Some(lock))
    }

    /// Bridge, subnet and gateway of the default network.
    pub(crate) fn default_network(&self) -> Result<(String, Subnet, Ipv4Addr), Error> {
        let roots = &self.roots;
        let (bridge, subnet, gateway) = self.store()?.network(DEFAULT, || {
            let subnet = free_default_subnet()?;
            let (gateway, _) = subnet.hosts();
            Ok((roots.bridge(), subnet.to_string(), gateway.to_string()))
        })?;
        let damaged = || failed(DEFAULT, "its record is damaged");
        let subnet: Subnet = subnet.parse().map_err(|_| damaged())?;
        let gateway: Ipv4Addr = gateway.parse().map_err(|_| damaged())?;
        Ok((bridge, subnet, gateway))
    }

    /// Makes a network's bridge, rules and kernel parameters, as far as they are missing.
    pub(super) fn ensure_bridge_of(&self, net: &Net) -> Result<(), Error> {
        if net.config.attachment() != Attachment::Bridge {
            return self.ensure_parent(net);
        }
        let fail = |error: &dyn std::error::Error| failed(&net.name, &chain(error));
        let bridge = net.bridge.as_str();
        let parameters = sysctl::open().map_err(|error| fail(&error))?;
        sysctl::enable_forwarding(parameters.as_fd()).map_err(|error| fail(&error))?;
        // The last step below: where it was done, all was. Whether the rules are still there
        // is seen to by the supervisor, which has a netfilter socket open anyway.
        if sysctl::routes_localnet(parameters.as_fd(), bridge).map_err(|error| fail(&error))? {
            return Ok(());
        }
        let spec = BridgeSpec {
            name: bridge,
            subnet: net.subnet,
            gateway: net.gateway,
            icc: net.config.icc,
            masquerade: net.config.masquerade,
            internal: net.config.internal,
        };
        // Before route_localnet: without the rules it opens the host's loopback to containers
        // (CVE-2020-8558).
        firewall::ensure(&self.roots.instance(), &spec).map_err(|error| fail(&error))?;
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        let link = BridgeLink {
            name: bridge,
            address: Some((net.gateway, net.subnet.prefix_length())),
            mtu: net.config.mtu,
            alias: None,
        };
        ensure_bridge(&mut socket, &link).map_err(|error| fail(&error))?;
        sysctl::disable_ipv6_on(parameters.as_fd(), bridge).map_err(|error| fail(&error))?;
        sysctl::route_localnet(parameters.as_fd(), bridge).map_err(|error| fail(&error))
    }

    /// Removes a network's bridge and what the rules say of it.
    pub(super) fn remove_bridge(&self, net: &Net) -> Result<(), Error> {
        let fail = |error: &dyn std::error::Error| failed(&net.name, &chain(error));
        if net.config.attachment() != Attachment::Bridge {
            return self.remove_parent(net);
        }
        let instance = self.roots.instance();
        // The link first: what still sends through it must not find the rules gone.
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        link::delete(&mut socket, &net.bridge).map_err(|error| fail(&error))?;
        if firewall::exists(&instance).map_err(|error| fail(&error))? {
            firewall::remove_bridge(&instance, &net.bridge).map_err(|error| fail(&error))?;
        }
        Ok(())
    }

    /// Sees to it that the link is there which containers of a macvlan or ipvlan network share.
    fn ensure_parent(&self, net: &Net) -> Result<(), Error> {
        let fail = |error: &dyn std::error::Error| failed(&net.name, &chain(error));
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        let parent = net.bridge.as_str();
        if link::find(&mut socket, parent)
            .map_err(|error| fail(&error))?
            .is_some()
        {
            return Ok(());
        }
        let vlan = vlan_of(parent).ok_or_else(|| {
            failed(
                &net.name,
                &format!("the host has no link {parent}: `ip link` lists them"),
            )
        })?;
        let below = link::find(&mut socket, vlan.0).map_err(|error| fail(&error))?;
        let below = below.ok_or_else(|| {
            failed(
                &net.name,
                &format!("the host has no link {} for VLAN {parent}", vlan.0),
            )
        })?;
        let mut batch = Batch::new();
        let alias = self.mark_of(net);
        link::create_vlan(&mut batch, parent, below.index, vlan.1);
        link::set_alias(&mut batch, parent, &alias);
        link::set_up(&mut batch, link::Target::Name(parent), parent);
        socket.execute(&mut batch).map_err(|error| fail(&error))
    }

    /// Removes the VLAN link that was made for a network; another parent stays.
    fn remove_parent(&self, net: &Net) -> Result<(), Error> {
        let fail = |error: &dyn std::error::Error| failed(&net.name, &chain(error));
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        let parent = link::find(&mut socket, &net.bridge).map_err(|error| fail(&error))?;
        let is_ours = parent.and_then(|link| link.alias) == Some(self.mark_of(net));
        if is_ours {
            link::delete(&mut socket, &net.bridge).map_err(|error| fail(&error))?;
        }
        Ok(())
    }

    /// What stands on a link that was made for a network.
    fn mark_of(&self, net: &Net) -> String {
        format!("gantry-{} {}", self.roots.instance(), net.id)
    }

    /// Removes the bridges and rules of the installation, and the networks of users with them.
    pub(crate) fn remove_networks(&self) -> Result<(), Error> {
        let rows = self.store()?.networks()?;
        for row in rows {
            self.remove_user_network(&row.name)?;
        }
        self.finish_removals()?;
        let fail = |error: &dyn std::error::Error| failed(DEFAULT, &chain(error));
        firewall::remove_all(&self.roots.instance()).map_err(|error| fail(&error))?;
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        link::delete(&mut socket, &self.roots.bridge()).map_err(|error| fail(&error))?;
        Ok(())
    }

    /// A user's name for a bridge: a link's, and of no link that is there.
    pub(super) fn check_bridge_name(&self, name: &str) -> Result<(), Error> {
        let refuse = |reason: &str| Error::Invalid {
            option: format!("option {}={name}", super::request::BRIDGE_NAME),
            reason: reason.into(),
        };
        if !link::is_valid_name(name) {
            return Err(refuse(
                "a link's name has 1 to 15 characters, none of them / or space",
            ));
        }
        let fail = |error: &dyn std::error::Error| failed(name, &chain(error));
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        match link::find(&mut socket, name).map_err(|error| fail(&error))? {
            None => Ok(()),
            Some(_) => Err(refuse("the host has a link of this name already")),
        }
    }

    /// Keeps everybody else in this network namespace from choosing a subnet.
    ///
    /// Within the installation nobody goes on without the right: its lock is root's alone, and
    /// nothing that takes long is done with it.
    pub(super) fn lock_choice(&self, network: &str) -> Result<[OwnedFd; 2], Error> {
        let path = self.roots.run.join("networks.lock");
        let fail = |source| Error::Path {
            action: "lock",
            path: path.clone(),
            source,
        };
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|errno| fail(errno.into()))?;
        Ok([file.into(), lock_namespace(network)?])
    }

    /// A subnet that is nobody's. The caller keeps others from choosing.
    pub(super) fn choose_subnet(&self, network: &str) -> Result<Subnet, Error> {
        let fail = |error: &dyn std::error::Error| failed(network, &chain(error));
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        let routes = route::host_subnets(&mut socket).map_err(|error| fail(&error))?;
        // Those too whose bridges are not there at the moment.
        let mut used: Vec<Subnet> = vec![self.default_network()?.1];
        let rows = self.store()?.networks()?;
        used.extend(
            rows.iter()
                .filter_map(|row| row.subnet.parse::<Subnet>().ok()),
        );
        pick_subnet(&USER_POOLS, &used, &routes).ok_or_else(|| {
            failed(
                network,
                "every subnet of the address pools is taken by another network or a route of \
                 the host: remove networks (`gantry network prune`), or give a --subnet",
            )
        })
    }

    /// Refuses a subnet of the user's choice that the host has a route into: what is there now
    /// would be cut off. A wider route, as of a VPN, is only narrowed.
    pub(super) fn check_routes(&self, subnet: Subnet) -> Result<(), Error> {
        let fail = |error: &dyn std::error::Error| failed(&subnet.to_string(), &chain(error));
        let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
        let routes = route::list(&mut socket).map_err(|error| fail(&error))?;
        let clash = routes.iter().find(|route| {
            route.destination.overlaps(subnet)
                && route.destination.prefix_length() >= subnet.prefix_length()
        });
        let Some(clash) = clash else { return Ok(()) };
        let links = link::list(&mut socket).map_err(|error| fail(&error))?;
        let by = links.iter().find(|link| Some(link.index) == clash.link);
        let by = by.map(|link| link.name.clone());
        let by = by.map(|name| format!(" by {name}")).unwrap_or_default();
        Err(Error::SubnetTaken {
            subnet: subnet.to_string(),
            holder: format!("the host's route to {}{by}", clash.destination),
        })
    }
}

/// The link and the number of a VLAN by its name, such as `eth0.10`.
pub(super) fn vlan_of(name: &str) -> Option<(&str, u16)> {
    let (below, number) = name.rsplit_once('.')?;
    let number = number
        .parse()
        .ok()
        .filter(|number| (1..=4094).contains(number))?;
    Some((below, number))
}

fn failed(network: &str, message: &str) -> Error {
    Error::Network {
        network: network.into(),
        message: message.into(),
    }
}

/// A lock that everybody has in common who chooses subnets in this network namespace: on the
/// namespace itself. Any user may take it, so nobody is waited for very long.
fn lock_namespace(network: &str) -> Result<OwnedFd, Error> {
    const PATH: &str = "/proc/self/ns/net";
    const PATIENCE: Duration = Duration::from_secs(2);
    let refuse = |error: std::io::Error| failed(network, &format!("cannot lock {PATH}: {error}"));
    let lock = OwnedFd::from(fs::File::open(PATH).map_err(refuse)?);
    let until = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::WOULDBLOCK) => return Ok(lock),
            Err(errno) => return Err(refuse(errno.into())),
        }
    }
}

/// A subnet for the default network that neither a route of the host nor another installation
/// has.
fn free_default_subnet() -> Result<Subnet, Error> {
    let fail = |error: &dyn std::error::Error| failed(DEFAULT, &chain(error));
    let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
    let routes = route::host_subnets(&mut socket).map_err(|error| fail(&error))?;
    let mut pools = DEFAULT_POOLS.to_vec();
    pools.push(FALLBACK_POOL);
    pick_subnet(&pools, &[], &routes).ok_or_else(|| {
        failed(
            DEFAULT,
            "every address pool clashes with a route of the host",
        )
    })
}
