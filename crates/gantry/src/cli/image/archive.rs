//! `save`, `load`, `import`, `export` and `commit`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command};

use super::super::flags::{
    is_on, list as list_flag, names, optional_switch, owned, switch, text, value, with_help,
};
use super::super::{Context, options};
use crate::api::{Committed, Error, ImageError, ImportEvent, ImportRequest, ImportSource};
use crate::error::{CliError, Outcome};
use crate::progress::{Loading, Screen};
use crate::{output, terminal};

/// Arguments of `save`.
pub fn save_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value("output", "string", "Write to a file, instead of STDOUT").short('o'),
            value("platform", "string", "Save only the given platform variant"),
        ])
        .arg(names("names", 1))
}

/// `save`: writes images to an archive.
///
/// # Errors
/// Those of the flags, of the file and of the engine.
pub fn save(context: &Context, matches: &ArgMatches) -> Outcome {
    let platform = options::platform(matches)?;
    let images = owned(matches, "names");
    let engine = context.engine()?;
    write_to(text(matches, "output"), "save", |output| {
        Ok(engine.save_images(&images, platform.as_deref(), output)?)
    })
}

/// Arguments of `export`.
pub fn export_arguments(command: Command) -> Command {
    with_help(command)
        .arg(value("output", "string", "Write to a file, instead of STDOUT").short('o'))
        .arg(names("names", 1).num_args(1))
}

/// `export`: writes a container's file system to an archive.
///
/// # Errors
/// Those of the flags, of the file and of the engine.
pub fn export(context: &Context, matches: &ArgMatches) -> Outcome {
    let name = owned(matches, "names").concat();
    let engine = context.engine()?;
    write_to(text(matches, "output"), "export", |output| {
        Ok(engine.export(&name, output)?)
    })
}

/// A file beside the one that is to be written: it takes its place once it is whole.
struct Draft {
    path: PathBuf,
    kept: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes an archive to a file, which is whole or not there, or to standard output.
fn write_to(
    path: Option<&str>,
    verb: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>,
) -> Outcome {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        if output::to_terminal() {
            return Err(CliError::Failed(format!(
                "cowardly refusing to {verb} to a terminal. Use the -o flag or redirect"
            )));
        }
        let mut output = BufWriter::with_capacity(256 << 10, io::stdout());
        write(&mut output)?;
        output.flush().map_err(|source| CliError::System {
            action: "cannot write to standard output",
            source,
        })?;
        return Ok(0);
    };
    let failed = |action, path: &Path| {
        let path = path.display().to_string();
        move |source| CliError::File {
            action,
            path,
            source,
        }
    };
    let target = Path::new(path);
    // A device or a pipe is written to as it is.
    if target.exists() && !target.is_file() {
        if target.is_dir() {
            return Err(CliError::Failed(format!(
                "failed to {verb} image: invalid output path: {path} is a directory"
            )));
        }
        let file = File::options()
            .write(true)
            .open(target)
            .map_err(failed("cannot open", target))?;
        let mut output = BufWriter::with_capacity(256 << 10, file);
        write(&mut output)?;
        output.flush().map_err(failed("cannot write", target))?;
        return Ok(0);
    }
    let directory = target.parent().filter(|parent| *parent != Path::new(""));
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        return Err(CliError::Failed(format!(
            "failed to {verb} image: invalid output path: directory {} does not exist",
            directory.display()
        )));
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut draft = Draft {
        path: target.with_file_name(format!(".{name}.{}", std::process::id())),
        kept: false,
    };
    let file = File::create_new(&draft.path).map_err(failed("cannot create", target))?;
    let mut output = BufWriter::with_capacity(256 << 10, file);
    write(&mut output)?;
    // After a crash the name stands for the whole archive or for what it stood for before.
    output
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| file.sync_data())
        .map_err(failed("cannot write", target))?;
    std::fs::rename(&draft.path, target).map_err(failed("cannot write", target))?;
    draft.kept = true;
    Ok(0)
}

/// Arguments of `load`.
pub fn load_arguments(command: Command) -> Command {
    with_help(command).args([
        value(
            "input",
            "string",
            "Read from tar archive file, instead of STDIN",
        )
        .short('i'),
        value("platform", "string", "Load only the given platform variant"),
        switch("quiet", "Suppress the load output").short('q'),
    ])
}

