//! Conversations and their messages, on the tables of the server.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use pyo3::{exceptions::PyValueError, prelude::*};
use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    Conversation, ConversationId, Error, ListQuery, Message, MessageId, Result, Storage, Stores,
    UnitOfWork,
    conversation::MessageFilter,
    storage::{Cursor, Entity},
    turn::TurnFilter,
};

use crate::{
    call::{Call, ToPython},
    convert::json_value,
    engine::LazyDatabase,
    error::to_python,
    runtime::Runtime,
};

/// How many messages a fork copies at once.
const AT_ONCE: u64 = 1000;
const BYTES_AT_ONCE: u64 = 4 << 20;

/// The conversations of one saver's database.
#[pyclass(module = "yai_agentkit._native", frozen)]
pub(crate) struct Conversations {
    runtime: &'static Runtime,
    database: Arc<LazyDatabase>,
}

/// id, thread_id, title, metadata as JSON, created_at, updated_at.
type ConversationOut = (
    String,
    String,
    Option<String>,
    Option<String>,
    String,
    String,
);

/// id, role, content, metadata as JSON, created_at.
type MessageOut = (String, String, String, Option<String>, String);

impl Conversations {
    pub(crate) fn new(runtime: &'static Runtime, database: Arc<LazyDatabase>) -> Self {
        Self { runtime, database }
    }

    fn call<T, F>(&self, work: impl FnOnce(Arc<LazyDatabase>) -> F) -> PyResult<Call>
    where
        T: ToPython + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.database.call(self.runtime, work)
    }
}

#[pymethods]
impl Conversations {
    fn create(
        &self,
        py: Python<'_>,
        title: Option<String>,
        metadata: Option<&str>,
        thread_id: Option<&str>,
    ) -> PyResult<Call> {
        let metadata = metadata
            .map(|text| json_value("metadata", text))
            .transpose();
        let metadata = metadata.map_err(|error| to_python(py, &error))?;
        let mut new = Conversation::new(title, metadata);
        if let Some(thread_id) = thread_id {
            let id = id::<ConversationId>("thread_id", thread_id)?;
            new = new.with_thread(id.0);
        }
        self.call(|database| async move {
            let conversations = database.get().await?.conversations();
            conversations.add(new).await.map(conversation_out)
        })
    }

    fn get(&self, conversation_id: &str) -> PyResult<Call> {
        let id = id::<ConversationId>("conversation_id", conversation_id)?;
        self.call(move |database| async move {
            let found = database.get().await?.conversations().get(&id).await?;
            Ok(found.map(conversation_out))
        })
    }

    /// The newest first, behind `after`, an id.
    fn list(&self, limit: u64, after: Option<&str>) -> PyResult<Call> {
        let after = after.map(|after| id::<ConversationId>("after", after));
        let after = after.transpose()?;
        self.call(move |database| async move {
            let mut query = ListQuery::<Conversation>::default().limit(limit);
            if let Some(after) = after {
                query = query.after(Cursor::Id(after));
            }
            let page = database.get().await?.conversations().list(&query).await?;
            Ok(page
                .items
                .into_iter()
                .map(conversation_out)
                .collect::<Vec<_>>())
        })
    }

    /// The oldest first, behind `after`, an id.
    fn messages(&self, conversation_id: &str, limit: u64, after: Option<&str>) -> PyResult<Call> {
        let conversation = id::<ConversationId>("conversation_id", conversation_id)?;
        let after = after.map(|after| id::<MessageId>("after", after));
        let after = after.transpose()?;
        self.call(move |database| async move {
            let filter = MessageFilter::of(conversation);
            let mut query = ListQuery::filtered(filter).oldest_first().limit(limit);
            if let Some(after) = after {
                query = query.after(Cursor::Id(conversation.key(after)));
            }
            let page = database.get().await?.messages().list(&query).await?;
            Ok(page.items.into_iter().map(message_out).collect::<Vec<_>>())
        })
    }

    /// A new conversation with copies of the thread and the messages.
    fn fork(&self, conversation_id: &str) -> PyResult<Call> {
        let source = id::<ConversationId>("conversation_id", conversation_id)?;
        self.call(move |database| async move {
            let unit = database.get().await?.begin().await?;
            let fork = fork(&*unit, source).await?;
            unit.commit().await?;
            Ok(conversation_out(fork))
        })
    }

    /// Deletes it with its thread, unless a turn runs in it.
    fn delete(&self, conversation_id: &str) -> PyResult<Call> {
        let id = id::<ConversationId>("conversation_id", conversation_id)?;
        self.call(move |database| async move {
            let database = database.get().await?;
            let running = ListQuery::filtered(TurnFilter::running().of(id));
            if let Some(turn) = database.turns().list(&running).await?.items.first() {
                return Err(Error::Conflict(yai_agentkit_core::Turn::conflict(
                    &turn.id(),
                )));
            }
            match database.retention().erase(id, None).await? {
                true => Ok(()),
                false => Err(Error::not_found("conversation", id)),
            }
        })
    }
}

async fn fork(unit: &dyn UnitOfWork, source: ConversationId) -> Result<Conversation> {
    let original = unit.conversations().get(&source).await?;
    let original = original.ok_or_else(|| Error::not_found("conversation", source))?;
    let mut metadata = match original.metadata.clone() {
        Some(Json::Object(metadata)) => metadata,
        _ => serde_json::Map::new(),
    };
    let forked_from = json!({"conversation_id": source.to_string()});
    metadata.insert("forked_from".to_owned(), forked_from);
    let new = Conversation::new(original.title.clone(), Some(metadata.into()));
    let new = new.with(|fork| fork.owner = original.owner.clone());
    let fork = unit.conversations().add(new).await?;
    let (from, to) = (original.thread_id(), fork.thread_id());
    unit.checkpointer().copy_thread(&from, &to).await?;
    let messages = unit.messages();
    let mut query = ListQuery::filtered(MessageFilter::of(source)).oldest_first();
    query = query.limit(AT_ONCE).max_bytes(BYTES_AT_ONCE);
    loop {
        let page = messages.list(&query).await?;
        let copies = page.items.into_iter().map(|mut message| {
            (message.id, message.conversation_id) = (MessageId::new(), fork.id);
            message
        });
        let copies: Vec<Message> = copies.collect();
        if !copies.is_empty() {
            messages.add_many(copies).await?;
        }
        match page.next {
            Some(next) => query = query.after(next),
            None => return Ok(fork),
        }
    }
}

fn id<T: std::str::FromStr>(field: &str, text: &str) -> PyResult<T> {
    let refused = |_| PyValueError::new_err(format!("{field}: must be a UUID, is '{text}'"));
    text.parse().map_err(refused)
}

fn conversation_out(conversation: Conversation) -> ConversationOut {
    (
        conversation.id.to_string(),
        conversation.checkpoint_thread_id.to_string(),
        conversation.title,
        conversation.metadata.map(|metadata| metadata.to_string()),
        time(conversation.created_at),
        time(conversation.updated_at),
    )
}

fn message_out(message: Message) -> MessageOut {
    (
        message.id.to_string(),
        message.role.to_string(),
        message.content,
        message.metadata.map(|metadata| metadata.to_string()),
        time(message.created_at),
    )
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, false)
}
