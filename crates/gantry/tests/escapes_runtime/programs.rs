//! The runtime's own programs and descriptors: R01, R02.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::escapes::{hostile_image, long, probe, refused, run};
use crate::support::{Installation, bin_dir, text, wait_until};
use crate::{EROFS, attempts, idle, link};

/// An installation whose programs are copies of their own, so that what happens to them is
/// this test's doing, and a command that uses them.
struct Own {
    installation: Installation,
}

impl Own {
    fn new() -> Own {
        let installation = Installation::with_busybox();
        let own = installation.root.join("own");
        fs::create_dir(&own).unwrap();
        for program in ["gantry", "gantry-supervisor"] {
            fs::copy(bin_dir().join(program), own.join(program)).unwrap();
        }
        Own { installation }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.installation.root.join("own/gantry"));
        command
            .args(arguments)
            .env("GANTRY_DATA_ROOT", &self.installation.data)
            .env("GANTRY_RUN_ROOT", &self.installation.run)
            .stdin(std::process::Stdio::null());
        command
    }

    fn sums(&self) -> String {
        let own = self.installation.root.join("own");
        run(Command::new("sha256sum")
            .arg(own.join("gantry"))
            .arg(own.join("gantry-supervisor")))
    }
}

// R01, CVE-2019-5736: a container rewrites the host's runtime through /proc/PID/exe.
#[test]
fn r01_programs_of_the_host_cannot_be_overwritten() {
    let own = Own::new();
    let installation = &own.installation;
    let flag = probe(installation);
    hostile_image(installation, "self", &["ENTRYPOINT [\"/evil\"]"], |root| {
        fs::write(root.join("evil"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(root.join("evil"), fs::Permissions::from_mode(0o755)).unwrap();
    });
    let before = own.sums();
    // Its program is the supervisor's file again: whatever that does, it is done inside.
    let started = own
        .command(&["run", "--rm", "--network", "none", "self"])
        .output()
        .unwrap();
    assert!(!started.status.success(), "{}", text(&started.stdout));
    assert_eq!(before, own.sums(), "after an entry point of /proc/self/exe");
    for kind in [&[][..], &["--privileged"]] {
        let name = if kind.is_empty() {
            "plain"
        } else {
            "privileged"
        };
        let mut arguments = vec![
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "-v",
            &flag,
        ];
        arguments.extend(kind);
        arguments.extend(["--entrypoint", "/probe", "self", "hunt"]);
        arguments.push("/stop");
        run(&mut own.command(&arguments));
        let rounds = if long() { 1000 } else { 100 };
        for round in 0..rounds {
            // Every other one runs the supervisor's file inside, for longer to be seen.
            let program = if round % 2 == 0 { "/evil" } else { "/bin/true" };
            let output = own.command(&["exec", name, program]).output().unwrap();
            let said = text(&output.stderr);
            assert!(!said.contains("not running"), "round {round}: {said}");
        }
        // The end of the container may catch up with it, once it has done its work.
        let _ = own
            .command(&["exec", name, "touch", "/stop"])
            .output()
            .unwrap();
        run(&mut own.command(&["wait", name]));
        let log = run(&mut own.command(&["logs", name]));
        assert!(log.contains("written 0"), "{kind:?}: {log}");
        assert_eq!(before, own.sums(), "after the hunt with {kind:?}");
    }
}

// R01, CVE-2019-5736 with CAP_SYS_ADMIN: the write protection of the birth process's file
// can be lifted neither while it runs nor when no process of ours runs from it any more.
#[test]
fn r01_a_privileged_container_cannot_lift_the_protection() {
    let own = Own::new();
    let installation = &own.installation;
    let flag = probe(installation);
    let before = own.sums();
    let shared = installation.root.join("shared");
    fs::create_dir(&shared).unwrap();
    let shared_flag = format!("{}:/shared", shared.display());
    let start = |name: &str, extra: &[&str], script: &str| {
        let mut arguments = vec![
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "--privileged",
        ];
        arguments.extend(["-v", &flag, "-v", &shared_flag]);
        arguments.extend(extra);
        arguments.extend(["busybox", "sh", "-c", script]);
        run(&mut own.command(&arguments));
    };
    let said = |file: &str| fs::read_to_string(shared.join(file)).unwrap_or_default();
    start(
        "keeper",
        &[],
        "/probe overwrite /shared/socket > /shared/kept; exec sleep 1000",
    );
    wait_until("the keeper's socket", || shared.join("socket").exists());
    // With an init PID 1 is a process that runs from the supervisor's file.
    start(
        "lifter",
        &["--init"],
        "/probe unseal /proc/1/exe /shared/socket > /shared/tried; exec sleep 1000",
    );
    wait_until("the file to be handed over", || {
        said("kept").contains("received 0")
    });
    let tried = attempts(&said("tried"));
    assert_eq!(
        tried[0],
        ("open".to_owned(), 0),
        "nothing was tried: {tried:?}"
    );
    for (attempt, error) in &tried[1..] {
        assert_ne!(*error, 0, "{attempt} succeeded");
    }
    assert_eq!(before, own.sums(), "while it ran");
    // A file that is being executed cannot be written anyway; when all its processes are
    // gone, only the read-only mount protects it.
    run(&mut own.command(&["rm", "-f", "lifter"]));
    // Both of a pair at once: either alone is replaced by the other.
    wait_until("the death of the supervisors", || {
        let mut command = Command::new("kill");
        command
            .arg("-9")
            .args(installation.supervisors().iter().map(i32::to_string));
        let _ = command.output();
        installation.supervisors().is_empty()
    });
    wait_until("the attempt to overwrite", || {
        said("kept").contains("overwrite")
    });
    let kept = attempts(&said("kept"));
    assert_eq!(
        kept.last().unwrap(),
        &("overwrite".to_owned(), EROFS),
        "{kept:?}"
    );
    assert_eq!(before, own.sums(), "after all of ours have ended");
    run(&mut own.command(&["rm", "-f", "keeper"]));
}

// R02, CVE-2024-21626: a descriptor of the host that is left open, and a working directory
// reached through it.
#[test]
fn r02_no_descriptor_of_the_host_is_left_open() {
    let installation = Installation::with_busybox();
    let list = "for f in /proc/$$/fd/*; do if [ -L $f ]; then echo ${f##*/}; fi; done";
    assert_eq!(installation.shell(&[], list), "0\n1\n2");
    idle(&installation, "idle", &[]);
    assert_eq!(
        installation.ok(&["exec", "idle", "sh", "-c", list]),
        "0\n1\n2"
    );
    let mut outside = 0;
    for number in 3..64 {
        for base in ["/proc/self/fd", "/proc/1/fd", "/proc/thread-self/fd"] {
            let directory = format!("{base}/{number}");
            let said = refused(&installation, &["exec", "-w", &directory, "idle", "pwd"]);
            outside += usize::from(said.contains("cwd outside container"));
        }
    }
    assert!(
        outside > 0,
        "no descriptor was open at all: the attempt proves nothing"
    );
    for number in (3..64).step_by(if long() { 1 } else { 4 }) {
        let directory = format!("/proc/self/fd/{number}");
        refused(
            &installation,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "-w",
                &directory,
                "busybox",
                "pwd",
            ],
        );
    }
    for directory in [
        "/proc/self/cwd",
        "/proc/self/root",
        "/proc/1/root/tmp",
        "/proc/self/fd/7/../..",
    ] {
        let said = refused(&installation, &["exec", "-w", directory, "idle", "pwd"]);
        assert!(said.contains("working directory"), "{directory}: {said}");
    }
    hostile_image(
        &installation,
        "inside",
        &["WORKDIR /proc/self/fd/7"],
        |_| {},
    );
    refused(
        &installation,
        &["run", "--rm", "--network", "none", "inside", "pwd"],
    );
    // A link in the image leads to the same place.
    hostile_image(&installation, "linked", &["WORKDIR /deep"], |root| {
        link(root, "deep", "/proc/self/fd/5");
    });
    refused(
        &installation,
        &["run", "--rm", "--network", "none", "linked", "pwd"],
    );
}
