//! The hot statements are read and written by their indexes, however long the tables get.

use sea_orm::{DbBackend, Statement, Value as SqlValue, sea_query::ArrayType};
use yai_agentkit_core::{CheckpointQuery, CheckpointSelector, Namespace, now};

use super::{
    Sql,
    delta::HISTORY,
    read::{get_statement, list_statement},
    threads::{FIRST_PAGE, NEXT_PAGE},
    write::{
        POSTGRES_FIRST_WRITE_STAYS, POSTGRES_GROUP, POSTGRES_LAST_WRITE_COUNTS, POSTGRES_PUT,
        POSTGRES_STEP,
    },
};
use crate::{connection::Connection, explain::Databases};

/// 1000 threads of 20 checkpoints, and more threads.
const ROWS: &str = r#"
INSERT INTO threads (thread_id, updated_at)
SELECT 'thread-' || CAST(i AS TEXT), {time} FROM numbers;
INSERT INTO checkpoints (thread_id, checkpoint_id, parent_checkpoint_id, checkpoint)
SELECT 'thread-' || CAST(i % 1000 AS TEXT), CAST(10000000 + i AS TEXT),
    CAST(10000000 + i - 1000 AS TEXT), '{"v": 4, "channel_versions": {"list": "1"}}'
FROM numbers;
INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob)
SELECT 'thread-' || CAST(i % 1000 AS TEXT), 'list', CAST(i AS TEXT), 'msgpack', {blob}
FROM numbers;
INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type, blob)
SELECT 'thread-' || CAST(i % 1000 AS TEXT), CAST(10000000 + i AS TEXT), 'task', 0, 'list',
    'msgpack', {blob}
FROM numbers;"#;

const OF_CHECKPOINTS: [&str; 3] = [
    "checkpoints_pkey",
    "checkpoint_blobs_pkey",
    "checkpoint_writes_pkey",
];

#[tokio::test]
async fn checkpoints_and_threads_are_reached_by_their_indexes() {
    let databases = Databases::with(ROWS).await;
    reading_uses_indexes(&databases).await;
    writing_uses_indexes(&databases).await;
    databases.remove().await;
}

async fn reading_uses_indexes(databases: &Databases) {
    let latest = CheckpointSelector::latest("thread-7");
    let by_id = CheckpointSelector {
        checkpoint_id: Some("10005007".to_owned().into()),
        ..latest.clone()
    };
    for selector in [latest, by_id] {
        let get = |connection: &Connection| get_statement(connection, &selector);
        databases.assert_uses(get, &OF_CHECKPOINTS).await;
        let id = selector
            .checkpoint_id
            .as_ref()
            .map(|id| id.as_str().to_owned());
        let history = statement(
            HISTORY,
            vec![
                "thread-7".into(),
                "".into(),
                SqlValue::String(id),
                r#"["list"]"#.into(),
            ],
        );
        databases.assert_uses(history, &OF_CHECKPOINTS).await;
    }

    let page = CheckpointQuery {
        namespace: Some(Namespace::root()),
        limit: Some(10),
        ..CheckpointQuery::of("thread-7")
    };
    let next_page = CheckpointQuery {
        before: Some("10005007".to_owned().into()),
        ..page.clone()
    };
    for query in [page, next_page] {
        let list = |connection: &Connection| list_statement(connection, &query);
        databases.assert_uses(list, &OF_CHECKPOINTS).await;
    }

    let by_recency = ["threads_updated_at_idx"];
    let first = statement(FIRST_PAGE, vec![10_i64.into()]);
    databases.assert_uses(first, &by_recency).await;
    let after = vec![10_i64.into(), now().into(), "thread-7".into()];
    databases
        .assert_uses(statement(NEXT_PAGE, after), &by_recency)
        .await;
}

/// SQLite does not say by which index it finds a conflict.
async fn writing_uses_indexes(databases: &Databases) {
    let key = ["thread-7", "", "10005007"].map(SqlValue::from);
    let one = || texts(["1"]);
    let bytes = || array(ArrayType::Bytes, [vec![1_u8]]);

    let mut put = key.to_vec();
    put.extend([SqlValue::String(None), "{}".into(), "{}".into()]);
    put.extend([one(), one(), one(), bytes()]);
    let indexes = ["threads_pkey", "checkpoints_pkey"];
    assert_writes_by(databases, POSTGRES_PUT, put.clone(), &indexes).await;

    let mut step = put;
    step.extend(["10005006".into(), "task".into(), "".into()]);
    step.extend([array(ArrayType::Int, [0]), one(), one(), bytes()]);
    let indexes = ["threads_pkey", "checkpoints_pkey", "checkpoint_writes_pkey"];
    assert_writes_by(databases, POSTGRES_STEP, step, &indexes).await;

    for sql in [POSTGRES_FIRST_WRITE_STAYS, POSTGRES_LAST_WRITE_COUNTS] {
        let mut writes = key.to_vec();
        writes.extend(["task".into(), "".into(), array(ArrayType::Int, [0])]);
        writes.extend([one(), one(), bytes()]);
        let indexes = ["threads_pkey", "checkpoint_writes_pkey"];
        assert_writes_by(databases, sql, writes, &indexes).await;
    }

    let threads = || texts(["thread-7", "thread-8"]);
    let both = || texts(["1", "2"]);
    let json = || texts(["{}", "{}"]);
    let values = || array(ArrayType::Bytes, [vec![1_u8], vec![2]]);
    let mut group = vec![threads(), threads()];
    group.extend([threads(), both(), both(), both(), json(), json()]);
    group.extend([threads(), both(), both(), both(), both(), values()]);
    for _ in 0..2 {
        group.extend([threads(), both(), both(), both(), both()]);
        group.extend([array(ArrayType::Int, [0, 1]), both(), both(), values()]);
    }
    let indexes = ["threads_pkey", "checkpoints_pkey", "checkpoint_writes_pkey"];
    assert_writes_by(databases, POSTGRES_GROUP, group, &indexes).await;
}

async fn assert_writes_by(
    databases: &Databases,
    sql: &str,
    values: Vec<SqlValue>,
    indexes: &[&str],
) {
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
    let arbiters: Vec<_> = indexes.iter().map(|index| arbiter(index)).collect();
    let arbiters: Vec<_> = arbiters.iter().map(String::as_str).collect();
    databases.assert_postgres_uses(statement, &arbiters).await;
}

fn arbiter(index: &str) -> String {
    format!("Conflict Arbiter Indexes: {index}")
}

fn statement(sql: Sql, values: Vec<SqlValue>) -> impl Fn(&Connection) -> Statement {
    move |connection| sql.statement(connection, values.clone())
}

/// A PostgreSQL array of texts.
fn texts<const N: usize>(items: [&str; N]) -> SqlValue {
    array(ArrayType::String, items)
}

/// A PostgreSQL array.
fn array<T: Into<SqlValue>>(kind: ArrayType, items: impl IntoIterator<Item = T>) -> SqlValue {
    SqlValue::Array(
        kind,
        Some(Box::new(items.into_iter().map(Into::into).collect())),
    )
}
