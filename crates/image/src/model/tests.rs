use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn descriptor(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":7}}"#)
}

fn manifest_with(extra: &str) -> String {
    let (config, layer) = (
        descriptor(media_type::CONFIG),
        descriptor(media_type::LAYER_GZIP),
    );
    format!(r#"{{"schemaVersion":2{extra},"config":{config},"layers":[{layer}]}}"#)
}

fn index_with(extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2{extra},"manifests":[{}]}}"#,
        descriptor(media_type::MANIFEST)
    )
}

#[test]
fn tells_manifest_from_index() {
    let manifest = Document::parse(manifest_with("").as_bytes(), None).unwrap();
    assert!(
        matches!(&manifest, Document::Manifest(m) if m.layers.len() == 1 && m.config.size == 7)
    );
    let with_type = manifest_with(&format!(
        r#","mediaType":"{}""#,
        media_type::DOCKER_MANIFEST
    ));
    let served = format!("{}; charset=utf-8", media_type::DOCKER_MANIFEST);
    assert!(matches!(
        Document::parse(with_type.as_bytes(), Some(&served)),
        Ok(Document::Manifest(_))
    ));
    assert!(matches!(
        Document::parse(with_type.as_bytes(), Some("application/json")),
        Ok(Document::Manifest(_))
    ));
    assert!(matches!(
        Document::parse(index_with("").as_bytes(), Some(media_type::INDEX)),
        Ok(Document::Index(_))
    ));
    let no_entries = br#"{"schemaVersion":2,"manifests":null}"#;
    assert!(
        matches!(Document::parse(no_entries, Some(media_type::INDEX)), Ok(Document::Index(i)) if i.manifests.is_empty())
    );
}

