use std::sync::Arc;

use sea_orm::DbErr;
use sqlx::Database;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::pool::Pooled;
use crate::error::from_sqlx;

/// A transaction that several hold; empty once it is committed.
pub(crate) type Unit<DB> = Arc<Mutex<Option<Pooled<DB>>>>;

/// A connection for one statement.
pub(super) enum Session<DB: Database> {
    /// The statement is its own transaction.
    Alone(Pooled<DB>),
    /// A transaction for this statement only.
    Wrapped(Pooled<DB>),
    /// One statement among others.
    Unit(OwnedMutexGuard<Option<Pooled<DB>>>),
}

impl<DB: Database> Session<DB> {
    /// Waits for the statement before.
    pub(super) async fn of_unit(unit: &Unit<DB>) -> Self {
        Self::Unit(Arc::clone(unit).lock_owned().await)
    }

    pub(super) fn connection(&mut self) -> Result<&mut Pooled<DB>, DbErr> {
        match self {
            Self::Alone(connection) | Self::Wrapped(connection) => Ok(connection),
            Self::Unit(unit) => unit.as_mut().ok_or_else(finished),
        }
    }

    /// After the statement succeeded; dropping the session undoes a transaction for it only.
    pub(super) async fn finish(self) -> Result<(), DbErr> {
        match self {
            Self::Alone(connection) => connection.release(),
            Self::Wrapped(connection) => commit_and_release(connection).await?,
            Self::Unit(_) => {}
        }
        Ok(())
    }
}

pub(super) async fn commit<DB: Database>(unit: &Unit<DB>) -> Result<(), DbErr> {
    let connection = unit.lock().await.take().ok_or_else(finished)?;
    commit_and_release(connection).await
}

async fn commit_and_release<DB: Database>(mut connection: Pooled<DB>) -> Result<(), DbErr> {
    connection.commit().await.map_err(from_sqlx)?;
    connection.release();
    Ok(())
}

fn finished() -> DbErr {
    DbErr::Custom("the transaction is finished".to_owned())
}
