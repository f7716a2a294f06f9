//! What many write or read at once goes together, and nobody notices otherwise.

use std::{future, pin::Pin, task::Poll};

use futures::future::{join_all, try_join_all};
use yai_agentkit_core::{
    CheckpointId, CheckpointKey, CheckpointQuery, CheckpointSelector, CheckpointerExt,
    Conversation, Namespace, Storage, Value,
};
use yai_agentkit_persistence::{Database, NewRawCheckpoint, RawCheckpoints, RawValue};

use crate::{
    fixture::{assert_unavailable, connect, sqlite_file, texts},
    proxy::Proxy,
    support::PostgresDatabase,
};

/// More than one group takes.
const THREADS: usize = 300;

fn checkpoint(thread: &str, metadata: &str) -> NewRawCheckpoint {
    NewRawCheckpoint {
        key: CheckpointKey {
            thread_id: thread.into(),
            namespace: Namespace::root(),
            checkpoint_id: CheckpointId::from("1".to_owned()),
        },
        parent: None,
        checkpoint: r#"{"v": 4, "id": "1", "channel_versions": {"list": "1"}}"#.to_owned(),
        metadata: metadata.to_owned(),
        values: vec![RawValue {
            channel: "list".to_owned(),
            version: "1".to_owned(),
            value: Value::encode(thread).unwrap(),
        }],
    }
}

async fn is_stored(checkpoints: &RawCheckpoints, thread: &str) -> bool {
    let found = checkpoints.get(&CheckpointSelector::latest(thread)).await;
    found.unwrap().is_some()
}

fn names() -> Vec<String> {
    (0..THREADS)
        .map(|index| format!("thread-{index}"))
        .collect()
}

/// Every test on SQLite as well: `$test` takes a database.
async fn on_both(test: impl AsyncFn(Database)) {
    let postgres = PostgresDatabase::create("group").await;
    test(connect(&postgres.url).await).await;
    postgres.remove().await;
    let (_directory, _, url) = sqlite_file();
    test(connect(&url).await).await;
}

