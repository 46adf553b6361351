//! Reading what the hierarchies count, by the rules that runc has for bringing both
//! versions into one form.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::group::{Group, Member};
use super::statistics::{
    BlockEntry, BlockStatistics, CpusetStatistics, HugetlbStatistics, MemoryStatistics,
    MemoryUsage, Pressure, PressureLine, RdmaStatistics, Statistics,
};
use super::{CgroupError, file};

/// Ticks of version 1's `cpuacct.stat` in a second: the same on every architecture.
const TICKS: u64 = 100;

/// Version 1 says this, rounded down to a page, for no limit.
const NO_LIMIT: u64 = u64::MAX;

pub(super) fn count(group: &Group) -> Result<Statistics, CgroupError> {
    let mut statistics = Statistics::default();
    count_cpu(group, &mut statistics)?;
    if let Some(member) = group.v1("cpuset") {
        statistics.cpuset = cpuset_v1(&Files(member))?;
    }
    if let Some(member) = group.v1("memory") {
        memory_v1(&Files(member), &mut statistics.memory)?;
    } else if let Some(member) = group.v2() {
        memory_v2(&Files(member), &mut statistics.memory)?;
    }
    if let Some(files) = with(group, "pids") {
        statistics.pids.current = files.number("pids.current")?;
        statistics.pids.limit = match files.text("pids.max")?.trim_ascii() {
            "max" => 0,
            text => text.parse().unwrap_or(0),
        };
    }
    if let Some(member) = group.v1("blkio") {
        statistics.blkio = block_v1(&Files(member))?;
    } else if let Some(member) = group.v2() {
        statistics.blkio = block_v2(&Files(member))?;
    }
    if let Some(files) = with(group, "hugetlb") {
        for size in page_sizes() {
            statistics.hugetlb.extend(hugetlb(&files, &size)?);
        }
    }
    if let Some(files) = with(group, "rdma") {
        statistics.rdma = rdma(&files.text("rdma.current")?);
    }
    Ok(statistics)
}

/// The directory that has a controller's files, if any has.
fn with<'a>(group: &'a Group, controller: &str) -> Option<Files<'a>> {
    group.v1(controller).or_else(|| group.v2()).map(Files)
}

/// The files of a directory; what is missing is empty or 0.
struct Files<'a>(Member<'a>);

impl Files<'_> {
    fn find(&self, name: &str) -> Result<Option<String>, CgroupError> {
        match file::read(self.0.directory, name) {
            Ok(text) => Ok(Some(text)),
            // Pressure may be switched off on the command line of the kernel.
            Err(error)
                if [Errno::NOENT, Errno::OPNOTSUPP]
                    .iter()
                    .any(|e| file::is(&error, *e)) =>
            {
                Ok(None)
            }
            Err(source) => Err(CgroupError::Read {
                path: format!("{}/{name}", self.0.absolute()),
                source,
            }),
        }
    }

    fn text(&self, name: &str) -> Result<String, CgroupError> {
        Ok(self.find(name)?.unwrap_or_default())
    }

    /// The one number of a file; `max` is the largest there is.
    fn number(&self, name: &str) -> Result<u64, CgroupError> {
        Ok(parse_number(&self.text(name)?))
    }

    fn pressure(&self, name: &str) -> Result<Option<Pressure>, CgroupError> {
        Ok(self.find(name)?.map(|text| pressure(&text)))
    }
}

fn parse_number(text: &str) -> u64 {
    match text.trim_ascii() {
        "max" => NO_LIMIT,
        text => text.parse().unwrap_or(0),
    }
}

/// The lines `key number` of a file.
fn numbers(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim_ascii().parse().ok()?))
    })
}

