//! Lists: tags, repositories and referrers, in pages.

use std::sync::Arc;

use gantry_image::Digest;
use gantry_image::model::media_type;
use hyper::header::{HeaderName, LINK};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Call, State, json, set};
use crate::body::ServerBody;
use crate::fault::Fault;
use crate::name::{Query, RepositoryName, encode};
use crate::storage::StorageError;

/// Longest page, whatever the client asks for (CVE-2023-2253).
const LONGEST_PAGE: usize = 1000;
/// Length of a page of tags when the client does not say.
const TAGS_PAGE: usize = 10_000;
/// Length of a page of repositories when the client does not say.
const CATALOG_PAGE: usize = 100;
/// A page of referrers ends when it is longer than this many bytes: clients read 4 MiB.
const REFERRERS_LENGTH: usize = 3 << 20;

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Where a page begins and how long it is.
struct Page {
    length: usize,
    after: Option<String>,
}

impl Page {
    fn of(query: &Query, default: usize) -> Result<Self, Fault> {
        let length = match query.get("n") {
            None => default,
            Some(text) => {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                if !digits {
                    return Err(Fault::number_invalid());
                }
                // More digits than a number can have is more than the longest page too.
                text.parse().unwrap_or(usize::MAX).min(LONGEST_PAGE)
            }
        };
        let after = query.get("last").filter(|last| !last.is_empty());
        Ok(Self {
            length,
            after: after.map(str::to_owned),
        })
    }

    /// The page's part of a sorted list, and the query of the next page if there is one.
    fn cut(&self, sorted: Vec<String>) -> (Vec<String>, Option<String>) {
        let first = match &self.after {
            Some(after) => sorted.partition_point(|entry| entry <= after),
            None => 0,
        };
        let left = sorted.len() - first;
        let page: Vec<String> = sorted.into_iter().skip(first).take(self.length).collect();
        let next = match page.last() {
            Some(last) if page.len() < left => {
                Some(format!("n={}&last={}", self.length, encode(last)))
            }
            _ => None,
        };
        (page, next)
    }
}

fn with_next(
    mut response: Response<ServerBody>,
    path: &str,
    next: Option<String>,
) -> Response<ServerBody> {
    if let Some(next) = next {
        set(
            &mut response,
            LINK,
            &format!("<{path}?{next}>; rel=\"next\""),
        );
    }
    response
}

/// `GET` of the tags (end-8).
pub(super) async fn tags(state: &Arc<State>, call: &Call, name: RepositoryName) -> Answer {
    let page = Page::of(&call.query, TAGS_PAGE)?;
    let theirs = match &state.upstream {
        Some(upstream) => upstream.tags(&name).await,
        None => None,
    };
    let tags = match theirs {
        Some(tags) => Some(tags),
        None => {
            let name = name.clone();
            state.blocking(move |storage| storage.tags(&name)).await?
        }
    };
    let (tags, next) = page.cut(tags.ok_or_else(Fault::name_unknown)?);
    let document = json!({ "name": name.as_str(), "tags": tags });
    let path = format!("/v2/{name}/tags/list");
    Ok(with_next(json(&document, "application/json"), &path, next))
}

/// `GET` of the repositories that have a manifest.
pub(super) async fn catalog(state: &Arc<State>, call: &Call) -> Answer {
    let page = Page::of(&call.query, CATALOG_PAGE)?;
    let names = state
        .blocking(|storage| {
            let mut names = Vec::new();
            for name in storage.repositories()? {
                if storage.has_manifests(&name)? {
                    names.push(name.as_str().to_owned());
                }
            }
            // By their spelling: "a-b" comes before "a/b".
            names.sort();
            Ok(names)
        })
        .await?;
    let (names, next) = page.cut(names);
    let document = json!({ "repositories": names });
    let response = json(&document, "application/json");
    Ok(with_next(response, "/v2/_catalog", next))
}

