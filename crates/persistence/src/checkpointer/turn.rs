//! The checkpoint with which a turn begins or ends: one statement on PostgreSQL, that stores the
//! turn and its message as well. Elsewhere it is a transaction of several.

use sea_orm::DbErr;
use uuid::Uuid;
use yai_agentkit_core::{
    CheckpointKey, Checkpointer, Entity, Error, Fence, InConversation, Message, MessageId,
    Repository, Result, Turn, TurnId,
    turn::{EventBatch, IdempotencyKey, TurnBegin, TurnChange, TurnStep},
};

use super::{
    NewRawCheckpoint, PUT_CHECKPOINT, SqlCheckpointer, fence, row,
    statement::{self, Conflicts::Possible, Place, TOUCH},
    together::TurnCall,
    write::New,
};
use crate::{
    connection::{Connection, retrying_undone},
    entity::{
        message,
        turn::{Model, assigned},
    },
    error::{Table, storage_error, taken_in},
    events::{self, SqlTurnEvents},
    lease::SqlLeases,
    repository::SqlRepository,
    sql::{Parameter, Query, Sql},
};

/// Whether a checkpoint is there.
const IS_STORED: Sql = Sql::same(
    "SELECT 1 FROM checkpoints
WHERE thread_id = $1 AND checkpoint_ns = $2 AND checkpoint_id = $3",
);

impl SqlCheckpointer {
    /// See [`TurnStore::begin`](yai_agentkit_core::TurnStore::begin).
    pub(crate) async fn begin_turn(&self, begin: TurnBegin) -> Result<Turn> {
        begin.turn.validate()?;
        begin.message.validate()?;
        begin.events.validate()?;
        begin.checkpoint.validate()?;
        let new = row::to_raw(begin.checkpoint.clone())?;
        let epoch = Fence::Raise(begin.turn.epoch).stored_epoch()?;
        if begin.queued.is_some() || self.connection.undivided().is_none() {
            let call = TurnCall::Begin(Box::new(begin), Box::new(new));
            return self.by_parts(call).await;
        }
        let statement = begin_statement(&new, epoch, &begin);
        let taken = Taken {
            turn: begin.turn.id(),
            message: Some(begin.message.id()),
            key: begin.key.as_ref().map(Entity::id),
            events: &begin.events,
        };
        self.once(statement, &new, &taken).await?;
        Ok(begin.turn)
    }

    /// See [`TurnStore::step`](yai_agentkit_core::TurnStore::step).
    pub(crate) async fn step_turn(&self, step: TurnStep) -> Result<()> {
        step.checkpoint.validate()?;
        let new = New::Checkpoint(row::to_raw(step.checkpoint)?);
        let hold = Fence::Hold(step.epoch);
        self.write(PUT_CHECKPOINT, new, Some(hold), Some(&step.events))
            .await
    }

    /// See [`TurnStore::change`](yai_agentkit_core::TurnStore::change).
    pub(crate) async fn change_turn(&self, change: TurnChange) -> Result<Turn> {
        change.next.validate()?;
        if let Some(answer) = &change.answer {
            answer.validate()?;
        }
        match &change {
            TurnChange {
                checkpoint: None,
                writes: None,
                answer: None,
                events: None,
                ..
            } => {
                let leases = SqlLeases(self.connection.clone());
                leases.replace(&change.seen, change.next).await
            }
            TurnChange {
                checkpoint: Some((checkpoint, Fence::Hold(epoch))),
                writes: None,
                events: Some(events),
                ..
            } if self.connection.undivided().is_some() => {
                events.validate()?;
                checkpoint.validate()?;
                let epoch = Fence::Hold(*epoch).stored_epoch()?;
                let new = row::to_raw(checkpoint.clone())?;
                let mut next = change.next.clone();
                next.touch(self.connection.now());
                let statement = end_statement(&new, epoch, events, &change, &next);
                let taken = Taken {
                    turn: change.seen.id(),
                    message: change.answer.as_ref().map(Entity::id),
                    key: None,
                    events,
                };
                self.once(statement, &new, &taken).await?;
                Ok(next)
            }
            _ => self.by_parts(TurnCall::Change(Box::new(change))).await,
        }
    }

    async fn by_parts(&self, call: TurnCall) -> Result<Turn> {
        match &self.turns {
            Some(turns) if !self.connection.is_postgres() => {
                let turn = turns.call(call).await;
                turn.map_err(|error| storage_error(PUT_CHECKPOINT, error))?
            }
            _ => call.run_alone(&self.connection).await,
        }
    }

    /// Executes a statement that would refuse itself a second time, and stores `new`.
    async fn once(
        &self,
        statement: Query,
        new: &NewRawCheckpoint,
        taken: &Taken<'_>,
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
        let is_as_seen = stored.map_err(|error| taken.refused(error))?;
        if is_as_seen == Some(false) {
            return Err(Error::Conflict(Turn::conflict(&taken.turn)));
        }
        let admitted = is_as_seen.is_some();
        fence::admitted(connection, PUT_CHECKPOINT, &new.key.thread_id, admitted).await
    }
}

