//! The rows of tables whose values are encrypted each by itself, to be read and written anew.

use sea_orm::{DbErr, QueryResult};
use yai_agentkit_core::{CheckpointId, CheckpointKey, Namespace, ThreadId, Value};

use super::{
    EncryptionError,
    cipher::{KeyRing, TEXT},
    rows::{BLOBS, CHECKPOINTS, EVENTS, RECORDS, STORE, WRITES},
};
use crate::{
    connection::Connection,
    sql::{Parameter, Query},
};

/// A column with encrypted values.
pub(crate) struct Column {
    pub(crate) table: &'static str,
    pub(crate) name: &'static str,
    /// The place of a value, in this order.
    keys: &'static [(&'static str, Key)],
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Key {
    Text,
    Number,
    Id,
}

/// How a value stands there.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Bytes, with a type.
    Value,
    /// The values within a checkpoint.
    Checkpoint,
    /// JSON of a type of PostgreSQL.
    Json(&'static str),
    /// The only item of an array.
    Array,
}

/// All of them, but for those of rows that are entities.
pub(crate) static COLUMNS: [Column; 6] = [
    Column {
        table: CHECKPOINTS,
        name: "checkpoint",
        keys: &[
            ("thread_id", Key::Text),
            ("checkpoint_ns", Key::Text),
            ("checkpoint_id", Key::Text),
        ],
        kind: Kind::Checkpoint,
    },
    Column {
        table: BLOBS,
        name: "blob",
        keys: &[
            ("thread_id", Key::Text),
            ("checkpoint_ns", Key::Text),
            ("channel", Key::Text),
            ("version", Key::Text),
        ],
        kind: Kind::Value,
    },
    Column {
        table: WRITES,
        name: "blob",
        keys: &[
            ("thread_id", Key::Text),
            ("checkpoint_ns", Key::Text),
            ("checkpoint_id", Key::Text),
            ("task_id", Key::Text),
            ("idx", Key::Number),
            ("channel", Key::Text),
        ],
        kind: Kind::Value,
    },
    Column {
        table: EVENTS,
        name: "events",
        keys: &[
            ("conversation_id", Key::Id),
            ("turn_id", Key::Id),
            ("sequence", Key::Number),
        ],
        kind: Kind::Array,
    },
    Column {
        table: RECORDS,
        name: "blob",
        keys: &[
            ("conversation_id", Key::Id),
            ("turn_id", Key::Id),
            ("name", Key::Text),
        ],
        kind: Kind::Value,
    },
    Column {
        table: STORE,
        name: "value",
        keys: &[("prefix", Key::Text), ("key", Key::Text)],
        kind: Kind::Json("jsonb"),
    },
];

/// A value, and where it is.
pub(crate) struct Cell {
    row: Row,
    /// Without the table.
    pub(crate) place: Vec<String>,
    /// JSON has the type `json`.
    pub(crate) value: Value,
}

#[derive(Clone)]
enum Row {
    Postgres(String),
    Sqlite(i64),
}

