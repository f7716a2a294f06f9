//! Finding conversations by what was said in them, and by their titles and metadata:
//! [`ConversationSearch`].
//!
//! What writes a message does nothing for it. The words are taken in behind, in batches, as hashes:
//! the index holds no text. What a conversation is called and marked with is one more document, at the
//! place of the conversation; who changes it replaces that at once.

mod postgres;
mod sqlite;

use async_trait::async_trait;
use sea_orm::{DbErr, QueryResult};
use serde_json::Value as Json;
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, MessageId, Result,
    conversation::{
        ConversationSearch, Fields, Hit, HitCursor, SearchQuery, Wanted, scalar, terms,
    },
    storage::{Cursor, Page},
};

use crate::{
    connection::{Connection, retrying, retrying_undone},
    encryption::{Keys, Readable, not_searched},
    error::storage_error,
    sql::Query,
    tenancy::IS_MINE,
};

pub(crate) struct SqlSearch(pub(crate) Connection, pub(crate) Keys);

#[async_trait]
impl ConversationSearch for SqlSearch {
    async fn index(&self, limit: u64) -> Result<u64> {
        // Of what is encrypted there are no words.
        if self.1.readable() < Readable::Messages {
            return Ok(0);
        }
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

    async fn find(&self, query: &SearchQuery) -> Result<Page<Hit, HitCursor>> {
        match (&query.wanted, self.1.readable()) {
            (Wanted::Text(_), Readable::Nothing | Readable::Titles) => {
                return Err(not_searched("text"));
            }
            (Wanted::Fields(fields), Readable::Nothing) => {
                let is_titled = !fields.title.is_empty();
                return Err(not_searched(if is_titled { "title" } else { "metadata" }));
            }
            _ => {}
        }
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX - 1);
        let found = if self.0.is_postgres() {
            retrying!(self.0, postgres::find(&self.0, query, limit + 1))
        } else {
            retrying!(self.0, sqlite::find(&self.0, query, limit + 1))
        };
        let mut found = found.map_err(|error| storage_error("search conversations", error))?;
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
        let (conversation, message): (Uuid, Option<Uuid>) =
            (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        Ok(Self {
            hit: Hit {
                conversation_id: ConversationId(conversation),
                message_id: message.map(MessageId),
            },
            position: row.try_get_by_index(2)?,
        })
    }
}

/// The conversations between two places that have the fields, of the newest on, as they are now.
async fn walk(
    connection: &Connection,
    query: &SearchQuery,
    fields: &Fields,
    [after, mut before]: [i64; 2],
    wanted_rows: usize,
) -> Result<Vec<Found>, DbErr> {
    const AT_ONCE: i64 = 500;
    let mut found = Vec::new();
    loop {
        let rows = stretch(connection, query.owner.as_deref(), [after, before], AT_ONCE);
        let rows = rows.rows(connection).await?;
        for row in &rows {
            before = row.try_get_by_index(2)?;
            if has(fields, row)? {
                found.push(Found::of(row)?);
            }
            if found.len() == wanted_rows {
                return Ok(found);
            }
        }
        if rows.len() < usize::try_from(AT_ONCE).unwrap_or_default() {
            return Ok(found);
        }
    }
}

fn stretch(
    connection: &Connection,
    owner: Option<&str>,
    [after, before]: [i64; 2],
    limit: i64,
) -> Query {
    let mut rows = Query::new(connection, "");
    let (after, before) = (rows.bind(after), rows.bind(before));
    let owner = owner.map(|owner| format!(" AND c.owner = {}", rows.bind(owner)));
    let mine = connection
        .is_of_tenant()
        .then(|| format!(" AND c.{IS_MINE}"));
    let (owner, mine) = (owner.unwrap_or_default(), mine.unwrap_or_default());
    let limit = rows.bind(limit);
    rows.push(format_args!(
        "SELECT c.id, NULL, c.position, c.title, c.metadata_ FROM agent_conversations c
WHERE c.position > {after} AND c.position < {before}{mine}{owner}
ORDER BY c.position DESC LIMIT {limit}"
    ));
    rows
}

/// Whether the conversation of a row has the fields: hashes may be alike.
fn has(fields: &Fields, row: &QueryResult) -> Result<bool, DbErr> {
    let (title, metadata): (Option<String>, Option<Json>) =
        (row.try_get_by_index(3)?, row.try_get_by_index(4)?);
    Ok(fields.are_of(title.as_deref(), metadata.as_ref()))
}

/// A message that is to be taken in, or what a conversation is called and marked with.
struct New {
    conversation: Uuid,
    message: Option<Uuid>,
    position: i64,
    hashes: Vec<i64>,
}

impl New {
    /// Of a row of the conversation, the message, its position, its text and the owner.
    fn of_message(row: &QueryResult) -> Result<Self, DbErr> {
        let (text, owner): (String, Option<String>) =
            (row.try_get_by_index(3)?, row.try_get_by_index(4)?);
        let terms = terms(&text);
        let words = terms.iter().map(|term| hash(term));
        Ok(Self {
            conversation: row.try_get_by_index(0)?,
            message: Some(row.try_get_by_index(1)?),
            position: row.try_get_by_index(2)?,
            hashes: words.chain(owner.as_deref().map(hash_of_owner)).collect(),
        })
    }

