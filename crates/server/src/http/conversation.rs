use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use yai_agentkit_core::{
    ConflictKind, Conversation, ConversationId, Cursor, Entity, Error, IdempotencyKey, ListQuery,
    MessageFilter, MessageId, TurnFilter,
};

use super::{
    App,
    chat::MessageBody,
    extract::{Body, Id, Key, Query, Seen, Sender},
    page::{List, MAX_LIMIT, limit},
    problem::{Problem, ProblemBody},
};
use yai_agentkit_engine::TurnError;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(messages))
}

/// A conversation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Conversation)]
pub(super) struct ConversationBody {
    /// Ordered by time of creation.
    id: Uuid,
    /// The thread that holds the agent's checkpoints.
    checkpoint_thread_id: Uuid,
    #[schema(example = "Planning a trip")]
    title: Option<String>,
    /// What the application keeps with it: any JSON.
    metadata: Option<Value>,
    created_at: DateTime<Utc>,
    /// Moves at every change.
    updated_at: DateTime<Utc>,
}

impl From<Conversation> for ConversationBody {
    fn from(conversation: Conversation) -> Self {
        Self {
            id: conversation.id.0,
            checkpoint_thread_id: conversation.checkpoint_thread_id,
            title: conversation.title,
            metadata: conversation.metadata,
            created_at: conversation.created_at,
            updated_at: conversation.updated_at,
        }
    }
}

/// A conversation, with the `etag` that another answer has once it is changed.
struct Whole(Conversation);

impl IntoResponse for Whole {
    fn into_response(self) -> Response {
        let etag = [(header::ETAG, etag(&self.0))];
        (etag, Json(ConversationBody::from(self.0))).into_response()
    }
}

/// Made of `updated_at`, which moves at every change.
fn etag(conversation: &Conversation) -> String {
    format!("\"{:x}\"", conversation.updated_at.timestamp_micros())
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewConversation {
    #[schema(max_length = 255, example = "Planning a trip")]
    title: Option<String>,
    /// What the application keeps with it: any JSON.
    #[schema(example = json!({"customer": 7}))]
    metadata: Option<Value>,
}

/// What changes: a field that is absent stays, one that is null is cleared.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConversationChange {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 255, example = "Planning two trips")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Value>)]
    metadata: Option<Option<Value>>,
}

/// Tells a field that is null from one that is absent.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConversationPage {
    /// How many at most.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u64,
    /// How many to leave out at the start; costs more the more there are. Not with `cursor`.
    #[param(value_type = Option<u64>, maximum = 4294967295u64)]
    offset: Option<u32>,
    /// The `next_cursor` of the page before; costs the same at any depth.
    #[param(value_type = Option<Uuid>)]
    cursor: Option<ConversationId>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct MessagePage {
    /// How many at most.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u64,
    /// The `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor<MessageId>>,
    /// As a history reads, or the newest first.
    #[serde(default)]
    #[param(inline)]
    order: MessageOrder,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum MessageOrder {
    #[default]
    Asc,
    Desc,
}

fn default_limit() -> u64 {
    100
}

/// Create a conversation
#[utoipa::path(
    post, path = "/conversations", tag = "conversations", operation_id = "create_conversation",
    params(("idempotency-key" = Option<String>, Header, description = "Makes a repetition safe")),
    request_body = NewConversation,
    responses(
        (status = 200, description = "The new conversation, or that of the first request with the key", body = ConversationBody),
        (status = 422, description = "The key was used with another request", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn create(
    State(app): State<App>,
    sender: Sender,
    Key(key): Key,
    Body(new): Body<NewConversation>,
) -> Result<Whole, Problem> {
    let said = json!([new.title, new.metadata]).to_string().into_bytes();
    let conversation = Conversation::new(new.title, new.metadata);
    let Some(key) = key else {
        let stored = app.storage.conversations().add(conversation).await?;
        return Ok(Whole(stored));
    };
    let key = IdempotencyKey::new(sender.scope(), &key, &said, conversation.id.0);
    let keys = app.storage.idempotency_keys();
    if keys.get(&key.id).await?.is_none() {
        let unit = app.storage.begin().await?;
        match unit.idempotency_keys().add(key.clone()).await {
            // The same request was faster.
            Err(Error::Conflict(ConflictKind::IdempotencyKey(_))) => drop(unit),
            added => {
                added?;
                let stored = unit.conversations().add(conversation).await?;
                unit.commit().await?;
                return Ok(Whole(stored));
            }
        }
    }
    let earlier = keys.get(&key.id).await?;
    let earlier = earlier.filter(|earlier| earlier.fingerprint == key.fingerprint);
    let earlier = earlier.ok_or(TurnError::KeyReused)?;
    find(&app, ConversationId(earlier.resource_id))
        .await
        .map(Whole)
}

/// List the conversations, newest first
#[utoipa::path(
    get, path = "/conversations", tag = "conversations", operation_id = "list_conversations",
    params(ConversationPage),
    responses((status = 200, description = "One page", body = List<ConversationBody>)),
)]
async fn list(
    State(app): State<App>,
    Query(page): Query<ConversationPage>,
) -> Result<Json<List<ConversationBody>>, Problem> {
    let query = ListQuery::default().limit(limit(page.limit, MAX_LIMIT)?);
    let query = match (page.offset, page.cursor) {
        (Some(_), Some(_)) => return Err(Problem::invalid("cursor", "can't go with offset")),
        (Some(offset), None) => query.offset(offset.into()),
        (None, Some(cursor)) => query.after(cursor),
        (None, None) => query,
    };
    let page = app.storage.conversations().list(&query).await?;
    Ok(Json(List::of(page)))
}

/// Get a conversation
#[utoipa::path(
    get, path = "/conversations/{id}", tag = "conversations", operation_id = "get_conversation",
    params(("id" = Uuid, Path)),
    responses((status = 200, description = "The conversation", body = ConversationBody)),
)]
async fn get(State(app): State<App>, Id(id): Id) -> Result<Whole, Problem> {
    find(&app, id).await.map(Whole)
}

