//! What stands in the place of /dev, /proc and /sys, and of the console: R12, R13, R18, R20.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::escapes::{Canary, for_a_while, hostile_image};
use crate::support::{Installation, text};
use crate::{link, race};

/// Gives an image a folder of its own at `path`, with the names that a canary has.
fn inner_canary(root: &Path, path: &str) {
    let folder = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(folder.join("folder")).unwrap();
    for file in ["secret", "ptmx", "null", "folder/file"] {
        fs::write(folder.join(file), "the image's").unwrap();
    }
}

/// The names in the writable layer of a container, with the type and mode of each.
fn own_layer(installation: &Installation, id: &str) -> Vec<String> {
    let upper = installation.data.join("containers").join(id).join("upper");
    let mut names: Vec<String> = fs::read_dir(&upper)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            let name = entry.file_name().into_string().unwrap();
            format!("{name} {:o}", found.permissions().mode())
        })
        .collect();
    names.sort();
    names
}

// R20, CVE-2026-41579, CVE-2026-47766: /dev of the image is a link, and what the runtime
// makes and removes there it makes and removes elsewhere. R12, CVE-2019-19921,
// CVE-2023-27561, CVE-2023-28642, and R13, CVE-2025-54867: so are /proc and /sys. As with
// Docker the container gets directories of its own in their places.
#[test]
fn r12_r13_r20_links_in_place_of_dev_proc_and_sys_are_replaced() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let up = format!("../../../../../../../..{}", canary.text());
    let places = ["dev", "proc", "sys"];
    let cases: Vec<(&[&str], &str)> = vec![
        (&["dev"], "/canary"),
        (&["dev"], "../../canary"),
        (&["dev"], canary.text()),
        (&["dev"], &up),
        (&["dev"], "proc"),
        (&["dev"], "chain"),
        (&["dev"], "nowhere"),
        (&["dev"], "dev"),
        (&["proc"], canary.text()),
        (&["proc"], &up),
        (&["proc"], "/tmp"),
        (&["proc"], "chain"),
        (&["proc"], "nowhere"),
        (&["proc"], "/sys"),
        (&["sys"], canary.text()),
        (&["sys"], "../proc"),
        (&["sys"], "chain"),
        (&["sys"], "nowhere"),
        (&places, "/canary"),
        (&places, "../../canary"),
        (&places, &up),
    ];
    let script = format!(
        "stat -f -c '%T' /dev /proc /sys; stat -c '%F %t:%T' /dev/null /dev/zero /dev/tty /dev/pts/ptmx; \
         readlink /dev/ptmx; readlink /dev/fd; stat -c '%F %a %u:%g' /dev /proc; \
         echo x > /dev/null && cat /proc/1/comm && ls -1d /dev/shm /dev/mqueue /sys/fs/cgroup /proc/sys; \
         cd /canary && cat secret ptmx null folder/file && find . | wc -l; \
         cd {} && cat secret ptmx null folder/file && find . | wc -l",
        canary.text()
    );
    let folder = "the image'sthe image'sthe image'sthe image's6\n";
    let expected = format!(
        "tmpfs\nproc\nsysfs\n\
         character special file 1:3\ncharacter special file 1:5\ncharacter special file 5:0\n\
         character special file 5:2\npts/ptmx\n/proc/self/fd\n\
         directory 755 0:0\ndirectory 555 0:0\nsh\n\
         /dev/mqueue\n/dev/shm\n/proc/sys\n/sys/fs/cgroup\n{folder}{folder}"
    );
    for (index, (names, target)) in cases.into_iter().enumerate() {
        let image = format!("linked{index}");
        hostile_image(&installation, &image, &[], |root| {
            inner_canary(root, "/canary");
            inner_canary(root, canary.text());
            link(root, "chain", "second");
            link(root, "second", "/canary");
            for name in places {
                fs::create_dir_all(root.join(name)).unwrap();
            }
            for name in names {
                link(root, name, target);
            }
        });
        let what = format!("{names:?} as links to {target}");
        let every = [&["--read-only"][..], &["-t"], &[]];
        // The links of the advisories in every way, the others in turn.
        let ways = if index < 2 {
            &every[..]
        } else {
            &every[index % 3..=index % 3]
        };
        for &flags in ways {
            let mut arguments = vec!["run", "--network", "none", "--name", "linked"];
            arguments.extend(flags);
            arguments.extend([image.as_str(), "sh", "-c", &script]);
            let said = installation.ok(&arguments).replace('\r', "");
            assert_eq!(said, expected.trim_end(), "{what} {flags:?}");
            canary.assert_untouched(&format!("{what} {flags:?}"));
            // The second start finds what the first has made.
            let said = installation
                .ok(&["start", "-a", "linked"])
                .replace('\r', "");
            assert_eq!(said, expected.trim_end(), "{what} {flags:?}, again");
            canary.assert_untouched(&format!("{what} {flags:?}, again"));
            let id = installation.inspect("linked")["Id"]
                .as_str()
                .unwrap()
                .to_owned();
            // What hides the links lies below the container's own layer.
            let layer = own_layer(&installation, &id);
            assert!(layer.is_empty(), "{what} {flags:?}: {layer:?}");
            installation.ok(&["rm", "linked"]);
        }
        // A volatile layer is another mount.
        installation.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            &image,
            "test",
            "-c",
            "/dev/null",
        ]);
    }
    canary.assert_untouched("all");
}

// R12: nor does a file in such a place keep the container from its own.
#[test]
fn r12_files_in_place_of_dev_proc_and_sys_are_hidden() {
    let installation = Installation::with_busybox();
    for name in ["dev", "proc", "sys"] {
        hostile_image(&installation, name, &[], |root| {
            let _ = fs::remove_dir_all(root.join(name));
            fs::write(root.join(name), "").unwrap();
        });
        let script = "stat -f -c %T /dev /proc /sys";
        let said = installation.ok(&["run", "--rm", "--network", "none", name, "sh", "-c", script]);
        assert_eq!(said, "tmpfs\nproc\nsysfs", "{name}");
    }
}

// R18, CVE-2025-52565: the console's source /dev/pts/N is a link.
#[test]
fn r18_the_console_is_a_terminal_of_its_own() {
    let installation = Installation::with_busybox();
    let look = "tty; stat -c '%F %t' /dev/console; [ -w /proc/sys/kernel ] && (: >> /proc/sys/kernel/core_pattern) 2>/dev/null && echo writable";
    let usual = |said: &str| {
        let said = said.replace('\r', "");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines, ["/dev/pts/0", "character special file 88"], "{said}");
    };
    let output = installation.gantry(&[
        "run",
        "--rm",
        "-t",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        look,
    ]);
    usual(&text(&output.stdout));
    let prepare = "mknod /v/null c 1 3; mkdir /v/pts; touch /v/0; ln -s /proc/sys/kernel/core_pattern /v/1; \
        mknod /v/ptmx c 5 2; mkdir /v/shm";
    race(&installation, prepare, "/v/0", "/v/1");
    for_a_while(|round| {
        let target = ["racy:/dev/pts", "racy:/dev"][round as usize % 2];
        let arguments = [
            "run",
            "--rm",
            "-t",
            "--network",
            "none",
            "-v",
            target,
            "busybox",
            "sh",
            "-c",
            look,
        ];
        let output = installation.gantry(&arguments);
        if output.status.success() || !output.stdout.is_empty() {
            usual(&text(&output.stdout));
        } else {
            assert!(
                text(&output.stderr).contains("terminal"),
                "{}",
                text(&output.stderr)
            );
        }
    });
}
