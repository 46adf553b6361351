//! Weights and rates of block devices.

use rustix::io::Errno;

use super::apply::has_file;
use super::group::{Group, Member};
use super::limits::invalid;
use super::{CgroupError, file};
use crate::spec::{BlockIo, ThrottleDevice, WeightDevice};

impl Group {
    pub(super) fn apply_block_io(
        &self,
        limits: &BlockIo,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        if !asks_for_anything(limits) {
            return Ok(());
        }
        let what = "limits on block devices";
        let member = match self.v1_or_denied("blkio")? {
            Some(member) => return apply_v1(&member, limits, warnings),
            None => self.controller("io", "io.stat", what, warnings)?,
        };
        match member {
            Some(member) => apply_v2(&member, limits, warnings),
            None => Ok(()),
        }
    }
}

fn asks_for_anything(limits: &BlockIo) -> bool {
    let is_set = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
    is_set(limits.weight)
        || is_set(limits.leaf_weight)
        || !limits.weight_device.is_empty()
        || throttles(limits)
            .iter()
            .any(|(.., devices)| !devices.is_empty())
}

/// The rates, with the words of version 1 and of version 2 for them.
fn throttles(limits: &BlockIo) -> [(&'static str, &'static str, &[ThrottleDevice]); 4] {
    [
        (
            "blkio.throttle.read_bps_device",
            "rbps",
            &limits.throttle_read_bps_device,
        ),
        (
            "blkio.throttle.write_bps_device",
            "wbps",
            &limits.throttle_write_bps_device,
        ),
        (
            "blkio.throttle.read_iops_device",
            "riops",
            &limits.throttle_read_iops_device,
        ),
        (
            "blkio.throttle.write_iops_device",
            "wiops",
            &limits.throttle_write_iops_device,
        ),
    ]
}

fn apply_v1(
    member: &Member<'_>,
    limits: &BlockIo,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    // CFQ's files, which kernels lost in 5.0, or those of BFQ, where that is loaded.
    let is_bfq = !has_file(member, "blkio.weight");
    let name = |cfq: &'static str, bfq: &'static str| if is_bfq { bfq } else { cfq };
    let set = |name: &str, value: &str, what: &str, warnings: &mut Vec<String>| match file::write(
        member.directory,
        name,
        value,
    ) {
        Err(error) if is_missing(&error) => {
            warn_of_scheduler(what, warnings);
            Ok(())
        }
        result => result.map_err(|source| member.write_error(name, value, source)),
    };
    if let Some(weight) = limits.weight.filter(|weight| *weight != 0) {
        let name = name("blkio.weight", "blkio.bfq.weight");
        set(name, &weight.to_string(), "weights", warnings)?;
    }
    if let Some(weight) = limits.leaf_weight.filter(|weight| *weight != 0) {
        set(
            "blkio.leaf_weight",
            &weight.to_string(),
            "leaf weights",
            warnings,
        )?;
    }
    for device in &limits.weight_device {
        if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
            let name = name("blkio.weight_device", "blkio.bfq.weight_device");
            set(
                name,
                &device_line(device, weight.into()),
                "weights",
                warnings,
            )?;
        }
        if let Some(weight) = device.leaf_weight.filter(|weight| *weight != 0) {
            let line = device_line(device, weight.into());
            set("blkio.leaf_weight_device", &line, "leaf weights", warnings)?;
        }
    }
    for (name, _, devices) in throttles(limits) {
        for device in devices {
            let line = format!("{}:{} {}", device.major, device.minor, device.rate);
            member.write(name, &line)?;
        }
    }
    Ok(())
}

