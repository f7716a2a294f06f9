//! Each class of database errors has its action, shared by both databases and all callers.

use std::time::Duration;

use futures::future::try_join_all;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use yai_agentkit_core::{
    Conversation, Error, Storage, Stores,
    checkpoint::{CheckpointerExt, PruneStrategy},
};
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

/// What becomes of an error.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// The same is done again, so often at least.
    Repeat(u32),
    Unavailable,
    Invalid,
    Configuration,
    Backend,
}

const ACTIONS: &[(&str, Action)] = &[
    // Undone for the sake of another transaction.
    ("40001", Action::Repeat(5)),
    ("40P01", Action::Repeat(5)),
    // The session is not what it was.
    ("25006", Action::Repeat(1)),
    ("26000", Action::Repeat(1)),
    ("42P05", Action::Repeat(1)),
    ("0A000", Action::Repeat(1)),
    ("53100", Action::Unavailable),
    ("53200", Action::Unavailable),
    ("53300", Action::Unavailable),
    ("55P03", Action::Unavailable),
    ("57014", Action::Unavailable),
    ("54000", Action::Invalid),
    ("22001", Action::Invalid),
    ("42501", Action::Configuration),
    ("3F000", Action::Configuration),
    ("XX001", Action::Backend),
    ("P0001", Action::Backend),
];

#[tokio::test]
async fn each_class_of_errors_has_its_action_for_each_caller() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let conversation = store_something(&database).await;
    let fault = "
        CREATE SEQUENCE attempts;
        CREATE TABLE fault (code text, failures bigint);
        INSERT INTO fault VALUES ('', 0);
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('attempts') <= (SELECT failures FROM fault) THEN
                RAISE EXCEPTION USING ERRCODE = (SELECT code FROM fault);
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON agent_conversations
            FOR EACH ROW EXECUTE FUNCTION fail();
        CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON threads
            FOR EACH ROW EXECUTE FUNCTION fail()";
    execute(&postgres.url, fault).await;
    for (code, action) in ACTIONS {
        for caller in ["add", "update", "save"] {
            let call = async || match caller {
                "add" => {
                    let new = Conversation::titled("new");
                    database.conversations().add(new).await.map(drop)
                }
                "update" => {
                    let all = database.conversations();
                    all.update(&conversation.id, &|_| Ok(())).await.map(drop)
                }
                _ => {
                    let thread = conversation.thread_id();
                    database.checkpointer().save(&thread, &1).await.map(drop)
                }
            };
            let what = format!("{code} {caller}");
            let fail = async |times: u32| {
                let times = format!(
                    "ALTER SEQUENCE attempts RESTART; UPDATE fault SET code = '{code}', failures = {times}"
                );
                execute(&postgres.url, &times).await;
            };
            let most = match action {
                Action::Repeat(most) => *most,
                _ => 0,
            };
            fail(most).await;
            call().await.expect(&what);
            fail(20).await;
            let error = call().await.expect_err(&what);
            let is_as_said = match action {
                Action::Repeat(_) | Action::Unavailable => {
                    matches!(error, Error::Unavailable { .. })
                        // What is prepared anew and still does not fit is nobody's to mend.
                        || matches!(*code, "26000" | "42P05" | "0A000")
                            && matches!(error, Error::Backend { .. })
                }
                Action::Invalid => matches!(error, Error::InvalidInput { .. }),
                Action::Configuration => matches!(error, Error::Configuration { .. }),
                Action::Backend => matches!(error, Error::Backend { .. }),
            };
            assert!(is_as_said, "{what}: {error:?}");
        }
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn statements_that_a_session_has_lost_or_has_twice_are_prepared_anew() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let conversation = store_something(&database).await;
    let lost = "DEALLOCATE ALL; SELECT pg_sleep(0.1)";
    let twice = "DO $$ BEGIN FOR i IN 1..99 LOOP BEGIN
            EXECUTE 'PREPARE sqlx_s_' || i || ' AS SELECT 1';
        EXCEPTION WHEN duplicate_prepared_statement THEN NULL; END; END LOOP; END $$;
        SELECT pg_sleep(0.1)";
    for done in [lost, twice, lost] {
        let get = || async { database.conversations().get(&conversation.id).await };
        try_join_all((0..4).map(|_| get())).await.unwrap();
        try_join_all((0..4).map(|_| database.execute_script(done)))
            .await
            .unwrap();
        assert!(get().await.unwrap().is_some());
        try_join_all((0..4).map(|_| database.execute_script(done)))
            .await
            .unwrap();
        let thread = conversation.thread_id();
        database.checkpointer().save(&thread, &1).await.unwrap();
        let conversations = database.conversations();
        let renamed = conversations.update(&conversation.id, &|_| Ok(()));
        renamed.await.unwrap();
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn an_update_that_can_not_be_serialized_is_repeated() {
    let postgres = PostgresDatabase::create("classes").await;
    let database = connect(&postgres.url).await;
    let conversation = store_something(&database).await;
    let serializable = "SET default_transaction_isolation = serializable; SELECT pg_sleep(0.1)";
    try_join_all((0..4).map(|_| database.execute_script(serializable)))
        .await
        .unwrap();
    for _ in 0..10 {
        let rename = |title: &'static str| {
            let (conversations, id) = (database.conversations(), conversation.id);
            async move {
                let rename = |stored: &mut Conversation| {
                    stored.title = Some(title.to_owned());
                    Ok(())
                };
                conversations.update(&id, &rename).await
            }
        };
        try_join_all([rename("one"), rename("two")]).await.unwrap();
    }
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
async fn each_class_of_sqlite_s_errors_has_its_action() {
    let (_directory, _, url) = sqlite_file();
    let short = config(&url)
        .query_timeout(Duration::from_millis(300))
        .unwrap();
    let database = Database::connect(&short).await.unwrap();
    let conversation = store_something(&database).await;
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";
    let scripts = [
        // Interrupted; too large; of the statement itself.
        (endless, Action::Unavailable),
        ("SELECT length(zeroblob(2000000000))", Action::Invalid),
        ("SELECT abs(-9223372036854775808)", Action::Backend),
        ("PRAGMA query_only = ON", Action::Repeat(0)),
    ];
    for (script, action) in scripts {
        let done = database.execute_script(script).await;
        let is_as_said = match action {
            Action::Unavailable => matches!(done, Err(Error::Unavailable { .. })),
            Action::Invalid => matches!(done, Err(Error::InvalidInput { .. })),
            Action::Backend => matches!(done, Err(Error::Backend { .. })),
            _ => done.is_ok(),
        };
        assert!(is_as_said, "{script}: {done:?}");
    }
    // The session that may only read any more is replaced.
    let rename = || async {
        let conversations = database.conversations();
        conversations.update(&conversation.id, &|_| Ok(())).await
    };
    let refused = rename().await;
    assert!(
        matches!(refused, Err(Error::Configuration { .. })),
        "{refused:?}"
    );
    rename().await.unwrap();
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
