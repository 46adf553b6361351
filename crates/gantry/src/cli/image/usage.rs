//! `system df`, `image verify` and `image drop-blobs`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgMatches, Command};
use serde_json::json;

use super::super::flags::{is_on, names, owned, switch, text, value, with_help};
use super::super::{Context, complain};
use super::list::seconds;
use crate::api::{DiskUsage, UsageItem, UsageKind};
use crate::error::Outcome;
use crate::listing::{self, Layout, Row};
use crate::table::{align, decimal_size, short_id};
use crate::template::{render_json, unescape};
use crate::{calendar, output};

const HEADERS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const COLUMNS: &[&str] = &["Type", "TotalCount", "Active", "Size", "Reclaimable"];

/// Arguments of `system df`.
pub fn df_arguments(command: Command) -> Command {
    with_help(command).args([
        value(
            "format",
            "string",
            "Format output: 'table', 'table TEMPLATE', 'json' or a Go template",
        ),
        switch("verbose", "Show detailed information on space usage").short('v'),
    ])
}

/// `system df`: shows where the disk space went. The sizes of all lines together are what `du`
/// says of the data root.
///
/// # Errors
/// Those of the flags, of the template and of the engine.
pub fn df(context: &Context, matches: &ArgMatches) -> Outcome {
    let verbose = is_on(matches, "verbose")?;
    let usage = context.engine()?.disk_usage()?;
    let format = text(matches, "format").filter(|format| !format.trim().is_empty());
    if verbose {
        match format {
            None | Some("table") => output::text(&details(&usage))?,
            Some("json") => output::line(&details_json(&usage).to_string())?,
            Some(template) => output::line(&render_json(
                &unescape(template),
                &details_json(&usage),
                output::to_terminal(),
            )?)?,
        }
        return Ok(0);
    }
    let rows: Vec<Row> = usage.items.iter().map(row).collect();
    output::text(&listing::render(
        Layout {
            headers: HEADERS,
            columns: COLUMNS,
        },
        format,
        &rows,
        output::to_terminal(),
    )?)?;
    Ok(0)
}

fn kind_name(kind: UsageKind) -> &'static str {
    match kind {
        UsageKind::Images => "Images",
        UsageKind::Containers => "Containers",
        UsageKind::Volumes => "Local Volumes",
        UsageKind::BuildCache => "Build Cache",
        UsageKind::Logs => "Logs",
        UsageKind::Other => "Other",
    }
}

fn row(item: &UsageItem) -> Row {
    let reclaimable = decimal_size(item.reclaimable, 4);
    let share = (item.reclaimable * 100).checked_div(item.size);
    let reclaimable = match (item.kind, share) {
        (UsageKind::BuildCache | UsageKind::Logs | UsageKind::Other, _) | (_, None) => reclaimable,
        (_, Some(share)) => format!("{reclaimable} ({share}%)"),
    };
    Row {
        fields: BTreeMap::from([
            ("Type", kind_name(item.kind).to_owned()),
            ("TotalCount", item.total.to_string()),
            ("Active", item.active.to_string()),
            ("Size", decimal_size(item.size, 4)),
            ("Reclaimable", reclaimable),
        ]),
        labels: BTreeMap::new(),
    }
}

fn since(created: Option<&str>) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    seconds(created).map_or("N/A".to_owned(), |made| {
        format!("{} ago", calendar::span(now.saturating_sub(made)))
    })
}