fn pressure(text: &str) -> Pressure {
    let line = |kind: &str| {
        let mut found = PressureLine::default();
        let words = text
            .lines()
            .find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        for word in words.unwrap_or_default().split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let average = value.parse().unwrap_or(0.0);
            match key {
                "avg10" => found.avg10 = average,
                "avg60" => found.avg60 = average,
                "avg300" => found.avg300 = average,
                "total" => found.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        found
    };
    Pressure {
        some: line("some"),
        full: line("full"),
    }
}

fn count_cpu(group: &Group, statistics: &mut Statistics) -> Result<(), CgroupError> {
    let usage = &mut statistics.cpu.usage;
    let v1 = group.v1("cpuacct");
    if let Some(member) = v1 {
        let files = Files(member);
        usage.total = files.number("cpuacct.usage")?;
        let list = |text: String| -> Vec<u64> {
            let numbers = text.split_ascii_whitespace();
            numbers.filter_map(|word| word.parse().ok()).collect()
        };
        usage.percpu = list(files.text("cpuacct.usage_percpu")?);
        usage.percpu_user = list(files.text("cpuacct.usage_percpu_user")?);
        usage.percpu_kernel = list(files.text("cpuacct.usage_percpu_sys")?);
        for (key, ticks) in numbers(&files.text("cpuacct.stat")?) {
            let nanoseconds = ticks.saturating_mul(1_000_000_000 / TICKS);
            match key {
                "user" => usage.user = nanoseconds,
                "system" => usage.kernel = nanoseconds,
                _ => {}
            }
        }
    }
    let throttling = &mut statistics.cpu.throttling;
    if let Some(member) = group.v1("cpu") {
        for (key, number) in numbers(&Files(member).text("cpu.stat")?) {
            match key {
                "nr_periods" => throttling.periods = number,
                "nr_throttled" => throttling.throttled_periods = number,
                "throttled_time" => throttling.throttled_time = number,
                _ => {}
            }
        }
    } else if let Some(member) = group.v2() {
        let files = Files(member);
        for (key, number) in numbers(&files.text("cpu.stat")?) {
            let nanoseconds = number.saturating_mul(1000);
            match key {
                "usage_usec" if v1.is_none() => usage.total = nanoseconds,
                "user_usec" if v1.is_none() => usage.user = nanoseconds,
                "system_usec" if v1.is_none() => usage.kernel = nanoseconds,
                "nr_periods" => throttling.periods = number,
                "nr_throttled" => throttling.throttled_periods = number,
                "throttled_usec" => throttling.throttled_time = nanoseconds,
                _ => {}
            }
        }
        statistics.cpu.psi = files.pressure("cpu.pressure")?;
    }
    Ok(())
}

fn cpuset_v1(files: &Files<'_>) -> Result<CpusetStatistics, CgroupError> {
    let flag = |name: &str| files.number(&format!("cpuset.{name}"));
    let level = files.text("cpuset.sched_relax_domain_level")?;
    Ok(CpusetStatistics {
        cpus: expand(&files.text("cpuset.cpus")?),
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: expand(&files.text("cpuset.mems")?),
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: level.trim_ascii().parse().unwrap_or(0),
    })
}

/// The numbers of a list such as `0-2,7`.
fn expand(list: &str) -> Vec<u16> {
    let mut numbers = Vec::new();
    for part in list.trim_ascii().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

fn memory_v1(files: &Files<'_>, memory: &mut MemoryStatistics) -> Result<(), CgroupError> {
    let usage = |kind: &str| -> Result<MemoryUsage, CgroupError> {
        let number = |name: &str| files.number(&format!("memory.{kind}{name}"));
        Ok(MemoryUsage {
            limit: number("limit_in_bytes")?,
            usage: number("usage_in_bytes")?,
            max: number("max_usage_in_bytes")?,
            failcnt: number("failcnt")?,
        })
    };
    memory.usage = usage("")?;
    memory.swap = usage("memsw.")?;
    memory.kernel = usage("kmem.")?;
    memory.kernel_tcp = usage("kmem.tcp.")?;
    let text = files.text("memory.stat")?;
    memory.raw = numbers(&text)
        .map(|(key, number)| (key.to_owned(), number))
        .collect();
    // That of the groups inside it too.
    memory.cache = memory.raw.get("total_cache").copied().unwrap_or(0);
    Ok(())
}

fn memory_v2(files: &Files<'_>, memory: &mut MemoryStatistics) -> Result<(), CgroupError> {
    let Some(text) = files.find("memory.stat")? else {
        return Ok(());
    };
    memory.raw = numbers(&text)
        .map(|(key, number)| (key.to_owned(), number))
        .collect();
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    memory.psi = files.pressure("memory.pressure")?;
    let events = files.text("memory.events")?;
    memory.usage = MemoryUsage {
        limit: files.number("memory.max")?,
        usage: files.number("memory.current")?,
        // Linux 5.19.
        max: files.number("memory.peak")?,
        failcnt: file::number_of_key(&events, "max").unwrap_or(0),
    };
    // As version 1 counts it, memory and swap together.
    let Some(swap) = files.find("memory.swap.current")? else {
        return Ok(());
    };
    let swap_limit = files.number("memory.swap.max")?;
    let limit = match memory.usage.limit {
        NO_LIMIT => NO_LIMIT,
        limit => limit.saturating_add(swap_limit),
    };
    memory.swap = MemoryUsage {
        limit,
        usage: memory.usage.usage.saturating_add(parse_number(&swap)),
        max: 0,
        failcnt: 0,
    };
    Ok(())
}

fn block_v1(files: &Files<'_>) -> Result<BlockStatistics, CgroupError> {
    // Those of BFQ where a device has that scheduler, those of CFQ on old kernels, and
    // those of throttling, which count always.
    let table = |name: &str| -> Result<Vec<BlockEntry>, CgroupError> {
        for prefix in ["blkio.bfq.", "blkio."] {
            let entries = block_entries(&files.text(&format!("{prefix}{name}_recursive"))?);
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        let throttled = files.text(&format!("blkio.throttle.{name}_recursive"))?;
        Ok(block_entries(&throttled))
    };
    Ok(BlockStatistics {
        io_service_bytes_recursive: table("io_service_bytes")?,
        io_serviced_recursive: table("io_serviced")?,
        io_queued_recursive: table("io_queued")?,
        io_service_time_recursive: table("io_service_time")?,
        io_wait_time_recursive: table("io_wait_time")?,
        io_merged_recursive: table("io_merged")?,
        io_time_recursive: table("time")?,
        sectors_recursive: table("sectors")?,
        psi: None,
    })
}

/// Lines such as `8:0 Read 4096` or `8:0 4096`; the total over all devices is left out.
fn block_entries(text: &str) -> Vec<BlockEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split([' ', ':']);
            let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let word = words.next()?;
            let (op, value) = match words.next() {
                Some(value) => (word, value),
                None => ("", word),
            };
            Some(BlockEntry {
                major,
                minor,
                op: op.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

fn block_v2(files: &Files<'_>) -> Result<BlockStatistics, CgroupError> {
    let mut block = BlockStatistics {
        psi: files.pressure("io.pressure")?,
        ..BlockStatistics::default()
    };
    for line in files.text("io.stat")?.lines() {
        let mut words = line.split_ascii_whitespace();
        let numbers = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) =
            numbers.map(|(major, minor)| (major.parse(), minor.parse()))
        else {
            continue;
        };
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let (is_bytes, op) = match key {
                "rbytes" => (true, "Read"),
                "wbytes" => (true, "Write"),
                "dbytes" => (true, "Discard"),
                "rios" => (false, "Read"),
                "wios" => (false, "Write"),
                "dios" => (false, "Discard"),
                _ => continue,
            };
            let entry = BlockEntry {
                major,
                minor,
                op: op.to_owned(),
                value: value.parse().unwrap_or(0),
            };
            if is_bytes {
                block.io_service_bytes_recursive.push(entry);
            } else {
                block.io_serviced_recursive.push(entry);
            }
        }
    }
    Ok(block)
}

fn hugetlb(
    files: &Files<'_>,
    size: &str,
) -> Result<Option<(String, HugetlbStatistics)>, CgroupError> {
    let found = if files.0.hierarchy.is_v2() {
        let Some(usage) = files.find(&format!("hugetlb.{size}.current"))? else {
            return Ok(None);
        };
        let events = files.text(&format!("hugetlb.{size}.events"))?;
        HugetlbStatistics {
            usage: parse_number(&usage),
            max: 0,
            failcnt: file::number_of_key(&events, "max").unwrap_or(0),
        }
    } else {
        let number = |name: &str| files.number(&format!("hugetlb.{size}.{name}"));
        HugetlbStatistics {
            usage: number("usage_in_bytes")?,
            max: number("max_usage_in_bytes")?,
            failcnt: number("failcnt")?,
        }
    };
    Ok(Some((size.to_owned(), found)))
}

/// Sizes of the host's huge pages, as control files name them.
fn page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
    let names = entries.into_iter().flatten().filter_map(Result::ok);
    names
        .filter_map(|entry| page_size(entry.file_name().to_str()?))
        .collect()
}

/// `2MB` for `hugepages-2048kB`.
fn page_size(name: &str) -> Option<String> {
    let kilobytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    let kilobytes: u64 = kilobytes.parse().ok()?;
    Some(match kilobytes {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    })
}

fn rdma(text: &str) -> BTreeMap<String, RdmaStatistics> {
    let mut devices = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(device) = words.next() else {
            continue;
        };
        let mut found = RdmaStatistics::default();
        for word in words {
            match word.split_once('=') {
                Some(("hca_handle", value)) => found.hca_handles = parse_number(value),
                Some(("hca_object", value)) => found.hca_objects = parse_number(value),
                _ => {}
            }
        }
        devices.insert(device.to_owned(), found);
    }
    devices
}
