//! Turns: at most one a conversation is running.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use yai_agentkit_core::{
    ConflictKind, Conversation, ConversationId, Entity, Error, Fence, ListQuery, Message,
    MessageId, Result, Role, Storage, Turn, TurnId, TurnStatus,
    conversation::{MessageFilter, Part},
    turn::{EventBatch, IdempotencyKey, OwnerId, Place, TurnBegin, TurnChange, TurnFilter},
};

use super::{
    Case,
    fixtures::{
        AWKWARD, TestThread, add_conversation, all_at_once, assert_conflict, assert_fenced,
        assert_invalid, assert_not_found, moment, picture, replace,
    },
};

pub(super) const CASES: &[Case] = cases!["turns":
    a_turn_reads_back_equal_at_every_status,
    a_second_running_turn_is_a_conflict,
    a_batch_with_two_running_turns_is_a_conflict,
    a_finished_turn_does_not_run_again_beside_another,
    a_turn_without_its_conversation_is_not_found,
    a_nul_character_in_the_error_is_refused,
    filters_take_a_conversation_and_a_status,
    running_turns_are_counted_for_an_owner_and_for_all,
    a_turn_begins_and_ends_with_its_checkpoints,
    a_turn_that_fails_ends_without_an_answer,
    a_turn_that_may_not_begin_leaves_nothing,
    a_turn_that_may_not_end_goes_on,
    a_turn_that_begins_and_ends_is_part_of_a_unit,
    a_turn_may_end_in_a_thread_that_it_raises,
    a_key_is_used_by_the_turn_that_begins_with_it,
    a_turn_that_has_waited_begins_behind_what_was_said_meanwhile,
    a_turn_goes_on_with_what_is_written_and_told,
    of_many_turns_that_begin_at_once_one_does,
    a_turn_begins_a_branch_behind_a_message_or_answers_it_anew,
];

async fn a_turn_reads_back_equal_at_every_status(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut turn = Turn::new(conversation, MessageId::new());
    turn.input = Some(json!({"tools": [AWKWARD]}));
    let added = storage.turns().add(turn.clone()).await.unwrap();
    assert_eq!(added, turn);
    for (status, error) in [
        (TurnStatus::Failed, Some(AWKWARD.to_owned())),
        (TurnStatus::Failed, Some(String::new())),
        (TurnStatus::Completed, None),
        (TurnStatus::Running, None),
    ] {
        turn.status = status;
        turn.error = error;
        let updated = replace(&*storage.turns(), &turn).await.unwrap();
        assert!(updated.updated_at > turn.updated_at);
        turn.updated_at = updated.updated_at;
        assert_eq!(updated, turn);
        let read = storage.turns().get(&turn.id()).await.unwrap();
        assert_eq!(read.as_ref(), Some(&turn));
    }
}

async fn a_second_running_turn_is_a_conflict(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let turns = storage.turns();
    let mut running = Turn::new(conversation, MessageId::new());
    turns.add(running.clone()).await.unwrap();
    let second = Turn::new(conversation, MessageId::new());
    assert_conflict(turns.add(second.clone()).await);
    assert!(!turns.exists(&second.id()).await.unwrap());

    // It is no hindrance elsewhere, nor once it is over.
    let elsewhere = Turn::new(add_conversation(&storage).await.id, MessageId::new());
    turns.add(elsewhere).await.unwrap();
    running.status = TurnStatus::Completed;
    replace(&*turns, &running).await.unwrap();
    turns.add(second).await.unwrap();
}

async fn a_batch_with_two_running_turns_is_a_conflict(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let batch: Vec<Turn> = (0..2)
        .map(|_| Turn::new(conversation, MessageId::new()))
        .collect();
    assert_conflict(storage.turns().add_many(batch.clone()).await);
    assert!(!storage.turns().exists(&batch[0].id()).await.unwrap());
}

async fn a_finished_turn_does_not_run_again_beside_another(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let turns = storage.turns();
    let mut finished = Turn::new(conversation, MessageId::new());
    finished.status = TurnStatus::Failed;
    turns.add(finished.clone()).await.unwrap();
    turns
        .add(Turn::new(conversation, MessageId::new()))
        .await
        .unwrap();
    let mut again = finished.clone();
    again.status = TurnStatus::Running;
    assert_conflict(replace(&*turns, &again).await);
    assert_eq!(turns.get(&finished.id()).await.unwrap(), Some(finished));
}

