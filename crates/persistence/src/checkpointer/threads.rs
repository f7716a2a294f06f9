//! The table `threads`: which threads there are, by the time of their last write.

use chrono::{DateTime, Utc};
use sea_orm::{DbErr, QueryResult};
use yai_agentkit_core::{
    Error, Result, ThreadId,
    checkpoint::{Thread, ThreadCursor},
    storage::Page,
};

use super::row::Columns;
use crate::{
    connection::{Connection, retrying},
    error::storage_error,
    sql::{Query, Sql},
};

/// By threads_updated_at_idx, backwards.
const FIRST_PAGE: Sql = Sql::same(
    "SELECT thread_id, parent_id, updated_at FROM threads
ORDER BY updated_at DESC, thread_id DESC LIMIT $1",
);
const NEXT_PAGE: Sql = Sql::same(
    "SELECT thread_id, parent_id, updated_at FROM threads WHERE (updated_at, thread_id) < ($2, $3)
ORDER BY updated_at DESC, thread_id DESC LIMIT $1",
);

/// The same of one tenant.
const FIRST_PAGE_OF_TENANT: &str = "SELECT thread_id, parent_id, updated_at FROM threads
WHERE tenant = current_setting('agentkit.tenant', true)
ORDER BY updated_at DESC, thread_id DESC LIMIT $1";
const NEXT_PAGE_OF_TENANT: &str = "SELECT thread_id, parent_id, updated_at FROM threads
WHERE tenant = current_setting('agentkit.tenant', true) AND (updated_at, thread_id) < ($2, $3)
ORDER BY updated_at DESC, thread_id DESC LIMIT $1";

pub(super) async fn list(
    connection: &Connection,
    limit: u64,
    after: Option<&ThreadCursor>,
) -> Result<Page<Thread, ThreadCursor>> {
    // One more tells whether there is a next page.
    let limit = limit.min(i64::MAX as u64 - 1);
    let rows = retrying!(
        connection,
        list_query(connection, limit.cast_signed() + 1, after).rows(connection)
    );
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

pub(super) fn list_query(
    connection: &Connection,
    limit: i64,
    after: Option<&ThreadCursor>,
) -> Query {
    let [first, next] = match connection.is_of_tenant() {
        true => [FIRST_PAGE_OF_TENANT, NEXT_PAGE_OF_TENANT],
        false => [FIRST_PAGE, NEXT_PAGE].map(|sql| sql.on(connection)),
    };
    let Some(cursor) = after else {
        return Query::new(connection, first).with(limit);
    };
    let mut query = Query::new(connection, next).with(limit);
    query.bind_time(cursor.updated_at);
    query.with(cursor.id.as_str())
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
    let updated_at = updated_at.map_err(|error| Error::unreadable("threads.updated_at", error))?;
    Ok(Thread::new(
        id.into(),
        parent.map(ThreadId::from),
        updated_at,
    ))
}
