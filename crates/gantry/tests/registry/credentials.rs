//! Credentials of the docker client.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::layout::{architectures, filter, layout};
use crate::support::docker_registry::DockerRegistry;
use crate::support::{Installation, text};
use crate::{assert_no_image, look, looks, start_registry};

/// A registry that lets in `somebody` with the password `secret`, and holds `app:1`.
fn private_registry(installation: &Installation) -> DockerRegistry {
    let passwords = installation.root.join("passwords");
    let made = Command::new("htpasswd")
        .args(["-Bbn", "somebody", "secret"])
        .output()
        .expect("htpasswd is installed");
    fs::write(&passwords, made.stdout).unwrap();
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
        passwords.display()
    );
    let registry = DockerRegistry::with(&installation.root.join("private"), &auth);
    let layout = layout(installation);
    let flags = ["--dest-creds", "somebody:secret"];
    registry.push(&layout.directory, "single", &flags, "app:1");
    registry
}

/// What the docker client would have stored, and what is in PATH beside it.
struct Docker<'a> {
    installation: &'a Installation,
    directory: PathBuf,
}

impl Docker<'_> {
    fn new<'a>(installation: &'a Installation, config: &str) -> Docker<'a> {
        let directory = installation.root.join("docker");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.json"), config).unwrap();
        Docker {
            installation,
            directory,
        }
    }

    /// Puts `docker-credential-NAME` into PATH.
    fn helper(self, name: &str, script: &str) -> Self {
        let path = self.directory.join(format!("docker-credential-{name}"));
        // Written by another process: one that this process has open for writing while another
        // thread forks cannot be executed (ETXTBSY).
        let made = Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod 755 \"$0\"",
            ])
            .arg(path)
            .arg(script)
            .status();
        assert!(made.unwrap().success());
        self
    }

    fn pull(&self, reference: &str) -> std::process::Output {
        let path = std::env::var("PATH").unwrap();
        self.installation
            .command(&["pull", reference])
            .env("DOCKER_CONFIG", &self.directory)
            .env("PATH", format!("{}:{path}", self.directory.display()))
            .output()
            .unwrap()
    }

    /// Pulls, finds the image there, and removes it again.
    fn pulls(&self, reference: &str) {
        let output = self.pull(reference);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "");
        self.installation.ok(&["rmi", reference]);
    }

    /// Runs a pull that has to fail; returns its one line, without the hint.
    fn fails(&self, reference: &str) -> String {
        let output = self.pull(reference);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        let lines: Vec<&str> = error.lines().collect();
        assert!(lines.len() <= 2, "{error}");
        assert!(
            lines[1..].iter().all(|line| line.contains("hint:")),
            "{error}"
        );
        assert!(lines[0].contains(reference), "which image? {error}");
        assert!(!error.contains("secret"), "{error}");
        assert_no_image(self.installation);
        lines[0].to_owned()
    }
}

/// `user:password` as `config.json` has it.
fn encoded(credentials: &str) -> String {
    text(&filter("base64", credentials.as_bytes()))
}

#[test]
fn a_private_image_is_pulled_with_what_docker_has_stored() {
    let installation = Installation::new();
    let registry = private_registry(&installation);
    let reference = registry.name("app:1");
    let host = registry.host.clone();
    let auth = encoded("somebody:secret");
    for key in [host.clone(), format!("https://{host}/v1/")] {
        let config = json!({"auths": {key: {"auth": auth}, "other.tld": {"auth": "!"}}});
        Docker::new(&installation, &config.to_string()).pulls(&reference);
    }
    // `$HOME/.docker` without DOCKER_CONFIG.
    let home = installation.root.join("home");
    fs::create_dir_all(home.join(".docker")).unwrap();
    let config = json!({"auths": {&host: {"username": "somebody", "password": "secret"}}});
    fs::write(home.join(".docker/config.json"), config.to_string()).unwrap();
    let output = installation
        .command(&["pull", "-q", &reference])
        .env("HOME", home)
        .env_remove("DOCKER_CONFIG")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(look(&installation, &reference), looks(architectures().0));
    installation.ok(&["rmi", &reference]);
    assert_no_image(&installation);
    installation.assert_clean();
}

