use std::collections::BTreeMap;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Error, ListQuery, MessageId,
    conversation::{ConversationFilter, MessageFilter, SearchQuery, Wanted, scalar},
    storage::{Cursor, Page},
    validate,
};

use super::{
    App,
    caller::Caller,
    chat::MessageBody,
    extract::{Body, Id, Key, Query, Seen},
    import::{HistoryMessage, imported},
    page::{List, MAX_BYTES, MAX_LIMIT, limit},
    problem::{Problem, ProblemBody},
};
use yai_agentkit_engine::{ConversationChange, RequestKey};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(messages))
}

/// A conversation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Conversation)]
pub(crate) struct ConversationBody {
    /// Ordered by time of creation.
    id: Uuid,
    /// The thread that holds the agent's checkpoints.
    checkpoint_thread_id: Uuid,
    /// Whose it is: the owner of the key with which it was made.
    owner: Option<String>,
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
            owner: conversation.owner,
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
    /// What was said before, elsewhere: its agent knows it. See the import of messages.
    #[serde(default)]
    #[schema(max_items = 10_000)]
    messages: Vec<HistoryMessage>,
}

/// What changes: a field that is absent stays, one that is null is cleared.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationChange)]
struct Change {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 255, example = "Planning two trips")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Value>)]
    metadata: Option<Option<Value>>,
}

/// Tells a field that is null from one that is absent.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
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
    /// How many to leave out at the start; costs more the more there are. Not with `cursor`, a text,
    /// a title or metadata, and refused where fewer than `limit` fit into a page, since
    /// `offset` + `limit` would skip the others.
    #[param(value_type = Option<u64>, maximum = 4294967295u64)]
    offset: Option<u32>,
    /// The `next_cursor` of the page before; costs the same at any depth.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor<ConversationId>>,
    /// Only those with a message that has all these words, or a title that has; of Chinese and the like, all
    /// these pairs of neighbours. First that whose message is the newest; a title counts as said
    /// where the last message of a person was. What was just said is found a moment later. Goes with
    /// `limit` and `cursor` alone.
    text: Option<String>,
    /// Only those with all these words in their title; of Chinese and the like, all these pairs of neighbours.
    title: Option<String>,
    /// Only the one that works in this thread, which other programs know it by. Not with a text, a title or metadata.
    thread: Option<Uuid>,
    /// Only those whose metadata have the fields of this JSON object: text, numbers, booleans or null.
    #[param(example = json!(r#"{"customer": 7}"#))]
    metadata: Option<String>,
}

impl ConversationPage {
    /// What is searched for, if anything is.
    fn search(&self) -> Result<Option<SearchQuery>, Problem> {
        let has_fields = self.title.is_some() || self.metadata.is_some();
        if let Some(text) = &self.text {
            if has_fields || self.offset.is_some() || self.thread.is_some() {
                return Err(Problem::invalid("text", "goes with limit and cursor alone"));
            }
            return Ok(Some(SearchQuery::text(text)?));
        }
        if !has_fields {
            return Ok(None);
        }
        if self.thread.is_some() {
            return Err(Problem::invalid(
                "thread",
                "can't go with a title or metadata",
            ));
        }
        if self.offset.is_some() {
            let reason = "can't go with a title or metadata";
            return Err(Problem::invalid("offset", reason));
        }
        let mut fields = BTreeMap::new();
        if let Some(metadata) = &self.metadata {
            fields = serde_json::from_str(metadata)
                .map_err(|error| Problem::invalid("metadata", error))?;
            for (field, value) in &fields {
                if scalar(value).is_none() {
                    let reason = format!("{field}: must be text, a number, a boolean or null");
                    return Err(Problem::invalid("metadata", reason));
                }
            }
            validate::json("metadata", &json!(fields))?;
        }
        Ok(Some(SearchQuery::fields(self.title.as_deref(), fields)?))
    }
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
    /// Those of the branch that is chosen, or the others: edited messages, answers that were given
    /// anew, and what came behind them. The `parent_id` of each says where it stands.
    #[serde(default)]
    #[param(inline)]
    branch: Branches,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Branches {
    #[default]
    Chosen,
    Others,
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
    app: App,
    caller: Caller,
    Key(key): Key,
    Body(new): Body<NewConversation>,
) -> Result<Whole, Problem> {
    let said = json!([new.title, new.metadata, new.messages]);
    let conversation = Conversation::new(new.title, new.metadata);
    let conversation = conversation.with(|new| new.owner = caller.owner());
    let history = imported(conversation.id, new.messages)?;
    let conversations = app.turns.conversations().by(caller.actor());
    let Some(key) = key else {
        let created = match history.is_empty() {
            true => conversations.create(conversation).await,
            false => conversations.create_with(conversation, history).await,
        };
        return Ok(Whole(created?));
    };
    let key = RequestKey {
        key,
        request: said.to_string().into_bytes(),
    };
    let created = conversations.create_once(conversation, history, caller.scope_of_keys(), &key);
    Ok(Whole(created.await?))
}

/// List the conversations, first that in which a person said something last
#[utoipa::path(
    get, path = "/conversations", tag = "conversations", operation_id = "list_conversations",
    params(ConversationPage),
    responses((status = 200, description = "One page", body = List<ConversationBody>)),
)]
async fn list(
    app: App,
    caller: Caller,
    Query(page): Query<ConversationPage>,
) -> Result<Json<List<ConversationBody>>, Problem> {
    let wanted = limit(page.limit, MAX_LIMIT)?;
    if let Some(query) = page.search()? {
        return search(&app, query.owned_by(caller.owner()), &page).await;
    }
    let mut filter = ConversationFilter::default().owned_by(caller.owner());
    filter.checkpoint_thread_id = page.thread;
    let query = ListQuery::filtered(filter);
    let query = query.limit(wanted).max_bytes(MAX_BYTES);
    let has_offset = page.offset.is_some();
    let query = match (page.offset, page.cursor) {
        (Some(_), Some(_)) => return Err(Problem::invalid("cursor", "can't go with offset")),
        (Some(offset), None) => query.offset(offset.into()),
        (None, Some(cursor)) => query.after(cursor),
        (None, None) => query,
    };
    let page = app.storage.conversations().list(&query).await?;
    if has_offset && page.next.is_some() && (page.items.len() as u64) < wanted {
        let reason = format!(
            "only {} of these fit into a page: ask for as many, or go on by `cursor`",
            page.items.len()
        );
        return Err(Problem::invalid("limit", reason));
    }
    Ok(Json(List::of(page)))
}

