//! Tenants, as whoever has logged in as the server's role may try to get at another's: by SQL on each
//! table, and by each call.

mod calls;
mod connections;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use yai_agentkit_core::{Conversation, ConversationId, ListQuery, Storage, Stores};
use yai_agentkit_persistence::{
    Database, DatabaseConfig,
    encryption::{LocalKeys, Readable},
};

use crate::{
    fixture::{assert_configuration, config, refusal, sqlite_file, store_something, texts},
    support::PostgresDatabase,
};

/// What holds nothing of anybody.
const OF_NO_TENANT: [&str; 6] = [
    "agent_search_progress",
    "agent_servers",
    "agent_tasks",
    "agentkit_migrations",
    "checkpoint_migrations",
    "store_migrations",
];

/// A row in each of the others, all of one conversation.
const ROWS: &str = "
INSERT INTO agent_conversations (id, checkpoint_thread_id, owner, created_at, updated_at)
VALUES (ID, ID, 'ada', now(), now());
INSERT INTO agent_messages (conversation_id, id, role, content, created_at)
VALUES (ID, ID, 'user', 'hello', now());
INSERT INTO agent_turns (conversation_id, id, user_message_id, status, created_at, updated_at)
VALUES (ID, ID, ID, 'completed', now(), now());
INSERT INTO agent_turn_events VALUES (ID, ID, 1, '[]', now());
INSERT INTO agent_turn_records (conversation_id, turn_id, name) VALUES (ID, ID, 'asked');
INSERT INTO agent_idempotency_keys (conversation_id, id, fingerprint, resource_id) VALUES (ID, ID, ID, ID);
INSERT INTO agent_api_keys (id, name, digest, scope, created_at) 
VALUES (ID, 'key', decode(repeat('00', 32), 'hex'), 'read', now());
INSERT INTO agent_search VALUES (ID, 1, ID, '{1}');
INSERT INTO agent_parts VALUES (ID, 'hash', 'text');
INSERT INTO threads (thread_id, updated_at) VALUES (ID, now());
INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) VALUES (ID, '1', '{}');
INSERT INTO checkpoint_blobs (thread_id, channel, version, type, blob) VALUES (ID, 'c', '1', 'null', '');
INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob)
VALUES (ID, '1', 't', 0, 'c', '');
INSERT INTO store (prefix, key, value) VALUES (ID, 'key', '{}');
INSERT INTO agent_audit (who, action, subject) VALUES ('ada', 'owner.erased', ID);";

/// A database that is divided, in which `acme` and `bob` have a row in each table; its conversations.
struct Divided {
    postgres: PostgresDatabase,
    superuser: String,
    ids: [String; 2],
}

impl Divided {
    async fn create() -> Self {
        let (postgres, superuser) = PostgresDatabase::create_for_server("tenants").await;
        connect(&postgres.url).await.close().await;
        let ids = [(); 2].map(|()| uuid::Uuid::new_v4().to_string());
        for (tenant, id) in ["acme", "bob"].iter().zip(&ids) {
            let rows = ROWS.replace("ID", &format!("'{id}'"));
            let script = format!("SET agentkit.tenant = '{tenant}'; {rows}");
            crate::support::execute(&postgres.url, &script).await;
        }
        // Their keys.
        let all = connect(&postgres.url).await;
        for tenant in ["acme", "bob"] {
            let conversations = all.tenant(tenant).unwrap().conversations();
            let nobody = conversations.get(&ConversationId::new()).await;
            assert_eq!(nobody.unwrap(), None);
        }
        all.close().await;
        Self {
            postgres,
            superuser,
            ids,
        }
    }

    /// Every table that is not `OF_NO_TENANT`.
    async fn tables(&self) -> Vec<String> {
        let all = "SELECT relname::text FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1";
        let mut tables = texts(&self.superuser, all).await;
        tables.retain(|table| !OF_NO_TENANT.contains(&table.as_str()));
        tables
    }

    /// Every row that is not bob's.
    async fn others(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for table in self.tables().await {
            let query = format!(
                "SELECT row_to_json(t)::text FROM {table} t WHERE tenant <> 'bob' ORDER BY 1"
            );
            let of_table = texts(&self.superuser, &query).await;
            assert!(!of_table.is_empty(), "no row in {table}");
            rows.extend(of_table.into_iter().map(|row| format!("{table} {row}")));
        }
        rows
    }
}

