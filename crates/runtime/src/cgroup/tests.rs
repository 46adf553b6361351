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

mod fake;
mod systemd;

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
    groups_are_made_listed_and_removed(layout);
    existing_groups_are_taken_over_only_when_empty(layout);
    a_failed_creation_leaves_nothing(layout);
    processes_join_are_listed_and_killed(layout);
    a_growing_crowd_is_killed(layout);
    groups_freeze_and_thaw(layout);
    devices_are_denied_first(layout);
    limits_are_written_or_warned_of(layout);
    memory_is_limited(layout);
    running_out_of_memory_is_watched(layout);
    what_is_used_is_counted(layout);
    tasks_are_limited(layout);
    processes_are_signalled(layout);
    a_group_that_may_be_made_only_in_part_is_made(layout);
    nonsense_is_refused_before_anything_is_written(layout);
}

fn groups_are_made_listed_and_removed(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let path = scratch.group.path().to_owned();
    for hierarchy in layout.hierarchies() {
        assert_eq!(read(hierarchy, &path, "cgroup.procs"), "");
    }
    if let Some(cpuset) = v1(layout, "cpuset") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            assert_eq!(read(cpuset, &path, file), read(cpuset, "", file));
        }
    }
    let top = scratch.top.clone();
    assert_eq!(list(layout, &top), [top.clone(), path.clone()]);
    assert_eq!(list(layout, &path), [&*path]);
    assert_eq!(list(layout, &format!("{top}/gr")), [&*path]);
    assert_eq!(list(layout, &format!("{top}/x")), Vec::<String>::new());

    assert_eq!(Group::open(layout, &path).unwrap().path(), path);
    // Groups inside it go with it; what is gone already does not matter.
    for hierarchy in layout.hierarchies() {
        fs::create_dir_all(format!("{}/{path}/a/b/c", hierarchy.mount_point())).unwrap();
    }
    let first = &layout.hierarchies()[0];
    fs::remove_dir(format!("{}/{path}/a/b/c", first.mount_point())).unwrap();
    scratch.group.remove().unwrap();
    assert_eq!(list(layout, &top), [&*top]);
    scratch.group.remove().unwrap();
    let missing = Group::open(layout, &path).unwrap_err();
    assert!(matches!(missing, CgroupError::NotFound { .. }), "{missing}");
    remove_by_path(layout, &top).unwrap();
    assert_eq!(list(layout, &top), Vec::<String>::new());

    for bad in [
        "", "/", "..", "a/../b", "a//b", "./a", "a/", "//a", "a\0b", "a\nb",
    ] {
        for error in [
            Group::create(layout, bad).unwrap_err(),
            Group::open(layout, bad).unwrap_err(),
            remove_by_path(layout, bad).unwrap_err(),
        ] {
            assert!(
                matches!(error, CgroupError::InvalidPath { .. }),
                "{bad:?}: {error}"
            );
        }
    }
}

fn existing_groups_are_taken_over_only_when_empty(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let path = scratch.group.path().to_owned();
    scratch.group.freeze().unwrap();
    // One that is left frozen would stop whoever joins.
    Group::create(layout, &path).unwrap();
    assert!(!scratch.group.is_frozen().unwrap());
    let mut child = scratch.start("sleep 100");
    let error = Group::create(layout, &format!("/{path}")).unwrap_err();
    assert!(matches!(error, CgroupError::InUse { .. }), "{error}");
    // The group above it holds that process too.
    let error = Group::create(layout, &scratch.top).unwrap_err();
    assert!(matches!(error, CgroupError::InUse { .. }), "{error}");
    scratch.group.kill().unwrap();
    child.wait().unwrap();
    scratch.group.wait_until_empty(PATIENCE).unwrap();
    Group::create(layout, &path).unwrap();
}

