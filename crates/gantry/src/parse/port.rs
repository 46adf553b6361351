//! Published and exposed ports.

use std::net::IpAddr;

use super::{ParseError, csv};
use crate::api::config::{ContainerPort, PortBinding, Protocol};

/// First and last port of a range.
type PortRange = (u16, u16);

/// One `-p`: `[IP:][HOST]:CONTAINER[/PROTOCOL]`, `CONTAINER[/PROTOCOL]`, or
/// `published=HOST,target=CONTAINER[,protocol=PROTOCOL]`.
///
/// Ranges pair up port by port. A range of the host before a single port of the container
/// means any free one of it.
///
/// # Errors
/// [`ParseError::NoPort`], [`ParseError::Port`], [`ParseError::Protocol`],
/// [`ParseError::Address`] and [`ParseError::PortRanges`].
pub fn publish(text: &str) -> Result<Vec<PortBinding>, ParseError> {
    if text.contains('=') {
        return publish(&short_form(text)?);
    }
    let (ports, protocol) = split_protocol(text)?;
    let (before, container_text) = match ports.rsplit_once(':') {
        Some((before, container)) => (Some(before), container),
        None => (None, ports),
    };
    if container_text.is_empty() {
        return Err(ParseError::NoPort(text.to_owned()));
    }
    let (address, host_text) = match before.map(|before| before.rsplit_once(':')) {
        Some(Some((address, host))) => (host_address(address)?, host),
        Some(None) => (None, before.unwrap_or_default()),
        None => (None, ""),
    };
    let container = range(container_text, 1)?;
    let host = match host_text {
        "" => None,
        host => Some(range(host, 0)?),
    };
    let bindings = container_bindings(container, host).ok_or_else(|| ParseError::PortRanges {
        host: host_text.to_owned(),
        container: container_text.to_owned(),
    })?;
    Ok(bindings
        .map(|(port, (host_port, host_port_end))| PortBinding {
            host_ip: address,
            host_port,
            host_port_end,
            container: ContainerPort { port, protocol },
        })
        .collect())
}

/// Pairs every port of the container with its port or range of the host.
fn container_bindings(
    (first, last): PortRange,
    host: Option<PortRange>,
) -> Option<impl Iterator<Item = (u16, PortRange)>> {
    let single = first == last;
    if let Some((low, high)) = host
        && !single
        && (low == 0 || high - low != last - first)
    {
        return None;
    }
    Some((first..=last).map(move |port| {
        let host = match host {
            None => (0, 0),
            Some(range) if single => range,
            Some((low, _)) => (low + (port - first), low + (port - first)),
        };
        (port, host)
    }))
}

/// One `--expose`: a port or a range, with an optional protocol.
///
/// # Errors
/// [`ParseError::Port`] and [`ParseError::Protocol`].
pub fn expose(text: &str) -> Result<Vec<ContainerPort>, ParseError> {
    let (ports, protocol) = split_protocol(text)?;
    let (first, last) = range(ports, 1)?;
    Ok((first..=last)
        .map(|port| ContainerPort { port, protocol })
        .collect())
}

/// Turns `published=…,target=…` into the short form.
fn short_form(text: &str) -> Result<String, ParseError> {
    let (mut published, mut target, mut protocol) =
        (String::new(), String::new(), "tcp".to_owned());
    for field in csv::record(text)? {
        let (key, value) =
            super::split_pair(&field, '=').ok_or_else(|| ParseError::KeyValue(field.clone()))?;
        // A separator in a value would give the short form another meaning.
        if value.contains([':', '/', '=']) {
            return Err(ParseError::Value {
                key: key.to_owned(),
                value: value.to_owned(),
            });
        }
        match key {
            "published" => value.clone_into(&mut published),
            "target" => value.clone_into(&mut target),
            "protocol" => value.clone_into(&mut protocol),
            _ => {
                return Err(ParseError::Key {
                    key: key.to_owned(),
                    field: field.clone(),
                });
            }
        }
    }
    if target.is_empty() {
        return Err(ParseError::NoPort(text.to_owned()));
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), ParseError> {
    let Some((ports, name)) = text.split_once('/') else {
        return Ok((text, Protocol::Tcp));
    };
    let protocol = match name.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(ParseError::Protocol(name.to_owned())),
    };
    Ok((ports, protocol))
}

fn host_address(text: &str) -> Result<Option<IpAddr>, ParseError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(text);
    super::hosts::address(address).map(Some)
}

