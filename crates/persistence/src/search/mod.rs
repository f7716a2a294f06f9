//! Finding conversations by what was said in them: [`MessageSearch`].
//!
//! What writes a message does nothing for it. The words are taken in behind, in batches, as hashes:
//! the index holds no text.

mod postgres;
mod sqlite;

use async_trait::async_trait;
use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;
use yai_agentkit_core::{
    ConversationId, MessageId, Result,
    conversation::{Hit, HitCursor, MessageSearch, TextQuery, terms},
    storage::{Cursor, Page},
};

use crate::{
    connection::{Connection, retrying, retrying_undone},
    error::storage_error,
};

pub(crate) struct SqlSearch(pub(crate) Connection);

#[async_trait]
impl MessageSearch for SqlSearch {
    async fn index(&self, limit: u64) -> Result<u64> {
        // One goes through all messages, whose ever they are.
        let connection = &self.0.of_system();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let indexed = if connection.is_postgres() {
            retrying_undone!(connection, postgres::index(connection, limit))
        } else {
            retrying_undone!(connection, sqlite::index(connection, limit))
        };
        let indexed = indexed.map_err(|error| storage_error("index messages", error))?;
        Ok(indexed.cast_unsigned())
    }

    async fn find(&self, query: &TextQuery) -> Result<Page<Hit, HitCursor>> {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX - 1);
        let found = if self.0.is_postgres() {
            retrying!(self.0, postgres::find(&self.0, query, limit + 1))
        } else {
            retrying!(self.0, sqlite::find(&self.0, query, limit + 1))
        };
        let mut found = found.map_err(|error| storage_error("search messages", error))?;
        let is_last = found.len() <= limit;
        found.truncate(limit);
        let next = found.last().filter(|_| !is_last);
        Ok(Page {
            next: next.map(|found| Cursor::Position(found.position)),
            items: found.into_iter().map(|found| found.hit).collect(),
        })
    }
}

/// A hit, and where it stands.
struct Found {
    hit: Hit,
    position: i64,
}

impl Found {
    fn of(row: &QueryResult) -> Result<Self, DbErr> {
        let (conversation, message): (Uuid, Uuid) =
            (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        Ok(Self {
            hit: Hit {
                conversation_id: ConversationId(conversation),
                message_id: MessageId(message),
            },
            position: row.try_get_by_index(2)?,
        })
    }
}

/// A message that is to be taken in.
struct New {
    conversation: Uuid,
    message: Uuid,
    position: i64,
    hashes: Vec<i64>,
}

impl New {
    /// Of a row of the conversation, the message, its position, its text and the owner.
    fn of(row: &QueryResult) -> Result<Self, DbErr> {
        let (text, owner): (String, Option<String>) =
            (row.try_get_by_index(3)?, row.try_get_by_index(4)?);
        let terms = terms(&text);
        let words = terms.iter().map(|term| hash(term));
        Ok(Self {
            conversation: row.try_get_by_index(0)?,
            message: row.try_get_by_index(1)?,
            position: row.try_get_by_index(2)?,
            hashes: words.chain(owner.as_deref().map(hash_of_owner)).collect(),
        })
    }
}

/// The words and the owner that a message must have.
fn wanted(query: &TextQuery) -> Vec<i64> {
    let words = query.terms.iter().map(|term| hash(term));
    words
        .chain(query.owner.as_deref().map(hash_of_owner))
        .collect()
}

/// No word has a space.
fn hash_of_owner(owner: &str) -> i64 {
    hash(&format!("owner {owner}"))
}

/// How many bits a hash has: two of a million words are alike once in a million times.
const BITS: u32 = 40;

/// FNV-1a, which stays the same in every version; folded.
fn hash(term: &str) -> i64 {
    let hash = term.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash >> BITS) ^ (hash & ((1 << BITS) - 1))).cast_signed()
}

#[cfg(test)]
mod tests {
    use yai_agentkit_core::Storage;

    use super::*;
    use crate::{explain::Databases, sql::Query};

    const ROWS: &str = "
INSERT INTO agent_conversations (id, checkpoint_thread_id, owner, created_at, updated_at)
SELECT {id}, {id}, 'owner ' || i % 100, {time}, {time} FROM numbers WHERE i <= 1000;
INSERT INTO agent_messages (id, conversation_id, role, content, created_at)
SELECT {id}, c.id, 'assistant', 'Hello ' || i % 7, {time}
FROM agent_conversations c JOIN numbers ON i <= 20;";

    #[tokio::test]
    async fn conversations_are_found_by_the_index_of_words() {
        let databases = Databases::with(ROWS).await;
        for database in databases.each() {
            let search = database.search();
            while search.index(5000).await.unwrap() > 0 {}
        }
        let [postgres, _] = databases.each();
        postgres
            .execute_script("ANALYZE agent_search")
            .await
            .unwrap();
        let query = TextQuery::new("hello 3").unwrap();
        for query in [query.clone(), query.owned_by(Some("owner 7".to_owned()))] {
            let hits = postgres::hits(&query, [0, 1], 20_000, 100, false);
            let indexes = [
                "agent_search_keys_idx",
                "agent_search_pkey",
                "agent_messages_pkey",
            ];
            databases.assert_postgres_uses(hits, &indexes).await;
        }
        let hits = |connection: &Connection| {
            let hits = Query::new(connection, sqlite::HITS).with("1 AND 2");
            hits.with(20_000_i64).with(None::<String>).with(100_i64)
        };
        databases
            .assert_sqlite_uses(hits, &["VIRTUAL TABLE INDEX"])
            .await;
        databases.remove().await;
    }
}
