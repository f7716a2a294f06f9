//! What a batch reads: the rows of each of its gets, searches and lists, in one statement. A row is the
//! place of its operation in the batch, prefix, key, value, created_at, updated_at (in microseconds),
//! whether its time to live begins anew, and two columns of `ranked`.

use serde_json::{Value as Json, json};
use yai_agentkit_core::store::{ItemKey, NamespacePattern, NamespaceQuery, Operation, Search};

use super::{filter, joined, now};
use crate::{connection::Connection, sql::Query};

const ON_POSTGRES: &str = "s.prefix, s.key, s.value::text,
    (extract(epoch FROM s.created_at) * 1000000)::bigint,
    (extract(epoch FROM s.updated_at) * 1000000)::bigint";

const ON_SQLITE: &str = "s.prefix, s.key, s.value, s.created_at, s.updated_at";

/// PostgreSQL's last columns of what has no score.
const UNRANKED: &str = "NULL::boolean, NULL::float8";

/// `None` where a batch reads nothing.
pub(super) fn query(connection: &Connection, operations: &[&Operation]) -> Option<Query> {
    let mut query = Query::new(connection, "");
    push(&mut query, connection, operations).then_some(query)
}

/// Adds it to a text; `false` where that is nothing.
pub(super) fn push(query: &mut Query, connection: &Connection, operations: &[&Operation]) -> bool {
    let mut reads = Reads {
        now: now(connection),
        is_postgres: connection.is_postgres(),
        query,
        is_first: true,
    };
    let gets: Vec<_> = operations.iter().zip(0..).filter_map(get).collect();
    if !gets.is_empty() {
        reads.gets(&gets);
    }
    for (operation, place) in operations.iter().zip(0..) {
        match operation {
            Operation::Search(search) => reads.search(place, search),
            Operation::Namespaces(namespaces) => reads.namespaces(place, namespaces),
            _ => {}
        }
    }
    !reads.is_first
}

fn get<'a>((operation, place): (&&'a Operation, i32)) -> Option<(i32, &'a ItemKey, bool)> {
    match operation {
        Operation::Get { key, renews } => Some((place, key, *renews)),
        _ => None,
    }
}

pub(super) struct Reads<'a> {
    pub(super) query: &'a mut Query,
    pub(super) is_postgres: bool,
    /// For SQLite.
    now: i64,
    is_first: bool,
}

