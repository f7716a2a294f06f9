//! The simple face: plain serde state by the key of its thread.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, CheckpointSelector, CheckpointTuple, Storage, ThreadId, ThreadState,
    checkpoint::{
        CheckpointMetadata, CheckpointSource, CheckpointerExt, PruneStrategy, Values, join_items,
        join_lists,
    },
};

use super::{
    Case,
    fixtures::{AWKWARD, TestThread, assert_invalid, moment},
};

pub(super) const CASES: &[Case] = cases!["state":
    a_key_without_state_has_none,
    the_latest_state_is_the_one_saved_last,
    every_kind_of_field_comes_back_equal,
    a_state_need_not_be_a_struct,
    saving_writes_only_the_fields_that_changed,
    a_list_that_grows_is_written_by_what_is_added,
    a_long_list_that_changes_anywhere_comes_back_equal,
    a_list_is_appended_to_without_being_read_whole,
    what_is_appended_costs_the_same_behind_a_long_list,
    long_items_that_are_appended_are_stored_once_for_all_checkpoints,
    a_field_that_is_gone_stays_gone_and_may_come_back,
    saves_form_a_line_of_checkpoints,
    a_failed_save_leaves_the_head_and_may_be_repeated,
    a_state_that_is_loaded_goes_on_where_another_stopped,
    keys_come_last_saved_first,
    a_deleted_key_has_no_state_and_no_history,
];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    messages: Vec<String>,
    facts: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answering: Option<u32>,
}

async fn a_key_without_state_has_none(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let latest: Option<State> = thread.checkpointer.latest(&thread.id).await.unwrap();
    assert_eq!(latest, None);
    let state = load(&thread).await;
    assert_eq!(state.head(), None);
    assert_eq!(state.next_step(), -1);
}

async fn the_latest_state_is_the_one_saved_last(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut state = State::default();
    for number in 0..3 {
        state.messages.push(format!("{AWKWARD} {number}"));
        state.facts.insert(AWKWARD.to_owned(), number.to_string());
        let id = thread.checkpointer.save(&thread.id, &state).await.unwrap();
        assert_eq!(thread.latest().await, Some(id));
        assert_round_trip(&thread, &state).await;
    }
}

async fn every_kind_of_field_comes_back_equal(storage: Arc<dyn Storage>) {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Unit,
        Newtype(u8),
        Tuple(i64, String),
        Struct { a: Option<bool>, b: Vec<Kind> },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Everything {
        limits: (i64, i64, u64, i8),
        signed: i64,
        unsigned: u64,
        float: f64,
        single: f32,
        whole: f64,
        infinite: f64,
        character: char,
        text: String,
        text_with_nul: String,
        empty: String,
        nothing: Option<String>,
        something: Option<Vec<u8>>,
        unit: (),
        flag: bool,
        bytes: Vec<u8>,
        kinds: Vec<Kind>,
        unit_kind: Kind,
        by_number: BTreeMap<u32, Kind>,
        nested: Vec<Vec<BTreeMap<String, Option<f64>>>>,
        json: Json,
    }

    let thread = TestThread::new(&storage);
    let kinds = || {
        vec![
            Kind::Unit,
            Kind::Newtype(255),
            Kind::Tuple(-1, AWKWARD.to_owned()),
            Kind::Struct {
                a: None,
                b: vec![Kind::Unit],
            },
        ]
    };
    let state = Everything {
        limits: (i64::MIN, i64::MAX, u64::MAX, -128),
        signed: i64::MIN,
        unsigned: u64::MAX,
        float: 0.1,
        single: 0.1,
        whole: 2.0,
        infinite: f64::NEG_INFINITY,
        character: '漢',
        text: AWKWARD.to_owned(),
        text_with_nul: "a\0b".to_owned(),
        empty: String::new(),
        nothing: None,
        something: Some(vec![0, 255]),
        unit: (),
        flag: true,
        bytes: (0..=255).collect(),
        kinds: kinds(),
        unit_kind: Kind::Unit,
        by_number: (0..).zip(kinds()).collect(),
        nested: vec![vec![], vec![BTreeMap::from([(AWKWARD.to_owned(), None)])]],
        json: json!({"a": [1, 2.5, null, {"b": AWKWARD}]}),
    };
    thread.checkpointer.save(&thread.id, &state).await.unwrap();
    assert_round_trip(&thread, &state).await;
}

