//! `images`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgMatches, Command};

use super::super::Context;
use super::super::flags::{
    is_on, list as list_flag, names, owned, switch, text, texts, value, with_help,
};
use super::filter::{self, Filter};
use crate::api::{ImageSummary, ImageTree};
use crate::error::{CliError, Outcome};
use crate::listing::{self, Layout, Row};
use crate::parse::time;
use crate::table::{decimal_size, short_id};
use crate::{calendar, matching, output, zone};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

const COLUMNS: &[&str] = &["Repository", "Tag", "ID", "CreatedSince", "Size"];
const DIGEST_COLUMNS: &[&str] = &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"];

/// What stands where an image has no name.
const NONE: &str = "<none>";

/// Arguments of `images`.
pub fn list_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("all", "Show all images (default hides intermediate images)").short('a'),
            switch("digests", "Show digests"),
            list_flag(
                "filter",
                "filter",
                "Filter output based on conditions provided",
            )
            .short('f'),
            value(
                "format",
                "string",
                "Format output: 'table', 'table TEMPLATE', 'json' or a Go template",
            ),
            switch("no-trunc", "Don't truncate output"),
            switch("quiet", "Only show image IDs").short('q'),
            switch(
                "tree",
                "List multi-platform images as a tree (EXPERIMENTAL)",
            ),
        ])
        .arg(names("names", 0).num_args(0..=1))
}

/// `images`: lists images, a line for each of their names.
///
/// # Errors
/// Those of the flags, of the template and of the engine.
pub fn list(context: &Context, matches: &ArgMatches) -> Outcome {
    if is_on(matches, "tree")? {
        return tree(context, matches);
    }
    let mut filters = texts(matches, "filter")
        .map(Filter::parse)
        .collect::<Result<Vec<_>, _>>()?;
    filters.extend(owned(matches, "names").pop().map(Filter::Reference));
    let all = is_on(matches, "all")?;
    let digests = is_on(matches, "digests")?;
    let quiet = is_on(matches, "quiet")?;
    let truncate = !is_on(matches, "no-trunc")?;
    let format = text(matches, "format").filter(|format| !format.trim().is_empty());
    let mut images = context.engine()?.images()?;
    // Other platforms of a name are part of it.
    images.retain(|image| all || !image.variant);
    images.sort_by_cached_key(|image| std::cmp::Reverse(created(image)));
    filter::resolve(&mut filters, &images)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let rows: Vec<Row> = images
        .iter()
        .flat_map(|image| rows(image, &filters, truncate, now))
        .collect();
    if quiet {
        for row in &rows {
            output::line(&row.fields["ID"])?;
        }
        return Ok(0);
    }
    let layout = Layout {
        headers: HEADERS,
        columns: if digests { DIGEST_COLUMNS } else { COLUMNS },
    };
    output::text(&listing::render(
        layout,
        format,
        &rows,
        output::to_terminal(),
    )?)?;
    Ok(0)
}

/// When an image was made, in seconds since 1970.
pub(super) fn created(image: &ImageSummary) -> Option<i64> {
    seconds(image.created.as_deref())
}

/// A time of an image in seconds since 1970.
pub(super) fn seconds(text: Option<&str>) -> Option<i64> {
    let nanoseconds = time::instant(text?, 0, &|_| 0).ok()?;
    Some(nanoseconds.div_euclid(1_000_000_000))
}

