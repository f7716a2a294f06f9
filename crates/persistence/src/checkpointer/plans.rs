//! The hot statements are read and written by their indexes, however long the tables get.

use sea_orm::{DbBackend, Statement, Value as SqlValue, sea_query::ArrayType};
use uuid::Uuid;
use yai_agentkit_core::{CheckpointQuery, CheckpointSelector, Namespace, now};

use super::{
    Sql,
    delta::HISTORY,
    fence::{PUT, PUT_TELLING},
    read::{get_statement, list_statement},
    statement::Insert,
    threads::{FIRST_PAGE, NEXT_PAGE},
    turn::{BEGIN, END},
    write::postgres as write,
};
use crate::{connection::Connection, explain::Databases};

/// 1000 threads of 20 checkpoints, and more threads; 1000 turns of 20 batches of events.
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
FROM numbers;
INSERT INTO agent_conversations (id, checkpoint_thread_id, created_at, updated_at)
SELECT {id}, {id}, {time}, {time} FROM numbers WHERE i <= 1000;
INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
SELECT c.id, c.id, i, '[]', {time} FROM agent_conversations c JOIN numbers ON i <= 20;"#;

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
    let without_values = CheckpointQuery {
        without_values: true,
        ..page.clone()
    };
    let list = |connection: &Connection| list_statement(connection, &without_values);
    databases.assert_uses(list, &["checkpoints_pkey"]).await;
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
    assert_inserts_by(databases, write::PUT, put.clone(), &indexes).await;
    let mut step = put.clone();
    step.extend(["10005006".into(), "task".into(), "".into()]);
    step.extend([array(ArrayType::Int, [0]), one(), one(), bytes()]);
    let step_indexes = ["threads_pkey", "checkpoints_pkey", "checkpoint_writes_pkey"];
    assert_inserts_by(databases, write::STEP, step, &step_indexes).await;

    put.push(1_i64.into());
    assert_writes_by(databases, PUT.raise, put.clone(), &indexes).await;
    let mut telling = put.clone();
    telling.extend([
        Uuid::nil().into(),
        Uuid::nil().into(),
        1_i64.into(),
        "[]".into(),
    ]);
    assert_writes_by(databases, PUT_TELLING.raise, telling.clone(), &indexes).await;
    let by_key = [
        "Index Scan using threads_pkey",
        "Index Scan using agent_turn_events_pkey",
    ];
    let (begin, end) = (turn_values(&telling, true), turn_values(&telling, false));
    for (sql, values, indexes) in [
        (PUT.hold.of_any, put.clone(), &by_key[..1]),
        (PUT.hold.of_new, put, &by_key[..1]),
        (PUT_TELLING.hold.of_any, telling.clone(), &by_key),
        (PUT_TELLING.hold.of_new, telling, &by_key),
        (BEGIN, begin, &by_key[1..]),
        (END, end, &by_key),
    ] {
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        databases.assert_postgres_uses(statement, indexes).await;
    }

    let mut writes = key.to_vec();
    writes.extend(["task".into(), "".into(), array(ArrayType::Int, [0])]);
    writes.extend([one(), one(), bytes()]);
    let of_writes = ["threads_pkey", "checkpoint_writes_pkey"];
    assert_writes_by(
        databases,
        write::LAST_WRITE_COUNTS,
        writes.clone(),
        &of_writes,
    )
    .await;
    assert_inserts_by(databases, write::FIRST_WRITE_STAYS, writes, &of_writes).await;

    let threads = || texts(["thread-7", "thread-8"]);
    let both = || texts(["1", "2"]);
    let json = || texts(["{}", "{}"]);
    let values = || array(ArrayType::Bytes, [vec![1_u8], vec![2]]);
    let mut group = vec![threads(), threads()];
    group.extend([threads(), both(), both(), both(), json(), json()]);
    group.extend([threads(), both(), both(), both(), both(), values()]);
    let indexes = ["threads_pkey", "checkpoints_pkey", "checkpoint_writes_pkey"];
    for insert in [write::GROUP, write::REPLACING_GROUP] {
        group.extend([threads(), both(), both(), both(), both()]);
        group.extend([array(ArrayType::Int, [0, 1]), both(), both(), values()]);
        assert_inserts_by(databases, insert, group.clone(), &indexes).await;
    }

    let ids = || array(ArrayType::Uuid, [Uuid::nil(), Uuid::max()]);
    let numbers = || array(ArrayType::BigInt, [1_i64, 2]);
    group.extend([threads(), numbers()]);
    group.extend([threads(), ids(), ids(), numbers(), json()]);
    assert_inserts_by(databases, write::FENCED_GROUP, group.clone(), &indexes).await;
    for sql in [write::FENCED_GROUP.of_new, write::FENCED_GROUP.of_any] {
        let fenced = Statement::from_sql_and_values(DbBackend::Postgres, sql, group.clone());
        databases.assert_postgres_uses(fenced, &by_key).await;
    }
}

/// Those of a turn that begins or ends with a checkpoint and events of `telling`.
fn turn_values(telling: &[SqlValue], begins: bool) -> Vec<SqlValue> {
    let mut values = telling.to_vec();
    let id = || SqlValue::from(Uuid::nil());
    let no_text = || SqlValue::String(None);
    values.extend([id(), id(), id(), "running".into(), no_text(), no_text()]);
    values.extend([1.into(), 1_i64.into(), id(), 1_i64.into()]);
    values.extend([now().into(), now().into()]);
    if begins {
        values.extend([now().into(), id()]);
    } else {
        values.extend(["running".into(), 1_i64.into()]);
    }
    let ids = || array(ArrayType::Uuid, [Uuid::nil()]);
    values.extend([
        ids(),
        ids(),
        texts(["user"]),
        texts(["Hello"]),
        texts(["{}"]),
    ]);
    values.push(array(ArrayType::ChronoDateTimeUtc, [now()]));
    values
}

/// What takes its rows for new looks for the thread only.
async fn assert_inserts_by(
    databases: &Databases,
    insert: Insert,
    values: Vec<SqlValue>,
    indexes: &[&str],
) {
    assert_writes_by(databases, insert.of_any, values.clone(), indexes).await;
    assert_writes_by(databases, insert.of_new, values, &["threads_pkey"]).await;
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
