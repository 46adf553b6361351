//! Every state-changing system call of an operation, recorded from a run of it, and the
//! death of a process at one of them.
//!
//! strace does it from outside: it kills at the entry of a call, before the call has any
//! effect. The death after a call is the one at the entry of the next, and so that
//! nothing happens in between, calls that wait for others count as points too.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::pair::{await_pair, kill};
use super::support::{Installation, wait_until};

/// System calls at which something changes, or that wait for somebody else.
const CALLS: &str = "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,\
truncate,fallocate,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,mkdir,\
mkdirat,rmdir,link,linkat,symlink,symlinkat,mknod,mknodat,chmod,fchmod,fchmodat,chown,fchown,lchown,\
fchownat,setxattr,lsetxattr,fsetxattr,utimensat,mount,umount2,move_mount,fsopen,fsmount,fsconfig,\
fspick,open_tree,mount_setattr,pivot_root,chroot,clone,clone3,fork,vfork,execve,execveat,setns,\
unshare,setsid,prctl,bpf,sendmsg,sendto,sendmmsg,bind,listen,connect,accept,accept4,shutdown,splice,\
tee,flock,fcntl,kill,tkill,tgkill,pidfd_send_signal,exit_group,poll,ppoll,select,pselect6,recvmsg,\
recvfrom,read,wait4,waitid,close,dup2,dup3,nanosleep,clock_nanosleep";

/// A process of the product that takes part in an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    Command,
    Outer,
    Inner,
}

/// One call of a process: the how manyth of this name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Point {
    pub call: String,
    pub number: u32,
}

/// An operation: the command that is struck.
#[derive(Clone, Debug)]
pub struct Operation {
    pub arguments: Vec<String>,
    /// Whether the supervisor is started by it.
    pub starts: bool,
}

/// How a run of an operation went.
pub struct Outcome {
    pub output: Output,
    /// Whether the process was killed, and did not end before its point.
    pub struck: bool,
}

/// A strace that is attached to a process.
struct Tracer {
    child: Child,
}

