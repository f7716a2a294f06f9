//! What pruning keeps, and that it keeps it as it was.

use std::sync::Arc;

use serde_json::json;
use yai_agentkit_core::{
    ChannelValue, CheckpointId, CheckpointTuple, NewCheckpoint, Storage,
    checkpoint::{PruneStrategy, TASKS},
};

use super::{
    Case,
    fixtures::{Draft, TestThread, ascending_ids, fresh, packed, put_delta_chain, stored, version},
};

pub(super) const CASES: &[Case] = cases!["pruning":
    the_latest_of_every_namespace_stays_as_it_was,
    the_latest_is_the_greatest_id_on_whatever_fork,
    values_that_nothing_kept_uses_are_freed,
    a_delta_channel_keeps_its_ancestors_to_the_nearest_snapshot,
    a_delta_channel_without_a_value_keeps_its_ancestors_to_the_root,
    a_delta_channel_keeps_its_own_line_only,
    delta_channels_that_only_the_thread_is_marked_for_are_kept,
    a_channel_that_is_no_delta_channel_keeps_no_ancestor,
    before_format_4_the_parent_with_sends_stays,
    before_format_4_the_sends_of_the_parents_parent_go,
    a_finished_call_of_a_subgraph_goes,
    a_call_that_is_not_finished_stays,
    writes_before_their_checkpoint_stay,
    pruning_again_changes_nothing,
    other_threads_are_untouched,
    a_thread_that_never_was_is_no_error,
    delete_leaves_nothing,
    live_writers_lose_nothing,
];

async fn the_latest_of_every_namespace_stays_as_it_was(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut expected = Vec::new();
    for namespace in ["", "child", "child:1", "child|grandchild"] {
        let graph = thread.within(namespace);
        let chain = graph.put_chain(3).await;
        let parent = chain[2].checkpoint.id.clone();
        let draft = graph
            .draft(Some(&parent))
            .unchanged("step", version(2))
            .unchanged("absent", version(9))
            .value("inline", version(1), ChannelValue::Inline(0.1.into()));
        let id = graph.put(&draft).await;
        for (task, writes) in [
            ("b", [("a", "1"), ("a", "2")]),
            ("a", [("__interrupt__", "3"), ("a", "4")]),
        ] {
            graph.write(&id, task, &writes).await;
        }
        let mut tuple = graph.get(&id).await;
        let values = &tuple.checkpoint.channel_values;
        assert_eq!(values.get("step"), Some(&stored(&vec![2])));
        assert_eq!(tuple.parent.take(), Some(parent));
        expected.insert(0, tuple);
    }
    prune(&thread).await;
    assert_eq!(thread.list().await, expected);
}

async fn the_latest_is_the_greatest_id_on_whatever_fork(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let ids = ascending_ids(5);
    // The last written is not the latest, and the latest is on a fork.
    for (position, parent) in [(0, None), (4, Some(0)), (1, Some(0)), (3, Some(1))] {
        let parent = parent.map(|position: usize| &ids[position]);
        let count = i64::try_from(position).unwrap();
        let mut draft = thread
            .draft(parent)
            .value("own", version(count), stored(&[count]))
            .unchanged("first", version(0));
        if position == 0 {
            draft = draft.value("first", version(0), stored(&["shared"]));
        }
        draft.checkpoint.id = ids[position].clone();
        thread.put(&draft).await;
    }
    let mut expected = thread.get(&ids[4]).await;
    assert_eq!(expected.checkpoint.channel_values.len(), 2);
    expected.parent = None;
    prune(&thread).await;
    assert_eq!(thread.list().await, [expected]);
}

async fn values_that_nothing_kept_uses_are_freed(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let child = thread.within("child");
    child.put_chain(1).await;
    let chain = thread.put_chain(4).await;
    prune(&thread).await;
    for step in 1..=3 {
        assert_eq!(thread.stored_value("step", version(step)).await, None);
    }
    let kept = thread.stored_value("step", version(4)).await;
    assert_eq!(kept, Some(stored(&vec![4])));
    let elsewhere = child.stored_value("step", version(1)).await;
    assert_eq!(elsewhere, Some(stored(&vec![1])));
    // Writes of what is gone are gone too.
    thread.put(&chain[0]).await;
    let again = thread.get(&chain[0].checkpoint.id).await;
    assert_eq!(again.pending_writes, []);
}

