//! Fences: of several owners of a thread only the last one writes; and puts at the latest
//! checkpoint.

use std::sync::Arc;

use yai_agentkit_core::{
    Checkpoint, CheckpointId, ConflictKind, Error, Fence, NewCheckpoint, Result, Storage,
    checkpoint::{Parent, PruneStrategy},
};

use super::{
    Case,
    fixtures::{
        TestThread, all_at_once, ascending_ids, assert_conflict, assert_fenced, assert_invalid,
        fresh, listed_until, text_of,
    },
};

pub(super) const CASES: &[Case] = cases!["fencing":
    the_one_who_raised_a_thread_last_writes,
    an_epoch_raises_a_thread_once,
    a_refused_write_leaves_nothing,
    a_thread_is_raised_without_a_write,
    a_write_without_fence_is_never_refused,
    a_repeated_fenced_write_is_admitted,
    a_late_write_does_not_bring_a_deleted_thread_back,
    an_epoch_that_can_not_be_stored_is_refused,
    a_fence_within_a_unit_of_work_goes_with_it,
    of_many_that_raise_a_thread_at_once_one_wins,
    nothing_of_a_former_owner_comes_after_a_raise,
    a_put_may_ask_to_follow_the_latest_checkpoint,
    of_many_puts_that_follow_one_checkpoint_one_wins,
];

async fn try_put(thread: &TestThread) -> Result<()> {
    thread.try_put(&thread.draft(None)).await.map(drop)
}

async fn try_write(thread: &TestThread, task: &str, channel: &str) -> Result<()> {
    let id = ascending_ids(1).remove(0);
    let writes = thread.writes(&id, task, "", &[(channel, "1")]);
    let fence = thread.options.fence;
    thread.checkpointer.put_writes(writes, fence).await
}

async fn the_one_who_raised_a_thread_last_writes(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    try_put(&thread.fenced(Fence::Raise(3))).await.unwrap();
    let first = thread.fenced(Fence::Hold(3));
    try_put(&first).await.unwrap();
    try_write(&first, "task", "a").await.unwrap();

    try_write(&thread.fenced(Fence::Raise(7)), "task", "a")
        .await
        .unwrap();
    let second = thread.fenced(Fence::Hold(7));
    assert_fenced(try_put(&first).await, 7);
    assert_fenced(try_write(&first, "task", "a").await, 7);
    assert_fenced(try_write(&first, "task", "__resume__").await, 7);
    // Nor one that has not raised it yet.
    assert_fenced(try_put(&thread.fenced(Fence::Hold(8))).await, 7);
    try_put(&second).await.unwrap();
    try_write(&second, "task", "__resume__").await.unwrap();
    assert_eq!(thread.ids().await.len(), 3);
}

async fn an_epoch_raises_a_thread_once(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let raise = thread.fenced(Fence::Raise(2));
    try_write(&raise, "task", "a").await.unwrap();
    assert_fenced(try_put(&raise).await, 2);
    assert_fenced(try_write(&raise, "task", "a").await, 2);
    assert_fenced(try_put(&thread.fenced(Fence::Raise(1))).await, 2);
    assert!(thread.ids().await.is_empty());
}

async fn a_refused_write_leaves_nothing(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let never_raised = thread.fenced(Fence::Hold(1));
    assert_fenced(try_put(&never_raised).await, 0);
    let id = ascending_ids(1).remove(0);
    let writes = never_raised.writes(&id, "task", "", &[("a", "1")]);
    let fence = never_raised.options.fence;
    let refused = never_raised.checkpointer.put_writes(writes, fence).await;
    assert_fenced(refused, 0);
    let marker = TestThread::new(&storage);
    thread.put(&thread.draft(None)).await;
    thread.checkpointer.delete_thread(&thread.id).await.unwrap();
    marker.put(&marker.draft(None)).await;
    let listed = listed_until(&storage.checkpointer(), &[&marker.id]).await;
    assert!(listed.iter().all(|found| found.id != thread.id));
    let draft = thread.draft(None);
    thread
        .put(&NewCheckpoint {
            checkpoint: Checkpoint {
                id,
                ..draft.checkpoint
            },
            ..draft
        })
        .await;
    let tuple = thread.find(None).await.unwrap();
    assert!(tuple.pending_writes.is_empty());
}

