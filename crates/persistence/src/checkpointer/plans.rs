//! The hot statements are read and written by their indexes, however long the tables get.

use yai_agentkit_core::{
    CheckpointKey, CheckpointQuery, CheckpointSelector, ConversationId, Fence, Message, Namespace,
    NewWrites, Role, ThreadState, Turn, Value,
    checkpoint::{ChannelWrite, CheckpointMetadata, ThreadCursor, ValueKey, Values},
    turn::{EventBatch, IdempotencyKey, TurnBegin, TurnChange},
};

use super::{
    NewRawCheckpoint, RawValue, delta,
    read::{get_query, list_query, values_query},
    statement::Conflicts::{Possible, Unexpected},
    threads, turn,
    write::{Fenced, New, Write, postgres},
};
use crate::{connection::Connection, explain::Databases, sql::Query};

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
    let of_channels = CheckpointSelector {
        values: Values::Of(["list".to_owned()].into()),
        ..latest.clone()
    };
    for selector in [latest, by_id, of_channels] {
        let get = |connection: &Connection| get_query(connection, &selector);
        databases.assert_uses(get, &OF_CHECKPOINTS).await;
        let channels = ["list".to_owned()];
        let history = |connection: &Connection| delta::query(connection, &selector, &channels);
        databases.assert_uses(history, &OF_CHECKPOINTS).await;
    }

    let key = ValueKey {
        channel: "list".to_owned(),
        version: "7".to_owned(),
    };
    let (thread, namespace, keys) = ("thread-7".into(), Namespace::root(), [key].into());
    let values = |connection: &Connection| values_query(connection, (&thread, &namespace), &keys);
    databases
        .assert_uses(values, &["checkpoint_blobs_pkey"])
        .await;

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
        values: Values::Nothing,
        ..page.clone()
    };
    let list = |connection: &Connection| list_query(connection, &without_values);
    databases.assert_uses(list, &["checkpoints_pkey"]).await;
    for query in [page, next_page] {
        let list = |connection: &Connection| list_query(connection, &query);
        databases.assert_uses(list, &OF_CHECKPOINTS).await;
    }

    let after = ThreadCursor {
        updated_at: chrono::Utc::now(),
        id: "thread-7".into(),
    };
    for after in [None, Some(&after)] {
        let list = |connection: &Connection| threads::list_query(connection, 10, after);
        databases
            .assert_uses(list, &["threads_updated_at_idx"])
            .await;
    }
}

/// SQLite does not say by which index it finds a conflict.
async fn writing_uses_indexes(databases: &Databases) {
    let of_checkpoint = ["threads_pkey", "checkpoints_pkey"];
    let of_all = ["threads_pkey", "checkpoints_pkey", "checkpoint_writes_pkey"];
    let put = || write(New::Checkpoint(checkpoint()), None);
    let put_writes = |channel| write(New::Writes(writes(channel)), None);
    assert_inserts_by(databases, &[put()], &of_checkpoint).await;
    assert_inserts_by(databases, &[put_writes("messages")], &of_all).await;
    assert_inserts_by(databases, &[put(), put_writes("messages")], &of_all).await;
    assert_inserts_by(databases, &[put(), put()], &of_all).await;
    let replacing = [put_writes("__error__")];
    let replacing = postgres::statement(&replacing, Unexpected);
    assert_finds_conflicts_by(databases, replacing, &of_all).await;
    fenced_writes_use_indexes(databases).await;
}

async fn fenced_writes_use_indexes(databases: &Databases) {
    let by_key = [
        "Index Scan using threads_pkey",
        "Index Scan using agent_turn_events_pkey",
    ];
    let hold = |new| write(new, Some(fenced()));
    let put = || hold(New::Checkpoint(checkpoint()));
    let put_writes = || hold(New::Writes(writes("messages")));
    for (writes, indexes) in [
        (vec![put()], &by_key[..]),
        (vec![put_writes()], &by_key[..1]),
        (vec![put(), put_writes()], &by_key[..]),
    ] {
        for conflicts in [Unexpected, Possible] {
            let query = postgres::statement(&writes, conflicts);
            databases.assert_postgres_uses(query.clone(), indexes).await;
            databases.assert_postgres_plans_once(query).await;
        }
    }
    let indexes = ["threads_pkey", "checkpoints_pkey", "checkpoint_writes_pkey"];
    assert_inserts_by(databases, &[put(), put_writes()], &indexes).await;

    let message = Message::new(ConversationId::new(), Role::User, "Hello");
    let begun = Turn::new(message.conversation_id, message.id);
    let end = TurnChange::new(begun.clone(), begun.clone()).with_answer(Some(message.clone()));
    let end = turn::end_statement(&checkpoint(), 1, &batch(), &end, &begun);
    let key = IdempotencyKey::new(begun.conversation_id.0, "key", b"request", begun.id.0);
    let new = ThreadState::new("thread-7".into(), None).next(&1, CheckpointMetadata::default());
    let mut begin = TurnBegin::new(begun, message, new.unwrap().0, batch());
    begin.key = Some(key);
    let begin = turn::begin_statement(&checkpoint(), 1, &begin);
    for (query, indexes) in [(begin, &by_key[1..]), (end, &by_key[..])] {
        databases.assert_postgres_uses(query, indexes).await;
    }
}

/// What takes its rows for new looks for the thread only.
async fn assert_inserts_by(databases: &Databases, writes: &[Write], indexes: &[&str]) {
    let query = |conflicts| postgres::statement(writes, conflicts);
    assert_finds_conflicts_by(databases, query(Possible), indexes).await;
    assert_finds_conflicts_by(databases, query(Unexpected), &["threads_pkey"]).await;
}

async fn assert_finds_conflicts_by(databases: &Databases, query: Query, indexes: &[&str]) {
    let arbiters = indexes.iter();
    let arbiters = arbiters.map(|index| format!("Conflict Arbiter Indexes: {index}"));
    let arbiters: Vec<_> = arbiters.collect();
    let arbiters: Vec<_> = arbiters.iter().map(String::as_str).collect();
    databases.assert_postgres_uses(query, &arbiters).await;
}

fn key() -> CheckpointKey {
    CheckpointKey {
        thread_id: "thread-7".into(),
        namespace: Namespace::root(),
        checkpoint_id: "10005007".to_owned().into(),
    }
}

fn checkpoint() -> NewRawCheckpoint {
    NewRawCheckpoint {
        key: key(),
        parent: None,
        checkpoint: "{}".to_owned(),
        metadata: "{}".to_owned(),
        values: vec![RawValue {
            channel: "1".to_owned(),
            version: "1".to_owned(),
            value: Value::from_parts("msgpack", vec![1]),
        }],
    }
}

fn writes(channel: &str) -> NewWrites {
    NewWrites {
        key: key(),
        task_id: "task".to_owned(),
        task_path: String::new(),
        writes: vec![ChannelWrite {
            channel: channel.to_owned(),
            value: Value::from_parts("msgpack", vec![1]),
        }],
    }
}

fn write(new: New, fenced: Option<Fenced>) -> Write {
    Write { new, fenced }
}

fn fenced() -> Fenced {
    Fenced {
        fence: Fence::Hold(1),
        epoch: 1,
        events: Some((&batch()).into()),
    }
}

fn batch() -> EventBatch {
    EventBatch::new(
        ConversationId::new(),
        yai_agentkit_core::TurnId::new(),
        1,
        Vec::new(),
    )
}
