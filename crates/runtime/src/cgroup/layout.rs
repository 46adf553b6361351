//! Where the host has its hierarchies.

use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::{CgroupError, file};

/// Where every distribution mounts control groups.
const USUAL: &str = "/sys/fs/cgroup";

/// `f_type` of a cgroup v2 mount.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The most that is read of a mount table: 64 MiB are some 400,000 mounts.
const MAX_MOUNTINFO: usize = 64 << 20;

/// Controllers of version 1; other words among the options of a mount are not.
const CONTROLLERS: [&str; 15] = [
    "cpuset",
    "cpu",
    "cpuacct",
    "blkio",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
    "dmem",
];

/// One hierarchy of control groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hierarchy {
    mount_point: String,
    controllers: Vec<String>,
    name: Option<String>,
    is_v2: bool,
}

impl Hierarchy {
    fn unified(mount_point: String) -> Hierarchy {
        Hierarchy {
            mount_point,
            controllers: Vec::new(),
            name: None,
            is_v2: true,
        }
    }

    /// Absolute path of its mount.
    #[must_use]
    pub fn mount_point(&self) -> &str {
        &self.mount_point
    }

    /// Whether it is version 2.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.is_v2
    }

    /// Controllers of a version 1 hierarchy. Those of version 2 differ from group to group.
    #[must_use]
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Name of a version 1 hierarchy that has one, such as `systemd`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Options by which a mount of file system type `cgroup` is this hierarchy: its
    /// controllers, and `name` with a value.
    #[must_use]
    pub fn mount_options(&self) -> Vec<(String, Option<String>)> {
        let controllers = self.controllers.iter().map(|name| (name.clone(), None));
        let name = self
            .name
            .iter()
            .map(|name| ("name".into(), Some(name.clone())));
        controllers.chain(name).collect()
    }

    /// Name of the directory that it is mounted on, such as `cpu,cpuacct`.
    #[must_use]
    pub fn directory_name(&self) -> &str {
        self.mount_point
            .rsplit_once('/')
            .map_or(&*self.mount_point, |(_, name)| name)
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// The hierarchies of the host. Cheap to clone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    hierarchies: Arc<[Hierarchy]>,
}

impl Layout {
    /// Looks at the mounts of the calling process.
    ///
    /// Where version 2 alone is in the usual place, this is one system call.
    ///
    /// # Errors
    /// [`CgroupError::Detect`]; no hierarchy at all is not an error yet.
    pub fn detect() -> Result<Layout, CgroupError> {
        let is_v2_alone =
            rustix::fs::statfs(USUAL).is_ok_and(|statistics| statistics.f_type == CGROUP2_MAGIC);
        if is_v2_alone {
            return Ok(Layout {
                hierarchies: Arc::new([Hierarchy::unified(USUAL.to_owned())]),
            });
        }
        let text = rustix::fs::open(
            "/proc/self/mountinfo",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(std::io::Error::from)
        .and_then(|mounts| file::read_to_end(&mounts, MAX_MOUNTINFO))
        .map_err(|source| CgroupError::Detect { source })?;
        Ok(Layout::from_mountinfo(&text))
    }

    /// Reads a mount table in the form of `/proc/self/mountinfo` (proc(5)).
    ///
    /// Mounts that others hide do not count. Of several mounts of one hierarchy, one of
    /// its root is preferred to one of a group in it, and one below `/sys/fs/cgroup` to
    /// one elsewhere.
    #[must_use]
    pub fn from_mountinfo(text: &str) -> Layout {
        let mounts: Vec<Mount<'_>> = text.lines().filter_map(Mount::parse).collect();
        let mut found: Vec<(&Mount<'_>, Hierarchy)> = Vec::new();
        for mount in &mounts {
            let Some(hierarchy) = mount.hierarchy() else {
                continue;
            };
            if is_hidden(mount, &mounts) {
                continue;
            }
            let known = found
                .iter_mut()
                .find(|(other, _)| other.device == mount.device);
            match known {
                None => found.push((mount, hierarchy)),
                Some(known) if mount.rank() > known.0.rank() => *known = (mount, hierarchy),
                Some(_) => {}
            }
        }
        Layout {
            hierarchies: found.into_iter().map(|(_, hierarchy)| hierarchy).collect(),
        }
    }

    /// All hierarchies, in the order of their mounts.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The version 2 hierarchy, alone or beside version 1.
    #[must_use]
    pub fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.is_v2)
    }

