//! `save` and `load`.

use std::fs;
use std::process::Command;

use crate::id_of;
use crate::support::{self, Installation, is_installed, text};

#[test]
fn archives_round_trip_with_equal_digests() {
    let one = Installation::with_busybox();
    one.ok(&["tag", "busybox", "me/box:1"]);
    let id = id_of(&one, "busybox");
    let file = one.root.join("saved.tar");
    let path = file.to_str().unwrap();
    one.ok(&["save", "-o", path, "busybox", "me/box:1"]);
    let streamed = one.gantry(&["image", "save", "busybox", "me/box:1"]).stdout;
    assert_eq!(
        fs::read(&file).unwrap(),
        streamed,
        "the same bytes each time"
    );
    let two = Installation::new();
    assert_eq!(
        two.ok(&["load", "-i", path]),
        "Loaded image: busybox:latest\nLoaded image: me/box:1"
    );
    assert_eq!(id_of(&two, "me/box:1"), id);
    let again = two.gantry(&["save", "busybox", "me/box:1"]).stdout;
    assert_eq!(again, streamed, "what was loaded is saved as it was");
    let three = Installation::new();
    let output = three.feed(&["image", "load", "-q"], &again);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(three.shell(&[], "echo works"), "works");
    let error = three.fails(1, &["load", "-i", "/bin/busybox"]);
    assert!(error.contains("cannot load the archive"), "{error}");
    let error = three.fails(1, &["save", "nothing"]);
    assert!(error.contains("no such image"), "{error}");
    three.assert_clean();
    if is_installed("skopeo") {
        for kind in ["oci-archive", "docker-archive"] {
            let single = one.root.join("single.tar");
            one.ok(&["save", "-o", single.to_str().unwrap(), "me/box:1"]);
            let copied = one.root.join(format!("{kind}.tar"));
            let output = Command::new("skopeo")
                .args(["copy", "--quiet"])
                .arg(format!("{kind}:{}", single.display()))
                .arg(format!("docker-archive:{}:from/skopeo:1", copied.display()))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            let back = Installation::new();
            assert_eq!(
                back.ok(&["load", "-i", copied.to_str().unwrap()]),
                "Loaded image: from/skopeo:1"
            );
            assert_eq!(id_of(&back, "from/skopeo:1"), id, "{kind}");
        }
    }
}

/// As with Docker: each image of a list takes the name from the one before, and that is said.
#[test]
fn the_last_image_of_an_archive_has_the_name() {
    let here = Installation::with_busybox();
    let mut ids = Vec::new();
    for number in ["1", "2"] {
        let tar = support::busybox_tar();
        let label = format!("LABEL n={number}");
        here.ok(&["import", "-c", &label, tar.to_str().unwrap(), number]);
        ids.push(id_of(&here, number));
    }
    let file = here.root.join("saved.tar");
    here.ok(&["save", "-o", file.to_str().unwrap(), "1", "2"]);
    // Both under the name of the second, in both lists.
    let unpacked = here.root.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let script = "tar -xf ../saved.tar && sed -i 's/\\(library.\\|\"\\)1:latest/\\12:latest/' *.json \
                  && tar -cf ../again.tar *";
    let done = Command::new("sh")
        .args(["-ec", script])
        .current_dir(&unpacked)
        .status();
    assert!(done.unwrap().success());
    let again = here.root.join("again.tar");
    let other = Installation::new();
    let said = other.ok(&["load", "-i", again.to_str().unwrap()]);
    let (first, second) = (&ids[0], &ids[1]);
    let line = format!(
        "The image 2:latest already exists, renaming the old one with ID {first} to empty string"
    );
    assert!(said.contains(&line), "{said}");
    assert!(said.ends_with("Loaded image: 2:latest"), "{said}");
    assert_eq!(&id_of(&other, "2"), second);
    assert_eq!(&id_of(&other, first), first);
}
