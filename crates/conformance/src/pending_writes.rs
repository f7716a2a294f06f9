//! What tasks write, by LangGraph's rules.

use std::sync::Arc;

use yai_agentkit_core::{
    CheckpointId, Storage, Value,
    checkpoint::{ChannelWrite, PendingWrite, TASKS},
};

use super::{
    Case,
    fixtures::{AWKWARD, TestThread, text_of},
};

pub(super) const CASES: &[Case] = cases!["pending_writes":
    every_field_reads_back_equal,
    the_first_write_of_a_task_stays,
    a_later_call_fills_only_indexes_that_are_free,
    special_channels_alone_replace,
    special_channels_beside_others_do_not_replace,
    a_special_channel_written_twice_in_one_call,
    a_replaced_write_keeps_its_task_path,
    writes_are_ordered_by_path_task_and_index_in_byte_order,
    many_writes_of_one_task_keep_their_order,
    writes_may_come_before_their_checkpoint,
    no_writes_is_no_call,
    writes_belong_to_their_checkpoint_and_graph,
    writes_of_a_parent_are_not_those_of_its_child,
];

async fn every_field_reads_back_equal(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    let values = [
        (AWKWARD, Value::from_parts("bytes", (0..=255).collect())),
        (TASKS, Value::from_parts("null", Vec::new())),
        ("", Value::from_parts(AWKWARD, vec![0xff, 0])),
        ("large", Value::from_parts("msgpack", vec![7; 1 << 20])),
    ];
    let mut new = thread.writes(&id, AWKWARD, AWKWARD, &[]);
    let mut expected = Vec::new();
    for (index, (channel, value)) in (0..).zip(values) {
        expected.push(PendingWrite {
            task_id: AWKWARD.to_owned(),
            task_path: AWKWARD.to_owned(),
            index,
            channel: channel.to_owned(),
            value: value.clone(),
        });
        new.writes.push(ChannelWrite {
            channel: channel.to_owned(),
            value,
        });
    }
    thread.checkpointer.put_writes(new, None).await.unwrap();
    assert_eq!(thread.get(&id).await.pending_writes, expected);
}

async fn the_first_write_of_a_task_stays(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    thread.write(&id, "task", &[("a", "1"), ("b", "2")]).await;
    let first = thread.get(&id).await;
    thread.write(&id, "task", &[("a", "3"), ("c", "4")]).await;
    assert_eq!(thread.get(&id).await, first);
    thread.write(&id, "task", &[("a", "1"), ("b", "2")]).await;
    assert_eq!(thread.get(&id).await, first);
}

async fn a_later_call_fills_only_indexes_that_are_free(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    thread.write(&id, "task", &[("a", "1")]).await;
    thread.write(&id, "task", &[("b", "2"), ("c", "3")]).await;
    assert_eq!(thread.texts(&id).await, ["1", "3"]);
}

async fn special_channels_alone_replace(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    let special = ["__error__", "__scheduled__", "__interrupt__", "__resume__"];
    for round in ["first", "second"] {
        for channel in special {
            thread.write(&id, "task", &[(channel, round)]).await;
        }
    }
    let found = channels(&thread, &id).await;
    let expected: Vec<_> = special
        .iter()
        .zip([-1, -2, -3, -4])
        .rev()
        .map(|(channel, index)| (index, (*channel).to_owned(), "second".to_owned()))
        .collect();
    assert_eq!(found, expected);

    // All at once replace too, and leave other writes of the task alone.
    thread.write(&id, "task", &[("a", "1")]).await;
    let pair = [("__resume__", "third"), ("__error__", "third")];
    thread.write(&id, "task", &pair).await;
    let expected = ["third", "second", "second", "third", "1"];
    assert_eq!(thread.texts(&id).await, expected);
}

async fn special_channels_beside_others_do_not_replace(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    thread
        .write(&id, "task", &[("__interrupt__", "first")])
        .await;
    let mixed = [("__interrupt__", "second"), ("a", "second")];
    thread.write(&id, "task", &mixed).await;
    let expected = [
        (-3, "__interrupt__".to_owned(), "first".to_owned()),
        (1, "a".to_owned(), "second".to_owned()),
    ];
    assert_eq!(channels(&thread, &id).await, expected);
}

