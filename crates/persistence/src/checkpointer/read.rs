//! `get` and `list`: one statement brings the checkpoints with their values, writes and sends, each
//! a row of its own kind. A value that several checkpoints of a page share comes once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Display,
};

use sea_orm::{DbErr, QueryResult};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use yai_agentkit_core::{
    CheckpointId, CheckpointKey, CheckpointQuery, CheckpointSelector, Error, Namespace, Result,
    ThreadId, Value,
    checkpoint::{PendingWrite, ValueKey, Values, Version},
};

use super::{
    RawCheckpoint,
    row::{Columns, read_json, stored_value},
};
use crate::{
    connection::{Connection, retrying},
    encryption::{EncryptionError, KeyRing, of_value, unreadable},
    error::storage_error,
    sql::{Parameter, Query, Sql},
};

const PAGE: &str = "WITH page AS MATERIALIZED (
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    FROM checkpoints";

/// Everything that belongs to the checkpoints of `page`. SQLite keeps the order of a CROSS JOIN; as
/// text, a float is what the JSON says, since a cast keeps 15 digits of it.
/// The condition on the channels stands between the two parts.
const WITH_ALL_ON_SQLITE: (&str, &str) = (
    include_str!("sql/values.sqlite.sql"),
    include_str!("sql/writes.sqlite.sql"),
);

/// Nothing but the checkpoints of `page`, without the values that they hold themselves.
const WITHOUT_VALUES: Sql = Sql {
    postgres: "
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
    (checkpoint - 'channel_values')::text, metadata::text
FROM page",
    sqlite: "
)
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
    json_remove(checkpoint, '$.channel_values'), metadata
FROM page",
};

pub(super) async fn get(
    connection: &Connection,
    selector: &CheckpointSelector,
    ring: Option<&KeyRing>,
) -> Result<Option<RawCheckpoint>> {
    let query = get_query(connection, selector);
    Ok(run(connection, "get checkpoint", query, ring).await?.pop())
}

pub(super) fn get_query(connection: &Connection, selector: &CheckpointSelector) -> Query {
    let mut page = Page::new(connection);
    let thread = page.equal("thread_id", selector.thread_id.as_str());
    page.equal("checkpoint_ns", selector.namespace.as_str());
    if let Some(id) = &selector.checkpoint_id {
        page.equal("checkpoint_id", id.as_str());
    }
    page.query.push(" ORDER BY checkpoint_id DESC LIMIT 1");
    page.with(connection, Some(thread), &selector.values)
}

/// OFFSET 0 as in [`with_all`].
const VALUES: Sql = Sql {
    postgres: "SELECT b.channel, b.version, b.type, b.blob
FROM jsonb_array_elements($3::jsonb) wanted CROSS JOIN LATERAL (
    SELECT channel, version, type, blob FROM checkpoint_blobs
    WHERE thread_id = $1 AND checkpoint_ns = $2
        AND channel = wanted ->> 0 AND version = wanted ->> 1
    OFFSET 0
) b",
    sqlite: "SELECT channel, version, type, blob FROM checkpoint_blobs
WHERE thread_id = $1 AND checkpoint_ns = $2
AND (channel, version) IN (SELECT value ->> 0, value ->> 1 FROM json_each($3))",
};

/// Stored values by their keys.
pub(super) async fn values(
    connection: &Connection,
    place: (&ThreadId, &Namespace),
    keys: &BTreeSet<ValueKey>,
    ring: Option<&KeyRing>,
) -> Result<BTreeMap<ValueKey, Value>> {
    let rows = retrying!(
        connection,
        values_query(connection, place, keys).rows(connection)
    );
    let failed = |error| storage_error("get values", error);
    let mut values = BTreeMap::new();
    for row in &rows.map_err(failed)? {
        let mut columns = Columns::new(row);
        let channel: String = columns.take().map_err(failed)?;
        let version: String = columns.take().map_err(failed)?;
        let tag = columns.take().map_err(failed)?;
        let Some(mut value) = stored_value(tag, columns.take().map_err(failed)?) else {
            continue;
        };
        if let Some(ring) = ring {
            let (thread, namespace) = (place.0.to_string(), place.1.to_string());
            let key = (thread, namespace, channel.clone(), version.clone());
            value = open_value(ring, &key, value)?;
        }
        values.insert(ValueKey { channel, version }, value);
    }
    Ok(values)
}

