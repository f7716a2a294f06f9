//! `get` and `list`: one statement brings the checkpoints with their values, writes and sends, each
//! a row of its own kind. A value that several checkpoints of a page share comes once.

use std::collections::{BTreeMap, HashMap};

use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, Value as SqlValue};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use yai_agentkit_core::{
    CheckpointId, CheckpointKey, CheckpointQuery, CheckpointSelector, Namespace, PendingWrite,
    Result, ThreadId, Value, Version,
};

use super::{
    RawCheckpoint, Sql,
    row::{Columns, read_json, stored_value},
};
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
};

const PAGE: &str = "WITH page AS MATERIALIZED (
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    FROM checkpoints";

/// Everything that belongs to the checkpoints of `page`, whose thread is `$of_page`, that of their
/// values `$of_value`. OFFSET 0, the `$limit`, makes PostgreSQL look each row up by its primary key
/// (checkpoint_blobs_pkey, checkpoint_writes_pkey): a join is planned from the row estimates of a
/// thread, which are worst for the longest ones.
macro_rules! with_all {
    ($of_page:literal, $of_value:literal, $limit:literal) => {
        concat!(
            ")
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::text,
    metadata::text, NULL, NULL::int, NULL::bytea
FROM page
UNION ALL
SELECT 1, b.thread_id, b.checkpoint_ns, NULL, b.channel, b.version, b.type, NULL, NULL, b.blob
FROM (
    SELECT DISTINCT p.thread_id, p.checkpoint_ns, v.key, v.value
    FROM page p CROSS JOIN LATERAL jsonb_each_text(p.checkpoint -> 'channel_versions') v
) used
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_blobs
    WHERE thread_id = ",
            $of_value,
            " AND checkpoint_ns = used.checkpoint_ns
        AND channel = used.key AND version = used.value
    ",
            $limit,
            "
) b
UNION ALL
SELECT 2, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = ",
            $of_page,
            " AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.checkpoint_id
    ",
            $limit,
            "
) w
UNION ALL
SELECT 3, w.thread_id, w.checkpoint_ns, p.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes
    WHERE thread_id = ",
            $of_page,
            " AND checkpoint_ns = p.checkpoint_ns
        AND checkpoint_id = p.parent_checkpoint_id
    ",
            $limit,
            "
) w
WHERE (p.checkpoint ->> 'v')::numeric < 4 AND w.channel = '__pregel_tasks'"
        )
    };
}

/// SQLite keeps the order of a CROSS JOIN; as text, a float is what the JSON says, since a cast
/// keeps 15 digits of it.
const WITH_ALL: Sql = Sql {
    postgres: with_all!("p.thread_id", "used.thread_id", "OFFSET 0"),
    sqlite: ")
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint,
    metadata, NULL, NULL, NULL
FROM page
UNION ALL
SELECT 1, b.thread_id, b.checkpoint_ns, NULL, b.channel, b.version, b.type, NULL, NULL, b.blob
FROM (
    SELECT DISTINCT p.thread_id, p.checkpoint_ns, v.key, CAST(coalesce(
        CASE v.type WHEN 'real' THEN p.checkpoint -> v.fullkey END, v.value
    ) AS TEXT) AS value
    FROM page p CROSS JOIN json_each(p.checkpoint, '$.channel_versions') v
) used
CROSS JOIN checkpoint_blobs b
WHERE b.thread_id = used.thread_id AND b.checkpoint_ns = used.checkpoint_ns
    AND b.channel = used.key AND b.version = used.value
UNION ALL
SELECT 2, w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p CROSS JOIN checkpoint_writes w
WHERE w.thread_id = p.thread_id AND w.checkpoint_ns = p.checkpoint_ns
    AND w.checkpoint_id = p.checkpoint_id
UNION ALL
SELECT 3, w.thread_id, w.checkpoint_ns, p.checkpoint_id, w.task_id, w.task_path, w.channel,
    w.type, w.idx, w.blob
FROM page p CROSS JOIN checkpoint_writes w
WHERE w.thread_id = p.thread_id AND w.checkpoint_ns = p.checkpoint_ns
    AND w.checkpoint_id = p.parent_checkpoint_id
    AND p.checkpoint ->> '$.v' < 4 AND w.channel = '__pregel_tasks'",
};

/// On Citus, of the thread $1: a statement for one of its servers.
const WITH_ALL_OF_THREAD: &str = with_all!("$1", "$1", "OFFSET 0");

