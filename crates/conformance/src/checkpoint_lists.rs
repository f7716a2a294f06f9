//! Lists of checkpoints.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use yai_agentkit_core::{
    ChannelValue, CheckpointId, CheckpointQuery, CheckpointSelector, Storage,
    checkpoint::{Values, Version},
};

use super::{
    Case,
    fixtures::{AWKWARD, Draft, TestThread, ascending_ids, fresh, stored, tuple_of, version},
};

pub(super) const CASES: &[Case] = cases!["checkpoint_lists":
    a_list_is_by_descending_id_with_all_that_belongs_to_each,
    before_limit_and_id_cut_the_list,
    a_list_without_values_has_all_else,
    of_some_channels_the_others_values_are_not_read,
    no_namespace_is_every_namespace,
    metadata_are_contained_as_in_postgres,
    all_threads_are_searched_by_their_metadata,
    a_history_of_300_checkpoints_reads_back_in_order,
];

async fn a_list_is_by_descending_id_with_all_that_belongs_to_each(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let chain = thread.put_chain(4).await;
    for draft in &chain {
        let id = &draft.checkpoint.id;
        thread.write(id, "task", &[("a", "1"), ("b", "2")]).await;
    }
    let mut expected = Vec::new();
    for draft in chain.iter().rev() {
        expected.push(thread.get(&draft.checkpoint.id).await);
    }
    assert_eq!(expected[0].pending_writes.len(), 2);
    assert_eq!(thread.list().await, expected);
}

async fn before_limit_and_id_cut_the_list(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let ids = ascending_ids(6);
    for id in &ids {
        let mut draft = thread.draft(None);
        draft.checkpoint.id = id.clone();
        thread.put(&draft).await;
    }
    let find = async |before: Option<&CheckpointId>, id: Option<&CheckpointId>, limit| {
        let query = CheckpointQuery {
            before: before.cloned(),
            checkpoint_id: id.cloned(),
            limit,
            ..CheckpointQuery::of(thread.id.clone())
        };
        let tuples = thread.checkpointer.list(&query).await.unwrap();
        let positions = tuples.iter().map(|tuple| {
            let position = ids.iter().position(|id| *id == tuple.checkpoint.id);
            position.expect("a checkpoint of this thread")
        });
        positions.collect::<Vec<_>>()
    };
    assert_eq!(find(None, None, None).await, [5, 4, 3, 2, 1, 0]);
    assert_eq!(find(None, None, Some(0)).await, [0; 0]);
    assert_eq!(find(None, None, Some(2)).await, [5, 4]);
    assert_eq!(find(None, None, Some(u64::MAX)).await, [5, 4, 3, 2, 1, 0]);
    assert_eq!(find(Some(&ids[3]), None, None).await, [2, 1, 0]);
    assert_eq!(find(Some(&ids[3]), None, Some(2)).await, [2, 1]);
    assert_eq!(find(Some(&ids[0]), None, None).await, [0; 0]);
    assert_eq!(find(None, Some(&ids[3]), None).await, [3]);
    assert_eq!(find(Some(&ids[4]), Some(&ids[3]), Some(1)).await, [3]);
    assert_eq!(find(Some(&ids[3]), Some(&ids[3]), None).await, [0; 0]);
    let unknown = CheckpointId::after(None);
    assert_eq!(find(None, Some(&unknown), None).await, [0; 0]);
    // A bound need not exist.
    let beyond = CheckpointId::after(ids.last());
    assert_eq!(find(Some(&beyond), None, Some(1)).await, [5]);
}

async fn a_list_without_values_has_all_else(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for draft in thread.put_chain(3).await {
        let id = &draft.checkpoint.id;
        thread.write(id, "task", &[("a", "1")]).await;
    }
    let mut expected = thread.list().await;
    assert!(!expected[0].checkpoint.channel_values.is_empty());
    assert!(!expected[0].checkpoint.channel_versions.is_empty());
    for tuple in &mut expected {
        tuple.checkpoint.channel_values.clear();
        tuple.pending_writes.clear();
    }
    let query = CheckpointQuery {
        values: Values::Nothing,
        ..CheckpointQuery::of(thread.id.clone())
    };
    let found = thread.checkpointer.list(&query).await.unwrap();
    assert_eq!(found, expected);
    let query = CheckpointQuery {
        before: Some(expected[0].checkpoint.id.clone()),
        limit: Some(1),
        ..query
    };
    let found = thread.checkpointer.list(&query).await.unwrap();
    assert_eq!(found, expected[1..2]);
}

async fn of_some_channels_the_others_values_are_not_read(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut draft =
        thread
            .draft(None)
            .value("inline", version(1), ChannelValue::Inline(json!("text")));
    for (number, channel) in ["a", "b#1.1", "c\"'", "%"].into_iter().enumerate() {
        let half = Version::Float(0.5);
        draft = draft.value(channel, half, stored(&vec![number]));
    }
    let id = &thread.put(&draft).await;
    thread.write(id, "task", &[("a", "1")]).await;
    let whole = thread.get(id).await;
    let values = &whole.checkpoint.channel_values;
    let stored = values.iter().filter_map(|(channel, value)| match value {
        ChannelValue::Inline(_) => None,
        _ => Some(channel.clone()),
    });
    let stored: Vec<String> = stored.collect();
    assert!(stored.len() > 1 && stored.len() < values.len());
    for wanted in [&stored[..1], &stored[1..], &[], &stored] {
        let mut expected = whole.clone();
        let left_out = |channel: &String| stored.contains(channel) && !wanted.contains(channel);
        let values = &mut expected.checkpoint.channel_values;
        values.retain(|channel, _| !left_out(channel));
        let unknown = "unknown".to_owned();
        let wanted = Values::Of(wanted.iter().cloned().chain([unknown]).collect());
        let selector = CheckpointSelector {
            values: wanted.clone(),
            ..thread.selector(None)
        };
        let found = thread.checkpointer.get(&selector).await.unwrap();
        assert_eq!(found.as_ref(), Some(&expected));
        let query = CheckpointQuery {
            checkpoint_id: Some(id.clone()),
            values: wanted,
            ..CheckpointQuery::of(thread.id.clone())
        };
        let found = thread.checkpointer.list(&query).await.unwrap();
        assert_eq!(found, [expected]);
    }
}

