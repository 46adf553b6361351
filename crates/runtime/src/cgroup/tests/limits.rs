//! What a group limits.

use super::*;

/// R38, GHSA-g54h-m393-cpwq: no rules deny all devices; the standard ones do not open a
/// disk that the container made a node for.
pub(super) fn devices_are_denied_first(layout: &Layout) {
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

pub(super) fn limits_are_written_or_warned_of(layout: &Layout) {
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
pub(super) fn memory_is_limited(layout: &Layout) {
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

pub(super) fn tasks_are_limited(layout: &Layout) {
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

pub(super) fn nonsense_is_refused_before_anything_is_written(layout: &Layout) {
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

pub(super) fn packets_are_classed(layout: &Layout) {
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
