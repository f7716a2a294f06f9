//! The calls of [`Checkpointer`].

use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::json;
use uuid::Uuid;
use yai_agentkit_core::{
    ChannelValue, Checkpoint, CheckpointQuery, CheckpointSelector, Checkpointer, Fence, Namespace,
    NewCheckpoint, NewWrites, PutOptions, Storage, Stores, ThreadId, Value,
    checkpoint::{
        ChannelWrite, CheckpointMetadata, CheckpointSource, PruneStrategy, ThreadCursor, ValueKey,
        Values, Version,
    },
};

use super::Golden;
use crate::Database;

pub(super) const FIRST_WRITE_STAYS: &str = "messages";
const LAST_WRITE_COUNTS: &str = "__error__";

pub(super) async fn call_all(golden: &mut Golden) {
    reads(golden).await;
    writes_alone(golden).await;
    groups(golden).await;
    fenced_writes(golden).await;
    fenced_groups(golden).await;
    maintenance(golden).await;
}

async fn reads(golden: &mut Golden) {
    let thread = stored_thread(golden).await;
    let latest = CheckpointSelector::latest(thread.thread_id.clone());
    let by_id = CheckpointSelector {
        checkpoint_id: Some(thread.checkpoint.id.clone()),
        ..latest.clone()
    };
    let of_channels = CheckpointSelector {
        values: Values::Of(["messages".to_owned()].into()),
        ..latest.clone()
    };
    for (name, selector) in [
        ("get_latest", &latest),
        ("get_by_id", &by_id),
        ("get_of_channels", &of_channels),
    ] {
        let get =
            async |database: &Database| drop(checkpointer(database).get(selector).await.unwrap());
        golden.call(name, get).await;
    }
    let key = ValueKey {
        channel: "messages".to_owned(),
        version: "1".to_owned(),
    };
    let keys = [key].into();
    let values = async |database: &Database| {
        let namespace = Namespace::root();
        let checkpointer = checkpointer(database);
        let read = checkpointer.values(&thread.thread_id, &namespace, &keys);
        read.await.unwrap();
    };
    golden.call("values", values).await;
    let channels = ["messages".to_owned()];
    let history = async |database: &Database| {
        let checkpointer = checkpointer(database);
        let done = checkpointer.delta_channel_history(&latest, &channels).await;
        done.unwrap();
    };
    golden.call("delta_channel_history", history).await;

    let of_thread = CheckpointQuery::of(thread.thread_id.clone());
    let page = CheckpointQuery {
        namespace: Some(Namespace::root()),
        limit: Some(10),
        ..of_thread.clone()
    };
    let next_page = CheckpointQuery {
        before: Some(thread.checkpoint.id.clone()),
        ..page.clone()
    };
    let metadata = json!({
        "text": "text", "flag": true, "nothing": null, "list": [1, "two"], "object": {"half": 0.5}
    });
    let of_metadata = CheckpointQuery {
        thread_id: None,
        metadata: metadata.as_object().cloned().unwrap_or_default(),
        ..page.clone()
    };
    let one = CheckpointQuery {
        checkpoint_id: Some(thread.checkpoint.id.clone()),
        ..of_thread.clone()
    };
    let without_values = CheckpointQuery {
        values: Values::Nothing,
        ..page.clone()
    };
    for (name, query) in [
        ("list_all", &CheckpointQuery::default()),
        ("list_of_thread", &of_thread),
        ("list_page", &page),
        ("list_next_page", &next_page),
        ("list_without_values", &without_values),
        ("list_of_metadata", &of_metadata),
        ("list_one", &one),
    ] {
        let list =
            async |database: &Database| drop(checkpointer(database).list(query).await.unwrap());
        golden.call(name, list).await;
    }

    let after = ThreadCursor {
        updated_at: chrono::Utc::now(),
        id: thread.thread_id,
    };
    for (name, after) in [
        ("threads_first_page", None),
        ("threads_next_page", Some(&after)),
    ] {
        let threads = async |database: &Database| {
            let threads = checkpointer(database).threads(10, after).await;
            threads.unwrap();
        };
        golden.call(name, threads).await;
    }
}

