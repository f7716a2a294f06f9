//! Encrypting anew what is stored: with another key, or at another place.

use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Error, Message, MessageId, Result, ThreadId, Turn, TurnId,
};

use super::{
    Readable,
    cells::{COLUMNS, Cell, Column},
    cipher::{KeyRing, TEXT},
    keys::Keys,
    rows::{BLOBS, CHECKPOINTS, WRITES, unreadable},
};
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
    repository::{SqlRepository, StoredEntity},
    sql::{Query, Sql},
};

/// How many pages of PostgreSQL are looked at at once.
const PAGES: i64 = 4;

/// How many rows of SQLite.
const ROWS: i64 = 100;

/// How far encrypting anew is, of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The table.
    pub table: &'static str,
    /// How many rows were encrypted anew.
    pub encrypted: u64,
    /// How much of the table was looked at, in hundredths.
    pub percent: u64,
}

/// The rows of entities, by conversation and id.
struct Entities {
    table: &'static str,
    keys: [&'static str; 2],
    encrypt: fn(Connection, Keys, Uuid, Uuid) -> Encrypted,
}

type Encrypted = futures::future::BoxFuture<'static, Result<()>>;

fn encrypt<E: StoredEntity>(transaction: Connection, keys: Keys, id: E::Id) -> Encrypted {
    let repository = SqlRepository::<E>::within(transaction).with(keys);
    Box::pin(async move { repository.encrypt(&id).await })
}

static ENTITIES: [Entities; 3] = [
    Entities {
        table: "agent_conversations",
        keys: ["id", "id"],
        encrypt: |transaction, keys, id, _| {
            encrypt::<Conversation>(transaction, keys, ConversationId(id))
        },
    },
    Entities {
        table: "agent_messages",
        keys: ["conversation_id", "id"],
        encrypt: |transaction, keys, conversation, id| {
            let id = ConversationId(conversation).key(MessageId(id));
            encrypt::<Message>(transaction, keys, id)
        },
    },
    Entities {
        table: "agent_turns",
        keys: ["conversation_id", "id"],
        encrypt: |transaction, keys, conversation, id| {
            let id = ConversationId(conversation).key(TurnId(id));
            encrypt::<Turn>(transaction, keys, id)
        },
    },
];

const EXTENT: Sql = Sql {
    postgres: "SELECT pg_relation_size($1::text::regclass)
    / current_setting('block_size')::bigint",
    sqlite: "",
};

/// A stretch of a table.
#[derive(Clone, Copy)]
struct Window {
    from: i64,
    /// Where the table ended at first.
    end: i64,
}

impl Window {
    fn push(self, query: &mut Query) {
        if query.is_for_postgres() {
            let (from, to) = (self.from, self.from + PAGES);
            query.push(format_args!(
                "ctid >= '({from},0)'::tid AND ctid < '({to},0)'::tid AND "
            ));
        } else {
            let from = self.from;
            query.push(format_args!("rowid > {from} AND "));
        }
    }

