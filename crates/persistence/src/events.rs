//! The table `agent_turn_events`, and PostgreSQL's notifications about it.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use chrono::TimeDelta;
use sea_orm::{DbErr, QueryResult};
use serde_json::{Value as Json, json};
use sqlx::postgres::{PgListener, PgPoolOptions};
use uuid::Uuid;
use yai_agentkit_core::{
    ConversationId, Error, Result, TurnId,
    turn::{Announcements, EventBatch, LatestBatches},
};

use crate::{
    connection::{Connection, PostgresSource, retrying, retrying_undone},
    error::{from_sqlx, is_foreign_key_violation, is_unique_violation, storage_error},
    sql::{Query, Sql},
};

/// On SQLite the process lends its clock.
const APPEND: Sql = Sql {
    postgres:
        "INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
VALUES ($1, $2, $3, $4::json, now())",
    sqlite: "INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
VALUES ($1, $2, $3, $4, $5)",
};

/// As [`APPEND`], unless it is there. (PostgreSQL has this within the statement of the checkpoint,
/// unless Citus distributes that.)
const APPEND_ONCE: Sql = Sql {
    postgres:
        "INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
SELECT $1, $2, $3, $4::json, now() WHERE $4 IS DISTINCT FROM (
    SELECT events::text FROM agent_turn_events
    WHERE conversation_id = $1 AND turn_id = $2 AND sequence = $3
)",
    sqlite: "INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
SELECT $1, $2, $3, $4, $5 WHERE $4 IS NOT (
    SELECT events FROM agent_turn_events
    WHERE conversation_id = $1 AND turn_id = $2 AND sequence = $3
)",
};

const READ: Sql = Sql {
    postgres: "SELECT sequence, events::text FROM agent_turn_events
WHERE conversation_id = $1 AND turn_id = $2 AND sequence > $3 ORDER BY sequence LIMIT $4",
    sqlite: "SELECT sequence, events FROM agent_turn_events
WHERE conversation_id = $1 AND turn_id = $2 AND sequence > $3 ORDER BY sequence LIMIT $4",
};

/// $1 is a JSON array of objects.
const LATEST: Sql = Sql {
    postgres: "SELECT e.turn_id, max(e.sequence)
FROM jsonb_to_recordset($1::jsonb) AS t (conversation_id uuid, turn_id uuid)
JOIN agent_turn_events e ON e.conversation_id = t.conversation_id AND e.turn_id = t.turn_id
GROUP BY e.turn_id",
    sqlite: "SELECT e.turn_id, max(e.sequence)
FROM json_each($1) t CROSS JOIN agent_turn_events e
    ON e.conversation_id = unhex(t.value ->> 'conversation_id', '-')
    AND e.turn_id = unhex(t.value ->> 'turn_id', '-')
GROUP BY e.turn_id",
};

/// $1 is an age in seconds, on SQLite a time; there rows are numbered in the order of time, so that
/// those behind the first young one need not be looked at.
const DELETE_OLDER: Sql = Sql {
    postgres: "DELETE FROM agent_turn_events e
WHERE e.created_at < now() - make_interval(secs => $1) AND NOT EXISTS (
    SELECT FROM agent_turns t WHERE t.id = e.turn_id AND t.conversation_id = e.conversation_id
        AND t.status NOT IN ('completed', 'failed', 'cancelled')
)",
    sqlite: "DELETE FROM agent_turn_events AS e
WHERE e.created_at < $1 AND e.rowid < COALESCE((
    SELECT rowid FROM agent_turn_events WHERE created_at >= $1 ORDER BY rowid LIMIT 1
), 9223372036854775807) AND NOT EXISTS (
    SELECT 1 FROM agent_turns t WHERE t.id = e.turn_id AND t.conversation_id = e.conversation_id
        AND t.status NOT IN ('completed', 'failed', 'cancelled')
)",
};

/// Whom nobody tells finds out later, so that no commit need wait for the disk.
const NOTIFY: Sql =
    Sql::same("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)");

/// The channel of PostgreSQL's notifications: all schemas of a database share it.
const CHANNEL: &str = "agentkit_turn_events";

/// A notification may have 8000 bytes; a turn with its sequence takes at most 60.
const TURNS_IN_A_NOTIFICATION: usize = 100;

