//! Which of several PostgreSQL servers is used.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::task::JoinHandle;

use super::answers;
use crate::conninfo::{Host, Postgres, Role};

/// Between two looks at the server in use, where there are others.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// For one of several servers, unless the connection string says how long.
const TIME_FOR_ONE: Duration = Duration::from_secs(2);

/// Makes of a server what is connected to.
type Options = Arc<dyn Fn(&Host) -> PgConnectOptions + Send + Sync>;

/// The servers of a connection string.
pub(crate) struct Servers {
    postgres: Postgres,
    options: Mutex<Options>,
}

impl Servers {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        let servers = postgres.clone();
        Self {
            postgres: postgres.clone(),
            options: Mutex::new(Arc::new(move |host| servers.connect_options(host))),
        }
    }

    /// Connects with `options` from now on.
    pub(crate) fn set_options(
        &self,
        options: impl Fn(PgConnectOptions) -> PgConnectOptions + Send + Sync + 'static,
    ) {
        let servers = self.postgres.clone();
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(move |host| options(servers.connect_options(host)));
    }

    /// What is connected with to the server at `index`.
    pub(crate) fn options(&self, index: usize) -> PgConnectOptions {
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        options(&self.postgres.hosts[index])
    }

    /// Connects to the first server that answers and has the role that is wanted; returns the
    /// place of that. As libpq, it asks no other after one that answers with an error, unless that is
    /// starting or full.
    pub(crate) async fn connect(&self) -> Result<(PgConnection, usize), sqlx::Error> {
        let are_several = self.postgres.hosts.len() > 1;
        let patience = self.postgres.connect_timeout;
        let patience = patience.or(are_several.then_some(TIME_FOR_ONE));
        let mut last = None;
        for index in 0..self.postgres.hosts.len() {
            let options = self.options(index);
            let connecting = PgConnection::connect_with(&options);
            let connected = match patience {
                Some(patience) => tokio::time::timeout(patience, connecting)
                    .await
                    .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())),
                None => connecting.await,
            };
            let connection = match connected {
                Ok(connection) => connection,
                Err(sqlx::Error::Database(error)) if !is_elsewhere(error.code().as_deref()) => {
                    return Err(sqlx::Error::Database(error));
                }
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match has_role(connection, self.postgres.role).await {
                Ok(connection) => return Ok((connection, index)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(sqlx::Error::PoolTimedOut))
    }

    /// Lets `pool` connect to another server once that in use is gone or has lost its role, for as
    /// long as what is returned lives. `watched` is a connection to that in use.
    pub(crate) async fn watch(self, pool: &PgPool, watched: PgConnection) -> Option<Watch> {
        if self.postgres.hosts.len() < 2 {
            // Whether that arrives makes no difference any more.
            let _ = watched.close().await;
            return None;
        }
        Some(Watch(tokio::spawn(
            self.keep_watching(pool.clone(), watched),
        )))
    }

    async fn keep_watching(self, pool: PgPool, watched: PgConnection) {
        let role = self.postgres.role;
        let mut watched = Some(watched);
        loop {
            tokio::time::sleep(WATCH_PAUSE).await;
            if let Some(mut connection) = watched.take()
                && answers(&mut connection).await
                && let Ok(connection) = has_role(connection, role).await
            {
                watched = Some(connection);
                continue;
            }
            if let Ok((connection, index)) = self.connect().await {
                let server = &self.postgres.hosts[index];
                tracing::warn!(?server, "this PostgreSQL server is used from now on");
                pool.set_connect_options(self.options(index));
                watched = Some(connection);
            }
        }
    }
}

/// Watches a server until it is dropped.
pub(crate) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starting up, or without room for a connection.
fn is_elsewhere(code: Option<&str>) -> bool {
    matches!(code, Some("57P03" | "53300"))
}

async fn has_role(mut connection: PgConnection, role: Role) -> Result<PgConnection, sqlx::Error> {
    let sql = match role {
        Role::Any => return Ok(connection),
        Role::Primary => "SELECT NOT pg_is_in_recovery()",
        Role::ReadWrite => {
            "SELECT NOT pg_is_in_recovery()
    AND current_setting('default_transaction_read_only') = 'off'"
        }
    };
    let row = sqlx::Executor::fetch_one(&mut connection, sqlx::raw_sql(sql)).await?;
    if sqlx::Row::try_get(&row, 0)? {
        return Ok(connection);
    }
    let reason = "no server takes writes, as target_session_attrs asks";
    Err(io::Error::new(io::ErrorKind::NotConnected, reason).into())
}
