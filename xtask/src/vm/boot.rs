//! One run of the machine, from QEMU's start to the exit status.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Machine;
use super::image::{Base, Payload};
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

/// Boots, streams the command's stdout into `sink` and its stderr to ours, and
/// returns its exit status. Whatever happens, QEMU and the files of this boot
/// are gone afterwards.
pub fn boot(
    workspace: &Workspace,
    base: &Base,
    payload: &Payload,
    machine: &Machine,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<u8> {
    let directory = RunDirectory::make(&workspace.target.join("vm"))?;
    let disk = payload.make_disk(&directory.0)?;
    let console = directory.0.join("console");
    let status = directory.0.join("status");
    let mut command = qemu(base, &disk, machine, &console, &status);
    let child = command.spawn().map_err(|source| Error::Io {
        what: format!("cannot run `{}`", process::describe(&command)),
        source,
    })?;
    let ended = Running(child).follow(machine.time_limit, sink)?;
    if !ended {
        return Err(Error::Failed(format!(
            "the VM did not end within {} s{}",
            machine.time_limit.as_secs(),
            said(&console)
        )));
    }
    let text = fs::read_to_string(&status).unwrap_or_default();
    text.trim()
        .strip_prefix("status ")
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| {
            Error::Failed(format!(
                "the VM ended without an exit status of the command{}",
                said(&console)
            ))
        })
}

/// What the kernel and /init wrote to the console, for an error.
fn said(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    if tail.trim().is_empty() {
        return "; its console is empty".to_owned();
    }
    format!("; its console says:\n{tail}")
}

fn qemu(base: &Base, disk: &Path, machine: &Machine, console: &Path, status: &Path) -> Command {
    // QEMU dies with this task, however the task ends.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ])
        .arg("-smp")
        .arg(machine.cpus.to_string())
        .arg("-m")
        .arg(format!("{}M", machine.memory))
        .arg("-kernel")
        .arg(&base.kernel)
        .arg("-initrd")
        .arg(&base.initramfs)
        .args([
            "-append",
            "console=ttyS0 quiet loglevel=0 panic=-1 cgroup_no_v1=all random.trust_cpu=on",
        ])
        // What the guest writes goes to a file that QEMU has already unlinked.
        .arg("-drive")
        .arg(drive(&base.disk, "snapshot=on,cache=unsafe"))
        .arg("-drive")
        .arg(drive(disk, "readonly=on"))
        .arg("-chardev")
        .arg(format!("file,id=console,path={}", escaped(console)))
        .args(["-serial", "chardev:console", "-device", "virtio-serial-pci"])
        // Opened anew by QEMU, so that its non-blocking mode stays its own.
        .args(["-chardev", "file,id=stdout,path=/proc/self/fd/1"])
        .args(["-device", "virtserialport,chardev=stdout,name=stdout"])
        .args(["-chardev", "file,id=stderr,path=/proc/self/fd/2"])
        .args(["-device", "virtserialport,chardev=stderr,name=stderr"])
        .arg("-chardev")
        .arg(format!("file,id=status,path={}", escaped(status)))
        .args(["-device", "virtserialport,chardev=status,name=status"])
        .env(
            "TMPDIR",
            base.disk.parent().unwrap_or(Path::new("/var/tmp")),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn drive(path: &Path, options: &str) -> String {
    format!("if=virtio,format=raw,{options},file={}", escaped(path))
}

/// A comma ends a value in QEMU's options, two of them stand for one.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// QEMU, killed when this is dropped.
struct Running(Child);

impl Running {
    /// Carries the two streams until QEMU ends; false when the time ran out.
    fn follow(
        mut self,
        limit: Duration,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let stdout = self.0.stdout.take();
        let stderr = self.0.stderr.take();
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(16);
        let carriers = [
            std::thread::spawn(move || {
                carry(stdout, |bytes| {
                    sender
                        .send(bytes.to_vec())
                        .map_err(|_| io::ErrorKind::BrokenPipe.into())
                });
            }),
            std::thread::spawn(move || carry(stderr, |bytes| io::stderr().write_all(bytes))),
        ];
        let mut in_time = true;
        // The channel closes when QEMU has closed its stdout, by ending.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left) {
                Ok(bytes) => sink(&bytes).map_err(|source| Error::Io {
                    what: "cannot write the command's output".to_owned(),
                    source,
                })?,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    in_time = false;
                    break;
                }
            }
        }
        if in_time {
            let _ = self.0.wait();
        }
        // Dropping kills a QEMU that is still there, so the carriers end.
        drop(self);
        drop(receiver);
        for carrier in carriers {
            // A carrier has nothing in it that could panic.
            let _ = carrier.join();
        }
        Ok(in_time)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has been waited for is not there to be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies a stream until it ends or the other side refuses.
fn carry(stream: Option<impl Read>, mut to: impl FnMut(&[u8]) -> io::Result<()>) {
    let Some(mut stream) = stream else {
        return;
    };
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || to(&buffer[..count]).is_err() {
            break;
        }
    }
}

/// The directory of one boot, removed when this is dropped.
struct RunDirectory(PathBuf);

impl RunDirectory {
    const PREFIX: &str = "run-";

    fn make(parent: &Path) -> Result<Self> {
        Self::sweep(parent)?;
        let path = parent.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::create_dir_all(&path).map_err(Error::at("create", &path))?;
        Ok(Self(path))
    }

    /// Removes what boots left that were killed.
    fn sweep(parent: &Path) -> Result<()> {
        let entries = fs::read_dir(parent).map_err(Error::at("read", parent))?;
        for entry in entries {
            let path = entry.map_err(Error::at("read", parent))?.path();
            let owner = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(Self::PREFIX));
            if let Some(owner) = owner
                && !Path::new("/proc").join(owner).exists()
            {
                fs::remove_dir_all(&path).map_err(Error::at("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: cannot remove {}: {error}", self.0.display());
        }
    }
}
