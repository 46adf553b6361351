//! Extra hosts and name servers.

use std::net::IpAddr;

use super::ParseError;

/// One `--add-host`: `NAME:ADDRESS` or `NAME=ADDRESS`, an IPv6 address with or without
/// brackets. `host-gateway` is kept as it stands: only the engine knows the address.
///
/// # Errors
/// [`ParseError::Host`] and [`ParseError::Address`].
pub fn extra_host(text: &str) -> Result<(String, String), ParseError> {
    // '=' goes first: an IPv6 address has colons of its own.
    let separator = if text.contains('=') { '=' } else { ':' };
    let (name, given) =
        super::split_pair(text, separator).ok_or_else(|| ParseError::Host(text.to_owned()))?;
    if given == "host-gateway" {
        return Ok((name.to_owned(), given.to_owned()));
    }
    let address = given
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(given);
    Ok((name.to_owned(), self::address(address)?.to_string()))
}

/// An IP address.
///
/// # Errors
/// [`ParseError::Address`].
pub fn address(text: &str) -> Result<IpAddr, ParseError> {
    text.parse()
        .map_err(|_| ParseError::Address(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts() {
        for (text, name, address) in [
            ("a:1.2.3.4", "a", "1.2.3.4"),
            ("a=1.2.3.4", "a", "1.2.3.4"),
            ("a:::1", "a", "::1"),
            ("a:[::1]", "a", "::1"),
            ("a=2001:db8::1", "a", "2001:db8::1"),
            ("a:host-gateway", "a", "host-gateway"),
        ] {
            assert_eq!(
                extra_host(text).unwrap(),
                (name.to_owned(), address.to_owned()),
                "{text}"
            );
        }
        for text in ["foo", ":1.2.3.4", ""] {
            assert!(
                matches!(extra_host(text), Err(ParseError::Host(_))),
                "{text}"
            );
        }
        for text in ["a:", "foo:bar", "a=b:1.2.3.4", "a:1.2.3.4.5"] {
            assert!(
                matches!(extra_host(text), Err(ParseError::Address(_))),
                "{text}"
            );
        }
    }
}
