//! Turns whose state somebody else keeps, and what they record.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use yai_agentkit_core::{
    CheckpointKey, ConflictKind, Conversation, ConversationId, Entity, Error, Fence, ListQuery,
    Message, MessageId, Namespace, NewWrites, Role, Storage, ThreadId, Turn, TurnStatus, Value,
    checkpoint::ChannelWrite,
    conversation::MessageFilter,
    turn::{IdempotencyKey, Opened, OwnerId, TurnClosing, TurnOpening, TurnOwner, TurnRecord},
};

use super::{
    Case,
    fixtures::{AWKWARD, add_conversation, all_at_once, assert_fenced, assert_not_found},
};

pub(super) const CASES: &[Case] = cases!["ledger":
    an_opened_turn_raises_its_thread_and_makes_its_conversation,
    a_conversation_of_another_id_is_not_made,
    a_turn_opens_when_those_before_it_have_ended,
    of_many_turns_that_open_at_once_one_does,
    a_key_opens_one_turn,
    a_turn_that_waits_begins_when_it_is_the_next,
    opened_turns_are_due_for_who_opens_them,
    a_turn_that_closes_leaves_what_was_said_and_recorded,
    a_turn_that_is_not_as_it_was_seen_does_not_close,
    an_effect_is_recorded_before_and_after,
    of_records_of_one_name_at_once_one_is_first,
    who_lost_the_thread_records_nothing,
    records_go_with_their_conversation,
];

fn record(name: &str, value: Option<&str>) -> TurnRecord {
    TurnRecord {
        name: name.to_owned(),
        value: value.map(|text| Value::from_parts("msgpack", text.as_bytes().to_vec())),
    }
}

fn opening(conversation: ConversationId) -> TurnOpening {
    let mut turn = Turn::new(conversation, MessageId::new());
    turn.lease_owner = Some(OwnerId::new());
    turn.lease = Duration::from_secs(60);
    TurnOpening {
        turn,
        thread_id: conversation.to_string().into(),
        message: None,
        key: None,
        records: vec![record("input", Some(AWKWARD))],
    }
}

async fn open(storage: &Arc<dyn Storage>, opening: TurnOpening) -> Turn {
    match storage.turn_ledger().open(opening).await.unwrap() {
        Opened::Turn(turn) => *turn,
        Opened::Busy => panic!("busy"),
    }
}

async fn opened(storage: &Arc<dyn Storage>) -> Turn {
    open(storage, opening(ConversationId::new())).await
}

fn closing(turn: &Turn) -> TurnClosing {
    let mut next = turn.clone();
    (next.status, next.lease_owner) = (TurnStatus::Completed, None);
    TurnClosing {
        seen: turn.clone(),
        next,
        messages: Vec::new(),
        records: Vec::new(),
    }
}

fn owner(turn: &Turn) -> TurnOwner {
    TurnOwner {
        thread_id: turn.conversation_id.to_string().into(),
        conversation_id: turn.conversation_id,
        turn_id: turn.id,
        epoch: turn.epoch,
    }
}

