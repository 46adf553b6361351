//! Users and groups by the container's own `/etc/passwd` and `/etc/group`.
//!
//! Both files come from an image, so they are attacker data: only regular files are
//! read, never more than [`MAX_FILE`] bytes (CVE-2026-47262 and its kin: a huge file, a
//! FIFO or a device in their place).

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags};

use crate::path;

/// Longest passwd or group file that is read, in bytes.
pub const MAX_FILE: u64 = 10 * 1024 * 1024;

/// The highest id that is given out; the next one means "no change" to the kernel.
const MAX_ID: u64 = 4_294_967_294;

/// Ids of a process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory, if the user has an entry.
    pub home: Option<String>,
}

/// Why a user cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The text has no meaning as a user.
    #[error("invalid user {text:?}: expected NAME or ID, optionally with :GROUP")]
    Invalid {
        /// What was given.
        text: String,
    },
    /// An id beyond what the kernel knows.
    #[error("user or group id {text:?} is out of range: the highest is 4294967294")]
    OutOfRange {
        /// What was given.
        text: String,
    },
    /// No such user.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoSuchUser {
        /// Its name.
        name: String,
    },
    /// No such group.
    #[error("unable to find group {name}: no matching entries in group file")]
    NoSuchGroup {
        /// Its name.
        name: String,
    },
    /// A file that is no regular file, or too large.
    #[error("cannot use {path} of the image: {reason}")]
    Unusable {
        /// Path in the container.
        path: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A file that cannot be read.
    #[error("cannot read {path} of the image")]
    Read {
        /// Path in the container.
        path: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Resolves `USER[:GROUP]` in the root that `root` is open on; empty means root.
///
/// # Errors
/// See [`UserError`].
pub fn resolve(root: BorrowedFd<'_>, text: &str) -> Result<Ids, UserError> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    resolve_in(&passwd, &group, text)
}

/// [`resolve`] on the contents of the two files.
///
/// # Errors
/// See [`UserError`].
pub fn resolve_in(passwd: &[u8], group: &[u8], text: &str) -> Result<Ids, UserError> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    if (user.is_empty() && wanted_group.is_some()) || wanted_group.is_some_and(str::is_empty) {
        return Err(UserError::Invalid { text: text.into() });
    }
    let mut ids = Ids::default();
    let mut name = None;
    // A number is never looked up as a name (CVE-2016-3697), and what only looks like a
    // number is refused rather than read as 0 (CVE-2026-30892).
    let entry = match number(if user.is_empty() { "0" } else { user })? {
        Some(uid) => {
            ids.uid = uid;
            passwd_entries(passwd).find(|entry| entry.uid == Some(uid))
        }
        None => {
            let entry = passwd_entries(passwd)
                .find(|entry| entry.name == user.as_bytes())
                .ok_or_else(|| UserError::NoSuchUser { name: user.into() })?;
            ids.uid = entry
                .uid
                .ok_or_else(|| UserError::OutOfRange { text: user.into() })?;
            Some(entry)
        }
    };
    if let Some(entry) = entry {
        ids.gid = entry
            .gid
            .ok_or_else(|| UserError::OutOfRange { text: user.into() })?;
        ids.home = Some(String::from_utf8_lossy(entry.home).into_owned());
        name = Some(entry.name);
    }
    if let Some(wanted) = wanted_group {
        // As in Docker, a group that is named takes the place of all others.
        ids.gid = match number(wanted)? {
            Some(gid) => gid,
            None => group_entries(group)
                .find(|entry| entry.name == wanted.as_bytes())
                .ok_or_else(|| UserError::NoSuchGroup {
                    name: wanted.into(),
                })?
                .gid
                .ok_or_else(|| UserError::OutOfRange {
                    text: wanted.into(),
                })?,
        };
    }
    // The primary group belongs to the supplementary ones (CVE-2022-36109: without it a
    // file that denies its group could be read).
    ids.groups.push(ids.gid);
    if wanted_group.is_none()
        && let Some(name) = name
    {
        for entry in group_entries(group) {
            let member = entry
                .members
                .split(|&byte| byte == b',')
                .any(|member| member == name);
            if let Some(gid) = entry.gid
                && member
                && !ids.groups.contains(&gid)
            {
                ids.groups.push(gid);
            }
        }
    }
    Ok(ids)
}

/// A decimal id; `None` for a name; an error for what is neither.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text
        .bytes()
        .any(|byte| byte.is_ascii_whitespace() || byte == 0)
    {
        return Err(UserError::Invalid { text: text.into() });
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let numeric_start = text.starts_with(['+', '-']) || text.starts_with("0x");
        return if numeric_start {
            Err(UserError::Invalid { text: text.into() })
        } else {
            Ok(None)
        };
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(UserError::Invalid { text: text.into() });
    }
    match text.parse::<u64>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id as u32)),
        _ => Err(UserError::OutOfRange { text: text.into() }),
    }
}

