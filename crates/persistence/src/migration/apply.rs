use std::{
    marker::PhantomData,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use sqlx::{Database, Pool, Postgres, Sqlite, pool::PoolOptions};
use yai_agentkit_core::{Error, Result, error::Outcome};

use super::{Migration, MigrationState, Script, TENANTS, migration_error, schema_error, unapplied};
use crate::{
    connection::{Connection, SqliteSource},
    error,
};

/// Applies what is pending of our schema; see [`migrate_with`].
pub(crate) async fn migrate(
    connection: &Connection,
    schema: Option<&str>,
    patience: Duration,
) -> Result<Vec<Migration>> {
    let limits = Limits { schema, patience };
    let applied = apply_once::<Ours>(connection, limits, schema_error).await?;
    let backend = connection.get_database_backend();
    let migration = |script: Script| script.migration(MigrationState::Applied, backend);
    Ok(applied.into_iter().map(migration).collect())
}

/// Applies what is pending of `M`, in one transaction, and returns the names. Of several processes
/// that do so at once one does it; the others wait, at most for `patience`, and find nothing left
/// to do.
pub(crate) async fn migrate_with<M: MigratorTrait>(
    connection: &Connection,
    schema: Option<&str>,
    patience: Duration,
) -> Result<Vec<String>> {
    let limits = Limits { schema, patience };
    apply_once::<Theirs<M>>(connection, limits, migration_error).await
}

/// For whom one migrates, and how long one waits for others.
#[derive(Clone, Copy)]
struct Limits<'a> {
    schema: Option<&'a str>,
    patience: Duration,
}

