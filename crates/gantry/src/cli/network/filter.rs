//! `--filter` of networks.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::NetworkSummary;
use crate::error::CliError;
use crate::parse::{number, time};
use crate::{matching, zone};

/// One `--filter`.
#[derive(Debug, PartialEq, Eq)]
pub enum Filter {
    /// With a driver.
    Driver(String),
    /// With an id that a pattern matches.
    Id(String),
    /// With a name that a pattern matches.
    Name(String),
    /// With a label, with that value if there is one.
    Label(String, Option<String>),
    /// Without that label.
    NoLabel(String, Option<String>),
    /// With a scope.
    Scope(String),
    /// Made by a user, or there from the beginning.
    Custom(bool),
    /// Without a container on it, or with one.
    Dangling(bool),
    /// Made before a time, in nanoseconds since 1970.
    Until(i64),
}

impl Filter {
    /// Reads a filter of `network ls`.
    ///
    /// # Errors
    /// [`CliError::Conflict`].
    pub fn of_list(given: &str) -> Result<Filter, CliError> {
        let invalid = |why: &str| refused(given, why);
        let (key, value) = split(given)?;
        match key.as_str() {
            "driver" => Ok(Filter::Driver(value.to_owned())),
            "id" => Ok(Filter::Id(value.to_owned())),
            "name" => Ok(Filter::Name(value.to_owned())),
            "label" => {
                let (key, value) = pair(value);
                Ok(Filter::Label(key, value))
            }
            "scope" => Ok(Filter::Scope(value.to_owned())),
            "type" => match value {
                "custom" => Ok(Filter::Custom(true)),
                "builtin" => Ok(Filter::Custom(false)),
                _ => Err(invalid("use custom or builtin")),
            },
            "dangling" => number::boolean(value)
                .map(Filter::Dangling)
                .map_err(|_| invalid("use true or false")),
            _ => Err(invalid(
                "use driver, id, name, label, scope, type or dangling",
            )),
        }
    }

    /// Reads a filter of `network prune`.
    ///
    /// # Errors
    /// [`CliError::Conflict`].
    pub fn of_prune(given: &str) -> Result<Filter, CliError> {
        let (key, value) = split(given)?;
        match key.as_str() {
            "label" => {
                let (key, value) = pair(value);
                Ok(Filter::Label(key, value))
            }
            // `label!=a` was split at its only equals sign.
            "label!" => {
                let (key, value) = pair(value);
                Ok(Filter::NoLabel(key, value))
            }
            "until" => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
                time::instant(value, now, &zone::wall_offset)
                    .map(Filter::Until)
                    .map_err(|_| refused(given, "use a time, or how long ago it was"))
            }
            _ => Err(refused(given, "use until, label or label!")),
        }
    }

    /// Filters of one kind are alternatives, but labels, which all must match.
    fn kind(&self) -> usize {
        match self {
            Filter::Driver(_) => 0,
            Filter::Id(_) => 1,
            Filter::Name(_) => 2,
            Filter::Label(..) | Filter::NoLabel(..) => 3,
            Filter::Scope(_) => 4,
            Filter::Custom(_) => 5,
            Filter::Dangling(_) => 6,
            Filter::Until(_) => 7,
        }
    }

    fn matches(&self, network: &NetworkSummary) -> bool {
        let has = |key: &String, value: &Option<String>| match (network.labels.get(key), value) {
            (Some(found), Some(value)) => found == value,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        };
        match self {
            Filter::Driver(driver) => network.driver == *driver,
            Filter::Id(pattern) => matching::regex(pattern, &network.id),
            Filter::Name(pattern) => matching::regex(pattern, &network.name),
            Filter::Label(key, value) => has(key, value),
            Filter::NoLabel(key, value) => !has(key, value),
            Filter::Scope(scope) => scope == super::list::SCOPE,
            Filter::Custom(custom) => network.predefined != *custom,
            // What belongs to the installation is never left over.
            Filter::Dangling(dangling) => {
                (network.containers == 0 && !network.predefined) == *dangling
            }
            Filter::Until(instant) => network.created_at < *instant,
        }
    }
}

/// Whether a network passes: of every kind of filter at least one, of labels all.
pub fn keep(filters: &[Filter], network: &NetworkSummary) -> bool {
    filters.iter().all(|filter| {
        if matches!(filter, Filter::Label(..) | Filter::NoLabel(..)) {
            return filter.matches(network);
        }
        filters
            .iter()
            .filter(|other| other.kind() == filter.kind())
            .any(|other| other.matches(network))
    })
}

fn refused(given: &str, why: &str) -> CliError {
    CliError::Conflict(format!("invalid filter '{given}': {why}"))
}

fn split(given: &str) -> Result<(String, &str), CliError> {
    let (key, value) = given
        .split_once('=')
        .ok_or_else(|| refused(given, "use name=value"))?;
    Ok((key.trim().to_ascii_lowercase(), value))
}

fn pair(value: &str) -> (String, Option<String>) {
    match value.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (value.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkSummary {
        NetworkSummary {
            name: "my-net".to_owned(),
            id: "0123456789abcdef".to_owned(),
            created_at: 1_767_366_245_000_000_000,
            driver: "bridge".to_owned(),
            internal: false,
            labels: [("a".to_owned(), "1".to_owned())].into(),
            predefined: false,
            containers: 1,
        }
    }

    #[test]
    fn of_lists() {
        for (filters, expected) in [
            (&[][..], true),
            (&["driver=bridge"], true),
            (&["driver=bri"], false),
            (&["driver=host", "driver=bridge"], true),
            (&["name=net"], true),
            (&["name=^net"], false),
            (&["id=0123"], true),
            (&["id=^1"], false),
            (&["label=a"], true),
            (&["label=a=1"], true),
            (&["label=a", "label=b"], false),
            (&["scope=local"], true),
            (&["scope=swarm"], false),
            (&["type=custom"], true),
            (&["type=builtin"], false),
            (&["dangling=true"], false),
            (&["dangling=false"], true),
            (&["name=net", "driver=host"], false),
        ] {
            let parsed: Vec<_> = filters
                .iter()
                .map(|filter| Filter::of_list(filter).unwrap())
                .collect();
            assert_eq!(keep(&parsed, &network()), expected, "{filters:?}");
        }
        for filter in ["foo", "foo=1", "type=other", "dangling=x", "until=1h"] {
            assert!(Filter::of_list(filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn of_prunes() {
        for (filters, expected) in [
            (&["until=2026-01-02T15:04:06Z"][..], true),
            (&["until=2026-01-02T15:04:05Z"], false),
            (&["label=a"], true),
            (&["label!=a"], false),
            (&["label!=a=2"], true),
            (&["label=a", "until=2020-01-01Z"], false),
        ] {
            let parsed: Vec<_> = filters
                .iter()
                .map(|filter| Filter::of_prune(filter).unwrap())
                .collect();
            assert_eq!(keep(&parsed, &network()), expected, "{filters:?}");
        }
        for filter in ["foo", "name=a", "until=never"] {
            assert!(Filter::of_prune(filter).is_err(), "{filter}");
        }
    }
}
