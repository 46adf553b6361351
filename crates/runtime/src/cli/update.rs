//! `update`.

use std::fs;
use std::io::{self, Read as _};

use gantry_runtime::spec::{BlockIo, Cpu, Memory, Pids, Resources};

use super::arguments::Arguments;
use super::error::{CliError, Context as _};
use super::options::Global;
use super::state::{self, Place, Status};

/// The most that is read of limits in JSON.
const MAX_RESOURCES: u64 = 4 << 20;

/// `update`.
///
/// # Errors
/// [`CliError`].
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let (resources, rdt) = parse(words)?;
    let id = words.id()?;
    words.end()?;
    update(global, &id, &resources, rdt)
        .map_err(|error| error.during(format!("cannot update container {id}")))
}

/// Reads the flags: limits, and whether any of them is one of Intel RDT.
fn parse(words: &mut Arguments) -> Result<(Resources, bool), CliError> {
    let mut memory = Memory::default();
    let mut cpu = Cpu::default();
    let mut resources = Resources::default();
    let mut file = None;
    let mut rdt = false;
    while let Some(flag) = words.flag() {
        match flag.name() {
            "resources" | "r" => file = Some(words.value(flag)?),
            "memory" => memory.limit = bytes(words, flag)?,
            "memory-reservation" => memory.reservation = bytes(words, flag)?,
            "memory-swap" => memory.swap = bytes(words, flag)?,
            // Without effect since Linux 5.4, and in runc as well.
            "kernel-memory" | "kernel-memory-tcp" => drop(words.value(flag)?),
            "cpu-share" => cpu.shares = some(words.number(flag)?),
            "cpu-quota" => cpu.quota = some(words.number(flag)?),
            "cpu-period" => cpu.period = some(words.number(flag)?),
            "cpu-burst" => cpu.burst = Some(words.number(flag)?),
            "cpu-idle" => cpu.idle = Some(words.number(flag)?),
            "cpu-rt-runtime" => cpu.realtime_runtime = some(words.number(flag)?),
            "cpu-rt-period" => cpu.realtime_period = some(words.number(flag)?),
            "cpuset-cpus" => cpu.cpus = words.value(flag)?,
            "cpuset-mems" => cpu.mems = words.value(flag)?,
            "blkio-weight" => {
                resources.block_io = some(words.number(flag)?).map(|weight| BlockIo {
                    weight: Some(weight),
                    ..BlockIo::default()
                });
            }
            "pids-limit" => {
                resources.pids = some(words.number(flag)?).map(|limit| Pids { limit });
            }
            "l3-cache-schema" | "mem-bw-schema" => rdt |= !words.value(flag)?.is_empty(),
            _ => return Err(flag.unknown()),
        }
    }
    if let Some(file) = file {
        return Ok((read(&file)?, false));
    }
    resources.memory = Some(memory);
    resources.cpu = Some(cpu);
    Ok((resources, rdt))
}

/// As in runc, nothing is as good as no flag.
fn some<N: Default + PartialEq>(number: N) -> Option<N> {
    (number != N::default()).then_some(number)
}

/// Bytes: a number, with a unit if wanted; -1 for no limit.
fn bytes(words: &mut Arguments, flag: super::arguments::Flag) -> Result<Option<i64>, CliError> {
    let name = flag.name().to_owned();
    let text = words.value(flag)?;
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = parse_bytes(&text).ok_or_else(|| {
        CliError::Usage(format!(
            "flag --{name} takes bytes such as 1048576, 512k or 1g, or -1, not {text:?}"
        ))
    })?;
    Ok(some(parsed))
}

fn parse_bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").unwrap_or(&lower);
    let lower = lower.strip_suffix('b').unwrap_or(lower);
    let (digits, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        b'p' => (&lower[..lower.len() - 1], 50),
        _ => (lower, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

fn read(file: &str) -> Result<Resources, CliError> {
    let mut text = Vec::new();
    if file == "-" {
        io::stdin()
            .take(MAX_RESOURCES)
            .read_to_end(&mut text)
            .step("cannot read limits from standard input")?;
    } else {
        fs::File::open(file)
            .and_then(|opened| opened.take(MAX_RESOURCES).read_to_end(&mut text))
            .file("read", file)?;
    }
    let mut resources: Resources =
        serde_json::from_slice(&text).map_err(|source| CliError::Json {
            path: file.into(),
            source,
        })?;
    // Zeroes stand for what stays as it is: runc documents a form full of them.
    if let Some(memory) = &mut resources.memory {
        for limit in [&mut memory.limit, &mut memory.reservation, &mut memory.swap] {
            *limit = limit.and_then(some);
        }
    }
    if let Some(cpu) = &mut resources.cpu {
        cpu.shares = cpu.shares.and_then(some);
        cpu.quota = cpu.quota.and_then(some);
        cpu.period = cpu.period.and_then(some);
        cpu.realtime_runtime = cpu.realtime_runtime.and_then(some);
        cpu.realtime_period = cpu.realtime_period.and_then(some);
    }
    if let Some(block_io) = &mut resources.block_io {
        block_io.weight = block_io.weight.and_then(some);
    }
    resources.pids = resources.pids.filter(|pids| pids.limit != 0);
    Ok(resources)
}

fn update(global: &Global, id: &str, resources: &Resources, rdt: bool) -> Result<(), CliError> {
    let mut place = Place::open(&global.root, id)?;
    place.lock()?;
    let record = place.record()?;
    if place.status(&record) == Status::Stopped {
        return Err(CliError::NotRunning { id: id.to_owned() });
    }
    if rdt {
        return Err(CliError::Invalid(
            "Intel RDT cannot be changed by update; linux.intelRdt of config.json sets it".into(),
        ));
    }
    let group = state::group(&record)?.ok_or_else(|| {
        CliError::Invalid(format!(
            "container {id} has no control group to be limited by"
        ))
    })?;
    for warning in group.update(resources)? {
        global.log.warning(&warning);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_runc_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("1048576", Some(1 << 20)),
            ("512k", Some(512 << 10)),
            ("64M", Some(64 << 20)),
            ("2gb", Some(2 << 30)),
            ("2GiB", Some(2 << 30)),
            ("", None),
            ("k", None),
            ("-2", None),
            ("1.5g", None),
            ("9999999999g", None),
        ] {
            assert_eq!(parse_bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn flags_become_limits() {
        let words = [
            "--memory",
            "64m",
            "--cpu-share=512",
            "--cpu-quota",
            "0",
            "--pids-limit=7",
        ];
        let mut words = Arguments::new(words.iter().map(std::ffi::OsString::from)).unwrap();
        let (resources, _) = parse(&mut words).unwrap();
        assert_eq!(resources.memory.unwrap().limit, Some(64 << 20));
        let cpu = resources.cpu.unwrap();
        assert_eq!((cpu.shares, cpu.quota), (Some(512), None));
        assert_eq!(resources.pids.unwrap().limit, 7);
    }
}