async fn a_state_need_not_be_a_struct(storage: Arc<dyn Storage>) {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Phase {
        Idle,
        Waiting { reason: String },
    }

    assert_saves(&storage, [1_i64, -1, 1]).await;
    assert_saves(&storage, [0.1_f64, 1e300]).await;
    assert_saves(&storage, [String::new(), AWKWARD.to_owned()]).await;
    assert_saves(&storage, [vec![1_u8], vec![], vec![1, 2]]).await;
    assert_saves(&storage, [Some(true), None, Some(false)]).await;
    assert_saves(&storage, [(), ()]).await;
    let by_number = BTreeMap::from([(1_u32, "one".to_owned())]);
    assert_saves(&storage, [by_number, BTreeMap::new()]).await;
    let by_name = BTreeMap::from([(AWKWARD.to_owned(), 1_u32)]);
    assert_saves(&storage, [by_name, BTreeMap::new()]).await;
    let waiting = Phase::Waiting {
        reason: AWKWARD.to_owned(),
    };
    assert_saves(&storage, [Phase::Idle, waiting, Phase::Idle]).await;
}

async fn saving_writes_only_the_fields_that_changed(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut state = State {
        messages: vec!["one".to_owned()],
        ..State::default()
    };
    let mut saved = load(&thread).await;
    let first = save(&mut saved, &thread, &state).await;
    let written: Vec<_> = first.checkpoint.channel_versions.keys().collect();
    assert_eq!(written, ["facts", "messages"]);

    state.messages.push("two".to_owned());
    let second = save(&mut saved, &thread, &state).await;
    assert_eq!(changed(&first, &second), ["messages"]);

    let third = save(&mut saved, &thread, &state).await;
    assert_eq!(changed(&second, &third), [""; 0]);

    // The same through the face that remembers nothing.
    state.answering = Some(7);
    thread.checkpointer.save(&thread.id, &state).await.unwrap();
    let fourth = thread.find(None).await.expect("a checkpoint");
    assert_eq!(changed(&third, &fourth), ["answering"]);
    assert_round_trip(&thread, &state).await;
}

async fn a_list_that_grows_is_written_by_what_is_added(storage: Arc<dyn Storage>) {
    const ITEMS: usize = 130;
    let thread = TestThread::new(&storage);
    let mut state = State::default();
    let mut saved = load(&thread).await;
    let (mut written, mut last) = (0, None);
    for number in 0..ITEMS {
        state.messages.push(format!("message {number:92}"));
        let tuple = save(&mut saved, &thread, &state).await;
        written += bytes_written(last.as_ref(), &tuple);
        last = Some(tuple);
    }
    // Whole, it would be ITEMS / 2 times.
    assert!(written / (ITEMS * 100) < 8, "{written} bytes");
    assert_round_trip(&thread, &state).await;
    let Some(latest) = thread.find(None).await else {
        panic!("no checkpoint");
    };
    let values = latest.checkpoint.channel_values.into_iter();
    let values = values.map(|(channel, value)| match value {
        ChannelValue::Inline(json) => (channel, json),
        ChannelValue::Stored(value) | ChannelValue::DeltaSnapshot(value) => {
            (channel, value.to_json())
        }
    });
    assert_eq!(
        json!(join_lists(values.collect())),
        serde_json::to_value(&state).unwrap()
    );
}

async fn a_long_list_that_changes_anywhere_comes_back_equal(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let list = |length: usize| (0..length).map(|number| number.to_string()).collect();
    let mut state = State::default();
    for length in [0, 1, 7, 8, 9, 63, 72, 73, 584, 585, 520, 72, 16, 8, 0] {
        state.messages = list(length);
        if let Some(middle) = state.messages.get_mut(length / 2) {
            "changed".clone_into(middle);
        }
        thread.checkpointer.save(&thread.id, &state).await.unwrap();
        assert_round_trip(&thread, &state).await;
    }
    let field = BTreeMap::from([("messages#1.1", [1])]);
    let refused = thread.checkpointer.save(&thread.id, &field).await;
    assert_invalid(refused, "state");
}