impl Reads<'_> {
    pub(super) fn begin(&mut self) {
        if !self.is_first {
            self.query.push("\nUNION ALL\n");
        }
        self.is_first = false;
    }

    pub(super) fn columns(&self) -> &'static str {
        if self.is_postgres {
            ON_POSTGRES
        } else {
            ON_SQLITE
        }
    }

    fn gets(&mut self, gets: &[(i32, &ItemKey, bool)]) {
        self.begin();
        let columns = self.columns();
        if self.is_postgres {
            let places = self.query.column(gets, |get| get.0);
            let prefixes = self.query.column(gets, |get| joined(&get.1.namespace));
            let keys = self.query.column(gets, |get| get.1.key.as_str());
            let renews = self.query.column(gets, |get| get.2);
            self.query.push(format_args!(
                "SELECT g.place, {columns}, g.renews AND s.ttl_minutes IS NOT NULL, {UNRANKED}
FROM unnest({places}, {prefixes}, {keys}, {renews}) g (place, prefix, key, renews)
JOIN store s ON s.prefix = g.prefix AND s.key = g.key
WHERE "
            ));
        } else {
            let row = |(place, key, renews): &(i32, &ItemKey, bool)| {
                json!([place, joined(&key.namespace), key.key, i32::from(*renews)])
            };
            let rows: Json = gets.iter().map(row).collect();
            let rows = self.query.bind(rows.to_string());
            self.query.push(format_args!(
                "SELECT g.value ->> 0, {columns}, g.value ->> 3 AND s.ttl_minutes IS NOT NULL, NULL, NULL
FROM json_each({rows}) g
JOIN store s ON s.prefix = g.value ->> 1 AND s.key = g.value ->> 2
WHERE "
            ));
        }
        self.alive();
    }

    fn search(&mut self, place: i32, search: &Search) {
        if search.is_ranked() {
            return self.ranked(place, search);
        }
        self.begin();
        let unranked = if self.is_postgres {
            UNRANKED
        } else {
            "NULL, NULL"
        };
        let (columns, place) = (self.columns(), self.query.bind(place));
        let renews = self.query.bind(search.renews);
        self.query.push(format_args!(
            "SELECT * FROM (
    SELECT {place}, {columns}, {renews} AND s.ttl_minutes IS NOT NULL, {unranked}
    FROM store s WHERE "
        ));
        self.meets(search);
        let binary = if self.is_postgres {
            r#" COLLATE "C""#
        } else {
            ""
        };
        self.query.push(format_args!(
            "\n    ORDER BY s.updated_at DESC, s.prefix{binary}, s.key{binary}"
        ));
        self.page(search.limit, search.offset);
        self.query.push("\n) found");
    }

    /// Those that a search may find.
    pub(super) fn meets(&mut self, search: &Search) {
        self.alive();
        self.within(&search.namespace);
        for condition in search.filter.conditions() {
            self.query.push("\n        AND ");
            filter::push(self.query, condition);
        }
    }

    /// On SQLite all that may be listed, see [`NamespaceQuery::page`].
    fn namespaces(&mut self, place: i32, list: &NamespaceQuery) {
        self.begin();
        let place = self.query.bind(place);
        if !self.is_postgres {
            self.query.push(format_args!(
                "SELECT * FROM (
    SELECT DISTINCT {place}, s.prefix, NULL, NULL, NULL, NULL, 0, NULL, NULL
    FROM store s WHERE "
            ));
            self.alive();
            self.within(list.known_prefix());
            self.query.push("\n) listed");
            return;
        }
        let depth = list
            .max_depth
            .map_or(i32::MAX, |depth| i32::try_from(depth).unwrap_or(i32::MAX));
        let depth = self.query.bind(depth);
        self.query.push(format_args!(
            r#"SELECT {place}, array_to_string(listed.labels, '.'), NULL::text, NULL::text, NULL::bigint,
    NULL::bigint, false, {UNRANKED}
FROM (
    SELECT DISTINCT n.labels[:{depth}] COLLATE "C" AS labels
    FROM (
        SELECT string_to_array(s.prefix, '.') AS labels FROM store s WHERE "#
        ));
        self.alive();
        self.within(list.known_prefix());
        self.query.push("\n    ) n\n    WHERE true");
        for pattern in &list.patterns {
            self.matches(pattern);
        }
        self.query.push("\n    ORDER BY 1");
        self.page(list.limit, list.offset);
        self.query.push("\n) listed");
    }

    fn matches(&mut self, pattern: &NamespacePattern) {
        let (labels, is_prefix) = match pattern {
            NamespacePattern::Prefix(labels) => (labels, true),
            NamespacePattern::Suffix(labels) => (labels, false),
        };
        let count = i32::try_from(labels.len()).unwrap_or(i32::MAX);
        let count = self.query.bind(count);
        self.query.push(format_args!(
            "\n        AND cardinality(n.labels) >= {count}"
        ));
        for (label, place) in labels.iter().zip(1..) {
            if label == "*" {
                continue;
            }
            let (label, place) = (self.query.bind(label.as_str()), self.query.bind(place));
            let place = if is_prefix {
                place.to_string()
            } else {
                format!("cardinality(n.labels) - {count} + {place}")
            };
            self.query
                .push(format_args!("\n        AND n.labels[{place}] = {label}"));
        }
    }

    /// Those that have not outlived their time.
    pub(super) fn alive(&mut self) {
        if self.is_postgres {
            self.query
                .push("(s.expires_at IS NULL OR s.expires_at > statement_timestamp())");
        } else {
            let now = self.query.bind(self.now);
            self.query.push(format_args!(
                "(s.expires_at IS NULL OR s.expires_at > {now})"
            ));
        }
    }

    /// Those of a namespace and within it, by a range of the index. A point is less than a slash, and
    /// what stands between a namespace and its point is of another.
    pub(super) fn within(&mut self, namespace: &[String]) {
        if namespace.is_empty() {
            return;
        }
        let itself = joined(namespace);
        let within = self.query.bind(format!("{itself}."));
        let end = self.query.bind(format!("{itself}/"));
        let itself = self.query.bind(itself);
        let (at_least, less) = if self.is_postgres {
            ("~>=~", "~<~")
        } else {
            (">=", "<")
        };
        self.query.push(format_args!(
            "\n        AND s.prefix {at_least} {itself} AND s.prefix {less} {end}
        AND (s.prefix = {itself} OR s.prefix {at_least} {within})"
        ));
    }

    fn page(&mut self, limit: u64, offset: u64) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (limit, offset) = (number(limit), number(offset));
        let (limit, offset) = (self.query.bind(limit), self.query.bind(offset));
        self.query
            .push(format_args!("\n    LIMIT {limit} OFFSET {offset}"));
    }
}
