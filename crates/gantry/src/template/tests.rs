use super::*;
use serde_json::json;

fn render(source: &str, json: &Json) -> String {
    render_json(source, json, false).unwrap()
}

#[test]
fn functions_and_fields() {
    let json = json!({
        "Name": "/web one",
        "Id": "0123456789",
        "Args": ["a", "b"],
        "Zero": 0,
        "Big": 18_446_744_073_709_551_615_u64,
        "Labels": { "z": "1", "a": "<&>" },
        "State": { "Running": true, "Pid": 12, "Error": null },
        "Ports": { "80/tcp": [{ "HostPort": "8080" }], "90/tcp": null },
    });
    for (source, expected) in [
        ("{{.Name}}", "/web one"),
        ("{{.Id}} {{.ID}}", "0123456789 0123456789"),
        (
            "{{.State.Running}} {{.State.Pid}} {{.Zero}} {{.Big}}",
            "true 12 0 18446744073709551615",
        ),
        (
            "{{json .State}}",
            r#"{"Running":true,"Pid":12,"Error":null}"#,
        ),
        ("{{json .Labels}}", r#"{"z":"1","a":"<&>"}"#),
        ("{{json .Args}}", r#"["a","b"]"#),
        ("{{json .Name}}", r#""/web one""#),
        ("{{join .Args \",\"}}", "a,b"),
        ("{{index (split .Name \" \") 1}}", "one"),
        (
            "{{upper .Name}} {{lower \"AB\"}} {{title .Name}}",
            "/WEB ONE ab /Web One",
        ),
        ("[{{pad .Id 1 2}}]", "[ 0123456789  ]"),
        ("{{truncate .Id 4}}", "0123"),
        ("{{println .Id}}", "0123456789\n"),
        (
            "{{index .Labels \"a\"}}|{{index .Labels \"none\"}}|",
            "<&>||",
        ),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        ("{{range $p, $c := .Ports}}{{$p}};{{end}}", "80/tcp;90/tcp;"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{len .Args}} {{.Args}}", "2 [a b]"),
        ("{{with .State}}{{.Pid}}{{end}}", "12"),
        ("{{printf \"%.3s\" .Id}}", "012"),
        ("{{.Name | upper}}", "/WEB ONE"),
        ("", ""),
    ] {
        assert_eq!(render(source, &json), expected, "{source}");
    }
    assert_eq!(
        render("{{json .}}", &json),
        json.to_string(),
        "the order of fields is kept"
    );
}

#[test]
fn errors() {
    let json = json!({ "A": "x" });
    for source in [
        "{{.B}}",
        "{{.A.B}}",
        "{{",
        "{{foo .A}}",
        "{{join .A \",\"}}",
        "{{truncate .A}}",
        "{{index}}",
    ] {
        assert!(render_json(source, &json, false).is_err(), "{source}");
    }
}

#[test]
fn methods_take_arguments() {
    let label: ValueFunc = Arc::new(|values| Ok(string(format!("<{}>", text(values, 0)?))));
    let value = Value::Map(Arc::new(BTreeMap::from([
        (Arc::from("Label"), Value::Function(label)),
        (Arc::from("Key"), string("k".to_owned())),
    ])));
    for (source, expected) in [
        ("{{.Label \"a\"}}", "<a>"),
        ("{{.Label .Key}}", "<k>"),
        ("{{\"a\" | .Label}}", "<a>"),
        ("{{upper (.Label \"a\")}}", "<A>"),
        ("{{if .Label \"a\"}}{{.Label \"b\" | upper}}{{end}}", "<B>"),
        (
            "{{range split \"x,y\" \",\"}}{{$.Label .}}{{end}}",
            "<x><y>",
        ),
        (
            "{{define \"l\"}}{{.Label \"a\"}}{{end}}{{template \"l\" .}}",
            "<a>",
        ),
    ] {
        let template = Template::parse(source, false).unwrap();
        assert_eq!(template.render(&value).unwrap(), expected, "{source}");
    }
}

#[test]
fn terminals_get_no_control_characters_cve_2021_25743() {
    let json = json!({ "Name": "a\u{1b}[31m", "L": { "k\u{9b}": "v\u{7}" } });
    for (source, expected) in [
        ("{{.Name}}", "a\\x1b[31m"),
        (
            "{{range $k, $v := .L}}{{$k}}={{$v}}{{end}}",
            "k\\x9b=v\\x07",
        ),
        ("{{json .Name}}", r#""a\u001b[31m""#),
        ("{{json .L}}", r#"{"k\u009b":"v\u0007"}"#),
    ] {
        assert_eq!(
            render_json(source, &json, true).unwrap(),
            expected,
            "{source}"
        );
    }
    assert_eq!(render("{{.Name}}", &json), "a\u{1b}[31m");
}

#[test]
fn shells_pass_tabs_as_two_characters() {
    assert_eq!(unescape("a\\tb\\n"), "a\tb\n");
}