async fn a_turn_without_its_conversation_is_not_found(storage: Arc<dyn Storage>) {
    let orphan = Turn::new(ConversationId::new(), MessageId::new());
    assert_not_found(storage.turns().add(orphan.clone()).await);
    assert!(!storage.turns().exists(&orphan.id()).await.unwrap());
}

async fn a_nul_character_in_the_error_is_refused(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut turn = Turn::new(conversation, MessageId::new());
    turn.error = Some("\0".to_owned());
    assert_invalid(storage.turns().add(turn.clone()).await, "error");
    assert!(!storage.turns().exists(&turn.id()).await.unwrap());
}

async fn filters_take_a_conversation_and_a_status(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut turns = Vec::new();
    for status in [
        TurnStatus::Completed,
        TurnStatus::Completed,
        TurnStatus::Failed,
        TurnStatus::Running,
    ] {
        let mut turn = Turn::new(conversation, MessageId::new());
        turn.status = status;
        turns.push(turn);
    }
    storage.turns().add_many(turns.clone()).await.unwrap();
    let of = TurnFilter::default().of(conversation);
    let with = |status| of.clone().status(status);
    let ids = |indexes: &[usize]| -> Vec<TurnId> {
        indexes.iter().map(|index| turns[*index].id).collect()
    };
    let expected = [
        (of.clone(), ids(&[3, 2, 1, 0])),
        (with(TurnStatus::Completed), ids(&[1, 0])),
        (with(TurnStatus::Failed), ids(&[2])),
        (TurnFilter::running().of(conversation), ids(&[3])),
        (TurnFilter::running().of(ConversationId::new()), ids(&[])),
    ];
    for (filter, expected) in expected {
        let count = storage.turns().count(&filter).await.unwrap();
        assert_eq!(count, expected.len() as u64);
        let page = storage.turns().list(&ListQuery::filtered(filter)).await;
        let found: Vec<_> = page.unwrap().items.iter().map(|turn| turn.id).collect();
        assert_eq!(found, expected);
    }
    let running = storage.turns().count(&TurnFilter::running()).await.unwrap();
    assert!(running >= 1);
}

async fn running_turns_are_counted_for_an_owner_and_for_all(storage: Arc<dyn Storage>) {
    // Of which nobody else has turns.
    let owner = ConversationId::new().to_string();
    for (owner, status) in [
        (Some(&owner), TurnStatus::Running),
        (Some(&owner), TurnStatus::Running),
        (Some(&owner), TurnStatus::Completed),
        (None, TurnStatus::Running),
    ] {
        let new = Conversation::new(None, None).with(|new| new.owner = owner.cloned());
        let conversation = storage.conversations().add(new).await.unwrap();
        let turn = Turn::new(conversation.id, MessageId::new()).with(|turn| turn.status = status);
        storage.turns().add(turn).await.unwrap();
    }
    let turns = storage.turn_store();
    assert_eq!(turns.running(Some(&owner)).await.unwrap(), 2);
    assert_eq!(turns.running(Some("nobody")).await.unwrap(), 0);
    assert!(turns.running(None).await.unwrap() >= 3);
}

/// A turn of a conversation of its own, and its thread.
struct Begun {
    thread: TestThread,
    question: Message,
    turn: Turn,
}

/// All that is stored of a turn.
#[derive(Debug, PartialEq)]
struct Stored {
    messages: Vec<Message>,
    turns: Vec<Turn>,
    batches: usize,
    checkpoints: usize,
}

impl Begun {
    async fn new(storage: &Arc<dyn Storage>) -> Self {
        let conversation = add_conversation(storage).await.id;
        let parts = vec![Part::text(AWKWARD), picture(40_000)];
        let mut question = Message::of_parts(conversation, Role::User, parts);
        question.metadata = Some(json!({"from": AWKWARD}));
        Self {
            thread: TestThread::new(storage),
            turn: Turn::new(conversation, question.id).with(|turn| {
                turn.epoch = 1;
                turn.lease_owner = Some(OwnerId::new());
                turn.lease = Duration::from_secs(60);
            }),
            question,
        }
    }

