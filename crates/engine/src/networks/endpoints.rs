//! Places of containers on networks: leased at a start, and changed while they run.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use gantry_network::attach::configure_container;
use gantry_network::ipam::{Subnet, next_address};
use gantry_network::link::{self, Mac};
use gantry_network::netlink::{Family, Socket};
use gantry_network::{firewall, route, sysctl};
use gantry_supervisor::order::{Attachment, BridgeOrder, EndpointOrder, NetworkOrder, PortOrder};
use gantry_supervisor::{network as wiring, record};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{DEFAULT, Net, endpoint_id};
use crate::Engine;
use crate::config::{ContainerConfig, EndpointConfig, NetworkMode};
use crate::error::{Error, chain};
use crate::operation::Operation;

/// Stands in the store for no network at all, where a container was taken off its last one:
/// a container without any entry is on the default network.
const NOWHERE: &str = "none";

/// File of a container's run directory that names the network which it is just being put on or
/// taken off, while it runs.
const CHANGING: &str = "changing-network";

/// A container's place on a network.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The network.
    pub net: Net,
    /// What was asked for there.
    pub wish: EndpointConfig,
}

impl Engine {
    /// The network of a start, with everything made that has to be there before it.
    pub(crate) fn network_order(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        shared: bool,
    ) -> Result<NetworkOrder, Error> {
        if shared {
            return Ok(NetworkOrder::Shared);
        }
        let mut places = match config.network {
            NetworkMode::Host => return Ok(NetworkOrder::Host),
            NetworkMode::None => return Ok(NetworkOrder::None),
            NetworkMode::Bridge | NetworkMode::Container(_) | NetworkMode::Network(_) => {
                self.places(sandbox, config)?
            }
        };
        if places.is_empty() {
            return Ok(NetworkOrder::None);
        }
        let has_default = places.iter().any(|place| place.net.name == DEFAULT);
        // From the choice of a subnet to the route to it.
        let choosing = if has_default {
            self.settle_subnet()?
        } else {
            None
        };
        if choosing.is_some() {
            // The default network's subnet may be another one now.
            places = self.places(sandbox, config)?;
        }
        let mut endpoints = Vec::with_capacity(places.len());
        for (number, place) in places.iter().enumerate() {
            endpoints.push(self.endpoint_order(sandbox, place, &format!("eth{number}"))?);
        }
        if let Some(index) = way_out(&places) {
            endpoints[index].default_route = true;
        }
        let host_address = way_out(&places).and_then(|index| places[index].net.config.host_address);
        let has_names = places.iter().any(|place| place.net.has_names());
        if has_names {
            for place in &places {
                self.publish_names(&place.net)?;
            }
            self.write_name_settings(sandbox, config, &places)?;
        }
        Ok(NetworkOrder::Bridge(BridgeOrder {
            instance: self.roots.instance(),
            endpoints,
            ports: port_orders(config, host_address),
            dns: has_names.then(|| self.roots.sandbox(sandbox).join(super::files::DNS)),
        }))
    }

    /// Leases an address on a network, and sees to it that its bridge is there.
    fn endpoint_order(
        &self,
        sandbox: &str,
        place: &Place,
        interface: &str,
    ) -> Result<EndpointOrder, Error> {
        let net = &place.net;
        let address = self.lease_address(sandbox, place)?;
        self.ensure_bridge_of(net)?;
        Ok(EndpointOrder {
            interface: interface.into(),
            link: host_link(net, sandbox),
            bridge: net.bridge.clone(),
            address,
            prefix: net.subnet.prefix_length(),
            gateway: net.gateway,
            default_route: false,
            mac: place.wish.mac.clone(),
            mtu: net.config.mtu,
            icc: net.config.icc,
            masquerade: net.config.masquerade,
            internal: net.config.internal,
            attachment: net.config.attachment(),
        })
    }

    fn lease_address(&self, sandbox: &str, place: &Place) -> Result<Ipv4Addr, Error> {
        let Place { net, wish } = place;
        let range: Option<Subnet> = match &net.config.ip_range {
            Some(text) => text.parse().ok(),
            None => None,
        };
        let leased = self.store()?.lease(&net.name, sandbox, |used, last| {
            let taken = |address: Ipv4Addr| {
                used.binary_search(&u32::from(address)).is_ok()
                    || net.config.aux_addresses.values().any(|aux| *aux == address)
            };
            match wish.ipv4 {
                Some(address) => (!taken(address)).then_some(u32::from(address)),
                None => {
                    let after = (last != 0).then(|| Ipv4Addr::from(last));
                    next_address(net.subnet, range, Some(net.gateway), taken, after).map(u32::from)
                }
            }
        });
        match (leased, wish.ipv4) {
            (Err(Error::NoAddress { network }), Some(address)) => {
                Err(Error::AddressInUse { address, network })
            }
            (Ok(leased), _) => Ok(Ipv4Addr::from(leased)),
            (Err(error), _) => Err(error),
        }
    }

