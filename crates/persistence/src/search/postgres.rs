//! A GIN index of numbers. Each is a hash of a word together with the block of positions in which its
//! message stands, so that a search reads the newest block alone where that has enough of them, then
//! ever more at once: it costs the same for words that are in all messages and for those in one, on
//! any page. No extension is needed, nor the right to make one.
//!
//! What a conversation is called and marked with stands at minus its place, and is moved there behind it.

use sea_orm::{DbErr, QueryResult};
use yai_agentkit_core::{
    ConversationId,
    conversation::{MAX_TEXT, SearchQuery, Wanted},
};

use super::{BITS, Found, New, has, walk, wanted};
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

/// The conversations between two places of which something is known, and that have moved since they
/// were taken in, or never were. Theirs is minus their place.
const MOVED: &str = "SELECT c.id, -c.position, c.title, c.metadata_, c.owner
FROM agent_conversations c
WHERE c.position > $1 AND c.position <= $2
    AND (c.title IS NOT NULL OR c.metadata_ IS NOT NULL) AND NOT EXISTS (
        SELECT FROM agent_search s
        WHERE s.conversation_id = c.id AND s.position = -c.position
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
    let said = Query::new(transaction, NEW).with(after).with(until);
    let said = said.with(i32::try_from(MAX_TEXT).unwrap_or(i32::MAX));
    let said = said.rows(transaction).await?;
    let moved = Query::new(transaction, MOVED).with(after).with(until);
    let moved = moved.rows(transaction).await?;
    let mut new: Vec<New> = moved
        .iter()
        .map(New::of_conversation)
        .collect::<Result<_, _>>()?;
    if !new.is_empty() {
        leave(&new).execute(transaction).await?;
    }
    for row in &said {
        new.push(New::of_message(row)?);
    }
    if new.is_empty() {
        return Ok(());
    }
    insert(&new).execute(transaction).await.map(drop)
}

/// Takes out what stands where conversations were before.
fn leave(moved: &[New]) -> Query {
    let mut query = Query::on_postgres();
    let conversation = query.column(moved, |new| new.conversation);
    let position = query.column(moved, |new| new.position);
    query.push(format_args!(
        "DELETE FROM agent_search s
USING unnest({conversation}::uuid[], {position}::bigint[]) n (conversation_id, position)
WHERE s.conversation_id = n.conversation_id AND s.position < 0 AND s.position > n.position"
    ));
    query
}

