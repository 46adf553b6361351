//! Ids and names.

use crate::error::Error;

/// A fresh id: 64 hexadecimal digits.
#[must_use]
pub fn random_id() -> String {
    let mut bytes = [0u8; 32];
    fill(&mut bytes);
    let mut id = String::with_capacity(64);
    for byte in bytes {
        use std::fmt::Write as _;
        let _ = write!(id, "{byte:02x}");
    }
    // An id whose beginning is all digits could be taken for a number.
    if id.bytes().take(12).all(|byte| byte.is_ascii_digit()) {
        random_id()
    } else {
        id
    }
}

fn fill(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            // The kernel has had this call since 3.17.
            Err(_) => return,
        }
    }
}

const QUALITIES: [&str; 48] = [
    "able", "agile", "airy", "amber", "ample", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "candid", "clever", "cosy", "crisp", "daring", "deft", "eager", "early", "fair",
    "fleet", "frank", "gentle", "glad", "golden", "grand", "happy", "hardy", "jolly", "keen",
    "kind", "lively", "lucid", "mellow", "merry", "neat", "nimble", "noble", "patient", "plucky",
    "quick", "quiet", "ready", "sturdy", "sunny", "swift", "tidy", "witty",
];

const THINGS: [&str; 48] = [
    "anchor",
    "arch",
    "barge",
    "beacon",
    "bridge",
    "buoy",
    "cable",
    "canal",
    "cargo",
    "chain",
    "coast",
    "compass",
    "crane",
    "crate",
    "davit",
    "derrick",
    "dock",
    "ferry",
    "freighter",
    "gangway",
    "girder",
    "harbour",
    "hawser",
    "hoist",
    "hull",
    "jetty",
    "keel",
    "lantern",
    "ledger",
    "lever",
    "lighter",
    "mast",
    "mooring",
    "pallet",
    "pier",
    "pilot",
    "pulley",
    "quay",
    "rigging",
    "rudder",
    "sail",
    "sextant",
    "slipway",
    "tackle",
    "tide",
    "trolley",
    "tug",
    "winch",
];

/// A name made up for a container; later attempts get a number.
#[must_use]
pub fn random_name(attempt: u32) -> String {
    let mut bytes = [0u8; 4];
    fill(&mut bytes);
    let quality = QUALITIES[usize::from(bytes[0]) % QUALITIES.len()];
    let thing = THINGS[usize::from(bytes[1]) % THINGS.len()];
    if attempt == 0 {
        format!("{quality}_{thing}")
    } else {
        format!(
            "{quality}_{thing}{}",
            u16::from_le_bytes([bytes[2], bytes[3]])
        )
    }
}

/// Checks the name of an object (Docker's grammar).
///
/// # Errors
/// [`Error::InvalidName`].
pub fn check(kind: &'static str, name: &str) -> Result<(), Error> {
    let mut bytes = name.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    // Networks may have names of one character, as in Docker.
    let rest = (kind == "network" || bytes.clone().count() >= 1)
        && name.len() <= 255
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest {
        Ok(())
    } else {
        Err(Error::InvalidName {
            kind,
            name: name.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["ab", "a.b-c_d", "0x", &"a".repeat(255)] {
            assert!(check("container", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "-a",
            ".a",
            "a/b",
            "..",
            "a b",
            "a\n",
            "é1",
            &"a".repeat(256),
        ] {
            assert!(check("container", bad).is_err(), "{bad:?}");
            assert_eq!(check("network", bad).is_ok(), bad == "a", "{bad:?}");
        }
    }

    #[test]
    fn ids_are_long_and_differ() {
        let (one, other) = (random_id(), random_id());
        assert_eq!(one.len(), 64);
        assert_ne!(one, other);
        assert!(check("container", &random_name(1)).is_ok());
    }
}
