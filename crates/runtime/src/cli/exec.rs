//! `exec`.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_runtime::BirthError;
use gantry_runtime::birth::{Birth, News, Stdio};
use gantry_runtime::capabilities::CapabilitySet;
use gantry_runtime::cgroup::{Group, Layout};
use gantry_runtime::enter::{self, EnterPlan};
use gantry_runtime::spec::{Capabilities, Linux, Process, Spec};
use rustix::io::Errno;

use super::arguments::Arguments;
use super::attend::{Attended, hold_signals};
use super::create::{
    check_console, check_kept, deliver, join_keyring, own_streams, write_pid_file,
};
use super::error::{CliError, Context as _};
use super::options::{Global, path};
use super::socket;
use super::state::{self, Place, Record, Status};

/// The most that is read of a process in JSON.
const MAX_PROCESS: u64 = 16 << 20;

/// Flags.
#[derive(Debug, Default)]
struct Options {
    process: Option<PathBuf>,
    tty: bool,
    detach: bool,
    console_socket: Option<PathBuf>,
    cwd: Option<String>,
    env: Vec<String>,
    user: Option<(u32, u32)>,
    groups: Vec<u32>,
    capabilities: Vec<String>,
    no_new_privileges: bool,
    apparmor: Option<String>,
    label: Option<String>,
    pid_file: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    preserve_fds: u32,
    cgroups: Vec<String>,
    ignore_paused: bool,
    no_new_keyring: bool,
}

/// `exec`. Returns the exit code.
///
/// # Errors
/// [`CliError`].
pub fn command(global: &Global, words: &mut Arguments) -> Result<u8, CliError> {
    let options = parse(words)?;
    let id = words.id()?;
    let command = words.rest();
    exec(global, &options, &id, command)
        // containerd and Docker expect these words before the cause.
        .map_err(|error| match error {
            CliError::Birth(_) => {
                error.during("exec failed: unable to start container process".into())
            }
            other => other.during(format!("exec failed in container {id}")),
        })
}

fn parse(words: &mut Arguments) -> Result<Options, CliError> {
    let mut options = Options::default();
    while let Some(flag) = words.flag() {
        match flag.name() {
            "process" | "p" => options.process = path(words.value(flag)?),
            "tty" | "t" => options.tty = flag.switch()?,
            "detach" | "d" => options.detach = flag.switch()?,
            "console-socket" => options.console_socket = path(words.value(flag)?),
            "cwd" => options.cwd = Some(words.value(flag)?),
            "env" | "e" => options.env.push(words.value(flag)?),
            "user" | "u" => options.user = Some(parse_user(&words.value(flag)?)?),
            "additional-gids" | "g" => options.groups.push(words.number(flag)?),
            "cap" | "c" => options.capabilities.push(words.value(flag)?),
            "no-new-privs" => options.no_new_privileges = flag.switch()?,
            "apparmor" => options.apparmor = Some(words.value(flag)?),
            "process-label" => options.label = Some(words.value(flag)?),
            "pid-file" => options.pid_file = path(words.value(flag)?),
            "pidfd-socket" => options.pidfd_socket = path(words.value(flag)?),
            "preserve-fds" => options.preserve_fds = words.number(flag)?,
            "cgroup" => options.cgroups.push(words.value(flag)?),
            "ignore-paused" => options.ignore_paused = flag.switch()?,
            "no-new-keyring" => options.no_new_keyring = flag.switch()?,
            // Accepted by runc and without effect there as well.
            "no-subreaper" => drop(flag.switch()?),
            _ => return Err(flag.unknown()),
        }
    }
    Ok(options)
}

/// `UID` or `UID:GID`, in digits only: anything else must not come out as root
/// (CVE-2026-30892).
fn parse_user(text: &str) -> Result<(u32, u32), CliError> {
    let number = |digits: &str| -> Option<u32> {
        let plain = !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        // The highest number means "no change" to the kernel.
        digits.parse().ok().filter(|&id| plain && id != u32::MAX)
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (number(user), number(group)),
        None => (number(text), Some(0)),
    };
    match (user, group) {
        (Some(user), Some(group)) => Ok((user, group)),
        _ => Err(CliError::Usage(format!(
            "invalid user {text:?}: UID or UID:GID in digits is needed"
        ))),
    }
}

