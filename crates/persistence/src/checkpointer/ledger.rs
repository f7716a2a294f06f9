//! Turns whose state somebody else keeps, and what they record: on PostgreSQL a statement to open
//! one, one to close it, and one for each record. Elsewhere each is a transaction.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::DbErr;
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Error, Fence, Message, OwnerId, Repository, Result,
    ThreadId, Turn, TurnId, TurnStatus, Value,
    turn::{
        DueTurn, IdempotencyKey, Opened, TurnClosing, TurnFilter, TurnLedger, TurnOpening,
        TurnOwner, TurnRecord,
    },
};

use super::{
    fence,
    turn::{changed_turn, messages, used_key},
};
use crate::{
    connection::{Connection, Transaction, retrying, retrying_undone},
    entity::turn::Model,
    error::{Table, is_foreign_key_violation, storage_error, taken_in},
    lease::{IS_NEXT, Of, SqlLeases},
    repository::SqlRepository,
    sql::{Parameter, Query, Sql},
};

const OPEN: &str = "open turn";
const CLOSE: &str = "close turn";
const RECORD: &str = "record";

/// SQLite has no clock with microseconds; the process that writes lends it its own.
const RAISE: Sql = Sql {
    postgres: "INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), 1)
ON CONFLICT (thread_id) DO UPDATE
SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = t.epoch + 1
RETURNING epoch",
    sqlite: "INSERT INTO threads (thread_id, updated_at, epoch) VALUES ($1, $2, 1)
ON CONFLICT (thread_id) DO UPDATE
SET updated_at = max(threads.updated_at, excluded.updated_at), epoch = threads.epoch + 1
RETURNING epoch",
};

const MARK: Sql =
    Sql::same("UPDATE agent_turns SET opened = true WHERE conversation_id = $1 AND id = $2");

const HOLD: Sql = Sql::same("UPDATE threads SET epoch = epoch WHERE thread_id = $1 AND epoch = $2");

const ONE: Sql = Sql::same(
    "SELECT type, blob FROM agent_turn_records
WHERE conversation_id = $1 AND turn_id = $2 AND name = $3",
);

const ALL: Sql = Sql::same(
    "SELECT type, blob, name FROM agent_turn_records
WHERE conversation_id = $1 AND turn_id = $2 ORDER BY name",
);

/// A record with a value stays.
const NOTE: Sql = Sql::same(
    "INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (conversation_id, turn_id, name) DO UPDATE
SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL",
);

/// [`TurnLedger`] on a pool or within a transaction.
pub(crate) struct SqlLedger(pub(crate) Connection);

impl SqlLedger {
    fn leases(&self) -> SqlLeases {
        SqlLeases(self.0.clone())
    }

    async fn begin(&self, operation: &'static str) -> Result<Transaction> {
        let begun = self.0.begin().await;
        begun.map_err(|error| storage_error(operation, error))
    }

    async fn open_by_parts(&self, mut opening: TurnOpening) -> Result<Opened> {
        let transaction = self.begin(OPEN).await?;
        let unfinished = TurnFilter::unfinished().of(opening.turn.conversation_id);
        let turns = SqlRepository::<Turn>::within(transaction.clone());
        if turns.count(&unfinished).await? > 0 {
            return Ok(Opened::Busy);
        }
        opening.turn.epoch = raise(&transaction, &opening.thread_id).await?;
        let turn = store(&transaction, opening).await?;
        commit(OPEN, transaction).await?;
        Ok(Opened::Turn(Box::new(turn)))
    }

    async fn close_by_parts(&self, closing: TurnClosing) -> Result<Turn> {
        let transaction = self.begin(CLOSE).await?;
        let leases = SqlLeases(transaction.clone());
        let turn = leases.replace(&closing.seen, closing.next).await?;
        let messages = SqlRepository::within(transaction.clone());
        for message in closing.messages {
            messages.add(message).await?;
        }
        for record in &closing.records {
            note(&transaction, &turn, record).await?;
        }
        commit(CLOSE, transaction).await?;
        Ok(turn)
    }

