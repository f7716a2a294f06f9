//! Databases that tell what was written to them.

use std::{net::SocketAddr, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection, raw_sql};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

use crate::Result;

/// A backend of PostgreSQL that is idle tells its statistics after 10 seconds.
const STATISTICS_DELAY: Duration = Duration::from_secs(11);

/// An empty database of its own.
pub(crate) struct Database {
    /// With its version.
    pub(crate) name: String,
    url: Url,
    kind: Kind,
}

enum Kind {
    Sqlite(TempDir),
    Postgres { server: String },
}

/// How many rows, indexes not counted.
#[derive(Clone, Copy)]
pub(crate) struct RowsWritten {
    pub(crate) inserted: i64,
    pub(crate) updated: i64,
    pub(crate) deleted: i64,
}

impl Database {
    pub(crate) async fn sqlite() -> Result<Self> {
        let directory = TempDir::new()?;
        let url = format!(
            "sqlite:{}?mode=rwc",
            directory.path().join("bench.db").display()
        );
        let mut connection = SqliteConnection::connect(&url).await?;
        let version = sqlx::query_scalar("SELECT sqlite_version()");
        let version: String = version.fetch_one(&mut connection).await?;
        Ok(Self {
            name: format!("SQLite {version}"),
            url: url.parse()?,
            kind: Kind::Sqlite(directory),
        })
    }

    /// On the server of `server`.
    pub(crate) async fn postgres(server: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(server).await?;
        let version =
            sqlx::query_scalar("SELECT split_part(current_setting('server_version'), ' ', 1)");
        let version: String = version.fetch_one(&mut connection).await?;
        let database = format!("agentkit_bench_{}", Uuid::now_v7().simple());
        execute_postgres(server, &format!("CREATE DATABASE {database}")).await?;
        let mut url: Url = server.parse()?;
        url.set_path(&database);
        Ok(Self {
            name: format!("PostgreSQL {version}"),
            url,
            kind: Kind::Postgres {
                server: server.to_owned(),
            },
        })
    }

    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Where it listens, if it does.
    pub(crate) fn address(&self) -> Option<String> {
        let host = self.url.host_str()?;
        Some(format!("{host}:{}", self.url.port().unwrap_or(5432)))
    }

    /// The URL for those who reach it at `address`.
    pub(crate) fn url_through(&self, address: SocketAddr) -> Result<String> {
        let mut url = self.url.clone();
        url.set_host(Some(&address.ip().to_string()))?;
        url.set_port(Some(address.port()))
            .map_err(|()| "a URL without port")?;
        Ok(url.into())
    }

    /// How many bytes the write-ahead log takes from `work`.
    pub(crate) async fn wal_bytes(&self, work: impl Future<Output = Result<()>>) -> Result<u64> {
        match &self.kind {
            Kind::Sqlite(directory) => {
                let mut connection = SqliteConnection::connect(self.url()).await?;
                let emptied = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)");
                let is_busy: bool = emptied.fetch_one(&mut connection).await?;
                if is_busy {
                    return Err("somebody still uses SQLite's log".into());
                }
                work.await?;
                Ok(std::fs::metadata(directory.path().join("bench.db-wal"))?.len())
            }
            Kind::Postgres { .. } => {
                let mut connection = PgConnection::connect(self.url()).await?;
                let before = wal_position(&mut connection).await?;
                work.await?;
                Ok((wal_position(&mut connection).await? - before).try_into()?)
            }
        }
    }

    /// How many rows `work` writes.
    pub(crate) async fn rows_written(
        &self,
        work: impl Future<Output = Result<()>>,
    ) -> Result<RowsWritten> {
        match self.kind {
            Kind::Sqlite(_) => self.rows_by_triggers(work).await,
            Kind::Postgres { .. } => self.rows_by_statistics(work).await,
        }
    }

    async fn rows_by_triggers(
        &self,
        work: impl Future<Output = Result<()>>,
    ) -> Result<RowsWritten> {
        let mut connection = SqliteConnection::connect(self.url()).await?;
        let tables = sqlx::query_scalar(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        );
        let tables: Vec<String> = tables.fetch_all(&mut connection).await?;
        let mut script =
            "CREATE TABLE bench (inserted, updated, deleted); INSERT INTO bench VALUES (0, 0, 0);"
                .to_owned();
        for table in &tables {
            for (operation, column) in [
                ("INSERT", "inserted"),
                ("UPDATE", "updated"),
                ("DELETE", "deleted"),
            ] {
                script += &format!(
                    "CREATE TRIGGER bench_{table}_{column} AFTER {operation} ON {table} \
                     BEGIN UPDATE bench SET {column} = {column} + 1; END;"
                );
            }
        }
        raw_sql(AssertSqlSafe(script))
            .execute(&mut connection)
            .await?;
        work.await?;
        let row = sqlx::query("SELECT inserted, updated, deleted FROM bench");
        let row = row.fetch_one(&mut connection).await?;
        Ok(RowsWritten {
            inserted: row.try_get(0)?,
            updated: row.try_get(1)?,
            deleted: row.try_get(2)?,
        })
    }

    async fn rows_by_statistics(
        &self,
        work: impl Future<Output = Result<()>>,
    ) -> Result<RowsWritten> {
        let before = self.statistics().await?;
        work.await?;
        let after = self.statistics().await?;
        Ok(RowsWritten {
            inserted: after.inserted - before.inserted,
            updated: after.updated - before.updated,
            deleted: after.deleted - before.deleted,
        })
    }

    async fn statistics(&self) -> Result<RowsWritten> {
        tokio::time::sleep(STATISTICS_DELAY).await;
        let mut connection = PgConnection::connect(self.url()).await?;
        let row = sqlx::query(
            "SELECT sum(n_tup_ins)::bigint, sum(n_tup_upd)::bigint, sum(n_tup_del)::bigint \
             FROM pg_stat_user_tables",
        );
        let row = row.fetch_one(&mut connection).await?;
        Ok(RowsWritten {
            inserted: row.try_get(0)?,
            updated: row.try_get(1)?,
            deleted: row.try_get(2)?,
        })
    }

    pub(crate) async fn remove(self) -> Result<()> {
        match self.kind {
            Kind::Sqlite(directory) => Ok(directory.close()?),
            Kind::Postgres { server } => {
                let database = self.url.path().trim_start_matches('/');
                execute_postgres(&server, &format!("DROP DATABASE {database} WITH (FORCE)")).await
            }
        }
    }
}

async fn execute_postgres(url: &str, script: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    raw_sql(AssertSqlSafe(script))
        .execute(&mut connection)
        .await?;
    Ok(())
}

async fn wal_position(connection: &mut PgConnection) -> Result<i64> {
    let position = sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint");
    Ok(position.fetch_one(connection).await?)
}
