//! A GIN index of numbers. Each is a hash of a word together with the block of positions in which its
//! message stands, so that a search reads the newest block alone where that has enough of them, then
//! ever more at once: it costs the same for words that are in all messages and for those in one, on
//! any page. No extension is needed, nor the right to make one.

use sea_orm::DbErr;
use yai_agentkit_core::conversation::{MAX_TEXT, TextQuery};

use super::{BITS, Found, New, wanted};
use crate::{connection::Connection, sql::Query, tenancy::IS_MINE};

/// A block has two to the power of so many positions.
const BLOCK: u32 = 14;

/// How far the index is: messages up to `settled` are all in it; those up to `reached` were looked for,
/// but one whose transaction was slow may have come later. They are looked for once more when all
/// transactions have ended that were under way when the place `mark` was reached. A transaction takes a
/// position just before it takes its number, hence the seconds.
const PROGRESS: &str =
    "SELECT p.reached, p.settled, p.mark, (SELECT last_value FROM agent_positions),
    p.mark_xid <= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
        AND p.marked_at < statement_timestamp() - interval '10 s'
FROM agent_search_progress p FOR UPDATE SKIP LOCKED";

/// The messages between two places that are not in it.
const NEW: &str = "SELECT m.conversation_id, m.id, m.position, left(m.content, $3), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > $1 AND m.position <= $2 AND NOT EXISTS (
    SELECT FROM agent_search s
    WHERE s.conversation_id = m.conversation_id AND s.position = m.position
)";

const ADVANCE: &str = "UPDATE agent_search_progress SET reached = $1";

const SETTLE: &str = "UPDATE agent_search_progress SET settled = mark, mark = reached,
    mark_xid = pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    marked_at = statement_timestamp()";

/// Where the newest message stands. PostgreSQL takes the hits in some blocks for many, and would start
/// workers and compile, for tens of milliseconds, what takes one.
const NEWEST: &str = "SELECT reached, set_config('jit', 'off', true),
    set_config('max_parallel_workers_per_gather', '0', true)
FROM agent_search_progress";

pub(super) async fn index(connection: &Connection, limit: i64) -> Result<i64, DbErr> {
    let transaction = connection.begin().await?;
    let progress = Query::new(&transaction, PROGRESS)
        .rows(&transaction)
        .await?;
    let Some(row) = progress.first() else {
        return Ok(0);
    };
    let [reached, settled, mark, newest] = [0, 1, 2, 3].map(|column| row.try_get_by_index(column));
    let [reached, settled, mark, newest]: [i64; 4] = [reached?, settled?, mark?, newest?];
    let is_over: bool = row.try_get_by_index(4)?;
    let until = newest.min(reached.saturating_add(limit));
    if until > reached {
        add(&transaction, reached, until).await?;
        let advance = Query::new(&transaction, ADVANCE).with(until);
        advance.execute(&transaction).await?;
    }
    if is_over && settled < until {
        add(&transaction, settled, mark).await?;
        let settle = Query::new(&transaction, SETTLE);
        settle.execute(&transaction).await?;
    }
    transaction.commit().await?;
    Ok((until - reached).max(0))
}

async fn add(transaction: &Connection, after: i64, until: i64) -> Result<(), DbErr> {
    let new = Query::new(transaction, NEW).with(after).with(until);
    let new = new.with(i32::try_from(MAX_TEXT).unwrap_or(i32::MAX));
    let rows = new.rows(transaction).await?;
    let new: Vec<New> = rows.iter().map(New::of).collect::<Result<_, _>>()?;
    if new.is_empty() {
        return Ok(());
    }
    insert(&new).execute(transaction).await.map(drop)
}

fn insert(new: &[New]) -> Query {
    let mut query = Query::on_postgres();
    let conversation = query.column(new, |new| new.conversation);
    let position = query.column(new, |new| new.position);
    let message = query.column(new, |new| new.message);
    let keys = query.column(new, |new| {
        let hashes = new.hashes.iter();
        let keys = hashes.map(|hash| key(new.position >> BLOCK, *hash).to_string());
        format!("{{{}}}", keys.collect::<Vec<_>>().join(","))
    });
    query.push(format_args!(
        "INSERT INTO agent_search (conversation_id, position, message_id, keys)
SELECT n.conversation_id, n.position, n.message_id, n.keys::bigint[]
FROM unnest({conversation}::uuid[], {position}::bigint[], {message}::uuid[], {keys}::text[])
    n (conversation_id, position, message_id, keys)
ON CONFLICT DO NOTHING"
    ));
    query
}

