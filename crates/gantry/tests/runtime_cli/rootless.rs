//! Without privileges.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Runtime, rootfs};
use crate::support::{bin_dir, text, wait_until};

/// A user whom no system has.
const USER: u32 = 54_321;

/// A directory and a program that the user may use.
struct Rootless {
    runtime: Runtime,
    home: PathBuf,
}

impl Rootless {
    fn new() -> Rootless {
        let runtime = Runtime::new();
        let home = runtime.directory.join("home");
        fs::create_dir(&home).unwrap();
        fs::copy(
            bin_dir().join("gantry-runtime"),
            runtime.directory.join("program"),
        )
        .unwrap();
        for path in [&runtime.directory, &runtime.directory.join("program")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::chown(&home, Some(USER), Some(USER)).unwrap();
        Rootless { runtime, home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &USER.to_string(), "--regid", &USER.to_string()])
            .arg("--clear-groups")
            .arg(self.runtime.directory.join("program"))
            .args(arguments)
            .current_dir(&self.home)
            .env("XDG_RUNTIME_DIR", &self.home)
            .stdin(Stdio::null());
        command
    }

    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output: Output = self.command(arguments).output().unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        text(&output.stdout)
    }

    fn configure(&self, program: &[&str]) {
        let file = self.home.join("config.json");
        let _ = fs::remove_file(&file);
        self.ends(0, &["spec", "--rootless"]);
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(program);
        config["root"]["path"] = json!(rootfs());
        fs::write(file, config.to_string()).unwrap();
    }
}

#[test]
fn a_user_without_privileges_runs_containers() {
    let user = Rootless::new();
    user.configure(&[
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map; echo > /dev/null; exit 5",
    ]);
    let said = user.ends(5, &["run", "one"]);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "0", &USER.to_string(), "1"]);
    user.configure(&["sleep", "1000"]);
    let started = user
        .command(&["run", "-d", "two"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(started.unwrap().success());
    // Its network is the host's, which may not be joined and need not be.
    assert_eq!(user.ends(0, &["exec", "two", "hostname"]), "gantry");
    assert_eq!(user.ends(3, &["exec", "two", "sh", "-c", "exit 3"]), "");
    assert!(user.ends(0, &["ps", "two"]).contains("sleep 1000"));
    // There is no control group to do it with.
    user.ends(1, &["pause", "two"]);
    user.ends(0, &["kill", "two", "KILL"]);
    wait_until("it has stopped", || {
        user.ends(0, &["state", "two"]).contains("\"stopped\"")
    });
    user.ends(0, &["delete", "two"]);
    assert_eq!(user.ends(0, &["list", "-q"]), "");
    let left = fs::read_dir(user.home.join("gantry-runtime")).unwrap();
    assert_eq!(left.count(), 0);
}
