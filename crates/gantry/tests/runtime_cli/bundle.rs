//! A runtime with a state of its own, and bundles for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::support::{bin_dir, busybox_tar, text, wait_until};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A state directory, and a place for bundles, below one directory.
pub struct Runtime {
    pub directory: PathBuf,
    pub root: PathBuf,
    /// Control group that those of all containers are in.
    pub group: String,
}

impl Runtime {
    pub fn new() -> Runtime {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gantry-rt-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).unwrap();
        Runtime {
            root: directory.join("state"),
            directory,
            group: name,
        }
    }

    /// A command, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("gantry-runtime"));
        command
            .arg("--root")
            .arg(&self.root)
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::null());
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed; returns what it prints.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.ends(0, arguments).0
    }

    /// Runs a command that has to fail with this code; returns what it complains about.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        self.ends(code, arguments).1
    }

    /// Runs a command that has to end with this code.
    pub fn ends(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let output = self.output(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}\nstdout: {out}\nstderr: {err}"
        );
        (out, err)
    }

    /// Creates a container whose output goes nowhere: a pipe would never end.
    pub fn create(&self, id: &str, bundle: &Path, more: &[&str]) {
        let mut arguments = vec!["create", "--bundle", bundle.to_str().unwrap()];
        arguments.extend(more);
        arguments.push(id);
        let log = self.directory.join("create.log");
        let status = self
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "{}", fs::read_to_string(log).unwrap());
    }

    /// A container that does nothing for long.
    pub fn idle(&self, id: &str) -> PathBuf {
        let bundle = self.bundle(id, &["sleep", "1000"], |_| {});
        self.create(id, &bundle, &[]);
        self.ok(&["start", id]);
        bundle
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self, id: &str) -> i64 {
        self.state(id)["pid"].as_i64().unwrap()
    }

    pub fn wait_for_status(&self, id: &str, status: &str) {
        wait_until(&format!("{id} is {status}"), || self.status(id) == status);
    }

    /// A bundle: what `spec` writes, without a terminal, with this program.
    pub fn bundle(&self, name: &str, program: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.directory.join(format!("bundle-{name}"));
        fs::create_dir_all(&bundle).unwrap();
        let file = bundle.join("config.json");
        let _ = fs::remove_file(&file);
        self.ok(&["spec", "--bundle", bundle.to_str().unwrap()]);
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(program);
        config["root"]["path"] = json!(rootfs());
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{name}", self.group));
        change(&mut config);
        fs::write(file, serde_json::to_vec(&config).unwrap()).unwrap();
        bundle
    }

    /// Runs a shell command in a container of its own; returns what it prints.
    pub fn shell(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let bundle = self.bundle(name, &["sh", "-c", script], change);
        self.ok(&["run", "--bundle", bundle.to_str().unwrap(), name])
    }

    /// Everything that is left of containers.
    pub fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            found.push(format!("state {}", entry.path().display()));
        }
        for hierarchy in hierarchies() {
            for entry in fs::read_dir(hierarchy.join(&self.group))
                .into_iter()
                .flatten()
                .flatten()
            {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
            }
        }
        let own = self.directory.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(&own));
        found.extend(mounts.map(|line| format!("mount {line}")));
        found
    }

    pub fn assert_clean(&self) {
        wait_until("nothing is left", || self.remains().is_empty());
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let id = entry.file_name();
            let _ = self.output(&["delete", "--force", id.to_str().unwrap()]);
        }
        for hierarchy in hierarchies() {
            let group = hierarchy.join(&self.group);
            // Programs that run containers make groups of their own beside theirs.
            for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(group);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Mounts of control groups, version 2 alone or several of version 1.
pub fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top];
    }
    fs::read_dir(top)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !path.is_symlink())
        .collect()
}

/// A root file system of busybox that all tests share, read-only by their configurations.
pub fn rootfs() -> PathBuf {
    let tar = busybox_tar();
    let root = tar.with_extension("rootfs");
    if !root.exists() {
        // Under a name of its own until it is whole: other tests look for it meanwhile.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let unfinished = tar.with_extension(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&unfinished).unwrap();
        let made = Command::new("tar")
            .arg("-C")
            .arg(&unfinished)
            .arg("-xf")
            .arg(&tar)
            .status();
        assert!(made.unwrap().success());
        for name in ["proc", "dev", "sys", "run/notify", "mnt"] {
            fs::create_dir_all(unfinished.join(name)).unwrap();
        }
        if fs::rename(&unfinished, &root).is_err() {
            fs::remove_dir_all(&unfinished).unwrap();
        }
    }
    root
}
