//! Terminals, sockets and descriptors that are handed over.

use std::fs;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::Winsize;
use serde_json::json;

use crate::bundle::Runtime;
use crate::support::wait_until;

/// A socket that waits for a descriptor.
struct Taker {
    path: PathBuf,
    listener: UnixListener,
}

impl Taker {
    fn new(runtime: &Runtime, name: &str) -> Taker {
        let path = runtime.directory.join(name);
        Taker {
            listener: UnixListener::bind(&path).unwrap(),
            path,
        }
    }

    /// The descriptor, and the name that came with it.
    fn take(&self) -> (OwnedFd, String) {
        let (stream, _): (UnixStream, _) = self.listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0u8; 256];
        let length = {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            recvmsg(&stream, &mut parts, &mut control, RecvFlags::empty())
                .unwrap()
                .bytes
        };
        let fd = control
            .drain()
            .find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            })
            .expect("a descriptor comes along");
        (fd, String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

fn with_terminal(config: &mut serde_json::Value) {
    config["process"]["terminal"] = json!(true);
    config["process"]["consoleSize"] = json!({"height": 33, "width": 111});
}

fn read_until(master: &mut fs::File, word: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0u8; 1024];
    while !seen.contains(word) {
        match master.read(&mut buffer) {
            Ok(length) if length > 0 => seen += &String::from_utf8_lossy(&buffer[..length]),
            _ => panic!("the terminal ended after {seen:?}"),
        }
    }
    seen
}

