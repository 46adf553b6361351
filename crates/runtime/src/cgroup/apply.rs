//! Limits of a group (runtime-spec, config-linux, "Control groups").
//!
//! Each value is one open and one write, relative to the directory of its hierarchy.

use std::io;

use rustix::io::Errno;

use super::group::{Group, Member};
use super::{CgroupError, devices, file};
use crate::spec::{Cpu, Memory, Pids, Resources};

/// Processors and memory nodes are numbered below this (`NR_CPUS` is at most 8192).
const MAX_CPUSET: u32 = 8192;

impl Group {
    /// Sets the limits of a container that is about to start. What is absent is left as it
    /// is, but for devices: their rules always apply, and begin by denying everything.
    /// Everything is checked before anything is written.
    ///
    /// Returns a warning for each limit that the host has no controller for; the
    /// container runs without it, as with Docker.
    ///
    /// # Errors
    /// [`CgroupError::InvalidResource`], [`CgroupError::InvalidDeviceRule`] and
    /// [`CgroupError::DeviceRuleOrder`] for what is asked, [`CgroupError::NotDelegated`]
    /// for a controller that the host has but the group cannot, [`CgroupError::Write`] for
    /// what the kernel refuses.
    pub fn apply(&self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        let limits = Limits::check(resources)?;
        let mut warnings = Vec::new();
        warnings.extend(devices::apply(self, &resources.devices)?);
        self.apply_limits(&limits, &mut warnings)?;
        Ok(warnings)
    }

    /// Changes limits while the container runs. Devices are left as they are, and so is
    /// everything that is absent.
    ///
    /// # Errors
    /// As [`Group::apply`]. Version 1 refuses a memory limit below what is in use with
    /// `EBUSY`; version 2 kills processes until it holds.
    pub fn update(&self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        let limits = Limits::check(resources)?;
        let mut warnings = Vec::new();
        self.apply_limits(&limits, &mut warnings)?;
        Ok(warnings)
    }

    fn apply_limits(
        &self,
        limits: &Limits<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        self.apply_memory(limits.memory, warnings)?;
        if let Some(cpu) = limits.cpu {
            self.apply_cpu(cpu, warnings)?;
            self.apply_cpuset(cpu, warnings)?;
        }
        if let Some(pids) = limits.pids {
            self.apply_pids(pids, warnings)?;
        }
        Ok(())
    }

