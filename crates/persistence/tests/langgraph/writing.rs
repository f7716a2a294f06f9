use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, Checkpoint, CheckpointKey, CheckpointSelector, Checkpointer, NewCheckpoint,
    NewWrites, PutOptions, Stores, Value,
    checkpoint::{ChannelWrite, CheckpointMetadata, CheckpointSource, TASKS, Version},
};

use crate::{
    database::TestDatabase,
    description::{assert_same, describe, threads},
};

#[tokio::test]
async fn what_we_write_their_savers_read_equal() {
    let database = TestDatabase::create().await;
    let ours = database.connect().await;
    let checkpointer = ours.checkpointer();
    let first = first_checkpoint();
    let second = second_checkpoint(&first);
    let nested = NewCheckpoint {
        namespace: "child:11111111-1111-1111-1111-111111111111".into(),
        metadata: metadata(0).with("parents", json!({"": first.checkpoint.id})),
        ..first_checkpoint()
    };
    for checkpoint in [&first, &second, &nested] {
        checkpointer
            .put(checkpoint.clone(), PutOptions::default())
            .await
            .unwrap();
    }
    let pending_writes = put_pending_writes(&*checkpointer, &second.key()).await;

    for written in [&first, &second, &nested] {
        let read = checkpointer.get(&written.key().into()).await.unwrap();
        assert_eq!(read.unwrap().checkpoint, written.checkpoint);
    }
    let mut changed = decoded_values();
    changed["list"] = json!(["changed"]);
    let mut expected = [
        decoded(&nested, decoded_values(), json!([])),
        decoded(&second, changed, pending_writes),
        decoded(&first, decoded_values(), json!([])),
    ];
    expected.sort_by_key(|item| item["checkpoint"]["id"].to_string());
    expected.reverse();
    let theirs = database.describe("decoded", &[]).await;
    assert_same(&json!({"ours": expected}), &theirs);

    let channels = ["log", "list", "map", "text", "count"];
    let theirs = database.describe("stored", &channels).await;
    assert_same(&describe(&*checkpointer, &channels).await, &theirs);
    ours.close().await;
    database.remove().await;
}

#[tokio::test]
async fn the_sends_of_an_old_format_are_read_from_the_parent() {
    let database = TestDatabase::create().await;
    let ours = database.connect().await;
    let checkpointer = ours.checkpointer();
    let mut parent = first_checkpoint();
    parent.checkpoint.v = 3;
    // The savers look for the greatest version here, which takes versions of one kind.
    let one = Version::next(None);
    let versions = parent.checkpoint.channel_versions.values_mut();
    versions.for_each(|version| *version = one.clone());
    parent.new_versions = parent.checkpoint.channel_versions.clone();
    let child = second_checkpoint(&parent);
    checkpointer
        .put(parent.clone(), PutOptions::default())
        .await
        .unwrap();
    checkpointer
        .put(child.clone(), PutOptions::default())
        .await
        .unwrap();
    // The path counts before the task.
    for (task, path, node) in [("a", "~2", "later"), ("b", "~1", "sooner")] {
        let send = send(node);
        let writes = [
            (TASKS, send.clone()),
            ("list", encoded(json!([]))),
            (TASKS, send),
        ];
        put_writes(&*checkpointer, &parent.key(), task, path, writes).await;
    }

    let theirs = database.describe("decoded", &[]).await;
    assert_eq!(
        theirs["ours"][0]["pending_sends"],
        json!([
            {"node": "sooner", "arg": {"x": 1}},
            {"node": "sooner", "arg": {"x": 1}},
            {"node": "later", "arg": {"x": 1}},
            {"node": "later", "arg": {"x": 1}},
        ])
    );
    assert_eq!(theirs["ours"][1]["pending_sends"], json!([]));
    let theirs = database.describe("stored", &["list"]).await;
    assert_same(&describe(&*checkpointer, &["list"]).await, &theirs);
    ours.close().await;
    database.remove().await;
}

