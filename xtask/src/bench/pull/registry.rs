//! Debian's docker-registry, with a directory and a port of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::images::Image;
use crate::bench::stage::Stage;
use crate::error::{Error, Result};
use crate::process;

/// A registry that runs.
pub struct Registry {
    port: u16,
    directory: PathBuf,
    process: Child,
}

impl Registry {
    /// Starts an empty one and waits until it answers.
    pub fn start(stage: &Stage, port: u16) -> Result<Self> {
        let directory = stage.path(&format!("registry-{port}"));
        fs::create_dir_all(&directory).map_err(Error::at("create", &directory))?;
        // JSON is YAML as well.
        let settings = json!({
            "version": 0.1,
            "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": {
                "filesystem": { "rootdirectory": directory.join("data"), "maxthreads": 100 },
                "delete": { "enabled": true },
            },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        let path = directory.join("config.yml");
        fs::write(&path, settings.to_string()).map_err(Error::at("write", &path))?;
        let log = directory.join("log");
        let log = fs::File::create(&log).map_err(Error::at("create", &log))?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| Error::Io {
                what: "cannot run docker-registry".to_owned(),
                source,
            })?;
        let mut registry = Self {
            port,
            directory,
            process,
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || !matches!(registry.process.try_wait(), Ok(None)) {
                let log = registry.directory.join("log");
                let text = fs::read_to_string(&log).unwrap_or_default();
                registry.stop()?;
                return Err(Error::Failed(format!(
                    "docker-registry does not answer: {text}"
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// What an image is called here.
    pub fn reference(&self, image: &Image) -> String {
        format!("127.0.0.1:{}/{}:latest", self.port, image.name)
    }

    /// Where a layer is.
    pub fn url(&self, image: &Image, layer: &str) -> String {
        format!(
            "http://127.0.0.1:{}/v2/{}/blobs/{layer}",
            self.port, image.name
        )
    }

    /// Puts an image into it.
    pub fn upload(&self, image: &Image) -> Result<()> {
        process::quietly(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
                .arg(format!("oci:{}:latest", image.layout.display()))
                .arg(format!("docker://{}", self.reference(image))),
        )
    }

    /// Asks for all layers once, so that the registry reads none of them from the disk later.
    pub fn warm(&self, image: &Image) -> Result<()> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail"]);
        for layer in &image.layers {
            command
                .args(["--output", "/dev/null"])
                .arg(self.url(image, layer));
        }
        process::quietly(&mut command)
    }

    /// Ends it and removes what it holds.
    pub fn stop(mut self) -> Result<()> {
        // One that has ended already needs no signal.
        let _ = self.process.kill();
        self.process.wait().map_err(|source| Error::Io {
            what: "cannot wait for docker-registry".to_owned(),
            source,
        })?;
        fs::remove_dir_all(&self.directory).map_err(Error::at("remove", &self.directory))
    }
}