/// Encrypted, but for what was there, and what is searched.
fn divided(url: &str) -> DatabaseConfig {
    let master = LocalKeys::parse(&"07".repeat(32)).unwrap();
    config(url)
        .tenants(true)
        .master_key(Arc::new(master))
        .encryption_admits_plain(true)
        .encryption_readable(Readable::Messages)
}

async fn connect(url: &str) -> Database {
    Database::connect(&divided(url)).await.unwrap()
}

async fn raw_connection(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    // PgBouncer takes no settings.
    let options = options.extra_float_digits(None);
    PgConnection::connect_with(&options).await.unwrap()
}

/// Sends statements as a tenant, each in a transaction of its own.
struct Attacker {
    connection: PgConnection,
    tenant: &'static str,
    tried: u32,
}

impl Attacker {
    /// The rows that a statement has found or changed; `None` where it was refused.
    async fn try_to(&mut self, statement: &str) -> Option<u64> {
        self.tried += 1;
        let begin = format!("BEGIN; SET LOCAL agentkit.tenant = '{}'", self.tenant);
        for sql in [begin.as_str(), statement, "COMMIT"] {
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection);
            match done.await {
                Ok(done) if sql == statement => {
                    let rows = done.rows_affected();
                    if rows == 0 {
                        continue;
                    }
                    self.end().await;
                    return Some(rows);
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(error.as_database_error().is_some(), "{statement}: {error}");
                    self.end().await;
                    return None;
                }
            }
        }
        Some(0)
    }

    async fn end(&mut self) {
        let end = sqlx::raw_sql("ROLLBACK")
            .execute(&mut self.connection)
            .await;
        end.unwrap();
    }
}

#[tokio::test]
async fn by_sql_nobody_gets_at_a_row_of_another_tenant() {
    let database = Divided::create().await;
    attack_by_sql(&database, &database.postgres.url).await;
    database.postgres.remove().await;
}

#[tokio::test]
async fn by_sql_through_pgbouncer_nobody_gets_at_a_row_of_another_tenant() {
    let database = Divided::create().await;
    attack_by_sql(&database, &database.postgres.pgbouncer_url).await;
    database.postgres.remove().await;
}

async fn attack_by_sql(database: &Divided, url: &str) {
    let (before, tables) = (database.others().await, database.tables().await);
    assert!(tables.len() >= 13, "{tables:?}");
    let mut tried = 0;
    // No tenant, and none that could be one.
    for tenant in ["bob", "eve", ""] {
        let mut attacker = Attacker {
            connection: raw_connection(url).await,
            tenant,
            tried: 0,
        };
        for table in &tables {
            attack_table(&mut attacker, table, &before).await;
        }
        tried += attacker.tried;
        attacker.connection.close().await.unwrap();
    }
    println!("{tried} statements on {} tables", tables.len());
    assert_eq!(database.others().await, before);
}

async fn attack_table(attacker: &mut Attacker, table: &str, others: &[String]) {
    let own = u64::from(attacker.tenant == "bob");
    let of_others = "tenant IS DISTINCT FROM current_setting('agentkit.tenant', true)";
    let prefix = format!("{table} ");
    let row = others
        .iter()
        .find_map(|row| row.strip_prefix(&prefix))
        .unwrap();
    let row = row.replace('\'', "''");
    let insert =
        format!("INSERT INTO {table} SELECT * FROM json_populate_record(NULL::{table}, '{row}')");
    let none = [None, Some(0)];
    for statement in [
        format!("SELECT * FROM {table} WHERE {of_others}"),
        format!("SELECT * FROM {table} WHERE {of_others} FOR UPDATE"),
        format!("UPDATE {table} SET tenant = tenant WHERE {of_others}"),
        format!(
            "UPDATE {table} SET tenant = '{}' WHERE {of_others}",
            attacker.tenant
        ),
        format!("UPDATE {table} SET tenant = 'acme'"),
        format!("DELETE FROM {table} WHERE {of_others}"),
        // Neither as the other's, nor in its way.
        insert.clone(),
        format!("{insert} ON CONFLICT DO NOTHING"),
    ] {
        let done = attacker.try_to(&statement).await;
        assert!(
            none.contains(&done),
            "{}: {statement}: {done:?}",
            attacker.tenant
        );
    }
    for (statement, changes) in [
        (format!("SELECT * FROM {table}"), false),
        (format!("UPDATE {table} SET tenant = tenant"), true),
        (format!("DELETE FROM {table}"), true),
    ] {
        let done = attacker.try_to(&statement).await;
        // Rows of the audit log stay, one's own too.
        let expected = (!changes || own == 0 || table != "agent_audit").then_some(own);
        assert_eq!(done, expected, "{}: {statement}", attacker.tenant);
    }
    // A row of one's own with all the names of another's: of a conversation none can be, of a thread it
    // is one's own.
    let tenant = format!("\"tenant\":\"{}\"", attacker.tenant);
    let claim = insert.replace("\"tenant\":\"acme\"", &tenant);
    assert_ne!(
        (attacker.tenant == "acme", &claim),
        (false, &insert),
        "{table}"
    );
    let claimed = attacker.try_to(&claim).await;
    let is_of_conversation =
        row.contains("\"conversation_id\"") && table != "agent_idempotency_keys";
    if is_of_conversation || attacker.tenant.is_empty() {
        assert_eq!(claimed, None, "{}: {claim}", attacker.tenant);
    }
}

