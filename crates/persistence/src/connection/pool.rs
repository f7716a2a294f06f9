use std::{
    mem,
    ops::{Deref, DerefMut},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use sea_orm::DbErr;
use sqlx::{AssertSqlSafe, Connection, Database, Postgres, SqlStr, pool::PoolConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::sqlite::TimeLimit;
use crate::{
    error::{from_sqlx, overdue},
    tenancy::Named,
};

/// How long a connection stays here without a user.
const LONGEST_IDLE: Duration = Duration::from_secs(1);

/// How long one stays away from sqlx's pool, which renews it in time.
const LONGEST_STAY: Duration = Duration::from_secs(60);

/// What a transaction has to begin, however late it has its connection.
const SHORTEST_BEGIN: Duration = Duration::from_secs(1);

/// How long a rollback may take, behind a statement that goes on after nobody waits for it.
const LONGEST_UNDO: Duration = Duration::from_secs(30);

/// sqlx's pool, and before it the connections that were just in use: sqlx asks each that comes back
/// whether it still answers, a round trip for every statement. A clone is the same.
pub(crate) struct Pool<DB: Database>(Arc<Inner<DB>>);

struct Inner<DB: Database> {
    connections: sqlx::Pool<DB>,
    shelf: Mutex<Shelf<DB>>,
    /// As many as there may be connections, so that nobody waits for one that lies on the shelf.
    permits: Arc<Semaphore>,
    /// Where a connection goes back to sqlx's pool.
    runtime: Handle,
}

/// The connections that wait for their next user, the last used on top.
struct Shelf<DB: Database> {
    idle: Vec<Idle<DB>>,
    /// Whether a task clears it.
    watched: bool,
    /// What left sqlx's pool before is not to be used again.
    renewed: Option<Instant>,
}

struct Idle<DB: Database> {
    connection: PoolConnection<DB>,
    since: Instant,
    left_sqlx: Instant,
    time_limit: TimeLimit,
    tenant: Option<Arc<Named>>,
}

/// A connection in use. [`release`](Self::release) hands it to the next user as it is. Dropped, it
/// goes back to sqlx's pool once its transaction is undone for certain, and is closed otherwise.
pub(crate) struct Pooled<DB: Database> {
    /// `None` only once it is released or dropped.
    connection: Option<PoolConnection<DB>>,
    left_sqlx: Instant,
    transaction: Stage,
    pub(super) time_limit: TimeLimit,
    /// Whose rows its session is known to see.
    tenant: Option<Arc<Named>>,
    pool: Pool<DB>,
    /// `None` only once it is dropped.
    permit: Option<OwnedSemaphorePermit>,
}

/// How far a connection is with a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    None,
    Open,
    /// Its begin or its end was cut short or failed: nobody knows whether it is open, SQLite having
    /// ended it by itself or not.
    Unknown,
}

impl<DB: Database> Clone for Pool<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<DB: Database> Pool<DB> {
    pub(crate) fn new(connections: sqlx::Pool<DB>) -> Self {
        let most = connections.options().get_max_connections();
        Self(Arc::new(Inner {
            connections,
            shelf: Mutex::new(Shelf {
                idle: Vec::new(),
                watched: false,
                renewed: None,
            }),
            permits: Arc::new(Semaphore::new(most as usize)),
            runtime: Handle::current(),
        }))
    }

    /// What its connections are made with.
    pub(crate) fn connect_options(&self) -> Arc<<DB::Connection as Connection>::Options> {
        self.0.connections.connect_options()
    }

    /// Waits for its turn, no longer than the connection timeout. Where there is a choice, it is one
    /// that sees the rows of `tenant`.
    pub(super) async fn acquire(
        &self,
        tenant: Option<&Arc<Named>>,
    ) -> Result<Pooled<DB>, sqlx::Error> {
        let take = pin!(self.take(tenant));
        let taken = timeout(self.patience(), take).await;
        taken.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    fn patience(&self) -> Duration {
        self.0.connections.options().get_acquire_timeout()
    }

    async fn take(&self, tenant: Option<&Arc<Named>>) -> Result<Pooled<DB>, sqlx::Error> {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.0.shelf().take(tenant);
        let (connection, left_sqlx, time_limit, tenant) = match idle {
            Some(idle) => (
                idle.connection,
                idle.left_sqlx,
                idle.time_limit,
                idle.tenant,
            ),
            None => (
                // Rare, and large: whoever finds one idle would carry it along.
                Box::pin(self.0.connections.acquire()).await?,
                Instant::now(),
                TimeLimit::default(),
                None,
            ),
        };
        Ok(Pooled {
            connection: Some(connection),
            left_sqlx,
            transaction: Stage::None,
            time_limit,
            tenant,
            pool: self.clone(),
            permit: Some(permit),
        })
    }

    /// Begins a transaction by `statement`, which on SQLite waits for who writes in another process:
    /// within the connection timeout in all, since those behind it wait as well.
    pub(super) async fn begin(&self, statement: SqlStr) -> Result<Pooled<DB>, sqlx::Error> {
        let started = Instant::now();
        let mut connection = self.acquire(None).await?;
        #[cfg(test)]
        crate::golden::record(statement.as_str());
        connection.transaction = Stage::Unknown;
        let left = self.patience().saturating_sub(started.elapsed());
        let begin = DB::TransactionManager::begin(&mut connection, Some(statement));
        let Ok(begun) = timeout(left.max(SHORTEST_BEGIN), begin).await else {
            // The others may hang as well.
            self.renew();
            return Err(sqlx::Error::PoolTimedOut);
        };
        begun?;
        connection.transaction = Stage::Open;
        Ok(connection)
    }

    /// Closes the idle connections that `answers` finds dead.
    pub(super) async fn close_dead(&self, answers: impl AsyncFn(&mut DB::Connection) -> bool) {
        let shelved = mem::take(&mut self.0.shelf().idle);
        let shelved = shelved.into_iter().map(|idle| Some(idle.connection));
        let in_sqlx = (0..self.0.connections.num_idle()).map(|_| self.0.connections.try_acquire());
        // All are held until each is asked, so that none is asked twice.
        for mut connection in shelved.chain(in_sqlx).flatten().collect::<Vec<_>>() {
            if !answers(&mut connection).await {
                connection.close_on_drop();
            }
        }
    }

    /// Closes the idle connections, and those in use when they come back.
    fn renew(&self) {
        let shelved = {
            let mut shelf = self.0.shelf();
            shelf.renewed = Some(Instant::now());
            mem::take(&mut shelf.idle)
        };
        let shelved = shelved.into_iter().map(|idle| Some(idle.connection));
        let in_sqlx = (0..self.0.connections.num_idle()).map(|_| self.0.connections.try_acquire());
        for mut connection in shelved.chain(in_sqlx).flatten() {
            connection.close_on_drop();
        }
    }

    /// Waits for what is under way and closes every connection.
    pub(super) async fn close(&self) {
        self.0.permits.close();
        self.0.shelf().idle.clear();
        self.0.connections.close().await;
    }
}

impl<DB: Database> Shelf<DB> {
    fn take(&mut self, tenant: Option<&Arc<Named>>) -> Option<Idle<DB>> {
        let Some(tenant) = tenant else {
            return self.idle.pop();
        };
        let of_tenant =
            |idle: &Idle<DB>| idle.tenant.as_ref().is_some_and(|other| other.is(tenant));
        match self.idle.iter().rposition(of_tenant) {
            Some(place) => Some(self.idle.remove(place)),
            None => self.idle.pop(),
        }
    }
}

impl<DB: Database> Inner<DB> {
    fn shelf(&self) -> MutexGuard<'_, Shelf<DB>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, idle: Idle<DB>) {
        let mut shelf = self.shelf();
        if self.permits.is_closed() {
            return;
        }
        shelf.idle.push(idle);
        if !mem::replace(&mut shelf.watched, true) {
            tokio::spawn(clear_shelf(Arc::downgrade(self)));
        }
    }
}

impl<DB: Database> Drop for Inner<DB> {
    /// Maybe outside the runtime, where sqlx panics when a connection goes back to it.
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.shelf().idle.clear();
    }
}

