//! The calls of the ledger as transactions of the statements of their parts.

use yai_agentkit_core::{
    Conversation, ConversationId, Error, Fence, Repository, Result, ThreadId, Turn, TurnId, Value,
    turn::{Opened, TurnClosing, TurnFilter, TurnOpening, TurnOwner, TurnRecord},
};

use super::{CLOSE, OPEN, RECORD, SqlLedger, value_of};
use crate::{
    connection::{Connection, Transaction},
    error::storage_error,
    lease::SqlLeases,
    repository::SqlRepository,
    sql::Sql,
};

/// SQLite has no clock with microseconds; the process that writes lends it its own.
const RAISE: Sql = Sql {
    postgres: "INSERT INTO threads AS t (thread_id, updated_at, epoch)
VALUES ($1, clock_timestamp(), 1)
ON CONFLICT ON CONSTRAINT threads_pkey DO UPDATE
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

/// A record with a value stays.
const NOTE: Sql = Sql {
    postgres: "INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT ON CONSTRAINT agent_turn_records_pkey DO UPDATE
SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL",
    sqlite: "INSERT INTO agent_turn_records AS r (conversation_id, turn_id, name, type, blob)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (conversation_id, turn_id, name) DO UPDATE
SET type = excluded.type, blob = excluded.blob WHERE r.type IS NULL",
};

impl SqlLedger {
    pub(super) async fn begin(&self, operation: &'static str) -> Result<Transaction> {
        let begun = self.connection.begin().await;
        begun.map_err(|error| storage_error(operation, error))
    }

    pub(super) async fn open_by_parts(&self, mut opening: TurnOpening) -> Result<Opened> {
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

    pub(super) async fn close_by_parts(&self, closing: TurnClosing) -> Result<Turn> {
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

    pub(super) async fn record_by_parts(
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

pub(super) async fn commit(operation: &'static str, transaction: Transaction) -> Result<()> {
    let committed = transaction.commit().await;
    committed.map_err(|error| storage_error(operation, error))
}

/// The next epoch of the thread.
pub(super) async fn raise(transaction: &Connection, thread_id: &ThreadId) -> Result<u64> {
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

pub(super) async fn store(transaction: &Connection, opening: TurnOpening) -> Result<Turn> {
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