/// `GET` of the manifests that refer to another one (end-12). Without any, and for a repository
/// that does not exist, the list is empty: 404 would say that the operation itself is unknown.
pub(super) async fn referrers(
    state: &Arc<State>,
    call: &Call,
    name: RepositoryName,
    subject: Digest,
) -> Answer {
    let filter = call
        .query
        .get("artifactType")
        .filter(|filter| !filter.is_empty())
        .map(str::to_owned);
    let page = Page::of(&call.query, LONGEST_PAGE)?;
    let theirs = match &state.upstream {
        Some(upstream) => upstream.referrers(&name, &subject).await,
        None => None,
    };
    let (found, next) = {
        let (name, filter) = (name.clone(), filter.clone());
        state
            .blocking(move |storage| match theirs {
                Some(all) => select(all.into_iter().map(|all| Ok(Some(all))), &page, &filter),
                None => {
                    let digests = storage.referrers(&name, &subject)?;
                    let all = digests.iter().map(|digest| {
                        let descriptor = storage.referrer(&name, &subject, digest)?;
                        Ok(descriptor.map(|descriptor| (*digest, descriptor)))
                    });
                    select(all, &page, &filter)
                }
            })
            .await?
    };
    let document = json!({
        "schemaVersion": 2,
        "mediaType": media_type::INDEX,
        "manifests": found,
    });
    let mut response = json(&document, media_type::INDEX);
    *response.status_mut() = StatusCode::OK;
    let mut next = next.map(|last| format!("last={}", encode(&last)));
    if let Some(filter) = filter {
        set(&mut response, OCI_FILTERS_APPLIED, "artifactType");
        next = next.map(|next| format!("{next}&artifactType={}", encode(&filter)));
    }
    let path = format!("/v2/{name}/referrers/{subject}");
    Ok(with_next(response, &path, next))
}

/// A referrer, or nothing where one went away in the meantime.
type Entry = Result<Option<(Digest, Value)>, StorageError>;

/// The entries of a page of a list that is sorted by digest, and after which the next page begins
/// if there is one.
fn select(
    all: impl Iterator<Item = Entry>,
    page: &Page,
    filter: &Option<String>,
) -> Result<(Vec<Value>, Option<String>), StorageError> {
    let (mut found, mut length, mut last) = (Vec::new(), 0, None);
    for entry in all {
        let Some((digest, descriptor)) = entry? else {
            continue;
        };
        let digest = digest.to_string();
        if page.after.as_ref().is_some_and(|after| digest <= *after) {
            continue;
        }
        if found.len() >= page.length || length > REFERRERS_LENGTH {
            return Ok((found, last));
        }
        last = Some(digest);
        let fits = filter
            .as_ref()
            .is_none_or(|filter| descriptor["artifactType"] == filter.as_str());
        if fits {
            length += descriptor.to_string().len();
            found.push(descriptor);
        }
    }
    Ok((found, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Page, Fault> {
        Page::of(&Query::parse(Some(query)).unwrap(), TAGS_PAGE)
    }

    #[test]
    fn pages() {
        let all = || ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        for (query, expected, next) in [
            ("", &["a", "b", "c", "d"][..], None),
            ("n=2", &["a", "b"], Some("n=2&last=b")),
            ("n=2&last=b", &["c", "d"], None),
            ("n=1&last=bb", &["c"], Some("n=1&last=c")),
            ("n=4", &["a", "b", "c", "d"], None),
            ("n=9", &["a", "b", "c", "d"], None),
            ("last=d", &[], None),
            ("n=0", &[], None),
        ] {
            let (found, further) = page(query).unwrap().cut(all());
            assert_eq!(
                (found.as_slice(), further.as_deref()),
                (
                    &expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..],
                    next
                ),
                "{query}"
            );
        }
    }

    /// CVE-2023-2253: no page is longer than ours, however many are asked for.
    #[test]
    fn lengths_are_clamped() {
        for n in [
            "1001",
            "2147483648",
            "18446744073709551615",
            "99999999999999999999999",
        ] {
            assert_eq!(page(&format!("n={n}")).unwrap().length, LONGEST_PAGE);
        }
        for n in ["", "-1", "+1", "1e3", "x", "0x10", "1.5"] {
            let fault = page(&format!("n={n}")).err().unwrap();
            assert_eq!(fault.code, "PAGINATION_NUMBER_INVALID", "{n}");
        }
    }
}
