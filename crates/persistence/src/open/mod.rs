//! How a database is opened.

mod postgres;
mod sqlite;

use std::time::{Duration, Instant};

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
    let started = Instant::now();
    let mut patience = config.values.start_timeout;
    let mut pause = SHORTEST_PAUSE;
    loop {
        let deadline = (started + patience).into();
        let connecting = postgres::connect(config, settings, servers);
        let connected = tokio::time::timeout_at(deadline, connecting).await;
        let error = match connected {
            Ok(Ok(first)) => return Ok(first),
            Ok(Err(error)) => from_sqlx(error),
            Err(_) => from_sqlx(sqlx::Error::PoolTimedOut),
        };
        if is_starting(&error) {
            patience = patience.max(config.values.connection_timeout);
        }
        let left = patience.saturating_sub(started.elapsed());
        if !is_transient(&error) || left <= SHORTEST_PAUSE {
            return Err(error);
        }
        tracing::debug!(%error, url = config.display_url(), "no connection yet, trying again");
        tokio::time::sleep(pause.min(left / 2)).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn pool_options<DB: sqlx::Database>(config: &DatabaseConfig) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(config.values.max_connections)
        .min_connections(config.values.min_connections)
        .acquire_timeout(config.values.connection_timeout)
        .test_before_acquire(false)
}
