//! `linux.devices`, masked and read-only paths, and the root itself.

use std::fs;

use serde_json::json;

use crate::bundle::{Bundle, check};

#[test]
fn devices_are_made_as_asked() {
    let bundle = Bundle::new();
    check(
        &bundle,
        &[
            (
                "kinds, modes and owners",
                &|config| {
                    config["linux"]["devices"] = json!([
                        {"path": "/dev/one", "type": "c", "major": 1, "minor": 3,
                         "fileMode": 0o600, "uid": 5, "gid": 6},
                        {"path": "/dev/deep/er/two", "type": "u", "major": 1, "minor": 5},
                        {"path": "/dev/block", "type": "b", "major": 7, "minor": 200,
                         "fileMode": 0o60_660},
                        {"path": "/dev/fifo", "type": "p", "fileMode": 0o640},
                        {"path": "/elsewhere/three", "type": "c", "major": 1, "minor": 7}
                    ]);
                },
                "stat -c '%n %F %t:%T %a %u:%g' /dev/one /dev/deep/er/two /dev/block /dev/fifo \
                 /elsewhere/three",
                "/dev/one character special file 1:3 600 5:6\n\
                 /dev/deep/er/two character special file 1:5 666 0:0\n\
                 /dev/block block special file 7:c8 660 0:0\n\
                 /dev/fifo fifo 0:0 640 0:0\n\
                 /elsewhere/three character special file 1:7 666 0:0",
            ),
            (
                "a default device with other rights",
                &|config| {
                    config["linux"]["devices"] = json!([
                        {"path": "/dev/full", "type": "c", "major": 1, "minor": 7,
                         "fileMode": 0o622, "gid": 3}
                    ]);
                },
                "stat -c '%t:%T %a %u:%g' /dev/full",
                "1:7 622 0:3",
            ),
            (
                "without a mount on /dev",
                &|config| {
                    let mounts = config["mounts"].as_array_mut().unwrap();
                    mounts.retain(|mount| {
                        !mount["destination"].as_str().unwrap().starts_with("/dev")
                    });
                },
                "stat -c %t:%T /dev/null; readlink /dev/stdin; readlink /dev/fd",
                "1:3\n/proc/self/fd/0\n/proc/self/fd",
            ),
        ],
    );
    let error = bundle.refused(&|config| {
        config["linux"]["devices"] =
            json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 9}]);
    });
    assert!(
        error.contains("linux.devices: /dev/null is there already"),
        "{error}"
    );
}

#[test]
fn paths_are_masked_and_read_only() {
    let bundle = Bundle::new();
    fs::create_dir_all(bundle.root().join("secret")).unwrap();
    fs::write(bundle.root().join("secret/file"), "x").unwrap();
    fs::write(bundle.root().join("single"), "x").unwrap();
    check(
        &bundle,
        &[
            (
                "masked",
                &|config| {
                    config["linux"]["maskedPaths"] =
                        json!(["/secret", "/single", "/not/there", "/proc/version"]);
                },
                "ls /secret | wc -l; cat /single | wc -c; touch /secret/x 2>&1 | grep -o Read-only; \
                 stat -c %t:%T /proc/version; ls /not 2>&1 | grep -c No",
                "0\n0\nRead-only\n1:3\n1",
            ),
            (
                "read-only",
                &|config| {
                    config["linux"]["readonlyPaths"] = json!(["/secret", "/proc/sys", "/nothing"]);
                },
                "cat /secret/file; echo; touch /secret/x 2>&1 | grep -o Read-only; \
                 (echo 1 > /proc/sys/net/ipv4/ip_forward) 2>&1 | grep -o Read-only",
                "x\nRead-only\nRead-only",
            ),
            (
                "the root",
                &|config| config["root"]["readonly"] = json!(true),
                "touch /x 2>&1 | grep -o Read-only; touch /dev/x && echo writable",
                "Read-only\nwritable",
            ),
        ],
    );
    assert!(!bundle.root().join("not").exists());
}

#[test]
fn the_roots_propagation_is_as_asked() {
    let bundle = Bundle::new();
    for (asked, seen) in [
        ("private", "-"),
        ("rprivate", "-"),
        ("unbindable", "unbindable"),
        ("shared", "shared"),
        ("rshared", "shared"),
    ] {
        let said = bundle.says(
            &|config| config["linux"]["rootfsPropagation"] = json!(asked),
            "awk '$5 == \"/\" {print $7}' /proc/self/mountinfo | cut -d: -f1",
        );
        assert_eq!(said, seen, "{asked}");
    }
}
