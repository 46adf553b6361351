//! What a machine is made of: kernel, initramfs, the cached Debian disk, and
//! the small disk of one boot.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use crate::debian;
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::{BINARIES, Workspace};

/// What the machine's Debian has beyond the minimum.
const GUEST_PACKAGES: &[&str] = &[
    "apparmor",
    "criu",
    "curl",
    "dbus",
    "iproute2",
    "iptables",
    "iputils-ping",
    "jq",
    "kmod",
    "nftables",
    "procps",
    "strace",
    "systemd",
];

/// Changes with the recipe of the disk, so that an old one is not reused.
const RECIPE: u32 = 1;

/// The size of the Debian disk. It is sparse: only what is written takes space.
const DISK: &str = "6G";

/// Modules that find the disks and the ports. Those that are built into a
/// kernel, or that it does not have, are skipped.
const FIRST_MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
];

/// The parts of a kernel's modules that a container platform can need.
const MODULE_DIRECTORIES: [&str; 8] = [
    "crypto",
    "arch",
    "lib",
    "net",
    "fs",
    "drivers/net",
    "drivers/virtio",
    "drivers/block",
];

/// The cached parts of a machine.
pub struct Base {
    /// The compressed kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The Debian disk, an ext4 file system.
    pub disk: PathBuf,
}

impl Base {
    /// Finds the parts in target/vm or makes them, which takes half a minute.
    pub fn ensure(workspace: &Workspace) -> Result<Self> {
        let directory = workspace.target.join("vm");
        fs::create_dir_all(&directory).map_err(Error::at("create", &directory))?;
        let kernel = Kernel::find(&directory)?;
        let mut hasher = DefaultHasher::new();
        (
            RECIPE,
            DISK,
            GUEST_PACKAGES,
            FIRST_MODULES,
            MODULE_DIRECTORIES,
        )
            .hash(&mut hasher);
        let name = format!("{}-{:016x}", kernel.release, hasher.finish());
        let disk = directory.join(format!("{name}.ext4"));
        let initramfs = directory.join("initramfs.cpio");
        let archive = kernel.initramfs()?;
        // Written only when it differs: another boot may be reading it.
        if fs::read(&initramfs).ok().as_ref() != Some(&archive) {
            let temporary = directory.join(format!("initramfs.{}.part", std::process::id()));
            fs::write(&temporary, &archive).map_err(Error::at("write", &temporary))?;
            fs::rename(&temporary, &initramfs).map_err(Error::at("create", &initramfs))?;
        }
        if !disk.is_file() {
            eprintln!("making the VM's Debian disk, once");
            sweep(&directory)?;
            make_disk(&kernel, &directory, &disk)?;
        }
        Ok(Self {
            kernel: kernel.image,
            initramfs,
            disk,
        })
    }
}

/// A kernel with its modules.
struct Kernel {
    /// As `uname -r` tells it.
    release: String,
    /// The compressed kernel.
    image: PathBuf,
    /// The directory with modules.order in it.
    modules: PathBuf,
}

impl Kernel {
    /// The newest cloud kernel that is installed, or else one unpacked from
    /// Debian's package: installing one would touch the machine's boot loader.
    fn find(directory: &Path) -> Result<Self> {
        if let Some(kernel) = Self::newest(Path::new("/")) {
            return Ok(kernel);
        }
        let unpacked = directory.join("kernel");
        if let Some(kernel) = Self::newest(&unpacked) {
            return Ok(kernel);
        }
        let package = debian::dependency("linux-image-cloud-amd64", "linux-image-")?;
        eprintln!("unpacking {package} for the VM");
        let temporary = directory.join(format!("staging-{}-kernel", std::process::id()));
        debian::unpack(&package, &directory.join("download"), &temporary)?;
        fs::rename(&temporary, &unpacked).map_err(Error::at("create", &unpacked))?;
        Self::newest(&unpacked).ok_or_else(|| Error::Missing {
            what: "a kernel for the VM".to_owned(),
            hint: format!("{package} holds none"),
        })
    }

