//! Creating containers.

use std::os::fd::OwnedFd;

use gantry_image::model::ImageConfig;
use gantry_supervisor::record;

use crate::attach::{AttachOptions, Attachment};
use crate::config::{ContainerConfig, MountSource, NetworkMode};
use crate::error::Error;
use crate::head_start::HeadStart;
use crate::merge::{CreateRequest, merge};
use crate::operation::Operation;
use crate::store::{ContainerRow, ImageRow, NewContainer, Phase};
use crate::{Engine, names, paths};

/// A container that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
}

/// A container that was made and started.
#[derive(Debug)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// What could not be done as asked.
    pub warnings: Vec<String>,
    /// The connection to it, if one was asked for.
    pub attachment: Option<Attachment>,
}

/// A container on record, with what is needed to start it.
pub(crate) struct Prepared {
    pub(crate) row: ContainerRow,
    pub(crate) config: ContainerConfig,
    pub(crate) image: ImageConfig,
    pub(crate) volumes: Vec<String>,
    /// The connection to a supervisor that was started early.
    pub(crate) supervisor: Option<OwnedFd>,
}

/// How often a made-up name is made up again when it is taken.
const NAME_ATTEMPTS: u32 = 12;

impl Engine {
    /// Makes a container.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::NameTaken`], [`Error::Invalid`] and what the
    /// installation's files say. Nothing is left then.
    pub fn create(&self, request: CreateRequest) -> Result<Created, Error> {
        let id = names::random_id();
        let operation = Operation::begin(&self.roots, &id)?;
        let made = self.create_as(&id, &request, None);
        if made.is_err() {
            self.discard_unmade(&id);
        }
        operation.finish();
        made.map(|prepared| Created {
            id: prepared.row.id,
            warnings: Vec::new(),
        })
    }

