//! What a page of twenty of a million conversations costs on PostgreSQL, by filter and depth:
//! `BENCH_POSTGRES_URL=… cargo run --release -p bench --bin lists`, on a database of its own that is empty,
//! which it leaves filled: a second run measures at once.

use std::{
    env,
    time::{Duration, Instant},
};

use yai_agentkit_core::{
    Conversation, ListQuery, Storage, Stores,
    conversation::{ConversationFilter, TextQuery},
    storage::Cursor,
};
use yai_agentkit_persistence::{Database, DatabaseConfig};

type Error = Box<dyn std::error::Error + Send + Sync>;

const CONVERSATIONS: i64 = 1_000_000;

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
    let all = ConversationFilter::default;
    let owned = |owner: &str| all().owned_by(Some(owner.to_owned()));
    for (name, filter) in [
        ("all", all()),
        ("owner of 100", owned("owner 7")),
        ("owner of 100,000", owned("many")),
        ("title, one in 3", all().title_has("often")),
        ("title, one in 10,000", all().title_has("seldom")),
        ("title, one", all().title_has("Chat 777777")),
        ("metadata, one in 3", all().metadata("kind", "a")),
        ("metadata, one in 1,000", all().metadata("customer", 7)),
        ("owner of 100, title", owned("owner 7").title_has("often")),
    ] {
        for depth in [0, 50, 99] {
            let query = ListQuery::filtered(filter.clone()).limit(20);
            let place = CONVERSATIONS - CONVERSATIONS * depth / 100 + 1;
            let query = query.after(Cursor::Position(place));
            let list = async || {
                let page = database.conversations().list(&query).await?;
                Ok(page.items.len())
            };
            report(name, depth, list).await?;
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
        for depth in [0, 50, 99] {
            let query = TextQuery::new(text)?.owned_by(owner.map(str::to_owned));
            let place = 3 * CONVERSATIONS - 2 * CONVERSATIONS * depth / 100 + 1;
            let query = query.limit(20).after(&Cursor::Position(place))?;
            let find = async || {
                let page = database.search().find(&query).await?;
                Ok(page.items.len())
            };
            let name = format!("text {text}, of {}", owner.unwrap_or("all"));
            report(&name, depth, find).await?;
        }
    }
    database.close().await;
    Ok(())
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
