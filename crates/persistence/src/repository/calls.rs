//! The calls about single rows that go together.

use std::time::Duration;

use sea_orm::{ColumnTrait, DbErr, EntityTrait, ModelTrait, QueryFilter, Value as SqlValue};

use super::{Model, SqlRepository, StoredEntity, key, last_key_column};
use crate::{
    coalescer::{Call, Coalescer, Policy},
    connection::{Connection, retrying},
};

/// Those that are under way on a pool.
pub(crate) struct Calls<E: StoredEntity> {
    pub(super) reads: Coalescer<Get<E>>,
    pub(super) adds: Coalescer<Add<E>>,
}

impl<E: StoredEntity> Calls<E> {
    pub(crate) fn new(connection: &Connection, patience: Duration) -> Self {
        Self {
            reads: Coalescer::new(connection.clone(), Policy::of_reads(patience)),
            adds: Coalescer::new(connection.clone(), Policy::of_adds(patience)),
        }
    }
}

/// Reads the row with an id, whose key is one column.
pub(super) struct Get<E: StoredEntity>(pub(super) E::Id);

impl<E: StoredEntity> Call for Get<E> {
    type Answer = Option<Model<E>>;
    type Key = ();

    /// By a statement that takes a power of two of ids, so that there are few to be prepared.
    async fn run(connection: &Connection, calls: &[Self]) -> Result<Vec<Self::Answer>, DbErr> {
        let column = last_key_column::<E>();
        let mut keys: Vec<SqlValue> = calls.iter().flat_map(|call| key::<E>(&call.0)).collect();
        keys.resize(calls.len().next_power_of_two(), keys[0].clone());
        let select = E::Table::find().filter(column.is_in(keys.iter().cloned()));
        let rows = retrying!(connection, select.clone().all(connection))?;
        let row_of = |key| rows.iter().find(|row| row.get(column) == key).cloned();
        Ok(keys.into_iter().take(calls.len()).map(row_of).collect())
    }
}

/// Adds a row.
pub(super) struct Add<E: StoredEntity>(pub(super) E);

impl<E: StoredEntity> Call for Add<E> {
    type Answer = ();
    type Key = ();

    async fn run(connection: &Connection, calls: &[Self]) -> Result<Vec<()>, DbErr> {
        // Of messages, which have parts, each goes by itself.
        let rows = calls.iter().map(|call| SqlRepository::row(&call.0).0);
        let insert = E::Table::insert_many(rows);
        insert.exec_without_returning(connection).await?;
        Ok(vec![(); calls.len()])
    }
}