    /// The networks that a container is to be on, in order.
    pub(crate) fn places(&self, id: &str, config: &ContainerConfig) -> Result<Vec<Place>, Error> {
        let rows = self.store()?.endpoints(id)?;
        if rows.is_empty() && config.network == NetworkMode::Bridge {
            return Ok(vec![Place {
                net: self.default_net()?,
                wish: EndpointConfig::default(),
            }]);
        }
        let mut places = Vec::with_capacity(rows.len());
        for (network, wish) in rows.into_iter().filter(|(network, _)| network != NOWHERE) {
            places.push(Place {
                net: self.net(&network)?,
                wish: serde_json::from_str(&wish).map_err(|source| Error::Record {
                    id: id.into(),
                    source,
                })?,
            });
        }
        Ok(places)
    }

    /// The entries of a new container: its networks by name, with what was asked for, checked.
    pub(crate) fn new_endpoints(
        &self,
        id: &str,
        config: &ContainerConfig,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut entries: Vec<(String, String)> = Vec::new();
        for request in &config.endpoints {
            let net = self.net(&request.network)?;
            if entries.iter().any(|(known, _)| *known == net.name) {
                return Err(Error::Invalid {
                    option: format!("--network {}", request.network),
                    reason: "the network is named twice".into(),
                });
            }
            check_wish(&net, &request.endpoint)?;
            entries.push((net.name, wish_text(id, &request.endpoint)?));
        }
        Ok(entries)
    }

    /// Puts a container on a further network, at once if it runs.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NoSuchNetwork`], [`Error::EndpointExists`],
    /// [`Error::Invalid`], [`Error::AddressInUse`], [`Error::Network`]. Nothing is changed then.
    pub fn connect_network(
        &self,
        network: &str,
        container: &str,
        wish: &EndpointConfig,
    ) -> Result<(), Error> {
        self.bridged_net(network)?;
        let row = self.find(container)?;
        let operation = Operation::begin(&self.roots, &row.id)?;
        // Whoever waited for the mark of a process that died has it now, and its work to finish.
        // The network is looked up once more: another one may have its name by now.
        let connected = self
            .finish_network_change(&row.id)
            .and_then(|()| self.bridged_net(network))
            .and_then(|net| self.connect_locked(&net, &row.id, wish));
        operation.finish();
        connected
    }

    fn connect_locked(&self, net: &Net, id: &str, wish: &EndpointConfig) -> Result<(), Error> {
        check_wish(net, wish)?;
        let config = self.changeable_config(id)?;
        self.spell_out(id, &config)?;
        let entries = self.store()?.endpoints(id)?;
        if entries.iter().any(|(network, _)| *network == net.name) {
            return Err(Error::EndpointExists {
                container: id.into(),
                network: net.name.clone(),
            });
        }
        let is_running = self.is_running(id);
        if is_running {
            self.note_change(id, Some(net))?;
        }
        self.store()?
            .insert_endpoint(id, &net.name, &wish_text(id, wish)?)?;
        // Last: without any entry it would be on the default network.
        self.store()?.delete_endpoint(id, NOWHERE)?;
        let place = Place {
            net: net.clone(),
            wish: wish.clone(),
        };
        let joined = if is_running {
            self.join_running(id, &config, &place)
        } else {
            self.publish_names(net)
        };
        if joined.is_err() {
            // The first error is the one to report.
            let _ = self.leave_network(net, id);
        }
        self.note_change(id, None)?;
        joined
    }

    /// Takes a container off a network, at once if it runs.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NoSuchNetwork`], [`Error::NotConnected`],
    /// [`Error::Network`].
    pub fn disconnect_network(
        &self,
        network: &str,
        container: &str,
        force: bool,
    ) -> Result<(), Error> {
        self.bridged_net(network)?;
        let row = self.find(container)?;
        let operation = Operation::begin(&self.roots, &row.id)?;
        let left = self
            .finish_network_change(&row.id)
            .and_then(|()| self.bridged_net(network))
            .and_then(|net| self.disconnect_locked(&net, &row.id));
        operation.finish();
        match left {
            Err(Error::NotConnected { .. }) if force => Ok(()),
            other => other,
        }
    }

