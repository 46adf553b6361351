//! `gantry-supervisor DIRECTORY`: started by the engine with a connected socket as
//! standard input and a lock as standard output; not for use by hand. With `-` for the
//! directory both come over the socket, from a command that was itself just starting.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gantry_supervisor::worker::Sandbox;
use gantry_supervisor::{socket, watcher};
use gantry_sys::shared::SharedWords;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry-supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let early = directory.as_deref() == Some(Path::new("-"));
    let Some(directory) = directory.filter(|directory| early || directory.is_absolute()) else {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "this program is started by gantry; see gantry --help",
        ));
    };
    gantry_runtime::process::hide();
    // It would be the number of a descriptor.
    let _ = rustix::thread::set_name(c"gantry-supervisor");
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let first = gantry_sys::process::inherited_fd(0)?;
    let lock = gantry_sys::process::inherited_fd(1)?;
    occupy_standard_streams()?;
    // What the caller has left open over its exec: a script that waits for the end of a pipe
    // would wait for the container's.
    gantry_sys::process::close_all_but(3, &mut [first.as_raw_fd(), lock.as_raw_fd()]);
    // Away from the terminal and the session of whoever typed the command.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let (directory, lock) = if early {
        // The caller's standard output: what waits for its end must not wait for a container's.
        drop(lock);
        match socket::take_over(&first)? {
            Some((directory, lock)) => {
                let words: [&[u8]; 2] = [b"gantry-supervisor", directory.as_os_str().as_bytes()];
                let _ = gantry_sys::process::set_command_line(&words);
                (directory, lock)
            }
            // The command turned out to need no supervisor.
            None => return Ok(()),
        }
    } else {
        (directory, lock)
    };
    let listener = socket::listen(&directory)?;
    let page = SharedWords::new()?;
    watcher::live(
        Sandbox {
            directory,
            listener,
            lock: Some(lock),
            page,
        },
        first,
    )
}

/// Numbers 0 to 2 must never be given to something else, such as a log.
fn occupy_standard_streams() -> std::io::Result<()> {
    let null = OwnedFd::from(
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?,
    );
    for number in 0..3 {
        gantry_sys::process::install_fd(std::os::fd::AsFd::as_fd(&null), number)?;
    }
    Ok(())
}
