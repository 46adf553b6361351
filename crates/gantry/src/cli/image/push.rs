//! `push`.

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
use crate::progress::Screen;

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
        let screen = Screen::new(rustix::stdio::stdout(), quiet);
        let progress = |event: PushEvent| {
            if let PushEvent::Warning { message } = &event {
                output::note(&format!("WARNING: {message}"));
            }
            screen.show(&event);
        };
        let pushed = engine.push(tag, platform.as_deref(), client_options(), &progress);
        screen.finish();
        let pushed = pushed?;
        if quiet {
            output::line(&pull::with_tag(tag))?;
        } else {
            output::line(&format!(
                "{}: digest: {} size: {}",
                pushed.tag, pushed.digest, pushed.size
            ))?;
            if let Some(index) = &pushed.instead_of {
                output::note(&format!(
                    "Info: not all platforms of {index} are here, and only the one that is was \
                     pushed in its place: {}",
                    pushed.digest
                ));
            }
        }
    }
    Ok(0)
}
