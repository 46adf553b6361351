//! What is asked for when a network is made.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use gantry_network::ipam::Subnet;
use gantry_supervisor::order::Attachment;
use gantry_supervisor::record;

use super::{DEFAULT, NetworkConfig, PREDEFINED};
use crate::error::Error;
use crate::store::NetworkRow;
use crate::{Engine, names};

/// Option that names the bridge.
pub(super) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// A network to be made.
#[derive(Clone, Debug, Default)]
pub struct NetworkRequest {
    /// Name.
    pub name: String,
    /// Driver; empty means `bridge`.
    pub driver: String,
    /// Subnets; none means that a free one is chosen.
    pub subnets: Vec<SubnetRequest>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether containers may be put on it by hand.
    pub attachable: bool,
    /// Whether containers get IPv6 addresses too.
    pub ipv6: bool,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A subnet of a network to be made, in the user's words.
#[derive(Clone, Debug, Default)]
pub struct SubnetRequest {
    /// `ADDRESS/BITS`; absent means that a free one is chosen.
    pub subnet: Option<String>,
    /// Part of it that addresses are chosen from.
    pub ip_range: Option<String>,
    /// The bridge's own address.
    pub gateway: Option<String>,
    /// Addresses that are never leased, by what they are for.
    pub aux_addresses: BTreeMap<String, String>,
}

/// The addresses of a network, checked.
struct Plan {
    /// Absent if a free one is to be chosen.
    subnet: Option<Subnet>,
    gateway: Option<Ipv4Addr>,
    ip_range: Option<Subnet>,
    aux: BTreeMap<String, Ipv4Addr>,
}

impl Engine {
    /// Makes a network and returns its id. Nothing is left if that fails.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NetworkExists`], [`Error::SubnetTaken`],
    /// [`Error::Network`].
    pub fn create_network(&self, request: &NetworkRequest) -> Result<String, Error> {
        let name = &request.name;
        names::check("network", name)?;
        let is_predefined = |known: &str| name == known;
        if is_predefined(DEFAULT)
            || is_predefined("default")
            || PREDEFINED.iter().any(|(known, _)| is_predefined(known))
        {
            return Err(super::predefined(name, "made"));
        }
        let mut config = config_of(request)?;
        let plan = plan_of(request)?;
        config.ip_range = plan.ip_range.map(|range| range.to_string());
        config.aux_addresses.clone_from(&plan.aux);
        config.chosen_subnet = plan.subnet.is_some();
        let id = names::random_id();
        let is_bridge = config.attachment() == Attachment::Bridge;
        let bridge = match request.options.get(BRIDGE_NAME) {
            _ if !is_bridge => parent_of(request)?,
            Some(bridge) => {
                self.check_bridge_name(bridge)?;
                bridge.clone()
            }
            None => format!("br-{}", &id[..12]),
        };
        // From the choice of a subnet to the route to it, nobody else chooses.
        let _choosing = self.lock_choice(name)?;
        self.finish_removals()?;
        let subnet = match plan.subnet {
            Some(subnet) => {
                // Containers of the other drivers are on the host's own networks.
                if is_bridge {
                    // First: of our own networks the name says more than the route.
                    self.check_networks(subnet)?;
                    self.check_routes(subnet)?;
                }
                subnet
            }
            None => self.choose_subnet(name)?,
        };
        let gateway = plan.gateway.unwrap_or_else(|| {
            let (first, last) = plan.ip_range.unwrap_or(subnet).hosts();
            let taken = |address: &Ipv4Addr| plan.aux.values().any(|aux| aux == address);
            let (low, high) = (u32::from(first.max(subnet.hosts().0)), u32::from(last));
            (low..=high)
                .map(Ipv4Addr::from)
                .find(|address| !taken(address))
                .unwrap_or(first)
        });
        let row = NetworkRow {
            name: name.clone(),
            id: id.clone(),
            created_at: record::now(),
            config: serde_json::to_string(&config).map_err(|source| Error::Record {
                id: id.clone(),
                source,
            })?,
            bridge,
            subnet: subnet.to_string(),
            gateway: gateway.to_string(),
        };
        let overlaps = |known: &str, wanted: &str| match (known.parse::<Subnet>(), wanted.parse()) {
            (Ok(known), Ok(wanted)) => known.overlaps(wanted),
            _ => false,
        };
        self.store()?.insert_network(&row, overlaps)?;
        let net = super::Net::of_row(row)?;
        if let Err(error) = self.ensure_bridge_of(&net) {
            self.store()?.delete_network(name)?;
            // The first error is the one to report.
            let _ = self.finish_removals();
            return Err(error);
        }
        Ok(id)
    }
}

impl Engine {
    /// Refuses a subnet that a network of this installation has a part of.
    fn check_networks(&self, subnet: Subnet) -> Result<(), Error> {
        let rows = self.store()?.networks()?;
        let clash = rows.iter().find(|row| {
            let known = row.subnet.parse::<Subnet>();
            known.is_ok_and(|known| known.overlaps(subnet))
        });
        match clash {
            None => Ok(()),
            Some(row) => Err(Error::SubnetTaken {
                subnet: subnet.to_string(),
                holder: format!("network {} ({})", row.name, row.subnet),
            }),
        }
    }
}

fn invalid(option: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Invalid {
        option: option.into(),
        reason: reason.into(),
    }
}

fn config_of(request: &NetworkRequest) -> Result<NetworkConfig, Error> {
    match request.driver.as_str() {
        "" | "bridge" | "macvlan" | "ipvlan" => {}
        "host" | "null" => {
            return Err(invalid(
                format!("driver {}", request.driver),
                "only one network of this driver exists, and it is there already",
            ));
        }
        other => {
            return Err(invalid(
                format!("driver {other}"),
                "there is no such driver here: use bridge, macvlan or ipvlan",
            ));
        }
    }
    if request.ipv6 {
        return Err(invalid(
            "--ipv6",
            "networks have IPv4 addresses only so far; leave it out",
        ));
    }
    let driver = match request.driver.as_str() {
        "" => "bridge",
        other => other,
    };
    let mut config = NetworkConfig {
        driver: driver.into(),
        internal: request.internal,
        attachable: request.attachable,
        labels: request.labels.clone(),
        options: request.options.clone(),
        ..NetworkConfig::default()
    };
    for (key, value) in &request.options {
        let wrong = |expected: &str| invalid(format!("option {key}={value}"), expected.to_owned());
        let boolean = || match value.as_str() {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
            _ => Err(wrong("expected true or false")),
        };
        match key.as_str() {
            "com.docker.network.bridge.enable_icc" => config.icc = boolean()?,
            "com.docker.network.bridge.enable_ip_masquerade" => config.masquerade = boolean()?,
            "com.docker.network.bridge.host_binding_ipv4" => {
                let address: IpAddr = value.parse().map_err(|_| wrong("expected an address"))?;
                config.host_address = Some(address).filter(|address| !address.is_unspecified());
            }
            "com.docker.network.driver.mtu" | "mtu" => {
                let mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
                config.mtu = Some(mtu.ok_or_else(|| wrong("expected 68 to 65535 bytes"))?);
            }
            "com.docker.network.bridge.gateway_mode_ipv4" if value != "nat" => {
                return Err(wrong("only the mode nat is known here so far"));
            }
            "macvlan_mode"
                if driver == "macvlan"
                    && !["bridge", "private", "vepa", "passthru"].contains(&value.as_str()) =>
            {
                return Err(wrong("expected bridge, private, vepa or passthru"));
            }
            "ipvlan_mode"
                if driver == "ipvlan" && !["l2", "l3", "l3s"].contains(&value.as_str()) =>
            {
                return Err(wrong("expected l2, l3 or l3s"));
            }
            // Others are kept and shown, as in Docker.
            _ => {}
        }
    }
    Ok(config)
}

/// The host's link that a macvlan or ipvlan network shares.
fn parent_of(request: &NetworkRequest) -> Result<String, Error> {
    let Some(parent) = request.options.get("parent") else {
        return Err(invalid(
            format!("driver {}", request.driver),
            "name the host's link that containers share: -o parent=eth0",
        ));
    };
    if !gantry_network::link::is_valid_name(parent) {
        return Err(invalid(
            format!("option parent={parent}"),
            "that is not the name of a link",
        ));
    }
    Ok(parent.clone())
}

fn plan_of(request: &NetworkRequest) -> Result<Plan, Error> {
    let [wanted] = request.subnets.as_slice() else {
        if request.subnets.is_empty() {
            return Ok(Plan {
                subnet: None,
                gateway: None,
                ip_range: None,
                aux: BTreeMap::new(),
            });
        }
        return Err(invalid(
            "--subnet",
            "a bridge network has one IPv4 subnet: give one",
        ));
    };
    let parse_subnet = |option: &str, text: &String| {
        text.parse::<Subnet>()
            .map_err(|error| invalid(format!("{option} {text}"), error.to_string()))
    };
    let subnet = match &wanted.subnet {
        Some(text) => Some(parse_subnet("--subnet", text)?),
        None => None,
    };
    let Some(net) = subnet else {
        if wanted.ip_range.is_some() || wanted.gateway.is_some() || !wanted.aux_addresses.is_empty()
        {
            return Err(invalid(
                "--ip-range, --gateway or --aux-address",
                "every one of them needs a --subnet that it is in",
            ));
        }
        return Ok(Plan {
            subnet: None,
            gateway: None,
            ip_range: None,
            aux: BTreeMap::new(),
        });
    };
    // Loopback, groups and "this network" (RFC 1122, RFC 5771): the host would lose its own.
    for reserved in ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"] {
        if reserved
            .parse()
            .is_ok_and(|reserved| net.overlaps(reserved))
        {
            return Err(invalid(
                format!("--subnet {net}"),
                format!("no host may have addresses of {reserved}"),
            ));
        }
    }
    if net.prefix_length() > 30 || net.prefix_length() == 0 {
        return Err(invalid(
            format!("--subnet {net}"),
            "it must hold a gateway and at least one container: 1 to 30 bits of prefix",
        ));
    }
    let inside = |option: &str, text: &str| {
        let address: Ipv4Addr = text
            .parse()
            .map_err(|_| invalid(format!("{option} {text}"), "expected an IPv4 address"))?;
        let (first, last) = net.hosts();
        if address < first || address > last {
            return Err(invalid(
                format!("{option} {text}"),
                format!("no host of subnet {net} can have it: {first} to {last} can be used"),
            ));
        }
        Ok(address)
    };
    let ip_range = match &wanted.ip_range {
        None => None,
        Some(text) => {
            let range = parse_subnet("--ip-range", text)?;
            if !net.contains(range.network()) || range.prefix_length() < net.prefix_length() {
                return Err(invalid(
                    format!("--ip-range {range}"),
                    format!("it is not within subnet {net}"),
                ));
            }
            Some(range)
        }
    };
    let gateway = match &wanted.gateway {
        None => None,
        Some(text) => Some(inside("--gateway", text)?),
    };
    let mut aux = BTreeMap::new();
    for (name, text) in &wanted.aux_addresses {
        let address = inside(&format!("--aux-address {name}="), text)?;
        if Some(address) == gateway {
            return Err(invalid(
                format!("--aux-address {name}={address}"),
                "it is the gateway's address",
            ));
        }
        aux.insert(name.clone(), address);
    }
    Ok(Plan {
        subnet,
        gateway,
        ip_range,
        aux,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(subnet: &str, range: &str, gateway: &str, aux: &str) -> NetworkRequest {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        NetworkRequest {
            subnets: vec![SubnetRequest {
                subnet: some(subnet),
                ip_range: some(range),
                gateway: some(gateway),
                aux_addresses: some(aux)
                    .map(|aux| ("router".to_owned(), aux))
                    .into_iter()
                    .collect(),
            }],
            ..NetworkRequest::default()
        }
    }

    #[test]
    fn addresses_must_fit_together() {
        for (wanted, fits) in [
            (subnet("10.9.0.0/24", "", "", ""), true),
            (
                subnet("10.9.0.0/24", "10.9.0.128/25", "10.9.0.1", "10.9.0.2"),
                true,
            ),
            (subnet("10.9.0.0/24", "10.9.1.0/25", "", ""), false),
            (subnet("10.9.0.0/24", "10.9.0.0/16", "", ""), false),
            (subnet("10.9.0.0/24", "", "10.9.1.1", ""), false),
            (subnet("10.9.0.0/24", "", "10.9.0.255", ""), false),
            (subnet("10.9.0.0/24", "", "10.9.0.1", "10.9.0.1"), false),
            (subnet("10.9.0.0/24", "", "", "10.8.0.1"), false),
            (subnet("10.9.0.0/31", "", "", ""), false),
            (subnet("0.0.0.0/0", "", "", ""), false),
            (subnet("127.0.0.0/24", "", "", ""), false),
            (subnet("224.0.1.0/24", "", "", ""), false),
            (subnet("0.1.0.0/24", "", "", ""), false),
            (subnet("126.0.0.0/7", "", "", ""), false),
            (subnet("10.9.0.0", "", "", ""), false),
            (subnet("", "", "10.9.0.1", ""), false),
            (subnet("", "", "", ""), true),
        ] {
            assert_eq!(plan_of(&wanted).is_ok(), fits, "{wanted:?}");
        }
    }

    #[test]
    fn options_are_read() {
        let mut request = NetworkRequest::default();
        for (key, value) in [
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.bridge.enable_ip_masquerade", "0"),
            ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
            ("com.docker.network.driver.mtu", "1400"),
            ("something.else", "kept"),
        ] {
            request.options.insert(key.into(), value.into());
        }
        let config = config_of(&request).unwrap();
        assert!(!config.icc && !config.masquerade);
        assert_eq!(config.mtu, Some(1400));
        assert_eq!(config.host_address, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(config.options.len(), 5);
        for (key, value) in [
            ("com.docker.network.bridge.enable_icc", "maybe"),
            ("com.docker.network.driver.mtu", "67"),
            ("com.docker.network.bridge.host_binding_ipv4", "here"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "routed"),
        ] {
            let mut request = NetworkRequest::default();
            request.options.insert(key.into(), value.into());
            assert!(config_of(&request).is_err(), "{key}={value}");
        }
        let mut macvlan = NetworkRequest {
            driver: "macvlan".into(),
            ..NetworkRequest::default()
        };
        assert!(parent_of(&macvlan).is_err());
        macvlan.options.insert("parent".into(), "eth0.10".into());
        assert_eq!(parent_of(&macvlan).unwrap(), "eth0.10");
        let mode = |config: NetworkConfig| config.attachment();
        assert_eq!(
            mode(config_of(&macvlan).unwrap()),
            Attachment::Macvlan {
                mode: "bridge".into()
            }
        );
        macvlan.options.insert("macvlan_mode".into(), "l2".into());
        assert!(config_of(&macvlan).is_err());
        let driver = NetworkRequest {
            driver: "weave".into(),
            ..NetworkRequest::default()
        };
        assert!(config_of(&driver).is_err());
    }
}
