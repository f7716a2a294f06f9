//! What turns tell, batch by batch.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    Case,
    fixtures::{
        AWKWARD, TestThread, add_conversation, all_at_once, assert_conflict, assert_fenced,
        assert_invalid, assert_not_found, moment, replace,
    },
};
use crate::{
    Conversation, ConversationId, EventBatch, Fence, LatestBatches, Message, MessageId, PutOptions,
    Result, Role, Storage, Turn, TurnId, TurnStatus, validate::MAX_DEPTH,
};

pub(super) const CASES: &[Case] = cases!["events":
    batches_read_back_equal_and_in_order,
    a_page_starts_behind_a_batch_and_ends_at_the_limit,
    a_sequence_that_is_taken_is_a_conflict,
    of_writers_at_once_one_gets_a_sequence,
    a_batch_without_its_conversation_is_not_found,
    turns_and_conversations_do_not_see_each_others_batches,
    the_latest_batches_of_many_turns_are_read_at_once,
    batches_go_with_their_conversation,
    only_old_batches_of_turns_that_have_ended_are_deleted,
    batches_are_part_of_a_unit,
    a_checkpoint_tells_what_is_stored_with_it,
    a_checkpoint_that_is_refused_tells_nothing,
    what_can_not_be_told_is_not_stored,
    what_is_told_again_is_told_once,
    what_a_unit_tells_goes_with_it,
    of_many_that_tell_at_once_only_those_who_hold_their_threads_do,
    an_announcement_disturbs_nobody,
    what_is_nested_too_deep_to_be_read_back_is_refused,
];

fn batch(turn: &Turn, sequence: u64) -> EventBatch {
    EventBatch {
        conversation_id: turn.conversation_id,
        turn_id: turn.id,
        sequence,
        events: vec![json!({"type": "TEST", "n": sequence}), json!(AWKWARD)],
    }
}

async fn add_turn(storage: &Arc<dyn Storage>) -> Turn {
    let conversation = add_conversation(storage).await.id;
    let turn = Turn::new(conversation, MessageId::new());
    storage.turns().add(turn).await.unwrap()
}

async fn append(storage: &Arc<dyn Storage>, turn: &Turn, sequences: &[u64]) -> Vec<EventBatch> {
    let mut batches = Vec::new();
    for sequence in sequences {
        let batch = batch(turn, *sequence);
        storage.turn_events().append(batch.clone()).await.unwrap();
        batches.push(batch);
    }
    batches
}

async fn read(storage: &Arc<dyn Storage>, turn: &Turn) -> Vec<EventBatch> {
    let events = storage.turn_events();
    let read = events.read(turn.conversation_id, turn.id, 0, 1000).await;
    read.unwrap()
}

async fn batches_read_back_equal_and_in_order(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    assert_eq!(read(&storage, &turn).await, []);
    let mut batches = append(&storage, &turn, &[1, 2, 10, 9, 3]).await;
    let empty = EventBatch {
        events: Vec::new(),
        ..batch(&turn, 11)
    };
    storage.turn_events().append(empty.clone()).await.unwrap();
    batches.push(empty);
    batches.sort_by_key(|batch| batch.sequence);
    assert_eq!(read(&storage, &turn).await, batches);
}

async fn a_page_starts_behind_a_batch_and_ends_at_the_limit(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let batches = append(&storage, &turn, &[1, 2, 3, 4]).await;
    let events = storage.turn_events();
    for (after, limit, expected) in [(0, 2, 0..2), (2, 2, 2..4), (3, 5, 3..4), (4, 5, 0..0)] {
        let page = events
            .read(turn.conversation_id, turn.id, after, limit)
            .await;
        assert_eq!(page.unwrap(), batches[expected]);
    }
}

async fn a_sequence_that_is_taken_is_a_conflict(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let batches = append(&storage, &turn, &[1]).await;
    let other = EventBatch {
        events: vec![json!("another")],
        ..batch(&turn, 1)
    };
    assert_conflict(storage.turn_events().append(other).await);
    assert_eq!(read(&storage, &turn).await, batches);
}

