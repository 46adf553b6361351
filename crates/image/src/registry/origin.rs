//! Where a request goes: URLs, origins, redirects, and who may see credentials.
//!
//! Everything here is a pure function; the rules of CVE-2020-15157, CVE-2026-50151 and
//! CVE-2026-48978 are decided here and nowhere else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::http::Uri;

use super::RegistryError;

/// Scheme, host and port: what credentials are bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) secure: bool,
    /// Lower case, without a trailing dot; IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// An `http` or `https` URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query, with the leading slash.
    pub(crate) path: String,
}

impl Origin {
    /// The origin of `host[:port]` as it stands in a reference.
    pub(crate) fn of_registry(registry: &str, secure: bool) -> Option<Self> {
        if registry.contains(['/', '?', '#']) {
            return None;
        }
        let scheme = if secure { "https" } else { "http" };
        Url::parse(&format!("{scheme}://{registry}/")).map(|url| url.origin)
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        Url {
            origin: self.clone(),
            path: path.to_owned(),
        }
    }

    /// `host:port`, with the port left out if it is the scheme's.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == default_port(self.secure) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `localhost` and the loopback addresses, by name only: what a name server says must not
    /// make a registry trusted without TLS.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.address().is_some_and(is_loopback)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}://{}",
            if self.secure { "https" } else { "http" },
            self.authority()
        )
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.origin, self.path)
    }
}

impl Url {
    /// Parses an absolute URL; `None` for other schemes, user information or a malformed one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next()?;
        let uri: Uri = text.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        // `port_u16` has no word for a port that is not a number.
        let has_port = authority
            .as_str()
            .rsplit(']')
            .next()
            .is_some_and(|rest| rest.contains(':'));
        let port = match authority.port_u16() {
            Some(port) => port,
            None if has_port => return None,
            None => default_port(secure),
        };
        let host = authority.host().to_ascii_lowercase();
        let host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')?
                .parse::<Ipv6Addr>()
                .ok()?
                .to_string(),
            None => host.strip_suffix('.').unwrap_or(&host).to_owned(),
        };
        let host_is_plain = host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        // One dot ends a name in the DNS; with two it would be another one each time it is read.
        if host.is_empty() || !host_is_plain || host.ends_with('.') {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Some(Self {
            origin: Origin { secure, host, port },
            path,
        })
    }

    /// The target of a `Location` relative to this URL (RFC 3986, section 5.2, without dot
    /// segments, which no registry needs).
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let location = location.trim();
        if location.contains("://") && !location.starts_with(['/', '?']) {
            return Self::parse(location);
        }
        let scheme = if self.origin.secure { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let path = self.path.split('?').next().unwrap_or("/");
        let joined = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            format!(
                "{}/{location}",
                path.rsplit_once('/').map_or("", |(directory, _)| directory)
            )
        };
        Self::parse(&format!("{}{joined}", self.origin))
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// What an address is reachable from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    /// This host, its link, a cloud's metadata service, or no host at all.
    Own,
    /// Private networks.
    Private,
    /// The Internet.
    Public,
}

/// The reach of an address (IANA special-purpose registries).
pub(crate) fn reach(address: IpAddr) -> Reach {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            if address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || a == 0
                || a >= 240
                // Metadata service of one large cloud, inside shared address space.
                || address == Ipv4Addr::new(100, 100, 100, 200)
            {
                Reach::Own
            } else if address.is_private()
                || (a == 100 && b & 0xc0 == 64)
                || (a == 198 && b & 0xfe == 18)
            {
                Reach::Private
            } else {
                Reach::Public
            }
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            if address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                // Metadata service of another large cloud.
                || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
            {
                Reach::Own
            } else if address.is_unique_local() || first & 0xffc0 == 0xfec0 {
                Reach::Private
            } else {
                Reach::Public
            }
        }
    }
}

/// The least reach that a host named by somebody else may have: a registry must not make this
/// host talk to its own metadata service or, for tokens, to a private network that the registry
/// is not part of (CVE-2026-33990, CVE-2026-48978).
pub(crate) fn least_reach_of_redirect(registry: Reach) -> Reach {
    if registry == Reach::Own {
        Reach::Own
    } else {
        Reach::Private
    }
}

/// As [`least_reach_of_redirect`], for a token endpoint.
pub(crate) fn least_reach_of_realm(registry: Reach) -> Reach {
    registry
}

/// Checks a redirect: never from TLS to clear text, and a literal address must be reachable from
/// where the registry is.
pub(crate) fn check_redirect(from: &Url, to: &Url, registry: Reach) -> Result<(), RegistryError> {
    let refuse = |reason| {
        Err(RegistryError::RedirectRefused {
            from: from.origin.to_string(),
            to: to.origin.to_string(),
            reason,
        })
    };
    if from.origin.secure && !to.origin.secure {
        return refuse("it leaves TLS");
    }
    if !to.origin.secure
        && !to.origin.is_loopback()
        && from.origin != to.origin
        && from.origin.is_loopback()
    {
        return refuse("it leaves this host in clear text");
    }
    if let Some(address) = to.origin.address()
        && from.origin.host != to.origin.host
        && reach(address) < least_reach_of_redirect(registry)
    {
        return refuse("its address is local to this host");
    }
    Ok(())
}

