//! The one translation of database errors, by code.

use std::{borrow::Cow, io};

use sea_orm::{DbErr, RuntimeErr};
use sqlx::error::DatabaseError;
use yai_agentkit_core::{ConflictKind, Error, error::Outcome};

/// What a database error means, and what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unique,
    ForeignKey,
    /// A value that the database can't store: refused, naming it.
    Refused,
    /// The connection is gone; another one may work at once: the idle ones that don't answer are
    /// closed, and what is safe to repeat is repeated.
    Disconnected,
    /// The session can't write any more, as after a failover: all are closed, and what was undone is
    /// repeated on a new one.
    ReadOnly,
    /// What the session has prepared no longer fits the tables: likewise.
    Stale,
    /// The transaction was undone for another one's sake: repeated, a few times.
    Undone,
    /// Later, whoever asked.
    Busy,
    /// The operator has to act: wrong password, no such database, not migrated.
    Misconfigured,
    /// A row holds what is none of its column's values.
    Unreadable,
    Other,
}

/// `error` of `operation`, for errors that are no matter of a single row.
pub(crate) fn storage_error(operation: impl Into<Cow<'static, str>>, error: DbErr) -> Error {
    let operation = operation.into();
    match kind(&error) {
        Kind::Disconnected | Kind::ReadOnly | Kind::Undone | Kind::Busy => {
            Error::unavailable(operation, outcome(&error), error)
        }
        Kind::Refused => Error::invalid(operation, "holds a value that the database can't store"),
        Kind::Misconfigured => Error::configuration(operation, without_secret(&error)),
        Kind::Unique => Error::Conflict(ConflictKind::Row {
            entity: "row",
            id: operation.into_owned(),
        }),
        Kind::Unreadable => Error::unreadable(operation, error),
        Kind::ForeignKey | Kind::Stale | Kind::Other => Error::backend(operation, error),
    }
}

/// Whether the connection was lost, so that another one may work at once.
pub(crate) fn is_disconnected(error: &DbErr) -> bool {
    kind(error) == Kind::Disconnected
}

/// Whether no connection was to be had, or the one there was has been lost.
pub(crate) fn is_without_connection(error: &DbErr) -> bool {
    is_disconnected(error)
        || matches!(
            sqlx_error(error),
            Some(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed)
        )
}

/// That the database takes no write now, and why as far as its code tells.
pub(crate) fn not_writable(error: DbErr) -> Error {
    let why = match kind(&error) {
        _ if matches!(sqlx_error(&error), Some(sqlx::Error::Io(error)) if is_stale(error)) => {
            "the SQLite file or its log was deleted or replaced: put it back, or restart"
        }
        Kind::ReadOnly => "the database may only be read (a standby, or read-only by a setting)",
        Kind::Disconnected => "the database is out of reach",
        Kind::Busy | Kind::Undone => "the database is locked, full or overloaded",
        Kind::Misconfigured => "the database can't be opened, or not by this user",
        _ => "the database refuses a write",
    };
    Error::unavailable(why, Outcome::NotDone, error)
}

/// Why a call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// On another connection; whether it was done is unknown.
    Reconnected,
    /// On a session that begins anew; nothing was done.
    Renewed,
    /// After a moment; nothing was done.
    Undone,
}

/// What may be called again, after this.
pub(crate) trait Repeatable {
    fn repeat(&self) -> Option<Repeat>;
}

impl Repeatable for DbErr {
    fn repeat(&self) -> Option<Repeat> {
        match kind(self) {
            Kind::Disconnected => Some(Repeat::Reconnected),
            Kind::ReadOnly | Kind::Stale => Some(Repeat::Renewed),
            Kind::Undone => Some(Repeat::Undone),
            _ => None,
        }
    }
}

impl Repeatable for Error {
    fn repeat(&self) -> Option<Repeat> {
        match self {
            Self::Unavailable { source, .. } | Self::Backend { source, .. } => {
                source.downcast_ref::<DbErr>()?.repeat()
            }
            _ => None,
        }
    }
}

/// Whether the connection on which `error` came may serve the next statement: SQLite's may be at odds
/// with its file.
pub(crate) fn spares_connection(error: &DbErr) -> bool {
    match sqlx_error(error) {
        Some(sqlx::Error::Database(database)) if !is_postgres(&**database) => {
            // Out of memory, I/O, corrupt, can't open, locking protocol, not a database, read-only.
            !matches!(
                sqlite_code(&**database) & 0xff,
                7 | 10 | 11 | 14 | 15 | 26 | 8
            )
        }
        _ => !matches!(
            kind(error),
            Kind::Disconnected | Kind::ReadOnly | Kind::Stale
        ),
    }
}

/// Whether the server is there, but not ready yet.
pub(crate) fn is_starting(error: &DbErr) -> bool {
    matches!(code(error).as_deref(), Some("57P03" | "53300"))
}

/// Whether trying again soon can help.
pub(crate) fn is_transient(error: &DbErr) -> bool {
    matches!(
        kind(error),
        Kind::Disconnected | Kind::ReadOnly | Kind::Undone | Kind::Busy
    )
}

/// Whether a unique index refused the row.
pub(crate) fn is_unique_violation(error: &DbErr) -> bool {
    kind(error) == Kind::Unique
}

/// Whether a row is to blame that can't be read.
pub(crate) fn is_unreadable(error: &DbErr) -> bool {
    kind(error) == Kind::Unreadable
}

/// Whether a foreign key refused the change.
pub(crate) fn is_foreign_key_violation(error: &DbErr) -> bool {
    kind(error) == Kind::ForeignKey
}

