//! Users of an htpasswd file.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use crate::options::Log;

/// Largest file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// Highest bcrypt cost that is accepted: each step doubles the time, and 16 takes seconds.
const HIGHEST_COST: u32 = 15;
/// Verified passwords that are remembered.
const REMEMBERED: usize = 1024;

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read the users in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not `USER:BCRYPT`.
    #[error("line {line} of {} {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system has no random numbers.
    #[error("cannot make a random key")]
    Random,
}

/// The file's users, read again when the file has changed.
pub(crate) struct Users {
    path: PathBuf,
    current: Mutex<Current>,
    /// bcrypt is slow on purpose: many requests at once must not take every processor.
    hashing: Semaphore,
    log: Log,
}

/// The users that count, and the state of the file that was not taken over.
struct Current {
    table: Arc<Table>,
    refused: Option<Stamp>,
}

struct Table {
    stamp: Stamp,
    hashes: HashMap<String, String>,
    /// Whether the file has nothing in it, not even a comment.
    is_blank: bool,
    /// Verified against when there is no such user, so that the answer takes as long.
    decoy: String,
    /// Which passwords were verified, as keyed hashes; they go with the table.
    verified: Mutex<HashMap<String, hmac::Tag>>,
    key: hmac::Key,
}

/// What changes when a file is written or replaced.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64, u64);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self(
            metadata.dev(),
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size(),
        )
    }
}

impl Users {
    pub(crate) fn open(path: &Path, log: Log) -> Result<Self, UsersError> {
        Ok(Self {
            path: path.to_owned(),
            current: Mutex::new(Current {
                table: Arc::new(read(path)?),
                refused: None,
            }),
            hashing: Semaphore::new(2),
            log,
        })
    }

    /// The users as the file has them now. While it cannot be read or parsed or has nothing in
    /// it, as in the middle of being written, those that were read last.
    fn table(&self) -> Arc<Table> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = std::fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        let Ok(stamp) = stamp else {
            return Arc::clone(&current.table);
        };
        if stamp == current.table.stamp {
            return Arc::clone(&current.table);
        }
        let reason = match read(&self.path) {
            Ok(table) if !table.is_blank => {
                current.table = Arc::new(table);
                current.refused = None;
                return Arc::clone(&current.table);
            }
            // A file that is written in place is empty at first.
            Ok(_) => "it is empty".to_owned(),
            Err(error) => crate::fault::chain(&error),
        };
        if current.refused.as_ref() != Some(&stamp) {
            current.refused = Some(stamp);
            self.log.say(&format!(
                "the users of {} stay as they were: {reason}",
                self.path.display()
            ));
        }
        Arc::clone(&current.table)
    }

    /// Whether there is such a user.
    pub(crate) async fn knows(self: &Arc<Self>, user: String) -> bool {
        let users = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || users.table().hashes.contains_key(&user));
        looked.await.unwrap_or(false)
    }

    /// Whether the password is the user's.
    pub(crate) async fn verify(self: &Arc<Self>, user: String, password: String) -> bool {
        let users = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            let table = users.table();
            let known = table.remembers(&user, &password);
            (table, user, password, known)
        });
        let Ok((table, user, password, known)) = looked.await else {
            return false;
        };
        if known {
            return true;
        }
        let Ok(_permit) = self.hashing.acquire().await else {
            return false;
        };
        let verified = tokio::task::spawn_blocking(move || table.verify(&user, &password));
        verified.await.unwrap_or(false)
    }
}

impl Table {
    fn tag(&self, user: &str, password: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(user.len() as u64).to_le_bytes());
        context.update(user.as_bytes());
        context.update(password.as_bytes());
        context.sign()
    }

    fn remembers(&self, user: &str, password: &str) -> bool {
        let tag = self.tag(user, password);
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        // Both are keyed hashes, so how long the comparison takes tells nothing.
        verified
            .get(user)
            .is_some_and(|known| known.as_ref() == tag.as_ref())
    }

    fn verify(&self, user: &str, password: &str) -> bool {
        let hash = self.hashes.get(user);
        // bcrypt ends at a zero byte, so a prefix would do.
        let whole = !password.contains('\0');
        let matches = bcrypt::verify(password, hash.unwrap_or(&self.decoy)).unwrap_or(false);
        let verified = matches && whole && hash.is_some();
        if verified {
            let tag = self.tag(user, password);
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            if verified.len() >= REMEMBERED {
                verified.clear();
            }
            verified.insert(user.to_owned(), tag);
        }
        verified
    }
}

