//! Processes of a group.

use super::*;

pub(super) fn processes_join_are_listed_and_killed(layout: &Layout) {
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
pub(super) fn a_growing_crowd_is_killed(layout: &Layout) {
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

pub(super) fn groups_freeze_and_thaw(layout: &Layout) {
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

pub(super) fn processes_are_signalled(layout: &Layout) {
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
