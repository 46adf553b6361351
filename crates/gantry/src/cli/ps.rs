//! `ps`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgMatches, Command};

use super::Context;
use super::flags::{is_on, list, parsed, switch, text, texts, value, with_help};
use crate::api::config::Protocol;
use crate::api::{ContainerSummary, PortSummary};
use crate::error::{CliError, Outcome};
use crate::listing::{self, Layout, Row};
use crate::parse::number;
use crate::table::{ellipsis, short_id};
use crate::{calendar, matching, output, zone};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];

const COLUMNS: &[&str] = &[
    "ID",
    "Image",
    "Command",
    "RunningFor",
    "Status",
    "Ports",
    "Names",
];

/// Width of a command or a mount in a table, in characters.
const COMMAND_WIDTH: usize = 20;
const MOUNT_WIDTH: usize = 15;

/// States that a container may be in.
const STATES: [&str; 7] = [
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];

/// Arguments of `ps`.
pub fn arguments(command: Command) -> Command {
    with_help(command).args([
        switch("all", "Show all containers (default shows just running)").short('a'),
        list(
            "filter",
            "filter",
            "Filter output based on conditions provided",
        )
        .short('f'),
        value(
            "format",
            "string",
            "Format output: 'table', 'table TEMPLATE', 'json' or a Go template",
        ),
        value(
            "last",
            "int",
            "Show n last created containers (includes all states)",
        )
        .short('n'),
        switch(
            "latest",
            "Show the latest created container (includes all states)",
        )
        .short('l'),
        switch("no-trunc", "Don't truncate output"),
        switch("quiet", "Only display container IDs").short('q'),
    ])
}

/// `ps`: lists containers.
///
/// # Errors
/// Those of the flags, of the template and of the engine.
pub fn execute(context: &Context, matches: &ArgMatches) -> Outcome {
    let mut filters = texts(matches, "filter")
        .map(Filter::parse)
        .collect::<Result<Vec<_>, _>>()?;
    name_networks(context, &mut filters)?;
    let last = parsed(matches, "last", |count| {
        number::integer(count, -1, i64::MAX)
    })?;
    let last = match (is_on(matches, "latest")?, last) {
        (true, _) => Some(1),
        (false, Some(count)) if count > 0 => usize::try_from(count).ok(),
        _ => None,
    };
    let quiet = is_on(matches, "quiet")?;
    let truncate = !is_on(matches, "no-trunc")?;
    let format = text(matches, "format").filter(|format| !format.trim().is_empty());
    let by_state = filters
        .iter()
        .any(|filter| matches!(filter, Filter::Status(_)));
    let all = is_on(matches, "all")? || last.is_some() || by_state;
    let mut containers = context.engine()?.list(all)?;
    containers.sort_by_key(|container| std::cmp::Reverse(container.created));
    let mut containers: Vec<_> = containers
        .into_iter()
        .filter(|container| keep(&filters, container))
        .collect();
    containers.truncate(last.unwrap_or(usize::MAX));
    if quiet {
        if format.is_some_and(|format| format != "table") {
            output::note(
                "WARNING: Ignoring custom format, because both --format and --quiet are set.",
            );
        }
        let ids: Vec<_> = containers
            .iter()
            .map(|container| shown_id(&container.id, truncate))
            .collect();
        for id in ids {
            output::line(id)?;
        }
        return Ok(0);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let rows: Vec<Row> = containers
        .into_iter()
        .map(|container| row(container, truncate, now))
        .collect();
    let layout = Layout {
        headers: HEADERS,
        columns: COLUMNS,
    };
    output::text(&listing::render(
        layout,
        format,
        &rows,
        output::to_terminal(),
    )?)?;
    Ok(0)
}

/// Puts the names of networks in the place of their ids.
fn name_networks(context: &Context, filters: &mut [Filter]) -> Result<(), CliError> {
    let wanted = filters.iter_mut().filter_map(|filter| match filter {
        Filter::Network(network) => Some(network),
        _ => None,
    });
    for network in wanted {
        let is_hex = network.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || network.is_empty() {
            continue;
        }
        let known = context.engine()?.networks()?;
        if known.iter().any(|known| known.name == *network) {
            continue;
        }
        if let Some(found) = known
            .into_iter()
            .find(|known| known.id.starts_with(network.as_str()))
        {
            *network = found.name;
        }
    }
    Ok(())
}

fn shown_id(id: &str, truncate: bool) -> &str {
    if truncate { short_id(id) } else { id }
}

fn row(container: ContainerSummary, truncate: bool, now: u64) -> Row {
    let cut = |text: &str, width| {
        if truncate {
            ellipsis(text, width)
        } else {
            text.to_owned()
        }
    };
    let created = i64::try_from(container.created).unwrap_or_default();
    let age = now.saturating_sub(container.created);
    let names: Vec<&str> = container
        .names
        .iter()
        .map(|name| name.trim_start_matches('/'))
        .collect();
    let labels: Vec<String> = container
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mounts: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| cut(mount, MOUNT_WIDTH))
        .collect();
    let volumes = container
        .mounts
        .iter()
        .filter(|mount| !mount.starts_with('/'))
        .count();
    let fields = BTreeMap::from([
        ("ID", shown_id(&container.id, truncate).to_owned()),
        ("Image", shown_image(&container, truncate)),
        ("Command", quote(&cut(&container.command, COMMAND_WIDTH))),
        ("CreatedAt", calendar::listing(created, &zone::at)),
        (
            "RunningFor",
            format!(
                "{} ago",
                calendar::span(i64::try_from(age).unwrap_or_default())
            ),
        ),
        ("Ports", ports(&container.ports)),
        ("State", container.state.clone()),
        ("Status", container.status.clone()),
        // Sizes are not measured: it would cost a walk of every container's files.
        ("Size", "0B".to_owned()),
        ("Names", names.join(",")),
        ("Labels", labels.join(",")),
        ("Mounts", mounts.join(",")),
        ("LocalVolumes", volumes.to_string()),
        ("Networks", container.networks.join(",")),
    ]);
    Row {
        fields,
        labels: container.labels,
    }
}