async fn a_delta_channel_keeps_its_ancestors_to_the_nearest_snapshot(storage: Arc<dyn Storage>) {
    for seed in [
        ChannelValue::DeltaSnapshot(packed("snapshot")),
        stored(&["a plain value"]),
        ChannelValue::Inline("an inline value".into()),
    ] {
        let thread = TestThread::new(&storage);
        let values = [None, None, Some(seed.clone()), None, None, None];
        let chain = put_delta_chain(&thread, &values).await;
        let before = thread.delta_history("delta", None).await;
        assert_eq!(
            (before.seed.as_ref(), before.writes.len()),
            (Some(&seed), 3)
        );
        let expected = kept(&thread, &chain[2..]).await;
        prune(&thread).await;
        assert_eq!(thread.list().await, expected);
        assert_eq!(thread.delta_history("delta", None).await, before);
    }
}

async fn a_delta_channel_without_a_value_keeps_its_ancestors_to_the_root(
    storage: Arc<dyn Storage>,
) {
    let thread = TestThread::new(&storage);
    put_delta_chain(&thread, &[None, None, None, None]).await;
    let before = (
        thread.list().await,
        thread.delta_history("delta", None).await,
    );
    prune(&thread).await;
    let after = (
        thread.list().await,
        thread.delta_history("delta", None).await,
    );
    assert_eq!(after, before);
}

async fn a_delta_channel_keeps_its_own_line_only(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let snapshot = Some(ChannelValue::DeltaSnapshot(packed("snapshot")));
    let trunk = put_delta_chain(&thread, &[snapshot, None, None]).await;
    let fork = thread
        .draft(Some(&trunk[1].checkpoint.id))
        .unchanged("delta", version(99))
        .metadata("counters_since_delta_snapshot", json!({"delta": [2, 2]}));
    thread.put(&fork).await;
    let before = thread.delta_history("delta", None).await;
    let line = [trunk[0].clone(), trunk[1].clone(), fork];
    let expected = kept(&thread, &line).await;
    prune(&thread).await;
    assert_eq!(thread.list().await, expected);
    assert_eq!(thread.delta_history("delta", None).await, before);
}

async fn delta_channels_that_only_the_thread_is_marked_for_are_kept(storage: Arc<dyn Storage>) {
    // As LangGraph.js marks them: no counters, and every channel may be one.
    let thread = TestThread::new(&storage);
    let mut chain: Vec<NewCheckpoint> = Vec::new();
    for count in 1..=4 {
        let parent = chain.last().map(|parent| parent.checkpoint.id.clone());
        let mut draft = thread
            .draft(parent.as_ref())
            .unchanged("delta", version(count))
            .metadata("delta_writes_versioned", true);
        if count == 2 {
            let snapshot = ChannelValue::DeltaSnapshot(packed("snapshot"));
            draft = draft.value("delta", version(count), snapshot);
        }
        let id = thread.put(&draft).await;
        thread.write(&id, "task", &[("delta", "write")]).await;
        chain.push(draft);
    }
    let before = thread.delta_history("delta", None).await;
    let expected = kept(&thread, &chain[1..]).await;
    prune(&thread).await;
    assert_eq!(thread.list().await, expected);
    assert_eq!(thread.delta_history("delta", None).await, before);
}

async fn a_channel_that_is_no_delta_channel_keeps_no_ancestor(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut chain = thread.put_chain(3).await;
    let last = thread
        .draft(Some(&chain[2].checkpoint.id))
        .unchanged("consumed", version(1))
        .value("delta", version(1), stored(&["a value of its own"]))
        .metadata("counters_since_delta_snapshot", json!({"delta": [0, 0]}));
    thread.put(&last).await;
    chain.push(last);
    let expected = kept(&thread, &chain[3..]).await;
    prune(&thread).await;
    assert_eq!(thread.list().await, expected);
}

async fn before_format_4_the_parent_with_sends_stays(storage: Arc<dyn Storage>) {
    for (v, channel, count) in [(3, TASKS, 2), (4, TASKS, 1), (3, "other", 1)] {
        let thread = TestThread::new(&storage);
        let mut chain = thread.put_chain(2).await;
        let parent = chain[1].checkpoint.id.clone();
        thread.write(&parent, "task", &[(channel, "send")]).await;
        let mut last = thread.draft(Some(&parent));
        last.checkpoint.v = v;
        thread.put(&last).await;
        chain.push(last);
        let expected = kept(&thread, &chain[3 - count..]).await;
        assert_eq!(expected[0].pending_sends.len(), count - 1);
        prune(&thread).await;
        assert_eq!(thread.list().await, expected);
    }
}