/// The lines of one image.
fn rows(image: &ImageSummary, filters: &[Filter], truncate: bool, now: i64) -> Vec<Row> {
    let dangling = image.tags.is_empty();
    if !filters.iter().all(|filter| filter.allows(image, dangling)) {
        return Vec::new();
    }
    let patterns: Vec<&str> = filters.iter().filter_map(Filter::pattern).collect();
    let wanted = |name: &str, tag: &str| {
        patterns.is_empty()
            || patterns.iter().any(|pattern| {
                matching::glob(pattern, name) || matching::glob(pattern, &format!("{name}:{tag}"))
            })
    };
    let digest_of = |name: &str| {
        let found = image
            .digests
            .iter()
            .find_map(|digest| match digest.split_once('@') {
                Some((repository, digest)) => (repository == name).then_some(digest),
                None => Some(digest.as_str()),
            });
        found.unwrap_or(NONE).to_owned()
    };
    let made = created(image);
    let row = |name: &str, tag: &str| Row {
        fields: BTreeMap::from([
            (
                "ID",
                if truncate {
                    short_id(&image.id)
                } else {
                    &image.id
                }
                .to_owned(),
            ),
            ("Repository", name.to_owned()),
            ("Tag", tag.to_owned()),
            ("Digest", digest_of(name)),
            (
                "CreatedSince",
                made.map_or("N/A".to_owned(), |made| {
                    format!("{} ago", calendar::span(now.saturating_sub(made)))
                }),
            ),
            (
                "CreatedAt",
                made.map_or("N/A".to_owned(), |made| calendar::listing(made, &zone::at)),
            ),
            ("Size", decimal_size(image.size, 3)),
            ("Containers", image.containers.to_string()),
            ("VirtualSize", decimal_size(image.size, 3)),
            ("SharedSize", "N/A".to_owned()),
            ("UniqueSize", "N/A".to_owned()),
        ]),
        labels: image.labels.clone(),
    };
    if dangling {
        // An image that is known only by its digest still belongs to a repository.
        let repository = image
            .digests
            .iter()
            .find_map(|digest| digest.split_once('@'));
        let name = repository.map_or(NONE, |(name, _)| name);
        let shown = patterns.is_empty() || (name != NONE && wanted(name, NONE));
        return if shown {
            vec![row(name, NONE)]
        } else {
            Vec::new()
        };
    }
    image
        .tags
        .iter()
        .filter(|(name, tag)| wanted(name, tag))
        .map(|(name, tag)| row(name, tag))
        .collect()
}

/// `images --tree`: names, and the platforms behind each.
fn tree(context: &Context, matches: &ArgMatches) -> Outcome {
    for (name, flag) in [
        ("quiet", "--quiet"),
        ("no-trunc", "--no-trunc"),
        ("digests", "--show-digest"),
    ] {
        if is_on(matches, name)? {
            return Err(CliError::Failed(format!(
                "{flag} is not yet supported with --tree"
            )));
        }
    }
    if text(matches, "format").is_some() {
        return Err(CliError::Failed(
            "--format is not yet supported with --tree".to_owned(),
        ));
    }
    let mut filters = texts(matches, "filter")
        .map(Filter::parse)
        .collect::<Result<Vec<_>, _>>()?;
    filters.extend(owned(matches, "names").pop().map(Filter::Reference));
    let engine = context.engine()?;
    let images = engine.images()?;
    filter::resolve(&mut filters, &images)?;
    if !output::to_terminal() {
        output::note(
            "WARNING: This output is designed for human readability. For machine-readable output, please use --format.",
        );
    }
    let mut lines = vec!["IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tEXTRA".to_owned()];
    for tree in engine.image_trees()? {
        if is_shown(&tree, &images, &filters) {
            lines.extend(tree_lines(&tree));
        }
    }
    output::text(&crate::table::align(&lines))?;
    Ok(0)
}

/// Whether a name of a tree, or one of its images, is what the filters ask for.
fn is_shown(tree: &ImageTree, images: &[ImageSummary], filters: &[Filter]) -> bool {
    let mut patterns = filters.iter().filter_map(Filter::pattern).peekable();
    let is_named = patterns.peek().is_none()
        || patterns.any(|pattern| {
            tree.names.iter().any(|name| {
                let repository = name
                    .rsplit_once(':')
                    .map_or(name.as_str(), |(name, _)| name);
                matching::glob(pattern, name) || matching::glob(pattern, repository)
            })
        });
    let dangling = tree.names.is_empty();
    let mut of_tree = images
        .iter()
        .filter(|image| tree.images.contains(&image.id));
    is_named && of_tree.any(|image| filters.iter().all(|filter| filter.allows(image, dangling)))
}

