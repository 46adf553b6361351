//! The surroundings of a benchmark: one cgroup view, a network of its own, a
//! bundle, an image, and the floor program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::json;

use super::families;
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

/// Which cgroup file systems a benchmark sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The hierarchies of version 1 and no unified one.
    V1,
    /// Version 2 at /sys/fs/cgroup and nothing else.
    V2,
}

impl View {
    /// What this machine manages its resources with.
    pub fn default_here() -> Self {
        let controls = |mount: &Mount| mount.kind == "cgroup" && !mount.options.contains("name=");
        if mounts().is_ok_and(|mounts| mounts.iter().any(controls)) {
            Self::V1
        } else {
            Self::V2
        }
    }

    /// The file system's type.
    fn kind(self) -> &'static str {
        match self {
            Self::V1 => "cgroup",
            Self::V2 => "cgroup2",
        }
    }

    /// For a heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "cgroup v1 alone",
            Self::V2 => "cgroup v2 alone",
        }
    }
}

/// One line of mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    options: String,
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut tail = after.split(' ');
            let kind = tail.next()?.to_owned();
            let options = tail.nth(1)?.to_owned();
            let point = before.split(' ').nth(4)?.to_owned();
            Some(Mount {
                point,
                kind,
                options,
            })
        })
        .collect()
}

/// The run as the outer process sees it: what must be gone at the end.
pub struct Outside {
    /// Everything of this run lies here.
    pub directory: PathBuf,
    /// One cgroup in each hierarchy of the view; every cgroup of the run is
    /// below them, and nobody else's is.
    groups: Vec<PathBuf>,
}

impl Outside {
    /// Makes the directory with the product's binaries, the root file system
    /// and the floor program in it, and the cgroups.
    pub fn make(workspace: &Workspace, rootfs: &Path, view: View) -> Result<Self> {
        families::adopt_orphans()?;
        let directory = workspace
            .target
            .join(format!("bench/{}", std::process::id()));
        let groups = mounts()?
            .into_iter()
            .filter(|found| found.kind == view.kind())
            .map(|found| Path::new(&found.point).join(format!("xtask-{}", std::process::id())))
            .collect();
        let run = Self { directory, groups };
        let made = run.fill(workspace, rootfs);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = run.tidy();
        }
        made.map(|()| run)
    }

    /// A command that becomes `program` in the cgroups of this run and in
    /// mount, network and cgroup namespaces of its own. The cgroup namespace
    /// comes last, so that these cgroups are its roots.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-ec")
            .arg(
                "while [ \"$1\" != -- ]; do echo $$ >\"$1/cgroup.procs\"; shift; done\n\
                 shift\n\
                 exec unshare --mount --net --cgroup --propagation private -- \"$@\"",
            )
            .arg("sh")
            .args(&self.groups)
            .arg("--")
            .arg(program);
        command
    }

    fn fill(&self, workspace: &Workspace, archive: &Path) -> Result<()> {
        for group in &self.groups {
            fs::create_dir(group).map_err(Error::at("create", group))?;
            // Version 1 lets nobody into a group without processors and nodes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let (from, to) = (group.join("..").join(file), group.join(file));
                if let Ok(value) = fs::read(&from)
                    && fs::read(&to).is_ok_and(|own| own.trim_ascii().is_empty())
                {
                    fs::write(&to, value).map_err(Error::at("write", &to))?;
                }
            }
        }
        let rootfs = self.directory.join("rootfs");
        for directory in [
            &rootfs,
            &self.directory.join("run"),
            &self.directory.join("scratch"),
        ] {
            fs::create_dir_all(directory).map_err(Error::at("create", directory))?;
        }
        process::quietly(
            Command::new("tar")
                .arg("--extract")
                .arg("--file")
                .arg(archive)
                .arg("--directory")
                .arg(&rootfs),
        )?;
        let link = self.directory.join("rootfs.tar");
        let archive = fs::canonicalize(archive).map_err(Error::at("find", archive))?;
        std::os::unix::fs::symlink(&archive, &link).map_err(Error::at("link", &link))?;
        let link = self.directory.join("bin");
        std::os::unix::fs::symlink(&workspace.release, &link).map_err(Error::at("link", &link))?;
        let source = self.directory.join("floor.c");
        fs::write(&source, include_str!("floor.c")).map_err(Error::at("write", &source))?;
        process::quietly(
            Command::new("cc")
                .args(["-O2", "-static", "-Wall", "-o"])
                .arg(self.directory.join("floor"))
                .arg(&source),
        )
    }

    /// Ends what is left of the run and removes its files and cgroups.
    pub fn tidy(&self) -> Result<()> {
        families::end_all();
        for group in &self.groups {
            let mut left: Vec<PathBuf> = groups_below(group).into_iter().collect();
            // Children before their parents.
            left.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
            left.push(group.clone());
            for path in left {
                match fs::remove_dir(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        eprintln!("warning: cannot remove {}: {error}", path.display());
                    }
                    _ => {}
                }
            }
        }
        fs::remove_dir_all(&self.directory).map_err(Error::at("remove", &self.directory))
    }
}

