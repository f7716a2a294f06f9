//! The turns as engines work on them. The checkpoint with which a turn begins or ends is one
//! statement on PostgreSQL, that stores the turn and its message as well. Elsewhere it is a
//! transaction of several.

mod parts;
mod statement;

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::DbErr;
use uuid::Uuid;
use yai_agentkit_core::{
    CheckpointKey, ConflictKind, ConversationId, Entity, Error, Fence, Message, MessageId, Result,
    Turn, TurnId, TurnStore,
    conversation::InConversation,
    turn::{
        Announcements, EventBatch, IdempotencyKey, LatestBatches, OwnerId, Place, TurnBegin,
        TurnChange, TurnStep,
    },
};

pub(crate) use self::parts::TurnCall;
pub(super) use self::statement::{
    begin_statement, changed_turn, end_statement, messages, used_key,
};
use super::{NewRawCheckpoint, PUT_CHECKPOINT, SqlCheckpointer, fence, write::New};
use crate::{
    branch,
    connection::{Connection, retrying_undone},
    encryption::{KeyRing, opening},
    entity::idempotency_key,
    error::{Table, storage_error, taken_in},
    events::{self, SqlTurnEvents},
    lease::{Of, SqlLeases},
    presence,
    sql::{Query, Sql},
};

/// Whether a checkpoint is there.
const IS_STORED: Sql = Sql::same(
    "SELECT 1 FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = $3",
);

#[async_trait]
impl TurnStore for SqlCheckpointer {
    async fn begin(&self, mut begin: TurnBegin) -> Result<Turn> {
        begin.turn.validate()?;
        begin.message.validate()?;
        begin.events.validate()?;
        let new = self.raw(begin.checkpoint.clone()).await?;
        let plain = begin.turn.clone();
        let ring = self.keys.ring(&self.connection).await?;
        if let Some(ring) = &ring {
            ring.seal_turn(&mut begin.turn);
            ring.seal_message(&mut begin.message);
            ring.seal_events(&mut begin.events);
        }
        let epoch = Fence::Raise(begin.turn.epoch).stored_epoch()?;
        let is_last = begin.place == Place::Last;
        if begin.queued.is_some() || !is_last || self.connection.undivided().is_none() {
            let call = TurnCall::Begin(Box::new(begin), Box::new(new));
            return opened(self.by_parts(call).await?, ring.as_deref());
        }
        let statement = begin_statement(&new, epoch, &begin);
        let taken = Taken {
            turn: begin.turn.id(),
            message: Some(begin.message.id()),
            key: begin.key.as_ref().map(Entity::id),
        };
        self.once(statement, &new, &taken, &begin.events).await?;
        Ok(plain)
    }

    async fn choose(&self, conversation_id: ConversationId, last: Option<MessageId>) -> Result<()> {
        branch::choose(&self.connection, conversation_id, last).await
    }

    async fn step(&self, mut step: TurnStep) -> Result<()> {
        step.events.validate()?;
        let new = New::Checkpoint(self.raw(step.checkpoint).await?);
        if let Some(ring) = self.keys.ring(&self.connection).await? {
            ring.seal_events(&mut step.events);
        }
        let hold = Fence::Hold(step.epoch);
        self.write(PUT_CHECKPOINT, new, Some(hold), Some(&step.events))
            .await
    }

    async fn change(&self, mut change: TurnChange) -> Result<Turn> {
        change.next.validate()?;
        if let Some(answer) = &change.answer {
            answer.validate()?;
        }
        let ring = self.keys.ring(&self.connection).await?;
        let ring = ring.as_deref();
        let new = match change.checkpoint.take() {
            Some((checkpoint, fence)) => Some((self.raw(checkpoint).await?, fence)),
            None => None,
        };
        if let Some(ring) = ring {
            seal(&mut change, ring)?;
        }
        let stored = match (&change, new) {
            (
                TurnChange {
                    key: None,
                    writes: None,
                    answer: None,
                    events: None,
                    ..
                },
                None,
            ) => self.leases().replace(&change.seen, change.next).await,
            (
                TurnChange {
                    key: None,
                    writes: None,
                    events: Some(events),
                    ..
                },
                Some((new, Fence::Hold(epoch))),
            ) if self.connection.undivided().is_some() => {
                events.validate()?;
                let epoch = Fence::Hold(epoch).stored_epoch()?;
                let mut next = change.next.clone();
                next.touch(self.connection.now());
                let statement = end_statement(&new, epoch, events, &change, &next);
                let taken = Taken {
                    turn: change.seen.id(),
                    message: change.answer.as_ref().map(Entity::id),
                    key: None,
                };
                self.once(statement, &new, &taken, events).await?;
                Ok(next)
            }
            (_, new) => {
                let call = TurnCall::Change(Box::new(change), new.map(Box::new));
                self.by_parts(call).await
            }
        };
        opened(stored?, ring)
    }

    async fn take(&self, seen: &Turn, owner: OwnerId, lease: Duration) -> Result<Option<Turn>> {
        self.leases().take(Of::Engines, seen, owner, lease).await
    }

    async fn renew(&self, owner: OwnerId) -> Result<Vec<ConversationId>> {
        self.leases().renew(owner).await
    }

    async fn due(&self, limit: u64) -> Result<Vec<Turn>> {
        opening!(self.keys, &self.connection, |ring| {
            self.leases().due(Of::Engines, limit, ring).await
        })
    }

    async fn running(&self, owner: Option<&str>) -> Result<u64> {
        self.leases().running(owner).await
    }

    async fn append(&self, mut batch: EventBatch) -> Result<()> {
        batch.validate()?;
        if let Some(ring) = self.keys.ring(&self.connection).await? {
            ring.seal_events(&mut batch);
        }
        self.turn_events().append(&batch).await
    }