/// Checks the realm of a bearer challenge, and whether credentials may be sent there.
pub(crate) fn check_realm(
    registry: &Origin,
    registry_name: &str,
    realm: &Url,
    registry_reach: Reach,
    has_credentials: bool,
) -> Result<(), RegistryError> {
    let refuse = |reason| {
        Err(RegistryError::RealmRefused {
            registry: registry_name.to_owned(),
            realm: realm.origin.to_string(),
            reason,
        })
    };
    let same_host = realm.origin.host == registry.host;
    if !realm.origin.secure {
        let both_loopback = registry.is_loopback() && realm.origin.is_loopback();
        if registry.secure || !(same_host || both_loopback) {
            return refuse("it is not https");
        }
    }
    if !same_host
        && let Some(address) = realm.origin.address()
        && reach(address) < least_reach_of_realm(registry_reach)
    {
        return refuse("its address is not public, as the registry's is");
    }
    if !has_credentials || same_host || (registry.is_loopback() && realm.origin.is_loopback()) {
        return Ok(());
    }
    if registry_name == crate::reference::DEFAULT_REGISTRY && realm.origin.host == "auth.docker.io"
    {
        return Ok(());
    }
    match (
        registrable_domain(&registry.host),
        registrable_domain(&realm.origin.host),
    ) {
        (Some(ours), Some(theirs)) if ours == theirs && realm.origin.secure => Ok(()),
        _ => refuse("it belongs to another domain, and credentials are not sent there"),
    }
}

/// Domains under which strangers get names, longer than one label below a two-letter domain.
/// Without the public suffix list this errs on the side of refusing.
const SHARED: [&str; 26] = [
    "amazonaws.com",
    "appspot.com",
    "azurecontainer.io",
    "azurecontainerapps.io",
    "azureedge.net",
    "azurewebsites.net",
    "blob.core.windows.net",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cloudfront.net",
    "cloudfunctions.net",
    "ddns.net",
    "duckdns.org",
    "dyndns.org",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "googleusercontent.com",
    "herokuapp.com",
    "netlify.app",
    "nip.io",
    "on.aws",
    "onrender.com",
    "run.app",
    "sslip.io",
    "workers.dev",
];