/// The surroundings as the measuring process sees them.
#[derive(Clone)]
pub struct Stage {
    /// Everything of this run lies here; `run` in it is a tmpfs.
    pub directory: PathBuf,
    view: View,
    /// The cgroups when the last preparation ended.
    cgroups: BTreeSet<PathBuf>,
}

/// The image that the busybox root file system becomes.
pub const IMAGE: &str = "bench:latest";

/// Sets up the mounts and the network of this process, which must have
/// namespaces of its own for both.
pub fn enter(directory: PathBuf, view: View) -> Result<Stage> {
    families::adopt_orphans()?;
    // A sleep of 20 µs then takes 20 µs and not 70.
    let slack = std::num::NonZeroU64::MIN;
    rustix::thread::set_current_timer_slack(Some(slack)).map_err(failed("set the timer slack"))?;
    process::quietly(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    // The run root is on a tmpfs, as /run is.
    let run = directory.join("run");
    mount("tmpfs", &run, "tmpfs", "mode=755")?;
    // So is that of the peers, as on every machine that was started by systemd.
    mount("tmpfs", Path::new("/run"), "tmpfs", "mode=755")?;
    arrange(view)?;
    Ok(Stage {
        directory,
        view,
        cgroups: cgroups(),
    })
}

/// Replaces everything below /sys: a sysfs of this network namespace, and on
/// it the cgroup file systems of the view and no others, with this process's
/// cgroups as their roots. A mount that is only hidden would still be listed
/// in mountinfo, where the peers look.
fn arrange(view: View) -> Result<()> {
    let mounts = mounts()?;
    for found in mounts.iter().rev() {
        if found.point == "/sys" || found.point.starts_with("/sys/") {
            rustix::mount::unmount(&found.point, UnmountFlags::DETACH)
                .map_err(failed("unmount what is below /sys"))?;
        }
    }
    mount("sysfs", Path::new("/sys"), "sysfs", "")?;
    let root = Path::new("/sys/fs/cgroup");
    if view == View::V2 {
        mount("cgroup2", root, "cgroup2", "")?;
        // Only a group without processes of its own can pass controllers on.
        let own = root.join("self");
        fs::create_dir(&own).map_err(Error::at("create", &own))?;
        let members = own.join("cgroup.procs");
        return fs::write(&members, "0").map_err(Error::at("write", &members));
    }
    mount("tmpfs", root, "tmpfs", "mode=755")?;
    let hierarchies: Vec<&Mount> = mounts
        .iter()
        .filter(|found| found.kind == "cgroup")
        .collect();
    for found in &hierarchies {
        let point = Path::new(&found.point);
        fs::create_dir_all(point).map_err(Error::at("create", point))?;
        mount("cgroup", point, "cgroup", &hierarchy(&found.options))?;
    }
    if hierarchies.is_empty() {
        return Err(Error::Failed(
            "this machine has no cgroup v1 hierarchy; use --cgroup v2".to_owned(),
        ));
    }
    Ok(())
}

/// The options that name an existing hierarchy: its controllers or its name.
fn hierarchy(options: &str) -> String {
    let others = [
        "rw",
        "ro",
        "xattr",
        "noprefix",
        "clone_children",
        "cpuset_v2_mode",
    ];
    let kept: Vec<&str> = options
        .split(',')
        .filter(|option| !others.contains(option) && !option.starts_with("release_agent="))
        .collect();
    kept.join(",")
}

fn mounts() -> Result<Vec<Mount>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(Error::at("read", path))?;
    Ok(parse_mounts(&text))
}

fn mount(source: &str, target: &Path, kind: &str, options: &str) -> Result<()> {
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(
        source,
        target,
        kind,
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(|errno| Error::Io {
        what: format!("cannot mount {kind} on {}", target.display()),
        source: errno.into(),
    })
}

fn failed(what: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::Io {
        what: format!("cannot {what}"),
        source: errno.into(),
    }
}

/// The cgroups of this run, as the measuring process sees them.
fn cgroups() -> BTreeSet<PathBuf> {
    groups_below(Path::new("/sys/fs/cgroup"))
}

/// The directories below a cgroup or below all of them, three levels deep:
/// deeper ones have parents that would be new as well.
fn groups_below(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            // The type comes with the name; a stat of each control file would
            // make this slower than what it watches.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
                if depth < 3 {
                    pending.push((entry.path(), depth + 1));
                }
            }
        }
    }
    found
}

