//! What a power cut leaves of images, end to end: layers that were not on the disk yet are
//! unpacked again from their blobs, without a registry.
//!
//! Another boot is faked: the record of a layer names one, and the layer's files are emptied, as
//! a file system leaves files whose data it had not written.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Installation, is_root, text, wait_until};

/// The directory of the one layer that is there.
fn layer(here: &Installation) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(here.data.join("layers/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn record_of(layer: &Path) -> PathBuf {
    layer.with_extension("json")
}

fn is_marked(layer: &Path) -> bool {
    let record: Value = serde_json::from_slice(&fs::read(record_of(layer)).unwrap()).unwrap();
    record.get("unsynced").is_some()
}

fn mark(layer: &Path, boot: &str) {
    let mut record: Value = serde_json::from_slice(&fs::read(record_of(layer)).unwrap()).unwrap();
    record["unsynced"] = json!({"boot": boot, "operation": "x"});
    fs::write(record_of(layer), record.to_string()).unwrap();
}

fn empty_files(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            empty_files(&path);
        } else if kind.is_file() {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(0)
                .unwrap();
        }
    }
}

/// An installation with one image, after the process that syncs it is done.
fn settled() -> Installation {
    let here = Installation::with_busybox();
    let layer = layer(&here);
    wait_until("the layer is synced", || !is_marked(&layer));
    here
}

fn cut_the_power(here: &Installation) {
    let layer = layer(here);
    mark(&layer, "0b7a95ae-another-boot");
    empty_files(&layer);
}

#[test]
fn a_run_and_a_start_after_a_power_cut_need_no_registry() {
    if !is_root() {
        return;
    }
    let here = settled();
    let create = "create --name older --network none busybox echo older";
    here.ok(&create.split(' ').collect::<Vec<_>>());
    cut_the_power(&here);
    assert_eq!(here.shell(&[], "echo alive"), "alive");
    let damaged = layer(&here);
    wait_until("it is synced again", || !is_marked(&damaged));
    here.ok(&["image", "verify", "--deep"]);

    cut_the_power(&here);
    assert_eq!(here.ok(&["start", "-a", "older"]), "older");

    // A record of length zero, and a layer whose name never came to the disk.
    let layer_directory = layer(&here);
    wait_until("it is synced again", || !is_marked(&layer_directory));
    empty_files(&layer_directory);
    fs::write(record_of(&layer_directory), "").unwrap();
    assert_eq!(here.shell(&[], "echo alive"), "alive");
    wait_until("it is synced again", || !is_marked(&layer_directory));
    fs::remove_dir_all(&layer_directory).unwrap();
    fs::remove_file(record_of(&layer_directory)).unwrap();
    assert_eq!(here.shell(&[], "echo alive"), "alive");

    // Nobody needs it for these: it is no damage, and it comes back for an export.
    wait_until("it is synced again", || !is_marked(&layer_directory));
    cut_the_power(&here);
    here.ok(&["image", "verify", "--deep"]);
    here.ok(&["system", "df"]);
    let output = here.gantry(&["export", "older"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout.len() > 500_000, "{}", output.stdout.len());
    here.ok(&["rm", "older"]);
    here.assert_clean();
}

#[test]
fn eight_runs_restore_a_layer_together() {
    if !is_root() {
        return;
    }
    let here = settled();
    cut_the_power(&here);
    let runs: Vec<_> = (0..8)
        .map(|number| {
            let word = number.to_string();
            here.command(&["run", "--rm", "--network", "none", "busybox", "echo", &word])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (number, run) in runs.into_iter().enumerate() {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), number.to_string());
    }
    here.assert_clean();
}

#[test]
fn without_its_blob_the_image_is_named() {
    if !is_root() {
        return;
    }
    let here = settled();
    cut_the_power(&here);
    let hex = layer(&here).file_name().unwrap().to_owned();
    let blob = here.data.join("blobs/sha256").join(hex);
    let bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    let told = here.fails(
        125,
        &["run", "--rm", "--network", "none", "busybox", "true"],
    );
    assert!(told.contains("busybox:latest lacks layer"), "{told}");
    assert!(told.contains("`gantry pull busybox:latest`"), "{told}");
    // And with it there is nothing to mend by hand.
    fs::write(&blob, bytes).unwrap();
    assert_eq!(here.shell(&[], "echo alive"), "alive");
    here.assert_clean();
}

#[test]
fn the_process_that_syncs_may_be_killed_at_any_instant() {
    if !is_root() {
        return;
    }
    let here = settled();
    let layer = layer(&here);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut killed = 0;
    for round in 0..20 {
        mark(&layer, boot.trim());
        let mut child = here.command(&["__sync-layers"]).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(500 * round));
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        // Whichever of the two it is, it is whole.
        is_marked(&layer);
    }
    assert!(killed > 0, "none was hit");
    mark(&layer, boot.trim());
    here.ok(&["__sync-layers"]);
    assert!(!is_marked(&layer));
    // Nothing is left but the layers.
    assert_eq!(fs::read_dir(here.data.join("layers")).unwrap().count(), 1);
    assert_eq!(here.shell(&[], "echo alive"), "alive");
    here.assert_clean();
}

#[test]
fn removal_syncs_what_it_takes_the_blobs_of() {
    if !is_root() {
        return;
    }
    let here = settled();
    let layer = layer(&here);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    // The image is gone with its blobs and layer, marked or not, and nothing stays behind.
    mark(&layer, boot.trim());
    here.ok(&["rmi", "busybox"]);
    for directory in ["blobs/sha256", "layers/sha256", "ingest"] {
        let left = fs::read_dir(here.data.join(directory)).unwrap().count();
        assert_eq!(left, 0, "{directory}");
    }
    assert!(!layer.exists());
    here.assert_clean();
}