#[tokio::test]
async fn a_graph_goes_on_from_a_checkpoint_that_we_put_on_its_thread() {
    let database = TestDatabase::create().await;
    database.python("graph.py", &["async", "start"]).await;
    let ours = database.connect().await;
    let checkpointer = ours.checkpointer();
    let latest = CheckpointSelector::latest("waiting");
    let put = put_update(&*checkpointer, "waiting", "steps", json!(41)).await;

    let states = database
        .python("graph.py", &["sync", "resume", "waiting"])
        .await;
    let states: Json = serde_json::from_str(&states).unwrap();
    assert_eq!(states["waiting"]["steps"], 41);
    assert_eq!(states["waiting"]["approved"], true);
    let log = states["waiting"]["log"].as_array().unwrap();
    assert_eq!(
        log.first().unwrap(),
        "question",
        "the delta channel reads across our checkpoint"
    );
    assert_eq!(log.last().unwrap(), "beside");

    let channels = ["log", "messages", "steps"];
    let theirs = database.describe("stored", &channels).await;
    assert_same(&describe(&*checkpointer, &channels).await, &theirs);
    let mut line = checkpointer.get(&latest).await.unwrap().unwrap();
    while line.key != put {
        let parent = CheckpointKey {
            checkpoint_id: line.parent.expect("their checkpoints follow ours"),
            ..line.key
        };
        line = checkpointer.get(&parent.into()).await.unwrap().unwrap();
    }
    ours.close().await;
    database.remove().await;
}

#[tokio::test]
async fn threads_are_listed_by_our_last_checkpoint_and_before_it_by_theirs() {
    let database = TestDatabase::create().await;
    database.python("old_database.py", &["9"]).await;
    let ours = database.connect().await;
    let checkpointer = ours.checkpointer();
    assert_eq!(threads(&*checkpointer).await, ["a", "b", "c"]);
    put_update(&*checkpointer, "c", "note", json!("ours")).await;
    assert_eq!(threads(&*checkpointer).await, ["c", "a", "b"]);

    database.python("graph.py", &["sync", "start"]).await;
    put_update(&*checkpointer, "b", "note", json!("ours")).await;
    // The threads that their saver has begun since are listed when we first write to them.
    assert_eq!(threads(&*checkpointer).await, ["b", "c", "a"]);
    ours.close().await;
    database.remove().await;
}

