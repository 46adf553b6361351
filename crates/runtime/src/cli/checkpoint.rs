//! `checkpoint` and `restore`, through the `criu` program and its command line.
//!
//! What runc does by criu's RPC is done by flags where there are such flags. There is none
//! for the master of a terminal, which criu's client has to be handed while it works:
//! containers with a terminal are refused.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_runtime::cgroup::{Group, Layout};
use gantry_runtime::spec::{Linux, NamespaceKind, Spec};
use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{Pid, PidfdFlags};

use super::arguments::{Arguments, Flag};
use super::attend::{Attended, hold_signals};
use super::create::{Bundle, join_keyring, make_group, new_record, read_bundle, write_pid_file};
use super::error::{CliError, Context as _};
use super::options::{Create, Global, absolute};
use super::state::{self, CONFIG, Place, Record, Status};

/// What the standard streams led to, beside the images; runc's name and form.
const DESCRIPTORS: &str = "descriptors.json";

/// `CLONE_NEWNS`.
const NEW_MOUNTS: i32 = 0x2_0000;

/// Flags that both commands have.
#[derive(Debug)]
struct Options {
    images: PathBuf,
    work: Option<PathBuf>,
    parent: Option<PathBuf>,
    leave_running: bool,
    pre_dump: bool,
    cgroups: String,
    /// Flags that criu takes as they are.
    plain: Vec<String>,
}

impl Options {
    fn new() -> Result<Options, CliError> {
        Ok(Options {
            images: absolute("checkpoint".into())?,
            work: None,
            parent: None,
            leave_running: false,
            pre_dump: false,
            cgroups: "soft".into(),
            plain: Vec::new(),
        })
    }

    /// Takes a flag, or gives it back.
    fn take(&mut self, flag: Flag, words: &mut Arguments) -> Result<Option<Flag>, CliError> {
        match flag.name() {
            "image-path" => self.images = absolute(words.value(flag)?)?,
            "work-path" => self.work = Some(absolute(words.value(flag)?)?),
            "tcp-established" | "ext-unix-sk" | "shell-job" | "file-locks" | "auto-dedup" => {
                let name = format!("--{}", flag.name());
                if flag.switch()? {
                    self.plain.push(name);
                }
            }
            "lsm-profile" | "lsm-mount-context" => {
                let name = format!("--{}", flag.name());
                self.plain.extend([name, words.value(flag)?]);
            }
            "empty-ns" => {
                let value = words.value(flag)?;
                if value != "network" {
                    return Err(CliError::Usage(format!(
                        "namespace {value:?} cannot be left empty: only network can"
                    )));
                }
                self.plain.extend(["--empty-ns".into(), "net".into()]);
            }
            "manage-cgroups-mode" => {
                let value = words.value(flag)?;
                if !matches!(&*value, "soft" | "full" | "strict" | "ignore") {
                    return Err(CliError::Usage(format!(
                        "invalid mode {value:?}: soft, full, strict and ignore are known"
                    )));
                }
                self.cgroups = value;
            }
            "lazy-pages" | "page-server" | "status-fd" => {
                return Err(CliError::Usage(format!(
                    "--{} is not supported",
                    flag.name()
                )));
            }
            _ => return Ok(Some(flag)),
        }
        Ok(None)
    }

    /// Where criu works and logs.
    fn work(&self, place: &Place) -> PathBuf {
        self.work
            .clone()
            .unwrap_or_else(|| place.path.join("criu.work"))
    }
}

/// `checkpoint`.
///
/// # Errors
/// [`CliError`]; the container goes on then.
pub fn checkpoint(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let mut options = Options::new()?;
    while let Some(flag) = words.flag() {
        match flag.name() {
            "parent-path" => options.parent = Some(words.value(flag)?.into()),
            "leave-running" => options.leave_running = flag.switch()?,
            "pre-dump" => options.pre_dump = flag.switch()?,
            _ => {
                if let Some(flag) = options.take(flag, words)? {
                    return Err(flag.unknown());
                }
            }
        }
    }
    let id = words.id()?;
    words.end()?;
    dump(global, &options, &id)
        .map_err(|error| error.during(format!("cannot checkpoint container {id}")))
}

