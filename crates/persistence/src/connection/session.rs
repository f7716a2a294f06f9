use std::{mem, sync::Arc};

use sea_orm::{DbErr, RuntimeErr};
use sqlx::Database;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::pool::Pooled;
use crate::error::{Repeat, Repeatable, from_sqlx, is_transient, overdue, spares_connection};

/// A transaction that several hold.
pub(crate) type Unit<DB> = Arc<Mutex<Work<DB>>>;

/// What has become of a transaction.
pub(crate) enum Work<DB: Database> {
    Open(Pooled<DB>),
    /// A statement of it failed: it can be undone, all of it or from a savepoint on. SQLite would
    /// go on, or run what follows outside it where it has ended the transaction by itself.
    Failed(Pooled<DB>, DbErr),
    /// It was undone with its connection, or while a statement was under way.
    Lost(DbErr),
    Committed,
}

/// A connection for one statement.
pub(super) enum Session<DB: Database> {
    /// The statement is its own transaction.
    Alone(Pooled<DB>),
    /// A transaction for this statement only.
    Wrapped(Pooled<DB>),
    /// One statement among others. The unit is lost until it gets its connection back.
    Unit(Pooled<DB>, OwnedMutexGuard<Work<DB>>),
}

impl<DB: Database> Session<DB> {
    /// Waits for the statement before.
    pub(super) async fn of_unit(unit: &Unit<DB>) -> Result<Self, DbErr> {
        let mut work = Arc::clone(unit).lock_owned().await;
        let connection = work.take()?;
        Ok(Self::Unit(connection, work))
    }

    pub(super) fn connection(&mut self) -> &mut Pooled<DB> {
        match self {
            Self::Alone(connection) | Self::Wrapped(connection) | Self::Unit(connection, _) => {
                connection
            }
        }
    }

    /// Ends it with the outcome of its statement. Dropping it instead undoes its transaction.
    pub(super) async fn end<T>(self, outcome: Result<T, sqlx::Error>) -> Result<T, DbErr> {
        let value = match outcome {
            Ok(value) => value,
            Err(error) => {
                let error = from_sqlx(error);
                self.fail(&error);
                return Err(error);
            }
        };
        match self {
            Self::Alone(connection) => connection.release(),
            Self::Wrapped(connection) => commit_and_release(connection).await?,
            Self::Unit(connection, mut work) => *work = Work::Open(connection),
        }
        Ok(value)
    }

    /// Ends it without an outcome, which nobody waits for any longer, and its connection with it.
    pub(super) fn give_up(mut self) -> DbErr {
        let error = overdue();
        // The others may hang as well.
        self.connection().renew_pool();
        match self {
            Self::Unit(connection, mut work) => {
                *work = Work::Lost(error.clone());
                connection.discard();
            }
            Self::Alone(connection) | Self::Wrapped(connection) => connection.discard(),
        }
        error
    }

    fn fail(mut self, error: &DbErr) {
        let spared = spares_connection(error);
        if error.repeat() == Some(Repeat::Renewed) {
            self.connection().renew_pool();
        }
        match self {
            Self::Unit(connection, mut work) if spared => {
                *work = Work::Failed(connection, error.clone());
            }
            Self::Unit(connection, mut work) => {
                *work = Work::Lost(error.clone());
                connection.discard();
            }
            Self::Alone(connection) | Self::Wrapped(connection) if !spared => connection.discard(),
            Self::Alone(_) | Self::Wrapped(_) => {}
        }
    }
}

impl<DB: Database> Work<DB> {
    /// The connection, leaving the work lost: so it is where whoever has it stops half-way.
    fn take(&mut self) -> Result<Pooled<DB>, DbErr> {
        match mem::replace(self, Self::Lost(abandoned())) {
            Self::Open(connection) => Ok(connection),
            other => {
                let error = match &other {
                    Self::Failed(_, error) | Self::Lost(error) => follows(error),
                    _ => DbErr::Custom("the transaction is finished".to_owned()),
                };
                *self = other;
                Err(error)
            }
        }
    }
}

/// Before the unit is undone to a savepoint.
pub(super) async fn reopen<DB: Database>(unit: &Unit<DB>) {
    let mut work = unit.lock().await;
    *work = match mem::replace(&mut *work, Work::Lost(abandoned())) {
        Work::Failed(connection, _) => Work::Open(connection),
        other => other,
    };
}

pub(super) async fn commit<DB: Database>(unit: &Unit<DB>) -> Result<(), DbErr> {
    let mut work = unit.lock().await;
    commit_and_release(work.take()?).await?;
    *work = Work::Committed;
    Ok(())
}

/// Rolls back.
pub(super) async fn undo<DB: Database>(unit: &Unit<DB>) -> Result<(), DbErr> {
    let connection = unit.lock().await.take()?;
    connection.undo().await.map_err(from_sqlx)
}

async fn commit_and_release<DB: Database>(mut connection: Pooled<DB>) -> Result<(), DbErr> {
    connection.commit().await?;
    connection.release();
    Ok(())
}

/// The error of what comes after `error` in its transaction.
fn follows(error: &DbErr) -> DbErr {
    if is_transient(error) {
        return error.clone();
    }
    DbErr::Custom("a statement before has failed in this transaction".to_owned())
}

fn abandoned() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(
        "a statement of the transaction was abandoned".to_owned(),
    ))
}
