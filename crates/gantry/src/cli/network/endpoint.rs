//! `network connect` and `network disconnect`.

use clap::{ArgMatches, Command};

use super::super::Context;
use super::super::flags::{
    is_on, list, names, owned, parsed, parsed_list, switch, text, texts, value, with_help,
};
use super::super::options::network::link;
use crate::api::config::EndpointConfig;
use crate::error::{CliError, Outcome};
use crate::parse::network;

/// Arguments of `network connect`.
pub fn connect_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            list(
                "alias",
                "strings",
                "Add network-scoped alias for the container",
            ),
            list("driver-opt", "strings", "driver options for the network"),
            value(
                "gw-priority",
                "int",
                "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
            ),
            value("ip", "string", "IPv4 address (e.g., \"172.30.100.104\")"),
            value("ip6", "string", "").hide(true),
            list("link", "list", "Add link to another container"),
            list("link-local-ip", "strings", "").hide(true),
        ])
        .arg(names("names", 2).num_args(2))
}

/// `network connect`: puts a container on a network, at once if it runs.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn connect(context: &Context, matches: &ArgMatches) -> Outcome {
    let endpoint = read(matches)?;
    let (network, container) = pair(matches)?;
    context
        .engine()?
        .connect_network(&network, &container, &endpoint)?;
    Ok(0)
}

fn read(matches: &ArgMatches) -> Result<EndpointConfig, CliError> {
    for flag in ["ip6", "link-local-ip"] {
        if text(matches, flag).is_some() {
            return Err(CliError::Conflict(format!(
                "--{flag} is not supported yet: networks have IPv4 addresses only"
            )));
        }
    }
    let options = parsed_list(matches, "driver-opt", |given| {
        given.split(',').map(network::driver_option).collect()
    })?;
    let options: Vec<Vec<(String, String)>> = options;
    Ok(EndpointConfig {
        aliases: texts(matches, "alias")
            .flat_map(|given| given.split(','))
            .filter(|alias| !alias.is_empty())
            .map(str::to_owned)
            .collect(),
        ipv4: parsed(matches, "ip", network::ipv4)?,
        mac: None,
        links: parsed_list(matches, "link", link)?,
        driver_options: options.into_iter().flatten().collect(),
        gw_priority: parsed(matches, "gw-priority", network::priority)?.unwrap_or_default(),
    })
}

/// Arguments of `network disconnect`.
pub fn disconnect_arguments(command: Command) -> Command {
    with_help(command)
        .arg(switch("force", "Force the container to disconnect from a network").short('f'))
        .arg(names("names", 2).num_args(2))
}

/// `network disconnect`: takes a container off a network, at once if it runs.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn disconnect(context: &Context, matches: &ArgMatches) -> Outcome {
    let force = is_on(matches, "force")?;
    let (network, container) = pair(matches)?;
    context
        .engine()?
        .disconnect_network(&network, &container, force)?;
    Ok(0)
}

/// The names of a network and of a container.
fn pair(matches: &ArgMatches) -> Result<(String, String), CliError> {
    match <[String; 2]>::try_from(owned(matches, "names")) {
        Ok([network, container]) if !network.is_empty() && !container.is_empty() => {
            Ok((network, container))
        }
        _ => Err(CliError::Conflict(
            "the name of the network or of the container is empty".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<EndpointConfig, CliError> {
        let command = connect_arguments(
            Command::new("connect")
                .args_override_self(true)
                .disable_help_flag(true),
        );
        let matches = command
            .try_get_matches_from(std::iter::once(&"connect").chain(words))
            .unwrap();
        read(&matches)
    }

    #[test]
    fn endpoints() {
        let endpoint = read_words(&[
            "--alias=a,b",
            "--alias",
            "c",
            "--ip=10.1.2.3",
            "--link=web:www",
            "--driver-opt=k=v,l=w",
            "--gw-priority",
            "-5",
            "net",
            "box",
        ])
        .unwrap();
        assert_eq!(endpoint.aliases, ["a", "b", "c"]);
        assert_eq!(endpoint.ipv4, Some([10, 1, 2, 3].into()));
        assert_eq!(endpoint.links, ["web:www"]);
        assert_eq!(endpoint.driver_options.len(), 2);
        assert_eq!(endpoint.gw_priority, -5);
        assert_eq!(read_words(&["n", "c"]).unwrap(), EndpointConfig::default());
        for words in [
            &["--ip6=::1", "n", "c"][..],
            &["--ip=::1", "n", "c"],
            &["--link-local-ip=169.254.1.1", "n", "c"],
            &["--driver-opt=k", "n", "c"],
            &["--gw-priority=x", "n", "c"],
            &["--link=:a", "n", "c"],
        ] {
            assert!(read_words(words).is_err(), "{words:?}");
        }
    }
}