#[test]
fn a_private_image_is_refused_in_one_line() {
    let installation = Installation::new();
    let registry = private_registry(&installation);
    let reference = registry.name("app:1");
    let host = registry.host.clone();
    let entry = |auth: &str| json!({"auths": {&host: {"auth": auth}}}).to_string();
    let place = installation.root.join("docker/config.json");
    let place = place.to_str().unwrap();
    for (config, expected) in [
        ("{}".to_owned(), format!("{place} has none for {host}")),
        (
            json!({"auths": {"127.0.0.1": {"auth": encoded("somebody:secret")}}}).to_string(),
            format!("{place} has none for {host}"),
        ),
        (
            entry(&encoded("somebody:wrong")),
            format!("user name or password from {place} is wrong"),
        ),
        (entry("!"), format!("cannot use {place}")),
        ("{\"auths\":{".to_owned(), format!("cannot use {place}")),
    ] {
        let error = Docker::new(&installation, &config).fails(&reference);
        assert!(error.contains(&expected), "{config}: {error}");
    }
    let docker = Docker::new(&installation, "{}");
    fs::remove_file(place).unwrap();
    let error = docker.fails(&reference);
    assert!(
        error.contains(&format!("read from {place}, which does not exist")),
        "{error}"
    );
    // An open registry is none of this file's business.
    let open = start_registry(&installation);
    let layout = layout(&installation);
    open.push(&layout.directory, "single", &[], "app:1");
    Docker::new(&installation, "{").pulls(&open.name("app:1"));
    installation.assert_clean();
}

#[test]
fn a_credential_helper_is_asked_for_the_registry_alone() {
    let installation = Installation::new();
    let registry = private_registry(&installation);
    let reference = registry.name("app:1");
    let host = registry.host.clone();
    let asked = installation.root.join("asked");
    let helper = format!(
        "echo \"$* $(cat)\" >> {}\necho '{{\"ServerURL\":\"\",\"Username\":\"somebody\",\"Secret\":\"secret\"}}'",
        asked.display()
    );
    for config in [
        json!({"auths": {&host: {}}, "credsStore": "test"}),
        json!({"credHelpers": {&host: "test"}, "credsStore": "absent"}),
    ] {
        Docker::new(&installation, &config.to_string())
            .helper("test", &helper)
            .pulls(&reference);
        let line = format!("get {host}\n");
        assert_eq!(
            fs::read_to_string(&asked).unwrap(),
            line,
            "once for all requests"
        );
        fs::remove_file(&asked).unwrap();
    }
    let config = json!({"credsStore": "test"}).to_string();
    for (script, expected) in [
        (
            "echo credentials not found in native keychain; exit 1",
            "has none for",
        ),
        (
            "echo the keyring is locked; exit 1",
            "the keyring is locked",
        ),
        ("echo secret", "is of no use for"),
        (&helper.replace("\"secret\"", "\"wrong\""), "is wrong"),
    ] {
        let docker = Docker::new(&installation, &config).helper("test", script);
        let error = docker.fails(&reference);
        for part in ["docker-credential-test", &host, expected] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let config = json!({"credsStore": "absent"}).to_string();
    let docker = Docker::new(&installation, &config);
    let error = docker.fails(&reference);
    for part in ["docker-credential-absent", &host, "not in PATH"] {
        assert!(error.contains(part), "{error}");
    }
    // Where nobody asks for credentials nobody misses the helper.
    let open = start_registry(&installation);
    let layout = layout(&installation);
    open.push(&layout.directory, "single", &[], "app:1");
    docker.pulls(&open.name("app:1"));
    installation.assert_clean();
}
