use std::sync::Arc;

use sea_orm::DbErr;
use sqlx::{Database, Transaction, pool::PoolConnection};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::error::from_sqlx;

/// A transaction that several hold; empty once it is committed.
pub(crate) type Unit<DB> = Arc<Mutex<Option<Transaction<'static, DB>>>>;

/// A connection for one statement.
pub(super) enum Session<DB: Database> {
    /// The statement is its own transaction.
    Alone(PoolConnection<DB>),
    /// A transaction for this statement only.
    Wrapped(Transaction<'static, DB>),
    /// One statement among others.
    Unit(OwnedMutexGuard<Option<Transaction<'static, DB>>>),
}

impl<DB: Database> Session<DB> {
    /// Waits for the statement before.
    pub(super) async fn of_unit(unit: &Unit<DB>) -> Self {
        Self::Unit(Arc::clone(unit).lock_owned().await)
    }

    pub(super) fn connection(&mut self) -> Result<&mut DB::Connection, DbErr> {
        match self {
            Self::Alone(connection) => Ok(connection),
            Self::Wrapped(transaction) => Ok(transaction),
            Self::Unit(unit) => unit.as_deref_mut().ok_or_else(finished),
        }
    }

    /// After the statement succeeded; dropping the session undoes a transaction for it only.
    pub(super) async fn finish(self) -> Result<(), DbErr> {
        match self {
            Self::Wrapped(transaction) => transaction.commit().await.map_err(from_sqlx),
            Self::Alone(_) | Self::Unit(_) => Ok(()),
        }
    }
}

pub(super) async fn commit<DB: Database>(unit: &Unit<DB>) -> Result<(), DbErr> {
    let transaction = unit.lock().await.take().ok_or_else(finished)?;
    transaction.commit().await.map_err(from_sqlx)
}

fn finished() -> DbErr {
    DbErr::Custom("the transaction is finished".to_owned())
}