    fn disconnect_locked(&self, net: &Net, id: &str) -> Result<(), Error> {
        let config = self.changeable_config(id)?;
        self.spell_out(id, &config)?;
        let entries = self.store()?.endpoints(id)?;
        if !entries.iter().any(|(network, _)| *network == net.name) {
            return Err(Error::NotConnected {
                container: id.into(),
                network: net.name.clone(),
            });
        }
        if !self.is_running(id) {
            return self.leave_network(net, id);
        }
        self.note_change(id, Some(net))?;
        self.leave_running(net, id, &config)?;
        self.note_change(id, None)
    }

    fn leave_running(&self, net: &Net, id: &str, config: &ContainerConfig) -> Result<(), Error> {
        self.leave_network(net, id)?;
        self.tell_of_networks(id, config)?;
        self.route_out(id, config)
    }

    /// Takes a running container off the network that a process which died was putting it on or
    /// taking it off: nobody was told that it is on it. The caller holds its operation.
    pub(crate) fn finish_network_change(&self, id: &str) -> Result<(), Error> {
        let path = self.roots.container_run(id).join(CHANGING);
        let Ok(network) = fs::read_to_string(&path) else {
            return Ok(());
        };
        let row = self.store()?.container(id)?;
        if let (Some(row), Ok(net)) = (row, self.net(&network)) {
            let config = self.config_of(&row)?;
            self.leave_running(&net, id, &config)?;
        }
        self.note_change(id, None)
    }

    fn note_change(&self, id: &str, net: Option<&Net>) -> Result<(), Error> {
        let directory = self.roots.container_run(id);
        let path = directory.join(CHANGING);
        let done = match net {
            Some(net) => record::replace(&directory, CHANGING, net.name.as_bytes()),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
        };
        done.map_err(|source| Error::Path {
            action: "change",
            path,
            source,
        })
    }

    /// Removes the entry, and of a container that runs link, address and name.
    fn leave_network(&self, net: &Net, id: &str) -> Result<(), Error> {
        let fail = |error: &dyn std::error::Error| network_error(net, &chain(error));
        let name = host_link(net, id);
        match (net.config.attachment(), self.is_running(id)) {
            (Attachment::Bridge, _) => {
                let mut socket = Socket::open(Family::Route).map_err(|error| fail(&error))?;
                link::delete(&mut socket, &name).map_err(|error| fail(&error))?;
            }
            (Attachment::Macvlan { .. } | Attachment::Ipvlan { .. }, true) => {
                within(&self.namespace_of(id)?, || delete_by_alias(&name))
                    .and_then(|deleted| deleted)
                    .map_err(|message| network_error(net, &message))?;
            }
            // It went with the namespace.
            (Attachment::Macvlan { .. } | Attachment::Ipvlan { .. }, false) => {}
        }
        self.store()?.release_one(&net.name, id)?;
        // First: without any entry it would be on the default network.
        let entries = self.store()?.endpoints(id)?;
        if entries.iter().all(|(network, _)| *network == net.name) {
            self.store()?.insert_endpoint(id, NOWHERE, "{}")?;
        }
        self.store()?.delete_endpoint(id, &net.name)?;
        self.publish_names(net)
    }

