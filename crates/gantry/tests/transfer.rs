//! Pulls and pushes that are killed, and many at once: what has come is not fetched again, and
//! nothing is left over.
//!
//! `GANTRY_TRANSFER_KILLS` says how often each is killed; the default keeps the test short.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Installation, bin_dir, text, wait_until};

/// Kills of each kind if nothing else is said.
const KILLS: u32 = 4;

fn kills() -> u32 {
    std::env::var("GANTRY_TRANSFER_KILLS")
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(KILLS)
}

/// Bytes without a pattern.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(length)
    .collect()
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    text(&output.stdout)[..64].to_owned()
}

/// Images in OCI layout, made with nothing but tar.
struct Layout {
    directory: PathBuf,
    manifests: Vec<serde_json::Value>,
}

impl Layout {
    fn new(directory: PathBuf) -> Layout {
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Layout {
            directory,
            manifests: Vec::new(),
        }
    }

    fn take(&self, path: &Path, kind: &str) -> serde_json::Value {
        let hex = sha256(path);
        let size = fs::metadata(path).unwrap().len();
        fs::rename(path, self.directory.join("blobs/sha256").join(&hex)).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": size})
    }

    fn document(&self, kind: &str, value: &serde_json::Value) -> serde_json::Value {
        let path = self.directory.join("new");
        fs::write(&path, value.to_string()).unwrap();
        self.take(&path, kind)
    }

    /// A layer of one file with `length` bytes of noise; it is not compressed.
    fn layer(&self, seed: u64, length: usize) -> serde_json::Value {
        let name = format!("file{seed}");
        fs::write(self.directory.join(&name), noise(seed, length)).unwrap();
        let tar = self.directory.join("layer.tar");
        let made = Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "-C"])
            .arg(&self.directory)
            .arg("-cf")
            .args([&tar, Path::new(&name)])
            .status()
            .unwrap();
        assert!(made.success());
        fs::remove_file(self.directory.join(&name)).unwrap();
        self.take(&tar, "application/vnd.oci.image.layer.v1.tar")
    }

    fn image(&mut self, name: &str, layers: &[&serde_json::Value]) {
        let digests: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Labels": {"n": name}},
            "rootfs": {"type": "layers", "diff_ids": digests}});
        let config = self.document("application/vnd.oci.image.config.v1+json", &config);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
        let mut entry = self.document(kind, &manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(entry);
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
    }

    fn push(&self, name: &str, reference: &str) {
        let pushed = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .arg(format!("oci:{}:{name}", self.directory.display()))
            .arg(format!("docker://{reference}"))
            .output()
            .expect("skopeo is installed");
        assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    }
}

