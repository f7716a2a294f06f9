use std::time::Duration;

use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{
    ConversationId, Result,
    turn::{IdempotencyKey, IdempotencyKeyFilter},
};

use crate::{
    StoredEntity,
    connection::{Connection, retrying},
    error::storage_error,
    sql::Sql,
};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_idempotency_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    conversation_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    id: Uuid,
    fingerprint: Uuid,
    resource_id: Uuid,
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

/// $1 is an age in seconds.
const FORGET: Sql = Sql {
    postgres: "DELETE FROM agent_idempotency_keys
WHERE created_at <= clock_timestamp() - make_interval(secs => $1)",
    sqlite: "DELETE FROM agent_idempotency_keys
WHERE created_at <= unixepoch('now', 'subsec') - $1",
};

/// No interval of PostgreSQL is too short for it.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Forgets the keys that were used longer than `age` ago. Only the database's clock writes and
/// reads the column `created_at`, which the model leaves out.
pub(crate) async fn forget(connection: &Connection, age: Duration) -> Result<u64> {
    let forget = FORGET
        .query(connection)
        .with(age.min(LONGEST).as_secs_f64());
    let deleted = retrying!(connection, forget.clone().execute(connection));
    deleted.map_err(|error| storage_error("forget idempotency keys", error))
}

impl From<Model> for IdempotencyKey {
    fn from(model: Model) -> Self {
        let scope = ConversationId(model.conversation_id);
        Self::with_id(scope, model.id, model.fingerprint, model.resource_id)
    }
}

impl From<IdempotencyKey> for Model {
    fn from(key: IdempotencyKey) -> Self {
        Self {
            conversation_id: key.scope.0,
            id: key.id,
            fingerprint: key.fingerprint,
            resource_id: key.resource_id,
        }
    }
}
