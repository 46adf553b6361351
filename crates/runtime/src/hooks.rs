//! Hooks: programs of the administrator's that are run at points of a container's life
//! (runtime-spec, config.md, "POSIX-platform Hooks").

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Serialize;

use crate::error::{BirthError, Step};
use crate::spec::{Hook, Hooks, OCI_VERSION};

/// The part of what a hook says that is shown when it fails, in bytes.
const SHOWN: u64 = 2048;

/// Hooks of a birth, and what they are told.
#[derive(Clone, Copy, Debug)]
pub struct HookPlan<'a> {
    /// The hooks.
    pub hooks: &'a Hooks,
    /// The container, as hooks see it.
    pub state: HookState<'a>,
}

/// What a hook is told of the container, besides its status and process.
#[derive(Clone, Copy, Debug)]
pub struct HookState<'a> {
    /// Id of the container.
    pub id: &'a str,
    /// Absolute path of the bundle.
    pub bundle: &'a Path,
    /// Annotations of the configuration.
    pub annotations: &'a BTreeMap<String, String>,
}

impl HookState<'_> {
    /// The state in JSON (runtime-spec, runtime.md, "State"); without a process once it is
    /// stopped.
    ///
    /// # Errors
    /// [`BirthError::Invalid`] where a path is not UTF-8.
    pub fn json(&self, status: &str, pid: Option<i32>) -> Result<String, BirthError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct State<'a> {
            oci_version: &'a str,
            id: &'a str,
            status: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            pid: Option<i32>,
            bundle: &'a Path,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            annotations: &'a BTreeMap<String, String>,
        }
        let state = State {
            oci_version: OCI_VERSION,
            id: self.id,
            status,
            pid,
            bundle: self.bundle,
            annotations: self.annotations,
        };
        serde_json::to_string(&state)
            .map_err(|error| BirthError::Invalid(format!("cannot write the state: {error}")))
    }
}

/// Runs hooks one after the other, the state on their standard input, up to the first that
/// fails.
///
/// A hook gets no environment but its own and no working directory of the container's or
/// the caller's (CVE-2024-0132, CVE-2025-23266: a library path of an image reached hooks).
///
/// # Errors
/// [`BirthError::Step`] where a hook cannot be run; [`BirthError::Invalid`], with the end of
/// what it has said, where it fails or is killed at its timeout.
pub fn run(hooks: &[Hook], state: &str) -> Result<(), BirthError> {
    for hook in hooks {
        run_one(hook, state)?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str) -> Result<(), BirthError> {
    let failed = || format!("cannot run hook {}", hook.path);
    // Files and not pipes: nobody waits for a hook that does not read its input, or that
    // says more than a pipe holds.
    let mut input = memory_file().step(failed)?;
    input.write_all(state.as_bytes()).step(failed)?;
    input.rewind().step(failed)?;
    let mut output = memory_file().step(failed)?;
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    let environment = hook
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='));
    let mut child = command
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output.try_clone().step(failed)?))
        .stderr(Stdio::from(output.try_clone().step(failed)?))
        .spawn()
        .step(failed)?;
    let end = wait(&mut child, hook.timeout);
    let mut said = || last_words(&mut output);
    match end.step(failed)? {
        None => Err(BirthError::Invalid(format!(
            "hook {} was killed: it took longer than {} s{}",
            hook.path,
            hook.timeout.unwrap_or_default(),
            said()
        ))),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(BirthError::Invalid(format!(
            "hook {} failed: {status}{}",
            hook.path,
            said()
        ))),
    }
}

fn memory_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?.into())
}

/// Waits for the end of a hook; `None` after its timeout, when it and its children in the
/// same process group have been killed.
fn wait(child: &mut Child, timeout: Option<i64>) -> io::Result<Option<std::process::ExitStatus>> {
    let Some(seconds) = timeout else {
        return child.wait().map(Some);
    };
    let pid = Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => break,
            Ok(_) => return child.wait().map(Some),
        }
    }
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    child.wait()?;
    Ok(None)
}

/// The end of what a hook has said, for an error.
fn last_words(output: &mut File) -> String {
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let mut said = Vec::new();
    let _ = output.seek(io::SeekFrom::Start(length.saturating_sub(SHOWN)));
    let _ = output.take(SHOWN).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    match said.trim() {
        "" => String::new(),
        said => format!(": {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["GIVEN=yes".into()],
            timeout: Some(5),
        }
    }

    #[test]
    fn a_hook_reads_the_state_and_has_nothing_of_ours() {
        let annotations = [("a".to_owned(), "b".to_owned())].into();
        let state = HookState {
            id: "one",
            bundle: Path::new("/bundle"),
            annotations: &annotations,
        };
        let state = state.json("creating", Some(7)).unwrap();
        assert_eq!(
            state,
            format!(
                "{{\"ociVersion\":\"{OCI_VERSION}\",\"id\":\"one\",\"status\":\"creating\",\
                 \"pid\":7,\"bundle\":\"/bundle\",\"annotations\":{{\"a\":\"b\"}}}}"
            )
        );
        // R48, CVE-2024-0132, CVE-2025-23266.
        let script = format!(
            "test \"$(cat)\" = '{state}' && test \"$(pwd)\" = / && test $GIVEN = yes \
             && test \"$(env | grep -c ^HOME=)\" = 0"
        );
        run(&[hook(&script)], &state).unwrap();
    }

    #[test]
    fn the_first_failure_ends_the_row_with_the_hooks_own_words() {
        let marker = std::env::temp_dir().join(format!("gantry-hook-{}", std::process::id()));
        let hooks = [
            hook("echo why >&2; exit 3"),
            hook(&format!("touch {}", marker.display())),
        ];
        let error = run(&hooks, "{}").unwrap_err().to_string();
        assert_eq!(error, "hook /bin/sh failed: exit status: 3: why");
        assert!(!marker.exists());
    }

    #[test]
    fn a_hook_is_killed_at_its_timeout_with_its_children() {
        let started = Instant::now();
        let mut slow = hook("sleep 60 & sleep 60");
        slow.timeout = Some(1);
        let error = run(&[slow], "{}").unwrap_err().to_string();
        assert!(error.contains("longer than 1 s"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
        // One that reads nothing of a state larger than a pipe does not block either.
        run(&[hook("exit 0")], &"x".repeat(1 << 20)).unwrap();
    }
}
