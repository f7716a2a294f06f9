use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sea_orm::DbErr;
use sea_query_sqlx::SqlxValues;
use sqlx::{
    IntoArguments, SqlStr, Sqlite, SqlitePool,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnection},
};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::session::{Session, Unit};
use crate::error::from_sqlx;

/// SQLite asks after this many of its instructions whether the time is up: some 10 µs.
const INSTRUCTIONS_BETWEEN_CLOCK_READS: i32 = 2_000;

/// SQLite lets one connection write and any number read.
#[derive(Clone)]
pub(crate) struct SqliteSource {
    pub(crate) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    query_timeout: Duration,
    /// Holds the files of a database that is gone with its last connection.
    _directory: Option<Arc<TempDir>>,
    /// The transaction to run in.
    pub(super) unit: Option<Unit<Sqlite>>,
}

impl SqliteSource {
    pub(crate) fn new(
        writer: SqlitePool,
        readers: SqlitePool,
        query_timeout: Duration,
        directory: Option<Arc<TempDir>>,
    ) -> Self {
        Self {
            writer,
            readers,
            query_timeout,
            _directory: directory,
            unit: None,
        }
    }

    /// A transaction that may write from its begin on: one that began reading could not be made to
    /// wait for another writer.
    pub(super) async fn begin(&self) -> Result<Self, DbErr> {
        let begun = self.writer.begin_with("BEGIN IMMEDIATE").await;
        let unit = Arc::new(Mutex::new(Some(begun.map_err(from_sqlx)?)));
        Ok(Self {
            unit: Some(unit),
            ..self.clone()
        })
    }

    /// For `sql`, which SQLite itself will end at the time limit.
    pub(super) async fn session(&self, sql: &str) -> Result<Session<Sqlite>, DbErr> {
        let mut session = match &self.unit {
            Some(unit) => Session::of_unit(unit).await,
            None => {
                let pool = if reads(sql) {
                    &self.readers
                } else {
                    &self.writer
                };
                Session::Alone(pool.acquire().await.map_err(from_sqlx)?)
            }
        };
        let limited = limit_time(session.connection()?, self.query_timeout).await;
        limited.map_err(from_sqlx)?;
        Ok(session)
    }

    pub(super) fn query(
        &self,
        sql: SqlStr,
        values: SqlxValues,
    ) -> Query<'static, Sqlite, SqliteArguments> {
        sqlx::query_with(sql, IntoArguments::<Sqlite>::into_arguments(values))
    }

    /// For a migration, which may take its time: the limit of an earlier statement stays on its
    /// connection.
    pub(crate) async fn lift_time_limit(&self) -> Result<(), DbErr> {
        let mut connection = self.writer.acquire().await.map_err(from_sqlx)?;
        let mut handle = connection.lock_handle().await.map_err(from_sqlx)?;
        handle.remove_progress_handler();
        Ok(())
    }
}

/// None of our statements is `WITH … INSERT`, and a reader would refuse it.
fn reads(sql: &str) -> bool {
    let first_word = sql.split_whitespace().next().unwrap_or_default();
    ["select", "with"]
        .iter()
        .any(|word| first_word.eq_ignore_ascii_case(word))
}

async fn limit_time(
    connection: &mut SqliteConnection,
    timeout: Duration,
) -> Result<(), sqlx::Error> {
    let deadline = Instant::now() + timeout;
    let mut handle = connection.lock_handle().await?;
    handle.set_progress_handler(INSTRUCTIONS_BETWEEN_CLOCK_READS, move || {
        Instant::now() < deadline
    });
    Ok(())
}
