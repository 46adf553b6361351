//! Limits on huge pages.

use rustix::io::Errno;

use super::group::Group;
use super::limits::invalid;
use super::{CgroupError, file};
use crate::spec::HugepageLimit;

impl Group {
    pub(super) fn apply_huge_pages(
        &self,
        limits: &[HugepageLimit],
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        let Some(first) = limits.first() else {
            return Ok(());
        };
        let what = "limits on huge pages";
        let probe = format!("hugetlb.{}.max", first.page_size);
        // Where a file is missing, the controller may be or only the size.
        let member = match self.controller("hugetlb", &probe, what, warnings) {
            Err(CgroupError::NotDelegated { path, controller }) => {
                let member = self.v2();
                let has_any = member.filter(|member| {
                    let enabled = file::read(member.directory, "cgroup.controllers");
                    enabled.is_ok_and(|names| names.split_ascii_whitespace().any(is_hugetlb))
                });
                match has_any {
                    Some(member) => Some(member),
                    None => return Err(CgroupError::NotDelegated { path, controller }),
                }
            }
            result => result?,
        };
        let Some(member) = member else {
            return Ok(());
        };
        let end = if member.hierarchy.is_v2() {
            "max"
        } else {
            "limit_in_bytes"
        };
        for limit in limits {
            let size = &limit.page_size;
            let value = limit.limit.to_string();
            let name = format!("hugetlb.{size}.{end}");
            match file::write(member.directory, &name, &value) {
                Err(error) if file::is(&error, Errno::NOENT) => {
                    let reason = "the host has no huge pages of this size";
                    return Err(invalid("huge page size", size, reason));
                }
                result => result.map_err(|source| member.write_error(&name, &value, source))?,
            }
            // Reservations count only when pages are used, so a process could reserve
            // more than its limit and be killed for using it (Linux 5.7).
            let name = format!("hugetlb.{size}.rsvd.{end}");
            match file::write(member.directory, &name, &value) {
                Err(error) if file::is(&error, Errno::NOENT) => {}
                result => result.map_err(|source| member.write_error(&name, &value, source))?,
            }
        }
        Ok(())
    }
}

fn is_hugetlb(name: &str) -> bool {
    name == "hugetlb"
}

/// Checks the sizes: digits, one of K, M and G, and a B (runtime-spec).
pub(super) fn check(limits: &[HugepageLimit]) -> Result<(), CgroupError> {
    for limit in limits {
        let size = &limit.page_size;
        let digits = ["KB", "MB", "GB"]
            .iter()
            .find_map(|unit| size.strip_suffix(unit));
        let is_size = digits.is_some_and(|digits| {
            (1..=9).contains(&digits.len())
                && !digits.starts_with('0')
                && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        if !is_size {
            let size: String = size.chars().take(64).collect();
            return Err(invalid("huge page size", size, "it is none, as 2MB is"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let check = |size: &str| {
            check(&[HugepageLimit {
                page_size: size.to_owned(),
                limit: 1,
            }])
        };
        for size in ["64KB", "2MB", "1GB", "16GB"] {
            check(size).unwrap();
        }
        for size in [
            "",
            "2M",
            "MB",
            "02MB",
            "0MB",
            "2mb",
            "2MB ",
            "../2MB",
            "1234567890KB",
        ] {
            assert!(check(size).is_err(), "{size:?}");
        }
    }
}