async fn a_list_is_appended_to_without_being_read_whole(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut state = State::default();
    // Around every length at which parts are joined.
    for length in [0, 1, 8, 9, 20, 72, 73, 584, 585, 600, 4680, 4681] {
        let item = |number: usize| number.to_string();
        state.messages = (0..length).map(item).collect();
        thread.checkpointer.save(&thread.id, &state).await.unwrap();
        let wanted = [(1, 1), (2, 9), (73, 73), (74, 585), (586, usize::MAX / 8)];
        for (added, (count, least)) in (1..).zip(wanted) {
            let mut newest = load_newest(&thread, count).await;
            let found: State = newest.state().unwrap().unwrap();
            let before = newest.before("messages");
            assert_eq!(found.messages, state.messages[before..], "of {length}");
            assert!(found.messages.len() >= least.min(length), "of {length}");
            assert!(found.messages.len() <= 8 * least, "of {length}");

            let added = State {
                messages: (state.messages.len()..).take(added).map(item).collect(),
                answering: Some(7),
                ..State::default()
            };
            newest
                .append(&*thread.checkpointer, &added, metadata())
                .await
                .unwrap();
            state.messages.extend(added.messages);
            state.answering = added.answering;
            assert_round_trip(&thread, &state).await;
            if before > 0 {
                let refused = newest.save(&*thread.checkpointer, &state, metadata()).await;
                assert_invalid(refused, "state");
            }
        }
    }
}

async fn what_is_appended_costs_the_same_behind_a_long_list(storage: Arc<dyn Storage>) {
    /// Bytes of values, and channels, that a turn of four messages writes, over 64 turns.
    async fn written(thread: &TestThread) -> (usize, usize) {
        let mut newest = load_newest(thread, 2).await;
        let (mut bytes, mut channels, mut last) = (0, 0, None);
        for number in 0..4 * 64 {
            let added = State {
                messages: vec![format!("message {number:92}")],
                ..State::default()
            };
            let id = newest
                .append(&*thread.checkpointer, &added, metadata())
                .await
                .unwrap();
            let selector = CheckpointSelector {
                values: Values::newest(&["messages"], &["facts"], 73),
                ..thread.selector(Some(&id))
            };
            let tuple = thread.checkpointer.get(&selector).await.unwrap().unwrap();
            if last.is_some() {
                bytes += bytes_written(last.as_ref(), &tuple);
            }
            channels += tuple.checkpoint.channel_versions.len();
            last = Some(tuple);
        }
        (bytes, channels)
    }

    let thread = TestThread::new(&storage);
    let mut state = State {
        messages: vec![format!("message {:92}", 0); 40],
        ..State::default()
    };
    thread.checkpointer.save(&thread.id, &state).await.unwrap();
    let (early, early_channels) = written(&thread).await;
    state.messages.resize(40_000, state.messages[0].clone());
    thread.checkpointer.save(&thread.id, &state).await.unwrap();
    let (late, late_channels) = written(&thread).await;
    assert!(late * 10 <= early * 13, "{early} and {late} bytes");
    // A version is some 70 bytes of the row.
    let more = late_channels.saturating_sub(early_channels) / (4 * 64);
    assert!(more <= 32, "{more} channels more");
}