fn exec(
    global: &Global,
    options: &Options,
    id: &str,
    command: Vec<String>,
) -> Result<u8, CliError> {
    // Before anything is opened that could get one of these numbers.
    let listen = check_kept(options.preserve_fds)?;
    let place = Place::open(&global.root, id)?;
    let record = place.record()?;
    let container = living(&place, &record, options)?;
    let mut spec = place.config()?;
    let mut process = process(options, &mut spec, command)?;
    check_console(
        process.terminal,
        options.detach,
        options.console_socket.is_some(),
    )
    .or_else(|error| {
        // A foreground exec may hand its terminal over as well, as containerd has it.
        if process.terminal && options.console_socket.is_some() {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    if listen > 0 {
        process.env.push(format!("LISTEN_FDS={listen}"));
        process.env.push("LISTEN_PID=1".into());
    }
    let signals = if options.detach {
        None
    } else {
        Some(hold_signals()?)
    };
    if !options.no_new_keyring {
        join_keyring(id)?;
    }
    let layout = Layout::detect()?;
    let (group, moves) = groups(&layout, &record, &options.cgroups)?;
    let keep_fds = options.preserve_fds + listen;
    let enter = |group: Option<&Group>| -> Result<Birth, CliError> {
        let stdio = if process.terminal {
            Stdio::Terminal
        } else {
            Stdio::Plain(own_streams()?)
        };
        Ok(enter::begin(EnterPlan {
            process: &process,
            linux: spec.linux.as_ref(),
            user: None,
            container: container.as_fd(),
            group,
            stdio,
            keep_fds,
        })?)
    };
    let birth = match enter(group.as_ref()) {
        // Version 2 takes no processes where there are groups with controllers inside: a
        // systemd in the container has moved itself to one of them.
        Err(CliError::Birth(BirthError::Step { source, .. }))
            if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) =>
        {
            enter(Some(&group_of(&layout, record.pid)?))?
        }
        other => other?,
    };
    let terminal = follow(
        global,
        options,
        &birth,
        (spec.linux.as_ref(), &record),
        &moves,
    )?;
    let Some(signals) = signals else {
        return Ok(0);
    };
    Attended {
        process: birth.pidfd.as_fd(),
        pid: birth.pid,
        signals,
        terminal,
        listener: None,
    }
    .wait()
}

fn living(place: &Place, record: &Record, options: &Options) -> Result<OwnedFd, CliError> {
    let status = place.status(record);
    let wrong_state = |hint| CliError::WrongState {
        action: "exec in",
        id: record.id.clone(),
        status: status.name(),
        hint,
    };
    match status {
        Status::Paused if !options.ignore_paused => {
            return Err(wrong_state(
                ": cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        Status::Stopped => {
            return Err(wrong_state(": cannot exec in a stopped container"));
        }
        Status::Creating => return Err(wrong_state(": try again when it is created")),
        _ => {}
    }
    state::process(record).ok_or_else(|| wrong_state(": cannot exec in a stopped container"))
}

/// The process to run: from its file, or as the container's own with what flags change.
fn process(options: &Options, spec: &mut Spec, command: Vec<String>) -> Result<Process, CliError> {
    let own = spec.process.take().unwrap_or_default();
    let mut process = match &options.process {
        Some(path) => {
            if !command.is_empty() {
                return Err(CliError::Usage(
                    "a command and --process exclude each other".into(),
                ));
            }
            let mut process = read_process(path)?;
            // As runc has it: what the file leaves out is the container's.
            if process.capabilities.is_none() {
                process.capabilities = own.capabilities;
            }
            process
        }
        None => {
            if command.is_empty() {
                return Err(CliError::Usage(
                    "a command is needed, or --process with a file".into(),
                ));
            }
            Process {
                args: command,
                terminal: options.tty,
                console_size: None,
                ..own
            }
        }
    };
    if options.process.is_none() {
        if let Some(cwd) = &options.cwd {
            process.cwd.clone_from(cwd);
        }
        process.env.extend(options.env.iter().cloned());
        if let Some((uid, gid)) = options.user {
            process.user.uid = uid;
            process.user.gid = gid;
        }
        process.user.additional_gids.extend(&options.groups);
        process.no_new_privileges |= options.no_new_privileges;
        if let Some(profile) = &options.apparmor {
            process.apparmor_profile.clone_from(profile);
        }
        if let Some(label) = &options.label {
            process.selinux_label.clone_from(label);
        }
        add_capabilities(&mut process, &options.capabilities)?;
    }
    process.terminal |= options.tty;
    Ok(process)
}

/// Added capabilities are for the process and not for its heirs: neither inheritable nor
/// ambient (CVE-2022-29162, CVE-2025-27612).
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), CliError> {
    if names.is_empty() {
        return Ok(());
    }
    // In a configuration, which may be newer than this program, a warning; typed, a mistake.
    CapabilitySet::from_names(names).map_err(|error| CliError::Usage(format!("--cap: {error}")))?;
    let sets = process
        .capabilities
        .get_or_insert_with(Capabilities::default);
    for name in names {
        let upper = name.to_ascii_uppercase();
        let name = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            if !set.contains(&name) {
                set.push(name.clone());
            }
        }
    }
    Ok(())
}

fn read_process(path: &Path) -> Result<Process, CliError> {
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_PROCESS).read_to_end(&mut text))
        .file("read", path)?;
    Ok(gantry_runtime::spec::read(&path.to_string_lossy(), &text)?)
}