pub(super) fn values_query(
    connection: &Connection,
    (thread, namespace): (&ThreadId, &Namespace),
    keys: &BTreeSet<ValueKey>,
) -> Query {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| [&key.channel, &key.version])
        .collect();
    let query = VALUES.query(connection).with(thread.as_str());
    query.with(namespace.as_str()).with(json!(keys).to_string())
}

pub(super) async fn list(
    connection: &Connection,
    query: &CheckpointQuery,
    ring: Option<&KeyRing>,
) -> Result<Vec<RawCheckpoint>> {
    let query = list_query(connection, query);
    run(connection, "list checkpoints", query, ring).await
}

pub(super) fn list_query(connection: &Connection, query: &CheckpointQuery) -> Query {
    let mut page = Page::new(connection);
    let thread = query.thread_id.as_ref();
    let thread = thread.map(|id| page.equal("thread_id", id.as_str()));
    if let Some(namespace) = &query.namespace {
        page.equal("checkpoint_ns", namespace.as_str());
    }
    if let Some(id) = &query.checkpoint_id {
        page.equal("checkpoint_id", id.as_str());
    }
    if let Some(before) = &query.before {
        let before = page.query.bind(before.as_str());
        page.and(format_args!("checkpoint_id < {before}"));
    }
    if !query.metadata.is_empty() {
        if connection.is_postgres() {
            let metadata = Json::from(query.metadata.clone()).to_string();
            let metadata = page.query.bind(metadata);
            page.and(format_args!("metadata @> {metadata}::jsonb"));
        } else {
            page.and("");
            contains(&mut page.query, "metadata", &query.metadata, 0);
        }
    }
    let order = " ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns";
    page.query.push(order);
    if let Some(limit) = query.limit {
        let limit = page.query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        page.query.push(format_args!(" LIMIT {limit}"));
    }
    page.with(connection, thread, &query.values)
}

async fn run(
    connection: &Connection,
    operation: &'static str,
    query: Query,
    ring: Option<&KeyRing>,
) -> Result<Vec<RawCheckpoint>> {
    let rows = retrying!(connection, query.clone().rows(connection))
        .map_err(|error| storage_error(operation, error))?;
    // What is read of a row is a copy: one at a time is there twice.
    let parts = rows
        .into_iter()
        .map(|row| Part::read(&row))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| storage_error(operation, error))?;
    assemble(parts, ring)
}

/// The statement as far as the conditions of `page`.
struct Page {
    query: Query,
    has_conditions: bool,
}

impl Page {
    fn new(connection: &Connection) -> Self {
        Self {
            query: Query::new(connection, PAGE),
            has_conditions: false,
        }
    }

    fn and(&mut self, condition: impl Display) {
        let word = if self.has_conditions { "AND" } else { "WHERE" };
        self.has_conditions = true;
        self.query.push(format_args!(" {word} {condition}"));
    }

    fn equal(&mut self, column: &str, value: &str) -> Parameter {
        let value = self.query.bind(value);
        self.and(format_args!("{column} = {value}"));
        value
    }

