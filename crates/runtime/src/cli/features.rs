//! `features`: what this runtime can do (runtime-spec, features.md).

use gantry_runtime::capabilities::CapabilitySet;
use gantry_runtime::spec::OCI_VERSION;
use serde_json::json;

use super::arguments::Arguments;
use super::error::CliError;
use super::list::print_json;

/// Mount options that are not passed to the file system. Each attribute exists with a
/// leading `r` as well, for the mounts below.
const ATTRIBUTES: [&str; 20] = [
    "atime",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "relatime",
    "ro",
    "rw",
    "strictatime",
    "suid",
    "symfollow",
    "idmap",
    "bind",
];

const OTHER_OPTIONS: [&str; 14] = [
    "async",
    "defaults",
    "loud",
    "private",
    "remount",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "slave",
    "tmpcopyup",
    "unbindable",
    "copyup",
];

/// `features`.
///
/// # Errors
/// [`CliError`].
pub fn command(words: &mut Arguments) -> Result<(), CliError> {
    if let Some(flag) = words.flag() {
        return Err(flag.unknown());
    }
    words.end()?;
    print_json(&document(), true)
}

fn document() -> serde_json::Value {
    let mut options: Vec<String> = ATTRIBUTES
        .iter()
        .flat_map(|&name| [name.to_owned(), format!("r{name}")])
        .chain(OTHER_OPTIONS.map(str::to_owned))
        .collect();
    options.sort_unstable();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ],
        "mountOptions": options,
        "linux": {
            "namespaces": [
                "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
            ],
            "capabilities": CapabilitySet::KNOWN.names(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": false,
                "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW",
                    "SCMP_ACT_ERRNO",
                    "SCMP_ACT_KILL",
                    "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG",
                    "SCMP_ACT_NOTIFY",
                    "SCMP_ACT_TRACE",
                    "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ",
                    "SCMP_CMP_GE",
                    "SCMP_CMP_GT",
                    "SCMP_CMP_LE",
                    "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC",
                    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC",
                    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
                ],
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "run.gantry.version": env!("CARGO_PKG_VERSION"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::document;

    #[test]
    fn lists_hold_each_word_once() {
        let document = document();
        let options = document["mountOptions"].as_array().unwrap();
        for pair in options.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        for name in ["ro", "rro", "rbind", "idmap", "ridmap", "rprivate"] {
            assert!(options.iter().any(|option| option == name), "{name}");
        }
        assert_eq!(
            document["linux"]["capabilities"].as_array().unwrap().len(),
            41
        );
    }
}
