use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
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

#[test]
fn pulls_every_compression_through_an_index() {
    let setup = setup();
    let archives = [
        tar(&[("one", b"1"), ("big", &[9; 700_000])]),
        tar(&[("two", b"2")]),
        tar(&[("three", b"3"), (".wh.one", b"")]),
    ];
    let members = [gzip(&archives[0][..1000]), gzip(&archives[0][1000..])].concat();
    let layers = [
        Layer::new(DOCKER_LAYER, members, &archives[0]),
        // Named wrongly, as happens: the content decides.
        Layer::new(
            GZIP,
            zstd::encode_all(archives[1].as_slice(), 3).unwrap(),
            &archives[1],
        ),
        Layer::new(media_type::LAYER, archives[2].clone(), &archives[2]),
    ];
    let mut content = Content::default();
    let wanted = content.image(None, &layers, "linux/amd64");
    let other = content.image(None, &[], "linux/arm64");
    let index = content.index(Some("v1"), &[other, wanted.clone()]);
    let server = content.serve();

    let (pulled, events) = setup.pull_for(&server, ":v1", "linux/amd64");
    let pulled = pulled.unwrap();
    assert_eq!(pulled.manifest_digest.to_string(), wanted["digest"]);
    assert_eq!(pulled.index_digest.unwrap().to_string(), index["digest"]);
    assert_eq!(pulled.layers, layers.each_ref().map(|layer| layer.diff_id));
    assert_eq!(pulled.size, 700_003);
    assert_eq!(Digest::of(&pulled.config_raw), pulled.config_digest);
    for (layer, (name, text)) in layers
        .iter()
        .zip([("one", "1"), ("two", "2"), ("three", "3")])
    {
        let path = setup.store.layer_path(&layer.diff_id).join(name);
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
        assert_eq!(
            setup.store.read_blob(&layer.digest, 1 << 30).unwrap(),
            layer.served
        );
        let of_layer = |event: &PullEvent| events.iter().filter(|seen| *seen == event).count();
        let id = layer.digest;
        assert_eq!(
            of_layer(&PullEvent::LayerQueued {
                id,
                total: layer.size
            }),
            1
        );
        assert_eq!(of_layer(&PullEvent::LayerDownloaded { id }), 1);
        assert_eq!(of_layer(&PullEvent::LayerExtracted { id }), 1);
        let last = PullEvent::LayerProgress {
            id,
            downloaded: layer.size,
            total: layer.size,
        };
        assert_eq!(of_layer(&last), 1, "progress reaches the end");
    }
    for digest in [
        pulled.manifest_digest,
        pulled.index_digest.unwrap(),
        pulled.config_digest,
    ] {
        assert!(setup.store.has_blob(&digest).unwrap());
    }
    let digest = pulled.index_digest.unwrap();
    assert_eq!(
        events.last(),
        Some(&PullEvent::Done {
            digest,
            status: PullStatus::Downloaded
        })
    );

    let before = blob_requests(&server);
    let (again, events) = setup.pull_for(&server, &format!(":ignored@{digest}"), "linux/amd64");
    assert_eq!(again.unwrap().layers, pulled.layers);
    assert_eq!(
        events.last(),
        Some(&PullEvent::Done {
            digest,
            status: PullStatus::UpToDate
        })
    );
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, PullEvent::LayerExists { .. }))
            .count(),
        3
    );
    assert_eq!(blob_requests(&server), before, "nothing is fetched twice");
}

#[test]
fn only_what_is_missing_is_fetched() {
    let setup = setup();
    let layer = Layer::gzip(&tar(&[("file", b"x")]));
    let empty = Layer::gzip(&tar(&[]));
    let server = serve_image(&[layer.clone(), empty.clone(), empty.clone()]);
    let pulled = setup.pull(&server, "").unwrap();
    assert_eq!(pulled.layers, [layer.diff_id, empty.diff_id, empty.diff_id]);
    assert_eq!(blob_requests(&server), 3, "config and two layers");
    setup.store.remove_layer(&layer.diff_id).unwrap();
    setup.pull(&server, "").unwrap();
    assert_eq!(
        blob_requests(&server),
        3,
        "unpacked again from the blob in the store"
    );
    assert!(setup.store.layer_path(&layer.diff_id).join("file").exists());
    setup.store.remove_layer(&layer.diff_id).unwrap();
    std::fs::write(setup.store.blob_path(&layer.digest), b"damaged").unwrap();
    let error = setup.pull(&server, "").unwrap_err();
    assert!(
        matches!(&error, PullError::Layer { source, .. } if matches!(**source, LayerError::Store(_))),
        "{error:?}"
    );
    assert!(!setup.store.has_layer(&layer.diff_id).unwrap());
}

