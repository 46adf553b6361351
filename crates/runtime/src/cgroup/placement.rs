//! Where a container's group is to be, by runc's conventions for `linux.cgroupsPath`.

use serde::{Deserialize, Serialize};

use super::systemd::{self, Manager};
use super::{CgroupError, Layout};

/// Who makes the group.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// We do, in the file systems of the hierarchies.
    #[default]
    Cgroupfs,
    /// systemd does, as a scope or slice that we ask it for over D-Bus.
    Systemd,
}

/// Where a group is, and what later commands must know to find it again. A part of the
/// runtime's record of a container, hence serde.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Placement {
    /// Path below the root of the hierarchies, without a leading slash.
    pub path: String,
    /// The unit of systemd's that the group belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Whether hierarchies that the caller may not write to are left out. A limit that
    /// needs one of them is an error all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rootless: bool,
}

/// A transient unit of systemd's.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Unit {
    /// Name of the unit, such as `runc-abc.scope`; or that of a slice.
    pub name: String,
    /// The slice that it is in, such as `system.slice`.
    pub slice: String,
    /// Whether it is of the user's manager rather than of the system's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
    /// More properties of the unit, as annotations `org.systemd.property.NAME` give them:
    /// the name, and the value in GVariant's text format.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<(String, String)>,
}

impl Placement {
    /// Finds the place for the group of container `id`.
    ///
    /// With [`Driver::Cgroupfs`], `cgroups_path` is a path from the root of the
    /// hierarchies, or empty for one named after the container. Without privileges a
    /// relative path begins beside the caller's own group, which is what has been
    /// delegated to it. With [`Driver::Systemd`] it is `slice:prefix:name`, or empty for
    /// `:gantry:ID`; an empty slice means `system.slice`, or `user.slice` of the user's
    /// manager when `rootless`. A name that ends in `.slice` is the unit itself.
    ///
    /// # Errors
    /// [`CgroupError::InvalidPath`], [`CgroupError::InvalidUnit`], or
    /// [`CgroupError::Systemd`] where systemd does not answer.
    pub fn resolve(
        driver: Driver,
        layout: &Layout,
        cgroups_path: &str,
        id: &str,
        rootless: bool,
    ) -> Result<Placement, CgroupError> {
        match driver {
            Driver::Cgroupfs => {
                // No directory of ours around it: nobody would remove that.
                let path = match cgroups_path {
                    "" => id,
                    path => path,
                };
                let path = clean(path).ok_or_else(|| CgroupError::InvalidPath {
                    path: cgroups_path.to_owned(),
                })?;
                let above = (rootless && !cgroups_path.starts_with('/'))
                    .then(|| beside_own_group(layout))
                    .flatten();
                Ok(Placement {
                    path: match above.as_deref() {
                        None | Some("") => path,
                        Some(above) => format!("{above}/{path}"),
                    },
                    unit: None,
                    rootless,
                })
            }
            Driver::Systemd => {
                let unit = Unit::parse(cgroups_path, id, rootless)?;
                let mut path = Manager::connect(unit.user)?.control_group()?;
                path.push_str(&expand_slice(&unit.slice)?);
                let path = format!("{}/{}", path.trim_matches('/'), unit.name);
                Ok(Placement {
                    path: path.trim_start_matches('/').to_owned(),
                    unit: Some(unit),
                    rootless,
                })
            }
        }
    }

    /// Adds the properties of a unit that annotations `org.systemd.property.NAME` ask
    /// for. Without a unit they are ignored, as runc does.
    ///
    /// # Errors
    /// [`CgroupError::InvalidUnit`] for a value that is not in GVariant's text format.
    pub fn with_annotations<'a>(
        mut self,
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Placement, CgroupError> {
        const PREFIX: &str = "org.systemd.property.";
        let Some(unit) = &mut self.unit else {
            return Ok(self);
        };
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            systemd::parse_property(name, value)?;
            unit.properties.push((name.to_owned(), value.clone()));
        }
        Ok(self)
    }
}

