//! Limits on processor time, and sets of processors and memory nodes.

use rustix::io::Errno;

use super::apply::{has_file, warn_of_version};
use super::group::{Group, Member};
use super::limits::invalid;
use super::{CgroupError, file};
use crate::spec::Cpu;

/// Processors and memory nodes are numbered below this (`NR_CPUS` is at most 8192).
const MAX_CPUSET: u32 = 8192;

/// A limit and its file.
type Setting = (&'static str, String);

impl Group {
    pub(super) fn apply_cpu(
        &self,
        cpu: &Cpu,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        let asked = Asked {
            shares: cpu.shares.filter(|shares| *shares != 0),
            quota: cpu.quota.filter(|quota| *quota != 0),
            period: cpu.period.filter(|period| *period != 0),
            burst: cpu.burst,
            idle: cpu.idle,
            realtime_runtime: cpu.realtime_runtime.filter(|runtime| *runtime != 0),
            realtime_period: cpu.realtime_period.filter(|period| *period != 0),
        };
        if asked == Asked::default() {
            return Ok(());
        }
        let member = self.controller("cpu", "cpu.weight", "processor limits", warnings)?;
        match member {
            Some(member) if member.hierarchy.is_v2() => apply_v2(&member, &asked, warnings),
            Some(member) => apply_v1(&member, &asked, warnings),
            None => Ok(()),
        }
    }

    pub(super) fn apply_cpuset(
        &self,
        cpu: &Cpu,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        if cpu.cpus.is_empty() && cpu.mems.is_empty() {
            return Ok(());
        }
        let what = "processor and memory node sets";
        let Some(member) = self.controller("cpuset", "cpuset.cpus", what, warnings)? else {
            return Ok(());
        };
        for (name, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
            if !value.is_empty() {
                member.write(name, value)?;
            }
        }
        Ok(())
    }
}

/// What is asked for, without what stands for nothing.
#[derive(Debug, Default, Eq, PartialEq)]
struct Asked {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    burst: Option<u64>,
    idle: Option<i64>,
    realtime_runtime: Option<i64>,
    realtime_period: Option<u64>,
}

fn apply_v1(
    member: &Member<'_>,
    asked: &Asked,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    // Where the kernel has it, a new group has no realtime at all, so this comes before a
    // process joins.
    let runtime = asked.realtime_runtime.map(|runtime| runtime.to_string());
    let period = asked.realtime_period.map(|period| period.to_string());
    if runtime.is_some() || period.is_some() {
        const RUNTIME: &str = "cpu.rt_runtime_us";
        if has_file(member, RUNTIME) {
            let period = period.map(|period| ("cpu.rt_period_us", period));
            write_pair(member, period, runtime.map(|runtime| (RUNTIME, runtime)))?;
        } else {
            warnings.push("the host has no limits on realtime: they are ignored".to_owned());
        }
    }
    let shares = asked
        .shares
        .map(|shares| ("cpu.shares", shares.to_string()));
    apply_weight(member, shares, asked.idle, warnings)?;
    let period = asked
        .period
        .map(|period| ("cpu.cfs_period_us", period.to_string()));
    let quota = asked
        .quota
        .map(|quota| ("cpu.cfs_quota_us", quota.max(-1).to_string()));
    let has_quota = quota.is_some();
    let late_burst = write_burst(member, "cpu.cfs_burst_us", asked.burst, has_quota, warnings)?;
    write_pair(member, period, quota)?;
    match late_burst {
        Some((name, burst)) => member.write(name, &burst),
        None => Ok(()),
    }
}

fn apply_v2(
    member: &Member<'_>,
    asked: &Asked,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    if asked.realtime_runtime.is_some() || asked.realtime_period.is_some() {
        warn_of_version("limit on realtime", warnings);
    }
    let weight = asked.shares.map(weight_of_shares);
    let weight = weight.map(|weight| ("cpu.weight", weight.to_string()));
    apply_weight(member, weight, asked.idle, warnings)?;
    let has_quota = asked.quota.is_some();
    let late_burst = write_burst(member, "cpu.max.burst", asked.burst, has_quota, warnings)?;
    if asked.quota.is_some() || asked.period.is_some() {
        let quota = match asked.quota {
            Some(quota) if quota > 0 => quota.to_string(),
            // An update of the period alone keeps the quota.
            None => first_word(&member.read("cpu.max")?),
            Some(_) => "max".to_owned(),
        };
        let value = match asked.period {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        member.write("cpu.max", &value)?;
    }
    match late_burst {
        Some((name, burst)) => member.write(name, &burst),
        None => Ok(()),
    }
}

/// The kernel refuses a weight for a group that is idle, which has none.
fn apply_weight(
    member: &Member<'_>,
    weight: Option<Setting>,
    idle: Option<i64>,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    const IDLE: &str = "cpu.idle";
    let write_idle = |warnings: &mut Vec<String>| match idle {
        None => Ok(()),
        // Linux 5.15.
        Some(0) if !has_file(member, IDLE) => Ok(()),
        Some(_) if !has_file(member, IDLE) => {
            warnings.push("the host has no idle groups: cpu.idle is ignored".to_owned());
            Ok(())
        }
        Some(idle) => member.write(IDLE, &idle.to_string()),
    };
    let Some((name, value)) = weight else {
        return write_idle(warnings);
    };
    if idle == Some(1) {
        // The weight counts when the group stops being idle, if it is not so already.
        match file::write(member.directory, name, &value) {
            Err(error) if !file::is(&error, Errno::INVAL) => {
                return Err(member.write_error(name, &value, error));
            }
            _ => return write_idle(warnings),
        }
    }
    write_idle(warnings)?;
    member.write(name, &value)
}

/// Sets the burst, or returns it to be set after the quota, which it may not exceed: the
/// order depends on whether both grow or shrink.
fn write_burst(
    member: &Member<'_>,
    name: &'static str,
    burst: Option<u64>,
    has_quota: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Setting>, CgroupError> {
    let Some(burst) = burst else {
        return Ok(None);
    };
    let value = burst.to_string();
    match file::write(member.directory, name, &value) {
        Ok(()) => Ok(None),
        Err(error) if file::is(&error, Errno::INVAL) && has_quota => Ok(Some((name, value))),
        // Linux 5.14.
        Err(error) if file::is(&error, Errno::NOENT) => {
            if burst != 0 {
                warnings.push("the host has no processor bursts: burst is ignored".to_owned());
            }
            Ok(None)
        }
        Err(source) => Err(member.write_error(name, &value, source)),
    }
}

/// Writes a period and the time in it. The kernel refuses more time than the group above
/// has in its period, so that the order matters when both change.
fn write_pair(
    member: &Member<'_>,
    period: Option<Setting>,
    quota: Option<Setting>,
) -> Result<(), CgroupError> {
    let mut late_period = None;
    if let Some((name, period)) = period {
        match file::write(member.directory, name, &period) {
            Ok(()) => {}
            Err(error) if file::is(&error, Errno::INVAL) && quota.is_some() => {
                late_period = Some((name, period));
            }
            Err(source) => return Err(member.write_error(name, &period, source)),
        }
    }
    for (name, value) in quota.into_iter().chain(late_period) {
        member.write(name, &value)?;
    }
    Ok(())
}

fn first_word(text: &str) -> String {
    text.split_ascii_whitespace()
        .next()
        .unwrap_or("max")
        .to_owned()
}

/// Version 2's weight (1 to 10000) for version 1's shares (2 to 262144).
///
/// A parabola in the logarithm of the shares through the two ends and through 1024
/// shares, which are weight 100: both versions' default. A straight line between the
/// ends, which runtimes used before, makes 39 of them, and so a container of default
/// shares weaker than a process of the host.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
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

/// Checks limits for themselves.
pub(super) fn check(cpu: &Cpu) -> Result<(), CgroupError> {
    for (resource, list) in [("processor set", &cpu.cpus), ("memory node set", &cpu.mems)] {
        check_list(resource, list)?;
    }
    if let Some(quota) = cpu.quota.filter(|quota| *quota < -1) {
        return Err(invalid("processor quota", quota, "it is negative"));
    }
    if let Some(idle) = cpu.idle.filter(|idle| !matches!(idle, 0 | 1)) {
        return Err(invalid("idle", idle, "it is neither 0 nor 1"));
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime < -1) {
        return Err(invalid("realtime runtime", runtime, "it is negative"));
    }
    Ok(())
}

/// Checks a list such as `0-2,7` without ever expanding it (CVE-2018-20699).
pub(super) fn check_list(resource: &'static str, list: &str) -> Result<(), CgroupError> {
    let invalid = |reason| invalid(resource, list.chars().take(64).collect::<String>(), reason);
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
