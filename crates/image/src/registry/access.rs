//! What a request wants to do, in the words of Docker's token protocol.

/// The scopes of a token. Two requests with equal scopes share a token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Access {
    scopes: Vec<String>,
    writes: bool,
}

impl Access {
    /// No scope: the version check.
    pub(super) fn none() -> Self {
        Self::default()
    }

    pub(super) fn pull(repository: &str) -> Self {
        Self {
            scopes: vec![format!("repository:{repository}:pull")],
            writes: false,
        }
    }

    pub(super) fn push(repository: &str) -> Self {
        Self {
            scopes: vec![format!("repository:{repository}:pull,push")],
            writes: true,
        }
    }

    pub(super) fn delete(repository: &str) -> Self {
        Self {
            scopes: vec![format!("repository:{repository}:delete")],
            writes: true,
        }
    }

    /// To push to `repository` what `from` has.
    pub(super) fn mount(repository: &str, from: &str) -> Self {
        let mut access = Self::push(repository);
        access.scopes.push(format!("repository:{from}:pull"));
        access
    }

    pub(super) fn catalog() -> Self {
        Self {
            scopes: vec!["registry:catalog:*".to_owned()],
            writes: false,
        }
    }

    /// Whether it is about more than reading.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// The scopes to ask a token for. Those of the challenge come first: behind a path of its own
    /// a registry may know the repository by another name. Ours add what the challenge leaves
    /// out: it speaks of one request, and the token is for all of a push.
    pub(super) fn with_challenge(&self, challenge: Option<&str>) -> Vec<String> {
        let mut result: Vec<String> = challenge
            .into_iter()
            .flat_map(str::split_ascii_whitespace)
            .map(str::to_owned)
            .collect();
        if result.is_empty() {
            return self.scopes.clone();
        }
        for (number, scope) in self.scopes.iter().enumerate() {
            let Some((resource, actions)) = scope.rsplit_once(':') else {
                continue;
            };
            let same = result.iter_mut().find(|known| {
                known
                    .rsplit_once(':')
                    .is_some_and(|(known, _)| known == resource)
            });
            match same {
                Some(known) => {
                    for action in actions.split(',') {
                        let has = known
                            .rsplit_once(':')
                            .is_some_and(|(_, list)| list.split(',').any(|one| one == action));
                        if !has {
                            known.push(',');
                            known.push_str(action);
                        }
                    }
                }
                // The first is the repository itself, which the challenge names otherwise.
                None if number > 0 => result.push(scope.clone()),
                None => {}
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_merged() {
        for (access, challenge, expected) in [
            (Access::none(), None, vec![]),
            (
                Access::none(),
                Some("registry:catalog:*"),
                vec!["registry:catalog:*"],
            ),
            (Access::pull("a/b"), None, vec!["repository:a/b:pull"]),
            (Access::pull("a/b"), Some(""), vec!["repository:a/b:pull"]),
            (
                Access::pull("a/b"),
                Some("repository:cache/a/b:pull"),
                vec!["repository:cache/a/b:pull"],
            ),
            (
                Access::push("a/b"),
                Some("repository:a/b:pull"),
                vec!["repository:a/b:pull,push"],
            ),
            (
                Access::push("a/b"),
                Some("repository:a/b:push,pull"),
                vec!["repository:a/b:push,pull"],
            ),
            (
                Access::mount("a/b", "c"),
                Some("repository:a/b:pull,push"),
                vec!["repository:a/b:pull,push", "repository:c:pull"],
            ),
            (
                Access::mount("a/b", "c"),
                Some("repository:c:pull repository:a/b:push"),
                vec!["repository:c:pull", "repository:a/b:push,pull"],
            ),
        ] {
            assert_eq!(
                access.with_challenge(challenge),
                expected,
                "{access:?} {challenge:?}"
            );
        }
    }
}
