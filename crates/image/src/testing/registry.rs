//! A registry in memory, with every fault that a test wants.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use super::{Reply, Request, Server};
use crate::digest::Digest;

/// Looks at a request before it is answered; its reply replaces the registry's.
pub(crate) type Fault = dyn Fn(&Request) -> Option<Reply> + Send + Sync;
pub(crate) type Break = dyn Fn(&Request) -> Option<usize> + Send + Sync;

/// What the registry holds.
#[derive(Default)]
pub(crate) struct Content {
    /// By repository and digest.
    pub(crate) blobs: HashMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    pub(crate) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// By number.
    pub(crate) uploads: BTreeMap<usize, Vec<u8>>,
    next: usize,
    /// Bytes of all bodies of uploads.
    pub(crate) received: usize,
}

/// How the registry is.
pub(crate) struct Behaviour {
    pub(crate) fault: Box<Fault>,
    pub(crate) breaks: Box<Break>,
    /// Whether it mounts blobs.
    pub(crate) mounts: bool,
    /// Whether it keeps what came of a broken request.
    pub(crate) keeps_broken: bool,
    /// Whether it has the API for referrers.
    pub(crate) referrers: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            fault: Box::new(|_| None),
            breaks: Box::new(|_| None),
            mounts: true,
            keeps_broken: true,
            referrers: true,
        }
    }
}

impl Behaviour {
    pub(crate) fn fault(
        mut self,
        fault: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        self.fault = Box::new(fault);
        self
    }

    pub(crate) fn breaks(
        mut self,
        breaks: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static,
    ) -> Self {
        self.breaks = Box::new(breaks);
        self
    }
}

pub(crate) struct Registry {
    pub(crate) server: Server,
    pub(crate) content: Arc<Mutex<Content>>,
}

impl Registry {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let content = Arc::new(Mutex::new(Content::default()));
        let shared = content.clone();
        let behaviour = Arc::new(behaviour);
        let breaking = behaviour.clone();
        let server = Server::start_breaking(
            move |request| {
                let broken = (behaviour.breaks)(request).is_some();
                if broken && !behaviour.keeps_broken {
                    return Reply::new(500, "");
                }
                match (behaviour.fault)(request) {
                    Some(reply) => reply,
                    None => answer(&behaviour, &mut shared.lock().unwrap(), request),
                }
            },
            move |request| (breaking.breaks)(request),
        );
        Self { server, content }
    }

    pub(crate) fn host(&self) -> String {
        self.server.host()
    }

    pub(crate) fn blob_names(&self, repository: &str) -> BTreeSet<String> {
        let content = self.content.lock().unwrap();
        let of = |(name, digest): &(String, String)| (name == repository).then(|| digest.clone());
        content.blobs.keys().filter_map(of).collect()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Request) -> bool) -> usize {
        let seen = self.server.seen();
        seen.iter().filter(|request| wanted(request)).count()
    }
}

/// The value of a parameter of the query.
pub(crate) fn parameter(request: &Request, name: &str) -> Option<String> {
    let (_, query) = request.target.split_once('?')?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned)
}

fn upload_reply(status: u16, repository: &str, number: usize, length: usize) -> Reply {
    Reply::new(status, "")
        .header(
            "Location",
            format!("/v2/{repository}/blobs/uploads/{number}?s=1"),
        )
        .header("Range", format!("0-{}", length.saturating_sub(1)))
}

