use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection, Postgres, Transaction};
use yai_agentkit_core::{Error, Stores};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::{
    database::TestDatabase,
    description::{assert_same, describe, threads},
};

const LAST_VERSION: u32 = 9;

/// The last one at which a table must change.
const NEEDS_CHANGES: u32 = 8;

/// The indexes that LangGraph's migrations 6 to 8 make, which repeat the primary keys.
const SPARED: &str = "_thread_id_idx ON ";

#[tokio::test]
async fn a_database_of_any_version_is_taken_over_with_its_data() {
    futures::future::join_all((0..=LAST_VERSION).map(take_over)).await;
}

async fn take_over(version: u32) {
    let database = TestDatabase::old(version).await;
    let rows = database.rows().await;
    let ours = database.connect().await;
    assert_is_taken_over(version, database, ours, rows).await;
}

#[tokio::test]
async fn a_database_is_taken_over_through_pgbouncer() {
    let database = TestDatabase::old(NEEDS_CHANGES).await;
    let rows = database.rows().await;
    let ours = database.connect_through_pgbouncer().await;
    assert_is_taken_over(NEEDS_CHANGES, database, ours, rows).await;
}

async fn assert_is_taken_over(
    version: u32,
    database: TestDatabase,
    ours: Database,
    rows: Vec<String>,
) {
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
    let database = TestDatabase::old(LAST_VERSION).await;
    database.connect().await.close().await;
    let (schema, rows) = (database.schema().await, database.rows().await);
    database.connect().await.close().await;
    assert_eq!(database.schema().await, schema);
    assert_eq!(database.rows().await, rows);
    database.remove().await;
}

#[tokio::test]
async fn an_old_open_transaction_is_reported_where_a_table_must_change() {
    let database = TestDatabase::old(NEEDS_CHANGES).await;
    let (schema, rows) = (database.schema().await, database.rows().await);
    let mut reader = PgConnection::connect(&database.url).await.unwrap();
    let transaction = read_all(&mut reader).await;

    let timeout = Duration::from_secs(1);
    let config = DatabaseConfig::new(&*database.url).unwrap();
    let config = config.connection_timeout(timeout).unwrap();
    let started = Instant::now();
    let Err(error) = Database::connect(&config).await else {
        panic!("it changed a table that another transaction reads");
    };
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("pg_stat_activity"), "{error}");
    let elapsed = started.elapsed();
    assert!(elapsed < timeout * 20, "{elapsed:?}");
    assert_eq!(database.schema().await, schema);
    assert_eq!(database.rows().await, rows);

    transaction.rollback().await.unwrap();
    database.connect().await.close().await;
    assert_eq!(database.rows().await, rows);
    database.remove().await;
}

#[tokio::test]
async fn an_old_open_transaction_does_not_disturb_where_no_table_must_change() {
    let database = TestDatabase::old(LAST_VERSION).await;
    let rows = database.rows().await;
    let mut reader = PgConnection::connect(&database.url).await.unwrap();
    let transaction = read_all(&mut reader).await;
    database.connect().await.close().await;
    transaction.rollback().await.unwrap();
    assert_eq!(database.rows().await, rows);
    database.remove().await;
}

/// A transaction that has read every table of LangGraph's.
async fn read_all(connection: &mut PgConnection) -> Transaction<'_, Postgres> {
    let mut transaction = connection.begin().await.unwrap();
    let script = "SELECT * FROM checkpoints; SELECT * FROM checkpoint_blobs;
        SELECT * FROM checkpoint_writes; SELECT * FROM checkpoint_migrations";
    transaction.execute(sqlx::raw_sql(script)).await.unwrap();
    transaction
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
