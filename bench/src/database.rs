//! Databases that tell what was written to them.

use std::{fs, net::SocketAddr, ops::Sub, path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection, raw_sql};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

use crate::{Result, process};

/// A backend of PostgreSQL that is idle tells its statistics after 10 seconds.
const STATISTICS_DELAY: Duration = Duration::from_secs(11);

/// An empty database of its own.
pub(crate) struct Database {
    /// With its version.
    pub(crate) name: String,
    url: Url,
    place: Place,
}

/// The database system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

enum Place {
    Sqlite(TempDir),
    Postgres { server: String },
}

/// What work has cost.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// CPU of the client, and of the processes that it has waited for.
    pub(crate) client_seconds: f64,
    /// CPU of the server; `None` where it is not on this machine.
    pub(crate) server_seconds: Option<f64>,
    /// PostgreSQL: of the write-ahead log of the whole server. SQLite: everything that the client
    /// wrote, to the log and to the file.
    pub(crate) bytes: f64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let server = self.server_seconds.zip(before.server_seconds);
        Self {
            client_seconds: self.client_seconds - before.client_seconds,
            server_seconds: server.map(|(after, before)| after - before),
            bytes: self.bytes - before.bytes,
        }
    }
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
            place: Place::Sqlite(directory),
        })
    }

    /// On the server of `server`.
    pub(crate) async fn postgres(server: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(server).await?;
        // With the settings that make it fast or safe.
        let version = sqlx::query_scalar(
            "SELECT split_part(current_setting('server_version'), ' ', 1) \
             || ', ' || string_agg(name || ' ' || current_setting(name), ', ' ORDER BY name) \
             FROM pg_settings \
             WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers')",
        );
        let version: String = version.fetch_one(&mut connection).await?;
        let database = format!("agentkit_bench_{}", Uuid::now_v7().simple());
        execute_postgres(server, &format!("CREATE DATABASE {database}")).await?;
        let mut url: Url = server.parse()?;
        url.set_path(&database);
        Ok(Self {
            name: format!("PostgreSQL {version}"),
            url,
            place: Place::Postgres {
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

    /// Runs a script.
    pub(crate) async fn execute(&self, script: &str) -> Result<()> {
        execute_postgres(self.url(), script).await
    }

    /// Has written what earlier work left in memory.
    pub(crate) async fn settle(&self) -> Result<()> {
        match &self.place {
            Place::Sqlite(_) => Ok(()),
            Place::Postgres { server } => execute_postgres(server, "CHECKPOINT").await,
        }
    }

    /// What the process `client`, and the server, have used until now.
    pub(crate) async fn usage(&self, client: u32) -> Result<Usage> {
        let client_seconds = process::cpu_seconds(client)?;
        let Place::Postgres { .. } = self.place else {
            return Ok(Usage {
                client_seconds,
                server_seconds: None,
                bytes: process::bytes_written(client)?,
            });
        };
        let mut connection = PgConnection::connect(self.url()).await?;
        let directory = sqlx::query_scalar("SELECT current_setting('data_directory')");
        let directory: String = directory.fetch_one(&mut connection).await?;
        #[expect(clippy::cast_precision_loss, reason = "less than a petabyte")]
        let bytes = wal_position(&mut connection).await? as f64;
        connection.close().await?;
        let pid = fs::read_to_string(PathBuf::from(directory).join("postmaster.pid"));
        let pid = pid.ok().and_then(|file| file.lines().next()?.parse().ok());
        Ok(Usage {
            client_seconds,
            server_seconds: pid.map(process::family_cpu_seconds).transpose()?,
            bytes,
        })
    }

    /// How many bytes it takes on the disk, its indexes included.
    pub(crate) async fn size(&self) -> Result<u64> {
        match &self.place {
            Place::Sqlite(directory) => {
                let mut connection = SqliteConnection::connect(self.url()).await?;
                let emptied = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
                emptied.execute(&mut connection).await?;
                Ok(fs::metadata(directory.path().join("bench.db"))?.len())
            }
            Place::Postgres { .. } => {
                let mut connection = PgConnection::connect(self.url()).await?;
                let size = sqlx::query_scalar(
                    "SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_stat_user_tables",
                );
                let size: i64 = size.fetch_one(&mut connection).await?;
                Ok(size.try_into()?)
            }
        }
    }

    /// How many bytes the write-ahead log takes from `work`.
    pub(crate) async fn wal_bytes(&self, work: impl Future<Output = Result<()>>) -> Result<u64> {
        match &self.place {
            Place::Sqlite(directory) => {
                let mut connection = SqliteConnection::connect(self.url()).await?;
                let emptied = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)");
                let is_busy: bool = emptied.fetch_one(&mut connection).await?;
                if is_busy {
                    return Err("somebody still uses SQLite's log".into());
                }
                work.await?;
                Ok(fs::metadata(directory.path().join("bench.db-wal"))?.len())
            }
            Place::Postgres { .. } => {
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
        match self.place {
            Place::Sqlite(_) => self.rows_by_triggers(work).await,
            Place::Postgres { .. } => self.rows_by_statistics(work).await,
        }
    }

    async fn rows_by_triggers(
        &self,
        work: impl Future<Output = Result<()>>,
    ) -> Result<RowsWritten> {
        let mut connection = SqliteConnection::connect(self.url()).await?;
        let tables = sqlx::query_scalar(
            // Not those of the search: a virtual table takes no triggers.
            "SELECT name FROM pragma_table_list \
             WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%'",
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
        match self.place {
            Place::Sqlite(directory) => Ok(directory.close()?),
            Place::Postgres { server } => {
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
