//! Networks of a container: the long form of `--network`, Ethernet addresses, options of a
//! driver.

use std::net::Ipv4Addr;

use super::{ParseError, csv, hosts, number, split_pair};
use crate::api::config::{EndpointConfig, EndpointRequest};

/// One `--network`: a name, or comma-separated `key=value` pairs, quoted as CSV. Keys may be in
/// any case; values keep theirs.
///
/// # Errors
/// Those of [`ParseError`] that speak of fields, keys, values and addresses.
pub fn endpoint(text: &str) -> Result<EndpointRequest, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Empty);
    }
    if !text.contains('=') {
        return Ok(EndpointRequest {
            network: text.to_owned(),
            endpoint: EndpointConfig::default(),
        });
    }
    let mut request = EndpointRequest::default();
    for field in csv::record(text)? {
        take_field(&mut request, &field)?;
    }
    if request.network.is_empty() {
        return Err(ParseError::NoNetwork);
    }
    Ok(request)
}

fn take_field(request: &mut EndpointRequest, field: &str) -> Result<(), ParseError> {
    let (key, value) =
        split_pair(field, '=').ok_or_else(|| ParseError::KeyValue(field.to_owned()))?;
    let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
    let endpoint = &mut request.endpoint;
    match key.as_str() {
        "name" => value.clone_into(&mut request.network),
        "alias" if !value.is_empty() => endpoint.aliases.push(value.to_owned()),
        "ip" => endpoint.ipv4 = Some(ipv4(value)?),
        "mac-address" => endpoint.mac = Some(mac(value)?),
        "driver-opt" => endpoint.driver_options.extend([driver_option(value)?]),
        "gw-priority" => endpoint.gw_priority = priority(value)?,
        "ip6" | "link-local-ip" => return Err(ParseError::NoIpv6(key)),
        "alias" => {
            return Err(ParseError::Value {
                key,
                value: value.to_owned(),
            });
        }
        _ => {
            return Err(ParseError::Key {
                key,
                field: field.to_owned(),
            });
        }
    }
    Ok(())
}

/// An IPv4 address.
///
/// # Errors
/// [`ParseError::Address`].
pub fn ipv4(text: &str) -> Result<Ipv4Addr, ParseError> {
    match hosts::address(text)? {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(_) => Err(ParseError::NotIpv4(text.to_owned())),
    }
}

/// An Ethernet address with colons or dashes, in lower case with colons.
///
/// # Errors
/// [`ParseError::Mac`] for what is none, and for the addresses that no interface can have:
/// those of groups and the one of zeros alone.
pub fn mac(text: &str) -> Result<String, ParseError> {
    let invalid = || ParseError::Mac(text.to_owned());
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut octets = Vec::with_capacity(6);
    for part in text.split(separator) {
        let is_hex = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || octets.len() == 6 {
            return Err(invalid());
        }
        octets.push(u8::from_str_radix(part, 16).map_err(|_| invalid())?);
    }
    let group = octets.first().is_none_or(|first| first & 1 == 1);
    if octets.len() != 6 || group || octets.iter().all(|octet| *octet == 0) {
        return Err(invalid());
    }
    let octets: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    Ok(octets.join(":"))
}

/// One option of a driver, which must have a value.
///
/// # Errors
/// [`ParseError::KeyValue`].
pub fn driver_option(text: &str) -> Result<(String, String), ParseError> {
    let (key, value) =
        split_pair(text, '=').ok_or_else(|| ParseError::KeyValue(text.to_owned()))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// A priority of the default route.
///
/// # Errors
/// [`ParseError::Integer`] and [`ParseError::Range`].
pub fn priority(text: &str) -> Result<i64, ParseError> {
    number::integer(text, i64::MIN, i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let plain = endpoint("Mine").unwrap();
        assert_eq!(plain.network, "Mine");
        assert_eq!(plain.endpoint, EndpointConfig::default());
        let long = endpoint(
            "NAME=Mine,alias=a,alias=B,ip=10.1.2.3,mac-address=02-42-AC-11-00-02,gw-priority=-3,\
             driver-opt=a=b=c,\"driver-opt=d=e,f\"",
        )
        .unwrap();
        assert_eq!(long.network, "Mine");
        let expected = EndpointConfig {
            aliases: vec!["a".to_owned(), "B".to_owned()],
            ipv4: Some(Ipv4Addr::new(10, 1, 2, 3)),
            mac: Some("02:42:ac:11:00:02".to_owned()),
            links: Vec::new(),
            driver_options: [("a", "b=c"), ("d", "e,f")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            gw_priority: -3,
        };
        assert_eq!(long.endpoint, expected);
    }

    #[test]
    fn refused_endpoints() {
        let field = |text: &str| ParseError::KeyValue(text.to_owned());
        for (text, error) in [
            ("", ParseError::Empty),
            ("alias=a", ParseError::NoNetwork),
            ("name=", ParseError::NoNetwork),
            ("name=a,", field("")),
            ("name=a,alias", field("alias")),
            ("name=a,=b", field("=b")),
            ("name=a,driver-opt=b", field("b")),
            ("name=a,driver-opt==b", field("=b")),
            ("name=a,ip=b", ParseError::Address("b".to_owned())),
            ("name=a,ip=::1", ParseError::NotIpv4("::1".to_owned())),
            ("name=a,ip6=::1", ParseError::NoIpv6("ip6".to_owned())),
            (
                "name=a,link-local-ip=169.254.1.1",
                ParseError::NoIpv6("link-local-ip".to_owned()),
            ),
            ("name=a,mac-address=b", ParseError::Mac("b".to_owned())),
            ("name=a,gw-priority=b", ParseError::Integer("b".to_owned())),
        ] {
            assert_eq!(endpoint(text), Err(error), "{text}");
        }
        assert!(matches!(
            endpoint("name=a,color=b"),
            Err(ParseError::Key { .. })
        ));
        assert!(matches!(
            endpoint("name=a,alias="),
            Err(ParseError::Value { .. })
        ));
    }

    #[test]
    fn ethernet_addresses() {
        assert_eq!(mac("02:42:AC:11:00:02").unwrap(), "02:42:ac:11:00:02");
        assert_eq!(mac("02-42-ac-11-00-02").unwrap(), "02:42:ac:11:00:02");
        for text in [
            "",
            "02",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "02:42:ac:11:00:0g",
            "02:42:ac:11:00:+2",
            "02:42-ac:11:00:02",
            "0242.ac11.0002",
            // A group's address, the broadcast, and no address.
            "03:42:ac:11:00:02",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(mac(text), Err(ParseError::Mac(text.to_owned())), "{text}");
        }
    }
}