    async fn record_by_parts(
        &self,
        owner: &TurnOwner,
        record: &TurnRecord,
    ) -> Result<Option<Option<TurnRecord>>> {
        let failed = |error| storage_error(RECORD, error);
        let transaction = self.begin(RECORD).await?;
        let epoch = Fence::Hold(owner.epoch).stored_epoch()?;
        let hold = HOLD.query(&transaction).with(owner.thread_id.as_str());
        if hold
            .with(epoch)
            .execute(&transaction)
            .await
            .map_err(failed)?
            == 0
        {
            return Ok(None);
        }
        let one = ONE.query(&transaction).with(owner.conversation_id.0);
        let one = one.with(owner.turn_id.0).with(record.name.as_str());
        let rows = one.rows(&transaction).await.map_err(failed)?;
        let before = rows.first().map(value_of).transpose().map_err(failed)?;
        let key = (owner.conversation_id, owner.turn_id);
        note_at(&transaction, key, record).await?;
        commit(RECORD, transaction).await?;
        Ok(Some(before.map(|value| TurnRecord {
            name: record.name.clone(),
            value,
        })))
    }
}

#[async_trait]
impl TurnLedger for SqlLedger {
    async fn open(&self, opening: TurnOpening) -> Result<Opened> {
        opening.validate()?;
        if self.0.undivided().is_none() {
            return self.open_by_parts(opening).await;
        }
        let statement = open_statement(&opening);
        let opened = retrying_undone!(self.0, statement.clone().rows(&self.0));
        let epoch = opened.and_then(|rows| {
            let first = rows.first().map(|row| row.try_get_by_index::<i64>(0));
            first.transpose()
        });
        match epoch {
            Ok(None) => Ok(Opened::Busy),
            Ok(Some(epoch)) => {
                let mut turn = opening.turn;
                turn.epoch = epoch.cast_unsigned();
                Ok(Opened::Turn(Box::new(turn)))
            }
            Err(error) => Err(refused(&opening, error)),
        }
    }

    async fn enqueue(&self, opening: TurnOpening) -> Result<Turn> {
        opening.validate()?;
        let transaction = self.begin(OPEN).await?;
        let turn = store(&transaction, opening).await?;
        commit(OPEN, transaction).await?;
        Ok(turn)
    }

    async fn begin_opened(&self, thread_id: &ThreadId, mut next: Turn) -> Result<Option<Turn>> {
        next.validate()?;
        let failed = |error| storage_error(OPEN, error);
        let transaction = self.begin(OPEN).await?;
        let is_next = format!(
            "SELECT 1 FROM agent_turns WHERE conversation_id = $1 AND id = $2
    AND status = 'queued' AND {IS_NEXT}"
        );
        let query = Query::new(&transaction, is_next);
        let query = query.with(next.conversation_id.0).with(next.id.0);
        if query.rows(&transaction).await.map_err(failed)?.is_empty() {
            return Ok(None);
        }
        next.epoch = raise(&transaction, thread_id).await?;
        let mut queued = next.clone();
        (queued.status, queued.epoch) = (TurnStatus::Queued, 0);
        let leases = SqlLeases(transaction.clone());
        match leases.replace(&queued, next).await {
            Err(Error::Conflict(_)) => Ok(None),
            begun => {
                let begun = begun?;
                commit(OPEN, transaction).await?;
                Ok(Some(begun))
            }
        }
    }

    async fn take_opened(
        &self,
        seen: &Turn,
        owner: OwnerId,
        lease: Duration,
    ) -> Result<Option<Turn>> {
        let leases = self.leases();
        leases.take(Of::Openers, seen, owner, lease).await
    }

    async fn close(&self, mut closing: TurnClosing) -> Result<Turn> {
        closing.validate()?;
        if self.0.undivided().is_none() {
            return self.close_by_parts(closing).await;
        }
        closing.next.touch(self.0.now());
        let statement = close_statement(&closing);
        let conflict = || Error::Conflict(Turn::conflict(&closing.seen.id()));
        match retrying_undone!(self.0, statement.clone().rows(&self.0)) {
            Ok(rows) if rows.is_empty() => Err(conflict()),
            Ok(_) => Ok(closing.next),
            Err(error) => match (taken_in(&error), closing.messages.first()) {
                (Some(Table::Messages), Some(message)) => {
                    Err(Error::Conflict(Message::conflict(&message.id())))
                }
                (Some(_), _) => Err(conflict()),
                _ => Err(storage_error(CLOSE, error)),
            },
        }
    }

