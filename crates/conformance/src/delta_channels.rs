//! The history of channels that are replayed from their writes.

use std::{collections::BTreeMap, sync::Arc};

use yai_agentkit_core::{
    ChannelValue, CheckpointId, NewCheckpoint, Storage, Value, checkpoint::DeltaChannelHistory,
};

use super::{
    Case,
    fixtures::{Draft, TestThread, packed, put_delta_chain, stored, text_of, version},
};

pub(super) const CASES: &[Case] = cases!["delta_channels":
    writes_come_oldest_first_since_the_nearest_snapshot,
    any_stored_or_inline_value_is_a_seed,
    without_a_value_the_history_goes_to_the_root,
    within_a_checkpoint_writes_come_by_path_task_and_index,
    the_history_follows_its_own_line_of_ancestors,
    every_channel_has_a_seed_of_its_own,
    what_is_not_there_has_an_empty_history,
];

async fn writes_come_oldest_first_since_the_nearest_snapshot(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let snapshot = |text| Some(ChannelValue::DeltaSnapshot(packed(text)));
    let values = [snapshot("old"), None, snapshot("new"), None, None];
    let chain = put_delta_chain(&thread, &values).await;
    let expected: [(_, &[&str]); 5] = [
        (None, &[]),
        (snapshot("old"), &["0"]),
        (snapshot("old"), &["0", "1"]),
        (snapshot("new"), &["2"]),
        (snapshot("new"), &["2", "3"]),
    ];
    for (draft, (seed, texts)) in chain.iter().zip(expected) {
        let history = history(&thread, Some(&draft.checkpoint.id)).await;
        assert_eq!((&history.seed, texts_of(&history)), (&seed, own(texts)));
    }
    let latest = history(&thread, None).await;
    assert_eq!(texts_of(&latest), ["2", "3"]);
}

async fn any_stored_or_inline_value_is_a_seed(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for value in [
        stored(&["before it was a delta channel"]),
        ChannelValue::Inline("text".into()),
        ChannelValue::Inline(true.into()),
        ChannelValue::Inline(0.into()),
    ] {
        let chain = put_delta_chain(&thread, &[None, Some(value.clone()), None]).await;
        let history = history(&thread, Some(&id(&chain, 2))).await;
        assert_eq!(history.seed, Some(value));
        assert_eq!(texts_of(&history), ["1"]);
    }
    let empty = ChannelValue::Stored(Value::from_parts("empty", Vec::new()));
    let chain = put_delta_chain(&thread, &[None, Some(empty), None]).await;
    let history = history(&thread, Some(&id(&chain, 2))).await;
    assert_eq!(
        (&history.seed, texts_of(&history)),
        (&None, own(&["0", "1"]))
    );
}

async fn without_a_value_the_history_goes_to_the_root(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let values = vec![None; 40];
    put_delta_chain(&thread, &values).await;
    let history = history(&thread, None).await;
    assert_eq!(history.seed, None);
    let expected: Vec<_> = (0..39).map(|number: i32| number.to_string()).collect();
    assert_eq!(texts_of(&history), expected);
}

async fn within_a_checkpoint_writes_come_by_path_task_and_index(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let parent = thread.put(&thread.draft(None)).await;
    let other = ("other", "not of the channel");
    for (task, path, writes) in [
        ("b", "p1", vec![("delta", "3"), other, ("delta", "4")]),
        ("B", "p1", vec![other, ("delta", "2")]),
        ("z", "p0", vec![("delta", "1")]),
    ] {
        thread.write_at(&parent, task, path, &writes).await;
    }
    let child = thread.put(&thread.draft(Some(&parent))).await;
    let history = history(&thread, Some(&child)).await;
    assert_eq!(texts_of(&history), ["1", "2", "3", "4"]);
    let mut expected = thread.get(&parent).await.pending_writes;
    expected.retain(|write| write.channel == "delta");
    assert_eq!(history.writes, expected);
}

async fn the_history_follows_its_own_line_of_ancestors(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let chain = put_delta_chain(&thread, &[None, None, None]).await;
    let fork = thread.put(&thread.draft(Some(&id(&chain, 0)))).await;
    thread.write(&fork, "task", &[("delta", "fork")]).await;
    let after_fork = thread.put(&thread.draft(Some(&fork))).await;
    let forked = history(&thread, Some(&after_fork)).await;
    assert_eq!(texts_of(&forked), ["0", "fork"]);
    let straight = history(&thread, Some(&id(&chain, 2))).await;
    assert_eq!(texts_of(&straight), ["0", "1"]);

    // A line ends where the parent is not stored, and never leaves its graph.
    let orphan = thread
        .put(&thread.draft(Some(&CheckpointId::after(None))))
        .await;
    assert_eq!(
        history(&thread, Some(&orphan)).await,
        DeltaChannelHistory::default()
    );
    let child = thread.within("child");
    let called = child.put(&child.draft(Some(&fork))).await;
    assert_eq!(
        history(&child, Some(&called)).await,
        DeltaChannelHistory::default()
    );
}

async fn every_channel_has_a_seed_of_its_own(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let first = thread.draft(None).value("a", version(1), stored(&["a"]));
    let first = thread.put(&first).await;
    let second = thread.draft(Some(&first)).unchanged("a", version(2)).value(
        "b",
        version(1),
        stored(&["b"]),
    );
    let second = thread.put(&second).await;
    for id in [&first, &second] {
        thread.write(id, "task", &[("a", "w"), ("b", "w")]).await;
    }
    thread.put(&thread.draft(Some(&second))).await;
    let channels = ["a", "b", "unknown"].map(str::to_owned);
    let histories = thread
        .checkpointer
        .delta_channel_history(&thread.selector(None), &channels)
        .await
        .unwrap();
    let found: BTreeMap<_, _> = histories
        .iter()
        .map(|(channel, history)| {
            let count = history.writes.len();
            (channel.as_str(), (history.seed.clone(), count))
        })
        .collect();
    let expected = BTreeMap::from([
        ("a", (Some(stored(&["a"])), 2)),
        ("b", (Some(stored(&["b"])), 1)),
        ("unknown", (None, 0)),
    ]);
    assert_eq!(found, expected);
}

async fn what_is_not_there_has_an_empty_history(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let missing = CheckpointId::after(None);
    let nothing = DeltaChannelHistory::default();
    assert_eq!(history(&thread, None).await, nothing);
    thread.write(&missing, "task", &[("delta", "early")]).await;
    put_delta_chain(&thread, &[None, None]).await;
    assert_eq!(history(&thread, Some(&missing)).await, nothing);
    let selector = thread.selector(None);
    let histories = thread.checkpointer.delta_channel_history(&selector, &[]);
    assert_eq!(histories.await.unwrap(), BTreeMap::new());
}

async fn history(thread: &TestThread, id: Option<&CheckpointId>) -> DeltaChannelHistory {
    thread.delta_history("delta", id).await
}

fn texts_of(history: &DeltaChannelHistory) -> Vec<String> {
    history.writes.iter().map(text_of).collect()
}

fn own(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn id(chain: &[NewCheckpoint], position: usize) -> CheckpointId {
    chain[position].checkpoint.id.clone()
}
