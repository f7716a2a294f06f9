//! Deleting the checkpoints of runs.

use std::sync::Arc;

use yai_agentkit_core::{
    ChannelValue, CheckpointId, Fence, NewCheckpoint, Storage, checkpoint::TASKS,
};

use super::{
    Case,
    fixtures::{Draft, TestThread, fresh, packed, put_delta_chain, stored, version},
};

pub(super) const CASES: &[Case] = cases!["runs":
    the_checkpoints_of_the_runs_go_and_others_stay_as_they_were,
    runs_go_from_every_thread_and_namespace,
    values_that_another_run_uses_stay,
    ancestors_of_a_kept_delta_channel_stay,
    a_parent_with_sends_of_a_kept_checkpoint_stays,
    a_thread_without_checkpoints_goes,
    a_thread_that_was_raised_stays_its_owners,
    a_run_is_its_exact_id,
    no_runs_and_unknown_runs_change_nothing,
];

async fn the_checkpoints_of_the_runs_go_and_others_stay_as_they_were(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let (kept, deleted, also_deleted) = (fresh(), fresh(), fresh());
    let runs: [&str; 5] = [&kept, &deleted, &kept, &kept, &also_deleted];
    let ids = put_runs(&thread, &runs).await;
    let mut expected = Vec::new();
    for position in [3, 2, 0] {
        expected.push(thread.get(&ids[position]).await);
    }
    // Of these only the third followed one that goes.
    expected[1].parent = None;
    delete_for_runs(&storage, &[&deleted, &also_deleted]).await;
    assert_eq!(thread.list().await, expected);
    let count = |position: i64| version(position + 1);
    assert_eq!(thread.stored_value("run", count(1)).await, None);
    assert_eq!(thread.stored_value("run", count(4)).await, None);
    assert!(thread.stored_value("run", count(2)).await.is_some());

    // Nothing of them is left for whoever takes their place.
    let mut again = thread.draft(None);
    again.checkpoint.id = ids[1].clone();
    thread.put(&again).await;
    assert_eq!(thread.get(&ids[1]).await.pending_writes, []);
}

async fn runs_go_from_every_thread_and_namespace(storage: Arc<dyn Storage>) {
    let (kept, deleted) = (fresh(), fresh());
    let mut graphs = Vec::new();
    for _ in 0..2 {
        let thread = TestThread::new(&storage);
        graphs.push(thread.within("child:1"));
        graphs.push(thread);
    }
    let mut expected = Vec::new();
    for graph in &graphs {
        expected.push(put_runs(graph, &[&kept, &deleted]).await.remove(0));
    }
    delete_for_runs(&storage, &[&deleted]).await;
    for (graph, id) in graphs.iter().zip(expected) {
        assert_eq!(graph.ids().await, [id]);
    }
}

async fn values_that_another_run_uses_stay(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let (kept, deleted) = (fresh(), fresh());
    let first = thread
        .draft(None)
        .value("shared", version(1), stored(&["value"]))
        .metadata("run_id", deleted.as_str());
    let first = thread.put(&first).await;
    let second = thread
        .draft(Some(&first))
        .unchanged("shared", version(1))
        .metadata("run_id", kept.as_str());
    let second = thread.put(&second).await;
    let mut expected = thread.get(&second).await;
    assert_eq!(expected.checkpoint.channel_values.len(), 1);
    expected.parent = None;
    delete_for_runs(&storage, &[&deleted]).await;
    assert_eq!(thread.list().await, [expected]);
}

async fn ancestors_of_a_kept_delta_channel_stay(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let (kept, deleted) = (fresh(), fresh());
    let snapshot = Some(ChannelValue::DeltaSnapshot(packed("snapshot")));
    let chain = put_delta_chain(&thread, &[None, snapshot, None, None]).await;
    for (position, draft) in chain.iter().enumerate() {
        let run = if position == 3 { &kept } else { &deleted };
        thread
            .put(&draft.clone().metadata("run_id", run.as_str()))
            .await;
    }
    let before = thread.delta_history("delta", None).await;
    let mut expected = thread.list().await;
    expected.pop();
    expected[2].parent = None;
    delete_for_runs(&storage, &[&deleted]).await;
    assert_eq!(thread.list().await, expected);
    assert_eq!(thread.delta_history("delta", None).await, before);
}

