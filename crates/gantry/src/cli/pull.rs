//! `pull`, and the pulling that `run` does.

use clap::{ArgMatches, Command};

use super::flags::{is_on, names, optional_switch, owned, switch, value, with_help};
use super::{Context, options};
use crate::api::image::credentials::{CredentialSource, DockerFiles};
use crate::api::image::pull::PullEvent;
use crate::api::{Engine, PullRequest};
use crate::error::{CliError, Outcome};
use crate::output;
use crate::parse::number;
use crate::progress::Screen;

/// Variable that says whether the compressed layers of pulled images stay on the disk.
const KEEP_BLOBS: &str = "GANTRY_KEEP_BLOBS";

/// Where a pull shows what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Nowhere.
    Quiet,
    /// On standard output.
    Stdout,
    /// On standard error: standard output belongs to the container.
    Stderr,
}

/// Arguments of `pull`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("all-tags", "Download all tagged images in the repository").short('a'),
            switch(
                "no-blobs",
                "Free the compressed layers once they are unpacked: a push fetches them again",
            ),
            value("platform", "string", "Set platform: os[/arch[/variant]]"),
            switch("quiet", "Suppress verbose output").short('q'),
            switch("disable-content-trust", "").hide(true),
        ])
        .arg(names("names", 1).num_args(1))
}

/// `pull`: downloads an image.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn execute(context: &Context, matches: &ArgMatches) -> Outcome {
    let name = owned(matches, "names").concat();
    let platform = options::platform(matches)?;
    let quiet = is_on(matches, "quiet")?;
    let engine = context.engine()?;
    let verbosity = if quiet {
        Verbosity::Quiet
    } else {
        Verbosity::Stdout
    };
    let drop_blobs = match optional_switch(matches, "no-blobs")? {
        Some(given) => given,
        None => drops_blobs()?,
    };
    if !is_on(matches, "all-tags")? {
        let canonical = fetch_as(engine, &name, platform.as_deref(), verbosity, drop_blobs)?;
        output::line(&canonical)?;
        return Ok(0);
    }
    if !split(&name).1.is_empty() {
        return Err(CliError::Failed(
            "tag can't be used with --all-tags/-a".to_owned(),
        ));
    }
    for tag in engine.remote_tags(&name, credentials())? {
        fetch_as(engine, &tag, platform.as_deref(), verbosity, drop_blobs)?;
    }
    output::line(canonical(&name).trim_end_matches(":latest"))?;
    Ok(0)
}

/// The credentials that the docker client keeps.
fn credentials() -> CredentialSource {
    DockerFiles::of_environment(|name| std::env::var_os(name))
        .map_or(CredentialSource::Nobody, CredentialSource::Docker)
}

/// Pulls an image, shows how it goes, and returns its canonical name.
///
/// # Errors
/// The engine's.
pub fn fetch(
    engine: &Engine,
    image: &str,
    platform: Option<&str>,
    verbosity: Verbosity,
) -> Result<String, CliError> {
    fetch_as(engine, image, platform, verbosity, drops_blobs()?)
}

/// Whether pulls free the compressed layers unless they are told otherwise.
fn drops_blobs() -> Result<bool, CliError> {
    let setting = std::env::var_os(KEEP_BLOBS).unwrap_or_default();
    keeps_blobs(&setting.to_string_lossy()).map(|keeps| !keeps)
}

/// The meaning of [`KEEP_BLOBS`].
fn keeps_blobs(setting: &str) -> Result<bool, CliError> {
    match setting.trim() {
        "" => Ok(true),
        word => number::boolean(word).map_err(|_| {
            CliError::Failed(format!(
                "invalid value '{word}' of {KEEP_BLOBS}: use true or false"
            ))
        }),
    }
}

