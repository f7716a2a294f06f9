//! What shards and row security ask of the schema: everything of a conversation or a thread is
//! reached through it.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{
    fixture::{connect, sqlite_file, texts},
    support::PostgresDatabase,
};

/// A line for each unique index and each foreign key: its table, its name and its columns.
const POSTGRES: &str = "
SELECT t.relname::text || ' ' || k.name || ': ' || string_agg(a.attname::text, ' ' ORDER BY p.place)
FROM (
    SELECT indrelid, indexrelid::regclass::text, indkey::int[] FROM pg_index WHERE indisunique
    UNION ALL
    SELECT conrelid, conname::text, conkey::int[] FROM pg_constraint WHERE contype = 'f'
) k (owner, name, columns)
JOIN pg_class t ON t.oid = k.owner AND t.relnamespace = current_schema()::regnamespace
CROSS JOIN LATERAL unnest(k.columns) WITH ORDINALITY p (number, place)
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = p.number
GROUP BY t.relname, k.name ORDER BY 1";

const SQLITE: &str = r#"
SELECT t.name || ' ' || i.name || ': ' || (
    SELECT group_concat(name, ' ') FROM pragma_index_info(i.name)
)
FROM sqlite_master t JOIN pragma_index_list(t.name) i ON i."unique"
WHERE t.type = 'table'
UNION ALL
SELECT t.name || ' references ' || f."table" || ': ' || f."from"
FROM sqlite_master t JOIN pragma_foreign_key_list(t.name) f
WHERE t.type = 'table'
ORDER BY 1"#;

/// Of no conversation.
const OF_THE_DATABASE: [&str; 14] = [
    "agent_api_keys",
    "agent_audit",
    "agent_data_keys",
    // SQLite's own, of an index.
    "agent_search_config",
    "agent_search_data",
    "agent_search_docsize",
    "agent_search_idx",
    "agent_servers",
    "agent_tasks",
    "agentkit_migrations",
    "checkpoint_migrations",
    "store",
    "store_migrations",
    "store_vectors",
];

fn assert_through_their_conversations(keys: &[String]) {
    let of_conversations = keys.iter().filter(|key| {
        let table = key.split(' ').next().unwrap();
        !OF_THE_DATABASE.contains(&table)
    });
    let mut seen = 0;
    for key in of_conversations {
        let (name, columns) = key.split_once(": ").unwrap();
        let is_through = columns
            .split(' ')
            .any(|column| column == "conversation_id" || column.ends_with("thread_id"));
        let is_itself = name.starts_with("agent_conversations ") && columns == "id";
        assert!(is_through || is_itself, "{key}");
        seen += 1;
    }
    // Six tables of ours, four of LangGraph's kind, three references.
    assert!(seen >= 13, "{keys:#?}");
}

#[tokio::test]
async fn every_unique_key_and_reference_on_postgres_has_its_conversation_or_thread() {
    let postgres = PostgresDatabase::create("catalogue").await;
    connect(&postgres.url).await.close().await;
    assert_through_their_conversations(&texts(&postgres.url, POSTGRES).await);
    postgres.remove().await;
}

#[tokio::test]
async fn every_unique_key_and_reference_on_sqlite_has_its_conversation_or_thread() {
    let (_directory, _, url) = sqlite_file();
    connect(&url).await.close().await;
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let keys = sqlx::query_scalar(AssertSqlSafe(SQLITE));
    let keys: Vec<String> = keys.fetch_all(&mut connection).await.unwrap();
    assert_through_their_conversations(&keys);
}