    fn apply_memory(
        &self,
        limits: MemoryLimits,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        if limits == MemoryLimits::default() {
            return Ok(());
        }
        if let Some(member) = self.v1("memory") {
            return apply_memory_v1(&member, limits, warnings);
        }
        let Some(member) = self.v2_with("memory", "memory.max", "memory limits", warnings)? else {
            return Ok(());
        };
        if let Some(limit) = limits.limit {
            member.write("memory.max", &limit.v2())?;
        }
        if let Some(reservation) = limits.reservation {
            member.write("memory.low", &reservation.v2())?;
        }
        if let Some(swap) = limits.swap_alone() {
            let written = file::write(member.directory, "memory.swap.max", &swap.v2());
            match written {
                Err(error) if file::is(&error, Errno::NOENT) => {
                    warn_of_swap(swap, warnings);
                }
                other => {
                    other.map_err(|source| {
                        member.write_error("memory.swap.max", &swap.v2(), source)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn apply_cpu(&self, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        let shares = cpu.shares.filter(|shares| *shares != 0);
        let quota = cpu.quota.filter(|quota| *quota != 0);
        let period = cpu.period.filter(|period| *period != 0);
        if shares.is_none() && quota.is_none() && period.is_none() {
            return Ok(());
        }
        if let Some(member) = self.v1("cpu") {
            if let Some(shares) = shares {
                member.write("cpu.shares", &shares.to_string())?;
            }
            return apply_quota_v1(&member, quota, period);
        }
        let Some(member) = self.v2_with("cpu", "cpu.max", "processor limits", warnings)? else {
            return Ok(());
        };
        if let Some(shares) = shares {
            member.write("cpu.weight", &weight_of_shares(shares).to_string())?;
        }
        if quota.is_some() || period.is_some() {
            let quota = match quota {
                Some(quota) if quota > 0 => quota.to_string(),
                // An update of the period alone keeps the quota.
                None => first_word(&member.read("cpu.max")?),
                Some(_) => "max".to_owned(),
            };
            let value = match period {
                Some(period) => format!("{quota} {period}"),
                None => quota,
            };
            member.write("cpu.max", &value)?;
        }
        Ok(())
    }

    fn apply_cpuset(&self, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        if cpu.cpus.is_empty() && cpu.mems.is_empty() {
            return Ok(());
        }
        let what = "processor and memory node sets";
        let member = match self.v1("cpuset") {
            Some(member) => Some(member),
            None => self.v2_with("cpuset", "cpuset.cpus", what, warnings)?,
        };
        let Some(member) = member else {
            return Ok(());
        };
        for (name, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
            if !value.is_empty() {
                member.write(name, value)?;
            }
        }
        Ok(())
    }

    fn apply_pids(&self, pids: &Pids, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        let member = match self.v1("pids") {
            Some(member) => Some(member),
            None if pids.limit > 0 => {
                self.v2_with("pids", "pids.max", "limits on processes", warnings)?
            }
            None => self.v2().filter(|member| has_file(member, "pids.max")),
        };
        let Some(member) = member else {
            return Ok(());
        };
        let value = match pids.limit {
            limit if limit > 0 => limit.to_string(),
            _ => "max".to_owned(),
        };
        member.write("pids.max", &value)
    }

    /// The version 2 directory, if it has a controller, by one of whose files that is
    /// known; otherwise a warning, or an error if it could have had it.
    fn v2_with(
        &self,
        controller: &'static str,
        name: &str,
        what: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Member<'_>>, CgroupError> {
        let member = self.v2();
        if let Some(member) = member {
            if has_file(&member, name) {
                return Ok(Some(member));
            }
            let root = rustix::fs::open(
                member.hierarchy.mount_point(),
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            );
            let available = root
                .map_err(io::Error::from)
                .and_then(|root| file::read(std::os::fd::AsFd::as_fd(&root), "cgroup.controllers"));
            if available.is_ok_and(|names| {
                names
                    .split_ascii_whitespace()
                    .any(|name| name == controller)
            }) {
                return Err(CgroupError::NotDelegated {
                    path: member.absolute(),
                    controller,
                });
            }
        }
        warnings.push(format!(
            "the host has no {controller} controller: {what} are not enforced"
        ));
        Ok(None)
    }
}

fn has_file(member: &Member<'_>, name: &str) -> bool {
    rustix::fs::accessat(
        member.directory,
        name,
        rustix::fs::Access::EXISTS,
        rustix::fs::AtFlags::empty(),
    )
    .is_ok()
}

fn first_word(text: &str) -> String {
    text.split_ascii_whitespace()
        .next()
        .unwrap_or("max")
        .to_owned()
}

/// Limits after checking.
struct Limits<'a> {
    memory: MemoryLimits,
    cpu: Option<&'a Cpu>,
    pids: Option<&'a Pids>,
}

impl Limits<'_> {
    fn check(resources: &Resources) -> Result<Limits<'_>, CgroupError> {
        let memory = resources.memory.as_ref().map(check_memory).transpose()?;
        if let Some(cpu) = &resources.cpu {
            check_cpu(cpu)?;
        }
        Ok(Limits {
            memory: memory.unwrap_or_default(),
            cpu: resources.cpu.as_ref(),
            pids: resources.pids.as_ref(),
        })
    }
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Amount {
    Bytes(u64),
    Unlimited,
}

impl Amount {
    fn v1(self) -> String {
        match self {
            Amount::Bytes(bytes) => bytes.to_string(),
            Amount::Unlimited => "-1".to_owned(),
        }
    }

    fn v2(self) -> String {
        match self {
            Amount::Bytes(bytes) => bytes.to_string(),
            Amount::Unlimited => "max".to_owned(),
        }
    }
}

/// Memory limits after checking; `swap` is memory and swap together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct MemoryLimits {
    limit: Option<Amount>,
    reservation: Option<Amount>,
    swap: Option<Amount>,
}

impl MemoryLimits {
    /// The limit of swap alone, as version 2 has it.
    fn swap_alone(&self) -> Option<Amount> {
        match (self.swap?, self.limit) {
            (Amount::Bytes(both), Some(Amount::Bytes(memory))) => {
                Some(Amount::Bytes(both.saturating_sub(memory)))
            }
            _ => Some(Amount::Unlimited),
        }
    }
}

fn check_memory(memory: &Memory) -> Result<MemoryLimits, CgroupError> {
    let amount = |resource: &'static str, bytes: Option<i64>| match bytes {
        // Docker's clients send 0 for what is not asked.
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Amount::Unlimited)),
        Some(bytes) => match u64::try_from(bytes) {
            Ok(bytes) => Ok(Some(Amount::Bytes(bytes))),
            Err(_) => Err(CgroupError::InvalidResource {
                resource,
                value: bytes.to_string(),
                reason: "it is negative",
            }),
        },
    };
    let mut limits = MemoryLimits {
        limit: amount("memory limit", memory.limit)?,
        reservation: amount("memory reservation", memory.reservation)?,
        swap: amount("memory and swap limit", memory.swap)?,
    };
    let reason = match (limits.swap, limits.limit) {
        (Some(Amount::Bytes(both)), Some(Amount::Bytes(memory))) if both < memory => {
            Some("it is less than the memory limit")
        }
        (Some(Amount::Bytes(_)), None | Some(Amount::Unlimited)) => Some("it needs a memory limit"),
        _ => None,
    };
    if let (Some(reason), Some(value)) = (reason, memory.swap) {
        return Err(CgroupError::InvalidResource {
            resource: "memory and swap limit",
            value: value.to_string(),
            reason,
        });
    }
    // Memory without a limit makes no sense with one on memory and swap together.
    if limits.limit == Some(Amount::Unlimited) && limits.swap.is_none() {
        limits.swap = Some(Amount::Unlimited);
    }
    Ok(limits)
}

