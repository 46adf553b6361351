//! What the escape tests share: canaries on the host, images with hostile contents, and a
//! program that tries what an attacker tries.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Installation, busybox_tar, text};

/// Whether the full-length races are asked for.
pub fn long() -> bool {
    std::env::var_os("GANTRY_TEST_LONG").is_some()
}

/// A folder of the host that no container has anything to do with.
pub struct Canary {
    pub path: PathBuf,
    before: Vec<String>,
}

impl Canary {
    /// Makes one beside the roots of the installation.
    pub fn new(installation: &Installation, name: &str) -> Canary {
        let path = installation.root.join(name);
        fs::create_dir_all(path.join("folder")).unwrap();
        for (file, content) in [
            ("secret", "the host's secret"),
            ("ptmx", "not a terminal"),
            ("null", "not a device"),
            ("folder/file", "deep"),
        ] {
            fs::write(path.join(file), content).unwrap();
            fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o640)).unwrap();
            std::os::unix::fs::chown(path.join(file), Some(1234), Some(4321)).unwrap();
        }
        let before = state(&path);
        Canary { path, before }
    }

    /// The path as text.
    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Asserts that nothing of it has changed: existence, content, mode, owner, inode, times.
    pub fn assert_untouched(&self, after: &str) {
        assert_eq!(
            self.before,
            state(&self.path),
            "the host's files after {after}"
        );
    }
}

/// One line per file, with everything that could change except the time of the last access.
fn state(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() {
            fs::read_to_string(&path).unwrap()
        } else {
            String::new()
        };
        lines.push(format!(
            "{} mode {:o} owner {}:{} inode {} links {} mtime {}.{:09} ctime {}.{:09} {content:?}",
            path.display(),
            found.mode(),
            found.uid(),
            found.gid(),
            found.ino(),
            found.nlink(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ));
        if found.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    lines.sort();
    lines
}

/// Imports an image made of busybox and whatever `spoil` does to its root directory.
pub fn hostile_image(
    installation: &Installation,
    name: &str,
    changes: &[&str],
    spoil: impl FnOnce(&Path),
) {
    let output = import(installation, name, changes, spoil);
    assert!(
        output.status.success(),
        "import of {name}: {}",
        text(&output.stderr)
    );
}

/// As [`hostile_image`], and says how the import went.
pub fn import(
    installation: &Installation,
    name: &str,
    changes: &[&str],
    spoil: impl FnOnce(&Path),
) -> std::process::Output {
    let root = installation.root.join(format!("image-{name}"));
    fs::create_dir(&root).unwrap();
    run(Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-xf")
        .arg(busybox_tar()));
    spoil(&root);
    let tar = installation.root.join(format!("image-{name}.tar"));
    run(Command::new("tar")
        .args(["--sparse", "--numeric-owner", "-C"])
        .arg(&root)
        .arg("-cf")
        .arg(&tar)
        .arg("."));
    let mut arguments = vec!["import"];
    for change in changes {
        arguments.extend(["-c", change]);
    }
    arguments.extend([tar.to_str().unwrap(), name]);
    let output = installation.gantry(&arguments);
    fs::remove_dir_all(&root).unwrap();
    fs::remove_file(&tar).unwrap();
    output
}

/// Runs a program of the host that has to succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} gave {:?}: {}",
        output.status.code(),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs a command that gantry has to refuse by itself; returns what it says.
pub fn refused(installation: &Installation, arguments: &[&str]) -> String {
    let output = installation.gantry(arguments);
    assert!(
        matches!(output.status.code(), Some(1 | 125 | 126 | 127)),
        "gantry {arguments:?} was to be refused and gave {:?}\nstdout: {}\nstderr: {}",
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr)
    );
    let said = text(&output.stderr);
    assert_ne!(said, "", "gantry {arguments:?} says nothing");
    assert_eq!(
        text(&output.stdout),
        "",
        "gantry {arguments:?} ran something"
    );
    said
}

/// Makes the probe and returns the flag that mounts it at `/probe`.
pub fn probe(installation: &Installation) -> String {
    let program = installation.root.join("probe");
    if !program.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/escapes/probe.c");
        run(Command::new("cc")
            .args(["-O1", "-static", "-o"])
            .arg(&program)
            .arg(source));
    }
    format!("{}:/probe:ro", program.display())
}

/// A program beside the test, ended with it.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command of gantry beside the test.
pub fn beside(installation: &Installation, arguments: &[&str]) -> Background {
    let child = installation
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Background(child)
}

/// Runs `body` again and again for a while: seconds in CI, a minute with GANTRY_TEST_LONG.
pub fn for_a_while(mut body: impl FnMut(u32)) -> u32 {
    let until = Instant::now() + Duration::from_secs(if long() { 60 } else { 3 });
    let mut rounds = 0;
    while Instant::now() < until {
        body(rounds);
        rounds += 1;
    }
    rounds
}

/// How long a racing container has to go on for [`for_a_while`], in seconds, as text.
pub fn race_seconds() -> &'static str {
    if long() { "90" } else { "30" }
}