/// The image's name, or its short id when it has lost its name.
fn shown_image(container: &ContainerSummary, truncate: bool) -> String {
    match container.image.as_str() {
        "" => shown_id(&container.image_id, truncate).to_owned(),
        image if truncate && image.starts_with("sha256:") => short_id(image).to_owned(),
        image => image.to_owned(),
    }
}

/// A command in double quotes, with Go's escapes.
fn quote(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            character if crate::terminal::is_hostile(character) => {
                let code = u32::from(character);
                // Writing into a string cannot fail.
                let _ = match code {
                    ..0x80 => write!(quoted, "\\x{code:02x}"),
                    _ => write!(quoted, "\\u{code:04x}"),
                };
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Ports as listings show them: published ones with where they are reached, ranges joined.
fn ports(ports: &[PortSummary]) -> String {
    let mut sorted: Vec<&PortSummary> = ports.iter().collect();
    sorted.sort_by_key(|port| {
        let address = port.ip.map(|ip| ip.to_string()).unwrap_or_default();
        (port.private_port, address, port.public_port, port.protocol)
    });
    let mut groups: Vec<Group> = Vec::new();
    let (mut closed, mut mappings) = (Vec::new(), Vec::new());
    for port in sorted {
        let number = port.private_port;
        let public = port.ip.zip(port.public_port);
        if let Some((ip, public)) = public
            && public != number
        {
            mappings.push(format!(
                "{}->{number}/{}",
                join(ip, public),
                protocol_name(port.protocol)
            ));
            continue;
        }
        let ip = public.map(|(ip, _)| ip);
        let group = groups
            .iter_mut()
            .find(|group| group.ip == ip && group.protocol == port.protocol);
        match group {
            Some(group) if group.last == number => {}
            Some(group) if group.last.checked_add(1) == Some(number) => group.last = number,
            Some(group) => {
                closed.push(group.to_string());
                (group.first, group.last) = (number, number);
            }
            None => groups.push(Group {
                ip,
                protocol: port.protocol,
                first: number,
                last: number,
            }),
        }
    }
    closed.extend(groups.iter().map(ToString::to_string));
    closed.extend(mappings);
    closed.join(", ")
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Ports that follow each other.
struct Group {
    ip: Option<std::net::IpAddr>,
    protocol: Protocol,
    first: u16,
    last: u16,
}

impl std::fmt::Display for Group {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let range = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        };
        if let Some(ip) = self.ip {
            write!(formatter, "{}->", join(ip, &range))?;
        }
        write!(formatter, "{range}/{}", protocol_name(self.protocol))
    }
}

fn join(ip: std::net::IpAddr, port: impl std::fmt::Display) -> String {
    match ip {
        std::net::IpAddr::V4(ip) => format!("{ip}:{port}"),
        std::net::IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}

/// One `--filter`.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Name(String),
    Id(String),
    Label(String, Option<String>),
    Status(String),
    Ancestor(String),
    Exited(i64),
    Network(String),
    Volume(String),
}

impl Filter {
    fn parse(given: &str) -> Result<Filter, CliError> {
        let invalid = |why: String| CliError::Conflict(format!("invalid filter '{given}': {why}"));
        let (key, value) = given
            .split_once('=')
            .ok_or_else(|| invalid("use name=value".to_owned()))?;
        let value = value.to_owned();
        Ok(match key.trim().to_ascii_lowercase().as_str() {
            "name" => Filter::Name(value),
            "id" => Filter::Id(value),
            "label" => match value.split_once('=') {
                Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
                None => Filter::Label(value, None),
            },
            "status" if STATES.contains(&value.as_str()) => Filter::Status(value),
            "status" => return Err(invalid(format!("use one of {}", STATES.join(", ")))),
            "ancestor" => Filter::Ancestor(value),
            "exited" => Filter::Exited(
                value
                    .parse()
                    .map_err(|_| invalid("an exit code is a number".to_owned()))?,
            ),
            "network" => Filter::Network(value),
            "volume" => Filter::Volume(value),
            _ => {
                return Err(invalid(
                    "use name, id, label, status, ancestor, exited, network or volume".to_owned(),
                ));
            }
        })
    }

    /// Filters of one kind are alternatives, but labels, which all must match.
    fn kind(&self) -> usize {
        match self {
            Filter::Name(_) => 0,
            Filter::Id(_) => 1,
            Filter::Label(..) => 2,
            Filter::Status(_) => 3,
            Filter::Ancestor(_) => 4,
            Filter::Exited(_) => 5,
            Filter::Network(_) => 6,
            Filter::Volume(_) => 7,
        }
    }

    fn matches(&self, container: &ContainerSummary) -> bool {
        match self {
            Filter::Name(pattern) => container.names.iter().any(|name| {
                let name = name.trim_start_matches('/');
                matching::regex(pattern, name) || matching::regex(pattern, &format!("/{name}"))
            }),
            Filter::Id(prefix) => container.id.starts_with(prefix.as_str()),
            Filter::Label(key, value) => match (container.labels.get(key), value) {
                (Some(found), Some(value)) => found == value,
                (found, None) => found.is_some(),
                (None, Some(_)) => false,
            },
            Filter::Status(state) => container.state == *state,
            Filter::Ancestor(image) => is_ancestor(image, container),
            Filter::Exited(code) => {
                container.state == "exited"
                    && exit_code(&container.status).is_some_and(|found| found == *code)
            }
            Filter::Network(name) => container.networks.contains(name),
            Filter::Volume(name) => container.mounts.contains(name),
        }
    }
}

/// Whether a container passes: of every kind of filter at least one, of labels all.
fn keep(filters: &[Filter], container: &ContainerSummary) -> bool {
    filters.iter().all(|filter| {
        if matches!(filter, Filter::Label(..)) {
            return filter.matches(container);
        }
        filters
            .iter()
            .filter(|other| other.kind() == filter.kind())
            .any(|other| other.matches(container))
    })
}

fn is_ancestor(image: &str, container: &ContainerSummary) -> bool {
    let id = container.image_id.trim_start_matches("sha256:");
    let hex = image.trim_start_matches("sha256:");
    let by_id =
        hex.len() >= 4 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.starts_with(hex);
    by_id
        || container.image == image
        || super::pull::with_tag(&container.image) == super::pull::with_tag(image)
}

/// The exit code in a status such as `Exited (137) 2 hours ago`.
fn exit_code(status: &str) -> Option<i64> {
    let (_, rest) = status.split_once('(')?;
    rest.split_once(')')?.0.parse().ok()
}

#[cfg(test)]
mod tests;
