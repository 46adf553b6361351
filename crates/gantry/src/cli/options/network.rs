//! The networks of a container: `--network` and the short flags that go with its first one.

use clap::ArgMatches;

use crate::api::config::{ContainerConfig, EndpointConfig, EndpointRequest, NetworkMode};
use crate::cli::flags::{is_on, owned, parsed, parsed_list, text};
use crate::error::CliError;
use crate::parse::{hosts, network, port};

/// Reads every flag that concerns the network.
///
/// # Errors
/// [`CliError::Flag`] and [`CliError::Conflict`].
pub fn read(matches: &ArgMatches, config: &mut ContainerConfig) -> Result<(), CliError> {
    networks(matches, config)?;
    config.ports = parsed_list(matches, "publish", port::publish)?.concat();
    config.publish_all = is_on(matches, "publish-all")?;
    config.exposed_ports = parsed_list(matches, "expose", port::expose)?.concat();
    config
        .exposed_ports
        .extend(config.ports.iter().map(|binding| binding.container));
    config.exposed_ports.sort_unstable();
    config.exposed_ports.dedup();
    config.extra_hosts = parsed_list(matches, "add-host", hosts::extra_host)?;
    config.dns = parsed_list(matches, "dns", |server| {
        hosts::address(server).map(|address| address.to_string())
    })?;
    config.dns_search = owned(matches, "dns-search");
    config.dns_options = owned(matches, "dns-option");
    text(matches, "domainname")
        .unwrap_or_default()
        .clone_into(&mut config.domainname);
    Ok(())
}

/// Sets the mode and, where a user's network or anything special is asked for, the endpoints.
fn networks(matches: &ArgMatches, config: &mut ContainerConfig) -> Result<(), CliError> {
    for flag in ["ip6", "link-local-ip"] {
        if text(matches, flag).is_some() {
            return Err(CliError::Conflict(format!(
                "--{flag} is not supported yet: networks have IPv4 addresses only"
            )));
        }
    }
    let mut wanted = parsed_list(matches, "network", network::endpoint)?;
    if wanted.is_empty() {
        wanted.push(EndpointRequest {
            network: "bridge".to_owned(),
            endpoint: EndpointConfig::default(),
        });
    }
    for request in &mut wanted {
        if request.network == "default" {
            "bridge".clone_into(&mut request.network);
        }
    }
    let modes = wanted
        .iter()
        .map(|request| mode(&request.network))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, request) in wanted.iter().enumerate() {
        if wanted[..index]
            .iter()
            .any(|other| other.network == request.network)
        {
            return Err(CliError::Conflict(format!(
                "network \"{}\" is specified multiple times",
                request.network
            )));
        }
    }
    if let [first, ..] = wanted.as_mut_slice() {
        short_flags(matches, &mut first.endpoint)?;
    }
    for (request, mode) in wanted.iter().zip(&modes) {
        check(mode, &request.endpoint, wanted.len())?;
    }
    let plain = matches!(modes.as_slice(), [NetworkMode::Bridge])
        && wanted[0].endpoint == EndpointConfig::default();
    let on_bridges = !matches!(
        modes[0],
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_)
    );
    config.network = modes.into_iter().next().unwrap_or_default();
    if on_bridges && !plain {
        config.endpoints = wanted;
    }
    Ok(())
}

/// Adds what the flags without a network's name say, which concern the first one.
fn short_flags(matches: &ArgMatches, first: &mut EndpointConfig) -> Result<(), CliError> {
    let both = |one: &str, other: &str| {
        CliError::Conflict(format!(
            "conflicting options: cannot specify both {one} and per-network {other}"
        ))
    };
    let aliases = parsed_list(matches, "network-alias", non_empty)?;
    if !aliases.is_empty() && !first.aliases.is_empty() {
        return Err(both("--network-alias", "alias"));
    }
    first.aliases.extend(aliases);
    if let Some(address) = parsed(matches, "ip", network::ipv4)?
        && first.ipv4.replace(address).is_some()
    {
        return Err(both("--ip", "IPv4 address"));
    }
    if let Some(mac) = parsed(matches, "mac-address", network::mac)?
        && first.mac.replace(mac).is_some()
    {
        return Err(both("--mac-address", "MAC address"));
    }
    first.links = parsed_list(matches, "link", link)?;
    Ok(())
}

