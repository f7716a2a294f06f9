//! What no storage takes, refused by all alike.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use serde_json::{Map, json};
use yai_agentkit_core::{
    ChannelValue, CheckpointId, CheckpointQuery, Error, NewCheckpoint, NewWrites, PutOptions,
    Result, Storage, ThreadId, Value,
    checkpoint::{PruneStrategy, Version},
};

use super::{
    Case,
    fixtures::{Draft, TestThread, assert_invalid, fresh, packed, stored, version},
};

pub(super) const CASES: &[Case] = cases!["refusals":
    a_checkpoint_with_a_nul_character_is_refused_with_the_name_of_its_field,
    writes_with_a_nul_character_are_refused_with_the_name_of_their_field,
    a_version_whose_value_would_not_be_found_is_refused,
    a_checkpoint_without_an_id_is_refused,
    a_copy_to_a_name_with_a_nul_character_is_refused,
    a_nul_character_in_a_question_is_no_failure_of_the_storage,
    a_key_that_is_too_long_for_an_index_is_refused_with_the_name_of_its_field,
    what_follows_a_refusal_succeeds,
];

async fn a_checkpoint_with_a_nul_character_is_refused_with_the_name_of_its_field(
    storage: Arc<dyn Storage>,
) {
    type Spoil = fn(&mut NewCheckpoint);
    let refused: [(&str, Spoil); 17] = [
        ("thread_id", |new| new.thread_id = "\0".into()),
        ("checkpoint_ns", |new| new.namespace = "a\0".into()),
        ("checkpoint_id", |new| new.checkpoint.id = "\0".into()),
        ("parent", |new| new.parent = Some("\0".into())),
        ("ts", |new| new.checkpoint.ts.push('\0')),
        ("channel", |new| {
            *new = new.clone().value("\0", version(1), stored(&1));
        }),
        ("channel", |new| {
            *new = new.clone().unchanged("\0", version(1));
        }),
        ("version", |new| {
            *new = new.clone().unchanged("a", nul_version());
        }),
        ("version", |new| {
            new.new_versions.insert("good".to_owned(), nul_version());
        }),
        ("type", |new| {
            let value = ChannelValue::Stored(Value::from_parts("a\0", Vec::new()));
            *new = new.clone().value("a", version(1), value);
        }),
        ("type", |new| {
            let value = ChannelValue::DeltaSnapshot(Value::from_parts("a\0", Vec::new()));
            *new = new.clone().value("a", version(1), value);
        }),
        ("channel_values", |new| {
            let value = ChannelValue::Inline("\0".into());
            *new = new.clone().value("a", version(1), value);
        }),
        ("versions_seen", |new| {
            let seen = &mut new.checkpoint.versions_seen;
            seen.insert("\0".to_owned(), BTreeMap::new());
        }),
        ("versions_seen", |new| {
            let seen = BTreeMap::from([("a".to_owned(), nul_version())]);
            let nodes = &mut new.checkpoint.versions_seen;
            nodes.insert("node".to_owned(), seen);
        }),
        ("checkpoint", |new| {
            let extra = &mut new.checkpoint.extra;
            extra.insert("updated_channels".to_owned(), json!(["\0"]));
        }),
        ("metadata", |new| *new = new.clone().metadata("\0", 1)),
        ("metadata", |new| {
            *new = new.clone().metadata("a", json!([{"b": "\0"}]));
        }),
    ];
    for (field, spoil) in refused {
        let thread = TestThread::new(&storage);
        let mut draft = thread
            .draft(None)
            .value("good", version(1), stored(&["value"]));
        let id = draft.checkpoint.id.clone();
        spoil(&mut draft);
        assert_invalid(
            storage
                .checkpointer()
                .put(draft, PutOptions::default())
                .await,
            field,
        );
        assert_nothing_written(&thread, &id).await;
    }
}

async fn writes_with_a_nul_character_are_refused_with_the_name_of_their_field(
    storage: Arc<dyn Storage>,
) {
    type Spoil = fn(&mut NewWrites);
    let refused: [(&str, Spoil); 7] = [
        ("thread_id", |new| new.key.thread_id = "a\0".into()),
        ("checkpoint_ns", |new| new.key.namespace = "\0".into()),
        ("checkpoint_id", |new| new.key.checkpoint_id = "\0".into()),
        ("task_id", |new| new.task_id.push('\0')),
        ("task_path", |new| new.task_path.push('\0')),
        ("channel", |new| new.writes[1].channel.push('\0')),
        ("type", |new| {
            new.writes[1].value = Value::from_parts("a\0", Vec::new());
        }),
    ];
    for (field, spoil) in refused {
        let thread = TestThread::new(&storage);
        let id = CheckpointId::after(None);
        let mut writes = thread.writes(&id, "task", "path", &[("a", "1"), ("b", "2")]);
        spoil(&mut writes);
        assert_invalid(storage.checkpointer().put_writes(writes, None).await, field);
        assert_nothing_written(&thread, &id).await;
    }
}

async fn a_version_whose_value_would_not_be_found_is_refused(storage: Arc<dyn Storage>) {
    for float in [f64::NAN, f64::INFINITY, 1e16, 9.9e-5, -0.0, -1.5] {
        let thread = TestThread::new(&storage);
        let draft = thread.draft(None).unchanged("a", Version::Float(float));
        let id = draft.checkpoint.id.clone();
        assert_invalid(
            storage
                .checkpointer()
                .put(draft, PutOptions::default())
                .await,
            "version",
        );
        assert_nothing_written(&thread, &id).await;
    }
}

