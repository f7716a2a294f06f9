//! Databases for tests: each its own, on the servers that `./test` starts.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A role that may log in, and no more. PgBouncer knows it by name.
const SERVER_ROLE: &str = "agentkit_server";

/// An empty PostgreSQL database.
pub(crate) struct PostgresDatabase {
    name: String,
    server: String,
    pub(crate) url: String,
    /// The same through PgBouncer in transaction mode.
    pub(crate) pgbouncer_url: String,
}

impl PostgresDatabase {
    pub(crate) async fn create(purpose: &str) -> Self {
        let name = format!("{purpose}_{}", uuid::Uuid::new_v4().simple());
        let on = |variable| {
            let mut url: url::Url = environment(variable).parse().unwrap();
            url.set_path(&name);
            String::from(url)
        };
        let database = Self {
            url: on("AGENTKIT_TEST_POSTGRES_URL"),
            pgbouncer_url: on("AGENTKIT_TEST_PGBOUNCER_URL"),
            server: server(),
            name,
        };
        execute(
            &database.server,
            &format!("CREATE DATABASE {}", database.name),
        )
        .await;
        database
    }

    /// One that belongs to a role that is no superuser, as whom its URLs connect; and the URL of who is.
    pub(crate) async fn create_for_server(purpose: &str) -> (Self, String) {
        // Another test may be at it.
        let role = format!(
            "DO $$ BEGIN CREATE ROLE {SERVER_ROLE} LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        execute(&server(), &role).await;
        let mut database = Self::create(purpose).await;
        let superuser = database.url.clone();
        let (name, owner) = (&database.name, SERVER_ROLE);
        execute(
            &superuser,
            &format!("ALTER DATABASE {name} OWNER TO {owner}"),
        )
        .await;
        for url in [&mut database.url, &mut database.pgbouncer_url] {
            let mut as_server: url::Url = url.parse().unwrap();
            as_server.set_username(SERVER_ROLE).unwrap();
            *url = String::from(as_server);
        }
        (database, superuser)
    }

    /// On the server that has pgvector, without a PgBouncer.
    pub(crate) async fn create_with_vectors() -> Self {
        let name = format!("vectors_{}", uuid::Uuid::new_v4().simple());
        let server = environment("AGENTKIT_TEST_PGVECTOR_URL");
        let mut url: url::Url = server.parse().unwrap();
        url.set_path(&name);
        execute(&server, &format!("CREATE DATABASE {name}")).await;
        Self {
            url: String::from(url),
            pgbouncer_url: String::new(),
            server,
            name,
        }
    }

    /// Drops it. That of a test that has failed stays until the server goes.
    pub(crate) async fn remove(self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        execute(&self.server, &drop).await;
    }
}

/// Runs a script on the database at `url`.
pub(crate) async fn execute(url: &str, script: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(script))
        .execute(&mut connection)
        .await
        .unwrap();
}

/// The URL of the server's own database.
pub(crate) fn server() -> String {
    environment("AGENTKIT_TEST_POSTGRES_URL")
}

/// What `./test` says of its servers.
pub(crate) fn environment(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run ./test"))
}
