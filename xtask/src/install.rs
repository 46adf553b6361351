//! `install`: puts the release binaries in place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::workspace::{BINARIES, Workspace};

/// Builds the release binaries and installs them under `--prefix`, by default
/// /usr/local.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    let prefix = arguments
        .option("--prefix")?
        .map_or_else(|| PathBuf::from("/usr/local"), PathBuf::from);
    arguments.finish()?;
    let workspace = Workspace::locate()?;
    workspace.build_release()?;
    let directory = prefix.join("bin");
    fs::create_dir_all(&directory).map_err(Error::at("create", &directory))?;
    for binary in BINARIES {
        place(&workspace.release.join(binary), &directory.join(binary))?;
        println!("installed {}", directory.join(binary).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies beside the destination and renames over it: running containers go on
/// executing the old inode, and no moment shows half a binary (writing in
/// place would fail with ETXTBSY).
fn place(source: &Path, destination: &Path) -> Result<()> {
    let mut name = destination.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let placed = fs::copy(source, &temporary)
        .and_then(|_| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, destination));
    if placed.is_err() {
        // The rename is what failed, or nothing is there: either way the
        // first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    placed.map_err(Error::at("install", destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_binary_is_replaced_and_nothing_else_is_left() {
        let directory = std::env::temp_dir().join(format!("xtask-install-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (source, destination) = (directory.join("source"), directory.join("program"));
        fs::copy("/bin/sleep", &destination).unwrap();
        fs::write(&source, "new").unwrap();
        let mut running = std::process::Command::new(&destination)
            .arg("60")
            .spawn()
            .unwrap();
        let result = place(&source, &destination);
        running.kill().unwrap();
        running.wait().unwrap();
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        let content = fs::read_to_string(&destination);
        fs::remove_dir_all(&directory).unwrap();
        result.unwrap();
        assert_eq!(content.unwrap(), "new");
        assert_eq!(names, ["program", "source"]);
    }
}