    async fn record(&self, owner: &TurnOwner, record: TurnRecord) -> Result<Option<TurnRecord>> {
        record.validate()?;
        let recorded = match self.0.undivided() {
            Some(_) => {
                let statement = record_statement(owner, &record)?;
                let before = match record.value {
                    Some(_) => retrying!(self.0, before(&self.0, statement.clone())),
                    // Repeated, it would take itself for another.
                    None => retrying_undone!(self.0, before(&self.0, statement.clone())),
                };
                let before = before.map_err(|error| storage_error(RECORD, error))?;
                before.map(|before| {
                    before.map(|value| TurnRecord {
                        name: record.name,
                        value,
                    })
                })
            }
            None => self.record_by_parts(owner, &record).await?,
        };
        match recorded {
            Some(before) => Ok(before),
            None => {
                fence::admitted(&self.0, RECORD, &owner.thread_id, false).await?;
                Ok(None)
            }
        }
    }

    async fn records(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
    ) -> Result<Vec<TurnRecord>> {
        let failed = |error| storage_error("list records", error);
        let all = ALL.query(&self.0).with(conversation_id.0).with(turn_id.0);
        let rows = retrying!(self.0, all.clone().rows(&self.0)).map_err(failed)?;
        let records = rows.iter().map(|row| {
            Ok(TurnRecord {
                value: value_of(row)?,
                name: row.try_get_by_index(2)?,
            })
        });
        records.collect::<Result<_, DbErr>>().map_err(failed)
    }

    async fn due_opened(&self, limit: u64) -> Result<Vec<DueTurn>> {
        let conversations = SqlRepository::<Conversation>::within(self.0.clone());
        let mut due = Vec::new();
        for turn in self.leases().due(Of::Openers, limit).await? {
            // One that is gone has taken the turn with it.
            if let Some(conversation) = conversations.get(&turn.conversation_id).await? {
                let thread_id = conversation.thread_id();
                due.push(DueTurn { turn, thread_id });
            }
        }
        Ok(due)
    }
}

fn refused(opening: &TurnOpening, error: DbErr) -> Error {
    let conversation = opening.turn.conversation_id;
    let message = opening.message.as_ref().map(Entity::id);
    let key = opening.key.as_ref().map(Entity::id);
    Error::Conflict(match (taken_in(&error), message, key) {
        (Some(Table::Messages), Some(id), _) => Message::conflict(&id),
        (Some(Table::IdempotencyKeys), _, Some(id)) => IdempotencyKey::conflict(&id),
        (Some(Table::Turns), ..) => Turn::conflict(&opening.turn.id()),
        _ if is_foreign_key_violation(&error) => {
            return Error::not_found("conversation", conversation);
        }
        _ => return storage_error(OPEN, error),
    })
}

async fn commit(operation: &'static str, transaction: Transaction) -> Result<()> {
    let committed = transaction.commit().await;
    committed.map_err(|error| storage_error(operation, error))
}

/// The next epoch of the thread.
async fn raise(transaction: &Connection, thread_id: &ThreadId) -> Result<u64> {
    let failed = |error| storage_error(OPEN, error);
    let mut raise = RAISE.query(transaction).with(thread_id.as_str());
    if !transaction.is_postgres() {
        raise.bind_time(transaction.now());
    }
    let rows = raise.rows(transaction).await.map_err(failed)?;
    let epoch = rows.first().map(|row| row.try_get_by_index::<i64>(0));
    let epoch = epoch.transpose().map_err(failed)?;
    Ok(epoch.unwrap_or_default().cast_unsigned())
}

