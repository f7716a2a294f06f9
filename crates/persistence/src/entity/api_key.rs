use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::access::{ApiKey, ApiKeyFilter, Scope};

use crate::StoredEntity;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_api_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    id: Uuid,
    name: String,
    digest: Vec<u8>,
    scope: String,
    owner: Option<String>,
    created_at: DateTimeUtc,
    expires_at: Option<DateTimeUtc>,
    revoked_at: Option<DateTimeUtc>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl StoredEntity for ApiKey {
    type Table = Entity;

    fn condition(filter: &ApiKeyFilter) -> Condition {
        let owner = filter.owner.as_ref();
        Condition::all().add_option(owner.map(|owner| Column::Owner.eq(owner)))
    }
}

impl TryFrom<Model> for ApiKey {
    type Error = String;

    fn try_from(model: Model) -> Result<Self, String> {
        let refused = |column: &str| format!("key {} has an unknown {column}", model.id);
        let digest = model.digest.as_slice().try_into();
        let digest = digest.map_err(|_| refused("digest"))?;
        let scope = Scope::named(&model.scope).ok_or_else(|| refused("scope"))?;
        let mut key = Self::new(model.id, model.name, digest, scope);
        key.owner = model.owner;
        key.created_at = model.created_at;
        key.expires_at = model.expires_at;
        key.revoked_at = model.revoked_at;
        Ok(key)
    }
}

impl From<ApiKey> for Model {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            digest: key.digest.to_vec(),
            scope: key.scope.as_str().to_owned(),
            owner: key.owner,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
        }
    }
}
