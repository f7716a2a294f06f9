use chrono::SubsecRound;
use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{
    ConversationId, Error, MessageId, Result, Turn, TurnFilter, TurnId, TurnStatus,
};

use crate::StoredEntity;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_turns")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    id: Uuid,
    conversation_id: Uuid,
    user_message_id: Uuid,
    status: String,
    error: Option<String>,
    created_at: DateTimeUtc,
    updated_at: DateTimeUtc,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl StoredEntity for Turn {
    type Table = Entity;

    fn from_model(model: Model) -> Result<Self> {
        let known = [
            TurnStatus::Running,
            TurnStatus::Completed,
            TurnStatus::Failed,
        ];
        let status = known
            .into_iter()
            .find(|status| status.as_str() == model.status);
        let Some(status) = status else {
            let reason = format!(
                "turn {} has the unknown status `{}`",
                model.id, model.status
            );
            return Err(Error::backend("read turn", reason));
        };
        Ok(Self {
            id: TurnId(model.id),
            conversation_id: ConversationId(model.conversation_id),
            user_message_id: MessageId(model.user_message_id),
            status,
            error: model.error,
            created_at: model.created_at,
            updated_at: model.updated_at,
        })
    }

    fn into_model(self) -> Model {
        Model {
            id: self.id.0,
            conversation_id: self.conversation_id.0,
            user_message_id: self.user_message_id.0,
            status: self.status.as_str().to_owned(),
            error: self.error,
            created_at: self.created_at.trunc_subsecs(6),
            updated_at: self.updated_at.trunc_subsecs(6),
        }
    }

    fn key(id: &TurnId) -> Value {
        id.0.into()
    }

    fn condition(filter: &TurnFilter) -> Condition {
        Condition::all()
            .add_option(
                filter
                    .conversation_id
                    .map(|id| Column::ConversationId.eq(id.0)),
            )
            .add_option(
                filter
                    .status
                    .map(|status| Column::Status.eq(status.as_str())),
            )
    }
}
