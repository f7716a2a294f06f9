//! The table `threads`: which threads there are, by the time of their last write.

use chrono::{DateTime, SecondsFormat, Utc};
use sea_orm::{DbErr, QueryResult, Value as SqlValue};
use yai_agentkit_core::{Error, Page, Result, Thread, ThreadCursor, ThreadId};

use super::{Sql, row::Columns};
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
};

/// By threads_updated_at_idx, backwards.
pub(super) const FIRST_PAGE: Sql = Sql::same(
    "SELECT thread_id, parent_id, updated_at FROM threads
ORDER BY updated_at DESC, thread_id DESC LIMIT $1",
);
pub(super) const NEXT_PAGE: Sql = Sql::same(
    "SELECT thread_id, parent_id, updated_at FROM threads WHERE (updated_at, thread_id) < ($2, $3)
ORDER BY updated_at DESC, thread_id DESC LIMIT $1",
);

pub(super) async fn list(
    connection: &Connection,
    limit: u64,
    after: Option<&ThreadCursor>,
) -> Result<Page<Thread, ThreadCursor>> {
    // One more tells whether there is a next page.
    let limit = limit.min(i64::MAX as u64 - 1);
    let mut values = vec![SqlValue::from(limit.cast_signed() + 1)];
    let sql = match after {
        None => FIRST_PAGE,
        Some(cursor) => {
            values.push(time_value(connection, cursor.updated_at));
            values.push(cursor.id.as_str().into());
            NEXT_PAGE
        }
    };
    let rows = retrying!(connection, sql.rows(connection, values.clone()));
    let rows = rows.map_err(|error| storage_error("list threads", error))?;
    let is_last = rows.len() as u64 <= limit;
    let items = rows
        .iter()
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .map(|row| read(connection, row))
        .collect::<Result<Vec<_>>>()?;
    let next = items.last().filter(|_| !is_last).map(ThreadCursor::from);
    Ok(Page { items, next })
}

fn read(connection: &Connection, row: &QueryResult) -> Result<Thread> {
    let columns = || -> Result<_, DbErr> {
        let mut columns = Columns::new(row);
        let (id, parent): (String, Option<String>) = (columns.take()?, columns.take()?);
        let updated_at = if connection.is_postgres() {
            Ok(columns.take::<DateTime<Utc>>()?)
        } else {
            let text: String = columns.take()?;
            DateTime::parse_from_rfc3339(&text).map(|time| time.to_utc())
        };
        Ok((id, parent, updated_at))
    };
    let (id, parent, updated_at) =
        columns().map_err(|error| storage_error("list threads", error))?;
    Ok(Thread {
        id: id.into(),
        parent: parent.map(ThreadId::from),
        updated_at: updated_at.map_err(|error| Error::backend("read threads.updated_at", error))?,
    })
}

/// A time as `threads` holds it: on SQLite as text whose order is that of time.
pub(super) fn time_value(connection: &Connection, time: DateTime<Utc>) -> SqlValue {
    if connection.is_postgres() {
        time.into()
    } else {
        time_text(time).into()
    }
}

/// A time as SQLite's `threads` holds it.
pub(super) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
