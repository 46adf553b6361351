//! `network create`.

use clap::{ArgMatches, Command};

use super::super::Context;
use super::super::flags::{
    is_on, list, names, optional_switch, owned, parsed_list, switch, text, texts, value, with_help,
};
use crate::api::{NetworkRequest, SubnetRequest};
use crate::error::{CliError, Outcome};
use crate::output;
use crate::parse::{ParseError, env};

/// Arguments of `network create`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("attachable", "Enable manual container attachment"),
            list(
                "aux-address",
                "map",
                "Auxiliary IPv4 or IPv6 addresses used by Network driver",
            ),
            value("config-from", "string", "").hide(true),
            switch("config-only", "").hide(true),
            value(
                "driver",
                "string",
                "Driver to manage the Network (default bridge)",
            )
            .short('d'),
            list(
                "gateway",
                "strings",
                "IPv4 or IPv6 Gateway for the master subnet",
            ),
            switch("ingress", "").hide(true),
            switch("internal", "Restrict external access to the network"),
            list(
                "ip-range",
                "strings",
                "Allocate container ip from a sub-range",
            ),
            value(
                "ipam-driver",
                "string",
                "IP Address Management Driver: default",
            ),
            list("ipam-opt", "map", "").hide(true),
            switch(
                "ipv4",
                "Enable or disable IPv4 address assignment (default true)",
            ),
            switch("ipv6", "Enable or disable IPv6 address assignment"),
            list("label", "list", "Set metadata on a network"),
            list("opt", "map", "Set driver specific options").short('o'),
            value("scope", "string", "Control the network's scope: local"),
            list(
                "subnet",
                "strings",
                "Subnet in CIDR format that represents a network segment",
            ),
        ])
        .arg(names("names", 1).num_args(1))
}

/// `network create`: makes a network and prints its id.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn create(context: &Context, matches: &ArgMatches) -> Outcome {
    let request = read(matches)?;
    let id = context.engine()?.create_network(&request)?;
    output::line(&id)?;
    Ok(0)
}