    /// The whole statement; `thread` is the one thread of `page`, if it is one.
    fn with(mut self, connection: &Connection, thread: Option<Parameter>, what: &Values) -> Query {
        let channels = match what {
            Values::Nothing => {
                self.query.push(WITHOUT_VALUES.on(connection));
                return self.query;
            }
            Values::All => String::new(),
            Values::Of(channels) => self.only(connection, channels),
        };
        self.query.push("\n)\n");
        if !connection.is_postgres() {
            let (before, behind) = WITH_ALL_ON_SQLITE;
            self.query.push(before).push(channels).push(behind);
            return self.query;
        }
        match thread {
            // A statement for one of the servers.
            Some(thread) if connection.is_distributed() => {
                with_all(&mut self.query, &thread, &thread, &channels, "OFFSET 0");
            }
            // Each server joins what it has to the page.
            None if connection.is_distributed() => {
                let (of_page, of_value) = ("p.thread_id", "used.thread_id");
                with_all(&mut self.query, &of_page, &of_value, &channels, "");
            }
            _ => {
                let (of_page, of_value) = ("p.thread_id", "used.thread_id");
                with_all(&mut self.query, &of_page, &of_value, &channels, "OFFSET 0");
            }
        }
        self.query
    }

    /// The condition that a channel of `v` is one of these.
    fn only(&mut self, connection: &Connection, channels: &BTreeSet<String>) -> String {
        if connection.is_postgres() {
            let names = self.query.column(channels, String::as_str);
            return format!("\n    WHERE v.key = ANY ({names})");
        }
        let names = self.query.bind(json!(channels).to_string());
        format!("\n    WHERE v.key IN (SELECT value FROM json_each({names}))")
    }
}

/// Everything that belongs to the checkpoints of `page`, of their values those of `channels`. The
/// thread of the page is `of_page`, that of the values `of_value`. OFFSET 0, the `limit`, makes PostgreSQL look each row up by its primary key
/// (checkpoint_blobs_pkey, checkpoint_writes_pkey): a join is planned from the row estimates of a
/// thread, which are worst for the longest ones.
fn with_all(
    query: &mut Query,
    of_page: &dyn Display,
    of_value: &dyn Display,
    channels: &str,
    limit: &str,
) {
    query.push(format_args!(
        "SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::text,
    metadata::text, NULL, NULL::int, NULL::bytea
FROM page
UNION ALL
SELECT 1, b.thread_id, b.checkpoint_ns, NULL, b.channel, b.version, b.type, NULL, NULL, b.blob
FROM (
    SELECT DISTINCT p.thread_id, p.checkpoint_ns, v.key, v.value
    FROM page p CROSS JOIN LATERAL jsonb_each_text(p.checkpoint -> 'channel_versions') v{channels}
) used
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_blobs
    WHERE thread_id = {of_value} AND checkpoint_ns = used.checkpoint_ns
        AND channel = used.key AND version = used.value
    {limit}
) b
UNION ALL
SELECT 2, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = {of_page} AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.checkpoint_id
    {limit}
) w
UNION ALL
SELECT 3, w.thread_id, w.checkpoint_ns, p.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = {of_page} AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.parent_checkpoint_id
    {limit}
) w
WHERE (p.checkpoint ->> 'v')::numeric < 4 AND w.channel = '__pregel_tasks'"
    ));
}

/// PostgreSQL's `@>` for SQLite: that the JSON object `object` contains every field of `pattern`.
/// See [`CheckpointMetadata::contains`](yai_agentkit_core::checkpoint::CheckpointMetadata::contains).
fn contains(query: &mut Query, object: &str, pattern: &Map<String, Json>, depth: usize) {
    query.push("(1");
    for (key, value) in pattern {
        let field = format!("f{depth}");
        let key = query.bind(key.as_str());
        query.push(format_args!(
            " AND EXISTS (SELECT 1 FROM json_each({object}) {field} WHERE {field}.key = {key}"
        ));
        matches(query, object, &field, value, depth);
        query.push(")");
    }
    query.push(")");
}