async fn before_format_4_the_sends_of_the_parents_parent_go(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut chain: Vec<NewCheckpoint> = Vec::new();
    for _ in 0..50 {
        let parent = chain.last().map(|parent| parent.checkpoint.id.clone());
        let mut draft = thread.draft(parent.as_ref());
        draft.checkpoint.v = 3;
        let id = thread.put(&draft).await;
        thread.write(&id, "task", &[(TASKS, "send")]).await;
        chain.push(draft);
    }
    let mut expected = kept(&thread, &chain[48..]).await;
    expected[1].pending_sends.clear();
    assert_eq!(expected[0].pending_sends.len(), 1);
    prune(&thread).await;
    assert_eq!(thread.list().await, expected);
}

async fn a_finished_call_of_a_subgraph_goes(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let roots = thread.put_chain(2).await;
    let finished = thread.within("node:task-1");
    put_call(&finished, &roots[0].checkpoint.id).await;
    let nested = thread.within("node:task-1|inner:task-2");
    put_call(&nested, &roots[0].checkpoint.id).await;
    prune(&thread).await;
    assert_eq!(finished.ids().await, [] as [CheckpointId; 0]);
    assert_eq!(nested.ids().await, [] as [CheckpointId; 0]);
    assert_eq!(finished.stored_value("call", version(1)).await, None);
    assert_eq!(thread.ids().await, [roots[1].checkpoint.id.clone()]);
}

async fn a_call_that_is_not_finished_stays(storage: Arc<dyn Storage>) {
    for (namespace, root) in [
        ("running:task", 2),
        ("ahead of its root:task", 3),
        ("with a state of its own", 1),
    ] {
        let thread = TestThread::new(&storage);
        let ids = ascending_ids(4);
        for id in &ids[..3] {
            let mut draft = thread.draft(None);
            draft.checkpoint.id = id.clone();
            thread.put(&draft).await;
        }
        let graph = thread.within(namespace);
        let id = put_call(&graph, &ids[root]).await;
        let mut expected = graph.get(&id).await;
        expected.parent = None;
        prune(&thread).await;
        assert_eq!(graph.ids().await, std::slice::from_ref(&id), "{namespace}");
        assert_eq!(graph.get(&id).await, expected);
    }
    // Nor does a call that names no root.
    let thread = TestThread::new(&storage);
    thread.put_chain(1).await;
    let unknown = thread.within("unknown:task");
    let chain = unknown.put_chain(2).await;
    prune(&thread).await;
    assert_eq!(unknown.ids().await, [chain[1].checkpoint.id.clone()]);
}

async fn writes_before_their_checkpoint_stay(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let chain = thread.put_chain(2).await;
    let next = thread.draft(Some(&chain[1].checkpoint.id));
    let id = &next.checkpoint.id;
    thread.write(id, "task", &[("a", "early")]).await;
    prune(&thread).await;
    thread.put(&next).await;
    assert_eq!(thread.texts(id).await, ["early"]);

    // A thread of such writes alone has nothing to prune.
    let ahead = TestThread::new(&storage);
    let draft = ahead.draft(None);
    let id = &draft.checkpoint.id;
    ahead.write(id, "task", &[("a", "early")]).await;
    prune(&ahead).await;
    ahead.put(&draft).await;
    assert_eq!(ahead.texts(id).await, ["early"]);
}

async fn pruning_again_changes_nothing(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    thread.put_chain(3).await;
    prune(&thread).await;
    let before = thread.list().await;
    assert_eq!(before.len(), 1);
    prune(&thread).await;
    assert_eq!(thread.list().await, before);
}

async fn other_threads_are_untouched(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let (second, other) = (thread.called(fresh()), thread.called(fresh()));
    for thread in [&thread, &second, &other] {
        let chain = thread.put_chain(3).await;
        let id = &chain[0].checkpoint.id;
        thread.write(id, "task", &[("a", "1")]).await;
    }
    let before = other.list().await;
    let ids = [thread.id.clone(), second.id.clone(), thread.id.clone()];
    for (strategy, left) in [(PruneStrategy::KeepLatest, 1), (PruneStrategy::Delete, 0)] {
        storage.checkpointer().prune(&ids, strategy).await.unwrap();
        assert_eq!(thread.list().await.len(), left);
        assert_eq!(second.list().await.len(), left);
        assert_eq!(other.list().await, before);
    }
}

