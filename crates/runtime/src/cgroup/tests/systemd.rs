//! The systemd driver against a socket that answers as systemd does.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use super::unique;
use crate::cgroup::dbus::{DbusError, Kind, Message, Value};
use crate::cgroup::devices::Policy;
use crate::cgroup::limits::Limits;
use crate::cgroup::placement::Unit;
use crate::cgroup::systemd::{Manager, parse_property, unit_properties};
use crate::cgroup::{CgroupError, Layout, default_device_rules, unit};
use crate::spec::Resources;

/// What a call is answered with.
enum Answer {
    Return(Vec<Value>),
    Error(&'static str),
    /// A job and its result, told before the call is answered and after it.
    Job(&'static str, bool),
}

/// A peer that answers calls in turn, and hands back what it was called with.
struct Peer {
    path: PathBuf,
    thread: JoinHandle<Vec<Message>>,
}

impl Peer {
    fn start(answers: Vec<Answer>) -> Peer {
        let path = std::env::temp_dir().join(unique());
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || serve(&listener, answers));
        Peer { path, thread }
    }

    fn calls(self) -> Vec<Message> {
        let calls = self.thread.join().unwrap();
        std::fs::remove_file(self.path).unwrap();
        calls
    }
}

fn line(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn message(stream: &mut UnixStream) -> Option<Message> {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).ok()?;
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let length = (16 + number(12)).next_multiple_of(8) + number(4);
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[16..]).unwrap();
    Some(Message::decode(&bytes).unwrap())
}

fn serve(listener: &UnixListener, answers: Vec<Answer>) -> Vec<Message> {
    let (mut stream, _) = listener.accept().unwrap();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line(&mut stream), format!("\0AUTH EXTERNAL {hex}\r\n"));
    // Before the answer: systemd may miss a call that comes with it.
    assert_eq!(line(&mut stream), "BEGIN\r\n");
    stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
    let mut calls = Vec::new();
    let mut serial = 100;
    let mut send = |stream: &mut UnixStream, mut message: Message| {
        serial += 1;
        message.serial = serial;
        let bytes = message.encode();
        // In two pieces: a reader must not count on getting a message at once.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        stream.write_all(first).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        stream.write_all(second).unwrap();
    };
    for answer in answers {
        let Some(call) = message(&mut stream) else {
            break;
        };
        let mut reply = Message::call("", "/", "", "", vec![]);
        reply.kind = Kind::Return;
        reply.reply_serial = Some(call.serial);
        (reply.path, reply.interface, reply.member, reply.destination) = (None, None, None, None);
        let job = "/org/freedesktop/systemd1/job/7";
        let removed = |path: &str, result: &str| {
            let body = vec![
                Value::Uint32(7),
                Value::Path(path.to_owned()),
                Value::string("x.scope"),
                Value::string(result),
            ];
            let interface = "org.freedesktop.systemd1.Manager";
            let mut signal = Message::call(
                "",
                "/org/freedesktop/systemd1",
                interface,
                "JobRemoved",
                body,
            );
            signal.kind = Kind::Signal;
            signal.destination = None;
            signal
        };
        match answer {
            Answer::Return(body) => {
                reply.body = body;
                send(&mut stream, reply);
            }
            Answer::Error(name) => {
                reply.kind = Kind::Error;
                reply.error_name = Some(format!("org.freedesktop.systemd1.{name}"));
                reply.body = vec![Value::string("it says no")];
                send(&mut stream, reply);
            }
            Answer::Job(result, is_early) => {
                // That of somebody else's job is not ours.
                send(
                    &mut stream,
                    removed("/org/freedesktop/systemd1/job/6", "failed"),
                );
                if is_early {
                    send(&mut stream, removed(job, result));
                }
                reply.body = vec![Value::Path(job.to_owned())];
                send(&mut stream, reply);
                if !is_early {
                    send(&mut stream, removed(job, result));
                }
            }
        }
        calls.push(call);
    }
    calls
}

fn members(calls: &[Message]) -> Vec<&str> {
    calls
        .iter()
        .map(|call| call.member.as_deref().unwrap())
        .collect()
}

fn scope() -> Unit {
    Unit {
        name: "x-y.scope".to_owned(),
        slice: "a.slice".to_owned(),
        user: false,
        properties: vec![
            ("TimeoutStopSec".to_owned(), "uint64 5".to_owned()),
            ("Description".to_owned(), "'mine'".to_owned()),
        ],
    }
}

/// What a property of an array of `(sv)` says.
fn property<'a>(array: &'a Value, wanted: &str) -> Option<&'a Value> {
    let Value::Array(kind, entries) = array else {
        panic!("{array:?}");
    };
    assert_eq!(kind, "(sv)");
    entries.iter().rev().find_map(|entry| match entry {
        Value::Structure(pair) => match &pair[..] {
            [Value::String(name), Value::Variant(value)] if name == wanted => Some(&**value),
            _ => None,
        },
        _ => None,
    })
}

