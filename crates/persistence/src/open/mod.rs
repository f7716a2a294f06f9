//! How a database is opened.

mod postgres;
mod sqlite;

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use sea_orm::DbErr;
use sqlx::pool::PoolOptions;
use yai_agentkit_core::Result;

use crate::{
    DatabaseConfig,
    config::Target,
    connection::{Connection, servers::Servers},
    error::{from_sqlx, is_starting, is_transient, storage_error},
};

/// Between two attempts to connect.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// What counts of the time between two looks at the clock.
const LONGEST_TURN: Duration = Duration::from_millis(100);

/// Connects, trying again with growing pauses while nobody answers.
pub(crate) async fn open(config: &DatabaseConfig) -> Result<Connection> {
    let target = config.target()?;
    let patience = config.values.connection_timeout;
    let opened = match &target {
        Target::Postgres(target) => {
            let operation = || {
                format!(
                    "connect to PostgreSQL at {} (does it run, and does {} say where?)",
                    target.display_hosts(),
                    config.url_name,
                )
            };
            let servers = Servers::new(target);
            let settings = postgres::settings(config, target);
            let first = look_for(config, &settings, &servers).await;
            let first = first.map_err(|error| storage_error(operation(), error))?;
            let opened = postgres::open(config, &settings, servers, first);
            let opened = tokio::time::timeout(patience, opened).await;
            opened.map(|opened| opened.map_err(|error| (operation(), error)))
        }
        Target::Sqlite(file) => {
            let opened = tokio::time::timeout(patience, sqlite::open(config, file)).await;
            let operation = || format!("open {} ({})", file.path.display(), config.url_name);
            opened.map(|opened| opened.map_err(|error| (operation(), error)))
        }
        Target::SqliteMemory => {
            let opened = tokio::time::timeout(patience, sqlite::open_memory(config)).await;
            opened.map(|opened| {
                opened.map_err(|error| ("open a database in memory".to_owned(), error))
            })
        }
    };
    let opened = opened.unwrap_or_else(|_| {
        Err((
            format!("connect ({})", config.url_name),
            sqlx::Error::PoolTimedOut,
        ))
    });
    opened.map_err(|(operation, error)| storage_error(operation, from_sqlx(error)))
}

/// The first connection, while there may be no server yet.
async fn look_for(
    config: &DatabaseConfig,
    settings: &[(String, String)],
    servers: &Servers,
) -> Result<postgres::First, DbErr> {
    let mut patience = Patience(config.values.start_timeout);
    let mut more = config.values.connection_timeout.checked_sub(patience.0);
    let mut pause = SHORTEST_PAUSE;
    loop {
        let connecting = postgres::connect(config, settings, servers);
        let error = match patience.wait_for(connecting).await {
            Some(Ok(first)) => return Ok(first),
            Some(Err(error)) => from_sqlx(error),
            None => from_sqlx(sqlx::Error::PoolTimedOut),
        };
        if is_starting(&error) {
            patience.0 += more.take().unwrap_or_default();
        }
        if !is_transient(&error) || patience.0 <= SHORTEST_PAUSE {
            return Err(error);
        }
        tracing::debug!(%error, url = config.display_url(), "no connection yet, trying again");
        let pausing = tokio::time::sleep(pause.min(patience.0 / 2));
        patience.wait_for(pausing).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// How long one still waits. Only while this process runs: one that was stopped, or whose machine slept,
/// has heard no answer meanwhile.
struct Patience(Duration);

impl Patience {
    /// `None` where it is over first.
    async fn wait_for<T>(&mut self, awaited: impl Future<Output = T>) -> Option<T> {
        let mut awaited = pin!(awaited);
        while !self.0.is_zero() {
            let (begun, turn) = (Instant::now(), self.0.min(LONGEST_TURN));
            let done = tokio::time::timeout(turn, &mut awaited).await;
            self.0 -= begun.elapsed().min(turn);
            if let Ok(done) = done {
                return Some(done);
            }
        }
        None
    }
}

fn pool_options<DB: sqlx::Database>(config: &DatabaseConfig) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(config.values.max_connections)
        .min_connections(config.values.min_connections)
        .acquire_timeout(config.values.connection_timeout)
        .test_before_acquire(false)
}