#[tokio::test]
async fn the_system_adds_no_row_that_would_be_of_nobody() {
    let database = Divided::create().await;
    let mut system = Attacker {
        connection: raw_connection(&database.postgres.url).await,
        tenant: "*",
        tried: 0,
    };
    for table in database.tables().await {
        let rows = system.try_to(&format!("SELECT * FROM {table}")).await;
        assert_eq!(rows, Some(2), "{table}");
        for tenant in ["*", ""] {
            let update = format!("UPDATE {table} SET tenant = '{tenant}'");
            assert_eq!(system.try_to(&update).await, None, "{table}");
        }
    }
    system.connection.close().await.unwrap();
    database.postgres.remove().await;
}

#[tokio::test]
async fn what_was_there_before_belongs_to_a_tenant_and_a_table_that_is_new_is_divided_too() {
    let (postgres, _) = PostgresDatabase::create_for_server("tenants").await;
    let whole = Database::connect(&config(&postgres.url)).await.unwrap();
    let stored = store_something(&whole).await;
    whole.close().await;

    let database = connect(&postgres.url).await;
    for (tenant, expected) in [("default", 1), ("acme", 0)] {
        let tenant = database.tenant(tenant).unwrap();
        let found = tenant.conversations().list(&ListQuery::default()).await;
        assert_eq!(found.unwrap().items.len(), expected);
        let found = tenant.checkpointer().threads(10, None).await.unwrap();
        assert_eq!(found.items.len(), expected);
        assert_eq!(
            tenant.thread_of(stored.id).await.unwrap().is_some(),
            expected == 1
        );
    }
    assert!(database.migrate().await.unwrap().is_empty());
    database.close().await;

    // A migration that comes later.
    let later = "DELETE FROM agentkit_migrations WHERE version LIKE '%_ledger';
        DROP TABLE agent_turn_records";
    crate::support::execute(&postgres.url, later).await;
    let database = connect(&postgres.url).await;
    let forced =
        "SELECT relforcerowsecurity::text FROM pg_class WHERE relname = 'agent_turn_records'";
    assert_eq!(texts(&postgres.url, forced).await, ["true"]);
    database.close().await;
    let error = refusal(&config(&postgres.url)).await;
    assert_configuration(&error, "set DB_TENANTS=true");
    postgres.remove().await;
}

#[tokio::test]
async fn who_is_not_held_by_the_policies_is_refused() {
    let database = Divided::create().await;
    let error = refusal(&divided(&database.superuser)).await;
    assert_configuration(&error, "superuser");
    let (_directory, _, url) = sqlite_file();
    assert_configuration(&refusal(&divided(&url)).await, "a file of SQLite");

    let whole = DatabaseConfig::new("sqlite::memory:").unwrap();
    let whole = Database::connect(&whole).await.unwrap();
    let error = whole.tenant("acme").err().expect("no tenant");
    assert_configuration(&error, "not divided");
    whole.close().await;

    let database_of_all = connect(&database.postgres.url).await;
    let add = || Conversation::titled("of nobody");
    database_of_all
        .conversations()
        .add(add())
        .await
        .unwrap_err();
    database_of_all
        .checkpointer()
        .threads(1, None)
        .await
        .unwrap_err();
    for name in ["", "*", "a'b", "-a", "a b", &"a".repeat(64)] {
        assert!(database_of_all.tenant(name).is_err(), "{name}");
    }
    database_of_all.close().await;
    database.postgres.remove().await;
}
