//! Which devices the processes of a group may make and open.
//!
//! Everything is denied first (GHSA-g54h-m393-cpwq: a list that began by allowing left
//! containers with no rules all devices), then the rules apply in order, and the last
//! one that covers an access decides. Version 1 keeps a default and exceptions from it,
//! so rules are brought into that form; version 2 runs a program of ours on each access.

use std::os::fd::AsFd;

use gantry_sys::bpf;

use super::group::{Group, Member};
use super::{CgroupError, device_program, file};
use crate::spec;

pub(super) const MAKE: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MAKE | READ | WRITE;

/// Type of a device, by its number in a device program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Block = 1,
    Character = 2,
}

/// A rule on devices of one type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Kind,
    /// `None` means all.
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

impl Rule {
    /// Whether every device of `other` is one of this rule's.
    fn covers(&self, other: &Rule) -> bool {
        let includes = |all: Option<u32>, one: Option<u32>| all.is_none() || all == one;
        self.kind == other.kind
            && includes(self.major, other.major)
            && includes(self.minor, other.minor)
    }

    /// Whether some access to some device is in both rules.
    fn meets(&self, other: &Rule) -> bool {
        let shares =
            |one: Option<u32>, two: Option<u32>| one.is_none() || two.is_none() || one == two;
        self.kind == other.kind
            && shares(self.major, other.major)
            && shares(self.minor, other.minor)
            && self.access & other.access != 0
    }

    /// The rule as version 1 writes it, such as `c 1:3 rwm`.
    fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let mut line = format!(
            "{} {}:{} ",
            if self.kind == Kind::Block { 'b' } else { 'c' },
            number(self.major),
            number(self.minor)
        );
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')] {
            if self.access & bit != 0 {
                line.push(letter);
            }
        }
        line
    }
}

/// Rules of a configuration, checked and without what has no effect.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Policy {
    /// What is done where no rule says anything.
    pub(super) allow: bool,
    pub(super) rules: Vec<Rule>,
}

impl Policy {
    /// Reads the rules of a configuration.
    pub(super) fn new(rules: &[spec::DeviceRule]) -> Result<Policy, CgroupError> {
        let mut policy = Policy {
            allow: false,
            rules: Vec::with_capacity(rules.len()),
        };
        for rule in rules {
            let kinds: &[Kind] = match rule.kind.as_deref() {
                None | Some("" | "a") => &[Kind::Block, Kind::Character],
                Some("b") => &[Kind::Block],
                Some("c" | "u") => &[Kind::Character],
                Some(other) => return Err(invalid("type", other)),
            };
            let access = parse_access(rule.access.as_deref())?;
            let major = parse_number("major", rule.major)?;
            let minor = parse_number("minor", rule.minor)?;
            if kinds.len() == 2 && major.is_none() && minor.is_none() && access == ALL {
                // Nothing that came before matters any more.
                policy.allow = rule.allow;
                policy.rules.clear();
                continue;
            }
            for &kind in kinds {
                policy.add(Rule {
                    allow: rule.allow,
                    kind,
                    major,
                    minor,
                    access,
                });
            }
        }
        Ok(policy)
    }

    fn add(&mut self, rule: Rule) {
        let is_same = |known: &&mut Rule| known.covers(&rule) && rule.covers(known);
        if self.rules.iter().all(|known| known.allow == rule.allow)
            && rule.allow != self.allow
            && let Some(known) = self.rules.iter_mut().find(is_same)
        {
            // The kernel wants one rule that grants all that an access asks for.
            known.access |= rule.access;
        } else if rule.allow != self.allow || self.rules.iter().any(|known| known.meets(&rule)) {
            self.rules.push(rule);
        }
    }

    /// The rules as exceptions from the default, none of which contradicts another.
    ///
    /// A rule that takes part of an exception back cannot be had in version 1, unless the
    /// part is the whole of some accesses.
    pub(super) fn exceptions(&self) -> Result<Vec<Rule>, CgroupError> {
        let mut exceptions: Vec<Rule> = Vec::with_capacity(self.rules.len());
        for rule in &self.rules {
            if rule.allow != self.allow {
                exceptions.push(*rule);
                continue;
            }
            for exception in &mut exceptions {
                if rule.covers(exception) {
                    exception.access &= !rule.access;
                } else if rule.meets(exception) {
                    return Err(CgroupError::DeviceRuleOrder { rule: rule.line() });
                }
            }
            exceptions.retain(|exception| exception.access != 0);
        }
        Ok(exceptions)
    }
}

fn invalid(field: &'static str, value: &str) -> CgroupError {
    CgroupError::InvalidDeviceRule {
        field,
        value: value.to_owned(),
    }
}

