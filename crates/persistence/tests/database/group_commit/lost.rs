//! Where an answer is lost, or nobody waits for it.

use futures::future::try_join_all;
use yai_agentkit_core::{
    Conversation, Entity, Error, Fence, Message, Role, Storage, Stores, Turn, TurnStatus,
    turn::{EventBatch, IdempotencyKey, TurnBegin, TurnChange},
};

use super::{THREADS, begins_to_wait, checkpoint, names, next, turns::Owned};
use crate::{
    fixture::{connect, texts},
    proxy::Proxy,
    support::PostgresDatabase,
};

#[tokio::test]
async fn steps_whose_acknowledgement_was_lost_are_stored_once_with_their_events() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    // The answer to a group that refused none, and to a step alone.
    for (answer, turns) in [("SELECT 0", THREADS), ("SELECT 0", 1)] {
        let mut owned = Owned::create(&database).await;
        owned.turns.truncate(turns);
        proxy.lose_answer(answer);
        let outcomes = owned.step(&database).await;
        assert!(proxy.has_lost_answer());
        owned.assert_all_but(usize::MAX, &outcomes, &database).await;
    }
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_turn_whose_acknowledgements_were_lost_begins_and_ends_once() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    let conversation = Conversation::titled("Of one turn");
    let conversation = database.conversations().add(conversation).await.unwrap().id;
    let message = Message::new(conversation, Role::User, "Hello");
    let mut turn = Turn::new(conversation, message.id);
    turn.epoch = 1;
    let mut answer = Message::new(conversation, Role::Assistant, "Hello!");
    answer.id = message.id.answer();
    let batch = |sequence| EventBatch::new(conversation, turn.id, sequence, Vec::new());
    let key = IdempotencyKey::new(conversation.0, "key", b"request", turn.id.0);
    let mut begin = TurnBegin::new(turn.clone(), message, next("thread", 0), batch(1));
    begin.key = Some(key);
    let turns = database.turn_store();
    proxy.lose_answer("SELECT 1");
    turns.begin(begin.clone()).await.unwrap();
    assert!(proxy.has_lost_answer());
    // Again is another matter.
    begin.checkpoint = next("thread", 1);
    let again = turns.begin(begin).await;
    assert!(matches!(again, Err(Error::Fenced { .. })), "{again:?}");

    let ended = turn
        .clone()
        .with(|turn| turn.status = TurnStatus::Completed);
    let end = |step| {
        TurnChange::new(turn.clone(), ended.clone())
            .with_answer(Some(answer.clone()))
            .with_checkpoint(next("thread", step), Fence::Hold(1))
            .with_events(batch(2))
    };
    proxy.lose_answer("SELECT 1");
    turns.change(end(2)).await.unwrap();
    assert!(proxy.has_lost_answer());
    let again = turns.change(end(3)).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let rows = "SELECT (SELECT count(*) FROM checkpoints) || ' ' ||
        (SELECT count(*) FROM agent_turn_events) || ' ' ||
        (SELECT count(*) FROM agent_messages) || ' ' || (SELECT status FROM agent_turns)";
    assert_eq!(texts(&postgres.url, rows).await, ["2 2 2 completed"]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_group_whose_acknowledgement_was_lost_is_stored_once() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    let checkpoints = database.raw_checkpoints();
    proxy.lose_answer("INSERT 0");
    let names = names();
    let puts = names
        .iter()
        .map(|name| checkpoints.put(checkpoint(name, "{}")));
    try_join_all(puts).await.unwrap();
    assert!(proxy.has_lost_answer());
    let rows = "SELECT count(*)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, rows).await, [THREADS.to_string()]);
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_transaction_that_is_cut_off_at_its_begin_swallows_nothing() {
    let postgres = PostgresDatabase::create("group").await;
    let direct = postgres.url.replace("localhost", "127.0.0.1");
    // A task of this thread: no answer is there before somebody waits for it.
    let proxy = Proxy::start(&format!("{direct}?sslmode=disable")).await;
    let database = connect(&proxy.url()).await;
    let checkpoints = database.raw_checkpoints();
    for name in names().iter().take(20) {
        database.ping().await.unwrap();
        let mut begin = database.begin();
        // On the connection of the ping.
        assert!(begins_to_wait(&mut begin).await);
        drop(begin);
        checkpoints.put(checkpoint(name, "{}")).await.unwrap();
    }
    let rows = "SELECT count(*)::text FROM checkpoints";
    assert_eq!(texts(&postgres.url, rows).await, ["20"]);
    database.close().await;
    postgres.remove().await;
}
