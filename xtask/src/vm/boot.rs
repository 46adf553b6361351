//! One run of the machine, from QEMU's start to the exit status.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::Machine;
use super::image::{Base, Payload};
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

/// How often a machine is started that does not come up. Linux 6.1 under
/// emulation has hung before its first message on a busy host: once in some
/// hundred boots.
const ATTEMPTS: u32 = 3;

/// How long a machine may take until guest-init.sh has its ports: 3 s on an
/// idle host, 20 s were seen with three machines on two processors.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Boots, streams the command's stdout into `sink` and its stderr to ours, and
/// returns its exit status. A machine that never gets as far as the command is
/// started again. Whatever happens, QEMU and the files of this boot are gone
/// afterwards.
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
    for attempt in 1..=ATTEMPTS {
        // Emulation by one thread has no races between processors to hang in.
        let threads = if attempt == ATTEMPTS {
            "single"
        } else {
            "multi"
        };
        let mut command = qemu(base, &disk, machine, threads, &console, &status);
        let child = command.spawn().map_err(|source| Error::Io {
            what: format!("cannot run `{}`", process::describe(&command)),
            source,
        })?;
        match Running(child).follow(machine, &status, sink)? {
            Outcome::Ended => break,
            Outcome::OutOfTime => {
                return Err(Error::Failed(format!(
                    "the VM did not end within {} s{}",
                    machine.time_limit.as_secs(),
                    said(&console)
                )));
            }
            Outcome::Silent => {
                return Err(Error::Failed(format!(
                    "the VM has hung: it said nothing for too long{}",
                    said(&console)
                )));
            }
            Outcome::NeverStarted => eprintln!(
                "warning: the VM did not come up (attempt {attempt} of {ATTEMPTS}, limit {} s){}",
                START_LIMIT.as_secs(),
                said(&console)
            ),
        }
    }
    exit_status(&status).ok_or_else(|| {
        Error::Failed(format!(
            "the VM ended without an exit status of the command{}",
            said(&console)
        ))
    })
}

/// The exit status that guest-init.sh has reported.
fn exit_status(status: &Path) -> Option<u8> {
    let text = fs::read_to_string(status).ok()?;
    let number = text.lines().find_map(|line| line.strip_prefix("status "))?;
    number.trim().parse().ok()
}

/// Whether guest-init.sh has reported anything.
fn has_started(status: &Path) -> bool {
    fs::metadata(status).is_ok_and(|status| status.len() > 0)
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

fn qemu(
    base: &Base,
    disk: &Path,
    machine: &Machine,
    threads: &str,
    console: &Path,
    status: &Path,
) -> Command {
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
        .args(["-machine", "q35", "-cpu", "max"])
        .arg("-accel")
        .arg(format!("tcg,thread={threads}"))
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
            "console=ttyS0 earlyprintk=ttyS0 panic=-1 cgroup_no_v1=all random.trust_cpu=on",
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

/// How a machine was left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It has powered itself off, or crashed.
    Ended,
    /// The command ran, and did not end in time.
    OutOfTime,
    /// The command ran, and wrote nothing for longer than it may.
    Silent,
    /// The command was not reached, in time or at all.
    NeverStarted,
}

/// QEMU, killed when this is dropped.
struct Running(Child);

impl Running {
    /// Carries the two streams until QEMU ends or the time runs out.
    fn follow(
        mut self,
        machine: &Machine,
        status: &Path,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Outcome> {
        let start_deadline = Instant::now() + START_LIMIT.min(machine.time_limit);
        let deadline = Instant::now() + machine.time_limit;
        let stdout = self.0.stdout.take();
        let stderr = self.0.stderr.take();
        let (sender, receiver) = sync_channel::<Vec<u8>>(16);
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
        let mut started = false;
        let mut heard = Instant::now();
        let mut outcome = Outcome::Ended;
        // The channel closes when QEMU has closed its stdout, by ending.
        loop {
            if !started && has_started(status) {
                started = true;
                heard = Instant::now();
            }
            let quiet = machine.silence_limit.map(|limit| heard + limit);
            let until = match quiet {
                _ if !started => start_deadline,
                Some(quiet) => deadline.min(quiet),
                None => deadline,
            };
            let left = until.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left.min(Duration::from_secs(1))) {
                Ok(bytes) => {
                    heard = Instant::now();
                    sink(&bytes).map_err(|source| Error::Io {
                        what: "cannot write the command's output".to_owned(),
                        source,
                    })?;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(RecvTimeoutError::Timeout) => {
                    outcome = match started {
                        false => Outcome::NeverStarted,
                        true if until < deadline => Outcome::Silent,
                        true => Outcome::OutOfTime,
                    };
                    break;
                }
            }
        }
        if outcome == Outcome::Ended {
            let _ = self.0.wait();
            if !has_started(status) {
                outcome = Outcome::NeverStarted;
            }
        }
        // Dropping kills a QEMU that is still there, so the carriers end.
        drop(self);
        drop(receiver);
        for carrier in carriers {
            // A carrier has nothing in it that could panic.
            let _ = carrier.join();
        }
        Ok(outcome)
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
