//! Docker and Podman as peers: each with data, sockets and settings of its own
//! in the directory of the run, beside whatever the machine has installed.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::stage::{IMAGE, Stage, silent};
use super::start::Subject;
use crate::error::{Error, Result};
use crate::process;

/// The peers that could be made to run.
pub struct Peers {
    docker: Option<Docker>,
    podman: Option<Podman>,
}

impl Peers {
    /// Nobody.
    pub fn none() -> Self {
        Self {
            docker: None,
            podman: None,
        }
    }

    /// Starts whom it can, and says whom it cannot and why.
    pub fn start(stage: &Stage) -> Result<Self> {
        let docker = Docker::start(stage);
        let podman = Podman::start(stage);
        for (name, problem) in [
            ("docker", docker.as_ref().err()),
            ("podman", podman.as_ref().err()),
        ] {
            if let Some(problem) = problem {
                println!("{name}: left out: {problem}");
            }
        }
        Ok(Self {
            docker: docker.ok(),
            podman: podman.ok(),
        })
    }

    /// What they are measured with beside `gantry run`.
    pub fn starts(&self) -> Vec<Subject> {
        let mut subjects = Vec::new();
        if let Some(podman) = &self.podman {
            subjects.push(subject(
                "podman run --rm --network none",
                &podman.base,
                &[
                    "run",
                    "--rm",
                    FILES,
                    PROCESSES,
                    "--network",
                    "none",
                    IMAGE,
                    "true",
                ],
            ));
        }
        if let Some(docker) = &self.docker {
            subjects.push(subject(
                "docker run --rm --network none",
                &docker.base,
                &["run", "--rm", "--network", "none", IMAGE, "true"],
            ));
            subjects.push(subject(
                "docker run --rm -p 80",
                &docker.base,
                &["run", "--rm", "-p", "80", IMAGE, "true"],
            ));
        }
        // Their daemons and shims go on after the command, so only what the
        // command waits for is measured: to their advantage.
        for subject in &mut subjects {
            subject.leaves_nothing = false;
        }
        subjects
    }

    /// What they are measured with beside `gantry exec`.
    pub fn execs(&self) -> Vec<Subject> {
        self.bases()
            .map(|(name, base)| subject(&format!("{name} exec"), base, &["exec", "idle", "true"]))
            .collect()
    }

    /// Starts the containers that are entered.
    pub fn start_idle(&self, stage: &Stage) -> Result<()> {
        let words = [
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "idle",
            IMAGE,
            "sleep",
            "1000",
        ];
        for (name, base) in self.bases() {
            let mut command = base.command(&words[..1]);
            if name == "podman" {
                command.args([FILES, PROCESSES]);
            }
            command.args(&words[1..]);
            stage.detach(command)?;
        }
        Ok(())
    }

    /// Removes their containers and ends the daemon.
    pub fn stop(self) -> Result<()> {
        for (_, base) in self.bases() {
            process::run(&mut silent(base.command(&["rm", "-f", "idle"])))?;
        }
        match self.docker {
            Some(docker) => docker.stop(),
            None => Ok(()),
        }
    }

    /// Their names and how they are called.
    pub fn bases(&self) -> impl Iterator<Item = (&'static str, &Base)> {
        let docker = self.docker.as_ref().map(|docker| ("docker", &docker.base));
        let podman = self.podman.as_ref().map(|podman| ("podman", &podman.base));
        docker.into_iter().chain(podman)
    }
}

fn subject(name: &str, base: &Base, words: &'static [&'static str]) -> Subject {
    let base = base.clone();
    Subject::new(name, move |_| silent(base.command(words)))
}

/// A program and the options that make it private.
#[derive(Clone)]
pub struct Base {
    program: PathBuf,
    options: Vec<String>,
    settings: PathBuf,
}

impl Base {
    /// The program with its options and `words`.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.options)
            .args(words)
            .env("DOCKER_CONFIG", &self.settings)
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        command
    }

    fn import(&self, stage: &Stage) -> Result<()> {
        let archive = stage.path("rootfs.tar");
        process::quietly(&mut self.command(&["import", &archive.to_string_lossy(), IMAGE]))
    }
}

