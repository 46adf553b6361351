//! The images that are moved: made of bytes that a generator gives, so that every run and every
//! machine has the same ones and nothing is fetched.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::process;

/// An image and where its layers are.
pub struct Image {
    /// Its name in the registry.
    pub name: &'static str,
    /// For a heading.
    pub title: String,
    /// An OCI layout that holds it as `latest`.
    pub layout: PathBuf,
    /// Digests of its layers, with the algorithm.
    pub layers: Vec<String>,
}

/// What the files of a layer are like.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes of all files together.
    bytes: usize,
    /// The largest size of a file is two to the power of this; sizes are spread evenly over their
    /// logarithms, as in a root file system.
    largest: u32,
    /// Files in one directory.
    files_per_directory: usize,
    /// Directories in one directory above.
    directories_per_top: usize,
}

/// A Debian root without caches: 160 MB in some thousand files.
const ROOT: Shape = Shape {
    bytes: 160 << 20,
    largest: 20,
    files_per_directory: 24,
    directories_per_top: 20,
};

/// One of thirty layers, as a Dockerfile with many steps makes them.
const STEP: Shape = Shape {
    bytes: 5 << 20,
    largest: 18,
    files_per_directory: 16,
    directories_per_top: 4,
};

/// The files of a `node_modules`.
const SMALL_FILES: usize = 50_000;
const SMALL: Shape = Shape {
    bytes: usize::MAX,
    largest: 13,
    files_per_directory: 9,
    directories_per_top: 5,
};

/// Makes the three images below `directory`.
pub fn make(directory: &Path) -> Result<Vec<Image>> {
    let steps: Vec<(u64, Shape, usize)> =
        (0..30).map(|step| (100 + step, STEP, usize::MAX)).collect();
    [
        ("root", "one layer of 160 MB", vec![(1, ROOT, usize::MAX)]),
        ("steps", "30 layers of 5 MB", steps),
        (
            "modules",
            "50,000 small files",
            vec![(2, SMALL, SMALL_FILES)],
        ),
    ]
    .into_iter()
    .map(|(name, title, layers)| image(directory, name, title, &layers))
    .collect()
}

fn image(
    directory: &Path,
    name: &'static str,
    title: &str,
    shapes: &[(u64, Shape, usize)],
) -> Result<Image> {
    let layout = directory.join(name);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Error::at("create", &blobs))?;
    let archive = directory.join("layer.tar");
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    let (mut packed, mut plain) = (0, 0);
    for (seed, shape, most_files) in shapes {
        plain += write_layer(&archive, *seed, *shape, *most_files)?;
        diff_ids.push(digest(&archive)?);
        let compressed = directory.join("layer.tar.gz");
        gzip(&archive, &compressed)?;
        let descriptor = adopt(
            &compressed,
            &blobs,
            "application/vnd.oci.image.layer.v1.tar+gzip",
        )?;
        packed += descriptor["size"].as_u64().unwrap_or_default();
        layers.push(descriptor);
    }
    fs::remove_file(&archive).map_err(Error::at("remove", &archive))?;
    let document = |value: &Value, media_type: &str| {
        let path = directory.join("document.json");
        fs::write(&path, value.to_string()).map_err(Error::at("write", &path))?;
        adopt(&path, &blobs, media_type)
    };
    let config = document(
        &json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created_by": "bench" })).collect::<Vec<_>>(),
        }),
        "application/vnd.oci.image.config.v1+json",
    )?;
    let mut manifest = document(
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        }),
        MANIFEST,
    )?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    for (file, value) in [
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        (
            "index.json",
            json!({ "schemaVersion": 2, "manifests": [manifest] }),
        ),
    ] {
        let path = layout.join(file);
        fs::write(&path, value.to_string()).map_err(Error::at("write", &path))?;
    }
    Ok(Image {
        name,
        title: format!(
            "{title}: {} MB, compressed {} MB",
            plain >> 20,
            packed >> 20
        ),
        layout,
        layers: layers
            .iter()
            .filter_map(|layer| layer["digest"].as_str().map(str::to_owned))
            .collect(),
    })
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Moves a file among the blobs and describes it.
fn adopt(path: &Path, blobs: &Path, media_type: &str) -> Result<Value> {
    let size = fs::metadata(path)
        .map_err(Error::at("examine", path))?
        .len();
    let digest = digest(path)?;
    let blob = blobs.join(digest.trim_start_matches("sha256:"));
    fs::rename(path, &blob).map_err(Error::at("rename", path))?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
}

fn digest(path: &Path) -> Result<String> {
    let line = process::stdout(Command::new("sha256sum").arg(path))?;
    match line.split_whitespace().next() {
        Some(hex) => Ok(format!("sha256:{hex}")),
        None => Err(Error::Malformed("sha256sum printed nothing".to_owned())),
    }
}

fn gzip(from: &Path, to: &Path) -> Result<()> {
    let input = File::open(from).map_err(Error::at("open", from))?;
    let output = File::create(to).map_err(Error::at("create", to))?;
    process::run(
        Command::new("gzip")
            .args(["--no-name", "--stdout"])
            .stdin(Stdio::from(input))
            .stdout(output),
    )
}

