//! Who may do what.
//!
//! Three ways: everybody everything; users of a file (HTTP Basic); tokens signed by somebody else.
//! With a file and anonymous pulls the registry issues tokens of its own, because a client that
//! is let in without credentials would not offer them later, and one that is asked for Basic
//! credentials would not go on without any.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap};

use crate::fault::Fault;
use crate::name::{RepositoryName, Route};
use crate::options::Log;

mod certificate;
mod htpasswd;
mod own;
mod token;

pub(crate) use htpasswd::Users;
pub use htpasswd::UsersError;
pub(crate) use token::TokenVerifier;
pub use token::{TokenError, TokenOptions};

/// Where this registry issues its own tokens; no repository can have this name.
pub(crate) const TOKEN_PATH: &str = "/v2/_token";

/// Longest `Authorization` that is looked at, in bytes.
const AUTHORIZATION_LENGTH: usize = 32 << 10;

/// Who is let in.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Everybody, for everything.
    #[default]
    Open,
    /// The users of a file in the form of Apache's htpasswd, with bcrypt hashes only. It is read
    /// again when it has changed.
    Users {
        /// The file.
        file: PathBuf,
        /// Whether everybody else may pull.
        anonymous_pull: bool,
    },
    /// Bearers of tokens that a token service signed.
    Tokens(TokenOptions),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    /// What a request needs in its repository.
    fn of(method: &Method, route: &Route) -> Self {
        match (method, route) {
            (&Method::GET | &Method::HEAD, Route::Upload(..)) => Self::Push,
            (&Method::GET | &Method::HEAD, _) => Self::Pull,
            (&Method::DELETE, Route::Upload(..)) => Self::Push,
            (&Method::DELETE, _) => Self::Delete,
            _ => Self::Push,
        }
    }
}

/// What the sender of a request may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Grants {
    Everything,
    PullEverything,
    Listed(Vec<Grant>),
}

/// One entry of a token's `access`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

impl Grants {
    pub(crate) fn allow(&self, name: &RepositoryName, action: Action) -> bool {
        match self {
            Self::Everything => true,
            Self::PullEverything => action == Action::Pull,
            Self::Listed(_) => self.listed("repository", name.as_str(), action.word()),
        }
    }

    fn allow_catalog(&self) -> bool {
        match self {
            Self::Everything => true,
            // Who may pull what he knows the name of is not told all names.
            Self::PullEverything => false,
            Self::Listed(_) => self.listed("registry", "catalog", "*"),
        }
    }

    fn listed(&self, kind: &str, name: &str, wanted: &str) -> bool {
        let Self::Listed(grants) = self else {
            return false;
        };
        grants.iter().any(|grant| {
            grant.kind == kind
                && grant.name == name
                && grant
                    .actions
                    .iter()
                    .any(|action| action == wanted || action == "*")
        })
    }
}

/// The gatekeeper.
pub(crate) enum Gate {
    Open,
    Users {
        users: Arc<Users>,
        /// Set with anonymous pulls.
        tokens: Option<own::Issuer>,
    },
    Tokens(Box<TokenVerifier>),
}

/// Why the gatekeeper cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file of users.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The token service's certificates.
    #[error(transparent)]
    Tokens(#[from] TokenError),
}

/// How this registry is called from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublicUrl {
    pub(crate) given: Option<String>,
    pub(crate) secure: bool,
}

impl PublicUrl {
    fn of(&self, headers: &HeaderMap) -> String {
        if let Some(given) = &self.given {
            return given.trim_end_matches('/').to_owned();
        }
        let plain = |host: &&str| {
            host.bytes().all(|byte| {
                byte.is_ascii_alphanumeric()
                    || matches!(byte, b'.' | b':' | b'-' | b'_' | b'[' | b']')
            })
        };
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.filter(plain).unwrap_or("localhost");
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{host}")
    }
}

