//! Turns: at most one a conversation is running.

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
    Checkpointer, ConflictKind, ConversationId, Error, EventBatch, Fence, ListQuery, Message,
    MessageFilter, MessageId, OwnerId, PutOptions, Result, Role, Storage, Turn, TurnChange,
    TurnFilter, TurnId, TurnStatus,
};

pub(super) const CASES: &[Case] = cases!["turns":
    a_turn_reads_back_equal_at_every_status,
    a_second_running_turn_is_a_conflict,
    a_batch_with_two_running_turns_is_a_conflict,
    a_finished_turn_does_not_run_again_beside_another,
    a_turn_without_its_conversation_is_not_found,
    a_nul_character_in_the_error_is_refused,
    filters_take_a_conversation_and_a_status,
    a_turn_begins_and_ends_with_its_checkpoints,
    a_turn_that_fails_ends_without_an_answer,
    a_turn_that_may_not_begin_leaves_nothing,
    a_turn_that_may_not_end_goes_on,
    a_change_of_a_turn_is_part_of_a_unit,
    a_change_of_a_turn_may_ask_any_fence,
    of_many_turns_that_begin_at_once_one_does,
];

async fn a_turn_reads_back_equal_at_every_status(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut turn = Turn::new(conversation, MessageId::new());
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
        let read = storage.turns().get(&turn.id).await.unwrap();
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
    assert!(!turns.exists(&second.id).await.unwrap());

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
    assert!(!storage.turns().exists(&batch[0].id).await.unwrap());
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
    assert_eq!(turns.get(&finished.id).await.unwrap(), Some(finished));
}

async fn a_turn_without_its_conversation_is_not_found(storage: Arc<dyn Storage>) {
    let orphan = Turn::new(ConversationId::new(), MessageId::new());
    assert_not_found(storage.turns().add(orphan.clone()).await);
    assert!(!storage.turns().exists(&orphan.id).await.unwrap());
}

async fn a_nul_character_in_the_error_is_refused(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let mut turn = Turn::new(conversation, MessageId::new());
    turn.error = Some("\0".to_owned());
    assert_invalid(storage.turns().add(turn.clone()).await, "error");
    assert!(!storage.turns().exists(&turn.id).await.unwrap());
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
    let with = |status| TurnFilter {
        status: Some(status),
        ..of.clone()
    };
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
        let mut question = Message::new(conversation, Role::User, AWKWARD);
        question.metadata = Some(json!({"from": AWKWARD}));
        Self {
            thread: TestThread::new(storage),
            turn: Turn {
                epoch: 1,
                lease_owner: Some(OwnerId::new()),
                lease: Duration::from_secs(60),
                ..Turn::new(conversation, question.id)
            },
            question,
        }
    }

    fn begin(&self) -> TurnChange {
        TurnChange::Begin {
            turn: self.turn.clone(),
            message: self.question.clone(),
        }
    }

    fn end(&self) -> TurnChange {
        let id = self.question.id.answer();
        let mut answer = Message::new(self.turn.conversation_id, Role::Assistant, "Yes");
        answer.id = id;
        TurnChange::End {
            seen: self.turn.clone(),
            ended: Turn {
                status: TurnStatus::Completed,
                assistant_message_id: Some(id),
                lease_owner: None,
                ..self.turn.clone()
            },
            answer: Some(answer),
        }
    }

    async fn put(
        &self,
        checkpointer: &Arc<dyn Checkpointer>,
        fence: Fence,
        sequence: u64,
        change: TurnChange,
    ) -> Result<()> {
        let events = EventBatch {
            conversation_id: self.turn.conversation_id,
            turn_id: self.turn.id,
            sequence,
            events: vec![json!(MessageId::new())],
        };
        let telling = checkpointer.telling(fence, events, Some(change));
        let put = telling.put(self.thread.draft(None), PutOptions::default());
        put.await.map(drop)
    }

    async fn begun(storage: &Arc<dyn Storage>) -> Self {
        let new = Self::new(storage).await;
        let checkpointer = storage.checkpointer();
        let begun = new.put(&checkpointer, Fence::Raise(1), 1, new.begin());
        begun.await.unwrap();
        new
    }

    async fn stored(&self, storage: &Arc<dyn Storage>) -> Stored {
        let conversation = self.turn.conversation_id;
        let messages = ListQuery::filtered(MessageFilter::of(conversation)).oldest_first();
        let messages = storage.messages().list(&messages).await.unwrap().items;
        let turns = ListQuery::filtered(TurnFilter::default().of(conversation));
        let turns = storage.turns().list(&turns).await.unwrap().items;
        let events = storage.turn_events();
        let batches = events
            .read(conversation, self.turn.id, 0, 10)
            .await
            .unwrap();
        Stored {
            messages,
            turns,
            batches: batches.len(),
            checkpoints: self.thread.ids().await.len(),
        }
    }
}

