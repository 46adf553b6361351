//! One host of a registry: requests, redirects, retries and connections.

use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use ureq::http::header;
use ureq::http::{Method, Response};
use ureq::{Agent, SendBody};

use super::access::Access;
use super::auth::Token;
use super::error::{self, RegistryError};
use super::origin::{self, Origin, Reach, Url};
use super::transport::{self, Target, Trust};
use super::{ClientOptions, LoginFailure, Need, SMALL_BODY, dns, lock, read_capped, retry};
use crate::credentials::{CredentialSource, Login};
use crate::hosts::HostConfig;
use crate::reference::DEFAULT_REGISTRY;

/// Host of the registry that `docker.io` names.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Redirects that are followed for one request.
const REDIRECTS: u32 = 5;

/// One host that stands for a registry.
pub(super) struct Host {
    /// The registry's name if it is the registry itself: what its credentials are kept under.
    pub(super) name: String,
    /// `?ns=` for a mirror, so that it knows which registry is meant.
    namespace: Option<String>,
    pub(super) options: ClientOptions,
    config: HostConfig,
    /// Where it is by its configuration, which then also decides about TLS.
    fixed: Option<Origin>,
    trust: Trust,
    origin: OnceLock<Origin>,
    reach: OnceLock<Reach>,
    agents: Mutex<HashMap<Target, Agent>>,
    pub(super) tokens: Mutex<HashMap<Access, Token>>,
    pub(super) wants_basic: OnceLock<()>,
    /// Set when the host first asks: the lookup may run a program.
    pub(super) login: OnceLock<Result<Login, LoginFailure>>,
    down: AtomicBool,
}

/// A response, and where it came from after redirects.
pub(super) struct Answer {
    pub(super) url: Url,
    pub(super) response: Response<ureq::Body>,
}