/// Every object, as Docker lays it out.
fn details(usage: &DiskUsage) -> String {
    let size = |bytes: u64| decimal_size(bytes, 4);
    let mut images = vec![
        "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS".to_owned(),
    ];
    for image in &usage.images {
        let none = [("<none>".to_owned(), "<none>".to_owned())];
        let names = if image.names.is_empty() {
            &none[..]
        } else {
            &image.names
        };
        for (repository, tag) in names {
            images.push(format!(
                "{repository}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}",
                short_id(&image.id),
                since(image.created.as_deref()),
                size(image.size),
                size(image.shared),
                size(image.size - image.shared),
                image.users
            ));
        }
    }
    let mut containers = vec!["CONTAINER ID\tSIZE".to_owned()];
    for (id, bytes) in &usage.containers {
        containers.push(format!("{}\t{}", short_id(id), size(*bytes)));
    }
    let mut volumes = vec!["VOLUME NAME\tLINKS\tSIZE".to_owned()];
    for volume in &usage.volumes {
        volumes.push(format!(
            "{}\t{}\t{}",
            volume.id,
            volume.users,
            size(volume.size)
        ));
    }
    let of = |kind| {
        let item = usage.items.iter().find(|item| item.kind == kind);
        size(item.map_or(0, |item| item.size))
    };
    format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\n\
         Build cache usage: {}\n\nLogs: {}\n\nOther: {}\n",
        align(&images),
        align(&containers),
        align(&volumes),
        of(UsageKind::BuildCache),
        of(UsageKind::Logs),
        of(UsageKind::Other),
    )
}

fn details_json(usage: &DiskUsage) -> serde_json::Value {
    let images: Vec<_> = usage
        .images
        .iter()
        .map(|image| {
            json!({
                "ID": image.id, "Names": image.names.iter().map(|(name, tag)| format!("{name}:{tag}")).collect::<Vec<_>>(),
                "Size": image.size, "SharedSize": image.shared, "UniqueSize": image.size - image.shared,
                "Containers": image.users,
            })
        })
        .collect();
    let containers: Vec<_> = usage
        .containers
        .iter()
        .map(|(id, size)| json!({"ID": id, "Size": size}))
        .collect();
    let volumes: Vec<_> = usage
        .volumes
        .iter()
        .map(|volume| json!({"Name": volume.id, "Links": volume.users, "Size": volume.size}))
        .collect();
    let totals: Vec<_> = usage
        .items
        .iter()
        .map(|item| json!({"Type": kind_name(item.kind), "Size": item.size, "Reclaimable": item.reclaimable}))
        .collect();
    json!({"Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": [], "Totals": totals})
}

/// Arguments of `image verify`.
pub fn verify_arguments(command: Command) -> Command {
    with_help(command)
        .arg(switch(
            "deep",
            "Compare every file of every layer with what was unpacked",
        ))
        .arg(names("names", 0))
}

/// `image verify`: checks that images are on the disk as they came.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn verify(context: &Context, matches: &ArgMatches) -> Outcome {
    let deep = is_on(matches, "deep")?;
    let report = context
        .engine()?
        .verify_images(&owned(matches, "names"), deep)?;
    for damage in &report.damaged {
        output::line(&format!("damaged: {damage}"))?;
    }
    output::line(&format!(
        "{} images, {} blobs ({}), {} layers checked: {}",
        report.images,
        report.blobs,
        decimal_size(report.bytes, 4),
        report.layers,
        match report.damaged.len() {
            0 => "no damage found".to_owned(),
            1 => "1 object is damaged".to_owned(),
            count => format!("{count} objects are damaged"),
        }
    ))?;
    Ok(u8::from(!report.damaged.is_empty()))
}

/// Arguments of `image drop-blobs`.
pub fn drop_arguments(command: Command) -> Command {
    with_help(command).arg(names("names", 1))
}

/// `image drop-blobs`: frees the compressed layers that a registry still has.
///
/// # Errors
/// The engine's.
pub fn drop_blobs(context: &Context, matches: &ArgMatches) -> Outcome {
    let engine = context.engine()?;
    let (mut freed, mut code) = (0, 0);
    for name in owned(matches, "names") {
        match engine.drop_image_blobs(&name) {
            Ok(bytes) => freed += bytes,
            Err(error) => {
                complain(context, error);
                code = 1;
            }
        }
    }
    output::line(&format!("Freed: {}", decimal_size(freed, 4)))?;
    Ok(code)
}