async fn a_turn_begins_and_ends_with_its_checkpoints(storage: Arc<dyn Storage>) {
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
    let leases = storage.leases();
    let taken = leases.take(&begun.turn, OwnerId::new(), Duration::ZERO);
    assert_eq!(taken.await.unwrap(), None);

    let end = begun.end();
    let checkpointer = storage.checkpointer();
    begun
        .put(&checkpointer, Fence::Hold(1), 2, end.clone())
        .await
        .unwrap();
    let TurnChange::End {
        mut ended, answer, ..
    } = end
    else {
        unreachable!()
    };
    let stored = begun.stored(&storage).await;
    assert!(stored.turns[0].updated_at > begun.turn.updated_at);
    ended.updated_at = stored.turns[0].updated_at;
    expected.messages.extend(answer);
    expected.turns = vec![ended];
    (expected.batches, expected.checkpoints) = (2, 2);
    assert_eq!(stored, expected);
}

async fn a_turn_that_fails_ends_without_an_answer(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let end = TurnChange::End {
        seen: begun.turn.clone(),
        ended: Turn {
            status: TurnStatus::Failed,
            error: Some(AWKWARD.to_owned()),
            ..begun.turn.clone()
        },
        answer: None,
    };
    begun
        .put(&storage.checkpointer(), Fence::Hold(1), 2, end)
        .await
        .unwrap();
    let stored = begun.stored(&storage).await;
    assert_eq!(stored.messages, [begun.question]);
    assert_eq!(stored.turns[0].error.as_deref(), Some(AWKWARD));
    assert_eq!((stored.batches, stored.checkpoints), (2, 2));
}

#[track_caller]
fn assert_conflict_with(result: Result<()>, expected: ConflictKind) {
    match result {
        Err(Error::Conflict(kind)) => assert_eq!(kind, expected),
        other => panic!("{other:?}"),
    }
}

async fn a_turn_that_may_not_begin_leaves_nothing(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let before = begun.stored(&storage).await;
    let checkpointer = storage.checkpointer();
    let (conversation, raise) = (begun.turn.conversation_id, Fence::Raise(2));
    let message = Message::new(conversation, Role::User, "Another");
    let turn = Turn {
        status: TurnStatus::Queued,
        ..Turn::new(conversation, message.id)
    };
    let begin = |turn: &Turn, message: &Message| TurnChange::Begin {
        turn: turn.clone(),
        message: message.clone(),
    };
    let change = begin(&turn, &message);
    assert_fenced(
        begun
            .put(&checkpointer, Fence::Raise(1), 2, change.clone())
            .await,
        1,
    );
    // Its sequence is taken.
    assert_conflict_with(
        begun.put(&checkpointer, raise, 1, change).await,
        ConflictKind::EventBatch {
            turn: begun.turn.id,
            sequence: 1,
        },
    );
    let change = begin(&turn, &begun.question);
    assert_conflict_with(
        begun.put(&checkpointer, raise, 2, change).await,
        ConflictKind::Message(begun.question.id),
    );
    let second = Turn::new(conversation, message.id);
    let change = begin(&second, &message);
    assert_conflict_with(
        begun.put(&checkpointer, raise, 2, change).await,
        ConflictKind::Turn(second.id),
    );
    let nul = Message::new(conversation, Role::User, "\0");
    let change = begin(&turn, &nul);
    assert_invalid(begun.put(&checkpointer, raise, 2, change).await, "content");
    assert_eq!(begun.stored(&storage).await, before);

    let gone = Begun::new(&storage).await;
    let conversations = storage.conversations();
    assert!(
        conversations
            .delete(&gone.turn.conversation_id)
            .await
            .unwrap()
    );
    assert_not_found(gone.put(&checkpointer, raise, 1, gone.begin()).await);
    assert!(gone.thread.ids().await.is_empty());
    // Nor was the thread raised.
    begun
        .put(&checkpointer, Fence::Hold(1), 2, begun.end())
        .await
        .unwrap();
}