fn a_failed_creation_leaves_nothing(layout: &Layout) {
    let Some((last, others)) = layout.hierarchies().split_last() else {
        return;
    };
    // An empty set of processors takes no process.
    if last.has("cpuset") {
        return;
    }
    let top = unique();
    let taken = format!("{}/{top}", last.mount_point());
    fs::create_dir(&taken).unwrap();
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    fs::write(format!("{taken}/cgroup.procs"), child.id().to_string()).unwrap();
    let result = Group::create(layout, &top);
    child.kill().unwrap();
    child.wait().unwrap();
    let left: Vec<bool> = others
        .iter()
        .map(|hierarchy| fs::exists(format!("{}/{top}", hierarchy.mount_point())).unwrap())
        .collect();
    remove_by_path(layout, &top).unwrap();
    assert!(
        matches!(result, Err(CgroupError::InUse { .. })),
        "{result:?}"
    );
    assert!(left.iter().all(|left| !left), "{left:?}");
}

fn processes_join_are_listed_and_killed(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let mut child = scratch.start("sleep 100 & sleep 100 & echo; wait");
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let inside = membership
        .lines()
        .filter(|line| line.ends_with(&format!(":/{}", scratch.group.path())))
        .count();
    assert_eq!(inside, layout.hierarchies().len(), "{membership}");
    // One of them in a group that it made itself.
    let nested = format!("{}/nested", scratch.group.path());
    for hierarchy in layout.hierarchies().iter().filter(|one| !one.has("cpuset")) {
        let directory = format!("{}/{nested}", hierarchy.mount_point());
        fs::create_dir(&directory).unwrap();
        fs::write(format!("{directory}/cgroup.procs"), child.id().to_string()).unwrap();
    }
    wait_for("three processes", || {
        scratch.group.processes().unwrap().len() == 3
    });
    let listed: BTreeSet<i32> = scratch
        .group
        .processes()
        .unwrap()
        .iter()
        .map(|pid| pid.as_raw_nonzero().get())
        .collect();
    assert!(listed.contains(&child.id().cast_signed()));
    let busy = scratch.group.remove().unwrap_err();
    assert!(matches!(busy, CgroupError::Remove { .. }), "{busy}");

    scratch.group.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    scratch.group.wait_until_empty(PATIENCE).unwrap();
    assert!(scratch.group.processes().unwrap().is_empty());
    scratch.group.kill().unwrap();
    scratch.group.remove().unwrap();
}

/// New processes that are born while the others are killed must not be missed.
fn a_growing_crowd_is_killed(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let limit = Resources {
        pids: Some(Pids { limit: 60 }),
        ..resources()
    };
    scratch.apply(&limit);
    // Without a pids controller the crowd is limited by its own depth.
    let mut child = scratch.start(
        "f() { if [ $1 -gt 0 ]; then f $(($1 - 1)) & f $(($1 - 1)) & fi; sleep 100; }; f 5 2>/dev/null",
    );
    wait_for("a crowd", || scratch.group.processes().unwrap().len() > 10);
    scratch.group.kill().unwrap();
    child.wait().unwrap();
    scratch.group.wait_until_empty(PATIENCE).unwrap();
    // Also when it was frozen.
    let mut child = scratch.start("sleep 100 & wait");
    scratch.group.freeze().unwrap();
    scratch.group.kill().unwrap();
    child.wait().unwrap();
    scratch.group.wait_until_empty(PATIENCE).unwrap();
}

fn groups_freeze_and_thaw(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let mut child = scratch.start("while read x; do echo $x; done");
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut answers = move || {
        let mut byte = [0; 2];
        stdout.read_exact(&mut byte).unwrap();
        byte
    };
    stdin.write_all(b"1\n").unwrap();
    assert_eq!(&answers(), b"1\n");
    assert!(!scratch.group.is_frozen().unwrap());
    scratch.group.freeze().unwrap();
    assert!(scratch.group.is_frozen().unwrap());
    let before = scratch.group.cpu_usage().unwrap();
    stdin.write_all(b"2\n").unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let after = scratch.group.cpu_usage().unwrap();
    assert!(before.is_some_and(|used| used > 0), "{before:?}");
    assert_eq!(before, after);
    scratch.group.thaw().unwrap();
    assert!(!scratch.group.is_frozen().unwrap());
    assert_eq!(&answers(), b"2\n");
    drop(stdin);
    child.wait().unwrap();
}

