//! `image cp`: copies between registries, OCI layouts and archives, past the store.

use std::path::Path;

use clap::{ArgMatches, Command};

use super::super::flags::{is_on, names, owned, switch, value, with_help};
use super::super::{Context, options};
use super::push::client_options;
use super::search::chain;
use crate::api::image::archive::{ArchiveKind, ArchiveSource, ArchiveTarget};
use crate::api::image::copy::{
    BlobSource, BlobTarget, CopyError, CopyEvent, CopyOptions, LayoutSource, LayoutTarget,
    RegistrySource, RegistryTarget, copy,
};
use crate::api::image::reference::Reference;
use crate::error::{CliError, Outcome};
use crate::output;
use crate::progress::Screen;

/// Arguments of `image cp`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value("platform", "string", "Copy only the given platform variant"),
            switch("quiet", "Only show the digest").short('q'),
            switch(
                "referrers",
                "Copy what refers to the image as well: signatures, attestations",
            ),
        ])
        .arg(names("names", 2).num_args(2))
}

/// A place as the command line names it.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Registry(String),
    Layout(String, Option<String>),
    Archive(ArchiveKind, String, Option<String>),
}

impl Place {
    fn parse(text: &str) -> Result<Place, CliError> {
        let unknown = || {
            CliError::Conflict(format!(
                "invalid place '{text}': use docker://NAME, oci:DIRECTORY[:NAME], \
                 oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]"
            ))
        };
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Place::Registry(name.to_owned()));
        }
        let (transport, rest) = text.split_once(':').ok_or_else(unknown)?;
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(unknown());
        }
        let path = path.to_owned();
        match transport {
            "oci" => Ok(Place::Layout(path, name)),
            "oci-archive" => Ok(Place::Archive(ArchiveKind::Oci, path, name)),
            "docker-archive" => Ok(Place::Archive(ArchiveKind::Docker, path, name)),
            _ => Err(unknown()),
        }
    }

    fn source(&self) -> Result<Box<dyn BlobSource>, CliError> {
        Ok(match self {
            Place::Registry(name) => {
                let source = RegistrySource::new(&reference(name)?, &client_options());
                Box::new(source.map_err(failed)?)
            }
            Place::Layout(path, name) => {
                Box::new(LayoutSource::new(Path::new(path), name.as_deref()))
            }
            Place::Archive(_, path, name) => {
                Box::new(ArchiveSource::open(Path::new(path), name.as_deref()).map_err(failed)?)
            }
        })
    }

    fn target(&self) -> Result<Box<dyn BlobTarget>, CliError> {
        Ok(match self {
            Place::Registry(name) => {
                let target = RegistryTarget::new(&reference(name)?, &client_options());
                Box::new(target.map_err(failed)?)
            }
            Place::Layout(path, name) => {
                let target = LayoutTarget::new(Path::new(path), name.as_deref());
                Box::new(target.map_err(failed)?)
            }
            Place::Archive(kind, path, name) => {
                let target = ArchiveTarget::new(Path::new(path), name.as_deref(), *kind);
                Box::new(target.map_err(failed)?)
            }
        })
    }
}

fn reference(name: &str) -> Result<Reference, CliError> {
    Reference::parse(name)
        .map(Reference::with_default_tag)
        .map_err(|error| CliError::Failed(format!("invalid reference {name:?}: {error}")))
}

fn failed(error: CopyError) -> CliError {
    CliError::Failed(format!("cannot copy: {}", chain(&error)))
}

/// `image cp`: copies an image without changing a digest.
///
/// # Errors
/// Those of the flags and of both ends.
pub fn execute(_context: &Context, matches: &ArgMatches) -> Outcome {
    let given = owned(matches, "names");
    let [from, to] = given.as_slice() else {
        return Ok(1);
    };
    let (from, to) = (Place::parse(from)?, Place::parse(to)?);
    let platform = match options::platform(matches)? {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            CliError::Conflict(format!("invalid platform '{text}': use os/architecture"))
        })?),
    };
    let quiet = is_on(matches, "quiet")?;
    let options = CopyOptions {
        platform,
        referrers: is_on(matches, "referrers")?,
        ..CopyOptions::default()
    };
    let (source, target) = (from.source()?, to.target()?);
    let screen = Screen::new(rustix::stdio::stdout(), quiet);
    let progress = |event: CopyEvent| screen.show(&event);
    let copied = copy(source.as_ref(), target.as_ref(), &options, &progress);
    screen.finish();
    let copied = copied.map_err(failed)?;
    if quiet {
        output::line(&copied.digest.to_string())?;
    } else {
        output::line(&format!("Digest: {}", copied.digest))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let archive = |kind, path: &str, name: Option<&str>| {
            Some(Place::Archive(
                kind,
                path.to_owned(),
                name.map(str::to_owned),
            ))
        };
        for (text, place) in [
            ("docker://a/b:1", Some(Place::Registry("a/b:1".to_owned()))),
            ("oci:/d", Some(Place::Layout("/d".to_owned(), None))),
            (
                "oci:d:1",
                Some(Place::Layout("d".to_owned(), Some("1".to_owned()))),
            ),
            (
                "oci-archive:f.tar:a:1",
                archive(ArchiveKind::Oci, "f.tar", Some("a:1")),
            ),
            (
                "docker-archive:/f.tar",
                archive(ArchiveKind::Docker, "/f.tar", None),
            ),
            ("a/b", None),
            ("oci:", None),
            ("dir:/x", None),
        ] {
            assert_eq!(Place::parse(text).ok(), place, "{text}");
        }
    }
}
