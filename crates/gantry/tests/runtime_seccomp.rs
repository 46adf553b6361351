//! `linux.seccomp` of config.json: what a filter of `gantry-runtime` does to a program, and
//! how a listener answers for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[expect(dead_code, reason = "this test program uses a part of it")]
#[path = "runtime_config/bundle.rs"]
mod bundle;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use bundle::Bundle;
use serde_json::{Value, json};
use support::{Installation, text, wait_until};

/// Numbers of x86_64.
const MKDIR: i64 = 83;
const MKDIRAT: i64 = 258;

const EXDEV: i32 = 18;

/// A seccomp agent, ended with this value.
struct Agent {
    child: Child,
    output: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl Agent {
    /// One in a bundle that lets calls fail with `EXDEV`; all others go on.
    fn start(bundle: &Bundle, calls: &[i64]) -> Agent {
        let program = bundle.path.join("agent");
        if !program.exists() {
            let source =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtime_seccomp/agent.c");
            let compiled = Command::new("cc")
                .args(["-O1", "-Wall", "-o"])
                .args([&program, &source])
                .status();
            assert!(compiled.unwrap().success());
        }
        let socket = bundle.path.join("agent.sock");
        let mut child = Command::new(program)
            .arg(&socket)
            .arg(EXDEV.to_string())
            .args(calls.iter().map(ToString::to_string))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Agent {
            child,
            output,
            socket,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What the next container is announced with.
    fn message(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rule(names: &[&str], action: &str) -> Value {
    json!({"names": names, "action": action})
}

/// A profile that allows everything but for these rules.
fn profile(rules: &[Value]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules
    })
}

/// A profile by which an agent is asked about these calls.
fn asking(agent: &Agent, names: &[&str]) -> Value {
    let mut profile = profile(&[rule(names, "SCMP_ACT_NOTIFY")]);
    profile["listenerPath"] = agent.socket.to_str().unwrap().into();
    profile["listenerMetadata"] = "colour=blue".into();
    profile
}

#[test]
fn a_listener_answers_for_a_container() {
    let bundle = Bundle::new();
    let mut agent = Agent::start(&bundle, &[MKDIR, MKDIRAT]);
    for no_new_privileges in [false, true] {
        let said = bundle.says(
            &|config| {
                config["linux"]["seccomp"] = asking(&agent, &["mkdir", "mkdirat"]);
                config["process"]["noNewPrivileges"] = no_new_privileges.into();
                config["annotations"] = json!({"org.example": "yes"});
            },
            "mkdir /tmp/new 2>&1; test -d /tmp/new || echo refused; ls /proc/self/fd | wc -l",
        );
        assert!(said.contains("cross-device"), "{said}");
        // Three streams, and the directory that ls reads: the listener is not among them.
        assert!(said.ends_with("refused\n4"), "{said}");
        let message = agent.message();
        assert_eq!(message["fds"], json!(["seccompFd"]));
        assert_eq!(message["metadata"], "colour=blue");
        assert_eq!(message["ociVersion"], "1.3.0");
        assert!(message["pid"].as_i64().unwrap() > 1);
        let state = &message["state"];
        assert_eq!(state["status"], "creating");
        assert_eq!(state["pid"], message["pid"]);
        assert_eq!(state["annotations"]["org.example"], "yes");
        assert_eq!(state["bundle"], bundle.path.to_str().unwrap());
        assert!(state["id"].as_str().unwrap().starts_with("config-"));
        assert!(agent.line().starts_with("asked "));
    }
}

/// No call is excepted, not even those by which the runtime itself goes on behind the filter:
/// the listener is with the agent before the first of them.
#[test]
fn a_listener_may_be_asked_about_every_call() {
    let every = [
        "read",
        "write",
        "close",
        "close_range",
        "sendmsg",
        "sendto",
        "recvmsg",
        "recvfrom",
        "openat",
        "openat2",
        "fcntl",
        "dup",
        "dup2",
        "dup3",
        "fstat",
        "newfstatat",
        "statx",
        "setresuid",
        "setresgid",
        "setgroups",
        "capset",
        "prctl",
        "umask",
        "fchown",
        "fchdir",
        "getcwd",
        "rt_sigaction",
        "rt_sigprocmask",
        "execve",
        "execveat",
        "mmap",
        "munmap",
        "brk",
        "exit_group",
        "futex",
        "ioctl",
        "poll",
        "getpid",
        "fork",
        "clone",
        "wait4",
    ];
    let bundle = Bundle::new();
    let mut agent = Agent::start(&bundle, &[]);
    for no_new_privileges in [false, true] {
        for uid in [0, 1000] {
            let edit = |config: &mut Value| {
                config["linux"]["seccomp"] = asking(&agent, &every);
                config["process"]["noNewPrivileges"] = no_new_privileges.into();
                config["process"]["user"]["uid"] = uid.into();
            };
            assert_eq!(bundle.says(&edit, "id -u"), uid.to_string());
            agent.message();
        }
    }
}

/// `create` hands the listener over although `start` comes later, perhaps never; an exec has
/// one of its own.
#[test]
fn create_start_and_exec_hand_their_listeners_over() {
    let bundle = Bundle::new();
    let mut agent = Agent::start(&bundle, &[MKDIR, MKDIRAT]);
    let id = format!("seccomp-{}", std::process::id());
    bundle.configure(
        &|config| {
            let names = ["mkdir", "mkdirat", "write", "openat"];
            config["linux"]["seccomp"] = asking(&agent, &names);
            config["process"]["user"]["uid"] = 1000.into();
            config["process"]["capabilities"] = json!({});
        },
        "mkdir /tmp/new; echo made $?; exec sleep 1000",
    );
    let output = bundle.path.join("output");
    let file = std::fs::File::create(&output).unwrap();
    let ok = |words: &[&str], out: Stdio| {
        let mut command = bundle.command(words);
        let done = command.stdout(out).stderr(Stdio::inherit()).status();
        assert!(done.unwrap().success(), "{words:?}");
    };
    ok(&["create", &id], file.into());
    let message = agent.message();
    assert_eq!(message["state"]["status"], "creating");
    let state = bundle.command(&["state", &id]).output().unwrap();
    let state: Value = serde_json::from_slice(&state.stdout).unwrap();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], message["pid"]);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "");
    ok(&["start", &id], Stdio::null());
    wait_until("the program has tried", || {
        std::fs::read_to_string(&output).unwrap() == "made 1\n"
    });
    assert!(agent.line().starts_with("asked "));
    let exec = bundle
        .command(&["exec", &id, "mkdir", "/tmp/other"])
        .output()
        .unwrap();
    assert_eq!(exec.status.code(), Some(1), "{}", text(&exec.stderr));
    let second = agent.message();
    assert_eq!(second["state"]["status"], "running");
    assert_eq!(second["state"]["pid"], message["pid"]);
    assert_ne!(second["pid"], message["pid"]);
    ok(&["delete", "--force", &id], Stdio::null());

