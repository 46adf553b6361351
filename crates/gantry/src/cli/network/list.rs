//! `network ls`.

use std::collections::BTreeMap;

use clap::{ArgMatches, Command};

use super::super::Context;
use super::super::flags::{is_on, list as list_flag, switch, text, texts, value, with_help};
use super::filter::{self, Filter};
use crate::api::NetworkSummary;
use crate::error::Outcome;
use crate::listing::{self, Layout, Row};
use crate::table::short_id;
use crate::{calendar, output, zone};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

const COLUMNS: &[&str] = &["ID", "Name", "Driver", "Scope"];

/// Scope of every network: there is no swarm.
pub(super) const SCOPE: &str = "local";

/// Arguments of `network ls`.
pub fn arguments(command: Command) -> Command {
    with_help(command).args([
        list_flag(
            "filter",
            "filter",
            "Provide filter values (e.g. \"driver=bridge\")",
        )
        .short('f'),
        value(
            "format",
            "string",
            "Format output: 'table', 'table TEMPLATE', 'json' or a Go template",
        ),
        switch("no-trunc", "Do not truncate the output"),
        switch("quiet", "Only display network IDs").short('q'),
    ])
}

/// `network ls`: lists networks by name.
///
/// # Errors
/// Those of the flags, of the template and of the engine.
pub fn list(context: &Context, matches: &ArgMatches) -> Outcome {
    let filters = texts(matches, "filter")
        .map(Filter::of_list)
        .collect::<Result<Vec<_>, _>>()?;
    let quiet = is_on(matches, "quiet")?;
    let truncate = !is_on(matches, "no-trunc")?;
    let format = text(matches, "format").filter(|format| !format.trim().is_empty());
    let mut networks = context.engine()?.networks()?;
    networks.retain(|network| filter::keep(&filters, network));
    networks.sort_by(|one, other| natural(&one.name).cmp(&natural(&other.name)));
    let rows: Vec<Row> = networks
        .into_iter()
        .map(|network| row(network, truncate))
        .collect();
    if quiet && format.is_none_or(|format| format == "table") {
        for row in &rows {
            output::line(&row.fields["ID"])?;
        }
        return Ok(0);
    }
    let layout = Layout {
        headers: HEADERS,
        columns: COLUMNS,
    };
    output::text(&listing::render(
        layout,
        format,
        &rows,
        output::to_terminal(),
    )?)?;
    Ok(0)
}

fn row(network: NetworkSummary, truncate: bool) -> Row {
    let labels: Vec<String> = network
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let id = if truncate {
        short_id(&network.id).to_owned()
    } else {
        network.id
    };
    let seconds = network.created_at.div_euclid(1_000_000_000);
    Row {
        fields: BTreeMap::from([
            ("ID", id),
            ("Name", network.name),
            ("Driver", network.driver),
            ("Scope", SCOPE.to_owned()),
            ("IPv4", "true".to_owned()),
            ("IPv6", "false".to_owned()),
            ("Internal", network.internal.to_string()),
            ("Labels", labels.join(",")),
            ("CreatedAt", calendar::listing(seconds, &zone::at)),
        ]),
        labels: network.labels,
    }
}

/// A part of a name: digits go by their number, the rest by its text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    /// Without its leading zeros: the longer one is the larger one.
    Number(usize, &'a str),
    Text(&'a str),
}

/// Parts of a name, by which `net2` goes before `net10`.
fn natural(name: &str) -> (Vec<Part<'_>>, &str) {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let end = rest
            .find(|character: char| character.is_ascii_digit() != digit)
            .unwrap_or(rest.len());
        let (part, tail) = rest.split_at(end);
        parts.push(if digit {
            let number = part.trim_start_matches('0');
            Part::Number(number.len(), number)
        } else {
            Part::Text(part)
        });
        rest = tail;
    }
    (parts, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> NetworkSummary {
        NetworkSummary {
            name: name.to_owned(),
            id: "0123456789abcdef0123".to_owned(),
            created_at: 1_767_366_245_000_000_000,
            driver: "bridge".to_owned(),
            internal: true,
            labels: [("a".to_owned(), "1".to_owned())].into(),
            predefined: false,
            containers: 0,
        }
    }

    fn shown(format: Option<&str>, truncate: bool) -> String {
        let layout = Layout {
            headers: HEADERS,
            columns: COLUMNS,
        };
        listing::render(layout, format, &[row(network("net"), truncate)], false).unwrap()
    }

    #[test]
    fn formats() {
        assert_eq!(
            shown(None, true),
            "NETWORK ID     NAME      DRIVER    SCOPE\n\
             0123456789ab   net       bridge    local\n"
        );
        assert!(shown(None, false).contains("0123456789abcdef0123"));
        assert_eq!(
            shown(
                Some("{{.Name}} {{.IPv6}} {{.Internal}} {{.Labels}} {{.Label \"a\"}}"),
                true
            ),
            "net false true a=1 1\n"
        );
        assert!(
            shown(Some("table {{.ID}}\t{{.CreatedAt}}"), true)
                .starts_with("NETWORK ID     CREATED AT\n")
        );
        let json: serde_json::Value = serde_json::from_str(&shown(Some("json"), true)).unwrap();
        assert_eq!(json["Scope"], "local");
        assert_eq!(json["IPv4"], "true");
    }

    #[test]
    fn the_order_of_names() {
        let mut names = ["net10", "net2", "bridge", "net", "net02", "9", "Net"];
        names.sort_by(|one, other| natural(one).cmp(&natural(other)));
        assert_eq!(
            names,
            ["9", "Net", "bridge", "net", "net02", "net2", "net10"]
        );
    }
}
