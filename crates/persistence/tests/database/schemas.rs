use yai_agentkit_core::{ListQuery, Stores, checkpoint::CheckpointerExt};
use yai_agentkit_persistence::Database;

use crate::{
    fixture::{config, store_something, tables},
    support::{PostgresDatabase, execute},
};

/// The second one is a word of SQL.
const SCHEMAS: [&str; 2] = ["installation_1", "select"];

#[tokio::test]
async fn installations_share_a_database() {
    let postgres = PostgresDatabase::create("schemas").await;
    installations_are_apart(&postgres.url, &postgres.url).await;
    postgres.remove().await;
}

#[tokio::test]
async fn installations_share_a_database_through_pgbouncer() {
    let postgres = PostgresDatabase::create("schemas").await;
    installations_are_apart(&postgres.pgbouncer_url, &postgres.url).await;
    postgres.remove().await;
}

async fn installations_are_apart(url: &str, direct_url: &str) {
    let mut installations = Vec::new();
    for schema in SCHEMAS {
        let config = config(url).schema(schema).unwrap();
        let database = Database::connect(&config).await.unwrap();
        let script = "CREATE TABLE of_the_application (id INT)";
        database.execute_script(script).await.unwrap();
        let stored = store_something(&database).await;
        installations.push((database, stored));
    }
    for (database, stored) in installations {
        let conversations = database.conversations().list(&ListQuery::default()).await;
        let threads = database.checkpointer().keys(10).await.unwrap();
        assert_eq!(threads, [stored.thread_id()]);
        assert_eq!(conversations.unwrap().items, [stored]);
        database.close().await;
    }
    let expected = SCHEMAS
        .iter()
        .flat_map(|schema| TABLES.iter().map(move |table| format!("{schema}.{table}")));
    assert_eq!(tables(direct_url).await, expected.collect::<Vec<_>>());
}

const TABLES: [&str; 23] = [
    "agent_api_keys",
    "agent_audit",
    "agent_conversations",
    "agent_data_keys",
    "agent_idempotency_keys",
    "agent_messages",
    "agent_parts",
    "agent_search",
    "agent_search_progress",
    "agent_servers",
    "agent_tasks",
    "agent_turn_events",
    "agent_turn_records",
    "agent_turns",
    "agentkit_migrations",
    "checkpoint_blobs",
    "checkpoint_migrations",
    "checkpoint_writes",
    "checkpoints",
    "of_the_application",
    "store",
    "store_migrations",
    "threads",
];

#[tokio::test]
async fn a_role_that_may_create_no_schema_uses_the_one_it_was_given() {
    let postgres = PostgresDatabase::create("schemas").await;
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    let script = format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA given AUTHORIZATION {role}");
    execute(&postgres.url, &script).await;
    let mut url: url::Url = postgres.url.parse().unwrap();
    url.set_username(&role).unwrap();
    let config = config(url.as_str()).schema("given").unwrap();
    let database = Database::connect(&config).await.unwrap();
    store_something(&database).await;
    database.close().await;
    let script = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    execute(&postgres.url, &script).await;
    postgres.remove().await;
}
