//! System call filters: the default profile, and its way to classic BPF.
//!
//! `default` says what a container may call and `compile` reads any profile of
//! `config.json`; both give their rules to `rules`, which brings them together by the
//! numbers of `table`, and `write` makes a program for `seccomp(2)` of them, with the
//! help of `assemble` (jumps). None of these makes a system call; `listener` does, which
//! sends on what a filter with `SCMP_ACT_NOTIFY` asks by.

mod assemble;
mod compile;
mod default;
pub(crate) mod listener;
mod program;
mod rules;
mod table;
mod write;

#[cfg(test)]
mod tests;

pub use compile::{compile, compile_for};
pub use default::{default_profile, default_program};
pub use listener::send_listener;
pub use program::{Program, ProgramError};
pub use table::number;

/// An architecture whose calls a filter can tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86, also under a 64-bit kernel.
    X86,
    /// 64-bit x86 with 32-bit pointers.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, also under a 64-bit kernel.
    Arm,
}

impl Architecture {
    /// The architecture that Gantry was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Architecture = Architecture::X86_64;
    /// The architecture that Gantry was built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Architecture = Architecture::Aarch64;

    /// Architectures whose programs run under the kernel of this one, itself first.
    fn family(self) -> &'static [Architecture] {
        match self {
            Architecture::X86_64 => &[Architecture::X86_64, Architecture::X86, Architecture::X32],
            Architecture::X86 => &[Architecture::X86],
            Architecture::X32 => &[Architecture::X32],
            Architecture::Aarch64 => &[Architecture::Aarch64, Architecture::Arm],
            Architecture::Arm => &[Architecture::Arm],
        }
    }

    /// Value of `arch` in `struct seccomp_data` (`AUDIT_ARCH_*`).
    fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 | Architecture::X32 => 0xc000_003e,
            Architecture::X86 => 0x4000_0003,
            Architecture::Aarch64 => 0xc000_00b7,
            Architecture::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are 32 bits wide.
    fn is_32_bit(self) -> bool {
        matches!(self, Architecture::X86 | Architecture::Arm)
    }
}

/// Why a profile cannot be compiled.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum SeccompError {
    /// An action that the specification does not have.
    #[error("unknown seccomp action {name:?}")]
    UnknownAction {
        /// As it was given.
        name: String,
    },
    /// A comparison that the specification does not have.
    #[error("unknown seccomp operator {name:?}")]
    UnknownOperator {
        /// As it was given.
        name: String,
    },
    /// An architecture that the specification does not have.
    #[error("unknown seccomp architecture {name:?}")]
    UnknownArchitecture {
        /// As it was given.
        name: String,
    },
    /// A flag that the specification does not have.
    #[error("unknown seccomp flag {name:?}")]
    UnknownFlag {
        /// As it was given.
        name: String,
    },
    /// A condition on an argument that no system call has.
    #[error("seccomp rule for {call} compares argument {index}, but the last one is 5")]
    ArgumentIndex {
        /// First name of the rule.
        call: String,
        /// The index.
        index: u32,
    },
    /// An error number beside an action that returns none.
    #[error("seccomp action {action} takes no error number")]
    UnexpectedErrno {
        /// The action.
        action: String,
    },
    /// An error number that the kernel would cut to another one.
    #[error("error number {number} of seccomp action {action} is above {highest}")]
    ErrnoRange {
        /// The action.
        action: String,
        /// As it was given.
        number: u32,
        /// The highest that it takes.
        highest: u32,
    },
    /// A listener that would be asked about everything.
    #[error("SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyByDefault,
    /// A rule that asks a listener, and none to be asked.
    #[error("seccomp action SCMP_ACT_NOTIFY needs a listenerPath")]
    NoListener,
    /// Metadata for a listener that is not named.
    #[error("seccomp listenerMetadata is set, but listenerPath is not")]
    MetadataWithoutListener,
    /// More instructions than the kernel takes.
    #[error("seccomp profile needs {instructions} instructions, but the kernel takes 4096")]
    TooLarge {
        /// What the profile comes to.
        instructions: usize,
    },
}
