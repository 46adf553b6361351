//! Files from outside of a container: volumes, binds, temporary file systems.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use support::{Installation, text};

/// An image with something to copy up at a place that a volume covers.
fn with_data() -> Installation {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run",
        "--network",
        "none",
        "--name",
        "maker",
        "-v",
        "/ignored",
        "busybox",
        "sh",
        "-c",
        "true",
    ]);
    gantry.ok(&["rm", "-v", "maker"]);
    gantry
}

fn volumes(gantry: &Installation) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(gantry.data.join("volumes"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_named_volume_outlives_its_containers() {
    let gantry = with_data();
    gantry.shell(&["-v", "store:/data"], "echo kept > /data/file");
    assert_eq!(
        gantry.shell(&["-v", "store:/elsewhere"], "cat /elsewhere/file"),
        "kept"
    );
    assert_eq!(
        gantry.shell(
            &["--mount", "type=volume,source=store,target=/data,readonly"],
            "cat /data/file; touch /data/other 2>&1 || true"
        ),
        "kept\ntouch: /data/other: Read-only file system"
    );
    assert_eq!(
        gantry.shell(
            &["-v", "store:/data:ro"],
            "touch /data/other 2>/dev/null || echo refused"
        ),
        "refused"
    );
    // Two containers share it at the same time.
    gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "writer",
        "-v",
        "store:/data",
        "busybox",
        "sleep",
        "1000",
    ]);
    gantry.ok(&["exec", "writer", "sh", "-c", "echo now > /data/live"]);
    assert_eq!(
        gantry.shell(&["-v", "store:/data"], "cat /data/live"),
        "now"
    );
    gantry.ok(&["rm", "-f", "-v", "writer"]);
    assert_eq!(volumes(&gantry), ["store"], "rm -v is about anonymous ones");
    gantry.assert_clean();
}

#[test]
fn a_new_volume_begins_with_what_the_image_has_there() {
    let gantry = with_data();
    // /home of the image: a directory `app` in it. Owner, mode and content come along.
    let listing = gantry.shell(
        &["-v", "homes:/home"],
        "ls /home; touch /home/added; chown 7:8 /home; chmod 1770 /home",
    );
    assert_eq!(listing, "app");
    // What is there already is not touched again.
    gantry.shell(&["-v", "homes:/home"], "rmdir /home/app");
    assert_eq!(
        gantry.shell(&["-v", "homes:/home"], "ls /home; stat -c '%u:%g %a' /home"),
        "added\n7:8 1770"
    );
    assert_eq!(
        gantry.shell(&["-v", "homes:/bin/nothing/here"], "ls /bin/nothing/here"),
        "added"
    );
    // Links stay links, and /etc/passwd is the image's own.
    assert_eq!(
        gantry.shell(
            &["-v", "programs:/bin", "-v", "config:/etc"],
            "readlink /bin/cat; head -n 1 /etc/passwd; [ -x /bin/busybox ] && echo x"
        ),
        "busybox\nroot:x:0:0:root:/root:/bin/sh\nx"
    );
    // Asked not to, nothing is copied.
    assert_eq!(
        gantry.shell(&["-v", "bare:/home:nocopy"], "ls -A /home"),
        ""
    );
    assert_eq!(
        gantry.shell(
            &[
                "--mount",
                "type=volume,source=bare2,target=/home,volume-nocopy"
            ],
            "ls -A /home"
        ),
        ""
    );
    gantry.assert_clean();
}

#[test]
fn anonymous_volumes_go_with_their_container_when_asked() {
    let gantry = with_data();
    let tar = support::busybox_tar();
    gantry.ok(&[
        "import",
        "-c",
        "VOLUME /var/one",
        "-c",
        "VOLUME /var/two",
        tar.to_str().unwrap(),
        "withvolumes",
    ]);
    let none: [String; 0] = [];
    assert_eq!(volumes(&gantry), none);
    gantry.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "withvolumes",
        "touch",
        "/var/one/file",
        "/var/two/file",
    ]);
    assert_eq!(volumes(&gantry), none, "--rm takes them along");
    // Each keeps to its place over a restart.
    gantry.ok(&[
        "run", "--network", "none", "--name", "kept", "-v", "/third", "withvolumes", "sh", "-c",
        "for d in /var/one /var/two /third; do echo $d >> $d/name; done; cat /var/one/name /var/two/name /third/name",
    ]);
    assert_eq!(volumes(&gantry).len(), 3);
    for round in 2..5 {
        let output = gantry.ok(&["start", "-a", "kept"]);
        let expected = ["/var/one", "/var/two", "/third"]
            .map(|name| [name].repeat(round).join("\n"))
            .join("\n");
        assert_eq!(output, expected);
    }
    gantry.ok(&["rm", "kept"]);
    assert_eq!(volumes(&gantry).len(), 3, "without -v they stay");
    gantry.ok(&[
        "create",
        "--name",
        "never-run",
        "--network",
        "none",
        "withvolumes",
        "true",
    ]);
    assert_eq!(volumes(&gantry).len(), 5);
    gantry.ok(&["rm", "-v", "never-run"]);
    assert_eq!(volumes(&gantry).len(), 3);
    gantry.assert_clean();
}

