//! Limits of a group (runtime-spec, config-linux, "Control groups").
//!
//! Each value is one open and one write, relative to the directory of its hierarchy.

use std::io;

use super::devices::{self, Policy};
use super::group::{Group, Member, absolute, enable_controllers};
use super::limits::Limits;
use super::{CgroupError, file};
use crate::spec::{Pids, Resources};

impl Group {
    /// Sets the limits of a container that is about to start. What is absent is left as it
    /// is, but for devices: their rules always apply, and begin by denying everything.
    /// Everything is checked before anything is written.
    ///
    /// Returns a warning for each limit that the host has no controller for; the
    /// container runs without it, as with Docker.
    ///
    /// # Errors
    /// [`CgroupError::InvalidResource`], [`CgroupError::InvalidDeviceRule`],
    /// [`CgroupError::DeviceRuleOrder`], [`CgroupError::InvalidUnified`] and
    /// [`CgroupError::NoUnified`] for what is asked, [`CgroupError::NotDelegated`] or
    /// [`CgroupError::Unprivileged`] for a controller that the host has but the group
    /// cannot, [`CgroupError::Write`] for what the kernel refuses.
    pub fn apply(&self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        let limits = Limits::check(resources, &self.layout, false)?;
        let policy = Policy::new(&resources.devices)?;
        let mut warnings = Vec::new();
        self.tell_systemd(&limits, Some(&policy))?;
        warnings.extend(devices::apply(self, &policy)?);
        self.apply_limits(&limits, &mut warnings)?;
        Ok(warnings)
    }

    /// Changes limits while the container runs. Devices are left as they are, and so is
    /// everything that is absent.
    ///
    /// # Errors
    /// As [`Group::apply`], and [`CgroupError::BelowUsage`] where the resources ask for
    /// that check. Without it, version 1 refuses a memory limit below what is in use with
    /// `EBUSY`; version 2 kills processes until it holds.
    pub fn update(&self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        let limits = Limits::check(resources, &self.layout, true)?;
        let mut warnings = Vec::new();
        // systemd writes a limit to the file at once, so this must come before it.
        self.check_usage(&limits.memory)?;
        self.tell_systemd(&limits, None)?;
        self.apply_limits(&limits, &mut warnings)?;
        Ok(warnings)
    }

    fn apply_limits(
        &self,
        limits: &Limits<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        self.apply_memory(&limits.memory, warnings)?;
        if let Some(cpu) = limits.cpu {
            self.apply_cpu(cpu, warnings)?;
            self.apply_cpuset(cpu, warnings)?;
        }
        if let Some(pids) = limits.pids {
            self.apply_pids(pids, warnings)?;
        }
        if let Some(block_io) = limits.block_io {
            self.apply_block_io(block_io, warnings)?;
        }
        self.apply_huge_pages(limits.huge_pages, warnings)?;
        if let Some(network) = limits.network {
            self.apply_network(network, warnings)?;
        }
        self.apply_rdma(limits.rdma, warnings)?;
        // Last: they may refine what the others set.
        self.apply_unified(limits.unified)
    }

    fn apply_pids(&self, pids: &Pids, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        let member = if pids.limit > 0 {
            self.controller("pids", "pids.max", "limits on processes", warnings)?
        } else {
            // Nothing is lost where nothing was to be limited.
            let v2 = || self.v2().filter(|member| has_file(member, "pids.max"));
            self.v1("pids").or_else(v2)
        };
        let Some(member) = member else {
            return Ok(());
        };
        match (pids.limit, &self.keeper) {
            (limit, Some(keeper)) if limit > 0 => keeper.limit_pids(&member, limit),
            (limit, _) if limit > 0 => member.write("pids.max", &limit.to_string()),
            _ => member.write("pids.max", "max"),
        }
    }

    /// The directory with a controller: version 1's, or version 2's if that has it, by one
    /// of whose files that is known; otherwise a warning, or an error if it could have had
    /// it.
    pub(super) fn controller(
        &self,
        controller: &'static str,
        name: &str,
        what: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Member<'_>>, CgroupError> {
        if let Some(member) = self.v1_or_denied(controller)? {
            return Ok(Some(member));
        }
        let Some(hierarchy) = self.layout.v2() else {
            warn_of_controller(controller, what, warnings);
            return Ok(None);
        };
        let member = self.v2();
        if let Some(member) = member {
            if has_file(&member, name) {
                return Ok(Some(member));
            }
            // Those that few ask for are enabled only then.
            enable_controllers(&member, &[controller])?;
            if has_file(&member, name) {
                return Ok(Some(member));
            }
        }
        let root = rustix::fs::open(
            hierarchy.mount_point(),
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let available = root
            .map_err(io::Error::from)
            .and_then(|root| file::read(std::os::fd::AsFd::as_fd(&root), "cgroup.controllers"));
        let is_available = available.is_ok_and(|names| {
            names
                .split_ascii_whitespace()
                .any(|name| name == controller)
        });
        match member {
            Some(member) if is_available => Err(CgroupError::NotDelegated {
                path: member.absolute(),
                controller,
            }),
            None if is_available => Err(CgroupError::Unprivileged {
                path: absolute(hierarchy, &self.path),
                what: controller,
            }),
            _ => {
                warn_of_controller(controller, what, warnings);
                Ok(None)
            }
        }
    }

    /// The directory in version 1's hierarchy of a controller; an error where the host has
    /// the hierarchy but the group is not in it.
    pub(super) fn v1_or_denied(
        &self,
        controller: &'static str,
    ) -> Result<Option<Member<'_>>, CgroupError> {
        if let Some(member) = self.v1(controller) {
            return Ok(Some(member));
        }
        let mut hierarchies = self.layout.hierarchies().iter();
        match hierarchies.find(|hierarchy| hierarchy.has(controller)) {
            Some(hierarchy) => Err(CgroupError::Unprivileged {
                path: absolute(hierarchy, &self.path),
                what: controller,
            }),
            None => Ok(None),
        }
    }
}

fn warn_of_controller(controller: &str, what: &str, warnings: &mut Vec<String>) {
    warnings.push(format!(
        "the host has no {controller} controller: {what} are not enforced"
    ));
}

/// Says that version 2 has nothing for a limit.
pub(super) fn warn_of_version(what: &str, warnings: &mut Vec<String>) {
    warnings.push(format!("cgroup v2 has no {what}: it is ignored"));
}

pub(super) fn has_file(member: &Member<'_>, name: &str) -> bool {
    rustix::fs::accessat(
        member.directory,
        name,
        rustix::fs::Access::EXISTS,
        rustix::fs::AtFlags::empty(),
    )
    .is_ok()
}
