//! `push`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use clap::{ArgMatches, Command};

use super::super::flags::value;
use super::super::flags::{is_on, names, owned, switch, with_help};
use super::super::{Context, options, pull};
use crate::api::image::credentials::{CredentialSource, DockerFiles};
use crate::api::image::push::PushEvent;
use crate::api::image::reference::Reference;
use crate::api::image::registry::ClientOptions;
use crate::error::Outcome;
use crate::output;

/// Arguments of `push`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("all-tags", "Push all tags of an image to the repository").short('a'),
            switch("disable-content-trust", "").hide(true),
            value(
                "platform",
                "string",
                "Push a platform-specific manifest as a single-platform image to the registry",
            ),
            switch("quiet", "Suppress verbose output").short('q'),
        ])
        .arg(names("names", 1).num_args(1))
}

/// A client's options with the credentials of the docker client.
pub fn client_options() -> ClientOptions {
    ClientOptions {
        credentials: DockerFiles::of_environment(|name| std::env::var_os(name))
            .map_or(CredentialSource::Nobody, CredentialSource::Docker),
        ..ClientOptions::default()
    }
}

/// `push`: uploads an image, or all tags of a repository.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn execute(context: &Context, matches: &ArgMatches) -> Outcome {
    let name = owned(matches, "names").concat();
    let platform = options::platform(matches)?;
    let quiet = is_on(matches, "quiet")?;
    let all = is_on(matches, "all-tags")?;
    let engine = context.engine()?;
    let named = Reference::parse(&name).ok();
    if all
        && named
            .as_ref()
            .is_some_and(|name| name.tag().is_some() || name.digest().is_some())
    {
        return Err(crate::error::CliError::Failed(
            "tag can't be used with --all-tags/-a".to_owned(),
        ));
    }
    if !all && !quiet && named.as_ref().is_some_and(|name| name.tag().is_none()) {
        output::line("Using default tag: latest")?;
    }
    let tags = match (engine.names_to_push(&name, all), named) {
        (Ok(tags), named) => {
            if let (false, Some(named)) = (quiet, named) {
                let repository = named.name();
                output::line(&format!("The push refers to repository [{repository}]"))?;
            }
            tags
        }
        (Err(error), Some(named)) => {
            if !quiet {
                let repository = named.name();
                output::line(&format!("The push refers to repository [{repository}]"))?;
            }
            return Err(error.into());
        }
        (Err(error), None) => return Err(error.into()),
    };
    for tag in &tags {
        let said = Mutex::new(BTreeMap::new());
        let progress = |event: PushEvent| {
            let line = line_of(&event);
            if let PushEvent::Warning { message } = &event {
                output::note(&format!("WARNING: {message}"));
            }
            let (false, Some((id, text))) = (quiet, line) else {
                return;
            };
            // One line for each step of a layer, whoever reports it.
            if let Ok(mut said) = said.lock()
                && said.insert(id.clone(), text.clone()).as_deref() != Some(&text)
            {
                let _ = output::line(&format!("{id}: {text}"));
            }
        };
        let pushed = engine.push(tag, platform.as_deref(), client_options(), &progress)?;
        if quiet {
            output::line(&pull::with_tag(tag))?;
        } else {
            output::line(&format!(
                "{}: digest: {} size: {}",
                pushed.tag, pushed.digest, pushed.size
            ))?;
        }
    }
    Ok(0)
}

/// What Docker says of a layer.
fn line_of(event: &PushEvent) -> Option<(String, String)> {
    let (id, text) = match event {
        PushEvent::Preparing { id, .. } => (id, "Preparing".to_owned()),
        PushEvent::Mounted { id, from } => (id, format!("Mounted from {from}")),
        PushEvent::Exists { id } => (id, "Layer already exists".to_owned()),
        PushEvent::Pushed { id } => (id, "Pushed".to_owned()),
        _ => return None,
    };
    Some((id.short(), text))
}
