//! A compiled filter, and its form in a cache.

use gantry_sys::seccomp::SockFilter;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// Stands for [`Program::listener`] among the flags of the cached form
/// (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
const FLAG_NEW_LISTENER: u32 = 1 << 3;

/// First bytes of the cached form; the last one is its version.
const MAGIC: [u8; 4] = *b"gsc\x01";

/// A filter as `gantry_sys::seccomp` installs it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// Classic BPF over `struct seccomp_data`.
    pub instructions: Vec<SockFilter>,
    /// `SECCOMP_FILTER_FLAG_*` bits, but for that of the listener.
    pub flags: u32,
    /// Whether some verdict is to ask a listener, which installing the filter then makes.
    pub listener: bool,
}

/// Bytes that are no cached program.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProgramError {
    /// The first bytes are not those of this version.
    #[error("cached seccomp program has another format or version")]
    Format,
    /// The length is not that of a program of 1 to 4096 instructions.
    #[error("cached seccomp program has an impossible length of {length} bytes")]
    Length {
        /// Length of the whole, in bytes.
        length: usize,
    },
}

impl Program {
    /// The cached form: magic, flags, then 8 bytes an instruction, all little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 8 * self.instructions.len());
        bytes.extend_from_slice(&MAGIC);
        let listener = if self.listener { FLAG_NEW_LISTENER } else { 0 };
        bytes.extend_from_slice(&(self.flags | listener).to_le_bytes());
        for instruction in &self.instructions {
            bytes.extend_from_slice(&instruction.code.to_le_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_le_bytes());
        }
        bytes
    }

    /// Reads the cached form. Jumps are the kernel's to check, on installing.
    ///
    /// # Errors
    /// [`ProgramError`] if the bytes are anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Program, ProgramError> {
        let length = ProgramError::Length {
            length: bytes.len(),
        };
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(length)?;
        if *magic != MAGIC {
            return Err(ProgramError::Format);
        }
        let (flags, rest) = rest.split_first_chunk::<4>().ok_or(length)?;
        let (chunks, remainder) = rest.as_chunks::<8>();
        if chunks.is_empty() || chunks.len() > MAX_INSTRUCTIONS || !remainder.is_empty() {
            return Err(length);
        }
        let instructions = chunks
            .iter()
            .map(|&[code0, code1, jt, jf, k0, k1, k2, k3]| SockFilter {
                code: u16::from_le_bytes([code0, code1]),
                jt,
                jf,
                k: u32::from_le_bytes([k0, k1, k2, k3]),
            })
            .collect();
        let flags = u32::from_le_bytes(*flags);
        Ok(Program {
            instructions,
            flags: flags & !FLAG_NEW_LISTENER,
            listener: flags & FLAG_NEW_LISTENER != 0,
        })
    }
}
