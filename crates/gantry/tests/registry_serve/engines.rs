//! Docker, Podman, buildah, skopeo and ourselves, each with storage of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::clients::server_holds_only_whole_blobs;
use crate::layout::Layout;
use crate::server::Server;
use crate::support::engines::{Containers, Docker, Room, ok};
use crate::support::{Installation, is_installed, is_root, text, wait_until};

/// Whether all clients are there, and may do what they have to.
fn can_run() -> bool {
    let programs = ["dockerd", "docker", "podman", "buildah", "skopeo"];
    is_root() && programs.iter().all(|program| is_installed(program))
}

/// All clients. What they share with the host is out of their sight.
struct Clients<'a> {
    docker: Docker,
    containers: Containers<'a>,
    ours: &'a Installation,
}

const EVERYBODY: [&str; 5] = ["docker", "podman", "buildah", "skopeo", "gantry"];

impl<'a> Clients<'a> {
    fn new(room: &'a Room, ours: &'a Installation) -> Clients<'a> {
        let directory = ours.root.join("docker");
        Clients {
            docker: Docker::start(&directory, |program| room.command(program), &[]),
            containers: Containers::new(room, &ours.root.join("containers")),
            ours,
        }
    }

    fn command(&self, client: &str, arguments: &[&str]) -> Command {
        match client {
            "docker" => self.docker.command(arguments),
            "gantry" => {
                let mut command = self.ours.command(arguments);
                command.env("DOCKER_CONFIG", self.ours.root.join("config"));
                command
            }
            _ => self.containers.command(client, arguments),
        }
    }

    /// Has a client hold the image of a layout under a name.
    fn take(&self, client: &str, layout: &Layout, name: &str) {
        let archive = layout.directory.with_extension("tar");
        if !archive.exists() {
            let from = layout.name();
            let to = format!("docker-archive:{}:image:1", archive.display());
            self.containers.ok("skopeo", &["copy", "-q", &from, &to]);
        }
        let archive = archive.to_str().unwrap();
        match client {
            // It keeps nothing.
            "skopeo" => return,
            "buildah" => {
                let from = format!("docker-archive:{archive}");
                ok(&mut self.command(client, &["pull", "-q", &from]));
            }
            _ => drop(ok(&mut self.command(client, &["load", "-i", archive]))),
        }
        ok(&mut self.command(client, &["tag", "image:1", name]));
    }

    /// A push by a client that holds the image.
    fn push(&self, client: &str, layout: &Layout, name: &str) -> Command {
        let to = format!("docker://{name}");
        match client {
            "docker" | "gantry" => self.command(client, &["push", "-q", name]),
            "skopeo" => {
                let flags = ["copy", "-q", "--dest-tls-verify=false"];
                self.command(client, &[&flags[..], &[&layout.name(), &to]].concat())
            }
            _ => self.command(client, &["push", "-q", "--tls-verify=false", name, &to]),
        }
    }

    /// Pulls what a client does not hold; returns the image's id.
    fn pull(&self, client: &str, name: &str) -> Result<String, String> {
        let run = |arguments: &[&str]| {
            let output = self.command(client, arguments).output().unwrap();
            if output.status.success() {
                Ok(text(&output.stdout))
            } else {
                Err(text(&output.stderr))
            }
        };
        match client {
            "docker" | "gantry" => {
                run(&["pull", "-q", name])?;
                let id = run(&["image", "inspect", "--format", "{{.Id}}", name])?;
                run(&["rmi", "-f", &id])?;
                Ok(id)
            }
            "skopeo" => {
                let config = ["inspect", "--config", "--raw", "--tls-verify=false"];
                let from = format!("docker://{name}");
                let read = run(&[&config[..], &[&from]].concat())?;
                Ok(digest_of(&self.ours.root, &read))
            }
            _ => {
                let id = run(&["pull", "-q", "--tls-verify=false", name])?;
                run(&["rmi", "-f", &id])?;
                Ok(format!("sha256:{id}"))
            }
        }
    }

    /// Has a client forget all that it holds.
    fn forget(&self, client: &str) {
        let all = match client {
            "skopeo" => return,
            "docker" | "gantry" => ["image", "prune", "-af"],
            _ => ["rmi", "-a", "-f"],
        };
        ok(&mut self.command(client, &all));
    }

    fn login(&self, client: &str, server: &Server, password: &str) -> Output {
        let flags = ["login", "--username", "ann", "--password", password];
        let plain = ["--tls-verify=false"];
        let more: &[&str] = match client {
            "docker" | "gantry" => &[],
            _ => &plain,
        };
        let arguments = [&flags[..], more, &[server.host()]].concat();
        self.command(client, &arguments).output().unwrap()
    }
}

