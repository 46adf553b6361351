//! What a client is told when something does not work: the specification's error document.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::body::ServerBody;

/// A refusal with its status, its code (specification, "Error codes") and headers.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) headers: Vec<(HeaderName, String)>,
    /// What only the log says: paths and system errors are none of the client's business.
    pub(crate) internal: Option<String>,
}

impl Fault {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
            internal: None,
        }
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "UNKNOWN", message)
    }

    pub(crate) fn no_such_page() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "UNSUPPORTED",
            "there is nothing at this path",
        )
    }

    pub(crate) fn name_invalid(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", message)
    }

    pub(crate) fn name_unknown() -> Self {
        let message = "repository name not known to registry";
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
    }

    pub(crate) fn tag_invalid() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "TAG_INVALID", "invalid tag")
    }

    pub(crate) fn digest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(crate) fn size_invalid(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", message)
    }

    pub(crate) fn range_invalid(message: &str) -> Self {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        Self::new(status, "RANGE_INVALID", message)
    }

    pub(crate) fn number_invalid() -> Self {
        let message = "the number of results must be a whole number";
        Self::new(
            StatusCode::BAD_REQUEST,
            "PAGINATION_NUMBER_INVALID",
            message,
        )
    }

    pub(crate) fn blob_unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
            "blob unknown to registry",
        )
    }

    pub(crate) fn upload_unknown() -> Self {
        let message = "blob upload unknown to registry";
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
    }

    pub(crate) fn upload_busy() -> Self {
        let message = "another request is writing this upload";
        Self::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", message)
    }

    pub(crate) fn manifest_unknown() -> Self {
        Self::manifest_unacceptable("manifest unknown to registry")
    }

    pub(crate) fn manifest_unacceptable(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message)
    }

    pub(crate) fn manifest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
    }

    pub(crate) fn manifest_too_large(limit: u64) -> Self {
        let message = format!("a manifest may have {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", message)
    }

    /// The specification gives `PUT` of a manifest the failure 404.
    pub(crate) fn manifest_blob_unknown(digest: &str) -> Self {
        let message = format!("manifest references {digest}, which is unknown to the repository");
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message)
    }

    pub(crate) fn unsupported(message: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
    }

    pub(crate) fn method(allowed: &'static str) -> Self {
        Self::unsupported("the method is not allowed here")
            .with_header(hyper::header::ALLOW, allowed)
    }

    pub(crate) fn unauthorized(message: &str, challenge: String) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
            .with_header(hyper::header::WWW_AUTHENTICATE, challenge)
    }

    pub(crate) fn too_many(message: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
            .with_header(hyper::header::RETRY_AFTER, "5")
    }

    pub(crate) fn timed_out() -> Self {
        let message = "the request's body came too slowly";
        Self::new(StatusCode::REQUEST_TIMEOUT, "UNKNOWN", message)
            .with_header(hyper::header::CONNECTION, "close")
    }

    pub(crate) fn body_broke_off() -> Self {
        Self::bad_request("the request's body broke off")
    }

    pub(crate) fn upstream(message: &str, internal: String) -> Self {
        let mut fault = Self::new(StatusCode::BAD_GATEWAY, "UNKNOWN", message);
        fault.internal = Some(internal);
        fault
    }

    /// A failure of the registry itself. `error` goes to the log with its whole chain.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let full = is_full(error);
        let (status, message) = if full {
            (
                StatusCode::INSUFFICIENT_STORAGE,
                "the registry has no space left",
            )
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, "the registry failed")
        };
        let mut fault = Self::new(status, "UNKNOWN", message);
        fault.internal = Some(chain(error));
        fault
    }

    /// The answer.
    pub(crate) fn into_response(self) -> Response<ServerBody> {
        let document = json!({ "errors": [{ "code": self.code, "message": self.message }] });
        let mut response = Response::new(ServerBody::full(Bytes::from(document.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            );
        }
        next = error.source();
    }
    false
}