    fn newest(root: &Path) -> Option<Self> {
        let mut releases: Vec<String> = fs::read_dir(root.join("boot"))
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()))
            .filter(|release| release.ends_with("-cloud-amd64"))
            .filter(|release| root.join("lib/modules").join(release).is_dir())
            .collect();
        releases.sort_by_key(|release| version(release));
        let release = releases.pop()?;
        Some(Self {
            image: root.join(format!("boot/vmlinuz-{release}")),
            modules: root.join("lib/modules").join(&release),
            release,
        })
    }

    /// Static busybox, the modules of [`FIRST_MODULES`] and their /init.
    fn initramfs(&self) -> Result<Vec<u8>> {
        let busybox = process::find("busybox").ok_or_else(|| Error::Missing {
            what: "busybox".to_owned(),
            hint: "install busybox-static".to_owned(),
        })?;
        let mut archive = Archive::new();
        for directory in ["bin", "dev", "proc", "root", "modules"] {
            archive.directory(directory);
        }
        archive.file(
            "bin/busybox",
            &fs::read(&busybox).map_err(Error::at("read", &busybox))?,
        );
        archive.file("init", include_bytes!("initramfs-init.sh"));
        let mut order = String::new();
        for module in FIRST_MODULES {
            let name = format!("{module}.ko");
            if let Some(path) = find_file(&self.modules.join("kernel/drivers"), &name)? {
                let content = fs::read(&path).map_err(Error::at("read", &path))?;
                archive.file(&format!("modules/{name}"), &content);
                order.push_str(&name);
                order.push('\n');
            }
        }
        archive.file("modules/order", order.as_bytes());
        Ok(archive.finish())
    }
}