fn non_empty(text: &str) -> Result<String, crate::parse::ParseError> {
    match text {
        "" => Err(crate::parse::ParseError::Empty),
        text => Ok(text.to_owned()),
    }
}

/// One `--link`: `CONTAINER` or `CONTAINER:ALIAS`.
///
/// # Errors
/// [`ParseError::Link`](crate::parse::ParseError::Link).
pub fn link(text: &str) -> Result<String, crate::parse::ParseError> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    if container.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(crate::parse::ParseError::Link(text.to_owned()));
    }
    Ok(text.to_owned())
}

fn mode(name: &str) -> Result<NetworkMode, CliError> {
    Ok(match name {
        "bridge" => NetworkMode::Bridge,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        _ => match name.strip_prefix("container:") {
            Some("") => {
                return Err(CliError::Conflict(
                    "--network container: needs the name of a container".to_owned(),
                ));
            }
            Some(container) => NetworkMode::Container(container.to_owned()),
            None => NetworkMode::Network(name.to_owned()),
        },
    })
}

/// Refuses what a network of this kind cannot have; `count` networks are asked for.
fn check(mode: &NetworkMode, endpoint: &EndpointConfig, count: usize) -> Result<(), CliError> {
    let conflict = |text: &str| Err(CliError::Conflict(text.to_owned()));
    let kind = match mode {
        NetworkMode::Network(_) => return Ok(()),
        NetworkMode::Bridge => "bridge",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
        NetworkMode::Container(_) => "container",
    };
    if kind != "bridge" && count > 1 {
        return conflict(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        );
    }
    if endpoint.ipv4.is_some() {
        return conflict(
            "invalid endpoint settings: user specified IP address is supported on user defined networks only",
        );
    }
    if !endpoint.aliases.is_empty() {
        return conflict(
            "invalid endpoint settings: network-scoped aliases are only supported for user-defined networks",
        );
    }
    if !endpoint.links.is_empty() {
        return match kind {
            "bridge" => conflict(
                "--link is not supported on the default bridge: put both containers on a network of \
                 their own (`gantry network create`), where names are found without it",
            ),
            kind => Err(CliError::Conflict(format!(
                "conflicting options: {kind} type networking can't be used with links. This would result in undefined behavior"
            ))),
        };
    }
    if kind != "bridge" && endpoint.mac.is_some() {
        return conflict("conflicting options: mac-address and the network mode");
    }
    if kind != "bridge" && (!endpoint.driver_options.is_empty() || endpoint.gw_priority != 0) {
        return Err(CliError::Conflict(format!(
            "conflicting options: driver-opt, gw-priority and --network {kind}, which has no endpoint of its own"
        )));
    }
    Ok(())
}

/// Refuses what belongs to the sandbox when another container owns it.
///
/// # Errors
/// [`CliError::Conflict`].
pub fn check_shared(config: &ContainerConfig) -> Result<(), CliError> {
    if !matches!(config.network, NetworkMode::Container(_)) {
        return Ok(());
    }
    let refused = [
        (!config.hostname.is_empty(), "--hostname"),
        (!config.domainname.is_empty(), "--domainname"),
        (!config.ports.is_empty() || config.publish_all, "--publish"),
        (!config.exposed_ports.is_empty(), "--expose"),
        (!config.dns.is_empty(), "--dns"),
        (!config.extra_hosts.is_empty(), "--add-host"),
    ];
    match refused.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => Err(CliError::Conflict(format!(
            "conflicting options: {flag} and --network container:, whose network belongs to that container"
        ))),
    }
}
