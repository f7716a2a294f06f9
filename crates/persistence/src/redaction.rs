//! Taking a message out of all that was stored with it.

use sea_orm::{DbErr, QueryResult};
use serde_json::{Value as Json, json};
use uuid::Uuid;
use yai_agentkit_core::{
    ConflictKind, ConversationId, Error, MessageId, Result, Stores, ThreadId, Turn, TurnId, Value,
    audit::Act, redaction::Redaction,
};

use crate::{
    audit::record,
    checkpointer::trim,
    connection::Connection,
    encryption::{self, KeyRing, Keys, unreadable},
    error::storage_error,
    repository::SqlRepository,
    retention::{LOCK, THREAD_OF},
    sql::{Query, Sql},
    stores::SqlStores,
};

/// A column in which something that was said may stand.
struct Column {
    table: &'static str,
    /// By what its rows belong to the chat.
    of: &'static str,
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// With the column of its type, and what it stands under.
    Value(&'static str),
    /// With its type on PostgreSQL.
    Json(&'static str),
    Text,
}

const THREAD: &str = "thread_id";
const CONVERSATION: &str = "conversation_id";

const fn column(table: &'static str, of: &'static str, name: &'static str, kind: Kind) -> Column {
    Column {
        table,
        of,
        name,
        kind,
    }
}

const COLUMNS: [Column; 9] = [
    column("checkpoint_blobs", THREAD, "blob", Kind::Value("channel")),
    column("checkpoint_writes", THREAD, "blob", Kind::Value("channel")),
    column("checkpoints", THREAD, "checkpoint", Kind::Json("jsonb")),
    column("checkpoints", THREAD, "metadata", Kind::Json("jsonb")),
    column(
        "agent_turn_events",
        CONVERSATION,
        "events",
        Kind::Json("json"),
    ),
    column(
        "agent_turn_records",
        CONVERSATION,
        "blob",
        Kind::Value("name"),
    ),
    column("agent_turns", CONVERSATION, "input", Kind::Json("json")),
    column("agent_turns", CONVERSATION, "interrupt", Kind::Json("json")),
    column("agent_turns", CONVERSATION, "error", Kind::Text),
];

/// Against who takes messages into the index, before all else: that one waits for conversations.
const LOCK_INDEX: Sql = Sql {
    postgres: "SELECT FROM agent_search_progress FOR UPDATE",
    sqlite: "SELECT 1 FROM agent_search_progress",
};

const RUNNING: Sql =
    Sql::same("SELECT id FROM agent_turns WHERE conversation_id = $1 AND status = 'running'");

const TURNS: Sql = Sql::same("SELECT id FROM agent_turns WHERE conversation_id = $1");

const LEAVE_INDEX: Sql = Sql {
    postgres: "DELETE FROM agent_search WHERE conversation_id = $1 AND message_id = $2",
    sqlite: "DELETE FROM agent_search WHERE rowid = (
    SELECT position FROM agent_messages WHERE conversation_id = $1 AND id = $2
)",
};

/// Who has read the thread before and is about to write is refused, and reads it anew,
const RAISE: Sql =
    Sql::same("UPDATE threads SET epoch = epoch + 1 WHERE thread_id = $1 AND epoch > 0");

/// where the latest checkpoint tells the epoch of the thread.
const TELL_EPOCH: Sql = Sql {
    postgres: "UPDATE checkpoints SET metadata = jsonb_set(metadata, '{epoch}', (
    SELECT to_jsonb(epoch) FROM threads WHERE thread_id = $1
))
WHERE thread_id = $1 AND checkpoint_ns = '' AND metadata -> 'epoch' IS NOT NULL
    AND checkpoint_id = (
        SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = ''
    )",
    sqlite: "UPDATE checkpoints SET metadata = json_set(metadata, '$.epoch', (
    SELECT epoch FROM threads WHERE thread_id = $1
))
WHERE thread_id = $1 AND checkpoint_ns = '' AND metadata -> '$.epoch' IS NOT NULL
    AND checkpoint_id = (
        SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = ''
    )",
};