/// What may be taken already.
struct Taken<'a> {
    turn: InConversation<TurnId>,
    message: Option<InConversation<MessageId>>,
    key: Option<InConversation<Uuid>>,
    events: &'a EventBatch,
}

impl Taken<'_> {
    fn refused(&self, error: DbErr) -> Error {
        Error::Conflict(match (taken_in(&error), self.message, self.key) {
            (Some(Table::Messages), Some(id), _) => Message::conflict(&id),
            (Some(Table::IdempotencyKeys), _, Some(id)) => IdempotencyKey::conflict(&id),
            (Some(Table::Turns), ..) => Turn::conflict(&self.turn),
            _ => return events::refused(PUT_CHECKPOINT, Some(self.events), error),
        })
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

/// A transaction of the statements of its parts.
pub(super) async fn begin_by_parts(
    connection: &Connection,
    begin: TurnBegin,
    new: NewRawCheckpoint,
) -> Result<Turn> {
    let TurnBegin {
        turn,
        message,
        key,
        queued,
        events,
        ..
    } = begin;
    let failed = |error| events::refused(PUT_CHECKPOINT, Some(&events), error);
    let transaction = connection.begin().await.map_err(failed)?;
    // First: the same request elsewhere waits here.
    if let Some(key) = key {
        let keys = SqlRepository::within(transaction.clone());
        keys.add(key).await?;
    }
    // The thread is locked before the turn, as by the statements.
    let raise = Some(Fence::Raise(turn.epoch));
    SqlCheckpointer::within(transaction.clone())
        .write(PUT_CHECKPOINT, New::Checkpoint(new), raise, Some(&events))
        .await?;
    let messages = SqlRepository::within(transaction.clone());
    let turn = match queued {
        Some(queued) => {
            messages.delete(&message.id()).await?;
            let leases = SqlLeases(transaction.clone());
            leases.replace(&queued, turn).await?
        }
        None => {
            let turns = SqlRepository::within(transaction.clone());
            turns.add(turn).await?
        }
    };
    messages.add(message).await?;
    transaction.commit().await.map_err(failed)?;
    Ok(turn)
}

/// A transaction of the statements of its parts.
pub(super) async fn change_by_parts(connection: &Connection, change: TurnChange) -> Result<Turn> {
    let events = change.events.as_ref();
    let failed = |error| events::refused(PUT_CHECKPOINT, events, error);
    let transaction = connection.begin().await.map_err(failed)?;
    let checkpointer = SqlCheckpointer::within(transaction.clone());
    let has_checkpoint = change.checkpoint.is_some();
    if let Some((checkpoint, fence)) = change.checkpoint {
        checkpoint.validate()?;
        let new = New::Checkpoint(row::to_raw(checkpoint)?);
        checkpointer
            .write(PUT_CHECKPOINT, new, Some(fence), events)
            .await?;
    }
    if let Some((writes, mut fence)) = change.writes {
        for writes in writes {
            checkpointer.put_writes(writes, Some(fence)).await?;
            // The first has raised it.
            fence = Fence::Hold(fence.epoch());
        }
    }
    if let Some(answer) = change.answer {
        let messages = SqlRepository::within(transaction.clone());
        messages.add(answer).await?;
    }
    let leases = SqlLeases(transaction.clone());
    let turn = leases.replace(&change.seen, change.next).await?;
    if let Some(events) = events.filter(|_| !has_checkpoint) {
        SqlTurnEvents(transaction.clone()).append(events).await?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(turn)
}

/// The row that it returned.
async fn execute(connection: &Connection, statement: Query) -> Result<Option<bool>, DbErr> {
    let rows = statement.rows(connection).await?;
    let first = rows.first().map(|row| row.try_get_by_index(0));
    first.transpose()
}

/// Raises the thread, or stores nothing and returns no row. Seldom enough to look for each row.
pub(super) fn begin_statement(new: &NewRawCheckpoint, epoch: i64, begin: &TurnBegin) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    raised_thread(&mut query, place.thread, epoch);
    let events = Some((&begin.events).into());
    statement::checkpoint_and_events(&mut query, place, "thread", new, events.as_ref(), Possible);
    messages(&mut query, "thread", std::slice::from_ref(&begin.message));
    new_turn(&mut query, begin.turn.clone().into());
    used_key(&mut query, begin.key.as_ref());
    query.push("\nSELECT true FROM thread");
    query
}

/// Holds the thread, else no row is returned; and the turn is as it was seen, else `false` is; or
/// nothing is stored.
pub(super) fn end_statement(
    new: &NewRawCheckpoint,
    epoch: i64,
    events: &EventBatch,
    change: &TurnChange,
    next: &Turn,
) -> Query {
    let mut query = Query::on_postgres();
    let place = Place::of(&mut query, &new.key);
    let turn = seen_turn(&mut query, place, epoch, change.seen.clone().into());
    let events = Some(events.into());
    statement::checkpoint_and_events(&mut query, place, "turn", new, events.as_ref(), Possible);
    messages(&mut query, "turn", change.answer.as_slice());
    changed_turn(&mut query, turn, next.clone().into());
    query.push("\nSELECT EXISTS (SELECT FROM turn) FROM thread");
    query
}

fn raised_thread(query: &mut Query, thread: Parameter, epoch: i64) {
    let epoch = query.bind(epoch);
    query.push(format_args!(
        "WITH thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    VALUES ({thread}, clock_timestamp(), {epoch}::bigint)
    ON CONFLICT (thread_id) DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = excluded.epoch
    WHERE t.epoch < excluded.epoch
    RETURNING 1
), "
    ));
}

