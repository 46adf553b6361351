//! What `load` is given by strangers, as far as it is no layer: names, links and nodes of the
//! archive itself, lists and descriptors.

use super::*;
use crate::tar::testing::{Archive, Item};
use crate::testing::{TestDirectory, tar};

/// An image in a docker-archive, and the list that names it.
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    name: String,
}

impl Image {
    fn new(mark: &str) -> Self {
        let layer = tar(&[("file", mark.as_bytes())]);
        let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": [mark]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
        let config = config.to_string().into_bytes();
        let name = format!("{}.json", Digest::of(&config).hex());
        Self {
            layer,
            config,
            name,
        }
    }

    fn entry(&self, tag: &str, layer: &str) -> String {
        format!(
            r#"{{"Config":"{}","RepoTags":["{tag}"],"Layers":["{layer}"]}}"#,
            self.name
        )
    }

    fn list(&self) -> String {
        format!("[{}]", self.entry("x:1", "l/layer.tar"))
    }
}

fn try_load(archive: Archive) -> Result<Vec<Loaded>, LoadError> {
    let directory = TestDirectory::new();
    let canary = directory.path().join("canary");
    std::fs::write(&canary, "precious").unwrap();
    let store = Store::open(&directory.path().join("data")).unwrap();
    let loaded = load(&store, &archive.finish()[..], &LoadOptions::default());
    if loaded.is_err() {
        assert!(store.list_blobs().unwrap().is_empty());
        assert!(store.list_layers().unwrap().is_empty());
    }
    let ingest = std::fs::read_dir(store.root().join("ingest")).unwrap();
    assert_eq!(ingest.count(), 0);
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    loaded
}

/// U01, U08 (CVE-2014-6407, CVE-2014-9356, CVE-2021-21272): names and links of the archive lead
/// nowhere else, and what is no file is no part of an image.
#[test]
fn entries_of_the_archive_stay_in_it() {
    let image = Image::new("x");
    let whole = || {
        Archive::new()
            .file(&image.name, &image.config)
            .file("manifest.json", image.list())
    };
    let with_layer = || whole().file("l/layer.tar", &image.layer);
    assert!(try_load(with_layer()).is_ok());
    let up = "../".repeat(20);
    for name in [
        "../x",
        "a/../../x",
        "/../x",
        &format!("{up}etc/x"),
        "\u{0}",
        "a\u{0}/../..",
    ] {
        // A name ends at its NUL, and an empty one is the directory that the archive is.
        if name.starts_with('\0') || name.contains('\0') {
            continue;
        }
        for kind in *b"0512" {
            let item = Item::new(name, kind).link("l/layer.tar");
            let error = try_load(with_layer().item(item)).unwrap_err();
            assert!(
                matches!(error, LoadError::Archive(SpoolError::Name { .. })),
                "{name}: {error:?}"
            );
        }
    }
    for target in [
        "/etc/passwd",
        "../../etc/passwd",
        "/l/layer.tar",
        &format!("{up}etc/passwd"),
    ] {
        for kind in *b"12" {
            let error =
                try_load(whole().item(Item::new("l/layer.tar", kind).link(target))).unwrap_err();
            assert!(
                matches!(error, LoadError::Archive(SpoolError::Name { .. })),
                "{target}: {error:?}"
            );
        }
    }
    for kind in *b"346" {
        for (major, minor) in [(0, 0), (1, 3), (8, 0)] {
            let item = Item::new("l/layer.tar", kind).device(major, minor);
            let error = try_load(whole().item(item)).unwrap_err();
            assert!(
                matches!(error, LoadError::Archive(SpoolError::Kind { .. })),
                "{error:?}"
            );
        }
    }
    // Absolute and dotted spellings of what belongs there are the same names.
    let spelled = Archive::new()
        .file(format!("./{}", image.name), &image.config)
        .file("/manifest.json", image.list())
        .file("./l//x/../layer.tar", &image.layer);
    assert!(try_load(spelled).is_ok());
}

