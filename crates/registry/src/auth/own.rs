//! Tokens that this registry issues itself, for a file of users together with anonymous pulls.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::{Value, json};

use super::{Grants, Users, UsersError};

/// How long a token lives, in seconds.
const LIFE: u64 = 300;

/// Signs with a key that ends with the process: a client whose token is refused asks for another.
pub(crate) struct Issuer {
    key: hmac::Key,
}

impl Issuer {
    pub(crate) fn new() -> Result<Self, UsersError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self {
            key: key.map_err(|_| UsersError::Random)?,
        })
    }

    /// The token endpoint's answer for a user, or for nobody.
    pub(crate) fn issue(&self, user: Option<&str>) -> Value {
        let claims = json!({ "sub": user.unwrap_or_default(), "exp": now() + LIFE }).to_string();
        let body = URL_SAFE_NO_PAD.encode(claims);
        let tag = hmac::sign(&self.key, body.as_bytes());
        let token = format!("{body}.{}", URL_SAFE_NO_PAD.encode(tag));
        json!({ "token": token, "access_token": token, "expires_in": LIFE })
    }

    /// What the bearer may do; `None` if the token is not ours or too old, or its user is gone.
    pub(crate) async fn verify(&self, token: &str, users: &Arc<Users>) -> Option<Grants> {
        let user = self.user(token)?;
        if user.is_empty() {
            return Some(Grants::PullEverything);
        }
        users.knows(user).await.then_some(Grants::Everything)
    }

    fn user(&self, token: &str) -> Option<String> {
        let (body, tag) = token.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.key, body.as_bytes(), &tag).ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        let fresh = claims["exp"].as_u64()? > now();
        fresh.then(|| claims["sub"].as_str().map(str::to_owned))?
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_tokens_count() {
        let (ours, theirs) = (Issuer::new().unwrap(), Issuer::new().unwrap());
        let token = ours.issue(Some("a"))["token"].as_str().unwrap().to_owned();
        assert_eq!(ours.user(&token).as_deref(), Some("a"));
        assert_eq!(theirs.user(&token), None);
        let (_, tag) = token.split_once('.').unwrap();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"b","exp":99999999999}"#);
        assert_eq!(ours.user(&format!("{forged}.{tag}")), None);
        for token in ["", ".", "a.b", &format!("{forged}.")] {
            assert_eq!(ours.user(token), None, "{token}");
        }
    }
}
