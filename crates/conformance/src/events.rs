//! What turns publish, batch by batch.

use std::{sync::Arc, time::Duration};

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Fence, Message, MessageId, NewCheckpoint, Result, Role,
    Storage, Stores, Turn, TurnId, TurnStatus, TurnStore,
    turn::{EventBatch, LatestBatches, TurnStep},
    validate::MAX_DEPTH,
};

use super::{
    Case,
    fixtures::{
        AWKWARD, TestThread, add_conversation, all_at_once, assert_conflict, assert_fenced,
        assert_invalid, assert_not_found, moment, replace,
    },
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
    a_step_publishes_what_is_stored_with_it,
    a_step_that_is_refused_publishes_nothing,
    a_step_whose_events_are_refused_is_not_stored,
    events_that_are_published_again_are_stored_once,
    what_a_unit_publishes_goes_with_it,
    of_many_that_publish_at_once_only_those_who_hold_their_threads_do,
    an_announcement_disturbs_nobody,
    what_is_nested_too_deep_to_be_read_back_is_refused,
];

fn batch(turn: &Turn, sequence: u64) -> EventBatch {
    let events = vec![json!({"type": "TEST", "n": sequence}), json!(AWKWARD)];
    EventBatch::new(turn.conversation_id, turn.id, sequence, events)
}

/// Under the first sequence.
fn other(turn: &Turn, event: Json) -> EventBatch {
    EventBatch::new(turn.conversation_id, turn.id, 1, vec![event])
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
        storage.turn_store().append(batch.clone()).await.unwrap();
        batches.push(batch);
    }
    batches
}

async fn read(storage: &Arc<dyn Storage>, turn: &Turn) -> Vec<EventBatch> {
    let turns = storage.turn_store();
    let read = turns.events(turn.conversation_id, turn.id, 0, 1000).await;
    read.unwrap()
}

async fn batches_read_back_equal_and_in_order(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    assert_eq!(read(&storage, &turn).await, []);
    let mut batches = append(&storage, &turn, &[1, 2, 10, 9, 3]).await;
    let empty = EventBatch::new(turn.conversation_id, turn.id, 11, Vec::new());
    storage.turn_store().append(empty.clone()).await.unwrap();
    batches.push(empty);
    batches.sort_by_key(|batch| batch.sequence);
    assert_eq!(read(&storage, &turn).await, batches);
}

async fn a_page_starts_behind_a_batch_and_ends_at_the_limit(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let batches = append(&storage, &turn, &[1, 2, 3, 4]).await;
    let turns = storage.turn_store();
    for (after, limit, expected) in [(0, 2, 0..2), (2, 2, 2..4), (3, 5, 3..4), (4, 5, 0..0)] {
        let page = turns
            .events(turn.conversation_id, turn.id, after, limit)
            .await;
        assert_eq!(page.unwrap(), batches[expected]);
    }
}

async fn a_sequence_that_is_taken_is_a_conflict(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let batches = append(&storage, &turn, &[1]).await;
    let another = other(&turn, json!("another"));
    assert_conflict(storage.turn_store().append(another).await);
    assert_eq!(read(&storage, &turn).await, batches);
}

