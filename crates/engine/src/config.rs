//! What a container was asked to be: the versioned record kept in the state store.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// Everything that `create` was told, after the image's own configuration was merged in.
///
/// Kept as JSON in the state store. Fields are only ever added, with a default.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Image as the user named it.
    pub image: String,
    /// Whole program: entry point and command.
    pub entrypoint: Vec<String>,
    /// Arguments after the entry point.
    pub cmd: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// `USER[:GROUP]`; empty means root.
    pub user: String,
    /// Host name; empty means the short container id.
    pub hostname: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that the image or the user declares, as `80/tcp`.
    pub exposed_ports: Vec<ContainerPort>,
    /// Signal that `stop` sends, such as `SIGTERM` or `15`; empty means `SIGTERM`.
    pub stop_signal: String,
    /// Seconds that `stop` waits; absent means 10, -1 means for ever.
    pub stop_timeout: Option<i64>,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Whether standard input stays open.
    pub open_stdin: bool,
    /// Whether standard input closes with the first client that fed it.
    pub stdin_once: bool,
    /// Removed once it has exited.
    pub auto_remove: bool,
    /// Network of the sandbox.
    pub network: NetworkMode,
    /// What was asked for on the networks when the container was made, the one of
    /// [`ContainerConfig::network`] first. Which it is on now, the state store says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointRequest>,
    /// Domain of the host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// Publish every exposed port at a free one of the host.
    pub publish_all: bool,
    /// Mounts asked for, the image's volumes included.
    pub mounts: Vec<MountRequest>,
    /// Limits.
    pub resources: Resources,
    /// Isolation.
    pub security: Security,
    /// Run a small init as PID 1.
    pub init: bool,
    /// Resource limits as `RLIMIT_`, `(name, soft, hard)`; -1 means unlimited.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Extra lines of `/etc/hosts`, as `(name, address)`.
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Options of the log: `max-size`, `max-file`.
    pub log_options: BTreeMap<String, String>,
    /// OCI runtime, by name or absolute path; empty means the supervisor itself.
    pub runtime: String,
}

/// One port of a container.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ContainerPort {
    /// Number.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// One `-p`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortBinding {
    /// Address on the host; absent means all addresses.
    pub host_ip: Option<IpAddr>,
    /// Port on the host; 0 means that a free one is chosen at start.
    pub host_port: u16,
    /// Last port of a range out of which a free one is chosen; equal to `host_port` otherwise.
    pub host_port_end: u16,
    /// Port of the container.
    pub container: ContainerPort,
}

/// Network that a container's sandbox is given.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Bridge,
    /// The host's own network.
    Host,
    /// Only a loopback interface.
    None,
    /// The sandbox of another container, by name or id as given.
    Container(String),
    /// Networks that users have made; this is the first one's name, or its id as given.
    Network(String),
}

/// One `--network`, with what was asked for there.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct EndpointRequest {
    /// Name of the network, or its id as given.
    pub network: String,
    /// What was asked for.
    pub endpoint: EndpointConfig,
}

/// What a container is to have on a network.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct EndpointConfig {
    /// Further names that containers of the network find it by.
    pub aliases: Vec<String>,
    /// Address; absent means that one is leased at each start.
    pub ipv4: Option<Ipv4Addr>,
    /// Ethernet address; absent means one that goes with the address.
    pub mac: Option<String>,
    /// Other containers that this one knows by further names, as `CONTAINER` or
    /// `CONTAINER:ALIAS`.
    pub links: Vec<String>,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
    /// The default route leads through the network with the highest one.
    pub gw_priority: i64,
}

/// One mount, as `-v`, `--mount`, `--tmpfs` or the image's `VOLUME` ask for it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MountRequest {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Propagation of a bind mount (`rprivate`, `rslave`, …); empty means `rprivate`.
    pub propagation: String,
    /// Whether a bind mount takes the mounts below its source along.
    pub recursive: bool,
}

/// Source of a mount.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute path.
        path: String,
        /// Whether a missing directory is made (`-v` does, `--mount` does not).
        create: bool,
    },
    /// A volume; without a name an anonymous one.
    Volume {
        /// Name.
        name: Option<String>,
        /// Whether an empty volume is filled with what the image has at the target.
        copy_up: bool,
    },
    /// Memory.
    Tmpfs {
        /// Size in bytes.
        size: Option<u64>,
        /// Permission bits.
        mode: Option<u32>,
        /// Further mount options, such as `exec`.
        options: Vec<String>,
    },
}

/// Limits.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Resources {
    /// Memory in bytes; 0 means unlimited.
    pub memory: i64,
    /// Memory and swap in bytes; 0 means twice the memory, -1 unlimited.
    pub memory_swap: i64,
    /// Soft memory limit in bytes.
    pub memory_reservation: i64,
    /// Billionths of a processor; 0 means unlimited.
    pub nano_cpus: i64,
    /// Relative weight; 0 means the default.
    pub cpu_shares: u64,
    /// Processors, as a list.
    pub cpuset_cpus: String,
    /// Memory nodes, as a list.
    pub cpuset_mems: String,
    /// Highest number of tasks; 0 and -1 mean unlimited.
    pub pids_limit: i64,
}

/// Isolation.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Security {
    /// Everything that root may do.
    pub privileged: bool,
    /// Capabilities added.
    pub cap_add: Vec<String>,
    /// Capabilities dropped.
    pub cap_drop: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Whether programs may not gain privileges.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: SeccompChoice,
}

/// Which system call filter applies.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompChoice {
    /// The built-in one.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON form, as read when the container was made.
    Profile(String),
}

/// One `--ulimit`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case, such as `nofile`.
    pub name: String,
    /// Soft limit; -1 means unlimited.
    pub soft: i64,
    /// Hard limit; -1 means unlimited.
    pub hard: i64,
}
