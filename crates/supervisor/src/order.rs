//! What the engine tells a supervisor, and what it leaves in the run root: versioned records.
//!
//! Supervisors live for months, so fields are only ever added, with a default.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use gantry_runtime::spec::{Process, Seccomp, Spec};
use serde::{Deserialize, Serialize};

/// Version of these records and of the messages on the socket.
pub const PROTOCOL: u32 = 1;

/// Start a container in the sandbox.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct BirthOrder {
    /// Version of the record.
    pub protocol: u32,
    /// Id of the container.
    pub container: String,
    /// Configuration.
    pub spec: Spec,
    /// Read-only layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// Work directory of the overlay.
    pub work: PathBuf,
    /// Whether the writable layer dies with the container.
    pub volatile: bool,
    /// User as text, resolved in the container.
    pub user: String,
    /// Whether standard input stays open.
    pub open_stdin: bool,
    /// Whether standard input ends with the client that feeds it.
    pub stdin_once: bool,
    /// Whether a small init is PID 1.
    pub init: bool,
    /// Path of the control group, below the root of each hierarchy.
    pub cgroup: String,
    /// Directory of the container's records, in the run root.
    pub run_dir: PathBuf,
    /// File whose presence tells the next command that the container's end is to be settled.
    pub settle_marker: PathBuf,
    /// Program and arguments that settle it, if no client does.
    pub settle_command: Vec<String>,
    /// Log.
    pub log: Option<LogOrder>,
    /// Network.
    pub network: NetworkOrder,
    /// What `ps` and its like show, kept for when the data root cannot be read.
    pub summary: serde_json::Value,
    /// Another OCI runtime that makes the container; absent means the supervisor itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeOrder>,
}

/// An OCI runtime with runc's command line.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct RuntimeOrder {
    /// Name by which the user knows it.
    pub name: String,
    /// Absolute path of the program.
    pub program: PathBuf,
}

/// Where standard output and error are kept.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct LogOrder {
    /// File; older ones lie beside it with `.1`, `.2` and so on.
    pub path: PathBuf,
    /// Size in bytes at which a new file begins.
    pub max_size: u64,
    /// Number of files, the present one included.
    pub max_files: u32,
}

/// Network of a birth.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkOrder {
    /// A namespace with a loopback interface.
    #[default]
    None,
    /// The host's.
    Host,
    /// The one that the sandbox has already.
    Shared,
    /// A namespace on bridges.
    Bridge(BridgeOrder),
}

/// Places on bridges, at least one.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct BridgeOrder {
    /// Name of the installation in tables that all share.
    pub instance: String,
    /// One place for each network.
    pub endpoints: Vec<EndpointOrder>,
    /// Published ports.
    pub ports: Vec<PortOrder>,
    /// Settings of the sandbox's name server; absent means that it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<PathBuf>,
}

impl BridgeOrder {
    /// The endpoint that the default route leads through.
    #[must_use]
    pub fn way_out(&self) -> Option<&EndpointOrder> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.default_route)
    }

    /// The endpoint that ports are published at: the way out, if it is on a bridge of ours.
    #[must_use]
    pub fn published(&self) -> Option<&EndpointOrder> {
        let has_ports = |endpoint: &&EndpointOrder| {
            endpoint.attachment == Attachment::Bridge && !endpoint.internal
        };
        self.way_out()
            .filter(has_ports)
            .or_else(|| self.endpoints.iter().find(has_ports))
    }
}

/// A place on a bridge.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct EndpointOrder {
    /// Name of the container's end, such as `eth0`.
    pub interface: String,
    /// Name of the host's end.
    pub link: String,
    /// Name of the bridge.
    pub bridge: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Whether the container's default route leads here.
    pub default_route: bool,
    /// Ethernet address; absent means the one that goes with the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest packet in bytes; absent means the kernel's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether containers of the network reach each other.
    pub icc: bool,
    /// Whether connections to elsewhere carry the host's address.
    pub masquerade: bool,
    /// Whether the network has no way out.
    pub internal: bool,
    /// How the link is made; `bridge` names the link of the host that it is made from.
    pub attachment: Attachment,
}

/// How a container gets a link.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    /// A pair of links, one end of which is a port of a bridge.
    #[default]
    Bridge,
    /// A link with an Ethernet address of its own on a link of the host.
    Macvlan {
        /// `bridge`, `private`, `vepa` or `passthru`.
        mode: String,
    },
    /// A link with the Ethernet address of a link of the host.
    Ipvlan {
        /// `l2`, `l3` or `l3s`.
        mode: String,
    },
}

impl Default for EndpointOrder {
    fn default() -> Self {
        EndpointOrder {
            interface: "eth0".into(),
            link: String::new(),
            bridge: String::new(),
            address: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Ipv4Addr::UNSPECIFIED,
            default_route: false,
            mac: None,
            mtu: None,
            icc: true,
            masquerade: true,
            internal: false,
            attachment: Attachment::Bridge,
        }
    }
}

/// A port to publish.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PortOrder {
    /// Address on the host; absent means all.
    pub host_ip: Option<IpAddr>,
    /// First port to try; 0 means any.
    pub host_port: u16,
    /// Last port to try.
    pub host_port_end: u16,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// A port that is published.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PublishedPort {
    /// Address on the host; absent means all.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// Start a further process in a container of the sandbox.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ExecOrder {
    /// Version of the record.
    pub protocol: u32,
    /// Id of the exec, chosen by the client: the same order sent twice starts one process.
    pub id: String,
    /// Id of the container.
    pub container: String,
    /// The process.
    pub process: Process,
    /// Its system call filter.
    pub seccomp: Option<Seccomp>,
    /// User as text, resolved in the container.
    pub user: String,
    /// Whether standard input stays open.
    pub open_stdin: bool,
}

/// State of a container in the run root: `state.json` in its directory.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct RunState {
    /// Version of the record.
    pub protocol: u32,
    /// Id of the container.
    pub container: String,
    /// Where it is in its life. Whether a running one still runs, the kernel says.
    pub status: RunStatus,
    /// Id of the first process, on the host.
    pub pid: i32,
    /// Start of that process in clock ticks since boot: tells it from a later one with its id.
    pub start_ticks: u64,
    /// Start, in nanoseconds since 1970.
    pub started_at: i64,
    /// End, in nanoseconds since 1970.
    pub finished_at: i64,
    /// Exit code by the shell's convention.
    pub exit_code: i32,
    /// Whether the kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// What went wrong, in words.
    pub error: String,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
    /// What `ps` and its like show.
    pub summary: serde_json::Value,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// On its way.
    #[default]
    Starting,
    /// The program runs.
    Running,
    /// It has ended.
    Exited,
}