pub(crate) async fn redact(
    connection: &Connection,
    (conversation, message): (ConversationId, MessageId),
    told: Option<&Act>,
    keys: &Keys,
    ring: Option<&KeyRing>,
) -> Result<bool> {
    let transaction = connection.begin().await.map_err(failed)?;
    let of_it = |sql: Sql| sql.query(&transaction).with(conversation.0);
    let index = LOCK_INDEX.query(&transaction).rows(&transaction);
    index.await.map_err(failed)?;
    let rows = of_it(THREAD_OF).rows(&transaction).await.map_err(failed)?;
    let Some(row) = rows.first() else {
        return Ok(false);
    };
    let thread: Uuid = row.try_get_by_index(0).map_err(failed)?;
    let thread = ThreadId::from(thread.to_string());
    trim::lock(&transaction, &thread).await?;
    of_it(LOCK).rows(&transaction).await.map_err(failed)?;
    let running = of_it(RUNNING).rows(&transaction).await.map_err(failed)?;
    if let Some(row) = running.first() {
        let turn = TurnId(row.try_get_by_index(0).map_err(failed)?);
        return Err(Error::Conflict(ConflictKind::Turn(turn)));
    }
    let messages = SqlStores::within(transaction.clone(), keys.clone()).messages();
    let id = conversation.key(message);
    let Some(said) = messages.get(&id).await? else {
        return Ok(false);
    };
    let redaction = Redaction::of(&said);
    if let Some(ring) = ring {
        let chat = Chat {
            conversation,
            thread: &thread,
        };
        chat.redact(&transaction, &redaction, ring).await?;
        chat.redact_turns(&transaction, &redaction, keys).await?;
    }
    for column in &COLUMNS {
        // The others were encrypted, and are done.
        if ring.is_some() && column.name != "metadata" {
            continue;
        }
        let belongs = |query: &mut Query| match column.of {
            THREAD => query.bind(thread.as_str()),
            _ => query.bind(conversation.0),
        };
        column.redact(&transaction, &redaction, belongs).await?;
    }
    let leave = of_it(LEAVE_INDEX).with(message.0).execute(&transaction);
    leave.await.map_err(failed)?;
    messages
        .update(&id, &|message| {
            message.redact();
            Ok(())
        })
        .await?;
    for sql in [RAISE, TELL_EPOCH] {
        let raise = sql.query(&transaction).with(thread.as_str());
        raise.execute(&transaction).await.map_err(failed)?;
    }
    if let Some(act) = told {
        record(&transaction, act).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}

impl Column {
    async fn redact(
        &self,
        transaction: &Connection,
        redaction: &Redaction,
        belongs: impl Fn(&mut Query) -> crate::sql::Parameter,
    ) -> Result<()> {
        if redaction.forms().is_empty() {
            return Ok(());
        }
        let mut look = Query::new(transaction, "");
        self.look(&mut look, redaction, &belongs);
        let rows = look.rows(transaction).await.map_err(failed)?;
        for row in &rows {
            let mut update = Query::new(transaction, "");
            update.push(format_args!("UPDATE {} SET {} = ", self.table, self.name));
            if !self.set(&mut update, redaction, row)? {
                continue;
            }
            let chat = belongs(&mut update);
            update.push(format_args!(" WHERE {} = {chat} AND ", self.of));
            match transaction.is_postgres() {
                true => {
                    let place = update.bind(row.try_get_by_index::<String>(0).map_err(failed)?);
                    update.push(format_args!("ctid = {place}::tid"));
                }
                false => {
                    let place = update.bind(row.try_get_by_index::<i64>(0).map_err(failed)?);
                    update.push(format_args!("rowid = {place}"));
                }
            }
            if update.execute(transaction).await.map_err(failed)? != 1 {
                let reason = "another program writes to the thread";
                return Err(Error::backend("redact a message", reason));
            }
        }
        Ok(())
    }

    /// The rows that have one of the texts: where each is, what it stands under, its type, and it.
    fn look(
        &self,
        look: &mut Query,
        redaction: &Redaction,
        belongs: impl Fn(&mut Query) -> crate::sql::Parameter,
    ) {
        let (table, name) = (self.table, self.name);
        let (key, tag) = match self.kind {
            Kind::Value(key) => (key, "type"),
            Kind::Json(_) | Kind::Text => ("''", "''"),
        };
        let (place, shown) = match (look.is_for_postgres(), self.kind) {
            (true, Kind::Value(_)) => ("ctid::text", name.to_owned()),
            (true, _) => ("ctid::text", format!("{name}::text")),
            (false, _) => ("rowid", name.to_owned()),
        };
        let chat = belongs(look);
        look.push(format_args!(
            "SELECT {place}, {key}, {tag}, {shown} FROM {table} WHERE {} = {chat} AND (",
            self.of
        ));
        for (number, form) in redaction.forms().iter().enumerate() {
            let or = if number > 0 { " OR " } else { "" };
            let form = match self.kind {
                Kind::Value(_) => look.bind(form.as_bytes()),
                Kind::Json(_) | Kind::Text => look.bind(form.as_str()),
            };
            match (look.is_for_postgres(), self.kind) {
                (true, Kind::Value(_)) => {
                    look.push(format_args!("{or}position({form} IN {shown}) > 0"))
                }
                (true, _) => look.push(format_args!("{or}strpos({shown}, {form}) > 0")),
                (false, _) => look.push(format_args!("{or}instr({shown}, {form}) > 0")),
            };
        }
        look.push_str(")");
    }

    /// Adds what the column of the row is to be, if that is something else than it is.
    fn set(&self, update: &mut Query, redaction: &Redaction, row: &QueryResult) -> Result<bool> {
        let refused = |error: &dyn std::fmt::Display| {
            let what = format!("a row of {}", self.table);
            Error::unreadable(what, error.to_string())
        };
        match self.kind {
            Kind::Value(_) => {
                let key: String = row.try_get_by_index(1).map_err(failed)?;
                let tag: Option<String> = row.try_get_by_index(2).map_err(failed)?;
                let bytes: Vec<u8> = row.try_get_by_index(3).map_err(failed)?;
                let value = Value::from_parts(tag.unwrap_or_default(), bytes);
                let redacted = redaction.value(&key, &value);
                let redacted = redacted.map_err(|error| refused(&error))?;
                let Some(redacted) = redacted else {
                    return Ok(false);
                };
                let bytes = update.bind(redacted.bytes());
                update.push(bytes);
            }
            Kind::Json(cast) => {
                let text: String = row.try_get_by_index(3).map_err(failed)?;
                let mut json: Json =
                    serde_json::from_str(&text).map_err(|error| refused(&error))?;
                if !redaction.json("", &mut json) {
                    return Ok(false);
                }
                let text = update.bind(json.to_string());
                match update.is_for_postgres() {
                    true => update.push(format_args!("{text}::text::{cast}")),
                    false => update.push(text),
                };
            }
            Kind::Text => {
                let text: String = row.try_get_by_index(3).map_err(failed)?;
                let Some(redacted) = redaction.text(&text) else {
                    return Ok(false);
                };
                let text = update.bind(redacted);
                update.push(text);
            }
        }
        Ok(true)
    }
}

/// A chat whose values are encrypted: each is decrypted to be looked at.
struct Chat<'a> {
    conversation: ConversationId,
    thread: &'a ThreadId,
}