/// Where the process goes: a group of all hierarchies, and for some controllers of version
/// 1 another one, by the directory's path.
fn groups(
    layout: &Layout,
    record: &Record,
    asked: &[String],
) -> Result<(Option<Group>, Vec<PathBuf>), CliError> {
    let Some(top) = state::group(record)? else {
        if asked.is_empty() {
            return Ok((None, Vec::new()));
        }
        return Err(CliError::Usage(
            "--cgroup: the container has no control group".into(),
        ));
    };
    let mut everywhere = None;
    let mut moves = Vec::new();
    for text in asked {
        let (controllers, below) = match text.split_once(':') {
            Some((controllers, below)) => (Some(controllers), below),
            None => (None, &**text),
        };
        if below.split('/').any(|part| part == "..") {
            return Err(CliError::Usage(format!(
                "--cgroup {text}: the group has to be inside the container's"
            )));
        }
        let below = below.trim_matches('/');
        let full = if below.is_empty() {
            top.path().to_owned()
        } else {
            format!("{}/{below}", top.path())
        };
        let Some(controllers) = controllers else {
            everywhere = Some(below);
            continue;
        };
        for controller in controllers.split(',') {
            let hierarchy = layout.hierarchies().iter().find(|hierarchy| {
                hierarchy
                    .controllers()
                    .iter()
                    .any(|name| name == controller)
            });
            let hierarchy = hierarchy.ok_or_else(|| {
                CliError::Usage(format!("--cgroup {text}: no hierarchy has {controller}"))
            })?;
            moves.push(Path::new(hierarchy.mount_point()).join(&full));
        }
    }
    let group = match everywhere {
        None | Some("") => top,
        Some(below) => {
            // Where there is no such group the container's limits hold all the same.
            for hierarchy in layout.hierarchies() {
                let place = Path::new(hierarchy.mount_point()).join(top.path());
                if !place.join(below).is_dir() && place.is_dir() {
                    moves.insert(0, place);
                }
            }
            top.sub_group(below)?
        }
    };
    Ok((Some(group), moves))
}

/// The version 2 group that a process is in.
fn group_of(layout: &Layout, pid: i32) -> Result<Group, CliError> {
    let file = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&file).file("read", &file)?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or_default();
    Ok(Group::open(layout, path)?)
}

/// Follows the birth to the program; returns the terminal if it was not handed over.
fn follow(
    global: &Global,
    options: &Options,
    birth: &Birth,
    (linux, record): (Option<&Linux>, &Record),
    moves: &[PathBuf],
) -> Result<Option<OwnedFd>, CliError> {
    let mut terminal = None;
    loop {
        match birth.news() {
            News::Warning(text) => global.log.warning(&text),
            News::Terminal(master) => match &options.console_socket {
                Some(path) => {
                    socket::send(&socket::connect(path)?, "/dev/ptmx", master.as_fd())?;
                }
                None => terminal = Some(master),
            },
            News::Prepared => {
                for directory in moves {
                    let file = directory.join("cgroup.procs");
                    fs::write(&file, birth.pid.to_string()).file("write", file)?;
                }
                if let Some(path) = &options.pid_file {
                    write_pid_file(path, birth.pid)?;
                }
                if let Some(path) = &options.pidfd_socket {
                    socket::send(&socket::connect(path)?, "setns", birth.pidfd.as_fd())?;
                }
                birth.give_the_word()?;
            }
            News::Listener(listener) => {
                deliver(birth, &listener, linux, record, "running")?;
            }
            News::Running => return Ok(terminal),
            News::Failed(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_and_never_root_by_mistake() {
        // CVE-2026-30892: `1` came out as 0:0.
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1", Some((1, 0))),
            ("1:2", Some((1, 2))),
            ("1000:0", Some((1000, 0))),
            ("4294967294", Some((4_294_967_294, 0))),
            (":5", None),
            ("5:", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("-1", None),
            ("", None),
            ("root", None),
            ("0x0", None),
            ("1:2:3", None),
            ("4294967295", None),
            ("4294967296", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_user(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn added_capabilities_do_not_reach_heirs() {
        let mut process = Process::default();
        add_capabilities(&mut process, &["net_admin".into(), "CAP_NET_ADMIN".into()]).unwrap();
        let sets = process.capabilities.unwrap();
        assert_eq!(sets.effective, ["CAP_NET_ADMIN"]);
        assert_eq!(sets.permitted, ["CAP_NET_ADMIN"]);
        assert_eq!(sets.bounding, ["CAP_NET_ADMIN"]);
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
    }
}
