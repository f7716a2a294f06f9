use std::{path::Path, process::Stdio};

use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::support::{PostgresDatabase, environment};

/// A PostgreSQL database that LangGraph and AgentKit share.
pub(crate) struct TestDatabase {
    database: PostgresDatabase,
    pub(crate) url: String,
}

impl TestDatabase {
    /// An empty one.
    pub(crate) async fn create() -> Self {
        let database = PostgresDatabase::create("langgraph").await;
        Self {
            url: database.url.clone(),
            database,
        }
    }

    /// One that LangGraph's savers of an old version have written to.
    pub(crate) async fn old(version: u32) -> Self {
        let database = Self::create().await;
        let arguments = [&*version.to_string()];
        database.python("old_database.py", &arguments).await;
        database
    }

    /// Connects AgentKit, which migrates.
    pub(crate) async fn connect(&self) -> Database {
        self.connect_at(&self.url).await
    }

    /// The same through PgBouncer.
    pub(crate) async fn connect_through_pgbouncer(&self) -> Database {
        self.connect_at(&self.database.pgbouncer_url).await
    }

    async fn connect_at(&self, url: &str) -> Database {
        let config = DatabaseConfig::new(url).unwrap();
        Database::connect(&config).await.unwrap()
    }

    /// What a script beside this file prints, which gets the URL as its first argument.
    pub(crate) async fn python(&self, script: &str, arguments: &[&str]) -> String {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/langgraph");
        let output = Command::new(environment("AGENTKIT_TEST_PYTHON"))
            .arg(directory.join(script))
            .arg(&self.url)
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{script} {arguments:?} failed");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What LangGraph's savers read, after their `setup()`.
    pub(crate) async fn describe(&self, values: &str, channels: &[&str]) -> Json {
        let arguments = [&[values], channels].concat();
        let printed = self.python("describe.py", &arguments).await;
        serde_json::from_str(&printed).unwrap()
    }

    /// Every row of LangGraph's tables, without the column that its last migration adds.
    pub(crate) async fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for table in ["checkpoints", "checkpoint_blobs", "checkpoint_writes"] {
            let exists = format!("SELECT to_regclass('{table}')::text");
            if self.texts(&exists).await.is_empty() {
                continue;
            }
            let all =
                format!("SELECT '{table} ' || (to_jsonb(t) - 'task_path')::text FROM {table} t");
            rows.extend(self.texts(&all).await);
        }
        rows.sort();
        rows
    }

    /// Every column, index and recorded migration.
    pub(crate) async fn schema(&self) -> Vec<String> {
        let catalogue = "
            SELECT (table_name, column_name, data_type, is_nullable, column_default)::text
            FROM information_schema.columns WHERE table_schema = 'public'
            UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT v::text FROM checkpoint_migrations
            ORDER BY 1";
        self.texts(catalogue).await
    }

    /// The rows of a query for one text column, without the nulls.
    async fn texts(&self, query: &str) -> Vec<String> {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let rows: Vec<Option<String>> = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        rows.into_iter().flatten().collect()
    }

    /// Drops it. That of a test that has failed stays until the server goes.
    pub(crate) async fn remove(self) {
        self.database.remove().await;
    }
}
