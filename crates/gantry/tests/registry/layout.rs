//! An image as files, and skopeo to push it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{self, Installation, text};

/// An OCI layout in the making.
pub struct Layout {
    pub directory: PathBuf,
}

impl Layout {
    fn new(directory: PathBuf) -> Layout {
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Layout { directory }
    }

    /// Adds a blob; returns its descriptor.
    fn add(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(
            self.directory.join("blobs/sha256").join(&digest[7..]),
            bytes,
        )
        .unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds an image; returns the descriptor of its manifest.
    pub fn image(&self, architecture: &str, layers: &[(Vec<u8>, Compression)]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| sha256(tar)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin", format!("BUILT_FOR={architecture}")], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let layers: Vec<Value> = layers
            .iter()
            .map(|(tar, compression)| {
                let kind = "application/vnd.oci.image.layer.v1.tar";
                match compression {
                    Compression::None => self.add(kind, tar),
                    Compression::Gzip => self.add(&format!("{kind}+gzip"), &filter("gzip", tar)),
                    Compression::Zstd => self.add(&format!("{kind}+zstd"), &filter("zstd", tar)),
                }
            })
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
        });
        self.add(media_type, manifest.to_string().as_bytes())
    }

    /// Gives a descriptor a name.
    pub fn tag(&self, name: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let path = self.directory.join("index.json");
        let mut index = fs::read(&path).map_or_else(
            |_| json!({"schemaVersion": 2, "manifests": []}),
            |bytes| serde_json::from_slice(&bytes).unwrap(),
        );
        index["manifests"].as_array_mut().unwrap().push(descriptor);
        fs::write(path, index.to_string()).unwrap();
    }

    /// An index of images for several architectures.
    pub fn index(&self, images: &[(&str, Value)]) -> Value {
        let manifests: Vec<Value> = images
            .iter()
            .map(|(architecture, descriptor)| {
                let mut entry = descriptor.clone();
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
                entry
            })
            .collect();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.add(media_type, index.to_string().as_bytes())
    }
}

#[derive(Clone, Copy)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a program makes of its standard input.
pub fn filter(program: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap().stdout
    })
}

pub fn sha256(bytes: &[u8]) -> String {
    let sum = text(&filter("sha256sum", bytes));
    format!("sha256:{}", sum.split(' ').next().unwrap())
}

/// A layer of what `make` puts into a directory.
pub fn layer(installation: &Installation, make: impl FnOnce(&Path)) -> Vec<u8> {
    let directory = installation.root.join("layer");
    fs::create_dir_all(&directory).unwrap();
    make(&directory);
    let tar = Command::new("tar")
        .args([
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--mtime=@1",
            "-C",
        ])
        .arg(&directory)
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    assert!(tar.status.success());
    fs::remove_dir_all(&directory).unwrap();
    tar.stdout
}

/// Names of this host's architecture and of another one.
pub fn architectures() -> (&'static str, &'static str) {
    if cfg!(target_arch = "x86_64") {
        ("amd64", "arm64")
    } else {
        ("arm64", "amd64")
    }
}

/// Layers of all compressions that hide, replace and link files of each other.
pub fn layers(installation: &Installation) -> Vec<(Vec<u8>, Compression)> {
    let write = |path: PathBuf, content: &str| fs::write(path, content).unwrap();
    let base = fs::read(support::busybox_tar()).unwrap();
    let files = layer(installation, |root| {
        fs::create_dir_all(root.join("data/emptied")).unwrap();
        write(root.join("data/hidden"), "hidden");
        write(root.join("data/replaced"), "old");
        write(root.join("data/emptied/old"), "old");
        write(root.join("data/linked"), "same");
        fs::hard_link(root.join("data/linked"), root.join("data/other")).unwrap();
        symlink("linked", root.join("data/pointer")).unwrap();
    });
    let changes = layer(installation, |root| {
        fs::create_dir_all(root.join("data/emptied")).unwrap();
        write(root.join("data/.wh.hidden"), "");
        write(root.join("data/replaced"), "new");
        write(root.join("data/emptied/.wh..wh..opq"), "");
        write(root.join("data/emptied/new"), "new");
    });
    let last = layer(installation, |root| {
        fs::create_dir_all(root.join("data")).unwrap();
        write(root.join("data/last"), "last");
    });
    vec![
        (base, Compression::Gzip),
        (files, Compression::Zstd),
        (changes, Compression::None),
        (last, Compression::Gzip),
    ]
}

/// A layout with the index `app` and, for this host alone, the image `single`.
pub fn layout(installation: &Installation) -> Layout {
    let layout = Layout::new(installation.root.join("layout"));
    let (own, other) = architectures();
    let layers = layers(installation);
    let (own_image, other_image) = (layout.image(own, &layers), layout.image(other, &layers));
    layout.tag("single", own_image.clone());
    layout.tag(
        "app",
        layout.index(&[(other, other_image), (own, own_image)]),
    );
    layout
}