/// The messages of a turn.
pub(super) fn messages(query: &mut Query, from: &str, messages: &[Message]) {
    let messages = messages.iter().cloned().map(message::Model::from);
    let messages: Vec<_> = messages.collect();
    let id = query.column(&messages, |message| message.id);
    let conversation = query.column(&messages, |message| message.conversation_id);
    let role = query.column(&messages, |message| message.role.as_str());
    let content = query.column(&messages, |message| message.content.as_str());
    let metadata = query.column(&messages, |message| {
        message.metadata_.as_ref().map(ToString::to_string)
    });
    let created_at = query.column(&messages, |message| message.created_at);
    query.push(format_args!(
        ", message AS (
    INSERT INTO agent_messages (id, conversation_id, role, content, metadata_, created_at)
    SELECT m.id, m.conversation_id, m.role, m.content, m.metadata_::json, m.created_at
    FROM {from}, unnest({id}::uuid[], {conversation}::uuid[], {role}::text[], {content}::text[],
        {metadata}::text[], {created_at}::timestamptz[])
        m (id, conversation_id, role, content, metadata_, created_at)
)"
    ));
}

fn new_turn(query: &mut Query, turn: Model) {
    let conversation = query.bind(turn.conversation_id);
    let (id, created_at) = (query.bind(turn.id), query.bind(turn.created_at));
    let user_message = query.bind(turn.user_message_id);
    let (columns, values): (Vec<_>, Vec<_>) = turn.bind(query).into_iter().unzip();
    let (columns, values) = (columns.join(", "), values.join(", "));
    query.push(format_args!(
        ", turn AS (
    INSERT INTO agent_turns (conversation_id, id, created_at, user_message_id,
        {columns})
    SELECT {conversation}, {id}, {created_at}, {user_message},
        {values}
    FROM thread
)"
    ));
}

pub(super) fn used_key(query: &mut Query, key: Option<&IdempotencyKey>) {
    let id = query.bind(key.map(|key| key.id));
    let conversation = query.bind(key.map(|key| key.scope.0));
    let fingerprint = query.bind(key.map(|key| key.fingerprint));
    let resource = query.bind(key.map(|key| key.resource_id));
    query.push(format_args!(
        ", key AS (
    INSERT INTO agent_idempotency_keys (conversation_id, id, fingerprint, resource_id)
    SELECT {conversation}, {id}, {fingerprint}, {resource} FROM thread WHERE {id} IS NOT NULL
)"
    ));
}

/// Locks the thread, before its turn, as does who cancels it. Returns the turn's key.
fn seen_turn(query: &mut Query, place: Place, epoch: i64, seen: Model) -> [Parameter; 2] {
    let (thread, epoch) = (place.thread, query.bind(epoch));
    let key = [query.bind(seen.conversation_id), query.bind(seen.id)];
    let [conversation, id] = key;
    let (status, turn_epoch) = (query.bind(seen.status), query.bind(seen.epoch));
    query.push(format_args!(
        "WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = {thread} AND epoch = {epoch}::bigint FOR UPDATE
), turn AS MATERIALIZED (
    SELECT 1 FROM thread CROSS JOIN LATERAL (
        SELECT FROM agent_turns
        WHERE conversation_id = {conversation} AND id = {id} AND status = {status}
            AND epoch = {turn_epoch}
        FOR UPDATE
    ) seen
), touched AS (
    UPDATE threads SET updated_at = statement_timestamp()
    WHERE thread_id = {thread} AND EXISTS (SELECT FROM turn){TOUCH}
), "
    ));
    key
}

pub(super) fn changed_turn(query: &mut Query, [conversation, id]: [Parameter; 2], next: Model) {
    let columns = assigned(&next.bind(query));
    query.push(format_args!(
        ", changed AS (
    UPDATE agent_turns SET {columns},
        lease_renewed_at = statement_timestamp()
    WHERE conversation_id = {conversation} AND id = {id} AND EXISTS (SELECT FROM turn)
)"
    ));
}