async fn a_thread_is_raised_without_a_write(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let checkpointer = &thread.checkpointer;
    assert_fenced(checkpointer.raise_epoch(&thread.id, 1).await, 0);
    try_put(&thread.fenced(Fence::Raise(1))).await.unwrap();
    let old = thread.fenced(Fence::Hold(1));
    checkpointer.raise_epoch(&thread.id, 5).await.unwrap();
    assert_fenced(checkpointer.raise_epoch(&thread.id, 5).await, 5);
    assert_fenced(checkpointer.raise_epoch(&thread.id, 4).await, 5);
    assert_fenced(try_put(&old).await, 5);
    try_put(&thread.fenced(Fence::Hold(5))).await.unwrap();
    // Threads don't affect each other.
    let other = TestThread::new(&storage);
    try_put(&other.fenced(Fence::Raise(1))).await.unwrap();
}

async fn a_write_without_fence_is_never_refused(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    try_put(&thread.fenced(Fence::Raise(9))).await.unwrap();
    try_put(&thread).await.unwrap();
    try_write(&thread, "task", "a").await.unwrap();
    try_put(&thread.fenced(Fence::Hold(9))).await.unwrap();
}

async fn a_repeated_fenced_write_is_admitted(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let id = thread
        .fenced(Fence::Raise(1))
        .put(&thread.draft(None))
        .await;
    let holder = thread.fenced(Fence::Hold(1));
    let draft = thread.draft(Some(&id));
    for _ in 0..2 {
        holder.put(&draft).await;
        holder.write(&id, "task", &[("a", "1")]).await;
    }
    let writes = thread.get(&id).await.pending_writes;
    assert_eq!(writes.iter().map(text_of).collect::<Vec<_>>(), ["1"]);
}

async fn a_late_write_does_not_bring_a_deleted_thread_back(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let checkpointer = &thread.checkpointer;
    let holder = thread.fenced(Fence::Hold(4));
    for delete in [0, 1] {
        try_put(&thread.fenced(Fence::Raise(4))).await.unwrap();
        try_put(&holder).await.unwrap();
        if delete == 0 {
            checkpointer.delete_thread(&thread.id).await.unwrap();
        } else {
            let threads = [thread.id.clone()];
            let pruned = checkpointer.prune(&threads, PruneStrategy::Delete);
            pruned.await.unwrap();
        }
        assert_fenced(try_put(&holder).await, 0);
        assert_fenced(try_write(&holder, "task", "a").await, 0);
        assert_fenced(checkpointer.raise_epoch(&thread.id, 9).await, 0);
        assert!(thread.list().await.is_empty());
    }
    // It may begin anew, which is none of the old owner's business.
    try_put(&thread).await.unwrap();
    assert_fenced(try_put(&holder).await, 0);
}

async fn an_epoch_that_can_not_be_stored_is_refused(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for epoch in [0, 1 << 63] {
        for fence in [Fence::Raise(epoch), Fence::Hold(epoch)] {
            assert_invalid(try_put(&thread.fenced(fence)).await, "epoch");
            assert_invalid(try_write(&thread.fenced(fence), "task", "a").await, "epoch");
        }
        assert_invalid(
            thread.checkpointer.raise_epoch(&thread.id, epoch).await,
            "epoch",
        );
    }
    let greatest = (1 << 63) - 1;
    try_put(&thread.fenced(Fence::Raise(greatest)))
        .await
        .unwrap();
    try_put(&thread.fenced(Fence::Hold(greatest)))
        .await
        .unwrap();
}

async fn a_fence_within_a_unit_of_work_goes_with_it(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    try_put(&thread.fenced(Fence::Raise(1))).await.unwrap();
    for commits in [false, true] {
        let unit = storage.begin().await.unwrap();
        let within = TestThread {
            checkpointer: unit.checkpointer(),
            ..thread.clone()
        };
        try_put(&within.fenced(Fence::Raise(2))).await.unwrap();
        try_put(&within.fenced(Fence::Hold(2))).await.unwrap();
        if commits {
            unit.commit().await.unwrap();
        }
    }
    assert_fenced(try_put(&thread.fenced(Fence::Hold(1))).await, 2);
    assert_eq!(thread.ids().await.len(), 3);
}

