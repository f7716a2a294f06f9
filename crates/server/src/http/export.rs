//! A conversation as a document.

use std::{collections::VecDeque, fmt::Write, mem, sync::Arc};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{
    Conversation, ListQuery, Message, MessageId, Result as StorageResult, Storage,
    audit::Action,
    conversation::{MessageFilter, MessageForm, Part, Source},
};
use yai_agentkit_engine::error_chain;

use super::{
    App,
    caller::Caller,
    extract::{Id, Query},
    import::HistoryMessage,
    page::{MAX_BYTES, MAX_LIMIT},
    problem::Problem,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(export))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// What `POST /conversations` takes, what people read, or the messages of the chosen branch as
    /// those of OpenAI's chat completions, or as LangChain's `messages_from_dict` reads them.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Markdown,
    OpenAi,
    LangChain,
}

/// A conversation with all its messages.
#[derive(ToSchema)]
#[schema(as = Export)]
#[expect(dead_code, reason = "it is written a message at a time")]
struct ExportBody {
    title: Option<String>,
    /// What the application keeps with it: any JSON.
    metadata: Option<Value>,
    /// In the order in which they were stored, those of all branches.
    messages: Vec<HistoryMessage>,
}

/// Export a chat
///
/// Its title and metadata, and the messages of all branches. As JSON it is what `POST /conversations`
/// takes to make an equal one.
#[utoipa::path(
    get, path = "/chats/{chat_id}/export", tag = "chats", operation_id = "export_chat",
    params(("chat_id" = Uuid, Path, description = "The id of the conversation"), Wanted),
    responses((status = 200, description = "The document", content(
        (ExportBody = "application/json"), (String = "text/markdown"),
    ))),
)]
async fn export(
    app: App,
    caller: Caller,
    Id(chat_id): Id,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let conversation = app.turns.conversations().get(chat_id).await?;
    let act = caller.actor().does(Action::Exported, chat_id);
    app.storage.audit().record(&act).await?;
    let (media_type, head, end) = match wanted.format {
        Format::Json => ("application/json", json_head(&conversation), "]}"),
        Format::Markdown => (
            "text/markdown; charset=utf-8",
            markdown_head(&conversation),
            "",
        ),
        Format::OpenAi | Format::LangChain => {
            ("application/json", "{\"messages\":[".to_owned(), "]}")
        }
    };
    let mut is_first = true;
    let messages = Pages::of(Arc::clone(&app.storage), &conversation).stream();
    let messages = messages.map(move |message| {
        message.map(|message| match wanted.format {
            Format::Markdown => markdown(&message),
            Format::Json => lines(&mut is_first, [json!(HistoryMessage::from(message))]),
            _ if !message.is_chosen => String::new(),
            Format::OpenAi => lines(&mut is_first, MessageForm::OpenAi.write(&message)),
            Format::LangChain => lines(&mut is_first, MessageForm::LangChain.write(&message)),
        })
    });
    let head = stream::iter([StorageResult::Ok(head)]);
    let end = stream::iter([StorageResult::Ok(end.to_owned())]);
    let body = Body::from_stream(head.chain(messages).chain(end));
    Ok(([(header::CONTENT_TYPE, media_type)], body).into_response())
}

/// Values of a list, each on a line.
fn lines(is_first: &mut bool, values: impl IntoIterator<Item = Value>) -> String {
    let line = |value| {
        let comma = if mem::take(is_first) { "" } else { "," };
        format!("{comma}\n{value}")
    };
    values.into_iter().map(line).collect()
}

/// The messages of a conversation, of which one page is read at a time.
struct Pages {
    storage: Arc<dyn Storage>,
    /// The next page.
    query: Option<ListQuery<Message>>,
    read: VecDeque<Message>,
    /// The last chosen one: who does not name the one before it stands behind that.
    before: Option<MessageId>,
}

impl Pages {
    fn of(storage: Arc<dyn Storage>, conversation: &Conversation) -> Self {
        let all = MessageFilter::of(conversation.id).of_all_branches();
        let query = ListQuery::filtered(all).oldest_first();
        Self {
            storage,
            query: Some(query.limit(MAX_LIMIT).max_bytes(MAX_BYTES)),
            read: VecDeque::new(),
            before: None,
        }
    }

    fn stream(self) -> impl Stream<Item = StorageResult<Message>> + Send + 'static {
        stream::unfold(self, |mut pages: Self| async move {
            let message = pages.next().await.transpose()?;
            if let Err(error) = &message {
                // The client sees that the document has no end.
                tracing::error!(error = error_chain(error), "an export was cut short");
            }
            Some((message, pages))
        })
    }

    async fn next(&mut self) -> StorageResult<Option<Message>> {
        while self.read.is_empty() {
            let Some(query) = self.query.take() else {
                return Ok(None);
            };
            let page = self.storage.messages().list(&query).await?;
            self.read = page.items.into();
            self.query = page.next.map(|next| query.after(next));
        }
        let mut message = self.read.pop_front();
        if let Some(message) = message.as_mut().filter(|message| message.is_chosen) {
            message.parent_id = message.parent_id.or(self.before);
            self.before = Some(message.id);
        }
        Ok(message)
    }
}

fn json_head(conversation: &Conversation) -> String {
    let (title, metadata) = (json!(conversation.title), json!(conversation.metadata));
    format!("{{\"title\":{title},\"metadata\":{metadata},\"messages\":[")
}

fn markdown_head(conversation: &Conversation) -> String {
    let title = conversation.title.as_deref().unwrap_or("Conversation");
    format!("# {}\n", title.replace('\n', " "))
}

fn markdown(message: &Message) -> String {
    let (role, at) = (
        &message.role,
        message.created_at.format("%Y-%m-%d %H:%M:%S UTC"),
    );
    let mut text = format!("\n## {role} · {at}\n");
    if !message.is_chosen {
        let behind = message.parent_id.map(|parent| format!(", behind {parent}"));
        let behind = behind.unwrap_or_default();
        let _ = writeln!(text, "\n*{}, on another branch{behind}*", message.id);
    }
    for part in message.to_parts() {
        let _ = match part {
            Part::Text { text: words } => writeln!(text, "\n{words}"),
            Part::Reasoning { text: words } => {
                let quoted = words.replace('\n', "\n> ");
                writeln!(text, "\n> {quoted}")
            }
            Part::Image { source } => writeln!(text, "\n![image]({})", place(&source)),
            Part::File { name, source } => {
                let name = name.as_deref().unwrap_or("file");
                writeln!(text, "\n[{name}]({})", place(&source))
            }
            Part::ToolCall {
                id,
                name,
                arguments,
            } => writeln!(
                text,
                "\nCall `{id}` of `{name}`:\n{}",
                fenced(&format!("{arguments:#}"))
            ),
            Part::ToolResult {
                call_id,
                content,
                is_error,
            } => {
                let what = if is_error { "Error" } else { "Result" };
                writeln!(text, "\n{what} of call `{call_id}`:\n{}", fenced(&content))
            }
            _ => Ok(()),
        };
    }
    text
}

/// As a block of code, whatever it holds.
fn fenced(text: &str) -> String {
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("\n{fence}\n{text}\n{fence}")
}

fn place(source: &Source) -> String {
    match source {
        Source::Url { url, .. } => url.clone(),
        Source::Data { data, media_type } => format!("data:{media_type};base64,{data}"),
        Source::Provider { file, .. } => file.clone(),
        _ => String::new(),
    }
}
