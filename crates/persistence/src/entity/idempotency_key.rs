use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{IdempotencyKey, IdempotencyKeyFilter, Result, now};

use crate::{
    StoredEntity,
    connection::{Connection, retrying},
    error::storage_error,
};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_idempotency_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    id: Uuid,
    fingerprint: Uuid,
    resource_id: Uuid,
    created_at: DateTimeUtc,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl StoredEntity for IdempotencyKey {
    type Table = Entity;

    fn condition(_filter: &IdempotencyKeyFilter) -> Condition {
        Condition::all()
    }
}

/// Forgets the keys that were used longer than `age` ago.
pub(crate) async fn forget(connection: &Connection, age: Duration) -> Result<u64> {
    let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
    let Some(before) = now().checked_sub_signed(age) else {
        return Ok(0);
    };
    let delete = || Entity::delete_many().filter(Column::CreatedAt.lte(before));
    let deleted = retrying!(connection, delete().exec(connection));
    let deleted = deleted.map_err(|error| storage_error("forget idempotency keys", error))?;
    Ok(deleted.rows_affected)
}

impl From<Model> for IdempotencyKey {
    fn from(model: Model) -> Self {
        Self {
            id: model.id,
            fingerprint: model.fingerprint,
            resource_id: model.resource_id,
            created_at: model.created_at,
        }
    }
}

impl From<IdempotencyKey> for Model {
    fn from(key: IdempotencyKey) -> Self {
        Self {
            id: key.id,
            fingerprint: key.fingerprint,
            resource_id: key.resource_id,
            created_at: key.created_at,
        }
    }
}