#[test]
fn directories_of_the_host_are_bound() {
    let gantry = with_data();
    let directory = gantry.root.join("bound");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "from the host\n").unwrap();
    let path = directory.to_str().unwrap();
    assert_eq!(
        gantry.shell(
            &["-v", &format!("{path}:/mnt")],
            "cat /mnt/file; echo back > /mnt/answer; chown 12:34 /mnt/answer"
        ),
        "from the host"
    );
    assert_eq!(
        fs::read_to_string(directory.join("answer")).unwrap(),
        "back\n"
    );
    let owner = fs::metadata(directory.join("answer")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (12, 34));
    for flags in [
        ["-v".to_owned(), format!("{path}:/mnt:ro")],
        [
            "--mount".to_owned(),
            format!("type=bind,src={path},dst=/mnt,ro"),
        ],
    ] {
        let said = gantry.shell(
            &[&flags[0], &flags[1]],
            "cat /mnt/file; touch /mnt/new 2>&1; mount -o remount,rw /mnt 2>/dev/null || echo refused",
        );
        assert_eq!(
            said,
            "from the host\ntouch: /mnt/new: Read-only file system\nrefused"
        );
    }
    assert!(!directory.join("new").exists());
    // Over a directory that the image fills: hidden, not copied.
    assert_eq!(
        gantry.shell(&["-v", &format!("{path}:/home")], "ls /home"),
        "answer\nfile"
    );
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    // A relative path is the caller's.
    let output = gantry
        .command(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "./bound:/mnt",
            "busybox",
            "cat",
            "/mnt/file",
        ])
        .current_dir(&gantry.root)
        .output()
        .unwrap();
    assert_eq!(
        text(&output.stdout),
        "from the host",
        "{}",
        text(&output.stderr)
    );
    // -v makes the directory, --mount does not.
    let fresh = gantry.root.join("fresh");
    gantry.shell(
        &["-v", &format!("{}:/mnt", fresh.display())],
        "touch /mnt/made",
    );
    assert!(fresh.join("made").exists());
    let absent = gantry.root.join("absent");
    let mount = format!("type=bind,src={},dst=/mnt", absent.display());
    let said = gantry.fails(
        125,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--mount",
            &mount,
            "busybox",
            "true",
        ],
    );
    assert!(said.contains(absent.to_str().unwrap()), "{said}");
    assert!(!absent.exists());
    gantry.assert_clean();
}

#[test]
fn a_single_file_is_bound() {
    let gantry = with_data();
    let file = gantry.root.join("conf");
    fs::write(&file, "one\n").unwrap();
    let path = file.display();
    assert_eq!(
        gantry.shell(
            &["-v", &format!("{path}:/etc/app/conf")],
            "cat /etc/app/conf; echo two >> /etc/app/conf"
        ),
        "one"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    assert_eq!(
        gantry.shell(
            &["-v", &format!("{path}:/etc/passwd:ro")],
            "cat /etc/passwd; echo three 2>/dev/null >> /etc/passwd || echo refused"
        ),
        "one\ntwo\nrefused"
    );
    // In place of what Gantry itself puts there.
    assert_eq!(
        gantry.shell(&["-v", &format!("{path}:/etc/hosts")], "cat /etc/hosts"),
        "one\ntwo"
    );
    // Nothing of it is in the image.
    assert_eq!(
        gantry.shell(&[], "ls /etc/app 2>/dev/null || echo none"),
        "none"
    );
    gantry.assert_clean();
}

#[test]
fn mounts_nest_and_follow_no_link_out_of_the_container() {
    let gantry = with_data();
    let outer = gantry.root.join("outer");
    fs::create_dir(&outer).unwrap();
    // Given in any order, the inner one lies above.
    let bind = format!("{}:/a", outer.display());
    assert_eq!(
        gantry.shell(
            &["--tmpfs", "/a/b/c", "-v", "inner:/a/b", "-v", &bind],
            "touch /a/x /a/b/y /a/b/c/z; grep -E ' /a' /proc/mounts | cut -d' ' -f2"
        ),
        "/a\n/a/b\n/a/b/c"
    );
    assert!(outer.join("x").exists() && !outer.join("b/y").exists());
    // A link in a volume points where it points inside, never at the host's place.
    let victim = gantry.root.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o777)).unwrap();
    gantry.shell(
        &["-v", "links:/data"],
        &format!("ln -s {} /data/link", victim.display()),
    );
    let output = gantry.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "links:/data",
        "--tmpfs",
        "/data/link/sub",
        "busybox",
        "true",
    ]);
    assert!(
        fs::read_dir(&victim).unwrap().next().is_none(),
        "{}",
        text(&output.stderr)
    );
    gantry.assert_clean();
}