async fn long_items_that_are_appended_are_stored_once_for_all_checkpoints(
    storage: Arc<dyn Storage>,
) {
    const ITEMS: usize = 100;
    let thread = TestThread::new(&storage);
    let mut state = State::default();
    let mut saved = load(&thread).await;
    let mut middle = None;
    for number in 0..ITEMS {
        let item = match number % 2 {
            0 => format!("{number:9000}"),
            _ => number.to_string(),
        };
        let added = State {
            messages: vec![item.clone()],
            ..State::default()
        };
        state.messages.push(item);
        let metadata = CheckpointMetadata::new(CheckpointSource::Loop, saved.next_step());
        let id = saved.append(&*thread.checkpointer, &added, metadata).await;
        if number == ITEMS / 2 {
            middle = Some((id.unwrap(), state.clone()));
        }
        if number % 30 == 0 {
            assert_round_trip(&thread, &state).await;
        }
    }
    assert_round_trip(&thread, &state).await;
    let (middle, state_there) = middle.expect("a checkpoint in the middle");
    let there = CheckpointSelector {
        checkpoint_id: Some(middle),
        ..CheckpointSelector::latest(thread.id.clone())
    };
    let there = ThreadState::load_at(&*thread.checkpointer, there).await;
    assert_eq!(there.unwrap().state().unwrap(), Some(state_there));

    // All versions of the lists together are shorter than one of them would be.
    let mut lists = BTreeMap::new();
    for tuple in thread.list().await {
        for (channel, value) in tuple.checkpoint.channel_values {
            let version = tuple.checkpoint.channel_versions[&channel].to_string();
            if let ChannelValue::Stored(value) = value {
                lists.insert((channel, version), value.bytes().len());
            }
        }
    }
    let bytes: usize = lists.values().sum();
    assert!(bytes < 100_000, "{bytes} bytes");

    // None is lost with the checkpoints before it, nor where the list is saved whole or copied.
    let pruned = thread
        .checkpointer
        .prune(std::slice::from_ref(&thread.id), PruneStrategy::KeepLatest);
    pruned.await.unwrap();
    assert_round_trip(&thread, &state).await;
    let copy = TestThread::new(&storage);
    let copied = thread.checkpointer.copy_thread(&thread.id, &copy.id).await;
    copied.unwrap();
    thread.checkpointer.delete_thread(&thread.id).await.unwrap();
    assert_round_trip(&copy, &state).await;
    state.messages.remove(0);
    copy.checkpointer.save(&copy.id, &state).await.unwrap();
    assert_round_trip(&copy, &state).await;
    let Some(latest) = copy.find(None).await else {
        panic!("no checkpoint");
    };
    let whole = join_items(&*copy.checkpointer, latest).await.unwrap();
    let values = whole.checkpoint.channel_values.into_iter();
    let values = values.map(|(channel, value)| (channel, value.to_json()));
    assert_eq!(
        json!(join_lists(values.collect()))["messages"],
        json!(state.messages)
    );
}

async fn a_field_that_is_gone_stays_gone_and_may_come_back(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for answering in [Some(1), None, None, Some(1), Some(2), None] {
        let state = State {
            answering,
            ..State::default()
        };
        thread.checkpointer.save(&thread.id, &state).await.unwrap();
        assert_round_trip(&thread, &state).await;
        let tuple = thread.find(None).await.expect("a checkpoint");
        let values = &tuple.checkpoint.channel_values;
        assert_eq!(values.contains_key("answering"), answering.is_some());
    }
    // Also where its value is stored apart.
    for fields in [&["a", "b"][..], &["b"], &["a"], &[]] {
        let state: BTreeMap<_, _> = fields
            .iter()
            .map(|field| ((*field).to_owned(), vec![1]))
            .collect();
        thread.checkpointer.save(&thread.id, &state).await.unwrap();
        assert_round_trip(&thread, &state).await;
    }
}

async fn saves_form_a_line_of_checkpoints(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut ids = Vec::new();
    for number in 0..4 {
        let id = thread.checkpointer.save(&thread.id, &number).await.unwrap();
        ids.push(id);
    }
    assert!(ids.is_sorted());
    let tuples = thread.list().await;
    for (number, tuple) in tuples.iter().rev().enumerate() {
        assert_eq!(tuple.checkpoint.id, ids[number]);
        let parent = number.checked_sub(1).map(|before| ids[before].clone());
        assert_eq!(tuple.parent, parent);
        assert_eq!(
            tuple.metadata.step(),
            i64::try_from(number).ok().map(|n| n - 1)
        );
        assert_eq!(tuple.metadata.0["source"], "update");
    }
    assert_eq!(tuples.len(), 4);
}

async fn a_failed_save_leaves_the_head_and_may_be_repeated(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut saved = load(&thread).await;
    let mut state = State::default();
    for round in 0..3 {
        let head = saved.head().cloned();
        state.messages.push(round.to_string());
        let refused = saved.save(&*thread.checkpointer, &state, metadata().with("\0", 1));
        assert_invalid(refused.await, "metadata");
        assert_eq!(saved.head(), head.as_ref());
        assert_eq!(thread.latest().await, head);
        let tuple = save(&mut saved, &thread, &state).await;
        assert_eq!(tuple.parent, head);
        assert_round_trip(&thread, &state).await;
    }
}