impl Chat<'_> {
    async fn redact(
        &self,
        transaction: &Connection,
        redaction: &Redaction,
        ring: &KeyRing,
    ) -> Result<()> {
        for column in &encryption::COLUMNS {
            let mut select = column.select(transaction);
            let refused = |error| unreadable(format!("a row of {}", column.table), error);
            match column.scope() {
                Some(THREAD) => {
                    let thread = select.bind(self.thread.as_str());
                    select.push(format_args!("{THREAD} = {thread}"));
                }
                Some(scope) => {
                    let conversation = select.bind(self.conversation.0);
                    select.push(format_args!("{scope} = {conversation}"));
                }
                // Of no chat.
                None => continue,
            }
            for row in select.rows(transaction).await.map_err(failed)? {
                let Some(mut cell) = column.read(transaction, &row).map_err(failed)? else {
                    continue;
                };
                let value = column
                    .open(ring, &cell.place, cell.value)
                    .map_err(refused)?;
                let redacted = redaction.value(column.named(&cell.place), &value);
                let what = || format!("a row of {}", column.table);
                let redacted =
                    redacted.map_err(|error| Error::unreadable(what(), error.to_string()))?;
                let Some(redacted) = redacted else {
                    continue;
                };
                cell.value = column.seal(ring, &cell.place, &redacted).map_err(refused)?;
                column.write(transaction, &cell).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn redact_turns(
        &self,
        transaction: &Connection,
        redaction: &Redaction,
        keys: &Keys,
    ) -> Result<()> {
        let turns = SqlRepository::<Turn>::within(transaction.clone()).with(keys.clone());
        let ids = TURNS.query(transaction).with(self.conversation.0);
        for row in ids.rows(transaction).await.map_err(failed)? {
            let id = TurnId(row.try_get_by_index(0).map_err(failed)?);
            let change = |turn: &mut Turn| {
                if let Some(input) = &mut turn.input {
                    redaction.json("", input);
                }
                turn.error = turn
                    .error
                    .take()
                    .map(|error| redaction.text(&error).unwrap_or(error));
                if let Some(asked) = &mut turn.interrupt {
                    let mut json = json!(asked);
                    redaction.json("", &mut json);
                    let redacted = serde_json::from_value(json);
                    *asked = redacted.map_err(|error| Error::unreadable("an interrupt", error))?;
                }
                Ok(())
            };
            turns.amend(&self.conversation.key(id), &change).await?;
        }
        Ok(())
    }
}

fn failed(error: DbErr) -> Error {
    storage_error("redact a message", error)
}
