//! Turns: at most one a conversation is running.

use std::sync::Arc;

use super::{
    Case,
    fixtures::{AWKWARD, add_conversation, assert_conflict, assert_invalid, assert_not_found},
};
use crate::{ConversationId, ListQuery, MessageId, Storage, Turn, TurnFilter, TurnId, TurnStatus};

pub(super) const CASES: &[Case] = cases!["turns":
    a_turn_reads_back_equal_at_every_status,
    a_second_running_turn_is_a_conflict,
    a_batch_with_two_running_turns_is_a_conflict,
    a_finished_turn_does_not_run_again_beside_another,
    a_turn_without_its_conversation_is_not_found,
    a_nul_character_in_the_error_is_refused,
    filters_take_a_conversation_and_a_status,
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
        let updated = storage.turns().update(turn.clone()).await.unwrap();
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
    turns.update(running).await.unwrap();
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
    assert_conflict(turns.update(again).await);
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