fn range(text: &str, low: u16) -> Result<PortRange, ParseError> {
    let number = |text: &str| -> Option<u16> {
        // A sign or white space is accepted by no other tool.
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    let parsed = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)),
        None => number(text).map(|port| (port, port)),
    };
    parsed
        .filter(|(first, last)| *first >= low && first <= last)
        .ok_or_else(|| ParseError::Port(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(ip: &str, host: PortRange, port: u16, protocol: Protocol) -> PortBinding {
        PortBinding {
            host_ip: ip.parse().ok(),
            host_port: host.0,
            host_port_end: host.1,
            container: ContainerPort { port, protocol },
        }
    }

    #[test]
    fn single_ports() {
        use Protocol::{Sctp, Tcp, Udp};
        for (text, expected) in [
            ("80", binding("", (0, 0), 80, Tcp)),
            (":80", binding("", (0, 0), 80, Tcp)),
            ("8080:80", binding("", (8080, 8080), 80, Tcp)),
            ("0:80", binding("", (0, 0), 80, Tcp)),
            ("8080:80/UDP", binding("", (8080, 8080), 80, Udp)),
            ("1:2/sctp", binding("", (1, 1), 2, Sctp)),
            (
                "127.0.0.1:8080:80",
                binding("127.0.0.1", (8080, 8080), 80, Tcp),
            ),
            ("127.0.0.1::80", binding("127.0.0.1", (0, 0), 80, Tcp)),
            ("[::1]:8080:80", binding("::1", (8080, 8080), 80, Tcp)),
            ("::1:8080:80", binding("::1", (8080, 8080), 80, Tcp)),
            ("[::1]::80", binding("::1", (0, 0), 80, Tcp)),
            ("8000-8010:80", binding("", (8000, 8010), 80, Tcp)),
            ("published=80,target=90", binding("", (80, 80), 90, Tcp)),
            ("target=90,protocol=udp", binding("", (0, 0), 90, Udp)),
        ] {
            assert_eq!(publish(text), Ok(vec![expected]), "{text}");
        }
    }

    #[test]
    fn ranges() {
        let expected: Vec<_> = (0..3)
            .map(|offset| binding("", (80 + offset, 80 + offset), 90 + offset, Protocol::Udp))
            .collect();
        assert_eq!(publish("80-82:90-92/udp"), Ok(expected));
        let expected: Vec<_> = (80..=81)
            .map(|port| binding("", (0, 0), port, Protocol::Tcp))
            .collect();
        assert_eq!(publish("80-81"), Ok(expected));
        assert_eq!(publish("65534-65535:1-2").map(|ports| ports.len()), Ok(2));
    }

    #[test]
    fn refused() {
        for text in ["80:", "", "127.0.0.1:80:"] {
            assert!(
                matches!(publish(text), Err(ParseError::NoPort(_))),
                "{text}"
            );
        }
        for text in [
            "70000:1",
            "80-79:80",
            "+80:80",
            "1.2.3.4:80",
            "x",
            "80:0",
            "0",
            "80:-90",
            " 80",
            "0-80",
        ] {
            assert!(matches!(publish(text), Err(ParseError::Port(_))), "{text}");
        }
        for text in ["80-82:80-81", "90:80-81", "0:80-81"] {
            assert!(
                matches!(publish(text), Err(ParseError::PortRanges { .. })),
                "{text}"
            );
        }
        for text in ["a:80:80", "8080:80:90:100", "[::1%eth0]:80:80", "1.2.3:1:1"] {
            assert!(
                matches!(publish(text), Err(ParseError::Address(_))),
                "{text}"
            );
        }
        for text in ["80/foo", "80/", "80/tcp/udp"] {
            assert!(
                matches!(publish(text), Err(ParseError::Protocol(_))),
                "{text}"
            );
        }
        assert!(matches!(
            publish("published=80"),
            Err(ParseError::NoPort(_))
        ));
        assert!(matches!(
            publish("target=80,foo=1"),
            Err(ParseError::Key { .. })
        ));
        assert!(matches!(
            publish("target=1:2"),
            Err(ParseError::Value { .. })
        ));
    }

    #[test]
    fn exposed() {
        assert_eq!(expose("80").map(|ports| ports.len()), Ok(1));
        assert_eq!(
            expose("80-81/udp"),
            Ok([80, 81]
                .map(|port| ContainerPort {
                    port,
                    protocol: Protocol::Udp
                })
                .to_vec())
        );
        for text in ["80:80", "90-80", "x/tcp", "80/foo", "0", ""] {
            assert!(expose(text).is_err(), "{text}");
        }
    }
}
