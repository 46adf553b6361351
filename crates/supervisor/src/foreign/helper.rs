//! The helper: what it does between its fork and its end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use gantry_runtime::birth::Stdio;
use gantry_runtime::rootfs::{self, Overlay, RootSource};
use gantry_runtime::spec::{ConsoleSize, Mount};
use gantry_runtime::{copy, path, user};
use gantry_sys::process::{close_all_but, setns};
use rustix::fs::OFlags;
use rustix::mount::MountPropagationFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::program::{call, said_file};
use super::{Failure, Foreign, Work, bundle, leave};
use crate::network;
use crate::order::{BirthOrder, ExecOrder, NetworkOrder};

/// Name of the socket by which a runtime hands over a terminal. Relative to the directory
/// that the runtime is executed in: an absolute path may be too long for a socket.
const CONSOLE: &str = "console.sock";

/// Words that the worker sends: see [`super::word`], and `G`, which every birth knows.
const GO_ON: u8 = b'G';

/// Does the work and ends the process.
pub(super) fn live(
    foreign: &Foreign,
    work: Work<'_>,
    stdio: Stdio,
    host_network: &OwnedFd,
    channel: &OwnedFd,
) -> ! {
    let helper = Helper { foreign, channel };
    let result = match work {
        Work::Container {
            order,
            joined,
            host,
        } => helper.container(order, joined, host, stdio, host_network),
        Work::Exec { order, init } => helper.exec(order, init, stdio),
    };
    match result {
        Ok(()) => leave(0),
        Err(failure) => {
            let mut message = vec![b'F', failure.code as u8];
            message.extend_from_slice(failure.message.as_bytes());
            message.truncate(4096);
            // If the supervisor is gone there is nobody left to tell.
            let _ = rustix::net::send(channel, &message, SendFlags::NOSIGNAL);
            leave(1)
        }
    }
}

struct Helper<'a> {
    foreign: &'a Foreign,
    channel: &'a OwnedFd,
}

/// The streams that a runtime is executed with, and how it hands over a terminal.
struct Streams {
    given: [OwnedFd; 3],
    console: Option<OwnedFd>,
}

