//! A value is read at its place alone, and none that is not encrypted.

use yai_agentkit_core::{
    Error, Storage, Stores,
    conversation::{ConversationFilter, SearchQuery},
    storage::ListQuery,
    store::{Filter, MemoryStoreExt, Search},
};
use yai_agentkit_persistence::{Database, encryption::EncryptionError};

use super::{
    KEY, Place, cause,
    planted::{Planted, noted, plant},
    read, whole,
};

/// A column, the table in which it is read, and its row in a chat.
struct Cell {
    column: &'static str,
    table: &'static str,
    read_as: &'static str,
    row: &'static str,
}

const fn cell(
    table: &'static str,
    column: &'static str,
    read_as: &'static str,
    row: &'static str,
) -> Cell {
    Cell {
        column,
        table,
        read_as,
        row,
    }
}

const OF_CHAT: &str = "conversation_id = CHAT";
const OF_THREAD: &str = "thread_id = THREAD";

const CELLS: [Cell; 15] = [
    cell(
        "agent_conversations",
        "metadata_",
        "agent_conversations",
        "id = CHAT",
    ),
    cell("agent_messages", "content", "agent_messages", OF_CHAT),
    cell("agent_messages", "metadata_", "agent_messages", OF_CHAT),
    // That of the parts, which is long.
    cell("agent_parts", "text", "agent_messages", OF_CHAT),
    cell("agent_turns", "input", "agent_turns", OF_CHAT),
    cell("agent_turns", "error", "agent_turns", OF_CHAT),
    cell("agent_turns", "interrupt", "agent_turns", OF_CHAT),
    cell(
        "agent_turn_events",
        "events",
        "agent_turn_events",
        "conversation_id = CHAT AND sequence = 1",
    ),
    cell(
        "agent_turn_records",
        "blob",
        "agent_turn_records",
        "conversation_id = CHAT AND name = 'result'",
    ),
    cell("checkpoints", "checkpoint", "checkpoints", OF_THREAD),
    cell(
        "checkpoint_blobs",
        "blob",
        "checkpoints",
        "thread_id = THREAD AND channel = 'stored'",
    ),
    cell(
        "checkpoint_blobs",
        "blob",
        "checkpoints",
        "thread_id = THREAD AND channel = 'snapshot'",
    ),
    cell(
        "checkpoint_writes",
        "blob",
        "checkpoints",
        "thread_id = THREAD AND channel = 'one'",
    ),
    cell(
        "checkpoint_writes",
        "blob",
        "checkpoints",
        "thread_id = THREAD AND channel = 'two'",
    ),
    cell("store", "value", "store", "key = THREAD"),
];

fn row(place: &Place, row: &str, planted: &Planted) -> String {
    let id = planted.chat.id.0;
    let chat = match place.postgres {
        Some(_) => format!("'{id}'"),
        None => format!("x'{}'", id.simple()),
    };
    row.replace("CHAT", &chat)
        .replace("THREAD", &format!("'{id}'"))
}

/// Exactly one table is not read any more, and says why.
async fn assert_refused(
    database: &Database,
    planted: &Planted,
    read_as: &str,
    expected: EncryptionError,
) {
    for (table, read) in read(database, planted).await {
        match read {
            Ok(_) => assert_ne!(table, read_as),
            Err(error) => {
                assert_eq!(table, read_as, "{error:?}");
                assert_eq!(cause(&error), expected, "{table}");
            }
        }
    }
}

