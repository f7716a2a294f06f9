//! The schema, one migration after the other. To change it, add a migration to [`MIGRATIONS`] with
//! its SQL for both databases; one that has been released never changes.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, DynIden,
    SqliteTransactionMode, TransactionOptions, TransactionTrait, sea_query::IntoIden,
};
use sea_orm_migration::{
    MigrationName, MigrationStatus, MigrationTrait, MigratorTrait, SchemaManager,
};
use sqlx::{Database, Pool, Postgres, Sqlite, pool::PoolOptions};
use yai_agentkit_core::{Error, Outcome, Result};

use crate::{connection::Connection, error};

/// One migration of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub state: MigrationState,
    /// The SQL that it runs on this database.
    pub sql: &'static str,
}

/// Whether a database has a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// It has.
    Applied,
    /// Not yet.
    Pending,
}

#[derive(Clone, Copy)]
struct Script {
    name: &'static str,
    postgres: &'static str,
    sqlite: &'static str,
}

macro_rules! script {
    ($number:literal, $name:literal) => {
        Script {
            name: concat!($number, "_", $name),
            postgres: include_str!(concat!("postgres/", $name, ".sql")),
            sqlite: include_str!(concat!("sqlite/", $name, ".sql")),
        }
    };
}

const MIGRATIONS: [Script; 5] = [
    script!("0001", "checkpoints"),
    script!("0002", "threads"),
    script!("0003", "conversations"),
    script!("0004", "turns"),
    script!("0005", "events"),
];

/// Every migration with its state. Reads only.
pub(crate) async fn status(connection: &Connection) -> Result<Vec<Migration>> {
    let migrations = Migrator::get_migration_with_status_read_only(connection)
        .await
        .map_err(schema_error)?;
    let is_postgres = connection.is_postgres();
    Ok(migrations
        .iter()
        .zip(MIGRATIONS)
        .map(|(migration, script)| Migration {
            name: migration.name().to_owned(),
            state: match migration.status() {
                MigrationStatus::Applied => MigrationState::Applied,
                MigrationStatus::Pending => MigrationState::Pending,
            },
            sql: if is_postgres {
                script.postgres
            } else {
                script.sqlite
            },
        })
        .collect())
}

pub(crate) async fn pending(connection: &Connection) -> Result<Vec<Migration>> {
    let mut migrations = status(connection).await?;
    migrations.retain(|migration| migration.state == MigrationState::Pending);
    Ok(migrations)
}

/// Applies what is pending of our schema; see [`migrate_with`].
pub(crate) async fn migrate(
    connection: &Connection,
    schema: Option<&str>,
    patience: Duration,
) -> Result<Vec<Migration>> {
    let applied = migrate_with::<Migrator>(connection, schema, patience, schema_error).await?;
    let mut migrations = Vec::new();
    if !applied.is_empty() {
        migrations = status(connection).await?;
        migrations.retain(|migration| applied.contains(&migration.name));
    }
    Ok(migrations)
}

