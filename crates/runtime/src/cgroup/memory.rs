//! Limits on memory.

use rustix::io::Errno;

use super::apply::{has_file, warn_of_version};
use super::group::{Group, Member};
use super::limits::invalid;
use super::{CgroupError, file};
use crate::spec::Memory;

const V1_LIMIT: &str = "memory.limit_in_bytes";
const V1_BOTH: &str = "memory.memsw.limit_in_bytes";

/// An amount of memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Amount {
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
pub(super) struct MemoryLimits {
    pub(super) limit: Option<Amount>,
    pub(super) reservation: Option<Amount>,
    pub(super) swap: Option<Amount>,
    kernel_tcp: Option<Amount>,
    swappiness: Option<u64>,
    disable_oom_killer: Option<bool>,
    use_hierarchy: Option<bool>,
    has_kernel: bool,
    check_before_update: bool,
}

impl MemoryLimits {
    /// The limit of swap alone, as version 2 has it; `None` also where that depends on a
    /// limit of memory that is not among these.
    pub(super) fn swap_alone(&self) -> Option<Amount> {
        match (self.swap?, self.limit) {
            (Amount::Bytes(both), Some(Amount::Bytes(memory))) => {
                Some(Amount::Bytes(both.saturating_sub(memory)))
            }
            (Amount::Bytes(_), None) => None,
            _ => Some(Amount::Unlimited),
        }
    }

    /// Whether nothing is asked for that needs the controller.
    fn is_empty(&self) -> bool {
        let others = MemoryLimits {
            has_kernel: false,
            check_before_update: false,
            use_hierarchy: None,
            // The rule everywhere.
            disable_oom_killer: self.disable_oom_killer.filter(|disable| *disable),
            ..*self
        };
        others == MemoryLimits::default()
    }
}

/// Checks limits for themselves and against each other.
pub(super) fn check_memory(memory: &Memory, is_update: bool) -> Result<MemoryLimits, CgroupError> {
    let amount = |resource: &'static str, bytes: Option<i64>| match bytes {
        // Docker's clients send 0 for what is not asked.
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Amount::Unlimited)),
        Some(bytes) => match u64::try_from(bytes) {
            Ok(bytes) => Ok(Some(Amount::Bytes(bytes))),
            Err(_) => Err(invalid(resource, bytes, "it is negative")),
        },
    };
    let mut limits = MemoryLimits {
        limit: amount("memory limit", memory.limit)?,
        reservation: amount("memory reservation", memory.reservation)?,
        swap: amount("memory and swap limit", memory.swap)?,
        kernel_tcp: amount("limit of TCP buffers", memory.kernel_tcp)?,
        swappiness: memory.swappiness,
        disable_oom_killer: memory.disable_oom_killer,
        use_hierarchy: memory.use_hierarchy,
        has_kernel: memory.kernel.is_some_and(|limit| limit != 0 && limit != -1),
        check_before_update: memory.check_before_update == Some(true),
    };
    let reason = match (limits.swap, limits.limit) {
        (Some(Amount::Bytes(both)), Some(Amount::Bytes(memory))) if both < memory => {
            Some("it is less than the memory limit")
        }
        (Some(Amount::Bytes(_)), Some(Amount::Unlimited)) => Some("it needs a memory limit"),
        (Some(Amount::Bytes(_)), None) if !is_update => Some("it needs a memory limit"),
        _ => None,
    };
    if let (Some(reason), Some(value)) = (reason, memory.swap) {
        return Err(invalid("memory and swap limit", value, reason));
    }
    if let Some(swappiness) = memory.swappiness.filter(|swappiness| *swappiness > 100) {
        return Err(invalid("swappiness", swappiness, "it is more than 100"));
    }
    // Memory without a limit makes no sense with one on memory and swap together.
    if limits.limit == Some(Amount::Unlimited) && limits.swap.is_none() {
        limits.swap = Some(Amount::Unlimited);
    }
    Ok(limits)
}

impl Group {
    pub(super) fn apply_memory(
        &self,
        limits: &MemoryLimits,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        if limits.has_kernel {
            warnings.push(
                "kernels have no limit on their own memory any more: it is ignored".to_owned(),
            );
        }
        if limits.is_empty() {
            return Ok(());
        }
        let member = self.controller("memory", "memory.max", "memory limits", warnings)?;
        match member {
            Some(member) if member.hierarchy.is_v2() => apply_v2(&member, limits, warnings),
            Some(member) => apply_v1(&member, limits, warnings),
            None => Ok(()),
        }
    }

