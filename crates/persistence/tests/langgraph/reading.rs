use serde_json::Value as Json;
use yai_agentkit_core::{ChannelValue, CheckpointQuery, Stores, checkpoint::PruneStrategy};

use crate::{
    database::TestDatabase,
    description::{assert_same, describe, threads},
};

/// Channels of `graph.py` with values of each kind: delta, stored, inline.
const CHANNELS: [&str; 4] = ["log", "messages", "steps", "ratio"];

#[tokio::test]
async fn a_graph_run_on_the_sync_saver_reads_as_it_reads_there() {
    a_graph_run_reads_as_it_reads_there("sync").await;
}

#[tokio::test]
async fn a_graph_run_on_the_async_saver_reads_as_it_reads_there() {
    a_graph_run_reads_as_it_reads_there("async").await;
}

async fn a_graph_run_reads_as_it_reads_there(mode: &str) {
    let database = TestDatabase::create().await;
    database.python("graph.py", &[mode, "start"]).await;
    let rows = database.rows().await;
    let theirs = database.describe("stored", &CHANNELS).await;
    assert_run_is_worth_comparing(&theirs);

    let ours = database.connect().await;
    assert_eq!(database.rows().await, rows);
    assert_same(&describe(&*ours.checkpointer(), &CHANNELS).await, &theirs);
    let all = CheckpointQuery::default();
    let tuples = ours.checkpointer().list(&all).await.unwrap();
    let mut logs = tuples
        .iter()
        .filter_map(|tuple| tuple.checkpoint.channel_values.get("log"));
    assert!(logs.any(|log| matches!(log, ChannelValue::DeltaSnapshot(_))));
    assert_eq!(
        threads(&*ours.checkpointer()).await,
        ["answered", "failed", "waiting"]
    );
    ours.close().await;
    database.remove().await;
}

/// The comparison shows little unless the run wrote what is hard to read.
fn assert_run_is_worth_comparing(description: &Json) {
    let text = description.to_string();
    for expected in [
        r#""__interrupt__""#,
        r#""__error__""#,
        r#""__resume__""#,
        r#""__pregel_tasks""#,
        r#""checkpoint_ns":"nested:"#,
        r#""source":"update""#,
        r#""counters_since_delta_snapshot":{"log":"#,
    ] {
        assert!(text.contains(expected), "{expected}");
    }
    // MessagePack's extension of up to 255 bytes with LangGraph's code for a snapshot.
    let mut stored = text.split(r#""hex":"c7"#).skip(1);
    assert!(stored.any(|hex| hex[2..].starts_with("07")), "no snapshot");
}

#[tokio::test]
async fn a_graph_goes_on_from_what_we_copied_and_pruned_as_from_its_own() {
    let database = TestDatabase::create().await;
    database.python("graph.py", &["sync", "start"]).await;
    let ours = database.connect().await;
    let checkpointer = ours.checkpointer();
    for (source, target) in [("answered", "pruned"), ("waiting", "copied")] {
        let (source, target) = (source.into(), target.into());
        checkpointer.copy_thread(&source, &target).await.unwrap();
    }
    checkpointer
        .prune(&["pruned".into()], PruneStrategy::KeepLatest)
        .await
        .unwrap();

    let names = ["answered", "pruned", "waiting", "copied"];
    let arguments = [&["async", "resume"], &names[..]].concat();
    let states = database.python("graph.py", &arguments).await;
    let states: Json = serde_json::from_str(&states).unwrap();
    assert_eq!(states["answered"]["approved"], true);
    assert_same(&states["pruned"], &states["answered"]);
    assert_same(&states["copied"], &states["waiting"]);
    let theirs = database.describe("stored", &CHANNELS).await;
    assert_same(&describe(&*checkpointer, &CHANNELS).await, &theirs);
    ours.close().await;
    database.remove().await;
}
