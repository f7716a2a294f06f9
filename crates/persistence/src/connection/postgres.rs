use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sea_orm::DbErr;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres, SqlSafeStr,
    postgres::PgArguments, query,
};
use tokio::sync::Mutex;
use yai_agentkit_core::Clock;

use super::{
    pool::{Pool, Pooled},
    servers::Watch,
    session::{Session, Unit, Work},
};
use crate::{
    error::from_sqlx,
    presence::{LockSession, Presences},
    sql::Query,
    tenancy::Tenancy,
};

/// More than a server in use takes to say that it is there.
const TIME_TO_ANSWER: Duration = Duration::from_secs(2);

/// What a statement may take beyond the time after which PostgreSQL ends it.
const BEYOND_TIMEOUT: Duration = Duration::from_secs(5);

/// So many writes look for rows that are there, after one has found some.
const WARY_WRITES: u32 = 100;

#[derive(Clone)]
pub(crate) struct PostgresSource {
    pub(crate) pool: Pool<Postgres>,
    /// Behind a transaction pooler every statement runs in a transaction of its own, begun with
    /// this: nothing set on a connection, and no prepared statement, outlives a transaction there.
    pub(crate) pooler_begin: Option<Arc<str>>,
    /// How long a statement is waited for.
    pub(super) time_limit: Duration,
    /// Whether Citus distributes LangGraph's tables and `threads`, each by its thread.
    pub(super) is_distributed: bool,
    pub(super) clock: Clock,
    /// Whose rows are seen.
    pub(crate) tenancy: Tenancy,
    /// The transaction to run in.
    pub(super) unit: Option<Unit<Postgres>>,
    /// How many writes are still to look for rows that are there.
    wary: Arc<AtomicU32>,
    pub(crate) presences: Arc<Presences<LockSession>>,
    _watch: Arc<Watch>,
}

impl PostgresSource {
    pub(crate) fn new(
        pool: PgPool,
        pooler_begin: Option<Arc<str>>,
        query_timeout: Duration,
        is_distributed: bool,
        tenancy: Tenancy,
        watch: Watch,
    ) -> Self {
        Self {
            pool: Pool::new(pool),
            pooler_begin,
            time_limit: query_timeout + BEYOND_TIMEOUT,
            is_distributed,
            clock: Clock::default(),
            tenancy,
            unit: None,
            wary: Arc::default(),
            presences: Arc::default(),
            _watch: Arc::new(watch),
        }
    }

    /// Whether a write is to take its rows for new.
    pub(crate) fn expects_new_rows(&self) -> bool {
        let one_less = |wary: u32| wary.checked_sub(1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.wary.fetch_update(set, fetch, one_less).is_err()
    }

    /// After a write that was refused for that.
    pub(crate) fn found_old_rows(&self) {
        self.wary.store(WARY_WRITES, Ordering::Relaxed);
    }

    pub(super) async fn begin(&self) -> Result<Self, DbErr> {
        let unit = Arc::new(Mutex::new(Work::Open(self.transaction().await?)));
        Ok(Self {
            unit: Some(unit),
            ..self.clone()
        })
    }

    pub(super) async fn session(&self) -> Result<Session<Postgres>, DbErr> {
        match (&self.unit, &self.pooler_begin) {
            (Some(unit), _) => Session::of_unit(unit).await,
            (None, Some(_)) => Ok(Session::Wrapped(self.transaction().await?)),
            (None, None) => Ok(Session::Alone(self.connection().await?)),
        }
    }

    /// For what may change any setting.
    pub(super) async fn session_of_script(&self) -> Result<Session<Postgres>, DbErr> {
        let mut session = self.session().await?;
        session.connection().forget_tenant();
        Ok(session)
    }

    /// A connection, on which one tenant's rows are seen where there are tenants. It stays so, and is
    /// used for that tenant first.
    async fn connection(&self) -> Result<Pooled<Postgres>, DbErr> {
        let tenant = self.tenancy.check()?;
        let mut connection = self.pool.acquire(tenant).await.map_err(from_sqlx)?;
        if let Some(tenant) = tenant
            && !connection.sees(tenant)
        {
            connection.see(tenant).await?;
        }
        Ok(connection)
    }

    /// `query` for one of the connections.
    pub(super) fn prepared(
        &self,
        query: Query,
    ) -> Result<query::Query<'static, Postgres, PgArguments>, DbErr> {
        let (text, arguments) = query.for_postgres()?;
        let query = sqlx::query_with(AssertSqlSafe(text), arguments);
        Ok(query.persistent(self.pooler_begin.is_none()))
    }

    /// Closes the idle connections that don't answer.
    pub(super) async fn replace_dead_connections(&self) {
        self.pool.close_dead(answers).await;
    }

    async fn transaction(&self) -> Result<Pooled<Postgres>, DbErr> {
        let tenant = self.tenancy.check()?;
        let begin = match tenant
            .map(|tenant| &tenant.begin)
            .or(self.pooler_begin.as_ref())
        {
            None => "BEGIN".into_sql_str(),
            Some(begin) => AssertSqlSafe(Arc::clone(begin)).into_sql_str(),
        };
        self.pool.begin(begin).await.map_err(from_sqlx)
    }
}

/// Whether the server is there. One that a firewall has cut off says nothing, for long.
pub(crate) async fn answers(connection: &mut PgConnection) -> bool {
    let ping = tokio::time::timeout(TIME_TO_ANSWER, connection.ping()).await;
    ping.is_ok_and(|answer| answer.is_ok())
}