fn apply_v2(
    member: &Member<'_>,
    limits: &BlockIo,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    // BFQ's file has the range of version 1; io.weight is the cost model's.
    let (name, is_bfq) = if has_file(member, "io.bfq.weight") {
        ("io.bfq.weight", true)
    } else {
        ("io.weight", false)
    };
    let value = |weight: u16| match is_bfq {
        true => weight.into(),
        false => weight_of_v1(weight),
    };
    let set = |value: &str, warnings: &mut Vec<String>| match file::write(
        member.directory,
        name,
        value,
    ) {
        Err(error) if is_missing(&error) => {
            warn_of_scheduler("weights", warnings);
            Ok(())
        }
        result => result.map_err(|source| member.write_error(name, value, source)),
    };
    if let Some(weight) = limits.weight.filter(|weight| *weight != 0) {
        set(&value(weight).to_string(), warnings)?;
    }
    for device in &limits.weight_device {
        if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
            set(&device_line(device, value(weight)), warnings)?;
        }
    }
    let is_leaf = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
    if is_leaf(limits.leaf_weight) || limits.weight_device.iter().any(|d| is_leaf(d.leaf_weight)) {
        warn_of_scheduler("leaf weights", warnings);
    }
    for (_, key, devices) in throttles(limits) {
        for device in devices {
            member.write("io.max", &rate_line(key, device))?;
        }
    }
    Ok(())
}

/// A rate as `io.max` has it, where 0 would be refused.
fn rate_line(key: &str, device: &ThrottleDevice) -> String {
    let rate = match device.rate {
        0 => "max".to_owned(),
        rate => rate.to_string(),
    };
    format!("{}:{} {key}={rate}", device.major, device.minor)
}

fn device_line(device: &WeightDevice, weight: u64) -> String {
    format!("{}:{} {weight}", device.major, device.minor)
}

/// No file, or, on a device whose scheduler knows no weights, no such operation.
fn is_missing(error: &std::io::Error) -> bool {
    file::is(error, Errno::NOENT) || file::is(error, Errno::OPNOTSUPP)
}

fn warn_of_scheduler(what: &str, warnings: &mut Vec<String>) {
    let warning = format!("no scheduler of the host knows {what} of block devices: ignored");
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

/// Version 2's weight (1 to 10000) for version 1's (10 to 1000), on a straight line.
fn weight_of_v1(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

/// Checks weights and numbers.
pub(super) fn check(limits: &BlockIo) -> Result<(), CgroupError> {
    let weights = [limits.weight, limits.leaf_weight].into_iter().chain(
        limits
            .weight_device
            .iter()
            .flat_map(|device| [device.weight, device.leaf_weight]),
    );
    for weight in weights.flatten() {
        if weight != 0 && !(10..=1000).contains(&weight) {
            return Err(invalid(
                "weight of block devices",
                weight,
                "it is not from 10 to 1000",
            ));
        }
    }
    let weighed = limits
        .weight_device
        .iter()
        .map(|one| (one.major, one.minor));
    let throttled = throttles(limits)
        .into_iter()
        .flat_map(|(.., devices)| devices.iter().map(|one| (one.major, one.minor)));
    for (major, minor) in weighed.chain(throttled) {
        // MAJOR and MINOR have 12 and 20 bits.
        if !(0..1 << 12).contains(&major) || !(0..1 << 20).contains(&minor) {
            let numbers = format!("{major}:{minor}");
            return Err(invalid(
                "block device",
                numbers,
                "there are no such numbers",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_version_1_become_those_of_version_2() {
        for (weight, expected) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(weight_of_v1(weight), expected, "{weight}");
        }
    }

    #[test]
    fn rates_are_lines() {
        let line = |rate| {
            let device = ThrottleDevice {
                major: 8,
                minor: 16,
                rate,
            };
            rate_line("rbps", &device)
        };
        assert_eq!(line(1024), "8:16 rbps=1024");
        assert_eq!(line(0), "8:16 rbps=max");
    }

    #[test]
    fn nonsense_is_refused() {
        let weight = |weight| BlockIo {
            weight: Some(weight),
            ..BlockIo::default()
        };
        for good in [0, 10, 1000] {
            check(&weight(good)).unwrap();
        }
        for bad in [1, 9, 1001] {
            assert!(check(&weight(bad)).is_err(), "{bad}");
        }
        let rates = BlockIo {
            throttle_write_iops_device: vec![ThrottleDevice {
                major: -1,
                minor: 0,
                rate: 1,
            }],
            ..BlockIo::default()
        };
        assert!(check(&rates).is_err());
    }
}