struct Docker {
    base: Base,
    daemon: Child,
}

impl Docker {
    fn start(stage: &Stage) -> Result<Self> {
        let program = found("docker")?;
        let dockerd = found("dockerd")?;
        let socket = stage.path("run/docker.sock");
        let log = stage.path("dockerd.log");
        let write = || fs::File::create(&log).map_err(Error::at("create", &log));
        let daemon = Command::new(dockerd)
            .arg("--data-root")
            .arg(stage.path("docker"))
            .arg("--exec-root")
            .arg(stage.path("run/docker"))
            .arg("--pidfile")
            .arg(stage.path("run/docker.pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--storage-driver", "overlay2", "--config-file"])
            .arg(no_settings(stage, "daemon.json")?.join("daemon.json"))
            .stdin(Stdio::null())
            .stdout(write()?)
            .stderr(write()?)
            .spawn()
            .map_err(|source| Error::Io {
                what: "cannot run dockerd".to_owned(),
                source,
            })?;
        let mut docker = Self {
            base: Base {
                program,
                options: vec!["--host".to_owned(), format!("unix://{}", socket.display())],
                settings: no_settings(stage, "config.json")?,
            },
            daemon,
        };
        let ready = docker
            .wait_for(&socket, &log)
            .and_then(|()| docker.base.import(stage));
        match ready {
            Ok(()) => Ok(docker),
            Err(error) => {
                docker.stop()?;
                Err(error)
            }
        }
    }

    fn wait_for(&mut self, socket: &Path, log: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && matches!(self.daemon.try_wait(), Ok(None)) {
            if UnixStream::connect(socket).is_ok()
                && process::succeeds(&mut self.base.command(&["version"]))
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let text = fs::read_to_string(log).unwrap_or_default();
        let last = text.lines().last().unwrap_or("its log is empty");
        Err(Error::Failed(format!("dockerd does not answer: {last}")))
    }

    /// Asks the daemon to end, so that it ends its containerd as well.
    fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        // A daemon that has ended already needs no signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.daemon.wait().map(drop).map_err(|source| Error::Io {
            what: "cannot wait for dockerd".to_owned(),
            source,
        })
    }
}

struct Podman {
    base: Base,
}

impl Podman {
    fn start(stage: &Stage) -> Result<Self> {
        let option = |name: &str, path: &str| {
            vec![format!("--{name}"), stage.path(path).display().to_string()]
        };
        let mut options = option("root", "podman");
        options.extend(option("runroot", "run/podman"));
        options.extend(option("tmpdir", "run/podman-tmp"));
        options.extend(["--cgroup-manager", "cgroupfs", "--runtime", "crun"].map(str::to_owned));
        let base = Base {
            program: found("podman")?,
            options,
            settings: no_settings(stage, "config.json")?,
        };
        base.import(stage)?;
        process::quietly(&mut base.command(&[
            "run",
            "--rm",
            FILES,
            PROCESSES,
            "--network",
            "none",
            IMAGE,
            "true",
        ]))?;
        Ok(Self { base })
    }
}

/// Podman raises these limits of its own accord, which not everywhere even root may do.
const FILES: &str = "--ulimit=nofile=1024:1024";
const PROCESSES: &str = "--ulimit=nproc=1024:1024";

fn found(program: &str) -> Result<PathBuf> {
    process::find(program).ok_or_else(|| Error::Missing {
        what: program.to_owned(),
        hint: "install it to have it compared".to_owned(),
    })
}

/// A directory with an empty file of settings in it, so that the machine's
/// own does not count.
fn no_settings(stage: &Stage, name: &str) -> Result<PathBuf> {
    let directory = stage.path("settings");
    let path = directory.join(name);
    fs::create_dir_all(&directory).map_err(Error::at("create", &directory))?;
    fs::write(&path, "{}").map_err(Error::at("write", &path))?;
    Ok(directory)
}
