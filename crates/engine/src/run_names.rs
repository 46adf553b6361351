//! Names of running containers in the run root, so that an exec finds its container without
//! the state store, whose opening costs about 1 ms.
//!
//! They are hints, symbolic links from name to id: who follows one looks at the container's own
//! record, and asks the state store where the two do not agree.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use gantry_supervisor::order::RunStatus;

use crate::Engine;
use crate::container::{Known, known_from_run_root};

impl Engine {
    /// A container that runs, by its name or its whole id; `None` means that the state store
    /// has to be asked.
    pub(crate) fn running(&self, name: &str) -> Option<Known> {
        let id = if is_id(name) {
            name.to_owned()
        } else {
            let target = fs::read_link(self.name_path(name)?).ok()?;
            target.into_os_string().into_string().ok()?
        };
        let state = is_id(&id).then(|| self.run_state(&id)).flatten()?;
        let known = known_from_run_root(&state);
        let meant = known.id == id && (known.name == name || id == name);
        (meant && state.status == RunStatus::Running).then_some(known)
    }

    /// Links the name of a container that is being started. It is done without where it cannot
    /// be.
    pub(crate) fn note_name(&self, id: &str, name: &str) {
        let Some(path) = self.name_path(name) else {
            return;
        };
        if symlink(id, &path).is_err() {
            // Of a container that had the name before.
            let _ = fs::remove_file(&path);
            let _ = symlink(id, &path);
        }
    }

    /// Removes the link to a container that is gone; without its name all links are looked at.
    pub(crate) fn forget_name(&self, id: &str, name: Option<&str>) {
        let is_its = |path: &Path| fs::read_link(path).is_ok_and(|target| target.as_os_str() == id);
        if let Some(path) = name.and_then(|name| self.name_path(name)) {
            if is_its(&path) {
                let _ = fs::remove_file(path);
            }
            return;
        }
        let Ok(entries) = fs::read_dir(self.roots.run.join("names")) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if is_its(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// `None` for what is no name.
    fn name_path(&self, name: &str) -> Option<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let starts = name
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric);
        (starts && name.len() < 256 && name.bytes().all(plain))
            .then(|| self.roots.run.join("names").join(name))
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Roots;

    fn engine(run: &Path) -> Engine {
        fs::create_dir_all(run.join("names")).unwrap();
        Engine {
            roots: Roots {
                data: run.join("data"),
                run: run.to_owned(),
            },
            store: std::cell::OnceCell::new(),
        }
    }

    #[test]
    fn a_link_is_followed_only_to_a_record_that_agrees() {
        let directory = std::env::temp_dir().join(format!("gantry-names-{}", std::process::id()));
        let engine = engine(&directory);
        let (first, second) = ("a".repeat(64), "b".repeat(64));
        engine.note_name(&first, "web");
        assert!(engine.running("web").is_none(), "there is no record");
        assert!(engine.running("../names/web").is_none());
        assert!(engine.running("").is_none());
        // A container that got the name later keeps its link when the first one goes.
        engine.note_name(&second, "web");
        engine.forget_name(&first, Some("web"));
        engine.forget_name(&first, None);
        let path = directory.join("names/web");
        assert_eq!(fs::read_link(&path).unwrap().as_os_str(), &*second);
        engine.forget_name(&second, None);
        assert!(fs::read_link(&path).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