fn key(block: i64, hash: i64) -> i64 {
    (block << BITS) | hash
}

pub(super) async fn find(
    connection: &Connection,
    query: &TextQuery,
    wanted_rows: usize,
) -> Result<Vec<Found>, DbErr> {
    let transaction = connection.begin().await?;
    let newest = Query::new(&transaction, NEWEST).rows(&transaction).await?;
    let newest = newest.first().map(|row| row.try_get_by_index::<i64>(0));
    let newest = newest.transpose()?.unwrap_or_default() + 1;
    let before = query.before.map_or(newest, |before| before.min(newest));
    let (mut last, mut count) = (before >> BLOCK, 1);
    let mut found: Vec<Found> = Vec::new();
    while last >= 0 && found.len() < wanted_rows {
        let first = (last + 1 - count).max(0);
        let limit = i64::try_from(wanted_rows - found.len()).unwrap_or(i64::MAX);
        let hits = hits(
            query,
            [first, last],
            before,
            limit,
            connection.is_of_tenant(),
        );
        let rows = hits.rows(&transaction).await?;
        for row in &rows {
            found.push(Found::of(row)?);
        }
        last = first - 1;
        // As many as the rest may be in, if those that come are like these.
        let rest = i64::try_from(wanted_rows.saturating_sub(found.len())).unwrap_or(i64::MAX);
        let per_row = i64::try_from(rows.len()).unwrap_or(i64::MAX).max(1);
        count = (count.saturating_mul(rest) / per_row).clamp(1, 4 * count);
    }
    transaction.commit().await?;
    Ok(found)
}

/// The hits in some blocks, but those that have a newer one in their conversation. Those of one tenant
/// are looked for by place: under row-level security PostgreSQL asks no index whether arrays overlap.
pub(super) fn hits(
    query: &TextQuery,
    [first, last]: [i64; 2],
    before: i64,
    limit: i64,
    of_tenant: bool,
) -> Query {
    let mut hits = Query::on_postgres();
    let before = hits.bind(before.min((last + 1) << BLOCK));
    let place = of_tenant.then(|| {
        let since = hits.bind(first << BLOCK);
        format!(" AND s.position >= {since} AND s.{IS_MINE}")
    });
    let place = place.unwrap_or_default();
    let keys = wanted(query);
    let keys = keys.into_iter().map(|hash| {
        let keys = hits.column(first..=last, |block| key(block, hash));
        format!(" AND s.keys && {keys}::bigint[]")
    });
    let keys: String = keys.collect();
    let words = hits.column(wanted(query), |hash| hash);
    let owner = hits.bind(query.owner.as_deref());
    let limit = hits.bind(limit);
    // What is behind OFFSET is looked at one by one, until there are enough.
    hits.push(format_args!(
        "SELECT f.conversation_id, f.message_id, f.position FROM (
    SELECT s.conversation_id, s.message_id, s.position FROM agent_search s
    WHERE s.position < {before}{place}{keys}
    ORDER BY s.position DESC OFFSET 0
) f
WHERE (
    SELECT true FROM agent_messages m
    WHERE m.id = f.message_id AND m.conversation_id = f.conversation_id
        AND m.position = f.position
) AND ({owner}::text IS NULL OR (
    SELECT c.owner FROM agent_conversations c WHERE c.id = f.conversation_id
) = {owner}) AND (
    SELECT n.position FROM agent_search n
    WHERE n.conversation_id = f.conversation_id AND n.position > f.position
        AND n.keys @> ARRAY(
            SELECT n.position >> {BLOCK} << {BITS} | w FROM unnest({words}::bigint[]) w
        )
        AND EXISTS (
            SELECT FROM agent_messages m
            WHERE m.id = n.message_id AND m.conversation_id = n.conversation_id
                AND m.position = n.position
        )
    ORDER BY n.position LIMIT 1
) IS NULL
LIMIT {limit}"
    ));
    hits
}
