//! Where an installation keeps its things, and its identity in tables that all share.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The two directories that make an installation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Roots {
    /// Durable state.
    pub data: PathBuf,
    /// Live facts, on tmpfs.
    pub run: PathBuf,
}

impl Roots {
    /// Directory of a container's writable layer and log.
    #[must_use]
    pub fn container_data(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }

    /// Directory of a container's live records.
    #[must_use]
    pub fn container_run(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    /// Directory of a sandbox.
    #[must_use]
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.run.join("sandboxes").join(id)
    }

    /// Directory of marks of operations that go on.
    #[must_use]
    pub fn operations(&self) -> PathBuf {
        self.run.join("ops")
    }

    /// Directory of a volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }

    /// File of a container's log.
    #[must_use]
    pub fn log(&self, id: &str) -> PathBuf {
        self.container_data(id).join("json.log")
    }

    /// The installation's name in tables that all installations share: 8 hexadecimal
    /// digits of a hash of both directories.
    #[must_use]
    pub fn instance(&self) -> String {
        // FNV-1a: the name has to be stable for ever, not hard to forge.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for root in [&self.data, &self.run] {
            for &byte in root.as_os_str().as_encoded_bytes().iter().chain(b"\0") {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{:08x}", (hash >> 32) as u32 ^ hash as u32)
    }

    /// Whether these are the directories that an installation has if nothing else is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.data == Path::new("/var/lib/gantry") && self.run == Path::new("/run/gantry")
    }

    /// Name of the default bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        if self.is_default() {
            "gantry0".into()
        } else {
            format!("gt{}", self.instance())
        }
    }

    /// Path of a container's control group.
    #[must_use]
    pub fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroup_parent())
    }

    /// Path of the control group that holds all of the installation's.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("gantry-{}", self.instance())
    }
}

/// Makes a directory that only root can look into, whatever the umask; its parents are
/// made as usual (CVE-2021-41091: what is inside has programs with set-id bits).
///
/// # Errors
/// [`Error::Path`].
pub fn private_directory(path: &Path) -> Result<(), Error> {
    let made = match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path),
        other => other,
    };
    match made {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::Path {
            action: "make directory",
            path: path.into(),
            source,
        }),
    }
}

/// Makes a root of the installation and sees to its mode: 0710 at most.
///
/// # Errors
/// [`Error::Path`].
pub fn root_directory(path: &Path) -> Result<(), Error> {
    private_directory(path)?;
    let fail = |source| Error::Path {
        action: "set the mode of",
        path: path.into(),
        source,
    };
    let mode = fs::metadata(path).map_err(fail)?.permissions().mode() & 0o7777;
    if mode & 0o067 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o710)).map_err(fail)?;
    }
    Ok(())
}

/// Removes a directory and everything below it, by descriptor and without following
/// links; what is not there is no error.
///
/// # Errors
/// [`Error::Path`].
pub fn remove_directory(path: &Path) -> Result<(), Error> {
    let fail = |source: io::Error| Error::Path {
        action: "remove",
        path: path.into(),
        source,
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = match fs::File::open(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    match gantry_image::apply::remove_tree(std::os::fd::AsFd::as_fd(&parent), name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(fail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installations_have_names_of_their_own() {
        let one = Roots {
            data: "/a".into(),
            run: "/b".into(),
        };
        let other = Roots {
            data: "/a".into(),
            run: "/c".into(),
        };
        assert_ne!(one.instance(), other.instance());
        assert_eq!(one.instance().len(), 8);
        assert!(one.bridge().len() <= 15);
    }
}
