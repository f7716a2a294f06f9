use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr, Statement};
use sea_orm_migration::MigratorTrait;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool, Postgres, Row as _, SqlSafeStr,
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use yai_agentkit_core::{
    Checkpointer, Conversation, Error, IdempotencyKey, Leases, Message, Repository, Result,
    Storage, Turn, TurnEvents, UnitOfWork,
};

use crate::{
    DatabaseConfig, Migration,
    checkpointer::{Group, RawCheckpoints, SqlCheckpointer},
    config::Target,
    connection::{Connection, PostgresSource, SqliteSource, Transaction, answers, retrying},
    entity::idempotency_key,
    error::{from_sqlx, is_transient, storage_error},
    events::SqlTurnEvents,
    lease::SqlLeases,
    migration,
    repository::{Calls, SqlRepository, StoredEntity},
};

/// A connection that has been idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(5);

/// The size of a page of a new SQLite file, in bytes. A write changes a page of the index of each
/// table that it adds to, and the log takes whole pages.
const SQLITE_PAGE: u32 = 2048;

/// Pages in SQLite's log before they go to the file: 32 MiB. A page that changes again meanwhile is
/// written to the file once.
const SQLITE_LOG_PAGES: &str = "16384";

/// What SQLite keeps in memory of the file, a connection: 4 MiB. Most commits walk through all of it
/// (the balancing of a tree swaps pages by a number behind the last one, which SQLite then cuts off),
/// and what is not there the system has.
const SQLITE_CACHE_KIBIBYTES: &str = "-4096";

/// Between two attempts to connect.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// A connected database: hands out repositories and the checkpointer, and runs units of work.
///
/// A clone shares the connections. Lost connections are replaced; the call that finds one lost is
/// repeated where it runs alone, and fails with [`Error::Unavailable`] within a unit of work.
///
/// ```
/// use yai_agentkit_core::{Conversation, Message, Role, Storage};
/// use yai_agentkit_persistence::{Database, DatabaseConfig};
///
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// let database = Database::connect(&DatabaseConfig::new("sqlite::memory:")?).await?;
/// let unit = database.begin().await?;
/// let conversation = unit.conversations().add(Conversation::titled("First chat")).await?;
/// unit.messages().add(Message::new(conversation.id, Role::User, "Hello")).await?;
/// unit.commit().await?;
/// database.close().await;
/// # Ok::<(), yai_agentkit_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Database {
    pub(crate) connection: Connection,
    writes: Group,
    /// The [`Calls`] of each entity.
    calls: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
    config: Arc<DatabaseConfig>,
}

