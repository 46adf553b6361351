//! What the image commands take and say: URLs, platforms, progress, settings, and refusals that
//! name what is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::docker_registry::DockerRegistry;
use support::{Installation, is_installed, text, wait_until};

/// Busybox, as every test imports it.
fn tarball(here: &Installation) -> PathBuf {
    let path = here.root.join("busybox.tar");
    if !path.exists() {
        let whole = here.ok(&["save", "-o", path.to_str().unwrap(), "busybox"]);
        assert_eq!(whole, "");
    }
    path
}

/// A root file system with one file.
fn small_root(here: &Installation) -> PathBuf {
    let (directory, path) = (here.root.join("small"), here.root.join("small.tar"));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("file"), "content\n").unwrap();
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&path)
        .arg("-C")
        .arg(&directory)
        .arg(".")
        .status()
        .unwrap();
    assert!(made.success());
    path
}

/// A web server that has one file under several paths.
fn serve(body: Vec<u8>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let own = host.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (body, own) = (body.clone(), own.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &own, &body));
        }
    });
    host
}

fn answer(mut stream: TcpStream, own: &str, body: &[u8]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let head = |status: &str, extra: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    match path.split('?').next().unwrap_or_default() {
        "/root.tar" => {
            stream.write_all(head("200 OK", "", body.len()).as_bytes())?;
            stream.write_all(body)
        }
        "/moved" => {
            let extra = format!("Location: http://{own}/root.tar\r\n");
            stream.write_all(head("302 Found", &extra, 0).as_bytes())
        }
        "/circle" => stream.write_all(head("302 Found", "Location: circle\r\n", 0).as_bytes()),
        "/huge" => stream.write_all(head("200 OK", "", usize::MAX >> 1).as_bytes()),
        "/cut" => {
            stream.write_all(head("200 OK", "", body.len()).as_bytes())?;
            stream.write_all(&body[..1000])
        }
        _ => stream.write_all(head("404 Not Found", "", 0).as_bytes()),
    }
}