/// An id of a file; `None` where it is malformed or out of range, which must never be 0.
fn file_id(field: &[u8]) -> Option<u32> {
    let id: u64 = std::str::from_utf8(field).ok()?.parse().ok()?;
    (id <= MAX_ID).then_some(id as u32)
}

struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: Option<u32>,
    gid: Option<u32>,
    home: &'a [u8],
}

fn passwd_entries(text: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?;
        let gid = fields.next().unwrap_or_default();
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry {
            name,
            uid: file_id(uid),
            gid: file_id(gid),
            home,
        })
    })
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: Option<u32>,
    members: &'a [u8],
}

fn group_entries(text: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?;
        Some(GroupEntry {
            name,
            gid: file_id(gid),
            members: fields.next().unwrap_or_default(),
        })
    })
}

fn read(root: BorrowedFd<'_>, path: &'static str) -> Result<Vec<u8>, UserError> {
    let error = |source| UserError::Read { path, source };
    // Opened as a path first: opening a FIFO or a device would already act on it.
    let handle = match path::open_in_root(root, path, OFlags::PATH) {
        Ok(handle) => handle,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) if source.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error()) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(error(source)),
    };
    let stat = rustix::fs::fstat(&handle).map_err(|errno| error(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(UserError::Unusable {
            path,
            reason: "it is not a regular file",
        });
    }
    if stat.st_size as u64 > MAX_FILE {
        return Err(UserError::Unusable {
            path,
            reason: "it is larger than 10 MiB",
        });
    }
    let file = path::open_in_root(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    )
    .map_err(error)?;
    let mut bytes = Vec::with_capacity(stat.st_size as usize);
    std::fs::File::from(file)
        .take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(error)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        1000:x:0:0::/:/bin/sh\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n\
        wrap:x:4294967296:4294967296::/:/bin/sh\n\
        high:x:2147483648:0::/:/bin/sh\nbroken\n";
    const GROUP: &[u8] =
        b"root:x:0:\nstaff:x:50:app,other\nvideo:x:44:other,app\nwheel:x:10:root\n";

    fn ids(text: &str) -> Result<(u32, u32), String> {
        resolve_in(PASSWD, GROUP, text)
            .map(|ids| (ids.uid, ids.gid))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn users_resolve_as_the_table_says() {
        for (text, expected) in [
            ("", (0, 0)),
            ("root", (0, 0)),
            ("1", (1, 0)),
            ("1:2", (1, 2)),
            ("app", (1000, 1001)),
            ("app:staff", (1000, 50)),
            ("5:staff", (5, 50)),
            // CVE-2016-3697: the entry named "1000" has uid 0 and must not be taken.
            ("1000", (1000, 1001)),
            ("2147483648", (2_147_483_648, 0)),
            ("4294967294", (4_294_967_294, 0)),
            ("high", (2_147_483_648, 0)),
        ] {
            assert_eq!(ids(text), Ok(expected), "{text:?}");
        }
    }

    // CVE-2026-30892 (R24), CVE-2024-40635 and CVE-2026-46680 (R25): nothing that is not
    // a plain number in range may end as uid 0.
    #[test]
    fn what_is_no_plain_user_is_refused() {
        for text in [
            ":5",
            "1:",
            ":",
            "01",
            "+1",
            " 1",
            "1 ",
            "-1",
            "0x0",
            "4294967295",
            "4294967296",
            "99999999999999999999",
            "wrap",
            "nobody",
            "app:nogroup",
            "1:-1",
            "1:4294967296",
            "app:01",
            "a b",
            "1\n",
        ] {
            assert!(ids(text).is_err(), "{text:?} gave {:?}", ids(text));
        }
    }

    // CVE-2022-36109 (R26).
    #[test]
    fn supplementary_groups_include_the_primary_one() {
        assert_eq!(
            resolve_in(PASSWD, GROUP, "app").unwrap().groups,
            [1001, 50, 44]
        );
        assert_eq!(
            resolve_in(PASSWD, GROUP, "1000").unwrap().groups,
            [1001, 50, 44]
        );
        assert_eq!(resolve_in(PASSWD, GROUP, "77").unwrap().groups, [0]);
        assert_eq!(resolve_in(PASSWD, GROUP, "app:44").unwrap().groups, [44]);
    }
}