/// Numbers compare as numbers: 6.1.0-9 comes before 6.1.0-10.
fn version(release: &str) -> Vec<u64> {
    release
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn find_file(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(Error::at("read", directory))?;
    for entry in entries {
        let path = entry.map_err(Error::at("read", directory))?.path();
        if path.is_dir() {
            if let Some(found) = find_file(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|found| found == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Removes disks of other recipes and what killed runs left half made. A boot
/// that still reads one has it open.
fn sweep(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(Error::at("read", directory))?;
    for entry in entries {
        let path = entry.map_err(Error::at("read", directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("staging-") {
            fs::remove_dir_all(&path).map_err(Error::at("remove", &path))?;
        } else if name.ends_with(".ext4") || name.ends_with(".part") {
            fs::remove_file(&path).map_err(Error::at("remove", &path))?;
        }
    }
    Ok(())
}

fn make_disk(kernel: &Kernel, directory: &Path, disk: &Path) -> Result<()> {
    let staging = directory.join(format!("staging-{}", std::process::id()));
    let made = stage(kernel, &staging).and_then(|()| {
        let temporary = directory.join(format!("disk.{}.part", std::process::id()));
        format_disk(&staging, &temporary, DISK)?;
        fs::rename(&temporary, disk).map_err(Error::at("create", disk))
    });
    // What is left of a failed attempt would only take space.
    let removed = fs::remove_dir_all(&staging).map_err(Error::at("remove", &staging));
    made.and(removed)
}

fn stage(kernel: &Kernel, staging: &Path) -> Result<()> {
    process::quietly(
        Command::new("mmdebstrap")
            .args(["--variant=minbase", "--format=directory"])
            .arg(format!("--include={}", GUEST_PACKAGES.join(",")))
            .args([
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                "bookworm",
            ])
            .arg(staging),
    )?;
    let payload = staging.join("payload");
    fs::create_dir_all(&payload).map_err(Error::at("create", &payload))?;
    let modules = staging.join("lib/modules").join(&kernel.release);
    for part in MODULE_DIRECTORIES {
        let from = kernel.modules.join("kernel").join(part);
        let to = modules.join("kernel").join(part);
        if from.is_dir() {
            fs::create_dir_all(&to).map_err(Error::at("create", &to))?;
            process::quietly(
                Command::new("cp")
                    .args(["--recursive", "--no-target-directory"])
                    .args([from, to]),
            )?;
        }
    }
    for list in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        let to = modules.join(list);
        fs::copy(kernel.modules.join(list), &to).map_err(Error::at("copy to", &to))?;
    }
    let depmod = process::find("depmod").unwrap_or_else(|| "depmod".into());
    process::quietly(
        Command::new(depmod)
            .arg("--basedir")
            .arg(staging)
            .arg(&kernel.release),
    )
}

/// Makes an ext4 file system in a sparse file from a directory. Mounts nothing.
fn format_disk(content: &Path, disk: &Path, size: &str) -> Result<()> {
    let mke2fs = process::find("mke2fs").unwrap_or_else(|| "mke2fs".into());
    process::quietly(
        Command::new(mke2fs)
            .args(["-q", "-F", "-t", "ext4", "-m", "0"])
            // The guest has no time to initialise tables lazily, and a
            // journal protects nothing on a disk that is thrown away.
            .args([
                "-E",
                "lazy_itable_init=0,nodiscard",
                "-O",
                "^has_journal",
                "-d",
            ])
            .arg(content)
            .arg(disk)
            .arg(size),
    )
}

/// What one boot brings with it.
pub struct Payload {
    /// The script that is run.
    command: String,
    /// Files as (source, path below /payload).
    files: Vec<(PathBuf, String)>,
}

impl Payload {
    /// The product's binaries and a command of several words.
    pub fn for_command(workspace: &Workspace, command: &[String]) -> Self {
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        Self::for_script(workspace, format!("exec {}", words.join(" ")))
    }

    /// The product's binaries and a shell script.
    pub fn for_script(workspace: &Workspace, script: String) -> Self {
        let files = BINARIES
            .iter()
            .map(|binary| (workspace.release.join(binary), format!("bin/{binary}")))
            .collect();
        Self {
            command: script,
            files,
        }
    }

    /// Adds a file at a path below /payload.
    pub fn add(&mut self, source: PathBuf, path: String) {
        self.files.push((source, path));
    }

    /// Makes the disk of this boot in `directory`.
    pub fn make_disk(&self, directory: &Path) -> Result<PathBuf> {
        let staging = directory.join("payload");
        let write = |path: PathBuf, content: &[u8]| {
            let executable = fs::Permissions::from_mode(0o755);
            fs::write(&path, content)
                .and_then(|()| fs::set_permissions(&path, executable))
                .map_err(Error::at("write", &path))
        };
        fs::create_dir_all(&staging).map_err(Error::at("create", &staging))?;
        write(staging.join("init"), include_bytes!("guest-init.sh"))?;
        write(
            staging.join("command"),
            format!("#!/bin/sh\n{}\n", self.command).as_bytes(),
        )?;
        let mut bytes = 0;
        for (source, path) in &self.files {
            let to = staging.join(path);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(Error::at("create", parent))?;
            }
            bytes += fs::copy(source, &to).map_err(Error::at("copy", source))?;
        }
        let disk = directory.join("payload.ext4");
        // Room for the tables of the file system beside the content.
        let size = format!("{}M", bytes / (1 << 20) * 5 / 4 + 16);
        format_disk(&staging, &disk, &size)?;
        fs::remove_dir_all(&staging).map_err(Error::at("remove", &staging))?;
        Ok(disk)
    }
}

/// A word as the shell reads it back unchanged.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_survives_the_shell() {
        for word in ["", "a b", "it's", "$(id) `id` \\ \" *", "line\nbreak", "''"] {
            let output = Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", quoted(word)))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn kernel_releases_compare_by_number() {
        let mut releases = [
            "6.1.0-10-cloud-amd64",
            "6.12.1-cloud-amd64",
            "6.1.0-9-cloud-amd64",
        ];
        releases.sort_by_key(|release| version(release));
        assert_eq!(
            releases,
            [
                "6.1.0-9-cloud-amd64",
                "6.1.0-10-cloud-amd64",
                "6.12.1-cloud-amd64"
            ]
        );
    }
}