/// What goes with a request.
pub(super) enum Payload<'a> {
    /// No body at all.
    None,
    /// These bytes; they can be sent again.
    Bytes(&'a [u8]),
    /// So many bytes of a reader.
    Stream { length: u64, body: &'a mut dyn Body },
}

/// A body that is sent as it is read.
pub(super) trait Body: Read {
    /// Goes to its beginning; called before every attempt.
    fn rewind(&mut self) -> Result<(), RegistryError>;
}

/// Where a request goes: a path on the host, or a place that the host named.
pub(super) enum Place<'a> {
    Path(&'a str),
    Url(&'a Url),
}

/// One request.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) place: Place<'a>,
    pub(super) access: &'a Access,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'a>,
    /// What it is about, for errors.
    pub(super) object: &'a str,
    /// Statuses that are no error.
    pub(super) expected: &'a [u16],
}

impl<'a> Request<'a> {
    pub(super) fn get(path: &'a str, access: &'a Access, object: &'a str) -> Self {
        Self {
            method: Method::GET,
            place: Place::Path(path),
            access,
            headers: Vec::new(),
            payload: Payload::None,
            object,
            expected: &[200, 206],
        }
    }
}

impl Host {
    pub(super) fn new(
        registry: &str,
        options: &ClientOptions,
        config: HostConfig,
    ) -> Result<Self, RegistryError> {
        let invalid = |registry: &str| RegistryError::InvalidName {
            registry: registry.to_owned(),
        };
        // The name is checked whatever stands for it.
        let own = origin_of(registry, true).ok_or_else(|| invalid(registry))?;
        let fixed = match &config.url {
            None => None,
            Some(url) => Some(
                Url::parse(&format!("{url}/"))
                    .ok_or_else(|| invalid(url))?
                    .origin,
            ),
        };
        let is_registry = fixed
            .as_ref()
            .is_none_or(|fixed| fixed.host == own.host && fixed.port == own.port);
        let name = match &fixed {
            Some(fixed) if !is_registry => fixed.authority(),
            _ => registry.to_owned(),
        };
        let mut options = options.clone();
        // What the user has given is for the registry, not for whoever stands for it.
        if !is_registry && matches!(options.credentials, CredentialSource::Given(_)) {
            options.credentials = CredentialSource::Nobody;
        }
        Ok(Self {
            namespace: (!is_registry).then(|| registry.to_owned()),
            name,
            trust: Trust {
                certificate_directories: options.certificate_directories.clone(),
                resolver: options.resolver.clone(),
                proxies: options.proxies.clone(),
                ca: config.ca.clone(),
                system: Arc::default(),
            },
            options,
            config,
            fixed,
            origin: OnceLock::new(),
            reach: OnceLock::new(),
            agents: Mutex::default(),
            tokens: Mutex::default(),
            wants_basic: OnceLock::new(),
            login: OnceLock::new(),
            down: AtomicBool::new(false),
        })
    }

    /// The registry's name, or the host's own if it only stands for it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn can(&self, need: Need) -> bool {
        let capabilities = self.config.capabilities;
        match need {
            Need::Pull => capabilities.pull,
            Need::Resolve => capabilities.resolve,
            Need::Push => capabilities.push,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    pub(super) fn is_local(&self) -> bool {
        self.origin_with(true)
            .is_some_and(|origin| origin.is_loopback())
    }

    /// Path and query of `/v2/REST` on this host. A mirror is told whose content is wanted.
    pub(super) fn api(&self, rest: &str) -> String {
        let path = format!("{}/{rest}", self.config.path);
        match &self.namespace {
            None => path,
            Some(namespace) => {
                let separator = if rest.contains('?') { '&' } else { '?' };
                format!(
                    "{path}{separator}ns={}",
                    super::auth::encode_query(namespace)
                )
            }
        }
    }

    /// Sends a request with authentication and retries; the status of the answer is one of those
    /// that are expected.
    pub(super) fn send(&self, request: &mut Request<'_>) -> Result<Answer, RegistryError> {
        let own = self.origin()?;
        let url = match request.place {
            Place::Path(path) => own.url(path),
            Place::Url(url) => url.clone(),
        };
        // A body that streams may have arrived in part; what then is for the caller to find out.
        let repeats = !matches!(request.payload, Payload::Stream { .. });
        let (mut retries, mut challenged) = (0, false);
        loop {
            // What belongs to the host goes to no other place, also if the host names it.
            let authorization = if url.origin == *own {
                self.authorization(request.access, request.object)?
            } else {
                None
            };
            let result = self.follow(&url, request, authorization.as_deref());
            let wait = match &result {
                Ok(answer) if request.expected.contains(&answer.status()) => return result,
                Ok(answer)
                    if answer.status() == 401 && !challenged && answer.url.origin == *own =>
                {
                    // Once per request: a registry that refuses what it asked for will not change its mind.
                    challenged = true;
                    self.meet_challenge(request.access, answer.headers(), request.object)?;
                    continue;
                }
                Ok(answer) if retry::is_temporary(answer.status()) => {
                    let asked = retry::asked_wait(answer.headers(), SystemTime::now());
                    let asked = asked.unwrap_or_default();
                    if asked > self.options.retry.longest {
                        return Err(self.rate_limited(request.object, result?, asked));
                    }
                    Some(asked)
                }
                Ok(_) => None,
                Err(error) if error.is_temporary() => Some(Duration::ZERO),
                Err(_) => None,
            };
            match wait {
                Some(wait) if repeats && retries < self.options.retry.retries => {
                    self.options.retry.pause(retries, wait);
                    retries += 1;
                }
                _ => {
                    let authorized = authorization.is_some();
                    return Err(self.refusal(request, result?, authorized));
                }
            }
        }
    }

    fn rate_limited(&self, object: &str, answer: Answer, wait: Duration) -> RegistryError {
        let status = answer.status();
        let message = error::message_of(&self.error_body(answer));
        RegistryError::RateLimited {
            registry: self.name.clone(),
            object: object.to_owned(),
            status,
            seconds: wait.as_secs(),
            message,
        }
    }

    fn error_body(&self, answer: Answer) -> Vec<u8> {
        read_capped(answer.response, SMALL_BODY)
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// What a status that was not expected means to the user.
    fn refusal(&self, request: &Request<'_>, answer: Answer, authorized: bool) -> RegistryError {
        let status = answer.status();
        let wait = retry::asked_wait(answer.headers(), SystemTime::now()).unwrap_or_default();
        let message = error::message_of(&self.error_body(answer));
        let (registry, object) = (self.name.clone(), request.object.to_owned());
        match status {
            401 | 403 => self.denied(object, message, status, authorized, request.access),
            404 => RegistryError::NotFound {
                registry,
                object,
                message,
            },
            _ => RegistryError::Status {
                registry,
                object,
                status,
                message,
                wait,
            },
        }
    }

    /// Sends a request once and follows redirects. `authorization` goes to the origin of `url`
    /// only (CVE-2020-15157, CVE-2026-50151), and so do the headers that are configured.
    fn follow(
        &self,
        url: &Url,
        request: &mut Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        let first = url;
        let mut url = url.clone();
        // A place that the host named is as little trusted as the target of a redirect.
        let mut least = if url.origin == *self.origin()? {
            Reach::Own
        } else {
            let from = self.origin()?.url("/");
            self.judge_redirect(&from, &url)?
        };
        for _ in 0..=REDIRECTS {
            let response = self.call(&url, least, request, authorization, first)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { url, response });
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok());
            let target = location
                .and_then(|location| url.join(location))
                .ok_or_else(|| {
                    let location = location.unwrap_or("nowhere").chars().take(160).collect();
                    RegistryError::RedirectMalformed {
                        from: url.origin.to_string(),
                        location,
                    }
                })?;
            least = self.judge_redirect(&url, &target)?;
            url = target;
        }
        Err(RegistryError::TooManyRedirects {
            url: first.origin.to_string(),
            limit: REDIRECTS,
        })
    }

    /// The least reach of what `target` resolves to, if one may go there at all.
    pub(super) fn judge_redirect(&self, from: &Url, target: &Url) -> Result<Reach, RegistryError> {
        let reach = if target.origin.host == self.origin()?.host {
            Reach::Own
        } else {
            self.reach()?
        };
        origin::check_redirect(from, target, reach)?;
        Ok(origin::least_reach_of_redirect(reach))
    }

    /// One exchange.
    fn call(
        &self,
        url: &Url,
        least: Reach,
        request: &mut Request<'_>,
        authorization: Option<&str>,
        first: &Url,
    ) -> Result<Response<ureq::Body>, RegistryError> {
        let failed = |error| RegistryError::transport(&url.origin, error);
        let agent = self.agent(&url.origin, least)?;
        let mut builder = ureq::http::Request::builder()
            .method(request.method.clone())
            .uri(url.to_string());
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if url.origin == *self.origin()? {
            for (name, value) in &self.config.headers {
                builder = builder.header(name, value);
            }
        }
        if let Some(authorization) = authorization
            && url.origin == first.origin
        {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        let bad = |error: ureq::http::Error| failed(ureq::Error::Http(error));
        match &mut request.payload {
            Payload::None => agent.run(builder.body(SendBody::none()).map_err(bad)?),
            Payload::Bytes(bytes) => agent.run(builder.body(*bytes).map_err(bad)?),
            Payload::Stream { length, body } => {
                body.rewind()?;
                let mut reader = (&mut **body).take(*length);
                let builder = builder.header(header::CONTENT_LENGTH, *length);
                agent.run(
                    builder
                        .body(SendBody::from_reader(&mut reader))
                        .map_err(bad)?,
                )
            }
        }
        .map_err(failed)
    }

    pub(super) fn agent(&self, origin: &Origin, least: Reach) -> Result<Agent, RegistryError> {
        let is_own = match &self.fixed {
            Some(fixed) => fixed == origin,
            None => self.origin_with(origin.secure).as_ref() == Some(origin),
        };
        let target = Target {
            origin: origin.clone(),
            least,
            insecure: self.is_insecure(origin) || (is_own && self.config.skip_verify),
        };
        if let Some(agent) = lock(&self.agents).get(&target) {
            return Ok(agent.clone());
        }
        // Not under the lock: it reads certificates. Two threads may both make one.
        let client = if is_own { &self.config.client[..] } else { &[] };
        let agent = transport::agent(&target, &self.trust, client, &self.options.user_agent)?;
        Ok(lock(&self.agents).entry(target).or_insert(agent).clone())
    }

    fn is_insecure(&self, origin: &Origin) -> bool {
        origin.is_loopback()
            || self.options.insecure_registries.iter().any(|listed| {
                Origin::of_registry(listed, true).is_some_and(|listed| {
                    // A name without a port means the default port of whichever scheme is used.
                    listed.host == origin.host
                        && (listed.port == origin.port || (listed.port == 443 && origin.port == 80))
                })
            })
    }

    fn origin_with(&self, secure: bool) -> Option<Origin> {
        match &self.fixed {
            Some(fixed) => Some(fixed.clone()),
            None => origin_of(&self.name, secure),
        }
    }

    /// Where the host is. Clear text is tried only where it is allowed, and only after TLS
    /// (CVE-2014-5277).
    pub(super) fn origin(&self) -> Result<&Origin, RegistryError> {
        if let Some(origin) = self.origin.get() {
            return Ok(origin);
        }
        let invalid = || RegistryError::InvalidName {
            registry: self.name.clone(),
        };
        let secure = self.origin_with(true).ok_or_else(invalid)?;
        let plain = self.origin_with(false).ok_or_else(invalid)?;
        let open = self.is_insecure(&secure) || self.is_insecure(&plain);
        let chosen = if self.fixed.is_none() && open {
            match self
                .agent(&secure, Reach::Own)?
                .get(secure.url(&self.api("")).to_string())
                .call()
            {
                Ok(_) => secure,
                Err(_) => plain,
            }
        } else {
            secure
        };
        Ok(self.origin.get_or_init(|| chosen))
    }

    /// From where the host is reachable. What cannot be resolved (behind a proxy) is taken as
    /// public, which allows it the least.
    pub(super) fn reach(&self) -> Result<Reach, RegistryError> {
        if let Some(reach) = self.reach.get() {
            return Ok(*reach);
        }
        let host = &self.origin()?.host;
        let least = |addresses: Vec<IpAddr>| addresses.into_iter().map(origin::reach).min();
        let found = dns::resolve(host, &self.options.resolver)
            .ok()
            .and_then(least)
            .unwrap_or(Reach::Public);
        Ok(*self.reach.get_or_init(|| found))
    }
}

fn origin_of(registry: &str, secure: bool) -> Option<Origin> {
    let host = if registry == DEFAULT_REGISTRY {
        DOCKER_HUB
    } else {
        registry
    };
    Origin::of_registry(host, secure)
}
