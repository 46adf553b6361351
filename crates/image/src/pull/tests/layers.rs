//! Layers that are not what is said of them.

use super::*;

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
