//! Who answers for a filter with `SCMP_ACT_NOTIFY`: the seccomp agent at a profile's
//! `listenerPath`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_runtime::BirthError;
use gantry_runtime::birth::Birth;
use gantry_runtime::hooks::HookState;
use gantry_runtime::spec::Seccomp;

/// An agent, and what it is told of the container.
#[derive(Debug)]
pub struct Agent {
    /// Without its rules, which the agent does not need.
    profile: Seccomp,
    state: String,
}

impl Agent {
    /// The agent of a profile, if it has one; `pid` is the container's first process.
    ///
    /// # Errors
    /// [`BirthError::Invalid`] for a path that is not UTF-8.
    pub fn of(
        profile: Option<&Seccomp>,
        container: &str,
        directory: &Path,
        annotations: &BTreeMap<String, String>,
        status: &str,
        pid: i32,
    ) -> Result<Option<Agent>, BirthError> {
        let Some(profile) = profile.filter(|profile| profile.listener_path.is_some()) else {
            return Ok(None);
        };
        let state = HookState {
            id: container,
            bundle: directory,
            annotations,
        };
        Ok(Some(Agent {
            profile: Seccomp {
                listener_path: profile.listener_path.clone(),
                listener_metadata: profile.listener_metadata.clone(),
                ..Seccomp::default()
            },
            state: state.json(status, Some(pid))?,
        }))
    }

    /// Hands over what the filter asks by, and lets the process go on.
    ///
    /// # Errors
    /// [`BirthError`] if nobody is at the socket.
    pub fn give(&self, birth: &Birth, listener: &OwnedFd) -> Result<(), BirthError> {
        birth.deliver_listener(listener, &self.profile, &self.state)
    }
}