    fn close(query: &mut Query) {
        match query.is_for_postgres() {
            true => query.push(" FOR UPDATE"),
            false => query.push(format_args!(" ORDER BY rowid LIMIT {ROWS}")),
        };
    }
}

/// Encrypts with the newest key all that is not, in small transactions. May be repeated, and ended.
pub(crate) async fn all(
    connection: &Connection,
    keys: &Keys,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<u64> {
    let Some(ring) = keys.read_again(connection).await? else {
        return Err(Error::configuration(super::SETTING, "is not set"));
    };
    if connection.is_distributed() {
        let reason = "what Citus distributes can't be encrypted anew";
        return Err(Error::configuration(super::SETTING, reason));
    }
    let mut sum = 0;
    let cells = COLUMNS.iter().map(Work::Cells);
    let rows = ENTITIES.iter().map(Work::Rows);
    for work in cells.chain(rows) {
        sum += table(connection, work, (keys, &ring), progress).await?;
    }
    if ring.policy.readable < Readable::Messages {
        let forget = "DELETE FROM agent_search";
        let forgotten = retrying!(
            connection,
            Query::new(connection, forget).execute(connection)
        );
        forgotten.map_err(failed)?;
    }
    Ok(sum)
}

/// What is to be done with a table.
#[derive(Clone, Copy)]
enum Work {
    Cells(&'static Column),
    Rows(&'static Entities),
}

impl Work {
    fn table(self) -> &'static str {
        match self {
            Self::Cells(column) => column.table,
            Self::Rows(entities) => entities.table,
        }
    }

    async fn run(
        self,
        transaction: &Connection,
        (keys, ring): (&Keys, &KeyRing),
        window: Window,
    ) -> Result<Step> {
        match self {
            Self::Cells(column) => cells(transaction, column, ring, window).await,
            Self::Rows(entities) => rows(transaction, entities, keys, ring, window).await,
        }
    }
}

/// Goes through a table, a window a transaction.
async fn table(
    connection: &Connection,
    work: Work,
    keys: (&Keys, &KeyRing),
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<u64> {
    let name = work.table();
    let mut window = Window {
        from: 0,
        end: extent(connection, name).await.map_err(failed)?,
    };
    let mut encrypted = 0;
    while window.from < window.end {
        let mut attempts = 0;
        let step = loop {
            let transaction = connection.begin().await.map_err(failed)?;
            let done = match work.run(&transaction, keys, window).await {
                Ok(step) => transaction.commit().await.map_err(failed).map(|()| step),
                Err(error) => transaction.undo().await.map_err(failed).and(Err(error)),
            };
            match done {
                Err(error) if connection.may_repeat(&error, &mut attempts).await => {}
                done => break done?,
            }
        };
        encrypted += step.encrypted;
        window.from = step.next;
        let looked_at = window.from.clamp(0, window.end).unsigned_abs();
        progress(Progress {
            table: name,
            encrypted,
            percent: looked_at.saturating_mul(100) / window.end.unsigned_abs().max(1),
        });
    }
    Ok(encrypted)
}

/// What a transaction has done, and where the next one begins.
struct Step {
    encrypted: u64,
    next: i64,
}

/// Pages of PostgreSQL, the last row of SQLite.
async fn extent(connection: &Connection, table: &str) -> Result<i64, DbErr> {
    let query = if connection.is_postgres() {
        EXTENT.query(connection).with(table)
    } else {
        let last = format!("SELECT COALESCE(max(rowid), 0) FROM {table}");
        Query::new(connection, last)
    };
    let rows = retrying!(connection, query.clone().rows(connection))?;
    rows.first().map_or(Ok(0), |row| row.try_get_by_index(0))
}

/// Where the next window begins.
fn next(
    connection: &Connection,
    window: Window,
    rows: &[QueryResult],
    column: usize,
) -> Result<i64> {
    if connection.is_postgres() {
        return Ok(window.from + PAGES);
    }
    if rows.len() < usize::try_from(ROWS).unwrap_or(usize::MAX) {
        return Ok(window.end);
    }
    let last = rows.last().map(|row| row.try_get_by_index(column));
    last.unwrap_or(Ok(window.end)).map_err(failed)
}

async fn cells(
    transaction: &Connection,
    column: &Column,
    ring: &KeyRing,
    window: Window,
) -> Result<Step> {
    let mut select = column.select(transaction);
    window.push(&mut select);
    column.push_not_of(&mut select, ring.newest());
    Window::close(&mut select);
    let rows = select.rows(transaction).await.map_err(failed)?;
    let mut encrypted = 0;
    for row in &rows {
        let cell = column.read(transaction, row).map_err(failed)?;
        if let Some(cell) = cell {
            let place = cell.place.clone();
            again(transaction, column, ring, (cell, &place)).await?;
            encrypted += 1;
        }
    }
    let next = next(transaction, window, &rows, 0)?;
    Ok(Step { encrypted, next })
}

/// Decrypts a cell that was encrypted at a place, and encrypts it at its own.
async fn again(
    transaction: &Connection,
    column: &Column,
    ring: &KeyRing,
    (mut cell, from): (Cell, &[String]),
) -> Result<()> {
    let refused = |error| unreadable(format!("a row of {}", column.table), error);
    let value = column.open(ring, from, cell.value).map_err(refused)?;
    cell.value = column.seal(ring, &cell.place, &value).map_err(refused)?;
    column.write(transaction, &cell).await.map_err(failed)
}

async fn rows(
    transaction: &Connection,
    entities: &Entities,
    keys: &Keys,
    ring: &KeyRing,
    window: Window,
) -> Result<Step> {
    let [first, second] = entities.keys;
    let row = if transaction.is_postgres() {
        "0::bigint"
    } else {
        "rowid"
    };
    let select = format!(
        "SELECT {first}, {second}, {row} FROM {} WHERE ",
        entities.table
    );
    let mut select = Query::new(transaction, select);
    window.push(&mut select);
    select.push(is_old(entities.table, ring, transaction.is_postgres()));
    Window::close(&mut select);
    let rows = select.rows(transaction).await.map_err(failed)?;
    for row in &rows {
        let [first, second] = [0, 1].map(|column| row.try_get_by_index::<Uuid>(column));
        let (first, second) = (first.map_err(failed)?, second.map_err(failed)?);
        (entities.encrypt)(transaction.clone(), keys.clone(), first, second).await?;
    }
    Ok(Step {
        encrypted: rows.len() as u64,
        next: next(transaction, window, &rows, 2)?,
    })
}

/// The condition that a row is not encrypted with the newest key. All columns of a row are with one.
fn is_old(table: &str, ring: &KeyRing, is_postgres: bool) -> String {
    let cast = if is_postgres { "::text" } else { "" };
    let number = ring.newest();
    let text = |column: &str| format!("{column} NOT LIKE '{TEXT}{number}:%'");
    let json = |column: &str| format!("{column}{cast} NOT LIKE '%\"{TEXT}{number}:%'");
    match (table, ring.policy.readable) {
        ("agent_conversations", Readable::Nothing) => {
            format!("(title IS NOT NULL OR {})", json("metadata_"))
        }
        ("agent_conversations", _) => {
            format!(
                "(metadata_{cast} LIKE '\"{TEXT}%' AND {})",
                json("metadata_")
            )
        }
        ("agent_messages", Readable::Nothing | Readable::Titles) => text("content"),
        ("agent_messages", Readable::Messages) => {
            format!("({} OR {})", json("parts"), json("metadata_"))
        }
        _ => {
            let (input, error, interrupt) = (json("input"), text("error"), json("interrupt"));
            format!("({input} OR {error} OR {interrupt})")
        }
    }
}

/// Binds to their thread the values that were copied from another one.
pub(crate) async fn copied(
    transaction: &Connection,
    ring: &KeyRing,
    source: &ThreadId,
    target: &ThreadId,
) -> Result<()> {
    let of_threads = [CHECKPOINTS, BLOBS, WRITES];
    let mut columns = COLUMNS.iter();
    let columns = columns
        .by_ref()
        .filter(|column| of_threads.contains(&column.table));
    for column in columns {
        let cells = of_thread(transaction, column, target).await;
        for cell in cells.map_err(failed)? {
            let mut from = cell.place.clone();
            source.as_str().clone_into(&mut from[0]);
            again(transaction, column, ring, (cell, &from)).await?;
        }
    }
    Ok(())
}

async fn of_thread(
    transaction: &Connection,
    column: &Column,
    thread: &ThreadId,
) -> Result<Vec<Cell>, DbErr> {
    let mut select = column.select(transaction);
    let thread = select.bind(thread.as_str());
    select.push(format_args!("thread_id = {thread}"));
    let rows = select.rows(transaction).await?;
    let cells = rows.iter().map(|row| column.read(transaction, row));
    let cells: Vec<_> = cells.collect::<Result<_, _>>()?;
    Ok(cells.into_iter().flatten().collect())
}

fn failed(error: DbErr) -> Error {
    storage_error("encrypt anew", error)
}
