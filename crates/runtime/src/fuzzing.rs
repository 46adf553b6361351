//! All of reading a configuration that asks nothing of the kernel, in one call: what the
//! fuzzer in `tests` tries, and not for other use.

use std::path::Path;

use crate::cgroup::{self, Driver, Layout, Placement, Unit};
use crate::hooks::HookState;
use crate::seccomp::Architecture;
use crate::spec::{Linux, Spec};
use crate::{options, path, process, seccomp, validate};

/// Reads a configuration as a birth does, and returns what is wrong with it. That is as
/// good as nothing: what must not happen is a panic.
#[must_use]
pub fn read(spec: &Spec, layout: &Layout) -> Vec<String> {
    let mut errors = Errors(Vec::new());
    errors.add(validate::check(spec, &[]));
    for mount in &spec.mounts {
        let _ = options::parse(&mount.options);
        let _ = path::clean(&mount.destination);
    }
    let no_linux = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&no_linux);
    if let Some(process) = &spec.process {
        errors.add(process::prepare(process, Some(linux)));
        let _ = path::clean(&process.cwd);
    }
    if let Some(profile) = &linux.seccomp {
        errors.add(seccomp::compile_for(profile, Architecture::Aarch64));
    }
    let resources = cgroup::with_default_devices(linux.resources.as_ref());
    cgroup::fuzzing::read(&resources, layout, &mut |result| errors.add(result));
    let place = &linux.cgroups_path;
    errors.add(Placement::resolve(
        Driver::Cgroupfs,
        layout,
        place,
        "id",
        false,
    ));
    let unit = Placement {
        unit: Some(Unit::default()),
        ..Placement::default()
    };
    errors.add(unit.with_annotations(&spec.annotations));
    let state = HookState {
        id: &spec.hostname,
        bundle: Path::new(place),
        annotations: &spec.annotations,
    };
    errors.add(state.json("creating", Some(1)));
    errors.0
}

struct Errors(Vec<String>);

impl Errors {
    fn add<T>(&mut self, result: Result<T, impl std::error::Error>) {
        if let Err(error) = result {
            self.0.push(error.to_string());
        }
    }
}