async fn no_namespace_is_every_namespace(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut ids = Vec::new();
    for namespace in ["", "child", "child:1", ""] {
        let graph = thread.within(namespace);
        ids.push(graph.put(&graph.draft(ids.last())).await);
    }
    let all: Vec<_> = thread.list().await;
    let all: Vec<_> = all.into_iter().map(|tuple| tuple.checkpoint.id).collect();
    let descending: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(all, descending);
    assert_eq!(thread.ids().await, [ids[3].clone(), ids[0].clone()]);
    assert_eq!(thread.within("child").ids().await, [ids[1].clone()]);
    assert_eq!(thread.within("chil").ids().await, []);
}

async fn metadata_are_contained_as_in_postgres(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let mut draft = thread.draft(None);
    let metadata = json!({
        "source": "loop",
        "step": 1,
        "float": 2.5,
        "whole": 2.0,
        "large": u64::MAX,
        "flag": true,
        "nothing": null,
        "empty": "",
        "list": [1, "two", [3, 4], {"five": 5, "six": 6}],
        "nested": {"a": {"b": {"c": 1, "d": 2}}},
        AWKWARD: AWKWARD,
    });
    draft.metadata.0 = object(&metadata);
    thread.put(&draft).await;
    let mut bare = thread.draft(None);
    bare.metadata.0.clear();
    thread.put(&bare).await;

    let takes = async |pattern: &Json| {
        let query = CheckpointQuery {
            metadata: object(pattern),
            ..CheckpointQuery::of(thread.id.clone())
        };
        let found = thread.checkpointer.list(&query).await.unwrap();
        match found.as_slice() {
            [] => false,
            [one] if *one == tuple_of(&draft) => true,
            other => panic!("{pattern} takes {other:?}"),
        }
    };
    for pattern in [
        metadata.clone(),
        json!({"source": "loop", "step": 1}),
        json!({"step": 1.0}),
        json!({"whole": 2}),
        json!({"float": 2.5}),
        json!({"large": u64::MAX}),
        json!({"nothing": null}),
        json!({"empty": ""}),
        json!({"list": []}),
        json!({"list": ["two", 1, 1]}),
        json!({"list": [[4], {"six": 6}]}),
        json!({"nested": {}}),
        json!({"nested": {"a": {"b": {"d": 2}}}}),
        json!({AWKWARD: AWKWARD}),
    ] {
        assert!(takes(&pattern).await, "{pattern}");
    }
    for pattern in [
        json!({"source": "Loop"}),
        json!({"source": "loop", "step": 2}),
        json!({"step": "1"}),
        json!({"step": true}),
        json!({"step": [1]}),
        json!({"float": 2}),
        json!({"large": u64::MAX - 1}),
        json!({"flag": 1}),
        json!({"flag": "true"}),
        json!({"nothing": false}),
        json!({"absent": null}),
        json!({"empty": null}),
        json!({"list": 1}),
        json!({"list": [2]}),
        json!({"list": [{"five": 6}]}),
        json!({"list": {}}),
        json!({"nested": []}),
        json!({"nested": {"a": {"c": 1}}}),
        json!({"": ""}),
    ] {
        assert!(!takes(&pattern).await, "{pattern}");
    }
}

async fn all_threads_are_searched_by_their_metadata(storage: Arc<dyn Storage>) {
    let run = fresh();
    let mut expected = Vec::new();
    for number in 0..3 {
        let thread = TestThread::new(&storage);
        thread.put(&thread.draft(None)).await;
        let draft = thread
            .draft(None)
            .metadata("run_id", run.as_str())
            .metadata("number", number);
        thread.put(&draft).await;
        expected.insert(0, tuple_of(&draft));
    }
    let query = CheckpointQuery {
        metadata: object(&json!({"run_id": run})),
        ..CheckpointQuery::default()
    };
    let found = storage.checkpointer().list(&query).await.unwrap();
    assert_eq!(found, expected);
    let query = CheckpointQuery {
        before: Some(expected[0].checkpoint.id.clone()),
        limit: Some(1),
        ..query
    };
    let found = storage.checkpointer().list(&query).await.unwrap();
    assert_eq!(found, expected[1..2]);
}

async fn a_history_of_300_checkpoints_reads_back_in_order(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let chain = thread.put_chain(300).await;
    let history = thread.list().await;
    let expected: Vec<_> = chain.iter().rev().map(tuple_of).collect();
    assert_eq!(history.len(), 300);
    assert!(history == expected, "the history differs from what was put");

    // The same by pages.
    let mut query = CheckpointQuery {
        limit: Some(70),
        ..CheckpointQuery::of(thread.id.clone())
    };
    let mut paged = Vec::new();
    loop {
        let page = thread.checkpointer.list(&query).await.unwrap();
        assert!(paged.len() <= 300, "the pages have no end");
        let Some(last) = page.last() else { break };
        query.before = Some(last.checkpoint.id.clone());
        paged.extend(page);
    }
    assert!(paged == expected, "the pages differ from what was put");
}

fn object(json: &Json) -> Map<String, Json> {
    json.as_object().cloned().expect("a JSON object")
}
