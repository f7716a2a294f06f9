//! Whether the process of an owner of turns lives. A lease tells by what was last heard of it; here
//! is what ends with the process, whatever ends that: on PostgreSQL the session that holds an
//! advisory lock, on SQLite the lock of a file beside the database. A process that is stopped, or
//! gets no time of a processor, keeps both.

mod lock_file;
mod session;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;
use yai_agentkit_core::turn::OwnerId;

use crate::{
    connection::{Connection, retrying},
    sql::Sql,
};

pub(crate) use {lock_file::LockFile, session::LockSession};

/// What shows that owners live, which are of this process.
pub(crate) struct Presences<P>(Mutex<HashMap<Uuid, P>>);

impl<P> Default for Presences<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P> Presences<P> {
    /// Of `owner` what `show` returns, from the first call on. Whether this is it.
    fn show<E>(&self, owner: Uuid, show: impl FnOnce() -> Result<P, E>) -> Result<bool, E> {
        let mut shown = self.shown();
        let is_new = !shown.contains_key(&owner);
        if is_new {
            shown.insert(owner, show()?);
        }
        Ok(is_new)
    }

    fn shown(&self) -> MutexGuard<'_, HashMap<Uuid, P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nobody of this process lives.
    pub(crate) fn end(&self) {
        self.shown().clear();
    }
}

/// A file that is locked.
const JOIN: &str = "INSERT INTO agent_servers (id, renewed_at)
VALUES ($1, unixepoch('now', 'subsec')) ON CONFLICT (id) DO UPDATE SET has_died = 0";

const LIVING: &str = "SELECT id FROM agent_servers WHERE has_died = 0";

/// On PostgreSQL one takes the lock, if nobody has it, for as long as this takes. A session can end
/// before its process. With the database all end, so that those of before its start prove nothing; nor
/// do those of before somebody has terminated any. Of one that the network has ended, the process
/// comes back within the half second.
const BURY: Sql = Sql {
    postgres: "UPDATE agent_servers SET has_died = suspected_at IS NOT NULL,
    suspected_at = COALESCE(suspected_at, statement_timestamp())
WHERE NOT has_died AND COALESCE(suspected_at <= statement_timestamp() - INTERVAL '0.5 s', TRUE)
    AND pg_try_advisory_xact_lock_shared(lock_key)
    AND database_started_at = pg_postmaster_start_time()
    AND sessions_killed = (
        SELECT COALESCE((to_jsonb(d) ->> 'sessions_killed')::bigint, 0)
        FROM pg_stat_database d WHERE d.datname = current_database()
    )",
    sqlite: "UPDATE agent_servers SET has_died = 1 WHERE id = $1",
};

/// Those whose death nothing would show only after a day.
const FORGET: Sql = Sql {
    postgres: "DELETE FROM agent_servers s
WHERE (s.has_died OR s.lock_key IS NULL AND s.renewed_at < statement_timestamp() - INTERVAL '1 day')
    AND NOT EXISTS (
        SELECT FROM agent_turns t WHERE t.status = 'running' AND t.lease_owner = s.id
    )",
    sqlite: "DELETE FROM agent_servers AS s
WHERE s.has_died AND NOT EXISTS (
    SELECT 1 FROM agent_turns t WHERE t.status = 'running' AND t.lease_owner = s.id
)",
};

/// Shows from now on that the process of `owner` lives, where that can be shown.
pub(crate) async fn show(connection: &Connection, owner: OwnerId) -> Result<(), DbErr> {
    let owner = owner.0;
    match connection {
        _ if connection.is_transaction() => {}
        // Behind a transaction pooler no session is the process's own.
        Connection::Postgres(postgres) if postgres.pooler_begin.is_none() => {
            let session = || Ok::<_, DbErr>(LockSession::hold(postgres.pool.clone(), owner));
            postgres.presences.show(owner, session)?;
        }
        Connection::Postgres(_) => {}
        Connection::Sqlite(sqlite) => {
            let file = || LockFile::hold(&sqlite.path(), owner);
            match sqlite.presences.show(owner, file) {
                Ok(true) => {
                    let join = Sql::same(JOIN).query(connection).with(owner);
                    if let Err(error) = join.execute(connection).await {
                        sqlite.presences.shown().remove(&owner);
                        return Err(error);
                    }
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "only leases show that this process lives"),
            }
        }
    }
    Ok(())
}

/// Marks the owners whose process is known to have died.
pub(crate) async fn bury(connection: &Connection) -> Result<(), DbErr> {
    let Connection::Sqlite(sqlite) = connection else {
        let bury = BURY.query(connection);
        return retrying!(connection, bury.clone().execute(connection)).map(drop);
    };
    let living = Sql::same(LIVING).query(connection).rows(connection).await?;
    let id = |row: &QueryResult| row.try_get_by_index(0);
    let living: Vec<Uuid> = living.iter().map(id).collect::<Result<_, _>>()?;
    for owner in living {
        if LockFile::is_left(&sqlite.path(), owner) {
            let bury = BURY.query(connection).with(owner);
            bury.execute(connection).await?;
        }
    }
    Ok(())
}

/// Forgets the dead who have left nothing.
pub(crate) async fn forget(connection: &Connection) -> Result<(), DbErr> {
    let forget = FORGET.query(connection);
    retrying!(connection, forget.clone().execute(connection)).map(drop)
}