/// U22, U08: whatever differs between a layer and the claims about it, the pull fails with the
/// reason and leaves nothing.
#[test]
fn layers_are_what_they_are_said_to_be() {
    let archive = tar(&[("file", &[3; 100_000])]);
    let good = Layer::gzip(&archive);
    let compressed = good.served.clone();
    let other = Digest::of(b"other");
    let stored = |bytes: Vec<u8>| Layer::new(GZIP, bytes, &archive);
    let table: Vec<(&str, Layer, Expected<LayerError>)> = vec![
        (
            "bytes of another blob",
            Layer {
                served: gzip(&tar(&[])),
                size: gzip(&tar(&[])).len() as u64,
                ..good.clone()
            },
            |e| matches!(e, LayerError::Store(StoreError::DigestMismatch { .. })),
        ),
        (
            "damaged bytes",
            Layer {
                served: vec![b'x'; compressed.len()],
                ..good.clone()
            },
            |e| matches!(e, LayerError::Store(StoreError::DigestMismatch { .. })),
        ),
        (
            "a flipped bit",
            {
                let mut served = compressed.clone();
                *served.last_mut().unwrap() ^= 1;
                Layer {
                    served,
                    ..good.clone()
                }
            },
            |e| matches!(e, LayerError::Store(StoreError::DigestMismatch { .. })),
        ),
        (
            "size too small",
            Layer {
                size: good.size - 1,
                ..good.clone()
            },
            |e| matches!(e, LayerError::Registry(e) if matches!(**e, RegistryError::BlobSize { .. })),
        ),
        (
            "size too large",
            Layer {
                size: good.size + 1,
                ..good.clone()
            },
            |e| matches!(e, LayerError::Registry(e) if matches!(**e, RegistryError::BlobSize { .. })),
        ),
        (
            "another DiffID",
            Layer {
                diff_id: other,
                ..good.clone()
            },
            |e| matches!(e, LayerError::DiffId { .. }),
        ),
        (
            "truncated gzip",
            stored(compressed[..compressed.len() - 4].to_vec()),
            |e| matches!(e, LayerError::Decompress { .. }),
        ),
        (
            "garbage after gzip",
            stored([&compressed[..], b"garbage"].concat()),
            |e| matches!(e, LayerError::Decompress { .. }),
        ),
        (
            "data after the archive",
            stored(gzip(&[&archive[..], b"more"].concat())),
            |e| matches!(e, LayerError::DiffId { .. } | LayerError::Apply(_)),
        ),
        ("no archive", Layer::gzip(&[b'x'; 5000]), |e| {
            matches!(e, LayerError::Apply(_))
        }),
        (
            "unsupported compression",
            stored(b"BZh91AY&SY".to_vec()),
            |e| matches!(e, LayerError::UnsupportedCompression { name: "bzip2" }),
        ),
        (
            "encrypted",
            Layer {
                media_type: "application/vnd.oci.image.layer.v1.tar+encrypted",
                ..good.clone()
            },
            |e| matches!(e, LayerError::MediaType { .. }),
        ),
    ];
    for (what, layer, expected) in table {
        let setup = setup();
        // A good layer beside it must not survive either.
        let server = serve_image(&[Layer::gzip(&tar(&[("beside", b"x")])), layer]);
        let error = setup.layer_error(&server, what);
        assert!(expected(&error), "{what}: {error:?}");
    }
}

