//! What a container may call unless asked otherwise.
//!
//! In effect Docker's default profile: an allow list, widened by capabilities. One
//! difference is deliberate: the family of a socket is compared in its lower 32 bits,
//! which are all that the kernel looks at. A comparison of 64 bits with "greater than
//! AF_VSOCK" is passed by `socket((1 << 32) | AF_ALG, …)`, on x86_64 as on aarch64.

use super::compile::FLAG_SPEC_ALLOW;
use super::rules::{ALLOW, Compiler, Condition, Operator, errno_action};
use super::{Architecture, Program, SeccompError};
use crate::capabilities::{Capability, CapabilitySet};
use crate::spec::{Seccomp, SeccompArg, SeccompRule};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Calls that are always allowed.
const ALWAYS: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset
    chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range
    connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
    execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
    futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername
    getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid
    getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
    ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
    set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
    setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd
    signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
    writev";

/// Allowed since tracing a process cannot get around its filter (Linux 4.8).
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// Calls that only x86 has.
const X86: &str = "arch_prctl modify_ldt";

/// Calls that only ARM has.
const ARM: &str =
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Calls allowed to a container that has a capability.
const BY_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::DAC_READ_SEARCH, "open_by_handle_at"),
    (
        Capability::SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
         umount umount2 unshare",
    ),
    (Capability::SYS_BOOT, "reboot"),
    (Capability::SYS_CHROOT, "chroot"),
    (
        Capability::SYS_MODULE,
        "delete_module finit_module init_module",
    ),
    (Capability::SYS_PACCT, "acct"),
    (
        Capability::SYS_PTRACE,
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    (Capability::SYS_RAWIO, "ioperm iopl"),
    (
        Capability::SYS_TIME,
        "clock_settime clock_settime64 settimeofday stime",
    ),
    (Capability::SYS_TTY_CONFIG, "vhangup"),
    (
        Capability::SYS_NICE,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::SYSLOG, "syslog"),
    (Capability::BPF, "bpf"),
    (Capability::PERFMON, "perf_event_open"),
];

/// Families of sockets, as a mask and what remains under it: all of 0 to 63 but AF_ALG
/// (38, CVE-2026-31431) and AF_VSOCK (40, which reaches the hypervisor). The kernel has 46.
const FAMILIES: [(u32, u32); 8] = [
    (!31, 0),
    (!3, 32),
    (!1, 36),
    (!0, 39),
    (!0, 41),
    (!1, 42),
    (!3, 44),
    (!15, 48),
];

/// Execution domains: Linux, `UNAME26`, and 32 bits with either; and the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// One rule of the profile.
struct Rule<'a> {
    names: &'a str,
    action: u32,
    condition: Option<Condition>,
}

/// The default profile of a container with these capabilities (its bounding set).
///
/// It refuses with `EPERM` what it does not name, and `clone3` with `ENOSYS` to a
/// container without `CAP_SYS_ADMIN`: its flags lie in memory, where a filter cannot see
/// them, and libraries then fall back to `clone`.
#[must_use]
pub fn default_profile(capabilities: CapabilitySet, native: Architecture) -> Seccomp {
    let mut syscalls = Vec::with_capacity(40);
    for_each_rule(capabilities, native, |rule| {
        let (action, errno_ret) = match rule.action {
            ALLOW => ("SCMP_ACT_ALLOW", None),
            action => ("SCMP_ACT_ERRNO", Some(action & 0xffff)),
        };
        let args = rule.condition.map(|condition| SeccompArg {
            index: condition.index,
            value: condition.value,
            value_two: condition.value_two,
            op: condition.operator.name().to_owned(),
        });
        syscalls.push(SeccompRule {
            names: rule
                .names
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect(),
            action: action.to_owned(),
            errno_ret,
            args: args.into_iter().collect(),
        });
    });
    let architectures: &[&str] = match native {
        Architecture::X86_64 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        Architecture::X86 => &["SCMP_ARCH_X86"],
        Architecture::X32 => &["SCMP_ARCH_X32"],
        Architecture::Aarch64 => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        Architecture::Arm => &["SCMP_ARCH_ARM"],
    };
    Seccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: architectures
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

/// [`default_profile`] compiled, without the detour over its text.
///
/// # Errors
/// None that can happen: the program is far below [`SeccompError::TooLarge`].
pub fn default_program(
    capabilities: CapabilitySet,
    native: Architecture,
) -> Result<Program, SeccompError> {
    let mut compiler = Compiler::new(native.family(), errno_action(EPERM));
    for_each_rule(capabilities, native, |rule| {
        compiler.add(
            rule.names.split_ascii_whitespace(),
            rule.action,
            rule.condition.as_slice(),
        );
    });
    compiler.finish(FLAG_SPEC_ALLOW)
}

fn for_each_rule<'a>(
    capabilities: CapabilitySet,
    native: Architecture,
    mut visit: impl FnMut(Rule<'a>),
) {
    let mut allow = |names, condition| {
        visit(Rule {
            names,
            action: ALLOW,
            condition,
        });
    };
    allow(ALWAYS, None);
    allow(TRACING, None);
    match native {
        Architecture::X86_64 | Architecture::X86 | Architecture::X32 => allow(X86, None),
        Architecture::Aarch64 | Architecture::Arm => allow(ARM, None),
    }
    for (mask, family) in FAMILIES {
        let condition = compare(Operator::MaskedEqual, mask.into(), family.into());
        allow("socket", Some(condition));
    }
    for personality in PERSONALITIES {
        let condition = compare(Operator::Equal, personality, 0);
        allow("personality", Some(condition));
    }
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            allow(names, None);
        }
    }
    if !capabilities.contains(Capability::SYS_ADMIN) {
        let condition = compare(Operator::MaskedEqual, CLONE_NAMESPACES, 0);
        allow("clone", Some(condition));
        visit(Rule {
            names: "clone3",
            action: errno_action(ENOSYS),
            condition: None,
        });
    }
}

/// A condition on the first argument.
fn compare(operator: Operator, value: u64, value_two: u64) -> Condition {
    Condition {
        index: 0,
        operator,
        value,
        value_two,
    }
}