/// R38, GHSA-g54h-m393-cpwq: no rules deny all devices; the standard ones do not open a
/// disk that the container made a node for.
fn devices_are_denied_first(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let node = std::env::temp_dir().join(scratch.top.clone());
    let node = node.to_str().unwrap().to_owned();
    let make = format!("mknod {node} b 8 0");
    let open = format!("dd if={node} of=/dev/null count=1");
    let denied = "Operation not permitted";
    let attempt = |script: &str| {
        let output = scratch.run(script);
        (output.status.success(), text(&output))
    };

    scratch.apply(&Resources::default());
    let (made, said) = attempt(&make);
    assert!(!made && said.contains(denied), "{said}");
    let (read, said) = attempt("read x < /dev/zero");
    assert!(!read && said.contains(denied), "{said}");

    let standard = Resources {
        devices: default_device_rules(),
        ..Resources::default()
    };
    scratch.apply(&standard);
    let (made, said) = attempt(&make);
    assert!(made, "{said}");
    let (opened, said) = attempt(&open);
    assert!(!opened && said.contains(denied), "{said}");
    let (null, said) = attempt("echo > /dev/null && head -c 1 /dev/urandom > /dev/full");
    assert!(!null && said.contains("No space"), "{said}");

    // What is given to the container opens, as far as the host has it; writing does not.
    let mut given = standard.clone();
    given.devices.push(DeviceRule {
        allow: true,
        kind: Some("b".into()),
        major: Some(8),
        minor: Some(0),
        access: Some("r".into()),
    });
    scratch.apply(&given);
    let (_, said) = attempt(&open);
    assert!(!said.contains(denied), "{said}");
    let (_, said) = attempt(&format!("echo > {node}"));
    assert!(said.contains(denied), "{said}");

    // An update of limits says nothing of devices.
    scratch.group.update(&Resources::default()).unwrap();
    let (_, said) = attempt(&open);
    assert!(!said.contains(denied), "{said}");
    // What was given can be taken away.
    scratch.apply(&standard);
    let (_, said) = attempt(&open);
    fs::remove_file(&node).unwrap();
    assert!(said.contains(denied), "{said}");
    scratch.apply(&resources());
    let (read, said) = attempt("head -c 1 /dev/zero");
    assert!(read, "{said}");
}

fn limits_are_written_or_warned_of(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let path = scratch.group.path();
    let limits = |memory: i64, swap: i64| Resources {
        memory: Some(Memory {
            limit: Some(memory),
            reservation: Some(memory / 2),
            swap: Some(swap),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: Some(512),
            quota: Some(20_000),
            period: Some(50_000),
            cpus: "0".into(),
            mems: "0".into(),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: 7 }),
        ..resources()
    };
    let warnings = scratch.apply(&limits(16 << 20, 32 << 20));
    let Some(memory) = v1(layout, "memory") else {
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        for controller in ["memory", "cpu", "cpuset", "pids"] {
            let warning = format!("the host has no {controller} controller");
            assert!(
                warnings.iter().any(|line| line.starts_with(&warning)),
                "{warnings:?}"
            );
        }
        assert_eq!(scratch.group.memory_usage().unwrap(), None);
        assert_eq!(scratch.group.oom_kill_count().unwrap(), None);
        assert_eq!(scratch.group.task_count().unwrap(), None);
        return;
    };
    assert_eq!(warnings, Vec::<String>::new());
    let has_swap = fs::exists(format!(
        "{}/memory.memsw.limit_in_bytes",
        memory.mount_point()
    ));
    // Down to less, up beyond what memory and swap had together, and down again.
    for (limit, swap) in [(16, 32), (8, 8), (64, 64), (16, -1), (32, 48), (-1, -1)] {
        let bytes = |mebibytes: i64| if mebibytes < 0 { -1 } else { mebibytes << 20 };
        let expected = |mebibytes: i64| match mebibytes {
            -1 => "9223372036854771712".to_owned(),
            mebibytes => (mebibytes << 20).to_string(),
        };
        assert_eq!(
            scratch.apply(&limits(bytes(limit), bytes(swap))),
            Vec::<String>::new()
        );
        let file = "memory.limit_in_bytes";
        assert_eq!(read(memory, path, file), expected(limit));
        if has_swap.as_ref().is_ok_and(|has| *has) {
            let file = "memory.memsw.limit_in_bytes";
            assert_eq!(read(memory, path, file), expected(swap));
        }
    }
    for (controller, file, value) in [
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "7"),
    ] {
        let hierarchy = v1(layout, controller).unwrap();
        assert_eq!(read(hierarchy, path, file), value, "{file}");
    }
    let unlimited = Resources {
        pids: Some(Pids { limit: -1 }),
        ..resources()
    };
    scratch.apply(&unlimited);
    assert_eq!(read(v1(layout, "pids").unwrap(), path, "pids.max"), "max");
}

