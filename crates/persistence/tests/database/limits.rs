use std::{
    future::Future,
    time::{Duration, Instant},
};

use endless::Endless;
use sqlx::{Connection, PgConnection};
use yai_agentkit_core::{Conversation, Error, Result, Storage, Stores};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::{
    fixture::{assert_not_done, assert_unavailable, config, sqlite_file, store_something, texts},
    support::PostgresDatabase,
};

const TIMEOUT: Duration = Duration::from_millis(400);

/// As a script, and as a condition.
const ENDLESS: &str =
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n";

#[tokio::test]
async fn postgres_ends_a_statement_at_the_timeout() {
    let postgres = PostgresDatabase::create("limits").await;
    statements_end(&postgres.url).await;
    assert_nothing_runs(&postgres.url).await;
    postgres.remove().await;
}

#[tokio::test]
async fn postgres_ends_a_statement_at_the_timeout_through_pgbouncer() {
    let postgres = PostgresDatabase::create("limits").await;
    statements_end(&postgres.pgbouncer_url).await;
    assert_nothing_runs(&postgres.url).await;
    postgres.remove().await;
}

#[tokio::test]
async fn sqlite_ends_a_statement_at_the_timeout() {
    let (_directory, _, url) = sqlite_file();
    statements_end(&url).await;
}

/// Alone, in a unit of work and as a script; and the connection serves the next call.
async fn statements_end(url: &str) {
    let database = Database::connect(&limited(url)).await.unwrap();
    let conversation = store_something(&database).await;
    let endless = database.repository::<Endless>();
    ends(endless.count(&())).await;
    ends(endless.list(&Default::default())).await;

    let unit = database.begin_unit().await.unwrap();
    ends(unit.repository::<Endless>().count(&())).await;
    drop(unit);
    ends(database.execute_script(ENDLESS)).await;

    // A limit starts anew with each statement.
    tokio::time::sleep(TIMEOUT).await;
    let long = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        SELECT count(*) FROM n";
    database.execute_script(long).await.unwrap();
    let conversations = database.conversations();
    conversations
        .update(&conversation.id, &|_| Ok(()))
        .await
        .unwrap();
    database.close().await;
}

#[tokio::test]
async fn a_wait_for_a_lock_ends_at_the_timeout() {
    let postgres = PostgresDatabase::create("limits").await;
    for url in [&postgres.url, &postgres.pgbouncer_url] {
        let database = Database::connect(&limited(url)).await.unwrap();
        let conversation = store_something(&database).await;
        let mut other = PgConnection::connect(&postgres.url).await.unwrap();
        let mut transaction = other.begin().await.unwrap();
        sqlx::query("SELECT FROM agent_conversations FOR UPDATE")
            .execute(&mut *transaction)
            .await
            .unwrap();
        ends(
            database
                .conversations()
                .update(&conversation.id, &|_| Ok(())),
        )
        .await;
        assert_nothing_runs(&postgres.url).await;
        transaction.rollback().await.unwrap();
        let conversations = database.conversations();
        conversations
            .update(&conversation.id, &|_| Ok(()))
            .await
            .unwrap();
        database.close().await;
    }
    postgres.remove().await;
}

#[tokio::test]
async fn a_unit_of_work_that_idles_longer_than_the_timeout_is_unavailable() {
    let postgres = PostgresDatabase::create("limits").await;
    let database = Database::connect(&limited(&postgres.url)).await.unwrap();
    let unit = database.begin().await.unwrap();
    let new = || Conversation::titled("never stored");
    unit.conversations().add(new()).await.unwrap();
    let idle = "SELECT pid::text FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    while !texts(&postgres.url, idle).await.is_empty() {
        tokio::time::sleep(TIMEOUT / 10).await;
    }
    assert_unavailable(unit.conversations().add(new()).await);
    assert_unavailable(unit.commit().await);
    store_something(&database).await;
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_writer_of_another_process_is_waited_for_until_the_timeout() {
    let (_directory, _, url) = sqlite_file();
    let other = Database::connect(&limited(&url)).await.unwrap();
    let conversation = store_something(&other).await;
    let database = Database::connect(&limited(&url)).await.unwrap();
    let unit = other.begin().await.unwrap();
    ends(
        database
            .conversations()
            .update(&conversation.id, &|_| Ok(())),
    )
    .await;
    unit.commit().await.unwrap();
    let conversations = database.conversations();
    conversations
        .update(&conversation.id, &|_| Ok(()))
        .await
        .unwrap();
}

fn limited(url: &str) -> DatabaseConfig {
    config(url).query_timeout(TIMEOUT).unwrap()
}

async fn ends<T>(call: impl Future<Output = Result<T, Error>>) {
    let started = Instant::now();
    assert_not_done(call.await);
    let elapsed = started.elapsed();
    assert!(elapsed >= TIMEOUT * 9 / 10, "ended after {elapsed:?}");
    assert!(elapsed < TIMEOUT * 40, "ended after {elapsed:?}");
}

async fn assert_nothing_runs(url: &str) {
    let running = "SELECT query FROM pg_stat_activity WHERE datname = current_database()
        AND state = 'active' AND pid <> pg_backend_pid()";
    assert_eq!(texts(url, running).await, Vec::<String>::new());
}

/// An entity whose filter never comes to an end.
mod endless {
    use sea_orm::{Condition, entity::prelude::*, sea_query::Expr};
    use yai_agentkit_core::Result;
    use yai_agentkit_persistence::StoredEntity;

    pub(super) type Endless = Model;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "agent_conversations")]
    pub(super) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        id: Uuid,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub(super) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}

    impl yai_agentkit_core::Entity for Model {
        type Id = Uuid;
        type Filter = ();
        const NAME: &'static str = "endless";

        fn id(&self) -> Uuid {
            self.id
        }
    }

    impl StoredEntity for Model {
        type Table = Entity;

        fn condition((): &()) -> Condition {
            Condition::all().add(Expr::cust(format!("({}) > 0", super::ENDLESS)))
        }
    }
}