#[test]
fn a_unit_is_started_with_its_processes_and_awaited() {
    for is_early in [true, false] {
        let peer = Peer::start(vec![Answer::Job("done", is_early)]);
        let mut manager = Manager::at(&peer.path, false).unwrap();
        let pid = rustix::process::getpid();
        let properties = unit_properties(&scope(), true, &[pid]).unwrap();
        manager.start("x-y.scope", properties).unwrap();
        drop(manager);
        let calls = peer.calls();
        assert_eq!(members(&calls), ["StartTransientUnit"]);
        let call = &calls[0];
        assert_eq!(call.path.as_deref(), Some("/org/freedesktop/systemd1"));
        // There is no bus that would want one.
        assert_eq!(call.destination, None);
        assert_eq!(call.body[0], Value::string("x-y.scope"));
        assert_eq!(call.body[1], Value::string("fail"));
        assert_eq!(call.body[3], Value::Array("(sa(sv))".into(), vec![]));
        let pids = vec![Value::Uint32(pid.as_raw_nonzero().get().cast_unsigned())];
        for (name, value) in [
            ("Slice", Value::string("a.slice")),
            ("Delegate", Value::Boolean(true)),
            ("PIDs", Value::Array("u".into(), pids)),
            ("DefaultDependencies", Value::Boolean(false)),
            ("IOAccounting", Value::Boolean(true)),
            ("TimeoutStopUSec", Value::Uint64(5_000_000)),
            ("Description", Value::string("mine")),
        ] {
            assert_eq!(property(&call.body[2], name), Some(&value), "{name}");
        }
    }
}

#[test]
fn a_bus_is_greeted_and_listened_to() {
    let peer = Peer::start(vec![
        Answer::Return(vec![Value::string(":1.5")]),
        Answer::Return(vec![]),
        Answer::Return(vec![]),
        Answer::Error("NoSuchUnit"),
        Answer::Return(vec![]),
    ]);
    let mut manager = Manager::at(&peer.path, true).unwrap();
    // One that is gone is stopped.
    manager.stop("x-y.scope").unwrap();
    drop(manager);
    let calls = peer.calls();
    assert_eq!(
        members(&calls),
        [
            "Hello",
            "AddMatch",
            "Subscribe",
            "StopUnit",
            "ResetFailedUnit"
        ]
    );
    assert_eq!(
        calls[3].destination.as_deref(),
        Some("org.freedesktop.systemd1")
    );
}

#[test]
fn what_systemd_refuses_is_an_error() {
    let peer = Peer::start(vec![Answer::Job("failed", false)]);
    let mut manager = Manager::at(&peer.path, false).unwrap();
    let error = manager.start("x.scope", vec![]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot start unit x.scope: the job of systemd is failed"
    );
    peer.calls();
    // A name that a failed unit still has is freed once.
    let peer = Peer::start(vec![
        Answer::Error("UnitExists"),
        Answer::Return(vec![]),
        Answer::Job("done", true),
    ]);
    let mut manager = Manager::at(&peer.path, false).unwrap();
    manager.start("x.scope", vec![]).unwrap();
    let calls = peer.calls();
    let expected = [
        "StartTransientUnit",
        "ResetFailedUnit",
        "StartTransientUnit",
    ];
    assert_eq!(members(&calls), expected);

    let peer = Peer::start(vec![Answer::Error("UnitExists")]);
    let mut manager = Manager::at(&peer.path, false).unwrap();
    let error = manager.start("x.scope", vec![]).unwrap_err();
    // The peer is gone after its one answer.
    assert!(
        matches!(
            &error,
            CgroupError::Systemd {
                source: DbusError::Io { .. },
                ..
            }
        ),
        "{error:?}"
    );
    peer.calls();
    let missing = Manager::at(&std::env::temp_dir().join(unique()), false).unwrap_err();
    assert!(matches!(missing, DbusError::Connect { .. }), "{missing:?}");
}

#[test]
fn the_group_of_a_manager_is_asked_for() {
    let group = |text: &str| vec![Value::Variant(Box::new(Value::string(text)))];
    for (answer, expected) in [("", ""), ("/", ""), ("/user.slice/a", "/user.slice/a")] {
        let peer = Peer::start(vec![Answer::Return(group(answer))]);
        let mut manager = Manager::at(&peer.path, false).unwrap();
        assert_eq!(manager.control_group().unwrap(), expected);
        peer.calls();
    }
}

