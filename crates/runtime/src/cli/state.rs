//! What is known of a container between commands: a directory below the root of the state.
//!
//! `state.json` (ours, replaced atomically), `config.json` (as it was when the container
//! was created), `exec.fifo` (while `start` is awaited), `notify/` and `lock`. The order
//! makes every death of a command safe: the directory and the record of the control group
//! are there before the group, and the group before the process, which is born or joins
//! itself into it; so `delete --force` finds everything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_runtime::cgroup::{CgroupError, Group, Layout, Placement};
use gantry_runtime::spec::Spec;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::error::{CliError, Context as _};

/// The record.
pub const STATE: &str = "state.json";
/// The configuration, as it was.
pub const CONFIG: &str = "config.json";
/// What a created container's process waits on.
pub const FIFO: &str = "exec.fifo";
const LOCK: &str = "lock";
const UNFINISHED: &str = "state.json.new";
/// Directory of the socket that stands in for `NOTIFY_SOCKET`.
pub const NOTIFY: &str = "notify";

/// How long a command waits for another one that works on the same container.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is read of a record or a configuration.
const MAX_DOCUMENT: u64 = 16 << 20;

/// `state.json`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Version of this form.
    pub version: u32,
    /// Version of the specification that the container's configuration follows.
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// Process id of the first process; 0 before its birth.
    pub pid: i32,
    /// When that process was born, in clock ticks since boot: tells it from a later one of
    /// the same id.
    pub start_time: u64,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When the container was created (RFC 3339).
    pub created: String,
    /// User who created it.
    pub owner: u32,
    /// The control group.
    pub cgroup: Option<Placement>,
    /// Whether the container has a PID namespace of its own.
    pub own_pids: bool,
    /// Whether the configuration has hooks that run after the container is gone.
    pub has_poststop: bool,
    /// Whether the configuration has hooks that run after the start.
    pub has_poststart: bool,
    /// Whether the container has a class of Intel RDT.
    pub has_rdt: bool,
    /// Annotations of the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// State of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// A command is just creating it.
    Creating,
    /// Its process waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its program runs but for being frozen.
    Paused,
    /// Its first process is gone.
    Stopped,
}

impl Status {
    /// The word of the specification.
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's directory.
#[derive(Debug)]
pub struct Place {
    /// Container id.
    pub id: String,
    /// Path of the directory.
    pub path: PathBuf,
    directory: OwnedFd,
    /// A lock of a process: unlike one of an open file it does not pass to a child, which
    /// would hold it until `start`.
    lock: Option<OwnedFd>,
}

/// Refuses ids that could not be a file name everywhere.
///
/// # Errors
/// [`CliError::Invalid`].
pub fn check_id(id: &str) -> Result<(), CliError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(plain) {
        return Err(CliError::Invalid(format!(
            "invalid container id {id:?}: up to 255 letters, digits and any of _+-. are allowed"
        )));
    }
    Ok(())
}

impl Place {
    /// Makes the directory of a new container, and locks it.
    ///
    /// # Errors
    /// [`CliError::Exists`], or what the file system says.
    pub fn make(root: &Path, id: &str) -> Result<Place, CliError> {
        check_id(id)?;
        let path = root.join(id);
        let mode = Mode::from_raw_mode(0o700);
        let made = match rustix::fs::mkdirat(CWD, &path, mode) {
            Err(Errno::NOENT) => {
                make_root(root)?;
                rustix::fs::mkdirat(CWD, &path, mode)
            }
            other => other,
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(CliError::Exists { id: id.to_owned() }),
            Err(errno) => return Err(errno).file("create", &path),
        }
        let mut place = Place::at(path, id)?;
        place.lock()?;
        Ok(place)
    }

    /// Opens the directory of a container.
    ///
    /// # Errors
    /// [`CliError::NoContainer`], or what the file system says.
    pub fn open(root: &Path, id: &str) -> Result<Place, CliError> {
        check_id(id)?;
        Place::at(root.join(id), id)
    }

