//! Mirrors, proxies and limits of rate.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// A registry that has the manifest, or what `handler` says.
fn with_manifest() -> Server {
    Server::start(|request| match request.path() {
        "/v2/a/b/manifests/t" => Reply::new(200, MANIFEST),
        _ => Reply::new(404, ""),
    })
}

/// Options with a `hosts.toml` for `registry.test`.
fn configured(text: &str) -> (TestDirectory, ClientOptions) {
    let (directory, mut options) = named(&["registry.test", "mirror.test"]);
    let hosts = directory.path().join("registry.test");
    std::fs::create_dir(&hosts).unwrap();
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();
    options.certificate_directories = vec![directory.path().to_owned()];
    (directory, options)
}

fn asked(server: &Server) -> Vec<String> {
    let seen = server.seen();
    seen.iter().map(|request| request.target.clone()).collect()
}

#[test]
fn mirrors_are_asked_in_order_and_told_whose_content_is_wanted() {
    let empty = Server::start(|_| Reply::new(404, ""));
    let (second, own) = (with_manifest(), with_manifest());
    let (_directory, options) = configured(&format!(
        "server = {:?}\n[host.{:?}]\n[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n[host.{:?}.header]\nx-team = \"blue\"\n",
        own.url(""),
        empty.url("/"),
        second.url("/"),
        second.url("/"),
    ));
    manifest("registry.test", &options).unwrap();
    assert_eq!(asked(&empty), ["/v2/a/b/manifests/t?ns=registry.test"]);
    assert_eq!(asked(&second), ["/v2/a/b/manifests/t?ns=registry.test"]);
    assert_eq!(second.seen()[0].header("x-team"), Some("blue"));
    assert_eq!(empty.seen()[0].header("x-team"), None);
    assert_eq!(asked(&own), Vec::<String>::new());
}

#[test]
fn capabilities_decide_who_is_asked() {
    let (pulls, resolves, own) = (with_manifest(), with_manifest(), with_manifest());
    let (_directory, options) = configured(&format!(
        "server = {:?}\ncapabilities = [\"push\"]\n[host.{:?}]\ncapabilities = [\"pull\"]\n[host.{:?}]\ncapabilities = [\"resolve\"]\n",
        own.url(""),
        pulls.url(""),
        resolves.url(""),
    ));
    let client = Client::new("registry.test", &options).unwrap();
    client.manifest("a/b", ManifestName::Tag("t")).unwrap();
    assert_eq!((pulls.seen().len(), resolves.seen().len()), (0, 1));
    let digest = Digest::of(MANIFEST.as_bytes());
    let _ = client.manifest("a/b", ManifestName::Digest(&digest));
    assert_eq!((pulls.seen().len(), resolves.seen().len()), (1, 1));
    let _ = client.has_blob("a/b", &digest);
    assert_eq!((pulls.seen().len(), own.seen().len()), (1, 1));
    let (_directory, options) = configured(&format!(
        "server = {:?}\ncapabilities = [\"push\"]\n",
        own.url("")
    ));
    let error = manifest("registry.test", &options).unwrap_err();
    assert!(matches!(error, RegistryError::NoHost { .. }), "{error:?}");
}

#[test]
fn errors_of_all_hosts_are_named() {
    let broken = Server::start(|_| Reply::new(418, ""));
    let own = Server::start(|_| Reply::new(404, r#"{"errors":[{"message":"no such thing"}]}"#));
    let (_directory, options) = configured(&format!(
        "server = {:?}\n[host.{:?}]\n[host.\"http://127.0.0.1:1\"]\n",
        own.url(""),
        broken.url(""),
    ));
    let client = Client::new("registry.test", &options).unwrap();
    let error = client.manifest("a/b", ManifestName::Tag("t")).unwrap_err();
    let text = error.to_string();
    for part in [
        &format!("{} answered 418", broken.host()),
        "127.0.0.1:1",
        "refused",
        "no such thing",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        error.is_not_found(),
        "the registry itself has the last word"
    );
    let before = broken.seen().len();
    let error = client.manifest("a/b", ManifestName::Tag("t")).unwrap_err();
    assert!(!error.to_string().contains("127.0.0.1:1 "), "{error}");
    assert_eq!(
        broken.seen().len(),
        before + 1,
        "only who could not be reached is left out"
    );
}

/// CVE-2026-50151 and its kin for mirrors: the registry's credentials are not theirs.
#[test]
fn mirrors_do_not_get_the_credentials_of_the_registry() {
    let greedy =
        Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"give\""));
    let own = Server::start(basic);
    let (_directory, options) = configured(&format!(
        "server = {:?}\n[host.{:?}]\n",
        own.url("").replace("127.0.0.1", "registry.test"),
        greedy.url(""),
    ));
    // The server has another port than the registry's name: it is not the registry either.
    let error = manifest("registry.test", &options).unwrap_err();
    assert!(matches!(error, RegistryError::AllHosts { .. }), "{error:?}");
    let name = format!("registry.test:{}", own.port());
    let (directory, mut options) = named(&["registry.test"]);
    let hosts = directory.path().join(&name);
    std::fs::create_dir(&hosts).unwrap();
    let text = format!("server = \"http://{name}\"\n[host.{:?}]\n", greedy.url(""));
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();
    options.certificate_directories = vec![directory.path().to_owned()];
    manifest(&name, &options).unwrap();
    assert!(
        own.seen()
            .iter()
            .any(|r| r.header("authorization") == Some(BASIC))
    );
    assert!(greedy.seen().len() >= 2);
    assert!(
        greedy
            .seen()
            .iter()
            .all(|r| r.header("authorization").is_none())
    );
}