#[test]
fn limits_become_properties() {
    let v2 = Layout::from_mountinfo("30 23 0:26 / /x rw - cgroup2 cgroup2 rw\n");
    let text = r#"{
        "memory": {"limit": 1000, "swap": 3000, "reservation": -1},
        "cpu": {"shares": 1024, "quota": 12345, "period": 100000, "cpus": "0-2,9", "mems": "0"},
        "pids": {"limit": 7},
        "unified": {"memory.high": "900", "cpu.max": "max 50000", "io.max": "8:0 rbps=1"}
    }"#;
    let resources: Resources = serde_json::from_str(text).unwrap();
    let limits = Limits::check(&resources, &v2, false).unwrap();
    let bytes = |bytes: &[u8]| {
        let bytes = bytes.iter().map(|byte| Value::Byte(*byte)).collect();
        Value::Array("y".into(), bytes)
    };
    let properties = unit::limit_properties(&limits, true);
    for (name, value) in [
        ("MemoryMax", Value::Uint64(1000)),
        ("MemorySwapMax", Value::Uint64(2000)),
        ("MemoryLow", Value::Uint64(u64::MAX)),
        ("MemoryHigh", Value::Uint64(900)),
        ("CPUWeight", Value::Uint64(100)),
        ("TasksMax", Value::Uint64(7)),
        ("AllowedCPUs", bytes(&[0b111, 0b10])),
        ("AllowedMemoryNodes", bytes(&[1])),
    ] {
        let found = properties.iter().find(|(known, _)| known == name);
        assert_eq!(found.map(|(_, value)| value), Some(&value), "{name}");
    }
    let quotas: Vec<&Value> = properties
        .iter()
        .filter(|(name, _)| name == "CPUQuotaPerSecUSec")
        .map(|(_, value)| value)
        .collect();
    // 12.345 % is no whole percent: 13 %. What is unified comes last.
    assert_eq!(quotas, [&Value::Uint64(130_000), &Value::Uint64(u64::MAX)]);

    let properties = unit::limit_properties(&limits, false);
    let names: Vec<&str> = properties.iter().map(|(name, _)| &**name).collect();
    assert!(
        names.contains(&"MemoryLimit") && names.contains(&"CPUShares"),
        "{names:?}"
    );
    assert!(
        !names.contains(&"MemoryMax") && !names.contains(&"AllowedCPUs"),
        "{names:?}"
    );
}

#[test]
fn device_rules_become_properties() {
    let policy = Policy::new(&default_device_rules()).unwrap();
    let properties = unit::device_properties(&policy);
    assert_eq!(
        properties[0],
        ("DevicePolicy".into(), Value::string("strict"))
    );
    // First the list that takes back the one before.
    assert_eq!(properties[1].1, Value::Array("(ss)".into(), vec![]));
    let Value::Array(_, allowed) = &properties[2].1 else {
        panic!("{properties:?}");
    };
    let pair = |path: &str, access: &str| {
        Value::Structure(vec![Value::string(path), Value::string(access)])
    };
    for expected in [
        pair("char-*", "m"),
        pair("block-*", "m"),
        pair("/dev/char/1:3", "rwm"),
        pair("char-pts", "rwm"),
    ] {
        assert!(allowed.contains(&expected), "{expected:?} in {allowed:?}");
    }
    let all = Policy {
        allow: true,
        rules: vec![],
    };
    let properties = unit::device_properties(&all);
    assert_eq!(properties[0].1, Value::string("auto"));
}

#[test]
fn annotations_are_read_as_gvariants() {
    for (name, text, expected_name, expected) in [
        (
            "TimeoutStopUSec",
            "uint64 7",
            "TimeoutStopUSec",
            Value::Uint64(7),
        ),
        (
            "TimeoutStopSec",
            "1.5",
            "TimeoutStopUSec",
            Value::Uint64(1_500_000),
        ),
        (
            "TimeoutStopSec",
            "2",
            "TimeoutStopUSec",
            Value::Uint64(2_000_000),
        ),
        (
            "CollectMode",
            "'inactive-or-failed'",
            "CollectMode",
            Value::string("inactive-or-failed"),
        ),
        ("KillSignal", "-15", "KillSignal", Value::Int32(-15)),
        ("SendSIGHUP", "true", "SendSIGHUP", Value::Boolean(true)),
        (
            "After",
            "['a.service', \"b,c\\\"d\"]",
            "After",
            Value::Array(
                "s".into(),
                vec![Value::string("a.service"), Value::string("b,c\"d")],
            ),
        ),
        ("After", "[]", "After", Value::Array("s".into(), vec![])),
    ] {
        let property = parse_property(name, text).unwrap();
        assert_eq!(property, (expected_name.to_owned(), expected), "{text}");
    }
    for (name, text) in [
        ("", "1"),
        ("A b", "1"),
        ("TimeoutStopSec", "'x'"),
        ("TimeoutStopSec", "uint64 99999999999999999999"),
        ("TimeoutStopSec", "uint64 18446744073709551615"),
        ("After", "'a"),
        ("After", "'a' b"),
        ("After", "['a'"),
        ("After", "what"),
        ("After", "uint8 4"),
    ] {
        assert!(parse_property(name, text).is_err(), "{name}: {text}");
    }
}
