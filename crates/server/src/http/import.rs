//! Histories that come from elsewhere, and go there.

use axum::Json;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{
    ConversationId, Entity, Message, MessageId, Role,
    audit::Action,
    conversation::{MessageForm, Part},
};
use yai_agentkit_engine::{Imported, Parent, RequestKey};

use super::{
    App,
    caller::Caller,
    conversation::present,
    extract::{Body, Id, Key, Query},
    problem::{Problem, ProblemBody},
};

/// The most messages of one request.
const MAX_MESSAGES: usize = 10_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(import))
}

/// A message of a history, as an export has it and an import takes it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryMessage {
    /// A new one, unless given.
    #[schema(value_type = Option<Uuid>)]
    #[serde(default)]
    pub(super) id: Option<MessageId>,
    /// The message that it stands behind, null where that is none; unless given, the one before it.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Uuid>)]
    pub(super) parent_id: Option<Option<MessageId>>,
    /// `user`, `assistant`, `system`, `tool` or any other.
    #[schema(value_type = String, example = "assistant")]
    pub(super) role: Role,
    /// The words; unless given, those of the parts.
    #[serde(default)]
    pub(super) content: Option<String>,
    /// All of it, where there is more than text: text, reasoning, images, files, tool calls and
    /// their results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub(super) parts: Vec<Part>,
    /// Whether it may be the end of the branch that is chosen: the last such message is.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub(super) is_chosen: bool,
    /// What the application keeps with it: any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<Value>,
    /// Now, unless given.
    #[serde(default)]
    pub(super) created_at: Option<DateTime<Utc>>,
}

fn yes() -> bool {
    true
}

impl From<Message> for HistoryMessage {
    fn from(message: Message) -> Self {
        Self {
            id: Some(message.id),
            parent_id: Some(message.parent_id),
            role: message.role,
            content: Some(message.content),
            parts: message.parts,
            is_chosen: message.is_chosen,
            metadata: message.metadata,
            created_at: Some(message.created_at),
        }
    }
}

/// The history as the engine takes it. The conversation may be one that does not exist yet.
pub(super) fn imported(
    conversation: ConversationId,
    messages: Vec<HistoryMessage>,
) -> Result<Vec<Imported>, Problem> {
    if messages.len() > MAX_MESSAGES {
        let reason =
            format!("must be at most {MAX_MESSAGES}: send the others with the next request");
        return Err(Problem::invalid("messages", reason));
    }
    let messages = messages.into_iter().enumerate();
    let imported = messages.map(|(place, given)| {
        let mut message = match given.content {
            Some(content) => Message::new(conversation, given.role, content)
                .with(|message| message.parts = given.parts),
            None if !given.parts.is_empty() => {
                Message::of_parts(conversation, given.role, given.parts)
            }
            None => {
                let field = format!("messages[{place}].content");
                return Err(Problem::invalid(field, "must be there, or `parts`"));
            }
        };
        message.id = given.id.unwrap_or(message.id);
        message.is_chosen = given.is_chosen;
        message.metadata = given.metadata;
        message.created_at = given.created_at.unwrap_or(message.created_at);
        Ok(Imported {
            message,
            parent: given.parent_id.map_or(Parent::Before, Parent::Named),
        })
    });
    imported.collect()
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = History)]
#[serde(deny_unknown_fields)]
struct NewHistory {
    #[schema(min_items = 1, max_items = 10_000, value_type = Vec<HistoryMessage>)]
    messages: Vec<Value>,
}

/// How the messages are written.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// As an export has them.
    #[default]
    Json,
    /// As the messages of OpenAI's chat completions.
    OpenAi,
    /// As LangChain's `messages_to_dict` writes them, or its messages dump themselves.
    LangChain,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Written {
    /// How the messages are written: as an export has them, as those of OpenAI's chat completions,
    /// or as LangChain's `messages_to_dict` does it.
    #[serde(default)]
    #[param(inline)]
    format: Form,
}

impl Form {
    fn read(&self, place: usize, message: &Value) -> Result<HistoryMessage, Problem> {
        let field = format!("messages[{place}]");
        let form = match self {
            Self::Json => {
                let read = HistoryMessage::deserialize(message);
                return read.map_err(|error| Problem::invalid(field, error));
            }
            Self::OpenAi => MessageForm::OpenAi,
            Self::LangChain => MessageForm::LangChain,
        };
        let (role, parts) = form
            .read(message)
            .map_err(|reason| Problem::invalid(field, reason))?;
        Ok(HistoryMessage {
            id: None,
            parent_id: None,
            role,
            content: None,
            parts,
            is_chosen: true,
            metadata: None,
            created_at: None,
        })
    }
}

/// What was imported.
#[derive(Debug, Serialize, ToSchema)]
struct ImportedBody {
    /// The last message of the history.
    #[schema(value_type = Uuid)]
    last_message_id: MessageId,
}

/// Import messages into a chat
///
/// All of them or none, as they were said elsewhere: those of the agent and of its tools too.
/// Nothing is answered. The agent goes on from the branch that ends with the last message that does
/// not say `"is_chosen": false`; each message may name the one that it stands behind, before it in the
/// history or in the chat.
#[utoipa::path(
    post, path = "/chats/{chat_id}/messages:import", tag = "chats", operation_id = "import_messages",
    params(
        ("chat_id" = Uuid, Path, description = "The id of the conversation"),
        ("idempotency-key" = Option<String>, Header, description = "Makes a repetition safe"),
        Written,
    ),
    request_body = NewHistory,
    responses(
        (status = 200, description = "They are stored, by this request or the first with the key", body = ImportedBody),
        (status = 409, description = "A turn has not ended, or an id is taken", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
        (status = 422, description = "The key was used with another request", body = ProblemBody, content_type = Problem::CONTENT_TYPE),
    ),
)]
async fn import(
    app: App,
    caller: Caller,
    Id(chat_id): Id,
    Key(key): Key,
    Query(written): Query<Written>,
    Body(history): Body<NewHistory>,
) -> Result<Json<ImportedBody>, Problem> {
    let has_key = key.is_some();
    let messages = history.messages.iter().enumerate();
    let messages = messages.map(|(place, message)| written.format.read(place, message));
    let messages: Vec<_> = messages.collect::<Result<_, _>>()?;
    let key = key.map(|key| RequestKey {
        key,
        request: json!(["import", messages]).to_string().into_bytes(),
    });
    let history = imported(chat_id, messages)?;
    let told = caller.actor().does(Action::Imported, chat_id);
    let told = Some(told.counting(history.len() as u64));
    let last_message_id = app.turns.import(chat_id, history, key, told).await;
    let last_message_id =
        last_message_id.map_err(|error| Problem::from(error).repeatable(has_key))?;
    Ok(Json(ImportedBody { last_message_id }))
}