async fn apply_once<M: Migrations>(
    connection: &Connection,
    limits: Limits<'_>,
    explain: fn(DbErr) -> Error,
) -> Result<Vec<M::Migration>> {
    let deadline = Instant::now() + limits.patience;
    loop {
        let attempt = async {
            if M::pending(connection).await?.is_empty() {
                return Ok(Some(Vec::new()));
            }
            M::apply(connection, limits).await
        };
        match attempt.await {
            Ok(Some(applied)) => return Ok(applied),
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

/// Migrations of one kind.
#[async_trait]
trait Migrations {
    type Migration: Send;

    /// Those that the database lacks. Reads only.
    async fn pending(connection: &Connection) -> Result<Vec<Self::Migration>, DbErr>;

    /// Applies them, all or none. `None` when another process is at it.
    async fn apply(
        connection: &Connection,
        limits: Limits<'_>,
    ) -> Result<Option<Vec<Self::Migration>>, DbErr>;
}

struct Ours;

#[async_trait]
impl Migrations for Ours {
    type Migration = Script;

    async fn pending(connection: &Connection) -> Result<Vec<Script>, DbErr> {
        unapplied(connection, connection.is_divided()).await
    }

    async fn apply(
        connection: &Connection,
        limits: Limits<'_>,
    ) -> Result<Option<Vec<Script>>, DbErr> {
        if let Connection::Sqlite(sqlite) = connection {
            let transaction = begin_on_sqlite(sqlite, limits).await?;
            let applied = run_unapplied(&transaction, false).await?;
            transaction.commit().await?;
            return Ok(Some(applied));
        }
        let transaction = connection.begin().await?;
        if !begin_on_postgres(&*transaction, limits).await? {
            transaction.undo().await?;
            return Ok(None);
        }
        let applied = run_unapplied(&*transaction, connection.is_divided()).await?;
        transaction.commit().await?;
        Ok(Some(applied))
    }
}

/// Runs the scripts that the database lacks, as one.
async fn run_unapplied(
    connection: &impl ConnectionTrait,
    is_divided: bool,
) -> Result<Vec<Script>, DbErr> {
    let unapplied = unapplied(connection, is_divided).await?;
    let backend = connection.get_database_backend();
    let now = match backend {
        DbBackend::Postgres => "extract(epoch FROM now())::bigint",
        _ => "unixepoch()",
    };
    let mut all = "CREATE TABLE IF NOT EXISTS agentkit_migrations
    (version VARCHAR NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL);\n"
        .to_owned();
    for script in &unapplied {
        let Script { name, .. } = script;
        let sql = script.sql(backend);
        all += &format!("{sql};\nINSERT INTO agentkit_migrations VALUES ('{name}', {now});\n");
    }
    if is_divided && unapplied.iter().all(|script| script.name != TENANTS.name) {
        // The tables that are new.
        all += TENANTS.postgres;
    }
    connection.execute_unprepared(&all).await?;
    Ok(unapplied)
}

struct Theirs<M>(PhantomData<M>);

#[async_trait]
impl<M: MigratorTrait> Migrations for Theirs<M> {
    type Migration = String;

    async fn pending(connection: &Connection) -> Result<Vec<String>, DbErr> {
        let pending = M::get_pending_migrations_read_only(connection).await?;
        let names = pending.iter().map(|migration| migration.name().to_owned());
        Ok(names.collect())
    }

    async fn apply(
        connection: &Connection,
        limits: Limits<'_>,
    ) -> Result<Option<Vec<String>>, DbErr> {
        let pending = Self::pending(connection).await?;
        let transaction = match connection {
            Connection::Sqlite(sqlite) => begin_on_sqlite(sqlite, limits).await?,
            Connection::Postgres(postgres) => {
                // SeaORM runs them on a connection of its own only, and prepares statements by name.
                // Behind a transaction pooler the session may hold those of other clients, and must
                // not keep ours.
                let options = (*postgres.pool.connect_options()).clone();
                let pool = one_connection::<Postgres>(options, limits.patience).await?;
                let transaction = DatabaseConnection::from(pool).begin().await?;
                if postgres.pooler_begin.is_some() {
                    transaction.execute_unprepared("DEALLOCATE ALL").await?;
                }
                if !begin_on_postgres(&transaction, limits).await? {
                    return Ok(None);
                }
                transaction
            }
        };
        M::up(&transaction, None).await?;
        if let Connection::Postgres(postgres) = connection
            && postgres.pooler_begin.is_some()
        {
            transaction.execute_unprepared("DEALLOCATE ALL").await?;
        }
        transaction.commit().await?;
        Ok(Some(pending))
    }
}

/// `false` when another process is migrating. The lock is held until the end of the transaction, so
/// that it works through a transaction pooler.
async fn begin_on_postgres(
    transaction: &impl ConnectionTrait,
    limits: Limits<'_>,
) -> Result<bool, DbErr> {
    let schema = limits.schema.unwrap_or_default();
    // A backfill may take long. A lock that an old open transaction keeps from us must not make
    // everybody else queue up behind us.
    let lock = format!(
        "SELECT pg_try_advisory_xact_lock(hashtext('agentkit migrate {schema}')),
    set_config('statement_timeout', '0', true), set_config('lock_timeout', '{}', true)",
        limits.patience.as_millis().clamp(1, 10_000),
    );
    let lock = Statement::from_string(DbBackend::Postgres, lock);
    let is_ours = match transaction.query_one_raw(lock).await? {
        Some(row) => row.try_get_by_index(0)?,
        None => false,
    };
    if is_ours && !schema.is_empty() {
        // The name holds nothing but letters, digits and underscores; it may be a keyword. IF NOT
        // EXISTS asks for the right to create one even where there is one.
        let sql = format!(
            "DO $$ BEGIN
    IF to_regnamespace('\"{schema}\"') IS NULL THEN CREATE SCHEMA \"{schema}\"; END IF;
END $$; SET LOCAL search_path = \"{schema}\""
        );
        transaction.execute_unprepared(&sql).await?;
    }
    Ok(is_ours)
}

/// On a connection of its own, which has no time limit.
async fn begin_on_sqlite(
    sqlite: &SqliteSource,
    limits: Limits<'_>,
) -> Result<DatabaseTransaction, DbErr> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let pool =
        one_connection::<Sqlite>((*sqlite.writer.connect_options()).clone(), limits.patience)
            .await?;
    DatabaseConnection::from(pool)
        .begin_with_options(options)
        .await
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
