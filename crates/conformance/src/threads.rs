//! Threads: their list, and their end.

use std::sync::Arc;

use yai_agentkit_core::{
    Storage,
    checkpoint::{PruneStrategy, Thread, ThreadCursor},
};

use super::{
    Case,
    fixtures::{Draft, TestThread, fresh, listed_until, moment, stored, version},
};

pub(super) const CASES: &[Case] = cases!["threads":
    the_last_written_thread_comes_first,
    a_checkpoint_moves_its_thread_to_the_front,
    pages_give_each_thread_once,
    a_cursor_outlives_its_thread,
    a_deleted_thread_leaves_nothing,
    deleting_a_thread_that_never_was_is_no_error,
    a_deleted_thread_may_begin_again,
];

async fn the_last_written_thread_comes_first(storage: Arc<dyn Storage>) {
    let threads = written_threads(&storage, 4).await;
    let found = own(&storage, &threads).await;
    let ids: Vec<_> = found.iter().map(|thread| &thread.id).collect();
    let expected: Vec<_> = threads.iter().rev().map(|thread| &thread.id).collect();
    assert_eq!(ids, expected);
    assert!(found.iter().all(|thread| thread.parent.is_none()));
    assert!(found.is_sorted_by(|a, b| a.updated_at > b.updated_at));
}

async fn a_checkpoint_moves_its_thread_to_the_front(storage: Arc<dyn Storage>) {
    let threads = written_threads(&storage, 3).await;
    let first = threads[0].latest().await.unwrap();
    let again = threads[2].put_chain(1).await;
    moment().await;
    let order = async || -> Vec<usize> {
        let position = |found: Thread| threads.iter().position(|thread| thread.id == found.id);
        let found = own(&storage, &threads).await;
        found.into_iter().filter_map(position).collect()
    };
    // What tasks write belongs to a checkpoint that was counted.
    threads[0].write(&first, "task", &[("a", "1")]).await;
    assert_eq!(order().await, [2, 1, 0]);
    threads[0].put_chain(1).await;
    assert_eq!(order().await, [0, 2, 1]);
    moment().await;
    threads[1].put(&threads[1].draft(None)).await;
    assert_eq!(order().await, [1, 0, 2]);
    moment().await;
    // Even where the write repeats an earlier one.
    threads[2].put(&again[0]).await;
    assert_eq!(order().await, [2, 1, 0]);
    // Reading moves nothing.
    threads[1].find(None).await;
    threads[1].list().await;
    assert_eq!(order().await, [2, 1, 0]);
}

async fn pages_give_each_thread_once(storage: Arc<dyn Storage>) {
    let threads = written_threads(&storage, 7).await;
    let found = own(&storage, &threads).await;
    // Others write at the same time, but what is behind the first of ours stays behind it.
    for limit in [1, 3, 6] {
        let mut paged = vec![found[0].clone()];
        let mut cursor = Some(ThreadCursor::from(&found[0]));
        while let Some(after) = cursor.filter(|_| paged.last() != found.last()) {
            let page = storage.checkpointer().threads(limit, Some(&after)).await;
            let page = page.unwrap();
            assert!(page.items.len() as u64 <= limit);
            assert!(!page.items.iter().any(|item| *item == found[0]));
            paged.extend(page.items.into_iter().filter(|item| found.contains(item)));
            cursor = page.next;
        }
        assert_eq!(paged, found, "limit {limit}");
    }
}

async fn a_cursor_outlives_its_thread(storage: Arc<dyn Storage>) {
    let threads = written_threads(&storage, 3).await;
    let found = own(&storage, &threads).await;
    let checkpointer = storage.checkpointer();
    checkpointer.delete_thread(&found[1].id).await.unwrap();
    let cursor = ThreadCursor::from(&found[1]);
    let page = checkpointer.threads(100, Some(&cursor)).await.unwrap();
    assert!(page.items.contains(&found[2]));
    assert!(!page.items.contains(&found[0]));
}

async fn a_deleted_thread_leaves_nothing(storage: Arc<dyn Storage>) {
    let threads = written_threads(&storage, 3).await;
    let [before, deleted, after] = &threads[..] else {
        panic!("three threads");
    };
    let child = deleted.within("child");
    let draft = child
        .draft(None)
        .value("channel", version(1), stored(&["value"]));
    let id = child.put(&draft).await;
    child.write(&id, "task", &[("a", "1")]).await;
    let others = (before.list().await, after.list().await);

    let checkpointer = storage.checkpointer();
    checkpointer.delete_thread(&deleted.id).await.unwrap();
    assert_eq!(deleted.list().await, []);
    assert_eq!(deleted.find(None).await, None);
    assert_eq!(child.find(Some(&id)).await, None);
    let listed = listed_until(&storage.checkpointer(), &[&before.id, &after.id]).await;
    assert!(listed.iter().all(|thread| thread.id != deleted.id));
    assert_eq!((before.list().await, after.list().await), others);

    // Neither its values nor its writes are there for whoever takes its place.
    assert_eq!(child.stored_value("channel", version(1)).await, None);
    let mut again = child.draft(None);
    again.checkpoint.id = id.clone();
    child.put(&again).await;
    assert_eq!(child.get(&id).await.pending_writes, []);
}

async fn deleting_a_thread_that_never_was_is_no_error(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for _ in 0..2 {
        let checkpointer = storage.checkpointer();
        checkpointer.delete_thread(&thread.id).await.unwrap();
    }
    assert_eq!(thread.list().await, []);
}

async fn a_deleted_thread_may_begin_again(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let copy = thread.called(fresh());
    thread.put_chain(2).await;
    let checkpointer = storage.checkpointer();
    thread.copy_to(&copy.id).await.unwrap();
    for id in [&thread.id, &copy.id] {
        let ids = std::slice::from_ref(id);
        checkpointer
            .prune(ids, PruneStrategy::Delete)
            .await
            .unwrap();
    }
    let chain = copy.put_chain(1).await;
    assert_eq!(copy.ids().await, [chain[0].checkpoint.id.clone()]);
    // Nothing of its first life is left, its parent included.
    let found = own(&storage, std::slice::from_ref(&copy)).await;
    assert_eq!(found[0].parent, None);
}

/// Threads with a checkpoint each, the last written last.
async fn written_threads(storage: &Arc<dyn Storage>, count: usize) -> Vec<TestThread> {
    let mut threads = Vec::with_capacity(count);
    for _ in 0..count {
        let thread = TestThread::new(storage);
        thread.put(&thread.draft(None)).await;
        threads.push(thread);
        moment().await;
    }
    threads
}

/// These threads as the storage lists them, among all others.
async fn own(storage: &Arc<dyn Storage>, threads: &[TestThread]) -> Vec<Thread> {
    let ids: Vec<_> = threads.iter().map(|thread| &thread.id).collect();
    let mut listed = listed_until(&storage.checkpointer(), &ids).await;
    listed.retain(|thread| ids.contains(&&thread.id));
    listed
}
