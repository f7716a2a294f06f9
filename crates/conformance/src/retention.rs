//! What is deleted since it is not to be kept, and that it is gone for good.

use std::{sync::Arc, time::Duration};

use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;
use yai_agentkit_core::{
    ChannelValue, Conversation, ConversationId, Entity, Fence, Message, MessageId, Role, Storage,
    Turn, TurnStatus,
    retention::{Removed, RetentionPolicy, Sweep},
    turn::{
        EventBatch, IdempotencyKey, OwnerId, TurnBegin, TurnChange, TurnOwner, TurnRecord, TurnStep,
    },
};

use super::{
    Case,
    fixtures::{TestThread, assert_fenced, assert_not_found, fresh, packed, put_delta_chain},
};

pub(super) const CASES: &[Case] = cases!["retention":
    the_last_checkpoints_stay_and_older_ones_go,
    checkpoints_that_are_young_stay,
    what_a_delta_channel_needs_stays,
    a_dry_run_tells_what_goes_and_changes_nothing,
    many_checkpoints_go_in_parts,
    threads_of_no_conversation_are_untouched,
    a_conversation_goes_in_which_nothing_has_happened,
    a_conversation_stays_in_which_something_waits_or_was_just_said,
    a_sweep_goes_on_behind_the_conversation_where_it_ended,
    one_sweeps_at_a_time,
    an_erased_conversation_leaves_nothing,
    nothing_of_an_erased_conversation_comes_back,
    who_is_late_is_not_taken_for_one_of_a_conversation_made_anew,
];

const HOUR: Duration = Duration::from_secs(3600);

/// A conversation of two hours ago, and its thread.
async fn old_chat(storage: &Arc<dyn Storage>) -> (Conversation, TestThread) {
    let at = Utc::now() - TimeDelta::hours(2);
    let chat = Conversation::with_id(ConversationId::new(), at);
    let chat = storage.conversations().add(chat).await.unwrap();
    let thread = TestThread::named(storage, chat.thread_id().as_str());
    (chat, thread)
}

fn keeping(checkpoint_age: Duration, checkpoints: u64) -> RetentionPolicy {
    RetentionPolicy {
        checkpoint_age: Some(checkpoint_age),
        checkpoints,
        ..RetentionPolicy::default()
    }
}

fn expiring(conversation_age: Duration) -> RetentionPolicy {
    RetentionPolicy {
        conversation_age: Some(conversation_age),
        ..RetentionPolicy::default()
    }
}

/// Looks at one conversation, and leaves those of other cases.
fn at(chat: &Conversation, dry_run: bool) -> Sweep {
    Sweep {
        after: Some(ConversationId(Uuid::from_u128(chat.id.0.as_u128() - 1))),
        limit: 1,
        dry_run,
    }
}

async fn sweep(
    storage: &Arc<dyn Storage>,
    policy: &RetentionPolicy,
    chat: &Conversation,
) -> Removed {
    let swept = storage.retention().sweep(policy, at(chat, false)).await;
    swept.unwrap().removed
}

async fn the_last_checkpoints_stay_and_older_ones_go(storage: Arc<dyn Storage>) {
    let (chat, thread) = old_chat(&storage).await;
    let root = thread.put_chain(5).await;
    let graph = thread.within("child");
    let child = graph.put_chain(3).await;
    let last = [&root[3..], &child[1..]].concat();
    let mut expected = Vec::new();
    for new in &last {
        let of = thread.within(new.namespace.as_str());
        expected.push(of.get(&new.checkpoint.id).await);
    }
    let removed = sweep(&storage, &keeping(Duration::ZERO, 2), &chat).await;
    assert_eq!((removed.conversations, removed.checkpoints), (0, 4));
    assert!(removed.bytes > 0);
    for (place, mut expected) in expected.into_iter().enumerate() {
        // The parent of the first that stays is gone.
        if place % 2 == 0 {
            expected.parent = None;
        }
        let of = thread.within(expected.key.namespace.as_str());
        assert_eq!(of.get(&expected.checkpoint.id).await, expected);
    }
    assert_eq!(thread.list().await.len(), 4);
}

