//! Changes to a container configuration in the words of a Dockerfile (`--change`), for `import`
//! and `commit`.

use serde_json::Value;

use super::empty_object;
use crate::model::RuntimeConfig;

/// Port numbers that one range may cover.
const PORTS: u32 = 65_536;

/// Why a change is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not an instruction that changes a configuration.
    #[error(
        "{instruction} is not a change that can be made: use CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, \
         ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR"
    )]
    Unknown {
        /// The first word.
        instruction: String,
    },
    /// The arguments of a known instruction are wrong.
    #[error("invalid change {change:?}: {reason}")]
    Arguments {
        /// The change as given, shortened.
        change: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Changes that were checked and can no longer fail.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImportChanges(Vec<Change>);

#[derive(Debug, Clone, PartialEq)]
enum Change {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(Value),
    Label(Vec<(String, String)>),
    OnBuild(String),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    WorkingDirectory(String),
}

impl ImportChanges {
    /// Parses one instruction per string.
    pub fn parse<S: AsRef<str>>(changes: &[S]) -> Result<Self, ChangeError> {
        changes
            .iter()
            .map(|change| parse(change.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Makes the changes, in order.
    pub fn apply(&self, config: &mut RuntimeConfig) {
        for change in &self.0 {
            match change {
                Change::Cmd(words) => config.cmd = Some(words.clone()),
                Change::Entrypoint(words) => {
                    config.entrypoint = Some(words.clone());
                }
                Change::Env(pairs) => {
                    for (name, value) in pairs {
                        let prefix = format!("{name}=");
                        let entry = format!("{prefix}{value}");
                        match config
                            .env
                            .iter_mut()
                            .find(|known| known.starts_with(&prefix))
                        {
                            Some(known) => *known = entry,
                            None => config.env.push(entry),
                        }
                    }
                }
                Change::Expose(ports) => {
                    config
                        .exposed_ports
                        .extend(ports.iter().map(|port| (port.clone(), empty_object())));
                }
                Change::Healthcheck(check) => config.healthcheck = Some(check.clone()),
                Change::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
                Change::OnBuild(instruction) => config.on_build.push(instruction.clone()),
                Change::StopSignal(signal) => config.stop_signal = Some(signal.clone()),
                Change::User(user) => config.user.clone_from(user),
                Change::Volume(paths) => {
                    config
                        .volumes
                        .extend(paths.iter().map(|path| (path.clone(), empty_object())));
                }
                Change::WorkingDirectory(path) if path.starts_with('/') => {
                    config.working_dir = clean(path)
                }
                Change::WorkingDirectory(path) => {
                    config.working_dir = clean(&format!("{}/{path}", config.working_dir));
                }
            }
        }
    }
}

fn parse(change: &str) -> Result<Change, ChangeError> {
    let text = change.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let wrong = |reason| ChangeError::Arguments {
        change: change.chars().take(160).collect(),
        reason,
    };
    let instruction = word.to_ascii_uppercase();
    let known = matches!(
        instruction.as_str(),
        "CMD"
            | "ENTRYPOINT"
            | "ENV"
            | "EXPOSE"
            | "HEALTHCHECK"
            | "LABEL"
            | "ONBUILD"
            | "STOPSIGNAL"
            | "USER"
            | "VOLUME"
            | "WORKDIR"
    );
    if !known {
        return Err(ChangeError::Unknown {
            instruction: word.chars().take(32).collect(),
        });
    }
    if rest.is_empty() && !matches!(instruction.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(wrong("it needs an argument"));
    }
    let one_word = || {
        let words = split_words(rest).ok_or_else(|| wrong(UNBALANCED))?;
        match <[String; 1]>::try_from(words) {
            Ok([word]) if !word.is_empty() => Ok(word),
            _ => Err(wrong("it takes one argument")),
        }
    };
    Ok(match instruction.as_str() {
        "CMD" => Change::Cmd(command(rest)),
        "ENTRYPOINT" => Change::Entrypoint(command(rest)),
        "ENV" => Change::Env(pairs(rest).map_err(wrong)?),
        "LABEL" => Change::Label(pairs(rest).map_err(wrong)?),
        "EXPOSE" => Change::Expose(ports(rest).map_err(wrong)?),
        "HEALTHCHECK" => Change::Healthcheck(health_check(rest).map_err(wrong)?),
        "ONBUILD" => {
            let trigger = rest
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(wrong("ONBUILD cannot trigger ONBUILD, FROM or MAINTAINER"));
            }
            Change::OnBuild(rest.to_owned())
        }
        "STOPSIGNAL" => Change::StopSignal(one_word()?),
        "USER" => Change::User(one_word()?),
        "VOLUME" => {
            let paths = match json_words(rest) {
                Some(words) => words,
                None => split_words(rest).ok_or_else(|| wrong(UNBALANCED))?,
            };
            if paths.is_empty() || paths.iter().any(|path| path.trim().is_empty()) {
                return Err(wrong("a volume needs a path"));
            }
            Change::Volume(paths)
        }
        _ => Change::WorkingDirectory(one_word()?),
    })
}

const UNBALANCED: &str = "a quotation mark is not closed";

/// JSON form, or shell form.
fn command(text: &str) -> Vec<String> {
    match json_words(text) {
        Some(words) => words,
        None if text.is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
    }
}

/// An array of strings. Anything else, also malformed JSON, is the shell form, as in a Dockerfile.
fn json_words(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') {
        serde_json::from_str(text).ok()
    } else {
        None
    }
}

/// Splits like a shell: blanks, both kinds of quotation marks, backslashes. `None` if a quotation
/// mark is left open.
fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => {
                // Before other characters a backslash in double quotes is itself.
                let next = characters.next();
                let target = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, Some('"' | '\\' | '$')) {
                    target.push('\\');
                }
                target.extend(next);
            }
            (Some(_), other) => word.get_or_insert_default().push(other),
            (None, mark @ ('"' | '\'')) => {
                quote = Some(mark);
                word.get_or_insert_default();
            }
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    if quote.is_some() {
        return None;
    }
    words.extend(word);
    Some(words)
}

