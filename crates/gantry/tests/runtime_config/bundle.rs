//! A bundle of its own for each test, and containers of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::support::{bin_dir, busybox_tar};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Capabilities of the containers here: what a test may want to do in one.
pub const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_KILL",
];

/// A change of a configuration.
pub type Edit<'a> = &'a dyn Fn(&mut Value);

/// A directory with a root file system of busybox, removed at the end.
pub struct Bundle {
    pub path: PathBuf,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Bundle {
    pub fn new() -> Bundle {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("gantry-config-{}-{number}", std::process::id()));
        let root = path.join("rootfs");
        fs::create_dir_all(&root).unwrap();
        let status = Command::new("tar")
            .arg("-xf")
            .arg(busybox_tar())
            .arg("-C")
            .arg(&root)
            .status();
        assert!(status.unwrap().success());
        Bundle { path }
    }

    pub fn root(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    pub fn file(&self, name: &str) -> String {
        self.path.join(name).to_str().unwrap().to_owned()
    }

    /// Gives the root file system to the container's users.
    pub fn give_root_to(&self, id: u32) {
        let status = Command::new("chown")
            .args(["-hR", &format!("{id}:{id}")])
            .arg(self.root())
            .status();
        assert!(status.unwrap().success());
    }

    /// A configuration that runs a script, changed by `edit`.
    pub fn configure(&self, edit: Edit<'_>, script: &str) {
        let mut config = config();
        config["process"]["args"] = json!(["sh", "-c", script]);
        edit(&mut config);
        self.write(&serde_json::to_string_pretty(&config).unwrap());
    }

    pub fn write(&self, config: &str) {
        fs::write(self.path.join("config.json"), config).unwrap();
    }

    /// `gantry-runtime` on this bundle: the command, its flags, and the container's id.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("gantry-runtime"));
        command
            .arg("--root")
            .arg(self.path.join("state"))
            .args(words)
            .current_dir(&self.path)
            .stdin(Stdio::null());
        command
    }

    fn id(&self) -> String {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("config-{}-{number}", std::process::id())
    }

    /// Runs a container to its end.
    pub fn run(&self, edit: Edit<'_>, script: &str) -> Output {
        self.configure(edit, script);
        self.command(&["run", &self.id()]).output().unwrap()
    }

    /// Runs a script that has to succeed; returns what it says.
    pub fn says(&self, edit: Edit<'_>, script: &str) -> String {
        let output = self.run(edit, script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert!(
            output.status.success(),
            "{script}\ngave {:?}\nstdout: {}\nstderr: {}",
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a container that must not come into being; returns the error.
    pub fn refused(&self, edit: Edit<'_>) -> String {
        let output = self.run(edit, "echo it runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "it ran; {error}"
        );
        error
    }

    /// Starts a container that says a line when it is there, and then waits for its input.
    pub fn waiting(&self, edit: Edit<'_>, script: &str) -> Waiting {
        self.configure(edit, &format!("{script}; read -r end"));
        let id = self.id();
        let mut child = self
            .command(&["run", &id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the container ended early");
        let state = self.command(&["state", &id]).output().unwrap();
        let state: Value = serde_json::from_slice(&state.stdout).unwrap();
        Waiting {
            id,
            pid: state["pid"].as_i64().unwrap() as i32,
            child,
        }
    }
}

/// A container that waits; it ends with this value.
pub struct Waiting {
    pub id: String,
    /// On the host.
    pub pid: i32,
    child: Child,
}

impl Waiting {
    pub fn namespace(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.pid)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(mut input) = self.child.stdin.take() {
            let _ = input.write_all(b"end\n");
        }
        let _ = self.child.wait();
    }
}

/// A configuration as engines write them.
pub fn config() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES
            }
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"}
            ],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]}
        }
    })
}

/// Appends to a list of a configuration, which is made if it is missing.
pub fn push(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

/// Adds a user namespace of 65536 ids from `first` on.
pub fn map_users(config: &mut Value, first: u32) {
    push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
    let range = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
    config["linux"]["uidMappings"] = range.clone();
    config["linux"]["gidMappings"] = range;
}

/// Takes a namespace out of a configuration.
pub fn without_namespace(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != kind);
}

/// Joins a namespace instead of making one.
pub fn join(config: &mut Value, kind: &str, path: &str) {
    without_namespace(config, kind);
    push(
        &mut config["linux"]["namespaces"],
        json!({"type": kind, "path": path}),
    );
}

/// One container of a table: a name, a change, a script, and what it has to say.
pub type Case<'a> = (&'a str, Edit<'a>, &'a str, &'a str);

/// Runs a table.
pub fn check(bundle: &Bundle, cases: &[Case<'_>]) {
    for (name, edit, script, expected) in cases {
        assert_eq!(bundle.says(edit, script), *expected, "{name}");
    }
}

/// Lines of the own mount table that tell of a path.
pub fn mounts_of(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(path))
        .map(ToOwned::to_owned)
        .collect()
}
