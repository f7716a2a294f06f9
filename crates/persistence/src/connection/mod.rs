//! Where statements run: a pool, or one transaction.

pub(crate) mod files;
pub(crate) mod pool;
mod postgres;
pub(crate) mod servers;
mod session;
mod sqlite;
mod tls;

use std::{ops::Deref, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, Statement};
use sqlx::{AssertSqlSafe, Executor};
use yai_agentkit_core::Clock;

use crate::error::{Repeat, Repeatable};

pub(crate) use postgres::{PostgresSource, answers};
pub(crate) use sqlite::{FileIdentity, Log, SqliteSource};

use crate::sql::Query;

/// A pool, or a transaction on one of its connections. A clone is the same.
#[derive(Clone)]
pub(crate) enum Connection {
    Postgres(PostgresSource),
    Sqlite(SqliteSource),
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
        match &self.connection {
            Connection::Postgres(PostgresSource {
                unit: Some(unit), ..
            }) => session::reopen(unit).await,
            Connection::Sqlite(SqliteSource {
                unit: Some(unit), ..
            }) => session::reopen(unit).await,
            Connection::Postgres(_) | Connection::Sqlite(_) => {}
        }
        self.if_entered("ROLLBACK TO SAVEPOINT entered").await
    }

    /// Ends what [`save`](Self::save) began.
    pub(crate) async fn release(&self) -> Result<(), DbErr> {
        self.if_entered("RELEASE SAVEPOINT entered").await
    }

    async fn if_entered(&self, sql: &str) -> Result<(), DbErr> {
        if self.entered {
            self.connection.execute_unprepared(sql).await?;
        }
        Ok(())
    }

    /// Undoes all of it, and waits for that. Whoever began it does where it was entered.
    pub(crate) async fn undo(self) -> Result<(), DbErr> {
        match self.connection {
            _ if self.entered => Ok(()),
            Connection::Postgres(PostgresSource {
                unit: Some(unit), ..
            }) => session::undo(&unit).await,
            Connection::Sqlite(SqliteSource {
                unit: Some(unit), ..
            }) => session::undo(&unit).await,
            Connection::Postgres(_) | Connection::Sqlite(_) => Ok(()),
        }
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

/// Awaits `$attempt`, which must be safe to repeat; and again where [`Connection::may_repeat`] says
/// so: a connection that died in the pool must not fail its next user, nor a deadlock its victim. (A
/// function that took an async closure could not promise that its future is `Send`.)
macro_rules! retrying {
    ($connection:expr, $attempt:expr) => {{
        let mut attempts = 0;
        loop {
            match $attempt.await {
                Err(error) if $connection.may_repeat(&error, &mut attempts).await => {}
                result => break result,
            }
        }
    }};
}
pub(crate) use retrying;

/// The same for an `$attempt` that must not be repeated where it may have been done.
macro_rules! retrying_undone {
    ($connection:expr, $attempt:expr) => {{
        let mut attempts = 0;
        loop {
            match $attempt.await {
                Err(error)
                    if $crate::error::Repeatable::repeat(&error)
                        != Some($crate::error::Repeat::Reconnected)
                        && $connection.may_repeat(&error, &mut attempts).await => {}
                result => break result,
            }
        }
    }};
}
pub(crate) use retrying_undone;

/// How often a call is repeated that was undone for the sake of another.
const MOST_UNDONE: u32 = 5;

/// Before it is, and longer each time.
const PAUSE_AFTER_UNDONE: Duration = Duration::from_millis(5);

impl Connection {
    pub(crate) fn with_clock(mut self, clock: Clock) -> Self {
        match &mut self {
            Self::Postgres(source) => source.clock = clock,
            Self::Sqlite(source) => source.clock = clock,
        }
        self
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        match self {
            Self::Postgres(source) => source.clock.now(),
            Self::Sqlite(source) => source.clock.now(),
        }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Whether Citus distributes the checkpoints. It takes no statement that writes to several
    /// threads, or to them and our own tables: there, as on SQLite, that is a transaction of several.
    pub(crate) fn is_distributed(&self) -> bool {
        matches!(self, Self::Postgres(postgres) if postgres.is_distributed)
    }

    /// PostgreSQL that takes any statement.
    pub(crate) fn undivided(&self) -> Option<&PostgresSource> {
        match self {
            Self::Postgres(postgres) if !postgres.is_distributed => Some(postgres),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn into_distributed(mut self) -> Self {
        if let Self::Postgres(postgres) = &mut self {
            postgres.is_distributed = true;
        }
        self
    }

    pub(crate) fn is_transaction(&self) -> bool {
        match self {
            Self::Postgres(postgres) => postgres.unit.is_some(),
            Self::Sqlite(sqlite) => sqlite.unit.is_some(),
        }
    }

    /// Drops the idle connections that don't answer. `false` where there is none to lose, or a
    /// transaction went with it.
    pub(crate) async fn replace_dead_connections(&self) -> bool {
        match self {
            Self::Postgres(postgres) if !self.is_transaction() => {
                postgres.replace_dead_connections().await;
                true
            }
            _ => false,
        }
    }

    /// Whether what failed with `error`, after so many `attempts`, may be repeated at once: on another
    /// connection where this one was at fault, and never within a transaction.
    pub(crate) async fn may_repeat(&self, error: &impl Repeatable, attempts: &mut u32) -> bool {
        let Some(repeat) = error.repeat() else {
            return false;
        };
        if self.is_transaction() || !self.is_postgres() {
            return false;
        }
        *attempts += 1;
        match repeat {
            Repeat::Undone if *attempts <= MOST_UNDONE => {
                tokio::time::sleep(PAUSE_AFTER_UNDONE * *attempts).await;
                true
            }
            Repeat::Reconnected if *attempts == 1 => self.replace_dead_connections().await,
            // The session that failed has closed the others.
            Repeat::Renewed => *attempts == 1,
            _ => false,
        }
    }

    /// Begins a transaction, or enters this one where it is one.
    pub(crate) async fn begin(&self) -> Result<Transaction, DbErr> {
        let entered = self.is_transaction();
        let connection = match self {
            _ if entered => self.clone(),
            // Nothing has happened yet, so that a lost connection shows without harm.
            Self::Postgres(postgres) => Self::Postgres(retrying!(self, postgres.begin())?),
            Self::Sqlite(sqlite) => Self::Sqlite(sqlite.begin().await?),
        };
        Ok(Transaction {
            connection,
            entered,
        })
    }

    async fn commit(self) -> Result<(), DbErr> {
        match self {
            Self::Postgres(PostgresSource {
                unit: Some(unit), ..
            }) => session::commit(&unit).await,
            Self::Sqlite(SqliteSource {
                unit: Some(unit), ..
            }) => session::commit(&unit).await,
            Self::Postgres(_) | Self::Sqlite(_) => Ok(()),
        }
    }

    /// Waits for what is under way and closes every connection.
    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres(postgres) => {
                postgres.presences.end();
                postgres.pool.close().await;
            }
            Self::Sqlite(sqlite) => {
                sqlite.presences.end();
                sqlite.readers.close().await;
                sqlite.writer.close().await;
            }
        }
    }
}

/// Runs one statement: `$run` on a session of `$source`. Within `$limit`, where that is given: a
/// database that hangs does not end it itself.
macro_rules! in_session {
    ($session:expr, $limit:expr, |$connection:ident| $run:expr) => {{
        let mut session = $session.await?;
        let $connection = &mut **session.connection();
        let outcome = {
            let run = std::pin::pin!($run);
            tokio::time::timeout($limit, run).await
        };
        match outcome {
            Ok(outcome) => session.end(outcome).await?,
            Err(_) => return Err(session.give_up()),
        }
    }};
    ($session:expr, |$connection:ident| $run:expr) => {{
        let mut session = $session.await?;
        let $connection = &mut **session.connection();
        let outcome = $run.await;
        session.end(outcome).await?
    }};
}

impl Query {
    /// Runs it, and returns its rows.
    pub(crate) async fn rows(self, connection: &Connection) -> Result<Vec<QueryResult>, DbErr> {
        #[cfg(test)]
        crate::golden::record(self.text());
        Ok(match connection {
            Connection::Postgres(postgres) => {
                let (query, limit) = (postgres.prepared(self)?, postgres.time_limit);
                let rows = in_session!(postgres.session(), limit, |connection| {
                    query.fetch_all(connection)
                });
                rows.into_iter().map(Into::into).collect()
            }
            Connection::Sqlite(sqlite) => {
                let (text, values) = self.for_sqlite()?;
                let rows = in_session!(sqlite.session(&text), |connection| {
                    sqlx::query_with(AssertSqlSafe(text), values).fetch_all(connection)
                });
                rows.into_iter().map(Into::into).collect()
            }
        })
    }

    /// Runs it, and returns how many rows it has changed.
    pub(crate) async fn execute(self, connection: &Connection) -> Result<u64, DbErr> {
        Ok(self.run(connection).await?.rows_affected())
    }

    async fn run(self, connection: &Connection) -> Result<ExecResult, DbErr> {
        #[cfg(test)]
        crate::golden::record(self.text());
        Ok(match connection {
            Connection::Postgres(postgres) => {
                let (query, limit) = (postgres.prepared(self)?, postgres.time_limit);
                in_session!(postgres.session(), limit, |connection| {
                    query.execute(connection)
                })
                .into()
            }
            Connection::Sqlite(sqlite) => {
                let (text, values) = self.for_sqlite()?;
                in_session!(sqlite.session(&text), |connection| {
                    sqlx::query_with(AssertSqlSafe(text), values).execute(connection)
                })
                .into()
            }
        })
    }
}

/// What SeaORM runs on, and our own SQL: one round trip and one transaction a statement.
#[async_trait]
impl ConnectionTrait for Connection {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Self::Postgres(_) => DbBackend::Postgres,
            Self::Sqlite(_) => DbBackend::Sqlite,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        Query::of(self, statement).run(self).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        #[cfg(test)]
        crate::golden::record(sql);
        let script = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        Ok(match self {
            Self::Postgres(postgres) => in_session!(postgres.session_of_script(), |connection| {
                connection.execute(script)
            })
            .into(),
            Self::Sqlite(sqlite) => in_session!(sqlite.session(sql), |connection| {
                connection.execute(script)
            })
            .into(),
        })
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        Ok(self.query_all_raw(statement).await?.into_iter().next())
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        Query::of(self, statement).rows(self).await
    }
}
