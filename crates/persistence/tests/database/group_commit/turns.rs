//! Steps of turns, which hold their threads.

use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde_json::json;
use yai_agentkit_core::{
    CheckpointQuery, ConflictKind, Conversation, ConversationId, Entity, Error, Fence, MessageId,
    PutOptions, Result, Storage, Stores, Turn, TurnId, TurnStatus,
    turn::{EventBatch, OwnerId, TurnChange, TurnStep},
};
use yai_agentkit_persistence::Database;

use super::{THREADS, begins_to_wait, next, on_both};
use crate::{
    fixture::{connect, texts},
    support::PostgresDatabase,
};

/// Turns of one conversation, each with a thread of its name that has the epoch 1, and those who
/// own them.
pub(super) struct Owned {
    conversation: ConversationId,
    pub(super) turns: Vec<TurnId>,
}

impl Owned {
    pub(super) async fn create(database: &Database) -> Self {
        let conversation = Conversation::titled("All turns");
        let conversation = database.conversations().add(conversation).await.unwrap().id;
        let turns: Vec<_> = (0..THREADS).map(|_| TurnId::new()).collect();
        let raised = turns.iter().map(async |turn| {
            let new = next(&turn.to_string(), 0);
            let raise = Fence::Raise(1).into();
            database.checkpointer().put(new, raise).await
        });
        try_join_all(raised).await.unwrap();
        Self {
            conversation,
            turns,
        }
    }

    fn batch(&self, turn: TurnId, events: &str) -> EventBatch {
        EventBatch::new(self.conversation, turn, 1, vec![json!(events)])
    }

    /// A step of each turn, its events with its checkpoint: what comes of each.
    pub(super) async fn step(&self, database: &Database) -> Vec<Result<()>> {
        let steps = self.turns.iter().map(async |turn| {
            let batch = self.batch(*turn, "step");
            let step = TurnStep::new(1, next(&turn.to_string(), 1), batch);
            database.turn_store().step(step).await
        });
        join_all(steps).await
    }

    /// That each turn has its step but one, of which nothing is stored.
    pub(super) async fn assert_all_but(
        &self,
        refused: usize,
        outcomes: &[Result<()>],
        database: &Database,
    ) {
        for (index, (turn, outcome)) in self.turns.iter().zip(outcomes).enumerate() {
            assert_eq!(outcome.is_ok(), index != refused, "{index}: {outcome:?}");
            let steps = usize::from(index != refused);
            let thread = turn.to_string();
            let query = CheckpointQuery::of(thread);
            let checkpoints = database.checkpointer().list(&query).await.unwrap();
            assert_eq!(checkpoints.len(), 1 + steps, "{index}");
            let turns = database.turn_store();
            let events = turns.events(self.conversation, *turn, 0, 10).await.unwrap();
            let events = events
                .iter()
                .filter(|batch| batch.events == [json!("step")]);
            assert_eq!(events.count(), steps, "{index}");
        }
    }
}

#[tokio::test]
async fn steps_at_once_share_transactions_with_their_events() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let owned = Owned::create(&database).await;
    let outcomes = owned.step(&database).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let together = "SELECT count(*) || ' in ' || count(DISTINCT c.xmin::text)
        FROM checkpoints c JOIN agent_turn_events e
            ON e.turn_id::text = c.thread_id AND e.xmin::text = c.xmin::text";
    let expected = format!("{THREADS} in 2");
    assert_eq!(texts(&postgres.url, together).await, [expected]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn of_steps_at_once_only_that_of_a_former_owner_is_refused() {
    on_both(async |database| {
        let owned = Owned::create(&database).await;
        let taken = owned.turns[7].to_string().into();
        database
            .checkpointer()
            .raise_epoch(&taken, 5)
            .await
            .unwrap();
        let outcomes = owned.step(&database).await;
        assert!(matches!(outcomes[7], Err(Error::Fenced { epoch: 5, .. })));
        owned.assert_all_but(7, &outcomes, &database).await;
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn of_steps_at_once_only_one_whose_events_are_refused_fails() {
    on_both(async |database| {
        let owned = Owned::create(&database).await;
        let other = owned.batch(owned.turns[7], "another");
        database.turn_store().append(other).await.unwrap();
        let outcomes = owned.step(&database).await;
        let conflict = matches!(
            &outcomes[7],
            Err(Error::Conflict(ConflictKind::EventBatch { .. }))
        );
        assert!(conflict, "{:?}", outcomes[7]);
        owned.assert_all_but(7, &outcomes, &database).await;
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_take_over_that_is_under_way_decides_over_a_group() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    for commits in [true, false] {
        let owned = Owned::create(&database).await;
        let thread = owned.turns[7].to_string().into();
        let unit = database.begin().await.unwrap();
        unit.checkpointer().raise_epoch(&thread, 2).await.unwrap();
        let mut steps = Box::pin(owned.step(&database));
        assert!(begins_to_wait(&mut steps).await);
        // The others are through while one waits for the end of the transaction.
        let batches = "SELECT count(*)::text FROM agent_turn_events";
        let others = (THREADS - 1).to_string();
        loop {
            let waits = tokio::time::timeout(Duration::from_millis(20), &mut steps).await;
            assert!(waits.is_err(), "one can't be through");
            if texts(&postgres.url, batches).await == [others.as_str()] {
                break;
            }
        }
        if commits {
            unit.commit().await.unwrap();
            let outcomes = steps.await;
            assert!(matches!(outcomes[7], Err(Error::Fenced { epoch: 2, .. })));
            owned.assert_all_but(7, &outcomes, &database).await;
        } else {
            drop(unit);
            let outcomes = steps.await;
            owned.assert_all_but(usize::MAX, &outcomes, &database).await;
        }
        let conversations = database.conversations();
        assert!(conversations.delete(&owned.conversation).await.unwrap());
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_turn_ends_although_its_rows_change_meanwhile() {
    let postgres = PostgresDatabase::create("group").await;
    let database = connect(&postgres.url).await;
    let conversation = Conversation::titled("Of one turn");
    let conversation = database.conversations().add(conversation).await.unwrap().id;
    let owner = OwnerId::new();
    let turn =
        Turn::new(conversation, MessageId::new()).with(|turn| turn.lease_owner = Some(owner));
    database.turns().add(turn.clone()).await.unwrap();
    let checkpointer = database.checkpointer();
    let raised = checkpointer.put(next("thread", 0), Fence::Raise(1).into());
    raised.await.unwrap();

    let unit = database.begin().await.unwrap();
    unit.checkpointer()
        .put(next("thread", 1), PutOptions::default())
        .await
        .unwrap();
    assert_eq!(
        unit.turn_store().renew(owner).await.unwrap(),
        [conversation]
    );
    let batch = EventBatch::new(conversation, turn.id, 1, Vec::new());
    let failed = turn.clone().with(|turn| turn.status = TurnStatus::Failed);
    let end = TurnChange::new(turn, failed)
        .with_checkpoint(next("thread", 2), Fence::Hold(1))
        .with_events(batch);
    let turns = database.turn_store();
    let mut ending = turns.change(end);
    let waits = tokio::time::timeout(Duration::from_millis(200), &mut ending).await;
    assert!(waits.is_err(), "{waits:?}");
    unit.commit().await.unwrap();
    ending.await.unwrap();
    let rows = "SELECT (SELECT count(*) FROM checkpoints) || ' ' ||
        (SELECT count(*) FROM agent_turn_events) || ' ' || (SELECT status FROM agent_turns)";
    assert_eq!(texts(&postgres.url, rows).await, ["3 1 failed"]);
    database.close().await;
    postgres.remove().await;
}
