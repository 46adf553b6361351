//! From a profile of `config.json` to a program: reads its words and numbers.

use super::program::Program;
use super::rules::{
    ALLOW, Compiler, Condition, FLAG_WAIT_KILLABLE, KILL_PROCESS, KILL_THREAD, LOG, NOTIFY,
    Operator, TRACE, TRAP, errno_action,
};
use super::{Architecture, SeccompError};
use crate::spec::{Seccomp, SeccompArg};

const EPERM: u32 = 1;
/// The highest error number that the kernel returns, and the highest data of a verdict.
const MAX_ERRNO: u32 = 4095;
const MAX_DATA: u32 = 0xffff;

const FLAG_LOG: u32 = 1 << 1;
pub(super) const FLAG_SPEC_ALLOW: u32 = 1 << 2;

/// Compiles a profile for the machine that Gantry was built for.
///
/// # Errors
/// As [`compile_for`].
pub fn compile(profile: &Seccomp) -> Result<Program, SeccompError> {
    compile_for(profile, Architecture::NATIVE)
}

/// Compiles a profile for processes under the kernel of `native`.
///
/// Names that no architecture has are skipped. Architectures of the profile that cannot
/// occur under this kernel are too: x86_64 runs programs of x86 and x32 besides its own,
/// aarch64 those of 32-bit ARM, and no kernel ever presents another to the filter (where
/// libseccomp would write a block that never runs, or refuse the other byte order). A call
/// by an architecture that the profile does not name kills the process. Where the default
/// is to refuse, calls newer than every call that the profile names give `ENOSYS`, so that
/// libraries fall back to older ones. `SECCOMP_FILTER_FLAG_SPEC_ALLOW` is among the flags
/// if the profile has no list of flags (below 5.16 the mitigation otherwise slows down
/// everything that the container does, as runc knows); `SECCOMP_FILTER_FLAG_TSYNC` never
/// is, since the process that installs the filter has a single thread.
///
/// # Errors
/// [`SeccompError`] for a word that the specification does not have, a number beyond what
/// the kernel takes, a listener that is missing or could not be asked, and a program that
/// the kernel would not take.
pub fn compile_for(profile: &Seccomp, native: Architecture) -> Result<Program, SeccompError> {
    let default = parse_action(&profile.default_action, profile.default_errno_ret)?;
    // Refused as by runc and crun: the listener would have to let the container start.
    if default == NOTIFY {
        return Err(SeccompError::NotifyByDefault);
    }
    let path = profile.listener_path.as_deref().unwrap_or("");
    if path.is_empty() && profile.listener_metadata.is_some() {
        return Err(SeccompError::MetadataWithoutListener);
    }
    let flags = parse_flags(profile.flags.as_deref())?;
    let architectures = parse_architectures(&profile.architectures, native)?;
    let mut compiler = Compiler::new(&architectures, default);
    for rule in &profile.syscalls {
        let action = parse_action(&rule.action, rule.errno_ret)?;
        let call = rule.names.first().map_or("", String::as_str);
        let conditions = parse_conditions(&rule.args, call)?;
        let names = || rule.names.iter().map(String::as_str);
        if is_alternative(&conditions) {
            for condition in &conditions {
                compiler.add(names(), action, std::slice::from_ref(condition));
            }
        } else {
            compiler.add(names(), action, &conditions);
        }
    }
    let program = compiler.finish(flags)?;
    if program.listener && path.is_empty() {
        return Err(SeccompError::NoListener);
    }
    Ok(program)
}

/// Whether conditions of one rule are alternatives: runc and crun, and so the profiles
/// written for them, take it so as soon as two conditions concern the same argument.
fn is_alternative(conditions: &[Condition]) -> bool {
    let mut seen = 0_u8;
    conditions.iter().any(|condition| {
        let bit = 1 << condition.index;
        let repeated = seen & bit != 0;
        seen |= bit;
        repeated
    })
}

fn parse_action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let number = |highest: u32| {
        let number = errno.unwrap_or(EPERM);
        if number > highest {
            return Err(SeccompError::ErrnoRange {
                action: name.to_owned(),
                number,
                highest,
            });
        }
        Ok(number)
    };
    let action = match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        // The kernel would cut what is higher, in the end to 0, which is success.
        "SCMP_ACT_ERRNO" => return Ok(errno_action(number(MAX_ERRNO)?)),
        "SCMP_ACT_TRACE" => return Ok(TRACE | number(MAX_DATA)?),
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        _ => {
            return Err(SeccompError::UnknownAction {
                name: name.to_owned(),
            });
        }
    };
    // The specification wants an error where the number could have no effect.
    match errno {
        None => Ok(action),
        Some(_) => Err(SeccompError::UnexpectedErrno {
            action: name.to_owned(),
        }),
    }
}

fn parse_flags(names: Option<&[String]>) -> Result<u32, SeccompError> {
    let Some(names) = names else {
        return Ok(FLAG_SPEC_ALLOW);
    };
    let mut flags = 0;
    for name in names {
        flags |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => FLAG_WAIT_KILLABLE,
            _ => return Err(SeccompError::UnknownFlag { name: name.clone() }),
        };
    }
    Ok(flags)
}

fn parse_architectures(
    names: &[String],
    native: Architecture,
) -> Result<Vec<Architecture>, SeccompError> {
    let mut wanted = vec![native];
    for name in names {
        let architecture = match name.as_str() {
            "SCMP_ARCH_X86_64" => Architecture::X86_64,
            "SCMP_ARCH_X86" => Architecture::X86,
            "SCMP_ARCH_X32" => Architecture::X32,
            "SCMP_ARCH_AARCH64" => Architecture::Aarch64,
            "SCMP_ARCH_ARM" => Architecture::Arm,
            "SCMP_ARCH_MIPS"
            | "SCMP_ARCH_MIPS64"
            | "SCMP_ARCH_MIPS64N32"
            | "SCMP_ARCH_MIPSEL"
            | "SCMP_ARCH_MIPSEL64"
            | "SCMP_ARCH_MIPSEL64N32"
            | "SCMP_ARCH_PPC"
            | "SCMP_ARCH_PPC64"
            | "SCMP_ARCH_PPC64LE"
            | "SCMP_ARCH_S390"
            | "SCMP_ARCH_S390X"
            | "SCMP_ARCH_PARISC"
            | "SCMP_ARCH_PARISC64"
            | "SCMP_ARCH_RISCV64"
            | "SCMP_ARCH_LOONGARCH64"
            | "SCMP_ARCH_M68K"
            | "SCMP_ARCH_SH"
            | "SCMP_ARCH_SHEB" => continue,
            _ => return Err(SeccompError::UnknownArchitecture { name: name.clone() }),
        };
        if native.family().contains(&architecture) && !wanted.contains(&architecture) {
            wanted.push(architecture);
        }
    }
    Ok(wanted)
}

fn parse_conditions(args: &[SeccompArg], call: &str) -> Result<Vec<Condition>, SeccompError> {
    args.iter()
        .map(|arg| {
            if arg.index > 5 {
                return Err(SeccompError::ArgumentIndex {
                    call: call.to_owned(),
                    index: arg.index,
                });
            }
            let operator =
                Operator::from_name(&arg.op).ok_or_else(|| SeccompError::UnknownOperator {
                    name: arg.op.clone(),
                })?;
            Ok(Condition {
                index: arg.index,
                operator,
                value: arg.value,
                // As libseccomp reads it, the mask holds for both sides.
                value_two: arg.value_two & arg.value,
            })
        })
        .collect()
}
