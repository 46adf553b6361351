//! The layer between every image and its containers: what the runtime mounts over is there
//! already, so that no container's own layer has traces of it, and no link of an image can
//! stand in its place (CVE-2026-41579, CVE-2026-47766).
//!
//! It holds what Docker's has: directories for /dev, /proc and /sys, empty files for
//! /etc/hosts, /etc/hostname and /etc/resolv.conf, /etc/mtab, and /.dockerenv, by which
//! programs tell that they are in a container.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::paths::{self, Roots};

/// The layer's directory; made if it is not there.
///
/// # Errors
/// [`Error::Path`].
pub fn ensure(roots: &Roots) -> Result<PathBuf, Error> {
    let path = roots.data.join("init");
    if path.is_dir() {
        return Ok(path);
    }
    // Whole or not at all, whoever dies, and however many do the same.
    let draft = roots.data.join(format!("init.{}", std::process::id()));
    paths::remove_directory(&draft)?;
    let fail = |source| Error::Path {
        action: "make the layer",
        path: draft.clone(),
        source,
    };
    fill(&draft).map_err(fail)?;
    match fs::rename(&draft, &path) {
        Err(_) if path.is_dir() => paths::remove_directory(&draft)?,
        other => other.map_err(fail)?,
    }
    Ok(path)
}

fn fill(top: &Path) -> io::Result<()> {
    for name in ["", "dev", "proc", "sys", "etc"] {
        let path = top.join(name);
        DirBuilder::new().mode(0o755).create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    for name in ["etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv"] {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(top.join(name))?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    symlink("/proc/mounts", top.join("etc/mtab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_whole() {
        let data = std::env::temp_dir().join(format!("gantry-init-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data);
        fs::create_dir(&data).unwrap();
        let roots = Roots {
            run: data.join("run"),
            data: data.clone(),
        };
        // What one has left that died on the way does not count.
        fs::create_dir(data.join(format!("init.{}", std::process::id()))).unwrap();
        let many: Vec<_> = (0..2).map(|_| ensure(&roots).unwrap()).collect();
        assert_eq!(many[0], many[1]);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
        let mode = |name: &str| many[0].join(name).symlink_metadata().unwrap().permissions();
        assert_eq!(mode("dev").mode() & 0o7777, 0o755);
        assert_eq!(mode("etc/hosts").mode() & 0o7777, 0o644);
        assert!(many[0].join("etc/mtab").is_symlink());
        fs::remove_dir_all(&data).unwrap();
    }
}
