//! Leases: a running turn has one owner, until its lease has ended by the storage's clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use yai_agentkit_core::{
    Clock, ConversationId, Entity, MessageId, Result, Storage, Turn, TurnId, TurnStatus, TurnStore,
    turn::{IdempotencyKey, Interrupt, OwnerId, ProposedCall, TurnChange},
};

use serde_json::json;

use super::{
    Case,
    fixtures::{add_conversation, all_at_once, assert_conflict, moment},
};

pub(super) const CASES: &[Case] = cases!["leases":
    a_turn_is_replaced_only_as_it_was_seen,
    a_lease_keeps_others_away_until_it_ends,
    a_turn_that_was_given_back_is_taken_without_a_new_attempt,
    a_renewed_lease_lasts,
    of_many_that_take_a_turn_at_once_one_gets_it,
    the_first_turn_of_a_queue_is_due_once_nothing_goes_before_it,
    no_clock_but_the_storages_ends_a_lease,
    a_key_is_used_once_in_its_scope,
];

const LONG: Duration = Duration::from_secs(3600);

async fn owned(storage: &Arc<dyn Storage>, conversation: ConversationId, lease: Duration) -> Turn {
    let turn = Turn::new(conversation, MessageId::new()).with(|turn| {
        turn.lease_owner = Some(OwnerId::new());
        turn.lease = lease;
        turn.epoch = 1;
    });
    storage.turns().add(turn).await.unwrap()
}

async fn replace(turns: &dyn TurnStore, seen: &Turn, next: Turn) -> Result<Turn> {
    turns.change(TurnChange::new(seen.clone(), next)).await
}

async fn is_due(storage: &Arc<dyn Storage>, id: TurnId) -> bool {
    let due = storage.turn_store().due(100_000).await.unwrap();
    due.iter().any(|turn| turn.id == id)
}

/// The database's clock may be coarser than ours.
async fn becomes_due(storage: &Arc<dyn Storage>, id: TurnId) {
    let due = async {
        while !is_due(storage, id).await {
            moment().await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, due).await.unwrap();
}

async fn a_turn_is_replaced_only_as_it_was_seen(storage: Arc<dyn Storage>) {
    let conversation = add_conversation(&storage).await.id;
    let turns = storage.turn_store();
    let seen = owned(&storage, conversation, LONG).await;
    let next = seen.clone().with(|turn| {
        turn.status = TurnStatus::Waiting;
        let proposed = ProposedCall {
            name: "pay".to_owned(),
            arguments: json!({"to": "a\0b"}),
        };
        let calls = ["a", "b"].map(str::to_owned);
        turn.interrupt = Some(Interrupt::new("call", "").for_client(calls).about(proposed));
        turn.input = Some(json!({"tools": ["a", "b"]}));
        turn.error = Some("error".to_owned());
        turn.assistant_message_id = Some(MessageId::new());
        turn.attempt = 3;
        turn.epoch = 2;
        turn.lease_owner = None;
        turn.started_at = None;
    });
    let replaced = replace(&*turns, &seen, next.clone()).await.unwrap();
    assert!(replaced.updated_at > seen.updated_at);
    assert_eq!(
        replaced,
        next.clone()
            .with(|turn| turn.updated_at = replaced.updated_at)
    );
    let stored = storage.turns().get(&seen.id()).await.unwrap();
    assert_eq!(stored.as_ref(), Some(&replaced));
    for stale in [
        seen.clone(),
        replaced.clone().with(|turn| turn.epoch = 1),
        replaced
            .clone()
            .with(|turn| turn.status = TurnStatus::Running),
    ] {
        assert_conflict(replace(&*turns, &stale, seen.clone()).await);
    }
    assert_eq!(storage.turns().get(&seen.id()).await.unwrap(), stored);

    // Only one runs.
    owned(&storage, conversation, LONG).await;
    let again = replaced
        .clone()
        .with(|turn| turn.status = TurnStatus::Running);
    assert_conflict(replace(&*turns, &replaced, again).await);
    storage.conversations().delete(&conversation).await.unwrap();
    assert_conflict(replace(&*turns, &replaced, seen).await);
}

async fn a_lease_keeps_others_away_until_it_ends(storage: Arc<dyn Storage>) {
    let turns = storage.turn_store();
    let conversation = add_conversation(&storage).await.id;
    let held = owned(&storage, conversation, LONG).await;
    let other = OwnerId::new();
    assert!(!is_due(&storage, held.id).await);
    assert_eq!(turns.take(&held, other, LONG).await.unwrap(), None);
    // The owner itself may.
    let owner = held.lease_owner.unwrap();
    let again = turns
        .take(&held, owner, Duration::ZERO)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (again.epoch, again.attempt, again.lease_owner),
        (2, 2, Some(owner))
    );

    becomes_due(&storage, held.id).await;
    assert_eq!(
        turns.take(&held, other, LONG).await.unwrap(),
        None,
        "seen before it was taken"
    );
    let taken = turns.take(&again, other, LONG).await.unwrap().unwrap();
    assert_eq!(
        (taken.epoch, taken.attempt, taken.lease_owner),
        (3, 3, Some(other))
    );
    assert_eq!(
        storage.turns().get(&held.id()).await.unwrap(),
        Some(taken.clone())
    );
    assert!(!is_due(&storage, held.id).await);
    assert_conflict(replace(&*turns, &again, held).await);

    let ended = taken
        .clone()
        .with(|turn| turn.status = TurnStatus::Completed);
    let ended = replace(&*turns, &taken, ended).await.unwrap();
    assert_eq!(turns.take(&ended, other, LONG).await.unwrap(), None);
    assert!(!is_due(&storage, ended.id).await);
}

