use super::*;

/// "user:secret", "hub:word", "other:word" and "<uuid>:".
const USER: &str = "dXNlcjpzZWNyZXQ=";

fn stored(username: &str, password: &str, token: Option<&str>) -> Found {
    Found::Stored(Credentials {
        username: username.to_owned(),
        password: password.to_owned(),
        identity_token: token.map(str::to_owned),
    })
}

fn asks(program: &str, server: &str) -> Found {
    Found::Helper {
        program: program.to_owned(),
        server: server.to_owned(),
    }
}

fn find(config: &str, registry: &str) -> Result<Found, ConfigError> {
    DockerConfig::parse(config.as_bytes())?.find(registry)
}

#[test]
fn entries_are_found_by_host() {
    let user = || stored("user", "secret", None);
    for (key, registry, found) in [
        ("registry.tld", "registry.tld", true),
        ("registry.tld:5000", "registry.tld:5000", true),
        ("https://registry.tld", "registry.tld", true),
        ("http://registry.tld:5000/", "registry.tld:5000", true),
        ("https://registry.tld/v1/", "registry.tld", true),
        ("registry.tld/path/below", "registry.tld", true),
        ("Registry.TLD", "registry.tld", true),
        ("[::1]:5000", "[::1]:5000", true),
        ("https://index.docker.io/v1/", "docker.io", true),
        ("https://index.docker.io/v1", "docker.io", true),
        ("index.docker.io", "docker.io", true),
        ("docker.io", "docker.io", true),
        ("https://registry-1.docker.io", "docker.io", true),
        // Another host, another port, a host that only begins or ends alike.
        ("registry.tld", "registry.tld:5000", false),
        ("registry.tld:5000", "registry.tld", false),
        ("registry.tld:5000", "registry.tld:5001", false),
        ("registry.tld", "registry.tld.evil", false),
        ("registry.tld", "tld", false),
        ("tld", "registry.tld", false),
        ("https://registry.tld@evil.tld/", "registry.tld", false),
        ("https://evil.tld/registry.tld", "registry.tld", false),
        (
            "https://evil.tld/https://registry.tld",
            "registry.tld",
            false,
        ),
        ("ftp://registry.tld", "registry.tld", false),
        ("https://index.docker.io/v1/", "index.docker.io.evil", false),
        ("https://index.docker.io/v1/", "evil.docker.io", false),
        ("https://index.docker.io/v1/", "registry.tld", false),
        ("", "registry.tld", false),
    ] {
        let config = format!(r#"{{"auths":{{"{key}":{{"auth":"{USER}"}}}}}}"#);
        let expected = if found { user() } else { Found::Nothing };
        assert_eq!(
            find(&config, registry),
            Ok(expected),
            "{key} for {registry}"
        );
    }
    // The whole key comes before its host, an entry with content before one without.
    let config = r#"{"auths":{
        "https://r.tld/":{"username":"url","password":"p"}, "r.tld":{"username":"host","password":"p"},
        "docker.io":{"username":"short","password":"p"},
        "https://index.docker.io/v1/":{"username":"hub","password":"p"},
        "empty.tld":{}, "https://empty.tld":{"username":"url","password":"p"}, "null.tld":null}}"#;
    for (registry, user) in [
        ("r.tld", "host"),
        ("docker.io", "hub"),
        ("empty.tld", "url"),
    ] {
        assert_eq!(find(config, registry), Ok(stored(user, "p", None)));
    }
    assert_eq!(find(config, "null.tld"), Ok(Found::Nothing));
}

