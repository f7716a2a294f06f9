//! Copies of threads.

use std::sync::Arc;

use yai_agentkit_core::{ChannelValue, CheckpointId, Storage, checkpoint::Thread};

use super::{
    Case,
    fixtures::{
        Draft, TestThread, assert_conflict, fresh, listed_until, packed, put_delta_chain, stored,
        version,
    },
};

pub(super) const CASES: &[Case] = cases!["copying":
    a_copy_equals_its_source_apart_from_the_thread,
    a_copy_records_its_source,
    a_copy_of_a_copy_records_the_copy,
    later_writes_to_either_do_not_show_in_the_other,
    a_copy_outlives_its_source,
    of_a_source_without_checkpoints_nothing_is_copied,
    a_target_that_exists_is_a_conflict_and_stays,
];

async fn a_copy_equals_its_source_apart_from_the_thread(storage: Arc<dyn Storage>) {
    let (source, target) = pair(&storage);
    source.put_chain(3).await;
    let snapshot = Some(ChannelValue::DeltaSnapshot(packed("snapshot")));
    put_delta_chain(&source.within("child:1"), &[snapshot, None, None]).await;
    let ahead = CheckpointId::after(None);
    source.write(&ahead, "task", &[("a", "early")]).await;
    let before = source.list().await;
    assert_eq!(before.len(), 6);
    copy(&source, &target).await.unwrap();

    assert_eq!(source.list().await, before);
    let mut expected = before;
    for tuple in &mut expected {
        tuple.key.thread_id = target.id.clone();
    }
    assert_eq!(target.list().await, expected);
    assert_eq!(
        target.within("child:1").delta_history("delta", None).await,
        source.within("child:1").delta_history("delta", None).await
    );
    // Writes that wait for their checkpoint and values that no latest state shows are there too.
    let mut draft = target.draft(None).unchanged("step", version(1));
    draft.checkpoint.id = ahead.clone();
    target.put(&draft).await;
    assert_eq!(target.texts(&ahead).await, ["early"]);
    let values = target.get(&ahead).await.checkpoint.channel_values;
    assert_eq!(values.get("step"), Some(&stored(&vec![1])));
}

async fn a_copy_records_its_source(storage: Arc<dyn Storage>) {
    let (source, target) = pair(&storage);
    source.put_chain(1).await;
    copy(&source, &target).await.unwrap();
    assert_eq!(listed(&target).await.parent.as_ref(), Some(&source.id));
    assert_eq!(listed(&source).await.parent, None);
    // Writing to it later changes nothing about that.
    target.put(&target.draft(None)).await;
    assert_eq!(listed(&target).await.parent.as_ref(), Some(&source.id));
}

async fn a_copy_of_a_copy_records_the_copy(storage: Arc<dyn Storage>) {
    let (source, target) = pair(&storage);
    let third = source.called(fresh());
    source.put_chain(2).await;
    copy(&source, &target).await.unwrap();
    copy(&target, &third).await.unwrap();
    assert_eq!(listed(&third).await.parent.as_ref(), Some(&target.id));
    assert_eq!(third.ids().await, source.ids().await);
}

async fn later_writes_to_either_do_not_show_in_the_other(storage: Arc<dyn Storage>) {
    let (source, target) = pair(&storage);
    let chain = source.put_chain(2).await;
    copy(&source, &target).await.unwrap();
    let first = &chain[0].checkpoint.id;
    for (thread, text) in [(&source, "in the source"), (&target, "in the target")] {
        thread.write(first, "task", &[("a", text)]).await;
        let draft =
            thread
                .draft(Some(&chain[1].checkpoint.id))
                .value("own", version(1), stored(&[text]));
        let id = thread.put(&draft).await;
        let again = chain[0].clone();
        let again = yai_agentkit_core::NewCheckpoint {
            thread_id: thread.id.clone(),
            ..again.metadata("written to", text)
        };
        thread.put(&again).await;
        assert_eq!(thread.latest().await, Some(id));
    }
    for (thread, text) in [(&source, "in the source"), (&target, "in the target")] {
        let tuple = thread.get(first).await;
        assert_eq!(thread.texts(first).await, [text]);
        assert_eq!(tuple.metadata.0["written to"], text);
        assert_eq!(thread.ids().await.len(), 3);
        let own = thread.stored_value("own", version(1)).await;
        assert_eq!(own, Some(stored(&[text])));
    }
}

async fn a_copy_outlives_its_source(storage: Arc<dyn Storage>) {
    let (source, target) = pair(&storage);
    source.put_chain(2).await;
    copy(&source, &target).await.unwrap();
    let before = target.list().await;
    let checkpointer = storage.checkpointer();
    checkpointer.delete_thread(&source.id).await.unwrap();
    assert_eq!(target.list().await, before);
    assert_eq!(listed(&target).await.parent.as_ref(), Some(&source.id));
}

async fn of_a_source_without_checkpoints_nothing_is_copied(storage: Arc<dyn Storage>) {
    let (source, target) = pair(&storage);
    copy(&source, &target).await.unwrap();
    let ahead = CheckpointId::after(None);
    source.write(&ahead, "task", &[("a", "early")]).await;
    copy(&source, &target).await.unwrap();
    // The target was not made by that.
    source.put_chain(1).await;
    copy(&source, &target).await.unwrap();
}

async fn a_target_that_exists_is_a_conflict_and_stays(storage: Arc<dyn Storage>) {
    let (source, target) = pair(&storage);
    source.put_chain(2).await;
    target.put_chain(1).await;
    let before = target.list().await;
    assert_conflict(copy(&source, &target).await);
    assert_eq!(target.list().await, before);
    assert_eq!(listed(&target).await.parent, None);
    assert_conflict(copy(&source, &source).await);

    // One that has only writes exists too.
    let ahead = source.called(fresh());
    let id = CheckpointId::after(None);
    ahead.write(&id, "task", &[("a", "early")]).await;
    assert_conflict(copy(&source, &ahead).await);
    assert_eq!(ahead.list().await, []);
}

fn pair(storage: &Arc<dyn Storage>) -> (TestThread, TestThread) {
    (TestThread::new(storage), TestThread::new(storage))
}

async fn copy(source: &TestThread, target: &TestThread) -> yai_agentkit_core::Result<()> {
    source.copy_to(&target.id).await
}

async fn listed(thread: &TestThread) -> Thread {
    let listed = listed_until(&thread.checkpointer, &[&thread.id]).await;
    let mut of_thread = listed.into_iter().filter(|listed| listed.id == thread.id);
    of_thread.next().expect("the thread")
}