/// Version 1 holds at any moment that memory alone is at most memory and swap together.
fn apply_memory_v1(
    member: &Member<'_>,
    limits: MemoryLimits,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    const MEMORY: &str = "memory.limit_in_bytes";
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    let mut write_both = |amount: Amount| match file::write(member.directory, BOTH, &amount.v1()) {
        Err(error) if file::is(&error, Errno::NOENT) => {
            warn_of_swap(amount, warnings);
            Ok(())
        }
        Err(source) => Err(member.write_error(BOTH, &amount.v1(), source)),
        Ok(()) => Ok(()),
    };
    match (limits.limit, limits.swap) {
        (Some(limit), Some(swap)) => {
            // A new group has no limits, so memory comes first. Where a limit is raised
            // above the old one on both, the kernel says so.
            match file::write(member.directory, MEMORY, &limit.v1()) {
                Ok(()) => write_both(swap)?,
                Err(error) if file::is(&error, Errno::INVAL) => {
                    write_both(swap)?;
                    member.write(MEMORY, &limit.v1())?;
                }
                Err(source) => return Err(member.write_error(MEMORY, &limit.v1(), source)),
            }
        }
        (Some(limit), None) => member.write(MEMORY, &limit.v1())?,
        (None, Some(swap)) => write_both(swap)?,
        (None, None) => {}
    }
    if let Some(reservation) = limits.reservation {
        member.write("memory.soft_limit_in_bytes", &reservation.v1())?;
    }
    Ok(())
}

fn warn_of_swap(swap: Amount, warnings: &mut Vec<String>) {
    // Nothing is lost where nothing was to be limited.
    if swap != Amount::Unlimited {
        warnings
            .push("the host does not account for swap: memory is limited without swap".to_owned());
    }
}

/// The kernel refuses a quota that is more than the group above has in its period, so
/// that the order matters when both change.
fn apply_quota_v1(
    member: &Member<'_>,
    quota: Option<i64>,
    period: Option<u64>,
) -> Result<(), CgroupError> {
    const QUOTA: &str = "cpu.cfs_quota_us";
    const PERIOD: &str = "cpu.cfs_period_us";
    let quota = quota.map(|quota| quota.max(-1).to_string());
    let mut late_period = None;
    if let Some(period) = period {
        let period = period.to_string();
        match file::write(member.directory, PERIOD, &period) {
            Ok(()) => {}
            Err(error) if file::is(&error, Errno::INVAL) && quota.is_some() => {
                late_period = Some(period);
            }
            Err(source) => return Err(member.write_error(PERIOD, &period, source)),
        }
    }
    if let Some(quota) = quota {
        member.write(QUOTA, &quota)?;
    }
    if let Some(period) = late_period {
        member.write(PERIOD, &period)?;
    }
    Ok(())
}