    /// The version 1 hierarchies; none where the host has version 2 alone, or nothing.
    #[must_use]
    pub fn v1_hierarchies(&self) -> Option<impl Iterator<Item = &Hierarchy>> {
        let mut v1 = self
            .hierarchies
            .iter()
            .filter(|hierarchy| !hierarchy.is_v2)
            .peekable();
        v1.peek().is_some().then_some(v1)
    }
}

/// A line of the mount table.
#[derive(Debug)]
struct Mount<'a> {
    id: &'a str,
    parent: &'a str,
    device: &'a str,
    root: &'a str,
    mount_point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    fn parse(line: &str) -> Option<Mount<'_>> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let (id, parent, device) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let mut fields = after.split(' ');
        let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Mount {
            id,
            parent,
            device,
            root,
            mount_point,
            kind,
            options,
        })
    }

    fn hierarchy(&self) -> Option<Hierarchy> {
        match self.kind {
            "cgroup2" => Some(Hierarchy::unified(unescape(self.mount_point))),
            "cgroup" => {
                let words = || self.options.split(',');
                let controllers = words().filter(|word| CONTROLLERS.contains(word));
                Some(Hierarchy {
                    mount_point: unescape(self.mount_point),
                    controllers: controllers.map(str::to_owned).collect(),
                    name: words().find_map(|word| word.strip_prefix("name=").map(unescape)),
                    is_v2: false,
                })
            }
            _ => None,
        }
    }

    fn rank(&self) -> (bool, bool) {
        (self.root == "/", is_below(self.mount_point, USUAL))
    }
}

/// Whether another mount covers this one or one that leads to it.
fn is_hidden(mount: &Mount<'_>, mounts: &[Mount<'_>]) -> bool {
    let on_top =
        |other: &Mount<'_>| other.parent == mount.id && other.mount_point == mount.mount_point;
    if mounts.iter().any(on_top) {
        return true;
    }
    let mut mount = mount;
    // A chain of parents is no longer than the table.
    for _ in 0..=mounts.len() {
        // Beside it, over a directory that leads to it: had that been there first, the
        // mount would be its child.
        let covered = mounts.iter().any(|other| {
            other.parent == mount.parent
                && other.id != mount.id
                && is_below(mount.mount_point, other.mount_point)
        });
        if covered {
            return true;
        }
        let parent = mounts.iter().find(|other| other.id == mount.parent);
        match parent {
            Some(parent) if parent.id != mount.id => mount = parent,
            _ => return false,
        }
    }
    false
}

