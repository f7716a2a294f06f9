use axum::{
    Json,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use yai_agentkit_core::{
    ListQuery, Turn, TurnId, TurnStatus,
    storage::Cursor,
    turn::{Interrupt, InterruptId, TurnFilter},
};

use super::{
    App,
    agui::Event,
    chat::{MessageBody, Reply},
    event::{self, EventId, LastEventId},
    extract::{Body, Id, Query, TurnPath},
    page::{List, MAX_LIMIT, limit},
    problem::{Problem, ProblemBody},
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(cancel))
        .routes(routes!(resume))
}

/// A turn: a user message that the agent answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Turn)]
pub(crate) struct TurnBody {
    id: Uuid,
    conversation_id: Uuid,
    user_message_id: Uuid,
    /// The answer, once it is stored.
    assistant_message_id: Option<Uuid>,
    /// `queued`, `running`, `waiting`, `completed`, `failed` or `cancelled`.
    #[schema(example = "completed")]
    status: &'static str,
    /// Why it failed.
    error: Option<String>,
    /// What it asks a person while it is waiting.
    interrupt: Option<InterruptBody>,
    /// How often a server has begun to work on it.
    attempt: u32,
    created_at: DateTime<Utc>,
    /// Moves at every change of the turn.
    updated_at: DateTime<Utc>,
}

/// A question to a person.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Interrupt)]
struct InterruptBody {
    /// An answer names it.
    id: Uuid,
    /// The tool call that asks.
    tool_call_id: String,
    question: String,
    /// The tool calls that are waited for, where it is the client that is to run them: there is no
    /// question then.
    client_calls: Vec<String>,
    /// The call that runs only once it is approved of: the answer is `approve`, `reject: REASON`, or
    /// JSON as `{"approved": true, "arguments": {…}}` and `{"approved": false, "reason": "…"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    proposed: Option<ProposedCallBody>,
}

/// A tool call that waits for approval.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProposedCall)]
struct ProposedCallBody {
    name: String,
    #[schema(value_type = Object)]
    arguments: Value,
}

impl From<Interrupt> for InterruptBody {
    fn from(asked: Interrupt) -> Self {
        Self {
            id: asked.id.0,
            tool_call_id: asked.tool_call_id,
            question: asked.question,
            client_calls: asked.client_calls,
            proposed: asked.proposed.map(|call| ProposedCallBody {
                name: call.name,
                arguments: call.arguments,
            }),
        }
    }
}

impl From<Turn> for TurnBody {
    fn from(turn: Turn) -> Self {
        Self {
            id: turn.id.0,
            conversation_id: turn.conversation_id.0,
            user_message_id: turn.user_message_id.0,
            assistant_message_id: turn
                .assistant_message_id
                .filter(|_| turn.status == TurnStatus::Completed)
                .map(|id| id.0),
            status: turn.status.as_str(),
            error: turn.error,
            interrupt: turn.interrupt.map(Into::into),
            attempt: turn.attempt,
            created_at: turn.created_at,
            updated_at: turn.updated_at,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TurnPage {
    /// How many at most.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u64,
    /// The `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor<TurnId>>,
}

fn default_limit() -> u64 {
    100
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// The `id` of the turn's `interrupt`.
    #[schema(value_type = Uuid)]
    interrupt_id: InterruptId,
    #[schema(example = "yes")]
    answer: String,
}

/// List the turns of a chat, newest first
#[utoipa::path(
    get, path = "/chats/{chat_id}/turns", tag = "chats", operation_id = "list_turns",
    params(("chat_id" = Uuid, Path, description = "The id of the conversation"), TurnPage),
    responses((status = 200, description = "One page", body = List<TurnBody>)),
)]
async fn list(
    app: App,
    Id(chat_id): Id,
    Query(page): Query<TurnPage>,
) -> Result<Json<List<TurnBody>>, Problem> {
    let mut query =
        ListQuery::filtered(TurnFilter::default().of(chat_id)).limit(limit(page.limit, MAX_LIMIT)?);
    if let Some(cursor) = page.cursor {
        query = query.after(cursor.map(|turn| chat_id.key(turn)));
    }
    app.turns.conversations().get(chat_id).await?;
    let page = app.storage.turns().list(&query).await?;
    Ok(Json(List::of(page)))
}

/// Get a turn
#[utoipa::path(
    get, path = "/chats/{chat_id}/turns/{turn_id}", tag = "chats", operation_id = "get_turn",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("turn_id" = Uuid, Path),
    ),
    responses((status = 200, description = "The turn", body = TurnBody)),
)]
async fn get(app: App, path: TurnPath) -> Result<Json<TurnBody>, Problem> {
    let turn = app.turns.turn(path.chat_id, path.turn_id).await?;
    Ok(Json(turn.into()))
}

/// End a turn without an answer
///
/// One that runs, on whichever server, stops at its next checkpoint. What its tools have done stays
/// done.
#[utoipa::path(
    post, path = "/chats/{chat_id}/turns/{turn_id}/cancel", tag = "chats",
    operation_id = "cancel_turn",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("turn_id" = Uuid, Path),
    ),
    responses(
        (status = 200, description = "The turn, cancelled", body = TurnBody),
        (status = 409, description = "The turn has ended", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn cancel(app: App, path: TurnPath) -> Result<Json<TurnBody>, Problem> {
    let turn = app.turns.cancel(path.chat_id, path.turn_id).await?;
    Ok(Json(turn.into()))
}

/// Answer the question of a waiting turn, and get the agent's answer
///
/// At any time, on any server. The response is that of the message which began the turn; with
/// `Accept: text/event-stream`, the events of the turn from here on.
#[utoipa::path(
    post, path = "/chats/{chat_id}/turns/{turn_id}/resume", tag = "chats",
    operation_id = "resume_turn",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("turn_id" = Uuid, Path),
        ("last-event-id" = Option<String>, Header, description = "Also the events of before that are behind it"),
    ),
    request_body = Answer,
    responses(
        (status = 200, description = "The answer, or the events", content(
            (MessageBody = "application/json"), (Event = "text/event-stream"),
        )),
        (status = 202, description = "The turn asks again", body = TurnBody),
        (status = 409, description = "It does not ask this, or not any more", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 502, description = "The agent failed", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn resume(
    app: App,
    path: TurnPath,
    LastEventId(after): LastEventId,
    headers: HeaderMap,
    Body(new): Body<Answer>,
) -> Result<Response, Problem> {
    let (chat, turn, interrupt) = (path.chat_id, path.turn_id, new.interrupt_id);
    let handle = app.turns.resume(chat, turn, interrupt, new.answer).await?;
    if event::wants_events(&headers) {
        let after = after.unwrap_or(EventId::behind(handle.after()));
        let turn = app.turns.turn(chat, turn).await?;
        return event::watch(&app, &turn, Some(after)).await;
    }
    Ok(Reply::of(handle).await?.into_response())
}
