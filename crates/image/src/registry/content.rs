//! Manifests that are asked about, put and deleted; lists; search.

use ureq::http::{Method, header};

use serde::Deserialize;

use super::access::Access;
use super::host::{Answer, Host, Payload, Place, Request};
use super::{Client, ManifestName, Need, RegistryError, auth};
use crate::digest::Digest;
use crate::model::{self, Descriptor, Index, media_type};
use crate::reference::DEFAULT_REGISTRY;

/// Largest page of a list that is read, in bytes.
const PAGE: u64 = 8 << 20;
/// Pages of one list that are read.
const PAGES: usize = 1000;
/// Bytes of all pages of one list that are read.
const LIST: u64 = 64 << 20;

/// What a registry says about a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest, if the registry states one that is understood.
    pub digest: Option<Digest>,
    /// Its media type.
    pub media_type: Option<String>,
    /// Its length in bytes.
    pub size: Option<u64>,
}

/// One repository that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SearchResult {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What its owner says about it.
    #[serde(default, deserialize_with = "or_default")]
    pub description: String,
    /// How many users like it.
    #[serde(default)]
    pub star_count: u64,
    /// Whether the registry itself answers for it.
    #[serde(default)]
    pub is_official: bool,
    /// Whether it is built by the registry.
    #[serde(default)]
    pub is_automated: bool,
}