fn answer(behaviour: &Behaviour, content: &mut Content, request: &Request) -> Reply {
    let path = request.path().to_owned();
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Reply::new(404, "");
    };
    if rest.is_empty() {
        return Reply::new(200, "{}");
    }
    let method = request.method.as_str();
    if let Some((repository, number)) = rest.split_once("/blobs/uploads/") {
        return upload(behaviour, content, request, repository, number);
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        let key = (repository.to_owned(), digest.to_owned());
        return match (method, content.blobs.get(&key)) {
            (_, None) => Reply::new(404, ""),
            ("DELETE", Some(_)) => {
                content.blobs.remove(&key);
                Reply::new(202, "")
            }
            (_, Some(bytes)) => ranged(request, bytes),
        };
    }
    if let Some((repository, digest)) = rest.split_once("/referrers/") {
        if !behaviour.referrers {
            return Reply::new(404, "");
        }
        let mut entries = Vec::new();
        for ((known, name), (media_type, bytes)) in &content.manifests {
            let document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            if known == repository
                && name.starts_with("sha256:")
                && document["subject"]["digest"] == digest
            {
                entries.push(serde_json::json!({"mediaType": media_type, "digest": name,
                    "size": bytes.len(), "artifactType": document["artifactType"]}));
            }
        }
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        return Reply::new(200, index.to_string());
    }
    let Some((repository, name)) = rest.split_once("/manifests/") else {
        return Reply::new(404, "");
    };
    let key = |name: &str| (repository.to_owned(), name.to_owned());
    match method {
        "PUT" => {
            let digest = Digest::of(&request.bytes).to_string();
            let kind = request
                .header("content-type")
                .unwrap_or_default()
                .to_owned();
            let document: serde_json::Value = serde_json::from_slice(&request.bytes).unwrap();
            let missing = ["layers", "manifests"]
                .iter()
                .flat_map(|field| document[field].as_array().into_iter().flatten())
                .chain(document.get("config"))
                .filter_map(|entry| entry["digest"].as_str())
                .any(|digest| {
                    !content.blobs.contains_key(&key(digest))
                        && !content.manifests.contains_key(&key(digest))
                });
            let is_fallback = name.starts_with("sha256-");
            if missing && !is_fallback {
                let error = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"unknown"}]}"#;
                return Reply::new(400, error);
            }
            let reply = Reply::new(201, "").header("Docker-Content-Digest", digest.clone());
            let reply = match document["subject"]["digest"].as_str() {
                Some(subject) if behaviour.referrers => reply.header("OCI-Subject", subject),
                _ => reply,
            };
            for name in [name, &digest] {
                let value = (kind.clone(), request.bytes.clone());
                content.manifests.insert(key(name), value);
            }
            reply
        }
        "DELETE" => match content.manifests.remove(&key(name)) {
            Some(_) => Reply::new(202, ""),
            None => Reply::new(404, ""),
        },
        _ => match content.manifests.get(&key(name)) {
            Some((kind, bytes)) => Reply::new(200, bytes.clone())
                .header("Content-Type", kind.clone())
                .header("Docker-Content-Digest", Digest::of(bytes).to_string()),
            None => Reply::new(404, ""),
        },
    }
}

/// Answers a `GET` with what its `Range` asks for.
pub(crate) fn ranged(request: &Request, bytes: &[u8]) -> Reply {
    let range = request.header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let last = match last {
            "" => bytes.len() - 1,
            last => last.parse().ok()?,
        };
        Some((first.parse::<usize>().ok()?, last.min(bytes.len() - 1)))
    });
    match range {
        None => Reply::new(200, bytes),
        Some((first, last)) => Reply::new(206, &bytes[first..=last]).header(
            "Content-Range",
            format!("bytes {first}-{last}/{}", bytes.len()),
        ),
    }
}

fn upload(
    behaviour: &Behaviour,
    content: &mut Content,
    request: &Request,
    repository: &str,
    number: &str,
) -> Reply {
    let method = request.method.as_str();
    if method == "POST" {
        if let (Some(digest), Some(from)) =
            (parameter(request, "mount"), parameter(request, "from"))
            && behaviour.mounts
            && let Some(bytes) = content.blobs.get(&(from, digest.clone())).cloned()
        {
            content.blobs.insert((repository.to_owned(), digest), bytes);
            return Reply::new(201, "");
        }
        content.next += 1;
        content.uploads.insert(content.next, Vec::new());
        return upload_reply(202, repository, content.next, 0);
    }
    let number: usize = number.parse().unwrap();
    let Some(mut so_far) = content.uploads.remove(&number) else {
        return Reply::new(404, "");
    };
    content.received += request.bytes.len();
    if let Some((first, _)) = request
        .header("content-range")
        .and_then(|range| range.split_once('-'))
        && first.parse() != Ok(so_far.len())
    {
        let reply = upload_reply(416, repository, number, so_far.len());
        content.uploads.insert(number, so_far);
        return reply;
    }
    so_far.extend(&request.bytes);
    match method {
        "GET" | "PATCH" => {
            let status = if method == "GET" { 204 } else { 202 };
            let reply = upload_reply(status, repository, number, so_far.len());
            content.uploads.insert(number, so_far);
            reply
        }
        "PUT" => {
            let wanted = parameter(request, "digest").unwrap();
            if Digest::of(&so_far).to_string() != wanted {
                let error = r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest invalid"}]}"#;
                return Reply::new(400, error);
            }
            content
                .blobs
                .insert((repository.to_owned(), wanted), so_far);
            Reply::new(201, "")
        }
        _ => Reply::new(405, ""),
    }
}
