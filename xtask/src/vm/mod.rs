//! `vm`: a command on Debian's cloud kernel in QEMU, with cgroup v2 alone and
//! an older mount API than the developer's machine may have.
//!
//! One boot goes like this: QEMU loads the kernel and an initramfs of static
//! busybox and the virtio modules ([`image`]); its /init mounts the cached
//! Debian disk, whose changes go to a file that QEMU throws away, and beside
//! it a small disk made for this boot with the product's binaries and the
//! command; /payload/init (guest-init.sh) makes the machine look like one and
//! runs the command. Three virtio ports carry stdout, stderr and the exit
//! status out, so no kernel message is ever among them.

mod boot;
mod cpio;
mod image;
pub mod suite;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::debian;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// How a machine is made and for how long it may run.
pub struct Machine {
    /// The number of virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// When the whole machine is ended, boot included.
    pub time_limit: Duration,
    /// For how long the command may write nothing to its stdout before the
    /// machine is taken for hung.
    pub silence_limit: Option<Duration>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory: 1024,
            time_limit: Duration::from_secs(600),
            silence_limit: None,
        }
    }
}

/// Debian packages that the machine is made with.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "e2fsprogs",
    "kmod",
    "mmdebstrap",
    "qemu-system-x86",
];

/// Boots, runs the command after `--` and ends with its exit status; or runs
/// the tests of [`suite`] alone.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let command = arguments.after_dashes();
    let default = Machine::default();
    let machine = Machine {
        cpus: arguments.number("--cpus", default.cpus)?,
        memory: arguments.number("--memory", default.memory)?,
        time_limit: Duration::from_secs(u64::from(arguments.number("--time-limit", 600)?)),
        silence_limit: None,
    };
    let no_build = arguments.flag("--no-build");
    let suite = arguments.flag("--suite");
    let filters = arguments.rest()?;
    if command.is_empty() != suite || (!suite && !filters.is_empty()) {
        return Err(Error::Usage(
            "vm needs --suite, or a command after --".to_owned(),
        ));
    }
    debian::ensure(PACKAGES)?;
    let workspace = Workspace::locate()?;
    if !no_build {
        workspace.build_release()?;
    }
    if suite {
        let tally = suite::run(&workspace, &filters)?;
        println!("{tally}");
        return Ok(ExitCode::from(u8::from(tally.failed > 0)));
    }
    let base = image::Base::ensure(&workspace)?;
    let payload = image::Payload::for_command(&workspace, &command);
    let status = boot::boot(&workspace, &base, &payload, &machine, &mut |bytes| {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    })?;
    Ok(ExitCode::from(status))
}
