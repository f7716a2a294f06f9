//! Where statements run: a pool, or one transaction.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, Statement};
use sea_query_sqlx::SqlxValues;
use sqlx::{
    AssertSqlSafe, Connection as _, Execute, Executor, PgConnection, PgPool, Postgres, SqlSafeStr,
    SqlStr, Sqlite, SqlitePool,
    postgres::{PgArguments, PgQueryResult, PgRow},
    sqlite::{SqliteArguments, SqliteConnection, SqliteQueryResult, SqliteRow},
};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::error::from_sqlx;

/// A clone is the same pool or the same transaction.
#[derive(Clone)]
pub(crate) enum Connection {
    Postgres(PostgresPool),
    Sqlite(SqlitePools),
    PostgresTransaction(
        Arc<Mutex<Option<sqlx::Transaction<'static, Postgres>>>>,
        Persistence,
    ),
    SqliteTransaction(
        Arc<Mutex<Option<sqlx::Transaction<'static, Sqlite>>>>,
        Duration,
    ),
}

#[derive(Clone)]
pub(crate) struct PostgresPool {
    pub(crate) pool: PgPool,
    /// Behind a transaction pooler every statement runs in a transaction of its own, begun with
    /// this: nothing set on a connection, and no prepared statement, outlives a transaction there.
    pub(crate) pooler_begin: Option<Arc<str>>,
}

/// Whether statements stay prepared on their connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    Prepared,
    Unnamed,
}

/// SQLite lets one connection write and any number read.
#[derive(Clone)]
pub(crate) struct SqlitePools {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    pub(crate) query_timeout: Duration,
    /// Holds the files of a database that is gone with its last connection.
    pub(crate) _directory: Option<Arc<TempDir>>,
}

/// A transaction under way. Dropping it undoes it, unless it was only entered.
pub(crate) struct Transaction {
    connection: Connection,
    entered: bool,
}

impl Transaction {
    /// Makes what follows undoable within a transaction that was entered, and that would be of no
    /// more use on PostgreSQL after an error.
    pub(crate) async fn save(&self) -> Result<(), DbErr> {
        self.if_entered("SAVEPOINT entered").await
    }

    /// Undoes what came after [`save`](Self::save).
    pub(crate) async fn undo_to_save(&self) -> Result<(), DbErr> {
        self.if_entered("ROLLBACK TO SAVEPOINT entered").await
    }

    async fn if_entered(&self, sql: &str) -> Result<(), DbErr> {
        if self.entered {
            self.connection.execute_unprepared(sql).await?;
        }
        Ok(())
    }

