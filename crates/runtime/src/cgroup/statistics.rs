//! What a group has used.

use std::collections::BTreeMap;

use serde::Serialize;

use super::group::Group;
use super::{CgroupError, file};

/// What a group has used, in the form of `data` of runc's `events --stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Processor time.
    pub cpu: CpuStatistics,
    /// Processors and memory nodes; version 1 only, as with runc.
    pub cpuset: CpusetStatistics,
    /// Memory.
    pub memory: MemoryStatistics,
    /// Tasks.
    pub pids: PidsStatistics,
    /// Block devices.
    pub blkio: BlockStatistics,
    /// Huge pages by their size, such as `2MB`.
    pub hugetlb: BTreeMap<String, HugetlbStatistics>,
    /// Resources of RDMA devices, by the device; absent where there is none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rdma: BTreeMap<String, RdmaStatistics>,
    /// Cache and memory bandwidth: not counted by control groups. Always empty.
    pub intel_rdt: Empty,
    /// Interfaces: not counted by control groups. Always `null`.
    pub network_interfaces: Option<Empty>,
}

/// An object without members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Empty {}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How long tasks waited for a resource (kernel, accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// While some task waited.
    pub some: PressureLine,
    /// While all tasks waited.
    pub full: PressureLine,
}

/// One line of pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PressureLine {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
    /// Microseconds in all.
    pub total: u64,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpuStatistics {
    /// What was used.
    pub usage: CpuUsage,
    /// What the quota took away.
    pub throttling: Throttling,
    /// Waiting for a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Processor time used, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// In all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// By processor; version 1 only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// In the kernel, by processor; version 1 only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// In programs, by processor; version 1 only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// Effects of a processor quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods in which the group ran.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Periods in which it was stopped.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// For how long, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Sets of processors and memory nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpusetStatistics {
    /// Processors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    /// Flag of this name.
    pub cpu_exclusive: u64,
    /// Memory nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    /// Flag of this name.
    pub mem_hardwall: u64,
    /// Flag of this name.
    pub mem_exclusive: u64,
    /// Flag of this name.
    pub memory_migrate: u64,
    /// Flag of this name.
    pub memory_spread_page: u64,
    /// Flag of this name.
    pub memory_spread_slab: u64,
    /// Rate of attempts to free memory.
    pub memory_pressure: u64,
    /// Flag of this name.
    pub sched_load_balance: u64,
    /// Level of this name.
    pub sched_relax_domain_level: i64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryStatistics {
    /// Page cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory.
    pub usage: MemoryUsage,
    /// Memory and swap together, in both versions.
    pub swap: MemoryUsage,
    /// Memory of the kernel.
    pub kernel: MemoryUsage,
    /// Memory of TCP buffers.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryUsage,
    /// The numbers of `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Waiting for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One kind of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MemoryUsage {
    /// Limit; the largest number there is where there is none.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most that was in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// Tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PidsStatistics {
    /// In the group and below it.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// Limit; 0 where there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Block devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockStatistics {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockEntry>,
    /// Operations in the queue.
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlockEntry>,
    /// Nanoseconds between dispatch and completion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlockEntry>,
    /// Nanoseconds in the queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlockEntry>,
    /// Operations that were merged with others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlockEntry>,
    /// Milliseconds of the device's time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlockEntry>,
    /// Sectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlockEntry>,
    /// Waiting for devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// A number about a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BlockEntry {
    /// Major number of the device.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// Minor number of the device.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// The operation, such as `Read`; empty where all are counted together.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The number.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HugetlbStatistics {
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most that was in use; version 1 only.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// An RDMA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RdmaStatistics {
    /// Handles in use.
    pub hca_handles: u64,
    /// Objects in use.
    pub hca_objects: u64,
}

impl Group {
    /// How many processes of the group were killed for want of memory. `None` where the
    /// host does not count.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn oom_kill_count(&self) -> Result<Option<u64>, CgroupError> {
        if let Some(member) = self.v1("memory") {
            let text = member.read("memory.oom_control")?;
            return Ok(file::number_of_key(&text, "oom_kill"));
        }
        // Its own events, and those of groups inside it.
        let text = self.read_v2("memory.events")?;
        Ok(text.and_then(|text| file::number_of_key(&text, "oom_kill")))
    }

    /// Memory in use, in bytes, page cache included. `None` without a memory controller.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn memory_usage(&self) -> Result<Option<u64>, CgroupError> {
        let text = match self.v1("memory") {
            Some(member) => Some(member.read("memory.usage_in_bytes")?),
            None => self.read_v2("memory.current")?,
        };
        Ok(text.and_then(|text| text.trim_ascii().parse().ok()))
    }

    /// Processor time used, in nanoseconds. `None` without a controller that counts it.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn cpu_usage(&self) -> Result<Option<u64>, CgroupError> {
        if let Some(member) = self.v1("cpuacct") {
            let text = member.read("cpuacct.usage")?;
            return Ok(text.trim_ascii().parse().ok());
        }
        // Counted in every group of version 2, controller or not.
        let text = self.read_v2("cpu.stat")?;
        let microseconds = text.and_then(|text| file::number_of_key(&text, "usage_usec"));
        Ok(microseconds.map(|microseconds| microseconds.saturating_mul(1000)))
    }

    /// Number of tasks in the group. `None` without the pids controller.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn task_count(&self) -> Result<Option<u64>, CgroupError> {
        let text = match self.v1("pids") {
            Some(member) => Some(member.read("pids.current")?),
            None => self.read_v2("pids.current")?,
        };
        Ok(text.and_then(|text| text.trim_ascii().parse().ok()))
    }

    /// All that the hierarchies count of the group.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn statistics(&self) -> Result<Statistics, CgroupError> {
        super::count::count(self)
    }

    /// A file of version 2, unless the group lacks it.
    pub(super) fn read_v2(&self, name: &str) -> Result<Option<String>, CgroupError> {
        let Some(member) = self.v2() else {
            return Ok(None);
        };
        match file::read(member.directory, name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if file::is(&error, rustix::io::Errno::NOENT) => Ok(None),
            Err(source) => Err(CgroupError::Read {
                path: format!("{}/{name}", member.absolute()),
                source,
            }),
        }
    }
}
