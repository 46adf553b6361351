//! The long form of a mount (`--mount`) and `--tmpfs`.

use super::volume::{absolute, is_propagation, target, volume_name};
use super::{ParseError, csv, number, size, split_pair};
use crate::api::config::{MountRequest, MountSource};

/// What the fields of one `--mount` said.
#[derive(Default)]
struct Fields {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    propagation: String,
    recursive: Option<bool>,
    no_copy: Option<bool>,
    tmpfs_size: Option<u64>,
    tmpfs_mode: Option<u32>,
}

/// One `--mount`: comma-separated `key=value` pairs, quoted as CSV.
///
/// # Errors
/// Those of [`ParseError`] that speak of fields, keys, types, sources and targets.
pub fn mount(text: &str, current: &str) -> Result<MountRequest, ParseError> {
    let mut fields = Fields::default();
    for field in csv::record(text)? {
        take_field(&mut fields, &field)?;
    }
    if fields.target.is_empty() {
        return Err(ParseError::NoTarget);
    }
    let target = target(&fields.target)?;
    check_options(&fields)?;
    let source = match fields.kind.as_str() {
        "bind" if fields.source.is_empty() => return Err(ParseError::NoSource),
        "bind" => MountSource::Bind {
            path: absolute(&fields.source, current),
            create: false,
        },
        "tmpfs" => MountSource::Tmpfs {
            size: fields.tmpfs_size,
            mode: fields.tmpfs_mode,
            options: Vec::new(),
        },
        "" | "volume" => MountSource::Volume {
            name: match fields.source.as_str() {
                "" => None,
                name => Some(volume_name(name)?.to_owned()),
            },
            copy_up: !fields.no_copy.unwrap_or(false),
        },
        other => return Err(ParseError::MountType(other.to_owned())),
    };
    Ok(MountRequest {
        source,
        target,
        read_only: fields.read_only,
        propagation: fields.propagation,
        recursive: fields.recursive.unwrap_or(true),
    })
}