impl Database {
    /// Connects, trying again with growing pauses within the connection timeout. Then migrates, or
    /// with `generate_schemas` off refuses an outdated schema.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self> {
        if let Target::Sqlite(options) = config.target()?
            && !config.values.generate_schemas
            && !options.get_filename().exists()
        {
            let reason = "names a SQLite file that does not exist: run `agentkit migrate`";
            return Err(Error::configuration(config.url_name.clone(), reason));
        }
        let database = Self::connect_unmigrated(config).await?;
        if config.values.generate_schemas {
            database.migrate().await?;
        } else {
            let pending = migration::pending(&database.connection).await?;
            if let Some(first) = pending.first() {
                let reason = format!(
                    "lacks {} of this version's migrations, from {} on: run `agentkit migrate`",
                    pending.len(),
                    first.name,
                );
                return Err(Error::configuration("database schema", reason));
            }
        }
        Ok(database)
    }

    /// Connects without looking at the schema, to [`migrate`](Self::migrate) by hand.
    pub async fn connect_unmigrated(config: &DatabaseConfig) -> Result<Self> {
        let target = config.target()?;
        let deadline = Instant::now() + config.values.connection_timeout;
        let mut pause = SHORTEST_PAUSE;
        loop {
            let opened = tokio::time::timeout_at(deadline.into(), open(config, &target)).await;
            let left = deadline.saturating_duration_since(Instant::now());
            match opened.unwrap_or_else(|_| Err(from_sqlx(sqlx::Error::PoolTimedOut))) {
                Ok(connection) => {
                    return Ok(Self {
                        calls: Arc::default(),
                        writes: Group::new(connection.clone(), config.values.connection_timeout),
                        connection,
                        config: Arc::new(config.clone()),
                    });
                }
                Err(error) if is_transient(&error) && left > SHORTEST_PAUSE => {
                    tracing::warn!(%error, url = config.display_url(), "no connection yet, trying again");
                    tokio::time::sleep(pause.min(left / 2)).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => return Err(storage_error("connect to DATABASE_URL", error)),
            }
        }
    }

    /// Every migration with its state. Changes nothing.
    pub async fn migrations(&self) -> Result<Vec<Migration>> {
        migration::status(&self.connection).await
    }

    /// Applies the pending migrations, all or none, and returns them. Safe to run from any number
    /// of processes at once.
    pub async fn migrate(&self) -> Result<Vec<Migration>> {
        let schema = self.config.values.schema.as_deref();
        migration::migrate(
            &self.connection,
            schema,
            self.config.values.connection_timeout,
        )
        .await
    }

    /// Applies the pending migrations of the application's own tables as [`migrate`](Self::migrate)
    /// does ours, and returns their names. They run in the schema of ours, and may refer to it.
    pub async fn migrate_with<M: MigratorTrait>(&self) -> Result<Vec<String>> {
        let schema = self.config.values.schema.as_deref();
        let patience = self.config.values.connection_timeout;
        let explain = migration::migration_error;
        migration::migrate_with::<M>(&self.connection, schema, patience, explain).await
    }

    /// The repository of any entity, an application's own included; see [`StoredEntity`].
    pub fn repository<E: StoredEntity>(&self) -> Arc<dyn Repository<E>> {
        Arc::new(SqlRepository::on_pool(
            self.connection.clone(),
            self.calls::<E>(),
        ))
    }

    fn calls<E: StoredEntity>(&self) -> Arc<Calls<E>> {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = all
            .entry(TypeId::of::<E>())
            .or_insert_with(|| Arc::new(Calls::<E>::new()));
        let calls = Arc::clone(calls).downcast();
        calls.expect("each is entered under its type")
    }

    /// The checkpoints with their JSON as text.
    pub fn raw_checkpoints(&self) -> RawCheckpoints {
        RawCheckpoints(self.sql_checkpointer())
    }

    /// Begins a [`DatabaseUnitOfWork`], the unit of work that an application's own entities can
    /// take part in.
    pub async fn begin_unit(&self) -> Result<DatabaseUnitOfWork> {
        let transaction = self.connection.begin().await;
        Ok(DatabaseUnitOfWork(
            transaction.map_err(|error| storage_error("begin", error))?,
        ))
    }

    /// Runs one SQL script as it stands, for an application's own tables. The query timeout holds
    /// for all of it.
    pub async fn execute_script(&self, sql: &str) -> Result<()> {
        // It can't be repeated, so that it must not meet a lost connection.
        self.connection.replace_dead_connections().await;
        let done = self.connection.execute_unprepared(sql).await;
        done.map(drop)
            .map_err(|error| storage_error("execute script", error))
    }

    /// Waits for what is under way, then closes all connections.
    pub async fn close(&self) {
        self.writes.idle().await;
        self.connection.close().await;
    }

    /// With the statements for Citus, on a PostgreSQL without.
    #[cfg(test)]
    pub(crate) fn into_distributed(mut self) -> Self {
        self.connection = self.connection.into_distributed();
        let patience = self.config.values.connection_timeout;
        self.writes = Group::new(self.connection.clone(), patience);
        self
    }

    fn sql_checkpointer(&self) -> SqlCheckpointer {
        SqlCheckpointer::on_pool(self.connection.clone(), self.writes.clone())
    }
}

#[async_trait]
impl Storage for Database {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.repository()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.repository()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.repository()
    }

    fn turn_events(&self) -> Arc<dyn TurnEvents> {
        Arc::new(SqlTurnEvents(self.connection.clone()))
    }

    fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(SqlLeases(self.connection.clone()))
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.repository()
    }

    async fn forget_idempotency_keys(&self, age: Duration) -> Result<u64> {
        idempotency_key::forget(&self.connection, age).await
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        Arc::new(self.sql_checkpointer())
    }

    async fn begin(&self) -> Result<Box<dyn UnitOfWork>> {
        Ok(Box::new(self.begin_unit().await?))
    }

    async fn ping(&self) -> Result<()> {
        let backend = self.connection.get_database_backend();
        let statement = || Statement::from_string(backend, "SELECT 1");
        let answer = retrying!(self.connection, self.connection.query_one_raw(statement()));
        answer
            .map(drop)
            .map_err(|error| storage_error("ping", error))
    }
}