    fn events(&self, sequence: u64) -> EventBatch {
        EventBatch::new(
            self.turn.conversation_id,
            self.turn.id,
            sequence,
            vec![json!(MessageId::new())],
        )
    }

    fn begin(&self) -> TurnBegin {
        let (turn, message) = (self.turn.clone(), self.question.clone());
        TurnBegin::new(turn, message, self.thread.draft(None), self.events(1))
    }

    fn end(&self, fence: Fence, sequence: u64) -> TurnChange {
        let id = self.question.id.answer();
        let parts = vec![Part::text("Yes"), picture(40_000)];
        let mut answer = Message::of_parts(self.turn.conversation_id, Role::Assistant, parts);
        answer.id = id;
        let ended = self.turn.clone().with(|turn| {
            turn.status = TurnStatus::Completed;
            turn.assistant_message_id = Some(id);
            turn.lease_owner = None;
        });
        TurnChange::new(self.turn.clone(), ended)
            .with_answer(Some(answer))
            .with_checkpoint(self.thread.draft(None), fence)
            .with_events(self.events(sequence))
    }

    async fn begun(storage: &Arc<dyn Storage>) -> Self {
        let new = Self::new(storage).await;
        let begun = storage.turn_store().begin(new.begin()).await.unwrap();
        assert_eq!(begun, new.turn);
        new
    }

    async fn stored(&self, storage: &Arc<dyn Storage>) -> Stored {
        let conversation = self.turn.conversation_id;
        let messages = ListQuery::filtered(MessageFilter::of(conversation)).oldest_first();
        let messages = storage.messages().list(&messages).await.unwrap().items;
        let turns = ListQuery::filtered(TurnFilter::default().of(conversation));
        let turns = storage.turns().list(&turns).await.unwrap().items;
        let turns_told = storage.turn_store();
        let batches = turns_told.events(conversation, self.turn.id, 0, 10);
        let batches = batches.await.unwrap();
        Stored {
            messages,
            turns,
            batches: batches.len(),
            checkpoints: self.thread.ids().await.len(),
        }
    }
}

async fn a_turn_begins_and_ends_with_its_checkpoints(storage: Arc<dyn Storage>) {
    let turns = storage.turn_store();
    let begun = Begun::begun(&storage).await;
    let (question, turn) = (begun.question.clone(), begun.turn.clone());
    let mut expected = Stored {
        messages: vec![question],
        turns: vec![turn],
        batches: 1,
        checkpoints: 1,
    };
    assert_eq!(begun.stored(&storage).await, expected);
    // Its lease has begun.
    let taken = turns.take(&begun.turn, OwnerId::new(), Duration::ZERO);
    assert_eq!(taken.await.unwrap(), None);

    let end = begun.end(Fence::Hold(1), 2);
    let ended = turns.change(end.clone()).await.unwrap();
    assert!(ended.updated_at > begun.turn.updated_at);
    let as_asked = end.next.with(|turn| turn.updated_at = ended.updated_at);
    assert_eq!(ended, as_asked);
    expected.messages.extend(end.answer);
    expected.turns = vec![ended];
    (expected.batches, expected.checkpoints) = (2, 2);
    assert_eq!(begun.stored(&storage).await, expected);
}

async fn a_turn_that_fails_ends_without_an_answer(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let mut end = begun.end(Fence::Hold(1), 2).with_answer(None);
    end.next = begun.turn.clone().with(|turn| {
        turn.status = TurnStatus::Failed;
        turn.error = Some(AWKWARD.to_owned());
    });
    storage.turn_store().change(end).await.unwrap();
    let stored = begun.stored(&storage).await;
    assert_eq!(stored.messages, [begun.question]);
    assert_eq!(stored.turns[0].error.as_deref(), Some(AWKWARD));
    assert_eq!((stored.batches, stored.checkpoints), (2, 2));
}

#[track_caller]
fn assert_conflict_with<T: std::fmt::Debug>(result: Result<T>, expected: ConflictKind) {
    match result {
        Err(Error::Conflict(kind)) => assert_eq!(kind, expected),
        other => panic!("{other:?}"),
    }
}

