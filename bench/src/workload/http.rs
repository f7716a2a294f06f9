//! The workload "HTTP": `agentkit serve` against the original design's stack, on the same PostgreSQL.

use std::{path::Path, process::Stdio, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use crate::{
    Options, Result,
    database::Kind,
    report::{Report, Table},
    server::Server,
};

const CONNECTIONS: usize = 16;
/// So many that a chat need not have more than ten turns.
const CONVERSATIONS: usize = 1600;
const TURNS: usize = 10;
const WARM_UP: Duration = Duration::from_secs(1);
const QUESTION: &str = "What is 17 * 23?";

const ORIGINAL: &str = "FastAPI, Tortoise, AsyncPostgresSaver";

#[derive(Deserialize)]
struct Load {
    requests_per_second: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    errors: u64,
}

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let contenders = [
        ("agentkit serve".to_owned(), "agentkit serve", None),
        (format!("{ORIGINAL}, one process"), "original/1", Some(1)),
        (
            format!("{ORIGINAL}, {cores} processes"),
            "original/cores",
            Some(cores),
        ),
    ];
    report.write(&format!(
        "\n## HTTP\n\nRequests/s at {CONNECTIONS} connections (wrk), on PostgreSQL; times are p50 / p99. \
         A turn: “{QUESTION}”, with a tool call, by agentkit's offline agent and by a LangGraph \
         graph that does as much.\n"
    ));
    let mut table = Table::new(&[
        "server",
        "POST /conversations",
        "ms",
        "GET /conversations/{id}",
        "ms",
        "POST /chats/{id}/messages",
        "ms",
    ]);
    for (name, key, processes) in contenders {
        if !options.takes(Kind::Postgres, &name) {
            continue;
        }
        let loads = measure(options, processes).await?;
        let mut row = vec![name];
        for (request, load) in ["post", "get", "turn"].iter().zip(loads) {
            row.push(format!("{:.0}", load.requests_per_second));
            row.push(format!("{:.1} / {:.1}", load.p50 / 1e3, load.p99 / 1e3));
            report.record(format!("http/{key}/{request}"), load.requests_per_second);
        }
        table.row(row);
        report.progress(&table);
    }
    report.table(&table);
    Ok(())
}

async fn measure(options: &Options, processes: Option<usize>) -> Result<Vec<Load>> {
    let database = options.database(Kind::Postgres).await?;
    let server = match processes {
        None => Server::start(database.url()).await?,
        Some(processes) => {
            // The first one makes the tables, which several at once could not.
            Server::start_original(database.url(), 1)
                .await?
                .stop()
                .await?;
            Server::start_original(database.url(), processes).await?
        }
    };
    database.settle().await?;
    let directory = tempfile::tempdir()?;
    let file = |name, lines: &[String]| -> Result<_> {
        let file = directory.path().join(name);
        std::fs::write(&file, lines.join("\n") + "\n")?;
        Ok(file)
    };
    let new = json!({"title": "Planning a trip", "metadata": {"customer": 7}});
    let conversations: Vec<String> = stream::iter(0..CONVERSATIONS)
        .map(async |_| {
            let made = server.post("/conversations", &new).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                made["id"]
                    .as_str()
                    .ok_or("a conversation has an id")?
                    .to_owned(),
            )
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect()
        .await?;
    let paths = |prefix: &str, suffix: &str| -> Vec<String> {
        let path = |id| format!("{prefix}{id}{suffix}");
        conversations.iter().map(path).collect()
    };
    let created = file("post", &vec!["/conversations".to_owned(); CONNECTIONS])?;
    let read = file("get", &paths("/conversations/", ""))?;
    let turns = file("turn", &paths("/chats/", "/messages"))?;
    let question = json!({"content": QUESTION}).to_string();

    let mut loads = Vec::new();
    for (method, repeats, body, file) in [
        ("POST", 1, new.to_string(), created),
        ("GET", 1, String::new(), read),
        ("POST", TURNS, question, turns),
    ] {
        wrk(&server, WARM_UP, method, repeats, &body, &file).await?;
        loads.push(wrk(&server, options.seconds(), method, repeats, &body, &file).await?);
    }
    server.stop().await?;
    database.remove().await?;
    Ok(loads)
}

async fn wrk(
    server: &Server,
    time: Duration,
    method: &str,
    repeats: usize,
    body: &str,
    paths: &Path,
) -> Result<Load> {
    let output = Command::new("wrk")
        // A thread for each connection: no two of them speak to one chat.
        .arg(format!("--threads={CONNECTIONS}"))
        .arg(format!("--connections={CONNECTIONS}"))
        .arg(format!("--duration={}s", time.as_secs()))
        .arg(format!("--header=X-Threads: {CONNECTIONS}"))
        .arg(concat!("--script=", env!("CARGO_MANIFEST_DIR"), "/wrk.lua"))
        .arg(&server.url)
        .args(["--", method, &repeats.to_string(), body])
        .arg(paths)
        .stdin(Stdio::null())
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    let load: Load = serde_json::from_str(line.ok_or_else(|| format!("wrk: {text}"))?)?;
    match load.errors {
        0 => Ok(load),
        errors => Err(format!("{method}: {errors} requests failed").into()),
    }
}