/// Of random characters, which no database makes shorter. The longest that is allowed is stored.
async fn a_key_that_is_too_long_for_an_index_is_refused_with_the_name_of_its_field(
    storage: Arc<dyn Storage>,
) {
    let text = |bytes: usize| -> String {
        let mut text = String::new();
        while text.len() < bytes {
            text.push_str(&uuid::Uuid::new_v4().simple().to_string());
        }
        text.truncate(bytes);
        text
    };
    let most = yai_agentkit_core::validate::MAX_KEY_BYTES;
    let thread = TestThread::new(&storage);
    let parts = thread.id.as_str().len() + thread.draft(None).checkpoint.id.as_str().len();
    let others = thread.id.as_str().len() + version(1).to_string().len();
    for excess in [0, 1] {
        let length = most - parts + excess;
        let mut new = thread.draft(None);
        new.namespace = text(length).as_str().into();
        let mut with_channel = thread.draft(None);
        let name = text(most - others + excess);
        with_channel = with_channel.value(&name, version(1), stored(&1));
        let id = thread.put(&thread.draft(None)).await;
        let writes = thread.writes(&id, &text(length), "", &[("a", "1")]);
        let checkpointer = storage.checkpointer();
        let put = checkpointer.put(new, PutOptions::default()).await;
        let put_channel = checkpointer.put(with_channel, PutOptions::default()).await;
        let put_writes = checkpointer.put_writes(writes, None).await;
        if excess == 0 {
            put.unwrap();
            put_channel.unwrap();
            put_writes.unwrap();
        } else {
            assert_invalid(put, "checkpoint_ns");
            assert_invalid(put_channel, "channel");
            assert_invalid(put_writes, "task_id");
            let copy = ThreadId::from(text(most + 1));
            let copied = checkpointer.copy_thread(&thread.id, &copy).await;
            assert_invalid(copied, "thread_id");
        }
    }
}

async fn a_checkpoint_without_an_id_is_refused(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let empty: CheckpointId = "".into();
    let mut draft = thread.draft(None);
    draft.checkpoint.id = empty.clone();
    assert_invalid(
        storage
            .checkpointer()
            .put(draft, PutOptions::default())
            .await,
        "checkpoint_id",
    );
    let writes = thread.writes(&empty, "task", "", &[("a", "1")]);
    let written = storage.checkpointer().put_writes(writes, None).await;
    assert_invalid(written, "checkpoint_id");
    assert_nothing_written(&thread, &CheckpointId::after(None)).await;
}

async fn a_copy_to_a_name_with_a_nul_character_is_refused(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    thread.put_chain(1).await;
    let target = ThreadId::from(format!("{}\0", fresh()));
    assert_invalid(thread.copy_to(&target).await, "thread_id");
}

async fn a_nul_character_in_a_question_is_no_failure_of_the_storage(storage: Arc<dyn Storage>) {
    let thread = TestThread::named(&storage, &format!("{}\0", fresh()));
    let checkpointer = storage.checkpointer();
    let selector = thread.selector(None);
    assert_empty_or_refused(checkpointer.get(&selector).await, Option::is_none);
    let query = CheckpointQuery::of(thread.id.clone());
    assert_empty_or_refused(checkpointer.list(&query).await, Vec::is_empty);
    let query = CheckpointQuery {
        metadata: Map::from_iter([("a".to_owned(), thread.id.as_str().into())]),
        ..CheckpointQuery::default()
    };
    assert_empty_or_refused(checkpointer.list(&query).await, Vec::is_empty);
    let channels = ["a".to_owned(), "\0".to_owned()];
    let histories = checkpointer.delta_channel_history(&selector, &channels);
    assert_empty_or_refused(histories.await, |histories| {
        histories.values().all(|history| history.writes.is_empty())
    });
    let is_done = |(): &()| true;
    assert_empty_or_refused(checkpointer.delete_thread(&thread.id).await, is_done);
    let runs = [thread.id.to_string()];
    assert_empty_or_refused(checkpointer.delete_for_runs(&runs).await, is_done);
    for strategy in [PruneStrategy::KeepLatest, PruneStrategy::Delete] {
        let ids = std::slice::from_ref(&thread.id);
        assert_empty_or_refused(checkpointer.prune(ids, strategy).await, is_done);
    }
    assert_empty_or_refused(thread.copy_to(&fresh().into()).await, is_done);
}

async fn what_follows_a_refusal_succeeds(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let good = thread
        .draft(None)
        .value("a", version(1), ChannelValue::DeltaSnapshot(packed("a")));
    let mut bad = good.clone();
    bad.checkpoint.ts.push('\0');
    for _ in 0..3 {
        let put = storage
            .checkpointer()
            .put(bad.clone(), PutOptions::default())
            .await;
        assert_invalid(put, "ts");
        thread.put(&good).await;
    }
    assert_eq!(thread.ids().await, [good.checkpoint.id]);
}

fn nul_version() -> Version {
    Version::Text("1\0".to_owned())
}

async fn assert_nothing_written(thread: &TestThread, id: &CheckpointId) {
    assert_eq!(thread.list().await, []);
    // The thread does not exist: a copy may take its place, and shows what is left of `id`.
    let source = thread.called(fresh());
    let mut draft = source.draft(None).unchanged("good", version(1));
    draft.checkpoint.id = id.clone();
    source.put(&draft).await;
    source.copy_to(&thread.id).await.unwrap();
    let tuple = thread.get(id).await;
    assert_eq!(tuple.pending_writes, []);
    assert!(tuple.checkpoint.channel_values.is_empty());
}

#[track_caller]
fn assert_empty_or_refused<T: Debug>(result: Result<T>, is_empty: impl Fn(&T) -> bool) {
    match &result {
        Ok(found) if is_empty(found) => {}
        Err(Error::InvalidInput { .. }) => {}
        _ => panic!("{result:?}"),
    }
}
