//! Capabilities: R09, R10, R22, R23.

use std::fs;

use crate::idle;
use crate::support::Installation;

/// Capability sets of a process as the kernel says them: Inh, Prm, Eff, Bnd, Amb.
const SETS: &str = "sed -n 's/^Cap...:\\t//p' /proc/self/status | tr '\\n' ' '";

const NONE: &str = "0000000000000000";

const DEFAULT: &str = "00000000a80425fb";

// R09, CVE-2016-8867; R10, CVE-2018-10856; R22, CVE-2022-24769 and its kin; R23,
// CVE-2025-27612: capabilities that are kept, or can be gained.
#[test]
fn r09_r10_r22_r23_no_capability_is_inherited() {
    let installation = Installation::with_busybox();
    let of_root = format!("{NONE} {DEFAULT} {DEFAULT} {DEFAULT} {NONE}");
    let of_user = format!("{NONE} {NONE} {NONE} {DEFAULT} {NONE}");
    idle(&installation, "idle", &[]);
    let exec = |flags: &[&str], name: &str| {
        let mut arguments = vec!["exec"];
        arguments.extend(flags);
        arguments.extend([name, "sh", "-c", SETS]);
        installation.ok(&arguments)
    };
    assert_eq!(installation.shell(&[], SETS).trim(), of_root);
    assert_eq!(installation.shell(&["-u", "1000"], SETS).trim(), of_user);
    assert_eq!(
        installation.shell(&["-u", "app", "--init"], SETS).trim(),
        of_user
    );
    assert_eq!(exec(&[], "idle").trim(), of_root);
    assert_eq!(exec(&["-u", "1000"], "idle").trim(), of_user);
    // Added ones are in the bounding set, and nowhere to be inherited.
    let more = "00000000a80435fb";
    let added = installation.shell(&["--cap-add", "NET_ADMIN"], SETS);
    assert_eq!(added.trim(), format!("{NONE} {more} {more} {more} {NONE}"));
    let added = installation.shell(&["--cap-add", "NET_ADMIN", "-u", "1000"], SETS);
    assert_eq!(added.trim(), format!("{NONE} {NONE} {NONE} {more} {NONE}"));
    // An exec with more than its container.
    let output = exec(&["--privileged"], "idle");
    let sets: Vec<&str> = output.split_whitespace().collect();
    assert_eq!((sets[0], sets[4]), (NONE, NONE), "{output}");
    assert_ne!(sets[2], DEFAULT, "{output}");
    assert_eq!(
        exec(&["--privileged", "-u", "1000"], "idle")
            .split_whitespace()
            .next(),
        Some(NONE)
    );
}

// R22, CVE-2022-24769: a program with inheritable file capabilities gives a plain user
// nothing where the inheritable set is empty.
#[test]
fn r22_inheritable_file_capabilities_give_nothing() {
    let installation = Installation::with_busybox();
    let files = installation.root.join("files");
    fs::create_dir(&files).unwrap();
    fs::copy("/bin/busybox", files.join("sed")).unwrap();
    // struct vfs_cap_data, revision 2, effective bit set: permitted 0, inheritable all.
    let mut value = Vec::new();
    for word in [0x0200_0001u32, 0, 0xffff_ffff, 0, 0xffff_ffff] {
        value.extend(word.to_le_bytes());
    }
    rustix::fs::setxattr(
        files.join("sed"),
        "security.capability",
        &value,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let flag = format!("{}:/files:ro", files.display());
    let script = "/files/sed -n 's/^Cap\\(Prm\\|Eff\\|Amb\\):\\t//p' /proc/self/status";
    let none = format!("{NONE}\n{NONE}\n{NONE}");
    assert_eq!(
        installation.shell(&["-u", "1000", "-v", &flag], script),
        none
    );
    idle(&installation, "idle", &["-v", &flag]);
    assert_eq!(
        installation.ok(&["exec", "-u", "1000", "idle", "sh", "-c", script]),
        none
    );
}