/// On Citus, of any threads. Each server joins what it has to the page.
const WITH_ALL_OF_ANY_THREADS: &str = with_all!("p.thread_id", "used.thread_id", "");

/// Nothing but the checkpoints of `page`, without the values that they hold themselves.
const WITHOUT_VALUES: Sql = Sql {
    postgres: ")
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
    (checkpoint - 'channel_values')::text, metadata::text
FROM page",
    sqlite: ")
SELECT 0, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
    json_remove(checkpoint, '$.channel_values'), metadata
FROM page",
};

pub(super) async fn get(
    connection: &Connection,
    selector: &CheckpointSelector,
) -> Result<Option<RawCheckpoint>> {
    let statement = get_statement(connection, selector);
    Ok(run(connection, "get checkpoint", statement).await?.pop())
}

pub(super) fn get_statement(connection: &Connection, selector: &CheckpointSelector) -> Statement {
    let mut conditions = Conditions::default();
    conditions.equal("thread_id", selector.thread_id.as_str());
    conditions.equal("checkpoint_ns", selector.namespace.as_str());
    if let Some(id) = &selector.checkpoint_id {
        conditions.equal("checkpoint_id", id.as_str());
    }
    conditions
        .sql
        .push_str(" ORDER BY checkpoint_id DESC LIMIT 1");
    conditions.statement(connection, with_all(connection, true))
}

pub(super) async fn list(
    connection: &Connection,
    query: &CheckpointQuery,
) -> Result<Vec<RawCheckpoint>> {
    run(
        connection,
        "list checkpoints",
        list_statement(connection, query),
    )
    .await
}

pub(super) fn list_statement(connection: &Connection, query: &CheckpointQuery) -> Statement {
    let mut conditions = Conditions::default();
    if let Some(id) = &query.thread_id {
        conditions.equal("thread_id", id.as_str());
    }
    if let Some(namespace) = &query.namespace {
        conditions.equal("checkpoint_ns", namespace.as_str());
    }
    if let Some(id) = &query.checkpoint_id {
        conditions.equal("checkpoint_id", id.as_str());
    }
    if let Some(before) = &query.before {
        conditions.and("checkpoint_id < ");
        conditions.value(before.as_str());
    }
    if !query.metadata.is_empty() {
        if connection.is_postgres() {
            conditions.and("metadata @> ");
            conditions.value(Json::from(query.metadata.clone()).to_string());
            conditions.sql.push_str("::jsonb");
        } else {
            conditions.and("");
            conditions.contains("metadata", &query.metadata, 0);
        }
    }
    conditions
        .sql
        .push_str(" ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns");
    if let Some(limit) = query.limit {
        conditions.sql.push_str(" LIMIT ");
        conditions.value(i64::try_from(limit).unwrap_or(i64::MAX));
    }
    let rest = match query.without_values {
        true => WITHOUT_VALUES.on(connection),
        false => with_all(connection, query.thread_id.is_some()),
    };
    conditions.statement(connection, rest)
}

/// What follows `page`; on Citus, $1 is the thread where it is `of_thread`.
fn with_all(connection: &Connection, of_thread: bool) -> &'static str {
    match (connection.is_distributed(), of_thread) {
        (false, _) => WITH_ALL.on(connection),
        (true, true) => WITH_ALL_OF_THREAD,
        (true, false) => WITH_ALL_OF_ANY_THREADS,
    }
}

async fn run(
    connection: &Connection,
    operation: &'static str,
    statement: Statement,
) -> Result<Vec<RawCheckpoint>> {
    let rows = retrying!(connection, connection.query_all_raw(statement.clone()))
        .map_err(|error| storage_error(operation, error))?;
    let parts = rows
        .iter()
        .map(Part::read)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| storage_error(operation, error))?;
    assemble(parts)
}

/// The `WHERE` of `page` and what follows it.
#[derive(Default)]
struct Conditions {
    sql: String,
    values: Vec<SqlValue>,
}

impl Conditions {
    /// The whole statement. $1 is the thread, if one is asked for.
    fn statement(self, connection: &Connection, rest: &str) -> Statement {
        let sql = format!("{PAGE}{}{rest}", self.sql);
        Statement::from_sql_and_values(connection.get_database_backend(), sql, self.values)
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str(if self.sql.is_empty() {
            " WHERE "
        } else {
            " AND "
        });
        self.sql.push_str(condition);
    }