async fn a_parent_with_sends_of_a_kept_checkpoint_stays(storage: Arc<dyn Storage>) {
    for (channel, left) in [(TASKS, 2), ("other", 1)] {
        let thread = TestThread::new(&storage);
        let (kept, deleted) = (fresh(), fresh());
        let parent = put_runs(&thread, &[&deleted]).await.remove(0);
        thread.write(&parent, "sender", &[(channel, "send")]).await;
        let mut draft = thread
            .draft(Some(&parent))
            .metadata("run_id", kept.as_str());
        draft.checkpoint.v = 3;
        let id = thread.put(&draft).await;
        let sends = thread.get(&id).await.pending_sends;
        delete_for_runs(&storage, &[&deleted]).await;
        assert_eq!(thread.list().await.len(), left);
        assert_eq!(thread.get(&id).await.pending_sends, sends);
    }
}

async fn a_thread_without_checkpoints_goes(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let deleted = fresh();
    put_runs(&thread, &[&deleted, &deleted]).await;
    put_runs(&thread.within("child"), &[&deleted]).await;
    let ahead = CheckpointId::after(None);
    thread.write(&ahead, "task", &[("a", "early")]).await;
    delete_for_runs(&storage, &[&deleted]).await;
    assert_eq!(thread.list().await, []);
    // It is gone: a copy may take its place, and finds nothing there.
    let source = thread.called(fresh());
    source.put_chain(1).await;
    source.copy_to(&thread.id).await.unwrap();
    let mut draft = thread.draft(None);
    draft.checkpoint.id = ahead.clone();
    thread.put(&draft).await;
    assert_eq!(thread.get(&ahead).await.pending_writes, []);
}

async fn a_run_is_its_exact_id(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let run = fresh();
    let names = [
        run.to_uppercase(),
        format!("{run} "),
        format!("{run}%"),
        format!("'{run}"),
        run[1..].to_owned(),
    ];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    put_runs(&thread, &names).await;
    let nested = thread.draft(None).metadata("run_id", vec![run.as_str()]);
    thread.put(&nested).await;
    let other = thread.draft(None).metadata("other", run.as_str());
    thread.put(&other).await;
    let before = thread.list().await;
    delete_for_runs(&storage, &[&run]).await;
    assert_eq!(thread.list().await, before);
}

async fn no_runs_and_unknown_runs_change_nothing(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    put_runs(&thread, &[&fresh(), &fresh()]).await;
    thread.put(&thread.draft(None)).await;
    let before = thread.list().await;
    delete_for_runs(&storage, &[]).await;
    delete_for_runs(&storage, &[&fresh(), ""]).await;
    assert_eq!(thread.list().await, before);
}

/// A chain with a checkpoint for each run, with a value and a write of its own.
async fn put_runs(graph: &TestThread, runs: &[&str]) -> Vec<CheckpointId> {
    let mut ids: Vec<CheckpointId> = Vec::new();
    for (count, run) in (1..).zip(runs) {
        let draft: NewCheckpoint = graph
            .draft(ids.last())
            .value("run", version(count), stored(&[run]))
            .metadata("run_id", *run);
        let id = graph.put(&draft).await;
        graph.write(&id, "task", &[("a", "1")]).await;
        ids.push(id);
    }
    ids
}

async fn delete_for_runs(storage: &Arc<dyn Storage>, runs: &[&str]) {
    let runs: Vec<String> = runs.iter().map(|run| (*run).to_owned()).collect();
    let deleted = storage.checkpointer().delete_for_runs(&runs).await;
    deleted.unwrap();
}

async fn a_thread_that_was_raised_stays_its_owners(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let run = fresh();
    put_runs(&thread, &[&run]).await;
    let checkpointer = storage.checkpointer();
    checkpointer.raise_epoch(&thread.id, 1).await.unwrap();
    let deleted = checkpointer.delete_for_runs(&[run.to_string()]).await;
    deleted.unwrap();
    assert!(thread.ids().await.is_empty());
    let put = checkpointer
        .put(thread.draft(None), Fence::Hold(1).into())
        .await;
    put.unwrap();
}
