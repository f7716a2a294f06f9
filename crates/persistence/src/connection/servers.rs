//! Which of several PostgreSQL servers is used.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use sqlx::{
    Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::task::JoinHandle;

use super::{
    answers,
    tls::{Relay, unwrapped},
};
use crate::conninfo::{Host, Place, Postgres, Role, Tls, TlsMode};

/// Between two looks at the server in use, where there are others.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// For one of several servers, unless the connection string says how long.
const TIME_FOR_ONE: Duration = Duration::from_secs(2);

/// What else is asked of a connection.
type Change = Arc<dyn Fn(PgConnectOptions) -> PgConnectOptions + Send + Sync>;

/// The servers of a connection string.
pub(crate) struct Servers {
    postgres: Postgres,
    change: Mutex<Change>,
    /// How each was connected to.
    ways: Vec<Mutex<Way>>,
    /// Those that were needed.
    relays: Vec<OnceLock<Relay>>,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By sqlx.
    Direct(PgSslMode),
    /// By TLS of ours.
    Relayed,
}

impl Servers {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        let hosts = &postgres.hosts;
        Self {
            postgres: postgres.clone(),
            change: Mutex::new(Arc::new(|options| options)),
            ways: hosts
                .iter()
                .map(|host| Mutex::new(ways(host, &postgres.tls)[0]))
                .collect(),
            relays: hosts.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    /// Connects with `change` from now on.
    pub(crate) fn set_options(
        &self,
        change: impl Fn(PgConnectOptions) -> PgConnectOptions + Send + Sync + 'static,
    ) {
        *lock(&self.change) = Arc::new(change);
    }

    /// What is connected with to the server at `index`, after [`connect`](Self::connect) has been.
    pub(crate) fn options(&self, index: usize) -> Result<PgConnectOptions, sqlx::Error> {
        let way = *lock(&self.ways[index]);
        self.options_by(index, way)
    }

    fn options_by(&self, index: usize, way: Way) -> Result<PgConnectOptions, sqlx::Error> {
        let host = &self.postgres.hosts[index];
        let options = match way {
            Way::Direct(mode) => self.postgres.connect_options(host, mode),
            Way::Relayed => {
                let (directory, port) = self.relay(index)?.place();
                self.postgres
                    .connect_options(host, PgSslMode::Disable)
                    .socket(directory)
                    .port(port)
            }
        };
        Ok(lock(&self.change)(options))
    }

    fn relay(&self, index: usize) -> io::Result<&Relay> {
        let relay = &self.relays[index];
        if relay.get().is_none() {
            let (host, tls) = (&self.postgres.hosts[index], &self.postgres.tls);
            // Of two the second goes again.
            let _ = relay.set(Relay::start(host.clone(), tls.clone())?);
        }
        relay.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Connects to the first server that answers and has the role that is wanted; returns the
    /// place of that. As libpq, it asks no other after one that answers with an error, unless that is
    /// starting or full.
    pub(crate) async fn connect(&self) -> Result<(PgConnection, usize), sqlx::Error> {
        let mut last = None;
        for index in 0..self.postgres.hosts.len() {
            let connection = match self.connect_to(index).await {
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

    /// Tries one way after the other, as libpq does: none where the server is not there.
    async fn connect_to(&self, index: usize) -> Result<PgConnection, sqlx::Error> {
        let are_several = self.postgres.hosts.len() > 1;
        let patience = self.postgres.connect_timeout;
        let patience = patience.or(are_several.then_some(TIME_FOR_ONE));
        let mut last = sqlx::Error::PoolTimedOut;
        for way in ways(&self.postgres.hosts[index], &self.postgres.tls) {
            let options = self.options_by(index, way)?;
            let connecting = PgConnection::connect_with(&options);
            let connected = match patience {
                Some(patience) => tokio::time::timeout(patience, connecting)
                    .await
                    .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())),
                None => connecting.await,
            };
            match connected {
                Ok(connection) => {
                    *lock(&self.ways[index]) = way;
                    return Ok(connection);
                }
                Err(error) => last = unwrapped(error),
            }
            if !is_refused(&last) {
                break;
            }
        }
        Err(last)
    }

    /// Lets `pool` connect to another server once that in use is gone or has lost its role, for as
    /// long as what is returned lives. `watched` is a connection to that in use.
    pub(crate) async fn watch(self, pool: &PgPool, watched: PgConnection) -> Watch {
        let servers = Arc::new(self);
        if servers.postgres.hosts.len() < 2 {
            // Whether that arrives makes no difference any more.
            let _ = watched.close().await;
            return Watch {
                servers,
                task: None,
            };
        }
        let watching = Arc::clone(&servers).keep_watching(pool.clone(), watched);
        Watch {
            servers,
            task: Some(tokio::spawn(watching)),
        }
    }

    async fn keep_watching(self: Arc<Self>, pool: PgPool, watched: PgConnection) {
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
            if let Ok((connection, index)) = self.connect().await
                && let Ok(options) = self.options(index)
            {
                let server = &self.postgres.hosts[index];
                tracing::warn!(?server, "this PostgreSQL server is used from now on");
                pool.set_connect_options(options);
                watched = Some(connection);
            }
        }
    }
}

/// Watches a server until it is dropped, and keeps the relays.
pub(crate) struct Watch {
    #[expect(dead_code, reason = "connections go through its relays")]
    servers: Arc<Servers>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The ways to `host` in the order in which libpq tries them. sqlx's own TLS comes first where
/// nothing is to be verified, for it costs no relay; it can't read certificates of version 1.
fn ways(host: &Host, tls: &Tls) -> Vec<Way> {
    let plain = Way::Direct(PgSslMode::Disable);
    let Place::Network { address, .. } = &host.place else {
        return vec![plain];
    };
    let sqlx_would_do = tls.roots.is_none() && address.is_none();
    let encrypted = |mode| {
        let direct = sqlx_would_do.then_some(Way::Direct(mode));
        direct.into_iter().chain([Way::Relayed])
    };
    match tls.mode {
        TlsMode::Disable => vec![plain],
        TlsMode::Allow => [plain]
            .into_iter()
            .chain(encrypted(PgSslMode::Require))
            .collect(),
        TlsMode::Prefer => encrypted(PgSslMode::Prefer).chain([plain]).collect(),
        TlsMode::Require => encrypted(PgSslMode::Require).collect(),
        TlsMode::VerifyCa | TlsMode::VerifyFull => vec![Way::Relayed],
    }
}

/// Whether the server is there, but took no such connection: the handshake failed, or `pg_hba.conf`
/// wants it otherwise.
fn is_refused(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // How sqlx gives the errors of rustls.
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        sqlx::Error::Database(error) => error.code().as_deref() == Some("28000"),
        _ => false,
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
