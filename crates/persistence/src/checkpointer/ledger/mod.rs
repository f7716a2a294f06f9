//! Turns whose state somebody else keeps, and what they record: on PostgreSQL a statement to open
//! one, one to close it, and one for each record. Elsewhere each is a transaction.

mod parts;
mod statement;

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{DbErr, QueryResult};
use yai_agentkit_core::{
    Conversation, ConversationId, Entity, Error, Message, Repository, Result, ThreadId, Turn,
    TurnId, TurnStatus, Value,
    turn::{DueTurn, Opened, OwnerId, TurnClosing, TurnLedger, TurnOpening, TurnOwner, TurnRecord},
};

use self::{
    parts::{commit, raise, store},
    statement::{close_statement, open_statement, record_statement},
};
use super::{fence, turn::Taken};
use crate::{
    connection::{Connection, retrying, retrying_undone},
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
pub(crate) struct SqlLedger(pub(crate) Connection);

impl SqlLedger {
    fn leases(&self) -> SqlLeases {
        SqlLeases(self.0.clone())
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
