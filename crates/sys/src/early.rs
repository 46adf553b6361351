//! What happens before the C library starts.
//!
//! A static program that uses glibc runs some 85 `cpuid` instructions before `main`, and each
//! is trapped by a hypervisor: 0.7 to 0.9 ms in the machines that Gantry is measured on, where
//! a whole container takes 5. So what needs no library is done before it starts: the entry
//! point of a binary that asks for it with the linker's `-e` is one of the two below, and the
//! library's own comes after it.
//!
//! - [`gantry_entry_sealed`]: a program that has to execute itself again from a copy that no
//!   container can write to (CVE-2019-5736) starts the library once and not twice.
//! - [`gantry_entry_head_start`]: `gantry run` has its supervisor come to life, which starts a
//!   library of its own, while it does so itself.
//!
//! The code here runs without thread-local storage, without relocated function pointers and
//! without functions of other crates: `memcpy` alone would jump through a table that is not
//! filled yet. It only makes system calls. Whatever goes wrong, the library is started as if
//! nothing had been tried, and the work is done later, or the reason given why it cannot be.

mod head_start;
mod seal;

use std::arch::{asm, naked_asm};

pub use head_start::take_supervisor;

/// Makes an entry point: `$early` with the kernel's stack, then the C library's own.
macro_rules! entry {
    ($(#[$document:meta])* $name:ident, $early:path) => {
        $(#[$document])*
        ///
        /// # Safety
        /// Only the kernel may go here, with the stack that the System V ABI describes for the
        /// start of a process (AMD64 supplement, 3.4.1).
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() -> ! {
            // rdx is what a dynamic linker wants to have called at the end; it and the stack
            // must reach _start as they are. A call expects the stack aligned to 16 bytes.
            naked_asm!(
                "mov r12, rdx",
                "mov rbx, rsp",
                "mov rdi, rsp",
                "and rsp, -16",
                "call {early}",
                "mov rsp, rbx",
                "mov rdx, r12",
                "xor ebp, ebp",
                "jmp _start",
                early = sym $early,
            )
        }
    };
}

entry!(
    /// Executes the program again from a read-only mount of its file, if it is about to bear a
    /// container.
    gantry_entry_sealed,
    seal::early
);

entry!(
    /// Starts `gantry-supervisor`, if the command line says `run`.
    gantry_entry_head_start,
    head_start::early
);

const SYS_CLOSE: usize = 3;
const SYS_EXECVEAT: usize = 322;
const SYS_OPEN_TREE: usize = 428;
const SYS_MOUNT_SETATTR: usize = 442;

const AT_FDCWD: isize = -100;
const AT_EMPTY_PATH: usize = 0x1000;
const OPEN_TREE_CLONE_CLOEXEC: usize = 1 | 0o2_000_000;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// A read-only mount of one file, attached nowhere; negative where it cannot be made.
///
/// # Safety
/// `path` ends with a null.
unsafe fn clone_read_only(path: *const u8) -> isize {
    // SAFETY: the caller's; the attributes are 32 bytes, as their size says.
    unsafe {
        let mount = call(
            SYS_OPEN_TREE,
            AT_FDCWD as usize,
            path as usize,
            OPEN_TREE_CLONE_CLOEXEC,
            0,
            0,
        );
        if mount < 0 {
            return mount;
        }
        // struct mount_attr of linux/mount.h: to set, to clear, propagation, user namespace.
        let attributes: [u64; 4] = [MOUNT_ATTR_RDONLY, 0, 0, 0];
        let result = call(
            SYS_MOUNT_SETATTR,
            mount as usize,
            c"".as_ptr() as usize,
            AT_EMPTY_PATH,
            (&raw const attributes) as usize,
            size_of::<[u64; 4]>(),
        );
        if result < 0 {
            close(mount);
            return result;
        }
        mount
    }
}

/// # Safety
/// Nothing else uses the descriptor.
unsafe fn close(descriptor: isize) {
    // SAFETY: the caller's.
    unsafe { call(SYS_CLOSE, descriptor as usize, 0, 0, 0, 0) };
}

/// Whether two strings that end with a null are the same.
///
/// # Safety
/// Both end with a null.
unsafe fn equal(left: *const u8, right: *const u8) -> bool {
    let mut index = 0;
    // SAFETY: no byte after the first null of either is read.
    unsafe {
        loop {
            let byte = *left.wrapping_add(index);
            if byte != *right.wrapping_add(index) {
                return false;
            }
            if byte == 0 {
                return true;
            }
            index = index.wrapping_add(1);
        }
    }
}

/// A system call of up to five arguments; negative results are errors.
///
/// # Safety
/// That of the system call.
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result: isize;
    // SAFETY: the caller's; the kernel changes rcx, r11 and rax only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