/// Whether the thread takes writes of this epoch.
async fn holds(storage: &Arc<dyn Storage>, thread_id: &ThreadId, epoch: u64) -> bool {
    let key = CheckpointKey {
        thread_id: thread_id.clone(),
        namespace: Namespace::root(),
        checkpoint_id: MessageId::new().to_string().into(),
    };
    let writes = NewWrites {
        key,
        task_id: "task".to_owned(),
        task_path: String::new(),
        writes: vec![ChannelWrite {
            channel: "channel".to_owned(),
            value: Value::from_parts("null", Vec::new()),
        }],
    };
    let hold = Some(Fence::Hold(epoch));
    match storage.checkpointer().put_writes(writes, hold).await {
        Ok(()) => true,
        Err(Error::Fenced { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn an_opened_turn_raises_its_thread_and_makes_its_conversation(storage: Arc<dyn Storage>) {
    let mut opening = opening(ConversationId::new());
    let conversation = opening.turn.conversation_id;
    let mut message = Message::new(conversation, Role::User, AWKWARD);
    message.metadata = Some(json!({"from": AWKWARD}));
    opening.message = Some(message.clone());
    let turn = open(&storage, opening.clone()).await;
    let mut expected = opening.turn.clone();
    expected.epoch = 1;
    assert_eq!(turn, expected);
    assert_eq!(
        storage.turns().get(&turn.id()).await.unwrap(),
        Some(turn.clone())
    );
    let made = storage.conversations().get(&conversation).await.unwrap();
    assert_eq!(made.unwrap().thread_id(), opening.thread_id);
    let messages = ListQuery::filtered(MessageFilter::of(conversation));
    let messages = storage.messages().list(&messages).await.unwrap();
    assert_eq!(messages.items, [message]);
    let ledger = storage.turn_ledger();
    let records = ledger.records(conversation, turn.id).await.unwrap();
    assert_eq!(records, opening.records);
    assert!(holds(&storage, &opening.thread_id, 1).await);
    assert!(!holds(&storage, &opening.thread_id, 2).await);
}

async fn a_conversation_of_another_id_is_not_made(storage: Arc<dyn Storage>) {
    let adopting = Conversation::titled("Adopts").with_thread(MessageId::new().0);
    let adopting = storage.conversations().add(adopting).await.unwrap();
    let thread_id = adopting.thread_id();
    let mut opening = opening(ConversationId(adopting.checkpoint_thread_id));
    let ledger = storage.turn_ledger();
    assert_not_found(ledger.open(opening.clone()).await);
    assert!(!holds(&storage, &thread_id, 1).await);
    opening.turn.conversation_id = adopting.id;
    assert_eq!(open(&storage, opening.clone()).await.epoch, 1);
    assert!(holds(&storage, &thread_id, 1).await);
    opening.turn = Turn::new(ConversationId::new(), MessageId::new());
    assert_not_found(ledger.open(opening).await);
}

async fn a_turn_opens_when_those_before_it_have_ended(storage: Arc<dyn Storage>) {
    let first = opened(&storage).await;
    let ledger = storage.turn_ledger();
    let second = opening(first.conversation_id);
    assert_eq!(ledger.open(second.clone()).await.unwrap(), Opened::Busy);
    assert!(holds(&storage, &second.thread_id, 1).await);
    let mut waiting = closing(&first);
    waiting.next.status = TurnStatus::Waiting;
    let waiting = ledger.close(waiting).await.unwrap();
    assert_eq!(ledger.open(second.clone()).await.unwrap(), Opened::Busy);
    ledger.close(closing(&waiting)).await.unwrap();
    assert_eq!(open(&storage, second.clone()).await.epoch, 2);
    assert!(!holds(&storage, &second.thread_id, 1).await);
}

async fn of_many_turns_that_open_at_once_one_does(storage: Arc<dyn Storage>) {
    let conversation = ConversationId::new();
    let ledger = storage.turn_ledger();
    let attempts = (0..8).map(|_| {
        let (ledger, opening) = (Arc::clone(&ledger), opening(conversation));
        async move { ledger.open(opening).await }
    });
    let mut epochs = Vec::new();
    for attempt in all_at_once(attempts).await {
        match attempt {
            Ok(Opened::Turn(turn)) => epochs.push(turn.epoch),
            Ok(Opened::Busy) | Err(Error::Conflict(ConflictKind::Turn(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(epochs, [1]);
    assert!(holds(&storage, &conversation.to_string().into(), 1).await);
}

async fn a_key_opens_one_turn(storage: Arc<dyn Storage>) {
    let mut first = opening(ConversationId::new());
    let key =
        |turn: &Turn| IdempotencyKey::new(turn.conversation_id.0, "key", b"request", turn.id.0);
    first.key = Some(key(&first.turn));
    let turn = open(&storage, first.clone()).await;
    let ledger = storage.turn_ledger();
    ledger.close(closing(&turn)).await.unwrap();
    let mut again = opening(turn.conversation_id);
    again.key = Some(key(&again.turn));
    let id = key(&again.turn).id;
    match ledger.open(again).await {
        Err(Error::Conflict(ConflictKind::IdempotencyKey(taken))) => assert_eq!(taken, id),
        other => panic!("{other:?}"),
    }
    assert!(holds(&storage, &first.thread_id, 1).await);
    let used = storage.idempotency_keys().get(&key(&turn).id()).await;
    assert_eq!(used.unwrap().unwrap().resource_id, turn.id.0);
}

async fn a_turn_that_waits_begins_when_it_is_the_next(storage: Arc<dyn Storage>) {
    let first = opened(&storage).await;
    let ledger = storage.turn_ledger();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut opening = opening(first.conversation_id);
        opening.turn.status = TurnStatus::Queued;
        waiting.push(ledger.enqueue(opening).await.unwrap());
    }
    let thread_id: ThreadId = first.conversation_id.to_string().into();
    let begin = async |queued: &Turn| {
        let mut running = queued.clone();
        running.status = TurnStatus::Running;
        let begun = ledger.begin_opened(&thread_id, running).await;
        begun.unwrap().map(|turn| turn.epoch)
    };
    assert_eq!(begin(&waiting[0]).await, None);
    assert!(holds(&storage, &thread_id, 1).await);
    ledger.close(closing(&first)).await.unwrap();
    assert_eq!(begin(&waiting[1]).await, None);
    assert_eq!(begin(&waiting[0]).await, Some(2));
    assert_eq!(begin(&waiting[0]).await, None);
    let stored = storage
        .turns()
        .get(&waiting[0].id())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((stored.status, stored.epoch), (TurnStatus::Running, 2));
    assert!(holds(&storage, &thread_id, 2).await);
}

async fn opened_turns_are_due_for_who_opens_them(storage: Arc<dyn Storage>) {
    let mut opening = opening(ConversationId::new());
    opening.turn.lease = Duration::ZERO;
    let opened = open(&storage, opening.clone()).await;
    let conversation = add_conversation(&storage).await.id;
    let engines = Turn::new(conversation, MessageId::new());
    let engines = storage.turns().add(engines).await.unwrap();
    let (ledger, turns) = (storage.turn_ledger(), storage.turn_store());
    let due = ledger.due_opened(10_000).await.unwrap();
    let own = due.iter().find(|due| due.turn.id == opened.id).unwrap();
    assert_eq!(own.thread_id, opening.thread_id);
    assert!(due.iter().all(|due| due.turn.id != engines.id));
    let due = turns.due(10_000).await.unwrap();
    assert!(due.iter().any(|turn| turn.id == engines.id));
    assert!(due.iter().all(|turn| turn.id != opened.id));

    let (owner, lease) = (OwnerId::new(), Duration::from_secs(60));
    assert_eq!(turns.take(&opened, owner, lease).await.unwrap(), None);
    assert_eq!(
        ledger.take_opened(&engines, owner, lease).await.unwrap(),
        None
    );
    let taken = ledger.take_opened(&opened, owner, lease).await.unwrap();
    let taken = taken.unwrap();
    assert_eq!((taken.epoch, taken.attempt), (2, 2));
    assert_eq!(
        ledger
            .take_opened(&taken, OwnerId::new(), lease)
            .await
            .unwrap(),
        None
    );
}

async fn a_turn_that_closes_leaves_what_was_said_and_recorded(storage: Arc<dyn Storage>) {
    let turn = opened(&storage).await;
    let ledger = storage.turn_ledger();
    let said: Vec<_> = ["One", AWKWARD]
        .map(|text| Message::new(turn.conversation_id, Role::Assistant, text))
        .into();
    let mut closing = closing(&turn);
    closing.next.assistant_message_id = Some(said[1].id);
    closing.messages.clone_from(&said);
    closing.records = vec![record("result", Some("Yes")), record("input", Some("No"))];
    let closed = ledger.close(closing.clone()).await.unwrap();
    assert!(closed.updated_at > turn.updated_at);
    let stored = storage.turns().get(&turn.id()).await.unwrap().unwrap();
    assert_eq!(stored, closed);
    assert_eq!(stored.status, TurnStatus::Completed);
    let messages = ListQuery::filtered(MessageFilter::of(turn.conversation_id)).oldest_first();
    let messages = storage.messages().list(&messages).await.unwrap();
    assert_eq!(messages.items, said);
    // What has a value keeps it.
    let records = ledger.records(turn.conversation_id, turn.id).await.unwrap();
    let expected = [
        record("input", Some(AWKWARD)),
        record("result", Some("Yes")),
    ];
    assert_eq!(records, expected);
}

async fn a_turn_that_is_not_as_it_was_seen_does_not_close(storage: Arc<dyn Storage>) {
    let turn = opened(&storage).await;
    let ledger = storage.turn_ledger();
    let mut late = closing(&turn);
    late.seen.epoch = 7;
    late.records = vec![record("result", Some("Late"))];
    match ledger.close(late).await {
        Err(Error::Conflict(ConflictKind::Turn(id))) => assert_eq!(id, turn.id),
        other => panic!("{other:?}"),
    }
    let mut taken = closing(&turn);
    let message = Message::new(turn.conversation_id, Role::Assistant, "Twice");
    storage.messages().add(message.clone()).await.unwrap();
    let id = message.id;
    taken.messages = vec![message];
    match ledger.close(taken).await {
        Err(Error::Conflict(ConflictKind::Message(taken))) => assert_eq!(taken, id),
        other => panic!("{other:?}"),
    }
    let stored = storage.turns().get(&turn.id()).await.unwrap();
    assert_eq!(stored, Some(turn.clone()));
    let records = ledger.records(turn.conversation_id, turn.id).await;
    assert_eq!(records.unwrap().len(), 1);
}

async fn an_effect_is_recorded_before_and_after(storage: Arc<dyn Storage>) {
    let turn = opened(&storage).await;
    let (ledger, owner) = (storage.turn_ledger(), owner(&turn));
    let begins = record(AWKWARD, None);
    let before = ledger.record(&owner, begins.clone()).await.unwrap();
    assert_eq!(before, None);
    let before = ledger.record(&owner, begins.clone()).await.unwrap();
    assert_eq!(before, Some(begins.clone()));
    let ends = record(AWKWARD, Some("Done"));
    let before = ledger.record(&owner, ends.clone()).await.unwrap();
    assert_eq!(before, Some(begins.clone()));
    for late in [begins, record(AWKWARD, Some("Again"))] {
        let before = ledger.record(&owner, late).await.unwrap();
        assert_eq!(before, Some(ends.clone()));
    }
    let records = ledger.records(turn.conversation_id, turn.id).await.unwrap();
    assert!(records.contains(&ends) && records.len() == 2);
}

async fn of_records_of_one_name_at_once_one_is_first(storage: Arc<dyn Storage>) {
    let turn = opened(&storage).await;
    let attempts = (0..8).map(|_| {
        let (ledger, owner) = (storage.turn_ledger(), owner(&turn));
        async move { ledger.record(&owner, record("effect", None)).await.unwrap() }
    });
    let before = all_at_once(attempts).await;
    let first = before.iter().filter(|before| before.is_none());
    assert_eq!(first.count(), 1);
}

async fn who_lost_the_thread_records_nothing(storage: Arc<dyn Storage>) {
    let turn = opened(&storage).await;
    let (ledger, owner) = (storage.turn_ledger(), owner(&turn));
    let checkpointer = storage.checkpointer();
    let raised = checkpointer.raise_epoch(&owner.thread_id, 2).await;
    raised.unwrap();
    assert_fenced(ledger.record(&owner, record("effect", None)).await, 2);
    let records = ledger.records(turn.conversation_id, turn.id).await;
    assert_eq!(records.unwrap().len(), 1);
    let deleted = checkpointer.delete_thread(&owner.thread_id).await;
    deleted.unwrap();
    assert_fenced(ledger.record(&owner, record("effect", None)).await, 0);
}

async fn records_go_with_their_conversation(storage: Arc<dyn Storage>) {
    let turn = opened(&storage).await;
    let deleted = storage.conversations().delete(&turn.conversation_id).await;
    assert!(deleted.unwrap());
    let ledger = storage.turn_ledger();
    let records = ledger.records(turn.conversation_id, turn.id).await;
    assert_eq!(records.unwrap(), []);
    let due = ledger.due_opened(10_000).await.unwrap();
    assert!(due.iter().all(|due| due.turn.id != turn.id));
}