/// [`fetch`] that may free the compressed layers.
fn fetch_as(
    engine: &Engine,
    image: &str,
    platform: Option<&str>,
    verbosity: Verbosity,
    drop_blobs: bool,
) -> Result<String, CliError> {
    let fd = match verbosity {
        Verbosity::Stdout => rustix::stdio::stdout(),
        Verbosity::Quiet | Verbosity::Stderr => rustix::stdio::stderr(),
    };
    let screen = Screen::new(fd, verbosity == Verbosity::Quiet);
    let (name, tag) = split(image);
    if tag.is_empty() && verbosity == Verbosity::Stdout {
        screen.say("Using default tag: latest");
    }
    let heading = format!(
        "{}: Pulling from {}",
        if tag.is_empty() { "latest" } else { tag },
        path(name)
    );
    let request = PullRequest {
        name: image,
        platform,
        credentials: credentials(),
        insecure: false,
        drop_blobs,
    };
    let outcome = engine.pull_image(request, &|event| {
        // Before any bar, which it would break: the registry's first answer decides it.
        if let PullEvent::Warning { message } = &event {
            output::note(&format!("WARNING: {message}"));
        }
        // Said once it is true: a name that nobody knows is not being pulled.
        if matches!(event, PullEvent::Resolved { .. }) {
            screen.say(&heading);
        }
        screen.show(&event);
    });
    screen.finish();
    let outcome = outcome?;
    let status = if outcome.up_to_date {
        "Image is up to date for"
    } else {
        "Downloaded newer image for"
    };
    screen.say(&format!(
        "Digest: {}\nStatus: {status} {}",
        outcome.digest, outcome.name
    ));
    Ok(canonical(image))
}

/// Name and tag or digest of an image as given; the latter may be empty.
fn split(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    match image.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, ""),
    }
}

/// Whether an image's name begins with a registry, and the rest of it.
fn registry(name: &str) -> Option<(&str, &str)> {
    let (first, rest) = name.split_once('/')?;
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    is_registry.then_some((first, rest))
}

/// The repository's path at its registry: `library/alpine`.
fn path(name: &str) -> String {
    let (host, rest) = registry(name).unwrap_or(("docker.io", name));
    let hub = matches!(host, "docker.io" | "index.docker.io");
    if hub && !rest.contains('/') {
        format!("library/{rest}")
    } else {
        rest.to_owned()
    }
}

/// The whole name: `docker.io/library/alpine:latest`.
fn canonical(image: &str) -> String {
    let (name, tag) = split(image);
    let host = match registry(name) {
        None | Some(("index.docker.io", _)) => "docker.io",
        Some((host, _)) => host,
    };
    let separator = if image.contains('@') { '@' } else { ':' };
    let tag = if tag.is_empty() { "latest" } else { tag };
    format!("{host}/{}{separator}{tag}", path(name))
}

/// The image's name with the tag that it means.
pub fn with_tag(image: &str) -> String {
    match split(image) {
        (name, "") => format!("{name}:latest"),
        _ => image.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_kept_unless_said_otherwise() {
        for (setting, keeps) in [
            ("", Some(true)),
            (" ", Some(true)),
            ("1", Some(true)),
            ("true", Some(true)),
            ("false", Some(false)),
            ("0", Some(false)),
            ("never", None),
        ] {
            assert_eq!(keeps_blobs(setting).ok(), keeps, "{setting:?}");
        }
    }

    #[test]
    fn image_names() {
        // As given, with its tag, its path, its whole name.
        for (image, tagged, repository, whole) in [
            (
                "alpine",
                "alpine:latest",
                "library/alpine",
                "docker.io/library/alpine:latest",
            ),
            (
                "alpine:3",
                "alpine:3",
                "library/alpine",
                "docker.io/library/alpine:3",
            ),
            (
                "me/app",
                "me/app:latest",
                "me/app",
                "docker.io/me/app:latest",
            ),
            (
                "localhost/app",
                "localhost/app:latest",
                "app",
                "localhost/app:latest",
            ),
            (
                "host:5000/app",
                "host:5000/app:latest",
                "app",
                "host:5000/app:latest",
            ),
            (
                "host:5000/a/b:c",
                "host:5000/a/b:c",
                "a/b",
                "host:5000/a/b:c",
            ),
            (
                "docker.io/alpine",
                "docker.io/alpine:latest",
                "library/alpine",
                "docker.io/library/alpine:latest",
            ),
            (
                "index.docker.io/a/b",
                "index.docker.io/a/b:latest",
                "a/b",
                "docker.io/a/b:latest",
            ),
            (
                "alpine@sha256:00",
                "alpine@sha256:00",
                "library/alpine",
                "docker.io/library/alpine@sha256:00",
            ),
        ] {
            assert_eq!(with_tag(image), tagged);
            assert_eq!(path(split(image).0), repository);
            assert_eq!(canonical(image), whole);
        }
    }
}