fn digest_of(directory: &Path, content: &str) -> String {
    let file = directory.join("digested");
    std::fs::write(&file, content).unwrap();
    crate::layout::sha256(&file)
}

/// The id of the image of a layout: the digest of its config.
fn id_of(layout: &Layout) -> String {
    let blob = |digest: &str| layout.directory.join("blobs/sha256").join(&digest[7..]);
    let manifest = std::fs::read(blob(&layout.digest)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["config"]["digest"].as_str().unwrap().to_owned()
}

/// A layout whose image is somebody's own.
fn layout(ours: &Installation, mark: &str) -> Layout {
    Layout::busybox(&ours.root.join(format!("layout-{mark}")), mark)
}

#[test]
fn heavy_everybody_pushes_and_everybody_pulls() {
    if !can_run() {
        return;
    }
    let installation = Installation::new();
    let (server, room) = (Server::start(&installation, &[]), Room::new());
    let clients = Clients::new(&room, &installation);
    let mut pushed = Vec::new();
    for client in EVERYBODY {
        let name = format!("{}/by/{client}:1", server.host());
        let layout = layout(&installation, client);
        clients.take(client, &layout, &name);
        ok(&mut clients.push(client, &layout, &name));
        clients.forget(client);
        pushed.push((name, id_of(&layout)));
    }
    for client in EVERYBODY {
        for (name, id) in &pushed {
            assert_eq!(clients.pull(client, name).as_ref(), Ok(id), "{client}");
        }
        clients.forget(client);
    }
    // More tags of one image, as they are listed, and its end.
    let repository = format!("{}/by/docker", server.host());
    let skopeo = |arguments: &[&str]| clients.containers.ok("skopeo", arguments);
    let from = format!("docker://{repository}:1");
    for tag in ["2", "latest"] {
        let flags = [
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ];
        let to = format!("docker://{repository}:{tag}");
        skopeo(&[&flags[..], &[&from, &to]].concat());
    }
    let listed = skopeo(&["list-tags", "--tls-verify=false", &from[..from.len() - 2]]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["Tags"], serde_json::json!(["1", "2", "latest"]));
    let search = ["search", "--list-tags", "--tls-verify=false", &repository];
    let listed = clients.containers.ok("podman", &search);
    let tags: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(tags, ["TAG", "1", "2", "latest"]);
    skopeo(&["delete", "--tls-verify=false", &from]);
    for client in EVERYBODY {
        let pulled = clients.pull(client, &format!("{repository}:latest"));
        assert!(pulled.is_err(), "{client}: it went with its manifest");
    }
    let others = pushed.iter().filter(|(name, _)| !name.contains("/docker:"));
    for (name, id) in others {
        assert_eq!(clients.pull("docker", name).as_ref(), Ok(id));
    }
    server_holds_only_whole_blobs(&server.root);
}

#[test]
fn heavy_everybody_logs_in() {
    if !can_run() || !is_installed("htpasswd") {
        return;
    }
    let installation = Installation::new();
    let users = installation.root.join("users");
    let made = ["-Bbc", users.to_str().unwrap(), "ann", "secret"];
    ok(Command::new("htpasswd").args(made));
    let server = Server::start(&installation, &["--htpasswd", users.to_str().unwrap()]);
    let room = Room::new();
    let clients = Clients::new(&room, &installation);
    for client in EVERYBODY {
        let name = format!("{}/by/{client}:1", server.host());
        let layout = layout(&installation, client);
        clients.take(client, &layout, &name);
        let push = || clients.push(client, &layout, &name).output().unwrap();
        assert!(!push().status.success(), "{client} without a password");
        let wrong = clients.login(client, &server, "wrong");
        assert!(!wrong.status.success(), "{client} with a wrong password");
        let login = clients.login(client, &server, "secret");
        assert!(login.status.success(), "{client}: {}", text(&login.stderr));
        let done = push();
        assert!(done.status.success(), "{client}: {}", text(&done.stderr));
        clients.forget(client);
        assert_eq!(clients.pull(client, &name), Ok(id_of(&layout)), "{client}");
        ok(&mut clients.command(client, &["logout", server.host()]));
        assert!(clients.pull(client, &name).is_err(), "{client} afterwards");
    }
}

/// One of two pushes of a tag at once has it in the end, and both are there by their digests.
#[test]
fn heavy_two_push_one_tag() {
    if !can_run() {
        return;
    }
    let installation = Installation::new();
    let (server, room) = (Server::start(&installation, &[]), Room::new());
    let clients = Clients::new(&room, &installation);
    let layouts = EVERYBODY.map(|client| layout(&installation, client));
    let name = format!("{}/one/tag:1", server.host());
    for (client, layout) in EVERYBODY.iter().zip(&layouts) {
        // Podman and buildah see the same storage, where a name is one image.
        if *client != "buildah" {
            clients.take(client, layout, &name);
        }
    }
    for (one, two) in [(0, 1), (1, 4), (3, 0), (4, 3), (0, 4)] {
        let push = |which: usize| {
            let mut command = clients.push(EVERYBODY[which], &layouts[which], &name);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        for pushed in [push(one), push(two)] {
            let output = pushed.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        let winner = clients.pull("skopeo", &name).unwrap();
        let both = [id_of(&layouts[one]), id_of(&layouts[two])];
        assert!(both.contains(&winner), "{winner} of {both:?}");
        let manifests = manifests_of(&server);
        for id in &both {
            let kept = manifests.iter().filter(|manifest| manifest.1 == *id);
            for (digest, _) in kept.clone() {
                let by_digest = format!("{}/one/tag@{digest}", server.host());
                assert_eq!(clients.pull("skopeo", &by_digest).as_ref(), Ok(id));
            }
            assert!(kept.count() > 0, "the manifest of {id} is gone");
        }
    }
    server_holds_only_whole_blobs(&server.root);
}

/// Digests of all manifests on a server's disk, with the ids of their images.
fn manifests_of(server: &Server) -> Vec<(String, String)> {
    let blobs = std::fs::read_dir(server.root.join("blobs/sha256")).unwrap();
    let parsed = blobs.flatten().filter_map(|blob| {
        let small = blob.metadata().unwrap().len() < 1 << 16;
        let bytes = small.then(|| std::fs::read(blob.path()).unwrap())?;
        let manifest: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let id = manifest["config"]["digest"].as_str()?.to_owned();
        Some((format!("sha256:{}", blob.file_name().to_str()?), id))
    });
    parsed.collect()
}

/// An image with a layer that takes a while, in an archive.
fn large_archive(installation: &Installation) -> PathBuf {
    let root = installation.root.join("large");
    std::fs::create_dir_all(&root).unwrap();
    let script = "head -c 20000000 /dev/urandom > noise && tar -cf ../large.tar noise";
    ok(Command::new("sh").args(["-ec", script]).current_dir(&root));
    let maker = Installation::new();
    let tar = installation.root.join("large.tar");
    maker.ok(&["import", tar.to_str().unwrap(), "image:1"]);
    let archive = installation.root.join("large-image.tar");
    maker.ok(&["save", "-o", archive.to_str().unwrap(), "image:1"]);
    archive
}

/// The server is killed while a client pushes, and comes back: the push is done again, and what
/// was acknowledged before is there.
#[test]
fn heavy_a_crash_in_the_middle_of_a_push() {
    if !can_run() {
        return;
    }
    let installation = Installation::new();
    let (mut server, room) = (Server::start(&installation, &[]), Room::new());
    let clients = Clients::new(&room, &installation);
    let before = layout(&installation, "before");
    let host = server.host().to_owned();
    let kept = format!("{host}/kept:1");
    ok(&mut clients.push("skopeo", &before, &kept));
    let archive = large_archive(&installation);
    let archive = archive.to_str().unwrap();
    for client in ["docker", "podman", "gantry"] {
        let name = format!("{host}/by/{client}:1");
        ok(&mut clients.command(client, &["load", "-i", archive]));
        ok(&mut clients.command(client, &["tag", "image:1", &name]));
        let mut first = clients.push(client, &before, &name);
        let mut first = first
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let uploads = server.root.join("uploads");
        wait_until("a part of the layer has come", || {
            let files = std::fs::read_dir(&uploads).into_iter().flatten().flatten();
            files
                .filter_map(|file| file.metadata().ok())
                .any(|file| file.len() > 1 << 20)
        });
        server.crash(&["--address", &host]);
        // Some try again of their own accord.
        let _ = first.wait().unwrap();
        ok(&mut clients.push(client, &before, &name));
        server.crash(&["--address", &host]);
        server_holds_only_whole_blobs(&server.root);
        assert_eq!(clients.pull("skopeo", &kept), Ok(id_of(&before)));
        let id = ok(&mut clients.command(client, &["image", "inspect", "-f", "{{.Id}}", &name]));
        clients.forget(client);
        let pulled = clients.pull(client, &name).unwrap();
        assert!(pulled.ends_with(&id), "{client}: {pulled} and not {id}");
    }
}