async fn a_state_that_is_loaded_goes_on_where_another_stopped(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut state = State::default();
    let mut last: Option<CheckpointTuple> = None;
    for number in 0..3 {
        let mut saved = load(&thread).await;
        let found: Option<State> = saved.state().unwrap();
        assert_eq!(found, last.is_some().then(|| state.clone()));
        state.facts.insert(number.to_string(), AWKWARD.to_owned());
        let tuple = save(&mut saved, &thread, &state).await;
        if let Some(last) = &last {
            assert_eq!(changed(last, &tuple), ["facts"]);
            assert_eq!(tuple.parent.as_ref(), Some(&last.checkpoint.id));
        }
        last = Some(tuple);
    }
}

async fn keys_come_last_saved_first(storage: Arc<dyn Storage>) {
    let threads: Vec<_> = (0..3).map(|_| TestThread::new(&storage)).collect();
    for number in [0, 1, 2, 0] {
        moment().await;
        let key = &threads[number].id;
        storage.checkpointer().save(key, &number).await.unwrap();
    }
    // Others save at the same time.
    let keys = storage.checkpointer().keys(10_000).await.unwrap();
    let own = |key: &&ThreadId| threads.iter().any(|thread| thread.id == **key);
    let found: Vec<_> = keys.iter().filter(own).collect();
    assert_eq!(found, [0, 2, 1].map(|number| &threads[number].id));
    let one = storage.checkpointer().keys(1).await.unwrap();
    assert_eq!(one.len(), 1);
}

async fn a_deleted_key_has_no_state_and_no_history(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for number in 0..2 {
        let key = &thread.id;
        thread.checkpointer.save(key, &vec![number]).await.unwrap();
    }
    thread.checkpointer.delete(&thread.id).await.unwrap();
    let latest: Option<Vec<u8>> = thread.checkpointer.latest(&thread.id).await.unwrap();
    assert_eq!(latest, None);
    assert_eq!(thread.list().await, []);
}

async fn load(thread: &TestThread) -> ThreadState {
    ThreadState::load(&*thread.checkpointer, thread.id.clone())
        .await
        .unwrap()
}

/// With the newest messages only.
async fn load_newest(thread: &TestThread, count: usize) -> ThreadState {
    let newest = CheckpointSelector {
        values: Values::newest(&["messages"], &["facts"], count),
        ..CheckpointSelector::latest(thread.id.clone())
    };
    ThreadState::load_at(&*thread.checkpointer, newest)
        .await
        .unwrap()
}

fn metadata() -> CheckpointMetadata {
    CheckpointMetadata::new(CheckpointSource::Loop, 0)
}

async fn save(saved: &mut ThreadState, thread: &TestThread, state: &State) -> CheckpointTuple {
    let id = saved
        .save(&*thread.checkpointer, state, metadata())
        .await
        .unwrap();
    assert_eq!(saved.head(), Some(&id));
    thread.get(&id).await
}

async fn assert_round_trip<S>(thread: &TestThread, state: &S)
where
    S: DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let latest: Option<S> = thread.checkpointer.latest(&thread.id).await.unwrap();
    assert_eq!(latest.as_ref(), Some(state));
}

async fn assert_saves<S, const N: usize>(storage: &Arc<dyn Storage>, states: [S; N])
where
    S: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + Sync,
{
    let thread = TestThread::new(storage);
    for state in &states {
        thread.checkpointer.save(&thread.id, state).await.unwrap();
        assert_round_trip(&thread, state).await;
    }
}

/// The length of the values that are new in `after`.
fn bytes_written(before: Option<&CheckpointTuple>, after: &CheckpointTuple) -> usize {
    let channels = match before {
        Some(before) => changed(before, after),
        None => after
            .checkpoint
            .channel_versions
            .keys()
            .map(String::as_str)
            .collect(),
    };
    let values =
        channels.iter().filter_map(
            |channel| match after.checkpoint.channel_values.get(*channel) {
                Some(ChannelValue::Stored(value)) => Some(value.bytes().len()),
                _ => None,
            },
        );
    values.sum()
}

/// The channels whose version differs, which are those that were written.
fn changed<'a>(before: &CheckpointTuple, after: &'a CheckpointTuple) -> Vec<&'a str> {
    let old = &before.checkpoint.channel_versions;
    let versions = after.checkpoint.channel_versions.iter();
    versions
        .filter(|(channel, version)| old.get(*channel) != Some(version))
        .map(|(channel, _)| channel.as_str())
        .collect()
}