/// CVE-2021-41190 (GHSA-qq97-vm5h-rrhg, GHSA-xmmx-7jpf-fx42, GHSA-77vh-xpmg-72qh): a document
/// that reads as an index and as a manifest, or whose type differs from the one it came with.
#[test]
fn refuses_ambiguous_documents() {
    let typed = |media_type: &str| format!(r#","mediaType":"{media_type}""#);
    let table: &[(String, Option<&str>)] = &[
        (manifest_with(r#","manifests":[]"#), None),
        (manifest_with(r#","manifests":null"#), None),
        (manifest_with(r#","Manifests":[]"#), None),
        (manifest_with(r#","LAYERS":[]"#), None),
        (manifest_with(r#","layers":[]"#), None),
        (
            manifest_with(r#","\u006dediaType":"a","mediaType":"b""#),
            None,
        ),
        (
            manifest_with("").replace(r#""size""#, r#""Digest":"x","size""#),
            None,
        ),
        (
            index_with("").replace(r#""size""#, r#""SIZE":8,"size""#),
            None,
        ),
        (manifest_with(r#","subject":null,"Subject":null"#), None),
        (index_with(r#","layers":[]"#), Some(media_type::INDEX)),
        (index_with(r#","config":{}"#), None),
        (manifest_with(""), Some(media_type::INDEX)),
        (index_with(""), Some(media_type::MANIFEST)),
        (manifest_with(&typed(media_type::INDEX)), None),
        (index_with(&typed(media_type::DOCKER_MANIFEST)), None),
        (
            manifest_with(&typed(media_type::MANIFEST)),
            Some(media_type::DOCKER_MANIFEST),
        ),
        (
            manifest_with(&typed(media_type::MANIFEST)),
            Some(media_type::INDEX),
        ),
    ];
    for (text, content_type) in table {
        let result = Document::parse(text.as_bytes(), *content_type);
        assert!(
            matches!(result, Err(ModelError::Ambiguous { .. })),
            "{text} as {content_type:?}: {result:?}"
        );
    }
}

#[test]
fn refuses_other_documents_by_name() {
    let schema_one =
        br#"{"schemaVersion":1,"name":"a","fsLayers":[{"blobSum":"x"}],"signatures":[]}"#;
    assert!(matches!(
        Document::parse(schema_one, None),
        Err(ModelError::SchemaOne)
    ));
    let artifact = br#"{"mediaType":"application/vnd.cncf.artifact"}"#;
    assert!(matches!(
        Document::parse(artifact, None),
        Err(ModelError::NotAnImage { .. })
    ));
    for text in [
        "",
        "null",
        "[]",
        "1",
        "{",
        "{}",
        r#"{"schemaVersion":2}"#,
        "\u{feff}{}",
    ] {
        assert!(
            matches!(
                Document::parse(text.as_bytes(), None),
                Err(ModelError::Malformed { .. })
            ),
            "{text:?}"
        );
    }
}

/// CVE-2014-9358, CVE-2024-3727: digests in documents go through the grammar.
#[test]
fn refuses_digests_that_are_paths() {
    for digest in [
        "sha256:../../../etc/passwd",
        "../x",
        "sha256:ABCDEF",
        &format!("sha256:{}", HEX.to_uppercase()),
    ] {
        let text = manifest_with("").replacen(&format!("sha256:{HEX}"), digest, 1);
        assert!(
            matches!(
                Document::parse(text.as_bytes(), None),
                Err(ModelError::Malformed { .. })
            ),
            "{digest}"
        );
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
        assert!(ImageConfig::parse(config.as_bytes()).is_err(), "{digest}");
    }
}

/// CVE-2023-25153: no document is read beyond 4 MiB, whatever it holds.
#[test]
fn caps_documents() {
    let mut text = manifest_with("").into_bytes();
    text.resize(DOCUMENT_LIMIT as usize, b' ');
    assert!(Document::parse(&text, None).is_ok());
    text.push(b' ');
    assert!(matches!(
        Document::parse(&text, None),
        Err(ModelError::TooLarge { .. })
    ));
    assert!(matches!(
        ImageConfig::parse(&text),
        Err(ModelError::TooLarge { .. })
    ));
    let deep = format!(r#"{{"schemaVersion":2,"x":{}}}"#, "[".repeat(1 << 20));
    assert!(matches!(
        Document::parse(deep.as_bytes(), None),
        Err(ModelError::Malformed { .. })
    ));
}

/// CVE-2021-21285: mutated documents give errors and nothing worse.
#[test]
fn survives_mutation() {
    let config = br#"{"architecture":"amd64","config":{"Env":null,"Cmd":["a"],"Labels":{"a":"b"}},"history":[{}],"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let seeds = [
        manifest_with("").into_bytes(),
        index_with("").into_bytes(),
        config.to_vec(),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..1 + random() % 4 {
            let at = random() % bytes.len().max(1);
            if bytes.is_empty() {
                break;
            }
            match random() % 4 {
                0 => bytes[at] = random() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[]\",:0-\\nul"[random() % 13]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let _ = Document::parse(&bytes, None);
        let _ = ImageConfig::parse(&bytes);
    }
}

#[test]
fn config_tolerates_null_and_keeps_the_unknown() {
    let text = r#"{"architecture":"arm64","os":"linux","variant":"v8","docker_version":"20.10",
        "config":{"User":"","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Entrypoint":null,"Cmd":["sh"],"Volumes":null,
        "OnBuild":null,"Labels":null,"ArgsEscaped":true,"Healthcheck":{"Test":["NONE"]}},
        "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
    let config = ImageConfig::parse(text.as_bytes()).unwrap();
    assert_eq!(config.config.entrypoint, None);
    assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
    assert_eq!(config.platform().to_string(), "linux/arm64");
    assert_eq!(config.extra["docker_version"], "20.10");
    let written = serde_json::to_vec(&config).unwrap();
    let read = ImageConfig::parse(&written).unwrap();
    assert_eq!(read, config);
    assert_eq!(
        serde_json::to_vec(&read).unwrap(),
        written,
        "rewriting is stable"
    );
    assert_eq!(read.config.extra["ArgsEscaped"], true);
    assert!(ImageConfig::parse(br#"{"config":null}"#).is_ok());
}

#[test]
fn layer_kinds() {
    use LayerKind::*;
    let table = [
        (media_type::LAYER, Some(Distributable)),
        (media_type::LAYER_GZIP, Some(Distributable)),
        (media_type::LAYER_ZSTD, Some(Distributable)),
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Some(Distributable),
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Some(Nondistributable),
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            Some(Nondistributable),
        ),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", None),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", None),
        ("", None),
    ];
    for (media_type, expected) in table {
        assert_eq!(layer_kind(media_type), expected, "{media_type}");
    }
}

#[test]
fn platforms() {
    let parsed = |text: &str| text.parse::<Platform>().unwrap();
    for (input, shown) in [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("Linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
    ] {
        assert_eq!(parsed(input).to_string(), shown);
    }
    for input in [
        "",
        "linux",
        "linux/",
        "/amd64",
        "linux/amd64/v1/x",
        "linux/amd 64",
        "linux/../x",
    ] {
        assert!(input.parse::<Platform>().is_err(), "{input}");
    }
    for (wanted, found, distance) in [
        ("linux/arm64", "linux/arm64/v8", Some(0)),
        ("linux/arm/v7", "linux/arm/v6", Some(1)),
        ("linux/arm/v7", "linux/arm/v5", Some(2)),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/amd64", "linux/amd64/v3", None),
        ("linux/amd64/v3", "linux/amd64", Some(2)),
        ("linux/amd64", "linux/386", None),
        ("linux/amd64", "windows/amd64", None),
    ] {
        assert_eq!(
            parsed(wanted).distance(&parsed(found)),
            distance,
            "{wanted} {found}"
        );
    }
}

#[test]
fn chooses_from_an_index() {
    let entry = |platform: Option<&str>| {
        let mut entry = Descriptor::of(media_type::MANIFEST, platform.unwrap_or("none").as_bytes());
        entry.platform = platform.map(|p| p.parse().unwrap());
        entry
    };
    let index = [
        "linux/arm/v5",
        "linux/arm/v6",
        "linux/amd64",
        "linux/arm64/v8",
        "unknown/unknown",
    ];
    let index: Vec<_> = index.iter().map(|p| entry(Some(p))).collect();
    let pick = |wanted: &str| {
        choose(&index, &wanted.parse().unwrap())
            .and_then(|d| Some(d.platform.as_ref()?.to_string()))
    };
    assert_eq!(pick("linux/arm").as_deref(), Some("linux/arm/v6"));
    assert_eq!(pick("linux/arm64").as_deref(), Some("linux/arm64"));
    assert_eq!(pick("linux/s390x"), None);
    assert_eq!(pick("unknown/unknown"), None, "attestations are not images");
    let host = Platform::host();
    assert!(choose(&[entry(None)], &host).is_some());
    assert!(choose(&[entry(None), entry(None)], &host).is_none());
    assert!(choose(&[], &host).is_none());
}