/// A batch as its row holds it.
pub(crate) struct EventRow {
    pub(crate) conversation_id: Uuid,
    pub(crate) turn_id: Uuid,
    pub(crate) sequence: i64,
    /// JSON.
    pub(crate) events: String,
}

impl From<&EventBatch> for EventRow {
    fn from(batch: &EventBatch) -> Self {
        Self {
            conversation_id: batch.conversation_id.0,
            turn_id: batch.turn_id.0,
            sequence: batch.sequence.cast_signed(),
            events: Json::from(batch.events.as_slice()).to_string(),
        }
    }
}

impl EventRow {
    /// Stores it, unless it is there.
    pub(crate) async fn append_once(&self, transaction: &Connection) -> Result<(), DbErr> {
        self.execute(transaction, APPEND_ONCE).await
    }

    async fn execute(&self, connection: &Connection, sql: Sql) -> Result<(), DbErr> {
        let mut query = sql.query(connection);
        query.bind(self.conversation_id);
        query.bind(self.turn_id);
        query.bind(self.sequence);
        query.bind(self.events.as_str());
        if !connection.is_postgres() {
            query.bind_time(connection.now());
        }
        query.execute(connection).await.map(drop)
    }
}

/// `error` of an `operation` that may store a batch.
pub(crate) fn refused(operation: &'static str, batch: Option<&EventBatch>, error: DbErr) -> Error {
    match batch {
        Some(batch) if is_unique_violation(&error) => Error::Conflict(batch.conflict()),
        Some(batch) if is_foreign_key_violation(&error) => {
            Error::not_found("conversation", batch.conversation_id)
        }
        _ => storage_error(operation, error),
    }
}

pub(crate) struct SqlTurnEvents(pub(crate) Connection);

impl SqlTurnEvents {
    async fn insert(&self, batch: &EventBatch) -> Result<(), DbErr> {
        EventRow::from(batch).execute(&self.0, APPEND).await
    }

    /// Whether a batch is stored exactly so.
    async fn holds(&self, batch: &EventBatch) -> Result<bool> {
        let before = batch.sequence.saturating_sub(1);
        let stored = self
            .read(batch.conversation_id, batch.turn_id, [before, 1])
            .await?;
        Ok(stored.first() == Some(batch))
    }
}

fn read_query(
    connection: &Connection,
    conversation_id: ConversationId,
    turn_id: TurnId,
    [after, limit]: [u64; 2],
) -> Query {
    let query = READ.query(connection);
    let query = query.with(conversation_id.0).with(turn_id.0);
    query.with(after.cast_signed()).with(limit.cast_signed())
}

/// As [`LATEST`] takes them.
fn places(turns: &[(ConversationId, TurnId)]) -> String {
    let place = |(conversation_id, turn_id): &(ConversationId, TurnId)| json!({"conversation_id": conversation_id, "turn_id": turn_id});
    turns.iter().map(place).collect::<Json>().to_string()
}

impl SqlTurnEvents {
    pub(crate) async fn append(&self, batch: &EventBatch) -> Result<()> {
        batch.validate()?;
        let mut added = self.insert(batch).await;
        if let Err(error) = &added
            && self.0.may_repeat(error, &mut 0).await
        {
            added = retrying_undone!(self.0, self.insert(batch));
            // The first attempt may have been committed after all.
            if added.as_ref().is_err_and(is_unique_violation) && self.holds(batch).await? {
                return Ok(());
            }
        }
        added.map_err(|error| refused("append events", Some(batch), error))
    }

    pub(crate) async fn read(
        &self,
        conversation_id: ConversationId,
        turn_id: TurnId,
        [after, limit]: [u64; 2],
    ) -> Result<Vec<EventBatch>> {
        let read = || read_query(&self.0, conversation_id, turn_id, [after, limit]);
        let rows = retrying!(self.0, read().rows(&self.0));
        let failed = |error| storage_error("read events", error);
        let batch = |row: &QueryResult| {
            let sequence: i64 = row.try_get_by_index(0).map_err(failed)?;
            let events: String = row.try_get_by_index(1).map_err(failed)?;
            Ok(EventBatch::new(
                conversation_id,
                turn_id,
                sequence.cast_unsigned(),
                serde_json::from_str(&events).map_err(|error| {
                    Error::unreadable(format!("the events of turn {turn_id}"), error)
                })?,
            ))
        };
        rows.map_err(failed)?.iter().map(batch).collect()
    }

