//! Labels of security modules, which the kernel puts on a process at its next exec.

use std::io;
use std::os::fd::BorrowedFd;

use crate::error::{BirthError, Step};
use crate::process::write_proc;
use crate::spec::Process;

/// Sets the AppArmor profile and the SELinux label of the program.
///
/// # Errors
/// [`BirthError::Step`], also where the module is not there: what was to confine a program
/// must not be left out in silence.
pub(crate) fn set(proc: BorrowedFd<'_>, process: &Process) -> Result<(), BirthError> {
    let profile = &process.apparmor_profile;
    if !profile.is_empty() {
        set_profile(proc, profile).step(|| {
            format!(
                "cannot apply process.apparmorProfile {profile:?} (is AppArmor enabled, \
                 and the profile loaded?)"
            )
        })?;
    }
    let label = &process.selinux_label;
    if !label.is_empty() {
        write_proc(proc, "self/attr/exec", label)
            .step(|| format!("cannot set process.selinuxLabel {label:?} (is SELinux enabled?)"))?;
    }
    Ok(())
}

fn set_profile(proc: BorrowedFd<'_>, profile: &str) -> io::Result<()> {
    let order = format!("exec {profile}");
    match write_proc(proc, "self/attr/apparmor/exec", &order) {
        // Before Linux 5.8 all modules share one file. Where AppArmor is not there at all, so
        // that the other file could be SELinux's, the order is no label that it knows.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match write_proc(proc, "self/attr/exec", &order) {
                // Without any module.
                Err(_) if profile == "unconfined" => Ok(()),
                other => other,
            }
        }
        other => other,
    }
}
