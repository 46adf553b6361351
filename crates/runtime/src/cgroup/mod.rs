//! Control groups, version 1, version 2 and both beside each other.
//!
//! A [`Layout`] says where the host has its hierarchies, a [`Group`] is one group in all
//! of them: made by [`Group::create`], limited by [`Group::apply`], entered through
//! [`Group::join_files`] and [`Group::v2_directory`], ended by [`Group::kill`] and
//! [`Group::remove`].
//!
//! For an OCI runtime, by its commands:
//! - `create`, `run`: [`Placement::resolve`] turns `linux.cgroupsPath` and the driver into
//!   a place (keep it in the container's record, it has serde), with
//!   [`Placement::with_annotations`] for `org.systemd.property.*`; [`Group::create_at`]
//!   makes the group there. Then [`Group::apply`] with `linux.resources` after
//!   [`with_default_devices`], which also serves for absent or empty resources. The
//!   process is born into it by `v2_directory` and `join_files` as ever. With systemd the
//!   group holds a process of its own that keeps the scope alive until the [`Group`] is
//!   dropped, so drop it only after the birth.
//! - every later command: [`Group::open_at`] with the recorded place; `exec` joins through
//!   the same files, [`Group::sub_group`] for `exec --cgroup`.
//! - `update`: [`Group::update`] with the resources to change.
//! - `pause`, `resume`, `state`: [`Group::freeze`], [`Group::thaw`], [`Group::is_frozen`].
//! - `ps`: [`Group::processes`]. `kill --all`: [`Group::signal`]; with `SIGKILL`:
//!   [`Group::kill`].
//! - `events`: [`Group::statistics`], whose JSON form is runc's, and [`Group::watch_oom`].
//! - `delete`: [`Group::kill`], [`Group::wait_until_empty`], then [`Group::remove`], or
//!   [`remove_at`] where the group may be gone in part.
//!
//! What a call returns as warnings are lines for the user; nothing is logged here.
//!
//! Directories are named by path, relative to the mount of their hierarchy: the kernel
//! owns these file systems and has no symbolic links in them. The files in a directory
//! are opened relative to its descriptor.

mod apply;
mod block;
mod count;
mod cpu;
mod dbus;
mod device_program;
mod devices;
mod file;
pub(crate) mod fuzzing;
mod group;
mod hugetlb;
mod layout;
mod limits;
mod memory;
mod network;
mod oom;
mod placement;
mod processes;
mod statistics;
mod systemd;
mod unified;
mod unit;

#[cfg(test)]
mod tests;

use std::io;

pub use dbus::DbusError;
pub use devices::{default_device_rules, with_default_devices};
pub use group::{Group, list, remove_by_path};
pub use layout::{Hierarchy, Layout};
pub use oom::{OomEvent, OomWatch};
pub use placement::{Driver, Placement, Unit};
pub use statistics::{
    BlockEntry, BlockStatistics, CpuStatistics, CpuUsage, CpusetStatistics, Empty,
    HugetlbStatistics, MemoryStatistics, MemoryUsage, PidsStatistics, Pressure, PressureLine,
    RdmaStatistics, Statistics, Throttling,
};
pub use unit::remove_at;