async fn writes_alone(golden: &mut Golden) {
    let new = checkpoint(&fresh());
    golden
        .call("put", async |database| put(database, &new).await)
        .await;
    golden
        .call("put_again", async |database| put(database, &new).await)
        .await;
    let next = checkpoint(&new.thread_id);
    golden
        .call("put_next", async |database| {
            let next = NewCheckpoint {
                parent: Some(new.checkpoint.id.clone()),
                ..next
            };
            let options = PutOptions::following_latest();
            checkpointer(database).put(next, options).await.unwrap();
        })
        .await;
    for (name, channel) in [
        ("put_writes_first_stays", FIRST_WRITE_STAYS),
        ("put_writes_last_counts", LAST_WRITE_COUNTS),
    ] {
        let writes = writes(&new, channel);
        let call = async |database: &Database| put_writes(database, &writes).await;
        golden.call(name, call).await;
        golden.call(&format!("{name}_again"), call).await;
    }
    golden
        .call("put_in_unit_of_work", async |database| {
            let unit = database.begin().await.unwrap();
            let checkpointer = unit.checkpointer();
            let put = checkpointer.put(checkpoint(&fresh()), PutOptions::default());
            put.await.unwrap();
            unit.commit().await.unwrap();
        })
        .await;
}

async fn groups(golden: &mut Golden) {
    let (first, second) = (checkpoint(&fresh()), checkpoint(&fresh()));
    let both = async |database: &Database| {
        join_all([put(database, &first), put(database, &second)]).await;
    };
    golden.call("group_of_puts", both).await;
    golden.call("group_of_puts_again", both).await;
    let new = checkpoint(&fresh());
    let step = writes(&new, FIRST_WRITE_STAYS);
    golden
        .call("step", async |database| {
            tokio::join!(put(database, &new), put_writes(database, &step));
        })
        .await;
    let new = checkpoint(&fresh());
    let replacing = writes(&new, LAST_WRITE_COUNTS);
    let other = checkpoint(&fresh());
    golden
        .call("group_with_replacing_writes", async |database| {
            tokio::join!(
                put(database, &new),
                put(database, &other),
                put_writes(database, &replacing)
            );
        })
        .await;
}

async fn fenced_writes(golden: &mut Golden) {
    let new = checkpoint(&fresh());
    golden
        .call("put_raising", async |database| {
            put_fenced(database, Fence::Raise(1), &new).await;
        })
        .await;
    let next = checkpoint(&new.thread_id);
    let hold = async |database: &Database| put_fenced(database, Fence::Hold(1), &next).await;
    golden.call("put_holding", hold).await;
    golden.call("put_holding_again", hold).await;
    let refused = checkpoint(&new.thread_id);
    golden
        .call("put_refused", async |database| {
            let checkpointer = checkpointer(database);
            let refused = checkpointer.put(refused, Fence::Hold(7).into());
            refused.await.unwrap_err();
        })
        .await;
    let next = checkpoint(&new.thread_id);
    golden
        .call("put_next_holding", async |database| {
            let next = NewCheckpoint {
                parent: checkpointer(database)
                    .get(&CheckpointSelector::latest(new.thread_id.clone()))
                    .await
                    .unwrap()
                    .map(|latest| latest.checkpoint.id),
                ..next
            };
            let options = PutOptions::following_latest().fenced(Fence::Hold(1));
            checkpointer(database).put(next, options).await.unwrap();
        })
        .await;
    let mut epoch = 1;
    for (name, channel) in [
        ("put_writes_first_stays", FIRST_WRITE_STAYS),
        ("put_writes_last_counts", LAST_WRITE_COUNTS),
    ] {
        epoch += 1;
        let writes = writes(&new, channel);
        for (how, fence) in [
            ("raising", Fence::Raise(epoch)),
            ("holding", Fence::Hold(epoch)),
        ] {
            let call = async |database: &Database| {
                let checkpointer = checkpointer(database);
                let written = checkpointer.put_writes(writes.clone(), Some(fence));
                written.await.unwrap();
            };
            golden.call(&format!("{name}_{how}"), call).await;
        }
    }
    golden
        .call("raise_epoch", async |database| {
            let checkpointer = checkpointer(database);
            let done = checkpointer.raise_epoch(&new.thread_id, epoch + 1).await;
            done.unwrap();
        })
        .await;
}

