//! A page of memory that outlives each of the processes that share it.

use std::io;
use std::sync::atomic::AtomicU64;

/// Words in a [`SharedWords`].
pub const WORDS: usize = 512;

/// One page of words, shared by every process forked from the one that made it.
#[derive(Debug)]
pub struct SharedWords {
    words: *const [AtomicU64; WORDS],
}

impl SharedWords {
    /// Makes a page of zeroes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<SharedWords> {
        // SAFETY: a fresh anonymous mapping of one page; the kernel chooses where.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<[AtomicU64; WORDS]>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(SharedWords {
            words: address.cast(),
        })
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: the mapping is page-aligned, large enough, filled with zeroes (valid
        // for atomics), and lives as long as self.
        unsafe { &*self.words }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size, and no reference to it
        // outlives self.
        unsafe {
            libc::munmap(
                self.words as *mut libc::c_void,
                size_of::<[AtomicU64; WORDS]>(),
            )
        };
    }
}
