use std::time::{Duration, Instant};

use sqlx::{Connection, SqliteConnection};
use yai_agentkit_core::{
    Conversation, Error, ListQuery, Storage, Stores, checkpoint::CheckpointerExt, error::Outcome,
};
use yai_agentkit_persistence::Database;

use crate::fixture::{
    assert_configuration, assert_not_done, assert_unavailable, child, child_url, config, connect,
    refusal, sqlite_file, store_something,
};

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_process() {
    const NAME: &str = "sqlite::what_was_acknowledged_survives_a_killed_process";
    if let Some(url) = child_url() {
        store_something(&connect(&url).await).await;
        std::process::abort();
    }
    let (_directory, _, url) = sqlite_file();
    let output = child(NAME, &url).output().await.unwrap();
    assert_eq!(output.status.code(), None, "{output:?}");
    let database = connect(&url).await;
    let found = database.conversations().list(&ListQuery::default()).await;
    let [conversation] = &found.unwrap().items[..] else {
        panic!("not one conversation");
    };
    let threads = database.checkpointer().keys(10).await.unwrap();
    assert_eq!(threads, [conversation.thread_id()]);
}

#[tokio::test]
async fn what_is_no_database_is_refused_at_once() {
    let (directory, file, url) = sqlite_file();
    std::fs::write(&file, "Dear diary, ".repeat(1000)).unwrap();
    let other = |path: &str| format!("sqlite:{path}");
    let started = Instant::now();
    for url in [
        url,
        other(&directory.path().display().to_string()),
        other("/no/such/directory/agentkit.db"),
        // A directory in which nobody may make a file, not even root.
        other("/proc/agentkit.db"),
    ] {
        assert_configuration(&refusal(&config(&url)).await, "(url)");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn nothing_is_acknowledged_that_would_go_with_a_deleted_file() {
    let (directory, file, url) = sqlite_file();
    let database = connect(&url).await;
    let kept = store_something(&database).await;
    let log = directory.path().join("agentkit.db-wal");
    for moved in [file, log] {
        let elsewhere = directory.path().join("elsewhere");
        std::fs::rename(&moved, &elsewhere).unwrap();
        let is_refused = |error: Error| match error {
            Error::Unavailable { outcome, .. } => assert_eq!(outcome, Outcome::NotDone),
            other => panic!("{other:?}"),
        };
        let conversation = || Conversation::titled("lost");
        let conversations = database.conversations();
        is_refused(conversations.add(conversation()).await.unwrap_err());
        is_refused(database.begin().await.map(drop).unwrap_err());
        is_refused(database.ping().await.unwrap_err());
        let state = serde_json::json!({"list": []});
        let saved = database
            .checkpointer()
            .save(&kept.thread_id(), &state)
            .await;
        is_refused(saved.unwrap_err());
        std::fs::rename(&elsewhere, &moved).unwrap();
        conversations.add(conversation()).await.unwrap();
        database.ping().await.unwrap();
    }
}

#[tokio::test]
async fn who_waits_for_another_process_gets_an_answer_within_the_connection_timeout() {
    let (_directory, _, url) = sqlite_file();
    let config = config(&url).connection_timeout(Duration::from_secs(2));
    let config = config.and_then(|config| config.query_timeout(Duration::from_secs(600)));
    let database = Database::connect(&config.unwrap()).await.unwrap();
    store_something(&database).await;
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    let lock = sqlx::raw_sql("BEGIN IMMEDIATE");
    lock.execute(&mut other).await.unwrap();
    let started = Instant::now();
    let calls = (0..20).map(|_| async {
        assert_not_done(database.begin().await.map(drop));
        let conversations = database.conversations();
        assert_unavailable(conversations.add(Conversation::titled("waits")).await);
    });
    futures::future::join_all(calls).await;
    assert!(started.elapsed() < Duration::from_secs(60));
    let unlock = sqlx::raw_sql("ROLLBACK");
    unlock.execute(&mut other).await.unwrap();
    let deadline = started + Duration::from_secs(120);
    while let Err(error) = database.begin().await {
        assert!(Instant::now() < deadline, "{error}");
    }
}

#[tokio::test]
async fn a_file_opened_for_reading_refuses_a_write() {
    let (_directory, _, url) = sqlite_file();
    let read_only = format!("{url}?mode=ro");
    connect(&url).await.close().await;
    let database = connect(&read_only).await;
    let conversation = Conversation::titled("new");
    let error = database
        .conversations()
        .add(conversation)
        .await
        .unwrap_err();
    assert_configuration(&error, "readonly");
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_file_and_its_log_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let (directory, _, url) = sqlite_file();
    let database = connect(&url).await;
    store_something(&database).await;
    let files = std::fs::read_dir(directory.path()).unwrap();
    let modes = files.map(|file| {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        (file.file_name().into_string().unwrap(), mode & 0o777)
    });
    let mut modes: Vec<_> = modes.collect();
    modes.sort();
    let expected = ["agentkit.db", "agentkit.db-shm", "agentkit.db-wal"];
    assert_eq!(modes, expected.map(|name| (name.to_owned(), 0o600)));
    database.close().await;
}