async fn a_turn_that_was_given_back_is_taken_without_a_new_attempt(storage: Arc<dyn Storage>) {
    let turns = storage.turn_store();
    let held = owned(&storage, add_conversation(&storage).await.id, LONG).await;
    let given_back = held.clone().with(|turn| turn.lease_owner = None);
    let given_back = replace(&*turns, &held, given_back).await.unwrap();
    assert!(is_due(&storage, held.id).await);
    let taken = turns
        .take(&given_back, OwnerId::new(), LONG)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((taken.epoch, taken.attempt), (2, 1));
}

async fn a_renewed_lease_lasts(storage: Arc<dyn Storage>) {
    let turns = storage.turn_store();
    let short = Duration::from_millis(300);
    let held = owned(&storage, add_conversation(&storage).await.id, short).await;
    let owner = held.lease_owner.unwrap();
    becomes_due(&storage, held.id).await;
    let renewed = Instant::now();
    assert_eq!(turns.renew(owner).await.unwrap(), [held.conversation_id]);
    assert_eq!(turns.renew(OwnerId::new()).await.unwrap(), []);
    let taken = loop {
        match turns.take(&held, OwnerId::new(), LONG).await.unwrap() {
            Some(taken) => break taken,
            None => moment().await,
        }
    };
    // Two clocks are compared; a lease that was not renewed is taken at once.
    assert!(renewed.elapsed() >= short / 2, "{:?}", renewed.elapsed());
    assert_eq!(turns.renew(owner).await.unwrap(), []);
    let other = taken.lease_owner.unwrap();
    assert_eq!(turns.renew(other).await.unwrap(), [held.conversation_id]);
}

async fn of_many_that_take_a_turn_at_once_one_gets_it(storage: Arc<dyn Storage>) {
    let turn = Turn::new(add_conversation(&storage).await.id, MessageId::new());
    storage.turns().add(turn.clone()).await.unwrap();
    let attempts = (0..8).map(|_| {
        let (turns, turn) = (storage.turn_store(), turn.clone());
        async move { turns.take(&turn, OwnerId::new(), LONG).await.unwrap() }
    });
    let taken: Vec<_> = all_at_once(attempts).await.into_iter().flatten().collect();
    assert!(taken.len() <= 1, "{taken:?}");
    let stored = storage.turns().get(&turn.id()).await.unwrap();
    // Nobody waits for a lock, so that on a bad day nobody gets it.
    assert_eq!(stored, Some(taken.into_iter().next().unwrap_or(turn)));
}