impl Gate {
    pub(crate) fn new(access: &Access, log: &Log) -> Result<Self, AccessError> {
        Ok(match access {
            Access::Open => Self::Open,
            Access::Users {
                file,
                anonymous_pull,
            } => Self::Users {
                users: Arc::new(Users::open(file, log.clone())?),
                tokens: if *anonymous_pull {
                    Some(own::Issuer::new()?)
                } else {
                    None
                },
            },
            Access::Tokens(options) => Self::Tokens(Box::new(TokenVerifier::new(options)?)),
        })
    }

    /// Decides on a request before anything of its body is read.
    pub(crate) async fn admit(
        &self,
        method: &Method,
        route: &Route,
        headers: &HeaderMap,
        url: &PublicUrl,
    ) -> Result<Grants, Fault> {
        let wanted = route
            .repository()
            .map(|name| (name, Action::of(method, route)));
        let allowed = |grants: &Grants| match (wanted, route) {
            (Some((name, action)), _) => grants.allow(name, action),
            (None, Route::Catalog) => grants.allow_catalog(),
            (None, _) => true,
        };
        let presented = presented(headers);
        match self {
            Self::Open => Ok(Grants::Everything),
            Self::Users { users, tokens } => {
                let challenge = || match tokens {
                    Some(_) => {
                        let url = url.of(headers);
                        bearer(&format!("{url}{TOKEN_PATH}"), "gantry", wanted, route)
                    }
                    None => "Basic realm=\"gantry registry\", charset=\"UTF-8\"".to_owned(),
                };
                let grants = match presented {
                    Presented::Basic(user, password) => users
                        .verify(user, password)
                        .await
                        .then_some(Grants::Everything),
                    Presented::Bearer(token) => match tokens {
                        Some(tokens) => tokens.verify(&token, users).await,
                        None => None,
                    },
                    Presented::Nothing | Presented::Malformed => None,
                };
                let grants = grants
                    .ok_or_else(|| Fault::unauthorized("authentication required", challenge()))?;
                if allowed(&grants) {
                    Ok(grants)
                } else {
                    Err(Fault::unauthorized("access denied", challenge()))
                }
            }
            Self::Tokens(verifier) => {
                let options = verifier.options();
                let challenge = |error: &str| {
                    let challenge = bearer(&options.realm, &options.service, wanted, route);
                    match error {
                        "" => challenge,
                        error => format!("{challenge},error=\"{error}\""),
                    }
                };
                let Presented::Bearer(token) = presented else {
                    return Err(Fault::unauthorized(
                        "authentication required",
                        challenge(""),
                    ));
                };
                let grants = verifier.verify(&token).map_err(|reason| {
                    Fault::unauthorized(&reason.to_string(), challenge("invalid_token"))
                })?;
                if allowed(&grants) {
                    Ok(grants)
                } else {
                    let challenge = challenge("insufficient_scope");
                    Err(Fault::unauthorized("access denied", challenge))
                }
            }
        }
    }

    /// Issues a token of this registry; `None` if it issues none.
    pub(crate) async fn issue(
        &self,
        headers: &HeaderMap,
    ) -> Option<Result<serde_json::Value, Fault>> {
        let Self::Users {
            users,
            tokens: Some(tokens),
        } = self
        else {
            return None;
        };
        let challenge = || "Basic realm=\"gantry registry\", charset=\"UTF-8\"".to_owned();
        let refused = || Fault::unauthorized("wrong user or password", challenge());
        Some(match presented(headers) {
            Presented::Nothing => Ok(tokens.issue(None)),
            Presented::Basic(user, password) => {
                if users.verify(user.clone(), password).await {
                    Ok(tokens.issue(Some(&user)))
                } else {
                    Err(refused())
                }
            }
            Presented::Bearer(_) | Presented::Malformed => Err(refused()),
        })
    }
}