async fn a_turn_that_may_not_end_goes_on(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    let (before, end) = (begun.stored(&storage).await, begun.end());
    let checkpointer = storage.checkpointer();
    assert_fenced(
        begun
            .put(&checkpointer, Fence::Hold(2), 2, end.clone())
            .await,
        1,
    );
    assert_conflict_with(
        begun
            .put(&checkpointer, Fence::Hold(1), 1, end.clone())
            .await,
        ConflictKind::EventBatch {
            turn: begun.turn.id,
            sequence: 1,
        },
    );
    let TurnChange::End { seen, ended, .. } = end.clone() else {
        unreachable!()
    };
    let again = TurnChange::End {
        seen,
        ended,
        answer: Some(begun.question.clone()),
    };
    assert_conflict_with(
        begun.put(&checkpointer, Fence::Hold(1), 2, again).await,
        ConflictKind::Message(begun.question.id),
    );
    assert_eq!(begun.stored(&storage).await, before);

    // Somebody has the turn by now, though not the thread yet.
    let owner = begun.turn.lease_owner.unwrap();
    let leases = storage.leases();
    // It waits for nobody, and what was refused just now may still hold its locks.
    while leases
        .take(&begun.turn, owner, Duration::from_secs(60))
        .await
        .unwrap()
        .is_none()
    {
        moment().await;
    }
    let before = begun.stored(&storage).await;
    assert_conflict_with(
        begun.put(&checkpointer, Fence::Hold(1), 2, end).await,
        ConflictKind::Turn(begun.turn.id),
    );
    assert_eq!(begun.stored(&storage).await, before);
}

async fn a_change_of_a_turn_is_part_of_a_unit(storage: Arc<dyn Storage>) {
    let new = Begun::new(&storage).await;
    let nothing = new.stored(&storage).await;
    for commits in [false, true] {
        let unit = storage.begin().await.unwrap();
        let checkpointer = unit.checkpointer();
        new.put(&checkpointer, Fence::Raise(1), 1, new.begin())
            .await
            .unwrap();
        new.put(&checkpointer, Fence::Hold(1), 2, new.end())
            .await
            .unwrap();
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

async fn a_change_of_a_turn_may_ask_any_fence(storage: Arc<dyn Storage>) {
    let new = Begun::new(&storage).await;
    let checkpointer = storage.checkpointer();
    assert_fenced(
        new.put(&checkpointer, Fence::Hold(1), 1, new.begin()).await,
        0,
    );
    let raise = new.thread.fenced(Fence::Raise(1));
    raise.put(&raise.draft(None)).await;
    new.put(&checkpointer, Fence::Hold(1), 1, new.begin())
        .await
        .unwrap();
    assert_fenced(
        new.put(&checkpointer, Fence::Raise(1), 2, new.end()).await,
        1,
    );
    new.put(&checkpointer, Fence::Raise(2), 2, new.end())
        .await
        .unwrap();
    let stored = new.stored(&storage).await;
    assert_eq!((stored.messages.len(), stored.turns.len()), (2, 1));
    assert_eq!((stored.batches, stored.checkpoints), (2, 3));
}

async fn of_many_turns_that_begin_at_once_one_does(storage: Arc<dyn Storage>) {
    let begun = Begun::begun(&storage).await;
    begun
        .put(&storage.checkpointer(), Fence::Hold(1), 2, begun.end())
        .await
        .unwrap();
    let begun = Arc::new(begun);
    let attempts = (0..8).map(|_| {
        let (begun, checkpointer) = (Arc::clone(&begun), storage.checkpointer());
        async move {
            let conversation = begun.turn.conversation_id;
            let message = Message::new(conversation, Role::User, "Me");
            let turn = Turn::new(conversation, message.id);
            let events = EventBatch {
                conversation_id: conversation,
                turn_id: turn.id,
                sequence: 1,
                events: Vec::new(),
            };
            let change = Some(TurnChange::Begin { turn, message });
            let telling = checkpointer.telling(Fence::Raise(2), events, change);
            telling
                .put(begun.thread.draft(None), PutOptions::default())
                .await
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