    /// Connects a running container.
    fn join_running(&self, id: &str, config: &ContainerConfig, place: &Place) -> Result<(), Error> {
        let namespace = self.namespace_of(id)?;
        let choosing = if place.net.name == DEFAULT {
            self.settle_subnet()?
        } else {
            None
        };
        let settled;
        let place = if choosing.is_some() {
            // Its subnet may be another one now.
            settled = Place {
                net: self.default_net()?,
                wish: place.wish.clone(),
            };
            &settled
        } else {
            place
        };
        let net = &place.net;
        let fail = |message: String| network_error(net, &message);
        let fail_with = |error: &dyn std::error::Error| network_error(net, &chain(error));
        let names = within(&namespace, || {
            let mut socket = Socket::open(Family::Route)?;
            link::list(&mut socket).map(|links| links.into_iter().map(|link| link.name))
        });
        let used: Vec<String> = names
            .map_err(fail)?
            .map_err(|error| fail_with(&error))?
            .collect();
        let interface = (0..)
            .map(|number| format!("eth{number}"))
            .find(|name| !used.contains(name))
            .unwrap_or_default();
        let endpoint = self.endpoint_order(id, place, &interface)?;
        if endpoint.attachment == Attachment::Bridge
            && let Some(spec) = wiring::bridge_spec(&endpoint)
        {
            firewall::ensure(&self.roots.instance(), &spec).map_err(|error| fail_with(&error))?;
        }
        let mut socket = Socket::open(Family::Route).map_err(|error| fail_with(&error))?;
        let bridge = link::find(&mut socket, &net.bridge)
            .map_err(|error| fail_with(&error))?
            .ok_or_else(|| fail(format!("link {} is gone", net.bridge)))?;
        wiring::connect_endpoint(&mut socket, bridge.index, &endpoint, namespace.as_fd())
            .map_err(fail)?;
        within(&namespace, || {
            let parameters = sysctl::open().map_err(|error| chain(&error))?;
            sysctl::disable_ipv6_on(parameters.as_fd(), &interface)
                .map_err(|error| chain(&error))?;
            wiring::mark_shared(&endpoint)?;
            configure_container(&[wiring::container_link(&endpoint)]).map_err(|error| chain(&error))
        })
        .and_then(|configured| configured)
        .map_err(fail)?;
        self.publish_names(net)?;
        self.tell_of_networks(id, config)?;
        self.route_out(id, config)
    }

    /// Leads the default route of a running container through the right one of its networks.
    fn route_out(&self, id: &str, config: &ContainerConfig) -> Result<(), Error> {
        let places = self.places(id, config)?;
        let Some(place) = way_out(&places).map(|index| &places[index]) else {
            return Ok(());
        };
        let gateway = place.net.gateway;
        within(&self.namespace_of(id)?, || {
            route::replace_default(gateway).map_err(|error| chain(&error))
        })
        .and_then(|replaced| replaced)
        .map_err(|message| network_error(&place.net, &message))
    }

    /// Network namespace of a running container.
    fn namespace_of(&self, id: &str) -> Result<OwnedFd, Error> {
        let not_running = || Error::NotRunning { id: id.into() };
        let state = self.run_state(id).ok_or_else(not_running)?;
        let path = format!("/proc/{}/ns/net", state.pid);
        let namespace = fs::File::open(path).map_err(|_| not_running())?;
        // Only now: the process id may have gone to somebody else before.
        if record::is_alive(&state) {
            Ok(namespace.into())
        } else {
            Err(not_running())
        }
    }

    /// A network that containers can be put on and taken off.
    fn bridged_net(&self, name: &str) -> Result<Net, Error> {
        match self.predefined(name) {
            Some((name, _)) => Err(Error::Invalid {
                option: format!("network {name}"),
                reason: "a container is on it from its creation on, or never".into(),
            }),
            None => self.net(name),
        }
    }

    /// The configuration of a container whose networks may change.
    fn changeable_config(&self, id: &str) -> Result<ContainerConfig, Error> {
        let row = self
            .store()?
            .container(id)?
            .ok_or_else(|| Error::NoSuchContainer { name: id.into() })?;
        let config = self.config_of(&row)?;
        let reason = match &config.network {
            NetworkMode::Bridge | NetworkMode::Network(_) => return Ok(config),
            NetworkMode::Host => "it is on the host's own network".to_owned(),
            NetworkMode::None => "it was made to be on none".to_owned(),
            NetworkMode::Container(other) => format!("it shares the network of container {other}"),
        };
        Err(Error::Invalid {
            option: format!("container {}", row.name),
            reason: format!("{reason}, and cannot be put on networks or taken off"),
        })
    }

    /// Writes down that a container is on the default network, if nothing else was said so far.
    fn spell_out(&self, id: &str, config: &ContainerConfig) -> Result<(), Error> {
        let is_silent = self.store()?.endpoints(id)?.is_empty();
        if is_silent && config.network == NetworkMode::Bridge {
            self.store()?.insert_endpoint(id, DEFAULT, "{}")?;
        }
        Ok(())
    }

    /// Ethernet address of a container on a network.
    pub(crate) fn mac_of(
        &self,
        network: &str,
        container: &str,
        address: Ipv4Addr,
    ) -> Result<String, Error> {
        let entries = self.store()?.endpoints(container)?;
        let wish = entries.iter().find(|(known, _)| known == network);
        let wish = wish.and_then(|(_, wish)| serde_json::from_str::<EndpointConfig>(wish).ok());
        Ok(wish
            .and_then(|wish| wish.mac)
            .unwrap_or_else(|| Mac::from_ipv4(address).to_string()))
    }
}

