//! `state` and `list`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

use super::arguments::Arguments;
use super::error::{CliError, Context as _};
use super::options::Global;
use super::state::{Place, Record, Status};

/// What `state` shows (runtime-spec, runtime.md, "State", and what runc adds).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'static str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
}

fn shown<'a>(place: &Place, record: &'a Record, owner: String) -> Shown<'a> {
    let status = place.status(record);
    Shown {
        // An empty one would not be a version; who leaves it out gets the present one.
        oci_version: if record.oci_version.is_empty() {
            gantry_runtime::spec::OCI_VERSION
        } else {
            &record.oci_version
        },
        id: &record.id,
        pid: if status == Status::Stopped {
            0
        } else {
            record.pid
        },
        status: status.name(),
        bundle: &record.bundle,
        rootfs: &record.rootfs,
        created: &record.created,
        annotations: &record.annotations,
        owner,
    }
}

/// `state`.
///
/// # Errors
/// [`CliError`].
pub fn state(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    if let Some(flag) = words.flag() {
        return Err(flag.unknown());
    }
    let id = words.id()?;
    words.end()?;
    let place = Place::open(&global.root, &id)?;
    let record = match place.record() {
        // Only the directory is there: killed at its very beginning, or just at it.
        Err(CliError::NoContainer { .. }) => {
            return Err(CliError::NoContainer { id });
        }
        other => other?,
    };
    print_json(&shown(&place, &record, String::new()), true)
}

/// Writes a document to standard output.
///
/// # Errors
/// [`CliError::Step`].
pub fn print_json(value: &impl Serialize, pretty: bool) -> Result<(), CliError> {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    let text = text.map_err(io::Error::from).step("cannot write JSON")?;
    print(&(text + "\n"))
}

/// Writes text to standard output.
///
/// # Errors
/// [`CliError::Step`].
pub fn print(text: &str) -> Result<(), CliError> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .step("cannot write to standard output")
}

/// `list`.
///
/// # Errors
/// [`CliError`]; a container that cannot be read is no error.
pub fn list(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let (mut quiet, mut json) = (false, false);
    while let Some(flag) = words.flag() {
        match flag.name() {
            "quiet" | "q" => quiet = flag.switch()?,
            "format" | "f" => json = is_json(&words.value(flag)?)?,
            _ => return Err(flag.unknown()),
        }
    }
    words.end()?;
    let found = find(global)?;
    if quiet {
        let ids: String = found
            .iter()
            .map(|(_, record)| format!("{}\n", record.id))
            .collect();
        return print(&ids);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let rows: Vec<Shown<'_>> = found
        .iter()
        .map(|(place, record)| shown(place, record, owner(&users, record.owner)))
        .collect();
    if json {
        // runc says null where there are none.
        return if rows.is_empty() {
            print("null\n")
        } else {
            print_json(&rows, false)
        };
    }
    let mut lines = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for row in &rows {
        lines.push([
            row.id.to_owned(),
            row.pid.to_string(),
            row.status.to_owned(),
            row.bundle.display().to_string(),
            row.created.to_owned(),
            row.owner.clone(),
        ]);
    }
    print(&table(&lines))
}

/// Reads `--format`.
///
/// # Errors
/// [`CliError::Usage`].
pub fn is_json(text: &str) -> Result<bool, CliError> {
    match text {
        "json" => Ok(true),
        "table" => Ok(false),
        other => Err(CliError::Usage(format!(
            "invalid format {other:?}: table and json are known"
        ))),
    }
}

/// All containers that can be read; the others are warned of.
fn find(global: &Global) -> Result<Vec<(Place, Record)>, CliError> {
    let entries = match fs::read_dir(&global.root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.file("read", &global.root)?,
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str() else { continue };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let read = Place::open(&global.root, id).and_then(|place| {
            let record = place.record()?;
            Ok((place, record))
        });
        match read {
            Ok(read) => found.push(read),
            // Deleted meanwhile, or half-created.
            Err(CliError::NoContainer { .. }) => {}
            Err(error) => global
                .log
                .warning(&format!("container {id}: {}", error.chain())),
        }
    }
    found.sort_by(|(_, one), (_, other)| one.id.cmp(&other.id));
    Ok(found)
}

fn owner(users: &str, uid: u32) -> String {
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("#{uid}"))
}

/// Columns of at least twelve characters, three apart, as runc sets them.
fn table<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        let longest = lines.iter().map(|line| line[column].chars().count()).max();
        (longest.unwrap_or_default() + 3).max(12)
    };
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, word) in line.iter().enumerate() {
            if column + 1 == COLUMNS {
                text.push_str(word);
            } else {
                text.push_str(&format!("{word:width$}", width = widths[column]));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_shown_by_name_where_they_have_one() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nx:y\napp:x:1000:1000::/:/bin/sh\n";
        assert_eq!(owner(users, 0), "root");
        assert_eq!(owner(users, 1000), "app");
        assert_eq!(owner(users, 7), "#7");
    }

    #[test]
    fn columns_are_set_as_runc_sets_them() {
        let lines = [
            ["ID", "PID", "OWNER"].map(str::to_owned),
            ["a-rather-long-id", "1", "root"].map(str::to_owned),
        ];
        assert_eq!(
            table(&lines),
            "ID                 PID         OWNER\n\
             a-rather-long-id   1           root\n"
        );
    }
}
