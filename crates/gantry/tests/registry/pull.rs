//! What can be pulled, is.

use std::process::{Child, Stdio};

use crate::layout::{Compression, architectures, layers, layout};
use crate::support::{Installation, text};
use crate::{LOOK, assert_no_image, ingests, look, looks, start_registry};

#[test]
fn a_pushed_index_is_pulled_run_listed_and_removed() {
    let installation = Installation::new();
    let registry = start_registry(&installation);
    let layout = layout(&installation);
    let flags = ["--all", "--preserve-digests"];
    let digest = registry.push(&layout.directory, "app", &flags, "team/app:1");
    let reference = registry.name("team/app:1");
    let (own, other) = architectures();

    let told = installation.ok(&["pull", &reference]);
    assert!(told.contains(&format!("Digest: {digest}")), "{told}");
    assert!(
        told.contains(&format!("Downloaded newer image for {reference}")),
        "{told}"
    );
    assert!(told.ends_with(&reference), "{told}");
    assert_eq!(look(&installation, &reference), looks(own));
    let listed = installation.ok(&[
        "images",
        "--digests",
        "--format",
        "{{.Repository}} {{.Tag}} {{.Digest}}",
    ]);
    assert_eq!(listed, format!("{} 1 {digest}", registry.name("team/app")));

    let again = installation.ok(&["pull", &reference]);
    assert!(
        again.contains(&format!("Image is up to date for {reference}")),
        "{again}"
    );
    assert_eq!(installation.ok(&["pull", "-q", &reference]), reference);

    // The same image by its digest needs nothing new and no tag.
    let by_digest = format!("{}@{digest}", registry.name("team/app"));
    installation.ok(&["pull", &by_digest]);
    assert_eq!(look(&installation, &by_digest), looks(own));

    installation.ok(&["rmi", "-f", &reference, &by_digest]);
    assert_no_image(&installation);

    // Another platform, as asked; its program is this host's, so it runs all the same.
    installation.ok(&["pull", "--platform", &format!("linux/{other}"), &reference]);
    assert_eq!(look(&installation, &reference), looks(other));
    let id = installation.ok(&["images", "-q"]);
    installation.ok(&["rmi", "-f", &id]);
    assert_no_image(&installation);
    installation.assert_clean();
}

#[test]
fn a_docker_schema_2_image_is_pulled_by_run() {
    let installation = Installation::new();
    let registry = start_registry(&installation);
    let layout = layout(&installation);
    // That format knows no zstd.
    let layers: Vec<_> = layers(&installation)
        .into_iter()
        .map(|(tar, _)| (tar, Compression::Gzip))
        .collect();
    layout.tag("gzip", layout.image(architectures().0, &layers));
    let digest = registry.push(&layout.directory, "gzip", &["--format", "v2s2"], "app");
    let reference = registry.name("app");
    let output = installation.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        &reference,
        "sh",
        "-c",
        LOOK,
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), looks(architectures().0));
    let told = text(&output.stderr);
    assert!(told.contains("Unable to find image"), "{told}");
    assert!(told.contains(&digest), "{told}");
    // Two names, one image: it goes with the last one.
    installation.ok(&["pull", &format!("{reference}:latest")]);
    installation.ok(&["rmi", &reference]);
    assert_no_image(&installation);
    installation.assert_clean();
}

#[test]
fn four_pulls_of_one_image_at_once() {
    let installation = Installation::new();
    let registry = start_registry(&installation);
    let layout = layout(&installation);
    registry.push(
        &layout.directory,
        "app",
        &["--all", "--preserve-digests"],
        "app:1",
    );
    let reference = registry.name("app:1");
    let pulls: Vec<Child> = (0..4)
        .map(|_| {
            let mut command = installation.command(&["pull", &reference]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(ingests(&installation), 0);
    assert_eq!(installation.ok(&["images", "-q"]).lines().count(), 1);
    assert_eq!(look(&installation, &reference), looks(architectures().0));
    installation.ok(&["rmi", &reference]);
    assert_no_image(&installation);
    installation.assert_clean();
}
