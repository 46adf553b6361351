//! Control groups, version 1, version 2 and both beside each other.
//!
//! A [`Layout`] says where the host has its hierarchies, a [`Group`] is one group in all
//! of them: made by [`Group::create`], limited by [`Group::apply`], entered through
//! [`Group::join_files`] and [`Group::v2_directory`], ended by [`Group::kill`] and
//! [`Group::remove`].
//!
//! Directories are named by path, relative to the mount of their hierarchy: the kernel
//! owns these file systems and has no symbolic links in them. The files in a directory
//! are opened relative to its descriptor.

mod apply;
mod device_program;
mod devices;
mod file;
mod group;
mod layout;
mod processes;
mod statistics;

#[cfg(test)]
mod tests;

use std::io;

pub use devices::default_device_rules;
pub use group::{Group, list, remove_by_path};
pub use layout::{Hierarchy, Layout};

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
