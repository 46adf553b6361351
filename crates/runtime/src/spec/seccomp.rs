//! `linux.seccomp` of config.json (runtime-spec, config-linux.md, "Seccomp").

use serde::{Deserialize, Serialize};

/// `linux.seccomp`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seccomp {
    /// Action for a call that no rule matches, such as `SCMP_ACT_ERRNO`.
    pub default_action: String,
    /// Error number of a default `SCMP_ACT_ERRNO`; `EPERM` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Architectures besides the native one, such as `SCMP_ARCH_X86`.
    pub architectures: Vec<String>,
    /// Flags such as `SECCOMP_FILTER_FLAG_LOG`; absent, the runtime chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    /// Socket that gets the descriptor by which `SCMP_ACT_NOTIFY` asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_path: Option<String>,
    /// What the one at that socket is told besides, opaque to the runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_metadata: Option<String>,
    /// Rules.
    pub syscalls: Vec<SeccompRule>,
}

/// One of `linux.seccomp.syscalls`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompRule {
    /// Names of system calls; unknown ones are skipped.
    pub names: Vec<String>,
    /// What happens on a match.
    pub action: String,
    /// Error number of `SCMP_ACT_ERRNO` or `SCMP_ACT_TRACE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions, all of which must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<SeccompArg>,
}

/// One of `linux.seccomp.syscalls.args`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompArg {
    /// Index of the argument, 0 to 5.
    pub index: u32,
    /// What it is compared with; the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// The value of `SCMP_CMP_MASKED_EQ`.
    pub value_two: u64,
    /// Comparison, such as `SCMP_CMP_EQ`.
    pub op: String,
}
