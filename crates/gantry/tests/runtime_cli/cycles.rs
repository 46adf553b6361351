//! Many containers, one after the other and beside each other: nothing may be left.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bundle::Runtime;
use crate::support::wait_until;

const BESIDE: usize = 16;

#[test]
fn heavy_cycles_leave_nothing() {
    let cycles = if crate::is_long() { 10_000 } else { 200 };
    let runtime = Runtime::new();
    let bundles: Vec<_> = (0..BESIDE)
        .map(|worker| runtime.bundle(&format!("w{worker}"), &["sleep", "1000"], |_| {}))
        .collect();
    // Once before anything is counted: what is made once stays.
    cycle(&runtime, "w0", &bundles[0]);
    let mounts = count_mounts();
    let descriptors = count_descriptors();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (worker, bundle) in bundles.iter().enumerate() {
            let (runtime, next) = (&runtime, &next);
            scope.spawn(move || {
                while next.fetch_add(1, Ordering::Relaxed) < cycles {
                    cycle(runtime, &format!("w{worker}"), bundle);
                }
            });
        }
    });
    runtime.assert_clean();
    assert_eq!(count_descriptors(), descriptors);
    // Others mount as well meanwhile, and unmount again.
    wait_until("no mount is left", || count_mounts() <= mounts);
    wait_until("no process is left", || processes(&runtime).is_empty());
}

fn cycle(runtime: &Runtime, id: &str, bundle: &Path) {
    runtime.create_quietly(id, bundle);
    runtime.ok(&["start", id]);
    runtime.ok(&["kill", id, "KILL"]);
    // Whether it is dead already or just dying.
    runtime.ok(&["delete", "--force", id]);
}

impl Runtime {
    /// Creates a container beside others that do the same.
    fn create_quietly(&self, id: &str, bundle: &Path) {
        let log = self.directory.join(format!("{id}.log"));
        let status = self
            .command(&["create", "-b", bundle.to_str().unwrap(), id])
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "{}", fs::read_to_string(log).unwrap());
    }
}

fn count_mounts() -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().count()
}

fn count_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Processes of ours that belong to this runtime, by their command line or their group.
fn processes(runtime: &Runtime) -> Vec<String> {
    let own = runtime.directory.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        if read("cmdline").contains(&own) || read("cgroup").contains(&runtime.group) {
            found.push(format!("{} {}", entry.path().display(), read("cmdline")));
        }
    }
    found
}
