//! Checkpoints as they are put and read back.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, CheckpointId, Storage, Value,
    checkpoint::{TASKS, Version},
};

use super::{
    Case,
    fixtures::{AWKWARD, Draft, TestThread, ascending_ids, packed, stored, tuple_of, version},
};

pub(super) const CASES: &[Case] = cases!["checkpoints":
    what_was_never_put_is_none,
    every_field_reads_back_equal,
    an_empty_checkpoint_reads_back_equal,
    inline_values_read_back_equal,
    stored_values_read_back_equal_whatever_their_type_and_bytes,
    a_snapshot_is_not_an_inline_true,
    versions_are_integers_floats_or_texts,
    other_fields_are_kept_as_they_came,
    only_the_values_of_new_versions_are_stored,
    an_unchanged_channel_reads_its_older_version,
    a_channel_with_a_version_and_no_value_is_absent,
    a_value_of_the_type_empty_reads_as_absent,
    a_stored_value_of_a_version_stays,
    putting_again_replaces_state_and_metadata_and_keeps_the_parent,
    a_repeated_put_changes_nothing,
    the_latest_is_the_greatest_id_in_whatever_order_they_came,
    a_parent_need_not_exist,
    sends_of_the_parent_are_read_before_format_4_only,
];

async fn what_was_never_put_is_none(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    assert_eq!(thread.find(None).await, None);
    assert_eq!(thread.list().await, []);
    let id = thread.put(&thread.draft(None)).await;
    assert_eq!(thread.find(Some(&CheckpointId::after(None))).await, None);
    assert_eq!(thread.within("child").find(None).await, None);
    assert_eq!(thread.within("child").find(Some(&id)).await, None);
}

async fn every_field_reads_back_equal(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage).within(AWKWARD);
    let parent = CheckpointId::after(None);
    let mut draft = thread
        .draft(Some(&parent))
        .value("inline", version(1), ChannelValue::Inline(json!(AWKWARD)))
        .value("stored", version(2), stored(&vec![AWKWARD]))
        .value(AWKWARD, version(3), stored(&BTreeMap::from([("a", 1)])))
        .value(
            "delta",
            version(4),
            ChannelValue::DeltaSnapshot(packed(AWKWARD)),
        )
        .unchanged("without value", version(5))
        .metadata(AWKWARD, json!({"nested": [{"deep": [null, 0.1]}]}))
        .metadata("parents", json!({"": parent.as_str()}))
        .metadata("run_id", "a run");
    draft.checkpoint.ts = "2024-05-04T06:32:42.235444+00:00".to_owned();
    draft.checkpoint.versions_seen = BTreeMap::from([
        ("__input__".to_owned(), BTreeMap::new()),
        (
            AWKWARD.to_owned(),
            BTreeMap::from([(AWKWARD.to_owned(), version(3))]),
        ),
    ]);
    thread.put(&draft).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&draft)));
    assert_eq!(thread.get(&draft.checkpoint.id).await, tuple_of(&draft));
    assert_eq!(thread.list().await, [tuple_of(&draft)]);
}

async fn an_empty_checkpoint_reads_back_equal(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut draft = thread.draft(None);
    draft.checkpoint.ts = String::new();
    draft.metadata.0.clear();
    thread.put(&draft).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&draft)));
}

async fn inline_values_read_back_equal(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let values = [
        Json::Null,
        true.into(),
        false.into(),
        0.into(),
        (-1).into(),
        i64::MIN.into(),
        i64::MAX.into(),
        u64::MAX.into(),
        0.1.into(),
        1.0.into(),
        (-2.5).into(),
        0.300_000_000_000_000_04.into(),
        1e300.into(),
        1e-300.into(),
        f64::MAX.into(),
        f64::MIN_POSITIVE.into(),
        f64::from_bits(1).into(),
        "".into(),
        "null".into(),
        AWKWARD.into(),
        "\u{1}\u{7f}\u{80}\u{feff}\u{10ffff}".into(),
        "long 漢 ".repeat(50_000).into(),
    ];
    let mut draft = thread.draft(None);
    for (number, value) in values.into_iter().enumerate() {
        let value = ChannelValue::Inline(value);
        draft = draft.value(&format!("channel {number}"), version(1), value);
    }
    thread.put(&draft).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&draft)));
}