/// As many of the conversations that are found as fit into a page.
async fn search(
    app: &App,
    query: SearchQuery,
    page: &ConversationPage,
) -> Result<Json<List<ConversationBody>>, Problem> {
    if matches!(query.wanted, Wanted::Text(_)) && !app.turns.has_search() {
        let reason = "is not indexed here: AGENTKIT_SEARCH_INDEX is false";
        return Err(Problem::invalid("text", reason));
    }
    let mut query = query.limit(page.limit);
    if let Some(cursor) = &page.cursor {
        query = query.after(&cursor.map(|id| MessageId(id.0)))?;
    }
    let found = app.storage.search().find(&query).await?;
    let conversations = app.storage.conversations();
    let ids = found.items.iter().map(|hit| &hit.conversation_id);
    let rows = try_join_all(ids.map(|id| conversations.get(id))).await?;
    // One may have been deleted meanwhile.
    let items = rows.into_iter().flatten().collect();
    let next = found.next;
    Ok(Json(List::of(Page { items, next })))
}

/// Get a conversation
#[utoipa::path(
    get, path = "/conversations/{id}", tag = "conversations", operation_id = "get_conversation",
    params(("id" = Uuid, Path)),
    responses((status = 200, description = "The conversation", body = ConversationBody)),
)]
async fn get(app: App, Id(id): Id) -> Result<Whole, Problem> {
    Ok(Whole(app.turns.conversations().get(id).await?))
}

/// Change a conversation
#[utoipa::path(
    patch, path = "/conversations/{id}", tag = "conversations", operation_id = "update_conversation",
    params(
        ("id" = Uuid, Path),
        ("if-match" = Option<String>, Header, description = "The `etag` of the conversation that the change is meant for"),
    ),
    request_body = Change,
    responses(
        (status = 200, description = "The conversation as it is now", body = ConversationBody),
        (status = 412, description = "It has changed since it had the `etag` in `if-match`", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn update(
    app: App,
    Id(id): Id,
    seen: Seen,
    Body(change): Body<Change>,
) -> Result<Whole, Problem> {
    let change = ConversationChange {
        title: change.title,
        metadata: change.metadata,
    };
    let is_meant = |stored: &Conversation| seen.admits(&etag(stored));
    let conversations = app.turns.conversations();
    match conversations.update(id, &change, is_meant).await {
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
async fn delete(app: App, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    let conversations = app.turns.conversations().by(caller.actor());
    conversations.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the messages of a conversation
#[utoipa::path(
    get, path = "/conversations/{id}/messages", tag = "conversations", operation_id = "list_messages",
    params(("id" = Uuid, Path), MessagePage),
    responses((status = 200, description = "One page", body = List<MessageBody>)),
)]
async fn messages(
    app: App,
    Id(id): Id,
    Query(page): Query<MessagePage>,
) -> Result<Json<List<MessageBody>>, Problem> {
    let filter = match page.branch {
        Branches::Chosen => MessageFilter::of(id),
        Branches::Others => MessageFilter::of(id).of_other_branches(),
    };
    let mut query = ListQuery::filtered(filter)
        .limit(limit(page.limit, MAX_LIMIT)?)
        .max_bytes(MAX_BYTES);
    if let MessageOrder::Asc = page.order {
        query = query.oldest_first();
    }
    if let Some(cursor) = page.cursor {
        query = query.after(cursor.map(|message| id.key(message)));
    }
    app.turns.conversations().get(id).await?;
    let page = app.storage.messages().list(&query).await?;
    Ok(Json(List::of(page)))
}