    /// Of a row of the conversation, its place, its title, its metadata and the owner.
    fn of_conversation(row: &QueryResult) -> Result<Self, DbErr> {
        let (title, metadata): (Option<String>, Option<Json>) =
            (row.try_get_by_index(2)?, row.try_get_by_index(3)?);
        let owner: Option<String> = row.try_get_by_index(4)?;
        Ok(Self {
            conversation: row.try_get_by_index(0)?,
            message: None,
            position: row.try_get_by_index(1)?,
            hashes: hashes(title.as_deref(), metadata.as_ref(), owner.as_deref()),
        })
    }
}

/// What a conversation is found by beside what was said; nothing where nothing is known of it.
pub(crate) fn hashes_of(conversation: &Conversation) -> Vec<i64> {
    let (title, owner) = (conversation.title.as_deref(), conversation.owner.as_deref());
    hashes(title, conversation.metadata.as_ref(), owner)
}

fn hashes(title: Option<&str>, metadata: Option<&Json>, owner: Option<&str>) -> Vec<i64> {
    let mut hashes = Vec::new();
    for term in terms(title.unwrap_or_default()) {
        hashes.extend([hash(&term), hash_of_title(&term)]);
    }
    let fields = metadata.and_then(Json::as_object).into_iter().flatten();
    let fields: Vec<i64> = fields
        .filter_map(|(field, value)| hash_of_field(field, value))
        .collect();
    match fields.len() {
        0..=MAX_FIELDS => hashes.extend(fields),
        _ => hashes.push(hash(MANY_FIELDS)),
    }
    if !hashes.is_empty() {
        hashes.extend(owner.map(hash_of_owner));
    }
    hashes
}

/// Puts what a conversation is found by in place of what there was.
pub(crate) async fn replace(
    connection: &Connection,
    id: ConversationId,
    hashes: Vec<i64>,
) -> Result<(), DbErr> {
    let replace = if connection.is_postgres() {
        postgres::replace(id, hashes)
    } else {
        sqlite::replace(connection, id, &hashes)
    };
    replace.execute(connection).await.map(drop)
}

/// The hashes that a document must have, one of each.
fn wanted(query: &SearchQuery) -> Vec<Vec<i64>> {
    let mut wanted: Vec<Vec<i64>> = match &query.wanted {
        Wanted::Text(terms) => terms.iter().map(|term| vec![hash(term)]).collect(),
        Wanted::Fields(fields) => {
            let title = fields.title.iter().map(|term| vec![hash_of_title(term)]);
            let metadata = fields.metadata.iter().map(|(field, value)| {
                let field = hash_of_field(field, value).into_iter();
                field.chain([hash(MANY_FIELDS)]).collect()
            });
            title.chain(metadata).collect()
        }
    };
    wanted.extend(
        query
            .owner
            .as_deref()
            .map(|owner| vec![hash_of_owner(owner)]),
    );
    wanted
}

/// No word has a space.
fn hash_of_owner(owner: &str) -> i64 {
    hash(&format!("owner {owner}"))
}

fn hash_of_title(term: &str) -> i64 {
    hash(&format!("title {term}"))
}

fn hash_of_field(field: &str, value: &Json) -> Option<i64> {
    let value = scalar(value)?;
    Some(hash(&format!("field {} {field} {value}", field.len())))
}

/// How many fields of metadata are in the index. One with more is looked at for any.
const MAX_FIELDS: usize = 100;

const MANY_FIELDS: &str = "many fields";

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

    const ROWS: &str = r#"
INSERT INTO agent_conversations
    (id, checkpoint_thread_id, owner, title, metadata_, created_at, updated_at)
SELECT {id}, {id}, 'owner ' || i % 100, 'Chat ' || i, '{"number": 3}', {time}, {time}
FROM numbers WHERE i <= 1000;
INSERT INTO agent_messages (id, conversation_id, role, content, created_at)
SELECT {id}, c.id, 'assistant', 'Hello ' || i % 7, {time}
FROM agent_conversations c JOIN numbers ON i <= 20;"#;

    async fn indexed() -> Databases {
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
        databases
    }

    #[tokio::test]
    async fn conversations_are_found_by_the_index_of_words() {
        let databases = indexed().await;
        let query = SearchQuery::text("hello 3").unwrap();
        for query in [query.clone(), query.owned_by(Some("owner 7".to_owned()))] {
            let hits = postgres::said(&query, [0, 1], 20_000, 100, false);
            let indexes = [
                "agent_search_keys_idx",
                "agent_search_pkey",
                "agent_messages_pkey",
            ];
            databases.assert_postgres_uses(hits, &indexes).await;
        }
        for text in [sqlite::SAID, sqlite::CALLED] {
            let hits = |connection: &Connection| {
                let hits = Query::new(connection, text).with("1 AND 2");
                hits.with(20_000_i64).with(None::<String>).with(100_i64)
            };
            databases
                .assert_sqlite_uses(hits, &["VIRTUAL TABLE INDEX"])
                .await;
        }
        databases.remove().await;
    }

    #[tokio::test]
    async fn conversations_are_found_by_the_index_of_their_titles_and_metadata() {
        let databases = indexed().await;
        let number = [("number".to_owned(), 3.into())];
        let query = SearchQuery::fields(Some("chat"), number.into()).unwrap();
        for query in [query.clone(), query.owned_by(Some("owner 7".to_owned()))] {
            let hits = postgres::called(&query, [0, 1], 20_000, 100, false);
            let indexes = ["agent_search_keys_idx", "agent_conversations_pkey"];
            databases.assert_postgres_uses(hits, &indexes).await;
        }
        for (owner, index) in [
            (None, "agent_conversations_position_idx"),
            (Some("owner 7"), "agent_conversations_owner_idx"),
        ] {
            let walk = |connection: &Connection| stretch(connection, owner, [0, 20_000], 100);
            databases.assert_uses(walk, &[index]).await;
        }
        databases.remove().await;
    }
}
