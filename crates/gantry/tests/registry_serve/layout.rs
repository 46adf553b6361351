//! An image as files, for clients to push.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{busybox_tar, text};

/// An OCI image layout with one image in it, called `t`.
pub struct Layout {
    pub directory: PathBuf,
    /// Digest of the manifest.
    pub digest: String,
}

pub fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    format!("sha256:{}", &text(&output.stdout)[..64])
}

impl Layout {
    /// Busybox, with a config that differs by `mark`.
    pub fn busybox(directory: &Path, mark: &str) -> Layout {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let add = |bytes: &[u8], kind: &str| -> Value {
            let staged = directory.join("staged");
            fs::write(&staged, bytes).unwrap();
            let digest = sha256(&staged);
            fs::rename(&staged, blobs.join(&digest[7..])).unwrap();
            json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
        };
        // skopeo compresses what is not, which would give another manifest.
        let packed = Command::new("gzip")
            .arg("-nc1")
            .arg(busybox_tar())
            .output()
            .unwrap();
        let layer = add(
            &packed.stdout,
            "application/vnd.oci.image.layer.v1.tar+gzip",
        );
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Cmd": ["sh"], "Labels": { "mark": mark } },
            "rootfs": { "type": "layers", "diff_ids": [sha256(&busybox_tar())] },
            "history": [{ "created_by": "test" }],
        });
        let config = add(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer],
        });
        let mut manifest = add(manifest.to_string().as_bytes(), kind);
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "t" });
        let digest = manifest["digest"].as_str().unwrap().to_owned();
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Layout {
            directory: directory.to_owned(),
            digest,
        }
    }

    /// As skopeo names it.
    pub fn name(&self) -> String {
        format!("oci:{}:t", self.directory.display())
    }
}
