//! What goes wrong with images.

use gantry_image::archive::{LoadError, PackError, SaveError, TreeError};
use gantry_image::commit::CommitError;
use gantry_image::push::PushError;
use gantry_image::registry::DownloadError;

use crate::error::Error;

/// What went wrong, with which image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It has names in several repositories, or several names, and is removed by its id.
    #[error(
        "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
    )]
    SeveralNames {
        /// Its id as given.
        id: String,
    },
    /// A container that runs uses it.
    #[error(
        "conflict: unable to delete {id} (cannot be forced) - image is being used by running container {container}"
    )]
    UsedByRunning {
        /// Its short id.
        id: String,
        /// Short id of the container.
        container: String,
    },
    /// A container that does not run uses it.
    #[error(
        "conflict: unable to delete {id} (must be forced) - image is being used by stopped container {container}"
    )]
    UsedByStopped {
        /// Its short id.
        id: String,
        /// Short id of the container.
        container: String,
    },
    /// A container uses it under its last name.
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {id}"
    )]
    NameInUse {
        /// The name as given.
        name: String,
        /// Short id of the container.
        container: String,
        /// Its short id.
        id: String,
    },
    /// A name by digest where a tag is needed.
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    /// Nothing of that repository is here.
    #[error("An image does not exist locally with the tag: {repository}")]
    NothingToPush {
        /// The repository, or the whole name.
        repository: String,
    },
    /// It is here, but not for the platform.
    #[error(
        "image with reference {name} was found but does not provide the specified platform ({platform}); here are: {here}"
    )]
    OtherPlatform {
        /// The name as given.
        name: String,
        /// The platform as given.
        platform: String,
        /// Platforms that are here.
        here: String,
    },
    /// A file cannot be downloaded.
    #[error(transparent)]
    Download(Box<DownloadError>),
    /// An archive cannot be loaded.
    #[error("cannot load the archive")]
    Load(#[source] Box<LoadError>),
    /// Images cannot be saved.
    #[error("cannot save the images")]
    Save(#[source] Box<SaveError>),
    /// A registry did not answer as it should.
    #[error("cannot list the tags of {name}")]
    Registry {
        /// Repository.
        name: String,
        /// Cause.
        #[source]
        source: Box<gantry_image::registry::RegistryError>,
    },
    /// A push failed.
    #[error(transparent)]
    Push(Box<PushError>),
    /// A commit failed.
    #[error("cannot commit container {container}")]
    Commit {
        /// The container as given.
        container: String,
        /// Cause.
        #[source]
        source: Box<CommitError>,
    },
    /// An export failed.
    #[error("cannot export container {container}")]
    Export {
        /// The container as given.
        container: String,
        /// Cause.
        #[source]
        source: Box<TreeError>,
    },
    /// A container could not be paused, or not be resumed.
    #[error("cannot {action} container {container}")]
    Pause {
        /// What was attempted.
        action: &'static str,
        /// The container as given.
        container: String,
        /// Cause.
        #[source]
        source: gantry_runtime::cgroup::CgroupError,
    },
    /// A layer is gone, and its blob does not bring it back.
    #[error("cannot restore a layer of image {image}")]
    Unpack {
        /// Name or id of the image.
        image: String,
        /// Cause.
        #[source]
        source: Box<gantry_image::repair::RepairError>,
    },
    /// A blob is not here and cannot be made or fetched again.
    #[error(
        "layer {layer} of image {image} is here only unpacked, and its blob cannot be had again"
    )]
    NoBlob {
        /// Id of the image.
        image: String,
        /// Digest of the blob.
        layer: String,
        /// Cause.
        #[source]
        source: Box<PackError>,
    },
}

impl ImageError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NameInUse { container, .. } | Self::UsedByStopped { container, .. } => {
                format!("remove the container with `gantry rm {container}`, or use -f")
            }
            Self::UsedByRunning { container, .. } => {
                format!("stop the container with `gantry rm -f {container}` first")
            }
            Self::SeveralNames { .. } => "remove the names one by one, or use -f".into(),
            Self::NothingToPush { .. } => {
                "`gantry images` lists what is here, `gantry tag` gives an image another name"
                    .into()
            }
            Self::OtherPlatform { name, platform, .. } => format!(
                "`gantry images --tree` lists what is here, `gantry pull --platform {platform} {name}` fetches more"
            ),
            Self::Download(source) => match source.as_ref() {
                DownloadError::Url { .. } => {
                    "name a file, - for standard input, or a URL that needs no password".into()
                }
                _ => "download it by other means and name the file".into(),
            },
            Self::NoBlob { .. } => "pull the image again".into(),
            Self::Unpack { image, .. } => {
                format!("remove the image and pull it again with `gantry pull {image}`")
            }
            _ => return None,
        })
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        Error::Image(Box::new(error))
    }
}