/// U17: decompression bombs end with a typed error, and what they wrote is gone.
#[test]
fn bombs_are_stopped() {
    let zeros = tar(&[("zeros", &vec![0; 3_000_000])]);
    let bomb = Layer::new(
        media_type::LAYER_ZSTD,
        zstd::encode_all(zeros.as_slice(), 3).unwrap(),
        &zeros,
    );
    let mut first = setup();
    first.options.expansion = Expansion {
        total: 1 << 40,
        free: 1 << 20,
        ratio: 10,
    };
    let error = first.layer_error(&serve_image(std::slice::from_ref(&bomb)), "ratio");
    assert!(
        matches!(error, LayerError::Bomb { size, limit } if limit == (1 << 20) + 10 * size),
        "{error:?}"
    );

    let mut second = setup();
    second.options.expansion.total = 4_000_000;
    second
        .pull(&serve_image(std::slice::from_ref(&bomb)), "")
        .unwrap();
    let mut third = setup();
    third.options.expansion.total = 4_000_000;
    let more = tar(&[("more", &vec![0; 3_000_000])]);
    let error = third.layer_error(
        &serve_image(&[bomb, Layer::gzip(&more)]),
        "total of two layers",
    );
    assert!(
        matches!(error, LayerError::TooLarge { limit: 4_000_000 }),
        "{error:?}"
    );

    let mut fourth = setup();
    fourth.options.limits.max_entries = 10;
    let names: Vec<String> = (0..11).map(|number| format!("f{number}")).collect();
    let many = tar(&names
        .iter()
        .map(|name| (name.as_str(), &b""[..]))
        .collect::<Vec<_>>());
    let error = fourth.layer_error(&serve_image(&[Layer::gzip(&many)]), "entries");
    assert!(
        matches!(
            error,
            LayerError::Apply(crate::apply::ApplyError::TooManyEntries { .. })
        ),
        "{error:?}"
    );
}

#[test]
fn one_warning_tells_of_a_helper_that_a_public_image_does_not_need() {
    let mut setup = setup();
    let config = setup.directory.path().join("config.json");
    std::fs::write(&config, r#"{"credsStore":"absent"}"#).unwrap();
    setup.options.client.credentials = CredentialSource::Docker(DockerFiles {
        config,
        search: Vec::new(),
        patience: Duration::from_secs(1),
    });
    let server = serve_public_image(&[
        Layer::gzip(&tar(&[("one", b"1")])),
        Layer::gzip(&tar(&[("two", b"2")])),
    ]);
    let (result, events) = setup.pull_for(&server, "", "linux/amd64");
    result.unwrap();
    let warnings: Vec<&String> = events
        .iter()
        .filter_map(|event| match event {
            PullEvent::Warning { message } => Some(message),
            _ => None,
        })
        .collect();
    assert_eq!(warnings.len(), 1, "{events:?}");
    for part in ["docker-credential-absent", &server.host()] {
        assert!(warnings[0].contains(part), "{warnings:?}");
    }
    // Before any layer: progress bars must not be interrupted.
    assert!(matches!(events[1], PullEvent::Warning { .. }), "{events:?}");
}

/// CVE-2020-15157: `urls` are never fetched from, for no kind of layer.
#[test]
fn urls_are_not_fetched() {
    let evil =
        Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""));
    let urls = vec![evil.url("/layer")];
    let mut setup = setup();
    setup.options.client.credentials = CredentialSource::Given(crate::registry::Credentials {
        username: "u".into(),
        password: "p".into(),
        identity_token: None,
    });
    let with_urls = Layer {
        urls: urls.clone(),
        ..Layer::gzip(&tar(&[("file", b"x")]))
    };
    setup
        .pull(&serve_image(std::slice::from_ref(&with_urls)), "")
        .unwrap();

    let foreign = Layer {
        media_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ..Layer {
            urls,
            ..Layer::gzip(&tar(&[("other", b"x")]))
        }
    };
    let mut content = Content::default();
    content.image(
        Some("latest"),
        std::slice::from_ref(&foreign),
        "linux/amd64",
    );
    content
        .0
        .remove(&format!("/v2/a/b/blobs/{}", foreign.digest));
    let error = setup.pull(&content.serve(), "").unwrap_err();
    let right = matches!(&error, PullError::Layer { source, .. } if matches!(**source, LayerError::Nondistributable { .. }));
    assert!(right, "{error:?}");
    setup.pull(&serve_image(&[foreign]), "").unwrap();
    assert_eq!((evil.seen(), evil.not_http()), (vec![], 0));
}