async fn checkpoints_that_are_young_stay(storage: Arc<dyn Storage>) {
    let (chat, thread) = old_chat(&storage).await;
    let mut parent = None;
    for hours in [3, 2, 0, 0, 0] {
        let mut draft = thread.draft(parent.as_ref());
        let at = Utc::now() - TimeDelta::hours(hours);
        draft.checkpoint.ts = at.to_rfc3339_opts(SecondsFormat::Micros, false);
        parent = Some(thread.put(&draft).await);
    }
    let removed = sweep(&storage, &keeping(HOUR, 1), &chat).await;
    assert_eq!(removed.checkpoints, 2);
    assert_eq!(thread.list().await.len(), 3);
}

async fn what_a_delta_channel_needs_stays(storage: Arc<dyn Storage>) {
    let (chat, thread) = old_chat(&storage).await;
    let snapshot = Some(ChannelValue::Stored(packed("snapshot")));
    let chain = put_delta_chain(&thread, &[None, snapshot, None, None]).await;
    let removed = sweep(&storage, &keeping(Duration::ZERO, 1), &chat).await;
    assert_eq!(removed.checkpoints, 1);
    let last = thread.selector(Some(&chain[3].checkpoint.id));
    let channels = ["delta".to_owned()];
    let history = thread.checkpointer.delta_channel_history(&last, &channels);
    let history = history.await.unwrap().remove("delta").unwrap();
    assert_eq!(
        history.seed,
        chain[1].checkpoint.channel_values.get("delta").cloned()
    );
    assert_eq!(history.writes.len(), 2);
}

async fn a_dry_run_tells_what_goes_and_changes_nothing(storage: Arc<dyn Storage>) {
    let (chat, thread) = old_chat(&storage).await;
    thread.put_chain(4).await;
    for policy in [keeping(Duration::ZERO, 1), expiring(Duration::ZERO)] {
        let before = thread.list().await;
        let told = storage
            .retention()
            .sweep(&policy, at(&chat, true))
            .await
            .unwrap();
        assert_eq!(thread.list().await, before);
        assert!(storage.conversations().exists(&chat.id).await.unwrap());
        let removed = sweep(&storage, &policy, &chat).await;
        assert_eq!(told.removed, removed);
        assert!(removed.checkpoints > 0 && removed.bytes > 0);
    }
    assert!(!storage.conversations().exists(&chat.id).await.unwrap());
}

async fn many_checkpoints_go_in_parts(storage: Arc<dyn Storage>) {
    let (chat, thread) = old_chat(&storage).await;
    let chain = thread.put_chain(520).await;
    let removed = sweep(&storage, &keeping(Duration::ZERO, 1), &chat).await;
    assert_eq!(removed.checkpoints, 519);
    let [left] = &thread.list().await[..] else {
        panic!("there is not one left");
    };
    assert_eq!(left.checkpoint, chain[519].checkpoint);
}

async fn threads_of_no_conversation_are_untouched(storage: Arc<dyn Storage>) {
    let other = TestThread::new(&storage);
    other.put_chain(3).await;
    let (chat, thread) = old_chat(&storage).await;
    thread.put_chain(3).await;
    assert_eq!(
        sweep(&storage, &keeping(Duration::ZERO, 1), &chat)
            .await
            .checkpoints,
        2
    );
    assert_eq!(other.list().await.len(), 3);
}

async fn a_conversation_goes_in_which_nothing_has_happened(storage: Arc<dyn Storage>) {
    let (chat, _) = old_chat(&storage).await;
    let mut message = Message::new(chat.id, Role::User, "Hello");
    message.created_at = chat.created_at;
    storage.messages().add(message.clone()).await.unwrap();
    let removed = sweep(&storage, &expiring(3 * HOUR), &chat).await;
    assert_eq!(removed, Removed::default());
    let removed = sweep(&storage, &expiring(HOUR), &chat).await;
    assert_eq!(removed.conversations, 1);
    assert!(!storage.conversations().exists(&chat.id).await.unwrap());
    assert!(!storage.messages().exists(&message.id()).await.unwrap());
}

