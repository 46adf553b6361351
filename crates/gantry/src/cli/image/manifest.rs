//! `manifest create`, `annotate`, `inspect`, `push` and `rm`, over the docker client's own
//! store of lists that are being made: `~/.docker/manifests/LIST/MANIFEST`.

use std::fs;
use std::path::PathBuf;

use clap::{ArgMatches, Command};
use serde::Serialize as _;
use serde_json::{Value, json};

use super::super::flags::{is_on, list as list_flag, names, owned, switch, text, value, with_help};
use super::super::{Context, complain};
use super::push::client_options;
use super::search::chain;
use crate::api::image::copy::{CopyOptions, RegistrySource, RegistryTarget, copy};
use crate::api::image::credentials::DockerFiles;
use crate::api::image::digest::Digest;
use crate::api::image::model::{DOCUMENT_LIMIT, Document, ImageConfig, Platform, media_type};
use crate::api::image::reference::Reference;
use crate::api::image::registry::{Client, ClientOptions, FetchedManifest, ManifestName};
use crate::error::{CliError, Outcome};
use crate::output;

/// Arguments of `manifest create`.
pub fn create_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("amend", "Amend an existing manifest list").short('a'),
            switch("insecure", "Allow communication with an insecure registry"),
        ])
        .arg(names("names", 2))
}

/// `manifest create`: begins a list of manifests that a registry has.
///
/// # Errors
/// Those of the flags, of the registry and of the files.
pub fn create(_context: &Context, matches: &ArgMatches) -> Outcome {
    let given = owned(matches, "names");
    let Some((list, manifests)) = given.split_first() else {
        return Ok(1);
    };
    let insecure = is_on(matches, "insecure")?;
    let list = parse(list)?;
    let directory = list_directory(&list)?;
    if directory.exists() && !is_on(matches, "amend")? {
        return Err(CliError::Failed(
            "refusing to amend an existing manifest list with no --amend flag".to_owned(),
        ));
    }
    let mut records = Vec::new();
    for name in manifests {
        let reference = parse(name)?;
        records.push((file_name(&reference), fetch_record(&reference, insecure)?));
    }
    fs::create_dir_all(&directory).map_err(file_error("cannot make", &directory))?;
    for (name, record) in records {
        write(&directory.join(name), &record)?;
    }
    output::line(&format!("Created manifest list {list}"))?;
    Ok(0)
}

/// Arguments of `manifest annotate`.
pub fn annotate_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value("arch", "string", "Set architecture"),
            value("os", "string", "Set operating system"),
            list_flag("os-features", "strings", "Set operating system feature"),
            value("os-version", "string", "Set operating system version"),
            value("variant", "string", "Set architecture variant"),
        ])
        .arg(names("names", 2).num_args(2))
}

/// `manifest annotate`: says what a manifest of a list runs on.
///
/// # Errors
/// Those of the files.
pub fn annotate(_context: &Context, matches: &ArgMatches) -> Outcome {
    let given = owned(matches, "names");
    let [list, manifest] = given.as_slice() else {
        return Ok(1);
    };
    let (list, manifest) = (parse(list)?, parse(manifest)?);
    let path = list_directory(&list)?.join(file_name(&manifest));
    let mut record = read(&path)?.ok_or_else(|| {
        CliError::Failed(format!(
            "manifest for image {manifest} does not exist in {list}"
        ))
    })?;
    let platform = &mut record["Descriptor"]["platform"];
    if !platform.is_object() {
        *platform = json!({});
    }
    for (flag, field) in [
        ("os", "os"),
        ("arch", "architecture"),
        ("variant", "variant"),
        ("os-version", "os.version"),
    ] {
        if let Some(text) = text(matches, flag).filter(|text| !text.is_empty()) {
            platform[field] = json!(text);
        }
    }
    let features: Vec<String> = owned(matches, "os-features")
        .iter()
        .flat_map(|words| words.split(',').map(str::to_owned))
        .collect();
    if !features.is_empty() {
        platform["os.features"] = json!(features);
    }
    write(&path, &record)?;
    Ok(0)
}