#[test]
fn a_terminal_is_handed_to_the_console_socket() {
    let runtime = Runtime::new();
    let taker = Taker::new(&runtime, "console.sock");
    let bundle = runtime.bundle("one", &["sh"], with_terminal);
    // By pipes that are read to their end: the process that waits for `start` must not hold
    // them, or containerd, which does the same, would wait for ever.
    let (bundle, path) = (bundle.to_str().unwrap(), taker.path.to_str().unwrap());
    runtime.ok(&["create", "-b", bundle, "--console-socket", path, "one"]);
    let (master, name) = taker.take();
    assert!(name.contains("ptmx"), "{name}");
    runtime.ok(&["start", "one"]);
    let mut master = fs::File::from(master);
    master.write_all(b"tty; stty size; echo do''ne\n").unwrap();
    let seen = read_until(&mut master, "done");
    assert!(seen.contains("/dev/pts/0"), "{seen}");
    assert!(seen.contains("33 111"), "{seen}");
    master.write_all(b"exit 0\n").unwrap();
    runtime.wait_for_status("one", "stopped");

    // A detached exec as well.
    runtime.ok(&["delete", "one"]);
    runtime.idle("two");
    let path = taker.path.to_str().unwrap().to_owned();
    let status = runtime
        .command(&["exec", "-t", "-d", "--console-socket", &path, "two", "sh"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let mut master = fs::File::from(taker.take().0);
    master.write_all(b"tty; echo do''ne\n").unwrap();
    assert!(read_until(&mut master, "done").contains("/dev/pts/0"));
}

#[test]
fn terminals_and_sockets_that_do_not_fit_are_refused() {
    let runtime = Runtime::new();
    let taker = Taker::new(&runtime, "console.sock");
    let socket = taker.path.to_str().unwrap();
    let with = runtime.bundle("with", &["true"], with_terminal);
    let without = runtime.bundle("without", &["true"], |_| {});
    let (with, without) = (with.to_str().unwrap(), without.to_str().unwrap());
    let nowhere = runtime.directory.join("nowhere");
    for arguments in [
        &["create", "-b", with, "one"][..],
        &["run", "-d", "-b", with, "one"],
        &["create", "-b", without, "--console-socket", socket, "one"],
        &[
            "create",
            "-b",
            with,
            "--console-socket",
            nowhere.to_str().unwrap(),
            "one",
        ],
    ] {
        let refused = runtime.fails(1, arguments);
        assert!(refused.contains("socket"), "{refused}");
    }
    runtime.assert_clean();
}

/// A pseudo-terminal, as a person's.
fn own_terminal() -> (fs::File, OwnedFd) {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    (master.into(), slave)
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[test]
fn run_in_the_foreground_carries_its_terminal_over() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["sh"], |config| {
        config["process"]["terminal"] = json!(true);
    });
    let (mut master, slave) = own_terminal();
    rustix::termios::tcsetwinsize(&master, size(24, 80)).unwrap();
    let before = rustix::termios::tcgetattr(&slave).unwrap();
    let stream = || Stdio::from(slave.try_clone().unwrap());
    let mut child = runtime
        .command(&["run", "-b", bundle.to_str().unwrap(), "one"])
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .process_group(0)
        .spawn()
        .unwrap();
    master.write_all(b"stty size; echo on''e\n").unwrap();
    let seen = read_until(&mut master, "one");
    assert!(seen.contains("24 80"), "{seen}");
    let during = rustix::termios::tcgetattr(&slave).unwrap();
    assert!(
        !during
            .local_modes
            .contains(rustix::termios::LocalModes::ECHO)
    );
    // A new size is passed on.
    rustix::termios::tcsetwinsize(&master, size(50, 132)).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    master
        .write_all(b"while [ \"$(stty size)\" != '50 132' ]; do sleep 0.05; done; echo tw''o\n")
        .unwrap();
    read_until(&mut master, "two");
    master.write_all(b"exit 9\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let after = rustix::termios::tcgetattr(&slave).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    runtime.assert_clean();
}

#[test]
fn exec_in_the_foreground_has_a_terminal_if_asked() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let (mut master, slave) = own_terminal();
    let stream = || Stdio::from(slave.try_clone().unwrap());
    let mut child = runtime
        .command(&["exec", "-t", "one", "sh", "-c", "tty; exit 4"])
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    assert!(read_until(&mut master, "/dev/pts/").contains("/dev/pts/"));
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert_eq!(
        runtime.ends(1, &["exec", "one", "tty"]).0,
        "not a tty",
        "without -t there is none"
    );
}

#[test]
fn the_process_id_is_written_and_its_handle_sent() {
    let runtime = Runtime::new();
    let taker = Taker::new(&runtime, "pidfd.sock");
    let file = runtime.directory.join("pid");
    let bundle = runtime.bundle("one", &["sleep", "1000"], |_| {});
    runtime.create(
        "one",
        &bundle,
        &[
            "--pid-file",
            file.to_str().unwrap(),
            "--pidfd-socket",
            taker.path.to_str().unwrap(),
        ],
    );
    let pid = runtime.pid("one");
    assert_eq!(fs::read_to_string(&file).unwrap(), pid.to_string());
    let (pidfd, name) = taker.take();
    assert_eq!(name, "standard");
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(info.contains(&format!("Pid:\t{pid}\n")), "{info}");
}

#[test]
fn descriptors_are_kept_when_asked_and_no_others() {
    let runtime = Runtime::new();
    let script = "ls /proc/self/fd | sort -n | tr '\\n' ' '; cat <&3; cat <&4; \
                  echo $LISTEN_FDS $LISTEN_PID";
    let bundle = runtime.bundle("one", &["sh", "-c", script], |_| {});
    let path = bundle.to_str().unwrap();
    let shell = |line: &str| {
        let program = crate::support::bin_dir().join("gantry-runtime");
        let line = line.replace(
            "RT",
            &format!("{} --root {}", program.display(), runtime.root.display()),
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &line])
            .env_remove("LISTEN_FDS")
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    fs::write(runtime.directory.join("three"), "three\n").unwrap();
    fs::write(runtime.directory.join("four"), "four\n").unwrap();
    let open = format!(
        "cd {}; exec 3<three 4<four 5<four 6<four;",
        runtime.directory.display()
    );
    let (code, out, err) = shell(&format!("{open} RT run --preserve-fds 2 -b {path} one"));
    assert_eq!(code, Some(0), "{err}");
    // The last one is the directory that ls reads.
    assert_eq!(out, "0 1 2 3 4 5 three\nfour\n\n", "{err}");
    let (code, out, err) = shell(&format!(
        "{open} export LISTEN_FDS=1; RT run --preserve-fds 1 -b {path} one"
    ));
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out, "0 1 2 3 4 5 three\nfour\n1 1\n", "{err}");
    let (code, _, err) = shell(&format!("RT run --preserve-fds 9 -b {path} one"));
    assert_eq!(code, Some(1));
    assert!(err.contains("not open"), "{err}");
    runtime.idle("two");
    let (code, out, err) = shell(&format!(
        "{open} RT exec --preserve-fds 1 two sh -c 'cat <&3; ls /proc/self/fd | wc -l'"
    ));
    assert_eq!((code, &*out), (Some(0), "three\n5\n"), "{err}");
}

#[test]
fn a_closed_stdin_and_pipes_end_as_they_should() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["cat"], |_| {});
    let mut child = runtime
        .command(&["run", "-b", bundle.to_str().unwrap(), "one"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"through\n");
    assert!(output.status.success());
    wait_until("nothing is left", || runtime.remains().is_empty());
}
