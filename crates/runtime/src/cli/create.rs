//! `create`, and what it shares with `run`: from a bundle to a process that is about to
//! become the container's program.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_runtime::BirthError;
use gantry_runtime::birth::{self, Birth, News, Plan, Stdio};
use gantry_runtime::cgroup::{CgroupError, Driver, Group, Layout, Placement, with_default_devices};
use gantry_runtime::hooks::{HookPlan, HookState};
use gantry_runtime::namespaces::open_joined;
use gantry_runtime::rootfs::RootSource;
use gantry_runtime::spec::{Linux, NamespaceKind, Spec};

use super::arguments::Arguments;
use super::error::{CliError, Context as _};
use super::options::{Create, Global};
use super::state::{self, CONFIG, Place, Record};
use super::{loopback, notify, socket, time};

/// Version of the records that this program writes.
const RECORD_VERSION: u32 = 1;

/// The most that is read of a configuration.
const MAX_CONFIG: u64 = 16 << 20;

/// `create`.
///
/// # Errors
/// [`CliError`], after which nothing is left of the container.
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let mut options = Create::new();
    while let Some(flag) = words.flag() {
        if let Some(flag) = options.take(flag, words)? {
            return Err(flag.unknown());
        }
    }
    options.detach = true;
    let id = words.id()?;
    words.end()?;
    create(global, &options, &id)
        .map_err(|error| error.during(format!("cannot create container {id}")))
}

fn create(global: &Global, options: &Create, id: &str) -> Result<(), CliError> {
    let mut container = begin(global, options, id, Gate::Fifo)?;
    let prepared = container.until_prepared(global, options);
    container.undo_unless(prepared)
}

/// What keeps the process from going on to the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gate {
    /// A FIFO, that `start` opens.
    Fifo,
    /// The word of the process that called [`begin`].
    Word,
}

/// A container whose process is being born.
#[derive(Debug)]
pub struct Container {
    /// Its directory, locked.
    pub place: Place,
    /// Its record.
    pub record: Record,
    /// Its configuration.
    pub spec: Spec,
    /// Its control group.
    pub group: Option<Group>,
    /// Its process.
    pub birth: Birth,
    /// The master of its terminal, if it was not handed over.
    pub terminal: Option<OwnedFd>,
}

/// A bundle's configuration.
#[derive(Debug)]
pub struct Bundle {
    /// Absolute path of the bundle.
    pub path: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// The configuration as it was read.
    pub text: Vec<u8>,
    /// The configuration.
    pub spec: Spec,
}

/// Reads the configuration of a bundle.
///
/// # Errors
/// What is wrong with it.
pub fn read_bundle(bundle: &Path) -> Result<Bundle, CliError> {
    let path = fs::canonicalize(bundle).file("find the bundle", bundle)?;
    let file = path.join("config.json");
    let mut text = Vec::with_capacity(16 << 10);
    fs::File::open(&file)
        .and_then(|opened| opened.take(MAX_CONFIG).read_to_end(&mut text))
        .file("read", &file)?;
    let mut spec: Spec = gantry_runtime::spec::read(&file.to_string_lossy(), &text)?;
    spec.anchor(&path)?;
    let named = spec.root.as_ref().map_or("", |root| &*root.path);
    if named.is_empty() {
        return Err(CliError::Invalid(
            "the configuration names no root: root.path is needed".into(),
        ));
    }
    let rootfs = path.join(named);
    let rootfs = fs::canonicalize(&rootfs).file("find the root file system", rootfs)?;
    Ok(Bundle {
        path,
        rootfs,
        text,
        spec,
    })
}

