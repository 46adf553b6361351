//! How groups come and go.

use super::*;

pub(super) fn groups_are_made_listed_and_removed(layout: &Layout) {
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

pub(super) fn existing_groups_are_taken_over_only_when_empty(layout: &Layout) {
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

pub(super) fn a_failed_creation_leaves_nothing(layout: &Layout) {
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

/// What an unprivileged caller meets, with read-only mounts in the place of the missing
/// permissions. Only where mounts may be changed.
pub(super) fn a_group_that_may_be_made_only_in_part_is_made(layout: &Layout) {
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