/// `NAME=value NAME="other value"`, or the older `NAME all the rest`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or("a name needs a value, as in NAME=value")?;
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    let words = split_words(text).ok_or(UNBALANCED)?;
    let pair = |word: String| match word.split_once('=') {
        Some(("", _)) => Err("a name cannot be empty"),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("every word must be NAME=value"),
    };
    words.into_iter().map(pair).collect()
}

/// `80`, `53/udp`, `8000-8010/tcp`, each normalised to `PORT/PROTOCOL`.
fn ports(text: &str) -> Result<Vec<String>, &'static str> {
    const WRONG: &str =
        "a port is a number or a range with an optional protocol, as in 80 or 8000-8010/udp";
    let mut ports = Vec::new();
    for word in split_words(text).ok_or(UNBALANCED)? {
        let (range, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err("the protocol of a port is tcp, udp or sctp");
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or(WRONG)
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last || ports.len() as u32 + u32::from(last - first) >= 2 * PORTS {
            return Err(WRONG);
        }
        ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    Ok(ports)
}

/// `NONE`, or `[--interval=30s ...] CMD command`.
fn health_check(text: &str) -> Result<Value, &'static str> {
    let mut check = serde_json::Map::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(char::is_whitespace)
            .unwrap_or((option, ""));
        rest = after.trim_start();
        let (name, value) = option
            .split_once('=')
            .ok_or("an option of HEALTHCHECK is --name=value")?;
        let (field, value) = match name {
            "retries" => ("Retries", value.parse::<u32>().map(u64::from).ok()),
            "interval" => ("Interval", nanoseconds(value)),
            "timeout" => ("Timeout", nanoseconds(value)),
            "start-period" => ("StartPeriod", nanoseconds(value)),
            "start-interval" => ("StartInterval", nanoseconds(value)),
            _ => {
                return Err(
                    "options of HEALTHCHECK are interval, timeout, start-period, start-interval and retries",
                );
            }
        };
        check.insert(
            field.to_owned(),
            value
                .ok_or("the value of an option of HEALTHCHECK is wrong")?
                .into(),
        );
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match (word.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", command) if !command.is_empty() => match json_words(command) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => return Err("HEALTHCHECK is followed by NONE or by CMD and a command"),
    };
    check.insert("Test".to_owned(), test.into());
    Ok(Value::Object(check))
}

/// A duration as Go writes it (`1m30s`, `500ms`, `1.5h`) in nanoseconds.
fn nanoseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (scale, after) = [
            ("ns", 1.0),
            ("us", 1e3),
            ("ms", 1e6),
            ("s", 1e9),
            ("m", 60e9),
            ("h", 3600e9),
        ]
        .into_iter()
        .find_map(|(unit, scale)| Some((scale, after.strip_prefix(unit)?)))?;
        total += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    (!text.is_empty() && total < 9.2e18).then_some(total as u64)
}

/// Removes empty, `.` and `..` components of an absolute path.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