fn or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Client {
    /// Asks whether a manifest is there; `None` if not.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn head_manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let need = match name {
            ManifestName::Tag(_) => Need::Resolve,
            ManifestName::Digest(_) => Need::Pull,
        };
        self.on_hosts(need, &format!("{repository}{name}"), |host| {
            host.head_manifest(repository, name, &Access::pull(repository))
        })
    }

    /// As [`Client::head_manifest`], of the host that takes content in.
    pub(crate) fn head_pushed(
        &self,
        repository: &str,
        name: ManifestName<'_>,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let host = self.push_host(&format!("{repository}{name}"))?;
        host.head_manifest(repository, name, &Access::push(repository))
    }

    /// Puts a manifest or an index. If the registry states a digest it must be that of the bytes.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn put_manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let object = format!("{repository}{name}");
        let host = self.push_host(&object)?;
        let path = host.api(&format!("{repository}/manifests/{}", name.last()));
        let access = Access::push(repository);
        let mut request = Request {
            method: Method::PUT,
            headers: vec![(header::CONTENT_TYPE.as_str(), media_type.to_owned())],
            payload: Payload::Bytes(bytes),
            expected: &[200, 201, 202, 204],
            ..Request::get(&path, &access, &object)
        };
        let answer = host.send(&mut request)?;
        let digest = Digest::of(bytes);
        match answer.text("docker-content-digest") {
            Some(stated) if stated.starts_with("sha256:") && stated != digest.to_string() => {
                Err(RegistryError::DigestMismatch {
                    registry: self.name.clone(),
                    object,
                    expected: stated.chars().take(160).collect(),
                    actual: digest,
                })
            }
            _ => {
                if answer.text("oci-subject").is_none() {
                    self.put_referrer(repository, media_type, bytes)?;
                }
                Ok(digest)
            }
        }
    }

    /// Keeps the list of referrers for a registry without the API (specification, "Pushing
    /// manifests with subject").
    fn put_referrer(
        &self,
        repository: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Referrer {
            subject: Option<Descriptor>,
            #[serde(default)]
            artifact_type: Option<String>,
            #[serde(default)]
            config: Option<Descriptor>,
            #[serde(default)]
            annotations: std::collections::BTreeMap<String, String>,
        }
        let Ok(Referrer {
            subject: Some(subject),
            artifact_type,
            config,
            annotations,
        }) = serde_json::from_slice(bytes)
        else {
            return Ok(());
        };
        let mut entry = Descriptor::of(media_type, bytes);
        entry.annotations = annotations;
        if let Some(kind) = artifact_type.or(config.map(|config| config.media_type)) {
            entry.extra.insert("artifactType".to_owned(), kind.into());
        }
        let tag = format!("sha256-{}", subject.digest.hex());
        let name = ManifestName::Tag(&tag);
        // What is written back has to be what is there, and not what a mirror remembers of it.
        let host = self.push_host(&format!("{repository}{name}"))?;
        let mut manifests = match host.manifest(repository, name, &Access::push(repository)) {
            Ok(fetched) => {
                match model::Document::parse(&fetched.bytes, fetched.content_type.as_deref()) {
                    Ok(model::Document::Index(index)) => index.manifests,
                    _ => {
                        return Err(RegistryError::NoReferrers {
                            registry: host.name().to_owned(),
                            object: format!("{repository}{name}"),
                        });
                    }
                }
            }
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        if manifests.iter().any(|known| known.digest == entry.digest) {
            return Ok(());
        }
        manifests.push(entry);
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests,
            annotations: Default::default(),
            extra: Default::default(),
        };
        let document = serde_json::to_vec(&index).map_err(|source| RegistryError::Document {
            registry: self.name.clone(),
            object: format!("{repository}:{tag}"),
            source,
        })?;
        self.put_manifest(repository, name, media_type::INDEX, &document)
            .map(drop)
    }

    /// Deletes a manifest, or a tag where the registry can do that.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn delete_manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
    ) -> Result<(), RegistryError> {
        let path = format!("{repository}/manifests/{}", name.last());
        self.delete(repository, &path, &format!("{repository}{name}"))
    }

    /// Deletes a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn delete_blob(&self, repository: &str, digest: &Digest) -> Result<(), RegistryError> {
        let path = format!("{repository}/blobs/{digest}");
        self.delete(repository, &path, &format!("{repository}@{digest}"))
    }

    fn delete(&self, repository: &str, path: &str, object: &str) -> Result<(), RegistryError> {
        let host = self.push_host(object)?;
        let (path, access) = (host.api(path), Access::delete(repository));
        let mut request = Request {
            method: Method::DELETE,
            expected: &[200, 202, 204],
            ..Request::get(&path, &access, object)
        };
        host.send(&mut request).map(drop)
    }

    /// What refers to `digest` (specification, "Listing Referrers"), of one artefact type if it
    /// is given: by the API, or by the tag that stands in for it where there is none.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn referrers(
        &self,
        repository: &str,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let object = format!("the referrers of {repository}@{digest}");
        let mut found = self.on_hosts(Need::Pull, &object, |host| {
            host.referrers(repository, digest, &object)
        })?;
        if let Some(wanted) = artifact_type {
            // The registry need not filter.
            found.retain(|entry| {
                entry
                    .extra
                    .get("artifactType")
                    .and_then(|value| value.as_str())
                    == Some(wanted)
            });
        }
        Ok(found)
    }

    /// The tags of a repository, in the registry's order.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn tags(&self, repository: &str) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let object = format!("the tags of {repository}");
        let path = format!("{repository}/tags/list?n=1000");
        self.on_hosts(Need::Resolve, &object, |host| {
            let pages: Vec<Page> =
                host.pages(&host.api(&path), &Access::pull(repository), &object)?;
            Ok(pages
                .into_iter()
                .filter_map(|page| page.tags)
                .flatten()
                .collect())
        })
    }

    /// The repositories of the registry, where it tells.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn catalog(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            repositories: Option<Vec<String>>,
        }
        let object = "its list of repositories";
        self.on_hosts(Need::Resolve, object, |host| {
            let pages: Vec<Page> =
                host.pages(&host.api("_catalog?n=1000"), &Access::catalog(), object)?;
            Ok(pages
                .into_iter()
                .filter_map(|page| page.repositories)
                .flatten()
                .collect())
        })
    }

    /// Searches repositories by `term`; at most `limit` results. This is the search of Docker's
    /// first protocol, which Docker Hub and few others have.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<SearchResult>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            results: Option<Vec<SearchResult>>,
        }
        let object = format!("a search for {term:?}");
        let path = format!("/v1/search?q={}&n={limit}", auth::encode_query(term));
        let ask = |host: &Host| -> Result<Vec<SearchResult>, RegistryError> {
            let answer = host.send(&mut Request::get(&path, &Access::none(), &object))?;
            let page: Page = host.json(answer, &object)?;
            let mut results = page.results.unwrap_or_default();
            results.truncate(limit);
            Ok(results)
        };
        let Some(own) = self.hosts.last() else {
            return Ok(Vec::new());
        };
        if self.name == DEFAULT_REGISTRY {
            // It searches on another host than it serves from.
            return ask(&Host::new(
                "index.docker.io",
                &own.options,
                crate::hosts::HostConfig::default(),
            )?);
        }
        ask(own)
    }
}