#[test]
fn a_blob_goes_on_from_the_next_host() {
    let whole = content(50_000);
    let served = whole.clone();
    let breaking = Server::start(move |_| Reply {
        cut: Some(20_000),
        ..Reply::new(200, served.clone())
    });
    let served = whole.clone();
    let own = Server::start(move |request| crate::testing::registry::ranged(request, &served));
    let (_directory, mut options) = configured(&format!(
        "server = {:?}\n[host.{:?}]\n",
        own.url(""),
        breaking.url(""),
    ));
    options.retry.retries = 0;
    assert!(read_blob("registry.test", &options, &whole).unwrap() == whole);
    assert_eq!(own.seen()[0].header("range"), Some("bytes=20000-"));
}

#[test]
fn bad_files_are_named() {
    let (directory, options) = configured("server = [");
    let error = manifest("registry.test", &options).unwrap_err();
    let path = directory.path().join("registry.test/hosts.toml");
    assert!(
        chain(&error).contains(path.to_str().unwrap()),
        "{}",
        chain(&error)
    );
}

#[test]
fn waiting_is_bounded_and_said() {
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    for (name, value, seconds) in [
        ("Retry-After", "3600", 3600),
        ("RateLimit-Remaining", "0;w=21600", 21_600),
    ] {
        let server = Server::start(move |_| Reply::new(429, body).header(name, value));
        let started = std::time::Instant::now();
        let error = manifest(&server.host(), &options()).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(
            matches!(error, RegistryError::RateLimited { status: 429, seconds: found, .. } if found == seconds),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("slow down") && text.contains(&seconds.to_string()),
            "{text}"
        );
        let seen = server.seen();
        let seen = seen
            .iter()
            .filter(|request| request.path() != "/v2/")
            .count();
        assert_eq!(seen, 1, "it is left alone");
    }
}

/// A proxy that knows `CONNECT`, counts, and connects everything to `target`.
fn proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = asked.clone();
    std::thread::spawn(move || {
        // For as long as the test's process lives; nothing waits for it.
        for stream in listener.incoming() {
            let (target, list) = (target.clone(), list.clone());
            std::thread::spawn(move || -> io::Result<()> {
                let mut stream = stream?;
                let mut reader = BufReader::new(stream.try_clone()?);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head)? == 0 {
                        return Ok(());
                    }
                }
                list.lock().unwrap().push(head);
                let mut upstream = TcpStream::connect(target)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                let (mut back, mut to) = (upstream.try_clone()?, stream.try_clone()?);
                std::thread::spawn(move || {
                    let _ = io::copy(&mut back, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
                io::copy(&mut reader, &mut upstream)?;
                upstream.shutdown(std::net::Shutdown::Write)
            });
        }
    });
    (address.to_string(), asked)
}