fn read(path: &Path) -> Result<Table, UsersError> {
    let failed = |source| UsersError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let mut text = String::new();
    file.take(FILE_LIMIT)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let hashes = parse(&text).map_err(|(line, reason)| UsersError::Line {
        path: path.to_owned(),
        line,
        reason,
    })?;
    let cost = hashes.values().filter_map(|hash| cost(hash)).max();
    let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
        .map_err(|_| UsersError::Random)?;
    // Any hash that no password has: 53 characters of salt and result.
    let decoy = format!("$2y${:02}${}", cost.unwrap_or(10), "O".repeat(53));
    Ok(Table {
        stamp,
        hashes,
        is_blank: text.trim().is_empty(),
        decoy,
        verified: Mutex::default(),
        key,
    })
}

/// Reads lines of `USER:HASH`; empty ones and those that begin with `#` are left out. An error
/// has the number of its line.
fn parse(text: &str) -> Result<HashMap<String, String>, (usize, &'static str)> {
    let mut hashes = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refused = |reason| (number + 1, reason);
        let (user, hash) = line
            .split_once(':')
            .filter(|(user, _)| !user.is_empty())
            .ok_or_else(|| refused("is not USER:HASH"))?;
        let cost = cost(hash).ok_or_else(|| refused("has no bcrypt hash: use htpasswd -B"))?;
        if cost > HIGHEST_COST {
            return Err(refused("has a bcrypt cost above 15"));
        }
        hashes.insert(user.to_owned(), hash.to_owned());
    }
    Ok(hashes)
}

/// The cost of a bcrypt hash; `None` if it is none.
fn cost(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2y$"]
        .iter()
        .find_map(|version| hash.strip_prefix(version))?;
    let (cost, rest) = rest.split_once('$')?;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let fits = cost.len() == 2 && rest.len() == 53 && rest.bytes().all(is_base64);
    fits.then(|| cost.parse().ok())
        .flatten()
        .filter(|cost| *cost >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bcrypt_is_accepted() {
        let good = format!("$2y$05${}", "a".repeat(53));
        assert_eq!(parse(&format!("# c\n\nu:{good}\r\n")).unwrap().len(), 1);
        for (line, reason) in [
            ("u", "USER:HASH"),
            (":x", "USER:HASH"),
            ("u:secret", "bcrypt"),
            ("u:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "bcrypt"),
            ("u:$apr1$x$y", "bcrypt"),
            ("u:$2y$05$short", "bcrypt"),
        ] {
            let (number, found) = parse(&format!("u:{good}\n{line}")).unwrap_err();
            assert_eq!(number, 2);
            assert!(found.contains(reason), "{line}: {found}");
        }
        let costly = format!("u:$2y$31${}", "a".repeat(53));
        assert!(parse(&costly).unwrap_err().1.contains("cost"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_changed_file_is_read_again() {
        let directory = crate::testing::Directory::new();
        let path = directory.path().join("users");
        let line = |user: &str, word: &str| format!("{user}:{}\n", bcrypt::hash(word, 4).unwrap());
        std::fs::write(&path, line("a", "one")).unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let log = {
            let said = Arc::clone(&said);
            Log(Arc::new(move |line: &str| {
                said.lock().unwrap().push(line.to_owned());
            }))
        };
        let users = Arc::new(Users::open(&path, log).unwrap());
        for _ in 0..2 {
            assert!(users.verify("a".into(), "one".into()).await);
        }
        assert!(!users.verify("a".into(), "two".into()).await);
        assert!(!users.verify("b".into(), "one".into()).await);
        assert!(!users.verify("a".into(), String::new()).await);
        assert!(!users.verify("a".into(), "one\0x".into()).await);
        std::fs::write(&path, format!("{}{}", line("a", "two"), line("bb", "x"))).unwrap();
        assert!(
            !users.verify("a".into(), "one".into()).await,
            "the old password"
        );
        assert!(users.verify("a".into(), "two".into()).await);
        assert!(users.knows("bb".into()).await);
        // Half-written or not yet: the users that were read last stay, and it is said once.
        for half in ["a", ""] {
            said.lock().unwrap().clear();
            std::fs::write(&path, half).unwrap();
            for _ in 0..2 {
                assert!(
                    users.verify("a".into(), "two".into()).await,
                    "half {half:?}"
                );
            }
            assert_eq!(said.lock().unwrap().len(), 1, "half {half:?}");
        }
        // Nobody at all has to be written down.
        std::fs::write(&path, "# nobody\n").unwrap();
        assert!(!users.verify("a".into(), "two".into()).await);
    }
}
