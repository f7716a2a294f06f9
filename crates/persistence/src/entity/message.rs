use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{ConversationId, Message, MessageId, Role, conversation::MessageFilter};

use crate::StoredEntity;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_messages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) conversation_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) role: String,
    pub(crate) content: String,
    #[sea_orm(column_name = "metadata_")]
    pub(crate) metadata_: Option<Json>,
    pub(crate) created_at: DateTimeUtc,
    pub(crate) position: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl StoredEntity for Message {
    type Table = Entity;

    const POSITION: Option<Column> = Some(Column::Position);
    const COUNTED: &'static [Column] = &[Column::Content, Column::Metadata];

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

impl From<Model> for Message {
    fn from(model: Model) -> Self {
        let mut message = Self::with_id(
            MessageId(model.id),
            ConversationId(model.conversation_id),
            Role::from(model.role),
            model.content,
            model.created_at,
        );
        message.metadata = model.metadata_;
        message
    }
}

impl From<Message> for Model {
    fn from(message: Message) -> Self {
        Self {
            id: message.id.0,
            conversation_id: message.conversation_id.0,
            role: message.role.into(),
            content: message.content,
            metadata_: message.metadata,
            created_at: message.created_at,
            position: 0,
        }
    }
}