/// Change a conversation
#[utoipa::path(
    patch, path = "/conversations/{id}", tag = "conversations", operation_id = "update_conversation",
    params(
        ("id" = Uuid, Path),
        ("if-match" = Option<String>, Header, description = "The `etag` of the conversation that the change is meant for"),
    ),
    request_body = ConversationChange,
    responses(
        (status = 200, description = "The conversation as it is now", body = ConversationBody),
        (status = 412, description = "It has changed since it had the `etag` in `if-match`", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn update(
    State(app): State<App>,
    Id(id): Id,
    seen: Seen,
    Body(change): Body<ConversationChange>,
) -> Result<Whole, Problem> {
    let make = |stored: &mut Conversation| {
        if !seen.admits(&etag(stored)) {
            return Err(Error::Conflict(Conversation::conflict(&id)));
        }
        if let Some(title) = &change.title {
            stored.title.clone_from(title);
        }
        if let Some(metadata) = &change.metadata {
            stored.metadata.clone_from(metadata);
        }
        Ok(())
    };
    if change.title.is_none() && change.metadata.is_none() {
        let mut unchanged = find(&app, id).await?;
        make(&mut unchanged).map_err(|_| Problem::changed_meanwhile())?;
        return Ok(Whole(unchanged));
    }
    match app.storage.conversations().update(&id, &make).await {
        Err(Error::Conflict(_)) => Err(Problem::changed_meanwhile()),
        updated => Ok(Whole(updated?)),
    }
}

/// Delete a conversation, its messages and its agent's checkpoints
#[utoipa::path(
    delete, path = "/conversations/{id}", tag = "conversations", operation_id = "delete_conversation",
    params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "A turn is running", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn delete(State(app): State<App>, Id(id): Id) -> Result<StatusCode, Problem> {
    let _claim = app.turns.claim(id)?;
    let conversation = find(&app, id).await?;
    // On whichever server. One that begins meanwhile goes with its conversation: what it writes
    // later is refused.
    let running = TurnFilter::running().of(id);
    if app.storage.turns().count(&running).await? > 0 {
        return Err(TurnError::Busy(id).into());
    }
    let unit = app.storage.begin().await?;
    // The thread first, as each step of a turn locks it before anything else: in the other order the
    // two would wait for each other.
    unit.checkpointer()
        .delete_thread(&conversation.thread_id())
        .await?;
    unit.conversations().delete(&id).await?;
    unit.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the messages of a conversation
#[utoipa::path(
    get, path = "/conversations/{id}/messages", tag = "conversations", operation_id = "list_messages",
    params(("id" = Uuid, Path), MessagePage),
    responses((status = 200, description = "One page", body = List<MessageBody>)),
)]
async fn messages(
    State(app): State<App>,
    Id(id): Id,
    Query(page): Query<MessagePage>,
) -> Result<Json<List<MessageBody>>, Problem> {
    let mut query = ListQuery::filtered(MessageFilter::of(id)).limit(limit(page.limit, MAX_LIMIT)?);
    if let MessageOrder::Asc = page.order {
        query = query.oldest_first();
    }
    if let Some(cursor) = page.cursor {
        query = query.after(cursor);
    }
    find(&app, id).await?;
    let page = app.storage.messages().list(&query).await?;
    Ok(Json(List::of(page)))
}

/// The conversation, which must exist.
pub(super) async fn find(app: &App, id: ConversationId) -> Result<Conversation, Problem> {
    let found = app.storage.conversations().get(&id).await?;
    Ok(found.ok_or_else(|| Error::not_found("conversation", id))?)
}
