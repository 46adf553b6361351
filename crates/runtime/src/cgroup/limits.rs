//! Limits, checked before anything is written.

use std::collections::BTreeMap;

use super::layout::Layout;
use super::memory::{MemoryLimits, check_memory};
use super::{CgroupError, block, cpu, hugetlb, network, unified};
use crate::spec::{BlockIo, Cpu, HugepageLimit, Network, Pids, Rdma, Resources};

/// Limits after checking.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    pub(super) memory: MemoryLimits,
    pub(super) cpu: Option<&'a Cpu>,
    pub(super) pids: Option<&'a Pids>,
    pub(super) block_io: Option<&'a BlockIo>,
    pub(super) huge_pages: &'a [HugepageLimit],
    pub(super) network: Option<&'a Network>,
    pub(super) rdma: &'a BTreeMap<String, Rdma>,
    pub(super) unified: &'a BTreeMap<String, String>,
}

impl Limits<'_> {
    /// Checks what can be told without looking at the group. In an update, limits may be
    /// relative to what was set before.
    pub(super) fn check<'a>(
        resources: &'a Resources,
        layout: &Layout,
        is_update: bool,
    ) -> Result<Limits<'a>, CgroupError> {
        let memory = resources.memory.as_ref();
        let memory = memory.map(|memory| check_memory(memory, is_update));
        if let Some(cpu) = &resources.cpu {
            cpu::check(cpu)?;
        }
        if let Some(block_io) = &resources.block_io {
            block::check(block_io)?;
        }
        hugetlb::check(&resources.hugepage_limits)?;
        if let Some(network) = &resources.network {
            network::check(network)?;
        }
        network::check_rdma(&resources.rdma)?;
        unified::check(&resources.unified, layout)?;
        Ok(Limits {
            memory: memory.transpose()?.unwrap_or_default(),
            cpu: resources.cpu.as_ref(),
            pids: resources.pids.as_ref(),
            block_io: resources.block_io.as_ref(),
            huge_pages: &resources.hugepage_limits,
            network: resources.network.as_ref(),
            rdma: &resources.rdma,
            unified: &resources.unified,
        })
    }
}

/// A limit that makes no sense.
pub(super) fn invalid(
    resource: &'static str,
    value: impl ToString,
    reason: &'static str,
) -> CgroupError {
    CgroupError::InvalidResource {
        resource,
        value: value.to_string(),
        reason,
    }
}
