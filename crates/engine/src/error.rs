//! Errors, for the person who typed the command.

use std::io;
use std::path::PathBuf;

pub(crate) use gantry_supervisor::chain;

/// What went wrong, on which object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state store.
    #[error("cannot use the state store {}", path.display())]
    Store {
        /// Its file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A state store that only a newer release understands.
    #[error("the state store {} was changed by a newer release (schema {version}), which this one would misread", path.display())]
    NewerStore {
        /// Its file.
        path: PathBuf,
        /// Version of its schema.
        version: i64,
    },
    /// A file or directory of the installation.
    #[error("cannot {action} {}", path.display())]
    Path {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The caller is not root.
    #[error("gantry has to be run as root")]
    NotRoot,
    /// No such container.
    #[error("no such container: {name}")]
    NoSuchContainer {
        /// What was asked for.
        name: String,
    },
    /// More than one container.
    #[error("container id {prefix:?} is ambiguous: it is the beginning of more than one id")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
    },
    /// The name of a container is taken.
    #[error(
        "container name {name:?} is already in use by container {}",
        short(holder)
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Id of the container that has it.
        holder: String,
    },
    /// A name that no object may have.
    #[error("invalid {kind} name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName {
        /// Of what.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// No such image here.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// No container and no image.
    #[error("no such object: {name}")]
    NoSuchObject {
        /// What was asked for.
        name: String,
    },
    /// The reference of an image makes no sense.
    #[error("invalid image reference {name:?}")]
    Reference {
        /// What was given.
        name: String,
        /// Cause.
        #[source]
        source: gantry_image::reference::ReferenceError,
    },
    /// A pull failed.
    #[error("cannot pull {name}")]
    Pull {
        /// What was asked for.
        name: String,
        /// Cause.
        #[source]
        source: Box<gantry_image::pull::PullError>,
    },
    /// An import failed.
    #[error("cannot import the image")]
    Import {
        /// Cause.
        #[source]
        source: Box<gantry_image::import::ImportError>,
    },
    /// The content store.
    #[error("cannot use the content store")]
    Content {
        /// Cause.
        #[source]
        source: Box<gantry_image::store::StoreError>,
    },
    /// An image's configuration cannot be read.
    #[error("image {id} is damaged")]
    DamagedImage {
        /// Its id.
        id: String,
        /// Cause.
        #[source]
        source: Box<gantry_image::model::ModelError>,
    },
    /// A layer that a container needs is not there, and neither is its blob.
    #[error("image {image} lacks layer {layer}")]
    MissingLayer {
        /// Name or id of the image.
        image: String,
        /// The layer.
        layer: String,
    },
    /// What goes wrong with images.
    #[error(transparent)]
    Image(Box<crate::images::ImageError>),
    /// An option's value.
    #[error("invalid {option}: {reason}")]
    Invalid {
        /// The option, as the user knows it, and its value.
        option: String,
        /// Why.
        reason: String,
    },
    /// A runtime that is not known, not there or not executable.
    #[error("unknown or invalid runtime name: {name}")]
    UnknownRuntime {
        /// What was asked for.
        name: String,
    },
    /// A container that is not running.
    #[error("container {} is not running", short(id))]
    NotRunning {
        /// Its id.
        id: String,
    },
    /// A container that is running.
    #[error("cannot remove container {name}: it is running")]
    StillRunning {
        /// Its name.
        name: String,
    },
    /// A container that is running already, where that matters.
    #[error("container {name} is already running")]
    AlreadyRunning {
        /// Its name.
        name: String,
    },
    /// A container could not be started.
    #[error("failed to start container {}: {message}", short(id))]
    Start {
        /// Its id.
        id: String,
        /// Exit code by Docker's convention.
        code: i32,
        /// Why.
        message: String,
    },
    /// An exec could not be started.
    #[error("exec failed in container {}: {message}", short(id))]
    Exec {
        /// Id of the container.
        id: String,
        /// Exit code by Docker's convention.
        code: i32,
        /// Why.
        message: String,
    },
    /// The supervisor of a container does not answer.
    #[error("the supervisor of container {} does not answer", short(id))]
    Supervisor {
        /// Id of the container.
        id: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The network.
    #[error("cannot set up network {network}: {message}")]
    Network {
        /// Its name.
        network: String,
        /// Why.
        message: String,
    },
    /// No such network.
    #[error("network {name} not found")]
    NoSuchNetwork {
        /// What was asked for.
        name: String,
    },
    /// The name of a network is taken.
    #[error("network with name {name} already exists")]
    NetworkExists {
        /// The name.
        name: String,
    },
    /// A subnet that something else has.
    #[error("subnet {subnet} overlaps {holder}")]
    SubnetTaken {
        /// What was asked for.
        subnet: String,
        /// Who has it: a network, or a route of the host.
        holder: String,
    },
    /// An address that another container has.
    #[error("address {address} of network {network} is already in use")]
    AddressInUse {
        /// The address.
        address: std::net::Ipv4Addr,
        /// The network.
        network: String,
    },
    /// A container that is on a network already.
    #[error(
        "endpoint of container {} already exists in network {network}",
        short(container)
    )]
    EndpointExists {
        /// Id of the container.
        container: String,
        /// The network.
        network: String,
    },
    /// A container that is not on a network.
    #[error("container {} is not connected to network {network}", short(container))]
    NotConnected {
        /// Id of the container.
        container: String,
        /// The network.
        network: String,
    },
    /// A network that running containers are on.
    #[error("network {name} has active endpoints: {holders}")]
    NetworkInUse {
        /// Its name.
        name: String,
        /// Names of the containers.
        holders: String,
    },
    /// A network that belongs to the installation.
    #[error("{name} is a pre-defined network and cannot be {action}")]
    PredefinedNetwork {
        /// Its name.
        name: String,
        /// What was attempted.
        action: &'static str,
    },
    /// No address is left.
    #[error("network {network} has no free address left")]
    NoAddress {
        /// Its name.
        network: String,
    },
    /// A process could not be signalled.
    #[error("cannot send {signal} to container {}", short(id))]
    Signal {
        /// The signal.
        signal: String,
        /// Id of the container.
        id: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A container does not end.
    #[error("container {} did not end, not even when killed", short(id))]
    DoesNotEnd {
        /// Its id.
        id: String,
    },
    /// Somebody else works on the container.
    #[error("container {} is being changed by another command", short(id))]
    Busy {
        /// Its id.
        id: String,
    },
    /// A record that cannot be read.
    #[error("the record of container {} cannot be read", short(id))]
    Record {
        /// Its id.
        id: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl Error {
    /// Exit code by Docker's convention: 125 for an error of ours, 126 and 127 for a
    /// program that cannot be executed or found, 1 for a command about an object.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Start { code, .. } | Error::Exec { code, .. } => *code,
            _ => 125,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NoSuchContainer { .. } => "`gantry ps -a` lists the containers".into(),
            Error::NoSuchImage { name } => format!("`gantry pull {name}` fetches it, `gantry images` lists what is here"),
            Error::NameTaken { name, .. } => format!("remove it with `gantry rm {name}`, or choose another name"),
            Error::StillRunning { name } => format!("stop it with `gantry stop {name}`, or use `gantry rm -f {name}`"),
            Error::Image(error) => error.hint()?,
            Error::NotRunning { id } => format!("start it with `gantry start {}`", short(id)),
            Error::Ambiguous { .. } => "give more of the id, or the name".into(),
            Error::UnknownRuntime { .. } => {
                "`gantry info` lists the runtimes that are here; another one is named by the absolute path of its program".into()
            }
            Error::NotRoot => "use sudo".into(),
            Error::NewerStore { .. } => "install that release, or use another --data-root".into(),
            Error::Store { source, .. } => store_hint(source)?,
            Error::Path { source, .. } => path_hint(source)?,
            Error::NoSuchNetwork { .. } => "`gantry network ls` lists the networks".into(),
            Error::NetworkInUse { name, .. } => format!("stop those containers, or take them off with `gantry network disconnect {name} CONTAINER`"),
            Error::SubnetTaken { .. } => "give another --subnet, or none: then a free one is chosen".into(),
            Error::NoAddress { .. } => "remove containers that are not needed".into(),
            Error::MissingLayer { image, .. } => format!("pull the image again with `gantry pull {image}`"),
            Error::DamagedImage { .. } => "remove the image and pull it again".into(),
            Error::Start { message, .. } => start_hint(message)?.into(),
            Error::Pull { source, .. }
                if matches!(**source, gantry_image::pull::PullError::NoPlatform { .. }) =>
            {
                "choose one of them with --platform".into()
            }
            Error::Pull { .. } => "check the name and that the registry can be reached; private repositories need credentials".into(),
            _ => return None,
        })
    }

    /// Whether an image is missing here, so that a pull could help.
    #[must_use]
    pub fn is_no_such_image(&self) -> bool {
        matches!(self, Error::NoSuchImage { .. })
    }
}

fn store_hint(source: &rusqlite::Error) -> Option<String> {
    use rusqlite::ErrorCode;
    match source.sqlite_error_code()? {
        ErrorCode::DiskFull => Some("free some space on the file system of the data root".into()),
        ErrorCode::ReadOnly | ErrorCode::CannotOpen => Some(
            "the data root must be writable; running containers can be managed without it".into(),
        ),
        _ => None,
    }
}

fn path_hint(source: &io::Error) -> Option<String> {
    match source.kind() {
        io::ErrorKind::StorageFull => Some("free some space on that file system".into()),
        io::ErrorKind::ReadOnlyFilesystem => Some(
            "the data root must be writable; running containers can be managed without it".into(),
        ),
        _ => None,
    }
}

fn start_hint(message: &str) -> Option<&'static str> {
    if message.contains("is in use") || message.contains("are in use") {
        return Some("publish another port with -p, or end the program that has this one");
    }
    message
        .contains("executable file not found")
        .then_some("check the command's spelling and that the image holds it")
}