#[test]
fn proxies_are_used_and_given_their_own_credentials_only() {
    let own = Server::start(basic);
    let (address, asked) = proxy(own.host());
    let (_directory, mut options) = named(&[]);
    options.insecure_registries = vec!["behind.test".to_owned()];
    let variables = |except: &str| {
        let (proxy, except) = (format!("http://u:p@{address}"), except.to_owned());
        Proxies::from_variables(move |name| match name {
            "ALL_PROXY" => Some(proxy.clone()),
            "no_proxy" => Some(except.clone()),
            _ => None,
        })
    };
    options.proxies = variables("");
    manifest("behind.test", &options).unwrap();
    let heads = asked.lock().unwrap().clone();
    assert!(
        heads
            .iter()
            .any(|head| head.starts_with("CONNECT behind.test:80")),
        "{heads:?}"
    );
    assert!(heads.iter().all(|head| !head.contains(BASIC)), "{heads:?}");
    options.proxies = variables(".test");
    let error = manifest("behind.test", &options).unwrap_err();
    assert!(chain(&error).contains("behind.test"), "{}", chain(&error));
    assert_eq!(asked.lock().unwrap().len(), heads.len());
}

/// A client certificate that is configured and cannot be read is an error, not left out.
#[test]
fn client_certificates_must_be_readable() {
    let (directory, mut options) =
        configured("server = \"https://registry.test\"\nclient = [[\"c.cert\", \"c.key\"]]\n");
    options.retry.retries = 0;
    let error = manifest("registry.test", &options).unwrap_err();
    assert!(
        matches!(error, RegistryError::Certificates { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("registry.test/c.cert"),
        "{error}"
    );
    drop(directory);
}

/// A network that was gone for a moment does not make the client useless.
#[test]
fn hosts_that_are_all_down_are_asked_again() {
    let (_directory, mut options) =
        configured("server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.2:1\"]\n");
    options.retry.retries = 0;
    let client = Client::new("registry.test", &options).unwrap();
    for _ in 0..2 {
        let error = client.manifest("a/b", ManifestName::Tag("t")).unwrap_err();
        assert!(matches!(error, RegistryError::AllHosts { .. }), "{error:?}");
    }
}

#[test]
fn long_files_are_named() {
    let text = "# long\n".repeat(200_000);
    let (directory, options) = configured(&text);
    let error = manifest("registry.test", &options).unwrap_err();
    let path = directory.path().join("registry.test/hosts.toml");
    let text = chain(&error);
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("longer"),
        "{text}"
    );
}

/// A list of referrers that is written back is the one of the host that takes it, not a mirror's;
/// and what is no list is left alone.
#[test]
fn lists_of_referrers_are_those_of_the_host_that_is_pushed_to() {
    use crate::testing::registry::{Behaviour, Registry};
    let artefact = |number: u32| {
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
            "artifactType": format!("application/x.{number}"), "layers": [],
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
                "digest": Digest::of(b"{}")},
            "subject": {"mediaType": media_type::MANIFEST, "size": MANIFEST.len(),
                "digest": Digest::of(MANIFEST.as_bytes())}})
        .to_string()
    };
    // The mirror knows nothing of what was pushed.
    let mirror = Server::start(|request| {
        match request.path() {
        path if path.contains("/manifests/sha256-") => Reply::new(
            200,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        )
        .header("Content-Type", media_type::INDEX),
        _ => Reply::new(404, ""),
    }
    });
    let own = Registry::start(Behaviour {
        referrers: false,
        ..Behaviour::default()
    });
    let key = ("a/b".to_owned(), Digest::of(b"{}").to_string());
    own.content
        .lock()
        .unwrap()
        .blobs
        .insert(key, b"{}".to_vec());
    let (_directory, options) = configured(&format!(
        "server = \"http://{}\"\n[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n",
        own.host(),
        mirror.url(""),
    ));
    let client = Client::new("registry.test", &options).unwrap();
    let put = |number| {
        let document = artefact(number);
        let digest = Digest::of(document.as_bytes());
        let name = ManifestName::Digest(&digest);
        client.put_manifest("a/b", name, media_type::MANIFEST, document.as_bytes())
    };
    put(1).unwrap();
    put(2).unwrap();
    let tag = format!("sha256-{}", Digest::of(MANIFEST.as_bytes()).hex());
    let key = ("a/b".to_owned(), tag);
    let list = own.content.lock().unwrap().manifests[&key].1.clone();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2, "{list}");

    let foreign = (
        media_type::MANIFEST.to_owned(),
        MANIFEST.as_bytes().to_vec(),
    );
    let mut content = own.content.lock().unwrap();
    content.manifests.insert(key.clone(), foreign.clone());
    drop(content);
    let error = put(3).unwrap_err();
    assert!(
        matches!(error, RegistryError::NoReferrers { .. }),
        "{error:?}"
    );
    assert_eq!(own.content.lock().unwrap().manifests[&key], foreign);
}