#[test]
fn platforms_are_chosen_or_named() {
    let setup = setup();
    let mut content = Content::default();
    let entries = ["linux/arm/v6", "linux/arm64", "windows/amd64"]
        .map(|platform| content.image(None, &[], platform));
    let attestation = json!({"mediaType": media_type::MANIFEST, "digest": Digest::of(b"x"), "size": 1,
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        "platform": {"os": "unknown", "architecture": "unknown"}});
    content.index(Some("latest"), &[&entries[..], &[attestation]].concat());
    let inner = content.index(None, &entries);
    content.index(Some("nested"), &[inner]);
    content.image(Some("single"), &[], "linux/arm64");
    let server = content.serve();
    let found = |suffix: &str, platform: &str| {
        setup
            .pull_for(&server, suffix, platform)
            .0
            .map(|pulled| pulled.config.platform().to_string())
    };
    assert_eq!(
        found("", "linux/arm/v7").unwrap(),
        "linux/arm/v7",
        "runs v6, whose config names no variant"
    );
    assert_eq!(found("", "linux/arm64/v8").unwrap(), "linux/arm64");
    assert_eq!(found(":nested", "linux/arm64").unwrap(), "linux/arm64");
    assert_eq!(found(":single", "linux/arm64").unwrap(), "linux/arm64");
    match found("", "linux/amd64") {
        Err(PullError::NoPlatform {
            available, wanted, ..
        }) => {
            assert_eq!(available, ["linux/arm/v6", "linux/arm64", "windows/amd64"]);
            assert_eq!(wanted, "linux/amd64");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        found(":single", "linux/amd64"),
        Err(PullError::PlatformMismatch { .. })
    ));
    let reference = Reference::parse(&format!("{}/a/b:single", server.host())).unwrap();
    assert!(
        pull(&setup.store, &setup.options, &reference, None, &|_| {}).is_ok(),
        "without a wish, what there is"
    );
}

/// CVE-2021-41190 and malformed images (CVE-2021-21285).
#[test]
fn inconsistent_images_are_refused() {
    let mut content = Content::default();
    let image = content.image(None, &[], "linux/amd64");
    let with = |field: &str, value: serde_json::Value| {
        let mut entry = image.clone();
        entry[field] = value;
        entry
    };
    let size = image["size"].as_u64().unwrap();
    content.index(Some("size"), &[with("size", json!(size + 1))]);
    content.index(Some("kind"), &[with("mediaType", json!(media_type::INDEX))]);
    let mut nested = content.index(None, std::slice::from_ref(&image));
    for _ in 0..MOST_INDEXES {
        nested = content.index(Some("deep"), &[nested]);
    }
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"history":[{},{}]}"#;
    content.blob(Digest::of(config), config);
    let descriptor = Descriptor::of(media_type::CONFIG, config);
    let layer = json!({"mediaType": GZIP, "digest": Digest::of(b"x"), "size": 1});
    let manifest = json!({"schemaVersion": 2, "config": descriptor, "layers": [layer.clone()]});
    content.manifest(Some("count"), media_type::MANIFEST, &manifest);
    let both = json!({"schemaVersion": 2, "config": descriptor, "layers": [], "manifests": []});
    content.manifest(Some("both"), media_type::MANIFEST, &both);
    let artifact = json!({"schemaVersion": 2, "layers": [],
        "config": Descriptor::of("application/vnd.cncf.helm.config.v1+json", config)});
    content.manifest(Some("artifact"), media_type::MANIFEST, &artifact);
    let huge = json!({"schemaVersion": 2, "layers": [],
        "config": {"mediaType": media_type::CONFIG, "digest": Digest::of(config), "size": 5_u64 << 30}});
    content.manifest(Some("huge"), media_type::MANIFEST, &huge);
    let traversal = json!({"schemaVersion": 2, "layers": [],
        "config": {"mediaType": media_type::CONFIG, "digest": "sha256:../../../../v2/x/blobs/y", "size": 1}});
    content.manifest(Some("traversal"), media_type::MANIFEST, &traversal);
    let server = content.serve();
    let table: [(&str, Expected<PullError>); 8] = [
        (":size", |e| matches!(e, PullError::IndexEntry { .. })),
        (":kind", |e| matches!(e, PullError::IndexEntry { .. })),
        (":deep", |e| matches!(e, PullError::TooManyIndexes { .. })),
        (":count", |e| {
            matches!(
                e,
                PullError::LayerCount {
                    layers: 1,
                    diff_ids: 0,
                    ..
                }
            )
        }),
        (":both", |e| {
            matches!(
                e,
                PullError::Document {
                    source: ModelError::Ambiguous { .. },
                    ..
                }
            )
        }),
        (":artifact", |e| matches!(e, PullError::NotAnImage { .. })),
        (":huge", |e| {
            matches!(
                e,
                PullError::Document {
                    source: ModelError::TooLarge { .. },
                    ..
                }
            )
        }),
        (":traversal", |e| {
            matches!(
                e,
                PullError::Document {
                    source: ModelError::Malformed { .. },
                    ..
                }
            )
        }),
    ];
    for (suffix, expected) in table {
        let setup = setup();
        let error = setup.pull(&server, suffix).expect_err(suffix);
        assert!(expected(&error), "{suffix}: {error:?}");
        setup.assert_empty(suffix);
    }
    assert!(
        server
            .seen()
            .iter()
            .all(|request| !request.target.contains(".."))
    );
}