impl Column {
    /// By what its rows belong to a chat, if they do.
    pub(crate) fn scope(&self) -> Option<&'static str> {
        let first = self.keys.first().map(|(name, _)| *name);
        first.filter(|name| name.ends_with("_id"))
    }

    /// What a value stands under: a channel, or a name.
    pub(crate) fn named<'a>(&self, place: &'a [String]) -> &'a str {
        let named = |(name, _): &(&str, Key)| matches!(*name, "channel" | "name");
        let place = self
            .keys
            .iter()
            .position(named)
            .and_then(|part| place.get(part));
        place.map(String::as_str).unwrap_or_default()
    }

    /// Begins a statement that reads cells; a condition follows.
    pub(crate) fn select(&self, connection: &Connection) -> Query {
        let is_postgres = connection.is_postgres();
        let row = if is_postgres { "ctid::text" } else { "rowid" };
        let mut query = Query::new(connection, format!("SELECT {row}"));
        for (name, key) in self.keys {
            let text = match (key, is_postgres) {
                (Key::Text, _) => (*name).to_owned(),
                (Key::Number, _) => format!("CAST({name} AS TEXT)"),
                (Key::Id, true) => format!("replace({name}::text, '-', '')"),
                (Key::Id, false) => format!("lower(hex({name}))"),
            };
            query.push(format_args!(", {text}"));
        }
        let (name, table) = (self.name, self.table);
        match (self.kind, is_postgres) {
            (Kind::Value, _) => query.push(format_args!(", type, {name}")),
            (_, true) => query.push(format_args!(", {name}::text")),
            (_, false) => query.push(format_args!(", {name}")),
        };
        query.push(format_args!(" FROM {table} WHERE "));
        query
    }

    /// Adds the condition that a value is not encrypted with the key of this number.
    pub(crate) fn push_not_of(&self, query: &mut Query, number: u32) {
        let (name, is_postgres) = (self.name, query.is_for_postgres());
        match self.kind {
            Kind::Value => {
                let header = query.bind(number.to_be_bytes().as_slice());
                let tag =
                    format!("(type NOT LIKE '%+xchacha20' OR substr({name}, 1, 4) <> {header})");
                query.push(format_args!("type <> 'empty' AND {tag}"));
            }
            Kind::Checkpoint | Kind::Json(_) | Kind::Array => {
                let cast = if is_postgres { "::text" } else { "" };
                query.push(format_args!("{name}{cast} NOT LIKE '%\"{TEXT}{number}:%'"));
            }
        }
    }

    /// The cell of a row that [`select`](Self::select) has read; `None` of one without a value.
    pub(crate) fn read(
        &self,
        connection: &Connection,
        row: &QueryResult,
    ) -> Result<Option<Cell>, DbErr> {
        let place = (1..=self.keys.len()).map(|column| row.try_get_by_index(column));
        let place: Vec<String> = place.collect::<Result<_, _>>()?;
        let next = 1 + self.keys.len();
        let value = if self.kind == Kind::Value {
            let (tag, bytes): (Option<String>, Option<Vec<u8>>) =
                (row.try_get_by_index(next)?, row.try_get_by_index(next + 1)?);
            let tag = tag.filter(|tag| tag != "empty");
            match (tag, bytes) {
                (Some(tag), Some(bytes)) => Value::from_parts(tag, bytes),
                _ => return Ok(None),
            }
        } else {
            let text: String = row.try_get_by_index(next)?;
            Value::from_parts("json", text.into_bytes())
        };
        let row = match connection.is_postgres() {
            true => Row::Postgres(row.try_get_by_index(0)?),
            false => Row::Sqlite(row.try_get_by_index(0)?),
        };
        Ok(Some(Cell { row, place, value }))
    }

    /// The value of a cell, decrypted at a place.
    pub(crate) fn open(
        &self,
        ring: &KeyRing,
        place: &[String],
        value: Value,
    ) -> Result<Value, EncryptionError> {
        let whole = self.place(place);
        let (tag, bytes) = match self.kind {
            Kind::Value => return ring.open_value(&whole, value),
            _ => value.into_parts(),
        };
        let text = String::from_utf8(bytes).map_err(|_| EncryptionError::Refused)?;
        let opened = match self.kind {
            Kind::Checkpoint => ring.open_inline(&key(place), &text)?,
            _ => match sealed_text(self.kind, &text) {
                Some(sealed) => ring.open_text(&whole, &sealed)?,
                None => ring.plain(text)?,
            },
        };
        Ok(Value::from_parts(tag, opened.into_bytes()))
    }

    /// A value, encrypted at a place.
    pub(crate) fn seal(
        &self,
        ring: &KeyRing,
        place: &[String],
        value: &Value,
    ) -> Result<Value, EncryptionError> {
        let whole = self.place(place);
        if self.kind == Kind::Value {
            return Ok(ring.seal_value(&whole, value));
        }
        let text = std::str::from_utf8(value.bytes()).map_err(|_| EncryptionError::Refused)?;
        let sealed = match self.kind {
            Kind::Checkpoint => {
                let sealed = ring.seal_inline(&key(place), text);
                sealed.map_err(|_| EncryptionError::Refused)?
            }
            Kind::Array => serde_json::json!([ring.seal_text(&whole, text)]).to_string(),
            _ => serde_json::json!(ring.seal_text(&whole, text)).to_string(),
        };
        Ok(Value::from_parts("json", sealed.into_bytes()))
    }

    fn place<'a>(&self, place: &'a [String]) -> Vec<&'a str> {
        let parts = place.iter().map(String::as_str);
        std::iter::once(self.table).chain(parts).collect()
    }

    /// Writes the value of a cell, in the transaction that has read it.
    pub(crate) async fn write(&self, transaction: &Connection, cell: &Cell) -> Result<(), DbErr> {
        let mut update = Query::new(
            transaction,
            format!("UPDATE {} SET {} = ", self.table, self.name),
        );
        let is_postgres = update.is_for_postgres();
        if self.kind == Kind::Value {
            let bytes = update.bind(cell.value.bytes());
            let tag = update.bind(cell.value.type_tag());
            update.push(format_args!("{bytes}, type = {tag}"));
        } else {
            let text = update.bind(String::from_utf8_lossy(cell.value.bytes()).as_ref());
            update.push(text);
            let cast = match self.kind {
                Kind::Array => "json",
                Kind::Json(cast) => cast,
                _ => "jsonb",
            };
            if is_postgres {
                update.push(format_args!("::text::{cast}"));
            }
        }
        update.push(" WHERE ");
        let place: Parameter;
        match &cell.row {
            Row::Postgres(row) => {
                place = update.bind(row.as_str());
                update.push(format_args!("ctid = {place}::tid"));
            }
            Row::Sqlite(row) => {
                place = update.bind(*row);
                update.push(format_args!("rowid = {place}"));
            }
        }
        match update.execute(transaction).await? {
            1 => Ok(()),
            _ => Err(DbErr::Custom(
                "another program writes to the row".to_owned(),
            )),
        }
    }
}

/// The text that is encrypted in JSON, if it is.
fn sealed_text(kind: Kind, json: &str) -> Option<String> {
    let text = match kind {
        Kind::Array => match serde_json::from_str::<[String; 1]>(json) {
            Ok([text]) => text,
            Err(_) => return None,
        },
        _ => serde_json::from_str(json).ok()?,
    };
    text.starts_with(TEXT).then_some(text)
}

/// Of a checkpoint.
fn key(place: &[String]) -> CheckpointKey {
    let part = |number: usize| place.get(number).map(String::as_str).unwrap_or_default();
    CheckpointKey {
        thread_id: ThreadId::from(part(0)),
        namespace: Namespace::from(part(1)),
        checkpoint_id: CheckpointId::from(part(2)),
    }
}