async fn stored_values_read_back_equal_whatever_their_type_and_bytes(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let every_byte: Vec<u8> = (0..=255).collect();
    let values = [
        ("null", Vec::new()),
        ("msgpack", vec![0xc0]),
        ("json", b"{\"a\":\"\\u0000\"}".to_vec()),
        ("bytes", every_byte.clone()),
        ("bytearray", vec![0xff; 3]),
        ("msgpack+aes", every_byte.repeat(4096)),
        ("pickle", vec![0]),
        ("", Vec::new()),
        (AWKWARD, vec![0, 0, 0]),
    ];
    let mut draft = thread.draft(None);
    for (number, (tag, bytes)) in values.into_iter().enumerate() {
        let value = ChannelValue::Stored(Value::from_parts(tag.to_owned(), bytes));
        draft = draft.value(&format!("channel {number}"), version(1), value);
    }
    thread.put(&draft).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&draft)));
}

async fn a_snapshot_is_not_an_inline_true(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let draft = thread
        .draft(None)
        .value("flag", version(1), ChannelValue::Inline(true.into()))
        .value(
            "delta",
            version(1),
            ChannelValue::DeltaSnapshot(packed("full")),
        );
    thread.put(&draft).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&draft)));
}

async fn versions_are_integers_floats_or_texts(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let versions = [
        Version::Integer(1),
        Version::Integer(i64::MAX),
        Version::Integer(-7),
        Version::Float(2.0),
        Version::Float(2.5),
        Version::Float(0.1),
        Version::Float(0.1 + 0.2),
        Version::Float(1.0 / 3.0),
        Version::Float(0.0),
        Version::Float(1e-4),
        Version::Float(9_999_999_999_999_998.0),
        Version::Text("00000000000000000000000000000003.0123456789012345".to_owned()),
        Version::Text("3".to_owned()),
        Version::Text(AWKWARD.to_owned()),
        Version::Text(String::new()),
    ];
    let mut draft = thread.draft(None);
    for (number, version) in versions.into_iter().enumerate() {
        let channel = format!("channel {number}");
        let seen = draft.checkpoint.versions_seen.entry("node".to_owned());
        seen.or_default().insert(channel.clone(), version.clone());
        draft = draft.value(&channel, version, stored(&[number]));
    }
    thread.put(&draft).await;
    assert_eq!(thread.get(&draft.checkpoint.id).await, tuple_of(&draft));

    let mut next = draft.clone();
    next.checkpoint.id = CheckpointId::after(Some(&draft.checkpoint.id));
    next.new_versions.clear();
    next.checkpoint.channel_values.clear();
    thread.put(&next).await;
    let mut expected = tuple_of(&next);
    expected.checkpoint.channel_values = draft.checkpoint.channel_values;
    assert_eq!(thread.get(&next.checkpoint.id).await, expected);
}

async fn other_fields_are_kept_as_they_came(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for extra in [
        json!({}),
        json!({"updated_channels": null}),
        json!({"updated_channels": [], "pending_sends": [], AWKWARD: AWKWARD}),
        json!({"updated_channels": ["a", "b"], "unknown": {"nested": [null, 1.5]}}),
    ] {
        let mut draft = thread.draft(None);
        draft.checkpoint.extra = extra.as_object().cloned().unwrap_or_default();
        let id = thread.put(&draft).await;
        assert_eq!(thread.get(&id).await, tuple_of(&draft));
    }
}

async fn only_the_values_of_new_versions_are_stored(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut draft = thread
        .draft(None)
        .value("new", version(1), stored(&["new"]))
        .value("not new", version(1), stored(&["not new"]))
        .value("not new either", version(1), ChannelValue::Inline(1.into()));
    draft.new_versions.remove("not new");
    draft.new_versions.remove("not new either");
    thread.put(&draft).await;
    let mut expected = tuple_of(&draft);
    expected.checkpoint.channel_values.remove("not new");
    assert_eq!(thread.find(None).await, Some(expected));
}

async fn an_unchanged_channel_reads_its_older_version(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let first = thread
        .draft(None)
        .value("messages", version(1), stored(&["one"]))
        .value("facts", version(1), stored(&["fact"]));
    let parent = thread.put(&first).await;
    let mut second = thread
        .draft(Some(&parent))
        .value("messages", version(2), stored(&["one", "two"]))
        .value("facts", version(1), stored(&["fact"]));
    // As LangGraph puts it: every value is there, only one is new.
    second.new_versions.remove("facts");
    thread.put(&second).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&second)));
    assert_eq!(thread.get(&parent).await, tuple_of(&first));
}

async fn a_channel_with_a_version_and_no_value_is_absent(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let first = thread
        .draft(None)
        .value("gone", version(1), stored(&["value"]));
    let parent = thread.put(&first).await;
    let mut second = thread.draft(Some(&parent)).unchanged("gone", version(2));
    second.new_versions.insert("gone".to_owned(), version(2));
    thread.put(&second).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&second)));
}

