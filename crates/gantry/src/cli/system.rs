//! `version`, `info`, `system reset` and what only Gantry itself calls.

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::Context;
use super::flags::{is_on, names, owned, switch, text, value, with_help};
use crate::error::{CliError, Outcome};
use crate::output;
use crate::template::{render_json, unescape};

/// Release of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the line of `--version`.
///
/// # Errors
/// Those of standard output.
pub fn print_version(program: &str) -> Result<(), CliError> {
    let name = if program == "docker" {
        "Docker"
    } else {
        "Gantry"
    };
    output::line(&format!("{name} version {VERSION}, build gantry"))
}

/// Arguments of `version`.
pub fn version_arguments(command: Command) -> Command {
    with_help(command)
        .arg(value("format", "string", "Format output: 'json' or a Go template").short('f'))
}

/// `version`: says what this is. There is no server apart from the client.
///
/// # Errors
/// Those of the template.
pub fn version(_context: &Context, matches: &ArgMatches) -> Outcome {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let part = json!({ "Version": VERSION, "Os": "linux", "Arch": arch });
    let whole = json!({ "Client": part, "Server": part });
    match text(matches, "format").unwrap_or_default().trim() {
        "" => output::text(&format!(
            "Gantry:\n Version:    {VERSION}\n OS/Arch:    linux/{arch}\n"
        ))?,
        "json" => output::line(&whole.to_string())?,
        template => output::line(&render_json(&unescape(template), &whole, false)?)?,
    }
    Ok(0)
}

/// Arguments of `info`.
pub fn info_arguments(command: Command) -> Command {
    with_help(command)
        .arg(value("format", "string", "Format output: 'json' or a Go template").short('f'))
}

/// `info`: what this installation has, and the host that it is on.
///
/// # Errors
/// The engine's, and those of the template.
pub fn info(context: &Context, matches: &ArgMatches) -> Outcome {
    let mut whole = context.engine()?.info()?;
    if let Some(members) = whole.as_object_mut() {
        members.insert("ClientInfo".into(), json!({ "Version": VERSION }));
    }
    match text(matches, "format").unwrap_or_default().trim() {
        "" => output::text(&info_text(&whole))?,
        "json" => output::line(&whole.to_string())?,
        template => output::line(&render_json(&unescape(template), &whole, false)?)?,
    }
    Ok(0)
}

/// The information as Docker lays it out.
fn info_text(whole: &Value) -> String {
    let shown = |key: &str| match &whole[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let runtimes = whole["Runtimes"].as_object();
    let runtimes: Vec<&str> = runtimes
        .into_iter()
        .flat_map(|runtimes| runtimes.keys().map(String::as_str))
        .collect();
    let options = whole["SecurityOptions"].as_array();
    let options = options.into_iter().flatten().filter_map(Value::as_str);
    let option = |text: &str| {
        let mut lines = String::new();
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("name", name)) => lines.push_str(&format!("  {name}\n")),
                Some((key, value)) => lines.push_str(&format!("   {key}: {value}\n")),
                None => {}
            }
        }
        lines
    };
    let options: String = options.map(option).collect();
    let memory = whole["MemTotal"].as_u64().unwrap_or_default() as f64 / f64::from(1 << 30);
    format!(
        "Client:\n Version:    {VERSION}\n\nServer:\n Containers: {}\n  Running: {}\n  Paused: {}\n  Stopped: {}\n \
         Images: {}\n Server Version: {}\n Storage Driver: {}\n Logging Driver: {}\n Cgroup Driver: {}\n \
         Cgroup Version: {}\n Runtimes: {}\n Default Runtime: {}\n Security Options:\n{options} \
         Kernel Version: {}\n Operating System: {}\n OSType: {}\n Architecture: {}\n CPUs: {}\n \
         Total Memory: {memory:.4}GiB\n Name: {}\n ID: {}\n Docker Root Dir: {}\n",
        shown("Containers"),
        shown("ContainersRunning"),
        shown("ContainersPaused"),
        shown("ContainersStopped"),
        shown("Images"),
        shown("ServerVersion"),
        shown("Driver"),
        shown("LoggingDriver"),
        shown("CgroupDriver"),
        shown("CgroupVersion"),
        runtimes.join(" "),
        shown("DefaultRuntime"),
        shown("KernelVersion"),
        shown("OperatingSystem"),
        shown("OSType"),
        shown("Architecture"),
        shown("NCPU"),
        shown("Name"),
        shown("ID"),
        shown("DockerRootDir"),
    )
}

/// Arguments of `system reset`.
pub fn reset_arguments(command: Command) -> Command {
    with_help(command).arg(switch("force", "Do it without asking").short('f'))
}

/// `system reset`: removes everything of this installation from the host.
///
/// # Errors
/// The engine's, and one without `--force`.
pub fn reset(context: &Context, matches: &ArgMatches) -> Outcome {
    if !is_on(matches, "force")? {
        return Err(CliError::Failed(
            "this removes every container, network and rule of this installation: add --force if that is meant".to_owned(),
        ));
    }
    context.engine()?.reset()?;
    Ok(0)
}

/// Arguments of `__sync-layers`.
pub fn sync_layers_arguments(command: Command) -> Command {
    with_help(command)
}

/// `__sync-layers`: what a command leaves running that has unpacked layers.
///
/// # Errors
/// The engine's.
pub fn sync_layers(context: &Context, _: &ArgMatches) -> Outcome {
    crate::api::sync_layers(&context.roots())?;
    Ok(0)
}

/// Arguments of `__settle`.
pub fn settle_arguments(command: Command) -> Command {
    with_help(command).arg(names("names", 1).num_args(1))
}

/// `__settle`: what a supervisor runs at its container's end.
///
/// # Errors
/// The engine's.
pub fn settle(context: &Context, matches: &ArgMatches) -> Outcome {
    context
        .engine()?
        .settle(&owned(matches, "names").concat())?;
    Ok(0)
}