#[tokio::test]
async fn a_thread_that_we_delete_is_gone_for_their_savers() {
    let database = TestDatabase::create().await;
    database.python("graph.py", &["sync", "start"]).await;
    let ours = database.connect().await;
    let mut expected = database.describe("stored", &["log"]).await;
    expected.as_object_mut().unwrap().remove("answered");

    let thread = "answered".into();
    ours.checkpointer().delete_thread(&thread).await.unwrap();
    assert_same(&expected, &database.describe("stored", &["log"]).await);
    let rows = database.rows().await;
    let left = rows
        .iter()
        .find(|row| row.contains(r#""thread_id": "answered""#));
    assert_eq!(left, None);
    assert_eq!(threads(&*ours.checkpointer()).await, ["failed", "waiting"]);
    ours.close().await;
    database.remove().await;
}

/// A checkpoint with values of every kind, and with versions of every kind.
fn first_checkpoint() -> NewCheckpoint {
    let mut checkpoint = Checkpoint::after(None);
    for (channel, value) in inline_values().as_object().unwrap() {
        let value = ChannelValue::Inline(value.clone());
        checkpoint.channel_values.insert(channel.clone(), value);
    }
    let stored = [
        (
            "list",
            encoded(json!([1, -2, "three", [4.5, null], {"k": true}])),
        ),
        (
            "map",
            encoded(json!({"nested": {"é 🦀": [0.1]}, "none": null})),
        ),
        ("bytes", Value::from_parts("bytes", vec![0, 255, 10])),
        ("stored null", Value::from_parts("null", Vec::new())),
    ];
    for (channel, value) in stored {
        let value = ChannelValue::Stored(value);
        checkpoint.channel_values.insert(channel.into(), value);
    }
    let snapshot = ChannelValue::DeltaSnapshot(extension(7, &["a".into(), "b".into()]));
    checkpoint.channel_values.insert("log".into(), snapshot);

    let channels = checkpoint.channel_values.keys().cloned();
    let versions = channels.map(|channel| (channel, Version::next(None)));
    checkpoint.channel_versions = versions.collect();
    let versions = &mut checkpoint.channel_versions;
    versions.insert("map".into(), Version::Integer(3));
    versions.insert("bytes".into(), Version::Float(2.5));
    versions.insert("without value".into(), Version::Float(2.0));
    let seen = [("list".into(), versions["list"].clone())].into();
    checkpoint.versions_seen = [("node".into(), seen), ("__input__".into(), [].into())].into();
    checkpoint
        .extra
        .insert("updated_channels".into(), json!(["list", "log"]));

    NewCheckpoint {
        thread_id: "ours".into(),
        namespace: "".into(),
        parent: None,
        new_versions: checkpoint.channel_versions.clone(),
        checkpoint,
        metadata: metadata(-1),
    }
}

/// A checkpoint that follows, with another value of one channel.
fn second_checkpoint(first: &NewCheckpoint) -> NewCheckpoint {
    let mut checkpoint = first.checkpoint.clone();
    checkpoint.id = Checkpoint::after(Some(&first.checkpoint.id)).id;
    let value = ChannelValue::Stored(encoded(json!(["changed"])));
    checkpoint.channel_values.insert("list".into(), value);
    let version = Version::next(checkpoint.channel_versions.get("list"));
    checkpoint
        .channel_versions
        .insert("list".into(), version.clone());
    NewCheckpoint {
        parent: Some(first.checkpoint.id.clone()),
        checkpoint,
        metadata: metadata(0),
        new_versions: [("list".into(), version)].into(),
        ..first.clone()
    }
}

fn metadata(step: i64) -> CheckpointMetadata {
    CheckpointMetadata::new(CheckpointSource::Loop, step)
        .with("run_id", "run")
        .with("counters_since_delta_snapshot", json!({"log": [1, 1]}))
        .with("nested", json!({"é": [null, 0.1, {"x": true}]}))
}

fn inline_values() -> Json {
    json!({
        "text": "é 🦀 \"quoted\" \\ \n\t",
        "empty": "",
        "count": 7,
        "least": i64::MIN,
        "greatest": u64::MAX,
        "ratio": 0.1,
        "whole": 2.0,
        "tiny": 5e-324,
        "yes": true,
        "no": false,
        "nothing": null,
    })
}

/// The values of the first checkpoint, as Python objects.
fn decoded_values() -> Json {
    let mut values = inline_values();
    let stored = json!({
        "list": [1, -2, "three", [4.5, null], {"k": true}],
        "map": {"nested": {"é 🦀": [0.1]}, "none": null},
        "bytes": {"bytes": "00ff0a"},
        "stored null": null,
        "log": {"snapshot": ["a", "b"]},
    });
    let stored = stored.as_object().unwrap().clone();
    values.as_object_mut().unwrap().extend(stored);
    values
}

/// What `describe.py decoded` should print for a checkpoint.
fn decoded(new: &NewCheckpoint, values: Json, pending_writes: Json) -> Json {
    let checkpoint = &new.checkpoint;
    json!({
        "checkpoint_ns": new.namespace,
        "parent": new.parent,
        "checkpoint": {
            "v": checkpoint.v,
            "id": checkpoint.id,
            "ts": checkpoint.ts,
            "channel_values": values,
            "channel_versions": checkpoint.channel_versions,
            "versions_seen": checkpoint.versions_seen,
            "updated_channels": ["list", "log"],
        },
        "metadata": new.metadata,
        "pending_writes": pending_writes,
        "pending_sends": [],
        "histories": {},
    })
}

/// Puts pending writes of every kind on a checkpoint; returns them as they should read.
async fn put_pending_writes(checkpointer: &dyn Checkpointer, key: &CheckpointKey) -> Json {
    let text = |text: &str| encoded(json!(text));
    let calls = [
        (
            "z",
            "~1",
            vec![("list", text("first")), ("count", text("also"))],
        ),
        ("z", "~1", vec![("list", text("late, so ignored"))]),
        ("B", "~2", vec![("__error__", text("replaced"))]),
        ("B", "~2", vec![("__error__", text("replaces"))]),
        (
            "a",
            "~2",
            vec![("__interrupt__", text("why?")), ("__resume__", text("so"))],
        ),
        (
            "y",
            "~10",
            vec![("list", text("first")), ("__error__", text("mixed"))],
        ),
        (
            "y",
            "~10",
            vec![("list", text("late")), ("__error__", text("late"))],
        ),
        ("y", "~10", vec![("__scheduled__", text("planned"))]),
        ("no path", "", vec![("list", text("before all"))]),
    ];
    for (task, path, writes) in calls {
        put_writes(checkpointer, key, task, path, writes).await;
    }
    // By path, task and index, each in the order of bytes.
    json!([
        ["no path", "", 0, "list", "before all"],
        ["z", "~1", 0, "list", "first"],
        ["z", "~1", 1, "count", "also"],
        ["y", "~10", -2, "__scheduled__", "planned"],
        ["y", "~10", -1, "__error__", "mixed"],
        ["y", "~10", 0, "list", "first"],
        ["B", "~2", -1, "__error__", "replaces"],
        ["a", "~2", -4, "__resume__", "so"],
        ["a", "~2", -3, "__interrupt__", "why?"],
    ])
}

async fn put_writes(
    checkpointer: &dyn Checkpointer,
    key: &CheckpointKey,
    task: &str,
    path: &str,
    writes: impl IntoIterator<Item = (&'static str, Value)>,
) {
    let writes = writes.into_iter().map(|(channel, value)| ChannelWrite {
        channel: channel.into(),
        value,
    });
    let writes = NewWrites {
        key: key.clone(),
        task_id: task.into(),
        task_path: path.into(),
        writes: writes.collect(),
    };
    checkpointer.put_writes(writes, None).await.unwrap();
}

/// Puts a checkpoint behind the latest of a thread, with one channel set.
async fn put_update(
    checkpointer: &dyn Checkpointer,
    thread: &str,
    channel: &str,
    value: Json,
) -> CheckpointKey {
    let latest = CheckpointSelector::latest(thread);
    let latest = checkpointer.get(&latest).await.unwrap().unwrap();
    let mut checkpoint = latest.checkpoint;
    let parent = std::mem::replace(
        &mut checkpoint.id,
        Checkpoint::after(Some(&latest.key.checkpoint_id)).id,
    );
    let version = Version::next(checkpoint.channel_versions.get(channel));
    checkpoint
        .channel_versions
        .insert(channel.into(), version.clone());
    checkpoint
        .channel_values
        .insert(channel.into(), ChannelValue::Inline(value));
    let step = latest.metadata.step().unwrap();
    let new = NewCheckpoint {
        thread_id: thread.into(),
        namespace: latest.key.namespace,
        parent: Some(parent),
        checkpoint,
        metadata: latest
            .metadata
            .with("source", "update")
            .with("step", step + 1),
        new_versions: [(channel.into(), version)].into(),
    };
    checkpointer.put(new, PutOptions::default()).await.unwrap()
}

fn encoded(value: Json) -> Value {
    Value::encode(&value).unwrap()
}

/// LangGraph's `Send`.
fn send(node: &str) -> Value {
    let argument = rmpv::Value::Map(vec![("x".into(), 1.into())]);
    let arguments = rmpv::Value::Array(vec![node.into(), argument]);
    extension(1, &["langgraph.types".into(), "Send".into(), arguments])
}

fn extension(code: i8, items: &[rmpv::Value]) -> Value {
    let pack = |value: &rmpv::Value| {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    };
    let items = pack(&rmpv::Value::Array(items.to_vec()));
    Value::from_parts("msgpack", pack(&rmpv::Value::Ext(code, items)))
}