async fn a_value_of_the_type_empty_reads_as_absent(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let empty = ChannelValue::Stored(Value::from_parts("empty", Vec::new()));
    let draft = thread.draft(None).value("channel", version(1), empty);
    thread.put(&draft).await;
    let mut expected = tuple_of(&draft);
    expected.checkpoint.channel_values.clear();
    assert_eq!(thread.find(None).await, Some(expected));
}

async fn a_stored_value_of_a_version_stays(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let first = thread
        .draft(None)
        .value("channel", version(1), stored(&["first"]));
    thread.put(&first).await;
    let second =
        thread
            .draft(Some(&first.checkpoint.id))
            .value("channel", version(1), stored(&["second"]));
    thread.put(&second).await;
    let mut expected = tuple_of(&second);
    expected.checkpoint.channel_values = first.checkpoint.channel_values;
    assert_eq!(thread.find(None).await, Some(expected));
}

async fn putting_again_replaces_state_and_metadata_and_keeps_the_parent(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let ids = ascending_ids(3);
    for parent in [Some(&ids[0]), None] {
        let first = thread
            .draft(parent)
            .value("old", version(1), stored(&["old"]))
            .value("inline", version(1), ChannelValue::Inline(1.into()))
            .metadata("only in the first", true);
        let id = thread.put(&first).await;
        thread.write(&id, "task", &[("channel", "stays")]).await;
        let mut again = thread
            .draft(Some(&ids[1]))
            .value("new", version(2), stored(&["new"]))
            .metadata("step", 7);
        again.checkpoint.id = id.clone();
        again.checkpoint.ts = "later".to_owned();
        again.checkpoint.extra = first.metadata.0.clone();
        thread.put(&again).await;
        let mut expected = tuple_of(&again);
        expected.parent = parent.cloned();
        let mut read = thread.get(&id).await;
        assert_eq!(std::mem::take(&mut read.pending_writes).len(), 1);
        assert_eq!(read, expected);
    }
}

async fn a_repeated_put_changes_nothing(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let chain = thread.put_chain(3).await;
    let before = thread.list().await;
    for draft in chain.iter().chain(chain.iter().rev()) {
        thread.put(draft).await;
    }
    assert_eq!(thread.list().await, before);
}

async fn the_latest_is_the_greatest_id_in_whatever_order_they_came(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let ids = ascending_ids(5);
    let mut greatest = 0;
    for position in [2, 0, 3, 1, 4] {
        let mut draft = thread.draft(None);
        draft.checkpoint.id = ids[position].clone();
        thread.put(&draft).await;
        greatest = greatest.max(position);
        assert_eq!(thread.latest().await.as_ref(), Some(&ids[greatest]));
    }
    let descending: Vec<_> = ids.into_iter().rev().collect();
    assert_eq!(thread.ids().await, descending);
}

async fn a_parent_need_not_exist(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let draft = thread.draft(Some(&CheckpointId::after(None)));
    thread.put(&draft).await;
    assert_eq!(thread.find(None).await, Some(tuple_of(&draft)));
}

async fn sends_of_the_parent_are_read_before_format_4_only(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let parent = thread.put(&thread.draft(None)).await;
    let sends = [(TASKS, "b0"), ("other", "no send"), (TASKS, "b2")];
    thread.write_at(&parent, "b", "path 1", &sends).await;
    thread
        .write_at(&parent, "a", "path 1", &[(TASKS, "a")])
        .await;
    thread
        .write_at(&parent, "c", "path 0", &[(TASKS, "c")])
        .await;
    // The same checkpoint in another graph is not the parent.
    let elsewhere = thread.within("child");
    elsewhere.write(&parent, "d", &[(TASKS, "elsewhere")]).await;

    let expected = ["c", "a", "b0", "b2"].map(packed).to_vec();
    for (v, parent, expected) in [
        (1, Some(&parent), expected.clone()),
        (3, Some(&parent), expected),
        (4, Some(&parent), Vec::new()),
        (3, None, Vec::new()),
        (3, Some(&CheckpointId::after(None)), Vec::new()),
    ] {
        let mut draft = thread.draft(parent);
        draft.checkpoint.v = v;
        let id = thread.put(&draft).await;
        let mut tuple = tuple_of(&draft);
        tuple.pending_sends = expected;
        assert_eq!(thread.get(&id).await, tuple);
        assert_eq!(thread.list().await[0], tuple);
    }
}
