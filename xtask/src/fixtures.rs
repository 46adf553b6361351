//! `fixtures`: root file systems for tests, under target/fixtures. Each is
//! made once and found again; the same input gives the same bytes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::arguments::Arguments;
use crate::debian;
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

/// Every file in a fixture carries this time (2024-01-01T00:00:00Z), so that
/// two machines make the same layers.
const TIME: &str = "1704067200";

/// Names the recipe of the busybox fixture; change it with the recipe.
const BUSYBOX: &str = "busybox-1.tar";

/// Names the recipe of the Debian fixture; change it with the recipe.
const DEBIAN: &str = "debian-1.tar";

/// Makes all fixtures and prints where they are.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    arguments.finish()?;
    debian::ensure(&["busybox-static", "mmdebstrap"])?;
    let workspace = Workspace::locate()?;
    println!("{}", busybox(&workspace)?.display());
    println!("{}", debian_rootfs(&workspace)?.display());
    Ok(ExitCode::SUCCESS)
}

/// The directory of the fixtures, as tests get it in GANTRY_FIXTURES_DIR. In
/// it `busybox.tar` and `debian.tar` point at the newest recipes.
pub fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("fixtures")
}

/// A root file system of static busybox with all its applets, as a tar file.
pub fn busybox(workspace: &Workspace) -> Result<PathBuf> {
    made(workspace, BUSYBOX, "busybox.tar", |temporary| {
        let staging = temporary.with_extension("staging");
        stage_busybox(&staging)?;
        archive(&staging, temporary)?;
        fs::remove_dir_all(&staging).map_err(Error::at("remove", &staging))
    })
}

/// Lays the busybox root file system out in a directory.
pub fn stage_busybox(root: &Path) -> Result<()> {
    let binary = process::find("busybox").ok_or_else(|| Error::Missing {
        what: "busybox".to_owned(),
        hint: "install busybox-static".to_owned(),
    })?;
    if root.exists() {
        fs::remove_dir_all(root).map_err(Error::at("remove", root))?;
    }
    for directory in [
        "bin",
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr/bin",
        "usr/sbin",
        "var/log",
        "var/spool",
        "var/www",
    ] {
        let path = root.join(directory);
        fs::create_dir_all(&path).map_err(Error::at("create", &path))?;
    }
    for (directory, mode) in [("tmp", 0o1777), ("root", 0o700)] {
        let path = root.join(directory);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(Error::at("change the mode of", &path))?;
    }
    let inside = root.join("bin/busybox");
    fs::copy(&binary, &inside).map_err(Error::at("copy to", &inside))?;
    let applets = process::stdout(Command::new(&binary).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let path = root.join("bin").join(applet);
        symlink("busybox", &path).map_err(Error::at("link", &path))?;
    }
    for (file, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\n\
             daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
             alice:x:1000:1000:Alice:/home:/bin/sh\n\
             nobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        (
            "etc/group",
            "root:x:0:\ndaemon:x:1:\ntty:x:5:\naudio:x:29:alice\nvideo:x:44:alice\n\
             alice:x:1000:\nnogroup:x:65534:\n",
        ),
        ("etc/shadow", "root:*:19723:0:99999:7:::\n"),
    ] {
        let path = root.join(file);
        fs::write(&path, text).map_err(Error::at("write", &path))?;
    }
    let shadow = root.join("etc/shadow");
    fs::set_permissions(&shadow, fs::Permissions::from_mode(0o600))
        .map_err(Error::at("change the mode of", &shadow))
}

/// A minimal Debian 12, as a tar file.
pub fn debian_rootfs(workspace: &Workspace) -> Result<PathBuf> {
    made(workspace, DEBIAN, "debian.tar", |temporary| {
        eprintln!("making a Debian root file system with mmdebstrap");
        process::quietly(
            Command::new("mmdebstrap")
                .env("SOURCE_DATE_EPOCH", TIME)
                .args(["--variant=minbase", "--format=tar", "bookworm"])
                .arg(temporary),
        )
    })
}

/// Finds or makes `name`, and points `link` at it. The name appears by a
/// rename once the file is whole, so a killed run leaves nothing that looks
/// finished.
fn made(
    workspace: &Workspace,
    name: &str,
    link: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let directory = directory(workspace);
    let path = directory.join(name);
    if !path.is_file() {
        fs::create_dir_all(&directory).map_err(Error::at("create", &directory))?;
        let temporary = directory.join(format!("{name}.{}.part", std::process::id()));
        make(&temporary)?;
        fs::rename(&temporary, &path).map_err(Error::at("create", &path))?;
    }
    let pointer = directory.join(link);
    if fs::read_link(&pointer).ok().as_deref() != Some(Path::new(name)) {
        let temporary = directory.join(format!("{link}.{}.part", std::process::id()));
        symlink(name, &temporary)
            .and_then(|()| fs::rename(&temporary, &pointer))
            .map_err(Error::at("link", &pointer))?;
    }
    Ok(path)
}

/// Packs a directory with one order, one owner and one time.
fn archive(root: &Path, archive: &Path) -> Result<()> {
    process::quietly(
        Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(archive)
            .arg("--directory")
            .arg(root)
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{TIME}"))
            .args(["--format=pax", "--pax-option=delete=atime,delete=ctime"])
            .arg("."),
    )
}
