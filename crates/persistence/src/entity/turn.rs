use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{ConversationId, MessageId, Turn, TurnFilter, TurnId, TurnStatus};

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

impl TryFrom<Model> for Turn {
    type Error = String;

    fn try_from(model: Model) -> Result<Self, String> {
        let known = [
            TurnStatus::Running,
            TurnStatus::Completed,
            TurnStatus::Failed,
        ];
        let status = known
            .into_iter()
            .find(|status| status.as_str() == model.status);
        let status = status.ok_or_else(|| {
            format!(
                "turn {} has the unknown status `{}`",
                model.id, model.status
            )
        })?;
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
}

impl From<Turn> for Model {
    fn from(turn: Turn) -> Self {
        Self {
            id: turn.id.0,
            conversation_id: turn.conversation_id.0,
            user_message_id: turn.user_message_id.0,
            status: turn.status.as_str().to_owned(),
            error: turn.error,
            created_at: turn.created_at,
            updated_at: turn.updated_at,
        }
    }
}
