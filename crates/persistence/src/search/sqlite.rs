//! FTS5, whose documents are the hashes of the words of a message, and whose rows are the positions of
//! messages: it gives those with all words by position, as many as are asked for. Titles are looked for in
//! the same, and fields conversation by conversation.

use std::cmp::Reverse;

use sea_orm::DbErr;
use yai_agentkit_core::{
    ConversationId,
    conversation::{MAX_TEXT, SearchQuery, Wanted},
};

use super::{Found, New, walk, wanted};
use crate::{connection::Connection, sql::Query};

/// There is one writer, so that positions become visible in their order.
const NEW: &str = "SELECT m.conversation_id, m.id, m.position, substr(m.content, 1, $2), c.owner
FROM agent_messages m JOIN agent_conversations c ON c.id = m.conversation_id
WHERE m.position > (SELECT reached FROM agent_search_progress)
ORDER BY m.position LIMIT $1";

/// Conversations are found by their titles, wherever they move.
const TITLED: &str = "SELECT c.id, c.number, c.title, NULL, c.owner FROM agent_conversations c
WHERE c.number > (SELECT numbered FROM agent_search_progress)
ORDER BY c.number LIMIT $1";

const ADVANCE: &str = "UPDATE agent_search_progress
SET reached = max(reached, $1), numbered = max(numbered, $2)";

const ADD: &str = "INSERT OR REPLACE INTO agent_search (rowid, words) VALUES ($1, $2)";

const REPLACE: &str = "INSERT OR REPLACE INTO agent_search (rowid, words)
SELECT -number, $2 FROM agent_conversations WHERE id = $1";

/// $1 are the words, $2 and $3 the place before which and the owner of whom, $4 how many.
pub(super) const SAID: &str = "SELECT m.conversation_id, m.id, m.position << 20
FROM agent_search s CROSS JOIN agent_messages m ON m.position = s.rowid
WHERE s.agent_search MATCH $1 AND s.rowid > 0 AND s.rowid <= ($2 - 1) >> 20
    AND ($3 IS NULL OR (
        SELECT c.owner FROM agent_conversations c WHERE c.id = m.conversation_id
    ) = $3)
    AND NOT EXISTS (
        SELECT 1 FROM agent_search n
        WHERE n.agent_search MATCH $1 || ' AND c' || lower(hex(m.conversation_id))
            AND n.rowid > s.rowid
    )
    AND NOT EXISTS (
        SELECT 1 FROM agent_conversations c CROSS JOIN agent_search t ON t.rowid = -c.number
        WHERE c.id = m.conversation_id AND c.position > m.position << 20
            AND t.agent_search MATCH $1
    )
ORDER BY s.rowid DESC LIMIT $4";

/// The conversations with these words in their titles, but those with a newer message that has them.
pub(super) const CALLED: &str = "SELECT c.id, NULL, c.position
FROM agent_search s CROSS JOIN agent_conversations c ON c.number = -s.rowid
WHERE s.agent_search MATCH $1 AND s.rowid < 0 AND c.position < $2
    AND ($3 IS NULL OR c.owner = $3)
    AND NOT EXISTS (
        SELECT 1 FROM agent_search n
        WHERE n.agent_search MATCH $1 || ' AND c' || lower(hex(c.id))
            AND n.rowid >= (c.position + (1 << 20) - 1) >> 20
    )
ORDER BY c.position DESC LIMIT $4";

pub(super) async fn index(connection: &Connection, limit: i64) -> Result<i64, DbErr> {
    let new = |connection: &Connection| {
        let new = Query::new(connection, NEW).with(limit);
        new.with(i64::try_from(MAX_TEXT).unwrap_or(i64::MAX))
    };
    let titled = |connection: &Connection| Query::new(connection, TITLED).with(limit);
    // Who finds nothing keeps no writer waiting.
    if new(connection).rows(connection).await?.is_empty()
        && titled(connection).rows(connection).await?.is_empty()
    {
        return Ok(0);
    }
    let transaction = connection.begin().await?;
    let (mut reached, mut numbered) = (0, 0);
    let said = new(&transaction).rows(&transaction).await?;
    for row in &said {
        let new = New::of_message(row)?;
        let own = format!(" c{}", new.conversation.simple());
        add(&transaction, new.position, words(&new.hashes) + &own).await?;
        reached = new.position;
    }
    let titled = titled(&transaction).rows(&transaction).await?;
    for row in &titled {
        let new = New::of_conversation(row)?;
        if !new.hashes.is_empty() {
            add(&transaction, -new.position, words(&new.hashes)).await?;
        }
        numbered = new.position;
    }
    let advance = Query::new(&transaction, ADVANCE)
        .with(reached)
        .with(numbered);
    advance.execute(&transaction).await?;
    transaction.commit().await?;
    Ok(i64::try_from(said.len().max(titled.len())).unwrap_or(i64::MAX))
}

async fn add(transaction: &Connection, rowid: i64, words: String) -> Result<(), DbErr> {
    let add = Query::new(transaction, ADD).with(rowid).with(words);
    add.execute(transaction).await.map(drop)
}

pub(super) fn replace(connection: &Connection, id: ConversationId, hashes: &[i64]) -> Query {
    let replace = Query::new(connection, REPLACE).with(id.0);
    replace.with(words(hashes))
}

fn words(hashes: &[i64]) -> String {
    let words = hashes.iter().map(|hash| format!("{hash:x}"));
    words.collect::<Vec<_>>().join(" ")
}

pub(super) async fn find(
    connection: &Connection,
    query: &SearchQuery,
    wanted_rows: usize,
) -> Result<Vec<Found>, DbErr> {
    let before = query.before.unwrap_or(i64::MAX);
    if let Wanted::Fields(fields) = &query.wanted {
        return walk(connection, query, fields, [-1, before], wanted_rows).await;
    }
    let words = words(&wanted(query).concat()).replace(' ', " AND ");
    let mut found = Vec::new();
    for text in [SAID, CALLED] {
        let hits = Query::new(connection, text)
            .with(&*words)
            .with(before)
            .with(query.owner.as_deref())
            .with(i64::try_from(wanted_rows).unwrap_or(i64::MAX));
        for row in hits.rows(connection).await? {
            found.push(Found::of(&row)?);
        }
    }
    found.sort_by_key(|found| Reverse(found.position));
    found.truncate(wanted_rows);
    Ok(found)
}
