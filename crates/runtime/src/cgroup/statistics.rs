//! What a group has used.

use super::group::Group;
use super::{CgroupError, file};

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

    /// A file of version 2, unless the group lacks it.
    fn read_v2(&self, name: &str) -> Result<Option<String>, CgroupError> {
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
