//! Manifests, indexes and configs.

use serde_json::{Value, json};

use super::{for_a_while, json as values};
use crate::model::{Descriptor, Document, ImageConfig, media_type};

pub(crate) const WORDS: [&str; 40] = [
    "",
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "digest",
    "Digest",
    "size",
    "urls",
    "annotations",
    "platform",
    "subject",
    "artifactType",
    "rootfs",
    "diff_ids",
    "history",
    "Env",
    "Cmd",
    "User",
    media_type::MANIFEST,
    media_type::INDEX,
    media_type::CONFIG,
    media_type::LAYER,
    media_type::LAYER_GZIP,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_INDEX,
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/json",
    "https://evil.tld/layer",
    "sha256:../../../../etc/passwd",
    "sha256:",
    "sha512:00",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "unknown",
    "vnd.docker.reference.type",
    "linux",
];

pub(crate) const A: &str =
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const B: &str = "sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

fn seeds() -> [Value; 3] {
    let blob = |kind: &str, digest: &str| json!({"mediaType": kind, "digest": digest, "size": 7});
    let mut amd64 = blob(media_type::MANIFEST, A);
    amd64["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut attestation = blob(media_type::MANIFEST, B);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    [
        json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
            "config": blob(media_type::CONFIG, A),
            "layers": [blob(media_type::LAYER_GZIP, B), blob(media_type::LAYER, A)],
            "annotations": {"k": "v"}, "subject": blob(media_type::MANIFEST, B)}),
        json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [amd64, attestation]}),
        json!({"architecture": "amd64", "os": "linux",
            "config": {"User": "1:1", "Env": ["A=b"], "Cmd": ["a"], "Entrypoint": null,
                "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"a": "b"},
                "Healthcheck": {"Test": ["NONE"]}, "StopSignal": "SIGTERM"},
            "rootfs": {"type": "layers", "diff_ids": [A, B]},
            "history": [{"created_by": "x"}, {"empty_layer": true}]}),
    ]
}

/// Go's JSON, which most other tools are written in, takes members for fields of a name in
/// whatever case, and the last one counts.
fn is_doubtful(descriptor: &Value) -> bool {
    let members = descriptor.as_object().unwrap();
    members.keys().any(|key| {
        ["mediaType", "digest", "size"]
            .iter()
            .any(|known| key != known && key.eq_ignore_ascii_case(known))
    })
}

/// U18, U19 (CVE-2021-21285, CVE-2021-41190): no document is two, and none brings us down.
#[test]
fn long_documents() {
    let seeds = seeds();
    let (mut manifests, mut indexes, mut configs) = (0_u64, 0_u64, 0_u64);
    let many = for_a_while(|random| {
        let mut value = random.pick(&seeds).clone();
        values::change(&mut value, &WORDS, random);
        let bytes = values::write(&value, random);
        if let Ok(config) = ImageConfig::parse(&bytes) {
            configs += 1;
            let written = serde_json::to_vec(&config).unwrap();
            let again = ImageConfig::parse(&written).unwrap();
            assert_eq!(serde_json::to_vec(&again).unwrap(), written);
        }
        let served = *random.pick(&WORDS);
        let served = random.one_in(2).then_some(served);
        let Ok(document) = Document::parse(&bytes, served) else {
            return;
        };
        let text = String::from_utf8_lossy(&bytes);
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let has = |name: &str| value.get(name).is_some();
        let (of_index, of_manifest) = (has("manifests"), has("layers") || has("config"));
        assert!(!(has("fsLayers") || of_index && of_manifest), "{text}");
        let body = value["mediaType"].as_str().unwrap_or_default();
        if let Some(served) = served
            && served.starts_with("application/vnd.")
            && !body.is_empty()
        {
            assert!(
                body.trim().eq_ignore_ascii_case(served),
                "{text} as {served}"
            );
        }
        let (descriptors, written): (Vec<&Descriptor>, _) = match &document {
            Document::Manifest(manifest) => {
                manifests += 1;
                let all = manifest.layers.iter().chain([&manifest.config]);
                (all.collect(), serde_json::to_vec(manifest).unwrap())
            }
            Document::Index(index) => {
                indexes += 1;
                (
                    index.manifests.iter().collect(),
                    serde_json::to_vec(index).unwrap(),
                )
            }
        };
        for descriptor in descriptors {
            let shown = descriptor.digest.to_string();
            assert!(shown.len() == 71 && shown.starts_with("sha256:"), "{text}");
        }
        let listed = value["layers"].as_array().into_iter().flatten();
        let listed = listed.chain(value["manifests"].as_array().into_iter().flatten());
        for descriptor in listed.chain(value.get("config")) {
            assert!(!is_doubtful(descriptor), "{text}");
        }
        // What we would write of it is the same document.
        assert_eq!(
            Document::parse(&written, served).unwrap(),
            document,
            "{text}"
        );
    });
    eprintln!("{manifests} manifests, {indexes} indexes, {configs} configs");
    assert!(!many || manifests > 10 && indexes > 10 && configs > 10);
}