    pub(crate) async fn latest(&self, turns: &[(ConversationId, TurnId)]) -> Result<LatestBatches> {
        if turns.is_empty() {
            return Ok(LatestBatches::new());
        }
        let latest = LATEST.query(&self.0).with(places(turns));
        let rows = retrying!(self.0, latest.clone().rows(&self.0));
        let newest = |row: &QueryResult| -> Result<_, DbErr> {
            let (turn, sequence): (_, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            Ok((TurnId(turn), sequence.cast_unsigned()))
        };
        let latest = rows.and_then(|rows| rows.iter().map(newest).collect());
        latest.map_err(|error| storage_error("read the latest events", error))
    }

    pub(crate) async fn delete_older(&self, age: Duration) -> Result<u64> {
        let mut delete = DELETE_OLDER.query(&self.0);
        if self.0.is_postgres() {
            delete.bind(age.as_secs_f64());
        } else {
            let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
            let limit = self.0.now().checked_sub_signed(age).unwrap_or_default();
            delete.bind_time(limit);
        }
        let deleted = retrying!(self.0, delete.clone().execute(&self.0));
        deleted.map_err(|error| storage_error("delete events", error))
    }

    pub(crate) async fn announce(&self, latest: &LatestBatches) -> Result<()> {
        if !self.0.is_postgres() {
            return Ok(());
        }
        let turns: Vec<_> = latest.iter().collect();
        for turns in turns.chunks(TURNS_IN_A_NOTIFICATION) {
            let turns = json!(BTreeMap::from_iter(turns.iter().copied()));
            let notify = NOTIFY.query(&self.0).with(CHANNEL).with(turns.to_string());
            let notified = retrying!(self.0, notify.clone().rows(&self.0));
            notified.map_err(|error| storage_error("announce events", error))?;
        }
        Ok(())
    }

    pub(crate) async fn announcements(&self) -> Result<Option<Box<dyn Announcements>>> {
        match &self.0 {
            // Behind a transaction pooler a LISTEN ends with its transaction.
            Connection::Postgres(postgres) if postgres.pooler_begin.is_none() => {
                let listener = listen(postgres).await;
                let listener =
                    listener.map_err(|error| storage_error("listen", from_sqlx(error)))?;
                Ok(Some(Box::new(Notifications(listener))))
            }
            _ => Ok(None),
        }
    }
}

/// On a connection of its own, which goes with the listener.
async fn listen(postgres: &PostgresSource) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with((*postgres.pool.connect_options()).clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

struct Notifications(PgListener);

#[async_trait]
impl Announcements for Notifications {
    async fn next(&mut self) -> Result<Option<LatestBatches>> {
        let received = self.0.try_recv().await;
        let received = received.map_err(|error| storage_error("listen", from_sqlx(error)))?;
        // What is not ours on this channel names no turn.
        let latest = |payload: &str| serde_json::from_str(payload).unwrap_or_default();
        Ok(received.map(|notification| latest(notification.payload())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Databases;

    /// 5000 conversations with a turn of 20 batches each.
    const ROWS: &str = "
INSERT INTO agent_conversations (id, checkpoint_thread_id, created_at, updated_at)
SELECT {id}, {id}, {time}, {time} FROM numbers;
INSERT INTO agent_turn_events (conversation_id, turn_id, sequence, events, created_at)
SELECT c.id, c.id, i, '[]', {time}
FROM (SELECT id FROM agent_conversations LIMIT 5000) c JOIN numbers ON i <= 20;";

    #[tokio::test]
    async fn batches_are_read_by_their_key() {
        let databases = Databases::with(ROWS).await;
        let index = &["agent_turn_events_pkey"];
        let (conversation, turn) = (ConversationId::new(), TurnId::new());
        let read = |connection: &Connection| read_query(connection, conversation, turn, [3, 32]);
        databases.assert_uses(read, index).await;
        let latest = |connection: &Connection| {
            let query = LATEST.query(connection);
            query.with(places(&[(conversation, turn)]))
        };
        databases.assert_uses(latest, index).await;
        databases.remove().await;
    }
}
