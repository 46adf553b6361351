//! Getting in: what the client does about a 401.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::http::Response;
use ureq::http::header::{self, HeaderMap};

use super::access::Access;
use super::auth::{self, Challenge, Credentials, Token, TokenOrigin};
use super::error::{self, RegistryError};
use super::host::Host;
use super::origin::{self, Reach, Url};
use super::{LoginFailure, SMALL_BODY, lock, read_capped, retry};
use crate::credentials::{CredentialError, Login};

impl Host {
    /// The value of an `Authorization` header, if the host has asked for one before. A token that
    /// has run out is fetched again, since a long upload cannot be repeated after a 401.
    pub(super) fn authorization(
        &self,
        access: &Access,
        object: &str,
    ) -> Result<Option<String>, RegistryError> {
        let expired = match lock(&self.tokens).get(access) {
            Some(token) => match token.header() {
                Some(header) => return Ok(Some(header)),
                None => Some(token.origin().clone()),
            },
            None => None,
        };
        if let Some(origin) = expired {
            let token = self.fetch_token(origin, object)?;
            let header = token.header();
            lock(&self.tokens).insert(access.clone(), token);
            return Ok(header);
        }
        let login = match (self.wants_basic.get(), self.login.get()) {
            (Some(()), Some(Ok(login))) => login,
            _ => return Ok(None),
        };
        Ok(login.credentials.as_ref().map(Credentials::basic))
    }

    /// Looks the credentials up, once and only for this registry's name, whatever it answers.
    fn login(&self) -> &Result<Login, LoginFailure> {
        self.login
            .get_or_init(|| self.options.credentials.find(&self.name).map_err(Arc::new))
    }

    /// Why stored credentials were not used although the registry asked, if it went on without.
    pub(super) fn unused_credentials(&self) -> Option<&CredentialError> {
        self.login.get()?.as_ref().err().map(Arc::as_ref)
    }

    fn without_credentials(&self, object: &str, source: &LoginFailure) -> RegistryError {
        RegistryError::Credentials {
            registry: self.name.clone(),
            object: object.to_owned(),
            source: source.clone(),
        }
    }

    /// What a 401 or 403 means to the user. `authorized` says whether the request had credentials
    /// or a token.
    pub(super) fn denied(
        &self,
        object: String,
        message: Option<String>,
        status: u16,
        authorized: bool,
        access: &Access,
    ) -> RegistryError {
        let verb = if access.writes() { "write" } else { "read" };
        let hint = match self.login.get() {
            Some(Err(source)) => return self.without_credentials(&object, source),
            Some(Ok(login)) if login.credentials.is_none() => {
                format!("it does not exist, or {}", login.missing(&self.name))
            }
            Some(Ok(login)) if authorized && status == 401 => {
                format!("{}, or the user may not {verb} it", login.wrong())
            }
            Some(Ok(_)) if authorized => {
                format!("the user may not {verb} it, or it does not exist")
            }
            // It has not asked for credentials.
            _ => "it does not exist, or a login is needed".to_owned(),
        };
        RegistryError::Denied {
            registry: self.name.clone(),
            object,
            message,
            hint,
        }
    }

    /// Does what a 401 asks for, so that the request can be repeated.
    pub(super) fn meet_challenge(
        &self,
        access: &Access,
        headers: &HeaderMap,
        object: &str,
    ) -> Result<(), RegistryError> {
        let values = headers.get_all(header::WWW_AUTHENTICATE);
        let denied = |hint: String| {
            let (registry, object) = (self.name.clone(), object.to_owned());
            RegistryError::Denied {
                registry,
                object,
                message: None,
                hint,
            }
        };
        match auth::parse_challenges(values.iter().filter_map(|value| value.to_str().ok())) {
            None => Err(denied(
                "the registry asks for a kind of login that is not supported".to_owned(),
            )),
            Some(Challenge::Basic) => {
                let login = match self.login() {
                    Err(source) => return Err(self.without_credentials(object, source)),
                    Ok(login) => login,
                };
                let Some(credentials) = &login.credentials else {
                    return Err(denied(login.missing(&self.name)));
                };
                if credentials.identity_token.is_some() && credentials.password.is_empty() {
                    return Err(denied(format!(
                        "the registry asks for a password, and {} has only an identity token",
                        login.place
                    )));
                }
                self.wants_basic.get_or_init(|| ());
                Ok(())
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let origin = TokenOrigin {
                    realm,
                    service,
                    scopes: access.with_challenge(scope.as_deref()),
                };
                let token = self.fetch_token(origin, object)?;
                lock(&self.tokens).insert(access.clone(), token);
                Ok(())
            }
        }
    }

