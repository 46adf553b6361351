//! Capability sets: names, numbers, and what `--cap-add` and `--cap-drop` come to.

use std::fmt;
use std::io;

use rustix::fs::{Mode, OFlags};

/// Names of the capabilities, each at its number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// One capability, by its number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Capability(u8);

impl Capability {
    /// Bypass read and search checks; open files by handle.
    pub const DAC_READ_SEARCH: Capability = Capability(2);
    /// Configure networks.
    pub const NET_ADMIN: Capability = Capability(12);
    /// Load and unload modules.
    pub const SYS_MODULE: Capability = Capability(16);
    /// Raw input and output.
    pub const SYS_RAWIO: Capability = Capability(17);
    /// `chroot`.
    pub const SYS_CHROOT: Capability = Capability(18);
    /// Trace any process.
    pub const SYS_PTRACE: Capability = Capability(19);
    /// Process accounting.
    pub const SYS_PACCT: Capability = Capability(20);
    /// Administration in general.
    pub const SYS_ADMIN: Capability = Capability(21);
    /// `reboot`.
    pub const SYS_BOOT: Capability = Capability(22);
    /// Priorities and memory policies.
    pub const SYS_NICE: Capability = Capability(23);
    /// Set clocks.
    pub const SYS_TIME: Capability = Capability(25);
    /// `vhangup` and terminals.
    pub const SYS_TTY_CONFIG: Capability = Capability(26);
    /// Read and clear the kernel's log.
    pub const SYSLOG: Capability = Capability(34);
    /// Performance counters.
    pub const PERFMON: Capability = Capability(38);
    /// Privileged operations of `bpf`.
    pub const BPF: Capability = Capability(39);

    /// The capability of a name: `NET_ADMIN` or `CAP_NET_ADMIN`, in either case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Capability> {
        let bare = match name.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &name[4..],
            _ => name,
        };
        let number = NAMES
            .iter()
            .position(|known| known[4..].eq_ignore_ascii_case(bare))?;
        u8::try_from(number).ok().map(Capability)
    }

    /// Number, as in the kernel's headers.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Name, as in `config.json`: `CAP_NET_ADMIN`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

/// A name that is no capability, or one that this kernel lacks.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum CapabilityError {
    /// Names that no kernel knows; all of them, as they were given.
    #[error("unknown capability: {}", .names.join(", "))]
    Unknown {
        /// The names.
        names: Vec<String>,
    },
    /// Names that are newer than the running kernel.
    #[error("capability not supported by this kernel: {}", .names.join(", "))]
    Unsupported {
        /// The names.
        names: Vec<String>,
    },
}

