use sea_orm::{Condition, entity::prelude::*};
use yai_agentkit_core::{Conversation, ConversationId, conversation::ConversationFilter};

use crate::{
    StoredEntity,
    encryption::{EncryptionError, KeyRing, Readable},
};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_conversations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    id: Uuid,
    checkpoint_thread_id: Uuid,
    owner: Option<String>,
    title: Option<String>,
    #[sea_orm(column_name = "metadata_")]
    metadata_: Option<Json>,
    created_at: DateTimeUtc,
    updated_at: DateTimeUtc,
    position: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl StoredEntity for Conversation {
    type Table = Entity;

    const ADDED_TOGETHER: bool = true;
    const POSITION: Option<Column> = Some(Column::Position);
    const INDEXED_BY_TENANT: bool = true;
    const COUNTED: &'static [Column] = &[Column::Metadata];

    fn seal(&mut self, ring: &KeyRing) {
        ring.seal_conversation(self);
    }

    fn open(&mut self, ring: &KeyRing) -> Result<(), EncryptionError> {
        ring.open_conversation(self)
    }

    fn needs_plain(filter: &ConversationFilter, ring: &KeyRing) -> Option<&'static str> {
        let is_sealed = ring.policy.readable < Readable::Titles;
        (is_sealed && filter.title.is_some()).then_some("title")
    }

    fn condition(filter: &ConversationFilter) -> Condition {
        Condition::all()
            .add_option(
                filter
                    .checkpoint_thread_id
                    .map(|id| Column::CheckpointThreadId.eq(id)),
            )
            .add_option(filter.owner.as_ref().map(|owner| Column::Owner.eq(owner)))
            .add_option(filter.title.as_ref().map(|title| Column::Title.eq(title)))
    }

    fn searched(&self) -> Option<&Conversation> {
        Some(self)
    }
}

impl From<Model> for Conversation {
    fn from(model: Model) -> Self {
        let mut conversation = Self::with_id(ConversationId(model.id), model.created_at);
        conversation.checkpoint_thread_id = model.checkpoint_thread_id;
        conversation.owner = model.owner;
        conversation.title = model.title;
        conversation.metadata = model.metadata_;
        conversation.updated_at = model.updated_at;
        conversation
    }
}

impl From<Conversation> for Model {
    fn from(conversation: Conversation) -> Self {
        Self {
            id: conversation.id.0,
            checkpoint_thread_id: conversation.checkpoint_thread_id,
            owner: conversation.owner,
            title: conversation.title,
            metadata_: conversation.metadata,
            created_at: conversation.created_at,
            updated_at: conversation.updated_at,
            position: 0,
        }
    }
}
