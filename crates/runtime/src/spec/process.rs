//! The parts of `process` that concern scheduling (runtime-spec, config.md, "Linux Process").

use serde::{Deserialize, Serialize};

/// `process.scheduler`: arguments of sched_setattr(2).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Scheduler {
    /// Policy. Required.
    pub policy: SchedulerPolicy,
    /// Niceness, -20 to 19, for the policies other than real-time ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nice: i32,
    /// Static priority, 1 to 99, of `SCHED_FIFO` and `SCHED_RR`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<SchedulerFlag>,
    /// Nanoseconds of processor time in each period, for `SCHED_DEADLINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<u64>,
    /// Nanoseconds in which the processor time is given, for `SCHED_DEADLINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// Nanoseconds of a period, for `SCHED_DEADLINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
}

fn is_zero(value: &i32) -> bool {
    *value == 0
}

/// A scheduling policy, numbered as the kernel does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum SchedulerPolicy {
    SchedOther = 0,
    SchedFifo = 1,
    SchedRr = 2,
    SchedBatch = 3,
    SchedIso = 4,
    SchedIdle = 5,
    SchedDeadline = 6,
}

/// A flag of sched_setattr(2), valued as the kernel does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum SchedulerFlag {
    SchedFlagResetOnFork = 0x1,
    SchedFlagReclaim = 0x2,
    SchedFlagDlOverrun = 0x4,
    SchedFlagKeepPolicy = 0x8,
    SchedFlagKeepParams = 0x10,
    SchedFlagUtilClampMin = 0x20,
    SchedFlagUtilClampMax = 0x40,
}

/// `process.ioPriority`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct IoPriority {
    /// Class. Required.
    pub class: IoPriorityClass,
    /// Priority in the class, 0 (highest) to 7.
    #[serde(default)]
    pub priority: i32,
}

/// A class of I/O priorities, numbered as the kernel does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum IoPriorityClass {
    IoprioClassRt = 1,
    IoprioClassBe = 2,
    IoprioClassIdle = 3,
}

/// `process.execCPUAffinity`: processors of a process of `exec`, as lists such as `0-3,7`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct CpuAffinity {
    /// While it moves to the container's control group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub initial: String,
    /// From then on.
    #[serde(rename = "final", skip_serializing_if = "String::is_empty")]
    pub last: String,
}