#[test]
fn entries_are_decoded() {
    let encode = |text: &str| STANDARD.encode(text);
    for (entry, expected) in [
        (
            format!(r#"{{"auth":"{}"}}"#, encode("u:p:with:colons")),
            Some(stored("u", "p:with:colons", None)),
        ),
        (
            format!(r#"{{"auth":"{}","username":"x"}}"#, encode("u:p\0\0")),
            Some(stored("u", "p", None)),
        ),
        (
            format!(r#"{{"auth":"{}","identitytoken":"refresh"}}"#, encode("u:")),
            Some(stored("u", "", Some("refresh"))),
        ),
        (
            format!(r#"{{"auth":"{}","identitytoken":"refresh"}}"#, encode(":")),
            Some(stored("", "", Some("refresh"))),
        ),
        (
            r#"{"identitytoken":"refresh","email":"a@b","unknown":[1]}"#.to_owned(),
            Some(stored("", "", Some("refresh"))),
        ),
        (
            r#"{"username":"u","password":"p","auth":"","identitytoken":""}"#.to_owned(),
            Some(stored("u", "p", None)),
        ),
        (format!(r#"{{"auth":"{}"}}"#, encode("no colon")), None),
        (format!(r#"{{"auth":"{}"}}"#, encode(":no user")), None),
        (r#"{"auth":"!!!"}"#.to_owned(), None),
        (r#"{"auth":"dXNlcjpzZWNyZXQ"}"#.to_owned(), None),
        (
            format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(b"u:\xff")),
            None,
        ),
    ] {
        let config = format!(r#"{{"auths":{{"r.tld":{entry}}}}}"#);
        match (find(&config, "r.tld"), expected) {
            (Ok(found), Some(expected)) => assert_eq!(found, expected, "{entry}"),
            (Err(error), None) => {
                let text = error.to_string();
                assert!(text.contains("\"r.tld\""), "{text}");
                assert!(!text.contains("colon") && !text.contains("dXNl"), "{text}");
                // It is nobody else's trouble.
                assert_eq!(find(&config, "other.tld"), Ok(Found::Nothing));
            }
            (found, expected) => panic!("{entry}: {found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn helpers_come_before_entries() {
    let config = r#"{"auths":{"a.tld":{"username":"u","password":"p"},"b.tld":{},"off.tld":{"username":"u","password":"p"}},
        "credsStore":"all", "credHelpers":{"b.tld":"own","off.tld":"","https://index.docker.io/v1/":"hub","null.tld":null}}"#;
    for (registry, expected) in [
        ("a.tld", asks("docker-credential-all", "a.tld")),
        ("b.tld", asks("docker-credential-own", "b.tld")),
        ("b.tld:80", asks("docker-credential-all", "b.tld:80")),
        ("off.tld", stored("u", "p", None)),
        ("null.tld", Found::Nothing),
        (
            "docker.io",
            asks("docker-credential-hub", "https://index.docker.io/v1/"),
        ),
    ] {
        assert_eq!(find(config, registry), Ok(expected), "{registry}");
    }
    assert_eq!(
        find(r#"{"credsStore":"all"}"#, "docker.io"),
        Ok(asks("docker-credential-all", "https://index.docker.io/v1/"))
    );
    // A name is a name and no path.
    for name in [
        "../../tmp/x",
        "a/b",
        "/bin/sh",
        "a b",
        "a\\n",
        "a\\u0000",
        &"x".repeat(201),
    ] {
        let error = find(&format!(r#"{{"credsStore":"{name}"}}"#), "a.tld").unwrap_err();
        assert!(matches!(error, ConfigError::HelperName { .. }), "{error:?}");
    }
}

/// CVE-2019-13509: what is wrong is told without what is in it.
#[test]
fn malformed_files_are_located_and_not_quoted() {
    for (text, line) in [
        ("{", 1),
        ("not json hunter2", 1),
        ("{\"auths\":{\n\"r.tld\":{\"auth\":\"hunter2\",}}}", 2),
        ("{\"auths\":{\n\"r.tld\":\"hunter2\"}}", 2),
        ("{\"auths\":{\n\"r.tld\":{\"auth\":{\"hunter2\":1}}}}", 2),
        ("{\"auths\":[\"hunter2\"]}", 1),
        ("{\"credsStore\":[\"hunter2\"]}", 1),
        ("\"hunter2\"", 1),
        ("[{\"hunter2\":{}}]", 1),
        ("{}{}", 1),
        ("\u{feff}{}", 1),
        (&"[".repeat(100_000), 1),
    ] {
        let error = DockerConfig::parse(text.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("line {line},")),
            "{text:.40}: {error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
    for text in [
        "",
        " \n",
        "{}",
        r#"{"auths":null,"credHelpers":null,"credsStore":null}"#,
        r#"{"HttpHeaders":{"a":"b"},"psFormat":"x","auths":{}}"#,
    ] {
        assert_eq!(find(text, "r.tld"), Ok(Found::Nothing), "{text}");
    }
    let mut large = b"{}".to_vec();
    large.resize(CONFIG_LIMIT, b' ');
    assert!(DockerConfig::parse(&large).is_ok());
    large.push(b' ');
    assert_eq!(
        DockerConfig::parse(&large).unwrap_err(),
        ConfigError::TooLarge
    );
    let config = r#"{"auths":{"r":{"password":"hunter2"}}}"#;
    let config = DockerConfig::parse(config.as_bytes()).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn answers_of_helpers() {
    let parse = |text: &str| parse_answer(text.as_bytes());
    let credentials = |username: &str, password: &str, token: Option<&str>| {
        Ok(Some(Credentials {
            username: username.to_owned(),
            password: password.to_owned(),
            identity_token: token.map(str::to_owned),
        }))
    };
    assert_eq!(
        parse(r#"{"ServerURL":"x","Username":"u","Secret":"p"}"#),
        credentials("u", "p", None)
    );
    assert_eq!(
        parse("{\"Username\":\"<token>\",\"Secret\":\"refresh\"}\n"),
        credentials("", "", Some("refresh"))
    );
    assert_eq!(parse(r#"{"Username":"","Secret":""}"#), Ok(None));
    assert_eq!(parse("{}"), Ok(None));
    for text in [
        "",
        "hunter2",
        r#"["u","p"]"#,
        r#"{"Secret":1}"#,
        r#"{"Secret":"p"} x"#,
    ] {
        assert_eq!(parse(text), Err(AnswerError::Malformed), "{text}");
    }
    assert_eq!(
        parse(&" ".repeat(ANSWER_LIMIT + 1)),
        Err(AnswerError::TooLong)
    );
    assert!(says_not_found(
        b"credentials not found in native keychain\n"
    ));
    assert!(!says_not_found(
        b"no credentials not found in native keychain"
    ));
}
