//! `gantry import` and `gantry load` given what strangers made (section 3 of the list of escapes):
//! one line says what is wrong, the exit status is 1, and neither the host nor the store has
//! anything of it. What each entry can be is tested in the crate of images; here it is that both
//! ways in, files and streams, go through all of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;

use support::{Installation, text};

/// An entry of an archive: name, type, link target, data, and device numbers.
struct Entry<'a>(&'a str, u8, &'a str, &'a [u8], (u32, u32));

fn file<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
    Entry(name, b'0', "", data, (0, 0))
}

fn link<'a>(name: &'a str, kind: u8, target: &'a str) -> Entry<'a> {
    Entry(name, kind, target, b"", (0, 0))
}

/// A ustar archive, which no tar would write.
fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for Entry(name, kind, target, data, (major, minor)) in entries {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000777\x000000000\x000000000\0");
        put(
            124,
            format!("{:011o}\x0000000000000\0        ", data.len()).as_bytes(),
        );
        put(156, &[*kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        put(329, format!("{major:07o}\0{minor:07o}\0").as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(*data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn digest(installation: &Installation, bytes: &[u8]) -> String {
    let path = installation.root.join("to-hash");
    fs::write(&path, bytes).unwrap();
    let output = std::process::Command::new("sha256sum")
        .arg(&path)
        .output()
        .unwrap();
    text(&output.stdout)[..64].to_owned()
}

/// All that can be seen of the canary.
fn canary(directory: &Path) -> String {
    let mut seen = String::new();
    for path in [directory.to_owned(), directory.join("file")] {
        let m = fs::symlink_metadata(&path).unwrap();
        let facts = (
            m.mode(),
            m.uid(),
            m.ino(),
            m.nlink(),
            m.mtime(),
            m.mtime_nsec(),
        );
        seen.push_str(&format!("{path:?} {facts:?}\n"));
    }
    let names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    format!(
        "{seen}{names:?} {}",
        fs::read_to_string(directory.join("file")).unwrap()
    )
}

/// Bytes of all that the store of content holds, and how many files.
fn holds(data: &Path) -> (u64, u64) {
    let (mut bytes, mut count) = (0, 0);
    let places = ["blobs", "layers", "ingest", "partial", "uploads"];
    let mut left: Vec<_> = places.map(|name| data.join(name)).into();
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        count += 1;
        if metadata.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            bytes += metadata.size();
        }
    }
    (bytes, count)
}

/// Gives an archive as a file and as a stream.
fn both_ways(installation: &Installation, command: &str, archive: &[u8]) -> [Output; 2] {
    let path = installation.root.join("hostile.tar");
    fs::write(&path, archive).unwrap();
    let path = path.to_str().unwrap();
    match command {
        "load" => [
            installation.gantry(&["load", "-i", path]),
            installation.feed(&["load"], archive),
        ],
        _ => [
            installation.gantry(&["import", path, "evil:1"]),
            installation.feed(&["import", "-", "evil:1"], archive),
        ],
    }
}

fn refused(installation: &Installation, command: &str, what: &str, archive: &[u8]) {
    for output in both_ways(installation, command, archive) {
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(
            output.status.code(),
            Some(1),
            "{command}: {what}: {stdout}{stderr}"
        );
        assert!(stdout.is_empty(), "{command}: {what}: {stdout}");
        assert!(
            !stderr.is_empty() && stderr.len() < 2000,
            "{command}: {what}: {stderr}"
        );
        assert!(!stderr.contains("panicked"), "{command}: {what}: {stderr}");
    }
}

/// U01, U02, U07, U08, U12, U20, U21 (CVE-2014-6407, CVE-2014-9356, CVE-2026-17106, CVE-2021-29136,
/// CVE-2024-24579, CVE-2026-26960), as a file system and as a layer of an image.
#[test]
fn hostile_layers_are_refused_on_every_way_in() {
    let installation = Installation::new();
    let outside = installation.root.join("canary");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "precious").unwrap();
    let out = outside.to_str().unwrap().to_owned();
    let out_file = format!("{out}/file");
    let way = "../".repeat(12);
    let climbing = format!("{way}{}", out_file.trim_start_matches('/'));
    let before = canary(&outside);

    // An image that stays.
    let mild = tar(&[file("a", b"1")]);
    assert!(
        installation
            .feed(&["import", "-", "mild:1"], &mild)
            .status
            .success()
    );
    let images = installation.ok(&["images", "-aq", "--no-trunc"]);
    let held = holds(&installation.data);

    let node = |name: &'static str, numbers| Entry(name, b'3', "", b"", numbers);
    let layers: Vec<(&str, Vec<u8>)> = vec![
        ("a name above the root", tar(&[file("../x", b"x")])),
        ("a long way up", tar(&[file(&climbing, b"overwritten")])),
        (
            "a link above the root",
            tar(&[link("a/../../x", b'2', "t")]),
        ),
        (
            "a hard link above the root",
            tar(&[link("h", b'1', &climbing), file("h", b"overwritten")]),
        ),
        (
            "a hard link to what is not there",
            tar(&[link("h", b'1', &out_file)]),
        ),
        (
            "a hard link by way of a link",
            tar(&[
                link("l", b'2', &out),
                link("h", b'1', "l/file"),
                file("h", b"x"),
            ]),
        ),
        (
            "the root as a link",
            tar(&[link("./", b'2', &out), file("file", b"overwritten")]),
        ),
        ("the root as a device", tar(&[node(".", (1, 3))])),
        ("a whiteout's device", tar(&[node("x", (0, 0))])),
        ("a device out of range", tar(&[node("x", (4096, 0))])),
        ("a whiteout of the parent", tar(&[file(".wh...", b"")])),
        ("a whiteout of nothing", tar(&[file("d/.wh.", b"")])),
        (
            "a whiteout as a link",
            tar(&[link(".wh.file", b'2', &out_file)]),
        ),
        (
            "a whiteout as a directory",
            tar(&[link("d/.wh.file", b'5', "")]),
        ),
        (
            "an opaque marker as a link",
            tar(&[link(".wh..wh..opq", b'2', &out)]),
        ),
        ("something below a whiteout", tar(&[file(".wh.d/x", b"")])),
        ("cut off", tar(&[file("a", &[7; 4096])])[..2000].to_vec()),
        (
            "no tar",
            b"no tar at all, and long enough to be one".repeat(40),
        ),
    ];
    for (what, layer) in &layers {
        refused(&installation, "import", what, layer);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
            digest(&installation, layer)
        );
        let list = br#"[{"Config":"c.json","RepoTags":["evil:1"],"Layers":["l.tar"]}]"#;
        let image = tar(&[
            file("c.json", config.as_bytes()),
            file("l.tar", layer),
            file("manifest.json", list),
        ]);
        refused(&installation, "load", what, &image);
        assert_eq!(canary(&outside), before, "{what}");
        assert_eq!(
            installation.ok(&["images", "-aq", "--no-trunc"]),
            images,
            "{what}"
        );
        // What was left of before may go meanwhile.
        let now = holds(&installation.data);
        assert!(
            now.0 <= held.0 && now.1 <= held.1,
            "{what}: {now:?} after {held:?}"
        );
    }

    // Links out that are never followed are content like any other.
    let confined = tar(&[
        link("l", b'2', &out),
        file("l/file", b"own"),
        link("d", b'2', "../../.."),
        file("d/file", b"own"),
    ]);
    for output in both_ways(&installation, "import", &confined) {
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(canary(&outside), before);
    installation.assert_clean();
}

/// U01, U06, U18 (CVE-2014-6407, CVE-2014-9358, CVE-2021-41190): the archive itself.
#[test]
fn hostile_archives_of_images_are_refused() {
    let installation = Installation::new();
    let layer = tar(&[file("a", b"1")]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        digest(&installation, &layer)
    );
    let config = config.as_bytes();
    let list = |config: &str, layer: &str| {
        format!(r#"[{{"Config":"{config}","RepoTags":["evil:1"],"Layers":["{layer}"]}}]"#)
    };
    let wrong = format!("{}.json", "0".repeat(64));
    let good = list("c.json", "l.tar");
    let good = good.as_bytes();
    let case = good.to_vec();
    let case = String::from_utf8(case)
        .unwrap()
        .replacen('{', r#"{"config":"d.json","#, 1);
    let index = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    let archives: Vec<(&str, Vec<u8>)> = vec![
        (
            "a name above",
            tar(&[
                file("../x", b""),
                file("c.json", config),
                file("l.tar", &layer),
                file("manifest.json", good),
            ]),
        ),
        (
            "a link above",
            tar(&[
                file("c.json", config),
                link("l.tar", b'2', "../../../etc/passwd"),
                file("manifest.json", good),
            ]),
        ),
        (
            "an absolute link",
            tar(&[
                file("c.json", config),
                link("l.tar", b'1', "/etc/passwd"),
                file("manifest.json", good),
            ]),
        ),
        (
            "a device",
            tar(&[
                file("c.json", config),
                Entry("l.tar", b'3', "", b"", (1, 3)),
                file("manifest.json", good),
            ]),
        ),
        (
            "a config elsewhere",
            tar(&[
                file("l.tar", &layer),
                file("manifest.json", list("/etc/passwd", "l.tar").as_bytes()),
            ]),
        ),
        (
            "a layer elsewhere",
            tar(&[
                file("c.json", config),
                file(
                    "manifest.json",
                    list("c.json", "../../etc/passwd").as_bytes(),
                ),
            ]),
        ),
        (
            "an id that is none",
            tar(&[
                file(&wrong, config),
                file("l.tar", &layer),
                file("manifest.json", list(&wrong, "l.tar").as_bytes()),
            ]),
        ),
        (
            "two lists",
            tar(&[
                file("c.json", config),
                file("l.tar", &layer),
                file("manifest.json", good),
                file("manifest.json", b"[]"),
            ]),
        ),
        (
            "a list that says two things",
            tar(&[
                file("c.json", config),
                file("d.json", config),
                file("l.tar", &layer),
                file("manifest.json", case.as_bytes()),
            ]),
        ),
        (
            "an index that is a manifest",
            tar(&[
                file("c.json", config),
                file("l.tar", &layer),
                file("manifest.json", good),
                file("index.json", index),
            ]),
        ),
        ("nothing", tar(&[])),
    ];
    for (what, archive) in &archives {
        refused(&installation, "load", what, archive);
        assert_eq!(installation.ok(&["images", "-aq"]), "", "{what}");
    }
    let whole = tar(&[
        file("c.json", config),
        file("l.tar", &layer),
        file("manifest.json", good),
    ]);
    for output in both_ways(&installation, "load", &whole) {
        assert_eq!(text(&output.stdout), "Loaded image: evil:1");
    }
    installation.assert_clean();
}