pub(crate) fn from_sqlx(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

/// That whoever was to do it is gone.
pub(crate) fn interrupted() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(
        "the runtime that was at it has been shut down".to_owned(),
    ))
}

/// That there is no answer after all the time that there was for it.
pub(crate) fn overdue() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(
        "the database did not answer in time".to_owned(),
    ))
}

/// The code that PostgreSQL or SQLite gave.
pub(crate) fn code(error: &DbErr) -> Option<String> {
    sqlx_error(error)?
        .as_database_error()?
        .code()
        .map(Into::into)
}

/// A table whose unique keys the statement of a turn may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Messages,
    Turns,
    IdempotencyKeys,
}

/// The table in which PostgreSQL found a key taken.
pub(crate) fn taken_in(error: &DbErr) -> Option<Table> {
    let refused = sqlx_error(error)?.as_database_error()?;
    match refused.table()? {
        _ if !is_unique_violation(error) => None,
        "agent_messages" => Some(Table::Messages),
        "agent_turns" => Some(Table::Turns),
        "agent_idempotency_keys" => Some(Table::IdempotencyKeys),
        _ => None,
    }
}

/// Whether what failed with `error` may have been done all the same. What a database refuses in
/// words of its own it has undone.
fn outcome(error: &DbErr) -> Outcome {
    match sqlx_error(error) {
        Some(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed) => {
            Outcome::NotDone
        }
        Some(sqlx::Error::Io(error)) if is_stale(error) => Outcome::NotDone,
        Some(sqlx::Error::Database(_))
            if matches!(kind(error), Kind::ReadOnly | Kind::Undone | Kind::Busy) =>
        {
            Outcome::NotDone
        }
        _ => Outcome::Unknown,
    }
}

fn kind(error: &DbErr) -> Kind {
    match error {
        DbErr::Conn(RuntimeErr::Internal(_)) => return Kind::Busy,
        DbErr::Type(_) | DbErr::Json(_) | DbErr::TryIntoErr { .. } => return Kind::Unreadable,
        _ => {}
    }
    match sqlx_error(error) {
        Some(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => Kind::Unreadable,
        // What a certificate is refused with, that of a wrong host or of an unknown authority.
        Some(sqlx::Error::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Kind::Misconfigured
        }
        Some(sqlx::Error::Io(error)) if is_stale(error) => Kind::Busy,
        Some(sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_)) => {
            Kind::Disconnected
        }
        Some(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed) => {
            Kind::Busy
        }
        Some(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => Kind::Misconfigured,
        Some(sqlx::Error::Database(error)) => {
            if is_postgres(&**error) {
                postgres_kind(&error.code().unwrap_or_default())
            } else {
                sqlite_kind(sqlite_code(&**error))
            }
        }
        _ => Kind::Other,
    }
}

/// Whether SQLite's file is no longer where it was opened.
fn is_stale(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
}

fn is_postgres(error: &dyn DatabaseError) -> bool {
    error
        .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        .is_some()
}

fn sqlite_code(error: &dyn DatabaseError) -> u32 {
    error
        .code()
        .and_then(|code| code.parse().ok())
        .unwrap_or_default()
}

fn sqlx_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn postgres_kind(code: &str) -> Kind {
    match code {
        "23505" => Kind::Unique,
        "23503" => Kind::ForeignKey,
        // Text too long, out of range, invalid encoding, an untranslatable character, \u0000 in JSON.
        "22000" | "22001" | "22003" | "22021" | "22P05" | "22P02" => Kind::Refused,
        // Terminated by an administrator, a crash, idling, in a transaction or not, a transaction that
        // took too long, starting up, or the connection failed.
        "57P01" | "57P02" | "57P05" | "25P03" | "25P04" | "57P03" => Kind::Disconnected,
        code if code.starts_with("08") => Kind::Disconnected,
        // A standby, or a session that may only read.
        "25006" => Kind::ReadOnly,
        // A cached plan must not change its result type, or what a statement needs is not supported;
        // a prepared statement that is gone, or there already.
        "0A000" | "26000" | "42P05" => Kind::Stale,
        // A serialization failure, a deadlock.
        "40001" | "40P01" => Kind::Undone,
        // An index row that is too long, a statement that is too complex.
        code if code.starts_with("54") => Kind::Refused,
        // Timed out, locked, too many connections, out of resources.
        "57014" | "55P03" => Kind::Busy,
        code if code.starts_with("53") => Kind::Busy,
        // No such database, no such table or schema, may not.
        "3D000" | "42P01" | "42704" | "3F000" | "42501" => Kind::Misconfigured,
        code if code.starts_with("28") => Kind::Misconfigured,
        _ => Kind::Other,
    }
}

/// <https://www.sqlite.org/rescode.html>; the low byte is the primary code.
fn sqlite_kind(code: u32) -> Kind {
    match code {
        1555 | 2067 => Kind::Unique,
        787 | 1811 => Kind::ForeignKey,
        // Can't open, not a database, read-only, may not.
        extended => match extended & 0xff {
            // Locked, out of memory, interrupted, an I/O error, full.
            5 | 6 | 7 | 9 | 10 | 13 => Kind::Busy,
            3 | 8 | 14 | 26 => Kind::Misconfigured,
            18 => Kind::Refused,
            _ => Kind::Other,
        },
    }
}

/// The words of the database or of TLS, which for these errors name users, databases and hosts but
/// no secret.
fn without_secret(error: &DbErr) -> String {
    match sqlx_error(error) {
        Some(sqlx::Error::Database(error)) => error.message().to_owned(),
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}