/// Arguments of `manifest inspect`.
pub fn inspect_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("insecure", "Allow communication with an insecure registry"),
            switch(
                "verbose",
                "Output additional info including layers and platform",
            )
            .short('v'),
        ])
        .arg(names("names", 1).num_args(1..=2))
}

/// `manifest inspect`: shows a list that is being made, or what a registry has.
///
/// # Errors
/// Those of the flags, of the registry and of the files.
pub fn inspect(_context: &Context, matches: &ArgMatches) -> Outcome {
    let given = owned(matches, "names");
    let insecure = is_on(matches, "insecure")?;
    let verbose = is_on(matches, "verbose")?;
    if let [list, manifest] = given.as_slice() {
        let (list, manifest) = (parse(list)?, parse(manifest)?);
        let record = read(&list_directory(&list)?.join(file_name(&manifest)))?;
        let record = match record {
            Some(record) => record,
            None => fetch_record(&manifest, insecure)?,
        };
        print(&if verbose { record } else { raw(&record)? })?;
        return Ok(0);
    }
    let reference = parse(&given.concat())?;
    let directory = list_directory(&reference)?;
    if directory.exists() {
        let records = read_list(&reference)?;
        print(&if verbose {
            json!(records)
        } else {
            serde_json::from_slice(&index_of(&records)?.1).unwrap_or_default()
        })?;
        return Ok(0);
    }
    let fetched = fetch(&reference, insecure)?;
    let value: Value = serde_json::from_slice(&fetched.bytes).unwrap_or_default();
    if !verbose {
        print(&value)?;
        return Ok(0);
    }
    let Some(entries) = value["manifests"].as_array() else {
        print(&fetch_record(&reference, insecure)?)?;
        return Ok(0);
    };
    let mut records = Vec::new();
    for entry in entries {
        let digest = entry["digest"].as_str().unwrap_or_default();
        let one = parse(&format!("{}@{digest}", reference.name()))?;
        let mut record = fetch_record(&one, insecure)?;
        record["Descriptor"] = entry.clone();
        records.push(record);
    }
    print(&json!(records))?;
    Ok(0)
}

/// Arguments of `manifest push`.
pub fn push_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("insecure", "Allow push to an insecure registry"),
            switch("purge", "Remove the local manifest list after push").short('p'),
        ])
        .arg(names("names", 1).num_args(1))
}

/// `manifest push`: puts a list into its repository, and before it the manifests that are in
/// others.
///
/// # Errors
/// Those of the flags, of the registry and of the files.
pub fn push(_context: &Context, matches: &ArgMatches) -> Outcome {
    let list = parse(&owned(matches, "names").concat())?;
    let insecure = is_on(matches, "insecure")?;
    let records = read_list(&list)?;
    for record in &records {
        let of = record["Ref"].as_str().unwrap_or_default();
        if record["Descriptor"]["platform"]["architecture"]
            .as_str()
            .is_none_or(str::is_empty)
        {
            return Err(CliError::Failed(format!(
                "manifest {of} must have an OS and Architecture to be pushed to a registry"
            )));
        }
    }
    let (media_type, bytes) = index_of(&records)?;
    // What the list refers to is there before the list.
    for record in &records {
        bring(record, &list, insecure)?;
    }
    let client = client(&list, insecure)?;
    let name = ManifestName::Tag(list.tag().unwrap_or("latest"));
    let digest = client
        .put_manifest(list.repository(), name, media_type, &bytes)
        .map_err(|error| CliError::Failed(format!("cannot push {list}: {}", chain(&error))))?;
    output::line(&digest.to_string())?;
    if is_on(matches, "purge")? {
        remove_list(&list)?;
    }
    Ok(0)
}