fn tree_lines(tree: &ImageTree) -> Vec<String> {
    let line = |name: &str, id: &str, disk: u64, content: u64, used: bool| {
        let used = if used { "U" } else { "" };
        let (disk, content) = (decimal_size(disk, 3), decimal_size(content, 3));
        format!("{name}\t{}\t{disk}\t{content}\t{used}", short_id(id))
    };
    let names = if tree.names.is_empty() {
        vec!["<untagged>".to_owned()]
    } else {
        tree.names.clone()
    };
    let mut lines = Vec::new();
    for name in names {
        let (disk, content) = (tree.disk_usage, tree.content_size);
        lines.push(line(&name, &tree.id, disk, content, tree.in_use));
    }
    let last = tree.platforms.len().saturating_sub(1);
    for (index, node) in tree.platforms.iter().enumerate() {
        let branch = if index == last { "└─" } else { "├─" };
        lines.push(line(
            &format!("{branch} {}", node.platform),
            &node.id,
            node.disk_usage,
            node.content_size,
            node.in_use,
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_366_245 + 14 * 24 * 3600;

    fn image(tags: &[(&str, &str)]) -> ImageSummary {
        ImageSummary {
            id: "sha256:0123456789abcdef".to_owned(),
            tags: tags
                .iter()
                .map(|(name, tag)| ((*name).to_owned(), (*tag).to_owned()))
                .collect(),
            digests: vec!["alpine@sha256:ffff".to_owned()],
            created: Some("2026-01-02T15:04:05.123456789Z".to_owned()),
            size: 8_310_000,
            labels: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
            containers: 2,
            variant: false,
        }
    }

    fn shown(image: &ImageSummary, filters: &[&str], digests: bool) -> String {
        let filters: Vec<_> = filters
            .iter()
            .map(|filter| Filter::parse(filter).unwrap())
            .collect();
        let layout = Layout {
            headers: HEADERS,
            columns: if digests { DIGEST_COLUMNS } else { COLUMNS },
        };
        let rows = rows(image, &filters, true, NOW);
        listing::render(layout, None, &rows, false)
            .unwrap()
            .lines()
            .skip(1)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn table() {
        let image = image(&[("alpine", "3"), ("me/app", "latest")]);
        let layout = Layout {
            headers: HEADERS,
            columns: COLUMNS,
        };
        assert_eq!(
            listing::render(layout, None, &rows(&image, &[], true, NOW), false).unwrap(),
            "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE\n\
             alpine       3         0123456789ab   2 weeks ago   8.31MB\n\
             me/app       latest    0123456789ab   2 weeks ago   8.31MB\n"
        );
        assert_eq!(
            shown(&image, &["reference=alp*"], true),
            "alpine       3         sha256:ffff   0123456789ab   2 weeks ago   8.31MB"
        );
    }

    #[test]
    fn filters() {
        let tagged = image(&[("alpine", "3"), ("me/app", "latest")]);
        let dangling = image(&[]);
        for (image, filters, lines) in [
            (&tagged, &["reference=alpine"][..], 1),
            (&tagged, &["reference=alpine:3"], 1),
            (&tagged, &["reference=alpine:4"], 0),
            (&tagged, &["reference=*/app"], 1),
            (&tagged, &["reference=alpine", "reference=me/*"], 2),
            (&tagged, &["dangling=true"], 0),
            (&tagged, &["label=a=1"], 2),
            (&tagged, &["label=a=2"], 0),
            (&dangling, &[], 1),
            (&dangling, &["dangling=true"], 1),
            (&dangling, &["dangling=false"], 0),
        ] {
            let shown = shown(image, filters, false);
            assert_eq!(shown.lines().count(), lines, "{filters:?}");
        }
        for filter in ["foo", "foo=1", "dangling=x", "until=never"] {
            assert!(Filter::parse(filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn filters_of_trees() {
        let images = [image(&[("alpine", "3")]), {
            let mut other = image(&[]);
            other.id = "sha256:other".to_owned();
            other.labels.clear();
            other
        }];
        let tree = |names: &[&str], id: &str| ImageTree {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            id: "sha256:index".to_owned(),
            images: vec![id.to_owned()],
            created: None,
            disk_usage: 0,
            content_size: 0,
            in_use: false,
            platforms: Vec::new(),
        };
        let named = tree(&["alpine:3", "me/app:latest"], "sha256:0123456789abcdef");
        let nameless = tree(&[], "sha256:other");
        for (filters, shown) in [
            (&[][..], (true, true)),
            (&["reference=alpine"], (true, false)),
            (&["reference=me/*:latest"], (true, false)),
            (&["reference=other", "reference=alpine:3"], (true, false)),
            (&["reference=other"], (false, false)),
            (&["dangling=true"], (false, true)),
            (&["dangling=false"], (true, false)),
            (&["label=a=1"], (true, false)),
            (&["label!=a"], (false, true)),
        ] {
            let parsed: Vec<_> = filters
                .iter()
                .map(|filter| Filter::parse(filter).unwrap())
                .collect();
            let found = |tree| is_shown(tree, &images, &parsed);
            assert_eq!((found(&named), found(&nameless)), shown, "{filters:?}");
        }
    }

    #[test]
    fn images_without_a_date_or_a_name() {
        let mut image = image(&[]);
        image.digests.clear();
        image.created = None;
        assert!(shown(&image, &[], true).starts_with("<none>"));
        assert!(shown(&image, &[], false).contains("N/A"));
    }
}
