//! The rows of the audit log stay as they are, whoever writes the SQL.

use std::time::Duration;

use yai_agentkit_core::{
    Stores,
    audit::{Action, Actor, AuditQuery, SHORTEST_AGE},
};
use yai_agentkit_persistence::Database;

use crate::{
    fixture::{connect, sqlite_file},
    support::PostgresDatabase,
};

/// `old` adds an entry of 31 days ago.
async fn entries_stay_until_they_are_old(database: &Database, old: &str) {
    let log = database.audit();
    let act = Actor::new("somebody").does(Action::KeyCreated, "a key");
    log.record(&act).await.unwrap();
    database.execute_script(old).await.unwrap();
    for change in [
        "UPDATE agent_audit SET who = 'nobody'",
        "UPDATE agent_audit SET at = at",
        "DELETE FROM agent_audit WHERE who = 'somebody'",
        "DELETE FROM agent_audit",
        "TRUNCATE agent_audit",
    ] {
        database.execute_script(change).await.unwrap_err();
    }
    let query = AuditQuery {
        before: None,
        owner: None,
        limit: 10,
    };
    assert_eq!(log.list(&query).await.unwrap().len(), 2);
    let long = SHORTEST_AGE + Duration::from_secs(10 * 86_400);
    assert_eq!(log.expire(long).await.unwrap(), 0);
    assert_eq!(log.expire(Duration::ZERO).await.unwrap(), 1);
    let left = log.list(&query).await.unwrap();
    assert_eq!(
        left.into_iter().map(|entry| entry.act).collect::<Vec<_>>(),
        [act]
    );
}

#[tokio::test]
async fn entries_of_the_audit_log_stay_until_they_are_old_on_postgres() {
    let postgres = PostgresDatabase::create("audit").await;
    let database = connect(&postgres.url).await;
    let old = "INSERT INTO agent_audit (at, who, action, subject)
VALUES (now() - INTERVAL '31 days', 'before', 'pruned', '')";
    entries_stay_until_they_are_old(&database, old).await;
    database.close().await;
    postgres.remove().await;
}

#[tokio::test]
async fn entries_of_the_audit_log_stay_until_they_are_old_on_sqlite() {
    let (_directory, _, url) = sqlite_file();
    let database = connect(&url).await;
    let old = "INSERT INTO agent_audit (at, who, action, subject)
VALUES (unixepoch() - 31 * 86400, 'before', 'pruned', '')";
    entries_stay_until_they_are_old(&database, old).await;
    database.close().await;
}
