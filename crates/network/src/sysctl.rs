//! Kernel settings below `/proc/sys/net`, addressed from a descriptor of that directory, because a
//! container's birth process has its procfs at no path that it could name.
//!
//! The directory shows the settings of the network namespace of the thread that uses it.

use crate::link::is_valid_name;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, read, write};

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The directory `/proc/sys/net` cannot be opened.
    #[error("cannot open /proc/sys/net")]
    Open(#[source] Errno),
    /// The setting cannot be read.
    #[error("cannot read /proc/sys/net/{path}")]
    Read {
        /// The path below `/proc/sys/net`.
        path: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// The setting cannot be written.
    #[error("cannot write {value:?} to /proc/sys/net/{path}")]
    Write {
        /// The path below `/proc/sys/net`.
        path: String,
        /// The value.
        value: &'static str,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// No link can have this name.
    #[error("{0:?} is not a link name")]
    LinkName(String),
}

/// Opens `/proc/sys/net` of the host.
///
/// # Errors
/// [`SysctlError::Open`].
pub fn open() -> Result<OwnedFd, SysctlError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/proc/sys/net", flags, Mode::empty()).map_err(SysctlError::Open)
}

/// Turns IPv4 forwarding on; returns whether it was off.
///
/// # Errors
/// [`SysctlError::Read`], [`SysctlError::Write`].
pub fn enable_forwarding(net: BorrowedFd<'_>) -> Result<bool, SysctlError> {
    // Writing resets other settings of all links even if the value stays, so look first.
    let off = get(net, "ipv4/ip_forward")? != b'1';
    if off {
        set(net, "ipv4/ip_forward", "1")?;
    }
    Ok(off)
}

/// Whether IPv4 frames that a bridge forwards pass the firewall's rules (`br_netfilter`, which other
/// container engines load), and are translated inside the bridge.
///
/// # Errors
/// [`SysctlError::Read`].
pub fn bridge_netfilter(net: BorrowedFd<'_>) -> Result<bool, SysctlError> {
    match get(net, "bridge/bridge-nf-call-iptables") {
        Ok(value) => Ok(value == b'1'),
        Err(SysctlError::Read {
            source: Errno::NOENT,
            ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets packets with 127.0.0.0/8 addresses be routed to and from a bridge, so that the host's own
/// connections to 127.0.0.1 can be passed to a container.
///
/// Only for a bridge that [`crate::firewall::ensure`] has covered: without its first rules a
/// container reaches what listens on the host's 127.0.0.1 (CVE-2020-8558).
///
/// # Errors
/// [`SysctlError::LinkName`], [`SysctlError::Write`].
pub fn route_localnet(net: BorrowedFd<'_>, bridge: &str) -> Result<(), SysctlError> {
    set_link(net, "ipv4", bridge, "route_localnet", "1")
}

/// Whether [`route_localnet`] was done for a bridge; false if there is no such link.
///
/// # Errors
/// [`SysctlError::LinkName`], [`SysctlError::Read`].
pub fn routes_localnet(net: BorrowedFd<'_>, bridge: &str) -> Result<bool, SysctlError> {
    if !is_valid_name(bridge) {
        return Err(SysctlError::LinkName(bridge.to_owned()));
    }
    match get(net, &format!("ipv4/conf/{bridge}/route_localnet")) {
        Ok(value) => Ok(value == b'1'),
        Err(SysctlError::Read {
            source: Errno::NOENT,
            ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Turns IPv6 off on all present and future links of the thread's namespace, `lo` included. To be
/// called before any of them goes up, so that there never is an address. A kernel without IPv6
/// counts as success.
///
/// # Errors
/// [`SysctlError::Write`].
pub fn disable_ipv6(net: BorrowedFd<'_>) -> Result<(), SysctlError> {
    for link in ["default", "all"] {
        disable_ipv6_on(net, link)?;
    }
    Ok(())
}

/// Turns IPv6 off on one link: no addresses, no router advertisements. A kernel without IPv6
/// counts as success.
///
/// # Errors
/// [`SysctlError::LinkName`], [`SysctlError::Write`].
pub fn disable_ipv6_on(net: BorrowedFd<'_>, link: &str) -> Result<(), SysctlError> {
    // Advertisements too: they would count as soon as somebody turns IPv6 on again.
    for (setting, value) in [("disable_ipv6", "1"), ("accept_ra", "0")] {
        match set_link(net, "ipv6", link, setting, value) {
            Err(SysctlError::Write {
                source: Errno::NOENT,
                ..
            }) => {}
            other => other?,
        }
    }
    Ok(())
}

fn set_link(
    net: BorrowedFd<'_>,
    family: &str,
    link: &str,
    setting: &str,
    value: &'static str,
) -> Result<(), SysctlError> {
    if !is_valid_name(link) {
        return Err(SysctlError::LinkName(link.to_owned()));
    }
    set(net, &format!("{family}/conf/{link}/{setting}"), value)
}

fn get(net: BorrowedFd<'_>, path: &str) -> Result<u8, SysctlError> {
    let read_first = || {
        let file = openat(net, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut value = [0];
        read(&file, &mut value)?;
        Ok(value[0])
    };
    read_first().map_err(|source| SysctlError::Read {
        path: path.to_owned(),
        source,
    })
}

fn set(net: BorrowedFd<'_>, path: &str, value: &'static str) -> Result<(), SysctlError> {
    let write_all = || {
        let file = openat(net, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        write(&file, value.as_bytes()).map(|_| ())
    };
    write_all().map_err(|source| SysctlError::Write {
        path: path.to_owned(),
        value,
        source,
    })
}
