use super::*;

fn port(ip: &str, private: u16, public: u16, protocol: &str) -> PortSummary {
    PortSummary {
        ip: ip.parse().ok(),
        private_port: private,
        public_port: (public != 0).then_some(public),
        protocol: if protocol == "udp" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
    }
}

fn container() -> ContainerSummary {
    ContainerSummary {
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        names: vec!["/web".to_owned()],
        image: "nginx".to_owned(),
        image_id: "sha256:abcdef012345".to_owned(),
        command: "/entrypoint.sh nginx -g 'daemon off;'".to_owned(),
        created: 1_767_366_245,
        state: "exited".to_owned(),
        status: "Exited (137) 2 hours ago".to_owned(),
        ports: vec![
            port("0.0.0.0", 80, 8080, "tcp"),
            port("::", 80, 8080, "tcp"),
        ],
        labels: BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), String::new()),
        ]),
        mounts: vec!["data".to_owned(), "/a/very/long/host/path".to_owned()],
        networks: vec!["bridge".to_owned()],
    }
}

#[test]
fn published_ports() {
    for (given, expected) in [
        (vec![], ""),
        (vec![port("", 80, 0, "tcp")], "80/tcp"),
        (
            vec![
                port("::", 80, 8080, "tcp"),
                port("0.0.0.0", 80, 8080, "tcp"),
            ],
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
        ),
        (vec![port("0.0.0.0", 80, 80, "tcp")], "0.0.0.0:80->80/tcp"),
        (
            vec![
                port("", 81, 0, "tcp"),
                port("", 80, 0, "tcp"),
                port("", 80, 0, "udp"),
            ],
            "80-81/tcp, 80/udp",
        ),
        (
            vec![
                port("127.0.0.1", 80, 80, "tcp"),
                port("127.0.0.1", 81, 81, "tcp"),
                port("127.0.0.1", 90, 90, "tcp"),
            ],
            "127.0.0.1:80-81->80-81/tcp, 127.0.0.1:90->90/tcp",
        ),
        (
            vec![port("", 443, 0, "tcp"), port("0.0.0.0", 80, 8080, "tcp")],
            "443/tcp, 0.0.0.0:8080->80/tcp",
        ),
    ] {
        assert_eq!(ports(&given), expected);
    }
}

#[test]
fn commands_are_quoted() {
    for (text, expected) in [
        ("sh", "\"sh\""),
        ("sh -c \"a\\b\"", "\"sh -c \\\"a\\\\b\\\"\""),
        ("a\n\t\u{1b}\u{9b}é…", "\"a\\n\\t\\x1b\\u009bé…\""),
    ] {
        assert_eq!(quote(text), expected);
    }
}

#[test]
fn rows() {
    let row_of = |truncate| row(container(), truncate, 1_767_366_245 + 3 * 3600);
    let short = row_of(true);
    for (field, expected) in [
        ("ID", "0123456789ab"),
        ("Image", "nginx"),
        ("Command", "\"/entrypoint.sh ngin…\""),
        ("CreatedAt", "2026-01-02 15:04:05 +0000 UTC"),
        ("RunningFor", "3 hours ago"),
        ("Ports", "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
        ("State", "exited"),
        ("Status", "Exited (137) 2 hours ago"),
        ("Names", "web"),
        ("Labels", "a=1,b="),
        ("Mounts", "data,/a/very/long/h…"),
        ("LocalVolumes", "1"),
        ("Networks", "bridge"),
    ] {
        // Where this runs, the clock may be in another zone.
        if field == "CreatedAt" && zone::at(1_767_366_245).0 != 0 {
            continue;
        }
        assert_eq!(short.fields[field], expected, "{field}");
    }
    let long = row_of(false);
    assert_eq!(long.fields["ID"], container().id);
    assert_eq!(
        long.fields["Command"],
        "\"/entrypoint.sh nginx -g 'daemon off;'\""
    );
    assert_eq!(long.fields["Mounts"], "data,/a/very/long/host/path");
    // Every field that a template may name is there.
    for (name, _) in HEADERS {
        assert!(short.fields.contains_key(name), "{name}");
    }
}

#[test]
fn table() {
    let rows = [row(container(), true, 1_767_366_245 + 90)];
    let layout = Layout {
        headers: HEADERS,
        columns: COLUMNS,
    };
    assert_eq!(
        listing::render(layout, None, &rows, false).unwrap(),
        "CONTAINER ID   IMAGE     COMMAND                  CREATED              STATUS                     PORTS                                     NAMES\n\
         0123456789ab   nginx     \"/entrypoint.sh ngin…\"   About a minute ago   Exited (137) 2 hours ago   0.0.0.0:8080->80/tcp, [::]:8080->80/tcp   web\n"
    );
    assert_eq!(
        listing::render(
            layout,
            Some("{{.Names}} {{.Label \"a\"}} {{.Label \"none\"}}|"),
            &rows,
            false
        )
        .unwrap(),
        "web 1 |\n"
    );
}

#[test]
fn filters() {
    let container = container();
    for (filters, expected) in [
        (&["name=we"][..], true),
        (&["name=^/web$"], true),
        (&["name=^eb"], false),
        (&["name=db", "name=web"], true),
        (&["id=0123"], true),
        (&["id=123"], false),
        (&["label=a"], true),
        (&["label=a=1"], true),
        (&["label=a=2"], false),
        (&["label=a", "label=c"], false),
        (&["label=b="], true),
        (&["status=exited"], true),
        (&["status=running"], false),
        (&["status=running", "status=exited"], true),
        (&["status=exited", "name=db"], false),
        (&["ancestor=nginx"], true),
        (&["ancestor=nginx:latest"], true),
        (&["ancestor=nginx:1"], false),
        (&["ancestor=abcdef01"], true),
        (&["exited=137"], true),
        (&["exited=0"], false),
        (&["network=bridge"], true),
        (&["volume=data"], true),
        (&[], true),
    ] {
        let parsed: Vec<_> = filters
            .iter()
            .map(|filter| Filter::parse(filter).unwrap())
            .collect();
        assert_eq!(keep(&parsed, &container), expected, "{filters:?}");
    }
    for filter in ["foo", "foo=x", "status=foo", "exited=x"] {
        assert!(Filter::parse(filter).is_err(), "{filter}");
    }
}
