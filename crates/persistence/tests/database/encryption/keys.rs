//! Keys: who has none or another one, and those that are replaced.

use std::time::Duration;

use yai_agentkit_core::{Conversation, Error, Stores};
use yai_agentkit_persistence::{Database, encryption::EncryptionError};

use super::{
    KEY, OTHER, Place, cause,
    planted::{Planted, plant},
    read, whole,
};
use crate::fixture::{assert_configuration, config, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn without_its_master_key_a_database_is_not_opened() {
    for place in [Place::of_sqlite(), Place::of_postgres().await] {
        let database = place.connect(KEY).await;
        let planted = plant(&database).await;
        let before = whole(&database, &planted).await;
        database.close().await;
        let error = refusal(&config(&place.url)).await;
        assert_configuration(
            &error,
            "DB_ENCRYPTION_KEY: is not set, but the database is encrypted",
        );
        let error = refusal(&place.config(OTHER)).await;
        assert_configuration(&error, "DB_ENCRYPTION_KEY: names another master key");
        assert!(!format!("{error:?}").contains("0808"));
        // The one that it had is good enough.
        let database = place.connect(&format!("{OTHER}\n{KEY}")).await;
        assert_eq!(whole(&database, &planted).await, before);
        database.close().await;
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_there_before_its_key_is_encrypted_row_by_row() {
    for place in [Place::of_sqlite(), Place::of_postgres().await] {
        let plain = Database::connect(&config(&place.url)).await.unwrap();
        let old = plant(&plain).await;
        let before = whole(&plain, &old).await;
        plain.close().await;
        assert!(!place.with_word().await.is_empty());
        let error = refusal(&place.config(KEY)).await;
        assert_configuration(&error, "DB_ENCRYPTION_ADMITS_PLAIN: must be true");
        let admitting = place.config(KEY).encryption_admits_plain(true);
        let database = Database::connect(&admitting).await.unwrap();
        let new = plant(&database).await;
        assert_eq!(whole(&database, &old).await, before);
        assert!(encrypt(&database).await > 10);
        assert_eq!(encrypt(&database).await, 0);
        database.vacuum().await.unwrap();
        database.close().await;
        let database = place.connect(KEY).await;
        assert_eq!(whole(&database, &old).await, before);
        whole(&database, &new).await;
        database.close().await;
        assert_eq!(place.with_word().await, Vec::<String>::new());
        place.remove().await;
    }
}

async fn encrypt(database: &Database) -> u64 {
    let mut last = None;
    let encrypted = database
        .encrypt(&mut |progress| last = Some(progress))
        .await;
    assert_eq!(last.map(|last| last.percent), Some(100));
    encrypted.unwrap()
}

/// Only with this key, as whoever has no older one any more.
async fn forget_others(database: &Database, number: u32) {
    let script = format!("DELETE FROM agent_data_keys WHERE number <> {number}");
    database.execute_script(&script).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_known_to_others_and_older_ones_are_of_no_more_use() {
    for place in [Place::of_sqlite(), Place::of_postgres().await] {
        let (database, other) = (place.connect(KEY).await, place.connect(KEY).await);
        let old = plant(&database).await;
        let before = whole(&other, &old).await;
        assert_eq!(database.add_data_key().await.unwrap(), 2);
        let new = plant(&database).await;
        // That it has not heard of yet.
        whole(&other, &new).await;
        assert!(encrypt(&database).await > 10);
        assert_eq!(encrypt(&database).await, 0);
        forget_others(&database, 2).await;
        database.close().await;
        other.close().await;
        let database = place.connect(KEY).await;
        assert_eq!(whole(&database, &old).await, before);
        whole(&database, &new).await;
        // As if it were lost.
        forget_others(&database, 0).await;
        let error = database.conversations().get(&old.chat.id).await;
        assert!(error.is_ok(), "it is held");
        database.close().await;
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_is_named() {
    let place = Place::of_sqlite();
    let database = place.connect(KEY).await;
    let planted = plant(&database).await;
    database.add_data_key().await.unwrap();
    forget_others(&database, 2).await;
    database.close().await;
    let database = place.connect(KEY).await;
    for (table, read) in read(&database, &planted).await {
        let error = read.expect_err(table);
        assert_eq!(cause(&error), EncryptionError::UnknownKey(1), "{table}");
    }
    database.close().await;
}

/// Encrypts anew, but is ended after so many steps.
async fn ended_after(database: &Database, steps: usize) {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let database = database.clone();
    let work = tokio::spawn(async move {
        let mut tell = |progress| {
            let _ = told.send(progress);
        };
        database.encrypt(&mut tell).await
    });
    for _ in 0..steps {
        if heard.recv().await.is_none() {
            break;
        }
    }
    work.abort();
    drop(work.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypting_anew_may_be_ended_anywhere_beside_those_who_work() {
    for place in [Place::of_sqlite(), Place::of_postgres().await] {
        let database = place.connect(KEY).await;
        let mut planted: Vec<Planted> = Vec::new();
        for _ in 0..5 {
            planted.push(plant(&database).await);
        }
        let before = read_all(&database, &planted).await;
        database.add_data_key().await.unwrap();
        for steps in 0..8 {
            ended_after(&database, steps).await;
            assert_eq!(read_all(&database, &planted[..5]).await, before);
            planted.push(plant(&database).await);
        }
        let (titles, encrypted) = tokio::join!(rename(&database, &planted[5]), encrypt(&database));
        let _ = encrypted;
        encrypt(&database).await;
        forget_others(&database, 2).await;
        database.close().await;
        let database = place.connect(KEY).await;
        assert_eq!(read_all(&database, &planted[..5]).await, before);
        let renamed = database
            .conversations()
            .get(&planted[5].chat.id)
            .await
            .unwrap();
        assert_eq!(renamed.unwrap().title, titles.last().cloned());
        database.close().await;
        place.remove().await;
    }
}

async fn read_all(database: &Database, planted: &[Planted]) -> Vec<String> {
    let mut all = Vec::new();
    for planted in planted {
        all.extend(whole(database, planted).await.into_values());
    }
    all
}

async fn rename(database: &Database, planted: &Planted) -> Vec<String> {
    let titles: Vec<String> = (0..50).map(|number| format!("Trip {number}")).collect();
    for title in &titles {
        let change = |chat: &mut Conversation| -> Result<(), Error> {
            chat.title = Some(title.clone());
            Ok(())
        };
        let renamed = database
            .conversations()
            .update(&planted.chat.id, &change)
            .await;
        renamed.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    titles
}