fn read(matches: &ArgMatches) -> Result<NetworkRequest, CliError> {
    refuse(matches)?;
    let subnets = parts(matches, "subnet");
    let ranges = parts(matches, "ip-range");
    let gateways = parts(matches, "gateway");
    let aux = parsed_list(matches, "aux-address", |given| {
        given
            .split(',')
            .map(|one| {
                let (name, address) = crate::parse::split_pair(one, '=')
                    .ok_or_else(|| ParseError::KeyValue(one.to_owned()))?;
                Ok((name.to_owned(), address.to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(NetworkRequest {
        name: owned(matches, "names").pop().unwrap_or_default(),
        driver: text(matches, "driver").unwrap_or_default().to_owned(),
        subnets: consolidate(&subnets, &ranges, &gateways, aux.into_iter().flatten())?,
        internal: is_on(matches, "internal")?,
        attachable: is_on(matches, "attachable")?,
        ipv6: is_on(matches, "ipv6")?,
        options: parsed_list(matches, "opt", env::label)?
            .into_iter()
            .collect(),
        labels: parsed_list(matches, "label", env::label)?
            .into_iter()
            .collect(),
    })
}

/// Refuses what only a swarm has, and what would be dropped in silence.
fn refuse(matches: &ArgMatches) -> Result<(), CliError> {
    let refused = |what: &str| Err(CliError::Conflict(what.to_owned()));
    if is_on(matches, "ingress")? {
        return refused("--ingress is not supported: there is no swarm here");
    }
    if is_on(matches, "config-only")? || text(matches, "config-from").is_some() {
        return refused(
            "--config-only and --config-from are not supported: give the network its options directly",
        );
    }
    match text(matches, "scope").unwrap_or_default() {
        "" | "local" => {}
        other => {
            return Err(CliError::Conflict(format!(
                "--scope '{other}' is not supported: there is no swarm here, only 'local' is"
            )));
        }
    }
    match text(matches, "ipam-driver").unwrap_or_default() {
        "" | "default" => {}
        other => {
            return Err(CliError::Conflict(format!(
                "--ipam-driver '{other}' is not supported: only 'default' is"
            )));
        }
    }
    if texts(matches, "ipam-opt").next().is_some() {
        return refused("--ipam-opt is not supported: the IPAM driver 'default' has no options");
    }
    if optional_switch(matches, "ipv4")? == Some(false) {
        return refused("--ipv4=false is not supported yet: networks have IPv4 addresses only");
    }
    Ok(())
}

/// Values of a flag that takes several, separated by commas or given again.
fn parts(matches: &ArgMatches, name: &str) -> Vec<String> {
    texts(matches, name)
        .flat_map(|value| value.split(','))
        .map(str::to_owned)
        .collect()
}

/// Puts ranges, gateways and further addresses to the subnets that they are in.
fn consolidate(
    subnets: &[String],
    ranges: &[String],
    gateways: &[String],
    aux: impl Iterator<Item = (String, String)>,
) -> Result<Vec<SubnetRequest>, CliError> {
    let failed = |text: String| CliError::Conflict(text);
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err(failed(
            "every ip-range or gateway must have a corresponding subnet".to_owned(),
        ));
    }
    let mut wanted: Vec<SubnetRequest> = subnets
        .iter()
        .map(|subnet| SubnetRequest {
            subnet: Some(subnet.clone()),
            ..SubnetRequest::default()
        })
        .collect();
    // With one subnet there is nothing to choose: whether all fits is for the engine to say.
    let single = wanted.len() == 1;
    let place = |wanted: &mut Vec<SubnetRequest>, what: &str, text: &str| {
        let address = text.split('/').next().unwrap_or_default();
        let found = wanted.iter().position(|request| {
            let subnet = request.subnet.as_deref().unwrap_or_default();
            single || contains(subnet, address)
        });
        found.ok_or_else(|| failed(format!("no matching subnet for {what} {text}")))
    };
    for range in ranges {
        let at = place(&mut wanted, "range", range)?;
        if let Some(other) = wanted[at].ip_range.replace(range.clone()) {
            return Err(failed(format!(
                "cannot configure multiple ranges ({range}, {other}) on the same subnet ({})",
                subnets[at]
            )));
        }
    }
    for gateway in gateways {
        let at = place(&mut wanted, "gateway", gateway)?;
        if let Some(other) = wanted[at].gateway.replace(gateway.clone()) {
            return Err(failed(format!(
                "cannot configure multiple gateways ({gateway}, {other}) for the same subnet ({})",
                subnets[at]
            )));
        }
    }
    for (name, address) in aux {
        let at = place(&mut wanted, "aux-address", &address)?;
        wanted[at].aux_addresses.insert(name, address);
    }
    Ok(wanted)
}

/// Whether an address is in a subnet `ADDRESS/BITS` of its family; false where one of them is
/// neither.
fn contains(subnet: &str, address: &str) -> bool {
    use std::net::IpAddr;
    let number = |text: &str| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some((32, u128::from(u32::from(address)))),
        Ok(IpAddr::V6(address)) => Some((128, u128::from(address))),
        Err(_) => None,
    };
    let Some((network, bits)) = subnet.split_once('/') else {
        return false;
    };
    let (Some((width, network)), Some((other_width, address)), Ok(bits)) =
        (number(network), number(address), bits.parse::<u32>())
    else {
        return false;
    };
    width == other_width
        && bits <= width
        && (network ^ address).checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<NetworkRequest, CliError> {
        let command = arguments(
            Command::new("create")
                .args_override_self(true)
                .disable_help_flag(true),
        );
        let matches = command
            .try_get_matches_from(std::iter::once(&"create").chain(words))
            .unwrap();
        read(&matches)
    }

    #[test]
    fn requests() {
        let request = read_words(&[
            "--subnet",
            "10.1.0.0/24",
            "--ip-range=10.1.0.128/25",
            "--gateway",
            "10.1.0.1",
            "--aux-address",
            "a=10.1.0.2,b=10.1.0.3",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "--opt=flag",
            "--label",
            "x=y=z",
            "--internal",
            "--attachable",
            "--ipv4",
            "--scope=local",
            "--ipam-driver",
            "default",
            "-d",
            "bridge",
            "net",
        ])
        .unwrap();
        assert_eq!(request.name, "net");
        assert_eq!(request.driver, "bridge");
        assert!(request.internal && request.attachable && !request.ipv6);
        assert_eq!(request.options["com.docker.network.driver.mtu"], "1400");
        assert_eq!(request.options["flag"], "");
        assert_eq!(request.labels["x"], "y=z");
        let [subnet] = request.subnets.as_slice() else {
            panic!("one subnet");
        };
        assert_eq!(subnet.subnet.as_deref(), Some("10.1.0.0/24"));
        assert_eq!(subnet.ip_range.as_deref(), Some("10.1.0.128/25"));
        assert_eq!(subnet.gateway.as_deref(), Some("10.1.0.1"));
        assert_eq!(subnet.aux_addresses["b"], "10.1.0.3");
        let plain = read_words(&["net"]).unwrap();
        assert!(plain.subnets.is_empty() && plain.driver.is_empty());
    }

    #[test]
    fn what_belongs_to_which_subnet() {
        let request = read_words(&[
            "--subnet=10.1.0.0/24,fd00:1::/64",
            "--subnet",
            "10.2.0.0/16",
            "--gateway=10.2.9.9,10.1.0.9",
            "--ip-range=10.2.1.0/24",
            "--aux-address=r=fd00:1::2",
            "net",
        ])
        .unwrap();
        let shown: Vec<_> = request
            .subnets
            .iter()
            .map(|subnet| {
                (
                    subnet.subnet.as_deref().unwrap(),
                    subnet.gateway.as_deref(),
                    subnet.ip_range.as_deref(),
                    subnet.aux_addresses.len(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("10.1.0.0/24", Some("10.1.0.9"), None, 0),
                ("fd00:1::/64", None, None, 1),
                ("10.2.0.0/16", Some("10.2.9.9"), Some("10.2.1.0/24"), 0),
            ]
        );
    }

    #[test]
    fn refusals() {
        for (words, message) in [
            (
                &["--gateway=10.1.0.1"][..],
                "every ip-range or gateway must have a corresponding subnet",
            ),
            (
                &["--ip-range=10.1.0.0/25"],
                "every ip-range or gateway must have a corresponding subnet",
            ),
            (
                &[
                    "--subnet=10.1.0.0/24",
                    "--subnet=10.2.0.0/24",
                    "--gateway=10.3.0.1",
                ],
                "no matching subnet for gateway 10.3.0.1",
            ),
            (
                &[
                    "--subnet=10.1.0.0/24",
                    "--subnet=10.2.0.0/24",
                    "--gateway=10.1.0.1,10.1.0.2",
                ],
                "cannot configure multiple gateways (10.1.0.2, 10.1.0.1) for the same subnet (10.1.0.0/24)",
            ),
            (
                &["--aux-address=a=10.1.0.1"],
                "no matching subnet for aux-address 10.1.0.1",
            ),
            (&["--aux-address=a"], "field 'a' must be a key=value pair"),
            (&["--ingress"], "--ingress is not supported"),
            (
                &["--config-only"],
                "--config-only and --config-from are not supported",
            ),
            (
                &["--config-from=a"],
                "--config-only and --config-from are not supported",
            ),
            (&["--scope=swarm"], "--scope 'swarm' is not supported"),
            (
                &["--ipam-driver=dhcp"],
                "--ipam-driver 'dhcp' is not supported",
            ),
            (&["--ipam-opt=a=b"], "--ipam-opt is not supported"),
            (&["--ipv4=false"], "--ipv4=false is not supported yet"),
            (&["--label==b"], "no name in '=b'"),
        ] {
            let words: Vec<_> = words.iter().chain(&["net"]).copied().collect();
            let error = read_words(&words).unwrap_err().line();
            assert!(error.contains(message), "{words:?}: {error}");
        }
    }

    #[test]
    fn subnets_contain_addresses() {
        for (subnet, address, expected) in [
            ("10.1.0.0/24", "10.1.0.255", true),
            ("10.1.0.0/24", "10.1.1.0", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("10.1.0.1/32", "10.1.0.1", true),
            ("fd00::/8", "fdff::1", true),
            ("::/0", "fdff::1", true),
            ("fd00::/8", "10.0.0.1", false),
            ("10.0.0.0", "10.0.0.0", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("x/8", "10.0.0.0", false),
            ("10.0.0.0/8", "", false),
        ] {
            assert_eq!(contains(subnet, address), expected, "{subnet} {address}");
        }
    }
}
