use std::{convert::Infallible, time::Duration};

use sqlx::{Connection as _, PgConnection, Postgres, postgres::PgConnectOptions};
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;

use crate::connection::pool::Pool;

/// Between two looks whether the session is there. One that has ended is to be back before its owner
/// is taken for dead.
const LOOK: Duration = Duration::from_millis(200);

const TIME_TO_ANSWER: Duration = Duration::from_secs(5);

/// Where PostgreSQL does not know yet that the session before has ended, it does within some seconds.
const SETTINGS: [(&str, &str); 4] = [
    ("lock_timeout", "100ms"),
    ("tcp_keepalives_idle", "3"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "5"),
];

const LOCK: &str = "SELECT pg_advisory_lock($1)";

/// Nothing is written where the row is as it should be. (PostgreSQL counts terminated sessions from
/// version 14 on.)
const STAY: &str = "INSERT INTO agent_servers (
    id, lock_key, renewed_at, database_started_at, sessions_killed
)
SELECT $1, $2, statement_timestamp(), pg_postmaster_start_time(),
    COALESCE((to_jsonb(d) ->> 'sessions_killed')::bigint, 0)
FROM pg_stat_database d WHERE d.datname = current_database()
ON CONFLICT (id) DO UPDATE SET lock_key = EXCLUDED.lock_key,
    database_started_at = EXCLUDED.database_started_at, sessions_killed = EXCLUDED.sessions_killed,
    suspected_at = NULL, has_died = FALSE
WHERE agent_servers.database_started_at IS DISTINCT FROM EXCLUDED.database_started_at
    OR agent_servers.sessions_killed IS DISTINCT FROM EXCLUDED.sessions_killed
    OR agent_servers.suspected_at IS NOT NULL OR agent_servers.has_died";

/// A session of its own that holds the lock of an owner, until this is dropped or its process ends.
pub(crate) struct LockSession(#[expect(dead_code, reason = "what drops it ends it")] JoinSet<()>);

impl LockSession {
    pub(super) fn hold(pool: Pool<Postgres>, owner: Uuid) -> Self {
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let Err(error) = hold(&pool.connect_options(), owner).await;
                tracing::debug!(%error, "the session that shows that this process lives has ended");
                tokio::time::sleep(LOOK).await;
            }
        });
        Self(task)
    }
}

/// Until the session ends.
async fn hold(options: &PgConnectOptions, owner: Uuid) -> Result<Infallible, sqlx::Error> {
    let options = options.clone().options(SETTINGS);
    let mut session = in_time(PgConnection::connect_with(&options)).await?;
    // Its random part.
    let key = owner.as_u64_pair().1.cast_signed();
    in_time(sqlx::query(LOCK).bind(key).execute(&mut session)).await?;
    loop {
        let stay = sqlx::query(STAY).bind(owner).bind(key);
        in_time(stay.execute(&mut session)).await?;
        tokio::time::sleep(LOOK).await;
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let done = timeout(TIME_TO_ANSWER, work).await;
    done.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
