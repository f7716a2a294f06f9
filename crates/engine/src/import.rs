//! Histories from elsewhere, which become a chat's.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
};

use yai_agentkit_core::{
    CheckpointId, ConflictKind, Conversation, ConversationId, Entity, Error, Fence, ListQuery,
    Message, MessageId, PutOptions, Result, ThreadState, UnitOfWork,
    audit::Act,
    checkpoint::{CheckpointMetadata, CheckpointSource},
    conversation::MessageFilter,
    turn::IdempotencyKey,
};

use super::{
    MESSAGE_ID, RequestKey, TurnEngine, TurnError,
    agent::AgentState,
    branch::find,
    chat::{Chat, closed},
};

/// What a call gets as its result that has none in a history: models refuse one without.
const NO_RESULT: &str = "no result is known";

/// A message of a history.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// What is stored, under its own id. One that [`is_chosen`](Message::is_chosen) may be the end
    /// of the branch that is chosen.
    pub message: Message,
    /// What it stands behind.
    pub parent: Parent,
}

/// What a message of a history stands behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// The one before it; the first one stands behind the last message of the chat.
    #[default]
    Before,
    /// One that is before it in the history, or is in the chat; or nothing.
    Named(Option<MessageId>),
}

/// A history as it is stored.
struct History {
    conversation: ConversationId,
    messages: Vec<Message>,
    /// The places of those that are chosen, the last first.
    branch: Vec<usize>,
    /// What the first of these stands behind.
    root: Option<MessageId>,
}

impl TurnEngine {
    /// Adds a history to a conversation, in one transaction, and returns the id of its last message.
    /// From then on the branch is chosen that ends with the last of its messages that may be chosen,
    /// and the agent knows it. Nothing is answered. `told` is recorded with it.
    ///
    /// [`TurnError::Busy`] while a turn has not ended. A message under an id that is taken is
    /// [`Error::Conflict`].
    pub async fn import(
        &self,
        conversation: ConversationId,
        history: Vec<Imported>,
        key: Option<RequestKey>,
        told: Option<Act>,
    ) -> Result<MessageId, TurnError> {
        let Some(last) = history.last().map(|imported| imported.message.id) else {
            return Err(Error::invalid("messages", "must not be empty").into());
        };
        let key = key.map(|key| key.used(conversation.0, last.0));
        if let Some(stored) = self.imported(key.as_ref()).await? {
            return Ok(stored);
        }
        let used = key.clone();
        let work =
            async move |engine: Self| engine.import_now(conversation, history, used, told).await;
        match self.detached(work).await {
            // An equal request may be at it, or have been faster.
            Err(
                error @ (TurnError::Busy(_)
                | TurnError::Storage(Error::Conflict(ConflictKind::IdempotencyKey(_)))),
            ) => self.imported(key.as_ref()).await?.ok_or(error),
            done => done.map(|()| last),
        }
    }

    /// The last message of the history that was imported with this key.
    async fn imported(&self, key: Option<&IdempotencyKey>) -> Result<Option<MessageId>, TurnError> {
        let Some(key) = key else { return Ok(None) };
        match self.storage.idempotency_keys().get(&key.id()).await? {
            Some(earlier) if earlier.fingerprint != key.fingerprint => Err(TurnError::KeyReused),
            earlier => Ok(earlier.map(|earlier| MessageId(earlier.resource_id))),
        }
    }

    async fn import_now(
        self,
        conversation: ConversationId,
        history: Vec<Imported>,
        key: Option<IdempotencyKey>,
        told: Option<Act>,
    ) -> Result<(), TurnError> {
        let claim = self.claim(conversation).await?;
        let mut chat = Chat::open(self.clone(), claim, 0).await?;
        if chat.is_under_way() {
            return Err(TurnError::Busy(conversation));
        }
        let messages = self.storage.messages();
        let newest = ListQuery::filtered(MessageFilter::of(conversation)).limit(1);
        let last = messages.list(&newest).await?.items.pop();
        let last = last.map(|message| message.id);
        let mut history = History::new(conversation, history, last)?;
        for parent in history.parents_of_before() {
            find(&*messages, conversation, parent).await?;
        }
        if history.chosen().is_some() && history.root != last {
            chat.go_back(history.root).await?;
        }
        let unit = self.storage.begin().await?;
        if let Some(chosen) = history.chosen() {
            let mut state = chat.base();
            history.branch().for_each(|message| state.hear(message));
            let (state, epoch) = (closed(state, NO_RESULT), chat.next_epoch());
            let checkpointer = unit.checkpointer();
            let source = CheckpointSource::Update;
            let staged = chat.stage(&*checkpointer, state, source, chosen, epoch, None);
            let (checkpoint, _) = staged.await?;
            history.is_known_by(&checkpoint.checkpoint.id);
            match checkpointer
                .put(checkpoint, Fence::Raise(epoch).into())
                .await
            {
                // A turn has begun meanwhile.
                Err(Error::Fenced { .. }) => return Err(TurnError::Busy(conversation)),
                put => drop(put?),
            }
        }
        history.store(&*unit).await?;
        if let Some(key) = key {
            unit.idempotency_keys().add(key).await?;
        }
        if let Some(act) = told {
            unit.audit().record(&act).await?;
        }
        Ok(unit.commit().await?)
    }
}