    /// Refuses a limit below what is in use, if that is asked for.
    pub(super) fn check_usage(&self, limits: &MemoryLimits) -> Result<(), CgroupError> {
        let Some(Amount::Bytes(limit)) = limits.limit else {
            return Ok(());
        };
        if !limits.check_before_update {
            return Ok(());
        }
        match self.memory_usage()? {
            Some(usage) if usage > limit => Err(CgroupError::BelowUsage { limit, usage }),
            _ => Ok(()),
        }
    }
}

fn apply_v2(
    member: &Member<'_>,
    limits: &MemoryLimits,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    let swap = match (limits.swap, limits.limit) {
        // Memory and swap together, with the limit on memory that is there.
        (Some(Amount::Bytes(both)), None) => {
            let text = member.read("memory.max")?;
            let Ok(memory) = text.trim_ascii().parse::<u64>() else {
                let what = "memory and swap limit";
                return Err(invalid(what, both, "it needs a memory limit"));
            };
            if both < memory {
                let what = "memory and swap limit";
                return Err(invalid(what, both, "it is less than the memory limit"));
            }
            Some(Amount::Bytes(both - memory))
        }
        _ => limits.swap_alone(),
    };
    // More swap must be there before memory shrinks, or what should be swapped out is
    // killed; in any other order nothing can go wrong.
    if let Some(swap) = swap {
        match file::write(member.directory, "memory.swap.max", &swap.v2()) {
            Err(error) if file::is(&error, Errno::NOENT) => warn_of_swap(swap, warnings),
            other => {
                other.map_err(|source| member.write_error("memory.swap.max", &swap.v2(), source))?
            }
        }
    }
    if let Some(limit) = limits.limit {
        member.write("memory.max", &limit.v2())?;
    }
    if let Some(reservation) = limits.reservation {
        member.write("memory.low", &reservation.v2())?;
    }
    if limits
        .kernel_tcp
        .is_some_and(|limit| limit != Amount::Unlimited)
    {
        warn_of_version("limit of TCP buffers", warnings);
    }
    if limits.swappiness.is_some() {
        warn_of_version("swappiness", warnings);
    }
    if limits.disable_oom_killer == Some(true) {
        warn_of_version("way to wait for memory instead of being killed", warnings);
    }
    Ok(())
}

fn apply_v1(
    member: &Member<'_>,
    limits: &MemoryLimits,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    if limits.use_hierarchy == Some(true) {
        // 1 always since Linux 5.11; before, it can be set while nothing is inside.
        const NAME: &str = "memory.use_hierarchy";
        let is_on = file::read(member.directory, NAME).map_or(true, |text| text.trim() != "0");
        if !is_on {
            member.write(NAME, "1")?;
        }
    }
    apply_limits_v1(member, limits, warnings)?;
    if let Some(reservation) = limits.reservation {
        member.write("memory.soft_limit_in_bytes", &reservation.v1())?;
    }
    if let Some(limit) = limits.kernel_tcp {
        const NAME: &str = "memory.kmem.tcp.limit_in_bytes";
        if has_file(member, NAME) {
            member.write(NAME, &limit.v1())?;
        } else {
            warnings.push("the host has no limit of TCP buffers: it is ignored".to_owned());
        }
    }
    if let Some(swappiness) = limits.swappiness {
        member.write("memory.swappiness", &swappiness.to_string())?;
    }
    if let Some(disable) = limits.disable_oom_killer {
        member.write("memory.oom_control", if disable { "1" } else { "0" })?;
    }
    Ok(())
}

/// Version 1 holds at any moment that memory alone is at most memory and swap together.
fn apply_limits_v1(
    member: &Member<'_>,
    limits: &MemoryLimits,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    let mut write_both = |amount: Amount| match file::write(member.directory, V1_BOTH, &amount.v1())
    {
        Err(error) if file::is(&error, Errno::NOENT) => {
            warn_of_swap(amount, warnings);
            Ok(())
        }
        Err(source) => Err(member.write_error(V1_BOTH, &amount.v1(), source)),
        Ok(()) => Ok(()),
    };
    match (limits.limit, limits.swap) {
        (Some(limit), Some(swap)) => {
            // A new group has no limits, so memory comes first. Where a limit is raised
            // above the old one on both, the kernel says so.
            match file::write(member.directory, V1_LIMIT, &limit.v1()) {
                Ok(()) => write_both(swap)?,
                Err(error) if file::is(&error, Errno::INVAL) => {
                    write_both(swap)?;
                    member.write(V1_LIMIT, &limit.v1())?;
                }
                Err(source) => return Err(member.write_error(V1_LIMIT, &limit.v1(), source)),
            }
        }
        (Some(limit), None) => member.write(V1_LIMIT, &limit.v1())?,
        (None, Some(swap)) => write_both(swap)?,
        (None, None) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_checked_against_memory() {
        let check = |limit, swap| {
            let memory = Memory {
                limit,
                swap,
                ..Memory::default()
            };
            check_memory(&memory, false)
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
}