pub(super) fn parse_access(access: Option<&str>) -> Result<u8, CgroupError> {
    let access = match access {
        None | Some("") => return Ok(ALL),
        Some(access) => access,
    };
    access.chars().try_fold(0, |bits, letter| match letter {
        'm' => Ok(bits | MAKE),
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        _ => Err(invalid("access", access)),
    })
}

fn parse_number(field: &'static str, number: Option<i64>) -> Result<Option<u32>, CgroupError> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(field, &number.to_string())),
        },
    }
}

/// The rules that the standard devices of a container need (runtime-spec, "Default
/// Devices"): making any node, using `null`, `zero`, `full`, `random`, `urandom`, `tty`,
/// `console`, `ptmx` and pseudo-terminals. Opening what was made is a matter of more rules.
#[must_use]
pub fn default_device_rules() -> Vec<spec::DeviceRule> {
    const RULES: [(&str, Option<i64>, Option<i64>, &str); 11] = [
        ("c", None, None, "m"),
        ("b", None, None, "m"),
        ("c", Some(1), Some(3), "rwm"),
        ("c", Some(1), Some(5), "rwm"),
        ("c", Some(1), Some(7), "rwm"),
        ("c", Some(1), Some(8), "rwm"),
        ("c", Some(1), Some(9), "rwm"),
        ("c", Some(5), Some(0), "rwm"),
        ("c", Some(5), Some(1), "rwm"),
        ("c", Some(5), Some(2), "rwm"),
        ("c", Some(136), None, "rwm"),
    ];
    RULES
        .iter()
        .map(|(kind, major, minor, access)| spec::DeviceRule {
            allow: true,
            kind: Some((*kind).to_owned()),
            major: *major,
            minor: *minor,
            access: Some((*access).to_owned()),
        })
        .collect()
}

/// The resources with the rules of the standard devices after their own, as every OCI
/// runtime adds them: configurations deny everything and count on that. Without resources,
/// the standard devices alone.
#[must_use]
pub fn with_default_devices(resources: Option<&spec::Resources>) -> spec::Resources {
    let mut resources = resources.cloned().unwrap_or_default();
    resources.devices.extend(default_device_rules());
    resources
}

/// Puts device rules in place; a warning if the host has nothing to do it with.
pub(super) fn apply(group: &Group, policy: &Policy) -> Result<Option<String>, CgroupError> {
    if let Some(member) = group.v1("devices") {
        apply_v1(&member, policy)?;
    } else if let Some(member) = group.v2() {
        match apply_v2(&member, policy) {
            // Nor may such a caller make a device node, or open one that its user may not.
            Err(CgroupError::DeviceProgram { source, .. })
                if group.rootless && file::is(&source, rustix::io::Errno::PERM) =>
            {
                return Ok(Some(
                    "device rules need privileges: they are not enforced".to_owned(),
                ));
            }
            result => result?,
        }
    } else if group.rootless {
        return Ok(Some(
            "device rules need privileges: they are not enforced".to_owned(),
        ));
    } else {
        return Ok(Some(
            "the host has no device controller: device rules are not enforced".to_owned(),
        ));
    }
    Ok(None)
}

fn apply_v1(member: &Member<'_>, policy: &Policy) -> Result<(), CgroupError> {
    let exceptions = policy.exceptions()?;
    let (default, other) = match policy.allow {
        false => ("devices.deny", "devices.allow"),
        true => ("devices.allow", "devices.deny"),
    };
    member.write(default, "a")?;
    if exceptions.is_empty() {
        return Ok(());
    }
    let file =
        file::open_for_writing(member.directory, other).map_err(|source| CgroupError::Open {
            path: format!("{}/{other}", member.absolute()),
            source,
        })?;
    for exception in exceptions {
        let line = exception.line();
        file::write_to(file.as_fd(), &line)
            .map_err(|source| member.write_error(other, &line, source))?;
    }
    Ok(())
}