async fn of_many_that_raise_a_thread_at_once_one_wins(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for epoch in 1..=5 {
        let raise = thread.fenced(Fence::Raise(epoch));
        let attempts = (0..8).map(|_| {
            let raise = raise.clone();
            async move { try_put(&raise).await }
        });
        let outcomes = all_at_once(attempts).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1, "{outcomes:?}");
        for outcome in outcomes.into_iter().filter(Result::is_err) {
            assert_fenced(outcome, epoch);
        }
    }
    assert_eq!(thread.ids().await.len(), 5);
}

async fn nothing_of_a_former_owner_comes_after_a_raise(storage: Arc<dyn Storage>) {
    let (thread, others) = (TestThread::new(&storage), TestThread::new(&storage));
    try_put(&thread.fenced(Fence::Raise(1))).await.unwrap();
    for epoch in 1..=5 {
        let owner = thread.fenced(Fence::Hold(epoch));
        let calls = (0..24).map(|call| {
            let (owner, other) = (owner.clone(), others.called(fresh()));
            async move {
                match call % 3 {
                    0 => try_put(&owner).await,
                    1 => try_write(&owner, "task", "a").await,
                    // So that there is something to share.
                    _ => try_put(&other).await.map(drop),
                }
            }
        });
        let calls = tokio::spawn(all_at_once(calls.collect::<Vec<_>>()));
        let raised = thread.checkpointer.raise_epoch(&thread.id, epoch + 1);
        raised.await.unwrap();
        let left = thread.ids().await;
        for (call, outcome) in calls.await.unwrap().into_iter().enumerate() {
            match outcome {
                Err(Error::Fenced { .. }) if call % 3 < 2 => assert_fenced(outcome, epoch + 1),
                outcome => outcome.unwrap(),
            }
        }
        assert_eq!(thread.ids().await, left);
        assert_fenced(try_put(&owner).await, epoch + 1);
    }
}

async fn put_next(thread: &TestThread, parent: Option<&CheckpointId>) -> Result<()> {
    let next = following(thread);
    next.try_put(&thread.draft(parent)).await.map(drop)
}

fn following(thread: &TestThread) -> TestThread {
    let mut following = thread.clone();
    following.options.parent = Parent::Latest;
    following
}

async fn a_put_may_ask_to_follow_the_latest_checkpoint(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    let first = thread.draft(None);
    for _ in 0..2 {
        // Again is no contradiction.
        following(&thread).put(&first).await;
    }
    let first = first.checkpoint.id;
    assert_conflict(put_next(&thread, None).await);
    put_next(&thread, Some(&first)).await.unwrap();
    match put_next(&thread, Some(&first)).await {
        Err(Error::Conflict(ConflictKind::LatestCheckpoint(latest))) => {
            assert_eq!(latest, thread.latest().await);
        }
        other => panic!("{other:?}"),
    }
    // Other namespaces and threads have their own.
    put_next(&thread.within("child"), None).await.unwrap();
    put_next(&thread.called(fresh()), None).await.unwrap();
    assert_conflict(put_next(&thread.called(fresh()), Some(&first)).await);
    // With a fence both must hold.
    assert_fenced(put_next(&thread.fenced(Fence::Hold(1)), None).await, 0);
    assert_conflict(put_next(&thread.fenced(Fence::Raise(1)), None).await);
    let latest = thread.latest().await;
    put_next(&thread.fenced(Fence::Raise(1)), latest.as_ref())
        .await
        .unwrap();
    assert_eq!(thread.ids().await.len(), 3);
}

async fn of_many_puts_that_follow_one_checkpoint_one_wins(storage: Arc<dyn Storage>) {
    let thread = TestThread::new(&storage);
    for length in 1..=4 {
        let latest = thread.latest().await;
        let attempts = (0..8).map(|_| {
            let (thread, latest) = (thread.clone(), latest.clone());
            async move { put_next(&thread, latest.as_ref()).await }
        });
        let outcomes = all_at_once(attempts).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for outcome in outcomes.into_iter().filter(Result::is_err) {
            assert_conflict(outcome);
        }
        assert_eq!(thread.ids().await.len(), length);
    }
}
