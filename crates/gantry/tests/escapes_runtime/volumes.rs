//! Mounts, volumes and what an image says of itself: R21, R43, R44, R45.

use std::fs;

use crate::escapes::{Canary, hostile_image, refused};
use crate::link;
use crate::support::{Installation, text};

// R21, CVE-2021-43784: a list of mounts longer than a length field is cut.
#[test]
fn r21_a_long_list_of_mounts_is_applied_whole() {
    let installation = Installation::with_busybox();
    let source = installation.root.join("source");
    fs::create_dir(&source).unwrap();
    // About 250 kB of sources and targets, with the protection at the end.
    let count = 700;
    let long_name = "n".repeat(180);
    let volumes: Vec<String> = (0..count)
        .map(|index| format!("{}:/many/{long_name}{index:04}:ro", source.display()))
        .collect();
    let mut arguments = vec![
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        "-h",
        "whole",
    ];
    for volume in &volumes {
        arguments.extend(["-v", volume]);
    }
    let script = "grep -c ' /many/' /proc/self/mountinfo; ls /many | wc -l; hostname; touch /x 2>/dev/null || echo sealed; \
        ls /proc | grep -c '^[0-9]*$'";
    arguments.extend(["busybox", "sh", "-c", script]);
    let output = installation.gantry(&arguments);
    if output.status.success() {
        let said = text(&output.stdout);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines[..4],
            [&count.to_string(), &count.to_string(), "whole", "sealed"],
            "{said}"
        );
        let processes: u32 = lines[4].parse().unwrap();
        assert!(
            processes < 10,
            "the host's processes are visible: {processes}"
        );
    } else {
        assert_eq!(text(&output.stdout), "");
    }
}

// R44, CVE-2022-23648: a volume of the image climbs out of the root and copies the host in.
#[test]
fn r44_a_volume_of_the_image_stays_inside() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let volume = format!("/../../../../..{}", canary.text());
    hostile_image(
        &installation,
        "climbing",
        &[&format!("VOLUME {volume} /linked/d")],
        |root| {
            link(root, "linked", canary.text());
        },
    );
    let output = installation.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "climbing",
        "sh",
        "-c",
        &format!(
            "ls -A {0}; cat {0}/secret {volume}/secret; touch {0}/mark; ls -A /linked/",
            canary.text()
        ),
    ]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(
        !said.contains("the host's secret") && !said.contains("folder"),
        "{said}"
    );
    canary.assert_untouched("a volume that climbs");
    // What is in it is what the image has there.
    hostile_image(&installation, "filled", &["VOLUME /../data"], |root| {
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/own"), "the image's").unwrap();
    });
    assert_eq!(
        installation.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "filled",
            "cat",
            "/data/own"
        ]),
        "the image's"
    );
}

// R45, CVE-2020-1726, CVE-2024-9341: a read-only volume is filled; a managed mount goes
// through a link.
#[test]
fn r45_a_read_only_volume_is_never_written() {
    let installation = Installation::with_busybox();
    hostile_image(&installation, "filled", &[], |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/own"), "the image's").unwrap();
    });
    let show = |mount: &str| {
        installation.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            mount,
            "filled",
            "ls",
            "-A",
            "/d",
        ])
    };
    assert_eq!(show("read:/d:ro"), "");
    assert_eq!(
        fs::read_dir(installation.data.join("volumes/read/_data"))
            .unwrap()
            .count(),
        0
    );
    let said = installation.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "read:/d:ro",
        "filled",
        "touch",
        "/d/x",
    ]);
    assert!(!said.status.success());
    // The counter-test: one that can be written is filled.
    assert_eq!(show("write:/d"), "own");
    assert_eq!(show("read:/d"), "own");
}

// R43, CVE-2023-6476, CVE-2024-3154: properties of a unit, and other orders to the host, in
// what an image says of itself.
#[test]
fn r43_labels_of_an_image_order_nothing() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let touch = format!("/bin/touch {}/mark", canary.text());
    let changes = [
        format!("LABEL org.systemd.property.ExecStartPre=\"['{touch}']\""),
        format!("LABEL io.gantry.settle-command=\"{touch}\""),
        format!("LABEL run.oci.hooks.prestart=\"{touch}\""),
    ];
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    hostile_image(&installation, "labels", &changes, |_| {});
    installation.ok(&["run", "--rm", "--network", "none", "labels", "true"]);
    canary.assert_untouched("an image's labels");
    refused(
        &installation,
        &[
            "run",
            "--rm",
            "--annotation",
            &format!("org.systemd.property.ExecStartPre={touch}"),
            "labels",
            "true",
        ],
    );
    canary.assert_untouched("an annotation");
}
