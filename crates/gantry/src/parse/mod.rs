//! The value grammars of the command line: pure functions from text to values.
//!
//! They follow the Docker CLI's rules. Nothing here touches the file system or the
//! environment: what a grammar needs from outside is handed in.

pub mod csv;
pub mod detach_keys;
pub mod duration;
pub mod env;
pub mod hosts;
pub mod limits;
pub mod mount;
pub mod network;
pub mod number;
pub mod port;
pub mod size;
pub mod time;
pub mod volume;

/// Why a value was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// Not a size.
    #[error("'{0}' is not a size: use a whole number with one of b, k, m, g, t, such as 512m")]
    Size(String),
    /// A number with a fraction where bytes are counted.
    #[error("'{0}' is not a whole number: use the next smaller unit, such as 1536m for 1.5g")]
    FractionalSize(String),
    /// Not a whole number.
    #[error("'{0}' is not a whole number")]
    Integer(String),
    /// A number out of its range.
    #[error("'{value}' is out of range: {low} to {high}")]
    Range {
        /// What was given.
        value: String,
        /// Smallest number allowed.
        low: i64,
        /// Largest number allowed.
        high: i64,
    },
    /// Not a boolean.
    #[error("'{0}' is neither true nor false")]
    Boolean(String),
    /// Not a number of processors.
    #[error("'{0}' is not a number of processors such as 1.5")]
    Processors(String),
    /// More than nine decimals.
    #[error("'{0}' is too precise: at most 9 decimals count")]
    TooPrecise(String),
    /// Not a duration.
    #[error("'{0}' is not a duration such as 10m or 1h30m")]
    Duration(String),
    /// Neither a time nor a duration.
    #[error(
        "'{0}' is not a time: use RFC 3339 such as 2026-01-02T15:04:05Z, seconds since 1970, or a duration such as 10m"
    )]
    Time(String),
    /// A port specification without a container port.
    #[error("no container port in '{0}'")]
    NoPort(String),
    /// Not a port or a range of ports.
    #[error("'{0}' is not a port or a range of ports (1 to 65535)")]
    Port(String),
    /// Not a transport protocol.
    #[error("'{0}' is not a protocol: use tcp, udp or sctp")]
    Protocol(String),
    /// Not an address.
    #[error("'{0}' is not an IP address")]
    Address(String),
    /// An address of the other family.
    #[error("'{0}' is not an IPv4 address")]
    NotIpv4(String),
    /// An address of a family that networks do not have.
    #[error("{0} is not supported yet: networks have IPv4 addresses only")]
    NoIpv6(String),
    /// Not an Ethernet address of one interface.
    #[error("'{0}' is not a MAC address of an interface, such as 02:42:ac:11:00:02")]
    Mac(String),
    /// A long form without a network.
    #[error("network name/id is not specified: add name=NETWORK")]
    NoNetwork,
    /// Not a link to a container.
    #[error("'{0}' is not CONTAINER or CONTAINER:ALIAS")]
    Link(String),
    /// Ranges of unequal length.
    #[error("the host's ports {host} and the container's ports {container} differ in number")]
    PortRanges {
        /// Ports of the host.
        host: String,
        /// Ports of the container.
        container: String,
    },
    /// A volume specification with too few or too many parts.
    #[error("'{0}' is not SOURCE:TARGET[:OPTIONS] or TARGET")]
    Volume(String),
    /// A mount target that is not absolute.
    #[error("the path in the container '{0}' is not absolute")]
    Target(String),
    /// A mount over the root.
    #[error("the path in the container may not be '/'")]
    RootTarget,
    /// A volume name outside its grammar.
    #[error(
        "'{0}' is neither an absolute path nor a volume name (letters, digits, '_', '.' and '-', two at least)"
    )]
    VolumeName(String),
    /// An option that is unknown or contradicts another.
    #[error("invalid mode '{0}'")]
    Mode(String),
    /// Broken quoting in a comma-separated value.
    #[error("unbalanced or misplaced quotes in '{0}'")]
    Quotes(String),
    /// Nothing where something is needed.
    #[error("the value is empty")]
    Empty,
    /// A field without `=`.
    #[error("field '{0}' must be a key=value pair")]
    KeyValue(String),
    /// A key nobody knows.
    #[error("unexpected key '{key}' in '{field}'")]
    Key {
        /// Key.
        key: String,
        /// Whole field.
        field: String,
    },
    /// A value that its key does not take.
    #[error("invalid value for '{key}': '{value}'")]
    Value {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// A mount type that does not exist.
    #[error("unknown mount type '{0}': use bind, volume or tmpfs")]
    MountType(String),
    /// An option of another type of mount.
    #[error("option '{option}' does not go with a mount of type {kind}")]
    MountOption {
        /// Option.
        option: String,
        /// Type of mount.
        kind: &'static str,
    },
    /// A mount without a target.
    #[error("a target is required")]
    NoTarget,
    /// A mount without a source.
    #[error("a source is required for a bind mount")]
    NoSource,
    /// An environment variable or a label without a name.
    #[error("no name in '{0}'")]
    NoName(String),
    /// A name with white space.
    #[error("name '{0}' contains white space")]
    WhiteSpace(String),
    /// Text that is not UTF-8.
    #[error("line {0} is not UTF-8")]
    NotUtf8(usize),
    /// Not a resource limit.
    #[error("'{0}' is not NAME=SOFT[:HARD]")]
    Ulimit(String),
    /// A resource limit nobody knows.
    #[error("unknown limit '{0}'")]
    UlimitName(String),
    /// A soft limit above the hard one.
    #[error("the soft limit {soft} is above the hard limit {hard}")]
    UlimitOrder {
        /// Soft limit.
        soft: i64,
        /// Hard limit.
        hard: i64,
    },
    /// Not a host and an address.
    #[error("'{0}' is not NAME:ADDRESS")]
    Host(String),
    /// Not a key sequence.
    #[error(
        "'{0}' is not a key: use a single character or ctrl- and one of a to z, @, [, \\, ], ^, _"
    )]
    DetachKey(String),
}

/// Splits `text` at the first `separator` and refuses an empty left side.
pub fn split_pair(text: &str, separator: char) -> Option<(&str, &str)> {
    text.split_once(separator)
        .filter(|(key, _)| !key.is_empty())
}