#[test]
fn many_pulls_of_one_image_at_once_all_succeed() {
    let layers: Vec<Layer> = (0..5_u8)
        .map(|number| Layer::gzip(&tar(&[("d/", b""), ("d/file", &[number; 400_000])])))
        .collect();
    let server = serve_image(&layers);
    let setup = setup();
    let barrier = Arc::new(Barrier::new(6));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                // A store of its own, like another process.
                let store = Store::open(setup.directory.path()).unwrap();
                let reference = Reference::parse(&format!("{}/a/b", server.host())).unwrap();
                barrier.wait();
                let pulled = pull(&store, &setup.options, &reference, None, &|_| {}).unwrap();
                assert_eq!(pulled.size, 2_000_000);
                assert_eq!(store.sweep().unwrap(), 0);
            });
        }
    });
    assert_eq!(setup.store.list_layers().unwrap().len(), 5);
    assert_eq!(setup.store.list_blobs().unwrap().len(), 7);
    assert_eq!(
        std::fs::read_dir(setup.directory.path().join("ingest"))
            .unwrap()
            .count(),
        0
    );
    for (number, layer) in (0..).zip(&layers) {
        let file = std::fs::read(setup.store.layer_path(&layer.diff_id).join("d/file")).unwrap();
        assert!(file == [number; 400_000]);
    }
}

#[test]
fn broken_connections_are_continued() {
    // Noise, so that the compressed layer is longer than what comes before the break.
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(900_000)
    .collect();
    let archive = tar(&[("file", &noise)]);
    let layer = Layer::gzip(&archive);
    let mut content = Content::default();
    content.image(Some("latest"), std::slice::from_ref(&layer), "linux/amd64");
    let path = format!("/v2/a/b/blobs/{}", layer.digest);
    let broken = AtomicBool::new(false);
    let server = Server::start(move |request| {
        let Some(reply) = content.0.get(request.path()).cloned() else {
            return Reply::new(404, "");
        };
        if request.path() == path && !broken.swap(true, Ordering::Relaxed) {
            return Reply {
                cut: Some(300_000),
                ..reply
            };
        }
        match request.header("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        }) {
            Some(start) => {
                let end = reply.body.len();
                let range = format!("bytes {start}-{}/{end}", end - 1);
                Reply::new(206, &reply.body[start..]).header("Content-Range", range)
            }
            None => reply,
        }
    });
    let setup = setup();
    setup.pull(&server, "").unwrap();
    assert!(
        server
            .seen()
            .iter()
            .any(|request| request.header("range") == Some("bytes=300000-"))
    );
}
