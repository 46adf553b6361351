//! Debian packages that the tests and benchmarks call.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// What `cargo xtask test` needs. The VM's kernel is not here: installing one
/// would change what a developer's machine boots, so `vm` only unpacks it.
pub const FOR_TESTS: &[&str] = &[
    "apache2-utils",   // htpasswd, for a registry that asks for a password
    "buildah",         // reads and writes images with code that is not ours
    "busybox-static",  // the root file system of most tests
    "containerd",      // calls the runtime, and is Docker's
    "crun",            // containers by another runtime
    "curl",            // an outside client of published ports
    "docker-registry", // a registry that is not ours
    "docker.io",       // images to and from it, and it calls the runtime
    "e2fsprogs",       // mke2fs -d makes the VM's disks without mounting
    "gcc",             // compiles the caller of libseccomp
    "iproute2",        // looks at links and addresses with other eyes
    "kmod",            // depmod for the VM's modules
    "libc6-dev",       // for what gcc compiles
    "libseccomp-dev",  // says what a seccomp profile means, with code that is not ours
    "mmdebstrap",      // a real root file system, and the VM's
    "nftables",        // decodes the tables that we write
    "podman",          // images to and from it, and it calls the runtime
    "qemu-system-x86", // the VM
    "runc",            // containers by another runtime
    "skopeo",          // pushes images with code that is not ours
    "sqlite3",         // looks for leases that nobody holds
    "strace",          // the crash test injects SIGKILL with it
    "tmux",            // a real terminal
];

/// What `cargo xtask bench` needs beside a build.
pub const FOR_BENCHMARKS: &[&str] = &[
    "busybox-static",
    "crun",
    "curl",
    "docker-registry",
    "gcc",
    "libc6-dev",
    "runc",
    "skopeo",
    "umoci",
];

/// Debian asks this file before a package's scripts start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Marks the file as ours, so that one left by a killed run is recognised.
const POLICY_TEXT: &str = "#!/bin/sh\n# made by gantry's cargo xtask; safe to remove\nexit 101\n";

/// Installs those of `packages` that are missing, without starting services.
/// As another user than root it only says what is missing.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !process::is_root() {
        eprintln!("not installed: {list}; run as root, or: apt-get install {list}");
        return Ok(());
    }
    if process::find("apt-get").is_none() {
        eprintln!("not installed: {list}; this is not a Debian system, so install them by hand");
        return Ok(());
    }
    eprintln!("installing Debian packages: {list}");
    let _policy = NoServices::hold()?;
    apt(&["update", "-qq"])?;
    let mut words = vec!["install", "-qq", "--yes", "--no-install-recommends"];
    words.extend(&missing);
    apt(&words)
}

/// Downloads a package by name into `directory` and unpacks it at `root`,
/// without installing it.
pub fn unpack(package: &str, directory: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(Error::at("create", directory))?;
    if !process::succeeds(Command::new("apt-cache").args(["show", package])) {
        apt(&["update", "-qq"])?;
    }
    // The sandboxed download user may not write here, which apt only warns of.
    process::quietly(
        Command::new("apt-get")
            .current_dir(directory)
            .args(["download", "-qq", package]),
    )?;
    let entries = fs::read_dir(directory).map_err(Error::at("read", directory))?;
    let archive = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| Error::Missing {
            what: format!("the archive of {package}"),
            hint: format!("`apt-get download {package}` left none"),
        })?;
    process::quietly(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&archive)
            .arg(root),
    )?;
    fs::remove_file(&archive).map_err(Error::at("remove", &archive))
}

/// The name of the package that a metapackage depends on and that starts with
/// `prefix`.
pub fn dependency(metapackage: &str, prefix: &str) -> Result<String> {
    let ask = || process::stdout(Command::new("apt-cache").args(["depends", metapackage]));
    let named = |text: String| {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
    };
    if let Ok(text) = ask()
        && let Some(name) = named(text)
    {
        return Ok(name);
    }
    apt(&["update", "-qq"])?;
    named(ask()?).ok_or_else(|| Error::Missing {
        what: format!("the Debian package behind {metapackage}"),
        hint: format!("`apt-cache depends {metapackage}` names none"),
    })
}

fn is_installed(package: &str) -> bool {
    process::stdout(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// apt-get writes to stderr, so that a task's stdout stays its own.
fn apt(words: &[&str]) -> Result<()> {
    process::run(
        Command::new("apt-get")
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null())
            .stdout(std::io::stderr()),
    )
}

/// While this lives, installing a package starts no service.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn hold() -> Result<Self> {
        let path = Path::new(POLICY);
        if fs::read_to_string(path).is_ok_and(|text| text == POLICY_TEXT) {
            fs::remove_file(path).map_err(Error::at("remove", path))?;
        }
        let made = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(path);
        match made {
            Ok(mut file) => {
                let guard = Self { ours: true };
                file.write_all(POLICY_TEXT.as_bytes())
                    .map_err(Error::at("write", path))?;
                Ok(guard)
            }
            // The administrator has a policy; it is theirs to decide.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(source) => Err(Error::at("create", path)(source)),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: cannot remove {POLICY}: {error}");
        }
    }
}
