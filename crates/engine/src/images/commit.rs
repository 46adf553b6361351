//! Containers as images and as archives.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_image::archive::{Form, write_tree};
use gantry_image::commit::{CommitOptions, commit};
use gantry_image::digest::Digest;
use gantry_image::model::{ImageConfig, RuntimeConfig};
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::json;

use super::import::{new_name, parse_changes};
use super::pause::Paused;
use super::{ImageError, content_error, parse_config, row_of};
use crate::Engine;
use crate::config::{ContainerConfig, MountSource};
use crate::error::Error;
use crate::operation::{Operation, frozen_mark};
use crate::store::{ContainerRow, ImageRow, Phase};

/// What to commit.
#[derive(Clone, Debug, Default)]
pub struct Committed<'a> {
    /// The container.
    pub container: &'a str,
    /// Name of the new image.
    pub name: Option<&'a str>,
    /// Who.
    pub author: &'a str,
    /// Remark.
    pub message: &'a str,
    /// Changes in the words of a Dockerfile.
    pub changes: &'a [String],
    /// Whether the container is stopped meanwhile.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container; returns its id.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Busy`], [`ImageError::Commit`],
    /// [`ImageError::Pause`].
    pub fn commit(&self, request: &Committed<'_>) -> Result<String, Error> {
        let name = new_name(request.name)?;
        let changes = parse_changes(request.changes)?;
        self.with_container(request.container, |row| {
            let config = self.config_of(row)?;
            let (image, base) = self.image_of(row)?;
            let (content, _kept) = self.content_to_fill()?;
            let manifest: Digest = image.manifest.parse().map_err(|_| Error::MissingLayer {
                image: image.id.clone(),
                layer: image.manifest.clone(),
            })?;
            let upper = open_directory(&self.roots.container_data(&row.id).join("upper"))?;
            let paused = if request.pause && self.is_running(&row.id) {
                match Paused::now(self, &row.id, request.container) {
                    // It has ended just now.
                    Err(_) if !self.is_running(&row.id) => None,
                    other => Some(other?),
                }
            } else {
                None
            };
            let mut words = config.entrypoint.clone();
            words.extend(config.cmd.iter().cloned());
            let options = CommitOptions {
                base: (&manifest, &base),
                upper: upper.as_fd(),
                config: runtime_config(&base, &config),
                changes,
                author: request.author.into(),
                message: request.message.into(),
                created_by: words.join(" "),
            };
            let made = commit(&content, options).map_err(|source| ImageError::Commit {
                container: request.container.into(),
                source: Box::new(source),
            })?;
            drop(paused);
            self.check_still_there(row, request.container)?;
            self.record_made(row_of(&made), name.as_ref())
        })
    }

    /// Writes the file system of a container as a tar archive: the image's layers and its own,
    /// without what is mounted there.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Busy`], [`ImageError::Export`].
    pub fn export(&self, name: &str, output: &mut dyn Write) -> Result<(), Error> {
        self.with_container(name, |row| {
            let (_, config) = self.image_of(row)?;
            self.layer_paths(&row.image_id, &config)?;
            let content = self.content()?;
            let _kept = content.keep().map_err(content_error)?;
            let mut layers = vec![
                open_directory(&self.roots.container_data(&row.id).join("upper"))?,
                open_directory(&crate::init_layer::ensure(&self.roots)?)?,
            ];
            for layer in config.rootfs.diff_ids.iter().rev() {
                layers.push(content.open_layer(layer).map_err(content_error)?);
            }
            let layers: Vec<BorrowedFd<'_>> = layers.iter().map(AsFd::as_fd).collect();
            write_tree(&layers, Form::Merged, output).map_err(|source| ImageError::Export {
                container: name.into(),
                source: Box::new(source),
            })?;
            self.check_still_there(row, name)
        })
    }

    /// Does something with a container that is not removed meanwhile: a removal waits.
    fn with_container<T>(
        &self,
        name: &str,
        work: impl FnOnce(&ContainerRow) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let found = self.find(name)?;
        let operation = Operation::begin_reading(&self.roots, &found.id)?;
        // What whoever held it before has left. As for a start: what has not run yet has no end,
        // and would be taken for it if it is to be removed at its end.
        if self.roots.container_run(&found.id).exists() {
            self.settle_locked(&found.id)?;
        }
        let result = self
            .check_still_there(&found, name)
            .and_then(|()| work(&found));
        if frozen_mark(&self.roots, &found.id).exists() {
            // It could not be thawed. The mark of the operation has the next command try again.
            drop(operation);
        } else {
            operation.finish();
        }
        result
    }

    fn check_still_there(&self, row: &ContainerRow, name: &str) -> Result<(), Error> {
        match self.store()?.container(&row.id)? {
            Some(row) if row.phase == Phase::Present => Ok(()),
            _ => Err(Error::NoSuchContainer { name: name.into() }),
        }
    }

    /// The image of a container, and its configuration.
    fn image_of(&self, row: &ContainerRow) -> Result<(ImageRow, ImageConfig), Error> {
        let image = self
            .store()?
            .image(&row.image_id)?
            .ok_or_else(|| Error::NoSuchImage {
                name: row.image_id.clone(),
            })?;
        let config = parse_config(&image)?;
        Ok((image, config))
    }
}

fn open_directory(path: &std::path::Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| Error::Path {
        action: "open",
        path: path.into(),
        source: errno.into(),
    })
}

/// What containers of the new image start with: what this one did.
fn runtime_config(base: &ImageConfig, config: &ContainerConfig) -> RuntimeConfig {
    let mut runtime = base.config.clone();
    runtime.user.clone_from(&config.user);
    runtime.env.clone_from(&config.env);
    runtime.working_dir.clone_from(&config.working_dir);
    runtime.labels.clone_from(&config.labels);
    let words = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone());
    runtime.entrypoint = words(&config.entrypoint);
    runtime.cmd = words(&config.cmd);
    for port in &config.exposed_ports {
        runtime
            .exposed_ports
            .insert(format!("{}/{}", port.port, port.protocol), json!({}));
    }
    for mount in &config.mounts {
        if matches!(mount.source, MountSource::Volume { name: None, .. }) {
            runtime.volumes.insert(mount.target.clone(), json!({}));
        }
    }
    if !config.stop_signal.is_empty() {
        runtime.stop_signal = Some(config.stop_signal.clone());
    }
    // Docker's old builder left the container's own here.
    for name in ["Hostname", "Domainname", "Image"] {
        runtime.extra.remove(name);
    }
    runtime
}