impl Helper<'_> {
    fn container(
        &self,
        order: &BirthOrder,
        joined: Option<OwnedFd>,
        host: Option<&mut network::HostSide>,
        stdio: Stdio,
        host_network: &OwnedFd,
    ) -> Result<(), Failure> {
        adopt_orphans()?;
        self.hear(|word| word == super::word::BEGIN[0])?;
        let network = match order.network {
            NetworkOrder::None | NetworkOrder::Bridge(_) => {
                let proc = open_path("/proc")?;
                network::configure_inside(&order.network, host, proc.as_fd())
                    .map_err(Failure::own)?;
                let own = fs::File::open("/proc/self/ns/net")
                    .map_err(failed("open", "the network namespace"))?;
                // A runtime tells the container's namespace from the host's by its own.
                setns(host_network.as_fd(), 0).map_err(failed("leave", "the network namespace"))?;
                Some(OwnedFd::from(own))
            }
            NetworkOrder::Shared => joined,
            NetworkOrder::Host => None,
        };
        self.keep_only(&stdio, network.as_ref());
        make_private()?;
        let network = network
            .map(|network| self.pin_network(&network))
            .transpose()?;
        let target = self.mount_root(order)?;
        let root = open_path(&target.to_string_lossy())?;
        // As for a container of our own: see `replace_links`.
        rootfs::replace_links(root.as_fd()).map_err(birth_error)?;
        fill_volumes(root.as_fd(), &order.spec.mounts)?;
        let ids =
            user::resolve(root.as_fd(), &order.user).map_err(|error| birth_error(error.into()))?;
        drop(root);
        let spec = bundle::config(order, &ids, &target, network.as_deref());
        self.write_json("config.json", &spec)?;

        let process = spec.process.as_ref();
        let program = process.and_then(|process| process.args.first());
        let program = program.map_or("", String::as_str);
        let streams = self.streams(stdio)?;
        let bundle = self.foreign.bundle.to_string_lossy();
        let pid_file = self.foreign.pid_file();
        let pid_file = pid_file.to_string_lossy();
        let mut words = vec!["create", "--bundle", &*bundle, "--pid-file", &*pid_file];
        if streams.console.is_some() {
            words.extend(["--console-socket", CONSOLE]);
        }
        words.push(&order.container);
        call(
            self.foreign,
            &words,
            streams.fds(),
            self.channel.as_fd(),
            program,
        )?;
        let master =
            self.take_master(&streams, process.and_then(|process| process.console_size))?;
        drop(streams);
        self.report_prepared(master)?;
        let streams = self.silent_streams()?;
        let words = ["start", order.container.as_str()];
        call(
            self.foreign,
            &words,
            streams.fds(),
            self.channel.as_fd(),
            program,
        )?;
        self.mark_started()
    }

    fn exec(&self, order: &ExecOrder, init: i32, stdio: Stdio) -> Result<(), Failure> {
        adopt_orphans()?;
        self.keep_only(&stdio, None);
        self.hear(|word| word == super::word::BEGIN[0])?;
        let root = open_path(&format!("/proc/{init}/root"))?;
        let ids =
            user::resolve(root.as_fd(), &order.user).map_err(|error| birth_error(error.into()))?;
        drop(root);
        self.write_json("process.json", &bundle::process(&order.process, &ids))?;
        let streams = self.streams(stdio)?;
        let process = self.foreign.directory.join("process.json");
        let process = process.to_string_lossy();
        let pid_file = self.foreign.pid_file();
        let pid_file = pid_file.to_string_lossy();
        let mut words = vec![
            "exec",
            "--process",
            &*process,
            "--pid-file",
            &*pid_file,
            "--detach",
        ];
        if streams.console.is_some() {
            words.extend(["--console-socket", CONSOLE]);
        }
        words.push(&order.container);
        let program = order.process.args.first().map_or("", String::as_str);
        call(
            self.foreign,
            &words,
            streams.fds(),
            self.channel.as_fd(),
            program,
        )?;
        let master = self.take_master(&streams, order.process.console_size)?;
        drop(streams);
        // It runs already: no runtime holds an exec back. What is held back is this
        // process, whose child it stays until it is known.
        self.report_prepared(master)?;
        self.mark_started()
    }

    /// Waits for a word that `is_awaited`; others are of a successor that does not know how
    /// far this has come.
    fn hear(&self, is_awaited: impl Fn(u8) -> bool) -> Result<u8, Failure> {
        let mut word = [0u8; 1];
        loop {
            match rustix::net::recv(self.channel, &mut word[..], RecvFlags::empty()) {
                Ok((1, _)) if is_awaited(word[0]) => return Ok(word[0]),
                Ok((1, _)) | Err(rustix::io::Errno::INTR) => {}
                // Both processes of the supervisor are gone.
                Ok(_) | Err(_) => leave(1),
            }
        }
    }

    /// Says that all is prepared, as often as it is asked, until the word comes.
    fn report_prepared(&self, master: Option<OwnedFd>) -> Result<(), Failure> {
        let gone = |errno: rustix::io::Errno| {
            Failure::own(format!("cannot reach the supervisor: {errno}"))
        };
        loop {
            if let Some(master) = &master {
                let mut space =
                    [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = [master.as_fd()];
                control.push(SendAncillaryMessage::ScmRights(&fds));
                let text = [io::IoSlice::new(b"M")];
                rustix::net::sendmsg(self.channel, &text, &mut control, SendFlags::NOSIGNAL)
                    .map_err(gone)?;
            }
            rustix::net::send(self.channel, b"P", SendFlags::NOSIGNAL).map_err(gone)?;
            let again = super::word::AGAIN[0];
            if self.hear(|word| word == GO_ON || word == again)? == GO_ON {
                return Ok(());
            }
        }
    }

    /// Closes what is the worker's: a client has to see the end of that, and the sandbox's
    /// lock must not be held by this.
    fn keep_only(&self, stdio: &Stdio, network: Option<&OwnedFd>) {
        let mut keep = vec![self.channel.as_raw_fd()];
        keep.extend(network.map(AsRawFd::as_raw_fd));
        if let Stdio::Plain(fds) = stdio {
            keep.extend(fds.iter().map(AsRawFd::as_raw_fd));
        }
        close_all_but(3, &mut keep);
    }

    /// Gives the container's network namespace a path, in this mount namespace only.
    fn pin_network(&self, network: &OwnedFd) -> Result<PathBuf, Failure> {
        let target = self.foreign.directory.join("netns");
        let source = format!("/proc/self/fd/{}", network.as_raw_fd());
        fs::write(&target, b"")
            .and_then(|()| Ok(rustix::mount::mount_bind(&source, &target)?))
            .map_err(failed("mount", "the network namespace"))?;
        Ok(target)
    }

    /// Mounts the container's root in this mount namespace, and nowhere else.
    fn mount_root(&self, order: &BirthOrder) -> Result<PathBuf, Failure> {
        let target = self.foreign.directory.join("rootfs");
        fs::create_dir(&target).map_err(failed("make", "the directory of the root"))?;
        let root = rootfs::prepare(&RootSource::Overlay(Overlay {
            lower: order.lower.clone(),
            upper: order.upper.clone(),
            work: order.work.clone(),
            volatile: order.volatile,
        }));
        root.and_then(|root| rootfs::mount_at(root, &target.to_string_lossy()))
            .map_err(birth_error)?;
        Ok(target)
    }

    fn write_json(&self, name: &str, value: &impl serde::Serialize) -> Result<(), Failure> {
        let path = self.foreign.directory.join(name);
        let bytes = serde_json::to_vec(value).map_err(io::Error::from);
        bytes
            .and_then(|bytes| fs::write(&path, bytes))
            .map_err(failed("write", name))
    }

    fn mark_started(&self) -> Result<(), Failure> {
        fs::write(self.foreign.started_mark(), b"")
            .map_err(failed("write", "the mark of the start"))
    }

    fn streams(&self, stdio: Stdio) -> Result<Streams, Failure> {
        match stdio {
            Stdio::Plain(given) => Ok(Streams {
                given,
                console: None,
            }),
            Stdio::Terminal => {
                let console = self
                    .listen()
                    .map_err(failed("make", "the console socket"))?;
                Ok(Streams {
                    console: Some(console),
                    ..self.silent_streams()?
                })
            }
        }
    }

    /// Streams of a call that is not the container's: what the runtime prints is kept for
    /// an error that it does not log.
    fn silent_streams(&self) -> Result<Streams, Failure> {
        let open = || -> io::Result<[OwnedFd; 3]> {
            let said = fs::File::create(said_file(self.foreign))?;
            let null = fs::File::open("/dev/null")?;
            Ok([null.into(), said.try_clone()?.into(), said.into()])
        };
        Ok(Streams {
            given: open().map_err(failed("open", "the streams of the runtime"))?,
            console: None,
        })
    }

    fn listen(&self) -> io::Result<OwnedFd> {
        rustix::process::chdir(&self.foreign.directory)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(CONSOLE)?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(socket)
    }

    /// The master of the container's terminal. A runtime that has ended has sent it.
    fn take_master(
        &self,
        streams: &Streams,
        size: Option<ConsoleSize>,
    ) -> Result<Option<OwnedFd>, Failure> {
        let Some(console) = &streams.console else {
            return Ok(None);
        };
        let name = &self.foreign.runtime.name;
        let master = receive_master(console).map_err(|error| {
            Failure::own(format!("{name} has handed over no terminal: {error}"))
        })?;
        // Not every runtime heeds the configuration here.
        if let Some(size) = size {
            let size = rustix::termios::Winsize {
                ws_row: size.height,
                ws_col: size.width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let _ = rustix::termios::tcsetwinsize(&master, size);
        }
        Ok(Some(master))
    }
}

impl Streams {
    fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [0, 1, 2].map(|number| self.given[number].as_fd())
    }
}