    /// Commits, unless whoever began the transaction will.
    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        if self.entered {
            Ok(())
        } else {
            self.connection.commit().await
        }
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// Awaits `$attempt`, which must be safe to repeat; and once more where the connection turns out to
/// have been lost and is not a transaction: a connection that died in the pool must not fail its
/// next user. (A function that took an async closure could not promise that its future is `Send`.)
macro_rules! retrying {
    ($connection:expr, $attempt:expr) => {
        match $attempt.await {
            Err(error)
                if $crate::error::is_disconnected(&error)
                    && $connection.replace_dead_connections().await =>
            {
                $attempt.await
            }
            result => result,
        }
    };
}
pub(crate) use retrying;

/// More than a server in use takes to say that it is there.
const TIME_TO_ANSWER: Duration = Duration::from_secs(2);

/// SQLite asks after this many of its instructions whether the time is up: some 10 µs.
const INSTRUCTIONS_BETWEEN_CLOCK_READS: i32 = 2_000;

impl Connection {
    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_) | Self::PostgresTransaction(..))
    }

    /// Drops the idle connections that don't answer. `false` for a transaction, which can't go on.
    pub(crate) async fn replace_dead_connections(&self) -> bool {
        let Self::Postgres(PostgresPool { pool, .. }) = self else {
            return false;
        };
        for _ in 0..pool.num_idle() {
            if let Some(mut connection) = pool.try_acquire()
                && !answers(&mut connection).await
            {
                connection.close_on_drop();
            }
        }
        true
    }

    /// Begins a transaction, or enters this one where it is one.
    pub(crate) async fn begin(&self) -> Result<Transaction, DbErr> {
        let connection = match self {
            Self::Postgres(postgres) => {
                // Nothing has happened yet, so that a lost connection shows without harm.
                let begun = retrying!(self, async { postgres.begin().await.map_err(from_sqlx) })?;
                let transaction = Arc::new(Mutex::new(Some(begun)));
                Self::PostgresTransaction(transaction, postgres.persistence())
            }
            Self::Sqlite(sqlite) => {
                let begun = sqlite.begin().await.map_err(from_sqlx)?;
                Self::SqliteTransaction(Arc::new(Mutex::new(Some(begun))), sqlite.query_timeout)
            }
            Self::PostgresTransaction(..) | Self::SqliteTransaction(..) => {
                return Ok(Transaction {
                    connection: self.clone(),
                    entered: true,
                });
            }
        };
        Ok(Transaction {
            connection,
            entered: false,
        })
    }

    async fn commit(self) -> Result<(), DbErr> {
        let committed = match self {
            Self::PostgresTransaction(transaction, _) => match transaction.lock().await.take() {
                Some(transaction) => transaction.commit().await,
                None => return Err(finished()),
            },
            Self::SqliteTransaction(transaction, _) => match transaction.lock().await.take() {
                Some(transaction) => transaction.commit().await,
                None => return Err(finished()),
            },
            Self::Postgres(_) | Self::Sqlite(_) => Ok(()),
        };
        committed.map_err(from_sqlx)
    }

    /// All rows of one statement on PostgreSQL: one round trip, one transaction.
    pub(crate) async fn postgres_rows(
        &self,
        sql: impl SqlSafeStr,
        arguments: PgArguments,
    ) -> Result<Vec<PgRow>, DbErr> {
        let sql = sql.into_sql_str();
        match self {
            Self::Postgres(postgres) => postgres.rows(sql, arguments).await,
            Self::PostgresTransaction(transaction, persistence) => {
                let mut transaction = transaction.lock().await;
                let Some(transaction) = transaction.as_mut() else {
                    return Err(finished());
                };
                postgres_query(sql, arguments, *persistence)
                    .fetch_all(&mut **transaction)
                    .await
            }
            _ => return Err(wrong_backend()),
        }
        .map_err(from_sqlx)
    }

    /// One statement on PostgreSQL without rows.
    pub(crate) async fn postgres_execute(
        &self,
        sql: impl SqlSafeStr,
        arguments: PgArguments,
    ) -> Result<PgQueryResult, DbErr> {
        let sql = sql.into_sql_str();
        match self {
            Self::Postgres(postgres) => postgres.execute(sql, arguments).await,
            Self::PostgresTransaction(transaction, persistence) => {
                let mut transaction = transaction.lock().await;
                let Some(transaction) = transaction.as_mut() else {
                    return Err(finished());
                };
                postgres_query(sql, arguments, *persistence)
                    .execute(&mut **transaction)
                    .await
            }
            _ => return Err(wrong_backend()),
        }
        .map_err(from_sqlx)
    }

    /// All rows of one statement on SQLite.
    pub(crate) async fn sqlite_rows(
        &self,
        sql: impl SqlSafeStr,
        arguments: SqliteArguments,
    ) -> Result<Vec<SqliteRow>, DbErr> {
        let sql = sql.into_sql_str();
        match self {
            Self::Sqlite(sqlite) => {
                let pool = sqlite.pool_for(&sql);
                let mut connection = pool.acquire().await.map_err(from_sqlx)?;
                limit_time(&mut connection, sqlite.query_timeout)
                    .await
                    .map_err(from_sqlx)?;
                sqlx::query_with(sql, arguments)
                    .fetch_all(&mut *connection)
                    .await
            }
            Self::SqliteTransaction(transaction, timeout) => {
                let mut transaction = transaction.lock().await;
                let Some(transaction) = transaction.as_mut() else {
                    return Err(finished());
                };
                limit_time(transaction, *timeout).await.map_err(from_sqlx)?;
                sqlx::query_with(sql, arguments)
                    .fetch_all(&mut **transaction)
                    .await
            }
            _ => return Err(wrong_backend()),
        }
        .map_err(from_sqlx)
    }

    /// One statement on SQLite without rows.
    pub(crate) async fn sqlite_execute(
        &self,
        sql: impl SqlSafeStr,
        arguments: SqliteArguments,
    ) -> Result<SqliteQueryResult, DbErr> {
        let sql = sql.into_sql_str();
        match self {
            Self::Sqlite(sqlite) => {
                let mut connection = sqlite.writer.acquire().await.map_err(from_sqlx)?;
                limit_time(&mut connection, sqlite.query_timeout)
                    .await
                    .map_err(from_sqlx)?;
                sqlx::query_with(sql, arguments)
                    .execute(&mut *connection)
                    .await
            }
            Self::SqliteTransaction(transaction, timeout) => {
                let mut transaction = transaction.lock().await;
                let Some(transaction) = transaction.as_mut() else {
                    return Err(finished());
                };
                limit_time(transaction, *timeout).await.map_err(from_sqlx)?;
                sqlx::query_with(sql, arguments)
                    .execute(&mut **transaction)
                    .await
            }
            _ => return Err(wrong_backend()),
        }
        .map_err(from_sqlx)
    }

    /// Waits for what is under way and closes every connection.
    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres(postgres) => postgres.pool.close().await,
            Self::Sqlite(sqlite) => {
                sqlite.readers.close().await;
                sqlite.writer.close().await;
            }
            Self::PostgresTransaction(..) | Self::SqliteTransaction(..) => {}
        }
    }
}