    // A program that is not there is told of by create, as without a listener.
    bundle.configure(
        &|config| {
            config["linux"]["seccomp"] = asking(&agent, &["mkdir"]);
            config["process"]["args"] = json!(["no-such-program"]);
        },
        "",
    );
    let failed = bundle.command(&["create", &id]).output().unwrap();
    let error = text(&failed.stderr);
    assert!(
        error.contains("executable file not found in $PATH"),
        "{error}"
    );
}

/// In a user namespace too, whose processes the agent sees with the host's numbers.
#[test]
fn a_listener_answers_for_a_user_namespace() {
    let bundle = Bundle::new();
    bundle.give_root_to(100_000);
    let mut agent = Agent::start(&bundle, &[MKDIR, MKDIRAT]);
    let said = bundle.says(
        &|config| {
            config["linux"]["seccomp"] = asking(&agent, &["mkdir", "mkdirat", "write"]);
            bundle::map_users(config, 100_000);
        },
        "mkdir /tmp/new 2>&1; id -u",
    );
    assert!(
        said.contains("cross-device") && said.ends_with('0'),
        "{said}"
    );
    agent.message();
}

/// Containers and execs of the engine have listeners as those of the runtime have.
#[test]
fn a_listener_answers_for_a_container_of_the_engine() {
    let bundle = Bundle::new();
    let installation = Installation::with_busybox();
    let mut agent = Agent::start(&bundle, &[MKDIR, MKDIRAT]);
    let file = bundle.path.join("profile.json");
    let names = ["mkdir", "mkdirat", "sendto", "sendmsg", "write", "close"];
    std::fs::write(&file, asking(&agent, &names).to_string()).unwrap();
    let option = format!("seccomp={}", file.display());
    let script = "mkdir /new; echo made $?; exec sleep 1000";
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "--network",
        "none",
        "--security-opt",
        &option,
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let message = agent.message();
    assert_eq!(message["state"]["status"], "creating");
    assert_eq!(message["state"]["pid"], message["pid"]);
    wait_until("the program has tried", || {
        installation.ok(&["logs", "one"]).contains("made 1")
    });
    assert!(agent.line().starts_with("asked "));
    installation.fails(1, &["exec", "one", "mkdir", "/other"]);
    let second = agent.message();
    assert_eq!(second["state"]["status"], "running");
    assert_eq!(second["state"]["id"], message["state"]["id"]);
    assert_ne!(second["pid"], message["pid"]);
    drop(agent);
    let error = installation.fails(
        125,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--security-opt",
            &option,
            "busybox",
            "true",
        ],
    );
    assert!(
        error.contains("cannot send the seccomp listener"),
        "{error}"
    );
    installation.ok(&["rm", "-f", "one"]);
    installation.assert_clean();
}

