//! What many write or read at once goes together, and nobody notices otherwise.

mod calls;
mod lost;
mod turns;

use std::{collections::BTreeMap, future, pin::Pin, task::Poll};

use yai_agentkit_core::{
    Checkpoint, CheckpointId, CheckpointKey, CheckpointSelector, Namespace, NewCheckpoint, Value,
    checkpoint::{CheckpointMetadata, CheckpointSource},
};
use yai_agentkit_persistence::{Database, NewRawCheckpoint, RawCheckpoints, RawValue};

use crate::{
    fixture::{connect, sqlite_file},
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

fn next(thread: &str, step: i64) -> NewCheckpoint {
    NewCheckpoint {
        thread_id: thread.into(),
        namespace: Namespace::root(),
        parent: None,
        checkpoint: Checkpoint::after(None),
        metadata: CheckpointMetadata::new(CheckpointSource::Loop, step),
        new_versions: BTreeMap::new(),
    }
}

/// Polls once.
async fn begins_to_wait(future: &mut (impl Future + Unpin)) -> bool {
    let polled = future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context)));
    polled.await.is_pending()
}
