//! Groups that systemd makes: a transient unit for each, over D-Bus
//! (org.freedesktop.systemd1(5)).
//!
//! systemd owns the tree; a scope with `Delegate=yes` is ours below its directory. Limits
//! are told to systemd, which would otherwise undo them when it writes its own, and are
//! then written to the files too, since systemd does not know all of them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use gantry_sys::process::{Fork, exit_now, fork};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::CgroupError;
use super::dbus::{Connection, DbusError, Message, Value};
use super::placement::Unit;

const DESTINATION: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A property of a unit and its value.
pub(super) type Property = (String, Value);

/// A manager of units: the system's, or a user's.
#[derive(Debug)]
pub(super) struct Manager {
    connection: Connection,
}

impl Manager {
    /// Connects to systemd's private socket, which answers without a bus between, or else
    /// by way of the bus.
    pub(super) fn connect(user: bool) -> Result<Manager, CgroupError> {
        let mut first = None;
        for (path, has_bus) in sockets(user) {
            match Connection::open(&path, has_bus) {
                Ok(connection) => return Ok(Manager { connection }),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(CgroupError::Systemd {
            operation: "connect to systemd".to_owned(),
            source: first.unwrap_or_else(|| DbusError::Connect {
                path: "/run/systemd/private".to_owned(),
                source: io::ErrorKind::NotFound.into(),
            }),
        })
    }

    #[cfg(test)]
    pub(super) fn at(path: &Path, has_bus: bool) -> Result<Manager, DbusError> {
        Ok(Manager {
            connection: Connection::open(path, has_bus)?,
        })
    }

    fn call(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>, DbusError> {
        let message = Message::call(DESTINATION, OBJECT, MANAGER, member, body);
        self.connection.call(message)
    }

    /// The group that the manager has all its units in; empty for the root.
    pub(super) fn control_group(&mut self) -> Result<String, CgroupError> {
        let body = vec![Value::string(MANAGER), Value::string("ControlGroup")];
        let interface = "org.freedesktop.DBus.Properties";
        let message = Message::call(DESTINATION, OBJECT, interface, "Get", body);
        let answer = self.connection.call(message);
        let answer = answer.map_err(failed(|| "ask systemd for its control group".to_owned()))?;
        match answer.first() {
            Some(Value::Variant(value)) => match &**value {
                Value::String(path) => Ok(path.trim_end_matches('/').to_owned()),
                _ => Ok(String::new()),
            },
            _ => Ok(String::new()),
        }
    }

    /// Starts a transient unit and waits until it is there.
    pub(super) fn start(
        &mut self,
        unit: &str,
        properties: Vec<Property>,
    ) -> Result<(), CgroupError> {
        let step = || format!("start unit {unit}");
        self.listen().map_err(failed(step))?;
        let body = || {
            vec![
                Value::string(unit),
                Value::string("fail"),
                property_array(properties.clone()),
                Value::Array("(sa(sv))".to_owned(), Vec::new()),
            ]
        };
        let answer = match self.call("StartTransientUnit", body()) {
            // What failed before stays on record under the name until it is reset.
            Err(error) if is_named(&error, "UnitExists") => {
                let _ = self.reset(unit);
                self.call("StartTransientUnit", body())
            }
            answer => answer,
        };
        let job = answer.map_err(failed(step))?;
        let result = self.wait_for_job(&job).map_err(failed(step))?;
        if result == "done" {
            Ok(())
        } else {
            Err(CgroupError::SystemdJob {
                unit: unit.to_owned(),
                result,
            })
        }
    }

    /// Ends a unit; one that is not there is no error.
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), CgroupError> {
        let step = || format!("stop unit {unit}");
        self.listen().map_err(failed(step))?;
        let body = vec![Value::string(unit), Value::string("replace")];
        match self.call("StopUnit", body) {
            Ok(job) => {
                // "canceled" and the like: somebody else stopped it at the same time.
                self.wait_for_job(&job).map_err(failed(step))?;
            }
            Err(error) if is_named(&error, "NoSuchUnit") => {}
            Err(source) => return Err(failed(step)(source)),
        }
        // One whose processes were killed counts as failed and would keep its name.
        self.reset(unit)
    }

    fn reset(&mut self, unit: &str) -> Result<(), CgroupError> {
        match self.call("ResetFailedUnit", vec![Value::string(unit)]) {
            Ok(_) => Ok(()),
            Err(error) if is_named(&error, "NoSuchUnit") => Ok(()),
            Err(source) => Err(failed(|| format!("reset unit {unit}"))(source)),
        }
    }

    /// Sets properties of a running unit, until the next boot.
    pub(super) fn set_properties(
        &mut self,
        unit: &str,
        properties: Vec<Property>,
    ) -> Result<(), CgroupError> {
        let body = vec![
            Value::string(unit),
            Value::Boolean(true),
            property_array(properties),
        ];
        self.call("SetUnitProperties", body)
            .map(|_| ())
            .map_err(failed(|| format!("set properties of unit {unit}")))
    }

    /// Asks for the signals that tell of the ends of jobs. systemd itself sends them
    /// unasked.
    fn listen(&mut self) -> Result<(), DbusError> {
        if !self.connection.has_bus() {
            return Ok(());
        }
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
        let bus = "org.freedesktop.DBus";
        let body = vec![Value::String(rule)];
        self.connection.call(Message::call(
            bus,
            "/org/freedesktop/DBus",
            bus,
            "AddMatch",
            body,
        ))?;
        match self.call("Subscribe", vec![]) {
            Err(error) if !is_named(&error, "AlreadySubscribed") => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the end of the job that a call has answered with, and returns its result.
    fn wait_for_job(&mut self, answer: &[Value]) -> Result<String, DbusError> {
        let Some(Value::Path(job)) = answer.first() else {
            return Err(DbusError::Malformed {
                reason: "the answer names no job",
            });
        };
        self.connection.wait_for_signal(|message| {
            if message.member.as_deref() != Some("JobRemoved") {
                return None;
            }
            match &message.body[..] {
                [_, Value::Path(path), _, Value::String(result)] if path == job => {
                    Some(result.clone())
                }
                _ => None,
            }
        })
    }
}

fn is_named(error: &DbusError, short: &str) -> bool {
    matches!(error, DbusError::Refused { name, .. }
        if name.strip_prefix("org.freedesktop.systemd1.") == Some(short))
}

fn failed(operation: impl Fn() -> String) -> impl Fn(DbusError) -> CgroupError {
    move |source| CgroupError::Systemd {
        operation: operation(),
        source,
    }
}

fn property_array(properties: Vec<Property>) -> Value {
    let entries = properties.into_iter().map(|(name, value)| {
        Value::Structure(vec![Value::String(name), Value::Variant(Box::new(value))])
    });
    Value::Array("(sv)".to_owned(), entries.collect())
}

/// Where a manager may be reached, and whether a bus is between.
fn sockets(user: bool) -> Vec<(PathBuf, bool)> {
    if !user {
        return vec![
            ("/run/systemd/private".into(), false),
            ("/run/dbus/system_bus_socket".into(), true),
        ];
    }
    let directory = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => PathBuf::from(directory),
        // Where it is by pam_systemd(8), for a caller without a session of its own.
        None => format!("/run/user/{}", rustix::process::geteuid().as_raw()).into(),
    };
    let mut sockets = vec![
        (directory.join("systemd/private"), false),
        (directory.join("bus"), true),
    ];
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    if let Some(path) = address.strip_prefix("unix:path=") {
        let path = path.split([',', ';']).next().unwrap_or(path);
        sockets.push((path.into(), true));
    }
    sockets
}

/// The properties by which a container's unit is made.
pub(super) fn unit_properties(
    unit: &Unit,
    is_v2: bool,
    processes: &[Pid],
) -> Result<Vec<Property>, CgroupError> {
    let property = |name: &str, value: Value| (name.to_owned(), value);
    let yes = |name: &str| property(name, Value::Boolean(true));
    let mut properties = vec![property(
        "Description",
        Value::String(format!("container {}", unit.name)),
    )];
    if unit.is_slice() {
        let wants = Value::Array("s".to_owned(), vec![Value::string(&unit.slice)]);
        properties.push(property("Wants", wants));
    } else {
        properties.push(property("Slice", Value::string(&unit.slice)));
        properties.push(yes("Delegate"));
        let processes = processes
            .iter()
            .map(|pid| Value::Uint32(pid.as_raw_nonzero().get().cast_unsigned()));
        let processes = Value::Array("u".to_owned(), processes.collect());
        properties.push(property("PIDs", processes));
    }
    properties.push(yes("MemoryAccounting"));
    properties.push(yes("CPUAccounting"));
    properties.push(yes(if is_v2 {
        "IOAccounting"
    } else {
        "BlockIOAccounting"
    }));
    properties.push(yes("TasksAccounting"));
    // Containers must outlive what the host stops early on its way down.
    properties.push(property("DefaultDependencies", Value::Boolean(false)));
    for (name, text) in &unit.properties {
        let value = parse_property(name, text)?;
        // What the annotation says of the same property comes last and counts.
        properties.retain(|(known, _)| known != &value.0);
        properties.push(value);
    }
    Ok(properties)
}

/// Reads a property from an annotation: the value is in GVariant's text format, of which
/// strings, booleans, numbers with or without a type before them, and lists of strings are
/// known. A name that ends in `Sec` is one in seconds, as unit files have it, whose
/// property on D-Bus is named `…USec`.
pub(super) fn parse_property(name: &str, text: &str) -> Result<Property, CgroupError> {
    let invalid = || CgroupError::InvalidUnit {
        value: format!("org.systemd.property.{name}: {text}"),
        reason: "it is not a name of a property with a value in GVariant's text format",
    };
    let is_name = name.len() > 2 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name {
        return Err(invalid());
    }
    let value = parse_variant(text.trim()).ok_or_else(invalid)?;
    let is_seconds = name.ends_with("Sec")
        && !name.ends_with("USec")
        && matches!(name.as_bytes().get(name.len() - 4), Some(byte) if byte.is_ascii_lowercase());
    if !is_seconds {
        return Ok((name.to_owned(), value));
    }
    let microseconds = match value {
        Value::Byte(seconds) => u64::from(seconds) * 1_000_000,
        Value::Uint16(seconds) => u64::from(seconds) * 1_000_000,
        Value::Uint32(seconds) => u64::from(seconds) * 1_000_000,
        Value::Uint64(seconds) => seconds.checked_mul(1_000_000).ok_or_else(invalid)?,
        Value::Int32(seconds) if seconds >= 0 => u64::from(seconds.unsigned_abs()) * 1_000_000,
        Value::Int64(seconds) if seconds >= 0 => seconds
            .unsigned_abs()
            .checked_mul(1_000_000)
            .ok_or_else(invalid)?,
        Value::Double(seconds) if (0.0..1e12).contains(&seconds) => (seconds * 1e6) as u64,
        _ => return Err(invalid()),
    };
    let name = format!("{}USec", name.strip_suffix("Sec").unwrap_or(name));
    Ok((name, Value::Uint64(microseconds)))
}

fn parse_variant(text: &str) -> Option<Value> {
    if let Some(text) = parse_quoted(text) {
        return Some(Value::String(text));
    }
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        let inner = inner.trim();
        let values: Option<Vec<Value>> = if inner.is_empty() {
            Some(Vec::new())
        } else {
            split_list(inner)
                .into_iter()
                .map(|part| parse_quoted(part.trim()).map(Value::String))
                .collect()
        };
        return Some(Value::Array("s".to_owned(), values?));
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("", text));
    let number = number.trim();
    match kind {
        "" => match number {
            "true" => Some(Value::Boolean(true)),
            "false" => Some(Value::Boolean(false)),
            _ if number.contains('.') => number.parse().ok().map(Value::Double),
            _ => number.parse().ok().map(Value::Int32),
        },
        "boolean" => number.parse().ok().map(Value::Boolean),
        "byte" => number.parse().ok().map(Value::Byte),
        "int16" => number.parse().ok().map(Value::Int16),
        "uint16" => number.parse().ok().map(Value::Uint16),
        "int32" => number.parse().ok().map(Value::Int32),
        "uint32" => number.parse().ok().map(Value::Uint32),
        "int64" => number.parse().ok().map(Value::Int64),
        "uint64" => number.parse().ok().map(Value::Uint64),
        "double" => number.parse().ok().map(Value::Double),
        "objectpath" => parse_quoted(number).map(Value::Path),
        "signature" => parse_quoted(number).map(Value::Signature),
        _ => None,
    }
}

/// A string in single or double quotes, without them.
fn parse_quoted(text: &str) -> Option<String> {
    let quote = text
        .chars()
        .next()
        .filter(|first| matches!(first, '\'' | '"'))?;
    let mut plain = String::new();
    let mut letters = text[1..].chars();
    loop {
        match letters.next()? {
            '\\' => plain.push(match letters.next()? {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            // A byte of zero would end the string on the wire.
            '\0' => return None,
            letter if letter == quote => break,
            letter => plain.push(letter),
        }
    }
    letters.next().is_none().then_some(plain)
}

/// The parts between commas that are not inside quotes.
fn split_list(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quote, mut is_escaped) = (0, None, false);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            _ if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, ',') => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A process that holds a scope open until the container's first process is in it:
/// systemd takes no scope without a process, and ends one that is empty.
#[derive(Debug)]
pub(super) struct Placeholder {
    pid: Pid,
    pidfd: OwnedFd,
    /// When our side closes, however we end, the process does too.
    _leash: OwnedFd,
}

impl Placeholder {
    pub(super) fn start() -> io::Result<Placeholder> {
        let (inner, outer) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        match fork()? {
            Fork::Child => {
                drop(outer);
                // Whoever waits for the end of a stream of the caller's must not wait for
                // this process.
                let keep = std::os::fd::AsRawFd::as_raw_fd(&inner);
                gantry_sys::process::close_all_except(0, keep);
                let mut byte = [0_u8; 1];
                loop {
                    match rustix::io::read(&inner, &mut byte) {
                        Err(rustix::io::Errno::INTR) => {}
                        _ => exit_now(0),
                    }
                }
            }
            Fork::Parent(child) => Ok(Placeholder {
                pid: Pid::from_raw(child.pid).ok_or(rustix::io::Errno::SRCH)?,
                pidfd: child.pidfd,
                _leash: outer,
            }),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}
