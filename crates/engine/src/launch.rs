//! Starting containers: a supervisor is born, and told to give birth.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_supervisor::client::{Client, Event};
use gantry_supervisor::order::{BirthOrder, NetworkOrder};
use gantry_supervisor::protocol::Attach;
use gantry_supervisor::{record, socket};

use crate::attach::{AttachOptions, Attachment};
use crate::config::NetworkMode;
use crate::create::Prepared;
use crate::error::Error;
use crate::head_start::spawn_supervisor;
use crate::operation::Operation;
use crate::order::{self, Source};
use crate::{Engine, names, paths};

impl Engine {
    /// Starts a container that is not running.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Start`], and what the installation's files say.
    pub fn start(
        &self,
        name: &str,
        attach: Option<AttachOptions>,
    ) -> Result<Option<Attachment>, Error> {
        let row = self.find(name)?;
        let operation = Operation::begin(&self.roots, &row.id)?;
        if self.is_running(&row.id) {
            operation.finish();
            return match attach {
                Some(options) => self.attach(name, options).map(Some),
                // As in Docker: what runs already is no error.
                None => Ok(None),
            };
        }
        // An end that nobody has settled. What has not run yet has none, and would be taken
        // for it if it is to be removed at its end.
        if self.roots.container_run(&row.id).exists() {
            self.settle_locked(&row.id)?;
        }
        let row = self.find(&row.id)?;
        let auto_remove = row.auto_remove;
        let prepared = self.prepare_again(row)?;
        let id = prepared.row.id.clone();
        let launched = self.launch(&operation, prepared, attach);
        if launched.is_err() && auto_remove {
            self.remove_now(&id, true)?;
        }
        operation.finish();
        launched.map(|(attachment, _)| attachment)
    }

    fn prepare_again(&self, row: crate::store::ContainerRow) -> Result<Prepared, Error> {
        let config = self.config_of(&row)?;
        let image_row = self.store()?.image(&row.image_id)?;
        let image_row = image_row.ok_or_else(|| Error::NoSuchImage {
            name: config.image.clone(),
        })?;
        let image =
            gantry_image::model::ImageConfig::parse(&image_row.config).map_err(|source| {
                Error::DamagedImage {
                    id: image_row.id.clone(),
                    source: Box::new(source),
                }
            })?;
        let volumes = self.volumes_of(&row, &config)?;
        Ok(Prepared {
            row,
            config,
            image,
            volumes,
            supervisor: None,
        })
    }

    /// Starts a container. The caller holds its operation.
    pub(crate) fn launch(
        &self,
        _operation: &Operation,
        prepared: Prepared,
        attach: Option<AttachOptions>,
    ) -> Result<(Option<Attachment>, Vec<String>), Error> {
        let id = prepared.row.id.clone();
        let mut prepared = prepared;
        let started = self.launch_steps(&mut prepared, attach);
        if let Err(error) = &started {
            self.undo_launch(&id);
            if !prepared.row.auto_remove
                && let Error::Start { code, message, .. } = error
            {
                let run = crate::store::LastRun {
                    exit_code: *code,
                    error: message.clone(),
                    ..Default::default()
                };
                self.store()?.set_last_run(&id, &run)?;
            }
        }
        started
    }

    fn launch_steps(
        &self,
        prepared: &mut Prepared,
        attach: Option<AttachOptions>,
    ) -> Result<(Option<Attachment>, Vec<String>), Error> {
        let early = prepared.supervisor.take();
        let row = &prepared.row;
        let id = &row.id;
        let mut layers = self.layer_paths(&row.image_id, &prepared.image)?;
        layers.insert(0, crate::init_layer::ensure(&self.roots)?);
        let run_dir = self.roots.container_run(id);
        paths::private_directory(&run_dir)?;
        self.note_name(id, &row.name);
        let shared = self.shared_sandbox(&prepared.config.network)?;
        let sandbox = shared.clone().unwrap_or_else(|| id.clone());
        let directory = self.roots.sandbox(&sandbox);
        record::replace(&run_dir, "sandbox", sandbox.as_bytes()).map_err(|source| Error::Path {
            action: "write into",
            path: run_dir.clone(),
            source,
        })?;
        // The supervisor starts while the rest is made ready.
        let first = match early {
            Some(first) => first,
            None if shared.is_some() => {
                socket::connect(&directory).map_err(|source| Error::Supervisor {
                    id: sandbox.clone(),
                    source,
                })?
            }
            None => spawn_supervisor(&directory)?,
        };
        let network = self.network_order(id, &prepared.config, shared.is_some())?;
        self.write_managed_files(id, &prepared.config, &network, shared.as_deref())?;
        let console_size = attach.as_ref().and_then(|options| options.console_size);
        let mut order = order::make(Source {
            roots: &self.roots,
            id,
            name: &row.name,
            created_at: row.created_at,
            image_id: &row.image_id,
            config: &prepared.config,
            layers,
            volumes: &prepared.volumes,
            network,
            console_size,
            settle_command: self.settle_command(id),
        })?;
        if let Some(summary) = order.summary.as_object_mut() {
            summary.insert("sandbox".into(), sandbox.into());
        }
        self.order_birth(&directory, first, order, prepared.row.auto_remove, attach)
    }

