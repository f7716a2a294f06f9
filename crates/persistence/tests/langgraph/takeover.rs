use std::collections::BTreeSet;

use serde_json::json;
use yai_agentkit_core::Storage;

use crate::{
    database::TestDatabase,
    description::{assert_same, describe, threads},
};

const LAST_VERSION: u32 = 9;

/// The indexes that LangGraph's migrations 6 to 8 make, which repeat the primary keys.
const SPARED: &str = "_thread_id_idx ON ";

#[tokio::test]
async fn a_database_of_any_version_is_taken_over_with_its_data() {
    futures::future::join_all((0..=LAST_VERSION).map(take_over)).await;
}

async fn take_over(version: u32) {
    let database = TestDatabase::create().await;
    let arguments = [&*version.to_string()];
    database.python("old_database.py", &arguments).await;
    let rows = database.rows().await;

    let ours = database.connect().await;
    assert_eq!(database.rows().await, rows, "version {version}");
    let expected: &[&str] = if version == 0 { &[] } else { &["a", "b", "c"] };
    let listed = threads(&*ours.checkpointer()).await;
    assert_eq!(listed, expected, "version {version}");

    let schema = database.schema().await;
    let channels = ["messages", "gone"];
    let theirs = database.describe("stored", &channels).await;
    assert_eq!(database.schema().await, schema, "setup() changes nothing");
    assert_same(&describe(&*ours.checkpointer(), &channels).await, &theirs);
    ours.close().await;
    database.remove().await;
}

#[tokio::test]
async fn a_second_connection_finds_nothing_left_to_migrate() {
    let database = TestDatabase::create().await;
    database.python("old_database.py", &["9"]).await;
    database.connect().await.close().await;
    let (schema, rows) = (database.schema().await, database.rows().await);
    database.connect().await.close().await;
    assert_eq!(database.schema().await, schema);
    assert_eq!(database.rows().await, rows);
    database.remove().await;
}

#[tokio::test]
async fn a_new_database_has_their_schema_and_needs_no_setup() {
    let ours = TestDatabase::create().await;
    let connection = ours.connect().await;
    let schema = ours.schema().await;
    assert_eq!(ours.describe("stored", &[]).await, json!({}));
    assert_eq!(ours.schema().await, schema, "setup() changes nothing");

    let theirs = TestDatabase::create().await;
    theirs.describe("stored", &[]).await;
    let schema: BTreeSet<String> = schema.into_iter().collect();
    let their_schema = theirs.schema().await;
    let missing: Vec<_> = their_schema
        .iter()
        .filter(|item| !schema.contains(*item) && !item.contains(SPARED))
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
    connection.close().await;
    ours.remove().await;
    theirs.remove().await;
}
