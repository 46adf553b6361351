//! Directories of the layer, found and made by descriptor.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;

/// How often a lookup that raced with a rename elsewhere on the host is
/// repeated (openat2(2), `EAGAIN`). Busy hosts need dozens.
const TRIES: u32 = 1000;

/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;

const OPAQUE: &CStr = c"trusted.overlay.opaque";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A layer's directory.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// The last parent and its path. Dropped when anything but a plain file is
    /// made or removed, as a path may lead elsewhere from then on
    /// (CVE-2025-47290); the descriptor itself cannot leave the root.
    cached: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories made because an entry needed them and the layer had none.
    pub(super) implied: u64,
}

impl Tree {
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self, Errno> {
        // The caller's descriptor may be O_PATH, which cannot change the root.
        let root = rustix::fs::openat(root, c".", DIRECTORY, Mode::empty())?;
        Ok(Self {
            root: Rc::new(root),
            cached: None,
            implied: 0,
        })
    }

    pub(super) fn root(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.root)
    }

    /// To be called before anything but a plain file is made or removed.
    pub(super) fn forget(&mut self) {
        self.cached = None;
    }

    /// Names a directory that was just made, as the next entries are its.
    pub(super) fn remember(&mut self, path: &[u8], directory: Rc<OwnedFd>) {
        self.cached = Some((path.to_vec(), directory));
    }

    /// The directory at a clean path, made if missing: mode 0755, owned by
    /// root, as Docker does.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if path.is_empty() {
            return Ok(self.root());
        }
        if let Some((known, directory)) = &self.cached
            && known == path
        {
            return Ok(Rc::clone(directory));
        }
        let directory = match self.open(path, OFlags::empty()) {
            Ok(directory) => Rc::new(directory),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.forget();
                let mut links = MAX_LINKS;
                self.make(path, &mut links)?
            }
            Err(error) => return Err(error),
        };
        self.remember(path, Rc::clone(&directory));
        Ok(directory)
    }

    /// The directory at `path`, which must exist. Symbolic links on the way are
    /// followed as in a container whose root this is: images hold
    /// `var/run -> /run` and entries below `var/run`.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        for _ in 0..TRIES {
            match rustix::fs::openat2(&self.root, path, DIRECTORY | flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => std::thread::yield_now(),
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Makes what is missing of `path`, which may hold `..` if it comes from a
    /// link.
    fn make(&mut self, path: &[u8], links: &mut u32) -> Result<Rc<OwnedFd>, Errno> {
        let mut directory = self.root();
        let mut prefix = Vec::with_capacity(path.len());
        for component in path
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
        {
            let parent = prefix.len();
            prefix.push(b'/');
            prefix.extend_from_slice(component);
            directory = match self.open(&prefix, OFlags::empty()) {
                Ok(found) => Rc::new(found),
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    self.make_component(&directory, &prefix[..parent], component, links)?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(directory)
    }

    fn make_component(
        &mut self,
        directory: &OwnedFd,
        parent: &[u8],
        name: &[u8],
        links: &mut u32,
    ) -> Result<Rc<OwnedFd>, Errno> {
        match lstat(directory, name) {
            Err(Errno::NOENT) => self.make_implied(directory, name).map(Rc::new),
            Ok(stat) if kind(&stat) == FileType::Symlink => {
                // A link whose target only lower layers have. The entry belongs
                // where the merged tree would put it.
                *links = links.checked_sub(1).ok_or(Errno::LOOP)?;
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes();
                let path = if target.starts_with(b"/") {
                    target
                } else {
                    [parent, b"/", &target].concat()
                };
                self.make(&path, links)
            }
            Ok(stat) if is_whiteout(&stat) => {
                // Gone from the lower layers, and made anew in this one.
                rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
                let made = self.make_implied(directory, name)?;
                set_opaque(made.as_fd())?;
                Ok(Rc::new(made))
            }
            Ok(stat) if kind(&stat) == FileType::Directory => {
                open_directory(directory, name).map(Rc::new)
            }
            Ok(_) => Err(Errno::NOTDIR),
            Err(error) => Err(error),
        }
    }

    fn make_implied(&mut self, directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(directory, name, mode)?;
        self.implied += 1;
        let made = open_directory(directory, name)?;
        super::node::set_owner_and_mode(made.as_fd(), (0, 0), 0o755)?;
        Ok(made)
    }
}

/// The directory `name` itself: a link in its place fails with `ENOTDIR`.
pub(super) fn open_directory(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Hides what lower layers have in the directory (overlayfs.rst, "whiteouts
/// and opaque directories").
pub(super) fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether the layer's root is opaque, so that nothing of the layers below it is
/// in the image.
///
/// # Errors
/// What the kernel says if the attribute cannot be read.
pub fn hides_lower_layers(root: BorrowedFd<'_>) -> io::Result<bool> {
    // Not by the caller's descriptor, which may be O_PATH.
    let root = rustix::fs::openat(root, c".", DIRECTORY, Mode::empty())?;
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(&root, OPAQUE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn lstat(parent: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A whiteout of ours: nodes 0:0 from the archive are refused.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}