/// That the row `field` of `json_each(container)` contains `pattern`.
fn matches(query: &mut Query, container: &str, field: &str, pattern: &Json, depth: usize) {
    query.push(format_args!(" AND {field}.type "));
    match pattern {
        Json::Null => drop(query.push("= 'null'")),
        Json::Bool(true) => drop(query.push("= 'true'")),
        Json::Bool(false) => drop(query.push("= 'false'")),
        Json::String(text) => {
            let text = query.bind(text.as_str());
            query.push(format_args!("= 'text' AND {field}.value = {text}"));
        }
        Json::Number(number) => {
            query.push("IN ('integer', 'real') AND ");
            let (value, number) = match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => (format!("{field}.value"), query.bind(number)),
                // More than SQLite's integers hold: by its digits.
                (None, Some(number)) => (
                    format!("({container} -> {field}.fullkey)"),
                    query.bind(number.to_string()),
                ),
                (None, None) => (format!("{field}.value"), query.bind(number.as_f64())),
            };
            query.push(format_args!("{value} = {number}"));
        }
        Json::Object(pattern) => {
            query.push("= 'object' AND ");
            contains(query, &format!("{field}.value"), pattern, depth + 1);
        }
        Json::Array(patterns) => {
            query.push("= 'array'");
            for pattern in patterns {
                let item = format!("f{}", depth + 1);
                query.push(format_args!(
                    " AND EXISTS (SELECT 1 FROM json_each({field}.value) {item} WHERE 1"
                ));
                matches(query, &format!("{field}.value"), &item, pattern, depth + 1);
                query.push(")");
            }
        }
    }
}

/// One row of the statement.
enum Part {
    Checkpoint {
        key: CheckpointKey,
        parent: Option<String>,
        checkpoint: String,
        metadata: String,
    },
    Value(BlobKey, Option<Value>),
    Write(CheckpointKey, PendingWrite),
    Send(CheckpointKey, PendingWrite),
}

/// Thread, namespace, channel, version.
type BlobKey = (String, String, String, String);

impl Part {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let mut columns = Columns::new(row);
        let kind: i32 = columns.take()?;
        let thread_id: String = columns.take()?;
        let namespace: String = columns.take()?;
        let key = |checkpoint_id: String| CheckpointKey {
            thread_id: ThreadId::from(thread_id.as_str()),
            namespace: Namespace::from(namespace.as_str()),
            checkpoint_id: CheckpointId::from(checkpoint_id),
        };
        match kind {
            0 => Ok(Self::Checkpoint {
                key: key(columns.take()?),
                parent: columns.take()?,
                checkpoint: columns.take()?,
                metadata: columns.take()?,
            }),
            1 => {
                let _: Option<String> = columns.take()?;
                let (channel, version) = (columns.take()?, columns.take()?);
                let type_tag = columns.take()?;
                let _: Option<String> = columns.take()?;
                let _: Option<i32> = columns.take()?;
                let value = stored_value(type_tag, columns.take()?);
                Ok(Self::Value((thread_id, namespace, channel, version), value))
            }
            _ => {
                let key = key(columns.take()?);
                let (task_id, task_path) = (columns.take()?, columns.take()?);
                let channel = columns.take()?;
                let type_tag: Option<String> = columns.take()?;
                let index = columns.take()?;
                let bytes: Vec<u8> = columns.take()?;
                let value = Value::from_parts(type_tag.unwrap_or_default(), bytes);
                let write = PendingWrite {
                    task_id,
                    task_path,
                    index,
                    channel,
                    value,
                };
                Ok(if kind == 2 {
                    Self::Write(key, write)
                } else {
                    Self::Send(key, write)
                })
            }
        }
    }
}

