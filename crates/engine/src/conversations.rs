use std::sync::Arc;

use serde_json::Value as Json;
use uuid::Uuid;
use yai_agentkit_core::{
    Clock, ConflictKind, Conversation, ConversationId, Entity, Error, ListQuery, Message,
    MessageId, Result, Storage,
    audit::{Act, Action, Actor},
    turn::TurnFilter,
};

use super::{Imported, RequestKey, TurnEngine, TurnError, claims::Claims, import};

/// The conversations of a storage, and what may be done to one as a whole. A clone is the same.
#[derive(Clone)]
pub struct Conversations {
    pub(super) storage: Arc<dyn Storage>,
    claims: Claims,
    pub(super) clock: Clock,
    actor: Option<Actor>,
}

/// What changes in a conversation: what is `None` stays, `Some(None)` clears.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConversationChange {
    /// The title.
    pub title: Option<Option<String>>,
    /// What the application keeps with it.
    pub metadata: Option<Option<Json>>,
}

impl TurnEngine {
    /// The conversations in which this engine runs turns.
    pub fn conversations(&self) -> Conversations {
        Conversations {
            storage: Arc::clone(&self.storage),
            claims: self.claims.clone(),
            clock: self.clock.clone(),
            actor: None,
        }
    }
}

impl Conversations {
    /// Those of a storage on which this process runs no turns.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            claims: Claims::default(),
            clock: Clock::default(),
            actor: None,
        }
    }

    /// The same, where it is told who deletes, erases, redacts and imports.
    #[must_use]
    pub fn by(self, actor: Actor) -> Self {
        Self {
            actor: Some(actor),
            ..self
        }
    }

    fn told(&self, action: Action, subject: impl ToString) -> Option<Act> {
        let actor = self.actor.as_ref();
        actor.map(|actor| actor.does(action, subject))
    }

    /// Stores a new conversation, and returns it.
    pub async fn create(&self, new: Conversation) -> Result<Conversation> {
        self.storage.conversations().add(new).await
    }

    /// Stores a new conversation with its history, which its agent knows, and returns it.
    pub async fn create_with(
        &self,
        new: Conversation,
        history: Vec<Imported>,
    ) -> Result<Conversation> {
        let unit = self.storage.begin().await?;
        let stored = import::create(&*unit, new, history).await?;
        if let Some(act) = self.told(Action::Imported, stored.id) {
            unit.audit().record(&act).await?;
        }
        unit.commit().await?;
        Ok(stored)
    }

    /// Stores a new conversation with its history, or returns the one that the first request with `key` has created:
    /// keys are told apart by `scope`, which is who uses them. [`TurnError::KeyReused`] where the
    /// first request was another one.
    pub async fn create_once(
        &self,
        new: Conversation,
        history: Vec<Imported>,
        scope: Uuid,
        key: &RequestKey,
    ) -> Result<Conversation, TurnError> {
        let key = key.used(scope, new.id.0);
        let keys = self.storage.idempotency_keys();
        if keys.get(&key.id()).await?.is_none() {
            let unit = self.storage.begin().await?;
            match unit.idempotency_keys().add(key.clone()).await {
                // The same request was faster.
                Err(Error::Conflict(ConflictKind::IdempotencyKey(_))) => drop(unit),
                added => {
                    added?;
                    let told = self.told(Action::Imported, new.id);
                    let told = told.filter(|_| !history.is_empty());
                    let stored = import::create(&*unit, new, history).await?;
                    if let Some(act) = told {
                        unit.audit().record(&act).await?;
                    }
                    unit.commit().await?;
                    return Ok(stored);
                }
            }
        }
        let earlier = keys.get(&key.id()).await?;
        let earlier = earlier.filter(|earlier| earlier.fingerprint == key.fingerprint);
        let earlier = earlier.ok_or(TurnError::KeyReused)?;
        Ok(self.get(ConversationId(earlier.resource_id)).await?)
    }

    /// A conversation; [`Error::NotFound`] where there is none.
    pub async fn get(&self, id: ConversationId) -> Result<Conversation> {
        let found = self.storage.conversations().get(&id).await?;
        found.ok_or_else(|| Error::not_found("conversation", id))
    }

    /// Changes a conversation if it is the one that `is_meant`, and returns it; the others at it
    /// wait. [`Error::Conflict`] where it is not meant. One in which nothing changes is not touched.
    pub async fn update(
        &self,
        id: ConversationId,
        change: &ConversationChange,
        is_meant: impl Fn(&Conversation) -> bool + Send + Sync,
    ) -> Result<Conversation> {
        let make = |stored: &mut Conversation| {
            if !is_meant(stored) {
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
        if *change == ConversationChange::default() {
            let mut unchanged = self.get(id).await?;
            make(&mut unchanged)?;
            return Ok(unchanged);
        }
        self.storage.conversations().update(&id, &make).await
    }

    /// Deletes a conversation with its messages, turns and events, and its agent's checkpoints.
    /// [`TurnError::Busy`] while a turn runs in it, on whichever server; one that begins meanwhile
    /// goes with it: what it writes later is refused.
    pub async fn delete(&self, id: ConversationId) -> Result<(), TurnError> {
        let _claim = self.claims.claim(id).await?;
        let running = ListQuery::filtered(TurnFilter::running().of(id));
        match self.storage.turns().list(&running).await {
            // Nobody runs what can't be read.
            Err(Error::Unreadable { .. }) => {}
            Ok(running) if running.items.is_empty() => {}
            Ok(_) => return Err(TurnError::Busy(id)),
            Err(error) => return Err(error.into()),
        }
        match self.erase_as(id, Action::ConversationDeleted).await? {
            true => Ok(()),
            false => Err(Error::not_found("conversation", id).into()),
        }
    }

    /// Makes a message say nothing for good, in all that its chat has, as
    /// [`RetentionStore::redact`](yai_agentkit_core::retention::RetentionStore::redact) says, and returns
    /// it. [`TurnError::Busy`] while a turn runs.
    pub async fn redact(
        &self,
        conversation: ConversationId,
        message: MessageId,
    ) -> Result<Message, TurnError> {
        let _claim = self.claims.claim(conversation).await?;
        let id = conversation.key(message);
        let told = self.told(Action::MessageRedacted, id.id);
        let retention = self.storage.retention();
        match retention.redact(conversation, message, told.as_ref()).await {
            Err(Error::Conflict(ConflictKind::Turn(_))) => {
                return Err(TurnError::Busy(conversation));
            }
            redacted => redacted?,
        };
        let message = self.storage.messages().get(&id).await?;
        Ok(message.ok_or_else(|| Error::not_found("message", id.id))?)
    }

    /// Deletes a conversation as [`delete`](Self::delete) does, also while a turn runs in it, whichever
    /// server that is on: what it writes later is refused. False where there is none.
    pub async fn erase(&self, id: ConversationId) -> Result<bool> {
        self.erase_as(id, Action::ConversationErased).await
    }

    async fn erase_as(&self, id: ConversationId, action: Action) -> Result<bool> {
        let told = self.told(action, id);
        let erased = self.storage.retention().erase(id, told.as_ref()).await?;
        self.claims.give_up(id);
        Ok(erased)
    }
}