/// Makes the state, the control group and the process of a container.
///
/// # Errors
/// [`CliError`], after which nothing is left of the container.
pub fn begin(
    global: &Global,
    options: &Create,
    id: &str,
    gate: Gate,
) -> Result<Container, CliError> {
    state::check_id(id)?;
    // Before anything is opened that could get one of these numbers.
    let listen = check_kept(options.preserve_fds)?;
    let Bundle {
        path: bundle,
        rootfs,
        text,
        mut spec,
    } = read_bundle(&options.bundle)?;
    check_terminal(&spec, options)?;
    let keep_fds = options.preserve_fds + listen;
    if listen > 0
        && let Some(process) = &mut spec.process
    {
        process.env.push(format!("LISTEN_FDS={listen}"));
        process.env.push("LISTEN_PID=1".into());
    }
    let layout = Layout::detect()?;
    let record = new_record(global, &layout, &spec, (bundle, rootfs), id)?;
    let place = Place::make(&global.root, id)?;
    let birth = Beginning {
        global,
        options,
        place: &place,
        layout: &layout,
        gate,
        keep_fds,
    };
    match birth.begin(&mut spec, record.clone(), &text) {
        Ok((record, group, birth)) => Ok(Container {
            place,
            record,
            spec,
            group,
            birth,
            terminal: None,
        }),
        Err(error) => {
            let mut record = record;
            if matches!(&error, CliError::Cgroup(CgroupError::InUse { .. })) {
                // The group is somebody else's.
                record.cgroup = None;
            }
            // Whatever the attempt got to: removing what is not there is no error.
            let _ = super::delete::remove(&place, &record, None);
            Err(error)
        }
    }
}

/// The record of a container that is about to be made.
///
/// # Errors
/// What is wrong with the place of its control group.
pub fn new_record(
    global: &Global,
    layout: &Layout,
    spec: &Spec,
    (bundle, rootfs): (PathBuf, PathBuf),
    id: &str,
) -> Result<Record, CliError> {
    Ok(Record {
        version: RECORD_VERSION,
        oci_version: spec.oci_version.clone(),
        id: id.to_owned(),
        bundle,
        rootfs,
        created: time::now(),
        owner: rustix::process::geteuid().as_raw(),
        cgroup: Some(placement(global, layout, spec, id)?),
        own_pids: makes(spec, NamespaceKind::Pid),
        has_poststop: spec
            .hooks
            .as_ref()
            .is_some_and(|hooks| !hooks.poststop.is_empty()),
        has_poststart: spec
            .hooks
            .as_ref()
            .is_some_and(|hooks| !hooks.poststart.is_empty()),
        has_rdt: spec
            .linux
            .as_ref()
            .is_some_and(|linux| linux.intel_rdt.is_some()),
        annotations: spec.annotations.clone(),
        ..Record::default()
    })
}

struct Beginning<'a> {
    global: &'a Global,
    options: &'a Create,
    place: &'a Place,
    layout: &'a Layout,
    gate: Gate,
    keep_fds: u32,
}

impl Beginning<'_> {
    fn begin(
        &self,
        spec: &mut Spec,
        mut record: Record,
        text: &[u8],
    ) -> Result<(Record, Option<Group>, Birth), CliError> {
        let Beginning { global, place, .. } = self;
        place.write(CONFIG, text)?;
        if notify::wanted().is_some() {
            notify::prepare(place, spec)?;
        }
        // The record names the group before the group is there.
        place.write_record(&record)?;
        let layout = self.layout;
        let group = make_group(global, layout, spec, &mut record)?;
        if !self.options.no_new_keyring {
            join_keyring(&record.id)?;
        }
        let fifo = match self.gate {
            Gate::Fifo => Some(place.make_fifo()?),
            Gate::Word => None,
        };
        let joined = match &spec.linux {
            Some(linux) => open_joined(linux)?,
            None => Vec::new(),
        };
        let makes_network = makes(spec, NamespaceKind::Network);
        let mut inside = |_: BorrowedFd<'_>| {
            if makes_network {
                loopback::bring_up()
                    .map_err(|error| format!("cannot bring up the loopback interface: {error}"))
            } else {
                Ok(())
            }
        };
        let terminal = spec
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        let stdio = if terminal {
            Stdio::Terminal
        } else {
            Stdio::Plain(own_streams()?)
        };
        let birth = birth::begin(Plan {
            spec,
            root: &RootSource::Directory(record.rootfs.clone()),
            user: None,
            layout,
            group: group.as_ref(),
            stdio,
            joined,
            init: false,
            inside: &mut inside,
            gate: fifo,
            hooks: spec.hooks.as_ref().map(|hooks| HookPlan {
                hooks,
                state: hook_state(&record),
            }),
            keep_fds: self.keep_fds,
            no_pivot: self.options.no_pivot,
        })?;
        record.pid = birth.pid;
        // A process that has died already tells why when it is asked for its news.
        record.start_time = state::start_time(birth.pid).unwrap_or_default();
        // Without a gate the process dies with this one until it has the word: it is
        // recorded only just before that, and is not said to run until then.
        let written = match self.gate {
            Gate::Fifo => place.write_record(&record),
            Gate::Word => place.stage_record(&record),
        };
        match written {
            Ok(()) => {
                global
                    .log
                    .debug(|| format!("process {} of {} was born", record.pid, record.id));
                Ok((record, group, birth))
            }
            Err(error) => {
                let _ =
                    rustix::process::pidfd_send_signal(&birth.pidfd, rustix::process::Signal::KILL);
                Err(error)
            }
        }
    }
}