    fn at(path: PathBuf, id: &str) -> Result<Place, CliError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(directory) => Ok(Place {
                id: id.to_owned(),
                path,
                directory,
                lock: None,
            }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(CliError::NoContainer { id: id.to_owned() }),
            Err(errno) => Err(errno).file("open", path),
        }
    }

    /// The directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Keeps other commands from changing the container until this process ends.
    ///
    /// # Errors
    /// [`CliError::Busy`] after ten seconds.
    pub fn lock(&mut self) -> Result<(), CliError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            match rustix::fs::openat(&self.directory, LOCK, flags, Mode::from_raw_mode(0o600)) {
                // The directory went away meanwhile.
                Err(Errno::NOENT) => {
                    return Err(CliError::NoContainer {
                        id: self.id.clone(),
                    });
                }
                other => other.file("open", self.path.join(LOCK))?,
            };
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::AGAIN | Errno::ACCESS) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    return Err(CliError::Busy {
                        id: self.id.clone(),
                        seconds: PATIENCE.as_secs(),
                    });
                }
                Err(errno) => return Err(errno).file("lock", self.path.join(LOCK)),
            }
        }
        self.lock = Some(file);
        // Whoever held the lock may have deleted the container.
        match rustix::fs::statat(&self.directory, LOCK, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(()),
            Err(_) => Err(CliError::NoContainer {
                id: self.id.clone(),
            }),
        }
    }

    /// Whether a command works on the container at this moment.
    fn is_locked(&self) -> bool {
        if self.lock.is_some() {
            return false;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(file) = rustix::fs::openat(&self.directory, LOCK, flags, Mode::empty()) else {
            return false;
        };
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// Gives the lock back before the process ends.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_record(&self, record: &Record) -> Result<(), CliError> {
        self.stage_record(record)?;
        self.commit_record()
    }

    /// Writes a record that takes effect with [`Place::commit_record`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn stage_record(&self, record: &Record) -> Result<(), CliError> {
        let text = serde_json::to_vec(record).map_err(|source| CliError::Json {
            path: self.path.join(STATE),
            source,
        })?;
        self.write(UNFINISHED, &text)
    }

    /// Lets the staged record take effect.
    ///
    /// # Errors
    /// What the file system says.
    pub fn commit_record(&self) -> Result<(), CliError> {
        rustix::fs::renameat(&self.directory, UNFINISHED, &self.directory, STATE)
            .file("write", self.path.join(STATE))
    }

    /// Writes a file of the directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CliError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(0o600));
        let mut file = fs::File::from(file.file("write", self.path.join(name))?);
        io::Write::write_all(&mut file, bytes).file("write", self.path.join(name))
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`CliError::NoContainer`] where there is none, or what is wrong with it.
    pub fn record(&self) -> Result<Record, CliError> {
        let text = match self.read(STATE) {
            Err(CliError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(CliError::NoContainer {
                    id: self.id.clone(),
                });
            }
            other => other?,
        };
        serde_json::from_slice(&text).map_err(|source| CliError::Json {
            path: self.path.join(STATE),
            source,
        })
    }

    /// Reads the configuration that the container was created from.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn config(&self) -> Result<Spec, CliError> {
        let text = self.read(CONFIG)?;
        serde_json::from_slice(&text).map_err(|source| CliError::Json {
            path: self.path.join(CONFIG),
            source,
        })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, CliError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())
            .file("read", self.path.join(name))?;
        let mut text = Vec::with_capacity(4096);
        fs::File::from(file)
            .take(MAX_DOCUMENT)
            .read_to_end(&mut text)
            .file("read", self.path.join(name))?;
        Ok(text)
    }

    /// Makes the FIFO that the process waits on until `start`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make_fifo(&self) -> Result<OwnedFd, CliError> {
        let mode = Mode::from_raw_mode(0o622);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(&self.directory, FIFO, kind, mode, 0)
            .file("create", self.path.join(FIFO))?;
        // The caller's umask does not hold here: with a seccomp listener, or in a user
        // namespace, it is another user who opens the FIFO for writing.
        rustix::fs::chmodat(&self.directory, FIFO, mode, AtFlags::empty())
            .file("change the mode of", self.path.join(FIFO))?;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.directory, FIFO, flags, Mode::empty())
            .file("open", self.path.join(FIFO))
    }

    /// Opens the FIFO for reading, which lets the process go on. Nothing if it has gone on.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open_fifo(&self) -> Result<Option<OwnedFd>, CliError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.directory, FIFO, flags, Mode::empty()) {
            Ok(fifo) => Ok(Some(fifo)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).file("open", self.path.join(FIFO)),
        }
    }

    /// Notes that the process goes on.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove_fifo(&self) -> Result<(), CliError> {
        rustix::fs::unlinkat(&self.directory, FIFO, AtFlags::empty())
            .file("remove", self.path.join(FIFO))
    }

    /// Works out the state.
    pub fn status(&self, record: &Record) -> Status {
        if record.pid == 0 {
            return if self.is_locked() {
                Status::Creating
            } else {
                Status::Stopped
            };
        }
        if start_time(record.pid) != Some(record.start_time) {
            return Status::Stopped;
        }
        let waits = rustix::fs::statat(&self.directory, FIFO, AtFlags::SYMLINK_NOFOLLOW);
        if waits.is_ok() {
            return Status::Created;
        }
        let is_frozen = || group(record).ok().flatten()?.is_frozen().ok();
        if is_frozen() == Some(true) {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// Removes the directory and all that is in it.
    ///
    /// # Errors
    /// What the file system says; a directory that is gone already is no error.
    pub fn remove(&self) -> Result<(), CliError> {
        // The record last, so that an interrupted removal can be done again; the lock
        // after it, which nobody waits for then in vain.
        for name in [FIFO, CONFIG, UNFINISHED, STATE, LOCK] {
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        }
        match rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(_) => {}
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).file("remove", &self.path)
            }
            _ => Ok(()),
        }
    }
}

