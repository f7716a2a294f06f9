//! The example of an application's own entity, on both databases.

use std::time::Duration;

use example::{Migrator, Note, NoteFilter};
use yai_agentkit_core::{ConflictKind, Conversation, Error, ListQuery, Stores};
use yai_agentkit_persistence::{Database, DatabaseConfig};

#[path = "../examples/own_entity.rs"]
#[expect(dead_code, reason = "the example is a program")]
mod example;
#[expect(dead_code, reason = "shared with other tests")]
mod support;

/// Runs `test` on both databases, the application's table in place.
async fn on_both<F: Future<Output = ()>>(test: impl Fn(Database) -> F) {
    let postgres = support::PostgresDatabase::create("own_entity").await;
    for url in ["sqlite::memory:", &postgres.url] {
        let database = Database::connect(&DatabaseConfig::new(url).unwrap()).await;
        let database = database.unwrap();
        database.migrate_with::<Migrator>().await.unwrap();
        test(database.clone()).await;
        database.close().await;
    }
    postgres.remove().await;
}

#[tokio::test]
async fn the_example_says_the_same_on_both_databases() {
    on_both(|database| async move {
        let said = example::take_notes(&database).await.unwrap();
        let expected = [
            "5 notes",
            "a page of Ada's, newest first: Correct note G, Ask Charles, Weave algebra",
            "a page of Ada's, newest first: Bernoulli numbers",
            "pinned: Correct note G",
            "deleted: true",
            "1 conversation, 5 notes",
        ];
        assert_eq!(said, expected);
    })
    .await;
}

#[tokio::test]
async fn an_own_entity_comes_back_as_the_repository_returned_it() {
    on_both(|database| async move {
        let notes = database.repository::<Note>();
        let mut note = Note::new("Ada", "naïve 便条");
        note.created_at += Duration::from_nanos(1);
        let added = notes.add(note.clone()).await.unwrap();
        assert_eq!(notes.get(&note.id).await.unwrap(), Some(added.clone()));

        let updated = notes.update(&note.id, &|_| Ok(())).await.unwrap();
        assert!(updated.updated_at > added.updated_at);
        assert_eq!(notes.get(&note.id).await.unwrap(), Some(updated));
    })
    .await;
}

#[tokio::test]
async fn an_own_entity_is_named_in_errors() {
    on_both(|database| async move {
        let notes = database.repository::<Note>();
        let note = notes.add(Note::new("Ada", "once")).await.unwrap();
        let twice = notes.add(note.clone()).await.unwrap_err();
        assert!(
            matches!(&twice, Error::Conflict(ConflictKind::Row { entity: "note", id })
            if *id == note.id.to_string())
        );

        assert!(notes.delete(&note.id).await.unwrap());
        assert!(!notes.exists(&note.id).await.unwrap());
        let gone = notes.update(&note.id, &|_| Ok(())).await.unwrap_err();
        assert!(matches!(&gone, Error::NotFound { entity, .. } if entity == "note"));
    })
    .await;
}

#[tokio::test]
async fn a_unit_of_work_that_is_dropped_undoes_an_own_entity_too() {
    on_both(|database| async move {
        let unit = database.begin_unit().await.unwrap();
        let chat = Conversation::titled("Notes");
        unit.conversations().add(chat).await.unwrap();
        let note = Note::new("Ada", "never");
        unit.repository().add(note.clone()).await.unwrap();
        let pinned = NoteFilter {
            pinned: Some(false),
            ..NoteFilter::default()
        };
        let inside = unit.repository::<Note>().count(&pinned).await.unwrap();
        assert_eq!(inside, 1);
        drop(unit);

        let notes = database.repository::<Note>();
        assert_eq!(notes.get(&note.id).await.unwrap(), None);
        let chats = database.conversations();
        assert_eq!(chats.list(&ListQuery::default()).await.unwrap().items, []);
    })
    .await;
}

#[tokio::test]
async fn own_migrations_are_applied_once_however_many_processes_start() {
    let postgres = support::PostgresDatabase::create("own_migrations").await;
    let config = DatabaseConfig::new(&postgres.url).unwrap().schema("one");
    let config = config.unwrap();
    let starts = (0..8).map(|_| async {
        let database = Database::connect(&config).await.unwrap();
        let applied = database.migrate_with::<Migrator>().await.unwrap();
        database.close().await;
        applied.len()
    });
    let applied = futures::future::join_all(starts).await;
    assert!(applied.contains(&1), "{applied:?}");

    let database = Database::connect(&config).await.unwrap();
    let notes = database.repository::<Note>();
    notes.add(Note::new("Ada", "in the schema")).await.unwrap();
    assert_eq!(database.migrate_with::<Migrator>().await.unwrap(), [""; 0]);
    database.close().await;
    postgres.remove().await;
}