    fn order_birth(
        &self,
        directory: &Path,
        first: OwnedFd,
        order: BirthOrder,
        auto_remove: bool,
        attach: Option<AttachOptions>,
    ) -> Result<(Option<Attachment>, Vec<String>), Error> {
        let id = order.container.clone();
        let wanted = attach
            .as_ref()
            .map_or_else(Attach::default, |options| Attach {
                client: names::random_id(),
                stdin: options.stdin && order.open_stdin,
                stdout: options.stdout,
                stderr: options.stderr,
                resume: None,
                settles: auto_remove,
            });
        let lost = |source| Error::Supervisor {
            id: id.clone(),
            source,
        };
        let mut client = Client::birth(directory, first, order, wanted).map_err(lost)?;
        match client.next_event().map_err(lost)? {
            Event::Started {
                terminal,
                warnings,
                stdin,
                ..
            } => {
                let attachment = attach.map(|_| {
                    Attachment::new(
                        self.roots.clone(),
                        id.clone(),
                        client,
                        terminal,
                        stdin,
                        auto_remove,
                    )
                });
                Ok((attachment, warnings))
            }
            Event::Failed { code, message } => Err(Error::Start { id, code, message }),
            Event::Exited { code } => {
                let attachment = attach.map(|_| {
                    Attachment::ended(self.roots.clone(), id.clone(), client, code, auto_remove)
                });
                Ok((attachment, Vec::new()))
            }
            Event::Lost | Event::Resumed | Event::Output { .. } => Err(Error::Supervisor {
                id,
                source: io::ErrorKind::ConnectionReset.into(),
            }),
        }
    }

    /// The sandbox of another container, for `--network container:NAME`.
    fn shared_sandbox(&self, network: &NetworkMode) -> Result<Option<String>, Error> {
        let NetworkMode::Container(name) = network else {
            return Ok(None);
        };
        let other = self.find(name)?;
        if !self.is_running(&other.id) {
            return Err(Error::NotRunning { id: other.id });
        }
        Ok(Some(self.sandbox_of(&other.id)))
    }

    /// Id of the sandbox that a container is in.
    pub(crate) fn sandbox_of(&self, id: &str) -> String {
        fs::read_to_string(self.roots.container_run(id).join("sandbox"))
            .unwrap_or_else(|_| id.into())
    }

    /// Program and arguments that settle a container's end.
    fn settle_command(&self, id: &str) -> Vec<String> {
        let Ok(program) = std::env::current_exe() else {
            return Vec::new();
        };
        vec![
            program.to_string_lossy().into_owned(),
            "--data-root".into(),
            self.roots.data.to_string_lossy().into_owned(),
            "--run-root".into(),
            self.roots.run.to_string_lossy().into_owned(),
            "__settle".into(),
            id.into(),
        ]
    }

    /// Takes back whatever of a start is there.
    pub(crate) fn undo_launch(&self, id: &str) {
        self.remove_outside(id);
        let _ = self.release_addresses(id);
        let _ = paths::remove_directory(&self.roots.container_run(id));
        self.forget_name(id, None);
        self.remove_sandbox_if_dead(id);
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.
    fn write_managed_files(
        &self,
        id: &str,
        config: &crate::config::ContainerConfig,
        network: &NetworkOrder,
        shared: Option<&str>,
    ) -> Result<(), Error> {
        let directory = self.roots.container_run(id);
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            let fail = |source| Error::Path {
                action: "write",
                path: path.clone(),
                source,
            };
            fs::write(&path, text).map_err(fail)?;
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(fail)
        };
        let hostname = order::hostname(id, config);
        write("hostname", format!("{hostname}\n"))?;
        let shared_hosts = shared.and_then(|other| {
            fs::read_to_string(self.roots.container_run(other).join("hosts")).ok()
        });
        let hosts = match (network, shared_hosts) {
            (_, Some(text)) => text,
            (NetworkOrder::Host, None) => fs::read_to_string("/etc/hosts").unwrap_or_default(),
            _ => crate::networks::hosts_file(&order::own_names(id, config), network),
        };
        let extra = crate::networks::extra_hosts(config, network)?;
        write("hosts", hosts + &extra)?;
        let shared_resolver = shared.and_then(|other| {
            fs::read_to_string(self.roots.container_run(other).join("resolv.conf")).ok()
        });
        let has_names = matches!(network, NetworkOrder::Bridge(bridge) if bridge.dns.is_some());
        write(
            "resolv.conf",
            shared_resolver
                .unwrap_or_else(|| crate::networks::Resolver::of(config).text(has_names)),
        )
    }
}
