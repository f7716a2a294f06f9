//! Time travel: a new conversation from a point in the past of another.

use serde_json::{Map, Value as Json, json};
use yai_agentkit_core::{
    CheckpointId, CheckpointQuery, CheckpointSelector, CheckpointTuple, Checkpointer, Conversation,
    ConversationId, Entity, Error, ListQuery, Message, MessageId, Namespace, Result, Role,
    ThreadState, UnitOfWork,
    checkpoint::{CheckpointMetadata, CheckpointSource, Values},
    conversation::MessageFilter,
};

use super::{
    Conversations, MESSAGE_ID,
    branch::{BYTES_AT_ONCE, MESSAGES_AT_ONCE, last_message, path_to},
};
use crate::{
    agent::AgentState,
    chat::{STATE_VERSION, state_version},
};

/// The point from which a conversation is forked; the default is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForkPoint {
    /// After this checkpoint: what its agent knew, and the messages that it knew.
    pub checkpoint_id: Option<CheckpointId>,
    /// After this message. Of a user's message, before the agent did anything about it.
    pub message_id: Option<MessageId>,
}

impl Conversations {
    /// Makes a new conversation of `source` as it was at `point`, in one transaction.
    ///
    /// It has its own thread with one checkpoint, which holds the agent's state, and copies of the
    /// messages up to there under new ids. The title stays, and metadata that are an object; their
    /// field `forked_from` names the conversation, the checkpoint and the message. A turn that was
    /// under way at `point` is not taken along: the message stands there without an answer.
    ///
    /// What `point` names must be of this conversation, else it is [`Error::NotFound`], as is a message
    /// at which the thread has no checkpoint (any more). Two ids of which the message is not the last
    /// that the checkpoint knows are [`Error::InvalidInput`].
    pub async fn fork(&self, source: ConversationId, point: &ForkPoint) -> Result<Conversation> {
        let unit = self.storage.begin().await?;
        let found = unit.conversations().get(&source).await?;
        let original = found.ok_or_else(|| Error::not_found("conversation", source))?;
        let (checkpoint, last_message) = locate(&*unit, &original, point).await?;

        let mut fork = Conversation::with_id(ConversationId::new(), self.clock.now());
        fork.owner = original.owner.clone();
        fork.title = original.title.clone();
        let mut forked_from = Map::from_iter([("conversation_id".to_owned(), json!(source))]);
        if let Some(checkpoint) = &checkpoint {
            forked_from.insert("checkpoint_id".to_owned(), json!(checkpoint.as_str()));
        }
        if let Some(message) = last_message {
            forked_from.insert("message_id".to_owned(), json!(message));
        }
        let mut metadata = match original.metadata.clone() {
            Some(Json::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        metadata.insert("forked_from".to_owned(), forked_from.into());
        fork.metadata = Some(metadata.into());
        let fork = unit.conversations().add(fork).await?;

        let last_copy = copy_messages(&*unit, source, fork.id, last_message).await?;
        if let Some(checkpoint) = checkpoint {
            copy_state(&*unit, &original, &fork, checkpoint, last_copy).await?;
        }
        // Deleted meanwhile, it may have been read in part.
        if !unit.conversations().exists(&source).await? {
            return Err(Error::not_found("conversation", source));
        }
        unit.commit().await?;
        Ok(fork)
    }
}

/// The checkpoint to copy, and the last message: `None` where there is no checkpoint yet, and where
/// every message is to be copied.
async fn locate(
    unit: &dyn UnitOfWork,
    conversation: &Conversation,
    point: &ForkPoint,
) -> Result<(Option<CheckpointId>, Option<MessageId>)> {
    let checkpointer = unit.checkpointer();
    match (&point.checkpoint_id, point.message_id) {
        (None, Some(message_id)) => {
            let message = find_message(unit, conversation, message_id).await?;
            let tuple = checkpoint_at(&*checkpointer, conversation, &message).await?;
            Ok((Some(tuple.checkpoint.id), Some(message_id)))
        }
        (checkpoint_id, message_id) => {
            let selector = CheckpointSelector {
                checkpoint_id: checkpoint_id.clone(),
                ..CheckpointSelector::latest(conversation.thread_id())
            };
            let tuple = checkpointer.get(&selector).await?;
            let Some(tuple) = tuple else {
                return match checkpoint_id {
                    Some(id) => Err(Error::not_found("checkpoint", id)),
                    None => Ok((None, None)),
                };
            };
            let known = last_message(&tuple);
            if let Some(message_id) = message_id {
                find_message(unit, conversation, message_id).await?;
                if known.is_some_and(|known| known != message_id) {
                    let reason = "is not the last message that the checkpoint knows";
                    return Err(Error::invalid("message_id", reason));
                }
            } else if known.is_none() && checkpoint_id.is_some() {
                let reason = "was not made by a turn and names no message: give a message_id too";
                return Err(Error::invalid("checkpoint_id", reason));
            }
            Ok((Some(tuple.checkpoint.id), message_id.or(known)))
        }
    }
}

async fn find_message(
    unit: &dyn UnitOfWork,
    conversation: &Conversation,
    id: MessageId,
) -> Result<Message> {
    let message = unit.messages().get(&conversation.id.key(id)).await?;
    message.ok_or_else(|| Error::not_found("message", id))
}

/// The checkpoint with which `message` was stored.
async fn checkpoint_at(
    checkpointer: &dyn Checkpointer,
    conversation: &Conversation,
    message: &Message,
) -> Result<CheckpointTuple> {
    if let Some(id) = &message.checkpoint_id {
        let selector = CheckpointSelector {
            checkpoint_id: Some(id.clone()),
            values: Values::Nothing,
            ..CheckpointSelector::latest(conversation.thread_id())
        };
        if let Some(found) = checkpointer.get(&selector).await? {
            return Ok(found);
        }
    }
    let mut metadata = CheckpointMetadata::default().with(MESSAGE_ID, message.id.to_string());
    if message.role == Role::User {
        // The steps of its turn know it as their last message too.
        metadata = metadata.with("source", CheckpointSource::Input.as_str());
    }
    let query = CheckpointQuery {
        namespace: Some(Namespace::root()),
        metadata: metadata.0,
        limit: Some(1),
        ..CheckpointQuery::of(conversation.thread_id())
    };
    let found = checkpointer.list(&query).await?.into_iter().next();
    found.ok_or_else(|| Error::not_found("a checkpoint at message", message.id))
}

/// Copies the messages up to `last`, or all of the chosen branch, and returns the id of the last copy.
async fn copy_messages(
    unit: &dyn UnitOfWork,
    source: ConversationId,
    target: ConversationId,
    last: Option<MessageId>,
) -> Result<Option<MessageId>> {
    let messages = unit.messages();
    let mut last_copy = None;
    let mut copied = |message: Message| {
        let id = MessageId::new();
        let parent = last_copy.replace(id);
        message.with(|message| {
            message.id = id;
            message.conversation_id = target;
            message.parent_id = parent;
            message.is_chosen = true;
            message.checkpoint_id = None;
        })
    };
    if let Some(id) = last {
        let last = messages.get(&source.key(id)).await?;
        if let Some(last) = last.filter(|last| !last.is_chosen) {
            let path = path_to(&*messages, last).await?;
            let copies = path.into_iter().map(&mut copied).collect();
            messages.add_many(copies).await?;
            return Ok(last_copy);
        }
    }
    let mut query = ListQuery::filtered(MessageFilter::of(source))
        .oldest_first()
        .limit(MESSAGES_AT_ONCE)
        .max_bytes(BYTES_AT_ONCE);
    loop {
        let page = messages.list(&query).await?;
        let mut wanted = page.items;
        let end = wanted.iter().position(|message| Some(message.id) == last);
        wanted.truncate(end.map_or(wanted.len(), |end| end + 1));
        let copies: Vec<Message> = wanted.into_iter().map(&mut copied).collect();
        if !copies.is_empty() {
            messages.add_many(copies).await?;
        }
        match page.next {
            Some(next) if end.is_none() => query = query.after(next),
            _ => return Ok(last_copy),
        }
    }
}

async fn copy_state(
    unit: &dyn UnitOfWork,
    original: &Conversation,
    fork: &Conversation,
    checkpoint_id: CheckpointId,
    last_message: Option<MessageId>,
) -> Result<()> {
    let checkpointer = unit.checkpointer();
    let selector = CheckpointSelector {
        checkpoint_id: Some(checkpoint_id),
        ..CheckpointSelector::latest(original.thread_id())
    };
    let tuple = checkpointer.get(&selector).await?;
    let version = tuple.as_ref().map_or(1, state_version);
    let thread = ThreadState::read_from(&*checkpointer, selector.thread_id, tuple).await?;
    let state: AgentState = AgentState {
        answering: None,
        ..thread.state()?.unwrap_or_default()
    };
    let mut copy = ThreadState::new(fork.thread_id(), None);
    let mut metadata = CheckpointMetadata::new(CheckpointSource::Fork, copy.next_step());
    if version > 1 {
        metadata = metadata.with(STATE_VERSION, version);
    }
    if let Some(message) = last_message {
        metadata = metadata.with(MESSAGE_ID, message.to_string());
    }
    copy.save(&*checkpointer, &state, metadata).await?;
    Ok(())
}