async fn fenced_groups(golden: &mut Golden) {
    let threads = [fresh(), fresh()];
    for thread in &threads {
        put_fenced(&golden.database, Fence::Raise(1), &checkpoint(thread)).await;
    }
    let [first, second] = threads.map(|thread| checkpoint(&thread));
    let both = async |database: &Database| {
        let hold = |new| put_fenced(database, Fence::Hold(1), new);
        join_all([hold(&first), hold(&second)]).await;
    };
    golden.call("fenced_group", both).await;
    golden.call("fenced_group_again", both).await;
}

async fn maintenance(golden: &mut Golden) {
    let thread = stored_thread(golden).await;
    put(&golden.database, &checkpoint(&thread.thread_id)).await;
    let copy = fresh();
    golden
        .call("copy_thread", async |database| {
            let checkpointer = checkpointer(database);
            let done = checkpointer.copy_thread(&thread.thread_id, &copy).await;
            done.unwrap();
        })
        .await;
    golden
        .call("prune_to_latest", async |database| {
            let checkpointer = checkpointer(database);
            let done = checkpointer.prune(&[copy], PruneStrategy::KeepLatest).await;
            done.unwrap();
        })
        .await;
    golden
        .call("delete_for_runs", async |database| {
            let checkpointer = checkpointer(database);
            let run = thread.thread_id.to_string();
            let done = checkpointer.delete_for_runs(&[run]).await;
            done.unwrap();
        })
        .await;
    golden
        .call("delete_thread", async |database| {
            let checkpointer = checkpointer(database);
            let done = checkpointer.delete_thread(&thread.thread_id).await;
            done.unwrap();
        })
        .await;
}

fn checkpointer(database: &Database) -> std::sync::Arc<dyn Checkpointer> {
    database.checkpointer()
}

fn fresh() -> ThreadId {
    Uuid::now_v7().to_string().into()
}

/// A checkpoint and the writes of a task.
async fn stored_thread(golden: &Golden) -> NewCheckpoint {
    let new = checkpoint(&fresh());
    put(&golden.database, &new).await;
    put_writes(&golden.database, &writes(&new, FIRST_WRITE_STAYS)).await;
    new
}

/// The next of a thread, with one value.
pub(super) fn checkpoint(thread: &ThreadId) -> NewCheckpoint {
    let version = Version::next(None);
    let mut checkpoint = Checkpoint::after(None);
    let value = ChannelValue::Stored(Value::from_parts("msgpack", vec![1]));
    checkpoint
        .channel_values
        .insert("messages".to_owned(), value);
    checkpoint
        .channel_versions
        .insert("messages".to_owned(), version.clone());
    NewCheckpoint {
        thread_id: thread.clone(),
        namespace: Namespace::root(),
        parent: None,
        checkpoint,
        // A run a thread: what deletes one writes to no other.
        metadata: CheckpointMetadata::new(CheckpointSource::Loop, 0)
            .with("run_id", thread.to_string()),
        new_versions: BTreeMap::from([("messages".to_owned(), version)]),
    }
}

pub(super) fn writes(of: &NewCheckpoint, channel: &str) -> NewWrites {
    NewWrites {
        key: of.key(),
        task_id: "task".to_owned(),
        task_path: String::new(),
        writes: vec![ChannelWrite {
            channel: channel.to_owned(),
            value: Value::from_parts("msgpack", vec![1]),
        }],
    }
}

async fn put(database: &Database, new: &NewCheckpoint) {
    put_asking(database, new, PutOptions::default()).await;
}

async fn put_fenced(database: &Database, fence: Fence, new: &NewCheckpoint) {
    put_asking(database, new, fence.into()).await;
}

async fn put_asking(database: &Database, new: &NewCheckpoint, options: PutOptions) {
    let put = checkpointer(database).put(new.clone(), options).await;
    put.unwrap();
}

async fn put_writes(database: &Database, writes: &NewWrites) {
    let written = checkpointer(database)
        .put_writes(writes.clone(), None)
        .await;
    written.unwrap();
}
