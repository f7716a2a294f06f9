use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, CheckpointQuery, CheckpointSelector, CheckpointTuple, Checkpointer, Value,
    checkpoint::{DeltaChannelHistory, PendingWrite, Thread},
};

/// What we read, in the shape of `describe.py stored`.
pub(crate) async fn describe(checkpointer: &dyn Checkpointer, channels: &[&str]) -> Json {
    let channels: Vec<String> = channels.iter().map(|&channel| channel.to_owned()).collect();
    let mut described = Map::new();
    for thread in threads(checkpointer).await {
        let tuples = checkpointer
            .list(&CheckpointQuery::of(thread.clone()))
            .await
            .unwrap();
        let mut checkpoints = Vec::new();
        for tuple in tuples {
            let selector = CheckpointSelector::from(tuple.key.clone());
            let same = checkpointer.get(&selector).await.unwrap();
            assert_eq!(same.as_ref(), Some(&tuple));
            let histories = checkpointer
                .delta_channel_history(&selector, &channels)
                .await
                .unwrap();
            checkpoints.push(checkpoint(&tuple, &histories));
        }
        described.insert(thread, checkpoints.into());
    }
    described.into()
}

/// The ids of all threads, the last written first.
pub(crate) async fn threads(checkpointer: &dyn Checkpointer) -> Vec<String> {
    let page = checkpointer.threads(100, None).await.unwrap();
    assert!(page.next.is_none());
    let id = |thread: Thread| thread.id.to_string();
    page.items.into_iter().map(id).collect()
}

fn checkpoint(tuple: &CheckpointTuple, histories: &BTreeMap<String, DeltaChannelHistory>) -> Json {
    let checkpoint = &tuple.checkpoint;
    let mut fields = checkpoint.extra.clone();
    let values = checkpoint.channel_values.iter();
    let values = values.map(|(name, value)| (name.clone(), channel_value(value)));
    fields.insert("v".into(), checkpoint.v.into());
    fields.insert("id".into(), checkpoint.id.as_str().into());
    fields.insert("ts".into(), checkpoint.ts.clone().into());
    fields.insert(
        "channel_values".into(),
        values.collect::<Map<_, _>>().into(),
    );
    fields.insert(
        "channel_versions".into(),
        json!(checkpoint.channel_versions),
    );
    fields.insert("versions_seen".into(), json!(checkpoint.versions_seen));

    let histories = histories.iter();
    let histories = histories.map(|(name, received)| (name.clone(), history(received)));
    let writes = tuple.pending_writes.iter().map(|write| {
        json!([
            write.task_id,
            write.task_path,
            write.index,
            write.channel,
            stored(&write.value)
        ])
    });
    json!({
        "checkpoint_ns": tuple.key.namespace,
        "parent": tuple.parent,
        "checkpoint": fields,
        "metadata": tuple.metadata,
        "pending_writes": writes.collect::<Vec<_>>(),
        "pending_sends": tuple.pending_sends.iter().map(stored).collect::<Vec<_>>(),
        "histories": histories.collect::<Map<_, _>>(),
    })
}

fn history(received: &DeltaChannelHistory) -> Json {
    let write = |write: &PendingWrite| json!([write.task_id, write.channel, stored(&write.value)]);
    let writes: Vec<Json> = received.writes.iter().map(write).collect();
    match &received.seed {
        Some(seed) => json!({"seed": channel_value(seed), "writes": writes}),
        None => json!({"writes": writes}),
    }
}

fn channel_value(value: &ChannelValue) -> Json {
    match value {
        ChannelValue::Inline(json) => json.clone(),
        ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value) => stored(value),
    }
}

fn stored(value: &Value) -> Json {
    let hex: String = value
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({"type": value.type_tag(), "hex": hex})
}

/// Equality, with a message that fits a screen.
#[track_caller]
pub(crate) fn assert_same(ours: &Json, theirs: &Json) {
    if let Some(difference) = difference("", ours, theirs) {
        panic!("{difference}");
    }
}

fn difference(path: &str, ours: &Json, theirs: &Json) -> Option<String> {
    match (ours, theirs) {
        (Json::Object(a), Json::Object(b)) if a.keys().eq(b.keys()) => a
            .iter()
            .find_map(|(key, value)| difference(&format!("{path}/{key}"), value, &b[key])),
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| difference(&format!("{path}/{i}"), a, b)),
        _ if ours == theirs => None,
        _ => Some(format!("{path}\n  ours:   {ours}\n  theirs: {theirs}")),
    }
}
