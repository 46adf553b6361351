//! Who pulls and pushes.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::images::Image;
use super::registry::Registry;
use crate::bench::peers::{Base, Peers};
use crate::bench::stage::Stage;
use crate::error::{Error, Result};
use crate::process;

/// Somebody who pulls or pushes.
pub struct Subject {
    /// As it stands in the table.
    pub name: &'static str,
    /// The command, made anew for each sample.
    pub command: Box<dyn Fn() -> Command>,
    /// The same program with nothing to do.
    pub idle: Box<dyn Fn() -> Command>,
    /// Empties the store.
    pub empty: Box<dyn Fn() -> Result<()>>,
    /// Whether the command does all by itself, so that what it takes is all that is taken.
    pub alone: bool,
}

/// Everybody who can pull.
pub fn pulls(stage: &Stage, peers: &Peers, registry: &Registry, image: &Image) -> Vec<Subject> {
    let reference = registry.reference(image);
    let mut subjects = vec![gantry(
        stage,
        "gantry pull",
        &["pull", "--quiet", &reference],
    )];
    for (name, base) in peers.bases() {
        let words = match name {
            "podman" => vec!["pull", "--quiet", "--tls-verify=false", &reference],
            _ => vec!["pull", "--quiet", &reference],
        };
        let title = if name == "podman" {
            "podman pull"
        } else {
            "docker pull"
        };
        subjects.push(peer(title, base, &words));
    }
    let layout = stage.path("unpacked");
    subjects.push(script(
        "skopeo copy, umoci unpack",
        &layout,
        "skopeo --insecure-policy copy --quiet --src-tls-verify=false \"docker://$2\" \"oci:$1/layout:latest\"\n\
         umoci unpack --image \"$1/layout:latest\" \"$1/bundle\"",
        &[reference],
        &["skopeo", "umoci"],
    ));
    let urls: Vec<String> = image
        .layers
        .iter()
        .map(|layer| registry.url(image, layer))
        .collect();
    subjects.push(script(
        "curl | gunzip | tar -x",
        &layout,
        "store=$1; shift\n\
         for url; do\n\
         to=$store/${url##*:}; mkdir -p \"$to\"\n\
         curl --silent --fail \"$url\" | gunzip | tar --extract --directory \"$to\"\n\
         done",
        &urls,
        &["curl", "tar"],
    ));
    subjects
}

/// Everybody who can push, with the image in his store.
pub fn pushes(
    stage: &Stage,
    peers: &Peers,
    registry: &Registry,
    image: &Image,
    port: u16,
) -> Result<Vec<Subject>> {
    let reference = registry.reference(image);
    let target = format!("127.0.0.1:{port}/{}:latest", image.name);
    let mut subjects = vec![gantry(stage, "gantry push", &["push", "--quiet", &target])];
    process::quietly(stage.gantry().args(["pull", "--quiet", &reference]))?;
    process::quietly(stage.gantry().args(["tag", &reference, &target]))?;
    for (name, base) in peers.bases() {
        let is_podman = name == "podman";
        let insecure: &[&str] = if is_podman {
            &["--tls-verify=false"]
        } else {
            &[]
        };
        let words = |command| [&[command, "--quiet"], insecure, &[&reference]].concat();
        process::quietly(&mut base.command(&words("pull")))?;
        process::quietly(&mut base.command(&["tag", &reference, &target]))?;
        let words = [&["push", "--quiet"], insecure, &[&target]].concat();
        let title = if is_podman {
            "podman push"
        } else {
            "docker push"
        };
        subjects.push(peer(title, base, &words));
    }
    subjects.push(script(
        "skopeo copy",
        &stage.path("unpacked"),
        "skopeo --insecure-policy copy --quiet --dest-tls-verify=false \"oci:$2:latest\" \"docker://$3\"",
        &[image.layout.display().to_string(), target],
        &["skopeo"],
    ));
    Ok(subjects)
}

fn gantry(stage: &Stage, name: &'static str, words: &[&str]) -> Subject {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let (stage, idle, empty) = (stage.clone(), stage.clone(), stage.clone());
    Subject {
        name,
        command: Box::new(move || {
            let mut command = stage.gantry();
            command.args(&words);
            command
        }),
        idle: Box::new(move || {
            let mut command = idle.gantry();
            command.arg("--version");
            command
        }),
        empty: Box::new(move || {
            clear(&empty.path("data"))?;
            clear(&empty.path("run/gantry"))
        }),
        alone: true,
    }
}

fn peer(name: &'static str, base: &Base, words: &[&str]) -> Subject {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let (base, idle, empty) = (base.clone(), base.clone(), base.clone());
    Subject {
        name,
        command: Box::new(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            base.command(&words)
        }),
        idle: Box::new(move || idle.command(&["version"])),
        // Nothing of it is in use, so all goes; this command waits until it is gone.
        empty: Box::new(move || {
            let list = process::stdout(&mut empty.command(&["images", "--quiet"]))?;
            // One with two names is listed twice.
            let images: BTreeSet<&str> = list.split_whitespace().collect();
            if images.is_empty() {
                return Ok(());
            }
            let mut command = empty.command(&["rmi", "--force"]);
            process::quietly(command.args(images))
        }),
        alone: false,
    }
}

/// A shell script that writes below `store`, its first argument.
fn script(
    name: &'static str,
    store: &Path,
    text: &'static str,
    arguments: &[String],
    programs: &[&'static str],
) -> Subject {
    let (store, empty): (PathBuf, PathBuf) = (store.to_owned(), store.to_owned());
    let arguments = arguments.to_owned();
    let idle = programs
        .iter()
        .map(|program| format!("{program} --version"))
        .collect::<Vec<_>>()
        .join(" && ");
    Subject {
        name,
        command: Box::new(move || {
            let mut command = Command::new("sh");
            command
                .args(["-euc", text, "sh"])
                .arg(&store)
                .args(&arguments);
            command
        }),
        idle: Box::new(move || {
            let mut command = Command::new("sh");
            command.args(["-euc", &idle]);
            command
        }),
        empty: Box::new(move || clear(&empty)),
        alone: false,
    }
}

/// Removes all that is in a directory, which may be a mount point.
fn clear(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::at("list", path))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::at("list", path))?;
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(Error::at("remove", &path))?;
    }
    Ok(())
}
