use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use yai_agentkit_core::{CheckpointId, Message, MessageId, Role, conversation::Part, turn::Place};

use super::{
    App,
    agui::Event,
    caller::Caller,
    conversation::ConversationBody,
    event::{self, LastEventId},
    extract::{Body, Id, Key, MessagePath},
    problem::{Problem, ProblemBody},
    turn::TurnBody,
};
use yai_agentkit_engine::{
    ClientInput, ClientTool, ForkPoint, OnBusy, RequestKey, SendOptions, TurnError, TurnHandle,
    TurnOutcome,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(send))
        .routes(routes!(regenerate))
        .routes(routes!(choose))
        .routes(routes!(fork))
        .routes(routes!(redact))
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageBody {
    /// Orders the messages of a conversation.
    id: Uuid,
    conversation_id: Uuid,
    /// `user`, `assistant`, `system`, `tool` or any other.
    #[schema(example = "assistant")]
    role: String,
    #[schema(example = "Your name is Ada.")]
    content: String,
    /// All of it, where there is more than text: text, reasoning, images, files, tool calls and
    /// their results.
    #[schema(value_type = Vec<Object>)]
    parts: Vec<Part>,
    /// The message before it. Messages with the same one are siblings: edited ones, and answers that
    /// were given anew.
    parent_id: Option<Uuid>,
    /// Whether it is on the branch that is chosen.
    is_chosen: bool,
    /// What the application keeps with it: any JSON.
    metadata: Option<Value>,
    created_at: DateTime<Utc>,
}

impl From<Message> for MessageBody {
    fn from(message: Message) -> Self {
        Self {
            id: message.id.0,
            conversation_id: message.conversation_id.0,
            role: message.role.into(),
            content: message.content,
            parts: message.parts,
            parent_id: message.parent_id.map(|id| id.0),
            is_chosen: message.is_chosen,
            metadata: message.metadata,
            created_at: message.created_at,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    // An absent content is refused as an empty one is, by name.
    #[serde(default)]
    #[schema(required, min_length = 1, example = "What is my name?")]
    content: String,
    /// In place of `content`, where there is more than text: `{"type": "text", "text"}`,
    /// `{"type": "image", "source"}` and `{"type": "file", "name", "source"}`, with a source
    /// `{"type": "url", "url"}` or `{"type": "data", "data", "media_type"}` in base64.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    parts: Vec<Part>,
    /// The message in whose place it stands: that is edited, and this begins a branch of its own.
    #[schema(value_type = Option<Uuid>)]
    replaces: Option<MessageId>,
    #[serde(default)]
    #[schema(inline)]
    role: Speaker,
    /// What the application keeps with it: any JSON.
    metadata: Option<Value>,
    /// What the client can do for the agent: where it is asked to, the turn waits for the results.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    tools: Vec<ClientTool>,
    /// What becomes of it where the chat is busy; the server's setting, unless given.
    #[schema(inline)]
    on_busy: Option<WhenBusy>,
}

/// Where the chat is busy: refuse the message, store it and answer it after those before it, cancel
/// those, or cancel them and take their place, so that they are on another branch.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum WhenBusy {
    Reject,
    Enqueue,
    Interrupt,
    Rollback,
}

impl From<WhenBusy> for OnBusy {
    fn from(when: WhenBusy) -> Self {
        match when {
            WhenBusy::Reject => Self::Reject,
            WhenBusy::Enqueue => Self::Enqueue,
            WhenBusy::Interrupt => Self::Interrupt,
            WhenBusy::Rollback => Self::Rollback,
        }
    }
}

/// Who speaks: the agent answers a `user` and heeds a `system` message from then on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    #[default]
    User,
    System,
}

/// What a turn comes to for now.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Box<MessageBody>),
    /// It waits for a person.
    Waits(Box<TurnBody>),
}

impl Reply {
    /// Waits for what the turn comes to.
    pub(super) async fn of(turn: TurnHandle) -> Result<Self, TurnError> {
        Ok(match turn.outcome().await? {
            TurnOutcome::Answered(answer) => Self::Answer(Box::new(answer.into())),
            TurnOutcome::Waiting(turn) => Self::Waits(Box::new((*turn).into())),
        })
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Self::Answer(message) => Json(message).into_response(),
            Self::Waits(turn) => (StatusCode::ACCEPTED, Json(turn)).into_response(),
        }
    }
}