fn receive_master(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let connection = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
    let mut buffer = [0u8; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(&connection, &mut parts, &mut control, flags)?;
    let master = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    master.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// What the runtime leaves behind becomes a child of the helper, which nobody reaps before
/// the supervisor knows of it.
fn adopt_orphans() -> Result<(), Failure> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| failed("become", "a subreaper")(errno.into()))
}

/// Mounts of the host come here, and none of here goes there.
fn make_private() -> Result<(), Failure> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags)
        .map_err(|errno| failed("change", "the propagation of /")(errno.into()))
}

/// Fills volumes that are still empty with what the image has at their places.
fn fill_volumes(root: BorrowedFd<'_>, mounts: &[Mount]) -> Result<(), Failure> {
    let wanted = |mount: &&Mount| mount.options.iter().any(|option| option == bundle::COPY_UP);
    for mount in mounts.iter().filter(wanted) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fill = || -> io::Result<()> {
            let volume = path::open_host(&mount.source, flags)?;
            let image = match path::open_in_root(root, &mount.destination, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                image => image?,
            };
            if copy::is_empty(volume.as_fd())? {
                copy::copy_tree(image.as_fd(), volume.as_fd())?;
            }
            Ok(())
        };
        fill().map_err(failed("fill", &mount.source))?;
    }
    Ok(())
}

fn open_path(path: &str) -> Result<OwnedFd, Failure> {
    path::open_host(path, OFlags::PATH | OFlags::DIRECTORY).map_err(failed("open", path))
}

fn birth_error(error: gantry_runtime::BirthError) -> Failure {
    Failure {
        code: error.exit_code(),
        message: error.chain(),
    }
}

fn failed(action: &str, what: &str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::own(format!("cannot {action} {what}: {error}"))
}