/// `WWW-Authenticate` for a bearer token.
fn bearer(
    realm: &str,
    service: &str,
    wanted: Option<(&RepositoryName, Action)>,
    route: &Route,
) -> String {
    let scope = match (wanted, route) {
        // Who pushes looks first whether the blob is there.
        (Some((name, Action::Push)), _) => format!(",scope=\"repository:{name}:pull,push\""),
        (Some((name, action)), _) => format!(",scope=\"repository:{name}:{}\"", action.word()),
        (None, Route::Catalog) => ",scope=\"registry:catalog:*\"".to_owned(),
        (None, _) => String::new(),
    };
    format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}")
}

/// Credentials as they came.
#[derive(Debug, PartialEq, Eq)]
enum Presented {
    Nothing,
    Basic(String, String),
    Bearer(String),
    Malformed,
}

fn presented(headers: &HeaderMap) -> Presented {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Presented::Nothing;
    };
    let value = value.to_str().ok().filter(|value| {
        // Two of them could be read differently by whoever stands in front of this.
        value.len() <= AUTHORIZATION_LENGTH && values.next().is_none()
    });
    let Some((scheme, rest)) = value.and_then(|value| value.trim().split_once(' ')) else {
        return Presented::Malformed;
    };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Presented::Bearer(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Presented::Malformed;
    }
    let decoded = STANDARD
        .decode(rest)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((user, password)) => Presented::Basic(user.to_owned(), password.to_owned()),
        None => Presented::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn credentials_are_read_strictly() {
        let basic = |user: &str, password: &str| Presented::Basic(user.into(), password.into());
        for (value, expected) in [
            ("Basic YTpi", basic("a", "b")),
            ("basic YTpiOmM=", basic("a", "b:c")),
            ("Bearer x.y.z", Presented::Bearer("x.y.z".into())),
            ("Basic YQ==", Presented::Malformed),
            ("Basic !", Presented::Malformed),
            ("Digest x", Presented::Malformed),
            ("Basic", Presented::Malformed),
        ] {
            let mut headers = HeaderMap::new();
            assert_eq!(presented(&headers), Presented::Nothing);
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(presented(&headers), expected, "{value}");
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(presented(&headers), Presented::Malformed, "twice {value}");
        }
    }

    /// CVE-2026-41888, CVE-2026-31801: no method slips through with another one's right.
    #[test]
    fn methods_need_their_action() {
        let name = RepositoryName::parse("a").unwrap();
        let digest = gantry_image::Digest::of(b"");
        let tag = crate::name::ManifestReference::Tag("t".into());
        let id = crate::name::UploadId::parse(&"0".repeat(32)).unwrap();
        let manifest = Route::Manifest(name.clone(), tag);
        let blob = Route::Blob(name.clone(), digest);
        let upload = Route::Upload(name.clone(), id);
        for (method, route, expected) in [
            (Method::GET, &manifest, Action::Pull),
            (Method::HEAD, &manifest, Action::Pull),
            (Method::PUT, &manifest, Action::Push),
            (Method::DELETE, &manifest, Action::Delete),
            (Method::GET, &blob, Action::Pull),
            (Method::DELETE, &blob, Action::Delete),
            (Method::GET, &upload, Action::Push),
            (Method::PATCH, &upload, Action::Push),
            (Method::DELETE, &upload, Action::Push),
            (Method::PUT, &upload, Action::Push),
            (Method::OPTIONS, &blob, Action::Push),
        ] {
            assert_eq!(Action::of(&method, route), expected, "{method} {route:?}");
        }
        let grants = Grants::Listed(vec![Grant {
            kind: "repository".into(),
            name: "a".into(),
            actions: vec!["pull".into(), "push".into()],
        }]);
        assert!(grants.allow(&name, Action::Pull) && grants.allow(&name, Action::Push));
        assert!(!grants.allow(&name, Action::Delete) && !grants.allow_catalog());
        assert!(!grants.allow(&RepositoryName::parse("a/b").unwrap(), Action::Pull));
        assert!(!Grants::PullEverything.allow(&name, Action::Push));
        assert!(!Grants::PullEverything.allow_catalog());
    }
}