/// A registry of our own on a free port.
struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    fn new(root: &Path) -> Registry {
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(bin_dir().join("gantry"))
            .args(["registry", "serve", "--address", "127.0.0.1:0", "--root"])
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().rsplit('/').next().unwrap().to_owned();
        assert!(address.contains(':'), "{line}");
        Registry { process, address }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Stands before a registry: counts what goes through, and is slow enough that little is on its
/// way at any time.
struct Gauge {
    address: String,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Gauge {
    fn new(upstream: &str) -> Gauge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gauge = Gauge {
            address: listener.local_addr().unwrap().to_string(),
            up: Arc::default(),
            down: Arc::default(),
        };
        let (up, down, upstream) = (gauge.up.clone(), gauge.down.clone(), upstream.to_owned());
        // For as long as the test's process lives; nothing waits for it.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&upstream) else {
                    continue;
                };
                for (from, to, count) in [(&client, &server, &up), (&server, &client, &down)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let count = count.clone();
                    std::thread::spawn(move || pump(from, to, &count));
                }
            }
        });
        gauge
    }

    /// Bytes since the last call, in both directions.
    fn take(&self) -> (u64, u64) {
        (
            self.up.swap(0, Ordering::Relaxed),
            self.down.swap(0, Ordering::Relaxed),
        )
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    // What waits in a large buffer when the other side is killed counts as sent.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&to, 64 << 10);
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&from, 64 << 10);
    let mut buffer = [0; 32 << 10];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
        count.fetch_add(length as u64, Ordering::Relaxed);
        if length > 1 << 14 {
            std::thread::sleep(Duration::from_micros(400));
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Runs a command and kills it after `delay`, if it has not ended.
fn killed_after(installation: &Installation, arguments: &[&str], delay: Duration) {
    let mut child = installation
        .command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(delay);
    let _ = child.kill();
    let _ = child.wait();
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// Every blob of a store has its digest, and nothing is half done.
fn assert_whole(data: &Path) {
    let blobs = data.join("blobs/sha256");
    for name in names_in(&blobs) {
        assert_eq!(sha256(&blobs.join(&name)), name);
    }
    for directory in ["partial", "ingest", "uploads"] {
        let left = names_in(&data.join(directory));
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
}

/// Moments between the beginning and the end of something that takes `whole`.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    let count = kills();
    let seed = std::process::id();
    (0..count).map(move |number| {
        let random = noise(u64::from(seed) + u64::from(number), 2);
        let part = f64::from(random[0]) / 256.0;
        whole.mul_f64((f64::from(number) + part) / f64::from(count))
    })
}

/// The image of the kill tests and its size.
fn large_image(root: &Path) -> (Layout, u64) {
    let mut layout = Layout::new(root.join("layout"));
    let layers = [
        (1, 30_000_000),
        (2, 3_000_000),
        (3, 200_000),
        (4, 9_000_000),
    ]
    .map(|(seed, length)| layout.layer(seed, length));
    let size = layers.iter().map(|layer| layer["size"].as_u64().unwrap());
    let size = size.sum();
    layout.image("v1", &layers.each_ref());
    (layout, size)
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    let source = Installation::new();
    let registry = Registry::new(&source.root.join("registry"));
    let (layout, size) = large_image(&source.root);
    layout.push("v1", &format!("{}/a/b:v1", registry.address));
    let gauge = Gauge::new(&registry.address);
    let name = format!("{}/a/b:v1", gauge.address);
    let started = Instant::now();
    Installation::new().ok(&["pull", "-q", &name]);
    let whole = started.elapsed();
    gauge.take();
    for moment in moments(whole) {
        let installation = Installation::new();
        killed_after(&installation, &["pull", "-q", &name], moment);
        std::thread::sleep(Duration::from_millis(50));
        let (_, before) = gauge.take();
        installation.ok(&["pull", "-q", &name]);
        let (_, after) = gauge.take();
        let twice = (before + after).saturating_sub(size);
        assert!(
            twice < size / 20,
            "killed after {moment:?} of {whole:?}: {before} and {after} bytes of {size}"
        );
        assert_whole(&installation.data);
        installation.ok(&["image", "inspect", &name]);
    }
}

#[test]
fn a_killed_push_goes_on_where_it_was() {
    let installation = Installation::new();
    let source = Registry::new(&installation.root.join("source"));
    let (layout, size) = large_image(&installation.root);
    let origin = format!("{}/a/b:v1", source.address);
    layout.push("v1", &origin);
    installation.ok(&["pull", "-q", &origin]);
    let mut whole = Duration::ZERO;
    let mut push = |number: usize, moment: Option<Duration>| {
        let root = installation.root.join(format!("target{number}"));
        let target = Registry::new(&root);
        let gauge = Gauge::new(&target.address);
        let name = format!("{}/c/d:v1", gauge.address);
        installation.ok(&["tag", &origin, &name]);
        let started = Instant::now();
        if let Some(moment) = moment {
            killed_after(&installation, &["push", "-q", &name], moment);
            std::thread::sleep(Duration::from_millis(50));
        }
        installation.ok(&["push", "-q", &name]);
        whole = started.elapsed();
        let (sent, _) = gauge.take();
        let twice = sent.saturating_sub(size);
        assert!(twice < size / 20, "{moment:?}: {sent} bytes of {size}");
        let again = Installation::new();
        again.ok(&["pull", "-q", &format!("{}/c/d:v1", target.address)]);
        assert_whole(&again.data);
        let left = names_in(&installation.data.join("uploads"));
        assert!(left.is_empty(), "{left:?}");
        installation.ok(&["rmi", &name]);
        drop(target);
        fs::remove_dir_all(root).unwrap();
        whole
    };
    let whole = push(0, None);
    for (number, moment) in (1..).zip(moments(whole)) {
        push(number, Some(moment));
    }
}

/// Eight processes pull eight images that share layers, while a ninth prunes in a loop: every
/// image is complete, and every blob has come once.
#[test]
fn pulls_of_images_that_share_layers_share_the_work() {
    let source = Installation::new();
    let registry = Registry::new(&source.root.join("registry"));
    let mut layout = Layout::new(source.root.join("layout"));
    let layers: Vec<_> = (0..6)
        .map(|seed| layout.layer(seed, 2_000_000 + seed as usize * 100_000))
        .collect();
    let mut used = BTreeSet::new();
    for number in 0..8_usize {
        let chosen: Vec<_> = (0..6).filter(|layer| (number + layer) % 3 != 0).collect();
        used.extend(chosen.iter().copied());
        let chosen: Vec<_> = chosen.into_iter().map(|layer| &layers[layer]).collect();
        let name = format!("t{number}");
        layout.image(&name, &chosen);
        layout.push(&name, &format!("{}/a/b:{name}", registry.address));
    }
    let size: u64 = used
        .iter()
        .map(|layer| layers[*layer]["size"].as_u64().unwrap())
        .sum();
    let gauge = Gauge::new(&registry.address);
    let installation = Installation::new();
    let names: Vec<_> = (0..8)
        .map(|number| format!("{}/a/b:t{number}", gauge.address))
        .collect();
    let mut pulls: Vec<_> = names
        .iter()
        .map(|name| {
            installation
                .command(&["pull", "-q", name])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    wait_until("all pulls end", || {
        // Only what has no name goes, and none of what the pulls are about to use.
        installation.ok(&["image", "prune", "-f"]);
        pulls
            .iter_mut()
            .all(|pull| pull.try_wait().unwrap().is_some())
    });
    for (pull, name) in pulls.into_iter().zip(&names) {
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        installation.ok(&["image", "inspect", name]);
    }
    let (_, came) = gauge.take();
    assert!(came < size + size / 50, "{came} bytes of {size}");
    assert_whole(&installation.data);
    assert_eq!(
        names_in(&installation.data.join("layers/sha256"))
            .iter()
            .filter(|name| !name.ends_with(".json"))
            .count(),
        used.len()
    );
}
