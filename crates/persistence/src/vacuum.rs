//! Giving back the space of what was deleted, which is overwritten by that.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use yai_agentkit_core::{Error, Result, error::Outcome};

use crate::{connection::Connection, error::storage_error, sql::Query};

/// Our tables, LangGraph's, and what PostgreSQL's catalogue knows of frequent values of theirs. That is
/// last: the others have just told it what there is now.
const TABLES: &str = "SELECT t.name FROM (
    SELECT 1 AS place, c.relname::text AS name FROM pg_catalog.pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND (
        c.relname LIKE 'agent\\_%' OR c.relname IN ('threads', 'checkpoints', 'checkpoint_blobs',
            'checkpoint_writes', 'store', 'store_vectors')
    )
    UNION ALL SELECT 2, 'pg_catalog.pg_statistic'
) t ORDER BY t.place, t.name";

/// How often one tries to empty SQLite's log, which whoever reads the file keeps one from.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) async fn vacuum(connection: &Connection) -> Result<()> {
    let run = async |sql: &str| {
        let done = connection.execute_unprepared(sql).await;
        done.map_err(|error| storage_error("vacuum", error))
    };
    if connection.is_postgres() {
        for table in names(connection).await? {
            run(&format!("VACUUM (FULL, ANALYZE) {table}")).await?;
        }
        return Ok(());
    }
    run("VACUUM").await?;
    for _ in 0..ATTEMPTS {
        if is_log_empty(connection).await? {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let reason = "vacuum: somebody reads the file, whose log keeps what was deleted: try again";
    Err(Error::unavailable(reason, Outcome::NotDone, "busy"))
}

async fn names(connection: &Connection) -> Result<Vec<String>> {
    let rows = Query::new(connection, TABLES).rows(connection).await;
    let rows = rows.map_err(|error| storage_error("vacuum", error))?;
    let names = rows.iter().map(|row| row.try_get_by_index(0));
    let names: Result<_, _> = names.collect();
    names.map_err(|error| storage_error("vacuum", error))
}

/// It has a copy of each page that was written.
async fn is_log_empty(connection: &Connection) -> Result<bool> {
    let log = Query::new(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    let rows = log.rows(connection).await;
    let rows = rows.map_err(|error| storage_error("vacuum", error))?;
    let busy: Option<i64> = rows.first().and_then(|row| row.try_get_by_index(0).ok());
    Ok(busy == Some(0))
}