/// The part of a host name that one owner has: the last two labels, or three below domains that
/// are shared (`co.uk`, short names below country domains, hosting platforms).
pub(crate) fn registrable_domain(host: &str) -> Option<&str> {
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let suffix_of = |labels: usize| {
        let mut dots = host.rmatch_indices('.').map(|(at, _)| at);
        match dots.nth(labels - 1) {
            Some(at) => Some(&host[at + 1..]),
            None => (host.split('.').count() == labels).then_some(host),
        }
    };
    let two = suffix_of(2)?;
    if let Some(shared) = SHARED.iter().find(|shared| {
        host == **shared
            || host
                .strip_suffix(**shared)
                .is_some_and(|rest| rest.ends_with('.'))
    }) {
        return suffix_of(shared.split('.').count() + 1);
    }
    let (second, top) = two.split_once('.')?;
    if top.len() == 2 && second.len() <= 3 {
        suffix_of(3)
    } else {
        Some(two)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn origins_are_normalised() {
        for (left, right) in [
            ("https://Host.TLD/", "https://host.tld:443/x"),
            ("https://host.tld./", "https://host.tld/"),
            ("http://[::1]/", "http://[0:0:0:0:0:0:0:1]:80/"),
        ] {
            assert_eq!(url(left).origin, url(right).origin, "{left}");
        }
        for (left, right) in [
            ("https://host.tld/", "http://host.tld:443/"),
            ("https://host.tld/", "https://host.tld:444/"),
            ("https://host.tld/", "https://host.tld.evil/"),
        ] {
            assert_ne!(url(left).origin, url(right).origin, "{left}");
        }
        assert_eq!(
            url("https://[::1]:5000/a?b=c#d").to_string(),
            "https://[::1]:5000/a?b=c"
        );
        for text in [
            "ftp://host/",
            "file:///etc/passwd",
            "host.tld/x",
            "/x",
            "https://",
            "https://user@host/",
            "https://user:secret@host/",
            "https://host:port/",
            "https://host:99999/",
            "https://[::1/",
            "https://ho st/",
            "",
            "https://host:/",
        ] {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }

    #[test]
    fn locations_join() {
        let base = url("https://host.tld:5000/v2/a/blobs/x?y=1");
        for (location, expected) in [
            ("https://other.tld/z", "https://other.tld/z"),
            ("//other.tld/z", "https://other.tld/z"),
            ("/z?u=https://a/b", "https://host.tld:5000/z?u=https://a/b"),
            ("z", "https://host.tld:5000/v2/a/blobs/z"),
            ("?q", "https://host.tld:5000/v2/a/blobs/x?q"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), expected);
        }
        assert_eq!(base.join("gopher://x/"), None);
        assert_eq!(base.join("file:///etc/passwd"), None);
    }

    /// CVE-2026-50151, CVE-2026-33990: redirects do not leave TLS and do not reach this host.
    #[test]
    fn redirects_are_checked() {
        let from = url("https://registry.tld/v2/");
        let refused = |to: &str, reach| check_redirect(&from, &url(to), reach).is_err();
        assert!(!refused("https://cdn.tld/x", Reach::Public));
        assert!(!refused("https://10.0.0.1/x", Reach::Public));
        for to in [
            "http://registry.tld/x",
            "http://cdn.tld/x",
            "https://169.254.169.254/latest",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[fe80::1]/",
            "https://0.0.0.0/",
            "https://[fd00:ec2::254]/",
            "https://100.100.100.200/",
        ] {
            assert!(refused(to, Reach::Public), "{to}");
            assert!(refused(to, Reach::Private), "{to}");
        }
        let local = url("http://127.0.0.1:5000/v2/");
        assert!(check_redirect(&local, &url("http://127.0.0.1:6000/"), Reach::Own).is_ok());
        assert!(check_redirect(&local, &url("http://cdn.tld/"), Reach::Own).is_err());
        assert!(check_redirect(&local, &url("https://cdn.tld/"), Reach::Own).is_ok());
    }

    /// CVE-2026-48978, CVE-2026-33540, CVE-2026-24845: a registry cannot choose who gets the
    /// credentials, nor make this host ask inside its network.
    #[test]
    fn realms_are_checked() {
        let check = |registry: &str, secure: bool, realm: &str, credentials: bool| {
            let origin = Origin::of_registry(registry, secure).unwrap();
            let reach = if origin.is_loopback() {
                Reach::Own
            } else {
                Reach::Public
            };
            check_realm(&origin, registry, &url(realm), reach, credentials)
        };
        for (registry, secure, realm) in [
            ("registry.forge.com", true, "https://forge.com/jwt/auth"),
            ("images.io", true, "https://images.io/token"),
            ("registry.host.co.uk", true, "https://auth.host.co.uk/token"),
            ("127.0.0.1:5000", false, "http://127.0.0.1:5001/token"),
            ("localhost:5000", false, "http://127.0.0.1:5001/token"),
            ("10.0.0.1:5000", false, "http://10.0.0.1:5001/token"),
        ] {
            assert!(
                check(registry, secure, realm, true).is_ok(),
                "{registry} {realm}"
            );
        }
        let hub = Origin::of_registry("registry-1.docker.io", true).unwrap();
        let realm = url("https://auth.docker.io/token");
        assert!(check_realm(&hub, "docker.io", &realm, Reach::Public, true).is_ok());
        for (registry, secure, realm) in [
            ("registry.tld", true, "http://registry.tld/token"),
            ("registry.tld", true, "http://evil.tld/token"),
            ("registry.tld", true, "https://evil.tld/token"),
            ("registry.tld", true, "https://registry.tld.evil.tld/token"),
            ("a.co.uk", true, "https://b.co.uk/token"),
            ("a.fly.dev", true, "https://b.fly.dev/token"),
            ("img.io", true, "https://evil.img.io/token"),
            ("10.0.0.1:5000", false, "http://10.0.0.2/token"),
            ("1.2.3.4", true, "https://5.2.3.4/token"),
        ] {
            let result = check(registry, secure, realm, true);
            assert!(
                matches!(result, Err(RegistryError::RealmRefused { .. })),
                "{registry} {realm}"
            );
        }
        assert!(
            check("registry.tld", true, "https://other.tld/token", false).is_ok(),
            "nothing to lose"
        );
        for realm in [
            "http://other.tld/token",
            "https://169.254.169.254/",
            "https://10.0.0.1/",
            "https://[::1]/",
        ] {
            assert!(
                check("registry.tld", true, realm, false).is_err(),
                "{realm}"
            );
        }
    }

    #[test]
    fn registrable_domains() {
        for (host, expected) in [
            ("registry.forge.com", Some("forge.com")),
            ("forge.com", Some("forge.com")),
            ("a.b.host.co.uk", Some("host.co.uk")),
            ("co.uk", None),
            ("x.github.io", Some("x.github.io")),
            ("a.x.github.io", Some("x.github.io")),
            ("github.io", None),
            ("localhost", None),
            ("10.1.2.3", None),
            ("a.blob.core.windows.net", Some("a.blob.core.windows.net")),
            ("images.io", Some("images.io")),
        ] {
            assert_eq!(registrable_domain(host), expected, "{host}");
        }
    }
}