/// A set of capabilities: bit n is capability n.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: CapabilitySet = CapabilitySet(0);

    /// Every capability that Gantry knows, whatever the kernel.
    pub const KNOWN: CapabilitySet = CapabilitySet((1 << NAMES.len()) - 1);

    /// The fourteen that a container has unless asked otherwise: `CHOWN`,
    /// `DAC_OVERRIDE`, `FOWNER`, `FSETID`, `KILL`, `SETGID`, `SETUID`, `SETPCAP`,
    /// `NET_BIND_SERVICE`, `NET_RAW`, `SYS_CHROOT`, `MKNOD`, `AUDIT_WRITE`, `SETFCAP`.
    pub const DEFAULT: CapabilitySet = CapabilitySet(
        0b1_1111_1011 // 0 to 8 without DAC_READ_SEARCH
            | 1 << 10
            | 1 << 13
            | 1 << 18
            | 1 << 27
            | 1 << 29
            | 1 << 31,
    );

    /// Reads names as `config.json` and the command line have them; `ALL` is [`Self::KNOWN`].
    ///
    /// # Errors
    /// [`CapabilityError::Unknown`] with every name that is none.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<CapabilitySet, CapabilityError> {
        let (set, unknown) = CapabilitySet::known_of(names);
        if unknown.is_empty() {
            Ok(set)
        } else {
            Err(CapabilityError::Unknown { names: unknown })
        }
    }

    /// As [`Self::from_names`], with the names that are none beside the set.
    #[must_use]
    pub fn known_of<S: AsRef<str>>(names: &[S]) -> (CapabilitySet, Vec<String>) {
        let mut set = CapabilitySet::EMPTY;
        let mut unknown = Vec::new();
        for name in names {
            let name = name.as_ref();
            if name.eq_ignore_ascii_case("ALL") {
                set = CapabilitySet::KNOWN;
            } else if let Some(capability) = Capability::from_name(name) {
                set.insert(capability);
            } else {
                unknown.push(name.to_owned());
            }
        }
        (set, unknown)
    }

    /// Every known capability up to the number `last`, which is
    /// `/proc/sys/kernel/cap_last_cap`.
    #[must_use]
    pub fn up_to(last: u8) -> CapabilitySet {
        let all = u64::MAX >> (63 - u32::from(last.min(63)));
        CapabilitySet(all & CapabilitySet::KNOWN.0)
    }

    /// Every capability that both Gantry and the running kernel know.
    ///
    /// # Errors
    /// The failure to read `/proc/sys/kernel/cap_last_cap`.
    pub fn supported() -> io::Result<CapabilitySet> {
        last_capability().map(CapabilitySet::up_to)
    }

    /// What this process could give on: in a container or under a service manager that
    /// took some away, less than [`CapabilitySet::supported`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn available() -> io::Result<CapabilitySet> {
        let own = rustix::thread::capabilities(None)?;
        Ok(CapabilitySet(own.permitted.bits()).intersection(CapabilitySet::supported()?))
    }

    /// Whether `capability` is in the set.
    #[must_use]
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & 1 << capability.0 != 0
    }

    /// Adds `capability`.
    pub fn insert(&mut self, capability: Capability) {
        self.0 |= 1 << capability.0;
    }

    /// What is in either set.
    #[must_use]
    pub fn union(self, other: CapabilitySet) -> CapabilitySet {
        CapabilitySet(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(self, other: CapabilitySet) -> CapabilitySet {
        CapabilitySet(self.0 & other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn difference(self, other: CapabilitySet) -> CapabilitySet {
        CapabilitySet(self.0 & !other.0)
    }

    /// The members, in the order of their numbers. Bits beyond [`Self::KNOWN`] are left out.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..NAMES.len() as u8)
            .map(Capability)
            .filter(move |capability| self.contains(*capability))
    }

    /// Names as `config.json` has them, in the order of their numbers.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        self.iter()
            .map(|capability| capability.name().to_owned())
            .collect()
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_set()
            .entries(self.iter().map(Capability::name))
            .finish()
    }
}

/// Number of the last capability that the running kernel has.
///
/// # Errors
/// The failure to read `/proc/sys/kernel/cap_last_cap`, or `InvalidData`.
pub fn last_capability() -> io::Result<u8> {
    let file = rustix::fs::open(
        "/proc/sys/kernel/cap_last_cap",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut buffer = [0; 8];
    let length = rustix::io::read(&file, &mut buffer)?;
    std::str::from_utf8(&buffer[..length])
        .ok()
        .and_then(|text| text.trim_ascii().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The capabilities of a container, from `--cap-add`, `--cap-drop` and `--privileged`.
///
/// `supported` is what the kernel has ([`CapabilitySet::supported`]). A privileged
/// container has all of it whatever else was asked. Otherwise `--cap-add ALL` gives all
/// of it but what is dropped by name, `--cap-drop ALL` leaves only what is added by
/// name, and without either, the default set loses what is dropped and then gains what
/// is added: a name on both lists is added.
///
/// # Errors
/// [`CapabilityError`], for names on either list; not for a privileged container.
pub fn resolve<S: AsRef<str>>(
    add: &[S],
    drop: &[S],
    privileged: bool,
    supported: CapabilitySet,
) -> Result<CapabilitySet, CapabilityError> {
    if privileged {
        return Ok(supported);
    }
    let (added, add_all) = parse_list(add, supported)?;
    let (dropped, drop_all) = parse_list(drop, supported)?;
    Ok(if add_all {
        supported.difference(dropped)
    } else if drop_all {
        added
    } else {
        CapabilitySet::DEFAULT
            .intersection(supported)
            .difference(dropped)
            .union(added)
    })
}

/// The capabilities that a list names one by one, and whether `ALL` is on it.
fn parse_list<S: AsRef<str>>(
    names: &[S],
    supported: CapabilitySet,
) -> Result<(CapabilitySet, bool), CapabilityError> {
    let is_all = |name: &&str| name.eq_ignore_ascii_case("ALL");
    let all = names.iter().any(|name| is_all(&name.as_ref()));
    let named: Vec<&str> = names
        .iter()
        .map(AsRef::as_ref)
        .filter(|name| !is_all(name))
        .collect();
    let set = CapabilitySet::from_names(&named)?;
    let missing = set.difference(supported);
    if missing == CapabilitySet::EMPTY {
        Ok((set, all))
    } else {
        Err(CapabilityError::Unsupported {
            names: missing.names(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_form() {
        for name in [
            "NET_ADMIN",
            "CAP_NET_ADMIN",
            "net_admin",
            "cap_net_admin",
            "Cap_Net_Admin",
        ] {
            assert_eq!(
                Capability::from_name(name),
                Some(Capability::NET_ADMIN),
                "{name}"
            );
        }
        for name in [
            "",
            "CAP_",
            "NET",
            "NET_ADMIN ",
            "CAP_CAP_NET_ADMIN",
            "é_ADMIN",
            "cé_x",
        ] {
            assert_eq!(Capability::from_name(name), None, "{name}");
        }
        for (number, name) in NAMES.iter().enumerate() {
            let capability = Capability::from_name(name).unwrap();
            assert_eq!(usize::from(capability.number()), number);
            assert_eq!(capability.name(), *name);
        }
    }

    #[test]
    fn numbers_of_the_constants_match_their_names() {
        for (capability, name) in [
            (Capability::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
            (Capability::NET_ADMIN, "CAP_NET_ADMIN"),
            (Capability::SYS_MODULE, "CAP_SYS_MODULE"),
            (Capability::SYS_RAWIO, "CAP_SYS_RAWIO"),
            (Capability::SYS_CHROOT, "CAP_SYS_CHROOT"),
            (Capability::SYS_PTRACE, "CAP_SYS_PTRACE"),
            (Capability::SYS_PACCT, "CAP_SYS_PACCT"),
            (Capability::SYS_ADMIN, "CAP_SYS_ADMIN"),
            (Capability::SYS_BOOT, "CAP_SYS_BOOT"),
            (Capability::SYS_NICE, "CAP_SYS_NICE"),
            (Capability::SYS_TIME, "CAP_SYS_TIME"),
            (Capability::SYS_TTY_CONFIG, "CAP_SYS_TTY_CONFIG"),
            (Capability::SYSLOG, "CAP_SYSLOG"),
            (Capability::PERFMON, "CAP_PERFMON"),
            (Capability::BPF, "CAP_BPF"),
        ] {
            assert_eq!(capability.name(), name);
        }
    }

    #[test]
    fn the_default_set_is_the_known_fourteen() {
        let mut names = CapabilitySet::DEFAULT.names();
        names.sort();
        assert_eq!(
            names,
            [
                "CAP_AUDIT_WRITE",
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_MKNOD",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SETFCAP",
                "CAP_SETGID",
                "CAP_SETPCAP",
                "CAP_SETUID",
                "CAP_SYS_CHROOT",
            ]
        );
        // R35 ("Shocker"): files outside the container must not be reachable by handle.
        assert!(!CapabilitySet::DEFAULT.contains(Capability::DAC_READ_SEARCH));
    }

    #[test]
    fn every_unknown_name_is_listed() {
        let error = CapabilitySet::from_names(&["CHOWN", "nope", "KILL", "CAP_X"]).unwrap_err();
        assert_eq!(error.to_string(), "unknown capability: nope, CAP_X");
    }

    #[test]
    fn the_last_capability_bounds_the_set() {
        assert_eq!(CapabilitySet::up_to(0), CapabilitySet(1));
        assert_eq!(CapabilitySet::up_to(37).0, (1 << 38) - 1);
        assert_eq!(CapabilitySet::up_to(40), CapabilitySet::KNOWN);
        // A newer kernel than Gantry: bits without a name are not handed out.
        assert_eq!(CapabilitySet::up_to(45), CapabilitySet::KNOWN);
        assert_eq!(CapabilitySet::up_to(255), CapabilitySet::KNOWN);
        // Kernels from 5.15 on have them all.
        assert_eq!(CapabilitySet::supported().unwrap(), CapabilitySet::KNOWN);
    }

    #[test]
    fn additions_and_drops_resolve_as_dockers_do() {
        let all = CapabilitySet::KNOWN;
        let default = CapabilitySet::DEFAULT;
        let set = |names: &[&str]| CapabilitySet::from_names(names).unwrap();
        let kill = set(&["KILL"]);
        let admin = set(&["NET_ADMIN"]);
        let cases: &[(&[&str], &[&str], bool, CapabilitySet)] = &[
            (&[], &[], false, default),
            (&["net_admin"], &[], false, default.union(admin)),
            (&[], &["CAP_KILL"], false, default.difference(kill)),
            // On both lists: added.
            (&["KILL"], &["KILL"], false, default),
            (&["ALL"], &[], false, all),
            (&["all"], &["NET_ADMIN"], false, all.difference(admin)),
            (&["ALL"], &["ALL"], false, all),
            (&["ALL", "KILL"], &["KILL"], false, all.difference(kill)),
            (&[], &["ALL"], false, CapabilitySet::EMPTY),
            (&["KILL"], &["all"], false, kill),
            (&["KILL"], &["ALL", "KILL"], false, kill),
            (&[], &["ALL"], true, all),
            (&["nonsense"], &[], true, all),
        ];
        for (add, drop, privileged, expected) in cases {
            assert_eq!(
                resolve(add, drop, *privileged, all),
                Ok(*expected),
                "add {add:?} drop {drop:?} privileged {privileged}"
            );
        }
    }

    #[test]
    fn a_capability_that_the_kernel_lacks_is_refused_by_name() {
        let old = CapabilitySet::up_to(37);
        assert_eq!(
            resolve(&["BPF"], &[], false, old),
            Err(CapabilityError::Unsupported {
                names: vec!["CAP_BPF".into()]
            })
        );
        assert_eq!(resolve(&["ALL"], &[], false, old), Ok(old));
        assert_eq!(
            resolve(&[], &["bogus"], false, old),
            Err(CapabilityError::Unknown {
                names: vec!["bogus".into()]
            })
        );
    }
}
