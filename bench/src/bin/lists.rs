//! What a page of twenty of a million conversations costs on PostgreSQL, by filter and depth:
//! `BENCH_POSTGRES_URL=… cargo run --release -p bench --bin lists`, on a database of its own that is empty,
//! which it leaves filled: a second run measures at once.

use std::{
    env,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use serde_json::json;
use yai_agentkit_core::{
    Conversation, ListQuery, Storage, Stores,
    conversation::{ConversationFilter, SearchQuery},
    storage::Cursor,
};
use yai_agentkit_persistence::{Database, DatabaseConfig};

type Error = Box<dyn std::error::Error + Send + Sync>;

const CONVERSATIONS: i64 = 1_000_000;

const DEPTHS: [i64; 3] = [0, 50, 99];

/// Two messages each, some 40 words: one in three has `often`, one in a hundred `sometimes`, one in ten
/// thousand `seldom`; one in fifty 北京. An owner has a hundred conversations, but one has a tenth of all.
const FILL: &str = "
INSERT INTO agent_conversations
    (id, checkpoint_thread_id, owner, title, metadata_, created_at, updated_at)
SELECT md5(i::text)::uuid, md5(i::text)::uuid,
    CASE WHEN i % 10 = 0 THEN 'many' ELSE 'owner ' || i % 9001 END,
    'Chat ' || i || CASE WHEN i % 3 = 0 THEN ' often' ELSE '' END
        || CASE WHEN i % 10007 = 0 THEN ' seldom' ELSE '' END,
    json_build_object('customer', i % 1000, 'kind', CASE WHEN i % 3 = 0 THEN 'a' ELSE 'b' END),
    now(), now()
FROM generate_series(1, {count}) i ORDER BY md5(i::text || 'order');
INSERT INTO agent_messages (id, conversation_id, role, content, created_at)
SELECT md5('message ' || n || '.' || i)::uuid, md5(i::text)::uuid, 'assistant',
    (SELECT string_agg('w' || abs(hashint4(i * 41 + n * 7 + w) % 50000), ' ')
        FROM generate_series(1, 20) w)
        || CASE WHEN i % 3 = 0 THEN ' often' ELSE '' END
        || CASE WHEN i % 100 = 0 THEN ' sometimes' ELSE '' END
        || CASE WHEN i % 10007 = 0 THEN ' seldom' ELSE '' END
        || CASE WHEN i % 50 = 0 THEN ' 我想去北京旅行' ELSE '' END,
    now()
FROM generate_series(1, {count}) i, generate_series(1, 2) n ORDER BY md5(i::text || 'said'), n;
ANALYZE;";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let config = DatabaseConfig::new(env::var("BENCH_POSTGRES_URL")?)?;
    let config = config.query_timeout(Duration::from_secs(3600))?;
    let database = Database::connect(&config).await?;
    let first = ListQuery::<Conversation>::default().limit(1);
    if database
        .conversations()
        .list(&first)
        .await?
        .items
        .is_empty()
    {
        fill(&database).await?;
    }
    println!("| list | depth | p50, ms | p99, ms | rows |\n| --- | --- | ---: | ---: | ---: |");
    for (name, owner) in [
        ("all", None),
        ("owner of 100", Some("owner 7")),
        ("owner of 100,000", Some("many")),
    ] {
        for depth in DEPTHS {
            let filter = ConversationFilter::default().owned_by(owner.map(str::to_owned));
            let query = ListQuery::filtered(filter).limit(20).after(place(depth));
            let list = async || Ok(database.conversations().list(&query).await?.items.len());
            report(name, depth, list).await?;
        }
    }
    for (name, owner, title, metadata) in [
        ("title, one in 3", None, Some("often"), None),
        ("title, one in 10,000", None, Some("seldom"), None),
        ("title, one", None, Some("Chat 777777"), None),
        ("title, none", None, Some("nowhere"), None),
        ("metadata, one in 3", None, None, Some(("kind", json!("a")))),
        (
            "metadata, one in 1,000",
            None,
            None,
            Some(("customer", json!(7))),
        ),
        ("owner of 100, title", Some("owner 7"), Some("often"), None),
        (
            "owner of 100,000, title",
            Some("many"),
            Some("seldom"),
            None,
        ),
    ] {
        let fields = metadata.map(|(field, value)| (field.to_owned(), value));
        let query = SearchQuery::fields(title, fields.into_iter().collect())?;
        let query = query.owned_by(owner.map(str::to_owned)).limit(20);
        for depth in DEPTHS {
            let query = query.clone().after(&place(depth))?;
            report(name, depth, async || found(&database, &query).await).await?;
        }
    }
    for (text, owner) in [
        ("often", None),
        ("sometimes", None),
        ("seldom", None),
        ("often seldom", None),
        ("nowhere", None),
        ("北京旅行", None),
        ("often", Some("owner 7")),
        ("often", Some("many")),
        ("sometimes", Some("many")),
    ] {
        for depth in DEPTHS {
            let query = SearchQuery::text(text)?.owned_by(owner.map(str::to_owned));
            let place = 3 * CONVERSATIONS - 2 * CONVERSATIONS * depth / 100 + 1;
            let query = query.limit(20).after(&Cursor::Position(place))?;
            let name = format!("text {text}, of {}", owner.unwrap_or("all"));
            report(&name, depth, async || found(&database, &query).await).await?;
        }
    }
    database.close().await;
    Ok(())
}

/// Where a page of conversations begins.
fn place<Id>(depth: i64) -> Cursor<Id> {
    Cursor::Position(CONVERSATIONS - CONVERSATIONS * depth / 100 + 1)
}

/// A page, with its conversations.
async fn found(database: &Database, query: &SearchQuery) -> Result<usize, Error> {
    let page = database.search().find(query).await?;
    let conversations = database.conversations();
    let ids = page.items.iter().map(|hit| &hit.conversation_id);
    Ok(try_join_all(ids.map(|id| conversations.get(id)))
        .await?
        .len())
}

async fn fill(database: &Database) -> Result<(), Error> {
    let begun = Instant::now();
    let fill = FILL.replace("{count}", &CONVERSATIONS.to_string());
    database.execute_script(&fill).await?;
    eprintln!("filled in {:.0?}", begun.elapsed());
    let begun = Instant::now();
    while database.search().index(20_000).await? > 0 {}
    database.execute_script("VACUUM ANALYZE").await?;
    eprintln!("indexed in {:.0?}", begun.elapsed());
    Ok(())
}

/// Of two hundred calls, or as many as fit into some seconds.
async fn report(
    name: &str,
    depth: i64,
    call: impl AsyncFn() -> Result<usize, Error>,
) -> Result<(), Error> {
    let (begun, mut times, mut rows) = (Instant::now(), Vec::new(), 0);
    while times.len() < 200 && begun.elapsed() < Duration::from_secs(5) {
        let called = Instant::now();
        rows = call().await?;
        times.push(called.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let (median, slow) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("| {name} | {depth} % | {median:.2} | {slow:.2} | {rows} |");
    Ok(())
}