fn dump(global: &Global, options: &Options, id: &str) -> Result<(), CliError> {
    let mut place = Place::open(&global.root, id)?;
    place.lock()?;
    let record = place.record()?;
    let status = place.status(&record);
    if status != Status::Running {
        return Err(CliError::WrongState {
            action: "checkpoint",
            id: id.to_owned(),
            status: status.name(),
            hint: ": it has to be running",
        });
    }
    let spec = place.config()?;
    check(&spec)?;
    let work = options.work(&place);
    for directory in [&options.images, &work] {
        fs::create_dir_all(directory).file("create", directory)?;
    }
    let streams: Vec<String> = (0..3)
        .map(|number| {
            let link = fs::read_link(format!("/proc/{}/fd/{number}", record.pid));
            link.map_or(String::new(), |target| {
                target.to_string_lossy().into_owned()
            })
        })
        .collect();
    let file = options.images.join(DESCRIPTORS);
    let text = serde_json::to_vec(&streams)
        .map_err(std::io::Error::from)
        .step("cannot write JSON")?;
    fs::write(&file, text).file("write", file)?;

    let action = if options.pre_dump { "pre-dump" } else { "dump" };
    let mut command = criu(global, action, options, &work);
    command
        .arg("--tree")
        .arg(record.pid.to_string())
        .arg("--root")
        .arg(&record.rootfs);
    if let Some(directory) = freezer(&record)? {
        command.arg("--freeze-cgroup").arg(directory);
    }
    if let Some(parent) = &options.parent {
        command.arg("--prev-images-dir").arg(parent);
    }
    if options.pre_dump || options.parent.is_some() {
        command.arg("--track-mem");
    }
    if options.leave_running && !options.pre_dump {
        command.arg("--leave-running");
    }
    for mount in bound(&spec) {
        command
            .arg("--external")
            .arg(format!("mnt[{mount}]:{mount}"));
    }
    finish_criu(command, action, &work)?;
    if options.leave_running || options.pre_dump {
        return Ok(());
    }
    let group = state::group(&record)?;
    super::delete::remove(&place, &record, group.as_ref())
}

/// Refuses what criu's command line cannot do.
fn check(spec: &Spec) -> Result<(), CliError> {
    if spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal)
    {
        return Err(CliError::Invalid(
            "a container with a terminal cannot be checkpointed or restored".into(),
        ));
    }
    let namespaces = spec
        .linux
        .iter()
        .flat_map(|linux: &Linux| &linux.namespaces);
    for namespace in namespaces {
        let is_joined = namespace
            .path
            .as_deref()
            .is_some_and(|path| !path.is_empty());
        if is_joined && namespace.kind != NamespaceKind::Cgroup {
            return Err(CliError::Invalid(format!(
                "a container that has joined a {} namespace by path cannot be checkpointed or \
                 restored",
                namespace.kind.name()
            )));
        }
    }
    Ok(())
}

fn criu(global: &Global, action: &str, options: &Options, work: &Path) -> Command {
    let mut command = Command::new(&global.criu);
    command
        .arg(action)
        .arg("--images-dir")
        .arg(&options.images)
        .arg("--work-dir")
        .arg(work)
        .arg("--log-file")
        .arg(format!("{action}.log"))
        .arg("-v4")
        .arg(format!("--manage-cgroups={}", options.cgroups))
        .args(&options.plain);
    command
}

fn finish_criu(mut command: Command, action: &str, work: &Path) -> Result<(), CliError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().file("run", &program)?;
    if status.success() {
        return Ok(());
    }
    let log = work.join(format!("{action}.log"));
    let text = fs::read_to_string(&log).unwrap_or_default();
    let cause = text.lines().find(|line| line.contains("Error ("));
    let cause = cause.map_or(String::new(), |line| format!(": {}", line.trim()));
    Err(CliError::Program {
        program: format!("{program} {action}"),
        status,
        detail: format!("{cause}; more in {}", log.display()),
    })
}

/// Destinations of mounts whose source lies outside of the container.
fn bound(spec: &Spec) -> impl Iterator<Item = &str> {
    spec.mounts
        .iter()
        .filter(|mount| {
            mount.kind == "bind"
                || mount
                    .options
                    .iter()
                    .any(|option| option == "bind" || option == "rbind")
        })
        .map(|mount| &*mount.destination)
}

/// The directory by which criu can freeze the container.
fn freezer(record: &Record) -> Result<Option<PathBuf>, CliError> {
    let Some(placement) = &record.cgroup else {
        return Ok(None);
    };
    let layout = Layout::detect()?;
    let has_freezer = |names: &[String]| names.iter().any(|name| name == "freezer");
    let hierarchy = layout
        .hierarchies()
        .iter()
        .find(|hierarchy| has_freezer(hierarchy.controllers()))
        .or(layout.v2());
    let directory =
        hierarchy.map(|hierarchy| Path::new(hierarchy.mount_point()).join(&placement.path));
    Ok(directory.filter(|directory| directory.is_dir()))
}

