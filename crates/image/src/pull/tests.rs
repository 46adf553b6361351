use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::credentials::{CredentialSource, DockerFiles};
use crate::model::Platform;
use crate::registry::RetryPolicy;
use crate::testing::{Reply, Server, TestDirectory, tar};
use crate::unpack::LayerError;

/// Whether an error is the right one.
type Expected<E> = fn(&E) -> bool;

mod images;
mod layers;
mod resume;

const GZIP: &str = media_type::LAYER_GZIP;
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One layer of an image to be served, with every claim about it open to change.
#[derive(Clone)]
struct Layer {
    /// What the registry sends.
    served: Vec<u8>,
    digest: Digest,
    size: u64,
    diff_id: Digest,
    media_type: &'static str,
    urls: Vec<String>,
}

impl Layer {
    fn new(media_type: &'static str, compressed: Vec<u8>, archive: &[u8]) -> Self {
        Self {
            digest: Digest::of(&compressed),
            size: compressed.len() as u64,
            diff_id: Digest::of(archive),
            served: compressed,
            media_type,
            urls: Vec::new(),
        }
    }

    fn gzip(archive: &[u8]) -> Self {
        Self::new(GZIP, gzip(archive), archive)
    }
}

/// What a registry has under `/v2/a/b/`.
#[derive(Clone, Default)]
struct Content(HashMap<String, Reply>);

impl Content {
    fn blob(&mut self, digest: Digest, bytes: &[u8]) {
        self.0
            .insert(format!("/v2/a/b/blobs/{digest}"), Reply::new(200, bytes));
    }

    /// Returns a descriptor of the document.
    fn manifest(
        &mut self,
        tag: Option<&str>,
        media_type: &str,
        document: &serde_json::Value,
    ) -> serde_json::Value {
        let bytes = serde_json::to_vec(document).unwrap();
        let digest = Digest::of(&bytes);
        let reply = Reply::new(200, bytes.clone()).header("Content-Type", media_type);
        for name in tag
            .into_iter()
            .map(str::to_owned)
            .chain([digest.to_string()])
        {
            self.0
                .insert(format!("/v2/a/b/manifests/{name}"), reply.clone());
        }
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn image(&mut self, tag: Option<&str>, layers: &[Layer], platform: &str) -> serde_json::Value {
        let platform: Platform = platform.parse().unwrap();
        let config = json!({"architecture": platform.architecture, "os": platform.os, "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| l.diff_id).collect::<Vec<_>>()}});
        let config = serde_json::to_vec(&config).unwrap();
        self.blob(Digest::of(&config), &config);
        let mut descriptors = Vec::new();
        for layer in layers {
            self.blob(layer.digest, &layer.served);
            let mut descriptor =
                json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size});
            if !layer.urls.is_empty() {
                descriptor["urls"] = json!(layer.urls);
            }
            descriptors.push(descriptor);
        }
        let config = json!({"mediaType": media_type::CONFIG, "digest": Digest::of(&config), "size": config.len()});
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config,
            "layers": descriptors});
        let mut descriptor = self.manifest(tag, media_type::MANIFEST, &manifest);
        descriptor["platform"] = serde_json::to_value(&platform).unwrap();
        descriptor
    }

    fn index(&mut self, tag: Option<&str>, manifests: &[serde_json::Value]) -> serde_json::Value {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.manifest(tag, media_type::INDEX, &index)
    }

    fn serve(self) -> Server {
        Server::start(move |request| {
            self.0
                .get(request.path())
                .cloned()
                .unwrap_or_else(|| Reply::new(404, ""))
        })
    }
}

/// As [`serve_image`], for whoever fetches a token first, which anybody may.
fn serve_public_image(layers: &[Layer]) -> Server {
    let mut content = Content::default();
    content.image(Some("latest"), layers, "linux/amd64");
    Server::start(move |request| {
        let realm = format!("http://{}/token", request.header("host").unwrap());
        match (request.path(), request.header("authorization")) {
            ("/token", None) => Reply::new(200, r#"{"token":"anonymous"}"#),
            (path, Some("Bearer anonymous")) => content.0.get(path).unwrap().clone(),
            _ => {
                Reply::new(401, "").header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
            }
        }
    })
}

fn serve_image(layers: &[Layer]) -> Server {
    let mut content = Content::default();
    content.image(Some("latest"), layers, "linux/amd64");
    content.serve()
}

struct Setup {
    directory: TestDirectory,
    store: Store,
    options: PullOptions,
}

fn setup() -> Setup {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let mut options = PullOptions::default();
    options.client.retry = RetryPolicy {
        retries: 1,
        delay: Duration::from_millis(1),
        ..RetryPolicy::default()
    };
    options.client.certificate_directories.clear();
    Setup {
        directory,
        store,
        options,
    }
}

impl Setup {
    fn pull(&self, server: &Server, suffix: &str) -> Result<Pulled, PullError> {
        self.pull_for(server, suffix, "linux/amd64").0
    }

    fn pull_for(
        &self,
        server: &Server,
        suffix: &str,
        platform: &str,
    ) -> (Result<Pulled, PullError>, Vec<PullEvent>) {
        let reference = Reference::parse(&format!("{}/a/b{suffix}", server.host())).unwrap();
        let events = Mutex::new(Vec::new());
        let platform = platform.parse().unwrap();
        let result = pull(
            &self.store,
            &self.options,
            &reference,
            Some(&platform),
            &|event| {
                events.lock().unwrap().push(event);
            },
        );
        (result, events.into_inner().unwrap())
    }

    /// Nothing has a name, and nothing is left of what was being written.
    fn assert_empty(&self, what: &str) {
        assert_eq!(self.store.list_blobs().unwrap(), [], "{what}");
        assert_eq!(self.store.list_layers().unwrap(), [], "{what}");
        let left = std::fs::read_dir(self.directory.path().join("ingest"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "{what}");
    }

    fn layer_error(&self, server: &Server, what: &str) -> LayerError {
        match self.pull(server, "") {
            Err(PullError::Layer {
                source,
                digest,
                reference,
                number,
            }) => {
                assert!(
                    reference.ends_with("/a/b") && number > 0,
                    "{what}: {reference} {digest}"
                );
                self.assert_empty(what);
                *source
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn blob_requests(server: &Server) -> usize {
    server
        .seen()
        .iter()
        .filter(|request| request.path().contains("/blobs/"))
        .count()
}