/// From where; without ids, from now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewFork {
    /// After this checkpoint of the history.
    #[schema(value_type = Option<String>)]
    checkpoint_id: Option<CheckpointId>,
    /// After this message; of a user's message, before the agent did anything about it. With
    /// `checkpoint_id` it must be the last message that the checkpoint knows.
    #[schema(value_type = Option<Uuid>)]
    message_id: Option<MessageId>,
}

/// Send a message and get the agent's answer
///
/// A `user` message starts a turn: the response is the final answer. A turn that was cut short
/// before is finished first. The turn goes on although the client disconnects; its answer is then
/// among the messages of the conversation. A `system` message is only stored, for the agent to
/// heed: the response is the message itself.
///
/// With an `Idempotency-Key`, a repetition of the request gets the answer of the first, also from
/// another server, and while the first still runs.
///
/// With `Accept: text/event-stream` the response to a `user` message is the events of the turn, as
/// `GET /chats/{chat_id}/turns/{turn_id}/events` gives them; `runId` in the first is the turn.
#[utoipa::path(
    post, path = "/chats/{chat_id}/messages", tag = "chats", operation_id = "send_message",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("idempotency-key" = Option<String>, Header, description = "Makes a repetition safe"),
        ("last-event-id" = Option<String>, Header, description = "Of a repetition: only the events behind it"),
    ),
    request_body = NewMessage,
    responses(
        (status = 200, description = "The answer, or the events", content(
            (MessageBody = "application/json"), (Event = "text/event-stream"),
        )),
        (status = 202, description = "The turn waits for a person", body = TurnBody),
        (status = 409, description = "A turn is running, or this one was cancelled", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 422, description = "The key was used with another request", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 429, description = "Too many messages wait in the chat", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 502, description = "The agent failed; the message is stored", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn send(
    app: App,
    Id(chat_id): Id,
    Key(key): Key,
    LastEventId(after): LastEventId,
    headers: HeaderMap,
    Body(new): Body<NewMessage>,
) -> Result<Response, Problem> {
    let role = match new.role {
        Speaker::User => Role::User,
        Speaker::System => Role::System,
    };
    let mut message = match new.parts.is_empty() {
        true => Message::new(chat_id, role, new.content),
        false if new.content.is_empty() => Message::of_parts(chat_id, role, new.parts),
        false => return Err(Problem::invalid("parts", "stands in place of `content`")),
    };
    message.metadata = new.metadata;
    let has_key = key.is_some();
    let said = json!([
        message.role,
        message.content,
        message.metadata,
        message.parts,
        new.replaces
    ]);
    let options = SendOptions {
        on_busy: new.on_busy.map(OnBusy::from),
        key: key.map(|key| RequestKey {
            key,
            request: said.to_string().into_bytes(),
        }),
        client: ClientInput {
            tools: new.tools,
            ..ClientInput::default()
        },
        place: match new.replaces {
            Some(replaced) => app.turns.beside(chat_id, replaced).await?,
            None => Place::Last,
        },
    };
    let failed = |error| Problem::from(error).repeatable(has_key);
    if message.role == Role::System {
        let stored = app.turns.instruct(message, options).await;
        return Ok(Reply::Answer(Box::new(stored.map_err(failed)?.into())).into_response());
    }
    let turn = app.turns.start(message, options).await.map_err(failed)?;
    if event::wants_events(&headers) {
        let turn = app.turns.turn(chat_id, turn.turn_id()).await?;
        return event::watch(&app, &turn, after).await;
    }
    let reply = Reply::of(turn).await;
    Ok(reply.map_err(failed)?.into_response())
}

/// A message of a chat.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MessageRef {
    #[schema(value_type = Uuid)]
    message_id: MessageId,
}

/// Answer a message of a user anew
///
/// `message_id` names it, or an answer to it. The new answer stands beside the first one, on a branch
/// of its own, which is chosen from now on. The response is that of a message.
#[utoipa::path(
    post, path = "/chats/{chat_id}/regenerate", tag = "chats", operation_id = "regenerate",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("idempotency-key" = Option<String>, Header, description = "Makes a repetition safe"),
    ),
    request_body = MessageRef,
    responses(
        (status = 200, description = "The answer, or the events", content(
            (MessageBody = "application/json"), (Event = "text/event-stream"),
        )),
        (status = 202, description = "The turn waits for a person", body = TurnBody),
        (status = 409, description = "A turn is running, or this one was cancelled", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 422, description = "The key was used with another request", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 502, description = "The agent failed", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn regenerate(
    app: App,
    Id(chat_id): Id,
    Key(key): Key,
    headers: HeaderMap,
    Body(again): Body<MessageRef>,
) -> Result<Response, Problem> {
    let has_key = key.is_some();
    let options = SendOptions {
        key: key.map(|key| RequestKey {
            key,
            request: json!(["again", again.message_id]).to_string().into_bytes(),
        }),
        ..SendOptions::default()
    };
    let failed = |error| Problem::from(error).repeatable(has_key);
    let turn = app.turns.regenerate(chat_id, again.message_id, options);
    let turn = turn.await.map_err(failed)?;
    if event::wants_events(&headers) {
        let turn = app.turns.turn(chat_id, turn.turn_id()).await?;
        return event::watch(&app, &turn, None).await;
    }
    Ok(Reply::of(turn).await.map_err(failed)?.into_response())
}

/// Choose a branch of a chat: the one that a message is on
///
/// Up to its newest message. Lists, the agent, forks and streams go on from there.
#[utoipa::path(
    put, path = "/chats/{chat_id}/branch", tag = "chats", operation_id = "choose_branch",
    params(("chat_id" = Uuid, Path, description = "The id of the conversation")),
    request_body = MessageRef,
    responses(
        (status = 204, description = "It is chosen"),
        (status = 409, description = "A turn is running", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn choose(
    app: App,
    Id(chat_id): Id,
    Body(on): Body<MessageRef>,
) -> Result<StatusCode, Problem> {
    app.turns.choose(chat_id, on.message_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Fork a chat: a new conversation from a point in its past
///
/// The new conversation has the messages up to there, under new ids, and one checkpoint with what
/// the agent knew then. `forked_from` in its metadata names where it comes from. Nothing changes in
/// this chat, and no turn is taken along.
#[utoipa::path(
    post, path = "/chats/{chat_id}/fork", tag = "chats", operation_id = "fork_chat",
    params(("chat_id" = Uuid, Path, description = "The id of the conversation")),
    request_body = NewFork,
    responses((status = 200, description = "The new conversation", body = ConversationBody)),
)]
async fn fork(
    app: App,
    Id(chat_id): Id,
    Body(new): Body<NewFork>,
) -> Result<Json<ConversationBody>, Problem> {
    let point = ForkPoint {
        checkpoint_id: new.checkpoint_id,
        message_id: new.message_id,
    };
    let fork = app.turns.conversations().fork(chat_id, &point).await?;
    Ok(Json(fork.into()))
}

/// Redact a message
///
/// What it said is taken out of all that its chat has: the message, states of every checkpoint, what
/// tools have recorded, events, and the search. The rest stays as it is. Text of 12 bytes or more goes
/// also where somebody quotes it; shorter text only where it is all that was said. Forks are chats of
/// their own.
#[utoipa::path(
    post, path = "/chats/{chat_id}/messages/{message_id}/redact", tag = "chats",
    operation_id = "redact_message",
    params(("chat_id" = Uuid, Path), ("message_id" = Uuid, Path)),
    responses(
        (status = 200, description = "The message as it is now", body = MessageBody),
        (status = 409, description = "A turn is running", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn redact(app: App, caller: Caller, path: MessagePath) -> Result<Json<MessageBody>, Problem> {
    let conversations = app.turns.conversations().by(caller.actor());
    let redacted = conversations.redact(path.chat_id, path.message_id).await?;
    Ok(Json(redacted.into()))
}
