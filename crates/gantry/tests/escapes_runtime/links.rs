//! Links in the image and in volumes, where the runtime makes, opens or removes: R04, R05, R30,
//! R31.

use std::fs;

use crate::escapes::{Canary, for_a_while, hostile_image};
use crate::support::{Installation, text};
use crate::{link, race};

// R04, CVE-2015-3627, and R31, CVE-2024-5154: links in the image where the runtime makes,
// opens or removes files.
#[test]
fn r04_r31_links_in_the_image_lead_nowhere() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let up = format!("../../../../../../../..{}", canary.text());
    let targets = [canary.text().to_owned(), up];
    for (index, target) in targets.iter().enumerate() {
        let spoiled: [(&str, &[&str]); 3] = [
            ("etc", &["etc"]),
            (
                "names",
                &["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"],
            ),
            (
                "streams",
                &[
                    "dev/stdin",
                    "dev/ptmx",
                    "dev/console",
                    "dev/null",
                    "dev/pts",
                    "dev/shm",
                    "dev/fd",
                ],
            ),
        ];
        for (kind, names) in spoiled {
            let image = format!("{kind}{index}");
            hostile_image(&installation, &image, &[], |root| {
                fs::create_dir_all(root.join("dev")).unwrap();
                for name in names {
                    let below = if kind == "names" { "/secret" } else { "" };
                    link(root, name, &format!("{target}{below}"));
                }
            });
            let look = "stat -c '%F %t:%T' /dev/null /dev/ptmx; stat -f -c %T /dev; cat /etc/hosts; ls /dev/";
            for flags in [&[][..], &["-t"]] {
                let mut arguments = vec!["run", "--rm", "--network", "none"];
                arguments.extend(flags);
                arguments.extend([image.as_str(), "sh", "-c", look]);
                let output = installation.gantry(&arguments);
                let said = text(&output.stdout);
                canary.assert_untouched(&format!("{arguments:?}"));
                assert!(!said.contains("the host's secret"), "{arguments:?}: {said}");
                // A matter of the image's own: it fails before it runs anything, or has its
                // real /dev.
                if said.is_empty() {
                    assert!(!output.status.success());
                } else {
                    assert!(
                        said.contains("character special file 1:3") && said.contains("tmpfs"),
                        "{arguments:?}: {said} {}",
                        text(&output.stderr)
                    );
                }
            }
        }
    }
}

// R05, CVE-2015-3629: the targets of mounts are exchanged for links, and the next start
// follows them.
#[test]
fn r05_a_restart_does_not_follow_new_links() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let volume = installation.root.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("own"), "the volume's").unwrap();
    let flag = format!("{}:/mnt/data", volume.display());
    let file = format!("{}/own:/mnt/file", volume.display());
    let script = format!(
        "if [ -L /work ]; then cat /mnt/data/* /mnt/file /etc/hosts; touch /mnt/data/mark; exit; fi
         mkdir /work; cp -a /bin /work/bin; rm -r /work; ln -s {0} /work",
        canary.text()
    );
    installation.ok(&[
        "create",
        "--name",
        "again",
        "--network",
        "none",
        "-v",
        &flag,
        "-v",
        &file,
        "busybox",
        "sh",
        "-c",
        &script,
    ]);
    installation.ok(&["start", "-a", "again"]);
    // What a container can do to the targets in its own writable layer while they are not
    // mounted, done here for all of them at once.
    let id = installation.ok(&["inspect", "-f", "{{.Id}}", "again"]);
    let upper = installation.data.join("containers").join(id).join("upper");
    for (name, target) in [
        ("mnt", canary.text().to_owned()),
        ("etc", canary.text().to_owned()),
        ("tmp", "../../../..".into()),
    ] {
        link(&upper, name, &target);
    }
    let _ = installation.gantry(&["start", "-a", "again"]);
    canary.assert_untouched("a restart with links for /mnt, /etc and /tmp");
    let said = installation.ok(&["logs", "again"]);
    assert!(!said.contains("the host's secret"), "{said}");
    assert!(!canary.path.join("data").exists());
}

// R30, CVE-2026-55686: the working directory is made through a link.
#[test]
fn r30_the_working_directory_is_made_inside() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let up = format!("../../../../../..{}", canary.text());
    for (image, target) in [("absolute", canary.text()), ("relative", up.as_str())] {
        hostile_image(&installation, image, &["WORKDIR /w/new/deep"], |root| {
            link(root, "w", target)
        });
        for flags in [
            &[][..],
            &["-w", "/w/other"],
            &["-w", "/w/folder/../../up"],
            &["-u", "1000"],
        ] {
            let mut arguments = vec!["run", "--rm", "--network", "none"];
            arguments.extend(flags);
            arguments.extend([image, "sh", "-c", "pwd; ls -A"]);
            let output = installation.gantry(&arguments);
            assert!(!text(&output.stdout).contains("secret"), "{arguments:?}");
            canary.assert_untouched(&format!("{arguments:?}"));
        }
    }
    // A race: the directory on the way is exchanged for a link to the host's path.
    let prepare = format!("mkdir /v/d; ln -s {up} /v/link");
    race(&installation, &prepare, "/v/d", "/v/link");
    for_a_while(|round| {
        let directory = format!("/v/d/new{round}");
        let arguments = [
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "racy:/v",
            "-w",
            &directory,
            "busybox",
            "pwd",
        ];
        let _ = installation.gantry(&arguments);
    });
    canary.assert_untouched("a race on the way to the working directory");
}
