//! What one turn of the offline agent costs: round trips to the database, rows, bytes, time.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    Result,
    database::{Database, RowsWritten},
    median,
    proxy::Proxy,
    server::Server,
};

const QUESTION: &str = "What is 17 * 23?";
/// Turns that the chat has had before: connections are open, statements prepared.
const EARLIER_TURNS: usize = 5;
const TURNS: usize = 9;

struct Cost {
    round_trips: Option<u64>,
    rows: RowsWritten,
    bytes: u64,
    time: Duration,
}

pub(crate) async fn run(databases: &[Database]) -> Result<()> {
    println!("\n## One turn of the offline agent on an existing chat: “{QUESTION}”\n");
    println!(
        "| database | round trips | rows inserted | updated | deleted | bytes of WAL | time |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for database in databases {
        let cost = measure(database).await?;
        let round_trips = cost
            .round_trips
            .map_or("none".to_owned(), |n| n.to_string());
        let RowsWritten {
            inserted,
            updated,
            deleted,
        } = cost.rows;
        println!(
            "| {} | {round_trips} | {inserted} | {updated} | {deleted} | {} | {:.1} ms |",
            database.name,
            cost.bytes,
            cost.time.as_secs_f64() * 1e3,
        );
    }
    println!(
        "\nMedians of {TURNS} turns, after {EARLIER_TURNS} others. PostgreSQL's WAL is that of the \
         whole server."
    );
    Ok(())
}

async fn measure(database: &Database) -> Result<Cost> {
    let proxy = match database.address() {
        Some(address) => Some(Proxy::start(address).await?),
        None => None,
    };
    let url = match &proxy {
        Some(proxy) => database.url_through(proxy.address)?,
        None => database.url().to_owned(),
    };
    let trips = || proxy.as_ref().map(Proxy::round_trips);
    let server = Server::start(&url).await?;
    let chat = server.post("/conversations", &json!({})).await?;
    let chat = chat["id"].as_str().ok_or("a conversation has an id")?;
    let path = format!("/chats/{chat}/messages");
    for _ in 0..EARLIER_TURNS {
        turn(&server, &path).await?;
    }

    let (mut round_trips, mut bytes, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let measured = async {
            let (trips_before, begun) = (trips(), Instant::now());
            turn(&server, &path).await?;
            times.push(begun.elapsed());
            round_trips.push(
                trips()
                    .zip(trips_before)
                    .map(|(after, before)| after - before),
            );
            Ok(())
        };
        bytes.push(database.wal_bytes(measured).await?);
    }
    // Apart from the others, since counting rows takes time or writes itself.
    let rows = database.rows_written(turn(&server, &path)).await?;
    server.stop().await?;
    Ok(Cost {
        round_trips: median(round_trips),
        rows,
        bytes: median(bytes),
        time: median(times),
    })
}

async fn turn(server: &Server, path: &str) -> Result<()> {
    let answer = server.post(path, &json!({ "content": QUESTION })).await?;
    match answer["content"].as_str() {
        Some(content) if content.contains("391") => Ok(()),
        _ => Err(format!("a wrong answer: {answer}").into()),
    }
}