/// U06 (CVE-2014-9358), G07 (CVE-2024-3727): what a list names is looked up in the archive, and
/// nowhere else.
#[test]
fn lists_name_files_of_the_archive() {
    let image = Image::new("x");
    for name in [
        "/etc/passwd",
        "../../../etc/passwd",
        "",
        ".",
        "..",
        "l",
        "l/",
        "manifest.json",
        "\\u0000",
        "l/layer.tar\\u0000.json",
    ] {
        for list in [
            format!(r#"[{{"Config":"{name}","RepoTags":["x:1"],"Layers":["l/layer.tar"]}}]"#),
            format!("[{}]", image.entry("x:1", name)),
        ] {
            let archive = Archive::new()
                .file(&image.name, &image.config)
                .file("l/layer.tar", &image.layer)
                .file("manifest.json", &list);
            assert!(try_load(archive).is_err(), "{list}");
        }
    }
    // Names that are none stay away, and the image stays an image without one.
    for tag in [
        "../../x:1",
        "X:1",
        "x:1/../..",
        "",
        ":",
        "x@sha256:00",
        "a\\u0000b:1",
        "x: 1",
    ] {
        let archive = Archive::new()
            .file(&image.name, &image.config)
            .file("l/layer.tar", &image.layer)
            .file(
                "manifest.json",
                format!("[{}]", image.entry(tag, "l/layer.tar")),
            );
        let loaded = try_load(archive);
        assert!(
            loaded.is_err() || loaded.unwrap()[0].names.is_empty(),
            "{tag}"
        );
    }
}

/// CVE-2021-41190: `Config` in another case is the config for who reads with Go's JSON.
#[test]
fn lists_are_read_in_one_way() {
    let (one, two) = (Image::new("one"), Image::new("two"));
    let archive = |list: String| {
        Archive::new()
            .file(&one.name, &one.config)
            .file(&two.name, &two.config)
            .file("l/layer.tar", &one.layer)
            .file("m/layer.tar", &two.layer)
            .file("manifest.json", list)
    };
    let plain = one.entry("x:1", "l/layer.tar");
    assert!(try_load(archive(format!("[{plain}]"))).is_ok());
    for more in [
        format!(r#""config":"{}""#, two.name),
        format!(r#""Config":"{}""#, two.name),
        r#""layers":["m/layer.tar"]"#.to_owned(),
        r#""repoTags":["y:1"]"#.to_owned(),
        r#""REPOTAGS":["y:1"]"#.to_owned(),
    ] {
        let list = format!("[{}]", plain.replacen('{', &format!("{{{more},"), 1));
        assert!(try_load(archive(list)).is_err(), "{more}");
    }
    // An array is no image, though its items could be taken for the members of one.
    let list = format!(r#"[["{}",["x:1"],["l/layer.tar"]]]"#, one.name);
    assert!(try_load(archive(list)).is_err());
}

/// GHSA-xmmx-7jpf-fx42: one file name is one file. Docker, which writes them to a directory,
/// would take the last.
#[test]
fn one_name_is_one_file() {
    let (one, two) = (Image::new("one"), Image::new("two"));
    let archive = || {
        Archive::new()
            .file(&one.name, &one.config)
            .file("l/layer.tar", &one.layer)
            .file("manifest.json", one.list())
    };
    let twice: Vec<(&str, Archive)> = vec![
        ("a list", archive().file("manifest.json", two.list())),
        ("a layer", archive().file("./l/layer.tar", &two.layer)),
        ("a config", archive().file(&one.name, &two.config)),
        (
            "a link over a file",
            archive().symlink("l/layer.tar", "other"),
        ),
        (
            "a hard link over a file",
            archive().hard_link("manifest.json", &one.name),
        ),
        (
            "a file over a link",
            Archive::new()
                .symlink("l/layer.tar", "other")
                .file("l/layer.tar", &one.layer),
        ),
        (
            "two links",
            Archive::new()
                .symlink("l/layer.tar", "a")
                .symlink("l/layer.tar", "b"),
        ),
    ];
    for (what, archive) in twice {
        let error = try_load(archive).unwrap_err();
        assert!(
            matches!(error, LoadError::Archive(SpoolError::Twice { .. })),
            "{what}: {error:?}"
        );
    }
    assert!(try_load(archive().file("l/layer.tar", &one.layer)).is_ok());
}

/// One name for two images in one list is, as for Docker, the last one's, and the other image
/// stays without it; who loads is told.
#[test]
fn one_name_for_two_images_is_the_last_ones() {
    let (one, two) = (Image::new("one"), Image::new("two"));
    for (first, last) in [(&one, &two), (&two, &one)] {
        let path = |image: &Image| {
            if image.name == one.name {
                "l/layer.tar"
            } else {
                "m/layer.tar"
            }
        };
        let list = format!(
            "[{},{}]",
            first.entry("x:1", path(first)),
            last.entry("x:1", path(last))
        );
        let archive = Archive::new()
            .file(&one.name, &one.config)
            .file(&two.name, &two.config)
            .file("l/layer.tar", &one.layer)
            .file("m/layer.tar", &two.layer)
            .file("manifest.json", list);
        let loaded = try_load(archive).unwrap();
        assert_eq!(loaded.len(), 2);
        let of = |image: &Image| {
            let digest = Digest::of(&image.config);
            loaded
                .iter()
                .find(|one| one.image.config_digest == digest)
                .unwrap()
        };
        assert_eq!(of(last).names[0].familiar(), "x:1");
        assert_eq!(of(last).renamed, []);
        assert_eq!(of(first).names, []);
        assert_eq!(of(first).renamed[0].familiar(), "x:1");
    }
}

/// U21, U01: layers of an archive are layers like those of a pull: whiteouts of nothing, links
/// out and devices that stand for whiteouts are refused, and nothing is stored.
#[test]
fn layers_are_unpacked_as_in_a_pull() {
    let hostile = [
        Archive::new().file("../x", ""),
        Archive::new().file(".wh...", ""),
        Archive::new().symlink(".wh.x", "y"),
        Archive::new().directory(".wh.x"),
        Archive::new().file(".wh.x/y", ""),
        Archive::new().item(Item::new("x", b'3').device(0, 0)),
        Archive::new().hard_link("h", "../canary"),
        Archive::new().symlink(".", "/"),
        Archive::new().item(Item::new("f", b'0').owner(1 << 32, 0)),
        Archive::new().item(Item::new("f", b'0').pax("size", "18446744073709551615")),
    ];
    for (number, layer) in hostile.into_iter().enumerate() {
        let layer = layer.finish();
        let config = serde_json::json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}})
        .to_string();
        let list = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]"#;
        for layer in [layer.clone(), zstd::encode_all(&layer[..], 1).unwrap()] {
            let archive = Archive::new()
                .file("c.json", &config)
                .file("l.tar", layer)
                .file("manifest.json", list);
            let error = try_load(archive).unwrap_err();
            assert!(
                matches!(error, LoadError::Layer { .. }),
                "{number}: {error:?}"
            );
        }
    }
}
