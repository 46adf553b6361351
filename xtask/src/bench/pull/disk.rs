//! A file system for the stores alone: ext4 with a journal as most machines have it, in a file of
//! the real one.
//!
//! On the machine's own, syncfs(2) would also write what everybody else does there. And an ext4
//! without a journal, which virtual machines get, looks at every inode that was deleted within the
//! last minute before it gives one out: a third of the time of unpacking 50,000 files where 50,000
//! had just been removed.

use std::fs;
use std::process::Command;

use rustix::mount::UnmountFlags;

use crate::bench::stage::Stage;
use crate::error::{Error, Result};
use crate::process;

/// The directories of the stage that are on it.
pub const STORES: [&str; 4] = ["data", "docker", "podman", "unpacked"];

/// Most that it can hold, in bytes; it takes from the real one what is used.
const SIZE: u64 = 24 << 30;

/// A mounted file system.
pub struct Disk {
    stage: Stage,
}

impl Disk {
    /// Makes it and puts the stores there. The mounts end with this process's mount namespace.
    pub fn make(stage: &Stage) -> Result<Self> {
        let image = stage.path("disk.img");
        let file = fs::File::create(&image).map_err(Error::at("create", &image))?;
        file.set_len(SIZE).map_err(Error::at("extend", &image))?;
        // Else the kernel initialises it in the background while somebody is measured.
        process::quietly(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-E", "lazy_itable_init=1,nodiscard"])
                .arg(&image),
        )?;
        let point = stage.path("disk");
        fs::create_dir_all(&point).map_err(Error::at("create", &point))?;
        process::quietly(
            Command::new("mount")
                .args(["-o", "loop,noinit_itable"])
                .arg(&image)
                .arg(&point),
        )?;
        for store in STORES {
            let (from, to) = (point.join(store), stage.path(store));
            for directory in [&from, &to] {
                fs::create_dir_all(directory).map_err(Error::at("create", directory))?;
            }
            process::quietly(Command::new("mount").arg("--bind").arg(&from).arg(&to))?;
        }
        Ok(Self {
            stage: stage.clone(),
        })
    }

    /// Unmounts it, which frees its loop device.
    pub fn remove(self) -> Result<()> {
        for store in STORES.iter().chain(&["disk"]) {
            let point = self.stage.path(store);
            rustix::mount::unmount(&point, UnmountFlags::DETACH).map_err(|errno| Error::Io {
                what: format!("cannot unmount {}", point.display()),
                source: errno.into(),
            })?;
        }
        Ok(())
    }
}
