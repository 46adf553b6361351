//! Docker, Podman, buildah and skopeo with nothing of the host's: each with storage of its own,
//! and with mounts that nobody else sees.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::text;

/// A mount namespace that ends with its value, and all mounts in it.
pub struct Room {
    process: Child,
}

impl Room {
    pub fn new() -> Room {
        // These remember here, for all of the host, where they have seen a blob.
        let script = "for place in /var/lib/containers /run/containers; do
                if [ -d $place ]; then mount -t tmpfs none $place || exit; fi
            done
            echo ready
            exec sleep infinity";
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(["--propagation", "private", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Room { process }
    }

    /// A program that sees the mounts of the room.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--mount=/proc/{}/ns/mnt", self.process.id()))
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// What a path of the room leads to, for those who are outside.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    /// Lays directories over each other, the uppermost first; returns where they can be read.
    pub fn overlay(&self, layers: &[PathBuf], place: &Path) -> PathBuf {
        if let [only] = layers {
            return only.clone();
        }
        fs::create_dir_all(place).unwrap();
        let layers: Vec<_> = layers.iter().map(|path| path.to_str().unwrap()).collect();
        let mut command = self.command("mount");
        command
            .args(["-t", "overlay", "overlay", "-o"])
            .arg(format!("lowerdir={}", layers.join(":")))
            .arg(place);
        ok(&mut command);
        self.path(place)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a command that has to succeed; returns its standard output without the last line end.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} gave {:?}\nstdout: {}\nstderr: {}",
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A dockerd with a containerd of its own and without any network, and the client for it.
pub struct Docker {
    process: Child,
    directory: PathBuf,
}

impl Docker {
    /// Starts it; `run` starts a program where the daemon is to see the mounts.
    pub fn start(directory: &Path, run: impl Fn(&str) -> Command, flags: &[&str]) -> Docker {
        fs::create_dir_all(directory).unwrap();
        // Not the host's.
        let config = directory.join("daemon.json");
        fs::write(&config, "{}").unwrap();
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let log = fs::File::create(directory.join("log")).unwrap();
        let process = run("dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
            .args([
                "--pidfile",
                &path("pid"),
                "--config-file",
                &path("daemon.json"),
            ])
            .args(["--host", &format!("unix://{}", path("d.sock"))])
            .args(["--storage-driver", "overlay2", "--bridge", "none"])
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
            ])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut docker = Docker {
            process,
            directory: directory.to_owned(),
        };
        let until = Instant::now() + Duration::from_secs(40);
        while !docker
            .command(&["version"])
            .output()
            .unwrap()
            .status
            .success()
        {
            let ended = docker.process.try_wait().unwrap().is_some();
            assert!(!ended && Instant::now() < until, "{}", docker.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        docker
    }

    /// What the daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// What leads a client to it.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let directory = self.directory.display();
        [
            ("DOCKER_HOST", format!("unix://{directory}/d.sock")),
            ("DOCKER_CONFIG", format!("{directory}/client")),
        ]
    }

    /// The client, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(arguments)
            .envs(self.environment())
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        ok(&mut self.command(arguments))
    }

    /// The directories of an image, the uppermost first.
    pub fn layers(&self, image: &str) -> Vec<PathBuf> {
        let format = "{{.GraphDriver.Data.UpperDir}}:{{or .GraphDriver.Data.LowerDir \"\"}}";
        let said = self.ok(&["image", "inspect", "--format", format, image]);
        let said = said.trim_end_matches("<no value>");
        let parts = said.split(':').filter(|part| !part.is_empty());
        parts.map(PathBuf::from).collect()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends its containerd as well, if it is asked to.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Podman, buildah and skopeo, which share images in a directory.
pub struct Containers<'a> {
    room: &'a Room,
    directory: PathBuf,
}

impl<'a> Containers<'a> {
    pub fn new(room: &'a Room, directory: &Path) -> Containers<'a> {
        fs::create_dir_all(directory).unwrap();
        // Nobody's own credentials. Some want the file to be there.
        fs::write(directory.join("auth.json"), "{}").unwrap();
        Containers {
            room,
            directory: directory.to_owned(),
        }
    }

    /// One of the three, not started yet.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.room.command(program);
        let path = |name: &str| self.directory.join(name);
        if program != "skopeo" {
            command
                .args(["--storage-driver", "overlay", "--root"])
                .arg(path("root"))
                .arg("--runroot")
                .arg(path("run"));
        }
        if program == "podman" {
            command
                .arg("--tmpdir")
                .arg(path("tmp"))
                .args(["--events-backend", "none"])
                .args(["--cgroup-manager", "cgroupfs"]);
        }
        command
            .args(arguments)
            .env("REGISTRY_AUTH_FILE", path("auth.json"))
            // For what it copies, which may be large.
            .env("TMPDIR", &self.directory);
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    #[track_caller]
    pub fn ok(&self, program: &str, arguments: &[&str]) -> String {
        ok(&mut self.command(program, arguments))
    }
}