async fn a_turn_that_may_not_begin_leaves_nothing(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let before = begun.stored(&storage).await;
    let turns = storage.turn_store();
    let conversation = begun.turn.conversation_id;
    let message = Message::new(conversation, Role::User, "Another");
    let mut begin = begun.begin();
    begin.turn = Turn::new(conversation, message.id).with(|turn| {
        turn.status = TurnStatus::Queued;
        turn.epoch = 2;
    });
    (begin.message, begin.events) = (message, begun.events(2));
    let mut refused = begin.clone();
    refused.turn.epoch = 1;
    assert_fenced(turns.begin(refused).await, 1);
    let mut refused = begin.clone();
    refused.events = begun.events(1);
    assert_conflict_with(
        turns.begin(refused).await,
        ConflictKind::EventBatch {
            turn: begun.turn.id,
            sequence: 1,
        },
    );
    let mut refused = begin.clone();
    refused.message = begun.question.clone();
    assert_conflict_with(
        turns.begin(refused).await,
        ConflictKind::Message(begun.question.id),
    );
    let mut second = begin.clone();
    second.turn.status = TurnStatus::Running;
    let id = second.turn.id;
    assert_conflict_with(turns.begin(second).await, ConflictKind::Turn(id));
    begin.message = Message::new(conversation, Role::User, "\0");
    assert_invalid(turns.begin(begin).await, "content");
    assert_eq!(begun.stored(&storage).await, before);

    let gone = Begun::new(&storage).await;
    let conversations = storage.conversations();
    let deleted = conversations.delete(&gone.turn.conversation_id).await;
    assert!(deleted.unwrap());
    assert_not_found(turns.begin(gone.begin()).await);
    assert!(gone.thread.ids().await.is_empty());
    // Nor was the thread raised.
    turns.change(begun.end(Fence::Hold(1), 2)).await.unwrap();
}

async fn a_turn_that_may_not_end_goes_on(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let before = begun.stored(&storage).await;
    let turns = storage.turn_store();
    for (fence, sequence) in [(Fence::Hold(2), 2), (Fence::Raise(1), 2)] {
        assert_fenced(turns.change(begun.end(fence, sequence)).await, 1);
    }
    assert_conflict_with(
        turns.change(begun.end(Fence::Hold(1), 1)).await,
        ConflictKind::EventBatch {
            turn: begun.turn.id,
            sequence: 1,
        },
    );
    let end = begun.end(Fence::Hold(1), 2);
    let again = end.clone().with_answer(Some(begun.question.clone()));
    assert_conflict_with(
        turns.change(again).await,
        ConflictKind::Message(begun.question.id),
    );
    assert_eq!(begun.stored(&storage).await, before);

    // Somebody has the turn by now, though not the thread yet.
    let owner = begun.turn.lease_owner.unwrap();
    // It waits for nobody, and what was refused just now may still hold its locks.
    while turns
        .take(&begun.turn, owner, Duration::from_secs(60))
        .await
        .unwrap()
        .is_none()
    {
        moment().await;
    }
    let before = begun.stored(&storage).await;
    let kind = ConflictKind::Turn(begun.turn.id);
    assert_conflict_with(turns.change(end).await, kind);
    assert_eq!(begun.stored(&storage).await, before);
}

async fn a_turn_that_begins_and_ends_is_part_of_a_unit(storage: Arc<dyn Storage>) {
    let new = Begun::new(&storage).await;
    let nothing = new.stored(&storage).await;
    for commits in [false, true] {
        let unit = storage.begin().await.unwrap();
        let turns = unit.turn_store();
        turns.begin(new.begin()).await.unwrap();
        turns.change(new.end(Fence::Hold(1), 2)).await.unwrap();
        if commits {
            unit.commit().await.unwrap();
        } else {
            drop(unit);
            assert_eq!(new.stored(&storage).await, nothing);
        }
    }
    let stored = new.stored(&storage).await;
    assert_eq!((stored.messages.len(), stored.turns.len()), (2, 1));
    assert_eq!((stored.batches, stored.checkpoints), (2, 2));
}

