//! What one turn of the offline agent costs: round trips to the database, rows, bytes, time.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    Options, Result,
    database::{Database, Kind, RowsWritten},
    proxy::Proxy,
    report::{Report, Table},
    rounds::median,
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

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.write(&format!(
        "\n## One turn of the offline agent on an existing chat: “{QUESTION}”\n\n\
         Medians of {TURNS} turns, after {EARLIER_TURNS} others. PostgreSQL's WAL is that of the \
         whole server.\n"
    ));
    let mut table = Table::new(&[
        "database",
        "round trips",
        "rows inserted",
        "updated",
        "deleted",
        "bytes of WAL",
        "time",
    ]);
    for kind in [Kind::Sqlite, Kind::Postgres] {
        if !options.takes(kind, "agentkit") {
            continue;
        }
        let database = options.database(kind).await?;
        let cost = measure(&database).await?;
        table.row(vec![
            kind.name().to_owned(),
            cost.round_trips
                .map_or("none".to_owned(), |n| n.to_string()),
            cost.rows.inserted.to_string(),
            cost.rows.updated.to_string(),
            cost.rows.deleted.to_string(),
            cost.bytes.to_string(),
            format!("{:.1} ms", cost.time.as_secs_f64() * 1e3),
        ]);
        database.remove().await?;
    }
    report.table(&table);
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
