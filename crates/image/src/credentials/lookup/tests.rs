use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::testing::TestDirectory;

/// A script that is never open for writing in this process: another thread's fork would make
/// its execution fail with ETXTBSY.
fn helper(directory: &Path, name: &str, script: &str) {
    let mut child = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(directory.join(format!("docker-credential-{name}")))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("#!/bin/sh\n{script}\n");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
}

fn files(directory: &Path, config: &str) -> DockerFiles {
    let path = directory.join("config.json");
    std::fs::write(&path, config).unwrap();
    DockerFiles {
        config: path,
        search: vec![directory.to_owned()],
        patience: Duration::from_secs(30),
    }
}

#[test]
fn the_environment_says_where() {
    let of = |pairs: &[(&str, &str)]| {
        DockerFiles::of_environment(|name| {
            let (_, value) = pairs.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        })
    };
    let config = |pairs| of(pairs).map(|files| files.config);
    assert_eq!(config(&[]), None);
    assert_eq!(
        config(&[("HOME", "/h")]),
        Some("/h/.docker/config.json".into())
    );
    assert_eq!(
        config(&[("HOME", "/h"), ("DOCKER_CONFIG", "")]),
        Some("/h/.docker/config.json".into())
    );
    assert_eq!(
        config(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]),
        Some("/d/config.json".into())
    );
    let files = of(&[("HOME", "/h"), ("PATH", "/a:/b")]).unwrap();
    assert_eq!(files.search, [PathBuf::from("/a"), PathBuf::from("/b")]);
}

#[test]
fn files_that_are_not_there_or_no_files() {
    let directory = TestDirectory::new();
    let mut files = files(directory.path(), "{}");
    let login = files.find("r.tld").unwrap();
    assert!(
        login
            .missing("r.tld")
            .contains("config.json has none for r.tld")
    );
    files.config = directory.path().join("none/config.json");
    let login = files.find("r.tld").unwrap();
    assert_eq!(login.credentials, None);
    assert!(login.missing("r.tld").contains("does not exist"));
    // Neither a FIFO nor an endless file holds anything up.
    files.config = directory.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&files.config)
            .status()
            .unwrap()
            .success()
    );
    for path in [
        files.config.clone(),
        "/dev/zero".into(),
        directory.path().to_owned(),
    ] {
        files.config = path;
        let error = files.find("r.tld").unwrap_err();
        assert!(matches!(error, CredentialError::Read { .. }), "{error:?}");
        assert!(!error.is_of_helper());
    }
}

#[test]
fn helpers_are_asked() {
    let directory = TestDirectory::new();
    let path = directory.path();
    let files = files(
        path,
        r#"{"credHelpers":{"nothing.tld":"nothing"},"credsStore":"all"}"#,
    );
    // Arguments and standard input exactly as the protocol has them.
    helper(
        path,
        "all",
        r#"[ "$*" = get ] || exit 3
server=$(cat; echo .)
printf '{"ServerURL":"%s","Username":"u-%s","Secret":"p"}' "${server%.}" "${server%.}""#,
    );
    helper(
        path,
        "nothing",
        "echo credentials not found in native keychain; exit 1",
    );
    let login = files.find("docker.io").unwrap();
    let credentials = login.credentials.clone().unwrap();
    assert_eq!(credentials.username, "u-https://index.docker.io/v1/");
    assert_eq!(credentials.password, "p");
    assert!(
        login.wrong().contains("docker-credential-all"),
        "{}",
        login.wrong()
    );
    let login = files.find("r.tld:5000").unwrap();
    assert_eq!(login.credentials.unwrap().username, "u-r.tld:5000");
    let login = files.find("nothing.tld").unwrap();
    assert_eq!(login.credentials, None);
    assert!(
        login
            .missing("nothing.tld")
            .contains("docker-credential-nothing")
    );
}

#[test]
fn helpers_that_fail_are_named_with_the_registry() {
    let directory = TestDirectory::new();
    let path = directory.path();
    helper(
        path,
        "out",
        "echo; echo the keyring is locked; echo more; exit 1",
    );
    helper(path, "err", "printf 'no\\033[31m display\\n' >&2; exit 1");
    helper(path, "silent", "exit 4");
    helper(path, "killed", "kill -9 $$");
    helper(path, "chatter", "echo hunter2");
    helper(
        path,
        "endless",
        "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2",
    );
    std::fs::write(path.join("docker-credential-plain"), "no program").unwrap();
    for (name, expected) in [
        ("out", "(the keyring is locked)"),
        ("err", "(no[31m display)"),
        ("silent", "4)"),
        ("killed", "9"),
        ("chatter", "of no use"),
        ("endless", "of no use"),
        ("absent", "not in PATH"),
        ("plain", "not in PATH"),
    ] {
        let files = files(path, &format!(r#"{{"credsStore":"{name}"}}"#));
        let error = files.find("r.tld").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("docker-credential-{name}")),
            "{text}"
        );
        assert!(text.contains("r.tld") && text.contains(expected), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(error.is_of_helper());
    }
    // A helper in a directory relative to the current one does not count.
    let mut relative = files(path, r#"{"credsStore":"out"}"#);
    let upwards = "../".repeat(64);
    relative.search = vec![
        PathBuf::new(),
        ".".into(),
        Path::new(&upwards).join(path.strip_prefix("/").unwrap()),
    ];
    assert!(relative.search[2].join("docker-credential-out").exists());
    let error = relative.find("r.tld").unwrap_err();
    assert!(
        matches!(error, CredentialError::HelperMissing { .. }),
        "{error:?}"
    );
}

#[test]
fn helpers_do_not_hold_a_pull_up_for_ever() {
    let directory = TestDirectory::new();
    let path = directory.path();
    // An agent that stays and keeps the pipes: the answer is there, so it is used.
    helper(
        path,
        "agent",
        "sleep 20 & echo $! > \"${0%/*}/agent\"; printf '{\"Username\":\"u\",\"Secret\":\"p\"}'; exit 0",
    );
    helper(path, "stuck", "exec sleep 20");
    let started = Instant::now();
    let agent = files(path, r#"{"credsStore":"agent"}"#);
    assert_eq!(
        agent.find("r.tld").unwrap().credentials.unwrap().password,
        "p"
    );
    let kept = std::fs::read_to_string(path.join("agent")).unwrap();
    assert!(
        Command::new("kill")
            .arg(kept.trim())
            .status()
            .unwrap()
            .success(),
        "it still runs"
    );
    let mut stuck = files(path, r#"{"credsStore":"stuck"}"#);
    stuck.patience = Duration::from_millis(300);
    let error = stuck.find("r.tld").unwrap_err();
    assert!(
        matches!(error, CredentialError::HelperSlow { .. }),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(15));
}