impl PostgresPool {
    async fn begin(&self) -> Result<sqlx::Transaction<'static, Postgres>, sqlx::Error> {
        match &self.pooler_begin {
            None => self.pool.begin().await,
            Some(begin) => self.pool.begin_with(AssertSqlSafe(Arc::clone(begin))).await,
        }
    }

    fn persistence(&self) -> Persistence {
        match self.pooler_begin {
            None => Persistence::Prepared,
            Some(_) => Persistence::Unnamed,
        }
    }

    async fn rows(&self, sql: SqlStr, arguments: PgArguments) -> Result<Vec<PgRow>, sqlx::Error> {
        let query = postgres_query(sql, arguments, self.persistence());
        if self.pooler_begin.is_none() {
            return query.fetch_all(&self.pool).await;
        }
        let mut transaction = self.begin().await?;
        let rows = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    async fn execute(
        &self,
        sql: SqlStr,
        arguments: PgArguments,
    ) -> Result<PgQueryResult, sqlx::Error> {
        let query = postgres_query(sql, arguments, self.persistence());
        if self.pooler_begin.is_none() {
            return query.execute(&self.pool).await;
        }
        let mut transaction = self.begin().await?;
        let result = query.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(result)
    }

    async fn execute_script<'q>(
        &'q self,
        script: impl Execute<'q, Postgres> + 'q,
    ) -> Result<PgQueryResult, sqlx::Error> {
        if self.pooler_begin.is_none() {
            return self.pool.execute(script).await;
        }
        let mut transaction = self.begin().await?;
        let result = transaction.execute(script).await?;
        transaction.commit().await?;
        Ok(result)
    }
}

impl SqlitePools {
    /// A transaction that may write from its begin on: one that began reading could not be made to
    /// wait for another writer.
    async fn begin(&self) -> Result<sqlx::Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// For a migration, which may take its time: the limit of an earlier statement stays on its
    /// connection.
    pub(crate) async fn lift_time_limit(&self) -> Result<(), DbErr> {
        let mut connection = self.writer.acquire().await.map_err(from_sqlx)?;
        let mut handle = connection.lock_handle().await.map_err(from_sqlx)?;
        handle.remove_progress_handler();
        Ok(())
    }

