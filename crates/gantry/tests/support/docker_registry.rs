//! Debian's docker-registry, and skopeo that pushes to it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{text, wait_until};

/// A docker-registry on a free port of the loopback; it ends with its value.
pub struct DockerRegistry {
    process: Child,
    pub host: String,
    pub port: u16,
    directory: PathBuf,
}

impl DockerRegistry {
    /// Starts one that keeps its files below `root`.
    pub fn start(root: &Path) -> DockerRegistry {
        DockerRegistry::with(&root.join("registry"), "")
    }

    /// Starts one in a directory of its own, with more lines in its configuration.
    pub fn with(directory: &Path, extra: &str) -> DockerRegistry {
        fs::create_dir_all(directory).unwrap();
        // It cannot be told to choose a port itself: the one found may be gone by then.
        for _ in 0..10 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let config = directory.join("config.yml");
            let storage = directory.join("storage");
            let lines = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{extra}",
                storage.display()
            );
            fs::write(&config, lines).unwrap();
            let mut process = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(directory.join("log")).unwrap())
                .spawn()
                .expect("setpriv and docker-registry are installed");
            let mut ended = false;
            wait_until("the registry listens", || {
                ended = process.try_wait().unwrap().is_some();
                ended || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
            });
            if !ended {
                return DockerRegistry {
                    process,
                    host: format!("127.0.0.1:{port}"),
                    port,
                    directory: directory.to_owned(),
                };
            }
        }
        panic!(
            "the registry does not start: {:?}",
            fs::read_to_string(directory.join("log"))
        );
    }

    /// The name of an image there.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    /// Pushes from an OCI layout; returns the digest of what the tag names.
    pub fn push(&self, layout: &Path, tag: &str, flags: &[&str], to: &str) -> String {
        let digest = self.directory.join("digest");
        let pushed = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args(flags)
            .arg("--digestfile")
            .arg(&digest)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{}", self.name(to)))
            .output()
            .expect("skopeo is installed");
        assert!(pushed.status.success(), "{}", text(&pushed.stderr));
        fs::read_to_string(digest).unwrap()
    }

    /// File in which the registry keeps a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.directory
            .join("storage/docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