async fn a_turn_may_end_in_a_thread_that_it_raises(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let checkpointer = storage.checkpointer();
    let deleted = checkpointer.delete_thread(&begun.thread.id).await;
    deleted.unwrap();
    let turns = storage.turn_store();
    assert_fenced(turns.change(begun.end(Fence::Hold(1), 2)).await, 0);
    turns.change(begun.end(Fence::Raise(1), 2)).await.unwrap();
    let stored = begun.stored(&storage).await;
    assert_eq!((stored.messages.len(), stored.turns.len()), (2, 1));
    assert_eq!((stored.batches, stored.checkpoints), (2, 1));
}

async fn a_key_is_used_by_the_turn_that_begins_with_it(storage: Arc<dyn Storage>) {
    // All in units, for another case forgets keys.
    for repeats in [false, true] {
        let new = Begun::new(&storage).await;
        let nothing = new.stored(&storage).await;
        let scope = new.turn.conversation_id.0;
        let key = IdempotencyKey::new(scope, "key", b"request", new.turn.id.0);
        let unit = storage.begin().await.unwrap();
        if repeats {
            unit.idempotency_keys().add(key.clone()).await.unwrap();
        }
        let mut begin = new.begin();
        begin.key = Some(key.clone());
        let begun = unit.turn_store().begin(begin).await;
        if repeats {
            assert_conflict_with(begun, ConflictKind::IdempotencyKey(key.id));
        } else {
            begun.unwrap();
            let used = unit.idempotency_keys().get(&key.id()).await;
            assert_eq!(used.unwrap(), Some(key));
        }
        drop(unit);
        assert_eq!(new.stored(&storage).await, nothing);
    }
}

async fn a_turn_that_has_waited_begins_behind_what_was_said_meanwhile(storage: Arc<dyn Storage>) {
    let waiting = Begun::new(&storage).await;
    let queued = waiting.turn.clone().with(|turn| {
        turn.status = TurnStatus::Queued;
        turn.epoch = 0;
    });
    let messages = storage.messages();
    messages.add(waiting.question.clone()).await.unwrap();
    storage.turns().add(queued.clone()).await.unwrap();
    let meanwhile = Message::new(queued.conversation_id, Role::Assistant, "Meanwhile");
    messages.add(meanwhile.clone()).await.unwrap();

    let mut begin = waiting.begin();
    begin.queued = Some(queued.clone());
    let turns = storage.turn_store();
    let running = turns.begin(begin.clone()).await.unwrap();
    assert_eq!((running.status, running.epoch), (TurnStatus::Running, 1));
    let stored = waiting.stored(&storage).await;
    assert_eq!(stored.messages, [meanwhile, waiting.question.clone()]);
    assert_eq!(stored.turns, [running]);
    assert_eq!((stored.batches, stored.checkpoints), (1, 1));
    // It does not wait any more.
    begin.events = waiting.events(2);
    begin.turn.epoch = 2;
    let kind = ConflictKind::Turn(queued.id);
    assert_conflict_with(turns.begin(begin).await, kind);
    assert_eq!(waiting.stored(&storage).await, stored);
}

async fn a_turn_goes_on_with_what_is_written_and_told(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let turns = storage.turn_store();
    let asking = begun
        .turn
        .clone()
        .with(|turn| turn.status = TurnStatus::Waiting);
    let asks = TurnChange::new(begun.turn.clone(), asking).with_events(begun.events(2));
    let asking = turns.change(asks.clone()).await.unwrap();
    let kind = ConflictKind::Turn(asking.id);
    assert_conflict_with(turns.change(asks).await, kind);

    let head = begun.thread.latest().await.unwrap();
    let writes = [("call", "yes"), ("other call", "no")];
    let writes = writes.map(|(call, answer)| {
        let answered = [("answer", answer)];
        begun.thread.writes(&head, call, "", &answered)
    });
    let next = asking.clone().with(|turn| {
        turn.status = TurnStatus::Running;
        turn.input = Some(json!({"tools": []}));
        turn.epoch = 2;
    });
    let goes_on = |fence, sequence| {
        TurnChange::new(asking.clone(), next.clone())
            .with_writes(writes.to_vec(), fence)
            .with_events(begun.events(sequence))
    };
    assert_fenced(turns.change(goes_on(Fence::Raise(1), 3)).await, 1);
    let taken = ConflictKind::EventBatch {
        turn: asking.id,
        sequence: 2,
    };
    assert_conflict_with(turns.change(goes_on(Fence::Raise(2), 2)).await, taken);
    assert!(begun.thread.texts(&head).await.is_empty());
    turns.change(goes_on(Fence::Raise(2), 3)).await.unwrap();
    assert_eq!(begun.thread.texts(&head).await, ["yes", "no"]);
    let stored = begun.stored(&storage).await;
    assert_eq!(stored.turns[0].status, TurnStatus::Running);
    assert_eq!(stored.turns[0].input, next.input);
    assert_eq!((stored.batches, stored.checkpoints), (3, 1));
}