/// Stores a new conversation with its history, which its agent knows.
pub(super) async fn create(
    unit: &dyn UnitOfWork,
    new: Conversation,
    history: Vec<Imported>,
) -> Result<Conversation> {
    let stored = unit.conversations().add(new).await?;
    let mut history = History::new(stored.id, history, None)?;
    if let Some(nowhere) = history.parents_of_before().next() {
        return Err(Error::not_found("message", nowhere));
    }
    if let Some(chosen) = history.chosen() {
        let branch: Vec<Message> = history.branch().cloned().collect();
        let state = closed(AgentState::of(&branch), NO_RESULT);
        let thread = ThreadState::new(stored.thread_id(), None);
        let metadata = CheckpointMetadata::new(CheckpointSource::Update, thread.next_step());
        let metadata = metadata.with(MESSAGE_ID, chosen.to_string());
        let (checkpoint, _) = thread.next(&state, metadata)?;
        history.is_known_by(&checkpoint.checkpoint.id);
        let checkpointer = unit.checkpointer();
        checkpointer.put(checkpoint, PutOptions::default()).await?;
    }
    history.store(unit).await?;
    Ok(stored)
}

impl History {
    /// `last` is the last message of the chat.
    fn new(
        conversation: ConversationId,
        history: Vec<Imported>,
        last: Option<MessageId>,
    ) -> Result<Self> {
        let mut places = HashMap::new();
        let mut messages: Vec<Message> = Vec::with_capacity(history.len());
        let mut end = None;
        for (place, Imported { message, parent }) in history.into_iter().enumerate() {
            let invalid = |field: &str, reason: Cow<'static, str>| {
                Error::invalid(format!("messages[{place}].{field}"), reason)
            };
            message.validate().map_err(|error| match error {
                Error::InvalidInput { field, reason } => invalid(&field, reason),
                error => error,
            })?;
            if places.insert(message.id, place).is_some() {
                return Err(invalid("id", "is that of another message too".into()));
            }
            let before = messages.last().map_or(last, |before| Some(before.id));
            if message.is_chosen {
                end = Some(place);
            }
            messages.push(message.with(|message| {
                message.conversation_id = conversation;
                message.parent_id = match parent {
                    Parent::Before => before,
                    Parent::Named(parent) => parent,
                };
                message.is_chosen = false;
                message.checkpoint_id = None;
            }));
        }
        for (place, message) in messages.iter().enumerate() {
            let parent = message.parent_id.and_then(|parent| places.get(&parent));
            if parent.is_some_and(|parent| *parent >= place) {
                let field = format!("messages[{place}].parent_id");
                return Err(Error::invalid(field, "must stand before the message"));
            }
        }
        let mut branch = Vec::new();
        let mut root = None;
        while let Some(place) = end {
            branch.push(place);
            root = messages[place].parent_id;
            end = root.and_then(|parent| places.get(&parent).copied());
        }
        Ok(Self {
            conversation,
            messages,
            branch,
            root,
        })
    }

    /// The last message of the branch that is to be chosen, if one is.
    fn chosen(&self) -> Option<MessageId> {
        self.branch.first().map(|place| self.messages[*place].id)
    }

    /// What is to be chosen, in order.
    fn branch(&self) -> impl Iterator<Item = &Message> {
        self.branch.iter().rev().map(|place| &self.messages[*place])
    }

    /// What it names that must be in the chat.
    fn parents_of_before(&self) -> impl Iterator<Item = MessageId> {
        let own: HashSet<_> = self.messages.iter().map(|own| own.id).collect();
        let parents = self.messages.iter().filter_map(|message| message.parent_id);
        let parents: BTreeSet<_> = parents.collect();
        parents
            .into_iter()
            .filter(move |parent| !own.contains(parent))
    }

    /// With the last chosen message this checkpoint is stored.
    fn is_known_by(&mut self, checkpoint: &CheckpointId) {
        if let Some(place) = self.branch.first() {
            self.messages[*place].checkpoint_id = Some(checkpoint.clone());
        }
    }

    async fn store(self, unit: &dyn UnitOfWork) -> Result<()> {
        let chosen = self.chosen();
        unit.messages().add_many(self.messages).await?;
        if chosen.is_some() {
            let turns = unit.turn_store();
            turns.choose(self.conversation, chosen).await?;
        }
        Ok(())
    }
}