impl Unit {
    fn parse(cgroups_path: &str, id: &str, user: bool) -> Result<Unit, CgroupError> {
        let invalid = |reason| CgroupError::InvalidUnit {
            value: cgroups_path.to_owned(),
            reason,
        };
        let (slice, prefix, name) = if cgroups_path.is_empty() {
            ("", "gantry", id)
        } else {
            let mut parts = cgroups_path.split(':');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
                _ => return Err(invalid("it is not of the form slice:prefix:name")),
            }
        };
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        expand_slice(slice)?;
        let name = if name.ends_with(".slice") {
            expand_slice(name)?;
            name.to_owned()
        } else if prefix.is_empty() {
            format!("{name}.scope")
        } else {
            format!("{prefix}-{name}.scope")
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        // systemd.unit(5)
        if name.len() > 255 || !name.bytes().all(is_plain) {
            return Err(invalid("it does not make the name of a unit"));
        }
        Ok(Unit {
            name,
            slice: slice.to_owned(),
            user,
            properties: Vec::new(),
        })
    }

    /// Whether the unit is a slice, in which other units put the processes.
    pub(super) fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }
}

/// The directory of a slice, whose name tells of the slices that it is in:
/// `/a.slice/a-b.slice` for `a-b.slice`.
fn expand_slice(slice: &str) -> Result<String, CgroupError> {
    let invalid = || CgroupError::InvalidUnit {
        value: slice.to_owned(),
        reason: "it is not the name of a slice",
    };
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    // The root slice.
    if name == "-" {
        return Ok(String::new());
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\@".contains(&byte);
        if part.is_empty() || !part.bytes().all(is_plain) {
            return Err(invalid());
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

/// A path without empty parts, which `.` and `..` cannot leave; `None` for the root.
fn clean(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The group that holds the caller's own: that one has processes in it, so that version 2
/// would let it have no groups with controllers.
fn beside_own_group(layout: &Layout) -> Option<String> {
    layout.v2()?;
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (above, _) = own.rsplit_once('/')?;
    Some(above.trim_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_expanded() {
        for (slice, path) in [
            ("-.slice", ""),
            ("system.slice", "/system.slice"),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
            (
                "kubepods-pod1_2.slice",
                "/kubepods.slice/kubepods-pod1_2.slice",
            ),
        ] {
            assert_eq!(expand_slice(slice).unwrap(), path);
        }
        for slice in [
            "",
            ".slice",
            "a",
            "a.scope",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a/b.slice",
            "../x.slice",
        ] {
            let error = expand_slice(slice).unwrap_err();
            assert!(matches!(error, CgroupError::InvalidUnit { .. }), "{slice}");
        }
    }

    #[test]
    fn units_are_named_as_runc_names_them() {
        for (path, user, slice, name) in [
            ("", false, "system.slice", "gantry-id.scope"),
            ("", true, "user.slice", "gantry-id.scope"),
            (":docker:abc", false, "system.slice", "docker-abc.scope"),
            (
                "machine.slice:libpod:abc",
                true,
                "machine.slice",
                "libpod-abc.scope",
            ),
            (
                "a-b.slice:cri-containerd:abc",
                false,
                "a-b.slice",
                "cri-containerd-abc.scope",
            ),
            ("a.slice::abc", false, "a.slice", "abc.scope"),
            ("a.slice:x:a-b.slice", false, "a.slice", "a-b.slice"),
        ] {
            let unit = Unit::parse(path, "id", user).unwrap();
            assert_eq!((&*unit.slice, &*unit.name), (slice, name), "{path}");
            assert_eq!(unit.user, user);
        }
        for path in [
            "/a/b",
            "a.slice",
            "a.slice:b",
            "a.slice:b:c:d",
            "a:b:c",
            "a.slice:b:c/d",
            "a.slice:b:c d",
        ] {
            let error = Unit::parse(path, "id", false).unwrap_err();
            assert!(matches!(error, CgroupError::InvalidUnit { .. }), "{path}");
        }
    }

    #[test]
    fn paths_of_the_file_system_cannot_climb() {
        let layout = Layout::from_mountinfo("");
        let resolve = |path: &str, rootless| {
            Placement::resolve(Driver::Cgroupfs, &layout, path, "id", rootless)
        };
        for (path, expected) in [
            ("", "id"),
            ("/a/b", "a/b"),
            ("a//b/", "a/b"),
            ("/../../a/./b/../c", "a/c"),
        ] {
            assert_eq!(resolve(path, false).unwrap().path, expected);
        }
        // There is no version 2 here whose group could be its own.
        assert_eq!(resolve("", true).unwrap().path, "id");
        for path in ["/", "..", "a/.."] {
            assert!(resolve(path, false).is_err(), "{path}");
        }
    }
}
