use std::io::Write;
use std::time::Duration;

use super::*;
use crate::testing::{TestDirectory, tar};

/// Whether an error is the right one.
type Expected = fn(&LayerError) -> bool;

fn changed(changes: &[&str]) -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    ImportChanges::parse(changes)
        .unwrap_or_else(|error| panic!("{changes:?}: {error}"))
        .apply(&mut config);
    config
}

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

#[test]
fn commands() {
    assert_eq!(changed(&[r#"CMD ["a", "b c"]"#]).cmd, words(&["a", "b c"]));
    assert_eq!(
        changed(&["cmd echo $HOME 'x'"]).cmd,
        words(&["/bin/sh", "-c", "echo $HOME 'x'"])
    );
    assert_eq!(
        changed(&[r#"CMD [a, "b"]"#]).cmd,
        words(&["/bin/sh", "-c", r#"[a, "b"]"#])
    );
    assert_eq!(changed(&["CMD []"]).cmd, words(&[]));
    assert_eq!(changed(&["CMD x", "CMD"]).cmd, words(&[]));
    assert_eq!(
        changed(&[r#"ENTRYPOINT ["/e"]"#]).entrypoint,
        words(&["/e"])
    );
}

#[test]
fn environment_and_labels() {
    let env = |changes: &[&str]| changed(changes).env;
    assert_eq!(
        env(&["ENV A=1 B=\"two words\" C='x y'z D=e\\ f"]),
        ["A=1", "B=two words", "C=x yz", "D=e f"]
    );
    assert_eq!(env(&["ENV A one = two"]), ["A=one = two"]);
    assert_eq!(
        env(&["ENV A=1", "ENV AB=2", "env A=3"]),
        ["A=3", "AB=2"],
        "in place, by whole name"
    );
    assert_eq!(env(&["ENV A="]), ["A="]);
    let labels = changed(&["LABEL a=b \"c d\"=\"e=f\"", "LABEL a=z"]).labels;
    assert_eq!(
        labels.into_iter().collect::<Vec<_>>(),
        [
            ("a".to_owned(), "z".to_owned()),
            ("c d".to_owned(), "e=f".to_owned())
        ]
    );
}

#[test]
fn the_rest() {
    let ports = changed(&["EXPOSE 80 53/UDP 8000-8002"]).exposed_ports;
    assert_eq!(
        ports.keys().collect::<Vec<_>>(),
        ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
    );
    let volumes = changed(&[r#"VOLUME ["/a b"]"#, "VOLUME /c /d"]).volumes;
    assert_eq!(volumes.keys().collect::<Vec<_>>(), ["/a b", "/c", "/d"]);
    assert_eq!(
        changed(&["WORKDIR /a/./b", "WORKDIR ../c"]).working_dir,
        "/a/c"
    );
    assert_eq!(changed(&["WORKDIR x"]).working_dir, "/x");
    assert_eq!(changed(&["USER 1000:1000"]).user, "1000:1000");
    assert_eq!(
        changed(&["STOPSIGNAL SIGINT"]).stop_signal.as_deref(),
        Some("SIGINT")
    );
    assert_eq!(changed(&["ONBUILD RUN make"]).on_build, ["RUN make"]);
    let check =
        changed(&["HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f http://localhost/"])
            .healthcheck;
    assert_eq!(
        check.unwrap(),
        serde_json::json!({"Interval": 90_000_000_000_u64, "Retries": 3,
            "Test": ["CMD-SHELL", "curl -f http://localhost/"]})
    );
    assert_eq!(
        changed(&["HEALTHCHECK NONE"]).healthcheck.unwrap(),
        serde_json::json!({"Test": ["NONE"]})
    );
}

#[test]
fn refuses() {
    for change in ["RUN rm", "FROM x", "", "COPY a b", "ENVX a=b"] {
        let result = ImportChanges::parse(&[change]);
        assert!(
            matches!(result, Err(ChangeError::Unknown { .. })),
            "{change:?}: {result:?}"
        );
    }
    for change in [
        "ENV",
        "ENV A",
        "ENV =x",
        "ENV A=1 B",
        "ENV A=\"x",
        "LABEL a",
        "EXPOSE",
        "EXPOSE 0",
        "EXPOSE 70000",
        "EXPOSE 80/icmp",
        "EXPOSE 9-8",
        "EXPOSE x",
        "USER",
        "USER a b",
        "VOLUME",
        "VOLUME []",
        "WORKDIR",
        "STOPSIGNAL",
        "ONBUILD",
        "ONBUILD FROM x",
        "HEALTHCHECK",
        "HEALTHCHECK CMD",
        "HEALTHCHECK --interval=x NONE",
    ] {
        let result = ImportChanges::parse(&[change]);
        assert!(
            matches!(result, Err(ChangeError::Arguments { .. })),
            "{change:?}: {result:?}"
        );
    }
}

#[test]
fn timestamps() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000000Z"),
        (1_767_225_599, "2025-12-31T23:59:59.000000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
    ] {
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(seconds)),
            expected
        );
    }
}

#[test]
fn an_archive_becomes_an_image() {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let archive = tar(&[
        ("bin/", b""),
        ("bin/tool", b"program"),
        ("etc/file", &[7; 700_000]),
    ]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&archive).unwrap();
    let gzip = encoder.finish().unwrap();
    let zstd = zstd::encode_all(archive.as_slice(), 1).unwrap();
    let options = ImportOptions {
        changes: ImportChanges::parse(&["CMD [\"/bin/tool\"]"]).unwrap(),
        message: "by hand".to_owned(),
        platform: "linux/arm/v7".parse().unwrap(),
        ..ImportOptions::default()
    };
    for bytes in [&archive, &gzip, &zstd] {
        let image = import(&store, bytes.as_slice(), &options).unwrap();
        assert_eq!(
            image.layers,
            [Digest::of(&archive)],
            "the same however it was compressed"
        );
        assert_eq!(image.config.platform().to_string(), "linux/arm/v7");
        assert_eq!(image.config.history[0].comment.as_deref(), Some("by hand"));
        assert_eq!(image.config.config.cmd, words(&["/bin/tool"]));
        assert_eq!(image.size, 700_007);
        assert_eq!(Digest::of(&image.config_raw), image.config_digest);
        let manifest = store.read_blob(&image.manifest_digest, 1 << 20).unwrap();
        let document =
            crate::model::Document::parse(&manifest, Some(media_type::MANIFEST)).unwrap();
        let crate::model::Document::Manifest(manifest) = document else {
            panic!("{document:?}")
        };
        assert_eq!(manifest.config.digest, image.config_digest);
        assert_eq!(
            store.blob_size(&manifest.layers[0].digest).unwrap(),
            manifest.layers[0].size
        );
        assert_eq!(
            std::fs::read(store.layer_path(&image.layers[0]).join("bin/tool")).unwrap(),
            b"program"
        );
    }
}

/// Whatever is wrong with an archive, nothing of it stays.
#[test]
fn a_bad_archive_leaves_nothing() {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let archive = tar(&[("file", &[7; 2_000_000])]);
    let zstd = zstd::encode_all(archive.as_slice(), 1).unwrap();
    let small = ImportOptions {
        expansion: Expansion {
            total: 1 << 20,
            ..Expansion::default()
        },
        ..ImportOptions::default()
    };
    let default = ImportOptions::default();
    let table: [(&str, &[u8], &ImportOptions, Expected); 5] = [
        ("truncated zstd", &zstd[..zstd.len() / 2], &default, |e| {
            matches!(e, LayerError::Decompress { .. })
        }),
        ("truncated tar", &archive[..1_000_000], &default, |e| {
            matches!(e, LayerError::Apply(_))
        }),
        (
            "not a tar",
            b"hello, this is certainly not a tar archive",
            &default,
            |e| matches!(e, LayerError::Apply(_)),
        ),
        ("xz", b"\xfd7zXZ\0\0\0", &default, |e| {
            matches!(e, LayerError::UnsupportedCompression { name: "xz" })
        }),
        ("too large", &archive, &small, |e| {
            matches!(e, LayerError::TooLarge { .. })
        }),
    ];
    for (what, bytes, options, expected) in table {
        match import(&store, bytes, options) {
            Err(ImportError::Layer(error)) => assert!(expected(&error), "{what}: {error:?}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(
            store.list_blobs().unwrap().len() + store.list_layers().unwrap().len(),
            0,
            "{what}"
        );
        assert_eq!(
            std::fs::read_dir(directory.path().join("ingest"))
                .unwrap()
                .count(),
            0,
            "{what}"
        );
    }
}
