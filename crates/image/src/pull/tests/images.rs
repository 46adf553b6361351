//! Indexes, platforms, configs and what is reported.

use super::*;

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