/// Deletes the link of the thread's namespace that has a note.
fn delete_by_alias(alias: &str) -> Result<(), String> {
    let mut socket = Socket::open(Family::Route).map_err(|error| chain(&error))?;
    let links = link::list(&mut socket).map_err(|error| chain(&error))?;
    for link in links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(alias))
    {
        link::delete(&mut socket, &link.name).map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// Does something in another network namespace, in a thread of its own.
fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| format!("cannot enter the container's network: {errno}"))?;
            Ok(work())
        });
        thread
            .join()
            .unwrap_or_else(|_| Err("a thread in the container's network ended".into()))
    })
}

/// Name of the host's end of a container's link. It fits into the 15 bytes that the kernel has
/// for it, and is the same at every start.
fn host_link(net: &Net, container: &str) -> String {
    if net.has_names() {
        format!("gv{}", &endpoint_id(&net.id, container)[..12])
    } else {
        wiring::link_name(container)
    }
}

/// Which of the places the default route leads through: the highest priority, then the first by
/// name, as in Docker. A network without a way out is none.
pub(super) fn way_out(places: &[Place]) -> Option<usize> {
    let open = |place: &Place| !place.net.config.internal;
    (0..places.len())
        .filter(|&index| open(&places[index]))
        .min_by(|&one, &other| {
            let (one, other) = (&places[one], &places[other]);
            (other.wish.gw_priority.cmp(&one.wish.gw_priority))
                .then_with(|| one.net.name.cmp(&other.net.name))
        })
}

fn check_wish(net: &Net, wish: &EndpointConfig) -> Result<(), Error> {
    let invalid = |option: String, reason: String| Err(Error::Invalid { option, reason });
    if let Some(address) = wish.ipv4 {
        let option = format!("--ip {address}");
        if !net.has_names() {
            return invalid(
                option,
                "addresses can be asked for on networks of your own only".into(),
            );
        }
        if !net.config.chosen_subnet {
            return invalid(
                option,
                format!(
                    "network {} was made without --subnet, so its addresses may change",
                    net.name
                ),
            );
        }
        let (first, last) = net.subnet.hosts();
        if address < first || address > last {
            return invalid(
                option,
                format!(
                    "it is not within subnet {} of network {}",
                    net.subnet, net.name
                ),
            );
        }
        if address == net.gateway {
            return invalid(option, format!("it is the gateway of network {}", net.name));
        }
    }
    if let Some(mac) = &wish.mac
        && let Err(error) = mac.parse::<Mac>()
    {
        return invalid(format!("--mac-address {mac}"), error.to_string());
    }
    if !(net.has_names() || wish.aliases.is_empty() && wish.links.is_empty()) {
        return invalid(
            format!("alias or link on network {}", net.name),
            "names are looked up on networks of your own only: make one with `gantry network create`".into(),
        );
    }
    Ok(())
}

fn wish_text(id: &str, wish: &EndpointConfig) -> Result<String, Error> {
    serde_json::to_string(wish).map_err(|source| Error::Record {
        id: id.into(),
        source,
    })
}

fn network_error(net: &Net, message: &str) -> Error {
    Error::Network {
        network: net.name.clone(),
        message: message.into(),
    }
}

fn port_orders(config: &ContainerConfig, host_address: Option<std::net::IpAddr>) -> Vec<PortOrder> {
    let mut orders: Vec<PortOrder> = config
        .ports
        .iter()
        .map(|binding| PortOrder {
            host_ip: match binding.host_ip {
                None => host_address,
                Some(address) => {
                    Some(address).filter(|address| !address.is_unspecified() || address.is_ipv6())
                }
            },
            host_port: binding.host_port,
            host_port_end: binding.host_port_end,
            container_port: binding.container.port,
            protocol: binding.container.protocol.to_string(),
        })
        .collect();
    if config.publish_all {
        for port in &config.exposed_ports {
            let is_bound = |binding: &crate::config::PortBinding| binding.container == *port;
            if !config.ports.iter().any(is_bound) {
                orders.push(PortOrder {
                    host_ip: host_address,
                    host_port: 0,
                    host_port_end: 0,
                    container_port: port.port,
                    protocol: port.protocol.to_string(),
                });
            }
        }
    }
    orders
}
