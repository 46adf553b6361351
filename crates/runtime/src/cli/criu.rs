//! What `checkpoint` and `restore` share: the `criu` program and its command line.
//!
//! What runc does by criu's RPC is done by flags where there are such flags. There is none
//! for the master of a terminal, which criu's client has to be handed while it works:
//! containers with a terminal are refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_runtime::spec::{Linux, NamespaceKind, Spec};

use super::arguments::{Arguments, Flag};
use super::error::{CliError, Context as _};
use super::options::{Global, absolute};
use super::state::Place;

/// What the standard streams led to, beside the images; runc's name and form.
pub const DESCRIPTORS: &str = "descriptors.json";

/// What the images call the network namespace that the container has not made; runc's name.
pub const NETWORK: &str = "extRootNetNS";

/// Flags that both commands have.
#[derive(Debug)]
pub struct Options {
    pub images: PathBuf,
    pub work: Option<PathBuf>,
    pub parent: Option<PathBuf>,
    /// Address and port of a `criu page-server`.
    pub page_server: Option<(String, String)>,
    pub leave_running: bool,
    pub pre_dump: bool,
    pub cgroups: String,
    /// Flags that criu takes as they are.
    pub plain: Vec<String>,
}

impl Options {
    pub fn new() -> Result<Options, CliError> {
        Ok(Options {
            images: absolute("checkpoint".into())?,
            work: None,
            parent: None,
            page_server: None,
            leave_running: false,
            pre_dump: false,
            cgroups: "soft".into(),
            plain: Vec::new(),
        })
    }

    /// Takes a flag, or gives it back.
    pub fn take(&mut self, flag: Flag, words: &mut Arguments) -> Result<Option<Flag>, CliError> {
        match flag.name() {
            "image-path" => self.images = absolute(words.value(flag)?)?,
            "work-path" => self.work = Some(absolute(words.value(flag)?)?),
            "tcp-established" | "ext-unix-sk" | "shell-job" | "file-locks" | "auto-dedup" => {
                let name = format!("--{}", flag.name());
                if flag.switch()? {
                    self.plain.push(name);
                }
            }
            "lsm-profile" | "lsm-mount-context" => {
                let name = format!("--{}", flag.name());
                self.plain.extend([name, words.value(flag)?]);
            }
            "empty-ns" => {
                let value = words.value(flag)?;
                if value != "network" {
                    return Err(CliError::Usage(format!(
                        "namespace {value:?} cannot be left empty: only network can"
                    )));
                }
                self.plain.extend(["--empty-ns".into(), "net".into()]);
            }
            "manage-cgroups-mode" => {
                let value = words.value(flag)?;
                if !matches!(&*value, "soft" | "full" | "strict" | "ignore") {
                    return Err(CliError::Usage(format!(
                        "invalid mode {value:?}: soft, full, strict and ignore are known"
                    )));
                }
                self.cgroups = value;
            }
            "lazy-pages" | "status-fd" => {
                return Err(CliError::Usage(format!(
                    "--{} is not supported",
                    flag.name()
                )));
            }
            _ => return Ok(Some(flag)),
        }
        Ok(None)
    }

    /// Where criu works and logs.
    pub fn work(&self, place: &Place) -> PathBuf {
        self.work
            .clone()
            .unwrap_or_else(|| place.path.join("criu.work"))
    }
}

/// Refuses what criu's command line cannot do.
pub fn check(spec: &Spec) -> Result<(), CliError> {
    if spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal)
    {
        return Err(CliError::Invalid(
            "a container with a terminal cannot be checkpointed or restored".into(),
        ));
    }
    let namespaces = spec
        .linux
        .iter()
        .flat_map(|linux: &Linux| &linux.namespaces);
    for namespace in namespaces {
        let is_joined = namespace
            .path
            .as_deref()
            .is_some_and(|path| !path.is_empty());
        let is_known = matches!(
            namespace.kind,
            NamespaceKind::Cgroup | NamespaceKind::Network
        );
        if is_joined && !is_known {
            return Err(CliError::Invalid(format!(
                "a container that has joined a {} namespace by path cannot be checkpointed or \
                 restored",
                namespace.kind.name()
            )));
        }
    }
    Ok(())
}

/// The network namespace that the container has joined by path.
pub fn joined_network(spec: &Spec) -> Option<&str> {
    let namespaces = spec.linux.iter().flat_map(|linux| &linux.namespaces);
    namespaces
        .filter(|namespace| namespace.kind == NamespaceKind::Network)
        .find_map(|namespace| namespace.path.as_deref())
        .filter(|path| !path.is_empty())
}

pub fn command(global: &Global, action: &str, options: &Options, work: &Path) -> Command {
    let mut command = Command::new(&global.criu);
    command
        .arg(action)
        .arg("--images-dir")
        .arg(&options.images)
        .arg("--work-dir")
        .arg(work)
        .arg("--log-file")
        .arg(format!("{action}.log"))
        .arg("-v4")
        .arg(format!("--manage-cgroups={}", options.cgroups))
        .args(&options.plain);
    command
}

pub fn finish(mut command: Command, action: &str, work: &Path) -> Result<(), CliError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().file("run", &program)?;
    if status.success() {
        return Ok(());
    }
    let log = work.join(format!("{action}.log"));
    let text = fs::read_to_string(&log).unwrap_or_default();
    let cause = causes(&text).map_or(String::new(), |line| format!(": {line}"));
    Err(CliError::Program {
        program: format!("{program} {action}"),
        status,
        detail: format!("{cause}; more in {}", log.display()),
    })
}

/// What a log of criu names as the reason: its last two errors, of which the first is the
/// nearer one, before those that only say that all has failed. Still earlier ones are often of
/// things that it can do without.
fn causes(log: &str) -> Option<String> {
    let says_more = |line: &&str| !line.contains("exited, status=") && !line.ends_with("FAILED.");
    let errors = log.lines().filter(|line| line.contains("Error ("));
    let mut errors = errors.map(str::trim).filter(says_more);
    let last = errors.next_back()?;
    Some(match errors.next_back() {
        Some(nearer) => format!("{nearer}; {last}"),
        None => last.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::causes;

    #[test]
    fn the_reason_is_found_among_lesser_errors() {
        let log = "(00.80) Error (criu/util.c:642): exited, status=1\n\
            (00.99) Error (criu/tun.c:85): tun: Unable to create tun\n\
            (02.63) Error (criu/files-reg.c:1710): Can't lookup mount=26\n\
            (02.64) Warn  (criu/net.c:1): nothing\n\
            (02.65) Error (criu/cr-dump.c:1635): Dump files failed\n\
            (02.65) Error (criu/util.c:642): exited, status=1\n\
            (02.66) Error (criu/cr-dump.c:2053): Dumping FAILED.\n";
        assert_eq!(
            causes(log).as_deref(),
            Some(
                "(02.63) Error (criu/files-reg.c:1710): Can't lookup mount=26; \
                 (02.65) Error (criu/cr-dump.c:1635): Dump files failed"
            )
        );
        assert_eq!(causes("Error (x): y\n").as_deref(), Some("Error (x): y"));
        assert_eq!(causes("(00.1) Warn (x): Error\n"), None);
    }
}
