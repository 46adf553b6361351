//! Classes of service of the processor's caches and memory bandwidth, by resctrl
//! (runtime-spec, config-linux.md, "IntelRdt").

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{BirthError, Step};
use crate::spec::IntelRdt;

const ROOT: &str = "/sys/fs/resctrl";
const RDTGROUP_SUPER_MAGIC: i64 = 0x765_5821;

fn class(asked: &IntelRdt, container: &str) -> PathBuf {
    let name = if asked.clos_id.is_empty() {
        container
    } else {
        &asked.clos_id
    };
    Path::new(ROOT).join(name)
}

/// Puts the process `pid` of a container into its class, which is made if it is missing.
///
/// # Errors
/// [`BirthError`], also where resctrl is not mounted.
pub(crate) fn join(asked: &IntelRdt, container: &str, pid: i32) -> Result<(), BirthError> {
    let mounted = rustix::fs::statfs(ROOT).is_ok_and(|found| found.f_type == RDTGROUP_SUPER_MAGIC);
    if !mounted {
        return Err(BirthError::Invalid(format!(
            "linux.intelRdt: resctrl is not mounted on {ROOT}"
        )));
    }
    if asked.clos_id.is_empty() && container.is_empty() {
        return Err(BirthError::Invalid(
            "linux.intelRdt.closID: it is missing".into(),
        ));
    }
    let class = class(asked, container);
    let lines: Vec<&str> = asked
        .schemata
        .iter()
        .chain([&asked.l3_cache_schema, &asked.mem_bw_schema])
        .map(String::as_str)
        .filter(|line| !line.is_empty())
        .collect();
    if !asked.clos_id.is_empty() && lines.is_empty() && !class.is_dir() {
        return Err(BirthError::Invalid(format!(
            "linux.intelRdt.closID: there is no class {:?}, and no schema to make it with",
            asked.clos_id
        )));
    }
    make(&class)?;
    if !lines.is_empty() {
        let text = lines.join("\n") + "\n";
        write(&class.join("schemata"), &text)?;
    }
    write(&class.join("tasks"), &pid.to_string())?;
    if asked.enable_monitoring {
        let group = class.join("mon_groups").join(container);
        make(&group)?;
        write(&group.join("tasks"), &pid.to_string())?;
    }
    Ok(())
}

/// Removes what was made for a container that has ended; a class with a name of its own stays,
/// as others may be in it.
///
/// # Errors
/// The kernel's.
pub fn remove(asked: &IntelRdt, container: &str) -> io::Result<()> {
    let class = class(asked, container);
    let directory = match (asked.clos_id.is_empty(), asked.enable_monitoring) {
        (true, _) => class,
        (false, true) => class.join("mon_groups").join(container),
        (false, false) => return Ok(()),
    };
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make(directory: &Path) -> Result<(), BirthError> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.step(|| format!("linux.intelRdt: cannot make {}", directory.display())),
    }
}

fn write(file: &Path, text: &str) -> Result<(), BirthError> {
    fs::write(file, text).step(|| {
        format!(
            "linux.intelRdt: cannot write {text:?} to {}",
            file.display()
        )
    })
}
