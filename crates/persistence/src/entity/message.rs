use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{ConversationId, Message, MessageId, Role, conversation::MessageFilter};

use crate::{
    StoredEntity,
    encryption::{EncryptionError, KeyRing},
};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_messages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) conversation_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) role: String,
    pub(crate) content: String,
    pub(crate) parts: Option<Json>,
    pub(crate) parent_id: Option<Uuid>,
    pub(crate) is_chosen: bool,
    pub(crate) checkpoint_id: Option<String>,
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
    const COUNTED: &'static [Column] = &[Column::Content, Column::Parts, Column::Metadata];

    fn parts(row: &mut Model) -> Option<(Uuid, &mut Json)> {
        Some((row.conversation_id, row.parts.as_mut()?))
    }

    fn conversation_with_parts(id: &Self::Id) -> Option<Uuid> {
        Some(id.conversation_id.0)
    }

    fn seal(&mut self, ring: &KeyRing) {
        ring.seal_message(self);
    }

    fn open(&mut self, ring: &KeyRing) -> Result<(), EncryptionError> {
        ring.open_message(self)
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
            .add_option(filter.is_chosen.map(|chosen| Column::IsChosen.eq(chosen)))
    }
}

impl TryFrom<Model> for Message {
    type Error = String;

    fn try_from(model: Model) -> Result<Self, String> {
        let parts = model.parts.map(serde_json::from_value).transpose();
        let refused = |error| format!("message {} has unknown parts: {error}", model.id);
        let mut message = Self::with_id(
            MessageId(model.id),
            ConversationId(model.conversation_id),
            Role::from(model.role),
            model.content,
            model.created_at,
        );
        message.parts = parts.map_err(refused)?.unwrap_or_default();
        message.parent_id = model.parent_id.map(MessageId);
        message.is_chosen = model.is_chosen;
        message.checkpoint_id = model.checkpoint_id.map(|id| id.as_str().into());
        message.metadata = model.metadata_;
        Ok(message)
    }
}

impl From<Message> for Model {
    fn from(message: Message) -> Self {
        Self {
            id: message.id.0,
            conversation_id: message.conversation_id.0,
            role: message.role.into(),
            content: message.content,
            parts: (!message.parts.is_empty()).then(|| serde_json::json!(message.parts)),
            parent_id: message.parent_id.map(|id| id.0),
            is_chosen: message.is_chosen,
            checkpoint_id: message.checkpoint_id.map(|id| id.to_string()),
            metadata_: message.metadata,
            created_at: message.created_at,
            position: 0,
        }
    }
}