fn assemble(parts: Vec<Part>, ring: Option<&KeyRing>) -> Result<Vec<RawCheckpoint>> {
    /// The part of a checkpoint's JSON that says which values belong to it.
    #[derive(Deserialize)]
    struct Versions {
        #[serde(default)]
        channel_versions: BTreeMap<String, Version>,
    }

    let mut checkpoints = Vec::new();
    let mut values = HashMap::new();
    let mut writes: HashMap<CheckpointKey, Vec<PendingWrite>> = HashMap::new();
    let mut sends: HashMap<CheckpointKey, Vec<PendingWrite>> = HashMap::new();
    for part in parts {
        match part {
            Part::Checkpoint {
                key,
                parent,
                checkpoint,
                metadata,
            } => checkpoints.push((key, parent, checkpoint, metadata)),
            Part::Value(key, Some(value)) => {
                let value = match ring {
                    Some(ring) => open_value(ring, &key, value)?,
                    None => value,
                };
                values.insert(key, value);
            }
            Part::Value(_, None) => {}
            Part::Write(key, write) => writes.entry(key).or_default().push(write),
            Part::Send(key, write) => sends.entry(key).or_default().push(write),
        }
    }
    let mut found = Vec::with_capacity(checkpoints.len());
    let is_only = checkpoints.len() == 1;
    for (key, parent, mut checkpoint, metadata) in checkpoints {
        let parent = parent.filter(|id| !id.is_empty()).map(CheckpointId::from);
        let mut pending_writes = writes.remove(&key).unwrap_or_default();
        sort_writes(&mut pending_writes);
        let mut pending_sends = sends.remove(&key).unwrap_or_default();
        sort_writes(&mut pending_sends);
        if let Some(ring) = ring {
            checkpoint = open_inline(ring, &key, &checkpoint)?;
            open_writes(ring, &key, &mut pending_writes)?;
            if let Some(parent) = &parent {
                let of_parent = CheckpointKey {
                    checkpoint_id: parent.clone(),
                    ..key.clone()
                };
                open_writes(ring, &of_parent, &mut pending_sends)?;
            }
        }
        let versions: Versions = read_json("checkpoint", &checkpoint)?;
        let (thread, namespace) = (key.thread_id.as_str(), key.namespace.as_str());
        let own_values = versions.channel_versions.into_iter();
        let own_values = own_values.filter_map(|(channel, version)| {
            let place = [thread, namespace, &channel, &version.to_string()].map(str::to_owned);
            let value = if is_only {
                values.remove(&place.into())
            } else {
                values.get(&place.into()).cloned()
            };
            Some((channel, value?))
        });
        found.push(RawCheckpoint {
            values: own_values.collect(),
            parent,
            checkpoint,
            metadata,
            pending_writes,
            pending_sends: pending_sends.into_iter().map(|write| write.value).collect(),
            key,
        });
    }
    found.sort_by(|a, b| {
        b.key
            .checkpoint_id
            .cmp(&a.key.checkpoint_id)
            .then_with(|| a.key.cmp(&b.key))
    });
    Ok(found)
}

fn open_value(ring: &KeyRing, key: &BlobKey, value: Value) -> Result<Value> {
    let (thread, namespace, channel, version) = key;
    let opened = ring.open_value(&of_value((thread, namespace), channel, version), value);
    opened.map_err(|error| unreadable(format!("the channel {channel} of thread {thread}"), error))
}

fn open_inline(ring: &KeyRing, key: &CheckpointKey, checkpoint: &str) -> Result<String> {
    let opened = ring.open_inline(key, checkpoint);
    opened.map_err(|error| unreadable_checkpoint(key, error))
}

fn open_writes(ring: &KeyRing, key: &CheckpointKey, writes: &mut [PendingWrite]) -> Result<()> {
    let mut writes = writes.iter_mut();
    let opened = writes.try_for_each(|write| ring.open_write(key, write));
    opened.map_err(|error| unreadable_checkpoint(key, error))
}

pub(super) fn unreadable_checkpoint(key: &CheckpointKey, error: EncryptionError) -> Error {
    let (id, thread) = (&key.checkpoint_id, &key.thread_id);
    unreadable(format!("checkpoint {id} of thread {thread}"), error)
}

/// By task path, task id and index, in byte order whatever the database's collation.
pub(super) fn sort_writes(writes: &mut [PendingWrite]) {
    writes.sort_by(|a, b| {
        (&a.task_path, &a.task_id, a.index).cmp(&(&b.task_path, &b.task_id, b.index))
    });
}
