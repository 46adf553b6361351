//! `inspect`.

use clap::{ArgMatches, Command};
use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::flags::{is_on, names, owned, switch, text, value, with_help};
use super::{Context, complain};
use crate::api::{Engine, Error};
use crate::error::{CliError, Outcome};
use crate::template::{render_json, unescape};
use crate::{output, terminal};

/// Kinds of objects that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    Container,
    Image,
    Network,
}

/// Arguments of `inspect`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value("format", "string", "Format output: 'json' or a Go template").short('f'),
            value(
                "type",
                "string",
                "Only inspect objects of the given type: container, image or network",
            ),
        ])
        .arg(names("names", 1))
}

/// Arguments of `image inspect`.
pub fn image_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value("format", "string", "Format output: 'json' or a Go template").short('f'),
            value(
                "platform",
                "string",
                "Inspect a specific platform of the multi-platform image",
            ),
        ])
        .arg(names("names", 1))
}

/// Arguments of `network inspect`.
pub fn network_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value("format", "string", "Format output: 'json' or a Go template").short('f'),
            switch("verbose", "Verbose output for diagnostics").short('v'),
        ])
        .arg(names("names", 1))
}

/// `inspect`: containers first, then images, then networks.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn any(context: &Context, matches: &ArgMatches) -> Outcome {
    let kind = match text(matches, "type").unwrap_or_default() {
        "" => Kind::Any,
        "container" => Kind::Container,
        "image" => Kind::Image,
        "network" => Kind::Network,
        other => {
            return Err(CliError::Failed(format!(
                "unknown type '{other}': use container, image or network"
            )));
        }
    };
    execute(context, matches, kind, None)
}

/// `container inspect`.
///
/// # Errors
/// As [`any`].
pub fn containers(context: &Context, matches: &ArgMatches) -> Outcome {
    execute(context, matches, Kind::Container, None)
}

/// `image inspect`.
///
/// # Errors
/// As [`any`].
pub fn images(context: &Context, matches: &ArgMatches) -> Outcome {
    let platform = super::options::platform(matches)?;
    execute(context, matches, Kind::Image, platform.as_deref())
}

/// `network inspect`.
///
/// # Errors
/// As [`any`].
pub fn networks(context: &Context, matches: &ArgMatches) -> Outcome {
    // In Docker it adds what a swarm knows.
    is_on(matches, "verbose")?;
    execute(context, matches, Kind::Network, None)
}

fn execute(context: &Context, matches: &ArgMatches, kind: Kind, platform: Option<&str>) -> Outcome {
    let engine = context.engine()?;
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for name in owned(matches, "names") {
        match look_up(engine, &name, kind, platform) {
            Ok(object) => found.push(object),
            Err(error) => errors.push(error),
        }
    }
    let on_terminal = output::to_terminal();
    let format = text(matches, "format").unwrap_or_default().trim();
    match format {
        "" => output::text(&array(&found, on_terminal))?,
        "json" => output::line(&safe(
            serde_json::to_string(&found).unwrap_or_default(),
            on_terminal,
        ))?,
        template => {
            let template = unescape(template);
            for object in &found {
                match render_json(&template, object, on_terminal) {
                    Ok(line) => output::line(&line)?,
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    let code = u8::from(!errors.is_empty());
    for error in errors {
        complain(context, error);
    }
    Ok(code)
}

fn look_up(
    engine: &Engine,
    name: &str,
    kind: Kind,
    platform: Option<&str>,
) -> Result<Value, CliError> {
    match kind {
        Kind::Container => Ok(engine.inspect(name)?),
        Kind::Image => Ok(engine.inspect_image_for(name, platform)?),
        Kind::Network => Ok(engine.inspect_network(name)?),
        Kind::Any => {
            for look in [
                Engine::inspect,
                Engine::inspect_image,
                Engine::inspect_network,
            ] {
                match look(engine, name) {
                    Err(error) if is_absence(&error) => {}
                    outcome => return Ok(outcome?),
                }
            }
            Err(CliError::Failed(format!("no such object: {name}")))
        }
    }
}

/// Whether an error only says that there is no such object.
fn is_absence(error: &Error) -> bool {
    matches!(
        error,
        Error::NoSuchContainer { .. }
            | Error::NoSuchImage { .. }
            | Error::NoSuchObject { .. }
            | Error::NoSuchNetwork { .. }
    )
}

/// The objects as a JSON array, indented by four spaces.
fn array(objects: &[Value], on_terminal: bool) -> String {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    // Writing JSON values into memory cannot fail.
    let _ = objects.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    let mut text = safe(String::from_utf8(bytes).unwrap_or_default(), on_terminal);
    text.push('\n');
    text
}

fn safe(json: String, on_terminal: bool) -> String {
    if on_terminal {
        terminal::escape_json(&json).into_owned()
    } else {
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arrays() {
        assert_eq!(array(&[], false), "[]\n");
        assert_eq!(
            array(
                &[json!({ "Id": "a", "Args": [], "State": { "Pid": 1 } })],
                false
            ),
            "[\n    {\n        \"Id\": \"a\",\n        \"Args\": [],\n        \"State\": {\n            \"Pid\": 1\n        }\n    }\n]\n"
        );
    }

    #[test]
    fn a_terminal_gets_no_control_characters_cve_2021_25743() {
        let shown = array(&[json!({ "Name": "\u{9b}31m\u{1b}" })], true);
        assert!(shown.contains("\\u009b31m\\u001b"));
    }
}
