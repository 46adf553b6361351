//! Groups in directories of plain files, for controllers that few kernels have.

use std::fs;
use std::path::PathBuf;

use super::unique;
use crate::cgroup::{CgroupError, Group, Layout};
use crate::spec::Resources;

/// A directory that stands for the mounts of all hierarchies, gone at the end.
struct Fake {
    top: PathBuf,
    layout: Layout,
}

impl Fake {
    /// Files as `hierarchy/name` with what is in them; `v2` is version 2, any other
    /// hierarchy is named after its controllers.
    fn new(files: &[(&str, &str)]) -> Fake {
        let top = std::env::temp_dir().join(unique());
        let mut table = String::new();
        let mut known: Vec<&str> = Vec::new();
        for (file, content) in files {
            let (hierarchy, name) = file.split_once('/').unwrap();
            let directory = top.join(hierarchy).join("g");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), content).unwrap();
            // The group above has the same controllers.
            if name == "cgroup.controllers" {
                fs::write(top.join(hierarchy).join(name), content).unwrap();
                let control = top.join(hierarchy).join("cgroup.subtree_control");
                fs::write(control, content).unwrap();
            }
            if known.contains(&hierarchy) {
                continue;
            }
            known.push(hierarchy);
            let kind = match hierarchy {
                "v2" => "cgroup2 cgroup2 rw".to_owned(),
                controllers => format!("cgroup cgroup rw,{controllers}"),
            };
            let mount = top.join(hierarchy);
            let number = known.len();
            table += &format!("{number} 99 0:{number} / {} rw - {kind}\n", mount.display());
        }
        let layout = Layout::from_mountinfo(&table);
        assert_eq!(layout.hierarchies().len(), known.len());
        Fake { top, layout }
    }

    fn group(&self) -> Group {
        Group::open(&self.layout, "g").unwrap()
    }

    fn update(&self, json: &str) -> Result<Vec<String>, CgroupError> {
        let resources: Resources = serde_json::from_str(json).unwrap();
        self.group().update(&resources)
    }

    fn read(&self, file: &str) -> String {
        let (hierarchy, name) = file.split_once('/').unwrap();
        fs::read_to_string(self.top.join(hierarchy).join("g").join(name)).unwrap()
    }

    fn statistics(&self) -> serde_json::Value {
        serde_json::to_value(self.group().statistics().unwrap()).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}

/// The base files of a version 2 group with these controllers.
fn v2<'a>(controllers: &'a str, files: &[(&'a str, &'a str)]) -> Fake {
    let mut all = vec![
        ("v2/cgroup.controllers", controllers),
        ("v2/cgroup.procs", ""),
    ];
    all.extend(files);
    Fake::new(&all)
}

#[test]
fn every_limit_has_its_file_in_version_1() {
    // Each with what is asked for, the file, and what must be in it.
    let cases = [
        (
            r#"{"network": {"classID": 1048577}}"#,
            "net_cls/net_cls.classid",
            "1048577",
        ),
        (
            r#"{"network": {"priorities": [{"name": "eth0", "priority": 5}]}}"#,
            "net_prio/net_prio.ifpriomap",
            "eth0 5",
        ),
        (
            r#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}}"#,
            "rdma/rdma.max",
            "mlx5_1 hca_handle=3 hca_object=10",
        ),
        (
            r#"{"blockIO": {"weight": 100}}"#,
            "blkio/blkio.bfq.weight",
            "100",
        ),
        (
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 1, "weight": 30}]}}"#,
            "blkio/blkio.bfq.weight_device",
            "8:1 30",
        ),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 7}]}}"#,
            "blkio/blkio.throttle.read_bps_device",
            "8:1 7",
        ),
        (
            r#"{"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 0}]}}"#,
            "blkio/blkio.throttle.write_iops_device",
            "8:1 0",
        ),
        (
            r#"{"memory": {"kernelTCP": 4096}}"#,
            "memory/memory.kmem.tcp.limit_in_bytes",
            "4096",
        ),
        (
            r#"{"memory": {"useHierarchy": true, "swappiness": 0}}"#,
            "memory/memory.use_hierarchy",
            "1",
        ),
        (
            r#"{"memory": {"disableOOMKiller": true}}"#,
            "memory/memory.oom_control",
            "1",
        ),
        (
            r#"{"cpu": {"realtimeRuntime": 95000}}"#,
            "cpu/cpu.rt_runtime_us",
            "95000",
        ),
        (
            r#"{"cpu": {"realtimePeriod": 1000000}}"#,
            "cpu/cpu.rt_period_us",
            "1000000",
        ),
        (r#"{"cpu": {"burst": 9}}"#, "cpu/cpu.cfs_burst_us", "9"),
        (r#"{"cpu": {"idle": 1}}"#, "cpu/cpu.idle", "1"),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}"#,
            "hugetlb/hugetlb.2MB.limit_in_bytes",
            "4096",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}"#,
            "hugetlb/hugetlb.2MB.rsvd.limit_in_bytes",
            "4096",
        ),
    ];
    for (asked, file, expected) in cases {
        let before = if file.ends_with("use_hierarchy") {
            "0"
        } else {
            ""
        };
        let mut files = vec![(file, before)];
        let sibling = match file {
            "memory/memory.use_hierarchy" => Some("memory/memory.swappiness"),
            "hugetlb/hugetlb.2MB.rsvd.limit_in_bytes" => Some("hugetlb/hugetlb.2MB.limit_in_bytes"),
            "cpu/cpu.rt_period_us" => Some("cpu/cpu.rt_runtime_us"),
            _ => None,
        };
        files.extend(sibling.map(|sibling| (sibling, "")));
        let fake = Fake::new(&files);
        assert_eq!(fake.update(asked).unwrap(), Vec::<String>::new(), "{asked}");
        assert_eq!(fake.read(file), expected, "{asked}");
    }
}