/// `restore`. Returns the exit code.
///
/// # Errors
/// [`CliError`], after which nothing is left of the container.
pub fn restore(global: &Global, words: &mut Arguments) -> Result<u8, CliError> {
    let mut options = Options::new()?;
    let mut create = Create::new();
    while let Some(flag) = words.flag() {
        if matches!(flag.name(), "detach" | "d") {
            create.detach = flag.switch()?;
            continue;
        }
        let Some(flag) = options.take(flag, words)? else {
            continue;
        };
        if let Some(flag) = create.take(flag, words)? {
            return Err(flag.unknown());
        }
    }
    let id = words.id()?;
    words.end()?;
    bring_back(global, &options, &create, &id)
        .map_err(|error| error.during(format!("cannot restore container {id}")))
}

fn bring_back(
    global: &Global,
    options: &Options,
    create: &Create,
    id: &str,
) -> Result<u8, CliError> {
    let Bundle {
        path,
        rootfs,
        text,
        spec,
    } = read_bundle(&create.bundle)?;
    check(&spec)?;
    let signals = if create.detach {
        None
    } else {
        Some(hold_signals()?)
    };
    let layout = Layout::detect()?;
    let mut record = new_record(global, &layout, &spec, (path, rootfs), id)?;
    let mut place = Place::make(&global.root, id)?;
    let restored = restore_in(
        global,
        options,
        create,
        &place,
        &layout,
        &spec,
        &text,
        &mut record,
    );
    let (group, process) = match restored {
        Ok(restored) => restored,
        Err(error) => {
            let _ = super::delete::remove(&place, &record, None);
            return Err(error);
        }
    };
    place.unlock();
    let Some(signals) = signals else {
        return Ok(0);
    };
    let code = Attended {
        process: process.as_fd(),
        pid: record.pid,
        signals,
        terminal: None,
        listener: None,
    }
    .wait()?;
    place.lock()?;
    super::delete::remove(&place, &record, group.as_ref())?;
    Ok(code)
}

#[expect(clippy::too_many_arguments, reason = "one step of the only caller")]
fn restore_in(
    global: &Global,
    options: &Options,
    create: &Create,
    place: &Place,
    layout: &Layout,
    spec: &Spec,
    text: &[u8],
    record: &mut Record,
) -> Result<(Option<Group>, OwnedFd), CliError> {
    place.write(CONFIG, text)?;
    place.write_record(record)?;
    let group = make_group(global, layout, spec, record)?;
    if !create.no_new_keyring {
        join_keyring(&record.id)?;
    }
    let work = options.work(place);
    fs::create_dir_all(&work).file("create", &work)?;
    // criu wants the root to be a mount; here it is one that only we and criu see.
    gantry_sys::process::unshare(NEW_MOUNTS).step("cannot make a mount namespace")?;
    let apart = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", apart).step("cannot keep mounts from the host")?;
    mount_bind_recursive(&record.rootfs, &record.rootfs).file("mount", &record.rootfs)?;

    let mut command = criu(global, "restore", options, &work);
    let pid_file = work.join("restored.pid");
    let _ = rustix::fs::unlinkat(CWD, &pid_file, rustix::fs::AtFlags::empty());
    command
        .arg("--root")
        .arg(&record.rootfs)
        .args(["--restore-detached", "--restore-sibling", "--pidfile"])
        .arg(&pid_file);
    if let Some(placement) = &record.cgroup {
        command
            .arg("--cgroup-root")
            .arg(format!("/{}", placement.path));
    }
    for mount in &spec.mounts {
        if bound(spec).any(|destination| destination == mount.destination) {
            let (destination, source) = (&mount.destination, &mount.source);
            command
                .arg("--external")
                .arg(format!("mnt[{destination}]:{source}"));
        }
    }
    for (number, target) in streams(&options.images).iter().enumerate() {
        if target.starts_with("pipe:") {
            command
                .arg("--inherit-fd")
                .arg(format!("fd[{number}]:{target}"));
        }
    }
    command.stdin(Stdio::inherit());
    finish_criu(command, "restore", &work)?;
    let text = fs::read_to_string(&pid_file).file("read", &pid_file)?;
    let pid = text
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| {
            CliError::Invalid(format!(
                "criu has written no process id to {}",
                pid_file.display()
            ))
        })?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .step("cannot open the restored process")?;
    record.pid = pid.as_raw_nonzero().get();
    record.start_time = state::start_time(record.pid).unwrap_or_default();
    place.write_record(record)?;
    if let Some(path) = &create.pid_file {
        write_pid_file(path, record.pid)?;
    }
    Ok((group, process))
}

/// What the streams of the container led to when it was written.
fn streams(images: &Path) -> Vec<String> {
    fs::read(images.join(DESCRIPTORS))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}
