//! Parts of `linux` of config.json (runtime-spec, config-linux.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A range of ids: one line of `/proc/PID/uid_map`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IdMapping {
    /// First id in the namespace.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside of it.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// Number of ids.
    pub size: u32,
}

/// `linux.timeOffsets`: offsets of the clocks of a new time namespace, by the name of the
/// clock (`monotonic`, `boottime`).
pub type TimeOffsets = BTreeMap<String, TimeOffset>;

/// One of `linux.timeOffsets`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanosecs: u32,
}

/// One of `linux.netDevices`: a network interface that moves into the container.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NetDevice {
    /// Its name in the container; empty keeps the name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// `linux.personality`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Personality {
    /// Execution domain. Required.
    pub domain: PersonalityDomain,
    /// Flags; the specification defines none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// An execution domain, numbered as personality(2) does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PersonalityDomain {
    /// The native one.
    Linux = 0,
    /// uname(2) shows a 32-bit machine.
    Linux32 = 8,
}

/// `linux.memoryPolicy`: arguments of set_mempolicy(2).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MemoryPolicy {
    /// Mode. Required.
    pub mode: MemoryPolicyMode,
    /// Nodes, as a list such as `0-3,7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nodes: String,
    /// Flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<MemoryPolicyFlag>,
}

/// A mode of set_mempolicy(2), numbered as the kernel does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum MemoryPolicyMode {
    MpolDefault = 0,
    MpolPreferred = 1,
    MpolBind = 2,
    MpolInterleave = 3,
    MpolLocal = 4,
    MpolPreferredMany = 5,
    MpolWeightedInterleave = 6,
}

/// A flag of set_mempolicy(2), valued as the kernel does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum MemoryPolicyFlag {
    #[serde(rename = "MPOL_F_NUMA_BALANCING")]
    NumaBalancing = 1 << 13,
    #[serde(rename = "MPOL_F_RELATIVE_NODES")]
    RelativeNodes = 1 << 14,
    #[serde(rename = "MPOL_F_STATIC_NODES")]
    StaticNodes = 1 << 15,
}

/// `linux.intelRdt`: a class of service of resctrl.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IntelRdt {
    /// Name of the class; empty means the container's id.
    #[serde(rename = "closID", skip_serializing_if = "String::is_empty")]
    pub clos_id: String,
    /// Lines of the file `schemata`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// Line for the level 3 cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// Line for the memory bandwidth.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// Whether a monitoring group of the container's own is made.
    #[serde(skip_serializing_if = "is_false")]
    pub enable_monitoring: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}