async fn what_was_moved_is_refused(place: Place) {
    let database = place.connect(KEY).await;
    let (one, other) = (plant(&database).await, plant(&database).await);
    let before = whole(&database, &one).await;
    for Cell {
        table,
        column,
        read_as,
        row: of,
    } in &CELLS
    {
        let [mine, theirs] = [&one, &other].map(|planted| row(&place, of, planted));
        let script = format!(
            "CREATE TABLE saved AS SELECT {column} AS value FROM {table} WHERE {mine};
UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE {theirs}) WHERE {mine}"
        );
        database.execute_script(&script).await.expect(table);
        assert_refused(&database, &one, read_as, EncryptionError::Refused).await;
        let script = format!(
            "UPDATE {table} SET {column} = (SELECT value FROM saved) WHERE {mine};
DROP TABLE saved"
        );
        database.execute_script(&script).await.expect(table);
    }
    // To another place of the same chat.
    for (table, key, [from, to]) in [
        ("checkpoint_blobs", "channel", ["'stored'", "'other'"]),
        ("checkpoint_writes", "channel", ["'one'", "'two'"]),
        ("agent_turn_events", "sequence", ["1", "2"]),
        ("agent_turn_records", "name", ["'result'", "'receipt'"]),
    ] {
        let column = if key == "sequence" { "events" } else { "blob" };
        let of = if key == "channel" { OF_THREAD } else { OF_CHAT };
        let mine = row(&place, of, &one);
        let script = format!(
            "CREATE TABLE saved AS SELECT {column} AS value FROM {table} WHERE {mine} AND {key} = {to};
UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE {mine} AND {key} = {from})
WHERE {mine} AND {key} = {to}"
        );
        database.execute_script(&script).await.expect(table);
        let read_as = if key == "channel" {
            "checkpoints"
        } else {
            table
        };
        assert_refused(&database, &one, read_as, EncryptionError::Refused).await;
        let script = format!(
            "UPDATE {table} SET {column} = (SELECT value FROM saved) WHERE {mine} AND {key} = {to};
DROP TABLE saved"
        );
        database.execute_script(&script).await.expect(table);
    }
    assert_eq!(whole(&database, &one).await, before);
    database.close().await;
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_moved_is_refused_on_sqlite() {
    what_was_moved_is_refused(Place::of_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_moved_is_refused_on_postgres() {
    what_was_moved_is_refused(Place::of_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_not_encrypted_is_refused() {
    let place = Place::of_sqlite();
    let database = place.connect(KEY).await;
    let planted = plant(&database).await;
    for (table, column, value, read_as) in [
        (
            "agent_conversations",
            "title",
            "'plain'",
            "agent_conversations",
        ),
        ("agent_messages", "content", "'plain'", "agent_messages"),
        ("agent_messages", "metadata_", "'{}'", "agent_messages"),
        ("agent_turns", "error", "'plain'", "agent_turns"),
        ("agent_turn_events", "events", "'[{}]'", "agent_turn_events"),
        (
            "agent_turn_records",
            "type",
            "'msgpack'",
            "agent_turn_records",
        ),
        ("checkpoint_blobs", "type", "'msgpack'", "checkpoints"),
        ("checkpoint_writes", "type", "'msgpack'", "checkpoints"),
        (
            "checkpoints",
            "checkpoint",
            "json_set(checkpoint, '$.channel_values', json('{}'))",
            "checkpoints",
        ),
        ("store", "value", "'{}'", "store"),
    ] {
        let script = format!(
            "CREATE TABLE saved AS SELECT {column} AS value, rowid AS place FROM {table};
UPDATE {table} SET {column} = {value}"
        );
        database.execute_script(&script).await.expect(table);
        assert_refused(&database, &planted, read_as, EncryptionError::Unencrypted).await;
        let script = format!(
            "UPDATE {table} SET {column} = (SELECT value FROM saved WHERE place = {table}.rowid);
DROP TABLE saved"
        );
        database.execute_script(&script).await.expect(table);
    }
    whole(&database, &planted).await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_searches_what_is_encrypted_is_told() {
    let place = Place::of_sqlite();
    let database = place.connect(KEY).await;
    plant(&database).await;
    let search = database.search();
    assert_eq!(search.index(100).await.unwrap(), 0);
    let text = SearchQuery::text("word").unwrap();
    let title = SearchQuery::fields(Some("word"), Default::default()).unwrap();
    let metadata = SearchQuery::fields(None, [("note".to_owned(), 1.into())].into()).unwrap();
    for (query, field) in [(text, "text"), (title, "title"), (metadata, "metadata")] {
        assert_invalid(search.find(&query).await.unwrap_err(), field);
    }
    let titled = ListQuery::filtered(ConversationFilter::titled("word"));
    assert_invalid(
        database.conversations().list(&titled).await.unwrap_err(),
        "title",
    );
    let count = database.conversations().count(&titled.filter).await;
    assert_invalid(count.unwrap_err(), "title");
    let store = database.memory_store();
    let mut items = Search {
        namespace: vec!["notes".to_owned()],
        limit: 10,
        ..Search::default()
    };
    assert_eq!(store.search(items.clone()).await.unwrap().len(), 1);
    items.filter = Filter::parse(noted().as_object().unwrap()).unwrap();
    assert_invalid(store.search(items).await.unwrap_err(), "filter");
    database.close().await;
}

#[track_caller]
fn assert_invalid(error: Error, expected: &str) {
    let Error::InvalidInput { field, reason } = error else {
        panic!("{error:?}");
    };
    assert_eq!(field, expected);
    assert!(reason.contains("DB_ENCRYPTION_READABLE"), "{reason}");
}