async fn a_conversation_stays_in_which_something_waits_or_was_just_said(storage: Arc<dyn Storage>) {
    let mut chats = Vec::new();
    for status in [TurnStatus::Running, TurnStatus::Waiting, TurnStatus::Queued] {
        let (chat, _) = old_chat(&storage).await;
        let turn = Turn::new(chat.id, MessageId::new()).with(|turn| turn.status = status);
        storage.turns().add(turn).await.unwrap();
        chats.push(chat);
    }
    let (said, _) = old_chat(&storage).await;
    let message = Message::new(said.id, Role::User, "Hello");
    storage.messages().add(message).await.unwrap();
    let (written, thread) = old_chat(&storage).await;
    thread.put_chain(1).await;
    chats.extend([said, written]);
    for chat in chats {
        let removed = sweep(&storage, &expiring(HOUR), &chat).await;
        assert_eq!(removed, Removed::default());
        assert!(storage.conversations().exists(&chat.id).await.unwrap());
    }
}

async fn a_sweep_goes_on_behind_the_conversation_where_it_ended(storage: Arc<dyn Storage>) {
    let mut chats = Vec::new();
    for _ in 0..3 {
        chats.push(old_chat(&storage).await.0);
    }
    let mut next = Some(at(&chats[0], true).after.unwrap());
    let mut seen = 0;
    // Others make conversations meanwhile.
    while let Some(after) = next.filter(|after| *after < chats[2].id) {
        let sweep = Sweep {
            after: Some(after),
            limit: 1,
            dry_run: true,
        };
        let swept = storage
            .retention()
            .sweep(&expiring(HOUR), sweep)
            .await
            .unwrap();
        assert!(swept.next.is_none_or(|next| next > after));
        seen += swept.removed.conversations;
        next = swept.next;
    }
    assert!(seen >= 2, "{seen}");
}

async fn one_sweeps_at_a_time(storage: Arc<dyn Storage>) {
    let retention = storage.retention();
    let [one, other] = [(); 2].map(|()| OwnerId::new());
    let lead = async |owner, lease| retention.lead(owner, lease).await.unwrap();
    // Other cases do not.
    assert!(lead(one, HOUR).await);
    assert!(lead(one, HOUR).await);
    assert!(!lead(other, HOUR).await);
    assert!(lead(one, Duration::ZERO).await);
    assert!(lead(other, Duration::ZERO).await);
}

/// A conversation with a turn that runs, and all else that one can have.
async fn busy_chat(storage: &Arc<dyn Storage>) -> (Conversation, TestThread, Turn, IdempotencyKey) {
    let (chat, thread) = old_chat(storage).await;
    let message = Message::new(chat.id, Role::User, "Hello");
    let turn = Turn::new(chat.id, message.id).with(|turn| {
        turn.epoch = 1;
        turn.lease_owner = Some(OwnerId::new());
        turn.lease = HOUR;
    });
    let events = events(&turn, 1);
    let key = IdempotencyKey::new(chat.id.0, &fresh(), b"request", message.id.0);
    let mut begin = TurnBegin::new(turn, message, thread.draft(None), events);
    begin.key = Some(key.clone());
    let turn = storage.turn_store().begin(begin).await.unwrap();
    (chat, thread, turn, key)
}

fn events(turn: &Turn, sequence: u64) -> EventBatch {
    EventBatch::new(
        turn.conversation_id,
        turn.id,
        sequence,
        vec![json!("event")],
    )
}

async fn an_erased_conversation_leaves_nothing(storage: Arc<dyn Storage>) {
    let (chat, thread, turn, key) = busy_chat(&storage).await;
    let (other, of_other, ..) = busy_chat(&storage).await;
    assert!(storage.retention().erase(chat.id).await.unwrap());
    assert_gone(&storage, &chat, &thread, &turn).await;
    assert!(!storage.idempotency_keys().exists(&key.id()).await.unwrap());
    assert!(!storage.retention().erase(chat.id).await.unwrap());
    assert!(storage.conversations().exists(&other.id).await.unwrap());
    assert_eq!(of_other.list().await.len(), 1);
}