async fn the_first_turn_of_a_queue_is_due_once_nothing_goes_before_it(storage: Arc<dyn Storage>) {
    let turns = storage.turn_store();
    let conversation = add_conversation(&storage).await.id;
    let running = owned(&storage, conversation, LONG).await;
    let mut queued = Vec::new();
    for _ in 0..2 {
        let turn =
            Turn::new(conversation, MessageId::new()).with(|turn| turn.status = TurnStatus::Queued);
        queued.push(storage.turns().add(turn).await.unwrap());
    }
    let due = async || {
        (
            is_due(&storage, queued[0].id).await,
            is_due(&storage, queued[1].id).await,
        )
    };
    assert_eq!(due().await, (false, false));
    let waiting = running
        .clone()
        .with(|turn| turn.status = TurnStatus::Waiting);
    let waiting = replace(&*turns, &running, waiting).await.unwrap();
    assert_eq!(due().await, (false, false));
    let ended = waiting
        .clone()
        .with(|turn| turn.status = TurnStatus::Completed);
    replace(&*turns, &waiting, ended).await.unwrap();
    assert_eq!(due().await, (true, false));
    let first = queued[0].clone().with(|turn| {
        turn.status = TurnStatus::Running;
        turn.lease_owner = Some(OwnerId::new());
        turn.lease = LONG;
    });
    let first = replace(&*turns, &queued[0], first).await.unwrap();
    assert_eq!(due().await, (false, false));
    let failed = first.clone().with(|turn| turn.status = TurnStatus::Failed);
    replace(&*turns, &first, failed).await.unwrap();
    assert_eq!(due().await, (false, true));
}

async fn no_clock_but_the_storages_ends_a_lease(storage: Arc<dyn Storage>) {
    for skew in [-48, -1, 1, 48] {
        let conversation = add_conversation(&storage).await.id;
        let wrong = Clock::default().now() + TimeDelta::hours(skew);
        let turn = Turn::new(conversation, MessageId::new()).with(|turn| {
            turn.lease_owner = Some(OwnerId::new());
            turn.lease = LONG / 2;
            turn.started_at = Some(wrong);
            turn.created_at = wrong;
            turn.updated_at = wrong;
        });
        storage.turns().add(turn.clone()).await.unwrap();
        assert!(!is_due(&storage, turn.id).await, "{skew} hours");
        let ending = turn.clone().with(|turn| turn.lease = Duration::ZERO);
        replace(&*storage.turn_store(), &turn, ending)
            .await
            .unwrap();
        becomes_due(&storage, turn.id).await;
    }
}

async fn a_key_is_used_once_in_its_scope(storage: Arc<dyn Storage>) {
    let (scope, other_scope) = (ConversationId::new().0, ConversationId::new().0);
    let keys = storage.idempotency_keys();
    let used = IdempotencyKey::new(scope, "key", b"request", MessageId::new().0);
    keys.add(used.clone()).await.unwrap();
    let again = IdempotencyKey::new(scope, "key", b"request", MessageId::new().0);
    assert_eq!((again.id, again.fingerprint), (used.id, used.fingerprint));
    assert_conflict(keys.add(again).await);
    let differs = IdempotencyKey::new(scope, "key", b"another", MessageId::new().0);
    assert_eq!(differs.id, used.id);
    assert_ne!(differs.fingerprint, used.fingerprint);
    assert_conflict(keys.add(differs).await);
    assert_eq!(keys.get(&used.id()).await.unwrap(), Some(used.clone()));
    let elsewhere = IdempotencyKey::new(other_scope, "key", b"request", used.resource_id);
    keys.add(elsewhere.clone()).await.unwrap();

    let later = IdempotencyKey::new(scope, "a later key", b"request", MessageId::new().0);
    let pending = keys.add(later.clone().pending()).await.unwrap();
    assert!(pending.is_pending());
    let unit = storage.begin().await.unwrap();
    let make = |stored: &mut IdempotencyKey| {
        assert!(stored.is_pending());
        stored.clone_from(&later);
        Ok(())
    };
    let made = unit.idempotency_keys().update(&later.id(), &make).await;
    assert_eq!(made.unwrap(), later);
    unit.commit().await.unwrap();
    assert_eq!(keys.get(&later.id()).await.unwrap(), Some(later));

    storage.turn_store().forget_keys(LONG).await.unwrap();
    assert!(keys.exists(&used.id()).await.unwrap());
    let forgotten = storage.turn_store().forget_keys(Duration::ZERO).await;
    // Another case may use keys at this moment.
    assert!(forgotten.unwrap() >= 3);
    assert!(!keys.exists(&used.id()).await.unwrap());
}
