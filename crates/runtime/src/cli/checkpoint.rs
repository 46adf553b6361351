//! `checkpoint`.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_runtime::cgroup::Layout;
use gantry_runtime::spec::Spec;
use rustix::fs::FileType;

use super::arguments::Arguments;
use super::criu::{self, DESCRIPTORS, NETWORK, Options, check, joined_network};
use super::error::{CliError, Context as _};
use super::options::Global;
use super::state::{self, Place, Record, Status};

/// `checkpoint`.
///
/// # Errors
/// [`CliError`]; the container goes on then.
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let mut options = Options::new()?;
    while let Some(flag) = words.flag() {
        match flag.name() {
            "parent-path" => options.parent = Some(words.value(flag)?.into()),
            "page-server" => options.page_server = Some(parse_server(&words.value(flag)?)?),
            "leave-running" => options.leave_running = flag.switch()?,
            "pre-dump" => options.pre_dump = flag.switch()?,
            _ => {
                if let Some(flag) = options.take(flag, words)? {
                    return Err(flag.unknown());
                }
            }
        }
    }
    let id = words.id()?;
    words.end()?;
    dump(global, &options, &id)
        .map_err(|error| error.during(format!("cannot checkpoint container {id}")))
}

/// `ADDRESS:PORT`, with an address of IPv6 in brackets.
fn parse_server(text: &str) -> Result<(String, String), CliError> {
    text.rsplit_once(':')
        .filter(|(address, port)| !address.is_empty() && port.parse::<u16>().is_ok())
        .map(|(address, port)| {
            let plain = address.trim_start_matches('[').trim_end_matches(']');
            (plain.to_owned(), port.to_owned())
        })
        .ok_or_else(|| CliError::Usage(format!("--page-server {text:?}: ADDRESS:PORT is needed")))
}

fn dump(global: &Global, options: &Options, id: &str) -> Result<(), CliError> {
    let mut place = Place::open(&global.root, id)?;
    place.lock()?;
    let record = place.record()?;
    let status = place.status(&record);
    // containerd pauses a container before, and lets it go on afterwards.
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(CliError::WrongState {
            action: "checkpoint",
            id: id.to_owned(),
            status: status.name(),
            hint: ": it has to run, or to be paused",
        });
    }
    let spec = place.config()?;
    check(&spec)?;
    let work = options.work(&place);
    for directory in [&options.images, &work] {
        fs::create_dir_all(directory).file("create", directory)?;
    }
    let streams: Vec<String> = (0..3).map(|number| stream(record.pid, number)).collect();
    let file = options.images.join(DESCRIPTORS);
    let text = serde_json::to_vec(&streams)
        .map_err(std::io::Error::from)
        .step("cannot write JSON")?;
    fs::write(&file, text).file("write", file)?;

    let action = if options.pre_dump { "pre-dump" } else { "dump" };
    let mut command = criu::command(global, action, options, &work);
    command
        .arg("--tree")
        .arg(record.pid.to_string())
        .arg("--root")
        .arg(&record.rootfs);
    if let Some(directory) = freezer(&record)? {
        command.arg("--freeze-cgroup").arg(directory);
    }
    if let Some(parent) = &options.parent {
        command.arg("--prev-images-dir").arg(parent);
    }
    if options.pre_dump || options.parent.is_some() {
        command.arg("--track-mem");
    }
    if options.leave_running && !options.pre_dump {
        command.arg("--leave-running");
    }
    if let Some(path) = joined_network(&spec) {
        let inode = rustix::fs::stat(path).file("find", path)?.st_ino;
        command
            .arg("--external")
            .arg(format!("net[{inode}]:{NETWORK}"));
    }
    if let Some((address, port)) = &options.page_server {
        command
            .arg("--page-server")
            .args(["--address", address, "--port", port]);
    }
    for file in streams.iter().filter(|target| target.starts_with("file[")) {
        command.arg("--external").arg(file);
    }
    for mount in bound(&spec) {
        command
            .arg("--external")
            .arg(format!("mnt[{mount}]:{mount}"));
    }
    criu::finish(command, action, &work)?;
    if options.leave_running || options.pre_dump {
        return Ok(());
    }
    let group = state::group(&record)?;
    super::delete::remove(&place, &record, group.as_ref())
}

/// Destinations of mounts whose source lies outside of the container.
fn bound(spec: &Spec) -> impl Iterator<Item = &str> {
    spec.mounts
        .iter()
        .filter(|mount| mount.is_bind())
        .map(|mount| &*mount.destination)
}

/// What a standard stream leads to, by criu's name where it is a file of the host: one on a
/// mount that the container does not have.
fn stream(pid: i32, number: i32) -> String {
    let path = format!("/proc/{pid}/fd/{number}");
    let target = fs::read_link(&path).unwrap_or_default();
    outside_file(pid, number, &path).unwrap_or_else(|| target.to_string_lossy().into_owned())
}

fn outside_file(pid: i32, number: i32, path: &str) -> Option<String> {
    let stat = rustix::fs::stat(path).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let mount = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    let mount: u32 = mount.trim().parse().ok()?;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let start = format!("{mount} ");
    let is_inside = mounts.lines().any(|line| line.starts_with(&start));
    (!is_inside).then(|| format!("file[{mount:x}:{:x}]", stat.st_ino))
}

/// The directory by which criu can freeze the container.
fn freezer(record: &Record) -> Result<Option<PathBuf>, CliError> {
    let Some(placement) = &record.cgroup else {
        return Ok(None);
    };
    let layout = Layout::detect()?;
    let has_freezer = |names: &[String]| names.iter().any(|name| name == "freezer");
    let hierarchy = layout
        .hierarchies()
        .iter()
        .find(|hierarchy| has_freezer(hierarchy.controllers()))
        .or(layout.v2());
    let directory =
        hierarchy.map(|hierarchy| Path::new(hierarchy.mount_point()).join(&placement.path));
    Ok(directory.filter(|directory| directory.is_dir()))
}

#[cfg(test)]
mod tests {
    use super::parse_server;

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:27", Some(("127.0.0.1", "27"))),
            ("[::1]:65535", Some(("::1", "65535"))),
            ("host:27", Some(("host", "27"))),
            (":27", None),
            ("host", None),
            ("host:", None),
            ("host:65536", None),
            ("", None),
        ] {
            let found = parse_server(text).ok();
            let found = found.as_ref().map(|(address, port)| (&**address, &**port));
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