/// Version 2's weight (1 to 10000) for version 1's shares (2 to 262144).
///
/// A parabola in the logarithm of the shares through the two ends and through 1024
/// shares, which are weight 100: both versions' default. A straight line between the
/// ends, which runtimes used before, makes 39 of them, and so a container of default
/// shares weaker than a process of the host.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let logarithm = (shares as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

fn check_cpu(cpu: &Cpu) -> Result<(), CgroupError> {
    for (resource, list) in [("processor set", &cpu.cpus), ("memory node set", &cpu.mems)] {
        check_list(resource, list)?;
    }
    match cpu.quota {
        Some(quota) if quota < -1 => Err(CgroupError::InvalidResource {
            resource: "processor quota",
            value: quota.to_string(),
            reason: "it is negative",
        }),
        _ => Ok(()),
    }
}

/// Checks a list such as `0-2,7` without ever expanding it (CVE-2018-20699).
fn check_list(resource: &'static str, list: &str) -> Result<(), CgroupError> {
    let invalid = |reason| CgroupError::InvalidResource {
        resource,
        value: list.chars().take(64).collect(),
        reason,
    };
    if list.is_empty() {
        return Ok(());
    }
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number {
                return Err(invalid("it is not a list of numbers and ranges"));
            }
            match text.parse::<u32>() {
                Ok(number) if number < MAX_CPUSET => Ok(number),
                _ => Err(invalid("a number in it is too large")),
            }
        };
        if number(first)? > number(last)? {
            return Err(invalid("a range in it is empty"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        let weights: Vec<u64> = (2..=262_144).step_by(97).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
    }

    #[test]
    fn swap_is_checked_against_memory() {
        let check = |limit, swap| {
            check_memory(&Memory {
                limit,
                swap,
                reservation: None,
            })
        };
        let both = check(Some(1 << 20), Some(3 << 20)).unwrap();
        assert_eq!(both.swap_alone(), Some(Amount::Bytes(2 << 20)));
        let none = check(Some(1 << 20), Some(1 << 20)).unwrap();
        assert_eq!(none.swap_alone(), Some(Amount::Bytes(0)));
        let endless = check(Some(1 << 20), Some(-1)).unwrap();
        assert_eq!(endless.swap_alone(), Some(Amount::Unlimited));
        let unset = check(Some(1 << 20), Some(0)).unwrap();
        assert_eq!(unset.swap_alone(), None);
        let lifted = check(Some(-1), None).unwrap();
        assert_eq!(lifted.swap, Some(Amount::Unlimited));
        for (limit, swap, text) in [
            (
                Some(2),
                Some(1),
                "invalid memory and swap limit 1: it is less than the memory limit",
            ),
            (
                None,
                Some(1),
                "invalid memory and swap limit 1: it needs a memory limit",
            ),
            (Some(-2), None, "invalid memory limit -2: it is negative"),
        ] {
            assert_eq!(check(limit, swap).unwrap_err().to_string(), text);
        }
    }

    /// CVE-2018-20699 (A07): a huge range must be an error, at no cost.
    #[test]
    fn cpu_lists_are_checked_without_being_expanded() {
        for list in ["", "0", "0-3", "0,2-5,7", "8191"] {
            check_list("processor set", list).unwrap();
        }
        for list in [
            "0-4294967295",
            "8192",
            "99999999999999999999",
            "3-1",
            "a",
            "1,",
            ",",
            "1-",
            "-1",
            "1 2",
            "+1",
            "0-1-2",
            "1\n",
        ] {
            let error = check_list("processor set", list).unwrap_err();
            assert!(
                matches!(error, CgroupError::InvalidResource { .. }),
                "{list}"
            );
        }
    }
}