/// One transaction on a [`Database`]. Dropping it undoes everything.
pub struct DatabaseUnitOfWork(Transaction);

impl DatabaseUnitOfWork {
    /// The repository of any entity, within this transaction.
    pub fn repository<E: StoredEntity>(&self) -> Arc<dyn Repository<E>> {
        Arc::new(SqlRepository::within(self.0.clone()))
    }

    /// Makes everything durable, or nothing.
    pub async fn commit(self) -> Result<()> {
        let committed = self.0.commit().await;
        committed.map_err(|error| storage_error("commit", error))
    }
}

#[async_trait]
impl UnitOfWork for DatabaseUnitOfWork {
    fn conversations(&self) -> Arc<dyn Repository<Conversation>> {
        self.repository()
    }

    fn messages(&self) -> Arc<dyn Repository<Message>> {
        self.repository()
    }

    fn turns(&self) -> Arc<dyn Repository<Turn>> {
        self.repository()
    }

    fn turn_events(&self) -> Arc<dyn TurnEvents> {
        Arc::new(SqlTurnEvents(self.0.clone()))
    }

    fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(SqlLeases(self.0.clone()))
    }

    fn idempotency_keys(&self) -> Arc<dyn Repository<IdempotencyKey>> {
        self.repository()
    }

    fn checkpointer(&self) -> Arc<dyn Checkpointer> {
        Arc::new(SqlCheckpointer::within(self.0.clone()))
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        (*self).commit().await
    }
}

async fn open(config: &DatabaseConfig, target: &Target) -> Result<Connection, DbErr> {
    match target {
        Target::Postgres(options) => open_postgres(config, options).await,
        Target::Sqlite(options) => open_sqlite(config, options).await,
        Target::SqliteMemory => open_sqlite_memory(config).await,
    }
    .map_err(from_sqlx)
}

fn pool_options<DB: sqlx::Database>(config: &DatabaseConfig) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(config.values.max_connections)
        .min_connections(config.values.min_connections)
        .acquire_timeout(config.values.connection_timeout)
        .test_before_acquire(false)
}

async fn open_postgres(
    config: &DatabaseConfig,
    options: &PgConnectOptions,
) -> Result<Connection, sqlx::Error> {
    let timeout = config.values.query_timeout.as_millis().max(1);
    let plain = options
        .clone()
        .application_name("agentkit")
        .extra_float_digits(None);
    let mut settings = vec![
        ("statement_timeout", timeout.to_string()),
        // Rows come by their keys, more of them in the planner's guess than in truth: compiling a
        // statement would take longer than running it.
        ("jit", "off".to_owned()),
        // A process that hangs in a transaction must not keep its locks from the others.
        ("idle_in_transaction_session_timeout", timeout.to_string()),
    ];
    settings.extend(
        config
            .values
            .schema
            .clone()
            .map(|schema| ("search_path", schema)),
    );
    let direct = plain.clone().options(settings.clone());

    let behind_pooler = match config.values.transaction_pooler {
        Some(known) => known,
        None => is_transaction_pooler(&direct).await?,
    };
    let set_local =
        |(setting, value): &(&str, String)| format!("; SET LOCAL {setting} = '{value}'");
    let pooler_begin = behind_pooler.then(|| {
        let settings: String = settings.iter().map(set_local).collect();
        format!("BEGIN{settings}").into()
    });
    let pool: PgPoolOptions =
        pool_options(config).before_acquire(|connection: &mut PgConnection, meta| {
            Box::pin(async move { Ok(meta.idle_for < TRUSTED_IDLE || answers(connection).await) })
        });
    let pool = pool
        .connect_with(if behind_pooler { plain } else { direct })
        .await?;
    let is_distributed = is_distributed(&pool, config.values.schema.as_deref()).await?;
    Ok(Connection::Postgres(PostgresSource::new(
        pool,
        pooler_begin,
        is_distributed,
    )))
}

/// Whether Citus distributes the checkpoints.
async fn is_distributed(pool: &PgPool, schema: Option<&str>) -> Result<bool, sqlx::Error> {
    const HAS_CITUS: &str = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";
    if !holds(pool, HAS_CITUS).await? {
        return Ok(false);
    }
    // Behind a transaction pooler no search path is set here.
    let schema = schema.map(|schema| format!("\"{schema}\"."));
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition
WHERE logicalrelid = to_regclass('{}checkpoints'))",
        schema.unwrap_or_default(),
    );
    holds(pool, AssertSqlSafe(sql)).await
}

