//! A fuzzer of configurations: whatever stands in a config.json, a birth begins or fails,
//! and never panics.
//!
//! Mutations know the structure: members are dropped, copied elsewhere and exchanged,
//! numbers go to the borders of their types, words become others of the specification.
//! Some inputs are besides cut and flipped byte by byte. A panic says the number of its
//! input, which `GANTRY_FUZZ_SEED` tries alone.
//!
//! Each test runs 3 s, and 10 minutes with `GANTRY_TEST_LONG`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::time::{Duration, Instant};

use gantry_runtime::capabilities::CapabilitySet;
use gantry_runtime::cgroup::Layout;
use gantry_runtime::seccomp::{self, Architecture, Program};
use gantry_runtime::spec::{self, Seccomp, Spec};
use gantry_runtime::{fuzzing, user};
use serde_json::Value;
use support::filter::{self, Call};
use support::random::Random;

const FULL: &str = include_str!("fuzz/full.json");
const SMALL: &str = include_str!("fuzz/small.json");

/// A host with control groups of version 2, and one with both.
const MOUNTS: [&str; 2] = [
    "30 29 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
    "\
29 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
30 29 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
31 29 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
32 29 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
33 29 0:30 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
",
];

/// Runs `body` with one seed after the other until the time is over.
fn for_a_while(mut body: impl FnMut(&mut Random)) {
    /// Says the seed if the body panics.
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("panic at GANTRY_FUZZ_SEED={}", self.0);
            }
        }
    }
    if let Ok(seed) = std::env::var("GANTRY_FUZZ_SEED") {
        let seed = Seed(seed.parse().unwrap());
        body(&mut Random::new(seed.0));
        return;
    }
    let is_long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let time = Duration::from_secs(if is_long { 600 } else { 3 });
    let start = Instant::now();
    // Every run tries others.
    let first = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let mut count = 0;
    while start.elapsed() < time {
        let seed = Seed((first << 20) + count);
        body(&mut Random::new(seed.0));
        count += 1;
    }
    eprintln!("{count} inputs");
    assert!(count > 100, "only {count} inputs in {time:?}");
}

/// Words of the specification, and such that have hurt parsers.
const WORDS: [&str; 62] = [
    "",
    "/",
    "..",
    "../../etc/passwd",
    "/proc/self/fd/7",
    "a",
    "\0",
    "\n",
    "=",
    "-1",
    "0",
    "1:2",
    "0-4294967295",
    "0-18446744073709551615",
    "5-1",
    "1,,2",
    "18446744073709551616",
    "99999999999999999999999",
    "0x10",
    "\u{fffd}\u{10ffff}",
    "ä\u{301}",
    "%s%n",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPSEL64N32",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "CAP_SYS_ADMIN",
    "RLIMIT_RTTIME",
    "user",
    "time",
    "mount",
    "bind",
    "rbind",
    "idmap",
    "ridmap",
    "size=",
    "mode=8",
    "rro",
    "max",
    "max 0",
    "1GB",
    "kernel.shm_rmid_forced",
    "kernel.core_pattern",
    "org.systemd.property.X",
    "@a(sv) [('x', <@as []>)]",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

fn number(random: &mut Random) -> Value {
    match random.below(8) {
        0 => u64::MAX.into(),
        1 => i64::MIN.into(),
        2 => (1_u64 << random.below(64)).into(),
        3 => ((1_u64 << random.below(64)) - 1).into(),
        4 => (-(random.below(300) as i64)).into(),
        5 => random.next().into(),
        6 => 1e308.into(),
        _ => random.below(64).into(),
    }
}

fn scalar(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Bool(random.one_in(2)),
        2 => "x".repeat(1 << random.below(14)).into(),
        3..=5 => number(random),
        _ => (*random.pick(&WORDS)).into(),
    }
}

/// Number of values in a value, itself included.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// One of the values in a value, itself included.
fn nth(value: &mut Value, mut index: usize) -> &mut Value {
    if index == 0 {
        return value;
    }
    index -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(members) => members.values_mut().collect(),
        _ => Vec::new(),
    };
    for inner in inner {
        let size = size(inner);
        if index < size {
            return nth(inner, index);
        }
        index -= size;
    }
    panic!("there are fewer values");
}