async fn of_many_turns_that_begin_at_once_one_does(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let end = begun.end(Fence::Hold(1), 2);
    storage.turn_store().change(end).await.unwrap();
    let begun = Arc::new(begun);
    let attempts = (0..8).map(|_| {
        let (begun, turns) = (Arc::clone(&begun), storage.turn_store());
        async move {
            let conversation = begun.turn.conversation_id;
            let message = Message::new(conversation, Role::User, "Me");
            let mut turn = Turn::new(conversation, message.id);
            turn.epoch = 2;
            let mut begin = begun.begin();
            begin.events.turn_id = turn.id;
            (begin.turn, begin.message) = (turn, message);
            turns.begin(begin).await
        }
    });
    let (won, lost): (Vec<_>, Vec<_>) = all_at_once(attempts)
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    for outcome in lost {
        let is_refused = matches!(
            outcome,
            Err(Error::Fenced { epoch: 2, .. } | Error::Conflict(_))
        );
        assert!(is_refused, "{outcome:?}");
    }
    let stored = begun.stored(&storage).await;
    assert_eq!((stored.messages.len(), stored.turns.len()), (3, 2));
    assert_eq!(stored.checkpoints, 3);
}

async fn a_turn_begins_a_branch_behind_a_message_or_answers_it_anew(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let turns = storage.turn_store();
    turns.change(begun.end(Fence::Hold(1), 2)).await.unwrap();
    let conversation = begun.turn.conversation_id;
    let (question, answer) = (begun.question.id, begun.question.id.answer());
    let next = |epoch, message: &Message, place| {
        let turn = Turn::new(conversation, message.id).with(|turn| turn.epoch = epoch);
        let events = EventBatch::new(conversation, turn.id, 1, Vec::new());
        let draft = begun.thread.draft(None);
        let mut begin = TurnBegin::new(turn, message.clone(), draft, events);
        begin.place = place;
        begin
    };
    let edited = Message::new(conversation, Role::User, "Edited");
    let nowhere = next(2, &edited, Place::Behind(Some(MessageId::new())));
    let before = begun.stored(&storage).await;
    assert_not_found(turns.begin(nowhere).await);
    assert_eq!(begun.stored(&storage).await, before);

    let ids = async |filter| {
        let query = ListQuery::filtered(filter).oldest_first();
        let page = storage.messages().list(&query).await.unwrap();
        page.items
            .iter()
            .map(|message| message.id)
            .collect::<Vec<_>>()
    };
    let chosen = MessageFilter::of(conversation);
    let begin = next(2, &edited, Place::Behind(None));
    let turn = turns.begin(begin.clone()).await.unwrap();
    assert_eq!(ids(chosen.clone()).await, [edited.id]);
    assert_eq!(
        ids(chosen.clone().of_other_branches()).await,
        [question, answer]
    );
    let failed = turn.clone().with(|turn| turn.status = TurnStatus::Failed);
    turns.change(TurnChange::new(turn, failed)).await.unwrap();
    assert_fenced(turns.begin(begin).await, 2);

    let again = next(3, &begun.question, Place::Stored);
    turns.begin(again).await.unwrap();
    assert_eq!(ids(chosen.clone()).await, [question]);
    assert_eq!(ids(chosen.of_other_branches()).await, [answer, edited.id]);
}
