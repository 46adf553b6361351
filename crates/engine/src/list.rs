//! Lists of containers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_supervisor::order::{RunState, RunStatus};
use gantry_supervisor::record;

use crate::Engine;
use crate::config::{ContainerConfig, ContainerPort, MountSource, NetworkMode, Protocol};
use crate::error::Error;
use crate::store::{ContainerRow, Phase};

/// A container as a list shows it.
#[derive(Clone, Debug)]
pub struct ContainerSummary {
    /// Id.
    pub id: String,
    /// Names.
    pub names: Vec<String>,
    /// Image as the user named it.
    pub image: String,
    /// Id of the image.
    pub image_id: String,
    /// Program and arguments.
    pub command: String,
    /// Creation, in seconds since 1970.
    pub created: u64,
    /// `created`, `running`, `exited` or `removing`.
    pub state: String,
    /// State in words, such as `Up 3 minutes`.
    pub status: String,
    /// Ports.
    pub ports: Vec<PortSummary>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Names of volumes and sources of bind mounts.
    pub mounts: Vec<String>,
    /// Networks.
    pub networks: Vec<String>,
}

/// A port as a list shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortSummary {
    /// Address on the host.
    pub ip: Option<IpAddr>,
    /// Port in the container.
    pub private_port: u16,
    /// Port on the host.
    pub public_port: Option<u16>,
    /// Protocol.
    pub protocol: Protocol,
}

/// Where a container is in its life, put together from store, record and kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub(crate) state: &'static str,
    pub(crate) pid: i32,
    pub(crate) exit_code: i32,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) oom_killed: bool,
    pub(crate) error: String,
    pub(crate) ports: Vec<gantry_supervisor::order::PublishedPort>,
}

impl Life {
    /// From the record in the run root alone.
    pub(crate) fn of_record(state: &RunState) -> Life {
        let running = state.status == RunStatus::Running && record::is_alive(state);
        Life {
            state: if running { "running" } else { "exited" },
            pid: if running { state.pid } else { 0 },
            // Both processes of the supervisor were killed: the end was not seen.
            exit_code: if state.status == RunStatus::Exited || running {
                state.exit_code
            } else {
                255
            },
            started_at: state.started_at,
            finished_at: state.finished_at,
            oom_killed: state.oom_killed,
            error: state.error.clone(),
            ports: if running {
                state.ports.clone()
            } else {
                Vec::new()
            },
        }
    }

    /// From the row and, where there is one, the record.
    pub(crate) fn of_row(row: &ContainerRow, state: Option<&RunState>) -> Life {
        let life = Life::of_remembered(row, state);
        if row.phase == Phase::Removing && life.state != "running" {
            return Life {
                state: "removing",
                ..life
            };
        }
        life
    }

    fn of_remembered(row: &ContainerRow, state: Option<&RunState>) -> Life {
        if let Some(state) = state.filter(|state| state.started_at > 0) {
            return Life::of_record(state);
        }
        let Some(run) = &row.last_run else {
            return Life {
                state: "created",
                ..Life::default()
            };
        };
        Life {
            // What could not be started is not said to have run.
            state: if run.started_at == 0 {
                "created"
            } else {
                "exited"
            },
            exit_code: run.exit_code,
            started_at: run.started_at,
            finished_at: run.finished_at,
            oom_killed: run.oom_killed,
            error: run.error.clone(),
            ..Life::default()
        }
    }

    fn words(&self) -> String {
        let ago = |since: i64| duration_words((record::now() - since).max(0) / 1_000_000_000);
        match self.state {
            "running" => format!("Up {}", ago(self.started_at)),
            "exited" => format!("Exited ({}) {} ago", self.exit_code, ago(self.finished_at)),
            "removing" => "Removal In Progress".into(),
            _ => "Created".into(),
        }
    }
}

/// A duration in Docker's words; `seconds` is not negative.
#[must_use]
pub fn duration_words(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

impl Engine {
    /// Lists containers, the newest first: those that run, or all.
    ///
    /// Without a usable state store, those that the run root knows.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn list(&self, all: bool) -> Result<Vec<ContainerSummary>, Error> {
        if !self.has_store() {
            let states = self.run_states();
            let shown = states.iter().map(summary_of_record);
            return Ok(shown
                .filter(|container| all || container.state == "running")
                .collect());
        }
        // Records first: an end is put into the row before its record goes, so that one of
        // the two is seen whenever somebody settles it meanwhile.
        let states = self.run_states();
        let states: BTreeMap<&str, &RunState> = states
            .iter()
            .map(|state| (state.container.as_str(), state))
            .collect();
        let rows = self.store()?.containers()?;
        let mut networks = self.store()?.all_endpoints()?;
        let mut summaries = Vec::with_capacity(rows.len());
        for row in rows {
            let life = Life::of_row(&row, states.get(row.id.as_str()).copied());
            if all || life.state == "running" {
                let config = self.config_of(&row)?;
                let mut shown = summary(&row, &config, &life);
                if let Some(networks) = networks.remove(&row.id) {
                    shown.networks = networks;
                }
                summaries.push(shown);
            }
        }
        Ok(summaries)
    }
}