/// Gives back to sqlx what nobody has used for a while, until nothing is left.
async fn clear_shelf<DB: Database>(pool: Weak<Inner<DB>>) {
    loop {
        tokio::time::sleep(LONGEST_IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut shelf = pool.shelf();
        shelf
            .idle
            .retain(|idle| idle.since.elapsed() < LONGEST_IDLE);
        if shelf.idle.is_empty() {
            shelf.watched = false;
            return;
        }
    }
}

impl<DB: Database> Pooled<DB> {
    /// Commits its transaction, which may take as long as to get a connection.
    pub(super) async fn commit(&mut self) -> Result<(), DbErr> {
        #[cfg(test)]
        crate::golden::record("COMMIT");
        self.transaction = Stage::Unknown;
        let patience = self.pool.patience();
        let committed = timeout(patience, DB::TransactionManager::commit(self)).await;
        committed.map_err(|_| overdue())?.map_err(from_sqlx)?;
        self.transaction = Stage::None;
        Ok(())
    }

    /// After all went well.
    pub(super) fn release(mut self) {
        let is_tired = self.left_sqlx.elapsed() > LONGEST_STAY;
        if self.transaction != Stage::None || is_tired || self.is_outdated() {
            return;
        }
        if let Some(connection) = self.connection.take() {
            self.pool.0.keep(Idle {
                connection,
                since: Instant::now(),
                left_sqlx: self.left_sqlx,
                time_limit: mem::take(&mut self.time_limit),
                tenant: self.tenant.take(),
            });
        }
    }

    /// Whether its session sees the rows of `tenant`, which a transaction may change for itself.
    pub(super) fn sees(&self, tenant: &Named) -> bool {
        self.tenant.as_ref().is_some_and(|other| other.is(tenant))
    }

    /// After what may have changed whose rows its session sees.
    pub(super) fn forget_tenant(&mut self) {
        self.tenant = None;
    }

    /// Rolls back. Where that fails the connection is closed, for it would fail whoever came next:
    /// SQLite ends a transaction by itself after a full disk, an interruption and the like, and sqlx
    /// goes on counting it.
    pub(super) async fn undo(mut self) -> Result<(), sqlx::Error> {
        self.transaction = Stage::Unknown;
        let undone = DB::TransactionManager::rollback(&mut self);
        timeout(LONGEST_UNDO, undone)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        if DB::TransactionManager::get_transaction_depth(&self) == 0 {
            self.transaction = Stage::None;
            self.release();
        }
        Ok(())
    }

    /// Closes every connection of its pool, those in use when they come back.
    pub(super) fn renew_pool(&self) {
        self.pool.renew();
    }

    /// Whether the pool was renewed since.
    fn is_outdated(&self) -> bool {
        let renewed = self.pool.0.shelf().renewed;
        renewed.is_some_and(|renewed| self.left_sqlx < renewed)
    }

    /// Closes it, whatever it was at.
    pub(super) fn discard(mut self) {
        self.transaction = Stage::Unknown;
    }
}

impl Pooled<Postgres> {
    /// Lets its session see the rows of `tenant` and of no other.
    pub(super) async fn see(&mut self, tenant: &Arc<Named>) -> Result<(), DbErr> {
        #[cfg(test)]
        crate::golden::record(&tenant.set);
        self.tenant = None;
        self.transaction = Stage::Unknown;
        let patience = self.pool.patience();
        let set = sqlx::raw_sql(AssertSqlSafe(tenant.set.clone()));
        let set = timeout(patience, set.execute(&mut **self)).await;
        set.map_err(|_| overdue())?.map_err(from_sqlx)?;
        self.transaction = Stage::None;
        self.tenant = Some(Arc::clone(tenant));
        Ok(())
    }
}

impl<DB: Database> Drop for Pooled<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        // sqlx needs it, and this may be dropped outside.
        let _inside = self.pool.0.runtime.enter();
        match self.transaction {
            Stage::None if self.is_outdated() => connection.close_on_drop(),
            Stage::None => drop(connection),
            Stage::Unknown => connection.close_on_drop(),
            Stage::Open => {
                let undoing = Self {
                    connection: Some(connection),
                    left_sqlx: self.left_sqlx,
                    transaction: Stage::Unknown,
                    time_limit: mem::take(&mut self.time_limit),
                    tenant: self.tenant.take(),
                    pool: self.pool.clone(),
                    permit: self.permit.take(),
                };
                tokio::spawn(undoing.undo());
            }
        }
    }
}

impl<DB: Database> Deref for Pooled<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.connection
            .as_ref()
            .expect("released only when consumed")
    }
}

impl<DB: Database> DerefMut for Pooled<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection
            .as_mut()
            .expect("released only when consumed")
    }
}