/// Brings the manifest of a record into the repository of its list, by digest; within one registry
/// its blobs are mounted.
fn bring(record: &Value, list: &Reference, insecure: bool) -> Result<(), CliError> {
    let of = parse(record["Ref"].as_str().unwrap_or_default())?;
    let digest = record["Descriptor"]["digest"].as_str().unwrap_or_default();
    let place = |of: &Reference| parse(&format!("{}@{digest}", of.name()));
    let (from, to) = (place(&of)?, place(list)?);
    if from.name() != to.name() {
        let failed =
            |error| CliError::Failed(format!("cannot copy {from} to {to}: {}", chain(&error)));
        let source = RegistrySource::new(&from, &options(&from, insecure)).map_err(failed)?;
        let target = RegistryTarget::new(&to, &options(&to, insecure)).map_err(failed)?;
        copy(&source, &target, &CopyOptions::default(), &|_| {}).map_err(failed)?;
    }
    output::line(&format!("Pushed ref {to} with digest: {digest}"))
}

/// Arguments of `manifest rm`.
pub fn remove_arguments(command: Command) -> Command {
    with_help(command).arg(names("names", 1))
}

/// `manifest rm`: forgets lists that are being made.
///
/// # Errors
/// Those of the files.
pub fn remove(context: &Context, matches: &ArgMatches) -> Outcome {
    let mut code = 0;
    for name in owned(matches, "names") {
        let outcome = parse(&name).and_then(|list| {
            if list_directory(&list)?.exists() {
                remove_list(&list)
            } else {
                Err(CliError::Failed(format!("No such manifest: {list}")))
            }
        });
        if let Err(error) = outcome {
            complain(context, error);
            code = 1;
        }
    }
    Ok(code)
}

fn parse(name: &str) -> Result<Reference, CliError> {
    Reference::parse(name)
        .map(|reference| {
            if reference.digest().is_some() {
                reference
            } else {
                reference.with_default_tag()
            }
        })
        .map_err(|error| CliError::Failed(format!("invalid reference {name:?}: {error}")))
}

/// A reference as the docker client makes a file name of it.
fn file_name(reference: &Reference) -> String {
    reference.to_string().replace(':', "-").replace('/', "_")
}

fn list_directory(list: &Reference) -> Result<PathBuf, CliError> {
    let files = DockerFiles::of_environment(|name| std::env::var_os(name)).ok_or_else(|| {
        CliError::Failed("neither DOCKER_CONFIG nor HOME is set: nowhere to keep lists".into())
    })?;
    let root = files.config.with_file_name("manifests");
    Ok(root.join(file_name(list)))
}

fn file_error(action: &'static str, path: &std::path::Path) -> impl Fn(std::io::Error) -> CliError {
    let path = path.display().to_string();
    move |source| CliError::File {
        action,
        path: path.clone(),
        source,
    }
}

fn write(path: &std::path::Path, record: &Value) -> Result<(), CliError> {
    fs::write(path, record.to_string()).map_err(file_error("cannot write", path))
}

fn read(path: &std::path::Path) -> Result<Option<Value>, CliError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| CliError::Failed(format!("cannot use {}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error("cannot read", path)(error)),
    }
}