async fn store(transaction: &Connection, opening: TurnOpening) -> Result<Turn> {
    // First: the same request elsewhere waits here.
    if let Some(key) = opening.key {
        SqlRepository::within(transaction.clone()).add(key).await?;
    }
    let id = opening.turn.conversation_id;
    let conversations = SqlRepository::within(transaction.clone());
    if id.to_string() == opening.thread_id.as_str() && !conversations.exists(&id).await? {
        match conversations
            .add(Conversation::with_id(id, transaction.now()))
            .await
        {
            // Another one has the thread.
            Err(Error::Conflict(_)) => return Err(Error::not_found("conversation", id)),
            added => added.map(drop)?,
        }
    }
    let turns = SqlRepository::within(transaction.clone());
    let turn = turns.add(opening.turn).await?;
    let mark = MARK.query(transaction).with(id.0).with(turn.id.0);
    let marked = mark.execute(transaction).await;
    marked.map_err(|error| storage_error(OPEN, error))?;
    if let Some(message) = opening.message {
        let messages = SqlRepository::within(transaction.clone());
        messages.add(message).await?;
    }
    for record in &opening.records {
        note(transaction, &turn, record).await?;
    }
    Ok(turn)
}

async fn note(transaction: &Connection, turn: &Turn, record: &TurnRecord) -> Result<()> {
    note_at(transaction, (turn.conversation_id, turn.id), record).await
}

async fn note_at(
    transaction: &Connection,
    (conversation, turn): (ConversationId, TurnId),
    record: &TurnRecord,
) -> Result<()> {
    let note = NOTE.query(transaction).with(conversation.0).with(turn.0);
    let note = note.with(record.name.as_str());
    let value = record.value.as_ref();
    let note = note
        .with(value.map(Value::type_tag))
        .with(value.map(Value::bytes));
    let noted = note.execute(transaction).await;
    noted
        .map(drop)
        .map_err(|error| storage_error(RECORD, error))
}

/// Of a row that begins with a type and a blob.
fn value_of(row: &sea_orm::QueryResult) -> Result<Option<Value>, DbErr> {
    let type_tag: Option<String> = row.try_get_by_index(0)?;
    let bytes: Option<Vec<u8>> = row.try_get_by_index(1)?;
    Ok(type_tag.map(|type_tag| Value::from_parts(type_tag, bytes.unwrap_or_default())))
}

/// `None` where the thread has another epoch.
async fn before(
    connection: &Connection,
    statement: Query,
) -> Result<Option<Option<Option<Value>>>, DbErr> {
    let rows = statement.rows(connection).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let is_new: bool = row.try_get_by_index(2)?;
    Ok(Some(if is_new { None } else { Some(value_of(row)?) }))
}

/// Raises the thread by one, and returns its epoch; or stores nothing and returns no row.
pub(super) fn open_statement(opening: &TurnOpening) -> Query {
    let mut query = Query::on_postgres();
    let model = Model::from(opening.turn.clone());
    let thread = query.bind(opening.thread_id.as_str());
    let key = [query.bind(model.conversation_id), query.bind(model.id)];
    let [conversation, _] = key;
    query.push(format_args!(
        "WITH free AS MATERIALIZED (
    SELECT 1 WHERE NOT EXISTS (
        SELECT FROM agent_turns WHERE conversation_id = {conversation} AND status = 'running'
    ) AND NOT EXISTS (
        SELECT FROM agent_turns
        WHERE conversation_id = {conversation} AND status IN ('queued', 'waiting')
    )
), thread AS (
    INSERT INTO threads AS t (thread_id, updated_at, epoch)
    SELECT {thread}, clock_timestamp(), 1 FROM free
    ON CONFLICT (thread_id) DO UPDATE
    SET updated_at = GREATEST(t.updated_at, excluded.updated_at), epoch = t.epoch + 1
    RETURNING epoch
)"
    ));
    if opening.turn.conversation_id.to_string() == opening.thread_id.as_str() {
        let created_at = query.bind(model.created_at);
        query.push(format_args!(
            ", made AS (
    INSERT INTO agent_conversations (id, checkpoint_thread_id, created_at, updated_at)
    SELECT {conversation}, {conversation}, {created_at}, {created_at} FROM thread
    ON CONFLICT DO NOTHING
)"
        ));
    }
    opened(&mut query, key, model);
    messages(&mut query, "thread", opening.message.as_slice());
    noted(&mut query, "thread", key, &opening.records);
    used_key(&mut query, opening.key.as_ref());
    query.push("\nSELECT epoch FROM thread");
    query
}