/// R39, CVE-2025-47291: the limit is enforced, and what it killed is counted.
fn memory_is_limited(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let limit = Resources {
        memory: Some(Memory {
            limit: Some(16 << 20),
            swap: Some(16 << 20),
            ..Memory::default()
        }),
        ..resources()
    };
    if !scratch.apply(&limit).is_empty() {
        return;
    }
    assert_eq!(scratch.group.oom_kill_count().unwrap(), Some(0));
    let small = scratch.run("exec dd if=/dev/zero of=/dev/null bs=4M count=1");
    assert!(small.status.success(), "{}", text(&small));
    assert!(
        scratch
            .group
            .memory_usage()
            .unwrap()
            .is_some_and(|used| used < 16 << 20)
    );
    let large = scratch.run("exec dd if=/dev/zero of=/dev/null bs=100M count=1");
    assert_eq!(large.status.signal(), Some(9), "{}", text(&large));
    assert_eq!(scratch.group.oom_kill_count().unwrap(), Some(1));
}

fn running_out_of_memory_is_watched(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let limit = Resources {
        memory: Some(Memory {
            limit: Some(16 << 20),
            swap: Some(16 << 20),
            swappiness: Some(10),
            disable_oom_killer: Some(false),
            use_hierarchy: Some(true),
            ..Memory::default()
        }),
        ..resources()
    };
    if !scratch.apply(&limit).is_empty() {
        return;
    }
    if let Some(memory) = v1(layout, "memory") {
        let path = scratch.group.path();
        assert_eq!(read(memory, path, "memory.swappiness"), "10");
    }
    let mut watch = scratch.group.watch_oom().unwrap();
    assert_eq!(watch.read().unwrap(), OomEvent::Nothing);
    let large = scratch.run("exec dd if=/dev/zero of=/dev/null bs=100M count=1");
    assert_eq!(large.status.signal(), Some(9), "{}", text(&large));
    let next = |watch: &mut OomWatch| {
        let mut files = [rustix::event::PollFd::new(
            watch,
            rustix::event::PollFlags::IN,
        )];
        let wait = rustix::time::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(rustix::event::poll(&mut files, Some(&wait)).unwrap(), 1);
        watch.read().unwrap()
    };
    assert_eq!(next(&mut watch), OomEvent::OutOfMemory);
    scratch.group.remove().unwrap();
    loop {
        match next(&mut watch) {
            OomEvent::Ended => break,
            OomEvent::Nothing => {}
            OomEvent::OutOfMemory => panic!("out of memory without processes"),
        }
    }
}

