//! Control files of version 2 that a configuration names itself.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::group::{Group, enable_controllers};
use super::layout::Layout;
use super::{CgroupError, file};

impl Group {
    pub(super) fn apply_unified(
        &self,
        unified: &BTreeMap<String, String>,
    ) -> Result<(), CgroupError> {
        if unified.is_empty() {
            return Ok(());
        }
        let Some(member) = self.v2() else {
            return Err(CgroupError::NoUnified);
        };
        let mut enabled = member.read("cgroup.controllers")?;
        for (key, value) in unified {
            let controller = key.split_once('.').map_or("", |(controller, _)| controller);
            let has = |enabled: &str| {
                enabled
                    .split_ascii_whitespace()
                    .any(|one| one == controller)
            };
            if controller != "cgroup" && !has(&enabled) {
                enable_controllers(&member, &[controller])?;
                enabled = member.read("cgroup.controllers")?;
                if !has(&enabled) {
                    let reason = format!("can't be set: controller {controller:?} not available");
                    return Err(invalid(key, reason));
                }
            }
            // Files such as io.max take one line a write. An empty value is one too.
            let mut lines: Vec<&str> = value.lines().collect();
            if lines.is_empty() {
                lines.push("");
            }
            for line in lines {
                match file::write(member.directory, key, line) {
                    Err(error) if file::is(&error, Errno::NOENT) => {
                        return Err(invalid(key, "is no file of this kernel".to_owned()));
                    }
                    result => {
                        result.map_err(|source| member.write_error(key, line, source))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn invalid(key: &str, reason: String) -> CgroupError {
    CgroupError::InvalidUnified {
        key: key.chars().take(128).collect(),
        reason,
    }
}

/// Checks the names of the files; version 1 has none of them.
pub(super) fn check(
    unified: &BTreeMap<String, String>,
    layout: &Layout,
) -> Result<(), CgroupError> {
    if unified.is_empty() {
        return Ok(());
    }
    if layout.v1_hierarchies().is_some() || layout.v2().is_none() {
        return Err(CgroupError::NoUnified);
    }
    for key in unified.keys() {
        if key.contains('/') {
            return Err(invalid(key, "must be a file name (no slashes)".to_owned()));
        }
        let is_file = match key.split_once('.') {
            Some((controller, name)) => {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                !controller.is_empty() && !name.is_empty() && key.bytes().all(is_plain)
            }
            None => false,
        };
        if !is_file {
            let reason = "must be in the form CONTROLLER.PARAMETER".to_owned();
            return Err(invalid(key, reason));
        }
        // These move processes of the host; a limit they are not.
        if ["cgroup.procs", "cgroup.threads"].contains(&&**key) {
            return Err(invalid(key, "is no limit".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_files_may_be_named() {
        let v2 = Layout::from_mountinfo("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let of = |key: &str| BTreeMap::from([(key.to_owned(), "1".to_owned())]);
        for key in [
            "memory.high",
            "hugetlb.2MB.max",
            "cgroup.max.depth",
            "no_such.file",
        ] {
            check(&of(key), &v2).unwrap();
        }
        for (key, text) in [
            (
                "../memory.high",
                "unified resource \"../memory.high\" must be a file name (no slashes)",
            ),
            (
                "memory",
                "unified resource \"memory\" must be in the form CONTROLLER.PARAMETER",
            ),
            (
                "..",
                "unified resource \"..\" must be in the form CONTROLLER.PARAMETER",
            ),
            (
                "cgroup.procs",
                "unified resource \"cgroup.procs\" is no limit",
            ),
        ] {
            assert_eq!(check(&of(key), &v2).unwrap_err().to_string(), text);
        }
        let v1 = "30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let error = check(&of("memory.high"), &Layout::from_mountinfo(v1)).unwrap_err();
        assert!(matches!(error, CgroupError::NoUnified), "{error}");
        check(&BTreeMap::new(), &Layout::from_mountinfo(v1)).unwrap();
    }
}