/// Writes a layer's archive; returns its size.
fn write_layer(path: &Path, seed: u64, shape: Shape, most_files: usize) -> Result<u64> {
    let file = File::create(path).map_err(Error::at("create", path))?;
    let mut archive = Archive {
        output: BufWriter::with_capacity(1 << 20, file),
        written: 0,
    };
    fill(&mut archive, seed, shape, most_files).map_err(Error::at("write", path))?;
    Ok(archive.written)
}

fn fill(
    archive: &mut Archive<impl Write>,
    seed: u64,
    shape: Shape,
    most_files: usize,
) -> std::io::Result<()> {
    let mut random = Random(seed);
    let words = Words::new();
    let mut left = shape.bytes;
    let mut data = Vec::new();
    let (mut directory, mut files) = (0, 0);
    while left > 0 && files < most_files {
        let top = format!("top{seed}-{}", directory / shape.directories_per_top);
        if directory % shape.directories_per_top == 0 {
            archive.entry(&format!("{top}/"), b'5', 0o755, b"", b"")?;
        }
        let place = format!("{top}/part{directory}");
        archive.entry(&format!("{place}/"), b'5', 0o755, b"", b"")?;
        for number in 0..shape.files_per_directory {
            if left == 0 || files == most_files {
                break;
            }
            // Between 256 bytes and the largest.
            let power = 8 + random.below(u64::from(shape.largest - 8)) as u32;
            let size = (1_usize << power) + random.below(1 << power) as usize;
            let size = size.min(left);
            words.write(&mut random, size, &mut data);
            let mode = if number == 0 { 0o755 } else { 0o644 };
            archive.entry(&format!("{place}/file{number}.so"), b'0', mode, b"", &data)?;
            (left, files) = (left - size, files + 1);
        }
        archive.entry(&format!("{place}/link"), b'2', 0o777, b"file0.so", b"")?;
        directory += 1;
    }
    archive.finish()
}

/// A writer of plain ustar archives.
struct Archive<W> {
    output: W,
    written: u64,
}

impl<W: Write> Archive<W> {
    /// Adds an entry. Name and target have at most 100 bytes.
    fn entry(
        &mut self,
        name: &str,
        kind: u8,
        mode: u32,
        target: &[u8],
        data: &[u8],
    ) -> std::io::Result<()> {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let mut octal = |at: usize, width: usize, value: usize| {
            let digits = format!("{value:0width$o}");
            header[at..at + width].copy_from_slice(digits.as_bytes());
        };
        octal(100, 7, mode as usize);
        octal(108, 7, 0);
        octal(116, 7, 0);
        octal(124, 11, data.len());
        octal(136, 11, 1_700_000_000);
        header[156] = kind;
        header[157..157 + target.len()].copy_from_slice(target);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.put(&header)?;
        self.put(data)?;
        self.put(&[0; 512][..data.len().wrapping_neg() % 512])
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.put(&[0; 1024])?;
        self.output.flush()
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.written += bytes.len() as u64;
        self.output.write_all(bytes)
    }
}

/// Marsaglia's xorshift with a multiplied output.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`, not quite evenly.
    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }
}

/// A vocabulary: text made of it deflates to about the share of its size that programs and
/// libraries do, 0.4.
struct Words(Vec<Vec<u8>>);

impl Words {
    fn new() -> Self {
        let mut random = Random(7);
        let word = |random: &mut Random| {
            let length = 4 + random.below(14);
            (0..length).map(|_| (random.next() >> 40) as u8).collect()
        };
        Self((0..8192).map(|_| word(&mut random)).collect())
    }

    /// Fills `data` with `size` bytes.
    fn write(&self, random: &mut Random, size: usize, data: &mut Vec<u8>) {
        data.clear();
        while data.len() < size {
            // Some words are commoner than others, as everywhere.
            let range = 1 << (4 + random.below(10));
            let index = random.below(range) as usize;
            data.extend_from_slice(&self.0[index.min(self.0.len() - 1)]);
            if random.below(4) == 0 {
                data.extend_from_slice(&random.next().to_le_bytes()[..3]);
            }
        }
        data.truncate(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(seed: u64, shape: Shape, most_files: usize) -> Vec<u8> {
        let mut archive = Archive {
            output: Vec::new(),
            written: 0,
        };
        fill(&mut archive, seed, shape, most_files).unwrap();
        assert_eq!(archive.written, archive.output.len() as u64);
        archive.output
    }

    #[test]
    fn layers_are_the_same_each_time_and_differ_from_each_other() {
        let shape = Shape {
            bytes: 200_000,
            ..STEP
        };
        assert_eq!(archive(1, shape, usize::MAX), archive(1, shape, usize::MAX));
        assert_ne!(archive(1, shape, usize::MAX), archive(2, shape, usize::MAX));
    }

    /// GNU tar reads what we write, with as many files as were asked for.
    #[test]
    fn tar_lists_them() {
        let mut child = Command::new("tar")
            .args(["--list", "--file", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes = archive(2, SMALL, 100);
        // Its list is shorter than a pipe holds.
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let list = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            list.lines().filter(|line| line.ends_with(".so")).count(),
            100
        );
    }
}