async fn assert_gone(
    storage: &Arc<dyn Storage>,
    chat: &Conversation,
    thread: &TestThread,
    turn: &Turn,
) {
    assert!(!storage.conversations().exists(&chat.id).await.unwrap());
    assert!(!storage.turns().exists(&turn.id()).await.unwrap());
    let message = chat.id.key(turn.user_message_id);
    assert!(!storage.messages().exists(&message).await.unwrap());
    let turns = storage.turn_store();
    assert_eq!(turns.events(chat.id, turn.id, 0, 10).await.unwrap(), []);
    let records = storage.turn_ledger().records(chat.id, turn.id).await;
    assert_eq!(records.unwrap(), []);
    assert_eq!(thread.list().await, []);
}

async fn nothing_of_an_erased_conversation_comes_back(storage: Arc<dyn Storage>) {
    let (chat, thread, turn, _) = busy_chat(&storage).await;
    let owner = TurnOwner {
        conversation_id: chat.id,
        turn_id: turn.id,
        thread_id: chat.thread_id(),
        epoch: 1,
    };
    assert!(storage.retention().erase(chat.id).await.unwrap());
    let turns = storage.turn_store();
    let draft = || thread.draft(None);
    // That of a thread under which a turn ran.
    let left = 3;
    assert_fenced(
        turns
            .step(TurnStep::new(1, draft(), events(&turn, 2)))
            .await,
        left,
    );
    let ended = turn
        .clone()
        .with(|turn| turn.status = TurnStatus::Completed);
    let mut answer = Message::new(chat.id, Role::Assistant, "Too late");
    answer.id = turn.user_message_id.answer();
    let change = TurnChange::new(turn.clone(), ended)
        .with_answer(Some(answer.clone()))
        .with_checkpoint(draft(), Fence::Hold(1))
        .with_events(events(&turn, 2));
    assert!(turns.change(change).await.is_err());
    assert_not_found(turns.append(events(&turn, 2)).await);
    let owned = turn.lease_owner.unwrap();
    assert_eq!(turns.take(&turn, owned, HOUR).await.unwrap(), None);
    assert_eq!(turns.renew(owned).await.unwrap(), []);
    let held = thread.fenced(Fence::Hold(1));
    assert_fenced(held.try_put(&draft()).await, left);
    let record = TurnRecord {
        name: "late".to_owned(),
        value: Some(packed("late")),
    };
    assert!(storage.turn_ledger().record(&owner, record).await.is_err());
    assert_not_found(storage.messages().add(answer).await);
    let again = TurnBegin::new(
        Turn::new(chat.id, MessageId::new()).with(|turn| turn.epoch = 2),
        Message::new(chat.id, Role::User, "Again"),
        draft(),
        events(&turn, 1),
    );
    assert!(turns.begin(again).await.is_err());
    assert_gone(&storage, &chat, &thread, &turn).await;
}

async fn who_is_late_is_not_taken_for_one_of_a_conversation_made_anew(storage: Arc<dyn Storage>) {
    let (chat, thread, turn, _) = busy_chat(&storage).await;
    assert!(storage.retention().erase(chat.id).await.unwrap());
    storage.conversations().add(chat.clone()).await.unwrap();
    let turns = storage.turn_store();
    let draft = || thread.draft(None);
    let begin = async |epoch| {
        let said = Message::new(chat.id, Role::User, "Again");
        let turn = Turn::new(chat.id, said.id).with(|turn| turn.epoch = epoch);
        let events = events(&turn, 1);
        turns
            .begin(TurnBegin::new(turn, said, draft(), events))
            .await
    };
    // Somebody who has read the thread before is about to begin.
    let left = turn.epoch + 2;
    assert_fenced(begin(turn.epoch + 1).await, left);
    let late = TurnStep::new(turn.epoch, draft(), events(&turn, 2));
    assert_fenced(turns.step(late).await, left);
    begin(left + 1).await.unwrap();
    let late = TurnStep::new(turn.epoch, draft(), events(&turn, 2));
    assert_fenced(turns.step(late).await, left + 1);
    assert_eq!(turns.events(chat.id, turn.id, 0, 10).await.unwrap(), []);
    assert_eq!(thread.list().await.len(), 1);
    assert!(storage.retention().erase(chat.id).await.unwrap());
}
