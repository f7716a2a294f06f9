//! What is deleted since it is not to be kept, and that it is gone for good.

use std::{sync::Arc, time::Duration};

use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;
use yai_agentkit_core::{
    ChannelValue, ConflictKind, Conversation, ConversationId, Entity, Error, Fence, Message,
    MessageId, Role, Storage, Turn, TurnStatus, Value,
    redaction::REDACTED,
    retention::{Removed, RetentionPolicy, Sweep},
    turn::{
        EventBatch, IdempotencyKey, OwnerId, TurnBegin, TurnChange, TurnOwner, TurnRecord, TurnStep,
    },
};

use super::{
    Case,
    fixtures::{
        Draft, TestThread, assert_fenced, assert_not_found, fresh, packed, put_delta_chain, stored,
        version,
    },
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
    a_redacted_message_is_nowhere_and_all_else_stays,
    no_message_is_redacted_under_a_turn_that_runs,
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
    assert!(storage.retention().erase(chat.id, None).await.unwrap());
    assert_gone(&storage, &chat, &thread, &turn).await;
    assert!(!storage.idempotency_keys().exists(&key.id()).await.unwrap());
    assert!(!storage.retention().erase(chat.id, None).await.unwrap());
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
    assert!(storage.retention().erase(chat.id, None).await.unwrap());
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
    assert!(storage.retention().erase(chat.id, None).await.unwrap());
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
    assert!(storage.retention().erase(chat.id, None).await.unwrap());
}

/// Long enough to be looked for within other texts.
const SAID: &str = "My \"PIN\" is 4711, 漢字";

/// What is stored of a chat in which this was said: inline, apart, pending, published, given, asked.
fn told(said: &str) -> serde_json::Value {
    json!([
        {"role": "user", "content": said},
        {"role": "assistant", "content": format!("So {said}!")},
        {"role": "user", "content": "Another"},
    ])
}

async fn chat_with(storage: &Arc<dyn Storage>, said: &str) -> (TestThread, Turn, Message) {
    let (chat, thread) = old_chat(storage).await;
    let message = Message::new(chat.id, Role::User, said)
        .with(|message| message.metadata = Some(json!({"said": said})));
    let turn = Turn::new(chat.id, message.id).with(|turn| {
        turn.epoch = 1;
        turn.input = Some(json!({"given": said}));
    });
    let events = EventBatch::new(chat.id, turn.id, 1, vec![told(said)]);
    let draft = thread.draft(None);
    let draft = draft
        .metadata("epoch", 1)
        .metadata("title", said)
        .value("messages", version(1), stored(&told(said)))
        .value("note", version(1), ChannelValue::Inline(json!(said)));
    let begin = TurnBegin::new(turn, message.clone(), draft.clone(), events);
    let turn = storage.turn_store().begin(begin).await.unwrap();
    let id = draft.checkpoint.id;
    let writes = [("messages", said)];
    thread.write(&id, "task", &writes).await;
    let record = TurnRecord {
        name: "effect".to_owned(),
        value: Some(encoded(&told(said))),
    };
    let owner = TurnOwner {
        conversation_id: chat.id,
        turn_id: turn.id,
        thread_id: chat.thread_id(),
        epoch: 1,
    };
    storage.turn_ledger().record(&owner, record).await.unwrap();
    (thread, turn, message)
}

async fn ends(storage: &Arc<dyn Storage>, turn: &Turn) {
    let ended = turn
        .clone()
        .with(|turn| turn.status = TurnStatus::Completed);
    let change = TurnChange::new(turn.clone(), ended);
    storage.turn_store().change(change).await.unwrap();
}

fn encoded(json: &serde_json::Value) -> Value {
    Value::encode(json).unwrap()
}

/// All that is stored of it but for times and ids.
async fn all_of(storage: &Arc<dyn Storage>, thread: &TestThread, turn: &Turn) -> String {
    let tuples = thread.list().await;
    let tuples = tuples.iter().map(|tuple| {
        let values = &tuple.checkpoint.channel_values;
        let writes: Vec<_> = tuple
            .pending_writes
            .iter()
            .map(|write| &write.value)
            .collect();
        format!("{values:?} {writes:?} {:?}", tuple.metadata.0.get("title"))
    });
    let (chat, turns) = (turn.conversation_id, storage.turn_store());
    let events = turns.events(chat, turn.id, 0, 10).await.unwrap();
    let events = events
        .into_iter()
        .map(|batch| format!("{:?}", batch.events));
    let records = storage.turn_ledger().records(chat, turn.id).await.unwrap();
    let records = records
        .into_iter()
        .map(|record| format!("{:?}", record.value));
    let input = storage
        .turns()
        .get(&turn.id())
        .await
        .unwrap()
        .unwrap()
        .input;
    let all = tuples.chain(events).chain(records);
    format!("{} {input:?}", all.collect::<Vec<_>>().join("\n"))
}

async fn a_redacted_message_is_nowhere_and_all_else_stays(storage: Arc<dyn Storage>) {
    let (thread, turn, message) = chat_with(&storage, SAID).await;
    let (other, of_other, _) = chat_with(&storage, SAID).await;
    let (expected, of_expected, _) = chat_with(&storage, REDACTED).await;
    for turn in [&turn, &of_other, &of_expected] {
        ends(&storage, turn).await;
    }
    let untouched = all_of(&storage, &other, &of_other).await;
    let retention = storage.retention();
    let nobody = MessageId::new();
    assert!(
        !retention
            .redact(turn.conversation_id, nobody, None)
            .await
            .unwrap()
    );
    for _ in 0..2 {
        let redacted = retention
            .redact(turn.conversation_id, message.id, None)
            .await;
        assert!(redacted.unwrap());
    }
    let redacted = all_of(&storage, &thread, &turn).await;
    let expected = all_of(&storage, &expected, &of_expected).await;
    assert_eq!(redacted, expected);
    let stored = storage
        .messages()
        .get(&message.id())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((stored.content.as_str(), stored.metadata), (REDACTED, None));
    assert_eq!(all_of(&storage, &other, &of_other).await, untouched);
    // Who has read the thread before is refused, and who reads it now goes on.
    let latest = &thread.list().await[0];
    let epoch = latest.metadata.0["epoch"].as_u64().unwrap();
    assert_eq!(epoch, 3);
    let late = thread.fenced(Fence::Raise(2));
    assert_fenced(late.try_put(&thread.draft(None)).await, epoch);
    let next = thread.fenced(Fence::Raise(epoch + 1));
    next.put(&thread.draft(Some(&latest.checkpoint.id))).await;
}

async fn no_message_is_redacted_under_a_turn_that_runs(storage: Arc<dyn Storage>) {
    let (_, turn, message) = chat_with(&storage, SAID).await;
    let redacted = storage
        .retention()
        .redact(turn.conversation_id, message.id, None)
        .await;
    let expected = ConflictKind::Turn(turn.id);
    assert!(matches!(redacted, Err(Error::Conflict(kind)) if kind == expected));
    let stored = storage
        .messages()
        .get(&message.id())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stored.content, SAID);
}