impl Stage {
    /// What is there now counts as there before.
    pub fn remember(&mut self) {
        self.cgroups = cgroups();
    }

    /// The cgroups that have come since [`Stage::remember`].
    pub fn new_cgroups(&self) -> Vec<PathBuf> {
        cgroups().difference(&self.cgroups).cloned().collect()
    }

    /// Makes the same silent command again and again, apart from this borrow.
    pub fn maker<F: Fn(&Self) -> Command>(&self, command: F) -> impl Fn() -> Command + use<F> {
        let stage = self.clone();
        move || silent(command(&stage))
    }

    /// A path in the directory of this run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A `gantry` with roots of its own.
    pub fn gantry(&self) -> Command {
        let mut command = Command::new(self.path("bin/gantry"));
        command
            .env("GANTRY_DATA_ROOT", self.path("data"))
            .env("GANTRY_RUN_ROOT", self.path("run/gantry"));
        command
    }

    /// crun, runc or a runtime with the same command line, with a state
    /// directory of its own.
    pub fn runtime(&self, program: &Path) -> Command {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.path(&format!("run/{name}-state")));
        command
    }

    /// The floor program on the same root file system.
    pub fn floor(&self) -> Command {
        let mut command = Command::new(self.path("floor"));
        command.arg(self.path("rootfs")).arg(self.path("scratch"));
        command
    }

    /// Runs a command that leaves a container behind. Its streams are files: a
    /// container that inherits a pipe would keep its reader waiting.
    pub fn detach(&self, command: Command) -> Result<()> {
        let path = self.path("stderr");
        let file = fs::File::create(&path).map_err(Error::at("create", &path))?;
        let mut command = silent(command);
        process::run(command.stderr(file)).map_err(|error| match error {
            Error::Command {
                command, status, ..
            } => Error::Command {
                command,
                status,
                stderr: fs::read_to_string(&path).unwrap_or_default(),
            },
            other => other,
        })
    }

    /// Imports the root file system as [`IMAGE`].
    pub fn import(&self) -> Result<()> {
        process::quietly(
            self.gantry()
                .arg("import")
                .arg(self.path("rootfs.tar"))
                .arg(IMAGE),
        )
    }

    /// Makes a bundle that runs a program of the same root file system, from
    /// crun's own template: its mounts and capabilities, no seccomp profile
    /// and no overlay, so the peers do less than we.
    pub fn bundle(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let bundle = self.path(name);
        fs::create_dir_all(&bundle).map_err(Error::at("create", &bundle))?;
        process::quietly(Command::new("crun").arg("spec").current_dir(&bundle))?;
        let path = bundle.join("config.json");
        let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
        let mut config: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Error::Malformed(format!("{}: {error}", path.display())))?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(arguments);
        config["root"] = json!({ "path": self.path("rootfs"), "readonly": false });
        config["linux"]["namespaces"] = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
            .iter()
            .map(|kind| json!({ "type": kind }))
            .collect();
        if self.view == View::V2 {
            // The template's device rules are a BPF program there, for which
            // crun raises RLIMIT_MEMLOCK: not everywhere may even root.
            config["linux"]["resources"] = json!({});
        }
        fs::write(&path, config.to_string()).map_err(Error::at("write", &path))?;
        Ok(bundle)
    }
}

/// A command without streams, so that the cost of a terminal is not measured.
pub fn silent(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_with_and_without_optional_fields() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                    33 31 0:30 / /x rw master:1 shared:2 - ext4 /dev/vda rw,discard\n";
        let expected = [
            Mount {
                point: "/sys/fs/cgroup/cpu".to_owned(),
                kind: "cgroup".to_owned(),
                options: "rw,cpu".to_owned(),
            },
            Mount {
                point: "/x".to_owned(),
                kind: "ext4".to_owned(),
                options: "rw,discard".to_owned(),
            },
        ];
        assert_eq!(parse_mounts(text), expected);
        for (options, expected) in [
            ("rw,cpu,cpuacct", "cpu,cpuacct"),
            ("rw,xattr,release_agent=/x,name=systemd", "name=systemd"),
        ] {
            assert_eq!(hierarchy(options), expected);
        }
    }
}