fn what_is_used_is_counted(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let mut child = scratch.start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo; cat");
    let mut done = [0; 1];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut done)
        .unwrap();
    let statistics = scratch.group.statistics().unwrap();
    assert!(statistics.cpu.usage.total > 0, "{statistics:?}");
    if v1(layout, "cpuacct").is_some() {
        assert!(!statistics.cpu.usage.percpu.is_empty(), "{statistics:?}");
    }
    if v1(layout, "memory").is_some() {
        assert!(statistics.memory.usage.usage > 0, "{statistics:?}");
        assert!(!statistics.memory.raw.is_empty(), "{statistics:?}");
    }
    if v1(layout, "pids").is_some() {
        assert!((1..=2).contains(&statistics.pids.current), "{statistics:?}");
    }
    if v1(layout, "cpuset").is_some() {
        assert!(!statistics.cpuset.cpus.is_empty(), "{statistics:?}");
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}

fn processes_are_signalled(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let mut child = scratch.start("trap 'exit 5' TERM; echo; while :; do sleep 0.01; done");
    let mut set = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut set).unwrap();
    scratch.group.signal(rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    scratch.group.kill().unwrap();
    scratch.group.wait_until_empty(PATIENCE).unwrap();
    scratch.group.signal(rustix::process::Signal::TERM).unwrap();
}

/// What an unprivileged caller meets, with read-only mounts in the place of the missing
/// permissions. Only where mounts may be changed.
fn a_group_that_may_be_made_only_in_part_is_made(layout: &Layout) {
    let Some(memory) = v1(layout, "memory") else {
        return;
    };
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let remount = |how: &str| {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,bind,{how}"), memory.mount_point()])
            .status();
        assert!(status.unwrap().success());
    };
    let placement = Placement {
        path: unique(),
        unit: None,
        rootless: true,
    };
    remount("ro");
    let refused = Group::create(layout, &placement.path);
    let group = Group::create_at(layout, &placement);
    let limit = |memory: bool| Resources {
        memory: memory.then(|| Memory {
            limit: Some(1 << 20),
            ..Memory::default()
        }),
        pids: Some(Pids { limit: 7 }),
        ..resources()
    };
    let group = group.unwrap();
    let pids = group.apply(&limit(false));
    let denied = group.apply(&limit(true));
    let again = Group::open_at(layout, &placement).map(|group| group.path().to_owned());
    let removed = remove_at(layout, &placement);
    remount("rw");
    assert!(
        matches!(refused, Err(CgroupError::Create { .. })),
        "{refused:?}"
    );
    assert_eq!(pids.unwrap(), Vec::<String>::new());
    assert!(
        matches!(
            denied,
            Err(CgroupError::Unprivileged { what: "memory", .. })
        ),
        "{denied:?}"
    );
    assert_eq!(again.unwrap(), placement.path);
    removed.unwrap();
    assert_eq!(list(layout, &placement.path), Vec::<String>::new());
    // One that is nowhere is a group too, of nobody.
    let nowhere = Group::open_at(layout, &placement).unwrap();
    assert!(!nowhere.has_directories());
    assert_eq!(nowhere.processes().unwrap(), vec![]);
    nowhere.kill().unwrap();
}

fn tasks_are_limited(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let limit = Resources {
        pids: Some(Pids { limit: 3 }),
        ..resources()
    };
    if !scratch.apply(&limit).is_empty() {
        return;
    }
    let mut few = scratch.start("sleep 100 & sleep 100 & echo; wait");
    wait_for("three tasks", || {
        scratch.group.task_count().unwrap() == Some(3)
    });
    scratch.group.kill().unwrap();
    few.wait().unwrap();
    scratch.group.wait_until_empty(PATIENCE).unwrap();
    let many = scratch.run("sleep 1 & sleep 1 & sleep 1 & wait");
    assert!(!many.status.success(), "{}", text(&many));
}