    fn fetch_token(&self, origin: TokenOrigin, object: &str) -> Result<Token, RegistryError> {
        let registry = self.origin()?;
        let asked = &origin;
        let shown = || asked.realm.chars().take(160).collect::<String>();
        let realm = Url::parse(&asked.realm).ok_or_else(|| RegistryError::RealmRefused {
            registry: self.name.clone(),
            realm: shown(),
            reason: "it is not an http or https URL",
        })?;
        let credentials = match self.login() {
            Ok(login) => login.credentials.as_ref(),
            // Anybody may get a token for what is public.
            Err(source) if source.is_of_helper() => None,
            Err(source) => return Err(self.without_credentials(object, source)),
        };
        let reach = if realm.origin.host == registry.host {
            Reach::Own
        } else {
            self.reach()?
        };
        origin::check_realm(registry, &self.name, &realm, reach, credentials.is_some())?;
        let mut parameters = Vec::new();
        if let Some(service) = &asked.service {
            parameters.push(format!("service={}", auth::encode_query(service)));
        }
        let least = origin::least_reach_of_realm(reach);
        let mut retries = 0;
        loop {
            let result = self.ask_for_token(
                &realm,
                parameters.clone(),
                &asked.scopes,
                credentials,
                least,
            );
            let wait = match &result {
                Ok(response) if retry::is_temporary(response.status().as_u16()) => {
                    let asked = retry::asked_wait(response.headers(), SystemTime::now());
                    Some(asked.unwrap_or_default())
                }
                Err(error) if error.is_temporary() => Some(Duration::ZERO),
                _ => None,
            };
            if let Some(wait) = wait
                && retries < self.options.retry.retries
                && wait <= self.options.retry.longest
            {
                self.options.retry.pause(retries, wait);
                retries += 1;
                continue;
            }
            let response = result?;
            let status = response.status().as_u16();
            let body = read_capped(response, SMALL_BODY)
                .map_err(|source| RegistryError::Body {
                    registry: self.name.clone(),
                    object: "token".into(),
                    source,
                })?
                .unwrap_or_default();
            return match status {
                200 => Token::parse(&body, origin).ok_or_else(|| RegistryError::TokenMalformed {
                    registry: self.name.clone(),
                    realm: realm.origin.to_string(),
                }),
                401 | 403 => Err(self.token_denied(object, error::message_of(&body))),
                _ => Err(RegistryError::Status {
                    registry: realm.origin.to_string(),
                    object: "token".to_owned(),
                    status,
                    message: error::message_of(&body),
                    wait: Duration::ZERO,
                }),
            };
        }
    }

    fn token_denied(&self, object: &str, message: Option<String>) -> RegistryError {
        let hint = match self.login() {
            Err(source) => return self.without_credentials(object, source),
            Ok(login) if login.credentials.is_none() => login.missing(&self.name),
            Ok(login) => login.wrong(),
        };
        RegistryError::Denied {
            registry: self.name.clone(),
            object: object.to_owned(),
            message,
            hint,
        }
    }

    /// One request to a token endpoint. Redirects are not followed: an endpoint has no reason to
    /// send anybody with credentials elsewhere.
    fn ask_for_token(
        &self,
        realm: &Url,
        mut parameters: Vec<String>,
        scopes: &[String],
        credentials: Option<&Credentials>,
        least: Reach,
    ) -> Result<Response<ureq::Body>, RegistryError> {
        let agent = self.agent(&realm.origin, least)?;
        let result = match credentials {
            Some(Credentials {
                identity_token: Some(refresh),
                ..
            }) => {
                if !scopes.is_empty() {
                    parameters.push(format!("scope={}", auth::encode_query(&scopes.join(" "))));
                }
                parameters.push("grant_type=refresh_token&client_id=gantry".to_owned());
                parameters.push(format!("refresh_token={}", auth::encode_query(refresh)));
                agent
                    .post(realm.to_string())
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .send(parameters.join("&"))
            }
            _ => {
                for scope in scopes {
                    parameters.push(format!("scope={}", auth::encode_query(scope)));
                }
                if let Some(credentials) = credentials {
                    parameters.push(format!(
                        "account={}",
                        auth::encode_query(&credentials.username)
                    ));
                }
                let separator = if realm.path.contains('?') { '&' } else { '?' };
                let mut request = agent.get(format!("{realm}{separator}{}", parameters.join("&")));
                if let Some(credentials) = credentials {
                    request = request.header(header::AUTHORIZATION, credentials.basic());
                }
                request.call()
            }
        };
        result.map_err(|error| RegistryError::transport(&realm.origin, error))
    }
}
