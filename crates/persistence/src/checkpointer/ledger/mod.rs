//! Turns whose state somebody else keeps, and what they record: on PostgreSQL a statement to open
//! one, one to close it, and one for each record. Elsewhere each is a transaction.

mod parts;
mod statement;

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Error, Message, Repository, Result, ThreadId, Turn,
    TurnId, TurnStatus, Value,
    turn::{DueTurn, Opened, OwnerId, TurnClosing, TurnLedger, TurnOpening, TurnOwner, TurnRecord},
};

use self::{
    parts::{commit, raise, store},
    statement::{close_statement, open_statement, record_statement},
};
use super::{
    fence,
    turn::{Taken, opened},
};
use crate::{
    connection::{Connection, retrying, retrying_undone},
    encryption::{KeyRing, Keys, of_owner, opening},
    error::{Table, is_foreign_key_violation, storage_error, taken_in},
    lease::{IS_NEXT, Of, SqlLeases},
    repository::SqlRepository,
    sql::{Query, Sql},
};

const OPEN: &str = "open turn";
const CLOSE: &str = "close turn";
const RECORD: &str = "record";

const ALL: Sql = Sql::same(
    "SELECT type, blob, name FROM agent_turn_records
WHERE conversation_id = $1 AND turn_id = $2 ORDER BY name",
);

/// [`TurnLedger`] on a pool or within a transaction.
pub(crate) struct SqlLedger {
    pub(crate) connection: Connection,
    pub(crate) keys: Keys,
}

impl SqlLedger {
    fn leases(&self) -> SqlLeases {
        SqlLeases(self.connection.clone())
    }
}

#[async_trait]
impl TurnLedger for SqlLedger {
    async fn open(&self, mut opening: TurnOpening) -> Result<Opened> {
        opening.validate()?;
        let ring = self.keys.ring(&self.connection).await?;
        let mut turn = opening.turn.clone();
        if let Some(ring) = &ring {
            let message = opening.message.as_mut_slice();
            seal(ring, &mut opening.turn, message, &mut opening.records);
        }
        if self.connection.undivided().is_none() {
            return Ok(match self.open_by_parts(opening).await? {
                Opened::Turn(turn) => Opened::Turn(Box::new(opened(*turn, ring.as_deref())?)),
                Opened::Busy => Opened::Busy,
            });
        }
        let statement = open_statement(&opening);
        let rows = retrying_undone!(self.connection, statement.clone().rows(&self.connection));
        let epoch = rows.and_then(|rows| {
            let first = rows.first().map(|row| row.try_get_by_index::<i64>(0));
            first.transpose()
        });
        match epoch {
            Ok(None) => Ok(Opened::Busy),
            Ok(Some(epoch)) => {
                turn.epoch = epoch.cast_unsigned();
                Ok(Opened::Turn(Box::new(turn)))
            }
            Err(error) => Err(refused(&opening, error)),
        }
    }

    async fn enqueue(&self, mut opening: TurnOpening) -> Result<Turn> {
        opening.validate()?;
        let ring = self.keys.ring(&self.connection).await?;
        if let Some(ring) = &ring {
            let message = opening.message.as_mut_slice();
            seal(ring, &mut opening.turn, message, &mut opening.records);
        }
        let transaction = self.begin(OPEN).await?;
        let turn = store(&transaction, opening).await?;
        commit(OPEN, transaction).await?;
        opened(turn, ring.as_deref())
    }