/// Who has changed a conversation meanwhile has replaced what is known of it.
fn insert(new: &[New]) -> Query {
    let mut query = Query::on_postgres();
    let conversation = query.column(new, |new| new.conversation);
    let position = query.column(new, |new| new.position);
    let message = query.column(new, |new| new.message);
    let keys = query.column(new, |new| {
        let hashes = new.hashes.iter();
        let block = new.position.abs() >> BLOCK;
        let keys = hashes.map(|hash| key(block, *hash).to_string());
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

/// In the transaction that has changed the conversation, whose place nobody moves meanwhile.
pub(super) fn replace(id: ConversationId, hashes: Vec<i64>) -> Query {
    let mut query = Query::on_postgres();
    let (id, hashes) = (query.bind(id.0), query.column(hashes, |hash| hash));
    query.push(format_args!(
        "INSERT INTO agent_search (conversation_id, position, keys)
SELECT c.id, -c.position,
    ARRAY(SELECT c.position >> {BLOCK} << {BITS} | w FROM unnest({hashes}::bigint[]) w)
FROM agent_conversations c WHERE c.id = {id}
ON CONFLICT ON CONSTRAINT agent_search_pkey DO UPDATE SET keys = excluded.keys"
    ));
    query
}

fn key(block: i64, hash: i64) -> i64 {
    (block << BITS) | hash
}

pub(super) async fn find(
    connection: &Connection,
    query: &SearchQuery,
    wanted_rows: usize,
) -> Result<Vec<Found>, DbErr> {
    let transaction = connection.begin().await?;
    let newest = Query::new(&transaction, NEWEST).rows(&transaction).await?;
    let newest = newest.first().map(|row| row.try_get_by_index::<i64>(0));
    let reached = newest.transpose()?.unwrap_or_default();
    let found = match &query.wanted {
        Wanted::Text(_) => {
            let blocks = Blocks::below(query.before, reached, wanted_rows);
            blocks.find(&transaction, query, said, |_| Ok(true)).await?
        }
        Wanted::Fields(fields) => {
            let not_taken_in = [reached, query.before.unwrap_or(i64::MAX)];
            let mut found = walk(&transaction, query, fields, not_taken_in, wanted_rows).await?;
            let blocks = Blocks::below(query.before, reached, wanted_rows - found.len());
            let has = |row: &QueryResult| has(fields, row);
            found.extend(blocks.find(&transaction, query, called, has).await?);
            found
        }
    };
    transaction.commit().await?;
    Ok(found)
}

/// Which blocks are looked through next, and for how many hits below which place.
struct Blocks {
    last: i64,
    count: i64,
    before: i64,
    wanted_rows: usize,
}

impl Blocks {
    fn below(before: Option<i64>, reached: i64, wanted_rows: usize) -> Self {
        let before = before.map_or(reached + 1, |before| before.min(reached + 1));
        Self {
            last: before >> BLOCK,
            count: 1,
            before,
            wanted_rows,
        }
    }

    async fn find(
        mut self,
        transaction: &Connection,
        query: &SearchQuery,
        hits: impl Fn(&SearchQuery, [i64; 2], i64, i64, bool) -> Query,
        is_hit: impl Fn(&QueryResult) -> Result<bool, DbErr>,
    ) -> Result<Vec<Found>, DbErr> {
        let mut found: Vec<Found> = Vec::new();
        while self.last >= 0 && found.len() < self.wanted_rows {
            let first = (self.last + 1 - self.count).max(0);
            let rest = i64::try_from(self.wanted_rows - found.len()).unwrap_or(i64::MAX);
            let blocks = [first, self.last];
            let rows = hits(query, blocks, self.before, rest, transaction.is_of_tenant());
            let rows = rows.rows(transaction).await?;
            for row in &rows {
                let hit = Found::of(row)?;
                self.before = hit.position;
                if is_hit(row)? {
                    found.push(hit);
                }
            }
            let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
            if count < rest {
                self.last = first - 1;
                // As many as the rest may be in, if those that come are like these.
                let more = self.count.saturating_mul(rest - count) / count.max(1);
                self.count = more.clamp(1, 4 * self.count);
            }
        }
        Ok(found)
    }
}

/// That a row of `agent_search` has what is wanted, in some blocks. Those of one tenant are looked for by
/// place: under row-level security PostgreSQL asks no index whether arrays overlap.
fn has_keys(
    hits: &mut Query,
    query: &SearchQuery,
    [first, last]: [i64; 2],
    of_tenant: bool,
) -> String {
    let place = of_tenant.then(|| {
        let (since, until) = (hits.bind(first << BLOCK), hits.bind((last + 1) << BLOCK));
        format!(
            " AND s.{IS_MINE} AND (s.position >= {since} AND s.position < {until}
        OR s.position <= -{since} AND s.position > -{until})"
        )
    });
    let has_key = |hashes: Vec<i64>| {
        let keys = (first..=last).flat_map(|block| {
            let hashes = hashes.iter();
            hashes.map(move |hash| key(block, *hash))
        });
        let keys = hits.column(keys, |key| key);
        format!(" AND s.keys && {keys}::bigint[]")
    };
    let keys: String = wanted(query).into_iter().map(has_key).collect();
    place.unwrap_or_default() + &keys
}

/// The conversations with the fields in some blocks, that stand where they did when they were taken in.
pub(super) fn called(
    query: &SearchQuery,
    blocks: [i64; 2],
    before: i64,
    limit: i64,
    of_tenant: bool,
) -> Query {
    let mut hits = Query::on_postgres();
    let before = hits.bind(before);
    let keys = has_keys(&mut hits, query, blocks, of_tenant);
    let (owner, limit) = (hits.bind(query.owner.as_deref()), hits.bind(limit));
    hits.push(format_args!(
        "SELECT c.id, NULL::uuid, c.position, c.title, c.metadata_ FROM (
    SELECT s.conversation_id, s.position FROM agent_search s
    WHERE s.position < 0 AND s.position > -{before}{keys}
    ORDER BY s.position OFFSET 0
) f CROSS JOIN LATERAL (
    SELECT c.id, c.position, c.title, c.metadata_ FROM agent_conversations c
    WHERE c.id = f.conversation_id AND c.position = -f.position
        AND ({owner}::text IS NULL OR c.owner = {owner}) OFFSET 0
) c
LIMIT {limit}"
    ));
    hits
}

/// The hits in some blocks, but those that have a newer one in their conversation.
pub(super) fn said(
    query: &SearchQuery,
    blocks: [i64; 2],
    before: i64,
    limit: i64,
    of_tenant: bool,
) -> Query {
    let mut hits = Query::on_postgres();
    let before = hits.bind(before);
    let keys = has_keys(&mut hits, query, blocks, of_tenant);
    let words = hits.column(wanted(query).concat(), |hash| hash);
    let (owner, limit) = (hits.bind(query.owner.as_deref()), hits.bind(limit));
    // What is behind OFFSET is looked at one by one, until there are enough.
    hits.push(format_args!(
        "SELECT f.conversation_id, f.message_id, f.position FROM (
    SELECT s.conversation_id, s.message_id, abs(s.position) AS position FROM agent_search s
    WHERE s.position < {before} AND s.position > -{before}{keys}
    ORDER BY abs(s.position) DESC, s.message_id OFFSET 0
) f
WHERE (f.message_id IS NULL OR (
    SELECT true FROM agent_messages m
    WHERE m.id = f.message_id AND m.conversation_id = f.conversation_id
        AND m.position = f.position
)) AND ({owner}::text IS NULL OR (
    SELECT c.owner FROM agent_conversations c WHERE c.id = f.conversation_id
) = {owner}) AND (
    SELECT n.position FROM agent_search n
    WHERE n.conversation_id = f.conversation_id
        AND n.position > f.position - (f.message_id IS NULL)::integer
        AND n.keys @> ARRAY(
            SELECT n.position >> {BLOCK} << {BITS} | w FROM unnest({words}::bigint[]) w
        )
        AND EXISTS (
            SELECT FROM agent_messages m
            WHERE m.id = n.message_id AND m.conversation_id = n.conversation_id
                AND m.position = n.position
        )
    ORDER BY n.position LIMIT 1
) IS NULL AND (
    SELECT t.position FROM agent_search t
    WHERE t.conversation_id = f.conversation_id AND t.position < -f.position
        AND t.keys @> ARRAY(
            SELECT -t.position >> {BLOCK} << {BITS} | w FROM unnest({words}::bigint[]) w
        )
    LIMIT 1
) IS NULL
LIMIT {limit}"
    ));
    hits
}
