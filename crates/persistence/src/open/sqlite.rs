use std::{future::ready, sync::Arc};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::pool_options;
use crate::{
    DatabaseConfig,
    connection::{
        Connection, FileIdentity, Log, SqliteSource,
        files::{ProcessDirectory, make_private},
    },
    conninfo::{Access, SqliteFile},
};

/// The size of a page of a new SQLite file, in bytes. A write changes a page of the index of each
/// table that it adds to, and the log takes whole pages.
const PAGE: u32 = 2048;

/// Pages in SQLite's log before they go to the file: 32 MiB. A page that changes again meanwhile is
/// written to the file once.
const LOG_PAGES: &str = "16384";

/// What SQLite keeps in memory of the file, a connection: 4 MiB. Most commits walk through all of it
/// (the balancing of a tree swaps pages by a number behind the last one, which SQLite then cuts off),
/// and what is not there the system has.
const CACHE_KIBIBYTES: &str = "-4096";

pub(super) async fn open(
    config: &DatabaseConfig,
    file: &SqliteFile,
) -> Result<Connection, sqlx::Error> {
    if file.access == Access::Create {
        make_private(&file.path).map_err(|error| sqlx::Error::Configuration(error.into()))?;
    }
    let options = SqliteConnectOptions::new()
        .filename(&file.path)
        .read_only(file.access == Access::Read)
        // A commit that was acknowledged survives a power cut.
        .synchronous(SqliteSynchronous::Full);
    open_with(config, options, None).await
}

/// A file in a directory of its own, which goes with the database. SQLite's own database in memory
/// has one connection, on which a reader would wait for the end of a unit of work.
pub(super) async fn open_memory(config: &DatabaseConfig) -> Result<Connection, sqlx::Error> {
    let directory = ProcessDirectory::make()?;
    let file = directory.path().join("memory.db");
    make_private(&file)?;
    let options = SqliteConnectOptions::new()
        .filename(file)
        .synchronous(SqliteSynchronous::Off);
    open_with(config, options, Some(Arc::new(directory))).await
}

async fn open_with(
    config: &DatabaseConfig,
    options: SqliteConnectOptions,
    directory: Option<Arc<ProcessDirectory>>,
) -> Result<Connection, sqlx::Error> {
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        .foreign_keys(true)
        .busy_timeout(config.values.query_timeout)
        .page_size(PAGE)
        .pragma("wal_autocheckpoint", LOG_PAGES)
        .pragma("cache_size", CACHE_KIBIBYTES);
    let log = Log::of(options.get_filename());
    let opened_anew = log.clone();
    let writer = pool(config)
        .max_connections(1)
        .min_connections(1)
        .after_connect(move |_, _| {
            opened_anew.is_closed();
            Box::pin(ready(Ok(())))
        })
        .connect_with(options.clone());
    let writer = writer.await?;
    // A file that was deleted meanwhile is missed, not begun anew without tables.
    let options = options.create_if_missing(false);
    writer.set_connect_options(options.clone());
    let file = FileIdentity::of(options.get_filename());
    let readers = pool(config)
        .max_connections(config.values.max_connections.saturating_sub(1).max(1))
        .min_connections(0)
        .connect_lazy_with(options.pragma("query_only", "ON"));
    Ok(Connection::Sqlite(SqliteSource::new(
        writer,
        readers,
        config.values.query_timeout,
        file,
        log,
        directory,
    )))
}

/// A file needs no test of its connections, and no renewal.
fn pool(config: &DatabaseConfig) -> SqlitePoolOptions {
    pool_options(config).idle_timeout(None).max_lifetime(None)
}