    async fn events(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        after: u64,
        limit: u64,
    ) -> Result<Vec<EventBatch>> {
        opening!(self.keys, &self.connection, |ring| {
            let events = self.turn_events();
            let read = events
                .read(conversation_id, turn_id, [after, limit])
                .await?;
            read.into_iter()
                .map(|batch| opened_events(batch, ring))
                .collect()
        })
    }

    async fn latest_events(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        self.turn_events().latest(turns).await
    }

    async fn forget_events(&self, age: Duration) -> Result<u64> {
        self.turn_events().delete_older(age).await
    }

    async fn forget_keys(&self, age: Duration) -> Result<u64> {
        let forgotten = presence::forget(&self.connection).await;
        forgotten.map_err(|error| storage_error("forget servers", error))?;
        idempotency_key::forget(&self.connection, age).await
    }

    async fn announce(&self, latest: &LatestBatches) -> Result<()> {
        self.turn_events().announce(latest).await
    }

    async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        self.turn_events().announcements().await
    }
}

/// Encrypts what a turn becomes, but for its checkpoint.
fn seal(change: &mut TurnChange, ring: &KeyRing) -> Result<()> {
    ring.seal_turn(&mut change.next);
    change
        .answer
        .iter_mut()
        .for_each(|answer| ring.seal_message(answer));
    if let Some(events) = &mut change.events {
        events.validate()?;
        ring.seal_events(events);
    }
    for writes in change.writes.iter_mut().flat_map(|(writes, _)| writes) {
        writes.validate()?;
        ring.seal_writes(writes);
    }
    Ok(())
}

/// A turn as it was before it was encrypted.
pub(super) fn opened(mut turn: Turn, ring: Option<&KeyRing>) -> Result<Turn> {
    let opened = ring.map_or(Ok(()), |ring| ring.open_turn(&mut turn));
    opened.map_err(|error| Error::unreadable(format!("turn {}", turn.id), error))?;
    Ok(turn)
}

fn opened_events(mut batch: EventBatch, ring: Option<&KeyRing>) -> Result<EventBatch> {
    let opened = ring.map_or(Ok(()), |ring| ring.open_events(&mut batch));
    let what = || format!("the events of turn {}", batch.turn_id);
    opened.map_err(|error| Error::unreadable(what(), error))?;
    Ok(batch)
}

impl SqlCheckpointer {
    fn leases(&self) -> SqlLeases {
        SqlLeases(self.connection.clone())
    }

    fn turn_events(&self) -> SqlTurnEvents {
        SqlTurnEvents(self.connection.clone())
    }

    async fn by_parts(&self, call: TurnCall) -> Result<Turn> {
        match &self.turns {
            Some(turns) => {
                let turn = turns.call(call).await;
                turn.map_err(|error| storage_error(PUT_CHECKPOINT, error))?
            }
            None => call.run_alone(&self.connection).await,
        }
    }

    /// Executes a statement that would refuse itself a second time, and stores `new`.
    async fn once(
        &self,
        statement: Query,
        new: &NewRawCheckpoint,
        taken: &Taken,
        events: &EventBatch,
    ) -> Result<()> {
        let connection = &self.connection;
        let mut stored = execute(connection, statement.clone()).await;
        if let Err(error) = &stored
            && connection.may_repeat(error, &mut 0).await
        {
            stored = retrying_undone!(connection, execute(connection, statement.clone()));
            // By the first attempt, which was committed after all.
            if matches!(stored, Ok(None | Some(false))) && is_stored(connection, &new.key).await? {
                return Ok(());
            }
        }
        let is_as_seen = stored.map_err(|error| match taken.conflict(&error) {
            Some(conflict) => Error::Conflict(conflict),
            None => events::refused(PUT_CHECKPOINT, Some(events), error),
        })?;
        if is_as_seen == Some(false) {
            return Err(Error::Conflict(Turn::conflict(&taken.turn)));
        }
        let admitted = is_as_seen.is_some();
        fence::admitted(connection, PUT_CHECKPOINT, &new.key.thread_id, admitted).await
    }
}

/// What may be taken already.
pub(super) struct Taken {
    pub(super) turn: InConversation<TurnId>,
    pub(super) message: Option<InConversation<MessageId>>,
    pub(super) key: Option<InConversation<Uuid>>,
}

impl Taken {
    /// Of it, what the database has refused.
    pub(super) fn conflict(&self, error: &DbErr) -> Option<ConflictKind> {
        match (taken_in(error)?, self.message, self.key) {
            (Table::Messages, Some(id), _) => Some(Message::conflict(&id)),
            (Table::IdempotencyKeys, _, Some(id)) => Some(IdempotencyKey::conflict(&id)),
            (Table::Turns, ..) => Some(Turn::conflict(&self.turn)),
            _ => None,
        }
    }
}

async fn is_stored(connection: &Connection, key: &CheckpointKey) -> Result<bool> {
    let place = [
        key.thread_id.as_str(),
        key.namespace.as_str(),
        key.checkpoint_id.as_str(),
    ];
    let mut query = IS_STORED.query(connection);
    for text in place {
        query.bind(text);
    }
    let rows = query.rows(connection).await;
    let rows = rows.map_err(|error| storage_error(PUT_CHECKPOINT, error))?;
    Ok(!rows.is_empty())
}

/// The row that it returned.
async fn execute(connection: &Connection, statement: Query) -> Result<Option<bool>, DbErr> {
    let rows = statement.rows(connection).await?;
    let first = rows.first().map(|row| row.try_get_by_index(0));
    first.transpose()
}
