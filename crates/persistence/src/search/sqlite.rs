//! FTS5, whose documents are the hashes of the words of a message, and whose rows are the positions of
//! messages: it gives those with all words by position, as many as are asked for.

use sea_orm::DbErr;
use yai_agentkit_core::conversation::{MAX_TEXT, TextQuery};

use super::{Found, New, wanted};
use crate::{connection::Connection, sql::Query};

/// There is one writer, so that positions become visible in their order.
const NEW: &str = "SELECT m.conversation_id, m.id, m.position, substr(m.content, 1, $2), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > (SELECT reached FROM agent_search_progress)
ORDER BY m.position LIMIT $1";

const ADVANCE: &str = "UPDATE agent_search_progress SET reached = $1";

const ADD: &str = "INSERT INTO agent_search (rowid, words) VALUES ($1, $2)";

/// $1 are the words, $2 and $3 the place before which and the owner of whom, $4 how many.
pub(super) const HITS: &str = "SELECT m.conversation_id, m.id, m.position
FROM agent_search s CROSS JOIN agent_messages m ON m.position = s.rowid
WHERE s.agent_search MATCH $1 AND s.rowid < $2
    AND ($3 IS NULL OR (
        SELECT c.owner FROM agent_conversations c WHERE c.id = m.conversation_id
    ) = $3)
    AND NOT EXISTS (
        SELECT 1 FROM agent_search n
        WHERE n.agent_search MATCH $1 || ' AND c' || lower(hex(m.conversation_id))
            AND n.rowid > s.rowid
    )
ORDER BY s.rowid DESC LIMIT $4";

pub(super) async fn index(connection: &Connection, limit: i64) -> Result<i64, DbErr> {
    let new = |connection: &Connection| {
        let new = Query::new(connection, NEW).with(limit);
        new.with(i64::try_from(MAX_TEXT).unwrap_or(i64::MAX))
    };
    // Who finds nothing keeps no writer waiting.
    if new(connection).rows(connection).await?.is_empty() {
        return Ok(0);
    }
    let transaction = connection.begin().await?;
    let rows = new(&transaction).rows(&transaction).await?;
    let mut reached = None;
    for row in &rows {
        let new = New::of(row)?;
        let words = new.hashes.iter().map(|hash| format!("{hash:x}"));
        let words = words.collect::<Vec<_>>().join(" ");
        let words = format!("{words} c{}", new.conversation.simple());
        let add = Query::new(&transaction, ADD).with(new.position).with(words);
        add.execute(&transaction).await?;
        reached = Some(new.position);
    }
    if let Some(reached) = reached {
        let advance = Query::new(&transaction, ADVANCE).with(reached);
        advance.execute(&transaction).await?;
    }
    transaction.commit().await?;
    Ok(i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

pub(super) async fn find(
    connection: &Connection,
    query: &TextQuery,
    wanted_rows: usize,
) -> Result<Vec<Found>, DbErr> {
    let words = wanted(query)
        .iter()
        .map(|hash| format!("{hash:x}"))
        .collect::<Vec<_>>();
    let hits = Query::new(connection, HITS)
        .with(words.join(" AND "))
        .with(query.before.unwrap_or(i64::MAX))
        .with(query.owner.as_deref())
        .with(i64::try_from(wanted_rows).unwrap_or(i64::MAX));
    let rows = hits.rows(connection).await?;
    rows.iter().map(Found::of).collect()
}