fn apply_v2(member: &Member<'_>, policy: &Policy) -> Result<(), CgroupError> {
    let failed = |step| {
        move |source| CgroupError::DeviceProgram {
            step,
            path: member.absolute(),
            source,
        }
    };
    let kind = bpf::ATTACH_CGROUP_DEVICE;
    let program = bpf::load(
        bpf::TYPE_CGROUP_DEVICE,
        "gantry_devices",
        c"Apache-2.0",
        &device_program::write(policy),
    )
    .map_err(failed("load"))?;
    // A group that is updated has a program already. Every program must agree to an
    // access, so an older one would keep what it denies denied.
    let mut ids = [0; 64];
    let ids = bpf::query(member.directory, kind, &mut ids).map_err(failed("look up"))?;
    let mut older = Vec::with_capacity(ids.len());
    for &id in &*ids {
        older.push(bpf::program_by_id(id).map_err(failed("look up"))?);
    }
    let replaced = match older.as_slice() {
        [only] => Some(only.as_fd()),
        _ => None,
    };
    bpf::attach(
        member.directory,
        program.as_fd(),
        kind,
        bpf::ALLOW_MULTI,
        replaced,
    )
    .map_err(failed("attach"))?;
    if older.len() > 1 {
        for program in &older {
            bpf::detach(member.directory, program.as_fd(), kind).map_err(failed("replace"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cgroup) fn rule(
        allow: bool,
        kind: &str,
        major: i64,
        minor: i64,
        access: &str,
    ) -> spec::DeviceRule {
        spec::DeviceRule {
            allow,
            kind: Some(kind.to_owned()),
            major: Some(major),
            minor: Some(minor),
            access: Some(access.to_owned()),
        }
    }

    fn lines(rules: &[spec::DeviceRule]) -> Result<(bool, Vec<String>), CgroupError> {
        let policy = Policy::new(rules)?;
        let exceptions = policy.exceptions()?;
        Ok((policy.allow, exceptions.iter().map(Rule::line).collect()))
    }

    /// R38, GHSA-g54h-m393-cpwq.
    #[test]
    fn no_rules_deny_everything() {
        assert_eq!(lines(&[]).unwrap(), (false, vec![]));
        let text = serde_json::from_str("[{\"allow\": false}]").unwrap();
        let rules: Vec<spec::DeviceRule> = text;
        assert_eq!(lines(&rules).unwrap(), (false, vec![]));
    }

    #[test]
    fn rules_become_exceptions() {
        let deny_all = rule(false, "a", -1, -1, "rwm");
        let allow_all = rule(true, "a", -1, -1, "rwm");
        let cases = [
            (
                vec![
                    deny_all.clone(),
                    rule(true, "c", 1, 3, "rw"),
                    rule(true, "c", 1, 3, "m"),
                    rule(true, "b", 8, -1, "r"),
                ],
                (false, vec!["c 1:3 rwm", "b 8:* r"]),
            ),
            // The last rule that covers everything makes a new start.
            (
                vec![rule(true, "c", 1, 3, "rwm"), allow_all.clone()],
                (true, vec![]),
            ),
            (
                vec![allow_all.clone(), rule(false, "b", -1, -1, "w")],
                (true, vec!["b *:* w"]),
            ),
            // Taken back, in part and as a whole.
            (
                vec![
                    rule(true, "c", 1, 3, "rwm"),
                    rule(true, "c", 1, 5, "rw"),
                    rule(false, "c", 1, -1, "w"),
                ],
                (false, vec!["c 1:3 rm", "c 1:5 r"]),
            ),
            (
                vec![
                    rule(true, "c", 1, 3, "rwm"),
                    rule(false, "c", -1, -1, "rwm"),
                ],
                (false, vec![]),
            ),
            // And given again.
            (
                vec![
                    rule(true, "c", 1, 3, "rwm"),
                    rule(false, "c", 1, 3, "rwm"),
                    rule(true, "c", 1, 3, "r"),
                ],
                (false, vec!["c 1:3 r"]),
            ),
            // All types, but not all devices.
            (
                vec![rule(true, "a", 7, -1, "rwm")],
                (false, vec!["b 7:* rwm", "c 7:* rwm"]),
            ),
            (
                vec![rule(false, "c", 1, 3, "rwm"), rule(true, "u", 4, 0, "r")],
                (false, vec!["c 4:0 r"]),
            ),
        ];
        for (rules, (allow, expected)) in cases {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(lines(&rules).unwrap(), (allow, expected), "{rules:?}");
        }
    }

    #[test]
    fn what_version_1_cannot_express_is_an_error_there() {
        let rules = [rule(true, "c", -1, -1, "m"), rule(false, "c", 5, 1, "m")];
        let error = lines(&rules).unwrap_err();
        assert!(
            matches!(&error, CgroupError::DeviceRuleOrder { rule } if rule == "c 5:1 m"),
            "{error}"
        );
    }

    #[test]
    fn bad_rules_are_errors_with_the_word() {
        for (rule, text) in [
            (
                rule(true, "x", 1, 1, "r"),
                "invalid device rule: type \"x\"",
            ),
            (
                rule(true, "p", 1, 1, "r"),
                "invalid device rule: type \"p\"",
            ),
            (
                rule(true, "c", 1, 1, "rx"),
                "invalid device rule: access \"rx\"",
            ),
            (
                rule(true, "c", -2, 1, "r"),
                "invalid device rule: major \"-2\"",
            ),
            (
                rule(true, "c", 1, 1 << 33, "r"),
                "invalid device rule: minor \"8589934592\"",
            ),
        ] {
            assert_eq!(Policy::new(&[rule]).unwrap_err().to_string(), text);
        }
    }
}