#[test]
fn import_downloads_a_url_and_refuses_what_is_no_archive() {
    let here = Installation::new();
    let host = serve(fs::read(small_root(&here)).unwrap());
    for path in ["/root.tar", "/moved"] {
        let url = format!("http://{host}{path}?signature=secret");
        let output = here.gantry(&["import", "-c", "LABEL a=b", &url, "web:1"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        // Standard output is the id's: `ID=$(gantry import URL)`.
        let id = here.inspect("web:1")["Id"].as_str().unwrap().to_owned();
        assert_eq!(text(&output.stdout), id);
        let said = format!("Downloading from http://{host}{path}");
        assert_eq!(text(&output.stderr), said);
    }
    assert_eq!(here.inspect("web:1")["Config"]["Labels"]["a"], "b");
    for (path, reason) in [
        ("/circle", "redirects more than 10 times"),
        ("/huge", "has more than 68719476736 bytes"),
        ("/cut", "broke off after 1000 bytes of"),
        ("/nowhere", "answered 404 Not Found"),
    ] {
        let url = format!("http://{host}{path}?signature=secret");
        let error = here.fails(1, &["import", &url, "bad"]);
        assert!(error.contains(reason), "{path}: {error}");
        assert!(error.contains(&format!("http://{host}{path}")), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    assert_eq!(here.ok(&["images", "-q", "bad"]), "");
}

/// What is wrong, with what, and what to do: one line each.
#[test]
fn refusals_name_the_object() {
    let here = Installation::with_busybox();
    let no_archive = here.root.join("no-archive");
    fs::write(&no_archive, "no archive at all").unwrap();
    let no_archive = no_archive.to_str().unwrap();
    let missing = here.root.join("missing/x.tar");
    let missing = missing.to_str().unwrap();
    let digest = format!("a@sha256:{}", "0".repeat(64));
    for (code, arguments, said) in [
        (1, &["import", no_archive][..], no_archive),
        (1, &["import", missing], missing),
        (
            1,
            &["import", "ftp://host/x"],
            "\"ftp://host/x\" is not an http or https URL",
        ),
        (
            1,
            &["import", "http://user:hunter2@host/x"],
            "is not an http or https URL",
        ),
        (
            1,
            &["import", no_archive, "UPPER"],
            "did you mean \"upper\"?",
        ),
        (1, &["import", no_archive, &digest], "digest reference"),
        (
            1,
            &["import", "-c", "RUN x", no_archive],
            "RUN is not a change",
        ),
        (
            125,
            &["import", "--platform", "a/b/c/d", no_archive],
            "invalid platform 'a/b/c/d'",
        ),
        (1, &["load", "-i", no_archive], no_archive),
        (1, &["load", "-i", missing], missing),
        (
            1,
            &["save", "-o", missing, "busybox"],
            "missing does not exist",
        ),
        (1, &["save", "-o", "/tmp", "busybox"], "/tmp is a directory"),
        (1, &["save", "-o", "x", "nosuch"], "no such image: nosuch"),
        (
            1,
            &["history", "--platform", "s390x", "busybox"],
            "specified platform (s390x)",
        ),
        (
            1,
            &["image", "inspect", "--platform", "linux/s390x", "busybox"],
            "(linux/s390x)",
        ),
        (
            1,
            &["push", "--platform", "linux/s390x", "busybox"],
            "(linux/s390x)",
        ),
        (
            1,
            &["save", "--platform", "linux/s390x", "-o", "x", "busybox"],
            "(linux/s390x)",
        ),
        (
            1,
            &["rmi", "--platform", "linux/s390x", "busybox"],
            "(linux/s390x)",
        ),
        (
            1,
            &["rmi", "--platform", "x!", "busybox"],
            "invalid platform \"x!\"",
        ),
        (
            1,
            &["rmi", "--platform", "linux/amd64", "nosuch"],
            "no such image: nosuch",
        ),
        (
            125,
            &["image", "prune", "-f", "--filter", "foo=x"],
            "use until, label, label! or dangling",
        ),
        (
            125,
            &["search", "-f", "foo=x", "127.0.0.1:1/x"],
            "use stars, is-official or is-automated",
        ),
        (
            125,
            &["images", "--tree", "-f", "foo=x"],
            "invalid filter 'foo=x'",
        ),
        (1, &["tag", "nosuch", "x"], "no such image: nosuch"),
        (1, &["tag", "busybox", "UP"], "did you mean \"up\"?"),
        (
            1,
            &["push", "nosuch"],
            "does not exist locally with the tag: nosuch",
        ),
        (
            1,
            &["push", "-a", "busybox:latest"],
            "tag can't be used with --all-tags/-a",
        ),
        (
            1,
            &["pull", "-a", "busybox:latest"],
            "tag can't be used with --all-tags/-a",
        ),
        (
            1,
            &["manifest", "rm", "nosuch"],
            "No such manifest: docker.io/library/nosuch",
        ),
    ] {
        let mut command = here.command(arguments);
        let output = command.env("DOCKER_CONFIG", &here.root).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(said), "{arguments:?}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
        let lines = error.lines().filter(|line| !line.is_empty());
        let about = lines.filter(|line| !line.starts_with("hint: ") && !line.starts_with("Run '"));
        assert_eq!(about.count(), 1, "{arguments:?}: {error}");
    }
    // Nothing was changed by any of them.
    assert_eq!(here.ok(&["images", "-q"]).lines().count(), 1);
}

/// An image for two platforms in a registry, as `box:multi`; the installation has none of it.
fn two_platforms(here: &Installation, registry: &DockerRegistry) -> String {
    let root = small_root(here);
    let root = root.to_str().unwrap();
    let name = registry.name("box:multi");
    let mut create = vec!["manifest".to_owned(), "create".to_owned(), name.clone()];
    for architecture in ["amd64", "arm64"] {
        let part = registry.name(&format!("box:{architecture}"));
        let label = format!("LABEL for={architecture}");
        here.ok(&[
            "import",
            "--platform",
            architecture,
            "-c",
            &label,
            root,
            &part,
        ]);
        here.ok(&["push", "-q", &part]);
        here.ok(&["rmi", &part]);
        create.push(part);
    }
    let create: Vec<&str> = create.iter().map(String::as_str).collect();
    for arguments in [&create[..], &["manifest", "push", "-p", &name]] {
        let mut command = here.command(arguments);
        let output = command.env("DOCKER_CONFIG", &here.root).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    name
}

/// A list takes manifests from other repositories along, as Docker's does.
#[test]
fn a_list_of_manifests_of_other_repositories() {
    if !is_installed("docker-registry") {
        return;
    }
    let here = Installation::new();
    let registry = DockerRegistry::start(&here.root);
    let box_name = two_platforms(&here, &registry);
    let (amd64, arm64) = (registry.name("box:amd64"), registry.name("box:arm64"));
    let list = registry.name("other/list:1");
    let run = |arguments: &[&str]| {
        let mut command = here.command(arguments);
        let output = command.env("DOCKER_CONFIG", &here.root).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    run(&["manifest", "create", &list, &amd64, &arm64]);
    let pushed = run(&["manifest", "push", &list]);
    let said = format!("Pushed ref {}@sha256:", registry.name("other/list"));
    assert_eq!(pushed.matches(&said).count(), 2, "{pushed}");
    let digest = pushed.lines().last().unwrap();
    let of = |name: &str| run(&["manifest", "inspect", name]);
    assert_eq!(of(&list), of(&box_name));
    // Again, with everything there.
    assert!(run(&["manifest", "push", "-p", &list]).ends_with(digest));
    here.ok(&["pull", "-q", "--platform", "arm64", &list]);
    assert_eq!(here.inspect(&list)["Architecture"], "arm64");
}

fn blobs(here: &Installation) -> usize {
    fs::read_dir(here.data.join("blobs/sha256")).map_or(0, Iterator::count)
}

#[test]
fn platforms_of_one_name() {
    if !is_installed("docker-registry") {
        return;
    }
    let here = Installation::new();
    let registry = DockerRegistry::start(&here.root);
    let name = two_platforms(&here, &registry);
    assert_eq!(blobs(&here), 0);
    let error = here.fails(1, &["pull", "--platform", "linux/s390x", &name]);
    assert!(error.contains("it has linux/amd64, linux/arm64"), "{error}");
    assert!(
        error.contains("hint: choose one of them with --platform"),
        "{error}"
    );
    for platform in ["linux/amd64", "arm64"] {
        here.ok(&["pull", "-q", "--platform", platform, &name]);
    }
    for platform in ["linux/amd64", "amd64", "linux/arm64", "linux/arm64/v8"] {
        let architecture = if platform.contains("arm") {
            "arm64"
        } else {
            "amd64"
        };
        let format = "{{.Architecture}} {{.Config.Labels.for}} {{.RepoTags}}";
        let shown = here.ok(&[
            "image",
            "inspect",
            "--platform",
            platform,
            "-f",
            format,
            &name,
        ]);
        assert_eq!(shown, format!("{architecture} {architecture} [{name}]"));
        let id = here.ok(&[
            "image",
            "inspect",
            "--platform",
            platform,
            "-f",
            "{{.Id}}",
            &name,
        ]);
        let steps = here.ok(&["history", "--platform", platform, "-q", "--no-trunc", &name]);
        assert_eq!(steps, id);
    }
    here.ok(&["tag", &name, "second"]);
    let tree = |filters: &[&str]| {
        let mut arguments = vec!["images", "--tree"];
        arguments.extend(filters);
        here.ok(&arguments)
    };
    assert!(tree(&[]).contains("├─ linux/amd64"), "{}", tree(&[]));
    assert_eq!(tree(&["-f", "label=for=arm64"]).lines().count(), 5);
    assert_eq!(tree(&["-f", "label=for=riscv64"]).lines().count(), 1);
    assert_eq!(tree(&["-f", "dangling=true"]).lines().count(), 1);
    assert_eq!(tree(&["sec*"]).lines().count(), 5);

    // One platform alone is saved and loaded, and pushed under another name.
    let archive = here.root.join("one.tar");
    let archive = archive.to_str().unwrap();
    here.ok(&["save", "--platform", "linux/arm64", "-o", archive, &name]);
    let other = Installation::new();
    let error = other.fails(1, &["load", "--platform", "linux/amd64", "-i", archive]);
    assert!(error.contains("holds no image for linux/amd64"), "{error}");
    other.ok(&["load", "--platform", "linux/arm64", "-i", archive]);
    assert_eq!(other.inspect(&name)["Architecture"], "arm64");
    let one = registry.name("one:1");
    here.ok(&["tag", &name, &one]);
    let pushed = here.ok(&["push", "--platform", "linux/arm64", &one]);
    assert!(pushed.contains("1: digest: sha256:"), "{pushed}");
    let manifest = here.ok(&["manifest", "inspect", &one]);
    assert!(!manifest.contains("manifests"), "{manifest}");

    // A container keeps its platform's image; the other one goes from every name of the index.
    let amd64 = here.ok(&[
        "image",
        "inspect",
        "--platform",
        "amd64",
        "-f",
        "{{.Id}}",
        &name,
    ]);
    here.ok(&[
        "create",
        "--name",
        "user",
        "--platform",
        "linux/arm64",
        &name,
        "x",
    ]);
    let error = here.fails(1, &["rmi", "--platform", "linux/arm64", &name]);
    assert!(error.contains("being used by stopped container"), "{error}");
    let before = blobs(&here);
    let removed = here.ok(&["rmi", "--platform", "linux/amd64", "second"]);
    assert_eq!(removed, format!("Deleted: {amd64}"));
    // Its config and its manifest; the layer is the other's as well.
    assert_eq!(blobs(&here), before - 2);
    for name in [name.as_str(), "second"] {
        assert_eq!(here.inspect(name)["Architecture"], "arm64");
        let error = here.fails(1, &["history", "--platform", "linux/amd64", name]);
        assert!(error.contains("here are: linux/arm64"), "{error}");
    }
    assert!(here.ok(&["image", "verify"]).contains("no damage found"));
    // What is left is pushed, and that it is not all of it is said.
    let output = here.gantry(&["push", &name]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("not all platforms"),
        "{}",
        text(&output.stderr)
    );
    // The platform can come back, and the last one takes the name along.
    here.ok(&["pull", "-q", &registry.name("box:amd64")]);
    here.ok(&["rm", "user"]);
    here.ok(&["rmi", &one]);
    let removed = here.ok(&["rmi", "--platform", "linux/arm64", &name]);
    assert!(
        removed.starts_with(&format!("Untagged: {name}\n")),
        "{removed}"
    );
    assert!(
        !removed.contains("Deleted"),
        "second still has it: {removed}"
    );
    let removed = here.ok(&["rmi", "--platform", "arm64,linux/arm64/v8", "second"]);
    assert!(
        removed.contains("Untagged: second:latest\nDeleted: sha256:"),
        "{removed}"
    );
    here.ok(&["rmi", &registry.name("box:amd64")]);
    assert_eq!(
        (here.ok(&["images", "-aq"]).as_str(), blobs(&here)),
        ("", 0)
    );
}

/// Runs a command on a terminal of 24 lines and 100 columns; returns all that it drew.
fn on_terminal(here: &Installation, arguments: &[&str]) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let open = || -> OwnedFd {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        rustix::fs::open(&*path, flags, rustix::fs::Mode::empty()).unwrap()
    };
    let mut child = here
        .command(arguments)
        .stdout(Stdio::from(open()))
        .stderr(Stdio::from(open()))
        .spawn()
        .unwrap();
    let mut drawn = Vec::new();
    // The far end is closed when the command has ended: an error, not the end of a file.
    let _ = fs::File::from(master).read_to_end(&mut drawn);
    let drawn = String::from_utf8(drawn).unwrap();
    assert!(child.wait().unwrap().success(), "{arguments:?}: {drawn}");
    drawn
}

#[test]
fn progress_is_drawn_on_a_terminal_and_told_in_a_pipe() {
    if !is_installed("docker-registry") {
        return;
    }
    let here = Installation::with_busybox();
    let registry = DockerRegistry::start(&here.root);
    let archive = tarball(&here);
    let archive = archive.to_str().unwrap();
    let root = small_root(&here);
    let drawn = on_terminal(&here, &["import", root.to_str().unwrap(), "small"]);
    assert!(
        drawn.contains("Archive: Importing  [=====") && drawn.contains("sha256:"),
        "{drawn}"
    );
    let (drawn_name, told_name) = (registry.name("drawn:1"), registry.name("told:1"));
    for name in [&drawn_name, &told_name] {
        here.ok(&["tag", "busybox", name]);
    }
    let drawn = on_terminal(&here, &["push", &drawn_name]);
    assert!(
        drawn.contains(": Preparing\x1b[K") && drawn.contains("\x1b[1A"),
        "{drawn}"
    );
    assert!(drawn.contains(": Pushed\x1b[K"), "{drawn}");
    let told = here.ok(&["push", &told_name]);
    assert!(
        told.contains(": Mounted from drawn\n") && !told.contains('\x1b'),
        "{told}"
    );
    let again = here.ok(&["push", &told_name]);
    assert_eq!(again.matches("Layer already exists").count(), 1, "{again}");

    let other = Installation::new();
    let drawn = on_terminal(&other, &["load", "-i", archive]);
    assert!(
        drawn.contains("Archive: Reading  [=====") && drawn.contains(": Loaded\x1b[K"),
        "{drawn}"
    );
    let drawn = on_terminal(&other, &["load", "-q", "-i", archive]);
    assert_eq!(drawn.trim_end(), "Loaded image: busybox:latest");
    // Programs read names and ids, as Docker gives them.
    for arguments in [&["load", "-i", archive][..], &["load", "-q", "-i", archive]] {
        let output = other.gantry(arguments);
        assert_eq!(text(&output.stdout), "Loaded image: busybox:latest");
        assert_eq!(text(&output.stderr), "");
    }
    let output = other.gantry(&["import", root.to_str().unwrap()]);
    assert_eq!(text(&output.stdout).len(), "sha256:".len() + 64);
    assert_eq!(text(&output.stderr), "");
}

/// The compressed layers of an image in the store.
fn layers(here: &Installation, name: &str) -> Vec<String> {
    let manifest = here.ok(&["manifest", "inspect", name]);
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let digests = layers.iter().map(|layer| layer["digest"].as_str().unwrap());
    digests
        .map(|digest| digest["sha256:".len()..].to_owned())
        .collect()
}

#[test]
fn a_pull_says_that_it_waits_for_another() {
    if !is_installed("docker-registry") {
        return;
    }
    let source = Installation::with_busybox();
    let registry = DockerRegistry::start(&source.root);
    let name = registry.name("wait:1");
    source.ok(&["tag", "busybox", &name]);
    source.ok(&["push", "-q", &name]);
    let layer = layers(&source, &name).concat();

    let here = Installation::new();
    let directory = here.data.join("partial");
    fs::create_dir_all(&directory).unwrap();
    // What another pull holds while it works on the layer.
    let held = fs::File::create(directory.join(format!("sha256-{layer}"))).unwrap();
    held.lock().unwrap();
    let said = here.root.join("said");
    let mut pull = here
        .command(&["pull", &name])
        .stdout(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let waiting = format!("{}: Waiting\n", &layer[..12]);
    wait_until("the pull waits", || {
        fs::read_to_string(&said).unwrap().contains(&waiting)
    });
    assert!(pull.try_wait().unwrap().is_none());
    drop(held);
    assert!(pull.wait().unwrap().success());
    let said = fs::read_to_string(&said).unwrap();
    assert_eq!(said.matches("Waiting").count(), 1, "{said}");
    assert!(
        said.contains(&format!("{}: Pull complete\n", &layer[..12])),
        "{said}"
    );
}

#[test]
fn blobs_may_be_dropped_always() {
    if !is_installed("docker-registry") {
        return;
    }
    let source = Installation::with_busybox();
    let registry = DockerRegistry::start(&source.root);
    let (name, copy) = (registry.name("drop:1"), registry.name("copy:1"));
    source.ok(&["tag", "busybox", &name]);
    source.ok(&["push", "-q", &name]);
    let layer = layers(&source, &name).concat();

    let here = Installation::new();
    let blob = here.data.join("blobs/sha256").join(&layer);
    let pull = |setting: &str, flags: &[&str]| {
        let mut arguments = vec!["pull", "-q"];
        arguments.extend(flags);
        arguments.push(&name);
        let mut command = here.command(&arguments);
        command.env("GANTRY_KEEP_BLOBS", setting).output().unwrap()
    };
    let refused = pull("never", &[]);
    assert!(
        text(&refused.stderr).contains("GANTRY_KEEP_BLOBS"),
        "{}",
        text(&refused.stderr)
    );
    for (setting, flags, kept) in [
        ("", &[][..], true),
        ("true", &["--no-blobs"][..], false),
        ("0", &["--no-blobs=false"], true),
        ("false", &[], false),
    ] {
        let pulled = pull(setting, flags);
        assert!(pulled.status.success(), "{}", text(&pulled.stderr));
        assert_eq!(blob.exists(), kept, "{setting:?} {flags:?}");
        if setting != "false" {
            here.ok(&["rmi", &name]);
        }
    }
    // What is pushed is the same bit for bit, and an image without its source says so.
    here.ok(&["tag", &name, &copy]);
    here.ok(&["push", "-q", &copy]);
    assert_eq!(layers(&here, &copy).concat(), layer);
    here.ok(&["image", "drop-blobs", &name]);
    assert!(!blob.exists());
    drop(registry);
    let error = here.fails(1, &["save", "-o", "/dev/null", &name]);
    assert!(error.contains(&layer), "{error}");
    assert_eq!(
        here.ok(&["run", "--rm", "--network", "none", &name, "echo", "runs"]),
        "runs"
    );
}