#[test]
fn every_limit_has_its_file_in_version_2() {
    let cases = [
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 7}]}}"#,
            "v2/io.max",
            "8:1 rbps=7",
        ),
        (
            r#"{"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 1, "rate": 0}]}}"#,
            "v2/io.max",
            "8:1 wbps=max",
        ),
        (
            r#"{"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 1, "rate": 7}]}}"#,
            "v2/io.max",
            "8:1 riops=7",
        ),
        (
            r#"{"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 7}]}}"#,
            "v2/io.max",
            "8:1 wiops=7",
        ),
        (r#"{"blockIO": {"weight": 100}}"#, "v2/io.bfq.weight", "100"),
        (r#"{"blockIO": {"weight": 100}}"#, "v2/io.weight", "910"),
        (
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 1, "weight": 1000}]}}"#,
            "v2/io.weight",
            "8:1 10000",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "1GB", "limit": 1}]}"#,
            "v2/hugetlb.1GB.max",
            "1",
        ),
        (
            r#"{"rdma": {"mlx5_1": {"hcaObjects": 10}}}"#,
            "v2/rdma.max",
            "mlx5_1 hca_object=10",
        ),
        (r#"{"cpu": {"shares": 1024}}"#, "v2/cpu.weight", "100"),
        (r#"{"memory": {"reservation": -1}}"#, "v2/memory.low", "max"),
        (r#"{"pids": {"limit": 0}}"#, "v2/pids.max", "max"),
        (
            r#"{"unified": {"memory.high": "4096"}}"#,
            "v2/memory.high",
            "4096",
        ),
        // One line a write: the last one is on top here.
        (
            r#"{"unified": {"io.max": "8:0 rbps=1\n8:1 rbps=2\n"}}"#,
            "v2/io.max",
            "8:1 rbps=2",
        ),
    ];
    for (asked, file, expected) in cases {
        let probes = [("v2/io.stat", ""), ("v2/memory.max", "max")];
        let mut files = probes.to_vec();
        files.push((file, ""));
        let fake = v2("cpuset cpu io memory hugetlb pids rdma", &files);
        assert_eq!(fake.update(asked).unwrap(), Vec::<String>::new(), "{asked}");
        assert_eq!(fake.read(file), expected, "{asked}");
    }
}

#[test]
fn what_a_version_lacks_is_warned_of_or_refused() {
    let fake = v2(
        "memory cpu io",
        &[
            ("v2/memory.max", "max"),
            ("v2/cpu.weight", ""),
            ("v2/io.stat", ""),
        ],
    );
    for (asked, warning) in [
        (r#"{"memory": {"kernel": 1}}"#, "kernels have no limit"),
        (
            r#"{"memory": {"kernelTCP": 1}}"#,
            "cgroup v2 has no limit of TCP",
        ),
        (
            r#"{"memory": {"swappiness": 1}}"#,
            "cgroup v2 has no swappiness",
        ),
        (
            r#"{"memory": {"disableOOMKiller": true}}"#,
            "cgroup v2 has no way to wait",
        ),
        (
            r#"{"memory": {"limit": 9, "swap": 10}}"#,
            "the host does not account for swap",
        ),
        (
            r#"{"cpu": {"realtimeRuntime": 1}}"#,
            "cgroup v2 has no limit on realtime",
        ),
        (
            r#"{"cpu": {"burst": 1}}"#,
            "the host has no processor bursts",
        ),
        (r#"{"cpu": {"idle": 1}}"#, "the host has no idle groups"),
        (r#"{"network": {"classID": 1}}"#, "cgroup v2 has no class"),
        (r#"{"blockIO": {"weight": 10}}"#, "no scheduler of the host"),
        (
            r#"{"blockIO": {"leafWeight": 10}}"#,
            "no scheduler of the host",
        ),
        (
            r#"{"pids": {"limit": 5}}"#,
            "the host has no pids controller",
        ),
        (
            r#"{"cpu": {"cpus": "0"}}"#,
            "the host has no cpuset controller",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB"}]}"#,
            "the host has no hugetlb",
        ),
        (
            r#"{"rdma": {"a": {"hcaHandles": 1}}}"#,
            "the host has no rdma",
        ),
    ] {
        let warnings = fake.update(asked).unwrap();
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(warning),
            "{asked}: {warnings:?}"
        );
    }
    // What asks for nothing needs nothing.
    for asked in [
        "{}",
        r#"{"memory": {}, "cpu": {}, "blockIO": {}, "network": {}}"#,
        r#"{"memory": {"limit": 0, "disableOOMKiller": false, "useHierarchy": true}}"#,
        r#"{"cpu": {"shares": 0, "quota": 0, "period": 0, "burst": 0, "idle": 0}}"#,
        r#"{"blockIO": {"weight": 0}, "pids": {"limit": -1}, "network": {"classID": 0}}"#,
    ] {
        assert_eq!(fake.update(asked).unwrap(), Vec::<String>::new(), "{asked}");
    }
    for (asked, error) in [
        (
            r#"{"unified": {"pids.max": "1"}}"#,
            "unified resource \"pids.max\" can't be set: controller \"pids\" not available",
        ),
        (
            r#"{"unified": {"memory.none": "1"}}"#,
            "unified resource \"memory.none\" is no file of this kernel",
        ),
        (
            r#"{"memory": {"swap": 10}}"#,
            "invalid memory and swap limit 10: it needs a memory limit",
        ),
        (
            r#"{"memory": {"swappiness": 101}}"#,
            "invalid swappiness 101: it is more than 100",
        ),
        (
            r#"{"cpu": {"idle": 2}}"#,
            "invalid idle 2: it is neither 0 nor 1",
        ),
    ] {
        assert_eq!(
            fake.update(asked).unwrap_err().to_string(),
            error,
            "{asked}"
        );
    }
    let v1 = Fake::new(&[("memory/cgroup.procs", ""), ("hugetlb/cgroup.procs", "")]);
    let error = v1
        .update(r#"{"unified": {"memory.high": "1"}}"#)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid configuration: cannot use unified on cgroup v1"
    );
    let error = v1.update(r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}"#);
    assert_eq!(
        error.unwrap_err().to_string(),
        "invalid huge page size 3MB: the host has no huge pages of this size"
    );
}

#[test]
fn limits_are_updated_relative_to_what_is_there() {
    let fake = v2(
        "memory",
        &[
            ("v2/memory.max", "1000"),
            ("v2/memory.swap.max", ""),
            ("v2/memory.current", "900"),
        ],
    );
    fake.update(r#"{"memory": {"swap": 1500}}"#).unwrap();
    assert_eq!(fake.read("v2/memory.swap.max"), "500");
    let error = fake.update(r#"{"memory": {"swap": 999}}"#).unwrap_err();
    assert!(
        matches!(error, CgroupError::InvalidResource { .. }),
        "{error}"
    );
    let checked = r#"{"memory": {"limit": 800, "swap": 800, "checkBeforeUpdate": true}}"#;
    let error = fake.update(checked).unwrap_err();
    assert!(
        matches!(
            error,
            CgroupError::BelowUsage {
                limit: 800,
                usage: 900
            }
        ),
        "{error}"
    );
    assert_eq!(fake.read("v2/memory.max"), "1000");
    let cpu = v2("cpu", &[("v2/cpu.weight", ""), ("v2/cpu.max", "50 1000")]);
    cpu.update(r#"{"cpu": {"period": 2000}}"#).unwrap();
    assert_eq!(cpu.read("v2/cpu.max"), "50 2000");
}

#[test]
fn statistics_of_version_2_are_runcs() {
    let pressure = "some avg10=1.50 avg60=0.25 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
    let fake = v2(
        "cpu memory io pids rdma",
        &[
            (
                "v2/cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 5\n",
            ),
            ("v2/cpu.pressure", pressure),
            ("v2/memory.stat", "anon 1\nfile 4096\n"),
            ("v2/memory.max", "max\n"),
            ("v2/memory.current", "8192\n"),
            ("v2/memory.peak", "9000\n"),
            ("v2/memory.events", "low 0\nmax 6\noom_kill 1\n"),
            ("v2/memory.swap.current", "100\n"),
            ("v2/memory.swap.max", "200\n"),
            ("v2/pids.current", "3\n"),
            ("v2/pids.max", "max\n"),
            (
                "v2/io.stat",
                "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 future=7\nnonsense\n",
            ),
            ("v2/rdma.current", "mlx5_1 hca_handle=2 hca_object=max\n"),
        ],
    );
    let entry = |op: &str, value: u64| serde_json::json!({"major": 8, "minor": 16, "op": op, "value": value});
    let nothing = serde_json::json!({"limit": 0, "failcnt": 0});
    let expected = serde_json::json!({
        "cpu": {
            "usage": {"total": 30_000, "kernel": 10_000, "user": 20_000},
            "throttling": {"periods": 4, "throttledPeriods": 2, "throttledTime": 5000},
            "psi": {
                "some": {"avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 7},
                "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 3}
            }
        },
        "cpuset": {
            "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
            "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0,
            "sched_load_balance": 0, "sched_relax_domain_level": 0
        },
        "memory": {
            "cache": 4096,
            "usage": {"limit": u64::MAX, "usage": 8192, "max": 9000, "failcnt": 6},
            "swap": {"limit": u64::MAX, "usage": 8292, "failcnt": 0},
            "kernel": nothing, "kernelTCP": nothing,
            "raw": {"anon": 1, "file": 4096}
        },
        "pids": {"current": 3},
        "blkio": {
            "ioServiceBytesRecursive": [entry("Read", 1), entry("Write", 2), entry("Discard", 5)],
            "ioServicedRecursive": [entry("Read", 3), entry("Write", 4), entry("Discard", 6)]
        },
        "hugetlb": {},
        "rdma": {"mlx5_1": {"hca_handles": 2, "hca_objects": u64::MAX}},
        "intel_rdt": {},
        "network_interfaces": null
    });
    assert_eq!(fake.statistics(), expected);
}

#[test]
fn statistics_of_version_1_are_runcs() {
    let fake = Fake::new(&[
        ("cpuacct/cpuacct.usage", "900\n"),
        ("cpuacct/cpuacct.usage_percpu", "400 500 \n"),
        ("cpuacct/cpuacct.usage_percpu_user", "300 \n"),
        ("cpuacct/cpuacct.usage_percpu_sys", "200 \n"),
        ("cpuacct/cpuacct.stat", "user 2\nsystem 1\n"),
        (
            "cpu/cpu.stat",
            "nr_periods 4\nnr_throttled 2\nthrottled_time 5\n",
        ),
        ("cpuset/cpuset.cpus", "0-2,5\n"),
        ("cpuset/cpuset.mems", "0\n"),
        ("cpuset/cpuset.sched_load_balance", "1\n"),
        ("cpuset/cpuset.sched_relax_domain_level", "-1\n"),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/memory.usage_in_bytes", "10\n"),
        ("memory/memory.max_usage_in_bytes", "20\n"),
        ("memory/memory.failcnt", "1\n"),
        ("memory/memory.memsw.limit_in_bytes", "30\n"),
        ("memory/memory.stat", "cache 1\ntotal_cache 5\n"),
        ("pids/pids.current", "2\n"),
        ("pids/pids.max", "9\n"),
        (
            "blkio/blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n",
        ),
        ("blkio/blkio.bfq.sectors_recursive", "8:0 7\n"),
    ]);
    let statistics = fake.statistics();
    for (pointer, expected) in [
        ("/cpu/usage/total", serde_json::json!(900)),
        ("/cpu/usage/percpu", serde_json::json!([400, 500])),
        ("/cpu/usage/percpu_kernel", serde_json::json!([200])),
        ("/cpu/usage/user", serde_json::json!(20_000_000)),
        ("/cpu/usage/kernel", serde_json::json!(10_000_000)),
        ("/cpu/throttling/throttledTime", serde_json::json!(5)),
        ("/cpuset/cpus", serde_json::json!([0, 1, 2, 5])),
        ("/cpuset/mems", serde_json::json!([0])),
        ("/cpuset/sched_load_balance", serde_json::json!(1)),
        ("/cpuset/sched_relax_domain_level", serde_json::json!(-1)),
        ("/memory/cache", serde_json::json!(5)),
        ("/memory/usage/max", serde_json::json!(20)),
        ("/memory/swap/limit", serde_json::json!(30)),
        ("/pids", serde_json::json!({"current": 2, "limit": 9})),
        (
            "/blkio/ioServiceBytesRecursive",
            serde_json::json!([
                {"major": 8, "op": "Read", "value": 4096},
                {"major": 8, "op": "Total", "value": 4096}
            ]),
        ),
        (
            "/blkio/sectorsRecursive",
            serde_json::json!([{"major": 8, "value": 7}]),
        ),
    ] {
        assert_eq!(statistics.pointer(pointer), Some(&expected), "{pointer}");
    }
}
