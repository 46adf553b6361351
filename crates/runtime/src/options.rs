//! Mount options, as fstab and the runtime-spec ("Linux mount options") name them.

use gantry_sys::mount::{
    ATIME, Attributes, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, STRICTATIME,
};

/// What a list of options asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MountOptions {
    /// Attributes of the mount itself.
    pub attributes: Attributes,
    /// Attributes of the mount and of all mounts below it.
    pub recursive_attributes: Attributes,
    /// Whether it is a bind mount.
    pub bind: bool,
    /// Whether the mounts below the source come along.
    pub recursive: bool,
    /// Propagation: an `MS_*` bit and whether it holds for the mounts below too.
    pub propagation: Option<(u64, bool)>,
    /// Whether an empty source is first filled with what the target holds (Gantry's own
    /// option `copyup`, for volumes; `tmpcopyup` of the specification, for tmpfs).
    pub copy_up: bool,
    /// Whether the mount is id-mapped, and whether the mounts below it are too.
    pub id_map: Option<bool>,
    /// Options of the file system: keys and, where they have one, values.
    pub data: Vec<(String, Option<String>)>,
}

const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

/// Sorts options into what the kernel takes in different places.
///
/// Every word that is not a flag is passed to the file system, which refuses what it
/// does not know.
#[must_use]
pub fn parse<S: AsRef<str>>(options: &[S]) -> MountOptions {
    let mut parsed = MountOptions::default();
    for option in options {
        let option = option.as_ref();
        if let Some((set, clear)) = attribute(option) {
            add(&mut parsed.attributes, set, clear);
            continue;
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            add(&mut parsed.recursive_attributes, set, clear);
            continue;
        }
        match option {
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "private" => parsed.propagation = Some((MS_PRIVATE, false)),
            "rprivate" => parsed.propagation = Some((MS_PRIVATE, true)),
            "slave" => parsed.propagation = Some((MS_SLAVE, false)),
            "rslave" => parsed.propagation = Some((MS_SLAVE, true)),
            "shared" => parsed.propagation = Some((MS_SHARED, false)),
            "rshared" => parsed.propagation = Some((MS_SHARED, true)),
            "unbindable" => parsed.propagation = Some((MS_UNBINDABLE, false)),
            "runbindable" => parsed.propagation = Some((MS_UNBINDABLE, true)),
            "idmap" => parsed.id_map = Some(false),
            "ridmap" => parsed.id_map = Some(true),
            "copyup" | "tmpcopyup" => parsed.copy_up = true,
            // Flags that are the default, or that only mount(2) on a device knows.
            "defaults" | "async" | "loud" | "silent" | "remount" | "iversion" | "noiversion"
            | "" => {}
            other => parsed.data.push(match other.split_once('=') {
                Some((key, value)) => (key.into(), Some(value.into())),
                None => (other.into(), None),
            }),
        }
    }
    parsed
}

fn add(attributes: &mut Attributes, set: u64, clear: u64) {
    attributes.set = attributes.set & !clear | set;
    attributes.clear = attributes.clear & !set | clear;
}

/// The bits that a word sets and clears.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        // The access time is one field: it is cleared as a whole before a value is set.
        "noatime" => (NOATIME, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "relatime" | "atime" | "nostrictatime" | "norelatime" => (0, ATIME),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_where_the_kernel_takes_them() {
        let parsed = parse(&["rbind", "rprivate", "ro", "nosuid", "rnoexec", "mode=755"]);
        assert!(parsed.bind && parsed.recursive);
        assert_eq!(parsed.attributes.set, RDONLY | NOSUID);
        assert_eq!(parsed.recursive_attributes.set, NOEXEC);
        assert_eq!(parsed.propagation, Some((MS_PRIVATE, true)));
        assert_eq!(parsed.data, [("mode".to_owned(), Some("755".to_owned()))]);
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(
            parse(&["ro", "rw"]).attributes,
            Attributes {
                set: 0,
                clear: RDONLY,
                propagation: 0
            }
        );
        let parsed = parse(&["noatime", "strictatime"]);
        // The kernel wants the whole field cleared before it takes a new value.
        assert_eq!(
            (
                parsed.attributes.set & ATIME,
                parsed.attributes.clear & ATIME
            ),
            (STRICTATIME, ATIME)
        );
        assert_eq!(parse(&["rro"]).recursive_attributes.set, RDONLY);
    }
}