/// Whether `path` is `directory` or in it.
fn is_below(path: &str, directory: &str) -> bool {
    let Some(rest) = path.strip_prefix(directory.trim_end_matches('/')) else {
        return false;
    };
    rest.is_empty() || rest.starts_with('/')
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
            .filter(u8::is_ascii);
        match code {
            Some(code) => {
                text.push(code.into());
                rest = &after[3..];
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a layout comes to, one line a hierarchy.
    fn describe(text: &str) -> Vec<String> {
        let layout = Layout::from_mountinfo(text);
        let describe = |hierarchy: &Hierarchy| {
            let version = if hierarchy.is_v2 { "v2" } else { "v1" };
            let name = hierarchy.name().map(|name| format!(" name={name}"));
            let controllers = hierarchy.controllers.join("+");
            format!(
                "{version} {} {controllers}{}",
                hierarchy.mount_point,
                name.unwrap_or_default()
            )
        };
        layout.hierarchies().iter().map(describe).collect()
    }

    const V1: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 master:1 - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,clone_children
36 31 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/bin/x,name=systemd
";

    #[test]
    fn v1_with_controllers_mounted_together() {
        assert_eq!(
            describe(V1),
            [
                "v1 /sys/fs/cgroup/cpu,cpuacct cpu+cpuacct",
                "v1 /sys/fs/cgroup/memory memory",
                "v1 /sys/fs/cgroup/systemd  name=systemd",
            ]
        );
        let layout = Layout::from_mountinfo(V1);
        let options: Vec<_> = layout
            .hierarchies()
            .iter()
            .map(|hierarchy| (hierarchy.directory_name(), hierarchy.mount_options()))
            .collect();
        let flag = |name: &str| (name.to_owned(), None);
        assert_eq!(
            options,
            [
                ("cpu,cpuacct", vec![flag("cpu"), flag("cpuacct")]),
                ("memory", vec![flag("memory")]),
                ("systemd", vec![("name".into(), Some("systemd".into()))]),
            ]
        );
        assert!(layout.v2().is_none());
        assert_eq!(layout.v1_hierarchies().map(Iterator::count), Some(3));
    }

    #[test]
    fn v2_alone_and_beside_v1() {
        let v2 = "23 27 0:22 / /sys rw - sysfs sysfs rw\n\
                  30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(describe(v2), ["v2 /sys/fs/cgroup "]);
        assert!(Layout::from_mountinfo(v2).v1_hierarchies().is_none());

        let hybrid = format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        assert_eq!(describe(&hybrid).len(), 4);
        let layout = Layout::from_mountinfo(&hybrid);
        assert_eq!(
            layout.v2().map(Hierarchy::mount_point),
            Some("/sys/fs/cgroup/unified")
        );
        assert_eq!(layout.v1_hierarchies().map(Iterator::count), Some(3));
    }

    #[test]
    fn hidden_mounts_do_not_count() {
        // Over the tmpfs that carries version 1.
        let on_top = format!("{V1}50 31 0:40 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(describe(&on_top), ["v2 /sys/fs/cgroup "]);
        // Over a directory above it, beside it.
        let above = format!("{V1}50 23 0:40 / /sys/fs rw - tmpfs tmpfs rw\n");
        assert!(describe(&above).is_empty());
        // Over one of them; the order of the lines says nothing.
        let one = format!("50 35 0:40 / /sys/fs/cgroup/memory rw - tmpfs tmpfs rw\n{V1}");
        assert_eq!(describe(&one).len(), 2);
        // Beside it, but not over it.
        let beside = format!("{V1}50 31 0:40 / /sys/fs/cgroup/mem rw - tmpfs tmpfs rw\n");
        assert_eq!(describe(&beside).len(), 3);
    }

    #[test]
    fn a_hierarchy_mounted_twice_counts_once() {
        let elsewhere = format!("10 27 0:32 / /mnt/m rw - cgroup cgroup rw,memory\n{V1}");
        assert!(describe(&elsewhere).contains(&"v1 /sys/fs/cgroup/memory memory".to_owned()));
        assert_eq!(describe(&elsewhere).len(), 3);
        let part = format!("{V1}60 27 0:32 /g /mnt/m rw - cgroup cgroup rw,memory\n");
        assert_eq!(describe(&part), describe(V1));
        // Inside a container there is only a part.
        let inside = "30 23 0:26 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(describe(inside), ["v1 /sys/fs/cgroup/memory memory"]);
    }

    #[test]
    fn odd_lines_are_read_or_skipped() {
        let escaped = r"30 23 0:26 / /a\040b\134c\x rw - cgroup2 cgroup2 rw";
        assert_eq!(describe(escaped), [r"v2 /a b\c\x "]);
        for text in [
            "",
            "\n\n",
            "30 23 0:26 / /x",
            "30 23 0:26 / /x rw - cgroup2",
            "nonsense - cgroup2 cgroup2 rw",
            "30 30 0:26 / /x rw - ext4 x rw",
        ] {
            assert!(describe(text).is_empty(), "{text:?}");
        }
        // A table that claims to be its own ancestor must not loop.
        let circle = "1 2 0:1 / /a rw - cgroup2 c rw\n2 1 0:2 / /b rw - tmpfs t rw\n";
        assert_eq!(describe(circle), ["v2 /a "]);
    }

    #[test]
    fn the_host_has_control_groups() {
        let layout = Layout::detect().unwrap();
        assert!(!layout.hierarchies().is_empty());
        for hierarchy in layout.hierarchies() {
            let procs = format!("{}/cgroup.procs", hierarchy.mount_point());
            assert!(std::path::Path::new(&procs).exists(), "{procs}");
        }
    }
}