impl Tracer {
    fn attach(pid: i32, arguments: &[String]) -> Tracer {
        let mut child = Command::new("strace")
            .args(["-q", "-p", &pid.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let tracer = child.id().to_string();
        wait_until("strace to attach", || {
            if let Ok(Some(status)) = child.try_wait() {
                let mut text = String::new();
                let _ = child.stderr.take().unwrap().read_to_string(&mut text);
                // It has killed already: the call that was going on counts as entered.
                assert!(status.success(), "strace of {pid}: {text}");
                return true;
            }
            status(pid, "TracerPid") == tracer
        });
        Tracer { child }
    }

    /// Lets go of what is traced.
    fn detach(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let value = line.and_then(|line| line.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

fn go_on(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
}

/// The command, stopped before it does anything.
fn stopped(installation: &Installation, operation: &Operation) -> Child {
    let arguments: Vec<&str> = operation.arguments.iter().map(String::as_str).collect();
    let command = installation.command(&arguments);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = shell.spawn().unwrap();
    let pid = child.id() as i32;
    wait_until("the command to stop", || {
        status(pid, "State").starts_with('T')
    });
    child
}

/// Attaches to a process of the supervisor at its very beginning: strace stops each of
/// the two at its first prctl, which is the first thing that either does.
fn attach_newborn(command: i32, role: Role, log: &Path, arguments: &[String]) -> Option<Tracer> {
    let options = [
        "-f".into(),
        "-o".into(),
        log.to_string_lossy().into_owned(),
        "--trace=prctl".into(),
        "--inject=prctl:signal=STOP:when=1".into(),
    ];
    let scout = Tracer::attach(command, &options);
    go_on(command);
    let stops = || -> Vec<i32> {
        let text = fs::read_to_string(log).unwrap_or_default();
        let stops = text
            .lines()
            .filter(|line| line.contains("--- stopped by SIGSTOP"));
        stops
            .filter_map(|line| line.split(' ').next()?.parse().ok())
            .collect()
    };
    // The command itself may use prctl too; then it is not what is looked for.
    let mut released = false;
    let mut await_newborn = |index: usize| {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            let stopped = stops();
            if !released && stopped.contains(&command) {
                go_on(command);
                released = true;
            }
            if let Some(pid) = stopped.iter().filter(|&&pid| pid != command).nth(index) {
                return Some(*pid);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    };
    let mut target = await_newborn(0)?;
    if role == Role::Inner {
        go_on(target);
        target = await_newborn(1)?;
    }
    scout.detach();
    let tracer = Tracer::attach(target, arguments);
    go_on(target);
    Some(tracer)
}

/// Runs an operation with strace on one of the processes.
fn traced(
    installation: &Installation,
    operation: &Operation,
    role: Role,
    arguments: &[String],
) -> Output {
    let child = stopped(installation, operation);
    let pid = child.id() as i32;
    let tracer = match role {
        Role::Command => {
            let tracer = Tracer::attach(pid, arguments);
            go_on(pid);
            tracer
        }
        Role::Outer | Role::Inner if operation.starts => {
            let log = installation.root.join("scout");
            let tracer = attach_newborn(pid, role, &log, arguments);
            let _ = fs::remove_file(&log);
            tracer.expect("the supervisor did not start")
        }
        Role::Outer | Role::Inner => {
            let pair = await_pair(installation);
            let target = if role == Role::Outer {
                pair.outer
            } else {
                pair.inner
            };
            let tracer = Tracer::attach(target, arguments);
            go_on(pid);
            tracer
        }
    };
    // A command that hangs is killed, and shows by that.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if receiver.recv_timeout(Duration::from_secs(20)).is_err() {
            kill(pid);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = sender.send(());
    let _ = watchdog.join();
    tracer.detach();
    output
}

/// Records the points of one process in an operation.
pub fn record(
    installation: &Installation,
    operation: &Operation,
    role: Role,
) -> (Vec<Point>, Output) {
    let log = installation.root.join(format!("trace-{role:?}"));
    let arguments = [
        "-o".into(),
        log.to_string_lossy().into_owned(),
        format!("--trace={CALLS}"),
    ];
    let output = traced(installation, operation, role, &arguments);
    let text = take(&log);
    let mut points: Vec<Point> = Vec::new();
    let mut counts = std::collections::BTreeMap::new();
    let mut changes = true;
    for line in text.lines() {
        let Some((call, rest)) = line.split_once('(') else {
            continue;
        };
        if call.is_empty()
            || !call
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            continue;
        }
        let count = counts.entry(call.to_owned()).or_insert(0);
        *count += 1;
        // Until something has changed again, a death is the same as the one before.
        if changes || is_change(call, rest) {
            points.push(Point {
                call: call.into(),
                number: *count,
            });
        }
        changes = is_change(call, rest);
    }
    (points, output)
}

fn take(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let _ = fs::remove_file(log);
    text
}

/// Whether a call changes anything that outlives the process or that others see.
fn is_change(call: &str, rest: &str) -> bool {
    match call {
        "open" | "openat" | "openat2" => rest.contains("O_CREAT") || rest.contains("O_TRUNC"),
        "fcntl" => rest.contains("F_SETLK") || rest.contains("F_OFD"),
        // Taking something off a pipe or a socket is a change; a file does not notice.
        "poll" | "ppoll" | "select" | "pselect6" | "nanosleep" | "clock_nanosleep" => false,
        "read" | "recvmsg" | "recvfrom" => true,
        "close" | "dup2" | "dup3" => false,
        _ => true,
    }
}

/// Runs an operation and kills one process of it at a point.
pub fn strike(
    installation: &Installation,
    operation: &Operation,
    role: Role,
    point: &Point,
) -> Outcome {
    let Point { call, number } = point;
    let log = installation.root.join("strike");
    let arguments = [
        "-o".into(),
        log.to_string_lossy().into_owned(),
        format!("--trace={call}"),
        format!("--inject={call}:signal=KILL:when={number}"),
    ];
    let output = traced(installation, operation, role, &arguments);
    // A stop by force kills the container, not what is traced.
    let struck = take(&log).contains("+++ killed by SIGKILL");
    Outcome { output, struck }
}