/// `load`: reads images from an archive.
///
/// # Errors
/// Those of the flags, of the file and of the engine.
pub fn load(context: &Context, matches: &ArgMatches) -> Outcome {
    let platform = options::platform(matches)?;
    let quiet = is_on(matches, "quiet")?;
    let mut size = None;
    let mut source: Box<dyn Read> = match text(matches, "input").filter(|path| !path.is_empty()) {
        Some(path) => {
            let file = open(path)?;
            size = length(&file);
            Box::new(file)
        }
        None if terminal::is_terminal(rustix::stdio::stdin()) => {
            return Err(CliError::Failed(
                "requested load from stdin, but stdin is empty".to_owned(),
            ));
        }
        None => Box::new(io::stdin().lock()),
    };
    let engine = context.engine()?;
    // As with Docker, a pipe gets nothing but the names: programs read them.
    let screen = Screen::for_bars(quiet);
    let progress = |event| screen.show(&Loading(event, size));
    let loaded = engine.load_images(source.as_mut(), platform.as_deref(), &progress);
    screen.finish();
    let path = text(matches, "input").unwrap_or_default();
    let loaded = loaded.map_err(|error| of_file(path, error))?;
    for image in loaded {
        for name in &image.renamed {
            output::line(&format!(
                "The image {name} already exists, renaming the old one with ID {} to empty string",
                image.id
            ))?;
        }
        for name in &image.names {
            output::line(&format!("Loaded image: {name}"))?;
        }
        if image.names.is_empty() && !image.variant {
            output::line(&format!("Loaded image ID: {}", image.id))?;
        }
    }
    Ok(0)
}

fn open(path: &str) -> Result<File, CliError> {
    File::open(path).map_err(|source| CliError::File {
        action: "cannot open",
        path: path.to_owned(),
        source,
    })
}

/// What is wrong with the archive in a file names that file.
fn of_file(path: &str, error: Error) -> CliError {
    let is_of_archive = match &error {
        Error::Import { .. } => true,
        Error::Image(error) => matches!(**error, ImageError::Load(_)),
        _ => false,
    };
    let error = CliError::Engine(error);
    if is_of_archive && !matches!(path, "" | "-") {
        CliError::Failed(format!("{path}: {}", error.line()))
    } else {
        error
    }
}

/// Bytes of a file; nothing for a pipe.
fn length(file: &File) -> Option<u64> {
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some(metadata.len())
}

/// Arguments of `import`.
pub fn import_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            list_flag(
                "change",
                "list",
                "Apply Dockerfile instruction to the created image",
            )
            .short('c'),
            value("message", "string", "Set commit message for imported image").short('m'),
            value("platform", "string", "Set platform: os[/arch[/variant]]"),
        ])
        .arg(names("names", 1).num_args(1..=2))
}

/// `import`: makes an image of a tarball.
///
/// # Errors
/// Those of the flags, of the file and of the engine.
pub fn import(context: &Context, matches: &ArgMatches) -> Outcome {
    let mut words = owned(matches, "names").into_iter();
    let path = words.next().unwrap_or_default();
    let reference = words.next();
    let platform = options::platform(matches)?;
    let mut size = None;
    let mut archive: Box<dyn Read + Send> = if path == "-" {
        Box::new(io::stdin())
    } else if is_url(&path) {
        Box::new(io::empty())
    } else {
        let file = open(&path)?;
        size = length(&file);
        Box::new(file)
    };
    let source = if is_url(&path) {
        ImportSource::Url(&path)
    } else {
        ImportSource::Stream {
            archive: archive.as_mut(),
            size,
        }
    };
    let request = ImportRequest {
        source,
        name: reference.as_deref(),
        changes: &owned(matches, "change"),
        message: text(matches, "message").unwrap_or_default(),
        platform: platform.as_deref(),
    };
    let engine = context.engine()?;
    // Standard output is the id's.
    let screen = Screen::for_bars(false);
    let id = engine.import(request, &|event| {
        if let ImportEvent::Downloading { from } = &event {
            output::note(&format!("Downloading from {from}"));
        }
        screen.show(&event);
    });
    screen.finish();
    let shown = if is_url(&path) { "" } else { &path };
    output::line(&id.map_err(|error| of_file(shown, error))?)?;
    Ok(0)
}

/// Whether a word is a URL and not a file. Of one that nobody can ask, the engine says so.
fn is_url(path: &str) -> bool {
    let scheme = path.split_once("://").map_or("", |(scheme, _)| scheme);
    !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Arguments of `commit`.
pub fn commit_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value(
                "author",
                "string",
                "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")",
            )
            .short('a'),
            list_flag(
                "change",
                "list",
                "Apply Dockerfile instruction to the created image",
            )
            .short('c'),
            value("message", "string", "Commit message").short('m'),
            switch("pause", "Pause container during commit (default true)").short('p'),
        ])
        .arg(names("names", 1).num_args(1..=2))
}

/// `commit`: makes an image of a container.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn commit(context: &Context, matches: &ArgMatches) -> Outcome {
    let words = owned(matches, "names");
    let changes = owned(matches, "change");
    let id = context.engine()?.commit(&Committed {
        container: words.first().map_or("", String::as_str),
        name: words.get(1).map(String::as_str),
        author: text(matches, "author").unwrap_or_default(),
        message: text(matches, "message").unwrap_or_default(),
        changes: &changes,
        pause: optional_switch(matches, "pause")?.unwrap_or(true),
    })?;
    output::line(&id)?;
    Ok(0)
}