/// Without an agent nothing runs: neither unfiltered nor stuck.
#[test]
fn a_container_without_its_agent_does_not_start() {
    let bundle = Bundle::new();
    let path = bundle.file("agent.sock");
    let with = |rules: &[Value], path: Option<&str>| {
        let mut profile = profile(rules);
        profile["listenerPath"] = path.into();
        profile
    };
    let notify = [rule(&["mkdir"], "SCMP_ACT_NOTIFY")];
    for (profile, expected) in [
        (
            with(&notify, Some(&path)),
            "cannot send the seccomp listener",
        ),
        (with(&notify, None), "needs a listenerPath"),
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": path}),
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "listenerMetadata",
        ),
    ] {
        let error = bundle.refused(&|config| config["linux"]["seccomp"] = profile.clone());
        assert!(error.contains(expected), "{error}");
    }
    // The path is ignored where nothing asks.
    let unused = with(&[], Some(&path));
    let edit = |config: &mut Value| config["linux"]["seccomp"] = unused.clone();
    assert_eq!(bundle.says(&edit, "echo runs"), "runs");
}

/// An agent that dies leaves its containers with calls that are not there.
#[test]
fn calls_fail_once_their_agent_has_died() {
    let bundle = Bundle::new();
    let mut agent = Agent::start(&bundle, &[]);
    bundle.configure(
        &|config| config["linux"]["seccomp"] = asking(&agent, &["mkdir", "mkdirat"]),
        "mkdir /tmp/one && echo made; read -r end; mkdir /tmp/two 2>&1",
    );
    let id = format!("seccomp-orphan-{}", std::process::id());
    let mut child = bundle
        .command(&["run", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "made\n");
    agent.message();
    drop(agent);
    child.stdin.take().unwrap().write_all(b"end\n").unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("Function not implemented"), "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// Every action, as the program sees it.
#[test]
fn every_action_does_what_it_says() {
    let bundle = Bundle::new();
    let errno = |action: &str, number: Option<u32>| {
        let mut rule = rule(&["mkdir", "mkdirat"], action);
        if let Some(number) = number {
            rule["errnoRet"] = number.into();
        }
        rule
    };
    const SIGSYS: i32 = 31;
    for (rule, expected) in [
        (
            errno("SCMP_ACT_ERRNO", None),
            Some("Operation not permitted"),
        ),
        (errno("SCMP_ACT_ERRNO", Some(95)), Some("not supported")),
        // Nobody traces.
        (
            errno("SCMP_ACT_TRACE", None),
            Some("Function not implemented"),
        ),
        (errno("SCMP_ACT_LOG", None), Some("made")),
        (errno("SCMP_ACT_ALLOW", None), Some("made")),
        (errno("SCMP_ACT_TRAP", None), None),
        (errno("SCMP_ACT_KILL", None), None),
        (errno("SCMP_ACT_KILL_THREAD", None), None),
        (errno("SCMP_ACT_KILL_PROCESS", None), None),
    ] {
        let profile = profile(std::slice::from_ref(&rule));
        let edit = |config: &mut Value| config["linux"]["seccomp"] = profile.clone();
        let output = bundle.run(&edit, "mkdir /tmp/new 2>&1 && echo made; echo $?");
        let said = text(&output.stdout);
        match expected {
            Some(expected) => assert!(said.contains(expected), "{rule}: {said}"),
            None => assert!(
                said.ends_with(&(128 + SIGSYS).to_string()),
                "{rule}: {said}"
            ),
        }
        let _ = std::fs::remove_dir(bundle.root().join("tmp/new"));
    }
}

/// Flags reach the kernel, alone and together, also that which only goes with a listener.
#[test]
fn every_flag_is_taken() {
    let bundle = Bundle::new();
    let agent = Agent::start(&bundle, &[]);
    let flags = ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"]
        .map(|flag| format!("SECCOMP_FILTER_FLAG_{flag}"));
    let lists = flags.iter().map(|flag| vec![flag.clone()]);
    for list in lists.chain([Vec::new(), flags.to_vec()]) {
        for mut profile in [profile(&[]), asking(&agent, &["mkdir"])] {
            profile["flags"] = json!(list);
            let edit = |config: &mut Value| config["linux"]["seccomp"] = profile.clone();
            assert_eq!(
                bundle.says(&edit, "grep ^Seccomp: /proc/self/status"),
                "Seccomp:\t2"
            );
        }
    }
}

/// B05, GHSA-7236-3392-c5c6: a word that is unknown is an error, and never no filter.
#[test]
fn unknown_words_do_not_switch_the_filter_off() {
    let bundle = Bundle::new();
    let with_args = |args: Value| {
        let mut rule = rule(&["mkdir"], "SCMP_ACT_ERRNO");
        rule["args"] = json!([args]);
        profile(&[rule])
    };
    for profile in [
        json!({}),
        json!({"defaultAction": ""}),
        json!({"defaultAction": "SCMP_ACT_MAYBE"}),
        json!({"defaultAction": 2}),
        json!({"defaultAction": "scmp_act_allow"}),
        profile(&[rule(&["mkdir"], "")]),
        profile(&[json!({"names": ["mkdir"]})]),
        with_args(json!({"index": 0, "value": 1, "op": "SCMP_CMP_ISH"})),
        with_args(json!({"index": 6, "value": 1, "op": "SCMP_CMP_EQ"})),
        with_args(json!({"index": -1, "value": 1, "op": "SCMP_CMP_EQ"})),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536}),
    ] {
        bundle.refused(&|config| config["linux"]["seccomp"] = profile.clone());
    }
}

/// X5: a profile that hides the newer calls, as older engines' do, stops no birth.
#[test]
fn births_do_without_newer_calls_behind_the_filter() {
    let bundle = Bundle::new();
    let mut older = rule(
        &[
            "openat2",
            "close_range",
            "clone3",
            "statx",
            "faccessat2",
            "pidfd_open",
            "pidfd_getfd",
            "execveat",
            "fsopen",
            "fsmount",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "renameat2",
            "memfd_create",
            "rseq",
        ],
        "SCMP_ACT_ERRNO",
    );
    for errno in [1, 38] {
        older["errnoRet"] = errno.into();
        for no_new_privileges in [false, true] {
            let edit = |config: &mut Value| {
                config["linux"]["seccomp"] = profile(std::slice::from_ref(&older));
                config["process"]["noNewPrivileges"] = no_new_privileges.into();
            };
            assert_eq!(bundle.says(&edit, "echo runs"), "runs", "error {errno}");
        }
    }
}