async fn a_special_channel_written_twice_in_one_call(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    let special = [("__interrupt__", "1"), ("__interrupt__", "2")];
    thread.write(&id, "all special", &special).await;
    let mixed = [("__interrupt__", "1"), ("__interrupt__", "2"), ("a", "3")];
    thread.write(&id, "mixed", &mixed).await;
    assert_eq!(thread.texts(&id).await, ["2", "1", "3"]);
}

async fn a_replaced_write_keeps_its_task_path(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    let write = [("__resume__", "first")];
    thread.write_at(&id, "task", "path 1", &write).await;
    let write = [("__resume__", "second")];
    thread.write_at(&id, "task", "path 2", &write).await;
    let writes = thread.get(&id).await.pending_writes;
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].task_path, "path 1");
    assert_eq!(text_of(&writes[0]), "second");
}

async fn writes_are_ordered_by_path_task_and_index_in_byte_order(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    // Ascending by bytes, which is neither a language's order nor that of UTF-16.
    let names = [
        "", " ", "A", "B", "_", "a", "a b", "aB", "ab", "b", "z", "é", "漢", "\u{ffff}", "🦀",
    ];
    let mut expected = Vec::new();
    for path in names {
        for task in names {
            for (index, channel) in [(-1, "__error__"), (1, "channel")] {
                expected.push((path.to_owned(), format!("{path}/{task}"), index, channel));
            }
        }
    }
    for (path, task, _, _) in expected.iter().rev().step_by(2) {
        let writes = [("__error__", ""), ("channel", "")];
        thread.write_at(&id, task, path, &writes).await;
    }
    let tuple = thread.get(&id).await;
    let found: Vec<_> = tuple
        .pending_writes
        .iter()
        .map(|write| {
            let (path, task) = (write.task_path.clone(), write.task_id.clone());
            (path, task, write.index, write.channel.as_str())
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(thread.list().await, [tuple]);
}

async fn many_writes_of_one_task_keep_their_order(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread.put(&thread.draft(None)).await;
    let texts: Vec<String> = (0..120).map(|number| number.to_string()).collect();
    let writes: Vec<_> = texts.iter().map(|text| ("a", text.as_str())).collect();
    thread.write(&id, "task", &writes).await;
    assert_eq!(thread.texts(&id).await, texts);
}

async fn writes_may_come_before_their_checkpoint(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let draft = thread.draft(None);
    let id = &draft.checkpoint.id;
    thread.write(id, "task", &[("a", "early")]).await;
    assert_eq!(thread.find(None).await, None);
    assert_eq!(thread.list().await, []);
    thread.put(&draft).await;
    thread.write(id, "task 2", &[("a", "late")]).await;
    assert_eq!(thread.texts(id).await, ["early", "late"]);
}

async fn no_writes_is_no_call(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    thread.write(&CheckpointId::after(None), "task", &[]).await;
    // The thread does not exist: a copy may take its place.
    let source = TestThread::new(&storage);
    source.put_chain(1).await;
    source.copy_to(&thread.id).await.unwrap();
}

async fn writes_belong_to_their_checkpoint_and_graph(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let child = thread.within("child");
    let draft = thread.draft(None);
    let id = thread.put(&draft).await;
    let mut in_child = child.draft(None);
    in_child.checkpoint.id = id.clone();
    child.put(&in_child).await;
    let other = thread.put(&thread.draft(Some(&id))).await;
    thread.write(&id, "task", &[("a", "root")]).await;
    child.write(&id, "task", &[("a", "child")]).await;
    thread.write(&other, "task", &[("a", "other")]).await;
    assert_eq!(thread.texts(&id).await, ["root"]);
    assert_eq!(child.texts(&id).await, ["child"]);
    assert_eq!(thread.texts(&other).await, ["other"]);
}

async fn writes_of_a_parent_are_not_those_of_its_child(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let parent = thread.put(&thread.draft(None)).await;
    thread.write(&parent, "task", &[("a", "parent")]).await;
    let child = thread.put(&thread.draft(Some(&parent))).await;
    assert_eq!(thread.texts(&child).await, [""; 0]);
    assert_eq!(thread.texts(&parent).await, ["parent"]);
}

async fn channels(thread: &TestThread, id: &CheckpointId) -> Vec<(i32, String, String)> {
    let writes = thread.get(id).await.pending_writes;
    writes
        .iter()
        .map(|write| (write.index, write.channel.clone(), text_of(write)))
        .collect()
}
