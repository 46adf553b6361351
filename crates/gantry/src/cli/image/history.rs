//! `history`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgMatches, Command};

use super::super::flags::{is_on, names, optional_switch, owned, switch, text, value, with_help};
use super::super::{Context, options};
use super::list::seconds;
use crate::api::HistoryStep;
use crate::error::Outcome;
use crate::listing::{self, Layout, Row};
use crate::table::{decimal_size, ellipsis, short_id};
use crate::{calendar, output, zone};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
const COLUMNS: &[&str] = &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"];
const PLAIN_COLUMNS: &[&str] = &["ID", "CreatedAt", "CreatedBy", "Size", "Comment"];

/// Characters of an instruction that a table shows.
const INSTRUCTION: usize = 45;

/// Arguments of `history`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value(
                "format",
                "string",
                "Format output: 'table', 'table TEMPLATE', 'json' or a Go template",
            ),
            switch(
                "human",
                "Print sizes and dates in human readable format (default true)",
            )
            .short('H'),
            switch("no-trunc", "Don't truncate output"),
            value("platform", "string", "Show history for the given platform"),
            switch("quiet", "Only show image IDs").short('q'),
        ])
        .arg(names("names", 1).num_args(1))
}

/// `history`: shows how an image was made, the newest step first.
///
/// # Errors
/// Those of the flags, of the template and of the engine.
pub fn execute(context: &Context, matches: &ArgMatches) -> Outcome {
    let name = owned(matches, "names").concat();
    let platform = options::platform(matches)?;
    let truncate = !is_on(matches, "no-trunc")?;
    let human = optional_switch(matches, "human")?.unwrap_or(true);
    let steps = context
        .engine()?
        .image_history(&name, platform.as_deref())?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let rows: Vec<Row> = steps
        .iter()
        .map(|step| row(step, truncate, human, now))
        .collect();
    if is_on(matches, "quiet")? {
        for row in &rows {
            output::line(&row.fields["ID"])?;
        }
        return Ok(0);
    }
    let layout = Layout {
        headers: HEADERS,
        columns: if human { COLUMNS } else { PLAIN_COLUMNS },
    };
    output::text(&listing::render(
        layout,
        text(matches, "format"),
        &rows,
        output::to_terminal(),
    )?)?;
    Ok(0)
}

fn row(step: &HistoryStep, truncate: bool, human: bool, now: i64) -> Row {
    let id = if truncate && step.id.starts_with("sha256:") {
        short_id(&step.id)
    } else {
        &step.id
    };
    let created_by = step.created_by.replace('\t', " ");
    let created = seconds(step.created.as_deref());
    Row {
        fields: BTreeMap::from([
            ("ID", id.to_owned()),
            (
                "CreatedSince",
                created.map_or("N/A".to_owned(), |made| {
                    format!("{} ago", calendar::span(now.saturating_sub(made)))
                }),
            ),
            ("CreatedAt", created.map_or(String::new(), local_time)),
            (
                "CreatedBy",
                if truncate {
                    ellipsis(&created_by, INSTRUCTION)
                } else {
                    created_by
                },
            ),
            (
                "Size",
                if human {
                    decimal_size(step.size, 3)
                } else {
                    step.size.to_string()
                },
            ),
            ("Comment", step.comment.clone()),
            ("Tags", step.tags.join(",")),
        ]),
        labels: BTreeMap::new(),
    }
}

/// RFC 3339 in the local zone.
fn local_time(seconds: i64) -> String {
    let (offset, _) = zone::at(seconds);
    // `2026-01-02 15:04:05 +0100 CET`.
    let listed = calendar::listing(seconds, &|_| (offset, String::new()));
    let mut words = listed.split_whitespace();
    let (date, time) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    if offset == 0 {
        return format!("{date}T{time}Z");
    }
    let sign = if offset < 0 { '-' } else { '+' };
    let (hours, minutes) = (offset.abs() / 3600, offset.abs() / 60 % 60);
    format!("{date}T{time}{sign}{hours:02}:{minutes:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let steps = [
            HistoryStep {
                id: "sha256:0123456789abcdef".to_owned(),
                created: Some("1970-01-01T00:00:00Z".to_owned()),
                created_by: "RUN /bin/sh -c a very long instruction that no table has room for"
                    .to_owned(),
                size: 1_500_000,
                comment: "buildkit".to_owned(),
                tags: Vec::new(),
            },
            HistoryStep {
                id: "<missing>".to_owned(),
                ..HistoryStep::default()
            },
        ];
        let shown = |human| {
            let rows: Vec<Row> = steps
                .iter()
                .map(|step| row(step, true, human, 7200))
                .collect();
            let layout = Layout {
                headers: HEADERS,
                columns: if human { COLUMNS } else { PLAIN_COLUMNS },
            };
            listing::render(layout, None, &rows, false).unwrap()
        };
        assert_eq!(
            shown(true),
            "IMAGE          CREATED       CREATED BY                                      SIZE      COMMENT\n\
             0123456789ab   2 hours ago   RUN /bin/sh -c a very long instruction that …   1.5MB     buildkit\n\
             <missing>      N/A                                                           0B        \n"
        );
        assert!(shown(false).contains("1500000"));
    }
}
