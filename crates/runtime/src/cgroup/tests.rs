//! Groups on the running kernel: as the host has them, version 1 alone, version 2 alone.
//!
//! What holds in every layout is in [`everything`]. It runs in this process, and in copies
//! of it in private mount namespaces that hide one version or the other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

mod creation;
mod fake;
mod limits;
mod processes;
mod systemd;
mod usage;

use super::*;
use crate::spec::{Cpu, DeviceRule, InterfacePriority, Memory, Network, Pids, Resources};

const PATIENCE: Duration = Duration::from_secs(10);

/// A group that is gone at the end of the test, whatever happens in between.
struct Scratch {
    layout: Layout,
    top: String,
    group: Group,
    /// What a container would join by.
    joins: Vec<OwnedFd>,
}

impl Scratch {
    fn new(layout: &Layout) -> Scratch {
        let top = unique();
        let group = Group::create(layout, &format!("{top}/group")).unwrap();
        let mut scratch = Scratch {
            layout: layout.clone(),
            top,
            group,
            joins: Vec::new(),
        };
        scratch.joins = scratch.group.join_files().unwrap();
        scratch.joins.extend(scratch.group.v2_join_file().unwrap());
        scratch
    }

    /// A shell script in the group. The shell opens the files anew, through this process.
    fn shell(&self, script: &str) -> Command {
        let own = std::process::id();
        let mut text = String::from("set -e\n");
        for file in &self.joins {
            text += &format!("echo 0 > /proc/{own}/fd/{}\n", file.as_raw_fd());
        }
        text += "set +e\n";
        text += script;
        let mut command = Command::new("sh");
        command.arg("-c").arg(text).env("LC_ALL", "C");
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, script: &str) -> Output {
        self.shell(script).output().unwrap()
    }

    /// Starts a script and waits until it has said `ready`.
    fn start(&self, script: &str) -> Child {
        let mut child = self
            .shell(&format!("echo ready\n{script}"))
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ready\n");
        child
    }

    fn apply(&self, resources: &Resources) -> Vec<String> {
        self.group.apply(resources).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.group.kill();
        let _ = self.group.wait_until_empty(PATIENCE);
        let removed = self.group.remove();
        let top = remove_by_path(&self.layout, &self.top);
        if !std::thread::panicking() {
            removed.unwrap();
            top.unwrap();
            assert_eq!(list(&self.layout, &self.top), Vec::<String>::new());
        }
    }
}

fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("gantry-test-{}-{count}", std::process::id())
}

/// Resources that leave devices alone.
fn resources() -> Resources {
    Resources {
        devices: vec![DeviceRule {
            allow: true,
            ..DeviceRule::default()
        }],
        ..Resources::default()
    }
}

fn text(output: &Output) -> String {
    let both = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn read(hierarchy: &Hierarchy, path: &str, file: &str) -> String {
    let path = format!("{}/{path}/{file}", hierarchy.mount_point());
    fs::read_to_string(&path).unwrap().trim().to_owned()
}

fn v1<'a>(layout: &'a Layout, controller: &str) -> Option<&'a Hierarchy> {
    layout
        .v1_hierarchies()?
        .find(|hierarchy| hierarchy.has(controller))
}

/// All that holds in every layout.
fn everything(layout: &Layout) {
    creation::groups_are_made_listed_and_removed(layout);
    creation::existing_groups_are_taken_over_only_when_empty(layout);
    creation::a_failed_creation_leaves_nothing(layout);
    processes::processes_join_are_listed_and_killed(layout);
    processes::a_growing_crowd_is_killed(layout);
    processes::groups_freeze_and_thaw(layout);
    limits::devices_are_denied_first(layout);
    limits::limits_are_written_or_warned_of(layout);
    limits::memory_is_limited(layout);
    usage::running_out_of_memory_is_watched(layout);
    usage::what_is_used_is_counted(layout);
    limits::tasks_are_limited(layout);
    processes::processes_are_signalled(layout);
    creation::a_group_that_may_be_made_only_in_part_is_made(layout);
    limits::nonsense_is_refused_before_anything_is_written(layout);
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn as_the_host_has_them() {
    everything(&Layout::detect().unwrap());
}

#[test]
fn version_1_alone() {
    let layout = Layout::detect().unwrap();
    let Some(v2) = layout.v2().filter(|_| layout.v1_hierarchies().is_some()) else {
        return;
    };
    in_private_mounts("v1", &format!("umount {}", v2.mount_point()));
}

#[test]
fn version_2_alone() {
    in_private_mounts("v2", "mount -t cgroup2 none /sys/fs/cgroup");
}

/// Controllers that nobody has mounted here, in hierarchies that end with the namespace.
#[test]
#[ignore = "binds controllers of the whole machine to version 1, so it must run alone"]
fn version_1_for_the_network() {
    let top = std::env::temp_dir().join(unique());
    fs::create_dir(&top).unwrap();
    let known = fs::read_to_string("/proc/cgroups").unwrap();
    let is_free = |known: &str, name: &str| {
        known.lines().any(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            words[0] == name && words[1] == "0"
        })
    };
    if is_free(&known, "net_cls") && is_free(&known, "net_prio") {
        let top = top.display();
        let mounts = format!(
            "mount -t tmpfs tmpfs {top} && mkdir {top}/c {top}/p && \
             mount -t cgroup -o net_cls cgroup {top}/c && mount -t cgroup -o net_prio cgroup {top}/p"
        );
        in_private_mounts("network", &mounts);
        // A hierarchy whose groups are not gone altogether when its mount goes stays until
        // one more mount goes.
        wait_for("hierarchies to go", || {
            let known = fs::read_to_string("/proc/cgroups").unwrap();
            if is_free(&known, "net_cls") && is_free(&known, "net_prio") {
                return true;
            }
            let script = format!("{mounts} && umount {top}/c {top}/p");
            let mut again = Command::new("unshare");
            again.args(["--mount", "sh", "-c", &script]);
            assert!(again.status().unwrap().success());
            false
        });
    }
    fs::remove_dir(&top).unwrap();
}

/// Variable that tells [`inside`] which layout it is in.
const INSIDE: &str = "GANTRY_TEST_CGROUP_LAYOUT";

/// Runs [`inside`] in a mount namespace that `prepare` has changed.
fn in_private_mounts(layout: &str, prepare: &str) {
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!("{prepare} && exec \"$@\""))
        .arg("sh")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "cgroup::tests::inside", "--nocapture"])
        .env(INSIDE, layout)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("1 passed"), "{}", text(&output));
}

/// Does nothing unless [`in_private_mounts`] has started it.
#[test]
fn inside() {
    let Some(expected) = std::env::var_os(INSIDE) else {
        return;
    };
    let layout = Layout::detect().unwrap();
    if expected == "network" {
        limits::packets_are_classed(&layout);
        return;
    }
    if expected == "v1" {
        assert!(layout.v2().is_none() && layout.v1_hierarchies().is_some());
    } else {
        assert!(layout.v2().is_some() && layout.v1_hierarchies().is_none());
    }
    // The fast way to see version 2 must agree with the mount table.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(layout, Layout::from_mountinfo(&table));
    everything(&layout);
}