async fn of_writers_at_once_one_gets_a_sequence(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let calls = (0..8).map(|writer| {
        let events = storage.turn_events();
        let batch = EventBatch {
            events: vec![json!(writer)],
            ..batch(&turn, 1)
        };
        async move { events.append(batch).await }
    });
    let results: Vec<Result<()>> = all_at_once(calls).await;
    let (stored, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((stored.len(), refused.len()), (1, 7));
    refused.into_iter().for_each(assert_conflict);
    assert_eq!(read(&storage, &turn).await.len(), 1);
}

async fn a_batch_without_its_conversation_is_not_found(storage: Arc<dyn Storage>) {
    let nowhere = Turn::new(ConversationId::new(), MessageId::new());
    assert_not_found(storage.turn_events().append(batch(&nowhere, 1)).await);
}

async fn turns_and_conversations_do_not_see_each_others_batches(storage: Arc<dyn Storage>) {
    let (turn, other) = (add_turn(&storage).await, add_turn(&storage).await);
    append(&storage, &turn, &[1]).await;
    assert_eq!(read(&storage, &other).await, []);
    let moved = Turn {
        conversation_id: other.conversation_id,
        ..turn
    };
    assert_eq!(read(&storage, &moved).await, []);
}

async fn the_latest_batches_of_many_turns_are_read_at_once(storage: Arc<dyn Storage>) {
    let (one, two) = (add_turn(&storage).await, add_turn(&storage).await);
    append(&storage, &one, &[1, 2, 3]).await;
    append(&storage, &two, &[1]).await;
    let mut turns = vec![(one.conversation_id, one.id), (two.conversation_id, two.id)];
    turns.extend((0..1000).map(|_| (ConversationId::new(), TurnId::new())));
    let events = storage.turn_events();
    let latest = events.latest(&turns).await.unwrap();
    assert_eq!(latest, LatestBatches::from([(one.id, 3), (two.id, 1)]));
    assert_eq!(events.latest(&[]).await.unwrap(), LatestBatches::new());
}

async fn batches_go_with_their_conversation(storage: Arc<dyn Storage>) {
    let (turn, other) = (add_turn(&storage).await, add_turn(&storage).await);
    append(&storage, &turn, &[1, 2]).await;
    let kept = append(&storage, &other, &[1]).await;
    let conversations = storage.conversations();
    assert!(conversations.delete(&turn.conversation_id).await.unwrap());
    assert_eq!(read(&storage, &turn).await, []);
    assert_eq!(read(&storage, &other).await, kept);
    assert_not_found(storage.turn_events().append(batch(&turn, 3)).await);
}

async fn only_old_batches_of_turns_that_have_ended_are_deleted(storage: Arc<dyn Storage>) {
    let (running, mut ended) = (add_turn(&storage).await, add_turn(&storage).await);
    let kept = append(&storage, &running, &[1, 2]).await;
    append(&storage, &ended, &[1, 2]).await;
    ended.status = TurnStatus::Completed;
    replace(&*storage.turns(), &ended).await.unwrap();
    let events = storage.turn_events();
    events
        .delete_older(Duration::from_secs(3600))
        .await
        .unwrap();
    assert_eq!(read(&storage, &ended).await.len(), 2);
    moment().await;
    events.delete_older(Duration::ZERO).await.unwrap();
    assert_eq!(read(&storage, &ended).await, []);
    assert_eq!(read(&storage, &running).await, kept);
}

async fn batches_are_part_of_a_unit(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let unit = storage.begin().await.unwrap();
    unit.turn_events().append(batch(&turn, 1)).await.unwrap();
    let place = (turn.conversation_id, turn.id);
    let within = unit.turn_events().read(place.0, place.1, 0, 10).await;
    assert_eq!(within.unwrap().len(), 1);
    drop(unit);
    assert_eq!(read(&storage, &turn).await, []);

    let unit = storage.begin().await.unwrap();
    unit.turn_events().append(batch(&turn, 1)).await.unwrap();
    unit.commit().await.unwrap();
    assert_eq!(read(&storage, &turn).await, [batch(&turn, 1)]);
}

/// `thread` as seen by who tells a batch with each checkpoint.
fn telling(thread: &TestThread, fence: Fence, batch: EventBatch) -> TestThread {
    TestThread {
        checkpointer: thread.checkpointer.telling(fence, batch, None),
        ..thread.clone()
    }
}

async fn try_put(thread: &TestThread) -> Result<()> {
    thread.try_put(&thread.draft(None)).await.map(drop)
}

async fn try_put_next(thread: &TestThread) -> Result<()> {
    let draft = thread.draft(thread.latest().await.as_ref());
    let options = PutOptions::following_latest();
    thread.checkpointer.put(draft, options).await.map(drop)
}

async fn a_checkpoint_tells_what_is_stored_with_it(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    let tells = |fence, sequence| telling(&thread, fence, batch(&turn, sequence));
    try_put(&tells(Fence::Raise(1), 1)).await.unwrap();
    try_put(&tells(Fence::Hold(1), 2)).await.unwrap();
    try_put_next(&tells(Fence::Hold(1), 3)).await.unwrap();
    try_put_next(&tells(Fence::Raise(2), 4)).await.unwrap();
    let told: Vec<_> = (1..=4).map(|sequence| batch(&turn, sequence)).collect();
    assert_eq!(read(&storage, &turn).await, told);
    assert_eq!(thread.ids().await.len(), 4);
    // Pending writes tell nothing, and who was told to tell something may still be fenced anew.
    let holder = tells(Fence::Hold(2), 5);
    let latest = thread.latest().await.unwrap();
    holder.write(&latest, "task", &[("a", "1")]).await;
    try_put(&thread.fenced(Fence::Hold(2))).await.unwrap();
    assert_eq!(read(&storage, &turn).await, told);
}

async fn a_checkpoint_that_is_refused_tells_nothing(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    let tells = |fence| telling(&thread, fence, batch(&turn, 1));
    assert_fenced(try_put(&tells(Fence::Hold(1))).await, 0);
    try_put(&thread.fenced(Fence::Raise(7))).await.unwrap();
    for fence in [Fence::Hold(6), Fence::Hold(8), Fence::Raise(7)] {
        assert_fenced(try_put(&tells(fence)).await, 7);
        assert_fenced(try_put_next(&tells(fence)).await, 7);
    }
    let unrelated = thread.draft(None);
    let holder = tells(Fence::Hold(7)).checkpointer;
    assert_conflict(holder.put(unrelated, PutOptions::following_latest()).await);
    assert_eq!(read(&storage, &turn).await, []);
    assert_eq!(thread.ids().await.len(), 1);
}

async fn what_can_not_be_told_is_not_stored(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    let batches = append(&storage, &turn, &[1]).await;
    let taken = EventBatch {
        events: vec![json!("another")],
        ..batch(&turn, 1)
    };
    let nowhere = batch(&Turn::new(ConversationId::new(), MessageId::new()), 1);
    try_put(&thread.fenced(Fence::Raise(1))).await.unwrap();
    for fence in [Fence::Hold(1), Fence::Raise(2)] {
        let conflicting = telling(&thread, fence, taken.clone());
        assert_conflict(try_put(&conflicting).await);
        assert_conflict(try_put_next(&conflicting).await);
        let lost = telling(&thread, fence, nowhere.clone());
        assert_not_found(try_put(&lost).await);
        assert_not_found(try_put_next(&lost).await);
    }
    assert_eq!(read(&storage, &turn).await, batches);
    assert_eq!(thread.ids().await.len(), 1);
    // Nor was the thread raised.
    try_put(&telling(&thread, Fence::Hold(1), batch(&turn, 2)))
        .await
        .unwrap();
}

async fn what_is_told_again_is_told_once(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    try_put(&telling(&thread, Fence::Raise(1), batch(&turn, 1)))
        .await
        .unwrap();
    let holder = telling(&thread, Fence::Hold(1), batch(&turn, 2));
    let draft = thread.draft(None);
    for _ in 0..3 {
        holder.put(&draft).await;
    }
    let again = (0..8).map(|_| {
        let (holder, draft) = (holder.clone(), draft.clone());
        async move { holder.put(&draft).await }
    });
    all_at_once(again).await;
    assert_eq!(
        read(&storage, &turn).await,
        [batch(&turn, 1), batch(&turn, 2)]
    );
    assert_eq!(thread.ids().await.len(), 2);
}

async fn what_a_unit_tells_goes_with_it(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    for commits in [false, true] {
        let unit = storage.begin().await.unwrap();
        let within = TestThread {
            checkpointer: unit.checkpointer(),
            ..thread.clone()
        };
        try_put(&telling(&within, Fence::Raise(1), batch(&turn, 1)))
            .await
            .unwrap();
        let holder = telling(&within, Fence::Hold(1), batch(&turn, 2));
        let draft = thread.draft(None);
        for _ in 0..2 {
            holder.put(&draft).await;
        }
        if commits {
            unit.commit().await.unwrap();
        } else {
            drop(unit);
            assert_eq!(read(&storage, &turn).await, []);
        }
    }
    assert_eq!(
        read(&storage, &turn).await,
        [batch(&turn, 1), batch(&turn, 2)]
    );
    assert_eq!(thread.ids().await.len(), 2);
}

async fn of_many_that_tell_at_once_only_those_who_hold_their_threads_do(storage: Arc<dyn Storage>) {
    let mut threads = Vec::new();
    for _ in 0..12 {
        let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
        try_put(&telling(&thread, Fence::Raise(3), batch(&turn, 1)))
            .await
            .unwrap();
        threads.push((turn, thread));
    }
    // Of each thread its owner, a former one, and somebody who asks nothing.
    let puts = threads.iter().flat_map(|(turn, thread)| {
        [Some(Fence::Hold(2)), Some(Fence::Hold(3)), None].map(|fence| {
            let caller = match fence {
                Some(fence) => telling(thread, fence, batch(turn, 2)),
                None => thread.clone(),
            };
            async move { (fence, try_put(&caller).await) }
        })
    });
    for (fence, outcome) in all_at_once(puts.collect::<Vec<_>>()).await {
        match fence {
            Some(Fence::Hold(2)) => assert_fenced(outcome, 3),
            _ => outcome.unwrap(),
        }
    }
    for (turn, thread) in threads {
        assert_eq!(
            read(&storage, &turn).await,
            [batch(&turn, 1), batch(&turn, 2)]
        );
        assert_eq!(thread.ids().await.len(), 3);
    }
}

async fn an_announcement_disturbs_nobody(storage: Arc<dyn Storage>) {
    let events = storage.turn_events();
    let listener = events.announcements().await.unwrap();
    let latest: LatestBatches = (1..=500).map(|n| (TurnId::new(), n)).collect();
    events.announce(&latest).await.unwrap();
    events.announce(&LatestBatches::new()).await.unwrap();
    let Some(mut listener) = listener else {
        return;
    };
    // Other cases announce on the same storage.
    let mut missing = latest;
    while !missing.is_empty() {
        for (turn, sequence) in listener.next().await.unwrap().unwrap_or_default() {
            if let Some(announced) = missing.remove(&turn) {
                assert_eq!(announced, sequence);
            }
        }
    }
}

async fn what_is_nested_too_deep_to_be_read_back_is_refused(storage: Arc<dyn Storage>) {
    let nested = |depth| (0..depth).fold(json!("text"), |inner, _| json!({"inner": [inner]}));
    let turn = add_turn(&storage).await;
    let (deep, deeper) = (nested(MAX_DEPTH / 2), nested(MAX_DEPTH / 2 + 1));
    let mut told = batch(&turn, 1);
    told.events = vec![deeper.clone()];
    let refused = storage.turn_events().append(told.clone()).await;
    assert_invalid(refused, "events");
    told.events = vec![deep.clone()];
    storage.turn_events().append(told.clone()).await.unwrap();
    assert_eq!(read(&storage, &turn).await, [told]);

    let conversations = storage.conversations();
    let refused = Conversation::new(None, Some(deeper.clone()));
    assert_invalid(conversations.add(refused).await, "metadata");
    let taken = conversations
        .add(Conversation::new(None, Some(deep.clone())))
        .await
        .unwrap();
    let read = conversations.get(&taken.id).await.unwrap();
    assert_eq!(read.as_ref(), Some(&taken));

    let mut message = Message::new(taken.id, Role::User, "text");
    message.metadata = Some(deeper);
    assert_invalid(storage.messages().add(message.clone()).await, "metadata");
    message.metadata = Some(deep);
    storage.messages().add(message.clone()).await.unwrap();
    let read = storage.messages().get(&message.id).await.unwrap();
    assert_eq!(read, Some(message));
}
