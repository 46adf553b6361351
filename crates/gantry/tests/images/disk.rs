//! `system df` and `image verify`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Installation, text};

/// Bytes on the disk as `du` counts them.
fn du(path: &Path) -> u64 {
    let output = Command::new("du")
        .args(["-s", "-B1"])
        .arg(path)
        .output()
        .unwrap();
    text(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_disk_is_accounted_for_and_damage_is_named() {
    let here = Installation::with_busybox();
    here.ok(&[
        "run",
        "--name",
        "one",
        "--network",
        "none",
        "-v",
        "data:/data",
        "busybox",
        "sh",
        "-c",
        "head -c 300000 /dev/zero > /data/x; head -c 200000 /dev/zero > /y; echo logged",
    ]);
    here.ok(&["commit", "one", "two"]);
    let report = here.ok(&["system", "df", "-v", "--format", "json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let sum: u64 = report["Totals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["Size"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, du(&here.data));
    let table = here.ok(&["system", "df"]);
    assert!(
        table.starts_with("TYPE            TOTAL     ACTIVE    SIZE"),
        "{table}"
    );

    here.ok(&["image", "verify", "--deep"]);
    // One byte of a file in an unpacked layer, and one of a blob.
    let layers = here.inspect("two")["RootFS"]["Layers"].clone();
    let layer = |index: usize| layers[index].as_str().unwrap()["sha256:".len()..].to_owned();
    let unpacked: PathBuf = here.data.join("layers/sha256").join(layer(1)).join("y");
    let mut bytes = fs::read(&unpacked).unwrap();
    bytes[1000] ^= 1;
    fs::write(&unpacked, bytes).unwrap();
    let blob = here.data.join("blobs/sha256").join(layer(0));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let output = here.gantry(&["image", "verify", "--deep"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!(
            "damaged: layer sha256:{} (of two:latest)",
            layer(1)
        )),
        "{said}"
    );
    assert!(
        said.contains(&format!("damaged: blob sha256:{}", layer(0))),
        "{said}"
    );
    assert!(said.contains("2 objects are damaged"), "{said}");
    // The rest works on.
    assert_eq!(here.shell(&[], "echo fine"), "fine");
    here.ok(&["rm", "one"]);
    here.assert_clean();
}
