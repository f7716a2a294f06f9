//! The workload "HTTP": `agentkit serve` against the original design's stack, on the same PostgreSQL.

use std::{io::Write, process::Stdio, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
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

#[derive(Default, Deserialize)]
struct Load {
    requests_per_second: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
}

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let contenders = [
        ("agentkit serve".to_owned(), "agentkit serve", Ours(1)),
        (
            "agentkit serve, three servers".to_owned(),
            "three servers",
            Ours(3),
        ),
        (
            format!("{ORIGINAL}, one process"),
            "original/1",
            Original(1),
        ),
        (
            format!("{ORIGINAL}, {cores} processes"),
            "original/cores",
            Original(cores),
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
    for (name, key, contender) in contenders {
        if !options.takes(Kind::Postgres, &name) {
            continue;
        }
        let loads = measure(options, contender).await?;
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

enum Contender {
    /// So many servers on one database.
    Ours(usize),
    /// One server of so many processes.
    Original(usize),
}
use Contender::{Original, Ours};

async fn measure(options: &Options, contender: Contender) -> Result<Vec<Load>> {
    let database = options.database(Kind::Postgres).await?;
    let mut servers = Vec::new();
    match contender {
        Ours(count) => {
            for _ in 0..count {
                servers.push(Server::start(database.url()).await?);
            }
        }
        Original(processes) => {
            // The first one makes the tables, which several at once could not.
            Server::start_original(database.url(), 1)
                .await?
                .stop()
                .await?;
            servers.push(Server::start_original(database.url(), processes).await?);
        }
    }
    database.settle().await?;
    let new = json!({"title": "Planning a trip", "metadata": {"customer": 7}});
    let conversations: Vec<String> = stream::iter(0..CONVERSATIONS)
        .map(async |_| {
            let made = servers[0].post("/conversations", &new).await?;
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
    let created = vec!["/conversations".to_owned(); CONVERSATIONS];
    let read = paths("/conversations/", "");
    let turns = paths("/chats/", "/messages");
    let question = json!({"content": QUESTION}).to_string();

    let mut loads = Vec::new();
    for (method, repeats, body, paths) in [
        ("POST", 1, new.to_string(), created),
        ("GET", 1, String::new(), read),
        ("POST", TURNS, question, turns),
    ] {
        for (time, counts) in [(WARM_UP, false), (options.seconds(), true)] {
            let load = load(&servers, time, method, repeats, &body, &paths).await?;
            loads.extend(counts.then_some(load));
        }
    }
    for server in servers {
        server.stop().await?;
    }
    database.remove().await?;
    Ok(loads)
}

/// The servers share the connections and the paths.
async fn load(
    servers: &[Server],
    time: Duration,
    method: &str,
    repeats: usize,
    body: &str,
    paths: &[String],
) -> Result<Load> {
    let shares = servers.iter().enumerate().map(async |(number, server)| {
        let connections = (CONNECTIONS + number) / servers.len();
        let paths: Vec<_> = paths.iter().skip(number).step_by(servers.len()).collect();
        wrk(server, connections, time, method, repeats, body, &paths).await
    });
    let shares = futures::future::try_join_all(shares).await?;
    Ok(shares.into_iter().fold(Load::default(), |all, share| Load {
        requests_per_second: all.requests_per_second + share.requests_per_second,
        // Of the slowest server.
        p50: all.p50.max(share.p50),
        p99: all.p99.max(share.p99),
    }))
}

async fn wrk(
    server: &Server,
    connections: usize,
    time: Duration,
    method: &str,
    repeats: usize,
    body: &str,
    paths: &[&String],
) -> Result<Load> {
    let mut file = tempfile::NamedTempFile::new()?;
    for path in paths {
        writeln!(file, "{path}")?;
    }
    let output = Command::new("wrk")
        // A thread for each connection: no two of them speak to one chat.
        .arg(format!("--threads={connections}"))
        .arg(format!("--connections={connections}"))
        .arg(format!("--duration={}s", time.as_secs()))
        .arg(format!("--header=X-Threads: {connections}"))
        .arg(concat!("--script=", env!("CARGO_MANIFEST_DIR"), "/wrk.lua"))
        .arg(&server.url)
        .args(["--", method, &repeats.to_string(), body])
        .arg(file.path())
        .stdin(Stdio::null())
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    let found: Value = serde_json::from_str(line.ok_or_else(|| format!("wrk: {text}"))?)?;
    match found["errors"].as_u64() {
        Some(0) => Ok(serde_json::from_value(found)?),
        _ => Err(format!("{method}: {} requests failed", found["errors"]).into()),
    }
}
