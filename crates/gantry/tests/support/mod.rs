//! What every end-to-end test needs: an installation of its own, torn down even when the
//! test fails.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

pub mod docker_registry;
pub mod engines;
pub mod tree;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Directory of the programs under test: `GANTRY_BIN_DIR`, or where cargo has put them.
pub fn bin_dir() -> PathBuf {
    match std::env::var_os("GANTRY_BIN_DIR") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_BIN_EXE_gantry"))
            .parent()
            .unwrap()
            .into(),
    }
}

/// An installation with data root and run root of its own.
pub struct Installation {
    pub root: PathBuf,
    pub data: PathBuf,
    pub run: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Installation {
    /// Makes an empty installation.
    pub fn new() -> Installation {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("gantry-e2e-{}-{number}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        Installation {
            data: root.join("data"),
            run: root.join("run"),
            root,
        }
    }

    /// Makes an installation that holds the image `busybox`.
    pub fn with_busybox() -> Installation {
        let installation = Installation::new();
        let tar = busybox_tar();
        installation.ok(&[
            "import",
            "-c",
            "CMD [\"sh\"]",
            tar.to_str().unwrap(),
            "busybox",
        ]);
        installation
    }

    /// A command on this installation, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("gantry"));
        command
            .args(arguments)
            .env("GANTRY_DATA_ROOT", &self.data)
            .env("GANTRY_RUN_ROOT", &self.run)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn gantry(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed; returns its standard output without the last line end.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.gantry(arguments);
        assert!(
            output.status.success(),
            "gantry {arguments:?} gave {:?}\nstdout: {}\nstderr: {}",
            output.status.code(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command that has to fail with this code; returns its standard error.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.gantry(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "gantry {arguments:?}\nstdout: {}\nstderr: {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        text(&output.stderr)
    }

    /// Runs a shell command in a fresh `busybox` container without network and returns its
    /// output.
    pub fn shell(&self, flags: &[&str], script: &str) -> String {
        let mut arguments = vec!["run", "--rm", "--network", "none"];
        arguments.extend(flags);
        arguments.extend(["busybox", "sh", "-c", script]);
        self.ok(&arguments)
    }

    /// What `inspect` says of one object.
    pub fn inspect(&self, name: &str) -> serde_json::Value {
        let mut list: serde_json::Value =
            serde_json::from_str(&self.ok(&["inspect", name])).unwrap();
        list[0].take()
    }

    /// Runs a command with standard input.
    pub fn feed(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The installation's name in shared tables, as `crates/engine/src/paths.rs` makes it.
    pub fn instance(&self) -> String {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for root in [&self.data, &self.run] {
            for &byte in root.as_os_str().as_encoded_bytes().iter().chain(b"\0") {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{:08x}", (hash >> 32) as u32 ^ hash as u32)
    }

    /// Everything of containers that is left in the kernel and in the files: control
    /// groups, links, published ports, mounts, processes, directories, marks.
    pub fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        let parent = format!("gantry-{}", self.instance());
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            for group in fs::read_dir(hierarchy.path().join(&parent))
                .into_iter()
                .flatten()
                .flatten()
            {
                if group.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push(format!("cgroup {}", group.path().display()));
                }
            }
        }
        for (kind, directory) in [
            ("data", self.data.join("containers")),
            ("run", self.run.join("containers")),
            ("sandbox", self.run.join("sandboxes")),
            ("mark", self.run.join("ops")),
        ] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                found.push(format!("{kind} {}", entry.path().display()));
            }
        }
        let names = fs::read_dir(self.run.join("names"));
        for link in names.into_iter().flatten().flatten() {
            let id = fs::read_link(link.path()).unwrap_or_default();
            found.push(format!("name {:?} of {}", link.file_name(), id.display()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root.to_string_lossy().into_owned();
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&root))
                .map(|line| format!("mount {line}")),
        );
        found.extend(
            self.supervisors()
                .into_iter()
                .map(|pid| format!("supervisor {pid}")),
        );
        let table = format!("gantry-{}", self.instance());
        if let Ok(listed) = Command::new("nft")
            .args(["list", "table", "inet", &table])
            .output()
        {
            let listing = text(&listed.stdout);
            for map in listing
                .split("\n\tmap ")
                .skip(1)
                .filter(|map| map.starts_with("published"))
            {
                let body = map.split("\n\t}").next().unwrap_or_default();
                if body.contains("elements") {
                    found.push(format!("published ports: {body}"));
                }
            }
        }
        let bridge = format!("/sys/class/net/gt{}/brif", self.instance());
        for port in fs::read_dir(bridge).into_iter().flatten().flatten() {
            found.push(format!("link {}", port.file_name().to_string_lossy()));
        }
        found
    }

    /// Process ids of the supervisors of this installation; zombies do not count.
    pub fn supervisors(&self) -> Vec<i32> {
        let mark = self.run.join("sandboxes").to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            // A process of a container is a fork of its supervisor until its own exec.
            if line.starts_with(b"gantry-supervisor\0")
                && String::from_utf8_lossy(&line).contains(&mark)
            {
                found.push(pid);
            }
        }
        found
    }

    /// Asserts that nothing of any container is left.
    pub fn assert_clean(&self) {
        let rows = self.ok(&["ps", "-a", "-q"]);
        assert_eq!(rows, "", "containers are left");
        // A supervisor that has said its last word may need a moment to be gone.
        let left = eventually_empty(|| self.remains());
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

fn eventually_empty(mut what: impl FnMut() -> Vec<String>) -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let found = what();
        if found.is_empty() || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = self.gantry(&["system", "reset", "--force"]);
        for pid in self.supervisors() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Waits until `what` holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a program is there that a test needs. As root it has to be, so that nothing is skipped
/// unseen: `cargo xtask test` installs it.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    assert!(
        found || !rustix::process::geteuid().is_root(),
        "{program} is not installed; cargo xtask test does that"
    );
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Whether this is root; says so when it is not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can do this");
    }
    root
}

/// Text without the last line end.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\n')
        .to_owned()
}

/// A root file system of busybox as a tar archive; made once, by whichever test needs it
/// first, and kept with what cargo builds.
pub fn busybox_tar() -> PathBuf {
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // The tests may run on another machine than the one that built them.
    let home = if kept.is_dir() {
        kept
    } else {
        std::env::temp_dir()
    };
    let tar = home.join("gantry-busybox-1.tar");
    static MADE: std::sync::Once = std::sync::Once::new();
    MADE.call_once(|| {
        if !tar.exists() {
            make_busybox_tar(&home, &tar);
        }
    });
    tar
}

fn make_busybox_tar(home: &Path, tar: &Path) {
    let root = home.join(format!("gantry-busybox-{}", std::process::id()));
    for name in ["bin", "etc", "tmp", "root", "home/app", "usr/bin"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in text(&applets.stdout)
        .lines()
        .filter(|&applet| applet != "busybox")
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\napp:x:1001:\nstaff:x:50:app\nvideo:x:44:app\n",
    )
    .unwrap();
    // Under a name of its own until it is whole: other tests look for it at the same time.
    let unfinished = root.with_extension("tar");
    let made = Command::new("tar")
        .args(["--numeric-owner", "--owner=0", "--group=0", "-C"])
        .arg(&root)
        .arg("-cf")
        .arg(&unfinished)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    fs::rename(&unfinished, tar).unwrap();
    fs::remove_dir_all(&root).unwrap();
}