/// Why something could not be done with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mounts of this process could not be read.
    #[error("cannot find the control group mounts in /proc/self/mountinfo")]
    Detect {
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The host has no control group hierarchy mounted.
    #[error("no control group hierarchy is mounted")]
    NoHierarchy,
    /// A path that is empty, too long, or climbs out of the hierarchy.
    #[error("invalid control group path {path:?}")]
    InvalidPath {
        /// As it was given.
        path: String,
    },
    /// The directory of a group could not be made.
    #[error("cannot create control group {path}")]
    Create {
        /// Absolute path of the directory.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A group of this path exists and has processes in it.
    #[error("control group {path} is in use")]
    InUse {
        /// Absolute path of the directory.
        path: String,
    },
    /// No hierarchy has the group.
    #[error("no control group {path}")]
    NotFound {
        /// Path below the root of the hierarchies.
        path: String,
    },
    /// The directory of a group could not be opened.
    #[error("cannot open control group {path}")]
    Open {
        /// Absolute path of the directory.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A control file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Absolute path of the file.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A control file did not take a value.
    #[error("cannot write {value:?} to {path}")]
    Write {
        /// Absolute path of the file.
        path: String,
        /// What was written.
        value: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A limit is asked for whose controller the host has, but not for this group.
    #[error(
        "controller {controller} is not available in control group {path}: a group above it \
         holds processes or is threaded"
    )]
    NotDelegated {
        /// Absolute path of the directory.
        path: String,
        /// Name of the controller.
        controller: &'static str,
    },
    /// A limit is asked for in a hierarchy that the caller may not write to.
    #[error("cannot limit {what} without privileges: control group {path} cannot be made")]
    Unprivileged {
        /// Absolute path of the directory.
        path: String,
        /// Name of the controller.
        what: &'static str,
    },
    /// `linux.cgroupsPath` or an annotation does not make a unit of systemd's.
    #[error("invalid systemd unit {value:?}: {reason}")]
    InvalidUnit {
        /// As it was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// systemd did not do what it was asked.
    #[error("cannot {operation}")]
    Systemd {
        /// What was attempted, and on what.
        operation: String,
        /// Cause.
        #[source]
        source: DbusError,
    },
    /// The job of a unit did not succeed.
    #[error("cannot start unit {unit}: the job of systemd is {result}")]
    SystemdJob {
        /// Name of the unit.
        unit: String,
        /// Result of the job, such as `failed` or `timeout`.
        result: String,
    },
    /// The process that keeps a scope alive could not be made.
    #[error("cannot make a process for unit {unit}")]
    Placeholder {
        /// Name of the unit.
        unit: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A limit is below what is in use, and the configuration asks to check.
    #[error("the memory limit {limit} is below what is in use, {usage}")]
    BelowUsage {
        /// Bytes asked for.
        limit: u64,
        /// Bytes in use.
        usage: u64,
    },
    /// `unified` names a file that is none.
    #[error("unified resource {key:?} {reason}")]
    InvalidUnified {
        /// As it was given.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `unified` is asked for on a host with version 1.
    #[error("invalid configuration: cannot use unified on cgroup v1")]
    NoUnified,
    /// Running out of memory cannot be watched.
    #[error("cannot watch {path}")]
    Watch {
        /// Absolute path of the file.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A limit that contradicts itself or another one.
    #[error("invalid {resource} {value}: {reason}")]
    InvalidResource {
        /// What the limit is on.
        resource: &'static str,
        /// As it was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A device rule with an unknown type, access or number.
    #[error("invalid device rule: {field} {value:?}")]
    InvalidDeviceRule {
        /// Field of the rule.
        field: &'static str,
        /// As it was given.
        value: String,
    },
    /// Version 1 cannot except a device from a rule that is an exception itself.
    #[error("device rule {rule:?} cuts into an earlier rule, which cgroup v1 cannot express")]
    DeviceRuleOrder {
        /// The later rule, as cgroup v1 would write it.
        rule: String,
    },
    /// The device filter of version 2 could not be put in place.
    #[error("cannot {step} the device filter of control group {path}")]
    DeviceProgram {
        /// What was attempted.
        step: &'static str,
        /// Absolute path of the directory.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A process of a group could not be signalled.
    #[error("cannot kill process {pid} of control group {path}")]
    Kill {
        /// Process id.
        pid: i32,
        /// Path below the root of the hierarchies.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A group did not reach a state in time.
    #[error("control group {path} is not {state} after {milliseconds} ms")]
    Timeout {
        /// Path below the root of the hierarchies.
        path: String,
        /// The state: frozen, thawed, empty.
        state: &'static str,
        /// How long was waited.
        milliseconds: u128,
    },
    /// Neither version's freezer is there.
    #[error("control group {path} cannot be frozen: the host has no freezer")]
    NoFreezer {
        /// Path below the root of the hierarchies.
        path: String,
    },
    /// Some directories of a group could not be removed; the others are.
    #[error("cannot remove control group {}", describe(.failures))]
    Remove {
        /// Absolute paths of the directories, and what the kernel said.
        failures: Vec<(String, io::Error)>,
    },
}

fn describe(failures: &[(String, io::Error)]) -> String {
    let texts: Vec<String> = failures
        .iter()
        .map(|(path, error)| format!("{path} ({error})"))
        .collect();
    texts.join(", ")
}
