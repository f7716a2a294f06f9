use std::time::Duration;

use yai_agentkit_core::{Conversation, Storage, Stores};

use crate::{
    fixture::{assert_not_done, connect, sqlite_file, store_something},
    support::PostgresDatabase,
};

#[tokio::test]
async fn closing_postgres_waits_for_what_is_under_way() {
    let postgres = PostgresDatabase::create("closing").await;
    closing_waits_for_what_is_under_way(&postgres.url).await;
    postgres.remove().await;
}

#[tokio::test]
async fn closing_sqlite_waits_for_what_is_under_way() {
    let (_directory, _, url) = sqlite_file();
    closing_waits_for_what_is_under_way(&url).await;
}

async fn closing_waits_for_what_is_under_way(url: &str) {
    let database = connect(url).await;
    let stored = store_something(&database).await;
    let unit = database.begin().await.unwrap();
    let closing = tokio::spawn({
        let database = database.clone();
        async move { database.close().await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!closing.is_finished());

    let conversation = Conversation::titled("the last");
    let added = unit.conversations().add(conversation).await.unwrap();
    unit.commit().await.unwrap();
    closing.await.unwrap();
    assert_not_done(database.conversations().get(&stored.id).await);
    assert_not_done(database.conversations().delete(&stored.id).await);
    assert_not_done(database.checkpointer().threads(1, None).await);
    assert_not_done(database.begin().await);
    assert_not_done(database.ping().await);

    let again = connect(url).await;
    let found = again.conversations().get(&added.id).await.unwrap();
    assert_eq!(found, Some(added));
    again.close().await;
}

#[test]
fn what_is_dropped_outside_its_runtime_or_after_it_is_no_panic() {
    for runtime_ends_first in [false, true] {
        let (_directory, _, file) = sqlite_file();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let postgres = runtime.block_on(PostgresDatabase::create("dropped"));
        // Just used, so that their connections wait for the next user.
        let databases = runtime.block_on(async {
            let databases = [connect(&postgres.url).await, connect(&file).await];
            for database in &databases {
                store_something(database).await;
            }
            databases
        });
        if runtime_ends_first {
            drop(runtime);
            drop(databases);
        } else {
            drop(databases);
            drop(runtime);
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(postgres.remove());
    }
}
