//! The heap and the stack.

/// Gives memory that is free in the heap, and what the stack has held beyond this call,
/// back to the kernel.
///
/// For a process that has just done its one big piece of work and will wait for months:
/// the supervisor's heap shrinks from 108 to some 40 kB, its stack from 60 to 12.
pub fn release_free() {
    // SAFETY: malloc_trim only returns pages that hold no allocation.
    unsafe { libc::malloc_trim(0) };
    release_stack();
}

/// A function of its own, so that everything that lives lies above its frame.
#[inline(never)]
fn release_stack() {
    const PAGE: usize = 4096;
    // Deeper than any birth has gone, and less than any thread's stack.
    const DEPTH: usize = 256 << 10;
    let here = 0_u8;
    // The frame of the call below is well within these two pages.
    let end = (&raw const here as usize & !(PAGE - 1)).saturating_sub(2 * PAGE);
    // SAFETY: what is below the stack pointer belongs to calls that have returned. Where
    // the stack has never been that deep there is nothing (ENOMEM, after the rest was
    // done): the kernel keeps the megabyte below the main stack free.
    unsafe { libc::madvise((end - DEPTH) as *mut _, DEPTH, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Touches 64 kB of stack, and tells where.
    #[inline(never)]
    fn dig() -> usize {
        let hole = std::hint::black_box([1_u8; 64 << 10]);
        (&raw const hole as usize + hole.len() / 2) & !4095
    }

    fn is_resident(page: usize) -> bool {
        let mut answer = 0_u8;
        // SAFETY: mincore reads no memory of ours and writes one byte for one page.
        let status = unsafe { libc::mincore(page as *mut _, 4096, &raw mut answer) };
        assert_eq!(status, 0);
        answer & 1 == 1
    }

    #[test]
    fn dead_stack_is_given_back_and_what_lives_stays() {
        let alive = std::hint::black_box([7_u8; 16 << 10]);
        let page = dig();
        assert!(is_resident(page));
        release_free();
        assert!(!is_resident(page));
        assert!(alive.iter().all(|&byte| byte == 7));
    }
}
