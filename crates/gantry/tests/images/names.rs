//! Names that come and go, and images that go with their last one.

use std::fs;

use crate::id_of;
use crate::support::{self, Installation, text};

#[test]
fn names_come_and_go_as_in_docker() {
    let here = Installation::with_busybox();
    let id = id_of(&here, "busybox");
    here.ok(&["tag", "busybox", "me/box:1"]);
    here.ok(&["image", "tag", &id, "other"]);
    let rows = here.ok(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    assert_eq!(rows.lines().count(), 3, "{rows}");
    assert_eq!(
        here.ok(&["images", "-q", "--no-trunc", "me/*"]),
        id,
        "a pattern of names"
    );
    for (filter, count) in [
        ("reference=busybox", 1),
        ("dangling=true", 0),
        ("before=busybox", 0),
        ("until=1h", 0),
        ("label=nothing", 0),
    ] {
        let rows = here.ok(&["image", "ls", "-q", "--filter", filter]);
        assert_eq!(rows.lines().count(), count, "{filter}");
    }
    let error = here.fails(
        1,
        &[
            "tag",
            "busybox",
            "x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
    );
    assert!(
        error.contains("refusing to create a tag with a digest reference"),
        "{error}"
    );

    let hex = &id["sha256:".len()..];
    let error = here.fails(1, &["rmi", &hex[..12]]);
    let expected = format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        &hex[..12]
    );
    assert!(error.contains(&expected), "{error}");
    assert_eq!(here.ok(&["rmi", "me/box:1"]), "Untagged: me/box:1");
    here.ok(&["image", "rm", "other"]);

    here.ok(&[
        "run",
        "--name",
        "user",
        "--network",
        "none",
        "busybox",
        "true",
    ]);
    let error = here.fails(1, &["rmi", "busybox"]);
    assert!(
        error.contains(
            "conflict: unable to remove repository reference \"busybox\" (must force) - container"
        ),
        "{error}"
    );
    let error = here.fails(1, &["rmi", &hex[..12]]);
    assert!(
        error.contains("image is being used by stopped container"),
        "{error}"
    );
    here.ok(&[
        "run",
        "-d",
        "--name",
        "runs",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ]);
    let error = here.fails(1, &["rmi", "-f", &hex[..12]]);
    assert!(
        error.contains("(cannot be forced) - image is being used by running container"),
        "{error}"
    );
    // What is used stays usable when its name is taken away by force.
    assert_eq!(
        here.ok(&["rmi", "-f", "busybox"]),
        "Untagged: busybox:latest"
    );
    here.ok(&["start", "user"]);
    here.ok(&["rm", "-f", "user", "runs"]);
    let gone = here.ok(&["image", "prune", "-f"]);
    assert!(gone.contains(&format!("deleted: {id}")), "{gone}");
    assert!(gone.contains("Total reclaimed space: "), "{gone}");
    assert_eq!(
        fs::read_dir(here.data.join("layers/sha256"))
            .unwrap()
            .count(),
        0
    );
    here.assert_clean();
}

/// CVE-2024-36623 and kin: images are removed while others are made and run; what was made stays
/// whole, and what a run has found does not go away under it.
#[test]
fn pruning_never_takes_what_is_used() {
    let here = Installation::with_busybox();
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            for _ in 0..25 {
                here.gantry(&["image", "prune", "-a", "-f"]);
            }
        });
        let tar = support::busybox_tar();
        let mut ran = 0;
        for number in 0..10 {
            let name = format!("image{number}");
            let label = format!("LABEL n={number}");
            here.ok(&["import", "-c", &label, tar.to_str().unwrap(), &name]);
            let output = here.gantry(&["run", "--rm", "--network", "none", &name, "echo", "ran"]);
            if output.status.success() {
                assert_eq!(text(&output.stdout), "ran");
                ran += 1;
            } else {
                // It was pruned between the two commands, as one piece.
                let error = text(&output.stderr);
                assert!(
                    error.contains("no such image")
                        || error.contains("cannot pull")
                        || error.contains("not found"),
                    "{error}"
                );
            }
        }
        pruner.join().unwrap();
        assert!(ran <= 10);
    });
    here.gantry(&["image", "verify", "--deep"]);
    let output = here.gantry(&["image", "verify", "--deep"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    here.assert_clean();
}
