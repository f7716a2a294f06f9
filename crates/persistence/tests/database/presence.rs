//! Owners of turns whose process dies, or only seems to have.

use std::time::{Duration, Instant};

use yai_agentkit_core::{
    Conversation, ConversationId, Entity, MessageId, Stores, Turn, TurnStatus,
    turn::{OwnerId, TurnChange},
};
use yai_agentkit_persistence::Database;

use crate::{
    fixture::{connect, sqlite_file, texts},
    support::PostgresDatabase,
};

/// Longer than any test.
const LEASE: Duration = Duration::from_secs(36_000);
const PATIENCE: Duration = Duration::from_secs(60);

const LOCKED: &str = "SELECT count(*)::text FROM agent_servers s JOIN pg_locks l
    ON l.locktype = 'advisory' AND l.granted
    AND (l.classid::bigint << 32) | l.objid::bigint = s.lock_key";

/// The conversation whose turn runs for as long as its owner lives.
async fn running(database: &Database, owner: OwnerId) -> ConversationId {
    let turns = database.turn_store();
    turns.renew(owner).await.unwrap();
    let chat = database
        .conversations()
        .add(Conversation::titled("Work"))
        .await;
    let chat = chat.unwrap().id;
    let turn = Turn::new(chat, MessageId::new()).with(|turn| {
        turn.lease_owner = Some(owner);
        turn.lease = LEASE;
        turn.epoch = 1;
    });
    let turn = database.turns().add(turn).await.unwrap();
    assert_eq!(turns.renew(owner).await.unwrap(), [chat]);
    assert_eq!(turn.status, TurnStatus::Running);
    chat
}

async fn due(database: &Database) -> Vec<Turn> {
    database.turn_store().due(10).await.unwrap()
}

async fn becomes_due(database: &Database) -> Turn {
    let begun = Instant::now();
    loop {
        if let Some(turn) = due(database).await.pop() {
            return turn;
        }
        assert!(begun.elapsed() < PATIENCE, "not due");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stays_away(database: &Database) {
    for _ in 0..30 {
        assert_eq!(due(database).await, []);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_for_lock(url: &str) {
    let begun = Instant::now();
    while texts(url, LOCKED).await != ["1"] {
        assert!(begun.elapsed() < PATIENCE, "no lock");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The turn of `first`, which ends, passes to an owner on `second`.
async fn passes(first: Database, second: &Database, chat: ConversationId) {
    stays_away(second).await;
    first.close().await;
    drop(first);
    let turn = becomes_due(second).await;
    assert_eq!(turn.conversation_id, chat);
    let (turns, heir) = (second.turn_store(), OwnerId::new());
    turns.renew(heir).await.unwrap();
    let taken = turns.take(&turn, heir, LEASE).await.unwrap();
    let taken = taken.expect("its owner has died");
    assert_eq!((taken.attempt, taken.epoch), (2, 2));
    stays_away(second).await;
    let ended = taken.clone().with(|turn| {
        turn.status = TurnStatus::Completed;
        turn.lease_owner = None;
    });
    turns.change(TurnChange::new(taken, ended)).await.unwrap();
    turns.forget_keys(LEASE).await.unwrap();
}

#[tokio::test]
async fn on_postgres_an_owner_dies_with_its_process_and_not_with_a_session() {
    let postgres = PostgresDatabase::create("presence").await;
    let url = &postgres.url;
    let (first, second) = (connect(url).await, connect(url).await);
    let chat = running(&first, OwnerId::new()).await;
    wait_for_lock(url).await;
    for _ in 0..3 {
        let cut = "SELECT pg_terminate_backend(pid)::text FROM pg_locks
            WHERE locktype = 'advisory' AND database = (
                SELECT oid FROM pg_database WHERE datname = current_database()
            )";
        assert_eq!(texts(url, cut).await, ["true"]);
        stays_away(&second).await;
        wait_for_lock(url).await;
    }
    passes(first, &second, chat).await;
    let servers = "SELECT count(*)::text FROM agent_servers";
    assert_eq!(texts(url, servers).await, ["1"]);
    second.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn on_postgres_sessions_that_the_database_has_ended_prove_no_death() {
    for change in [
        "database_started_at = database_started_at - INTERVAL '1 s'",
        "sessions_killed = sessions_killed - 1",
    ] {
        let postgres = PostgresDatabase::create("presence").await;
        let url = &postgres.url;
        let (first, second) = (connect(url).await, connect(url).await);
        running(&first, OwnerId::new()).await;
        wait_for_lock(url).await;
        first.close().await;
        drop(first);
        let change = format!("UPDATE agent_servers SET {change} RETURNING 'done'");
        assert_eq!(texts(url, &change).await, ["done"]);
        stays_away(&second).await;
        second.close().await;
        postgres.remove().await;
    }
}

#[tokio::test]
async fn on_sqlite_an_owner_dies_with_its_process() {
    let (directory, _, url) = sqlite_file();
    let (first, second) = (connect(&url).await, connect(&url).await);
    let chat = running(&first, OwnerId::new()).await;
    passes(first, &second, chat).await;
    second.close().await;
    drop(second);
    let left = directory.path().read_dir().unwrap();
    let left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = left.filter(|name| name.contains("-server-")).collect();
    assert_eq!(left, [""; 0]);
}