fn summary(row: &ContainerRow, config: &ContainerConfig, life: &Life) -> ContainerSummary {
    let mount = |source: &MountSource| match source {
        MountSource::Bind { path, .. } => Some(path.clone()),
        MountSource::Volume { name, .. } => name.clone(),
        MountSource::Tmpfs { .. } => None,
    };
    ContainerSummary {
        id: row.id.clone(),
        names: vec![row.name.clone()],
        image: config.image.clone(),
        image_id: row.image_id.clone(),
        command: command(&config.entrypoint, &config.cmd),
        created: (row.created_at / 1_000_000_000) as u64,
        state: life.state.into(),
        status: life.words(),
        ports: ports(life, &config.exposed_ports),
        labels: config.labels.clone(),
        mounts: config
            .mounts
            .iter()
            .filter_map(|request| mount(&request.source))
            .collect(),
        networks: vec![network_name(&config.network)],
    }
}

fn summary_of_record(state: &RunState) -> ContainerSummary {
    let life = Life::of_record(state);
    let text = |key: &str| {
        state
            .summary
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = |key: &str| -> Vec<String> {
        serde_json::from_value(state.summary.get(key).cloned().unwrap_or_default())
            .unwrap_or_default()
    };
    let created = state
        .summary
        .get("created_at")
        .and_then(serde_json::Value::as_i64)
        .unwrap_or(0);
    ContainerSummary {
        id: state.container.clone(),
        names: vec![text("name")],
        image: text("image"),
        image_id: text("image_id"),
        command: command(&list("entrypoint"), &list("cmd")),
        created: (created / 1_000_000_000) as u64,
        state: life.state.into(),
        status: life.words(),
        ports: ports(&life, &[]),
        labels: serde_json::from_value(state.summary.get("labels").cloned().unwrap_or_default())
            .unwrap_or_default(),
        mounts: Vec::new(),
        networks: Vec::new(),
    }
}

pub(crate) fn network_name(network: &NetworkMode) -> String {
    match network {
        NetworkMode::Bridge => "bridge".into(),
        NetworkMode::Host => "host".into(),
        NetworkMode::None => "none".into(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Network(name) => name.clone(),
    }
}

fn command(entrypoint: &[String], cmd: &[String]) -> String {
    let words: Vec<String> = entrypoint
        .iter()
        .chain(cmd)
        .enumerate()
        .map(|(index, word)| match word {
            word if index > 0 && word.contains(' ') => format!("'{word}'"),
            word => word.clone(),
        })
        .collect();
    words.join(" ")
}

pub(crate) fn protocol_of(name: &str) -> Protocol {
    match name {
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn ports(life: &Life, exposed: &[ContainerPort]) -> Vec<PortSummary> {
    if life.state != "running" {
        return Vec::new();
    }
    let mut ports = Vec::new();
    for port in &life.ports {
        let shown = |ip: IpAddr| PortSummary {
            ip: Some(ip),
            private_port: port.container_port,
            public_port: Some(port.host_port),
            protocol: protocol_of(&port.protocol),
        };
        match port.host_ip {
            Some(address) => ports.push(shown(address)),
            None => {
                ports.push(shown(std::net::Ipv4Addr::UNSPECIFIED.into()));
                ports.push(shown(std::net::Ipv6Addr::UNSPECIFIED.into()));
            }
        }
    }
    for port in exposed {
        let published = ports
            .iter()
            .any(|known| known.private_port == port.port && known.protocol == port.protocol);
        if !published {
            ports.push(PortSummary {
                ip: None,
                private_port: port.port,
                public_port: None,
                protocol: port.protocol,
            });
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_dockers_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (72 * 3600, "3 days"),
            (21 * 86400, "3 weeks"),
            (90 * 86400, "3 months"),
        ] {
            assert_eq!(duration_words(seconds), words, "{seconds}");
        }
    }
}
