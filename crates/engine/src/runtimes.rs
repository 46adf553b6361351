//! OCI runtimes besides our own: found by name or path, used through their command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gantry_supervisor::order::RuntimeOrder;

use crate::error::Error;

/// The runtime that containers have if none is named: the supervisor itself.
pub const DEFAULT: &str = "gantry";

/// The same, as clients of Docker name it.
const DEFAULT_ALIAS: &str = "io.containerd.runc.v2";

/// Runtimes that are known by name.
const NAMES: [&str; 6] = [
    "gantry-runtime",
    "runc",
    "crun",
    "youki",
    "runsc",
    "kata-runtime",
];

/// The name under which a container's runtime is shown.
#[must_use]
pub fn shown_name(given: &str) -> &str {
    if is_default(given) { DEFAULT } else { given }
}

fn is_default(name: &str) -> bool {
    ["", DEFAULT, DEFAULT_ALIAS].contains(&name)
}

/// The runtime that a user means by a name or an absolute path; nothing for the default.
///
/// # Errors
/// [`Error::UnknownRuntime`] for what is not known, not there or not executable.
pub fn find(name: &str) -> Result<Option<RuntimeOrder>, Error> {
    if is_default(name) {
        return Ok(None);
    }
    let program = if name.starts_with('/') {
        let path = PathBuf::from(name);
        is_executable(&path).then_some(path)
    } else {
        NAMES.contains(&name).then(|| look_up(name)).flatten()
    };
    match program {
        Some(program) => Ok(Some(RuntimeOrder {
            name: name.rsplit('/').next().unwrap_or(name).to_owned(),
            program,
        })),
        None => Err(Error::UnknownRuntime { name: name.into() }),
    }
}

/// Every runtime that is here, by name, with its program; the default one has none.
#[must_use]
pub fn available() -> Vec<(&'static str, Option<PathBuf>)> {
    let found = NAMES
        .into_iter()
        .filter_map(|name| Some((name, Some(look_up(name)?))));
    [(DEFAULT, None)].into_iter().chain(found).collect()
}

/// A program beside this one, where ours are, or on the search path.
fn look_up(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .map(|program| program.with_file_name(name))
        .filter(|_| name.starts_with("gantry"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let listed = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name));
    beside
        .into_iter()
        .chain(listed)
        .find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_several_names_and_no_program() {
        for name in ["", "gantry", "io.containerd.runc.v2"] {
            assert!(find(name).unwrap().is_none(), "{name}");
            assert_eq!(shown_name(name), "gantry");
        }
    }

    #[test]
    fn paths_are_taken_and_what_is_no_runtime_is_refused() {
        let found = find("/bin/sh").unwrap().unwrap();
        assert_eq!(
            (&*found.name, found.program),
            ("sh", PathBuf::from("/bin/sh"))
        );
        for name in [
            "sh",
            "/bin",
            "/etc/passwd",
            "/nowhere/runc",
            "./runc",
            "bin/sh",
            "runc ",
        ] {
            let error = find(name).unwrap_err().to_string();
            assert_eq!(error, format!("unknown or invalid runtime name: {name}"));
        }
    }
}