/// Applies what is pending of `M`, in one transaction, and returns the names. Of several processes
/// that do so at once one does it; the others wait, at most for `patience`, and find nothing left
/// to do.
pub(crate) async fn migrate_with<M: MigratorTrait>(
    connection: &Connection,
    schema: Option<&str>,
    patience: Duration,
    explain: fn(DbErr) -> Error,
) -> Result<Vec<String>> {
    let deadline = Instant::now() + patience;
    loop {
        let attempt = async {
            let pending = M::get_pending_migrations_read_only(connection).await?;
            let is_done = pending.is_empty() || apply::<M>(connection, schema, patience).await?;
            let name = |migration: &sea_orm_migration::Migration| migration.name().to_owned();
            Ok(is_done.then(|| pending.iter().map(name).collect()))
        };
        match attempt.await {
            Ok(Some(names)) => return Ok(names),
            Ok(None) if Instant::now() > deadline => {
                return Err(Error::unavailable(
                    "migrate",
                    Outcome::NotDone,
                    "another process has been migrating this database all the time; see its logs",
                ));
            }
            // All or nothing is done: it may be done again.
            Err(error) if error::is_disconnected(&error) && Instant::now() < deadline => {
                tracing::warn!(%error, "the connection was lost while migrating, trying again");
            }
            Err(error) => return Err(explain(error)),
            Ok(None) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `false` when another process is at it.
async fn apply<M: MigratorTrait>(
    connection: &Connection,
    schema: Option<&str>,
    patience: Duration,
) -> Result<bool, DbErr> {
    match connection {
        Connection::Postgres(postgres) => {
            // A connection of its own, since SeaORM prepares statements by name. Behind a
            // transaction pooler the session may hold those of other clients, and must not keep ours.
            let pool =
                one_connection::<Postgres>(postgres.pool.connect_options(), patience).await?;
            let transaction = DatabaseConnection::from(pool).begin().await?;
            let behind_pooler = postgres.pooler_begin.is_some();
            if behind_pooler {
                transaction.execute_unprepared("DEALLOCATE ALL").await?;
            }
            // A backfill may take long. A lock that an old open transaction keeps from us must not
            // make everybody else queue up behind us.
            let limits = format!(
                "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {}",
                patience.as_millis().clamp(1, 10_000),
            );
            transaction.execute_unprepared(&limits).await?;
            if !try_lock(&transaction, schema.unwrap_or_default()).await? {
                return Ok(false);
            }
            if let Some(schema) = schema {
                // The name holds nothing but letters, digits and underscores; it may be a keyword.
                // IF NOT EXISTS asks for the right to create one even where there is one.
                let sql = format!(
                    "DO $$ BEGIN
    IF to_regnamespace('\"{schema}\"') IS NULL THEN CREATE SCHEMA \"{schema}\"; END IF;
END $$; SET LOCAL search_path = \"{schema}\""
                );
                transaction.execute_unprepared(&sql).await?;
            }
            M::up(&transaction, None).await?;
            if behind_pooler {
                transaction.execute_unprepared("DEALLOCATE ALL").await?;
            }
            transaction.commit().await?;
        }
        Connection::Sqlite(sqlite) => {
            let options = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            // A connection of its own, which has no time limit.
            let pool = one_connection::<Sqlite>(sqlite.writer.connect_options(), patience).await?;
            let writer = DatabaseConnection::from(pool);
            let transaction = writer.begin_with_options(options).await?;
            M::up(&transaction, None).await?;
            transaction.commit().await?;
        }
    }
    Ok(true)
}

async fn one_connection<DB: Database>(
    options: <DB::Connection as sqlx::Connection>::Options,
    patience: Duration,
) -> Result<Pool<DB>, DbErr> {
    let pool = PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(patience);
    pool.connect_with(options).await.map_err(error::from_sqlx)
}

/// Held until the end of the transaction, so that it works through a transaction pooler.
async fn try_lock(transaction: &DatabaseTransaction, schema: &str) -> Result<bool, DbErr> {
    let sql = format!("SELECT pg_try_advisory_xact_lock(hashtext('agentkit migrate {schema}'))");
    let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql);
    match transaction.query_one_raw(statement).await? {
        Some(row) => row.try_get_by_index(0),
        None => Ok(false),
    }
}

/// What an error says about our schema.
fn schema_error(error: DbErr) -> Error {
    const TABLE_EXISTS: &str = "42P07";
    const NO_SUCH_COLUMN: &str = "42703";
    // What SQLite says of both.
    const SQLITE_ERROR: &str = "1";
    if matches!(&error, DbErr::Custom(_)) {
        return Error::configuration(
            "database schema",
            "has migrations that this version of AgentKit does not know: use a newer version",
        );
    }
    match error::code(&error).as_deref() {
        Some(TABLE_EXISTS | NO_SUCH_COLUMN | SQLITE_ERROR) => Error::configuration(
            "database schema",
            "holds a table of another application with the name of one of ours \
             (checkpoints, checkpoint_*, threads, agent_*): set DB_SCHEMA, or for SQLite another file",
        ),
        _ => migration_error(error),
    }
}

/// What an error says about any migration.
pub(crate) fn migration_error(error: DbErr) -> Error {
    const LOCKED: &str = "55P03";
    if error::code(&error).as_deref() == Some(LOCKED) {
        return Error::unavailable(
            "migrate: another transaction keeps a table locked; end it (see pg_stat_activity)",
            Outcome::NotDone,
            error,
        );
    }
    error::storage_error("migrate", error)
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let boxed = |script: Script| -> Box<dyn MigrationTrait> { Box::new(script) };
        MIGRATIONS.into_iter().map(boxed).collect()
    }

    /// Not SeaORM's default, which an application beside us may use for its own.
    fn migration_table_name() -> DynIden {
        "agentkit_migrations".into_iden()
    }
}

impl MigrationName for Script {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait]
impl MigrationTrait for Script {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = match manager.get_database_backend() {
            sea_orm::DbBackend::Postgres => self.postgres,
            _ => self.sqlite,
        };
        manager.get_connection().execute_unprepared(sql).await?;
        Ok(())
    }
}
