//! `gantry-runtime`: an OCI runtime on the command line. So far `run`, `spec` and
//! `--version`; see docs/gaps.md.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gantry_runtime::birth::{News, Plan, Stdio, begin, default_mounts};
use gantry_runtime::cgroup::{Group, Layout, default_device_rules};
use gantry_runtime::rootfs::RootSource;
use gantry_runtime::spec::{
    Capabilities, Linux, Namespace, NamespaceKind, OCI_VERSION, Process, Resources, Root, Spec,
};
use gantry_runtime::{BirthError, capabilities};
use rustix::process::{WaitId, WaitIdOptions};

const HELP: &str = "\
Usage: gantry-runtime COMMAND

Commands:
  run [--bundle DIR] ID   run the container that DIR/config.json describes
  spec                    write a config.json into the current directory

Options:
  --root DIR              accepted for runc's sake
  --version               show the versions of the program and the specification";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Nothing is kept between calls yet, so there is nothing to put there.
    if let ["--root", _, ..] = words[..] {
        words.drain(..2);
    }
    let result = match words[..] {
        ["--version" | "-v"] => {
            println!(
                "gantry-runtime version {}\nspec: {OCI_VERSION}",
                env!("CARGO_PKG_VERSION")
            );
            Ok(0)
        }
        ["--help" | "-h"] => {
            println!("{HELP}");
            Ok(0)
        }
        ["spec"] => write_spec().map(|()| 0),
        ["run", id] => run(Path::new("."), id),
        ["run", "--bundle" | "-b", bundle, id] => run(Path::new(bundle), id),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("gantry-runtime: {}", error.chain());
            ExitCode::from(error.exit_code() as u8)
        }
    }
}

fn failed(step: String, source: impl Into<std::io::Error>) -> BirthError {
    BirthError::Step {
        step,
        source: source.into(),
    }
}

/// Runs a bundle to its end and returns the exit code by the shell's convention.
fn run(bundle: &Path, id: &str) -> Result<u8, BirthError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id == "." || id == ".." || !id.bytes().all(plain) {
        return Err(BirthError::Invalid(format!("invalid container id {id:?}")));
    }
    let file = bundle.join("config.json");
    let text = fs::read(&file)
        .map_err(|error| failed(format!("cannot read {}", file.display()), error))?;
    let spec: Spec = serde_json::from_slice(&text)
        .map_err(|error| BirthError::Invalid(format!("{}: {error}", file.display())))?;
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| BirthError::Invalid("the configuration names no root".into()))?;
    let directory = fs::canonicalize(bundle.join(&root.path))
        .map_err(|error| failed(format!("cannot find the root {:?}", root.path), error))?;
    let invalid = |error: &dyn std::error::Error| BirthError::Invalid(error.to_string());
    let layout = Layout::detect().map_err(|error| invalid(&error))?;
    let linux = spec.linux.clone().unwrap_or_default();
    let path = if linux.cgroups_path.is_empty() {
        format!("gantry-runtime/{id}")
    } else {
        linux.cgroups_path.trim_start_matches('/').to_owned()
    };
    let group = Group::create(&layout, &path).map_err(|error| invalid(&error))?;
    let ended = run_in(&spec, directory, &layout, &group, linux.resources.as_ref());
    let _ = group.kill();
    let _ = group.remove();
    ended
}

fn run_in(
    spec: &Spec,
    directory: PathBuf,
    layout: &Layout,
    group: &Group,
    resources: Option<&Resources>,
) -> Result<u8, BirthError> {
    let no_limits = Resources::default();
    let warnings = group
        .apply(resources.unwrap_or(&no_limits))
        .map_err(|error| BirthError::Invalid(error.to_string()))?;
    for warning in warnings {
        eprintln!("gantry-runtime: warning: {warning}");
    }
    let duplicate = |fd: &dyn std::os::fd::AsFd| -> Result<OwnedFd, BirthError> {
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|error| failed("cannot pass a standard stream on".into(), error))
    };
    let stdio = [
        duplicate(&std::io::stdin())?,
        duplicate(&std::io::stdout())?,
        duplicate(&std::io::stderr())?,
    ];
    let mut inside = |_: std::os::fd::BorrowedFd<'_>| Ok(());
    let birth = begin(Plan {
        spec,
        root: &RootSource::Directory(directory),
        user: None,
        layout,
        group: Some(group),
        stdio: Stdio::Plain(stdio),
        joined: Vec::new(),
        init: false,
        inside: &mut inside,
    })?;
    loop {
        match birth.news() {
            News::Warning(text) => eprintln!("gantry-runtime: warning: {text}"),
            News::Prepared => birth.give_the_word()?,
            News::Running => break,
            News::Failed(error) => return Err(error),
            News::Terminal(_) => {}
        }
    }
    let status = rustix::process::waitid(
        WaitId::PidFd(std::os::fd::AsFd::as_fd(&birth.pidfd)),
        WaitIdOptions::EXITED,
    )
    .map_err(|errno| failed("cannot wait for the container".into(), errno))?;
    let code = status.map_or(255, |status| {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        }
    });
    Ok(code as u8)
}

/// Writes a configuration to begin with.
fn write_spec() -> Result<(), BirthError> {
    let names = capabilities::CapabilitySet::DEFAULT.names();
    let namespace = |kind| Namespace { kind, path: None };
    let spec = Spec {
        oci_version: OCI_VERSION.into(),
        process: Some(Process {
            args: vec!["sh".into()],
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            cwd: "/".into(),
            capabilities: Some(Capabilities {
                bounding: names.clone(),
                effective: names.clone(),
                permitted: names,
                ..Capabilities::default()
            }),
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root {
            path: "rootfs".into(),
            readonly: false,
        }),
        hostname: "gantry".into(),
        mounts: default_mounts(64 << 20),
        linux: Some(Linux {
            namespaces: [
                NamespaceKind::Pid,
                NamespaceKind::Network,
                NamespaceKind::Ipc,
                NamespaceKind::Uts,
                NamespaceKind::Mount,
                NamespaceKind::Cgroup,
            ]
            .map(namespace)
            .into(),
            resources: Some(Resources {
                devices: default_device_rules(),
                ..Resources::default()
            }),
            ..Linux::default()
        }),
        ..Spec::default()
    };
    let text = serde_json::to_string_pretty(&spec)
        .map_err(|error| BirthError::Invalid(error.to_string()))?;
    // Never over a file that is there.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open("config.json")
        .map_err(|error| failed("cannot make config.json".into(), error))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .map_err(|error| failed("cannot write config.json".into(), error))
}
