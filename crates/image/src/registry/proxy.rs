//! Which proxy, if any, stands between this host and an origin.

use std::net::IpAddr;

use super::origin::Origin;

/// The proxies of an environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, each also
/// in lower case, which wins).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    except: Vec<Exception>,
}

/// The URL of a proxy may hold a password.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Proxies")
            .field("except", &self.except)
            .finish_non_exhaustive()
    }
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    Network(IpAddr, u8),
    /// A name and everything below it; only what is below it if it was written with a dot.
    Name {
        name: String,
        below_only: bool,
        port: Option<u16>,
    },
    Address(IpAddr, Option<u16>),
}

impl Proxies {
    /// No proxies at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// The proxies of this process's environment.
    pub fn of_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`Proxies::of_environment`]; `variable` returns an environment variable.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            [name.to_ascii_lowercase(), name.to_owned()]
                .iter()
                .find_map(|name| variable(name).filter(|value| !value.trim().is_empty()))
        };
        let all = either("ALL_PROXY");
        Self {
            http: either("HTTP_PROXY").or_else(|| all.clone()),
            https: either("HTTPS_PROXY").or(all),
            except: either("NO_PROXY")
                .unwrap_or_default()
                .split([',', ' '])
                .filter_map(|entry| Exception::parse(entry.trim()))
                .collect(),
        }
    }

    /// The URL of the proxy for `origin`. This host is never reached through a proxy.
    pub(super) fn of(&self, origin: &Origin) -> Option<&str> {
        let proxy = if origin.secure {
            &self.https
        } else {
            &self.http
        };
        let proxy = proxy.as_deref()?;
        if origin.is_loopback() || self.except.iter().any(|entry| entry.covers(origin)) {
            return None;
        }
        Some(proxy)
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::Everything);
        }
        if let Some((address, length)) = entry.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let length: u8 = length.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            return (length <= longest).then_some(Self::Network(address, length));
        }
        let unbracketed = entry.trim_matches(['[', ']']);
        if let Ok(address) = unbracketed.parse() {
            return Some(Self::Address(address, None));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if let Ok(address) = name.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, port));
        }
        let name = name.strip_prefix('*').unwrap_or(name).to_ascii_lowercase();
        let below_only = name.starts_with('.');
        let name = name.trim_matches('.').to_owned();
        (!name.is_empty()).then_some(Self::Name {
            name,
            below_only,
            port,
        })
    }

    fn covers(&self, origin: &Origin) -> bool {
        let port_fits = |port: &Option<u16>| port.is_none_or(|port| port == origin.port);
        match self {
            Self::Everything => true,
            Self::Network(network, length) => origin
                .address()
                .is_some_and(|address| is_within(address, *network, *length)),
            Self::Address(address, port) => origin.address() == Some(*address) && port_fits(port),
            Self::Name {
                name,
                below_only,
                port,
            } => {
                let below = origin
                    .host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                (below || (!below_only && origin.host == *name)) && port_fits(port)
            }
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let masked = |bits: u128, width: u32| {
        bits.checked_shr(width - u32::from(length))
            .unwrap_or_default()
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            masked(address.to_bits().into(), 32) == masked(network.to_bits().into(), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            masked(address.to_bits(), 128) == masked(network.to_bits(), 128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::origin::Url;

    fn proxies(list: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| {
            list.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn of(proxies: &Proxies, url: &str) -> Option<String> {
        proxies
            .of(&Url::parse(url).unwrap().origin)
            .map(str::to_owned)
    }

    #[test]
    fn by_scheme_and_spelling() {
        let both = proxies(&[
            ("HTTP_PROXY", "http://p1"),
            ("https_proxy", "http://p2"),
            ("HTTPS_PROXY", "http://p3"),
        ]);
        assert_eq!(of(&both, "http://a.tld/").as_deref(), Some("http://p1"));
        assert_eq!(of(&both, "https://a.tld/").as_deref(), Some("http://p2"));
        for local in ["http://localhost/", "https://127.0.0.9/", "https://[::1]/"] {
            assert_eq!(of(&both, local), None, "{local}");
        }
        let all = proxies(&[("ALL_PROXY", "http://p"), ("HTTP_PROXY", " ")]);
        assert_eq!(of(&all, "http://a.tld/").as_deref(), Some("http://p"));
        assert_eq!(of(&Proxies::none(), "https://a.tld/"), None);
        let secret = proxies(&[("HTTPS_PROXY", "http://user:hunter2@p")]);
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn exceptions() {
        let table = [
            ("a.tld", "https://a.tld/", true),
            ("a.tld", "https://x.a.tld/", true),
            ("a.tld", "https://xa.tld/", false),
            (".a.tld", "https://a.tld/", false),
            (".a.tld", "https://x.a.tld/", true),
            ("*.a.tld", "https://x.a.tld/", true),
            ("A.TLD", "https://a.tld/", true),
            ("a.tld:5000", "https://a.tld/", false),
            ("a.tld:5000", "https://a.tld:5000/", true),
            ("10.0.0.0/8", "https://10.200.3.4:5000/", true),
            ("10.0.0.0/8", "https://11.0.0.1/", false),
            ("10.0.0.0/33", "https://10.0.0.1/", false),
            ("0.0.0.0/0", "https://11.0.0.1/", true),
            ("fd00::/8", "https://[fd12::1]/", true),
            ("fd00::/8", "https://[fe00::1]/", false),
            ("192.0.2.1", "https://192.0.2.1:8/", true),
            ("192.0.2.1:9", "https://192.0.2.1:8/", false),
            ("[2001:db8::1]:9", "https://[2001:db8::1]:9/", true),
            ("2001:db8::1", "https://[2001:db8::1]/", true),
            ("x, *", "https://anything/", true),
            ("", "https://anything/", false),
            (" , ,", "https://anything/", false),
        ];
        for (except, url, expected) in table {
            for name in ["NO_PROXY", "no_proxy"] {
                let found = proxies(&[("ALL_PROXY", "http://p"), (name, except)]);
                assert_eq!(of(&found, url).is_none(), expected, "{except} {url}");
            }
        }
    }
}