impl Host {
    fn head_manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
        access: &Access,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let object = format!("{repository}{name}");
        let path = self.api(&format!("{repository}/manifests/{}", name.last()));
        let mut request = Request {
            method: Method::HEAD,
            headers: vec![(header::ACCEPT.as_str(), media_type::ACCEPT.to_owned())],
            expected: &[200, 404],
            ..Request::get(&path, access, &object)
        };
        let answer = self.send(&mut request)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        let parsed = |name: &str| answer.text(name);
        Ok(Some(ManifestHead {
            digest: parsed("docker-content-digest").and_then(|digest| digest.parse().ok()),
            media_type: parsed(header::CONTENT_TYPE.as_str()),
            size: parsed(header::CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok()),
        }))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        answer: Answer,
        object: &str,
    ) -> Result<T, RegistryError> {
        let bytes = self.document(answer, object, PAGE)?;
        self.parsed(&bytes, object)
    }

    fn parsed<T: serde::de::DeserializeOwned>(
        &self,
        bytes: &[u8],
        object: &str,
    ) -> Result<T, RegistryError> {
        serde_json::from_slice(bytes).map_err(|source| RegistryError::Document {
            registry: self.name().to_owned(),
            object: object.to_owned(),
            source,
        })
    }

    fn referrers(
        &self,
        repository: &str,
        digest: &Digest,
        object: &str,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let path = self.api(&format!("{repository}/referrers/{digest}"));
        match self.pages::<Index>(&path, &Access::pull(repository), object) {
            Ok(pages) => {
                return Ok(pages.into_iter().flat_map(|page| page.manifests).collect());
            }
            // A registry without the API; some call that another error than 404.
            Err(
                RegistryError::NotFound { .. }
                | RegistryError::Status {
                    status: 400 | 405 | 406 | 501,
                    ..
                },
            ) => {}
            Err(error) => return Err(error),
        }
        let tag = format!("sha256-{}", digest.hex());
        let access = Access::pull(repository);
        let fetched = match self.manifest(repository, ManifestName::Tag(&tag), &access) {
            Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
            other => other?,
        };
        match model::Document::parse(&fetched.bytes, fetched.content_type.as_deref()) {
            Ok(model::Document::Index(index)) => Ok(index.manifests),
            // Somebody's tag of that name, which says nothing.
            _ => Ok(Vec::new()),
        }
    }

    /// Reads a list page by page, following `Link` (specification, "Listing Tags").
    fn pages<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        access: &Access,
        object: &str,
    ) -> Result<Vec<T>, RegistryError> {
        let mut url = self.origin()?.url(path);
        let mut pages = Vec::new();
        let mut left = LIST;
        while pages.len() < PAGES {
            let mut request = Request {
                place: Place::Url(&url),
                ..Request::get("", access, object)
            };
            let answer = self.send(&mut request)?;
            let next = answer
                .text(header::LINK.as_str())
                .and_then(|link| next_link(&link).and_then(|next| answer.url.join(next)));
            let bytes = self.document(answer, object, PAGE)?;
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| RegistryError::TooLarge {
                    registry: self.name().to_owned(),
                    object: object.to_owned(),
                    limit: LIST,
                })?;
            pages.push(self.parsed(&bytes, object)?);
            match next {
                Some(next) if next.origin == url.origin && next != url => url = next,
                _ => break,
            }
        }
        Ok(pages)
    }
}

/// The target of `<TARGET>; rel="next"` (RFC 8288).
fn next_link(value: &str) -> Option<&str> {
    let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
    parameters
        .split(';')
        .map(str::trim)
        .any(|parameter| matches!(parameter, "rel=next" | "rel=\"next\""))
        .then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        for (value, expected) in [
            (
                "</v2/_catalog?n=1&last=a>; rel=\"next\"",
                Some("/v2/_catalog?n=1&last=a"),
            ),
            ("<https://h/x>;rel=next", Some("https://h/x")),
            ("<x>; rel=\"prev\"", None),
            ("x; rel=\"next\"", None),
            ("<x", None),
            ("", None),
        ] {
            assert_eq!(next_link(value), expected, "{value}");
        }
    }
}