async fn of_writers_at_once_one_gets_a_sequence(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let calls = (0..8).map(|writer| {
        let turns = storage.turn_store();
        let batch = other(&turn, json!(writer));
        async move { turns.append(batch).await }
    });
    let results: Vec<Result<()>> = all_at_once(calls).await;
    let (stored, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((stored.len(), refused.len()), (1, 7));
    refused.into_iter().for_each(assert_conflict);
    assert_eq!(read(&storage, &turn).await.len(), 1);
}

async fn a_batch_without_its_conversation_is_not_found(storage: Arc<dyn Storage>) {
    let nowhere = Turn::new(ConversationId::new(), MessageId::new());
    assert_not_found(storage.turn_store().append(batch(&nowhere, 1)).await);
}

async fn turns_and_conversations_do_not_see_each_others_batches(storage: Arc<dyn Storage>) {
    let (turn, other) = (add_turn(&storage).await, add_turn(&storage).await);
    append(&storage, &turn, &[1]).await;
    assert_eq!(read(&storage, &other).await, []);
    let moved = turn.with(|turn| turn.conversation_id = other.conversation_id);
    assert_eq!(read(&storage, &moved).await, []);
}

async fn the_latest_batches_of_many_turns_are_read_at_once(storage: Arc<dyn Storage>) {
    let (one, two) = (add_turn(&storage).await, add_turn(&storage).await);
    append(&storage, &one, &[1, 2, 3]).await;
    append(&storage, &two, &[1]).await;
    let mut turns = vec![(one.conversation_id, one.id), (two.conversation_id, two.id)];
    turns.extend((0..1000).map(|_| (ConversationId::new(), TurnId::new())));
    let store = storage.turn_store();
    let latest = store.latest_events(&turns).await.unwrap();
    assert_eq!(latest, LatestBatches::from([(one.id, 3), (two.id, 1)]));
    assert_eq!(
        store.latest_events(&[]).await.unwrap(),
        LatestBatches::new()
    );
}

async fn batches_go_with_their_conversation(storage: Arc<dyn Storage>) {
    let (turn, other) = (add_turn(&storage).await, add_turn(&storage).await);
    append(&storage, &turn, &[1, 2]).await;
    let kept = append(&storage, &other, &[1]).await;
    let conversations = storage.conversations();
    assert!(conversations.delete(&turn.conversation_id).await.unwrap());
    assert_eq!(read(&storage, &turn).await, []);
    assert_eq!(read(&storage, &other).await, kept);
    assert_not_found(storage.turn_store().append(batch(&turn, 3)).await);
}

async fn only_old_batches_of_turns_that_have_ended_are_deleted(storage: Arc<dyn Storage>) {
    let (running, mut ended) = (add_turn(&storage).await, add_turn(&storage).await);
    let kept = append(&storage, &running, &[1, 2]).await;
    append(&storage, &ended, &[1, 2]).await;
    ended.status = TurnStatus::Completed;
    replace(&*storage.turns(), &ended).await.unwrap();
    let turns = storage.turn_store();
    turns
        .forget_events(Duration::from_secs(3600))
        .await
        .unwrap();
    assert_eq!(read(&storage, &ended).await.len(), 2);
    moment().await;
    turns.forget_events(Duration::ZERO).await.unwrap();
    assert_eq!(read(&storage, &ended).await, []);
    assert_eq!(read(&storage, &running).await, kept);
}

async fn batches_are_part_of_a_unit(storage: Arc<dyn Storage>) {
    let turn = add_turn(&storage).await;
    let unit = storage.begin().await.unwrap();
    unit.turn_store().append(batch(&turn, 1)).await.unwrap();
    let place = (turn.conversation_id, turn.id);
    let within = unit.turn_store().events(place.0, place.1, 0, 10).await;
    assert_eq!(within.unwrap().len(), 1);
    drop(unit);
    assert_eq!(read(&storage, &turn).await, []);

    let unit = storage.begin().await.unwrap();
    unit.turn_store().append(batch(&turn, 1)).await.unwrap();
    unit.commit().await.unwrap();
    assert_eq!(read(&storage, &turn).await, [batch(&turn, 1)]);
}

/// Who works on a turn, and publishes the same batch with each step.
#[derive(Clone)]
struct Publisher {
    turns: Arc<dyn TurnStore>,
    thread: TestThread,
    epoch: u64,
    batch: EventBatch,
}

impl Publisher {
    fn new(stores: &dyn Stores, thread: &TestThread, epoch: u64, batch: EventBatch) -> Self {
        Self {
            turns: stores.turn_store(),
            thread: thread.clone(),
            epoch,
            batch,
        }
    }

    async fn step(&self) -> Result<()> {
        self.step_to(self.thread.draft(None)).await
    }

    async fn step_to(&self, checkpoint: NewCheckpoint) -> Result<()> {
        let step = TurnStep::new(self.epoch, checkpoint, self.batch.clone());
        self.turns.step(step).await
    }
}

/// Puts the first checkpoint of a thread.
async fn raise(thread: &TestThread, epoch: u64) {
    let raise = thread.fenced(Fence::Raise(epoch));
    raise.put(&raise.draft(None)).await;
}

async fn a_step_publishes_what_is_stored_with_it(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    raise(&thread, 1).await;
    for sequence in 1..=3 {
        let publisher = Publisher::new(&*storage, &thread, 1, batch(&turn, sequence));
        publisher.step().await.unwrap();
    }
    let published: Vec<_> = (1..=3).map(|sequence| batch(&turn, sequence)).collect();
    assert_eq!(read(&storage, &turn).await, published);
    assert_eq!(thread.ids().await.len(), 4);
}

async fn a_step_that_is_refused_publishes_nothing(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    let publisher = |epoch| Publisher::new(&*storage, &thread, epoch, batch(&turn, 1));
    assert_fenced(publisher(1).step().await, 0);
    raise(&thread, 7).await;
    for epoch in [6, 8] {
        assert_fenced(publisher(epoch).step().await, 7);
    }
    assert_eq!(read(&storage, &turn).await, []);
    assert_eq!(thread.ids().await.len(), 1);
}

async fn a_step_whose_events_are_refused_is_not_stored(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    let batches = append(&storage, &turn, &[1]).await;
    let taken = other(&turn, json!("another"));
    let nowhere = batch(&Turn::new(ConversationId::new(), MessageId::new()), 1);
    raise(&thread, 1).await;
    let publisher = |batch| Publisher::new(&*storage, &thread, 1, batch);
    assert_conflict(publisher(taken).step().await);
    assert_not_found(publisher(nowhere).step().await);
    assert_eq!(read(&storage, &turn).await, batches);
    assert_eq!(thread.ids().await.len(), 1);
}

async fn events_that_are_published_again_are_stored_once(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    raise(&thread, 1).await;
    let publisher = Publisher::new(&*storage, &thread, 1, batch(&turn, 1));
    let draft = thread.draft(None);
    for _ in 0..3 {
        publisher.step_to(draft.clone()).await.unwrap();
    }
    let again = (0..8).map(|_| {
        let (publisher, draft) = (publisher.clone(), draft.clone());
        async move { publisher.step_to(draft).await }
    });
    for outcome in all_at_once(again).await {
        outcome.unwrap();
    }
    assert_eq!(read(&storage, &turn).await, [batch(&turn, 1)]);
    assert_eq!(thread.ids().await.len(), 2);
}

async fn what_a_unit_publishes_goes_with_it(storage: Arc<dyn Storage>) {
    let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
    for commits in [false, true] {
        let unit = storage.begin().await.unwrap();
        let within = TestThread {
            checkpointer: unit.checkpointer(),
            ..thread.clone()
        };
        raise(&within, 1).await;
        let publisher = Publisher::new(&*unit, &within, 1, batch(&turn, 1));
        let draft = thread.draft(None);
        for _ in 0..2 {
            publisher.step_to(draft.clone()).await.unwrap();
        }
        if commits {
            unit.commit().await.unwrap();
        } else {
            drop(unit);
            assert_eq!(read(&storage, &turn).await, []);
        }
    }
    assert_eq!(read(&storage, &turn).await, [batch(&turn, 1)]);
    assert_eq!(thread.ids().await.len(), 2);
}

async fn of_many_that_publish_at_once_only_those_who_hold_their_threads_do(
    storage: Arc<dyn Storage>,
) {
    let mut threads = Vec::new();
    for _ in 0..12 {
        let (turn, thread) = (add_turn(&storage).await, TestThread::new(&storage));
        raise(&thread, 3).await;
        threads.push((turn, thread));
    }
    // Of each thread its owner, a former one, and somebody who asks nothing.
    let puts = threads.iter().flat_map(|(turn, thread)| {
        [Some(2), Some(3), None].map(|epoch| {
            let publisher = Publisher::new(&*storage, thread, epoch.unwrap_or(0), batch(turn, 1));
            async move {
                let outcome = match epoch {
                    Some(_) => publisher.step().await,
                    None => publisher
                        .thread
                        .try_put(&publisher.thread.draft(None))
                        .await
                        .map(drop),
                };
                (epoch, outcome)
            }
        })
    });
    for (epoch, outcome) in all_at_once(puts.collect::<Vec<_>>()).await {
        match epoch {
            Some(2) => assert_fenced(outcome, 3),
            _ => outcome.unwrap(),
        }
    }
    for (turn, thread) in threads {
        assert_eq!(read(&storage, &turn).await, [batch(&turn, 1)]);
        assert_eq!(thread.ids().await.len(), 3);
    }
}

async fn an_announcement_disturbs_nobody(storage: Arc<dyn Storage>) {
    let turns = storage.turn_store();
    let listener = turns.announcements().await.unwrap();
    let latest: LatestBatches = (1..=500).map(|n| (TurnId::new(), n)).collect();
    turns.announce(&latest).await.unwrap();
    turns.announce(&LatestBatches::new()).await.unwrap();
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
    let mut batch = batch(&turn, 1);
    batch.events = vec![deeper.clone()];
    let refused = storage.turn_store().append(batch.clone()).await;
    assert_invalid(refused, "events");
    batch.events = vec![deep.clone()];
    storage.turn_store().append(batch.clone()).await.unwrap();
    assert_eq!(read(&storage, &turn).await, [batch]);

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
    let read = storage.messages().get(&message.id()).await.unwrap();
    assert_eq!(read, Some(message));
}