fn read_list(list: &Reference) -> Result<Vec<Value>, CliError> {
    let directory = list_directory(list)?;
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(CliError::Failed(format!(
                "manifest list {list} does not exist: make it with `gantry manifest create`"
            )));
        }
        Err(error) => return Err(file_error("cannot read", &directory)(error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    let mut records = Vec::new();
    for path in paths {
        records.extend(read(&path)?);
    }
    Ok(records)
}

fn remove_list(list: &Reference) -> Result<(), CliError> {
    let directory = list_directory(list)?;
    fs::remove_dir_all(&directory).map_err(file_error("cannot remove", &directory))
}

fn options(reference: &Reference, insecure: bool) -> ClientOptions {
    let mut options = client_options();
    if insecure {
        options
            .insecure_registries
            .push(reference.registry().into());
    }
    options
}

fn client(reference: &Reference, insecure: bool) -> Result<Client, CliError> {
    Client::new(reference.registry(), &options(reference, insecure))
        .map_err(|error| CliError::Failed(format!("cannot use {reference}: {}", chain(&error))))
}

fn fetch(reference: &Reference, insecure: bool) -> Result<FetchedManifest, CliError> {
    let name = match reference.digest() {
        Some(digest) => ManifestName::Digest(digest),
        None => ManifestName::Tag(reference.tag().unwrap_or("latest")),
    };
    client(reference, insecure)?
        .manifest(reference.repository(), name)
        .map_err(|error| {
            CliError::Failed(format!("no such manifest: {reference}: {}", chain(&error)))
        })
}

/// A manifest of a registry in the form of the docker client's store.
fn fetch_record(reference: &Reference, insecure: bool) -> Result<Value, CliError> {
    let fetched = fetch(reference, insecure)?;
    let refused = |text: String| CliError::Failed(format!("{reference}: {text}"));
    let parsed = Document::parse(&fetched.bytes, fetched.content_type.as_deref())
        .map_err(|error| refused(chain(&error)))?;
    let Document::Manifest(manifest) = parsed else {
        return Err(CliError::Failed(format!("{reference} is a manifest list")));
    };
    let config = &manifest.config;
    if config.size > DOCUMENT_LIMIT {
        return Err(refused("its config is too large".into()));
    }
    let mut bytes = Vec::new();
    let client = client(reference, insecure)?;
    let mut reader = client
        .blob(reference.repository(), &config.digest, config.size)
        .map_err(|error| refused(chain(&error)))?;
    std::io::Read::read_to_end(&mut reader, &mut bytes)
        .map_err(|error| refused(error.to_string()))?;
    drop(reader);
    if Digest::of(&bytes) != config.digest {
        return Err(refused("its config has another digest".into()));
    }
    let platform: Platform = ImageConfig::parse(&bytes)
        .map_err(|error| refused(chain(&error)))?
        .platform();
    let media_type = manifest
        .media_type
        .clone()
        .or(fetched.content_type.clone())
        .unwrap_or_else(|| media_type::MANIFEST.into());
    let field = if media_type == media_type::DOCKER_MANIFEST {
        "SchemaV2Manifest"
    } else {
        "OCIManifest"
    };
    let text: Value = serde_json::from_slice(&fetched.bytes).unwrap_or_default();
    Ok(json!({
        "Ref": reference.to_string(),
        "Descriptor": {
            "mediaType": media_type, "digest": fetched.digest, "size": fetched.bytes.len(),
            "platform": platform,
        },
        "Raw": base64(&fetched.bytes),
        field: text,
    }))
}

/// The manifest itself out of a record.
fn raw(record: &Value) -> Result<Value, CliError> {
    for field in ["SchemaV2Manifest", "OCIManifest"] {
        if record[field].is_object() {
            return Ok(record[field].clone());
        }
    }
    Err(CliError::Failed(
        "the record of the manifest is damaged: create the list again".to_owned(),
    ))
}

/// The list that records make, and its media type.
fn index_of(records: &[Value]) -> Result<(&'static str, Vec<u8>), CliError> {
    let entries: Vec<&Value> = records.iter().map(|record| &record["Descriptor"]).collect();
    let is_docker = entries
        .iter()
        .all(|entry| entry["mediaType"] == media_type::DOCKER_MANIFEST);
    let media_type = if is_docker {
        media_type::DOCKER_INDEX
    } else {
        media_type::INDEX
    };
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    Ok((media_type, indented(&index)))
}

/// JSON as the docker client indents it.
fn indented(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    // Writing JSON values into memory cannot fail.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, formatter,
    ));
    bytes
}

fn print(value: &Value) -> Result<(), CliError> {
    let text = String::from_utf8(indented(value)).unwrap_or_default();
    if output::to_terminal() {
        output::line(&crate::terminal::escape_json(&text))
    } else {
        output::line(&text)
    }
}

/// Base64 with padding (RFC 4648, 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= group.len() {
                digit as char
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bytes() {
        let reference = parse("localhost:5000/a/b:1").unwrap();
        assert_eq!(file_name(&reference), "localhost-5000_a_b-1");
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd", "//79"),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
