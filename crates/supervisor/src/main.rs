//! `gantry-supervisor DIRECTORY`: started by the engine with a connected socket as
//! standard input; not for use by hand.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use gantry_supervisor::watcher;
use gantry_supervisor::worker::Sandbox;
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
    let Some(directory) = directory.filter(|directory| directory.is_absolute()) else {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "this program is started by gantry; see gantry --help",
        ));
    };
    gantry_runtime::process::hide();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let first = gantry_sys::process::inherited_fd(0)?;
    let lock = gantry_sys::process::inherited_fd(1)?;
    occupy_standard_streams()?;
    // Away from the terminal and the session of whoever typed the command.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let listener = gantry_supervisor::socket::listen(&directory)?;
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