fn make_root(root: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .file("create", root)
}

/// The container's control group, if it has one that is still there.
///
/// # Errors
/// [`CliError::Cgroup`].
pub fn group(record: &Record) -> Result<Option<Group>, CliError> {
    let Some(placement) = &record.cgroup else {
        return Ok(None);
    };
    match Group::open_at(&Layout::detect()?, placement) {
        // Without privileges there may be none of its hierarchies.
        Ok(group) => Ok(Some(group).filter(Group::has_directories)),
        Err(CgroupError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// When a process was born, in clock ticks since boot; nothing if it is gone or a zombie.
pub fn start_time(pid: i32) -> Option<u64> {
    let mut buffer = [0u8; 1024];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(format!("/proc/{pid}/stat"), flags, Mode::empty()).ok()?;
    let length = rustix::io::read(&file, &mut buffer[..]).ok()?;
    parse_start_time(&buffer[..length])
}

/// Field 22 of `/proc/PID/stat` (proc(5)). The second field is the program's name in
/// parentheses, which may hold anything, parentheses included.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A handle of the container's first process, if it lives.
pub fn process(record: &Record) -> Option<OwnedFd> {
    let pidfd =
        rustix::process::pidfd_open(Pid::from_raw(record.pid)?, PidfdFlags::empty()).ok()?;
    // From here on the handle holds whatever it was opened on: that has to be the one.
    (start_time(record.pid) == Some(record.start_time)).then_some(pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_start_time() {
        let stat = |name: &str, state: &str| {
            format!("12 ({name}) {state} 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 2")
        };
        assert_eq!(parse_start_time(stat("sh", "S").as_bytes()), Some(777));
        assert_eq!(
            parse_start_time(stat("a) R 1 (b", "S").as_bytes()),
            Some(777)
        );
        assert_eq!(parse_start_time(stat("sh", "Z").as_bytes()), None);
        for broken in ["", "12", "12 (sh", "12 (sh) S", "12 (sh) S 1 2 3"] {
            assert_eq!(parse_start_time(broken.as_bytes()), None, "{broken:?}");
        }
        assert!(start_time(std::process::id() as i32).is_some());
    }

    #[test]
    fn only_plain_ids_are_taken() {
        for id in ["a", "A-1_b+c.d", "..."] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn an_id_is_taken_once_and_free_after_removal() {
        let root = std::env::temp_dir().join(format!("gantry-state-{}", std::process::id()));
        let place = Place::make(&root, "one").unwrap();
        assert!(matches!(
            Place::make(&root, "one"),
            Err(CliError::Exists { .. })
        ));
        // Half-created: no record yet.
        assert!(matches!(place.record(), Err(CliError::NoContainer { .. })));
        let record = Record {
            id: "one".into(),
            pid: std::process::id() as i32,
            start_time: 1,
            ..Record::default()
        };
        place.write_record(&record).unwrap();
        let read = place.record().unwrap();
        assert_eq!((read.pid, &*read.id), (record.pid, "one"));
        // The process id is taken, by another process than the container's.
        assert_eq!(place.status(&read), Status::Stopped);
        assert!(process(&read).is_none());
        place.remove().unwrap();
        assert!(matches!(
            Place::open(&root, "one"),
            Err(CliError::NoContainer { .. })
        ));
        Place::make(&root, "one").unwrap().remove().unwrap();
        fs::remove_dir(&root).unwrap();
    }
}