async fn a_thread_that_never_was_is_no_error(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let source = thread.called(fresh());
    source.put_chain(1).await;
    for strategy in [PruneStrategy::KeepLatest, PruneStrategy::Delete] {
        let checkpointer = storage.checkpointer();
        checkpointer.prune(&[], strategy).await.unwrap();
        let ids = [thread.id.clone(), source.id.clone()];
        checkpointer.prune(&ids[..1], strategy).await.unwrap();
    }
    // It was not made by that: a copy may take its place.
    source.copy_to(&thread.id).await.unwrap();
}

async fn delete_leaves_nothing(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let child = thread.within("child:1");
    for graph in [&thread, &child] {
        let chain = graph.put_chain(2).await;
        let id = &chain[1].checkpoint.id;
        graph.write(id, "task", &[("a", "1")]).await;
    }
    let ahead = CheckpointId::after(None);
    thread.write(&ahead, "task", &[("a", "early")]).await;
    let ids = [thread.id.clone()];
    let checkpointer = storage.checkpointer();
    checkpointer
        .prune(&ids, PruneStrategy::Delete)
        .await
        .unwrap();
    assert_eq!(thread.list().await, []);
    let source = thread.called(fresh());
    source.put_chain(1).await;
    source.copy_to(&thread.id).await.unwrap();
    assert_eq!(child.stored_value("step", version(2)).await, None);
    let mut draft = thread.draft(None);
    draft.checkpoint.id = ahead.clone();
    thread.put(&draft).await;
    assert_eq!(thread.get(&ahead).await.pending_writes, []);
}

async fn live_writers_lose_nothing(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let writers: Vec<_> = ["", "child", "node:task"]
        .map(|namespace| tokio::spawn(write_and_check(thread.within(namespace))))
        .into();
    let pruners = [(); 2].map(|()| {
        let thread = thread.clone();
        let handles: Vec<_> = writers
            .iter()
            .map(tokio::task::JoinHandle::abort_handle)
            .collect();
        tokio::spawn(async move {
            while !handles.iter().all(tokio::task::AbortHandle::is_finished) {
                prune(&thread).await;
                tokio::task::yield_now().await;
            }
        })
    });
    for task in writers.into_iter().chain(pruners) {
        task.await.expect("a task panicked");
    }
    prune(&thread).await;
    assert_eq!(thread.list().await.len(), 3);
}

/// Puts checkpoints that share a value with the first, and reads each back whole.
async fn write_and_check(graph: TestThread) {
    let mut parent = None;
    for step in 1..=40 {
        let mut draft = graph
            .draft(parent.as_ref())
            .value("step", version(step), stored(&vec![step]))
            .value("shared", version(0), stored(&["shared"]));
        if step > 1 {
            draft.new_versions.remove("shared");
        }
        let id = graph.put(&draft).await;
        graph.write(&id, "task", &[("a", "1")]).await;
        let tuple = graph.find(None).await.expect("the latest");
        assert_eq!(tuple.checkpoint, draft.checkpoint);
        assert_eq!(tuple.metadata, draft.metadata);
        assert_eq!(tuple.pending_writes.len(), 1);
        parent = Some(id);
    }
}

async fn prune(thread: &TestThread) {
    let ids = std::slice::from_ref(&thread.id);
    let pruned = thread.checkpointer.prune(ids, PruneStrategy::KeepLatest);
    pruned.await.unwrap();
}

/// What the list shows of a line of ancestors, newest first, once the parent of its first is gone.
async fn kept(thread: &TestThread, line: &[NewCheckpoint]) -> Vec<CheckpointTuple> {
    let mut tuples = Vec::new();
    for draft in line.iter().rev() {
        tuples.push(thread.get(&draft.checkpoint.id).await);
    }
    if let Some(oldest) = tuples.last_mut() {
        oldest.parent = None;
    }
    tuples
}

/// Two checkpoints of a subgraph that was called from `root`; the id of the latest.
async fn put_call(graph: &TestThread, root: &CheckpointId) -> CheckpointId {
    let parents = json!({"": root.as_str()});
    let first = graph
        .draft(None)
        .value("call", version(1), stored(&["value"]))
        .metadata("parents", parents.clone());
    let first = graph.put(&first).await;
    graph.write(&first, "task", &[("a", "1")]).await;
    let second = graph
        .draft(Some(&first))
        .unchanged("call", version(1))
        .metadata("parents", parents);
    graph.put(&second).await
}
