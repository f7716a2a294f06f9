//! Checkpoints, writes and rows.

use futures::future::{join_all, try_join_all};
use yai_agentkit_core::{
    CheckpointId, CheckpointQuery, CheckpointSelector, Conversation, Fence, NewCheckpoint,
    PutOptions, Storage, Stores,
    checkpoint::{CheckpointMetadata, CheckpointSource, CheckpointerExt},
};

use super::{THREADS, begins_to_wait, checkpoint, is_stored, names, next, on_both};
use crate::{
    fixture::{assert_unavailable, connect, texts},
    support::PostgresDatabase,
};

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
async fn among_new_rows_one_that_is_there_is_found_and_all_are_stored_together() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let checkpoints = database.raw_checkpoints();
    let names = names();
    checkpoints.put(checkpoint(&names[7], "{}")).await.unwrap();
    // The first finds out, the second looks from the start.
    for round in ["1", "2"] {
        let metadata = format!(r#"{{"round": {round}}}"#);
        let puts = names[..100]
            .iter()
            .map(|name| checkpoints.put(checkpoint(name, &metadata)));
        try_join_all(puts).await.unwrap();
        let rows =
            "SELECT concat_ws(' ', metadata ->> 'round', count(*), count(DISTINCT xmin::text))
            FROM checkpoints GROUP BY metadata ->> 'round'";
        let all_at_once = format!("{round} 100 1");
        assert_eq!(texts(&postgres.url, rows).await, [all_at_once]);
    }
    let values = "SELECT count(*)::text FROM checkpoint_blobs";
    assert_eq!(texts(&postgres.url, values).await, ["100"]);
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
async fn writes_of_one_thread_keep_their_order_whatever_they_ask() {
    on_both(async |database| {
        let checkpointer = database.checkpointer();
        let checkpoints = [next("one", 0), next("two", 0)];
        for new in &checkpoints {
            checkpointer
                .put(new.clone(), Fence::Raise(1).into())
                .await
                .unwrap();
        }
        let fences = [
            Some(Fence::Hold(1)),
            None,
            Some(Fence::Hold(9)),
            Some(Fence::Hold(1)),
        ];
        let puts = (1..=THREADS).map(async |step| {
            let fence = fences[step / 2 % fences.len()];

            let metadata = CheckpointMetadata::new(CheckpointSource::Loop, step as i64);
            let new = NewCheckpoint {
                metadata,
                ..checkpoints[step % 2].clone()
            };
            let put = checkpointer.put(new, fence.map_or_else(PutOptions::default, Into::into));
            assert_eq!(put.await.is_ok(), fence != Some(Fence::Hold(9)), "{step}");
        });
        join_all(puts).await;
        for (index, new) in checkpoints.iter().enumerate() {
            let is_admitted =
                |step: &usize| fences[step / 2 % fences.len()] != Some(Fence::Hold(9));
            let last = (1..=THREADS)
                .rev()
                .filter(|step| step % 2 == index)
                .find(is_admitted);
            let latest = CheckpointSelector::latest(new.thread_id.clone());
            let found = checkpointer.get(&latest).await.unwrap().unwrap();
            assert_eq!(found.metadata.step(), last.map(|step| step as i64));
        }
        database.close().await;
    })
    .await;
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