/// Whether what `sql` selects is true. Without parameters, so that nothing is prepared.
async fn holds<'e>(
    executor: impl Executor<'e, Database = Postgres>,
    sql: impl SqlSafeStr,
) -> Result<bool, sqlx::Error> {
    executor.fetch_one(sqlx::raw_sql(sql)).await?.try_get(0)
}

/// Whether settings given on connecting don't arrive, as behind PgBouncer: it refuses them, or
/// drops them where it is told to ignore them.
async fn is_transaction_pooler(direct: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    const PROTOCOL_VIOLATION: &str = "08P01";
    let probe = direct.clone().options([("agentkit.direct", "yes")]);
    let mut connection = match PgConnection::connect_with(&probe).await {
        Ok(connection) => connection,
        Err(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(PROTOCOL_VIOLATION) =>
        {
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    const ARRIVED: &str =
        "SELECT current_setting('agentkit.direct', true) IS NOT DISTINCT FROM 'yes'";
    let arrived = holds(&mut connection, ARRIVED).await?;
    connection.close().await?;
    Ok(!arrived)
}

async fn open_sqlite(
    config: &DatabaseConfig,
    options: &SqliteConnectOptions,
) -> Result<Connection, sqlx::Error> {
    // A commit that was acknowledged survives a power cut.
    let options = options.clone().synchronous(SqliteSynchronous::Full);
    open_sqlite_with(config, options, None).await
}

async fn open_sqlite_with(
    config: &DatabaseConfig,
    options: SqliteConnectOptions,
    directory: Option<Arc<tempfile::TempDir>>,
) -> Result<Connection, sqlx::Error> {
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .foreign_keys(true)
        .busy_timeout(config.values.query_timeout)
        .page_size(SQLITE_PAGE)
        .pragma("wal_autocheckpoint", SQLITE_LOG_PAGES)
        .pragma("cache_size", SQLITE_CACHE_KIBIBYTES);
    let writer = sqlite_pool(config)
        .max_connections(1)
        .min_connections(1)
        .connect_with(options.clone());
    let writer = writer.await?;
    let readers = sqlite_pool(config)
        .max_connections(config.values.max_connections.saturating_sub(1).max(1))
        .min_connections(0)
        .connect_lazy_with(options.pragma("query_only", "ON"));
    Ok(Connection::Sqlite(SqliteSource::new(
        writer,
        readers,
        config.values.query_timeout,
        directory,
    )))
}

/// A file in a directory of its own, which goes with the database. SQLite's own database in memory
/// has one connection, on which a reader would wait for the end of a unit of work.
async fn open_sqlite_memory(config: &DatabaseConfig) -> Result<Connection, sqlx::Error> {
    let directory = tempfile::Builder::new().prefix("agentkit-").tempdir()?;
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("memory.db"))
        .synchronous(SqliteSynchronous::Off);
    open_sqlite_with(config, options, Some(Arc::new(directory))).await
}

/// A file needs no test of its connections, and no renewal.
fn sqlite_pool(config: &DatabaseConfig) -> SqlitePoolOptions {
    pool_options(config).idle_timeout(None).max_lifetime(None)
}

#[cfg(test)]
mod tests {
    use sea_orm::DbBackend;

    use super::*;

    #[tokio::test]
    async fn a_file_keeps_what_was_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("agentkit.db").display());
        let database = Database::connect(&DatabaseConfig::new(url).unwrap()).await;
        let connection = database.unwrap().connection;
        // The first goes to the connection that writes, the second to one that reads.
        for (pragmas, query_only) in [
            (
                "/**/ SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys, pragma_query_only",
                0,
            ),
            (
                "SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys, pragma_query_only",
                1,
            ),
        ] {
            let statement = Statement::from_string(DbBackend::Sqlite, pragmas);
            let row = connection.query_one_raw(statement).await.unwrap().unwrap();
            let row: (String, i64, i64, i64) =
                sqlx::FromRow::from_row(row.try_as_sqlite_row().unwrap()).unwrap();
            const FULL: i64 = 2;
            assert_eq!(row, ("wal".to_owned(), FULL, 1, query_only));
        }
        connection.close().await;
    }
}
