//! Where statements run: a pool, or one transaction.

pub(crate) mod files;
mod pool;
mod postgres;
pub(crate) mod servers;
mod session;
mod sqlite;

use std::ops::Deref;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, Statement};
use sqlx::{AssertSqlSafe, Executor};

pub(crate) use postgres::{PostgresSource, answers};
pub(crate) use sqlite::SqliteSource;

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

impl Connection {
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
            Self::Postgres(postgres) => postgres.pool.close().await,
            Self::Sqlite(sqlite) => {
                sqlite.readers.close().await;
                sqlite.writer.close().await;
            }
        }
    }
}

/// Runs one statement: `$run` on a session of `$source`.
macro_rules! in_session {
    ($session:expr, |$connection:ident| $run:expr) => {{
        let mut session = $session.await?;
        let $connection = &mut **session.connection();
        let outcome = $run.await;
        session.end(outcome).await?
    }};
}

impl Connection {
    /// Runs one statement, and returns its rows.
    pub(crate) async fn fetch(&self, query: Query) -> Result<Vec<QueryResult>, DbErr> {
        #[cfg(test)]
        crate::golden::record(query.text());
        Ok(match self {
            Self::Postgres(postgres) => {
                let query = postgres.prepared(query)?;
                let rows =
                    in_session!(postgres.session(), |connection| query.fetch_all(connection));
                rows.into_iter().map(Into::into).collect()
            }
            Self::Sqlite(sqlite) => {
                let (text, values) = query.for_sqlite()?;
                let rows = in_session!(sqlite.session(&text), |connection| {
                    sqlx::query_with(AssertSqlSafe(text), values).fetch_all(connection)
                });
                rows.into_iter().map(Into::into).collect()
            }
        })
    }

    /// Runs one statement.
    pub(crate) async fn run(&self, query: Query) -> Result<ExecResult, DbErr> {
        #[cfg(test)]
        crate::golden::record(query.text());
        Ok(match self {
            Self::Postgres(postgres) => {
                let query = postgres.prepared(query)?;
                in_session!(postgres.session(), |connection| query.execute(connection)).into()
            }
            Self::Sqlite(sqlite) => {
                let (text, values) = query.for_sqlite()?;
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
        self.run(Query::of(self, statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        #[cfg(test)]
        crate::golden::record(sql);
        let script = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        Ok(match self {
            Self::Postgres(postgres) => in_session!(postgres.session(), |connection| {
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
        self.fetch(Query::of(self, statement)).await
    }
}