    fn equal(&mut self, column: &str, value: &str) {
        self.and(column);
        self.sql.push_str(" = ");
        self.value(value);
    }

    fn value(&mut self, value: impl Into<SqlValue>) {
        self.values.push(value.into());
        self.sql.push_str(&format!("${}", self.values.len()));
    }

    /// PostgreSQL's `@>` for SQLite: that the JSON object `object` contains every field of
    /// `pattern`. See [`CheckpointMetadata::contains`](yai_agentkit_core::CheckpointMetadata::contains).
    fn contains(&mut self, object: &str, pattern: &Map<String, Json>, depth: usize) {
        self.sql.push_str("(1");
        for (key, value) in pattern {
            let field = format!("f{depth}");
            self.sql.push_str(&format!(
                " AND EXISTS (SELECT 1 FROM json_each({object}) {field} WHERE {field}.key = "
            ));
            self.value(key.as_str());
            self.matches(object, &field, value, depth);
            self.sql.push(')');
        }
        self.sql.push(')');
    }

    /// That the row `field` of `json_each(container)` contains `pattern`.
    fn matches(&mut self, container: &str, field: &str, pattern: &Json, depth: usize) {
        let mut is = |kind: &str| self.sql.push_str(&format!(" AND {field}.type {kind}"));
        match pattern {
            Json::Null => is("= 'null'"),
            Json::Bool(true) => is("= 'true'"),
            Json::Bool(false) => is("= 'false'"),
            Json::String(text) => {
                is("= 'text'");
                self.sql.push_str(&format!(" AND {field}.value = "));
                self.value(text.as_str());
            }
            Json::Number(number) => {
                is("IN ('integer', 'real') AND ");
                match (number.as_i64(), number.as_u64()) {
                    (Some(number), _) => {
                        self.sql.push_str(&format!("{field}.value = "));
                        self.value(number);
                    }
                    // More than SQLite's integers hold: by its digits.
                    (None, Some(number)) => {
                        self.sql
                            .push_str(&format!("({container} -> {field}.fullkey) = "));
                        self.value(number.to_string());
                    }
                    (None, None) => {
                        self.sql.push_str(&format!("{field}.value = "));
                        self.value(number.as_f64());
                    }
                }
            }
            Json::Object(pattern) => {
                is("= 'object' AND ");
                self.contains(&format!("{field}.value"), pattern, depth + 1);
            }
            Json::Array(patterns) => {
                is("= 'array'");
                for pattern in patterns {
                    let item = format!("f{}", depth + 1);
                    self.sql.push_str(&format!(
                        " AND EXISTS (SELECT 1 FROM json_each({field}.value) {item} WHERE 1"
                    ));
                    self.matches(&format!("{field}.value"), &item, pattern, depth + 1);
                    self.sql.push(')');
                }
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

fn assemble(parts: Vec<Part>) -> Result<Vec<RawCheckpoint>> {
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
                values.insert(key, value);
            }
            Part::Value(_, None) => {}
            Part::Write(key, write) => writes.entry(key).or_default().push(write),
            Part::Send(key, write) => sends.entry(key).or_default().push(write),
        }
    }
    let mut found = Vec::with_capacity(checkpoints.len());
    for (key, parent, checkpoint, metadata) in checkpoints {
        let mut pending_writes = writes.remove(&key).unwrap_or_default();
        sort_writes(&mut pending_writes);
        let mut pending_sends = sends.remove(&key).unwrap_or_default();
        sort_writes(&mut pending_sends);
        let versions: Versions = read_json("checkpoint", &checkpoint)?;
        let (thread, namespace) = (key.thread_id.as_str(), key.namespace.as_str());
        let own_values = versions.channel_versions.into_iter();
        let own_values = own_values.filter_map(|(channel, version)| {
            let place = [thread, namespace, &channel, &version.to_string()].map(str::to_owned);
            Some((channel, values.get(&place.into())?.clone()))
        });
        found.push(RawCheckpoint {
            values: own_values.collect(),
            parent: parent.filter(|id| !id.is_empty()).map(CheckpointId::from),
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

/// By task path, task id and index, in byte order whatever the database's collation.
pub(super) fn sort_writes(writes: &mut [PendingWrite]) {
    writes.sort_by(|a, b| {
        (&a.task_path, &a.task_id, a.index).cmp(&(&b.task_path, &b.task_id, b.index))
    });
}
