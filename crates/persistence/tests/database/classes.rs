//! Each class of database errors has its action, shared by both databases and all callers.

use std::time::Duration;

use futures::future::try_join_all;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use yai_agentkit_core::{CheckpointerExt, Conversation, Error, PruneStrategy, Storage};
use yai_agentkit_persistence::Database;

use crate::{
    fixture::{assert_unavailable, config, connect, sqlite_file, store_something},
    support::{PostgresDatabase, execute},
};

/// Makes several sessions of the pool read-only, as after a failover.
async fn turn_read_only(database: &Database) {
    let session = "SET default_transaction_read_only = on; SELECT pg_sleep(0.1)";
    try_join_all((0..4).map(|_| database.execute_script(session)))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_session_that_turned_read_only_is_replaced() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let conversation = store_something(&database).await;
    let thread = conversation.thread_id();
    turn_read_only(&database).await;
    database
        .conversations()
        .add(Conversation::titled("new"))
        .await
        .unwrap();
    turn_read_only(&database).await;
    database.checkpointer().save(&thread, &1).await.unwrap();
    turn_read_only(&database).await;
    database.ping().await.unwrap();
    // A unit of work is not repeated; the next one is well.
    turn_read_only(&database).await;
    let unit = database.begin().await.unwrap();
    let new = || Conversation::titled("new");
    assert_unavailable(unit.conversations().add(new()).await);
    assert_unavailable(unit.commit().await);
    let unit = database.begin().await.unwrap();
    unit.conversations().add(new()).await.unwrap();
    unit.commit().await.unwrap();
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_database_that_may_only_be_read_is_not_ready() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let set = |value: &str| {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {value}',
             current_database()); END $$"
        )
    };
    database.ping().await.unwrap();
    database.execute_script(&set("on")).await.unwrap();
    turn_read_only(&database).await;
    let error = database.ping().await.unwrap_err();
    assert!(error.to_string().contains("may only be read"), "{error}");
    let writable = format!("BEGIN READ WRITE; {}; COMMIT", set("off"));
    execute(&postgres.url, &writable).await;
    database.ping().await.unwrap();
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_plan_that_no_longer_fits_is_made_anew() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let conversation = store_something(&database).await;
    for kind in ["varchar(300)", "varchar(400)", "text"] {
        // Prepared on several sessions.
        let get = || database.conversations();
        let reads = (0..4).map(|_| async { get().get(&conversation.id).await });
        try_join_all(reads).await.unwrap();
        let alter = format!("ALTER TABLE agent_conversations ALTER COLUMN title TYPE {kind}");
        execute(&postgres.url, &alter).await;
        for _ in 0..6 {
            let found = get().get(&conversation.id).await.unwrap();
            assert_eq!(found.as_ref(), Some(&conversation));
        }
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn the_isolation_that_is_set_for_others_does_not_hold_for_ours() {
    let postgres = PostgresDatabase::create("classes").await;
    let serializable = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I
        SET default_transaction_isolation = serializable', current_database()); END $$";
    execute(&postgres.url, serializable).await;
    let expected = "DO $$ BEGIN
        ASSERT current_setting('transaction_isolation') = 'read committed';
    END $$";
    for url in [&postgres.url, &postgres.pgbouncer_url] {
        let database = connect(url).await;
        database.execute_script(expected).await.unwrap();
        let conversation = store_something(&database).await;
        // Each waits for the one before, and sees what it has done.
        let updates = (0..16).map(|_| {
            let (conversations, id) = (database.conversations(), conversation.id);
            async move { conversations.update(&id, &|_| Ok(())).await }
        });
        try_join_all(updates).await.unwrap();
        database.close().await;
    }
    postgres.remove().await;
}

#[tokio::test]
async fn the_victim_of_a_deadlock_is_repeated() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let threads = ["a".into(), "b".into()];
    for thread in &threads {
        database.checkpointer().save(thread, &1).await.unwrap();
    }
    let mut other = PgConnection::connect(&postgres.url).await.unwrap();
    let lock =
        |thread: &str| format!("SELECT FROM threads WHERE thread_id = '{thread}' FOR UPDATE");
    // The other never looks for a deadlock, so that ours is its victim.
    let begin = format!("SET deadlock_timeout = '10min'; BEGIN; {}", lock("b"));
    sqlx::raw_sql(AssertSqlSafe(begin))
        .execute(&mut other)
        .await
        .unwrap();
    let checkpointer = database.checkpointer();
    let pruning = tokio::spawn({
        let threads = threads.clone();
        async move { checkpointer.prune(&threads, PruneStrategy::Delete).await }
    });
    let waits = "SELECT pid::text FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while crate::fixture::texts(&postgres.url, waits).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rest = format!("{}; COMMIT", lock("a"));
    sqlx::raw_sql(AssertSqlSafe(rest))
        .execute(&mut other)
        .await
        .unwrap();
    pruning.await.unwrap().unwrap();
    assert_eq!(database.checkpointer().keys(10).await.unwrap(), []);
    let deadlocks =
        "SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()";
    let mut counted = Vec::new();
    for _ in 0..600 {
        counted = crate::fixture::texts(&postgres.url, deadlocks).await;
        if counted != ["0"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(counted, ["1"]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn an_index_row_that_is_too_long_is_invalid_input() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let long = "INSERT INTO threads (thread_id, updated_at)
        SELECT string_agg(md5(i::text), ''), now() FROM generate_series(1, 400) AS i";
    let refused = database.execute_script(long).await;
    assert!(
        matches!(refused, Err(Error::InvalidInput { .. })),
        "{refused:?}"
    );
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_sqlite_file_that_is_locked_deleted_or_replaced_is_not_ready() {
    let (_directory, file, url) = sqlite_file();
    let short = config(&url)
        .query_timeout(Duration::from_millis(300))
        .unwrap();
    let database = Database::connect(&short).await.unwrap();
    store_something(&database).await;
    database.ping().await.unwrap();
    let not_ready = async |expected: &str| {
        let error = database.ping().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let other = connect(&url).await;
    let unit = other.begin().await.unwrap();
    not_ready("locked").await;
    drop(unit);
    other.close().await;
    database.ping().await.unwrap();

    let away = file.with_extension("away");
    std::fs::rename(&file, &away).unwrap();
    not_ready("deleted").await;
    assert!(!file.exists());
    std::fs::copy(&away, &file).unwrap();
    not_ready("replaced").await;
    std::fs::rename(&away, &file).unwrap();
    database.ping().await.unwrap();
}