    /// A statement that returns rows reads when it begins so; none of ours is `WITH … INSERT`, and
    /// a reader would refuse it.
    fn pool_for(&self, sql: &SqlStr) -> &SqlitePool {
        let first_word = sql.as_str().split_whitespace().next().unwrap_or_default();
        let reads = ["select", "with"]
            .iter()
            .any(|word| first_word.eq_ignore_ascii_case(word));
        if reads { &self.readers } else { &self.writer }
    }
}

fn postgres_query(
    sql: SqlStr,
    arguments: PgArguments,
    persistence: Persistence,
) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    sqlx::query_with(sql, arguments).persistent(persistence == Persistence::Prepared)
}

/// Makes SQLite itself end what runs longer.
async fn limit_time(
    connection: &mut SqliteConnection,
    timeout: Duration,
) -> Result<(), sqlx::Error> {
    let deadline = Instant::now() + timeout;
    connection
        .lock_handle()
        .await?
        .set_progress_handler(INSTRUCTIONS_BETWEEN_CLOCK_READS, move || {
            Instant::now() < deadline
        });
    Ok(())
}

/// Whether the server is there. One that a firewall has cut off says nothing, for long.
pub(crate) async fn answers(connection: &mut PgConnection) -> bool {
    let ping = tokio::time::timeout(TIME_TO_ANSWER, connection.ping()).await;
    ping.is_ok_and(|answer| answer.is_ok())
}

fn finished() -> DbErr {
    DbErr::Custom("the transaction is finished".to_owned())
}

fn wrong_backend() -> DbErr {
    DbErr::Custom("a statement for the other database".to_owned())
}

/// What SeaORM runs on: the same pools, the same transactions.
#[async_trait]
impl ConnectionTrait for Connection {
    fn get_database_backend(&self) -> DbBackend {
        if self.is_postgres() {
            DbBackend::Postgres
        } else {
            DbBackend::Sqlite
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let (sql, values) = parts(statement);
        if self.is_postgres() {
            let arguments = sqlx::IntoArguments::<Postgres>::into_arguments(values);
            Ok(self.postgres_execute(sql, arguments).await?.into())
        } else {
            let arguments = sqlx::IntoArguments::<Sqlite>::into_arguments(values);
            Ok(self.sqlite_execute(sql, arguments).await?.into())
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Postgres(postgres) => postgres.execute_script(sql).await.map(Into::into),
            Self::Sqlite(sqlite) => {
                let mut connection = sqlite.writer.acquire().await.map_err(from_sqlx)?;
                limit_time(&mut connection, sqlite.query_timeout)
                    .await
                    .map_err(from_sqlx)?;
                connection.execute(sql).await.map(Into::into)
            }
            Self::PostgresTransaction(transaction, _) => match transaction.lock().await.as_mut() {
                Some(transaction) => transaction.execute(sql).await.map(Into::into),
                None => return Err(finished()),
            },
            Self::SqliteTransaction(transaction, timeout) => {
                let mut transaction = transaction.lock().await;
                let Some(transaction) = transaction.as_mut() else {
                    return Err(finished());
                };
                limit_time(transaction, *timeout).await.map_err(from_sqlx)?;
                transaction.execute(sql).await.map(Into::into)
            }
        }
        .map_err(from_sqlx)
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        Ok(self.query_all_raw(statement).await?.into_iter().next())
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let (sql, values) = parts(statement);
        if self.is_postgres() {
            let arguments = sqlx::IntoArguments::<Postgres>::into_arguments(values);
            let rows = self.postgres_rows(sql, arguments).await?;
            Ok(rows.into_iter().map(Into::into).collect())
        } else {
            let arguments = sqlx::IntoArguments::<Sqlite>::into_arguments(values);
            let rows = self.sqlite_rows(sql, arguments).await?;
            Ok(rows.into_iter().map(Into::into).collect())
        }
    }
}

fn parts(statement: Statement) -> (SqlStr, SqlxValues) {
    let values = statement
        .values
        .unwrap_or(sea_orm::sea_query::Values(Vec::new()));
    (
        AssertSqlSafe(statement.sql).into_sql_str(),
        SqlxValues(values),
    )
}
