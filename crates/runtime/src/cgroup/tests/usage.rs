//! What a group uses, and what that costs.

use super::*;

pub(super) fn running_out_of_memory_is_watched(layout: &Layout) {
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

pub(super) fn what_is_used_is_counted(layout: &Layout) {
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