fn opened(query: &mut Query, [conversation, id]: [Parameter; 2], turn: Model) {
    let (status, attempt) = (query.bind(turn.status), query.bind(turn.attempt));
    let (owner, lease) = (query.bind(turn.lease_owner), query.bind(turn.lease_ms));
    let (started_at, created_at) = (query.bind(turn.started_at), query.bind(turn.created_at));
    let user_message = query.bind(turn.user_message_id);
    query.push(format_args!(
        ", opened AS (
    INSERT INTO agent_turns (conversation_id, id, user_message_id, status, attempt, epoch,
        lease_owner, lease_ms, started_at, created_at, updated_at, opened)
    SELECT {conversation}, {id}, {user_message}, {status}, {attempt}, epoch, {owner}, {lease},
        {started_at}, {created_at}, {created_at}, true
    FROM thread
)"
    ));
}

fn noted(
    query: &mut Query,
    from: &str,
    [conversation, id]: [Parameter; 2],
    records: &[TurnRecord],
) {
    let names = query.column(records, |record| record.name.as_str());
    let types = query.column(records, |record| record.value.as_ref().map(Value::type_tag));
    let blobs = query.column(records, |record| record.value.as_ref().map(Value::bytes));
    query.push(format_args!(
        ", noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT {conversation}, {id}, n.*
    FROM {from}, unnest({names}::text[], {types}::text[], {blobs}::bytea[]) n
    ON CONFLICT (conversation_id, turn_id, name) DO UPDATE
    SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL
)"
    ));
}

/// Returns a row if the turn is as it was seen.
pub(super) fn close_statement(closing: &TurnClosing) -> Query {
    let mut query = Query::on_postgres();
    let seen = Model::from(closing.seen.clone());
    let key = [query.bind(seen.conversation_id), query.bind(seen.id)];
    let [conversation, id] = key;
    let (status, epoch) = (query.bind(seen.status), query.bind(seen.epoch));
    query.push(format_args!(
        "WITH turn AS MATERIALIZED (
    SELECT 1 FROM agent_turns
    WHERE conversation_id = {conversation} AND id = {id} AND status = {status} AND epoch = {epoch}
    FOR UPDATE
)"
    ));
    messages(&mut query, "turn", &closing.messages);
    noted(&mut query, "turn", key, &closing.records);
    changed_turn(&mut query, key, closing.next.clone().into());
    query.push("\nSELECT 1 FROM turn");
    query
}

/// Returns what was recorded before and whether it is new, if the thread has the epoch.
pub(super) fn record_statement(owner: &TurnOwner, record: &TurnRecord) -> Result<Query> {
    let mut query = Query::on_postgres();
    let thread = query.bind(owner.thread_id.as_str());
    let epoch = query.bind(Fence::Hold(owner.epoch).stored_epoch()?);
    let (conversation, turn) = (
        query.bind(owner.conversation_id.0),
        query.bind(owner.turn_id.0),
    );
    let name = query.bind(record.name.as_str());
    let value = record.value.as_ref();
    let (type_tag, blob) = (
        query.bind(value.map(Value::type_tag)),
        query.bind(value.map(Value::bytes)),
    );
    query.push(format_args!(
        "WITH thread AS MATERIALIZED (
    SELECT 1 FROM threads WHERE thread_id = {thread} AND epoch = {epoch}::bigint FOR SHARE
), before AS MATERIALIZED (
    SELECT type, blob FROM agent_turn_records
    WHERE conversation_id = {conversation} AND turn_id = {turn} AND name = {name}
), noted AS (
    INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
    SELECT {conversation}, {turn}, {name}, {type_tag}, {blob} FROM thread
    ON CONFLICT (conversation_id, turn_id, name) DO UPDATE
    SET type = excluded.type, blob = excluded.blob
    WHERE r.type IS NULL AND excluded.type IS NOT NULL
    RETURNING 1
)
SELECT (SELECT type FROM before), (SELECT blob FROM before),
    EXISTS (SELECT FROM noted) AND NOT EXISTS (SELECT FROM before)
FROM thread"
    ));
    Ok(query)
}
