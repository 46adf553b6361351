//! `search`.

use std::collections::BTreeMap;

use clap::{ArgMatches, Command};

use super::super::Context;
use super::super::flags::{
    is_on, list as list_flag, names, owned, parsed, switch, text, texts, value, with_help,
};
use super::push::client_options;
use crate::api::image::registry::{Client, SearchResult};
use crate::error::{CliError, Outcome};
use crate::listing::{self, Layout, Row};
use crate::output;
use crate::parse::number;
use crate::table::ellipsis;

const HEADERS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
];
const COLUMNS: &[&str] = &["Name", "Description", "StarCount", "IsOfficial"];

/// Arguments of `search`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            list_flag(
                "filter",
                "filter",
                "Filter output based on conditions provided",
            )
            .short('f'),
            value(
                "format",
                "string",
                "Pretty-print search using a Go template",
            ),
            value("limit", "int", "Max number of search results"),
            switch("no-trunc", "Don't truncate output"),
        ])
        .arg(names("names", 1).num_args(1))
}

/// `search`: looks for repositories on Docker Hub, or on the registry that the term begins with.
///
/// # Errors
/// Those of the flags, of the template and of the registry.
pub fn execute(_context: &Context, matches: &ArgMatches) -> Outcome {
    let term = owned(matches, "names").concat();
    let limit = parsed(matches, "limit", |text| number::integer(text, 0, 100))?
        .filter(|limit| *limit > 0)
        .unwrap_or(25);
    let filters = texts(matches, "filter")
        .map(filter)
        .collect::<Result<Vec<_>, _>>()?;
    let (registry, words) = match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("docker.io", term.as_str()),
    };
    let failed = |error: crate::api::image::registry::RegistryError| {
        CliError::Failed(format!("cannot search {registry}: {}", chain(&error)))
    };
    let client = Client::new(registry, &client_options()).map_err(failed)?;
    let mut results = client
        .search(words, usize::try_from(limit).unwrap_or(25))
        .map_err(failed)?;
    results.retain(|result| filters.iter().all(|keep| keep(result)));
    let truncate = !is_on(matches, "no-trunc")?;
    let rows: Vec<Row> = results.iter().map(|result| row(result, truncate)).collect();
    output::text(&listing::render(
        Layout {
            headers: HEADERS,
            columns: COLUMNS,
        },
        text(matches, "format"),
        &rows,
        output::to_terminal(),
    )?)?;
    Ok(0)
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = error.source();
    }
    line
}

type Keep = Box<dyn Fn(&SearchResult) -> bool>;

fn filter(given: &str) -> Result<Keep, CliError> {
    let invalid = |why: &str| CliError::Conflict(format!("invalid filter '{given}': {why}"));
    let (key, value) = given
        .split_once('=')
        .ok_or_else(|| invalid("use name=value"))?;
    match key {
        "stars" => {
            let least: u64 = value.parse().map_err(|_| invalid("use a number"))?;
            Ok(Box::new(move |result| result.star_count >= least))
        }
        "is-official" | "is-automated" => {
            let wanted = number::boolean(value).map_err(|_| invalid("use true or false"))?;
            let official = key == "is-official";
            Ok(Box::new(move |result| {
                let is = if official {
                    result.is_official
                } else {
                    result.is_automated
                };
                is == wanted
            }))
        }
        _ => Err(invalid("use stars, is-official or is-automated")),
    }
}

fn row(result: &SearchResult, truncate: bool) -> Row {
    let description = result.description.replace(['\n', '\r'], " ");
    let mark = |on: bool| if on { "[OK]" } else { "" }.to_owned();
    Row {
        fields: BTreeMap::from([
            ("Name", result.name.clone()),
            (
                "Description",
                if truncate {
                    ellipsis(&description, 45)
                } else {
                    description
                },
            ),
            ("StarCount", result.star_count.to_string()),
            ("IsOfficial", mark(result.is_official)),
            ("IsAutomated", mark(result.is_automated)),
        ]),
        labels: BTreeMap::new(),
    }
}