/// Makes the control group of a record and puts its limits in place. Without the right to
/// make one, the record loses it, if that is allowed.
///
/// # Errors
/// [`CliError::Cgroup`].
pub fn make_group(
    global: &Global,
    layout: &Layout,
    spec: &Spec,
    record: &mut Record,
) -> Result<Option<Group>, CliError> {
    let Some(placement) = &record.cgroup else {
        return Ok(None);
    };
    let group = match Group::create_at(layout, placement) {
        Err(error) if global.rootless && is_denied(&error) => {
            global.log.debug(|| format!("no control group: {error}"));
            record.cgroup = None;
            return Ok(None);
        }
        other => other?,
    };
    let given = spec
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    // Without the devices that every container may use nobody could fill /dev.
    for warning in group.apply(&with_default_devices(given))? {
        global.log.warning(&warning);
    }
    Ok(Some(group))
}

fn is_denied(error: &CgroupError) -> bool {
    let (CgroupError::Create { source, .. }
    | CgroupError::Open { source, .. }
    | CgroupError::Write { source, .. }) = error
    else {
        return false;
    };
    matches!(
        source.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Hands over what a filter asks by, and lets the process go on.
///
/// # Errors
/// [`CliError::Birth`] if nobody takes it.
pub fn deliver(
    birth: &Birth,
    listener: &OwnedFd,
    linux: Option<&Linux>,
    record: &Record,
    status: &str,
) -> Result<(), CliError> {
    let profile = linux.and_then(|linux| linux.seccomp.as_ref());
    let profile = profile
        .ok_or_else(|| CliError::Invalid("a seccomp listener came without a profile".into()))?;
    let state = hook_state(record).json(status, Some(record.pid))?;
    Ok(birth.deliver_listener(listener, profile, &state)?)
}

/// What hooks are told of a container.
pub fn hook_state(record: &Record) -> HookState<'_> {
    HookState {
        id: &record.id,
        bundle: &record.bundle,
        annotations: &record.annotations,
    }
}

/// Where the control group is to be.
///
/// # Errors
/// [`CliError::Cgroup`].
pub fn placement(
    global: &Global,
    layout: &Layout,
    spec: &Spec,
    id: &str,
) -> Result<Placement, CliError> {
    let driver = if global.systemd_cgroup {
        Driver::Systemd
    } else {
        Driver::Cgroupfs
    };
    let path = spec.linux.as_ref().map_or("", |linux| &*linux.cgroups_path);
    let placement = Placement::resolve(driver, layout, path, id, global.rootless)?;
    Ok(placement.with_annotations(&spec.annotations)?)
}

fn makes(spec: &Spec, kind: NamespaceKind) -> bool {
    let namespaces = spec.linux.iter().flat_map(|linux| &linux.namespaces);
    namespaces
        .filter(|namespace| namespace.kind == kind)
        .any(|namespace| namespace.path.as_deref().unwrap_or_default().is_empty())
}

fn check_terminal(spec: &Spec, options: &Create) -> Result<(), CliError> {
    let terminal = spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    check_console(terminal, options.detach, options.console_socket.is_some())
}

/// Refuses a terminal that nobody would hold, and a holder without a terminal.
///
/// # Errors
/// [`CliError::Usage`].
pub fn check_console(terminal: bool, detach: bool, has_socket: bool) -> Result<(), CliError> {
    match (terminal, detach, has_socket) {
        (true, true, false) => Err(CliError::Usage(
            "cannot allocate tty if the runtime will detach without setting console socket: \
             give --console-socket, or set process.terminal to false"
                .into(),
        )),
        (false, _, true) => Err(CliError::Usage(
            "cannot use console socket without a terminal: set process.terminal to true, or \
             leave --console-socket out"
                .into(),
        )),
        (true, false, true) => Err(CliError::Usage(
            "cannot use console socket if the runtime will not detach: leave \
             --console-socket out, or detach"
                .into(),
        )),
        _ => Ok(()),
    }
}

/// Checks that the descriptors that are to be passed on are open. Returns how many of them
/// are sockets that the caller listens on (sd_listen_fds(3)).
///
/// # Errors
/// [`CliError::Usage`].
pub fn check_kept(preserve: u32) -> Result<u32, CliError> {
    let listen = std::env::var("LISTEN_FDS").ok();
    let listen: u32 = match listen.as_deref().filter(|text| !text.is_empty()) {
        None => 0,
        Some(text) => text
            .parse()
            .ok()
            .filter(|&count| count < 1 << 16)
            .ok_or_else(|| {
                CliError::Usage(format!("LISTEN_FDS is {text:?}: it has to be a number"))
            })?,
    };
    if preserve > 1 << 16 {
        return Err(CliError::Usage("--preserve-fds is more than 65536".into()));
    }
    for number in 3..3 + preserve + listen {
        if rustix::fs::statat(
            rustix::fs::CWD,
            format!("/proc/self/fd/{number}"),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .is_err()
        {
            return Err(CliError::Usage(format!(
                "descriptor {number} cannot be passed on: it is not open"
            )));
        }
    }
    Ok(listen)
}

/// Standard input, output and error of this process.
///
/// # Errors
/// [`CliError::Step`].
pub fn own_streams() -> Result<[OwnedFd; 3], CliError> {
    let duplicate = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .step("cannot pass a standard stream on")
    };
    Ok([
        duplicate(io::stdin().as_fd())?,
        duplicate(io::stdout().as_fd())?,
        duplicate(io::stderr().as_fd())?,
    ])
}

/// Gives this process, and so the container's, a session keyring of the container's name:
/// the caller's keys would be within reach otherwise.
///
/// # Errors
/// [`CliError::Step`].
pub fn join_keyring(id: &str) -> Result<(), CliError> {
    let Ok(name) = CString::new(format!("_ses.{id}")) else {
        return Ok(());
    };
    let joined =
        gantry_sys::keyring::join_session(&name).and_then(gantry_sys::keyring::let_owner_search);
    match joined {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other.step("cannot join a session keyring; --no-new-keyring does without"),
    }
}

/// Writes a process id, in one step for whoever looks on.
///
/// # Errors
/// What the file system says.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<(), CliError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}"));
    fs::write(&unfinished, pid.to_string()).file("write", &unfinished)?;
    fs::rename(&unfinished, path).file("write", path)
}