#[tokio::test]
async fn writes_at_once_share_transactions() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let names = names();
    let puts = names
        .iter()
        .map(|name| checkpoints.put(checkpoint(name, "{}")));
    try_join_all(puts).await.unwrap();

    let transactions = "SELECT count(DISTINCT xmin::text)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, transactions).await, ["2"]);
    let rows = "SELECT count(*)::text FROM checkpoints JOIN checkpoint_blobs USING (thread_id)
        JOIN threads USING (thread_id)";
    assert_eq!(texts(&postgres.url, rows).await, [THREADS.to_string()]);
    for name in &names {
        let found = checkpoints.get(&CheckpointSelector::latest(&**name)).await;
        let value = found.unwrap().unwrap().values["list"].decode::<String>();
        assert_eq!(value.unwrap(), *name);
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn writes_of_one_thread_keep_their_order() {
    on_both(async |database| {
        let checkpoints = database.raw_checkpoints();
        let puts = (0..THREADS).map(|step| {
            let metadata = format!(r#"{{"step": {step}}}"#);
            checkpoints.put(checkpoint(&format!("thread-{}", step % 3), &metadata))
        });
        try_join_all(puts).await.unwrap();
        for last in THREADS - 3..THREADS {
            let thread = format!("thread-{}", last % 3);
            let found = checkpoints.get(&CheckpointSelector::latest(&*thread)).await;
            let metadata = found.unwrap().unwrap().metadata;
            assert_eq!(metadata.replace(": ", ":"), format!(r#"{{"step":{last}}}"#));
        }
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn one_that_the_database_refuses_fails_alone() {
    on_both(async |database| {
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON checkpoints
            WHEN new.metadata = 'refused' BEGIN SELECT RAISE(ABORT, 'refused'); END";
        // PostgreSQL refuses what is no JSON by itself.
        if database
            .execute_script("SELECT sqlite_version()")
            .await
            .is_ok()
        {
            database.execute_script(refuse).await.unwrap();
        }
        let checkpoints = database.raw_checkpoints();
        let names = names();
        let puts = names.iter().enumerate().map(|(index, name)| {
            let metadata = if index == 7 { "refused" } else { "{}" };
            checkpoints.put(checkpoint(name, metadata))
        });
        let outcomes = join_all(puts).await;
        for (index, (name, outcome)) in names.iter().zip(outcomes).enumerate() {
            assert_eq!(outcome.is_ok(), index != 7, "{name}: {outcome:?}");
            assert_eq!(is_stored(&checkpoints, name).await, index != 7, "{name}");
        }
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_thread_that_somebody_holds_keeps_no_other_waiting() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let unit = database.begin().await.unwrap();
    unit.checkpointer().save(&"held".into(), &0).await.unwrap();

    let mut held = Box::pin(try_join_all([
        checkpoints.put(checkpoint("held", r#"{"step": 1}"#)),
        checkpoints.put(checkpoint("held", r#"{"step": 2}"#)),
    ]));
    assert!(begins_to_wait(&mut held).await);
    let others = names();
    let others = others
        .iter()
        .map(|name| checkpoints.put(checkpoint(name, "{}")));
    try_join_all(others).await.unwrap();
    assert!(!is_stored(&checkpoints, "held").await);

    unit.commit().await.unwrap();
    held.await.unwrap();
    let query = CheckpointQuery {
        checkpoint_id: Some(CheckpointId::from("1".to_owned())),
        ..CheckpointQuery::of("held")
    };
    let found = checkpoints.list(&query).await.unwrap();
    assert_eq!(found[0].metadata, r#"{"step": 2}"#);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn who_stops_waiting_takes_a_write_back_that_is_not_under_way() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let unit = database.begin().await.unwrap();
    unit.checkpointer().save(&"held".into(), &0).await.unwrap();

    let put = |metadata| checkpoints.put(checkpoint("held", metadata));
    let (mut first, mut second) = (Box::pin(put("{}")), Box::pin(put(r#"{"late": true}"#)));
    assert!(begins_to_wait(&mut first).await);
    assert!(begins_to_wait(&mut second).await);
    drop(second);
    unit.commit().await.unwrap();
    first.await.unwrap();
    // Waits for whatever is under way.
    put("{}").await.unwrap();
    let late = "SELECT count(*)::text FROM checkpoints WHERE metadata ? 'late'";
    assert_eq!(texts(&postgres.url, late).await, ["0"]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_group_whose_acknowledgement_was_lost_is_stored_once() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    let checkpoints = database.raw_checkpoints();
    proxy.lose_answer("INSERT 0");
    let names = names();
    let puts = names
        .iter()
        .map(|name| checkpoints.put(checkpoint(name, "{}")));
    try_join_all(puts).await.unwrap();
    assert!(proxy.has_lost_answer());
    let rows = "SELECT count(*)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, rows).await, [THREADS.to_string()]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn rows_that_are_read_at_once_come_to_who_asked() {
    on_both(async |database| {
        let conversations = database.conversations();
        let titles = (0..100).map(|index| Conversation::titled(format!("Number {index}")));
        let mut stored = conversations.add_many(titles.collect()).await.unwrap();
        let absent = Conversation::titled("Not stored");
        stored.push(absent.clone());
        stored.push(stored[7].clone());
        let found = stored.iter().map(|row| conversations.get(&row.id));
        let found = try_join_all(found).await.unwrap();
        for (row, found) in stored.into_iter().zip(found) {
            assert_eq!(found, Some(row).filter(|row| *row != absent));
        }
        database.close().await;
        assert_unavailable(conversations.get(&absent.id).await);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_cut_off_at_its_begin_swallows_nothing() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let mut cut_off = 0;
    for name in names().iter().take(20) {
        database.ping().await.unwrap();
        let mut begin = database.begin();
        // On the connection of the ping; rarely the answer is there at once.
        cut_off += u32::from(begins_to_wait(&mut begin).await);
        drop(begin);
        checkpoints.put(checkpoint(name, "{}")).await.unwrap();
    }
    let rows = "SELECT count(*)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, rows).await, ["20"]);
    assert!(cut_off > 0);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn closing_waits_for_what_is_being_written() {
    on_both(async |database| {
        let checkpoints = database.raw_checkpoints();
        let names = names();
        let puts = names
            .iter()
            .map(|name| checkpoints.put(checkpoint(name, "{}")));
        let mut puts = Box::pin(try_join_all(puts));
        assert!(begins_to_wait(&mut puts).await);
        let (written, ()) = futures::join!(puts, database.close());
        written.unwrap();
    })
    .await;
}

/// Polls once.
async fn begins_to_wait(future: &mut (impl Future + Unpin)) -> bool {
    let polled = future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context)));
    polled.await.is_pending()
}