    /// Makes a container and starts it.
    ///
    /// # Errors
    /// As [`Engine::create`] and [`Engine::start`]. What could not be started stays, as
    /// created, unless it was to be removed at its end.
    pub fn run(
        &self,
        request: CreateRequest,
        attach: Option<AttachOptions>,
        head_start: Option<HeadStart>,
    ) -> Result<Running, Error> {
        let (id, operation, supervisor) = match head_start {
            Some(begun) => (begun.id, begun.operation, Some(begun.supervisor)),
            None => {
                let id = names::random_id();
                let operation = Operation::begin(&self.roots, &id)?;
                (id, operation, None)
            }
        };
        let prepared = match self.create_as(&id, &request, supervisor) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.discard_unmade(&id);
                operation.finish();
                return Err(error);
            }
        };
        let auto_remove = prepared.row.auto_remove;
        match self.launch(&operation, prepared, attach) {
            Ok((attachment, warnings)) => {
                operation.finish();
                Ok(Running {
                    id,
                    warnings,
                    attachment,
                })
            }
            Err(error) => {
                if auto_remove {
                    self.remove_now(&id, true)?;
                }
                operation.finish();
                Err(error)
            }
        }
    }

    fn create_as(
        &self,
        id: &str,
        request: &CreateRequest,
        supervisor: Option<OwnedFd>,
    ) -> Result<Prepared, Error> {
        if let Some(name) = &request.name {
            names::check("container", name)?;
        }
        let (image_row, image) =
            self.image_for(&request.config.image, request.platform.as_deref())?;
        let config = merge(request, &image)?;
        // Errors of the configuration show before anything is made.
        self.check_config(&config)?;
        let endpoints = self.new_endpoints(id, &config)?;
        let volumes = volume_names(&config)?;
        for mount in &config.mounts {
            if let MountSource::Bind { path, create } = &mount.source {
                check_bind(path, *create)?;
            }
        }
        let supervisor = if matches!(config.network, NetworkMode::Container(_)) {
            // It shares another one's.
            drop(supervisor);
            self.remove_sandbox_if_dead(id);
            None
        } else {
            supervisor
        };
        paths::private_directory(&self.roots.container_data(id))?;
        for name in ["upper", "work"] {
            make_layer_directory(&self.roots.container_data(id).join(name))?;
        }
        let mut row = ContainerRow {
            id: id.into(),
            name: request
                .name
                .clone()
                .unwrap_or_else(|| names::random_name(0)),
            created_at: record::now(),
            image_id: image_row.id.clone(),
            config: serde_json::to_string(&config).map_err(|source| Error::Record {
                id: id.into(),
                source,
            })?,
            sandbox: id.into(),
            phase: Phase::Present,
            auto_remove: config.auto_remove,
            last_run: None,
        };
        for attempt in 1.. {
            let inserted = self.store()?.insert_container(&NewContainer {
                row: &row,
                volumes: &volumes,
                endpoints: &endpoints,
            });
            match inserted {
                Err(Error::NameTaken { .. })
                    if request.name.is_none() && attempt < NAME_ATTEMPTS =>
                {
                    row.name = names::random_name(attempt);
                }
                other => {
                    other?;
                    break;
                }
            }
        }
        for (volume, _) in &volumes {
            self.make_volume_directory(volume)?;
        }
        let networks: Vec<String> = endpoints.into_iter().map(|(network, _)| network).collect();
        self.publish_names_of(&networks)?;
        Ok(Prepared {
            row,
            config,
            image,
            volumes: volumes.into_iter().map(|(name, _)| name).collect(),
            supervisor,
        })
    }

    fn check_config(&self, config: &ContainerConfig) -> Result<(), Error> {
        let allowed = crate::order::allowed_capabilities(&config.security)?;
        if let Some(profile) = crate::order::seccomp_profile(&config.security, allowed)?
            && matches!(
                config.security.seccomp,
                crate::config::SeccompChoice::Profile(_)
            )
        {
            gantry_runtime::seccomp::compile(&profile).map_err(|error| Error::Invalid {
                option: "seccomp profile".into(),
                reason: error.to_string(),
            })?;
        }
        let foreign = crate::runtimes::find(&config.runtime)?;
        if let (Some(runtime), true) = (foreign, config.init) {
            return Err(Error::Invalid {
                option: "--init".into(),
                reason: format!("containers of {} have no init of ours", runtime.name),
            });
        }
        if !config.stop_signal.is_empty() {
            crate::container::parse_signal(&config.stop_signal)?;
        }
        if let NetworkMode::Container(name) = &config.network {
            self.find(name)?;
        }
        Ok(())
    }

    /// The image of a new container and its configuration.
    pub(crate) fn image_for(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> Result<(ImageRow, ImageConfig), Error> {
        let row = self.find_image_for(name, platform).map_err(|error| {
            // What cannot be the name of an image is not worth an attempt to pull it.
            match gantry_image::reference::Reference::parse(name) {
                Err(source) if error.is_no_such_image() => Error::Reference {
                    name: name.into(),
                    source,
                },
                _ => error,
            }
        })?;
        let config = ImageConfig::parse(&row.config).map_err(|source| Error::DamagedImage {
            id: row.id.clone(),
            source: Box::new(source),
        })?;
        if let Some(platform) = platform {
            let wanted: gantry_image::model::Platform =
                platform.parse().map_err(|_| Error::Invalid {
                    option: format!("platform {platform:?}"),
                    reason: "expected os/architecture, such as linux/amd64".into(),
                })?;
            if wanted.distance(&config.platform()).is_none()
                && config.platform().distance(&wanted).is_none()
            {
                return Err(Error::NoSuchImage { name: name.into() });
            }
        }
        Ok((row, config))
    }

    fn make_volume_directory(&self, name: &str) -> Result<(), Error> {
        paths::private_directory(&self.roots.volume(name))?;
        let data = self.roots.volume(name).join("_data");
        match std::fs::create_dir(&data) {
            Ok(()) => set_mode(&data, 0o755),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(source) => Err(Error::Path {
                action: "make volume",
                path: data,
                source,
            }),
        }
    }

    /// Removes what a creation that failed has made.
    fn discard_unmade(&self, id: &str) {
        if let Ok(mut store) = self.store() {
            let _ = store.delete_container(id, true, crate::store::Durability::Normal);
        }
        let _ = paths::remove_directory(&self.roots.container_data(id));
        self.remove_sandbox_if_dead(id);
    }
}

fn make_layer_directory(path: &std::path::Path) -> Result<(), Error> {
    std::fs::create_dir(path).map_err(|source| Error::Path {
        action: "make directory",
        path: path.into(),
        source,
    })?;
    // The mode of a container's own `/`, which other users in it have to search.
    set_mode(path, 0o755)
}

fn set_mode(path: &std::path::Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|source| {
        Error::Path {
            action: "set the mode of",
            path: path.into(),
            source,
        }
    })
}

/// Names of the volumes, and whether they are anonymous, in the order of the mounts.
fn volume_names(config: &ContainerConfig) -> Result<Vec<(String, bool)>, Error> {
    let mut volumes = Vec::new();
    for mount in &config.mounts {
        if let MountSource::Volume { name, .. } = &mount.source {
            match name {
                Some(name) => {
                    names::check("volume", name)?;
                    volumes.push((name.clone(), false));
                }
                None => volumes.push((names::random_id(), true)),
            }
        }
    }
    Ok(volumes)
}

fn check_bind(path: &str, create: bool) -> Result<(), Error> {
    let invalid = |reason: String| Error::Invalid {
        option: format!("bind source {path:?}"),
        reason,
    };
    if !path.starts_with('/') {
        return Err(invalid("it must be an absolute path".into()));
    }
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(path).map_err(|error| invalid(error.to_string()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(invalid("it does not exist".into()))
        }
        Err(error) => Err(invalid(error.to_string())),
    }
}
