use chrono::SubsecRound;
use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{ConversationId, Message, MessageFilter, MessageId, Result, Role};

use crate::StoredEntity;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_messages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    id: Uuid,
    conversation_id: Uuid,
    role: String,
    content: String,
    #[sea_orm(column_name = "metadata_")]
    metadata_: Option<Json>,
    created_at: DateTimeUtc,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl StoredEntity for Message {
    type Table = Entity;

    fn from_model(model: Model) -> Result<Self> {
        Ok(Self {
            id: MessageId(model.id),
            conversation_id: ConversationId(model.conversation_id),
            role: Role::from(model.role),
            content: model.content,
            metadata: model.metadata_,
            created_at: model.created_at,
        })
    }

    fn into_model(self) -> Model {
        Model {
            id: self.id.0,
            conversation_id: self.conversation_id.0,
            role: self.role.into(),
            content: self.content,
            metadata_: self.metadata,
            created_at: self.created_at.trunc_subsecs(6),
        }
    }

    fn key(id: &MessageId) -> Value {
        id.0.into()
    }

    fn condition(filter: &MessageFilter) -> Condition {
        Condition::all()
            .add_option(
                filter
                    .conversation_id
                    .map(|id| Column::ConversationId.eq(id.0)),
            )
            .add_option(
                filter
                    .role
                    .as_ref()
                    .map(|role| Column::Role.eq(role.as_str())),
            )
    }
}