fn take_field(fields: &mut Fields, field: &str) -> Result<(), ParseError> {
    let (key, value) = match split_pair(field, '=') {
        Some((key, value)) => (key, Some(value)),
        None => (field, None),
    };
    let key = key.to_ascii_lowercase();
    let invalid = || ParseError::Value {
        key: key.clone(),
        value: value.unwrap_or_default().to_owned(),
    };
    // A switch may stand alone: `readonly` means `readonly=true`.
    let switch = || {
        value.map_or(Ok(true), |value| {
            number::boolean(value).map_err(|_| invalid())
        })
    };
    match key.as_str() {
        "readonly" | "ro" => {
            fields.read_only = switch()?;
            return Ok(());
        }
        "volume-nocopy" => {
            fields.no_copy = Some(switch()?);
            return Ok(());
        }
        "bind-nonrecursive" => {
            fields.recursive = Some(!switch()?);
            return Ok(());
        }
        _ => {}
    }
    let value = value.ok_or_else(|| ParseError::KeyValue(field.to_owned()))?;
    match key.as_str() {
        "type" => fields.kind = value.to_ascii_lowercase(),
        "source" | "src" => value.clone_into(&mut fields.source),
        "target" | "dst" | "destination" => value.clone_into(&mut fields.target),
        "bind-propagation" if is_propagation(value) => value.clone_into(&mut fields.propagation),
        "bind-propagation" => return Err(invalid()),
        "bind-recursive" => match value {
            "enabled" | "writable" => fields.recursive = Some(true),
            "disabled" => fields.recursive = Some(false),
            _ => return Err(invalid()),
        },
        "tmpfs-size" => {
            let bytes = size::bytes(value).map_err(|_| invalid())?;
            fields.tmpfs_size = Some(u64::try_from(bytes).map_err(|_| invalid())?);
        }
        "tmpfs-mode" => fields.tmpfs_mode = Some(octal(value).ok_or_else(invalid)?),
        "consistency" => {}
        _ => {
            return Err(ParseError::Key {
                key: key.clone(),
                field: field.to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses options that belong to another type of mount.
fn check_options(fields: &Fields) -> Result<(), ParseError> {
    let kind = match fields.kind.as_str() {
        "bind" => "bind",
        "tmpfs" => "tmpfs",
        _ => "volume",
    };
    let tmpfs = fields.tmpfs_size.is_some() || fields.tmpfs_mode.is_some();
    for (given, option, owner) in [
        (!fields.propagation.is_empty(), "bind-propagation", "bind"),
        (fields.recursive.is_some(), "bind-recursive", "bind"),
        (fields.no_copy.is_some(), "volume-nocopy", "volume"),
        (tmpfs, "tmpfs-size and tmpfs-mode", "tmpfs"),
        (kind == "tmpfs" && !fields.source.is_empty(), "source", ""),
    ] {
        if given && owner != kind {
            return Err(ParseError::MountOption {
                option: option.to_owned(),
                kind,
            });
        }
    }
    Ok(())
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
}

/// One `--tmpfs`: `TARGET[:OPTIONS]`.
///
/// # Errors
/// [`ParseError::Target`], [`ParseError::RootTarget`] and [`ParseError::Value`].
pub fn tmpfs(text: &str) -> Result<MountRequest, ParseError> {
    let (path, given) = text.split_once(':').unwrap_or((text, ""));
    let target = target(path)?;
    let (mut size, mut mode, mut read_only, mut options) = (None, None, false, Vec::new());
    for option in given.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let invalid = || ParseError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        match key {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // A share of the machine's memory is for the kernel to work out.
            "size" if value.ends_with('%') => options.push(option.to_owned()),
            "size" => {
                let bytes = size::bytes(value).map_err(|_| invalid())?;
                size = Some(u64::try_from(bytes).map_err(|_| invalid())?);
            }
            "mode" => mode = Some(octal(value).ok_or_else(invalid)?),
            "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" | "sync" | "async"
            | "dirsync" | "atime" | "noatime" | "diratime" | "nodiratime" | "relatime"
            | "norelatime" | "strictatime" | "nostrictatime" | "uid" | "gid" | "nr_inodes"
            | "nr_blocks" | "mpol" => options.push(option.to_owned()),
            _ => return Err(ParseError::Mode(option.to_owned())),
        }
    }
    Ok(MountRequest {
        source: MountSource::Tmpfs {
            size,
            mode,
            options,
        },
        target,
        read_only,
        propagation: String::new(),
        recursive: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(source: MountSource, target: &str) -> MountRequest {
        MountRequest {
            source,
            target: target.to_owned(),
            read_only: false,
            propagation: String::new(),
            recursive: true,
        }
    }

    fn named(name: &str) -> MountSource {
        MountSource::Volume {
            name: Some(name.to_owned()),
            copy_up: true,
        }
    }

    fn bind(path: &str) -> MountSource {
        MountSource::Bind {
            path: path.to_owned(),
            create: false,
        }
    }

    #[test]
    fn mounts() {
        for (text, expected) in [
            ("source=data,target=/x", request(named("data"), "/x")),
            ("type=volume,src=data,dst=/x", request(named("data"), "/x")),
            (
                "type=BIND,source=/a,destination=/x",
                request(bind("/a"), "/x"),
            ),
            (
                "type=bind,source=a,target=/x",
                request(bind("/home/a"), "/x"),
            ),
            (
                "type=bind,\"source=/a,b\",target=/x",
                request(bind("/a,b"), "/x"),
            ),
            (
                "type=bind,src=/a,dst=/x,readonly,bind-propagation=rshared,bind-nonrecursive=true",
                MountRequest {
                    read_only: true,
                    propagation: "rshared".to_owned(),
                    recursive: false,
                    ..request(bind("/a"), "/x")
                },
            ),
            (
                "type=volume,target=/x,volume-nocopy,ro=false",
                request(
                    MountSource::Volume {
                        name: None,
                        copy_up: false,
                    },
                    "/x",
                ),
            ),
            (
                "type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=1770",
                request(
                    MountSource::Tmpfs {
                        size: Some(1 << 20),
                        mode: Some(0o1770),
                        options: Vec::new(),
                    },
                    "/x",
                ),
            ),
        ] {
            assert_eq!(mount(text, "/home"), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refused_mounts() {
        for (text, expected) in [
            ("", "the value is empty"),
            (
                "type=bind,target=/x,foo",
                "field 'foo' must be a key=value pair",
            ),
            (
                "type=bind,target=/x,foo=1",
                "unexpected key 'foo' in 'foo=1'",
            ),
            (
                "type=image,source=a1,target=/x",
                "unknown mount type 'image': use bind, volume or tmpfs",
            ),
            ("type=volume", "a target is required"),
            (
                "type=bind,target=/x",
                "a source is required for a bind mount",
            ),
            (
                "type=volume,target=x",
                "the path in the container 'x' is not absolute",
            ),
            (
                "type=tmpfs,target=/x,source=a1",
                "option 'source' does not go with a mount of type tmpfs",
            ),
            (
                "target=/x,bind-propagation=slave",
                "option 'bind-propagation' does not go with a mount of type volume",
            ),
            (
                "type=bind,src=/a,target=/x,bind-propagation=foo",
                "invalid value for 'bind-propagation': 'foo'",
            ),
            (
                "target=/x,readonly=maybe",
                "invalid value for 'readonly': 'maybe'",
            ),
            (
                "type=tmpfs,target=/x,tmpfs-mode=9",
                "invalid value for 'tmpfs-mode': '9'",
            ),
            ("=x,target=/x", "field '=x' must be a key=value pair"),
        ] {
            assert_eq!(
                mount(text, "/").unwrap_err().to_string(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn tmpfs_mounts() {
        let memory = |size, mode, options: &[&str]| MountSource::Tmpfs {
            size,
            mode,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        for (text, expected) in [
            ("/run", request(memory(None, None, &[]), "/run")),
            (
                "/run:size=64m,mode=1777,exec,uid=5",
                request(
                    memory(Some(64 << 20), Some(0o1777), &["exec", "uid=5"]),
                    "/run",
                ),
            ),
            (
                "/run:rw,size=50%",
                request(memory(None, None, &["size=50%"]), "/run"),
            ),
            (
                "/run:ro",
                MountRequest {
                    read_only: true,
                    ..request(memory(None, None, &[]), "/run")
                },
            ),
        ] {
            assert_eq!(tmpfs(text), Ok(expected), "{text}");
        }
        for text in ["run", "/", "", "/x:size=y", "/x:mode=8", "/x:foo"] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
    }
}