impl Container {
    /// Follows the birth until the process waits for nothing but the start, and does what
    /// the caller wants to find by then.
    ///
    /// # Errors
    /// [`CliError`]; the container is to be undone then.
    pub fn until_prepared(&mut self, global: &Global, options: &Create) -> Result<(), CliError> {
        loop {
            match self.birth.news() {
                News::Warning(text) => global.log.warning(&text),
                News::Terminal(master) => match &options.console_socket {
                    Some(path) => {
                        socket::send(&socket::connect(path)?, "/dev/ptmx", master.as_fd())?;
                    }
                    None => self.terminal = Some(master),
                },
                News::Listener(listener) => {
                    let linux = self.spec.linux.as_ref();
                    deliver(&self.birth, &listener, linux, &self.record, "creating")?;
                }
                News::Failed(error) => return Err(error.into()),
                News::Running => {
                    return Err(CliError::Birth(BirthError::Invalid(
                        "the container's process ended during its start".into(),
                    )));
                }
                News::Prepared => break,
            }
        }
        let is_systemds = self
            .record
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.unit.is_some());
        if is_systemds {
            // The one that was made keeps a process of its own in the scope.
            self.group = None;
            self.group = state::group(&self.record)?;
        }
        if let Some(path) = &options.pid_file {
            write_pid_file(path, self.birth.pid)?;
        }
        if let Some(path) = &options.pidfd_socket {
            socket::send(
                &socket::connect(path)?,
                "standard",
                self.birth.pidfd.as_fd(),
            )?;
        }
        Ok(())
    }

    /// Takes everything back after a failure.
    ///
    /// # Errors
    /// The failure.
    pub fn undo_unless<T>(&self, result: Result<T, CliError>) -> Result<T, CliError> {
        if result.is_err() {
            let _ = super::delete::remove(&self.place, &self.record, self.group.as_ref());
        }
        result
    }
}