fn nonsense_is_refused_before_anything_is_written(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let memory = Some(Memory {
        limit: Some(64 << 20),
        ..Memory::default()
    });
    // CVE-2018-20699 (A07).
    let huge = Resources {
        memory: memory.clone(),
        cpu: Some(Cpu {
            cpus: "0-4294967295".into(),
            ..Cpu::default()
        }),
        ..Resources::default()
    };
    let error = scratch.group.apply(&huge).unwrap_err();
    assert!(
        matches!(error, CgroupError::InvalidResource { .. }),
        "{error}"
    );
    let device = Resources {
        memory,
        devices: vec![DeviceRule {
            access: Some("x".into()),
            ..DeviceRule::default()
        }],
        ..Resources::default()
    };
    let error = scratch.group.apply(&device).unwrap_err();
    assert!(
        matches!(error, CgroupError::InvalidDeviceRule { .. }),
        "{error}"
    );
    if let Some(memory) = v1(layout, "memory") {
        let limit = read(memory, scratch.group.path(), "memory.limit_in_bytes");
        assert_eq!(limit, "9223372036854771712");
    }
    let output = scratch.run("head -c 1 /dev/zero");
    assert!(output.status.success(), "{}", text(&output));
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

fn packets_are_classed(layout: &Layout) {
    let scratch = Scratch::new(layout);
    let network = Network {
        class_id: Some(0x10_0001),
        priorities: vec![InterfacePriority {
            name: "lo".into(),
            priority: 7,
        }],
    };
    let asked = Resources {
        network: Some(network),
        ..resources()
    };
    assert_eq!(scratch.apply(&asked), Vec::<String>::new());
    let path = scratch.group.path();
    let class = read(v1(layout, "net_cls").unwrap(), path, "net_cls.classid");
    assert_eq!(class, "1048577");
    let map = read(v1(layout, "net_prio").unwrap(), path, "net_prio.ifpriomap");
    assert!(map.lines().any(|line| line == "lo 7"), "{map}");
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
        packets_are_classed(&layout);
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

/// On a host with version 1 too, version 2 has one controller that nobody else uses.
#[test]
fn controllers_of_version_2_are_enabled_from_the_root_down() {
    let layout = Layout::detect().unwrap();
    let Some(v2) = layout.v2() else {
        return;
    };
    let root = v2.mount_point();
    let control = format!("{root}/cgroup.subtree_control");
    let available = fs::read_to_string(format!("{root}/cgroup.controllers")).unwrap();
    let enabled = fs::read_to_string(&control).unwrap();
    if !available.contains("hugetlb") || enabled.contains("hugetlb") {
        return;
    }
    struct Restore(String);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = fs::write(&self.0, "-hugetlb");
        }
    }
    let _restore = Restore(control.clone());
    let scratch = Scratch::new(&layout);
    let member = scratch.group.v2().unwrap();
    assert!(
        !member
            .read("cgroup.controllers")
            .unwrap()
            .contains("hugetlb")
    );
    group::enable_controllers(&member, &["hugetlb", "no_such_controller"]).unwrap();
    assert!(
        member
            .read("cgroup.controllers")
            .unwrap()
            .contains("hugetlb")
    );
    let parent = read(v2, &scratch.top, "cgroup.subtree_control");
    assert_eq!(parent, "hugetlb");
}

#[test]
#[ignore = "a measurement, for a quiet machine"]
fn time_of_a_group() {
    let layout = Layout::detect().unwrap();
    let top = unique();
    let _parent = Group::create(&layout, &top).unwrap();
    let limits = Resources {
        devices: default_device_rules(),
        memory: Some(Memory {
            limit: Some(64 << 20),
            swap: Some(128 << 20),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: Some(512),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: 100 }),
        ..Resources::default()
    };
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(30));
        let mut start = Instant::now();
        let mut lap = |index: usize| {
            times[index].push(start.elapsed().as_secs_f64() * 1e6);
            start = Instant::now();
        };
        let layout = Layout::detect().unwrap();
        lap(0);
        let group = Group::create(&layout, &format!("{top}/group")).unwrap();
        lap(1);
        group.apply(&limits).unwrap();
        lap(2);
        let files = group.join_files().unwrap();
        lap(3);
        drop(files);
        group.remove().unwrap();
        lap(4);
    }
    remove_by_path(&layout, &top).unwrap();
    for (what, times) in ["detect", "create", "apply", "join files", "remove"]
        .iter()
        .zip(&mut times)
    {
        times.sort_by(f64::total_cmp);
        eprintln!("{what}: {:.0} us", times[times.len() / 2]);
    }
}
