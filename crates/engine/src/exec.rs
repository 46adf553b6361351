//! Further processes in running containers.

use gantry_runtime::spec::{ConsoleSize, Process};
use gantry_supervisor::client::{Client, Event};
use gantry_supervisor::order::{ExecOrder, PROTOCOL};
use gantry_supervisor::protocol::Attach;

use crate::attach::{AttachOptions, Attachment};
use crate::error::Error;
use crate::{Engine, names, order};

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Environment over the container's.
    pub env: Vec<String>,
    /// Working directory; empty means the container's.
    pub working_dir: String,
    /// User; empty means the container's.
    pub user: String,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub open_stdin: bool,
    /// Whether it has every capability.
    pub privileged: bool,
    /// Initial size of the terminal: rows and columns.
    pub console_size: Option<(u16, u16)>,
}

impl Engine {
    /// Runs a further process in a container; `None` if nobody attaches to it.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotRunning`], [`Error::Exec`].
    pub fn exec(
        &self,
        name: &str,
        request: ExecRequest,
        attach: Option<AttachOptions>,
    ) -> Result<Option<Attachment>, Error> {
        let known = match self.running(name) {
            Some(known) => known,
            None => self.known(name)?,
        };
        if !self.is_running(&known.id) {
            return Err(Error::NotRunning { id: known.id });
        }
        let id = known.id.clone();
        let mut security = known.config.security.clone();
        if request.privileged {
            security.privileged = true;
        }
        let allowed = order::allowed_capabilities(&security)?;
        let mut env = known.config.env.clone();
        for variable in &request.env {
            let name = format!("{}=", variable.split('=').next().unwrap_or_default());
            env.retain(|known| !known.starts_with(&name));
            env.push(variable.clone());
        }
        if !env.iter().any(|variable| variable.starts_with("HOSTNAME=")) {
            let hostname = order::hostname(&id, &known.config);
            env.push(format!("HOSTNAME={hostname}"));
        }
        if request.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        let either = |own: &str, container: &str| {
            if own.is_empty() {
                container.to_owned()
            } else {
                own.to_owned()
            }
        };
        let mut cwd = either(&request.working_dir, &known.config.working_dir);
        if cwd.is_empty() {
            cwd.push('/');
        }
        let exec = ExecOrder {
            protocol: PROTOCOL,
            id: names::random_id(),
            container: id.clone(),
            process: Process {
                terminal: request.tty,
                console_size: request
                    .console_size
                    .map(|(height, width)| ConsoleSize { height, width }),
                args: request.args.clone(),
                env,
                cwd,
                capabilities: Some(order::capability_sets(allowed)),
                no_new_privileges: security.no_new_privileges,
                ..Process::default()
            },
            seccomp: order::seccomp_profile(&security, allowed)?,
            user: either(&request.user, &known.config.user),
            open_stdin: request.open_stdin,
        };
        let wanted = attach.map_or_else(Attach::default, |options| Attach {
            client: names::random_id(),
            stdin: options.stdin && request.open_stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            ..Attach::default()
        });
        let lost = |source| Error::Supervisor {
            id: id.clone(),
            source,
        };
        let directory = self.roots.sandbox(&self.sandbox_of(&id));
        let mut client = Client::exec(&directory, exec, wanted).map_err(lost)?;
        match client.next_event().map_err(lost)? {
            Event::Started {
                terminal, stdin, ..
            } => Ok(attach.map(|_| {
                Attachment::new(
                    self.roots.clone(),
                    id.clone(),
                    client,
                    terminal,
                    stdin,
                    false,
                )
                .of_exec()
            })),
            Event::Failed { code, message } => Err(Error::Exec { id, code, message }),
            Event::Exited { code } => Ok(attach.map(|_| {
                Attachment::ended(self.roots.clone(), id.clone(), client, code, false).of_exec()
            })),
            Event::Lost | Event::Resumed | Event::Output { .. } => Err(Error::NotRunning { id }),
        }
    }
}
