//! The short form of a mount: `-v`.

use super::ParseError;
use crate::api::config::{MountRequest, MountSource};

/// One `-v`: `TARGET`, `SOURCE:TARGET` or `SOURCE:TARGET:OPTIONS`.
///
/// A source with a slash or a leading dot is a path of the host, taken relative to
/// `current`; anything else is the name of a volume.
///
/// # Errors
/// [`ParseError::Volume`], [`ParseError::VolumeName`], [`ParseError::Target`],
/// [`ParseError::RootTarget`] and [`ParseError::Mode`].
pub fn volume(text: &str, current: &str) -> Result<MountRequest, ParseError> {
    let invalid = || ParseError::Volume(text.to_owned());
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] if !options.is_empty() => (Some(source), target, options),
        _ => return Err(invalid()),
    };
    if target.is_empty() || source == Some("") {
        return Err(invalid());
    }
    let target = self::target(target)?;
    let source = match source {
        None => MountSource::Volume {
            name: None,
            copy_up: true,
        },
        Some(path) if path.starts_with(['/', '.']) => MountSource::Bind {
            path: absolute(path, current),
            create: true,
        },
        Some(name) => MountSource::Volume {
            name: Some(volume_name(name)?.to_owned()),
            copy_up: true,
        },
    };
    let mut request = MountRequest {
        source,
        target,
        read_only: false,
        propagation: String::new(),
        recursive: true,
    };
    if !options.is_empty() {
        apply_options(&mut request, options)?;
    }
    Ok(request)
}

fn apply_options(request: &mut MountRequest, options: &str) -> Result<(), ParseError> {
    let invalid = || ParseError::Mode(options.to_owned());
    // Options of one class exclude each other: `ro,rw` means nothing.
    let (mut access, mut label, mut copy, mut propagation, mut consistency) =
        (false, false, false, false, false);
    for option in options.split(',') {
        let seen = match (option, &mut request.source) {
            ("ro" | "rw", _) => {
                request.read_only = option == "ro";
                &mut access
            }
            // Labels belong to SELinux, which Gantry leaves alone: the content stays usable.
            ("z" | "Z", _) => &mut label,
            ("nocopy", MountSource::Volume { copy_up, .. }) => {
                *copy_up = false;
                &mut copy
            }
            (name, MountSource::Bind { .. }) if is_propagation(name) => {
                name.clone_into(&mut request.propagation);
                &mut propagation
            }
            // Only Docker Desktop ever gave these a meaning.
            ("consistent" | "cached" | "delegated", _) => &mut consistency,
            _ => return Err(invalid()),
        };
        if std::mem::replace(seen, true) {
            return Err(invalid());
        }
    }
    Ok(())
}

/// Whether `name` is a propagation of a bind mount.
pub fn is_propagation(name: &str) -> bool {
    matches!(
        name,
        "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate"
    )
}

/// A path in the container: absolute, cleaned, and not the root.
///
/// # Errors
/// [`ParseError::Target`] and [`ParseError::RootTarget`].
pub fn target(text: &str) -> Result<String, ParseError> {
    if !text.starts_with('/') {
        return Err(ParseError::Target(text.to_owned()));
    }
    match absolute(text, "/") {
        root if root == "/" => Err(ParseError::RootTarget),
        path => Ok(path),
    }
}

/// A volume's name.
///
/// # Errors
/// [`ParseError::VolumeName`].
pub fn volume_name(text: &str) -> Result<&str, ParseError> {
    let bytes = text.as_bytes();
    let valid = bytes.len() >= 2
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
    if valid {
        Ok(text)
    } else {
        Err(ParseError::VolumeName(text.to_owned()))
    }
}

/// `path` below `current`, with `.` and `..` and repeated slashes taken out by name alone.
pub fn absolute(path: &str, current: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { current };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &str) -> MountSource {
        MountSource::Bind {
            path: path.to_owned(),
            create: true,
        }
    }

    fn named(name: Option<&str>, copy_up: bool) -> MountSource {
        MountSource::Volume {
            name: name.map(str::to_owned),
            copy_up,
        }
    }

    #[test]
    fn accepted() {
        // Text, source, target, read-only, propagation.
        for (text, source, target, read_only, propagation) in [
            ("/data", named(None, true), "/data", false, ""),
            ("data:/data", named(Some("data"), true), "/data", false, ""),
            (
                "data:/data:ro",
                named(Some("data"), true),
                "/data",
                true,
                "",
            ),
            (
                "data:/data:nocopy",
                named(Some("data"), false),
                "/data",
                false,
                "",
            ),
            ("/a:/b", bind("/a"), "/b", false, ""),
            ("/a/../c//d:/b/./e/", bind("/c/d"), "/b/e", false, ""),
            ("./a:/b", bind("/home/me/a"), "/b", false, ""),
            ("../a:/b", bind("/home/a"), "/b", false, ""),
            (".:/b", bind("/home/me"), "/b", false, ""),
            ("/:/host:ro,rslave", bind("/"), "/host", true, "rslave"),
            (
                "/a:/b:z,rw,shared,cached",
                bind("/a"),
                "/b",
                false,
                "shared",
            ),
        ] {
            let expected = MountRequest {
                source,
                target: target.to_owned(),
                read_only,
                propagation: propagation.to_owned(),
                recursive: true,
            };
            assert_eq!(volume(text, "/home/me"), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in ["", ":/b", "/a:", "/a:/b:", "/a:/b:ro:rw", "a:"] {
            assert!(
                matches!(volume(text, "/"), Err(ParseError::Volume(_))),
                "{text}"
            );
        }
        for text in ["x", "a1:b", "/a:b"] {
            assert!(
                matches!(volume(text, "/"), Err(ParseError::Target(_))),
                "{text}"
            );
        }
        for text in ["/:/", "/", "/a:/.", "/a:/b/.."] {
            assert_eq!(volume(text, "/"), Err(ParseError::RootTarget), "{text}");
        }
        for text in ["a:/b", "a/b:/c", "-x:/c", "é1:/c"] {
            assert!(
                matches!(volume(text, "/"), Err(ParseError::VolumeName(_))),
                "{text}"
            );
        }
        for mode in ["ro,rw", "foo", "nocopy", "z,Z", "ro,", "shared,rslave"] {
            assert_eq!(
                volume(&format!("/a:/b:{mode}"), "/"),
                Err(ParseError::Mode(mode.to_owned())),
                "{mode}"
            );
        }
        assert!(matches!(
            volume("vol:/b:rslave", "/"),
            Err(ParseError::Mode(_))
        ));
    }
}
