//! What the databases plan for a statement: the plans of the statements that must stay fast are
//! tested where these stand.

use sea_orm::ConnectionTrait;

use crate::{Database, DatabaseConfig, connection::Connection, sql::Query};

/// One of each kind, filled.
pub(crate) struct Databases {
    postgres: Database,
    sqlite: Database,
    schema: String,
}

/// Those with many rows. On SQLite a plan names their aliases.
const LARGE_TABLES: [&str; 14] = [
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "threads",
    "agent_conversations",
    "agent_messages",
    "agent_turn_events",
    "store",
    "agent_search",
    "c",
    "b",
    "w",
    "t",
    "s",
];

impl Databases {
    /// Filled by `rows`, a script for both: the table `numbers` holds an `i` from 1 to 20000.
    pub(crate) async fn with(rows: &str) -> Self {
        let url = std::env::var("AGENTKIT_TEST_POSTGRES_URL");
        let url = url.expect("AGENTKIT_TEST_POSTGRES_URL is not set: run ./test");
        let schema = format!("plans_{}", uuid::Uuid::new_v4().simple());
        let config = DatabaseConfig::new(url).and_then(|config| config.schema(&*schema));
        let postgres = Database::connect(&config.unwrap()).await.unwrap();
        let config = DatabaseConfig::new("sqlite::memory:").unwrap();
        let sqlite = Database::connect(&config).await.unwrap();
        let (blob, time, id) = (
            "'\\x00'::bytea",
            "now() - i * interval '1 s'",
            "gen_random_uuid()",
        );
        // Of this schema: other tests drop theirs.
        let tables = "threads, checkpoints, checkpoint_blobs, checkpoint_writes,
            agent_conversations, agent_messages, agent_turns, agent_turn_events, store, agent_search";
        fill(&postgres, rows, [blob, time, id, tables]).await;
        let (blob, time, id) = ("x'00'", "datetime(1e9 - i, 'unixepoch')", "randomblob(16)");
        fill(&sqlite, rows, [blob, time, id, ""]).await;
        Self {
            postgres,
            sqlite,
            schema,
        }
    }

    /// That the plans of `query` use the indexes, named as on PostgreSQL, and read no large
    /// table from end to end.
    pub(crate) async fn assert_uses(&self, query: impl Fn(&Connection) -> Query, indexes: &[&str]) {
        let on_postgres = query(&self.postgres.connection);
        self.assert_postgres_uses(on_postgres, indexes).await;
        self.assert_sqlite_uses(query, indexes).await;
    }

    /// Both, to fill them further.
    pub(crate) fn each(&self) -> [&Database; 2] {
        [&self.postgres, &self.sqlite]
    }

    /// A query on PostgreSQL.
    pub(crate) fn on_postgres(&self, query: impl Fn(&Connection) -> Query) -> Query {
        query(&self.postgres.connection)
    }

    /// The same on SQLite alone.
    pub(crate) async fn assert_sqlite_uses(
        &self,
        query: impl Fn(&Connection) -> Query,
        indexes: &[&str],
    ) {
        let connection = &self.sqlite.connection;
        let explain = query(connection).prefixed("EXPLAIN QUERY PLAN");
        let plan = lines(connection, explain, 3).await;
        for index in indexes {
            let name = match index.strip_suffix("_pkey") {
                Some(table) => format!("sqlite_autoindex_{table}_1"),
                None => (*index).to_owned(),
            };
            assert!(plan.contains(&name), "no {name} in\n{plan}");
        }
        for line in plan.lines() {
            for table in LARGE_TABLES {
                let is_scan = line == format!("SCAN {table}");
                assert!(!is_scan, "{line} in\n{plan}");
            }
        }
    }

    /// The same on PostgreSQL alone: the plan for these values, and the one for any.
    pub(crate) async fn assert_postgres_uses(&self, query: Query, indexes: &[&str]) {
        let types = query.types().to_vec();
        let transaction = self.postgres.connection.begin().await.unwrap();
        let custom = lines(&transaction, query.clone().prefixed("EXPLAIN"), 0).await;
        let prepare = format!(
            "SET LOCAL plan_cache_mode = force_generic_plan; PREPARE explained ({}) AS {}",
            types.join(", "),
            query.text()
        );
        transaction.execute_unprepared(&prepare).await.unwrap();
        let arguments = vec!["NULL"; types.len()].join(", ");
        let execute = format!("EXPLAIN EXECUTE explained ({arguments})");
        let explain = Query::new(&transaction, execute);
        let generic = lines(&transaction, explain, 0).await;
        transaction
            .execute_unprepared("DEALLOCATE explained")
            .await
            .unwrap();
        for plan in [custom, generic] {
            for index in indexes {
                assert!(plan.contains(index), "no {index} in\n{plan}");
            }
            // A hash or merge join reads one side whole; a nested loop looks rows up.
            assert!(!plan.contains(" Join  ("), "{plan}");
            for table in LARGE_TABLES {
                let scan = format!("Seq Scan on {table} ");
                assert!(!plan.contains(&scan), "{scan} in\n{plan}");
            }
        }
    }

    /// That PostgreSQL keeps the plan of `query`, which must change nothing, for any values.
    pub(crate) async fn assert_postgres_plans_once(&self, query: Query) {
        let transaction = self.postgres.connection.begin().await.unwrap();
        for _ in 0..10 {
            query.clone().rows(&transaction).await.unwrap();
        }
        const PLANS: &str = "SELECT custom_plans FROM pg_prepared_statements WHERE statement = $1";
        let plans = Query::new(&transaction, PLANS).with(query.text());
        let plans = plans.rows(&transaction).await.unwrap();
        let plans: i64 = plans[0].try_get_by_index(0).unwrap();
        assert!(plans < 10, "planned {plans} times: {}", query.text());
        transaction.undo().await.unwrap();
    }

    pub(crate) async fn remove(self) {
        let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
        self.postgres.execute_script(&drop).await.unwrap();
        self.postgres.close().await;
        self.sqlite.close().await;
    }
}

async fn fill(database: &Database, rows: &str, [blob, time, id, tables]: [&str; 4]) {
    let rows = rows
        .replace("{blob}", blob)
        .replace("{time}", time)
        .replace("{id}", id);
    let script = format!(
        "CREATE TABLE numbers (i INTEGER);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO numbers SELECT i FROM n;
{rows}
ANALYZE {tables}"
    );
    database.execute_script(&script).await.unwrap();
}

async fn lines(connection: &Connection, explain: Query, column: usize) -> String {
    let rows = explain.rows(connection).await.unwrap();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| row.try_get_by_index(column).unwrap())
        .collect();
    lines.join("\n")
}