    async fn begin_opened(&self, thread_id: &ThreadId, mut next: Turn) -> Result<Option<Turn>> {
        next.validate()?;
        let ring = self.keys.ring(&self.connection).await?;
        if let Some(ring) = &ring {
            ring.seal_turn(&mut next);
        }
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
                opened(begun, ring.as_deref()).map(Some)
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
        let ring = self.keys.ring(&self.connection).await?;
        let ring = ring.as_deref();
        if let Some(ring) = ring {
            let messages = &mut closing.messages;
            seal(ring, &mut closing.next, messages, &mut closing.records);
        }
        if self.connection.undivided().is_none() {
            return opened(self.close_by_parts(closing).await?, ring);
        }
        closing.next.touch(self.connection.now());
        let statement = close_statement(&closing);
        let conflict = || Error::Conflict(Turn::conflict(&closing.seen.id()));
        match retrying_undone!(self.connection, statement.clone().rows(&self.connection)) {
            Ok(rows) if rows.is_empty() => Err(conflict()),
            Ok(_) => opened(closing.next, ring),
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
        opening!(self.keys, &self.connection, |ring| {
            let mut record = record.clone();
            if let Some(ring) = ring {
                ring.seal_record(of_owner(owner), &mut record);
            }
            let before = self.record_stored(owner, record).await?;
            let before = before.map(|before| opened_record(before, of_owner(owner), ring));
            before.transpose()
        })
    }

    async fn records(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
    ) -> Result<Vec<TurnRecord>> {
        let failed = |error| storage_error("list records", error);
        let all = ALL
            .query(&self.connection)
            .with(conversation_id.0)
            .with(turn_id.0);
        let rows =
            retrying!(self.connection, all.clone().rows(&self.connection)).map_err(failed)?;
        let records = rows.iter().map(|row| {
            Ok(TurnRecord {
                value: value_of(row)?,
                name: row.try_get_by_index(2)?,
            })
        });
        let records: Result<Vec<_>, DbErr> = records.collect();
        let (records, owner) = (records.map_err(failed)?, [conversation_id.0, turn_id.0]);
        opening!(self.keys, &self.connection, |ring| {
            let records = records.iter().cloned();
            records
                .map(|record| opened_record(record, owner, ring))
                .collect()
        })
    }

    async fn due_opened(&self, limit: u64) -> Result<Vec<DueTurn>> {
        let conversations = SqlRepository::<Conversation>::within(self.connection.clone());
        let mut due = Vec::new();
        let turns = opening!(self.keys, &self.connection, |ring| {
            self.leases().due(Of::Openers, limit, ring).await
        });
        for turn in turns? {
            // One that is gone has taken the turn with it.
            if let Some(conversation) = conversations.get(&turn.conversation_id).await? {
                let thread_id = conversation.thread_id();
                due.push(DueTurn { turn, thread_id });
            }
        }
        Ok(due)
    }
}

impl SqlLedger {
    async fn record_stored(
        &self,
        owner: &TurnOwner,
        record: TurnRecord,
    ) -> Result<Option<TurnRecord>> {
        let recorded = match self.connection.undivided() {
            Some(_) => {
                let statement = record_statement(owner, &record)?;
                let before = match record.value {
                    Some(_) => {
                        retrying!(self.connection, before(&self.connection, statement.clone()))
                    }
                    // Repeated, it would take itself for another.
                    None => {
                        retrying_undone!(
                            self.connection,
                            before(&self.connection, statement.clone())
                        )
                    }
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
                fence::admitted(&self.connection, RECORD, &owner.thread_id, false).await?;
                Ok(None)
            }
        }
    }
}

/// Encrypts a turn with what it is opened or closed with.
fn seal(ring: &KeyRing, turn: &mut Turn, messages: &mut [Message], records: &mut [TurnRecord]) {
    let owner = [turn.conversation_id.0, turn.id.0];
    ring.seal_turn(turn);
    for said in messages {
        ring.seal_message(said);
    }
    for record in records {
        ring.seal_record(owner, record);
    }
}

fn opened_record(
    mut record: TurnRecord,
    owner: [Uuid; 2],
    ring: Option<&KeyRing>,
) -> Result<TurnRecord> {
    let opened = ring.map_or(Ok(()), |ring| ring.open_record(owner, &mut record));
    opened.map_err(|error| Error::unreadable(format!("the record {}", record.name), error))?;
    Ok(record)
}

fn refused(opening: &TurnOpening, error: DbErr) -> Error {
    let taken = Taken {
        turn: opening.turn.id(),
        message: opening.message.as_ref().map(Entity::id),
        key: opening.key.as_ref().map(Entity::id),
    };
    match taken.conflict(&error) {
        Some(conflict) => Error::Conflict(conflict),
        None if is_foreign_key_violation(&error) => {
            Error::not_found("conversation", opening.turn.conversation_id)
        }
        None => storage_error(OPEN, error),
    }
}

/// Of a row that begins with a type and a blob.
fn value_of(row: &QueryResult) -> Result<Option<Value>, DbErr> {
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