/// Changes one thing. Mostly by its like: a value of another type is an error at once, and
/// if whole branches were replaced, little would be left of most inputs.
fn mutate(value: &mut Value, random: &mut Random) {
    let count = size(value);
    let source = nth(value, random.below(count)).clone();
    let target = nth(value, random.below(count));
    let is_alike = std::mem::discriminant(target) == std::mem::discriminant(&source);
    let dice = random.below(20);
    match target {
        target if dice == 0 => *target = scalar(random),
        target if dice == 1 || dice < 5 && is_alike => *target = source,
        Value::Array(items) if items.is_empty() || dice < 8 => items.push(source),
        Value::Array(items) if dice < 11 => drop(items.remove(random.below(items.len()))),
        Value::Array(items) if dice < 14 => {
            let copy = random.pick::<Value>(items).clone();
            items.extend(std::iter::repeat_n(copy, 1 << random.below(7)));
        }
        Value::Object(members) if members.is_empty() || dice < 8 => {
            members.insert((*random.pick(&WORDS)).to_owned(), source);
        }
        Value::Object(members) if dice < 11 => {
            let keys: Vec<String> = members.keys().cloned().collect();
            members.remove(random.pick::<String>(&keys));
        }
        target @ (Value::Array(_) | Value::Object(_)) => mutate(target, random),
        Value::String(text) if dice < 10 => {
            let mut bytes = std::mem::take(text).into_bytes();
            flip(&mut bytes, random);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Value::String(text) => *text = (*random.pick(&WORDS)).to_owned(),
        Value::Bool(value) => *value = !*value,
        target @ (Value::Number(_) | Value::Null) => {
            let near = target.as_u64().unwrap_or(0);
            *target = match random.below(8) {
                0 => near.wrapping_add(1).into(),
                1 => near.wrapping_sub(1).into(),
                2 => (near as i64).wrapping_neg().into(),
                3 => near.wrapping_mul(1 << random.below(64)).into(),
                _ => number(random),
            };
        }
    }
}

/// Damages bytes.
fn flip(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
            continue;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.remove(at)),
            4 => bytes.insert(at, *random.pick(b"[]{}\",:\\-0 /")),
            _ => {
                let end = (at + random.below(64)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

fn input(seeds: &[Value], random: &mut Random) -> Vec<u8> {
    let mut value = random.pick(seeds).clone();
    for _ in 0..*random.pick(&[0, 1, 1, 1, 2, 3, 8]) {
        mutate(&mut value, random);
    }
    let mut bytes = serde_json::to_vec(&value).unwrap();
    if random.one_in(4) {
        flip(&mut bytes, random);
    }
    bytes
}

#[test]
fn the_seeds_are_good() {
    let layout = Layout::from_mountinfo(MOUNTS[0]);
    let full: Spec = spec::read("full", FULL.as_bytes()).unwrap();
    let small: Spec = spec::read("small", SMALL.as_bytes()).unwrap();
    // Otherwise most inputs would end at the first check.
    assert_eq!(fuzzing::read(&small, &layout), [""; 0]);
    assert_eq!(fuzzing::read(&full, &layout), [""; 0]);
}

#[test]
fn long_configurations_never_panic() {
    let layouts = MOUNTS.map(Layout::from_mountinfo);
    let seeds: Vec<Value> = [FULL, FULL, SMALL]
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    let (mut parsed, mut good) = (0_u64, 0_u64);
    for_a_while(|random| {
        let bytes = input(&seeds, random);
        let Ok(spec) = spec::read::<Spec>("config.json", &bytes) else {
            return;
        };
        parsed += 1;
        good += u64::from(fuzzing::read(&spec, random.pick(&layouts)).is_empty());
        // What is written is read as what it was.
        let text = serde_json::to_string(&spec).unwrap();
        let again: Spec = spec::read("config.json", text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    });
    eprintln!("{parsed} were configurations, {good} of them good ones");
    let is_alone = std::env::var_os("GANTRY_FUZZ_SEED").is_some();
    assert!(is_alone || parsed > 50 && good > 5);
}

#[test]
fn long_profiles_compile_to_programs_that_end() {
    let full: Value = serde_json::from_str(FULL).unwrap();
    let default = seccomp::default_profile(CapabilitySet::DEFAULT, Architecture::X86_64);
    let seeds = [
        full["linux"]["seccomp"].clone(),
        full["linux"]["seccomp"].clone(),
        serde_json::to_value(default).unwrap(),
    ];
    let mut compiled = 0_u64;
    for_a_while(|random| {
        let bytes = input(&seeds, random);
        let Ok(profile) = serde_json::from_slice::<Seccomp>(&bytes) else {
            return;
        };
        let native = *random.pick(&[Architecture::X86_64, Architecture::Aarch64]);
        let Ok(program) = seccomp::compile_for(&profile, native) else {
            return;
        };
        compiled += 1;
        assert!((1..=4096).contains(&program.instructions.len()));
        // The interpreter panics where the kernel would refuse: a jump or load that leads out.
        for _ in 0..50 {
            let call = Call {
                number: *random.pick(&[0, 0x4000_0000, 0xf_0000]) | random.below(480) as u32,
                audit: *random.pick(&[0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0]),
                arguments: std::array::from_fn(|_| random.next() >> random.below(64)),
            };
            filter::run(&program.instructions, &call);
        }
        let mut cached = program.to_bytes();
        assert_eq!(Program::from_bytes(&cached).as_ref(), Ok(&program));
        flip(&mut cached, random);
        let _ = Program::from_bytes(&cached);
    });
    eprintln!("{compiled} compiled");
    assert!(std::env::var_os("GANTRY_FUZZ_SEED").is_some() || compiled > 50);
}

#[test]
fn long_files_of_others_never_panic() {
    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:user,root\nuser:x:1000:\nbig:x:4294967295:user\n";
    const USERS: [&str; 10] = [
        "root",
        "user",
        "1000",
        "1000:10",
        "user:wheel",
        ":",
        "0:",
        "4294967296",
        "-1",
        "user:0x1",
    ];
    for_a_while(|random| {
        let (mut passwd, mut group) = (PASSWD.to_vec(), GROUP.to_vec());
        let mut text = random.pick(&USERS).as_bytes().to_vec();
        for bytes in [&mut passwd, &mut group, &mut text] {
            if random.one_in(2) {
                flip(bytes, random);
            }
        }
        let text = String::from_utf8_lossy(&text);
        if let Ok(ids) = user::resolve_in(&passwd, &group, &text) {
            // CVE-2024-40635: nobody becomes root by a number that does not fit.
            assert!(ids.uid <= i32::MAX as u32 || ids.uid != u32::MAX, "{text}");
        }
        let mut mounts = random.pick(&MOUNTS).as_bytes().to_vec();
        flip(&mut mounts, random);
        let _ = Layout::from_mountinfo(&String::from_utf8_lossy(&mounts));
    });
}
