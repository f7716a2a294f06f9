use sea_orm::{Condition, DbBackend, Value as SqlValue, entity::prelude::*, sea_query::Expr};
use yai_agentkit_core::{Conversation, ConversationId, conversation::ConversationFilter};

use crate::StoredEntity;

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

    fn condition_on(backend: DbBackend, filter: &ConversationFilter) -> Condition {
        let all = Self::condition(filter).add_option(
            filter
                .title_has
                .as_ref()
                .map(|text| title_has(backend, text)),
        );
        filter.metadata.iter().fold(all, |all, (field, value)| {
            all.add(has_field(backend, field, value))
        })
    }
}

/// By the letters of ASCII alone, as SQLite does it.
fn title_has(backend: DbBackend, text: &str) -> Expr {
    let has = match backend {
        DbBackend::Postgres => r#"strpos(lower("title" COLLATE "C"), $1) > 0"#,
        _ => r#"instr(lower("title"), ?) > 0"#,
    };
    Expr::cust_with_values(has, [text.to_ascii_lowercase()])
}

/// Whether the metadata have this field.
fn has_field(backend: DbBackend, field: &str, value: &Json) -> Expr {
    if value.is_object() || value.is_array() {
        return Expr::val(false);
    }
    if backend == DbBackend::Postgres {
        let object = serde_json::json!({ field: value }).to_string();
        return Expr::cust_with_values(r#""metadata_"::jsonb @> $1::jsonb"#, [object]);
    }
    const FIELD: &str = r#"EXISTS (SELECT 1 FROM json_each("metadata_") f WHERE f.key = ? AND "#;
    let with = |what: &str, value: SqlValue| {
        Expr::cust_with_values(format!("{FIELD}{what})"), [field.into(), value])
    };
    match value {
        Json::String(text) => with("f.type = 'text' AND f.value = ?", text.as_str().into()),
        Json::Number(number) => {
            let number = match number.as_i64() {
                Some(integer) => integer.into(),
                None => number.as_f64().into(),
            };
            with("f.type IN ('integer', 'real') AND f.value = ?", number)
        }
        Json::Bool(is) => with("f.type = ?", if *is { "true" } else { "false" }.into()),
        _ => with("f.type = ?", "null".into()),
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
